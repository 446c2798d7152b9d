"""Second moments of the increments at g = 0 for every activation: derivatives of the noise along Omega.

With F = s'_j s'_l e**2, w_b = Omega e_b and any vector w, Stein's lemma and Price's theorem give

    E[u_b u_c F] = Omega_bc E[F] + w_b^T E[hess F] w_c,      dE[F]/dtau at Omega + tau w w^T = w^T E[hess F] w/2,

so everything follows from the derivatives of N_jl = E[F] along w_b w_b^T and (w_b +- w_c)(w_b +- w_c)^T. Where w is
Omega x, such a change dilates the fields along one direction, and vanishes with x^T Omega x: Omega stays positive
semidefinite with its null space, coincident fields stay coincident, and E[F] is analytic even where F has kinks. A
central difference of the eighth order therefore is good to 1e-12; the sixth order, at the same points, shows it. Where
N itself is what is left of large terms (nearly perfect learning), their rounding is amplified 300-fold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ._increments import Moments, Step, assemble

__all__ = ["by_derivatives", "four_point_functions", "second_moments"]

Array = NDArray[np.float64]

STRIDE = 0.007  # of the differences: the eighth order leaves 1e-14 of their terms, the sixth 1e-12
STENCIL = np.array([[672.0, -168.0, 32.0, -3.0], [630.0, -126.0, 14.0, 0.0]]) / 840.0  # the eighth order and the sixth


def four_point_functions(p: int, k: int) -> int:
    """How many of them one state takes: to choose the route by."""
    pairs = (p + k) * (p + k + 1) // 2
    return int(2 * STENCIL.shape[1]) * pairs**2 * (p * (p + 1) // 2)


def by_derivatives(
    step: Step, gradients: Callable[..., Array], noise: Callable[..., Array], Omega: Array, v: Array, a: Array
) -> tuple[Array, Array]:
    """Covariance (R, m, m) at g = 0 for a fixed second layer, and its error.

    Parameters
    ----------
    gradients, noise : callable
        Those of a kernel.
    Omega, v, a : arrays, shapes (R, n, n), (R, n), (R, p)
    """
    p, k = step.p, step.k
    covs = []
    for i in range(len(v)):
        weights, a_star = a[i : i + 1], v[i, p:] * k

        def at(cov: Array, weights: Array = weights, a_star: Array = a_star) -> Array:
            Q, M, P = cov[:, :p, :p], cov[:, :p, p:], cov[:, p:, p:]
            return noise(Q, M, P, np.repeat(weights, len(cov), axis=0), a_star, step.Delta)

        moments = Moments.zeros(len(STENCIL), p, p + k)
        Q, M, P = Omega[i : i + 1, :p, :p], Omega[i : i + 1, :p, p:], Omega[i, p:, p:]
        moments.first[:] = gradients(Q, M, P, weights, a_star)
        moments.second[:] = second_moments(at, Omega[i])
        covs.append(assemble(replace(step, g=0.0), weights, moments))
    cov, rough = np.stack(covs, axis=1)
    # Near perfect learning the error is rounding of the noise, which both orders share: their difference carries 62/840
    # of it (root mean square of the coefficients), the eighth order 693/840.
    return cov, 12.0 * (cov - rough)


def second_moments(noise: Callable[[Array], Array], Omega: Array) -> Array:
    """E[s'_j s'_l u_b u_c e**2] of one state, shape (2, p, p, n, n): by differences of the eighth and the sixth order.

    Parameters
    ----------
    noise : callable
        N, shape (N, p, p), at covariances (N, n, n) of the fields.
    Omega : (n, n) array
    """
    size = np.sqrt(np.diagonal(Omega))
    share = np.divide(1.0, size, out=np.zeros_like(size), where=size > 0.0)
    b, c = np.triu_indices(len(Omega))
    alone = b == c
    side = np.where(Omega[b, c] < 0.0, -1.0, 1.0)  # larger sums lose less in the difference to their parts
    other = np.where(alone, 0.0, side * share[c])
    w = share[b, None] * Omega[b] + other[:, None] * Omega[c]  # entry by entry: equal fields stay equal
    variance = share[b] * w[np.arange(b.size), b] + other * w[np.arange(b.size), c]
    dilation = w[:, :, None] * w[:, None, :] / np.where(variance > 0.0, variance, 1.0)[:, None, None]
    strides = STRIDE * np.arange(1, STENCIL.shape[1] + 1)[:, None, None, None]
    above, below = (noise((Omega + s * dilation).reshape(-1, *Omega.shape)) for s in (strides, -strides))
    change = (above - below).reshape(len(strides), b.size, *above.shape[1:])
    slopes = np.tensordot(STENCIL / STRIDE, change, 1) * variance[:, None, None]

    own = slopes[:, alone]
    bent = np.where(alone[:, None, None], 2.0 * slopes, side[:, None, None] * (slopes - own[:, b] - own[:, c]))
    values = Omega[b, c, None, None] * noise(Omega[None]) + (size[b] * size[c])[:, None, None] * bent
    second = np.empty((len(STENCIL), *above.shape[1:], *Omega.shape))
    second[..., b, c] = second[..., c, b] = np.moveaxis(values, 1, -1)
    return second
