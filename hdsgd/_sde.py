"""The diffusion at finite d, by a stochastic Heun scheme."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _sde_c, _sde_numpy
from ._checks import callback, fits, integer, real, time_grid
from ._dynamics import Dynamics
from ._overlaps import Overlaps, ensemble
from ._problem import Problem, check_start
from ._random import RNG, master_seed
from ._sde_plan import Plan
from ._solution import Exit, Solution, stop_condition

__all__ = ["solve_sde"]

Array = NDArray[np.float64]

MOST_STEPS = 10**9  # days of work for a single path


def solve_sde(
    problem: Problem,
    state: Overlaps,
    t_max: float,
    *,
    d: int,
    dt: float = 1e-3,
    replicas: int | None = None,
    rng: RNG = None,
    times: ArrayLike | None = None,
    stop: Exit | None = None,
    order: str = "all",
    backend: str = "auto",
    progress: Callable[[float], None] | None = None,
) -> Solution:
    """Paths of dX = drift dt + sqrt(gamma/(p d)) Sigma^(1/2) dB for X = (Q, M[, a]).

    Any p, k and pair of activations; Sigma is `Dynamics.diffusion`, and the drift has its terms of order 1/d.

    Parameters
    ----------
    problem : Problem
        Steps of dt end where a `Schedule` changes gamma.
    state : Overlaps
        One start, or one for each replica.
    t_max : float
        Final time t = nu*gamma/(p*d).
    d : int
        Input dimension: the noise is of order 1/sqrt(d).
    dt : float
        Largest time step; output times are met exactly by shorter ones: for steps longer than t_max/200 give fewer
        ``times``. At most 1e9 steps in all.
    replicas : int, optional
        Number of paths from a single start. None: one path from each start in ``state``.
    rng : None, int, SeedSequence or Generator
        Replica i has its own stream: its path is the same for any number of replicas. Recorded as ``sol.seed``. To go
        on from a solution, pass another seed: the same one draws the same numbers again, and correlates both parts.
    times : array_like, shape (n_t,), optional
        Increasing output times in [0, t_max]; 201 equal ones by default.
    stop : Exit, optional
        First passage of the excess risk, tested in every step: at its end, and in between by the crossing probability
        of a Brownian bridge (without it exits come out late, by O(sqrt(dt))).
    order : {"all", "leading"}
        "leading" leaves out of Sigma what is of order gamma/p, the noise of the term quadratic in the gradient: for
        many error functions that is most of the work.
    backend : {"auto", "c", "numpy"}
        Of drift and covariance: compiled C, or numpy; "auto" is C where a compiler works.
    progress : callable, optional
        Called with the fraction of t_max that is done.

    Returns
    -------
    Solution
        With a replica axis unless ``state`` has none and ``replicas`` is None. Rows after a replica's exit or
        divergence are NaN; a single path without the axis ends there instead.

    See Also
    --------
    simulate : SGD at finite d itself, exactly in law; at small d it is cheaper, too (see Notes).

    Raises
    ------
    ValueError, TypeError
        Arguments out of range, too many steps, more output than memory, or a problem whose diffusion is not available.

    Notes
    -----
    To order 1/d the drift is that of `Dynamics.drift` plus two terms, both needed: the squared norm of an input is not
    d given the local fields, N -> N + (E[s'_j s'_l e**2 u^T Omega^-1 u] - n N)/d (in a batch also the products between
    its samples); and, on the sphere, Ito's from rescaling the rows. A weight decay has its own.

    Sigma is computed in every step: in closed form for activations alpha x**2 + beta and for error functions, by
    quadrature otherwise. ``sol.stats["diffusion"]`` names the route and its error at the start, relative to the
    variances: errors of a lattice rule (kinks, or many fields) are around 1 %; for fast-growing activations, such as
    exp or polynomials of many fields, they may be larger than the covariance itself.

    What a step costs does not depend on d, but it is more than a step of `simulate`, of which p d/gamma make one unit
    of t: 10 to 100 us with the quadratic route, .02 to 1 ms with error functions, 1 to 10 ms with a lattice, against
    1 us or less. Up to d of 1e4 or 1e5 the exact simulation is the faster one.

    The scheme takes the drift at both ends of a step (Heun) and the noise at its beginning: weak order one, as
    Euler-Maruyama has, but only the part of the error that carries the noise's 1/d is of order dt, the rest of order
    dt**2 (Milstein & Tretyakov, SIAM J. Sci. Comput. 18 (1997) 1067). Euler's own error is not small: a mode that grows
    at rate r for a time t is too small by a fraction r**2 t dt/2, at r = 4, t = 1, dt = 1e-3 as much as the statistical
    error of 1e4 replicas.

    Omega is kept positive semidefinite. A step whose noise would take some Q_jj below 0 ends the replica, as DIVERGED
    if its norm had grown, otherwise as FAILED, because dt is too large.

    Source: Arnaboldi et al. 2023 (arXiv 2305.18502).

    Examples
    --------
    >>> from hdsgd import Exit, Overlaps, Problem
    >>> problem = Problem("quadratic", gamma=0.1, spherical=True)
    >>> start = Overlaps(Q=[[1.0]], M=[[0.1]], P=[[1.0]])
    >>> sol = solve_sde(problem, start, 2.0, d=1000, dt=0.01, replicas=5, rng=0, times=[0.0, 1.0, 2.0])
    >>> sol.risk.shape
    (5, 3)
    >>> rest = solve_sde(problem, sol.overlaps(), 1.0, d=1000, dt=0.01, rng=1)  # go on, with another seed
    >>> rest.replicas
    5
    """
    problem, state = check_start(problem, state)
    d = integer("d", d, hint="it is the input dimension, for example d=1000")
    step = real("dt", dt, low=0.0, strict=True, hint="it is the time step, for example 1e-3")
    t_max, grid = time_grid(t_max, times)
    assert grid is not None
    _bounded(t_max, step, grid)
    stop, progress = stop_condition(stop), callback("progress", progress)
    start, single = ensemble(state, replicas)
    count = start.M.shape[0]
    fits(
        8.0 * count * grid.size * (state.p * (state.p + state.k + 1) + 1),
        f"{count} replicas at {grid.size} times",
        "store fewer times, as in times=[t_max], or run fewer replicas at a time",
    )
    seed = master_seed(rng)
    dyn = Dynamics(problem, backend)
    plan = Plan.of(problem, dyn, start, grid, t_max, step, d=d, stop=stop, order=order, seed=seed, progress=progress)
    library = _sde_c.load(plan) if dyn.backend == "c" else None  # which may take seconds the first time
    began = time.perf_counter()
    run = _sde_numpy.run(plan) if library is None else _sde_c.run(plan, library)
    wall_time = time.perf_counter() - began
    pick = 0 if single else slice(None)
    if single:  # a path that ended has no rows of NaN to keep a shape that nobody else needs
        kept = np.isfinite(run.risk[0])
        grid, run.Q, run.M, run.a, run.risk = (
            grid[kept],
            run.Q[:, kept],
            run.M[:, kept],
            run.a[:, kept],
            run.risk[:, kept],
        )
    clock = problem.clock(state.p, d, t_max) if plan.gamma.min() > 0.0 else None
    first = start.replica(0)
    accuracy = plan.increments.report(first.Omega[None], first.v[None], first.a[None])
    return Solution(
        problem=problem,
        t=grid,
        Q=run.Q[pick],
        M=run.M[pick],
        P=state.P,
        a=run.a[pick],
        a_star=state.a_star,
        risk=run.risk[pick],
        status=run.status[pick],
        exit_time=run.exit_time[pick],
        method="sde",
        stop=stop,
        steps=None if clock is None else clock.steps(grid),
        d=d,
        seed=seed,
        stats={
            "steps": int(plan.steps.sum()),
            "dt": step,
            "order": order,
            "diffusion": {"route": accuracy.route, "nodes": accuracy.nodes, "error": accuracy.error},
            "wall_time": wall_time,
        },
    )


def _bounded(t_max: float, dt: float, grid: Array) -> None:
    """Refuse a number of steps that never ends."""
    count = t_max / dt + grid.size
    if not count <= MOST_STEPS:
        raise ValueError(
            f"t_max = {t_max:g} is {count:.3g} steps of dt = {dt:g}, more than {MOST_STEPS:g}; increase dt or decrease "
            "t_max."
        )
