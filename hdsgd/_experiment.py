"""The main job: the escape from mediocrity, by every route, as one table, one figure and one file."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _retrieval, _simulate_c, escape
from ._checks import callback, integer, real
from ._dynamics import Dynamics
from ._escape_result import EscapeResult, Row
from ._formulas import typical_growth
from ._ode import solve_ode
from ._overlaps import Overlaps
from ._passage import affordable, fraction
from ._problem import Problem, check_start
from ._random import RNG, master_seed
from ._sde import solve_sde
from ._simulate import simulate
from ._solution import Exit, Solution, Status
from ._starts import read_start
from ._statistics import averaged, median

__all__ = ["EscapeResult", "Row", "escape_experiment", "horizon"]

Array = NDArray[np.float64]

#: the horizon beyond the typical exit, in growth times: a start misses it with probability of about exp(-20)
_PATIENCE = 20.0
#: the horizon where the ODE never exits: noise may, but not reliably, so it is not waited for
_SETTLED = 2.0
#: replicas whose whole paths are drawn
_DRAWN = 100
#: the widest student: the covariance of the SDE has (p (p + 3)/2)**2 entries, and its root is taken in every step
_WIDEST = 40

_ELSEWHERE = "the formulas for random starts hold for P = 1 and second layers of ones, not for this start"


def escape_experiment(
    start: str | os.PathLike[str] | Overlaps = "published",
    *,
    p: int | None = None,
    d: int = 3000,
    gamma: float = 0.1,
    Delta: float = 1e-4,
    T: float = 0.01,
    replicas: int = 1000,
    rng: RNG = 0,
    dt: float = 1e-3,
    t_max: float | None = None,
    backend: str = "auto",
    progress: Callable[[float], None] | None = None,
) -> EscapeResult:
    """Run the escape experiment of spherical phase retrieval by every route.

    Parameters
    ----------
    start : "published", "random", a path or Overlaps
        The start published with the paper (p = 1 or 2), a start of its own for each replica, uniform on the sphere, or
        the overlaps Q, M, P, also in a .json or .npz file.
    p : int, optional
        Student width; by default that of the start (1 if random).
    d : int
        Input dimension.
    gamma, Delta : float
        Learning rate and variance of the label noise.
    T : float
        The exit is the first time at which the excess risk has fallen by the fraction T.
    replicas : int
        Runs of the SDE and of the exact simulation.
    rng : None, int, SeedSequence or Generator
        Of all random numbers; recorded as ``result.seed``.
    dt : float
        Time step of the SDE.
    t_max : float, optional
        Horizon in t = νγ/(pd), by default far beyond the exit; 2 where the ODE never exits.
    backend : {"auto", "c", "numpy"}
        Compiled C, or numpy; "auto" is C where a compiler works.
    progress : callable, optional
        Called with the fraction that is done.

    Returns
    -------
    EscapeResult
        ``print(result.table())``, ``result.figure()``, ``result.save()``.

    Raises
    ------
    ValueError, TypeError
        Arguments out of range, a learning rate beyond stability, or a file that holds no start.

    Notes
    -----
    A route that does not apply has a row without a value, and a note with the reason.

    Source: Arnaboldi et al. 2023 (arXiv 2305.18502), figure 1.

    Examples
    --------
    >>> import hdsgd
    >>> result = hdsgd.escape_experiment(replicas=20)
    >>> result
    EscapeResult(published start, p=1, d=3000, gamma=0.1, Delta=0.0001, T=0.01, 10 rows)
    >>> result.rows[0].route, round(result.rows[0].time, 4)
    ('ODE event', 1.0689)
    """
    began = time.perf_counter()
    problem = Problem("quadratic", gamma=gamma, Delta=Delta, spherical=True)
    T = fraction(T)
    fixed, name, p = _start(problem, start, p)
    if p > _WIDEST:
        raise ValueError(
            f"the SDE, one of the routes, is out of reach at p={p}; choose p <= {_WIDEST}, or compare the exact "
            "simulation with the formulas alone by escape_study('ratio', p=...)."
        )
    replicas = integer("replicas", replicas, hint="a standard error needs at least 2", low=2)
    d = integer("d", d, low=p + 2, hint="the exact simulation needs d >= p + k + 1")
    seed, dt = master_seed(rng), real("dt", dt, low=0.0, strict=True, hint="it is the time step of the SDE")
    report = callback("progress", progress) or (lambda fraction: None)
    if backend != "numpy":
        _simulate_c.threads()  # refuses a wrong HDSGD_THREADS before the work
    first = fixed if fixed is not None else Overlaps.random(p, 1, d, rng=seed)
    many = fixed if fixed is not None else Overlaps.random(p, 1, d, rng=seed, replicas=replicas)
    starts = f"{name} start" if fixed is not None else "random starts"
    if t_max is None:
        t_max = _horizon(problem, fixed, p, d, T)
    else:
        t_max = real("t_max", t_max, low=0.0, strict=True, hint="it is the horizon of the runs")
    rows = list(_deterministic(problem, fixed, many, starts, d, T))
    report(0.1)

    def part(begin: float, end: float) -> Callable[[float], None]:
        return lambda fraction: report(begin + (end - begin) * fraction)

    exit_times: dict[str, Array] = {}
    options: dict[str, Any] = {"d": d, "rng": seed, "backend": backend}
    stopped = {"replicas": None if fixed is None else replicas, "times": [0.0], "stop": Exit(T=T), **options}
    sde = solve_sde(problem, many, t_max, dt=dt, progress=part(0.1, 0.4), **stopped)
    exit_times["sde"] = np.asarray(sde.exit_time)
    rows.append(_runs("SDE (Brownian bridge)", sde, starts, t_max))
    chain = simulate(problem, many, t_max, progress=part(0.4, 0.8), **stopped)
    exit_times["simulation"] = np.asarray(chain.exit_time)
    rows.append(_runs("exact simulation", chain, starts, t_max))
    rows += _averages(problem, fixed, p, d, T)
    if name == "published" and (d, gamma, Delta, T) == tuple(_published()[key] for key in ("d", "gamma", "Delta", "T")):
        rows += _published_rows(p, starts)

    typical = next((t for t in (rows[0].time, median(exit_times["simulation"])) if math.isfinite(t)), t_max / 3.0)
    shown = min(t_max, 3.0 * typical)
    times, drawn = np.linspace(0.0, shown, 201), min(_DRAWN, replicas)
    sample = fixed if fixed is not None else Overlaps.random(p, 1, d, rng=seed, replicas=drawn)
    sde_paths = solve_sde(
        problem, sample, shown, dt=dt, replicas=drawn, times=times, progress=part(0.8, 0.9), **options
    )
    paths = simulate(problem, sample, shown, replicas=drawn, times=times, progress=part(0.9, 1.0), **options)
    report(1.0)
    return EscapeResult(
        problem=problem,
        start=fixed,
        start_name=name,
        p=p,
        d=d,
        T=T,
        t_max=t_max,
        seed=seed,
        rows=tuple(rows),
        ode=solve_ode(problem, first, shown, times=times, backend=backend),
        paths=paths,
        sde_paths=sde_paths,
        exit_times=exit_times,
        seconds=time.perf_counter() - began,
    )


def _start(problem: Problem, start: object, p: int | None) -> tuple[Overlaps | None, str, int]:
    """The fixed start (None for random ones), its name and the student width."""
    wanted = None if p is None else integer("p", p)
    if isinstance(start, str) and start == "random":
        return None, "random", wanted or 1
    if isinstance(start, str) and start == "published":
        known = _published()["starts"]
        if str(wanted or 1) not in known:
            raise ValueError(f"the published starts have p = {' or '.join(known)}; use start='random' for p={wanted}.")
        entry = known[str(wanted or 1)]
        state, name = Overlaps(entry["Q"], entry["M"], entry["P"]), "published"
    elif isinstance(start, (str, os.PathLike, Overlaps)):
        state, name = start if isinstance(start, Overlaps) else read_start(start), "given"
    else:
        raise TypeError(
            "start must be 'published', 'random', the name of a file or an hdsgd.Overlaps, "
            f"got {type(start).__name__}; leave it out for the published start."
        )
    check_start(problem, state)
    if state.replicas is not None or state.k != 1:
        raise ValueError(
            "the escape experiment takes one start, with k = 1 and no replica axis; pass state.replica(i)."
        )
    if wanted not in (None, state.p):
        raise ValueError(f"the start has p={state.p}, not p={wanted}; leave p out or give another start.")
    return state, name, state.p


def _plain(state: Overlaps) -> bool:
    """Whether teacher and second layers are those of the formulas."""
    return bool(abs(state.P[0, 0] - 1.0) <= _retrieval.UNIT and np.all(state.a == 1.0) and np.all(state.a_star == 1.0))


def horizon(problem: Problem, p: int, d: int, T: float) -> float:
    """A time by which all runs from random starts have exited, if they do."""
    if problem.gamma >= escape.max_gamma(problem, p):
        raise ValueError(
            f"gamma={problem.gamma:g} is beyond the stability of the escape at p={p}; choose gamma < "
            f"{escape.max_gamma(problem, p):.6g}."
        )
    return _growth_times(p, d, T) / escape.growth_rate(problem, p)


def _growth_times(p: int, d: int, T: float) -> float:
    return max(typical_growth(p, d, T), 0.0) / 2.0 + _PATIENCE


def _horizon(problem: Problem, fixed: Overlaps | None, p: int, d: int, T: float) -> float:
    """A time by which all runs have exited, if they do."""
    if fixed is None:
        return horizon(problem, p, d, T)
    patience = horizon(problem, p, d, T) if _plain(fixed) else math.nan
    # Noise gives a start with M = 0 a small M.
    small = 1e-3 * math.sqrt(fixed.P[0, 0]) * fixed.Q[:, :1]
    begin = fixed if np.any(fixed.M) else Overlaps(fixed.Q, small, fixed.P, fixed.a, fixed.a_star)
    exits = escape.by_ode(problem, begin, T)
    if not math.isfinite(exits):
        return _SETTLED
    if not _plain(fixed):
        plateau = Overlaps(fixed.Q, small, fixed.P, fixed.a, fixed.a_star)
        grow = float(np.max(Dynamics(problem).drift(plateau).dM / np.where(small == 0.0, np.inf, small)))
        patience = _growth_times(p, d, T) / grow if grow > 0.0 else _SETTLED + 2.0 * exits
    return exits + patience


def _deterministic(
    problem: Problem, fixed: Overlaps | None, many: Overlaps, starts: str, d: int, T: float
) -> Iterator[Row]:
    """The routes without noise from this start, or averaged over some of the random ones."""
    if fixed is not None:
        row = _formula("ODE event", lambda: escape.by_ode(problem, fixed, T), starts)
        if not row.note and not math.isfinite(row.time):
            row = Row(row.route, math.nan, math.nan, starts, note="it settles above the level, and never exits")
        yield row
        yield _formula("implicit equation", lambda: escape.implicit(problem, fixed, T), starts)
        yield _formula("corrected, fixed start", lambda: escape.corrected(problem, d=d, T=T, state=fixed), starts)
        return
    assert many.replicas is not None
    chosen = [many.replica(i) for i in range(min(many.replicas, affordable(many.p)))]
    for route, function in (("ODE event", escape.by_ode), ("implicit equation", escape.implicit)):
        try:
            times = np.array([function(problem, one, T) for one in chosen])
        except ValueError as reason:
            yield Row(route, math.nan, math.nan, starts, note=str(reason))
        else:
            yield _sampled(route, times, starts, "never exit")


def _averages(problem: Problem, fixed: Overlaps | None, p: int, d: int, T: float) -> Iterator[Row]:
    """The formulas for random starts, of the teacher and second layers that they hold for."""
    routes = (
        ("annealed formula", lambda: escape.annealed(problem, p=p, d=d, T=T)),
        ("quenched formula", lambda: escape.quenched(problem, p=p, d=d, T=T)),
        ("corrected formula", lambda: escape.corrected(problem, d=d, T=T, p=p)),
    )
    for route, function in routes:
        if fixed is not None and not _plain(fixed):
            yield Row(route, math.nan, math.nan, "random starts", note=_ELSEWHERE)
        else:
            yield _formula(route, function, "random starts")


def _formula(route: str, function: Callable[[], float], starts: str) -> Row:
    try:
        return Row(route, function(), math.nan, starts)
    except ValueError as reason:
        return Row(route, math.nan, math.nan, starts, note=str(reason))


def _runs(route: str, sol: Solution, starts: str, t_max: float) -> Row:
    """The mean over an ensemble, if none of its runs was lost or censored."""
    lost = np.isin(np.asarray(sol.status), (Status.DIVERGED, Status.FAILED))
    if lost.any():
        times = np.asarray(sol.exit_time)
        return Row(route, math.nan, math.nan, starts, times.size, int(np.isnan(times).sum()), sol.message)
    return _sampled(route, np.asarray(sol.exit_time), starts, f"had not exited by t_max = {t_max:.3g}")


def _sampled(route: str, values: Array, starts: str, otherwise: str) -> Row:
    """The mean and its error; without them where values are missing, since the largest ones are."""
    missing, middle = int(np.count_nonzero(~np.isfinite(values))), median(values)
    if not missing:
        return Row(route, *averaged(values), starts, int(values.size), median=middle)
    if missing == values.size:
        note = f"all {missing} runs {otherwise}"
    else:
        note = f"{missing} of {values.size} runs {otherwise}, so that a mean over the others would be biased low"
        note += f"; median {middle:.2f}" if math.isfinite(middle) else ", and no more than half have a time"
    return Row(route, math.nan, math.nan, starts, int(values.size), missing, note, middle)


@cache
def _published() -> dict[str, Any]:
    text = (Path(__file__).parent / "data" / "published_escape.json").read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text)
    return data


def _published_rows(p: int, starts: str) -> Iterator[Row]:
    note = "as published with arXiv:2305.18502, for comparison"
    for route, key in (("published SDE runs", "sde"), ("published simulations", "sim")):
        row = _sampled(route, np.array(_published()["exit_times"][str(p)][key]), starts, "had not exited")
        yield Row(row.route, row.time, row.error, starts, row.runs, note=note, median=row.median)
