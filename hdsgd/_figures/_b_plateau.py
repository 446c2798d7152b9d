"""Figure 9 of paper B: starts that know the less of the teacher the larger d is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._fixed_points import fixed_point
from .._ode import solve_ode
from .._overlaps import Overlaps
from .._problem import Problem
from .._solution import Exit
from ._b_runs import DELTA, P0, RISK, SOURCE, K, chain, ode, risk_curve
from ._frame import COLOURS, Claim, Figure, Job, Results, canvas, seeds


def escapes(*, dimensions: list[int], starts: int, Delta: float) -> dict[str, Any]:
    """Times at which ODEs from random starts have left the plateau of students that are all alike, and its rate."""
    problem = Problem("erf", gamma=float(P0), Delta=Delta)
    alike = Overlaps.mixed(np.full((P0, K), 0.3))
    relaxed = solve_ode(problem, Overlaps(alike.Q + 0.1 * np.eye(P0), alike.M, alike.P), 300.0, times=[300.0])
    saddle = fixed_point(problem, relaxed.overlaps(-1))
    times = [
        [
            float(
                solve_ode(
                    problem,
                    Overlaps.random(P0, K, d, rng=start, orthogonal_teacher=True),
                    1e5,
                    times=[0.0],
                    stop=Exit(level=0.5 * saddle.risk),
                ).exit_time
            )
            for start in range(starts)
        ]
        for d in dimensions
    ]
    found: NDArray[np.float64] = np.array(times)
    return {
        "d": dimensions,
        "time": found.mean(axis=1),
        "error": found.std(axis=1, ddof=1) / np.sqrt(starts),
        "risk": saddle.risk,
        "rate": saddle.eigenvalues[0].real,
        "growing": saddle.unstable,
    }


def _uninformed_jobs(size: str, seed: int) -> list[Job]:
    tau, replicas, starts = {"tiny": (10.0, 1, 2), "quick": (2e3, 1, 6), "full": (1e4, 4, 40)}[size]
    dimensions = (30, 100) if size == "tiny" else (30, 100, 300, 1000)
    grid = {"tau": tau, "first": 0.1, "points": 101, "Delta": DELTA, "uninformed": True}
    jobs = [
        Job(f"d = {d}", chain, {**grid, "d": d, "replicas": replicas, "seed": own})
        for d, own in zip(dimensions, seeds(seed, len(dimensions)), strict=True)
    ]
    larger = [100, 1000] if size == "tiny" else [100, 10**3, 10**4, 10**5, 10**6, 10**7, 10**8]
    return [
        *jobs[::-1],
        Job("plateau", escapes, {"dimensions": larger, "starts": starts, "Delta": DELTA}),
        *(Job(f"ODE, d = {d}", ode, {**grid, "d": d}) for d in dimensions),
    ]


def _uninformed_draw(results: Results) -> Any:
    figure, (left, right) = canvas(1, 2, width=5.6)
    dimensions = sorted(results.arguments[job]["d"] for job in results if job.startswith("d = "))
    for i, d in enumerate(dimensions):
        risk_curve(left, results, f"ODE, d = {d}", color=COLOURS[i], label=f"$d={d}$")
        risk_curve(left, results, f"d = {d}", color=COLOURS[i])
    values = results["plateau"]
    left.axhline(float(values["risk"]), color="0.5", lw=0.9, ls=":", label="students all alike (saddle)")
    left.set(xscale="log", yscale="log", xlabel=r"$\nu/d$", ylabel=RISK)
    left.set_title(r"random $W^0$, $\gamma=p_0$, $\Delta=10^{-3}$: ODE (lines), exact simulation")
    right.errorbar(
        values["d"], values["time"], values["error"], fmt="o", ms=4, color=COLOURS[0], label="ODE, mean over starts"
    )
    d, slope = values["d"], 0.5 / float(values["rate"])
    right.plot(
        d,
        values["time"][-1] + slope * np.log(d / d[-1]),
        color="black",
        lw=1.0,
        label=rf"slope $1/(2\omega)$ per $\log d$, $\omega={float(values['rate']):.4g}$",
    )
    right.set(xscale="log", xlabel="$d$", ylabel=r"$\nu/d$ where half of the plateau is left")
    right.set_title(r"the plateau lengthens as $\log d$")
    for axes in (left, right):
        axes.legend()
    return figure


def _uninformed_claims(results: Results) -> list[Claim]:
    values = results["plateau"]
    if results.size == "tiny":
        return [Claim(what="growth rate of the modes that tell students apart, per nu/d", ours=float(values["rate"]))]
    late = slice(-4, None)
    fit, covariance = np.polyfit(
        np.log(values["d"][late]), values["time"][late], 1, w=1.0 / values["error"][late], cov="unscaled"
    )
    slope, error = float(fit[0]), float(np.sqrt(covariance[0, 0]))
    expected = 0.5 / float(values["rate"])
    return [
        Claim(
            what="lengthening of the plateau per log d, d = 1e5 ... 1e8",
            ours=slope,
            error=error,
            expected=expected,
            within=3.0 * error + 0.05 * expected,
            rule="3 s.e. + 5 %: the fit is over finite d",
            note="expected: 1/(2 omega), omega the growth rate at the saddle of students that are all alike",
        ),
        Claim(what="risk of the plateau (saddle)", ours=float(values["risk"])),
    ]


B9 = Figure(
    "Starts that depend on d: a longer plateau",
    f"{SOURCE}, figure 9",
    _uninformed_jobs,
    _uninformed_draw,
    _uninformed_claims,
)
