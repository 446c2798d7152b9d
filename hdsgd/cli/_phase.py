"""``hdsgd phase`` and ``hdsgd fixed-point``: where training leads."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .. import FixedPoint, fixed_point, floor, itinerary, scaling, solve_ode
from .._checks import real
from ._options import Begin, add_problem, add_start, begin, problem
from ._shell import FIGURES, Commands, command, default, draw, emit, number, output, progress, whole, writing

__all__ = ["add"]

_PHASE = """\
The phase diagram of width p = p0 d^kappa, learning rate gamma = gamma0 d^-delta and
batch size n_b = n0 d^mu: the region, the terms that survive as d grows, and the
region's own clock tau = nu delta_t after nu steps, beside t = nu*gamma/(p*d). Exponents
are decimals or fractions, such as --delta -3/8.
"""
_FIXED = """\
A fixed point of the ODE, by Newton's method: its risk, and the rates of its modes per
unit of t = nu*gamma/(p*d), which tell whether it is stable. It begins at --start,
after the ODE has run for --relax; with --floor it begins near perfect learning, p
being a multiple of k, and finds the stable point at which the noise ends training.
With --along it finds every fixed point that the ODE comes close to within this time:
the height (excess risk) and the length in t of each plateau.
"""


def add(commands: Commands) -> None:
    """Add the commands."""
    parser = command(
        commands,
        "phase",
        _phase,
        summary="region of the phase diagram of width, learning rate and batch size",
        description=_PHASE,
        examples=["hdsgd phase --kappa 0 --delta 1/4 --p0 8 --gamma0 8 -d 1000", "hdsgd phase --delta -3/8 --mu 1/2"],
    )
    group = parser.add_argument_group("exponents and prefactors")
    for name, of in (("kappa", "width"), ("delta", "learning rate, with a minus"), ("mu", "batch size")):
        group.add_argument(
            f"--{name}", default="0", metavar="NUMBER", help=f"exponent of the {of} (default: %(default)s)"
        )
    for name, of in (("p0", "width"), ("gamma0", "learning rate"), ("n0", "batch size")):
        known = default(scaling, name)
        group.add_argument(
            f"--{name}", type=number, default=known, help=f"prefactor of the {of} (default: %(default)s)"
        )
    group.add_argument("-d", type=whole, metavar="N", help="input dimension to give numbers for (default: none)")

    parser = command(
        commands,
        "fixed-point",
        _fixed,
        summary="fixed point of the ODE, its stability, and the floor of the noise",
        description=_FIXED,
        examples=[
            "hdsgd fixed-point --floor --gamma 8 --Delta 1e-3 -p 8 -k 4",
            "hdsgd fixed-point --activation quadratic --gamma 0 -p 2 -d 1000 --relax 100 --seed 1",
            "hdsgd fixed-point --gamma 0.5 --Delta 1e-3 -p 3 -k 3 -d 1000000 --seed 0 --along 2000 --plot path.png",
        ],
    )
    add_problem(parser)
    add_start(parser, ensemble=False)
    group = parser.add_argument_group("fixed point")
    group.add_argument("--floor", action="store_true", help="near perfect learning, instead of from --start")
    group.add_argument(
        "--relax", type=number, default=0.0, metavar="TIME", help="run the ODE before, for this time t (default: 0)"
    )
    group.add_argument(
        "--along",
        type=number,
        metavar="TIME",
        help="all that the ODE visits until t but perfect learning, which has no risk (default: only one)",
    )
    group.add_argument(
        "--plot",
        metavar="FILE",
        help="draw the rates, and the overlaps or the path's risk, as .png, .pdf or .svg (default: not drawn)",
    )


def _phase(args: argparse.Namespace) -> int:
    point = scaling(args.kappa, args.delta, args.p0, args.gamma0, mu=args.mu, n0=args.n0)
    document: dict[str, Any] = {
        "command": "phase",
        **{name: str(getattr(point, name)) for name in ("kappa", "delta", "mu", "step_exponent", "samples_exponent")},
        "region": point.region,
        "terms": list(point.terms),
        "outcome": point.outcome,
    }
    text = str(point)
    if args.d is not None:
        numbers = {name: getattr(point, name)(args.d) for name in ("p", "gamma", "batch_size", "step_time")}
        document |= {"d": args.d, **numbers, "t_of_tau": float(point.time(1.0, args.d))}
        text += (
            f"\nat d = {args.d}: p = {numbers['p']}, gamma = {numbers['gamma']:.6g}, "
            f"batches of {numbers['batch_size']}; a step takes tau = {numbers['step_time']:.6g}, "
            f"and t = {document['t_of_tau']:.6g} tau"
        )
    emit(args, document, text)
    return 0


def _fixed(args: argparse.Namespace) -> int:
    plot = output("--plot", args.plot, FIGURES)
    if args.floor:
        given = {
            "--start": args.start != "random",
            "--orthogonal-teacher": args.orthogonal_teacher,
            "--relax": args.relax,
            **{f"--{name}": getattr(args, name) is not None for name in ("seed", "replica", "along")},
            "-d": args.d is not None,
        }
        for option in given:
            if given[option]:
                raise ValueError(f"--floor begins near perfect learning; leave {option} out")
        with progress("floor"):
            found, start = floor(problem(args), args.p or 1, args.k or 1), None
    elif args.along is not None:
        if args.relax:
            raise ValueError("--along begins at --start; leave --relax out")
        return _along(args, real("--along", args.along, low=0.0), plot)
    else:
        start = begin(args, ensemble=False)
        state = start.state
        with progress("fixed point"):
            if real("--relax", args.relax, low=0.0):
                state = solve_ode(start.problem, state, args.relax, times=[args.relax]).overlaps()
            found = fixed_point(start.problem, state)
    if plot is not None:
        with writing("--plot", plot):
            draw(found.plot(), plot)
    document = {"command": "fixed-point", **_document(found)}
    text = f"{found}\n  {_rates(found)}"
    if start is not None:
        document["seed"] = start.seed
        text += _from(start)
    emit(args, document, text)
    return 0


def _along(args: argparse.Namespace, t_max: float, plot: Path | None) -> int:
    start = begin(args, ensemble=False)
    with progress("itinerary"):
        found = itinerary(solve_ode(start.problem, start.state, t_max))
    if plot is not None:
        with writing("--plot", plot):
            draw(found.plot(), plot)
    visits = [{"begin": v.begin, "end": v.end, "length": v.length, **_document(v.point)} for v in found]
    document = {
        "command": "fixed-point",
        "seed": start.seed,
        "t_max": t_max,
        "visits": visits,
        "unresolved": found.unresolved,
    }
    rates = "".join(f"\n  {i}: {_rates(v.point)}" for i, v in enumerate(found, start=1))
    emit(args, document, f"{found}{rates}{_from(start)}")
    return 0


def _from(start: Begin) -> str:
    return f"\n  start: {start.text}" + ("" if start.seed is None else f", d = {start.d}, seed {start.seed}")


def _document(point: FixedPoint) -> dict[str, Any]:
    return {
        "kind": point.kind,
        "risk": point.risk,
        "growing": point.unstable,
        "marginal": point.marginal,
        "rates": point.eigenvalues.real,
        "Q": point.state.Q,
        "M": point.state.M,
        "a": point.state.a,
    }


def _rates(point: FixedPoint) -> str:
    rates = point.eigenvalues.real
    return f"largest rates: {', '.join(f'{rate:.6g}' for rate in rates[:8])}{', ...' if rates.size > 8 else ''}"
