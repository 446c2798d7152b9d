"""Figure 8 of paper B: networks wider than their input."""

from __future__ import annotations

from typing import Any

from .._scaling import scaling
from ._b_runs import DELTA, RISK, SOURCE, K, at, chain, limit, ode, risk_curve
from ._frame import COLOURS, Claim, Figure, Job, Results, canvas, seeds

WIDE = {"red": ("11/10", "-11/5"), "orange": ("5/4", "-3/2"), "blue": ("3/2", "-3/2"), "green": ("3/2", "-1/2")}


def _wide_jobs(size: str, seed: int) -> list[Job]:
    d, tau, replicas = {"tiny": (6, 3.0, 2), "quick": (16, 30.0, 4), "full": (25, 100.0, 8)}[size]
    jobs = []
    for region, own in zip(WIDE, seeds(seed, 4), strict=True):
        kappa, delta = WIDE[region]
        point = scaling(kappa, delta)
        grid = {"kappa": kappa, "delta": delta, "p0": 1, "Delta": DELTA, "points": 41}
        last = 1e3 * point.step_time(d) if region == "red" else tau
        jobs.append(
            Job(
                f"simulation {region}",
                chain,
                {**grid, "tau": last, "first": last / 1e3, "d": d, "replicas": replicas, "seed": own},
            )
        )
        if region != "red":
            jobs.append(Job(f"ODE {region}", limit, {**grid, "tau": tau, "first": tau / 1e3, "p": point.p(d)}))
        if region == "orange":  # where d has to be far larger for the limit
            jobs.append(Job("all terms orange", ode, {**grid, "tau": tau, "first": tau / 1e3, "d": d}))
    return jobs[::-1]


def _wide_draw(results: Results) -> Any:
    figure, axes = canvas(2, 2, width=4.6, height=3.2)
    d = results.arguments["simulation red"]["d"]
    looks = {"red": COLOURS[3], "orange": COLOURS[4], "blue": COLOURS[0], "green": COLOURS[2]}
    for panel, (region, (kappa, delta)) in zip(axes.flat, WIDE.items(), strict=True):
        risk_curve(panel, results, f"simulation {region}", color=looks[region], label="exact simulation")
        if region != "red":
            risk_curve(panel, results, f"ODE {region}", color="black", lw=1.0, label="limit ODE")
        if region == "orange":
            risk_curve(panel, results, "all terms orange", color="black", lw=1.0, ls="--", label="ODE with all terms")
        clock = rf"$\tau=\nu\,d^{{{scaling(kappa, delta).step_exponent}}}$"
        panel.set(xscale="log", yscale="log", xlabel=clock, ylabel=RISK)
        width = scaling(kappa, delta).p(d)
        panel.set_title(rf"{region}: $\kappa={kappa}$, $\delta={delta}$, $p={width}$")
        panel.legend()
    figure.suptitle(rf"wide networks, $p=d^\kappa$, $\gamma=d^{{-\delta}}$, $d={d}$, $k={K}$, $\Delta=10^{{-3}}$")
    return figure


def _wide_claims(results: Results) -> list[Claim]:
    found = []
    tau = 1.0
    for region, name in (("green", "ODE"), ("blue", "ODE"), ("orange", "all terms"), ("orange", "ODE")):
        run, line = results[f"simulation {region}"], results[f"{name} {region}"]
        which = "the ODE's with all terms" if name == "all terms" else "the limit ODE's"
        what = f"{region}: simulated R at tau = {tau:g} over {which}"
        near = (region, name) != ("orange", "ODE")
        found.append(
            Claim(
                what=what,
                ours=at(run, tau) / at(line, tau),
                expected=1.0,
                within=0.1 if near and results.size != "tiny" else None,
                rule="0.1: few runs at small d",
                note="" if near else "at this d the drift that the limit leaves out is not small",
            )
        )
    red = results["simulation red"]
    found.append(
        Claim(what="red: risk after 1000 steps over the one at the start", ours=float(red["risk"][-1] / red["risk"][0]))
    )
    return found


B8 = Figure("Wide networks in the four regions", f"{SOURCE}, figure 8", _wide_jobs, _wide_draw, _wide_claims)
