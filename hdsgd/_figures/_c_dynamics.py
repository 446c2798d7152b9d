"""C, figures 1 and 2: quadratic networks from the plateau to the end, and the learning rate of the fastest escape."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._ode import solve_ode
from .._overlaps import Overlaps
from .._quadratic_network import QuadraticNetwork
from .._simulate import simulate
from ._frame import COLOURS, Claim, Figure, Job, Results, canvas, seeds

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

__all__ = ["C1", "C2", "PAPER"]

Array = NDArray[np.float64]

PAPER = "Bocchi, Regimbeau, Lucibello, Saglietti, Cammarota 2026 (arXiv 2604.03068)"
K = 3  # teacher width of both figures
SMALL = 1e-6  # overlaps of a start so small that the linear theory decides

#: learning rates of the fastest escape for k = 3, by student width
FASTEST = {3: 0.589, 4: 0.856, 6: 1.445, 10: 2.756, 20: 6.342}


def paths(*, p: int, gamma: float, d: int, t_max: float, replicas: int, start: int, seed: int) -> dict[str, Any]:
    """Overlaps and risk along exact simulations that share a start, or along the ODE from it (replicas = 0)."""
    problem = QuadraticNetwork(p, K, gamma).problem
    state = Overlaps.random(p, K, d, rng=start, spherical=False, orthogonal_teacher=True)
    times = np.linspace(0.0, t_max, 61)
    if replicas == 0:
        sol = solve_ode(problem, state, t_max, times=times)
    else:
        sol = simulate(problem, state, t_max, d=d, replicas=replicas, rng=seed, times=times)
    return {"t": sol.t, "M": sol.M, "Q": sol.Q, "risk": sol.risk}


def halving(*, p: int, epsilon: float, gammas: list[float], starts: list[int]) -> dict[str, Any]:
    """Samples per dimension after which the risk along the ODE has halved, (learning rates, starts)."""
    found = np.full((len(gammas), len(starts)), np.nan)
    for i, gamma in enumerate(gammas):
        for j, seed in enumerate(starts):
            state = Overlaps.random(p, K, round(epsilon**-2), rng=seed, spherical=False, orthogonal_teacher=True)
            found[i, j] = QuadraticNetwork(p, K, gamma).alpha(state)
    return {"gamma": gammas, "alpha": found}


def _jobs_1(size: str, seed: int) -> list[Job]:
    d, gamma, replicas, groups = {"tiny": (300, 0.1, 2, 2), "quick": (1000, 0.01, 5, 2), "full": (10**4, 0.01, 2, 5)}[
        size
    ]
    start, *rest = seeds(seed, groups + 1)
    common = {"p": 6, "gamma": gamma, "d": d, "t_max": 6.0, "start": start}
    runs = [
        Job(f"runs {i}", paths, {**common, "replicas": replicas, "seed": own}) for i, own in enumerate(rest, start=1)
    ]
    return [*runs, Job("ODE", paths, {**common, "replicas": 0, "seed": 0})]


def _runs(results: Results, name: str) -> tuple[Array, Array]:
    """Mean and standard error over all simulations."""
    every = np.concatenate([results[job][name] for job in results if job != "ODE"])
    return every.mean(axis=0), every.std(axis=0, ddof=1) / math.sqrt(len(every))


def _draw_1(results: Results) -> Drawing:
    figure: Drawing
    figure, axes = canvas(2, 2, width=5.2, height=3.4, sharex=True)
    settings, ode = results.arguments["ODE"], results["ODE"]
    t, p = ode["t"], int(settings["p"])
    j, l = np.triu_indices(p, 1)
    for panel, name, label, pick in (
        (axes[0, 0], "M", "teacher–student overlaps $M_{jr}$", lambda x: x.reshape(len(t), -1)),
        (axes[0, 1], "Q", "student–student overlaps $Q_{jl}$", lambda x: x[:, j, l]),
        (axes[1, 0], "Q", "norms $Q_{jj}$", lambda x: np.diagonal(x, axis1=1, axis2=2)),
        (axes[1, 1], "risk", r"excess risk $\mathcal{R}$", lambda x: x[:, None]),
    ):
        mean, error = (pick(x) for x in _runs(results, name))
        exact = pick(ode[name])
        for i in range(exact.shape[1]):
            colour = COLOURS[i % 6]
            panel.fill_between(
                t, mean[:, i] - error[:, i], mean[:, i] + error[:, i], color=colour, alpha=0.3, linewidth=0
            )
            panel.plot(t[::3], mean[::3, i], ".", color=colour, markersize=4)
            panel.plot(t, exact[:, i], color=colour, linewidth=1.0)
        panel.set_ylabel(label)
    flat = QuadraticNetwork(p, K, settings["gamma"]).plateau_risk
    risk = axes[1, 1]
    risk.axhline(flat, color="0.5", linestyle=":", label=f"plateau, {flat:.4f}")
    risk.plot([], [], ".", color=COLOURS[0], label=f"mean of {_count(results)} runs")
    risk.fill_between([], [], color=COLOURS[0], alpha=0.3, linewidth=0, label="± its standard error")
    risk.plot([], [], color=COLOURS[0], linewidth=1.0, label="ODE")
    risk.legend(loc="lower left")
    for panel in axes[1]:
        panel.set_xlabel(r"$t = \nu\gamma/(pd)$")
    gamma, d = settings["gamma"], settings["d"]
    figure.suptitle(
        rf"Quadratic network: $p={p}$, $p^{{*}}={K}$, $\eta=\gamma={gamma:g}$, $N={d}$; one colour for each overlap"
    )
    return figure


def _count(results: Results) -> int:
    return sum(len(results[job]["risk"]) for job in results if job != "ODE")


def _claims_1(results: Results) -> list[Claim]:
    ode, (mean, error) = results["ODE"], _runs(results, "risk")
    settings = results.arguments["ODE"]
    worst = int(np.abs(mean - ode["risk"]).argmax())
    # the noise shifts the escape by a time that does not vanish with N; see escape.corrected
    claims = [
        Claim(
            what=f"risk, mean of the simulations against the ODE, where they differ most (t = {ode['t'][worst]:.1f})",
            ours=float(mean[worst]),
            error=float(error[worst]),
            expected=float(ode["risk"][worst]),
            within=float(4.0 * error[worst]) + 0.005,
            rule="4 s.e., the largest of many points, + 0.005: the noise shifts the escape at any N",
        )
    ]
    if results.size == "tiny":
        return claims  # the errors of a few runs of low dimension say little
    for name, what in (("M", "teacher–student overlaps M"), ("Q", "student–student overlaps Q")):
        mean, error = _runs(results, name)
        gap = np.abs(mean - ode[name])
        place = np.unravel_index(gap.argmax(), gap.shape)
        claims.append(
            Claim(
                what=f"{what}: largest difference between simulations and ODE",
                ours=float(gap.max()),
                error=float(error[place]),
                expected=0.0,
                within=float(4.0 * error[place]) + 0.005,
                rule="4 s.e., the largest of many points, + 0.005",
                note="with the noise at the plateau single overlaps go different ways, at any N",
            )
        )
    network = QuadraticNetwork(settings["p"], K, settings["gamma"])
    slowest = int(np.abs(np.gradient(ode["risk"][5:30], ode["t"][5:30])).argmin()) + 5
    claims.append(
        Claim(
            what=f"risk of the ODE where it is slowest (t = {ode['t'][slowest]:.1f}) against the plateau",
            ours=float(ode["risk"][slowest]),
            expected=network.plateau_risk,
            within=0.01,
            rule="0.01: the plateau is left before it is flat",
            note="1/k + 1/(p+2) at small learning rate",
        )
    )
    return claims


def _jobs_2(size: str, seed: int) -> list[Job]:
    widths = {"tiny": [3], "quick": [3, 4, 6, 10], "full": [3, 4, 6, 10, 20]}[size]
    count, points = {"tiny": (2, 5), "quick": (6, 9), "full": (20, 17)}[size]
    starts = seeds(seed, count)
    jobs = []
    for p in widths[::-1]:
        best = QuadraticNetwork(p, K).optimal_gamma
        around = (best * np.linspace(0.6, 1.1, points)).tolist()
        for epsilon in (1e-2, SMALL):
            jobs.append(
                Job(
                    f"p={p}, epsilon={epsilon:g}",
                    halving,
                    {"p": p, "epsilon": epsilon, "gammas": around, "starts": starts},
                )
            )
    wide = np.geomspace(0.05, 0.62, points).tolist()
    return [*jobs, Job("scan", halving, {"p": 3, "epsilon": 1e-2, "gammas": wide, "starts": starts})]


def _samples(results: Results, p: int, epsilon: float | None) -> Array:
    """Samples at half the loss, (learning rates, starts); without epsilon those from SMALL to 0.01, at the plateau."""
    if epsilon is None:
        return _samples(results, p, SMALL) - _samples(results, p, 1e-2)
    return np.asarray(results[f"p={p}, epsilon={epsilon:g}"]["alpha"])


def _best(results: Results, p: int, epsilon: float | None) -> tuple[float, float]:
    """Learning rate of the fewest samples by a parabola through the lowest points, and its standard error."""
    gamma, alpha = results[f"p={p}, epsilon={SMALL:g}"]["gamma"], _samples(results, p, epsilon)

    def lowest(values: Array) -> float:
        usable = np.flatnonzero(np.isfinite(values))
        place = int(usable[np.argmin(values[usable])])
        if not 0 < place < usable[-1]:
            return float("nan")
        near = slice(place - 1, place + 2)
        a, b, _ = np.polyfit(gamma[near], values[near], 2)
        return float(-b / (2.0 * a))

    count = alpha.shape[1]
    left_out = [lowest(np.delete(alpha, i, axis=1).mean(axis=1)) for i in range(count)]  # the jackknife
    return lowest(alpha.mean(axis=1)), math.sqrt((count - 1) * float(np.var(left_out)))


def _draw_2(results: Results) -> Drawing:
    figure: Drawing
    figure, (left, right) = canvas(1, 2, width=5.2, height=3.8)
    gamma, alpha = results["scan"]["gamma"], results["scan"]["alpha"]
    error = alpha.std(axis=1, ddof=1) / math.sqrt(alpha.shape[1])
    left.errorbar(
        gamma,
        alpha.mean(axis=1),
        error,
        fmt="o",
        color=COLOURS[0],
        capsize=2,
        label=f"ODE, mean of {alpha.shape[1]} starts",
    )
    line = np.geomspace(gamma[0], gamma[-1], 200)
    # the linear theory gives the shape, exp(growth t) = const; the constant is that of the slowest learning rate
    speed = np.array([QuadraticNetwork(3, K, g).growth * g for g in line])
    left.plot(line, alpha.mean(axis=1)[0] * speed[0] / speed, color=COLOURS[1], label=r"$\propto 1/(\gamma\,\omega_M)$")
    left.axvline(
        QuadraticNetwork(3, K).optimal_gamma, color="0.5", linestyle=":", label=r"$\gamma_{\rm opt}$, linear theory"
    )
    left.set(
        xscale="log",
        yscale="log",
        xlabel=r"learning rate $\eta=\gamma$",
        ylabel=r"$\alpha$ at half the loss",
        title=r"$p=p^{*}=3$, starts of overlaps $\epsilon=10^{-2}$",
    )
    left.set_xticks([0.05, 0.1, 0.2, 0.4, 0.6], ["0.05", "0.1", "0.2", "0.4", "0.6"])
    left.set_yticks([30.0, 50.0, 100.0, 200.0], ["30", "50", "100", "200"])
    left.minorticks_off()
    left.legend()
    widths = sorted({int(results.arguments[job]["p"]) for job in results})
    grid = np.arange(3, max(widths) + 1) if len(widths) > 1 else np.array([3, 4])
    right.plot(
        grid,
        [QuadraticNetwork(int(p), K).optimal_gamma for p in grid],
        color=COLOURS[1],
        label="linear theory of the plateau",
    )
    right.plot(
        grid,
        grid / (2.0 * math.sqrt(1.0 + 2.0 / K)),
        color="0.5",
        linestyle=":",
        label=r"$p/(2\sqrt{1+2/p^{*}})$, large $p$",
    )
    right.plot(
        grid,
        [QuadraticNetwork(int(p), K).largest_gamma for p in grid],
        color=COLOURS[3],
        linestyle="--",
        label="largest that learns to the end",
    )
    for epsilon, marker, colour, label in (
        (1e-2, "o", COLOURS[0], r"ODE, $\epsilon=10^{-2}$"),
        (SMALL, "s", COLOURS[2], r"ODE, $\epsilon=10^{-6}$"),
        (None, "x", "black", r"ODE, from $\epsilon=10^{-6}$ to $10^{-2}$"),
    ):
        best = np.array([_best(results, p, epsilon) for p in widths])
        right.errorbar(widths, best[:, 0], best[:, 1], fmt=marker, color=colour, capsize=2, label=label)
    right.set(
        xlabel="student width $p$",
        ylabel=r"optimal learning rate $\eta=\gamma$",
        title=rf"$p^{{*}}={K}$, starts of overlaps $\epsilon$",
    )
    right.legend()
    return figure


def _claims_2(results: Results) -> list[Claim]:
    claims, share = [], 0.02 if results.size == "tiny" else 0.005  # of the grid of learning rates
    for p in sorted({int(results.arguments[job]["p"]) for job in results}):
        found = QuadraticNetwork(p, K).optimal_gamma
        claims.append(
            Claim(
                what=f"learning rate of the fastest escape, linear theory, p = {p}",
                ours=found,
                expected=FASTEST[p],
                within=6e-4,
                rule="three known digits after the point",
            )
        )
        for epsilon, what in (
            (1e-2, "to half the loss, ODE, epsilon = 0.01"),
            (SMALL, f"to half the loss, ODE, epsilon = {SMALL:g}"),
            (None, f"from epsilon = {SMALL:g} to 0.01, ODE"),
        ):
            best, error = _best(results, p, epsilon)
            claims.append(
                Claim(
                    what=f"learning rate of the fewest samples {what}, p = {p}",
                    ours=best,
                    error=error,
                    expected=found if epsilon is None else None,
                    within=share * found if epsilon is None else None,
                    rule=f"{share:.1%}, of the order of the parabola's error",
                    note=""
                    if epsilon is None
                    else f"the linear theory's {found:.4f} is that of the escape alone; here learning after the escape "
                    "counts, too, which asks for a smaller one",
                )
            )
    return claims


C1 = Figure("Quadratic network: overlaps, norms and risk", f"{PAPER}, figure 1", _jobs_1, _draw_1, _claims_1)
C2 = Figure(
    "Quadratic network: the learning rate of the fastest escape", f"{PAPER}, figure 2", _jobs_2, _draw_2, _claims_2
)
