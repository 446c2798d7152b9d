"""The checked-in kernels are what the derivations emit, and drift is found."""

import dataclasses
import json
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import sympy

import hdsgd
from hdsgd import _bridge, _kernel
from hdsgd.derivations import generate as derivation

SAME_SYMPY = sympy.__version__ == json.loads((_bridge.generated_dir() / "erf" / "manifest.json").read_text())["sympy"]
same_sympy = pytest.mark.skipif(not SAME_SYMPY, reason="texts are compared under the SymPy that wrote them")


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of generated/ that tests may damage."""
    root = tmp_path / "generated"
    shutil.copytree(_bridge.generated_dir(), root)
    monkeypatch.setattr(_bridge, "generated_dir", lambda: root)
    return root


def test_checked_in_kernels_have_not_drifted():
    assert _bridge.generate_builtins(check=True) == []


def test_every_built_in_is_checked_in():
    folders = {path.name for path in _bridge.generated_dir().iterdir() if (path / "manifest.json").is_file()}
    assert folders == set(_bridge.builtins()) - {"sign"}  # which can only be a teacher


@same_sympy
def test_a_changed_file_is_found(copy):
    path = copy / "erf" / "noise.c"
    path.write_text(path.read_text().replace("0.4052847345693511", "0.4052847345693512"))
    assert _bridge.generate_builtins(check=True) == ["erf/noise.c differs"]


def test_a_missing_and_a_stray_folder_are_found(copy):
    shutil.rmtree(copy / "he3")
    shutil.copytree(copy / "he2", copy / "other")
    found = " ".join(_bridge.generate_builtins(check=True))
    assert "he3: kernel.py" in found
    assert "other: no such built-in" in found


def test_values_are_compared_under_another_sympy(copy):
    for name in ("erf", "quadratic"):
        manifest = json.loads((copy / name / "manifest.json").read_text())
        (copy / name / "manifest.json").write_text(json.dumps({**manifest, "sympy": "0.0"}))
    path = copy / "quadratic" / "kernel.py"
    path.write_text(path.read_text().replace("return C11*C22 + 2*C12**2", "return C11*C22 + 3*C12**2"))
    assert _bridge.generate_builtins(check=True) == ["quadratic/kernel.py: I2 changed its value"]


@same_sympy
def test_rewriting_restores_the_same_bytes(copy):
    before = {path.relative_to(copy): path.read_bytes() for path in copy.rglob("*.*") if path.is_file()}
    (copy / "linear" / "kernel.py").write_text("broken")
    _bridge.generate_builtins(check=False)
    after = {path.relative_to(copy): path.read_bytes() for path in copy.rglob("*.*") if path.is_file()}
    assert after == before


def test_text_does_not_depend_on_the_hash_seed():
    code = (
        "import sys; from hdsgd.derivations.generate import render\n"
        "from hdsgd.derivations.document import document\n"
        "for s, t in (('erf(x) + x/10', 'erf(x) + x/10'), ('erf(x/sqrt(2))', 'x**3 - 3*x')):\n"
        "    sys.stdout.write(''.join(render(s, t).files.values()) + document(s, t, 'latex'))\n"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": seed}
        )
        for seed in ("0", "1", "random")
    ]
    assert runs[0].stdout == runs[1].stdout == runs[2].stdout
    assert len(runs[0].stdout) > 10_000


def test_a_report_says_what_was_done(tmp_path, monkeypatch):
    monkeypatch.setenv("HDSGD_CACHE_DIR", str(tmp_path))
    fractions = []
    report = hdsgd.generate("erf(x/2) + x**2", progress=fractions.append)
    assert {path.name for path in report.folder.iterdir()} >= set(derivation.FILES)
    assert max(report.errors.values()) < 1e-9
    assert set(report.routes.values()) == {"closed form"}
    assert report.operations.keys() == report.errors.keys() == {"I2", "J2", "K2", "I3", "I4"}
    for shown in ("I4", "closed form", f"{report.operations['I4']}", "erf(x / 2) + x ** 2"):
        assert shown in repr(report)
    assert fractions == sorted(fractions)
    assert pickle.loads(pickle.dumps(report)) == report
    assert hash(report) == hash(dataclasses.replace(report))
    assert dataclasses.replace(report, backend="none") != report


def test_routes_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HDSGD_CACHE_DIR", str(tmp_path))
    assert hdsgd.generate("relu(x)/2").routes["I4"] == "Plackett integral"
    report = hdsgd.generate("tanh(x)/2", "x")
    assert "mixture" in report.route
    assert "mixture" in report.routes["I2_ss"]


def test_an_interrupted_derivation_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("HDSGD_CACHE_DIR", str(tmp_path / "cache"))

    def interrupt(fraction):
        if fraction > 0.7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hdsgd.generate("x**2/13", name="halfway", out=tmp_path / "out", progress=interrupt)
    assert not (tmp_path / "out").exists()
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []
    with pytest.raises(ValueError, match="unknown activation"):
        hdsgd.activation("halfway")


def test_a_name_is_known_from_then_on(tmp_path, monkeypatch):
    monkeypatch.setenv("HDSGD_CACHE_DIR", str(tmp_path))
    hdsgd.generate("erf(x) + 0.1*x", name="mine")
    problem = hdsgd.Problem("mine", gamma=0.5)
    assert problem.student.formula == hdsgd.Activation("erf(x) + 0.1*x").formula
    state = hdsgd.Overlaps.random(2, 1, 30, rng=0)
    assert np.all(np.isfinite(hdsgd.Dynamics(problem, "numpy").drift(state).dQ))
    with pytest.raises(ValueError, match="already stands for"):
        hdsgd.generate("x**2 + x", name="mine")
    with pytest.raises(ValueError, match="already stands for"):
        hdsgd.generate("x**2 + x", name="erf")


def test_nothing_is_written_for_what_does_not_close(tmp_path):
    with pytest.raises(ValueError, match="product of 6 factors") as caught:
        hdsgd.generate("erf(x)**2", out=tmp_path / "none")
    assert type(caught.value) is ValueError  # users cannot name the derivations' own
    assert not (tmp_path / "none").exists()


@pytest.mark.needs_cc
def test_rounding_of_a_steep_activation_is_no_disagreement(tmp_path, monkeypatch):
    monkeypatch.setenv("HDSGD_CACHE_DIR", str(tmp_path))
    assert hdsgd.generate("sin(200*x)").backend == "c"


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"the folder '.*file.inner' cannot be written \(.+\); choose another"):
        hdsgd.generate("linear", out=tmp_path / "file" / "inner")


@pytest.mark.needs_cc
def test_a_compiled_kernel_that_disagrees_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HDSGD_CACHE_DIR", str(tmp_path))
    report = hdsgd.generate("erf(0.9*x) + x/7")
    (report.folder / "compiled-kernel-agrees").unlink()
    path = report.folder / "pairs.h"
    before, after = path.read_text().split("double I2_ss(", 1)
    path.write_text(f"{before}double I2_ss({after.replace('return ', 'return 1.001*', 1)}")
    with pytest.raises(hdsgd.CompilerError, match="disagrees with its derivation in the risk"):
        _kernel.Kernel(report.student, report.teacher, "c").library  # noqa: B018 - not the one that was loaded
