"""Figure 1 of paper B: the phase diagram, from solved ODEs and exact simulations."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from .._ode import solve_ode
from .._scaling import scaling
from ._b_runs import RISK, SOURCE, at, chain, informed, limit, ode
from ._frame import COLOURS, Claim, Figure, Job, Results, canvas, seeds

P, TEACHERS, NOISE = 4, 2, 1e-2  # p0 = gamma0, k and Delta: large enough to tell blue from green
EDGE = "0.375"  # exponents, of both signs, at which the limits are compared
HUGE = 10**12


def row(*, kappa: str, deltas: list[str], d: int, tau: float) -> dict[str, Any]:
    """Excess risk at time tau by the ODE with all terms, along a row of the diagram; NaN where there is no ODE."""
    found = []
    for delta in deltas:
        point = scaling(kappa, delta, P, P)
        if point.region == "red":
            found.append(np.nan)
            continue
        end = float(point.time(tau, d))
        start = informed(point.p(d), TEACHERS, 0)
        problem = point.problem(d, activation="erf", Delta=NOISE)
        found.append(float(solve_ode(problem, start, end, times=[end], rtol=1e-6, atol=1e-8).risk[-1]))
    return {"risk": found, "p": scaling(kappa, 0, P, P).p(d)}


def _grid(size: str) -> tuple[int, float, list[Fraction], list[Fraction]]:
    """Dimension, time, and the axes."""
    d, tau, step, top = {
        "tiny": (20, 5.0, Fraction(1, 4), Fraction(1, 4)),
        "quick": (50, 300.0, Fraction(1, 8), Fraction(1, 2)),
        "full": (300, 300.0, Fraction(1, 20), Fraction(1, 2)),
    }[size]
    kappas = [n * step for n in range(int(top / step) + 1)]
    deltas = [n * step for n in range(-int(1 / step), int(Fraction(3, 5) / step) + 1)]
    return d, tau, kappas, deltas


def _jobs(size: str, seed: int) -> list[Job]:
    d, tau, kappas, deltas = _grid(size)
    jobs = [
        Job(f"row {i}", row, {"kappa": str(kappa), "deltas": [str(delta) for delta in deltas], "d": d, "tau": tau})
        for i, kappa in enumerate(kappas)
    ][::-1]
    grid = {"tau": tau, "first": tau / 10.0, "points": 2, "p0": P, "k": TEACHERS, "Delta": NOISE}
    cuts = [Fraction(n, 8) for n in ((-3, -2, 0, 2, 3) if size == "tiny" else range(-5, 5))]
    for cut, own in zip(cuts, seeds(seed, len(cuts)), strict=True):
        for dimension in (10**2, 10**3, 10**6, HUGE):
            if cut > Fraction(-1, 2):
                name = f"ODE {float(cut):g}, d = {dimension}"
                jobs.append(Job(name, ode, {**grid, "d": dimension, "delta": str(cut)}))
        name = f"simulation {float(cut):g}"
        last = {"tau": tau * 100 ** max(0.0, float(-1 - 2 * cut)), "d": 100, "replicas": 8, "seed": own}
        jobs.append(Job(name, chain, {**grid, **last, "first": last["tau"] / 10.0, "delta": str(cut)}))
    jobs += [Job(f"limit {delta}", limit, {**grid, "p": P, "delta": delta}) for delta in (f"-{EDGE}", "0", EDGE)]
    return jobs


def _draw(results: Results) -> Any:
    from matplotlib.colors import LogNorm

    d, tau, kappas, deltas = _grid(results.size)
    figure, (left, right) = canvas(1, 2, width=5.8, height=4.4)
    risks = np.array([results[f"row {i}"]["risk"] for i in range(len(kappas))]).T
    mesh = left.pcolormesh(
        [float(kappa) for kappa in kappas], [float(delta) for delta in deltas], risks, norm=LogNorm(), shading="nearest"
    )
    figure.colorbar(mesh, ax=left, label=rf"{RISK} at $\tau={tau:g}$")
    ends = np.array([float(kappas[0]), float(kappas[-1])])
    left.set_facecolor("#e8b4b4")
    for edge, look in ((0.0, "-"), (-0.5, "--")):
        label = rf"$\kappa+\delta={Fraction(edge)}$"
        left.plot(ends, edge - ends, color="white" if edge == 0.0 else "black", ls=look, lw=2.0, label=label)
    left.set(xlabel=r"$\kappa$", ylabel=r"$\delta$")
    left.legend(loc="upper right", frameon=True, facecolor="0.75", framealpha=1.0)
    box = {"boxstyle": "round", "facecolor": "white", "alpha": 1.0, "edgecolor": "none", "pad": 0.2}
    places = {"green: drift": (0.25, 0.3), "blue: both": (0.5, 0.0), "orange: noise": (0.5, -0.25)}
    for name, (along, balance) in {**places, "red: no ODE": (0.3, -0.72)}.items():
        kappa = along * ends[1]
        left.text(kappa, balance - kappa, name, ha="center", va="center", fontsize="small", bbox=box)
    left.set_title(rf"ODE with all terms, $d={d}$, $p={P}\,d^\kappa$, $\gamma={P}\,d^{{-\delta}}$")
    dimensions = sorted({values["d"] for job, values in results.arguments.items() if job.startswith("ODE ")})
    for i, dimension in enumerate(dimensions):
        line = sorted(
            (float(job[4:].split(",")[0]), float(results[job]["risk"][-1]))
            for job, values in results.arguments.items()
            if job.startswith("ODE ") and values["d"] == dimension
        )
        exponent = round(np.log10(dimension))
        name = rf"ODE with all terms, $d=10^{{{exponent}}}$"
        right.plot(*zip(*line, strict=True), ".-", color=COLOURS[i], label=name)
    runs = [(float(job.split()[1]), results[job]) for job in results if job.startswith("simulation ")]
    right.errorbar(
        [cut for cut, _ in runs],
        [run["risk"][-1] for _, run in runs],
        [run["error"][-1] for _, run in runs],
        fmt="o",
        ms=4,
        color="black",
        label="exact simulation, $d=100$",
    )
    right.plot(
        [float(job.split()[1]) for job in results if job.startswith("limit ")],
        [float(results[job]["risk"][-1]) for job in results if job.startswith("limit ")],
        "D",
        ms=7,
        mfc="none",
        color="black",
        label="limit ODEs",
    )
    for edge, look in ((0.0, "-"), (-0.5, "--")):
        right.axvline(edge, color="0.5", ls=look, lw=1.0, label=rf"$\kappa+\delta={Fraction(edge)}$")
    right.set(yscale="log", xlabel=r"$\kappa+\delta$ (at $\kappa=0$)", ylabel=rf"{RISK} at $\tau={tau:g}$")
    right.legend()
    return figure


def _claims(results: Results) -> list[Claim]:
    tau = float(results.arguments["limit 0"]["tau"])
    found = []
    for delta in (f"-{EDGE}", "0", EDGE):
        line = at(results[f"limit {delta}"], tau)
        job = f"ODE {float(delta):g}, d = {HUGE}"
        what = f"{scaling(0, delta).region}, delta = {delta}: R({tau:g}) of the ODE with all terms at d = 1e12"
        found.append(
            Claim(
                what=what,
                ours=at(results[job], tau),
                expected=line,
                within=0.05 * line,
                rule="5 %: terms of relative order d^(-|delta|) times tau",
                note="expected: the limit ODE of the region",
            )
        )
    for cut in ("-0.25", "0", "0.25"):
        run = results[f"simulation {cut}"]
        line = at(results[f"ODE {cut}, d = 100"], tau)
        ours, error = float(run["risk"][-1]) / line, float(run["error"][-1]) / line
        what = f"delta = {cut}, d = 100: simulated R({tau:g}) over that of the ODE with all terms"
        found.append(Claim(what=what, ours=ours, error=error))
    return found


B1 = Figure("The phase diagram", f"{SOURCE}, figure 1", _jobs, _draw, _claims)
