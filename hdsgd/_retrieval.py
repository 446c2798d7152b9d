"""Phase retrieval on the sphere: the rates of its plateau, and what the formulas of `escape` hold for.

Student and teacher x**2, weights on the sphere, one teacher unit of norm sqrt(d), second layers of ones.

Source: Arnaboldi, Krzakala, Loureiro, Stephan 2023, "Escaping mediocrity" (arXiv 2305.18502).
"""

from __future__ import annotations

import numpy as np

from ._activation import activation
from ._checks import integer
from ._overlaps import Overlaps
from ._passage import fraction
from ._problem import Problem, check_start

__all__ = [
    "arguments",
    "decay_rate",
    "growth_rate",
    "max_gamma",
    "noise_strength",
    "one_teacher",
    "optimal_gamma",
    "phase_retrieval",
    "plateau_start",
    "reachable",
    "stable",
    "student_noise_strength",
]

UNIT = 1e-6  # accepted distance of P from 1


def growth_rate(problem: Problem, p: int) -> float:
    """Rate omega_M at which the teacher-student overlaps grow on the plateau, per unit of t.

    omega_M = 4 (1 - (gamma/p) (1 + 1/p + 4/p**2 + Delta/2)); the exit needs it positive.

    Examples
    --------
    >>> round(growth_rate(Problem("quadratic", gamma=0.1, spherical=True), p=1), 6)
    1.6
    """
    p = integer("p", p)
    phase_retrieval(problem)
    return 4.0 * (1.0 - problem.gamma / p * (1.0 + 1.0 / p + 4.0 / p**2 + problem.Delta / 2.0))


def decay_rate(problem: Problem, p: int) -> float:
    """Rate omega_Q at which overlaps between students decay on the plateau, per unit of t.

    omega_Q = (8/p) (1 - 8 gamma/p**2); the plateau is stable where it is positive.

    Examples
    --------
    >>> round(decay_rate(Problem("quadratic", gamma=0.1, spherical=True), p=2), 6)
    3.2
    """
    p = integer("p", p)
    phase_retrieval(problem)
    return 8.0 / p * (1.0 - 8.0 * problem.gamma / p**2)


def max_gamma(problem: Problem, p: int) -> float:
    """Learning rate below which the plateau is escaped: omega_M > 0 and, for p > 1, omega_Q > 0.

    Examples
    --------
    >>> round(max_gamma(Problem("quadratic", spherical=True), p=1), 6)  # 1/6
    0.166667
    """
    p = integer("p", p)
    phase_retrieval(problem)
    escaping = p / (1.0 + 1.0 / p + 4.0 / p**2 + problem.Delta / 2.0)
    return escaping if p == 1 else min(escaping, p**2 / 8.0)


def optimal_gamma(problem: Problem, *, p: int, k: int = 1) -> float:
    """Learning rate of the fastest escape per sample, p**3/(8 + 2p + (2 + Delta) p**2).

    It maximises (gamma/p) omega_M, the growth per step; ``problem.gamma`` is not used.

    Raises
    ------
    ValueError, TypeError
        A problem other than spherical phase retrieval with k = 1.

    Examples
    --------
    >>> round(optimal_gamma(Problem("quadratic", spherical=True), p=1), 6)  # 1/12
    0.083333
    """
    p = integer("p", p)
    phase_retrieval(problem)
    one_teacher(k)
    return float(p**3) / (8.0 + 2.0 * p + (2.0 + problem.Delta) * p**2)


def noise_strength(problem: Problem, p: int) -> float:
    """C_M: the noise adds (gamma/p) C_M/d per unit of t to the sum of m_j**2 over p, while M is small."""
    return 40.0 - 24.0 / p + 32.0 / p**2 + 4.0 * problem.Delta


def student_noise_strength(problem: Problem, p: int) -> float:
    """C_Q: the noise adds (gamma/p) C_Q/d per unit of t to the mean of Q_jl**2, j != l, while M is small."""
    g, Delta, s = problem.gamma / p, problem.Delta, 1.0 / p
    return (
        (16.0 * Delta + 32.0 + 32.0 * s + 384.0 * s**2)
        + g * (256.0 - 768.0 * s - 1024.0 * s**2 - 6144.0 * s**3 - 384.0 * Delta * s)
        + g**2 * (960.0 - 1664.0 * s + 4800.0 * s**2 + 7424.0 * s**3 + 30720.0 * s**4)
        + g**2 * Delta * (48.0 * Delta + 192.0 + 192.0 * s + 2304.0 * s**2)
    )


def reachable(problem: Problem, p: int, level: float) -> None:
    """Refuse a level of the risk that label noise never lets the student reach.

    The floor is (gamma/p) Delta/(1 - 6 gamma/p), exactly at p = 1, to first order in Delta otherwise. Beyond
    gamma/p = 1/6, only p > 1 escapes at all, and this tells nothing.
    """
    g = problem.gamma / p
    floor = g * problem.Delta / (1.0 - 6.0 * g) if 6.0 * g < 1.0 else 0.0
    if level <= floor:
        raise ValueError(
            f"the exit level {level:.3g} of the risk is never reached, label noise leaves {floor:.3g}; "
            "decrease T or gamma."
        )


def one_teacher(k: int) -> None:
    if integer("k", k) != 1:
        raise ValueError(
            f"the escape formulas hold for one teacher unit, k = 1, got k={k}; use escape.by_ode, or hdsgd.plateau."
        )


def phase_retrieval(problem: Problem) -> None:
    if not isinstance(problem, Problem):
        raise TypeError(
            f"problem must be an hdsgd.Problem, got {type(problem).__name__}; pass Problem('quadratic', ...)."
        )
    square = activation("quadratic").formula
    if problem.student.formula != square or problem.teacher.formula != square:
        raise ValueError("the escape formulas hold for the quadratic activation only; use escape.by_ode for others.")
    if not problem.spherical:
        raise ValueError(
            "the escape formulas hold on the sphere; pass Problem(..., spherical=True) or use escape.by_ode."
        )
    if problem.second_layer_ratio > 0.0:
        raise ValueError("the escape formulas hold for a fixed second layer; use escape.by_ode for a trained one.")
    if problem.batch_size > 1:
        raise ValueError(
            "the escape formulas are written for batch_size=1; pass gamma/batch_size as gamma, which gives the same t."
        )


def arguments(problem: Problem, p: int, k: int, d: int, T: float) -> tuple[int, int, float]:
    phase_retrieval(problem)
    one_teacher(k)
    return integer("p", p), integer("d", d, low=2, hint="it is the input dimension"), fraction(T)


def stable(problem: Problem, p: int) -> tuple[float, float]:
    """Both rates of the plateau; refuses a learning rate at which it is not escaped."""
    if problem.gamma >= max_gamma(problem, p):
        raise ValueError(
            f"gamma={problem.gamma:g} is beyond the stability of the escape at p={p}; "
            f"choose gamma < {max_gamma(problem, p):.6g}."
        )
    return growth_rate(problem, p), decay_rate(problem, p)


def plateau_start(problem: Problem, state: Overlaps) -> tuple[Problem, Overlaps]:
    problem, state = check_start(problem, state)
    phase_retrieval(problem)
    one_teacher(state.k)
    if state.replicas is not None:
        raise ValueError(
            f"this takes a single start, got {state.replicas} replicas; pass state.replica(i), one call each."
        )
    if abs(state.P[0, 0] - 1.0) > UNIT or np.any(state.a != 1.0) or np.any(state.a_star != 1.0):
        raise ValueError(
            "the escape formulas hold for P = 1 and second layers of ones; rescale the teacher, or use escape.by_ode."
        )
    return problem, state
