"""What derive, generate, doctor and cache do: results, files, JSON."""

import contextlib
import json
import os
import shutil

import numpy as np
import pytest

import hdsgd
from hdsgd import _bridge, _compiler
from hdsgd.cli import main

pytestmark = pytest.mark.usefixtures("private")


@pytest.fixture
def call(capsys):
    """Run a command; return its exit code and what it printed, parsed with --json."""

    def run(*arguments, code=0):
        assert main([str(argument) for argument in arguments]) == code
        out, err = capsys.readouterr()
        assert err == ""
        return json.loads(out) if "--json" in arguments else out

    return run


# derive and generate


def test_derive(call, tmp_path):
    text = call("derive", "erf")
    assert text.startswith("Student σ(x) = erf(x / sqrt(2))")
    assert "asin" in text
    assert call("derive", "erf", "--markdown").startswith("# Student")
    assert "teacher σ*(x) = x ** 2" in call("derive", "erf", "--teacher", "quadratic")
    assert call("derive", "erf", "--latex", "--out", "erf.tex") == "written: erf.tex\n"
    assert (tmp_path / "erf.tex").read_text(encoding="utf-8").startswith(r"\documentclass")
    found = call("derive", "linear", "--markdown", "--json")
    assert (found["student"]["name"], found["style"]) == ("linear", "markdown")
    assert found["document"].startswith("# Student")


def test_generate(call, tmp_path):
    text = call("generate", "x + x**2", "--name", "bent")
    assert "verified against independent quadrature" in text
    assert "closed form" in text
    found = call("solve", "--activation", "bent", "-d", "50", "--t-max", "0.1", "--json")
    assert found["problem"]["activation"] == {"formula": "x + x ** 2", "name": "bent"}
    found = call("generate", "linear", "--teacher", "x**2", "--out", "pair", "--json")
    assert found["folder"] == "pair"
    assert found["teacher"]["formula"] == "x ** 2"
    assert {one["name"]: one["route"] for one in found["certificates"]}["I4_st"] == "closed form"
    assert max(one["error"] for one in found["certificates"]) < 1e-9
    assert found["backend"] in ("c", "numpy")
    assert {path.name for path in (tmp_path / "pair").iterdir()} == {f"hdsgd_kernel.{end}" for end in ("py", "c", "h")}


def test_derive_writes_to_what_is_no_file(call, tmp_path):
    if not os.path.exists("/dev/null"):  # noqa: PTH110
        pytest.skip("there is no /dev/null")
    assert call("derive", "linear", "--out", "/dev/null") == "written: /dev/null\n"
    assert list(tmp_path.iterdir()) == []


def test_derive_does_not_write_over_what_is_read_only(monkeypatch, capsys, tmp_path):
    (tmp_path / "a.txt").write_text("mine")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert main(["derive", "linear", "--out", "a.txt"]) == 2
    assert "--out a.txt: cannot be written (it is read-only)" in capsys.readouterr().err
    assert (tmp_path / "a.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["", " ", "x", "pi", "sqrt", "erf", "he3", "a b", "../up", "2x", "-", "né", "a" * 65])
def test_names_that_python_refuses_are_refused(name, capsys, cache):
    with pytest.raises(ValueError) as refused:
        hdsgd.generate("x + x**2/9", name=name)
    assert main(["generate", "x + x**2/9", f"--name={name}"]) == 2
    assert capsys.readouterr().err == f"hdsgd: error: {refused.value}\n"
    assert not list(cache.glob("names/*9*"))


def test_long_derivations_show_a_bar(call, monkeypatch):
    seen = []
    monkeypatch.setattr("hdsgd.cli._derive.progress", lambda label: contextlib.nullcontext(seen.append))
    call("generate", "x**2/11")
    assert seen == sorted(seen)
    assert len(seen) >= 10  # deriving and checking each expectation
    assert seen[-1] == 1.0


def test_certify(call, monkeypatch):
    text = call("generate", "x/3", "--certify")
    assert "digits" in text
    found = call("generate", "x/3", "--certify", "--json")
    assert found["certification"]["expectations"]


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the checked-in kernels in place of them, and only two built-in activations to derive."""
    from hdsgd.derivations import generate as derivation

    folder = tmp_path / "generated"
    shutil.copytree(_bridge.generated_dir(), folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(_bridge, "generated_dir", lambda: folder)
    pair = [
        (name, derivation.render(_bridge.builtins()[name], _bridge.builtins()[name], "hdsgd generate --builtin"))
        for name in ("linear", "quadratic")
    ]
    monkeypatch.setattr(derivation, "builtins", lambda: iter(pair))
    return folder


def test_check_finds_drift_and_builtin_repairs_it(call, copy):
    assert "is what the derivations give" in call("generate", "--builtin", "--check")
    kernel = copy / "quadratic" / "kernel.py"
    good = kernel.read_text(encoding="utf-8")
    kernel.write_text(good.replace("2*", "3*", 1), encoding="utf-8")
    assert kernel.read_text(encoding="utf-8") != good
    (copy / "linear" / "noise.c").unlink()
    (copy / "alien").mkdir()
    text = call("generate", "--builtin", "--check", code=1)
    assert "quadratic/kernel.py" in text
    assert "linear: noise.c missing" in text
    assert "alien: no such built-in activation" in text
    assert "3 differences" in text
    found = call("generate", "--builtin", "--check", "--json", code=1)
    assert len(found["differences"]) == 3
    (copy / "alien").rmdir()
    found = call("generate", "--builtin", "--json")
    assert found["folder"] == str(copy)
    assert kernel.read_text(encoding="utf-8") == good
    assert call("generate", "--builtin", "--check", "--json")["differences"] == []


@pytest.mark.parametrize("check", [True, False])
def test_builtin_shows_a_bar(call, copy, monkeypatch, check):
    seen = []
    monkeypatch.setattr("hdsgd.cli._derive.progress", lambda label: contextlib.nullcontext(seen.append))
    call("generate", "--builtin", *(["--check"] if check else []))
    assert seen
    assert seen == sorted(seen)
    assert all(0.0 <= fraction <= 1.0 for fraction in seen)


def test_builtin_of_an_installed_package_is_refused_in_one_sentence(copy, monkeypatch, capsys):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    assert main(["generate", "--builtin"]) == 2
    err = capsys.readouterr().err
    assert "belong to an installed package and cannot be written; run hdsgd generate --builtin in a checkout" in err
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before


# doctor and cache


def test_doctor(call):
    found = call("doctor", "--json")
    assert found["ok"] is True
    assert found["hdsgd"] == hdsgd.__version__
    assert found["packages"]["numpy"] == np.__version__
    assert found["numpy_error"] is None
    if found["c_error"] is None:
        assert 0.0 <= found["difference"] <= 1e-12
        assert found["compiler"]["flag_set"] in ("full", "native", "plain")
    text = call("doctor")
    assert text.splitlines()[-1].startswith("verdict        everything works")
    assert str(_compiler.cache_dir()) in text


@pytest.mark.skipif(os.name != "posix", reason="kernels are compiled on POSIX systems only")
def test_doctor_without_a_compiler(call, monkeypatch):
    monkeypatch.setenv("HDSGD_CC", "/nonexistent/cc")
    text = call("doctor")
    assert "compiler       none: HDSGD_CC='/nonexistent/cc' is not an executable" in text
    assert text.splitlines()[-1].startswith("verdict        everything works on the numpy backend")
    monkeypatch.setenv("HDSGD_CC", "false")
    text = call("doctor")
    assert "self-test      failed: no flag set works" in text
    assert "C backend      not in use" in text


@pytest.mark.needs_cc
def test_doctor_is_not_content_with_backends_that_differ(call, monkeypatch):
    monkeypatch.setattr("hdsgd.cli._system._largest_difference", lambda: 1e-3)
    found = call("doctor", "--json", code=1)
    assert found["ok"] is False
    assert "C and numpy differ by 1.0e-03" in found["verdict"]


def test_doctor_is_not_content_with_wrong_numbers_or_a_broken_package(call, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("hdsgd.cli._system._CORE", ("numpy", "no_such_package"))
        assert "no_such_package cannot be imported" in call("doctor", code=1)
    with monkeypatch.context() as patch:
        patch.setattr("hdsgd._kernel.Kernel.risk", lambda self, *arguments: np.ones(1))
        assert "the numpy backend fails: ArithmeticError" in call("doctor", code=1)


@pytest.mark.parametrize("value", ["abc", "0", "-1", "1.5"])
def test_doctor_names_a_number_of_threads_that_is_none(call, monkeypatch, value):
    monkeypatch.setenv("HDSGD_THREADS", value)
    text = call("doctor", code=1)
    assert f"threads        HDSGD_THREADS must be a positive integer, got '{value}'" in text
    assert text.splitlines()[-1].startswith("verdict        HDSGD_THREADS must be")
    found = call("doctor", "--json", code=1)
    assert (found["ok"], found["threads"], found["numpy_error"]) == (False, None, None)
    monkeypatch.setenv("HDSGD_THREADS", "3")
    assert "threads        3 (HDSGD_THREADS)" in call("doctor")
    monkeypatch.delenv("HDSGD_THREADS")
    assert call("doctor", "--json")["threads"] >= 1


def test_kernels_of_other_versions_are_stale(call, tmp_path, monkeypatch):
    root = tmp_path / "own"
    monkeypatch.setenv("HDSGD_CACHE_DIR", str(root))
    monkeypatch.setenv("HDSGD_CC", "/nonexistent/cc")  # nothing is compiled
    call("generate", "x**2/3 + x/7")
    call("generate", "linear", "--teacher", "x**2")
    current = {path.name for path in (root / "kernels").iterdir()}
    for i, name in enumerate(sorted(current)):
        shutil.copytree(root / "kernels" / name, root / "kernels" / f"{i:032x}")
    first = next(path for path in (root / "kernels").iterdir() if '"x ** 2 / 3' in (path / "manifest.json").read_text())
    shutil.copytree(first, root / "kernels" / "once-more")
    (root / "kernels" / "odd").mkdir()
    (root / "kernels" / "odd" / "manifest.json").write_text("[]")
    pairs = ["x ** 2 / 3 + x / 7", "x, teacher x ** 2"]
    found = call("cache", "--json")["kernels"]
    assert found["count"] == 6
    assert found["pairs"] == pairs
    assert found["stale"] == ["odd: unreadable", pairs[0], *pairs]
    lines = call("cache").splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith("derived kernels"))
    shown = [line.strip() for line in lines[begin + 1 : -1]]
    note = "and 4 stale, of another version of hdsgd (hdsgd cache prune removes them):"
    assert shown == [*pairs, note, "odd: unreadable", f"{pairs[0]} (2 times)", pairs[1]]
    text = call("cache", "prune")
    assert "removed  4 stale kernels" in text
    assert "kept     2 current kernels, 0 compiled objects" in text
    assert {path.name for path in (root / "kernels").iterdir()} == current
    assert call("cache", "prune", "--json")["removed"] == {"kernels": 0}
    assert "stale" not in call("cache")
    monkeypatch.setattr("hdsgd._bridge._version", lambda: b"the next one")
    assert len(call("cache", "--json")["kernels"]["stale"]) == 2
    monkeypatch.setattr("shutil.rmtree", lambda *arguments, **options: None)
    assert "left     2 stale kernels: they cannot be removed" in call("cache", "prune", code=1)


def test_cache(call, tmp_path, monkeypatch):
    root = tmp_path / "own"
    monkeypatch.setenv("HDSGD_CACHE_DIR", str(root))
    monkeypatch.setenv("HDSGD_CC", "/nonexistent/cc")  # nothing is compiled
    text = call("cache")
    assert text.splitlines()[0] == f"cache             {root} (not there yet)"
    assert not root.exists()
    call("generate", "x**2/3 + x/7", "--name", "mine")
    (root / "objects").mkdir(mode=0o700)
    (root / "objects" / "0123.so").write_bytes(b"x" * 1500)
    (root / "notes.txt").write_text("not ours")
    (root / "names" / "spoilt.json").write_text("{")
    found = call("cache", "show", "--json")
    assert found["objects"]["count"] == 1
    assert found["objects"]["bytes"] == 1500
    assert found["kernels"]["pairs"] == ["x ** 2 / 3 + x / 7"]
    assert found["names"]["formulas"] == {"mine": "x ** 2 / 3 + x / 7", "spoilt": "unreadable"}
    text = call("cache")
    assert "compiled objects  1, 1.5 kB" in text
    assert "mine: x ** 2 / 3 + x / 7" in text
    text = call("cache", "clear")
    assert "removed  1 compiled objects, 1 derived kernels, 0 saved names" in text
    assert "kept     2 saved names" in text
    assert (root / "notes.txt").exists()
    found = call("cache", "clear", "--names", "--json")
    assert found["removed"] == {"objects": 0, "kernels": 0, "names": 2}
    assert call("cache", "--json")["names"]["count"] == 0
    assert (root / "notes.txt").exists()


def test_a_cache_that_cannot_be_cleared_is_no_success(call, tmp_path, monkeypatch):
    monkeypatch.setenv("HDSGD_CACHE_DIR", str(tmp_path / "own"))
    call("generate", "x**2/5 + x/7")
    monkeypatch.setattr("shutil.rmtree", lambda *arguments, **options: None)
    text = call("cache", "clear", code=1)
    assert "left     1 derived kernels: they cannot be removed" in text
