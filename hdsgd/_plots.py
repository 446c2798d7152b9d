"""Figures of a solution, in the papers' notation; matplotlib is imported only here, when something is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["trajectories"]

# Okabe and Ito's palette: distinct for every common colour vision deficiency.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MAX_CURVES = 8


def trajectories(sol: Any) -> Figure:
    """Risk, teacher-student overlaps M and student-student overlaps Q against t."""
    figure_class = _figure()
    figure = figure_class(figsize=(12.0, 3.6), layout="constrained")
    risk, m, q = figure.subplots(1, 3)
    ensemble = sol.replicas is not None
    _curves(risk, sol.t, [("", sol.risk)], ensemble)
    positive = sol.risk[np.isfinite(sol.risk) & (sol.risk > 0.0)]
    if positive.size and positive.max() > 30.0 * positive.min():
        risk.set_yscale("log")
    risk.set_ylabel(r"excess risk $\mathcal{R}-\Delta/2$")
    pairs = [(j, r) for j in range(sol.p) for r in range(sol.k)]
    _curves(m, sol.t, [(rf"$m_{{{j + 1}{r + 1}}}$", sol.M[..., j, r]) for j, r in pairs], ensemble)
    m.set_ylabel(r"teacher–student overlaps $M$")
    pairs = [(j, l) for j in range(sol.p) for l in range(j, sol.p)]
    _curves(q, sol.t, [(rf"$q_{{{j + 1}{l + 1}}}$", sol.Q[..., j, l]) for j, l in pairs], ensemble)
    q.set_ylabel(r"student–student overlaps $Q$")
    for axes in (risk, m, q):
        axes.set_xlabel(r"$t = \nu\gamma/(pd)$")
        if ensemble is False and np.isfinite(sol.exit_time):
            axes.axvline(sol.exit_time, color="0.5", linestyle=":", linewidth=1.0)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(_title(sol), fontsize="medium")
    return figure


def _curves(axes: Axes, t: Any, curves: list[tuple[str, Any]], ensemble: bool) -> None:
    """One line per curve; an ensemble is its median over running replicas with the central 80 %."""
    many = len(curves) > MAX_CURVES
    marker = "o" if t.size == 1 else None
    for i, (label, values) in enumerate(curves):
        style: dict[str, Any] = {
            "color": COLOURS[i % len(COLOURS)],
            "linewidth": 1.0 if many else 1.6,
            "marker": marker,
        }
        if not many and i % 2:
            style["linestyle"] = "--"  # told apart in black and white, too
        shown = None if many or not label else label
        if not ensemble:
            axes.plot(t, values, label=shown, **style)
            continue
        running = np.isfinite(values).any(axis=0)
        if not running.any():
            continue
        low, middle, high = np.nanquantile(values[:, running], (0.1, 0.5, 0.9), axis=0)
        axes.plot(t[running], middle, label=shown, **style)
        if not many:
            axes.fill_between(t[running], low, high, color=style["color"], alpha=0.2, linewidth=0.0)
    if not many and any(label for label, _ in curves):
        axes.legend(frameon=False, fontsize="small", ncols=2 if len(curves) > 4 else 1)
    elif many:
        axes.annotate(
            f"{len(curves)} entries", (0.98, 0.98), xycoords="axes fraction", ha="right", va="top", fontsize="small"
        )


def _title(sol: Any) -> str:
    problem = sol.problem
    parts = [
        problem.student.name
        if problem.teacher == problem.student
        else f"{problem.student.name} on {problem.teacher.name}"
    ]
    parts += [rf"$p={sol.p}$", rf"$k={sol.k}$", rf"$\gamma={problem.gamma:g}$", rf"$\Delta={problem.Delta:g}$"]
    if sol.d is not None:
        parts.append(rf"$d={sol.d}$")
    if problem.spherical:
        parts.append("spherical")
    if sol.replicas is not None:
        parts.append(f"{sol.replicas} replicas (median, central 80 %)")
    return ", ".join(parts)


def _figure() -> type[Figure]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("plotting needs matplotlib; install it with: pip install 'hdsgd[plot]'.") from None
    return Figure
