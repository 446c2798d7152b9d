"""Risk, drift, noise and diffusion: symmetries, limits, Monte Carlo, references, and numpy against C."""

import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import hdsgd

MATCHED = ["erf", "quadratic", "he2", "he3", "cubic", "linear"]
PAIRS = [
    *((name, name) for name in (*MATCHED, "relu", "gelu", "gaussian")),
    ("erf", "he3"),
    ("he3", "erf"),
    ("quadratic", "linear"),
    ("erf", "sign"),
    ("relu", "abs"),
]
BACKENDS = [pytest.param("c", marks=pytest.mark.needs_cc), "numpy"]
seeds = st.integers(0, 2**32 - 1)
widths = st.tuples(st.integers(1, 5), st.integers(1, 4))


def random_state(rng, p, k, d=12, replicas=None, units=True):
    lead = () if replicas is None else (replicas,)
    W, W_star = rng.normal(size=(*lead, p, d)), rng.normal(size=(k, d))
    a = rng.normal(size=(*lead, p)) if units else None
    return hdsgd.Overlaps.from_weights(W, W_star, a, rng.normal(size=k) if units else None)


def fields(problem, state, backend="numpy"):
    dyn = hdsgd.Dynamics(problem, backend)
    return dyn.risk(state), *dyn.drift(state), dyn.noise(state)


@given(seeds, widths, st.sampled_from(PAIRS))
@settings(max_examples=40, deadline=None)
def test_permutation_of_units(seed, width, pair):
    rng = np.random.default_rng(seed)
    p, k = width
    state = random_state(rng, p, k)
    s, r = rng.permutation(p), rng.permutation(k)
    moved = hdsgd.Overlaps(
        state.Q[np.ix_(s, s)], state.M[np.ix_(s, r)], state.P[np.ix_(r, r)], state.a[s], state.a_star[r]
    )
    problem = hdsgd.Problem(*pair, gamma=0.4, Delta=0.1, weight_decay=0.3, second_layer_ratio=0.7)
    risk, dQ, dM, da, N = fields(problem, state)
    risk2, dQ2, dM2, da2, N2 = fields(problem, moved)
    scale = np.abs(N).max()
    assert_allclose(da2, da[s], rtol=1e-10, atol=1e-12 * scale)
    assert_allclose(risk2, risk, rtol=1e-10)
    assert_allclose(dQ2, dQ[np.ix_(s, s)], rtol=1e-10, atol=1e-12 * scale)
    assert_allclose(dM2, dM[np.ix_(s, r)], rtol=1e-10, atol=1e-12 * scale)
    assert_allclose(N2, N[np.ix_(s, s)], rtol=1e-10, atol=1e-12 * scale)


@given(seeds, widths, st.sampled_from(["erf", "he3", "cubic", "linear"]))
@settings(max_examples=25, deadline=None)
def test_sign_flip_of_an_odd_unit(seed, width, name):
    """(w, a) → (−w, −a) leaves an odd student as it is."""
    rng = np.random.default_rng(seed)
    state = random_state(rng, *width)
    flip = np.ones(width[0])
    flip[0] = -1
    moved = hdsgd.Overlaps(
        flip[:, None] * state.Q * flip, flip[:, None] * state.M, state.P, flip * state.a, state.a_star
    )
    problem = hdsgd.Problem(name, gamma=0.4, Delta=0.1, second_layer_ratio=0.7)
    risk, dQ, dM, da, _ = fields(problem, state)
    risk2, dQ2, dM2, da2, _ = fields(problem, moved)
    scale = np.abs(dQ).max()
    assert_allclose(risk2, risk, rtol=1e-10)
    assert_allclose(flip[:, None] * dQ2 * flip, dQ, atol=1e-11 * scale)
    assert_allclose(flip[:, None] * dM2, dM, atol=1e-11 * scale)
    assert_allclose(flip * da2, da, atol=1e-11 * scale)


@given(seeds, st.integers(1, 4), st.integers(2, 4))
@settings(max_examples=25, deadline=None)
def test_rotation_of_a_quadratic_teacher(seed, p, k):
    """Σ_r (w_r·x)² does not change when an orthogonal matrix mixes the teacher's rows."""
    rng = np.random.default_rng(seed)
    state = random_state(rng, p, k, units=False)
    rotation, _ = np.linalg.qr(rng.normal(size=(k, k)))
    moved = hdsgd.Overlaps(state.Q, state.M @ rotation, rotation.T @ state.P @ rotation)
    problem = hdsgd.Problem("quadratic", gamma=0.4, Delta=0.1)
    risk, dQ, dM, _, _ = fields(problem, state)
    risk2, dQ2, dM2, _, _ = fields(problem, moved)
    assert_allclose(risk2, risk, rtol=1e-10, atol=1e-12)
    assert_allclose(dQ2, dQ, rtol=1e-9, atol=1e-11 * np.abs(dQ).max())
    assert_allclose(dM2, dM @ rotation, rtol=1e-9, atol=1e-11 * np.abs(dM).max())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", MATCHED)
def test_student_equal_to_teacher_learns_nothing(name, backend):
    rng = np.random.default_rng(3)
    W = rng.normal(size=(3, 10))
    state = hdsgd.Overlaps.from_weights(W, W)
    risk, dQ, dM, da, _ = fields(hdsgd.Problem(name, gamma=0.5, second_layer_ratio=1.0), state, backend)
    N = hdsgd.Dynamics(hdsgd.Problem(name, Delta=1.0), backend).noise(state)
    scale = np.abs(N).max() ** 2
    assert 0 <= risk < 1e-12 * scale
    assert_allclose(dQ, 0, atol=1e-11 * scale)
    assert_allclose(dM, 0, atol=1e-11 * scale)
    assert_allclose(da, 0, atol=1e-11 * scale)


@given(seeds, widths, st.sampled_from(PAIRS), st.sampled_from([0.0, 0.4]))
@settings(max_examples=25, deadline=None)
def test_gradient_flow_descends_by_the_squared_gradient(seed, width, pair, ratio):
    """dR/dt = −(1/p) Σ_j [a_j² (G Ω⁻¹ Gᵀ)_jj + (γ_a/γ) E[σ(u_j) e]²] along the flow of γ = 0."""
    rng = np.random.default_rng(seed)
    state = random_state(rng, *width)
    dyn = hdsgd.Dynamics(hdsgd.Problem(*pair, gamma=0.0, second_layer_ratio=ratio), "numpy")
    system = dyn.system(state)
    y = system.pack(state)
    flow = system.rhs(0.0, y)
    step = 1e-5 / max(1.0, np.abs(flow).max())
    slope = (system.risk(y + step * flow) - system.risk(y - step * flow)) / (2 * step)
    G = dyn.kernel.gradients(state.Q[None], state.M[None], state.P, state.a[None], state.a_star)[0]
    squared = np.einsum("jb,jb->j", G, np.linalg.solve(state.Omega, G.T).T)
    second = np.sum(dyn.drift(state).da ** 2) / ratio if ratio else 0.0
    rounding = 1e-9 * system.risk(y)  # of the difference quotient
    assert_allclose(slope, -(np.sum(state.a**2 * squared) + second) / state.p, rtol=1e-5, atol=rounding)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "pair",
    [("erf", "erf"), ("he3", "erf"), ("quadratic", "quadratic"), ("erf", "he2"), ("relu", "relu"), ("gelu", "sign")],
)
def test_fields_against_monte_carlo(pair, backend):
    rng = np.random.default_rng(11)
    state = random_state(rng, 3, 2)
    problem = hdsgd.Problem(*pair, gamma=0.3, Delta=0.2, second_layer_ratio=0.5)
    dyn = hdsgd.Dynamics(problem, backend)
    kernel = dyn.kernel
    samples = 400_000
    u = rng.normal(size=(samples, 5)) @ np.linalg.cholesky(state.Omega).T
    lam, star = u[:, :3], u[:, 3:]
    clean = kernel.sigma_star(star) @ state.a_star / 2 - kernel.sigma(lam) @ state.a / 3
    error = clean + np.sqrt(0.2) * rng.normal(size=samples)
    scaled = kernel.dsigma(lam) * error[:, None]

    def agrees(value, products):
        mean, spread = products.mean(axis=0), products.std(axis=0) / np.sqrt(samples)
        assert np.all(np.abs(value - mean) < 4.5 * spread)

    agrees(dyn.risk(state), 0.5 * clean**2)
    agrees(dyn.noise(state), scaled[:, :, None] * scaled[:, None, :])
    drift = dyn.drift(state)
    agrees(drift.da, 0.5 * kernel.sigma(lam) * error[:, None])
    scaled = scaled * state.a
    agrees(drift.dM, scaled[:, :, None] * star[:, None, :])
    mixed = scaled[:, :, None] * lam[:, None, :]
    agrees(drift.dQ, mixed + mixed.swapaxes(1, 2) + 0.1 * scaled[:, :, None] * scaled[:, None, :])


@pytest.mark.needs_cc
@given(seeds, st.tuples(st.integers(1, 6), st.integers(1, 4)), st.sampled_from(PAIRS), st.booleans())
@settings(max_examples=60, deadline=None)
def test_c_agrees_with_numpy(seed, width, pair, spherical):
    rng = np.random.default_rng(seed)
    p, k = width
    if spherical:
        state = hdsgd.Overlaps.random(p, k, 20, rng=seed, replicas=3)
    else:
        state = random_state(rng, p, k, d=16, replicas=3)
    problem = hdsgd.Problem(*pair, gamma=0.4, Delta=0.3, spherical=spherical)
    if seed % 2:
        decay = 0.0 if spherical else 0.6
        problem = dataclasses.replace(problem, batch_size=3, weight_decay=decay, second_layer_ratio=0.8)
    for first, second in zip(fields(problem, state, "c"), fields(problem, state, "numpy"), strict=True):
        assert_allclose(first, second, rtol=1e-12, atol=1e-12 * np.abs(second).max())
    one = state.replica(1)
    systems = [hdsgd.Dynamics(problem, backend).system(one) for backend in ("c", "numpy")]
    y = systems[0].pack(one)
    slopes = [system.rhs(0.0, y) for system in systems]
    assert_allclose(slopes[0], slopes[1], rtol=1e-12, atol=1e-12 * np.abs(slopes[1]).max())
    assert_allclose(systems[0].risk(y), systems[1].risk(y), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_the_system_is_the_drift(backend, spherical, ratio):
    decay = 0.0 if spherical else 0.3
    problem = hdsgd.Problem(
        "erf", gamma=0.7, Delta=0.2, spherical=spherical, batch_size=2, weight_decay=decay, second_layer_ratio=ratio
    )
    state = hdsgd.Overlaps.random(3, 2, 50, rng=5)
    dyn = hdsgd.Dynamics(problem, backend)
    system, drift = dyn.system(state), dyn.drift(state)
    y = system.pack(state)
    assert y.size == 3 + 3 * (not spherical) + 6 + 3 * (ratio > 0)
    for value, expected in zip(system.unpack(y), (state.Q, state.M, state.a), strict=True):
        np.testing.assert_array_equal(value, expected)
    assert_allclose(system.rhs(0.0, y), system.packed(*drift), rtol=1e-12, atol=1e-14)
    assert_allclose(system.risk(y), dyn.risk(state), rtol=1e-13)


def test_a_batch_divides_the_noise_and_decay_shrinks():
    state = hdsgd.Overlaps.random(3, 2, 50, rng=5)
    plain, batch, decay = (
        hdsgd.Dynamics(hdsgd.Problem("erf", gamma=0.6, Delta=0.2, **options))
        for options in ({}, {"batch_size": 4}, {"weight_decay": 0.3})
    )
    np.testing.assert_array_equal(batch.noise(state), plain.noise(state))  # N is that of one sample
    same = hdsgd.Dynamics(hdsgd.Problem("erf", gamma=0.6 / 4, Delta=0.2))
    assert_allclose(batch.drift(state).dQ, same.drift(state).dQ, rtol=1e-14)
    assert_allclose(decay.drift(state).dQ, plain.drift(state).dQ - 0.6 * state.Q, rtol=1e-13)
    assert_allclose(decay.drift(state).dM, plain.drift(state).dM - 0.3 * state.M, rtol=1e-13, atol=1e-15)
    np.testing.assert_array_equal(plain.drift(state).da, 0.0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_values_that_are_frozen_equal_and_picklable(backend):
    problem = hdsgd.Problem("erf", gamma=0.7, second_layer_ratio=0.5)
    dyn = hdsgd.Dynamics(problem, backend)
    assert dyn == hdsgd.Dynamics(hdsgd.Problem("erf", gamma=0.7, second_layer_ratio=0.5), backend)
    assert dyn != hdsgd.Dynamics(hdsgd.Problem("erf", gamma=0.8, second_layer_ratio=0.5), backend)
    assert pickle.loads(pickle.dumps(dyn)) == dyn
    assert len({dyn, hdsgd.Dynamics(problem, backend)}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        dyn.problem = problem
    state = hdsgd.Overlaps.random(2, 1, 50, rng=5)
    drift = dyn.drift(state)
    assert drift == dyn.drift(state)
    assert drift != dyn.drift(hdsgd.Overlaps.random(2, 1, 50, rng=6))
    again = pickle.loads(pickle.dumps(drift))
    assert again == drift
    assert not any(rate.flags.writeable for rate in (*drift, *again))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("spherical", [False, True])
def test_replicas_are_independent_of_one_another(backend, spherical):
    state = hdsgd.Overlaps.random(3, 2, 50, rng=5, replicas=7)
    problem = hdsgd.Problem("erf", gamma=0.7, Delta=0.2, spherical=spherical)
    together = fields(problem, state, backend)
    for i in range(7):
        for value, alone in zip(together, fields(problem, state.replica(i), backend), strict=True):
            assert_allclose(value[i], alone, rtol=1e-14, atol=1e-16)


@pytest.mark.parametrize("backend", BACKENDS)
def test_risks_of_reference(risks, backend):
    for point in risks["points"]:
        state = hdsgd.Overlaps(point["Q"], point["M"], point["P"])
        for name in ("erf", "he3", "quadratic"):
            assert_allclose(
                hdsgd.Dynamics(hdsgd.Problem(name), backend).risk(state), point[f"{name}_risk"], rtol=0, atol=1e-12
            )


def test_diffusion_of_reference_at_p_1(diffusions):
    checked = 0
    for point in diffusions["points"]:
        if point["p"] != 1:
            continue
        problem = hdsgd.Problem("quadratic", gamma=point["gamma"], Delta=point["Delta"])
        cov, labels = hdsgd.Dynamics(problem).diffusion(hdsgd.Overlaps(point["Q"], point["M"], [[1.0]]))
        assert labels == ("Q[0,0]", "M[0,0]")
        assert_allclose(cov, point["cov"], rtol=1e-10)
        checked += 1
    assert checked == 4


def test_projected_diffusion_keeps_the_norm():
    problem = hdsgd.Problem("quadratic", gamma=0.2, Delta=0.3, spherical=True)
    state = hdsgd.Overlaps([[1.0]], [[0.4]], [[1.0]])
    free = hdsgd.Dynamics(hdsgd.Problem("quadratic", gamma=0.2, Delta=0.3)).diffusion(state)[0]
    cov = hdsgd.Dynamics(problem).diffusion(state)[0]
    assert_allclose(cov[0], 0, atol=1e-12)
    assert_allclose(cov[1, 1], free[1, 1] - 0.4 * free[0, 1] + 0.04 * free[0, 0], rtol=1e-12)


def test_teacher_student_variance_of_the_theory():
    """Var[M] = 48 + 4Δ + (144 + 8Δ)m² − 192m⁴ at Q = P = 1, unprojected."""
    for m, Delta in ((0.0, 0.0), (0.3, 0.2), (-0.7, 1.0)):
        state = hdsgd.Overlaps([[1.0]], [[m]], [[1.0]])
        cov, _ = hdsgd.Dynamics(hdsgd.Problem("quadratic", gamma=0.1, Delta=Delta)).diffusion(state)
        assert_allclose(cov[1, 1], 48 + 4 * Delta + (144 + 8 * Delta) * m**2 - 192 * m**4, rtol=1e-12)


@given(seeds, st.integers(1, 4), st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_quadratic_drift_in_matrix_form(seed, p, k):
    """The equations of motion of the quadratic activation (arXiv:2305.18502), with MMᵀ/k in that of Q."""
    rng = np.random.default_rng(seed)
    state = random_state(rng, p, k, units=False)
    Q, M, P = state.Q, state.M, state.P
    problem = hdsgd.Problem("quadratic", gamma=0.3, Delta=0.1)
    dyn = hdsgd.Dynamics(problem, "numpy")
    gap = np.trace(P) / k - np.trace(Q) / p
    expected_M = 2 * (gap * M + 2 * (M @ P / k - Q @ M / p))
    expected_Q = 4 * (gap * Q + 2 * (M @ M.T / k - Q @ Q / p)) + problem.gamma / p * dyn.noise(state)
    drift = dyn.drift(state)
    assert_allclose(drift.dM, expected_M, rtol=1e-10, atol=1e-10 * np.abs(expected_M).max())
    assert_allclose(drift.dQ, expected_Q, rtol=1e-10, atol=1e-10 * np.abs(expected_Q).max())


@pytest.mark.parametrize("name", ["erf", "x2", "he3", "relu", "gelu", "sin"])
def test_integrals_of_reference(integrals, name):
    names = {"x2": "quadratic"}
    matrices = [np.array([[eval_fraction(x) for x in row] for row in matrix]) for matrix in integrals["matrices"]]
    for entry in integrals["values"]:
        if entry["activation"] != name:
            continue
        size = int(entry["integral"][1])
        C = matrices[entry["matrix"]][:size, :size]
        value = hdsgd.integral(entry["integral"], names.get(name, name), C)
        assert abs(value - float(entry["value"])) <= 1e-13 * max(abs(float(entry["value"])), 1.0)


def eval_fraction(text):
    numerator, _, denominator = text.partition("/")
    return int(numerator) / int(denominator or 1)


def test_integral_of_mixed_factors():
    C = np.array([[1.0, 0.4], [0.4, 0.8]])
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    g, h = np.meshgrid(nodes, nodes, indexing="ij")
    x, y = g, 0.4 * g + np.sqrt(0.8 - 0.16) * h
    expected = np.sum(weights[:, None] * weights * x**2 * np.exp(-(y**2) / 2))
    assert_allclose(hdsgd.integral("I2", ("quadratic", "exp(-x**2/2)"), C), expected, rtol=1e-9)


def test_integral_takes_leading_axes():
    C = np.array([[1.0, 0.4], [0.4, 0.8]])
    stack = np.stack([C, 2 * C, 0.5 * C]).reshape(3, 1, 2, 2)
    values = hdsgd.integral("I2", "erf", stack)
    assert values.shape == (3, 1)
    assert_allclose(values[1, 0], hdsgd.integral("I2", "erf", 2 * C))


def test_scaling_of_a_homogeneous_activation():
    """σ = x²: the risk scales with the fourth power of all weights."""
    state = random_state(np.random.default_rng(2), 3, 2)
    scaled = hdsgd.Overlaps(4 * state.Q, 4 * state.M, 4 * state.P, state.a, state.a_star)
    dyn = hdsgd.Dynamics(hdsgd.Problem("quadratic"))
    assert_allclose(dyn.risk(scaled), 16 * dyn.risk(state), rtol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("method", ["auto", "Radau", "BDF"])
def test_the_sphere_is_not_left_by_rounding(backend, method):
    """Norms and an antisymmetric part of Q are unstable directions; normalised weights are off the sphere by an ulp."""
    rng = np.random.default_rng(7)
    W, W_star = rng.normal(size=(2, 50)), rng.normal(size=(1, 50))
    W *= np.sqrt(50) / np.linalg.norm(W, axis=1, keepdims=True)
    W_star *= np.sqrt(50) / np.linalg.norm(W_star)
    start = hdsgd.Overlaps.from_weights(W, W_star)
    problem = hdsgd.Problem("he3", gamma=0.01, spherical=True)
    sol = hdsgd.solve_ode(problem, start, 5.0, method=method, backend=backend)
    assert sol.status == hdsgd.Status.COMPLETED
    assert_allclose(np.diagonal(sol.Q[-1]), 1.0, rtol=0, atol=1e-12)
    reference = hdsgd.solve_ode(problem, start, 5.0, rtol=1e-11, atol=1e-13)
    assert_allclose(sol.risk[-1], reference.risk[-1], rtol=1e-5)
    assert abs(reference.risk[-1] - reference.risk[0]) < 0.7  # it has not blown up


@pytest.mark.needs_cc
@pytest.mark.parametrize("pair", [("tanh", "tanh"), ("sigmoid(x)", "he2"), ("relu", "tanh")])
def test_mixtures_in_c_and_numpy(pair):
    state = random_state(np.random.default_rng(1), 2, 1)
    problem = hdsgd.Problem(*pair, gamma=0.4, Delta=0.3)
    for first, second in zip(fields(problem, state, "c"), fields(problem, state, "numpy"), strict=True):
        assert_allclose(first, second, rtol=1e-11, atol=1e-11 * np.abs(second).max())
