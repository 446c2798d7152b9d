"""Figures of a solution, in the papers' notation; matplotlib is imported only here, when something is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["escape_figure", "trajectories"]

# Okabe and Ito's palette, distinct for every common colour vision deficiency; its yellow is too light for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")

Curve = tuple[str, str, Any]  # name, name of its group, values


def trajectories(sol: Any) -> Figure:
    """Risk, teacher-student overlaps M and student-student overlaps Q against t."""
    figure_class = _figure()
    figure = figure_class(figsize=(12.0, 3.6), layout="constrained")
    risk, m, q = figure.subplots(1, 3)
    ensemble = sol.replicas is not None
    _curves(risk, sol.t, [("", "", sol.risk)], ensemble)
    positive = sol.risk[np.isfinite(sol.risk) & (sol.risk > 0.0)]
    if positive.size and positive.max() > 30.0 * positive.min():
        risk.set_yscale("log")
    risk.set_ylabel(r"excess risk $\mathcal{R}-\Delta/2$")
    _curves(
        m,
        sol.t,
        [
            (rf"$m_{{{j + 1}{r + 1}}}$", rf"$m_{{j{r + 1}}}$", sol.M[..., j, r])
            for j in range(sol.p)
            for r in range(sol.k)
        ],
        ensemble,
    )
    m.set_ylabel(r"teacher–student overlaps $M$")
    _curves(
        q,
        sol.t,
        [
            (rf"$q_{{{j + 1}{l + 1}}}$", r"$q_{jj}$" if j == l else r"$q_{jl}$", sol.Q[..., j, l])
            for j in range(sol.p)
            for l in range(j, sol.p)
        ],
        ensemble,
    )
    q.set_ylabel(r"student–student overlaps $Q$")
    for axes in (risk, m, q):
        axes.set_xlabel(r"$t = \nu\gamma/(pd)$")
        if ensemble is False and np.isfinite(sol.exit_time):
            axes.axvline(sol.exit_time, color="0.5", linestyle=":", linewidth=1.0)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(_title(sol), fontsize="medium")
    return figure


def _curves(axes: Axes, t: Any, curves: list[Curve], ensemble: bool) -> None:
    """One line per curve, or one colour per group where there are many; an ensemble's median and central 80 %."""
    single = len(curves) <= len(COLOURS)
    names = list(dict.fromkeys(name if single else group for name, group, _ in curves))
    seen: set[str] = set()
    for name, group, values in curves:
        key = name if single else group
        i = names.index(key)
        style: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "linewidth": 1.6 if single else 0.9}
        if i % 2:
            style["linestyle"] = "--"  # told apart in black and white, too
        if t.size == 1:
            style["marker"] = "o"
        label = None if key in seen or not key or len(names) > len(COLOURS) else key
        seen.add(key)
        if not ensemble:
            axes.plot(t, values, label=label, **style)
            continue
        running = np.isfinite(values).any(axis=0)
        if not running.any():
            continue
        low, middle, high = np.nanquantile(values[:, running], (0.1, 0.5, 0.9), axis=0)
        axes.plot(t[running], middle, label=label, **style)
        if single:
            axes.fill_between(t[running], low, high, color=style["color"], alpha=0.2, linewidth=0.0)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, fontsize="small", ncols=2 if len(names) > 4 else 1)


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


def escape_figure(result: Any) -> Figure:
    """Draw an escape experiment: risk against t with the exit times of every route, and the distribution of exits."""
    figure = _figure()(figsize=(11.0, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    level = (1.0 - result.T) * result.ode.risk[0]
    paths = result.paths
    for risk in paths.risk[:20]:
        left.plot(paths.t, risk, color=COLOURS[5], linewidth=0.6, alpha=0.6)
    left.plot([], [], color=COLOURS[5], label="exact simulation, 20 runs")
    left.plot(paths.t, np.nanmean(paths.risk, axis=0), color=COLOURS[0], label=f"its mean over {paths.replicas}")
    left.plot(result.ode.t, result.ode.risk, color="black", linestyle="--", label="ODE")
    left.axhline(level, color="0.6", linewidth=1.0, linestyle=":", label=r"exit level $(1-T)\,\mathcal{R}(0)$")
    left.set_xlabel(r"$t = \nu\gamma/(pd)$")
    left.set_ylabel(r"excess risk $\mathcal{R}-\Delta/2$")
    left.legend(frameon=False, fontsize="small")
    samples = {name: times[np.isfinite(times)] for name, times in result.exit_times.items()}
    longest = max((float(np.quantile(times, 0.995)) for times in samples.values() if times.size), default=1.0)
    bins = np.linspace(0.0, longest, 61)
    for (name, times), colour in zip(reversed(samples.items()), COLOURS, strict=False):
        label = {"sde": "SDE", "simulation": "exact simulation"}[name]
        right.hist(
            times, bins, density=True, histtype="step", color=colour, linewidth=1.5, label=f"{label}, {times.size} runs"
        )
    rows = [row for row in result.rows if not row.runs and np.isfinite(row.time)]
    for row, colour, style in zip(rows, ("black", *COLOURS[2:]), ("--", "-.", ":", "-", "--", "-."), strict=False):
        right.axvline(row.time, color=colour, linestyle=style, linewidth=1.3, label=f"{row.route}, {row.time:.3f}")
    right.set_xlabel(r"exit time $t_{\rm ext}$")
    right.set_ylabel("density")
    right.legend(frameon=False, fontsize="small")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    problem = result.problem
    figure.suptitle(
        rf"Escape from mediocrity: $d={result.d}$, $p={result.p}$, $k=1$, $\gamma={problem.gamma:g}$, "
        rf"$\Delta={problem.Delta:g}$, $T={result.T:g}$, {result.start_name} start",
        fontsize="medium",
    )
    return figure
