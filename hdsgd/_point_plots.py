"""Pictures of fixed points and of the plateaus of a trajectory; matplotlib is imported when one is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ._plots import COLOURS, new_figure, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["itinerary_figure", "point_figure"]

# of a mode: its kind, colour and marker
MODES = (("growing", COLOURS[1], "^"), ("marginal", COLOURS[7], "o"), ("decaying", COLOURS[0], "v"))
TIE = 1e-3  # rates that differ by less, relative to them, are marked as one with its multiplicity
CLOSE = 0.04  # texts nearer than this part of the axis would overlap
FRAME: dict[str, Any] = {"frameon": True, "framealpha": 0.85, "edgecolor": "none", "fontsize": "small"}


def point_figure(point: Any) -> Figure:
    """Draw the rates of a fixed point, and its overlaps."""
    figure = new_figure()(figsize=(9.0, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    _spectra(left, [point])
    left.set_xticks([])
    left.set_xlabel("")
    state = point.state
    both = np.hstack((state.Q, state.M))
    size = float(np.abs(both).max()) or 1.0
    figure.colorbar(right.imshow(both, cmap="PuOr", vmin=-size, vmax=size), ax=right, shrink=0.8)
    right.axvline(state.p - 0.5, color="black", linewidth=1.0)
    right.set_xticks([(state.p - 1) / 2, state.p + (state.k - 1) / 2], ["$Q$", "$M$"])
    right.set_yticks([])
    right.set_ylabel("students")
    figure.suptitle(_kind(point), fontsize="medium")
    return figure


def itinerary_figure(itinerary: Any) -> Figure:
    """Draw a trajectory's risk with the height and length of its plateaus, and the rates of each fixed point."""
    sol, visits = itinerary.solution, itinerary.visits
    figure = new_figure()(figsize=(11.5, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    left.plot(sol.t, sol.risk, color="black", linewidth=1.6)
    positive = sol.risk[sol.risk > 0.0]
    if positive.size and positive.max() > 30.0 * positive.min():
        left.set_yscale("log")
    for i, visit in enumerate(visits):
        colour, end = COLOURS[i % len(COLOURS)], min(visit.end, float(sol.t[-1]))
        left.axvspan(visit.begin, end, color=colour, alpha=0.15, linewidth=0.0)
        length = "to the end" if visit.end == np.inf else rf"$\Delta t={visit.length:.3g}$"
        label = f"{i + 1}: {_kind(visit.point)}, {length}"
        left.plot([visit.begin, end], [visit.height] * 2, color=colour, linewidth=4.0, alpha=0.6, label=label)
    left.set_xlim(0.0, float(sol.t[-1]) or 1.0)
    left.set_xlabel(r"$t = \nu\gamma/(pd)$")
    left.set_ylabel(r"excess risk $\mathcal{R}-\Delta/2$")
    if visits:
        left.legend(**FRAME)
        _spectra(right, [visit.point for visit in visits])
    else:
        right.set_axis_off()
    left.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title(sol), fontsize="medium")
    return figure


def _kind(point: Any) -> str:
    index = f" of index {point.unstable}" if point.unstable else ""
    return rf"{point.kind}{index}, $\mathcal{{R}}-\Delta/2={point.risk:.4g}$"


def _spectra(axes: Axes, points: Any) -> None:
    """The rates of each fixed point in a column, those that agree with their number."""
    seen: set[str] = set()
    sizes, groups = [], []
    for column, point in enumerate(points, start=1):
        rates = point.eigenvalues.real
        grows, decays = rates > point.tolerance, rates < -point.tolerance
        sizes.append(np.abs(rates[grows | decays]))
        for (kind, colour, marker), chosen in zip(MODES, (grows, ~(grows | decays), decays), strict=True):
            if not chosen.any():
                continue
            values, label = rates[chosen], None if kind in seen else kind
            seen.add(kind)
            axes.plot(np.full(values.size, column), values, marker, color=colour, alpha=0.7, label=label)
            ends = np.flatnonzero(-np.diff(values) > TIE * np.abs(values[1:]) + 2.0 * point.tolerance) + 1
            groups += [(column, group) for group in np.split(values, ends)]
    every = np.concatenate(sizes)
    if every.size and every.max() > 30.0 * every.min():
        axes.set_yscale("symlog", linthresh=10.0 ** np.floor(np.log10(every.min())))
    _multiplicities(axes, groups)
    axes.axhline(0.0, color="0.6", linewidth=0.8, zorder=0)
    axes.set_xlim(0.5, len(points) + 0.7)
    axes.set_xticks(range(1, len(points) + 1))
    axes.set_xlabel("fixed point")
    axes.set_ylabel("rates of the modes, per unit of $t$")
    axes.legend(**FRAME)
    axes.spines[["top", "right"]].set_visible(False)


def _multiplicities(axes: Axes, groups: list[tuple[int, Any]]) -> None:
    """The sizes of groups of equal rates beside them; those that would overlap in one text, from above."""
    height = axes.yaxis.get_transform().transform
    bottom, top = height(np.array(axes.get_ylim()))
    texts: list[tuple[int, list[float], str]] = []
    for column, group in groups:
        if group.size == 1:
            continue
        at = float(height(np.array([group.mean()]))[0])
        if texts and texts[-1][0] == column and texts[-1][1][-1] - at < CLOSE * (top - bottom):
            _, places, text = texts.pop()
            texts.append((column, [*places, at], rf"{text}, $\times{group.size}$"))
        else:
            texts.append((column, [at], rf"$\times{group.size}$"))
    for column, places, text in texts:
        at = float(axes.yaxis.get_transform().inverted().transform(np.array([np.mean(places)]))[0])
        axes.annotate(text, (column, at), (9, 0), textcoords="offset points", va="center", fontsize="small")
