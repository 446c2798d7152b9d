"""The Hessian in weight space: against differences of the risk, and the multiplicities of quadratic networks."""

import pickle

import numpy as np
import pytest

from hdsgd import Dynamics, Overlaps, Problem, QuadraticNetwork, Weights, hessian, plateau

WIDTHS = [(3, 3), (6, 3), (5, 1), (8, 2)]


def listed(found):
    return [
        (round(float(value), 9), int(count)) for value, count in zip(found.values, found.multiplicities, strict=True)
    ]


@pytest.mark.parametrize(("p", "k"), WIDTHS)
@pytest.mark.parametrize("d", [20, 10**6])
def test_plateau_of_quadratic_networks(p, k, d):
    network = QuadraticNetwork(p, k)
    flat = Overlaps(network.plateau_norm * np.eye(p), np.zeros((p, k)), np.eye(k))
    found = hessian(network.problem, flat, d)
    expected = [
        (-4 / (p * k), p * k),
        (0.0, p * (d - k - p) + p * (p - 1) // 2),
        (8 / (p * (p + 2)), p * (p + 1) // 2 - 1),
        (4 / p, 1),
    ]
    assert listed(found) == [(round(value, 9), count) for value, count in expected]
    assert (found.negative, found.nullity) == (expected[0][1], expected[1][1])
    assert -p * found.values[0] == pytest.approx(plateau(network.problem, p, k).growth)


@pytest.mark.parametrize(("p", "k"), WIDTHS)
@pytest.mark.parametrize("d", [20, 10**6])
def test_zero_loss_of_quadratic_networks(p, k, d):
    network = QuadraticNetwork(p, k)
    found = hessian(network.problem, network.end_point(network.orthogonal_start(50, rng=0)), d)
    expected = [
        (0.0, network.degrees_of_freedom + (p - k) * (d - k)),
        (4 / (p * k), k * (d - k)),
        (8 / (p * k), k * (k + 1) // 2 - 1),
        (4 / p + 8 / (p * k), 1),
    ]
    assert listed(found) == [(round(value, 9), count) for value, count in expected if count]


def by_differences(problem, weights, h=2e-3):
    """Hessian in w = W/sqrt(d) of the risk by second differences of fourth order in each entry."""
    dynamics, w, d = Dynamics(problem), weights.W / np.sqrt(weights.d), weights.d
    w_star = weights.W_star / np.sqrt(d)

    def risk(flat):
        moved = flat.reshape(w.shape)
        state = Overlaps(moved @ moved.T, moved @ w_star.T, w_star @ w_star.T, weights.a, weights.a_star)
        return dynamics.risk(state)

    def slope(function, x, i):
        e = h * np.eye(x.size)[i]
        return (8.0 * (function(x + e) - function(x - e)) - function(x + 2 * e) + function(x - 2 * e)) / (12.0 * h)

    x = w.ravel()
    return np.array([[slope(lambda y, j=j: slope(risk, y, j), x, i) for j in range(x.size)] for i in range(x.size)])


def spectrum(found):
    return np.sort(np.concatenate((found.inside, np.repeat(found.outside, found.d - found.rank))))


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        *((name, None) for name in ("erf", "he3", "gelu", "sin", "gaussian", "tanh", "exp")),
        ("erf", "quadratic"),
        ("sin", "relu"),
    ],
)
def test_against_differences_of_the_risk(student, teacher):
    rng = np.random.default_rng(7)
    problem = Problem(student, teacher, gamma=0.0)
    weights = Weights(rng.normal(size=(2, 5)), rng.normal(size=(2, 5)), rng.normal(size=2), rng.normal(size=2))
    found = hessian(problem, weights)
    assert (found.d, found.rank, found.multiplicities.sum()) == (5, 4, 10)
    exact = np.linalg.eigvalsh(by_differences(problem, weights))
    np.testing.assert_allclose(spectrum(found), exact, atol=2e-9 * np.abs(exact).max())


@pytest.mark.parametrize("name", ["erf", "gelu"])
def test_coincident_units(name):
    """Copies among the students, and a student that equals a teacher: Omega is singular."""
    rng = np.random.default_rng(3)
    W_star = rng.normal(size=(1, 4))
    weights = Weights(np.concatenate((W_star, W_star, rng.normal(size=(1, 4)))), W_star)
    found = hessian(Problem(name, gamma=0.0), weights)
    assert found.rank == 2
    exact = np.linalg.eigvalsh(by_differences(Problem(name, gamma=0.0), weights))
    np.testing.assert_allclose(spectrum(found), exact, atol=2e-9)


def test_all_directions_may_be_taken():
    weights = Weights(np.eye(2), np.eye(2)[::-1])
    found = hessian(Problem("erf"), weights)
    assert found.rank == 2
    assert found.multiplicities.sum() == 4
    np.testing.assert_allclose(spectrum(found), np.linalg.eigvalsh(by_differences(Problem("erf"), weights)), atol=1e-9)
    assert str(found).startswith("Hessian of the risk")
    assert str(pickle.loads(pickle.dumps(found))) == str(found)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((Problem("relu"), Overlaps.random(2, 1, 50, rng=0), 50), "relu have kinks"),
        ((Problem("erf", spherical=True), Overlaps.random(2, 1, 50, rng=0), 50), "spherical=False"),
        ((Problem("erf"), Overlaps.random(2, 1, 50, rng=0)), "input dimension"),
        ((Problem("erf"), Overlaps.random(2, 1, 50, rng=0), 2), "span 3 dimensions"),
        ((Problem("erf"), Overlaps.random(2, 1, 50, rng=0, replicas=2), 50), "replica"),
        ((Problem("erf"), Weights(np.eye(2), np.eye(2)), 3), "leave d out"),
        (("erf", Overlaps.random(2, 1, 50, rng=0), 50), "Problem"),
    ],
)
def test_refusals(arguments, says):
    with pytest.raises((ValueError, TypeError), match=says):
        hessian(*arguments)
