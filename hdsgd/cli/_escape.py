"""``hdsgd escape``: the exit times of phase retrieval by every route, as a table, a figure and files."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from .. import escape_experiment
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
"""

_PREFIX = "hdsgd-escape"
_ENDINGS = (".npz", ".json", ".png")


def add(commands: Commands) -> None:
    """Add the command."""
    parser = command(
        commands,
        "escape",
        _run,
        summary="exit times from the plateau by every route (the main experiment)",
        description=_DESCRIPTION,
        examples=["hdsgd escape --replicas 4000", "hdsgd escape --start random -p 2 --replicas 200 --out two-units"],
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
    problem.add_argument("-p", type=whole, metavar="N", help="student width (default: that of the start; random: 1)")
    problem.add_argument("-d", type=whole, metavar="N", default=of["d"], help="input dimension (default: %(default)s)")
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
        default=of["replicas"],
        help="runs of the SDE and of the simulation (default: %(default)s)",
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
    files = parser.add_argument_group("files")
    files.add_argument(
        "--out",
        metavar="PREFIX",
        default=_PREFIX,
        help="write PREFIX.npz (arrays), PREFIX.json (table) and PREFIX.png (figure) (default: %(default)s)",
    )
    files.add_argument("--no-figure", action="store_true", help="write no PREFIX.png")


def _run(args: argparse.Namespace) -> int:
    prefix = _prefix(args.out)
    fits(args.replicas, 1, 1 if args.p is None else args.p, 1)
    with progress("escape") as report:
        result = escape_experiment(
            args.start,
            p=args.p,
            d=args.d,
            gamma=args.gamma,
            Delta=args.Delta,
            T=args.T,
            replicas=args.replicas,
            rng=args.seed,
            dt=args.dt,
            t_max=args.t_max,
            backend=args.backend,
            progress=report,
        )
    with writing("--out", prefix):
        written = result.save(prefix, figure=not args.no_figure)
    if not args.no_figure and importlib.util.find_spec("matplotlib") is None:
        say("note: no figure was drawn, because matplotlib is missing; install it with: pip install 'hdsgd[plot]'")
    names = ", ".join(str(path) for path in written)
    text = f"{translated(result.table())}\n\nwritten: {names}"
    emit(args, {"command": "escape", **result.to_dict(), "files": written}, text)
    return 0


def _prefix(text: str) -> Path:
    """Refuse prefixes that cannot be written, before the work, and those that look like a file."""
    path = Path(text)
    if path.is_dir() or not path.name:
        raise ValueError(f"--out {text} is a folder; pass the beginning of file names, such as {path / _PREFIX}")
    if path.suffix in _ENDINGS:
        raise ValueError(f"--out takes the beginning of file names; leave the ending {path.suffix} of {text} out")
    for ending in _ENDINGS:
        if path.with_name(path.name + ending).is_dir():
            raise ValueError(f"--out {text}: {text}{ending} is a folder; choose another")
    folder_for("--out", path)
    return path
