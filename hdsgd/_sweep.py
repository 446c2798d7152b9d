"""Parameter sweeps: one function at every point of a grid, on any executor, resumable."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import itertools
import json
import math
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ._checks import callback, file_path, integer
from ._record import Record, Values
from ._simulate_c import threads
from ._solution import versions

__all__ = ["Sweep", "evaluate", "sweep"]

FORMAT = 1
ATTEMPTS = 3  # a point whose worker dies this often is recorded as a failure
# Threads of linear algebra, read when it is loaded: with two of them in each of two processes on two cores, the
# eigenvalues of a 500 x 500 matrix take ten times longer than with one.
BLAS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
POLL = 0.05  # seconds between looks at signals


@dataclass(frozen=True, eq=False)
class Sweep:
    """The values of a function on a grid.

    Attributes
    ----------
    function : str
        Module and name of the function.
    grid : mapping of str to tuple
        The axes in order.
    values : mapping of str to array
        For each result its values, of the shape of the grid followed by that of the result; NaN where a point failed.
    failures : mapping of tuple of int to str
        For each point that failed, by its place in the grid, the error in one line.
    """

    function: str
    grid: Mapping[str, tuple[Any, ...]]
    values: Mapping[str, NDArray[Any]]
    failures: Mapping[tuple[int, ...], str]

    def __getstate__(self) -> dict[str, Any]:
        """Plain dicts, since read-only views of them cannot be pickled."""
        return {name: dict(value) if isinstance(value, Mapping) else value for name, value in vars(self).items()}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Restore the read-only views and arrays."""
        for values in state["values"].values():
            values.setflags(write=False)
        for name, value in state.items():
            object.__setattr__(self, name, MappingProxyType(value) if isinstance(value, dict) else value)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the grid."""
        return tuple(len(axis) for axis in self.grid.values())

    def to_xarray(self) -> Any:
        """Return an ``xarray.Dataset`` labelled by the grid; needs the extra ``hdsgd[data]``."""
        try:
            xarray = importlib.import_module("xarray")
        except ImportError:
            raise ValueError("to_xarray() needs xarray; install it with: pip install 'hdsgd[data]'.") from None
        data = {}
        for name, values in self.values.items():
            inner = [f"{name}_{i}" for i in range(values.ndim - len(self.grid))]
            data[name] = ([*self.grid, *inner], values)
        failed = np.full(self.shape, "", dtype=object)
        for place, message in self.failures.items():
            failed[place] = message
        data["failure"] = (list(self.grid), failed.astype(str))
        coordinates = {axis: [_shown(value) for value in values] for axis, values in self.grid.items()}
        return xarray.Dataset(data, coords=coordinates, attrs={"function": self.function})

    def __repr__(self) -> str:
        size = " x ".join(f"{len(values)} {axis}" for axis, values in self.grid.items())
        return f"Sweep({self.function}: {size}; {', '.join(self.values) or 'no results'}; {len(self.failures)} failed)"


def sweep(
    function: Callable[..., Any],
    grid: Mapping[str, Iterable[Any]],
    *,
    executor: Executor | None = None,
    out: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> Sweep:
    """Evaluate a function at every point of a grid.

    Parameters
    ----------
    function : callable
        Called as ``function(**point)``, with one value of each axis; returns a number, an array, or a dict of these,
        of the same shapes at every point. For other processes it must be importable: defined at the top of a module.
    grid : mapping of str to iterable
        The values of each argument.
    executor : concurrent.futures.Executor, optional
        Where the points run: ``distributed.Client(...).get_executor()``, ``mpi4py.futures.MPIPoolExecutor()``, a thread
        pool ... It is left open. None: a pool of spawned processes, one for each core, each with one thread.
    out : path, optional
        A ``.jsonl`` file that receives each point as it is finished. If it is there already, its points are not
        computed again: this is how a sweep goes on after a crash or Ctrl-C. Failed points are tried again. It is of
        one function, by its name in a module, of these values, and of this version of hdsgd.
    workers : int, optional
        Processes of the default pool; 0 runs the points here, one after another.
    progress : callable, optional
        Called with the fraction that is done.

    Returns
    -------
    Sweep

    Raises
    ------
    ValueError, TypeError
        An empty grid, one whose axes are not the arguments of the function, a function that cannot be sent to other
        processes, or a file of another sweep.

    Notes
    -----
    An exception at a point is recorded in ``failures`` and the sweep goes on. A worker that dies takes nothing along:
    the default pool is replaced and its points run again.

    Examples
    --------
    >>> from hdsgd import escape, Problem
    >>> def annealed(gamma, d):
    ...     problem = Problem("quadratic", gamma=gamma, spherical=True)
    ...     return escape.annealed(problem, p=1, d=d, T=0.1)
    >>> result = sweep(annealed, {"gamma": [0.05, 0.1], "d": [100, 1000, 10000]}, workers=0)
    >>> result.values["value"].shape
    (2, 3)
    """
    axes = _axes(grid)
    if not callable(function):
        raise TypeError(f"function must be callable, got {type(function).__name__}")
    callback("progress", progress)
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise TypeError(
            f"executor must be a concurrent.futures.Executor, got {type(executor).__name__}; leave it out for processes"
        )
    name = f"{getattr(function, '__module__', '?')}:{getattr(function, '__qualname__', repr(function))}"
    places = list(itertools.product(*(range(len(values)) for values in axes.values())))
    points = [{axis: axes[axis][i] for axis, i in zip(axes, place, strict=True)} for place in places]
    _takes(function, name, points[0])
    record = None if out is None else Record(file_path(out, "sweep.jsonl"), _head(name, axes))
    done, failed = evaluate(function, points, record=record, executor=executor, workers=workers, progress=progress)
    return Sweep(
        function=name,
        grid=MappingProxyType(axes),
        values=MappingProxyType(_gathered(done, tuple(map(len, axes.values())), places)),
        failures=MappingProxyType({places[i]: failed[i] for i in sorted(failed)}),
    )


def evaluate(
    function: Callable[..., Any],
    points: Sequence[dict[str, Any]],
    *,
    record: Record | None,
    executor: Executor | None,
    workers: int | None,
    progress: Callable[[float], None] | None,
) -> tuple[dict[int, Values], dict[int, str]]:
    """The values of a function at points, and the errors of those that failed, by number; arguments as of `sweep`."""
    done: dict[int, Values] = {} if record is None else record.read(len(points))
    failed: dict[int, str] = {}
    todo = [i for i in range(len(points)) if i not in done]

    def finished(i: int, outcome: Values | str) -> None:
        if isinstance(outcome, str):
            failed[i] = outcome
        else:
            done[i] = outcome
        if record is not None:
            record.add(i, outcome)
        if progress is not None:
            progress((len(done) + len(failed)) / len(points))

    with _closing(record, done, len(points)) if record is not None else contextlib.nullcontext():
        if executor is None and (workers == 0 or not todo):
            for i in todo:
                finished(i, _outcome(function, points[i]))
        elif executor is not None:
            _on(executor, function, points, todo, finished)
        else:
            hint = "0 runs the points in this process"
            count = integer("workers", workers, low=0, hint=hint) if workers else threads()
            _on_processes(function, points, todo, finished, count)
    return done, failed


@contextlib.contextmanager
def _closing(record: Record, done: Sized, count: int) -> Iterator[None]:
    """Close the record in the end; an interrupt says what it keeps."""
    with contextlib.closing(record):
        try:
            yield
        except KeyboardInterrupt as error:
            if done:
                error.add_note(f"{record.path} keeps {len(done)} of {count} points: the same call goes on with them")
            raise


def _takes(function: Callable[..., Any], name: str, point: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions in C have none
        return
    try:
        signature.bind(**point)
    except TypeError as error:
        raise TypeError(
            f"the axes of the grid are not the arguments of {name}{signature} ({error}); rename, add or leave out axes"
        ) from None


def _head(function: str, axes: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """What a record is of: another function, or other values, must not go on with its points."""
    if "<" in function:  # <lambda>, <locals>, <function ... at 0x...>
        raise ValueError(
            f"a record knows its function by name, and {function} may be any; define it by def in a module, or leave "
            "out=None."
        )
    grid = {axis: [_identity(axis, value) for value in values] for axis, values in axes.items()}
    return {"hdsgd_sweep": FORMAT, "version": versions()["hdsgd"], "function": function, "grid": grid}


def _identity(axis: str, value: Any) -> Any:
    """A number or text as it is; of another object also what it contains, which its representation may not show."""
    label = _shown(value)
    if label is value:
        return label
    try:
        content = pickle.dumps(value, protocol=5)
    except Exception as error:  # whatever an object does when it is pickled
        raise ValueError(
            f"the value {label} of the axis {axis!r} cannot be written to a record ({error}); pass numbers or texts, "
            "or leave out=None."
        ) from None
    return f"{label} {hashlib.sha256(content).hexdigest()[:16]}"


def _axes(grid: object) -> dict[str, tuple[Any, ...]]:
    if not isinstance(grid, Mapping) or not grid:
        raise TypeError('grid must map arguments to their values, as in {"gamma": [0.1, 0.2]}')
    axes: dict[str, tuple[Any, ...]] = {}
    for axis, values in grid.items():
        if isinstance(values, str | bytes) or not hasattr(values, "__iter__"):
            raise TypeError(f"the axis {axis!r} must be a sequence of values; write [{values!r}] for a single one")
        axes[str(axis)] = tuple(value.item() if isinstance(value, np.generic) else value for value in values)
        if not axes[str(axis)]:
            raise ValueError(f"the axis {axis!r} has no values; give at least one")
        _distinct(axis, axes[str(axis)])
    return axes


def _distinct(axis: object, values: tuple[Any, ...]) -> None:
    """Refuse a value that is there twice: a number or text by value, another object only if it is the same one."""
    seen: set[Any] = set()
    for value in values:
        key = value if isinstance(value, bool | int | float | str) else (id(value),)
        if key in seen:
            raise ValueError(
                f"the axis {axis!r} has the value {_shown(value)!r} twice; give each once (to repeat a run, add an "
                "axis such as seed)"
            )
        seen.add(key)


def _outcome(function: Callable[..., Any], point: dict[str, Any]) -> Values | str:
    """The values at a point, or its error in one line; runs in the worker."""
    try:
        result = function(**point)
        values = dict(result) if isinstance(result, Mapping) else {"value": result}
        plain = {str(name): np.asarray(value).tolist() for name, value in values.items()}
        try:
            json.dumps(plain)
        except TypeError as error:
            raise TypeError(f"the results are not real numbers, texts or arrays of them ({error})") from None
        return plain
    except Exception as error:  # whatever it is, the other points go on
        return f"{type(error).__name__}: {' '.join(str(error).split())}"


Finished: TypeAlias = Callable[[int, Values | str], None]


def _on(
    executor: Executor,
    function: Callable[..., Any],
    points: Sequence[dict[str, Any]],
    todo: Iterable[int],
    finished: Finished,
    *,
    cancel: bool = True,
) -> list[int]:
    """Run points on an executor; return those that were lost because it broke.

    What waits is cancelled when this is interrupted, unless the caller ends the whole executor: Python 3.11 prints a
    traceback where a process pool breaks that has cancelled futures.
    """
    places: dict[Future[Values | str], int] = {}
    lost: list[int] = []
    try:
        for i in todo:
            places[executor.submit(_outcome, function, points[i])] = i
        pending = set(places)
        while pending:
            over, pending = wait(pending, timeout=POLL, return_when=FIRST_COMPLETED)
            for future in over:
                try:
                    finished(places[future], future.result())
                except BrokenExecutor:
                    lost.append(places[future])
    except BrokenExecutor:  # while submitting
        known = set(places.values())
        for future, i in places.items():
            if future.done() and not future.cancelled() and future.exception() is None:
                finished(i, future.result())
            else:
                lost.append(i)
        lost += [i for i in todo if i not in known]
    finally:
        for future in places if cancel else ():
            future.cancel()
    return lost


def _on_processes(
    function: Callable[..., Any],
    points: Sequence[dict[str, Any]],
    todo: list[int],
    finished: Finished,
    workers: int,
) -> None:
    try:
        pickle.dumps((function, points[0]))
    except Exception:  # pickle raises whatever the object's own code raises
        raise ValueError(
            "the function and its arguments must be known to other processes: define the function at the top of a "
            "module, or pass workers=0"
        ) from None
    for _ in range(ATTEMPTS - 1):
        todo = _in_pool(function, points, todo, finished, workers)
        if not todo:
            return
    for i in todo:  # some point kills its worker again and again: alone, it takes no other along
        if _in_pool(function, points, [i], finished, 1):
            finished(i, f"the process that computed it died {ATTEMPTS} times")


def _in_pool(
    function: Callable[..., Any],
    points: Sequence[dict[str, Any]],
    todo: list[int],
    finished: Finished,
    workers: int,
) -> list[int]:
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        min(workers, len(todo)), mp_context=multiprocessing.get_context("spawn"), initializer=_in_worker
    )
    try:
        with _inherited(BLAS):
            lost = _on(pool, function, points, todo, finished, cancel=False)
    except BaseException:  # Ctrl-C does not wait for the points that are running
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
    return lost


@contextlib.contextmanager
def _inherited(names: Iterable[str]) -> Iterator[None]:
    """Processes that start now find these variables at 1, unless the user has set them."""
    missing = [name for name in names if name not in os.environ]
    os.environ.update(dict.fromkeys(missing, "1"))
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)


def _in_worker() -> None:
    os.environ["HDSGD_THREADS"] = "1"
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """Die with the parent: a worker of one that was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _gathered(done: Mapping[int, Values], shape: tuple[int, ...], places: list[tuple[int, ...]]) -> dict[str, Any]:
    """Arrays over the grid; results whose shapes differ from point to point are kept as objects."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for i in sorted(done) for name in done[i]):  # in the function's own order
        cells = {i: np.asarray(values[name]) for i, values in done.items() if name in values}
        inner = {cell.shape for cell in cells.values()}
        plain = len(inner) == 1 and all(cell.dtype.kind in "biuf" for cell in cells.values())
        out = np.full((*shape, *inner.pop()), np.nan) if plain else np.full(shape, None, dtype=object)
        for i, cell in cells.items():
            out[places[i]] = cell if plain else cell.tolist()
        out.setflags(write=False)
        found[name] = out
    return found


def _shown(value: Any) -> Any:
    """A label: numbers and texts as they are, other objects by their representation."""
    if isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return repr(value)
