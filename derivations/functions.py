"""Functions that appear in derived programs beside the elementary ones.

Each is a SymPy function that stays unevaluated, with its meaning in numpy and in C here, as text that is emitted, and
in mpmath in :mod:`.exact`.  They make kinked activations safe where variables coincide: a variance that vanishes under
conditioning leaves a sign without direction, whose average over both sides is zero.

======================  =======================================================================================
positive(v)             max(v, 0): a variance that rounding made negative
clean(v, s)             v, or 0 where the conditional variance v is rounding beside the variance s
share(c, v)             c/v, or 0 where v = 0
density(v)              1/sqrt(2πv), or 0 where v = 0: the density of a centred Gaussian at zero
signsign(c, u, v)       asin(c/sqrt(uv)) by atan2, 0 where u or v is 0: (π/2) E[sign sign]
foursigns(c12, …, v4)   E[sign sign sign sign] from six covariances and four variances (Plackett's integral)
======================  =======================================================================================

Those of signs beside exponentials and waves are in :mod:`.waves`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Set
from functools import cache
from typing import Any

import mpmath

from .waves import PLAIN_C, PLAIN_NUMPY, WAVES, WAVES_DUAL, WAVES_NUMPY, Unevaluated, waves_c

ROUNDING = 1e-14  # conditional variances below this fraction are rounding
_STEP, _SIDE = 0.14, 28  # tanh-sinh rule of foursigns: 1e-15 for ordinary covariances; half the step near degeneracy
_COARSE = 2 * _SIDE + 1
_GAUSS = (8, 16, 24)  # nodes of the Gauss-Legendre rules for ordinary covariances, in whole vectors


class positive(Unevaluated):
    """A variance, 0 where rounding made it negative."""

    nargs = 1


class clean(Unevaluated):
    """A conditional variance with its rounding removed."""

    nargs = 2


class share(Unevaluated):
    """Regression coefficient c/v, 0 where v = 0."""

    nargs = 2


class density(Unevaluated):
    """Density of a centred Gaussian at zero, 0 where its variance is."""

    nargs = 1


class signsign(Unevaluated):
    """asin of a correlation, from the covariance and the variances."""

    nargs = 3


class foursigns(Unevaluated):
    """Expectation of the product of four signs."""

    nargs = 10


FUNCTIONS = (positive, clean, share, density, signsign, foursigns, *WAVES)
NAMES = frozenset(function.__name__ for function in FUNCTIONS)
_WAVE_NAMES = frozenset(function.__name__ for function in WAVES)

#: first-order numbers a + τb: the covariance plus an infinitesimal independent part τ of each variable, which gives a
#: direction to signs that have none where variables coincide
DUAL_SOURCE = '''
class Dual:
    """a + τb with infinitesimal τ."""

    def __init__(self, a, b):
        self.a, self.b = a, b

    def __array_ufunc__(self, ufunc, method, *inputs):
        ring = {"add": "__add__", "multiply": "__mul__", "subtract": "__rsub__", "divide": "__rtruediv__"}
        if ufunc.__name__ in ring:  # a numpy number on the left
            return getattr(inputs[1], ring[ufunc.__name__])(inputs[0])
        return Dual(ufunc(*(x.a if isinstance(x, Dual) else x for x in inputs)), 0.0)  # of weights, the value is enough

    def __add__(self, other):
        return Dual(self.a + other.a, self.b + other.b) if isinstance(other, Dual) else Dual(self.a + other, self.b)

    def __mul__(self, other):
        if isinstance(other, Dual):
            return Dual(self.a*other.a, self.a*other.b + self.b*other.a)
        return Dual(self.a*other, self.b*other)

    def __neg__(self):
        return Dual(-self.a, -self.b)

    def __sub__(self, other):
        return self + (-other)

    def __rsub__(self, other):
        return (-self) + other

    def __truediv__(self, other):
        return self*(1.0/other)

    def __rtruediv__(self, number):
        return Dual(number/self.a, -number*self.b/self.a**2)

    def __pow__(self, n):
        return self if n == 1 else self*self**(n - 1)

    __radd__, __rmul__ = __add__, __mul__
'''

#: numpy text of the functions; a generated module carries those that it uses
NUMPY_SOURCE = {
    "positive": """
def positive(v):
    return Dual(np.maximum(v.a, 0.0), v.b) if isinstance(v, Dual) else np.maximum(v, 0.0)
""",
    "clean": """
def clean(v, s):
    if isinstance(v, Dual):
        return Dual(np.where(v.a > 1e-14*s.a, v.a, 0.0), v.b)
    return np.where(v > 1e-14*s, v, 0.0)
""",
    "share": """
def share(c, v):
    if isinstance(v, Dual):
        level = np.where(v.a > 0.0, 0, 1)
        ratio = share(np.choose(level, [c.a, c.b]), np.choose(level, [v.a, v.b]))
        return Dual(ratio, np.where(v.a > 0.0, share(c.b - ratio*v.b, v.a), 0.0))
    v = np.asarray(v, dtype=float)
    return np.divide(c, v, out=np.zeros(np.broadcast_shapes(np.shape(c), v.shape)), where=v > 0.0)
""",
    "density": """
def density(v):
    if isinstance(v, Dual):
        return Dual(density(v.a), 0.0)
    v = np.asarray(v, dtype=float)
    return np.divide(1.0, np.sqrt(2.0*np.pi*np.maximum(v, 0.0)), out=np.zeros(v.shape), where=v > 0.0)
""",
    "signsign": """
def signsign(c, u, v):
    if isinstance(c, Dual):
        low = signsign(c.b, np.where(u.a > 0.0, 0.0, u.b), np.where(v.a > 0.0, 0.0, v.b))
        return Dual(signsign(c.a, u.a, v.a) + low, 0.0)
    angle = np.arctan2(c, np.sqrt(np.maximum(u*v - c*c, 0.0)))
    return np.where((u > 0.0) & (v > 0.0), angle, 0.0)
""",
    "foursigns": f'''
_k = {_STEP}*np.concatenate([np.arange(-{_SIDE}, {_SIDE} + 1), np.arange(-{_SIDE}, {_SIDE}) + 0.5])
_T, _S = 1.0/(1.0 + np.exp(-np.pi*np.sinh(_k))), 1.0/(1.0 + np.exp(np.pi*np.sinh(_k)))
_W = {_STEP}*np.pi*np.cosh(_k)*_T*_S


def _term(x, kl, kj, il, ra, rb, t, s):
    # conditional covariances by elimination: determinants expanded in t would cancel where variables nearly coincide
    D = (s + (1.0 - np.abs(x))*t)*(1.0 + np.abs(x)*t)
    ki, li = t*(kj - ra*x), t*(il - rb*x)
    A, B = (1.0 - ra)*(1.0 + ra)*D - ki*ki, (1.0 - rb)*(1.0 + rb)*D - li*li
    N = D*t*(kl - ra*il) - ki*(rb - x*t*t*il)
    return x/np.sqrt(D)*np.arctan2(N, np.sqrt(np.maximum(A*B - N*N, 0.0)))


def _path(ra, ac, ad, bc, bd, rb, nodes):
    total = np.zeros(ra.shape)
    for t, s, w in zip(_T[nodes], _S[nodes], _W[nodes]):
        total += w*(_term(ac, bd, bc, ad, ra, rb, t, s) + _term(ad, bc, bd, ac, ra, rb, t, s))
        total += w*(_term(bc, ad, ac, bd, ra, rb, t, s) + _term(bd, ac, ad, bc, ra, rb, t, s))
    return total


def _foursigns_dual(*entries):
    """Signs of vanishing variables correlate only with one another, at the next order."""
    lower = [np.where(v.a > 0.0, 0.0, v.b) for v in entries[6:]]
    upper = [v.a for v in entries[6:]]
    value = foursigns(*(c.a for c in entries[:6]), *upper) + foursigns(*(c.b for c in entries[:6]), *lower)
    pairs = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
    for i, (u, v) in enumerate(pairs):
        w, z = pairs[5 - i]
        regular = signsign(entries[i].a, upper[u], upper[v])
        value = value + (2.0/np.pi)**2*regular*signsign(entries[5 - i].b, lower[w], lower[z])
    return Dual(value, 0.0)


def foursigns(c12, c13, c14, c23, c24, c34, v1, v2, v3, v4):
    if isinstance(c12, Dual):
        return _foursigns_dual(c12, c13, c14, c23, c24, c34, v1, v2, v3, v4)
    cov = np.stack(np.broadcast_arrays(c12, c13, c14, c23, c24, c34, v1, v2, v3, v4)).astype(float)
    shape, cov = cov.shape[1:], cov.reshape(10, -1)
    var = cov[6:]
    safe = np.where(var > 0.0, var, 1.0)
    first, second = [0, 0, 0, 1, 1, 2], [1, 2, 3, 2, 3, 3]
    r = np.clip(cov[:6]/np.sqrt(safe[first]*safe[second]), -1.0, 1.0)
    # coincident signs multiply to +1 or -1 and leave the product of the other two
    nearest = np.abs(r).argmax(axis=0)[None]
    tied = np.take_along_axis(r, nearest, axis=0)[0]
    coincident = np.sign(tied)*(2.0/np.pi)*np.arcsin(np.take_along_axis(r[::-1], nearest, axis=0)[0])
    # the pairing whose cross correlations are smallest: (12)(34), (13)(24) or (14)(23), brought to (ab)(cd)
    orders = np.array([[0, 1, 2, 3, 4, 5], [1, 0, 2, 3, 5, 4], [2, 1, 0, 5, 4, 3]])
    worst = np.stack([np.abs(r[order[1:5]]).max(axis=0) for order in orders])
    r = np.take_along_axis(np.stack([r[order] for order in orders], axis=1), worst.argmin(axis=0)[None, None], axis=1)
    ra, ac, ad, bc, bd, rb = r = r[:, 0]
    q = ac*ac + ad*ad + bc*bc + bd*bd - 2.0*ra*(ac*bc + ad*bd) - 2.0*rb*(ac*ad + bc*bd)
    q = q + 2.0*ra*rb*(ad*bc + ac*bd)
    m, base = (ac*bd - ad*bc)**2, (1.0 - ra*ra)*(1.0 - rb*rb)
    total = _path(*r, slice({_COARSE}))
    near = (base - q + m < 0.1*base) | (worst.min(axis=0) > 0.9)  # a singularity close to the path: twice the nodes
    if near.any():
        total[near] = 0.5*(total[near] + _path(*r[:, near], slice({_COARSE}, None)))
    value = (2.0/np.pi)**2*(np.arcsin(ra)*np.arcsin(rb) + total)
    value = np.where(np.abs(tied) > 1.0 - 1e-15, coincident, value)
    return np.where((var > 0.0).all(axis=0), value, 0.0).reshape(shape)
''',
}

#: C text of the same functions
C_SOURCE = {
    "positive": """
static inline double positive(double v) { return v > 0.0 ? v : 0.0; }
""",
    "clean": """
static inline double clean(double v, double s) { return v > 1e-14*s ? v : 0.0; }
""",
    "share": """
static inline double share(double c, double v) { return v > 0.0 ? c/v : 0.0; }
""",
    "density": """
static inline double density(double v) { return v > 0.0 ? 0.3989422804014327/sqrt(v) : 0.0; }
""",
    "signsign": """
static inline double signsign(double c, double u, double v)
{
    const double rest = u*v - c*c;
    return u > 0.0 && v > 0.0 ? atan2(c, sqrt(rest > 0.0 ? rest : 0.0)) : 0.0;
}
""",
    "foursigns": """
/* The path integral over the nodes from first to last, by conditional covariances of all four pairs. */
static double foursigns_path(const double *r, const int *o, int first, int last)
{
    const double ra = r[o[0]], ac = r[o[1]], ad = r[o[2]], bc = r[o[3]], bd = r[o[4]], rb = r[o[5]];
    const double a = (1.0 - ra)*(1.0 + ra), b = (1.0 - rb)*(1.0 + rb);
    const double x[4] = {ac, ad, bc, bd}, kl[4] = {bd, bc, ad, ac}, kj[4] = {bc, bd, ac, ad}, il[4] = {ad, ac, bd, bc};
    double total = 0.0;
    for (int i = 0; i < 4; i++) {
        const double xi = x[i], size = fabs(xi), ili = il[i];
        const double k_i = kj[i] - ra*xi, l_i = ili - rb*xi, kli = kl[i] - ra*ili;
        double sum = 0.0;
#pragma omp simd reduction(+ : sum)
        for (int k = first; k < last; k++) {
            const double t = node_t[k], D = (node_s[k] + (1.0 - size)*t)*(1.0 + size*t), u = t*k_i, v = t*l_i;
            const double N = D*t*kli - u*(rb - xi*t*t*ili), rest = (a*D - u*u)*(b*D - v*v) - N*N;
            sum += node_w[k]/sqrt(D)*atan2(N, sqrt(rest > 0.0 ? rest : 0.0));
        }
        total += xi*sum;
    }
    return total;
}

static double foursigns(double c12, double c13, double c14, double c23, double c24, double c34,
                        double v1, double v2, double v3, double v4)
{
    if (!(v1 > 0.0 && v2 > 0.0 && v3 > 0.0 && v4 > 0.0)) return 0.0;
    static const int order[3][6] = {{0, 1, 2, 3, 4, 5}, {1, 0, 2, 3, 5, 4}, {2, 1, 0, 5, 4, 3}};
    const double c[6] = {c12, c13, c14, c23, c24, c34}, v[6] = {v1*v2, v1*v3, v1*v4, v2*v3, v2*v4, v3*v4};
    double r[6], worst[3] = {0.0, 0.0, 0.0};
    int nearest = 0, best = 0;
    for (int i = 0; i < 6; i++) {
        r[i] = c[i]/sqrt(v[i]);
        r[i] = r[i] > 1.0 ? 1.0 : (r[i] < -1.0 ? -1.0 : r[i]);
        if (fabs(r[i]) > fabs(r[nearest])) nearest = i;
    }
    /* coincident signs multiply to +1 or -1 and leave the product of the other two */
    if (fabs(r[nearest]) > 1.0 - 1e-15) return (r[nearest] > 0.0 ? 1.0 : -1.0)*0.6366197723675814*asin(r[5 - nearest]);
    for (int k = 0; k < 3; k++) { /* the pairing whose cross correlations are smallest */
        for (int i = 1; i < 5; i++)
            if (fabs(r[order[k][i]]) > worst[k]) worst[k] = fabs(r[order[k][i]]);
        if (worst[k] < worst[best]) best = k;
    }
    const int *o = order[best];
    const double ra = r[o[0]], ac = r[o[1]], ad = r[o[2]], bc = r[o[3]], bd = r[o[4]], rb = r[o[5]];
    const double q = ac*ac + ad*ad + bc*bc + bd*bd - 2.0*ra*(ac*bc + ad*bd) - 2.0*rb*(ac*ad + bc*bd)
                     + 2.0*ra*rb*(ad*bc + ac*bd);
    const double m = (ac*bd - ad*bc)*(ac*bd - ad*bc), base = (1.0 - ra*ra)*(1.0 - rb*rb);
    /* every singularity is a real t beyond that of the determinant base - q t^2 + m t^4, whose zeros t^2 are real */
    const double root = q*q - 4.0*m*base, zero = 2.0*base/(q + sqrt(root > 0.0 ? root : 0.0));
    double total;
    if (zero > GAUSS_REACH) {
        int rule = 0;
        while (zero < gauss_zero[rule]) rule++;
        total = foursigns_path(r, o, gauss_first[rule], gauss_first[rule + 1]);
    } else {
        total = foursigns_path(r, o, 0, COARSE);
        if (base - q + m < 0.1*base || worst[best] > 0.9) /* a singularity close to the path: twice the nodes */
            total = 0.5*(total + foursigns_path(r, o, COARSE, NODES));
    }
    return 0.4052847345693511*(asin(ra)*asin(rb) + total);
}
""",
}


def _gauss_legendre(count: int) -> Iterator[tuple[Any, Any]]:
    """Yield nodes in (-1, 1) and weights of the Gauss-Legendre rule: the same digits on every machine."""
    with mpmath.workdps(30):
        for i in range(count):
            x = mpmath.cos(mpmath.pi * (i + 0.75) / (count + 0.5))
            for _ in range(8):  # Newton's method for the Legendre polynomial
                before, value = mpmath.mpf(1), x
                for n in range(2, count + 1):
                    before, value = value, ((2 * n - 1) * x * value - (n - 1) * before) / n
                slope = count * (x * value - before) / (x**2 - 1)
                x -= value / slope
            yield x, 2 / ((1 - x**2) * slope**2)


def c_nodes() -> str:
    """Return C arrays of the nodes t, of 1 - t, and of the weights.

    First the tanh-sinh rule, its midpoints, then Gauss-Legendre rules for singularities at t² beyond a bound: the error
    of n nodes is ρ^(-2n), where ρ = z + √(z² − 1), z = 2t − 1 at the singularity.
    """
    steps = [_STEP * k for k in (*range(-_SIDE, _SIDE + 1), *(i + 0.5 for i in range(-_SIDE, _SIDE)))]
    t = [1 / (1 + math.exp(-math.pi * math.sinh(k))) for k in steps]
    s = [1 / (1 + math.exp(math.pi * math.sinh(k))) for k in steps]
    w = [_STEP * math.pi * math.cosh(k) * x * y for k, x, y in zip(steps, t, s, strict=True)]
    first, zeros = [len(steps)], []
    for count in _GAUSS:
        for node, weight in _gauss_legendre(count):
            t.append(float((1 + node) / 2))
            s.append(float((1 - node) / 2))
            w.append(float(weight / 2))
        first.append(len(t))
        zeros.append((0.5 + math.cosh(math.log(10) * 8 / count) / 2) ** 2)  # an error of 1e-16
    text = f"enum {{ COARSE = {_COARSE}, NODES = {len(steps)} }};\n"
    text += f"#define GAUSS_REACH {zeros[-1]:.3f}\n"
    text += f"static const double gauss_zero[] = {{{', '.join(f'{zero:.3f}' for zero in zeros)}}};\n"
    text += f"static const int gauss_first[] = {{{', '.join(map(str, first))}}};\n"
    for name, values in (("t", t), ("s", s), ("w", w)):
        rows = [", ".join(f"{value:.17g}" for value in values[i : i + 4]) for i in range(0, len(values), 4)]
        text += f"static const double node_{name}[] = {{\n    " + ",\n    ".join(rows) + "};\n"
    return text


#: C text of first-order numbers and the functions on them; needs all of C_SOURCE
C_DUAL = """
typedef struct { double a, b; } dual;

static inline dual dual_of(double a, double b) { const dual x = {a, b}; return x; }
static inline dual dual_add(dual x, dual y) { return dual_of(x.a + y.a, x.b + y.b); }
static inline dual dual_mul(dual x, dual y) { return dual_of(x.a*y.a, x.a*y.b + x.b*y.a); }
static inline dual dual_scale(double c, dual x) { return dual_of(c*x.a, c*x.b); }
static inline dual dual_inverse(dual x) { return dual_of(1.0/x.a, -x.b/(x.a*x.a)); }
static inline dual dual_sqrt(dual x) { return dual_of(sqrt(x.a), 0.0); } /* of weights, the value is enough */
static inline dual dual_asin(dual x) { return dual_of(asin1(x.a), 0.0); }
static inline dual dual_exp(dual x) { return dual_of(exp(x.a), 0.0); }
static inline dual dual_cos(dual x) { return dual_of(cos(x.a), 0.0); }
static inline dual dual_sin(dual x) { return dual_of(sin(x.a), 0.0); }
static inline dual dual_positive(dual v) { return dual_of(positive(v.a), v.b); }
static inline dual dual_clean(dual v, dual s) { return dual_of(clean(v.a, s.a), v.b); }
static inline dual dual_density(dual v) { return dual_of(density(v.a), 0.0); }

static inline dual dual_share(dual c, dual v)
{
    if (!(v.a > 0.0)) return dual_of(share(c.b, v.b), 0.0);
    const double ratio = c.a/v.a;
    return dual_of(ratio, (c.b - ratio*v.b)/v.a);
}

static inline double lower(dual v) { return v.a > 0.0 ? 0.0 : v.b; }

static inline dual dual_signsign(dual c, dual u, dual v)
{
    return dual_of(signsign(c.a, u.a, v.a) + signsign(c.b, lower(u), lower(v)), 0.0);
}

/* Signs of vanishing variables correlate only with one another, at the next order. */
static dual dual_foursigns(dual c12, dual c13, dual c14, dual c23, dual c24, dual c34,
                           dual v1, dual v2, dual v3, dual v4)
{
    static const int pair[6][2] = {{0, 1}, {0, 2}, {0, 3}, {1, 2}, {1, 3}, {2, 3}};
    const dual c[6] = {c12, c13, c14, c23, c24, c34}, v[4] = {v1, v2, v3, v4};
    int vanishing = 0, which = 0;
    for (int i = 0; i < 4; i++)
        if (!(v[i].a > 0.0)) vanishing++, which |= 1 << i;
    if (vanishing == 0)
        return dual_of(foursigns(c12.a, c13.a, c14.a, c23.a, c24.a, c34.a, v1.a, v2.a, v3.a, v4.a), 0.0);
    if (vanishing == 4)
        return dual_of(foursigns(c12.b, c13.b, c14.b, c23.b, c24.b, c34.b, v1.b, v2.b, v3.b, v4.b), 0.0);
    if (vanishing != 2) return dual_of(0.0, 0.0);
    for (int i = 0; i < 6; i++) {
        const int u = pair[i][0], w = pair[i][1], y = pair[5 - i][0], z = pair[5 - i][1];
        if (which == ((1 << y) | (1 << z))) {
            const double regular = signsign(c[i].a, v[u].a, v[w].a), below = signsign(c[5 - i].b, v[y].b, v[z].b);
            return dual_of(0.4052847345693511*regular*below, 0.0);
        }
    }
    return dual_of(0.0, 0.0);
}
"""


#: what needs no first-order numbers, and none of the others
_PLAIN_NUMPY = {"positive": "\n\ndef positive(v):\n    return np.maximum(v, 0.0)\n", **PLAIN_NUMPY}
_PLAIN_C = {"positive": C_SOURCE["positive"], **PLAIN_C}


def numpy_text(used: Set[str]) -> str:
    """Return numpy text that defines the functions used; it needs ``np`` and, of waves, ``erf`` and ``dawsn``."""
    if used <= _PLAIN_NUMPY.keys():
        return "".join(_PLAIN_NUMPY[name] for name in sorted(used))
    return DUAL_SOURCE + "\n".join(NUMPY_SOURCE.values()) + (WAVES_NUMPY if used & _WAVE_NAMES else "")


def c_text(used: Set[str]) -> str:
    """Return C text that defines the functions used, but for those of four variables."""
    if used <= _PLAIN_C.keys():
        return "".join(_PLAIN_C[name] for name in sorted(used))
    kinked = "".join(text for name, text in C_SOURCE.items() if name != "foursigns")  # they call one another
    return kinked + ("".join(PLAIN_C.values()) + waves_c() if used & _WAVE_NAMES else "")


def c_dual_text(used: Set[str]) -> str:
    """Return C text of first-order numbers and the functions on them; goes after that of the functions."""
    return C_DUAL + (WAVES_DUAL if used & _WAVE_NAMES else "")


@cache
def numpy_namespace() -> dict[str, Any]:
    """Return the functions for numpy, from the text that is emitted."""
    import numpy as np
    from scipy.special import dawsn, erf

    scope: dict[str, Any] = {"np": np, "erf": erf, "dawsn": dawsn}
    exec(numpy_text(NAMES), scope)  # our own text
    return {name: scope[name] for name in ("Dual", *sorted(NAMES))}
