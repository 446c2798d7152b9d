"""Print a kernel as C: pointwise functions, two-point functions, and the staged noise sum.

Input
    :class:`~..kernels.KernelPrograms`.
Output
    Three texts (``pointwise.h``, ``pairs.h``, ``noise.c``) that the runtime joins with its hand-written sources:

    - ``hdsgd_student``, ``hdsgd_student_prime``, ``hdsgd_teacher``: pointwise functions of a local field;
    - ``I2_ss`` … ``K2_st``: two-point functions of (C11, C12, C22), inlined;
    - ``noise_work`` and ``noise_sum``: N_jl = Σ_ab v_a v_b E[σ'(j) σ'(l) φ_a φ_b] for all pairs j ≥ l.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sympy import Expr, Symbol

from ..functions import C_DUAL, C_SOURCE, FUNCTIONS, c_nodes
from ..kernels import KernelPrograms
from ..program import Program
from .c_printer import CPrinter, DualPrinter
from .staging import Reference, Staged, Table, in_domain, stage

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
    if not used:
        return ""
    names = ("positive",) if used == {"positive"} else tuple(name for name in C_SOURCE if name != "foursigns")
    return "\n" + "".join(C_SOURCE[name] for name in names)  # the kinked ones call one another


def _functions_used(programs: KernelPrograms, names: Iterable[str]) -> set[str]:
    """Return the names of the special functions in some programs."""
    found: set[str] = set()
    for name, program in programs.expectations.items():
        if name in names or f"{name}_ss" in names:
            for expr in (program.result, *(value for _, value in program.lets)):
                found |= {call.func.__name__ for call in expr.atoms(*FUNCTIONS)}
    return found


def noise(programs: KernelPrograms, header: str) -> str:
    """Return the C text of the staged noise sum."""
    four_point = {name: program for name, program in programs.expectations.items() if name in _RANGES}
    plain = {name: program for name, program in four_point.items() if not program.kinked}
    blocks = {name: stage(program, symmetric=_RANGES[name][4]) for name, program in plain.items()}
    text = comment(header) + four_point_helpers(programs)
    for name, program in four_point.items():
        if name not in plain:
            text += "\n" + dual_function(program, name) + "\n" + plain_block(name)
    for name, staged in blocks.items():
        text += "\n" + _block(name, staged)
    sizes = [" + ".join(["m", *(_size(table) for table in _stored(staged))]) for staged in blocks.values()]
    return text + entry_points(four_point, sizes)


def four_point_helpers(programs: KernelPrograms) -> str:
    """Return the functions of four signs and the first-order numbers, where the noise needs them."""
    kinked = any(program.kinked for program in programs.expectations.values())
    text = ""
    if kinked or "foursigns" in _functions_used(programs, _RANGES):
        text += "\n" + c_nodes() + C_SOURCE["foursigns"]
    return text + (C_DUAL if kinked else "")


def entry_points(names: Iterable[str], sizes: Iterable[str]) -> str:
    """Return ``noise_work`` (the largest of some sizes) and ``noise_sum`` (all blocks)."""
    text = "\nstatic long noise_work(long p, long k)\n{\n"
    text += (
        "    const long n = p + k, m = p*(p + 1)/2;\n    long most = 0, size = 0;\n    (void)n; (void)m; (void)size;\n"
    )
    for size in sizes:
        text += f"    size = {size};\n    if (size > most) most = size;\n"
    text += "    return most;\n}\n"
    text += "\nstatic void noise_sum(long p, long k, const double *C, const double *v, const int *J, const int *L,\n"
    text += "    double *N, double *work)\n{\n"
    for name in names:
        text += f"    noise_{name}(p, p + k, C, v, J, L, N, work);\n"
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
    return f"""static void noise_{name}(long p, long n, const double *C, const double *v, const int *J, const int *L,
    double *N, double *work)
{{
    const long m = p*(p + 1)/2;
    (void)work;
    for (long q = 0; q < m; q++) {{
        const long j = J[q], l = L[q];
        for (long a = {first_a}; a < {end_a}; a++)
            for (long b = {"a" if symmetric else first_b}; b < {end_b}; b++) {{
                const double weight = {"(a == b ? 1.0 : 2.0)" if symmetric else "2.0"}*v[a]*v[b];
                N[q] += weight*{name}(C[j*n + j], C[j*n + l], C[j*n + a], C[j*n + b], C[l*n + l], C[l*n + a],
                                      C[l*n + b], C[a*n + a], C[a*n + b], C[b*n + b]);
            }}
    }}
}}
"""


def _stored(staged: Staged) -> list[Table]:
    """Return the tables that need memory of their own: all but those of a single (a, b)."""
    return [table for table in staged.tables if table.domain not in ("ab", "jlab", "")]


_SIZES = {"s": "p", "u": "n", "a": "n", "b": "n", "su": "n*p", "sa": "n*p", "sb": "n*p", "jl": "m", "sab": "p"}


def _size(table: Table) -> str:
    return _SIZES.get(table.domain, "n*m")


def _index(reference: Reference, student: str, unit: str) -> str:
    """Return the C text that reads a table; ``student`` and ``unit`` name the loop variables of roles s and u."""
    names = {"s": student, "j": "J[q]", "l": "L[q]", "u": unit, "a": "a", "b": "b"}
    students = [names[role] for role in reference.roles if role in "sjl"]
    units = [names[role] for role in reference.roles if role in "uab"]
    match reference.domain:
        case "diagonal":
            index = (students + units)[0]
            return f"C[{index}*(n + 1)]"
        case "entry":
            first, second = (units + students)[:2]
            return f"C[{first}*n + {second}]"
        case "" | "ab" | "jlab":
            return reference.table
        case "s" | "sab":
            return f"{reference.table}[{students[0]}]"
        case "u" | "a" | "b":
            return f"{reference.table}[{units[0]}]"
        case "su" | "sa" | "sb":
            return f"{reference.table}[{units[0]}*p + {students[0]}]"
        case "jl":
            return f"{reference.table}[q]"
        case _:
            return f"{reference.table}[{units[0]}*m + q]"


def _block(name: str, staged: Staged) -> str:
    first_a, end_a, first_b, end_b, symmetric = _RANGES[name]

    def value(expr: Expr, unit: str = "u") -> str:
        names = {symbol: _index(reference, "i", unit) for symbol, reference in staged.references.items()}
        return str(CPrinter(names).doprint(expr))

    def assign(tables: list[Table], index: str, pad: str, unit: str = "u") -> str:
        return "".join(f"{pad}{table.name}[{index}] = {value(table.expr, unit)};\n" for table in tables)

    lines = [
        f"static void noise_{name}(long p, long n, const double *C, const double *v, const int *J, const int *L,\n",
        "    double *N, double *work)\n{\n",
        "    const long m = p*(p + 1)/2;\n",
        "    double *const acc = work;\n    work += m;\n",
    ]
    for table in _stored(staged):
        lines.append(f"    double *const {table.name} = work;\n    work += {_size(table)};\n")
    lines.append("    (void)n; (void)work;\n")
    simd = "#pragma omp simd\n"
    for table in in_domain(staged.tables, ""):
        lines.append(f"    const double {table.name} = {value(table.expr)};\n")
    students = in_domain(staged.tables, "s")
    if students:
        lines.append(f"{simd}    for (long i = 0; i < p; i++) {{\n{assign(students, 'i', ' ' * 8)}    }}\n")
    for unit, first, end in (("u", first_a, end_b), ("a", first_a, end_a), ("b", first_b, end_b)):
        single, crossed = in_domain(staged.tables, unit), in_domain(staged.tables, f"s{unit}")
        if single or crossed:
            lines.append(f"    for (long {unit} = {first}; {unit} < {end}; {unit}++) {{\n")
            lines.append(assign(single, unit, " " * 8, unit))
            if crossed:
                body = assign(crossed, f"{unit}*p + i", " " * 12, unit)
                lines.append(f"{simd}        for (long i = 0; i < p; i++) {{\n{body}        }}\n")
            lines.append("    }\n")
    paired = in_domain(staged.tables, "jl")
    lines.append(
        f"{simd}    for (long q = 0; q < m; q++) {{\n{assign(paired, 'q', ' ' * 8)}        acc[q] = 0.0;\n    }}\n"
    )
    for unit, first, end in (("u", first_a, end_b), ("a", first_a, end_a), ("b", first_b, end_b)):
        tables = in_domain(staged.tables, f"jl{unit}")
        if tables:
            body = assign(tables, f"{unit}*m + q", " " * 12, unit)
            lines.append(
                f"    for (long {unit} = {first}; {unit} < {end}; {unit}++) {{\n"
                f"{simd}        for (long q = 0; q < m; q++) {{\n{body}        }}\n    }}\n"
            )
    start_b = "a" if symmetric else first_b
    weight = "(a == b ? v[a]*v[a] : 2.0*v[a]*v[b])" if symmetric else "2.0*v[a]*v[b]"
    lines.append(
        f"    for (long a = {first_a}; a < {end_a}; a++) {{\n    for (long b = {start_b}; b < {end_b}; b++) {{\n"
    )
    lines.append(f"        const double weight = {weight};\n")
    for table in in_domain(staged.tables, "ab"):
        lines.append(f"        const double {table.name} = {value(table.expr)};\n")
    local = in_domain(staged.tables, "sab")
    if local:
        lines.append(f"{simd}        for (long i = 0; i < p; i++) {{\n{assign(local, 'i', ' ' * 12)}        }}\n")
    lines.append(f"{simd}        for (long q = 0; q < m; q++) {{\n")
    for table in in_domain(staged.tables, "jlab"):
        lines.append(f"            const double {table.name} = {value(table.expr)};\n")
    lines.append(f"            acc[q] = FMA(weight, {value(staged.inner)}, acc[q]);\n        }}\n    }}\n    }}\n")
    lines.append(f"{simd}    for (long q = 0; q < m; q++) N[q] = FMA({value(staged.outer)}, acc[q], N[q]);\n}}\n")
    return "".join(lines)
