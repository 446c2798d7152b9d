"""Print a kernel as C: pointwise functions, two-point functions, and the staged noise sum.

Input
    :class:`~..kernels.KernelPrograms`.
Output
    Three texts (``pointwise.h``, ``pairs.h``, ``noise.c``) that the runtime joins with its hand-written sources:

    - ``hdsgd_student``, ``hdsgd_student_prime``, ``hdsgd_teacher``: pointwise functions of a local field;
    - ``I2_ss`` … ``K2_st``: two-point functions of (C11, C12, C22), inlined;
    - ``noise_work`` and ``noise_sum``: Σ_ab v_a v_b E[σ'(j) σ'(l) φ_a φ_b] for all pairs (j, l), see layout.h.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import sympy
from sympy import Expr, Symbol

from ..atoms import from_formula
from ..functions import C_SOURCE, FUNCTIONS, c_dual_text, c_nodes, c_text, foursigns
from ..kernels import KernelPrograms
from ..program import Program
from . import wick_source
from .c_printer import CPrinter, DualPrinter
from .staging import Reference, Staged, Table, in_domain, read_elsewhere, stage

TWO_POINT = ("I2_ss", "I2_st", "I2_tt", "J2_ss", "J2_st", "K2_ss", "K2_st")

#: for each block: the ranges of a and b as (first, end) in C, and whether they are the same
_RANGES = {
    "I4": ("0", "n", "0", "n", True),
    "I4_ss": ("0", "p", "0", "p", True),
    "I4_st": ("0", "p", "p", "n", False),
    "I4_tt": ("p", "n", "p", "n", True),
}


def pointwise(programs: KernelPrograms, header: str) -> str:
    """Return the C text of σ, σ' and σ*."""
    return pointwise_functions(programs.pointwise, header)


def pointwise_functions(expressions: Mapping[str, Expr], header: str) -> str:
    """Return the C text of functions of ``x``."""
    printer = CPrinter()
    functions = (
        f"static inline double hdsgd_{name}(double x)\n"
        f"{{\n    {_unused(expr, 'x')}return {printer.doprint(expr)};\n}}\n"
        for name, expr in expressions.items()
    )
    return comment(header) + "\n" + "\n".join(functions)


def pairs(programs: KernelPrograms, header: str) -> str:
    """Return the C text of the two-point functions."""
    pieces = []
    for name in TWO_POINT:
        own = name[:2] if programs.matched else name
        if own != name and name.endswith(("_st", "_tt")):
            pieces.append(f"#define {name} {own}_ss\n")
        else:
            pieces.append(inline_function(name, programs.expectations[own]))
    return comment(header) + helpers(programs) + "\n" + "\n".join(pieces)


def helpers(programs: KernelPrograms) -> str:
    """Return the special functions that the programs need, but those of four signs."""
    used = _functions_used(programs, (*TWO_POINT, *_RANGES))
    return "\n" + c_text(used) if used else ""


def _functions_used(programs: KernelPrograms, names: Iterable[str]) -> set[str]:
    """Return the names of the special functions in some programs."""
    found: set[str] = set()
    for name, program in programs.expectations.items():
        if name in names or f"{name}_ss" in names:
            for expr in (program.result, *(value for _, value in program.lets)):
                found |= {call.func.__name__ for call in expr.atoms(*FUNCTIONS)}
    return found


def noise(programs: KernelPrograms, header: str) -> str:
    """Return the C text of the noise sum: bilinear forms for polynomials, and staged loops otherwise."""
    polynomials = [wick_source.polynomial(from_formula(formula)) for formula in (programs.student, programs.teacher)]
    if all(polynomials) and len(found := wick_source.forms(*polynomials)) <= wick_source.MOST_FORMS:
        text, size = wick_source.block(*polynomials, found, _UNPACK.format(name="I4"))
        return f"{comment(header)}\n{text}{entry_points(['I4'], [size])}"
    four_point = {name: program for name, program in programs.expectations.items() if name in _RANGES}
    plain = {name: program for name, program in four_point.items() if not program.kinked}
    blocks = {name: stage(program, symmetric=_RANGES[name][4]) for name, program in plain.items()}
    text = comment(header) + four_point_helpers(programs)
    for name, program in four_point.items():
        if name not in plain:
            text += "\n" + dual_function(program, name) + "\n" + plain_block(name)
    for name, staged in blocks.items():
        text += "\n" + _block(name, staged)
    sizes = [" + ".join([*(_size(table) for table in _stored(staged)), "n*n"]) for staged in blocks.values()]
    return text + entry_points(four_point, sizes)


def four_point_helpers(programs: KernelPrograms) -> str:
    """Return the functions of four signs and the first-order numbers, where the noise needs them."""
    kinked = any(program.kinked for program in programs.expectations.values())
    used = _functions_used(programs, _RANGES)
    text = ""
    if kinked or "foursigns" in used:
        text += "\n" + c_nodes() + C_SOURCE["foursigns"]
    return text + (c_dual_text(used) if kinked else "")


def entry_points(names: Iterable[str], sizes: Iterable[str]) -> str:
    """Return ``noise_work`` (the largest of some sizes) and ``noise_sum`` (all blocks)."""
    text = "\nstatic long noise_work(long p, long k)\n{\n"
    text += "    const long n = p + k, stride = row_stride(p);\n    long most = 0, size = 0;\n"
    text += "    (void)n; (void)stride; (void)size;\n"
    for size in sizes:
        text += f"    size = {size};\n    if (size > most) most = size;\n"
    text += "    return most;\n}\n"
    text += "\nstatic void noise_sum(const layout *o, double *sums, double *work)\n{\n    (void)work;\n"
    for name in names:
        text += f"    noise_{name}(o, sums, work);\n"
    return text + "}\n"


def comment(header: str) -> str:
    """Return the header as C comments."""
    return "".join(f"/* {line} */\n" for line in header.splitlines())


def _unused(expr: Expr, name: str) -> str:
    return f"(void){name};\n    " if Symbol(name, real=True) not in expr.free_symbols else ""


def inline_function(name: str, program: Program) -> str:
    """Return a program as an inlined C function."""
    printer = CPrinter()
    arguments = ", ".join(f"double {symbol.name}" for symbol in program.inputs)
    used = program.result.free_symbols.union(*(expr.free_symbols for _, expr in program.lets))
    lines = [f"    (void){symbol.name};\n" for symbol in program.inputs if symbol not in used]
    lines += [f"    const double {target.name} = {printer.doprint(expr)};\n" for target, expr in program.lets]
    body = f"{''.join(lines)}    return {printer.doprint(program.result)};\n"
    return f"static inline double {name}({arguments})\n{{\n{body}}}\n"


def dual_function(program: Program, name: str) -> str:
    """Return a kinked program as a C function that calculates in first-order numbers."""
    printer = DualPrinter()
    arguments = ", ".join(f"double c{symbol.name[1:]}" for symbol in program.inputs)
    lines = []
    for symbol in program.inputs:
        value = f"c{symbol.name[1:]}"
        lines.append(f"    const dual {symbol.name} = dual_of({value}, {value if symbol.is_positive else '0.0'});\n")
    lines += [f"    const dual {target.name} = {printer.doprint(expr)};\n" for target, expr in program.lets]
    used = program.result.free_symbols.union(*(expr.free_symbols for _, expr in program.lets))
    lines += [f"    (void){symbol.name};\n" for symbol in program.inputs if symbol not in used]
    body = f"{''.join(lines)}    const dual value = {printer.doprint(program.result)};\n    return value.a;\n"
    return f"static double {name}({arguments})\n{{\n{body}}}\n"


def plain_block(name: str) -> str:
    """Return the noise loops around a four-point function that is called entry by entry."""
    first_a, end_a, first_b, end_b, symmetric = _RANGES[name]
    return f"""{_UNPACK.format(name=name)}
    (void)own; (void)work;
    for (long delta = 0; delta <= p/2; delta++)
        for (long j = 0; j < pairs_at(p, delta); j++) {{
            const long l = o->student[j + delta];
            double sum = 0.0;
            for (long a = {first_a}; a < {end_a}; a++)
                for (long b = {"a" if symmetric else first_b}; b < {end_b}; b++) {{
                    const double weight = {"(a == b ? 1.0 : 2.0)" if symmetric else "2.0"}*v[a]*v[b];
                    sum += weight*{name}(C[j*n + j], C[j*n + l], S[a*stride + j], S[b*stride + j], C[l*n + l],
                                         S[a*stride + l], S[b*stride + l], C[a*n + a], C[a*n + b], C[b*n + b]);
                }}
            sums[delta*o->span + j] += sum;
        }}
}}
"""


_UNPACK = """static void noise_{name}(const layout *o, double *sums, double *work)
{{
    const long p = o->p, n = o->n, stride = o->stride;
    const double *const C = o->C, *const v = o->v, *const S = o->S, *const own = o->own;"""


#: memory of the tables: the students' axis is padded to whole vectors, and pairs come in vectors
_SIZES = {"": "1", "s": "stride", "u": "n", "a": "n", "b": "n", "ab": "n*n", "jl": "LANES"}


def _size(table: Table) -> str:
    return _SIZES.get(table.domain, "n*stride" if table.domain[0] == "s" else "n*LANES")


def _stored(staged: Staged) -> list[Table]:
    """Return the tables that need memory of their own, whole vectors first, so that these are aligned."""
    tables = [table for table in read_elsewhere(staged) if table.domain not in ("", "jl", "jlab")]
    return sorted(tables, key=lambda table: _size(table) in ("n", "n*n"))


def _index(reference: Reference) -> str:
    """Return the C text that reads a table, in loops over e (students), i (lanes), u, a, b."""
    names = {"s": "e", "j": "j + i", "l": "l + i", "u": "u", "a": "a", "b": "b"}
    students = [names[role] for role in reference.roles if role in "sjl"]
    units = [names[role] for role in reference.roles if role in "uab"]
    match reference.domain:
        case "diagonal":
            return f"own[{students[0]}]" if students else f"C[{units[0]}*(n + 1)]"
        case "entry" if len(students) == 2:
            return "cross[i]"
        case "entry" if len(students) == 1:
            return f"S[{units[0]}*stride + {students[0]}]"
        case "entry" | "ab":
            return f"{'C' if reference.domain == 'entry' else reference.table}[{units[0]}*n + {units[1]}]"
        case "" | "jlab":
            return reference.table
        case "s":
            return f"{reference.table}[{students[0]}]"
        case "u" | "a" | "b":
            return f"{reference.table}[{units[0]}]"
        case "su" | "sa" | "sb":
            return f"{reference.table}[{units[0]}*stride + {students[0]}]"
        case "jl":
            return f"{reference.table}[i]"
        case _:
            return f"{reference.table}[{units[0]}*LANES + i]"


def _block(name: str, staged: Staged) -> str:
    """Return the noise loops of a staged program.

    An arc sine in the innermost loop is first taken by its series for arguments up to 1/2, which conditional
    covariances rarely exceed; where one did, the sum of this vector of pairs and of later ones is taken anew.
    """
    first_a, end_a, first_b, end_b, symmetric = _RANGES[name]
    kept = [table for table in read_elsewhere(staged) if table.domain != "jlab"]
    stored = {table.name for table in kept} | {"C"}
    names = {
        symbol: _index(reference) if reference.table in stored else reference.table
        for symbol, reference in staged.references.items()
    }
    printer = CPrinter(names)

    def loop(variable: str, first: str, end: str, pad: int, body: str) -> str:
        return f"{' ' * pad}for (long {variable} = {first}; {variable} < {end}; {variable}++) {{\n{body}{' ' * pad}}}\n"

    def vector(variable: str, end: str, pad: int, body: str) -> str:
        head = f"#pragma omp simd\n{' ' * pad}for (long {variable} = 0; {variable} < {end}; {variable}++) {{\n"
        return f"{head}{body}{' ' * pad}}}\n"

    def assign(domain: str, index: str, pad: int) -> str:
        return "".join(
            f"{' ' * pad}{f'{table.name}[{index}]' if table in kept else f'const double {table.name}'} = "
            f"{printer.doprint(table.expr)};\n"
            for table in in_domain(staged.tables, domain)
        )

    text = _UNPACK.format(name=name) + "\n"
    for table in _stored(staged):
        text += f"    double *const {table.name} = work;\n    work += {_size(table)};\n"
    text += "    double *const weight = work;\n    (void)own;\n"
    for table in in_domain(staged.tables, ""):
        text += f"    const double {table.name} = {printer.doprint(table.expr)};\n"
    if in_domain(staged.tables, "s"):
        text += vector("e", "stride", 4, assign("s", "e", 8))
    ranges = (("u", first_a, end_b), ("a", first_a, end_a), ("b", first_b, end_b))
    for unit, first, end in ranges:
        body = assign(unit, unit, 8)
        if in_domain(staged.tables, f"s{unit}"):
            body += vector("e", "stride", 8, assign(f"s{unit}", f"{unit}*stride + e", 12))
        text += loop(unit, first, end, 4, body) if body else ""
    factor = "(a == b ? 1.0 : 2.0)" if symmetric else "2.0"
    each = f"            weight[a*n + b] = {factor}*v[a]*v[b];\n" + assign("ab", "a*n + b", 12)
    start_b = "a" if symmetric else first_b
    text += loop("a", first_a, end_a, 4, loop("b", start_b, end_b, 8, each))

    inner = CPrinter(names, asin="asin_near({}, largest + i)")
    local = in_domain(staged.tables, "jlab")
    innermost = (staged.inner, *(table.expr for table in local))
    arcs = any(expr.has(sympy.asin) for expr in innermost)
    lanes = "LANES"
    if any(expr.has(foursigns) for expr in innermost):  # not in vectors: no work for pairs that are not there
        lanes = "(pairs_at(p, delta) - j < LANES ? pairs_at(p, delta) - j : LANES)"

    def summed(printer: CPrinter, pad: int) -> str:
        lines = [f"const double {table.name} = {printer.doprint(table.expr)};\n" for table in local]
        lines.append(f"sum[i] = FMA(weight[a*n + b], {printer.doprint(staged.inner)}, sum[i]);\n")
        body = "".join(" " * (pad + 12) + line for line in lines)
        return loop("a", first_a, end_a, pad, loop("b", start_b, end_b, pad + 4, vector("i", lanes, pad + 8, body)))

    if arcs:
        text += "    int near = 1;\n"
    text += "    for (long delta = 0; delta <= p/2; delta++)\n"
    text += "    for (long j = 0; j < pairs_at(p, delta); j += LANES) {\n"
    text += "        const long l = j + delta;\n        const double *const cross = o->cross + delta*o->span + j;\n"
    text += "        double *const total = sums + delta*o->span + j, sum[LANES] = {0.0};\n"
    text += "        (void)l; (void)cross;\n"
    if in_domain(staged.tables, "jl"):
        arrays = [f"{table.name}[LANES]" for table in in_domain(kept, "jl")]
        text += f"        double {', '.join(arrays)};\n" if arrays else ""
        text += vector("i", "LANES", 8, assign("jl", "i", 12))
    for unit, first, end in ranges:
        if in_domain(staged.tables, f"jl{unit}"):
            text += loop(unit, first, end, 8, vector("i", "LANES", 12, assign(f"jl{unit}", f"{unit}*LANES + i", 16)))
    if arcs:
        text += "        double largest[LANES] = {0.0};\n        if (near) {\n" + summed(inner, 12) + "        }\n"
        text += "        for (int i = 0; i < LANES; i++) near = near && largest[i] <= 0.5;\n        if (!near) {\n"
        text += "            for (int i = 0; i < LANES; i++) sum[i] = 0.0;\n" + summed(printer, 12) + "        }\n"
    else:
        text += summed(printer, 8)
    last = f"            total[i] = FMA({printer.doprint(staged.outer)}, sum[i], total[i]);\n"
    return text + vector("i", "LANES", 8, last) + "    }\n}\n"
