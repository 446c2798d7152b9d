"""simulate: where runs end, by an exit or by divergence."""

import numpy as np
import pytest

from hdsgd import Exit, Overlaps, Problem, Status, simulate

C = pytest.param("c", marks=pytest.mark.needs_cc)
SPHERE = Problem("quadratic", gamma=0.1, Delta=1e-4, spherical=True)
FREE = Problem("erf", gamma=1.0, Delta=0.1)


def start(problem, p, k, d, replicas=None):
    return Overlaps.random(p, k, d, rng=3, spherical=problem.spherical, replicas=replicas)


@pytest.mark.parametrize("backend", [C, "numpy"])
@pytest.mark.parametrize("method", ["overlaps", "weights"])
@pytest.mark.parametrize(("problem", "p", "k"), [(SPHERE, 1, 1), (SPHERE, 2, 1), (FREE, 2, 2)])
def test_the_exit_is_the_first_step_below_the_level(backend, method, problem, p, k):
    d = 30
    state, unit = start(problem, p, k, d), problem.step_time(p, d)
    every = np.arange(401) * unit
    options = {"d": d, "rng": 2, "replicas": 6, "method": method, "backend": backend, "times": every}
    free_run = simulate(problem, state, every[-1], **options)
    T = 0.3
    stopped = simulate(problem, state, every[-1], stop=Exit(T=T), **options)
    level = (1 - T) * free_run.risk[:, 0]
    below = free_run.risk <= level[:, None]
    first = np.where(below.any(axis=1), below.argmax(axis=1), -1)
    assert (first > 0).any()
    np.testing.assert_array_equal(stopped.status, np.where(first >= 0, Status.EXITED, Status.COMPLETED))
    np.testing.assert_array_equal(stopped.exit_time, np.where(first >= 0, first * unit, np.nan))
    for i, step in enumerate(first):
        if step >= 0:  # stored up to the exit, and nothing after it
            np.testing.assert_array_equal(stopped.risk[i, : step + 1], free_run.risk[i, : step + 1])
            assert np.isnan(stopped.M[i, step + 1 :]).all()
            assert np.isnan(stopped.a[i, step + 1 :]).all()
    absolute = simulate(problem, state, every[-1], stop=Exit(level=float(level[0])), **options)
    np.testing.assert_array_equal(absolute.exit_time, stopped.exit_time)  # all start at one risk


FEATURES = [
    {"spherical": True},
    {"weight_decay": 0.3},
    {"spherical": True, "second_layer_ratio": 0.5},
    {"batch_size": 3},
]


@pytest.mark.needs_cc
@pytest.mark.parametrize("features", FEATURES, ids=lambda features: " ".join(features))
@pytest.mark.parametrize(("p", "k"), [(1, 1), (1, 3), (2, 2), (8, 4)])
@pytest.mark.parametrize(("activation", "gamma"), [("erf", 1.5), ("relu", 0.5), ("quadratic", 0.05), ("he3", 0.01)])
def test_exits_found_by_bounds_are_those_of_every_step(activation, gamma, p, k, features):
    # the chain in C computes the risk only when a bound of its change does not decide
    problem, d, steps = Problem(activation, gamma=gamma * p, Delta=0.05, **features), 60, 1500
    state, unit = start(problem, p, k, d), problem.step_time(p, d)
    options = {"d": d, "replicas": 12, "rng": 1, "backend": "c"}
    every = simulate(problem, state, steps * unit, times=np.arange(steps + 1) * unit, **options)
    for T in (0.02, 0.1, 0.3):
        below = every.risk <= (1 - T) * every.risk[:, :1]
        first = np.where(below.any(axis=1), below.argmax(axis=1) * unit, np.nan)
        stopped = simulate(problem, state, steps * unit, times=[0.0], stop=Exit(T=T), **options)
        np.testing.assert_array_equal(stopped.exit_time, first)


@pytest.mark.needs_cc
@pytest.mark.parametrize(("p", "level"), [(1, 1e-25), (2, 1e-25), (6, 1e-25), (1, 1e-27)])
def test_perfect_learning_is_followed_far_below_rounding(p, level):
    # the risk is formed in the frame: from Q, M and P it could not be told from zero below 1e-16
    problem = Problem("quadratic", gamma=0.1 * min(p, 3), spherical=True)
    state = Overlaps(np.eye(p), 0.95 * np.eye(p), np.eye(p))
    times = np.linspace(0.0, 80.0, 401)
    sol = simulate(problem, state, 80.0, d=50, replicas=64, rng=1, times=times, stop=Exit(level=level), backend="c")
    np.testing.assert_array_equal(sol.status, Status.EXITED)
    assert (sol.risk > level)[sol.t < sol.exit_time[:, None]].all()  # so never negative
    rates = []  # log(risk) falls as steadily below 1e-17 as above
    for high, low in ((1e-5, 1e-13), (1e-17, 1e-24)):
        inside = (sol.risk < high) & (sol.risk > low)
        first, last = inside.argmax(axis=1), 400 - inside[:, ::-1].argmax(axis=1)
        rows = np.arange(64)
        rates.append(np.log(sol.risk[rows, last] / sol.risk[rows, first]) / (sol.t[last] - sol.t[first]))
    difference = rates[0] - rates[1]
    assert abs(difference.mean()) < 4.5 * difference.std() / 8.0
    assert np.mean(rates) < -1.0
    with pytest.raises(ValueError, match="hides an exit at 1e-25; choose a level above"):
        simulate(Problem("erf"), state, 1.0, d=50, stop=Exit(level=1e-25), backend="c")


@pytest.mark.parametrize("backend", [C, "numpy"])
def test_a_single_run_ends_at_its_exit(backend):
    state = start(SPHERE, 1, 1, 40)
    sol = simulate(SPHERE, state, 50.0, d=40, rng=1, stop=Exit(T=0.5), backend=backend)
    assert sol.status is Status.EXITED
    assert sol.t[-1] == sol.exit_time
    assert sol.risk[-1] <= 0.5 * sol.risk[0] < sol.risk[-2]
    again = simulate(SPHERE, sol.overlaps(), 1.0, d=40, rng=1, backend=backend)  # from there on
    assert again.risk[0] == pytest.approx(sol.risk[-1], abs=1e-12)
    given = simulate(SPHERE, state, 50.0, d=40, rng=1, times=[0.0, 50.0], stop=Exit(T=0.5), backend=backend)
    assert given.exit_time == sol.exit_time
    np.testing.assert_array_equal(given.t, [0.0])


@pytest.mark.parametrize("backend", [C, "numpy"])
@pytest.mark.parametrize("method", ["overlaps", "weights"])
def test_a_start_below_the_level_exits_at_once(backend, method):
    state = start(FREE, 2, 1, 20)
    sol = simulate(FREE, state, 1.0, d=20, rng=0, replicas=2, stop=Exit(level=10.0), method=method, backend=backend)
    np.testing.assert_array_equal(sol.exit_time, 0.0)
    np.testing.assert_array_equal(np.isfinite(sol.risk), np.tile(sol.steps == 0, (2, 1)))
    if method == "overlaps":  # the risk of weights realising these would be 1e-33, not 0
        perfect = Overlaps(np.eye(2), np.eye(2), np.eye(2))
        sol = simulate(FREE, perfect, 1.0, d=20, rng=0, stop=Exit(T=0.5), backend=backend)
        assert sol.exit_time == 0.0


@pytest.mark.parametrize("backend", [C, "numpy"])
@pytest.mark.parametrize("method", ["overlaps", "weights"])
@pytest.mark.parametrize(("p", "k"), [(1, 1), (2, 2)])
def test_divergence_is_reported(backend, method, p, k):
    wild = Problem("quadratic", gamma=4.0 * p)
    state = start(wild, p, k, 20)
    sol = simulate(wild, state, 2000.0, d=20, rng=0, replicas=3, times=[0.0, 2000.0], method=method, backend=backend)
    np.testing.assert_array_equal(sol.status, Status.DIVERGED)
    assert "decrease gamma" in sol.message
    assert np.isfinite(sol.risk[:, 0]).all()
    assert np.isnan(sol.Q[:, 1]).all()
    assert np.isnan(sol.exit_time).all()
    assert sol.weights is None
    one = simulate(wild, state, 2000.0, d=20, rng=0, method=method, backend=backend, stop=Exit(level=1e-12))
    assert one.status is Status.DIVERGED
    assert np.isfinite(one.risk).all()
