"""The choice of the learning rate: largest, fastest, gain of width, samples; closed forms against the equations."""

import dataclasses
import json

import numpy as np
import pytest

from hdsgd import Dynamics, Exit, Overlaps, Problem, escape, plateau, simulate
from hdsgd._learning_rate import _Plateau

pytestmark = pytest.mark.needs_cc  # minutes on numpy

RETRIEVAL = Problem("quadratic", Delta=1e-4, spherical=True)


@pytest.mark.parametrize(
    ("widths", "noises"),
    [
        ((1, 2, 5, 50), (1.0,)),
        pytest.param(range(1, 51), (1e-4,), marks=pytest.mark.slow),
    ],
)
def test_the_closed_forms_of_phase_retrieval(widths, noises):
    for Delta in noises:
        problem = dataclasses.replace(RETRIEVAL, Delta=Delta)
        one = escape.learning_rate(problem, p=1)
        for p in widths:
            found = escape.learning_rate(problem, p=p)
            assert found.optimal == pytest.approx(escape.optimal_gamma(problem, p=p), rel=1e-8)
            assert found.largest == pytest.approx(escape.max_gamma(problem, p), rel=1e-8)
            assert found.growth == pytest.approx(escape.growth_rate(found.problem, p), rel=1e-8)
            assert one.prefactor / found.prefactor == pytest.approx(escape.gain(p, Delta), rel=1e-8)
    assert escape.gain(10**6, 0.5) == pytest.approx(12.5 / 2.5, rel=1e-5)


@pytest.mark.parametrize(
    ("activation", "spherical", "p", "k"),
    [
        ("quadratic", False, 1, 1),
        ("quadratic", False, 4, 2),
        ("quadratic", True, 5, 3),
        ("abs", True, 2, 1),
        ("cos", False, 3, 2),
        ("gaussian", True, 4, 1),
    ],
)
def test_rates_by_symmetry_are_those_of_the_whole_jacobian(activation, spherical, p, k):
    problem = Problem(activation, Delta=0.1, spherical=spherical, batch_size=2)
    flat = _Plateau(problem, p, k)
    gamma = 0.4 * flat.largest
    whole = plateau(dataclasses.replace(problem, gamma=gamma), p, k)
    assert flat.growth(gamma) == pytest.approx(whole.growth, abs=1e-9)
    g = gamma / (2 * p)
    x = [np.interp(g, [z[-1] for z in flat.points], [z[i] for z in flat.points]) for i in range(len(flat.parts))]
    near = flat._decay(np.array([*x, g]))
    if np.isfinite(near):
        rates = whole.point.eigenvalues.real
        others = rates[rates < -1e-3]
        assert np.abs(others + near).min() < 1e-2 * near  # interpolated: another test tells where it vanishes


@pytest.mark.parametrize(
    ("activation", "spherical", "p", "k"),
    [("quadratic", True, 2, 1), ("abs", True, 2, 1)],
)
def test_beyond_the_largest_rate_there_is_no_escape_from_a_stable_plateau(activation, spherical, p, k):
    """Where growth ends, or students become unstable."""
    problem = Problem(activation, Delta=0.1, spherical=spherical)
    largest = escape.learning_rate(problem, p=p, k=k).largest
    below, above = (plateau(dataclasses.replace(problem, gamma=x * largest), p, k) for x in (0.999, 1.001))
    assert below.growth > 0.0
    assert below.point.unstable <= p * k
    assert above.growth < 0.0 or above.point.unstable > below.point.unstable


@pytest.mark.parametrize("activation", ["quadratic", "cos"])
def test_beyond_a_fold_the_norms_run_away(activation):
    """At p = 1, M = 0 the norm is all that moves: the plateau is a zero of its drift, and two of them meet."""
    problem = Problem(activation, Delta=0.1)
    largest = escape.learning_rate(problem, p=1).largest
    Q = np.linspace(0.2, 8.0, 1500)
    lowest = []
    for factor in (0.9999, 1.0001):
        dynamics = Dynamics(dataclasses.replace(problem, gamma=factor * largest))
        drift = dynamics.drift(Overlaps(Q[:, None, None], np.zeros((Q.size, 1, 1)), [[1.0]])).dQ[:, 0, 0]
        lowest.append(drift.min())
    assert lowest[0] < 0.0 < lowest[1]


def test_free_phase_retrieval_in_closed_form():
    """M stops growing at the norm q (1 + 2/p) = 1 + 2/k, which the plateau has at one gamma only."""
    problem, p, k = Problem("quadratic", Delta=0.1), 3, 2
    q = (1.0 + 2.0 / k) / (1.0 + 2.0 / p)
    noise = Dynamics(problem).noise(Overlaps(q * np.eye(p), np.zeros((p, k)), np.eye(k)))[0, 0]
    gamma = 4.0 * p * (q * (q - 1.0) + 2.0 * q**2 / p) / noise
    assert escape.learning_rate(problem, p=p, k=k).largest == pytest.approx(gamma, rel=1e-10)


def test_batches_scale_the_rate():
    one, four = (escape.learning_rate(Problem("cos", Delta=0.1, batch_size=n), p=2) for n in (1, 4))
    assert four.optimal == pytest.approx(4.0 * one.optimal, rel=1e-7)
    assert four.largest == pytest.approx(4.0 * one.largest, rel=1e-9)
    assert four.prefactor == pytest.approx(one.prefactor, rel=1e-9)


def test_samples():
    problem = dataclasses.replace(RETRIEVAL, gamma=0.2)
    where = {"p": 2, "d": 3000, "T": 0.1}
    for by in ("annealed", "quenched", "corrected"):
        t = getattr(escape, by)(problem, **where)
        assert escape.samples(problem, **where, by=by) == pytest.approx(2 * 3000 * t / 0.2)
    free = Problem("abs", gamma=0.2, batch_size=3)
    t = plateau(free, 2, 1).exit_time(10**5, 0.01)
    found = escape.samples(free, p=2, d=10**5, T=0.01, by="linear")
    assert found == pytest.approx(3 * 2 * 10**5 * t / 0.2)
    with pytest.raises(ValueError, match="uses no samples; set gamma > 0"):
        escape.samples(dataclasses.replace(RETRIEVAL, gamma=0.0), **where)
    with pytest.raises(ValueError, match="by must be one of"):
        escape.samples(problem, **where, by="anneal")


@pytest.mark.parametrize("by", ["annealed", "quenched"])
def test_without_noise_the_optimum_is_that_of_the_rates(by):
    for p in (1, 5):
        found = escape.learning_rate(RETRIEVAL, p=p, d=3000, T=0.1, by=by)
        assert found.optimal == pytest.approx(escape.optimal_gamma(RETRIEVAL, p=p), rel=1e-6)


def test_the_optimum_of_the_corrected_time():
    """Noise shortens the exit by more at a larger rate: the optimum is above that of the linear rates."""
    found = escape.learning_rate(RETRIEVAL, p=1, d=3000, T=0.1)
    assert 1.05 < found.optimal / escape.optimal_gamma(RETRIEVAL, p=1) < 1.15
    factors = (0.9, 0.98, 0.998, 1.0, 1.002, 1.02, 1.1)
    counts = [
        escape.samples(dataclasses.replace(RETRIEVAL, gamma=factor * found.optimal), p=1, d=3000, T=0.1)
        for factor in factors
    ]
    assert counts[:4] == sorted(counts[:4], reverse=True)
    assert counts[3:] == sorted(counts[3:])
    assert counts[3] == pytest.approx(found.samples, rel=1e-12)
    assert found.growth == pytest.approx(escape.growth_rate(found.problem, 1), rel=1e-9)
    far = escape.learning_rate(RETRIEVAL, p=1, d=10**9, T=0.1)  # as 1/log d
    assert 1.0 < far.optimal / escape.optimal_gamma(RETRIEVAL, p=1) < 0.4 + 0.6 * found.optimal * 12.0


@pytest.mark.slow
@pytest.mark.needs_cc
@pytest.mark.parametrize("p", [1, 2])
def test_the_simulation_needs_fewest_samples_there(p):
    found = escape.learning_rate(RETRIEVAL, p=p, d=3000, T=0.1)

    def simulated(gamma):
        problem = dataclasses.replace(RETRIEVAL, gamma=gamma)
        starts = Overlaps.random(p, 1, 3000, rng=7, replicas=6000 // p)
        times = simulate(problem, starts, 40.0, d=3000, rng=8, times=[0.0], stop=Exit(T=0.1)).exit_time
        assert np.isfinite(times).all()
        scale = p * 3000 / gamma
        return scale * times.mean(), scale * times.std() / np.sqrt(times.size)

    best, error = simulated(found.optimal)
    assert abs(best - found.samples) < 3.0 * error + 0.01 * best
    for factor in (0.7, 0.8, 1.2):
        count, other = simulated(factor * found.optimal)
        assert count - best > 4.0 * np.hypot(error, other)


def test_what_has_no_such_optimum_is_refused():
    for problem, p, options, message in (
        (Problem("erf"), 1, {}, "share 1"),
        (Problem("he3"), 2, {}, "share 3"),
        (Problem("gaussian"), 3, {"k": 2}, "already in gradient flow"),
        (Problem("quadratic", second_layer_ratio=1.0), 1, {}, "second_layer_ratio=0"),
        (RETRIEVAL, 1, {"d": 1000}, "both d and T"),
        (RETRIEVAL, 1, {"d": 1000, "T": 0.1, "by": "ode"}, "by must be one of"),
        (RETRIEVAL, 1, {"d": 10, "T": 0.1}, "gives no optimum .* increase T or d"),
        (Problem("quadratic", Delta=1e-4), 1, {"d": 1000, "T": 0.1}, "gives no optimum .* on the sphere"),
    ):
        with pytest.raises(ValueError, match=message):
            escape.learning_rate(problem, p=p, **options)


def test_on_the_command_line(capsys):
    from hdsgd.cli import main

    words = ["plateau", "--activation", "quadratic", "--spherical", "--Delta", "1e-4", "--gamma", "0.1"]
    assert main([*words, "--learning-rate"]) == 0
    out = capsys.readouterr().out
    assert "optimal gamma = 0.0833326" in out
    assert "largest gamma = 0.166665" in out
    assert main([*words, "--learning-rate", "corrected", "-d", "3000", "--exit-T", "0.1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["learning_rate"]
    expected = escape.learning_rate(RETRIEVAL, p=1, d=3000, T=0.1)
    assert (found["optimal"], found["samples"], found["by"]) == (expected.optimal, expected.samples, "corrected")
    assert main([*words, "--learning-rate", "corrected"]) == 2
    assert "needs -d and --exit-T" in capsys.readouterr().err
    assert main(["plateau", "--activation", "erf", "--learning-rate"]) == 2
    assert "share 1" in capsys.readouterr().err


def test_without_gamma_the_command_leaves_the_plateau_out(capsys):
    """At gamma = 1, the default, phase retrieval on the sphere has no escape from it, and the free one no plateau."""
    from hdsgd.cli import main

    free = ["plateau", "--activation", "quadratic", "-p", "6", "-k", "3", "--learning-rate"]
    assert main([*free, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    best = escape.learning_rate(Problem("quadratic"), p=6, k=3)
    assert (found["learning_rate"]["optimal"], "rates" in found) == (best.optimal, False)
    assert main([*free, "-d", "3000", "--exit-T", "0.1"]) == 2
    assert "need --gamma, or a ROUTE" in capsys.readouterr().err
    assert main([*free, "corrected", "-d", "3000", "--exit-T", "0.1"]) == 2
    assert "add --spherical or see the ODE" in capsys.readouterr().err
