"""solve_ode: published trajectories, methods, stops, divergence, the d -> infinity limit of the chain."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hdsgd
from hdsgd import Exit, Overlaps, Problem, Status

DATA = Path(__file__).parent / "data"
TRAJECTORIES = json.loads((DATA / "trajectories.json").read_text())
BACKENDS = ["numpy", pytest.param("c", marks=pytest.mark.needs_cc)]


def published(name):
    about = TRAJECTORIES[name]
    with np.load(DATA / "trajectories.npz") as file:
        data = {key: file[f"{name}/{key}"] for key in ("t", "Q", "M", "P", "Q0", "M0", "risk")}
    problem = Problem(about["activation"], gamma=about["gamma"], Delta=about["Delta"], spherical=about["spherical"])
    return problem, Overlaps(data["Q0"], data["M0"], data["P"]), data


@pytest.mark.parametrize("name", sorted(TRAJECTORIES))
@pytest.mark.parametrize("backend", BACKENDS)
def test_published_trajectories(name, backend):
    problem, start, data = published(name)
    sol = hdsgd.solve_ode(problem, start, data["t"][-1], times=data["t"], backend=backend)
    assert sol.status is Status.COMPLETED
    np.testing.assert_array_equal(sol.t, data["t"])
    for key in ("M", "Q", "risk"):
        np.testing.assert_allclose(getattr(sol, key), data[key], rtol=0, atol=1e-7)


@pytest.mark.parametrize("method", ["DOP853", "RK45", "Radau", "BDF", "LSODA"])
def test_every_method_solves_the_same_equation(method):
    problem, start, data = published("erf_p2k2_noise")
    t = data["t"][:25]
    sol = hdsgd.solve_ode(problem, start, t[-1], times=t, method=method, rtol=1e-9, atol=1e-11)
    assert sol.method == method
    np.testing.assert_allclose(sol.risk, data["risk"][:25], rtol=0, atol=2e-6)


def test_own_steps_and_given_times_agree():
    problem, start, _ = published("sphquad_p2k1")
    own = hdsgd.solve_ode(problem, start, 3.0)
    assert own.t[0] == 0.0
    assert own.t[-1] == 3.0
    assert np.all(np.diff(own.t) > 0)
    assert own.stats["steps"] == own.t.size - 1
    assert own.stats["nfev"] > own.stats["steps"]
    given_times = hdsgd.solve_ode(problem, start, 3.0, times=own.t)
    np.testing.assert_allclose(given_times.M, own.M, atol=1e-9)
    later = hdsgd.solve_ode(problem, start, 3.0, times=[1.0, 2.5])
    np.testing.assert_array_equal(later.t, [1.0, 2.5])
    assert hdsgd.solve_ode(problem, start, 0.0).t.tolist() == [0.0]


def test_gradient_flow_decreases_the_risk_and_is_the_limit_of_small_gamma():
    start = Overlaps.random(3, 2, 100, rng=0, spherical=False)
    flow = hdsgd.solve_ode(Problem("erf", gamma=0.0), start, 20.0)
    assert np.all(np.diff(flow.risk) <= 1e-12)
    small = hdsgd.solve_ode(Problem("erf", gamma=1e-6), start, 20.0, times=[20.0])
    np.testing.assert_allclose(small.M[-1], flow.M[-1], atol=1e-5)


def test_the_sphere_is_kept():
    problem, start, _ = published("sphquad_p2k1")
    sol = hdsgd.solve_ode(problem, start, 5.0)
    np.testing.assert_allclose(np.diagonal(sol.Q, axis1=1, axis2=2), 1.0, atol=1e-12)


@given(st.floats(1e-3, 0.9), st.integers(0, 100))
@settings(max_examples=25, deadline=None)
def test_a_stop_ends_on_the_level(T, seed):
    problem = Problem("quadratic", gamma=0.1, spherical=True)
    start = Overlaps.random(2, 1, 100, rng=seed)
    sol = hdsgd.solve_ode(problem, start, 50.0, stop=Exit(T=T))
    assert sol.status is Status.EXITED
    assert sol.t[-1] == sol.exit_time
    assert sol.risk[-1] == pytest.approx((1 - T) * sol.risk[0], rel=1e-9)
    assert np.all(sol.risk[:-1] > sol.risk[-1])
    # The same time from a trajectory that goes on, by interpolation.
    through = hdsgd.solve_ode(problem, start, sol.exit_time + 0.1, times=np.linspace(0, sol.exit_time + 0.1, 2001))
    assert hdsgd.escape.first_passage(through, T) == pytest.approx(sol.exit_time, abs=1e-6)


def test_times_after_the_exit_are_dropped():
    problem = Problem("quadratic", gamma=0.1, spherical=True)
    start = Overlaps([[1.0]], [[0.1]], [[1.0]])
    sol = hdsgd.solve_ode(problem, start, 10.0, times=np.linspace(0, 10, 101), stop=Exit(level=1.0))
    assert sol.t[-1] <= sol.exit_time < sol.t[-1] + 0.1
    assert sol.status is Status.EXITED


def test_a_start_below_the_level_exits_at_once():
    start = Overlaps([[1.0]], [[0.1]], [[1.0]])
    sol = hdsgd.solve_ode(Problem("quadratic", gamma=0.1), start, 1.0, stop=Exit(level=100.0))
    assert sol.exit_time == 0.0
    assert sol.t.tolist() == [0.0]


def test_an_exit_is_not_missed_between_two_steps():
    # The risk dips to a minimum and returns: with few steps, both ends of a step lie above the level.
    problem = Problem("quadratic", gamma=0.3, Delta=2.0)
    start = Overlaps([[0.2]], [[0.15]], [[1.0]])
    fine = hdsgd.solve_ode(problem, start, 3.0, times=np.linspace(0, 3, 3001))
    lowest = int(np.argmin(fine.risk))
    assert 0 < lowest < 3000
    level = float(fine.risk[lowest]) * (1 + 1e-4) + 1e-4
    sol = hdsgd.solve_ode(problem, start, 3.0, stop=Exit(level=level))
    assert sol.status is Status.EXITED
    assert sol.exit_time <= fine.t[lowest]


@pytest.mark.parametrize("activation", ["quadratic", "he3", "cubic", "linear"])
def test_divergence_is_reported_not_raised(activation):
    start = Overlaps.random(1, 2, 100, rng=0, spherical=False)
    times = np.linspace(0, 50, 11) if activation == "cubic" else None
    sol = hdsgd.solve_ode(Problem(activation, gamma=50.0, Delta=0.1), start, 50.0, times=times)
    assert sol.status is Status.DIVERGED
    assert np.all(np.isfinite(sol.risk))
    assert sol.t[0] == 0.0
    assert np.isnan(sol.exit_time)


def test_a_blow_up_of_the_risk_alone_is_a_divergence():
    # x**6: the risk grows by eight orders of magnitude before any overlap reaches 100.
    start = Overlaps.random(2, 1, 100, rng=0, spherical=False)
    sol = hdsgd.solve_ode(Problem("x**6 + x/5", gamma=1e-6), start, 10.0)
    assert np.abs(sol.Q).max() < 100
    assert sol.status is Status.DIVERGED
    assert "decrease gamma" in sol.message


def test_rounding_of_the_last_time_is_accepted():
    problem, start = Problem("erf"), Overlaps.random(1, 1, 50, rng=0)
    times = np.arange(0, 0.35, 0.1)
    assert times[-1] > 0.3
    sol = hdsgd.solve_ode(problem, start, 0.3, times=times)
    np.testing.assert_array_equal(sol.t, [0.0, 0.1, 0.2, 0.3])
    assert hdsgd.simulate(problem, start, 0.3, d=50, times=times).t.size == 4
    with pytest.raises(ValueError, match="increase t_max"):
        hdsgd.solve_ode(problem, start, 0.3, times=times * (1 + 1e-14))


@pytest.mark.parametrize(
    ("p", "k", "backend", "floor"),
    # The stable fixed point on the blue line at Delta = 1e-3 is 1.140e-4.
    [(2, 1, "numpy", None), pytest.param(8, 4, "c", 1.140e-4, marks=pytest.mark.needs_cc)],
)
def test_a_stiff_solver_takes_over_where_stability_limits_the_steps(p, k, backend, floor):
    problem = Problem("erf", gamma=float(p), Delta=1e-3)
    start = Overlaps.random(p, k, 1000, rng=0, spherical=False, orthogonal_teacher=True)
    times = np.geomspace(1e-2, 1e4, 20)
    auto = hdsgd.solve_ode(problem, start, 1e4, times=times, backend=backend)
    explicit = hdsgd.solve_ode(problem, start, 1e4, times=times, method="DOP853", backend=backend)
    assert auto.method == "DOP853+Radau"
    assert auto.stats["nfev"] < explicit.stats["nfev"]
    np.testing.assert_allclose(auto.Q, explicit.Q, rtol=0, atol=1e-8)
    np.testing.assert_allclose(auto.M, explicit.M, rtol=0, atol=1e-8)
    if floor is not None:
        assert auto.risk[-1] == pytest.approx(floor, rel=0.03)


def test_tolerances_are_met():
    problem, start, data = published("quad_p3k3_noise_quad")
    errors = []
    for rtol in (1e-4, 1e-6, 1e-8):
        sol = hdsgd.solve_ode(problem, start, data["t"][-1], times=data["t"], rtol=rtol, atol=rtol / 100)
        errors.append(np.abs(sol.M - data["M"]).max() / rtol)
    assert max(errors) < 10.0


def test_second_layers_enter():
    start = Overlaps.random(2, 2, 50, rng=3)
    signs = Overlaps(start.Q, start.M, start.P, a=[-1, -1], a_star=[-1, -1])
    one, other = (hdsgd.solve_ode(Problem("erf", gamma=1.0), s, 5.0, times=[5.0]) for s in (start, signs))
    np.testing.assert_allclose(one.M, other.M, rtol=1e-9)
    np.testing.assert_array_equal(other.a, [[-1.0, -1.0]])


@pytest.mark.parametrize("name", ["linear", "relu"])
@pytest.mark.parametrize("method", ["DOP853", "Radau"])
def test_layers_stay_balanced(name, method):
    """Gradient flow of a homogeneous student conserves (gamma_a/gamma) Q_jj - a_j^2 (Du et al. 2018, 1806.00900)."""
    rng = np.random.default_rng(1)
    start = Overlaps.from_weights(rng.normal(size=(3, 20)), rng.normal(size=(2, 20)), rng.normal(size=3))
    problem = Problem(name, gamma=0.0, second_layer_ratio=0.4)
    sol = hdsgd.solve_ode(problem, start, 10.0, method=method, rtol=1e-10, atol=1e-12)
    kept = 0.4 * np.diagonal(sol.Q, axis1=1, axis2=2) - sol.a**2
    np.testing.assert_allclose(kept, np.broadcast_to(kept[0], kept.shape), atol=1e-7)
    assert np.abs(sol.a[-1] - sol.a[0]).max() > 0.1
    assert sol.risk[-1] < sol.risk[0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_that_are_not_used_decay(backend):
    start = Overlaps.random(2, 1, 30, rng=0)
    unused = Overlaps(start.Q, start.M, start.P, a=[0.0, 0.0])
    sol = hdsgd.solve_ode(Problem("erf", weight_decay=0.7), unused, 3.0, backend=backend)
    np.testing.assert_allclose(sol.M[-1], start.M * np.exp(-2.1), rtol=1e-7)
    np.testing.assert_allclose(sol.Q[-1], start.Q * np.exp(-4.2), rtol=1e-7)


def test_a_batch_acts_as_a_smaller_learning_rate():
    start = Overlaps.random(2, 2, 50, rng=3)
    batch, single = (
        hdsgd.solve_ode(Problem("erf", gamma=0.8 / n, Delta=0.1, batch_size=4 // n), start, 5.0, times=[2.0, 5.0])
        for n in (1, 4)
    )
    np.testing.assert_allclose(batch.Q, single.Q, rtol=1e-12)
    np.testing.assert_allclose(batch.alpha, 4 * batch.t * 2 / 0.8)  # samples per dimension
    np.testing.assert_allclose(batch.alpha, single.alpha)


def test_a_stop_with_a_trained_second_layer():
    problem = Problem("erf", gamma=0.5, second_layer_ratio=1.0)
    sol = hdsgd.solve_ode(problem, Overlaps.random(2, 1, 50, rng=0), 50.0, stop=Exit(T=0.5))
    assert sol.status is Status.EXITED
    np.testing.assert_allclose(sol.risk[-1], 0.5 * sol.risk[0], rtol=1e-9)
    np.testing.assert_allclose(hdsgd.Dynamics(problem).risk(sol.overlaps()), sol.risk[-1], rtol=1e-9)
    rest = hdsgd.solve_ode(problem, sol.overlaps(), 1.0)
    np.testing.assert_array_equal(rest.a[0], sol.a[-1])


@pytest.mark.parametrize("gamma", [1e150, 1e200, 1e300])
@pytest.mark.parametrize("spherical", [False, True])
def test_derivatives_beyond_floating_point_are_refused(gamma, spherical):
    problem = Problem("quadratic", gamma=gamma, spherical=spherical)
    with pytest.raises(ValueError, match="decrease gamma"):
        hdsgd.solve_ode(problem, Overlaps.random(2, 1, 50, rng=0), 1.0)


def test_progress_runs_to_the_end():
    seen = []
    hdsgd.solve_ode(Problem("erf"), Overlaps.random(2, 1, 50, rng=0), 5.0, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_an_interrupt_is_raised_again():
    def interrupt(fraction):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hdsgd.solve_ode(Problem("erf"), Overlaps.random(2, 1, 50, rng=0), 5.0, progress=interrupt)


def test_the_chain_tends_to_the_ode():
    problem = Problem("erf", gamma=2.0, Delta=0.01)
    start = Overlaps([[1.0, 0.3], [0.3, 0.8]], [[0.5], [0.2]], [[1.0]])
    limit = hdsgd.solve_ode(problem, start, 2.0, times=np.linspace(0, 2, 21))
    gaps = []
    for d in (100, 10_000):
        chain = hdsgd.simulate(problem, start, 2.0, d=d, replicas=20, rng=0, times=np.linspace(0, 2, 21))
        gaps.append(np.abs(chain.M - limit.M).max(axis=(1, 2, 3)).mean())
    # The deviation falls as d^(-1/2).
    assert gaps[1] == pytest.approx(gaps[0] / 10, rel=0.5)
