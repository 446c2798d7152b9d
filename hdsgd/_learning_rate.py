"""The choice of the learning rate for the escape from the plateau: largest and fastest, gain of width, samples needed.

At a plateau the overlaps M between student and teacher grow at a rate omega(gamma) per unit of t, gamma omega/(p d) per
step, so that the escape takes n = n_b p d log d/(2 gamma omega) samples to leading order. Here omega comes from the
equations of any activation, linearised around the plateau; permutations of the units reduce that to a few derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ._checks import choice, integer, real
from ._corrected import corrected
from ._dynamics import Dynamics
from ._fixed_points import jacobian, newton
from ._formulas import annealed, quenched
from ._overlaps import Overlaps
from ._plateau import information_exponents, plateau
from ._problem import Problem

__all__ = ["ROUTES", "LearningRate", "gain", "learning_rate", "samples"]

Array = NDArray[np.float64]
Entry: TypeAlias = tuple[int, int]
Drift: TypeAlias = Callable[[Array, Array], tuple[Array, Array]]

FIRST, FACTOR, STRIDE, MOST = 1e-3, 1.3, 0.1, 1e6  # steps along the plateaus: the first, growth, longest; largest g
TOLERANCE = 1e-11  # of the drift at a plateau
RELAX = 200.0  # time in which the overlaps between students reach the plateau of gradient flow
EDGE, LEAST = 5e-3, 1e-3  # derivatives by gamma are differences up to about here; smallest multiple of a guess


@dataclass(frozen=True)
class LearningRate:
    """What the learning rate does to the escape from the plateau; printing it gives a report.

    Attributes
    ----------
    problem : Problem
        At the optimal learning rate.
    p, k : int
    largest : float
        Below it the plateau is there, stable among the students, and M grows. Where norms are free, starts of other
        norms may run away from somewhat below it on.
    optimal : float
        Of the fewest samples. Without d and T it maximises gamma*growth, the growth per step; it equals `largest` where
        samples fall all the way up to that.
    growth : float
        Of M at the optimum, per unit of t.
    prefactor : float
        Samples n = prefactor d log d to leading order, there.
    d, T : int and float, or None
    by : str or None
        The route to the exit time that was optimised.
    samples : float or None
        That it takes, at the optimum.
    """

    problem: Problem
    p: int
    k: int
    largest: float
    optimal: float
    growth: float
    prefactor: float
    d: int | None = None
    T: float | None = None
    by: str | None = None
    samples: float | None = None

    def __str__(self) -> str:
        problem = self.problem
        pair = f"{problem.student.name} on {problem.teacher.name}"
        shape = ", spherical" if problem.spherical else ""
        lines = [
            f"learning rate of {pair}, p = {self.p}, k = {self.k}, Delta = {problem.Delta:g}{shape}",
            f"  largest gamma = {self.largest:.6g}: below it the plateau is stable and escaped",
            f"  optimal gamma = {self.optimal:.6g}: M grows as exp({self.growth:.6g} t)",
            f"  samples n = {self.prefactor:.6g} d log d to leading order",
        ]
        if self.samples is not None:
            lines[2] += f" (by the {self.by} exit time)"
            lines.append(f"  at d = {self.d}, T = {self.T:g}: samples n = {self.samples:.6g} ({self.by} exit time)")
        return "\n".join(lines)


class _Plateau:
    """The plateau at any gamma and its rates, by symmetry: one number for Q_jj and one for Q_jl, and M = 0.

    It is followed in these numbers and g = gamma/(p n_b) together, by arc length, from gradient flow to where it loses
    its stability or is no longer left: also around a fold, where two plateaus meet and end.
    """

    def __init__(self, problem: Problem, p: int, k: int) -> None:
        self.problem, self.p, self.k = problem, p, k
        self.unit = p * problem.batch_size
        self.start = Overlaps(np.eye(p), np.zeros((p, k)), np.eye(k))
        self.systems = [Dynamics(replace(problem, gamma=g * self.unit)).system(self.start) for g in (0.0, 1.0)]
        # The parts of Q that are free to move: of each, a matrix and an entry to read it at.
        self.parts = [(np.eye(p), (0, 0))] * (not problem.spherical) + [(1.0 - np.eye(p), (0, -1))] * (p > 1)
        self.points = [np.append(self._relaxed(), 0.0)]
        self.largest = self._follow()

    def _rhs(self, g: float) -> Drift:
        """The drift of Q and M as a function of both; it is linear in g."""

        def rhs(Q: Array, M: Array) -> tuple[Array, Array]:
            y = self.systems[0].packed(Q, M, self.start.a)
            flow, noisy = (system.rhs(0.0, y) for system in self.systems)
            dQ, dM, _ = self.systems[0].unpack(flow + g * (noisy - flow))
            return dQ, dM

        return rhs

    def _Q(self, x: Array) -> Array:
        Q = np.eye(self.p) if self.problem.spherical else np.zeros((self.p, self.p))
        for value, (part, _) in zip(x, self.parts, strict=True):
            Q = Q + value * part
        return Q

    def _drift(self, x: Array, g: float) -> Array:
        dQ = self._rhs(g)(self._Q(x), self.start.M)[0]
        return np.array([dQ[at] for _, at in self.parts])

    def _relaxed(self) -> Array:
        """Where gradient flow takes orthogonal students of norm 1."""
        from scipy.integrate import solve_ivp

        x = np.array([self.start.Q[at] for _, at in self.parts])
        if not x.size:
            return x
        x = solve_ivp(lambda t, y: self._drift(y, 0.0), (0.0, RELAX), x, method="LSODA").y[:, -1]
        return newton(lambda y: self._drift(y, 0.0), x, TOLERANCE)

    def _follow(self) -> float:
        """Collect plateaus on the way to the one whose margin vanishes; returns its gamma, inf if there is none."""
        from scipy.optimize import brentq

        point = self.points[0]
        if not self._margin(point) > 0.0:
            raise ValueError(
                "already in gradient flow the overlaps between students leave this plateau, so that no learning rate "
                "keeps the student there; follow it with hdsgd.solve_ode."
            )
        direction, length = np.append(np.zeros(point.size - 1), 1.0), FIRST
        while point[-1] < MOST:
            ahead = self._ahead(length, point, direction)
            if self._margin(ahead) <= 0.0:
                last = float(brentq(self._margin_ahead, 0.0, length, args=(point, direction), xtol=1e-14))
                self.points.append(self._ahead(last, point, direction))
                return float(self.points[-1][-1]) * self.unit
            self.points.append(ahead)
            direction = (ahead - point) / np.linalg.norm(ahead - point)
            point, length = ahead, min(FACTOR * length, STRIDE * max(1.0, float(np.linalg.norm(ahead))))
        return np.inf

    def _ahead(self, length: float, point: Array, direction: Array) -> Array:
        """The plateau at this distance from a point in this direction."""

        def equations(z: Array) -> Array:
            return np.append(self._drift(z[:-1], float(z[-1])), direction @ (z - point) - length)

        return newton(equations, point + length * direction, TOLERANCE)

    def _margin_ahead(self, length: float, point: Array, direction: Array) -> float:
        return self._margin(self._ahead(length, point, direction))

    def _margin(self, z: Array) -> float:
        """Positive where the plateau is stable and escaped."""
        return min(self._growth(z), self._decay(z))

    def growth(self, gamma: float) -> float:
        """Rate of the fastest of the modes of M."""
        g = gamma / self.unit
        x = np.array(
            [np.interp(g, [z[-1] for z in self.points], [z[i] for z in self.points]) for i in range(len(self.parts))]
        )
        return self._growth(np.append(newton(lambda y: self._drift(y, g), x, TOLERANCE) if x.size else x, g))

    def _growth(self, z: Array) -> float:
        """Modes are units alike or opposed, for students and for teachers."""
        rhs, Q = self._rhs(float(z[-1])), self._Q(z[:-1])
        modes = [np.outer(u, v) for u in _modes(self.p) for v in _modes(self.k)]
        return max(float(_along(rhs, (Q, self.start.M), 1, mode, [(0, 0)])[0]) for mode in modes)

    def _decay(self, z: Array) -> float:
        """The slowest rate at which overlaps between students return to the plateau; negative where some do not."""
        p, rhs, Q = self.p, self._rhs(float(z[-1])), self._Q(z[:-1])
        x = _modes(p)[-1]
        blocks = [self.parts]
        if p > 1:
            one, pairs = np.diag(x), (x[:, None] + x) * (1.0 - np.eye(p))
            blocks.append([(one, (0, 0))] * (not self.problem.spherical) + [(pairs, (0, -1))] * (p > 2))
        if p > 3:
            apart = np.outer(x, np.roll(x, 2))
            blocks.append([(apart + apart.T, (0, 2))])
        rates = [-np.inf]
        for block in blocks:
            entries = [at for _, at in block]
            columns = [_along(rhs, (Q, self.start.M), 0, part, entries) for part, _ in block]
            rates += list(np.linalg.eigvals(np.array(columns)).real) if block else []
        return -max(rates)


#: exit times over random starts, as functions of (problem, p, k, d, T)
ROUTES: dict[str, Callable[[Problem, int, int, int, float], float]] = {
    "linear": lambda problem, p, k, d, T: plateau(problem, p, k).exit_time(d, T),
    "annealed": lambda problem, p, k, d, T: annealed(problem, p=p, k=k, d=d, T=T),
    "quenched": lambda problem, p, k, d, T: quenched(problem, p=p, k=k, d=d, T=T),
    "corrected": lambda problem, p, k, d, T: corrected(problem, p=p, k=k, d=d, T=T),
}


def samples(problem: Problem, *, p: int, k: int = 1, d: int, T: float, by: str = "corrected") -> float:
    """Samples n = n_b p d t/gamma of the mean escape from random starts.

    Parameters
    ----------
    problem : Problem
        With gamma > 0; spherical phase retrieval, but for the route "linear".
    p, k, d : int
        Widths and input dimension.
    T : float
        Fall of the excess risk, 0 < T < 1.
    by : {"corrected", "quenched", "annealed", "linear"}
        The exit time: a function of that name in `hdsgd.escape`, or that of `hdsgd.plateau` for any activation.

    Returns
    -------
    float

    Raises
    ------
    ValueError, TypeError
        gamma = 0, or what the route refuses.

    Examples
    --------
    >>> from hdsgd import Problem
    >>> problem = Problem("quadratic", gamma=0.1, spherical=True)
    >>> round(samples(problem, p=1, d=3000, T=0.1, by="annealed"))
    53501
    """
    by = choice("by", by, ROUTES)
    p, d = integer("p", p), integer("d", d)
    if problem.gamma == 0.0:
        raise ValueError("gradient flow (gamma = 0) uses no samples; set gamma > 0.")
    return problem.batch_size * p * d * ROUTES[by](problem, p, k, d, T) / problem.gamma


def gain(p: int, Delta: float = 0.0) -> float:
    """Factor by which p students need fewer samples than one, each at its optimal learning rate.

    (12 + Delta)/(2 + 2/p + 8/p**2 + Delta), to leading order in log d, for spherical phase retrieval; it ends at
    (12 + Delta)/(2 + Delta). For other problems divide the prefactors of two `learning_rate`.

    Raises
    ------
    ValueError, TypeError
        p below 1 or Delta below 0.

    Notes
    -----
    Source: Arnaboldi et al. 2023 (arXiv 2305.18502), from the rates of the plateau.

    Examples
    --------
    >>> gain(1), round(gain(2), 6), round(gain(1000), 3)
    (1.0, 2.4, 5.994)
    """
    p, Delta = integer("p", p), real("Delta", Delta, low=0.0)
    return (12.0 + Delta) / (2.0 + 2.0 / p + 8.0 / p**2 + Delta)


def learning_rate(
    problem: Problem, *, p: int, k: int = 1, d: int | None = None, T: float | None = None, by: str = "corrected"
) -> LearningRate:
    """The learning rate of the fastest escape from the plateau, and the largest one, by numerical optimisation.

    Parameters
    ----------
    problem : Problem
        Any activations with a plateau of information exponent 2 and a fixed second layer, free or spherical; its gamma
        is not used.
    p, k : int
        Widths; P = I.
    d, T : int and float, optional
        Minimise the samples of the exit at this dimension, instead of those to leading order in log d.
    by : {"corrected", "quenched", "annealed", "linear"}
        The exit time at d and T, as in `samples`. That of "corrected" knows the noise of SGD at finite d, which
        shortens the exit by more the larger gamma is: its optimum is larger than that of the linear rates.

    Returns
    -------
    LearningRate

    Raises
    ------
    ValueError, TypeError
        Another exponent, a trained second layer, students that leave the plateau even in gradient flow, only one of d
        and T, or what the route refuses.

    Notes
    -----
    The rates are those of `hdsgd.plateau`, at the cost of a few evaluations of the drift for any p: at M = 0 all
    students are alike, and the modes are those of the permutations.

    Source: Arnaboldi et al. 2023 (arXiv 2305.18502), for phase retrieval on the sphere: `escape.optimal_gamma` and
    `escape.max_gamma` are its closed forms.

    Examples
    --------
    >>> from hdsgd import Problem
    >>> found = learning_rate(Problem("quadratic", spherical=True), p=1)
    >>> round(1.0 / found.optimal, 6), round(1.0 / found.largest, 6)
    (12.0, 6.0)
    >>> print(learning_rate(Problem("cos", Delta=0.1), p=2))  # doctest: +ELLIPSIS
    learning rate of cos on cos, p = 2, k = 1, Delta = 0.1
      largest gamma = 4.08089: below it the plateau is stable and escaped
      optimal gamma = ...
      samples n = ... d log d to leading order
    """
    p, k, by = integer("p", p), integer("k", k), choice("by", by, ROUTES)
    if (d is None) != (T is None):
        raise ValueError("the exit takes both d and T; pass both, or none for the leading order in log d.")
    if problem.second_layer_ratio:
        raise ValueError("the plateau is that of a fixed second layer; set second_layer_ratio=0.")
    shared = information_exponents(problem)[1]
    if shared != 2:
        raise ValueError(
            f"M grows exponentially from a plateau of information exponent 2, but student and teacher share {shared}; "
            "see hdsgd.plateau."
        )
    flat = _Plateau(problem, p, k)
    largest = flat.largest
    optimal, inside = _peak(
        lambda gamma: gamma * flat.growth(gamma) if gamma < largest else -np.inf, min(0.5 * largest, flat.unit)
    )
    optimal = optimal if inside else largest
    needed = None
    if d is not None and T is not None:
        d, T = integer("d", d), real("T", T, low=0.0, high=1.0, strict=True)
        refusals = [""]

        def count(gamma: float) -> float:
            try:
                return samples(replace(problem, gamma=gamma), p=p, k=k, d=d, T=T, by=by)
            except ValueError as error:
                refusals.append(str(error))
                return np.inf

        optimal, inside = _peak(lambda gamma: -float(np.log(count(gamma))), optimal)
        if not inside:
            raise ValueError(f"the {by} exit time gives no optimum up to gamma = {optimal:.3g}: {refusals[-1]}")
        needed = count(optimal)
    growth = flat.growth(optimal)
    return LearningRate(
        problem=replace(problem, gamma=optimal),
        p=p,
        k=k,
        largest=largest,
        optimal=optimal,
        growth=growth,
        prefactor=problem.batch_size * p / (2.0 * optimal * growth),
        d=d,
        T=T,
        by=None if d is None else by,
        samples=needed,
    )


def _peak(function: Callable[[float], float], guess: float) -> tuple[float, bool]:
    """Where a function of gamma is largest, by the zero of its derivative; it is -inf where it does not hold.

    Returns also whether it holds around that: otherwise it grows as far as it holds, or it holds nowhere.
    """
    from scipy.optimize import brentq

    def slope(gamma: float) -> float:
        def nearby(x: Array) -> Array:
            return np.array([function(gamma * (1.0 + float(x[0])))])

        with np.errstate(invalid="ignore"):
            found = float(jacobian(nearby, np.zeros(1))[0, 0])
        return found if np.isfinite(found) else -1.0

    low = high = guess
    while slope(low) < 0.0:
        low /= FACTOR
        if low < LEAST * guess:
            return low, False
    while slope(high) > 0.0 and high < guess / LEAST:
        low, high = high, FACTOR * high
    gamma = low if low == high else float(brentq(slope, low, high, xtol=1e-10 * high, rtol=1e-12))
    return gamma, bool(np.isfinite(function(gamma * (1.0 + EDGE))))


def _modes(count: int) -> list[Array]:
    """All units alike, and two opposed where there are two."""
    return [np.ones(count)] + ([np.append([1.0, -1.0], np.zeros(count - 2))] if count > 1 else [])


def _along(rhs: Drift, state: tuple[Array, Array], which: int, direction: Array, entries: list[Entry]) -> Array:
    """Derivative of some entries of dQ (which = 0) or dM (1), as Q or M moves."""

    def moved(h: Array) -> Array:
        there = list(state)
        there[which] = there[which] + h[0] * direction
        drift = rhs(*there)[which]
        return np.array([drift[at] for at in entries])

    return jacobian(moved, np.zeros(1))[:, 0]
