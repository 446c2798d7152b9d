"""The phase diagram: regions in rational numbers, and each region's ODE in its own clock."""

from fractions import Fraction

import numpy as np
import pytest

from hdsgd import Overlaps, scaling, simulate


@pytest.mark.parametrize(
    ("kappa", "delta", "region", "step", "terms"),
    [
        (0, "1/2", "green", Fraction(-3, 2), ("drift",)),
        (0.1, 0.2, "green", Fraction(-13, 10), ("drift",)),
        ("1/3", "-1/3", "blue", Fraction(-1), ("drift", "noise")),
        (0.1 + 0.2, "-3/10", "green", None, ("drift",)),  # not 3/10, and the digits say so
        (0.3, -0.3, "blue", Fraction(-1), ("drift", "noise")),
        (0, "-3/8", "orange", Fraction(-1, 4), ("noise",)),
        (0, "-1/2", "red", Fraction(0), ()),
        ("11/10", "-11/5", "red", Fraction(6, 5), ()),
    ],
)
def test_regions(kappa, delta, region, step, terms):
    point = scaling(kappa, delta)
    assert (point.region, point.terms) == (region, terms)
    assert step is None or point.step_exponent == step
    assert region in str(point)


def informed_start(p=8, k=4, seed=0):
    A = np.random.default_rng(seed).normal(size=(p, k))
    A /= np.linalg.norm(A, axis=1, keepdims=True)
    return Overlaps(A @ A.T, A, np.eye(k))


def test_orange_ode():
    """Veiga et al. 2022, (8, 4), g0 = 1, Delta = 0: reference trajectory of one start."""
    times = [0.0, 1.0, 10.0, 100.0, 1000.0, 10000.0]
    _, M, risk = scaling(0, "-1/4", 8, 8).solve(informed_start(), times, activation="erf")
    np.testing.assert_allclose(risk, [0.0679, 0.0739, 0.126, 0.222, 0.191, 0.152], rtol=5e-3)
    assert (M[0] == M).all()


@pytest.mark.parametrize("delta", [0, "-1/4", pytest.param("1/2", marks=pytest.mark.needs_cc)])
def test_simulation_in_the_regions_clock(delta):
    """The exact chain at growing d approaches the limit ODE of each region."""
    point, start, taus = scaling(0, delta, 2, 1), informed_start(2, 2, seed=1), np.array([0.0, 1.0, 3.0])
    _, _, limit = point.solve(start, taus, activation="erf", Delta=0.01)
    gaps = []
    for d in (200, 10**4):
        problem = point.problem(d, activation="erf", Delta=0.01)
        times = point.time(taus, d)
        runs = simulate(problem, start, float(times[-1]) * (1 + 1e-9), d=d, replicas=32, rng=3, times=times)
        gaps.append(np.abs(runs.risk.mean(axis=0) - limit).max() / limit.max())
    assert gaps[1] < max(0.5 * gaps[0], 0.02)
    assert gaps[1] < 0.1


def test_bad_input():
    with pytest.raises(ValueError, match="rational"):
        scaling("half", 0)
    with pytest.raises(ValueError, match="no ODE"):
        scaling(0, -1).solve(informed_start(), [0.0, 1.0], activation="erf")
    with pytest.raises(ValueError, match="p0"):
        scaling(0, 0, p0=0.0)
