"""Sigmoids without closed expectations: a certified mixture of error functions.

tanh(x) = E erf(κx) over a random κ (the logistic law is a mixture of Gaussians), so few terms approximate it far better
than an expansion would: tanh(x) ≈ Σ_i c_i erf(κ_i x).  Every expectation of the mixture is a sum of those of erf at
rescaled covariances, which stay in the closed class.

Input
    A formula that is, up to a constant, a multiple of one tanh(c·x).
Output
    :class:`Mixture`: its offset and terms; :func:`fit` does the least-squares fit, in 30 digits and so the same
    everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import mpmath
import sympy
from sympy import Expr

from .atoms import NotClosed
from .kernels import BLOCKS, FACTORS, KernelPrograms
from .parse import normalise, to_sympy, variable

TERMS = 11
BASE = "erf(x / sqrt(2))"
_FIRST, _LAST = 0.30, 2.11  # range of κ from which the fit starts
_NODES, _REACH, _STEPS = 160, 10.0, 12


@dataclass(frozen=True)
class Mixture:
    """Σ weight · base(scale · x), in place of an activation.

    Attributes
    ----------
    base : str
        Formula of the terms: erf(x/√2), and a constant where the activation has one; the activation itself if it needs
        no mixture.
    terms : tuple of (weight, scale)
    error : float
        Largest distance from the activation.
    """

    base: str
    terms: tuple[tuple[float, float], ...]
    error: float


@cache
def fit() -> tuple[tuple[float, float], ...]:
    """Fit tanh(x) on x > 0 by Σ c_i erf(κ_i x), by Gauss–Newton in the log κ_i with the c_i eliminated at each step."""
    with mpmath.workdps(30):
        points = [_REACH * mpmath.sin(mpmath.pi * (i + 0.5) / (4 * _NODES) * 2) ** 2 for i in range(_NODES)]
        target = mpmath.matrix([mpmath.tanh(x) for x in points])
        ratio = (mpmath.mpf(_LAST) / _FIRST) ** (mpmath.mpf(1) / (TERMS - 1))
        kappas = [_FIRST * ratio**i for i in range(TERMS)]
        for _ in range(_STEPS):
            values = mpmath.matrix([[mpmath.erf(k * x) for k in kappas] for x in points])
            weights = mpmath.lu_solve(values, target)
            slopes = [
                [
                    c * 2 / mpmath.sqrt(mpmath.pi) * k * x * mpmath.exp(-((k * x) ** 2))
                    for c, k in zip(weights, kappas, strict=True)
                ]
                for x in points
            ]
            both = mpmath.matrix([[*values[i, :], *slopes[i]] for i in range(_NODES)])
            step = mpmath.lu_solve(both, target - values * weights)[TERMS:]
            longest = max(abs(s) for s in step)
            damping = min(mpmath.mpf(1), mpmath.mpf("0.1") / longest)
            kappas = [k * mpmath.exp(damping * s) for k, s in zip(kappas, step, strict=True)]
            if longest < mpmath.mpf(10) ** -12:
                break
        values = mpmath.matrix([[mpmath.erf(k * x) for k in kappas] for x in points])
        weights = mpmath.lu_solve(values, target)
        return tuple(
            (float(mpmath.nstr(c, 16)), float(mpmath.nstr(k, 16))) for c, k in zip(weights, kappas, strict=True)
        )


@cache
def distance() -> float:
    """Return the largest distance between tanh and its mixture, on a fine grid."""
    grid = [mpmath.mpf(i) / 100 for i in range(1, 2001)]
    return float(max(abs(mpmath.tanh(x) - sum(c * mpmath.erf(k * x) for c, k in fit())) for x in grid))


def needs_mixture(formula: str) -> bool:
    """Whether a formula has a tanh, for which no rule exists."""
    return bool(to_sympy(formula).has(sympy.tanh))


@cache
def of_formula(formula: str) -> Mixture:
    """Return the mixture of offset + amplitude · tanh(slope · x); other formulas are their own only term.

    Raises
    ------
    NotClosed
        If a tanh stands in any other place.
    """
    expression = sympy.expand(to_sympy(formula))
    waves = expression.atoms(sympy.tanh)
    if not waves:
        return Mixture(formula, ((1.0, 1.0),), 0.0)
    x = variable()
    wave = min(waves, key=sympy.default_sort_key)
    slope, amplitude = sympy.cancel(wave.args[0] / x), expression.coeff(wave)
    offset = sympy.expand(expression - amplitude * wave)
    if any(not part.is_real or part.has(x) or part.has(sympy.tanh) for part in (slope, amplitude, offset)):
        wrote = "sigmoid" if "sigmoid(" in formula else "tanh"
        raise NotClosed(
            f"{formula}: {wrote} has no closed expectations; only c + a*{wrote}(b*x) has a certified mixture"
        )
    size, stretch = float(amplitude), float(slope) * 2**0.5
    terms = tuple((size * c, stretch * k) for c, k in fit())
    constant = float(offset) / sum(weight for weight, _ in terms)  # shared out among the terms
    base = normalise(f"{BASE} + {constant:.12g}") if constant else BASE
    return Mixture(base, terms, abs(size) * distance())


@dataclass(frozen=True)
class MixedPrograms:
    """A student-teacher pair of which at least one is a mixture.

    Attributes
    ----------
    student, teacher : str
        Formulas.
    """

    student: str
    teacher: str

    @property
    def matched(self) -> bool:
        """Whether student and teacher have the same formula."""
        return self.student == self.teacher

    @cached_property
    def base(self) -> KernelPrograms:
        """The programs of the terms: erf in place of each mixture."""
        return KernelPrograms(of_formula(self.student).base, of_formula(self.teacher).base)

    def formula(self, letter: str) -> str:
        """Return the formula of the student ``s`` or the teacher ``t``."""
        return self.student if letter == "s" else self.teacher

    def blocks(self) -> dict[str, tuple[str, ...]]:
        """Return the names of the expectations and the activations (s or t) of their factors."""
        return {name: ("s",) * len(orders) for name, orders in FACTORS.items()} if self.matched else BLOCKS

    def base_name(self, name: str) -> str:
        """Return the base program that an expectation sums."""
        return name[:2] if self.base.matched else name if "_" in name else f"{name}_ss"

    @cached_property
    def pointwise(self) -> dict[str, Expr]:
        """σ, σ' of the student and σ* of the teacher, exactly."""
        x = variable()
        student, teacher = to_sympy(self.student), to_sympy(self.teacher)
        if not needs_mixture(self.student):
            exact = self.base.pointwise
            return {**exact, "teacher": teacher}
        exact_teacher = teacher if needs_mixture(self.teacher) else self.base.pointwise["teacher"]
        return {"student": student, "student_prime": sympy.diff(student, x), "teacher": exact_teacher}
