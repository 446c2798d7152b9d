"""The escape experiment: every route has a row, with a value or the reason; files and figure."""

import json
import math
import os
import stat
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import hdsgd
from hdsgd import Overlaps, escape, escape_experiment
from hdsgd._experiment import _horizon, _sampled
from hdsgd._statistics import median

SMALL = {"d": 300, "T": 0.1, "replicas": 30, "rng": 1, "dt": 5e-3}
ROUTES = [
    "ODE event",
    "implicit equation",
    "corrected, fixed start",
    "SDE (Brownian bridge)",
    "exact simulation",
    "annealed formula",
    "quenched formula",
    "corrected formula",
]


def at(m, P=1.0, **layers):
    return Overlaps([[1.0]], [[m]], [[P]], **layers)


def rows(result):
    return {row.route: row for row in result.rows}


@pytest.fixture(scope="module")
def result():
    return escape_experiment(at(0.05), **SMALL)


@pytest.fixture(scope="module")
def censored():
    return escape_experiment(at(0.05), **SMALL, t_max=0.6)


def test_every_route_of_a_fixed_start(result):
    assert [row.route for row in result.rows] == ROUTES
    by_route = rows(result)
    problem = result.problem
    assert by_route["ODE event"].time == escape.by_ode(problem, at(0.05), 0.1)
    assert by_route["annealed formula"].time == escape.annealed(problem, p=1, d=300, T=0.1)
    assert by_route["corrected, fixed start"].time == escape.corrected(problem, d=300, T=0.1, state=at(0.05))
    for name, route in (("simulation", "exact simulation"), ("sde", "SDE (Brownian bridge)")):
        times, row = result.exit_times[name], by_route[route]
        assert times.shape == (30,)
        assert (row.time, row.runs, row.censored, row.note) == (times.mean(), 30, 0, "")
        assert row.median == np.median(times)
        assert row.error == pytest.approx(times.std(ddof=1) / np.sqrt(30))
        assert row.time == pytest.approx(by_route["corrected, fixed start"].time, abs=5 * row.error)
    again = escape_experiment(at(0.05), **{**SMALL, "rng": result.seed})
    np.testing.assert_array_equal(again.exit_times["simulation"], result.exit_times["simulation"])
    assert repr(result) == "EscapeResult(given start, p=1, d=300, gamma=0.1, Delta=0.0001, T=0.1, 8 rows)"


def test_the_published_start_has_its_published_runs():
    result = escape_experiment(replicas=2, t_max=0.1)
    assert [row.route for row in result.rows] == [*ROUTES, "published SDE runs", "published simulations"]
    assert rows(result)["ODE event"].time == pytest.approx(1.0689, abs=3e-4)
    assert rows(result)["corrected formula"].time == pytest.approx(1.1865, abs=1e-3)
    assert len(escape_experiment(replicas=2, t_max=0.1, d=1000).rows) == len(ROUTES)


def test_a_censored_mean_is_not_printed(censored):
    row = rows(censored)["exact simulation"]
    missing = int(np.isnan(censored.exit_times["simulation"]).sum())
    assert 0 < missing < 30
    assert (row.censored, row.runs) == (missing, 30)
    assert math.isnan(row.time)
    assert math.isnan(row.error)
    line = next(line for line in censored.table().splitlines() if line.startswith("exact simulation"))
    assert line.split()[2] == "-"
    assert f"{missing} of 30 runs had not exited by t_max = 0.6" in censored.table()
    assert "biased low" in row.note


def test_the_median_counts_censored_runs_as_the_latest():
    values = np.array([0.5, 0.7, 0.9, np.nan, 0.6])
    row = _sampled("a route", values, "starts", "had not exited")
    assert row.note == ("1 of 5 runs had not exited, so that a mean over the others would be biased low; median 0.70")
    assert row.median == 0.7
    assert median(np.array([1.0, 2.0, np.nan])) == 2.0
    assert math.isnan(median(np.array([1.0, 2.0, np.nan, np.nan])))
    assert "no more than half" in _sampled("a route", np.array([1.0, np.nan]), "starts", "had not exited").note
    assert _sampled("a route", np.full(3, np.nan), "starts", "had not exited").note == "all 3 runs had not exited"


def test_routes_that_do_not_apply_say_why():
    result = escape_experiment("random", p=2, d=300, T=0.005, replicas=5, rng=0)
    by_route = rows(result)
    assert [route for route in ROUTES if route != "corrected, fixed start"] == list(by_route)
    route = "corrected formula"
    assert math.isnan(by_route[route].time)
    assert "T*d >= 3" in by_route[route].note
    assert f"{route}: {by_route[route].note}" in result.table()  # shared with the other formulas
    assert set(result.exit_times) == {"simulation", "sde"}
    assert result.sde_paths is not None


def test_two_students_have_all_routes():
    two = rows(escape_experiment(p=2, d=300, T=0.1, replicas=5, rng=0))
    assert list(two) == ROUTES
    assert all(math.isfinite(row.time) for row in two.values())


def test_where_T_d_is_too_small_the_formulas_are_left_out():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        by_route = rows(escape_experiment(d=100, replicas=5, dt=5e-3))
    for route in ("corrected, fixed start", "annealed formula", "quenched formula", "corrected formula"):
        assert math.isnan(by_route[route].time)
        assert "increase T or d" in by_route[route].note
    assert by_route["exact simulation"].time > 0.0


@pytest.mark.parametrize("start", [at(0.05, P=1.2), at(0.05, a=[0.9]), at(0.05, a_star=[1.5])])
def test_formulas_for_random_starts_are_of_other_problems(start):
    result = escape_experiment(start, **{**SMALL, "replicas": 5})
    by_route = rows(result)
    for route in ("annealed formula", "quenched formula", "corrected formula"):
        assert math.isnan(by_route[route].time)
        assert "P = 1 and second layers of ones" in by_route[route].note
    assert "annealed formula; quenched formula; corrected formula: " in result.table()  # said once
    assert by_route["exact simulation"].censored == 0
    assert by_route["exact simulation"].time == pytest.approx(by_route["ODE event"].time, rel=0.7)


@pytest.mark.parametrize(
    ("start", "options"),
    [(at(0.05, a=[-1.0]), {}), (at(0.05), {"Delta": 3.0, "T": 0.9})],
)
def test_a_start_that_never_exits_is_not_waited_for(start, options):
    result = escape_experiment(start, **{**SMALL, "replicas": 3, **options})
    assert result.t_max == 2.0
    assert math.isnan(rows(result)["ODE event"].time)
    assert "never exits" in rows(result)["ODE event"].note
    assert rows(result)["exact simulation"].note.startswith("all 3 runs had not exited by t_max = 2")


def test_horizons_are_far_beyond_the_exit():
    problem = hdsgd.Problem("quadratic", gamma=0.1, Delta=1e-4, spherical=True)
    usual = _horizon(problem, None, 1, 3000, 0.01)
    assert usual > 10.0
    for state in (at(0.0), at(0.02), at(0.02, P=2.0), Overlaps.random(3, 1, 3000, rng=0)):  # noise moves M = 0
        assert _horizon(problem, state, state.p, 3000, 0.01) > 0.3 * usual
    assert _horizon(problem, None, 2, 100, 1e-4) > 5.0  # where the annealed formula would be negative
    assert math.isnan(escape.by_ode(problem, at(0.0), 0.01))


# files


def test_files(tmp_path, result):
    old = os.umask(0o027)
    try:
        written = result.save(tmp_path / "run")
    finally:
        os.umask(old)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in written)
    assert {stat.S_IMODE(path.stat().st_mode) for path in written} == {0o640}
    assert [path.suffix for path in written][:2] == [".npz", ".json"]
    document = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert document["overlaps"] == {"Q": [[1.0]], "M": [[0.05]], "P": [[1.0]], "a": [1.0], "a_star": [1.0]}
    by_route = {row["route"]: row for row in document["rows"]}
    assert by_route["exact simulation"]["median"] == rows(result)["exact simulation"].median
    assert by_route["ODE event"]["median"] is None
    with np.load(tmp_path / "run.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["exit_times_simulation"], result.exit_times["simulation"])
        assert file["risk_sde"].shape == file["risk_simulation"].shape == (30, 201)
    # and the file is no solution
    with pytest.raises(ValueError, match=r"escape experiment, not a solution; read them with numpy\.load"):
        hdsgd.load(tmp_path / "run.npz")


def test_random_starts_are_recorded_by_their_seed():
    document = escape_experiment("random", **{**SMALL, "replicas": 2}, t_max=0.1).to_dict()
    assert document["overlaps"] is None
    assert document["seed"] == "1"
    json.dumps(document, allow_nan=False)


def test_an_interrupted_figure_leaves_the_old_one(tmp_path, result, monkeypatch):
    pytest.importorskip("matplotlib")
    (tmp_path / "run.png").write_bytes(b"old")

    class Interrupted:
        def savefig(self, path, **options):
            Path(path).write_bytes(b"half")
            raise KeyboardInterrupt

    monkeypatch.setattr(hdsgd.EscapeResult, "figure", lambda self: Interrupted())
    with pytest.raises(KeyboardInterrupt):
        result.save(tmp_path / "run")
    assert (tmp_path / "run.png").read_bytes() == b"old"
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".npz", ".png"]


def test_a_name_that_cannot_be_written_is_refused(tmp_path, result):
    for out, message in (
        (f"{tmp_path}/", "is a folder"),
        (tmp_path, "is a folder"),
        (f"{tmp_path}/new/", "is a folder"),
        (".", "is a folder"),
        ("", "is a folder"),
        (tmp_path / "run.npz", "leave the ending .npz"),
        (tmp_path / "nowhere" / "run", "does not exist"),
        (None, "beginning of file names"),
    ):
        with pytest.raises((ValueError, TypeError), match=message) as caught:
            result.save(out)
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_numbers_are_written(tmp_path, result, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert [path.name for path in result.save(tmp_path / "run")] == ["run.npz", "run.json"]
    with pytest.raises(ValueError, match="pip install"):
        result.figure()


# the figure


def labels(axes):
    return axes.get_legend_handles_labels()[1]


def test_the_figure_names_all_that_it_shows(result):
    pytest.importorskip("matplotlib")
    left, right = result.figure().axes
    assert labels(left)[:3] == ["exact simulation, 20 runs", "its mean over 30", "SDE, mean over 30"]
    assert [text for text in labels(right) if text.startswith(("exact", "SDE"))] == [
        "exact simulation, 30 runs",
        "SDE, 30 runs",
    ]
    text = "\n".join(labels(right))
    for row in result.rows:
        assert row.runs or f"{row.route} {row.time:.3f}" in text
    averaged = [label for label in labels(right) if "formula" in label]
    assert averaged
    assert all(label.endswith("(random starts)") for label in averaged)
    looks = [(line.get_color(), line.get_linestyle()) for line in right.lines]
    assert len(set(looks)) == len(looks)
    density = next(patch for patch in right.patches if patch.get_label().startswith("exact"))
    values, edges, _ = density.get_data()
    assert len(values) < 15  # few bins for few runs
    assert np.sum(values * np.diff(edges)) == pytest.approx(1.0)


def test_the_figure_counts_what_it_does_not_show(censored):
    pytest.importorskip("matplotlib")
    right = censored.figure().axes[1]
    missing = rows(censored)["exact simulation"].censored
    assert f"censored: {missing} (exact simulation)" in right.get_xlabel()
    values, edges, _ = next(p for p in right.patches if p.get_label().startswith("exact")).get_data()
    assert np.sum(values * np.diff(edges)) == pytest.approx(1.0 - missing / 30)


@pytest.mark.parametrize("start", ["random", at(0.05), at(0.0)])
def test_a_figure_of_censored_runs_only(start, tmp_path):
    pytest.importorskip("matplotlib")
    result = escape_experiment(start, **{**SMALL, "replicas": 4}, t_max=0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert result.save(tmp_path / "run")[-1].suffix == ".png"
    assert "exact simulation: none of 4 runs had exited" in labels(result.figure().axes[1])


def test_progress_runs_to_the_end():
    seen = []
    escape_experiment("random", **{**SMALL, "replicas": 2}, t_max=0.2, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_wide_students_are_for_the_ratio_study():
    with pytest.raises(ValueError, match=r"out of reach at p=41; choose p <= 40, .* escape_study\('ratio', p=\.\.\.\)"):
        escape_experiment("random", p=41, replicas=2)
