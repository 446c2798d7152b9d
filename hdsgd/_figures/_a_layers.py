"""A, figure 3: the escape with a second layer that is trained, against one that is fixed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._ode import solve_ode
from .._overlaps import Overlaps
from .._problem import Problem
from .._simulate import simulate
from .._statistics import averaged
from ._a_escape import PAPER
from ._frame import COLOURS, Claim, Figure, Job, Results, canvas, seeds

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

__all__ = ["A3"]

Array = NDArray[np.float64]

LEVEL = (
    0.3  # of max_j |m_j|, at which a run has escaped: the risk will not do, since training the second layer lowers it
)
FIXED, TRAINED = 0.0, 1.0  # gamma_a/gamma


def escape(*, p: int, d: int, ratio: float, replicas: int, solved: int, t_max: float, seed: int) -> dict[str, Any]:
    """Simulations from random starts, and the ODE from some of them; the same starts for every ratio."""
    problem = Problem("quadratic", gamma=0.1 * p, Delta=1e-4, spherical=True, second_layer_ratio=ratio)
    state = Overlaps.random(p, 1, d, rng=seed, replicas=replicas)
    runs = simulate(problem, state, t_max, d=d, rng=seed)
    largest = np.abs(runs.M[..., 0]).max(axis=2)
    odes = [solve_ode(problem, state.replica(i), t_max, times=runs.t) for i in range(solved)]
    limits = np.array([np.abs(ode.M[..., 0]).max(axis=1) for ode in odes])
    return {
        "t": runs.t,
        "escape": np.array([_passage(runs.t, path) for path in largest]),
        "escape_ode": np.array([_passage(runs.t, path) for path in limits]),
        "largest": np.quantile(largest, (0.1, 0.5, 0.9), axis=0),
        "largest_ode": limits[0],
        "largest_run": largest[0],
        "a": runs.a.mean(axis=(0, 2)),
        "risk": runs.risk.mean(axis=0),
    }


def _passage(t: Array, path: Array) -> float:
    """The first time at the level, interpolated; nan where it is not reached."""
    i = int(np.argmax(path >= LEVEL))
    if path[i] < LEVEL:
        return math.nan
    return float(t[i] if i == 0 else np.interp(LEVEL, path[i - 1 : i + 1], t[i - 1 : i + 1]))


def _jobs(size: str, seed: int) -> list[Job]:
    settings = {  # p: d, replicas, starts of the ODE, t_max
        "tiny": {4: (200, 8, 2, 1.5), 5: (200, 8, 2, 1.5)},
        "quick": {20: (1000, 64, 16, 2.0)},
        "full": {50: (1000, 256, 64, 2.0), 20: (1000, 1024, 64, 2.0)},
    }[size]
    return [
        Job(
            f"p={p}, {'trained' if ratio else 'fixed'}",
            escape,
            {"p": p, "d": d, "ratio": ratio, "replicas": runs, "solved": solved, "t_max": t_max, "seed": own},
        )
        for (p, (d, runs, solved, t_max)), own in zip(settings.items(), seeds(seed, len(settings)), strict=True)
        for ratio in (FIXED, TRAINED)
    ]


def _widths(results: Results) -> list[int]:
    return sorted({int(arguments["p"]) for arguments in results.arguments.values()})


def _draw(results: Results) -> Drawing:
    widths = _widths(results)
    figure: Drawing
    figure, axes = canvas(len(widths), 2, height=3.6, squeeze=False)
    for row, p in zip(axes, widths, strict=True):
        both = np.concatenate([results[f"p={p}, {kind}"]["escape"] for kind in ("fixed", "trained")])
        bins = np.linspace(0.95 * both.min(), 1.05 * both.max(), int(np.clip(np.sqrt(both.size), 8, 50)))
        for kind, dark, dashes in (("fixed", COLOURS[0], "-"), ("trained", COLOURS[1], "--")):
            found = results[f"p={p}, {kind}"]
            low, middle, high = found["largest"]
            row[0].fill_between(found["t"], low, high, color=dark, alpha=0.2, linewidth=0.0)
            row[0].plot(found["t"], middle, color=dark, linestyle=dashes, label=f"simulation, {kind} second layer")
            row[0].plot(found["t"], found["largest_run"], color=dark, linewidth=0.7, alpha=0.8, linestyle=dashes)
            black = (
                {"color": "black", "linestyle": "-."} if kind == "fixed" else {"color": COLOURS[7], "linestyle": ":"}
            )
            row[0].plot(found["t"], found["largest_ode"], label=f"ODE from one start, {kind}", **black)
            times = found["escape"]
            shares, _ = np.histogram(times, bins, density=True)
            text = rf"{kind}: ${times.mean():.4f} \pm {averaged(times)[1]:.4f}$"
            row[1].stairs(shares, bins, color=dark, linestyle=dashes, linewidth=1.4, label=text)
        d = results.arguments[f"p={p}, fixed"]["d"]
        row[0].axhline(LEVEL, color="0.6", linewidth=1.0, linestyle=":")
        row[0].set_title(rf"$p={p}$, $d={d}$: median, central 80 % and one run")
        row[0].set_ylabel(r"$\max_j |m_j|$")
        row[0].legend(loc="lower right")
        row[1].set_ylabel("density")
        row[1].margins(y=0.3)
        row[1].legend(loc="upper right", title="second layer")
    axes[-1, 0].set_xlabel(r"$t = \nu\gamma/(pd)$")
    axes[-1, 1].set_xlabel(rf"first $t$ with $\max_j |m_j| \geq {LEVEL:g}$")
    figure.suptitle(r"Second layer trained: $\gamma_a=\gamma$, $a(0)=1$, $\gamma/p=0.1$, $\Delta=10^{-4}$")
    return figure


def _claims(results: Results) -> list[Claim]:
    claims = []
    for p in _widths(results):
        fixed, trained = (results[f"p={p}, {kind}"] for kind in ("fixed", "trained"))
        times, others = fixed["escape"], trained["escape"]
        (before, error), (after, other) = averaged(times), averaged(others)
        error = math.hypot(error, other)
        claims.append(
            Claim(
                what=f"p={p}: escape time with training, expected without",
                ours=after,
                expected=before,
                error=error,
                within=3.0 * error,
                note="the error is that of the difference, as if the runs were independent",
            )
        )
        change, change_error = averaged(others / before - times / before)
        solved, solved_error = averaged((trained["escape_ode"] - fixed["escape_ode"]) / before)
        claims.append(
            Claim(
                what=f"p={p}: relative change of the escape time by training, same starts and inputs",
                ours=change,
                error=change_error,
                expected=solved,
                note="expected: the ODE from the same starts (on average over those of them that were solved, "
                f"± {solved_error:.1g}). Not judged: the ODE leaves out the noise, which shortens both by more "
                "than this change. Pairs share starts and inputs, which resolves a change "
                "far below the spread of the escape time: first a falls by up to 2/(p+2), later it grows",
            )
        )
    return claims


A3 = Figure(
    title="The second layer trained: escape time read from max |m_j|",
    source=f"{PAPER}, figure 3",
    jobs=_jobs,
    draw=_draw,
    claims=_claims,
)
