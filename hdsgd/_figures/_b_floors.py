"""Figures 4 and 5 of paper B, green learning rates with their floors; and the floors at any learning rate."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from .._expectations import integral
from .._fixed_points import fixed_point
from .._floors import floor
from .._overlaps import Overlaps
from .._problem import Problem
from .._scaling import scaling
from .._simulate import simulate
from .._statistics import averaged
from ._b_runs import DELTA, P0, RISK, SOURCE, K, chain, ode, risk_curve
from ._frame import COLOURS, Claim, Figure, Job, Results, canvas, seeds

NOISES = (1e-4, 1e-3, 1e-2)
DIMENSIONS = [30, *(10**n for n in range(2, 8))]


def floors(*, rates: list[float], Delta: float, copies: bool = False) -> dict[str, Any]:
    """Excess risk of the stable fixed point, or of identical copies of the teachers, at each gamma/p."""
    exact = Overlaps.mixed(np.repeat(np.eye(K), P0 // K, axis=0))
    found = []
    for rate in rates:
        problem = Problem("erf", gamma=rate * P0, Delta=Delta)
        found.append(fixed_point(problem, exact) if copies else floor(problem, P0, K))
    return {
        "rate": rates,
        "risk": [point.risk for point in found],
        "growing": [point.unstable for point in found],
        "fastest": [point.eigenvalues[0].real for point in found],
    }


def measured(*, rate: float, Delta: float, d: int, t: float, replicas: int, seed: int) -> dict[str, Any]:
    """Time average of the excess risk in the exact simulation, from the stable fixed point, over the second half."""
    problem = Problem("erf", gamma=rate * P0, Delta=Delta)
    point = floor(problem, P0, K)
    runs = simulate(
        problem, point.state, t, d=d, replicas=replicas, rng=seed, times=np.linspace(0.5 * t, t, 21)
    ).risk.mean(axis=1)
    mean, error = averaged(runs)
    return {"risk": mean, "error": error, "fixed point": point.risk}


def _simulated(results: Results, prefix: str) -> list[str]:
    return [job for job in results if job.startswith(prefix)]


def _average_claims(results: Results, prefix: str) -> list[Claim]:
    return [
        Claim(
            what=f"{job}: simulated floor over the fixed point's",
            ours=float(results[job]["risk"] / results[job]["fixed point"]),
            error=float(results[job]["error"] / results[job]["fixed point"]),
            expected=1.0,
            within=float(3.0 * results[job]["error"] / results[job]["fixed point"]) + 1.0 / results.arguments[job]["d"],
            rule="3 s.e. + 1/d: the order of what the ODE leaves out",
        )
        for job in _simulated(results, prefix)
    ]


# -------------------------------------------------------------------------------------------- figures 4 and 5


def _green_jobs(delta: str, size: str, seed: int) -> list[Job]:
    dimensions, tau, t, replicas = {
        "tiny": ([30], 10.0, 1.0, 2),
        "quick": ([30, 100, 300], 300.0, 20.0, 8),
        "full": ([30, 100, 300, 1000], 1e4, 50.0, 16),
    }[size]
    grid = {"delta": delta, "Delta": DELTA, "tau": tau, "first": 0.1, "points": 101}
    drawn = dict(zip(dimensions, seeds(seed, len(dimensions)), strict=True))
    repeats = {30: 8, 100: 8, 300: 4, 1000: 1}
    jobs = [Job(f"d = {d}", chain, {**grid, "d": d, "replicas": repeats[d], "seed": drawn[d]}) for d in dimensions]
    for d in dimensions:
        arguments = {"rate": scaling(0, delta).gamma(d), "Delta": DELTA, "d": d, "t": t, "replicas": replicas}
        jobs.append(Job(f"floor, d = {d}", measured, {**arguments, "seed": drawn[d] + 1}))
    rates = [scaling(0, delta).gamma(d) for d in DIMENSIONS]
    return [
        *jobs[::-1],
        *(Job(f"ODE, d = {d}", ode, {**grid, "d": d}) for d in dimensions),
        *(
            Job(f"fixed points {Delta:g}", floors, {"rates": rates, "Delta": Delta})
            for Delta in ((DELTA,) if size == "tiny" else NOISES)
        ),
    ]


def _slope(values: Any) -> float:
    """Exponent of d in the floors, over d = 10^2 ... 10^7."""
    return float(np.polyfit(np.log(DIMENSIONS[1:]), np.log(values["risk"][1:]), 1)[0])


def _green_draw(delta: str, results: Results) -> Any:
    figure, (left, right) = canvas(1, 2, width=5.6)
    point = scaling(0, delta)
    for i, job in enumerate(sorted(_simulated(results, "d = "), key=lambda job: float(job[4:]))):
        risk_curve(left, results, job, color=COLOURS[i], label=f"${job}$")
        risk_curve(left, results, f"ODE, {job}", color=COLOURS[i], lw=1.0)
    left.set(xscale="log", yscale="log", xlabel=rf"$\nu/d^{{{point.samples_exponent}}}$", ylabel=RISK)
    left.set_title(rf"$\kappa=0$, $\delta={point.delta}$, $\Delta=10^{{-3}}$: ODE (lines), exact simulation")
    for i, Delta in enumerate(NOISES):
        if f"fixed points {Delta:g}" not in results:
            continue
        values = results[f"fixed points {Delta:g}"]
        label = rf"$\Delta=10^{{{np.log10(Delta):.0f}}}$: slope ${_slope(values):.4f}$"
        right.plot(DIMENSIONS, values["risk"], "-", color=COLOURS[i], label=label)
    for i, job in enumerate(_simulated(results, "floor, ")):
        d, values = results.arguments[job]["d"], results[job]
        label = "exact simulation" if i == 0 else ""
        right.errorbar(d, values["risk"], values["error"], fmt="o", ms=4, color="black", label=label)
    right.set(xscale="log", yscale="log", xlabel="$d$", ylabel=r"floor $\mathcal{R}_\infty$")
    right.set_title("stable fixed points (lines)")
    for axes in (left, right):
        axes.legend()
    return figure


#: by delta: the floor at d = 1000 and Delta = 1e-3, its printed value, and the slope over d = 10^2 ... 10^7
KNOWN = {"1/2": (2.92e-6, 3e-6, -0.5015), "1/4": (1.693e-5, 1.7e-5, -0.2549)}


def _green_claims(delta: str, results: Results) -> list[Claim]:
    values = results[f"fixed points {DELTA:g}"]
    risk, printed, slope = KNOWN[delta]
    found = [
        Claim(
            what=f"floor at delta = {delta}, d = 1000, Delta = 1e-3",
            ours=float(values["risk"][DIMENSIONS.index(1000)]),
            expected=risk,
            paper=printed,
            within=0.01 * risk,
            rule="1 %: three known digits",
        ),
        Claim(
            what="its exponent of d over d = 1e2 ... 1e7",
            ours=_slope(values),
            expected=slope,
            paper=-float(scaling(0, delta).delta),
            within=0.005,
            rule="0.005: rounding of the known slope",
        ),
    ]
    if results.size == "tiny":
        return found
    if results.size == "full":
        for job in _simulated(results, "d = "):
            run, line = results[job], results[f"ODE, {job}"]
            late = float(run["risk"][run["tau"] >= 0.5 * run["tau"][-1]].mean())
            end = float(line["risk"][line["tau"] >= 0.5 * line["tau"][-1]].mean())
            found.append(Claim(what=f"{job}: simulated R over the ODE's, tau = 5000 to 10000", ours=late / end))
    return found + _average_claims(results, "floor, ")


B4, B5 = (
    Figure(
        f"Green, delta = {delta}: learning curves, and floors that fall with d",
        f"{SOURCE}, figure {number}",
        partial(_green_jobs, delta),
        partial(_green_draw, delta),
        partial(_green_claims, delta),
    )
    for number, delta in ((4, "1/2"), (5, "1/4"))
)

# ----------------------------------------------------------------------------------- floors at any learning rate
#: gamma/p and R_infinity/(Delta gamma/p)
REDUCED = {1e-3: 0.0919, 0.01: 0.0920, 0.0316: 0.0925, 0.1: 0.0937, 0.178: 0.0952, 0.316: 0.0979}
#: at gamma/p = 1, by Delta: the stable fixed point, that of identical copies, and what is printed
BLUE = {1e-2: (1.081e-3, 1.122e-3, 1.1e-3), 1e-3: (1.140e-4, 1.145e-4, 1.15e-4), 1e-4: (1.147e-5, 1.148e-5, 1.15e-5)}


def _floor_jobs(size: str, seed: int) -> list[Job]:
    rates, noises = [*REDUCED, 0.562, 1.0], list(BLUE)
    d, t, replicas = {"tiny": (100, 1.0, 2), "quick": (100, 50.0, 32), "full": (1000, 50.0, 32)}[size]
    simulated = [0.1, 0.316, 1.0]
    jobs = [
        Job(
            f"simulation {rate:g}",
            measured,
            {"rate": rate, "Delta": 1e-2, "d": d, "t": t, "replicas": replicas, "seed": own},
        )
        for rate, own in zip(simulated, seeds(seed, len(simulated)), strict=True)
    ]
    for Delta in noises:
        jobs.append(Job(f"stable {Delta:g}", floors, {"rates": rates, "Delta": Delta}))
        jobs.append(Job(f"copies {Delta:g}", floors, {"rates": rates[3:], "Delta": Delta, "copies": True}))
    return jobs


def _leading() -> float:
    """R_infinity/(Delta gamma/p) as gamma/p -> 0: a quarter of E[s'^2], since the p students contribute equally."""
    return float(integral("J2", "erf", np.ones((2, 2)))) / 4.0


def _floor_draw(results: Results) -> Any:
    figure, axes = canvas()
    for i, Delta in enumerate(BLUE):
        name = rf"$\Delta=10^{{{np.log10(Delta):.0f}}}$"
        for kind, look in (("stable", "-"), ("copies", ":")):
            values = results[f"{kind} {Delta:g}"]
            label = f"{name}, {'stable fixed point' if kind == 'stable' else 'identical copies (unstable)'}"
            reduced = values["risk"] / (Delta * values["rate"])
            axes.plot(values["rate"], reduced, color=COLOURS[i], ls=look, label=label)
    for job in _simulated(results, "simulation "):
        rate, Delta, values = results.arguments[job]["rate"], results.arguments[job]["Delta"], results[job]
        scale = rate * Delta
        label = r"exact simulation, $\Delta=10^{-2}$" if rate == 1.0 else ""
        axes.errorbar(rate, values["risk"] / scale, values["error"] / scale, fmt="o", ms=4, color="black", label=label)
    axes.axhline(_leading(), color="0.5", lw=1.0, ls="--", label=r"$\mathbb{E}[\sigma'(\lambda)^2]/4$")
    axes.set(xscale="log", xlabel=r"$\gamma/p$", ylabel=r"$\mathcal{R}_\infty/(\Delta\gamma/p)$")
    axes.set_title(rf"floors of erf, $p={P0}$, $k={K}$")
    axes.legend()
    return figure


def _floor_claims(results: Results) -> list[Claim]:
    middle = results[f"stable {DELTA:g}"]
    found = [
        Claim(
            what=f"R_infinity/(Delta gamma/p), gamma/p = {rate:g}, Delta = 1e-3",
            ours=float(risk) / (rate * DELTA),
            expected=REDUCED.get(rate, 0.1145),
            within=0.01 * REDUCED.get(rate, 0.1145),
            rule="1 %: three known digits",
        )
        for rate, risk in zip(middle["rate"].tolist(), middle["risk"], strict=True)
        if rate in REDUCED or rate == 1.0
    ]
    for Delta, (stable, copies, printed) in BLUE.items():
        for kind, known in (("stable", stable), ("copies", copies)):
            values = results[f"{kind} {Delta:g}"]
            what = (
                f"blue (gamma/p = 1), Delta = {Delta:g}: floor, {'stable' if kind == 'stable' else 'unstable copies'}"
            )
            paper = printed if kind == "stable" else None
            ours = float(values["risk"][-1])
            rule = "1 %: three known digits"
            found.append(Claim(what=what, ours=ours, expected=known, paper=paper, within=0.01 * known, rule=rule))
        growing = int(results[f"stable {Delta:g}"]["growing"].sum())
        what = f"growing modes at the stable points, Delta = {Delta:g}"
        found.append(Claim(what=what, ours=growing, expected=0.0, within=0.0, rule="exact"))
        rate = float(results[f"copies {Delta:g}"]["fastest"][-1]) / Delta
        found.append(
            Claim(
                what=f"rate at which copies part, over Delta = {Delta:g}",
                ours=rate,
                expected=0.6,
                within=0.03,
                rule="5 %: one known digit",
            )
        )
    return found if results.size == "tiny" else found + _average_claims(results, "simulation ")


FLOORS = Figure(
    "Floors of the blue and green regions",
    f"{SOURCE}, section on the noise floor",
    _floor_jobs,
    _floor_draw,
    _floor_claims,
)
