"""The exact overlap chain in numpy, vectorised over replicas: simple, independent of the C one, and its reference.

Each step factorises Omega = L L^T anew and draws the local fields u = L g; the part of the input outside the span of
all weights has squared norm chi2(d - n), independent of g. For a batch, the Gram matrix of these parts is a Wishart
matrix. Factorising an almost singular Omega loses half the digits: below a risk of about 1e-12 use the C chain, which
never forms Omega.

Replicas are the last axis of every array, and everything is done elementwise over it, with sums over units written
out: numpy's reductions choose an order of summation by shape, and a replica's path must not depend on how many others
there are.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ._paths import BLOW_UP, Paths, Setup, frame
from ._random import CHAIN, generators

__all__ = ["run"]

Array = NDArray[np.float64]

BLOCK = 128  # samples for which random numbers are drawn at once; part of the definition of a replica's stream
CACHED = 32768  # doubles of Omega at a time: enough replicas to hide numpy's overhead, few enough to stay in the cache
_SINGULAR = 64 * np.finfo(np.float64).eps  # a pivot below this times its diagonal entry is rounding

COMPLETED, EXITED, DIVERGED = 0, 1, 2


def run(setup: Setup) -> Paths:
    """Simulate all replicas of `setup`."""
    paths = Paths(setup)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore"):  # blow-ups go into the status
        n = setup.p + setup.k
        if n > setup.d:
            frame(setup.Q, setup.M, setup.P, setup.d)  # refuses what does not fit into d dimensions
        portion = max(32, CACHED // (n * max(n, setup.batch)))
        for first in range(0, setup.replicas, portion):
            _Chunk(setup, paths, first, min(portion, setup.replicas - first)).go()
    return paths


class _Chunk:
    """The running ones of some consecutive replicas; `who` are their numbers."""

    def __init__(self, setup: Setup, paths: Paths, first: int, count: int) -> None:
        self.setup, self.paths, self.first, self.count = setup, paths, first, count
        self.block = max(1, BLOCK // setup.batch)
        self.free = max(0, setup.d - setup.p - setup.k)
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
        self.limit = BLOW_UP * np.maximum(1.0, self._largest())
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
            if step % self.block == 0:
                self._report(step)
                self._drop()
                if not self.who.size:
                    break
                g, rest = self._draw()
            self._step(g[step % self.block], rest[step % self.block], setup.clock.unit_at(step))
            step += 1
            self._watch(step)
        self._drop(everything=True)
        self._report(setup.n_steps)

    def _draw(self) -> tuple[Array, Array]:
        """Random numbers of a block of steps.

        Of each sample normals (block, batch, n + 1, running), the last for the label noise; and lower triangular roots
        (block, m, width, running) of Wishart matrices for the samples' parts outside the span of the weights
        (Bartlett's decomposition).
        """
        setup, free = self.setup, self.free
        rows, width = min(setup.batch, setup.p), min(setup.batch, setup.p, free)
        i, j = np.tril_indices(rows, -1, width)
        g = np.empty((self.block, setup.batch, setup.p + setup.k + 1, self.who.size))
        rest = np.zeros((self.block, rows, width, self.who.size))
        for place, replica in enumerate(self.who):
            stream = self.streams[replica - self.first]
            g[..., place] = stream.standard_normal(g.shape[:-1])
            for c in range(width):
                rest[:, c, c, place] = np.sqrt(stream.chisquare(free - c, self.block))
            rest[:, i, j, place] = stream.standard_normal((self.block, i.size))
        return g, rest

    def _step(self, g: Array, rest: Array, rate: float) -> None:
        setup, Omega, a = self.setup, self.Omega, self.a
        p, k, batch = setup.p, setup.k, setup.batch
        n = p + k
        fields, inside = np.zeros((batch, n, self.who.size)), []
        for j, column, sound in _factor(Omega.copy(), setup.d):
            fields[:, j:] += column * g[:, j, None]
            inside.append(sound)
        if n > setup.d:  # the span and what is left of the space have d coordinates in all
            left = setup.d - sum(inside)
            for j, sound in enumerate(inside):
                more = ~sound & (left > 0)
                left = left - more
                g[:, j] *= sound | more
        x, x_star = fields[:, :p], fields[:, p:]
        phi, phi_star = setup.kernel.sigma(x), setup.kernel.sigma_star(x_star)
        error = setup.noise * g[:, n]
        for r in range(k):
            error = error + setup.a_star[r] / k * phi_star[:, r]
        for j in range(p):
            error = error - a[j] / p * phi[:, j]
        u = (rate / batch) * a * setup.kernel.dsigma(x) * error[:, None]
        moved = np.zeros((p, n, self.who.size))  # products of the gain of W, which is along the samples, with all rows
        for b in range(batch):
            moved += u[b, :, None] * fields[b]
            self.a = self.a + (setup.ratio * rate / batch) * phi[b] * error[b]
        keep = 1.0 - setup.decay * rate
        Omega[:p, p:] = keep * Omega[:p, p:] + moved[:, p:]
        Omega[:p, :p] = keep**2 * Omega[:p, :p] + keep * (moved[:, :p] + np.swapaxes(moved[:, :p], 0, 1))
        for z in self._gains(u, g[:, :n], rest):
            Omega[:p, :p] += z[:, None] * z[None, :]
        if setup.spherical:
            self._project()
        self._mirror()

    def _gains(self, u: Array, g: Array, rest: Array) -> Iterator[Array]:
        """Coordinates (p, running) of the gain of W, u (batch, p, running) along the samples, in some frame."""
        batch, p = u.shape[:2]
        if batch == 1:  # along the one sample, as long as it is
            length = np.zeros(u.shape[-1])
            for coordinate in (*rest[0], *g[0]):
                length += coordinate * coordinate
            yield u[0] * np.sqrt(length)
            return
        for j in range(g.shape[1]):
            inside = np.zeros_like(u[0])
            for b in range(batch):
                inside += u[b] * g[b, j]
            yield inside
        outside = np.zeros((p, *rest.shape[1:]))
        if batch <= p:
            for b in range(batch):
                outside += u[b, :, None] * rest[b]
        else:  # in law, samples with the covariance u u^T
            square = np.zeros((p, p, u.shape[-1]))
            for b in range(batch):
                square += u[b, :, None] * u[b]
            for j, column, _ in _factor(square, p):
                outside[j:] += column[:, None] * rest[j]
        yield from np.moveaxis(outside, 1, 0)

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
        paths, risk = self.paths, self._risk()
        paths.last_Q[who], paths.last_M[who], paths.last_risk[who] = Q[which], M[which], risk[which]
        paths.last_a[who] = self.a.T[which]
        if step is not None:
            for row in np.flatnonzero(self.setup.store == step):
                self._fill(int(row), which)

    def _fill(self, row: int, which: NDArray[np.bool_]) -> None:
        paths, who, (Q, M) = self.paths, self.who[which], self._rows()
        paths.Q[who, row], paths.M[who, row], paths.a[who, row] = Q[which], M[which], self.a.T[which]
        paths.risk[who, row] = self._risk()[which]

    def _sane(self) -> NDArray[np.bool_]:
        return self._largest() < self.limit  # false for NaN

    def _largest(self) -> Array:
        """The largest squared norm or second layer weight of each replica."""
        largest: Array = self.Omega[0, 0]
        for j in range(self.setup.p):
            largest = np.maximum(np.maximum(largest, self.Omega[j, j]), self.a[j] ** 2)  # NaN stays
        return largest

    def _store(self, row: int) -> None:
        self._fill(row, ~self.exited & self._sane())

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


def _factor(A: Array, most: int) -> Iterator[tuple[int, Array, NDArray[np.bool_]]]:
    """Columns j of L in A = L L^T from row j on, by the right-looking Cholesky factorisation, which overwrites A.

    A may be semidefinite: a column is zero, and the third value false, where the pivot is rounding or the rank would
    exceed `most`.
    """
    n, rank = len(A), np.zeros(A.shape[-1], dtype=np.int64)
    floor = _SINGULAR * A[np.arange(n), np.arange(n)]
    for j in range(n):
        pivot = A[j, j]
        sound = (pivot > floor[j]) & (rank < most)
        column = np.where(sound, A[j:, j] / np.sqrt(np.where(sound, pivot, 1.0)), 0.0)
        A[j + 1 :, j + 1 :] -= column[1:, None] * column[None, 1:]
        rank += sound
        yield j, column, sound
