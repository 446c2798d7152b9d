"""Exact simulation: nanoseconds per step and replica, against the explicit weights, the machine and PyTorch."""

from __future__ import annotations

import importlib.util
import math
import os
import statistics
import time
from typing import Any

import hdsgd

from .clock import Row
from .machine import limits

CHAIN = "overlap chain"
WEIGHTS = "explicit weights"
REFERENCE = 3.0e9  # normals per second of the machine that the aims below were measured on
#: (activation, p, k, replicas): nanoseconds per step and replica aimed at on that machine
AIMS = {
    ("quadratic", 1, 1, 1000): 4.0,
    ("quadratic", 1, 1, 1): 45.0,
    ("erf", 8, 4, 1): 350.0,
    ("erf", 20, 1, 1): 700.0,
}
FASTER = 1.8  # how many times the limit of normals and multiply-adds the weights may take


def per_step(
    name: str, p: int, k: int, d: int, *, steps: int, replicas: int = 1, gamma: float = 1e-3, **options: Any
) -> float:
    """Return the median seconds per step and replica of one simulation on the sphere, by default at a small gamma.

    By the processor's clock, or the wall's where several threads work.
    """
    clock = time.process_time if os.environ.get("HDSGD_THREADS") == "1" else time.perf_counter
    problem = hdsgd.Problem(name, gamma=gamma, Delta=1e-4, spherical=True)
    state = hdsgd.Overlaps.random(p, k, d, rng=1)
    t_max = steps * problem.gamma / (p * d)

    def seconds(t: float) -> float:
        begin = clock()
        hdsgd.simulate(problem, state, t, d=d, replicas=replicas, rng=2, times=[0.0, t], backend="c", **options)
        return clock() - begin

    few = max(1, steps // 10)  # what the two have in common is not the steps' time
    seconds(few * t_max / steps)
    pairs = [(seconds(few * t_max / steps), seconds(t_max)) for _ in range(5)]
    return statistics.median((long - short) / (steps - few) for short, long in pairs) / replicas


def _steps(expected: float, budget: float) -> int:
    """Return how many steps of the expected duration fit."""
    return max(20, int(budget / expected))


def rows(quick: bool) -> list[Row]:
    """Return the rows of both simulators."""
    budget = 0.03 if quick else 0.2  # seconds of each run
    os.environ["HDSGD_THREADS"] = "1"
    scale = REFERENCE / limits(quick).normals
    found = []
    times = {}
    for (name, p, k, replicas), aim in AIMS.items():
        value = per_step(name, p, k, 3000, steps=_steps(aim * 1e-9 * replicas, budget), replicas=replicas)
        times[p, k, replicas] = value
        what = f"{name} ({p},{k}), {replicas} replica{'s' * (replicas > 1)}"
        found.append(Row(CHAIN, what, value, scale * aim * 1e-9 / value, f"{aim:.0f} ns, scaled by normals/s", 1.0))
    near, far = (per_step("quadratic", 1, 1, d, steps=_steps(4e-6, budget), replicas=1000) for d in (10**3, 10**9))
    found.append(Row(CHAIN, "quadratic (1,1), d = 1e9", far, near / far, "d = 1e3", 0.95))
    weights = per_step("quadratic", 1, 1, 3000, steps=_steps(3e-6, budget), method="weights", precision="single")
    batch = times[1, 1, 1000]
    found.append(Row(CHAIN, "quadratic (1,1), per replica", batch, weights / batch, "weights, d = 3000", 300.0))
    found.append(_exit(budget))
    found += [_weights(quick, d, p, k, budget) for d, p, k in ((1000, 1, 1), (3000, 1, 1), (1000, 8, 4), (10000, 6, 3))]
    found.append(_threads(quick, budget))
    return [*found, _torch(quick, weights)]


def _exit(budget: float) -> Row:
    """How much of a wide student's step remains when an exit is looked for after every step, near its level."""
    p, d = 500, 1000
    steps = min(1000, _steps(2e-4, 4 * budget))  # the exit comes after 2447
    free, tested = (
        per_step("quadratic", p, 1, d, steps=steps, gamma=0.1 * p, stop=stop) for stop in (None, hdsgd.Exit(T=0.01))
    )
    return Row(CHAIN, "quadratic (500,1), exit tested", tested, free / tested, "the same without", 0.5)


def limit(quick: bool, d: int, p: int, k: int) -> float:
    """Return the seconds per step that the machine needs for d normals and the multiply-adds on them, one by one."""
    machine = limits(quick)
    return d / machine.normals + d * (2 * p + k + 1) / machine.fma_single


def _weights(quick: bool, d: int, p: int, k: int, budget: float) -> Row:
    bound = limit(quick, d, p, k)
    name = "quadratic" if p == 1 else "erf"
    value = per_step(name, p, k, d, steps=_steps(2 * bound, budget), method="weights", precision="single")
    what = f"{name} ({p},{k}), d = {d}, f32"
    aim = 1 / FASTER if (d, p, k) in ((3000, 1, 1), (10000, 6, 3)) else None
    return Row(WEIGHTS, what, value, bound / value, "normals + multiply-adds", aim)


def _threads(quick: bool, budget: float) -> Row:
    """How much two threads do, as a fraction of what they do on multiply-adds alone."""
    found = []
    for _ in range(3):
        one, two = (thread_time(threads, budget) for threads in (1, 2))
        found.append((one / two / limits(quick).threads, two))
    ratio, value = sorted(found)[1]
    return Row(CHAIN, "quadratic (1,1), 1000 replicas, 2 threads", value, ratio, "two threads of FMA / one", 0.9)


def thread_time(threads: int, budget: float) -> float:
    """Return the seconds per step and replica of 1000 replicas on a number of threads, by the wall clock."""
    d, steps = 3000, max(20, int(budget / 4e-6))
    problem = hdsgd.Problem("quadratic", gamma=1e-3, Delta=1e-4, spherical=True)
    state = hdsgd.Overlaps.random(1, 1, d, rng=1)
    os.environ["HDSGD_THREADS"] = str(threads)
    begin = time.perf_counter()
    hdsgd.simulate(problem, state, steps * 1e-3 / d, d=d, replicas=1000, rng=2, times=[0.0], backend="c")
    os.environ["HDSGD_THREADS"] = "1"
    return (time.perf_counter() - begin) / steps / 1000


def _torch(quick: bool, weights: float) -> Row:
    """One-pass SGD by automatic differentiation, as published torch codes do it."""
    what = "quadratic (1,1), d = 3000, PyTorch SGD"
    if importlib.util.find_spec("torch") is None:
        return Row(WEIGHTS, what, math.nan, than="PyTorch is not installed")
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    d, steps = 3000, 200 if quick else 2000
    teacher = torch.randn(d)
    layer = torch.nn.Linear(d, 1, bias=False)
    optimiser = torch.optim.SGD(layer.parameters(), lr=1e-3)

    def run(count: int) -> float:
        begin = time.process_time()
        for _ in range(count):
            x = torch.randn(d)
            error = (x @ teacher / d**0.5) ** 2 - layer(x) ** 2 / d
            optimiser.zero_grad()
            (0.5 * error**2).sum().backward()
            optimiser.step()
        return (time.process_time() - begin) / count

    run(20)
    value = statistics.median(run(steps) for _ in range(5))
    return Row(WEIGHTS, what, value, value / weights, "the program is faster by")
