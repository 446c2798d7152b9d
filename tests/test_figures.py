"""Figures: every one in its tiny version, the record that lets them go on, claims and reports, the command."""

import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from figure_points import FOLDER, build

import hdsgd
from hdsgd._figures import _make, _report
from hdsgd._figures._frame import Claim, Job, seeds
from hdsgd._figures._names import FIGURES
from hdsgd.cli import main


@pytest.fixture
def squares(tmp_path, monkeypatch):
    """Make the small figure instead of the paper's; returns a function that does, and one that reads the traces."""
    monkeypatch.setenv(FOLDER, str(tmp_path))

    def make(mode="", names=None, **options):
        monkeypatch.setattr(_make, "find", lambda name: (name, build(mode, names)))
        return hdsgd.figure("A1", **{"out": tmp_path / "out", "workers": 0, **options})

    def runs():
        log = tmp_path / "log"
        lines = log.read_text().split() if log.exists() else []
        log.unlink(missing_ok=True)
        return sorted(map(int, lines))

    return make, runs


@pytest.mark.needs_cc
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_made(name, tmp_path):
    result = hdsgd.figure(name, size="tiny", out=tmp_path, workers=0, seed=1)
    assert {path.name for path in result.paths} >= {f"{name}-tiny{ending}" for ending in (".png", ".npz", ".nc", ".md")}
    assert all(path.stat().st_size > 200 for path in result.paths)
    assert result.claims
    report = (tmp_path / f"{name}-tiny.md").read_text(encoding="utf-8")
    assert result.title in report
    assert all(claim.what.replace("|", "\\|") in report for claim in result.claims)
    assert len({claim.what for claim in result.claims}) == len(result.claims)
    drawn = result.figure()
    assert all(axes.get_xlabel() or axes.get_shared_x_axes().get_siblings(axes) for axes in drawn.axes)
    assert any(axes.get_ylabel() for axes in drawn.axes)
    with np.load(tmp_path / f"{name}-tiny.npz", allow_pickle=False) as file:
        assert set(file.files) == {f"{job}: {key}" for job in result.data for key in result.data[job]} | {"hdsgd"}


def test_files_and_report(squares, tmp_path):
    make, _ = squares
    result = make()
    xarray = pytest.importorskip("xarray")
    assert [path.name for path in result.paths] == ["A1.png", "A1.npz", "A1.nc", "A1.md"]
    report = (tmp_path / "out" / "A1.md").read_text(encoding="utf-8")
    assert report.startswith("# A1: squares\n\nSource: Euclid, figure 1.\n\n![A1](A1.png)\n")
    assert "## Claims: 1 agrees, 1 paper is wrong, 1 differs, 1 reported" in report
    assert "| two \\| squared | 3.9–4.1 | 4 | 4.1 | - | 0.2 (fixed) | agrees |" in report
    assert "| three squared | 9.5 | - | 9.1 | 0.01 | 0.03 (3 s.e.) | differs |" in report
    assert "| the misprint | 7 | 1 | 1.1 | - | 0.2 (fixed) | paper is wrong |" in report
    assert "- the misprint: 1·1" in report
    assert "| x=… (5 jobs) | x = {1, 2, 3, 4, 5}, seed = 0, mode =  |" in report
    assert ". Seconds: " in report
    assert "`hdsgd figure A1 --seed 0`" in report
    with xarray.open_dataset(tmp_path / "out" / "A1.nc", engine="h5netcdf") as data:
        assert data["x=5: line"].dims == ("x=5: 5",)
        assert float(data["x=3: square"]) == 9.1
    assert result.data["x=4"]["line"].tolist() == [4.0] * 4
    assert np.isnan(result.data["x=4"]["nan"])
    assert str(result.data["x=4"]["text"]) == "x is 4"
    assert result.settings["x=4"] == {"x": 4, "seed": 0, "mode": ""}
    assert repr(result) == "FigureResult(A1, full: 5 jobs, 1 agrees, 1 paper is wrong, 1 differs, 1 reported)"
    again = pickle.loads(pickle.dumps(result))
    assert again.to_dict() == result.to_dict()
    assert again.table() == result.table()
    assert make(size="quick", format="svg").paths[0].name == "A1-quick.svg"
    quick = (tmp_path / "out" / "A1-quick.md").read_text(encoding="utf-8")
    assert "Made in its quick version" in quick
    assert "Made by `hdsgd figure A1 --quick --seed 0`" in quick
    tiny = make(size="tiny", seed=3).paths[-1].read_text(encoding="utf-8")
    assert 'Made by `hdsgd.figure("A1", size="tiny", seed=3)`' in tiny


def test_the_record_saves_work_of_the_same_settings_only(squares):
    make, runs = squares
    make()
    assert runs() == [1, 2, 3, 4, 5]
    first = make()
    assert runs() == []
    assert (first.resumed, "Resumed: 5 of 5 jobs" in first.paths[-1].read_text(encoding="utf-8")) == (5, True)
    assert first.data["x=2"]["square"] == 4.1
    make(fresh=True)
    assert runs() == [1, 2, 3, 4, 5]
    make(size="quick")  # has a record of its own
    make()
    assert runs() == [1, 2, 3, 4, 5]


def test_a_record_of_other_settings_is_kept(squares, tmp_path, monkeypatch):
    """Hours of work must not be lost to another seed, or to another version."""
    make, runs = squares
    make()
    record = (tmp_path / "out" / "A1.jsonl").read_bytes()
    assert runs() == [1, 2, 3, 4, 5]
    for other in ({"seed": 1}, {"mode": "other"}):
        with pytest.raises(ValueError, match=r"A1\.jsonl' is the record .* pass fresh=True to compute .* elsewhere"):
            make(**other)
    with monkeypatch.context() as patch:
        patch.setattr(_make, "versions", lambda: {"hdsgd": "0.0.1"})
        with pytest.raises(ValueError, match="of other settings or of another version"):
            make()
    assert runs() == []
    assert (tmp_path / "out" / "A1.jsonl").read_bytes() == record
    make(seed=1, fresh=True)
    assert runs() == [1, 2, 3, 4, 5]
    make(seed=1)
    assert runs() == []


def test_a_failed_job_is_named_and_the_others_are_kept(squares, tmp_path):
    make, runs = squares
    with pytest.raises(
        RuntimeError, match="1 of the 5 jobs of A1 failed, first 'x=3' with: ValueError: three is refused"
    ):
        make("raise")
    assert runs() == [1, 2, 3, 4, 5]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["A1.jsonl"]
    make("raise")
    assert runs() == [3]


def test_a_worker_that_dies_loses_nothing(squares):
    make, runs = squares
    result = make("kill", workers=1)
    assert len(result.data) == 5
    traces = runs()
    assert traces.count(1) == 1  # finished before
    assert set(traces) == {1, 2, 3, 4, 5}
    assert traces.count(3) == 2


KILLED = """
import sys
from figure_points import build
import hdsgd
from hdsgd._figures import _make
_make.find = lambda name: (name, build("kill"))
hdsgd.figure("A1", size="quick", out=sys.argv[1], workers=0)
"""


def test_a_run_that_is_killed_goes_on(squares, tmp_path):
    make, runs = squares
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(tmp_path / "out")]
    ended = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert ended.returncode < 0, ended.stderr
    assert runs() == [1, 2, 3]
    make("kill", size="quick")
    assert runs() == [3, 4, 5]


def test_an_executor_of_ones_own(squares):
    make, runs = squares
    with ThreadPoolExecutor(2) as pool:
        make(executor=pool)
    assert runs() == [1, 2, 3, 4, 5]


def test_without_matplotlib_and_xarray_there_are_numbers(squares, monkeypatch, capsys):
    make, _ = squares
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert [path.name for path in make().paths] == ["A1.npz", "A1.md"]
    assert main(["figure", "A1", "--json", "--out", os.environ[FOLDER], "--workers", "0"]) == 0
    assert "pip install 'hdsgd[plot]'" in capsys.readouterr().err


def test_verdicts():
    assert Claim(what="a", ours=1.0).verdict == "reported"
    assert Claim(what="a", ours=1.0, paper=1.2, within=0.3).verdict == "agrees"
    assert Claim(what="a", ours=1.0, paper=1.0, expected=1.4, within=0.3).verdict == "differs"
    assert Claim(what="a", ours=np.nan, expected=1.4, within=9.0).verdict == "differs"
    assert (
        Claim(what="a", ours=1.0, paper=2.0, expected=1.1, within=0.3, wrong=True, note="x").verdict == "paper is wrong"
    )
    assert Claim(what="a", ours=2.0, paper=2.0, expected=1.1, within=0.3, wrong=True, note="x").verdict == "differs"
    with pytest.raises(ValueError, match="nothing to compare with"):
        Claim(what="a", ours=1.0, paper="1–2", within=0.3)
    with pytest.raises(ValueError, match="give both values and a note"):
        Claim(what="a", ours=1.0, expected=1.0, within=0.3, wrong=True)
    assert _report.summary([]) == "no claims"


@pytest.mark.parametrize(
    ("paper", "ours", "error", "off"),
    [
        ("0.80–0.89", 0.85, None, False),
        ("0.80–0.89", 0.92, None, True),
        ("0.80–0.89", 0.91, 0.01, False),  # within its error
        ("1.14 ± 0.03", 1.2, None, False),
        ("1.14 ± 0.03", 1.3, None, True),
        (3e-6, 2.92e-6, None, False),  # rounded
        (3e-6, 3.6e-6, None, True),
        (7e-8, 2e-7, None, True),
        ("about one", 7.0, None, False),
    ],
)
def test_agreement_with_what_is_expected_but_not_with_the_paper(paper, ours, error, off):
    claim = Claim(what="a", ours=ours, error=error, expected=ours, paper=paper, within=1e-9)
    assert claim.off_paper is off
    assert ("agrees (differs from the paper)" in _report.table([claim])) is off
    assert not Claim(what="a", ours=ours, expected=ours + 1.0, paper=paper, within=1e-9).off_paper  # differs anyway


def test_seeds_differ_and_do_not_depend_on_how_many_there_are():
    assert len(set(seeds(0, 100) + seeds(1, 100))) == 200
    assert seeds(3, 5) == seeds(3, 9)[:5]


def test_bad_arguments(squares, tmp_path):
    make, _ = squares
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="size must be"):
        make(size="huge")
    with pytest.raises(ValueError, match="format must be"):
        make(format="gif")
    with pytest.raises(ValueError, match="cannot be made"):
        make(out=tmp_path / "file" / "deeper")
    with pytest.raises(ValueError, match="seed must be at least 0"):
        make(seed=-1)
    with pytest.raises(ValueError, match="different names"):
        make(names="same")
    with pytest.raises(ValueError, match="different names"):
        make(names="a/b")
    with pytest.raises(TypeError, match="not JSON serializable"):
        Job("a", build, {"x": {1}}).point()


def test_an_unknown_name_is_refused_with_the_list():
    for name in ("Z9", "", 3):
        with pytest.raises(ValueError, match=r"there is no figure .*; choose from A1, "):
            hdsgd.figure(name)


def test_figures_are_imported_when_they_are_made():
    code = (
        "import sys, hdsgd.cli\n"
        "hdsgd.figure\n"
        "from hdsgd._figures._names import FIGURES\n"
        "modules = {entry.partition(':')[0] for entry in FIGURES.values()}\n"
        "assert not [name for name in sys.modules if name.rpartition('.')[2] in modules or name == 'matplotlib']\n"
    )
    subprocess.run([sys.executable, "-W", "ignore::UserWarning", "-c", code], check=True)


def test_the_command(tmp_path, capsys):
    assert main(["figure", "--list", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["figures"]) == list(FIGURES)
    assert main(["figure", "--list"]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("A1 ")
    assert main(["figure"]) == 2
    assert "pass --all" in capsys.readouterr().err
    assert main(["figure", "A1", "--all"]) == 2
    assert main(["figure", "Q7"]) == 2
    assert "choose from A1" in capsys.readouterr().err
    assert main(["figure", "A1", "--format", "gif"]) == 2
    (tmp_path / "A1-quick.jsonl").write_text("{}\n")
    assert main(["figure", "A1", "--quick", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err.endswith("another version; add --fresh, or give another --out.\n")


def test_the_command_goes_on_after_a_failure(squares, tmp_path, capsys, monkeypatch):
    make, _ = squares
    with pytest.raises(RuntimeError):
        make("raise", size="quick", out=tmp_path)  # from now on it succeeds
    (tmp_path / "marker").unlink()
    arguments = ["figure", "A3", "a1", "A3", "--quick", "--out", str(tmp_path), "--workers", "0", "--json"]
    assert main(arguments) == 1
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert list(document["failures"]) == ["A3"]
    assert captured.err.startswith("hdsgd: error: 1 of the 5 jobs of A3 failed")
    assert [found["name"] for found in document["figures"]] == ["A1"]
    assert document["figures"][0]["claims"][1]["verdict"] == "differs"
    assert main(arguments[:-1]) == 0
    shown = capsys.readouterr().out
    assert "2 of 2 figures made; 2 claims differ" in shown
    assert "three squared" in shown
