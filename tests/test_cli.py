"""The command line as a whole: help, examples, what it prints where."""

import io
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

import hdsgd
from hdsgd.cli import _shell, main
from hdsgd.cli._main import parser

pytestmark = pytest.mark.usefixtures("private")


COMMANDS = (
    "escape",
    "derive",
    "generate",
    "solve",
    "sde",
    "simulate",
    "plateau",
    "phase",
    "fixed-point",
    "quadratic",
    "mean-field",
    "figure",
    "sweep",
    "doctor",
    "cache",
)


def run(*arguments, **options):
    """The console script's code in a process of its own."""
    command = [sys.executable, "-m", "hdsgd", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)


def commands():
    actions = [
        action for action in parser()._actions if hasattr(action, "choices") and isinstance(action.choices, dict)
    ]
    return actions[0].choices


def examples(name):
    return re.findall(r"^  (hdsgd .*)$", commands()[name].epilog, flags=re.MULTILINE)


def test_the_commands_are_those_documented():
    assert tuple(commands()) == COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_help(name, capsys):
    assert main([name, "--help"]) == 0
    text, err = capsys.readouterr()
    assert err == ""
    assert text.startswith(f"usage: hdsgd {name}")
    assert "t = nu*gamma/(p*d)" in text
    assert "--json" in text
    assert examples(name)
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_its_default(name):
    for action in commands()[name]._actions:
        if action.nargs == 0 or action.required or not action.option_strings:
            continue  # switches are off, the others have none
        assert "default:" in (action.help or "") or "needed" in action.help, action.option_strings


def marks(line):
    """What takes numpy more than seconds, or any machine minutes."""
    compiled = ("--checkpoint", "--activation abs", "--study", "hdsgd figure", "mean-field")
    found = [pytest.mark.needs_cc] if any(part in line for part in compiled) else []
    return found + ([pytest.mark.slow] if "--all" in line else [])


@pytest.mark.parametrize("line", [pytest.param(x, marks=marks(x)) for name in COMMANDS for x in examples(name)])
def test_examples_run(line, capsys):
    arguments = shlex.split(line)[1:]
    if arguments[0] == "sweep":  # its file is the example in the description
        description = commands()["sweep"].description
        settings = description[description.index("function =") : description.index("exit_time takes")]
        Path(arguments[1]).write_text(settings.replace("replicas = 64", 'replicas = 2\n  by = "ode"'))
    if (
        arguments[0] == "escape" and "--study" not in arguments
    ):  # as it is in all but its length: numpy has to do it where there is no compiler
        arguments += ["--replicas", "30", "-d", "1000", "--t-max", "0.8"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert out.strip()
    assert err == ""


def test_top_level_help_and_version(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert re.findall(r"^    ([a-z-]+)\s", text, flags=re.MULTILINE)[-len(COMMANDS) :] == list(COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"hdsgd {hdsgd.__version__}\n"


def python(script, **options):
    """A script in a process of its own."""
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)


def test_help_is_light():
    heavy = "scipy sympy matplotlib mpmath xarray tqdm"
    done = python(
        "import sys; from hdsgd.cli import main; assert main(['--help']) == 0; assert main(['solve', '--help']) == 0\n"
        f"print([name for name in '{heavy}'.split() if name in sys.modules])"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_process_of_its_own(tmp_path):
    done = run("solve", "-d", "100", "--t-max", "1", "--seed", "3", "--json", "--backend", "numpy")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["seed"] == "3"
    done = run("solve", "--t-max", "1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


def test_without_a_compiler_there_is_one_plain_line():
    environment = {**os.environ, "HDSGD_CC": "/nonexistent/cc"}
    done = run("simulate", "-d", "50", "--t-max", "1", "--seed", "1", env=environment)
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("hdsgd: warning: HDSGD_CC=")
    assert "numpy backend" in done.stderr
    assert ".py" not in done.stderr
    done = run("simulate", "-d", "50", "--t-max", "1", "--backend", "c", env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("hdsgd: error: HDSGD_CC=")
    assert done.stderr.count("\n") == 1


def test_output_that_cannot_hold_greek():
    done = run("derive", "linear", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Student ?(x) = x")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_bar_is_for_terminals_and_long_work(monkeypatch):
    for stream in (io.StringIO(), None):
        monkeypatch.setattr(sys, "stderr", stream)
        with _shell.progress("work") as report:
            assert report is None
    monkeypatch.setattr(sys, "stderr", Terminal())
    with _shell.progress("work") as report:
        for i in range(1000):
            report(i / 1000)
    assert sys.stderr.getvalue().strip() == ""
    with _shell.progress("work") as report:
        report(0.25)
        time.sleep(1.2)
        report(0.5)
        shown = sys.stderr.getvalue()
    assert "work:  50.0% |" in shown
    assert sys.stderr.getvalue().endswith("\r")  # and it goes when the work is done
    monkeypatch.setattr(sys, "stderr", Terminal())
    with _shell.progress("work"):
        time.sleep(2.2)
        shown = sys.stderr.getvalue()
    assert "work:   0.0% |" in shown  # the clock of work that reports nothing
    assert sys.stderr.getvalue().endswith("\r")


def test_json_is_strict():
    plain = _shell._plain({"a": float("nan"), "b": (1, float("inf")), "c": {"d": None}})
    assert plain == {"a": None, "b": [1, None], "c": {"d": None}}


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (25_300_000, "25.3 MB"), (4 * 10**12, "4000.0 GB")],
)
def test_sizes(count, text):
    assert _shell.size(count) == text
