"""Compiling, caching and loading C at run time."""

import os
import stat
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import hdsgd
from hdsgd import _compiler
from hdsgd._compiler import CompilerError

SOURCE = "double hdsgd_answer(double x) { return 2.0 * x; }\n"


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """An empty cache, and nothing remembered by this process."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("HDSGD_CACHE_DIR", str(folder))
    monkeypatch.setattr(_compiler, "_loaded", {})
    monkeypatch.setattr(_compiler, "_temporary", {})
    return folder


def answer(library):
    import ctypes

    library.hdsgd_answer.restype = ctypes.c_double
    library.hdsgd_answer.argtypes = (ctypes.c_double,)
    return library.hdsgd_answer(21.0)


def objects(folder):
    return sorted(path.name for path in (folder / "objects").iterdir())


def forget(monkeypatch):
    monkeypatch.setattr(_compiler, "_loaded", {})


def no_compiler_calls(monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("a compiler was called")

    monkeypatch.setattr(_compiler.subprocess, "run", refuse)


@pytest.mark.needs_cc
def test_a_source_is_built_once_and_then_loaded_without_a_compiler(fresh, monkeypatch):
    library = _compiler.load(SOURCE)
    assert answer(library) == 42.0
    assert _compiler.load(SOURCE) is library
    first = objects(fresh)
    assert len(first) == 2  # the source and the self-test of the flag set
    assert all(name.endswith(".so") for name in first)
    forget(monkeypatch)
    no_compiler_calls(monkeypatch)
    assert answer(_compiler.load(SOURCE)) == 42.0
    assert objects(fresh) == first


@pytest.mark.needs_cc
def test_folders_are_private(fresh):
    _compiler.load(SOURCE)
    assert stat.S_IMODE(fresh.stat().st_mode) == 0o700
    assert stat.S_IMODE((fresh / "objects").stat().st_mode) == 0o700


@pytest.mark.needs_cc
def test_a_folder_open_to_others_is_closed_and_that_of_another_user_is_not_used(fresh, monkeypatch):
    (fresh / "objects").mkdir(parents=True)
    (fresh / "objects").chmod(0o777)
    _compiler.load(SOURCE)
    assert stat.S_IMODE((fresh / "objects").stat().st_mode) == 0o700
    forget(monkeypatch)
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    before = objects(fresh)
    source = SOURCE + "/* another */\n"
    with pytest.warns(hdsgd.BackendWarning, match="cannot be written"):
        assert answer(_compiler.load(source)) == 42.0
    assert objects(fresh) == before
    (temporary,) = _compiler._temporary.values()
    assert list(temporary.glob("*.so"))
    assert not _compiler.describe()["writable"]


@pytest.mark.needs_cc
def test_a_cache_that_cannot_be_made_is_replaced(fresh, monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("HDSGD_CACHE_DIR", str(blocked))
    with pytest.warns(hdsgd.BackendWarning, match="set HDSGD_CACHE_DIR to a folder of yours"):
        assert answer(_compiler.load(SOURCE)) == 42.0
    _compiler.private_folder("kernels")  # not once more for the kernels: a warning would be an error here
    assert blocked.read_text() == "not a folder"


@pytest.mark.needs_cc
def test_a_cache_that_cannot_be_run_from_is_replaced(fresh, monkeypatch):
    honest = _compiler._open

    def noexec(path):
        if fresh in path.parents:
            raise _compiler._BuildError("failed to map segment from shared object")
        return honest(path)

    monkeypatch.setattr(_compiler, "_open", noexec)
    assert answer(_compiler.load(SOURCE)) == 42.0


@pytest.mark.needs_cc
def test_a_damaged_object_is_built_again(fresh, monkeypatch):
    _compiler.load(SOURCE)
    sources = objects(fresh)
    for name in sources:
        path = fresh / "objects" / name
        content = path.read_bytes()
        path.unlink()  # never written in place: this process has it mapped
        path.write_bytes(content[: len(content) // 3])
    forget(monkeypatch)
    assert answer(_compiler.load(SOURCE)) == 42.0
    assert objects(fresh) == sources


@pytest.mark.needs_cc
def test_bad_source_is_refused_with_what_the_compiler_said(fresh):
    with pytest.raises(CompilerError, match=r"error: .*HDSGD_CC"):
        _compiler.load("double hdsgd_answer(double x) { return 2.0 * nonsense; }\n")
    assert not list((fresh / "objects").glob(".build-*"))


def test_no_compiler(fresh, monkeypatch):
    monkeypatch.setenv("HDSGD_CC", "/nonexistent")
    with pytest.raises(CompilerError, match="'/nonexistent' is not an executable: name a C compiler there or unset it"):
        _compiler.load(SOURCE)
    report = _compiler.describe()
    assert report["compiler"] is None
    assert "/nonexistent" in report["error"]
    monkeypatch.delenv("HDSGD_CC")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(CompilerError, match=r"no C compiler .* install one or name it in HDSGD_CC"):
        _compiler.load(SOURCE)


@pytest.mark.parametrize("script", ["exit 1", "kill -9 $$", "echo no >&2; exit 127", "exit 0"])
def test_a_broken_compiler(fresh, monkeypatch, tmp_path, script):
    fake = tmp_path / "cc"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("HDSGD_CC", str(fake))
    with pytest.raises(CompilerError, match="name another compiler in HDSGD_CC or use backend='numpy'"):
        _compiler.load(SOURCE)
    assert not list(fresh.glob("objects/.build-*"))
    assert not list(fresh.glob("objects/*.so"))
    assert not list(fresh.glob("objects/*.failed"))  # it may be repaired at any moment


def wrapper(tmp_path, body):
    """A compiler that looks at its arguments before it calls the real one."""
    real = _compiler._toolchain().command[0]
    path = tmp_path / "wrapped cc"
    path.write_text(f'#!/bin/sh\ncase "$*" in {body} esac\nexec {real} "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.mark.needs_cc
@pytest.mark.parametrize(
    ("body", "expected"),
    [("*-lmvec*) exit 1;;", "native"), ("*-march=native*) exit 1;;", "plain")],
)
def test_flag_sets_are_tried_in_order(fresh, monkeypatch, tmp_path, body, expected):
    monkeypatch.setenv("HDSGD_CC", wrapper(tmp_path, body))
    assert answer(_compiler.load(SOURCE)) == 42.0
    assert _compiler.describe()["flag_set"] == expected
    assert list((fresh / "objects").glob("*.failed"))  # ... and those that failed are remembered
    forget(monkeypatch)
    no_compiler_calls(monkeypatch)
    assert answer(_compiler.load(SOURCE)) == 42.0


@pytest.mark.needs_cc
def test_the_self_test_refuses_wrong_arithmetic(fresh, monkeypatch, tmp_path):
    # a compiler whose fast flags break the probe: it stands for a broken vector library
    real = _compiler._toolchain().command[0]
    path = tmp_path / "cc"
    path.write_text(f'#!/bin/sh\ncase "$*" in *-O3*) exec {real} -Derf=erfc "$@";; esac\nexec {real} "$@"\n')
    path.chmod(0o755)
    monkeypatch.setenv("HDSGD_CC", str(path))
    assert _compiler.describe()["flag_set"] == "plain"


@pytest.mark.needs_cc
def test_the_compiler_may_have_arguments_and_is_part_of_the_key(fresh, monkeypatch):
    real = _compiler._toolchain().command[0]
    _compiler.load(SOURCE)
    before = objects(fresh)
    monkeypatch.setenv("HDSGD_CC", f"{real} -DHDSGD_ANOTHER")
    assert answer(_compiler.load(SOURCE)) == 42.0
    assert len(objects(fresh)) == 2 * len(before)


@pytest.mark.needs_cc
def test_nothing_of_the_environment_reaches_a_shell(fresh, monkeypatch, tmp_path):
    monkeypatch.setenv("HDSGD_CC", f"cc; touch {tmp_path / 'oops'}")
    with pytest.raises(CompilerError):
        _compiler.load(SOURCE)
    assert not (tmp_path / "oops").exists()


@pytest.mark.needs_cc
def test_many_processes_and_threads_at_once(fresh):
    program = textwrap.dedent(
        f"""
        import ctypes
        from hdsgd import _compiler
        library = _compiler.load({SOURCE!r})
        library.hdsgd_answer.restype = ctypes.c_double
        library.hdsgd_answer.argtypes = (ctypes.c_double,)
        assert library.hdsgd_answer(21.0) == 42.0
        """
    )
    crowd = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(6)]
    with ThreadPoolExecutor(4) as pool:
        assert [answer(library) for library in pool.map(_compiler.load, [SOURCE] * 8)] == [42.0] * 8
    assert [process.wait(timeout=60) for process in crowd] == [0] * 6
    assert len(objects(fresh)) == 2
    assert not list((fresh / "objects").glob(".build-*"))


@pytest.mark.needs_cc
def test_describe_and_clear(fresh):
    _compiler.load(SOURCE)
    report = _compiler.describe()
    assert report["error"] is None
    assert report["writable"]
    assert report["objects"] == 2
    assert report["bytes"] > 1000
    assert report["cache"] == str(fresh)
    assert report["version"]
    assert _compiler.clear_cache() == 2
    assert _compiler.describe()["objects"] == 0
    assert answer(_compiler.load(SOURCE)) == 42.0  # what is loaded stays


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HDSGD_CACHE_DIR", str(tmp_path / "here"))
    assert _compiler.cache_dir() == tmp_path / "here"
    monkeypatch.delenv("HDSGD_CACHE_DIR")
    if sys.platform == "linux":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert _compiler.cache_dir() == tmp_path / "xdg" / "hdsgd"
        monkeypatch.delenv("XDG_CACHE_HOME")
        assert _compiler.cache_dir() == Path.home() / ".cache" / "hdsgd"
    assert not (tmp_path / "here").exists()  # asking makes nothing


@pytest.mark.needs_cc
def test_a_huge_source_is_compiled_at_a_lower_level(fresh, monkeypatch):
    commands, run = [], _compiler._run
    monkeypatch.setattr(_compiler, "_run", lambda command, folder: commands.append(command) or run(command, folder))
    assert answer(_compiler.load(SOURCE)) == 42.0
    assert not any("-O1" in command for command in commands)
    padding = "/*" + "." * _compiler._HUGE + "*/"
    assert answer(_compiler.load(SOURCE + padding)) == 42.0
    levels = [flag for flag in commands[-1] if flag.startswith("-O")]
    assert levels[-1] == "-O1"  # the last one counts
