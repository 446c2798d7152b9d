"""Exit times by the formulas of the paper: implicit equation, annealed and quenched averages over starts.

They hold for phase retrieval on the sphere: student and teacher x**2, one teacher unit of norm sqrt(d), second layers
of ones.

Source: Arnaboldi, Krzakala, Loureiro, Stephan 2023, "Escaping mediocrity" (arXiv 2305.18502).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ._laws import chi_nodes, converged, mean_log_mu, sphere_nodes
from ._overlaps import Overlaps
from ._passage import fraction
from ._problem import Problem
from ._retrieval import arguments, plateau_start, reachable, stable

__all__ = ["LOST", "annealed", "at_exit", "implicit", "quenched", "spread", "typical_growth"]

Array = NDArray[np.float64]

LOST = 1e-9  # largest probability of the starts that a formula may leave out
# Smallest T*d of the averages over random starts, which themselves differ by 1/d: at 3 the annealed time is 10 to 45 %
# off the exact simulation, at 1 up to a factor of 10, and below it is negative for p > 1.
SPREAD = 3.0


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
        Another problem, a gamma beyond stability, T outside (0, 1), a level below the floor that label noise leaves, or
        a start that never exits (M = 0).

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
    reachable(problem, p, level)

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
        Another problem, a gamma beyond stability, T outside (0, 1), a level below the floor that label noise leaves, or
        T*d below 3.

    Examples
    --------
    >>> round(annealed(Problem("quadratic", gamma=0.1, spherical=True), p=1, d=3000, T=0.1), 3)
    1.783
    """
    p, d, T = arguments(problem, p, k, d, T)
    grow, _ = stable(problem, p)
    spread(T, d)
    reachable(problem, p, (1.0 - T) * (1.0 + 1.0 / p))
    return typical_growth(p, d, T) / (2.0 * grow)


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
        By quadrature, to 1e-8 at p = 1, where m**2 is Beta(1/2, (d-1)/2). Otherwise mu0 and tau0 have their exact
        means and variances, and from there the shape of chi-squared laws with p and p(p-1)/2 degrees of freedom: within
        1e-7 at d = 100, T*d = 20 to 40.

    Raises
    ------
    ValueError, TypeError
        Another problem, a gamma beyond stability, T outside (0, 1), a level below the floor that label noise leaves, or
        T*d below 3, or so small that the decay of the overlaps between students alone lets some starts exit.

    Examples
    --------
    >>> round(quenched(Problem("quadratic", gamma=0.1, spherical=True), p=1, d=3000, T=0.1), 3)
    2.18
    """
    p, d, T = arguments(problem, p, k, d, T)
    grow, _ = stable(problem, p)
    spread(T, d)
    reachable(problem, p, (1.0 - T) * (1.0 + 1.0 / p))

    def estimate(n: int) -> float:
        if p == 1:
            u, weights = sphere_nodes(d, n)
            return float(weights @ np.log(at_exit(1, d, T, d * u, 0.0)))
        narrower = np.sqrt((d - 1.0) / (d + 2.0))  # than chi-squared: squared overlaps are uncorrelated Beta variables
        mu, half_tau = chi_nodes(p, n), chi_nodes(p * (p - 1) // 2, n)
        mu0 = p + narrower * (mu[0][:, None] - p)
        tau0 = p * (p - 1) + narrower * (2.0 * half_tau[0] - p * (p - 1))
        value = at_exit(p, d, T, mu0, tau0)
        weights = mu[1][:, None] * half_tau[1]
        if float(weights[value <= 0.0].sum()) > LOST:
            raise ValueError(
                f"T*d = {T * d:g} is so small that some random starts exit as the students' overlaps decay; "
                "increase T or d."
            )
        return float(np.sum(weights * np.log(np.where(value > 0.0, value, 1.0))))

    return float((converged(estimate) - mean_log_mu(p, d) - np.log(2.0 * p)) / (2.0 * grow))


def typical_growth(p: int, d: int, T: float) -> float:
    """Logarithm of what sum_j m_j**2 grows by up to the exit, from its mean over starts."""
    return float(np.log((T * (p + 1) * d + (p + 1) * (1.0 - T)) / (2.0 * p)))


def at_exit(p: int, d: int, T: float, mu0: Array, tau0: Array | float) -> Array:
    """2 p mu at the exit, mu = d sum_j m_j**2, once the overlaps between students have decayed; as in `quenched`."""
    return T * p * (p + 1) * d + (2.0 * p * mu0 - tau0) * (1.0 - T)


def spread(T: float, d: int) -> None:
    """Check T*d."""
    if T * d < SPREAD:
        raise ValueError(
            f"the formulas for random starts need T*d >= {SPREAD:g}, because starts themselves differ by 1/d, got "
            f"T*d = {T * d:.3g}; increase T or d, or simulate."
        )
