"""solve_sde: its law against quadrature, streams, first passage, refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import cumulative_trapezoid

import hdsgd
from hdsgd import Dynamics, Exit, Overlaps, Problem, Status

STARTS = json.loads((Path(__file__).parent / "data" / "published_exit_times.json").read_text())["start"]
BACKENDS = ["numpy", pytest.param("c", marks=pytest.mark.needs_cc)]
RETRIEVAL = Problem("quadratic", gamma=0.1, Delta=1e-4, spherical=True)


def at(*m):
    if len(m) == 1:
        return Overlaps([[1.0]], [[m[0]]], [[1.0]])
    return Overlaps([[1.0]], np.array(m)[:, None, None], [[1.0]])


def mean_exit(problem, m0, T, d):
    """Mean first passage of |m| by the backward equation v/2 tau'' + b tau' = -1, tau = 0 at both levels."""
    edge = np.sqrt(T + (1 - T) * m0**2)
    x = np.linspace(-edge, edge, 20_001)
    dyn = Dynamics(problem, "numpy")
    states = Overlaps(np.ones((x.size, 1, 1)), x[:, None, None], [[1.0]])
    b = dyn.drift(states).dM[:, 0, 0]
    v = problem.gamma / d * dyn.diffusion(states)[0][:, 1, 1]
    integral = lambda y: cumulative_trapezoid(y, x=x, initial=0)  # noqa: E731
    scale = np.exp(integral(2 * b / v))
    inner = integral(2 / v * scale)
    one, other = integral(inner / scale), integral(1 / scale)
    return float(np.interp(m0, x, one[-1] / other[-1] * other - one))


def test_the_published_start_has_the_mean_exit_of_the_theory():
    assert mean_exit(RETRIEVAL, STARTS["p1"]["M0"][0][0], 0.01, 3000) == pytest.approx(1.1386, abs=1e-3)


@pytest.mark.parametrize(("dt", "replicas"), [(2e-3, 1500), (2e-2, 12_000)])
def test_exit_times_follow_the_law_of_the_sde(dt, replicas):
    # The coarser step shows the bridge: testing only the ends of the steps comes out 0.040 late. Of the rest 0.55 dt is
    # Euler's own: a mode of rate 1.6 grows at 1.6 (1 - 0.8 dt).
    m0, T, d = 0.1, 0.05, 300
    ens = hdsgd.solve_sde(RETRIEVAL, at(m0), 20.0, d=d, dt=dt, replicas=replicas, rng=1, stop=Exit(T=T), times=[0.0])
    assert np.all(ens.status == Status.EXITED)
    error = ens.exit_time.std() / np.sqrt(replicas)
    assert ens.exit_time.mean() == pytest.approx(mean_exit(RETRIEVAL, m0, T, d), abs=3 * error + 0.6 * dt)


@pytest.mark.slow
def test_the_published_start_by_many_replicas():
    start = Overlaps(STARTS["p1"]["Q0"], STARTS["p1"]["M0"], STARTS["p1"]["P"])
    ens = hdsgd.solve_sde(RETRIEVAL, start, 20.0, d=3000, replicas=20_000, rng=0, stop=Exit(T=0.01), times=[0.0])
    assert ens.exit_time.mean() == pytest.approx(1.1386, abs=3.5 * ens.exit_time.std() / np.sqrt(20_000) + 1e-3)


@pytest.mark.parametrize("spherical", [True, False])
def test_one_step_has_the_drift_and_the_covariance(spherical):
    problem = Problem("quadratic", gamma=0.3, Delta=0.2, spherical=spherical)
    start, d, dt, replicas = at(0.4), 1000, 1e-3, 40_000
    ens = hdsgd.solve_sde(problem, start, dt, d=d, dt=dt, replicas=replicas, rng=3, times=[dt])
    X = np.concatenate((ens.Q[:, 0, 0], ens.M[:, 0, 0]), axis=-1) - [1.0, 0.4]
    dyn = Dynamics(problem)
    drift, (cov, _) = dyn.drift(start), dyn.diffusion(start)
    cov = cov * 0.3 / d * dt
    mean = np.array([drift.dQ[0, 0], drift.dM[0, 0]]) * dt
    assert np.all(np.abs(X.mean(0) - mean) <= 4 * np.sqrt(np.diag(cov) / replicas) + 1e-15)
    np.testing.assert_allclose(np.cov(X.T), cov, rtol=0.04, atol=1e-15)


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


def test_without_noise_it_is_the_euler_scheme():
    problem = Problem("quadratic", gamma=0.0)
    ens = hdsgd.solve_sde(problem, at(0.2), 1.0, d=100, dt=1e-3, replicas=2, rng=0)
    np.testing.assert_array_equal(ens.M[0], ens.M[1])
    exact = hdsgd.solve_ode(problem, at(0.2), 1.0, times=ens.t)
    np.testing.assert_allclose(ens.M[0], exact.M, atol=5e-3)
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


@pytest.mark.parametrize(
    ("problem", "state"),
    [
        (Problem("erf"), at(0.1)),
        (RETRIEVAL, Overlaps.random(2, 1, 100, rng=0)),
        (RETRIEVAL, Overlaps.random(1, 2, 9, rng=0)),
    ],
)
def test_what_has_no_diffusion_yet_is_refused(problem, state):
    with pytest.raises(ValueError, match=r"hdsgd\.simulate"):
        hdsgd.solve_sde(problem, state, 1.0, d=300)
