"""Mini-batches, weight decay and the trained second layer: steps of SGD against the drift, runs against the ODE."""

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import hdsgd
from hdsgd import Dynamics, Overlaps, Problem
from hdsgd.cli import main

BACKENDS = [pytest.param("c", marks=pytest.mark.needs_cc), "numpy"]

# activation, p, k, d, singular Omega, gamma, batch size, weight decay, second layer ratio
CASES = {
    "erf": ("erf", 2, 1, 5, False, 2.0, 3, 0.7, 0.6),
    "erf, singular": ("erf", 3, 2, 6, True, 2.0, 2, 0.0, 0.5),
    "erf, more samples than units": ("erf", 2, 2, 4, False, 3.0, 7, 0.4, 1.5),
    "erf, one sample": ("erf", 2, 1, 4, False, 1.0, 1, 1.2, 0.6),
    "quadratic": ("quadratic", 2, 1, 7, False, 0.2, 4, 0.5, 0.4),
    "quadratic, singular": ("quadratic", 2, 2, 6, True, 0.2, 2, 0.9, 0.0),
    "relu": ("relu", 3, 2, 8, False, 2.0, 3, 0.3, 0.8),
    "relu, singular": ("relu", 3, 1, 5, True, 2.0, 5, 0.0, 1.0),
    "relu, unequal": (("relu", "erf"), 2, 2, 6, False, 2.0, 2, 0.2, 0.7),
}
RUNS = {"weights": 6_000, "overlaps": 40_000}


def case(name):
    pair, p, k, d, singular, gamma, batch, decay, ratio = CASES[name]
    student, teacher = pair if isinstance(pair, tuple) else (pair, None)
    problem = Problem(
        student,
        teacher,
        gamma=gamma,
        Delta=0.3,
        batch_size=batch,
        weight_decay=decay,
        second_layer_ratio=ratio,
    )
    rng = np.random.default_rng(17)
    W, W_star = rng.normal(size=(p, d)), rng.normal(size=(k, d))
    if singular:
        W[1] = W[0] - 0.5 * W_star[0]
    state = Overlaps.from_weights(W, W_star, rng.uniform(0.5, 1.5, size=p), rng.uniform(0.5, 1.5, size=k))
    return problem, state, d


def increments(problem, state, d, **options):
    """Rates of change (replicas, components) in one step, and its time."""
    unit = problem.step_time(state.p, d)
    sol = hdsgd.simulate(problem, state, unit, d=d, times=[0.0, unit], **options)
    assert list(sol.steps) == [0, 1]
    return joined(*((x[:, 1] - x[:, 0]) / unit for x in (sol.Q, sol.M, sol.a)))


def joined(dQ, dM, da):
    upper = np.triu_indices(da.shape[-1])
    return np.concatenate((dQ[..., *upper], dM.reshape(*da.shape[:-1], -1), da), axis=-1)


def finite_d_terms(problem, state, d):
    """What one step at finite d adds to dQ/dt of the limit, and the standard error of that."""
    dyn, rng, samples = Dynamics(problem, "numpy"), np.random.default_rng(23), 400_000
    kernel, a, unit = dyn.kernel, state.a, problem.step_time(state.p, d)
    values, vectors = np.linalg.eigh(state.Omega)
    root = (vectors * np.sqrt(np.maximum(values, 0.0)))[:, values > 1e-10]
    g = rng.normal(size=(samples, root.shape[1]))
    fields = g @ root.T
    error = kernel.sigma_star(fields[:, state.p :]) @ state.a_star / state.k
    error += np.sqrt(problem.Delta) * rng.normal(size=samples) - kernel.sigma(fields[:, : state.p]) @ a / state.p
    slope = kernel.dsigma(fields[:, : state.p]) * error[:, None]
    # |x|^2 is |g|^2 + chi2(d - rank) and not d
    excess = slope[:, :, None] * slope[:, None, :] * ((g**2).sum(axis=1) - g.shape[1])[:, None, None]
    G = kernel.gradients(state.Q[None], state.M[None], state.P, a[None], state.a_star)[0]
    crossed = G @ np.linalg.pinv(state.Omega, hermitian=True, rcond=1e-10) @ G.T  # products of different samples
    batch, scale = problem.batch_size, problem.gamma / state.p * np.outer(a, a) / d
    noise = scale * (excess.mean(axis=0) / batch + (1.0 - 1.0 / batch) * crossed)
    pull = a[:, None] * G[:, : state.p]
    second = problem.weight_decay * unit * (problem.weight_decay * state.Q - pull - pull.T)
    return noise + second, scale * excess.std(axis=0) / (np.sqrt(samples) * batch)


def deviations(seen, problem, state, d):
    """Of the mean rates from those expected at finite d, in standard errors."""
    drift = Dynamics(problem).drift(state)
    more, uncertain = finite_d_terms(problem, state, d)
    exact = np.zeros_like(drift.dM), np.zeros_like(drift.da)  # M and a have no other terms
    expected = joined(drift.dQ + more, drift.dM, drift.da)
    error = np.hypot(seen.std(axis=0) / np.sqrt(len(seen)), joined(uncertain, *exact))
    return np.abs(seen.mean(axis=0) - expected) / (error + 1e-9)  # a is fixed in some cases


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("method", ["weights", "overlaps"])
def test_one_step_against_the_drift(name, method, backend):
    problem, state, d = case(name)
    seen = increments(problem, state, d, replicas=RUNS[method], rng=5, method=method, backend=backend)
    assert np.all(deviations(seen, problem, state, d) <= 4.5)


@pytest.mark.parametrize(
    ("field", "wrong"), [("batch_size", 1), ("weight_decay", 0.0), ("second_layer_ratio", 0.0), ("gamma", 1.0)]
)
def test_one_step_tells_problems_apart(field, wrong):
    """The control of the test above: another problem's drift is not met."""
    problem, state, d = case("erf")
    seen = increments(problem, state, d, replicas=40_000, rng=5, method="overlaps", backend="numpy")
    assert np.max(deviations(seen, replace(problem, **{field: wrong}), state, d)) > 10.0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["erf", "quadratic", "relu"])
def test_one_step_on_the_sphere(name, backend):
    """At d = 10**6 the drift of the limit, projection included."""
    problem = Problem(name, gamma=0.5, Delta=0.3, spherical=True, batch_size=3, second_layer_ratio=0.7)
    state = Overlaps.random(2, 1, 8, rng=3)
    seen = increments(problem, state, 10**6, replicas=20_000, rng=5, method="overlaps", backend=backend)
    expected = joined(*Dynamics(problem).drift(state))
    error = seen.std(axis=0) / np.sqrt(len(seen))
    assert np.all(np.abs(seen.mean(axis=0) - expected) <= 4.5 * error + 1e-5)


def test_covariance_of_a_batch():
    """Covariances of the increments in one step at d = 10**6, p = k = 1, to their own errors."""
    problem = Problem("quadratic", gamma=0.3, Delta=0.2, batch_size=4, weight_decay=0.3)
    state = Overlaps([[0.8]], [[0.4]], [[1.0]])
    seen = increments(problem, state, 10**6, replicas=100_000, rng=5, backend="numpy")[:, :2]
    cov, _ = Dynamics(problem).diffusion(state)
    centred = seen - seen.mean(axis=0)
    products = centred[:, :, None] * centred[:, None, :]
    error = products.std(axis=0) / np.sqrt(len(seen))
    assert np.all(np.abs(products.mean(axis=0) - cov) <= 4.5 * error)
    single = Dynamics(Problem("quadratic", gamma=0.3, Delta=0.2)).diffusion(state)[0]
    assert np.all(np.abs(products.mean(axis=0) - single / 4)[0, 0] > 4.5 * error[0, 0])  # gamma/n_b inside, too


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("spherical", [False, True])
def test_simulation_follows_the_ode(spherical, backend):
    decay = 0.0 if spherical else 0.2
    problem = Problem(
        "erf", gamma=1.0, Delta=0.05, spherical=spherical, batch_size=3, weight_decay=decay, second_layer_ratio=2.0
    )
    d, times = 1500, [0.5, 1.0, 2.0]
    state = Overlaps.random(2, 2, d, rng=4, orthogonal_teacher=True)
    sol = hdsgd.solve_ode(problem, state, 2.0, times=times)
    runs = hdsgd.simulate(problem, state, 2.0, d=d, replicas=60, rng=1, times=times, backend=backend)
    assert_allclose(runs.alpha, 3 * runs.steps / d)
    assert_allclose(runs.alpha, sol.alpha, rtol=1e-3)
    for name in ("Q", "M", "a", "risk"):
        values, exact = getattr(runs, name), getattr(sol, name)
        error = values.std(axis=0) / np.sqrt(60)
        assert np.all(np.abs(values.mean(axis=0) - exact) <= 4.5 * error + 4.0 / d)
    assert np.abs(sol.a - 1.0).max() > 0.1  # it has moved


@pytest.mark.parametrize("method", ["weights", "overlaps"])
def test_replicas_do_not_depend_on_one_another(method):
    problem = Problem("erf", gamma=1.0, Delta=0.1, batch_size=5, weight_decay=0.1, second_layer_ratio=0.5)
    state = Overlaps.random(3, 2, 30, rng=4)
    many, few = (
        hdsgd.simulate(problem, state, 5.0, d=30, replicas=n, rng=1, method=method, backend="numpy") for n in (6, 2)
    )
    for name in ("Q", "M", "a", "risk"):
        np.testing.assert_array_equal(getattr(many, name)[:2], getattr(few, name))


@pytest.mark.parametrize("method", ["weights", "overlaps"])
def test_large_batches_draw_in_parts(method):
    """A batch larger than a block of random numbers follows gradient flow closely at small gamma."""
    problem = Problem("erf", gamma=0.2, batch_size=300, second_layer_ratio=1.0)
    state = Overlaps.random(2, 1, 40, rng=4)
    run = hdsgd.simulate(problem, state, 0.5, d=40, rng=1, method=method, backend="numpy", times=[0.5])
    flow = hdsgd.solve_ode(Problem("erf", gamma=0.0, second_layer_ratio=1.0), state, 0.5)
    for name in ("Q", "M", "a"):
        assert_allclose(getattr(run, name)[-1], getattr(flow, name)[-1], atol=0.03)


def test_a_diverging_second_layer_is_a_status():
    problem = Problem("quadratic", gamma=0.1, second_layer_ratio=300.0)
    state = Overlaps.random(1, 1, 20, rng=4)
    for method in ("weights", "overlaps"):
        runs = hdsgd.simulate(problem, state, 20.0, d=20, replicas=4, rng=1, method=method, backend="numpy")
        assert np.all(runs.status == hdsgd.Status.DIVERGED)
        assert np.all(np.isnan(runs.a[:, -1]))


def test_options_of_the_command_line(capsys):
    options = ["--batch-size", "4", "--weight-decay", "0.3", "--second-layer-ratio", "0.5"]
    arguments = ["-p", "2", "-d", "100", "--t-max", "1", "--seed", "1", "--json"]
    assert main(["solve", *arguments, *options]) == 0
    problem = json.loads(capsys.readouterr().out)["problem"]
    assert (problem["batch_size"], problem["weight_decay"], problem["second_layer_ratio"]) == (4, 0.3, 0.5)
    assert main(["solve", *arguments, "--weight-decay", "0.3", "--spherical"]) == 2
    assert "has no effect with --spherical" in capsys.readouterr().err


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["erf, still units", "relu, dead units"])
def test_units_that_do_not_move_lose_nothing_of_a_batch(name, backend):
    """With fewer samples than units, those that stand still leave gaps in the factor of the batch's Gram matrix."""
    if name == "erf, still units":
        problem, start = (
            Problem("erf", gamma=2.0, Delta=0.1, batch_size=2),
            Overlaps(np.eye(3), np.zeros((3, 1)), [[1.0]]),
        )
        start = Overlaps(start.Q, start.M, start.P, a=[0.0, 0.0, 1.0])
    else:
        problem = Problem("relu", gamma=2.0, Delta=0.1, batch_size=2)
        Q = np.eye(3)
        Q[0, 1] = Q[1, 0] = 0.95
        start = Overlaps(Q, np.zeros((3, 1)), [[1.0]])
    d, t = 50, 50 * problem.step_time(3, 50)
    found = []
    for method, seed in (("overlaps", 1), ("weights", 2)):
        sol = hdsgd.simulate(problem, start, t, d=d, replicas=4000, rng=seed, times=[t], method=method, backend=backend)
        found.append(sol.Q[:, 0, 2, 2])
    gap = found[0].mean() - found[1].mean()
    error = np.sqrt(sum(values.var() / len(values) for values in found))
    assert abs(gap) < 4.5 * error
    assert error < 0.0025
