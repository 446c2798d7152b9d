"""The diffusion at finite d: routes to the covariance of the increments, and the drift's terms of order 1/d.

Routes, by the pair of activations and, for the last ones, the number n = p + k of fields; * for a fixed second layer:

    quadratic      alpha x**2 + beta: generating function, exact
    tilts*         c0 + c1 erf(kappa x): closed but for one smooth integral
    exponentials*  sums of exponentials, sines and cosines: closed
    Gaussians*     c0 + c1 exp(-(kappa x)**2/2): closed
    Gauss-Hermite  other polynomials: exact
    rays           n = 2, kinks at 0: polar rule, to rounding
    tensor         smooth and n <= 4: trapezoidal rule, or Gauss-Hermite where the activation grows fast
    lattice        everything else: randomly shifted lattice rules, whose spread is the error
    derivatives*   in place of tensor and lattice at n > 2 and g = 0: differences of the noise. Terms in g are added by
                   the rule; as those of M are without, its own covariance is exact

States where exponentials, Gaussians or derivatives lose more than LOST in cancellation are left to the rules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._checks import choice
from ._cone import omega
from ._family import Family, classify
from ._increments import Components, Step, quadratic
from ._increments_c import CStep, covariance, load, text
from ._increments_erf import arcsines, error_functions, scale_nodes
from ._increments_exponentials import bumps, cost_of_bumps, cost_of_waves, waves
from ._increments_leading import by_derivatives, four_point_functions
from ._kernel import Kernel
from ._nodes import Rule, by_nodes, gauss_hermite, lattice, rays, root, trapezoid
from ._problem import Problem

__all__ = ["ORDERS", "Diffusion", "Increments", "finite_size", "risk_slopes", "step_of"]

Array = NDArray[np.float64]
Closed = Callable[[Array, Array, Array], tuple[Array, Array]]  # covariance and error of Omega, v, a

ORDERS = ("all", "leading")


@dataclass(frozen=True)
class Effort:
    """How much work a covariance may take: once, or in every step of every path."""

    arcsines: float
    scale: int  # nodes of the integral over the scale
    exact: int  # nodes of Gauss-Hermite for polynomials
    tensor: tuple[int, ...]  # nodes per dimension in 2, 3, ... dimensions
    rays: tuple[int, int] | None
    lattice: tuple[int, int]  # points, shifts
    exponentials: float = 0.0
    seconds: float = 0.0  # of derivatives, roughly


ONCE = Effort(3e8, 24, 2_000_000, (120, 54, 30), (24, 64), (16381, 8), 2e8, 2.5)
# In a loop errors of 1e-3 are far below the fluctuations of any ensemble. Rays depend on the state.
LOOP = Effort(1e6, 4, 20_000, (40,), None, (4093, 1))
SMALL = 1e-4  # step of the derivative along Omega: error 1e-8 of a term that is itself of order 1/d
LOST = 1e-4  # error of closed forms in rounding above which a rule does better
ROOM = 300_000_000  # bytes of the largest array of a closed form
ROUNDED = 4e-16  # of the entries of Omega
GROWS = 30.0  # values within REACH beyond which the trapezoidal rule is cut off too early


@dataclass(frozen=True)
class Diffusion:
    """How `Dynamics.diffusion` computes the covariance of a state, and how accurately.

    The route may depend on the backend: derivatives are affordable in C where they are not in numpy.

    Attributes
    ----------
    route : str
        "quadratic", "tilts", "exponentials", "Gaussians", "Gauss-Hermite", "derivatives", "rays", "tensor", "lattice",
        "derivatives, tensor" or "derivatives, lattice".
    nodes : int
        Points of the quadrature, 0 for a closed form.
    error : float
        Largest error of cov_ij relative to sqrt(cov_ii cov_jj): what rounding of the state and of the terms does, which
        is all where the route is exact, and the difference to a coarser rule (an upper estimate) for the others, the
        standard error over independent shifts for a lattice. At most 1: there nothing is known, as where the covariance
        vanishes. With derivatives that of M alone is exact to about 1e-12 whatever the rule for the others.
    """

    route: str
    nodes: int
    error: float


def step_of(problem: Problem, p: int, k: int, order: str) -> Step:
    """One step of the problem's SGD."""
    choice("order", order, ORDERS)
    g = problem.gamma / (p * problem.batch_size) if order == "all" else 0.0
    return Step(p, k, g, problem.Delta, problem.second_layer_ratio)


@cache
def _families(kernel: Kernel) -> tuple[Family, Family]:
    return classify(kernel.sigma, kernel.student.formula), classify(kernel.sigma_star, kernel.teacher.formula)


class Increments:
    """The covariance of the increments of one step, by the route that suits its activations.

    Parameters
    ----------
    kernel : Kernel
    step : Step
    effort : Effort
    """

    def __init__(self, kernel: Kernel, step: Step, effort: Effort = ONCE) -> None:
        self.kernel, self.step, self.effort = kernel, step, effort
        student, teacher = _families(kernel)
        n, fixed = step.p + step.k, step.ratio == 0.0
        self.law, self.rules = np.zeros(0), [(np.zeros(0), np.zeros(0))]
        self.coarser: Rule | None = None  # to see the error
        self.closed: Closed | None = None  # of everything, or of the leading order that rules complete
        able = 1.0 if kernel.backend == "c" else 0.1
        angles = arcsines(step.p, step.k, leading=step.g == 0.0, nodes=effort.scale)
        q = _exact_nodes(student, teacher, leading=step.g == 0.0)
        if student.square is not None and teacher.square is not None:
            self.route, self.law = "quadratic", np.array([student.square, teacher.square])
        elif fixed and student.error_function and teacher.error_function and angles <= effort.arcsines * able:
            pair = (student.error_function, teacher.error_function)
            self.law = np.array([[f.offset, f.height, f.slope] for f in pair])
            self.route, self.rules = "tilts", [tuple(scale_nodes(effort.scale))]
        elif (closed := _closed(student, teacher, step, effort.exponentials)) is not None:
            (self.route, self.closed), self.rules = closed, []
        elif q is not None and q**n <= effort.exact:
            self.route, self.rules = "Gauss-Hermite", [gauss_hermite(n, q)]
        elif n == 2 and (student.kinked or teacher.kinked) and effort.rays is not None:
            self.route = "rays"
        else:
            if fixed and n > 2 and _seconds(kernel, step) <= effort.seconds:
                self.closed = partial(by_derivatives, step, kernel.gradients, kernel.noise)
            if self.closed is not None and step.g == 0.0:
                self.route, self.rules = "derivatives", []
            elif n - 2 < len(effort.tensor) and not (student.kinked or teacher.kinked):
                far = np.array([-8.0, 8.0])
                grows = max(np.abs(kernel.sigma(far)).max(), np.abs(kernel.sigma_star(far)).max()) > GROWS
                rule, size = (gauss_hermite if grows else trapezoid), effort.tensor[n - 2]
                self.route, self.rules, self.coarser = "tensor", [rule(n, size)], rule(n, 3 * size // 4)
            else:
                self.route, (points, shifts) = "lattice", effort.lattice
                self.rules = [lattice(n, points, shift) for shift in range(shifts)]

    @property
    def source(self) -> tuple[str, str]:
        """What the route needs before csrc/step.h, and its own file."""
        if self.route == "quadratic":
            return text("common.h"), "increments_quadratic.h"
        if self.route == "tilts":
            return text("common.h"), "increments_erf.h"
        return self.kernel.pointwise_c, "increments_nodes.h"

    @property
    def c_step(self) -> CStep:
        """The step for C, with the numbers of the route."""
        return CStep.of(self.step, self.law, *self.rules[0])

    def covariance(self, Omega: Array, v: Array, a: Array) -> Array:
        """Covariance (R, m, m) per sample, without the projection, of states Omega (R, n, n), v (R, n), a (R, p)."""
        if self.closed is None:
            return self._by_rules(Omega, v, a)
        cov, error = self.closed(Omega, v, a)
        lost = ~(relative(error, cov) <= LOST)  # nan is lost
        if not lost.all():
            cov[~lost] += self._by_rules(Omega[~lost], v[~lost], a[~lost])
        if lost.any():
            cov[lost] = self._rules_alone.covariance(Omega[lost], v[lost], a[lost])
        return cov

    @cached_property
    def _rules_alone(self) -> Increments:
        return Increments(self.kernel, self.step, replace(self.effort, exponentials=0.0, seconds=0.0))

    def _by_rules(self, Omega: Array, v: Array, a: Array) -> Array:
        if self.route == "rays":
            assert self.effort.rays is not None
            return self._on_rays(Omega, v, a, *self.effort.rays)
        return np.asarray(sum(self._by(rule, Omega, v, a) for rule in self.rules) / max(len(self.rules), 1))

    def _on_rays(self, Omega: Array, v: Array, a: Array, angles: int, radii: int) -> Array:
        one = [slice(i, i + 1) for i in range(len(v))]
        rules = (rays(L, angles, radii) for L in root(Omega))
        return np.concatenate([self._by(r, Omega[i], v[i], a[i]) for i, r in zip(one, rules, strict=True)])

    def _by(self, rule: Rule, Omega: Array, v: Array, a: Array) -> Array:
        """What the rule gives: everything, or what g adds to the leading order."""
        if self.closed is None:
            return self._of(self.step, rule, Omega, v, a)
        return self._of(self.step, rule, Omega, v, a) - self._of(replace(self.step, g=0.0), rule, Omega, v, a)

    def _of(self, step: Step, rule: Rule, Omega: Array, v: Array, a: Array) -> Array:
        if self.kernel.backend == "c":
            return covariance(self._library, CStep.of(step, self.law, *rule), Omega, v, a)
        if self.route == "quadratic":
            return quadratic(step, self.law, Omega, v, a)
        if self.route == "tilts":
            pair = [f.error_function for f in _families(self.kernel)]
            assert pair[0] is not None
            assert pair[1] is not None
            return error_functions(step, pair[0], pair[1], Omega, v, a, len(rule[0]))
        functions = (self.kernel.sigma, self.kernel.dsigma, self.kernel.sigma_star)
        return by_nodes(step, functions, rule, Omega, v, a)

    @property
    def _library(self) -> Any:
        return load(*self.source)

    def report(self, Omega: Array, v: Array, a: Array) -> Diffusion:
        """Route and error at some states."""
        if self.closed is not None:
            cov, error = self.closed(Omega, v, a)
            lost = ~(relative(error, cov) <= LOST)
            if lost.any():
                reports = [self._rules_alone.report(Omega[lost], v[lost], a[lost])]
                reports += [] if lost.all() else [self.report(Omega[~lost], v[~lost], a[~lost])]
                return max(reports, key=lambda report: report.error)
        else:
            cov, error = np.zeros(()), np.zeros(())
        rest = self._by_rules(Omega, v, a)
        cov = cov + rest
        # Cancellation amplifies rounding, the state's own included: moves with the signs of E[e**2]'s terms add up.
        signs = np.sign(v)
        moved = Omega * (1.0 + ROUNDED * signs[:, :, None] * signs[:, None, :])
        error = np.abs(error) + np.abs(rest - self._by_rules(moved, v, a))
        error += np.abs(self._error_of_rules(rest, Omega, v, a))
        nodes = 0 if self.route == "tilts" else sum(len(w) for _, w in self.rules)
        if self.route == "rays":
            nodes = len(rays(np.eye(2), *(self.effort.rays or (1, 1)))[1])
        route = f"derivatives, {self.route}" if self.closed is not None and self.rules else self.route
        return Diffusion(route, nodes, float(np.clip(relative(error, cov).max(), 1e-14, 1.0)))

    def _error_of_rules(self, found: Array, Omega: Array, v: Array, a: Array) -> Array:
        """How far what the rules have found may be off by their own error."""
        if self.route == "tilts":
            coarser = tuple(scale_nodes(3 * self.effort.scale // 4))
            return found - self._by(coarser, Omega, v, a)
        if self.route == "rays":
            assert self.effort.rays is not None
            angles, radii = self.effort.rays
            return found - self._on_rays(Omega, v, a, 3 * angles // 4, 3 * radii // 4)
        if self.coarser is not None:
            return found - self._by(self.coarser, Omega, v, a)
        if self.route == "lattice":
            n, points = Omega.shape[-1], len(self.rules[0][1])
            rules = self.rules if len(self.rules) > 1 else [lattice(n, points, shift) for shift in range(1, 5)]
            spread = np.std([self._by(rule, Omega, v, a) for rule in rules], axis=0, ddof=1)
            return np.asarray(spread / np.sqrt(len(self.rules)))
        return np.zeros(())


def relative(error: Array, cov: Array) -> Array:
    """Largest error_ij/sqrt(cov_ii cov_jj) of each state, shape (R,)."""
    own = np.sqrt(np.maximum(np.diagonal(cov, axis1=1, axis2=2), np.finfo(float).tiny))
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.abs(error / (own[:, :, None] * own[:, None, :])).max(axis=(1, 2)))


def _closed(student: Family, teacher: Family, step: Step, budget: float) -> tuple[str, Closed] | None:
    """Name and function of a closed form for exponentials, where it is affordable."""
    if step.ratio > 0.0:
        return None
    if student.waves and teacher.waves:
        name, cost = "exponentials", cost_of_waves(step, student.waves, teacher.waves)
        of: Closed = partial(waves, step, student.waves, teacher.waves)
    elif student.bump and teacher.bump:
        name, cost, of = "Gaussians", cost_of_bumps(step), partial(bumps, step, student.bump, teacher.bump)
    else:
        return None
    return (name, of) if cost[0] <= budget and cost[1] <= ROOM else None


def _seconds(kernel: Kernel, step: Step) -> float:
    """Time that derivatives take for one state, roughly."""
    each, operation = (1e-6, 2e-11) if kernel.backend == "c" else (4e-5, 4e-9)
    return four_point_functions(step.p, step.k) * (each + operation * kernel.operations)


def _exact_nodes(student: Family, teacher: Family, *, leading: bool) -> int | None:
    """Gauss-Hermite nodes per dimension that integrate the covariance exactly."""
    if student.polynomial is None or teacher.polynomial is None:
        return None
    own = max(len(student.polynomial) - 1, 1)
    error = max(own, len(teacher.polynomial) - 1)
    degree = max(2 * (error + own), 0 if leading else 4 * (error + own - 1))
    return degree // 2 + 1


def project(parts: Components, Q: Array, M: Array, cov: Array) -> Array:
    """Covariance of the increments that are left on the sphere: phi_jl - Q_jl (phi_jj + phi_ll)/2, psi - M phi_jj/2."""
    p, size = parts.p, parts.size
    shrink = np.zeros((len(Q), size, size))
    own = np.flatnonzero(parts.upper[0] == parts.upper[1])
    norms = np.diagonal(Q, axis1=1, axis2=2)
    c = np.arange(parts.split)
    for side in parts.upper:
        shrink[:, c, own[side]] += 0.5 * Q[:, parts.upper[0], parts.upper[1]] / norms[:, side]
    j = np.repeat(np.arange(p), parts.k)
    c = np.arange(parts.split, parts.split + p * parts.k)
    shrink[:, c, own[j]] = 0.5 * M.reshape(len(M), -1) / norms[:, j]
    keep = np.eye(size) - shrink
    keep[:, own] = 0.0  # norms stay, exactly: in the projected equations they are unstable
    return np.asarray(keep @ cov @ keep.swapaxes(1, 2))


def finite_size(
    kernel: Kernel, problem: Problem, cov: Array, Q: Array, M: Array, P: Array, a: Array, a_star: Array
) -> tuple[Array, Array]:
    """What d dQ/dt and d dM/dt are beyond the limit, to leading order in 1/d.

    (i) Given the local fields an input's squared norm is not d: N gains (E[s'_j s'_l e**2 u^T Omega^-1 u] - n N)/d, in
    a batch the products between samples (1 - 1/n_b) (G Omega^+ G^T)/d. The first is 2 dN(x Omega)/dx at x = 1.
    (ii) On the sphere, Ito: the rescaling of rows to second order in the increments.
    (iii) Weight decay acts on the gradient of the same step, and to second order.

    Parameters
    ----------
    cov : (R, m, m) array
        Covariance of the increments of a step, batch included, without the projection.
    Q, M, P, a, a_star : arrays
        States with a leading axis on Q, M and a.

    Returns
    -------
    dQ, dM : arrays, shapes (R, p, p) and (R, p, k)
    """
    p, k = M.shape[1:]
    rate, batch = problem.gamma / p, problem.batch_size
    if problem.gamma == 0.0:
        return np.zeros_like(Q), np.zeros_like(M)
    weights = a[:, :, None] * a[:, None, :]
    G = a[:, :, None] * kernel.gradients(Q, M, P, a, a_star)
    more, less = (kernel.noise(x * Q, x * M, x * P, a, a_star, problem.Delta) for x in (1.0 + SMALL, 1.0 - SMALL))
    dQ = rate / batch * weights * (more - less) / SMALL
    if batch > 1:
        inverse = np.linalg.pinv(omega(Q, M, P), rcond=1e-10, hermitian=True)
        dQ = dQ + rate * (1.0 - 1.0 / batch) * G @ inverse @ G.swapaxes(1, 2)
    gradient = G[:, :, :p] + G[:, :, :p].swapaxes(1, 2)
    if problem.weight_decay > 0.0:
        small = problem.weight_decay * rate
        dQ = dQ - small * (gradient - problem.weight_decay * Q)
    if not problem.spherical:
        return dQ, np.zeros_like(M)
    half = 0.5 * np.diagonal(dQ, axis1=1, axis2=2)
    dQ = (dQ - Q * (half[:, :, None] + half[:, None, :])) * (1.0 - np.eye(p))
    dM = -M * half[:, :, None]

    parts = Components(p, k, problem.second_layer_ratio > 0.0)
    noise = kernel.noise(Q, M, P, a, a_star, problem.Delta)
    mean = parts.pack(gradient + rate / batch * weights * noise, G[:, :, p:], np.zeros_like(a))  # a's is never needed
    second = cov + mean[:, :, None] * mean[:, None, :]
    own = np.flatnonzero(parts.upper[0] == parts.upper[1])
    j, l = parts.upper
    e = np.arange(parts.split)
    norms = second[:, own[:, None], own]  # E[phi_jj phi_ll]
    squares = np.diagonal(norms, axis1=1, axis2=2)
    ito = -0.5 * (second[:, e, own[j]] + second[:, e, own[l]])
    ito += Q[:, j, l] * (0.375 * (squares[:, j] + squares[:, l]) + 0.25 * norms[:, j, l])
    both = np.empty_like(Q)
    both[:, j, l] = both[:, l, j] = np.where(j == l, 0.0, ito)
    of_M = np.arange(parts.split, parts.split + p * k).reshape(p, k)
    crossed = second[:, of_M, own[:, None]]
    return dQ + rate * both, dM + rate * (0.375 * M * squares[:, :, None] - 0.5 * crossed)


def risk_slopes(kernel: Kernel, parts: Components, Q: Array, M: Array, P: Array, a: Array, a_star: Array) -> Array:
    """Derivatives of the risk by the components, shape (R, m): two-point functions, by Price's theorem."""
    p = parts.p
    Omega = omega(Q, M, P)
    teacher = np.broadcast_to(a_star / parts.k, (len(a), parts.k))
    v = np.concatenate((-a / p, teacher), axis=1)
    first, second = (kernel.two_point(name, Omega, p) for name in ("J2", "K2"))
    slopes = v[:, :p, None] * first * v[:, None, :]
    j = np.arange(p)
    slopes[:, j, j] = 0.5 * (slopes[:, j, j] + v[:, :p] * (second @ v[:, :, None])[:, :, 0])
    by_a = -kernel.output_gradients(Q, M, P, a, a_star) / p if parts.trained else a
    return parts.pack(slopes[:, :, :p], slopes[:, :, p:], by_a)
