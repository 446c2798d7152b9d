"""The exact overlap chain in numpy, vectorised over replicas: simple, independent of the C one, and its reference.

Each step factorises Omega = L L^T anew and draws the local fields u = L g; the part of the input outside the span of
all weights has squared norm chi2(d - n), independent of g. Factorising an almost singular Omega loses half the digits:
below a risk of about 1e-12 use the C chain, which never forms Omega.

Replicas are the last axis of every array, and everything is done elementwise over it, with sums over units written
out: numpy's reductions choose an order of summation by shape, and a replica's path must not depend on how many others
there are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ._paths import BLOW_UP, Paths, Setup
from ._random import CHAIN, generators

__all__ = ["run"]

Array = NDArray[np.float64]

BLOCK = 128  # steps for which random numbers are drawn at once; part of the definition of a replica's stream
CACHED = 32768  # doubles of Omega at a time: enough replicas to hide numpy's overhead, few enough to stay in the cache
_SINGULAR = 64 * np.finfo(np.float64).eps  # a pivot below this times its diagonal entry is rounding

COMPLETED, EXITED, DIVERGED = 0, 1, 2


def run(setup: Setup) -> Paths:
    """Simulate all replicas of `setup`."""
    paths = Paths(setup)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore"):  # blow-ups go into the status
        portion = max(32, CACHED // (setup.p + setup.k) ** 2)
        for first in range(0, setup.replicas, portion):
            _Chunk(setup, paths, first, min(portion, setup.replicas - first)).go()
    return paths


class _Chunk:
    """The running ones of some consecutive replicas; `who` are their numbers."""

    def __init__(self, setup: Setup, paths: Paths, first: int, count: int) -> None:
        self.setup, self.paths, self.first, self.count = setup, paths, first, count
        p, n = setup.p, setup.p + setup.k
        self.who = np.arange(first, first + count)
        self.streams = generators(setup.seed, CHAIN, first, count)
        mine = slice(first, first + count)
        Q, M, a = (x[mine] if x.shape[0] > 1 else np.repeat(x, count, axis=0) for x in (setup.Q, setup.M, setup.a))
        self.Omega = np.empty((n, n, count))
        self.Omega[:p, :p] = np.moveaxis(Q, 0, -1)
        self.Omega[:p, p:] = np.moveaxis(M, 0, -1)
        self.Omega[p:, p:] = setup.P[:, :, None]
        self.a = np.ascontiguousarray(a.T)
        if setup.spherical:
            self._project()
        self._mirror()
        self.limit = BLOW_UP * np.maximum(1.0, _largest(self.Omega, p))
        self.level = np.full(count, -np.inf)
        if setup.stop is not None:
            self.level = setup.stop.threshold(self._risk())

    def go(self) -> None:
        setup, store = self.setup, self.setup.store
        step = row = 0
        self.exited = np.zeros(self.who.size, dtype=bool)
        self._watch(0)
        while True:
            while row < store.size and store[row] == step:
                self._store(row)
                row += 1
            if step == setup.n_steps or not self.who.size:
                break
            if step % BLOCK == 0:
                self._report(step)
                self._drop()
                if not self.who.size:
                    break
                g, rest = self._draw()
            self._step(g[step % BLOCK], rest[step % BLOCK])
            step += 1
            self._watch(step)
        self._drop(everything=True)
        self._report(setup.n_steps)

    def _draw(self) -> tuple[Array, Array]:
        """Normals (BLOCK, n + 1, running), the last for the label noise, and chi-squares (BLOCK, running)."""
        n, free = self.setup.p + self.setup.k, self.setup.d - self.setup.p - self.setup.k
        g, rest = np.empty((BLOCK, n + 1, self.who.size)), np.zeros((BLOCK, self.who.size))
        for i, replica in enumerate(self.who):
            stream = self.streams[replica - self.first]
            g[:, :, i] = stream.standard_normal((BLOCK, n + 1))
            if free:
                rest[:, i] = stream.chisquare(free, BLOCK)
        return g, rest

    def _step(self, g: Array, rest: Array) -> None:
        setup, Omega, a = self.setup, self.Omega, self.a
        p, k = setup.p, setup.k
        n = p + k
        # Right-looking Cholesky factorisation, multiplied into g as its columns appear. Omega may be semidefinite.
        A, fields, length = Omega.copy(), np.zeros((n, self.who.size)), rest.copy()
        for j in range(n):
            pivot = A[j, j]
            sound = pivot > _SINGULAR * Omega[j, j]
            column = np.where(sound, A[j:, j] / np.sqrt(np.where(sound, pivot, 1.0)), 0.0)
            fields[j:] += column * g[j]
            length += g[j] * g[j]
            A[j + 1 :, j + 1 :] -= column[1:, None] * column[None, 1:]
        x, x_star = fields[:p], fields[p:]
        phi, phi_star = setup.kernel.sigma(x), setup.kernel.sigma_star(x_star)
        error = setup.noise * g[n]
        for r in range(k):
            error = error + setup.a_star[r] / k * phi_star[r]
        for j in range(p):
            error = error - a[j] / p * phi[j]
        u = setup.rate * a * setup.kernel.dsigma(x) * error
        Omega[:p, p:] += u[:, None] * x_star[None, :]
        Omega[:p, :p] += u[:, None] * x[None, :] + x[:, None] * u[None, :] + u[:, None] * u[None, :] * length
        if setup.spherical:
            self._project()
        self._mirror()

    def _project(self) -> None:
        p, Omega = self.setup.p, self.Omega
        diagonal = np.arange(p)
        scale = 1.0 / np.sqrt(Omega[diagonal, diagonal])
        Omega[:p, :p] *= scale[:, None] * scale[None, :]
        Omega[diagonal, diagonal] = np.where(np.isfinite(scale), 1.0, np.nan)
        Omega[:p, p:] *= scale[:, None]

    def _mirror(self) -> None:
        p = self.setup.p
        self.Omega[p:, :p] = np.swapaxes(self.Omega[:p, p:], 0, 1)

    def _rows(self) -> tuple[Array, Array]:
        p = self.setup.p
        Q, M = np.moveaxis(self.Omega[:p, :p], -1, 0), np.moveaxis(self.Omega[:p, p:], -1, 0)
        return np.ascontiguousarray(Q), np.ascontiguousarray(M)

    def _risk(self) -> Array:
        return self.setup.risk(*self._rows(), np.ascontiguousarray(self.a.T))

    def _watch(self, step: int) -> None:
        """Note the replicas that have just reached their level."""
        if self.setup.stop is None:
            return
        new = (self._risk() <= self.level) & ~self.exited
        if new.any():
            paths, who = self.paths, self.who[new]
            paths.exit_step[who], paths.status[who] = step, EXITED
            self.exited |= new
            self._finish(new, step)

    def _finish(self, which: NDArray[np.bool_], step: int | None = None) -> None:
        """Record where these replicas stopped; with `step` also as their last stored row, if that step is one."""
        who, (Q, M) = self.who[which], self._rows()
        risk = self._risk()
        self.paths.last_Q[who], self.paths.last_M[who], self.paths.last_risk[who] = Q[which], M[which], risk[which]
        if step is not None:
            for row in np.flatnonzero(self.setup.store == step):
                self.paths.Q[who, row], self.paths.M[who, row], self.paths.risk[who, row] = (
                    Q[which],
                    M[which],
                    risk[which],
                )

    def _sane(self) -> NDArray[np.bool_]:
        return _largest(self.Omega, self.setup.p) < self.limit  # false for NaN

    def _store(self, row: int) -> None:
        keep = ~self.exited & self._sane()
        who, (Q, M) = self.who[keep], self._rows()
        self.paths.Q[who, row], self.paths.M[who, row], self.paths.risk[who, row] = Q[keep], M[keep], self._risk()[keep]

    def _drop(self, everything: bool = False) -> None:
        """Leave replicas that have exited or diverged behind; all of them at the end."""
        if not self.who.size:
            return
        sane = self._sane()
        self.paths.status[self.who[~sane & ~self.exited]] = DIVERGED
        if everything:
            self._finish(sane & ~self.exited)
        going = sane & ~self.exited
        if going.all() and not everything:
            return
        self.who, self.level, self.limit = self.who[going], self.level[going], self.limit[going]
        self.exited = self.exited[going]
        self.Omega, self.a = np.ascontiguousarray(self.Omega[:, :, going]), np.ascontiguousarray(self.a[:, going])

    def _report(self, step: int) -> None:
        if self.setup.progress is not None:
            share = (self.first + self.count * step / max(1, self.setup.n_steps)) / self.setup.replicas
            self.setup.progress(min(1.0, share))


def _largest(Omega: Array, p: int) -> Array:
    largest: Array = Omega[0, 0]
    for j in range(1, p):
        largest = np.maximum(largest, Omega[j, j])  # NaN stays
    return largest
