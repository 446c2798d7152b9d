"""Quadratic activations in matrix form: the power recursion, for any widths.

With σ(x) = αx² + β, and likewise σ*, the error is a quadratic form of the local fields, e = uᵀAu + c (+ √Δ z), where
A = diag(v α) and c = Σ v β.  Everything follows from the generating function

    E[exp(s e) exp(J·u)] = e^{sc} det(I − 2sΩA)^(−1/2) exp(½ Jᵀ (Ω⁻¹ − 2sA)⁻¹ J),

expanded in s: log det in the traces τ_n = tr (ΩA)ⁿ (c joins τ₁), the inverse in the matrices Ω(AΩ)ⁿ.

Input
    The order of the moment.
Output
    :func:`weight` and :func:`moment`: E[e^m] and E[e^m u uᵀ] as polynomials in the traces and in Ω(AΩ)ⁿ;
    :class:`MatrixForm`: the right-hand side of the dynamics in blocks of Q, M and P.

Source: the generating function of Gaussian quadratic forms; the dynamics of Arnaboldi et al. 2023, arXiv:2305.18502
(whose printed equation for Q has MMᵀ/p where the derivation gives MMᵀ/k).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise, product
from typing import TypeAlias

import sympy
from sympy import Expr, S, Symbol

from .atoms import from_formula

#: a product of the blocks Q, M, M' (transposed) and P, to its coefficient
Blocks: TypeAlias = dict[tuple[str, ...], Expr]

_S, _X = sympy.symbols("s x")
_UNITS = "st"  # students, teachers
_BLOCK = {"ss": "Q", "st": "M", "ts": "M'", "tt": "P"}
_TRANSPOSED = {"Q": "Q", "M": "M'", "M'": "M", "P": "P"}


def trace(n: int) -> Symbol:
    """Return the symbol of tr (ΩA)ⁿ; that of n = 1 includes the constant c."""
    return Symbol(f"tau_{n}", real=True)


def _coefficients(function: Expr, order: int) -> list[Expr]:
    """Return the Taylor coefficients in s up to an order."""
    return [sympy.diff(function, _S, n).subs(_S, 0) / sympy.factorial(n) for n in range(order + 1)]


@cache
def weight(order: int) -> Expr:
    """Derive E[e^order] in the traces: the determinant's logarithm, eigenvalue by eigenvalue, exponentiated."""
    logarithm = _coefficients(-sympy.log(1 - 2 * _S * _X) / 2, order)
    exponent = sum((c.coeff(_X, n) * trace(n) * _S**n for n, c in enumerate(logarithm) if n), S.Zero)
    value = sympy.factorial(order) * _coefficients(sympy.exp(exponent), order)[order]
    return sympy.expand(value)


@cache
def moment(order: int) -> tuple[Expr, ...]:
    """Derive E[e^order u uᵀ]: the coefficients of Ω, ΩAΩ, ΩAΩAΩ, …, and certify them for one variable.

    For one variable of variance C, E[(Au²)^m u²] = A^m C^(m+1) (2m + 1)!!.
    """
    inverse = _coefficients(1 / (1 - 2 * _S * _X), order)  # of ΩA, times Ω
    found = tuple(
        sympy.expand(inverse[n].coeff(_X, n) * sympy.ff(order, n) * weight(order - n)) for n in range(order + 1)
    )
    one = {trace(n): _X**n for n in range(1, order + 1)}
    total = sum((c.subs(one) * _X**n for n, c in enumerate(found)), S.Zero)
    if sympy.expand(total - sympy.factorial2(2 * order + 1) * _X**order) != 0:
        raise ArithmeticError(f"the moment of order {order} fails its certificate: {total}")
    return found


def coefficients(formula: str) -> tuple[Expr, Expr] | None:
    """Return α and β of a formula αx² + β with α ≠ 0, or None if it is not one."""
    atoms = from_formula(formula)
    if not atoms.is_polynomial:
        return None
    polynomial = atoms.terms[0][1]
    if len(polynomial) != 3 or polynomial[1] != 0:
        return None
    return polynomial[2], polynomial[0]


@dataclass(frozen=True)
class MatrixForm:
    """The dynamics of quadratic students and teachers with second layers a = a* = 1, in blocks of Q, M and P.

    Attributes
    ----------
    student, teacher : tuple of (α, β)
        Coefficients of σ and σ*.
    """

    student: tuple[Expr, Expr]
    teacher: tuple[Expr, Expr]

    @cached_property
    def _weights(self) -> dict[str, Expr]:
        """The diagonal of A: −α/p for students, α*/k for teachers."""
        p, k = sympy.symbols("p k", positive=True)
        return {"s": -self.student[0] / p, "t": self.teacher[0] / k}

    def power(self, first: str, last: str, n: int) -> Blocks:
        """Return the block (first, last) of Ω(AΩ)ⁿ, with s for students and t for teachers."""
        found: Blocks = {}
        for between in product(_UNITS, repeat=n):
            units = (first, *between, last)
            word = tuple(_BLOCK[a + b] for a, b in pairwise(units))
            found[word] = sympy.Mul(*(self._weights[unit] for unit in between))
        return found

    def trace(self, n: int) -> Blocks:
        """Return tr (ΩA)ⁿ as traces of products; that of n = 1 without the constant c."""
        found: Blocks = {}
        for units in product(_UNITS, repeat=n):
            word = tuple(_BLOCK[a + b] for a, b in zip(units, (*units[1:], units[0]), strict=True))
            same = min(_equal_traces(word), key=lambda w: (w[0] != "M", w))
            found[same] = found.get(same, S.Zero) + sympy.Mul(*(self._weights[unit] for unit in units))
        return found

    @property
    def constant(self) -> Expr:
        """Return c = β* − β."""
        return self.teacher[1] - self.student[1]

    @property
    def slope(self) -> Expr:
        """Return 2α: σ'(x) = 2αx."""
        return 2 * self.student[0]


def _equal_traces(word: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the products whose trace is the same: rotated, or transposed."""
    for turned in (word, tuple(_TRANSPOSED[block] for block in reversed(word))):
        for i in range(len(word)):
            yield turned[i:] + turned[:i]


def matrix_form(student: str, teacher: str) -> MatrixForm | None:
    """Return the matrix form of a pair of formulas, or None where one of them is not αx² + β."""
    both = [coefficients(formula) for formula in (student, teacher)]
    return MatrixForm(both[0], both[1]) if both[0] is not None and both[1] is not None else None
