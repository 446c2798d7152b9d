"""Starts read from files: the overlaps Q, M, P as JSON or .npz, or the end of a saved solution."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ._overlaps import Overlaps
from ._problem import Problem
from ._solution import load

__all__ = ["Start", "read", "read_start"]

_REQUIRED = ("Q", "M", "P")
_OPTIONAL = ("a", "a_star")
_WANTED = (
    'a start holds Q, M and P (optionally a and a_star), such as {"Q": [[1.0]], "M": [[0.1]], "P": [[1.0]]} in JSON'
)
_MARK = "hdsgd"  # the entry that only saved solutions have
MOST_BYTES = 2**30  # of JSON text: beyond it the file is surely something else


@dataclass(frozen=True)
class Start:
    """What a file says of a start.

    Attributes
    ----------
    state : Overlaps
    problem : Problem or None
        That of a saved solution, to go on with it; a schedule from its last time on.
    d : int or None
        Its input dimension, where it has one.
    """

    state: Overlaps
    problem: Problem | None = None
    d: int | None = None


def read_start(path: str | os.PathLike[str]) -> Overlaps:
    """Read the overlaps to start from.

    Parameters
    ----------
    path : str or path-like
        A .json or .npz file with Q, M and P (optionally a and a_star), shapes as in `Overlaps`; or a solution saved by
        `Solution.save` (.npz or .nc), whose last stored time is taken.

    Returns
    -------
    Overlaps

    Raises
    ------
    ValueError, TypeError
        No such file, another format, an entry that is missing or unknown, or arrays that are no overlaps. Nothing in
        the file is executed.
    """
    return read(path).state


def read(path: str | os.PathLike[str]) -> Start:
    """Read a start with the problem and dimension it came with; arguments and errors as `read_start`."""
    source = Path(path)
    if source.is_dir():
        raise ValueError(f"{str(source)!r} is a folder; pass a .json or .npz file with Q, M and P.")
    if not source.exists():
        raise ValueError(f"there is no file {str(source)!r} to start from; check the path.")
    if source.suffix not in (".json", ".npz", ".nc"):
        raise ValueError(f"a start is read from .json, .npz or .nc, got {source.name!r}; {_WANTED}.")
    try:
        if source.suffix == ".json":
            return Start(_overlaps(source, _json(source)))
        if source.suffix == ".nc":
            return _saved(source)
        arrays = _npz(source)
        return _saved(source) if arrays is None else Start(_overlaps(source, arrays))
    except OSError as error:
        raise ValueError(
            f"{str(source)!r} cannot be read ({error.strerror or error}); check its permissions."
        ) from None


def _saved(source: Path) -> Start:
    sol = load(source)
    try:
        state = sol.overlaps(-1)
    except (ValueError, IndexError) as error:
        raise type(error)(f"{str(source)!r} is no start: {error}") from None
    return Start(state, sol.problem.after(sol.t[-1]), sol.d)


def _json(source: Path) -> Mapping[str, Any]:
    if source.stat().st_size > MOST_BYTES:
        raise ValueError(f"{str(source)!r} is too large for a JSON start; save large overlaps as .npz.")
    try:
        found = json.loads(source.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise ValueError(f"{str(source)!r} is not JSON: it is no UTF-8 text; {_WANTED}.") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{str(source)!r} is not JSON ({error.msg}, line {error.lineno}); {_WANTED}.") from None
    except RecursionError:
        raise ValueError(f"{str(source)!r} nests too deeply; {_WANTED}.") from None
    if not isinstance(found, dict):
        raise ValueError(f"{str(source)!r} holds a {type(found).__name__}, not an object; {_WANTED}.")
    return found


def _npz(source: Path) -> dict[str, Any] | None:
    """Arrays of an .npz file; None if it is a saved solution."""
    foreign = ValueError(
        f"{str(source)!r} is not an .npz file of plain arrays, or it is cut off; write it with "
        "numpy.savez(file, Q=Q, M=M, P=P)."
    )
    if not zipfile.is_zipfile(source):
        raise foreign
    try:
        with np.load(source, allow_pickle=False) as file:
            if _MARK not in file.files:
                return {name: file[name] for name in file.files}
            if "Q" in file.files:
                return None
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError):
        raise foreign from None
    raise ValueError(f"{str(source)!r} is a result of hdsgd without overlaps to start from; pass a saved solution.")


def _overlaps(source: Path, entries: Mapping[str, Any]) -> Overlaps:
    missing = [name for name in _REQUIRED if name not in entries]
    if missing:
        weights = {"W", "W_star"} <= set(entries)
        remedy = "turn weights into overlaps with hdsgd.Overlaps.from_weights(W, W_star)" if weights else _WANTED
        raise ValueError(f"{str(source)!r} has no {' and no '.join(missing)}; {remedy}.")
    unknown = sorted(set(entries) - {*_REQUIRED, *_OPTIONAL})
    if unknown:  # a misspelled a_star would be taken as ones
        raise ValueError(f"{str(source)!r} has the unknown entry {unknown[0]!r}; {_WANTED}.")
    try:
        return Overlaps(**{name: entries[name] for name in (*_REQUIRED, *_OPTIONAL) if entries.get(name) is not None})
    except (ValueError, TypeError) as error:
        raise type(error)(f"{str(source)!r} is no start: {error}") from None
