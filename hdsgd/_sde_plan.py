"""What the stochastic Heun scheme runs on, in C or in numpy: checked arguments in, arrays out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ._diffusion import LOOP, Increments, step_of
from ._dynamics import Dynamics
from ._overlaps import Overlaps
from ._problem import Problem
from ._solution import Exit

__all__ = ["GREW", "Paths", "Plan"]

Array = NDArray[np.float64]

GREW = 2.0  # a negative norm after this growth is the end of a blow-up, before it a step that is too long


@dataclass(frozen=True)
class Plan:
    """An ensemble to run: `steps[i]` steps of `length[i]` lead from `begin[i]` to `grid[i]`, the last to the end."""

    problem: Problem
    dyn: Dynamics
    increments: Increments
    start: Overlaps  # with a replica axis
    grid: Array
    steps: NDArray[np.int64]
    begin: Array
    length: Array
    d: int
    stop: Exit | None
    seed: int
    progress: Callable[[float], None] | None

    @classmethod
    def of(
        cls,
        problem: Problem,
        dyn: Dynamics,
        start: Overlaps,
        grid: Array,
        t_max: float,
        dt: float,
        *,
        d: int,
        stop: Exit | None,
        seed: int,
        progress: Callable[[float], None] | None,
    ) -> Plan:
        """Divide [0, t_max] into steps of at most dt that meet the output times."""
        ends = np.append(grid, t_max)
        begin = np.append(0.0, ends[:-1])
        steps = np.ceil((ends - begin) / dt * (1.0 - 1e-12)).astype(np.int64)
        length = np.divide(ends - begin, steps, out=np.zeros_like(begin), where=steps > 0)
        increments = Increments(dyn.kernel, step_of(problem, start.p, start.k, "all"), LOOP)
        return cls(problem, dyn, increments, start, grid, steps, begin, length, d, stop, seed, progress)

    @property
    def replicas(self) -> int:
        """Number of paths."""
        return int(self.start.M.shape[0])


class Paths:
    """Rows of output, NaN until the scheme fills them."""

    def __init__(self, plan: Plan) -> None:
        count, rows, p, k = plan.replicas, plan.grid.size, plan.start.p, plan.start.k
        self.Q = np.full((count, rows, p, p), np.nan)
        self.M = np.full((count, rows, p, k), np.nan)
        self.a = np.full((count, rows, p), np.nan)
        self.risk = np.full((count, rows), np.nan)
        self.status = np.zeros(count, dtype=np.int64)
        self.exit_time = np.full(count, np.nan)
