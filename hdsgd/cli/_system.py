"""``hdsgd doctor`` and ``hdsgd cache``: what this machine can do, and what hdsgd keeps on it."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import platform
import shutil
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .. import Dynamics, Overlaps, Problem, _bridge, _compiler, simulate, solve_ode
from .. import __version__ as own_version
from .._simulate_c import threads
from ._remedies import translated
from ._shell import Commands, command, emit, lines, size

__all__ = ["add"]

_DOCTOR = """\
Examine this installation: versions, C compiler and the flags in use, its self-test,
the cache folder, whether the C and numpy backends agree on a small case, and which
extras are installed. Nothing here depends on the time t = nu*gamma/(p*d).
"""

_CACHE = """\
Show or clear what hdsgd keeps between runs (HDSGD_CACHE_DIR, or the platform's cache
folder): compiled objects, derived kernels (both are made again when needed) and
activations saved by name. Kernels are of the derivations that made them: those of
another version of hdsgd are stale, and prune removes only them. Nothing here depends
on the time t = nu*gamma/(p*d).
"""

_CORE = ("numpy", "scipy", "sympy", "mpmath", "tqdm")
_EXTRAS = {"plot": ("matplotlib",), "data": ("xarray", "h5netcdf", "h5py")}
_AGREE = 1e-12  # relative to the largest entry: the two backends sum in different orders
# Subfolders of the cache; what a process is still writing to has a name with this beginning.
_OBJECTS, _KERNELS, _NAMES = "objects", "kernels", "names"
_UNFINISHED = ".building-"
_MANIFEST = "manifest.json"
_THREADS = "HDSGD_THREADS"


def add(commands: Commands) -> None:
    """Add both commands."""
    command(
        commands,
        "doctor",
        _doctor,
        summary="examine this installation: versions, compiler, cache, agreement of the backends",
        description=_DOCTOR,
        examples=["hdsgd doctor"],
        notes="exit code: 0 when everything works on at least the numpy backend, otherwise 1.\n",
    )
    parser = command(
        commands,
        "cache",
        _cache,
        summary="show or clear compiled objects, derived kernels and saved names",
        description=_CACHE,
        examples=["hdsgd cache", "hdsgd cache prune", "hdsgd cache clear"],
    )
    parser.add_argument(
        "action", nargs="?", choices=tuple(_ACTIONS), default="show", help="what to do (default: %(default)s)"
    )
    parser.add_argument(
        "--names", action="store_true", help="with clear: forget the saved names, too (default: they are kept)"
    )


def _doctor(args: argparse.Namespace) -> int:
    packages = {name: _version(name) for name in _CORE}
    extras = {extra: {name: _version(name) for name in names} for extra, names in _EXTRAS.items()}
    compiler = _compiler.describe()
    used, threads_error = _threads()
    numpy_error = _attempt(_numpy_works)
    agreement, c_error = None, compiler["error"]
    if numpy_error is None and c_error is None and threads_error is None:
        try:
            agreement = _largest_difference()
        except Exception as error:  # whatever it is, it is what the doctor is asked for
            c_error = f"{type(error).__name__}: {error}"
    agrees = agreement is None or agreement <= _AGREE
    problems = [f"{name} cannot be imported" for name, version in packages.items() if version is None]
    problems += [threads_error] if threads_error is not None else []
    problems += [f"the numpy backend fails: {numpy_error}"] if numpy_error is not None else []
    problems += [] if agrees else [f"C and numpy differ by {agreement:.1e}: do not trust results, set HDSGD_CC"]
    if problems:
        verdict = "; ".join(problems)
    elif c_error is not None:
        verdict = "everything works on the numpy backend; a working C compiler makes it faster"
    else:
        verdict = "everything works, with compiled kernels"
    document = {
        "command": "doctor",
        "ok": not problems,
        "verdict": verdict,
        "hdsgd": own_version,
        "folder": Path(__file__).parent.parent,
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "packages": packages,
        "extras": extras,
        "compiler": compiler,
        "threads": used,
        "threads_error": threads_error,
        "numpy_error": numpy_error,
        "c_error": c_error,
        "difference": agreement,
    }
    emit(args, document, lines(_report(document)))
    return 1 if problems else 0


def _report(found: dict[str, Any]) -> list[tuple[str, str]]:
    compiler = found["compiler"]
    rows = [
        ("hdsgd", f"{found['hdsgd']} in {found['folder']}"),
        ("python", f"{found['python']} ({found['executable']}) on {found['platform']}"),
        *((name, version or "MISSING") for name, version in found["packages"].items()),
    ]
    for extra, names in found["extras"].items():
        have = ", ".join(f"{name} {version or 'missing'}" for name, version in names.items())
        hint = "" if all(names.values()) else f" (pip install 'hdsgd[{extra}]')"
        rows.append((f"extra {extra}", have + hint))
    if compiler["compiler"] is None:
        rows.append(("compiler", f"none: {translated(compiler['error'])}"))
    else:
        rows.append(("compiler", f"{compiler['compiler']}: {compiler['version']}"))
        rows.append(("flags", f"{compiler['flag_set']}: {compiler['flags']}" if compiler["flag_set"] else "none work"))
        rows.append(("self-test", "passed" if compiler["error"] is None else f"failed: {compiler['error']}"))
    where = "writable" if compiler["writable"] else "NOT writable: kernels are compiled anew in every process"
    rows.append(("cache", f"{compiler['cache']}, {where}, {compiler['objects']} objects, {size(compiler['bytes'])}"))
    asked = "" if found["threads"] is None or not os.environ.get(_THREADS, "").strip() else f" ({_THREADS})"
    rows.append(("threads", f"{found['threads']}{asked}" if found["threads"] is not None else found["threads_error"]))
    rows.append(("numpy backend", "works" if found["numpy_error"] is None else f"fails: {found['numpy_error']}"))
    if found["difference"] is None:
        reason = "" if found["c_error"] in (None, compiler["error"]) else f": {found['c_error']}"
        rows.append(("C backend", f"not in use{reason}"))
    else:
        rows.append(("C backend", f"agrees with numpy to {found['difference']:.1e} (drift, noise, risk of erf)"))
    return [*rows, ("verdict", found["verdict"])]


def _threads() -> tuple[int | None, str | None]:
    """The number of threads of a simulation, or why there is none."""
    try:
        return threads(), None
    except ValueError as error:
        return None, str(error).rstrip(".")


def _version(name: str) -> str | None:
    """Version of a package, None unless it can really be imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            module = importlib.import_module(name)
        except Exception:  # a broken installation raises anything
            return None
    return str(getattr(module, "__version__", "unknown"))


def _attempt(check: Callable[[], None]) -> str | None:
    try:
        check()
    except Exception as error:  # as above
        return f"{type(error).__name__}: {error}"
    return None


def _numpy_works() -> None:
    """Known values: the risk 2(1 - m^2) and dm/dt = m[4(1 - 6 gamma)(1 - m^2) - 2 gamma Delta] (arXiv 2305.18502)."""
    problem = Problem("quadratic", gamma=0.1, Delta=0.5, spherical=True)
    state = Overlaps([[1.0]], [[0.1]], [[1.0]])
    dyn = Dynamics(problem, backend="numpy")
    found = (float(dyn.risk(state)), float(dyn.drift(state).dM[0, 0]))
    if not np.allclose(found, (1.98, 0.1484), rtol=1e-12, atol=0.0):
        raise ArithmeticError(f"risk and drift of phase retrieval come out as {found}, not (1.98, 0.1484)")
    solved = solve_ode(problem, state, 1.0, times=[1.0], backend="numpy")
    simulated = simulate(problem, state, 0.05, d=50, rng=0, backend="numpy")
    if not (np.isfinite(solved.risk).all() and np.isfinite(simulated.risk).all()):
        raise ArithmeticError("a small run is not finite")


def _largest_difference() -> float:
    """Largest difference of the two backends, relative to the largest value, on a small case."""
    problem = Problem("erf", gamma=0.5, Delta=0.1)
    state = Overlaps.random(3, 2, 50, rng=0, spherical=False)
    one, other = (Dynamics(problem, backend) for backend in ("c", "numpy"))
    pairs = [(one.risk(state), other.risk(state)), (one.noise(state), other.noise(state))]
    pairs += list(zip(one.drift(state), other.drift(state), strict=True))
    simulate(problem, state, 0.05, d=50, rng=0, backend="c")
    differences = (np.abs(np.subtract(a, b)).max() / max(float(np.abs(b).max()), 1e-300) for a, b in pairs)
    return float(max(differences))


def _cache(args: argparse.Namespace) -> int:
    if args.names and args.action != "clear":
        raise ValueError("--names belongs to clear; write: hdsgd cache clear --names")
    return _ACTIONS[args.action](args)


def _show(args: argparse.Namespace) -> int:
    found = _contents()
    objects, kernels, names = found["objects"], found["kernels"], found["names"]
    stale = len(kernels["stale"])
    rows = [
        ("cache", f"{found['folder']}{'' if found['folder'].is_dir() else ' (not there yet)'}"),
        ("compiled objects", f"{objects['count']}, {size(objects['bytes'])}, in {objects['folder']}"),
        ("derived kernels", f"{kernels['count']}, {size(kernels['bytes'])}, in {kernels['folder']}"),
        *(("", pair) for pair in kernels["pairs"]),
        *([("", f"and {stale} stale, of another version of hdsgd (hdsgd cache prune removes them):")] if stale else []),
        *(("", f"  {pair}{f' ({n} times)' if n > 1 else ''}") for pair, n in Counter(kernels["stale"]).items()),
        ("saved names", f"{names['count']}, in {names['folder']}"),
        *(("", f"{name}: {formula}") for name, formula in names["formulas"].items()),
    ]
    emit(args, {"command": "cache", "action": "show", **found}, lines(rows))
    return 0


def _prune(args: argparse.Namespace) -> int:
    before = _contents()
    for entry in _kernels():
        if not _is_current(entry):
            shutil.rmtree(entry, ignore_errors=True)
    after = _contents()
    kernels = before["kernels"]["count"] - after["kernels"]["count"]
    freed = before["kernels"]["bytes"] - after["kernels"]["bytes"]
    left = len(after["kernels"]["stale"])
    rows = [
        ("cache", str(before["folder"])),
        ("removed", f"{kernels} stale kernels, {size(freed)}"),
        *([("left", f"{left} stale kernels: they cannot be removed, check the permissions")] if left else []),
        ("kept", f"{after['kernels']['count'] - left} current kernels, {after['objects']['count']} compiled objects"),
    ]
    document = {"command": "cache", "action": "prune", "folder": before["folder"], "removed": {"kernels": kernels}}
    emit(args, {**document, "bytes": freed}, lines(rows))
    return 1 if left else 0


def _clear(args: argparse.Namespace) -> int:
    before = _contents()
    _compiler.clear_cache()
    for entry in _entries(_compiler.cache_dir() / _KERNELS):
        if entry.name.startswith(_UNFINISHED) or (entry / _MANIFEST).is_file():
            shutil.rmtree(entry, ignore_errors=True)
    if args.names:
        for entry in _entries(_compiler.cache_dir() / _NAMES):
            if entry.suffix == ".json":
                with contextlib.suppress(OSError):
                    entry.unlink()
    after = _contents()
    kinds = {"objects": "compiled objects", "kernels": "derived kernels", "names": "saved names"}
    removed = {kind: before[kind]["count"] - after[kind]["count"] for kind in kinds}
    left = {kind: after[kind]["count"] for kind in kinds if kind != "names" or args.names}
    freed = sum(before[kind]["bytes"] - after[kind]["bytes"] for kind in kinds)
    text = ", ".join(f"{count} {kinds[kind]}" for kind, count in removed.items())
    rows = [("cache", str(before["folder"])), ("removed", f"{text}, {size(freed)}")]
    if any(left.values()):
        text = ", ".join(f"{count} {kinds[kind]}" for kind, count in left.items() if count)
        rows.append(("left", f"{text}: they cannot be removed, check the permissions"))
    elif after["names"]["count"]:
        rows.append(("kept", f"{after['names']['count']} saved names (--names forgets them, too)"))
    document = {"command": "cache", "action": "clear", "folder": before["folder"], "removed": removed, "bytes": freed}
    emit(args, document, lines(rows))
    return 1 if any(left.values()) else 0


_ACTIONS = {"show": _show, "prune": _prune, "clear": _clear}


def _contents() -> dict[str, Any]:
    """What is in the cache; nothing is made."""
    root = _compiler.cache_dir()
    folders = {name: root / name for name in (_OBJECTS, _KERNELS, _NAMES)}
    kernels = _kernels()
    current = [_is_current(entry) for entry in kernels]
    names = [entry.stem for entry in _entries(folders[_NAMES]) if entry.suffix == ".json"]
    formulas = {name: _bridge.saved_formula(name) or "unreadable" for name in names}
    return {
        "folder": root,
        "objects": {
            "folder": folders[_OBJECTS],
            "count": sum(entry.suffix == ".so" for entry in _entries(folders[_OBJECTS])),
            "bytes": _bytes(folders[_OBJECTS]),
        },
        "kernels": {
            "folder": folders[_KERNELS],
            "count": len(kernels),
            "bytes": _bytes(folders[_KERNELS]),
            "pairs": sorted(_pair(entry) for entry, is_current in zip(kernels, current, strict=True) if is_current),
            "stale": sorted(_pair(entry) for entry, is_current in zip(kernels, current, strict=True) if not is_current),
        },
        "names": {
            "folder": folders[_NAMES],
            "count": len(formulas),
            "bytes": _bytes(folders[_NAMES]),
            "formulas": formulas,
        },
    }


def _entries(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return sorted(folder.iterdir())
    return []


def _bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # another process may be at work
            total += path.stat().st_size if path.is_file() else 0
    return total


def _kernels() -> list[Path]:
    return [entry for entry in _entries(_compiler.cache_dir() / _KERNELS) if (entry / _MANIFEST).is_file()]


def _formulas(folder: Path) -> tuple[str, str] | None:
    """Student and teacher of a derived kernel."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        return str(manifest["student"]), str(manifest["teacher"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_current(folder: Path) -> bool:
    """Whether this version of hdsgd would use a derived kernel."""
    formulas = _formulas(folder)
    return formulas is not None and folder.name == _bridge._key(*formulas)


def _pair(folder: Path) -> str:
    formulas = _formulas(folder)
    if formulas is None:
        return f"{folder.name}: unreadable"
    student, teacher = formulas
    return student if student == teacher else f"{student}, teacher {teacher}"
