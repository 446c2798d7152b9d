"""The deterministic limit: integrate the drift with scipy's solvers."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._checks import callback, choice, real, time_grid
from ._cone import feasible
from ._dynamics import Dynamics, System
from ._overlaps import Overlaps
from ._paths import BLOW_UP
from ._problem import Problem, check_start
from ._solution import Exit, Solution, Status, stop_condition

__all__ = ["solve_ode"]

Array = NDArray[np.float64]

METHODS = ("auto", "DOP853", "RK45", "RK23", "Radau", "BDF", "LSODA")
STIFF = "Radau"  # of scipy's stiff solvers the most accurate at tight tolerances; older LSODA is not safe in threads

GREW = 1e2  # a solver that gives up after this growth of the overlaps met a finite-time blow-up,
RISK_GREW = 1e4  # and after this one of the risk: where it is of high degree, overlaps need not grow much
LARGEST = 1e140  # of the first derivatives: the solvers square them
FINEST = 1e-13  # relative tolerance: rounding errors are not much smaller
INSIDE = (0.25, 0.5, 0.75)  # where a stop is tested within a step: the risk may dip below the level and return

# DOP853 estimates its error at order 5 and interpolates at order 7: at equal tolerance its trajectory comes out a
# hundred times worse than Radau's. Controlled this much tighter (twice the work) both meet the tolerance.
SAFETY = {"DOP853": 0.003}

# "auto": every PROBE steps a few power iterations estimate the fastest rate. An explicit step above LIMIT in its units
# is held back by stability alone (DOP853 is stable to 6.1; Hairer and Wanner 1996, section IV.2), and if the steps
# left cost more evaluations than some Jacobians do, a stiff solver takes over.
PROBE, POWER, LIMIT, JACOBIANS = 25, 3, 3.0, 20


def solve_ode(
    problem: Problem,
    state: Overlaps,
    t_max: float,
    *,
    times: ArrayLike | None = None,
    stop: Exit | None = None,
    rtol: float = 1e-8,
    atol: float = 1e-10,
    method: str = "auto",
    backend: str = "auto",
    progress: Callable[[float], None] | None = None,
) -> Solution:
    """Solve the high-dimensional limit of SGD, d(Q, M, a)/dt = drift, from one start.

    The second layer a moves when ``problem.second_layer_ratio > 0``.

    Parameters
    ----------
    problem : Problem
        gamma = 0 is gradient flow in the same time. Where a `Schedule` changes gamma, the solver begins anew.
    state : Overlaps
        Without a replica axis.
    t_max : float
        Final time t = nu*gamma/(p*d).
    times : array_like, shape (n_t,), optional
        Increasing output times in [0, t_max]; by default the solver's own steps.
    stop : Exit, optional
        Stop where the excess risk first passes this level, found as a root on the dense output.
    rtol, atol : float
        Relative and absolute accuracy of Q, M and a along the trajectory (the local error is controlled to match);
        1e-13 <= rtol < 1.
    method : str
        "DOP853", "RK45", "RK23", "Radau", "BDF" or "LSODA" of scipy; "auto" is DOP853, changing to Radau where the
        explicit steps are held at their stability limit, or fail.
    backend : {"auto", "c", "numpy"}
        Compiled C, or numpy; "auto" is C where a compiler works.
    progress : callable, optional
        Called with the fraction of t_max that is done.

    Returns
    -------
    Solution
        With ``stop`` and the solver's own steps, the last row is the exit (``sol.t[-1] == sol.exit_time``); of given
        times those after the exit are dropped. ``sol.stats`` holds steps, nfev, wall time and tolerances. A run that
        diverges ends with ``sol.status == Status.DIVERGED`` and keeps the rows before.

    See Also
    --------
    solve_sde, simulate : the same at finite d, with fluctuations.

    Raises
    ------
    ValueError, TypeError
        Arguments out of range, a state with a replica axis, or derivatives too large for floating-point numbers.

    Notes
    -----
    Source: Saad & Solla 1995; Goldt et al. 2019 (arXiv 1906.08632); Veiga et al. 2022 (arXiv 2202.00293).

    Examples
    --------
    >>> from hdsgd import Overlaps, Problem
    >>> problem = Problem("erf", gamma=1.0, Delta=0.01)
    >>> start = Overlaps.random(p=2, k=1, d=1000, rng=0)
    >>> sol = solve_ode(problem, start, t_max=10.0, times=[0.0, 5.0, 10.0])
    >>> sol.M.shape
    (3, 2, 1)
    >>> bool(sol.risk[-1] < sol.risk[0])
    True
    """
    problem, state = check_start(problem, state)
    if state.replicas is not None:
        raise ValueError(
            f"solve_ode takes a single start, got {state.replicas} replicas; pass state.replica(i), one call for each."
        )
    t_max, grid = time_grid(t_max, times, count=None)
    stop = stop_condition(stop)
    rtol = real("rtol", rtol, hint="it is the relative tolerance, for example 1e-8")
    if not FINEST <= rtol < 1.0:
        raise ValueError(
            f"rtol must be at least {FINEST:g}, the size of rounding errors, and below 1, got {rtol:g}; "
            "pass for example rtol=1e-8."
        )
    atol = real("atol", atol, low=0.0, hint="it is the absolute tolerance, for example 1e-10")
    run = _Run(
        pieces=[
            (end, Dynamics(replace(problem, gamma=gamma), backend).system(state))
            for _, end, gamma in problem.schedule.pieces(t_max)
        ],
        method=choice("method", method, METHODS),
        rtol=rtol,
        atol=atol,
        t_max=t_max,
        grid=grid,
        stop=stop,
        progress=callback("progress", progress),
    )
    importlib.import_module("scipy.integrate")  # loading it once is no part of the time of this run
    started = time.perf_counter()
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # a blow-up is reported in the status
        y = run.system.pack(state)
        if not np.abs(run.system.rhs(0.0, y)).max() <= LARGEST:
            raise ValueError(
                f"the first derivatives are beyond {LARGEST:g} or overflow; decrease gamma, or the norms of the start."
            )
        run.go(y)
    return run.solution(problem, state, time.perf_counter() - started)


class _Run:
    """One integration: steps scipy's solver objects, to watch the risk, change method and stay interruptible.

    `pieces` are times and the equations up to each of them, which no step goes across.
    """

    def __init__(
        self,
        *,
        pieces: Sequence[tuple[float, System]],
        method: str,
        rtol: float,
        atol: float,
        t_max: float,
        grid: Array | None,
        stop: Exit | None,
        progress: Callable[[float], None] | None,
    ) -> None:
        self.pieces, self.method, self.rtol, self.atol = pieces, method, rtol, atol
        self.end, self.system = pieces[0]
        self.t_max, self.grid, self.stop, self.progress = t_max, grid, stop, progress
        self.t: list[float] = []
        self.y: list[Array] = []
        self.used: list[str] = []
        self.steps = self.nfev = self.njev = 0
        self.status, self.exit_time, self.reason = Status.COMPLETED, np.nan, ""

    def go(self, y: Array) -> None:
        """Integrate from y at time 0."""
        level = None if self.stop is None else float(self.stop.threshold(self.system.risk(y)))
        self.size, self.risk0 = max(1.0, float(np.abs(y).max())), max(1.0, self.system.risk(y))
        self.limit = BLOW_UP * self.size
        if self.grid is None or self.grid[0] == 0.0:
            self._store(0.0, y)
        if level is not None and self.system.risk(y) <= level:
            self.status, self.exit_time = Status.EXITED, 0.0
            return
        t = 0.0
        for end, system in self.pieces:
            self.end, self.system = end, system
            name = "DOP853" if self.method == "auto" else self.method
            while t < self.end and self.status == Status.COMPLETED:
                t, y, again = self._integrate(name, t, y, level)
                name = STIFF if again else name

    def _integrate(self, name: str, t: float, y: Array, level: float | None) -> tuple[float, Array, bool]:
        """Step one solver to the end of the piece, an exit or failure, or (third value true) until a stiff one does."""
        import scipy.integrate

        self.used.append(name)
        safety = SAFETY.get(name, 1.0)
        rtol = max(safety * self.rtol, 100 * np.finfo(np.float64).eps)  # scipy's floor, below which it warns
        solver = getattr(scipy.integrate, name)(self.system.rhs, t, y, self.end, rtol=rtol, atol=safety * self.atol)
        watched = self.method == "auto" and name != STIFF
        direction = np.random.default_rng(0).standard_normal(y.size)
        again = False
        while solver.status == "running":
            message = solver.step()
            if solver.status == "failed":
                again = self._failed(name, message, solver)
                break
            self.steps += 1
            if not np.all(np.isfinite(solver.y)) or np.abs(solver.y).max() > self.limit:
                self.status = Status.DIVERGED
                break
            if self._passed(solver, level):
                break
            if self.progress is not None:
                self.progress(solver.t / self.t_max)
            if watched and self.steps % PROBE == 0:
                evaluations = 12 * (self.end - solver.t) / solver.step_size
                rate, direction = _fastest(solver.fun, solver.t, solver.y, direction)
                if rate * solver.step_size > LIMIT and evaluations > JACOBIANS * (y.size + 100):
                    again = True
                    break
        self.nfev += solver.nfev
        self.njev += solver.njev
        return solver.t, solver.y, again

    def _failed(self, name: str, message: str | None, solver: Any) -> bool:
        """Classify a solver that gave up; true when a stiff one should try."""
        grown = np.abs(solver.y).max() > GREW * self.size or self.system.risk(solver.y) > RISK_GREW * self.risk0
        if grown or not np.all(np.isfinite(solver.fun(solver.t, solver.y))):
            self.status = Status.DIVERGED
            return False
        if self.method == "auto" and name != STIFF:
            return True
        self.status, self.reason = Status.FAILED, str(message)
        return False

    def _passed(self, solver: Any, level: float | None) -> bool:
        """Store what the last step covers; true when it met the exit."""
        dense = solver.dense_output() if level is not None or self.grid is not None else None
        end, out = solver.t, False
        if level is not None:
            assert dense is not None
            exit_time = self._root(dense, solver.t_old, solver.t, solver.y, level)
            if exit_time is not None:
                self.status, self.exit_time, end, out = Status.EXITED, exit_time, exit_time, True
        if self.grid is None:
            self._store(end, dense(end) if out and dense is not None else solver.y)
        else:
            assert dense is not None
            first, last = np.searchsorted(self.grid, (solver.t_old, end), side="right")
            for t in self.grid[first:last]:
                self._store(t, dense(t))
        return out

    def _root(self, dense: Callable[[float], Array], start: float, end: float, y: Array, level: float) -> float | None:
        from scipy.optimize import brentq

        def above(t: float) -> float:
            return float(self.system.risk(dense(t))) - level

        left = start
        for fraction in INSIDE:
            middle = start + fraction * (end - start)
            if above(middle) <= 0.0:
                return float(brentq(above, left, middle, xtol=1e-14, rtol=1e-13)) if above(left) > 0.0 else left
            left = middle
        if float(self.system.risk(y)) > level:
            return None
        if above(end) > 0.0:  # the dense output ends a rounding error above the step itself
            return end
        return float(brentq(above, left, end, xtol=1e-14, rtol=1e-13))

    def _store(self, t: float, y: Array) -> None:
        self.t.append(float(t))
        self.y.append(np.array(y))

    def solution(self, problem: Problem, start: Overlaps, seconds: float) -> Solution:
        """Everything that was stored, as a Solution."""
        p, k, n = start.p, start.k, len(self.t)
        rows = [self.system.unpack(y) for y in self.y]
        shapes = ((n, p, p), (n, p, k), (n, p))
        raw_Q, raw_M, a = (np.array([row[i] for row in rows]).reshape(shape) for i, shape in enumerate(shapes))
        Q, M = feasible(raw_Q, raw_M, start.P) if n else (raw_Q, raw_M)
        # Steps of finite accuracy leave the cone by about rtol: stored rows are moved back, to be able to start a run.
        shift = max(np.abs(Q - raw_Q).max(initial=0.0), np.abs(M - raw_M).max(initial=0.0))
        risk = np.array([self.system.risk(self.system.packed(*row)) for row in zip(Q, M, a, strict=True)])
        stats: dict[str, Any] = {
            "steps": self.steps,
            "nfev": self.nfev,
            "njev": self.njev,
            "rtol": self.rtol,
            "atol": self.atol,
            "largest_projection": float(shift),
            "wall_time": seconds,
        }
        if self.reason:
            stats["reason"] = self.reason
        return Solution(
            problem=problem,
            t=np.array(self.t),
            Q=Q,
            M=M,
            P=start.P,
            a=a,
            a_star=start.a_star,
            risk=risk.reshape(n),
            status=self.status,
            exit_time=self.exit_time,
            method="+".join(dict.fromkeys(self.used)) or self.method,
            stop=self.stop,
            stats=stats,
        )


def _fastest(fun: Callable[[float, Array], Array], t: float, y: Array, direction: Array) -> tuple[float, Array]:
    """Rate of the fastest decaying mode by power iteration on the Jacobian (0 if the dominant one grows)."""
    here, small, rate = fun(t, y), 1e-7 * max(1.0, float(np.linalg.norm(y))), 0.0
    for _ in range(POWER):
        direction = direction / max(float(np.linalg.norm(direction)), 1e-300)
        image = (fun(t, y + small * direction) - here) / small
        rate, direction = -float(direction @ image), image
    return max(rate, 0.0), direction
