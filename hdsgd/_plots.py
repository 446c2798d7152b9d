"""Figures of a solution, in the papers' notation; matplotlib is imported only here, when something is drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ._schedule import Schedule

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "escape_figure", "histogram", "mean_field_figure", "new_figure", "title", "trajectories"]

# Okabe and Ito's palette, distinct for every common colour vision deficiency; its yellow is too light for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")

FORMULAS = ("ODE event", "implicit equation")  # routes that have runs behind the mean where starts are random
EXITED = 1  # the code of Status.EXITED, which is defined above this module

Curve = tuple[str, str, Any]  # name, name of its group, values


def trajectories(sol: Any) -> Figure:
    """Risk, teacher-student overlaps M, student-student overlaps Q and, where it is trained, a against t."""
    figure_class = new_figure()
    trained = sol.problem.second_layer_ratio > 0.0
    figure = figure_class(figsize=(16.0 if trained else 12.0, 3.6), layout="constrained")
    panels = figure.subplots(1, 4 if trained else 3)
    risk, m, q = panels[:3]
    ensemble = sol.replicas is not None
    t, held, cut = _held(sol) if ensemble else (sol.t, lambda values: values, "")
    _curves(risk, t, [("", "", held(sol.risk))], ensemble)
    positive = sol.risk[np.isfinite(sol.risk) & (sol.risk > 0.0)]
    if positive.size and positive.max() > 30.0 * positive.min():
        risk.set_yscale("log")
    risk.set_ylabel(r"excess risk $\mathcal{R}-\Delta/2$")
    _curves(
        m,
        t,
        [
            (rf"$m_{{{j + 1}{r + 1}}}$", rf"$m_{{j{r + 1}}}$", held(sol.M[..., j, r]))
            for j in range(sol.p)
            for r in range(sol.k)
        ],
        ensemble,
    )
    m.set_ylabel(r"teacher–student overlaps $M$")
    _curves(
        q,
        t,
        [
            (rf"$q_{{{j + 1}{l + 1}}}$", r"$q_{jj}$" if j == l else r"$q_{jl}$", held(sol.Q[..., j, l]))
            for j in range(sol.p)
            for l in range(j, sol.p)
        ],
        ensemble,
    )
    q.set_ylabel(r"student–student overlaps $Q$")
    if trained:
        _curves(panels[3], t, [(f"$a_{{{j + 1}}}$", "$a_j$", held(sol.a[..., j])) for j in range(sol.p)], ensemble)
        panels[3].set_ylabel("second layer $a$")
    for axes in panels:
        _against_time(axes, t)
        if ensemble is False and np.isfinite(sol.exit_time):
            axes.axvline(sol.exit_time, color="0.5", linestyle=":", linewidth=1.0)
    figure.suptitle(title(sol) + cut, fontsize="medium")
    return figure


def mean_field_figure(sol: Any) -> Figure:
    """Risk of a wide student, and median and central 80 % of its units' overlaps and norms, against t."""
    figure = new_figure()(figsize=(9.0, 3.6), layout="constrained")
    risk, units = figure.subplots(1, 2)
    _curves(risk, sol.t, [("", "", sol.risk)], False)
    risk.set_yscale("log")
    risk.set_ylabel(r"excess risk $\mathcal{R}-\Delta/2$")
    largest = np.abs(sol.M).max(axis=-1).T
    _curves(units, sol.t, [(r"$\max_r |m_{jr}|$", "", largest), ("$q_{jj}$", "", sol.norms.T)], True)
    _, p, k = sol.M.shape
    units.set_ylabel(f"median, central 80 % of {p} units")
    for axes in (risk, units):
        _against_time(axes, sol.t)
    parts = [sol.problem.student.name, rf"$p={p}$", rf"$k={k}$", *([] if sol.d is None else [rf"$d={sol.d}$"])]
    figure.suptitle(", ".join([*parts, "gradient flow"]), fontsize="medium")
    return figure


def _against_time(axes: Axes, t: Any) -> None:
    axes.set_xlabel(r"$t = \nu\gamma/(pd)$")
    if _geometric(t):
        axes.set_xscale("log", nonpositive="mask")
    axes.spines[["top", "right"]].set_visible(False)


def _geometric(t: Any) -> bool:
    """Whether times are spaced as on a logarithmic axis, over more than two decades; 0 may come before them."""
    t = t[t > 0.0]
    if t.size < 5 or t[-1] < 100.0 * t[0]:
        return False
    return bool(np.corrcoef(np.log(t), np.arange(t.size))[0, 1] > 0.995)


def _held(sol: Any) -> tuple[Any, Callable[[Any], Any], str]:
    """Times to draw an ensemble at, a function that fills rows in, and a remark on both.

    Statistics over the replicas that are still running would be those of the slowest: a replica that has exited is held
    at its last stored row. One that diverged or failed has nothing to hold, so that all curves end there.
    """
    stored = np.isfinite(sol.risk)
    exited = np.asarray(sol.status) == EXITED
    shown = stored.any(axis=1)  # the others exited, or ended, before the first stored time
    going_on = (stored | exited[:, None])[shown].all(axis=0)
    count = int(going_on.argmin()) if not going_on.all() else going_on.size
    last = np.maximum.accumulate(np.where(stored, np.arange(sol.t.size), 0), axis=1)[:, :count]

    def held(values: Any) -> Any:
        return np.take_along_axis(values, last, axis=1)[shown]

    remarks = []
    if not stored[shown & exited, :count].all():
        remarks.append("held where they exited")
    if count < sol.t.size:
        remarks.append("up to the first that ended without exit")
    if not shown.all():
        remarks.append(f"without {np.count_nonzero(~shown)} that ended before the first stored time")
    return sol.t[:count], held, "".join(f", {remark}" for remark in remarks)


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
        if not values.size:
            continue
        low, middle, high = np.quantile(values, (0.1, 0.5, 0.9), axis=0)
        axes.plot(t, middle, label=label, **style)
        if single:
            axes.fill_between(t, low, high, color=style["color"], alpha=0.2, linewidth=0.0)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, fontsize="small", ncols=2 if len(names) > 4 else 1)


def title(sol: Any) -> str:
    """The setting of a solution in one line."""
    problem = sol.problem
    parts = [
        problem.student.name
        if problem.teacher == problem.student
        else f"{problem.student.name} on {problem.teacher.name}"
    ]
    parts += [rf"$p={sol.p}$", rf"$k={sol.k}$", _learning_rate(problem.schedule), rf"$\Delta={problem.Delta:g}$"]
    if sol.d is not None:
        parts.append(rf"$d={sol.d}$")
    if problem.batch_size > 1:
        parts.append(rf"$n_b={problem.batch_size}$")
    if problem.weight_decay > 0.0:
        parts.append(rf"$\eta={problem.weight_decay:g}$")
    if problem.second_layer_ratio > 0.0:
        parts.append(rf"$\gamma_a/\gamma={problem.second_layer_ratio:g}$")
    if problem.spherical:
        parts.append("spherical")
    if sol.replicas is not None:
        parts.append(f"{sol.replicas} replicas (median, central 80 %)")
    return ", ".join(parts)


def _learning_rate(schedule: Schedule) -> str:
    """The values of a schedule and where they begin; of many only the first and the last."""
    first, last, count = schedule.values[0], schedule.values[-1], len(schedule.values)
    if count > 3:
        return rf"$\gamma={first:g}$ to ${last:g}$ in {count} pieces"
    later = zip(schedule.times[1:], schedule.values[1:], strict=True)
    return rf"$\gamma={first:g}$" + "".join(rf", then ${value:g}$ from $t={t:g}$" for t, value in later)


def new_figure() -> type[Figure]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("plotting needs matplotlib; install it with: pip install 'hdsgd[plot]'.") from None
    return Figure


def escape_figure(result: Any) -> Figure:
    """Draw an escape experiment: risk against t, and the exit times of runs and formulas."""
    figure = new_figure()(figsize=(11.5, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _escape_paths(left, result)
    _escape_times(right, result)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    problem = result.problem
    figure.suptitle(
        rf"Escape from mediocrity: $d={result.d}$, $p={result.p}$, $k=1$, $\gamma={problem.gamma:g}$, "
        rf"$\Delta={problem.Delta:g}$, $T={result.T:g}$, {result.start_name} start"
        + ("s" if result.start is None else ""),
        fontsize="medium",
    )
    return figure


def _escape_paths(axes: Axes, result: Any) -> None:
    paths, level = result.paths, (1.0 - result.T) * result.ode.risk[0]
    few = min(20, paths.replicas)
    for risk in paths.risk[:few]:
        axes.plot(paths.t, risk, color=COLOURS[5], linewidth=0.6, alpha=0.6)
    axes.plot([], [], color=COLOURS[5], linewidth=0.9, label=f"exact simulation, {few} runs")
    axes.plot(
        paths.t, paths.risk.mean(axis=0), color=COLOURS[0], linewidth=1.8, label=f"its mean over {paths.replicas}"
    )
    sde = result.sde_paths
    if sde is not None:
        axes.plot(
            sde.t,
            sde.risk.mean(axis=0),
            color=COLOURS[1],
            linestyle="--",
            linewidth=1.8,
            label=f"SDE, mean over {sde.replicas}",
        )
    label = "ODE" if result.start is not None else "ODE from one of the starts"
    axes.plot(result.ode.t, result.ode.risk, color="black", linestyle="-.", label=label)
    axes.axhline(level, color="0.6", linewidth=1.0, linestyle=":", label=r"exit level $(1-T)\,\mathcal{R}(0)$")
    axes.set_xlabel(r"$t = \nu\gamma/(pd)$")
    axes.set_ylabel(r"excess risk $\mathcal{R}-\Delta/2$")
    axes.legend(frameon=True, framealpha=0.85, edgecolor="none", fontsize="small")


def _escape_times(axes: Axes, result: Any) -> None:
    samples = {name: times[np.isfinite(times)] for name, times in result.exit_times.items()}
    means = [row.time for row in result.rows if np.isfinite(row.time)]
    last = [float(np.quantile(times, 0.995 if times.size > 400 else 1.0)) for times in samples.values() if times.size]
    seen = max(last, default=0.0)
    longest = max((seen, *(1.05 * mean for mean in means))) or result.t_max
    looks = {"simulation": ("exact simulation", COLOURS[0], "-"), "sde": ("SDE", COLOURS[1], "--")}
    later = []
    for name, (text, colour, style) in looks.items():
        times, every = samples.get(name), result.exit_times.get(name)
        if times is None:
            continue
        if not times.size:
            axes.plot([], [], color=colour, linestyle=style, label=f"{text}: none of {every.size} runs had exited")
            continue
        histogram(axes, every, seen or 1.0, text, color=colour, linestyle=style)
        out = int(np.count_nonzero(times > seen)) + every.size - times.size
        if out:
            later.append(f"{out} ({text})")
    _formula_lines(axes, result, 0.01 * longest)
    axes.set_xlim(0.0, longest)
    axes.set_ylim(0.0, None if last else 1.0)
    axes.set_xlabel(
        r"exit time $t_{\rm ext}$" + (f"\nlater than the axis or censored: {', '.join(later)}" if later else "")
    )
    axes.set_ylabel("density")
    axes.legend(frameon=True, framealpha=0.85, edgecolor="none", fontsize="small")


def histogram(axes: Axes, times: Any, last: float, name: str, **look: Any) -> None:
    """The density of exit times up to the last shown; what is censored or later counts among the runs, too."""
    bins = np.linspace(0.0, last, int(np.clip(2.0 * np.sqrt(np.isfinite(times).sum()), 6, 60)) + 1)
    share = np.histogram(times[np.isfinite(times)], bins)[0] / (times.size * (bins[1] - bins[0]))
    axes.stairs(share, bins, label=f"{name}, {times.size} runs", linewidth=1.5, **look)


def _formula_lines(axes: Axes, result: Any, close: float) -> None:
    """Vertical lines at the times of formulas and ODE; one for those that cannot be told apart."""
    rows = [row for row in result.rows if np.isfinite(row.time) and (not row.runs or row.route in FORMULAS)]
    mixed = result.start is not None  # times from this start, and means over random ones
    groups: list[list[Any]] = []
    for row in sorted(rows, key=lambda row: (row.starts == "random starts", row.time)):
        same = groups and groups[-1][0].starts == row.starts and row.time - groups[-1][0].time < close
        if same:
            groups[-1].append(row)
        else:
            groups.append([row])
    looks = {
        True: zip((COLOURS[3], COLOURS[4], COLOURS[2]), (":", "-.", (0, (6, 2))), strict=True),
        False: zip(("black", COLOURS[7], COLOURS[3], COLOURS[4], COLOURS[2]), ("-", "--", ":", "-.", "-"), strict=True),
    }
    for group in groups:
        random = mixed and group[0].starts == "random starts"
        text = ", ".join(f"{row.route} {row.time:.3f}" for row in group)
        colour, style = next(looks[random])
        axes.axvline(
            float(np.mean([row.time for row in group])),
            color=colour,
            linestyle=style,
            linewidth=1.6,
            label=f"{text} (random starts)" if random else text,
        )
