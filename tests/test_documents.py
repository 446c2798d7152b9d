"""The documents of derived formulas: what they say is true, they fit on the page, and they compile."""

import functools
import re
import shutil
import subprocess

import numpy as np
import pytest
import sympy

import hdsgd
from hdsgd import _bridge, _kernel
from hdsgd.derivations.quadratic import matrix_form, moment, trace, weight
from hdsgd.derivations.typeset import COLUMNS, width

NAMES = sorted(set(_bridge.builtins()) - {"sign"})
PAIRS = [(name, name) for name in NAMES] + [("erf", "he3"), ("relu", "sign"), ("tanh", "x**2")]
SLOW = [pair for pair in PAIRS if "gelu" in pair]


def document(student, teacher, style):
    return _bridge.document(hdsgd.activation(student).formula, hdsgd.activation(teacher).formula, style)


# The matrix form of quadratic activations


def test_the_published_equation_is_corrected():
    """MMᵀ/k, where the equation in print has MMᵀ/p."""
    text = document("quadratic", "quadratic", "latex")
    (line,) = [line for line in text.splitlines() if line.startswith(r"\frac{dQ}{dt} ")]
    assert r"\frac{M M^{\top}}{k} - \frac{Q Q}{p}" in line
    assert r"M M^{\top}}{p" not in text
    assert "dM/dt = 2*τ_1 M + 4 (M P/k - Q M/p)" in document("quadratic", "quadratic", "text")
    assert "dQ/dt = 4*τ_1 Q + 8 (M Mᵀ/k - Q Q/p) + (γ/p) N" in document("quadratic", "quadratic", "text")


def number(product, coefficient, arrays):
    """A product of blocks times its coefficient."""
    p, k = arrays["M"].shape
    value = coefficient.subs({symbol: {"p": p, "k": k}[symbol.name] for symbol in coefficient.free_symbols})
    return float(value) * functools.reduce(np.matmul, (arrays[block] for block in product))


@pytest.mark.parametrize(
    ("student", "teacher"),
    [("x**2", "x**2"), ("x**2 - 1", "x**2 - 1"), ("x**2/2 + 1/3", "2 - 3*x**2"), ("x**2", "x**2 - 1")],
)
def test_the_matrix_form_is_the_right_hand_side(student, teacher):
    state = hdsgd.Overlaps.random(3, 2, 9, rng=4, spherical=False)
    arrays = {"Q": state.Q, "M": state.M, "M'": state.M.T, "P": state.P}
    form = matrix_form(hdsgd.activation(student).formula, hdsgd.activation(teacher).formula)
    traces = {trace(n): sum(np.trace(number(*item, arrays)) for item in form.trace(n).items()) for n in (1, 2)}
    traces[trace(1)] += float(form.constant)

    def moments(order, last):
        return sum(
            float(c.subs(traces)) * sum(number(*item, arrays) for item in form.power("s", last, n).items())
            for n, c in enumerate(moment(order))
        )

    Delta = 0.3
    slope = float(form.slope)
    dynamics = hdsgd.Dynamics(hdsgd.Problem(student, teacher, gamma=0.4, Delta=Delta), "numpy")
    drift = dynamics.drift(state)
    N = slope**2 * (moments(2, "s") + Delta * state.Q)
    assert float(weight(2).subs(traces)) / 2 == pytest.approx(dynamics.risk(state), rel=1e-12)
    np.testing.assert_allclose(drift.dM, slope * moments(1, "t"), rtol=1e-11)
    np.testing.assert_allclose(dynamics.noise(state), N, rtol=1e-11)
    np.testing.assert_allclose(drift.dQ, 2 * slope * moments(1, "s") + 0.4 / 3 * N, rtol=1e-11)


def test_moments_of_a_quadratic_form_are_those_of_quadrature():
    """E[(uᵀAu)^m u uᵀ] for two correlated variables by Gauss–Hermite, which is exact."""
    Omega, A = np.array([[0.8, 0.3], [0.3, 1.1]]), np.diag([-0.4, 0.7])
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)
    weights = weights / weights.sum()
    g = np.stack([np.repeat(nodes, 12), np.tile(nodes, 12)])
    w = np.repeat(weights, 12) * np.tile(weights, 12)
    u = np.linalg.cholesky(Omega) @ g
    form = np.einsum("in,ij,jn->n", u, A, u)
    traces = {trace(n): np.trace(np.linalg.matrix_power(Omega @ A, n)) for n in range(1, 5)}
    for order in range(5):
        assert float(sympy.sympify(weight(order)).subs(traces)) == pytest.approx(w @ form**order, rel=1e-11)
        found = sum(
            float(sympy.sympify(c).subs(traces)) * np.linalg.matrix_power(Omega @ A, n) @ Omega
            for n, c in enumerate(moment(order))
        )
        np.testing.assert_allclose(found, (w * form**order * u) @ u.T, rtol=1e-11)


def test_only_quadratics_have_a_matrix_form():
    for formula in ("x**2 + x", "x", "x**3", "erf(x)", "relu(x)"):
        assert matrix_form(hdsgd.activation(formula).formula, "x ** 2") is None
    assert "Matrix form" not in document("he3", "he3", "text")


# What is written out


@pytest.mark.parametrize("name", ["erf", "relu", "abs", "he3", "sin", "gaussian", "exp"])
def test_formulas_in_the_text_give_the_numbers_of_the_kernel(name):
    """The two- and three-point functions are read back from the text."""
    activation = hdsgd.activation(name)
    module = _kernel.load(activation, activation, "numpy").module
    C = {"C11": 0.7, "C12": 0.2, "C13": -0.3, "C22": 0.9, "C23": 0.25, "C33": 0.6}
    lines = document(name, name, "text").splitlines()
    for kind, entries in (
        ("I2", ("C11", "C12", "C22")),
        ("J2", ("C11", "C12", "C22")),
        ("K2", ("C11", "C12", "C22")),
        ("I3", tuple(C)),
    ):
        start = next(i for i, line in enumerate(lines) if line.startswith(f"  {kind} = E["))
        text = lines[start]
        while lines[start + 1].startswith("      "):
            start += 1
            text += lines[start]
        shown = eval(text.split("] = ")[1], {**vars(sympy), **C})  # our own text
        assert float(shown) == pytest.approx(float(getattr(module, kind)(*(C[entry] for entry in entries))), rel=1e-12)


@pytest.mark.parametrize("style", ["text", "markdown", "latex"])
@pytest.mark.parametrize(("student", "teacher"), [pair for pair in PAIRS if pair not in SLOW])
def test_documents_are_complete_and_fit(student, teacher, style):
    text = document(student, teacher, style)
    for shown in ("I4", "Equations of motion") if style != "latex" else ("I4", "dM_{jr}", "dQ_{jl}", "N_{jl}"):
        assert shown in text
    if style == "latex":
        assert text.isascii()
        assert text.count("{") == text.count("}")
        assert len(re.findall(r"\\begin\{", text)) == len(re.findall(r"\\end\{", text))
        assert "signsign" not in text
        assert "share" not in text
    if style == "text":
        assert max(map(len, text.splitlines())) < 2 * COLUMNS


def test_sentences_name_what_the_formulas_show():
    lead = r"; $\Omega_{11}$, $\Omega_{12}$, … are their covariances. foursigns("
    assert lead in document("relu", "relu", "markdown")
    assert "; C11, C12, … are their covariances.\n" in document("linear", "linear", "text")
    assert r"\operatorname{erf}{\left(\frac{x}{\sqrt{2}} \right)}" in _bridge.latex("gelu(x)")


def test_an_unknown_style_is_refused():
    with pytest.raises(ValueError, match="choose one of text, markdown, latex"):
        document("linear", "linear", "html")


def test_width_counts_what_is_printed():
    assert width("xyz") < width(r"x + y + z")
    assert width(r"\frac{xxxx}{y}") < width("xxxxy + 1")
    assert width(r"\Omega_{12}^{2}") < 4


needs_latex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")


def compiled(student, teacher, folder):
    (folder / "a.tex").write_text(document(student, teacher, "latex"), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


@needs_latex
@pytest.mark.parametrize(("student", "teacher"), [("quadratic", "quadratic"), ("relu", "relu"), ("erf", "he3")])
def test_latex_compiles_without_overfull_lines(student, teacher, tmp_path):
    compiled(student, teacher, tmp_path)


@needs_latex
@pytest.mark.slow
@pytest.mark.parametrize(("student", "teacher"), PAIRS)
def test_latex_of_all_compiles(student, teacher, tmp_path):
    compiled(student, teacher, tmp_path)
