"""``hdsgd sweep``: a grid of parameters from a file."""

from __future__ import annotations

import argparse
import importlib
import itertools
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .. import sweep
from .._points import POINTS, check
from ._shell import Commands, command, emit, progress, whole

__all__ = ["add"]

_SWEEP = """\
Evaluate a function at every point of a grid, on all cores. FILE is a TOML file:

  function = "exit_time"           # or "final_risk", or "module:name" of your own
  [grid]                           # lists are axes, single values are the same everywhere
  gamma = [0.05, 0.1]
  d = [1000, 3000]
  activation = "quadratic"
  spherical = true
  T = 0.1
  t_max = 10.0
  replicas = 64

exit_time takes T, t_max, p, k, d, replicas, seed, by ("simulate", "sde" or "ode"), dt and
the parameters of the problem; final_risk the same without T. Times are t = nu*gamma/(p*d).
A gamma that changes with t is a text, as for --gamma elsewhere: gamma = [0.1, "0:0.1,2:0.05"].

Each finished point is written to --out at once. Run the same command again after a
crash or Ctrl-C, and it goes on where it stopped; failed points are tried again.
"""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = command(
        commands,
        "sweep",
        _run,
        summary="evaluate a function on a grid of parameters, resumable",
        description=_SWEEP,
        examples=["hdsgd sweep grid.toml --out grid.jsonl", "hdsgd sweep grid.toml --out grid.jsonl --workers 4"],
        notes="exit code: 1 when a point failed (its error is in the table), 2 on bad input.\n",
    )
    parser.add_argument("file", metavar="FILE", help="the TOML file")
    parser.add_argument("--out", metavar="FILE", help="record of the finished points, .jsonl (default: not written)")
    parser.add_argument(
        "--workers", type=whole, metavar="N", help="processes; 0: run in this one (default: one a core)"
    )


def _run(args: argparse.Namespace) -> int:
    path = Path(args.file)
    name, grid = _read(path)
    if name in POINTS:
        _check(path, name, grid)
    function = _function(name, path.parent)
    with progress("sweep") as report:
        result = sweep(function, grid, out=args.out, workers=args.workers, progress=report)
    axes = [axis for axis, values in result.grid.items() if len(values) > 1]
    names = list(result.values)
    rows = [[*axes, *(names or ["failure"])]]
    document = []
    for place in _places(result.shape):
        point = {axis: result.grid[axis][i] for axis, i in zip(result.grid, place, strict=True)}
        values = {name: result.values[name][place] for name in names}
        failure = result.failures.get(place)
        document.append({"point": point, "values": None if failure else values, "failure": failure})
        cells = [failure] if failure else [_cell(value) for value in values.values()]
        rows.append([*(str(point[axis]) for axis in axes), *cells])
    emit(args, {"command": "sweep", "function": result.function, "points": document}, _table(rows))
    return 1 if result.failures else 0


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    """The name of the function, and the grid."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"there is no file {str(path)!r}; check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML ({error}); see hdsgd sweep --help for an example") from None
    unknown = set(document) - {"function", "grid"}
    if unknown or not isinstance(document.get("grid"), Mapping) or not isinstance(document.get("function"), str):
        raise ValueError(f"{path} needs the entries function and [grid], and no others; see hdsgd sweep --help")
    grid = {axis: values if isinstance(values, list) else [values] for axis, values in document["grid"].items()}
    return document["function"], grid


def _check(path: Path, name: str, grid: Mapping[str, list[Any]]) -> None:
    """Refuse a file with a point that cannot be computed, before all others are."""
    for values in itertools.product(*grid.values()):
        try:
            check(name, dict(zip(grid, values, strict=True)))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: {error}") from None


def _function(name: str, folder: Path) -> Callable[..., Any]:
    if ":" not in name:
        if name not in POINTS:
            raise ValueError(f"unknown function {name!r}: choose {' or '.join(POINTS)}, or module:name of your own")
        return POINTS[name]
    module, _, attribute = name.partition(":")
    if str(folder.resolve()) not in sys.path:  # the file's own folder first, as for a script
        sys.path.insert(0, str(folder.resolve()))
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:  # the last of an empty name
        raise ValueError(f"the function {name!r} cannot be imported ({error}); check its name") from None
    return found


def _places(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    import numpy as np

    return [tuple(int(i) for i in place) for place in np.ndindex(*shape)]


def _cell(value: Any) -> str:
    if getattr(value, "ndim", 1):
        return str(value)
    return "-" if float(value) != float(value) else f"{float(value):.6g}"


def _table(rows: list[list[str]]) -> str:
    """Aligned columns; the error of a point that failed is the last cell of its row, and may reach over several."""
    count = len(rows[0])
    aligned = [row if len(row) == count else row[:-1] for row in rows]
    widths = [max(len(row[c]) for row in aligned if c < len(row)) for c in range(count)]
    return "\n".join("  ".join(cell.ljust(widths[c]) for c, cell in enumerate(row)).rstrip() for row in rows)
