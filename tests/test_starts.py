"""Starts from files: what is read, and what is refused with one sentence."""

import json

import numpy as np
import pytest

import hdsgd
from hdsgd import Overlaps
from hdsgd._starts import read, read_start

GOOD = {"Q": [[1.0, 0.2], [0.2, 1.0]], "M": [[0.1], [-0.3]], "P": [[1.0]], "a": [1.0, 2.0], "a_star": [0.5]}


def write(path, entries):
    if path.suffix == ".json":
        path.write_text(json.dumps(entries), encoding="utf-8")
    else:
        np.savez(path, **entries)
    return path


@pytest.mark.parametrize("name", ["start.json", "start.npz"])
def test_overlaps_from_files(tmp_path, name):
    assert read_start(write(tmp_path / name, GOOD)) == Overlaps(**GOOD)
    fewer = {key: GOOD[key] for key in ("Q", "M", "P")}
    found = read(str(write(tmp_path / name, fewer)))
    assert found.state == Overlaps(**fewer)
    assert (found.problem, found.d) == (None, None)


def test_null_second_layers_are_the_default(tmp_path):
    path = write(tmp_path / "start.json", {**GOOD, "a": None, "a_star": None})
    assert read_start(path) == Overlaps(GOOD["Q"], GOOD["M"], GOOD["P"])


@pytest.mark.parametrize("name", ["run.npz", "run.nc"])
def test_the_end_of_a_solution(tmp_path, name):
    if name.endswith(".nc"):
        pytest.importorskip("h5netcdf")
    problem = hdsgd.Problem("quadratic", gamma=0.1, spherical=True)
    start = Overlaps.random(2, 1, 100, rng=0, replicas=3)
    sol = hdsgd.simulate(problem, start, 0.5, d=100, rng=1, times=[0.0, 0.5], backend="numpy")
    sol.save(tmp_path / name)
    found = read(tmp_path / name)
    assert found.state == sol.overlaps(-1)
    assert found.problem == problem
    assert found.d == 100


def bad_files(folder):
    """Path and a part of the message, for each kind of bad file."""
    yield folder / "nothing.json", "there is no file"
    yield folder, "is a folder"
    for name, text, expected in (
        ("start.txt", "{}", "a start is read from .json, .npz or .nc"),
        ("text.json", "hello", "is not JSON (Expecting value, line 1)"),
        ("list.json", "[1, 2]", "holds a list, not an object"),
        ("deep.json", "[" * 100_000, "nests too deeply"),
        ("text.npz", "hello", "is not an .npz file of plain arrays"),
        ("text.nc", "hello", "is not a solution saved by hdsgd"),
    ):
        (folder / name).write_text(text, encoding="utf-8")
        yield folder / name, expected
    (folder / "bytes.json").write_bytes(b"\xff\xfe\x00")
    yield folder / "bytes.json", "no UTF-8 text"
    for name, entries, expected in (
        ("no-p.json", {"Q": [[1.0]], "M": [[0.1]]}, "has no P"),
        ("weights.npz", {"W": np.ones((1, 3)), "W_star": np.ones((1, 3))}, "from_weights"),
        ("misspelled.json", {**GOOD, "astar": [1.0]}, "unknown entry 'astar'"),
        ("nan.json", {**GOOD, "M": [[float("nan")], [0.0]]}, "not finite"),
        ("shape.npz", {**GOOD, "M": np.ones((3, 1))}, "is no start: Q must be"),
        ("ragged.json", {**GOOD, "Q": [[1.0], [0.2, 1.0]]}, "is no start"),
        ("word.json", {**GOOD, "M": [["x"], ["y"]]}, "is no start: M must be a real array"),
        ("indefinite.npz", {**GOOD, "M": np.array([[2.0], [0.0]])}, "must be positive semidefinite"),
        ("pickle.npz", {**GOOD, "Q": np.array([None, "code"], dtype=object)}, "plain arrays"),
        ("result.npz", {"hdsgd": np.array("{}"), "t": np.zeros(1)}, "without overlaps to start from"),
    ):
        yield write(folder / name, entries), expected


def test_bad_files_are_refused_in_one_sentence(tmp_path):
    seen = 0
    for path, expected in bad_files(tmp_path):
        with pytest.raises((ValueError, TypeError)) as caught:
            read_start(path)
        assert expected in str(caught.value)
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)
        seen += 1
    assert seen == 19


def test_a_truncated_file(tmp_path):
    path = write(tmp_path / "start.npz", GOOD)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="plain arrays"):
        read_start(path)


def test_a_solution_whose_replicas_have_exited(tmp_path):
    problem = hdsgd.Problem("quadratic", gamma=0.1, spherical=True)
    start = Overlaps([[1.0]], [[0.5]], [[1.0]])
    stop = hdsgd.Exit(T=0.2)
    sol = hdsgd.simulate(problem, start, 3.0, d=100, rng=1, replicas=2, stop=stop, times=[0.0, 3.0], backend="numpy")
    assert np.isnan(sol.risk[:, -1]).all()
    sol.save(tmp_path / "run.npz")
    with pytest.raises(ValueError, match=r"run\.npz' is no start: 2 of 2 replicas had exited"):
        read_start(tmp_path / "run.npz")
