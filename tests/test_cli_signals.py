"""The command line and the system: Ctrl-C at any moment, and readers that go away."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hdsgd._record import Record
from hdsgd.cli import _run, main

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and pipes as on POSIX")


def python(script, *arguments, **options):
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)


# The signal comes from a timer in the process itself: the run has surely begun, and is far from its end.
RUN = """
import os, signal, sys, threading, time
from hdsgd.cli import main
began = time.perf_counter()
for after in (1.5, 1.6, 1.7):
    threading.Timer(after, os.kill, (os.getpid(), signal.SIGINT)).start()
    if not AS_PROGRAM:
        break
arguments = "simulate -d 1000 -p 3 --t-max 1e6 --backend BACKEND".split()
sys.argv[1:] = arguments
code = main() if AS_PROGRAM else main(arguments)
print(time.perf_counter() - began)
time.sleep(0.5 * AS_PROGRAM)
sys.exit(code)
"""


@pytest.mark.parametrize("backend", ["auto", "numpy"])
@pytest.mark.parametrize("as_program", [True, False])
def test_ctrl_c_in_a_run(backend, as_program):
    # A program is not disturbed by impatient users: what comes after the first Ctrl-C is ignored.
    done = python(RUN.replace("BACKEND", backend).replace("AS_PROGRAM", str(as_program)))
    assert done.returncode == 130
    assert done.stderr.splitlines()[-1] == "hdsgd: interrupted"
    assert "Traceback" not in done.stderr
    assert float(done.stdout) < 4.0


@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c_of_a_sweep_says_how_to_go_on(tmp_path, capsys, monkeypatch, workers):
    monkeypatch.chdir(tmp_path)
    Path("grid.toml").write_text(
        'function = "final_risk"\n[grid]\nseed = [1, 2, 3]\nt_max = 0.1\nby = "ode"\ngamma = 0.1\nd = 100\n'
    )
    add = Record.add

    def interrupted(*arguments):
        add(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(Record, "add", interrupted)
    assert main(["sweep", "grid.toml", "--out", "grid.jsonl", "--workers", str(workers)]) == 130
    assert capsys.readouterr().err.endswith(  # after the warning where there is no compiler
        "hdsgd: interrupted\nhdsgd: grid.jsonl keeps 1 of 3 points: the same command goes on with them\n"
    )


def test_ctrl_c_of_a_run_that_is_kept_says_how_to_go_on(monkeypatch, capsys):
    def interrupted(*arguments, **options):
        error = KeyboardInterrupt()
        error.add_note("run.checkpoint keeps the run, 50.0% done: the same call goes on with it")
        raise error

    monkeypatch.setattr(_run, "begin", interrupted)
    assert main(["simulate", "-d", "100", "--t-max", "1"]) == 130
    assert capsys.readouterr().err == (
        "hdsgd: interrupted\nhdsgd: run.checkpoint keeps the run, 50.0% done: add --resume to go on with it\n"
    )


# What the console script does, under its name, with Ctrl-C at the moment when a module is about to be imported.
SCRIPT = """
import os, signal, sys

module, handler, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = "hdsgd"

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, getattr(signal, handler))
sys.meta_path.insert(0, Finder())
from hdsgd.cli import main
sys.exit(main())
"""

# Importing hdsgd, which comes first, and the command line; then what one command imports when it is needed.
MOMENTS = [
    ("numpy", "--version"),
    ("hdsgd._simulate", "--version"),
    ("hdsgd._solution", "--version"),
    ("hdsgd.cli._main", "--version"),
    ("hdsgd.cli._run", "--version"),
    ("hdsgd.cli._system", "--help"),
    ("sympy", "derive erf"),
    ("mpmath", "derive erf"),
    ("hdsgd.derivations.parse", "derive x**2"),
]


@pytest.mark.parametrize(("module", "line"), MOMENTS, ids=[module for module, _ in MOMENTS])
def test_ctrl_c_while_something_is_imported(module, line):
    done = python(SCRIPT, module, "default_int_handler", *line.split())
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "hdsgd: interrupted\n")


def test_a_library_leaves_ctrl_c_alone():
    code = "import signal, hdsgd; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    assert python(code).stdout == "True\n"
    assert "KeyboardInterrupt" in python(SCRIPT.replace('"hdsgd"', '"-c"', 1), "numpy", "default_int_handler").stderr


def test_ctrl_c_is_ignored_where_the_caller_said_so():
    done = python(SCRIPT, "hdsgd.cli._main", "SIG_IGN", "--version")  # as under nohup
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("hdsgd ")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("line", ["derive linear", "--help", "solve --help", "--version", "cache --json"])
def test_a_reader_that_went_away_is_no_error(line, unbuffered):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "hdsgd", *line.split()]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open(writing, "wb") as sink:  # noqa: PTH123
        done = subprocess.run(command, stdout=sink, stderr=subprocess.PIPE, timeout=60, check=False, env=environment)
    assert done.stderr == b""
    assert done.returncode == 141
