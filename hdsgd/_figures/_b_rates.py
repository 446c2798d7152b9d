"""Figure 6 of paper B: slower learning rates, and what their lower floors cost."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from .._floors import floor
from .._ode import solve_ode
from .._scaling import scaling
from .._solution import Exit
from ._b_runs import DELTA, P0, RISK, SOURCE, K, chain, informed, ode
from ._frame import COLOURS, Claim, Figure, Job, Results, canvas, seeds

RATES = ("0", "0.25", "0.375", "0.5")
LEVEL = 1e-3  # of the excess risk, between the plateau and all floors


def samples(*, delta: str, dimensions: list[int], level: float) -> dict[str, Any]:
    """Samples until the ODE with all terms first passes a level of the risk, and its floor."""
    point, found, floors = scaling(0, delta, P0, P0), [], []
    for d in dimensions:
        problem = point.problem(d, activation="erf", Delta=DELTA)
        end = solve_ode(problem, informed(P0, K, 0), 1e4, times=[0.0], stop=Exit(level=level)).exit_time
        found.append(float(end) * P0 * d / problem.schedule(0.0))
        floors.append(floor(problem, P0, K).risk)
    return {"d": dimensions, "samples": found, "floor": floors}


def _slopes(values: Any, name: str) -> float:
    """Exponent of d, from the two largest dimensions."""
    d, y = np.log(values["d"][-2:]), np.log(values[name][-2:])
    return float((y[1] - y[0]) / (d[1] - d[0]))


def _tradeoff_jobs(size: str, seed: int) -> list[Job]:
    d, alpha, replicas = {"tiny": (100, 100.0, 1), "quick": (300, 3e3, 1), "full": (1000, 1e5, 1)}[size]
    jobs, lines = [], []
    for delta, own in zip(RATES, seeds(seed, len(RATES)), strict=True):
        step = scaling(0, delta, P0, P0).step_time(d)
        grid = {
            "d": d,
            "delta": delta,
            "Delta": DELTA,
            "tau": alpha * d * step,
            "first": 0.1 * d * step,
            "points": 101,
        }
        jobs.append(Job(f"simulation {delta}", chain, {**grid, "replicas": replicas, "seed": own}))
        lines.append(Job(f"ODE {delta}", ode, grid))
        dimensions = [10**n for n in range(2, 4 if size == "tiny" else 8)]
        lines.append(Job(f"samples {delta}", samples, {"delta": delta, "dimensions": dimensions, "level": LEVEL}))
    return jobs + lines


def _tradeoff_draw(results: Results) -> Any:
    figure, (left, right) = canvas(1, 2, width=5.6)
    d = results.arguments["simulation 0"]["d"]
    for i, delta in enumerate(RATES):
        name = rf"$\gamma=p_0d^{{-{Fraction(delta)}}}$" if delta != "0" else r"$\gamma=p_0$"
        step = scaling(0, delta, P0, P0).step_time(d)
        for job in (f"ODE {delta}", f"simulation {delta}"):
            values = results[job]
            later = values["tau"] > 0.0
            look = {"color": COLOURS[i]}
            look |= {"label": name} if job.startswith("ODE") else {"ls": "", "marker": "o", "ms": 2.5}  # type: ignore[dict-item]
            every = slice(None) if job.startswith("ODE") else slice(None, None, 3)
            left.plot(values["tau"][later][every] / (step * d), values["risk"][later][every], **look)
        values = results[f"samples {delta}"]
        label = rf"$\delta={Fraction(delta)}$: slope {_slopes(values, 'samples'):.3f}"
        right.plot(values["d"], values["samples"], "o-", color=COLOURS[i], ms=4, label=label)
    left.set(xscale="log", yscale="log", xlabel=r"$\nu/d$", ylabel=RISK)
    left.set_title(rf"$d={d}$, $\Delta=10^{{-3}}$: ODE (lines), one exact simulation each")
    right.set(xscale="log", yscale="log", xlabel="$d$", ylabel=r"samples $n$ until $\mathcal{R}-\Delta/2=10^{-3}$")
    right.set_title(r"what a floor $\sim d^{-\delta}$ costs: $n\sim d^{1+\delta}$")
    for axes in (left, right):
        axes.legend()
    return figure


def _tradeoff_claims(results: Results) -> list[Claim]:
    found = []
    d = results.arguments["simulation 0"]["d"]
    for delta in RATES:
        values, exact = results[f"samples {delta}"], float(Fraction(delta))
        last = int(values["d"][-1])
        within, rule = None if results.size == "tiny" else 0.02, "0.02: finite d"
        for name, what, expected in (
            ("samples", f"samples to R = {LEVEL:g}", 1.0 + exact),
            ("floor", "floor", 0.0 - exact),
        ):
            what = f"delta = {delta}: exponent of the {what}, d up to {last:.0e}"
            found.append(Claim(what=what, ours=_slopes(values, name), expected=expected, within=within, rule=rule))
        if results.size == "full":
            step = scaling(0, delta, P0, P0).step_time(d)
            stable = floor(scaling(0, delta, P0, P0).problem(d, activation="erf", Delta=DELTA), P0, K).risk
            late = {}
            for job in ("simulation", "ODE"):
                run = results[f"{job} {delta}"]
                late[job] = float(run["risk"][run["tau"] >= 0.3 * run["tau"][-1]].mean())
            when = f"delta = {delta}, d = {d}, nu/d from {0.3 * run['tau'][-1] / (step * d):.0e} on"
            found += [
                Claim(
                    what=f"{when}: simulated R over the ODE's",
                    ours=late["simulation"] / late["ODE"],
                    expected=1.0,
                    within=0.05,
                    rule="5 %: fluctuations of one run, averaged over its last 70 %",
                ),
                Claim(what=f"{when}: the ODE's R over its stable fixed point", ours=late["ODE"] / stable),
            ]
    return found


B6 = Figure(
    "Slower learning rates: lower floors, more samples",
    f"{SOURCE}, figure 6",
    _tradeoff_jobs,
    _tradeoff_draw,
    _tradeoff_claims,
)
