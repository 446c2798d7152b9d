"""Verification: every derived program against a quadrature that knows nothing of the rules.

Input
    The programs of a kernel and the formulas they were derived from.
Output
    :class:`Certificate` for each program: the worst error over random covariances, distinct and coincident indices
    alike; :class:`VerificationError` on a mismatch, so that nothing wrong is ever emitted.

The reference is the two-dimensional quadrature of :mod:`.oracle`.  Errors are measured against
max(|reference|, ∏ r.m.s. of factors): a relative error means nothing at a zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import sympy

from . import oracle
from .atoms import from_formula
from .kernels import FACTORS, KernelPrograms
from .oracle import Draw, Factor
from .parse import variable
from .program import Program

TOLERANCE = 1e-9
SAMPLES = 2  # covariances for each way in which indices can coincide
_SEED = 20230518
#: the functions in programs that integrate numerically
_INTEGRALS = {
    "foursigns": "Plackett integral",
    "twosigns": "one-dimensional integral",
    "threesigns": "one-dimensional integral",
}

Case: TypeAlias = tuple[Draw, tuple[int, ...]]  # a covariance, and the variable of each factor


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
        Number of random covariances, those with coincident indices included.
    operations : int
        Operations of the program.
    route : str
        How it is evaluated: ``closed form``, or the integral or mixture that it takes.
    """

    name: str
    error: float
    covariances: int
    operations: int
    route: str


def verify(programs: KernelPrograms, step: Callable[[], object] = lambda: None) -> list[Certificate]:
    """Check every expectation of a kernel at random covariances; ``step`` is called after each.

    Raises
    ------
    VerificationError
        If an error exceeds :data:`TOLERANCE`.
    """
    _check_diffusion(programs)
    found = []
    for name, program in programs.expectations.items():
        found.append(check(program, tuple(programs.formula(letter) for letter in programs.blocks()[name])))
        step()
    return found


def check(program: Program, formulas: tuple[str, ...], kind: str | None = None) -> Certificate:
    """Check one program, given the formula of the activation in each factor."""
    compute = program.compile("numpy")
    return check_function(program.name, compute, formulas, program.operations, kind, route_of(program))


def route_of(program: Program) -> str:
    """Return how a program is evaluated: ``closed form``, or the integrals that it takes."""
    used = {
        call.func.__name__
        for expr in (*dict(program.lets).values(), program.result)
        for call in expr.atoms(sympy.Function)
    }
    return (
        " and ".join(dict.fromkeys(name for function, name in _INTEGRALS.items() if function in used)) or "closed form"
    )


def check_function(
    title: str,
    compute: Callable[..., Any],
    formulas: tuple[str, ...],
    operations: int,
    kind: str | None = None,
    route: str = "closed form",
) -> Certificate:
    """Check a function of the covariance entries, given the formula of the activation in each factor."""
    factors = factors_of(kind or title[:2], formulas)
    cases = list(random_cases(factors, np.random.default_rng(_SEED), SAMPLES))
    worst = float(errors(compute, factors, cases).max())
    if not worst <= TOLERANCE:
        raise VerificationError(
            f"{title} of {', '.join(dict.fromkeys(formulas))} is off by {worst:.1e} from its quadrature: "
            "report this formula"
        )
    return Certificate(title, worst, len(cases), operations, route)


def factors_of(kind: str, formulas: Sequence[str]) -> tuple[Factor, ...]:
    """Return the factors of an expectation: ``kind`` is a key of :data:`FACTORS`."""
    return tuple(oracle.factor(formula, order) for formula, order in zip(formulas, FACTORS[kind], strict=True))


def random_cases(
    factors: Sequence[Factor], rng: np.random.Generator, samples: int, *, least: float = 0.25
) -> Iterator[Case]:
    """Draw covariances for each way in which the variables of the factors can coincide, all distinct ones first.

    Variances shrink with the steepness of the factors, so that none is a step at the scale of its variable.
    """
    scale = 1 / max(1.0, *(factor.steepness for factor in factors))
    for places in coincidences(len(factors)):
        if oracle.defined(factors, places):
            for _ in range(samples):
                yield oracle.draw(rng, len(factors), scale=scale, least=least), places


def coincidences(count: int) -> list[tuple[int, ...]]:
    """Return all ways to let ``count`` factors share variables: the variable of each, numbered as they appear."""
    found: list[tuple[int, ...]] = [()]
    for _ in range(count):
        found = [(*places, u) for places in found for u in range(max(places, default=-1) + 2)]
    return sorted(found, key=lambda places: -max(places))


def errors(compute: Callable[..., Any], factors: Sequence[Factor], cases: Sequence[Case]) -> np.ndarray:
    """Return the error of a float64 function of the covariance entries in each case; infinite where it is NaN."""
    entries = np.array([where.entries(places) for where, places in cases]).T
    values = np.broadcast_to(compute(*entries), len(cases))
    found = np.array(
        [
            abs(value - reference)
            / (max(abs(reference), oracle.size(factors, [where.entry(u, u) for u in places])) or 1.0)
            for value, (where, places) in zip(values, cases, strict=True)
            for reference in [oracle.expectation(factors, where, places)]
        ]
    )
    return np.where(np.isfinite(found), found, math.inf)


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


def _function(formula: str, order: int) -> Callable[..., Any]:
    x = variable()
    return sympy.lambdify(x, sympy.diff(from_formula(formula).expression(), x, order), "numpy")  # type: ignore[no-any-return]
