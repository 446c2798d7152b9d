"""Studies of the escape: their points, tables, files and pictures, and that they go on after a kill."""

import importlib.util
import json
import pickle

import numpy as np
import pytest

import hdsgd
from hdsgd import escape, escape_study
from hdsgd._escape_points import escape_point
from hdsgd.cli import main

pytestmark = pytest.mark.needs_cc
SMALL = {"replicas": 30, "workers": 0, "T": 0.1}


def study(name, **options):
    return escape_study(name, **{**SMALL, **options})


def test_a_point_is_the_simulation_and_the_formulas():
    problem = hdsgd.Problem("quadratic", gamma=0.2, Delta=1e-3, spherical=True)
    found = escape_point(p=2, d=500, rate=0.1, Delta=1e-3, T=0.1, replicas=40, seed=3)
    starts = hdsgd.Overlaps.random(2, 1, 500, rng=3, replicas=40)
    exits = hdsgd.simulate(problem, starts, 30.0, d=500, rng=4, times=[0.0], stop=hdsgd.Exit(T=0.1)).exit_time
    assert found["mean"] == pytest.approx(exits.mean(), rel=1e-12)
    assert found["error"] == pytest.approx(exits.std(ddof=1) / np.sqrt(40), rel=1e-12)
    assert (found["censored"], found["replicas"]) == (0, 40)
    assert found["annealed"] == escape.annealed(problem, p=2, d=500, T=0.1)
    assert found["quenched"] == escape.quenched(problem, p=2, d=500, T=0.1)
    assert found["full"] == escape.corrected(problem, p=2, d=500, T=0.1)
    assert found["plain"] == escape.corrected(problem, p=2, d=500, T=0.1, full=False)


def test_a_formula_that_refuses_is_missing():
    found = escape_point(p=1, d=100, rate=0.1, T=0.01, replicas=20)
    assert np.isnan([found["quenched"], found["plain"], found["full"]]).all()
    assert np.isfinite(found["mean"])
    table = study("dimension", d=[100], T=0.01, replicas=20).table()
    assert "  -  " in table
    assert table.endswith("-: not all runs have exited, or the formula does not hold at this point.")
    assert "-:" not in study("dimension", d=[1000]).table()


def test_ratio_approaches_one():
    """Simulation over the corrected time, at a tenth of the published runs."""
    found = study("ratio", p=[1, 5], d=[1000, 300], replicas=400, T=0.05)
    points = found.points
    assert list(zip(points["p"], points["d"], strict=True)) == [(1, 300), (1, 1000), (5, 300), (5, 1000)]
    np.testing.assert_allclose(points["gamma"], points["p"] * 0.1)
    ratio, error = points["mean"] / points["full"], points["error"] / points["full"]
    assert np.all(np.abs(ratio - 1.0) < 4.0 * error + 0.03)
    assert np.all(points["quenched"] > points["mean"])
    assert found.failures == ()


def test_dimension_against_its_law():
    found = study("dimension", d=[300, 3000, 30000], replicas=200)
    slope = np.polyfit(np.log(found.points["d"]), found.points["full"], 1)[0]
    growth = escape.growth_rate(hdsgd.Problem("quadratic", gamma=0.1, Delta=1e-4, spherical=True), 1)
    assert slope == pytest.approx(1.0 / (2.0 * growth), rel=0.05)
    assert np.all(np.abs(found.points["mean"] - found.points["full"]) < 4.0 * found.points["error"] + 0.02)


def test_gamma_has_its_optimum():
    found = study("gamma", quick=True)
    silent = hdsgd.Problem("quadratic", Delta=1e-4, spherical=True)
    assert found.optima["linear"] == pytest.approx(escape.optimal_gamma(silent, p=1))
    assert found.optima["corrected"] > found.optima["linear"]  # noise shortens the exit by more the larger gamma is
    curve = found.curves["plain"] * found.curves["samples_per_t"]
    best = found.curves["gamma"][np.nanargmin(curve)]
    assert best == pytest.approx(found.optima["corrected"], rel=0.25)  # on a coarse grid
    assert "fewest samples: gamma" in found.table()


def test_gamma_without_an_optimum_of_the_corrected_time(monkeypatch):
    def nowhere(*arguments, **options):
        raise ValueError("the corrected exit time gives no optimum")

    monkeypatch.setattr("hdsgd._escape_study.learning_rate", nowhere)
    found = study("gamma", quick=True, replicas=2)
    assert list(found.optima) == ["linear"]
    assert "gives no optimum" in found.table()
    if importlib.util.find_spec("matplotlib"):
        assert found.figure().axes


def test_distribution_by_route():
    found = study("distribution", d=1000, replicas=200)
    assert {name: values.size for name, values in found.exit_times.items()} == {
        "simulation": 200,
        "SDE": 200,
        "ODE": 200,
    }
    chain, sde, ode = (found.exit_times[name] for name in ("simulation", "SDE", "ODE"))
    error = np.hypot(chain.std(), sde.std()) / np.sqrt(200)
    assert abs(chain.mean() - sde.mean()) < 4 * error
    assert ode.mean() > chain.mean() + 2 * error  # from the same starts; the difference is 0.28
    assert ode.mean() == pytest.approx(found.points["quenched"][0], rel=0.15)


@pytest.mark.parametrize("name", ["distribution", "dimension", "gamma", "ratio"])
def test_files_and_picture(name, tmp_path):
    small = {"dimension": {"d": [300, 1000]}, "ratio": {"p": [1, 3], "d": [300, 500]}}.get(name, {"d": 500})
    found = study(name, quick=True, **small)
    written = found.save(tmp_path / "out")
    with pytest.raises(ValueError, match="of a figure or a study, not a solution"):
        hdsgd.load(written[0])
    endings = [".npz", ".txt"] + ([".png"] if importlib.util.find_spec("matplotlib") else [])
    assert [path.suffix for path in written] == endings
    with np.load(tmp_path / "out.npz") as arrays:
        np.testing.assert_array_equal(arrays["mean"], found.points["mean"])
        assert json.loads(str(arrays["hdsgd"]))["study"] == name
    assert (tmp_path / "out.txt").read_text(encoding="utf-8").rstrip() == found.table()
    assert all(path.stat().st_size > 5000 for path in written if path.suffix == ".png")
    assert max(map(len, found.table().splitlines())) <= 120
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again.points["mean"], found.points["mean"])


def test_goes_on_where_it_stopped(tmp_path, monkeypatch):
    record = tmp_path / "study.jsonl"
    whole = study("dimension", d=[300, 500, 1000], record=record)
    lines = record.read_text().splitlines(keepends=True)
    record.write_text("".join(lines[:3]) + lines[3][:20])  # killed while it wrote the last point
    started = []
    real = hdsgd._points.simulate
    monkeypatch.setattr(hdsgd._points, "simulate", lambda *a, **o: started.append(o["d"]) or real(*a, **o))
    again = study("dimension", d=[300, 500, 1000], record=record)
    assert started == [300]
    np.testing.assert_array_equal(again.points["mean"], whole.points["mean"])
    with pytest.raises(ValueError, match=r"figure or study, .* pass fresh=True"):
        study("dimension", d=[300, 500], record=record)
    started.clear()
    assert study("dimension", d=[300, 500], record=record, fresh=True).points["mean"].size == 2
    assert started == [500, 300]
    with monkeypatch.context() as patch:
        patch.setattr("hdsgd._escape_study.versions", lambda: {"hdsgd": "0.0.1"})
        with pytest.raises(ValueError, match="of another version"):
            study("dimension", d=[300, 500], record=record)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"study": "width"}, "study must be"),
        ({"study": "ratio", "rate": 0.9}, "beyond the stability of the escape at p=1"),
        ({"study": "ratio", "p": []}, "p is empty"),
        ({"study": "ratio", "p": [0]}, "p must be"),
        ({"study": "gamma", "p": [1, 2]}, "one p and one d"),
        ({"study": "dimension", "T": 2.0}, "T must be"),
        ({"study": "dimension", "replicas": 1}, "replicas must be at least 2"),
        ({"study": "dimension", "rate": 0.0}, "rate must be"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        escape_study(**options)


def test_command_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = "escape --study dimension -d 400 -T 0.1 --replicas 20 --workers 0 --no-figure"
    assert main([*line.split(), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["points"]["d"] == [400]
    assert found["files"] == ["hdsgd-escape-dimension.npz", "hdsgd-escape-dimension.txt"]
    assert main(line.split()) == 0  # from the record
    assert "study 'dimension'" in capsys.readouterr().out
    for extra, message in (
        ("--study ratio --gamma 0.2", "--gamma is not for a study; leave it out"),
        ("--study ratio --start random", "--start is not for a study"),
        ("--quick", "--quick needs --study"),
        ("--fresh", "--fresh needs --study"),
        ("--rate 0.2", "--rate needs --study"),
        ("--study gamma --rate 0.2", "--rate is not for the study gamma, which goes through the learning rates"),
        (
            "--study dimension -d 400 -T 0.2",
            "of other settings or of another version; add --fresh, or give another --out",
        ),
        ("--study width", "invalid choice: 'width'"),
    ):
        assert main(["escape", *extra.split()]) == 2
        assert message in capsys.readouterr().err
