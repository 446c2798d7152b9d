"""The only way from the runtime to the derivations; SymPy is imported inside the functions that derive."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from ._compiler import cache_dir, private_folder


@cache
def builtins() -> dict[str, str]:
    """Return the formulas of the built-in activations by name."""
    from .derivations.activations import BUILTINS

    return {name: normalise(entry.formula) for name, entry in BUILTINS.items()}


@cache
def normalise(formula: str) -> str:
    """Return a formula in canonical spelling; raises ValueError with the remedy if it is none."""
    from .derivations.parse import normalise as checked

    return str(checked(formula))


def generated_dir() -> Path:
    """Return the folder of the checked-in kernels of the built-in activations."""
    return _package("generated")


def _package(name: str) -> Path:
    return Path(importlib.import_module(f"{__package__}.{name}").__path__[0])


def kernel_folder(student: str, teacher: str) -> Path:
    """Return the folder with the generated files of one pair of formulas, deriving them on first use.

    Raises
    ------
    ValueError
        If an expectation of the pair has no closed form; the message gives the reason.
    """
    if student == teacher:
        for name, formula in builtins().items():
            folder = generated_dir() / name
            if formula == student and (folder / "manifest.json").is_file():
                return folder
    folder = _kernels() / _key(student, teacher)
    if not (folder / "manifest.json").is_file():
        from .derivations.generate import render

        store(folder, render(student, teacher))
    return folder


def store(folder: Path, rendered: Any) -> None:
    """Write rendered files so that other processes see either all of them or none."""
    from .derivations.generate import write

    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
    try:
        write(building, rendered)
        building.replace(folder)
    except OSError:
        if not (folder / "manifest.json").is_file():  # otherwise another process was first
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _kernels() -> Path:
    return private_folder("kernels")


@cache
def _version() -> bytes:
    """Return a hash of the derivations themselves: a changed rule must not meet an old kernel."""
    root = _package("derivations")
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.digest()


def _key(student: str, teacher: str) -> str:
    return hashlib.sha256(_version() + f"{student}\n{teacher}".encode()).hexdigest()[:32]


def generate(student: str, teacher: str, out: Path | None) -> tuple[Any, Path]:
    """Derive and verify a pair and write its files to ``out`` or the user cache; return them and the folder."""
    from .derivations.generate import render, write

    rendered = render(student, teacher)
    if out is not None:
        write(out, rendered)
        return rendered, out
    folder = _kernels() / _key(student, teacher)
    store(folder, rendered)
    return rendered, folder


def generate_builtins(*, check: bool, progress: Callable[[float], None] | None = None) -> list[str]:
    """Rewrite the checked-in kernels, or with ``check`` only return what differs from a fresh derivation."""
    from .derivations import generate as derivation

    root = generated_dir()
    found: list[str] = []
    for done, (name, rendered) in enumerate(derivation.builtins(), start=1):
        if progress is not None:
            progress(done / len(builtins()))
        if check:
            found += derivation.drift(root / name, rendered)
        else:
            derivation.write(root / name, rendered)
            found.append(f"{root / name}")
    if check:
        extra = {entry.name for entry in root.iterdir() if entry.is_dir() and entry.name != "__pycache__"} - set(
            builtins()
        )
        found += [f"{name}: no such built-in activation" for name in sorted(extra)]
    return found


@cache
def expectation(name: str, formulas: tuple[str, ...]) -> Callable[..., Any]:
    """Derive and verify one expectation with different activations in its factors; return a numpy function of C."""
    from .derivations.atoms import from_formula
    from .derivations.kernels import derive
    from .derivations.verify import check

    per_slot = (formulas[0], formulas[0], formulas[1]) if name == "I3" else formulas
    program = derive(name, tuple(from_formula(formula) for formula in per_slot))
    check(program, per_slot)
    return program.compile("numpy")  # type: ignore[no-any-return]


def document(student: str, teacher: str, style: str) -> str:
    """Return the derived formulas of a pair as text, Markdown or LaTeX."""
    from .derivations.document import document as written

    return str(written(student, teacher, style))


def _names() -> Path:
    return private_folder("names")


def saved_names() -> dict[str, str]:
    """Return the formulas that the user saved by name."""
    found = {}
    for path in sorted(_names().glob("*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError):
            found[path.stem] = normalise(json.loads(path.read_text(encoding="utf-8"))["formula"])
    return found


def check_name(name: str, formula: str) -> None:
    """Refuse a name that stands for something else, or could not be kept; raises ValueError."""
    for known in (builtins(), saved_names()):
        if known.get(name, formula) != formula:
            raise ValueError(f"the name {name!r} already stands for {known[name]}: choose another name")
    from .derivations.parse import is_word

    if not name or is_word(name):
        raise ValueError(f"{name!r} cannot name an activation: choose another word than x, pi and the functions' names")
    if _names() != cache_dir() / "names":
        raise ValueError(f"the cache {str(cache_dir())!r} cannot be written, so no name is kept: set HDSGD_CACHE_DIR")


def save_name(name: str, formula: str) -> None:
    """Remember a formula by name in the user cache."""
    folder = _names()
    folder.mkdir(parents=True, exist_ok=True)
    building = folder / f".{name}-{os.getpid()}"
    building.write_text(json.dumps({"formula": formula}) + "\n", encoding="utf-8")
    building.replace(folder / f"{name}.json")
