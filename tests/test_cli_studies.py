"""The commands plateau, phase, fixed-point and sweep."""

import json

import numpy as np
import pytest

from hdsgd import Problem, plateau, scaling
from hdsgd.cli import main

GRID = """
function = "exit_time"
[grid]
gamma = [0.05, 0.1]
d = [200]
activation = "quadratic"
spherical = true
T = 0.1
t_max = 10.0
replicas = 4
by = "ode"
"""


@pytest.mark.needs_cc
def test_plateau(capsys):
    assert main(["plateau", "--activation", "quadratic", "--gamma", "0.1", "--spherical", "-p", "2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    expected = plateau(Problem("quadratic", gamma=0.1, spherical=True), 2)
    assert document["growth"] == expected.growth
    assert document["exponent"] == 2
    assert main(["plateau", "--activation", "erf", "-p", "2"]) == 0
    assert "no plateau" in capsys.readouterr().out
    arguments = ["plateau", "--activation", "abs", "--gamma", "0.05", "-d", "100000", "--exit-T", "0.01"]
    assert main(arguments) == 0
    assert "exit time t = " in capsys.readouterr().out
    assert main(arguments[:-2]) == 2
    assert "needs both" in capsys.readouterr().err


def test_sweep(tmp_path, capsys):
    file, out = tmp_path / "grid.toml", tmp_path / "grid.jsonl"
    file.write_text(GRID)
    assert main(["sweep", str(file), "--out", str(out), "--workers", "0", "--json"]) == 0
    points = json.loads(capsys.readouterr().out)["points"]
    means = [point["values"]["mean"] for point in points]
    assert len(means) == 2
    assert np.all(np.array(means) > 0)
    size = out.stat().st_size
    assert main(["sweep", str(file), "--out", str(out), "--workers", "0"]) == 0  # from the record
    assert out.stat().st_size == size
    shown = capsys.readouterr().out
    assert f"{means[0]:.6g}" in shown
    assert shown.splitlines()[0].split()[-4:] == ["mean", "error", "median", "censored"]


def test_sweep_of_a_function_of_ones_own(tmp_path, capsys):
    (tmp_path / "my_points.py").write_text("def ratio(x, y):\n    return x / y\n")
    file = tmp_path / "grid.toml"
    file.write_text('function = "my_points:ratio"\n[grid]\nx = [1.0, 2.0]\ny = [4.0, 0.0]\n')
    assert main(["sweep", str(file), "--workers", "0"]) == 1  # a point failed, and is shown
    shown = capsys.readouterr().out
    assert "0.25" in shown
    assert "ZeroDivisionError" in shown


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("function = 3", "needs the entries"),
        ('function = "exit_time"\n[grid', "not TOML"),
        ('function = "exits"\n[grid]\nx = 1', "unknown function"),
        ('function = "no_such_module:f"\n[grid]\nx = 1', "cannot be imported"),
    ],
)
def test_bad_files(tmp_path, capsys, text, says):
    file = tmp_path / "grid.toml"
    file.write_text(text)
    assert main(["sweep", str(file)]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("gama = 0.1", "unknown parameter 'gama'; did you mean 'gamma'?"),
        ("TT = 0.1", "unknown parameter 'TT'; did you mean 'T'?"),
        ("Delta = [0.1, -1.0]", "Delta must be finite and >= 0, got -1"),
        ("dt = 0.0", "dt must be finite and > 0"),
        ("seed = -1", "seed must be at least 0"),
        ("teacher_activation = 'erv'", "did you mean 'erf'?"),
    ],
)
def test_a_grid_that_cannot_be_computed_is_refused_before_it_begins(tmp_path, capsys, line, says):
    file, out = tmp_path / "grid.toml", tmp_path / "grid.jsonl"
    file.write_text(f"{GRID}{line}\n")
    assert main(["sweep", str(file), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert f"{file}: " in error
    assert says in error
    assert not out.exists()


def test_a_sweep_without_what_its_function_needs_is_refused(tmp_path, capsys):
    file = tmp_path / "grid.toml"
    file.write_text('function = "exit_time"\n[grid]\nd = 100\nt_max = 1.0\n')
    assert main(["sweep", str(file)]) == 2
    assert "exit_time needs T; add it to the grid" in capsys.readouterr().err
    (tmp_path / "own_points.py").write_text("def ratio(x, y):\n    return x / y\n")
    file.write_text('function = "own_points:ratio"\n[grid]\nx = [1.0, 2.0]\nz = 1.0\n')
    assert main(["sweep", str(file), "--workers", "0"]) == 2
    assert "the axes of the grid are not the arguments of own_points:ratio(x, y)" in capsys.readouterr().err
    assert main(["sweep", str(file), "--workers", "-1"]) == 2


def test_phase(capsys):
    assert main(["phase", "--delta=-1/4", "--mu", "1/4", "--p0", "8", "--gamma0", "8", "-d", "10000", "--json"]) == 0
    found, point = json.loads(capsys.readouterr().out), scaling(0, "-1/4", 8, 8, mu="1/4")
    assert (found["region"], found["terms"], found["step_exponent"]) == ("blue", ["drift", "noise"], "-3/4")
    assert (found["p"], found["gamma"], found["batch_size"]) == (8, pytest.approx(80.0), 10)
    assert found["t_of_tau"] == pytest.approx(float(point.time(1.0, 10000)))
    assert main(["phase", "--delta=-1/2"]) == 0
    assert "red" in capsys.readouterr().out
    assert main(["phase", "--delta", "half"]) == 2
    assert "rational" in capsys.readouterr().err


def test_fixed_point(capsys):
    assert main(["fixed-point", "--floor", "--gamma", "8", "--Delta", "1e-3", "-p", "8", "-k", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["risk"]) == ("stable", pytest.approx(1.14e-4, rel=1e-3))
    arguments = ["fixed-point", "--activation", "quadratic", "--gamma", "0.1", "--Delta", "0.1", "--spherical"]
    assert main([*arguments, "-d", "100", "--relax", "30", "--seed", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["risk"]) == ("stable", pytest.approx(0.01 / 0.4))  # gamma Delta/(1 - 6 gamma)
    assert main(["fixed-point", "--floor", "-p", "2"]) == 2
    assert "without noise" in capsys.readouterr().err
