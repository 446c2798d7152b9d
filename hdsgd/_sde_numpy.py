"""The stochastic Heun scheme in numpy, over all replicas at once: without a compiler, and the C loop's reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._cone import feasible, omega
from ._diffusion import finite_size, project, risk_slopes
from ._dynamics import Dynamics
from ._nodes import root
from ._overlaps import trusted
from ._paths import BLOW_UP
from ._random import SDE, generators
from ._sde_plan import GREW, Paths, Plan
from ._solution import Status

__all__ = ["run"]

Array = NDArray[np.float64]

BLOCK = 64  # steps drawn at once: part of each replica's stream, so changing it changes the paths


def run(plan: Plan) -> Paths:
    """Run all replicas."""
    ensemble = _Ensemble(plan)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # a blow-up is reported in the status
        ensemble.go()
    return ensemble.paths


class _Ensemble:
    """Replicas that are still running sit in compacted arrays; `who` holds their numbers."""

    def __init__(self, plan: Plan) -> None:
        start = plan.start
        self.plan, self.paths, self.parts = plan, Paths(plan), plan.increments.step.components
        self.kernel, self.P, self.a_star = plan.dyn.kernel, start.P, start.a_star
        self._at(float(plan.gamma[0]))
        self.streams = generators(plan.seed, SDE, 0, plan.replicas)
        self.who = np.arange(plan.replicas)
        self.Q, self.M, self.a = np.array(start.Q), np.array(start.M), np.array(start.a)
        self.r = self._risk(self.Q, self.M, self.a)
        self.level = np.full(self.who.size, -np.inf)
        if plan.stop is not None:
            self.level = plan.stop.threshold(np.maximum(self.r, 0.0))
        self.scale = np.maximum(1.0, np.diagonal(start.Omega, axis1=1, axis2=2).max(axis=1))
        self.draws = np.empty((0, self.who.size, self.parts.size)), np.empty((0, self.who.size))
        self.column = self.who  # of each running replica in the drawn blocks
        self.drawn = 0

    def go(self) -> None:
        """Run to the end, or until no replica is left."""
        plan, done, total = self.plan, 0, max(1, int(self.plan.steps.sum()))
        if plan.grid[0] == 0.0:
            self._store(0)
        self._finish(self.r <= self.level, Status.EXITED, np.zeros(self.who.size))
        for span, (row, count) in enumerate(zip(plan.row, plan.steps, strict=True)):
            if plan.gamma[span] != self.problem.gamma:
                self._at(float(plan.gamma[span]))
            for i in range(count):
                if not self.who.size:
                    return
                self._step(plan.begin[span] + i * plan.length[span], plan.length[span])
                done += 1
                if plan.progress is not None and done % 32 == 0:
                    plan.progress(done / total)
            if row >= 0 and plan.grid[row] > 0.0:
                self._store(row)

    def _at(self, gamma: float) -> None:
        """Go on at this learning rate."""
        plan = self.plan
        self.problem = replace(plan.problem, gamma=gamma)
        self.dyn = Dynamics(self.problem, "numpy")
        self.increments = plan.at(self.dyn, plan.start, plan.problem, gamma, plan.order)
        self.noise = np.sqrt(gamma / (plan.start.p * plan.d))

    def _risk(self, Q: Array, M: Array, a: Array) -> Array:
        return self.kernel.risk(Q, M, self.P, a, self.a_star)

    def _store(self, row: int) -> None:
        paths = self.paths
        paths.Q[self.who, row], paths.M[self.who, row], paths.a[self.who, row] = self.Q, self.M, self.a
        paths.risk[self.who, row] = np.maximum(self.r, 0.0)

    def _draw(self) -> tuple[Array, Array]:
        """One step's normals and uniforms of the running replicas, each from its own stream."""
        if self.drawn == self.draws[0].shape[0]:
            normal, uniform = np.empty((BLOCK, self.who.size, self.parts.size)), np.empty((BLOCK, self.who.size))
            for i, replica in enumerate(self.who):
                normal[:, i] = self.streams[replica].standard_normal((BLOCK, self.parts.size))
                uniform[:, i] = self.streams[replica].random(BLOCK)
            self.draws, self.column, self.drawn = (normal, uniform), np.arange(self.who.size), 0
        self.drawn += 1
        return self.draws[0][self.drawn - 1, self.column], self.draws[1][self.drawn - 1, self.column]

    def _drift(self, Q: Array, M: Array, a: Array) -> Array:
        return self.parts.pack(*self.dyn.drift(trusted(Q, M, self.P, a, self.a_star)))

    def _coefficients(self) -> tuple[Array, Array]:
        """The drift's terms of order 1/d, and the root of the covariance."""
        plan, problem, state = self.plan, self.problem, (self.Q, self.M, self.P, self.a, self.a_star)
        if self.noise == 0.0:
            return np.zeros(self.parts.size), np.zeros((len(self.Q), self.parts.size, self.parts.size))
        teacher = np.broadcast_to(self.a_star / plan.start.k, (len(self.a), plan.start.k))
        v = np.concatenate((-self.a / plan.start.p, teacher), axis=1)
        cov = self.increments.covariance(omega(self.Q, self.M, self.P), v, self.a) / problem.batch_size
        more = self.parts.pack(*finite_size(self.kernel, problem, cov, *state), np.zeros_like(self.a))
        if problem.spherical:
            cov = project(self.parts, self.Q, self.M, cov)
        return more / plan.d, root(cov)

    def _moved(self, change: Array) -> tuple[Array, Array, Array, NDArray[np.bool_], NDArray[np.bool_]]:
        """State plus change, on the cone; and which are wrong (they stay) and of these have a negative norm."""
        dQ, dM, da = self.parts.unpack(change)
        Q, M, a = self.Q + dQ, self.M + dM, self.a + da
        biggest = np.maximum(np.abs(Q).max(axis=(-2, -1)), np.abs(M).max(axis=(-2, -1)))
        broken = np.diagonal(Q, axis1=-2, axis2=-1).min(axis=-1) < 0.0
        sane = (biggest <= BLOW_UP * self.scale) & (np.abs(a).max(axis=-1) <= BLOW_UP)  # false for NaN
        gone = broken | ~sane
        Q, M = np.where(gone[:, None, None], self.Q, Q), np.where(gone[:, None, None], self.M, M)
        a = np.where(gone[:, None], self.a, a)
        if Q.shape[-1] == 1 and self.P.shape[0] == 1:  # the cone in closed form
            bound = np.sqrt(Q * self.P)
            M = np.clip(M, -bound, bound)
        else:
            Q, M = feasible(Q, M, self.P)
        return Q, M, a, gone, broken

    def _step(self, t: float, h: float) -> None:
        g, u = self._draw()
        drift = self._drift(self.Q, self.M, self.a)
        finite, L = self._coefficients()
        kick = self.noise * np.sqrt(h) * (L * g[:, None, :]).sum(axis=-1) + h * finite
        Q, M, a, gone, broken = self._moved(kick + h * drift)
        again = self._drift(Q, M, a)
        Q, M, a, late, torn = self._moved(kick + 0.5 * h * (drift + again))
        gone, broken = gone | late, np.where(gone, broken, torn)
        norms = np.diagonal(self.Q, axis1=-2, axis2=-1).max(axis=-1)
        ended = np.where(broken & (norms <= GREW * self.scale), Status.FAILED, Status.DIVERGED)
        r = self._risk(Q, M, a)
        exits = np.zeros(gone.shape, dtype=bool)
        when = np.full(gone.shape, t + h)
        if self.plan.stop is not None:
            above, below = self.r - self.level, r - self.level
            exits = ~gone & ((below <= 0.0) | (u < self._crossing(L, above, below, h)))
            when = t + h * np.clip(above / np.maximum(above + np.abs(below), 1e-300), 0.0, 1.0)
        self.Q, self.M, self.a, self.r = Q, M, a, r
        self._finish(gone | exits, np.where(gone, ended, Status.EXITED), when)

    def _crossing(self, L: Array, above: Array, below: Array, h: float) -> Array:
        """Probability that the risk was below the level within a step that ends above it (Brownian bridge)."""
        slopes = risk_slopes(self.kernel, self.parts, self.Q, self.M, self.P, self.a, self.a_star)
        variance = self.noise**2 * h * ((L * slopes[:, :, None]).sum(axis=1) ** 2).sum(axis=-1)
        distance = np.maximum(above, 0.0) * np.maximum(below, 0.0)
        return np.asarray(np.exp(-2.0 * distance / np.maximum(variance, 1e-300)))

    def _finish(self, over: NDArray[np.bool_], status: ArrayLike, when: Array) -> None:
        """Record the replicas that exited or diverged, and drop them."""
        if not np.any(over):
            return
        ids, keep = self.who[over], ~over
        self.paths.status[ids] = np.broadcast_to(np.asarray(status), over.shape)[over]
        exited = self.paths.status[ids] == Status.EXITED
        self.paths.exit_time[ids[exited]] = when[over][exited]
        for name in ("who", "r", "level", "scale", "column", "Q", "M", "a"):
            setattr(self, name, getattr(self, name)[keep])
