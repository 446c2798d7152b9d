"""Learning rates that change with time, in every solver."""

import dataclasses
import pickle

import numpy as np
import pytest
from scipy.stats import ks_2samp

from hdsgd import Dynamics, Exit, Overlaps, Problem, Schedule, _simulate_c, escape, load, simulate, solve_ode, solve_sde

CONSTANT = Problem("erf", gamma=2.0, Delta=0.1, weight_decay=0.1, second_layer_ratio=0.5)
EQUAL = dataclasses.replace(CONSTANT, gamma=Schedule([0.0, 0.31234, 0.5, 5.0], [2.0] * 4))
CHANGING = dataclasses.replace(CONSTANT, gamma=Schedule([0.0, 0.31234, 0.5], [2.0, 0.5, 1.0]))
START = Overlaps.random(2, 1, 40, rng=0, spherical=False)
FIELDS = ("Q", "M", "a", "risk", "status", "steps", "alpha")


def same(one, other):
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field), err_msg=field)
    for field in ("t", "exit_time"):
        np.testing.assert_allclose(getattr(one, field), getattr(other, field), rtol=1e-14)  # sums of other pieces
    if one.weights is not None:
        np.testing.assert_array_equal(one.weights.W, other.weights.W)


def test_values_by_time():
    schedule = Schedule(np.array([0, 2, 3]), [1, 0.5, 0])
    assert (schedule.times, schedule.values) == ((0.0, 2.0, 3.0), (1.0, 0.5, 0.0))
    np.testing.assert_array_equal(schedule([[0.0, 1.9], [2.0, 7.0]]), [[1.0, 1.0], [0.5, 0.0]])
    assert isinstance(schedule(2), float)
    for before in (-1.0, [0.0, -1e-9], np.nan):
        with pytest.raises(ValueError, match="begins at t = 0"):
            schedule(before)
        with pytest.raises(ValueError, match="begins at t = 0"):
            schedule.after(np.min(before))
    assert [schedule(t) for t in (0.0, 1.999, 2.0, 2.5, 3.0, 100.0)] == [1.0, 1.0, 0.5, 0.5, 0.0, 0.0]
    assert str(schedule) == "0:1,2:0.5,3:0"
    assert f"{schedule:.2f}" == "0:1.00,2:0.50,3:0.00"
    assert schedule.after(2.5) == Schedule([0.0, 0.5], [0.5, 0.0])
    assert schedule.after(2.0) == Schedule([0.0, 1.0], [0.5, 0.0])
    np.testing.assert_array_equal(schedule.steps([0.0, 1.0, 2.5, 3.0, 3.1]), [0.0, 1.0, 3.0, 4.0, np.inf])
    assert schedule.pieces(2.5) == [(0.0, 2.0, 1.0), (2.0, 2.5, 0.5)]
    assert schedule.pieces(0.0) == [(0.0, 0.0, 1.0)]


def test_a_value_like_all_others():
    assert pickle.loads(pickle.dumps(CHANGING)) == CHANGING
    assert hash(CHANGING) == hash(dataclasses.replace(CHANGING))
    assert CHANGING != EQUAL
    assert "Schedule(times=(0.0, 0.31234, 0.5), values=(2.0, 0.5, 1.0))" in repr(CHANGING)
    assert Problem(gamma=Schedule([0.0], [0.5])) == Problem(gamma=0.5)
    assert (CHANGING.at(0.4).gamma, CHANGING.after(0.4).gamma) == (0.5, Schedule([0.0, 0.5 - 0.4], [0.5, 1.0]))
    assert CHANGING.after(7.0) == dataclasses.replace(CHANGING, gamma=1.0)
    assert CONSTANT.at(3.0) == CONSTANT.after(3.0) == CONSTANT


def test_pictures_name_the_learning_rates():
    pytest.importorskip("matplotlib")
    sol = solve_ode(CHANGING, START, 0.1)
    assert r"$\gamma=2$, then $0.5$ from $t=0.31234$, then $1$ from $t=0.5$" in sol.plot().get_suptitle()
    many = dataclasses.replace(sol, problem=dataclasses.replace(CHANGING, gamma=Schedule(range(5), range(5, 0, -1))))
    assert r"$\gamma=5$ to $1$ in 5 pieces" in many.plot().get_suptitle()


@pytest.mark.parametrize(
    ("times", "values", "message"),
    [
        ([0.0, 1.0], [1.0], "one value for each time, got 2 times and 1 values"),
        ([0.1, 1.0], [1.0, 1.0], "begin at 0 and increase"),
        ([0.0, 1.0, 1.0], [1.0, 1.0, 1.0], "begin at 0 and increase"),
        ([0.0, 1.0], [1.0, -1.0], "learning rates >= 0"),
        ([0.0, np.inf], [1.0, 1.0], "not finite"),
        ([], [], "shape"),
    ],
)
def test_what_is_no_schedule_is_refused(times, values, message):
    with pytest.raises(ValueError, match=message):
        Schedule(times, values)


def test_what_needs_one_rate_names_the_remedy():
    retrieval = Problem("quadratic", gamma=Schedule([0.0, 1.0], [0.1, 0.05]), spherical=True)
    state = Overlaps([[1.0]], [[0.1]], [[1.0]])
    for function in (
        lambda problem: Dynamics(problem).drift(state),
        lambda problem: Dynamics(problem).diffusion(state),
        lambda problem: escape.implicit(problem, state, 0.1),
        lambda problem: escape.growth_rate(problem, 1),
        lambda problem: problem.step_time(1, 100),
        lambda problem: np.float64(2.0) * problem.gamma,
    ):
        with pytest.raises(TypeError, match=r"gamma is the schedule 0:0.1,1:0.05; .* problem.at\(0\)"):
            function(retrieval)
        function(retrieval.at(0.0))
    assert Dynamics(retrieval).risk(state) == pytest.approx(1.98)  # no rate in it
    with pytest.raises(ValueError, match="gradient flow, which takes no steps"):
        simulate(Problem(gamma=Schedule([0.0, 1.0], [1.0, 0.0])), START, 1.5, d=40)
    with pytest.raises(ValueError, match="turns the weights around"):
        simulate(Problem(gamma=Schedule([0.0, 1.0], [1.0, 90.0]), weight_decay=1.0), START, 1.5, d=40)
    with pytest.raises(ValueError, match="less than one SGD step"):
        simulate(CHANGING, START, 0.003, d=40)


@pytest.mark.parametrize("method", ["auto", "LSODA"])
def test_the_ode_is_two_runs_by_hand(method):
    problem = dataclasses.replace(CONSTANT, gamma=Schedule([0.0, 3.0], [2.0, 0.3]))
    options = {"rtol": 1e-11, "atol": 1e-13, "method": method}
    both = solve_ode(problem, START, 8.0, times=[0.0, 2.0, 3.0, 5.0, 8.0], **options)
    first = solve_ode(problem.at(0.0), START, 3.0, times=[0.0, 2.0, 3.0], **options)
    second = solve_ode(problem.after(3.0), first.overlaps(), 5.0, times=[2.0, 5.0], **options)
    for name in ("Q", "M", "a", "risk"):
        by_hand = np.concatenate((getattr(first, name), getattr(second, name)))
        np.testing.assert_allclose(getattr(both, name), by_hand, atol=1e-9)
    np.testing.assert_allclose(both.alpha, 2 * np.array([0.0, 1.0, 1.5, 1.5 + 2.0 / 0.3, 1.5 + 5.0 / 0.3]))
    assert 3.0 in solve_ode(problem, START, 8.0, method=method).t  # no step goes across
    drop = Exit(T=1.0 - 0.5 * (second.risk[0] + second.risk[1]) / first.risk[0])
    there = solve_ode(problem, START, 8.0, stop=drop, **options)
    assert there.exit_time > 3.0
    rest = solve_ode(problem.at(3.0), first.overlaps(), 5.0, stop=Exit(level=(1.0 - drop.T) * first.risk[0]), **options)
    assert there.exit_time == pytest.approx(3.0 + rest.exit_time, abs=1e-8)


def test_equal_values_are_the_constant_rate_in_the_ode():
    one, other = (solve_ode(p, START, 2.0, times=[0.0, 0.4, 2.0], rtol=1e-11, atol=1e-13) for p in (EQUAL, CONSTANT))
    np.testing.assert_allclose(one.Q, other.Q, atol=1e-10)
    np.testing.assert_allclose(one.alpha, other.alpha, rtol=1e-14)


def test_gradient_flow_after_noise():
    problem = Problem(gamma=Schedule([0.0, 1.0], [1.0, 0.0]), Delta=1.0)
    sol = solve_ode(problem, START, 20.0, times=[0.0, 0.5, 20.0])
    np.testing.assert_array_equal(sol.alpha, [0.0, 1.0, np.inf])
    paths = solve_sde(problem, START, 20.0, d=10**6, dt=0.01, rng=0, times=[1.0, 20.0])
    assert paths.steps is None
    flow = solve_ode(problem.at(2.0), paths.overlaps(0), 19.0, times=[19.0])
    np.testing.assert_allclose(paths.Q[1], flow.Q[0], atol=1e-4)  # Heun's own error


@pytest.mark.parametrize("backend", ["numpy", pytest.param("c", marks=pytest.mark.needs_cc)])
@pytest.mark.parametrize("method", ["overlaps", "weights"])
def test_equal_values_are_the_constant_rate_bit_for_bit(method, backend):
    options = {"d": 40, "rng": 1, "replicas": 3, "method": method, "backend": backend, "stop": Exit(T=0.8)}
    same(simulate(EQUAL, START, 0.9, **options), simulate(CONSTANT, START, 0.9, **options))


@pytest.mark.parametrize("backend", ["numpy", pytest.param("c", marks=pytest.mark.needs_cc)])
@pytest.mark.parametrize("method", ["overlaps", "weights"])
@pytest.mark.parametrize("p", [1, 2, 5])
def test_steps_and_times(p, method, backend):
    """Where a = 0, nothing but the decay moves W: every step of each rate is in the norms."""
    d, eta = 40, 3.0
    problem = Problem(gamma=Schedule([0.0, 0.31234, 0.4, 0.4001, 0.5], [2.0, 0.5, 9.0, 1.0, 0.25]), weight_decay=eta)
    state = Overlaps.random(p, 1, d, rng=0, spherical=False)
    state = Overlaps(state.Q, state.M, state.P, a=np.zeros(p))
    sol = simulate(problem, state, 0.7, d=d, rng=0, times=np.linspace(0.0, 0.7, 41), method=method, backend=backend)
    units = np.array([2.0, 0.5, 9.0, 1.0, 0.25]) / (p * d)
    clock, pieces = np.zeros(1), np.zeros(0, dtype=int)
    for piece, end in enumerate((0.31234, 0.4, 0.4001, 0.5, 0.7)):
        while abs(clock[-1] + units[piece] - end) < abs(clock[-1] - end):
            clock, pieces = np.append(clock, clock[-1] + units[piece]), np.append(pieces, piece)
    np.testing.assert_allclose(sol.t, clock[sol.steps], rtol=1e-12)
    np.testing.assert_allclose(sol.alpha, sol.steps / d)
    assert sol.steps[-1] == clock.size - 1
    assert np.abs(sol.t[:, None] - np.linspace(0.0, 0.7, 41)).min(axis=0).max() <= units.max()
    kept = np.cumprod(np.append(1.0, 1.0 - eta * units[pieces]))
    np.testing.assert_allclose(sol.Q, kept[sol.steps, None, None] ** 2 * state.Q, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(sol.M, kept[sol.steps, None, None] * state.M, rtol=1e-11, atol=1e-13)


CASES = {
    "registers": (Problem("quadratic", gamma=Schedule([0.0, 0.2, 0.4], [0.1, 0.05, 0.15]), spherical=True), 1, 1, 40),
    "abreast": (CHANGING, 2, 2, 40),
    "alone": (CHANGING, 6, 2, 40),
    "batches": (dataclasses.replace(CHANGING, batch_size=3), 2, 1, 40),
}


def arguments(name, method):
    problem, p, k, d = CASES[name]
    state = Overlaps.random(p, k, d, rng=0, spherical=problem.spherical, replicas=11)
    times = np.linspace(0.0, 0.6, 5)
    return (problem, state, 0.6), {"d": d, "rng": 5, "times": times, "stop": Exit(T=0.3), "method": method}


@pytest.mark.needs_cc
@pytest.mark.parametrize("method", ["overlaps", "weights"])
@pytest.mark.parametrize("name", CASES)
def test_a_run_may_be_cut_and_split_anywhere(name, method, tmp_path, monkeypatch):
    positional, options = arguments(name, method)
    whole = simulate(*positional, **options)
    assert np.isfinite(whole.exit_time).any()
    last = int(whole.steps[-1])
    at_breaks = [int(step) for step in positional[0].clock(*positional[1].M.shape[1:2], 40, 0.6).first[1:]]
    run, path = _simulate_c.run, tmp_path / "run.checkpoint"
    for cut in sorted({1, *at_breaks, *(step + 1 for step in at_breaks), 2 * last // 3, last}):
        with monkeypatch.context() as patch:
            patch.setattr(_simulate_c, "run", lambda *given, until=cut: run(*given, until=until))
            simulate(*positional, **options, checkpoint=path)
    same(whole, simulate(*positional, **options, checkpoint=path))
    other = dataclasses.replace(positional[0], gamma=Schedule([0.0, 0.3], positional[0].gamma.values[:2]))
    with pytest.raises(ValueError, match="is of another run"):
        simulate(other, *positional[1:], **options, checkpoint=path)
    monkeypatch.setenv("HDSGD_THREADS", "3")
    same(whole, simulate(*positional, **options))
    state = positional[1]
    few = simulate(positional[0], Overlaps(state.Q[:4], state.M[:4], state.P), 0.6, **options)
    np.testing.assert_array_equal(whole.Q[:4], few.Q)
    np.testing.assert_array_equal(whole.exit_time[:4], few.exit_time)


def test_the_exit_of_the_ode_under_a_schedule():
    """A rate beyond stability keeps it on the plateau; the breaks lie beyond the first span that is looked at."""
    problem = Problem("quadratic", gamma=Schedule([0.0, 11.0, 14.0], [0.18, 0.175, 0.1]), spherical=True)
    state = Overlaps([[1.0]], [[0.1]], [[1.0]])
    sol = solve_ode(problem, state, 80.0, stop=Exit(T=0.1), rtol=1e-10, atol=1e-20)
    assert sol.exit_time > 14.0
    assert escape.by_ode(problem, state, 0.1) == pytest.approx(sol.exit_time, rel=1e-8)
    assert np.isnan(escape.by_ode(problem.at(0.0), state, 0.1))


@pytest.mark.parametrize("method", ["overlaps", "weights"])
def test_exits_come_in_every_piece(method):
    problem = Problem("quadratic", gamma=Schedule([0.0, 0.8], [0.1, 0.02]), Delta=1e-4, spherical=True)
    state = Overlaps([[1.0]], [[0.15]], [[1.0]])
    d = 50 if method == "weights" else 400
    sol = simulate(problem, state, 3.0, d=d, replicas=40, rng=2, times=[0.0], stop=Exit(T=0.3), method=method)
    late = sol.exit_time[sol.exit_time > 0.8]
    assert 3 < late.size < 40  # 28 of 40 expected
    units = np.array([0.1, 0.02]) / d
    steps = np.where(sol.exit_time <= 0.8, sol.exit_time / units[0], 0.8 / units[0] + (sol.exit_time - 0.8) / units[1])
    seen = np.isfinite(steps)
    np.testing.assert_allclose(steps[seen], np.rint(steps[seen]), atol=1e-6)


def standardised(sol):
    return np.concatenate([x.reshape(x.shape[0], -1) for x in (sol.Q, sol.M, sol.a)], axis=1).T


@pytest.mark.parametrize("backend", ["numpy", pytest.param("c", marks=pytest.mark.needs_cc)])
def test_the_chain_has_the_law_of_explicit_weights(backend):
    """Large steps between small ones. The wrong rate is seen."""
    problem = dataclasses.replace(CHANGING, gamma=Schedule([0.0, 0.5, 1.0], [0.5, 4.0, 0.5]))
    state = Overlaps.random(2, 1, 20, rng=3, spherical=False)
    options = {"d": 20, "replicas": 800, "times": [0.5, 1.0, 1.5], "backend": backend}
    chain = simulate(problem, state, 1.5, rng=4, **options)
    weights = simulate(problem, state, 1.5, rng=5, method="weights", **options)
    found = [ks_2samp(one, other).pvalue for one, other in zip(standardised(chain), standardised(weights), strict=True)]
    assert min(found) > 1e-3 / len(found)
    wrong = simulate(problem.at(0.0), state, 1.5, rng=6, **options)
    apart = [ks_2samp(one, other).pvalue for one, other in zip(standardised(wrong), standardised(weights), strict=True)]
    assert min(apart) < 1e-20


@pytest.mark.parametrize("backend", ["numpy", pytest.param("c", marks=pytest.mark.needs_cc)])
def test_the_sde_follows_the_chain(backend):
    problem = Problem("quadratic", gamma=Schedule([0.0, 0.35], [0.02, 0.1]), Delta=0.1, spherical=True)
    state, times = Overlaps([[1.0]], [[0.3]], [[1.0]]), [0.2, 0.35, 0.6]
    d, count = 4000, 2000 if backend == "c" else 400
    chain = simulate(problem, state, 0.6, d=d, replicas=2000, rng=1, times=times).M[..., 0, 0]
    paths = solve_sde(problem, state, 0.6, d=d, dt=0.01, replicas=count, rng=2, times=times, backend=backend)
    sde = paths.M[..., 0, 0]
    error = np.sqrt(chain.var(axis=0) / chain.shape[0] + sde.var(axis=0) / count)
    assert (np.abs(chain.mean(axis=0) - sde.mean(axis=0)) < 4.0 * error).all()
    ratio = chain.var(axis=0) / sde.var(axis=0)
    assert (np.abs(np.log(ratio)) < 4.0 * np.sqrt(2.0 / chain.shape[0] + 2.0 / count)).all()
    np.testing.assert_array_equal(paths.steps, problem.clock(1, d, 0.6).steps(times))


@pytest.mark.needs_cc
def test_a_decaying_rate_reaches_a_lower_floor():
    times = np.concatenate(([0.0], np.geomspace(5.0, 400.0, 12)))
    decay = Problem(gamma=Schedule(times, np.append(1.0, 5.0 / times[1:])), Delta=0.1)
    state = Overlaps([[1.0]], [[0.3]], [[1.0]])
    options = {"d": 50, "replicas": 20, "rng": 1, "times": [20.0, 400.0]}
    constant, falling = (simulate(p, state, 400.0, **options).risk.mean(axis=0) for p in (decay.at(0.0), decay))
    assert falling[1] < 0.1 * falling[0] < 0.1 * constant[1]
    assert falling[1] < 0.02 * constant[1]


@pytest.mark.parametrize("solver", [solve_ode, simulate, solve_sde])
def test_saved_loaded_and_gone_on_with(solver, tmp_path):
    from hdsgd._starts import read

    options = {} if solver is solve_ode else {"d": 40, "rng": 0}
    sol = solver(CHANGING, START, 0.4, **options)
    for ending in ("npz", "nc"):
        sol.save(tmp_path / f"run.{ending}")
        back = load(tmp_path / f"run.{ending}")
        assert back == sol
        assert back.problem.gamma == CHANGING.gamma
    assert read(tmp_path / "run.npz").problem == CHANGING.after(sol.t[-1])


def test_on_the_command_line(tmp_path, capsys):
    from hdsgd.cli import main

    out = tmp_path / "run.npz"
    words = ["-p", "1", "-d", "50", "--seed", "1", "--gamma", "0:0.5,2:0.1"]
    for command in (["simulate"], ["sde", "--dt", "0.1"]):
        assert main([*command, *words, "--t-max", "3", "--out", str(out)]) == 0
        assert "gamma = 0:0.5,2:0.1," in capsys.readouterr().out
        assert load(out).problem.gamma == Schedule([0.0, 2.0], [0.5, 0.1])
    assert main(["simulate", "--start", str(out), "--t-max", "1"]) == 0
    assert "gamma = 0.1," in capsys.readouterr().out
    for wrong in ("1:0.5", "0:0.5,0:1", "0:-1", "0:0.5,", "0:x"):
        assert main(["solve", "-d", "50", "--gamma", wrong, "--t-max", "3"]) == 2
        assert "argument --gamma" in capsys.readouterr().err
    assert main(["plateau", "--activation", "x**2", "--gamma", "0:0.1,1:0.05"]) == 2
    assert "give a number to --gamma" in capsys.readouterr().err


@pytest.mark.needs_cc
@pytest.mark.parametrize("method", ["overlaps", "weights"])
def test_the_second_layer_follows_the_schedule(method):
    problem = dataclasses.replace(CONSTANT, gamma=Schedule([0.0, 0.3], [0.1, 2.0]), second_layer_ratio=2.0)
    options = {"d": 40, "times": [0.6]}
    compiled = simulate(problem, START, 0.6, rng=1, replicas=4000, method=method, **options).a[:, 0]
    numpy = simulate(problem, START, 0.6, rng=2, replicas=1000, backend="numpy", **options).a[:, 0]
    error = np.hypot(compiled.std(0) / np.sqrt(4000), numpy.std(0) / np.sqrt(1000))
    assert np.all(np.abs(compiled.mean(0) - numpy.mean(0)) < 4.5 * error)
    kept = simulate(problem.at(0.0), START, 0.6, rng=3, replicas=200, **options).a[:, 0]  # a rate that stayed
    assert compiled.std(0).min() > 2.0 * kept.std(0).max()  # its fluctuations are smaller
