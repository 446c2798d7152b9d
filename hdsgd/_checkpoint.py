"""Long runs on disk: all that the future of a simulation depends on, in one file, to go on from after any end."""

from __future__ import annotations

import hashlib
import json
import os
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._checks import file_path
from ._storage import unwritable

__all__ = ["Checkpoint", "fingerprint", "opened"]

EVERY = 5.0  # seconds between writes
SHARE = 20.0  # times the duration of a write that passes between writes

Arrays = Mapping[str, NDArray[Any]]
_FORMAT = "hdsgd checkpoint 1"


def fingerprint(*parts: Any) -> str:
    """A hash of texts, numbers and arrays."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype} {part.shape} ".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        else:
            digest.update(f"{part!r}\0".encode())
    return digest.hexdigest()


class Checkpoint:
    """A file that is replaced as a whole, every few seconds: a run killed at any moment leaves the last one.

    Attributes
    ----------
    path : Path
    seed : int or None
        Of the run that the file holds; None where there is no file yet.
    """

    def __init__(self, path: Path, seed: int | None, identity: str | None, arrays: Arrays | None) -> None:
        self.path, self.seed = path, seed
        self._identity, self._arrays = identity, arrays
        self._next = time.monotonic() + EVERY

    def begin(self, seed: int, identity: str) -> Arrays | None:
        """What to go on from: the arrays last saved, None at the very start.

        Raises
        ------
        ValueError
            If the file holds another run.
        """
        if self._identity is not None and self._identity != identity:
            raise ValueError(
                f"the checkpoint {self.path} is of another run (other arguments, seed or version); "
                "repeat the call that wrote it, or name another file."
            )
        self.seed, self._identity = seed, identity
        arrays, self._arrays = self._arrays, None
        return arrays

    def due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() >= self._next

    def save(self, arrays: Arrays) -> None:
        """Write the file; it is replaced when the new one is complete."""
        started = time.monotonic()
        head = json.dumps({"format": _FORMAT, "seed": str(self.seed), "identity": self._identity})
        partial = _partial(self.path)
        try:
            with partial.open("wb") as file:
                # older numpy would store an argument allow_pickle as one more array
                np.savez(file, head=np.array(head), **arrays)  # type: ignore[arg-type]
            partial.replace(self.path)
        except OSError as error:
            raise ValueError(unwritable(self.path, error)) from None
        now = time.monotonic()
        self._next = now + max(EVERY, SHARE * (now - started))


def _partial(path: Path) -> Path:
    """What is written before it takes the checkpoint's place; one name: a killed write leaves no litter."""
    return path.with_name(f".{path.name}.partial")


def opened(path: str | os.PathLike[str]) -> Checkpoint:
    """Return the checkpoint in a file, which need not exist yet.

    Raises
    ------
    ValueError
        If the file is something else, or its folder does not exist or cannot be written.
    """
    target = file_path(path, "run.checkpoint")
    if not target.parent.is_dir():
        raise ValueError(f"the folder of the checkpoint {target} does not exist; make it first.")
    try:  # permissions do not tell it: there are read-only and special file systems
        _partial(target).touch()
        _partial(target).unlink()
    except OSError as error:
        raise ValueError(unwritable(target, error)) from None
    if not target.exists():
        return Checkpoint(target, None, None, None)
    try:
        with np.load(target, allow_pickle=False) as file:
            arrays = dict(file)
        head = json.loads(str(arrays.pop("head")))
        if head["format"] != _FORMAT:
            raise KeyError("format")
        return Checkpoint(target, int(head["seed"]), head["identity"], arrays)
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, EOFError):
        raise ValueError(
            f"{target} is not a checkpoint of hdsgd, or it is cut off; name another file, or remove it."
        ) from None
