"""Studies of the escape from mediocrity: what its exit time depends on, by simulation and by every formula."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ._checks import callback, choice, file_path, integer, real
from ._escape_points import escape_point, formulas, sampled_exits
from ._escape_result import write_files
from ._learning_rate import learning_rate
from ._passage import fraction
from ._problem import Problem
from ._record import FRESH, Record
from ._retrieval import max_gamma, optimal_gamma
from ._solution import versions
from ._statistics import summary
from ._study_plots import study_figure
from ._sweep import evaluate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["STUDIES", "EscapeStudy", "escape_study"]

Array = NDArray[Any]

FORMAT = 1
STUDIES = ("distribution", "dimension", "gamma", "ratio")
ROUTES = {"simulate": "simulation", "sde": "SDE", "ode": "ODE"}
FORMULAS = ("annealed", "quenched", "plain", "full")

# p, d and replicas of the quick version and of the full one
WIDTHS = {"ratio": ((1, 5, 20), (1, 2, 5, 10, 20, 50, 100, 200, 500))}
DIMENSIONS = {
    "dimension": ((300, 1000, 3000, 10000), (300, 1000, 3000, 10000, 30000, 10**5, 10**6)),
    "ratio": ((1000,), (1000, 3000, 10000)),
}
SHARES = ((0.1, 0.3, 0.5, 0.7), (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8))  # of the largest gamma
QUICK = 200
FINE = (12, 30)  # learning rates that curves are drawn through
ARRAYS = ("points", "exit_times", "curves")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class EscapeStudy:
    """The outcome of `escape_study`.

    Attributes
    ----------
    study : str
    settings : dict
        T, Delta and the seed; rate = gamma/p where it is the same at all points.
    points : dict of ndarray, shape (points,)
        ``p``, ``d``, ``gamma``; of the exact simulation ``mean``, ``error`` (its standard error), ``median``,
        ``censored`` and ``replicas``; ``annealed``, ``quenched``, ``plain`` and ``full`` (the corrected times), NaN
        where a formula refuses. Times are in t = nu*gamma/(p*d); ``samples_per_t`` = p d/gamma turns them into samples.
    exit_times : dict of ndarray, shape (replicas,)
        Of the study "distribution" only: by simulation, SDE and ODE from the same starts; NaN where censored.
    curves : dict of ndarray
        Of the study "gamma" only: the formulas at more values of ``gamma``, named as in ``points``.
    optima : dict
        Of the study "gamma" only: gamma of the fewest samples, by the ``linear`` rates and by the ``corrected`` time.
    remark : str
        Why an optimum is missing.
    failures : tuple of str
        Points that could not be computed.
    versions : dict
    """

    study: str
    settings: dict[str, Any]
    points: dict[str, Array]
    exit_times: dict[str, Array]
    curves: dict[str, Array]
    optima: dict[str, float]
    remark: str
    failures: tuple[str, ...]
    versions: dict[str, str] = field(default_factory=lambda: dict(versions()))

    def table(self) -> str:
        """The points, for a terminal."""
        points, n = self.points, self.points["p"].size
        samples = self.study == "gamma"
        scale = points["samples_per_t"] if samples else np.ones(n)
        shown = "{:.4g}" if samples else "{:.4f}"
        head = ["p", "d", "gamma", "samples n" if samples else "simulation t", "± s.e.", "runs", *FORMULAS]
        body = []
        for i in range(n):
            times = [points[name][i] * scale[i] for name in ("mean", "error", *FORMULAS)]
            cells = [shown.format(t) if math.isfinite(t) else "-" for t in times]
            runs = f"{points['replicas'][i]:.0f}"
            if points["censored"][i]:
                runs += f" ({points['censored'][i]:.0f} censored)"
            body.append([f"{points['p'][i]}", f"{points['d'][i]}", f"{points['gamma'][i]:.4g}", *cells[:2], runs])
            body[-1] += cells[2:]
        widths = [max(len(row[c]) for row in [head, *body]) for c in range(len(head))]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *body]]
        lines.insert(1, "-" * len(lines[0]))
        given = ", ".join(f"{name} = {value:g}" for name, value in self.settings.items() if name != "seed")
        lines.insert(0, f"escape, study {self.study!r}: {given}, seed {self.settings['seed']}\n")
        for name, values in self.exit_times.items():
            seen = values[np.isfinite(values)]
            if seen.size > 1:
                low, middle, high = np.quantile(np.where(np.isfinite(values), values, np.inf), (0.1, 0.5, 0.9))
                lines.append(
                    f"{name}: median {middle:.4f}, central 80 % {low:.4f} to {high:.4f}, standard deviation "
                    f"{seen.std(ddof=1):.4f}, {values.size} runs, {values.size - seen.size} censored"
                )
        if self.optima:
            lines.append("fewest samples: " + ", ".join(f"gamma = {g:.5g} ({by})" for by, g in self.optima.items()))
        if self.remark:
            lines.append(self.remark)
        lines.append("plain, full: the corrected times of finite d.  t = nu*gamma/(p*d), samples n = t p d/gamma.")
        if any("-" in row for row in body):
            lines.append("-: not all runs have exited, or the formula does not hold at this point.")
        return "\n".join([*lines, *self.failures])

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "study": self.study,
            "settings": self.settings,
            **{key: {name: values.tolist() for name, values in getattr(self, key).items()} for key in ARRAYS},
            "optima": self.optima,
            "remark": self.remark,
            "failures": list(self.failures),
            "versions": self.versions,
        }

    def figure(self) -> Figure:
        """Draw it (needs the extra ``plot``); returns the matplotlib Figure."""
        return study_figure(self)

    def save(self, out: str | os.PathLike[str], *, figure: bool = True) -> list[Path]:
        """Write ``out``.npz (arrays), ``out``.txt (the table) and, with matplotlib, ``out``.png; returns the paths."""
        variables = {name: (("point",), values) for name, values in self.points.items()}
        variables |= {f"curve_{name}": (("curve",), values) for name, values in self.curves.items()}
        for name, values in self.exit_times.items():
            variables[f"exit_times_{name}"] = ((f"replica_{name}",), values)
        document = {key: value for key, value in self.to_dict().items() if key not in ARRAYS}
        return write_files(out, variables, document, ".txt", self.table(), self.figure if figure else None)

    def __repr__(self) -> str:
        return f"EscapeStudy({self.study}, {self.points['p'].size} points, {len(self.failures)} failed)"


def escape_study(
    study: str,
    *,
    p: int | Sequence[int] | None = None,
    d: int | Sequence[int] | None = None,
    rate: float = 0.1,
    Delta: float = 1e-4,
    T: float = 0.01,
    replicas: int | None = None,
    seed: int = 0,
    quick: bool = False,
    record: str | os.PathLike[str] | None = None,
    fresh: bool = False,
    executor: Executor | None = None,
    workers: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> EscapeStudy:
    """Study the exit time of spherical phase retrieval from random starts, by simulation and by every formula.

    Parameters
    ----------
    study : {"distribution", "dimension", "gamma", "ratio"}
        Exit times by route at one point; their mean against d; samples against the learning rate with its optimum; the
        simulation over each formula against p.
    p, d : int or sequence of int, optional
        Widths and dimensions, instead of those of the study.
    rate : float
        gamma/p; in the study "gamma", which goes through the learning rates, it is not used.
    Delta, T : float
        Variance of the label noise; the exit is where the excess risk has fallen by the fraction T.
    replicas : int, optional
        Runs at each point; by default 4000/p but at least 50, or 200 if quick.
    seed : int
        Of starts and runs, the same at all points.
    quick : bool
        Fewer and smaller points.
    record : path, optional
        A ``.jsonl`` file that keeps the finished points: the same study goes on from it after a kill or Ctrl-C.
    fresh : bool
        Compute everything again, whatever the record holds.
    executor, workers, progress
        As of `hdsgd.sweep`.

    Returns
    -------
    EscapeStudy
        ``print(study.table())``, ``study.figure()``, ``study.save("name")``.

    Raises
    ------
    ValueError, TypeError
        Arguments out of range, or a record of another study, of other settings or of another version.

    Notes
    -----
    The full "ratio" takes half an hour on one core for each point at p = 500, the other studies minutes.

    Source: Arnaboldi et al. 2023 (arXiv 2305.18502), figure 2 for the ratio.

    Examples
    --------
    >>> import hdsgd
    >>> found = hdsgd.escape_study("dimension", d=[300, 1000], T=0.1, replicas=100, workers=0)
    >>> found
    EscapeStudy(dimension, 2 points, 0 failed)
    >>> bool(found.points["mean"][0] < found.points["mean"][1])
    True
    """
    study = choice("study", study, STUDIES)
    callback("progress", progress)
    points = _points(study, p, d, rate, Delta, T, replicas, seed, 0 if quick else 1)
    by_route = study == "distribution"
    jobs = [{"by": by, **points[0]} for by in ROUTES] if by_route else points
    done, failed = evaluate(
        sampled_exits if by_route else escape_point,
        jobs,
        record=_record(record, study, jobs, fresh),
        executor=executor,
        workers=workers,
        progress=progress,
    )
    found: dict[str, Any] = {"exit_times": {}, "curves": {}, "optima": {}, "remark": ""}
    if by_route:
        found["exit_times"] = {ROUTES[jobs[i]["by"]]: np.array(done[i]["times"]) for i in sorted(done)}
        times = found["exit_times"].get("simulation", np.zeros(0))
        done = {0: {**summary(times), "replicas": times.size, **_formulas(points[0])}}
    if study == "gamma":
        found |= _against_gamma(points, 0 if quick else 1)
    order = sorted(range(len(points)), key=lambda i: [points[i][name] for name in ("p", "d", "rate")])
    return EscapeStudy(
        study=study,
        settings={
            name: points[0][name] for name in ("T", "Delta", "rate", "seed") if (study, name) != ("gamma", "rate")
        },
        points=_arrays([points[i] for i in order], [done.get(i, {}) for i in order]),
        failures=tuple(f"{_place(jobs[i])}: {failed[i]}" for i in sorted(failed)),
        **found,
    )


def _points(
    study: str,
    p: int | Sequence[int] | None,
    d: int | Sequence[int] | None,
    rate: float,
    Delta: float,
    T: float,
    replicas: int | None,
    seed: int,
    index: int,
) -> list[dict[str, Any]]:
    """The arguments of each point, all of them checked, the longest first."""
    widths = _several("p", p, WIDTHS.get(study, ((1,), (1,)))[index])
    dimensions = _several("d", d, DIMENSIONS.get(study, ((3000,), (3000,)))[index])
    if study in ("distribution", "gamma") and (len(widths), len(dimensions)) != (1, 1):
        raise ValueError(f"the study {study!r} is made at one p and one d; pass one of each.")
    if replicas is not None or index == 0:
        replicas = QUICK if replicas is None else integer("replicas", replicas, low=2, hint="an error needs 2")
    fixed = {"Delta": real("Delta", Delta, low=0.0), "T": fraction(T), "replicas": replicas}
    fixed["seed"] = integer("seed", seed, low=0)
    rates = [real("rate", rate, low=0.0, strict=True, hint="it is gamma/p")]
    silent = _problem({"p": 1, "rate": 0.0, **fixed})
    if study == "gamma":
        rates = [share * max_gamma(silent, widths[0]) / widths[0] for share in SHARES[index]]
    for one in widths:  # before the work
        if rates[-1] * one >= max_gamma(silent, one):
            raise ValueError(f"rate={rate:g} is beyond the stability of the escape at p={one}; choose a smaller one.")
    axes = itertools.product(reversed(widths), reversed(dimensions), rates)
    return [{"p": p, "d": d, "rate": rate, **fixed} for p, d, rate in axes]


def _problem(point: Mapping[str, Any]) -> Problem:
    return Problem("quadratic", gamma=point["rate"] * point["p"], Delta=point["Delta"], spherical=True)


def _formulas(point: Mapping[str, Any]) -> dict[str, float]:
    return formulas(_problem(point), point["p"], point["d"], point["T"])


def _against_gamma(points: Sequence[Mapping[str, Any]], index: int) -> dict[str, Any]:
    """The formulas at many learning rates, and those of the fewest samples."""
    p, d, T = (points[0][name] for name in ("p", "d", "T"))
    silent = _problem({**points[0], "rate": 0.0})
    shares = np.geomspace(SHARES[index][0], SHARES[index][-1], FINE[index])
    fine = [{**points[0], "rate": gamma / p} for gamma in shares * max_gamma(silent, p)]
    every = _arrays(fine, [_formulas(point) for point in fine])
    optima, remark = {"linear": optimal_gamma(silent, p=p)}, ""
    try:
        optima["corrected"] = learning_rate(silent, p=p, d=d, T=T, by="corrected").optimal
    except ValueError as reason:
        remark = str(reason)
    curves = {name: every[name] for name in ("gamma", "samples_per_t", *FORMULAS)}
    return {"curves": curves, "optima": optima, "remark": remark}


def _record(
    path: str | os.PathLike[str] | None, study: str, points: Sequence[Mapping[str, Any]], fresh: bool
) -> Record | None:
    if path is None:
        return None
    own = file_path(path, "study.jsonl")
    head = {"hdsgd_study": FORMAT, "version": versions()["hdsgd"], "study": study, "points": points}
    record = Record(own, head, FRESH)
    if fresh:
        own.unlink(missing_ok=True)
    return record


def _arrays(points: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> dict[str, Array]:
    """The points of a study, from what was found at each."""
    missing = {**dict.fromkeys(("mean", "error", "median", *FORMULAS), math.nan), "censored": 0, "replicas": 0}
    p, d, rate = (np.array([point[name] for point in points]) for name in ("p", "d", "rate"))
    values = {name: np.array([one.get(name, default) for one in found]) for name, default in missing.items()}
    return {"p": p, "d": d, "gamma": p * rate, **values, "samples_per_t": d / rate}


def _place(point: Mapping[str, Any]) -> str:
    if "by" in point:
        return ROUTES[point["by"]]
    return f"p = {point['p']}, d = {point['d']}, gamma/p = {point['rate']:g}"


def _several(name: str, value: int | Sequence[int] | None, usual: Sequence[int]) -> list[int]:
    if value is None:
        return list(usual)
    given = value if isinstance(value, (list, tuple, range)) else [value]
    if not given:
        raise ValueError(f"{name} is empty; leave it out, or give at least one.")
    return sorted({integer(name, one) for one in given})
