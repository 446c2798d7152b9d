"""How far SGD at finite d strays from the ODE."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._checks import integer
from ._ode import solve_ode
from ._overlaps import Overlaps
from ._problem import Problem
from ._random import RNG
from ._simulate import simulate
from ._statistics import averaged

__all__ = ["Deviation", "deviation"]

Array = NDArray[np.float64]


class Deviation(NamedTuple):
    """The largest distance between simulation and ODE along a run.

    Attributes
    ----------
    mean, error : float
        Over the replicas, with its standard error (NaN for a single one).
    each : tuple of float
        Of each replica.
    """

    mean: float
    error: float
    each: tuple[float, ...]

    def __repr__(self) -> str:
        return f"Deviation(mean={self.mean:.6g}, error={self.error:.2g}, {len(self.each)} replicas)"


def deviation(
    problem: Problem,
    state: Overlaps,
    t_max: float,
    *,
    d: int,
    replicas: int = 16,
    rng: RNG = None,
    checkpoints: int = 10,
    against: tuple[Array, Array] | None = None,
    backend: str = "auto",
) -> Deviation:
    """Measure E max_t |Omega_t - Omega_ODE(t)| at finite d, over equal times up to t_max and all entries of Omega.

    Parameters
    ----------
    problem : Problem
    state : Overlaps
        The start, without a replica axis.
    t_max : float
        Last time t = nu*gamma/(p*d).
    d : int
        Input dimension of the simulation, exact in law by the chain of the overlaps.
    replicas : int
    rng : None, int, SeedSequence or Generator
    checkpoints : int
        Times t_max/checkpoints, 2 t_max/checkpoints, ..., t_max, each rounded to a whole number of steps.
    against : (Q, M), optional
        Overlaps (checkpoints, p, p) and (checkpoints, p, k) to compare with, such as those of `Scaling.solve`. None:
        the ODE of the problem, with all terms.
    backend : {"auto", "c", "numpy"}

    Returns
    -------
    Deviation

    Raises
    ------
    ValueError, TypeError
        As `simulate` and `solve_ode`, or `against` of another shape.

    Notes
    -----
    Source: Veiga et al. 2022 (arXiv 2202.00293), Theorem 1: at most of order sqrt(delta_t) for a step's time delta_t.

    Examples
    --------
    >>> problem = Problem("erf", gamma=2.0)
    >>> start = Overlaps([[1.0, 0.2], [0.2, 1.0]], [[0.5], [-0.2]], [[1.0]])
    >>> near, far = (deviation(problem, start, 1.0, d=d, rng=0).mean for d in (10**4, 100))
    >>> bool(5.0 * near < far)
    True
    """
    checkpoints, replicas = integer("checkpoints", checkpoints), integer("replicas", replicas)
    times = t_max * np.arange(1, checkpoints + 1) / checkpoints
    runs = simulate(problem, state, t_max, d=d, replicas=replicas, rng=rng, times=times, backend=backend)
    if against is None:
        distinct, place = np.unique(runs.t, return_inverse=True)  # several checkpoints may fall on one step
        ode = solve_ode(problem, state, max(t_max, distinct[-1]), times=distinct, backend=backend)
        if len(ode.t) < distinct.size:
            raise ValueError(f"the ODE ends before t_max: {ode.message} Choose an earlier t_max.")
        against = ode.Q[place], ode.M[place]
    Q, M = against
    for name, given, run in (("Q", Q, runs.Q), ("M", M, runs.M)):
        if np.shape(given) != run.shape[1:]:
            raise ValueError(f"{name} of against must have shape {run.shape[1:]}, got {np.shape(given)}.")
    each = np.maximum(np.abs(runs.Q - Q).max(axis=(1, 2, 3)), np.abs(runs.M - M).max(axis=(1, 2, 3)))
    return Deviation(*averaged(each), tuple(each.tolist()))
