"""What people type: negative numbers, schedules in sweep files, and what is refused."""

import json

import pytest

from hdsgd import Problem, Schedule
from hdsgd._points import exit_time
from hdsgd.cli import main


@pytest.fixture
def printed(capsys):
    def run(*arguments, code=0):
        assert main([str(argument) for argument in arguments]) == code
        out, err = capsys.readouterr()
        return err if code else json.loads(out)

    return run


@pytest.mark.parametrize("text", ["-1/4", "-0.25", "-.25", "-25e-2"])
def test_a_negative_value_is_no_option(printed, text):
    found = printed("phase", "--delta", text, "--mu", "1/4", "--json")
    assert found == printed("phase", f"--delta={text}", "--mu", "1/4", "--json")
    assert (found["delta"], found["region"]) == ("-1/4", "blue")
    assert printed("phase", "--delta", "25e-2", "--json")["delta"] == "1/4"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("solve --gamma -1e-3 -d 100 --t-max 1", "gamma must be finite and >= 0, got -0.001"),
        ("solve --times -1,0 -d 100 --t-max 1", "times must lie in [0, t_max]"),
        ("phase --kappa -1", "kappa must be >= 0"),
        ("phase --kappa 400 -d 10", "p = 1 d^(400) is not a floating-point number at d = 10"),
        ("phase --kappa 1e999999999", "kappa must be a rational number such as 0.25"),
        ("plateau --activation quadratic -p 3 --gamma 0:1,1:2", "the schedule 0:1,1:2; give a number to --gamma"),
        ("plateau --activation abs --gamma 0.1 -d 1000 --exit-T 1.2", "T must be in (0, 1), got 1.2"),
        ("plateau --activation quadratic --gamma 0.1 -d 10 -T 0.01", "increase -d or -T"),
        ("phase --delte -1/4", "did you mean --delta?"),
        ("fixed-point --floor --Delta 0.1 -d 100", "--floor begins near perfect learning; leave -d out"),
        ("fixed-point --floor --Delta 0.1 --seed 0", "leave --seed out"),
        ("fixed-point --floor --Delta 0.1 --start a.json", "leave --start out"),
        ("fixed-point -d 100 --relax 5 --along 3", "leave --relax out"),
        ("fixed-point -d 100 --relax -1", "--relax must be finite and >= 0"),
        ("fixed-point -d 100 --along nan", "--along must be finite and >= 0"),
        ("fixed-point --floor -p 3 -k 2 --Delta 0.1", "elsewhere leave --floor out and add --relax."),
        ("quadratic -p 2 -k 1 --gamma 5", "there is no plateau at gamma = 5"),
    ],
)
def test_refused_in_one_line(printed, line, says):
    error = printed(*line.split(), code=2)
    assert says in error
    assert error.count("\n") == 1


SCHEDULES = """\
function = "exit_time"
[grid]
gamma = [0.1, "0:0.1,0.5:0.02", "0.1"]
activation = "quadratic"
spherical = true
d = 1000
T = 0.1
t_max = 10.0
by = "ode"
"""


def test_a_sweep_takes_schedules_as_the_command_line_spells_them(tmp_path, printed):
    file = tmp_path / "grid.toml"
    file.write_text(SCHEDULES)
    constant, slower, text = printed("sweep", file, "--workers", "0", "--json")["points"]
    assert text["values"] == constant["values"]
    assert slower["point"]["gamma"] == "0:0.1,0.5:0.02"
    schedule = Schedule([0.0, 0.5], [0.1, 0.02])
    expected = exit_time(gamma=schedule, activation="quadratic", spherical=True, d=1000, T=0.1, t_max=10.0, by="ode")
    assert slower["values"]["mean"] == expected["mean"] != constant["values"]["mean"]


@pytest.mark.parametrize(
    ("gamma", "says"),
    [('"1:0.1,2:0.3"', "is no schedule such as"), ('"fast"', "'fast' is not a number"), ("[0.1, 0.1]", "'gamma' has")],
)
def test_a_sweep_refuses_what_is_no_schedule(tmp_path, printed, gamma, says):
    file = tmp_path / "grid.toml"
    file.write_text(SCHEDULES.replace('[0.1, "0:0.1,0.5:0.02", "0.1"]', gamma))
    error = printed("sweep", file, "--out", tmp_path / "grid.jsonl", code=2)
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "grid.jsonl").exists()


def test_a_function_without_a_module_is_refused(tmp_path, printed):
    file = tmp_path / "grid.toml"
    file.write_text('function = ":f"\n[grid]\nx = 1\n')
    assert "the function ':f' cannot be imported" in printed("sweep", file, code=2)


def test_a_problem_names_the_schedule():
    with pytest.raises(TypeError, match=r"pass hdsgd\.Schedule, such as Schedule\(\[0, 5\], \[1, 0\.1\]\)"):
        Problem(gamma="0:1,5:.1")
