"""Mean field: very wide students by p(k + 1) equations, against the full ones."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from .._mean_field import MeanField, mean_field
from .._ode import solve_ode
from .._overlaps import Overlaps
from .._problem import Problem
from ._frame import COLOURS, Claim, Figure, Job, Results, canvas, seeds

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

__all__ = ["D1"]

Array = NDArray[np.float64]

PAPER = "Arnaboldi, Stephan, Krzakala, Loureiro 2023 (arXiv 2302.05882)"
LAST = 8.0
NAMES = {"quadratic": "x^2", "erf": r"\mathrm{erf}(x/\sqrt{2})"}


def graded(p: int) -> MeanField:
    """Students at the quantiles of one distribution, the same at every width: overlaps of 0.3, norms about 0.8."""
    levels = (np.arange(p) + 0.5) / p
    return MeanField(0.3 * ndtri(levels)[:, None], 0.5 + 0.5 * levels, [[1.0]])


def width(*, name: str, p: int, full: bool) -> dict[str, Any]:
    """Risk of the reduced equations, and of the full ones, from a start without overlaps outside the teacher's span."""
    start, problem, t = graded(p), Problem(name, gamma=0.0), np.linspace(0.0, LAST, 33)
    reduced = mean_field(problem, start, LAST, times=t, rtol=1e-7)
    values = {"t": t, "reduced": reduced.risk, "seconds": reduced.stats["wall_time"]}
    if full:
        state = Overlaps(start.M @ start.M.T + np.diag(start.q), start.M, start.P)
        values["full"] = solve_ode(problem, state, LAST, times=t, rtol=1e-7, method="DOP853").risk
    return values


def dimension(*, name: str, p: int, d: int, seed: int) -> dict[str, Any]:
    """Risk from random weights in a low dimension: full, and reduced without and with the corrections."""
    problem, t = Problem(name, gamma=0.0), np.linspace(0.0, 4.0, 33)
    state = Overlaps.random(p, 1, d, rng=seed, spherical=False)
    plain, corrected = (mean_field(problem, state, 4.0, times=t, d=given) for given in (None, d))
    full = solve_ode(problem, state, 4.0, times=t, rtol=1e-7, method="DOP853")
    return {"t": t, "plain": plain.risk, "corrected": corrected.risk, "full": full.risk}


def _jobs(size: str, seed: int) -> list[Job]:
    widths, widest, low = {
        "tiny": ([10, 20, 30], 1000, [(30, 15)]),
        "quick": ([10, 20, 40, 80], 10**3, [(100, 20)]),
        "full": ([10, 20, 40, 80, 160], 10**5, [(200, 20)]),
    }[size]
    return [
        *(Job(f"{name}, p={widest}", width, {"name": name, "p": widest, "full": False}) for name in NAMES),
        *(
            Job(f"d={d}, p={p}", dimension, {"name": "quadratic", "p": p, "d": d, "seed": own})
            for (p, d), own in zip(low, seeds(seed, len(low)), strict=True)
        ),
        *(Job(f"{name}, p={p}", width, {"name": name, "p": p, "full": True}) for p in widths[::-1] for name in NAMES),
    ]


def _gaps(results: Results, name: str) -> tuple[Array, Array]:
    """Widths, and the largest difference of the risk along the trajectory."""
    jobs = [job for job in results if job.startswith(f"{name},") and "full" in results[job]]
    jobs.sort(key=lambda job: int(results.arguments[job]["p"]))
    widths = np.array([results.arguments[job]["p"] for job in jobs], dtype=float)
    return widths, np.array([np.abs(results[job]["full"] - results[job]["reduced"]).max() for job in jobs])


def _widest(results: Results, name: str) -> str:
    return max((job for job in results if job.startswith(f"{name},")), key=lambda job: results.arguments[job]["p"])


def _low(results: Results) -> str:
    return next(job for job in results if job.startswith("d="))


def _draw(results: Results) -> Drawing:
    figure: Drawing
    figure, (left, middle, right) = canvas(1, 3, width=4.6, height=3.8)
    for n, (name, formula) in enumerate(NAMES.items()):
        wide, colour = _widest(results, name), COLOURS[n]
        found = results[wide]
        left.plot(
            found["t"],
            found["reduced"],
            color=colour,
            label=rf"${formula}$: mean field, $p=10^{{{math.log10(results.arguments[wide]['p']):.2g}}}$",
        )
        for width_shown, marker in zip(_gaps(results, name)[0][[0, -1]].astype(int), "vo", strict=True):
            full = results[f"{name}, p={width_shown}"]
            left.plot(
                full["t"][::2],
                full["full"][::2],
                marker,
                color=colour,
                markersize=4,
                label=f"full equations, $p={width_shown}$",
            )
        p, gap = _gaps(results, name)
        middle.plot(p, gap, "o", color=colour, label=f"${formula}$")
        middle.plot(p, gap[-1] * p[-1] / p, color=colour, linewidth=1.0, linestyle=":")
    middle.plot([], [], color="0.4", linewidth=1.0, linestyle=":", label=r"$\propto 1/p$")
    left.set(xlabel="$t$", ylabel=r"excess risk $\mathcal{R}$", yscale="log")
    middle.set(xlabel="student width $p$", ylabel="largest error of the risk along $t$", xscale="log", yscale="log")
    ticks = sorted({int(p) for name in NAMES for p in _gaps(results, name)[0]})
    middle.set_xticks(ticks, map(str, ticks))
    middle.minorticks_off()
    low = results[_low(results)]
    for name, look, label in (
        ("full", {"color": "black", "marker": ".", "linestyle": ""}, "full equations"),
        ("plain", {"color": COLOURS[1], "linestyle": "--"}, r"mean field, $d\to\infty$"),
        ("corrected", {"color": COLOURS[0]}, "mean field with corrections in $1/(d-k)$"),
    ):
        right.plot(low["t"], low[name], label=label, **look)
    right.set(
        xlabel="$t$",
        ylabel=r"excess risk $\mathcal{R}$",
        title=rf"${NAMES['quadratic']}$, random weights, ${_low(results)}$",
    )
    for panel in (left, middle, right):
        panel.legend()
    return figure


def _claims(results: Results) -> list[Claim]:
    claims = []
    for name in NAMES:
        p, gap = _gaps(results, name)
        claims.append(
            Claim(
                what=f"{name}: exponent of p in the error of the risk, two largest widths",
                ours=float(np.log(gap[-1] / gap[-2]) / np.log(p[-1] / p[-2])),
                expected=-1.0,
                within=0.5 if results.size == "tiny" else 0.15,
                rule="chosen: the next power of 1/p bends the line at these widths",
                note=f"at p = {p[-1]:g} the error is {gap[-1]:.2g}",
            )
        )
        wide = _widest(results, name)
        claims.append(Claim(what=f"{wide}: seconds of the solver", ours=float(results[wide]["seconds"])))
    low = results[_low(results)]
    errors = {name: np.abs(low[name] - low["full"]).max() for name in ("plain", "corrected")}
    claims.append(
        Claim(
            what=f"quadratic, {_low(results)}: error of the risk with corrections over that without",
            ours=float(errors["corrected"] / errors["plain"]),
            expected=0.0,
            within=None if results.size == "tiny" else 0.2,
            rule="a fifth: what is left is of the next order in 1/(d - k) and in 1/p",
        )
    )
    return claims


D1 = Figure("Mean field: very wide students", PAPER, _jobs, _draw, _claims)
