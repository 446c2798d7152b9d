"""A, figure 4: the ODE over exact simulations at larger widths."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import escape
from .._ode import solve_ode
from .._overlaps import Overlaps
from .._problem import Problem
from .._simulate import simulate
from .._solution import Exit
from .._statistics import averaged
from ._a_escape import PAPER
from ._frame import COLOURS, Claim, Figure, Job, Results, canvas, seeds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

__all__ = ["A4"]

T = 0.01
LONGEST = 8.0  # horizon of the exits, in t


def paths(*, p: int, d: int, replicas: int, exits: int, t_max: float, seed: int) -> dict[str, Any]:
    """Simulations and the ODE from one random start."""
    problem = Problem("quadratic", gamma=0.1 * p, Delta=1e-4, spherical=True)
    state = Overlaps.random(p, 1, d, rng=seed)
    runs = simulate(problem, state, t_max, d=d, rng=seed, replicas=replicas)
    ode = solve_ode(problem, state, t_max, times=runs.t)
    stopped = simulate(problem, state, LONGEST, d=d, rng=seed + 1, replicas=exits, times=[0.0], stop=Exit(T=T))
    return {
        "t": runs.t,
        "m_run": runs.M[0, :, :, 0].T,
        "m_ode": ode.M[:, :, 0].T,
        "risk_run": runs.risk[0],
        "risk_quantiles": np.quantile(runs.risk, (0.1, 0.9), axis=0),
        "risk_mean": runs.risk.mean(axis=0),
        "risk_ode": ode.risk,
        "largest_gap": np.abs(runs.risk - ode.risk).max(axis=1),
        "exit_times": stopped.exit_time,
        "exit_ode": escape.by_ode(problem, state, T),
        "exit_corrected": escape.corrected(problem, d=d, T=T, state=state),
    }


def _jobs(size: str, seed: int) -> list[Job]:
    settings = {  # p: d, whole runs, runs to the exit
        "tiny": {3: (1000, 8, 64), 2: (1000, 8, 64)},
        "quick": {20: (5000, 16, 64), 5: (5000, 64, 512)},
        "full": {20: (5000, 256, 2048), 5: (5000, 1024, 8192)},
    }[size]
    return [
        Job(f"p={p}", paths, {"p": p, "d": d, "replicas": runs, "exits": exits, "t_max": 3.0, "seed": own})
        for (p, (d, runs, exits)), own in zip(settings.items(), seeds(seed, len(settings)), strict=True)
    ]


def _by_width(results: Results) -> list[str]:
    return sorted(results, key=lambda job: int(results.arguments[job]["p"]))


def _draw(results: Results) -> Drawing:
    figure: Drawing
    figure, axes = canvas(2, len(results), height=3.6, sharex=True)
    for column, job in zip(axes.T, _by_width(results), strict=True):
        _risk(column[0], results, job)
        _overlaps(column[1], results, job)
    axes[0, 0].set_ylabel(r"excess risk $\mathcal{R}-\Delta/2$")
    axes[1, 0].set_ylabel(r"overlaps $m_j$ with the teacher")
    figure.suptitle(r"ODE over exact simulation, from one random start: $\gamma/p=0.1$, $\Delta=10^{-4}$")
    return figure


def _risk(axes: Axes, results: Results, job: str) -> None:
    found, arguments = results[job], results.arguments[job]
    low, high = found["risk_quantiles"]
    count = arguments["replicas"]
    axes.fill_between(
        found["t"], low, high, color=COLOURS[5], alpha=0.35, linewidth=0.0, label=f"central 80 % of {count} simulations"
    )
    axes.plot(found["t"], found["risk_run"], color=COLOURS[0], linewidth=1.0, label="one simulation")
    axes.plot(found["t"], found["risk_mean"], color=COLOURS[1], linestyle="--", label="mean of the simulations")
    axes.plot(found["t"], found["risk_ode"], color="black", linestyle="-.", label="ODE")
    axes.set_title(rf"$p={arguments['p']}$, $d={arguments['d']}$")
    axes.legend()


def _overlaps(axes: Axes, results: Results, job: str) -> None:
    found = results[job]
    for j, (run, ode) in enumerate(zip(found["m_run"], found["m_ode"], strict=True)):
        labels = ("one simulation", "ODE") if j == 0 else (None, None)
        axes.plot(found["t"], run, color=COLOURS[0], linewidth=0.8, alpha=0.8, label=labels[0])
        axes.plot(found["t"], ode, color="black", linewidth=0.9, linestyle="-.", label=labels[1])
    axes.set_xlabel(r"$t = \nu\gamma/(pd)$")
    axes.legend()


def _claims(results: Results) -> list[Claim]:
    claims = []
    for job in _by_width(results):
        found = results[job]
        times, ode = found["exit_times"], float(found["exit_ode"])
        mean, error = averaged(times)
        gap, gap_error = averaged(found["largest_gap"])
        d = results.arguments[job]["d"]
        corrected = float(found["exit_corrected"])
        claims += [
            Claim(
                what=f"{job}, d={d}: exit time of the simulation (T = {T}), expected: corrected for this start",
                ours=mean,
                error=error,
                expected=corrected,
                within=0.02 * corrected + 3.0 * error,
                rule="3 s.e. + 2 %: the corrected formula's own error",
                note=f"the ODE's own is {ode:.4f}: noise adds to what the start knows of the teacher",
            ),
            Claim(
                what=f"{job}, d={d}: exit time of the simulation over that of the ODE",
                ours=mean / ode,
                error=error / ode,
                note="tends to 1 only as 1/log d",
            ),
            Claim(
                what=f"{job}, d={d}: mean over runs of max |R - R_ODE|, t ≤ 3",
                ours=gap,
                error=gap_error,
            ),
        ]
    return claims


A4 = Figure(
    title="The ODE over exact simulation at p = 5 and 20, d = 5000",
    source=f"{PAPER}, figure 4",
    jobs=_jobs,
    draw=_draw,
    claims=_claims,
)
