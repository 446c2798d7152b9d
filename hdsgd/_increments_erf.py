"""Covariance of the increments for error functions: tilts, and one integral over the scale for four of them.

For s(x) = c0 + c1 erf(kappa x) every s' is a Gaussian factor, that is a rank-one change of the covariance (a tilt), and
with w = v c1, c = sum v c0 the error is e = c + f + sqrt(Delta) z, f = sum_a w_a erf(u_a/sqrt(2)) at rescaled fields.
After the tilts by T the covariance needs

    |T| = 2  E[f**2 u_b u_c] = C_bc F2 + (C H C)_bc, H = 2 w w^T o c11 + diag(2 w o (c20 w))     (Stein's lemma)
    |T| = 3  E[f**3 u_b] = 3 sum_c C_bc w_c t_c F2(C tilted by c too)
    |T| = 4  E[f**4] = F4

where F2 = E[f**2] is a sum of arcsines and t the factors of the tilts. F4 has four signs and no closed form; along
s C, 0 < s < 1, its derivative has: 6 sum_ab w_a w_b t_ab F2(s C tilted by a, b) C_ab/(1 + s C_aa), a smooth integral
that is done by Gauss-Legendre in log(1 + s max C).

Source: Saad & Solla 1995 for two signs.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from ._family import ErrorFunction
from ._increments import CHUNK, Moments, Step, assemble, spread

__all__ = ["arcsines", "error_functions", "scale_nodes"]

Array = NDArray[np.float64]

ROOT = np.sqrt(2.0 / np.pi)
NODES = 24  # of the integral over the scale


@cache
def scale_nodes(count: int = NODES) -> Array:
    """Gauss-Legendre nodes and weights on [0, 1], shape (2, count)."""
    from scipy.special import roots_legendre

    x, w = roots_legendre(count)
    return np.stack(((x + 1.0) / 2.0, w / 2.0))


def arcsines(p: int, k: int, *, leading: bool, nodes: int = NODES) -> float:
    """Evaluations of asin that one covariance takes, roughly: to choose the route by."""
    n, pairs, triples = p + k, p * (p + 1) / 2, p * (p + 1) * (p + 2) / 6
    two = n * (n + 1) / 2
    return two * (pairs + (0.0 if leading else triples * n + triples * (p + 3) / 4 * nodes * two))


def error_functions(
    step: Step, student: ErrorFunction, teacher: ErrorFunction, Omega: Array, v: Array, a: Array, nodes: int = NODES
) -> Array:
    """Covariance (R, m, m) for a fixed second layer.

    Parameters
    ----------
    student, teacher : ErrorFunction
    Omega, v, a : arrays, shapes (R, n, n), (R, n), (R, p)
    nodes : int
        Of the integral over the scale.
    """
    p, n, size = step.p, step.p + step.k, step.components.size
    at = max(1, CHUNK // (nodes * n**2 + p**2 * n**2 + size**2))
    if len(Omega) > at:
        pieces = [
            error_functions(step, student, teacher, Omega[i : i + at], v[i : i + at], a[i : i + at], nodes)
            for i in range(0, len(v), at)
        ]
        return np.concatenate(pieces)
    pick = np.arange(n) < p
    unit = np.sqrt(2.0) * np.where(pick, student.slope, teacher.slope)  # of a field, in the scale of erf(x/sqrt(2))
    w = v * np.where(pick, student.height, teacher.height)
    c = (v @ np.where(pick, student.offset, teacher.offset))[:, None, None]
    C0 = Omega * unit[:, None] * unit
    Delta, rest = step.Delta, c[:, 0] ** 2 + step.Delta

    moments = Moments.zeros(len(Omega), p, n)  # of the rescaled fields and h'_j
    for j in range(p):
        Cj, tj = _tilt(C0, j)
        moments.first[:, j] = tj[:, None] * (Cj @ (w * _factor(Cj))[:, :, None])[:, :, 0]
        for l in range(j, p):
            C, t = _tilt(Cj, l)
            t = tj * t
            F = _square(w, C)[:, None, None] + c**2 + Delta
            moments.squares[:, j, l] = moments.squares[:, l, j] = t * F[:, 0, 0]
            moments.second[:, j, l] = moments.second[:, l, j] = t[:, None, None] * (C * F + C @ _curvature(w, C) @ C)
            if step.g == 0.0:
                continue
            for m in range(l, p):
                Cm, tm = _tilt(C, m)
                value = (t * tm)[:, None] * _cube(w, Cm, rest)
                spread(moments.cubes, (j, l, m), value)
                for q in range(m, p):
                    Cq, tq = _tilt(Cm, q)
                    fourth = t * tm * tq * _fourth(w, Cq, c[:, 0, 0] ** 2, Delta, nodes)
                    spread(moments.fourths, (j, l, m, q), fourth)

    return assemble(step, a, moments.scaled(student.height * unit[0], unit))


def _tilt(C: Array, j: int) -> tuple[Array, Array]:
    """Covariance under the weight h'_j = sqrt(2/pi) exp(-u_j**2/2), and its mean (over all leading axes)."""
    own = 1.0 + C[..., j, j]
    row = C[..., j, :]
    return C - row[..., :, None] * (row / own[..., None])[..., None, :], ROOT / np.sqrt(own)


def _factor(C: Array) -> Array:
    """t_c = E[h'_c] for all units c."""
    return np.asarray(ROOT / np.sqrt(1.0 + np.diagonal(C, axis1=-2, axis2=-1)))


def _square(w: Array, C: Array) -> Array:
    """F2 = E[f**2], for w of fewer leading axes than C."""
    own = 1.0 / np.sqrt(1.0 + np.diagonal(C, axis1=-2, axis2=-1))
    values = np.arcsin(np.clip(C * own[..., :, None] * own[..., None, :], -1.0, 1.0))
    return np.asarray(2.0 / np.pi * np.einsum("...a,...ab,...b->...", w, values, w))


def _curvature(w: Array, C: Array) -> Array:
    """H: half the expected second derivatives of f**2, twice."""
    own = 1.0 + np.diagonal(C, axis1=-2, axis2=-1)
    slopes = 2.0 / np.pi / np.sqrt(own[..., :, None] * own[..., None, :] - C**2)
    bend = -C * slopes / own[..., :, None]
    H = 2.0 * w[..., :, None] * w[..., None, :] * slopes
    i = np.arange(w.shape[-1])
    H[..., i, i] += 2.0 * w * (bend @ w[..., None])[..., 0]
    return H


def _cube(w: Array, C: Array, rest: Array) -> Array:
    """E[e**3 u_b], shape (R, n); rest = c**2 + Delta."""
    weights = np.empty_like(w)
    for c in range(w.shape[1]):
        tilted, t = _tilt(C, c)
        weights[:, c] = 3.0 * w[:, c] * t * (_square(w, tilted) + rest[:, 0])
    return np.asarray((C @ weights[:, :, None])[:, :, 0])


def _fourth(w: Array, C: Array, c2: Array, Delta: float, nodes: int) -> Array:
    """E[e**4], shape (R,)."""
    own = np.diagonal(C, axis1=1, axis2=2)
    x, weight = scale_nodes(nodes)
    largest = np.maximum(own.max(axis=1), 1e-8)[:, None]
    s = np.expm1(np.log1p(largest) * x) / largest
    measure = weight * np.log1p(largest) / largest * (1.0 + largest * s)
    scaled = s[:, :, None, None] * C[:, None]
    total, wide = np.zeros_like(s), w[:, None, :]
    for a in range(w.shape[1]):
        once, ta = _tilt(scaled, a)
        for b in range(a, w.shape[1]):
            both, tb = _tilt(once, b)
            share = 1.0 / (1.0 + s * own[:, a, None]) + 1.0 / (1.0 + s * own[:, b, None])
            pair = (0.5 if a == b else 1.0) * (w[:, a] * w[:, b] * C[:, a, b])[:, None]
            total += pair * share * ta * tb * _square(wide, both)
    four, two = 6.0 * (measure * total).sum(axis=1), _square(w, C)
    return np.asarray(c2**2 + 6.0 * c2 * (two + Delta) + four + 6.0 * Delta * two + 3.0 * Delta**2)
