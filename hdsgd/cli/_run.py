"""``hdsgd solve``, ``sde`` and ``simulate``: run a solver, say how it went, save and draw."""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import MeanFieldSolution, Solution, Status, simulate, solve_ode, solve_sde
from .. import _ode as ode_module
from .. import _simulate as simulate_module
from .._checkpoint import opened
from .._checks import time_grid
from .._statistics import averaged, median
from ._options import Begin, add_files, add_problem, add_solver, add_start, add_times, begin, files, stop, times
from ._remedies import translated
from ._shell import Commands, Parser, command, default, draw, emit, lines, number, progress, writing

__all__ = ["add", "save"]

_SOLVE = """\
Solve the deterministic limit of high dimension, the ODE of the overlaps Q and M, in
the time t = nu*gamma/(p*d), from one start.
"""

_SDE = """\
Paths of the diffusion that the overlaps follow at large finite d, in the time
t = nu*gamma/(p*d). Its steps do not get shorter as d grows, as those of simulate do,
but each costs more: up to d of 1e4 or 1e5 simulate, which is exact, is the faster one.
"""

_SIMULATE = """\
Simulate one-pass SGD at finite input dimension d: exactly in law by the Markov chain
of the overlaps, or with explicit weights. Time is t = nu*gamma/(p*d) after nu steps;
alpha = N*nu/d samples per dimension, N the batch size.

A run takes t_max*p*d/gamma steps, so it gets longer like d. What one step costs does
not depend on d for the chain of the overlaps; with explicit weights it grows, too.
"""

_TIMES: int = default(time_grid, "count")  # what solvers of ensembles store

_CODES = """\
exit code: 0 also when a run diverges or does not exit (the status says so), 1 when
the integrator fails, 2 on bad input.
"""


def add(commands: Commands) -> None:
    """Add the three commands."""
    parser = _command(
        commands,
        "solve",
        _solve,
        "solve the ODE of the overlaps (limit of high dimension)",
        _SOLVE,
        [
            "hdsgd solve -p 4 -k 2 -d 1000 --t-max 20 --seed 1",
            "hdsgd solve --activation quadratic --gamma 0.1 --spherical -d 3000 --t-max 5 --exit-T 0.01 --out run.npz",
            "hdsgd solve --gamma 0:1,50:0.1 --Delta 0.1 -p 2 -d 1000 --t-max 100 --seed 1",
        ],
    )
    add_start(parser, ensemble=False)
    add_times(parser, own_steps=True)
    group = add_solver(parser, solve_ode)
    for name, text in (("rtol", "relative"), ("atol", "absolute")):
        group.add_argument(
            f"--{name}",
            type=number,
            default=default(solve_ode, name),
            help=f"{text} accuracy of Q and M (default: %(default)s)",
        )
    group.add_argument(
        "--method",
        choices=ode_module.METHODS,
        default=default(solve_ode, "method"),
        help="of scipy; auto is DOP853, changing to Radau where the equations are stiff (default: %(default)s)",
    )
    add_files(parser)

    parser = _command(
        commands,
        "sde",
        _sde,
        "paths of the diffusion of the overlaps at large finite d",
        _SDE,
        ["hdsgd sde --activation quadratic --gamma 0.1 --spherical -d 3000 --t-max 4 --exit-T 0.1 --replicas 50"],
    )
    add_start(parser, ensemble=True)
    add_times(parser, own_steps=False)
    group = add_solver(parser, solve_sde)
    group.add_argument(
        "--dt", type=number, default=default(solve_sde, "dt"), help="largest time step (default: %(default)s)"
    )
    group.add_argument(
        "--order",
        choices=("all", "leading"),
        default=default(solve_sde, "order"),
        help="leading: the covariance to leading order in gamma/p, cheaper for wide students (default: %(default)s)",
    )
    add_files(parser)

    parser = _command(
        commands,
        "simulate",
        _simulate,
        "simulate SGD at finite d, exactly in law or with explicit weights",
        _SIMULATE,
        [
            "hdsgd simulate -p 4 -k 2 -d 1000 --t-max 5 --replicas 20 --seed 1 --out runs.npz",
            "hdsgd simulate --activation 'x**2' --gamma 0.1 --spherical -d 500 --t-max 2 --method weights",
            "hdsgd simulate -p 4 -k 2 -d 100000 --t-max 10 --seed 1 --checkpoint run.checkpoint",
        ],
    )
    add_start(parser, ensemble=True)
    add_times(parser, own_steps=False)
    group = add_solver(parser, simulate)
    group.add_argument(
        "--method",
        choices=simulate_module.METHODS,
        default="overlaps",
        help="the chain of the overlaps or explicit weights (default: %(default)s)",
    )
    group.add_argument(
        "--precision",
        choices=simulate_module.PRECISIONS,
        default=default(simulate, "precision"),
        help="of explicit weights while they are trained (default: %(default)s)",
    )
    group.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="keep the run in FILE while it goes on, to go on from after an interrupt or crash; needs a C compiler "
        "(default: not kept)",
    )
    group.add_argument("--resume", action="store_true", help="go on with the run in the file of --checkpoint")
    add_files(parser)


def _command(commands: Commands, name: str, run: Any, summary: str, description: str, examples: list[str]) -> Parser:
    parser = command(commands, name, run, summary=summary, description=description, examples=examples, notes=_CODES)
    add_problem(parser)
    return parser


def _solve(args: argparse.Namespace) -> int:
    files(args)
    grid = times(args)
    start = begin(args, ensemble=False, rows=lambda step: 1 if grid is None else grid.size)
    with progress("solve") as report:
        sol = solve_ode(
            start.problem,
            start.state,
            args.t_max,
            times=grid,
            stop=stop(args),
            rtol=args.rtol,
            atol=args.atol,
            method=args.method,
            backend=args.backend,
            progress=report,
        )
    return _finish(args, "solve", start, sol)


def _sde(args: argparse.Namespace) -> int:
    files(args)
    grid = times(args)
    start = begin(args, ensemble=True, rows=lambda step: _rows(args, grid))
    assert start.d is not None
    with progress("sde") as report:
        sol = solve_sde(
            start.problem,
            start.state,
            args.t_max,
            d=start.d,
            dt=args.dt,
            replicas=args.replicas,
            rng=start.seed,
            times=grid,
            stop=stop(args),
            order=args.order,
            backend=args.backend,
            progress=report,
        )
    return _finish(args, "sde", start, sol)


def _resumed(args: argparse.Namespace) -> str | None:
    """The file of --checkpoint; a run that is there is gone on with only if that was asked for."""
    path: str | None = args.checkpoint
    if args.resume and path is None:
        raise ValueError("--resume goes on with a run in a file; name it with --checkpoint FILE.")
    if path is not None and os.path.lexists(path) != args.resume:
        if args.resume:
            raise ValueError(f"there is no checkpoint {path} to resume; leave --resume out to begin.")
        raise ValueError(f"the checkpoint {path} exists; add --resume to go on with it, or remove it.")
    if path is not None and args.resume and args.seed is None:
        args.seed = opened(path).seed
    return path


def _simulate(args: argparse.Namespace) -> int:
    files(args)
    grid = times(args)
    checkpoint = _resumed(args)
    start = begin(args, ensemble=True, rows=lambda step: _rows(args, grid, step))
    steps = float(start.problem.schedule.steps(args.t_max)) * start.state.p * (start.d or 1)
    steps *= start.state.replicas or args.replicas or 1
    with progress("simulate", max(steps, 1.0), "step") as report:
        sol = simulate(
            start.problem,
            start.state,
            args.t_max,
            d=start.d,
            replicas=args.replicas,
            rng=start.seed,
            times=grid,
            stop=stop(args),
            method=args.method,
            precision=args.precision,
            backend=args.backend,
            checkpoint=checkpoint,
            progress=report,
        )
    return _finish(args, "simulate", start, sol)


def _rows(args: argparse.Namespace, grid: NDArray[np.float64] | None, step: float = 0.0) -> int:
    """The number of stored times; equal ones by default, no more than there are steps of this length."""
    if grid is not None:
        return int(grid.size)
    if not args.t_max > 0.0:
        return 1
    return _TIMES if step == 0.0 else int(min(_TIMES, args.t_max / step + 1.0))


def _finish(args: argparse.Namespace, name: str, start: Begin, sol: Solution) -> int:
    """Save, draw and report a solution."""
    written = save(args, sol)
    final, exits = _final(sol), _exits(sol)
    codes, counts = np.unique(sol.status, return_counts=True)
    document: dict[str, Any] = {
        "command": name,
        "problem": dataclasses.asdict(sol.problem),
        "start": start.text,
        "p": sol.p,
        "k": sol.k,
        "d": start.d,
        "seed": None if start.seed is None else str(start.seed),
        "replicas": sol.replicas,
        "t_max": args.t_max,
        "stop": None if sol.stop is None else dataclasses.asdict(sol.stop),
        "method": sol.method,
        "final": final,
        "exit": exits,
        "status": {Status(int(code)).name: int(count) for code, count in zip(codes, counts, strict=True)},
        "message": translated(sol.message),
        "t": sol.t,
        **({"risk": sol.risk} if sol.replicas is None else {}),
        "stats": dict(sol.stats),
        "versions": dict(sol.versions),
        "files": written,
    }
    rows = [
        ("problem", str(sol.problem)),
        ("start", _start(start, sol)),
        ("time", _time(args, sol)),
        ("solver", _solver(sol)),
        ("final risk" if _ends(args, sol) else "last risk", _final_text(sol, final)),
        *([] if exits is None else [("exit time", _exit_text(sol, exits, args.t_max))]),
        ("status", _status(sol)),
        *([("written", ", ".join(map(str, written)))] if written else []),
    ]
    emit(args, document, lines(rows))
    return 1 if np.any(np.asarray(sol.status) == Status.FAILED) else 0


def save(args: argparse.Namespace, sol: Solution | MeanFieldSolution) -> list[Path]:
    """Write the files of `add_files`."""
    out, plot = files(args)
    if out is not None:
        with writing("--out", out):
            sol.save(out)
    if plot is not None:
        with writing("--plot", plot):
            draw(sol.plot(), plot)
    return [path for path in (out, plot) if path is not None]


def _ends(args: argparse.Namespace, sol: Solution) -> bool:
    """Whether the last stored time is where the run ended."""
    asked = times(args)
    return asked is None or not asked.size or asked[-1] >= args.t_max or bool(np.any(sol.status != Status.COMPLETED))


def _final(sol: Solution) -> dict[str, Any]:
    """The last stored time; no mean where replicas are missing there: those that are left are not like all."""
    if not sol.t.size:
        return {"t": None, "risk": None, "standard_error": None, "runs": 0}
    if sol.replicas is None:
        last = {"t": sol.t[-1], "alpha": sol.alpha[-1], "risk": sol.risk[-1], "standard_error": None, "runs": 1}
        return {**last, "Q": sol.Q[-1], "M": sol.M[-1]}
    mean, error = averaged(sol.risk[:, -1])
    runs = int(np.count_nonzero(np.isfinite(sol.risk[:, -1])))
    return {"t": sol.t[-1], "alpha": sol.alpha[-1], "risk": mean, "standard_error": error, "runs": runs}


def _exits(sol: Solution) -> dict[str, Any] | None:
    """Statistics of the exit times: a mean only if all exited; the median counts censored runs as the latest."""
    if sol.stop is None:
        return None
    every = np.atleast_1d(np.asarray(sol.exit_time, dtype=float))
    mean, error = averaged(every)
    exited = int(np.count_nonzero(np.isfinite(every)))
    status = np.atleast_1d(np.asarray(sol.status))
    diverged = int(np.count_nonzero((status == Status.DIVERGED) | (status == Status.FAILED)))
    return {
        "mean": mean,
        "standard_error": error,
        "median": median(every),
        "exited": exited,
        "censored": every.size - exited - diverged,
        "diverged": diverged,
        "times": every,
    }


def _start(start: Begin, sol: Solution) -> str:
    parts = [start.text, f"p = {sol.p}", f"k = {sol.k}"]
    parts += [f"d = {start.d}"] if start.d is not None else []
    parts += [f"seed {start.seed}"] if start.seed is not None else []
    return ", ".join(parts)


def _time(args: argparse.Namespace, sol: Solution) -> str:
    stored = f"t = nu*gamma/(p*d) up to {args.t_max:g}, stored at {sol.t.size} point{'' if sol.t.size == 1 else 's'}"
    asked = times(args)
    if asked is None:
        return stored
    moved = np.abs(sol.t - asked[: sol.t.size]).max(initial=0.0)
    gaps = np.diff(asked, prepend=0.0)
    if not moved > 0.01 * gaps[gaps > 0.0].min(initial=np.inf):
        return stored
    return f"{stored}, moved by up to {moved:.2g} to whole steps of SGD"


def _solver(sol: Solution) -> str:
    stats = sol.stats
    runs = "" if sol.replicas is None else f", {sol.replicas} replicas"
    details = {"backend": "backend {}", "rtol": "rtol {:g}", "atol": "atol {:g}", "dt": "dt {:g}", "steps": "{} steps"}
    shown = [text.format(stats[key]) for key, text in details.items() if key in stats]
    return f"{sol.method}{runs}, {', '.join(shown)}, {stats['wall_time']:.2g} s"


def _final_text(sol: Solution, final: dict[str, Any]) -> str:
    if final["runs"] < (sol.replicas or 1):
        return _gone(sol, final)
    at = f"at t = {final['t']:.6g}, alpha = {final['alpha']:.6g}"
    if sol.replicas is None:
        return f"{final['risk']:.6g} {at}"
    return f"{final['risk']:.6g}{_plus_minus(final['standard_error'])} {at} (mean of all {sol.replicas} replicas)"


def _gone(sol: Solution, final: dict[str, Any]) -> str:
    """Why there is no risk, or no mean of it, at the last stored time."""
    if sol.replicas is None:
        return "not stored: the run ended before the first of the times"
    gone = np.asarray(sol.status)[~np.isfinite(sol.risk[:, -1])]
    exited = np.count_nonzero(gone == Status.EXITED)
    how = "exited" if exited == gone.size else "ended" if not exited else "exited or ended"
    who = f"all {sol.replicas}" if gone.size == sol.replicas else f"{gone.size} of {sol.replicas}"
    return f"no mean at t = {final['t']:.6g}: {who} replicas had {how} before"


def _exit_text(sol: Solution, exits: dict[str, Any], t_max: float) -> str:
    missing = f"{exits['censored']} censored at t = {t_max:g}" if exits["censored"] else ""
    if exits["diverged"]:
        missing += f"{', ' if missing else ''}{exits['diverged']} diverged"
    if sol.replicas is None:
        return f"{exits['mean']:.6g}" if exits["exited"] else f"none: {missing}"
    total = len(exits["times"])
    if not exits["exited"]:
        return f"none of the {total} replicas exited: {missing}"
    median = f"median {exits['median']:.6g}" if np.isfinite(exits["median"]) else "no median: over half are missing"
    if missing:
        biased = "biased low" if exits["censored"] else "biased"
        return f"{median}; a mean over the {exits['exited']} of {total} replicas that exited is {biased} ({missing})"
    return f"{exits['mean']:.6g}{_plus_minus(exits['standard_error'])} (mean of all {total} replicas), {median}"


def _status(sol: Solution) -> str:
    reason = f" The integrator says: {sol.stats['reason']}" if "reason" in sol.stats else ""
    return translated(sol.message) + reason


def _plus_minus(error: float) -> str:
    return f" ± {error:.2g}" if np.isfinite(error) else ""
