"""Runs that are cut and gone on with are bit for bit those that were not."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from hdsgd import Exit, Overlaps, Problem, _checkpoint, _simulate_c, simulate

pytestmark = pytest.mark.needs_cc
FIELDS = ("Q", "M", "a", "risk", "exit_time", "status")

CASES = {
    "registers": (Problem("quadratic", gamma=0.1, Delta=1e-4, spherical=True), 1, 1, 40),
    "abreast": (Problem("erf", gamma=2.0, Delta=0.1), 2, 2, 40),
    "alone": (Problem("erf", gamma=3.0, Delta=0.1, second_layer_ratio=0.5, weight_decay=0.1), 6, 2, 40),
    "batches": (Problem("erf", gamma=2.0, Delta=0.1, batch_size=3, spherical=True), 2, 1, 40),
    "few dimensions": (Problem("erf", gamma=2.0, Delta=0.1), 3, 2, 4),
}


def arguments(name, method="overlaps"):
    problem, p, k, d = CASES[name]
    rng = np.random.default_rng(0)
    W = rng.standard_normal((9, p, d))
    if problem.spherical:
        W *= np.sqrt(d) / np.linalg.norm(W, axis=2, keepdims=True)
    state = Overlaps.from_weights(W, rng.standard_normal((k, d)), a=1.0 - 0.1 * np.arange(p))
    unit = problem.step_time(p, d)
    times = np.array([0.0, 1.0, 255.0, 256.0, 300.0, 301.0, 700.0]) * unit
    return (problem, state, 700 * unit), {"d": d, "rng": 5, "times": times, "stop": Exit(T=0.2), "method": method}


def same(one, other):
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field), err_msg=field)
    if one.weights is not None:
        np.testing.assert_array_equal(one.weights.W, other.weights.W)


@pytest.mark.parametrize("method", ["overlaps", "weights"])
@pytest.mark.parametrize("name", CASES)
def test_a_run_may_be_cut_at_any_step(name, method, tmp_path, monkeypatch):
    positional, options = arguments(name, method)
    whole = simulate(*positional, **options)
    assert np.isfinite(whole.exit_time).any()
    run = _simulate_c.run
    path = tmp_path / "run.checkpoint"
    for cut in (1, 7, 255, 256, 257, 300, 511, 699, 700):
        with monkeypatch.context() as patch:
            patch.setattr(_simulate_c, "run", lambda *given, until=cut: run(*given, until=until))
            simulate(*positional, **options, checkpoint=path)
    same(whole, simulate(*positional, **options, checkpoint=path))
    same(whole, simulate(*positional, **{**options, "rng": None}, checkpoint=path))  # finished: from the file alone


@pytest.mark.parametrize("name", ["registers", "alone"])
def test_an_interrupted_run_goes_on(name, tmp_path, monkeypatch):
    positional, options = arguments(name)
    positional = (*positional[:2], 3000 * positional[2])  # long enough to be interrupted
    options = {**options, "stop": None, "times": np.linspace(0.0, positional[2], 7)}
    whole = simulate(*positional, **options)
    path = tmp_path / "run.checkpoint"
    monkeypatch.setattr(_simulate_c, "_POLL", 0.002)
    monkeypatch.setattr(_checkpoint, "EVERY", 0.003)
    monkeypatch.setattr(_checkpoint, "SHARE", 0.0)
    starts, reports = [], []

    def interrupt(fraction):
        reports.append(fraction)
        if len(starts) < 9 and len(reports) == 5:
            raise KeyboardInterrupt

    resumed = None
    while resumed is None:
        reports.clear()
        try:
            resumed = simulate(*positional, **options, checkpoint=path, progress=interrupt)
        except KeyboardInterrupt as caught:
            assert path.exists()
            (note,) = caught.__notes__  # also where the last steps were given up
            assert note.startswith(f"{path} keeps the run, ")
            assert note.endswith("% done: the same call goes on with it")
        starts.append(reports[0])
    assert len(starts) > 1
    assert starts[-1] > 0.0  # progress counts what was done before
    same(whole, resumed)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    positional, options = arguments("registers")
    path = tmp_path / "run.checkpoint"
    simulate(*positional, **options, checkpoint=path)
    for change in ({"rng": 6}, {"times": [0.0]}, {"stop": None}, {"d": 41}, {"method": "weights"}):
        with pytest.raises(ValueError, match="is of another run"):
            simulate(*positional, **{**options, **change}, checkpoint=path)
    (tmp_path / "text").write_text("not a checkpoint")
    np.savez(tmp_path / "array.npz", x=np.zeros(3))
    for name in ("text", "array.npz"):
        with pytest.raises(ValueError, match="is not a checkpoint of hdsgd"):
            simulate(*positional, **options, checkpoint=tmp_path / name)
    with pytest.raises(ValueError, match="does not exist; make it first"):
        simulate(*positional, **options, checkpoint=tmp_path / "missing" / "run")
    (tmp_path / ".blocked.partial").mkdir()
    with pytest.raises(ValueError, match=r"blocked' cannot be written \(.+\); choose another file or folder"):
        simulate(*positional, **options, checkpoint=tmp_path / "blocked")
    with pytest.raises(ValueError, match="checkpoints need the C backend"):
        simulate(*positional, **options, checkpoint=tmp_path / "new", backend="numpy")
    with pytest.raises(TypeError, match="name of a file"):
        simulate(*positional, **options, checkpoint=3)


KILLED = """
import sys
import numpy as np
import hdsgd
from hdsgd import _checkpoint
_checkpoint.EVERY, _checkpoint.SHARE = 0.01, 1.0
problem = hdsgd.Problem("erf", gamma=1.0, Delta=0.1, second_layer_ratio=0.1)
state = hdsgd.Overlaps.random(int(sys.argv[2]), 1, 100, rng=0, spherical=False)
sol = hdsgd.simulate(problem, state, float(sys.argv[3]), d=100, rng=0, replicas=20, checkpoint=sys.argv[1] or None)
np.save(sys.argv[4], np.concatenate((sol.Q.ravel(), sol.M.ravel(), sol.a.ravel(), sol.risk.ravel())))
"""


def runner(path, p, t, out):
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(KILLED), str(path), str(p), str(t), str(out)])


@pytest.mark.parametrize("kills", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_at_random_moments(kills, tmp_path):
    rng = np.random.default_rng(0)
    done = resumable = 0
    p, t, whole, cut = 1, 1e5, tmp_path / "whole.npy", tmp_path / "cut.npy"
    assert runner("", p, 1.0, whole).wait() == 0  # compiled
    started = time.monotonic()
    assert runner("", p, t, whole).wait() == 0
    longest = time.monotonic() - started
    while done < kills:
        path = tmp_path / f"{done}.checkpoint"
        for _ in range(100):
            process = runner(path, p, t, cut)
            try:
                assert process.wait(timeout=rng.uniform(0.2, 1.0) * longest) == 0
                break
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                done, resumable = done + 1, resumable + path.exists()
        assert np.load(cut).tobytes() == np.load(whole).tobytes()
    assert resumable > kills / 3


def test_on_the_command_line(tmp_path, capsys):
    from hdsgd.cli import main

    out = [tmp_path / "one.npz", tmp_path / "two.npz"]
    words = ["simulate", "-p", "2", "-k", "1", "-d", "50", "--t-max", "1", "--checkpoint", str(tmp_path / "run")]
    assert main([*words, "--out", str(out[0])]) == 0
    assert main(words) == 2
    assert "add --resume to go on with it" in capsys.readouterr().err
    assert main([*words, "--resume", "--out", str(out[1])]) == 0  # with the seed of the file
    with np.load(out[0]) as one, np.load(out[1]) as two:
        np.testing.assert_array_equal(one["M"], two["M"])
    assert main([*words[:-2], "--resume"]) == 2
    assert main([*words[:-1], str(tmp_path / "other"), "--resume"]) == 2
    assert "there is no checkpoint" in capsys.readouterr().err
