"""``hdsgd figure``: the figures of the papers, with what is claimed about them."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable

from .. import FigureResult, figure
from .._figures._make import FORMATS
from .._figures._names import FIGURES, find
from .._record import OtherRecordError
from ._remedies import translated
from ._shell import Commands, command, default, emit, lines, progress, say, seed, whole

__all__ = ["add"]

_DESCRIPTION = """\
Make figures of the papers. For each NAME the folder gets NAME.png (the picture),
NAME.npz and, where xarray is installed, NAME.nc (the data), and NAME.md, a report:
what was run, and a table that compares each published or derived number with ours.
A and a number: Arnaboldi et al. 2023 (arXiv 2305.18502); B: Veiga et al. 2022
(arXiv 2202.00293); C: Bocchi et al. 2026 (arXiv 2604.03068); D: Arnaboldi et al.
2023 (arXiv 2302.05882). Times are t = nu*gamma/(p*d).

Each finished job is written to NAME.jsonl at once. Run the same command again after
a crash or Ctrl-C, and it goes on where it stopped; the record of another seed or
version is kept, unless --fresh is given.
"""

_NOTES = """\
Full versions take minutes of a core each; A2, with 50 runs at p = 500, about an hour.

exit code: 1 when a figure could not be made; a claim that differs is in the table.
"""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = command(
        commands,
        "figure",
        _run,
        summary="make the papers' figures, and check their numbers",
        description=_DESCRIPTION,
        examples=["hdsgd figure A1 --quick", "hdsgd figure --all --quick --out figures", "hdsgd figure --list"],
        notes=_NOTES,
    )
    parser.add_argument("names", metavar="NAME", nargs="*", help="a figure of --list")
    parser.add_argument("--list", action="store_true", help="list the figures and leave")
    parser.add_argument("--all", action="store_true", help="make all of them")
    parser.add_argument(
        "--quick", action="store_true", help="a smaller version, NAME-quick, of half a minute (default: as published)"
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        default=default(figure, "out"),
        help="folder for the files, made if it is missing (default: %(default)s)",
    )
    parser.add_argument(
        "--format", choices=FORMATS, default=default(figure, "format"), help="of the pictures (default: %(default)s)"
    )
    parser.add_argument(
        "--seed",
        type=seed,
        metavar="N",
        default=default(figure, "seed"),
        help="of all random numbers (default: %(default)s)",
    )
    parser.add_argument(
        "--workers", type=whole, metavar="N", help="processes; 0: run in this one (default: one a core)"
    )
    parser.add_argument("--fresh", action="store_true", help="compute everything again, whatever NAME.jsonl holds")


def _run(args: argparse.Namespace) -> int:
    if args.list:
        return _list(args)
    if bool(args.names) == args.all:
        raise ValueError("name figures, such as A1, or pass --all; hdsgd figure --list shows the names")
    names = list(dict.fromkeys(find(name)[0] for name in (FIGURES if args.all else args.names)))
    if importlib.util.find_spec("matplotlib") is None:
        say("note: no picture will be drawn, because matplotlib is missing; install it: pip install 'hdsgd[plot]'")
    made: list[FigureResult] = []
    failures: dict[str, str] = {}
    for name in names:
        with progress(name) as report:
            try:
                result = _make(name, args, report)
            except (RuntimeError, OtherRecordError) as error:  # the other figures go on
                failures[name] = translated(str(error))
                say(f"error: {failures[name]}")
                continue
            except KeyboardInterrupt as interrupt:
                if args.fresh and hasattr(interrupt, "__notes__"):
                    interrupt.add_note("leave --fresh out to go on, which computes everything again")
                raise
        made.append(result)
        if not args.json:
            written = ", ".join(str(path) for path in result.paths)
            print(f"{result.name}: {result.title}\n\n{result.table()}\n\n{result.summary()}\nwritten: {written}\n")
    document = {
        "command": "figure",
        "figures": [{**result.to_dict(), "files": result.paths} for result in made],
        "failures": failures,
    }
    differ = sum(claim.verdict == "differs" for result in made for claim in result.claims)
    text = f"{len(made)} of {len(names)} figures made; {differ} claims differ"
    emit(args, document, text)
    return 1 if failures else 0


def _make(name: str, args: argparse.Namespace, report: Callable[[float], None] | None) -> FigureResult:
    return figure(
        name,
        size="quick" if args.quick else "full",
        out=args.out,
        seed=args.seed,
        format=args.format,
        fresh=args.fresh,
        workers=args.workers,
        progress=report,
    )


def _list(args: argparse.Namespace) -> int:
    entries = [(name, find(name)[1]) for name in FIGURES]
    document = {
        "command": "figure",
        "figures": {name: {"title": it.title, "source": it.source} for name, it in entries},
    }
    emit(args, document, lines([(name, it.title) for name, it in entries]))
    return 0
