"""Closed forms of quadratic networks with free weights: plateau, escape, what is conserved, the end of training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._checks import array, integer, real
from ._ode import solve_ode
from ._overlaps import Overlaps
from ._problem import Problem
from ._random import RNG
from ._solution import Exit

__all__ = ["QuadraticNetwork"]

Array = NDArray[np.float64]

RANK = 1e-9  # singular values below this fraction of the largest one are zero


@dataclass(frozen=True)
class QuadraticNetwork:
    """A student of width p on a teacher of width k with orthogonal units (P = I), both of activation x², norms free.

    Parameters
    ----------
    p, k : int
        Widths of student and teacher.
    gamma : float
        Learning rate; 0 is gradient flow.
    Delta : float
        Variance of the label noise.

    Raises
    ------
    ValueError, TypeError
        A width that is no positive integer, a negative rate or noise. Single properties also raise a ValueError where
        they do not exist, and say why.

    Notes
    -----
    Times and rates are those of t = νγ/(pd), risks are excess risks, and everything holds in the limit d → ∞.

    Source: Bocchi, Regimbeau, Lucibello, Saglietti, Cammarota 2026 (arXiv 2604.03068); the forms at finite γ and the
    late-time law are derived here from the same equations.

    Examples
    --------
    >>> network = QuadraticNetwork(p=6, k=3)
    >>> network.plateau_risk == 1 / 3 + 1 / 8, network.norm_rate, network.shape_rate
    (True, 4.0, 1.0)
    >>> network.degrees_of_freedom
    12
    >>> round(network.optimal_gamma, 3)
    1.445
    """

    p: int
    k: int
    gamma: float = 0.0
    Delta: float = 0.0

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "p", integer("p", self.p))
        put(self, "k", integer("k", self.k))
        put(self, "gamma", real("gamma", self.gamma, low=0.0, hint="gamma=0 is gradient flow"))
        put(self, "Delta", real("Delta", self.Delta, low=0.0, hint="Delta is the variance of the label noise"))

    @property
    def problem(self) -> Problem:
        """The same as a `Problem`, to solve or simulate."""
        return Problem("quadratic", gamma=self.gamma, Delta=self.Delta)

    @property
    def plateau_norm(self) -> float:
        """Squared norm c of the students at the plateau, M = 0 and Q = c I; p/(p + 2) in gradient flow."""
        return self._excess * self.p / (self.p + 2)

    @property
    def plateau_risk(self) -> float:
        """Risk at the plateau; 1/k + 1/(p + 2) in gradient flow."""
        c = self.plateau_norm
        return 0.5 * (1.0 - c) ** 2 + 1.0 / self.k + c**2 / self.p

    @property
    def growth(self) -> float:
        """Rate at which M grows at the plateau; 4/k in gradient flow."""
        return 4.0 / self.k + 2.0 * (1.0 - self._excess)

    @property
    def norm_rate(self) -> float:
        """Rate at which tr Q relaxes to the plateau (the norm learning); 4 in gradient flow."""
        x, g = self._excess, self.gamma / self.p
        return 4.0 * x * (1.0 + 2.0 * g - 2.0 * g * x * (self.p + 4) / (self.p + 2))

    @property
    def shape_rate(self) -> float:
        """Rate at which the p(p+1)/2 − 1 traceless modes of Q relax to the plateau; 8/(p + 2) in gradient flow."""
        c, g = self.plateau_norm, self.gamma / self.p
        return 8.0 * c / self.p * (1.0 + 2.0 * g * (1.0 - c - 4.0 * c / self.p))

    @property
    def optimal_gamma(self) -> float:
        """Learning rate of the fastest escape in samples: it maximises (γ/p) times `growth`.

        It is not a safe rate: see `largest_gamma`.
        """
        # with x as the parameter, gamma/p = (x - 1)/d(x) and the speed is n(x)/d(x), both quadratic
        k, slope = self.k, (self.p + 4) / (self.p + 2)
        n = (-2.0, 4.0 + 4.0 / k, -2.0 - 4.0 / k)
        d = (slope, -2.0, 1.0 + 2.0 / k + self.Delta)
        roots = np.roots([n[0] * d[1] - n[1] * d[0], 2.0 * (n[0] * d[2] - n[2] * d[0]), n[1] * d[2] - n[2] * d[1]]).real
        x = float(min(roots[roots > 1.0]))
        return self.p * (x - 1.0) / float(np.polyval(d, x))

    @property
    def largest_gamma(self) -> float:
        """Learning rates from here on cannot learn to the end: pk/(2(k + 2)), for p ≥ k."""
        self._wide("the teacher is learned")
        return self.p * self.k / (2.0 * (self.k + 2))

    @property
    def floor(self) -> float:
        """Risk that the label noise leaves at the end, for p ≥ k; exact for p = k, up to O(Δ²) for p > k.

        Raises
        ------
        ValueError
            For γ ≥ `largest_gamma`, where nothing stable is left.
        """
        if not self.gamma < self.largest_gamma:
            raise ValueError(f"there is no floor at gamma = {self.gamma:g}; take gamma < {self.largest_gamma:g}.")
        return self.gamma * self.Delta / self.p / (1.0 - self.gamma / self.largest_gamma)

    @property
    def degrees_of_freedom(self) -> int:
        """Dimension pk − k(k+1)/2 of the set of overlaps with zero loss, for p ≥ k."""
        self._wide("the zero-loss set exists")
        return self.p * self.k - self.k * (self.k + 1) // 2

    @property
    def nullity(self) -> int:
        """Rates that vanish at zero loss in the space of the overlaps: those along the set, and (p−k)(p−k+1)/2 more."""
        return self.degrees_of_freedom + (self.p - self.k) * (self.p - self.k + 1) // 2

    @property
    def late_constant(self) -> float:
        """The limit of t² times the risk at late times, for p > k and Δ = 0; for p = k the risk decays exponentially.

        Best measured as (d risk^(−1/2)/dt)^(−2): t² risk itself is still 9 % off at t = 56.
        """
        if not (self.p > self.k and self.Delta == 0.0 and self.gamma < self.largest_gamma):
            raise ValueError("the risk decays as 1/t^2 only for p > k, Delta = 0 and gamma < largest_gamma.")
        flow = (self.p - self.k) * (self.k + 2) / (64.0 * (self.p + 2))
        return flow * (1.0 + 2.0 * self.gamma / self.p / (1.0 - self.gamma / self.largest_gamma))

    def exit_time(self, d: int, f: float) -> float:
        """Time at which gradient flow from random weights has lowered the risk by the fraction f of the plateau's.

        Annealed over the starts, with Q(0) ∝ I; for γ > 0 there is `hdsgd.plateau(...).exit_time`.
        """
        if self.gamma > 0.0:
            raise ValueError("this is the exit time of gradient flow; for gamma > 0 take hdsgd.plateau(...).exit_time.")
        d, f = integer("d", d), real("f", f, low=0.0, high=1.0, strict=True)
        drop = f * d * (self.p + 2 + self.k) / (2.0 * self.p * self.k)
        if drop <= 1.0:
            raise ValueError(f"at d = {d} a random start is already {f:g} below the plateau; increase d or f.")
        return self.k / 8.0 * float(np.log(drop))

    def alpha(self, state: Overlaps, *, T: float = 0.5, t_max: float = 100.0) -> float:
        """Samples per dimension, α = tp/γ, after which the risk along the ODE has fallen by the fraction T.

        With T = ½ this is the α_c of Bocchi et al. 2026, figure 2; NaN where it takes longer than t_max or diverges.
        """
        self._fits(state)
        if self.gamma == 0.0:
            raise ValueError("gradient flow (gamma = 0) uses no samples; set gamma > 0.")
        sol = solve_ode(self.problem, state, t_max, times=[0.0], stop=Exit(T=T))
        return float(sol.exit_time) * self.p / self.gamma

    def orthogonal_start(self, d: int, *, norm: float = 1.0, rng: RNG = None) -> Overlaps:
        """A start with orthogonal students of squared norm ``norm``, their directions uniform in dimension d ≥ p, k."""
        d = integer("d", d, low=max(self.p, self.k), hint="students are orthogonal, and so are teachers")
        norm = real("norm", norm, low=0.0, strict=True)
        start = Overlaps.random(self.p, self.k, d, rng=rng, spherical=False, orthogonal_teacher=True)
        # rows of L^-1 W, LL^T = WW^T, are orthonormal, and as invariant under rotations as those of W
        M = np.linalg.solve(np.linalg.cholesky(start.Q), start.M)
        return Overlaps(norm * np.eye(self.p), np.sqrt(norm) * M, start.P)

    def conserved(self, state: Overlaps, t: float) -> Array:
        """The conserved matrix S = e^{4t/k}(T⁻¹ − I)e^{4t/k} of gradient flow, T = MᵀQ⁻¹M.

        Parameters
        ----------
        state : Overlaps
            At time t, with p ≥ k, Q invertible and M of full rank.
        t : float

        Returns
        -------
        (k, k) array
            The same at all times of one trajectory.
        """
        self._fits(state)
        self._wide("S exists")
        self._full_rank(state.M, "M")
        self._full_rank(state.Q, "Q")
        T = state.M.T @ np.linalg.solve(state.Q, state.M)
        return np.asarray(np.exp(8.0 * real("t", t) / self.k) * (np.linalg.inv(T) - np.eye(self.k)))

    def polar(self, state: Overlaps) -> Array:
        """Polar factor U = M(MᵀM)^(−1/2), shape (p, k); conserved for any γ and Δ if Q(0) ∝ I."""
        self._fits(state)
        self._full_rank(state.M, "M")
        left, _, right = np.linalg.svd(state.M, full_matrices=False)
        return np.asarray(left @ right)

    def end_point(self, state: Overlaps) -> Overlaps:
        """The point of zero loss closest to a start, its predicted end: M = √(p/k) U, Q = (p/k) UUᵀ, for p ≥ k."""
        self._wide("the zero-loss set exists")
        U = np.sqrt(self.p / self.k) * self.polar(state)
        return Overlaps(U @ U.T, U, np.eye(self.k))

    def distance(self, state: Overlaps, end: Overlaps) -> float:
        """Frobenius distance of Q and M to an end point, relative to its norm."""
        self._fits(state)
        self._fits(end)
        gap = np.hypot(np.linalg.norm(state.Q - end.Q), np.linalg.norm(state.M - end.M))
        return float(gap / np.hypot(np.linalg.norm(end.Q), np.linalg.norm(end.M)))

    def freedom(self, M: ArrayLike) -> int:
        """Degrees of freedom around M of shape (p, k): the nullity of the derivative of MᵀM, by singular values."""
        m = array("M", M, ndim=(2,), shape="(p, k)")
        p, k = m.shape
        rows = []
        for j in range(p):
            for r in range(k):
                change = np.zeros((k, k))
                change[r] = m[j]
                rows.append((change + change.T)[np.triu_indices(k)])
        sizes = np.linalg.svd(np.array(rows), compute_uv=False)
        return m.size - int((sizes > RANK * sizes[0]).sum())

    def __str__(self) -> str:
        learned = self.p >= self.k
        rows = [
            f"quadratic network, p = {self.p}, k = {self.k}, gamma = {self.gamma:g}, Delta = {self.Delta:g}",
            *self._at_plateau(),
            f"  fastest escape at gamma = {self.optimal_gamma:.6g}"
            + (f"; learning to the end needs gamma < {self.largest_gamma:.6g}" if learned else ""),
        ]
        if learned:
            rows.append(f"  zero loss: {self.degrees_of_freedom} degrees of freedom, {self.nullity} vanishing rates")
            if self.gamma < self.largest_gamma and self.Delta > 0.0:
                rows.append(f"  floor of the label noise: risk {self.floor:.6g}")
            elif self.gamma < self.largest_gamma:
                end = f"{self.late_constant:.6g}/t^2" if self.p > self.k else "decays exponentially"
                rows.append(f"  late times: risk {end}")
        return "\n".join(rows)

    def _at_plateau(self) -> list[str]:
        """What `__str__` says of it."""
        try:
            rates = f"escape {self.growth:.6g}, norm {self.norm_rate:.6g}, shape {self.shape_rate:.6g}"
        except ValueError as reason:  # none at this gamma
            return [f"  {reason}"]
        return [
            f"  plateau: risk {self.plateau_risk:.6g}, Q_jj = {self.plateau_norm:.6g}",
            f"  rates per unit of t: {rates}",
        ]

    @property
    def _excess(self) -> float:
        """x = c(p + 2)/p ≥ 1, the stable root of the equation of the norms at the plateau."""
        g = self.gamma / self.p
        a, b, c = g * (self.p + 4) / (self.p + 2), 1.0 + 2.0 * g, 1.0 + g * (1.0 + 2.0 / self.k + self.Delta)
        below = b**2 - 4.0 * a * c
        if below < 0.0:
            raise ValueError(
                f"there is no plateau at gamma = {self.gamma:g}: the norms grow without end; decrease gamma."
            )
        return float(2.0 * c / (b + np.sqrt(below)))

    def _wide(self, what: str) -> None:
        if self.p < self.k:
            raise ValueError(f"{what} only for p >= k, got p = {self.p} and k = {self.k}; take a wider student.")

    @staticmethod
    def _full_rank(x: Array, name: str) -> None:
        if np.linalg.matrix_rank(x) < min(x.shape):
            raise ValueError(f"{name} has not full rank here, which the law needs; start from generic weights.")

    def _fits(self, state: Overlaps) -> None:
        if not isinstance(state, Overlaps):
            raise TypeError(f"state must be an hdsgd.Overlaps, got {type(state).__name__}; pass Overlaps(Q, M, P).")
        if state.M.shape != (self.p, self.k):
            raise ValueError(f"state must have M of shape {(self.p, self.k)} here, got {state.M.shape}.")
        if np.any(state.a != 1.0) or np.any(state.a_star != 1.0):
            raise ValueError("these laws are for second layers of ones; leave out a and a_star.")
        if not np.array_equal(state.P, np.eye(self.k)):
            raise ValueError("these laws are for teachers with P = I; draw the start with orthogonal_teacher=True.")
