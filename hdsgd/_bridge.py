"""The only way from the runtime to the derivations; SymPy is imported inside the functions that derive."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from ._compiler import private_folder


@cache
def builtins() -> dict[str, str]:
    """Return the formulas of the built-in activations by name."""
    from .derivations.activations import BUILTINS

    return {name: normalise(entry.formula) for name, entry in BUILTINS.items()}


@cache
def normalise(formula: str) -> str:
    """Return a formula in canonical spelling; raises ValueError with the remedy if it is none."""
    from .derivations.parse import normalise as checked

    return checked(formula)


def generated_dir() -> Path:
    """Return the folder of the checked-in kernels of the built-in activations."""
    from . import generated

    return Path(generated.__path__[0])


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
        os.replace(building, folder)
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
    from . import derivations

    root = Path(derivations.__path__[0])
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.digest()


def _key(student: str, teacher: str) -> str:
    return hashlib.sha256(_version() + f"{student}\n{teacher}".encode()).hexdigest()[:32]
