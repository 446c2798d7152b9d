"""SGD on explicit weights in numpy, one replica after the other: where there is no compiler."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ._paths import BLOW_UP, Paths, Setup, copies
from ._random import WEIGHTS, generators

__all__ = ["run"]

Array = NDArray[np.float64]

BLOCK = 64  # steps between tests for divergence; also the most inputs drawn at once, part of a replica's stream
DRAWN = 2**20  # numbers drawn at once, where one input is not larger: a signal is seen between two draws
COMPLETED, EXITED, DIVERGED = 0, 1, 2


def run(setup: Setup) -> Paths:
    """Simulate all replicas of `setup`."""
    assert setup.W is not None
    paths = Paths(setup)
    paths.W = copies(setup.W, setup.replicas)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore"):  # blow-ups go into the status
        for replica in range(setup.replicas):
            _replica(setup, paths, paths.W[replica], replica)
    return paths


class _Samples:
    """The inputs and label noises of one replica, each used once."""

    def __init__(self, stream: np.random.Generator, d: int) -> None:
        self._stream, self._used = stream, 0
        self._x, self._z = np.empty((min(BLOCK, max(1, DRAWN // d)), d)), np.empty(0)

    def take(self, most: int) -> tuple[Array, Array]:
        """The next inputs (n, d) and noises (n,), 1 <= n <= most."""
        if self._used == self._z.size:
            flat = self._x.reshape(-1)
            for first in range(0, flat.size, DRAWN):
                self._stream.standard_normal(out=flat[first : first + DRAWN])
            self._z, self._used = self._stream.standard_normal(len(self._x)), 0
        rows = slice(self._used, self._used + most)
        self._used = min(rows.stop, self._z.size)
        return self._x[rows], self._z[rows]


def _replica(setup: Setup, paths: Paths, W: Array, replica: int) -> None:
    assert setup.W_star is not None
    (stream,) = generators(setup.seed, WEIGHTS, replica, 1)
    W_star, kernel, stop, store = setup.W_star, setup.kernel, setup.stop, setup.store
    p, k, d = setup.p, setup.k, setup.d
    a, root = np.array(setup.a[replica if setup.a.shape[0] > 1 else 0]), np.sqrt(d)
    samples = _Samples(stream, d)

    def overlaps() -> tuple[Array, Array]:
        return W @ W.T / d, W @ W_star.T / d

    def risk(Q: Array, M: Array) -> float:
        return float(setup.risk(Q[None], M[None], a[None])[0])

    def largest(Q: Array) -> float:
        return float(np.concatenate((np.diagonal(Q), a**2)).max())

    def project() -> None:
        if setup.spherical:
            W[:] *= (root / np.linalg.norm(W, axis=1))[:, None]

    def one_step(rate: float) -> None:
        gain: Array | float = 0.0
        gain_a: Array | float = 0.0
        left, scale = setup.batch, rate / setup.batch
        while left:
            x, z = samples.take(left)
            left -= len(z)
            fields = W @ x.T / root
            outputs = kernel.sigma(fields)
            error = setup.noise * z + setup.a_star @ kernel.sigma_star(W_star @ x.T / root) / k - a @ outputs / p
            gain = (scale * root * a[:, None] * kernel.dsigma(fields) * error) @ x + gain
            gain_a = setup.ratio * scale * (outputs @ error) + gain_a
        if setup.decay > 0.0:
            W[:] *= 1.0 - setup.decay * rate
        W[:] += gain
        a[:] += gain_a
        project()

    project()
    Q, M = overlaps()
    limit = BLOW_UP * max(1.0, largest(Q))
    level = -np.inf if stop is None else float(stop.threshold(risk(Q, M)))
    step = row = 0
    while True:
        if stop is not None or step == setup.n_steps or step % BLOCK == 0 or (row < store.size and store[row] == step):
            Q, M = overlaps()
            if not largest(Q) < limit:  # NaN, too
                paths.status[replica] = DIVERGED
                return
            now = risk(Q, M)
            while row < store.size and store[row] == step:
                paths.Q[replica, row], paths.M[replica, row], paths.a[replica, row] = Q, M, a
                paths.risk[replica, row] = now
                row += 1
            paths.last_Q[replica], paths.last_M[replica], paths.last_a[replica] = Q, M, a
            paths.last_risk[replica] = now
            if stop is not None and now <= level:
                paths.exit_step[replica], paths.status[replica] = step, EXITED
                return
        if step == setup.n_steps:
            return
        if step % BLOCK == 0 and setup.progress is not None:
            setup.progress((replica + step / setup.n_steps) / setup.replicas)
        one_step(setup.clock.unit_at(step))
        step += 1
