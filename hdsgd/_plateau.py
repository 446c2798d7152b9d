"""The uninformed plateau, where the student knows nothing of the teacher (M = 0), and the escape from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._checks import integer, real
from ._dynamics import Dynamics
from ._fixed_points import FixedPoint, describe, jacobian, newton
from ._kernel import load
from ._ode import solve_ode
from ._overlaps import Overlaps
from ._plateau_exit import corrected_time
from ._problem import Problem

__all__ = ["Plateau", "information_exponents", "plateau"]

Array = NDArray[np.float64]

ORDERS = 12  # Hermite coefficients that are looked at
ZERO = 1e-9  # smaller ones, relative to the root mean square of the activation, are zero
CURVATURE_STEP = 1e-2  # of second differences, whose rounding and own error meet there at about 1e-10
RELAX = 200.0  # time in which the overlaps between students reach the plateau, in units of t


@dataclass(frozen=True, eq=False)
class Plateau:
    """The fixed point without overlap between student and teacher, and the laws of the escape from it.

    Attributes
    ----------
    problem : Problem
    p, k : int
    teacher_exponent : int or None
        Information exponent of the teacher activation: the order of its first Hermite coefficient, constant apart.
        None: all of the first 12 vanish.
    exponent : int or None
        The first order at which student and teacher both have a coefficient, which decides about the plateau.
    point : FixedPoint or None
        None where there is no plateau (``exponent`` 1).
    growth : float
        Largest rate of the teacher-student overlaps per unit of t; NaN without a plateau.
    modes : (g, p*k) array
        The growing modes of M: their amplitudes are ``modes @ M.ravel()``.
    falls : (g, g) array
        The excess risk that a pair of amplitudes of size 1 takes away.
    rates : (g, g) array
        The rates at which these pairs grow.
    """

    problem: Problem
    p: int
    k: int
    teacher_exponent: int | None
    exponent: int | None
    point: FixedPoint | None
    growth: float
    modes: Array
    falls: Array
    rates: Array

    @property
    def gains(self) -> Array:
        """For each pair of growing modes, the excess risk that it takes away at d = 1, t = 0, from a random start."""
        if self.point is None:
            return np.zeros((0, 0))
        # of a random start of norm one: Cov(M_jr, M_ls) = Q_jl P_rs/d
        spread = self.modes @ np.kron(self.point.state.Q, self.point.state.P) @ self.modes.T
        return np.asarray(spread * self.falls)

    def exit_time(self, d: int, T: float) -> float:
        """Time t at which the risk has fallen by the fraction T below the plateau, from the linear theory.

        Solves T R_plateau = (1/d) sum_ab gains_ab exp(rates_ab t): the mean over random starts of the drop of the risk,
        to leading order in d (for phase retrieval this is the annealed exit time of Arnaboldi et al. 2023).

        Raises
        ------
        ValueError
            Without a growing mode, or for a drop that is there from the start.
        """
        d = integer("d", d)
        T = real("T", T, low=0.0, high=1.0, strict=True)
        if self.point is None or not self.growth > self.point.tolerance or self.exponent != 2:
            raise ValueError(f"the linear theory gives no exit time here: {self.laws()[0]}")
        target, gains = T * self.point.risk * d, self.gains
        if not target > gains.sum():
            raise ValueError(f"at d = {d} a random start is already {T:g} below the plateau; increase d or T")
        from scipy.optimize import brentq

        def excess(t: float) -> float:
            return float(np.log((gains * np.exp(self.rates * t)).sum() / target))

        last = 1.0
        while excess(last) < 0.0:
            last *= 2.0
        return float(brentq(excess, 0.0, last, xtol=1e-13, rtol=1e-13))

    def corrected_time(self, d: int, T: float) -> float:
        """Mean time t at which the risk of SGD at finite d has fallen by the fraction T below the plateau.

        E t = E[t_ODE(Q0, M0)] - (E log X' - E log X)/(2 growth): the mean over random starts of the exit of the ODE,
        and the time that noise saves. X is the fall of the risk by the growing modes of M, a quadratic form of
        amplitudes that are normal; X' that with the variance which the linear SDE of the plateau adds to them, by
        `Dynamics.diffusion`. For phase retrieval on the sphere it is the plain form of `escape.corrected`.

        Raises
        ------
        ValueError
            Without a growing mode (an information exponent other than 2), for a drop that is there from the start or
            not clear of the noise, and where the ODE never falls that far.

        Notes
        -----
        Students start on the sphere or, if their norms are free, with entries N(0, 1); then noise that acts before the
        norms have relaxed is taken as it is on the plateau. Measured against the exact simulation at d = 30000,
        T = 0.01: within its error (1 to 1.5 %) for quadratic, he2, Gaussian, cos and |x|, p = 1 to 6, k = 1 to 3, on
        the sphere and free.
        """
        return corrected_time(self, d, T)

    def samples(self, d: int, T: float) -> float:
        """Samples n = n_b p d t/gamma that the escape takes, by `exit_time`."""
        if self.problem.gamma == 0.0:
            raise ValueError("gradient flow (gamma = 0) uses no samples; set gamma > 0")
        return self.problem.batch_size * self.p * d * self.exit_time(d, T) / self.problem.gamma

    def laws(self) -> tuple[str, ...]:
        """What follows for the escape, one sentence each."""
        if self.exponent is None:
            return ("student and teacher share no Hermite coefficient: the teacher is never found.",)
        if self.exponent == 1:
            return ("the first Hermite coefficients of student and teacher meet: learning starts at once, no plateau.",)
        assert self.point is not None
        gamma, found = self.problem.gamma, []
        if self.exponent == 2:
            if self.growth > self.point.tolerance:
                found.append(f"the overlaps with the teacher grow as exp({self.growth:.6g} t).")
                found.append(f"exit time t = log(d)/{2.0 * self.growth:.6g} + constant (see exit_time).")
                if gamma > 0.0:
                    prefactor = self.problem.batch_size * self.p / (2.0 * gamma * self.growth)
                    found.append(f"samples n = {prefactor:.6g} d log d to leading order.")
            else:
                found.append(
                    f"the noise makes M = 0 stable (rate {self.growth:.6g}): decrease gamma to escape the plateau."
                )
            return tuple(found)
        order = self.exponent
        found.append(f"M = 0 is left by a power of order {order - 1}, not exponentially.")
        found.append(f"samples n ~ d^{order - 1}, at gamma ~ d^(1 - {order}/2).")
        if gamma > 0.0 and self.growth < -self.point.tolerance:
            found.append(f"at this fixed gamma the noise makes M = 0 stable (rate {self.growth:.6g}).")
        return tuple(found)

    def __str__(self) -> str:
        own, shared = (f"none up to {ORDERS}" if n is None else n for n in (self.teacher_exponent, self.exponent))
        lines = [
            f"plateau of {self.problem.student.name} on {self.problem.teacher.name}, p = {self.p}, k = {self.k}, "
            f"gamma = {self.problem.gamma:g}, Delta = {self.problem.Delta:g}"
            + (", spherical" if self.problem.spherical else ""),
            f"  information exponent: teacher {own}, with this student {shared}",
        ]
        if self.point is not None:
            Q = self.point.state.Q
            across = f", Q_jl = {round(Q[0, 1], 9) + 0.0:.6g}" if self.p > 1 else ""
            lines += [f"  {self.point}", f"  there Q_jj = {Q[0, 0]:.6g}{across}"]
            values, counts = _grouped(self.point.eigenvalues.real, self.point.tolerance)
            listed = ", ".join(f"{v:.6g} [{n}]" for v, n in zip(values[:8], counts[:8], strict=True))
            lines.append(f"  rates [multiplicity]: {listed}{', ...' if len(values) > 8 else ''}")
        return "\n".join(lines + [f"  {law}" for law in self.laws()])


def plateau(problem: Problem, p: int, k: int = 1, *, P: ArrayLike | None = None, backend: str = "auto") -> Plateau:
    """The plateau of an uninformed start: its fixed point, what grows from it, and the laws of the escape.

    Parameters
    ----------
    problem : Problem
        With a fixed second layer.
    p, k : int
        Widths of student and teacher.
    P : (k, k) array_like, optional
        Overlaps of the teacher units; the identity by default.
    backend : {"auto", "c", "numpy"}

    Returns
    -------
    Plateau
        Printing it gives a report.

    Raises
    ------
    ValueError
        If the overlaps between students run away from the plateau: gamma is too large.
    TypeError
        A learning rate that is a schedule.

    Notes
    -----
    With M = 0 the overlaps between students relax to a fixed point, from Q = I; there the drift is linearised. The
    information exponent decides what follows (Ben Arous, Gheissari & Jagannath 2021; Arnaboldi et al. 2023).

    Examples
    --------
    >>> from hdsgd import Problem
    >>> flat = plateau(Problem("quadratic", gamma=0.1, spherical=True), p=1)
    >>> flat.exponent, round(flat.growth, 6)
    (2, 1.6)
    """
    if not isinstance(problem, Problem):
        raise TypeError(f"problem must be an hdsgd.Problem, got {type(problem).__name__}")
    p, k = integer("p", p), integer("k", k)
    if problem.second_layer_ratio:
        raise ValueError("the plateau is that of a fixed second layer; set second_layer_ratio=0")
    own, shared = information_exponents(problem)
    start = Overlaps(np.eye(p), np.zeros((p, k)), np.eye(k) if P is None else P)
    none = np.zeros((0, p * k)), np.zeros((0, 0)), np.zeros((0, 0))
    if shared == 1:
        return Plateau(problem, p, k, own, shared, None, float("nan"), *none)
    problem.step_time(p, 1)  # refuses a schedule
    dynamics = Dynamics(problem, backend)
    relaxed = solve_ode(problem, start, RELAX, times=[RELAX], backend=backend)
    Q = relaxed.Q[-1] if relaxed.t.size and relaxed.t[-1] == RELAX else np.full((p, p), np.nan)
    if not np.all(np.isfinite(Q)):
        raise ValueError(
            f"there is no plateau at gamma = {problem.gamma:g}: the overlaps between students grow without end; "
            "decrease gamma"
        )
    start = Overlaps(Q, start.M, start.P)
    system = dynamics.system(start)
    y = system.pack(start)
    students = y.size - p * k

    def among_students(z: Array) -> Array:
        return system.rhs(0.0, np.concatenate((z, np.zeros(p * k))))[:students]

    if students:
        y = np.concatenate((newton(among_students, y[:students], 1e-12), np.zeros(p * k)))
    point = describe(dynamics, system, start, y)
    across = jacobian(lambda m: system.rhs(0.0, np.concatenate((y[:students], m)))[students:], y[students:])
    rates = np.linalg.eigvals(across)
    growing = rates.real > point.tolerance
    growth = float(rates.real.max())
    if shared != 2 or not growing.any() or np.abs(rates[growing].imag).max() > point.tolerance:
        return Plateau(problem, p, k, own, shared, point, growth, *none)
    vectors, weights, speeds = _modes(
        across, _grouped(np.asarray(rates[growing].real, dtype=float), point.tolerance)[0], point.tolerance
    )
    falls, together = np.zeros((len(speeds), len(speeds))), speeds[:, None] + speeds
    slope = jacobian(lambda z: np.array([system.risk(z)]), y)[0, :students]
    inner = jacobian(among_students, y[:students]) if students else np.zeros((0, 0))
    for i in range(len(speeds)):
        for j in range(i + 1):
            pair = (
                np.concatenate((np.zeros(students), vectors[:, i])),
                np.concatenate((np.zeros(students), vectors[:, j])),
            )
            curvature = _second(lambda z: np.array([system.risk(z)]), y, *pair)[0]
            push = _second(lambda z: system.rhs(0.0, z)[:students], y, *pair)  # on the students' overlaps, which follow
            follow = np.linalg.solve(together[i, j] * np.eye(students) - inner, push)
            falls[i, j] = falls[j, i] = -0.5 * (curvature + slope @ follow)
    return Plateau(problem, p, k, own, shared, point, growth, weights, falls, together)


@cache
def _normal_nodes() -> tuple[Array, Array]:
    """Nodes and weights of a standard normal variable, on each side of a kink at 0."""
    from scipy.special import roots_legendre

    x, weights = roots_legendre(600)
    x, weights = 8.0 * (x + 1.0), 8.0 * weights
    x, weights = np.concatenate((-x[::-1], x)), np.concatenate((weights[::-1], weights))
    return x, weights * np.exp(-(x**2) / 2.0) / np.sqrt(2.0 * np.pi)


def information_exponents(problem: Problem) -> tuple[int | None, int | None]:
    """Orders of the first Hermite coefficient of the teacher, and of the first one shared with the student."""
    x, weights = _normal_nodes()
    kernel = load(problem.student, problem.teacher, "numpy")
    hermite = [np.ones_like(x), x]
    for n in range(1, ORDERS):
        hermite.append((x * hermite[n] - np.sqrt(n) * hermite[n - 1]) / np.sqrt(n + 1.0))  # of unit norm

    def present(values: Array) -> list[bool]:
        size = np.sqrt(weights @ values**2)
        return [bool(abs(weights @ (values * h)) > ZERO * size) for h in hermite]

    student = present(np.broadcast_to(kernel.sigma(x), x.shape))
    teacher = present(np.broadcast_to(kernel.sigma_star(x), x.shape))
    own = next((n for n in range(1, ORDERS + 1) if teacher[n]), None)
    shared = next((n for n in range(1, ORDERS + 1) if teacher[n] and student[n]), None)
    return own, shared


def _second(function: Callable[[Array], Array], y: Array, u: Array, v: Array) -> Array:
    """Second derivative of a vector function at y along u and v, by differences of fourth order."""

    def along(w: Array) -> Array:
        size = float(np.abs(w).max())
        if size == 0.0:
            return 0.0 * function(y)
        h = CURVATURE_STEP / size
        near, far = function(y + h * w) + function(y - h * w), function(y + 2.0 * h * w) + function(y - 2.0 * h * w)
        return (16.0 * near - far - 30.0 * function(y)) / (12.0 * h**2)

    return (along(u + v) - along(u - v)) / 4.0


def _modes(J: Array, values: list[float], tolerance: float) -> tuple[Array, Array, Array]:
    """Modes (n, m) of some rates, their dual vectors (m, n), and the rate of each.

    Rounding splits equal rates and leaves eigenvectors that are nearly parallel: their space has orthonormal ones.
    """
    from scipy.linalg import schur

    def space(matrix: Array, value: float) -> Array:
        _, basis, size = schur(matrix, sort=lambda re, im: value - 10.0 * tolerance <= re <= value + tolerance)
        return np.asarray(basis[:, :size])

    modes, duals, speeds = [], [], []
    for value in values:
        right, left = space(J, value), space(J.T, value)
        modes.append(right)
        duals.append(np.linalg.solve(left.T @ right, left.T))
        speeds.append(np.full(right.shape[1], np.trace(duals[-1] @ J @ right) / right.shape[1]))
    return np.concatenate(modes, axis=1), np.concatenate(duals), np.concatenate(speeds)


def _grouped(values: Array, tolerance: float) -> tuple[list[float], list[int]]:
    """Distinct values in descending order, with their multiplicities."""
    found: list[float] = []
    counts: list[int] = []
    for value in np.sort(values)[::-1]:
        if found and abs(found[-1] - value) <= 10.0 * tolerance:
            counts[-1] += 1
        else:
            found.append(0.0 if abs(value) <= tolerance else float(value))
            counts.append(1)
    return found, counts
