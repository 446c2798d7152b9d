"""What every solver returns: a trajectory of overlaps, or an ensemble of them, with all that made it."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import IntEnum
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _plots, _storage
from ._activation import Activation
from ._checks import frozen, index, real, restore, same_fields
from ._overlaps import Overlaps, Weights, nearest
from ._problem import Problem
from ._schedule import Schedule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Exit", "Solution", "Status", "load"]

Array = NDArray[np.float64]


class Status(IntEnum):
    """How a run ended; `Solution.message` says it in a sentence, with what to do about it.

    Attributes
    ----------
    COMPLETED : 0
        The run reached t_max (with ``stop``: before any exit, so its exit time is censored).
    EXITED : 1
        The risk passed the level of ``stop``, at ``sol.exit_time``.
    DIVERGED : 2
        The risk or the overlaps grew without bound: the learning rate is too large.
    FAILED : 3
        The solver could not go on: the time step or the tolerances do not suit the problem.
    """

    COMPLETED = 0
    EXITED = 1
    DIVERGED = 2
    FAILED = 3

    @property
    def sentence(self) -> str:
        """A sentence to act on, whatever the solver; `Solution.message` knows more."""
        return _SENTENCES[self]


_SENTENCES = {
    Status.COMPLETED: "The run reached t_max.",
    Status.EXITED: "The exit level of the risk was reached; see sol.exit_time.",
    Status.DIVERGED: (
        "The risk grew without bound: SGD is unstable at this learning rate; decrease gamma, or use spherical=True."
    ),
    Status.FAILED: "The solver could not go on; see sol.stats.",
}
_MAPPINGS = ("stats", "versions")  # kept read-only, which pickle needs help with
_CENSORED = "The run reached t_max before the exit; increase t_max to see it."
_ON_THE_SPHERE = "The risk grew without bound: SGD is unstable at this learning rate; decrease gamma."
_SDE_FAILED = "The time step is too long for the noise; decrease dt."
_ODE_FAILED = "The ODE solver could not go on; loosen rtol and atol, or choose another method (see sol.stats)."


@dataclass(frozen=True)
class Exit:
    """Stop at the first passage of the excess risk below a level.

    Parameters
    ----------
    T : float, optional
        Relative: risk <= (1 - T) * risk(0), each replica by its own start; 0 < T < 1.
    level : float, optional
        Absolute: risk <= level, level > 0. A start already below it exits at time 0.

    Raises
    ------
    ValueError, TypeError
        Both or neither given, or a value out of range.

    Notes
    -----
    Source: Arnaboldi et al. 2023 (arXiv 2305.18502) for T; both levels are of the excess risk, R - Delta/2.

    Examples
    --------
    >>> from hdsgd import Overlaps, Problem, solve_ode
    >>> problem = Problem("quadratic", gamma=0.1, spherical=True)
    >>> start = Overlaps(Q=[[1.0]], M=[[0.1]], P=[[1.0]])
    >>> sol = solve_ode(problem, start, t_max=10.0, stop=Exit(T=0.5))
    >>> round(sol.exit_time, 3), bool(abs(sol.risk[-1] / sol.risk[0] - 0.5) < 1e-9)
    (1.442, True)
    """

    T: float | None = None
    level: float | None = None

    def __post_init__(self) -> None:
        if (self.T is None) == (self.level is None):
            raise ValueError("give exactly one of T (relative to the start) and level (absolute), as in Exit(T=0.01).")
        if self.T is not None:
            hint = "the exit is where the risk has fallen to (1 - T) of its start, pass 0 < T < 1"
            object.__setattr__(self, "T", real("T", self.T, low=0.0, high=1.0, strict=True, hint=hint))
        if self.level is not None:
            hint = "the excess risk is never below 0"
            object.__setattr__(self, "level", real("level", self.level, low=0.0, strict=True, hint=hint))

    def threshold(self, risk0: ArrayLike) -> Array:
        """The level to reach from starts of risk ``risk0``, same shape."""
        start = np.asarray(risk0, dtype=np.float64)
        if self.T is not None:
            return (1.0 - self.T) * start
        return np.full_like(start, self.level)


def stop_condition(stop: object) -> Exit | None:
    """Check a ``stop`` argument."""
    if stop is None or isinstance(stop, Exit):
        return stop
    raise TypeError(f"stop must be None or an hdsgd.Exit, got {type(stop).__name__}; pass stop=hdsgd.Exit(T=0.01).")


@cache
def versions() -> dict[str, str]:
    """Versions that a result is recorded with."""
    out = {"python": platform.python_version()}
    for name in ("hdsgd", "numpy", "scipy"):
        try:
            out[name] = version(name)
        except PackageNotFoundError:  # a bare checkout on the path
            out[name] = "unknown"
    return out


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Solution:
    """A trajectory of the overlaps, or an ensemble of trajectories with a leading replica axis ``[R]``.

    Attributes
    ----------
    t : ndarray, shape (n_t,)
        Times t = nu*gamma/(p*d), increasing; equal where times asked of `simulate` are rounded to the same step.
    Q, M, a : ndarray, shapes ([R], n_t, p, p), ([R], n_t, p, k), ([R], n_t, p)
        Overlaps and second layer of the student.
    P, a_star : ndarray, shapes (k, k), (k,)
        The teacher.
    risk : ndarray, shape ([R], n_t)
        Excess population risk, >= 0 (without Delta/2).
    status : Status, or ndarray of int, shape (R,)
        COMPLETED, EXITED, DIVERGED or FAILED; an ensemble's rows are NaN after a replica's exit or divergence.
    message : str
        The status as a sentence, with what to do about it.
    exit_time : float, or ndarray, shape (R,)
        First passage of ``stop``; NaN where it is censored at t_max, or without ``stop``.
    problem : Problem
    stop : Exit or None
    method : str
        What made it: the ODE method, "sde", "overlaps" or "weights".
    steps : ndarray of int64, shape (n_t,), or None
        Numbers of SGD steps, where d is known.
    d : int or None
        Input dimension, None for the ODE.
    seed : int or None
        ``rng=sol.seed`` reproduces the run.
    weights : Weights or None
        Weights at the end, from ``simulate(..., method="weights")``.
    stats : mapping
        Counts, wall time and the like, read-only. Solutions are compared by all values but the wall time.
    versions : mapping
        Of hdsgd, numpy, scipy and Python, read-only.
    p, k : int
        Widths of student and teacher.
    replicas : int or None
        Length R of the replica axis; None for a single trajectory.
    alpha : ndarray, shape (n_t,)
        Samples per dimension, n_b*steps/d.
    """

    problem: Problem
    t: Array
    Q: Array
    M: Array
    P: Array
    a: Array
    a_star: Array
    risk: Array
    status: Any = Status.COMPLETED
    exit_time: Any = np.nan
    method: str = ""
    stop: Exit | None = None
    steps: NDArray[np.int64] | None = None
    d: int | None = None
    seed: int | None = None
    weights: Weights | None = None
    stats: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=versions)

    def __post_init__(self) -> None:
        put = object.__setattr__
        for name in ("t", "Q", "M", "P", "a", "a_star", "risk"):
            put(self, name, frozen(np.asarray(getattr(self, name), dtype=np.float64)))
        p, k = self.M.shape[-2:]
        lead = (*self.Q.shape[:-3], self.t.size)
        shapes = {"Q": (*lead, p, p), "M": (*lead, p, k), "a": (*lead, p), "P": (k, k), "a_star": (k,), "risk": lead}
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} must have shape {shape} in this solution, got {getattr(self, name).shape}.")
        if self.steps is not None:
            put(self, "steps", frozen(np.asarray(self.steps, dtype=np.int64)))
        if self.replicas is None:
            put(self, "status", Status(int(self.status)))
            put(self, "exit_time", float(self.exit_time))
        else:
            for name, kind in (("status", np.int64), ("exit_time", np.float64)):
                value = np.broadcast_to(np.asarray(getattr(self, name), dtype=kind), (self.replicas,))
                put(self, name, frozen(np.array(value)))
        for name in _MAPPINGS:
            put(self, name, MappingProxyType(dict(getattr(self, name))))

    @property
    def p(self) -> int:
        """Width of the student."""
        return int(self.M.shape[-2])

    @property
    def k(self) -> int:
        """Width of the teacher."""
        return int(self.M.shape[-1])

    @property
    def replicas(self) -> int | None:
        """Number of replicas, None for a single trajectory."""
        return int(self.Q.shape[0]) if self.Q.ndim == 4 else None

    @property
    def alpha(self) -> Array:
        """Samples per dimension, n_b*steps/d = n_b*t*p/gamma, shape (n_t,); infinite in gradient flow (gamma = 0)."""
        batch = self.problem.batch_size
        if self.steps is not None and self.d is not None:
            return batch * self.steps / self.d
        return batch * self.p * self.problem.schedule.steps(self.t)

    @property
    def message(self) -> str:
        """How the run ended, and what to do about it."""
        codes, counts = np.unique(self.status, return_counts=True)
        parts = []
        for code, count in zip(codes, counts, strict=True):
            text = Status(int(code)).sentence
            if code == Status.COMPLETED and self.stop is not None:
                text = _CENSORED
            elif code == Status.DIVERGED and self.problem.spherical:
                text = _ON_THE_SPHERE
            elif code == Status.FAILED:
                text = _SDE_FAILED if self.method == "sde" else _ODE_FAILED
            parts.append(text if self.replicas is None else f"{count} of {self.replicas} replicas: {text}")
        return " ".join(parts)

    def overlaps(self, i: int = -1, replica: int | None = None) -> Overlaps:
        """The overlaps at one stored time, to go on from.

        When going on with `simulate` or `solve_sde`, pass another seed: ``rng=sol.seed`` would repeat the random
        numbers that led here, and both parts would be correlated.

        Parameters
        ----------
        i : int
            Index of the time, the last by default.
        replica : int, optional
            One replica of an ensemble; by default all of them, with their axis.

        Returns
        -------
        Overlaps
            Omega is moved onto the cone of positive semidefinite matrices where rounding left it.

        Raises
        ------
        IndexError
            There is no such time or replica.
        ValueError
            A replica of a single trajectory was asked for, or it had already exited or diverged (NaN).
        TypeError
            An index that is not an integer.
        """
        i = index("i", i, self.t.size, "stored times")
        Q, M, a = self.Q[..., i, :, :], self.M[..., i, :, :], self.a[..., i, :]
        if replica is not None:
            if self.replicas is None:
                raise ValueError("this is a single trajectory; leave out replica.")
            replica = index("replica", replica, self.replicas, "replicas")
            Q, M, a = Q[replica], M[replica], a[replica]
        gone = ~(np.isfinite(Q).all(axis=(-2, -1)) & np.isfinite(M).all(axis=(-2, -1)) & np.isfinite(a).all(axis=-1))
        if np.any(gone):
            who = "it" if gone.ndim == 0 else f"{np.count_nonzero(gone)} of {gone.size} replicas"
            raise ValueError(
                f"{who} had exited or diverged by t = {self.t[i]:g}, so no overlaps are stored; "
                "choose an earlier i, a replica that is still running, or run without stop."
            )
        return nearest(Q, M, self.P, a, self.a_star)

    def to_xarray(self) -> Any:
        """All arrays as an `xarray.Dataset`, dimensions replica, t and units j, l, r, s (needs the extra ``data``)."""
        return _storage.dataset(self._variables(), self._metadata())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to ``path``: .npz, or .nc with the extra ``data``; read it with `hdsgd.load`.

        The file is replaced atomically and holds no pickle.

        Raises
        ------
        ValueError, TypeError
            A path that is no file name, another ending, or a folder that does not exist.
        """
        _storage.write(path, self._variables(), self._metadata())

    def plot(self) -> Figure:
        """Draw the risk and the overlaps against time (needs the extra ``plot``); returns the matplotlib Figure.

        Of an ensemble the median and the central 80 % are drawn. A replica that has exited is held at its last stored
        row; all curves end before the first replica that diverged or failed. The axis of t is logarithmic where the
        stored times (without 0) are spaced like that, over more than two decades.
        """
        return _plots.trajectories(self)

    def _variables(self) -> dict[str, tuple[tuple[str, ...], NDArray[Any]]]:
        lead = ("t",) if self.replicas is None else ("replica", "t")
        out: dict[str, tuple[tuple[str, ...], NDArray[Any]]] = {
            "t": (("t",), self.t),
            "alpha": (("t",), self.alpha),
            "risk": (lead, self.risk),
            "Q": ((*lead, "j", "l"), self.Q),
            "M": ((*lead, "j", "r"), self.M),
            "P": (("r", "s"), self.P),
            "a": ((*lead, "j"), self.a),
            "a_star": (("r",), self.a_star),
            "status": (lead[:-1], np.asarray(self.status, dtype=np.int64)),
            "exit_time": (lead[:-1], np.asarray(self.exit_time)),
        }
        if self.steps is not None:
            out["steps"] = (("t",), self.steps)
        if self.weights is not None:
            w = self.weights
            out["W"] = ((*lead[:-1], "j", "x") if w.replicas is not None else ("j", "x"), w.W)
            out["W_star"] = (("r", "x"), w.W_star)
            out["W_a"] = ((*lead[:-1], "j") if w.replicas is not None else ("j",), w.a)
            out["W_a_star"] = (("r",), w.a_star)
        return out

    def _metadata(self) -> dict[str, Any]:
        problem = asdict(self.problem)
        return {
            "problem": problem,
            "stop": None if self.stop is None else asdict(self.stop),
            "method": self.method,
            "d": self.d,
            "seed": None
            if self.seed is None
            else str(self.seed),  # 128 bits: more than other readers' JSON numbers hold
            "stats": dict(self.stats),
            "versions": dict(self.versions),
        }

    def __eq__(self, other: object) -> bool:
        """Equality by value; the wall time is not part of a solution."""
        if not isinstance(other, Solution):
            return NotImplemented
        timeless = (replace(one, stats={**one.stats, "wall_time": None}) for one in (self, other))
        return same_fields(*timeless)

    __hash__ = None  # type: ignore[assignment]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, **{name: dict(getattr(self, name)) for name in _MAPPINGS}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        restore(self, {**state, **{name: MappingProxyType(state[name]) for name in _MAPPINGS}})

    def __repr__(self) -> str:
        who = "" if self.replicas is None else f", replicas={self.replicas}"
        span = f"t={self.t[0]:g}..{self.t[-1]:g} ({self.t.size} stored)" if self.t.size else "no times stored"
        return f"Solution({self.method!r}, p={self.p}, k={self.k}{who}, {span}): {self.message}"


def load(path: str | os.PathLike[str]) -> Solution:
    """Read a solution written by `Solution.save`.

    Parameters
    ----------
    path : str or path-like
        A .npz or .nc file.

    Returns
    -------
    Solution
        Equal to the one saved.

    Raises
    ------
    ValueError, TypeError
        No such file, not one of ours, the data of an escape experiment, or a newer format. Nothing in the file is
        executed.

    Examples
    --------
    >>> import tempfile
    >>> from hdsgd import Overlaps, Problem, solve_ode
    >>> sol = solve_ode(Problem("erf"), Overlaps([[1.0]], [[0.1]], [[1.0]]), t_max=1.0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sol.save(f"{folder}/run.npz")
    ...     load(f"{folder}/run.npz") == sol
    True
    """
    arrays, metadata = _storage.read(path)
    try:
        problem = dict(metadata["problem"])
        for name in ("activation", "teacher_activation"):
            if problem[name] is not None:
                problem[name] = Activation(**problem[name])
        if isinstance(problem["gamma"], Mapping):
            problem["gamma"] = Schedule(**problem["gamma"])
        weights = None
        if "W" in arrays:
            weights = Weights(arrays["W"], arrays["W_star"], arrays["W_a"], arrays["W_a_star"])
        return Solution(
            problem=Problem(**problem),
            **{name: arrays[name] for name in ("t", "Q", "M", "P", "a", "a_star", "risk", "status", "exit_time")},
            steps=arrays.get("steps"),
            weights=weights,
            method=metadata["method"],
            stop=None if metadata["stop"] is None else Exit(**metadata["stop"]),
            d=metadata["d"],
            seed=None if metadata["seed"] is None else int(metadata["seed"]),
            stats=metadata["stats"],
            versions=metadata["versions"],
        )
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{os.fspath(path)!r} is damaged ({error}); save the solution again.") from None
