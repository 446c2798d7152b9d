"""Print programs as a numpy module.

Input
    :class:`~..kernels.KernelPrograms`.
Output
    Source text of a Python module with one function for each expectation (arguments: covariance entries of any shapes
    that broadcast) and the pointwise functions ``student``, ``student_prime``, ``teacher``.

Broadcasting stages the work by itself: a let that depends on few indices is an array over those indices only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sympy import Expr
from sympy.printing.numpy import SciPyPrinter

from ..functions import NAMES, numpy_text
from ..kernels import KernelPrograms
from ..program import Program


class _Printer(SciPyPrinter):  # type: ignore[misc]
    """NumPy's printer with bare function names; asin is guarded against arguments rounded beyond ±1."""

    def __init__(self) -> None:
        super().__init__({"fully_qualified_modules": False})
        self.used: set[str] = set()

    def _print_asin(self, expr: Expr) -> str:
        self.module_imports["numpy"] |= {"arcsin", "maximum", "minimum"}
        return f"arcsin(minimum(maximum({self._print(expr.args[0])}, -1.0), 1.0))"

    def _print_Function(self, expr: Expr) -> str:
        name = expr.func.__name__
        if name not in NAMES:
            return str(super()._print_Function(expr))
        self.used.add(name)
        return f"{name}({', '.join(self._print(argument) for argument in expr.args)})"


def module(programs: KernelPrograms, header: str, pointwise: Mapping[str, Expr] | None = None, prefix: str = "") -> str:
    """Return the source of the module.

    ``header`` is a comment that says where it comes from; ``pointwise`` replaces the pointwise functions,
    and ``prefix`` stands before the names of the expectations.
    """
    printer = _Printer()
    expressions = programs.pointwise if pointwise is None else pointwise
    pieces = [_pointwise(printer, name, expr) for name, expr in expressions.items()]
    pieces += [
        _renamed(function(printer, program), prefix)
        for program in (*programs.expectations.values(), *programs.diffusion.values())
    ]
    helpers = numpy_text(printer.used)
    if "dawsn" in helpers:
        printer.module_imports["scipy.special"] |= {"dawsn", "erf"}
    imports = ("import numpy as np\n" if helpers else "") + "".join(
        f"from {name} import {', '.join(sorted(functions))}\n"
        for name, functions in sorted(printer.module_imports.items())
        if functions
    )
    lines = "".join(f"# {line}\n" for line in header.splitlines())
    title = f'"""Gaussian expectations of the student {programs.student} and the teacher {programs.teacher}."""\n'
    return lines + title + ("\n" + imports if imports else "") + helpers + "".join(f"\n\n{piece}" for piece in pieces)


def function(printer: Any, program: Program) -> str:
    """Return the source of one program as a function."""
    arguments = ", ".join(symbol.name for symbol in program.inputs)
    lines = [f"    {target.name} = {printer.doprint(expr)}\n" for target, expr in program.lets]
    result = printer.doprint(program.result)
    if program.kinked:
        entries = [symbol.name for symbol in program.inputs]
        duals = [f"Dual({symbol.name}, {symbol.name if symbol.is_positive else '0.0'})" for symbol in program.inputs]
        lines.insert(
            0,
            f"    {', '.join(entries)} = (\n        {', '.join(duals[:5])},\n        {', '.join(duals[5:])},\n    )\n",
        )
        result = f"({result}).a"
    return f"def {program.name}({arguments}):\n{''.join(lines)}    return {result}\n"


def _renamed(text: str, prefix: str) -> str:
    return text.replace("def ", f"def {prefix}", 1)


def _pointwise(printer: Any, name: str, expr: Expr) -> str:
    return f"def {name}(x):\n    return {printer.doprint(expr)}\n"
