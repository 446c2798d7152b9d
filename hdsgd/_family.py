"""What kind of function an activation is: which route integrates its increments.

The formulas of the routes need only a few numbers of an activation (coefficients, or the offset, height and slope of an
error function). They are fitted at a few points and accepted only if the function agrees at others to rounding; what is
accepted therefore is the function, up to 1e-13 of its size there. Exponentials are read from the formula, as
frequencies are not fitted well, and accepted likewise.
"""

from __future__ import annotations

import ast
import cmath
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bump", "ErrorFunction", "Family", "Wave", "classify"]

Array = NDArray[np.float64]
Wave = tuple[complex, complex]  # (c, z) of c exp(z x)
Kind = tuple[int, complex, complex]  # (n, z, q) of x**n exp(z x + q x**2)
Terms = dict[Kind, complex]  # their coefficients
Sums = dict[Kind, tuple[complex, float]]  # and the sum of the sizes of what was added up to each

CONSTANT = (0, 0j, 0j)
UNIT = (1.0 + 0j, 1.0)
DEGREE = 8  # of the highest polynomial that is recognised
REACH = 8.0  # functions are compared on [-REACH, REACH]: eight standard deviations
SAME = 1e-13  # agreement, relative to the largest value there
CANCELLED = 1e-14  # what rounding leaves of a coefficient that is 0, relative to what was added up
SPAN = 40.0  # here an error function of slope 0.2 or more has reached its limit


@dataclass(frozen=True)
class ErrorFunction:
    """offset + height * erf(slope * x)."""

    offset: float
    height: float
    slope: float


@dataclass(frozen=True)
class Bump:
    """offset + height * exp(-(slope * x)**2/2)."""

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
    waves : tuple of (complex, complex), or None
        (c, z) of the terms of a sum of exponentials c exp(z x), the constant included.
    bump : Bump or None
    kinked : bool
        It has a kink or a jump at 0.
    """

    polynomial: tuple[float, ...] | None = None
    error_function: ErrorFunction | None = None
    waves: tuple[Wave, ...] | None = None
    bump: Bump | None = None
    kinked: bool = False

    @property
    def square(self) -> tuple[float, float] | None:
        """(alpha, beta) of a pure quadratic alpha x**2 + beta."""
        if self.polynomial is None or len(self.polynomial) != 3 or self.polynomial[1] != 0.0:
            return None
        return self.polynomial[2], self.polynomial[0]


def classify(function: Callable[[Array], Array], formula: str = "") -> Family:
    """Recognise a function that is given by its values.

    Parameters
    ----------
    function : callable
        Vectorised over an array.
    formula : str, optional
        The same as a formula of an activation: to recognise exponentials by.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        polynomial = _polynomial(function)
        if polynomial is not None:
            return Family(polynomial)
        terms = _exponentials(function, formula)
        if terms is not None:
            return Family(waves=_waves(terms), bump=_bump(terms))
        return Family(error_function=_error_function(function), kinked=_kinked(function))


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


class _OtherFunction(Exception):
    """The formula is not made of exponentials and polynomials."""


def _exponentials(function: Callable[[Array], Array], formula: str) -> Terms | None:
    """The terms of a formula that is made of exp, sin, cos and polynomials, if they are the function."""
    try:
        sums = _read(ast.parse(formula, mode="eval").body)
    except (SyntaxError, OverflowError, _OtherFunction):
        return None
    terms = {kind: c for kind, (c, size) in sums.items() if abs(c) > CANCELLED * size}
    x = np.linspace(-REACH, REACH, 97)
    value, size = np.zeros(x.size, dtype=complex), np.zeros(x.size)
    for (n, z, q), c in terms.items():
        term = c * x**n * np.exp(z * x + q * x**2)
        value += term
        size += np.abs(term) * (1.0 + np.abs(z * x) + np.abs(q * x**2))  # exponents are rounded, too
    # point by point: one that grows must not hide the others
    return terms if (np.abs(value - function(x)) <= SAME * size).all() else None


def _waves(terms: Terms) -> tuple[Wave, ...] | None:
    if any(n > 0 or q != 0.0 for n, _, q in terms):
        return None
    return tuple((c, z) for (_, z, _), c in terms.items())


def _bump(terms: Terms) -> Bump | None:
    moving = [kind for kind in terms if kind != CONSTANT]
    if len(moving) != 1:
        return None
    n, z, q = moving[0]
    if n > 0 or z != 0.0 or not q.real < 0.0:
        return None
    return Bump(terms.get(CONSTANT, 0j).real, terms[moving[0]].real, float(np.sqrt(-2.0 * q.real)))


def _read(node: ast.expr) -> Sums:
    match node:
        case ast.Constant(value=int() | float() as number):
            return {CONSTANT: (complex(number), abs(number))}
        case ast.Name(id="x"):
            return {(1, 0j, 0j): UNIT}
        case ast.Name(id="pi"):
            return {CONSTANT: (np.pi + 0j, np.pi)}
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _sum({}, _read(operand), -1.0)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _sum(_read(left), _read(right), 1.0)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _sum(_read(left), _read(right), -1.0)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _product(_read(left), _read(right))
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return _sum({}, _read(left), 1.0 / _number(right))
        case ast.BinOp(left=left, op=ast.Pow(), right=ast.Constant(value=int() as power)):
            base, terms = _read(left), {CONSTANT: UNIT}
            for _ in range(power):
                terms = _product(terms, base)
            return terms
        case ast.Call(func=ast.Name(id="sqrt"), args=[argument]):
            root = cmath.sqrt(_number(argument))
            return {CONSTANT: (root, abs(root))}
        case ast.Call(func=ast.Name(id="exp"), args=[argument]):
            return _exp(_read(argument), 1.0)
        case ast.Call(func=ast.Name(id="cos"), args=[argument]):
            half = _sum({}, _exp(_read(argument), 1j), 0.5)
            return _sum(half, _exp(_read(argument), -1j), 0.5)
        case ast.Call(func=ast.Name(id="sin"), args=[argument]):
            half = _sum({}, _exp(_read(argument), 1j), -0.5j)
            return _sum(half, _exp(_read(argument), -1j), 0.5j)
    raise _OtherFunction


def _number(node: ast.expr) -> complex:
    terms = _read(node)
    if set(terms) != {CONSTANT}:
        raise _OtherFunction
    return terms[CONSTANT][0]


def _sum(left: Sums, right: Sums, factor: complex) -> Sums:
    total = dict(left)
    for kind, (c, size) in right.items():
        _add(total, kind, factor * c, abs(factor) * size)
    return total


def _product(left: Sums, right: Sums) -> Sums:
    total: Sums = {}
    for (n, z, q), (c, size) in left.items():
        for (m, y, r), (d, other) in right.items():
            _add(total, (n + m, z + y, q + r), c * d, size * other)
    return total


def _add(total: Sums, kind: Kind, c: complex, size: float) -> None:
    before = total.get(kind, (0j, 0.0))
    total[kind] = before[0] + c, before[1] + size


def _exp(argument: Sums, factor: complex) -> Sums:
    """exp(factor * argument) of a polynomial of the second degree."""
    if any(n > 2 or z != 0.0 or q != 0.0 for n, z, q in argument):
        raise _OtherFunction
    c, z, q = (factor * argument.get((n, 0j, 0j), (0j, 0.0))[0] for n in range(3))
    height = cmath.exp(c)
    return {(0, z, q): (height, abs(height))}
