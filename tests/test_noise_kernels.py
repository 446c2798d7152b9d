"""The compiled noise: bilinear forms of polynomials, vectors of pairs, mixtures, and the arc sine under them."""

import ctypes
import math
from pathlib import Path

import numpy as np
import pytest

import hdsgd
from hdsgd import _compiler

pytestmark = pytest.mark.needs_cc

SIZES = ((1, 1), (1, 3), (2, 2), (3, 1), (4, 2), (9, 2))  # pairs beside whole vectors of eight, p even and odd


def worst(student, teacher, sizes, scale=1.0):
    """Largest distance between C and numpy, relative to the largest noise, over full and singular covariances."""
    rng = np.random.default_rng(7)
    problem = hdsgd.Problem(student, teacher_activation=teacher, gamma=0.5, Delta=0.1)
    compiled, reference = (hdsgd.Dynamics(problem, backend=backend) for backend in ("c", "numpy"))
    found = []
    for p, k in sizes:
        for rank in (p + k + 2, max(1, (p + k) // 2)):
            W = scale * rng.normal(size=(p + k, rank)) / np.sqrt(rank)
            Omega = W @ W.T
            a, a_star = rng.normal(size=p), rng.normal(size=k)
            state = hdsgd.Overlaps(Omega[:p, :p], Omega[:p, p:], Omega[p:, p:], a=a, a_star=a_star)
            ours, exact = compiled.noise(state), reference.noise(state)
            assert np.array_equal(ours, ours.T)
            found.append(np.abs(ours - exact).max() / np.abs(exact).max())
    return max(found)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ("quadratic", None),
        ("he3", None),
        ("x + 1", "x**2"),
        ("he3", "quadratic"),
        ("x**3 + x**2 - x + 2", "x**4 - x"),
        ("x**5 - x**3", None),
        ("x**8", None),  # too many forms: staged instead
    ],
)
def test_polynomials(student, teacher):
    assert worst(student, teacher, SIZES if student != "x**8" else ((1, 1), (2, 1))) < 1e-12


@pytest.mark.parametrize("scale", [0.3, 1.0, 5.0])  # the series of asin alone, mostly, and rarely enough
@pytest.mark.parametrize("pair", [("erf", None), ("erf", "he3"), ("normcdf", "erf"), ("gaussian", "sin")])
def test_staged(pair, scale):
    assert worst(*pair, SIZES, scale) < 1e-12


@pytest.mark.parametrize("pair", [("tanh", None), ("erf", "tanh"), ("tanh", "quadratic")])
def test_mixtures(pair):
    assert worst(*pair, ((1, 1), (2, 1))) < 1e-12


def test_the_right_hand_side_outlives_its_system():
    state = hdsgd.Overlaps.random(3, 2, 100, rng=0)
    dynamics = hdsgd.Dynamics(hdsgd.Problem("erf", gamma=0.5))
    y = dynamics.system(state).pack(state)
    rhs = dynamics.system(state).rhs  # the system itself is gone
    clutter = [np.full(size, np.nan) for size in range(1, 2000)]
    assert np.array_equal(rhs(0.0, y), dynamics.system(state).rhs(0.0, y))
    assert clutter


def test_arc_sine():
    source = (
        (Path(_compiler.__file__).parent / "csrc" / "common.h").read_text(encoding="utf-8")
        + """
void all(long n, const double *x, double *y) { for (long i = 0; i < n; i++) y[i] = asin1(x[i]); }
double series(double x, double *largest) { return asin_near(x, largest); }
"""
    )
    library = _compiler.load(source)
    library.all.argtypes = (ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    library.all.restype = None
    near_one = 1.0 - np.logspace(-16, -0.4, 2000)
    x = np.concatenate((np.linspace(-1.0, 1.0, 40001), near_one, -near_one, np.logspace(-300, -1, 1000)))
    y = np.empty_like(x)
    library.all(len(x), x.ctypes.data, y.ctypes.data)
    exact = np.array([math.asin(value) for value in x])
    assert np.all(np.abs(y - exact) <= 2 * np.spacing(np.abs(exact)))
    beyond = np.array([1.0 + 1e-15, -2.0, math.nan])
    out = np.empty(3)
    library.all(3, beyond.ctypes.data, out.ctypes.data)
    assert out[0] == math.pi / 2
    assert out[1] == -math.pi / 2
    assert math.isnan(out[2])
    library.series.restype = ctypes.c_double
    library.series.argtypes = (ctypes.c_double, ctypes.c_void_p)
    largest = ctypes.c_double(0.0)
    for value in (0.1, -0.5, 0.3):
        assert abs(library.series(value, ctypes.addressof(largest)) - math.asin(value)) < 2e-16
    assert largest.value == 0.5
