"""Print the noise of polynomial activations as bilinear forms instead of four nested sums.

Input
    The polynomials σ of the student and σ* of the teacher.
Output
    ``noise_I4`` for the noise file, see :mod:`.c_source`.

By Wick's theorem (Price's, used for each pair of variables until they are independent)

    E[σ'(u_j) σ'(u_l) φ(u_a) φ(u_b)] = Σ_n ∏_{x<y} C_xy^n_xy / n_xy! · ∏_x E[f_x^(r_x)(u_x)],   r_x = Σ_y n_xy,

over the numbers n_xy of contractions between the four variables.  With c = n_jl and s = n_ab the sum over a and b is a
bilinear form in the matrix K_s = C^s (entrywise) of the vectors with components

    X_a = v_a E[φ_a^(s + α + β)] C_ja^α C_la^β,   (α, β) = (n_ja, n_la) and Y_b likewise with (n_jb, n_lb).

A form whose vectors each know one student only is an entry of a product of matrices for all pairs at once; only forms
of which both vectors know both students need a double sum for each pair.  For the quadratic activation there is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import factorial

import sympy
from sympy import Expr, S, Symbol

from ..atoms import AtomSum, Polynomial, derivative
from .c_printer import CPrinter

#: with more forms the text takes a compiler too long, and the staged sum over units is nearly as fast
MOST_FORMS = 64

#: so many delta at once, as long as their sums stay in registers
MOST_ROWS, REGISTERS = 4, 24

Exponents = tuple[int, int]  # (α, β): powers of the covariances with j and with l
_VARIANCE = Symbol("variance", positive=True)


@dataclass(frozen=True)
class Form:
    """XᵀK_sY for one choice of (s, α, β, α', β'), with the sum over c of its factors in front."""

    s: int
    x: Exponents
    y: Exponents
    factors: tuple[tuple[Expr, int, int, int], ...]  # (number, c, r_j, r_l)


def polynomial(atoms: AtomSum) -> Polynomial | None:
    """Return the coefficients of a polynomial activation, None for any other."""
    return atoms.terms[0][1] if atoms.is_polynomial and atoms.terms else None


def mean(coefficients: Polynomial, order: int) -> Expr:
    """Return E[f^(order)(x)] as a polynomial in the variance of x."""
    total = S.Zero
    for n, c in enumerate(derivative(coefficients, order)):
        if n % 2 == 0:
            total += c * sympy.factorial2(n - 1) * _VARIANCE ** (n // 2)
    return sympy.expand(total)


def forms(student: Polynomial, teacher: Polynomial) -> list[Form]:
    """Return the bilinear forms of the noise, in order."""
    slope = derivative(student)
    top, degree = len(slope) - 1, max(len(student), len(teacher)) - 1
    outer = [mean(slope, r) != 0 for r in range(top + 1)]
    inner = [mean(student, r) != 0 or mean(teacher, r) != 0 for r in range(degree + 1)]
    found = []
    for s in range(degree + 1):
        exponents = [
            (alpha, beta)
            for alpha in range(min(top, degree - s) + 1)
            for beta in range(min(top, degree - s - alpha) + 1)
            if inner[s + alpha + beta]
        ]
        for place, x in enumerate(exponents):
            for y in exponents[: place + 1]:
                terms = tuple(_factors(s, x, y, outer))
                if terms:
                    found.append(Form(s, x, y, terms))
    return found


def _factors(s: int, x: Exponents, y: Exponents, outer: list[bool]) -> Iterator[tuple[Expr, int, int, int]]:
    ways = sympy.Integer(1 if x == y else 2)
    for n in (s, *x, *y):
        ways /= factorial(n)
    for c in range(len(outer)):
        r_j, r_l = c + x[0] + y[0], c + x[1] + y[1]
        if max(r_j, r_l) < len(outer) and outer[r_j] and outer[r_l]:
            yield ways / factorial(c), c, r_j, r_l


def _power(base: str, exponent: int) -> list[str]:
    return [base] * exponent


def _product(factors: list[str]) -> str:
    return "*".join(factors) or "1.0"


def _knows(x: Exponents) -> str:
    """Return the students that a vector knows: '', j, l or jl."""
    return ("j" if x[0] else "") + ("l" if x[1] else "")


@dataclass(frozen=True)
class _Dot:
    """Σ_a of a product: the factors that know j, and all the others, each with {e} for the place of its student."""

    first: tuple[str, ...]
    second: tuple[str, ...]


_Factors = tuple[tuple[Expr, int, int, int], ...]


@dataclass
class _Emitter:
    """Collects what the forms need; each dictionary maps a key to the name of a table or number."""

    numbers: dict[tuple[int, bool], str] = field(default_factory=dict)  # (s, with K): over units alone
    units: dict[int, str] = field(default_factory=dict)  # s: K_s applied to the vector that knows no student
    moved: dict[tuple[int, int], str] = field(default_factory=dict)  # (s, α): K_s applied to one that knows one
    single: dict[str, str] = field(default_factory=dict)  # text of the summand: one entry for each student
    dots: dict[_Dot, str] = field(default_factory=dict)  # one for each pair
    tables: dict[str, str] = field(default_factory=dict)  # text of what knows l, for a unit and a student
    pairs: dict[tuple[int, Exponents], str] = field(default_factory=dict)  # vectors that know both students
    doubles: dict[tuple[int, Exponents, Exponents], str] = field(default_factory=dict)

    def form(self, form: Form) -> list[str | _Dot]:
        """Return the parts whose product is the form."""
        s = form.s
        if s == 0:
            return [self._sum(s, form.x, []), self._sum(s, form.y, [])]
        x, y = sorted((form.x, form.y), key=lambda e: len(_knows(e)), reverse=True)
        if not _knows(y):
            name = self.units.setdefault(s, f"Y{s}")
            return [self._sum(s, x, [(f"{name}[a]", "")])]
        if len(_knows(y)) == 1:
            power = max(y)
            name = self.moved.setdefault((s, power), f"Z{s}_{power}")
            return [self._sum(s, x, [(name, _knows(y))])]
        for vector in (x, y):
            self.pairs.setdefault((s, vector), f"X{s}_{vector[0]}{vector[1]}")
        return [f"{self.doubles.setdefault((s, x, y), f'D{len(self.doubles)}')}[i]"]

    def _sum(self, s: int, x: Exponents, others: list[tuple[str, str]]) -> str | _Dot:
        """Return Σ_a X_a · ∏ others, where each of the others is a table and the student that it knows."""
        students = "".join(sorted(set(_knows(x)).union(*(student for _, student in others))))
        if not students:
            return self.numbers.setdefault((s, bool(others)), f"G{s}{'K' if others else ''}")
        known: dict[str, list[str]] = {"": [f"g{s + sum(x)}[a]"], "j": [], "l": []}
        for name, student in others:
            known[student].append(name if not student else f"{name}[a*stride + {{e}}]")
        for student, exponent in zip("jl", x, strict=True):
            known[student] += _power("S[a*stride + {e}]", exponent)
        if len(students) == 1:
            summand = _product(known[""] + known[students]).format(e="e")
            return f"{self.single.setdefault(summand, f'R{len(self.single)}')}[{students} + i]"
        return _Dot(tuple(known["j"]), tuple(known[""] + known["l"]))

    def dot(self, first: tuple[str, ...], second: str) -> str:
        """Return the sum over units of the factors that know j times a table of what knows l."""
        table = self.tables.setdefault(second.format(e="e"), f"U{len(self.tables)}")
        return f"{self.dots.setdefault(_Dot(first, (f'{table}[a*stride + {{e}}]',)), f'F{len(self.dots)}')}[r][i]"


def _values(emitter: _Emitter, found: list[Form]) -> list[tuple[str, _Factors]]:
    """Return what stands before the same factors, in order.

    Sums over units that differ only in what knows l are one sum, of the table that adds these.
    """
    merged: dict[tuple[tuple[str, ...], _Factors], list[str]] = {}
    others: list[tuple[str, _Factors]] = []
    for form in found:
        parts = emitter.form(form)
        dots = [part for part in parts if isinstance(part, _Dot)]
        rest = [part for part in parts if isinstance(part, str)]
        if len(dots) == 1 and all(part in emitter.numbers.values() for part in rest):
            scale = form.factors[0][0]
            factors = tuple((number / scale, *powers) for number, *powers in form.factors)
            number = [] if scale == 1 else [repr(float(scale))]
            merged.setdefault((dots[0].first, factors), []).append(_product([*number, *rest, *dots[0].second]))
        else:
            texts = [
                part if isinstance(part, str) else emitter.dot(part.first, _product([*part.second])) for part in parts
            ]
            others.append((_product(texts), form.factors))
    return others + [(emitter.dot(first, " + ".join(seconds)), factors) for (first, factors), seconds in merged.items()]


def block(student: Polynomial, teacher: Polynomial, found: list[Form], unpack: str) -> tuple[str, str]:
    """Return the C text of ``noise_I4`` after the lines ``unpack``, and the size of its memory."""
    emitter = _Emitter()
    values = _values(emitter, found)
    orders = sorted({form.s + sum(x) for form in found for x in (form.x, form.y)})
    slopes = sorted({r for form in found for _, _, r_j, r_l in form.factors for r in (r_j, r_l)})
    powers = sorted({form.s for form in found if form.s > 1})
    weights = sorted({s for s, x, y in emitter.doubles if x == y})
    names = [(f"h{r}", "stride") for r in slopes]
    names += [(name, "n*stride") for name in (*emitter.moved.values(), *(["V"] if emitter.moved else []))]
    names += [(name, "n*stride") for name in emitter.tables.values()]
    names += [(name, "stride") for name in emitter.single.values()]
    names += [(name, "n*LANES") for name in emitter.pairs.values()]
    names += [(f"g{r}", "n") for r in orders] + [(name, "n") for name in emitter.units.values()]
    names += [(f"K{s}", "n*n") for s in powers] + [(f"T{s}", "n*n") for s in weights]
    text = unpack + "\n"
    for name, size in names:
        text += f"    double *const {name} = work;\n    work += {size};\n"
    text += "    (void)work; (void)S; (void)own; (void)stride;\n"

    def polynomial_in(place: str, coefficients: Polynomial, order: int) -> str:
        return str(CPrinter({_VARIANCE: place}).doprint(mean(coefficients, order)))

    text += (
        "    for (long a = 0; a < n; a++) {\n        const double variance = C[a*(n + 1)];\n        (void)variance;\n"
    )
    for r in orders:
        own, other = (polynomial_in("variance", f, r) for f in (student, teacher))
        text += f"        g{r}[a] = v[a]*({own if own == other else f'a < p ? {own} : {other}'});\n"
    text += "    }\n"
    text += "    for (long e = 0; e < stride; e++) {\n"
    for r in slopes:
        text += f"        h{r}[e] = {polynomial_in('own[e]', derivative(student), r)};\n"
    text += "    }\n"
    if powers:
        text += "    for (long a = 0; a < n*n; a++) {\n"
        text += "".join(f"        K{s}[a] = {_product(_power('C[a]', s))};\n" for s in powers) + "    }\n"
    if weights:
        text += "    for (long a = 0; a < n; a++)\n        for (long b = a; b < n; b++) {\n"
        text += "".join(f"            T{s}[a*n + b] = (a == b ? 1.0 : 2.0)*{_matrix(s)}[a*n + b];\n" for s in weights)
        text += "        }\n"
    text += "".join(_unit_vector(s, name) for s, name in emitter.units.items())
    for (s, with_matrix), name in emitter.numbers.items():
        text += f"    double {name} = 0.0;\n#pragma omp simd reduction(+ : {name})\n"
        text += f"    for (long a = 0; a < n; a++) {name} += g{s}[a]"
        text += f"*{emitter.units[s]}[a];\n" if with_matrix else ";\n"
    text += "".join(_moved(s, power, name) for (s, power), name in emitter.moved.items())
    text += _singles(emitter)
    text += _tables(emitter)
    return text + _over_pairs(emitter, values), " + ".join(size for _, size in names) or "0"


def _matrix(s: int) -> str:
    return "C" if s == 1 else f"K{s}"


def _unit_vector(s: int, name: str) -> str:
    return f"""    for (long a = 0; a < n; a++) {{
        double sum = 0.0;
#pragma omp simd reduction(+ : sum)
        for (long b = 0; b < n; b++) sum += {_matrix(s)}[a*n + b]*g{s}[b];
        {name}[a] = sum;
    }}
"""


def _moved(s: int, power: int, name: str) -> str:
    value = _product([f"g{s + power}[b]", *_power("S[b*stride + e]", power)])
    return f"""    for (long b = 0; b < n; b++)
#pragma omp simd
        for (long e = 0; e < o->span; e++) V[b*stride + e] = {value};
    product(o, {_matrix(s)}, V, {name});
"""


def _singles(emitter: _Emitter) -> str:
    if not emitter.single:
        return ""
    text = "    for (long e = 0; e < stride; e++) {\n"
    text += "".join(f"        {name}[e] = 0.0;\n" for name in emitter.single.values()) + "    }\n"
    text += "    for (long a = 0; a < n; a++)\n#pragma omp simd\n        for (long e = 0; e < stride; e++) {\n"
    text += "".join(f"            {name}[e] += {summand};\n" for summand, name in emitter.single.items())
    return text + "        }\n"


def _tables(emitter: _Emitter) -> str:
    if not emitter.tables:
        return ""
    text = "    for (long a = 0; a < n; a++)\n#pragma omp simd\n        for (long e = 0; e < stride; e++) {\n"
    text += "".join(f"            {name}[a*stride + e] = {value};\n" for value, name in emitter.tables.items())
    return text + "        }\n"


def _over_pairs(emitter: _Emitter, values: list[tuple[str, _Factors]]) -> str:
    """Return the loop over pairs, for several delta at a time: they share what is read of j.

    A delta that is not there is computed as a copy of the last one.
    """
    rows = 1 if emitter.pairs else max(1, min(MOST_ROWS, REGISTERS // max(1, len(emitter.dots))))
    text = f"    for (long delta = 0; delta <= p/2; delta += {rows})\n    for (long j = 0; j < p; j += LANES) {{\n"
    for r in range(rows):
        step = "" if r == 0 else f" + (p/2 - delta < {r} ? p/2 - delta : {r})"
        text += f"        const long d{r} = delta{step}, l{r} = j + d{r};\n"
    arrays = [f"{name}_{r}" for name in emitter.dots.values() for r in range(rows)] + [*emitter.doubles.values()]
    if arrays:
        text += f"        double {', '.join(f'{name}[LANES] = {{0.0}}' for name in arrays)};\n"
    each = []
    for number, (dot, name) in enumerate(emitter.dots.items()):
        each.append(f"const double at{number} = {_product(list(dot.first)).format(e='j + i')};")
        for r in range(rows):
            table = dot.second[0].format(e=f"l{r} + i")
            each.append(f"{name}_{r}[i] = FMA(at{number}, {table}, {name}_{r}[i]);")
    for (s, x), name in emitter.pairs.items():
        powers = [*_power("S[a*stride + j + i]", x[0]), *_power("S[a*stride + l0 + i]", x[1])]
        each.append(f"{name}[a*LANES + i] = {_product([f'g{s + sum(x)}[a]', *powers])};")
    if each:
        text += (
            "        for (long a = 0; a < n; a++)\n#pragma omp simd\n            for (int i = 0; i < LANES; i++) {\n"
        )
        text += "".join(f"                {line}\n" for line in each) + "            }\n"
    for (s, x, y), name in emitter.doubles.items():
        first, matrix = ("a", f"T{s}") if x == y else ("0", _matrix(s))
        text += f"""        for (long a = 0; a < n; a++) {{
            double sum[LANES] = {{0.0}};
            for (long b = {first}; b < n; b++)
#pragma omp simd
                for (int i = 0; i < LANES; i++)
                    sum[i] = FMA({matrix}[a*n + b], {emitter.pairs[s, y]}[b*LANES + i], sum[i]);
#pragma omp simd
            for (int i = 0; i < LANES; i++) {name}[i] = FMA({emitter.pairs[s, x]}[a*LANES + i], sum[i], {name}[i]);
        }}
"""
    for name in emitter.dots.values():
        text += f"        double {name}[{rows}][LANES];\n"
        for r in range(rows):
            text += f"        for (int i = 0; i < LANES; i++) {name}[{r}][i] = {name}_{r}[i];\n"
    text += f"        for (long r = 0; r < {rows} && delta + r <= p/2; r++) {{\n"
    text += "            const long l = j + delta + r;\n"
    text += "            const double *const cross = o->cross + (delta + r)*o->span + j;\n"
    text += "            double *const total = sums + (delta + r)*o->span + j;\n            (void)l; (void)cross;\n"
    text += "#pragma omp simd\n            for (int i = 0; i < LANES; i++) {\n                double sum = 0.0;\n"
    for value, factors in values:
        terms = []
        for number, c, r_j, r_l in factors:
            factor = [] if number == 1 else [repr(float(number))]
            terms.append(_product([*factor, *_power("cross[i]", c), f"h{r_j}[j + i]", f"h{r_l}[l + i]"]))
        text += f"                sum += {value}*({' + '.join(terms)});\n"
    return text + "                total[i] += sum;\n            }\n        }\n    }\n}\n"
