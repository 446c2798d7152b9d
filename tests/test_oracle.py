"""The independent quadrature against values that are known without it."""

import math

import mpmath as mp
import numpy as np
import pytest
from scipy import special

from hdsgd.derivations import oracle
from hdsgd.derivations.activations import BUILTINS
from hdsgd.derivations.kernels import FACTORS
from hdsgd.derivations.verify import coincidences, factors_of, random_cases

ERF, RELU, SIGN = "erf(x/sqrt(2))", "relu(x)", "sign(x)"


def draws(size, count=5, **options):
    rng = np.random.default_rng(size)
    return [oracle.draw(rng, size, **options) for _ in range(count)]


def close(value, expected, tolerance=1e-14):
    assert abs(value - expected) <= tolerance * max(1.0, abs(expected))


def test_polynomials_by_isserlis():
    square, cube = oracle.factor("x**2", 0), oracle.factor("x**3", 0)
    for where in draws(3):
        C = [[where.entry(i, j) for j in range(3)] for i in range(3)]
        close(oracle.expectation([square, square], where, (0, 1)), C[0][0] * C[1][1] + 2 * C[0][1] ** 2)
        close(oracle.expectation([cube, cube], where, (0, 2)), 9 * C[0][0] * C[0][2] * C[2][2] + 6 * C[0][2] ** 3)
        close(oracle.expectation([cube, cube], where, (1, 1)), 15 * C[1][1] ** 3)


@pytest.mark.parametrize("exact", [False, True])
def test_arcsine_and_arc_cosine_laws(exact):
    """E[erf erf] and E[sign sign] of Saad & Solla and Sheppard; E[relu relu] of Cho & Saul; to 20 digits."""
    erf, sign, relu = (oracle.factor(formula, 0) for formula in (ERF, SIGN, RELU))
    number = mp.mpf if exact else float
    for where in draws(2, least=0.5):
        with mp.workdps(40):
            a, c, b = where.entries((0, 1), number)
            rho = c / mp.sqrt(a * b)
            expected = {
                erf: 2 / mp.pi * mp.asin(c / mp.sqrt((1 + a) * (1 + b))),
                sign: 2 / mp.pi * mp.asin(rho),
                relu: mp.sqrt(a * b) / (2 * mp.pi) * (mp.sqrt(1 - rho**2) + rho * (mp.pi / 2 + mp.asin(rho))),
            }
            for factor, value in expected.items():
                got = oracle.expectation([factor, factor], where, (0, 1), exact=exact)
                assert abs(got - value) < (mp.mpf(10) ** -21 if exact else 1e-14)


def test_exponentials_and_waves():
    grow, wave = oracle.factor("exp(x)", 0), oracle.factor("sin(2*x)", 0)
    for where in draws(2):
        a, c, b = where.entries((0, 1))
        close(oracle.expectation([grow, grow], where, (0, 1)), math.exp((a + b) / 2 + c))
        close(oracle.expectation([wave, wave], where, (0, 1)), math.exp(-2 * (a + b)) * math.sinh(4 * c))
        close(oracle.expectation([grow, wave], where, (0, 1)), math.exp(a / 2 - 2 * b) * math.sin(2 * c))


def test_deltas():
    """E[σ''(x) σ(y)] of a rectifier is the average of σ(y) given x = 0; a delta meets the mean of the two sides."""
    second, relu, slope = (oracle.factor(RELU, order) for order in (2, 0, 1))
    jump = oracle.factor(SIGN, 1)
    for where in draws(2):
        a, c, b = where.entries((0, 1))
        rest = math.sqrt((b - c * c / a) / (2 * math.pi))
        close(oracle.expectation([second, relu], where, (0, 1)), rest / math.sqrt(2 * math.pi * a))
        close(oracle.expectation([second, relu], where, (0, 0)), 0.0)
        close(oracle.expectation([slope, jump], where, (1, 1)), 1 / math.sqrt(2 * math.pi * b))
        close(oracle.expectation([jump, jump], where, (0, 1)), 4 / (2 * math.pi * math.sqrt(a * b - c * c)))
    assert oracle.defined([slope, jump], (0, 0))
    assert not oracle.defined([jump, jump], (0, 0))
    with pytest.raises(ValueError, match="no measure"):
        oracle.factor(SIGN, 2)


@pytest.mark.parametrize("formula", [ERF, "gelu(x)", "x*exp(-x**2/2)"])
@pytest.mark.parametrize("places", [(0, 1, 2, 3), (0, 1, 0, 2)])
def test_against_a_tensor_quadrature_in_all_four_dimensions(formula, places):
    factors = factors_of("I4", (formula,) * 4)
    where = draws(4, 1)[0]
    used = sorted(set(places))
    L = np.linalg.cholesky([[where.entry(i, j) for j in used] for i in used])
    nodes, weights = special.roots_hermitenorm(44)
    grid = np.stack(np.meshgrid(*[nodes] * len(used), indexing="ij")).reshape(len(used), -1)
    weight = math.prod(np.meshgrid(*[weights / weights.sum()] * len(used), indexing="ij")).ravel()
    fields = dict(zip(used, L @ grid, strict=True))
    for f, place in zip(factors, places, strict=True):
        weight = weight * oracle._compiled(f.above, "scipy")(fields[place])
    close(oracle.expectation(factors, where, places), weight.sum(), 1e-11)


@pytest.mark.parametrize("name", ["erf", "he3", "relu", "gelu", "sin", "exp", "tanh"])
def test_float64_and_multiprecision_agree(name):
    """Two arithmetics, two sets of nodes and steps; every expectation, at distinct and coincident indices."""
    rng = np.random.default_rng(7)
    for kind, orders in FACTORS.items():
        factors = factors_of(kind, (BUILTINS[name].formula,) * len(orders))
        cases = list(random_cases(factors, rng, 1))
        for where, places in [cases[0], cases[-1]]:
            with mp.workdps(60):
                exact = oracle.expectation(factors, where, places, exact=True)
            size = oracle.size(factors, [where.entry(u, u) for u in places])
            error = abs(oracle.expectation(factors, where, places) - exact)
            assert error <= 1e-14 * max(abs(exact), size), (kind, places)


def test_all_ways_to_coincide():
    assert [len(coincidences(count)) for count in (1, 2, 3, 4)] == [1, 2, 5, 15]
    assert coincidences(3)[0] == (0, 1, 2)
