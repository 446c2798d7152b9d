"""The rules: from atoms and a covariance to a straight-line program for their Gaussian expectation.

Input
    One :class:`~.atoms.AtomSum` for each of the jointly Gaussian, centred variables x1, x2, ….
Output
    :class:`~.program.Program` for E[∏ f_i(x_i)] as a function of the covariance entries.

The rules, in the order in which they are applied to a product of atoms:

tilt
    exp(−αx²/2) is absorbed by a rank-one update of the covariance and a factor (1 + αC)^(−1/2).
wave
    exp(βx) is e^z for a further variable z = Σ β_u x_u of the same Gaussian, an imaginary β makes cos z or sin z: all
    means stay zero.  The exponent of the whole product of exponentials is taken out first, so that what is left is
    measured from it and nothing overflows before the end.
smooth
    erf(κx) = E sign(y), y = x + ξ with Var ξ = 1/(2κ²): the sign of a variable whose variance never vanishes.
Wick
    A product of polynomials is a finite sum over the off-diagonal covariances: by Price's theorem
    ∂/∂C_ij E[∏f] = E[∂_i∂_j ∏f], applied until the variables are independent.
Stein
    E[x g] = Σ_j C_xj E[∂_j g] strips one power of a polynomial that stands beside signs, exponentials or waves.
condition
    ∂ sign(y) = 2δ(y): a Schur complement and the density of y at zero.  The variance of a bare sign(x) can vanish,
    where variables coincide: a sign without direction averages to zero (see :mod:`.functions`).
signs
    E[sign(u) sign(v)] = (2/π) asin ρ, itself derived and certified by :func:`two_signs`; an odd number of signs
    vanishes by symmetry; four signs are Plackett's one-dimensional integral.  Up to three signs beside an exponential
    or a wave are those of :mod:`.waves`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple, TypeAlias

import sympy
from sympy import Expr, Rational, S, Symbol, pi, sqrt

from .atoms import AtomSum, Kind, NotClosed, Polynomial, derivative, trim
from .functions import clean, density, foursigns, positive, share, signsign
from .program import Builder, Program, covariance_inputs, covariance_symbol
from .waves import onesign, scaled, threesigns, twosigns

Covariance: TypeAlias = tuple[tuple[Expr, ...], ...]
Polynomials: TypeAlias = tuple[tuple[int, Polynomial], ...]  # (variable, its polynomial)
#: (variable, None) of a smoothed sign; of a bare one, whose variance can vanish, with the variance to compare with
Sign: TypeAlias = tuple[int, Expr | None]

RHO = Symbol("rho", real=True)


class Wave(NamedTuple):
    """What stands beside polynomials and signs: exp(x_growth) · cos or sin(x_phase)."""

    growth: int | None = None  # its entry on the diagonal is its variance less that of the whole product's exponent
    phase: int | None = None
    sine: bool = False


@cache
def two_signs() -> Expr:
    """Derive E[sign(u) sign(v)] as a function of the correlation ``rho`` and certify it.

    Price's theorem gives d/dρ E = E[2δ(u) 2δ(v)] = 4 · (density at the origin) for unit variances; the integral starts
    from independence, ρ = 0.  The certificate differentiates back and checks the coincident limit E[sign²] = 1.
    """
    slope = 4 / (2 * pi * sqrt(1 - RHO**2))
    bound = Symbol("s", real=True)
    value = sympy.integrate(slope.subs(RHO, bound), (bound, 0, RHO), conds="none")
    if sympy.simplify(sympy.diff(value, RHO) - slope) != 0 or sympy.simplify(value.subs(RHO, 1) - 1) != 0:
        raise ArithmeticError(f"the sign-sign function {value} fails its certificate")
    return value


class Derivation:
    """Applies the rules; all expectations taken through one object share their lets."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._builder = Builder(covariance_inputs(slots))
        self._memo: dict[object, Expr] = {}

    def program(self, name: str, factors: Sequence[AtomSum]) -> Program:
        """Return the program for E[∏ f_i(x_i)].

        Raises
        ------
        NotClosed
            If no rule applies.
        """
        return self._builder.program(name, self.expectation(factors))

    def expectation(self, factors: Sequence[AtomSum]) -> Expr:
        """Return E[∏ f_i(x_i)] in terms of lets."""
        if len(factors) != self.slots:
            raise ValueError(f"{self.slots} factors are needed, one for each variable, not {len(factors)}")
        cov = tuple(tuple(covariance_symbol(i, j) for j in range(1, self.slots + 1)) for i in range(1, self.slots + 1))
        totals: dict[tuple[Expr, ...], Expr] = {}
        for choice in itertools.product(*(factor.terms for factor in factors)):
            growth, frequency = zip(*(kind.beta.as_real_imag() for kind, _ in choice), strict=True)
            turning = [rate for rate in frequency if rate != 0]
            if turning and turning[0].is_negative:
                continue  # the conjugate of another choice, which counts twice
            value = self._atoms(cov, choice, growth, frequency)
            totals[growth] = totals.get(growth, S.Zero) + (2 if turning else 1) * value
        return sum((self._grown(cov, growth, value) for growth, value in totals.items()), S.Zero)

    def _grown(self, cov: Covariance, growth: tuple[Expr, ...], value: Expr) -> Expr:
        """Return a value times the exponential of half the variance of Σ growth_u x_u."""
        if not any(growth):
            return value
        pairs = itertools.product(range(self.slots), repeat=2)
        exponent = sympy.expand(sum(growth[u] * growth[v] * cov[u][v] / 2 for u, v in pairs))
        if value.is_number:
            return value * self._let(sympy.exp(exponent))
        return scaled(self._let(exponent), self._let(value))

    def _let(self, expr: Expr) -> Expr:
        return self._builder.let(expr)

    def _atoms(
        self,
        cov: Covariance,
        choice: tuple[tuple[Kind, Polynomial], ...],
        growth: tuple[Expr, ...],
        frequency: tuple[Expr, ...],
    ) -> Expr:
        """Make a variable of the exponentials, condition on each δ, tilt by Gaussians, make signs of erf, and go on."""
        weight = S.One
        polynomials = [polynomial for _, polynomial in choice]
        wave = Wave()
        if any(growth):
            cov, wave = self._append(cov, growth, relative=True), wave._replace(growth=len(cov))
        if any(frequency):
            cov, wave = self._append(cov, frequency, relative=False), wave._replace(phase=len(cov))
        for slot, (kind, polynomial) in enumerate(choice):
            if kind.delta:
                cov, factor, _ = self._condition(cov, slot, wave.growth, guarded=True)
                weight *= factor
                polynomials[slot] = polynomial[:1]
        for slot, (kind, _) in enumerate(choice):
            if kind.alpha != 0:
                cov, factor = self._tilt(cov, slot, kind.alpha, wave.growth)
                weight *= factor
        signs: list[Sign] = []
        for slot, (kind, _) in enumerate(choice):
            for kappa in kind.kappas:
                cov = self._extend(cov, slot, cov[slot][slot] + Rational(1, 2) / kappa**2)
                signs.append((len(cov) - 1, None))
            if kind.sign:
                scale = covariance_symbol(slot + 1, slot + 1)
                own = cov[slot][slot]
                cov = self._extend(cov, slot, own if own == scale else clean(own, scale))
                signs.append((len(cov) - 1, scale))
        if wave.phase is None:
            return weight * self._product(cov, tuple(enumerate(polynomials)), tuple(signs), wave)
        parts = [_real_and_imaginary(polynomial) for polynomial in polynomials]
        total = S.Zero
        for which in itertools.product((0, 1), repeat=len(parts)):  # Re i^n e^{iz} = cos z, −sin z, −cos z, sin z, …
            turned = tuple((u, part[w]) for u, (part, w) in enumerate(zip(parts, which, strict=True)))
            quarter = sum(which) % 4
            value = self._product(cov, turned, tuple(signs), wave._replace(sine=quarter % 2 == 1))
            total += -value if quarter in (1, 2) else value
        return weight * total

    def _append(self, cov: Covariance, rates: tuple[Expr, ...], *, relative: bool) -> Covariance:
        """Add the variable Σ rate_u x_u; ``relative``: with 0 in place of its variance, for what is lost later on."""
        padded = (*rates, *[S.Zero] * (len(cov) - len(rates)))
        links = [self._let(sum((b * c for b, c in zip(padded, row, strict=True)), S.Zero)) for row in cov]
        own = S.Zero
        if not relative:
            pairs = itertools.product(range(len(rates)), repeat=2)
            own = sympy.expand(sum(rates[u] * rates[v] * cov[u][v] for u, v in pairs))
        return (*((*row, link) for row, link in zip(cov, links, strict=True)), (*links, own))

    def _tilt(self, cov: Covariance, slot: int, alpha: Expr, relative: int | None) -> tuple[Covariance, Expr]:
        spread = self._let(1 + alpha * cov[slot][slot])
        size = range(len(cov))
        shares = [self._let(cov[u][slot] / spread) for u in size]  # = the updated covariances with ``slot`` itself
        rows = [[S.Zero] * len(cov) for _ in size]
        for u in size:
            for v in range(u, len(cov)):
                if slot in (u, v):
                    value = shares[v if u == slot else u]
                else:
                    value = self._let(cov[u][v] - alpha * shares[u] * cov[slot][v])
                    value = self._let(positive(value)) if u == v != relative else value
                rows[u][v] = rows[v][u] = value
        return tuple(map(tuple, rows)), self._let(1 / sqrt(spread))

    def _extend(self, cov: Covariance, slot: int, variance: Expr) -> Covariance:
        """Add a variable that covaries with all others as ``slot`` does, with a variance of its own."""
        rows = [(*row, row[slot]) for row in cov]
        return (*rows, (*cov[slot], self._let(variance)))

    def _condition(
        self, cov: Covariance, y: int, relative: int | None, *, guarded: bool, signs: tuple[Sign, ...] = ()
    ) -> tuple[Covariance, Expr, tuple[Sign, ...]]:
        """Return the covariance given that variable ``y`` is zero, the density of ``y`` there, and the other signs.

        The row of ``y`` becomes zero.  ``relative`` is the growth, whose diagonal holds a loss.  ``guarded``: the
        variance of ``y`` may vanish.  The conditional variance of a bare sign may too; the rounding in it is that of
        the variances that went into it, which the sign carries on.
        """
        variance = cov[y][y]
        size = range(len(cov))
        shares = [self._let(share(cov[u][y], variance) if guarded else cov[u][y] / variance) for u in size]
        scales = dict(signs)
        own = scales.pop(y, None)
        if own != variance:  # otherwise nothing but y itself was conditioned on: the sum is twice the scale at most
            for u, scale in scales.items():
                if scale is not None:
                    scales[u] = self._let(scale + shares[u] ** 2 * (variance if own is None else own))
        rows = [[S.Zero] * len(cov) for _ in size]
        gaps = {}
        for u in size:
            for v in range(u, len(cov)):
                if y in (u, v):
                    continue
                value = cov[u][v] - shares[u] * cov[y][v]
                if guarded and u == v != relative:
                    # the same factor for u given y and for y given u: its rounding cancels between the two
                    back = self._let(share(cov[u][y], cov[u][u]))
                    better = self._let(cov[u][u] * self._let(1 - shares[u] * back))
                    gaps[u] = self._let((better - self._let(value)) / 2)
                    value = better
                elif guarded and u != v:
                    value = cov[u][v] - self._let((shares[u] * cov[y][v] + shares[v] * cov[y][u]) / 2)
                if u == v and scales.get(u) is not None:
                    value = clean(self._let(value), scales[u])
                rows[u][v] = rows[v][u] = self._let(value)
        for u, v in itertools.combinations([u for u in gaps if u in scales], 2):
            # where u and v coincide, so that their covariance has the very bits of their variances
            rows[u][v] = rows[v][u] = self._let(rows[u][v] + self._let(gaps[u] + gaps[v]))
        weight = self._let(density(variance) if guarded else 1 / sqrt(2 * pi * variance))
        return tuple(map(tuple, rows)), weight, tuple(scales.items())

    def _product(self, cov: Covariance, polynomials: Polynomials, signs: tuple[Sign, ...], wave: Wave) -> Expr:
        """Return the expectation of polynomials, signs and a wave."""
        weight = S.One
        open_ones = []
        for variable, polynomial in polynomials:
            if not polynomial:
                return S.Zero
            if len(polynomial) == 1:
                weight *= polynomial[0]
            else:
                open_ones.append((variable, polynomial))
        if wave.growth is None and _odd(open_ones, len(signs) + wave.sine):
            return S.Zero
        key = (cov, tuple(open_ones), signs, wave)
        if key not in self._memo:
            if not signs and wave == Wave():
                self._memo[key] = self._let(self._wick(cov, tuple(open_ones)))
            elif not open_ones:
                self._memo[key] = self._signs(cov, signs, wave)
            else:
                self._memo[key] = self._let(self._stein(cov, tuple(open_ones), signs, wave))
        return weight * self._memo[key]

    def _wick(self, cov: Covariance, polynomials: Polynomials) -> Expr:
        """Sum over the covariances of the last variable with the others; each power of the last pair appears once."""
        if not polynomials:
            return S.One
        *others, (last, polynomial) = polynomials
        moments = [self._let(_moment(derivative(polynomial, n), cov[last][last])) for n in range(len(polynomial))]
        if not others:
            return moments[0]
        partner = others[-1][0]
        by_power: list[list[Expr]] = [[] for _ in moments]
        for orders in itertools.product(*(range(len(f)) for _, f in others)):
            total = sum(orders)
            if total >= len(moments) or moments[total] == 0:
                continue
            rest = tuple((u, derivative(f, n)) for (u, f), n in zip(others, orders, strict=True))
            remainder = self._product(cov, rest, (), Wave())
            if remainder == 0:
                continue
            links = S.One
            for (u, _), n in zip(others[:-1], orders, strict=False):
                links *= cov[last][u] ** n
            factor = self._let(moments[total] * links / math.prod(map(math.factorial, orders)))
            by_power[orders[-1]].append(factor * remainder)
        result = S.Zero
        for terms in reversed(by_power):  # Horner's rule in the covariance of the last two variables
            result = result * cov[last][partner] + sympy.Add(*terms)
        return result

    def _stein(self, cov: Covariance, polynomials: Polynomials, signs: tuple[Sign, ...], wave: Wave) -> Expr:
        *others, (x, polynomial) = polynomials
        rest = polynomial[1:]  # polynomial = polynomial[0] + x · rest
        result = polynomial[0] * self._product(cov, tuple(others), signs, wave)
        stripped = (*others, (x, rest))
        result += cov[x][x] * self._product(cov, (*others, (x, derivative(rest))), signs, wave)
        for i, (u, f) in enumerate(others):
            changed = (*stripped[:i], (u, derivative(f)), *stripped[i + 1 :])
            result += cov[x][u] * self._product(cov, changed, signs, wave)
        for y, scale in signs:
            given, weight, left = self._condition(cov, y, wave.growth, guarded=scale is not None, signs=signs)
            result += cov[x][y] * 2 * weight * self._product(given, stripped, left, wave)
        if wave.growth is not None:
            result += cov[x][wave.growth] * self._product(cov, stripped, signs, wave)
        if wave.phase is not None:
            turn = cov[x][wave.phase] if wave.sine else -cov[x][wave.phase]
            result += turn * self._product(cov, stripped, signs, wave._replace(sine=not wave.sine))
        return result

    def _signs(self, cov: Covariance, signs: tuple[Sign, ...], wave: Wave) -> Expr:
        places = [y for y, _ in signs]
        if wave != Wave():
            return self._signs_beside(cov, places, wave)
        if len(signs) == 2:
            u, v = places
            coefficient, function = two_signs().as_independent(RHO, as_Add=False)
            if any(scale is not None for _, scale in signs):
                angle = signsign(cov[u][v], cov[u][u], cov[v][v])
            else:
                scales = [self._let(1 / sqrt(cov[w][w])) for w in places]
                angle = function.subs(RHO, cov[u][v] * scales[0] * scales[1])
            return coefficient * self._let(angle)
        if len(signs) == 4:
            pairs = itertools.combinations(places, 2)
            return self._let(foursigns(*(cov[u][v] for u, v in pairs), *(cov[u][u] for u in places)))
        raise NotClosed(f"the expectation of {len(signs)} signs has no closed form")

    def _signs_beside(self, cov: Covariance, places: list[int], wave: Wave) -> Expr:
        """E[e^{growth} cos or sin(phase) ∏ sign], of which growth keeps only what its variance has lost."""
        g, w = wave.growth, wave.phase
        exponent = (S.Zero if g is None else cov[g][g] / 2) - (S.Zero if w is None else cov[w][w] / 2)
        if not places:
            turn = S.Zero if g is None or w is None else cov[g][w]
            return self._let(sympy.exp(exponent) * (sympy.sin(turn) if wave.sine else sympy.cos(turn)))
        if len(places) > 3:
            raise NotClosed(f"the expectation of {len(places)} signs beside exp, sin or cos has no closed form")
        beside = [(kind, z) for kind, z in ((S.One, g), (S.NegativeOne, w)) if z is not None]
        if len(beside) > 1:
            raise NotClosed("an exponential and a wave beside signs have no closed form")
        ((kind, z),) = beside
        pairs = itertools.combinations(places, 2)
        function = (onesign, twosigns, threesigns)[len(places) - 1]
        entries = (*(cov[u][z] for u in places), *(cov[u][u] for u in places), *(cov[u][v] for u, v in pairs))
        return self._let(function(kind, self._let(exponent), *entries))


def _moment(polynomial: Polynomial, variance: Expr) -> Expr:
    """E[f(x)] for a polynomial f: Σ_k f_2k (2k−1)!! C^k."""
    return sum(
        (c * sympy.factorial2(n - 1) * variance ** (n // 2) for n, c in enumerate(polynomial) if n % 2 == 0), S.Zero
    )


def _real_and_imaginary(polynomial: Polynomial) -> tuple[Polynomial, Polynomial]:
    real, imaginary = zip(*(coefficient.as_real_imag() for coefficient in polynomial), strict=True)
    return trim(list(real)), trim(list(imaginary))


def _odd(polynomials: Sequence[tuple[int, Polynomial]], others: int) -> bool:
    """Whether x → −x changes the sign of the product of polynomials and some other odd functions."""
    parities = [_parities(polynomial) for _, polynomial in polynomials]
    if any(len(found) > 1 for found in parities):
        return False
    return (sum(next(iter(found)) for found in parities) + others) % 2 == 1


def _parities(polynomial: Polynomial) -> set[int]:
    return {n % 2 for n, coefficient in enumerate(polynomial) if coefficient != 0}
