"""What kind of function an activation is, found from its values: which route integrates its increments.

The formulas of the routes need only a few numbers of an activation (coefficients, or the offset, height and slope of an
error function). They are fitted at a few points and accepted only if the function agrees at others to rounding; what is
accepted therefore is the function, up to 1e-13 of its size there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ErrorFunction", "Family", "classify"]

Array = NDArray[np.float64]

DEGREE = 8  # of the highest polynomial that is recognised
REACH = 8.0  # functions are compared on [-REACH, REACH]: eight standard deviations
SAME = 1e-13  # agreement, relative to the largest value there
SPAN = 40.0  # here an error function of slope 0.2 or more has reached its limit


@dataclass(frozen=True)
class ErrorFunction:
    """offset + height * erf(slope * x)."""

    offset: float
    height: float
    slope: float


@dataclass(frozen=True)
class Family:
    """What is known of one activation.

    Attributes
    ----------
    polynomial : tuple of float or None
        Coefficients from the constant up, without trailing zeros.
    error_function : ErrorFunction or None
    kinked : bool
        It has a kink or a jump at 0.
    """

    polynomial: tuple[float, ...] | None
    error_function: ErrorFunction | None
    kinked: bool

    @property
    def square(self) -> tuple[float, float] | None:
        """(alpha, beta) of a pure quadratic alpha x**2 + beta."""
        if self.polynomial is None or len(self.polynomial) != 3 or self.polynomial[1] != 0.0:
            return None
        return self.polynomial[2], self.polynomial[0]


def classify(function: Callable[[Array], Array]) -> Family:
    """Recognise a function that is given by its values.

    Parameters
    ----------
    function : callable
        Vectorised over an array.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        polynomial = _polynomial(function)
        if polynomial is not None:
            return Family(polynomial, None, False)
        return Family(None, _error_function(function), _kinked(function))


def _polynomial(function: Callable[[Array], Array]) -> tuple[float, ...] | None:
    fitted = REACH * np.cos(np.pi * (np.arange(DEGREE + 1) + 0.5) / (DEGREE + 1))
    series = np.polynomial.Chebyshev.fit(fitted, function(fitted), DEGREE, domain=[-REACH, REACH])
    x = REACH * np.linspace(-0.999, 0.999, 41)
    exact = function(x)
    scale = np.abs(exact).max()
    if not (np.isfinite(scale) and np.abs(series(x) - exact).max() <= SAME * scale):
        return None
    coefficients = series.convert(kind=np.polynomial.Polynomial).coef
    terms = np.abs(coefficients) * REACH ** np.arange(coefficients.size)
    rounded = np.where(terms <= 1e3 * SAME * max(scale, terms.max()), 0.0, coefficients)
    for digits in range(1, 13):  # the formula's own numbers, where they are short ones
        short = np.round(rounded, digits)
        if np.abs(np.polynomial.Polynomial(short)(x) - exact).max() <= 1e-15 * scale:
            rounded = short
            break
    kept = np.flatnonzero(rounded)
    return tuple(float(c) for c in rounded[: kept[-1] + 1]) if kept.size else (0.0,)


def _error_function(function: Callable[[Array], Array]) -> ErrorFunction | None:
    from scipy.special import erf, erfinv

    offset = float(function(np.zeros(1))[0])
    height = float(function(np.array([SPAN]))[0]) - offset
    if not (np.isfinite(height) and height != 0.0):
        return None
    x, slope = 1.0, 0.0
    for _ in range(12):  # where it has climbed about half its height, the slope is read best
        ratio = (float(function(np.array([x]))[0]) - offset) / height
        if not ratio > 0.0:
            return None
        slope = float(erfinv(ratio)) / x if ratio < 1.0 else 0.0
        x = 0.5 / slope if slope > 0.0 else x / 4.0
    if not slope > 0.0:
        return None
    points = np.linspace(-REACH, REACH, 97)
    exact = function(points)
    gap = np.abs(offset + height * erf(slope * points) - exact).max()
    return ErrorFunction(offset, height, slope) if gap <= SAME * np.abs(exact).max() else None


def _kinked(function: Callable[[Array], Array]) -> bool:
    h = 1e-6
    below, zero, above = (float(v) for v in function(np.array([-h, 0.0, h])))
    small = 1e-3 * h * max(1.0, abs(zero))
    return abs(above - 2.0 * zero + below) > small or abs(above - below) > 1e-3
