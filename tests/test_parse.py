"""Formulas are read, never run: what is accepted, what is refused, and how."""

import subprocess
import sys

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

import hdsgd
from hdsgd.derivations.activations import BUILTINS
from hdsgd.derivations.atoms import NotClosed, from_formula
from hdsgd.derivations.parse import MAX_LENGTH, FormulaError, normalise, to_sympy, variable

X = variable()
Z, Y = sympy.Symbol("z"), sympy.Symbol("y", real=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x**2", X**2),
        ("x^3 - 3*x", X**3 - 3 * X),
        (" erf(x/sqrt(2)) ", sympy.erf(X / sympy.sqrt(2))),
        ("0.1*x", X / 10),
        ("he3(x)", X**3 - 3 * X),
        ("he2(2*x)", 4 * X**2 - 1),
        ("exp(-x**2/2)/sqrt(2*pi)", sympy.exp(-(X**2) / 2) / sympy.sqrt(2 * sympy.pi)),
        ("-(x + 1)*2", -2 * X - 2),
    ],
)
def test_formula_is_read_exactly(text, expected):
    assert sympy.simplify(to_sympy(text) - expected) == 0
    assert normalise(normalise(text)) == normalise(text)


@given(st.text(alphabet="x0123456789+-*/^().,eErfhpiqst_ ", max_size=60))
@settings(max_examples=300, deadline=2000)
def test_any_text_is_a_formula_or_one_sentence(text):
    try:
        spelled = normalise(text)
    except FormulaError as error:
        assert "\n" not in str(error)
    else:
        assert normalise(spelled) == spelled


@pytest.mark.parametrize(
    ("formula", "reason"),
    [
        ("erf(x + 1)", "erf"),
        ("exp(x**2)", "infinite"),
        ("exp(x**3)", "exp"),
        ("relu(x - 1)", "sign"),
        ("sin(x**2)", "exp"),
        ("sqrt(-1)*x", "real"),
        ("x/0", "zero"),
        ("x - x", "zero"),
        ("exp(erf(x))", "exp"),
    ],
)
def test_what_has_no_rule_is_refused_with_its_reason(formula, reason):
    with pytest.raises((NotClosed, FormulaError), match=reason):
        from_formula(formula)


def test_near_miss_of_a_name_is_suggested():
    with pytest.raises(ValueError, match="did you mean 'quadratic'"):
        hdsgd.activation("quadratc")


def test_a_formula_is_bounded_in_the_spelling_that_is_kept():
    text = "+".join(["x**2*x"] * 36)
    assert len(text) < MAX_LENGTH
    with pytest.raises(FormulaError, match="with its spaces"):
        normalise(text)


def test_built_in_formulas_are_spelled_canonically():
    assert [entry.name for entry in BUILTINS.values() if normalise(entry.formula) != entry.formula] == []


@pytest.mark.parametrize(
    "expression",
    [
        sympy.erf(Z) + Z**3 / 10,
        sympy.Max(Z, 0),
        sympy.Min(Y, 0, 2 * Y),
        sympy.Abs(Z) / 2,
        sympy.sign(Y) * Y**2,
        sympy.Piecewise((Z, Z > 0), (Z / 10, True)),
        sympy.Piecewise((-Z, Z < 0), (Z**2, Z <= 1), (Z, True)),
        Z * sympy.Heaviside(Z) ** 2,
        Z / 2 * (1 + sympy.erf(Z / sympy.sqrt(2))),
        sympy.exp(-(Z**2) / 2) / sympy.sqrt(2 * sympy.pi),
        sympy.erfc(Y),
        sympy.sinh(Z) ** 2 + sympy.cosh(2 * Z),
        sympy.sin(2 * Z) - sympy.cos(Z) / sympy.pi,
        sympy.tanh(Z),
        sympy.hermite(3, Z),
        2.5 * Z,
        sympy.sqrt(8) * Z + sympy.E,
    ],
    ids=str,
)
def test_a_sympy_expression_is_an_activation(expression):
    formula = hdsgd.activation(expression).formula
    (symbol,) = expression.free_symbols
    for point in (-1.7, -0.4, 0.3, 0.8, 2.2):
        expected = complex(expression.subs(symbol, point).evalf())
        assert complex(to_sympy(formula).subs(X, point).evalf()) == pytest.approx(expected, rel=1e-12)
    assert hdsgd.Problem(expression).student == hdsgd.Activation(formula)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        (Y * Z, "one variable, not y, z"),
        (sympy.Function("f")(Z), "not part of a formula"),
        (sympy.Function("exp")(Z), "not part of a formula"),  # of the user's, whatever its name
        (sympy.tan(Z), "not part of a formula"),
        (sympy.sqrt(Z), "whole number"),
        (1 / Z, "whole number"),
        (Z**Z, "whole number"),
        (sympy.I * Z, "not part of a formula"),
        (sympy.oo * Y, "not part of a formula"),
        (sympy.zoo, "not part of a formula"),
        (sympy.Integer(10) ** 5000 * Z, "outside"),
        (sympy.Float("1e400") * Z, "inf"),
        (Z**40, "power"),
        (sympy.Piecewise((Z, sympy.Eq(Z, 0)), (1, True)), "condition"),
        (sympy.Piecewise((Z, Z > 0)), "last piece"),
        (sympy.Derivative(sympy.Function("g")(Z), Z), "not part of a formula"),
        (sympy.Symbol("a\nb") * Z, "one variable"),
    ],
)
def test_a_sympy_expression_that_is_none_is_refused_in_one_line(expression, message):
    with pytest.raises(ValueError, match=message) as caught:
        hdsgd.activation(expression)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("thing", [None, 3, 2.5, b"x", ["x"], sympy.Eq(Z, 1), sympy.Matrix([Z]), np.sin])
def test_what_is_no_activation_is_refused(thing):
    with pytest.raises(TypeError, match="an activation is a name or a formula"):
        hdsgd.activation(thing)


def test_a_type_is_refused_without_importing_sympy():
    code = "import hdsgd, sys\ntry: hdsgd.activation(3)\nexcept TypeError: print('sympy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_an_activation_shows_its_formula_in_notebooks():
    assert hdsgd.activation("x**2/3")._repr_latex_() == r"$\sigma(x) = \frac{x^{2}}{3}$"
