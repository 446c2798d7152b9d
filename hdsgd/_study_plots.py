"""Pictures of the studies of the escape; matplotlib is imported when one is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ._plots import COLOURS, histogram, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["study_figure"]

# name, label, colour, line style, marker
FORMULAS = (
    ("annealed", "annealed", COLOURS[2], ":", "s"),
    ("quenched", "quenched", COLOURS[1], "--", "o"),
    ("plain", "corrected, plain", COLOURS[5], "-.", "v"),
    ("full", "corrected, full", COLOURS[0], "-", "D"),
)
RUNS = {"simulation": (COLOURS[6], "-"), "SDE": (COLOURS[3], "--"), "ODE": (COLOURS[7], "-.")}
SIMULATED: dict[str, Any] = {"color": "black", "linestyle": "none", "marker": "o", "capsize": 3, "zorder": 5}


def study_figure(study: Any) -> Figure:
    """Draw a study of the escape."""
    figure = new_figure()(figsize=(7.0, 4.6), layout="constrained")
    panels = _panels(figure, study)
    for axes, chosen in panels:
        DRAW[study.study](axes, study, chosen)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].legend(frameon=True, framealpha=0.85, edgecolor="none", fontsize="small")
    points, settings = study.points, study.settings
    parts = [
        rf"${symbol}={values[0]:g}$" for symbol, values in (("p", points["p"]), ("d", points["d"])) if _same(values)
    ]
    if "rate" in settings:
        parts.append(rf"$\gamma/p={settings['rate']:g}$")
    parts += [rf"$\Delta={settings['Delta']:g}$", rf"$T={settings['T']:g}$"]
    figure.suptitle("Escape from mediocrity: " + ", ".join(parts), fontsize="medium")
    return figure


def _panels(figure: Figure, study: Any) -> list[tuple[Axes, Any]]:
    """One panel for each p (against d), or each d (against p)."""
    by = {"dimension": "p", "ratio": "d"}.get(study.study)
    if by is None:
        return [(figure.subplots(), np.ones(study.points["p"].size, dtype=bool))]
    kinds = np.unique(study.points[by])
    figure.set_size_inches(max(7.0, 4.2 * kinds.size), 4.6)
    panels = np.atleast_1d(figure.subplots(1, kinds.size, sharey=study.study == "ratio"))
    for axes, kind in zip(panels, kinds, strict=True):
        if kinds.size > 1:
            axes.set_title(f"${by}={kind}$", fontsize="medium")
    return [(axes, study.points[by] == kind) for axes, kind in zip(panels, kinds, strict=True)]


def _distribution(axes: Axes, study: Any, chosen: Any) -> None:
    every = np.concatenate(list(study.exit_times.values()))
    last = float(np.nanquantile(every, 0.995))
    for name, values in study.exit_times.items():
        colour, style = RUNS[name]
        histogram(axes, values, last, name, color=colour, linestyle=style)
    points = study.points
    axes.axvline(
        points["mean"][0], color="black", linewidth=2.5, alpha=0.35, label=f"simulation, mean {points['mean'][0]:.3f}"
    )
    for name, label, colour, style, _ in FORMULAS:
        if np.isfinite(points[name][0]):
            text = f"{label} {points[name][0]:.3f}"
            axes.axvline(points[name][0], color=colour, linestyle=style, linewidth=1.5, label=text)
    axes.set_xlim(0.0, last)
    axes.set_xlabel(r"exit time $t_{\rm ext}$")
    axes.set_ylabel("density")


def _dimension(axes: Axes, study: Any, chosen: Any) -> None:
    points = {name: values[chosen] for name, values in study.points.items()}
    for name, label, colour, style, _ in FORMULAS:
        axes.plot(points["d"], points[name], color=colour, linestyle=style, linewidth=1.5, label=label)
    _simulated(axes, points, "d", np.ones(points["d"].size))
    axes.set_xscale("log")
    axes.set_xlabel("input dimension $d$")
    axes.set_ylabel(r"mean exit time $t_{\rm ext}$")


def _gamma(axes: Axes, study: Any, chosen: Any) -> None:
    curves = study.curves
    for name, label, colour, style, _ in FORMULAS:
        n = curves[name] * curves["samples_per_t"]
        axes.plot(curves["gamma"], n, color=colour, linestyle=style, linewidth=1.5, label=label)
    _simulated(axes, study.points, "gamma", study.points["samples_per_t"])
    for (by, gamma), (colour, style) in zip(study.optima.items(), ((COLOURS[1], ":"), (COLOURS[0], ":")), strict=False):
        label = rf"$\gamma_{{\rm opt}}={gamma:.3g}$ ({by})"
        axes.axvline(gamma, color=colour, linestyle=style, linewidth=1.2, label=label)
    axes.set_yscale("log")
    axes.set_xlabel(r"learning rate $\gamma$")
    axes.set_ylabel(r"samples $n=t_{\rm ext}\,pd/\gamma$")


def _simulated(axes: Axes, points: Any, x: str, scale: Any) -> None:
    label = r"exact simulation ($\pm$ 2 s.e.)"
    error = 2.0 * points["error"] * scale
    axes.errorbar(points[x], points["mean"] * scale, yerr=error, markersize=4, label=label, **SIMULATED)


def _ratio(axes: Axes, study: Any, chosen: Any) -> None:
    points = {name: values[chosen] for name, values in study.points.items()}
    axes.axhspan(0.97, 1.03, color="0.92", zorder=0)
    axes.axhline(1.0, color="0.5", linewidth=1.0, zorder=0)
    for name, label, colour, style, marker in FORMULAS:
        ratio = points["mean"] / points[name]
        axes.errorbar(
            points["p"],
            ratio,
            yerr=2.0 * points["error"] / points[name],
            label=label,
            color=colour,
            linestyle=style,
            marker=marker,
            markersize=4,
            capsize=3,
            linewidth=1.3,
        )
    axes.set_xscale("log")
    axes.set_xlabel("width $p$")
    if not np.any(study.points["d"] < points["d"][0]):  # the first panel
        axes.set_ylabel("mean simulated exit time / formula")


DRAW = {"distribution": _distribution, "dimension": _dimension, "gamma": _gamma, "ratio": _ratio}


def _same(values: Any) -> bool:
    return bool(np.all(values == values[0]))
