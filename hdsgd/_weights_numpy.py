"""SGD on explicit weights in numpy, one replica after the other: where there is no compiler."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ._paths import BLOW_UP, Paths, Setup
from ._random import WEIGHTS, generators

__all__ = ["run"]

Array = NDArray[np.float64]

BLOCK = 64  # inputs drawn at once; part of the definition of a replica's stream
COMPLETED, EXITED, DIVERGED = 0, 1, 2


def run(setup: Setup) -> Paths:
    """Simulate all replicas of `setup`."""
    assert setup.W is not None
    paths = Paths(setup)
    paths.W = np.array(np.broadcast_to(setup.W, (setup.replicas, setup.p, setup.d)), order="C")
    with np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore"):  # blow-ups go into the status
        for replica in range(setup.replicas):
            _replica(setup, paths, paths.W[replica], replica)
    return paths


def _replica(setup: Setup, paths: Paths, W: Array, replica: int) -> None:
    assert setup.W_star is not None
    (stream,) = generators(setup.seed, WEIGHTS, replica, 1)
    W_star, kernel, stop, store = setup.W_star, setup.kernel, setup.stop, setup.store
    p, k, d = setup.p, setup.k, setup.d
    a, root = setup.a[replica if setup.a.shape[0] > 1 else 0], np.sqrt(d)

    def overlaps() -> tuple[Array, Array]:
        return W @ W.T / d, W @ W_star.T / d

    def risk(Q: Array, M: Array) -> float:
        return float(setup.risk(Q[None], M[None], a[None])[0])

    def project() -> None:
        if setup.spherical:
            W[:] *= (root / np.linalg.norm(W, axis=1))[:, None]

    project()
    Q, M = overlaps()
    limit = BLOW_UP * max(1.0, float(np.diagonal(Q).max()))
    level = -np.inf if stop is None else float(stop.threshold(risk(Q, M)))
    step = row = 0
    while True:
        if stop is not None or step == setup.n_steps or step % BLOCK == 0 or (row < store.size and store[row] == step):
            Q, M = overlaps()
            if not np.diagonal(Q).max() < limit:  # NaN, too
                paths.status[replica] = DIVERGED
                return
            now = risk(Q, M)
            while row < store.size and store[row] == step:
                paths.Q[replica, row], paths.M[replica, row], paths.risk[replica, row] = Q, M, now
                row += 1
            paths.last_Q[replica], paths.last_M[replica], paths.last_risk[replica] = Q, M, now
            if stop is not None and now <= level:
                paths.exit_step[replica], paths.status[replica] = step, EXITED
                return
        if step == setup.n_steps:
            return
        if step % BLOCK == 0:
            inputs, noise = stream.standard_normal((BLOCK, d)), stream.standard_normal(BLOCK)
            if setup.progress is not None:
                setup.progress((replica + step / setup.n_steps) / setup.replicas)
        x = inputs[step % BLOCK]
        fields = W @ x / root
        error = setup.noise * noise[step % BLOCK]
        error += setup.a_star @ kernel.sigma_star(W_star @ x / root) / k - a @ kernel.sigma(fields) / p
        W += (setup.rate * root * error * a * kernel.dsigma(fields))[:, None] * x
        project()
        step += 1
