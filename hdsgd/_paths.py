"""What every simulator takes and returns, and how a start is put into coordinates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._kernel import Kernel
from ._overlaps import PIECE
from ._schedule import Clock
from ._solution import Exit

__all__ = ["BLOW_UP", "Paths", "Setup", "copies", "frame", "realise"]

Array = NDArray[np.float64]

BLOW_UP = 1e10  # overlaps this many times the start's (or 1) are never reached by a run that learns
_RANK = 1e-12  # eigenvalues of P below this times the largest are rounding


@dataclass(frozen=True)
class Setup:
    """An ensemble to simulate: checked arguments, in steps and arrays.

    `Q`, `M`, `a` have a leading axis of length 1 (one start for all) or `replicas`; so has `W`, None unless weights are
    simulated. `store` are the non-decreasing step numbers of the stored rows.
    """

    p: int
    k: int
    d: int
    replicas: int
    n_steps: int
    store: NDArray[np.int64]
    clock: Clock  # times of the steps
    noise: float  # sqrt(Delta)
    batch: int  # fresh samples per step
    decay: float  # eta of the weight decay: a step of time h multiplies W by 1 - eta*h
    ratio: float  # gamma_a / gamma; 0: the second layer is fixed
    spherical: bool
    stop: Exit | None
    Q: Array
    M: Array
    P: Array
    a: Array
    a_star: Array
    W: Array | None
    W_star: Array | None
    seed: int
    kernel: Kernel
    progress: Callable[[float], None] | None

    def risk(self, Q: Array, M: Array, a: Array) -> Array:
        """Excess risks (R,) of Q (R, p, p), M (R, p, k), a (R, p)."""
        return np.maximum(self.kernel.risk(Q, M, self.P, a, self.a_star), 0.0)


class Paths:
    """Rows of output, NaN and -1 until a simulator fills them."""

    def __init__(self, setup: Setup) -> None:
        count, rows, p, k = setup.replicas, setup.store.size, setup.p, setup.k
        self.Q = np.full((count, rows, p, p), np.nan)
        self.M = np.full((count, rows, p, k), np.nan)
        # the start's, to be overwritten where the second layer is trained
        self.a = np.repeat(np.broadcast_to(setup.a, (count, p))[:, None], rows, axis=1)
        self.last_a = np.array(np.broadcast_to(setup.a, (count, p)))
        self.risk = np.full((count, rows), np.nan)
        # where each replica stopped: at its exit or at the end
        self.last_Q = np.full((count, p, p), np.nan)
        self.last_M = np.full((count, p, k), np.nan)
        self.last_risk = np.full(count, np.nan)
        self.exit_step = np.full(count, -1, dtype=np.int64)
        self.status = np.zeros(count, dtype=np.int32)
        self.W: Array | None = None


def frame(Q: Array, M: Array, P: Array, d: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Coordinates of teachers and students in orthonormal frames: P = L L^T, M = B L^T, Q = B B^T + C C^T.

    Parameters
    ----------
    Q, M, P : ndarray, shapes (R, p, p), (R, p, k), (k, k)
    d : int
        Dimension of the space that the weights are in.

    Returns
    -------
    L, B, C : ndarray, shapes (k, r), (R, p, r), (R, p, min(p, d - r))
        r is the rank of P; C is lower triangular if it is square. Singular Omega is allowed.

    Raises
    ------
    ValueError
        If the overlaps need more than d dimensions.
    """
    values, vectors = np.linalg.eigh(P)
    if values[0] > _RANK * values[-1]:
        L = np.linalg.cholesky(P)
        B = np.swapaxes(np.linalg.solve(L, np.swapaxes(M, -1, -2)), -1, -2)
    else:  # coinciding teachers: a frame of the span only
        kept = values > _RANK * max(values[-1], np.finfo(np.float64).tiny)
        L = vectors[:, kept] * np.sqrt(values[kept])
        B = M @ (vectors[:, kept] / np.sqrt(values[kept]))
    rest = Q - B @ np.swapaxes(B, -1, -2)
    values, vectors = np.linalg.eigh((rest + np.swapaxes(rest, -1, -2)) / 2)
    factor = vectors * np.sqrt(np.maximum(values, 0.0))[..., None, :]
    r, p = L.shape[1], Q.shape[-1]
    if d - r < p:  # students in general position need r + p dimensions; these may need less
        scale = np.trace(Q, axis1=-2, axis2=-1) + np.trace(P)
        if d < r or np.any(np.maximum(values, 0.0)[..., : p + r - d].sum(axis=-1) > 1e-10 * scale):
            raise ValueError(
                f"no weights in d = {d} dimensions have these overlaps; start from hdsgd.Weights, or increase d."
            )
        return L, B, factor[..., p + r - d :]
    C = np.swapaxes(np.linalg.qr(np.swapaxes(factor, -1, -2), mode="r"), -1, -2)
    return L, B, np.tril(C)


def realise(Q: Array, M: Array, P: Array, d: int, rng: np.random.Generator, *, spherical: bool) -> tuple[Array, Array]:
    """Weights with exactly these overlaps, in one random orientation for all replicas.

    Returns
    -------
    W, W_star : ndarray, shapes (R, p, d), (k, d)

    Raises
    ------
    ValueError
        If the overlaps need more than d dimensions.
    """
    L, B, C = frame(Q, M, P, d)
    r = L.shape[1]
    axes = _axes(r + C.shape[-1], d, rng)
    W, W_star = np.empty((*Q.shape[:-1], d)), np.empty((P.shape[0], d))
    for piece in _pieces(d, Q.shape[0] * Q.shape[-1]):
        W[..., piece] = B @ axes[:r, piece] + C @ axes[r:, piece]
        W_star[:, piece] = L @ axes[:r, piece]
    if spherical:
        for rows in W:
            for row in rows:
                row *= np.sqrt(d) / np.linalg.norm(row)
    return W, W_star


def copies(W: Array, replicas: int) -> Array:
    """Weights (1 or R, p, d) as a new array (R, p, d)."""
    out = np.empty((replicas, *W.shape[1:]))
    for piece in _pieces(W.shape[2], replicas * W.shape[1]):
        out[..., piece] = W[..., piece]
    return out


def _pieces(d: int, rows: int) -> list[slice]:
    """Slices of d columns that take some milliseconds: a signal is seen between two of them."""
    step = max(1, PIECE // max(1, rows))
    return [slice(at, at + step) for at in range(0, d, step)]


def _axes(n: int, d: int, rng: np.random.Generator) -> Array:
    """Uniformly random orthogonal rows of norm sqrt(d), shape (n, d)."""
    axes, pieces = np.empty((n, d)), _pieces(d, n)
    for piece in pieces:
        axes[:, piece] = rng.standard_normal(axes[:, piece].shape)
    for _ in range(2):  # the polar factor; the second time removes the rounding of the first
        gram = np.zeros((n, n))
        for piece in pieces:
            gram += axes[:, piece] @ axes[:, piece].T
        values, vectors = np.linalg.eigh(gram / d)
        root = (vectors / np.sqrt(values)) @ vectors.T
        for piece in pieces:
            axes[:, piece] = root @ axes[:, piece]
    return axes
