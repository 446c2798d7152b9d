"""Mean exit times of SGD at finite d, where noise shortens the ODE's by a time that does not vanish with d.

They hold for phase retrieval on the sphere with one teacher unit, as the formulas of Arnaboldi et al. 2023 do, but are
not in that paper. Averages over starts are quadratures; what only the ODE knows is a small difference, averaged over
starts drawn with a fixed seed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._formulas import LOST, at_exit, implicit, quenched, spread
from ._laws import converged, exit_from_random, exit_from_zero, mean_log_mu, normal_mean, sphere_nodes
from ._overlaps import Overlaps
from ._passage import affordable, exit_of_ode
from ._problem import Problem
from ._retrieval import (
    arguments,
    growth_rate,
    noise_strength,
    plateau_start,
    reachable,
    stable,
    student_noise_strength,
)
from ._solution import Exit

__all__ = ["corrected", "from_zero"]

Array = NDArray[np.float64]

# Smallest squared way to the exit, in units of what noise adds to m**2 while it is small: there the plain corrected
# times are within 4 % of the exact simulation (5 % close to the largest gamma), at a third of it up to 25 % off.
CLEAR = 10.0
# Largest part of the fall of the risk that the overlaps between students, sustained by the noise, may take back.
UNDONE = 0.5
FAR = 100.0  # horizon of the ODE, in units of what the linear theory tells
SEED = 20230518  # of the starts that the ODE is solved from


def corrected(
    problem: Problem,
    *,
    d: int,
    T: float,
    state: Overlaps | None = None,
    p: int = 1,
    k: int = 1,
    full: bool | None = None,
) -> float:
    """Mean exit time of SGD at finite d: noise shortens the ODE's by a time that does not vanish with d.

    The plain form, over random starts, is E t = E[t_ODE(Q0, M0)] - log(1 + s)/(2 omega_M) with
    s = (gamma/p) C_M/(2 omega_M), C_M = 40 - 24/p + 32/p**2 + 4 Delta; from a fixed start, at p = 1,
    E t = E_xi[t_ODE(m0 + xi)] with xi ~ N(0, s/d): the noise gathered while M is small is worth a random start.

    The full form is the mean first passage of the plateau's linear SDE, dm = omega_M m dt + sqrt(gamma C_M/(p d)) dB,
    of p independent overlaps, plus what the ODE's own exit exceeds the implicit equation's by. The level is
    (2/p) sum_j m_j**2 = 1 + 1/p + sum_{j != l} E Q_jl(t)**2/p**2 - (1 - T) risk(0), where noise sustains the overlaps
    between students: for random starts d E Q_jl**2 = e + (gamma/p) C_Q (1 - e)/(2 omega_Q), e = exp(-2 omega_Q t).

    Parameters
    ----------
    problem : Problem
        Spherical phase retrieval.
    d : int
        Input dimension, large: the rates of finite d differ by some 10/d, relatively.
    T : float
        0 < T < 1, with the exit clear of the noise (see Notes).
    state : Overlaps, optional
        A fixed start; by default the mean over starts uniform on the sphere.
    p, k : int
        Widths, k = 1.
    full : bool, optional
        The full form, or the plain one. None: full for p > 1, and plain for p = 1.

    Returns
    -------
    float

    Raises
    ------
    ValueError, TypeError
        Another problem, k above 1, a gamma beyond stability, T outside (0, 1) or too small for d, a level below the
        floor that label noise leaves; from fixed starts M = 0 in the full form, and p > 1 in the plain one.

    Notes
    -----
    What the ODE adds to the linear theory is averaged over at most 128 starts: for p > 1 and T close to 1 its standard
    error is the larger one, 2 % at p = 3 and 5 from T = 0.8 on, where some starts leave a unit behind near M = 0.

    The full form needs T*d >= 3, and overlaps between students, sustained by the noise, that take no more than half the
    fall of the risk back. Its error is of order p/d. Against the exact simulation at gamma/p = 0.1 and T*d from 3 to
    1000 it is within 1.5 % (d = 3000 and 10000, p = 1 to 20, and p = 100 at 10000) and 2 % (d = 1000, p = 1 to 20); at
    d = 1000 within 3 % at gamma/p = 0.2 and 6 % at 0.3.

    The plain form needs T*d >= 10 s, or d (sqrt(T + (1 - T) m0**2) - abs(m0))**2 >= 10 s from a fixed start. At p = 1
    it is within 5 % of the mean of the exact simulation at this limit, and 2 % well within it (measured at d = 1000 and
    3000, s from 0.02 to 16). For p > 1 it leaves the noise of Q out: at gamma/p = 0.1 and T*d = 30 it is 2 and 4 % low
    at p = 5 and 20, at T*d = 100 1 %.

    Examples
    --------
    >>> problem = Problem("quadratic", gamma=0.1, Delta=1e-4, spherical=True)
    >>> round(corrected(problem, d=3000, T=0.1), 3)
    1.927
    >>> round(corrected(problem, d=3000, T=0.1, state=Overlaps([[1.0]], [[0.02]], [[1.0]])), 3)
    1.867
    """
    if state is not None:
        problem, state = plateau_start(problem, state)
        p, k = state.p, state.k
    p, d, T = arguments(problem, p, k, d, T)
    if full is not None and not isinstance(full, bool):
        raise TypeError(f"full must be True, False or None, got {full!r}; leave it out for the form that fits p.")
    grow, _ = stable(problem, p)
    noise = problem.gamma / p * noise_strength(problem, p) / (2.0 * grow)
    if p > 1 if full is None else full:
        return _full(problem, p, d, T, noise) if state is None else _full_fixed(problem, state, d, T, noise)
    if state is None:
        _clear(T * d, noise, "T*d")
        t = _mean_ode(problem, p, d, T) - float(np.log1p(noise)) / (2.0 * grow)
        _sustained(problem, p, t, T * d)
        return t
    if p > 1:
        raise ValueError(f"from a fixed start the plain form is for p = 1 only, got p={p}; pass full=True.")
    return _plain_fixed(problem, float(state.M[0, 0]), d, T, noise)


def from_zero(problem: Problem, *, p: int, k: int = 1, d: int, T: float) -> float:
    """Mean exit time of SGD at finite d from M = 0 exactly, where the ODE never exits.

    The first passage of the linear SDE dm = omega_M m dt + s dB of p independent overlaps, s**2 = (gamma/p) C_M/d with
    C_M = 40 - 24/p + 32/p**2 + 4 Delta, through sum_j m_j**2 = A = T (p+1)/2:
    t = (A/(p s**2)) 2F2(1, 1; 1 + p/2, 2; -x) with x = omega_M A/s**2.

    Parameters
    ----------
    problem : Problem
        Spherical phase retrieval with gamma > 0; students orthogonal to one another.
    p, k, d : int
        Widths (k = 1) and input dimension.
    T : float
        0 < T < 1, small: nothing but the linear rate.

    Returns
    -------
    float

    Raises
    ------
    ValueError, TypeError
        Another problem, gamma = 0 or beyond stability, or T outside (0, 1).

    Examples
    --------
    >>> round(from_zero(Problem("quadratic", gamma=0.1, spherical=True), p=1, d=3000, T=0.01), 6)
    1.316072
    """
    p, d, T = arguments(problem, p, k, d, T)
    grow, _ = stable(problem, p)
    if problem.gamma == 0.0:
        raise ValueError("M = 0 stays 0 without noise; pass gamma > 0, or start from M != 0 with escape.by_ode.")
    level = T * (p + 1) / 2.0
    return exit_from_zero(p, grow, problem.gamma / p * noise_strength(problem, p) / d, level)


def _mean_ode(problem: Problem, p: int, d: int, T: float) -> float:
    """Exit time of the ODE, averaged over random starts."""
    reachable(problem, p, (1.0 - T) * (1.0 + 1.0 / p))
    if p == 1:
        mean = converged(lambda n: _mean_exit(problem, T, *sphere_nodes(d, n)))
        return (mean - mean_log_mu(1, d) + float(np.log(d))) / (2.0 * growth_rate(problem, 1))

    found = _sample(problem, p, d, T)
    risen = at_exit(p, d, T, found.mu0, found.tau0) / (2.0 * p * found.mu0)
    linear = np.log(risen) / (2.0 * growth_rate(problem, p))
    return quenched(problem, p=p, d=d, T=T) + float(np.mean(found.exits - linear))


class _Sample(NamedTuple):
    """Random starts, and when the ODE and the implicit equation exit from them."""

    mu0: Array
    tau0: Array
    exits: Array
    implicit: Array


@lru_cache(maxsize=16)
def _sample(problem: Problem, p: int, d: int, T: float) -> _Sample:
    count = affordable(p)
    starts = Overlaps.random(p, 1, d, rng=SEED, spherical=True, replicas=count)
    each = [starts.replica(i) for i in range(count)]
    return _Sample(
        mu0=d * np.sum(starts.M**2, axis=(1, 2)),
        tau0=d * (np.sum(starts.Q**2, axis=(1, 2)) - p),
        exits=np.array([_ode(problem, one, T) for one in each]),
        implicit=np.array([implicit(problem, one, T) for one in each]),
    )


def _ode(problem: Problem, start: Overlaps, T: float) -> float:
    # A unit that starts near M = 0 is left behind at a saddle, which the implicit equation knows nothing of; a long
    # horizon costs nothing where the ODE exits.
    horizon = FAR * (implicit(problem, start, T) + 1.0 / growth_rate(problem, start.p))
    return exit_of_ode(problem, start, horizon, Exit(T=T), "the ODE never exits from this start; decrease T or gamma.")


def _full(problem: Problem, p: int, d: int, T: float, noise: float) -> float:
    spread(T, d)
    reachable(problem, p, (1.0 - T) * (1.0 + 1.0 / p))
    grow = growth_rate(problem, p)

    def level(t: float) -> float:
        between = (p - 1.0) / (p * d) * (_student_overlaps(problem, p, t, 1.0) - (1.0 - T))
        return p / 2.0 * (T * (1.0 + 1.0 / p) + between + 2.0 * (1.0 - T) / d)

    if noise > 0.0:
        before = exit_from_random(p, grow, 2.0 * grow * noise / d, d)
    else:
        before = (mean_log_mu(p, d) - float(np.log(d))) / (2.0 * grow)
    linear = _crossing(p, d, grow, noise, before, level)
    _sustained(problem, p, linear, d * T)
    if p == 1:
        return linear + _mean_ode(problem, 1, d, T) - quenched(problem, p=1, d=d, T=T)
    found = _sample(problem, p, d, T)
    return linear + float(np.mean(found.exits - found.implicit))


def _full_fixed(problem: Problem, state: Overlaps, d: int, T: float, noise: float) -> float:
    p, grow = state.p, growth_rate(problem, state.p)
    mu0, tau0 = float(np.sum(state.M**2)), float(np.sum(state.Q**2)) - p
    end = (1.0 - T) * (1.0 + 1.0 / p + tau0 / p**2 - 2.0 / p * mu0)
    spread(T, d)
    reachable(problem, p, end)
    if mu0 == 0.0:
        raise ValueError(
            "M = 0 stays 0 in the ODE, which the full form corrects; start from M != 0, or use escape.from_zero."
        )

    def level(t: float) -> float:
        share = d * tau0 / (p * (p - 1.0)) if p > 1 else 0.0
        between = (p - 1.0) / (p * d) * _student_overlaps(problem, p, t, share)
        return p / 2.0 * (1.0 + 1.0 / p + between - end)

    linear = _crossing(p, d, grow, noise, _passage(p, d, grow, noise, mu0), level)
    _sustained(problem, p, linear, d * T)
    return linear + _ode(problem, state, T) - implicit(problem, state, T)


def _sustained(problem: Problem, p: int, t: float, fall: float) -> None:
    """Check what noise leaves of the overlaps between students against the fall of the risk, T*d."""
    undone = (p - 1.0) / (p + 1.0) * _student_overlaps(problem, p, t, 0.0) / fall
    if undone > UNDONE:
        raise ValueError(
            f"the overlaps between students that the noise sustains take {undone:.2g} of the fall T of the risk back, "
            f"and the corrected time holds up to {UNDONE:g}; increase T or d, decrease gamma, or simulate."
        )


def _student_overlaps(problem: Problem, p: int, t: float, start: float) -> float:
    """d E Q_jl**2 of two students at the time t, from its value at the start."""
    if p == 1:
        return 0.0
    _, decay = stable(problem, p)
    left = float(np.exp(-2.0 * decay * t))
    return left * start + problem.gamma / p * student_noise_strength(problem, p) * (1.0 - left) / (2.0 * decay)


def _passage(p: int, d: int, grow: float, noise: float, level: float) -> float:
    """Mean first passage of the linear SDE from 0 through sum_j m_j**2 = level; without noise, up to a constant."""
    if noise == 0.0:
        return float(np.log(level)) / (2.0 * grow)
    return exit_from_zero(p, grow, 2.0 * grow * noise / d, level)


def _crossing(p: int, d: int, grow: float, noise: float, before: float, level: Callable[[float], float]) -> float:
    """The time at which the mean first passage through the level of that time is reached."""
    from scipy.optimize import brentq

    def late(t: float) -> float:
        return t - (_passage(p, d, grow, noise, level(t)) - before)

    last = 1.0 / grow
    while late(last) < 0.0:
        last *= 2.0
    return float(brentq(late, 0.0, last, xtol=1e-12, rtol=1e-12))


def _plain_fixed(problem: Problem, m0: float, d: int, T: float, noise: float) -> float:
    grow = growth_rate(problem, 1)
    if noise == 0.0 and m0 == 0.0:
        raise ValueError("this start never exits, because M = 0 stays 0 without noise; start from M != 0 or gamma > 0.")
    end = T + (1.0 - T) * m0**2
    reachable(problem, 1, 2.0 * (1.0 - end))
    edge = float(np.sqrt(end))
    _clear(d * (edge - abs(m0)) ** 2, noise, "d times the squared distance of M to it")

    def exit_time(m: float) -> float:
        if m**2 >= end:
            return 0.0
        return float(_logistic(problem, np.array(end), m**2) - np.log(m**2)) / (2.0 * grow)

    return normal_mean(exit_time, m0, float(np.sqrt(noise / d)), (-edge, 0.0, edge))


def _logistic(problem: Problem, end: Array, u: Array | float) -> Array:
    """2 omega_M times the ODE's time from m**2 = u to m**2 = end at p = 1, plus log u: smooth at u = 0."""
    grow, brake = growth_rate(problem, 1), 4.0 * (1.0 - 6.0 * problem.gamma)
    return np.asarray(np.log(end * (grow - brake * u) / (grow - brake * end)))


def _mean_exit(problem: Problem, T: float, u: Array, weights: Array) -> float:
    """Mean of `_logistic` over starts m**2 = u; the risk 2 (1 - m**2) falls to (1 - T) of each one's own start."""
    end = T + (1.0 - T) * u
    exits = problem.gamma * problem.Delta / 2.0 < (1.0 - 6.0 * problem.gamma) * (1.0 - end)
    if float(weights[~exits].sum()) > LOST:
        reachable(problem, 1, 2.0 * (1.0 - end[~exits].min()))
    return float(weights[exits] @ _logistic(problem, end[exits], u[exits]))


def _clear(distance: float, noise: float, what: str) -> None:
    """Check the squared distance to the exit, times d, against what noise adds to d m**2."""
    if distance < CLEAR * noise:
        raise ValueError(
            f"the corrected time needs an exit clear of the noise, {what} >= {CLEAR * noise:.3g} at this gamma, but it "
            f"is {distance:.3g}; increase T or d, decrease gamma, or simulate."
        )
