"""What a sweep file can compute at each point without any code: exit times, and the risk at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._checks import choice, integer
from ._ode import solve_ode
from ._overlaps import Overlaps
from ._problem import Problem
from ._sde import solve_sde
from ._simulate import simulate
from ._solution import Exit, Solution

__all__ = ["POINTS", "exit_time", "final_risk"]

BY = ("simulate", "sde", "ode")
_PROBLEM = frozenset(Problem.__dataclass_fields__)


def exit_time(*, T: float, t_max: float, **setting: Any) -> dict[str, float]:
    """First times t at which the excess risk has fallen by the fraction T, over random starts.

    Parameters
    ----------
    T, t_max : float
        The exit, and the time at which replicas that have not exited are counted as censored.
    **setting
        p, k, d, replicas, seed, by ("simulate", "sde" or "ode": each replica has its own start in all of them), dt, and
        the parameters of `hdsgd.Problem`.

    Returns
    -------
    dict
        ``mean`` and its standard error ``error`` (NaN where a replica is censored), ``median``, ``censored``.
    """
    found = [solution.exit_time for solution in _runs(setting, t_max, [t_max], Exit(T=T))]
    times = np.concatenate([np.atleast_1d(value) for value in found])
    late = np.where(np.isnan(times), np.inf, times)
    middle = float(np.median(late))
    return {
        **_mean(times),
        "median": middle if middle < np.inf else float("nan"),
        "censored": int(np.isnan(times).sum()),
    }


def final_risk(*, t_max: float, **setting: Any) -> dict[str, float]:
    """Excess risk at the time t_max, over random starts; parameters as for `exit_time`.

    Returns
    -------
    dict
        ``mean`` and its standard error ``error`` (NaN where a replica diverged), ``median``.
    """
    found = [solution.risk[..., -1:] for solution in _runs(setting, t_max, [0.0, t_max], None)]
    risks = np.concatenate([np.ravel(value) for value in found])
    return {**_mean(risks), "median": float(np.median(risks))}


POINTS = {"exit_time": exit_time, "final_risk": final_risk}


def _mean(values: Any) -> dict[str, float]:
    count = len(values)
    spread = float(np.std(values, ddof=1) / np.sqrt(count)) if count > 1 else float("nan")
    return {"mean": float(np.mean(values)), "error": spread}


def _runs(setting: dict[str, Any], t_max: float, times: list[float], stop: Exit | None) -> list[Solution]:
    own = dict(setting)
    p, k, d = own.pop("p", 1), own.pop("k", 1), own.pop("d", None)
    replicas, seed = integer("replicas", own.pop("replicas", 1)), own.pop("seed", 0)
    by, dt = choice("by", own.pop("by", "simulate"), BY), own.pop("dt", 1e-2)
    unknown = set(own) - _PROBLEM
    if unknown:
        raise ValueError(f"unknown parameter {sorted(unknown)[0]!r}; the problem's are {', '.join(sorted(_PROBLEM))}")
    if d is None:
        raise ValueError("the input dimension is needed; add d to the grid")
    problem = Problem(**own)
    start = Overlaps.random(p, k, d, rng=seed, spherical=problem.spherical, replicas=replicas)
    if by == "simulate":
        return [simulate(problem, start, t_max, d=d, rng=seed + 1, times=times, stop=stop)]
    if by == "sde":
        return [solve_sde(problem, start, t_max, d=d, dt=dt, rng=seed + 1, times=times, stop=stop)]
    return [solve_ode(problem, start.replica(i), t_max, times=times, stop=stop) for i in range(replicas)]
