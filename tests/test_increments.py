"""Closed forms of the increments: exponentials and Gaussians, and the leading order by derivatives of the noise."""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.polynomial.hermite_e import hermegauss
from scipy.integrate import quad_vec
from test_diffusion import brute_force, gap, increments, random_state, uniform

from hdsgd import Dynamics, Overlaps, Problem, activation
from hdsgd._diffusion import LOST, ONCE, ROOM, Increments, relative, step_of
from hdsgd._family import classify
from hdsgd._increments_exponentials import cost_of_bumps, cost_of_waves
from hdsgd._increments_leading import by_derivatives

BACKENDS = ["numpy", pytest.param("c", marks=pytest.mark.needs_cc)]
WITHOUT = replace(ONCE, exponentials=0.0, seconds=0.0)  # as if there were no closed forms

CLOSED = [
    ("sin", None, "exponentials"),
    ("cos", "sin(2*x) - 0.5*cos(x)", "exponentials"),
    ("exp(x/2)", "exp(x/3) - 1", "exponentials"),
    ("sin", "exp(x/2)", "exponentials"),
    ("exp(x/3)*sin(x + 1)", "1 + cos(x)", "exponentials"),
    ("gaussian", None, "Gaussians"),
    ("2 - exp(-x**2/3)", "exp(-x**2)", "Gaussians"),
]


def routes(problem, state, order="all", effort=WITHOUT):
    """The covariance without the projection by another effort, and its report."""
    dyn = Dynamics(problem)
    other = Increments(dyn.kernel, step_of(problem, state.p, state.k, order), effort)
    arguments = state.Omega[None], state.v[None], state.a[None]
    return other.covariance(*arguments)[0], other.report(*arguments)


def polar(problem, state, L):
    """Leading order for u = L g, two-dimensional g, and increments of degree 2: the radius leaves E r^4 = 8."""
    breaks = np.sort(np.mod([np.arctan2(r[1], r[0]) + s * np.pi / 2 for r in L for s in (1, -1)], 2 * np.pi))

    def products(angle):
        x = increments(problem, state, (L @ [np.cos(angle), np.sin(angle)])[None], np.zeros(1))[0]
        return np.concatenate((2 * x, 8 * np.outer(x, x).ravel()))

    edges = [*breaks, breaks[0] + 2 * np.pi]
    sectors = [(lower, upper) for lower, upper in pairwise(edges) if upper - lower > 1e-9]
    total = sum(quad_vec(products, *sector, epsabs=1e-13)[0] for sector in sectors) / (2 * np.pi)
    size = (state.p * (state.p + 1)) // 2 + state.p * state.k
    return total[size:].reshape(size, size) - np.outer(total[:size], total[:size])


# Exponentials and Gaussians


@pytest.mark.parametrize(("student", "teacher", "route"), CLOSED)
def test_closed_forms_against_tensor_rules(student, teacher, route):
    for p, k in ((1, 1), (2, 1)):
        state = random_state(p, k, seed=3, size=0.15)
        problem = Problem(student, teacher, gamma=1.3, Delta=0.2)
        dyn = Dynamics(problem)
        report = dyn.diffusion_route(state)
        assert (report.route, report.nodes) == (route, 0)
        assert report.error <= 1e-12
        rule = uniform(65) if "exp(x" not in student + (teacher or "") else hermegauss(44)
        assert gap(dyn.diffusion(state)[0], brute_force(problem, state, rule)) <= 1e-10


def test_closed_forms_on_the_sphere_in_batches():
    for name in ("sin", "gaussian"):
        problem = Problem(name, gamma=0.9, Delta=0.3, spherical=True, batch_size=3)
        state = random_state(2, 1, seed=4, spherical=True)
        assert gap(Dynamics(problem).diffusion(state)[0], brute_force(problem, state, uniform(65))) <= 1e-9


@pytest.mark.parametrize(("name", "p", "k"), [("sin", 2, 2), ("gaussian", 2, 2), ("exp(x/2) - x**0", 1, 3)])
def test_closed_forms_of_four_fields(name, p, k):
    state, problem = random_state(p, k, seed=5, size=0.08), Problem(name, gamma=1.1, Delta=0.1)
    assert gap(Dynamics(problem).diffusion(state)[0], brute_force(problem, state, hermegauss(20))) <= 1e-10


@pytest.mark.parametrize(("name", "p", "k"), [("sin", 3, 2), ("sin", 4, 2), ("gaussian", 2, 3), ("gaussian", 3, 3)])
def test_closed_forms_of_many_fields_against_lattices(name, p, k):
    state, problem = random_state(p, k, seed=6, size=0.2), Problem(name, gamma=1.0, Delta=0.1)
    rough, report = routes(problem, state)
    assert report.route == "lattice"
    exact = Dynamics(problem).diffusion(state)[0]
    assert gap(rough, exact) <= 4.5 * report.error
    assert np.linalg.eigvalsh(exact)[0] > 0.0


@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([1e-4, 0.1, 1.5]), case=st.sampled_from(CLOSED))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_closed_forms_at_drawn_covariances(seed, size, case):
    rng = np.random.default_rng(seed)
    W = rng.normal(size=(2, 2)) * [1.0, rng.integers(2)]  # rank one is singular
    W *= np.sqrt(2.0 * size) / np.linalg.norm(W, axis=1).max()
    state = Overlaps.from_weights(W[:1], W[1:], a=rng.normal(size=1), a_star=rng.normal(size=1))
    problem = Problem(*case[:2], gamma=rng.uniform(0.0, 2.0), Delta=rng.choice([0.0, 0.3]))
    dyn = Dynamics(problem)
    cov, report = dyn.diffusion(state)[0], dyn.diffusion_route(state)
    exact = brute_force(problem, state, uniform(201, 12.0), W / np.sqrt(2.0))
    assert gap(cov, exact) <= 1e-10 + 10 * report.error
    assert np.linalg.eigvalsh(cov)[0] >= -10 * report.error * np.diag(cov).max()
    assert report.error <= 1e-4


def test_waves_of_large_norms():
    # The phases of independent fields are uniform then: E[cos^2 u * sin^2 u] = 1/8.
    state = Overlaps([[5e3]], [[0.0]], [[2e4]], a=[0.7], a_star=[1.2])
    dyn = Dynamics(Problem("sin", gamma=1.0))
    cov, report = dyn.diffusion(state)[0], dyn.diffusion_route(state)
    assert cov[1, 1] == pytest.approx(2e4 * 0.7**2 * (1.2**2 / 4 + 0.7**2 / 8), rel=1e-9)
    assert report.error <= 1e-9


def test_the_rounding_of_closed_forms_is_stated():
    W = np.random.default_rng(0).normal(size=(2, 20)) / 4.5
    for step in (1e-2, 1e-4):  # nearly perfect learning: e is what is left of large terms
        state = Overlaps.from_weights(W + step * np.random.default_rng(1).normal(size=W.shape), W)
        for name in ("sin", "gaussian"):
            problem = Problem(name, gamma=1.0)
            rough, report = routes(problem, state)
            stated = Dynamics(problem).diffusion_route(state).error
            assert gap(Dynamics(problem).diffusion(state)[0], rough) <= 4.5 * report.error + 30 * stated
            assert 1e-12 < stated < 1e-3


def test_the_rounding_of_exponents_counts_frequencies():
    # Fields in other units are the same fields: rounding does to cos(z x) at Omega/z^2 what it does to cos(x) at Omega.
    errors = []
    for z in (1, 300):
        state = Overlaps([[2e3 / z**2]], [[5e2 / z**2]], [[1e3 / z**2]])
        report = Dynamics(Problem(f"cos({z}*x)", gamma=0.0)).diffusion_route(state)
        assert report.route == "exponentials"
        errors.append(report.error)
    assert errors[1] == pytest.approx(errors[0], rel=1e-6, abs=0.0)
    assert errors[0] > 1e-13


def test_closed_forms_of_many_teachers_leave_memory_alone():
    step = step_of(Problem("sin", gamma=0.1), 1, 40, "all")
    sine = classify(np.sin, "sin(x)").waves
    assert cost_of_waves(step, sine, sine)[0] < ONCE.exponentials
    assert cost_of_waves(step, sine, sine)[1] > ROOM
    assert cost_of_bumps(replace(step, k=60))[1] > ROOM
    for name, k in (("sin", 40), ("gaussian", 60)):
        problem = Problem(name, gamma=0.1)
        increments = Increments(Dynamics(problem).kernel, step_of(problem, 1, k, "all"))
        assert increments.route not in ("exponentials", "Gaussians")


def test_waves_of_small_norms():
    # sin x = x to a relative x^2/6; where the closed form loses this in cancellation, a rule takes over
    for size, route in ((1e-4, "exponentials"), (1e-8, "tensor")):
        state = random_state(2, 2, seed=3, size=size)
        dyn = Dynamics(Problem("sin", gamma=1.3))
        assert dyn.diffusion_route(state).route == route
        linear = Dynamics(Problem("linear", gamma=1.3)).diffusion(state)[0]
        assert gap(dyn.diffusion(state)[0], linear) <= 100.0 * size + 1e-6


@pytest.mark.parametrize(
    ("formula", "waves", "bump"),
    [
        ("sin(x)", 2, None),
        ("exp(x/3)/(2 + sqrt(3))", 1, None),
        ("1 - cos(pi*x)**2", 3, None),
        ("sin(x + 1)*exp(-x/2)", 2, None),
        ("exp(-x**2/2)", None, (0.0, 1.0, 1.0)),
        ("3 - exp(-2*x**2)/4", None, (3.0, -0.25, 2.0)),
        ("exp(-(x - 1)**2)", None, None),
        ("x*sin(x)", None, None),
        ("exp(-x**2)*cos(x)", None, None),
        ("sin(x) + erf(x)", None, None),
        ("relu(x)", None, None),
        ("cos(x) + exp(8*x - 40)", 3, None),  # small terms that are none of rounding
        ("sin(x) + exp(3*x - 36)", 3, None),
        ("0.1*cos(x) + 0.2*cos(x) - 0.3*cos(x) + sin(2*x)", 2, None),
        ("sin(x)**8", 9, None),
    ],
)
def test_exponentials_are_recognised(formula, waves, bump):
    spelled = activation(formula).formula
    found = classify(partial(_evaluate, spelled), spelled)
    assert (found.waves and len(found.waves)) == waves
    assert (found.bump and (found.bump.offset, found.bump.height, found.bump.slope)) == bump
    x = np.linspace(-2.0, 2.0, 9)
    if waves:
        np.testing.assert_allclose(sum(c * np.exp(z * x) for c, z in found.waves), _evaluate(spelled, x), atol=1e-14)


def test_a_formula_that_is_not_the_function_is_none():
    for formula in ("cos(x) + exp(3*x - 36)", "cos(x) + 1e-11", "sin(x)", "exp(-x**2)"):
        assert classify(np.cos, formula).waves is None
    assert classify(np.cos, "exp(-x**2)").bump is None
    assert classify(lambda x: np.exp(-(x**2)), "exp(-x**2)*(1 + 1e-12)").bump is None


def _evaluate(formula, x):
    from scipy.special import erf

    names = {name: getattr(np, name) for name in ("sin", "cos", "exp", "sqrt", "pi")}
    return eval(formula, {}, {**names, "erf": erf, "relu": lambda x: np.maximum(x, 0.0), "x": x}) + 0.0 * x


def test_what_has_no_closed_form_keeps_its_route():
    state = random_state(2, 1, seed=1)
    for problem in (Problem("sin", second_layer_ratio=0.5), Problem("gaussian", second_layer_ratio=0.5)):
        assert Dynamics(problem).diffusion_route(state).route == "tensor"
    assert Dynamics(Problem("sin", "gaussian")).diffusion_route(state).route == "derivatives, tensor"
    assert routes(Problem("sin"), state, effort=replace(ONCE, exponentials=10.0))[1].route == "derivatives, tensor"


# Derivatives of the noise


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("name", "p", "k"),
    [
        *((name, 1, 1) for name in ("relu", "gelu", "leaky_relu", "abs", "tanh", "sin", "gaussian")),
        ("erf", 2, 2),
        ("erf", 3, 2),
        ("he3", 2, 2),
        ("he3", 1, 3),
        ("gelu", 2, 1),
        ("gaussian", 2, 2),
        ("sin", 3, 2),
    ],
)
def test_leading_order_against_exact_routes(name, p, k, backend):
    state, problem = random_state(p, k, seed=5, size=0.5), Problem(name, gamma=0.5, Delta=0.1)
    dyn = Dynamics(problem, backend)
    step, arguments = step_of(problem, p, k, "leading"), (state.Omega[None], state.v[None], state.a[None])
    found, error = by_derivatives(step, dyn.kernel.gradients, dyn.kernel.noise, *arguments)
    exact = dyn.diffusion(state, order="leading")[0]
    assert gap(found[0], exact) <= 1e-10
    assert relative(error, found).max() <= 1e-10


@pytest.mark.parametrize("name", ["he3", "quadratic"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_derivatives_state_what_cancellation_leaves(name, backend):
    rng, problem = np.random.default_rng(3), Problem(name, gamma=0.0)
    dyn = Dynamics(problem, backend)
    for p, k in ((1, 1), (2, 1), (2, 2)):
        step, W = step_of(problem, p, k, "leading"), rng.normal(size=(k, 20)) / 4.5
        for distance in (1e-3, 1e-4):
            state = Overlaps.from_weights(np.resize(W, (p, 20)) + distance / 4.5 * rng.normal(size=(p, 20)), W)
            arguments = state.Omega[None], state.v[None], state.a[None]
            found, error = by_derivatives(step, dyn.kernel.gradients, dyn.kernel.noise, *arguments)
            exact = dyn.diffusion(state)
            assert gap(found[0], exact[0]) <= 3.0 * relative(error, found)[0]


@pytest.mark.parametrize(
    ("name", "p", "k"),
    [
        ("relu", 2, 2),
        ("relu", 3, 2),
        ("leaky_relu", 4, 2),
        pytest.param("tanh", 3, 2, marks=pytest.mark.needs_cc),  # numpy takes too long for its derivatives
    ],
)
def test_leading_order_against_lattices(name, p, k):
    state, problem = random_state(p, k, seed=7), Problem(name, gamma=1.0, Delta=0.1)
    dyn = Dynamics(problem)
    report = dyn.diffusion_route(state, order="leading")
    assert (report.route, report.nodes) == ("derivatives", 0)
    assert report.error <= 1e-10
    rough, lattice = routes(problem, state, "leading")
    exact = dyn.diffusion(state, order="leading")[0]
    assert gap(rough, exact) <= 4.5 * lattice.error
    # with all orders the covariance of M stays exact, and the rule's error is that of the terms in gamma alone
    cov = dyn.diffusion(state)[0]
    of_M = slice(p * (p + 1) // 2, None)
    assert gap(cov[of_M, of_M], exact[of_M, of_M]) <= 1e-11
    combined = dyn.diffusion_route(state)
    assert combined.route == "derivatives, lattice"
    assert combined.error < lattice.error
    assert gap(routes(problem, state)[0], cov) <= 4.5 * (combined.error + routes(problem, state)[1].error)
    assert np.linalg.eigvalsh(cov)[0] >= -combined.error * np.diag(cov).max()


@pytest.mark.parametrize("name", ["relu", "abs", "leaky_relu"])
@pytest.mark.parametrize(
    "rows",
    [
        [[1.0, 0.2], [1.0, 0.2], [-0.3, 0.8]],  # two equal students
        [[1.0, 0.2], [-1.0, -0.2], [0.3, 0.8]],  # opposite ones
        [[0.6, 0.2], [-0.3, 0.8], [0.6, 0.2]],  # a student that has found the teacher
        [[0.6, 0.2], [-0.3, 0.8], [0.3, 1.0]],  # a teacher between the students
    ],
)
def test_leading_order_at_singular_states(name, rows):
    L = np.array(rows)
    state = Overlaps.from_weights(L[:2] * np.sqrt(2), L[2:] * np.sqrt(2), a=[1.1, 0.6], a_star=[0.9])
    problem = Problem(name, gamma=0.0)
    dyn = Dynamics(problem)
    exact = polar(problem, state, L)
    assert dyn.diffusion_route(state).route == "derivatives"
    assert gap(dyn.diffusion(state)[0], exact) <= 1e-9


def test_states_where_derivatives_lose_all_take_a_rule():
    W = np.random.default_rng(0).normal(size=(2, 20)) / 4.5
    near = Overlaps.from_weights(W + 1e-6 * np.random.default_rng(1).normal(size=W.shape), W)
    both = Overlaps(np.stack((near.Q, 2 * near.Q)), np.stack((near.M, near.M)), near.P)
    for gamma, route in ((0.0, "derivatives"), (0.5, "derivatives, lattice")):
        problem = Problem("relu", gamma=gamma)
        dyn = Dynamics(problem)
        reports = [dyn.diffusion_route(state) for state in (near, both.replica(1), both)]
        assert [report.route for report in reports] == ["lattice", route, "lattice"]
        assert reports[2] == max(reports[:2], key=lambda report: report.error)
        cov = dyn.diffusion(both)[0]
        np.testing.assert_array_equal(cov[0], routes(problem, near)[0])
        np.testing.assert_array_equal(cov[1], dyn.diffusion(both.replica(1))[0])
        assert max(report.error for report in reports) < 100 * LOST


def test_states_that_are_lost_are_integrated_once(monkeypatch):
    counts, by_rules = [], Increments._by_rules

    def counted(self, *state):
        counts.append(len(state[0]))
        return by_rules(self, *state)

    monkeypatch.setattr(Increments, "_by_rules", counted)
    W = np.random.default_rng(0).normal(size=(2, 20)) / 4.5
    near = Overlaps.from_weights(W + 1e-6 * np.random.default_rng(1).normal(size=W.shape), W)
    both = Overlaps(np.stack((near.Q, 2 * near.Q)), np.stack((near.M, near.M)), near.P)
    Dynamics(Problem("relu", gamma=0.5)).diffusion(both)
    assert counts == [1, 1]


def test_moments_beyond_double_precision_are_lost():
    problem, state = Problem("exp(x/2)", gamma=0.5), Overlaps([[100.0]], [[0.1]], [[1.0]])
    report = Dynamics(problem).diffusion_route(state)
    assert report.route == "tensor"
    assert not report.error < 0.5
