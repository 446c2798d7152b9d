"""The full certificate of a kernel: 20 digits, coincident indices, and how rounding grows at adversarial covariances.

Input
    The formulas of student and teacher, and the float64 functions that were made for them.
Output
    :class:`Certification`: for each expectation

    - the worst float64 error against the independent quadrature of :mod:`.oracle`, at many covariances for each way in
      which indices can coincide;
    - the digits on which its program, evaluated in mpmath, agrees with the same quadrature in multiprecision;
    - the worst float64 error at nearly degenerate, singular, very small and very large covariances, against the program
      in mpmath (which isolates rounding: that the program is right is what the first two show), and a bound on it,

          error <= a + b/delta^q + c*s,

      where delta is the smallest share of its variance that a variable keeps once the other distinct ones are known,
      and s the larger of the largest variance and the inverse of the smallest, in units of the squared scale on which
      the activations vary.  An expectation that responds to the rounding of its covariance as an angle does has
      q = 1/2; q = 1 means that intermediate results lose more.  The constants are those of the worst case met, with a
      margin; those not needed are zero.
"""

from __future__ import annotations

import itertools
import math
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import mpmath
import numpy as np

from . import oracle
from .kernels import FACTORS, KernelPrograms
from .mixture import MixedPrograms, needs_mixture, of_formula
from .oracle import Factor
from .program import Program
from .verify import TOLERANCE, Case, VerificationError, errors, factors_of, random_cases, route_of

Function: TypeAlias = Callable[..., Any]

COVARIANCES = 50  # for distinct indices; as many again are shared out among the ways to coincide
EXACT = 5  # of each kind, in multiprecision
DIGITS = 20
_SEED = 20220214
_EPSILON = 2.0**-52
_SETS = 6  # of adversarial covariances, where they are cheap: of two and three variables
_MARGIN = 10.0  # between the worst case met and the stated bound
_ANGLE = 50 * _EPSILON  # error times sqrt(delta) of what responds to rounding as an angle does
_FLOOR = 1e-14  # conditional variances below this fraction are taken for zero by the programs
_MANY, _SPARSE = 1000, 4  # of mixtures with more terms, every so manieth adversarial covariance
_TAU = 1e-46  # independent part that gives a direction to the signs of coincident variables
_TAU_DIGITS, _PLAIN_DIGITS = 78, 45


@dataclass(frozen=True)
class Bound:
    """The stated bound a + b/delta^q + c·s on the float64 error, see the module."""

    a: float
    b: float
    q: float
    c: float

    def at(self, loadings: np.ndarray, steepness: float = 1.0) -> float:
        """Return the bound where the variables are ``loadings`` times independent standard Gaussians."""
        return float(self.a + self.b / margin(loadings) ** self.q + self.c * stretch(loadings, steepness))

    def __str__(self) -> str:
        parts = [
            f"{self.a:.0e}",
            f"{self.b:.0e}/delta^{self.q:g}" if self.b else "",
            f"{self.c:.0e}*s" if self.c else "",
        ]
        return " + ".join(part for part in parts if part)


@dataclass(frozen=True)
class Certified:
    """What is certified about one expectation.

    Attributes
    ----------
    name, route : str
    operations : int
    error : float
        Worst float64 error against independent quadrature, relative to max(|reference|, ∏ r.m.s. of the factors).
    covariances : int
        Number of covariances of that comparison, distinct and coincident indices.
    digits : float or None
        Digits on which program and quadrature agree in multiprecision; None for mixtures, which are not exact.
    exact_covariances : int
    rounding : tuple of (str, float)
        Worst float64 error at each kind of adversarial covariance.
    bound : Bound
        Stated bound on the float64 error.
    """

    name: str
    route: str
    operations: int
    error: float
    covariances: int
    digits: float | None
    exact_covariances: int
    rounding: tuple[tuple[str, float], ...]
    bound: Bound


@dataclass(frozen=True)
class Certification:
    """The certificates of all expectations of a kernel; ``print`` it for a table."""

    student: str
    teacher: str
    expectations: tuple[Certified, ...]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return the content as plain numbers, strings, lists and dictionaries."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{'':<6} {'float64 error (covariances)':>28} {'digits (covariances)':>21}  bound on the error; route"]
        for one in self.expectations:
            digits = f"{'-' if one.digits is None else f'{one.digits:.1f}'} ({one.exact_covariances})"
            lines.append(
                f"{one.name:<6} {f'{one.error:.1e} ({one.covariances})':>28} {digits:>21}  {one.bound}; {one.route}"
            )
        rows: dict[str, None] = {label: None for one in self.expectations for label, _ in one.rounding}
        width = max(map(len, rows))
        lines += ["", "worst float64 error at adversarial covariances:"]
        lines.append(" " * width + "".join(f"{one.name:>9}" for one in self.expectations))
        columns = [dict(one.rounding) for one in self.expectations]
        for label in rows:
            cells = (f"{column[label]:.0e}" if label in column else "-" for column in columns)
            lines.append(f"{label:<{width}}" + "".join(f"{cell:>9}" for cell in cells))
        notes = ["Errors are relative to max(|value|, product of the factors' r.m.s.)."]
        if any(one.bound.b for one in self.expectations):
            notes.append("delta: smallest share of its variance that a variable keeps given the other distinct ones.")
        if any(one.bound.c for one in self.expectations):
            notes.append(
                "s: largest variance or inverse of the smallest, in units of the squared scale of the activations."
            )
        notes.append(f"Certified in {self.seconds:.1f} s.")
        return "\n".join([*lines, "", *textwrap.wrap(" ".join(notes), 100)])


def certify(
    student: str,
    teacher: str,
    functions: Mapping[str, Function] | None = None,
    progress: Callable[[float], None] | None = None,
    *,
    covariances: int = COVARIANCES,
    exact: int = EXACT,
) -> Certification:
    """Certify all expectations of a kernel.

    Parameters
    ----------
    student, teacher : str
        Formulas.
    functions : mapping, optional
        The float64 functions to certify, by the name of the expectation, such as those of the emitted numpy module; by
        default the programs themselves, evaluated in numpy (a mixture is a sum of programs, and needs its functions).
    progress : callable, optional
        Called with the fraction done.
    covariances, exact : int
        Numbers of covariances, in float64 and in multiprecision.

    Raises
    ------
    ValueError
        If the functions of a mixture are missing.
    VerificationError
        If an expectation disagrees with the quadrature, or is NaN at an adversarial covariance.
    """
    start = time.perf_counter()
    mixed = needs_mixture(student) or needs_mixture(teacher)
    if mixed and functions is None:
        raise ValueError(
            "tanh is a mixture: pass the functions of its kernel, as in functions(rendered.files['kernel.py'])"
        )
    source = MixedPrograms(student, teacher) if mixed else KernelPrograms(student, teacher)
    subjects = list(_subjects(source, functions))
    found = []
    for number, subject in enumerate(subjects):
        found.append(_certified(subject, covariances, exact))
        if progress is not None:
            progress((number + 1) / len(subjects))
    return Certification(student, teacher, tuple(found), time.perf_counter() - start)


@dataclass(frozen=True)
class Subject:
    """One expectation: its float64 function, and its program in mpmath (a sum over terms for mixtures)."""

    name: str
    route: str
    operations: int
    factors: tuple[Factor, ...]
    compute: Function
    exact: Function
    terms: int  # of a mixture; 0 for what is derived exactly

    @property
    def kinked(self) -> bool:
        """Whether the expectation can need a direction where variables coincide."""
        return not all(f.smooth for f in self.factors)


def _subjects(source: KernelPrograms | MixedPrograms, functions: Mapping[str, Function] | None) -> Iterator[Subject]:
    for name, letters in source.blocks().items():
        formulas = tuple(source.formula(letter) for letter in letters)
        factors = factors_of(name[:2], formulas)
        if isinstance(source, KernelPrograms):
            program = source.expectations[name]
            terms: list[tuple[tuple[float, float], ...]] = [((1.0, 1.0),)] * len(letters)
            route, mixture = route_of(program), False
        else:
            program = source.base.expectations[source.base_name(name)]
            terms = [
                ((1.0, 1.0),) if order is None else of_formula(formula).terms
                for formula, order in zip(formulas, FACTORS[name[:2]], strict=True)
            ]
            route = f"mixture of error functions, off by {max(of_formula(formula).error for formula in formulas):.0e}"
            mixture = True
        compute = program.compile("numpy") if functions is None else functions[name]
        count = math.prod(map(len, terms))
        exact = _sum_of(program, terms, FACTORS[name[:2]])
        yield Subject(name, route, program.operations * count, factors, compute, exact, count if mixture else 0)


def _sum_of(
    program: Program, terms: Sequence[tuple[tuple[float, float], ...]], orders: Sequence[int | None]
) -> Function:
    """Return Σ ∏ weights · program(scaled covariance) in mpmath."""
    run = program.compile("mpmath")
    slots = len(terms)
    pairs = [(i, j) for i in range(slots) for j in range(i, slots)]

    def total(*entries: Any) -> Any:
        parts = []
        for choice in itertools.product(*terms):
            weight = mpmath.mpf(1)
            for (amount, scale), order in zip(choice, orders, strict=True):
                weight *= amount * mpmath.mpf(scale) ** (order or 0)
            scaled = (mpmath.mpf(choice[i][1]) * choice[j][1] * c for (i, j), c in zip(pairs, entries, strict=True))
            parts.append(weight * run(*scaled))
        return mpmath.fsum(parts)

    return total


def _certified(subject: Subject, covariances: int, exact: int) -> Certified:
    rng = np.random.default_rng(_SEED)
    cases = _cases(subject, rng, covariances, least=0.25)
    worst = float(errors(subject.compute, subject.factors, cases).max())
    if not worst <= TOLERANCE:
        raise VerificationError(f"{subject.name} is off by {worst:.1e} from its quadrature: report this formula")
    digits, exact_cases = None, []
    if not subject.terms:
        exact_cases = _cases(subject, rng, exact, least=0.5)
        digits = min(agreement(subject, case) for case in exact_cases)
        if digits < DIGITS:
            raise VerificationError(
                f"{subject.name} agrees with its quadrature to {digits:.1f} digits only: report this formula"
            )
    rounding, bound = _rounding(subject, rng, worst)
    return Certified(
        subject.name, subject.route, subject.operations, worst, len(cases), digits, len(exact_cases), rounding, bound
    )


def _cases(subject: Subject, rng: np.random.Generator, count: int, least: float) -> list[Case]:
    """Draw ``count`` covariances for distinct indices and as many, in turn, for the ways to coincide."""
    every = list(random_cases(subject.factors, rng, count, least=least))
    ways = len(every) // count
    return [*every[:count], *(every[count * (1 + i % (ways - 1)) + i] for i in range(count if ways > 1 else 0))]


def agreement(subject: Subject, case: Case) -> float:
    """Return the digits on which a program and the quadrature agree in multiprecision."""
    where, places = case
    coincident = subject.kinked and len(set(places)) < len(places)
    with mpmath.workdps(_TAU_DIGITS if coincident else _PLAIN_DIGITS):
        value = subject.exact(*_separated(where.entries(places, mpmath.mpf), len(places), coincident))
        reference = oracle.expectation(subject.factors, where, places, exact=True)
        scale = max(abs(reference), oracle.size(subject.factors, [where.entry(u, u) for u in places])) or 1
        error = abs(value - reference) / scale
        return float(-mpmath.log10(error)) if error else float(_PLAIN_DIGITS)


def _separated(entries: list[Any], count: int, apart: bool) -> list[Any]:
    """Add an infinitesimal independent part to each variable: the limit that the float64 programs take."""
    if not apart:
        return entries
    pairs = [(i, j) for i in range(count) for j in range(i, count)]
    return [c * (1 + mpmath.mpf(_TAU)) if i == j else c for (i, j), c in zip(pairs, entries, strict=True)]


def adversarial(rng: np.random.Generator, count: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield kinds of covariances where rounding can grow, as the loadings L of C = L Lᵀ."""

    def unit(rank: int) -> np.ndarray:
        rows = rng.normal(size=(count, rank))
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))

    def sized(rows: np.ndarray) -> np.ndarray:
        return rows * np.sqrt(rng.uniform(0.4, 1.1, size=(count, 1)))

    for k in range(2, 13):
        apart = math.sqrt(2) * 10.0 ** (-k / 2)
        pair = unit(count + 1)
        i, j = rng.choice(count, 2, replace=False)
        pair[j] = pair[i] + apart * pair[j]
        yield f"correlation 1-1e-{k}", sized(pair)
        if count > 2:
            bundle = unit(count + 1)
            yield f"correlation 1-1e-{k}", sized(bundle[0] + apart * bundle)
    for rank in range(1, count):
        yield "singular", sized(unit(rank))
    yield "student = teacher", sized(unit(2))[rng.permutation([0, 1, *rng.integers(0, 2, size=count - 2)])]
    for power in (-6, -4, -2, 2, 4, 6):
        yield f"norms 1e{power}", 10.0**power * sized(unit(count + 1))
    yield "norms 1e-6 to 1e6", 10.0 ** rng.integers(-6, 7, size=(count, 1)) * unit(count + 1)


def rounding_error(subject: Subject, loadings: np.ndarray) -> float:
    """Return the float64 error at C = L Lᵀ, rounded to float64, against the program at the exact C in mpmath.

    0 where the true value overflows and the function is infinite; infinite where it is NaN, or infinite alone.
    """
    count = len(loadings)
    coincident = subject.kinked and np.linalg.matrix_rank(loadings) < count
    with mpmath.workdps(_TAU_DIGITS if coincident else _PLAIN_DIGITS):
        rows = [[mpmath.mpf(float(value)) for value in row] for row in loadings]
        entries = [mpmath.fdot(rows[i], rows[j]) for i in range(count) for j in range(i, count)]
        reference = subject.exact(*_separated(entries, count, coincident))
        with np.errstate(all="ignore"):
            value = float(subject.compute(*map(float, entries)))
        if not math.isfinite(value):
            return 0.0 if math.isinf(value) and math.isinf(float(reference)) else math.inf
        size = oracle.size(subject.factors, (loadings**2).sum(axis=1).tolist())
        scale = max(abs(reference), size if math.isfinite(size) else 0)
        return float(abs(value - reference) / scale) if scale else abs(value)


def margin(loadings: np.ndarray) -> float:
    """Return delta: the smallest share of its variance that a variable keeps given the other distinct ones."""
    rows = np.unique(loadings, axis=0)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    shares = [
        float(np.sum((row - others.T @ np.linalg.lstsq(others.T, row, rcond=None)[0]) ** 2))
        for i, row in enumerate(rows)
        for others in [np.delete(rows, i, axis=0)]
        if len(others)
    ]
    return max(min(shares, default=1.0), _FLOOR)


def stretch(loadings: np.ndarray, steepness: float) -> float:
    """Return s: the largest variance or the inverse of the smallest, in units of the scale of the activations."""
    variances = steepness * (loadings**2).sum(axis=1)
    return max(1.0, float(variances.max()), float(1 / variances.min()))


def _rounding(
    subject: Subject, rng: np.random.Generator, ordinary: float
) -> tuple[tuple[tuple[str, float], ...], Bound]:
    """Measure the errors at adversarial covariances and state the bound."""
    steepness = max(1.0, *(f.steepness for f in subject.factors))
    a = _MARGIN * max(ordinary, 4 * _EPSILON)
    # the rounding of a covariance in an exponent grows with it, whether or not the draws below overflow
    c = _MARGIN * _EPSILON if any(f.growth or f.frequency for f in subject.factors) else 0.0
    table: dict[str, float] = {}
    degenerate = []
    sets = _SETS if len(subject.factors) < 4 else 1  # where they are cheap
    every = [draw for _ in range(sets) for draw in adversarial(rng, len(subject.factors))]
    for label, loadings in every[:: _SPARSE if subject.terms > _MANY else 1]:
        error = rounding_error(subject, loadings)
        if not math.isfinite(error):
            raise VerificationError(f"{subject.name} is not finite at a covariance with {label}: report this formula")
        table[label] = max(table.get(label, 0.0), error)
        if not label.startswith("norms"):
            degenerate.append((error, margin(loadings)))
        elif error > a:
            c = max(c, _MARGIN * error / stretch(loadings, steepness))
    b, q = 0.0, 0.0
    if max(error for error, _ in degenerate) > a:
        q = 0.5 if max(error * delta**0.5 for error, delta in degenerate) < _ANGLE else 1.0
        b = _MARGIN * max(error * delta**q for error, delta in degenerate)
    return tuple(table.items()), Bound(a, b, q, c)
