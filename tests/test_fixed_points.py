"""The Jacobian behind the rates of fixed points: right where units nearly coincide, too."""

import numpy as np
import pytest

from hdsgd import Dynamics, Overlaps, Problem
from hdsgd._fixed_points import jacobian


def near_copies(distance):
    """Three students at a squared distance from the direction of a teacher of two, as noise leaves them."""
    A = np.array([[0.6, 0.0], [0.9, 0.0], [0.0, 1.5]])
    return Overlaps(A @ A.T + distance * np.eye(3), A, np.eye(2))


@pytest.mark.parametrize("activation", ["relu", "abs", "leaky_relu", "erf", "quadratic"])
@pytest.mark.parametrize("distance", [1e-2, 1e-4])
def test_jacobian_near_coincident_units(activation, distance):
    """The drift of kinked activations changes there over the distance, far below the step of smooth ones."""
    state = near_copies(distance)
    system = Dynamics(Problem(activation, gamma=0.2, Delta=1e-3)).system(state)
    y, h = system.pack(state), 1e-3 * distance
    found = jacobian(lambda z: system.rhs(0.0, z), y)
    expected = [(system.rhs(0.0, y + h * e) - system.rhs(0.0, y - h * e)) / (2.0 * h) for e in np.eye(y.size)]
    np.testing.assert_allclose(found, np.transpose(expected), atol=1e-5 * np.abs(found).max())


def test_jacobian_of_a_smooth_function_is_good_to_rounding():
    y = np.array([0.3, -2.0])
    found = jacobian(lambda z: np.array([np.sin(z[0]) * z[1], np.exp(-(z[1] ** 2))]), y)
    expected = [[np.cos(0.3) * -2.0, np.sin(0.3)], [0.0, 4.0 * np.exp(-4.0)]]
    np.testing.assert_allclose(found, expected, atol=2e-10)
    assert jacobian(lambda z: np.zeros(3), y).shape == (3, 2)
