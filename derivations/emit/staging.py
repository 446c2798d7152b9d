"""Stage a four-point program into tables, so that the innermost loop holds only what depends on all four indices.

Input
    A program in the covariance of (j, l, a, b): students j and l, whose derivatives enter the noise, and units a, b.
Output
    :class:`Staged`: its lets as tables keyed by (function, index set).

A let that depends on (j, a) is a table over students and units, computed once; the same function of (l, a) or, where a
and b range over the same units, of (j, b) is the same table read at other indices.  Tables over (j, l, a) are computed
for a vector of pairs (j, l) at a time, along which the innermost loop runs: one unit's entries fit a few registers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import sympy
from sympy import Expr, Symbol

from ..program import Program, covariance_symbol

ROLES = "jlab"


@dataclass(frozen=True)
class Table:
    """One function of an index set; ``domain`` names it: '' (constant), s, u, a, b, ab, su, sa, sb, jl, jlu, …, jlab.

    s is a student index, u a unit index (a or b alone where they range over different units); (jl) is a pair.
    """

    name: str
    domain: str
    expr: Expr


@dataclass(frozen=True)
class Reference:
    """A table read at indices given by their roles, such as (l, a)."""

    table: str
    domain: str
    roles: str


@dataclass
class Staged:
    """Tables in order of computation, the references in their expressions, and the value as outer(jl) · inner."""

    symmetric: bool
    tables: list[Table] = field(default_factory=list)
    references: dict[Symbol, Reference] = field(default_factory=dict)
    outer: Expr = sympy.S.One
    inner: Expr = sympy.S.One


def stage(program: Program, *, symmetric: bool) -> Staged:
    """Stage a four-point program; ``symmetric`` if a and b range over the same units with the same activation."""
    staged = Staged(symmetric)
    place: dict[Symbol, Reference] = {}
    for i in range(1, 5):
        for j in range(i, 5):
            place[covariance_symbol(i, j)] = _input_reference(i, j)
    known: dict[tuple[str, str], str] = {}
    for target, expr in program.lets:
        roles = _roles(expr, place)
        domain, renamed = _domain(roles, symmetric)
        table_expr = _rewrite(expr, place, renamed, staged)
        key = (domain, sympy.srepr(table_expr))
        if key not in known:
            known[key] = f"T{len(staged.tables)}"
            staged.tables.append(Table(known[key], domain, table_expr))
        place[target] = Reference(known[key], domain, roles)
    inner_factors, outer_factors = [], []
    for factor in sympy.Mul.make_args(program.result):
        outside = set(_roles(factor, place)) <= {"j", "l"}
        (outer_factors if outside else inner_factors).append(factor)
    keep = {role: role for role in ROLES}
    staged.outer = _rewrite(sympy.Mul(*outer_factors), place, keep, staged)
    staged.inner = _rewrite(sympy.Mul(*inner_factors), place, keep, staged)
    return staged


def _input_reference(i: int, j: int) -> Reference:
    roles = ROLES[i - 1] if i == j else ROLES[i - 1] + ROLES[j - 1]
    return Reference("C", "diagonal" if i == j else "entry", roles)


def _roles(expr: Expr, place: dict[Symbol, Reference]) -> str:
    found = {role for symbol in expr.free_symbols for role in place[symbol].roles}
    return "".join(role for role in ROLES if role in found)


def _domain(roles: str, symmetric: bool) -> tuple[str, dict[str, str]]:
    """Return the domain of a let with these roles, and how its roles are called there."""
    students = [role for role in roles if role in "jl"]
    units = [role for role in roles if role in "ab"]
    renamed = {role: role for role in roles}
    if students and len(units) == 2:
        return "jlab", renamed  # cheaper anew than read from a table
    if len(students) == 1:
        renamed[students[0]] = "s"
    if len(units) == 1 and symmetric:
        renamed[units[0]] = "u"
    return "".join(renamed[role] for role in roles), renamed


def _rewrite(expr: Expr, place: dict[Symbol, Reference], renamed: dict[str, str], staged: Staged) -> Expr:
    """Replace every symbol by one that names its table and the roles at which it is read."""
    swap = {}
    for symbol in expr.free_symbols:
        found = place[symbol]
        roles = "".join(renamed.get(role, role) for role in found.roles)
        stand_in = Symbol(f"{found.table}_{roles}" if roles else found.table, real=True)
        staged.references[stand_in] = Reference(found.table, found.domain, roles)
        swap[symbol] = stand_in
    return expr.xreplace(swap)


def read_elsewhere(staged: Staged) -> list[Table]:
    """Return the tables that are read outside the loop that computes them; the others need no memory."""
    loops = [(table.domain, table.expr) for table in staged.tables] + [("value", staged.outer), ("value", staged.inner)]
    readers: dict[str, set[str]] = {}  # of each table the domains of the loops
    for domain, expr in loops:
        for symbol in expr.free_symbols:
            readers.setdefault(staged.references[symbol].table, set()).add(domain)
    return [table for table in staged.tables if readers.get(table.name, set()) - {table.domain}]


def in_domain(tables: Sequence[Table], *domains: str) -> list[Table]:
    """Return the tables of some domains, in order."""
    return [table for table in tables if table.domain in domains]
