"""From a SymPy expression to a formula: the way back from :func:`.parse.to_sympy`.

Input
    A SymPy expression in one symbol, of any name and assumptions.
Output
    :func:`spell`: a formula in ``x``, which :func:`.parse.normalise` then checks like any other text.

Only a tree of known types is read; nothing is evaluated, and SymPy's own printers are not trusted with text.
"""

from __future__ import annotations

from collections.abc import Callable

import sympy
from sympy import Expr
from sympy.core.relational import Relational

from .parse import MAX_DEPTH, MAX_LITERAL, FormulaError, names

_SAME_NAME = ("cos", "erf", "sign", "sin", "tanh")
_KNOWN: dict[str, Callable[..., str]] = {
    "Abs": "abs({})".format,
    "Max": lambda *values: _fold("max", values),
    "Min": lambda *values: _fold("min", values),
    "erfc": "(1 - erf({}))".format,
    "exp": "exp({})".format,
    "sinh": "((exp({0}) - exp(-({0})))/2)".format,
    "cosh": "((exp({0}) + exp(-({0})))/2)".format,
    **{name: f"{name}({{}})".format for name in _SAME_NAME},
}


def spell(expression: Expr) -> str:
    """Return the formula of a SymPy expression, spelled in ``x``.

    Raises
    ------
    FormulaError
        If it has several symbols, or a part that the language of formulas does not have.
    """
    symbols = sorted(expression.free_symbols, key=str)
    if len(symbols) > 1:
        names_found = ", ".join(_shown(symbol) for symbol in symbols[:5])
        raise FormulaError(f"an activation has one variable, not {names_found}: give the others values with .subs")
    return _spell(expression, 0)


def _shown(part: object) -> str:
    text = " ".join(str(part).split())
    return text if len(text) <= 60 else text[:57] + "..."


def _fold(name: str, values: tuple[str, ...]) -> str:
    text = values[0]
    for value in values[1:]:
        text = f"{name}({text}, {value})"
    return text


def _spell(part: sympy.Basic, depth: int) -> str:
    """Spell one node; sums, products and powers come out in brackets."""
    if depth > MAX_DEPTH:
        raise FormulaError(f"the expression nests more than {MAX_DEPTH} levels deep: simplify it")
    inner = [argument for argument in part.args if isinstance(argument, Expr)]
    match part:
        case sympy.Symbol():
            return "x"
        case sympy.Rational():
            if max(abs(part.p), part.q) > MAX_LITERAL:
                raise FormulaError("a number is outside [1e-6, 1e6]: rescale the activation")
            return str(part) if part.is_Integer and part >= 0 else f"({part})"
        case sympy.Float():
            return f"({float(part)!r})"
        case sympy.core.numbers.Pi():
            return "pi"
        case sympy.core.numbers.Exp1():
            return "exp(1)"
        case sympy.Add() | sympy.Mul():
            sign = " + " if part.is_Add else "*"
            return f"({sign.join(_spell(argument, depth + 1) for argument in part.args)})"
        case sympy.Pow():
            return _power(part, depth)
        case sympy.Piecewise():
            return _piecewise(part, depth)
        case sympy.Heaviside():
            return f"((1 + sign({_spell(part.args[0], depth + 1)}))/2)"
    name = type(part).__name__
    known = _KNOWN.get(name)
    if known is None or getattr(sympy, name, None) is not type(part):
        raise FormulaError(f"{_shown(part)} is not part of a formula: use numbers, one symbol and {names()}")
    return known(*(_spell(argument, depth + 1) for argument in inner))


def _power(power: sympy.Pow, depth: int) -> str:
    base, exponent = power.args
    inside = _spell(base, depth + 1)
    if exponent.is_Integer and exponent > 0:
        return f"({inside}**{exponent})"
    if not power.has(sympy.Symbol) and (2 * exponent).is_Integer and abs(exponent) <= 20:
        whole, half = divmod(abs(2 * exponent), 2)
        size = "*".join(
            [
                *([f"{inside}**{whole}" if whole > 1 else inside] if whole else []),
                *([f"sqrt({inside})"] if half else []),
            ]
        )
        return f"(1/({size}))" if exponent < 0 else f"({size})"
    raise FormulaError(f"{_shown(power)} is not part of a formula: a power of x is a whole number, such as x**3")


def _piecewise(expression: sympy.Piecewise, depth: int) -> str:
    """Spell the pieces with sign(x - c): each holds where no piece before it does."""
    text, last = "", len(expression.args) - 1
    for i, (value, condition) in reversed(list(enumerate(expression.args))):
        if i == last and condition == True:  # noqa: E712 - SymPy's truth
            text = _spell(value, depth + 1)
            continue
        if not (isinstance(condition, Relational) and condition.rel_op in (">", ">=", "<", "<=")):
            raise FormulaError(
                f"the condition {_shown(condition)} is not part of a formula: write pieces as "
                "Piecewise((a, x > 0), (b, True))"
            )
        gap = condition.lhs - condition.rhs if condition.rel_op[0] == ">" else condition.rhs - condition.lhs
        step = f"sign({_spell(gap, depth + 1)})"
        if not text:
            raise FormulaError("the last piece must hold everywhere else: write it as (b, True)")
        text = f"((1 + {step})/2*({_spell(value, depth + 1)}) + (1 - {step})/2*({text}))"
    return text
