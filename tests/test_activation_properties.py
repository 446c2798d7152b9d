"""What holds for every activation: identities of Stein and Price, gradient flow, symmetries, agreement with sampling.

Activations are the built-in ones and random sums of atoms; covariances and overlaps are drawn by hypothesis.
"""

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hdsgd
from hdsgd import _bridge, _kernel

NAMES = sorted(set(_bridge.builtins()) - {"sign"})
HOMOGENEOUS = {"relu": 1, "leaky_relu": 1, "abs": 1, "linear": 1, "quadratic": 2, "cubic": 3}

SEEDS = st.integers(0, 2**32 - 1)
COEFFICIENTS = st.sampled_from(["0.5", "-0.3", "0.2", "-1", "1/3"])
RATES = st.sampled_from(["0.5", "0.8", "1", "1.3"])
ATOMS = st.sampled_from(
    [
        "x",
        "x**2",
        "x**3",
        "he3(x)",
        "erf({}*x)",
        "x*erf({}*x)",
        "exp(-{}*x**2/2)",
        "x*exp(-{}*x**2/2)",
        "sin({}*x)",
        "cos({}*x)",
        "exp({}*x/2)",
        "relu(x)",
        "abs(x)",
        "x*sin({}*x)",
    ]
)
TERMS = st.tuples(COEFFICIENTS, ATOMS, RATES).map(lambda parts: f"{parts[0]}*{parts[1].format(parts[2])}")
FORMULAS = st.lists(TERMS, min_size=2, max_size=2).map(" + ".join)

few = settings(max_examples=4, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
random_ones = settings(few, max_examples=6)


@cache
def functions(spec):
    """The derived expectations of one activation, for the upper triangle of a covariance."""
    activation = hdsgd.activation(spec)
    return _kernel.load(activation, activation, "numpy").module


def covariance(seed, size, scale=0.5):
    rng = np.random.default_rng(seed)
    loadings = rng.normal(size=(size, size + 1))
    loadings /= np.linalg.norm(loadings, axis=1, keepdims=True)
    deviations = np.sqrt(scale * rng.uniform(0.5, 1.2, size))
    return deviations[:, None] * (loadings @ loadings.T) * deviations


def upper(C):
    return [float(value) for value in C[np.triu_indices(len(C))]]


def sizes(module, C):
    """Root mean squares of σ and σ' that errors are measured by."""
    variances = [float(v) for v in np.diag(C)]
    return (
        max(math.sqrt(abs(module.I2(v, v, v))) for v in variances),
        max(math.sqrt(abs(module.J2(v, v, v))) for v in variances),
    )


def check_identities(spec, seed):
    module, C = functions(spec), covariance(seed, 4)
    value, slope = sizes(module, C)
    unit = value * slope + value**2 + slope**2 + 1e-12
    C11, C12, C22 = upper(C[:2, :2])
    step = 1e-5 * min(C11, C22) * (1 - C12**2 / (C11 * C22))

    # Price: dE[φ(x1) φ(x2)]/dC12 = E[φ' φ'], and /dC11 = E[φ'' φ]/2
    by_12 = (module.I2(C11, C12 + step, C22) - module.I2(C11, C12 - step, C22)) / (2 * step)
    by_11 = (module.I2(C11 + step, C12, C22) - module.I2(C11 - step, C12, C22)) / (2 * step)
    rounding = 1e-7 * unit + 1e-14 * value**2 / step
    assert by_12 == pytest.approx(module.J2(C11, C12, C22), abs=rounding)
    assert by_11 == pytest.approx(module.K2(C11, C12, C22) / 2, abs=rounding)

    # Stein: E[φ'(x1) x2 φ(x3)] = C12 E[φ''(x1) φ(x3)] + C23 E[φ'(x1) φ'(x3)]
    a, b, c, _, e, f = upper(C[:3, :3])
    stein = b * module.K2(a, c, f) + e * module.J2(a, c, f)
    assert module.I3(*upper(C[:3, :3])) == pytest.approx(stein, abs=1e-11 * unit)

    # independent pairs: the expectation of four factors is a product
    apart = C.copy()
    apart[:2, 2:] = apart[2:, :2] = 0.0
    product = module.J2(*upper(C[:2, :2])) * module.I2(*upper(C[2:, 2:]))
    assert module.I4(*upper(apart)) == pytest.approx(product, abs=1e-10 * unit**2)

    # the first two and the last two factors can be exchanged
    whole = module.I4(*upper(C))
    for order in ([1, 0, 2, 3], [0, 1, 3, 2]):
        assert module.I4(*upper(C[np.ix_(order, order)])) == pytest.approx(whole, abs=1e-11 * unit**2)


def check_sampling(spec, seed, count=60_000):
    """Closed forms and mixtures agree with Monte Carlo: within 5 standard errors."""
    activation = hdsgd.activation(spec)
    kernel = _kernel.load(activation, activation, "numpy")
    C = covariance(seed, 4, 0.4)
    x = np.random.default_rng(seed + 1).multivariate_normal(np.zeros(4), C, count).T
    value, slope = kernel.sigma(x), kernel.dsigma(x)
    for name, samples in (
        ("I2", value[0] * value[1]),
        ("J2", slope[0] * slope[1]),
        ("I3", slope[0] * x[1] * value[2]),
        ("I4", slope[0] * slope[1] * value[2] * value[3]),
    ):
        size = {"I2": 2, "J2": 2, "I3": 3, "I4": 4}[name]
        exact = hdsgd.integral(name, activation, C[:size, :size])
        assert abs(samples.mean() - exact) <= 5 * samples.std() / math.sqrt(count) + 1e-12, name


def states(seed, spread=1.0):
    rng = np.random.default_rng(seed)
    W, W_star = spread * rng.normal(size=(3, 8)) / 2, rng.normal(size=(2, 8)) / 2
    return hdsgd.Overlaps.from_weights(W, W_star, a=rng.normal(size=3), a_star=rng.normal(size=2))


def check_flow(spec, seed):
    """Along gradient flow dR/dt = −(1/p) Σ_j a_j² G_j Ω⁻¹ G_j: minus p d times the squared norm of the gradient."""
    problem = hdsgd.Problem(spec, gamma=0.0)
    dynamics = hdsgd.Dynamics(problem, "numpy")
    state = states(seed)
    drift = dynamics.drift(state)
    h = 1e-6 / max(np.abs(drift.dQ).max(), np.abs(drift.dM).max(), 1.0)

    def risk(sign):
        moved = hdsgd.Overlaps(
            state.Q + sign * h * drift.dQ, state.M + sign * h * drift.dM, state.P, state.a, state.a_star
        )
        return dynamics.risk(moved)

    measured = (risk(1) - risk(-1)) / (2 * h)
    kernel = _kernel.load(problem.student, problem.student, "numpy")
    G = kernel.gradients(state.Q[None], state.M[None], state.P, state.a[None], state.a_star)[0]
    Omega = np.block([[state.Q, state.M], [state.M.T, state.P]])
    norm = np.einsum("j,jb,bj->", state.a**2, G, np.linalg.solve(Omega, G.T)) / 3
    assert norm >= 0.0
    assert measured == pytest.approx(-norm, rel=2e-5, abs=3e-15 * dynamics.risk(state) / h + 1e-9)


def check_permutations(spec, seed):
    """Students can be renamed: drift, noise and risk follow."""
    state = states(seed)
    order, teachers = [2, 0, 1], [1, 0]
    renamed = hdsgd.Overlaps(
        state.Q[np.ix_(order, order)],
        state.M[np.ix_(order, teachers)],
        state.P[np.ix_(teachers, teachers)],
        state.a[order],
        state.a_star[teachers],
    )
    dynamics = hdsgd.Dynamics(hdsgd.Problem(spec, gamma=0.3, Delta=0.1), "numpy")
    before, after = dynamics.drift(state), dynamics.drift(renamed)
    size = max(np.abs(before.dQ).max(), np.abs(before.dM).max())
    np.testing.assert_allclose(after.dQ, before.dQ[np.ix_(order, order)], atol=1e-11 * size, rtol=0)
    np.testing.assert_allclose(after.dM, before.dM[np.ix_(order, teachers)], atol=1e-11 * size, rtol=0)
    N = dynamics.noise(state)
    np.testing.assert_allclose(dynamics.noise(renamed), N[np.ix_(order, order)], atol=1e-11 * np.abs(N).max(), rtol=0)
    assert dynamics.risk(renamed) == pytest.approx(dynamics.risk(state), rel=1e-11)


CHECKS = [check_identities, check_sampling, check_flow, check_permutations]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_built_in_activations(name, check):
    examples = 1 if name == "tanh" else 4  # its numpy noise sums ten thousand terms for each entry
    given(SEEDS)(settings(few, max_examples=examples)(lambda seed: check(name, seed)))()


@given(FORMULAS, SEEDS)
@random_ones
def test_random_activations(formula, seed):
    for check in CHECKS:
        check(formula, seed)


@pytest.mark.parametrize("name", HOMOGENEOUS)
def test_homogeneous_activations(name):
    degree = HOMOGENEOUS[name]

    @few
    @given(SEEDS, st.floats(0.1, 10.0))
    def scaled(seed, factor):
        C = covariance(seed, 4)
        for kind, size, power in (("I2", 2, 2 * degree), ("J2", 2, 2 * degree - 2), ("I3", 3, 2 * degree)):
            value = hdsgd.integral(kind, name, C[:size, :size])
            assert hdsgd.integral(kind, name, factor**2 * C[:size, :size]) == pytest.approx(
                factor**power * value, rel=1e-10
            )
        value = hdsgd.integral("I4", name, C)
        assert hdsgd.integral("I4", name, factor**2 * C) == pytest.approx(
            factor ** (4 * degree - 2) * value, rel=1e-9, abs=1e-12 * factor ** (4 * degree - 2)
        )

    scaled()


def test_the_checks_can_fail(monkeypatch):
    """A kernel with one wrong coefficient passes none of them."""
    module = functions("he3")
    right = module.J2
    with monkeypatch.context() as patch:
        patch.setattr(module, "J2", lambda *entries: 1.001 * right(*entries))
        for check in (check_identities, check_flow):
            with pytest.raises(AssertionError):
                check("he3", 7)
    wrong = module.I4
    monkeypatch.setattr(module, "I4", lambda *entries: wrong(*entries) + 0.1)
    with pytest.raises(AssertionError):
        check_identities("he3", 7)
