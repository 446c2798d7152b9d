"""Any pair of activations: exponentials and waves beside error functions and kinks, by routes that use no rule."""

import itertools
import math

import mpmath as mp
import numpy as np
import pytest
import sympy
from numpy.testing import assert_allclose

import hdsgd
from hdsgd.derivations import verify
from hdsgd.derivations.activations import BUILTINS
from hdsgd.derivations.atoms import NotClosed, from_expression, from_formula
from hdsgd.derivations.exact import MPMATH
from hdsgd.derivations.functions import numpy_namespace
from hdsgd.derivations.generate import render
from hdsgd.derivations.kernels import KernelPrograms, derive
from hdsgd.derivations.parse import variable
from hdsgd.derivations.rules import Derivation

PAIRS = [
    "relu/sin",
    "relu/cos",
    "relu/exp",
    "gelu/cos",
    "abs/exp",
    "sin/relu",
    "exp/abs",
    "erf/sin",
    "cos/gelu",
    "exp/erf",
    "sin/sign",
    "gaussian/exp",
    "normcdf/cos",
]
MIXED = ["tanh/sin", "relu/tanh", "tanh/exp", "tanh/abs", "cos/tanh"]
STUDENTS = [name for name, entry in BUILTINS.items() if entry.student]


def formulas(pair):
    return tuple(BUILTINS[name].formula for name in pair.split("/"))


def upper(C):
    return C[np.triu_indices(len(C))]


@pytest.mark.parametrize("pair", PAIRS)
def test_pairs_against_quadrature(pair):
    certificates = verify.verify(KernelPrograms(*formulas(pair)))
    assert max(certificate.error for certificate in certificates) < 1e-12


@pytest.mark.parametrize("pair", MIXED)
def test_mixtures_against_quadrature(pair):
    rendered = render(*formulas(pair))
    assert "mixture" in rendered.route
    assert max(certificate.error for certificate in rendered.certificates) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("student", STUDENTS)
def test_every_pair_against_quadrature(student):
    for teacher in BUILTINS:
        rendered = render(BUILTINS[student].formula, BUILTINS[teacher].formula)
        assert max(certificate.error for certificate in rendered.certificates) < 1e-9, teacher


def sample(kind, count, scale, rng):
    """A covariance of ``count`` signs and z, and the arguments of the base function."""
    return entries_of(scale * verify.random_covariance(rng, count + 1))


def entries_of(C):
    count = len(C) - 1
    links, own = C[:count, count], C[range(count), range(count)]
    return C, (*links, *own, *(C[i, j] for i, j in itertools.combinations(range(count), 2)))


@pytest.mark.parametrize("kind", [1, -1])
@pytest.mark.parametrize(("name", "count"), [("onesign", 1), ("twosigns", 2), ("threesigns", 3)])
def test_signs_beside_waves_against_sampling(kind, name, count):
    rng = np.random.default_rng(count)
    C, entries = sample(kind, count, 1.0, rng)
    fields = rng.normal(size=(400_000, count + 1)) @ np.linalg.cholesky(C).T
    z = fields[:, -1]
    wave = np.exp(z) if kind > 0 else np.sin(z) if count % 2 else np.cos(z)
    drawn = wave * np.sign(fields[:, :count]).prod(axis=1)
    value = numpy_namespace()[name](kind, kind * C[-1, -1] / 2, *entries)
    assert abs(value - drawn.mean()) < 4.5 * drawn.std() / math.sqrt(len(drawn))


@pytest.mark.parametrize("kind", [1, -1])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 30.0])
def test_signs_beside_waves_to_rounding(kind, scale):
    """Against the same integrals in 25 digits; a third of the waves lies in the span of the signs."""
    rng = np.random.default_rng(5)
    for (name, count), spanned in itertools.product((("onesign", 1), ("twosigns", 2), ("threesigns", 3)), (0, 1)):
        C, entries = sample(kind, count, scale, rng)
        own = C[:count, -1] @ np.linalg.solve(C[:count, :count], C[:count, -1]) if spanned else C[-1, -1]
        E = 0.0 if kind > 0 else -own / 2
        with mp.workdps(25):
            exact = MPMATH[name](kind, mp.mpf(float(E)), *(mp.mpf(float(entry)) for entry in entries))
        size = 1.0 if kind > 0 or spanned else math.sqrt(min(scale, 1.0)) ** (count % 2)
        assert abs(float(numpy_namespace()[name](kind, E, *entries)) - float(exact)) < 5e-15 * size


@pytest.mark.parametrize("kind", [1, -1])
@pytest.mark.parametrize("k", [4, 8, 12])
def test_nearly_coincident_signs_lose_only_what_rounded_correlations_cost(kind, k):
    """Correlations ±(1 − 10^−k): asin itself loses eps·10^(k/2) there."""
    rng = np.random.default_rng(k)
    for (name, count), side in itertools.product((("twosigns", 2), ("threesigns", 3)), (1, -1)):
        L = rng.normal(size=(count + 1, 5))
        L[1] = side * L[0] + 10.0 ** (-k / 2) * L[1]
        if count == 3:
            L[2] = L[0] + 10.0 ** (-k / 2) * L[2]
        C = L @ L.T
        _, entries = entries_of(C)
        E = 0.0 if kind > 0 else -C[-1, -1] / 2
        with mp.workdps(40):
            exact = MPMATH[name](kind, mp.mpf(float(E)), *(mp.mpf(float(entry)) for entry in entries))
        assert abs(float(numpy_namespace()[name](kind, E, *entries)) - float(exact)) < 5e-16 * 10 ** (k / 2)


COINCIDENT = [("relu(x)", "sin(x)"), ("relu(x)", "exp(x)"), ("abs(x)", "cos(x)"), ("gelu(x)", "cos(x)")]
COINCIDENT += [(teacher, student) for student, teacher in COINCIDENT]


def factors_of(student, teacher, block):
    """Expressions of the four factors, σ'(1) σ'(2) φ_a(3) φ_b(4)."""
    s, t = from_formula(student), from_formula(teacher)
    slope = s.derivative().expression()
    return [slope, slope, *(s.expression() if letter == "s" else t.expression() for letter in block)]


@pytest.mark.parametrize(("student", "teacher"), COINCIDENT)
@pytest.mark.parametrize("block", ["st", "tt"])
def test_coincident_indices(student, teacher, block):
    """I4 where variables coincide against the expectation of the merged variables, derived on its own."""
    letters = ("s", "s", *block)
    compute = derive("I4", tuple(from_formula(student if c == "s" else teacher) for c in letters)).compile("numpy")
    expressions = factors_of(student, teacher, block)
    rng = np.random.default_rng(4)
    for places in verify.coincidences(4):
        merged = [
            sympy.Mul(*(f for f, u in zip(expressions, places, strict=True) if u == n)) for n in range(max(places) + 1)
        ]
        try:
            program = Derivation(len(merged)).program("merged", [from_expression(factor) for factor in merged])
        except NotClosed:  # a merged product such as exp(x) cos(x) beside a sign
            continue
        C = verify.random_covariance(rng, len(merged))
        got, expected = compute(*upper(C[np.ix_(places, places)])), program.compile("numpy")(*upper(C))
        assert_allclose(got, expected, rtol=1e-11, atol=1e-12, err_msg=f"{places}")


@pytest.mark.parametrize(("student", "teacher"), COINCIDENT)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_singular_covariances(student, teacher, rank):
    """Four variables in a space of lower dimension, against sampling."""
    rng = np.random.default_rng(rank)
    activations = tuple(from_formula(f) for f in (student, student, student, teacher))
    compute = derive("I4", activations).compile("numpy")
    x = variable()
    functions = [sympy.lambdify(x, factor, ["scipy", "numpy"]) for factor in factors_of(student, teacher, "st")]
    L = 0.6 * rng.normal(size=(4, rank))
    fields = rng.normal(size=(400_000, rank)) @ L.T
    values = np.stack([f(field) for f, field in zip(functions, fields.T, strict=True)])
    drawn = values.prod(axis=0)
    size = np.sqrt((values**2).mean(axis=1)).prod()
    assert abs(float(compute(*upper(L @ L.T))) - drawn.mean()) < 4.5 * drawn.std() / math.sqrt(len(drawn)) + 1e-9 * size


@pytest.mark.parametrize("pair", PAIRS)
def test_no_covariance_makes_a_nan(pair):
    """Correlations up to 1 - 1e-12, norms from 1e-6 to 1e6, fewer dimensions than variables."""
    rng = np.random.default_rng(9)
    programs = KernelPrograms(*formulas(pair)).expectations
    computed = {name: (program.compile("numpy"), len(program.inputs)) for name, program in programs.items()}
    for k, norm, rank in itertools.product((2, 7, 12), (1e-6, 1.0, 1e6), (1, 2, 5)):
        L = rng.normal(size=(4, rank))
        L /= np.linalg.norm(L, axis=1, keepdims=True)
        L[1:3] = L[0] + 10.0 ** (-k / 2) * L[1:3]
        C = norm * L @ L.T
        for name, (compute, entries) in computed.items():
            slots = {3: 2, 6: 3, 10: 4}[entries]
            with np.errstate(over="ignore"):
                value = float(compute(*upper(C[:slots, :slots])))
            assert not math.isnan(value), (name, k, norm, rank)
            assert math.isfinite(value) or ("exp" in pair and norm > 1), (name, k, norm, rank)


def test_nothing_overflows_before_the_value_does():
    """E[exp(x1) relu'(x2)] tends to zero where the exponential alone overflows."""
    program = Derivation(2).program("far", [from_formula("exp(x)"), from_formula("relu(x)").derivative()])
    assert program.evaluate([1500.0, -1500.0, 1500.0], "numpy") == 0.0
    assert program.evaluate([1500.0, 0.0, 1.0], "numpy") == math.inf


def test_growth_beside_a_wave_and_a_sign_is_refused_with_the_reason():
    with pytest.raises(NotClosed, match="an exponential and a wave beside signs"):
        _ = KernelPrograms("exp(x)*sin(x)", "sign(x)").expectations


def test_four_signs_beside_a_wave_are_refused_with_the_reason():
    with pytest.raises(NotClosed, match="4 signs beside exp, sin or cos"):
        _ = KernelPrograms("relu(x)*sin(x)", "x").expectations


@pytest.mark.needs_cc
@pytest.mark.parametrize("pair", PAIRS)
def test_compiled_fields_agree_with_numpy(pair):
    student, teacher = pair.split("/")
    problem = hdsgd.Problem(activation=student, teacher_activation=teacher, Delta=0.1)
    compiled, reference = (hdsgd.Dynamics(problem, backend=backend) for backend in ("c", "numpy"))
    rng = np.random.default_rng(0)
    for p, k in ((1, 1), (2, 1), (3, 2)):
        state = hdsgd.Overlaps.random(p, k, 30, rng=rng)
        for what in ("risk", "noise"):
            assert_allclose(getattr(compiled, what)(state), getattr(reference, what)(state), rtol=1e-12, atol=1e-12)
        for ours, theirs in zip(compiled.drift(state), reference.drift(state), strict=True):
            assert np.isfinite(ours).all()
            assert_allclose(ours, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("formula", ["abs(x)**2", "max(x, 0)**2 + min(x, 0)**2"])
def test_a_polynomial_written_with_kinks_is_one(formula):
    """The square of a sign is 1, for the derivation of the increments and its check, too."""
    state = hdsgd.Overlaps.random(2, 1, 50, rng=0)
    words, plain = (
        hdsgd.Dynamics(hdsgd.Problem(text, gamma=0.1, Delta=0.1), backend="numpy") for text in (formula, "x**2")
    )
    np.testing.assert_allclose(words.drift(state).dQ, plain.drift(state).dQ, rtol=1e-12)
    np.testing.assert_allclose(words.diffusion(state)[0], plain.diffusion(state)[0], rtol=1e-9)
