"""Files without pickle: named arrays and one JSON document, as .npz (numpy) or .nc (netCDF through xarray)."""

from __future__ import annotations

import importlib
import json
import os
import secrets
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._checks import file_path

__all__ = ["atomically", "dataset", "read", "unwritable", "write"]

FORMAT = 1
_KEY = "hdsgd"

Variables = Mapping[str, tuple[tuple[str, ...], NDArray[Any]]]


def dataset(variables: Variables, metadata: Mapping[str, Any]) -> Any:
    """An `xarray.Dataset` of variables name -> (dimensions, array); the metadata is JSON in ``attrs["hdsgd"]``."""
    xarray = _xarray("to_xarray()")
    data = {name: (list(dims), value) for name, (dims, value) in variables.items()}
    out = xarray.Dataset(data).set_coords([name for name in ("t",) if name in data])
    out.attrs[_KEY] = json.dumps(metadata)
    return out


def write(path: str | os.PathLike[str], variables: Variables, metadata: Mapping[str, Any]) -> Path:
    """Write atomically: a reader never sees half a file, and an interrupted save leaves the old one in place."""
    target = file_path(path, "run.npz")
    if target.suffix not in (".npz", ".nc"):
        raise ValueError(f"a solution is saved as .npz or .nc, got {target.name!r}; add one of these endings.")
    if target.is_dir():
        raise ValueError(f"{str(target)!r} is a folder; pass the name of a file.")
    if not target.parent.is_dir():
        raise ValueError(f"the folder {str(target.parent)!r} does not exist; create it first.")
    document = {"format": FORMAT, **metadata}
    if target.suffix == ".nc":
        _xarray("saving as .nc")  # fail before anything is written
    with atomically(target) as partial:
        if target.suffix == ".npz":
            arrays: dict[str, Any] = {name: np.asarray(value) for name, (_, value) in variables.items()}
            arrays[_KEY] = np.array(json.dumps(document))
            with partial.open("wb") as file:
                np.savez_compressed(file, **arrays)
        else:
            dataset(variables, document).to_netcdf(partial, engine="h5netcdf")
    return target


@contextmanager
def atomically(target: Path) -> Iterator[Path]:
    """Give a file to write that takes the place of ``target`` when all has gone well; a ValueError if it cannot."""
    # Not a temporary file, which would be private: a result gets the permissions of an ordinary new file.
    partial = target.with_name(f".{target.stem}-{secrets.token_hex(8)}{target.suffix}")
    try:
        partial.touch(exist_ok=False)
        try:
            yield partial
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(unwritable(target, error)) from None


def unwritable(target: Path, error: OSError) -> str:
    """The sentence for a file that cannot be written, without the temporary names on the way to it."""
    return f"{str(target)!r} cannot be written ({error.strerror or error}); choose another file or folder."


def read(path: str | os.PathLike[str]) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays and metadata of a file written by `write`; nothing in the file is executed."""
    source = file_path(path, "run.npz")
    if source.is_dir():
        raise ValueError(f"{str(source)!r} is a folder; pass a .npz or .nc file written by sol.save().")
    if not source.exists():
        raise ValueError(f"there is no file {str(source)!r}; check the path.")
    arrays, text = _read_netcdf(source) if source.suffix == ".nc" else _read_npz(source)
    try:
        document = json.loads(text)
        version = document["format"]
    except (json.JSONDecodeError, KeyError, TypeError):
        raise _foreign(source) from None
    if not isinstance(version, int) or version > FORMAT:
        writer = document.get("versions", {}).get("hdsgd", "a later version")
        raise ValueError(f"{str(source)!r} was written by hdsgd {writer} in a newer format; upgrade hdsgd to read it.")
    if "exit_times_simulation" in arrays and "study" not in document:
        raise ValueError(
            f"{str(source)!r} holds the arrays of an escape experiment, not a solution; read them with numpy.load, "
            "and the table from the .json file beside it."
        )
    if "problem" not in document:
        raise ValueError(
            f"{str(source)!r} holds the arrays of a figure or a study, not a solution; read them with numpy.load."
        )
    return arrays, document


def _read_npz(source: Path) -> tuple[dict[str, NDArray[Any]], str]:
    if not zipfile.is_zipfile(source):
        raise _foreign(source)
    try:
        with np.load(source, allow_pickle=False) as file:
            if _KEY not in file.files:
                raise _foreign(source)
            text = str(file[_KEY])
            return {name: file[name] for name in file.files if name != _KEY}, text
    except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile):
        raise _foreign(source) from None


def _read_netcdf(source: Path) -> tuple[dict[str, NDArray[Any]], str]:
    xarray = _xarray("reading .nc")
    try:
        with xarray.open_dataset(source, engine="h5netcdf", decode_times=False) as file:
            text = str(file.attrs[_KEY])
            return {str(name): np.array(file[name].values) for name in file.variables}, text
    except (ValueError, OSError, KeyError, RuntimeError):
        raise _foreign(source) from None


def _foreign(source: Path) -> ValueError:
    return ValueError(
        f"{str(source)!r} is not a solution saved by hdsgd, or it is cut off; pass a .npz or .nc file written by "
        "sol.save()."
    )


def _xarray(purpose: str) -> Any:
    try:
        importlib.import_module("h5netcdf")
        return importlib.import_module("xarray")
    except ImportError as error:
        raise ValueError(f"{purpose} needs {error.name}; install it with: pip install 'hdsgd[data]'.") from None
