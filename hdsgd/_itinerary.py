"""The fixed points that a trajectory comes close to: height and length of its plateaus."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from . import _point_plots
from ._checks import real
from ._dynamics import Dynamics
from ._fixed_points import FixedPoint, fixed_point
from ._solution import Solution

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Itinerary", "Visit", "itinerary"]

Array = NDArray[np.float64]

DIP = np.log(2.0)  # the drift is small where it is a minimum this much below what comes before and after, in logarithm
STILL = 1e-7  # of the largest drift: what the error of the solver leaves at a fixed point
REACH = 0.25  # farthest overlap of a visited point from the path, in units of the largest overlap


@dataclass(frozen=True, eq=False, repr=False)
class Visit:
    """A plateau: a part of a trajectory near one fixed point.

    Attributes
    ----------
    point : FixedPoint
        Its ``risk`` is the height of the plateau.
    begin, end : float
        Times t between which the excess risk is near that of the point; ``end`` is infinite at a point that nothing
        leaves, and the last time of a trajectory that is cut off on a saddle.
    """

    point: FixedPoint
    begin: float
    end: float

    @property
    def height(self) -> float:
        """Excess risk of the plateau, that of the fixed point."""
        return self.point.risk

    @property
    def length(self) -> float:
        """Time t spent there."""
        return self.end - self.begin

    def __str__(self) -> str:
        if self.end == np.inf:
            return f"from t = {self.begin:.6g} on: {self.point}"
        return f"t = {self.begin:.6g} to {self.end:.6g} (length {self.length:.6g}): {self.point}"

    __repr__ = __str__


@dataclass(frozen=True, eq=False, repr=False)
class Itinerary:
    """What a trajectory visits; a sequence of `Visit`.

    Attributes
    ----------
    solution : Solution
    visits : tuple of Visit
        In order of time; they do not overlap.
    unresolved : tuple of float
        Times at which the drift has a minimum but no fixed point was found nearby, or the risk is not within reach of
        the one that was: the path has not come close enough.
    within : float
        A visit lasts while the risk differs from that of the point by less than this fraction of it.
    """

    solution: Solution
    visits: tuple[Visit, ...]
    unresolved: tuple[float, ...]
    within: float

    def __len__(self) -> int:
        return len(self.visits)

    def __iter__(self) -> Iterator[Visit]:
        return iter(self.visits)

    def __getitem__(self, i: int) -> Visit:
        return self.visits[i]

    def plot(self) -> Figure:
        """Draw the risk with its plateaus, and the rates of each fixed point; needs matplotlib."""
        return _point_plots.itinerary_figure(self)

    def __str__(self) -> str:
        head = f"{len(self)} fixed point{'' if len(self) == 1 else 's'} visited up to t = {self.solution.t[-1]:.6g}"
        slow = [
            f"  t = {t:.6g}: the drift is at a minimum, but no fixed point was found nearby" for t in self.unresolved
        ]
        return "\n".join([head, *(f"  {i}: {visit}" for i, visit in enumerate(self, start=1)), *slow])

    __repr__ = __str__


def itinerary(sol: Solution, *, within: float = 0.05) -> Itinerary:
    """Find the fixed points that a trajectory comes close to, and how long it stays.

    Parameters
    ----------
    sol : Solution
        Of `solve_ode`, best with the solver's own steps (``times=None``).
    within : float
        A visit lasts while the excess risk differs from that of the fixed point by less than this fraction of it.

    Returns
    -------
    Itinerary

    Raises
    ------
    ValueError, TypeError
        An ensemble, a learning rate that is a schedule, or what is no solution.

    See Also
    --------
    plateau : the plateau of an uninformed start and the laws of the escape from it.
    fixed_point : one fixed point near a given state.

    Notes
    -----
    `fixed_point` starts wherever the drift has a minimum along the trajectory, and what it finds counts if it is near.
    A path is divided where the drift is largest between two minima, so that plateaus of nearly equal height are told
    apart. Perfect learning, of no excess risk, is no plateau and not listed.

    Examples
    --------
    >>> from hdsgd import Overlaps, Problem, solve_ode
    >>> problem = Problem("quadratic", gamma=0.1, Delta=0.01)
    >>> start = Overlaps(Q=[[1.0]], M=[[1e-3]], P=[[1.0]])
    >>> for visit in itinerary(solve_ode(problem, start, 20.0)):
    ...     print(visit.point.kind, visit.point.unstable, f"{visit.height:.4f} {visit.length:.2f}")
    saddle 1 1.3515 1.51
    stable 0 0.0025 inf
    """
    if not isinstance(sol, Solution):
        raise TypeError(f"an itinerary is of an hdsgd.Solution, got {type(sol).__name__}; pass that of solve_ode.")
    if sol.replicas is not None:
        raise ValueError("an itinerary is of one path, not of an ensemble; solve the ODE from one start.")
    if sol.d is not None:
        raise ValueError("an itinerary is of a path without noise; pass a solution of solve_ode.")
    within = real("within", within, low=0.0, high=1.0, strict=True)
    system = Dynamics(sol.problem).system(sol.overlaps(0))
    states = [system.pack(sol.overlaps(i)) for i in range(sol.t.size)]
    speed = np.array([np.abs(system.rhs(0.0, y)).max(initial=0.0) for y in states])
    slow = _minima(speed)
    turns = [i + int(np.argmax(speed[i : j + 1])) for i, j in pairwise(slow)]
    visits, unresolved = [], []
    for i, first, last in zip(slow, [0, *turns], [*turns, sol.t.size - 1], strict=True):
        try:
            point = fixed_point(sol.problem, sol.overlaps(i))
            far = np.abs(states[i] - system.pack(point.state)).max() > REACH * np.abs(point.state.Omega).max()
        except ValueError:  # Newton's method finds none from here
            far = True
        if far:
            unresolved.append(float(sol.t[i]))
            continue
        gap = within * point.risk - np.abs(sol.risk - point.risk)  # positive near the point
        if gap[i] > 0.0:
            begin, end = (
                _crossing(sol.t, gap, range(i, stop, step)) for stop, step in ((first - 1, -1), (last + 1, 1))
            )
            visits.append(Visit(point, begin, np.inf if end == sol.t[-1] and not point.unstable else end))
        elif point.risk > STILL * sol.risk[0]:  # perfect learning is no plateau
            unresolved.append(float(sol.t[i]))
    return Itinerary(sol, tuple(visits), tuple(unresolved), within)


def _minima(speed: Array) -> list[int]:
    """Where the speed is at a clear minimum, at the ends included."""
    from scipy.signal import find_peaks

    top = float(speed[np.isfinite(speed)].max(initial=np.finfo(float).tiny))  # a path that diverges may end beyond it
    depth = -np.log(np.clip(np.nan_to_num(speed, nan=top), STILL * top, top))
    low = np.full(1, depth.min() - 2.0 * DIP)
    peaks, _ = find_peaks(np.concatenate((low, depth, low)), prominence=DIP)
    return [int(peak) - 1 for peak in peaks]


def _crossing(t: Array, gap: Array, path: range) -> float:
    """The time at which the gap changes its sign along a path of positions, or the last of the path."""
    for i, j in pairwise(path):
        if gap[j] <= 0.0:
            return float(t[i] + (t[j] - t[i]) * gap[i] / (gap[i] - gap[j]))
    return float(t[path[-1]])
