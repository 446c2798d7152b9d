"""The diffusion at finite d: Euler-Maruyama over all replicas at once."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._checks import callback, fits, integer, real, time_grid
from ._cone import feasible
from ._dynamics import Dynamics
from ._overlaps import Overlaps, ensemble, trusted
from ._paths import BLOW_UP
from ._problem import Problem, check_start
from ._random import RNG, SDE, generators, master_seed
from ._solution import Exit, Solution, Status, stop_condition

__all__ = ["solve_sde"]

Array = NDArray[np.float64]

BLOCK = 256  # steps drawn at once: part of each replica's stream, so changing it changes the paths
MOST_STEPS = 10**9  # days of work for a single path
GREW = 2.0  # a negative norm after this growth is the end of a blow-up, before it a step that is too long


def solve_sde(
    problem: Problem,
    state: Overlaps,
    t_max: float,
    *,
    d: int,
    dt: float = 1e-3,
    replicas: int | None = None,
    rng: RNG = None,
    times: ArrayLike | None = None,
    stop: Exit | None = None,
    backend: str = "auto",
    progress: Callable[[float], None] | None = None,
) -> Solution:
    """Paths of dX = drift dt + sqrt(gamma/(p d)) Sigma^(1/2) dB for X = (Q, M), by the Euler-Maruyama scheme.

    Parameters
    ----------
    problem : Problem
    state : Overlaps
        One start, or one for each replica.
    t_max : float
        Final time t = nu*gamma/(p*d).
    d : int
        Input dimension: the noise is of order 1/sqrt(d).
    dt : float
        Largest time step; output times are met exactly by shorter ones. At most 1e9 steps in all.
    replicas : int, optional
        Number of paths from a single start. None: one path from each start in ``state``.
    rng : None, int, SeedSequence or Generator
        Replica i has its own stream: its path is the same for any number of replicas. Recorded as ``sol.seed``. To go
        on from a solution, pass another seed: the same one draws the same numbers again, and correlates both parts.
    times : array_like, shape (n_t,), optional
        Increasing output times in [0, t_max]; 201 equal ones by default.
    stop : Exit, optional
        First passage of the excess risk, tested in every step: at its end, and in between by the crossing probability
        of a Brownian bridge (without it exits come out late, by O(sqrt(dt))).
    backend : {"auto", "c", "numpy"}
        Of drift and covariance: compiled C, or numpy; "auto" is C where a compiler works.
    progress : callable, optional
        Called with the fraction of t_max that is done.

    Returns
    -------
    Solution
        With a replica axis unless ``state`` has none and ``replicas`` is None. Rows after a replica's exit or
        divergence are NaN; a single path without the axis ends there instead.

    See Also
    --------
    simulate : SGD at finite d itself, exactly in law.

    Raises
    ------
    ValueError, TypeError
        Arguments out of range, too many steps, more output than memory, or a problem whose diffusion is not available.

    Notes
    -----
    Omega is kept positive semidefinite. A step whose noise would take some Q_jj below 0 ends the replica, as DIVERGED
    if its norm had grown, otherwise as FAILED, because dt is too large.

    Source: Arnaboldi et al. 2023 (arXiv 2305.18502).

    Examples
    --------
    >>> from hdsgd import Exit, Overlaps, Problem
    >>> problem = Problem("quadratic", gamma=0.1, spherical=True)
    >>> start = Overlaps(Q=[[1.0]], M=[[0.1]], P=[[1.0]])
    >>> sol = solve_sde(problem, start, 2.0, d=1000, dt=0.01, replicas=5, rng=0, times=[0.0, 1.0, 2.0])
    >>> sol.risk.shape
    (5, 3)
    >>> rest = solve_sde(problem, sol.overlaps(), 1.0, d=1000, dt=0.01, rng=1)  # go on, with another seed
    >>> rest.replicas
    5
    """
    problem, state = check_start(problem, state)
    d = integer("d", d, hint="it is the input dimension, for example d=1000")
    step = real("dt", dt, low=0.0, strict=True, hint="it is the time step, for example 1e-3")
    t_max, grid = time_grid(t_max, times)
    assert grid is not None
    _bounded(t_max, step, grid)
    stop, progress = stop_condition(stop), callback("progress", progress)
    start, single = ensemble(state, replicas)
    count = start.M.shape[0]
    fits(
        8.0 * count * (grid.size * (state.p * (state.p + state.k + 1) + 1) + BLOCK * state.p * (state.p + state.k)),
        f"{count} replicas at {grid.size} times",
        "store fewer times, as in times=[t_max], or run fewer replicas at a time",
    )
    seed = master_seed(rng)
    run = _Ensemble(problem, Dynamics(problem, backend), start, grid, d=d, stop=stop, seed=seed)
    began = time.perf_counter()
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # a blow-up is reported in the status
        run.go(t_max, step, progress)
    pick = 0 if single else slice(None)
    if single:  # a path that ended has no rows of NaN to keep a shape that nobody else needs
        kept = np.isfinite(run.risk[0])
        grid, run.Q, run.M, run.a, run.risk = (
            grid[kept],
            run.Q[:, kept],
            run.M[:, kept],
            run.a[:, kept],
            run.risk[:, kept],
        )
    steps = None if problem.gamma == 0.0 else np.rint(grid / problem.step_time(state.p, d)).astype(np.int64)
    return Solution(
        problem=problem,
        t=grid,
        Q=run.Q[pick],
        M=run.M[pick],
        P=state.P,
        a=run.a[pick],
        a_star=state.a_star,
        risk=run.risk[pick],
        status=run.status[pick],
        exit_time=run.exit_time[pick],
        method="sde",
        stop=stop,
        steps=steps,
        d=d,
        seed=seed,
        stats={"steps": run.steps, "dt": step, "wall_time": time.perf_counter() - began},
    )


def _bounded(t_max: float, dt: float, grid: Array) -> None:
    """Refuse a number of steps that never ends."""
    count = t_max / dt + grid.size
    if not count <= MOST_STEPS:
        raise ValueError(
            f"t_max = {t_max:g} is {count:.3g} steps of dt = {dt:g}, more than {MOST_STEPS:g}; increase dt or decrease "
            "t_max."
        )


class _Ensemble:
    """Replicas that are still running sit in compacted arrays; `who` holds their numbers."""

    def __init__(
        self, problem: Problem, dyn: Dynamics, start: Overlaps, grid: Array, *, d: int, stop: Exit | None, seed: int
    ) -> None:
        count, p, k = start.M.shape
        self.problem, self.dyn, self.start, self.grid, self.d, self.stop = problem, dyn, start, grid, d, stop
        self.noise = np.sqrt(problem.gamma / (p * d))
        self.upper = np.triu_indices(p)
        self.size = self.upper[0].size + p * k
        self.streams = generators(seed, SDE, 0, count)
        self.Q = np.full((count, grid.size, p, p), np.nan)
        self.M = np.full((count, grid.size, p, k), np.nan)
        self.a = np.full((count, grid.size, p), np.nan)
        self.risk = np.full((count, grid.size), np.nan)
        self.status = np.full(count, Status.COMPLETED, dtype=np.int64)
        self.exit_time = np.full(count, np.nan)
        self.steps = 0
        self.who = np.arange(count)
        self.now = start
        self.r = np.atleast_1d(dyn.risk(start))
        self.level = np.full(count, -np.inf) if stop is None else stop.threshold(np.maximum(self.r, 0.0))
        self.limit = BLOW_UP * np.maximum(1.0, np.abs(start.Omega).max(axis=(-2, -1)))
        self.normal, self.uniform = np.empty((0, count, self.size)), np.empty((0, count))
        self.column = np.arange(count)  # of each running replica in the drawn blocks
        self.drawn = 0

    def go(self, t_max: float, dt: float, progress: Callable[[float], None] | None) -> None:
        """Run to t_max, or until no replica is left."""
        t = 0.0
        if self.grid[0] == 0.0:
            self._store(0)
        self._finish(self.r <= self.level, Status.EXITED, np.zeros(self.who.size))
        for row, target in enumerate(np.append(self.grid, t_max)):
            count = int(np.ceil((target - t) / dt * (1.0 - 1e-12)))
            h = (target - t) / count if count else 0.0
            for i in range(count):
                if not self.who.size:
                    return
                self._step(t + i * h, h)
                if progress is not None and self.steps % 32 == 0:
                    progress((t + i * h) / t_max)
            t = float(target)
            if row < self.grid.size and target > 0.0:
                self._store(row)

    def _store(self, row: int) -> None:
        self.Q[self.who, row], self.M[self.who, row], self.a[self.who, row] = self.now.Q, self.now.M, self.now.a
        self.risk[self.who, row] = np.maximum(self.r, 0.0)

    def _draw(self) -> tuple[Array, Array]:
        """One step's normals and uniforms of the running replicas, each from its own stream."""
        if self.drawn == self.normal.shape[0]:
            self.normal, self.uniform = np.empty((BLOCK, self.who.size, self.size)), np.empty((BLOCK, self.who.size))
            for i, replica in enumerate(self.who):
                self.normal[:, i] = self.streams[replica].standard_normal((BLOCK, self.size))
                self.uniform[:, i] = self.streams[replica].random(BLOCK)
            self.column = np.arange(self.who.size)
            self.drawn = 0
        self.drawn += 1
        return self.normal[self.drawn - 1, self.column], self.uniform[self.drawn - 1, self.column]

    def _step(self, t: float, h: float) -> None:
        now, p = self.now, self.now.p
        g, u = self._draw()
        drift = self.dyn.drift(now)
        root = _root(self.dyn.diffusion(now)[0])
        kick = self.noise * np.sqrt(h) * (root @ g[..., None])[..., 0]
        split = self.upper[0].size
        dQ = np.empty_like(now.Q)
        dQ[:, self.upper[0], self.upper[1]] = kick[:, :split]
        dQ[:, self.upper[1], self.upper[0]] = kick[:, :split]
        Q = now.Q + h * drift.dQ + dQ
        M = now.M + h * drift.dM + kick[:, split:].reshape(now.M.shape)
        a = now.a + h * drift.da
        biggest = np.maximum(np.abs(Q).max(axis=(-2, -1)), np.abs(M).max(axis=(-2, -1)))
        norms = np.diagonal(now.Q, axis1=-2, axis2=-1).max(axis=-1)
        broken = np.diagonal(Q, axis1=-2, axis2=-1).min(axis=-1) < 0.0
        gone = broken | ~(biggest <= self.limit)  # also NaN
        ended = np.where(broken & (norms <= GREW * self.limit / BLOW_UP), Status.FAILED, Status.DIVERGED)
        Q, M = np.where(gone[:, None, None], now.Q, Q), np.where(gone[:, None, None], now.M, M)
        if p == 1 and now.k == 1:  # the cone in closed form
            bound = np.sqrt(Q * now.P)
            M = np.clip(M, -bound, bound)
        else:
            Q, M = feasible(Q, M, now.P)
        new = trusted(Q, M, now.P, a, now.a_star)
        r = np.atleast_1d(self.dyn.risk(new))
        self.steps += 1
        exits = np.zeros(gone.shape, dtype=bool)
        when = np.full(gone.shape, t + h)
        if self.stop is not None:
            above, below = self.r - self.level, r - self.level
            exits = ~gone & ((below <= 0.0) | (u < self._crossing(root, new, above, below, h)))
            when = t + h * np.clip(above / np.maximum(above + np.abs(below), 1e-300), 0.0, 1.0)
        self.now, self.r = new, r
        self._finish(gone | exits, np.where(gone, ended, Status.EXITED), when)

    def _crossing(self, root: Array, new: Overlaps, above: Array, below: Array, h: float) -> Array:
        """Probability that the risk was below the level within a step that ends above it (Brownian bridge)."""
        now = self.now
        slope = np.empty((self.who.size, self.size))
        split, small = self.upper[0].size, 1e-6
        for c in range(self.size):
            if not np.any(root[:, c]):  # no noise there, as in Q_jj on the sphere
                slope[:, c] = 0.0
                continue
            Q, M = now.Q, now.M
            if c < split:
                j, l = self.upper[0][c], self.upper[1][c]
                Q = Q.copy()
                Q[:, j, l] += small
                Q[:, l, j] = Q[:, j, l]
            else:
                j, l = divmod(c - split, now.k)
                M = M.copy()
                M[:, j, l] += small
            slope[:, c] = (self.dyn.risk(trusted(Q, M, now.P, now.a, now.a_star)) - self.r) / small
        variance = self.noise**2 * h * ((np.swapaxes(root, -1, -2) @ slope[..., None])[..., 0] ** 2).sum(axis=-1)
        distance = np.maximum(above, 0.0) * np.maximum(below, 0.0)
        return np.asarray(np.exp(-2.0 * distance / np.maximum(variance, 1e-300)))

    def _finish(self, over: NDArray[np.bool_], status: ArrayLike, when: Array) -> None:
        """Record the replicas that exited or diverged, and drop them."""
        if not np.any(over):
            return
        ids = self.who[over]
        self.status[ids] = np.broadcast_to(np.asarray(status), over.shape)[over]
        exited = self.status[ids] == Status.EXITED
        self.exit_time[ids[exited]] = when[over][exited]
        keep = ~over
        now = self.now
        self.who, self.r, self.level, self.limit = self.who[keep], self.r[keep], self.level[keep], self.limit[keep]
        self.column = self.column[keep]
        self.now = trusted(now.Q[keep], now.M[keep], now.P, now.a[keep], now.a_star)


def _root(cov: Array) -> Array:
    """Lower triangular roots of positive semidefinite matrices, shape (R, m, m), column by column for all replicas."""
    L = np.zeros_like(cov)
    size = cov.shape[-1]
    tiny = 1e-14 * np.diagonal(cov, axis1=-2, axis2=-1).max(axis=-1)
    for c in range(size):
        pivot = cov[:, c, c] - (L[:, c, :c] ** 2).sum(axis=-1)
        kept = pivot > tiny
        L[:, c, c] = np.sqrt(np.where(kept, pivot, 0.0))
        if c + 1 < size:
            below = cov[:, c + 1 :, c] - (L[:, c + 1 :, :c] * L[:, c, None, :c]).sum(axis=-1)
            L[:, c + 1 :, c] = np.where(kept[:, None], below / np.where(kept, L[:, c, c], 1.0)[:, None], 0.0)
    return L
