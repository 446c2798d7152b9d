"""SGD at finite d, exactly in law: the Markov chain of the overlaps, or explicit weights."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _chain_numpy, _kernel, _simulate_c, _weights_numpy
from ._checkpoint import Checkpoint, opened
from ._checks import callback, choice, fits, integer, time_grid
from ._compiler import CompilerError
from ._errors import warn_backend
from ._overlaps import Overlaps, Weights
from ._paths import Paths, Setup, frame, realise
from ._problem import Problem, check_start
from ._random import RNG, WEIGHTS, master_seed, stream
from ._schedule import Clock
from ._solution import Exit, Solution, Status, stop_condition

__all__ = ["simulate"]

Array = NDArray[np.float64]

METHODS = ("overlaps", "weights")
PRECISIONS = ("double", "single")
MOST_STEPS = 2**53  # beyond it, step numbers and times are not exact


def simulate(
    problem: Problem,
    state: Overlaps | Weights,
    t_max: float,
    *,
    d: int | None = None,
    replicas: int | None = None,
    rng: RNG = None,
    times: ArrayLike | None = None,
    stop: Exit | None = None,
    method: str | None = None,
    precision: str = "double",
    backend: str = "auto",
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Callable[[float], None] | None = None,
) -> Solution:
    """Simulate one-pass SGD at finite input dimension.

    Parameters
    ----------
    problem : Problem
        With gamma > 0. Where a `Schedule` changes gamma, the change comes with the step that is nearest in time.
    state : Overlaps or Weights
        The start. With a replica axis each replica has its own start; without one, all share it.
    t_max : float
        Final time t = nu*gamma/(p*d), after ``round(t_max*p*d/gamma)`` steps: 0, or at least one step.
    d : int
        Input dimension; may be left out with Weights.
    replicas : int, optional
        Number of independent runs. None: as many as `state` has, or a single run without a replica axis.
    rng : None, int, SeedSequence or Generator
        Replica i has its own stream: on one machine and backend its path is the same, bit for bit, for any number of
        replicas or threads. Recorded as ``sol.seed``. To go on from a solution, pass another seed: the same one draws
        the same numbers again, and correlates both parts.
    times : array_like, shape (n_t,), optional
        Increasing times in [0, t_max] to store, each rounded to a whole number of steps; 201 equal ones by default.
        Times that are rounded to the same step keep a row each.
    stop : Exit, optional
        Stop each replica at its first passage, tested after every step.
    method : {None, "overlaps", "weights"}
        "overlaps": the Markov chain of the overlaps, exact in law at any d, at a cost per step that does not depend on
        d. "weights": SGD on explicit weights, for any d; from Overlaps it starts at weights with exactly
        these overlaps, in a random orientation. None: "weights" if `state` is Weights, "overlaps" if it is Overlaps.
    precision : {"double", "single"}
        Of the explicit weights and inputs: "single" is several times faster and keeps overlaps to about 1e-6. Weights
        go in and come out in double precision, and the numpy backend computes in it.
    backend : {"auto", "c", "numpy"}
        "auto" is C, or numpy with a `BackendWarning` where there is no compiler.
    checkpoint : path, optional
        A file to keep the run in while it goes on, replaced every few seconds and when it ends or is interrupted (a
        note of the KeyboardInterrupt then says how far it is). If it exists, the run goes on from there, bit for bit as
        if it had never stopped, whatever ended it; with ``rng=None`` the seed is that of the file. It is left there at
        the end. For the C backend.
    progress : callable, optional
        Called with the fraction that is done, by the calling thread.

    Returns
    -------
    Solution
        ``sol.steps`` are step numbers and ``sol.t = sol.steps*gamma/(p*d)``, summed over the pieces of a schedule.
        Rows of a replica after its exit or divergence are NaN; a single run ends there instead, with the exit as its
        last row when ``times`` is None. ``sol.weights`` are the weights at the end (method "weights"; None if a replica
        has diverged).

    See Also
    --------
    solve_ode : the limit d -> infinity.
    solve_sde : the diffusion that the overlaps follow at large d.

    Raises
    ------
    ValueError, TypeError
        Arguments out of range; gamma = 0; d missing, or too small for the overlaps; a t_max below one step; a level of
        the exit below the rounding of the risk; a checkpoint of another run; or more output than memory.
    CompilerError
        ``backend="c"`` without a working compiler.

    Notes
    -----
    ``HDSGD_THREADS`` limits the threads of the C backend.

    The pair (Q, M) is itself a Markov chain: given the local fields u = L g, L L^T = Omega, the rest of the input has
    squared norm chi2(d - p - k). Setting: Arnaboldi et al. 2023 (arXiv 2305.18502), section 2.

    Examples
    --------
    >>> from hdsgd import Exit, Overlaps, Problem
    >>> problem = Problem("quadratic", gamma=0.1, Delta=1e-4, spherical=True)
    >>> start = Overlaps.random(p=1, k=1, d=500, rng=0)
    >>> runs = simulate(problem, start, 1.0, d=500, replicas=8, rng=1, times=[0.0, 0.5, 1.0])
    >>> runs.M.shape
    (8, 3, 1, 1)
    >>> more = simulate(problem, runs.overlaps(), 1.0, d=500, rng=2)  # go on, with another seed
    >>> more.replicas
    8
    >>> exits = simulate(problem, start, 20.0, d=500, replicas=8, rng=1, times=[0.0], stop=Exit(T=0.1)).exit_time
    >>> exits.shape
    (8,)
    """
    if method is None:
        method = "weights" if isinstance(state, Weights) else "overlaps"
    method = choice("method", method, METHODS)
    precision = choice("precision", precision, PRECISIONS)
    if precision == "single" and method == "overlaps":
        raise ValueError(
            "the overlap chain computes in double precision; leave precision out, or use method='weights'."
        )
    backend = choice("backend", backend, _kernel.BACKENDS)
    weights = state if isinstance(state, Weights) else None
    problem, start = check_start(problem, state.overlaps() if isinstance(state, Weights) else state)
    d = _dimension(d, start, weights)
    count = _replicas(replicas, start)
    t_max, grid = time_grid(t_max, times)
    assert grid is not None
    stop, progress = stop_condition(stop), callback("progress", progress)
    clock = _clock(problem, start.p, d, t_max)
    n_steps, store = int(clock.steps(t_max)), clock.steps(grid)
    if times is None:
        store = np.unique(store)
    _fits(count, store.size, start, d if method == "weights" else 0)
    kept = None if checkpoint is None else opened(checkpoint)
    seed = kept.seed if kept is not None and kept.seed is not None and rng is None else master_seed(rng)
    run, kernel, used = _backend(problem, start, method, precision, backend, kept)
    started = time.perf_counter()
    single = start.replicas is None and replicas is None
    Q, M, a = (x if start.replicas is not None else x[None] for x in (start.Q, start.M, start.a))
    W = W_star = None
    if weights is not None:
        W, W_star = weights.W if weights.replicas is not None else weights.W[None], weights.W_star
    elif method == "weights":
        orientation = np.random.default_rng(stream(seed, WEIGHTS, 0).spawn(1)[0])
        W, W_star = realise(Q, M, start.P, d, orientation, spherical=problem.spherical)
    setup = Setup(
        p=start.p,
        k=start.k,
        d=d,
        replicas=count,
        n_steps=n_steps,
        store=store,
        clock=clock,
        noise=float(np.sqrt(problem.Delta)),
        batch=problem.batch_size,
        decay=problem.weight_decay,
        ratio=problem.second_layer_ratio,
        spherical=problem.spherical,
        stop=stop,
        Q=Q,
        M=M,
        P=start.P,
        a=a,
        a_star=start.a_star,
        W=W if method == "weights" else None,
        W_star=W_star if method == "weights" else None,
        seed=seed,
        kernel=kernel,
        progress=progress,
    )
    _resolved(setup, used == "c" and method == "overlaps")
    paths = run(setup)
    if progress is not None:
        progress(1.0)
    done = np.where(paths.exit_step >= 0, paths.exit_step, n_steps)
    seconds = time.perf_counter() - started
    stats = {"backend": used, "steps": int(done.sum()), "wall_time": seconds}
    return _solution(problem, setup, paths, method=method, single=single, exit_row=times is None, stats=stats)


def _dimension(d: object, start: Overlaps, weights: Weights | None) -> int:
    """The input dimension, given or that of the weights, if it can be simulated."""
    if weights is not None:
        if d is not None and integer("d", d) != weights.d:
            raise ValueError(f"d = {d} is not the dimension of the weights, {weights.d}; leave d out.")
        d = weights.d
    if d is None:
        raise ValueError("simulate needs the input dimension; pass d=1000, for example.")
    d = integer("d", d, hint="it is the input dimension, for example d=1000")
    if weights is None and d < start.p + start.k:
        Q, M = (start.Q, start.M) if start.replicas is not None else (start.Q[None], start.M[None])
        frame(Q, M, start.P, d)  # refuses overlaps that do not fit
    return d


def _replicas(replicas: object, start: Overlaps) -> int:
    if replicas is None:
        return 1 if start.replicas is None else start.replicas
    count = integer("replicas", replicas)
    if start.replicas not in (None, count):
        raise ValueError(f"the start has {start.replicas} replicas, not replicas={count}; leave replicas out.")
    return count


def _clock(problem: Problem, p: int, d: int, t_max: float) -> Clock:
    """The steps up to the horizon and their times."""
    units = [gamma / (p * d) for _, _, gamma in problem.schedule.pieces(t_max)]
    if min(units) == 0.0:
        raise ValueError("gamma = 0 is gradient flow, which takes no steps; use solve_ode, or gamma > 0.")
    count = p * d * float(problem.schedule.steps(t_max))
    if not count <= MOST_STEPS:
        raise ValueError(
            f"t_max = {t_max:g} is {count:.3g} steps of t = gamma/(p*d) = {min(units):.3g}; decrease t_max."
        )
    if not problem.weight_decay * max(units) < 1.0:
        raise ValueError(
            f"weight_decay = {problem.weight_decay:g} turns the weights around in every step of t = {max(units):.3g}; "
            "decrease weight_decay or gamma."
        )
    if 0.0 < t_max < min(units) * (1.0 - 1e-9):
        raise ValueError(
            f"t_max = {t_max:g} is less than one SGD step, which takes t = gamma/(p*d) = {min(units):.3g}; "
            "increase t_max."
        )
    return problem.clock(p, d, t_max)


def _fits(replicas: int, rows: int, start: Overlaps, columns: int) -> None:
    """Refuse output that is larger than the machine."""
    p, k = start.p, start.k
    fits(
        8.0 * replicas * (rows * (p * (p + k + 1) + 1) + p * columns),
        f"{replicas} replicas at {rows} times",
        "store fewer times, as in times=[t_max], or simulate fewer replicas at a time",
    )


def _resolved(setup: Setup, framed: bool) -> None:
    """Refuse an exit at a level that the rounding of the risk hides; quadratic pairs have none in the chain's frame."""
    if setup.stop is None or setup.stop.level is None or (framed and _simulate_c.parabolas(setup.kernel) is not None):
        return
    Q, M = setup.Q[:1], setup.M[:1]
    floor = 1e-15 * float(setup.risk(Q, M, np.zeros((1, setup.p)))[0])  # relative to the teacher's own size
    if setup.stop.level < floor:
        raise ValueError(
            f"the risk of {setup.kernel.student} is computed to {floor:.1g} only, which hides an exit at "
            f"{setup.stop.level:g}; choose a level above."
        )


def _backend(
    problem: Problem, start: Overlaps, method: str, precision: str, backend: str, kept: Checkpoint | None
) -> tuple[Callable[[Setup], Paths], _kernel.Kernel, str]:
    """The simulator, the kernel and the backend's name."""
    # The numpy kernel holds the C texts, too, and does not compile the drift, which is not needed here.
    kernel = _kernel.load(problem.student, problem.teacher, "numpy")
    if backend != "numpy":
        try:
            simulator = _simulate_c.load(kernel, method, precision, start.p, start.k)
            return lambda setup: _simulate_c.run(setup, simulator, kept), kernel, "c"
        except CompilerError as error:
            if backend == "c":
                raise
            warn_backend(str(error))
    if kept is not None:
        raise ValueError("checkpoints need the C backend; install a C compiler, or leave checkpoint out.")
    return _chain_numpy.run if method == "overlaps" else _weights_numpy.run, kernel, "numpy"


def _solution(
    problem: Problem,
    setup: Setup,
    paths: Paths,
    *,
    method: str,
    single: bool,
    exit_row: bool,
    stats: dict[str, Any],
) -> Solution:
    steps: NDArray[Any]
    Q: NDArray[Any]
    M: NDArray[Any]
    a: NDArray[Any]
    risk: NDArray[Any]
    steps, Q, M, a, risk = setup.store, paths.Q, paths.M, paths.a, paths.risk
    status: Any = paths.status
    exit_time: Any = np.where(paths.exit_step >= 0, setup.clock.times(np.maximum(paths.exit_step, 0)), np.nan)
    gone = np.isnan(Q[:, :, 0, 0])
    a[gone] = np.nan
    weights = None
    if paths.W is not None:
        assert setup.W_star is not None
        if np.isfinite(paths.W).all():  # a diverged replica has no weights to give
            weights = Weights(paths.W, setup.W_star, paths.last_a, setup.a_star)
    if single:
        kept = ~gone[0]
        steps, Q, M, risk, a = steps[kept], Q[0, kept], M[0, kept], risk[0, kept], a[0, kept]
        status, exit_time = Status(int(status[0])), float(exit_time[0])
        out = int(paths.exit_step[0])
        if exit_row and out >= 0 and (not steps.size or steps[-1] != out):
            steps = np.append(steps, out)
            Q, M = np.concatenate((Q, paths.last_Q)), np.concatenate((M, paths.last_M))
            risk, a = np.append(risk, paths.last_risk), np.concatenate((a, paths.last_a))
        if weights is not None:
            weights = Weights(weights.W[0], weights.W_star, weights.a[0], weights.a_star)
    return Solution(
        problem=problem,
        t=setup.clock.times(steps),
        Q=Q,
        M=M,
        P=setup.P,
        a=a,
        a_star=setup.a_star,
        risk=risk,
        status=status,
        exit_time=exit_time,
        method=method,
        stop=setup.stop,
        steps=steps,
        d=setup.d,
        seed=setup.seed,
        weights=weights,
        stats=stats,
    )
