"""Laws of random starts on the sphere, and expectations over them by quadrature."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "chi_nodes",
    "converged",
    "exit_from_random",
    "exit_from_zero",
    "mean_log_form",
    "mean_log_mu",
    "normal_mean",
    "sphere_nodes",
]

Array = NDArray[np.float64]
Rule = tuple[Array, Array]  # nodes and probability weights

HALF_WIDTH = 9.0  # of the range of a Gaussian, in standard deviations: 1e-18 is left out
TARGET = 1e-11
FIRST, LAST = 128, 4096  # numbers of nodes


def sphere_nodes(d: int, n: int) -> Rule:
    """Law of m**2, m a coordinate of a uniform point on the unit sphere in R^d (d >= 2): Beta(1/2, (d-1)/2)."""
    last = np.pi / 2.0
    if d > 2:
        last = min(last, HALF_WIDTH * np.sqrt(2.0 / (d - 2)))
    angle, weights = _legendre(0.0, last, n)
    weights *= np.cos(angle) ** (d - 2)
    return np.sin(angle) ** 2, weights / weights.sum()


def chi_nodes(degrees: int, n: int) -> Rule:
    """Law of chi-squared with this many degrees of freedom."""
    centre = np.sqrt(degrees)
    x, weights = _legendre(max(0.0, centre - HALF_WIDTH), centre + HALF_WIDTH, n)
    exponent = (degrees - 1) * np.log(x) - x**2 / 2.0
    weights *= np.exp(exponent - exponent.max())
    return x**2, weights / weights.sum()


def mean_log_mu(p: int, d: int) -> float:
    """E log mu0, mu0 = d times the sum of p independent squared coordinates m**2.

    At p = 1 in closed form. Otherwise from the Laplace transform phi of d m**2:
    E log mu = int (exp(-s) - phi(s)**p) ds/s, by the trapezoidal rule in log s (both ends decay exponentially).
    """
    from scipy.special import digamma

    if p == 1:
        return float(digamma(0.5) - digamma(d / 2.0) + np.log(d))
    s = np.exp(np.arange(-36.0, 64.0 / p + 4.0, 1.0 / 16.0))
    return float(np.sum(np.exp(-s) - _transform(s, d) ** p) / 16.0)


def mean_log_form(weights: Array) -> float:
    """E log of sum_i weights_i g_i**2, weights >= 0 and g_i standard normal; computed as `mean_log_mu`."""
    scale = float(weights.sum())
    s = np.exp(np.arange(-36.0, 80.0, 1.0 / 16.0))
    transform = np.exp(-0.5 * np.log1p(2.0 * np.outer(s, weights / scale)).sum(axis=1))
    return float(np.sum(np.exp(-s) - transform) / 16.0 + np.log(scale))


def _transform(s: Array, d: int) -> Array:
    """E exp(-s d m**2) = 1F1(1/2, d/2, -s d), m a coordinate of a uniform point on the unit sphere in R^d."""
    from scipy.special import poch

    u, weights = sphere_nodes(d, 512)
    near = s < 64.0
    phi = np.empty_like(s)
    phi[near] = 1.0 + np.expm1(-d * np.outer(s[near], u)) @ weights
    # DLMF 13.7.2; its terms fall at least as fast as (2 s)**-n.
    z = s[~near] * d
    series = sum(float(poch(0.5, n) * poch(1.5 - d / 2.0, n) / poch(1.0, n)) * z**-n for n in range(8))
    phi[~near] = poch((d - 1) / 2.0, 0.5) * series / np.sqrt(z)
    return phi


def exit_from_zero(p: int, rate: float, noise: float, level: float) -> float:
    """Mean first passage of |m|**2 through a level, from m = 0 in p dimensions, for dm = rate m dt + sqrt(noise) dB.

    (level/(p noise)) 2F2(1, 1; 1 + p/2, 2; -x), x = rate level/noise, which is the integral of
    y**(p-1) (1 - exp(-x (1 - y**2)))/(1 - y**2) over y in (0, 1), over the rate.
    """
    return _first_passage(p, rate, lambda rest: -np.expm1(-rate * level / noise * rest))


def exit_from_random(p: int, rate: float, noise: float, d: int) -> float:
    """Mean of `exit_from_zero` at the level |m|**2 of random starts: p coordinates m of uniform points on spheres.

    It is what the first passage through a higher level is shorter by, from these starts rather than from m = 0.
    """
    return _first_passage(p, rate, lambda rest: 1.0 - _transform(rate / (noise * d) * rest, d) ** p)


def _first_passage(p: int, rate: float, passed: Callable[[Array], Array]) -> float:
    """The integral over y in (0, 1) of y**(p-1) passed(1 - y**2)/(1 - y**2), over the rate."""
    edge = np.append(1.0 - np.logspace(-14.0, 0.0, 15)[::-1], 1.0)  # the integrand turns at some small 1 - y**2
    total = 0.0
    for low, high in pairwise(edge):
        gap, weights = _legendre(1.0 - high, 1.0 - low, 48)  # y = 1 - gap
        rest = gap * (2.0 - gap)
        total += float(weights @ ((1.0 - gap) ** (p - 1) * passed(rest) / rest))
    return total / rate


def normal_mean(f: Callable[[float], float], mean: float, deviation: float, breaks: tuple[float, ...]) -> float:
    """E f(x), x normal, where f may have integrable singularities and kinks at the breaks."""
    from scipy.integrate import quad

    if deviation == 0.0:
        return f(mean)

    def integrand(x: float) -> float:
        return f(x) * float(np.exp(-(((x - mean) / deviation) ** 2) / 2.0))

    low, high = mean - HALF_WIDTH * deviation, mean + HALF_WIDTH * deviation
    inner = sorted(x for x in {*breaks, mean} if low < x < high)
    pieces = zip([low, *inner], [*inner, high], strict=True)
    total = sum(quad(integrand, a, b, epsabs=0.0, epsrel=1e-10, limit=200)[0] for a, b in pieces)
    return float(total / (deviation * np.sqrt(2.0 * np.pi)))


def converged(estimate: Callable[[int], float]) -> float:
    """A quadrature with its number of nodes doubled until it stands still."""
    n, old = FIRST, estimate(FIRST)
    while n < LAST:
        n *= 2
        new = estimate(n)
        if abs(new - old) <= TARGET * max(1.0, abs(new)):
            return new
        old = new
    return old


def _legendre(low: float, high: float, n: int) -> Rule:
    x, weights = _rule(n)
    half = (high - low) / 2.0
    return low + half * (x + 1.0), half * weights


@cache
def _rule(n: int) -> Rule:
    from scipy.special import roots_legendre

    x, weights = roots_legendre(n)
    return x, weights
