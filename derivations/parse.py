"""Safe reading of formulas: text to a checked syntax tree to a SymPy expression.

Input
    A formula in one variable ``x`` written by a user, such as ``"x*erf(x/sqrt(2))"``.
Output
    :func:`normalise`: the same formula in a canonical spelling (no SymPy needed);
    :func:`to_sympy`: its SymPy expression; :mod:`.spell` goes the other way.

Nothing is ever evaluated: the text goes through :mod:`ast`, every node is checked against a whitelist, and the SymPy
objects are built by hand.  Length, nesting, degree and literals are bounded, so that no text can take long either.
"""

from __future__ import annotations

import ast
import math
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MAX_LENGTH = 400
MAX_DEPTH = 40
MAX_DEGREE = 12
MAX_LITERAL = 10**6
MAX_DIGITS = 17
MAX_COEFFICIENT_DIGITS = 80
MAX_TERMS = 200

#: functions of one argument; ``he<n>`` (Hermite polynomials) is recognised by its pattern
FUNCTIONS = ("abs", "cos", "erf", "exp", "gelu", "normcdf", "relu", "sigmoid", "sign", "sin", "sqrt", "tanh")
#: functions of two arguments
FUNCTIONS_2 = ("leaky_relu", "max", "min")
_HERMITE = re.compile(r"he(\d{1,2})\Z")


class FormulaError(ValueError):
    """A text that is not a formula of the language; the message names the remedy."""


def _quote(text: str) -> str:
    shown = text if len(text) <= 60 else text[:57] + "..."
    return repr(shown)


def names() -> str:
    return ", ".join([*sorted((*FUNCTIONS, *FUNCTIONS_2)), "he<n>"])


@dataclass(frozen=True)
class _Size:
    """Bounds on what an expression becomes when it is expanded."""

    degree: int = 0  # of the polynomial in x
    digits: float = 0.0  # of the largest coefficient
    terms: int = 1

    def checked(self) -> _Size:
        if self.degree > MAX_DEGREE:
            raise FormulaError(f"the polynomial degree exceeds {MAX_DEGREE}: lower it")
        if self.digits > MAX_COEFFICIENT_DIGITS:
            raise FormulaError(f"a coefficient can exceed 1e{MAX_COEFFICIENT_DIGITS}: rescale the activation")
        if self.terms > MAX_TERMS:
            raise FormulaError(f"the formula expands to more than {MAX_TERMS} terms: simplify it")
        return self

    def __add__(self, other: _Size) -> _Size:
        digits = max(self.digits, other.digits) + 1
        return _Size(max(self.degree, other.degree), digits, self.terms + other.terms).checked()

    def __mul__(self, other: _Size) -> _Size:
        return _Size(self.degree + other.degree, self.digits + other.digits, self.terms * other.terms).checked()

    def __pow__(self, power: int) -> _Size:
        terms = math.comb(self.terms + power - 1, power)
        return _Size(self.degree * power, self.digits * power, terms).checked()


def _check(node: ast.AST, depth: int = 0) -> _Size:
    """Check one node and everything below it; return the size of its expansion."""
    if depth > MAX_DEPTH:
        raise FormulaError(f"the formula nests more than {MAX_DEPTH} levels deep: simplify it")
    match node:
        case ast.Constant(value=value):
            return _check_number(value)
        case ast.Name(id="x"):
            return _Size(degree=1)
        case ast.Name(id="pi"):
            return _Size(digits=1)
        case ast.Name(id=name):
            raise FormulaError(f"unknown name {_quote(name)}: the variable is x and the functions are {names()}")
        case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
            return _check(operand, depth + 1)
        case ast.BinOp(left=base, op=ast.Pow(), right=exponent):
            size = _check(base, depth + 1)
            power = exponent.value if isinstance(exponent, ast.Constant) else None
            if type(power) is not int or not 0 <= power <= MAX_DEGREE:
                raise FormulaError(f"a power must be a whole number from 0 to {MAX_DEGREE}, such as x**3")
            return size**power
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub(), right=right):
            return _check(left, depth + 1) + _check(right, depth + 1)
        case ast.BinOp(left=left, op=ast.Mult() | ast.Div() as op, right=right):
            if isinstance(op, ast.Div) and _has_variable(right):
                raise FormulaError(
                    "division by an expression in x has no closed Gaussian expectation: only divide by numbers"
                )
            return _check(left, depth + 1) * _check(right, depth + 1)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            return _check_call(name, arguments, depth)
        case _:
            raise FormulaError(
                f"{type(node).__name__} is not part of a formula: use numbers, x, + - * / **, and {names()}"
            )


def _check_number(value: object) -> _Size:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise FormulaError(f"{_quote(str(value))} is not a real number: use plain numbers such as 2, 0.5 or 1/3")
    if value and not 1 / MAX_LITERAL <= abs(value) <= MAX_LITERAL:
        raise FormulaError("a number is outside [1e-6, 1e6]: rescale the activation")
    if len(repr(value)) > MAX_DIGITS + 3:
        raise FormulaError(f"a number has more than {MAX_DIGITS} digits: shorten it")
    return _Size(digits=abs(math.log10(abs(value))) if value else 0.0)


def _check_call(name: str, arguments: list[ast.expr], depth: int) -> _Size:
    hermite = _HERMITE.match(name)
    if hermite is None and name not in (*FUNCTIONS, *FUNCTIONS_2):
        raise FormulaError(f"unknown function {_quote(name)}: the functions are {names()}")
    if name in FUNCTIONS_2:
        if len(arguments) != 2:
            raise FormulaError(f"{name} takes two arguments, such as {name}(x, 0.1)")
        first, second = (_check(argument, depth + 1) for argument in arguments)
        if name == "leaky_relu" and _has_variable(arguments[1]):
            raise FormulaError("the slope of leaky_relu is a number, such as leaky_relu(x, 0.1)")
        return (first + second) * _Size(terms=2)
    if len(arguments) != 1:
        raise FormulaError(f"{name} takes one argument, such as {name}(x)")
    inner = _check(arguments[0], depth + 1)
    if hermite:
        order = int(hermite.group(1))
        return inner**order * _Size(digits=order) if order <= MAX_DEGREE else _Size(degree=order).checked()
    if name == "sqrt" and _has_variable(arguments[0]):
        raise FormulaError("sqrt is for numbers, such as sqrt(2): a root of x has no closed Gaussian expectation")
    if name in ("abs", "relu", "gelu"):
        return inner * _Size(terms=2)
    return _Size(digits=inner.digits, terms=2 if name in ("cos", "normcdf", "sigmoid", "sin") else 1)


def _has_variable(node: ast.AST) -> bool:
    return any(isinstance(part, ast.Name) and part.id == "x" for part in ast.walk(node))


def _tree(text: object) -> ast.expr:
    if not isinstance(text, str):
        raise TypeError(f"a formula is a string such as 'x**2', not {type(text).__name__}")
    if len(text) > MAX_LENGTH:
        raise FormulaError(f"the formula has {len(text)} characters: at most {MAX_LENGTH} are read")
    if not text.isascii():
        raise FormulaError(f"{_quote(text)} has characters outside ASCII: write x, +, -, *, /, ** and function names")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            body = ast.parse(text.strip().replace("^", "**"), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise FormulaError(f"{_quote(text)} is not a formula: write it as in 'x**2' or 'erf(x/sqrt(2))'") from None
    _check(body)
    return body


def is_word(name: str) -> bool:
    """Return whether a name is a word of the language, and so cannot name an activation."""
    return name in ("x", "pi", *FUNCTIONS, *FUNCTIONS_2) or _HERMITE.match(name) is not None


def normalise(text: str) -> str:
    """Return the formula in canonical spelling, after checking every part of it.

    Raises
    ------
    FormulaError
        If the text is not a formula of the language; the message says what to write instead.
    TypeError
        If it is not a string.
    """
    spelled = ast.unparse(_tree(text))
    if len(spelled) > MAX_LENGTH:  # it will be read again
        raise FormulaError(f"the formula has {len(spelled)} characters with its spaces: at most {MAX_LENGTH} are read")
    return spelled


def to_sympy(text: str) -> Any:
    """Return the SymPy expression of a formula, in the real symbol ``x``; numbers become exact rationals."""
    import sympy

    def build(node: ast.AST) -> Any:
        match node:
            case ast.Constant(value=value):
                return sympy.Rational(repr(value))
            case ast.Name(id="x"):
                return variable()
            case ast.Name():
                return sympy.pi
            case ast.UnaryOp(op=op, operand=operand):
                return -build(operand) if isinstance(op, ast.USub) else build(operand)
            case ast.BinOp(left=left, op=op, right=right):
                first, second = build(left), build(right)
                match op:
                    case ast.Add():
                        return first + second
                    case ast.Sub():
                        return first - second
                    case ast.Mult():
                        return first * second
                    case ast.Div():
                        if second == 0:
                            raise FormulaError("the formula divides by zero: change the denominator")
                        return first / second
                    case _:
                        return first**second
            case ast.Call(func=ast.Name(id=name), args=arguments):
                values = [build(argument) for argument in arguments]
                if _HERMITE.match(name):
                    return _hermite(int(name[2:]), values[0])
                return _functions()[name](*values)
        raise AssertionError(f"unchecked node {node!r}")

    return build(_tree(text))


def _functions() -> dict[str, Callable[..., Any]]:
    """Return the functions of the language; kinks are written with ``sign``."""
    import sympy

    half = sympy.Rational(1, 2)

    def normcdf(u: Any) -> Any:
        return half + half * sympy.erf(u / sympy.sqrt(2))

    def absolute(u: Any) -> Any:
        return u * sympy.sign(u)

    return {
        "abs": absolute,
        "cos": sympy.cos,
        "erf": sympy.erf,
        "exp": sympy.exp,
        "gelu": lambda u: u * normcdf(u),
        "leaky_relu": lambda u, slope: half * ((1 + slope) * u + (1 - slope) * absolute(u)),
        "max": lambda u, v: half * (u + v + absolute(u - v)),
        "min": lambda u, v: half * (u + v - absolute(u - v)),
        "normcdf": normcdf,
        "relu": lambda u: half * (u + absolute(u)),
        "sigmoid": lambda u: half + half * sympy.tanh(u / 2),
        "sign": sympy.sign,
        "sin": sympy.sin,
        "sqrt": sympy.sqrt,
        "tanh": sympy.tanh,
    }


def variable() -> Any:
    """Return the real symbol ``x`` in which activations are written."""
    import sympy

    return sympy.Symbol("x", real=True)


def _hermite(order: int, argument: Any) -> Any:
    import sympy

    previous, current = sympy.Integer(0), sympy.Integer(1)
    for n in range(order):
        previous, current = current, sympy.expand(argument * current - n * previous)
    return current
