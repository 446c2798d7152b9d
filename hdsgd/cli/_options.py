"""Options that the solvers share: the problem, the start, output times and the exit; and what they stand for."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .. import Exit, Overlaps, Problem, Schedule
from .._checks import fits as memory_for
from .._kernel import BACKENDS
from .._overlaps import GENERATOR
from .._problem import learning_rate as rate_of
from .._random import master_seed
from .._starts import read
from ._shell import FIGURES, SOLUTIONS, Parser, default, number, output, seed, whole

__all__ = [
    "Begin",
    "add_files",
    "add_problem",
    "add_solver",
    "add_start",
    "add_times",
    "begin",
    "files",
    "fits",
    "problem",
    "stop",
    "times",
]

# Seeds are drawn short enough to be typed again, and exact in JSON readers that know only doubles.
_SEEDS = 2**53

#: the number of stored times, from the time that one step of SGD takes
Rows: TypeAlias = Callable[[float], int]

_FIELDS = tuple(field.name for field in dataclasses.fields(Problem))


@dataclass(frozen=True)
class Begin:
    """Where a run begins, and with what.

    Attributes
    ----------
    problem : Problem
    state : Overlaps
    d : int or None
    seed : int or None
        None where nothing is drawn.
    text : str
        The start in words.
    """

    problem: Problem
    state: Overlaps
    d: int | None
    seed: int | None
    text: str


def add_problem(parser: Parser) -> None:
    """Options of `hdsgd.Problem`."""
    known = {field.name: field.default for field in dataclasses.fields(Problem)}
    group = parser.add_argument_group("problem")
    group.add_argument(
        "--activation",
        metavar="SPEC",
        help=f"of the student: built-in or saved name, or a formula in x (default: {known['activation']})",
    )
    group.add_argument(
        "--teacher",
        dest="teacher_activation",
        metavar="SPEC",
        help="activation of the teacher (default: the student's)",
    )
    group.add_argument(
        "--gamma",
        type=learning_rate,
        metavar="GAMMA|T:GAMMA,...",
        help="learning rate, 0 is gradient flow in the same t; or a schedule: from each time T on its rate, the first "
        f"from 0, such as 0:0.1,2:0.05 (default: {known['gamma']})",
    )
    group.add_argument("--Delta", type=number, help=f"variance of the label noise (default: {known['Delta']})")
    group.add_argument(
        "--spherical",
        action=argparse.BooleanOptionalAction,
        help="rescale each student's weights to norm sqrt(d) after every step (default: no)",
    )
    group.add_argument(
        "--batch-size",
        type=whole,
        metavar="N",
        help=f"fresh samples whose mean gradient makes a step (default: {known['batch_size']})",
    )
    group.add_argument(
        "--weight-decay",
        type=number,
        metavar="ETA",
        help="each step multiplies W by 1 - ETA*gamma/(p*d), too; not with --spherical "
        f"(default: {known['weight_decay']:g})",
    )
    group.add_argument(
        "--second-layer-ratio",
        type=number,
        metavar="RATIO",
        help="gamma_a/gamma: the learning rate of the second layer in units of gamma; 0 keeps it fixed "
        f"(default: {known['second_layer_ratio']:g})",
    )


def learning_rate(text: str) -> float | Schedule:
    """A number, or times and learning rates as they are printed: 0:0.1,2:0.05."""
    try:
        return rate_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_start(parser: Parser, *, ensemble: bool) -> None:
    """Options of the start; of its replicas, too, for solvers that take them."""
    group = parser.add_argument_group("start")
    group.add_argument(
        "--start",
        metavar="random|FILE",
        default="random",
        help="random weights, or Q, M, P from a .json or .npz file, or the last time of a saved solution, which brings "
        "its problem as the default (default: %(default)s)",
    )
    group.add_argument("-p", type=whole, metavar="N", help="student width (default: that of FILE; random: 1)")
    group.add_argument("-k", type=whole, metavar="N", help="teacher width (default: that of FILE; random: 1)")
    group.add_argument(
        "-d",
        type=whole,
        metavar="N",
        help="input dimension (needed, unless FILE is a saved solution that knows it)"
        if ensemble
        else "input dimension in which random weights are drawn (needed for --start random)",
    )
    group.add_argument(
        "--orthogonal-teacher",
        action="store_true",
        help="random start with P = I (default: independent teacher rows, uniform on the sphere)",
    )
    group.add_argument(
        "--replica",
        type=whole,
        metavar="I",
        help="where FILE has replicas: start from number I, counted from 0 "
        + ("(default: from each of them)" if ensemble else "(needed there)"),
    )
    if ensemble:
        group.add_argument(
            "--replicas",
            type=whole,
            metavar="N",
            help="number of independent runs, with --start random each from a start of its own (default: one run, "
            "or one for each start in FILE)",
        )
        group.add_argument(
            "--shared-start", action="store_true", help="all replicas begin at the same random start (default: no)"
        )
    group.add_argument("--seed", type=seed, metavar="N", help="of all random numbers (default: drawn, and printed)")


def add_times(parser: Parser, *, own_steps: bool) -> None:
    """Options for the horizon, output times and the exit."""
    group = parser.add_argument_group("time, t = nu*gamma/(p*d)")
    group.add_argument("--t-max", type=number, metavar="TIME", required=True, help="final time (required)")
    group.add_argument(
        "--times",
        metavar="N|T1,T2,...",
        help="what to store: a number of equal times from 0 to the final one, or times separated by commas "
        f"(default: {'the steps of the solver' if own_steps else '201'})",
    )
    exits = group.add_mutually_exclusive_group()
    exits.add_argument(
        "--exit-T",
        type=number,
        metavar="T",
        help="stop when the excess risk is at most (1 - T) times that of the start, 0 < T < 1 (default: no stop)",
    )
    exits.add_argument(
        "--exit-level", type=number, metavar="RISK", help="stop when the excess risk is at most this (default: no stop)"
    )


def add_solver(parser: Parser, solver: Any) -> Any:
    """A group for the solver's own options, with the one that all have."""
    group = parser.add_argument_group("solver")
    group.add_argument(
        "--backend",
        choices=BACKENDS,
        default=default(solver, "backend"),
        help="compiled code or numpy (default: %(default)s: C where a compiler works)",
    )
    return group


def add_files(parser: Parser) -> None:
    """Options for what is written."""
    group = parser.add_argument_group("files")
    group.add_argument("--out", metavar="FILE", help="save the solution as .npz or .nc (default: not saved)")
    group.add_argument(
        "--plot", metavar="FILE", help="draw risk and overlaps as .png, .pdf or .svg (default: not drawn)"
    )


def files(args: argparse.Namespace) -> tuple[Path | None, Path | None]:
    """Where to save and to draw, refused before the work if it cannot succeed."""
    return output("--out", args.out, SOLUTIONS), output("--plot", args.plot, FIGURES)


def stop(args: argparse.Namespace) -> Exit | None:
    """The exit that the options ask for."""
    if args.exit_T is None and args.exit_level is None:
        return None
    return Exit(T=args.exit_T, level=args.exit_level)


def fits(replicas: int, rows: int, p: int, k: int) -> None:
    """Refuse what is larger than the machine, before starts are drawn: for so many that alone would take hours."""
    memory_for(
        replicas * (GENERATOR + 8.0 * (rows * (p * (p + k + 1) + 1) + 3 * p * (p + k))),
        f"the results of {_count(replicas, 'replica')} of p = {p}, k = {k} at {_count(rows, 'time')}",
        "decrease --replicas, the number of --times, or -p",
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def times(args: argparse.Namespace) -> NDArray[np.float64] | None:
    """The output times that ``--times`` asks for."""
    text = args.times
    if text is None:
        return None
    if "," in text:
        parts = [part for part in text.split(",") if part.strip()]
        try:
            return np.array([float(part) for part in parts or ("none",)])
        except ValueError:
            raise ValueError(f"--times {text}: times are numbers separated by commas, such as 0,0.5,1") from None
    try:
        count = whole(text)
    except argparse.ArgumentTypeError:
        count = 0
    if count < 2:
        one = f" (one time: '{text},')" if _is_time(text) else ""
        shown = text if text.strip() else repr(text)
        raise ValueError(f"--times {shown}: pass a count of at least 2, or times >= 0 separated by commas{one}")
    fits(1, count, 1, 1)
    if not 0.0 < args.t_max < math.inf:
        return None  # one time only: t_max itself is checked by the solver
    return np.linspace(0.0, args.t_max, count)


def _is_time(text: str) -> bool:
    try:
        return 0.0 <= float(text) < math.inf
    except ValueError:
        return False


def begin(args: argparse.Namespace, *, ensemble: bool, rows: Rows = lambda step: 1) -> Begin:
    """The problem and the start that the options ask for; `rows` is the number of stored times, for a step in time."""
    if args.start == "random":
        return _random(args, ensemble, rows)
    for option, given in (
        ("--orthogonal-teacher", args.orthogonal_teacher),
        ("--shared-start", ensemble and args.shared_start),
        ("-d", not ensemble and args.d is not None),
        ("--seed", not ensemble and args.seed is not None),
    ):
        if given:
            raise ValueError(f"{option} is for --start random; leave it out to start from {args.start}")
    found = read(args.start)
    state = found.state
    if args.replica is not None:
        if state.replicas is None:
            raise ValueError(f"{args.start} has no replicas; leave --replica out")
        if not 0 <= args.replica < state.replicas:
            raise ValueError(f"--replica {args.replica}: {args.start} has replicas 0 to {state.replicas - 1}")
        state = state.replica(args.replica)
    elif not ensemble and state.replicas is not None:
        raise ValueError(f"{args.start} has {state.replicas} replicas; choose one with --replica, counted from 0")
    for name in ("p", "k"):
        wanted = getattr(args, name)
        if wanted not in (None, getattr(state, name)):
            raise ValueError(f"{args.start} has {name} = {getattr(state, name)}, not {wanted}; leave -{name} out")
    d = args.d if args.d is not None else found.d
    if ensemble and d is None:
        raise ValueError("the input dimension is needed; pass for example -d 1000")
    chosen = problem(args, found.problem)
    count = args.replicas if ensemble and args.replicas is not None else state.replicas
    _fits_all(chosen, 1 if count is None else count, rows, state.p, state.k, d)
    return Begin(chosen, state, d, _seed(args) if ensemble else None, str(args.start))


def _random(args: argparse.Namespace, ensemble: bool, rows: Rows) -> Begin:
    if args.replica is not None:
        raise ValueError("--replica is for a start from a file; leave it out")
    if args.d is None:
        raise ValueError("a random start needs the input dimension; pass for example -d 1000")
    chosen, seed = problem(args), _seed(args)
    own = ensemble and args.replicas is not None and not args.shared_start
    p, k = (1 if width is None else width for width in (args.p, args.k))
    _fits_all(chosen, args.replicas if ensemble and args.replicas is not None else 1, rows, p, k, args.d)
    state = Overlaps.random(
        p,
        k,
        args.d,
        rng=seed,
        spherical=chosen.spherical,
        orthogonal_teacher=args.orthogonal_teacher,
        replicas=args.replicas if own else None,
    )
    text = "random, one for each replica" if own else "random"
    return Begin(chosen, state, args.d, seed, text)


def _fits_all(problem: Problem, replicas: int, rows: Rows, p: int, k: int, d: int | None) -> None:
    if p >= 1 and k >= 1 and (d is None or d >= 1):  # otherwise it is refused for that
        fits(replicas, rows(0.0 if d is None else min(problem.schedule.values) / (p * d)), p, k)


def problem(args: argparse.Namespace, base: Problem | None = None) -> Problem:
    """The problem that the options ask for; what they leave out is that of `base`."""
    given = {name: getattr(args, name) for name in _FIELDS if getattr(args, name) is not None}
    return Problem(**given) if base is None else dataclasses.replace(base, **given)


def _seed(args: argparse.Namespace) -> int:
    return master_seed(None) % _SEEDS if args.seed is None else master_seed(args.seed)
