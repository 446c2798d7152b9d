"""The canonical form of an activation: sums of atoms, closed under the derivative.

Input
    A SymPy expression in the real symbol ``x``.
Output
    :class:`AtomSum`: Σ P(x) · exp(−α x²/2 + βx) · ∏ erf(κᵢ x) · sign(x)^s or δ(x), grouped by all but the polynomial P.
    Sines and cosines are exponentials with an imaginary β.

The atoms are what the Gaussian rules of :mod:`.rules` can integrate; whatever is not of this form is refused with the
reason by :class:`NotClosed`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import sympy
from sympy import Expr, Integer, S

from .parse import to_sympy, variable

Polynomial: TypeAlias = tuple[Expr, ...]  # coefficients, lowest power first, no trailing zero


class NotClosed(ValueError):
    """No rule gives this expectation in closed form; the message says which part is to blame."""


def trim(coefficients: list[Expr]) -> Polynomial:
    """Return a polynomial without trailing zeros."""
    while coefficients and coefficients[-1] == 0:
        coefficients.pop()
    return tuple(coefficients)


def derivative(polynomial: Polynomial, order: int = 1) -> Polynomial:
    """Return the coefficients of the derivative of a polynomial."""
    for _ in range(order):
        polynomial = tuple(n * c for n, c in enumerate(polynomial))[1:]
    return polynomial


@dataclass(frozen=True)
class Kind:
    """What multiplies the polynomial of an atom: exp(−alpha x²/2 + beta x) · ∏ erf(kappa x) · sign(x) or δ(x)."""

    alpha: Expr = S.Zero
    beta: Expr = S.Zero
    kappas: tuple[Expr, ...] = ()
    sign: bool = False
    delta: bool = False

    def sort_key(self) -> str:
        """Return a text that orders kinds identically in every process."""
        return f"{sympy.srepr((self.alpha, self.beta, self.kappas))}{self.sign}{self.delta}"


@dataclass(frozen=True)
class AtomSum:
    """A sum of atoms, as a sorted tuple of (kind, polynomial)."""

    terms: tuple[tuple[Kind, Polynomial], ...]

    @classmethod
    def collect(cls, parts: Iterator[tuple[Kind, Polynomial]]) -> AtomSum:
        """Add up atoms of equal kind."""
        sums: dict[Kind, list[Expr]] = {}
        for kind, polynomial in parts:
            total = sums.setdefault(kind, [])
            total.extend([S.Zero] * (len(polynomial) - len(total)))
            for n, coefficient in enumerate(polynomial):
                total[n] += coefficient
        kept = ((kind, trim([sympy.expand(c) for c in total])) for kind, total in sums.items())
        return cls(tuple(sorted((item for item in kept if item[1]), key=lambda item: item[0].sort_key())))

    def derivative(self) -> AtomSum:
        """Return d/dx of the sum."""

        def parts() -> Iterator[tuple[Kind, Polynomial]]:
            for kind, polynomial in self.terms:
                if kind.delta:
                    raise NotClosed("the derivative of a Dirac delta is not a measure: the activation jumps")
                yield kind, derivative(polynomial)
                if kind.sign and polynomial[0] != 0 and not kind.kappas:
                    yield Kind(delta=True), (2 * polynomial[0],)
                if kind.alpha != 0:
                    yield kind, (S.Zero, *(-kind.alpha * c for c in polynomial))
                if kind.beta != 0:
                    yield kind, tuple(kind.beta * c for c in polynomial)
                for i, kappa in enumerate(kind.kappas):
                    rest = kind.kappas[:i] + kind.kappas[i + 1 :]
                    factor = 2 * kappa / sympy.sqrt(sympy.pi)
                    smooth = Kind(kind.alpha + 2 * kappa**2, kind.beta, rest, kind.sign)
                    yield smooth, tuple(factor * c for c in polynomial)

        return AtomSum.collect(parts())

    @property
    def is_polynomial(self) -> bool:
        """Whether the sum is a polynomial."""
        return all(kind == Kind() for kind, _ in self.terms)

    def expression(self) -> Expr:
        """Return the sum as a SymPy expression in ``x``."""
        x = variable()
        total = S.Zero
        for kind, polynomial in self.terms:
            if kind.delta:
                raise NotClosed("the activation jumps: its derivative has no value there")
            power_sum = sum((c * x**n for n, c in enumerate(polynomial)), S.Zero)
            erfs = sympy.Mul(*(sympy.erf(kappa * x) for kappa in kind.kappas))
            growth, frequency = kind.beta.as_real_imag()
            if frequency.is_negative:
                continue  # the conjugate of another atom, which counts twice
            if frequency != 0:
                even, odd = power_sum.as_real_imag()
                power_sum = 2 * (even * sympy.cos(frequency * x) - odd * sympy.sin(frequency * x))
            exponential = sympy.exp(-kind.alpha * x**2 / 2 + growth * x)
            total += power_sum * exponential * erfs * (sympy.sign(x) if kind.sign else 1)
        return total


def _atom(term: Expr) -> tuple[Kind, Polynomial]:
    x = variable()
    coefficient, power = S.One, 0
    alpha, beta, kappas, signs = S.Zero, S.Zero, [], 0
    for factor in sympy.Mul.make_args(term):
        base, exponent = (factor.base, factor.exp) if factor.is_Pow and factor.exp.is_Integer else (factor, Integer(1))
        if not factor.has(x):
            coefficient *= factor
        elif base == x and exponent > 0:
            power += int(exponent)
        elif base.func is sympy.erf and exponent > 0:
            kappa = sympy.cancel(sympy.expand(base.args[0]) / x)
            if kappa.has(x) or not kappa.is_positive:
                raise NotClosed(f"erf({base.args[0]}): only erf(c*x) with a constant c has closed expectations")
            kappas += [kappa] * int(exponent)
        elif base.func is sympy.sign and exponent > 0:
            slope = base.args[0] / x
            if slope.has(x) or slope.is_nonzero is not True:
                raise NotClosed(f"{base}: only kinks at x = 0 have closed expectations")
            coefficient *= sympy.sign(slope) ** exponent
            signs += int(exponent)
        elif base.func is sympy.exp and exponent > 0:
            constant, linear, quadratic = _quadratic(sympy.expand(exponent * base.args[0]))
            if not (quadratic == 0 or quadratic.is_negative):
                raise NotClosed(f"{factor}: its expectations are infinite once the variance is large")
            coefficient *= sympy.exp(constant)
            alpha, beta = alpha - 2 * quadratic, beta + linear
        else:
            raise NotClosed(f"{factor}: no rule gives its Gaussian expectations in closed form")
    kind = Kind(alpha, beta, tuple(sorted(kappas, key=sympy.default_sort_key)), signs % 2 == 1)
    return kind, (
        *([S.Zero] * power),
        sympy.expand(coefficient, complex=True) if coefficient.has(sympy.I) else coefficient,
    )


def _quadratic(exponent: Expr) -> tuple[Expr, Expr, Expr]:
    """Return the coefficients of 1, x and x² of an exponent."""
    x = variable()
    if not exponent.is_polynomial(x) or sympy.degree(exponent, x) > 2:
        raise NotClosed(f"exp({exponent}): only exp(a*x - c*x**2) has closed expectations")
    return tuple(exponent.coeff(x, n) for n in range(3))  # type: ignore[return-value]


@cache
def from_formula(formula: str) -> AtomSum:
    """Return the atoms of a formula.

    Raises
    ------
    NotClosed
        If a term is no atom; the message names it.
    """
    return from_expression(to_sympy(formula))


def from_expression(expression: Expr) -> AtomSum:
    """Return the atoms of a SymPy expression in the real symbol ``x``."""
    if expression.has(sympy.zoo, sympy.nan, sympy.oo):
        raise NotClosed("the formula divides by zero")
    if expression.has(sympy.I):
        raise NotClosed("the activation is not real: it has the root of a negative number")
    waves = {wave: wave.rewrite(sympy.exp) for wave in expression.atoms(sympy.sin, sympy.cos)}
    expression = sympy.expand(expression.xreplace(waves), power_exp=False)
    atoms = AtomSum.collect(_atom(term) for term in sympy.Add.make_args(expression) if term != 0)
    if not atoms.terms:
        raise NotClosed("the activation is zero: its network has nothing to learn")
    return atoms
