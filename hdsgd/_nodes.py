"""Covariance of the increments by quadrature, for any activation: tensor rules, rays, lattices.

A rule is a set of points g of the standard normal law in n = p + k dimensions with weights that add up to 1; the local
fields are u = L g with L L^T = Omega. The label noise is integrated by hand: with e = e0 + sqrt(Delta) z an increment
A e + g B e**2 is X0 + sqrt(Delta) z X1 + g Delta (z**2 - 1) B in orthogonal terms, X0 = A e0 + g B (e0**2 + Delta),
X1 = A + 2 g e0 B. All weights are positive, so the covariance is positive semidefinite.

Sources: Nuyens & Cools, Math. Comp. 75 (2006) 903 (fast construction of lattices); Hickernell, in Monte Carlo and
Quasi-Monte Carlo Methods 2000 (2002) 274 (the tent transform).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ._increments import CHUNK, Step

__all__ = ["by_nodes", "gauss_hermite", "lattice", "rays", "root", "trapezoid"]

Array = NDArray[np.float64]
Function = Callable[[Array], Array]
Rule = tuple[Array, Array]  # points (N, n), weights (N,)

FAR = 11.5  # radius beyond which r**8 times the normal law is below rounding
SEED = 20230518  # of the shifts of lattices: an estimate is the same in every call


@cache
def gauss_hermite(n: int, q: int) -> Rule:
    """Tensor product of q-point rules: exact for polynomials of degree 2q - 1 in each coordinate."""
    from scipy.special import roots_hermitenorm

    x, w = roots_hermitenorm(q)
    return _tensor(x, w / w.sum(), n)


@cache
def lattice(n: int, count: int, shift: int = 0) -> Rule:
    """Rank-1 lattice of a prime number of points, randomly shifted, folded by the tent and mapped to the normal law.

    The increments are of the eighth power in u for polynomials, so points are drawn wider and weighted: ten times less
    error in such moments than from the law itself, and no more in others.
    """
    from scipy.special import ndtri

    wide = 1.0 + 2.25 / max(n, 4)  # variance of the points
    offset = np.random.default_rng((SEED, shift)).random(n)
    x = np.outer(np.arange(count), _generator(n, count)) % count / count
    x = np.abs(2.0 * ((x + offset) % 1.0) - 1.0)
    half = 0.25 / count
    points = np.sqrt(wide) * ndtri(np.clip(x, half, 1.0 - half))
    weights = np.exp((1.0 / wide - 1.0) * (points**2).sum(axis=1) / 2.0)
    return points, weights / weights.sum()


@cache
def _generator(n: int, count: int) -> NDArray[np.int64]:
    """Component-by-component choice that minimises the worst-case error of smooth periodic functions."""
    order = count - 1
    root_of_unity = _primitive_root(count)
    powers = np.ones(order, dtype=np.int64)
    for i in range(1, order):
        powers[i] = powers[i - 1] * root_of_unity % count
    folded = np.minimum(powers, count - powers)  # the kernel is even
    x = folded / count
    kernel = x * x - x + 1.0 / 6.0
    spectrum = np.fft.rfft(kernel)
    product = np.ones(order)  # at the points powers[0], powers[-1], powers[-2], ...
    chosen: list[int] = []
    for _ in range(n):
        error = np.fft.irfft(spectrum * np.fft.rfft(product), order)
        best = int(np.argmin(np.round(error, 6))) if chosen else 0
        chosen.append(int(powers[best]))
        product = product * (1.0 + np.roll(kernel[::-1], best + 1))
    return np.array(chosen)


def _primitive_root(prime: int) -> int:
    rest, factors, f = prime - 1, [], 2
    while f * f <= rest:
        if rest % f == 0:
            factors.append(f)
            while rest % f == 0:
                rest //= f
        f += 1
    factors += [rest] if rest > 1 else []
    return next(r for r in range(2, prime) if all(pow(r, (prime - 1) // q, prime) != 1 for q in factors))


@cache
def trapezoid(n: int, q: int) -> Rule:
    """Tensor product of the trapezoidal rule: exponentially accurate for smooth functions that do not grow fast."""
    reach = 8.5  # beyond, r**8 times the normal law is 1e-11 of all
    x = np.linspace(-reach, reach, q)
    w = np.exp(-(x**2) / 2.0)
    points, weights = _tensor(x, w / w.sum(), n)
    kept = (points**2).sum(axis=1) <= reach**2
    return points[kept], weights[kept] / weights[kept].sum()


def _tensor(x: Array, w: Array, n: int) -> Rule:
    points = np.stack([c.ravel() for c in np.meshgrid(*[x] * n, indexing="ij")], axis=1)
    return points, np.prod(np.stack(np.meshgrid(*[w] * n, indexing="ij")), axis=0).ravel()


def rays(L: Array, angles: int, radii: int) -> Rule:
    """Polar rule in two dimensions for functions with kinks at u_a = 0, u = L g: smooth in each sector between them."""
    from scipy.special import roots_legendre

    c, weight = roots_legendre(angles)
    lines = np.concatenate([np.arctan2(row[1], row[0]) + np.array([np.pi / 2.0, -np.pi / 2.0]) for row in L])
    edges = np.sort(np.mod(lines, 2.0 * np.pi))
    width = np.diff(edges, append=edges[0] + 2.0 * np.pi)
    theta = (edges[:, None] + width[:, None] * (c + 1.0) / 2.0).ravel()
    share = (width[:, None] * weight / (4.0 * np.pi)).ravel()
    x, w = roots_legendre(radii)
    radius = FAR * (x + 1.0) / 2.0
    density = w * radius * np.exp(-(radius**2) / 2.0)
    points = radius[:, None, None] * np.stack((np.cos(theta), np.sin(theta)), axis=-1)
    return points.reshape(-1, 2), np.outer(density / density.sum(), share).ravel()


def by_nodes(
    step: Step, functions: tuple[Function, Function, Function], rule: Rule, Omega: Array, v: Array, a: Array
) -> Array:
    """Covariance (R, m, m) by one rule for all states.

    Parameters
    ----------
    functions : tuple of callable
        s, s' of the student and s of the teacher.
    rule : tuple of arrays
        Points and weights.
    Omega, v, a : arrays, shapes (R, n, n), (R, n), (R, p)
    """
    points, weights = rule
    parts, roots = step.components, root(Omega)
    portion = max(1, CHUNK // (4 * parts.size))
    out = np.empty((len(Omega), parts.size, parts.size))
    for i in range(len(Omega)):
        second, mean = np.zeros((parts.size, parts.size)), np.zeros(parts.size)
        for first in range(0, len(points), portion):
            rows = slice(first, first + portion)
            u = points[rows] @ roots[i].T
            X0, X1, B = _terms(step, functions, u, v[i], a[i])
            w = weights[rows]
            mean += w @ X0
            second += (X0 * w[:, None]).T @ X0
            if step.Delta > 0.0:
                second += step.Delta * (X1 * w[:, None]).T @ X1
                if step.g > 0.0:
                    noise = 2.0 * (step.g * step.Delta) ** 2 * (B * w[:, None]).T @ B
                    second[: parts.split, : parts.split] += noise
        out[i] = second - np.outer(mean, mean)
    return out


def _terms(
    step: Step, functions: tuple[Function, Function, Function], u: Array, v: Array, a: Array
) -> tuple[Array, Array, Array]:
    """X0, X1 of all components and B of those of Q, at fields u (N, n)."""
    p, parts = step.p, step.components
    student, slope, teacher = functions
    phi = np.concatenate((student(u[:, :p]), teacher(u[:, p:])), axis=1)
    e0 = (phi @ v)[:, None]
    gain = a * slope(u[:, :p])
    j, b = parts.units
    A = np.empty((len(u), parts.size))
    end = parts.split + p * step.k
    A[:, :end] = gain[:, j[:end]] * u[:, b[:end]]
    A[:, : parts.split] += gain[:, b[: parts.split]] * u[:, j[: parts.split]]
    A[:, end:] = step.ratio * phi[:, j[end:]]
    B = gain[:, parts.upper[0]] * gain[:, parts.upper[1]]
    X0, X1 = A * e0, A
    if step.g > 0.0:
        X0[:, : parts.split] += step.g * B * (e0**2 + step.Delta)
        X1[:, : parts.split] += 2.0 * step.g * e0 * B
    return X0, X1, B


def root(cov: Array) -> Array:
    """Lower triangular roots of positive semidefinite matrices, shape (R, m, m), column by column for all replicas.

    A pivot that is lost in rounding has no column: singular matrices are fine.
    """
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
