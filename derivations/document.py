"""Show derived formulas: as plain text, Markdown or a LaTeX document, in the notation of the papers.

Input
    :class:`~.kernels.KernelPrograms`.
Output
    :func:`document`: the expectations with their lets, and the right-hand sides of the equations for M and Q with the
    two-point functions written out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import sympy
from sympy import Expr, Symbol

from .functions import clean, positive
from .kernels import FACTORS, KernelPrograms
from .mixture import MixedPrograms, needs_mixture, of_formula
from .parse import to_sympy, variable
from .program import Program, covariance_symbol

STYLES = ("text", "markdown", "latex")

#: a two-point function with more operations is not written out in the equations of motion
_READABLE = 24
#: a program with at most this many lets is shown as one expression
_SHORT = 6


@dataclass(frozen=True)
class Equation:
    """One line: left-hand sides, templates of the right-hand side, and what fills the templates."""

    text: str
    latex: str
    values: tuple[Expr, ...]
    text_template: str = "{0}"
    latex_template: str = "{0}"


@dataclass(frozen=True)
class Section:
    """A titled list of equations, with a sentence before them."""

    title: str
    lead: str
    equations: tuple[Equation, ...]


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
    sections: list[Section] = []
    if needs_mixture(student) or needs_mixture(teacher):
        sections += [_mixture(formula) for formula in dict.fromkeys((student, teacher)) if needs_mixture(formula)]
        programs = MixedPrograms(student, teacher).base
    else:
        programs = KernelPrograms(student, teacher)
    sections += [*_expectations(programs), *_equations_of_motion(programs)]
    title = f"Student σ(x) = {programs.student}" + ("" if programs.matched else f", teacher σ*(x) = {programs.teacher}")
    match style:
        case "text":
            return _text(title, sections)
        case "markdown":
            return _markdown(title, sections)
        case "latex":
            return _latex(programs, sections)
        case _:
            raise ValueError(f"unknown style {style!r}: choose one of {', '.join(STYLES)}")


def _mixture(formula: str) -> Section:
    """The terms that replace a tanh."""
    x = variable()
    mixture = of_formula(formula)
    base = to_sympy(mixture.base)
    total = sympy.S.Zero
    for weight, scale in mixture.terms:
        total += sympy.Float(weight, 10) * base.subs(x, sympy.Float(scale, 10) * x).evalf(10)
    lead = (
        f"{formula} has no closed expectations: this mixture stands in for it, off by at most {mixture.error:.1e}. "
        "Its expectations are sums of those below, of its terms, at covariances scaled by the product of their scales."
    )
    return Section("Mixture", lead, (Equation("σ(x)", r"\sigma(x)", (total,)),))


def _expectations(programs: KernelPrograms) -> Iterator[Section]:
    blocks = programs.blocks()
    for name, program in programs.expectations.items():
        letters = ["" if programs.matched or letter == "s" else "*" for letter in blocks[name]]
        factors, latex_factors = [], []
        for slot, (order, star) in enumerate(zip(FACTORS[name[:2]], letters, strict=True), start=1):
            prime = "'" * (order or 0)
            factors.append(f"x{slot}" if order is None else f"σ{star}{prime}(x{slot})")
            tex = f"\\sigma_*{prime}" if star else f"\\sigma{prime}"
            latex_factors.append(f"x_{slot}" if order is None else f"{tex}(x_{slot})")
        text, latex = f"E[{' '.join(factors)}]", rf"\mathbb{{E}}[{' '.join(latex_factors)}]"
        yield Section(f"{name} = {text}", "", tuple(_program_lines(name, latex, program)))


def _readable(program: Program) -> Program:
    """Return the program without the guards against rounding, which are no part of the formula."""
    plain: dict[Symbol, Expr] = {}
    lets = []
    for target, expr in program.lets:
        expr = expr.xreplace(plain).replace(positive, lambda v: v).replace(clean, lambda v, _: v)
        if expr.is_Symbol:
            plain[target] = expr
        else:
            lets.append((target, expr))
    return Program(program.name, program.inputs, tuple(lets), program.result.xreplace(plain))


def _program_lines(name: str, latex: str, program: Program) -> Iterator[Equation]:
    program = _readable(program)
    if len(program.lets) <= _SHORT:
        yield Equation(name, latex, (inline(program),))
        return
    for target, expr in program.lets:
        yield Equation(target.name, f"h_{{{target.name[1:]}}}", (expr,))
    yield Equation(name, latex, (program.result,))


def inline(program: Program) -> Expr:
    """Return a short program as one expression."""
    known: dict[Symbol, Expr] = {}
    for target, expr in program.lets:
        known[target] = expr.xreplace(known)
    return sympy.factor_terms(sympy.simplify(program.result.xreplace(known)))


_TEXT_GRADIENT = "a_j [Σ_s (a*_s/k) ({0}) − Σ_m (a_m/p) ({1})]"
_LATEX_GRADIENT = (
    r"a_j \Bigl[\sum_{{s=1}}^k \frac{{a^*_s}}{{k}} \bigl({0}\bigr)"
    r" - \sum_{{m=1}}^p \frac{{a_m}}{{p}} \bigl({1}\bigr)\Bigr]"
)


def _equations_of_motion(programs: KernelPrograms) -> Iterator[Section]:
    """The drift by Stein's lemma, with its two-point functions written out."""
    lead = (
        "In the time t = νγ/(pd); m runs over students and s over teachers, (j ↔ l) is the term before it with j and l "
        "exchanged, and N_jl = E[σ'(λ_j) σ'(λ_l) e²] is the sum of I4 over all pairs of units plus Δ J2."
    )
    equations = (
        Equation(
            "dM_jr/dt",
            r"\frac{dM_{jr}}{dt}",
            _gradient(programs, teacher=True),
            _TEXT_GRADIENT,
            _LATEX_GRADIENT,
        ),
        Equation(
            "dQ_jl/dt",
            r"\frac{dQ_{jl}}{dt}",
            _gradient(programs, teacher=False),
            _TEXT_GRADIENT + " + (j ↔ l) + (γ/p) a_j a_l N_jl",
            _LATEX_GRADIENT + r" + (j \leftrightarrow l) + \frac{{\gamma}}{{p}} a_j a_l N_{{jl}}",
        ),
    )
    yield Section("Equations of motion", lead, equations)


def _gradient(programs: KernelPrograms, *, teacher: bool) -> tuple[Expr, Expr]:
    """Return the summands of G_jb over teachers s and over students m; b is teacher r or student l."""

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
    if value.count_ops() <= _READABLE:
        return value.subs(places)
    head, _, block = name.partition("_")
    return sympy.Function(f"{head}_{block}" if block else head, real=True)(*places.values())


def _text(title: str, sections: list[Section]) -> str:
    lines = [title, ""]
    for section in sections:
        lines += [section.title, *([f"  {section.lead}"] if section.lead else [])]
        lines += [f"  {e.text} = {e.text_template.format(*map(str, e.values))}" for e in section.equations]
        lines.append("")
    return "\n".join(lines)


def _tex(expr: Expr) -> str:
    names = {}
    for symbol in expr.free_symbols:
        head, _, index = symbol.name.partition("_")
        if index:
            names[symbol] = f"{head}_{{{index}}}"
        elif symbol.name[1:]:
            names[symbol] = f"{'Ω' if head[0] == 'C' else 'h'}_{{{head[1:]}}}"
    text = str(sympy.latex(expr, symbol_names=names))
    return text.replace("Ω", r"\Omega").replace(r"\operatorname{asin}", r"\arcsin")


def _right(equation: Equation) -> str:
    return equation.latex_template.format(*map(_tex, equation.values))


def _markdown(title: str, sections: list[Section]) -> str:
    lines = [f"# {title}", ""]
    for section in sections:
        lines += [f"## {section.title}", "", *([section.lead, ""] if section.lead else [])]
        for equation in section.equations:
            lines += ["$$", f"{equation.latex} = {_right(equation)}", "$$", ""]
    return "\n".join(lines)


_TEX = {
    "ν": r"$\nu$",
    "γ": r"$\gamma$",
    "σ": r"$\sigma$",
    "λ": r"$\lambda$",
    "Δ": r"$\Delta$",
    "²": "$^2$",
    "↔": r"$\leftrightarrow$",
    "_jl": "$_{jl}$",
    "_j": "$_j$",
    "_l": "$_l$",
}


def _latex(programs: KernelPrograms, sections: list[Section]) -> str:
    student, teacher = (sympy.latex(to_sympy(formula)) for formula in (programs.student, programs.teacher))
    heading = rf"$\sigma(x) = {student}$" + ("" if programs.matched else rf" and $\sigma_*(x) = {teacher}$")
    lines = [
        r"\documentclass{article}",
        r"\usepackage[a3paper,landscape,margin=15mm]{geometry}",
        r"\usepackage{amsmath,amssymb}",
        r"\allowdisplaybreaks",
        r"\begin{document}",
        rf"\section*{{Gaussian expectations of {heading}}}",
        r"The variables $x_1, x_2, \ldots$ are centred Gaussians with covariance $\Omega$;",
        r"$h_0, h_1, \ldots$ are intermediate values, anew in each section.",
    ]
    for section in sections:
        title = section.title.split(" = ")[0].replace("_", r"\_")
        lead = section.lead
        for character, replacement in _TEX.items():
            lead = lead.replace(character, replacement)
        rows = " \\\\\n".join(f"{equation.latex} &= {_right(equation)}" for equation in section.equations)
        lines += [rf"\subsection*{{{title}}}", *([lead] if lead else []), r"\begin{align*}", rows, r"\end{align*}"]
    lines.append(r"\end{document}")
    return "\n".join(lines) + "\n"
