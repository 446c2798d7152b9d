"""Typeset sections of equations as plain text, Markdown or LaTeX; long lines are broken where a sum can be.

Input
    :class:`Section`: a title, sentences, and :class:`Equation`: left-hand side and summands, each as text and as LaTeX.
Output
    :func:`text`, :func:`markdown`, :func:`latex`.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import sympy
from sympy import Expr

#: what fits on a line, in columns of text and in digits of LaTeX
COLUMNS = 110
LINE = 84.0
_HALF = 38.0  # a column of two
_QUAD = 4.0  # what the equality sign or the indentation of a further line takes


@dataclass(frozen=True)
class Equation:
    """One equation; the right-hand side is a sum, whose parts bring their own sign."""

    left: str
    left_tex: str
    parts: tuple[str, ...]
    parts_tex: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """A titled list of equations, with a sentence before them."""

    title: str
    title_tex: str
    lead: str
    equations: tuple[Equation, ...]


def equation(left: str, left_tex: str, expr: Expr) -> Equation:
    """Return an equation for a SymPy expression, broken at its summands."""
    terms = expr.as_ordered_terms() if expr.is_Add else [expr]
    return Equation(left, left_tex, signed(map(str, terms)), signed(map(tex, terms)))


def signed(terms: Iterable[str]) -> tuple[str, ...]:
    """Give each term but the first its sign as an operator."""
    found: list[str] = []
    for term in terms:
        if not found:
            found.append(term)
        elif term.startswith("-"):
            found.append(f"- {term[1:].lstrip()}")
        else:
            found.append(f"+ {term}")
    return tuple(found)


def tex(expr: Expr) -> str:
    """Return the LaTeX of an expression: covariances as Ω, lets as h, overlaps with their indices."""
    names = {}
    for symbol in expr.free_symbols:
        head, _, index = symbol.name.partition("_")
        if index:
            names[symbol] = f"{head}_{{{index}}}"
        elif symbol.name[1:].isdigit():
            names[symbol] = f"{'Ω' if head[0] == 'C' else 'h'}_{{{head[1:]}}}"
    found = str(sympy.latex(expr, symbol_names=names))
    found = re.sub(r"\\frac\{\\sqrt\{(\d+)\} (\w+)\}\{\1\}", r"\\frac{\2}{\\sqrt{\1}}", found)  # SymPy likes √2 x/2
    return found.replace("Ω", r"\Omega").replace(r"\operatorname{asin}", r"\arcsin")


def width(source: str) -> float:
    """Estimate how wide LaTeX prints, in digits."""
    return _width(source, 0, len(source))[0]


_COMMAND = re.compile(r"\\([a-zA-Z]+|.)")
_WORDS = {"arcsin": 3.4, "exp": 2.0, "sin": 1.6, "cos": 1.6, "sum": 2.5, "left": 0.0, "right": 0.0, "operatorname": 0.0}


def _width(source: str, i: int, end: int) -> tuple[float, int]:
    """Width from position i to the end, or to the brace that closes what i is in; and where that is."""
    total = 0.0
    while i < end:
        letter = source[i]
        if letter == "}":
            return total, i + 1
        if letter == "{":
            inside, i = _width(source, i + 1, end)
            total += inside
        elif letter in "_^":
            inside, i = _argument(source, i + 1, end)
            total += 0.7 * inside
        elif letter == "\\":
            found = _COMMAND.match(source, i)
            assert found is not None
            i = found.end()
            if found.group(1) == "frac":
                above, i = _argument(source, i, end)
                below, i = _argument(source, i, end)
                total += max(above, below) + 0.5
            else:
                total += _WORDS.get(found.group(1), 1.2)
        else:
            total += {" ": 0.0, "+": 2.2, "-": 2.0, "=": 2.4}.get(letter, 1.1)
            i += 1
    return total, i


def _argument(source: str, i: int, end: int) -> tuple[float, int]:
    return _width(source, i + 1, end) if source[i] == "{" else (1.1, i + 1)


def text(title: str, sections: Iterable[Section]) -> str:
    """Return plain text."""
    lines = [*textwrap.wrap(title, COLUMNS), ""]
    for section in sections:
        lines.append(section.title)
        lines += textwrap.wrap(section.lead, COLUMNS, initial_indent="  ", subsequent_indent="  ")
        for one in section.equations:
            lines += _filled(one)
        lines.append("")
    return "\n".join(lines)


def _filled(one: Equation) -> Iterator[str]:
    """An equation in lines of text, broken between the parts of its sum."""
    line = f"  {one.left} = {one.parts[0]}"
    for part in one.parts[1:]:
        if len(line) + len(part) >= COLUMNS:
            yield line
            line = "     "
        line += f" {part}"
    yield line


def _rows(one: Equation, room: float) -> list[str]:
    """The right-hand side in lines of LaTeX that fit, broken between the parts of its sum."""
    rows, used = [one.parts_tex[0]], width(one.parts_tex[0])
    for part in one.parts_tex[1:]:
        size = width(part)
        if used + size > room:
            rows.append(part)
            used = size
        else:
            rows[-1] += f" {part}"
            used += size
    return rows


def _aligned(equations: tuple[Equation, ...], room: float) -> str:
    side = max(width(one.left_tex) for one in equations)
    lines = []
    for one in equations:
        first, *more = _rows(one, room - side - _QUAD)
        lines += [f"{one.left_tex} &= {first}", *(rf"&\quad {{}} {row}" for row in more)]
    return " \\\\\n".join(lines)


def markdown(title: str, sections: Iterable[Section]) -> str:
    """Return Markdown with formulas in LaTeX."""
    lines = [f"# {title}", ""]
    for section in sections:
        lead = re.sub(r"\bC(\d\d)\b", r"$\\Omega_{\1}$", section.lead)  # as in the formulas
        lines += [f"## {section.title}", "", *([lead, ""] if lead else [])]
        for one in section.equations:
            body = _aligned((one,), LINE)
            many = "\\\\" in body
            lines += [
                "$$",
                f"\\begin{{aligned}}\n{body}\n\\end{{aligned}}" if many else body.replace("&", ""),
                "$$",
                "",
            ]
    return "\n".join(lines)


_TEX = {
    "ν": r"$\nu$",
    "γ": r"$\gamma$",
    "σ": r"$\sigma$",
    "λ": r"$\lambda$",
    "Δ": r"$\Delta$",
    "Ω": r"$\Omega$",
    "τ": r"$\tau$",
    "√": r"$\surd$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "²": "$^2$",
    "ⁿ": "$^n$",
    "ᵀ": r"$^\top$",
    "↔": r"$\leftrightarrow$",
    "…": r"\ldots{}",
    "−": "$-$",
    "±": r"$\pm$",
    "φ": r"$\varphi$",
    "*": "$^*$",
}


def prose(sentence: str) -> str:
    """Return a sentence as LaTeX: Greek letters, and indices such as those of N_jl."""
    sentence = re.sub(r"\b([cvxy])(\d+)\b", r"$\1_{\2}$", sentence)
    sentence = re.sub(r"\bC(\d\d)\b", r"$\\Omega_{\1}$", sentence.replace("^", r"\^{}"))
    sentence = re.sub(r"_([a-z0-9]+)\b", r"$_{\1}$", sentence)
    for character, replacement in _TEX.items():
        sentence = sentence.replace(character, replacement)
    return sentence


def latex(title: str, sections: Iterable[Section]) -> str:
    """Return a LaTeX document that compiles on its own; ``title`` is LaTeX."""
    lines = [
        r"\documentclass{article}",
        r"\usepackage[a4paper,margin=20mm]{geometry}",
        r"\usepackage{amsmath,amssymb,multicol}",
        r"\allowdisplaybreaks",
        r"\setlength{\parindent}{0pt}",
        r"\begin{document}",
        rf"\section*{{{title}}}",
    ]
    for section in sections:
        lines += [rf"\subsection*{{{section.title_tex}}}", *([prose(section.lead)] if section.lead else [])]
        narrow, wide = _by_width(section.equations)
        if narrow:
            lines += [r"\begin{multicols}{2}", r"\raggedcolumns", r"\begin{align*}", _aligned(narrow, _HALF)]
            lines += [r"\end{align*}", r"\end{multicols}"]
        if wide:
            lines += [r"\begin{align*}", _aligned(wide, LINE), r"\end{align*}"]
    return "\n".join([*lines, r"\end{document}"]) + "\n"


def _by_width(equations: tuple[Equation, ...]) -> tuple[tuple[Equation, ...], tuple[Equation, ...]]:
    """Split a long list before its first equation that is too wide for a column of two."""
    count = 0
    while count < len(equations):
        one = equations[count]
        if width(one.left_tex) + _QUAD + sum(map(width, one.parts_tex)) > _HALF:
            break
        count += 1
    return (equations[:count], equations[count:]) if count >= 6 else ((), equations)
