"""Sweeps: the same values on every executor, failures recorded, nothing computed twice."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import sweep_points

from hdsgd import Overlaps, sweep

GRID = {"x": [1, 2, 3], "y": [10, 20]}


@pytest.mark.parametrize("where", ["here", "threads", "processes"])
def test_values_and_failures(where):
    if where == "threads":
        with ThreadPoolExecutor(2) as pool:
            result = sweep(sweep_points.product, GRID, executor=pool)
    else:
        result = sweep(sweep_points.product, GRID, workers=0 if where == "here" else 2)
    np.testing.assert_array_equal(result.values["value"], [[10, 20], [np.nan, 40], [30, 60]])
    assert result.values["both"].shape == (3, 2, 2)
    assert result.failures == {(1, 0): "ValueError: two times ten"}
    assert "1 failed" in repr(result)


def test_labels():
    pytest.importorskip("xarray")
    data = sweep(sweep_points.product, GRID, workers=0).to_xarray()
    assert float(data["value"].sel(x=3, y=20)) == 60
    assert str(data["failure"].sel(x=2, y=10).values) == "ValueError: two times ten"


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_dead_worker_takes_nothing_along(tmp_path):
    result = sweep(sweep_points.deadly, {"x": range(8), "marker": [str(tmp_path / "died")]}, workers=2)
    assert (tmp_path / "died").exists()
    np.testing.assert_array_equal(result.values["value"][:, 0], np.arange(8) ** 2)
    assert not result.failures


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_point_that_always_kills_is_a_failure():
    result = sweep(sweep_points.always_deadly, {"x": range(4)}, workers=2)
    np.testing.assert_array_equal(result.values["value"], [0, np.nan, 2, 3])
    assert list(result.failures) == [(1,)]


def test_a_worker_has_one_thread(monkeypatch):
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    result = sweep(sweep_points.threads, {"x": [1]}, workers=1)
    assert (result.values["blas"][0], result.values["own"][0]) == ("1", "1")
    assert "OPENBLAS_NUM_THREADS" not in os.environ
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_goes_on_from_its_record(tmp_path):
    out, log = tmp_path / "sweep.jsonl", tmp_path / "log"
    grid = {"x": list(range(6)), "log": [str(log)]}
    whole = sweep(sweep_points.counted, grid, workers=0, out=out)
    lines = out.read_bytes().splitlines(keepends=True)
    assert len(lines) == 7
    out.write_bytes(b"".join(lines[:4]) + lines[4][:5])  # as after a crash: three points and part of a fourth
    log.write_text("")
    again = sweep(sweep_points.counted, grid, workers=0, out=out)
    assert log.read_text().split() == ["3", "4", "5"]
    np.testing.assert_array_equal(again.values["value"], whole.values["value"])
    assert sorted(json.loads(line).get("point", -1) for line in out.read_text().splitlines()) == [-1, *range(6)]


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_killed_and_resumed(tmp_path):
    out, log = tmp_path / "sweep.jsonl", tmp_path / "log"
    code = (
        "import sweep_points, hdsgd\n"
        "if __name__ == '__main__':\n"
        f"    grid = {{'x': list(range(400)), 'log': [{str(log)!r}]}}\n"
        f"    hdsgd.sweep(sweep_points.counted, grid, workers=0, out={str(out)!r})\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    while not out.exists() or len(out.read_bytes().splitlines()) < 20:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = len(log.read_text().split())
    result = sweep(sweep_points.counted, {"x": list(range(400)), "log": [str(log)]}, workers=0, out=out)
    np.testing.assert_array_equal(result.values["value"][:, 0], np.arange(400) / 3.0)
    assert before < 400
    assert len(log.read_text().split()) <= 401


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT")
def test_interrupted_processes_end_quietly(tmp_path):
    log = tmp_path / "log"
    code = (
        "import sweep_points, signal, hdsgd\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"    grid = {{'x': list(range(20)), 'log': [{str(log)!r}]}}\n"
        "    try:\n"
        "        hdsgd.sweep(sweep_points.slow, grid, workers=2)\n"
        "    except KeyboardInterrupt:\n"
        "        print('interrupted')\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, "-W", "ignore", "-c", code]
    running = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not log.exists():
        assert running.poll() is None, running.stderr.read()
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    shown, errors = running.communicate(timeout=60)
    assert (shown, errors) == (b"interrupted\n", b"")


def test_bad_input(tmp_path):
    with pytest.raises(TypeError, match="grid"):
        sweep(sweep_points.product, {})
    with pytest.raises(ValueError, match="no values"):
        sweep(sweep_points.product, {"x": []})
    with pytest.raises(TypeError, match=r"\['erf'\]"):
        sweep(sweep_points.product, {"x": "erf"})
    with pytest.raises(ValueError, match="top of a module"):
        sweep(lambda x: x, {"x": [1]}, workers=1)
    with pytest.raises(ValueError, match="jsonl"):
        sweep(sweep_points.product, GRID, out=tmp_path / "a.npz")
    out = tmp_path / "a.jsonl"
    sweep(sweep_points.product, GRID, workers=0, out=out)
    with pytest.raises(ValueError, match="another sweep"):
        sweep(sweep_points.product, {"x": [1], "y": [1]}, workers=0, out=out)
    with pytest.raises(ValueError, match="by def in a module"):
        sweep(lambda x: x, {"x": [1]}, workers=0, out=tmp_path / "b.jsonl")
    with pytest.raises(ValueError, match="cannot be written to a record"):
        sweep(sweep_points.rooted, {"x": [lambda: 0]}, workers=0, out=tmp_path / "b.jsonl")


def test_a_record_tells_objects_apart_that_look_alike(tmp_path):
    one, other = (Overlaps([[1.0]], [[m]], [[1.0]]) for m in (0.1, 0.2))
    assert repr(one) == repr(other)
    out = tmp_path / "a.jsonl"
    for _ in range(2):
        assert sweep(sweep_points.overlap, {"x": [one]}, workers=0, out=out).values["value"] == 0.1
    with pytest.raises(ValueError, match="another sweep"):
        sweep(sweep_points.overlap, {"x": [other]}, workers=0, out=out)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_dask_gives_the_same(tmp_path):
    distributed = pytest.importorskip("distributed")
    grid = {"x": list(range(8)), "marker": [str(tmp_path / "died")]}
    with (
        distributed.LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.run(sys.path.insert, 0, str(Path(__file__).parent))
        result = sweep(sweep_points.deadly, grid, executor=client.get_executor())
    (tmp_path / "died").unlink(missing_ok=True)
    (tmp_path / "died").touch()
    local = sweep(sweep_points.deadly, grid, workers=2)
    np.testing.assert_array_equal(result.values["value"], local.values["value"])


def test_a_sweep_can_be_pickled():
    found = sweep(sweep_points.product, GRID, workers=0)
    again = pickle.loads(pickle.dumps(found))
    assert (again.grid, again.failures) == (found.grid, found.failures)
    np.testing.assert_array_equal(again.values["value"], found.values["value"])
    assert not again.values["value"].flags.writeable
    with pytest.raises(TypeError):
        again.values["value"] = 0


@pytest.mark.parametrize("values", [[1, 2, 1], np.array([0.5, 0.5]), ["a", "a"], [None, None], [1, 1.0]])
def test_an_axis_has_each_value_once(values):
    with pytest.raises(ValueError, match=r"the axis 'x' has the value .* twice; give each once"):
        sweep(sweep_points.threads, {"x": values}, workers=0)


def test_objects_that_only_look_alike_are_different_values():
    starts = [Overlaps([[1.0]], [[m]], [[1.0]]) for m in (0.1, 0.2)]
    assert repr(starts[0]) == repr(starts[1])
    result = sweep(sweep_points.overlap, {"x": starts}, workers=0)
    np.testing.assert_array_equal(result.values["value"], [0.1, 0.2])


def test_what_is_no_executor_is_refused():
    with pytest.raises(TypeError, match="got int; leave it out for processes"):
        sweep(sweep_points.threads, {"x": [1]}, executor=3)


def test_results_that_cannot_be_recorded_are_failures(tmp_path):
    """With a record or without: a complex number would end the sweep when it is written."""
    for out in (None, tmp_path / "a.jsonl"):
        result = sweep(sweep_points.rooted, {"x": [4.0, -4.0]}, workers=0, out=out)
        np.testing.assert_array_equal(result.values["value"], [2.0, np.nan])
        assert "not real numbers" in result.failures[(1,)]
