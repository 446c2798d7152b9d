"""What the stochastic Heun scheme runs on, in C or in numpy: checked arguments in, arrays out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

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
    """An ensemble to run: span i is `steps[i]` steps of `length[i]` from `begin[i]` on, at learning rate `gamma[i]`.

    After it row `row[i]` of `grid` is stored, none where that is -1.
    """

    problem: Problem
    dyn: Dynamics
    increments: Increments  # at the largest learning rate
    start: Overlaps  # with a replica axis
    grid: Array
    row: NDArray[np.int64]
    gamma: Array
    steps: NDArray[np.int64]
    begin: Array
    length: Array
    d: int
    stop: Exit | None
    order: str
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
        order: str,
        seed: int,
        progress: Callable[[float], None] | None,
    ) -> Plan:
        """Divide [0, t_max] into steps of at most dt that meet the output times and the breaks of the schedule."""
        pieces = problem.schedule.pieces(t_max)
        ends = np.unique(np.concatenate((grid, [end for _, end, _ in pieces], [t_max])))
        begin = np.append(0.0, ends[:-1])
        gamma = np.array([problem.schedule(t) for t in begin])
        row = np.where(np.isin(ends, grid), np.searchsorted(grid, ends), -1)
        steps = np.ceil((ends - begin) / dt * (1.0 - 1e-12)).astype(np.int64)
        length = np.divide(ends - begin, steps, out=np.zeros_like(begin), where=steps > 0)
        increments = cls.at(dyn, start, problem, float(gamma.max()), order)
        spans = (row, gamma, steps, begin, length)
        return cls(problem, dyn, increments, start, grid, *spans, d, stop, order, seed, progress)

    @staticmethod
    def at(dyn: Dynamics, start: Overlaps, problem: Problem, gamma: float, order: str) -> Increments:
        """The increments of a step at one learning rate."""
        return Increments(dyn.kernel, step_of(replace(problem, gamma=gamma), start.p, start.k, order), LOOP)

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
