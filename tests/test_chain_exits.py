"""Exits of wide students: the chain in C keeps the overlaps where a bound of the risk's change would not last.

Whatever decides that there is no exit yet, the exit is the first step at which the risk, as it is stored, has reached
the level.
"""

import numpy as np
import pytest

from hdsgd import Exit, Overlaps, Problem, Schedule, Status, _simulate_c, simulate

pytestmark = pytest.mark.needs_cc

# problem, p, k, d, steps
CASES = {
    "narrowest": (Problem("quadratic", gamma=0.5, Delta=1e-3, spherical=True), 5, 1, 1000, 1500),
    "narrow and free": (Problem("erf", gamma=3.0, Delta=1e-3), 6, 2, 1000, 1500),
    "narrow": (Problem("quadratic", gamma=0.8, Delta=1e-3, spherical=True), 8, 1, 400, 1200),
    "retrieval": (Problem("quadratic", gamma=2.0, Delta=1e-3, spherical=True), 20, 1, 500, 1500),
    "wide": (Problem("quadratic", gamma=9.0, Delta=1e-4, spherical=True), 90, 1, 400, 600),
    "flat": (Problem("quadratic", gamma=6.0, Delta=1e-4, spherical=True), 60, 1, 20_000, 700),
    "free": (Problem("quadratic", gamma=1.5, Delta=1e-3), 24, 3, 400, 1200),
    "decay": (Problem("quadratic", gamma=1.5, Delta=1e-3, weight_decay=1.0), 17, 2, 400, 1200),
    "second layer": (Problem("erf", gamma=8.0, Delta=0.01, second_layer_ratio=0.5), 9, 2, 200, 1200),
    "both layers on the sphere": (
        Problem("quadratic", gamma=0.8, Delta=1e-3, spherical=True, second_layer_ratio=0.5),
        *(12, 2, 300, 1200),
    ),
    "erf": (Problem("erf", gamma=20.0, Delta=0.1, spherical=True), 33, 2, 500, 800),
    "relu": (Problem("relu", gamma=12.0, Delta=0.05), 30, 2, 500, 800),
    "he3": (Problem("he3", gamma=0.2, Delta=0.01, spherical=True), 16, 1, 200, 1500),
}


def first_below(sol, level):
    """The first stored time, for each replica, at which the risk is at most `level`; NaN where there is none."""
    below = sol.risk <= level
    return np.where(below.any(axis=1), sol.t[below.argmax(axis=1)], np.nan)


def paths(problem, p, k, d, steps, seed=1):
    state = Overlaps.random(p, k, d, rng=seed, spherical=problem.spherical)
    unit = problem.step_time(p, d)
    options = {"d": d, "replicas": 3, "rng": seed, "backend": "c"}
    every = simulate(problem, state, steps * unit, times=np.arange(steps + 1) * unit, **options)
    return every, (problem, state, steps * unit), {**options, "times": [0.0]}


@pytest.mark.parametrize("name", CASES)
def test_the_exit_is_the_first_step_below_the_level(name):
    every, positional, options = paths(*CASES[name])
    risk = every.risk[0]
    lower = np.flatnonzero(risk[1:] < np.minimum.accumulate(risk)[:-1]) + 1  # than ever before
    assert lower.size > 5
    at_ends_of_blocks = lower[lower % 256 == 0][:2]
    for step in (*lower[[0, lower.size // 3, -1]], *at_ends_of_blocks):
        level = risk[step]  # which the first replica just reaches
        stopped = simulate(*positional, stop=Exit(level=level), **options)
        np.testing.assert_array_equal(stopped.exit_time, first_below(every, level))
        assert stopped.exit_time[0] == every.t[step]
        later = simulate(*positional, stop=Exit(level=level * (1.0 - 1e-11)), **options)
        assert not later.exit_time[0] <= every.t[step]


def test_exits_of_long_runs_are_exact():
    problem = Problem("quadratic", gamma=0.16, Delta=1e-2, spherical=True, second_layer_ratio=0.3)
    every, positional, options = paths(problem, 8, 1, 5000, 50_000)
    level = np.partition(every.risk[0], 20)[20]
    expected = first_below(every, level)
    assert expected[0] > 20_000 * problem.step_time(8, 5000)
    np.testing.assert_array_equal(simulate(*positional, stop=Exit(level=level), **options).exit_time, expected)


def test_a_run_may_be_cut_while_overlaps_are_kept(tmp_path, monkeypatch):
    _, positional, options = paths(*CASES["retrieval"])
    options["stop"] = Exit(T=0.01)
    whole = simulate(*positional, **options)
    assert (whole.status == Status.EXITED).any()
    run = _simulate_c.run
    path = tmp_path / "run.checkpoint"
    for cut in (1, 100, 101, 255, 256, 500):
        with monkeypatch.context() as patch:
            patch.setattr(_simulate_c, "run", lambda *given, until=cut: run(*given, until=until))
            simulate(*positional, **options, checkpoint=path)
    resumed = simulate(*positional, **options, checkpoint=path)
    for field in ("exit_time", "status", "Q", "M", "risk"):
        np.testing.assert_array_equal(getattr(resumed, field), getattr(whole, field), err_msg=field)


def test_the_learning_rate_may_change_while_overlaps_are_kept():
    p, d, steps, unit = 20, 500, 1500, 2.0 / (20 * 500)
    problem = Problem("quadratic", gamma=Schedule((0.0, 300.5 * unit), (2.0, 3.0)), Delta=1e-3, spherical=True)
    state = Overlaps.random(p, 1, d, rng=1)
    options = {"d": d, "replicas": 3, "rng": 1, "backend": "c"}
    t_max = problem.gamma.times[1] + 1.5 * (steps - 300) * unit
    every = simulate(problem, state, t_max, times=np.linspace(0.0, t_max, 20 * steps), **options)
    assert (np.diff(every.steps) <= 1).all()
    expected = first_below(every, 0.99 * every.risk[:, :1])
    assert np.nanmax(expected) > problem.gamma.times[1]
    stopped = simulate(problem, state, t_max, times=[0.0], stop=Exit(T=0.01), **options)
    np.testing.assert_array_equal(stopped.exit_time, expected)


def test_divergence_is_found_while_overlaps_are_kept():
    problem = Problem("quadratic", gamma=60.0, second_layer_ratio=0.1)
    state = Overlaps.random(12, 1, 60, rng=1, spherical=False)
    options = {"d": 60, "replicas": 4, "rng": 1, "backend": "c", "times": [0.0, 1.0, 100.0]}
    freely = simulate(problem, state, 100.0, **options)
    assert (freely.status == Status.DIVERGED).all()
    stopped = simulate(problem, state, 100.0, stop=Exit(level=1e-6), **options)
    np.testing.assert_array_equal(stopped.status, freely.status)
    np.testing.assert_array_equal(stopped.risk, freely.risk)
