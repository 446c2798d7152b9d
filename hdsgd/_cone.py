"""The cone that overlaps live in: Omega = [[Q, M], [M^T, P]] is positive semidefinite."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["ROUNDING", "TOLERANCE", "checked", "feasible", "omega", "symmetric"]

Array = NDArray[np.float64]

# Omega may be indefinite by this much, times its largest diagonal entry: what rounding and solvers leave behind.
TOLERANCE = 1e-10
# Below this it is rounding, which every user of Omega has to survive anyway, and values are kept bit for bit.
ROUNDING = 1e-14


def feasible(Q: Array, M: Array, P: Array) -> tuple[Array, Array]:
    """Q and M with every Omega positive semidefinite, keeping P and the diagonal of Q: for whole trajectories."""
    q, m, _ = checked(Q, M, P, np.inf)
    return q, m


def symmetric(x: Array) -> Array:
    """The symmetric part."""
    return (x + np.swapaxes(x, -1, -2)) / 2


def omega(Q: Array, M: Array, P: Array) -> Array:
    """[[Q, M], [M^T, P]] with the leading axes of M."""
    teacher = np.broadcast_to(P, (*M.shape[:-2], *P.shape))
    top = np.concatenate((Q, M), axis=-1)
    return np.concatenate((top, np.concatenate((np.swapaxes(M, -1, -2), teacher), axis=-1)), axis=-2)


def _definite(Omega: Array, shift: Array) -> bool:
    """Whether Omega + shift*I is positive definite: Cholesky is ten times cheaper than eigenvalues."""
    try:
        np.linalg.cholesky(Omega + shift[..., None, None] * np.eye(Omega.shape[-1]))
    except np.linalg.LinAlgError:
        return False
    return True


def checked(Q: Array, M: Array, P: Array, tolerance: float) -> tuple[Array, Array, Array]:
    """Check that Omega is positive semidefinite up to the tolerance, and move it onto the cone if it is not quite."""
    Omega = omega(Q, M, P)
    scale = np.diagonal(Omega, axis1=-2, axis2=-1).max(axis=-1)
    scale = np.maximum(scale, np.finfo(np.float64).tiny)
    if _definite(Omega, ROUNDING * scale):
        return Q, M, P
    worst = np.linalg.eigvalsh(Omega)[..., 0] / scale
    if np.any(worst < -tolerance):
        alone = (name for name, x in (("P", P), ("Q", Q)) if (np.linalg.eigvalsh(x)[..., 0] / scale < -tolerance).any())
        raise ValueError(
            "Omega = [[Q, M], [M.T, P]] must be positive semidefinite, but its smallest eigenvalue is "
            f"{worst.min():.3g} times its largest diagonal entry; these are not the overlaps of any weights: check "
            f"{next(alone, 'M')}, or use Overlaps.from_weights, which computes them in double precision."
        )
    q, m, r = _projected(Q, M, P)
    outside = worst < -ROUNDING  # the others keep their values bit for bit
    if np.ndim(outside) == 0:
        return (q, m, r) if outside else (Q, M, P)
    return np.where(outside[..., None, None], q, Q), np.where(outside[..., None, None], m, M), r


def _projected(Q: Array, M: Array, P: Array) -> tuple[Array, Array, Array]:
    """Clip the part of Q outside the teachers' span to positive semidefinite, then restore the diagonal of Q.

    Eigenvalue clipping of Omega would change P (one for all replicas) and the norms (exactly 1 on the sphere).
    """
    values, vectors = np.linalg.eigh(P)
    kept = values > TOLERANCE * max(values[-1], 0.0)
    if values[0] < -ROUNDING * values[-1]:
        P = symmetric((vectors * np.maximum(values, 0.0)) @ vectors.T)
    basis = vectors[:, kept]
    B = M @ basis / np.sqrt(values[kept])  # coordinates of the students in the teachers' frame
    inside = B @ np.swapaxes(B, -1, -2)
    rest, frame = np.linalg.eigh(symmetric(Q - inside))
    C = frame * np.sqrt(np.maximum(rest, 0.0))[..., None, :]
    rows = np.concatenate((B, C), axis=-1)
    norms = np.linalg.norm(rows, axis=-1)
    wanted = np.sqrt(np.maximum(np.diagonal(Q, axis1=-2, axis2=-1), 0.0))
    ratio = np.divide(wanted, norms, out=np.zeros_like(norms), where=norms > 0.0)
    rows *= ratio[..., None]
    q = symmetric(rows @ np.swapaxes(rows, -1, -2))
    m = rows[..., : B.shape[-1]] @ (basis * np.sqrt(values[kept])).T
    return q, m, P
