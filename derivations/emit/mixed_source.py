"""Print the kernel of a mixture: every expectation as a sum of those of its terms at rescaled covariances.

Input
    :class:`~..mixture.MixedPrograms`.
Output
    The same files as for a closed pair.  With φ(x) = Σ w φ̃(s x), a factor of derivative order m contributes w s^m and
    scales its variable by s.
"""

from __future__ import annotations

from ..kernels import FACTORS
from ..mixture import MixedPrograms, Mixture, of_formula
from ..program import Program
from . import c_source, numpy_source


def _mixtures(programs: MixedPrograms, name: str) -> list[tuple[Mixture, int | None]]:
    letters = programs.blocks()[name]
    orders = FACTORS[name[:2]]
    return [(of_formula(programs.formula(letter)), order) for letter, order in zip(letters, orders, strict=True)]


def numpy_module(programs: MixedPrograms, header: str) -> str:
    """Return the source of the numpy module."""
    text = numpy_source.module(programs.base, header, pointwise=programs.pointwise, prefix="_")
    text += _NUMPY_SUM
    for name in programs.blocks():
        mixtures = _mixtures(programs, name)
        program = programs.base.expectations[programs.base_name(name)]
        arguments = ", ".join(symbol.name for symbol in program.inputs)
        terms = ["[(1.0, 1.0)]" if order is None else repr(list(mixture.terms)) for mixture, order in mixtures]
        text += f"\n\ndef {name}({arguments}):\n    terms = (\n"
        text += "".join(f"        {term},\n" for term in terms)
        orders = tuple(order or 0 for _, order in mixtures)
        text += f"    )\n    value = _mixed(_{program.name}, terms, {orders}, ({arguments}))\n"
        text += "    return value\n"
    return text


_NUMPY_SUM = '''

def _mixed(function, terms, orders, entries):
    """Sum the function over the terms of every factor."""
    from itertools import product

    count = len(orders)
    total = 0.0
    for choice in product(*terms):
        weight = 1.0
        for (w, s), order in zip(choice, orders):
            weight *= w*s**order
        pairs = ((i, j) for i in range(count) for j in range(i, count))
        scaled = (choice[i][1]*choice[j][1]*entry for (i, j), entry in zip(pairs, entries))
        total = total + weight*function(*scaled)
    return total
'''


def pointwise(programs: MixedPrograms, header: str) -> str:
    """Return the C text of σ, σ' and σ*."""
    return c_source.pointwise_functions(programs.pointwise, header)


def pairs(programs: MixedPrograms, header: str) -> str:
    """Return the C text of the two-point functions."""
    used = [name for name in programs.base.expectations if name[:2] in ("I2", "J2", "K2")]
    text = c_source.comment(header) + c_source.helpers(programs.base)
    text += "".join("\n" + c_source.inline_function(f"base_{name}", programs.base.expectations[name]) for name in used)
    for name in c_source.TWO_POINT:
        own = name[:2] if programs.matched else name
        if programs.matched and not name.endswith("_ss"):
            text += f"\n#define {name} {own}_ss\n"
        else:
            text += "\n" + sum_function(programs, own, name)
    return text


def noise(programs: MixedPrograms, header: str) -> str:
    """Return the C text of the noise: that of the terms, of which each unit is a small network."""
    text = c_source.noise(programs.base, header)
    for name in ("noise_work", "noise_sum"):
        text = text.replace(f" {name}(", f" base_{name}(")
    for name, formula in (("student", programs.student), ("teacher", programs.teacher)):
        terms = of_formula(formula).terms
        text += f"\nenum {{ {name.upper()}_TERMS = {len(terms)} }};\n"
        for what, column in (("weight", 0), ("scale", 1)):
            numbers = ", ".join(repr(term[column]) for term in terms)
            text += f"static const double {name}_{what}[{len(terms)}] = {{{numbers}}};\n"
    return text + _EXPANDED


_EXPANDED = """
/* Unit x of the network is the terms weight*base(scale*u_x): units of a larger network, whose covariance is scaled. */
static long noise_work(long p, long k)
{
    const long P = p*STUDENT_TERMS, K = k*TEACHER_TERMS, N = P + K;
    return 2*LANES + 2*N + N*N + layout_memory(P, K) + (P/2 + 1)*whole(P) + base_noise_work(P, K);
}

static void noise_sum(const layout *o, double *sums, double *work)
{
    const long p = o->p, n = o->n, P = p*STUDENT_TERMS, K = (n - p)*TEACHER_TERMS, N = P + K;
    double *scale = work, *v = scale + N, *C = v + N;
    for (long x = 0, X = 0; x < n; x++)
        for (long i = 0; i < (x < p ? STUDENT_TERMS : TEACHER_TERMS); i++, X++) {
            scale[X] = x < p ? student_scale[i] : teacher_scale[i];
            v[X] = o->v[x]*(x < p ? student_weight[i] : teacher_weight[i]);
        }
    for (long X = 0; X < N; X++)
        for (long Y = 0; Y < N; Y++) {
            const long x = X < P ? X/STUDENT_TERMS : p + (X - P)/TEACHER_TERMS;
            const long y = Y < P ? Y/STUDENT_TERMS : p + (Y - P)/TEACHER_TERMS;
            C[X*N + Y] = scale[X]*scale[Y]*o->C[x*n + y];
        }
    layout large;
    double *inner = arrange(&large, P, K, C, v, aligned(C + N*N)), *rest = inner + (P/2 + 1)*large.span;
    for (double *sum = inner; sum < rest; sum++) *sum = 0.0;
    base_noise_sum(&large, inner, rest);
    for (long delta = 0; delta <= P/2; delta++)
        for (long J = 0; J < pairs_at(P, delta); J++) {
            const long L = large.student[J + delta], j = J/STUDENT_TERMS, l = L/STUDENT_TERMS;
            const int first = (int)(J%STUDENT_TERMS), second = (int)(L%STUDENT_TERMS);
            const double slopes = student_weight[first]*scale[J]*student_weight[second]*scale[L];
            const double ways = j == l && J != L ? 2.0 : 1.0; /* (J, L) and (L, J) are one pair, of one unit */
            sums[pair_index(o, j, l)] += ways*slopes*inner[delta*large.span + J];
        }
}
"""


def sum_function(programs: MixedPrograms, name: str, function: str) -> str:
    """Return one expectation as a C function with a loop over the terms of each factor."""
    program: Program = programs.base.expectations[programs.base_name(name)]
    mixtures = _mixtures(programs, name)
    arguments = ", ".join(f"double {symbol.name}" for symbol in program.inputs)
    text = f"static double {function}({arguments})\n{{\n"
    counts = [1 if order is None else len(mixture.terms) for mixture, order in mixtures]
    for i, (mixture, order) in enumerate(mixtures, start=1):
        terms = ((1.0, 1.0),) if order is None else mixture.terms
        values = [(weight * scale ** (order or 0), scale) for weight, scale in terms]
        for letter, column in (("w", 0), ("s", 1)):
            numbers = ", ".join(repr(value[column]) for value in values)
            text += f"    static const double {letter}{i}[{len(values)}] = {{{numbers}}};\n"
    text += "    double total = 0.0;\n"
    for i, count in enumerate(counts, start=1):
        if i == len(mixtures):
            text += "#pragma omp simd reduction(+ : total)\n"
        text += f"    for (int i{i} = 0; i{i} < {count}; i{i}++)\n"
    weight = "*".join(f"w{i}[i{i}]" for i in range(1, len(mixtures) + 1))
    entries = ", ".join(
        f"s{i}[i{i}]*s{j}[i{j}]*C{i}{j}" for i in range(1, len(mixtures) + 1) for j in range(i, len(mixtures) + 1)
    )
    text += f"        total += {weight}*base_{program.name}({entries});\n"
    return text + "    return total;\n}\n"
