"""Exit times from the initial plateau ("escaping mediocrity"), by every route.

The exit time is the first t = nu*gamma/(p*d) at which the excess risk is at most (1 - T) times that of the start.
`first_passage` and `by_ode` serve any problem; the formulas are those of phase retrieval: student and teacher x**2,
weights on the sphere, one teacher unit of norm sqrt(d), second layers of ones.

Source: Arnaboldi, Krzakala, Loureiro, Stephan 2023, "Escaping mediocrity" (arXiv 2305.18502), for the
implicit, annealed and quenched times; the corrected times, of finite d, are not in the paper.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ._laws import chi_nodes, converged, exit_from_zero, mean_log_mu, normal_mean, sphere_nodes
from ._overlaps import Overlaps
from ._passage import by_ode, first_passage, fraction
from ._problem import Problem
from ._retrieval import (
    arguments,
    decay_rate,
    growth_rate,
    max_gamma,
    noise_strength,
    optimal_gamma,
    plateau_start,
    stable,
)

__all__ = [
    "annealed",
    "by_ode",
    "corrected",
    "decay_rate",
    "first_passage",
    "from_zero",
    "growth_rate",
    "implicit",
    "max_gamma",
    "optimal_gamma",
    "quenched",
]

Array = NDArray[np.float64]

SEED, SAMPLES, ENTRIES = 20230518, 256, 4_000_000  # of starts that are drawn, where the asymptotic laws do not hold
LOST = 1e-9  # largest probability of the starts that a formula may leave out
# Smallest T*d of the averages over random starts, which themselves differ by 1/d: at 3 the annealed time is 10 to 45 %
# off the exact simulation, at 1 up to a factor of 10, and below it is negative for p > 1.
SPREAD = 3.0
# Smallest squared way to the exit of the corrected times, in units of what noise adds to m**2 while it is small: there
# they are within 4 % of the exact simulation (5 % close to the largest gamma), at a third of it up to 25 % off.
CLEAR = 10.0


def implicit(problem: Problem, state: Overlaps, T: float) -> float:
    """Exit time from any start, with each mode of the plateau at its linear rate.

    Solves 1 + 1/p + (1/p**2) sum_{j != l} Q_jl(0)**2 exp(-2 omega_Q t) - (2/p) sum_j m_j(0)**2 exp(2 omega_M t)
    = (1 - T) risk(0) for t.

    Parameters
    ----------
    problem : Problem
        Spherical phase retrieval.
    state : Overlaps
        One start, any p, k = 1.
    T : float
        0 < T < 1.

    Returns
    -------
    float

    Raises
    ------
    ValueError, TypeError
        Another problem, a gamma beyond stability, T outside (0, 1), or a start that never exits (M = 0).

    Examples
    --------
    >>> problem = Problem("quadratic", gamma=0.1, spherical=True)
    >>> round(implicit(problem, Overlaps([[1.0]], [[0.02]], [[1.0]]), T=0.1), 3)
    1.727
    """
    from scipy.optimize import brentq

    T = fraction(T)
    problem, state = plateau_start(problem, state)
    p = state.p
    grow, decay = stable(problem, p)
    m2 = 2.0 / p * float(np.sum(state.M**2))
    q2 = float(np.sum(state.Q**2) - np.sum(np.diagonal(state.Q) ** 2)) / p**2
    flat = 1.0 + 1.0 / p
    level = (1.0 - T) * (flat + q2 - m2)

    def above(t: float) -> float:
        return float(flat + q2 * np.exp(-2.0 * decay * t) - m2 * np.exp(2.0 * grow * t) - level)

    if m2 > 0.0:
        last = np.log((flat + q2) / m2) / (2.0 * grow)  # here the last term alone outweighs the others
    elif level > flat:
        last = np.log(q2 / (level - flat)) / (2.0 * decay) + 1.0
    else:
        raise ValueError("this start never exits, because M = 0 stays 0 in the deterministic limit; start from M != 0.")
    if level <= 0.0 or last <= 0.0:
        raise ValueError("this start has left the plateau already, the linear rates do not apply; use escape.by_ode.")
    return float(brentq(above, 0.0, last, xtol=1e-14, rtol=1e-13))


def annealed(problem: Problem, *, p: int, k: int = 1, d: int, T: float) -> float:
    """Exit time with random starts averaged inside the logarithm.

    t = log[(T (p+1) d + (p+1) (1 - T))/(2p)] / (2 omega_M). By Jensen's inequality it is below the quenched time; it
    neglects the noise, too, and both errors partly cancel.

    Parameters
    ----------
    problem : Problem
        Spherical phase retrieval.
    p, k, d : int
        Widths (k = 1) and input dimension.
    T : float
        0 < T < 1, with T*d >= 3: random starts themselves differ by 1/d.

    Returns
    -------
    float

    Raises
    ------
    ValueError, TypeError
        Another problem, a gamma beyond stability, T outside (0, 1), or T*d below 3.

    Examples
    --------
    >>> round(annealed(Problem("quadratic", gamma=0.1, spherical=True), p=1, d=3000, T=0.1), 3)
    1.783
    """
    p, d, T = arguments(problem, p, k, d, T)
    grow, _ = stable(problem, p)
    _spread(T, d)
    return float(np.log((T * (p + 1) * d + (p + 1) * (1.0 - T)) / (2.0 * p)) / (2.0 * grow))


def quenched(problem: Problem, *, p: int, k: int = 1, d: int, T: float) -> float:
    """Exit time averaged over random starts, each at the linear rates.

    The mean of log[(T p (p+1) d + (2 p mu0 - tau0) (1 - T))/(2 p mu0)] / (2 omega_M) over mu0 = d sum_j m_j(0)**2 and
    tau0 = 2 d sum_{j<l} Q_jl(0)**2. It holds as gamma -> 0: noise shortens the exit by a time that does not vanish with
    d. At gamma/p = 0.1, T*d = 30 the quenched time is too long by 23, 11, 10 and 7 % at p = 1, 2, 5 and 20, at
    gamma/p = 0.02 by 2 % or less.

    Parameters
    ----------
    problem : Problem
        Spherical phase retrieval.
    p, k, d : int
        Widths (k = 1) and input dimension.
    T : float
        0 < T < 1, with T*d >= 3: random starts themselves differ by 1/d.

    Returns
    -------
    float
        By quadrature, to 1e-8: m_j**2 is Beta(1/2, (d-1)/2), tau0 is twice chi-squared with p(p-1)/2 degrees of freedom
        and independent. Where it is not, p*p >= d/4, starts are drawn for its part, with a fixed seed.

    Raises
    ------
    ValueError, TypeError
        Another problem, a gamma beyond stability, T outside (0, 1), or T*d below 3, or so small that the decay of the
        overlaps between students alone lets some starts exit.

    Examples
    --------
    >>> round(quenched(Problem("quadratic", gamma=0.1, spherical=True), p=1, d=3000, T=0.1), 3)
    2.18
    """
    p, d, T = arguments(problem, p, k, d, T)
    grow, _ = stable(problem, p)
    _spread(T, d)
    if p == 1:
        mean = converged(lambda n: _mean_log(T, p, d, sphere_nodes(d, n), (np.zeros(1), np.ones(1))))
    elif p * p < d / 4:
        mean = converged(lambda n: _mean_log(T, p, d, chi_nodes(p, n), chi_nodes(p * (p - 1) // 2, n)))
    else:
        mean = _sampled_log(T, p, d)
    return float((mean - mean_log_mu(p, d) - np.log(2.0 * p)) / (2.0 * grow))


def _numerator(T: float, p: int, d: int, mu0: Array, tau0: Array) -> Array:
    return T * p * (p + 1) * d + (2.0 * p * mu0 - tau0) * (1.0 - T)


def _mean_log(T: float, p: int, d: int, mu: tuple[Array, Array], half_tau: tuple[Array, Array]) -> float:
    """E log of the numerator, smooth in both variables, on a tensor grid of nodes and weights."""
    scale = d if p == 1 else 1
    value = _numerator(T, p, d, scale * mu[0][:, None], 2.0 * half_tau[0])
    weights = mu[1][:, None] * half_tau[1]
    if float(weights[value <= 0.0].sum()) > LOST:
        raise ValueError(_too_small(T, d))
    return float(np.sum(weights * np.log(np.where(value > 0.0, value, 1.0))))


def _sampled_log(T: float, p: int, d: int) -> float:
    """The same over drawn starts; the linear part, whose mean is known, is a control variate."""
    count = int(np.clip(ENTRIES // p**2, 32, SAMPLES))
    starts = Overlaps.random(p, 1, d, rng=SEED, spherical=True, replicas=count)
    mu0 = d * np.sum(starts.M**2, axis=(1, 2))
    tau0 = d * (np.sum(starts.Q**2, axis=(1, 2)) - p)
    value = _numerator(T, p, d, mu0, tau0)
    if np.any(value <= 0.0):
        raise ValueError(_too_small(T, d))
    mean = float(_numerator(T, p, d, np.array(float(p)), np.array(float(p * (p - 1)))))
    return float(np.mean(np.log(value) - (value - mean) / mean))


def _too_small(T: float, d: int) -> str:
    return f"T*d = {T * d:g} is so small that some random starts exit as the students' overlaps decay; increase T or d."


def _spread(T: float, d: int) -> None:
    if T * d < SPREAD:
        raise ValueError(
            f"the formulas for random starts need T*d >= {SPREAD:g}, because starts themselves differ by 1/d, got "
            f"T*d = {T * d:.3g}; increase T or d, or simulate."
        )


def _clear(distance: float, noise: float, what: str) -> None:
    """Check the squared distance to the exit, times d, against what noise adds to d m**2."""
    if distance < CLEAR * noise:
        raise ValueError(
            f"the corrected time needs an exit clear of the noise, {what} >= {CLEAR * noise:.3g} at this gamma, but it "
            f"is {distance:.3g}; increase T or d, decrease gamma, or simulate."
        )


def corrected(problem: Problem, *, d: int, T: float, state: Overlaps | None = None, p: int = 1, k: int = 1) -> float:
    """Mean exit time of SGD at finite d: noise shortens the ODE's by a time that does not vanish with d.

    Over random starts, E t = E[t_ODE(m0)] - log(1 + s)/(2 omega_M) with s = gamma (48 + 4 Delta)/(2 omega_M); from a
    fixed start, E t = E_xi[t_ODE(m0 + xi)] with xi ~ N(0, s/d): the noise gathered while m is small is worth a random
    start.

    Parameters
    ----------
    problem : Problem
        Spherical phase retrieval.
    d : int
        Input dimension, large: the rates of finite d differ by some 10/d, relatively.
    T : float
        0 < T < 1, with the exit clear of the noise: T*d >= 10 s for random starts, and
        d (sqrt(T + (1 - T) m0**2) - abs(m0))**2 >= 10 s for a fixed one.
    state : Overlaps, optional
        A fixed start, p = k = 1; by default the mean over starts uniform on the sphere.
    p, k : int
        Widths, only 1 and 1 for now.

    Returns
    -------
    float
        Within 5 % of the mean of the exact simulation at the limit of that range, and 2 % well within it (measured at
        d = 1000 and 3000, s from 0.02 to 16).

    Raises
    ------
    ValueError, TypeError
        Another problem, p or k above 1, a gamma beyond stability, T outside (0, 1) or too small for d, or a level below
        the floor that the noise leaves, risk gamma*Delta/(1 - 6 gamma).

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
    if p != 1:
        raise ValueError(
            f"the corrected time is available for p = 1 only, got p={p}; use escape.quenched, or simulate."
        )
    grow, _ = stable(problem, p)
    noise = problem.gamma * noise_strength(problem, 1) / (2.0 * grow)
    if state is None:
        _clear(T * d, noise, "T*d")
        mean = converged(lambda n: _mean_exit(problem, T, *sphere_nodes(d, n)))
        return (mean - mean_log_mu(1, d) + float(np.log(d) - np.log1p(noise))) / (2.0 * grow)
    m0 = float(state.M[0, 0])
    if noise == 0.0 and m0 == 0.0:
        raise ValueError("this start never exits, because M = 0 stays 0 without noise; start from M != 0 or gamma > 0.")
    end = T + (1.0 - T) * m0**2
    _reachable(problem, end)
    edge = float(np.sqrt(end))
    _clear(d * (edge - abs(m0)) ** 2, noise, "d times the squared distance of M to it")

    def exit_time(m: float) -> float:
        if m**2 >= end:
            return 0.0
        return float(_logistic(problem, np.array(end), m**2) - np.log(m**2)) / (2.0 * grow)

    return normal_mean(exit_time, m0, float(np.sqrt(noise / d)), (-edge, 0.0, edge))


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


def _logistic(problem: Problem, end: Array, u: Array | float) -> Array:
    """2 omega_M times the ODE's time from m**2 = u to m**2 = end at p = 1, plus log u: smooth at u = 0."""
    grow, brake = growth_rate(problem, 1), 4.0 * (1.0 - 6.0 * problem.gamma)
    return np.asarray(np.log(end * (grow - brake * u) / (grow - brake * end)))


def _mean_exit(problem: Problem, T: float, u: Array, weights: Array) -> float:
    """Mean of `_logistic` over starts m**2 = u; the risk 2 (1 - m**2) falls to (1 - T) of each one's own start."""
    end = T + (1.0 - T) * u
    exits = problem.gamma * problem.Delta / 2.0 < (1.0 - 6.0 * problem.gamma) * (1.0 - end)
    if float(weights[~exits].sum()) > LOST:
        _reachable(problem, end[~exits].min())
    return float(weights[exits] @ _logistic(problem, end[exits], u[exits]))


def _reachable(problem: Problem, end: float) -> None:
    floor = problem.gamma * problem.Delta / (1.0 - 6.0 * problem.gamma)
    level = 2.0 * (1.0 - end)
    if level <= floor:
        raise ValueError(
            f"the exit level {level:.3g} of the risk is never reached, label noise leaves {floor:.3g}; "
            "decrease T or gamma."
        )
