"""The phase diagram: regions in rational numbers, and each region's ODE in its own clock."""

from fractions import Fraction

import numpy as np
import pytest

from hdsgd import Exit, Overlaps, Problem, fixed_point, floor, scaling, simulate, solve_ode


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


@pytest.mark.parametrize(
    ("delta", "mu", "region", "step", "samples"),
    [
        ("-1/4", 0, "orange", "-1/2", "1/2"),
        ("-1/4", "1/4", "blue", "-3/4", "1"),  # large batches tame a large learning rate
        ("-1/4", "1/2", "green", "-3/4", "5/4"),
        ("-1/2", 0, "red", "0", "0"),
        ("-1/2", "1/4", "orange", "-1/4", "1/2"),
        ("-1/2", "1/2", "blue", "-1/2", "1"),
        ("-3/4", "3/4", "blue", "-1/4", "1"),
        ("-1", 1, "red", "0", "1"),  # a step moves by order one even without noise
        ("-9/10", "7/10", "red", "1/10", "3/5"),
        (0, "1/2", "green", "-1", "3/2"),
    ],
)
def test_regions_of_growing_batches(delta, mu, region, step, samples):
    """Drift d^-(1+s) and noise d^-(1+2s+mu) per step: whichever is larger survives, if it is small."""
    point = scaling(0, delta, mu=mu, n0=2.0)
    assert (point.region, point.step_exponent, point.samples_exponent) == (region, Fraction(step), Fraction(samples))
    drift, noise = -(1 + Fraction(delta)), -(1 + 2 * Fraction(delta) + Fraction(mu))
    alive = {"drift": drift >= noise, "noise": noise >= drift}
    assert point.terms == tuple(name for name in alive if alive[name] and region != "red")
    assert point.batch_size(10**4) == round(2.0 * 10 ** (4 * float(Fraction(mu))))


def test_batches_are_single_samples_by_default():
    assert scaling("1/3", "-1/3", 2, 3) == scaling("1/3", "-1/3", 2, 3, mu=0, n0=1)
    assert scaling(0, 0).problem(50, activation="erf") == Problem("erf")


def informed_start(p=8, k=4, seed=0):
    A = np.random.default_rng(seed).normal(size=(p, k))
    return Overlaps.mixed(A / np.linalg.norm(A, axis=1, keepdims=True))


def test_mixtures():
    A, P = np.array([[1.0, 0.5], [0.0, 2.0], [1.0, 1.0]]), np.array([[1.0, 0.2], [0.2, 0.5]])
    W_star = np.linalg.cholesky(P) @ np.eye(2, 40) * np.sqrt(40)
    expected = Overlaps.from_weights(A @ W_star, W_star, a=[1.0, 2.0, 3.0])
    found = Overlaps.mixed(A, P, a=[1.0, 2.0, 3.0])
    for name in ("Q", "M", "P", "a", "a_star"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-12)
    assert Overlaps.mixed(np.stack((A, 2 * A))).replicas == 2
    with pytest.raises(ValueError, match="P must be"):
        Overlaps.mixed(A, np.eye(3))
    with pytest.raises(ValueError, match="A must"):
        Overlaps.mixed([1.0, 2.0])


def test_identical_students_follow_the_narrow_network():
    """At equal gamma/p, a network of identical copies has the ODE of the one without: width enters through gamma/p."""
    narrow, times = informed_start(4, 2), np.array([1.0, 10.0, 50.0])
    wide = Overlaps.mixed(np.repeat(narrow.M, 3, axis=0))
    risks = [solve_ode(Problem("erf", gamma=0.5 * s.p, Delta=0.01), s, 50.0, times=times).risk for s in (narrow, wide)]
    np.testing.assert_allclose(*risks, rtol=1e-6)


@pytest.mark.parametrize(
    ("seed", "risks"),
    [(0, [0.0679, 0.0739, 0.126, 0.222, 0.191, 0.152]), (1, [0.0336, 0.0367, 0.0740, 0.204, 0.185, 0.150])],
)
def test_orange_ode(seed, risks):
    """Veiga et al. 2022, (8, 4), g0 = 1, Delta = 0: reference trajectories of two starts."""
    times = [0.0, 1.0, 10.0, 100.0, 1000.0, 10000.0]
    _, M, risk = scaling(0, "-1/4", 8, 8).solve(informed_start(seed=seed), times, activation="erf")
    np.testing.assert_allclose(risk, risks, rtol=5e-3)
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


@pytest.mark.parametrize(("mu", "region"), [("1/4", "blue"), ("1/2", "green")])
@pytest.mark.needs_cc
def test_simulation_with_growing_batches(mu, region):
    """At delta = -1/4, orange for single samples, growing batches change the limit ODE."""
    point, start, taus = scaling(0, "-1/4", 2, 1, mu=mu, n0=2), informed_start(2, 2, seed=1), np.array([0.0, 1.0, 3.0])
    assert point.region == region
    _, _, limit = point.solve(start, taus, activation="erf", Delta=0.01)
    gaps = []
    for d in (200, 10**4):
        times = point.time(taus, d)
        problem = point.problem(d, activation="erf", Delta=0.01)
        runs = simulate(problem, start, float(times[-1]) * (1 + 1e-9), d=d, replicas=32, rng=3, times=times)
        gaps.append(np.abs(runs.risk.mean(axis=0) - limit).max() / limit.max())
    assert gaps[1] < max(0.5 * gaps[0], 0.02)
    assert gaps[1] < 0.1


@pytest.mark.needs_cc
@pytest.mark.parametrize("delta", ["1/4", "1/2"])
def test_a_lower_floor_costs_samples(delta):
    """Floor ~ d^-delta, samples ~ d^(1 + delta)."""
    point, samples, floors, dimensions = scaling(0, delta, 8, 8), [], [], (10**5, 10**7)
    for d in dimensions:
        problem = point.problem(d, activation="erf", Delta=1e-3)
        floors.append(floor(problem, 8, 4).risk)
        end = solve_ode(problem, informed_start(), 1e3, times=[0.0], stop=Exit(level=1e-3)).exit_time
        samples.append(end * 8 * d / problem.gamma)
    slopes = [np.log(y[1] / y[0]) / np.log(100.0) for y in (samples, floors)]
    np.testing.assert_allclose(slopes, [1 + float(Fraction(delta)), -float(Fraction(delta))], atol=0.01)


@pytest.mark.slow
@pytest.mark.needs_cc
def test_the_plateau_of_random_starts_lengthens_as_log_d():
    """Blue: students that are all alike are a saddle, left at its growth rate omega: log(d)/(2 omega)."""
    problem = Problem("erf", gamma=8.0, Delta=1e-3)
    alike = Overlaps.mixed(np.full((8, 4), 0.3))
    start = Overlaps(alike.Q + 0.1 * np.eye(8), alike.M, alike.P)
    saddle = fixed_point(problem, solve_ode(problem, start, 300.0, times=[300.0]).overlaps())
    assert saddle.kind == "saddle"
    means = []
    for d in (10**6, 10**12):
        starts = [Overlaps.random(8, 4, d, rng=i, orthogonal_teacher=True) for i in range(12)]
        stop = Exit(level=0.5 * saddle.risk)
        means.append(np.mean([solve_ode(problem, s, 1e4, times=[0.0], stop=stop).exit_time for s in starts]))
    slope = (means[1] - means[0]) / np.log(10**6)
    assert slope == pytest.approx(0.5 / saddle.eigenvalues[0].real, rel=0.05)


def test_bad_input():
    with pytest.raises(ValueError, match="mu must be >= 0"):
        scaling(0, 0, mu=-1)
    with pytest.raises(ValueError, match="n0"):
        scaling(0, 0, n0=0.0)
    with pytest.raises(ValueError, match="rational"):
        scaling("half", 0)
    with pytest.raises(ValueError, match="no ODE"):
        scaling(0, -1).solve(informed_start(), [0.0, 1.0], activation="erf")
    with pytest.raises(ValueError, match="p0"):
        scaling(0, 0, p0=0.0)


@pytest.mark.parametrize("delta", [0, "-3/8"])
def test_a_limit_that_diverges_says_so(delta):
    start = Overlaps(9.0 * np.eye(3), 0.3 * np.ones((3, 2)), np.eye(2))
    with pytest.raises(ValueError, match="diverges"):
        scaling(0, delta).solve(start, [0.0, 1.0, 50.0], activation="quadratic", Delta=0.1)


@pytest.mark.parametrize(
    ("times", "options", "words"),
    [
        ([], {}, "finite times"),
        ([0.0], {}, "above 0"),
        ([1.0], {"batch_size": 4}, "n0"),
        ([1.0], {"gamma": 1.0}, "gamma0"),
        ([2.0, 1.0], {}, "increase"),
    ],
)
def test_what_a_limit_cannot_take(times, options, words):
    with pytest.raises(ValueError, match=words):
        scaling(0, "-1/4", 8, 8).solve(informed_start(), times, activation="erf", **options)


def test_a_student_has_a_unit_at_any_d():
    with pytest.raises(ValueError, match="kappa must be >= 0"):
        scaling(-1, 0)


@pytest.mark.parametrize("ask", ["p", "gamma", "batch_size", "step_time", "problem"])
def test_powers_beyond_floats_say_so(ask):
    """Rounded to zero, a learning rate would be gradient flow."""
    for point in (scaling(400, 400, mu=400), scaling(400, -900, mu=400)):
        with pytest.raises(ValueError, match="is not a floating-point number at d = 10"):
            getattr(point, ask)(10)
    assert scaling(400, 400, mu=400).p(1) == 1


def test_a_limit_takes_one_start_and_numbers():
    point = scaling(0, 0)
    with pytest.raises(ValueError, match=r"pass state\.replica\(i\)"):
        point.solve(Overlaps.random(2, 1, 50, rng=0, replicas=3), [0.0, 1.0])
    with pytest.raises(TypeError, match=r"pass Overlaps\(Q, M, P\)"):
        point.solve("start", [0.0, 1.0])
    with pytest.raises(TypeError, match="times tau are numbers"):
        point.time("late", 100)
    with pytest.raises(ValueError, match="leave out gamma"):
        point.problem(100, gamma=1.0)
