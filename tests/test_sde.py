"""solve_sde: its law against quadrature and against the exact chain, streams, first passage."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import cumulative_trapezoid

import hdsgd
from hdsgd import Dynamics, Exit, Overlaps, Problem, Status, escape
from hdsgd._diffusion import LOOP, Increments, finite_size, step_of

STARTS = json.loads((Path(__file__).parent / "data" / "published_exit_times.json").read_text())["start"]
BACKENDS = ["numpy", pytest.param("c", marks=pytest.mark.needs_cc)]
RETRIEVAL = Problem("quadratic", gamma=0.1, Delta=1e-4, spherical=True)


def at(*m):
    if len(m) == 1:
        return Overlaps([[1.0]], [[m[0]]], [[1.0]])
    return Overlaps([[1.0]], np.array(m)[:, None, None], [[1.0]])


def corrections(dyn, states):
    """d times the drift's terms of order 1/d, of states with a replica axis."""
    step = step_of(dyn.problem, states.p, states.k, "all")
    cov = Increments(dyn.kernel, step, LOOP).covariance(states.Omega, states.v, states.a) / dyn.problem.batch_size
    return finite_size(dyn.kernel, dyn.problem, cov, states.Q, states.M, states.P, states.a, states.a_star)


def mean_exit(problem, m0, T, d):
    """Mean first passage of |m| by the backward equation v/2 tau'' + b tau' = -1, tau = 0 at both levels."""
    edge = np.sqrt(T + (1 - T) * m0**2)
    x = np.linspace(-edge, edge, 20_001)
    dyn = Dynamics(problem, "numpy")
    states = Overlaps(np.ones((x.size, 1, 1)), x[:, None, None], [[1.0]])
    b = dyn.drift(states).dM[:, 0, 0] + corrections(dyn, states)[1][:, 0, 0] / d
    v = problem.gamma / d * dyn.diffusion(states)[0][:, 1, 1]
    integral = lambda y: cumulative_trapezoid(y, x=x, initial=0)  # noqa: E731
    scale = np.exp(integral(2 * b / v))
    inner = integral(2 / v * scale)
    one, other = integral(inner / scale), integral(1 / scale)
    return float(np.interp(m0, x, one[-1] / other[-1] * other - one))


def test_the_published_start_has_the_mean_exit_of_the_theory():
    # 1.1386 with the limiting drift; its terms of order 1/d add 0.0026 to it. The exact chain: 1.143(3).
    assert mean_exit(RETRIEVAL, STARTS["p1"]["M0"][0][0], 0.01, 3000) == pytest.approx(1.1412, abs=1e-3)


@pytest.mark.parametrize(("dt", "replicas"), [(2e-3, 1500), (2e-2, 12_000)])
def test_exit_times_follow_the_law_of_the_sde(dt, replicas):
    # The coarser step shows the bridge: testing only the ends of the steps comes out 0.040 late; and the drift's second
    # evaluation: without it a mode of rate 1.6 grows at 1.6 (1 - 0.8 dt), which is 0.011 late.
    m0, T, d = 0.1, 0.05, 300
    ens = hdsgd.solve_sde(RETRIEVAL, at(m0), 20.0, d=d, dt=dt, replicas=replicas, rng=1, stop=Exit(T=T), times=[0.0])
    assert np.all(ens.status == Status.EXITED)
    error = ens.exit_time.std() / np.sqrt(replicas)
    assert ens.exit_time.mean() == pytest.approx(mean_exit(RETRIEVAL, m0, T, d), abs=3 * error + 0.1 * dt)


@pytest.mark.slow
def test_the_published_start_by_many_replicas():
    start = Overlaps(STARTS["p1"]["Q0"], STARTS["p1"]["M0"], STARTS["p1"]["P"])
    ens = hdsgd.solve_sde(RETRIEVAL, start, 20.0, d=3000, replicas=20_000, rng=0, stop=Exit(T=0.01), times=[0.0])
    assert ens.exit_time.mean() == pytest.approx(1.1412, abs=3.5 * ens.exit_time.std() / np.sqrt(20_000) + 1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("options", "p", "k"),
    [
        ({"activation": "quadratic", "spherical": True}, 1, 1),
        ({"activation": "quadratic"}, 1, 1),
        ({"activation": "quadratic", "spherical": True, "second_layer_ratio": 0.5}, 2, 1),
        ({"activation": "he2", "weight_decay": 0.5, "batch_size": 3, "second_layer_ratio": 0.5}, 2, 1),
        ({"activation": "erf"}, 2, 2),
        ({"activation": "erf", "spherical": True, "batch_size": 2}, 2, 2),
        ({"activation": "relu"}, 1, 2),
        ({"activation": "sin", "spherical": True}, 2, 1),
    ],
)
def test_one_step_has_the_drift_and_the_covariance(options, p, k, backend):
    problem, d, dt = Problem(gamma=0.3, Delta=0.2, **options), 200, 1e-3
    closed = options["activation"] in ("quadratic", "he2")
    replicas = 20_000 if closed or backend == "c" else 500  # numpy's quadrature takes milliseconds a state
    start = Overlaps.random(p, k, 100, rng=4, spherical=problem.spherical)
    start = Overlaps(start.Q, 0.8 * start.M + 0.1, start.P, a=np.linspace(1.0, 1.3, p))
    ens = hdsgd.solve_sde(problem, start, dt, d=d, dt=dt, replicas=replicas, rng=3, times=[dt], backend=backend)
    upper, trained = np.triu_indices(p), problem.second_layer_ratio > 0

    def packed(Q, M, a):
        parts = (Q[..., *upper], M.reshape(*M.shape[:-2], -1), a)
        return np.concatenate(parts if trained else parts[:2], axis=-1)

    X = packed(ens.Q[:, 0], ens.M[:, 0], ens.a[:, 0]) - packed(start.Q, start.M, start.a)
    dyn = Dynamics(problem)
    one = Overlaps(start.Q[None], start.M[None], start.P, a=start.a[None])
    dQ, dM = corrections(dyn, one)
    mean = (packed(*dyn.drift(start)) + packed(dQ[0], dM[0], np.zeros(p)) / d) * dt
    cov = dyn.diffusion(start)[0] * problem.gamma / (p * d) * dt
    # dt**2 and dt**2/d: the second evaluation of the drift
    assert np.all(np.abs(X.mean(0) - mean) <= 4.5 * np.sqrt(np.diag(cov) / replicas) + 0.02 * np.abs(mean) + 1e-15)
    own = np.sqrt(np.maximum(np.diag(cov), 1e-30))
    moving = np.diag(cov) > 1e-20  # norms on the sphere do not
    gap = (np.cov(X.T) - cov)[np.ix_(moving, moving)] / np.outer(own[moving], own[moving])
    assert np.abs(gap).max() <= 4.5 * np.sqrt(2.0 / replicas) + 0.01


@pytest.mark.needs_cc
@pytest.mark.parametrize(
    ("options", "p", "k"),
    [
        ({"gamma": 0.2, "spherical": True}, 1, 1),
        ({"gamma": 0.6, "spherical": True, "batch_size": 2}, 2, 2),
        ({"gamma": 0.25, "batch_size": 3, "weight_decay": 0.4, "second_layer_ratio": 0.3}, 2, 1),
    ],
)
def test_c_and_numpy_agree_in_law_where_every_term_shows(options, p, k):
    # In a long step at small d the terms of order 1/d are more than five standard errors.
    problem, d, replicas = Problem("quadratic", Delta=0.2, **options), 100, 40_000
    start = Overlaps.random(p, k, 30, rng=1, spherical=problem.spherical)
    run = lambda backend, seed: hdsgd.solve_sde(  # noqa: E731
        problem, start, 0.05, d=d, dt=0.05, replicas=replicas, rng=seed, times=[0.05], backend=backend
    )
    one, other = run("c", 1), run("numpy", 2)
    assert np.all(one.status == 0)
    assert np.all(other.status == 0)
    dQ, dM = corrections(Dynamics(problem), Overlaps(start.Q[None], start.M[None], start.P))
    shown = 0.0
    for x, y, more in ((one.Q, other.Q, dQ), (one.M, other.M, dM), (one.a, other.a, np.zeros((1, p)))):
        error = x[:, 0].std(0) / np.sqrt(replicas) + 1e-14
        assert np.abs((x[:, 0].mean(0) - y[:, 0].mean(0)) / error).max() <= 4.5 * np.sqrt(2)
        assert np.abs(np.log((x[:, 0].std(0) + 1e-12) / (y[:, 0].std(0) + 1e-12))).max() <= 0.06
        shown = max(shown, float(np.abs(0.05 * more[0] / d / error)[error > 1e-10].max(initial=0.0)))
    assert shown > 5.0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "problem", [RETRIEVAL, Problem("quadratic", gamma=0.05, Delta=0.1), Problem("he2", gamma=0.05)]
)
def test_a_path_does_not_depend_on_the_number_of_replicas(backend, problem):
    run = lambda n: hdsgd.solve_sde(  # noqa: E731
        problem, at(0.05), 2.0, d=500, dt=1e-2, replicas=n, rng=5, stop=Exit(T=0.1), backend=backend
    )
    many, few, one, single = run(33), run(4), run(1), run(None)
    np.testing.assert_array_equal(many.M[:4], few.M)
    np.testing.assert_array_equal(many.Q[:1], one.Q)
    np.testing.assert_array_equal(many.exit_time[:4], few.exit_time)
    assert single.replicas is None
    np.testing.assert_array_equal(one.M[0, : single.t.size], single.M)
    assert np.isnan(one.M[0, single.t.size :]).all()
    assert not np.array_equal(many.M[0], many.M[1])


def test_the_seed_reproduces():
    first = hdsgd.solve_sde(RETRIEVAL, at(0.1), 0.5, d=300, dt=1e-2, replicas=3)
    again = hdsgd.solve_sde(RETRIEVAL, at(0.1), 0.5, d=300, dt=1e-2, replicas=3, rng=first.seed)
    np.testing.assert_array_equal(first.M, again.M)
    other = hdsgd.solve_sde(RETRIEVAL, at(0.1), 0.5, d=300, dt=1e-2, replicas=3)
    assert not np.array_equal(first.M, other.M)


def test_each_replica_may_have_its_own_start():
    starts = at(-0.2, 0.0, 0.3)
    ens = hdsgd.solve_sde(RETRIEVAL, starts, 0.1, d=300, dt=1e-2, rng=0)
    assert ens.replicas == 3
    np.testing.assert_array_equal(ens.M[:, 0, 0, 0], [-0.2, 0.0, 0.3])
    same = hdsgd.solve_sde(RETRIEVAL, starts, 0.1, d=300, dt=1e-2, rng=0, replicas=3)
    np.testing.assert_array_equal(same.M, ens.M)
    with pytest.raises(ValueError, match="3 replicas, not 4"):
        hdsgd.solve_sde(RETRIEVAL, starts, 0.1, d=300, rng=0, replicas=4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_noise_it_is_of_second_order(backend):
    problem = Problem("quadratic", gamma=0.0)
    exact = hdsgd.solve_ode(problem, at(0.2), 1.0, times=[1.0])
    errors = []
    for dt in (2e-2, 1e-2):
        ens = hdsgd.solve_sde(problem, at(0.2), 1.0, d=100, dt=dt, replicas=2, rng=0, times=[1.0], backend=backend)
        np.testing.assert_array_equal(ens.M[0], ens.M[1])
        errors.append(float(np.abs(ens.M[0] - exact.M).max()))
    assert errors[1] < 1e-3
    assert 3.5 < errors[0] / errors[1] < 4.7
    assert ens.steps is None


def test_large_d_is_the_ode():
    ens = hdsgd.solve_sde(RETRIEVAL, at(0.2), 1.0, d=10**10, dt=1e-3, rng=0, times=[0.0, 0.3337, 1.0])
    exact = hdsgd.solve_ode(RETRIEVAL, at(0.2), 1.0, times=[0.0, 0.3337, 1.0])
    np.testing.assert_array_equal(ens.t, exact.t)
    np.testing.assert_allclose(ens.M, exact.M, atol=2e-3)


def test_omega_stays_positive_semidefinite():
    for problem in (RETRIEVAL, Problem("quadratic", gamma=0.1, Delta=0.5)):
        ens = hdsgd.solve_sde(problem, at(0.99), 2.0, d=20, dt=1e-2, replicas=100, rng=0)
        running = np.isfinite(ens.risk)
        assert np.all(ens.Q[running] >= 0)
        assert np.all(ens.M[running] ** 2 <= ens.Q[running] * (1 + 1e-12))
        assert np.all(ens.risk[running] >= 0)
        alive = np.flatnonzero(running[:, -1])
        ens.overlaps(replica=int(alive[0]))


def test_divergence_is_reported_for_the_replica():
    ens = hdsgd.solve_sde(Problem("quadratic", gamma=0.3), at(0.1), 5.0, d=2000, dt=1e-3, replicas=5, rng=0)
    assert np.all(ens.status == Status.DIVERGED)
    assert np.isnan(ens.risk[:, -1]).all()
    assert np.isfinite(ens.risk[:, 0]).all()
    assert np.isnan(ens.exit_time).all()
    assert "decrease gamma" in ens.message


def test_a_step_that_is_too_long_is_reported():
    ens = hdsgd.solve_sde(Problem("quadratic", gamma=0.1), at(0.1), 5.0, d=10, dt=1.0, replicas=20, rng=0)
    assert np.any(ens.status == Status.FAILED)
    assert "decrease dt" in ens.message


def test_a_start_below_the_level_exits_at_once():
    ens = hdsgd.solve_sde(RETRIEVAL, at(0.1, 0.9), 0.1, d=300, dt=1e-2, rng=0, stop=Exit(level=1.0))
    assert ens.exit_time[1] == 0.0
    assert np.isnan(ens.exit_time[0])
    assert np.isfinite(ens.risk[1, 0])


def test_the_same_seed_repeats_the_noise_and_another_does_not():
    # What the documentation warns of where a run goes on: from M = 0 the noise is all that moves it.
    options = {"d": 10_000, "dt": 5e-3, "times": [0.0, 0.05]}
    first = hdsgd.solve_sde(RETRIEVAL, at(0.0), 0.05, replicas=400, rng=5, **options)
    start = first.M[:, -1, 0, 0]

    def correlation(seed):
        rest = hdsgd.solve_sde(RETRIEVAL, first.overlaps(), 0.05, rng=seed, **options)
        return np.corrcoef(start, rest.M[:, -1, 0, 0] - start * np.exp(4 * 0.4 * 0.05))[0, 1]

    assert correlation(first.seed) > 0.9
    assert abs(correlation(6)) < 0.25
    for function in (hdsgd.simulate, hdsgd.solve_sde, hdsgd.Solution.overlaps):
        assert "pass another seed" in " ".join(function.__doc__.split())


def test_progress_and_interrupts():
    seen = []
    hdsgd.solve_sde(RETRIEVAL, at(0.1), 1.0, d=300, dt=1e-3, rng=0, progress=seen.append)
    assert seen == sorted(seen)
    assert 0.9 < seen[-1] <= 1.0

    def interrupt(fraction):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hdsgd.solve_sde(RETRIEVAL, at(0.1), 1.0, d=300, dt=1e-3, rng=0, progress=interrupt)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_cone_at_any_width(backend):
    problem = Problem("quadratic", gamma=0.1, Delta=0.5, spherical=True)
    start = Overlaps(np.eye(2), [[0.99, 0.0], [0.0, 0.99]], np.eye(2))
    ens = hdsgd.solve_sde(problem, start, 0.2, d=5, dt=0.05, replicas=200, rng=0, times=[0.2], backend=backend)
    Omega = np.linalg.eigvalsh(ens.overlaps().Omega)
    assert Omega[:, 0].min() >= -1e-12
    assert Omega[:, 0].min() <= 1e-6  # it was reached
    np.testing.assert_allclose(np.diagonal(ens.Q, axis1=2, axis2=3), 1.0, atol=1e-12)
    np.testing.assert_array_equal(ens.P, np.eye(2))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_route_is_in_the_statistics(backend):
    ens = hdsgd.solve_sde(Problem("sin"), Overlaps.random(2, 1, 50, rng=0), 0.01, d=50, dt=0.01, rng=0, backend=backend)
    route = ens.stats["diffusion"]
    assert route["route"] == "lattice"
    assert 0.0 < route["error"] < 0.05


def moments(sol):
    """Means and variances of all overlaps and the risk, with their standard errors, shapes (2, times * components)."""
    p = sol.Q.shape[-1]
    row, column = np.triu_indices(p, 1 if sol.problem.spherical else 0)
    x = np.concatenate((sol.Q[:, :, row, column], sol.M.reshape(*sol.M.shape[:2], -1), sol.risk[..., None]), axis=-1)
    x = x.reshape(len(x), -1)
    mean, var = x.mean(0), x.var(0)
    fourth = ((x - mean) ** 4).mean(0)
    return np.stack((mean, var)), np.sqrt(np.stack((var, fourth - var**2)) / len(x))


def largest_gaps(name, p, k, gamma, d, replicas):
    """SDE against the exact chain at five times: the largest difference, in standard errors and relatively."""
    problem = Problem(name, gamma=gamma, spherical=True)
    start = Overlaps.random(p, k, 1000, rng=3, spherical=True, orthogonal_teacher=True)
    start = Overlaps(start.Q, start.M + 0.2 * np.eye(p, k), start.P)
    h = problem.step_time(p, d)
    times = np.round(np.linspace(0.2, 1.0, 5) / h) * h
    options = {"d": d, "replicas": replicas, "times": times}
    chain = hdsgd.simulate(problem, start, times[-1] + h / 2, rng=1, **options)
    sde = hdsgd.solve_sde(problem, start, times[-1], rng=2, dt=4e-3, **options)
    assert np.all(sde.status == Status.COMPLETED)
    (exact, spread), (value, error) = moments(chain), moments(sde)
    scale = np.stack((np.maximum(np.abs(exact[0]), np.sqrt(exact[1])), exact[1]))
    return np.abs(value - exact) / np.hypot(spread, error), np.abs(value - exact) / scale


CASES = [("quadratic", 1, 1), ("quadratic", 2, 1), ("quadratic", 5, 1), ("erf", 2, 2)]


@pytest.mark.needs_cc
@pytest.mark.parametrize(("name", "p", "k"), [("quadratic", 1, 1)])
def test_the_chain_at_a_thousand_dimensions(name, p, k):
    z, _ = largest_gaps(name, p, k, 0.1, 1000, 1000)
    assert z.max() <= 4.0


@pytest.mark.slow
@pytest.mark.needs_cc
@pytest.mark.parametrize("gamma", [0.02, 0.1])
@pytest.mark.parametrize(("name", "p", "k"), CASES)
def test_the_chain_with_many_replicas(name, p, k, gamma):
    z, near = largest_gaps(name, p, k, gamma, 1000, 10_000)
    far_z, far = largest_gaps(name, p, k, gamma, 10_000, 10_000)
    assert np.all((far_z <= 4.0) | (far <= 0.01))
    assert np.all((z <= 4.0) | (far <= near / 5.0))


@pytest.mark.slow
@pytest.mark.needs_cc
def test_first_passage_from_zero():
    # The full SDE: 1.319; the linear one, a formula: 1.316; the exact chain: 1.323(3).
    problem = Problem("quadratic", gamma=0.1, spherical=True)
    ens = hdsgd.solve_sde(problem, at(0.0), 20.0, d=3000, replicas=10_000, rng=1, stop=Exit(T=0.01), times=[0.0])
    assert np.all(ens.status == Status.EXITED)
    error = ens.exit_time.std() / np.sqrt(10_000)
    assert error < 0.01
    assert ens.exit_time.mean() == pytest.approx(1.319, abs=3 * error)
    assert escape.from_zero(problem, p=1, d=3000, T=0.01) == pytest.approx(1.316072, abs=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_covariance_to_leading_order(backend):
    """At this gamma/p leaving out the higher orders shows in the variance."""
    problem, d, dt = Problem("quadratic", gamma=4.0, Delta=0.2), 10**6, 1e-4
    start = Overlaps.random(2, 1, 100, rng=4, spherical=False)
    scale = problem.gamma / (2 * d) * dt
    for order in ("all", "leading"):
        ens = hdsgd.solve_sde(
            problem, start, dt, d=d, dt=dt, replicas=20_000, rng=1, times=[dt], order=order, backend=backend
        )
        cov, labels = Dynamics(problem).diffusion(start, order=order)
        found = np.var(ens.Q[:, 0, 0, 0]) / scale
        assert found == pytest.approx(cov[0, 0], rel=4.5 * np.sqrt(2.0 / 20_000)), (order, labels[0])
    full = Dynamics(problem).diffusion(start)[0][0, 0]
    assert abs(full - cov[0, 0]) > 5 * 4.5 * np.sqrt(2.0 / 20_000) * full


def test_an_unknown_order_is_refused():
    with pytest.raises(ValueError, match="leading"):
        hdsgd.solve_sde(RETRIEVAL, at(0.1), 0.1, d=300, order="first")
