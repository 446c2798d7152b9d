"""The main job: the escape from mediocrity, by every route, as one table, one figure and one file."""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _storage, escape
from ._checks import integer, real
from ._ode import solve_ode
from ._overlaps import Overlaps
from ._plots import escape_figure
from ._problem import Problem
from ._random import RNG, master_seed
from ._sde import solve_sde
from ._simulate import simulate
from ._solution import Exit, Solution, versions
from ._starts import read_start

Array = NDArray[np.float64]

#: the horizon beyond the annealed time, in growth times: a start misses it with probability of about exp(-20)
_PATIENCE = 20.0
#: replicas whose whole paths are drawn, and starts that the ODE is solved from when they are random
_DRAWN, _SOLVED = 100, 100


@dataclass(frozen=True)
class Row:
    """One line of the table: the exit time by one route.

    Attributes
    ----------
    route : str
        How the exit time was found.
    time : float
        Mean exit time, in t = νγ/(pd); nan if there is none.
    error : float
        Standard error of the mean; nan for a formula.
    starts : str
        The start it belongs to, or the starts it averages over.
    runs : int
        Number of runs behind the mean; 0 for a formula.
    censored : int
        Runs that had not exited at t_max; they are left out of the mean.
    note : str
        Why there is no value, or where it comes from.
    """

    route: str
    time: float
    error: float
    starts: str
    runs: int = 0
    censored: int = 0
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class EscapeResult:
    """The outcome of :func:`escape_experiment`.

    Attributes
    ----------
    problem : Problem
    start : Overlaps or None
        The fixed start; None for random ones.
    start_name : str
    d : int
    T : float
    t_max : float
    seed : int
        ``rng=result.seed`` reproduces it.
    rows : tuple of Row
    ode, paths : Solution
        ODE from one start, and exact simulations that were not stopped, for the figure.
    exit_times : dict of arrays
        Of the simulation and, at p = 1, of the SDE: one per replica, nan where censored.
    seconds : float
        Wall time.
    """

    problem: Problem
    start: Overlaps | None
    start_name: str
    p: int
    d: int
    T: float
    t_max: float
    seed: int
    rows: tuple[Row, ...]
    ode: Solution
    paths: Solution
    exit_times: dict[str, Array]
    seconds: float
    versions: dict[str, str] = field(default_factory=lambda: dict(versions()))

    def table(self) -> str:
        """Return the table for a terminal."""
        problem = self.problem
        title = (
            f"Escape from mediocrity: phase retrieval on the sphere, d={self.d} p={self.p} k=1 γ={problem.gamma:g} "
            f"Δ={problem.Delta:g} T={self.T:g}, seed {self.seed}"
        )
        head = ("route", "exit time t", "± s.e.", "averaged over", "runs")
        body = [_cells(row) for row in self.rows]
        widths = [max(len(line[i]) for line in (head, *body)) for i in range(len(head))]
        lines = [title, ""]
        for line in (head, *body):
            cells = (
                cell.ljust(width) if i in (0, 3) else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            lines.append("  ".join(cells).rstrip())
        lines.insert(3, "-" * (sum(widths) + 2 * (len(widths) - 1)))
        notes = [f"{row.route}: {row.note}" for row in self.rows if row.note]
        lines += ["", "t = νγ/(pd) counts time; samples per dimension α = t p/γ.", *notes]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the arrays, ready for JSON (nan as None)."""

        def plain(value: Any) -> Any:
            return None if isinstance(value, float) and not math.isfinite(value) else value

        return {
            "problem": asdict(self.problem),
            "start": self.start_name,
            "p": self.p,
            "d": self.d,
            "T": self.T,
            "t_max": self.t_max,
            "seed": str(self.seed),
            "rows": [{key: plain(value) for key, value in asdict(row).items()} for row in self.rows],
            "seconds": self.seconds,
            "versions": self.versions,
        }

    def figure(self) -> Any:
        """Draw trajectories and exit times (needs matplotlib); returns the Figure."""
        return escape_figure(self)

    def save(self, out: str | os.PathLike[str] = "hdsgd-escape", *, figure: bool = True) -> list[Path]:
        """Write ``out``.npz (arrays), ``out``.json (table and parameters) and, with matplotlib, ``out``.png.

        Returns
        -------
        list of Path
            What was written.
        """
        prefix = Path(out)
        paths = [prefix.with_name(f"{prefix.name}{ending}") for ending in (".npz", ".json", ".png")]
        variables = {
            "t": (("t",), self.paths.t),
            "risk_simulation": (("drawn", "t"), self.paths.risk),
            "M_simulation": (("drawn", "t", "j", "r"), self.paths.M),
            "t_ode": (("t_ode",), self.ode.t),
            "risk_ode": (("t_ode",), self.ode.risk),
            "M_ode": (("t_ode", "j", "r"), self.ode.M),
            **{f"exit_times_{name}": ((f"replica_{name}",), values) for name, values in self.exit_times.items()},
        }
        _storage.write(paths[0], variables, self.to_dict())
        _write_text(paths[1], json.dumps(self.to_dict(), indent=1) + "\n")
        if not figure:
            return paths[:2]
        try:
            drawing = self.figure()
        except ValueError:  # no matplotlib: the numbers are there all the same
            return paths[:2]
        drawing.savefig(paths[2], dpi=150)
        return paths


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
        the overlaps Q, M, P in a .json or .npz file.
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
    dt : float
        Time step of the SDE.
    t_max : float, optional
        Horizon in t = νγ/(pd), by default far beyond the exit.
    backend : {"auto", "c", "numpy"}
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
    Source: Arnaboldi et al. 2023 (arXiv 2305.18502), figure 1.

    Examples
    --------
    >>> import hdsgd
    >>> result = hdsgd.escape_experiment(replicas=20)
    >>> round(result.rows[0].time, 4)
    1.0689
    """
    began = time.perf_counter()
    problem = Problem("quadratic", gamma=gamma, Delta=Delta, spherical=True)
    fixed, name, p = _start(start, p)
    replicas = integer("replicas", replicas, low=2, hint="a standard error needs at least 2")
    d = integer("d", d, low=p + 2, hint="the exact simulation needs d >= p + k + 1")
    seed = master_seed(rng)
    horizon = escape.annealed(problem, p=p, d=d, T=T) + _PATIENCE / escape.growth_rate(problem, p)
    t_max = horizon if t_max is None else real("t_max", t_max, low=0.0, strict=True)
    report = progress or (lambda fraction: None)
    first = fixed if fixed is not None else Overlaps.random(p, 1, d, rng=seed)
    many = fixed if fixed is not None else Overlaps.random(p, 1, d, rng=seed, replicas=replicas)
    starts = f"{name} start" if fixed is not None else "random starts"
    rows = list(_deterministic(problem, fixed, many, starts, p, d, T))
    report(0.1)
    exit_times: dict[str, Array] = {}
    stop, count = Exit(T=T), None if fixed is None else replicas
    if p == 1:
        sde = solve_sde(
            problem,
            many,
            t_max,
            d=d,
            dt=dt,
            replicas=count,
            rng=seed,
            times=[0.0],
            stop=stop,
            backend=backend,
            progress=lambda fraction: report(0.1 + 0.4 * fraction),
        )
        exit_times["sde"] = np.asarray(sde.exit_time)
        rows.append(_sampled("SDE (Euler, bridge)", exit_times["sde"], starts))
    chain = simulate(
        problem,
        many,
        t_max,
        d=d,
        replicas=count,
        rng=seed,
        times=[0.0],
        stop=stop,
        backend=backend,
        progress=lambda fraction: report(0.5 + 0.4 * fraction),
    )
    exit_times["simulation"] = np.asarray(chain.exit_time)
    rows.append(_sampled("exact simulation", exit_times["simulation"], starts))
    rows += _formulas(problem, p, d, T)
    if name == "published" and (d, gamma, Delta, T) == tuple(_published()[key] for key in ("d", "gamma", "Delta", "T")):
        rows += _published_rows(p, starts)
    shown = min(t_max, 3.0 * (rows[0].time if math.isfinite(rows[0].time) else t_max / 3.0))
    times = np.linspace(0.0, shown, 201)
    drawn = min(_DRAWN, replicas)
    sample = many if fixed is not None else Overlaps.random(p, 1, d, rng=seed, replicas=drawn)
    paths = simulate(
        problem,
        sample,
        shown,
        d=d,
        replicas=drawn,
        rng=seed,
        times=times,
        backend=backend,
        progress=lambda fraction: report(0.9 + 0.1 * fraction),
    )
    report(1.0)
    return EscapeResult(
        problem=problem,
        start=fixed,
        start_name=name,
        p=p,
        d=d,
        T=float(T),
        t_max=t_max,
        seed=seed,
        rows=tuple(rows),
        ode=solve_ode(problem, first, shown, times=times, backend=backend),
        paths=paths,
        exit_times=exit_times,
        seconds=time.perf_counter() - began,
    )


def _start(start: str | os.PathLike[str] | Overlaps, p: int | None) -> tuple[Overlaps | None, str, int]:
    """Return the fixed start (None for random ones), its name and the student width."""
    wanted = None if p is None else integer("p", p)
    if isinstance(start, str) and start == "random":
        return None, "random", wanted or 1
    if isinstance(start, str) and start == "published":
        known = _published()["starts"]
        if str(wanted or 1) not in known:
            raise ValueError(f"the published starts have p = {' or '.join(known)}: use start='random' for p={wanted}")
        entry = known[str(wanted or 1)]
        state, name = Overlaps(entry["Q"], entry["M"], entry["P"]), "published"
    else:
        state = start if isinstance(start, Overlaps) else read_start(start)
        name = "given"
    if state.replicas is not None or state.k != 1:
        raise ValueError("the escape experiment takes one start with one teacher unit (k = 1), without a replica axis")
    if wanted not in (None, state.p):
        raise ValueError(f"the start has p={state.p}, not p={wanted}: leave p out or give another start")
    return state, name, state.p


def _deterministic(
    problem: Problem, fixed: Overlaps | None, many: Overlaps, starts: str, p: int, d: int, T: float
) -> Iterator[Row]:
    """Yield the routes without noise from this start, or averaged over some of the random ones."""
    if fixed is not None:
        time_ode = escape.by_ode(problem, fixed, T)
        note = "" if math.isfinite(time_ode) else "the trajectory settles above the level: it never exits"
        yield Row("ODE event", time_ode, math.nan, starts, note=note)
        yield _formula("implicit equation", lambda: escape.implicit(problem, fixed, T), starts)
        if p == 1:
            yield _formula("corrected, fixed start", lambda: escape.corrected(problem, d=d, T=T, state=fixed), starts)
        return
    assert many.replicas is not None
    chosen = [many.replica(i) for i in range(min(many.replicas, _SOLVED))]
    for route, function in (("ODE event", escape.by_ode), ("implicit equation", escape.implicit)):
        try:
            yield _sampled(route, np.array([function(problem, one, T) for one in chosen]), starts)
        except ValueError as reason:
            yield Row(route, math.nan, math.nan, starts, note=str(reason))


def _formulas(problem: Problem, p: int, d: int, T: float) -> Iterator[Row]:
    yield _formula("annealed formula", lambda: escape.annealed(problem, p=p, d=d, T=T), "random starts")
    yield _formula("quenched formula", lambda: escape.quenched(problem, p=p, d=d, T=T), "random starts")
    if p == 1:
        yield _formula("corrected formula", lambda: escape.corrected(problem, d=d, T=T), "random starts")


def _formula(route: str, function: Callable[[], float], starts: str) -> Row:
    try:
        return Row(route, function(), math.nan, starts)
    except ValueError as reason:
        return Row(route, math.nan, math.nan, starts, note=str(reason))


def _sampled(route: str, values: Array, starts: str) -> Row:
    seen = values[np.isfinite(values)]
    censored = int(values.size - seen.size)
    note = f"{censored} of {values.size} runs had not exited at t_max and are left out" if censored else ""
    mean = float(seen.mean()) if seen.size else math.nan
    error = float(seen.std(ddof=1) / math.sqrt(seen.size)) if seen.size > 1 else math.nan
    return Row(route, mean, error, starts, int(values.size), censored, note)


@cache
def _published() -> dict[str, Any]:
    text = (Path(__file__).parent / "data" / "published_escape.json").read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text)
    return data


def _published_rows(p: int, starts: str) -> Iterator[Row]:
    note = "as published with arXiv:2305.18502, for comparison"
    for route, key in (("published SDE runs", "sde"), ("published simulations", "sim")):
        row = _sampled(route, np.array(_published()["exit_times"][str(p)][key]), starts)
        yield Row(row.route, row.time, row.error, starts, row.runs, note=note)


def _cells(row: Row) -> tuple[str, ...]:
    value = f"{row.time:.4f}" if math.isfinite(row.time) else "-"
    error = f"{row.error:.4f}" if math.isfinite(row.error) else ""
    runs = "" if not row.runs else f"{row.runs}" + (f" ({row.censored} censored)" if row.censored else "")
    return row.route, value, error, row.starts, runs


def _write_text(path: Path, text: str) -> None:
    handle, building = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    Path(building).replace(path)
