"""The plateau and its escape, against the closed forms of phase retrieval and of quadratic networks."""

import numpy as np
import pytest

from hdsgd import Exit, Overlaps, Problem, escape, fixed_point, plateau, simulate, solve_ode

pytestmark = pytest.mark.needs_cc  # minutes on numpy


@pytest.mark.parametrize(("p", "k"), [(3, 3), (6, 3), (5, 1), (8, 2)])
def test_free_quadratic_network(p, k):
    """Bocchi et al. 2026: risk 1/k + 1/(p + 2), rates 4, 8/(p + 2) and 4/k with their multiplicities."""
    flat = plateau(Problem("quadratic", gamma=0.0), p, k)
    assert flat.point.risk == pytest.approx(1 / k + 1 / (p + 2), abs=1e-10)
    np.testing.assert_allclose(flat.point.state.Q, np.eye(p) * p / (p + 2), atol=1e-10)
    expected = [4 / k] * (p * k) + [-8 / (p + 2)] * (p * (p + 1) // 2 - 1) + [-4.0]
    np.testing.assert_allclose(flat.point.eigenvalues, expected, atol=1e-8)
    assert (flat.point.kind, flat.point.unstable, flat.point.marginal) == ("saddle", p * k, 0)
    d, f = 10**6, 0.01
    assert flat.exit_time(d, f) == pytest.approx(k / 8 * np.log(f * d * (p + 2 + k) / (2 * p * k)), rel=1e-9)


@pytest.mark.parametrize("p", [1, 2, 5])
def test_phase_retrieval_on_the_sphere(p):
    """The rates of Arnaboldi et al. 2023, and their annealed exit time up to 1/(T d)."""
    problem = Problem("quadratic", gamma=0.1 * p, Delta=1e-3, spherical=True)
    flat = plateau(problem, p)
    assert flat.growth == pytest.approx(escape.growth_rate(problem, p), rel=1e-10)
    if p > 1:
        assert flat.point.eigenvalues.real.min() == pytest.approx(-escape.decay_rate(problem, p), rel=1e-9)
    assert flat.exit_time(10**9, 0.01) == pytest.approx(escape.annealed(problem, p=p, d=10**9, T=0.01), rel=1e-6)
    assert flat.samples(10**9, 0.01) == pytest.approx(p * 1e9 * flat.exit_time(10**9, 0.01) / problem.gamma)


def test_noisy_free_network_grows_as_predicted():
    """THEORY of finite gamma: growth 4/k + 2(1 - x), x the smaller root of a quadratic."""
    p, k, gamma, Delta = 4, 3, 0.5, 0.2
    g = gamma / p
    roots = np.roots([g * (p + 4) / (p + 2), -1 - 2 * g, 1 + g * (1 + 2 / k + Delta)])
    flat = plateau(Problem("quadratic", gamma=gamma, Delta=Delta), p, k)
    assert flat.growth == pytest.approx(4 / k + 2 * (1 - roots.min()), rel=1e-9)


def test_exit_time_against_the_flow_from_random_starts():
    """At d = 10^6 the linear theory is within 2 % of the mean exit of gradient flow."""
    p, k, d = 6, 3, 10**6
    problem = Problem("quadratic", gamma=0.0)
    flat = plateau(problem, p, k)
    found = []
    for i in range(8):
        start = Overlaps.random(p, k, d, rng=i, spherical=False, orthogonal_teacher=True)
        found.append(solve_ode(problem, start, 10.0, stop=Exit(level=0.99 * flat.point.risk)).exit_time)
    error = np.std(found, ddof=1) / np.sqrt(8)
    assert abs(np.mean(found) - flat.exit_time(d, 0.01)) < 4 * error + 0.02 * np.mean(found)


def test_exponents_decide():
    first = plateau(Problem("erf", spherical=True), 2, 2)
    assert (first.teacher_exponent, first.exponent, first.point) == (1, 1, None)
    assert "no plateau" in str(first)
    third = plateau(Problem("he3", gamma=0.01, spherical=True), 2, 2)
    assert third.exponent == 3
    assert third.growth < 0
    assert "n ~ d^2" in str(third)
    assert "stable" in str(third)
    mixed = plateau(Problem("cubic", "he3", gamma=0.0), 1)
    assert (mixed.teacher_exponent, mixed.exponent) == (3, 3)
    never = plateau(Problem("he2", "he3", gamma=0.1, spherical=True), 1)
    assert never.exponent is None
    assert "never found" in str(never)
    with pytest.raises(ValueError, match="no exit time"):
        third.exit_time(1000, 0.1)


def test_third_exponent_stays_at_the_plateau_under_noise():
    problem = Problem("he3", gamma=0.05, spherical=True)
    flat = plateau(problem, 1)
    start = Overlaps([[1.0]], [[0.05]], [[1.0]])
    runs = simulate(problem, start, 3.0 / -flat.growth, d=10**5, replicas=64, rng=0, times=[0.5 / -flat.growth])
    mean, error = runs.M[:, 0, 0, 0].mean(), runs.M[:, 0, 0, 0].std() / 8
    assert abs(mean - 0.05 * np.exp(-0.5)) < 4 * error + 0.1 * 0.05


def test_fixed_points_are_classified():
    # gradient flow of p = k = 1: the student at the teacher is stable, the plateau a saddle
    problem = Problem("quadratic", gamma=0.0)
    learned = fixed_point(problem, Overlaps([[0.985]], [[0.99]], [[1.0]]))
    assert learned.kind == "stable"
    assert learned.risk < 1e-15
    np.testing.assert_allclose(learned.state.M, 1.0, atol=1e-9)
    noisy = fixed_point(Problem("quadratic", gamma=0.1, Delta=0.1, spherical=True), Overlaps([[1.0]], [[0.9]], [[1.0]]))
    assert noisy.kind == "stable"
    assert noisy.risk == pytest.approx(0.1 * 0.1 / (1 - 6 * 0.1), rel=1e-9)  # gamma Delta/(1 - 6 gamma)
    for name, gamma in (("quadratic", 2.0), ("exp", 3.0)):
        with pytest.raises(ValueError, match="start closer"):
            fixed_point(Problem(name, gamma=gamma, Delta=1.0), Overlaps([[1.0]], [[0.5]], [[1.0]]))


def test_bad_input():
    with pytest.raises(ValueError, match="decrease gamma"):
        plateau(Problem("quadratic", gamma=5.0), 2, 1)
    with pytest.raises(ValueError, match="gradient flow"):
        plateau(Problem("quadratic", gamma=0.0), 2, 1).samples(1000, 0.1)
    with pytest.raises(TypeError, match="Problem"):
        plateau("erf", 1)
    with pytest.raises(ValueError, match="already"):
        plateau(Problem("quadratic", gamma=0.0), 2, 1).exit_time(10, 1e-3)


@pytest.mark.parametrize(
    ("p", "k", "d", "time", "error", "formula"),
    [(6, 3, 10**6, 3.039, 0.007, 3.009), (20, 3, 10**4, 1.153, 0.003, 1.139)],
)
def test_free_flow_from_random_starts(p, k, d, time, error, formula):
    """Exit 1 % below the plateau; the mean over starts is later than the formula, which averages in the logarithm."""
    problem = Problem("quadratic", gamma=0.0)
    flat = plateau(problem, p, k)
    assert flat.exit_time(d, 0.01) == pytest.approx(formula, abs=1e-3)
    starts = Overlaps.random(p, k, d, rng=5, spherical=False, orthogonal_teacher=True, replicas=100)
    stop = Exit(level=0.99 * flat.point.risk)
    exits = [solve_ode(problem, starts.replica(i), 20.0, times=[0.0], stop=stop).exit_time for i in range(100)]
    own = np.std(exits, ddof=1) / 10
    assert np.mean(exits) == pytest.approx(time, abs=3 * np.hypot(own, error))
    # the same with a control variate, in 32 starts
    assert flat.corrected_time(d, 0.01) == pytest.approx(time, abs=3 * error)


@pytest.mark.parametrize("p", [1, 2, 5])
def test_corrected_time_is_that_of_phase_retrieval(p):
    problem, d, T = Problem("quadratic", gamma=0.1 * p, Delta=1e-3, spherical=True), 10**6, 0.01
    expected = escape.corrected(problem, p=p, d=d, T=T, full=False)
    assert plateau(problem, p).corrected_time(d, T) == pytest.approx(expected, rel=3e-3)


def exits_by_simulation(problem, flat, p, k, d, T, replicas, horizon):
    starts = Overlaps.random(p, k, d, rng=3, spherical=problem.spherical, orthogonal_teacher=True, replicas=replicas)
    P = flat.point.state.P
    starts = Overlaps(starts.Q, starts.M @ np.linalg.cholesky(P).T, P)
    stop = Exit(level=(1 - T) * flat.point.risk)
    return simulate(problem, starts, horizon, d=d, rng=4, times=[0.0], stop=stop).exit_time


@pytest.mark.needs_cc
@pytest.mark.parametrize(("spherical", "k", "angle"), [(True, 1, 0.0), (False, 2, 0.0), (True, 2, 0.3)])
def test_corrected_time_against_the_exact_simulation(spherical, k, angle):
    p, d, T = 2, 3000, 0.03
    problem = Problem("quadratic", gamma=0.2, Delta=1e-3, spherical=spherical)
    flat = plateau(problem, p, k, P=np.eye(k) + angle * (1 - np.eye(k)))
    time = flat.corrected_time(d, T)
    exits = exits_by_simulation(problem, flat, p, k, d, T, 400, 8 * time)
    assert time == pytest.approx(exits.mean(), abs=3 * exits.std() / 20 + 0.01 * time)
    assert abs(flat.exit_time(d, T) - exits.mean()) > 0.02 * time or k > 1  # what the noise is worth at k = 1


@pytest.mark.slow
@pytest.mark.needs_cc
@pytest.mark.parametrize(
    ("name", "gamma", "spherical", "p", "k"),
    [
        ("quadratic", 0.3, True, 3, 2),
        ("quadratic", 0.3, True, 3, 3),
        ("quadratic", 0.3, False, 3, 2),
        ("quadratic", 0.6, False, 6, 3),
        ("he2", 0.3, False, 2, 2),
        ("he2", 0.3, True, 2, 2),
        ("gaussian", 0.5, True, 2, 2),
        ("gaussian", 0.5, False, 2, 1),
        ("cos", 0.5, True, 2, 2),
        ("abs", 0.5, True, 2, 2),
    ],
)
def test_corrected_time_of_other_activations(name, gamma, spherical, p, k):
    d, T, problem = 30000, 0.01, Problem(name, gamma=gamma, Delta=1e-3, spherical=spherical)
    flat = plateau(problem, p, k)
    time = flat.corrected_time(d, T)
    exits = exits_by_simulation(problem, flat, p, k, d, T, 200, 6 * time)
    assert time == pytest.approx(exits.mean(), abs=3 * exits.std() / np.sqrt(200) + 0.01 * time)


def test_corrected_time_refuses():
    with pytest.raises(ValueError, match="no exit time"):
        plateau(Problem("he3", gamma=0.01, spherical=True), 1).corrected_time(1000, 0.1)
    with pytest.raises(ValueError, match="not clear of the noise"):
        plateau(Problem("quadratic", gamma=0.15, spherical=True), 1).corrected_time(1000, 0.01)
    with pytest.raises(ValueError, match="decrease T or gamma"):
        plateau(Problem("quadratic", gamma=0.1, Delta=3.0, spherical=True), 1).corrected_time(10**5, 0.9)
