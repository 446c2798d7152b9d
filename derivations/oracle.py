"""An independent quadrature of Gaussian expectations, in at most two dimensions, to 20 digits if asked.

Input
    The activations of the factors, differentiated by SymPy on both sides of x = 0; none of the rules is used.
Output
    E[∏ f_i(x_i)] for covariances of the two-factor family

        x_i = unit · (n_i1 z_1 + n_i2 z_2) + sqrt(own_i) ε_i,     z, ε independent standard Gaussians, n_i integers,

    whose closure has the full dimension of the covariances of four variables: an identity between analytic functions
    that holds on it holds everywhere.

Given z the variables are independent, so that the expectation is the average over z of a product of functions of one
number each, g_i(m) = E f_i(m + sqrt(own_i) ε).  These are entire, whatever kinks f_i has: the trapezoidal rule over z
converges faster than any power of its step.  On the grid of z every m is a multiple of one step (the n_i are integers),
so each g_i is needed at a few hundred points only: a one-dimensional integral at each, by the trapezoidal rule for
smooth f_i and by Gauss–Legendre panels on both sides of zero for kinked ones.

Factors may share a variable: then their product is one function.  A Dirac delta times a function that jumps there means
the average of its two sides (what independent noise on the variables gives in the limit).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import mpmath
import numpy as np
import sympy
from sympy import Expr

from .atoms import from_expression
from .parse import to_sympy, variable

Function: TypeAlias = Callable[[Any], Any]

DIGITS = 17  # of the float64 quadrature
EXACT_DIGITS = 23  # of the multiprecision quadrature: what remains of its truncation errors
_BITS = 190  # of its fixed-point numbers: covers the largest values of polynomials and exponentials


@dataclass(frozen=True)
class Factor:
    """A derivative of an activation: its formula on both sides of zero, and the weight of its delta at zero.

    The other fields only place the nodes: degree of the polynomial growth, rates of the exponential growth and of the
    waves, decay rate α of the sharpest Gaussian exp(−αx²/2), slope of the steepest tanh.
    """

    below: Expr
    above: Expr
    delta: Expr
    degree: int
    growth: float
    frequency: float
    sharpness: float
    slope: float

    @property
    def smooth(self) -> bool:
        """Whether one formula holds on both sides."""
        return bool(self.below == self.above and self.delta == 0)

    @property
    def jumps(self) -> bool:
        """Whether the function has two values at zero."""
        return bool(sympy.simplify((self.above - self.below).subs(variable(), 0)) != 0)

    @property
    def steepness(self) -> float:
        """The largest rate at which it varies: 1/scale² of its arguments."""
        return max(self.sharpness, self.growth**2, self.frequency**2, self.slope**2)


@cache
def factor(formula: str, order: int | None) -> Factor:
    """Return the derivative of some order of an activation; ``None`` stands for the bare variable x.

    Raises
    ------
    ValueError
        If the derivative is no measure: one more derivative of a delta.
    """
    x = variable()
    expression = x if order is None else to_sympy(formula)
    below, above = (
        expression.replace(sympy.sign, lambda u, side=side: sympy.sign(u.subs(x, side))) for side in (-1, 1)
    )
    delta = sympy.S.Zero
    for _ in range(order or 0):
        if delta != 0:
            raise ValueError(f"the derivative of order {order} of {formula} is no measure: the activation jumps")
        delta = sympy.simplify((above - below).subs(x, 0))
        below, above = sympy.diff(below, x), sympy.diff(above, x)
    kinds = from_expression(expression.replace(sympy.tanh, sympy.erf)).terms
    return Factor(
        below,
        above,
        delta,
        degree=max(len(polynomial) - 1 for _, polynomial in kinds) + (order or 0),
        growth=max(abs(float(sympy.re(kind.beta))) for kind, _ in kinds),
        frequency=max(abs(float(sympy.im(kind.beta))) for kind, _ in kinds),
        sharpness=max(float(kind.alpha + 2 * sum(kappa**2 for kappa in kind.kappas)) for kind, _ in kinds),
        slope=max((abs(float(u.args[0].coeff(x))) for u in expression.atoms(sympy.tanh)), default=0.0),
    )


@dataclass(frozen=True)
class Draw:
    """A covariance of the two-factor family.

    Attributes
    ----------
    loadings : tuple of (int, int)
        n_i of each variable.
    unit : float
    own : tuple of float
        Variance of the part of each variable that is independent of all others.
    """

    loadings: tuple[tuple[int, int], ...]
    unit: float
    own: tuple[float, ...]

    def entry(self, i: int, j: int, number: Callable[[float], Any] = float) -> Any:
        """Return Cov(x_i, x_j) in the arithmetic of ``number``, such as :func:`mpmath.mpf`."""
        (a, b), (c, d) = self.loadings[i], self.loadings[j]
        shared = number(self.unit) ** 2 * (a * c + b * d)
        return shared + number(self.own[i]) if i == j else shared

    def entries(self, places: Sequence[int], number: Callable[[float], Any] = float) -> list[Any]:
        """Return the upper triangle of the covariance of the variables ``places``, row by row."""
        count = len(places)
        return [self.entry(places[i], places[j], number) for i in range(count) for j in range(i, count)]


def draw(rng: np.random.Generator, size: int, *, scale: float = 1.0, least: float = 0.25) -> Draw:
    """Draw a covariance with variances up to about ``scale`` and correlations of every sign up to 1/(1 + least)."""
    loadings: list[tuple[int, int]] = []
    while len(loadings) < size:
        n = rng.integers(-4, 5, size=2)
        if 5 <= n @ n <= 20:
            loadings.append((int(n[0]), int(n[1])))
    own = [(n[0] ** 2 + n[1] ** 2) * rng.uniform(least, 1.2) for n in loadings]
    largest = max(n[0] ** 2 + n[1] ** 2 + variance for n, variance in zip(loadings, own, strict=True))
    unit = math.sqrt(scale * rng.uniform(0.6, 1.2) / largest)
    return Draw(tuple(loadings), unit, tuple(float(unit**2 * variance) for variance in own))


def defined(factors: Sequence[Factor], places: Sequence[int]) -> bool:
    """Whether the expectation exists where factors share variables, as the limit of ever smaller independent noise.

    Two deltas of one variable are infinite; what a delta gives with two jumps depends on how they approach each other.
    """
    for place in set(places):
        group = [f for f, other in zip(factors, places, strict=True) if other == place]
        deltas = sum(f.delta != 0 for f in group)
        if deltas > 1 or (deltas and sum(f.jumps for f in group if f.delta == 0) > 1):
            return False
    return True


def expectation(factors: Sequence[Factor], where: Draw, places: Sequence[int], *, exact: bool = False) -> Any:
    """Return E[∏ f_i(x_places[i])], as a float or, ``exact``, as an mpmath number with 20 correct digits.

    Parameters
    ----------
    factors : sequence of Factor
    where : Draw
        The covariance.
    places : sequence of int
        The variable of each factor; equal ones coincide.
    """
    used = sorted(set(places))
    groups = {u: [f for f, place in zip(factors, places, strict=True) if place == u] for u in used}
    decay = math.log(10) * (EXACT_DIGITS if exact else DIGITS)
    loadings = np.array([where.loadings[u] for u in used])
    pull = where.unit * np.abs(loadings).sum(axis=1)  # how fast each variable moves with z, at most
    roughness = (where.unit**2 * loadings**2 / np.array([where.own[u] for u in used])[:, None]).sum(axis=0).max()
    waves = sum(f.frequency * p for p, u in zip(pull, used, strict=True) for f in groups[u])
    step = 2 * math.pi / (waves + math.sqrt(2 * decay * (1 + roughness)))
    degree = sum(f.degree for f in factors)
    growth = sum(f.growth * p for p, u in zip(pull, used, strict=True) for f in groups[u])
    reach = math.sqrt(2 * decay) + 0.6 * math.sqrt(degree) + growth
    count = math.ceil(reach / step)
    grid = np.arange(-count, count + 1)
    first, second = (axis.ravel() for axis in np.meshgrid(grid, grid, indexing="ij"))
    inside = first**2 + second**2 <= count**2
    first, second = first[inside], second[inside]
    arithmetic = _Fixed() if exact else _Double()
    product = arithmetic.gaussian(first, second, step)
    for u, (a, b) in zip(used, loadings, strict=True):
        index = a * first + b * second
        top = int(np.abs(index).max())
        product = arithmetic.times(product, _smoothed(groups[u], where, u, step, top, decay, arithmetic)[index + top])
    return arithmetic.value(product)


def size(factors: Sequence[Factor], variances: Sequence[float]) -> float:
    """Return ∏ sqrt(E f_i²), what errors are measured by; for a factor with a delta, the mean of its delta.

    One digit is enough: a grid uniform in log|x| finds it at every scale of the variance.
    """
    total = 1.0
    for f, variance in zip(factors, variances, strict=True):
        if f.delta != 0:
            total *= abs(float(f.delta)) / math.sqrt(2 * math.pi * variance)
            continue
        spread = math.sqrt(variance)
        last = math.log(9 * spread + 2 * f.growth * variance)
        first = min(math.log(spread), -math.log1p(f.steepness) / 2) - 20
        x = np.exp(np.arange(first, last, 0.05))
        weights = 0.05 * x * np.exp(-(x**2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
        x, weights = x[weights > 0], weights[weights > 0]
        with np.errstate(over="ignore"):
            squares = _compiled(f.above, "scipy")(x) ** 2 + _compiled(f.below, "scipy")(-x) ** 2
            total *= math.sqrt(float((weights * squares).sum()))
    return total


def _smoothed(
    group: Sequence[Factor], where: Draw, place: int, step: float, top: int, decay: float, arithmetic: _Arithmetic
) -> Any:
    """Return g(m) = E ∏ f(m + sqrt(own) ε) at m = unit · step · (−top … top)."""
    own = where.own[place]
    spread = math.sqrt(own)
    pace = arithmetic.number(where.unit) * arithmetic.number(step)
    rough = math.sqrt(1 / own + sum(f.sharpness for f in group))
    waves, slope = sum(f.frequency for f in group), max(f.slope for f in group)
    end = float(pace) * top + spread * (math.sqrt(2 * decay) + 0.6 * math.sqrt(sum(f.degree for f in group)))
    end += own * sum(f.growth for f in group)
    if all(f.smooth for f in group):
        gap = 2 * math.pi / (waves + rough * math.sqrt(2 * decay))
        if slope:
            gap = min(
                gap, math.pi**2 / (slope * 1.3 * decay)
            )  # analytic in a strip only; products have poles of any order
        number = math.ceil(end / gap)
        nodes = [(k * arithmetic.number(gap), arithmetic.number(gap)) for k in range(-number, number + 1)]
        sides = [(nodes, _product([f.above for f in group]))]
    else:
        number = math.ceil(end * max(rough + waves, 1.5 * slope) / arithmetic.panel)
        width = arithmetic.number(end) / number
        right = [(width * (k + t), width * w) for k in range(number) for t, w in arithmetic.legendre()]
        left = [(-t, w) for t, w in right]
        sides = [(left, _product([f.below for f in group])), (right, _product([f.above for f in group]))]
    x, weights = [], []
    for nodes, function in sides:
        points = [node for node, _ in nodes]
        values = arithmetic.apply(function, points)
        x += points
        weights += [w * value for (_, w), value in zip(nodes, values, strict=True)]
    for i, f in enumerate(group):
        if f.delta != 0:
            others = [g for j, g in enumerate(group) if j != i]
            average = sum(
                _product([getattr(g, side) for g in others]).subs(variable(), 0) for side in ("below", "above")
            )
            x.append(arithmetic.number(0))
            weights.append(arithmetic.constant(f.delta * average / 2))
    return arithmetic.smooth(x, weights, own, pace, top)


def _product(expressions: Sequence[Expr]) -> Expr:
    return sympy.Mul(*expressions)


class _Double:
    """Float64 arrays."""

    panel = 6.0  # in units of the scale of the integrand, with 20 nodes
    number = staticmethod(float)
    constant = staticmethod(float)

    @staticmethod
    @cache
    def legendre() -> list[tuple[float, float]]:
        nodes, weights = np.polynomial.legendre.leggauss(20)
        return [((t + 1) / 2, w / 2) for t, w in zip(nodes.tolist(), weights.tolist(), strict=True)]

    @staticmethod
    def apply(expression: Expr, points: list[float]) -> list[float]:
        values = _compiled(expression, "scipy")(np.array(points))
        return list(np.broadcast_to(values, len(points)))

    @staticmethod
    def smooth(x: list[float], weights: list[float], own: float, pace: float, top: int) -> Any:
        distance = pace * np.arange(-top, top + 1)[:, None] - np.array(x)
        return np.exp(-(distance**2) / (2 * own)) @ (np.array(weights) / math.sqrt(2 * math.pi * own))

    @staticmethod
    def gaussian(first: np.ndarray, second: np.ndarray, step: float) -> Any:
        return np.exp(-(step**2) * (first**2 + second**2) / 2) * step**2 / (2 * math.pi)

    @staticmethod
    def times(product: np.ndarray, values: np.ndarray) -> Any:
        return product * values

    @staticmethod
    def value(product: np.ndarray) -> float:
        return float(product.sum())


class _Fixed:
    """Integers that stand for multiples of 2^−bits: twenty times faster than mpmath's numbers."""

    panel = 14.0  # with 48 nodes
    number = staticmethod(mpmath.mpf)

    @staticmethod
    def constant(expression: Expr) -> Any:
        return mpmath.mpf(sympy.N(expression, 60))

    @staticmethod
    def legendre() -> list[tuple[Any, Any]]:
        return _legendre()

    @staticmethod
    def apply(expression: Expr, points: list[Any]) -> list[Any]:
        function = _compiled(expression, "mpmath")
        return [function(x) for x in points]

    @staticmethod
    def smooth(x: list[Any], weights: list[Any], own: float, pace: Any, top: int) -> np.ndarray:
        """Walk from the grid point nearest each node in both directions: exp(−(d+h)²/2v) by two products each."""
        variance, h = mpmath.mpf(own), pace
        norm = 1 / mpmath.sqrt(2 * mpmath.pi * variance)
        turn = _fixed(mpmath.exp(-(h**2) / variance)) if pace else 0
        total = [0] * (2 * top + 1)
        for node, weight in zip(x, weights, strict=True):
            factor = _fixed(weight * norm)
            middle = min(max(round(float(node / pace)) if pace else 0, -top), top)
            offset = middle * h - node
            start = _fixed(mpmath.exp(-(offset**2) / (2 * variance)))
            total[middle + top] += start * factor >> _BITS
            for direction, last in ((1, top), (-1, -top)):
                value = start
                ratio = _fixed(mpmath.exp(-(2 * direction * offset + h) * h / (2 * variance)))
                for i in range(middle + direction, last + direction, direction):
                    value = value * ratio >> _BITS
                    if not value:
                        break
                    ratio = ratio * turn >> _BITS
                    total[i + top] += value * factor >> _BITS
        return np.array(total, dtype=object)

    @staticmethod
    def gaussian(first: np.ndarray, second: np.ndarray, step: float) -> Any:
        top = int(max(first.max(), -first.min()))
        h = mpmath.mpf(step)
        line = [_fixed(mpmath.exp(-((h * i) ** 2) / 2) * h / mpmath.sqrt(2 * mpmath.pi)) for i in range(-top, top + 1)]
        table = np.array(line, dtype=object)
        return table[first + top] * table[second + top] >> _BITS

    @staticmethod
    def times(product: np.ndarray, values: np.ndarray) -> Any:
        return product * values >> _BITS

    @staticmethod
    def value(product: np.ndarray) -> Any:
        return mpmath.ldexp(mpmath.mpf(int(product.sum())), -_BITS)


_Arithmetic: TypeAlias = _Double | _Fixed


def _fixed(value: Any) -> int:
    return int(mpmath.nint(mpmath.ldexp(value, _BITS)))


@cache
def _legendre() -> list[tuple[Any, Any]]:
    nodes = mpmath.calculus.quadrature.GaussLegendre(mpmath.mp).calc_nodes(5, _BITS + 20)
    return [((t + 1) / 2, w / 2) for t, w in nodes]


@cache
def _compiled(expression: Expr, module: str) -> Function:
    return sympy.lambdify(variable(), expression, module)  # type: ignore[no-any-return]
