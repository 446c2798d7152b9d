"""The command line as a whole: help, errors, exit codes, signals, what it prints where."""

import functools
import io
import json
import os
import re
import shlex
import subprocess
import sys
import time

import pytest

import hdsgd
from hdsgd.cli import _shell, main, parser

COMMANDS = ("escape", "derive", "generate", "solve", "sde", "simulate", "doctor", "cache")


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def private(cache, tmp_path, monkeypatch):
    """A working folder and a cache of its own: the tests save names and clear things."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HDSGD_CACHE_DIR", str(cache))
    monkeypatch.delenv("HDSGD_TRACEBACK", raising=False)
    monkeypatch.setattr("hdsgd._errors._warned", True)  # where there is no compiler; the line has a test of its own


def run(*arguments, **options):
    """The console script's code in a process of its own."""
    command = [sys.executable, "-m", "hdsgd", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)


def failing(monkeypatch, error):
    """Let solve_ode raise this."""

    @functools.wraps(hdsgd.solve_ode)
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr("hdsgd.cli._run.solve_ode", fail)


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


@pytest.mark.parametrize("line", [line for name in COMMANDS for line in examples(name)])
def test_examples_run(line, capsys):
    arguments = shlex.split(line)[1:]
    if arguments[0] == "escape":  # as it is in all but its length: numpy has to do it where there is no compiler
        arguments += ["--replicas", "30", "-d", "1000", "--t-max", "0.8"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert out.strip()
    assert err == ""


def test_top_level_help_and_version(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n    {name} " in text for name in COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"hdsgd {hdsgd.__version__}\n"


BAD = [
    ("", "required: COMMAND (see hdsgd --help)"),
    ("solv", "invalid choice: 'solv'"),
    ("solve", "required: --t-max (see hdsgd solve --help)"),
    (
        "solve --t-max 1 -d 10 --gama 3",
        "unrecognized arguments: --gama 3; did you mean --gamma? (see hdsgd solve --help)",
    ),
    ("solve --t-max 1 -d 10 --act erf", "unrecognized arguments: --act erf"),
    ("solve --t-max 1 -d 10 more", "unrecognized arguments: more"),
    ("solve --t-max 1", "a random start needs the input dimension; pass for example -d 1000"),
    ("solve --t-max abc -d 10", "argument --t-max: 'abc' is not a number"),
    ("solve --t-max -1 -d 10", "t_max must be finite and >= 0"),
    ("solve --t-max 1 -d 10.5", "argument -d: '10.5' is not a whole number"),
    ("solve --t-max 1 -d 0", "d must be at least 1"),
    ("solve --t-max 1 -d 10 -p 0", "p must be at least 1"),
    ("solve --t-max 1 -d 10 --activation er", "did you mean 'erf'?"),
    ("solve --t-max 1 -d 10 --activation __import__('os')", "unknown function '__import__'"),
    ("solve --t-max 1 -d 10 --gamma -1", "gamma must be finite and >= 0"),
    ("solve --t-max 1 -d 10 --Delta=-1", "Delta must be finite and >= 0"),
    ("solve --t-max 1 -d 10 --times 0,2", "times must lie in [0, t_max] = [0, 1]"),
    ("solve --t-max 1 -d 10 --times 1,a", "--times 1,a: times are numbers separated by commas"),
    ("solve --t-max 1 -d 10 --times ,", "--times ,: times are numbers"),
    ("solve --t-max 1 -d 10 --times 1", "pass a count of at least 2"),
    ("solve --t-max 1 -d 10 --times 0.5", "(one time: '0.5,')"),
    ("solve --t-max 1 -d 10 --exit-T 2", "T must be in (0, 1)"),
    ("solve --t-max 1 -d 10 --exit-T .2 --exit-level 1", "not allowed with argument --exit-T"),
    ("solve --t-max 1 -d 10 --rtol 0", "rtol must be finite and > 0"),
    ("solve --t-max 1 -d 10 --method foo", "argument --method: invalid choice: 'foo'"),
    ("solve --t-max 1 -d 10 --backend cuda", "argument --backend: invalid choice: 'cuda'"),
    ("solve --t-max 1 -d 10 --seed -3", "a seed is 0 or larger"),
    ("solve --t-max 1 -d 10 --out x.txt", "must end in .npz, .nc"),
    ("solve --t-max 1 -d 10 --out no/x.npz", "the folder no does not exist; create it first"),
    ("solve --t-max 1 -d 10 --plot x.npz", "must end in .png, .pdf, .svg"),
    ("solve --t-max 1 -d 10 --replica 0", "--replica is for a start from a file"),
    ("solve --t-max 1 --start no.npz", "there is no file 'no.npz' to start from"),
    ("simulate --t-max 1 -d 1", "the overlap chain needs d >= p + k = 2"),
    ("simulate --t-max 1 -d 10 --gamma 0", "gamma = 0 is gradient flow"),
    ("simulate --t-max 1 -d 10 --replicas 0", "replicas must be at least 1"),
    ("simulate --t-max 1e30 -d 10", "decrease t_max"),
    ("sde --t-max 1 -d 100", "the diffusion is available for polynomial activations"),
    ("sde --t-max 1 -d 100 --activation quadratic --dt 0", "dt must be finite and > 0"),
    ("derive", "required: SPEC"),
    ("derive er", "did you mean 'erf'?"),
    ("derive erf --latex --markdown", "not allowed with argument --latex"),
    ("derive erf --out no/x.tex", "the folder no does not exist"),
    ("derive erf --out .", "--out . is a folder"),
    ("derive exp(x**2/2)", "infinite"),
    ("generate", "give an activation, or --builtin"),
    ("generate erf --builtin", "leave SPEC out"),
    ("generate --builtin --out x", "leave --out out"),
    ("generate --check", "use it with --builtin"),
    ("generate x**2 --name erf", "'erf' already stands for"),
    ("cache clean", "invalid choice: 'clean'"),
    ("cache --names", "hdsgd cache clear --names"),
    ("doctor now", "unrecognized arguments: now"),
    ("escape --start no.json", "there is no file 'no.json'"),
    ("escape -p 3", "published starts have p = 1 or 2"),
    ("escape --gamma 5", "choose gamma < 0.16"),
    ("escape -T 2", "T must be in (0, 1)"),
    ("escape --replicas 1", "replicas must be at least 2"),
    ("escape --seed x", "argument --seed: 'x' is not a whole number"),
    ("escape --out .", "--out . is a folder"),
    ("escape --out a.png", "leave the ending .png of a.png out"),
    ("escape --out no/a", "the folder no does not exist"),
]


@pytest.mark.parametrize(("line", "expected"), BAD, ids=[line or "nothing" for line, _ in BAD])
def test_bad_input_is_one_clear_line(line, expected, capsys, tmp_path):
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("hdsgd: error: ")
    assert err.count("\n") == 1
    assert expected in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FileNotFoundError(2, "No such file or directory", "there"), "there: No such file or directory"),
        (MemoryError(), "not enough memory (MemoryError)"),
        (OverflowError("too large"), "a number is too large (too large)"),
        (ValueError("two\n  lines"), "two lines"),
    ],
)
def test_errors_of_the_system(error, expected, monkeypatch, capsys):
    failing(monkeypatch, error)
    assert main(["solve", "-d", "10", "--t-max", "1"]) == 2
    assert capsys.readouterr().err.startswith(f"hdsgd: error: {expected}")
    monkeypatch.setenv("HDSGD_TRACEBACK", "1")
    with pytest.raises(type(error)):
        main(["solve", "-d", "10", "--t-max", "1"])


def test_a_bug_keeps_its_traceback(monkeypatch):
    failing(monkeypatch, AttributeError("a bug"))
    with pytest.raises(AttributeError):
        main(["solve", "-d", "10", "--t-max", "1"])


def test_help_is_light():
    heavy = "scipy sympy matplotlib mpmath xarray tqdm"
    script = (
        "import sys; from hdsgd.cli import main; assert main(['--help']) == 0; assert main(['solve', '--help']) == 0\n"
        f"sys.exit(' '.join(name for name in '{heavy}'.split() if name in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr.strip() == ""
    assert done.returncode == 0


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


@pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")
@pytest.mark.parametrize("backend", ["auto", "numpy"])
def test_ctrl_c(backend):
    # The signal comes from a timer in the process itself: the run has surely begun, and is far from its end.
    script = (
        "import os, signal, sys, threading, time\n"
        "from hdsgd.cli import main\n"
        "began = time.perf_counter()\n"
        "threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        f"code = main('simulate -d 1000 -p 3 --t-max 1e6 --backend {backend}'.split())\n"
        "print(time.perf_counter() - began)\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 130
    assert done.stderr.splitlines()[-1] == "hdsgd: interrupted"
    assert "Traceback" not in done.stderr
    assert float(done.stdout) < 4.0


@pytest.mark.skipif(os.name != "posix", reason="pipes as on POSIX")
def test_a_reader_that_went_away_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "hdsgd", "derive", "linear"]
    with open(writing, "wb") as sink:  # noqa: PTH123
        done = subprocess.run(command, stdout=sink, stderr=subprocess.PIPE, timeout=60, check=False)
    assert done.stderr == b""
    assert done.returncode == 141


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


def test_json_is_strict():
    plain = _shell._plain({"a": float("nan"), "b": (1, float("inf")), "c": {"d": None}})
    assert plain == {"a": None, "b": [1, None], "c": {"d": None}}


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (25_300_000, "25.3 MB"), (4 * 10**12, "4000.0 GB")],
)
def test_sizes(count, text):
    assert _shell.size(count) == text
