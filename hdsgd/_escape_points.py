"""One point of a study of the escape: exit times of the runs, and by every formula."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from . import escape
from ._experiment import horizon
from ._passage import fraction
from ._points import exit_time, exit_times
from ._problem import Problem

__all__ = ["escape_point", "formulas", "sampled_exits"]

MOST, FEWEST = 4000, 50  # replicas at p = 1, and at large p, where exits differ less from run to run


def escape_point(
    *, p: int, d: int, rate: float, Delta: float = 1e-4, T: float = 0.01, replicas: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """Exit times of spherical phase retrieval from random starts, in the time t.

    Parameters
    ----------
    p, d : int
        Width of the student and input dimension.
    rate : float
        gamma/p.
    Delta, T : float
        Variance of the label noise; the exit is where the excess risk has fallen by the fraction T.
    replicas : int, optional
        Runs of the exact simulation; by default 4000/p, but at least 50.
    seed : int
        Of starts and runs.

    Returns
    -------
    dict
        Of the simulation ``mean``, its standard error ``error``, ``median`` and ``censored`` (mean and error are NaN
        where a run is censored); ``annealed``, ``quenched``, ``plain`` and ``full``: the formulas, the latter two
        corrected, NaN where one refuses; ``replicas``.
    """
    problem, setting = _setting(p, d, rate, Delta, T, replicas, seed)
    return {**exit_time(**setting), **formulas(problem, p, d, T), "replicas": setting["replicas"]}


def sampled_exits(
    *, by: str, p: int, d: int, rate: float, Delta: float, T: float, replicas: int | None, seed: int
) -> dict[str, Any]:
    """The ``times`` of all runs by "simulate", "sde" or "ode", from the same random starts; arguments as above."""
    _, setting = _setting(p, d, rate, Delta, T, replicas, seed)
    return {"times": exit_times(by=by, dt=1e-3, **setting)}


def _setting(
    p: int, d: int, rate: float, Delta: float, T: float, replicas: int | None, seed: int
) -> tuple[Problem, dict[str, Any]]:
    problem = Problem("quadratic", gamma=rate * p, Delta=Delta, spherical=True)
    return problem, {
        "T": T,
        "t_max": horizon(problem, p, d, fraction(T)),
        "p": p,
        "d": d,
        "replicas": max(FEWEST, MOST // p) if replicas is None else replicas,
        "seed": seed,
        "activation": "quadratic",
        "gamma": problem.gamma,
        "Delta": Delta,
        "spherical": True,
    }


def formulas(problem: Problem, p: int, d: int, T: float) -> dict[str, float]:
    """The mean exit time over random starts by each formula, NaN where it does not hold."""

    def value(function: Callable[[], float]) -> float:
        try:
            return function()
        except ValueError:
            return math.nan

    return {
        "annealed": value(lambda: escape.annealed(problem, p=p, d=d, T=T)),
        "quenched": value(lambda: escape.quenched(problem, p=p, d=d, T=T)),
        "plain": value(lambda: escape.corrected(problem, p=p, d=d, T=T, full=False)),
        "full": value(lambda: escape.corrected(problem, p=p, d=d, T=T, full=True)),
    }
