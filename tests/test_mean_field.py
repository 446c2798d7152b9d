"""The reduced equations of wide students: against the full ones, random directions, and the command line."""

import json
import pickle

import numpy as np
import pytest
from scipy.stats import norm

from hdsgd import Dynamics, MeanField, Overlaps, Problem, mean_field, plateau, solve_ode
from hdsgd._reduced_risk import RISKS
from hdsgd.cli import main

NAMES = {"quadratic": RISKS["x ** 2"], "erf": RISKS["erf(x / sqrt(2))"]}
FLOW = {name: Problem(name, gamma=0.0) for name in NAMES}


def without_cross_terms(p, k, size=0.3, seed=0, a=False):
    """A start whose students have independent directions outside the teacher's span."""
    rng = np.random.default_rng(seed)
    mix = np.tril(rng.normal(size=(k, k)))
    P = mix @ mix.T / k
    M = size * rng.normal(size=(p, k)) @ np.linalg.cholesky(P).T
    second = (rng.uniform(0.5, 1.5, p), rng.normal(size=k)) if a else (None, None)
    return MeanField(M, rng.uniform(0.3, 1.0, p), P, *second)


def full(start):
    B = np.linalg.solve(np.linalg.cholesky(start.P), start.M.T).T
    return Overlaps(B @ B.T + np.diag(start.q), start.M, start.P, start.a, start.a_star)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("p", "k"), [(1, 1), (7, 1), (5, 2), (6, 3)])
def test_reduced_equations_are_the_full_ones(name, p, k):
    """Risk and derivatives where no unit overlaps another outside the teacher's span, with any second layers."""
    start = without_cross_terms(p, k, a=True)
    state = full(start)
    again = MeanField.of(state)
    np.testing.assert_allclose(again.q, start.q, atol=1e-12)
    sol = mean_field(FLOW[name], start, 1e-4, times=[0.0, 1e-4], rtol=1e-12, atol=1e-14)
    dynamics = Dynamics(FLOW[name])
    assert sol.risk[0] == pytest.approx(dynamics.risk(state), rel=1e-10)
    drift = dynamics.drift(state)
    np.testing.assert_allclose((sol.M[1] - sol.M[0]) / 1e-4, drift.dM, atol=2e-3)
    exact = solve_ode(FLOW[name], state, 1e-4, times=[1e-4], rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(sol.M[1], exact.M[0], atol=1e-6)  # what differs is of second order in time
    np.testing.assert_allclose(sol.norms[1], np.diagonal(exact.Q[0]), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("c", [0.0, 0.05])
def test_slopes_are_those_of_the_risk(name, k, c):
    rng = np.random.default_rng(k)
    B, q, v = rng.normal(size=(5, k)) / 2, rng.uniform(0.2, 1.0, 5), rng.normal(size=5) / 5
    L, v_star = rng.normal(size=(k, k)), rng.normal(size=k)
    found = NAMES[name](B, q, v, L, v_star, c)

    def along(B_by, q_by, h=1e-3):
        values = [NAMES[name](B + s * h * B_by, q + s * h * q_by, v, L, v_star, c).risk for s in (1, -1, 2, -2)]
        return (8.0 * (values[0] - values[1]) - values[2] + values[3]) / (12.0 * h)

    for _ in range(3):
        B_by, q_by = rng.normal(size=B.shape), rng.normal(size=5) / 5
        expected = (found.B * B_by).sum() + found.q @ q_by
        assert along(B_by, q_by) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_corrections_are_the_mean_over_random_directions(name):
    """1/(d - k) from the full risk at rests of random directions; odd orders cancel between R and -R."""
    rng, d = np.random.default_rng(5), 202
    M = rng.uniform(0.3, 0.8, (12, 2))  # of one sign: otherwise erf's corrections cancel
    start = MeanField(M, rng.uniform(0.3, 1.0, 12), [[1.0, 0.3], [0.3, 1.0]])
    B = np.linalg.solve(np.linalg.cholesky(start.P), start.M.T).T
    dynamics, found = Dynamics(FLOW[name]), []
    for _ in range(300):
        rest = rng.normal(size=(12, d - 2))
        rest *= (np.sqrt(start.q) / np.linalg.norm(rest, axis=1))[:, None]
        R = rest @ rest.T
        found.append(
            np.mean([dynamics.risk(Overlaps(B @ B.T + np.diag(start.q) + s * (R - np.diag(start.q)), start.M, start.P))
                     for s in (1, -1)])
        )  # fmt: skip
    base = dynamics.risk(full(start))
    predicted = mean_field(FLOW[name], start, 0.0, d=d).risk[0] - base
    mean, error = np.mean(found) - base, np.std(found) / np.sqrt(len(found))
    assert abs(mean - predicted) < 4 * error + 0.02 * abs(predicted)
    assert abs(predicted) > 8 * error


@pytest.mark.parametrize("name", NAMES)
def test_error_falls_as_one_over_the_width(name):
    gaps = []
    for p in (30, 90):
        levels = (np.arange(p) + 0.5) / p
        start = MeanField(0.3 * norm.ppf(levels)[:, None], 0.5 + 0.5 * levels, np.eye(1))
        times = np.linspace(0.0, 4.0, 9)
        exact = solve_ode(FLOW[name], full(start), 4.0, times=times, rtol=1e-7)
        sol = mean_field(FLOW[name], start, 4.0, times=times, rtol=1e-8)
        gaps.append(np.abs(exact.risk - sol.risk).max())
    assert gaps[1] < 0.02 * sol.risk[0]
    assert gaps[0] / gaps[1] == pytest.approx(3.0, rel=0.2)


def test_plateau_of_quadratic_students_is_exact():
    start = MeanField(np.zeros((6, 3)), np.linspace(0.3, 1.5, 6), np.eye(3))
    sol = mean_field(FLOW["quadratic"], start, 60.0, rtol=1e-10, atol=1e-12)
    flat = plateau(FLOW["quadratic"], 6, 3)
    np.testing.assert_allclose(sol.q[-1], np.diagonal(flat.point.state.Q), atol=1e-8)
    assert sol.risk[-1] == pytest.approx(flat.point.risk, abs=1e-9)


def test_wide_students_learn():
    """One hundred thousand units: the seed decides, the state goes on, and weight decay shrinks the norms."""
    start = MeanField.random(10**5, 1, 1000, rng=3)
    assert start == MeanField.random(10**5, 1, 1000, rng=3)
    assert start.q.mean() == pytest.approx(0.999, abs=5 * np.sqrt(2 / 1000 / 10**5))
    assert np.square(start.M).mean() == pytest.approx(1e-3, rel=0.05)
    problem = FLOW["quadratic"]
    sol = mean_field(problem, start, 0.1, times=[0.05, 0.1])
    on = mean_field(problem, sol.state(0), 0.05, times=[0.05])
    np.testing.assert_allclose(on.M[0], sol.M[1], atol=1e-6)
    small = MeanField(start.M[:50], start.q[:50], start.P)
    decaying = mean_field(Problem("quadratic", gamma=0.0, weight_decay=0.5), small, 1.0, times=[1.0])
    exact = solve_ode(Problem("quadratic", gamma=0.0, weight_decay=0.5), full(small), 1.0, times=[1.0])
    assert decaying.norms[0].mean() == pytest.approx(np.diagonal(exact.Q[0]).mean(), rel=0.01)
    assert decaying.norms[0].mean() < 0.9 * mean_field(problem, small, 1.0, times=[1.0]).norms[0].mean()


def test_solutions_are_values(tmp_path):
    sol = mean_field(FLOW["erf"], without_cross_terms(6, 2), 1.0, d=100)
    again = pickle.loads(pickle.dumps(sol))
    np.testing.assert_array_equal(again.M, sol.M)
    assert pickle.loads(pickle.dumps(sol.state())) == sol.state()
    assert not sol.M.flags.writeable
    sol.save(tmp_path / "wide.npz")
    with np.load(tmp_path / "wide.npz") as arrays:
        np.testing.assert_array_equal(arrays["q"], sol.q)
    assert "p=6" in repr(sol)
    figure = sol.plot()
    assert figure.get_suptitle() == "erf, $p=6$, $k=2$, $d=100$, gradient flow"
    assert {axes.get_xlabel() for axes in figure.axes} == {r"$t = \nu\gamma/(pd)$"}
    assert [axes.get_ylabel()[:11] for axes in figure.axes] == ["excess risk", "median, cen"]


def test_command(tmp_path, capsys):
    out, plot = tmp_path / "wide.npz", tmp_path / "wide.png"
    arguments = ["mean-field", "-p", "300", "-d", "100", "--t-max", "2", "--seed", "1"]
    assert main([*arguments, "--out", str(out), "--plot", str(plot), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    sol = mean_field(FLOW["erf"], MeanField.random(300, 1, 100, rng=1), 2.0, d=100)
    assert document["risk"] == sol.risk.tolist()
    assert out.exists()
    assert plot.exists()
    assert main(arguments) == 0
    assert "seed 1" in capsys.readouterr().out
    start = tmp_path / "start.json"
    start.write_text('{"Q": [[1.0]], "M": [[0.1]], "P": [[1.0]]}')
    assert main(["mean-field", "--start", str(start), "--t-max", "1"]) == 0
    assert main(["mean-field", "--t-max", "1"]) == 2
    assert "-p 5000 -d 1000" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("what", "says"),
    [
        (lambda s: mean_field(Problem("relu", gamma=0.0), s, 1.0), "'erf' or both"),
        (lambda s: mean_field(Problem("erf", "quadratic", gamma=0.0), s, 1.0), "'erf' or both"),
        (lambda s: mean_field(Problem("erf"), s, 1.0), "gamma=0"),
        (lambda s: mean_field(Problem("erf", gamma=0.0, spherical=True), s, 1.0), "free norms"),
        (lambda s: mean_field(FLOW["erf"], np.eye(2), 1.0), "MeanField"),
        (lambda s: mean_field("erf", s, 1.0), "Problem"),
        (lambda s: mean_field(FLOW["erf"], s, 1.0, d=2), "d must be"),
        (lambda s: mean_field(FLOW["erf"], without_cross_terms(3, 6), 1.0), "solve_ode"),
        (lambda s: MeanField(s.M, -s.q, s.P), "negative"),
        (lambda s: MeanField(s.M, s.q[:2], s.P), "shape"),
        (lambda s: MeanField.of(Overlaps.random(2, 1, 50, rng=0, replicas=2)), "replica"),
    ],
)
def test_refusals(what, says):
    with pytest.raises((ValueError, TypeError), match=says):
        what(without_cross_terms(4, 2))


def test_a_teacher_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no teacher"):
        MeanField(np.zeros((3, 1)), np.ones(3), [[0.0]])
