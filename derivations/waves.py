"""Signs beside an exponential or a wave: the base functions of kinks and error functions with exp, sin and cos.

Let z be a centred Gaussian variable that covaries with u1, u2, …  The functions give the expectations

==================================  ==============================  =================================================
onesign(kind, E, c1, v1)            E[e^z s1], E[sin z s1]          e^E erf(α1)
twosigns(kind, E, c1, …, c12)       E[e^z s1 s2], E[cos z s1 s2]    (2/π)(e^E asin r + Σ_i α_i β_ij rise(α_i², β_ij²))
threesigns(kind, E, c1, …, c23)     E[e^z s1 s2 s3], E[sin z …]     by conditioning on each u_i, see below
scaled(h, s)                        s e^h                           0 where s = 0, however large h is
==================================  ==============================  =================================================

where s_i = sign(u_i), c_i = Cov(z, u_i), v_i = Var u_i, r the correlations; kind is +1 for the exponential and −1 for
the wave, and E is (Var z)/2 for the one and −(Var z)/2 for the other (programs of exponentials measure E from the
exponent of the whole product, so that nothing overflows before the end).

With α_i = c_i/√(2v_i), β_ij the same for u_j given u_i = 0, and κ_k for u_k given that the others are zero, Price's
theorem along Cov(z, u_i) → t Cov(z, u_i) gives, for the exponential,

- E[e^z s1 s2] = e^E ((2/π) asin r + Σ_i (2/√π) ∫ α_i e^{−α_i²t²} erf(β_ij t) dt), where each integral is
  (2/π) α β ∫ (1 − e^{−y})/y ds with y = α² + β²s²: Owen's T function;
- E[e^z s1 s2 s3] = e^E (Σ_i erf(α_i) F_i − Σ_{i≠j} (2/√π) ∫ β_ij e^{−β_ij²w²} erf(κ_k w) erf(α_i w) dw) with the same
  bracket F_i of the two other signs given u_i = 0, whose slopes are β_ij and κ_k (k is neither i nor j).

The wave is its continuation to imaginary α, β and κ: erf becomes erfi, written with Dawson's function so that all
exponents, of which α² + β² + κ² never exceeds (Var z)/2, meet before they are exponentiated.  All integrands are
entire.  Differences of correlations are formed from 1 − r, whose rounding is common to all terms that cancel.  A sign
without variance averages to zero.
"""

from __future__ import annotations

import mpmath
import sympy
from sympy.integrals.quadrature import gauss_legendre

_POINTS = 16  # of the Gauss–Legendre rule on each panel
PANELS = (0.0, 0.0625, 0.25, 1.0)  # resolve slopes up to 30, beyond which e^{E} overflows
_SMALL = 4.0  # exponents below which one panel resolves to 1e-16
_FAR = 40.0  # exponents that are negligible


class Unevaluated(sympy.Function):  # type: ignore[misc]
    """A real function that SymPy leaves as it is."""

    is_real = True


class scaled(Unevaluated):
    """A number times an exponential that may overflow."""

    nargs = 2


class onesign(Unevaluated):
    """Expectation of a sign beside an exponential or a sine."""

    nargs = 4


class twosigns(Unevaluated):
    """Expectation of two signs beside an exponential or a cosine."""

    nargs = 7


class threesigns(Unevaluated):
    """Expectation of three signs beside an exponential or a sine."""

    nargs = 11


WAVES = (scaled, onesign, twosigns, threesigns)

PLAIN_NUMPY = {
    "scaled": """

def scaled(h, s):
    with np.errstate(over="ignore", invalid="ignore"):
        half = np.exp(0.5*np.asarray(h, dtype=float))
        return np.where(s == 0.0, 0.0, s*half*half)
"""
}
PLAIN_C = {
    "scaled": """
static inline double scaled(double h, double s)
{
    const double half = exp(0.5*h);
    return s == 0.0 ? 0.0 : s*half*half;
}
"""
}

#: numpy text; needs ``signsign`` and ``Dual``, and ``erf`` and ``dawsn`` of scipy.special
WAVES_NUMPY = f'''
def scaled(h, s):
    return Dual(_scaled(h.a, s.a), 0.0) if isinstance(s, Dual) else _scaled(h, s)


{PLAIN_NUMPY["scaled"].replace("scaled", "_scaled").strip()}


_x, _w = np.polynomial.legendre.leggauss({_POINTS})
_ends = np.array({PANELS})
_gauss_x = np.concatenate([a + (b - a)*(_x + 1.0)/2.0 for a, b in zip(_ends[:-1], _ends[1:])])
_gauss_w = np.concatenate([(b - a)*_w/2.0 for a, b in zip(_ends[:-1], _ends[1:])])


def _nodes(kind, rate):
    """Nodes on (0, 1), dense near 0; of waves, whose integrand grows as exp(rate s^2), where it is not negligible."""
    if kind > 0:
        return list(zip(_gauss_x, _gauss_w))
    part = {_FAR}/np.maximum(rate, {_FAR})
    length = part/(1.0 + np.sqrt(1.0 - part))
    return [(1.0 - length*t, length*v) for t, v in zip(_gauss_x, _gauss_w)]


def _rise(kind, E, A, B):
    """Integral over s of kind (e^E - e^(E - kind y))/y with y = A + B s^2."""
    total, start = 0.0, np.exp(E)
    for s, w in _nodes(kind, B):
        y = A + B*s*s
        total = total + w*kind*(start - np.exp(E - kind*y))/(y + 1e-300)
    return total


def _given(kind, E, angle, *slopes):
    """Two signs with the given angle and (alpha, beta) of each."""
    value = np.exp(E)*angle
    for a, b in slopes:
        value = value + kind*a*b*_rise(kind, E, a*a, b*b)
    return 2.0/np.pi*value


def _triple(kind, E, a, b, k):
    """Integral over w of 2/sqrt(pi) b e^(E - kind b^2 w^2) erf(k w) erf(a w), or erfi in place of erf."""
    total, rate = 0.0, a*a + b*b + k*k
    for s, w in _nodes(kind, rate):
        if kind > 0:
            total = total + w*np.exp(E - b*b*s*s)*erf(k*s)*erf(a*s)
        else:
            total = total + w*np.exp(E + rate*s*s)*dawsn(k*s)*dawsn(a*s)*(4.0/np.pi)
    return 2.0/np.sqrt(np.pi)*b*total


def _within(kind, slope, room):
    """A slope whose square rounding must not carry beyond the room that the variance of a wave leaves."""
    bound = np.sqrt(np.maximum(room, 0.0))
    return slope if kind > 0 else np.clip(slope, -bound, bound)


def _correlation(c, v):
    """The size and the sign of a correlation."""
    r = np.clip(_ratio(c, v), -1.0, 1.0)
    return np.abs(r), np.where(r < 0.0, -1.0, 1.0)


def _ratio(c, v):
    return np.divide(c, np.sqrt(np.where(v > 0.0, v, 1.0)), where=v > 0.0, out=np.zeros(np.broadcast(c, v).shape))


def _scaled_erf(kind, E, a):
    """erf(a) and E, or erfi(a) without its exponential and E with it."""
    return (erf(a), E) if kind > 0 else (2.0/np.sqrt(np.pi)*dawsn(a), E + a*a)


def _values(*entries):
    return np.broadcast_arrays(*(np.asarray(getattr(x, "a", x), dtype=float) for x in entries))


def _lower(v):
    return np.where(v.a > 0.0, 0.0, v.b)


def onesign(kind, E, c, v):
    if isinstance(v, Dual):
        return Dual(onesign(kind, *_values(E, c, v)), 0.0)
    E, c, v = _values(E, c, v)
    size, E = _scaled_erf(kind, E, _within(kind, _ratio(c, 2.0*v), -E))
    return size*np.exp(E)


def twosigns(kind, E, c1, c2, v1, v2, c12):
    if isinstance(v1, Dual):  # signs of vanishing variables correlate only with one another, at the next order
        below = np.exp(getattr(E, "a", E))*signsign(c12.b, _lower(v1), _lower(v2))
        return Dual(twosigns(kind, *_values(E, c1, c2, v1, v2, c12)) + 2.0/np.pi*below, 0.0)
    E, c1, c2, v1, v2, c12 = _values(E, c1, c2, v1, v2, c12)
    a1, a2 = (_within(kind, _ratio(c, 2.0*v), -E) for c, v in ((c1, v1), (c2, v2)))
    r, flip = _correlation(c12, v1*v2)
    a2, gap = flip*a2, 1.0 - r
    rest = gap*(2.0 - gap)
    slopes = [(a, _within(kind, _ratio(other - a + a*gap, rest), -E - a*a)) for a, other in ((a1, a2), (a2, a1))]
    return np.where((v1 > 0.0) & (v2 > 0.0), flip*_given(kind, E, np.arctan2(r, np.sqrt(rest)), *slopes), 0.0)


def threesigns(kind, E, c1, c2, c3, v1, v2, v3, c12, c13, c23):
    if isinstance(v1, Dual):
        value = threesigns(kind, *_values(E, c1, c2, c3, v1, v2, v3, c12, c13, c23))
        for c, v, cij, vi, vj in ((c1, v1, c23, v2, v3), (c2, v2, c13, v1, v3), (c3, v3, c12, v1, v2)):
            below = signsign(cij.b, _lower(vi), _lower(vj))
            value = value + 2.0/np.pi*onesign(kind, *_values(E, c, v))*below
        return Dual(value, 0.0)
    E, c1, c2, c3, v1, v2, v3, c12, c13, c23 = _values(E, c1, c2, c3, v1, v2, v3, c12, c13, c23)
    a = [_within(kind, _ratio(c, 2.0*v), -E) for c, v in ((c1, v1), (c2, v2), (c3, v3))]
    r13, flip3 = _correlation(c13, v1*v3)  # signs are turned so that nearly coincident ones have r close to +1
    r12, flip2 = _correlation(c12, v1*v2)
    a[1], a[2] = flip2*a[1], flip3*a[2]
    r23 = flip2*flip3*np.clip(_ratio(c23, v2*v3), -1.0, 1.0)
    gap = [1.0 - r23, 1.0 - r13, 1.0 - r12]  # the entry with index i belongs to the two signs other than i
    rest = [e*(2.0 - e) for e in gap]
    partial = [gap[i - 1] + gap[i - 2] - gap[i] - gap[i - 1]*gap[i - 2] for i in range(3)]
    volume = np.maximum(rest[1]*rest[2] - partial[0]**2, 0.0)
    total = 0.0
    for i in range(3):
        size, exponent = _scaled_erf(kind, E, a[i])
        slopes = []
        for j, k in ((i - 1, i - 2), (i - 2, i - 1)):
            b = _within(kind, _ratio(a[j] - a[i] + a[i]*gap[k], rest[k]), -E - a[i]**2)
            last = (a[k] - a[i])*partial[j] + (a[k] - a[j])*partial[i] + a[k]*gap[k]*(gap[i] + gap[j] - gap[k])
            last = _within(kind, _ratio(last, rest[k]*volume), -E - a[i]**2 - b**2)
            slopes.append((b, last))
            total = total - kind*_triple(kind, E, a[i], b, last)
        total = total + size*_given(kind, exponent, np.arctan2(partial[i], np.sqrt(volume)), *slopes)
    for i in range(3):  # coincident signs leave the third
        size, exponent = _scaled_erf(kind, E, a[i])
        for tied, sign in ((gap[i] < 1e-15, 1.0), (gap[i] > 2.0 - 1e-15, -1.0)):
            total = np.where(tied, sign*size*np.exp(exponent), total)
    return np.where((v1 > 0.0) & (v2 > 0.0) & (v3 > 0.0), flip2*flip3*total, 0.0)
'''


def _rows(name: str, values: list[float]) -> str:
    rows = [", ".join(f"{value:.17g}" for value in values[i : i + 4]) for i in range(0, len(values), 4)]
    return f"static const double {name}[{len(values)}] = {{\n    " + ",\n    ".join(rows) + "};\n"


def waves_c() -> str:
    """Return the C text of the functions; it needs ``signsign``."""
    nodes, weights = ([float(value) / 2 for value in values] for values in gauss_legendre(_POINTS, 25))
    nodes = [0.5 + node for node in nodes]
    step = 0.25
    decay = [float(mpmath.exp(-((step * n) ** 2))) for n in range(1, 27, 2)]
    table = f"\nenum {{ POINTS = {_POINTS} }};\n" + _rows("gauss_x", nodes) + _rows("gauss_w", weights)
    table += f"static const double panel[{len(PANELS)}] = {{{', '.join(map(repr, PANELS))}}};\n"
    return table + _rows("dawson_decay", decay) + _C_FUNCTIONS


_C_FUNCTIONS = f"""
/* Dawson's function: its series, or the trapezoidal sum of Rybicki, which converges exponentially */
static double dawson(double x)
{{
    const double a = fabs(x), x2 = x*x;
    if (a < 0.8) {{
        double sum = 1.0;
        for (int n = 18; n > 0; n--) sum = 1.0 - sum*x2/(n + 0.5);
        return x*sum;
    }}
    const double even = 2.0*floor(2.0*a + 0.5), y = a - 0.25*even, up = exp(0.5*y), down = 1.0/up;
    double rise = up, fall = down, sum = 0.0;
    for (int i = 0; i < 13; i++) {{
        const double n = 2*i + 1;
        sum += dawson_decay[i]*(rise/(even + n) + fall/(even - n));
        rise *= up*up;
        fall *= down*down;
    }}
    sum *= 0.5641895835477563*exp(-y*y);
    return x > 0.0 ? sum : -sum;
}}

/* The part of (0, 1), from 1 downwards, on which a wave's integrand exp(rate s^2) is not negligible */
static inline double reach(double kind, double rate)
{{
    const double part = rate > {_FAR} ? {_FAR}/rate : 1.0;
    return kind > 0.0 ? 1.0 : part/(1.0 + sqrt(1.0 - part));
}}

/* Integral over s of kind (e^E - e^(E - kind y))/y with y = A + B s^2 */
static double rise(double kind, double E, double A, double B)
{{
    const double length = reach(kind, B), start = exp(E);
    const int few = A + B < {_SMALL};
    double total = 0.0;
    for (int i = 0; i < (few ? 1 : 3); i++) {{
        const double low = panel[i], size = few ? 1.0 : panel[i + 1] - low;
        double sum = 0.0;
#pragma omp simd reduction(+ : sum)
        for (int n = 0; n < POINTS; n++) {{
            const double t = low + size*gauss_x[n], s = kind > 0.0 ? t : 1.0 - length*t, y = A + B*s*s;
            sum += gauss_w[n]*(start - exp(E - kind*y))/(y + 1e-300);
        }}
        total += size*length*kind*sum;
    }}
    return total;
}}

/* Integral over w of 2/sqrt(pi) b e^(E - kind b^2 w^2) erf(k w) erf(a w), or erfi in place of erf */
static double triple(double kind, double E, double a, double b, double k)
{{
    const double rate = a*a + b*b + k*k, length = reach(kind, rate);
    const int few = rate < {_SMALL};
    double total = 0.0;
    if (a == 0.0 || b == 0.0 || k == 0.0) return 0.0;
    for (int i = 0; i < (few ? 1 : 3); i++) {{
        const double low = panel[i], size = few ? 1.0 : panel[i + 1] - low;
        double sum = 0.0;
        if (kind > 0.0) {{
#pragma omp simd reduction(+ : sum)
            for (int n = 0; n < POINTS; n++) {{
                const double s = low + size*gauss_x[n];
                sum += gauss_w[n]*exp(E - b*b*s*s)*erf(k*s)*erf(a*s);
            }}
        }} else {{
            for (int n = 0; n < POINTS; n++) {{
                const double s = 1.0 - length*(low + size*gauss_x[n]);
                sum += gauss_w[n]*exp(E + rate*s*s)*1.2732395447351628*dawson(k*s)*dawson(a*s);
            }}
        }}
        total += size*length*sum;
    }}
    return 1.1283791670955126*b*total;
}}

/* A slope whose square rounding must not carry beyond the room that the variance of a wave leaves */
static inline double within(double kind, double slope, double room)
{{
    const double bound = room > 0.0 ? sqrt(room) : 0.0;
    if (kind > 0.0) return slope;
    return slope > bound ? bound : (slope < -bound ? -bound : slope);
}}

static inline double ratio(double c, double v) {{ return v > 0.0 ? c/sqrt(v) : 0.0; }}

static inline double correlation(double c, double v)
{{
    const double r = ratio(c, v);
    return r > 1.0 ? 1.0 : (r < -1.0 ? -1.0 : r);
}}

/* erf(a), or erfi(a) without its exponential, which goes to the exponent */
static inline double scaled_erf(double kind, double a, double *E)
{{
    if (kind > 0.0) return erf(a);
    *E += a*a;
    return 1.1283791670955126*dawson(a);
}}

static double onesign(double kind, double E, double c, double v)
{{
    double exponent = E;
    const double size = scaled_erf(kind, within(kind, ratio(c, 2.0*v), -E), &exponent);
    return size*exp(exponent);
}}

static double twosigns(double kind, double E, double c1, double c2, double v1, double v2, double c12)
{{
    if (!(v1 > 0.0 && v2 > 0.0)) return 0.0;
    const double a1 = within(kind, ratio(c1, 2.0*v1), -E), a2 = within(kind, ratio(c2, 2.0*v2), -E);
    const double r = correlation(c12, v1*v2), flip = r < 0.0 ? -1.0 : 1.0, gap = 1.0 - fabs(r), rest = gap*(2.0 - gap);
    const double b12 = within(kind, ratio(flip*a2 - a1 + a1*gap, rest), -E - a1*a1);
    const double b21 = within(kind, ratio(a1 - flip*a2 + flip*a2*gap, rest), -E - a2*a2);
    return 0.6366197723675814*(flip*(exp(E)*atan2(fabs(r), sqrt(rest)) + kind*a1*b12*rise(kind, E, a1*a1, b12*b12))
                               + kind*a2*b21*rise(kind, E, a2*a2, b21*b21));
}}

static double threesigns(double kind, double E, double c1, double c2, double c3,
                         double v1, double v2, double v3, double c12, double c13, double c23)
{{
    if (!(v1 > 0.0 && v2 > 0.0 && v3 > 0.0)) return 0.0;
    /* signs are turned so that nearly coincident ones have correlations close to +1 */
    const double r12 = correlation(c12, v1*v2), r13 = correlation(c13, v1*v3);
    const double flip2 = r12 < 0.0 ? -1.0 : 1.0, flip3 = r13 < 0.0 ? -1.0 : 1.0;
    const double a[3] = {{within(kind, ratio(c1, 2.0*v1), -E), flip2*within(kind, ratio(c2, 2.0*v2), -E),
                         flip3*within(kind, ratio(c3, 2.0*v3), -E)}};
    /* the entry with index i belongs to the two signs other than i */
    const double gap[3] = {{1.0 - flip2*flip3*correlation(c23, v2*v3), 1.0 - fabs(r13), 1.0 - fabs(r12)}};
    for (int i = 0; i < 3; i++) /* coincident signs leave the third */
        if (gap[i] < 1e-15 || gap[i] > 2.0 - 1e-15) {{
            double exponent = E;
            const double size = scaled_erf(kind, a[i], &exponent);
            return (gap[i] < 1.0 ? 1.0 : -1.0)*flip2*flip3*size*exp(exponent);
        }}
    double rest[3], partial[3];
    for (int i = 0; i < 3; i++) {{
        const double e = gap[(i + 1) % 3], f = gap[(i + 2) % 3];
        rest[i] = gap[i]*(2.0 - gap[i]);
        partial[i] = e + f - gap[i] - e*f;
    }}
    const double left = rest[1]*rest[2] - partial[0]*partial[0], volume = left > 0.0 ? left : 0.0;
    double total = 0.0;
    for (int i = 0; i < 3; i++) {{
        double exponent = E;
        const double size = scaled_erf(kind, a[i], &exponent);
        double pair = exp(exponent)*atan2(partial[i], sqrt(volume));
        for (int step = 1; step < 3; step++) {{
            const int j = (i + step) % 3, k = 3 - i - j;
            const double b = within(kind, ratio(a[j] - a[i] + a[i]*gap[k], rest[k]), -E - a[i]*a[i]);
            const double m = (a[k] - a[i])*partial[j] + (a[k] - a[j])*partial[i]
                             + a[k]*gap[k]*(gap[i] + gap[j] - gap[k]);
            const double last = within(kind, ratio(m, rest[k]*volume), -E - a[i]*a[i] - b*b);
            pair += kind*b*last*rise(kind, exponent, b*b, last*last);
            total -= kind*triple(kind, E, a[i], b, last);
        }}
        total += 0.6366197723675814*size*pair;
    }}
    return flip2*flip3*total;
}}
"""

#: C text in first-order numbers: signs of vanishing variables correlate only with one another, at the next order
WAVES_DUAL = """
static inline dual dual_scaled(dual h, dual s) { return dual_of(scaled(h.a, s.a), 0.0); }

static inline dual dual_onesign(dual kind, dual E, dual c, dual v)
{
    return dual_of(onesign(kind.a, E.a, c.a, v.a), 0.0);
}

static inline dual dual_twosigns(dual kind, dual E, dual c1, dual c2, dual v1, dual v2, dual c12)
{
    const double below = exp(E.a)*signsign(c12.b, lower(v1), lower(v2));
    return dual_of(twosigns(kind.a, E.a, c1.a, c2.a, v1.a, v2.a, c12.a) + 0.6366197723675814*below, 0.0);
}

static inline dual dual_threesigns(dual kind, dual E, dual c1, dual c2, dual c3,
                                   dual v1, dual v2, dual v3, dual c12, dual c13, dual c23)
{
    const double value = threesigns(kind.a, E.a, c1.a, c2.a, c3.a, v1.a, v2.a, v3.a, c12.a, c13.a, c23.a);
    const double first = onesign(kind.a, E.a, c1.a, v1.a)*signsign(c23.b, lower(v2), lower(v3));
    const double second = onesign(kind.a, E.a, c2.a, v2.a)*signsign(c13.b, lower(v1), lower(v3));
    const double third = onesign(kind.a, E.a, c3.a, v3.a)*signsign(c12.b, lower(v1), lower(v2));
    return dual_of(value + 0.6366197723675814*(first + second + third), 0.0);
}
"""
