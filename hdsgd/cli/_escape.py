"""``hdsgd escape``: the exit times of phase retrieval by every route, as a table, a figure and files."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from .. import EscapeResult, EscapeStudy, escape_experiment, escape_study
from .._escape_study import STUDIES
from .._kernel import BACKENDS
from ._options import fits
from ._remedies import translated
from ._shell import Commands, command, default, emit, folder_for, number, progress, say, seed, whole, writing

__all__ = ["add"]

_DESCRIPTION = """\
Escape from mediocrity: how long phase retrieval (student and teacher x^2, weights
on the sphere, one teacher unit) stays on the plateau of a start that knows nothing
of the teacher. The exit time is the first t = nu*gamma/(p*d) at which the excess
risk has fallen by the fraction T; it is found by every route: root of the ODE,
implicit equation, annealed, quenched and corrected formulas, SDE, and the exact
simulation at finite d with its standard error.
Source: Arnaboldi, Krzakala, Loureiro, Stephan 2023 (arXiv 2305.18502), figure 1.

--study NAME shows what the exit time from random starts depends on, by simulation
and every formula: its "distribution" by route, the "dimension" d, the learning rate
("gamma", as samples with their optimum), or the "ratio" of simulation to formula
against p (figure 2). Finished points are kept in PREFIX.jsonl: the same command goes
on after a kill or Ctrl-C.
"""

_PREFIX = "hdsgd-escape"
_ENDINGS = (".npz", ".json", ".png")
_STUDY_ENDINGS = (".npz", ".txt", ".png", ".jsonl")
_OF_STUDIES = ("rate", "quick", "workers", "fresh")
_OF_EXPERIMENTS = ("start", "gamma", "dt", "t_max", "backend")


def add(commands: Commands) -> None:
    """Add the command."""
    parser = command(
        commands,
        "escape",
        _run,
        summary="exit times from the plateau by every route (the main experiment)",
        description=_DESCRIPTION,
        examples=[
            "hdsgd escape --replicas 4000",
            "hdsgd escape --start random -p 2 --replicas 200 --out two-units",
            "hdsgd escape --study gamma --quick --replicas 20 --workers 0",
        ],
    )
    of = {name: default(escape_experiment, name) for name in ("d", "gamma", "Delta", "T", "replicas", "rng", "dt")}
    problem = parser.add_argument_group("experiment")
    problem.add_argument(
        "--start",
        metavar="published|random|FILE",
        default=default(escape_experiment, "start"),
        help="the published start (p = 1 or 2), random ones, one for each replica, or Q, M, P from a .json or .npz "
        "file or the end of a saved solution (default: %(default)s)",
    )
    problem.add_argument(
        "-p", type=whole, metavar="N", help="student width (default: that of the start or of the study; random: 1)"
    )
    problem.add_argument("-d", type=whole, metavar="N", help=f"input dimension (default: {of['d']}; that of the study)")
    problem.add_argument("--gamma", type=number, default=of["gamma"], help="learning rate (default: %(default)s)")
    problem.add_argument(
        "--Delta", type=number, default=of["Delta"], help="variance of the label noise (default: %(default)s)"
    )
    problem.add_argument(
        "-T",
        type=number,
        default=of["T"],
        help="exit when the excess risk is at most (1 - T) times that of the start, 0 < T < 1 (default: %(default)s)",
    )
    runs = parser.add_argument_group("runs")
    runs.add_argument(
        "--replicas",
        type=whole,
        metavar="N",
        help=f"runs of the SDE and of the simulation (default: {of['replicas']}; at each point of a study 4000/p, but "
        "at least 50, or 200 if quick)",
    )
    runs.add_argument(
        "--seed", type=seed, metavar="N", default=of["rng"], help="of all random numbers (default: %(default)s)"
    )
    runs.add_argument(
        "--dt", type=number, default=of["dt"], help="time step of the SDE, in units of t (default: %(default)s)"
    )
    runs.add_argument(
        "--t-max", type=number, metavar="TIME", help="horizon of the runs, in units of t (default: far beyond the exit)"
    )
    runs.add_argument(
        "--backend",
        choices=BACKENDS,
        default=default(escape_experiment, "backend"),
        help="compiled code or numpy (default: %(default)s: C where a compiler works)",
    )
    studies = parser.add_argument_group("studies")
    studies.add_argument("--study", choices=STUDIES, help="what to study (default: none, the experiment)")
    studies.add_argument(
        "--rate", type=number, default=default(escape_study, "rate"), help="gamma/p of a study (default: %(default)s)"
    )
    studies.add_argument("--quick", action="store_true", help="a small version of the study")
    studies.add_argument(
        "--workers", type=whole, metavar="N", help="processes of the study; 0: run in this one (default: one a core)"
    )
    studies.add_argument("--fresh", action="store_true", help="compute everything again, whatever PREFIX.jsonl holds")
    files = parser.add_argument_group("files")
    files.add_argument(
        "--out",
        metavar="PREFIX",
        help="write PREFIX.npz (arrays), PREFIX.json (of a study PREFIX.txt; table) and PREFIX.png (figure) "
        f"(default: {_PREFIX}, of a study {_PREFIX}-NAME)",
    )
    files.add_argument("--no-figure", action="store_true", help="write no PREFIX.png")


def _run(args: argparse.Namespace) -> int:
    _fitting(args)
    endings = _ENDINGS if args.study is None else _STUDY_ENDINGS
    prefix = _prefix(args.out or (_PREFIX if args.study is None else f"{_PREFIX}-{args.study}"), endings)
    given = {name: value for name in ("d", "replicas") if (value := getattr(args, name)) is not None}
    common = {"p": args.p, "Delta": args.Delta, "T": args.T, **given}
    if args.study is None:
        fits(given.get("replicas", default(escape_experiment, "replicas")), 1, 1 if args.p is None else args.p, 1)
        with progress("escape") as report:
            options = {name: getattr(args, name) for name in _OF_EXPERIMENTS if name != "start"}
            result: EscapeResult | EscapeStudy = escape_experiment(
                args.start, rng=args.seed, progress=report, **options, **common
            )
    else:
        fits(given.get("replicas", 1), 1, 1 if args.p is None else args.p, 1)
        with progress(f"study of the {args.study}") as report, writing("--out", prefix):
            result = escape_study(
                args.study,
                rate=args.rate,
                seed=args.seed,
                quick=args.quick,
                fresh=args.fresh,
                workers=args.workers,
                record=prefix.with_name(prefix.name + ".jsonl"),
                progress=report,
                **common,
            )
    with writing("--out", prefix):
        written = result.save(prefix, figure=not args.no_figure)
    if not args.no_figure and importlib.util.find_spec("matplotlib") is None:
        say("note: no figure was drawn, because matplotlib is missing; install it with: pip install 'hdsgd[plot]'")
    names = ", ".join(str(path) for path in written)
    text = f"{translated(result.table())}\n\nwritten: {names}"
    emit(args, {"command": "escape", **result.to_dict(), "files": written}, text)
    return 1 if isinstance(result, EscapeStudy) and result.failures else 0


def _fitting(args: argparse.Namespace) -> None:
    """Refuse options of the experiment with a study, and the other way round."""
    for names, function in ((_OF_STUDIES, escape_study), (_OF_EXPERIMENTS, escape_experiment)):
        other = "needs --study" if function is escape_study else "is not for a study; leave it out"
        if (args.study is None) == (function is escape_study):
            for name in names:
                if getattr(args, name) != default(function, name):
                    raise ValueError(f"--{name.replace('_', '-')} {other}")
    if args.study == "gamma" and args.rate != default(escape_study, "rate"):
        raise ValueError("--rate is not for the study gamma, which goes through the learning rates; leave it out")


def _prefix(text: str, endings: tuple[str, ...]) -> Path:
    """Refuse prefixes that cannot be written, before the work, and those that look like a file."""
    path = Path(text)
    if path.is_dir() or not path.name:
        raise ValueError(f"--out {text} is a folder; pass the beginning of file names, such as {path / _PREFIX}")
    if path.suffix in endings:
        raise ValueError(f"--out takes the beginning of file names; leave the ending {path.suffix} of {text} out")
    for ending in endings:
        if path.with_name(path.name + ending).is_dir():
            raise ValueError(f"--out {text}: {text}{ending} is a folder; choose another")
    folder_for("--out", path)
    return path
