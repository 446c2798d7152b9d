"""The phase diagram of width and learning rate: p = p0 d**kappa, gamma = gamma0 d**(-delta)."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._checks import integer, real
from ._dynamics import Dynamics
from ._ode import solve_ode
from ._overlaps import Overlaps
from ._problem import Problem

__all__ = ["Scaling", "scaling"]

Array = NDArray[np.float64]

#: by region: what becomes of the training
OUTCOMES = {
    "green": "perfect learning, up to a floor ~ d^-(kappa+delta) at finite d",
    "blue": "plateau, then a floor proportional to Delta",
    "orange": "bad learning: M is frozen",
    "red": "no limit ODE",
}


@dataclass(frozen=True)
class Scaling:
    """One point of the phase diagram of Veiga et al. 2022.

    Attributes
    ----------
    kappa, delta : Fraction
        p = p0 d**kappa and gamma = gamma0 d**(-delta).
    p0, gamma0 : float
    """

    kappa: Fraction
    delta: Fraction
    p0: float
    gamma0: float

    @property
    def region(self) -> str:
        """``"green"``, ``"blue"``, ``"orange"`` or ``"red"``, decided in rational numbers."""
        s = self.kappa + self.delta
        return "green" if s > 0 else "blue" if s == 0 else "orange" if s > Fraction(-1, 2) else "red"

    @property
    def step_exponent(self) -> Fraction:
        """The exponent of d in the time delta_t of a step, in the region's own clock tau = nu delta_t."""
        s = self.kappa + self.delta
        return max(-(1 + s), -(1 + 2 * s))

    @property
    def terms(self) -> tuple[str, ...]:
        """What is left in the limit ODE: ``"drift"``, ``"noise"``, both, or nothing."""
        kept = {"green": ("drift",), "blue": ("drift", "noise"), "orange": ("noise",), "red": ()}
        return kept[self.region]

    @property
    def outcome(self) -> str:
        """What becomes of the training."""
        return OUTCOMES[self.region]

    @property
    def samples_exponent(self) -> Fraction:
        """The exponent of d in the number of samples of a time of order one."""
        return -self.step_exponent

    def p(self, d: int) -> int:
        """The student width at dimension d, at least 1."""
        return max(1, round(self.p0 * float(integer("d", d) ** float(self.kappa))))

    def gamma(self, d: int) -> float:
        """The learning rate at dimension d."""
        return self.gamma0 * float(integer("d", d) ** -float(self.delta))

    def step_time(self, d: int) -> float:
        """Time tau of one step at dimension d."""
        return float(integer("d", d) ** float(self.step_exponent))

    def problem(self, d: int, **options: Any) -> Problem:
        """The problem at dimension d, with all terms; options are those of `hdsgd.Problem`.

        Its time is t = nu*gamma/(p*d); `time` converts tau.
        """
        return Problem(gamma=self.gamma(d), **options)

    def time(self, tau: ArrayLike, d: int) -> Any:
        """The time t = nu*gamma/(p*d) of the time tau = nu delta_t at dimension d."""
        return np.asarray(tau, dtype=float) * (self.gamma(d) / (self.p(d) * d) / self.step_time(d))

    def solve(self, state: Overlaps, times: ArrayLike, *, backend: str = "auto", **options: Any) -> tuple[Array, ...]:
        """Solve the limit ODE of the region in its own clock tau.

        dM/dtau = g0 F_M and dQ/dtau = g0 F_Q + g0**2 N, g0 = gamma0/p0, with the drift F in green and blue and the
        noise N in blue and orange.

        Parameters
        ----------
        state : Overlaps
            The start, of the width p to solve at.
        times : array_like, shape (n_t,)
            Increasing times tau.
        **options
            Of `hdsgd.Problem`, such as ``activation`` and ``Delta``.

        Returns
        -------
        Q : (n_t, p, p) array
        M : (n_t, p, k) array
        risk : (n_t,) array
            Excess population risk.

        Raises
        ------
        ValueError
            In the red region, which has no ODE.
        """
        times = np.asarray(times, dtype=float)
        g0 = self.gamma0 / self.p0
        if self.region == "red":
            raise ValueError("the red region, kappa + delta <= -1/2, has no ODE: simulate the problem at finite d")
        if self.region == "orange":
            return _noise_only(Problem(gamma=1.0, **options), state, g0, times, backend)
        gamma = g0 * state.p if self.region == "blue" else 0.0
        sol = solve_ode(Problem(gamma=gamma, **options), state, g0 * times[-1], times=g0 * times, backend=backend)
        return sol.Q, sol.M, sol.risk

    def __str__(self) -> str:
        s = self.kappa + self.delta
        kept = " and ".join(self.terms) or "none"
        clock = (
            f"time of a step d^({self.step_exponent}), samples ~ d^({self.samples_exponent}); " if self.terms else ""
        )
        return (
            f"kappa = {self.kappa}, delta = {self.delta}: {self.region} (kappa + delta = {s}), terms kept: {kept}; "
            f"{clock if self.terms else ''}{self.outcome}"
        )


def scaling(kappa: object, delta: object, p0: float = 1.0, gamma0: float = 1.0) -> Scaling:
    """The limit of high dimension for p = p0 d**kappa students at the learning rate gamma = gamma0 d**(-delta).

    Parameters
    ----------
    kappa, delta : int, Fraction, str or float
        Exponents. A text such as ``"3/8"`` and the decimal digits of a float are taken as exact rational numbers.
    p0, gamma0 : float
        Prefactors, > 0.

    Returns
    -------
    Scaling

    Raises
    ------
    ValueError, TypeError
        What is not a number.

    Notes
    -----
    Source: Veiga, Stephan, Loureiro, Krzakala, Zdeborova 2022 (arXiv 2202.00293).

    Examples
    --------
    >>> scaling("1/2", -0.5).region
    'blue'
    >>> slow = scaling(0, "1/4", p0=8, gamma0=8)
    >>> slow.region, slow.terms, slow.samples_exponent
    ('green', ('drift',), Fraction(5, 4))
    """
    p0, gamma0 = (real(name, value, low=0.0, strict=True) for name, value in (("p0", p0), ("gamma0", gamma0)))
    return Scaling(_rational("kappa", kappa), _rational("delta", delta), p0, gamma0)


def _rational(name: str, value: Any) -> Fraction:
    if not isinstance(value, bool):
        with contextlib.suppress(ValueError, TypeError, ZeroDivisionError, OverflowError):
            # of a float the digits that one sees: 0.1 is one tenth
            return Fraction(str(value)) if isinstance(value, float) else Fraction(value)
    raise ValueError(f"{name} must be a rational number such as 0.25 or '1/4', got {value!r}")


def _noise_only(problem: Problem, state: Overlaps, g0: float, times: Array, backend: str) -> tuple[Array, ...]:
    """Solve dQ/dtau = g0**2 N at fixed M."""
    from scipy.integrate import solve_ivp

    dynamics = Dynamics(problem, backend)
    upper = np.triu_indices(state.p)

    def at(y: Array) -> Overlaps:
        Q = np.zeros((state.p, state.p))
        Q[upper] = y
        return Overlaps(Q + np.triu(Q, 1).T, state.M, state.P, state.a, state.a_star)

    def rate(tau: float, y: Array) -> Array:
        now = at(y)
        return np.asarray(g0**2 * (now.a[:, None] * now.a * dynamics.noise(now))[upper])

    found = solve_ivp(rate, (0.0, float(times[-1])), state.Q[upper], "DOP853", t_eval=times, rtol=1e-9, atol=1e-11)
    states = [at(y) for y in found.y.T]
    M = np.broadcast_to(state.M, (len(states), *state.M.shape))
    return np.array([s.Q for s in states]), M, np.array([dynamics.risk(s) for s in states])
