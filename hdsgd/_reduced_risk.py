"""The risk of very wide students as a function of p(k + 1) numbers, with its gradient, in O(p) operations.

A student is given by its coordinates B_i in an orthonormal frame of the teacher's span and the squared norm q_i of the
rest: Q = BBᵀ + diag(q) + R, where R is the off-diagonal overlap of the rests. R is taken as zero, or with
E R_ij² = q_i q_j/(d − k), that of random directions, to first order in 1/(d − k). The teacher's units are points L_r
in the same frame. Every two-point function but those of a unit with itself then is a function of B_i·B_j, which is a
sum of products of a function of i and one of j: this is what makes sums over pairs cost O(p).
"""

from __future__ import annotations

from collections.abc import Callable
from math import lgamma, log
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["RISKS", "Slope", "most_terms"]

Array = NDArray[np.float64]

TRUNCATION = 1e-11  # of the sums over powers of B_i·B_j, absolute
TABLE = 4_000_000  # numbers in the largest table of monomials
PIECE = 2**18  # numbers worked on at once: they stay in the cache


class Slope(NamedTuple):
    """The risk and its derivatives with respect to B (p, r) and q (p,)."""

    risk: float
    B: Array
    q: Array


#: risk of B, q, v, L, v_star, 1/(d - k)
Risk: TypeAlias = Callable[[Array, Array, Array, Array, Array, float], Slope]


def _quadratic(B: Array, q: Array, v: Array, L: Array, v_star: Array, c: float) -> Slope:
    """Risk ½(Σ_a v_a Ω_aa)² + Σ_ab v_a v_b Ω_ab² of σ = x²."""
    S = (B * B).sum(axis=1)
    trace = float(v @ (S + q) + v_star @ (L * L).sum(axis=1))
    H = (B.T * v) @ B + (L.T * v_star) @ L
    rest, own = float(v @ q), v * v * q
    risk = 0.5 * trace**2 + float((H * H).sum() + own @ (q + 2.0 * S)) + c * (rest**2 - float(own @ q))
    return Slope(
        risk,
        2.0 * v[:, None] * (trace * B + 2.0 * B @ H) + 4.0 * own[:, None] * B,
        v * trace + 2.0 * (own + v * v * S) + 2.0 * c * (v * rest - own),
    )


def _error_function(B: Array, q: Array, v: Array, L: Array, v_star: Array, c: float) -> Slope:
    """Risk (1/π) Σ_ab v_a v_b asin(b_a·b_b), b_a = B_a/√(1 + Ω_aa), of σ = erf(x/√2)."""
    p = len(q)
    S = (B * B).sum(axis=1)
    N = 1.0 + S + q
    b = B / np.sqrt(N)[:, None]
    every = np.concatenate((b, L / np.sqrt(1.0 + (L * L).sum(axis=1))[:, None]))
    weights = np.concatenate((v, v_star))
    s, full = S / N, 1.0 - 1.0 / N  # b_i·b_i as for two units with equal B, and with equal weights
    terms = _terms(float((every * every).sum(axis=1).max()))
    value, slope = _sums(every, weights, _arcsine(terms), every)
    risk = weights @ value + v * v @ (np.arcsin(full) - np.arcsin(s))
    by_b = 2.0 * v[:, None] * (slope[:p] - (v / np.sqrt(1.0 - s**2))[:, None] * b)
    by_N = v * v / np.sqrt(1.0 - full**2) / N**2
    by_q = np.zeros(p)
    if c > 0.0:  # Σ v_i v_j ¼ c22 R_ij², c22 = ∂²/∂Ω_ij² of the two-point function
        u, sharp = v * q / N, s * (1.0 - s**2) ** -1.5
        value, slope = _sums(b, u, _second(_arcsine(terms)), b)
        risk += 0.5 * c * float(u @ value - u * u @ sharp)
        by_b += c * u[:, None] * (slope - (u * (1.0 + 2.0 * s**2) * (1.0 - s**2) ** -2.5)[:, None] * b)
        by_u = c * (value - u * sharp)
        by_N -= by_u * u / N
        by_q = by_u * v / N
    by_N -= 0.5 * (by_b * b).sum(axis=1) / N
    return Slope(
        float(risk) / np.pi, (by_b / np.sqrt(N)[:, None] + 2.0 * by_N[:, None] * B) / np.pi, (by_N + by_q) / np.pi
    )


#: by the formula of student and teacher
RISKS: dict[str, Risk] = {"x ** 2": _quadratic, "erf(x / sqrt(2))": _error_function}


def most_terms(r: int) -> int:
    """The highest power that sums over r coordinates may take."""
    return int(TABLE ** (1.0 / r)) - 1


def _arcsine(terms: int) -> Array:
    """Coefficients of asin x up to that power."""
    out = np.zeros(terms + 1)
    for n in range(1, terms + 1, 2):
        out[n] = _coefficient(n)
    return out


def _coefficient(n: int) -> float:
    return float(np.exp(lgamma(n) - 2.0 * lgamma((n + 1) / 2) - (n - 1) * log(2.0)) / n)


def _second(series: Array) -> Array:
    """Coefficients of the second derivative of a series."""
    n = np.arange(2, series.size)
    return n * (n - 1) * series[2:]


def _terms(largest: float) -> int:
    """The power at which the series of asin is cut, for arguments up to ``largest`` < 1."""
    n = 1
    while _coefficient(n + 2) * largest ** (n + 2) > TRUNCATION * (1.0 - largest**2):
        n += 2
    return n


def _sums(sources: Array, weights: Array, series: Array, places: Array) -> tuple[Array, Array]:
    """Σ_c w_c f(x·b_c) and its gradient in x at all places x, for a power series f: (x·b)ⁿ is a sum of monomials."""
    r, size = sources.shape[1], series.size
    if size > most_terms(r) + 1:
        raise ValueError(
            f"sums over pairs need powers up to {size - 1} in {r} coordinates, too many to tabulate; take fewer "
            "teacher units, smaller norms, or the full equations of solve_ode."
        )
    table = np.zeros((size,) * r)
    for part in _parts(sources, size):
        *first, last = _powers(sources[part], size)
        table += (_products(first, len(last)) * weights[part, None]).T.dot(last).reshape(table.shape)
    degree = np.indices(table.shape)
    total = degree.sum(axis=0)
    logs = np.array([lgamma(n + 1.0) for n in range(max(size, int(total.max()) + 1))])
    inside = np.minimum(total, size - 1)
    multinomial = np.exp(logs[total] - logs[degree].sum(axis=0))
    table *= np.where(total < size, series[inside] * multinomial, 0.0)
    tables = [table]
    for axis in range(r):  # derivatives, with the powers one lower
        lower = np.moveaxis(degree[axis] * table, axis, 0)[1:]
        tables.append(np.moveaxis(np.concatenate((lower, np.zeros_like(lower[:1]))), 0, axis))
    stacked = np.concatenate([t.reshape(-1, size) for t in tables], axis=1)
    out = np.empty((len(places), r + 1))
    for part in _parts(places, size):
        *first, last = _powers(places[part], size)
        rows = (_products(first, len(last)) @ stacked).reshape(len(last), r + 1, size)
        out[part] = (rows @ last[:, :, None])[:, :, 0]
    return out[:, 0], out[:, 1:]


def _parts(points: Array, size: int) -> list[slice]:
    rows = max(1, PIECE // size ** max(1, points.shape[1] - 1))
    return [slice(at, at + rows) for at in range(0, len(points), rows)]


def _powers(points: Array, size: int) -> list[Array]:
    """For each coordinate its powers from 0 up, (rows, size)."""
    return [np.vander(x, size, increasing=True) for x in points.T]


def _products(factors: list[Array], rows: int) -> Array:
    """Products of one power of each coordinate, (rows, size**len(factors))."""
    out = np.ones((rows, 1))
    for factor in factors:
        out = (out[:, :, None] * factor[:, None, :]).reshape(rows, -1)
    return out
