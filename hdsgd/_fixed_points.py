"""Fixed points of the dynamics: Newton's method on the flat state, and the spectrum that classifies them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from . import _point_plots
from ._checks import real
from ._dynamics import Dynamics, System
from ._overlaps import Overlaps
from ._problem import Problem, check_start

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FixedPoint", "fixed_point", "jacobian"]

Array = NDArray[np.float64]

# Of the differences: at the first the error, of fourth order, meets the rounding at about 1e-12.
STEPS = (2e-3, 2e-4, 2e-5, 2e-6, 2e-7)
# Changes relative to a column, of which SMALL counts as nothing: of the difference of second order with twice the step,
# and of that of fourth order with the next step.
RESOLVED, AGREED, SMALL = 1e-5, 1e-7, 1e-3
MOST = 60  # Newton steps
MARGINAL = 1e-7  # rates below this fraction of the largest one are zero within the error of the differences


@dataclass(frozen=True, eq=False)
class FixedPoint:
    """A state where the drift vanishes, with the linear dynamics around it.

    Attributes
    ----------
    state : Overlaps
    risk : float
        Excess population risk there.
    residual : float
        Largest entry of the drift that is left.
    eigenvalues : (n,) complex array
        Rates per unit of t of the Jacobian of the drift in (upper triangle of Q, M and, if it is trained, a), largest
        real part first; on the sphere without the diagonal of Q, which is fixed.
    modes : (n, n) complex array
        Their right eigenvectors, in columns.
    """

    state: Overlaps
    risk: float
    residual: float
    eigenvalues: NDArray[np.complex128]
    modes: NDArray[np.complex128]

    @property
    def tolerance(self) -> float:
        """Size below which a rate counts as zero."""
        return MARGINAL * max(1.0, float(np.abs(self.eigenvalues).max(initial=0.0)))

    @property
    def unstable(self) -> int:
        """Number of growing modes, the index of a saddle."""
        return int((self.eigenvalues.real > self.tolerance).sum())

    @property
    def marginal(self) -> int:
        """Number of modes that neither grow nor decay to first order."""
        return int((np.abs(self.eigenvalues.real) <= self.tolerance).sum())

    @property
    def kind(self) -> str:
        """``"saddle"`` if a mode grows, else ``"marginal"`` if one does not decay, else ``"stable"``."""
        return "saddle" if self.unstable else "marginal" if self.marginal else "stable"

    def plot(self) -> Figure:
        """Draw the rates, with their multiplicities, and the overlaps Q and M; needs matplotlib."""
        return _point_plots.point_figure(self)

    def __str__(self) -> str:
        return (
            f"{self.kind} fixed point, excess risk {self.risk:.6g}: {self.unstable} growing, {self.marginal} marginal, "
            f"{self.eigenvalues.size - self.unstable - self.marginal} decaying modes"
        )


def fixed_point(problem: Problem, state: Overlaps, *, tol: float = 1e-12, backend: str = "auto") -> FixedPoint:
    """Find the fixed point of the drift near a state, stable or not, by Newton's method.

    Parameters
    ----------
    problem : Problem
    state : Overlaps
        Where to start, without a replica axis: for a stable point the end of `solve_ode`, for a saddle a guess near it.
    tol : float
        Largest entry of the drift (per unit of t) at the result, relative to the largest rate of the Jacobian.
    backend : {"auto", "c", "numpy"}

    Returns
    -------
    FixedPoint

    Raises
    ------
    ValueError
        If Newton's method does not converge from there.

    Notes
    -----
    Singular Jacobians are solved by least squares, so a point on a manifold of fixed points is found near the start.

    Examples
    --------
    >>> from hdsgd import Overlaps, Problem
    >>> point = fixed_point(Problem("quadratic", gamma=0.0), Overlaps([[0.4]], [[0.0]], [[1.0]]))
    >>> round(float(point.state.Q[0, 0]), 9), point.kind  # p/(p + 2), Bocchi et al. 2026
    (0.333333333, 'saddle')
    """
    problem, state = check_start(problem, state)
    tol = real("tol", tol, low=0.0, strict=True)
    if state.replicas is not None:
        raise ValueError("fixed_point takes one state; pass state.replica(i)")
    dynamics = Dynamics(problem, backend)
    system = dynamics.system(state)
    y = newton(lambda z: system.rhs(0.0, z), system.pack(state), tol)
    return describe(dynamics, system, state, y)


def describe(dynamics: Dynamics, system: System, like: Overlaps, y: Array) -> FixedPoint:
    """Classify the fixed point y of a system."""
    J = jacobian(lambda z: system.rhs(0.0, z), y)
    values, modes = np.linalg.eig(J)
    order = np.lexsort((values.imag, -values.real))
    Q, M, a = system.unpack(y)
    try:
        state = Overlaps(Q, M, like.P, a, like.a_star)
    except ValueError:
        raise ValueError(
            "the zero of the drift that was found belongs to no weights (Omega has a negative eigenvalue): start "
            "closer to a fixed point, for example at the end of solve_ode"
        ) from None
    return FixedPoint(
        state=state,
        risk=system.risk(y),
        residual=float(np.abs(system.rhs(0.0, y)).max(initial=0.0)),
        eigenvalues=values[order].astype(complex),
        modes=modes[:, order].astype(complex),
    )


def jacobian(function: Callable[[Array], Array], y: Array) -> Array:
    """Jacobian of a vector function by central differences of fourth order.

    Their step is shortened where they do not resolve the function: kinked activations have the scale of the distance to
    coincident units.
    """
    return np.array([_column(function, y, c) for c in range(y.size)]).T.reshape(-1, y.size)


def _column(function: Callable[[Array], Array], y: Array, c: int) -> Array:
    def change(h: float) -> Array:
        up, down = y.copy(), y.copy()
        up[c] += h
        down[c] -= h
        return function(up) - function(down)

    found: list[tuple[float, Array]] = []
    for shorter in STEPS:
        h = shorter * max(1.0, abs(float(y[c])))
        near, far = change(h), change(2.0 * h)
        fourth = (8.0 * near - far) / (12.0 * h)
        size = float(np.abs(near).max(initial=0.0)) / (2.0 * h) + SMALL
        gap = float(np.abs(2.0 * near - far).max(initial=0.0)) / (4.0 * h) / size
        if not np.all(np.isfinite(fourth)):
            continue
        if found and np.abs(found[-1][1] - fourth).max(initial=0.0) <= AGREED * size:
            return found[-1][1]  # of less rounding
        found.append((gap, fourth))
        if gap <= RESOLVED:
            return fourth
    return min(found, key=lambda one: one[0])[1] if found else fourth  # as well as it can be


def newton(function: Callable[[Array], Array], y: Array, tol: float) -> Array:
    """Zero of a vector function near y; steps are halved while they do not reduce it.

    Below tol it goes on while a step halves the value, down to the rounding: at a degenerate zero, where the drift is
    c x**2, a value r leaves rates of 2 sqrt(c r), which are zero at x = 0.
    """
    value, reached = function(y), np.inf
    for _ in range(MOST):
        size = float(np.abs(value).max(initial=0.0))
        J = jacobian(function, y)
        if size > 0.5 * reached:
            return y
        if size <= tol * max(1.0, float(np.abs(J).max(initial=0.0))):
            reached = size
        if not np.all(np.isfinite(J)):
            break
        step = np.linalg.lstsq(J, -value, rcond=1e-10)[0]
        for _ in range(30):
            trial = function(y + step)
            if np.all(np.isfinite(trial)) and np.abs(trial).max() < size:
                break
            step = 0.5 * step
        else:
            break
        y, value = y + step, trial
    if reached < np.inf:
        return y
    raise ValueError(
        f"no fixed point was found from here (the drift is still {float(np.abs(value).max(initial=0.0)):.2g}): start "
        "closer to it, for example at the end of solve_ode"
    )
