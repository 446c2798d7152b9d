"""Kernels against the independent quadrature, at random, coincident, nearly degenerate and singular covariances.

Errors of at most 1e-12 in float64 (tanh 1e-9), 20 digits in multiprecision, and a stated bound that holds.
"""

import itertools

import numpy as np
import pytest

import hdsgd
from hdsgd import _bridge, _kernel
from hdsgd.derivations import certify as certificates
from hdsgd.derivations.certify import adversarial, certify, rounding_error
from hdsgd.derivations.kernels import FACTORS, KernelPrograms
from hdsgd.derivations.program import Program
from hdsgd.derivations.verify import VerificationError, errors, factors_of, random_cases

NAMES = sorted(set(_bridge.builtins()) - {"sign"})
ERF, GELU, RELU, LEAKY = "erf(x/sqrt(2))", "gelu(x)", "relu(x)", "leaky_relu(x, 0.2)"


def checked_in(name):
    """The functions of the generated module that every solver runs."""
    activation = hdsgd.activation(name)
    module = _kernel.load(activation, activation, "numpy").module
    return {kind: getattr(module, kind) for kind in FACTORS}


@pytest.mark.parametrize("name", NAMES)
def test_every_built_in_at_distinct_and_coincident_indices(name):
    rng = np.random.default_rng(1)
    for kind, compute in checked_in(name).items():
        factors = factors_of(kind, (_bridge.builtins()[name],) * len(FACTORS[kind]))
        cases = list(random_cases(factors, rng, 2))
        assert errors(compute, factors, cases).max() < (1e-9 if name == "tanh" else 1e-12), kind


@pytest.mark.parametrize("formula", [ERF, "x**3 - 3*x", "exp(x)"])
def test_certify(formula):
    seen = []
    report = certify(formula, formula, progress=seen.append, covariances=4, exact=1)
    assert seen[-1] == 1.0
    assert [one.name for one in report.expectations] == list(FACTORS)
    assert all(one.error < 1e-12 for one in report.expectations)
    assert all(one.digits >= 20 for one in report.expectations)
    assert [(one.covariances, one.exact_covariances) for one in report.expectations] == [(8, 2)] * 5
    text = str(report)
    assert all(one.name in text and str(one.bound) in text for one in report.expectations)
    assert max(map(len, text.splitlines())) <= 120
    # no footnote on what is not shown
    assert ("delta: " in text) == any(one.bound.b > 0 for one in report.expectations)
    assert ("s: largest" in text) == any(one.bound.c > 0 for one in report.expectations)
    assert report.as_dict()["expectations"][0]["name"] == "I2"


def test_certify_a_pair_with_a_jump():
    report = certify(ERF, "sign(x)", covariances=2, exact=1)
    assert all(one.error < 1e-12 and one.digits >= 20 for one in report.expectations)


def test_a_wrong_program_is_not_certified(monkeypatch):
    """An error of 1e-15 passes every check in float64, but not that of the digits."""
    right = KernelPrograms(ERF, ERF).expectations["J2"]
    wrong = Program("J2", right.inputs, right.lets, right.result * (1 + 10**-15))
    programs = {"J2": wrong}
    monkeypatch.setattr(KernelPrograms, "expectations", property(lambda self: programs))
    monkeypatch.setattr(KernelPrograms, "blocks", lambda self: {"J2": ("s", "s")})
    with pytest.raises(VerificationError, match=r"J2 agrees with its quadrature to 1[45]"):
        certify(ERF, ERF, covariances=2, exact=1)


def test_a_mixture_needs_its_functions():
    with pytest.raises(ValueError, match="pass the functions"):
        certify("tanh(x)", "tanh(x)")


def bound_holds(formula, kinds, functions=None, teacher=None, repeats=3):
    """The stated bound at other random adversarial covariances than those it was measured on."""
    source = KernelPrograms(formula, teacher or formula)
    for subject in certificates._subjects(source, functions):
        if subject.name[:2] not in kinds:
            continue
        steepness = max(1.0, *(f.steepness for f in subject.factors))
        _, bound = certificates._rounding(subject, np.random.default_rng(20), 1e-15)
        for seed in range(repeats):
            for label, loadings in adversarial(np.random.default_rng([seed, 5]), len(subject.factors)):
                error = rounding_error(subject, loadings)
                assert error <= bound.at(loadings, steepness), (subject.name, label, error)


@pytest.mark.parametrize("formula", [ERF, "he3(x)", "sin(x)", "cos(x)", "exp(x)", "exp(-x**2/2)"])
def test_the_stated_bound_holds(formula):
    bound_holds(formula, FACTORS)


@pytest.mark.parametrize("formula", [RELU, GELU, "abs(x)"])
def test_the_stated_bound_holds_for_kinked_functions_of_few_variables(formula):
    bound_holds(formula, ("I2", "J2", "K2", "I3"))


@pytest.mark.slow
@pytest.mark.parametrize("formula", [RELU, GELU, "abs(x)"])
def test_the_stated_bound_holds_for_four_signs(formula):
    bound_holds(formula, ("I4",), repeats=1)


def sectors(angles):
    """E[relu'(x1) relu'(x2) relu(x3) relu(x4)] for x_i = r cos(θ − angle_i) in a plane, sector by sector."""
    total = 0.0
    edges = np.sort(np.concatenate([angles + np.pi / 2, angles - np.pi / 2]) % (2 * np.pi))
    for low, high in itertools.pairwise([*edges, edges[0] + 2 * np.pi]):
        if (np.cos((low + high) / 2 - angles) > 0).all():
            third, fourth = angles[2], angles[3]
            ends = [t / 2 * np.cos(third - fourth) + np.sin(2 * t - third - fourth) / 4 for t in (low, high)]
            total += (ends[1] - ends[0]) / np.pi  # E r² = 2, of 2π
    return total


@pytest.mark.parametrize("near", [False, True])
def test_four_fields_in_a_plane(near):
    """Distinct fields of which any two determine the others, as from students in the plane of two teachers."""
    rng = np.random.default_rng(6)
    angles = rng.uniform(0, 2 * np.pi, size=(300, 4))
    if near:
        angles[:, 1] = angles[:, 0] + rng.choice([0, np.pi], 300) + 10 ** rng.uniform(-7, 0, 300)
    L = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    C = L @ L.swapaxes(1, 2)
    value = KernelPrograms(RELU, RELU).expectations["I4"].compile("numpy")(*C[:, *np.triu_indices(4)].T)
    error = np.abs(value - [sectors(row) for row in angles])
    assert error.max() < (3e-7 if near else 1e-10)  # the covariance itself is rounded: the root of 1e-16


@pytest.mark.needs_cc
@pytest.mark.parametrize("formula", [LEAKY, "erf(x/2)"])
def test_c_and_numpy_agree_at_degenerate_overlaps(formula):
    """Students in the span of the teachers, students equal to teachers, zero rows, and nearly so; never NaN."""
    problem = hdsgd.Problem(formula, Delta=0.01)
    c, reference = (hdsgd.Dynamics(problem, backend=backend) for backend in ("c", "numpy"))
    rng = np.random.default_rng(2)
    d = 12
    for rank in (1, 2, 3):
        W_star = np.sqrt(d) * np.linalg.qr(rng.normal(size=(d, rank)))[0].T
        A = rng.normal(size=(4, rank))
        A /= np.linalg.norm(A, axis=1, keepdims=True)
        for apart in (0.0, 1e-6, 1e-5, 1e-3):
            W = A @ W_star
            W[0] = W_star[0]
            W[1] = 0.0 if apart == 0.0 else W[2]
            state = hdsgd.Overlaps.from_weights(W + apart * rng.normal(size=W.shape), W_star)
            for name in ("noise", "risk"):
                got, expected = (np.asarray(getattr(dynamics, name)(state)) for dynamics in (c, reference))
                assert np.isfinite(got).all()
                assert np.abs(got - expected).max() <= 1e-6 * max(1.0, np.abs(expected).max()), (rank, apart)
            drifts = [dynamics.drift(state) for dynamics in (c, reference)]
            np.testing.assert_allclose(drifts[0].dQ, drifts[1].dQ, rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(drifts[0].dM, drifts[1].dM, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_full_certificates(name):
    """50 covariances in float64 and 5 in multiprecision, of distinct indices and as many of coincident ones."""
    formula = _bridge.builtins()[name]
    report = certify(formula, formula, functions=checked_in(name))
    for one in report.expectations:
        assert one.error < (1e-9 if name == "tanh" else 1e-12), one
        assert one.digits is None if name == "tanh" else one.digits >= 20, one
        assert one.covariances == 100


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_fifty_covariances_for_each_way_to_coincide(name):
    rng = np.random.default_rng(3)
    for kind, compute in checked_in(name).items():
        factors = factors_of(kind, (_bridge.builtins()[name],) * len(FACTORS[kind]))
        every = errors(compute, factors, list(random_cases(factors, rng, 10 if name == "tanh" else 50)))
        assert every.max() < (1e-9 if name == "tanh" else 1e-12), kind
