"""Studies of the escape from mediocrity: what its exit time depends on, by simulation and by every formula."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import _storage
from ._checks import choice, integer, real
from ._escape_points import escape_point, formulas, sampled_exits
from ._escape_result import prefix
from ._learning_rate import learning_rate
from ._passage import fraction
from ._problem import Problem
from ._retrieval import max_gamma, optimal_gamma
from ._solution import versions
from ._study_plots import study_figure
from ._sweep import sweep

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["STUDIES", "EscapeStudy", "escape_study"]

Array = NDArray[Any]

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
        start = prefix(out)
        paths = [start.with_name(f"{start.name}{ending}") for ending in (".npz", ".txt", ".png")]
        variables = {name: (("point",), values) for name, values in self.points.items()}
        variables |= {f"curve_{name}": (("curve",), values) for name, values in self.curves.items()}
        for name, values in self.exit_times.items():
            variables[f"exit_times_{name}"] = ((f"replica_{name}",), values)
        document = {key: value for key, value in self.to_dict().items() if key not in ARRAYS}
        _storage.write(paths[0], variables, document)
        with _storage.atomically(paths[1]) as partial:
            partial.write_text(self.table() + "\n", encoding="utf-8")
        if not figure:
            return paths[:2]
        try:
            drawing = self.figure()
        except ValueError:  # no matplotlib: the numbers are there all the same
            return paths[:2]
        with _storage.atomically(paths[2]) as partial:
            drawing.savefig(partial, dpi=150)
        return paths

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
    executor, workers, progress
        As of `hdsgd.sweep`.

    Returns
    -------
    EscapeStudy
        ``print(study.table())``, ``study.figure()``, ``study.save("name")``.

    Raises
    ------
    ValueError, TypeError
        Arguments out of range, or a record of another study.

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
    index = 0 if quick else 1
    Delta, T = real("Delta", Delta, low=0.0), fraction(T)
    rate, seed = real("rate", rate, low=0.0, strict=True, hint="it is gamma/p"), integer("seed", seed, low=0)
    widths = _several("p", p, WIDTHS.get(study, ((1,), (1,)))[index])
    dimensions = _several("d", d, DIMENSIONS.get(study, ((3000,), (3000,)))[index])
    if study in ("distribution", "gamma") and (len(widths), len(dimensions)) != (1, 1):
        raise ValueError(f"the study {study!r} is made at one p and one d; pass one of each.")
    if replicas is not None or quick:
        replicas = QUICK if replicas is None else integer("replicas", replicas, low=2, hint="an error needs 2")
    fixed: dict[str, list[Any]] = {"Delta": [Delta], "T": [T], "replicas": [replicas], "seed": [seed]}
    how: dict[str, Any] = {"executor": executor, "workers": workers, "progress": progress, "out": record}
    silent = Problem("quadratic", gamma=0.0, Delta=Delta, spherical=True)
    rates = [rate]
    if study == "gamma":
        rates = [share * max_gamma(silent, widths[0]) / widths[0] for share in SHARES[index]]
    for one in widths:  # before the work
        if rates[-1] * one >= max_gamma(silent, one):
            raise ValueError(f"rate={rate:g} is beyond the stability of the escape at p={one}; choose a smaller one.")
    settings = {"T": T, "Delta": Delta, **({} if study == "gamma" else {"rate": rate}), "seed": seed}
    if study == "distribution":
        return _distribution(widths[0], dimensions[0], fixed, how, settings)
    # the longest first
    grid: dict[str, list[Any]] = {
        "p": sorted(widths, reverse=True),
        "d": sorted(dimensions, reverse=True),
        "rate": rates,
    }
    result = sweep(escape_point, {**grid, **fixed}, **how)
    axes = dict(zip(grid, (np.ravel(axis) for axis in np.meshgrid(*grid.values(), indexing="ij")), strict=True))
    order = np.lexsort([axes["rate"], axes["d"], axes["p"]])
    axes = {name: values[order] for name, values in axes.items()}
    points = _points(axes, {name: np.ravel(values)[order] for name, values in result.values.items()})
    optima, curves, remark = {}, {}, ""
    if study == "gamma":
        fine = np.geomspace(SHARES[index][0], SHARES[index][-1], FINE[index]) * max_gamma(silent, widths[0])
        own = {"p": np.full(fine.size, widths[0]), "d": np.full(fine.size, dimensions[0]), "rate": fine / widths[0]}
        each = [formulas(replace(silent, gamma=gamma), widths[0], dimensions[0], T) for gamma in fine]
        every = _points(own, {name: np.array([one[name] for one in each]) for name in FORMULAS})
        curves = {name: every[name] for name in ("gamma", "samples_per_t", *FORMULAS)}
        optima = {"linear": optimal_gamma(silent, p=widths[0])}
        try:
            optima["corrected"] = learning_rate(silent, p=widths[0], d=dimensions[0], T=T, by="corrected").optimal
        except ValueError as reason:
            remark = str(reason)
    failures = tuple(
        f"p = {grid['p'][place[0]]}, d = {grid['d'][place[1]]}, gamma/p = {rates[place[2]]:g}: {message}"
        for place, message in result.failures.items()
    )
    return EscapeStudy(
        study=study,
        settings=settings,
        points=points,
        exit_times={},
        curves=curves,
        optima=optima,
        remark=remark,
        failures=failures,
    )


def _distribution(
    p: int, d: int, fixed: dict[str, list[Any]], how: dict[str, Any], settings: dict[str, Any]
) -> EscapeStudy:
    rate = settings["rate"]
    result = sweep(sampled_exits, {"by": list(ROUTES), "p": [p], "d": [d], "rate": [rate], **fixed}, **how)
    every = np.asarray(result.values.get("times", np.zeros((len(ROUTES), 0)))).reshape(len(ROUTES), -1)
    exits = {name: row for name, row in zip(ROUTES.values(), every, strict=True) if row.size}
    times = exits.get("simulation", np.zeros(0))
    problem = Problem("quadratic", gamma=rate * p, Delta=settings["Delta"], spherical=True)
    found = {
        "mean": times.mean() if times.size else math.nan,  # NaN where one is censored: the late ones are
        "error": times.std(ddof=1) / math.sqrt(times.size) if times.size else math.nan,
        "median": _median(times),
        "censored": int(np.isnan(times).sum()),
        "replicas": times.size,
        **formulas(problem, p, d, settings["T"]),
    }
    return EscapeStudy(
        study="distribution",
        settings=settings,
        points=_points(
            {"p": np.array([p]), "d": np.array([d]), "rate": np.array([rate])},
            {name: np.array([value]) for name, value in found.items()},
        ),
        exit_times=exits,
        curves={},
        optima={},
        remark="",
        failures=tuple(f"{list(ROUTES.values())[place[0]]}: {text}" for place, text in result.failures.items()),
    )


def _points(axes: dict[str, Array], values: dict[str, Array]) -> dict[str, Array]:
    gamma = axes["p"] * axes["rate"]
    n = gamma.size
    named = {name: values.get(name, np.full(n, np.nan)) for name in ("mean", "error", "median", *FORMULAS)}
    counts = {name: values.get(name, np.zeros(n)) for name in ("censored", "replicas")}
    return {
        "p": axes["p"],
        "d": axes["d"],
        "gamma": gamma,
        **named,
        **counts,
        "samples_per_t": axes["d"] / axes["rate"],
    }


def _median(times: Array) -> float:
    if not times.size:
        return math.nan
    middle = float(np.median(np.where(np.isnan(times), np.inf, times)))
    return middle if math.isfinite(middle) else math.nan


def _several(name: str, value: int | Sequence[int] | None, usual: Sequence[int]) -> list[int]:
    if value is None:
        return list(usual)
    given = value if isinstance(value, (list, tuple, range)) else [value]
    if not given:
        raise ValueError(f"{name} is empty; leave it out, or give at least one.")
    return sorted({integer(name, one) for one in given})
