"""Exit times by every route, against the numbers of the theory and against the solvers."""

import itertools
import json
from functools import partial
from pathlib import Path

import mpmath
import numpy as np
import pytest
from scipy.special import digamma

import hdsgd
from hdsgd import Exit, Overlaps, Problem, escape
from hdsgd._laws import chi_nodes, exit_from_zero, mean_log_mu, normal_mean, sphere_nodes

STARTS = json.loads((Path(__file__).parent / "data" / "published_exit_times.json").read_text())["start"]


def retrieval(gamma=0.1, Delta=1e-4):
    return Problem("quadratic", gamma=gamma, Delta=Delta, spherical=True)


def published(name):
    return Overlaps(STARTS[name]["Q0"], STARTS[name]["M0"], STARTS[name]["P"])


def at(m):
    return Overlaps([[1.0]], [[m]], [[1.0]])


@pytest.mark.parametrize(
    ("gamma", "T", "corrected", "quenched"),
    [(0.1, 0.1, 1.9270, 2.180), (0.05, 0.1, 1.2010, 1.246), (0.1, 0.01, 1.1865, 1.470)],
)
def test_random_starts(gamma, T, corrected, quenched):
    problem = retrieval(gamma)
    assert escape.corrected(problem, d=3000, T=T) == pytest.approx(corrected, abs=1e-3)
    assert escape.quenched(problem, p=1, d=3000, T=T) == pytest.approx(quenched, abs=1e-3)


def test_published_starts():
    one, two = published("p1"), published("p2")
    assert escape.by_ode(retrieval(), one, 0.01) == pytest.approx(1.0689, abs=3e-4)
    assert escape.implicit(retrieval(), one, 0.01) == pytest.approx(1.0657, abs=2e-3)
    assert escape.corrected(retrieval(), d=3000, T=0.01, state=one) == pytest.approx(1.156, abs=2e-3)
    assert escape.by_ode(retrieval(), two, 0.01) == pytest.approx(0.3850, abs=3e-4)


@pytest.mark.parametrize("p", [1, 2, 5, 20])
def test_annealed_is_the_printed_formula(p):
    problem, d, T = retrieval(0.1 * p), 3000, 0.1
    growth = 4 * (1 - 0.1 * (1 + 1 / p + 4 / p**2 + 0.5e-4))
    expected = np.log((T * (p + 1) * d + (p + 1) * (1 - T)) / (2 * p)) / (2 * growth)
    assert escape.annealed(problem, p=p, d=d, T=T) == pytest.approx(expected, rel=1e-12)
    assert escape.growth_rate(problem, p) == pytest.approx(growth, rel=1e-12)
    # Jensen: the mean of the logarithm of 1/mu0 is larger.
    assert escape.quenched(problem, p=p, d=d, T=T) > escape.annealed(problem, p=p, d=d, T=T)


@pytest.mark.parametrize(
    ("p", "d", "T"), [(1, 3000, 0.01), (2, 500, 0.1), (5, 3000, 0.01), (8, 1000, 0.1), (30, 1000, 0.1)]
)
def test_quenched_is_the_mean_over_starts(p, d, T):
    problem = retrieval(0.1 * p)
    starts = Overlaps.random(p, 1, d, rng=7, replicas=4000)
    mu0 = d * np.sum(starts.M**2, axis=(1, 2))
    tau0 = d * (np.sum(starts.Q**2, axis=(1, 2)) - p)
    logs = np.log((T * p * (p + 1) * d + (2 * mu0 * p - tau0) * (1 - T)) / (2 * mu0 * p))
    times = logs / (2 * escape.growth_rate(problem, p))
    error = times.std() / np.sqrt(times.size)
    assert escape.quenched(problem, p=p, d=d, T=T) == pytest.approx(times.mean(), abs=4 * error)


def test_quenched_at_one_unit_by_an_independent_quadrature():
    from scipy.integrate import quad
    from scipy.stats import beta

    d, T, problem = 300, 0.05, retrieval()
    density = beta(0.5, (d - 1) / 2).pdf
    # x = u^2 takes away the singularity of the density at 0.
    f = lambda u: np.log((2 * T * d + 2 * d * u**2 * (1 - T)) / (2 * d * u**2)) * density(u**2) * 2 * u  # noqa: E731
    mean = quad(f, 0, 0.2, limit=500, epsabs=1e-13)[0] + quad(f, 0.2, 1, limit=500, epsabs=1e-13)[0]
    expected = mean / (2 * escape.growth_rate(problem, 1))
    assert escape.quenched(problem, p=1, d=d, T=T) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("p", [1, 2, 4, 10])
def test_implicit_solves_its_equation(p):
    problem, T = retrieval(0.05 * p), 0.02
    state = Overlaps.random(p, 1, 1000, rng=p)
    t = escape.implicit(problem, state, T)
    grow, decay = escape.growth_rate(problem, p), escape.decay_rate(problem, p)
    off = np.sum(state.Q**2) - p
    risk = lambda s: 1 + 1 / p + off / p**2 * np.exp(-2 * decay * s) - 2 / p * np.sum(state.M**2) * np.exp(2 * grow * s)  # noqa: E731
    assert risk(t) == pytest.approx((1 - T) * risk(0), rel=1e-12)
    assert risk(0) == pytest.approx(hdsgd.Dynamics(problem).risk(state), rel=1e-12)
    # A small fall from a small start: the linear rates are right to first order.
    assert t == pytest.approx(escape.by_ode(problem, state, T), rel=0.02)


def test_the_rates_are_those_of_the_drift():
    for p in (1, 2, 5):
        problem = retrieval(0.05 * p, Delta=0.3)
        Q, M = np.eye(p), np.zeros((p, 1))
        Q[0, -1] = Q[-1, 0] = 1e-6 if p > 1 else 1.0
        M[0, 0] = 1e-6
        drift = hdsgd.Dynamics(problem).drift(Overlaps(Q, M, [[1.0]]))
        assert drift.dM[0, 0] / 1e-6 == pytest.approx(escape.growth_rate(problem, p), rel=1e-4)
        if p > 1:
            assert drift.dQ[0, -1] / 1e-6 == pytest.approx(-escape.decay_rate(problem, p), rel=1e-4)


def test_optimal_gamma_maximises_the_growth_per_step():
    assert escape.optimal_gamma(retrieval(Delta=0.5), p=1) == pytest.approx(1 / 12.5)
    for p in (1, 3, 20):
        best = escape.optimal_gamma(retrieval(Delta=0.5), p=p)
        per_step = [g * escape.growth_rate(retrieval(g, 0.5), p) for g in (best, 0.99 * best, 1.01 * best)]
        assert per_step[0] == max(per_step)
        assert escape.growth_rate(retrieval(escape.max_gamma(retrieval(Delta=0.5), p), 0.5), p) >= -1e-12


def test_corrected_times_are_means_of_the_ode():
    problem, d, T = retrieval(), 3000, 0.1
    # The closed form of the exit at p = 1 is the solver's.
    silent = Problem("quadratic", gamma=0.0, spherical=True)
    for m in (0.02, -0.3):
        fixed = escape.corrected(silent, d=d, T=T, state=at(m))
        assert fixed == pytest.approx(escape.by_ode(silent, at(m), T), rel=1e-7)
    # Over random starts, from the same closed form by sampling.
    noise = 0.1 * (48 + 4e-4) / (2 * escape.growth_rate(problem, 1))
    m2 = np.random.default_rng(0).beta(0.5, (d - 1) / 2, 200_000)
    grow, brake = escape.growth_rate(problem, 1), 4 * (1 - 0.6)
    end = T + (1 - T) * m2
    times = np.log(end * (grow - brake * m2) / (m2 * (grow - brake * end))) / (2 * grow)
    expected = times.mean() - np.log1p(noise) / (2 * grow)
    assert escape.corrected(problem, d=d, T=T) == pytest.approx(expected, abs=4 * times.std() / np.sqrt(m2.size))
    # The mean over random fixed starts is the random-start result.
    nodes, weights = sphere_nodes(d, 64)
    over = sum(
        w * escape.corrected(problem, d=d, T=T, state=at(np.sqrt(u))) for u, w in zip(nodes, weights, strict=True)
    )
    assert over == pytest.approx(escape.corrected(problem, d=d, T=T), abs=2e-3)


def test_no_noise_is_needed_to_correct_nothing():
    # gamma -> 0: no noise, and no smallest T*d; the start of each run is all that is random.
    flow = Problem("quadratic", gamma=0.0, spherical=True)
    assert escape.corrected(flow, d=10, T=1e-3) > 0.0
    assert escape.corrected(flow, d=10, T=1e-3, state=at(0.5)) == pytest.approx(
        escape.by_ode(flow, at(0.5), 1e-3), rel=1e-6
    )


@pytest.mark.parametrize("gamma", [0.003, 0.05, 0.1, 0.15, 0.16])
def test_times_are_positive_and_finite_wherever_they_are_given(gamma):
    problem, given, refused = retrieval(gamma), 0, 0
    for d, T in itertools.product((2, 10, 100, 3000), (1e-5, 1e-3, 0.01, 0.1, 0.9)):
        calls = [partial(function, p=p) for function in (escape.annealed, escape.quenched) for p in (1, 2, 20)]
        calls += [escape.corrected, *(partial(escape.corrected, state=at(m)) for m in (0.0, 0.01, -0.3, 0.999))]
        for call in calls:
            try:
                assert 0.0 < call(problem, d=d, T=T) < np.inf
                given += 1
            except ValueError as reason:
                assert "\n" not in str(reason)
                refused += 1
    assert given > 40
    assert refused > 40


@pytest.mark.slow
@pytest.mark.needs_cc
@pytest.mark.parametrize(("gamma", "d"), [(0.02, 1000), (0.1, 1000), (0.15, 3000)])
def test_corrected_times_are_right_at_the_limit_of_their_range(gamma, d):
    problem = retrieval(gamma)
    noise = gamma * (48 + 4e-4) / (2 * escape.growth_rate(problem, 1))
    T, horizon = 10.001 * noise / d, 25 / escape.growth_rate(problem, 1)
    starts = Overlaps.random(1, 1, d, rng=5, replicas=4000)
    exits = hdsgd.simulate(problem, starts, horizon, d=d, rng=3, times=[0.0], stop=Exit(T=T)).exit_time
    error = 4 * exits.std() / np.sqrt(exits.size)
    assert escape.corrected(problem, d=d, T=T) == pytest.approx(exits.mean(), abs=0.05 * exits.mean() + error)
    with pytest.raises(ValueError, match="clear of the noise"):
        escape.corrected(problem, d=d, T=0.9 * T)


def test_the_noise_lets_a_start_at_zero_exit():
    d, T = 3000, 0.01
    assert np.isfinite(escape.corrected(retrieval(), d=d, T=T, state=at(0.0)))
    # From M = 0 the full SDE takes 1.319 (gamma = .1, Delta = 0); the logistic approximation is within 3 %.
    assert escape.corrected(retrieval(Delta=0.0), d=d, T=T, state=at(0.0)) == pytest.approx(1.319, rel=0.03)


def test_quenched_knows_the_variance_of_the_overlaps_exactly():
    """At d = 100 chi-squared laws would be 3e-6 off; the second moments of log N are those of the starts."""
    p, d, T = 3, 100, 0.3
    problem = retrieval(0.05 * p, 0.0)
    starts = Overlaps.random(p, 1, d, rng=7, replicas=20_000)
    mu0 = d * np.sum(starts.M**2, axis=(1, 2))
    tau0 = d * (np.sum(starts.Q**2, axis=(1, 2)) - p)
    mean = T * p * (p + 1) * d + (2 * p * p - p * (p - 1)) * (1 - T)
    x = (T * p * (p + 1) * d + (2 * p * mu0 - tau0) * (1 - T)) / mean - 1
    variance = ((1 - T) / mean) ** 2 * (8 * p**3 + 4 * p * (p - 1)) * (d - 1) / (d + 2)
    rest = np.log1p(x) - x + x**2 / 2
    log = np.log(mean) + rest.mean() - variance / 2
    growth = 2 * escape.growth_rate(problem, p)
    expected = (log - mean_log_mu(p, d) - np.log(2 * p)) / growth
    found = escape.quenched(problem, p=p, d=d, T=T)
    assert found == pytest.approx(expected, abs=4 * rest.std() / np.sqrt(20_000) / growth)


def test_by_ode_is_nan_soon_where_M_decays():
    cubic = Problem("he3", gamma=0.05, spherical=True)
    for p, k in ((1, 1), (2, 2)):
        assert np.isnan(escape.by_ode(cubic, Overlaps.random(p, k, 1000, rng=0), 0.1))
    flow = Problem("he3", gamma=0.0, spherical=True)  # there M = 0 is left by a power law
    assert 0.0 < escape.by_ode(flow, Overlaps.random(1, 1, 1000, rng=0), 0.1) < np.inf


def test_by_ode_is_nan_where_the_trajectory_never_exits():
    assert np.isnan(escape.by_ode(retrieval(), at(0.0), 0.01))  # M = 0 stays 0
    assert np.isnan(escape.by_ode(retrieval(0.1, Delta=3.0), at(0.3), 0.9))  # the floor lies above the level
    assert np.isnan(escape.by_ode(retrieval(0.2), at(0.3), 0.1))  # beyond stability
    diverging = Overlaps.random(3, 2, 100, rng=0, spherical=False)
    assert np.isnan(escape.by_ode(Problem("cubic", gamma=50.0), diverging, 0.5))


def test_by_ode_takes_any_problem_and_long_plateaus():
    start = Overlaps.random(4, 2, 1000, rng=0, spherical=False)
    problem = Problem("erf", gamma=1.0)
    t = escape.by_ode(problem, start, 0.99)
    assert t > 10.0  # over the first piece
    sol = hdsgd.solve_ode(problem, start, t, times=[t])
    assert sol.risk[-1] == pytest.approx(0.01 * hdsgd.Dynamics(problem).risk(start), rel=1e-5)
    tiny = escape.by_ode(retrieval(0.0), at(1e-9), 0.1)
    assert tiny == pytest.approx(escape.implicit(retrieval(0.0), at(1e-9), 0.1), rel=0.01)


def test_first_passage_of_stored_times():
    problem = retrieval()
    exact = escape.by_ode(problem, at(0.05), 0.3)
    sol = hdsgd.solve_ode(problem, at(0.05), 4.0, times=np.linspace(0, 4, 201))
    assert escape.first_passage(sol, 0.3) == pytest.approx(exact, abs=1e-5)
    assert np.isnan(escape.first_passage(hdsgd.solve_ode(problem, at(0.05), 0.1), 0.3))
    stopped = hdsgd.solve_ode(problem, at(0.05), 4.0, times=[0.0, 4.0], stop=Exit(T=0.3))
    assert escape.first_passage(stopped, 0.3) == stopped.exit_time
    with pytest.raises(ValueError, match="solve again without stop"):
        escape.first_passage(stopped, 0.5)
    with pytest.raises(ValueError, match="begin at 0"):
        escape.first_passage(hdsgd.solve_ode(problem, at(0.05), 1.0, times=[0.5, 1.0]), 0.3)


def test_first_passage_of_an_ensemble():
    problem = retrieval()
    kwargs = {"d": 3000, "replicas": 50, "rng": 0, "dt": 2e-3}
    times = np.linspace(0, 3, 1501)
    through = hdsgd.solve_sde(problem, at(0.05), 3.0, times=times, **kwargs)
    passage = escape.first_passage(through, 0.05)
    assert passage.shape == (50,)
    stopped = hdsgd.solve_sde(problem, at(0.05), 3.0, times=times, stop=Exit(T=0.05), **kwargs)
    np.testing.assert_array_equal(escape.first_passage(stopped, 0.05), stopped.exit_time)
    # Paths are the same; between stored times only a crossing of the bridge is missed.
    assert np.all(stopped.exit_time <= passage + 1e-12)
    np.testing.assert_allclose(stopped.exit_time, passage, atol=0.1)


def test_laws_of_random_starts():
    for n in (32, 64):
        u, w = sphere_nodes(10, n)
        assert w.sum() == pytest.approx(1)
        assert w @ u == pytest.approx(1 / 10, rel=1e-10)
        assert w @ u**2 == pytest.approx(3 / (10 * 12), rel=1e-10)
    x, w = chi_nodes(45, 64)
    assert w @ x == pytest.approx(45, rel=1e-12)
    assert w @ x**2 == pytest.approx(45 * 47, rel=1e-12)
    # Beta: E log m^2 = digamma(1/2) - digamma(d/2); a sum of p -> chi-squared as d grows.
    rng = np.random.default_rng(0)
    for p, d in ((2, 3), (3, 10), (7, 50)):
        sample = np.log(d * rng.beta(0.5, (d - 1) / 2, (200_000, p)).sum(axis=1))
        assert mean_log_mu(p, d) == pytest.approx(sample.mean(), abs=4 * sample.std() / np.sqrt(sample.size))
        assert mean_log_mu(p, 10**7) == pytest.approx(digamma(p / 2) + np.log(2), abs=1e-6)
    assert normal_mean(lambda x: np.log(x**2), 0.0, 2.0, (0.0,)) == pytest.approx(digamma(0.5) + np.log(2) + np.log(4))


BAD = {
    "T of 0": (lambda: escape.annealed(retrieval(), p=1, d=3000, T=0.0), "0 < T|T must be in"),
    "T of 1": (lambda: escape.by_ode(retrieval(), at(0.1), 1.0), "T must be in"),
    "T above 1": (lambda: escape.quenched(retrieval(), p=1, d=3000, T=1.5), "T must be in"),
    "gamma beyond stability": (lambda: escape.annealed(retrieval(0.17), p=1, d=3000, T=0.1), "choose gamma <"),
    "gamma unstable in Q": (lambda: escape.quenched(retrieval(0.6), p=2, d=3000, T=0.1), "choose gamma <"),
    "implicit beyond stability": (lambda: escape.implicit(retrieval(0.2), at(0.1), 0.1), "choose gamma <"),
    "never exits": (lambda: escape.implicit(retrieval(), at(0.0), 0.1), "never exits"),
    "level below the floor": (lambda: escape.corrected(retrieval(0.1, 3.0), d=3000, T=0.9), "never reached"),
    "fixed start, below the floor": (
        lambda: escape.corrected(retrieval(0.1, 3.0), d=3000, T=0.9, state=at(0.1)),
        "never reached",
    ),
    "not quadratic": (lambda: escape.annealed(Problem("erf", spherical=True), p=1, d=3000, T=0.1), "quadratic"),
    "another teacher": (
        lambda: escape.annealed(Problem("quadratic", "he2", spherical=True), p=1, d=3000, T=0.1),
        "quadratic",
    ),
    "not spherical": (lambda: escape.quenched(Problem("quadratic", gamma=0.1), p=1, d=3000, T=0.1), "spherical=True"),
    "k = 2": (lambda: escape.annealed(retrieval(), p=1, k=2, d=3000, T=0.1), "k = 1"),
    "optimal gamma, k = 2": (lambda: escape.optimal_gamma(retrieval(), p=1, k=2), "k = 1"),
    "implicit, k = 2": (lambda: escape.implicit(retrieval(), Overlaps.random(1, 2, 50, rng=0), 0.1), "k = 1"),
    "teacher's norm": (lambda: escape.implicit(retrieval(), Overlaps([[1.0]], [[0.1]], [[4.0]]), 0.1), "P = 1"),
    "second layer": (
        lambda: escape.implicit(retrieval(), Overlaps([[1]], [[0.1]], [[1]], a=[2]), 0.1),
        "second layers",
    ),
    "not on the sphere": (lambda: escape.implicit(retrieval(), Overlaps([[2.0]], [[0.1]], [[1.0]]), 0.1), "Q_jj = 1"),
    "replica axis": (lambda: escape.implicit(retrieval(), Overlaps.random(1, 1, 9, rng=0, replicas=2), 0.1), "replica"),
    "corrected, T*d too small": (
        lambda: escape.corrected(retrieval(), d=10, T=0.001),
        "T.d >= 15.*is 0.01; increase T",
    ),
    "corrected, less small": (lambda: escape.corrected(retrieval(), d=3000, T=1e-3), "clear of the noise"),
    "corrected, large d": (lambda: escape.corrected(retrieval(), d=3000, T=1e-5), "clear of the noise"),
    "corrected, fixed start": (
        lambda: escape.corrected(retrieval(), d=100, T=0.01, state=at(0.1)),
        "squared distance of M.*increase T or d",
    ),
    "annealed would be negative": (
        lambda: escape.annealed(retrieval(0.2), p=2, d=100, T=1e-3),
        r"T\*d >= 3.*increase T",
    ),
    "quenched, T*d too small": (lambda: escape.quenched(retrieval(), p=1, d=100, T=0.01), r"T\*d >= 3.*increase T"),
    "T*d too small": (lambda: escape.quenched(retrieval(1.0), p=10, d=1000, T=1e-5), "increase T or d"),
    "not a solution": (lambda: escape.first_passage([1.0, 0.5], 0.1), "Solution"),
    "not a problem": (lambda: escape.annealed("quadratic", p=1, d=3000, T=0.1), "Problem"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_cases_name_the_remedy(case):
    call, message = BAD[case]
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("p", "expected"), [(1, 1.316072), (2, 0.700259), (5, 0.544000)])
def test_first_passage_from_zero_overlap(p, expected):
    problem = Problem("quadratic", gamma=0.1 * p, spherical=True)
    assert escape.from_zero(problem, p=p, d=3000, T=0.01) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("p", "rate", "noise", "level"), [(1, 1.6, 1e-8, 0.5), (7, 0.3, 1.0, 0.1), (300, 2.0, 1e-4, 0.7)]
)
def test_the_integral_of_the_first_passage_is_the_hypergeometric_function(p, rate, noise, level):
    x, half = mpmath.mpf(rate) * level / noise, mpmath.mpf(p) / 2
    exact = level / (p * mpmath.mpf(noise)) * mpmath.hyp2f2(1, 1, 1 + half, 2, -x)
    assert exit_from_zero(p, rate, noise, level) == pytest.approx(float(exact), rel=1e-10)


def test_from_zero_needs_noise():
    with pytest.raises(ValueError, match="gamma > 0"):
        escape.from_zero(Problem("quadratic", gamma=0.0, spherical=True), p=1, d=3000, T=0.01)
