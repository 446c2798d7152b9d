"""Runs for the figures of paper B: ODE, limit ODE and exact simulation of one point of the phase diagram."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._ode import solve_ode
from .._overlaps import Overlaps
from .._scaling import scaling
from .._simulate import simulate
from ._frame import Results

__all__ = ["P0", "SOURCE", "K", "at", "chain", "informed", "limit", "ode", "risk_curve"]

Array = NDArray[np.float64]

SOURCE = "Veiga, Stephan, Loureiro, Krzakala, Zdeborová 2022, arXiv 2202.00293"
P0, K = 8, 4  # of all its figures, with gamma0 = p0
DELTA = 1e-3  # where it shows one label noise
RISK = r"excess risk $\mathcal{R}-\Delta/2$"
ERF = {"activation": "erf"}


def informed(p: int, k: int, seed: int) -> Overlaps:
    """The paper's start, W = A W_star with the rows of A uniform on the sphere and P = I."""
    A = np.random.default_rng(seed).standard_normal((p, k))
    return Overlaps.mixed(A / np.linalg.norm(A, axis=1, keepdims=True))


def _taus(first: float, last: float, points: int) -> Array:
    return np.concatenate(([0.0], np.geomspace(first, last, points)))


def ode(
    *,
    d: int,
    tau: float,
    first: float,
    points: int,
    kappa: str = "0",
    delta: str = "0",
    p0: int = P0,
    k: int = K,
    Delta: float = 0.0,
    start: int = 0,
    uninformed: bool = False,
) -> dict[str, Array]:
    """The ODE with all its terms at finite d, in the clock tau of the region."""
    point = scaling(kappa, delta, p0, p0)
    state = _start(point.p(d), k, d, start, uninformed)
    taus = _taus(first, tau, points)
    times = point.time(taus, d)
    sol = solve_ode(point.problem(d, Delta=Delta, **ERF), state, times[-1], times=times)
    return {"tau": taus[: sol.t.size], "risk": sol.risk, "M": np.abs(sol.M - sol.M[0]).max(axis=(1, 2))}


def limit(
    *,
    tau: float,
    first: float,
    points: int,
    kappa: str = "0",
    delta: str = "0",
    p: int = P0,
    p0: int = P0,
    k: int = K,
    Delta: float = 0.0,
    start: int = 0,
) -> dict[str, Array]:
    """The limit ODE of the region, in its clock tau, at width p."""
    taus = _taus(first, tau, points)
    _, _, risk = scaling(kappa, delta, p0, p0).solve(informed(p, k, start), taus, Delta=Delta, **ERF)
    return {"tau": taus, "risk": risk}


def chain(
    *,
    d: int,
    tau: float,
    first: float,
    points: int,
    replicas: int,
    seed: int,
    kappa: str = "0",
    delta: str = "0",
    p0: int = P0,
    k: int = K,
    Delta: float = 0.0,
    start: int = 0,
    uninformed: bool = False,
) -> dict[str, Array]:
    """The exact simulation at finite d, in the clock tau of the region: mean over replicas with its standard error."""
    point = scaling(kappa, delta, p0, p0)
    state = _start(point.p(d), k, d, start, uninformed)
    step = point.step_time(d)
    steps = np.unique(np.round(_taus(max(first, step), tau, points) / step))
    times = point.time(steps * step, d)
    runs = simulate(
        point.problem(d, Delta=Delta, **ERF), state, times[-1], d=d, replicas=replicas, rng=seed, times=times
    )
    assert runs.steps is not None
    return {
        "tau": runs.steps * step,
        "risk": runs.risk.mean(axis=0),
        "error": runs.risk.std(axis=0, ddof=min(1, replicas - 1)) / np.sqrt(replicas),
        "M": np.abs(runs.M - state.M).max(axis=(2, 3)).mean(axis=0),
    }


def _start(p: int, k: int, d: int, seed: int, uninformed: bool) -> Overlaps:
    return Overlaps.random(p, k, d, rng=seed, orthogonal_teacher=True) if uninformed else informed(p, k, seed)


def at(values: Mapping[str, Array], tau: float, name: str = "risk") -> float:
    """The value at a time tau, on a logarithmic scale between those that are stored."""
    later = values["tau"] > 0.0
    return float(np.exp(np.interp(np.log(tau), np.log(values["tau"][later]), np.log(values[name][later]))))


def risk_curve(axes: Any, results: Results, job: str, **look: Any) -> None:
    """Draw a risk against tau: a simulation as markers with its standard errors, others as lines."""
    values = results[job]
    later = values["tau"] > 0.0
    tau, risk = values["tau"][later], values["risk"][later]
    if "error" not in values:
        axes.plot(tau, risk, **look)
        return
    few: Sequence[int] | slice = slice(None, None, max(1, tau.size // 30))
    axes.errorbar(tau[few], risk[few], values["error"][later][few], **{"fmt": "o", "ms": 3, "lw": 0.8, **look})
