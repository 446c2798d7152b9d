"""The excess risk that the noise leaves after perfect learning: the stable fixed point near copies of the teachers."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ._checks import integer
from ._fixed_points import FixedPoint, fixed_point
from ._overlaps import Overlaps
from ._problem import Problem

__all__ = ["floor"]

#: Between students that copy the same teacher the stable overlaps differ by about 20 of the noise (gamma/p) Delta
#: (erf, p = 8, k = 4). Newton's method starts from half of that, and elsewhere where this leads to a saddle.
SPREADS = (10.0, 30.0, 3.0, 100.0, 1.0)


def floor(problem: Problem, p: int, k: int = 1, *, P: ArrayLike | None = None, backend: str = "auto") -> FixedPoint:
    """Find where the noise stops SGD near perfect learning: a fixed point of the noisy ODE that is not a saddle.

    Students that are identical copies of the teachers stay identical, but noise drives them apart: without noise they
    learn perfectly, with it they lead to an unstable fixed point. The stable one has the copies spread.

    Parameters
    ----------
    problem : Problem
        With gamma > 0 and the same activation for student and teacher.
    p, k : int
        Widths of student and teacher; p is a multiple of k.
    P : (k, k) array_like, optional
        Overlaps of the teacher units; the identity by default.
    backend : {"auto", "c", "numpy"}

    Returns
    -------
    FixedPoint
        Its ``risk`` is the floor, gamma Delta/(4 p^2) sum_j E[s'(lambda_j)^2] to leading order in gamma/p where
        s = erf(x/sqrt(2)).

    Raises
    ------
    ValueError
        Without noise in the gradient; if copies do not learn perfectly; or if only saddles are found.
    TypeError
        A learning rate that is a schedule.

    See Also
    --------
    fixed_point : a fixed point near a given state, stable or not.

    Notes
    -----
    Source: the blue and green regions of Veiga et al. 2022 (arXiv 2202.00293).

    Examples
    --------
    >>> from hdsgd import Problem
    >>> point = floor(Problem("erf", gamma=8.0, Delta=1e-3), p=8, k=4)
    >>> point.kind, round(point.risk, 7)
    ('stable', 0.000114)
    """
    if not isinstance(problem, Problem):
        raise TypeError(f"problem must be an hdsgd.Problem, got {type(problem).__name__}; pass for example Problem().")
    p, k = integer("p", p), integer("k", k)
    if p % k or problem.student != problem.teacher or problem.weight_decay or problem.second_layer_ratio:
        raise ValueError(
            f"copies of the teachers stay perfect only where p is a multiple of k (here p = {p}, k = {k}), with one "
            "activation, no weight decay and a fixed second layer; elsewhere pass the end of solve_ode to fixed_point."
        )
    noise = problem.step_time(p, 1) / problem.batch_size * problem.Delta
    if noise == 0.0:
        raise ValueError("without noise in the gradient (gamma = 0 or Delta = 0) the floor is zero; set both.")
    copies = Overlaps.mixed(np.repeat(np.eye(k), p // k, axis=0), P)
    for spread in SPREADS if p > k else (0.0,):
        try:
            point = fixed_point(problem, _spread(copies, spread * noise, problem.spherical), backend=backend)
        except ValueError:  # no fixed point, or none of any weights
            continue
        if not point.unstable:
            return point
    raise ValueError(
        f"no stable fixed point was found near perfect learning at gamma = {problem.gamma:g} and Delta = "
        f"{problem.Delta:g}; decrease gamma, or pass the end of solve_ode to fixed_point."
    )


def _spread(state: Overlaps, size: float, spherical: bool) -> Overlaps:
    """Each student moved by a vector of squared norm size*d that is orthogonal to everything else."""
    shrink = 1.0 / (1.0 + size) if spherical else 1.0
    return Overlaps(shrink * (state.Q + size * np.eye(state.p)), np.sqrt(shrink) * state.M, state.P)
