"""How the cost grows with p, k, d, the number of replicas and of threads."""

from __future__ import annotations

import os

from .clock import Row, medians
from .rhs import in_c
from .simulators import per_step, thread_time


def rows(quick: bool) -> list[Row]:
    """Return one row for each value of each parameter; ratios are to the row before (of one replica: to ideal)."""
    budget = 0.02 if quick else 0.15
    found = []
    for name in ("erf", "quadratic"):
        sizes = [(p, 4) for p in (1, 2, 4, 8, 16, 32, 64)] + [(8, k) for k in (1, 2, 4, 8, 16, 32)]
        before: float | None = None
        for p, k in sizes:
            value = medians(in_c(name, p, k, baseline=False), budget)["compiled"]
            ratio = None if before is None or (p, k) == (8, 1) else value / before
            found.append(Row("growth of the right-hand side", f"{name} ({p},{k})", value, ratio, "row before: growth"))
            before = value
    os.environ["HDSGD_THREADS"] = "1"
    group = "growth of the chain"
    for p in (1, 2, 5, 10, 20, 50):
        value = per_step("erf", p, 1, 3000, steps=max(20, int(budget / (3e-8 * p * p + 1e-7))))
        found.append(Row(group, f"erf ({p},1), per step", value))
    for d in (10**2, 10**4, 10**6, 10**9):
        value = per_step("quadratic", 1, 1, d, steps=int(budget / 5e-6), replicas=1000)
        found.append(Row(group, f"quadratic (1,1), d = {d:.0e}, per step and replica", value))
    for replicas in (1, 8, 64, 1000):
        value = per_step(
            "quadratic", 1, 1, 3000, steps=max(20, int(budget / (1e-8 * replicas + 4e-8))), replicas=replicas
        )
        found.append(Row(group, f"quadratic (1,1), {replicas} replicas, per step and replica", value))
    threads = [thread_time(count, budget) for count in range(1, (os.cpu_count() or 1) + 1)]
    for count, value in enumerate(threads, start=1):
        what = f"quadratic (1,1), 1000 replicas, {count} thread{'s' * (count > 1)}"
        found.append(Row("growth with threads", what, value, threads[0] / value, "one thread"))
    group = "growth of the explicit weights"
    for d in (10**2, 10**3, 10**4, 10**5, 10**6):
        steps = max(20, int(budget / (1e-9 * d)))
        value = per_step("quadratic", 1, 1, d, steps=steps, method="weights", precision="single")
        found.append(Row(group, f"quadratic (1,1), d = {d:.0e}", value / d, than="per step and coordinate"))
    return found
