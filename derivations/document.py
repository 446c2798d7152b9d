"""The derived formulas as a document, in the notation of the papers.

Input
    The formulas of student and teacher.
Output
    :func:`document`: the expectations, written out where they are short and otherwise with their intermediate values,
    and the right-hand sides of the equations for M and Q; of quadratic activations in matrix form, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import sympy
from sympy import Expr, Symbol

from . import waves
from .functions import FUNCTIONS, clean, density, positive, share, signsign
from .kernels import FACTORS, KernelPrograms
from .mixture import MixedPrograms, needs_mixture, of_formula
from .parse import to_sympy, variable
from .program import Program, covariance_symbol
from .quadratic import Blocks, MatrixForm, matrix_form, moment, weight
from .typeset import COLUMNS, LINE, Equation, Section, equation, latex, markdown, signed, tex, text, width

STYLES = ("text", "markdown", "latex")

_INLINE = 100  # a program of more operations is not simplified into one expression
_SHORT = 48  # nor shown as one, if it stays longer than this
_READABLE = 30  # a two-point function with more operations is not written out in the equations of motion
_SMALL = 12  # an intermediate value that is used once, and that short, is put where it is used


def document(student: str, teacher: str, style: str = "text") -> str:
    """Return the derived formulas of a pair.

    A tanh is shown as the error functions that stand in for it, with the expectations of their base function.

    Parameters
    ----------
    student, teacher : str
        Formulas.
    style : {"text", "markdown", "latex"}
        ``latex`` is a document that compiles on its own.

    Raises
    ------
    NotClosed
        If an expectation has no closed form.
    """
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}: choose one of {', '.join(STYLES)}")
    sections: list[Section] = []
    if needs_mixture(student) or needs_mixture(teacher):
        sections += [_mixture(formula) for formula in dict.fromkeys((student, teacher)) if needs_mixture(formula)]
        programs = MixedPrograms(student, teacher).base
    else:
        programs = KernelPrograms(student, teacher)
    sections += [*_expectations(programs), _equations_of_motion(programs)]
    form = matrix_form(programs.student, programs.teacher)
    if form is not None:
        sections.append(_matrix(form))
    if style == "latex":
        return latex(f"Gaussian expectations of {_pair_tex(student, teacher)}", sections)
    title = f"Student σ(x) = {student}" + ("" if student == teacher else f", teacher σ*(x) = {teacher}")
    return text(title, sections) if style == "text" else markdown(title, sections)


def formula_tex(formula: str) -> str:
    """Return the LaTeX of a formula."""
    return tex(to_sympy(formula))


def _pair_tex(student: str, teacher: str) -> str:
    pair = rf"$\sigma(x) = {formula_tex(student)}$"
    return pair if student == teacher else rf"{pair} and $\sigma_*(x) = {formula_tex(teacher)}$"


def _section(title: str, lead: str, equations: Iterable[Equation]) -> Section:
    return Section(title, title.replace("_", r"\_"), lead, tuple(equations))


def _mixture(formula: str) -> Section:
    """The terms that replace a tanh."""
    x = variable()
    mixture = of_formula(formula)
    base = to_sympy(mixture.base)
    terms = [
        sympy.Float(weight, 10) * base.subs(x, sympy.Float(scale, 10) * x).evalf(10) for weight, scale in mixture.terms
    ]
    lead = (
        f"{formula} has no closed expectations: this mixture stands in for it, off by at most {mixture.error:.1e}. "
        "Its expectations are sums of those below, of its terms, at covariances scaled by the product of their scales."
    )
    return _section("Mixture", lead, [Equation("σ(x)", r"\sigma(x)", signed(map(str, terms)), signed(map(tex, terms)))])


_VARIABLES = "x1, x2, … are Gaussian with mean zero; C11, C12, … are their covariances."
_HELPERS = {
    "foursigns": "foursigns(c12, c13, c14, c23, c24, c34, v1, v2, v3, v4) is E[sign y1 sign y2 sign y3 sign y4] of "
    "Gaussian variables with these covariances and variances: Plackett's one-dimensional integral.",
    "twosigns": "twosigns(s, E, c1, c2, v1, v2, c12) is E[exp(z) sign y1 sign y2] for s = 1, and that of cos z for "
    "s = -1, where z is Gaussian of variance 2E in the one case and -2E in the other, with covariances c1, c2.",
    "threesigns": "threesigns(s, E, c1, c2, c3, v1, v2, v3, c12, c13, c23) is the same with three signs, and sin z.",
}


def _expectations(programs: KernelPrograms) -> Iterator[Section]:
    blocks = programs.blocks()
    short, long, used = [], [], set()
    for name, program in programs.expectations.items():
        left, left_tex = _mean(programs, name, blocks[name])
        readable = _readable(program)
        used |= {call.func.__name__ for call in _calls(readable)}
        value = inline(readable)
        if value is not None:
            short.append(equation(f"{name} = {left}", left_tex, value))
        else:
            lets = [equation(t.name, f"h_{{{t.name[1:]}}}", expr) for t, expr in readable.lets]
            long.append((name, left, left_tex, [*lets, equation(name, left_tex, readable.result)]))
    lead = " ".join([_VARIABLES, *(sentence for name, sentence in _HELPERS.items() if name in used)])
    yield Section("Expectations", "Expectations", lead, tuple(short))
    for name, left, left_tex, equations in long:
        yield Section(f"{name} = {left}", f"{name.replace('_', chr(92) + '_')}: ${left_tex}$", "", tuple(equations))


def _mean(programs: KernelPrograms, name: str, letters: tuple[str, ...]) -> tuple[str, str]:
    """An expectation in the notation of the papers."""
    factors, factors_tex = [], []
    for slot, (order, letter) in enumerate(zip(FACTORS[name[:2]], letters, strict=True), start=1):
        star = "*" if letter == "t" and not programs.matched else ""
        prime = "'" * (order or 0)
        factors.append(f"x{slot}" if order is None else f"σ{star}{prime}(x{slot})")
        head = rf"\sigma_*{prime}" if star else rf"\sigma{prime}"
        factors_tex.append(f"x_{slot}" if order is None else f"{head}(x_{slot})")
    return f"E[{' '.join(factors)}]", rf"\mathbb{{E}}[{' '.join(factors_tex)}]"


def _calls(program: Program) -> set[Expr]:
    return {call for expr in (program.result, *(e for _, e in program.lets)) for call in expr.atoms(*FUNCTIONS)}


def _plain(expr: Expr) -> Expr:
    """Return an expression without the guards against rounding and vanishing variances, which no formula shows."""
    for function, meaning in (
        (positive, lambda v: v),
        (clean, lambda v, _: v),
        (share, lambda c, v: c / v),
        (density, lambda v: 1 / sympy.sqrt(2 * sympy.pi * v)),
        (signsign, lambda c, u, v: sympy.asin(c / (sympy.sqrt(u) * sympy.sqrt(v)))),
        (waves.scaled, lambda h, s: s * sympy.exp(h)),
        (
            waves.onesign,
            lambda kind, E, c, v: sympy.exp(E) * (sympy.erf if kind > 0 else sympy.erfi)(c / sympy.sqrt(2 * v)),
        ),
    ):
        expr = expr.replace(function, meaning)
    return expr


def _readable(program: Program) -> Program:
    """Return the program without guards, and without lets that are short and used once."""
    lets = [(target, _plain(expr)) for target, expr in program.lets]
    result = _plain(program.result)
    uses: dict[Symbol, int] = {}
    for expr in (result, *(expr for _, expr in lets)):
        for node in sympy.preorder_traversal(expr):
            if node.is_Symbol:
                uses[node] = uses.get(node, 0) + 1
    known: dict[Symbol, Expr] = {}
    same: dict[Expr, Symbol] = {}  # lets that differed in their guards only
    kept = []
    for target, expr in lets:
        expr = expr.xreplace(known)
        size = expr.count_ops()
        if expr in same:
            known[target] = same[expr]
            uses[same[expr]] += uses.get(target, 0)
        elif size <= 1 or (uses.get(target, 0) == 1 and size <= _SMALL):
            known[target] = expr
        else:
            same[expr] = target
            kept.append((target, expr))
    broken: list[tuple[Symbol, Expr]] = []
    for target, expr in kept:
        broken.append((target, _fit(expr, broken)))
    result = _fit(result.xreplace(known), broken)
    fresh = {target: Symbol(f"t{n}", real=True) for n, (target, _) in enumerate(broken)}
    lets = [(fresh[target], expr.xreplace(fresh)) for target, expr in broken]
    return Program(program.name, program.inputs, tuple(lets), result.xreplace(fresh))


def _fit(expr: Expr, lets: list[tuple[Symbol, Expr]]) -> Expr:
    """Return a sum none of whose terms is wider than a line: sums within such terms become lets of their own."""

    def narrow(term: Expr) -> Expr:
        while width(tex(term)) > LINE - 20 or len(str(term)) > COLUMNS - 20:
            inner = [node for node in sympy.preorder_traversal(term) if node.is_Add and node != term]
            if not inner:
                break
            longest = max(inner, key=lambda node: (node.count_ops(), sympy.default_sort_key(node)))
            target = sympy.Dummy(f"t{len(lets)}", real=True)
            lets.append((target, _fit(longest, lets)))
            term = term.xreplace({longest: target})
        return term

    return sympy.Add(*map(narrow, sympy.Add.make_args(expr)))


def inline(program: Program) -> Expr | None:
    """Return a program as one expression, or None if that is not short."""
    if len(program.inputs) > 6 or _calls(program) or program.operations > _INLINE:
        return None
    known: dict[Symbol, Expr] = {}
    for target, expr in program.lets:
        known[target] = expr.xreplace(known)
    value = program.result.xreplace(known)
    if value.count_ops() > _INLINE:
        return None
    value = sympy.factor_terms(sympy.simplify(value))
    return value if value.count_ops() <= _SHORT and width(tex(value)) < LINE - 20 else None


def _equations_of_motion(programs: KernelPrograms) -> Section:
    """The drift by Stein's lemma, with its two-point functions written out, and risk and noise as sums."""
    lead = (
        "Time is t = νγ/(pd); m runs over students and s over teachers, b and c over all units, of weights v = (-a/p, "
        "a*/k) and activations φ; (j ↔ l) is the term before it with j and l exchanged."
    )
    two, four = r"\mathbb{E}[\varphi_b(u_b)\varphi_c(u_c)]", r"\mathbb{E}[\sigma'(u_j)\sigma'(u_l)"
    rest = r"\sigma'(u_j)\sigma'(u_l)]"
    tail, tail_tex = "+ (j ↔ l) + (γ/p) a_j a_l N_jl", r"+ (j \leftrightarrow l) + \frac{\gamma}{p} a_j a_l N_{jl}"
    equations = (
        Equation("risk", "R", ("(1/2) Σ_bc v_b v_c I2(b, c)",), (rf"\frac12 \sum_{{b,c}} v_b v_c \, {two}",)),
        _gradient(programs, "dM_jr/dt", r"\frac{dM_{jr}}{dt}", ("", "")),
        _gradient(programs, "dQ_jl/dt", r"\frac{dQ_{jl}}{dt}", (tail, tail_tex)),
        Equation(
            "N_jl",
            "N_{jl}",
            ("Σ_bc v_b v_c I4(j, l, b, c)", "+ Δ J2(j, l)"),
            (
                rf"\sum_{{b,c}} v_b v_c \, {four}\varphi_b(u_b)\varphi_c(u_c)]",
                rf"+ \Delta \, \mathbb{{E}}[{rest}",
            ),
        ),
    )
    return _section("Equations of motion", lead, equations)


def _gradient(programs: KernelPrograms, left: str, left_tex: str, tail: tuple[str, str]) -> Equation:
    """G_jb over teachers s and over students m; b is teacher r or student l."""
    teachers, students = _summands(programs, teacher=left.startswith("dM"))
    parts = (f"a_j Σ_s (a*_s/k) [{teachers}]", f"- a_j Σ_m (a_m/p) [{students}]")
    parts_tex = (
        rf"a_j \sum_{{s=1}}^k \frac{{a^*_s}}{{k}} \left({tex(teachers)}\right)",
        rf"- a_j \sum_{{m=1}}^p \frac{{a_m}}{{p}} \left({tex(students)}\right)",
    )
    if tail[0]:
        parts, parts_tex = (*parts, tail[0]), (*parts_tex, tail[1])
    return Equation(left, left_tex, parts, parts_tex)


def _summands(programs: KernelPrograms, *, teacher: bool) -> tuple[Expr, Expr]:
    """Return the summands of G_jb for a teacher and for a student."""

    def overlap(name: str) -> Symbol:
        diagonal = name[-1] == name[-2]
        return Symbol(name, positive=True) if diagonal else Symbol(name, real=True)

    own = overlap("M_jr") if teacher else overlap("Q_jl")
    results = []
    for block, mine, theirs, other in (
        ("st", overlap("M_js"), overlap("P_ss"), overlap("P_sr") if teacher else overlap("M_ls")),
        ("ss", overlap("Q_jm"), overlap("Q_mm"), overlap("M_mr") if teacher else overlap("Q_ml")),
    ):
        entries = (covariance_symbol(1, 1), covariance_symbol(1, 2), covariance_symbol(2, 2))
        places = dict(zip(entries, (overlap("Q_jj"), mine, theirs), strict=True))
        suffix = "" if programs.matched else f"_{block}"
        second, first = (_two_point(programs, name + suffix, places) for name in ("K2", "J2"))
        results.append(second * own + first * other)
    return results[0], results[1]


def _two_point(programs: KernelPrograms, name: str, places: dict[Symbol, Symbol]) -> Expr:
    """Return a two-point function at given overlaps: written out if short, otherwise by its name."""
    value = inline(_readable(programs.expectations[name]))
    if value is not None and value.count_ops() <= _READABLE:
        return value.subs(places)
    head, _, block = name.partition("_")
    return sympy.Function(f"{head}_{block}" if block else head, real=True)(*places.values())


# The matrix form of quadratic activations

_MATRIX_LEAD = (
    "With a = a* = 1 the error is, apart from the label noise, a quadratic form e = uᵀAu + c of the fields "
    "u = (λ, λ*), with A diagonal and Ω the covariance of u; τ_n = tr (ΩA)ⁿ, and c joins τ_1."
)


def _matrix(form: MatrixForm) -> Section:
    student, teacher = form.slope / 2, form.teacher[0]
    p, k = sympy.symbols("p k", positive=True)
    equations = [
        Equation(
            "A",
            r"\operatorname{diag} A",
            (f"diag({-student / p} for students, {teacher / k} for teachers)",),
            (rf"\Bigl({tex(-student / p)} \text{{ (students)}}, {tex(teacher / k)} \text{{ (teachers)}}\Bigr)",),
        ),
        _blocks_equation("τ_1", r"\tau_1", form.trace(1), trace=True, constant=form.constant),
        _blocks_equation("τ_2", r"\tau_2", form.trace(2), trace=True),
        Equation("risk", "R", (_named(weight(2) / 2),), (_named_tex(weight(2) / 2),)),
        _combined("dM/dt", r"\frac{dM}{dt}", form, form.slope, moment(1), "t"),
        _combined("dQ/dt", r"\frac{dQ}{dt}", form, 2 * form.slope, moment(1), "s", "(γ/p) N", r"\frac{\gamma}{p} N"),
        _combined("N", "N", form, form.slope**2, (moment(2)[0] + Symbol("Delta"), *moment(2)[1:]), "s"),
    ]
    return _section("Matrix form", _MATRIX_LEAD, equations)


def _combined(
    left: str,
    left_tex: str,
    form: MatrixForm,
    factor: Expr,
    coefficients: Iterable[Expr],
    last: str,
    more: str = "",
    more_tex: str = "",
) -> Equation:
    """Σ_n factor · coefficient_n · (block of Ω(AΩ)ⁿ between students and students or teachers)."""
    terms, terms_tex = [], []
    for n, coefficient in enumerate(coefficients):
        blocks, blocks_tex = _sum(form.power("s", last, n))
        scale = sympy.factor(factor * coefficient)
        bare = n == 0
        terms.append(f"{_bracketed(scale)} {blocks if bare else f'({blocks})'}")
        inner = blocks_tex if bare else rf"\Bigl({blocks_tex}\Bigr)"
        terms_tex.append(f"{_bracketed_tex(scale)} {inner}")
    if more:
        terms.append(more)
        terms_tex.append(more_tex)
    return Equation(left, left_tex, signed(terms), signed(terms_tex))


def _bracketed(scale: Expr) -> str:
    return f"({_named(scale)})" if scale.is_Add else _named(scale)


def _named(expr: Expr) -> str:
    return str(expr).replace("tau_", "τ_").replace("Delta", "Δ")


def _bracketed_tex(scale: Expr) -> str:
    found = _named_tex(scale)
    return rf"\left({found}\right)" if scale.is_Add else found


def _named_tex(expr: Expr) -> str:
    return tex(expr).replace("tau_", r"\tau_")


def _blocks_equation(
    left: str, left_tex: str, blocks: Blocks, *, trace: bool, constant: Expr = sympy.S.Zero
) -> Equation:
    terms, terms_tex = zip(*_terms(blocks, trace=trace), strict=True)
    if constant != 0:
        terms, terms_tex = (*terms, str(constant)), (*terms_tex, tex(constant))
    return Equation(left, left_tex, signed(terms), signed(terms_tex))


def _sum(blocks: Blocks) -> tuple[str, str]:
    terms, terms_tex = zip(*_terms(blocks, trace=False), strict=True)
    return " ".join(signed(terms)), " ".join(signed(terms_tex))


def _terms(blocks: Blocks, *, trace: bool) -> Iterator[tuple[str, str]]:
    """Each product of blocks over its denominator, with positive terms first."""
    for word, coefficient in sorted(blocks.items(), key=lambda item: item[1].could_extract_minus_sign()):
        above, below = coefficient.as_numer_denom()
        sign = "-" if above.is_negative else ""
        above = abs(above)
        product = " ".join("Mᵀ" if block == "M'" else block for block in word)
        product_tex = " ".join(r"M^{\top}" if block == "M'" else block for block in word)
        if trace:
            product, product_tex = f"tr({product})", rf"\operatorname{{tr}}({product_tex})"
        if above != 1:
            product, product_tex = f"{above} {product}", f"{tex(above)} {product_tex}"
        if below != 1:
            shown = f"({below})" if below.is_Mul else str(below)
            product, product_tex = f"{product}/{shown}", rf"\frac{{{product_tex}}}{{{tex(below)}}}"
        yield sign + product, sign + product_tex
