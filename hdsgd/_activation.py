"""Activations: a formula, checked and spelled canonically, with a name."""

from __future__ import annotations

import difflib
import re
import sys
from dataclasses import dataclass
from typing import Any

from . import _bridge

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}\Z")


@dataclass(frozen=True)
class Activation:
    """An activation function σ given by its formula.

    Parameters
    ----------
    formula : str
        Formula in one variable ``x``, for example ``"erf(x/sqrt(2))"`` or ``"x**3 - 3*x"``.  It is parsed, never
        evaluated, and stored in a canonical spelling; activations are equal if these are.
    name : str, optional
        Short name used in tables and file names; by default the built-in's name, or the formula itself.

    Raises
    ------
    ValueError
        If the text is not a formula in ``x``; the message says what to write instead.
    """

    formula: str
    name: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.formula, str):
            raise TypeError(f"a formula is a string such as 'x**2', not {type(self.formula).__name__}")
        formula = _bridge.normalise(self.formula)
        object.__setattr__(self, "formula", formula)
        if not isinstance(self.name, str):
            raise TypeError(f"the name of an activation is a string, not {type(self.name).__name__}")
        if not self.name:
            object.__setattr__(self, "name", _builtin_names().get(formula, formula))
        elif self.name != formula and not _NAME.match(self.name):
            raise ValueError(
                f"{self.name!r} is not a name: use letters, digits and underscores, starting with a letter"
            )

    def __str__(self) -> str:
        return self.name if self.name == self.formula else f"{self.name}: {self.formula}"

    def _repr_latex_(self) -> str:
        """The formula in notebooks."""
        return rf"$\sigma(x) = {_bridge.latex(self.formula)}$"


def activation(spec: str | Activation | Any) -> Activation:
    """Return the activation that a built-in name, a formula or a SymPy expression stands for.

    Parameters
    ----------
    spec : str, Activation or SymPy expression
        A built-in name (``"erf"``, ``"quadratic"``, …), a name saved by :func:`generate`, a formula in ``x``, or a
        SymPy expression in one symbol of any name (``Abs``, ``Max``, ``Min``, ``Heaviside`` and ``Piecewise``, too).

    Raises
    ------
    ValueError
        If it is none of these; a near miss of a built-in name is suggested.
    TypeError
        If it is of another type.

    Examples
    --------
    >>> import hdsgd, sympy
    >>> z = sympy.Symbol("z")
    >>> hdsgd.activation(sympy.erf(z) + z**3 / 10).formula
    '1 / 10 * x ** 3 + erf(x)'
    """
    if isinstance(spec, Activation):
        return spec
    if not isinstance(spec, str):
        sympy = sys.modules.get("sympy")  # who has an expression has imported it
        if sympy is not None and isinstance(spec, sympy.Expr):
            return Activation(_bridge.spell(spec))
        raise TypeError(f"an activation is a name or a formula such as 'x**2', not {type(spec).__name__}")
    name = spec.strip()
    if not _NAME.match(name) or name == "x":
        return Activation(spec)
    formula = _bridge.builtins().get(name) or _bridge.saved_formula(name)
    if formula is not None:
        return Activation(formula, name)
    known = {**_bridge.builtins(), **_bridge.saved_names()}
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known names are {', '.join(known)}"
    raise ValueError(f"unknown activation {name!r}: {hint} (a formula is written in x, such as 'x**2 - 1')")


def _builtin_names() -> dict[str, str]:
    """Return the built-in name of each canonical formula."""
    return {formula: name for name, formula in _bridge.builtins().items()}
