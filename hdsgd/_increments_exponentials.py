"""Covariance of the increments in closed form for sums of exponentials (sin, cos, exp) and for Gaussians.

The power r <= 4 of the error e = sum_q w_q X_q + sqrt(Delta) z is a sum over multisets T of its terms, and beside r
factors s' every one is the expectation of a polynomial times an exponential, with u the local fields:

    s = sum_i c_i exp(z_i x)          E[exp(k.u) f(u)] = exp(k^T Omega k/2) E[f(u + Omega k)]
    s = c0 + c1 exp(-(kappa x)**2/2)  E[prod_T exp(-u_t**2/2) f(u)] = det(1 + Omega_TT)**(-1/2) E_K[f(u)],
                                      K = Omega - Omega_.T (1 + Omega_TT)^-1 Omega_T.   (fields in units of 1/kappa)

with Wick's theorem for what is left. Waves of any norm are harmless, as every exponent is complete before it is
exponentiated; moments of real exponentials beyond the range of double precision come out as infinite or nan. Where e is
small because large terms cancel (nearly perfect learning, or norms z**2 Q far below 1) so do the terms here, and their
rounding is what `Dynamics.diffusion_route` states.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from itertools import chain, combinations_with_replacement, product
from math import comb, factorial, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._family import Bump, Wave
from ._increments import CHUNK, Moments, Step, assemble, spread

__all__ = ["bumps", "cost_of_bumps", "cost_of_waves", "waves"]

Array = NDArray[np.float64]
Numbers = NDArray[Any]  # real or complex
Indices = NDArray[np.intp]

ROUNDING = 4e-16  # of the sizes of all terms: what rounding may do to a sum
TILT = 250  # time of a tilt in units of an exponential


def waves(
    step: Step, student: tuple[Wave, ...], teacher: tuple[Wave, ...], Omega: Array, v: Array, a: Array
) -> tuple[Array, Array]:
    """Covariance (R, m, m) of sums of exponentials, for a fixed second layer, and what rounding may do to it.

    Parameters
    ----------
    student, teacher : tuple of (c, z)
        The terms c exp(z x), complex ones with their conjugates.
    Omega, v, a : arrays, shapes (R, n, n), (R, n), (R, p)
    """

    def of(Omega: Array, v: Array, sizes: bool) -> Moments:
        return _of_waves(step, student, teacher, Omega, v, sizes=sizes)

    largest = [max(abs(z) for _, z in law) for law in (student, teacher)]
    return _state_by_state(step, of, np.repeat(largest, (step.p, step.k)), Omega, v, a)


def bumps(step: Step, student: Bump, teacher: Bump, Omega: Array, v: Array, a: Array) -> tuple[Array, Array]:
    """The same for Gaussians."""
    pick = np.arange(v.shape[1]) < step.p
    unit = np.where(pick, student.slope, teacher.slope)
    heights = np.where(pick, student.height, teacher.height)
    offsets = np.where(pick, student.offset, teacher.offset)

    def of(Omega: Array, v: Array, sizes: bool) -> Moments:
        moments = _of_bumps(step, Omega * unit[:, None] * unit, v * heights, float(v @ offsets), sizes=sizes)
        height = student.height * student.slope
        return moments.scaled(abs(height) if sizes else height, unit)

    return _state_by_state(step, of, unit, Omega, v, a)


def cost_of_waves(step: Step, student: tuple[Wave, ...], teacher: tuple[Wave, ...]) -> tuple[int, int]:
    """Exponentials that one covariance takes, roughly, and bytes of its largest array: to choose the route by."""
    slopes = sum(z != 0.0 for _, z in student)
    terms = step.p * slopes + step.k * sum(z != 0.0 for _, z in teacher) + 1
    many = {r: comb(terms + r - 1, r) for r in _orders(step)}
    time = sum(comb(step.p + r - 1, r) * slopes**r * many[r] for r in many)
    n = step.p + step.k
    return time, max(16 * many[r] * n * (n if r == 2 else 1) for r in many)


def cost_of_bumps(step: Step) -> tuple[int, int]:
    """The same in the same units."""
    terms = step.p + step.k + 1
    many = {r: comb(terms + r - 1, r) for r in _orders(step)}
    time = TILT * sum(comb(step.p + r - 1, r) * many[r] for r in many)
    return time, max(8 * many[r] * (4 if r == 4 else terms - 1 + r) ** 2 for r in many)


def _orders(step: Step) -> range:
    return range(1, 5 if step.g > 0.0 else 3)


def _state_by_state(
    step: Step, of: Callable[[Array, Array, bool], Moments], rates: Array, Omega: Array, v: Array, a: Array
) -> tuple[Array, Array]:
    """Covariances and their rounding; rates (n,) are the largest factors of the fields in the exponents."""
    cov, error = [], []
    with np.errstate(over="ignore", invalid="ignore"):  # moments may be infinite
        for i in range(len(v)):
            one = slice(i, i + 1)
            exact, sizes = (of(Omega[i], v[i], only) for only in (False, True))
            sizes = replace(sizes, first=0.0 * exact.first, squares=0.0 * exact.squares)  # nothing is subtracted
            cov.append(assemble(step, a[one], exact))
            own = np.sqrt(np.maximum(np.diagonal(cov[i][0]), 0.0))
            exponent = (rates**2 * np.diagonal(Omega[i])).max()
            lost = assemble(step, np.abs(a[one]), sizes) + exponent * np.outer(own, own)  # in sums; in exponents
            error.append(ROUNDING * lost)
        return np.concatenate(cov), np.concatenate(error)


@lru_cache(maxsize=12)  # one step takes up to 9
def _multisets(count: int, size: int) -> tuple[Indices, Array]:
    """Sorted indices (N, size), and in how many orders each occurs in a power of a sum of `count` terms."""
    flat = np.fromiter(chain.from_iterable(combinations_with_replacement(range(count), size)), dtype=np.intp)
    chosen = flat.reshape(-1, size) if size else flat.reshape(1, 0)
    orders, run = np.full(len(chosen), float(factorial(size))), np.ones(len(chosen))
    for i in range(1, size):  # equal indices are neighbours: the lengths of a run so far multiply to its factorial
        run = np.where(chosen[:, i] == chosen[:, i - 1], run + 1.0, 1.0)
        orders /= run
    return chosen, orders


def _power(weights: Numbers, size: int, Delta: float) -> tuple[Indices, Numbers]:
    """Terms of (sum_q w_q X_q + sqrt(Delta) z)**size, averaged over z: their factors' indices, and their weights.

    Where z took factors, the last index stands for them: it is that of no term.
    """
    indices, factors = [], []
    for of_noise in range(0, size + 1, 2) if Delta > 0.0 else (0,):
        own, orders = _multisets(len(weights), size - of_noise)
        moment = prod(range(1, of_noise, 2)) * Delta ** (of_noise // 2)
        padding = np.full((len(own), of_noise), len(weights), dtype=np.intp)
        indices.append(np.concatenate((own, padding), axis=1))
        factors.append(comb(size, of_noise) * moment * orders * weights[own].prod(axis=1))
    return np.concatenate(indices), np.concatenate(factors)


def _of_waves(
    step: Step, student: tuple[Wave, ...], teacher: tuple[Wave, ...], Omega: Array, v: Array, *, sizes: bool
) -> Moments:
    """Moments of one state, or what they are with the sizes of all terms."""
    p, n = step.p, step.p + step.k
    moments = Moments.zeros(1, p, n)
    frequencies = np.array([z for _, z in (*student, *teacher)])
    turn = 1.0 if frequencies.real.any() else 1j  # k is k/turn here: real for sin and cos, too
    real = turn == 1j or not frequencies.imag.any()

    terms = [(b, c * v[b], z / turn) for b in range(n) for c, z in (student if b < p else teacher)]
    moving = [term for term in terms if term[2] != 0.0]
    constant = sum(w for _, w, z in terms if z == 0.0)
    weights = np.array([w for _, w, _ in moving] + [constant] * (constant != 0.0))
    vectors = np.zeros((len(weights) + 1, n), dtype=complex)
    for i, (b, _, z) in enumerate(moving):
        vectors[i, b] = z
    slopes = np.array([(c * z, z / turn) for c, z in student if z != 0.0])

    for r in _orders(step):
        indices, factors = _power(weights, r, step.Delta)
        units = _multisets(p, r)[0]
        chosen = np.array(list(product(range(len(slopes)), repeat=r)))  # a wave for each unit
        own = np.zeros((len(units), len(chosen), n), dtype=complex)
        for i in range(r):
            own[np.arange(len(units))[:, None], np.arange(len(chosen)), units[:, i, None]] += slopes[chosen[:, i], 1]
        k = vectors[indices[:, 0]]
        for i in range(1, r):  # one by one: all at once are the largest array by far
            k += vectors[indices[:, i]]
        k, own = (np.ascontiguousarray(x.real) if real else x for x in (k, own.reshape(-1, n)))
        own, place = np.unique(own, axis=0, return_inverse=True)
        values = _beside(own, k, factors, Omega, turn, sizes=sizes, highest=(1, 2, 1, 0)[r - 1])
        heights = slopes[chosen, 0].prod(axis=1)
        heights = np.abs(heights) if sizes else heights
        for each, at in zip(units, place.reshape(len(units), len(chosen)), strict=True):
            sums = [np.tensordot(heights, value[at], 1).real for value in values]
            if r == 1:
                moments.first[0, each[0]] = sums[1]
            elif r == 2:
                spread(moments.squares, tuple(each), sums[0])
                spread(moments.second, tuple(each), sums[2])
            elif r == 3:
                spread(moments.cubes, tuple(each), sums[1])
            else:
                spread(moments.fourths, tuple(each), sums[0])
    return moments


def _beside(
    own: Numbers, k: Numbers, factors: Numbers, Omega: Array, turn: complex, *, sizes: bool, highest: int
) -> list[Numbers]:
    """E[exp(turn own.u) X], then with u_b, then with u_b u_c (up to the highest), X = sum factors exp(turn k.u)."""
    at = max(1, CHUNK // len(k))
    if len(own) > at:
        parts = np.array_split(own, -(-len(own) // at))
        pieces = [_beside(part, k, factors, Omega, turn, sizes=sizes, highest=highest) for part in parts]
        return [np.concatenate(values) for values in zip(*pieces, strict=True)]
    turned = own @ Omega, k @ Omega
    values = turned[0] @ k.T
    values += 0.5 * (own * turned[0]).sum(axis=1)[:, None]
    values += 0.5 * (k * turned[1]).sum(axis=1)
    values *= (turn**2).real
    np.exp(values, out=values)
    shift, mean = turn * turned[0], turn * turned[1]
    if sizes:
        values, shift, mean, factors, Omega = (np.abs(x) for x in (values, shift, mean, factors, Omega))

    def total(features: Numbers) -> Numbers:
        flat = (factors[:, None] * features.reshape(len(k), -1)).astype(complex)
        # a real matrix times a complex one without a complex copy of the former
        sums = values @ flat if np.iscomplexobj(values) else (values @ flat.view(float)).view(complex)
        return np.asarray(sums.reshape(len(own), *features.shape[1:]))

    zeroth = total(np.ones(len(k)))
    if highest == 0:
        return [zeroth]
    first = total(mean)
    lower = [zeroth, first + zeroth[:, None] * shift]
    if highest == 1:
        return lower
    crossed = shift[:, :, None] * first[:, None, :]
    second = total(mean[:, :, None] * mean[:, None, :]) + crossed + crossed.swapaxes(1, 2)
    return [*lower, second + zeroth[:, None, None] * (Omega + shift[:, :, None] * shift[:, None, :])]


def _of_bumps(step: Step, C: Array, w: Array, constant: float, *, sizes: bool) -> Moments:
    p, n = step.p, step.p + step.k
    moments = Moments.zeros(1, p, n)
    C = np.pad(C, (0, 1))  # field n: constant
    weights = np.append(w, constant) if constant != 0.0 else w
    everyone = np.arange(n)
    for r in _orders(step):
        indices, factors = _power(weights, r, step.Delta)
        fields = np.minimum(indices, n)
        for units in combinations_with_replacement(range(p), r):
            tilted, share = _tilted(C, np.array([units]), np.arange(n + 1))
            shown = np.array(units) if r == 4 else np.concatenate((units, everyone))
            K, shares = _tilted(tilted[0], fields, shown)
            weight = (-1.0) ** r * share[0] * shares * factors
            if sizes:
                weight, K = np.abs(weight), np.abs(K)
            own, beside, among = K[:, :r, :r], K[:, :r, r:], K[:, r:, r:]
            if r == 1:
                moments.first[0, units[0]] = weight @ beside[:, 0]
            elif r == 2:
                crossed = (weight[:, None] * beside[:, 0]).T @ beside[:, 1]
                pair = weight * own[:, 0, 1]
                spread(moments.squares, units, pair.sum())
                spread(moments.second, units, np.tensordot(pair, among, 1) + crossed + crossed.T)
            elif r == 3:
                value = sum((weight * own[:, x, y]) @ beside[:, z] for x, y, z in ((0, 1, 2), (0, 2, 1), (1, 2, 0)))
                spread(moments.cubes, units, value)
            else:
                pairs = own[:, 0, 1] * own[:, 2, 3] + own[:, 0, 2] * own[:, 1, 3] + own[:, 0, 3] * own[:, 1, 2]
                spread(moments.fourths, units, weight @ pairs)
    return moments


def _tilted(C: Array, fields: Indices, shown: Indices) -> tuple[Array, Array]:
    """Covariances (N, q, q) of the fields shown under exp(-sum u_t**2/2), t in fields (N, r), and its means (N,)."""
    inner = np.eye(fields.shape[1]) + C[fields[:, :, None], fields[:, None, :]]
    across = C[fields[:, :, None], shown]
    K = C[np.ix_(shown, shown)] - across.swapaxes(1, 2) @ np.linalg.solve(inner, across)
    return K, 1.0 / np.sqrt(np.linalg.det(inner))
