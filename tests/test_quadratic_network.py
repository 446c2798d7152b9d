"""Closed forms of free quadratic networks (Bocchi et al. 2026) against the ODE and the Jacobian of the drift."""

import json

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

import hdsgd
from hdsgd import Overlaps, QuadraticNetwork, fixed_point, plateau, solve_ode
from hdsgd.cli import main

WIDTHS = [(3, 3), (6, 3), (5, 1), (8, 2)]
SHARP = {"rtol": 1e-13, "atol": 1e-15}


@pytest.mark.parametrize(("p", "k"), WIDTHS)
@pytest.mark.parametrize(("share", "Delta"), [(0.0, 0.0), (0.05, 0.2)])
def test_plateau_and_its_rates(p, k, share, Delta):
    network = QuadraticNetwork(p, k, gamma=share * p, Delta=Delta)
    flat = plateau(network.problem, p, k)
    assert flat.point.risk == pytest.approx(network.plateau_risk, abs=1e-10)
    np.testing.assert_allclose(flat.point.state.Q, network.plateau_norm * np.eye(p), atol=1e-10)
    traceless = p * (p + 1) // 2 - 1
    rates = [network.growth] * (p * k) + sorted([-network.shape_rate] * traceless + [-network.norm_rate])[::-1]
    np.testing.assert_allclose(flat.point.eigenvalues, rates, atol=1e-8)
    if share == 0.0:
        named = (1 / k + 1 / (p + 2), 4 / k, 4.0, 8 / (p + 2))
        found = (network.plateau_risk, network.growth, network.norm_rate, network.shape_rate)
        np.testing.assert_allclose(found, named, rtol=1e-14)
        assert flat.exit_time(10**6, 0.01) == pytest.approx(network.exit_time(10**6, 0.01), rel=1e-9)


def test_conserved_matrix():
    """S of gradient flow stays to 1e-8 while T^-1 - P^-1 is above 1e-5, from any start."""
    network = QuadraticNetwork(6, 3)
    start = Overlaps.random(6, 3, 1000, rng=3, spherical=False, orthogonal_teacher=True)
    sol = solve_ode(network.problem, start, 9.0, times=np.linspace(0.0, 9.0, 19), **SHARP)
    first = network.conserved(start, 0.0)
    compared = 0
    for i, t in enumerate(sol.t):
        state = sol.overlaps(i)
        if np.linalg.norm(network.conserved(state, 0.0)) > 1e-5:
            assert np.linalg.norm(network.conserved(state, t) - first) < 1e-8 * np.linalg.norm(first)
            compared += 1
    assert compared >= 10
    assert sol.risk[compared - 1] < 0.1 * sol.risk[0]  # learning is covered, not only the plateau


@pytest.mark.parametrize(("p", "k"), [(3, 3), (6, 3)])
def test_polar_factor(p, k):
    """Conserved to 1e-12 from orthogonal students with noise; not from others."""
    network = QuadraticNetwork(p, k, gamma=0.2, Delta=0.1)
    start = network.orthogonal_start(1000, rng=1)
    other = Overlaps.random(p, k, 1000, rng=1, spherical=False, orthogonal_teacher=True)
    for begin, kept in ((start, True), (other, False)):
        sol = solve_ode(network.problem, begin, 8.0, times=[0.0, 2.0, 4.0, 8.0], **SHARP)
        drift = max(np.abs(network.polar(sol.overlaps(i)) - network.polar(begin)).max() for i in range(4))
        assert (drift < 1e-12) == kept
    assert 0.002 < drift < 0.3


def test_end_point():
    """Orthogonal start, p = k: gradient flow ends at the closest point of zero loss; foreign ones are far."""
    network = QuadraticNetwork(3, 3)
    start = network.orthogonal_start(1000, rng=1)
    end = network.end_point(start)
    assert hdsgd.Dynamics(network.problem).risk(end) < 1e-14
    sol = solve_ode(network.problem, start, 60.0, times=[60.0], **SHARP)
    state = sol.overlaps()
    assert max(np.abs(state.Q - end.Q).max(), np.abs(state.M - end.M).max()) < 1e-10
    assert network.distance(state, end) < 1e-10
    assert network.distance(state, network.end_point(network.orthogonal_start(1000, rng=2))) > 0.1


def test_end_point_of_wide_students():
    """For p > k the distance falls like 1/t."""
    network = QuadraticNetwork(6, 3)
    start = network.orthogonal_start(1000, rng=1)
    sol = solve_ode(network.problem, start, 160.0, times=[40.0, 80.0, 160.0], rtol=1e-10, atol=1e-13)
    gaps = np.array([network.distance(sol.overlaps(i), network.end_point(start)) for i in range(3)])
    np.testing.assert_allclose(gaps[:-1] / gaps[1:], 2.0, rtol=0.1)
    assert gaps[-1] < 0.02


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_degrees_of_freedom_by_rank(k):
    rng = np.random.default_rng(k)
    for p in range(k, 9):
        network = QuadraticNetwork(p, k)
        frame = np.linalg.qr(rng.standard_normal((p, k)))[0]
        assert network.freedom(np.sqrt(p / k) * frame) == network.degrees_of_freedom


@pytest.mark.parametrize(("p", "k", "nullity"), [(6, 3, 18), (8, 2, 34), (3, 3, 3), (5, 1, 14)])
def test_nullity_of_the_overlaps(p, k, nullity):
    network = QuadraticNetwork(p, k)
    end = network.end_point(network.orthogonal_start(100, rng=0))
    found = fixed_point(network.problem, end)
    assert (network.nullity, found.marginal, found.unstable) == (nullity, nullity, 0)


@pytest.mark.parametrize(("p", "gamma"), [(3, 0.589), (4, 0.856), (6, 1.445), (10, 2.756), (20, 6.342)])
def test_optimal_learning_rate(p, gamma):
    network = QuadraticNetwork(p, 3)
    assert round(network.optimal_gamma, 3) == gamma
    noisy = QuadraticNetwork(p, 3, Delta=0.3)
    for case in (network, noisy):

        def slow(g, Delta=case.Delta):
            return -g * QuadraticNetwork(p, 3, g, Delta).growth

        best = minimize_scalar(slow, bounds=(0.5 * gamma, 1.02 * gamma), method="bounded", options={"xatol": 1e-9})
        assert case.optimal_gamma == pytest.approx(best.x, rel=1e-4)


@pytest.mark.needs_cc  # numpy takes minutes
@pytest.mark.parametrize("p", [3, 4, 6, *(pytest.param(p, marks=pytest.mark.slow) for p in (10, 20))])
def test_optimal_learning_rate_of_the_jacobian(p):
    network = QuadraticNetwork(p, 3)
    flat = [plateau(QuadraticNetwork(p, 3, gamma=s * network.optimal_gamma).problem, p, 3) for s in (0.98, 1.0, 1.02)]
    speeds = [found.problem.gamma * found.growth for found in flat]
    assert speeds[1] > max(speeds[0], speeds[2])
    parabola = np.polynomial.Polynomial.fit([0.98, 1.0, 1.02], speeds, 2)
    assert parabola.deriv().roots()[0] == pytest.approx(1.0, abs=5e-4)


@pytest.mark.needs_cc  # numpy takes minutes
@pytest.mark.parametrize(("share", "constant"), [(1e-6, 0.0293), (0.2, 0.0645)])
def test_late_times(share, constant):
    network = QuadraticNetwork(6, 3, gamma=6 * share)
    assert round(network.late_constant, 4) == constant
    start = network.orthogonal_start(1000, rng=1)
    times = np.array([200.0, 400.0, 800.0])
    sol = solve_ode(network.problem, start, 800.0, times=times, rtol=1e-12, atol=1e-15)
    found = (np.diff(sol.risk**-0.5) / np.diff(times)) ** -2.0
    assert found[1] == pytest.approx(network.late_constant, rel=2e-3)
    assert 2.0 * found[1] - found[0] == pytest.approx(network.late_constant, rel=1e-4)  # the rest falls as 1/t


@pytest.mark.parametrize(("p", "k"), [(3, 3), (6, 3)])
def test_floor_of_the_label_noise(p, k):
    network = QuadraticNetwork(p, k, gamma=0.1 * p, Delta=1e-3)
    last = 40.0 if p == k else 400.0
    sol = solve_ode(network.problem, network.orthogonal_start(1000, rng=1), last, times=[last])
    assert sol.risk[0] == pytest.approx(network.floor, rel=1e-6 if p == k else 0.02)


def test_orthogonal_starts():
    network = QuadraticNetwork(4, 2)
    start = network.orthogonal_start(10**6, norm=2.0, rng=0)
    np.testing.assert_array_equal(start.Q, 2.0 * np.eye(4))
    rows = [network.orthogonal_start(50, rng=i).M for i in range(400)]
    square = np.mean(np.square(rows), axis=0)  # of a random frame: 1/d each
    np.testing.assert_allclose(square, 1 / 50, atol=5 * np.sqrt(2 / 400) / 50)
    every = np.linalg.svd(network.orthogonal_start(4, rng=0).M, compute_uv=False)
    np.testing.assert_allclose(every, 1.0, atol=1e-9)  # p = d: the teachers lie in the students' span


@pytest.mark.needs_cc  # numpy takes minutes
def test_samples_to_half_the_loss():
    """They fall with the learning rate up to its optimum; the smaller the start, the nearer to that of the escape."""
    best = []
    for d in (10**4, 10**10):
        start = Overlaps.random(3, 3, d, rng=0, spherical=False, orthogonal_teacher=True)
        gammas = 0.589 * np.linspace(0.8, 1.05, 11)
        alphas = [QuadraticNetwork(3, 3, gamma).alpha(start) for gamma in gammas]
        best.append(gammas[int(np.argmin(alphas))])
        slow = QuadraticNetwork(3, 3, 0.01).alpha(start)
        flow = solve_ode(QuadraticNetwork(3, 3).problem, start, 100.0, stop=hdsgd.Exit(T=0.5)).exit_time
        assert slow == pytest.approx(flow * 3 / 0.01, rel=0.05)
        assert min(alphas) < slow / 20
    assert best[0] < best[1] < 0.589


def test_report():
    text = str(QuadraticNetwork(6, 3))
    assert "12 degrees of freedom, 18 vanishing" in text
    assert "0.0292969/t^2" in text
    assert "risk 0.005625" in str(QuadraticNetwork(3, 3, gamma=0.1, Delta=0.15))
    assert "zero loss" not in str(QuadraticNetwork(2, 3))
    assert "exponentially" in str(QuadraticNetwork(3, 3))


def test_command(capsys):
    assert main(["quadratic", "-p", "6", "-k", "3", "-d", "1000000", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["growth"], document["nullity"]) == (4 / 3, 18)
    assert document["hessian_plateau"]["multiplicities"] == [18, 5999961, 20, 1]
    assert document["hessian_zero_loss"]["multiplicities"][0] == 12 + 3 * (10**6 - 3)
    assert main(["quadratic", "-p", "2", "-k", "3", "-d", "100"]) == 0
    assert "plateau: Hessian" in capsys.readouterr().out
    assert main(["quadratic", "-p", "2", "-k", "3", "--gamma", "9"]) == 2
    assert "decrease --gamma" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("what", "says"),
    [
        (lambda: QuadraticNetwork(0, 1), "p must be"),
        (lambda: QuadraticNetwork(2, 3).degrees_of_freedom, "p >= k"),
        (lambda: QuadraticNetwork(3, 3, gamma=5.0).plateau_risk, "decrease gamma"),
        (lambda: QuadraticNetwork(3, 3, gamma=5.0).floor, "no floor"),
        (lambda: QuadraticNetwork(3, 3).late_constant, "p > k"),
        (lambda: QuadraticNetwork(3, 3, gamma=0.1).exit_time(1000, 0.1), "plateau"),
        (lambda: QuadraticNetwork(3, 3).exit_time(5, 1e-3), "increase d"),
        (lambda: QuadraticNetwork(3, 3).alpha(QuadraticNetwork(3, 3).orthogonal_start(10)), "no samples"),
        (lambda: QuadraticNetwork(3, 3).polar(Overlaps.random(2, 3, 100, rng=0)), "shape"),
        (lambda: QuadraticNetwork(3, 3).polar(Overlaps.random(3, 3, 100, rng=0)), "P = I"),
        (lambda: QuadraticNetwork(3, 3).polar(np.eye(3)), "Overlaps"),
    ],
)
def test_refusals(what, says):
    with pytest.raises((ValueError, TypeError), match=says):
        what()


def test_laws_refuse_other_second_layers_and_singular_overlaps():
    network = QuadraticNetwork(3, 2)
    start = network.orthogonal_start(50, rng=0)
    with pytest.raises(ValueError, match="second layers of ones"):
        network.conserved(Overlaps(start.Q, start.M, start.P, [1.0, 2.0, 0.5]), 0.0)
    with pytest.raises(ValueError, match="full rank"):
        network.end_point(Overlaps(start.Q, 0.0 * start.M, start.P))


@pytest.mark.parametrize(("p", "k"), [(4, 2), (6, 3), (2, 2)])
def test_marginal_modes_at_zero_loss(p, k):
    """There the zero of the drift is degenerate for p > k: a drift of 1e-12 leaves rates of 1e-5."""
    network = QuadraticNetwork(p, k)
    start = Overlaps.random(p, k, 1000, rng=1, spherical=False, orthogonal_teacher=True)
    point = fixed_point(network.problem, solve_ode(network.problem, start, 50.0, times=[50.0]).overlaps())
    assert point.risk < 1e-11
    assert (point.unstable, point.marginal) == (0, network.nullity)


def test_a_network_without_a_plateau_can_be_printed():
    network = QuadraticNetwork(2, 1, 5.0)
    with pytest.raises(ValueError, match="no plateau"):
        network.growth  # noqa: B018
    assert "there is no plateau at gamma = 5" in str(network)
    assert "fastest escape at gamma" in str(network)
