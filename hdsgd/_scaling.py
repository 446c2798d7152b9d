"""The phase diagram of width, learning rate and batch size as powers of the dimension."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._checks import integer, real
from ._dynamics import Dynamics
from ._ode import solve_ode
from ._overlaps import Overlaps
from ._problem import Problem, check_start

__all__ = ["Scaling", "scaling"]

Array = NDArray[np.float64]

#: by region: what becomes of the training
OUTCOMES = {
    "green": "perfect learning, up to a floor ~ d^-(kappa+delta+mu) at finite d",
    "blue": "plateau, then a floor proportional to Delta",
    "orange": "bad learning: M is frozen",
    "red": "no limit ODE",
}
TERMS: dict[str, tuple[str, ...]] = {"green": ("drift",), "blue": ("drift", "noise"), "orange": ("noise",), "red": ()}


@dataclass(frozen=True)
class Scaling:
    """One point of the phase diagram of Veiga et al. 2022.

    Attributes
    ----------
    kappa, delta : Fraction
        p = p0 d**kappa and gamma = gamma0 d**(-delta).
    p0, gamma0 : float
    mu : Fraction
        Batches of n0 d**mu samples; 0 for batches that do not grow with d.
    n0 : float
    """

    kappa: Fraction
    delta: Fraction
    p0: float
    gamma0: float
    mu: Fraction = Fraction(0)
    n0: float = 1.0

    @property
    def region(self) -> str:
        """``"green"``, ``"blue"``, ``"orange"`` or ``"red"``, decided in rational numbers."""
        if self.step_exponent >= 0:
            return "red"
        balance = self.kappa + self.delta + self.mu
        return "green" if balance > 0 else "blue" if balance == 0 else "orange"

    @property
    def step_exponent(self) -> Fraction:
        """The exponent of d in the time delta_t of a step, in the region's own clock tau = nu delta_t.

        It is that of the larger of drift, d**-(1 + s), and noise, d**-(1 + 2 s + mu), of a step; s = kappa + delta.
        """
        s = self.kappa + self.delta
        return max(-(1 + s), -(1 + 2 * s + self.mu))

    @property
    def terms(self) -> tuple[str, ...]:
        """What is left in the limit ODE: ``"drift"``, ``"noise"``, both, or nothing."""
        return TERMS[self.region]

    @property
    def outcome(self) -> str:
        """What becomes of the training."""
        return OUTCOMES[self.region]

    @property
    def samples_exponent(self) -> Fraction:
        """The exponent of d in the number of samples of a time of order one."""
        return self.mu - self.step_exponent

    def p(self, d: int) -> int:
        """The student width at dimension d, at least 1."""
        return max(1, round(_power("p", self.p0, d, self.kappa)))

    def gamma(self, d: int) -> float:
        """The learning rate at dimension d."""
        return _power("gamma", self.gamma0, d, -self.delta)

    def batch_size(self, d: int) -> int:
        """The number of samples of a step at dimension d, at least 1."""
        return max(1, round(_power("n_b", self.n0, d, self.mu)))

    def step_time(self, d: int) -> float:
        """Time tau of one step at dimension d."""
        return _power("delta_t", 1.0, d, self.step_exponent)

    def problem(self, d: int, **options: Any) -> Problem:
        """The problem at dimension d, with all terms; options are those of `hdsgd.Problem`.

        Its time is t = nu*gamma/(p*d); `time` converts tau.
        """
        options.setdefault("batch_size", self.batch_size(d))
        return Problem(gamma=self.gamma(d), **_without_rate(options))

    def time(self, tau: ArrayLike, d: int) -> Any:
        """The time t = nu*gamma/(p*d) of the time tau = nu delta_t at dimension d."""
        return _times(tau) * (self.gamma(d) / (self.p(d) * d) / self.step_time(d))

    def solve(self, state: Overlaps, times: ArrayLike, *, backend: str = "auto", **options: Any) -> tuple[Array, ...]:
        """Solve the limit ODE of the region in its own clock tau.

        dM/dtau = g0 F_M and dQ/dtau = g0 F_Q + g0**2 N/n0, g0 = gamma0/p0, with the drift F in green and blue and the
        noise N in blue and orange.

        Parameters
        ----------
        state : Overlaps
            The start, of the width p to solve at.
        times : array_like, shape (n_t,)
            Increasing times tau >= 0.
        **options
            Of `hdsgd.Problem`, such as ``activation`` and ``Delta``; batches are ``n0`` of the scaling.

        Returns
        -------
        Q : (n_t, p, p) array
        M : (n_t, p, k) array
        risk : (n_t,) array
            Excess population risk.

        Raises
        ------
        ValueError, TypeError
            In the red region, which has no ODE; for a learning rate or batch size, or an ensemble of starts; or where
            the solution diverges before the last time.
        """
        times = _times(times)
        if times.ndim != 1 or not times.size or not np.all(np.isfinite(times)):
            raise ValueError("times must be a list of finite times tau, as in [0.0, 1.0, 10.0].")
        if np.any(np.diff(times) <= 0.0) or times[0] < 0.0 or times[-1] == 0.0:
            raise ValueError("times must increase from 0 or later to a last one above 0.")
        if "batch_size" in options:
            raise ValueError(
                "in the limit a batch is part of the scaling: leave out batch_size, pass scaling(..., n0=)."
            )
        options, g0 = _without_rate(options), self.gamma0 / self.p0
        check_start(Problem(**options), state)
        if state.replicas is not None:
            raise ValueError("the limit is that of one start; pass state.replica(i).")
        if self.region == "red":
            raise ValueError("the red region has no ODE, a step moves too far: simulate the problem at finite d")
        if self.region == "orange":
            if options.get("spherical"):
                raise ValueError("noise alone moves the weights off the sphere: there is no orange ODE on it.")
            return _noise_only(Problem(gamma=1.0, **options), state, g0**2 / self.n0, times, backend)
        gamma = g0 * state.p / self.n0 if self.region == "blue" else 0.0  # a batch acts as a smaller learning rate
        sol = solve_ode(Problem(gamma=gamma, **options), state, g0 * times[-1], times=g0 * times, backend=backend)
        _complete(len(sol.t), times)
        return sol.Q, sol.M, sol.risk

    def __str__(self) -> str:
        balance = "kappa + delta + mu" if self.mu else "kappa + delta"
        batches = f", mu = {self.mu}" if self.mu else ""
        clock = f"time of a step d^({self.step_exponent}), samples ~ d^({self.samples_exponent}); "
        return (
            f"kappa = {self.kappa}, delta = {self.delta}{batches}: {self.region} "
            f"({balance} = {self.kappa + self.delta + self.mu}), terms kept: {' and '.join(self.terms) or 'none'}; "
            f"{clock if self.terms else ''}{self.outcome}"
        )


def scaling(
    kappa: object, delta: object, p0: float = 1.0, gamma0: float = 1.0, *, mu: object = 0, n0: float = 1.0
) -> Scaling:
    """The limit of high dimension for p = p0 d**kappa students at the learning rate gamma = gamma0 d**(-delta).

    Parameters
    ----------
    kappa, delta : int, Fraction, str or float
        Exponents, kappa >= 0. A text such as ``"3/8"`` and the decimal digits of a float are taken as exact rational
        numbers.
    p0, gamma0 : float
        Prefactors, > 0.
    mu, n0 : optional
        Exponent (>= 0) and prefactor of the batch size n_b = n0 d**mu.

    Returns
    -------
    Scaling

    Raises
    ------
    ValueError, TypeError
        What is not a number, or out of range.

    Notes
    -----
    With s = kappa + delta, the drift survives where s + mu >= 0 and the noise where s + mu <= 0, provided that a step
    is short: s > -1 and 1 + 2 s + mu > 0 (otherwise the region is red). The products of different samples of a batch
    move Q by d**(-2 (1 + s)) per step, which is always less than what is kept.

    Source: Veiga, Stephan, Loureiro, Krzakala, Zdeborova 2022 (arXiv 2202.00293); batches: Arnaboldi et al. 2024
    (arXiv 2406.02157, whose delta is this delta + 1).

    Examples
    --------
    >>> scaling("1/2", -0.5).region
    'blue'
    >>> slow = scaling(0, "1/4", p0=8, gamma0=8)
    >>> slow.region, slow.terms, slow.samples_exponent
    ('green', ('drift',), Fraction(5, 4))
    >>> scaling(0, "-1/4", mu="1/4").region  # batches average the noise
    'blue'
    """
    width = _rational("kappa", kappa)
    if width < 0:
        raise ValueError(f"kappa must be >= 0, a student has at least one unit at any d, got {kappa!r}")
    factors = {"p0": p0, "gamma0": gamma0, "n0": n0}
    p0, gamma0, n0 = (real(name, value, low=0.0, strict=True) for name, value in factors.items())
    exponent = _rational("mu", mu)
    if exponent < 0:
        raise ValueError(f"mu must be >= 0, batches have at least one sample, got {mu!r}")
    return Scaling(width, _rational("delta", delta), p0, gamma0, exponent, n0)


def _rational(name: str, value: Any) -> Fraction:
    if not isinstance(value, bool):
        with contextlib.suppress(ValueError, TypeError, ZeroDivisionError, OverflowError):
            if isinstance(value, str) and "e" in value.lower():
                value = float(value)  # the fraction 1e999999999 would fill the memory
            # of a float the digits that one sees: 0.1 is one tenth
            return Fraction(str(value)) if isinstance(value, float) else Fraction(value)
    raise ValueError(f"{name} must be a rational number such as 0.25 or '1/4', got {value!r}")


def _power(name: str, prefactor: float, d: int, exponent: Fraction) -> float:
    """prefactor d**exponent, refused where it is no floating-point number or rounds to zero."""
    d = integer("d", d)
    with contextlib.suppress(OverflowError):
        value = prefactor * float(d ** float(exponent))
        if 0.0 < value < math.inf:
            return value
    raise ValueError(
        f"{name} = {prefactor:g} d^({exponent}) is not a floating-point number at d = {d}; take exponents closer to 0."
    )


def _times(tau: ArrayLike) -> Array:
    try:
        return np.asarray(tau, dtype=float)
    except (TypeError, ValueError):
        raise TypeError(f"times tau are numbers, got {tau!r}; pass for example [0.0, 1.0, 10.0].") from None


def _without_rate(options: dict[str, Any]) -> dict[str, Any]:
    if "gamma" in options:
        raise ValueError("the learning rate is part of the scaling: leave out gamma, pass scaling(..., gamma0=).")
    return options


def _complete(found: int, times: Array) -> None:
    if found < times.size:
        raise ValueError(f"the solution diverges before tau = {times[found]:g}; ask for earlier times.")


def _noise_only(problem: Problem, state: Overlaps, factor: float, times: Array, backend: str) -> tuple[Array, ...]:
    """Solve dQ/dtau = factor N at fixed M."""
    from scipy.integrate import solve_ivp

    dynamics = Dynamics(problem, backend)
    upper = np.triu_indices(state.p)

    def at(y: Array) -> Overlaps:
        Q = np.zeros((state.p, state.p))
        Q[upper] = y
        return Overlaps(Q + np.triu(Q, 1).T, state.M, state.P, state.a, state.a_star)

    def rate(tau: float, y: Array) -> Array:
        now = at(y)
        return np.asarray(factor * (now.a[:, None] * now.a * dynamics.noise(now))[upper])

    found = solve_ivp(rate, (0.0, float(times[-1])), state.Q[upper], "DOP853", t_eval=times, rtol=1e-9, atol=1e-11)
    _complete(len(found.t), times)
    states = [at(y) for y in found.y.T]
    M = np.broadcast_to(state.M, (len(states), *state.M.shape))
    return np.array([s.Q for s in states]), M, np.array([dynamics.risk(s) for s in states])
