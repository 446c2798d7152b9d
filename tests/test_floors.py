"""Floors of noisy SGD: stable fixed points near perfect learning, against ODE, simulation and formulas."""

import numpy as np
import pytest

from hdsgd import Overlaps, Problem, Schedule, fixed_point, floor, integral, scaling, simulate, solve_ode

COPIES = Overlaps.mixed(np.repeat(np.eye(4), 2, axis=0))  # perfect learning at (8, 4)


def erf(rate, Delta, **options):
    return Problem("erf", gamma=8.0 * rate, Delta=Delta, **options)


@pytest.mark.parametrize(
    ("rate", "reduced"),
    [(1e-3, 0.0919), (0.01, 0.0920), (0.0316, 0.0925), (0.1, 0.0937), (0.178, 0.0952), (0.316, 0.0979), (1.0, 0.1140)],
)
def test_reduced_floor(rate, reduced):
    """R_inf/(Delta gamma/p) of erf at (8, 4); a quarter of E[s'^2] as gamma/p -> 0."""
    point = floor(erf(rate, 1e-3), 8, 4)
    assert point.kind == "stable" or (rate < 0.01 and point.kind == "marginal")  # decays too slowly to tell
    assert point.risk / (rate * 1e-3) == pytest.approx(reduced, rel=2e-3)
    if rate < 0.02:
        assert point.risk / (rate * 1e-3) == pytest.approx(float(integral("J2", "erf", np.ones((2, 2)))) / 4, rel=0.005)


@pytest.mark.parametrize(
    ("Delta", "stable", "copies"), [(1e-2, 1.081e-3, 1.122e-3), (1e-3, 1.140e-4, 1.145e-4), (1e-4, 1.147e-5, 1.148e-5)]
)
def test_blue_floor_and_its_unstable_copies(Delta, stable, copies):
    problem = erf(1.0, Delta)
    point, saddle = floor(problem, 8, 4), fixed_point(problem, COPIES)
    assert (point.kind, point.risk) == ("stable", pytest.approx(stable, rel=1e-3))
    assert (saddle.kind, saddle.risk) == ("saddle", pytest.approx(copies, rel=1e-3))
    assert saddle.eigenvalues[0].real == pytest.approx(0.6 * Delta, rel=0.05)
    Q = point.state.Q
    assert Q[0, 0] - Q[0, 1] == pytest.approx(20 * Delta, rel=0.05)  # distance of a student from its copy
    assert np.abs(saddle.state.Q[0, 0] - saddle.state.Q[0, 1]) < 1e-8


@pytest.mark.needs_cc
def test_identical_copies_part_at_the_saddles_rate_and_end_at_the_floor():
    Delta = 1e-2
    problem = erf(1.0, Delta)
    saddle = fixed_point(problem, COPIES)
    start = Overlaps(saddle.state.Q + 1e-6 * np.eye(8), saddle.state.M, saddle.state.P)
    early = solve_ode(problem, start, 1200.0, times=[400.0, 1000.0])
    spread = early.Q[:, 0, 0] - early.Q[:, 0, 1]
    rates = saddle.eigenvalues.real
    assert np.log(spread[1] / spread[0]) / 600.0 == pytest.approx(rates[rates > 0].max(), rel=0.1)
    late = solve_ode(problem, start, 3e4, times=[3e4])
    assert late.risk[-1] == pytest.approx(floor(problem, 8, 4).risk, rel=1e-3)


@pytest.mark.needs_cc
@pytest.mark.parametrize(("delta", "at_1000", "slope"), [("1/2", 2.92e-6, -0.5015), ("1/4", 1.693e-5, -0.2549)])
def test_floors_fall_with_the_dimension(delta, at_1000, slope):
    """Veiga et al. 2022, figures 4 and 5: about 3e-6 and 1.7e-5 at d = 1000, Delta = 1e-3."""
    point, d = scaling(0, delta, 8, 8), 10 ** np.arange(2, 8)
    risks = [floor(point.problem(int(n), activation="erf", Delta=1e-3), 8, 4).risk for n in d]
    assert risks[1] == pytest.approx(at_1000, rel=0.01)
    assert np.polyfit(np.log(d), np.log(risks), 1)[0] == pytest.approx(slope, abs=0.0005)


@pytest.mark.parametrize(("p", "k"), [(1, 1), (2, 2), (4, 2), (6, 3)])
def test_quadratic_floor(p, k):
    """(gamma Delta/p)/(1 - 2 (gamma/p)(1 + 2/k)): exact for p = k, up to Delta^2 for p > k."""
    rate, gaps = 0.05, []
    for Delta in (1e-3, 1e-4):
        risk = floor(Problem("quadratic", gamma=p * rate, Delta=Delta), p, k).risk
        gaps.append(abs(risk / (rate * Delta / (1 - 2 * rate * (1 + 2 / k))) - 1.0))
    assert max(gaps) < (1e-9 if p == k else 1e-2)
    assert p == k or gaps[1] < 0.2 * gaps[0]


@pytest.mark.needs_cc
def test_simulated_floor():
    """From the fixed point, at finite d: the time average stays there up to (p + k)/d."""
    problem, d = erf(1.0, 1e-2), 300
    point = floor(problem, 8, 4)
    runs = simulate(problem, point.state, 60.0, d=d, replicas=32, rng=1, times=np.linspace(20.0, 60.0, 21))
    means = runs.risk.mean(axis=1)
    assert abs(means.mean() - point.risk) < 3 * means.std(ddof=1) / 32**0.5 + 12 / d * point.risk
    assert means.std(ddof=1) / 32**0.5 < 0.01 * point.risk


@pytest.mark.needs_cc
def test_on_the_sphere_with_batches_and_correlated_teachers():
    assert floor(Problem("erf", gamma=0.5, Delta=1e-3, spherical=True), 4, 2).kind == "stable"
    batches = floor(erf(1.0, 1e-3, batch_size=10), 8, 4)
    assert batches.risk == pytest.approx(floor(erf(0.1, 1e-3), 8, 4).risk, rel=1e-9)
    P = [[1.0, 0.3], [0.3, 0.8]]
    problem = Problem("erf", gamma=1.0, Delta=1e-3)
    point = floor(problem, 4, 2, P=P)
    end = solve_ode(problem, Overlaps(point.state.Q + 1e-3 * np.eye(4), point.state.M, P), 2e4, times=[2e4])
    assert end.risk[-1] == pytest.approx(point.risk, rel=1e-3)


@pytest.mark.parametrize(
    ("problem", "p", "k", "message"),
    [
        (erf(1.0, 1e-3), 7, 4, "multiple of k"),
        (Problem("erf", "tanh", Delta=1e-3), 4, 4, "one activation"),
        (Problem("erf", Delta=1e-3, weight_decay=0.1), 4, 4, "weight decay"),
        (erf(1.0, 0.0), 8, 4, "without noise"),
        (erf(0.0, 1e-3), 8, 4, "without noise"),
        (Problem("quadratic", gamma=4.0, Delta=1e-3), 2, 2, "no stable fixed point"),
    ],
)
def test_bad_input(problem, p, k, message):
    with pytest.raises(ValueError, match=message):
        floor(problem, p, k)


def test_wrong_types():
    with pytest.raises(TypeError, match="Problem"):
        floor("erf", 8, 4)
    with pytest.raises(TypeError, match="schedule"):
        floor(Problem("erf", gamma=Schedule([0.0, 1.0], [1.0, 0.5]), Delta=1e-3), 8, 4)


def informed(seed):
    A = np.random.default_rng(seed).normal(size=(8, 4))
    return Overlaps.mixed(A / np.linalg.norm(A, axis=1, keepdims=True))


@pytest.mark.needs_cc
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("Delta", [1e-3, 1e-4])
def test_blue_trajectories_end_near_the_floor(Delta, seed):
    """Veiga et al. 2022, figure 3, at nu/d = 10^4."""
    problem = erf(1.0, Delta)
    risk = solve_ode(problem, informed(seed), 1e4, times=[1e4]).risk[-1]
    assert risk == pytest.approx(floor(problem, 8, 4).risk, rel=0.03)


@pytest.mark.slow
@pytest.mark.needs_cc
@pytest.mark.parametrize(("Delta", "low", "high"), [(1e-2, 0.95e-3, 1.1e-3), (0.0, 1.2e-7, 2.5e-7)])
def test_blue_trajectories_at_large_noise_and_without(Delta, low, high):
    risks = [solve_ode(erf(1.0, Delta), informed(seed), 1e4, times=[1e4]).risk[-1] for seed in range(4)]
    assert low < min(risks) <= max(risks) < high


def test_fixed_point_with_a_trained_second_layer():
    problem = Problem("erf", gamma=1.0, Delta=1e-2, second_layer_ratio=1.0)
    start = Overlaps([[1.2]], [[1.05]], [[1.0]], a=[0.95])
    point = fixed_point(problem, start)
    assert point.kind == "stable"
    assert point.eigenvalues.size == 3
    assert point.state.a[0] < 0.97  # below the teacher's: the noise makes W longer
    end = solve_ode(problem, start, 800.0, times=[800.0])
    np.testing.assert_allclose(end.a[-1], point.state.a, atol=1e-6)
    assert end.risk[-1] == pytest.approx(point.risk, rel=1e-4)
    with pytest.raises(ValueError, match="second layer"):
        floor(problem, 1)
