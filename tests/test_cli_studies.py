"""The commands plateau and sweep."""

import json

import numpy as np
import pytest

from hdsgd import Problem, plateau
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
    assert f"{means[0]:.6g}" in capsys.readouterr().out


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


def test_unknown_parameters_are_failures(tmp_path, capsys):
    file = tmp_path / "grid.toml"
    file.write_text(GRID + "gama = 0.1\n")
    assert main(["sweep", str(file), "--workers", "0"]) == 1
    assert "unknown parameter 'gama'" in capsys.readouterr().out
