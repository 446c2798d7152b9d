"""What the command line refuses: one clear line with the remedy, before any work."""

import errno
import functools
import os

import pytest

import hdsgd
from hdsgd.cli import main
from hdsgd.cli._remedies import translated

pytestmark = pytest.mark.usefixtures("private")


def failing(monkeypatch, error):
    """Let solve_ode raise this."""

    @functools.wraps(hdsgd.solve_ode)
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr("hdsgd.cli._run.solve_ode", fail)


BAD = [
    ("", "required: COMMAND (see hdsgd --help)"),
    ("solv", "did you mean solve?"),
    ("solve --t-max 1 --d 300", "unrecognized arguments: --d 300; did you mean -d? (see hdsgd solve --help)"),
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
    ("solve --t-max 1 -d 10 --times -3", "--times -3: pass a count of at least 2, or times >= 0 separated by commas\n"),
    ("solve --t-max 1 -d 10 --times=", "--times '': pass a count of at least 2, or times >= 0 separated by commas\n"),
    ("solve --t-max 1 -d 10 --times nan", "--times nan: pass a count of at least 2"),
    ("solve --t-max 1 -d 10 --times 1,0.5", "times must be strictly increasing; sort them, and give each once"),
    ("solve --t-max inf -d 10 --times 3", "t_max must be finite and >= 0"),
    ("solve --t-max 1 -d 10 --exit-T 2", "T must be in (0, 1)"),
    ("solve --t-max 1 -d 10 --exit-T .2 --exit-level 1", "not allowed with argument --exit-T"),
    ("solve --t-max 1 -d 10 --rtol 0", "rtol must be"),
    ("solve --t-max 1 -d 10 --method foo", "argument --method: invalid choice: 'foo'"),
    ("solve --t-max 1 -d 10 --backend cuda", "argument --backend: invalid choice: 'cuda'"),
    ("solve --t-max 1 -d 10 --seed -3", "a seed is 0 or larger"),
    ("solve --t-max 1 -d 10 --out x.txt", "must end in .npz, .nc"),
    ("solve --t-max 1 -d 10 --out no/x.npz", "the folder no does not exist; create it first"),
    ("solve --t-max 1 -d 10 --plot x.npz", "must end in .png, .pdf, .svg"),
    ("solve --t-max 1 -d 10 --replica 0", "--replica is for a start from a file"),
    ("solve --t-max 1 --start no.npz", "there is no file 'no.npz' to start from"),
    ("simulate --t-max 1 -d 0", "d must be at least 1"),
    ("simulate --t-max 1 -d 10 --gamma 0", "gamma = 0 is gradient flow, which takes no steps; use hdsgd solve"),
    ("simulate --t-max 1 -d 10 --replicas 0", "replicas must be at least 1"),
    ("simulate --t-max 1e30 -d 10", "decrease --t-max"),
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
    ("escape -p 3", "use --start random for p=3"),
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


@pytest.mark.parametrize(
    ("python_says", "cli_says"),
    [
        ("use method='weights' there.", "use --method weights there."),
        ("gamma = 0 is gradient flow; use solve_ode, or gamma > 0.", "gamma = 0 is gradient flow; use hdsgd solve, or"),
        ("use hdsgd.simulate, which is exact", "use hdsgd simulate, which is exact"),
        ("the start has 2 replicas, not replicas=3; leave replicas out.", "leave --replicas out."),
        ("needs the input dimension; pass d=1000, for example.", "pass -d 1000, for example."),
        ("sort them first, for example with numpy.unique(times).", "sort them, and give each once."),
        ("store fewer times, as in times=[t_max], or simulate", "store fewer times, as in --times 2, or simulate"),
        ("state has 2 replicas, not 3; pass replicas=None for one path", "; leave --replicas out for one path"),
        ("decrease T or gamma.", "decrease -T or --gamma."),
        (
            "for an SDE decrease dt; for an ODE loosen rtol and atol or",
            "decrease --dt; for an ODE loosen --rtol and --atol",
        ),
        ("decrease gamma, or use spherical=True.", "decrease --gamma, or use --spherical."),
        ("The exit level of the risk was reached; see sol.exit_time.", "The exit level of the risk was reached."),
        ("choose another method (see sol.stats).", "choose another method."),
        ("name another compiler or use backend='numpy'.", "or use --backend numpy."),
        ("spherical=True needs a start with Q_jj = 1", "--spherical needs a start with Q_jj = 1"),
        ("or use Overlaps.random(..., spherical=True).", "or use --start random, or --no-spherical."),
        ("pass for example rtol=1e-8.", "pass for example --rtol 1e-8."),
        ("is 1e+12 steps of dt = 1e-12; increase dt or decrease t_max.", "; increase --dt or decrease --t-max."),
        ("the students' overlaps decay; increase T or d, decrease gamma", "; increase -T or -d, decrease --gamma"),
        ("with k = 1 and no replica axis; pass state.replica(i).", "; give a file with one start."),
        ("use start='random' for p=3", "use --start random for p=3"),
        ("leave p out or give another start", "leave -p out or give another start"),
        ("have these overlaps; start from hdsgd.Weights, or increase d.", "have these overlaps; increase -d."),
        ("start from M != 0, or use escape.from_zero.", "start from M != 0."),
        ("pass a .npz file written by sol.save().", "pass a .npz file written with --out."),
    ],
)
def test_remedies_are_options(python_says, cli_says):
    assert cli_says in translated(python_says)


def test_other_words_stay_as_they_are():
    for text in (
        "t_max must be finite and >= 0, got -1",
        "gamma=5 is beyond the stability of the escape at p=1; choose gamma < 0.166665.",
        "x**2 has no closed form; decrease the degree",
        "write it with numpy.savez(file, Q=Q, M=M, P=P).",
        "times must lie in [0, t_max] = [0, 1], got [0, 2]; increase the last or drop some",
    ):
        assert translated(text) == text


@pytest.mark.parametrize(
    "line",
    [
        "simulate --t-max 1 -d 1000 --replicas 1000000000",
        "simulate --t-max 1 -d 1000 --replicas 1000000000 --shared-start --times 0,1",
        "simulate --t-max 1 -d 1000 --replicas 1000000000 --start start.json",
        "sde --t-max 1 -d 1000 --replicas 1000000000 --activation quadratic",
        "solve --t-max 1 -d 100000000 -p 10000000",
        "solve --t-max 1 -d 1000 --times 10000000000000",
        "escape --replicas 10000000000",
        "escape --start random --replicas 10000000000",
    ],
)
@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="the size of the memory as on POSIX")
def test_what_cannot_fit_is_refused_before_anything_is_drawn(line, capsys, tmp_path, monkeypatch):
    (tmp_path / "start.json").write_text('{"Q": [[1.0]], "M": [[0.2]], "P": [[1.0]]}')
    monkeypatch.setattr("hdsgd._overlaps.generators", lambda *arguments: pytest.fail("something is drawn"))
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "GiB and this machine has" in err
    assert err.count("\n") == 1


def test_what_fits_is_not_refused(monkeypatch, capsys):
    monkeypatch.setattr("os.sysconf", lambda name: 1024)  # of memory there is 1 MiB
    line = ["simulate", "--t-max", "1", "-d", "1000", "--replicas", "200", "--backend", "numpy", "--gamma", "100"]
    assert main(line) == 0  # 10 steps: few times to store
    assert capsys.readouterr().err == ""
    assert main([*line, "--times", "201"]) == 2
    assert "the results of 200 replicas of p = 1, k = 1 at 201 times need" in capsys.readouterr().err


UNWRITABLE = [
    ("solve --t-max 1 -d 10 --out FOLDER/x.npz", "--out FOLDER/x.npz"),
    ("solve --t-max 1 -d 10 --plot FOLDER/x.png", "--plot FOLDER/x.png"),
    ("simulate --t-max 1 -d 10 --out FOLDER/x.npz", "--out FOLDER/x.npz"),
    ("sde --t-max 1 -d 10 --out FOLDER/x.npz", "--out FOLDER/x.npz"),
    ("escape --out FOLDER/x", "--out FOLDER/x"),
    ("derive erf --out FOLDER/x.tex", "--out FOLDER/x.tex"),
    ("generate x+x**2 --out FOLDER/x", "--out FOLDER/x"),
    ("generate x+x**2 --out FOLDER", "--out FOLDER"),
]


@pytest.mark.parametrize("folder", ["/proc", "here"])
@pytest.mark.parametrize(("line", "named"), UNWRITABLE, ids=[line for line, _ in UNWRITABLE])
def test_files_that_cannot_be_written_are_refused_before_the_run(folder, line, named, capsys, tmp_path, monkeypatch):
    if "--plot" in line:
        pytest.importorskip("matplotlib")
    if folder == "here":  # as on a read-only file system, where the permissions may be fine

        def refuse(*arguments, **options):
            raise OSError(errno.EROFS, "Read-only file system", "some/inner/name")

        (tmp_path / folder).mkdir()
        monkeypatch.setattr("tempfile.mkstemp", refuse)
    elif not os.path.isdir("/proc/self"):  # noqa: PTH112
        pytest.skip("there is no /proc")
    for name in ("_run.solve_ode", "_run.simulate", "_run.solve_sde", "_escape.escape_experiment", "_derive.generate"):
        function = functools.wraps(getattr(hdsgd, name.split(".")[1]))(lambda *a, **o: pytest.fail("it runs"))
        monkeypatch.setattr(f"hdsgd.cli.{name}", function)
    assert main(line.replace("FOLDER", folder).split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"hdsgd: error: {named.replace('FOLDER', folder)}: cannot be written (")
    assert err.count("\n") == 1
    assert "inner" not in err


def test_a_disk_that_fills_up_during_the_run_is_named_as_asked_for(capsys, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device", ".x-1234.npz")

    monkeypatch.setattr("hdsgd.Solution.save", full)
    assert main(["solve", "-d", "10", "--t-max", "1", "--out", "x.npz"]) == 2
    assert "error: --out x.npz: cannot be written (No space left on device)" in capsys.readouterr().err
