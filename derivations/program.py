"""Straight-line programs of lets: what a derivation produces and every backend prints.

Input
    Expressions in covariance entries ``C11, C12, …`` and in earlier lets, added one by one to a :class:`Builder`.
Output
    :class:`Program`: inputs, lets in order, result.  The same object is evaluated in mpmath or numpy, printed as numpy,
    C or LaTeX; it is never expanded into one expression.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sympy
from sympy import Expr, Symbol

from .exact import MPMATH
from .functions import numpy_namespace, share, signsign


def covariance_symbol(i: int, j: int) -> Symbol:
    """Return the symbol of Cov(x_i, x_j); slots count from 1."""
    i, j = min(i, j), max(i, j)
    return Symbol(f"C{i}{j}", positive=True) if i == j else Symbol(f"C{i}{j}", real=True)


def covariance_inputs(slots: int) -> tuple[Symbol, ...]:
    """Return the upper triangle of the covariance of ``slots`` variables, row by row."""
    return tuple(covariance_symbol(i, j) for i in range(1, slots + 1) for j in range(i, slots + 1))


@dataclass(frozen=True)
class Program:
    """A straight-line program.

    Attributes
    ----------
    name : str
        Name of the function it computes, such as ``I4``.
    inputs : tuple of Symbol
        Arguments in order.
    lets : tuple of (Symbol, Expr)
        Intermediate values; each uses inputs and earlier lets only.
    result : Expr
        The value.
    """

    name: str
    inputs: tuple[Symbol, ...]
    lets: tuple[tuple[Symbol, Expr], ...]
    result: Expr

    @property
    def operations(self) -> int:
        """Number of arithmetic operations and function calls."""
        return int(sum(expr.count_ops() for _, expr in self.lets) + self.result.count_ops())

    @property
    def kinked(self) -> bool:
        """Whether four variables meet in bare signs, which need first-order numbers where variables coincide."""
        return len(self.inputs) == 10 and any(expr.has(signsign, share) for _, expr in self.lets)

    def evaluate(self, values: Sequence[Any], backend: str = "mpmath") -> Any:
        """Return the value at ``values`` (one per input) in ``mpmath`` or, vectorised, in ``numpy``."""
        return self.compile(backend)(*values)

    def compile(self, backend: str = "mpmath") -> Callable[..., Any]:
        """Return a function of the inputs that runs the lets one after another."""
        modules = [MPMATH, "mpmath"] if backend == "mpmath" else [numpy_namespace(), "numpy"]

        def ready(expr: Expr) -> tuple[Callable[..., Any], list[Symbol]]:
            return sympy.lambdify(_arguments(expr), expr, modules), _arguments(expr)

        steps = [(target, *ready(expr)) for target, expr in self.lets]
        last = ready(self.result)

        dual = numpy_namespace()["Dual"] if backend == "numpy" and self.kinked else None

        def run(*values: Any) -> Any:
            known = dict(zip(self.inputs, values, strict=True))
            if dual is not None:
                known = {entry: dual(value, value if entry.is_positive else 0.0) for entry, value in known.items()}
            for target, function, arguments in steps:
                known[target] = function(*(known[a] for a in arguments))
            value = last[0](*(known[a] for a in last[1]))
            return value.a if dual is not None and isinstance(value, dual) else value

        return run


def _arguments(expr: Expr) -> list[Symbol]:
    return sorted(expr.free_symbols, key=lambda symbol: symbol.name)


class Builder:
    """Collects lets; equal expressions share one."""

    def __init__(self, inputs: Sequence[Symbol]) -> None:
        self.inputs = tuple(inputs)
        self._lets: dict[Symbol, Expr] = {}
        self._known: dict[Expr, Symbol] = {}

    def let(self, expr: Expr) -> Expr:
        """Return a symbol that stands for the expression (numbers and symbols stand for themselves)."""
        if expr.is_number or expr.is_Symbol:
            return expr
        if expr not in self._known:
            symbol = Symbol(f"t{len(self._lets)}", real=True)
            self._lets[symbol] = expr
            self._known[expr] = symbol
        return self._known[expr]

    def program(self, name: str, result: Expr) -> Program:
        """Return the program of the lets that the result needs, renumbered in order."""
        if result in self._lets:
            result = self._lets[result]
        needed: set[Symbol] = set()
        stack = list(result.free_symbols)
        while stack:
            symbol = stack.pop()
            if symbol in self._lets and symbol not in needed:
                needed.add(symbol)
                stack.extend(self._lets[symbol].free_symbols)
        kept = [symbol for symbol in self._lets if symbol in needed]
        fresh = {symbol: Symbol(f"t{n}", real=True) for n, symbol in enumerate(kept)}
        lets = tuple((fresh[symbol], self._lets[symbol].xreplace(fresh)) for symbol in kept)
        return Program(name, self.inputs, lets, result.xreplace(fresh))
