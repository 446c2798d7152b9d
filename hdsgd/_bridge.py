"""The only way from the runtime to the derivations; SymPy is imported inside the functions that derive."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import cache, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from ._compiler import cache_dir, private_folder

P = ParamSpec("P")
R = TypeVar("R")


def _plain(function: Callable[P, R]) -> Callable[P, R]:
    """The function with the derivations' own exceptions as what users can name: ValueError."""

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except ValueError as error:
            if type(error).__module__.startswith(f"{__package__}.derivations"):
                raise ValueError(str(error)) from None
            raise

    return wrapped


@cache
def builtins() -> dict[str, str]:
    """Return the formulas of the built-in activations by name, in canonical spelling."""
    from .derivations.activations import BUILTINS

    return {name: entry.formula for name, entry in BUILTINS.items()}


@cache
@_plain
def normalise(formula: str) -> str:
    """Return a formula in canonical spelling; raises ValueError with the remedy if it is none."""
    if formula in builtins().values():
        return formula
    from .derivations.parse import normalise as checked

    return str(checked(formula))


@_plain
def check_student(formula: str) -> None:
    """Refuse a formula that cannot be a student's, where that is known without derivation; raises ValueError."""
    from .derivations.activations import refusal

    reason = refusal(formula)
    if reason is not None:
        raise ValueError(reason)


def spell(expression: Any) -> str:
    """Return the formula of a SymPy expression; raises ValueError if it is none."""
    from .derivations.spell import spell as spelled

    return str(spelled(expression))


def generated_dir() -> Path:
    """Return the folder of the checked-in kernels of the built-in activations."""
    return _package("generated")


def _package(name: str) -> Path:
    return Path(importlib.import_module(f"{__package__}.{name}").__path__[0])


@_plain
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
        write(building, rendered.files)
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


@_plain
def generate(
    student: str,
    teacher: str,
    *,
    out: Path | None = None,
    stem: str = "",
    common: str = "",
    certify: bool = False,
    progress: Callable[[float], None] | None = None,
) -> tuple[Any, Any, Path]:
    """Derive and verify a pair and write its files to the user cache, and for use elsewhere to ``out``.

    Returns what was rendered, what `certify` found (or None), and the folder.
    """
    from .derivations import generate as derivation

    first = 0.2 if certify else 1.0  # of the time, roughly
    rendered = derivation.render(student, teacher, progress=_part(progress, 0.0, first))
    certification = None
    if certify:
        from .derivations.certify import certify as certified

        functions = derivation.functions(rendered.files["kernel.py"])
        certification = certified(student, teacher, functions, progress=_part(progress, first, 1.0))
    folder = _kernels() / _key(student, teacher)
    store(folder, rendered)
    if out is not None:
        folder = out
        _place(out, derivation.standalone(rendered, stem, common))
    return rendered, certification, folder


def _part(progress: Callable[[float], None] | None, start: float, end: float) -> Callable[[float], None] | None:
    """The report of a part of the work, given that of the whole."""
    return None if progress is None else lambda fraction: progress(start + fraction * (end - start))


def _place(folder: Path, files: Mapping[str, str]) -> None:
    """Write files into a folder of the user's, each of them whole or not at all."""
    from .derivations.generate import write

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=folder) as building:
            write(Path(building), files)
            for name in files:
                (Path(building) / name).replace(folder / name)
    except OSError as error:
        raise ValueError(f"the folder {str(folder)!r} cannot be written ({error.strerror}); choose another.") from None


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
            derivation.write(root / name, rendered.files)
            found.append(f"{root / name}")
    if check:
        extra = {entry.name for entry in root.iterdir() if entry.is_dir() and entry.name != "__pycache__"} - set(
            builtins()
        )
        found += [f"{name}: no such built-in activation" for name in sorted(extra)]
    return found


@cache
@_plain
def expectation(name: str, formulas: tuple[str, ...]) -> Callable[..., Any]:
    """Derive and verify one expectation with different activations in its factors; return a numpy function of C."""
    from .derivations.atoms import from_formula
    from .derivations.kernels import derive
    from .derivations.verify import check

    per_slot = (formulas[0], formulas[0], formulas[1]) if name == "I3" else formulas
    program = derive(name, tuple(from_formula(formula) for formula in per_slot))
    check(program, per_slot)
    return program.compile("numpy")  # type: ignore[no-any-return]


@_plain
def document(student: str, teacher: str, style: str) -> str:
    """Return the derived formulas of a pair as text, Markdown or LaTeX."""
    from .derivations.document import document as written

    return str(written(student, teacher, style))


def latex(formula: str) -> str:
    """Return the LaTeX of a formula."""
    from .derivations.document import formula_tex

    return str(formula_tex(formula))


def _names() -> Path:
    return private_folder("names")


def saved_names() -> dict[str, str]:
    """Return the formulas that the user saved by name."""
    found = ((path.stem, saved_formula(path.stem)) for path in sorted(_names().glob("*.json")))
    return {name: formula for name, formula in found if formula is not None}


def saved_formula(name: str) -> str | None:
    """Return the formula that the user saved by a name, or None if there is none that can be read."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return normalise(json.loads((_names() / f"{name}.json").read_text(encoding="utf-8"))["formula"])
    return None


def check_name(name: str, formula: str) -> None:
    """Refuse a name that stands for something else, or could not be kept; raises ValueError."""
    known = builtins().get(name) or saved_formula(name)
    if known not in (None, formula):
        raise ValueError(f"the name {name!r} already stands for {known}: choose another name")
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
    try:
        building.write_text(json.dumps({"formula": formula}) + "\n", encoding="utf-8")
        building.replace(folder / f"{name}.json")
    finally:
        building.unlink(missing_ok=True)
