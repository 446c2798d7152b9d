"""The engine: every rule against a route that does not use it."""

import math
from fractions import Fraction

import mpmath as mp
import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import special

from hdsgd.derivations import mixture, verify
from hdsgd.derivations.atoms import NotClosed, from_expression, from_formula
from hdsgd.derivations.generate import render
from hdsgd.derivations.kernels import KernelPrograms, derive
from hdsgd.derivations.parse import variable
from hdsgd.derivations.program import Program
from hdsgd.derivations.rules import RHO, Derivation, two_signs

ACTIVATIONS = [
    "relu(x)",
    "leaky_relu(x, 0.01)",
    "abs(x)",
    "gelu(x)",
    "normcdf(x)",
    "erf(x/sqrt(2))",
    "x**2",
    "x**2 - 1",
    "x**3 - 3*x",
    "x",
    "erf(x) + x/10",
    "x*exp(-x**2/2)",
    "erf(x/3)",
]


def random_formula():
    """Sums of atoms of the closed class, at most one of them with erf (four signs have no closed form)."""
    coefficient = st.sampled_from(["0.5", "1.5", "2", "1/3"])
    atom = st.sampled_from(["x", "x**2", "x**3", "exp(-x**2/2)", "x*exp(-x**2)", "erf(x/2)", "erf(x)", "he4(x)"])
    term = st.tuples(coefficient, atom).map("*".join)
    return st.lists(term, min_size=1, max_size=2).map(" + ".join)


def covariances(size):
    return st.integers(0, 2**32 - 1).map(lambda seed: verify.random_covariance(np.random.default_rng(seed), size))


def upper(C):
    return C[np.triu_indices(len(C))]


def test_sign_sign_is_certified_by_differentiation():
    value = two_signs()
    assert sympy.simplify(sympy.diff(value, RHO) - 2 / (sympy.pi * sympy.sqrt(1 - RHO**2))) == 0
    assert value.subs(RHO, 0) == 0


def test_sign_sign_against_counting():
    rng = np.random.default_rng(0)
    g, h = rng.normal(size=(2, 400_000))
    for rho in (-0.8, 0.3):
        product = np.sign(g) * np.sign(rho * g + math.sqrt(1 - rho**2) * h)
        assert abs(product.mean() - float(two_signs().subs(RHO, rho))) < 4.5 * product.std() / math.sqrt(g.size)


@pytest.mark.parametrize("formula", ACTIVATIONS)
def test_every_expectation_against_quadrature(formula):
    certificates = verify.verify(KernelPrograms(formula, formula))
    assert max(certificate.error for certificate in certificates) < 1e-11


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ("erf(x/sqrt(2))", "x**3 - 3*x"),
        ("x**2", "erf(x)"),
        ("x**3", "x"),
        ("relu(x)", "sign(x)"),
        ("erf(x)", "gelu(x)"),
    ],
)
def test_unmatched_pairs_against_quadrature(student, teacher):
    certificates = verify.verify(KernelPrograms(student, teacher))
    assert len(certificates) == 12
    assert max(certificate.error for certificate in certificates) < 1e-11


def test_a_wrong_formula_is_caught():
    program = derive("I4", (from_formula("erf(x/sqrt(2))"),) * 4)
    wrong = Program(program.name, program.inputs, program.lets, program.result * (1 + sympy.Rational(1, 10**6)))
    verify.check(program, ("erf(x/sqrt(2))",) * 4)
    with pytest.raises(verify.VerificationError, match="I4"):
        verify.check(wrong, ("erf(x/sqrt(2))",) * 4)


def test_not_a_number_is_caught():
    program = derive("I4", (from_formula("erf(x/sqrt(2))"),) * 4)
    wrong = Program(program.name, program.inputs, program.lets, program.result * sympy.sqrt(program.inputs[0] - 100))
    with np.errstate(invalid="ignore"), pytest.raises(verify.VerificationError):
        verify.check(wrong, ("erf(x/sqrt(2))",) * 4)


def test_a_wrong_diffusion_is_caught():
    programs = KernelPrograms("x**2", "x**2")
    verify.verify(programs)
    right = programs.diffusion["cov_QM"]
    programs.diffusion["cov_QM"] = Program(right.name, right.inputs, right.lets, right.result * 2)
    with pytest.raises(verify.VerificationError, match="cov_QM"):
        verify.verify(programs)


def test_a_swapped_index_is_caught():
    program = derive("I3", (from_formula("x**3 - 3*x"),) * 3)
    C12, C13 = program.inputs[1:3]
    swap = {C12: C13, C13: C12}
    lets = tuple((target, expr.xreplace(swap)) for target, expr in program.lets)
    with pytest.raises(verify.VerificationError):
        verify.check(Program("I3", program.inputs, lets, program.result.xreplace(swap)), ("x**3 - 3*x",) * 3)


@given(random_formula(), random_formula(), covariances(2))
@settings(max_examples=25, deadline=None)
def test_price_identity(first, second, C):
    """∂ E[f g] / ∂C12 = E[f' g'], by complex-step-free high-precision differences."""
    f, g = from_formula(first), from_formula(second)
    value, slope = derive("I2", (f, g)), derive("J2", (f, g))
    C11, C12, C22 = (mp.mpf(x) for x in upper(C))
    with mp.workdps(40):
        step = mp.mpf(10) ** -12
        run = value.compile("mpmath")
        change = (run(C11, C12 + step, C22) - run(C11, C12 - step, C22)) / (2 * step)
        exact = slope.evaluate([C11, C12, C22])
        assert abs(change - exact) < 1e-15 * (1 + abs(exact))


@given(random_formula(), covariances(3))
@settings(max_examples=25, deadline=None)
def test_stein_identity(formula, C):
    """E[f'(x1) x2 f(x3)] = C12 E[f''(x1) f(x3)] + C23 E[f'(x1) f'(x3)]."""
    f = from_formula(formula)
    I3, J2, K2 = derive("I3", (f,) * 3), derive("J2", (f,) * 2), derive("K2", (f,) * 2)
    pair = [C[0, 0], C[0, 2], C[2, 2]]
    expected = C[0, 1] * K2.evaluate(pair, "numpy") + C[1, 2] * J2.evaluate(pair, "numpy")
    assert_allclose(I3.evaluate(upper(C), "numpy"), expected, rtol=1e-11, atol=1e-12)


@given(random_formula(), covariances(4))
@settings(max_examples=15, deadline=None)
def test_exchange_of_equal_factors(formula, C):
    I4 = derive("I4", (from_formula(formula),) * 4)
    value = I4.evaluate(upper(C), "numpy")
    for order in ([1, 0, 2, 3], [0, 1, 3, 2]):
        assert_allclose(I4.evaluate(upper(C[np.ix_(order, order)]), "numpy"), value, rtol=1e-10, atol=1e-12)


def test_independent_factors_factorise():
    f = from_formula("x**2 + exp(-x**2)")
    C = np.diag([0.7, 1.1])
    mean = [sum(w * (x**2 + np.exp(-(x**2))) for x, w in zip(*rule(v), strict=True)) for v in (0.7, 1.1)]
    assert_allclose(derive("I2", (f, f)).evaluate(upper(C), "numpy"), mean[0] * mean[1], rtol=1e-10)


def rule(variance):
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    return nodes * math.sqrt(variance), weights / math.sqrt(2 * math.pi)


@pytest.mark.parametrize("name", ["erf", "x2", "he3", "relu", "gelu", "sin"])
def test_twenty_digit_references(name, integrals):
    atoms = from_formula(integrals["activations"][name])
    for entry in integrals["values"]:
        if entry["activation"] != name:
            continue
        kind = entry["integral"]
        slots = int(kind[1])
        matrix = [[Fraction(x) for x in row] for row in integrals["matrices"][entry["matrix"]]]
        with mp.workdps(30):
            values = [
                mp.mpf(matrix[i][j].numerator) / matrix[i][j].denominator for i in range(slots) for j in range(i, slots)
            ]
            error = derive(kind, (atoms,) * slots).evaluate(values) - mp.mpf(entry["value"])
            assert abs(error) < mp.mpf(10) ** -18 * (1 + abs(mp.mpf(entry["value"])))


def test_six_signs_are_refused_with_the_reason():
    with pytest.raises(NotClosed, match="product of 6 factors erf, kink or jump"):
        _ = KernelPrograms("erf(x)**2", "erf(x)**2").expectations


def test_a_student_that_jumps_is_refused_with_the_reason():
    with pytest.raises(NotClosed, match=r"jumps.*can be a teacher"):
        _ = KernelPrograms("sign(x)", "x").expectations


@pytest.mark.parametrize("formula", ["3", "0 * x + 3"])
def test_a_constant_student_is_refused_with_the_reason(formula):
    with pytest.raises(NotClosed, match=r"is constant.*can be a teacher"):
        _ = KernelPrograms(formula, "x").expectations
    assert KernelPrograms("x", formula).expectations


KINKED = ["relu(x)", "abs(x)", "leaky_relu(x, 0.01)", "relu(x) + x**2"]


def partitions(count):
    """All ways to let some of ``count`` variables coincide."""
    if not count:
        yield []
        return
    for smaller in partitions(count - 1):
        for i in range(len(smaller)):
            yield [*smaller[:i], [*smaller[i], count - 1], *smaller[i + 1 :]]
        yield [*smaller, [count - 1]]


@pytest.mark.parametrize("formula", KINKED)
def test_coincident_indices_of_kinked_activations(formula):
    """I4 where variables coincide against the expectation of the merged variables, derived on its own."""
    value, slope = _functions(formula)
    compute = derive("I4", (from_formula(formula),) * 4).compile("numpy")
    rng = np.random.default_rng(4)
    for partition in partitions(4):
        merged = [sympy.Mul(*((slope, slope, value, value)[i] for i in block)) for block in partition]
        factors = [from_expression(factor) for factor in merged]
        direct = Derivation(len(partition)).program("merged", factors).compile("numpy")
        place = [next(n for n, block in enumerate(partition) if i in block) for i in range(4)]
        for _ in range(5):
            C = verify.random_covariance(rng, len(partition))
            got, expected = compute(*upper(C[np.ix_(place, place)])), direct(*upper(C))
            assert_allclose(got, expected, rtol=1e-12, atol=1e-12, err_msg=f"{partition}")


@pytest.mark.parametrize("formula", KINKED)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_singular_covariances_of_kinked_activations(formula, rank):
    """Four variables in a space of lower dimension, against Monte Carlo."""
    rng = np.random.default_rng(rank)
    x = variable()
    value, slope = (sympy.lambdify(x, e + 0 * x, "numpy") for e in _functions(formula))
    compute = derive("I4", (from_formula(formula),) * 4).compile("numpy")
    L = rng.normal(size=(4, rank))
    fields = rng.normal(size=(400_000, rank)) @ L.T
    factors = np.stack([f(field) for f, field in zip((slope, slope, value, value), fields.T, strict=True)])
    sample = factors.prod(axis=0)
    got = float(compute(*upper(L @ L.T)))
    size = np.sqrt((factors**2).mean(axis=1)).prod()  # the mean itself can be exactly zero
    assert abs(got - sample.mean()) < 4.5 * sample.std() / math.sqrt(len(sample)) + 1e-9 * size


def _functions(formula):
    atoms = from_formula(formula)
    return atoms.expression(), atoms.derivative().expression()


@pytest.mark.parametrize("formula", ["relu(x)", "gelu(x)", "abs(x)"])
def test_nearly_singular_covariances_of_kinked_activations(formula):
    program = derive("I4", (from_formula(formula),) * 4)
    compute = program.compile("numpy")
    rng = np.random.default_rng(8)
    for k in range(2, 13):
        L = rng.normal(size=(4, 5))
        L /= np.linalg.norm(L, axis=1, keepdims=True)
        rho = 1 - 10.0**-k
        L[3] = rho * L[2] + math.sqrt(1 - rho**2) * np.linalg.svd(L[:3])[2][-1]
        entries = upper(L @ L.T)
        with mp.workdps(40):
            exact = program.evaluate([mp.mpf(float(entry)) for entry in entries])
        assert abs(float(compute(*entries)) - float(exact)) < 1e-10


@pytest.mark.parametrize(
    ("student", "teacher", "orders"), [("x**2", "x**2", 10), ("x**3 - 3*x", "x", 14), ("x", "x**2 - 1", 8)]
)
def test_diffusion_against_gauss_hermite(student, teacher, orders):
    """Covariance of φ = 2a𝓔λ + γa²𝓔² and ψ = a𝓔λ*, exact by tensor quadrature over λ, λ* and z."""
    x = sympy.Symbol("x", real=True)
    functions = [sympy.lambdify(x, sympy.sympify(text, {"x": x}), "numpy") for text in (student, teacher)]
    slope = sympy.lambdify(x, sympy.diff(sympy.sympify(student, {"x": x}), x) + 0 * x, "numpy")
    nodes, weights = np.polynomial.hermite_e.hermegauss(16)
    weights = weights / weights.sum()
    g, h, z = np.meshgrid(nodes, nodes, nodes, indexing="ij")
    w = weights[:, None, None] * weights[:, None] * weights
    gamma, Delta, a, a_star = 0.3, 0.2, 0.7, 1.3
    Q, M, P = 0.8, -0.3, 1.2
    lam = math.sqrt(Q) * g
    star = M / math.sqrt(Q) * g + math.sqrt(P - M**2 / Q) * h
    error = a_star * functions[1](star) - a * functions[0](lam) + math.sqrt(Delta) * z
    scaled = slope(lam) * error
    phi, psi = 2 * a * scaled * lam + gamma * a**2 * scaled**2, a * scaled * star

    def cov(u, v):
        return (w * u * v).sum() - (w * u).sum() * (w * v).sum()

    programs = KernelPrograms(student, teacher).diffusion
    values = [Q, M, P, gamma, Delta, a, a_star]
    for name, expected in (("cov_QQ", cov(phi, phi)), ("cov_QM", cov(phi, psi)), ("cov_MM", cov(psi, psi))):
        assert_allclose(programs[name].evaluate(values, "numpy"), expected, rtol=1e-11)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [("sin(x)", "sin(x)"), ("cos(x)", "x**3 - 3*x"), ("exp(x/2)", "sin(2*x)"), ("x*sin(x)", "exp(-x**2)")],
)
def test_exponentials_and_waves_against_quadrature(student, teacher):
    certificates = verify.verify(KernelPrograms(student, teacher))
    assert max(certificate.error for certificate in certificates) < 1e-11


@pytest.mark.parametrize(
    ("student", "teacher"), [("tanh(x)", "tanh(x)"), ("sigmoid(x)", "x**2"), ("relu(x)", "tanh(2*x)")]
)
def test_mixtures_meet_their_stated_error(student, teacher):
    rendered = render(student, teacher)
    assert "mixture of 11 error functions" in rendered.route
    assert max(certificate.error for certificate in rendered.certificates) < 1e-9


def test_the_mixture_is_close_everywhere():
    x = np.linspace(-30, 30, 20001)
    approximation = sum(c * special.erf(k * x) for c, k in mixture.fit())
    assert np.abs(approximation - np.tanh(x)).max() < 1.1 * mixture.distance() < 1e-9


def test_a_tanh_in_another_place_is_refused():
    with pytest.raises(NotClosed, match=r"only c \+ a\*tanh\(b\*x\) has a certified mixture"):
        render("x*tanh(x)", "x")
    with pytest.raises(NotClosed, match=r"sigmoid has no closed expectations; only c \+ a\*sigmoid\(b\*x\)"):
        render("x*sigmoid(x)", "x")


def test_tanh_references_to_the_mixture_error(integrals):
    scope = {}
    exec(render("tanh(x)", "tanh(x)").files["kernel.py"], scope)
    for entry in integrals["values"]:
        if entry["activation"] == "tanh":
            slots = int(entry["integral"][1])
            rows = integrals["matrices"][entry["matrix"]]
            C = np.array([[float(Fraction(x)) for x in row] for row in rows])[:slots, :slots]
            assert abs(scope[entry["integral"]](*upper(C)) - float(entry["value"])) < 1e-9
