"""Print single expressions as C: constants folded to doubles, small powers as products, sums as fused multiply-adds."""

from __future__ import annotations

from collections.abc import Mapping

import sympy
from sympy import Expr, Symbol
from sympy.printing.c import C99CodePrinter

from ..functions import NAMES


class CPrinter(C99CodePrinter):  # type: ignore[misc]
    """C99 printer; ``names`` says how each symbol is written (by default as itself), ``asin`` how an arc sine is.

    ``FMA`` and ``asin1`` are defined by the runtime's common header.
    """

    def __init__(self, names: Mapping[Symbol, str] | None = None, asin: str = "asin1({})") -> None:
        super().__init__()
        self._names, self._asin = names or {}, asin

    def _print_Symbol(self, expr: Symbol) -> str:
        return self._names.get(expr, expr.name)

    def _constant(self, expr: Expr) -> str:
        text = repr(float(sympy.N(expr, 25)))
        return f"({text})" if text.startswith("-") else text

    def _print(self, expr: Expr, **kwargs: object) -> str:
        if isinstance(expr, Expr) and expr.is_number:
            return self._constant(expr)
        return str(super()._print(expr, **kwargs))

    def _print_Mul(self, expr: Expr) -> str:
        constant, rest = expr.as_independent(*expr.free_symbols, as_Add=False)
        factors = sorted(sympy.Mul.make_args(rest), key=sympy.default_sort_key)
        above = [self.parenthesize(f, 50) for f in factors if not _is_reciprocal(f)]
        below = [self.parenthesize(1 / f, 50) for f in factors if _is_reciprocal(f)]
        if constant != 1 and not (constant == -1 and above):
            above.insert(0, self._constant(constant))
        text = "*".join(above) or "1.0"
        if below:
            text += "/" + (below[0] if len(below) == 1 else f"({'*'.join(below)})")
        return f"-{text}" if constant == -1 and above else text

    def _print_Pow(self, expr: Expr) -> str:
        base, exponent = expr.as_base_exp()
        if exponent == sympy.Rational(1, 2):
            return f"sqrt({self._print(base)})"
        if exponent.is_negative:
            return f"1.0/{self.parenthesize(1 / expr, 50)}"
        if exponent.is_Integer:
            return "(" + "*".join([self.parenthesize(base, 50)] * int(exponent)) + ")"
        return str(super()._print_Pow(expr))

    def _print_Add(self, expr: Expr, order: object = None) -> str:
        terms = sorted(expr.args, key=lambda term: (len(sympy.Mul.make_args(term)) > 1, sympy.default_sort_key(term)))
        text = self._print(terms[0])
        for term in terms[1:]:
            if isinstance(term, sympy.Mul) and not any(_is_reciprocal(f) for f in term.args):
                first, rest = _halves(term)
                text = f"FMA({self._print(first)}, {self._print(rest)}, {text})"
            else:
                text = f"{text} + {self._print(term)}"
        return text

    def _print_asin(self, expr: Expr) -> str:
        return self._asin.format(self._print(expr.args[0]))

    def _print_Function(self, expr: Expr) -> str:
        name = expr.func.__name__
        if name in NAMES:
            return f"{name}({', '.join(self._print(argument) for argument in expr.args)})"
        return str(super()._print_Function(expr))

    def _print_sign(self, expr: Expr) -> str:
        inner = self._print(expr.args[0])
        return f"(({inner} > 0.0) - ({inner} < 0.0))"


def _is_reciprocal(factor: Expr) -> bool:
    return isinstance(factor, sympy.Pow) and bool(factor.exp.is_negative)


def _halves(term: Expr) -> tuple[Expr, Expr]:
    """Split a product into two factors; the last symbol or bracket stands alone."""
    factors = sorted(sympy.Mul.make_args(term), key=sympy.default_sort_key)
    return factors[-1], sympy.Mul(*factors[:-1])


class DualPrinter(CPrinter):
    """Prints expressions in first-order numbers, as nested calls of the ``dual_`` functions."""

    def _print(self, expr: Expr, **kwargs: object) -> str:
        if isinstance(expr, Expr) and expr.is_number:
            return f"dual_of({self._constant(expr)}, 0.0)"
        return str(C99CodePrinter._print(self, expr, **kwargs))

    def _nest(self, function: str, terms: list[str]) -> str:
        text = terms[0]
        for term in terms[1:]:
            text = f"{function}({text}, {term})"
        return text

    def _print_Add(self, expr: Expr, order: object = None) -> str:
        return self._nest("dual_add", [self._print(term) for term in sorted(expr.args, key=sympy.default_sort_key)])

    def _print_Mul(self, expr: Expr) -> str:
        constant, rest = expr.as_independent(*expr.free_symbols, as_Add=False)
        factors = sorted(sympy.Mul.make_args(rest), key=sympy.default_sort_key)
        text = self._nest("dual_mul", [self._print(factor) for factor in factors])
        return text if constant == 1 else f"dual_scale({self._constant(constant)}, {text})"

    def _print_Pow(self, expr: Expr) -> str:
        base, exponent = self._print(expr.base), expr.exp
        if exponent.is_negative:
            return f"dual_inverse({self._print(1 / expr)})"
        if exponent == sympy.Rational(1, 2):
            return f"dual_sqrt({base})"
        if exponent.is_Integer:
            return self._nest("dual_mul", [base] * int(exponent))
        raise NotImplementedError(f"no first-order form of {expr}")

    def _print_Function(self, expr: Expr) -> str:
        return f"dual_{expr.func.__name__}({', '.join(self._print(argument) for argument in expr.args)})"

    _print_asin = _print_exp = _print_cos = _print_sin = _print_Function
