"""``hdsgd plateau``: what an uninformed start meets, and how it escapes."""

from __future__ import annotations

import argparse
from typing import Any

from .. import Problem, escape, plateau
from .._learning_rate import ROUTES
from ._options import add_problem, problem
from ._shell import Commands, command, emit, number, progress, whole

__all__ = ["add"]

_PLATEAU = """\
The plateau on which a student that knows nothing of the teacher (M = 0) begins: the
fixed point, the rates of its modes per unit of t = nu*gamma/(p*d), the information
exponent, and the laws of the escape that follow. With -d and --exit-T also the exit
time of the linear theory and the samples that it takes.
"""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = command(
        commands,
        "plateau",
        _run,
        summary="fixed point of an uninformed start, its rates, and the escape",
        description=_PLATEAU,
        examples=[
            "hdsgd plateau --activation quadratic --gamma 0.1 --spherical -p 5",
            "hdsgd plateau --activation abs --gamma 0.05 -p 6 -k 3 -d 100000 --exit-T 0.01",
            "hdsgd plateau --activation quadratic --gamma 0.1 --spherical --learning-rate",
        ],
    )
    add_problem(parser)
    group = parser.add_argument_group("network")
    group.add_argument("-p", type=whole, default=1, metavar="N", help="student width (default: %(default)s)")
    group.add_argument(
        "-k", type=whole, default=1, metavar="N", help="teacher width, with P = I (default: %(default)s)"
    )
    group.add_argument("-d", type=whole, metavar="N", help="input dimension, for the exit time (default: none)")
    group.add_argument(
        "--learning-rate",
        nargs="?",
        const="",
        choices=("", *ROUTES),
        metavar="ROUTE",
        help="find the largest learning rate and that of the fewest samples: to leading order in log d, or with ROUTE "
        f"at -d and --exit-T by the exit time {', '.join(ROUTES)}; the plateau only with --gamma, too (default: not)",
    )
    group.add_argument(
        "-T",
        "--exit-T",
        type=number,
        metavar="T",
        help="fraction by which the risk falls, for the exit time (default: none)",
    )


def _run(args: argparse.Namespace) -> int:
    if (args.d is None) != (args.exit_T is None):
        raise ValueError("the exit time needs both -d and --exit-T")
    if args.learning_rate and args.d is None:
        raise ValueError("a route of --learning-rate needs -d and --exit-T")
    chosen: Problem = problem(args)
    document: dict[str, Any] = {"command": "plateau", "p": args.p, "k": args.k}
    parts = []
    if args.learning_rate is None or args.gamma is not None:
        with progress("plateau"):
            parts.append(_plateau(args, chosen, document))
    elif args.d is not None and not args.learning_rate:
        raise ValueError("-d and --exit-T need --gamma, or a ROUTE of --learning-rate")
    if args.learning_rate is not None:
        exit_at = {"d": args.d, "T": args.exit_T, "by": args.learning_rate} if args.learning_rate else {}
        with progress("learning rate"):
            best = escape.learning_rate(chosen, p=args.p, k=args.k, **exit_at)
        numbers = ("largest", "optimal", "growth", "prefactor", "by", "samples")
        document["learning_rate"] = {name: getattr(best, name) for name in numbers}
        parts.append(str(best))
    emit(args, document, "\n".join(parts))
    return 0


def _plateau(args: argparse.Namespace, chosen: Problem, document: dict[str, Any]) -> str:
    """Add the plateau at the problem's gamma to the document; returns the report."""
    found = plateau(chosen, args.p, args.k)
    document |= {
        "teacher_exponent": found.teacher_exponent,
        "exponent": found.exponent,
        "laws": list(found.laws()),
    }
    text = str(found)
    if found.point is not None:
        document |= {
            "risk": found.point.risk,
            "kind": found.point.kind,
            "growth": found.growth,
            "rates": found.point.eigenvalues.real,
            "Q": found.point.state.Q,
        }
    if args.d is not None:
        t = found.exit_time(args.d, args.exit_T)
        document |= {"d": args.d, "T": args.exit_T, "exit_time": t}
        text += f"\n  at d = {args.d}, T = {args.exit_T:g}: exit time t = {t:.6g}"
        if chosen.gamma > 0.0:
            document["samples"] = found.samples(args.d, args.exit_T)
            text += f", samples n = {document['samples']:.6g}"
        try:
            document["corrected_time"] = found.corrected_time(args.d, args.exit_T)
            text += f"\n  with the noise of finite d, mean over random starts: t = {document['corrected_time']:.6g}"
        except ValueError as reason:
            document["corrected_time"] = None
            text += f"\n  no corrected time: {reason}"
    return text
