"""Verification: every derived program against a quadrature that knows nothing of the rules.

Input
    The programs of a kernel and the formulas they were derived from.
Output
    :class:`Certificate` for each program: the worst error over random covariances; :class:`VerificationError` on a
    mismatch, so that nothing wrong is ever emitted.

The reference is a tensor quadrature of the product of the activations (differentiated by SymPy, not by the atoms) in
whitened coordinates: Gauss–Hermite, exact, for polynomials; otherwise the trapezoidal rule, which converges faster than
any power of the step for these analytic integrands.  Errors are measured against max(|reference|, ∏ r.m.s. of factors):
a relative error means nothing at a zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy

from .atoms import from_formula
from .kernels import FACTORS, KernelPrograms
from .parse import to_sympy, variable
from .program import Program

TOLERANCE = 1e-9
SAMPLES = 2
_SEED = 20230518


class VerificationError(ArithmeticError):
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
    return [
        check(program, tuple(programs.formula(letter) for letter in programs.blocks()[name]))
        for name, program in programs.expectations.items()
    ]


def check(program: Program, formulas: tuple[str, ...], kind: str | None = None) -> Certificate:
    """Check one program, given the formula of the activation in each factor."""
    rng = np.random.default_rng(_SEED)
    scale = 1 / max(1.0, _steepness(formulas))
    orders = FACTORS[kind or program.name[:2]]
    functions = [_function(formula, order) for formula, order in zip(formulas, orders, strict=True)]
    rule = _rule(formulas, sum(order is None for order in orders))
    compute = program.compile("numpy")
    worst = 0.0
    for _ in range(SAMPLES):
        covariance = scale * random_covariance(rng, len(orders))
        value = compute(*covariance[np.triu_indices(len(orders))])
        reference, size = quadrature(functions, covariance, rule)
        worst = max(worst, abs(float(value) - reference) / (max(abs(reference), size) or 1.0))
    if not worst <= TOLERANCE:
        raise VerificationError(
            f"{program.name} of {', '.join(dict.fromkeys(formulas))} is off by {worst:.1e} from its quadrature: "
            "report this formula"
        )
    return Certificate(program.name, worst, SAMPLES, program.operations)


def random_covariance(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return a random covariance with variances in (0.4, 1.1) and correlations of every size."""
    loadings = rng.normal(size=(size, size + 1))
    loadings /= np.linalg.norm(loadings, axis=1, keepdims=True)
    deviations = np.sqrt(rng.uniform(0.4, 1.1, size))
    return np.asarray(deviations[:, None] * (loadings @ loadings.T) * deviations)


def quadrature(
    functions: Sequence[Callable[..., Any]], covariance: np.ndarray, rule: tuple[np.ndarray, np.ndarray]
) -> tuple[float, float]:
    """Return E[∏ f_i(x_i)] by tensor quadrature, and the product of the r.m.s. values of the factors."""
    nodes, weights = rule
    factor = np.linalg.cholesky(covariance)
    product = np.ones(())
    field_of: list[np.ndarray] = [np.zeros(()) for _ in functions]
    size = 1.0
    for axis, function in enumerate(functions):
        for row in range(axis, len(functions)):
            field_of[row] = field_of[row][..., None] + factor[row, axis] * nodes
        product = product[..., None] * weights * function(field_of[axis])
        moment = weights @ np.broadcast_to(function(math.sqrt(covariance[axis, axis]) * nodes), nodes.shape) ** 2
        size *= math.sqrt(moment)
    return float(product.sum()), size


def _rule(formulas: tuple[str, ...], linear_factors: int) -> tuple[np.ndarray, np.ndarray]:
    sums = [from_formula(formula) for formula in formulas]
    degree = sum(max(len(polynomial) - 1 for _, polynomial in atoms.terms) for atoms in sums) + linear_factors
    if all(atoms.is_polynomial for atoms in sums):
        nodes, weights = np.polynomial.hermite_e.hermegauss(max(degree, max(2 * degree // len(sums), 1)) + 1)
        return nodes, weights / math.sqrt(2 * math.pi)
    step = 0.5
    reach = math.ceil((7.5 + 0.8 * math.sqrt(degree)) / step)
    nodes = step * np.arange(-reach, reach + 1)
    return nodes, step * np.exp(-(nodes**2) / 2) / math.sqrt(2 * math.pi)


def _function(formula: str, order: int | None) -> Callable[..., Any]:
    x = variable()
    expression = x if order is None else sympy.diff(to_sympy(formula), x, order)
    return sympy.lambdify(x, expression, ["scipy", "numpy"])  # type: ignore[no-any-return]


def _steepness(formulas: tuple[str, ...]) -> float:
    """Return the largest 2κ² or α: covariances are scaled so that the integrands stay smooth on the grid."""
    rates = [1.0]
    for formula in formulas:
        for kind, _ in from_formula(formula).terms:
            rates += [float(kind.alpha), *(float(2 * kappa**2) for kappa in kind.kappas)]
    return max(rates)
