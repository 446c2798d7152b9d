"""Verification: every derived program against a quadrature that knows nothing of the rules.

Input
    The programs of a kernel and the formulas they were derived from.
Output
    :class:`Certificate` for each program: the worst error over random covariances; :class:`VerificationError` on a
    mismatch, so that nothing wrong is ever emitted.

The reference is a tensor quadrature of the product of the activations (differentiated by SymPy, not by the atoms) in
whitened coordinates: Gauss–Hermite, exact, for polynomials; the trapezoidal rule, which converges faster than any power
of the step, for other analytic integrands; Gauss–Legendre on both sides of each kink otherwise.

Errors are measured against max(|reference|, ∏ r.m.s. of factors):
a relative error means nothing at a zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import sympy

from .atoms import from_formula
from .kernels import FACTORS, KernelPrograms
from .mixture import needs_mixture
from .parse import to_sympy, variable
from .program import Program

TOLERANCE = 1e-9
SAMPLES = 2
REFINE = 1.0  # how many times finer than what finds any mistake the quadrature is
_SEED = 20230518

#: where x_axis vanishes, of any shape, to nodes and weights with one more axis
Rule: TypeAlias = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class VerificationError(ValueError):
    """A derived program and the independent quadrature disagree: nothing is emitted."""


@dataclass(frozen=True)
class Certificate:
    """The outcome of one verification.

    Attributes
    ----------
    name : str
        The expectation, such as ``I4``.
    error : float
        Worst error over the covariances, relative to max(|reference|, ∏ r.m.s. of the factors).
    covariances : int
        Number of random covariances.
    operations : int
        Operations of the program.
    """

    name: str
    error: float
    covariances: int
    operations: int


def verify(programs: KernelPrograms) -> list[Certificate]:
    """Check every expectation of a kernel at random covariances.

    Raises
    ------
    VerificationError
        If an error exceeds :data:`TOLERANCE`.
    """
    _check_diffusion(programs)
    return [
        check(program, tuple(programs.formula(letter) for letter in programs.blocks()[name]))
        for name, program in programs.expectations.items()
    ]


def check(program: Program, formulas: tuple[str, ...], kind: str | None = None) -> Certificate:
    """Check one program, given the formula of the activation in each factor."""
    return check_function(program.name, program.compile("numpy"), formulas, program.operations, kind)


def check_function(
    title: str, compute: Callable[..., Any], formulas: tuple[str, ...], operations: int, kind: str | None = None
) -> Certificate:
    """Check a function of the covariance entries, given the formula of the activation in each factor."""
    rng = np.random.default_rng(_SEED)
    scale = 1 / max(1.0, _steepness(formulas))
    name = kind or title[:2]
    orders = FACTORS[name]
    jump = any(order is not None and _jumps(formula, order) for formula, order in zip(formulas, orders, strict=True))
    functions = [_function(formula, order) for formula, order in zip(formulas, orders, strict=True)]
    rule = _rule(formulas, sum(order is None for order in orders) + jump, len(orders))
    errors = []
    for _ in range(SAMPLES):
        covariance = scale * random_covariance(rng, len(orders))
        value = compute(*covariance[np.triu_indices(len(orders))])
        if jump:
            reference, size = _by_parts(formulas, covariance, rule, name)
        else:
            reference, size = quadrature(functions, covariance, rule)
        errors.append(abs(float(value) - reference) / (max(abs(reference), size) or 1.0))
    worst = max(errors) if np.all(np.isfinite(errors)) else math.inf
    if not worst <= TOLERANCE:
        raise VerificationError(
            f"{title} of {', '.join(dict.fromkeys(formulas))} is off by {worst:.1e} from its quadrature: "
            "report this formula"
        )
    return Certificate(title, worst, SAMPLES, operations)


def _check_diffusion(programs: KernelPrograms) -> None:
    """Check the covariances of the increments by Gauss–Hermite over λ, λ* and z, which is exact for polynomials."""
    if not programs.diffusion:
        return
    nodes, weights = np.polynomial.hermite_e.hermegauss(4 * 4 + 2)
    weights = weights / weights.sum()
    few, few_weights = np.polynomial.hermite_e.hermegauss(3)
    few_weights = few_weights / few_weights.sum()
    g, h, z = np.meshgrid(nodes, nodes, few, indexing="ij", sparse=True)
    weight = weights[:, None, None] * weights[:, None] * few_weights
    Q, M, P, gamma, Delta, a, a_star = 0.8, -0.3, 1.2, 0.3, 0.2, 0.7, 1.3
    field = math.sqrt(Q) * g
    teacher_field = M / math.sqrt(Q) * g + math.sqrt(P - M**2 / Q) * h
    student, slope = _function(programs.student, 0), _function(programs.student, 1)
    error = a_star * _function(programs.teacher, 0)(teacher_field) - a * student(field) + math.sqrt(Delta) * z
    scaled = slope(field) * error
    increments = {"Q": 2 * a * scaled * field + gamma * a**2 * scaled**2, "M": a * scaled * teacher_field}
    for name, program in programs.diffusion.items():
        first, second = (increments[letter] for letter in name[-2:])
        mean = (weight * first).sum() * (weight * second).sum()
        reference = (weight * first * second).sum() - mean
        size = (weight * np.abs(first * second)).sum()
        value = program.evaluate([Q, M, P, gamma, Delta, a, a_star], "numpy")
        if not abs(float(value) - reference) <= TOLERANCE * size:
            raise VerificationError(f"{name} of {programs.student} disagrees with its quadrature: report this formula")


def random_covariance(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return a random covariance with variances in (0.4, 1.1) and correlations of every size."""
    loadings = rng.normal(size=(size, size + 1))
    loadings /= np.linalg.norm(loadings, axis=1, keepdims=True)
    deviations = np.sqrt(rng.uniform(0.4, 1.1, size))
    covariance = deviations[:, None] * (loadings @ loadings.T) * deviations
    return np.asarray((covariance + covariance.T) / 2)  # symmetric to the last bit


def quadrature(functions: Sequence[Callable[..., Any]], covariance: np.ndarray, rule: Rule) -> tuple[float, float]:
    """Return E[∏ f_i(x_i)] by tensor quadrature, and the product of the r.m.s. values of the factors."""
    factor = np.linalg.cholesky(covariance)
    product = np.ones(())
    field_of: list[np.ndarray] = [np.zeros(()) for _ in functions]
    size = 1.0
    for axis, function in enumerate(functions):
        scale = factor[axis, axis]
        nodes, weights = rule(-field_of[axis] / scale)  # x_axis = 0 lies there
        for row in range(axis, len(functions)):
            field_of[row] = field_of[row][..., None] + factor[row, axis] * nodes
        product = product[..., None] * weights * function(field_of[axis])
        own, own_weights = rule(np.zeros(()))
        size *= math.sqrt(
            own_weights @ np.broadcast_to(function(math.sqrt(covariance[axis, axis]) * own), own.shape) ** 2
        )
    return float(product.sum()), size


def _rule(formulas: tuple[str, ...], linear_factors: int, slots: int) -> Rule:
    """Return nodes and weights of the standard Gaussian on one axis, given where the field of that axis vanishes."""
    step = 0.28 if any(needs_mixture(formula) for formula in formulas) else 0.5  # tanh is analytic in a strip only
    sums = [from_formula(_stand_in(formula)) for formula in formulas]
    degree = sum(max(len(polynomial) - 1 for _, polynomial in atoms.terms) for atoms in sums) + linear_factors
    if any(kind.sign for atoms in sums for kind, _ in atoms.terms):
        return _split_rule(degree, round(REFINE * (24 if slots > 3 else 40)))
    if all(atoms.is_polynomial for atoms in sums):
        nodes, weights = np.polynomial.hermite_e.hermegauss(max(degree, max(2 * degree // len(sums), 1)) + 1)
        weights = weights / math.sqrt(2 * math.pi)
    else:
        step /= REFINE
        growth = sum(max(float(sympy.re(kind.beta)) for kind, _ in atoms.terms) for atoms in sums)
        reach = math.ceil((7.5 + 0.8 * math.sqrt(degree) + growth) / step)
        nodes = step * np.arange(-reach, reach + 1)
        weights = step * np.exp(-(nodes**2) / 2) / math.sqrt(2 * math.pi)
    return lambda kink: (nodes, weights)


def _stand_in(formula: str) -> str:
    """Return a formula of the same kind that has atoms."""
    return "erf(x)" if needs_mixture(formula) else formula


def _split_rule(degree: int, count: int) -> Rule:
    """Gauss–Legendre on both sides of the kink: what is integrated is analytic on each, and so is what comes out."""
    reach = 7.0 + 0.6 * math.sqrt(degree)
    unit, share = np.polynomial.legendre.leggauss(count)
    unit, share = (unit + 1) / 2, share / 2

    def rule(kink: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        middle = np.clip(kink, -reach, reach)[..., None]
        left, right = middle + reach, reach - middle
        nodes = np.concatenate((-reach + left * unit, middle + right * unit), axis=-1)
        weights = np.concatenate((left * share, right * share), axis=-1)
        return nodes, weights * np.exp(-(nodes**2) / 2) / math.sqrt(2 * math.pi)

    return rule


def _function(formula: str, order: int | None) -> Callable[..., Any]:
    x = variable()
    expression = x if order is None else sympy.diff(to_sympy(formula), x, order)
    expression = expression.replace(sympy.DiracDelta, lambda *_: sympy.S.Zero)  # jumps are dealt with by parts
    return sympy.lambdify(x, expression, ["scipy", "numpy"])  # type: ignore[no-any-return]


def _jumps(formula: str, order: int) -> bool:
    """Whether the derivative of some order below ``order`` jumps at x = 0, so that this one has a Dirac delta."""
    x = variable()
    expression = sympy.diff(to_sympy(formula), x, order - 1) if order else sympy.S.Zero
    expression = expression.replace(sympy.DiracDelta, lambda *_: sympy.S.Zero)
    return bool(order) and bool(sympy.limit(expression, x, 0, "+") != sympy.limit(expression, x, 0, "-"))


def _by_parts(formulas: tuple[str, ...], covariance: np.ndarray, rule: Rule, name: str) -> tuple[float, float]:
    """Return E[σ'φ'] or E[σ''φ] without any delta, from E[x_i σ'(x1) φ(x2)] = C_i1 E[σ''φ] + C_i2 E[σ'φ']."""
    slope, other = _function(formulas[0], 1), _function(formulas[1], 0)
    left = [
        quadrature([lambda x: x * slope(x), other], covariance, rule),
        quadrature([slope, lambda x: x * other(x)], covariance, rule),
    ]
    second, first = np.linalg.solve(covariance, [value for value, _ in left])
    return float(first if name == "J2" else second), max(size for _, size in left)


def _steepness(formulas: tuple[str, ...]) -> float:
    """Return the largest 2κ² or α: covariances are scaled so that the integrands stay smooth on the grid."""
    rates = [1.0]
    for formula in formulas:
        for kind, _ in from_formula(_stand_in(formula)).terms:
            rates += [float(kind.alpha), float(abs(kind.beta) ** 2), *(float(2 * kappa**2) for kappa in kind.kappas)]
    return max(rates)
