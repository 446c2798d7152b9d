"""A, figure 1: the escape from mediocrity at p = 1, along ODE, SDE and exact simulation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .._experiment import escape_experiment
from .._plots import histogram
from ._frame import COLOURS, Claim, Figure, Job, Results, canvas, seeds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

__all__ = ["A1", "PAPER"]

PAPER = "Arnaboldi, Krzakala, Loureiro, Stephan 2023 (arXiv 2305.18502)"

DRAWN = 20  # runs whose paths are drawn
LOOKS = {"simulation": ("exact simulation", COLOURS[0], COLOURS[5]), "sde": ("SDE", COLOURS[1], COLOURS[4])}

# The means of longer runs than these, with their own standard errors: exact chain from the published starts.
LONGER = {1: (1.143, 0.003), 2: (0.3872, 0.0006)}


def escape(*, start: str, p: int, replicas: int, seed: int) -> dict[str, Any]:
    """Paths and exit times of the escape experiment."""
    result = escape_experiment(start, p=p, replicas=replicas, rng=seed)
    values: dict[str, Any] = {
        "t": result.paths.t,
        "risk_ode": result.ode.risk,
        "m_ode": result.ode.M[:, 0, 0],
        "level": (1.0 - result.T) * result.ode.risk[0],
        "route": [row.route for row in result.rows],
        "averaged_over": [row.starts for row in result.rows],
        "time": [row.time for row in result.rows],
        "error": [row.error for row in result.rows],
    }
    for name, paths in (("simulation", result.paths), ("sde", result.sde_paths)):
        if paths is not None:
            values[f"risk_{name}"], values[f"risk_mean_{name}"] = paths.risk[:DRAWN], paths.risk.mean(axis=0)
            values[f"m_{name}"] = paths.M[:DRAWN, :, 0, 0]
            values[f"exit_times_{name}"] = result.exit_times[name]
    return values


def _jobs(size: str, seed: int) -> list[Job]:
    replicas = {"tiny": 40, "quick": 1000, "full": 10_000}[size]
    settings = {"published": ("published", 1), "random": ("random", 1), "published, p=2": ("published", 2)}
    if size == "tiny":
        del settings["published, p=2"]
    return [
        Job(name, escape, {"start": start, "p": p, "replicas": replicas, "seed": own})
        for (name, (start, p)), own in zip(settings.items(), seeds(seed, len(settings)), strict=True)
    ]


def _route(results: Results, job: str, route: str) -> tuple[float, float]:
    """Exit time and standard error of a route."""
    i = results[job]["route"].tolist().index(route)
    return float(results[job]["time"][i]), float(results[job]["error"][i])


def _draw(results: Results) -> Drawing:
    figure: Drawing
    figure, axes = canvas(3, 2, height=3.4)
    _paths(axes[0, 0], results, "risk", r"excess risk $\mathcal{R}-\Delta/2$")
    _paths(axes[0, 1], results, "m", r"overlap $m$ with the teacher")
    published = rf"published start, $m(0) = {results['published']['m_ode'][0]:.4f}$"
    for panel in axes[0]:
        panel.set_title(published)
    for column, job, title in ((1, "random", "random starts"), (0, "published", published)):
        _histogram(axes[1, column], results, job)
        axes[1, column].set_title(title)
        _routes(axes[2, column], results, job)
        axes[2, column].sharex(axes[1, column])
    figure.suptitle(r"Escape from mediocrity: $d=3000$, $p=k=1$, $\gamma=0.1$, $\Delta=10^{-4}$, $T=0.01$")
    return figure


def _paths(axes: Axes, results: Results, name: str, label: str) -> None:
    found = results["published"]
    for kind, (text, dark, light) in LOOKS.items():
        if f"{name}_{kind}" not in found:
            continue
        dashes = "--" if kind == "sde" else "-"
        axes.plot(found["t"], found[f"{name}_{kind}"].T, color=light, linewidth=0.6, alpha=0.6, linestyle=dashes)
        axes.plot([], [], color=light, linewidth=0.9, linestyle=dashes, label=f"{text}, {DRAWN} runs")
        if name == "risk":
            axes.plot(found["t"], found[f"risk_mean_{kind}"], color=dark, linestyle=dashes, label=f"{text}, mean")
    axes.plot(found["t"], found[f"{name}_ode"], color="black", linestyle="-.", label="ODE")
    if name == "risk":
        axes.axhline(
            float(found["level"]),
            color="0.6",
            linewidth=1.0,
            linestyle=":",
            label=r"exit level $(1-T)\,\mathcal{R}(0)$",
        )
    axes.set_xlabel(r"$t = \nu\gamma/(pd)$")
    axes.set_ylabel(label)
    axes.legend()


def _histogram(axes: Axes, results: Results, job: str) -> None:
    found = results[job]
    last = max(float(np.nanquantile(found[f"exit_times_{kind}"], 0.995)) for kind in LOOKS)
    for kind, (text, dark, _) in LOOKS.items():
        histogram(axes, found[f"exit_times_{kind}"], last, text, color=dark, linestyle="--" if kind == "sde" else "-")
    axes.set_xlim(0.0, last)
    axes.set_ylabel("density")
    axes.legend()


def _routes(axes: Axes, results: Results, job: str) -> None:
    """The exit time by each route in a line of its own, with two standard errors."""
    found, own = results[job], "published start" if job == "published" else "random starts"
    rows = [i for i, starts in enumerate(found["averaged_over"]) if starts == own]
    for place, i in enumerate(rows):
        time, error = float(found["time"][i]), float(found["error"][i])
        measured = not math.isnan(error)
        axes.errorbar(
            time,
            -place,
            xerr=2.0 * error if measured else None,
            marker="o" if measured else "D",
            color=COLOURS[0] if measured else COLOURS[3],
            capsize=3,
        )
        axes.annotate(f"{time:.3f}", (time, -place), xytext=(0, 5), textcoords="offset points", ha="center", size=8)
    many = "runs" if job == "published" else "runs or starts"
    axes.errorbar([], [], [], [], fmt="o", capsize=3, color=COLOURS[0], label=rf"mean over {many} $\pm$ 2 s.e.")
    axes.plot([], [], "D", color=COLOURS[3], label="ODE and formulas" if job == "published" else "formulas")
    axes.legend()
    axes.set_yticks([-place for place in range(len(rows))], [str(found["route"][i]) for i in rows])
    axes.set_ylim(-len(rows) + 0.4, 0.8)
    axes.set_xlabel(r"exit time $t_{\rm ext}$")


def _claims(results: Results) -> list[Claim]:
    ode, _ = _route(results, "published", "ODE event")
    sde, sde_error = _route(results, "published", "SDE (Brownian bridge)")
    corrected, _ = _route(results, "published", "corrected, fixed start")
    published, published_error = _route(results, "published", "published simulations")
    average, average_error = _route(results, "random", "exact simulation")
    averaged, _ = _route(results, "random", "corrected formula")
    quenched, _ = _route(results, "random", "quenched formula")
    annealed, _ = _route(results, "random", "annealed formula")
    chain, chain_error = _route(results, "published", "exact simulation")
    claims = [
        Claim(what="ODE exit time, published start", ours=ode, expected=1.0689, within=5e-5, rule="known digits"),
        Claim(
            what="SDE, published start",
            ours=sde,
            error=sde_error,
            expected=1.1386,
            within=3.0 * sde_error,
            note="expected: the backward equation of the SDE, by quadrature",
        ),
        Claim(
            what="exact simulation, published start",
            ours=chain,
            error=chain_error,
            paper=f"{published:.2f} ± {published_error:.2f}",
            expected=LONGER[1][0],
            within=3.0 * math.hypot(chain_error, LONGER[1][1]),
            rule="3 s.e. of both runs",
            note="expected: 1.143(3) of a longer run; the paper's value is the mean of its ten published simulations",
        ),
        Claim(
            what="exact simulation against the corrected time, published start",
            ours=chain,
            error=chain_error,
            expected=corrected,
            within=0.02 * corrected + 3.0 * chain_error,
            rule="3 s.e. + 2 %: the corrected formula's own error",
            note="expected: the ODE's exit averaged over the start m(0) + ξ that noise makes of it",
        ),
        Claim(
            what="exact simulation against the corrected time, random starts",
            ours=average,
            error=average_error,
            expected=averaged,
            within=0.015 * averaged + 3.0 * average_error,
            rule="3 s.e. + 1.5 %: the corrected formula's own error",
        ),
        Claim(
            what="quenched formula over simulation, random starts",
            ours=quenched / average,
            error=quenched / average**2 * average_error,
            note="above 1, because the formula leaves the noise out, which shortens the escape by log(1+ς)/(2ω_M)",
        ),
        Claim(
            what="annealed formula over simulation, random starts",
            ours=annealed / average,
            error=annealed / average**2 * average_error,
            note="Jensen's inequality and the missing noise partly cancel",
        ),
    ]
    if "published, p=2" in results:
        two, two_error = _route(results, "published, p=2", "exact simulation")
        claims += [
            Claim(
                what="ODE exit time, published start of p = 2",
                ours=_route(results, "published, p=2", "ODE event")[0],
                expected=0.3850,
                within=5e-5,
                rule="known digits",
            ),
            Claim(
                what="exact simulation, published start of p = 2",
                ours=two,
                error=two_error,
                expected=LONGER[2][0],
                within=3.0 * math.hypot(two_error, LONGER[2][1]),
                rule="3 s.e. of both runs",
                note="expected: 0.3872(6) of a longer run",
            ),
        ]
    return claims


A1 = Figure(
    title="Escape from mediocrity at p = k = 1: ODE, SDE and exact simulation, exit times by every route",
    source=f"{PAPER}, figure 1",
    jobs=_jobs,
    draw=_draw,
    claims=_claims,
)
