"""The distance between the exact simulation and the ODEs, and how it shrinks with the time of a step."""

import numpy as np
import pytest

from hdsgd import Overlaps, Problem, deviation, scaling, simulate, solve_ode

SMALL = Overlaps([[1.0, 0.2], [0.2, 1.0]], [[0.5], [-0.2]], [[1.0]])


def large():
    A = np.random.default_rng(0).normal(size=(8, 4))
    return Overlaps.mixed(A / np.linalg.norm(A, axis=1, keepdims=True))


def exponent(delta, state, dimensions, *, against_limit=False, replicas=32, tau=2.0):
    """Slope of log deviation against the log of the time of a step, with its standard error; checkpoints on steps."""
    point, steps, found = scaling(0, delta, state.p, state.p), [], []
    for d in dimensions:
        step = point.step_time(d)
        taus = step * max(1, round(tau / (10 * step))) * np.arange(1, 11)
        against = None
        if against_limit:
            Q, M, _ = point.solve(state, np.concatenate(([0.0], taus)), activation="erf")
            against = Q[1:], M[1:]
        t_max, problem = float(point.time(taus[-1], d)), point.problem(d, activation="erf")
        found.append(deviation(problem, state, t_max, d=d, replicas=replicas, rng=d, against=against))
        steps.append(step)
    mean, error = (np.array([getattr(x, name) for x in found]) for name in ("mean", "error"))
    fit, cov = np.polyfit(np.log(steps), np.log(mean), 1, w=mean / error, cov="unscaled")
    return fit[0], cov[0, 0] ** 0.5


def test_it_is_what_it_says():
    problem = Problem("erf", gamma=2.0, Delta=0.1)
    found = deviation(problem, SMALL, 1.0, d=50, replicas=3, rng=4, checkpoints=5)
    runs = simulate(problem, SMALL, 1.0, d=50, replicas=3, rng=4, times=[0.2, 0.4, 0.6, 0.8, 1.0])
    ode = solve_ode(problem, SMALL, 1.0, times=runs.t)
    gap = np.array([runs.overlaps(i).Omega - ode.overlaps(i).Omega for i in range(5)])
    np.testing.assert_allclose(found.each, np.abs(gap).max(axis=(0, 2, 3)), rtol=1e-10)
    assert found.mean == pytest.approx(np.mean(found.each))
    assert str(found) == f"Deviation(mean={found.mean:.6g}, error={found.error:.2g}, 3 replicas)"
    assert np.isnan(deviation(problem, SMALL, 1.0, d=50, replicas=1, rng=4).error)
    with pytest.raises(ValueError, match="replica"):
        deviation(problem, Overlaps.random(2, 1, 50, rng=0, replicas=2), 1.0, d=50)


@pytest.mark.needs_cc
@pytest.mark.parametrize("state", [SMALL, large()], ids=["2,1", "8,4"])
def test_blue_line(state):
    slope, error = exponent("0", state, [10**2, 10**3, 10**4], replicas=48)
    assert abs(slope - 0.5) < 0.03 + error


@pytest.mark.needs_cc
def test_orange():
    for against_limit in (False, True):
        slope, _ = exponent("-1/4", SMALL, [10**4, 10**6, 10**8], replicas=256, against_limit=against_limit)
        assert abs(slope - 0.5) < 0.03


@pytest.mark.slow
@pytest.mark.needs_cc
def test_blue_line_over_five_decades():
    slope, error = exponent("0", SMALL, [10**n for n in range(2, 8)], replicas=32)
    assert error < 0.01
    assert abs(slope - 0.5) < 0.03


@pytest.mark.slow
@pytest.mark.needs_cc
def test_blue_line_of_a_larger_network():
    slope, error = exponent("0", large(), [10**n for n in range(2, 6)], replicas=64)
    assert error < 0.01
    assert abs(slope - 0.5) < 0.03


@pytest.mark.slow
@pytest.mark.needs_cc
@pytest.mark.parametrize(("delta", "low", "high", "last"), [("1/4", 0.2, 0.26, 5), ("1/2", 1 / 3, 0.42, 4)])
def test_green_against_both_odes(delta, low, high, last):
    """Against the limit ODE the exponent falls to s/(1 + s), s = kappa + delta, as d grows."""
    dimensions = [10**n for n in range(2, last + 1)]
    slope, error = exponent(delta, SMALL, dimensions)
    assert abs(slope - 0.5) < 0.03
    slope, error = exponent(delta, SMALL, dimensions, against_limit=True)
    assert low - 2 * error < slope < high + 2 * error


def test_overlaps_of_another_shape_are_refused():
    Q, M = np.zeros((4, 2, 2)), np.zeros((4, 2, 1))
    deviation(Problem(), SMALL, 1.0, d=10, replicas=1, checkpoints=4, against=(Q, M))
    for wrong, message in (((Q[:3], M), "Q of against"), ((Q, M[..., 0]), "M of against"), ((Q[:, :1], M), "Q of")):
        with pytest.raises(ValueError, match=rf"{message}.* must have shape \(4, 2, \d\), got"):
            deviation(Problem(), SMALL, 1.0, d=10, replicas=1, checkpoints=4, against=wrong)


def test_checkpoints_that_fall_on_one_step():
    start = Overlaps([[1.0, 0.2], [0.2, 1.0]], [[0.5], [-0.2]], [[1.0]])
    assert deviation(Problem("erf", gamma=2.0), start, 0.1, d=30, rng=0).mean > 0.0


def test_an_ode_that_ends_early_says_so():
    start = Overlaps([[1.0, 0.2], [0.2, 1.0]], [[0.5], [-0.2]], [[1.0]])
    with pytest.raises(ValueError, match="earlier t_max"):
        deviation(Problem("quadratic", gamma=6.0), start, 3.0, d=100, rng=0, checkpoints=4)
