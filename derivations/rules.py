"""The rules: from atoms and a covariance to a straight-line program for their Gaussian expectation.

Input
    One :class:`~.atoms.AtomSum` for each of the jointly Gaussian, centred variables x1, x2, ….
Output
    :class:`~.program.Program` for E[∏ f_i(x_i)] as a function of the covariance entries.

The rules, in the order in which they are applied to a product of atoms:

tilt
    exp(−αx²/2) is absorbed by a rank-one update of the covariance and a factor (1 + αC)^(−1/2).
shift
    exp(βx) moves the mean to βC; an imaginary β makes sines and cosines.
smooth
    erf(κx) = E sign(y), y = x + ξ with Var ξ = 1/(2κ²): the sign of a variable whose variance never vanishes.
Wick
    A product of polynomials is a finite sum over the off-diagonal covariances: by Price's theorem
    ∂/∂C_ij E[∏f] = E[∂_i∂_j ∏f], applied until the variables are independent.
Stein
    E[x g] = Σ_j C_xj E[∂_j g] strips one power of a polynomial that stands beside signs.
condition
    ∂ sign(y) = 2δ(y): a Schur complement and the density of y at zero.  The variance of a bare sign(x) can vanish,
    where variables coincide: a sign without direction averages to zero (see :mod:`.functions`).
signs
    E[sign(u) sign(v)] = (2/π) asin ρ, itself derived and certified by :func:`two_signs`; an odd number of signs
    vanishes by symmetry; four signs are Plackett's one-dimensional integral.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import cache
from typing import TypeAlias

import sympy
from sympy import Expr, Rational, S, Symbol, pi, sqrt

from .atoms import AtomSum, Kind, NotClosed, Polynomial, derivative, trim
from .functions import clean, density, foursigns, positive, share, signsign
from .program import Builder, Program, covariance_inputs, covariance_symbol

Covariance: TypeAlias = tuple[tuple[Expr, ...], ...]
Polynomials: TypeAlias = tuple[tuple[int, Polynomial], ...]  # (variable, its polynomial)
#: (variable, None) of a smoothed sign; of a bare one, whose variance can vanish, with the variance to compare with
Sign: TypeAlias = tuple[int, Expr | None]

RHO = Symbol("rho", real=True)


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
        total = S.Zero
        for choice in itertools.product(*(factor.terms for factor in factors)):
            total += self._atoms(cov, choice)
        return total

    def _let(self, expr: Expr) -> Expr:
        return self._builder.let(expr)

    def _atoms(self, cov: Covariance, choice: tuple[tuple[Kind, Polynomial], ...]) -> Expr:
        """Condition on every δ, tilt by Gaussians, shift by exponentials, make signs of every erf, and go on."""
        weight = S.One
        polynomials = [polynomial for _, polynomial in choice]
        for slot, (kind, polynomial) in enumerate(choice):
            if kind.delta:
                cov, factor = self._condition(cov, slot, guarded=True)
                weight *= factor
                polynomials[slot] = polynomial[:1]
        for slot, (kind, _) in enumerate(choice):
            if kind.alpha != 0:
                cov, factor = self._tilt(cov, slot, kind.alpha)
                weight *= factor
        if any(kind.beta != 0 for kind, _ in choice):
            return weight * self._shifted(cov, choice, polynomials)
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
        return weight * self._polynomials_and_signs(cov, tuple(enumerate(polynomials)), tuple(signs))

    def _shifted(
        self, cov: Covariance, choice: tuple[tuple[Kind, Polynomial], ...], polynomials: list[Polynomial]
    ) -> Expr:
        """Absorb exp(Σ β_u x_u), β = growth + i frequency, by a shift of the mean to C β; return the real part."""
        if any(kind.kappas or kind.sign for kind, _ in choice):
            raise NotClosed("a product of exp, sin or cos with erf or a kink has no closed form")
        slots = range(len(choice))
        growth, frequency = zip(*(kind.beta.as_real_imag() for kind, _ in choice), strict=True)
        pairs = list(itertools.product(slots, slots))
        size = sum(((growth[u] * growth[v] - frequency[u] * frequency[v]) * cov[u][v] / 2 for u, v in pairs), S.Zero)
        phase = sum((growth[u] * frequency[v] * cov[u][v] for u, v in pairs), S.Zero)
        modulus = self._let(sympy.exp(sympy.expand(size)))
        turn = {"cos": sympy.cos(sympy.expand(phase)), "sin": sympy.sin(sympy.expand(phase))}
        parts = []
        for u in slots:
            real, imaginary = (self._let(sum(b[v] * cov[u][v] for v in slots)) for b in (growth, frequency))
            parts.append(_complex_shift(polynomials[u], real, imaginary))
        real = imaginary = S.Zero
        for which in itertools.product((0, 1), repeat=len(parts)):
            value = self._polynomials_and_signs(cov, tuple((u, parts[u][w]) for u, w in enumerate(which)), ())
            factor = sympy.I ** sum(which) * value  # i for each imaginary part
            if sum(which) % 2:
                imaginary += factor / sympy.I
            else:
                real += factor
        return modulus * (real * self._let(turn["cos"]) - imaginary * self._let(turn["sin"]))

    def _tilt(self, cov: Covariance, slot: int, alpha: Expr) -> tuple[Covariance, Expr]:
        growth = self._let(1 + alpha * cov[slot][slot])
        size = range(len(cov))
        shares = [self._let(cov[u][slot] / growth) for u in size]  # = the updated covariances with ``slot`` itself
        rows = [[S.Zero] * len(cov) for _ in size]
        for u in size:
            for v in range(u, len(cov)):
                if slot in (u, v):
                    value = shares[v if u == slot else u]
                else:
                    value = self._let(cov[u][v] - alpha * shares[u] * cov[slot][v])
                    value = self._let(positive(value)) if u == v else value
                rows[u][v] = rows[v][u] = value
        return tuple(map(tuple, rows)), self._let(1 / sqrt(growth))

    def _extend(self, cov: Covariance, slot: int, variance: Expr) -> Covariance:
        """Add a variable that covaries with all others as ``slot`` does, with a variance of its own."""
        rows = [(*row, row[slot]) for row in cov]
        return (*rows, (*cov[slot], self._let(variance)))

    def _condition(
        self, cov: Covariance, y: int, *, guarded: bool, signs: tuple[Sign, ...] = ()
    ) -> tuple[Covariance, Expr]:
        """Return the covariance given that variable ``y`` is zero, and the density of ``y`` there.

        The row of ``y`` becomes zero.  ``guarded``: the variance of ``y`` may vanish; ``signs``: the variables whose
        conditional variance may, with the variances that it is to be compared with.
        """
        variance = cov[y][y]
        size = range(len(cov))
        shares = [self._let(share(cov[u][y], variance) if guarded else cov[u][y] / variance) for u in size]
        scales = dict(signs)
        rows = [[S.Zero] * len(cov) for _ in size]
        for u in size:
            for v in range(u, len(cov)):
                if y not in (u, v):
                    if guarded and u != v:  # the same bits whichever of two coincident variables stands first
                        value = cov[u][v] - self._let((shares[u] * cov[y][v] + shares[v] * cov[y][u]) / 2)
                    else:
                        value = cov[u][v] - shares[u] * cov[y][v]
                    if u == v and scales.get(u) is not None:
                        value = clean(self._let(value), scales[u])
                    rows[u][v] = rows[v][u] = self._let(value)
        return tuple(map(tuple, rows)), self._let(density(variance) if guarded else 1 / sqrt(2 * pi * variance))

    def _polynomials_and_signs(self, cov: Covariance, polynomials: Polynomials, signs: tuple[Sign, ...]) -> Expr:
        weight = S.One
        open_ones = []
        for variable, polynomial in polynomials:
            if not polynomial:
                return S.Zero
            if len(polynomial) == 1:
                weight *= polynomial[0]
            else:
                open_ones.append((variable, polynomial))
        if _odd(open_ones, signs):
            return S.Zero
        key = (cov, tuple(open_ones), signs)
        if key not in self._memo:
            if not signs:
                self._memo[key] = self._let(self._wick(cov, tuple(open_ones)))
            elif not open_ones:
                self._memo[key] = self._signs(cov, signs)
            else:
                self._memo[key] = self._let(self._stein(cov, tuple(open_ones), signs))
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
            remainder = self._polynomials_and_signs(cov, rest, ())
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

    def _stein(self, cov: Covariance, polynomials: Polynomials, signs: tuple[Sign, ...]) -> Expr:
        *others, (x, polynomial) = polynomials
        rest = polynomial[1:]  # polynomial = polynomial[0] + x · rest
        result = polynomial[0] * self._polynomials_and_signs(cov, tuple(others), signs)
        stripped = (*others, (x, rest))
        result += cov[x][x] * self._polynomials_and_signs(cov, (*others, (x, derivative(rest))), signs)
        for i, (u, f) in enumerate(others):
            changed = (*stripped[:i], (u, derivative(f)), *stripped[i + 1 :])
            result += cov[x][u] * self._polynomials_and_signs(cov, changed, signs)
        for y, scale in signs:
            left = tuple(sign for sign in signs if sign[0] != y)
            given, weight = self._condition(cov, y, guarded=scale is not None, signs=left)
            result += cov[x][y] * 2 * weight * self._polynomials_and_signs(given, stripped, left)
        return result

    def _signs(self, cov: Covariance, signs: tuple[Sign, ...]) -> Expr:
        places = [y for y, _ in signs]
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


def _moment(polynomial: Polynomial, variance: Expr) -> Expr:
    """E[f(x)] for a polynomial f: Σ_k f_2k (2k−1)!! C^k."""
    return sum(
        (c * sympy.factorial2(n - 1) * variance ** (n // 2) for n, c in enumerate(polynomial) if n % 2 == 0), S.Zero
    )


def _complex_shift(polynomial: Polynomial, real: Expr, imaginary: Expr) -> tuple[Polynomial, Polynomial]:
    """Return the real and imaginary parts of the coefficients of f(x + real + i imaginary)."""
    x = Symbol("x", real=True)
    shifted = sum((c * (x + real + sympy.I * imaginary) ** n for n, c in enumerate(polynomial)), S.Zero)
    coefficients = reversed(sympy.Poly(sympy.expand(shifted), x).all_coeffs())
    parts = [coefficient.as_real_imag() for coefficient in coefficients]
    return trim([part[0] for part in parts]), trim([part[1] for part in parts])


def _odd(polynomials: Sequence[tuple[int, Polynomial]], signs: tuple[Sign, ...]) -> bool:
    """Whether x → −x changes the sign of the product."""
    parities = [_parities(polynomial) for _, polynomial in polynomials]
    if any(len(found) > 1 for found in parities):
        return False
    return (sum(next(iter(found)) for found in parities) + len(signs)) % 2 == 1


def _parities(polynomial: Polynomial) -> set[int]:
    return {n % 2 for n, coefficient in enumerate(polynomial) if coefficient != 0}
