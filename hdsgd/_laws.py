"""Laws of random starts on the sphere, and expectations over them by quadrature."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["chi_nodes", "converged", "exit_from_zero", "mean_log_mu", "normal_mean", "sphere_nodes"]

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

    At p = 1 in closed form. Otherwise from the Laplace transform of d m**2, phi(s) = 1F1(1/2, d/2, -s d):
    E log mu = int (exp(-s) - phi(s)**p) ds/s, by the trapezoidal rule in log s (both ends decay exponentially).
    """
    from scipy.special import digamma, poch

    if p == 1:
        return float(digamma(0.5) - digamma(d / 2.0) + np.log(d))
    s = np.exp(np.arange(-36.0, 64.0 / p + 4.0, 1.0 / 16.0))
    u, weights = sphere_nodes(d, 512)
    near = s < 64.0
    phi = np.empty_like(s)
    phi[near] = np.exp(-d * np.outer(s[near], u)) @ weights
    # DLMF 13.7.2; its terms fall at least as fast as (2 s)**-n.
    z = s[~near] * d
    series = sum(float(poch(0.5, n) * poch(1.5 - d / 2.0, n) / poch(1.0, n)) * z**-n for n in range(8))
    phi[~near] = poch((d - 1) / 2.0, 0.5) * series / np.sqrt(z)
    return float(np.sum(np.exp(-s) - phi**p) / 16.0)


def exit_from_zero(p: int, rate: float, noise: float, level: float) -> float:
    """Mean first passage of |m|**2 through a level, from m = 0 in p dimensions, for dm = rate m dt + sqrt(noise) dB.

    (level/(p noise)) 2F2(1, 1; 1 + p/2, 2; -x), x = rate level/noise, which is the integral of
    y**(p-1) (1 - exp(-x (1 - y**2)))/(1 - y**2) over y in (0, 1), over the rate.
    """
    x = rate * level / noise
    edge = np.append(1.0 - np.logspace(-14.0, 0.0, 15)[::-1], 1.0)  # the integrand turns where x (1 - y**2) is about 1
    total = 0.0
    for low, high in pairwise(edge):
        gap, weights = _legendre(1.0 - high, 1.0 - low, 48)  # y = 1 - gap
        rest = gap * (2.0 - gap)
        total -= float(weights @ ((1.0 - gap) ** (p - 1) * np.expm1(-x * rest) / rest))
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
    from scipy.special import roots_legendre

    x, weights = roots_legendre(n)
    half = (high - low) / 2.0
    return low + half * (x + 1.0), half * weights
