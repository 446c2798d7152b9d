"""What the commands that run something do: results, files, JSON."""

import dataclasses
import functools
import importlib.util
import json
import math

import numpy as np
import pytest

import hdsgd
from hdsgd import Exit, Overlaps, Problem
from hdsgd.cli import main

SQUARE = ["--activation", "quadratic", "--gamma", "0.1", "--spherical"]


pytestmark = pytest.mark.usefixtures("private")


@pytest.fixture
def call(capsys):
    """Run a command; return its exit code and what it printed, parsed with --json."""

    def run(*arguments, code=0):
        assert main([str(argument) for argument in arguments]) == code
        out, err = capsys.readouterr()
        assert err == ""
        return json.loads(out) if "--json" in arguments else out

    return run


@pytest.fixture
def start(tmp_path):
    state = Overlaps([[1.0]], [[0.2]], [[1.0]])
    (tmp_path / "start.json").write_text('{"Q": [[1.0]], "M": [[0.2]], "P": [[1.0]]}')
    return state


def fields(text):
    """The labelled lines of a summary."""
    return {label: rest.strip() for label, _, rest in (line.partition("  ") for line in text.splitlines())}


# solve


def test_solve_equals_the_python_function(call, start):
    found = call(
        "solve", *SQUARE, "--Delta", "0.01", "--start", "start.json", "--t-max", "2", "--times", "5", "--exit-T", "0.9",
        "--rtol", "1e-6", "--atol", "1e-7", "--method", "Radau", "--backend", "numpy", "--out", "run.npz", "--json",
    )  # fmt: skip
    problem = Problem("quadratic", gamma=0.1, Delta=0.01, spherical=True)
    expected = hdsgd.solve_ode(
        problem,
        start,
        2.0,
        times=np.linspace(0.0, 2.0, 5),
        stop=Exit(T=0.9),
        rtol=1e-6,
        atol=1e-7,
        method="Radau",
        backend="numpy",
    )
    saved = hdsgd.load("run.npz")
    assert (saved.problem, saved.stop) == (problem, Exit(T=0.9))
    np.testing.assert_array_equal(saved.M, expected.M)
    assert found["command"] == "solve"
    assert found["t"] == expected.t.tolist()
    assert found["risk"] == expected.risk.tolist()
    assert found["final"]["risk"] == expected.risk[-1]
    assert found["final"]["M"] == expected.M[-1].tolist()
    assert found["final"]["standard_error"] is None
    assert found["exit"]["mean"] == expected.exit_time
    assert found["status"] == {"EXITED": 1}
    assert found["stats"]["rtol"] == 1e-6
    assert found["seed"] is None
    assert found["files"] == ["run.npz"]


def test_solve_summary(call):
    text = call("solve", *SQUARE, "-d", "3000", "--seed", "4", "--t-max", "5", "--exit-T", "0.01")
    start = Overlaps.random(1, 1, 3000, rng=4)
    expected = hdsgd.solve_ode(Problem("quadratic", gamma=0.1, spherical=True), start, 5.0, stop=Exit(T=0.01))
    lines = fields(text)
    assert lines["problem"] == "quadratic: x ** 2; gamma = 0.1, Delta = 0, on the sphere"
    assert lines["start"] == "random, p = 1, k = 1, d = 3000, seed 4"
    assert lines["exit time"] == f"{expected.exit_time:.6g}"
    assert lines["final risk"].startswith(f"{expected.risk[-1]:.6g} at t = ")
    assert lines["status"] == "The exit level of the risk was reached."


def test_solve_draws_a_seed_that_reproduces(call):
    arguments = ["solve", "-p", "2", "-k", "3", "-d", "50", "--orthogonal-teacher", "--t-max", "0.1", "--json"]
    first, second = call(*arguments), call(*arguments)
    assert first["seed"] != second["seed"]
    assert call(*arguments, "--seed", first["seed"])["risk"] == first["risk"]
    expected = Overlaps.random(2, 3, 50, rng=int(first["seed"]), spherical=False, orthogonal_teacher=True)
    assert first["risk"][0] == pytest.approx(hdsgd.Dynamics(Problem("erf")).risk(expected), rel=1e-12)


def test_solve_of_a_pair_on_the_boundary_of_options(call, start):
    arguments = ["--start", "start.json", "--t-max", "1", "--no-spherical", "--exit-level", "0.1", "--times", "1,"]
    found = call("solve", "--activation", "erf", "--teacher", "he3", *arguments, "--json")
    assert found["problem"]["teacher_activation"]["name"] == "he3"
    assert found["t"] == [1.0]
    assert found["exit"]["mean"] is None
    assert found["exit"]["censored"] == 1
    text = call("solve", "--activation", "erf", "--teacher", "he3", *arguments)
    assert "student erf: erf(x / sqrt(2)), teacher he3: x ** 3 - 3 * x" in text
    assert fields(text)["exit time"] == "none: 1 censored at t = 1"
    assert "increase --t-max" in fields(text)["status"]
    assert "increase --t-max" in found["message"]


def test_solve_goes_on_from_a_saved_solution(call):
    call("solve", *SQUARE, "-d", "100", "--t-max", "1", "--seed", "1", "--out", "first.npz")
    found = call("solve", "--start", "first.npz", "--t-max", "1", "--times", "2", "--json")
    whole = call("solve", *SQUARE, "-d", "100", "--t-max", "2", "--seed", "1", "--json")
    assert found["problem"] == whole["problem"]  # the solution's own, without being told again
    assert found["final"]["risk"] == pytest.approx(whole["final"]["risk"], abs=1e-7)
    changed = call("solve", "--start", "first.npz", "--gamma", "0.05", "--t-max", "1", "--json")
    assert changed["problem"] == {**whole["problem"], "gamma": 0.05}


def test_solve_takes_one_replica_of_a_file(call, capsys):
    call("simulate", *SQUARE, "-d", "100", "--t-max", "1", "--replicas", "3", "--out", "three.npz")
    found = call("solve", "--start", "three.npz", "--replica", "2", "--t-max", "1", "--times", "2", "--json")
    final = hdsgd.load("three.npz").overlaps(-1)
    problem = Problem("quadratic", gamma=0.1, spherical=True)
    assert found["risk"][0] == pytest.approx(hdsgd.Dynamics(problem).risk(final.replica(2)), rel=1e-12)
    for arguments, expected in (
        ((), "three.npz has 3 replicas; choose one with --replica"),
        (("--replica", "3"), "three.npz has replicas 0 to 2"),
        (("--replica", "0", "-k", "2"), "three.npz has k = 1, not 2; leave -k out"),
        (("--replica", "0", "-d", "9"), "-d is for --start random"),
        (("--replica", "0", "--seed", "9"), "--seed is for --start random"),
        (("--replica", "0", "--orthogonal-teacher"), "--orthogonal-teacher is for --start random"),
    ):
        assert main(["solve", "--start", "three.npz", "--t-max", "1", *arguments]) == 2
        assert expected in capsys.readouterr().err


def test_a_failed_integration_is_no_success(call, monkeypatch):
    # Where scipy's solvers give up differs between versions and machines, so the status is set here.
    @functools.wraps(hdsgd.solve_ode)
    def failed(*arguments, **options):
        sol = solve(*arguments, **options)
        stats = {**sol.stats, "reason": "the step is too small"}
        return dataclasses.replace(sol, status=hdsgd.Status.FAILED, stats=stats)

    solve = hdsgd.solve_ode
    monkeypatch.setattr("hdsgd.cli._run.solve_ode", failed)
    text = call("solve", "-d", "100", "--t-max", "1", code=1)
    assert fields(text)["status"].endswith("The integrator says: the step is too small")
    assert call("solve", "-d", "100", "--t-max", "1", "--json", code=1)["status"] == {"FAILED": 1}


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_plots(call, ending, tmp_path):
    pytest.importorskip("matplotlib")
    text = call("solve", "-d", "100", "--t-max", "1", "--plot", f"figure.{ending}", "--out", "run.npz")
    assert fields(text)["written"] == f"run.npz, figure.{ending}"
    magic = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[ending]
    assert (tmp_path / f"figure.{ending}").read_bytes().startswith(magic)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"figure.{ending}", "run.npz"]


def test_netcdf(call):
    pytest.importorskip("h5netcdf")
    pytest.importorskip("xarray")
    call("solve", "-d", "100", "--t-max", "1", "--seed", "0", "--out", "run.nc")
    assert hdsgd.load("run.nc").t[-1] == 1.0


# simulate and sde


@pytest.mark.parametrize("backend", ["auto", "numpy"])
@pytest.mark.parametrize("method", ["overlaps", "weights"])
def test_simulate_equals_the_python_function(call, backend, method):
    found = call(
        "simulate", *SQUARE, "-d", "60", "-p", "2", "--t-max", "1", "--times", "0,0.5,1", "--replicas", "4", "--seed",
        "7", "--exit-level", "1.4", "--method", method, "--backend", backend, "--out", "run.npz", "--json",
    )  # fmt: skip
    problem = Problem("quadratic", gamma=0.1, spherical=True)
    expected = hdsgd.simulate(
        problem,
        Overlaps.random(2, 1, 60, rng=7, replicas=4),
        1.0,
        d=60,
        rng=7,
        times=[0.0, 0.5, 1.0],
        stop=Exit(level=1.4),
        method=method,
        backend=backend,
    )
    saved = hdsgd.load("run.npz")
    np.testing.assert_array_equal(saved.M, expected.M)
    np.testing.assert_array_equal(saved.exit_time, expected.exit_time)
    assert (saved.seed, saved.d, saved.method) == (7, 60, method)
    exits = expected.exit_time[np.isfinite(expected.exit_time)]
    assert found["exit"]["exited"] == exits.size
    assert found["exit"]["censored"] == 4 - exits.size
    assert [math.nan if t is None else t for t in found["exit"]["times"]] == pytest.approx(
        expected.exit_time.tolist(), nan_ok=True
    )
    assert "risk" not in found


def test_replicas_share_a_start_when_asked(call):
    arguments = ["simulate", "-d", "100", "--t-max", "0", "--seed", "5", "--replicas", "3", "--out", "run.npz"]
    call(*arguments)
    own = hdsgd.load("run.npz").M[:, 0]
    assert len(np.unique(own)) == 3
    text = call(*arguments, "--shared-start")
    shared = hdsgd.load("run.npz").M[:, 0]
    assert np.unique(shared).tolist() == [own[0, 0, 0]]
    assert fields(text)["start"] == "random, p = 1, k = 1, d = 100, seed 5"


def test_exit_statistics(call, start):
    arguments = ["simulate", *SQUARE, "--start", "start.json", "-d", "200", "--t-max", "0.5", "--exit-T", "0.1"]
    found = call(*arguments, "--replicas", "40", "--seed", "3", "--json")["exit"]
    times = np.array([np.nan if t is None else t for t in found["times"]])
    seen = times[np.isfinite(times)]
    assert 20 < seen.size < 40
    assert (found["exited"], found["censored"], found["diverged"]) == (seen.size, 40 - seen.size, 0)
    assert (found["mean"], found["standard_error"]) == (None, None)
    assert found["median"] == pytest.approx(np.median(np.where(np.isfinite(times), times, 9.0)))
    text = fields(call(*arguments, "--replicas", "40", "--seed", "3"))
    few, late = f"{seen.size} of 40 replicas", f"{40 - seen.size} censored at t = 0.5"
    assert text["exit time"] == (
        f"median {found['median']:.6g}; a mean over the {few} that exited is biased low ({late})"
    )
    assert text["final risk"] == f"no mean at t = 0.5: {few} had exited before"
    none = call(*arguments[:-1], "0.99", "--replicas", "4", "--seed", "3")
    assert fields(none)["exit time"] == "none of the 4 replicas exited: 4 censored at t = 0.5"
    every = call(*arguments[:-1], "1e-6", "--replicas", "4", "--seed", "3", "--json")["exit"]
    times = np.array(every["times"])
    assert (every["mean"], every["standard_error"]) == pytest.approx((times.mean(), times.std(ddof=1) / 2.0))
    every = fields(call(*arguments[:-1], "1e-6", "--replicas", "4", "--seed", "3"))
    assert "mean of all 4 replicas" in every["exit time"]
    assert every["final risk"] == "no mean at t = 0.5: all 4 replicas had exited before"
    single = call(*arguments[:-1], "1e-6", "--times", "0.4,0.5", "--seed", "3")
    assert fields(single)["final risk"] == "not stored: the run ended before the first of the times"


def test_divergence_is_reported_not_raised(call):
    arguments = ["simulate", "--activation", "quadratic", "-d", "100", "--t-max", "2", "--times", "3", "--seed", "1"]
    text = call(*arguments, "--replicas", "4", "--exit-T", "0.5")
    assert "4 diverged" in fields(text)["exit time"]
    assert "decrease --gamma, or use --spherical" in fields(text)["status"]
    assert fields(text)["final risk"] == "no mean at t = 2: all 4 replicas had ended before"
    assert call(*arguments, "--json")["status"] == {"DIVERGED": 1}


def test_times_that_are_not_steps_or_not_the_end_are_named(call):
    arguments = ["simulate", "-d", "100", "--t-max", "1", "--seed", "1", "--times"]
    text = fields(call(*arguments, "0,0.011,0.012,0.5"))  # one step takes 0.01
    assert text["time"].endswith("stored at 4 points, moved by up to 0.002 to whole steps of SGD")
    assert "at t = 0.5" in text["last risk"]
    text = fields(call(*arguments, "0.01,1"))
    assert text["time"].endswith("stored at 2 points")
    assert "at t = 1" in text["final risk"]


def test_a_dimension_is_asked_for_once(call, capsys, start):
    assert main(["simulate", "--start", "start.json", "--t-max", "1"]) == 2
    assert "the input dimension is needed; pass for example -d 1000" in capsys.readouterr().err
    call("simulate", "-d", "100", "--t-max", "1", "--replicas", "2", "--seed", "0", "--out", "run.npz")
    found = call("simulate", "--start", "run.npz", "--t-max", "1", "--json")
    assert (found["d"], found["replicas"]) == (100, 2)
    assert main(["simulate", "--start", "run.npz", "--t-max", "1", "--replicas", "3"]) == 2
    assert "2 replicas" in capsys.readouterr().err
    assert main(["simulate", "--start", "run.npz", "--t-max", "1", "--shared-start"]) == 2
    assert "--shared-start is for --start random" in capsys.readouterr().err


def test_sde_equals_the_python_function(call, start):
    found = call(
        "sde", *SQUARE, "--start", "start.json", "-d", "200", "--t-max", "1", "--times", "3", "--replicas", "5",
        "--seed", "9", "--dt", "0.01", "--exit-T", "0.3", "--backend", "numpy", "--out", "run.npz", "--json",
    )  # fmt: skip
    problem = Problem("quadratic", gamma=0.1, spherical=True)
    expected = hdsgd.solve_sde(
        problem,
        start,
        1.0,
        d=200,
        dt=0.01,
        replicas=5,
        rng=9,
        times=[0.0, 0.5, 1.0],
        stop=Exit(T=0.3),
        backend="numpy",
    )
    np.testing.assert_array_equal(hdsgd.load("run.npz").M, expected.M)
    assert found["method"] == "sde"
    assert found["stats"]["dt"] == 0.01


def test_an_sde_whose_replicas_have_all_exited(call, start):
    arguments = [
        "sde",
        *SQUARE,
        "--start",
        "start.json",
        "-d",
        "200",
        "--t-max",
        "3",
        "--exit-T",
        "1e-3",
        "--dt",
        "0.1",
    ]
    text = call(*arguments, "--replicas", "3", "--seed", "1")
    assert fields(text)["final risk"] == "no mean at t = 3: all 3 replicas had exited before"
    found = call(*arguments, "--replicas", "3", "--seed", "1", "--json")["final"]
    assert (found["runs"], found["risk"]) == (0, None)


def test_the_help_says_what_a_run_costs(call):
    text = " ".join(call("simulate", "--help").split())
    assert "A run takes t_max*p*d/gamma steps" in text
    assert "What one step costs does not depend on d for the chain" in text


# escape


def test_escape_equals_the_python_function(call, tmp_path):
    found = call(
        "escape", "--start", "random", "-p", "2", "-d", "500", "--gamma", "0.2", "--Delta", "0.001", "-T", "0.1",
        "--replicas", "5", "--seed", "3", "--dt", "0.01", "--t-max", "4", "--backend", "numpy", "--out", "two",
        "--no-figure", "--json",
    )  # fmt: skip
    expected = hdsgd.escape_experiment(
        "random", p=2, d=500, gamma=0.2, Delta=0.001, T=0.1, replicas=5, rng=3, dt=0.01, t_max=4.0, backend="numpy"
    )
    wanted = json.loads(json.dumps(expected.to_dict()))
    assert {key: found[key] for key in wanted if key != "seconds"} == {
        key: value for key, value in wanted.items() if key != "seconds"
    }
    assert found["files"] == ["two.npz", "two.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["two.json", "two.npz"]


def test_escape_passes_every_option_on(call, monkeypatch):
    seen = {}

    @functools.wraps(hdsgd.escape_experiment)
    def spy(*arguments, **options):
        seen.update(options, start=arguments[0])
        raise ValueError("seen")

    monkeypatch.setattr("hdsgd.cli._escape.escape_experiment", spy)
    line = "--start random -p 2 -d 9 --gamma 3 --Delta 4 -T .5 --replicas 6 --seed 7 --dt 8 --t-max 9 --backend c"
    assert main(["escape", *line.split()]) == 2
    assert seen.pop("progress") is None
    assert seen == {
        "start": "random",
        "p": 2,
        "d": 9,
        "gamma": 3.0,
        "Delta": 4.0,
        "T": 0.5,
        "replicas": 6,
        "rng": 7,
        "dt": 8.0,
        "t_max": 9.0,
        "backend": "c",
    }


def test_escape_from_the_published_start(call, tmp_path):
    text = call("escape", "--replicas", "30", "-d", "1000", "--t-max", "0.8")  # short: numpy has to do it, too
    assert "ODE event" in text
    assert "1.0689" in text
    names = ["hdsgd-escape.json", "hdsgd-escape.npz"]
    if importlib.util.find_spec("matplotlib") is not None:
        names.append("hdsgd-escape.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert all(name in text.splitlines()[-1] for name in names)


def test_escape_refuses_folders_in_the_place_of_its_files(capsys, tmp_path):
    (tmp_path / "a.json").mkdir()
    assert main(["escape", "--out", "a"]) == 2
    assert "--out a: a.json is a folder; choose another" in capsys.readouterr().err


def test_notes_of_escape_are_in_the_words_of_the_command_line(call, monkeypatch):
    monkeypatch.setattr("hdsgd.EscapeResult.table", lambda self: "note: decrease T or gamma; use escape.by_ode.")
    text = call("escape", "--replicas", "30", "-d", "1000", "--t-max", "0.8", "--no-figure")
    assert text.splitlines()[0] == "note: decrease -T or --gamma; see the ODE."


def test_escape_without_matplotlib_says_so(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "matplotlib" else find(name))
    short = ["escape", "--replicas", "30", "-d", "1000", "--t-max", "0.8"]
    assert main(short) == 0
    err = capsys.readouterr().err
    assert err.startswith("hdsgd: note: no figure was drawn")
    assert main(["solve", "-d", "9", "--t-max", "1", "--plot", "a.png"]) == 2
    assert "pip install 'hdsgd[plot]'" in capsys.readouterr().err
