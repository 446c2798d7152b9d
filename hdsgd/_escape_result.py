"""The outcome of the escape experiment: rows of a table, a figure and files."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import _storage
from ._overlaps import Overlaps
from ._plots import escape_figure
from ._problem import Problem
from ._solution import Solution, versions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EscapeResult", "Row", "prefix", "write_files"]

Array = NDArray[np.float64]

ENDINGS = (".npz", ".json", ".png")


@dataclass(frozen=True)
class Row:
    """One line of the table: the exit time by one route.

    Attributes
    ----------
    route : str
        How the exit time was found.
    time : float
        Mean exit time, in t = νγ/(pd); nan where there is none, or where it would be biased by censored runs.
    error : float
        Standard error of the mean; nan for a formula.
    starts : str
        The start it belongs to, or the starts it averages over.
    runs : int
        Number of runs behind the mean; 0 for a formula.
    censored : int
        Runs that had not exited by t_max; if there are any, ``time`` is nan.
    note : str
        Why there is no value, or where it comes from.
    median : float
        Median exit time of the runs, censored ones being later than all others; nan for a formula, or where no more
        than half have exited.
    """

    route: str
    time: float
    error: float
    starts: str
    runs: int = 0
    censored: int = 0
    note: str = ""
    median: float = math.nan


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class EscapeResult:
    """The outcome of `escape_experiment`.

    Attributes
    ----------
    problem : Problem
    start : Overlaps or None
        The fixed start; None for random ones.
    start_name : str
        "published", "random" or "given".
    p, d : int
        Width of the student and input dimension.
    T : float
        The exit is where the excess risk has fallen by this fraction.
    t_max : float
        Horizon of the runs, in t = νγ/(pd).
    seed : int
        ``rng=result.seed`` reproduces it.
    rows : tuple of Row
        The table, with the fields route, time, error, starts, runs, censored, note and median.
    ode : Solution
        The ODE from the start (or from the first random one), for the figure.
    paths : Solution
        Exact simulations that were not stopped, for the figure.
    sde_paths : Solution or None
        The same of the SDE; None where it is not available.
    exit_times : dict of ndarray, shape (replicas,)
        Of the "simulation" and, where it is available, of the "sde"; nan where censored.
    seconds : float
        Wall time.
    versions : dict
        Of hdsgd, numpy, scipy and Python.
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
    sde_paths: Solution | None
    exit_times: dict[str, Array]
    seconds: float
    versions: dict[str, str] = field(default_factory=lambda: dict(versions()))

    def table(self) -> str:
        """The table, for a terminal."""
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
        notes: dict[str, list[str]] = {}  # routes that share one
        for row in self.rows:
            if row.note:
                notes.setdefault(row.note, []).append(row.route)
        lines += ["", "t = νγ/(pd) counts time; samples per dimension α = t p/γ."]
        lines += [f"{'; '.join(routes)}: {note}" for note, routes in notes.items()]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the arrays of the runs, ready for JSON (nan as None)."""

        def plain(value: Any) -> Any:
            return None if isinstance(value, float) and not math.isfinite(value) else value

        start = self.start
        return {
            "problem": asdict(self.problem),
            "start": self.start_name,
            "overlaps": None
            if start is None  # one for each replica, drawn from the seed
            else {name: getattr(start, name).tolist() for name in ("Q", "M", "P", "a", "a_star")},
            "p": self.p,
            "d": self.d,
            "T": self.T,
            "t_max": self.t_max,
            "seed": str(self.seed),
            "rows": [{key: plain(value) for key, value in asdict(row).items()} for row in self.rows],
            "seconds": self.seconds,
            "versions": self.versions,
        }

    def figure(self) -> Figure:
        """Draw trajectories and exit times (needs the extra ``plot``); returns the matplotlib Figure."""
        return escape_figure(self)

    def save(self, out: str | os.PathLike[str] = "hdsgd-escape", *, figure: bool = True) -> list[Path]:
        """Write ``out``.npz (arrays), ``out``.json (table and parameters) and, with matplotlib, ``out``.png.

        Each file is replaced atomically. Read the arrays with `numpy.load`.

        Parameters
        ----------
        out : str or path-like
            The beginning of the files' names, in a folder that exists.
        figure : bool
            Whether to draw the .png.

        Returns
        -------
        list of Path
            What was written.

        Raises
        ------
        ValueError, TypeError
            ``out`` is a folder, has one of these endings, or is in a folder that does not exist.
        """
        variables = {
            "t": (("t",), self.paths.t),
            "risk_simulation": (("drawn", "t"), self.paths.risk),
            "M_simulation": (("drawn", "t", "j", "r"), self.paths.M),
            "t_ode": (("t_ode",), self.ode.t),
            "risk_ode": (("t_ode",), self.ode.risk),
            "M_ode": (("t_ode", "j", "r"), self.ode.M),
            **{f"exit_times_{name}": ((f"replica_{name}",), values) for name, values in self.exit_times.items()},
        }
        if self.sde_paths is not None:
            variables["risk_sde"] = (("drawn", "t"), self.sde_paths.risk)
            variables["M_sde"] = (("drawn", "t", "j", "r"), self.sde_paths.M)
        document = self.to_dict()
        text = json.dumps(document, indent=1)
        return write_files(out, variables, document, ".json", text, self.figure if figure else None)

    def __repr__(self) -> str:
        problem = self.problem
        return (
            f"EscapeResult({self.start_name} start, p={self.p}, d={self.d}, gamma={problem.gamma:g}, "
            f"Delta={problem.Delta:g}, T={self.T:g}, {len(self.rows)} rows)"
        )


def prefix(out: object) -> Path:
    """The beginning of file names."""
    if not isinstance(out, (str, os.PathLike)) or isinstance(os.fspath(out), bytes):
        raise TypeError(f"out must be the beginning of file names, got {type(out).__name__}; pass for example 'run'.")
    text, path = os.fspath(out), Path(out)
    if text.endswith((os.sep, "/")) or path.name in ("", "..") or path.is_dir():
        raise ValueError(
            f"{text!r} is a folder, and save takes the beginning of file names; pass for example "
            f"{str(path / 'hdsgd-escape')!r}."
        )
    if path.suffix in ENDINGS:
        raise ValueError(f"save takes the beginning of file names; leave the ending {path.suffix} of {text!r} out.")
    return path


def write_files(
    out: str | os.PathLike[str],
    variables: Mapping[str, tuple[tuple[str, ...], Array]],
    document: Mapping[str, Any],
    ending: str,
    text: str,
    draw: Callable[[], Figure] | None,
) -> list[Path]:
    """Write ``out``.npz, the text with its ending and, with matplotlib, ``out``.png; returns the paths."""
    start = prefix(out)
    paths = [start.with_name(f"{start.name}{it}") for it in (".npz", ending, ".png")]
    _storage.write(paths[0], variables, document)
    with _storage.atomically(paths[1]) as partial:
        partial.write_text(text + "\n", encoding="utf-8")
    if draw is None:
        return paths[:2]
    try:
        drawing = draw()
    except ValueError:  # no matplotlib: the numbers are there all the same
        return paths[:2]
    with _storage.atomically(paths[2]) as partial:
        drawing.savefig(partial, dpi=150)
    return paths


def _cells(row: Row) -> tuple[str, ...]:
    value = f"{row.time:.4f}" if math.isfinite(row.time) else "-"
    error = f"{row.error:.4f}" if math.isfinite(row.error) else ""
    runs = "" if not row.runs else f"{row.runs}" + (f" ({row.censored} censored)" if row.censored else "")
    return row.route, value, error, row.starts, runs
