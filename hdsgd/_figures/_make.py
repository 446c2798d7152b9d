"""Make a figure: run its jobs, check its claims, write picture, data and report."""

from __future__ import annotations

import importlib
import importlib.util
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import _storage
from .._checks import callback, choice, file_path, integer
from .._random import master_seed
from .._record import FRESH, Record
from .._solution import versions
from .._sweep import evaluate
from . import _report
from ._frame import SIZES, Claim, Figure, Job, Results, style
from ._names import find

if TYPE_CHECKING:
    import matplotlib.figure

__all__ = ["FORMATS", "FigureResult", "figure"]

FORMAT = 1
FORMATS = ("png", "pdf", "svg")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FigureResult:
    """A figure that was made by `hdsgd.figure`.

    Attributes
    ----------
    name, title, source : str
        What it shows, and where that is published.
    size : str
        "tiny", "quick" or "full".
    seed : int
        ``seed=result.seed`` reproduces it.
    claims : tuple of Claim
        Each number that was checked, with the fields what, paper, expected, ours, error, within, note and verdict:
        "agrees", "differs", "paper is wrong" or "reported".
    data : dict of dict of ndarray
        What each job returned.
    settings : dict of dict
        The arguments of each job.
    paths : tuple of Path
        The files: picture (where matplotlib is installed), data and report.
    seconds : float
        Wall time of this call.
    resumed : int
        How many jobs it did not run, because the record of an earlier call had them.
    versions : dict
        Of hdsgd, numpy, scipy and Python.
    """

    name: str
    title: str
    source: str
    size: str
    seed: int
    claims: tuple[Claim, ...]
    data: Mapping[str, Mapping[str, NDArray[Any]]]
    settings: Mapping[str, Mapping[str, Any]]
    paths: tuple[Path, ...]
    seconds: float
    resumed: int
    versions: Mapping[str, str]

    def figure(self) -> matplotlib.figure.Figure:
        """Draw it (needs the extra ``plot``); returns the matplotlib Figure."""
        with style():
            return find(self.name)[1].draw(Results(self.size, self.settings, self.data))

    def table(self) -> str:
        """The claims, for a terminal."""
        return _report.table(self.claims)

    def summary(self) -> str:
        """How many claims have which verdict."""
        return _report.summary(self.claims)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the arrays, ready for JSON."""
        return {
            "name": self.name,
            "title": self.title,
            "source": self.source,
            "size": self.size,
            "seed": self.seed,
            "claims": [{**asdict(claim), "verdict": claim.verdict} for claim in self.claims],
            "settings": {name: dict(arguments) for name, arguments in self.settings.items()},
            "seconds": self.seconds,
            "resumed": self.resumed,
            "versions": dict(self.versions),
        }

    def __repr__(self) -> str:
        return f"FigureResult({self.name}, {self.size}: {len(self.data)} jobs, {self.summary()})"


def figure(
    name: str,
    *,
    size: str = "full",
    out: str | os.PathLike[str] = "figures",
    seed: int = 0,
    format: str = "png",
    fresh: bool = False,
    workers: int | None = None,
    executor: Executor | None = None,
    progress: Callable[[float], None] | None = None,
) -> FigureResult:
    """Make a figure of the papers: picture, data, and a report on its claims.

    Parameters
    ----------
    name : str
        Such as "A1"; an unknown one is refused with the list of all.
    size : {"full", "quick", "tiny"}
        The published setting; a smaller one of about half a minute; one of a second or two.
    out : path
        Folder for the files, made if it is missing: NAME.png, NAME.npz, NAME.nc (where xarray and h5netcdf are
        installed), NAME.md and NAME.jsonl; NAME-quick... for another size than "full".
    seed : int
        Of all random numbers.
    format : {"png", "pdf", "svg"}
        Of the picture.
    fresh : bool
        Compute everything again. Otherwise the jobs in NAME.jsonl, the record of the same figure, size, seed and
        version, are not run again: a run goes on after a crash or Ctrl-C, which lose only the jobs that were running.
        A record of another seed or version is refused.
    workers : int, optional
        Processes, by default one for each core, with one thread each; 0 runs the jobs here, one after another.
    executor : concurrent.futures.Executor, optional
        Where the jobs run instead, as for `hdsgd.sweep`.
    progress : callable, optional
        Called with the fraction that is done.

    Returns
    -------
    FigureResult

    Raises
    ------
    ValueError, TypeError
        An unknown name, size or format, a folder that cannot be made, or a record there that does not fit.
    RuntimeError
        A job failed; the others are in the record.

    Examples
    --------
    >>> import hdsgd
    >>> result = hdsgd.figure("A1", size="tiny", workers=0)
    >>> sorted(path.name for path in result.paths if path.suffix in (".md", ".npz"))
    ['A1-tiny.md', 'A1-tiny.npz']
    >>> print(result.table().splitlines()[0])  # doctest: +ELLIPSIS
    claim ... verdict
    """
    began = time.perf_counter()
    name, spec = find(name)
    size, format = choice("size", size, SIZES), choice("format", format, FORMATS)
    seed = master_seed(integer("seed", seed, low=0))
    callback("progress", progress)
    jobs = _jobs(name, spec, size, seed)
    prefix = _folder(out) / (name if size == "full" else f"{name}-{size}")
    values, resumed = _values(name, jobs, prefix.with_suffix(".jsonl"), size, seed, fresh, executor, workers, progress)
    settings = {job.name: job.point()["arguments"] for job in jobs}
    results = Results(size, settings, values)
    formats = [format] if importlib.util.find_spec("matplotlib") is not None else []
    data = [".npz", ".nc"] if all(importlib.util.find_spec(it) for it in ("xarray", "h5netcdf")) else [".npz"]
    paths = tuple(prefix.with_suffix(ending) for ending in [*(f".{it}" for it in formats), *data, ".md"])
    found = FigureResult(
        name=name,
        title=spec.title,
        source=spec.source,
        size=size,
        seed=seed,
        claims=tuple(spec.claims(results)),
        data=values,
        settings=settings,
        paths=paths,
        seconds=time.perf_counter() - began,
        resumed=resumed,
        versions=versions(),
    )
    _write(found, spec.draw, results)
    return found


def _jobs(name: str, spec: Figure, size: str, seed: int) -> list[Job]:
    jobs = list(spec.jobs(size, seed))
    names = [job.name for job in jobs]
    if len(set(names)) < len(names) or not all(names) or any("/" in it for it in names):
        raise ValueError(f"the jobs of {name} need different names without '/', got {', '.join(names)}.")
    return jobs


def _folder(out: str | os.PathLike[str]) -> Path:
    folder = file_path(out, "figures")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"the folder {str(out)!r} cannot be made ({error.strerror}); choose another.") from None
    return folder


def _values(
    name: str,
    jobs: list[Job],
    path: Path,
    size: str,
    seed: int,
    fresh: bool,
    executor: Executor | None,
    workers: int | None,
    progress: Callable[[float], None] | None,
) -> tuple[Mapping[str, Mapping[str, NDArray[Any]]], int]:
    """What the jobs return, those in the record and those that are run now, and how many were in the record."""
    resumed = len(jobs)

    def ran(fraction: float) -> None:  # called after each job that is run
        nonlocal resumed
        resumed -= 1
        if progress is not None:
            progress(fraction)

    points = [job.point() for job in jobs]
    head = {"hdsgd_figure": FORMAT, "version": versions()["hdsgd"], "name": name, "size": size, "seed": seed}
    head["jobs"] = points
    if fresh:
        path.unlink(missing_ok=True)
    record = Record(path, head, FRESH)
    done, failed = evaluate(run, points, record=record, executor=executor, workers=workers, progress=ran)
    if failed:
        first = min(failed)
        raise RuntimeError(
            f"{len(failed)} of the {len(jobs)} jobs of {name} failed, first {jobs[first].name!r} with: {failed[first]}"
        )
    values = {job.name: {key: np.asarray(value) for key, value in done[i].items()} for i, job in enumerate(jobs)}
    for value in (value for arrays in values.values() for value in arrays.values()):
        value.setflags(write=False)
    return values, resumed


def run(function: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Run a job, in whatever process."""
    module, _, attribute = function.partition(":")
    values: Mapping[str, Any] = getattr(importlib.import_module(module), attribute)(**arguments)
    return values


def _write(result: FigureResult, draw: Callable[[Results], matplotlib.figure.Figure], results: Results) -> None:
    variables = {}
    for job, values in result.data.items():
        for name, value in values.items():
            variables[f"{job}: {name}"] = (_dimensions(job, value.shape), value)
    for path in result.paths:
        if path.suffix in (".npz", ".nc"):
            _storage.write(path, variables, result.to_dict())
            continue
        with _storage.atomically(path) as partial:
            if path.suffix == ".md":
                partial.write_text(_report.markdown(result), encoding="utf-8")
            else:
                with style():
                    draw(results).savefig(partial)


def _dimensions(job: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Labels of the axes: axes of one length share theirs within a job, and are numbered within an array."""
    return tuple(f"{job}: {length}" + "'" * shape[:i].count(length) for i, length in enumerate(shape))
