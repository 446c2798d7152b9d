"""C, figures 3 to 5: where quadratic networks end, what gradient flow conserves, and the degrees of freedom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._fixed_points import fixed_point
from .._ode import solve_ode
from .._overlaps import Overlaps
from .._quadratic_network import QuadraticNetwork
from ._c_dynamics import PAPER
from ._frame import COLOURS, Claim, Figure, Job, Results, canvas, seeds

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

__all__ = ["C3", "C4", "C5"]

Array = NDArray[np.float64]

ROUNDING = 1e-15  # of risks of order one
MEASURED = 1e-5  # of T^-1 - P^-1: below it rounding is larger than what is conserved


def descent(*, p: int, k: int, d: int, t_max: float, starts: list[int], rtol: float) -> dict[str, Any]:
    """Risk, and distances to the predicted end points of each start and of the next one, (starts, times)."""
    network = QuadraticNetwork(p, k)
    begin = [network.orthogonal_start(d, rng=seed) for seed in starts]
    ends = [network.end_point(state) for state in begin]
    t = np.concatenate(([0.0], np.geomspace(0.05, t_max, 60)))
    own, foreign, risk = (np.empty((len(starts), t.size)) for _ in range(3))
    for i, state in enumerate(begin):
        sol = solve_ode(network.problem, state, t_max, times=t, rtol=rtol, atol=1e-2 * rtol)
        states = [sol.overlaps(n) for n in range(t.size)]
        own[i] = [network.distance(now, ends[i]) for now in states]
        foreign[i] = [network.distance(now, ends[(i + 1) % len(ends)]) for now in states]
        risk[i] = sol.risk
    return {"t": t, "own": own, "foreign": foreign, "risk": risk}


def conserved(*, p: int, k: int, d: int, t_max: float, start: int, orthogonal: bool) -> dict[str, Any]:
    """The matrix S along gradient flow, and the size of T^-1 - P^-1 that it is computed from."""
    network = QuadraticNetwork(p, k)
    state = (
        network.orthogonal_start(d, rng=start)
        if orthogonal
        else Overlaps.random(p, k, d, rng=start, spherical=False, orthogonal_teacher=True)
    )
    t = np.linspace(0.0, t_max, 73)
    sol = solve_ode(network.problem, state, t_max, times=t, rtol=1e-13, atol=1e-15)
    states = [sol.overlaps(i) for i in range(t.size)]
    return {
        "t": t,
        "S": [network.conserved(now, time) for now, time in zip(states, t, strict=True)],
        "size": [np.linalg.norm(network.conserved(now, 0.0)) for now in states],
        "polar": [np.abs(network.polar(now) - network.polar(state)).max() for now in states],
        "risk": sol.risk,
    }


def freedom(*, k: int, widths: list[int], seed: int, jacobian: bool) -> dict[str, Any]:
    """Degrees of freedom of the zero-loss set by formula and by rank; nullities of the Jacobian of the drift there."""
    rows = []
    for p in widths:
        network = QuadraticNetwork(p, k)
        end = network.end_point(network.orthogonal_start(1000, rng=seed))
        null = fixed_point(network.problem, end).marginal if jacobian else np.nan
        rows.append((network.degrees_of_freedom, network.freedom(end.M), network.nullity, null))
    formula, rank, expected, found = np.array(rows, dtype=float).T
    return {"p": widths, "formula": formula, "rank": rank, "nullity": expected, "jacobian": found}


def _jobs_3(size: str, seed: int) -> list[Job]:
    count = {"tiny": 2, "quick": 5, "full": 20}[size]
    last = {"tiny": 30.0, "quick": 60.0, "full": 200.0}[size]
    starts = seeds(seed, count)
    return [
        Job("p=6", descent, {"p": 6, "k": 3, "d": 1000, "t_max": last, "starts": starts, "rtol": 1e-10}),
        Job("p=3", descent, {"p": 3, "k": 3, "d": 1000, "t_max": 60.0, "starts": starts, "rtol": 1e-13}),
    ]


def _draw_3(results: Results) -> Drawing:
    figure: Drawing
    figure, axes = canvas(2, 2, width=5.2, height=3.3, sharex="col")
    for column, job in enumerate(("p=3", "p=6")):
        found = results[job]
        t = found["t"][1:]
        top, low = axes[:, column]
        for name, colour, label in (
            ("own", COLOURS[0], "of its own start"),
            ("foreign", COLOURS[1], "of another start"),
        ):
            top.plot(t, found[name][:, 1:].T, color=colour, alpha=0.6, linewidth=0.9)
            top.plot([], [], color=colour, label=label)
        low.plot(
            t,
            np.where(found["risk"] > ROUNDING, found["risk"], np.nan)[:, 1:].T,
            color=COLOURS[2],
            alpha=0.6,
            linewidth=0.9,
        )
        if job == "p=6":
            late = t[t > 3.0]
            top.plot(
                late, found["own"][:, -1].mean() * t[-1] / late, color="0.4", linestyle=":", label=r"slope of $1/t$"
            )
            low.plot(
                late,
                QuadraticNetwork(6, 3).late_constant / late**2,
                color="0.4",
                linestyle=":",
                label=r"theory, $C/t^2$",
            )
            low.legend()
        top.set(title=rf"$p={job[2:]}$, $p^{{*}}=3$", yscale="log", xscale="linear" if job == "p=3" else "log")
        low.set(yscale="log", xlabel=r"$t = \nu\gamma/(pd)$")
        top.legend(title="to the predicted end")
    axes[0, 0].set_ylabel("relative distance")
    axes[1, 0].set_ylabel(r"excess risk $\mathcal{R}$")
    return figure


def _claims_3(results: Results) -> list[Claim]:
    equal, wide = results["p=3"], results["p=6"]
    half = int(np.searchsorted(wide["t"], wide["t"][-1] / 2.0))
    falls = (wide["own"][:, half] / wide["own"][:, -1]).mean()
    claims = [
        Claim(
            what="p = 3: largest distance to its own end point at t = 60",
            ours=float(equal["own"][:, -1].max()),
            expected=0.0,
            within=1e-10,
            rule="the solver's accuracy",
        ),
        Claim(
            what="p = 3: share of starts whose own end point is the nearer one",
            ours=float((equal["own"][:, -1] < equal["foreign"][:, -1]).mean()),
            expected=1.0,
            within=0.0,
            note=f"the foreign one is at {equal['foreign'][:, -1].min():.2g} or more",
        ),
        Claim(
            what="p = 6: share of starts whose own end point is the nearer one",
            ours=float((wide["own"][:, -1] < wide["foreign"][:, -1]).mean()),
            expected=1.0,
            within=0.0,
        ),
    ]
    if results.size != "tiny":
        claims.append(
            Claim(
                what="p = 6: exponent of t with which the distance to its own end point falls",
                ours=-float(np.log(falls) / np.log(wide["t"][-1] / wide["t"][half])),
                expected=-1.0,
                within=0.1,
                rule="0.1: finite t",
            )
        )
    return claims


def _jobs_4(size: str, seed: int) -> list[Job]:
    widths = [(3, 3), (6, 3)] if size != "tiny" else [(4, 2)]
    own = seeds(seed, 2)
    settings = [(p, k, "orthogonal", own[0]) for p, k in widths]
    if size != "tiny":
        settings.append((6, 3, "random", own[1]))
    return [
        Job(
            f"p={p}, {kind}",
            conserved,
            {"p": p, "k": k, "d": 1000, "t_max": 3.0 * k, "start": start, "orthogonal": kind == "orthogonal"},
        )
        for p, k, kind, start in settings[::-1]
    ]


def _drift(found: Any) -> Array:
    """Change of S relative to its norm, NaN where T^-1 - P^-1 is too small to tell."""
    change = np.linalg.norm(found["S"] - found["S"][0], axis=(1, 2)) / np.linalg.norm(found["S"][0])
    return np.where(found["size"] > MEASURED, change, np.nan)


def _draw_4(results: Results) -> Drawing:
    figure: Drawing
    jobs = list(results)[::-1]
    figure, panels = canvas(2, len(jobs), width=4.2, height=3.0, sharex="col", squeeze=False)
    for (top, low), job in zip(panels.T, jobs, strict=True):
        found = results[job]
        t, S = found["t"], found["S"]
        shown = found["size"] > MEASURED
        for n, (r, s) in enumerate(zip(*np.triu_indices(S.shape[1]), strict=True)):
            top.plot(t[shown], S[shown, r, s], color=COLOURS[n % 6], label=f"$S_{{{r + 1}{s + 1}}}$")
        top.set(title=f"${job.split(',')[0]}$, {job.split(', ')[1]} start")
        top.legend(ncols=3)
        top.margins(y=0.3)
        low.plot(t, np.maximum(_drift(found), 1e-17), color=COLOURS[0], label=r"$\|S(t)-S(0)\|/\|S(0)\|$")
        low.plot(
            t,
            found["size"] / found["size"][0],
            color=COLOURS[1],
            linestyle="--",
            label=r"$\|T^{-1}-P^{-1}\|$ over that at $t=0$",
        )
        low.plot(t, found["risk"], color=COLOURS[2], linestyle="-.", label=r"risk $\mathcal{R}$")
        low.set(yscale="log", xlabel=r"$t = \nu\gamma/(pd)$")
        low.legend()
    panels[0, 0].set_ylabel("elements of $S$")
    figure.suptitle(
        rf"$S(t)$ while $\|T^{{-1}}-P^{{-1}}\| > 10^{{{np.log10(MEASURED):.0f}}}$, below that rounding hides it"
    )
    return figure


def _claims_4(results: Results) -> list[Claim]:
    claims = []
    for job in results:
        found = results[job]
        claims.append(
            Claim(
                what=f"{job}: largest relative change of S while T^-1 - P^-1 > 1e-5",
                ours=float(np.nanmax(_drift(found))),
                expected=0.0,
                within=1e-8,
                rule="the solver's accuracy",
                note=f"meanwhile the risk falls to {found['risk'][found['size'] > MEASURED][-1]:.2g}",
            )
        )
        turned = float(found["polar"].max())
        claims.append(
            Claim(what=f"{job}: largest change of the polar factor of M", ours=turned, expected=0.0, within=1e-12)
            if "orthogonal" in job
            else Claim(
                what=f"{job}: largest change of the polar factor of M", ours=turned, note="not conserved from here"
            )
        )
    return claims


def _jobs_5(size: str, seed: int) -> list[Job]:
    most = {"tiny": 4, "quick": 8, "full": 8}[size]
    return [
        Job(f"k={k}", freedom, {"k": k, "widths": list(range(k, most + 1)), "seed": own, "jacobian": size != "tiny"})
        for k, own in zip(range(4, 0, -1), seeds(seed, 4), strict=True)
    ]


def _draw_5(results: Results) -> Drawing:
    figure: Drawing
    figure, (left, right) = canvas(1, 2, width=4.8, height=3.8)
    for n, job in enumerate(sorted(results)):
        found, colour = results[job], COLOURS[n]
        for panel, line, points in ((left, "formula", "rank"), (right, "nullity", "jacobian")):
            panel.plot(found["p"], found[line], color=colour, label=f"$p^{{*}}={job[2:]}$")
            panel.plot(found["p"], found[points], "o", color=colour, markersize=5)
    left.set(title=r"lines: $p p^{*} - p^{*}(p^{*}+1)/2$; dots: by rank", ylabel="degrees of freedom at zero loss")
    right.set(title="lines: formula; dots: Jacobian of the drift", ylabel="vanishing rates in the overlaps")
    most = max(int(results[job]["p"].max()) for job in results)
    for panel in (left, right):
        panel.set_xlabel("student width $p$")
        panel.set_xticks(range(1, most + 1))
        panel.legend()
    return figure


def _claims_5(results: Results) -> list[Claim]:
    wrong = sum(int((results[job]["formula"] != results[job]["rank"]).sum()) for job in results)
    claims = [Claim(what="widths at which rank and formula differ", ours=wrong, expected=0.0, within=0.0)]
    if results.size != "tiny":
        other = sum(int((results[job]["nullity"] != results[job]["jacobian"]).sum()) for job in results)
        claims.append(Claim(what="widths at which Jacobian and formula differ", ours=other, expected=0.0, within=0.0))
        for p, k, expected in ((6, 3, 18), (8, 2, 34)):
            found = results[f"k={k}"]["jacobian"][p - k]
            claims.append(
                Claim(what=f"vanishing rates at (p, k) = ({p}, {k})", ours=float(found), expected=expected, within=0.0)
            )
    return claims


C3 = Figure("Quadratic network: distance to the predicted end point", f"{PAPER}, figure 3", _jobs_3, _draw_3, _claims_3)
C4 = Figure("Quadratic network: the conserved matrix", f"{PAPER}, figure 4", _jobs_4, _draw_4, _claims_4)
C5 = Figure("Quadratic network: degrees of freedom", f"{PAPER}, figure 5", _jobs_5, _draw_5, _claims_5)
