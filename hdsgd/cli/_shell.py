"""What all commands share: the parser, types of arguments, output, files and the progress bar."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib.util
import inspect
import json
import math
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

__all__ = [
    "Commands",
    "Parser",
    "command",
    "default",
    "draw",
    "emit",
    "folder_for",
    "lines",
    "number",
    "output",
    "progress",
    "say",
    "seed",
    "size",
    "whole",
    "writing",
]

FIGURES = (".png", ".pdf", ".svg")
SOLUTIONS = (".npz", ".nc")
TICK = 0.5  # seconds between two looks at the clock of a bar

Run: TypeAlias = Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, like all others.

    Options cannot be abbreviated, so that adding one never changes what a script means.
    """

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)
        # what begins as a negative number is a value, not an option: -1/4 and -1e-3, too
        self._negative_number_matcher = re.compile(r"-\.?\d")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse unknown arguments in the command that was given them, which can guess what was meant."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            known = [option for action in self._actions for option in action.option_strings]
            given = unknown[0].partition("=")[0]
            short = given[1:]  # -d, of which --d is not an abbreviation
            near = [short] if short in known else difflib.get_close_matches(given, known, n=1)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{f'; did you mean {near[0]}?' if near else ''}")
        return found, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse what is no choice, such as an unknown command, with a guess of what was meant."""
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            near = difflib.get_close_matches(str(value), list(map(str, action.choices or ())), n=1)
            guess = f"; did you mean {near[0]}?" if near else ""
            raise argparse.ArgumentError(action, f"{error.message}{guess}") from None

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print help, and let `main` know when nobody reads it: argparse would hide that."""
        if message:
            print(message, end="", file=file)

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments; `main` prints the message and returns 2."""
        raise ValueError(f"{message} (see {self.prog} --help)")


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def command(
    commands: Commands, name: str, run: Run, *, summary: str, description: str, examples: Sequence[str], notes: str = ""
) -> Parser:
    """Add a command with its help and the option ``--json``."""
    listed = "".join(f"  {example}\n" for example in examples)
    parser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=f"{'example' if len(examples) == 1 else 'examples'}:\n{listed}{notes and chr(10)}{notes}",
    )
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="print JSON on standard output, and nothing else there")
    return parser


def default(function: Callable[..., Any], name: str) -> Any:
    """The default of a public function's parameter: the command line must not have another."""
    return inspect.signature(function).parameters[name].default


def number(text: str) -> float:
    """A real number, as the type of an argument."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def whole(text: str) -> int:
    """A whole number; 1e4 is one, too."""
    with contextlib.suppress(ValueError):
        return int(text)
    with contextlib.suppress(ValueError, OverflowError):
        if float(text).is_integer():
            return int(float(text))
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")


def seed(text: str) -> int:
    """A whole number that is not negative."""
    value = whole(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is negative; a seed is 0 or larger")
    return value


def say(text: str) -> None:
    """One line on standard error."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(f"hdsgd: {' '.join(text.split())}", file=sys.stderr)


def emit(args: argparse.Namespace, document: Mapping[str, Any], text: str) -> None:
    """The result of a command on standard output: JSON (NaN as null) or text."""
    if not args.json:
        print(text.rstrip())
        return
    entries = (f" {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in _plain(document).items())
    print("{\n" + ",\n".join(entries) + "\n}")  # one entry a line: long arrays stay readable


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numpy, without importing it
        value = value.tolist()
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value


def lines(entries: Sequence[tuple[str, str]]) -> str:
    """Labelled lines, aligned."""
    width = max(len(label) for label, _ in entries)
    return "\n".join(f"{label:<{width}}  {text}".rstrip() for label, text in entries)


def size(count: int) -> str:
    """A number of bytes for people."""
    power = min(len(str(count)) - 1, 11) // 3
    return f"{count / 1000**power:.1f} {('', 'k', 'M', 'G')[power]}B" if power else f"{count} B"


def output(option: str, value: str | None, endings: Sequence[str]) -> Path | None:
    """Check where a result will be written before the work starts."""
    if value is None:
        return None
    path = Path(value)
    listed = ", ".join(endings)
    if path.suffix not in endings:
        raise ValueError(f"{option} {value}: the name of the file must end in {listed}")
    if path.is_dir():
        raise ValueError(f"{option} {value} is a folder; add the name of a file")
    folder_for(option, path)
    if endings == FIGURES and importlib.util.find_spec("matplotlib") is None:
        raise ValueError(f"{option} needs matplotlib; install it with: pip install 'hdsgd[plot]'")
    if path.suffix == ".nc":
        for name in ("xarray", "h5netcdf"):
            if importlib.util.find_spec(name) is None:
                raise ValueError(f"{option} {value} needs {name}; install it with: pip install 'hdsgd[data]'")
    return path


def folder_for(option: str, path: Path, folder: Path | None = None) -> None:
    """Refuse a path whose folder (its parent by default) is missing, or where no file of this name can be made."""
    folder = path.parent if folder is None else folder
    if not folder.is_dir():
        raise ValueError(f"{option} {path}: the folder {folder} does not exist; create it first")
    with writing(option, path):  # permissions do not tell it: there are read-only and special file systems
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=folder)
        os.close(handle)
        Path(name).unlink()


@contextlib.contextmanager
def writing(option: str, path: Path) -> Iterator[None]:
    """Name what the user asked for where something on the way to it cannot be written."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{option} {path}: cannot be written ({error.strerror or error}); choose another") from None


def draw(figure: Any, path: Path) -> None:
    """Write a figure so that nobody sees half of it."""
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as folder:
        partial = Path(folder) / path.name
        figure.savefig(partial, dpi=150)
        partial.replace(path)


@contextlib.contextmanager
def progress(label: str, total: float = 1.0, unit: str = "") -> Iterator[Callable[[float], None] | None]:
    """A function to report the fraction done to: a bar on a terminal, for work over a second; otherwise None.

    With a `unit`, of which there are `total`, the bar shows how many there are in a second. Work that reports nothing
    has its clock running all the same.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    layout = "{desc}: {percentage:5.1f}% |{bar}| {elapsed} < {remaining}" + (", {rate_fmt}" if unit else "")
    shown = {"desc": label, "delay": 1.0, "leave": False, "miniters": 0, "bar_format": layout, "file": sys.stderr}
    with tqdm(total=total, unit=f" {unit}s", unit_scale=True, **shown) as bar:

        def report(fraction: float) -> None:
            bar.update(max(min(fraction, 1.0) * total - bar.n, 0.0))

        over = threading.Event()

        def tick() -> None:
            while not over.wait(TICK):
                bar.update(0.0)

        clock = threading.Thread(target=tick, daemon=True)
        clock.start()
        try:
            yield report
        finally:
            over.set()
            clock.join()
