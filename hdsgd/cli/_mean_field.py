"""``hdsgd mean-field``: gradient flow of very wide students."""

from __future__ import annotations

import argparse
import dataclasses

from .. import MeanField, Problem, mean_field
from .._starts import read
from ._options import _seed, add_files, files
from ._run import save
from ._shell import Commands, command, default, emit, lines, number, progress, seed, whole

__all__ = ["add"]

_MEAN_FIELD = """\
Gradient flow of a wide student, in the time t = nu*gamma/(p*d): only its overlaps M
with the teacher and the norms are tracked, so that p = 100000 is a matter of a minute.
With -d the overlaps between students are those of random directions, to first order in
1/(d - k). Against the full equations (hdsgd solve --gamma 0) it is off by O(1/p).
"""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = command(
        commands,
        "mean-field",
        _run,
        summary="gradient flow of very wide students, O(p) a step",
        description=_MEAN_FIELD,
        examples=[
            "hdsgd mean-field -p 5000 -d 1000 --t-max 5 --seed 1",
            "hdsgd mean-field --activation quadratic -p 10000 -k 2 -d 1000 --t-max 4 --out wide.npz",
        ],
    )
    group = parser.add_argument_group("problem and start")
    group.add_argument(
        "--activation", choices=("erf", "quadratic"), default="erf", help="of both networks (default: %(default)s)"
    )
    group.add_argument("-p", type=whole, metavar="N", help="student width (needed for --start random)")
    group.add_argument("-k", type=whole, default=1, metavar="N", help="teacher width (default: %(default)s)")
    group.add_argument(
        "-d", type=whole, metavar="N", help="input dimension of the start and of the corrections (default: none)"
    )
    group.add_argument(
        "--start",
        metavar="random|FILE",
        default="random",
        help="random weights, or Q, M, P from a .json or .npz file (default: %(default)s)",
    )
    group.add_argument("--orthogonal-teacher", action="store_true", help="random start with P = I (default: no)")
    group.add_argument("--seed", type=seed, metavar="N", help="of the random start (default: drawn, and printed)")
    group = parser.add_argument_group("time, t = nu*gamma/(p*d)")
    group.add_argument("--t-max", type=number, metavar="TIME", required=True, help="final time (required)")
    for name in ("rtol", "atol"):
        group.add_argument(
            f"--{name}", type=number, default=default(mean_field, name), help="local accuracy (default: %(default)s)"
        )
    add_files(parser)


def _run(args: argparse.Namespace) -> int:
    files(args)
    chosen = None
    if args.start == "random":
        if args.p is None or args.d is None:
            raise ValueError(
                "a random start needs the widths and the input dimension; pass for example -p 5000 -d 1000"
            )
        chosen = _seed(args)
        start = MeanField.random(args.p, args.k, args.d, rng=chosen, orthogonal_teacher=args.orthogonal_teacher)
    else:
        start = MeanField.of(read(args.start).state)
        if args.p not in (None, start.p):
            raise ValueError(f"{args.start} has p = {start.p}, not {args.p}; leave -p out")
    with progress("mean-field") as report:
        sol = mean_field(
            Problem(args.activation, gamma=0.0),
            start,
            args.t_max,
            d=args.d,
            rtol=args.rtol,
            atol=args.atol,
            progress=report,
        )
    written = save(args, sol)
    largest = abs(sol.M[-1]).max()
    document = {
        "command": "mean-field",
        "problem": dataclasses.asdict(sol.problem),
        "p": start.p,
        "k": start.k,
        "d": args.d,
        "seed": None if chosen is None else str(chosen),
        "t": sol.t,
        "risk": sol.risk,
        "largest_overlap": largest,
        "mean_norm": sol.norms[-1].mean(),
        "stats": dict(sol.stats),
        "files": written,
    }
    rows = [
        ("problem", f"{args.activation}, p = {start.p}, k = {start.k}, gradient flow"),
        ("start", str(args.start) if chosen is None else f"random, d = {args.d}, seed {chosen}"),
        ("risk", f"{sol.risk[0]:.6g} at t = 0, {sol.risk[-1]:.6g} at t = {sol.t[-1]:g}"),
        ("at the end", f"max |M| = {largest:.6g}, mean Q_jj = {sol.norms[-1].mean():.6g}"),
        ("solver", f"{sol.stats['nfev']} evaluations, {sol.stats['wall_time']:.3g} s"),
        *([("written", ", ".join(map(str, written)))] if written else []),
    ]
    emit(args, document, lines(rows))
    return 0
