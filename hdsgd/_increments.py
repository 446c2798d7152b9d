"""Covariance of the one-step increments of the overlaps: components, moments, and pure quadratics in closed form.

With u = (lambda, lambda_star), e the error of the step and g = gamma/p (over the batch size), scaled increments are

    Q_jl  a_j s'_j u_l e + a_l s'_l u_j e + g a_j a_l s'_j s'_l e**2,    M_jr  a_j s'_j u_{p+r} e,    a_j  ratio s_j e.

Every route (here, `_increments_erf`, `_increments_exponentials`, `_increments_leading`, `_nodes`) takes states with a
leading axis and returns their covariance without the projection on the sphere, shape (R, m, m), components in the order
of `Components`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

__all__ = ["CHUNK", "Components", "Moments", "Step", "assemble", "quadratic", "spread"]

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

CHUNK = 2_000_000  # numbers in the largest temporary
ORDERS = 5  # powers s**0 ... s**4 of the generating function


@dataclass(frozen=True)
class Step:
    """What one step of SGD does to the overlaps, apart from the activations."""

    p: int
    k: int
    g: float  # gamma/(p n_b); 0 for the leading order in it
    Delta: float
    ratio: float  # gamma_a/gamma; 0: the second layer is fixed and no component

    @property
    def components(self) -> Components:
        """The components of the increments."""
        return Components(self.p, self.k, self.ratio > 0.0)


@dataclass(frozen=True)
class Components:
    """The m components of (Q, M[, a]): the upper triangle of Q by rows, M by rows, a if it is trained."""

    p: int
    k: int
    trained: bool

    @cached_property
    def upper(self) -> tuple[Indices, Indices]:
        """Rows and columns of the components of Q."""
        return np.triu_indices(self.p)

    @property
    def split(self) -> int:
        """Number of components of Q."""
        return self.p * (self.p + 1) // 2

    @property
    def size(self) -> int:
        """Number of all components."""
        return self.split + self.p * self.k + self.p * self.trained

    @cached_property
    def units(self) -> tuple[Indices, Indices]:
        """Student unit j and other unit b of each component; b = j for a_j."""
        students = np.arange(self.p)
        teachers = self.p + np.arange(self.k)
        j = (self.upper[0], np.repeat(students, self.k), students[: self.p * self.trained])
        b = (self.upper[1], np.tile(teachers, self.p), students[: self.p * self.trained])
        return np.concatenate(j), np.concatenate(b)

    def labels(self) -> tuple[str, ...]:
        """Names such as Q[0,1], M[0,0], a[0]."""
        Q = [f"Q[{j},{l}]" for j, l in zip(*self.upper, strict=True)]
        M = [f"M[{j},{r}]" for j in range(self.p) for r in range(self.k)]
        return (*Q, *M, *(f"a[{j}]" for j in range(self.p * self.trained)))

    def pack(self, Q: Array, M: Array, a: Array) -> Array:
        """Put (R, p, p), (R, p, k) and (R, p) into one array (R, m)."""
        parts = [Q[:, self.upper[0], self.upper[1]], M.reshape(len(M), -1)]
        return np.concatenate([*parts, a] if self.trained else parts, axis=1)

    def unpack(self, x: Array) -> tuple[Array, Array, Array]:
        """Return Q, M and a (zeros if it is not trained) from (R, m)."""
        Q = np.empty((len(x), self.p, self.p))
        Q[:, self.upper[0], self.upper[1]] = Q[:, self.upper[1], self.upper[0]] = x[:, : self.split]
        end = self.split + self.p * self.k
        a = x[:, end:] if self.trained else np.zeros((len(x), self.p))
        return Q, x[:, self.split : end].reshape(-1, self.p, self.k), a


@dataclass(frozen=True)
class Moments:
    """What the increments of Q and M are made of, s'_j the student's derivative at u_j; the last three only for g > 0.

    Attributes
    ----------
    first : (R, p, n) array
        E[s'_j u_b e].
    second : (R, p, p, n, n) array
        E[s'_j s'_l u_b u_c e**2].
    squares : (R, p, p) array
        E[s'_j s'_l e**2].
    cubes : (R, p, p, p, n) array
        E[s'_j s'_l s'_m u_b e**3].
    fourths : (R, p, p, p, p) array
        E[s'_j s'_l s'_m s'_q e**4].
    """

    first: Array
    second: Array
    squares: Array
    cubes: Array
    fourths: Array

    @classmethod
    def zeros(cls, count: int, p: int, n: int) -> Moments:
        """Room for the moments of some states."""
        shapes = ((p, n), (p, p, n, n), (p, p), (p, p, p, n), (p, p, p, p))
        return cls(*(np.zeros((count, *shape)) for shape in shapes))

    def scaled(self, height: float, unit: Array) -> Moments:
        """Those of height * s'_j and u_b/unit_b, unit (n,)."""
        first, second, cubes = self.first / unit, self.second / unit[:, None] / unit, self.cubes / unit
        return Moments(
            height * first, height**2 * second, height**2 * self.squares, height**3 * cubes, height**4 * self.fourths
        )


def spread(target: Array, indices: tuple[int, ...], value: Array | float) -> None:
    """Set target[:, indices] to `value` in all orders of the indices."""
    for order in permutations(indices):
        place: tuple[slice | int, ...] = (slice(None), *order)
        target[place] = value


def assemble(step: Step, a: Array, moments: Moments) -> Array:
    """Covariance (R, m, m) for a fixed second layer.

    Components are sums of two elementary terms a_j s'_j u_b e, plus g a_j a_l s'_j s'_l e**2 for those of Q.
    """
    js, bs = step.components.units
    of_Q = np.arange(js.size) < step.components.split
    ls, us = np.where(of_Q, bs, 0), np.where(of_Q, js, 0)  # of the other term
    one, other = a[:, js], np.where(of_Q, a[:, ls], 0.0)
    J, B, L, U = js[:, None], bs[:, None], ls[:, None], us[:, None]

    def columns(x: Array) -> Array:
        return x[:, :, None]

    def rows(x: Array) -> Array:
        return x[:, None, :]

    first, second = moments.first, moments.second
    cov = columns(one) * rows(one) * second[:, J, js, B, bs] + columns(other) * rows(other) * second[:, L, ls, U, us]
    mixed = columns(one) * rows(other) * second[:, J, ls, B, us]
    mean = one * first[:, js, bs] + other * first[:, ls, us]
    if step.g > 0.0:
        square, cubes = step.g * one * other, moments.cubes
        mean = mean + square * moments.squares[:, js, ls]
        mixed = mixed + columns(square) * (rows(one) * cubes[:, J, L, js, bs] + rows(other) * cubes[:, J, L, ls, us])
        cov = cov + columns(square) * rows(square) * moments.fourths[:, J, L, js, ls]
    return np.asarray(cov + mixed + mixed.swapaxes(1, 2) - columns(mean) * rows(mean))


def quadratic(step: Step, squares: Array, Omega: Array, v: Array, a: Array) -> Array:
    """Exact covariance for activations alpha x**2 + beta, any p and k.

    Every component is u_j u_b (c1 e + c2 e**2) + c0 e with e = c + u^T D u + sqrt(Delta) z, so everything follows from
    E[u_j u_b u_l u_c exp(s e)] = Z(s) sum over the three pairings of Omega(s) Omega(s), where
    Omega(s) = sum_i (2s)**i Omega (D Omega)**i and
    log Z(s) = s c + s**2 Delta/2 + sum_i (2s)**i tr((D Omega)**i)/(2i), to order s**4. O(m**2) after O(n**3).

    Parameters
    ----------
    squares : (2, 2) array
        (alpha, beta) of the student and of the teacher.
    Omega, v, a : arrays, shapes (R, n, n), (R, n), (R, p)

    Returns
    -------
    (R, m, m) array
    """
    parts, size = step.components, step.components.size
    at = max(1, CHUNK // (20 * size**2))
    if len(Omega) > at:
        pieces = [
            quadratic(step, squares, Omega[i : i + at], v[i : i + at], a[i : i + at]) for i in range(0, len(v), at)
        ]
        return np.concatenate(pieces)
    p = step.p
    (alpha, beta), (alpha_star, beta_star) = squares
    D = v * np.where(np.arange(v.shape[1]) < p, alpha, alpha_star)
    powers = [Omega]
    log_Z = np.zeros((ORDERS, len(v)))
    log_Z[1] = v @ np.where(np.arange(v.shape[1]) < p, beta, beta_star)
    for i in range(1, ORDERS):
        mixed = 2.0 * powers[-1] * D[:, None, :]  # 2**i (Omega D)**i
        log_Z[i] += np.trace(mixed, axis1=1, axis2=2) / (2.0 * i)
        powers.append(mixed @ Omega)
    log_Z[2] += step.Delta / 2.0
    Z = [np.ones(len(v))]
    for i in range(1, ORDERS):
        Z.append(np.asarray(sum(r * log_Z[r] * Z[i - r] for r in range(1, i + 1)) / i))
    products = ([Z[r][:, None, None] * powers[i - r] for r in range(i + 1)] for i in range(ORDERS))
    tilted = [np.asarray(sum(terms)) for terms in products]  # the coefficients of Z(s) Omega(s)

    j, b = parts.units
    c0, c1, c2 = np.zeros((3, len(v), size))
    split, end = parts.split, parts.split + p * step.k
    c1[:, :split] = 2.0 * alpha * (a[:, j[:split]] + a[:, b[:split]])
    c2[:, :split] = 4.0 * alpha**2 * step.g * a[:, j[:split]] * a[:, b[:split]]
    c1[:, split:end] = 2.0 * alpha * a[:, j[split:end]]
    c1[:, end:], c0[:, end:] = step.ratio * alpha, step.ratio * beta

    one = [y[:, j, b] for y in tilted]  # of E[u_j u_b e**i]/i!
    J, L, B, C = j[:, None], j[None], b[:, None], b[None]
    pairs = ((J, B, L, C), (J, L, B, C), (J, C, B, L))

    def four(order: int) -> Array:
        """E[u_j u_b u_l u_c e**order]/order!, for all pairs of components."""
        terms = (tilted[i][:, w, x] * powers[order - i][:, y, z] for i in range(order + 1) for w, x, y, z in pairs)
        return np.asarray(sum(terms))

    def outer(x: Array, y: Array) -> Array:
        return np.asarray(x[:, :, None] * y[:, None, :])

    mean = c1 * one[1] + 2.0 * c2 * one[2] + c0 * Z[1][:, None]
    cov = 2.0 * outer(c1, c1) * four(2) - outer(mean, mean)
    if step.g > 0.0:
        mixed = outer(c1, c2)
        cov += 6.0 * (mixed + mixed.swapaxes(1, 2)) * four(3) + 24.0 * outer(c2, c2) * four(4)
    if beta != 0.0 and parts.trained:
        mixed = outer(c0, 2.0 * c1 * one[2] + 6.0 * c2 * one[3])
        cov += mixed + mixed.swapaxes(1, 2) + 2.0 * outer(c0, c0) * Z[2][:, None, None]
    return cov
