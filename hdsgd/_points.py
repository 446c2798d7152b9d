"""What a sweep file can compute at each point without any code: exit times, and the risk at a time."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._checks import choice, integer, real, time_grid
from ._ode import solve_ode
from ._overlaps import Overlaps
from ._problem import Problem, learning_rate
from ._sde import solve_sde
from ._simulate import simulate
from ._solution import Exit, Solution
from ._statistics import averaged, summary

__all__ = ["POINTS", "check", "exit_time", "exit_times", "final_risk"]

BY = ("simulate", "sde", "ode")
_OPTIONS: dict[str, Any] = {"p": 1, "k": 1, "d": None, "replicas": 1, "seed": 0, "by": "simulate", "dt": 1e-2}
_PROBLEM = tuple(Problem.__dataclass_fields__)
_NEEDED = {"exit_time": ("T", "t_max", "d"), "final_risk": ("t_max", "d")}


def exit_time(*, T: float, t_max: float, **setting: Any) -> dict[str, float]:
    """First times t at which the excess risk has fallen by the fraction T, over random starts.

    Parameters
    ----------
    T, t_max : float
        The exit, and the time at which replicas that have not exited are counted as censored.
    **setting
        p, k, d, replicas, seed, by ("simulate", "sde" or "ode": each replica has its own start in all of them), dt, and
        the parameters of `hdsgd.Problem`; gamma may be a schedule in words, such as ``"0:0.1,2:0.05"``.

    Returns
    -------
    dict
        ``mean`` and its standard error ``error`` (NaN where a replica is censored), ``median``, ``censored``.
    """
    return summary(exit_times(T=T, t_max=t_max, **setting))


def exit_times(*, T: float, t_max: float, **setting: Any) -> NDArray[np.float64]:
    """The times themselves, NaN where a replica is censored; parameters as for `exit_time`."""
    found = [solution.exit_time for solution in _runs(setting, t_max, [t_max], Exit(T=T))]
    return np.concatenate([np.atleast_1d(value) for value in found])


def final_risk(*, t_max: float, **setting: Any) -> dict[str, float]:
    """Excess risk at the time t_max, over random starts; parameters as for `exit_time`.

    Returns
    -------
    dict
        ``mean`` and its standard error ``error`` (NaN where a replica diverged), ``median``.
    """
    found = [solution.risk[..., -1:] for solution in _runs(setting, t_max, [t_max], None)]
    risks = np.concatenate([np.ravel(value) for value in found])
    mean, error = averaged(risks)
    return {"mean": mean, "error": error, "median": float(np.median(risks))}


POINTS = {"exit_time": exit_time, "final_risk": final_risk}


def check(name: str, point: Mapping[str, Any]) -> None:
    """Refuse a point before it is computed: parameters that are unknown, missing or out of range."""
    setting, needed = dict(point), _NEEDED[name]
    for parameter in setting:
        known = tuple(dict.fromkeys((*needed, *_OPTIONS, *_PROBLEM)))
        if parameter not in known:
            near = difflib.get_close_matches(parameter, known, n=1)
            remedy = f"did you mean {near[0]!r}?" if near else f"{name} takes {', '.join(known)}"
            raise ValueError(f"unknown parameter {parameter!r}; {remedy}")
    for parameter in needed:
        if parameter not in setting:
            raise ValueError(f"{name} needs {parameter}; add it to the grid")
    time_grid(setting.pop("t_max"), None)
    if "T" in needed:
        Exit(T=setting.pop("T"))
    _split(setting)


def _split(setting: Mapping[str, Any]) -> tuple[Problem, dict[str, Any]]:
    """The problem and the other parameters, all of them checked."""
    own = {**_OPTIONS, **{name: value for name, value in setting.items() if name in _OPTIONS}}
    if own["d"] is None:
        raise ValueError("the input dimension is needed; add d to the grid")
    for name in ("p", "k", "d", "replicas", "seed"):
        own[name] = integer(name, own[name], low=0 if name == "seed" else 1)
    choice("by", own["by"], BY)
    real("dt", own["dt"], low=0.0, strict=True)
    given = {name: value for name, value in setting.items() if name not in _OPTIONS}
    if isinstance(given.get("gamma"), str):  # a schedule, as on the command line
        given["gamma"] = learning_rate(given["gamma"])
    return Problem(**given), own


def _runs(setting: Mapping[str, Any], t_max: float, times: list[float], stop: Exit | None) -> list[Solution]:
    problem, own = _split(setting)
    p, k, d, replicas, seed, by, dt = (own[name] for name in _OPTIONS)
    start = Overlaps.random(p, k, d, rng=seed, spherical=problem.spherical, replicas=replicas)
    if by == "simulate":
        return [simulate(problem, start, t_max, d=d, rng=seed + 1, times=times, stop=stop)]
    if by == "sde":
        return [solve_sde(problem, start, t_max, d=d, dt=dt, rng=seed + 1, times=times, stop=stop)]
    return [solve_ode(problem, start.replica(i), t_max, times=times, stop=stop) for i in range(replicas)]
