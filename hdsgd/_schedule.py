"""Learning rates that change with time, and the clock of SGD steps under them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._checks import array

__all__ = ["Clock", "Schedule"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Schedule:
    """A piecewise constant learning rate gamma(t), in the time t = sum over steps of gamma/(p*d).

    Parameters
    ----------
    times : array_like, shape (n,)
        Where the pieces begin: the first at 0, increasing.
    values : array_like, shape (n,)
        The learning rate in each, >= 0, from its time on; the last holds for ever. 0 is gradient flow, which
        `simulate` refuses.

    Raises
    ------
    ValueError, TypeError
        Times that do not begin at 0 or do not increase, negative values, or numbers of both that differ.

    See Also
    --------
    Problem.at : the problem at the learning rate of one time, for all that needs a single one.

    Notes
    -----
    In SGD every step has the learning rate of one piece: the rate changes with the step that is nearest to the time of
    the break, and t counts what was really done. Equal values in all pieces give the run at that constant rate.

    Examples
    --------
    >>> from hdsgd import Overlaps, Problem, solve_ode
    >>> decay = Schedule(times=[0.0, 20.0], values=[1.0, 0.1])
    >>> print(decay, decay(19.9), decay(20.0))
    0:1,20:0.1 1.0 0.1
    >>> start = Overlaps(Q=[[1.0]], M=[[0.3]], P=[[1.0]])
    >>> floors = [solve_ode(Problem(gamma=g, Delta=0.1), start, 60.0).risk[-1] for g in (1.0, decay)]
    >>> bool(floors[1] < 0.2 * floors[0])
    True
    """

    times: Sequence[float]
    values: Sequence[float]

    # numpy's numbers leave operators to the ones below
    __array_ufunc__ = None

    def __post_init__(self) -> None:
        times = array("times", self.times, ndim=(1,), shape="(n,)")
        values = array("values", self.values, ndim=(1,), shape="(n,)")
        if times.shape != values.shape:
            raise ValueError(
                f"a schedule has one value for each time, got {times.size} times and {values.size} values; "
                "pass for example Schedule([0, 2], [0.1, 0.05])."
            )
        if times[0] != 0.0 or np.any(np.diff(times) <= 0.0):
            raise ValueError("the times of a schedule begin at 0 and increase; pass for example [0, 2].")
        if np.any(values < 0.0):
            raise ValueError("the values of a schedule are learning rates >= 0; 0 is gradient flow.")
        object.__setattr__(self, "times", tuple(times.tolist()))
        object.__setattr__(self, "values", tuple(values.tolist()))

    @overload
    def __call__(self, t: float) -> float: ...

    @overload
    def __call__(self, t: Array | Sequence[float]) -> Array: ...

    def __call__(self, t: float | Array | Sequence[float]) -> float | Array:
        """The learning rate at the time t >= 0, or at each of an array of times."""
        rates = np.array(self.values)[self._piece(t)]
        return rates if rates.ndim else float(rates)

    def _piece(self, t: float | Array | Sequence[float]) -> NDArray[np.intp]:
        times = np.asarray(t, dtype=np.float64)
        if not np.all(times >= 0.0):
            raise ValueError(f"a schedule begins at t = 0, got {t!r}; give times t >= 0.")
        return np.asarray(np.searchsorted(self.times, times, side="right") - 1)

    def after(self, t: float) -> Schedule:
        """The schedule from time t on, which becomes its time 0."""
        i = int(self._piece(t))
        return Schedule((0.0, *(time - t for time in self.times[i + 1 :])), self.values[i:])

    def pieces(self, t_max: float) -> list[tuple[float, float, float]]:
        """Beginning, end and learning rate of each piece that lies in [0, t_max]; the first one always."""
        ends = (*self.times[1:], np.inf)
        found = zip(self.times, ends, self.values, strict=True)
        return [(begin, float(min(end, t_max)), value) for begin, end, value in found if begin < t_max or begin == 0.0]

    def steps(self, t: ArrayLike) -> Array:
        """Integral of 1/gamma from 0 to t, steps in units of p*d; infinite after gradient flow."""
        t = np.asarray(t, dtype=np.float64)
        total = np.zeros(t.shape)
        for begin, end, value in self.pieces(np.inf):
            length = np.clip(t, begin, end) - begin
            total = total + np.where(length > 0.0, length / value if value > 0.0 else np.inf, 0.0)
        return total

    def __format__(self, spec: str) -> str:
        return ",".join(f"{t:g}:{value:{spec or 'g'}}" for t, value in zip(self.times, self.values, strict=True))

    def __str__(self) -> str:
        return format(self)

    def _refuse(self, *_: object) -> NoReturn:
        raise TypeError(
            f"this needs one learning rate, but gamma is the schedule {self}; "
            "take the problem at one time, such as problem.at(0)."
        )

    # What would use it as a number says what to do instead.
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __pow__ = __rpow__ = (
        _refuse
    )
    __lt__ = __le__ = __gt__ = __ge__ = __neg__ = __float__ = _refuse


@dataclass(frozen=True)
class Clock:
    """Numbers of SGD steps and their times: piece i begins with step first[i], at time begin[i], in steps of unit[i].

    A piece begins with the step that is nearest to its time in the schedule, `breaks[i]`; those that are shorter than
    half a step may have none.
    """

    breaks: tuple[float, ...]
    first: tuple[int, ...]
    begin: tuple[float, ...]
    unit: tuple[float, ...]

    @classmethod
    def of(cls, schedule: Schedule, dimensions: float, t_max: float) -> Clock:
        """The clock of steps of t = gamma/dimensions, dimensions = p*d."""
        pieces = schedule.pieces(t_max)
        unit = [value / dimensions for _, _, value in pieces]
        first, begin = [0], [0.0]
        for i, (_, end, _) in enumerate(pieces[:-1]):
            count = max(0, int(np.rint((end - begin[i]) / unit[i])))
            first.append(first[i] + count)
            begin.append(begin[i] + count * unit[i])
        return cls(tuple(piece[0] for piece in pieces), tuple(first), tuple(begin), tuple(unit))

    def steps(self, t: ArrayLike) -> NDArray[np.int64]:
        """The numbers of the steps nearest to these times."""
        i = np.searchsorted(self.breaks, t, side="right") - 1
        count = np.rint((np.asarray(t) - np.array(self.begin)[i]) / np.array(self.unit)[i])
        last = np.array((*self.first[1:], np.iinfo(np.int64).max))
        steps = np.array(self.first)[i] + np.maximum(count, 0.0).astype(np.int64)
        return np.asarray(np.minimum(steps, last[i]), dtype=np.int64)

    def times(self, steps: ArrayLike) -> Array:
        """The times after these numbers of steps."""
        i = np.searchsorted(self.first, steps, side="right") - 1
        return np.asarray(
            np.array(self.begin)[i] + (np.asarray(steps) - np.array(self.first)[i]) * np.array(self.unit)[i]
        )

    def unit_at(self, step: int) -> float:
        """The time that this step takes."""
        return self.unit[bisect_right(self.first, step) - 1]
