"""What a kernel consists of: the expectations of one student-teacher pair, as verified-to-be programs.

Input
    The formulas of the student and of the teacher activation.
Output
    :class:`KernelPrograms`: pointwise functions and the programs for

    ====  ==============================  =======================================
    I2    E[φ_a(x1) φ_b(x2)]              risk (c00 of the theory)
    J2    E[σ'(x1) φ_b'(x2)]              drift and label noise (c11)
    K2    E[σ''(x1) φ_b(x2)]              drift (c20)
    I3    E[σ'(x1) x2 φ_b(x3)]            the published three-point function
    I4    E[σ'(x1) σ'(x2) φ_a(x3) φ_b(x4)]  noise
    ====  ==============================  =======================================

    with φ = σ for students (s) and σ* for teachers (t).  A matched pair has one program of each; otherwise the name
    carries the block, as in ``I4_st``.  Polynomial pairs also have the diffusion of one student and one teacher unit.

Sources: Saad & Solla 1995; Goldt et al. 2019, arXiv:1906.08632; Veiga et al. 2022, arXiv:2202.00293.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property

import sympy
from sympy import Expr, S, Symbol

from .activations import CONSTANT, JUMPS
from .atoms import AtomSum, Kind, NotClosed, from_formula
from .parse import variable
from .program import Builder, Program, covariance_inputs, covariance_symbol
from .rules import Derivation

IDENTITY = AtomSum(((Kind(), (S.Zero, S.One)),))

#: the derivative orders of the factors of each expectation; None stands for the bare variable x
FACTORS: dict[str, tuple[int | None, ...]] = {
    "I2": (0, 0),
    "J2": (1, 1),
    "K2": (2, 0),
    "I3": (1, None, 0),
    "I4": (1, 1, 0, 0),
}

#: for unmatched pairs, the activations (s or t) of the factors in each block
BLOCKS: dict[str, tuple[str, ...]] = {
    "I2_ss": ("s", "s"),
    "I2_st": ("s", "t"),
    "I2_tt": ("t", "t"),
    "J2_ss": ("s", "s"),
    "J2_st": ("s", "t"),
    "K2_ss": ("s", "s"),
    "K2_st": ("s", "t"),
    "I3_ss": ("s", "s", "s"),
    "I3_st": ("s", "s", "t"),
    "I4_ss": ("s", "s", "s", "s"),
    "I4_st": ("s", "s", "s", "t"),
    "I4_tt": ("s", "s", "t", "t"),
}

#: the fourth power of the error makes the diffusion of higher polynomials too long to be useful as a formula
MAX_DIFFUSION_DEGREE = 4

#: four signs are Plackett's integral; more have no rule
MAX_SIGNS = 4


def derive(name: str, activations: tuple[AtomSum, ...], kind: str | None = None) -> Program:
    """Derive one expectation: ``kind`` is a key of :data:`FACTORS` (by default the first two letters of ``name``)."""
    orders = FACTORS[kind or name[:2]]
    factors = []
    for order, atoms in zip(orders, activations, strict=True):
        factor = IDENTITY if order is None else atoms
        for _ in range(order or 0):
            factor = factor.derivative()
        factors.append(factor)
    return Derivation(len(orders)).program(name, factors)


def _signs(atoms: AtomSum) -> int:
    """Return the largest number of erfs and kinks in one term."""
    return max((len(kind.kappas) + kind.sign for kind, _ in atoms.terms), default=0)


@cache
def _derived(name: str, formulas: tuple[str, ...]) -> Program:
    return derive(name, tuple(from_formula(formula) for formula in formulas))


@dataclass(frozen=True)
class KernelPrograms:
    """All that is derived for one student-teacher pair.

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
    def expectations(self) -> dict[str, Program]:
        """The derived programs by name.

        Raises
        ------
        NotClosed
            If one of them has no closed form; the message says which.
        """
        return self.derive()

    def derive(self, step: Callable[[], object] = lambda: None) -> dict[str, Program]:
        """Return the expectations; ``step`` is called after each, while they are derived one after another."""
        _ = self.pointwise  # refuses a student that jumps or is constant
        self._count_signs()
        found = {}
        for name, letters in self.blocks().items():
            found[name] = self._derive(name, letters)
            step()
        return found

    def _count_signs(self) -> None:
        """Refuse at once what the longest expectation has no rule for: each erf and each kink is a sign there."""
        student = from_formula(self.student)
        for formula in dict.fromkeys((self.student, self.teacher)):
            signs = 2 * (_signs(student.derivative()) + _signs(from_formula(formula)))
            if signs > MAX_SIGNS:
                pair = self.student if self.matched else f"the student {self.student} and teacher {self.teacher}"
                raise NotClosed(
                    f"I4 of {pair}: it takes the expectation of a product of {signs} factors erf, kink or jump, "
                    f"which has a closed form up to {MAX_SIGNS} only; multiply fewer of them in the activation"
                )

    def blocks(self) -> dict[str, tuple[str, ...]]:
        """Return the names of the expectations and the activations (s or t) of their factors."""
        if self.matched:
            return {name: ("s",) * len(orders) for name, orders in FACTORS.items()}
        return BLOCKS

    def formula(self, letter: str) -> str:
        """Return the formula of the student ``s`` or the teacher ``t``."""
        return self.student if letter == "s" else self.teacher

    def _derive(self, name: str, letters: tuple[str, ...]) -> Program:
        try:
            return _derived(name, tuple(self.formula(letter) for letter in letters))
        except NotClosed as reason:
            raise NotClosed(f"{name} of the student {self.student} and teacher {self.teacher}: {reason}") from None

    @cached_property
    def pointwise(self) -> dict[str, Expr]:
        """σ, σ' of the student and σ* of the teacher as expressions in ``x``."""
        student = from_formula(self.student)
        slope = student.derivative()
        if not slope.terms:
            raise NotClosed(CONSTANT.format(self.student))
        if any(kind.delta for kind, _ in slope.terms):
            raise NotClosed(JUMPS.format(self.student))
        return {
            "student": student.expression(),
            "student_prime": slope.expression(),
            "teacher": from_formula(self.teacher).expression(),
        }

    @cached_property
    def diffusion(self) -> dict[str, Program]:
        """Covariances per step of the scaled increments of (Q, M) at p = k = 1, for polynomial pairs (else empty)."""
        pair = []
        for formula in (self.student, self.teacher):
            atoms = from_formula(formula)
            if not atoms.is_polynomial or len(atoms.terms[0][1]) > MAX_DIFFUSION_DEGREE + 1:
                return {}
            pair.append(atoms.expression())  # of abs(x)**2 without the sign
        return dict(_diffusion(*pair))


def _diffusion(student: Expr, teacher: Expr) -> Iterator[tuple[str, Program]]:
    """Derive Cov of φ = 2a𝓔λ + γa²𝓔² (for Q) and ψ = a𝓔λ* (for M), 𝓔 = σ'(λ)e, e = a*σ*(λ*) − aσ(λ) + √Δ z."""
    x = variable()
    field, teacher_field, z = sympy.symbols("lambda lambda_star z", real=True)
    gamma, noise, a, a_star = (Symbol(name, real=True) for name in ("gamma", "Delta", "a", "a_star"))
    root = Symbol("root", real=True)  # √Δ; only even powers survive the average over z
    error = a_star * teacher.subs(x, teacher_field) - a * student.subs(x, field) + root * z
    scaled = sympy.diff(student, x).subs(x, field) * error
    increments = {"Q": 2 * a * scaled * field + gamma * a**2 * scaled**2, "M": a * scaled * teacher_field}
    inputs = (*covariance_inputs(2), gamma, noise, a, a_star)
    builder = Builder(inputs)

    def moment(i: int, j: int) -> Expr:
        """E[λ^i λ*^j], by Stein: strip one λ* (or λ)."""
        if i < 0 or j < 0 or (i + j) % 2:
            return S.Zero
        if i + j == 0:
            return S.One
        own = covariance_symbol(2, 2) if j else covariance_symbol(1, 1)
        if j:
            value = own * (j - 1) * moment(i, j - 2) + covariance_symbol(1, 2) * i * moment(i - 1, j - 1)
        else:
            value = own * (i - 1) * moment(i - 2, j)
        return builder.let(value)

    def mean(expression: Expr) -> Expr:
        total = S.Zero
        for (i, j, m), coefficient in sympy.Poly(sympy.expand(expression), field, teacher_field, z).terms():
            if m % 2 == 0:
                weight = coefficient.subs(root, sympy.sqrt(noise)) * sympy.factorial2(m - 1)
                total += sympy.expand(weight) * moment(i, j)
        return builder.let(total)

    means = {name: mean(increment) for name, increment in increments.items()}
    for first, second in (("Q", "Q"), ("Q", "M"), ("M", "M")):
        covariance = mean(increments[first] * increments[second]) - means[first] * means[second]
        yield f"cov_{first}{second}", builder.program(f"cov_{first}{second}", covariance)
