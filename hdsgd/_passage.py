"""First passage of a trajectory, and of the ODE, for any problem."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ._checks import real
from ._dynamics import Dynamics
from ._ode import solve_ode
from ._overlaps import Overlaps
from ._problem import Problem
from ._solution import Exit, Solution, Status

__all__ = ["affordable", "by_ode", "exit_of_ode", "first_passage", "fraction"]

Array = NDArray[np.float64]

FIRST_SPAN, LONGEST, WIDEN = 10.0, 1e6, 4.0  # by_ode looks this far, in growing pieces
STATIONARY = 1e-10  # rates below this are a fixed point's
MOST, FEWEST, ENTRIES = 128, 4, 200_000  # starts of an average, and of wide students the entries of all their Q
SMALL, MODES = 1e-6, 400  # an M so small is that of the linear rates, which are found for so many entries at most


def first_passage(sol: Solution, T: float) -> float | Array:
    """Exit time read from a trajectory's stored times.

    Parameters
    ----------
    sol : Solution
        With its start stored (``sol.t[0] == 0``).
    T : float
        Fall of the excess risk relative to the start, 0 < T < 1.

    Returns
    -------
    float, or ndarray of shape (replicas,)
        Interpolated between the stored times, by a monotone cubic for an ODE and linearly for random paths; NaN where
        the path never exits. A run that was stopped at this T gives ``sol.exit_time``, which is exact.

    Raises
    ------
    ValueError
        T outside (0, 1), no start stored, or a run that was stopped before it could fall by T.

    Examples
    --------
    >>> problem = Problem("quadratic", gamma=0.1, spherical=True)
    >>> sol = solve_ode(problem, Overlaps([[1.0]], [[0.1]], [[1.0]]), t_max=3.0)
    >>> [round(first_passage(sol, T), 3) for T in (0.1, 0.5)]
    [0.779, 1.442]
    """
    T = fraction(T)
    if not isinstance(sol, Solution):
        raise TypeError(f"sol must be a Solution, got {type(sol).__name__}; pass the result of a solver.")
    if sol.stop is not None and sol.stop.T == T:
        return sol.exit_time if sol.replicas is None else np.array(sol.exit_time)
    if sol.t.size == 0 or sol.t[0] != 0.0:
        raise ValueError("the start is not among the stored times; solve with times that begin at 0.")
    if sol.replicas is None:
        return _passage(sol, sol.risk, T, Status(sol.status))
    return np.array([_passage(sol, r, T, Status(int(s))) for r, s in zip(sol.risk, sol.status, strict=True)])


def _passage(sol: Solution, risk: Array, T: float, status: Status) -> float:
    level = (1.0 - T) * risk[0]
    below = np.flatnonzero(risk <= level)  # NaN rows compare false
    if below.size == 0:
        if status == Status.EXITED:
            raise ValueError(f"this run was stopped before its risk fell by T={T:g}; solve again without stop.")
        return np.nan
    i = int(below[0])
    if i == 0:
        return 0.0
    if sol.d is not None:
        return float(np.interp(level, [risk[i], risk[i - 1]], [sol.t[i], sol.t[i - 1]]))
    from scipy.interpolate import PchipInterpolator
    from scipy.optimize import brentq

    curve = PchipInterpolator(sol.t, risk)
    return float(brentq(lambda t: float(curve(t)) - level, sol.t[i - 1], sol.t[i]))


def by_ode(problem: Problem, state: Overlaps, T: float) -> float:
    """Exit time of the ODE, by a root-found event.

    Parameters
    ----------
    problem : Problem
        Any activation, free or spherical.
    state : Overlaps
        One start.
    T : float
        Fall of the excess risk relative to the start, 0 < T < 1.

    Returns
    -------
    float
        NaN if the trajectory never exits: it settles at a fixed point above the level, diverges, or is still above it
        at t = 1e6.

    Raises
    ------
    ValueError, TypeError
        T outside (0, 1), a state with a replica axis, or a solver that fails.

    Examples
    --------
    >>> problem = Problem("quadratic", gamma=0.1, spherical=True)
    >>> round(by_ode(problem, Overlaps([[1.0]], [[0.1]], [[1.0]]), T=0.5), 3)
    1.442
    """
    T = fraction(T)
    span, gone, stop = FIRST_SPAN, 0.0, Exit(T=T)
    while gone < LONGEST:
        # An unstable mode of size 1e-10 decides the exit, so absolute accuracy must be finer.
        sol = solve_ode(problem, state, span, stop=stop, rtol=1e-10, atol=1e-14)
        if sol.status == Status.EXITED:
            return gone + float(sol.exit_time)
        if sol.status == Status.DIVERGED:
            return np.nan
        if sol.status == Status.FAILED:
            raise ValueError(sol.message)
        if stop.T is not None and sol.risk[0] > 0.0:
            stop = Exit(level=(1.0 - T) * sol.risk[0])
        gone, state, problem = gone + span, sol.overlaps(), problem.after(span)
        if all(_stationary(replace(problem, gamma=gamma), state) for gamma in problem.schedule.values):
            return np.nan
        span *= WIDEN
    return np.nan


def exit_of_ode(problem: Problem, start: Overlaps, horizon: float, stop: Exit, missed: str) -> float:
    """Exit time of the ODE within a horizon, to about 1e-7; refuses with `missed` where it has not exited."""
    exits = solve_ode(problem, start, horizon, times=[0.0], stop=stop, rtol=1e-7, atol=1e-11).exit_time
    if not np.isfinite(exits):
        raise ValueError(missed)
    return float(exits)


def _stationary(problem: Problem, state: Overlaps) -> bool:
    """Whether nothing moves: a small M counts by its relative rate, since it may still grow, unless M = 0 is stable."""
    dynamics = Dynamics(problem)
    drift = dynamics.drift(state)
    still = np.all(np.abs(drift.dQ) <= STATIONARY * np.maximum(np.abs(state.Q), 1.0))
    still &= np.all(np.abs(drift.da) <= STATIONARY * np.maximum(np.abs(state.a), 1.0))
    if still and np.all(np.abs(drift.dM) <= STATIONARY * np.abs(state.M)):
        return True
    if not still or np.abs(state.M).max() > SMALL or state.p * state.k > MODES:
        return False
    units = SMALL * np.eye(state.p * state.k).reshape(-1, state.p, state.k)
    many = (len(units), 1, 1)
    around = Overlaps(np.tile(state.Q, many), units, state.P, np.tile(state.a, many[:2]), state.a_star)
    rates = dynamics.drift(around).dM.reshape(len(units), -1) / SMALL
    return bool(np.linalg.eigvals(rates).real.max() < -STATIONARY)


def fraction(T: float) -> float:
    """Check T."""
    hint = "it is the fraction by which the excess risk has to fall, for example T=0.01"
    return real("T", T, low=0.0, high=1.0, strict=True, hint=hint)


def affordable(p: int) -> int:
    """From how many random starts the ODE is solved for an average."""
    return int(np.clip(ENTRIES // p**2, FEWEST, MOST))
