"""The functions of :mod:`.functions` and :mod:`.waves` in mpmath, to any number of digits.

Where those are integrals, these are the same integrals by mpmath's adaptive quadrature.
"""

from __future__ import annotations

from typing import Any

import mpmath

from .waves import PANELS

_ZERO = mpmath.mpf(0)


def _clean(v: Any, s: Any) -> Any:
    return v if v > mpmath.mpf(10) ** (4 - mpmath.mp.dps) * s else _ZERO


def _signsign(c: Any, u: Any, v: Any) -> Any:
    if u <= 0 or v <= 0:
        return _ZERO
    return mpmath.atan2(c, mpmath.sqrt(max(u * v - c * c, _ZERO)))


def _foursigns(*entries: Any) -> Any:
    """The same path integral by mpmath's adaptive quadrature, along the first pairing."""
    c12, c13, c14, c23, c24, c34, *variances = entries
    if min(variances) <= 0:
        return _ZERO
    cov = {(0, 1): c12, (0, 2): c13, (0, 3): c14, (1, 2): c23, (1, 3): c24, (2, 3): c34}
    r = {pair: value / mpmath.sqrt(variances[pair[0]] * variances[pair[1]]) for pair, value in cov.items()}
    r = {pair: max(min(value, mpmath.mpf(1)), mpmath.mpf(-1)) for pair, value in r.items()}

    def at(i: int, j: int, t: Any) -> Any:
        if i == j:
            return mpmath.mpf(1)
        pair = (min(i, j), max(i, j))
        return r[pair] * (1 if pair in ((0, 1), (2, 3)) else t)

    def slope(t: Any) -> Any:
        total = _ZERO
        for i, k in ((0, 1), (1, 0)):
            for j, l in ((2, 3), (3, 2)):
                x = at(i, j, t)
                room = 1 - x**2
                if room <= 0:
                    continue

                def conditional(u: int, v: int, i: int = i, j: int = j, x: Any = x, room: Any = room) -> Any:
                    ui, uj, vi, vj = at(u, i, t), at(u, j, t), at(v, i, t), at(v, j, t)
                    return at(u, v, t) - (ui * vi + uj * vj - x * (ui * vj + uj * vi)) / room

                angle = _signsign(conditional(k, l), conditional(k, k), conditional(l, l))
                total += at(i, j, mpmath.mpf(1)) / mpmath.sqrt(room) * angle
        return total

    path = mpmath.quad(slope, [0, 0.5, 0.9, 0.99, 1])
    return (2 / mpmath.pi) ** 2 * (mpmath.asin(r[0, 1]) * mpmath.asin(r[2, 3]) + path)


def _error(kind: Any, x: Any) -> Any:
    return mpmath.erf(x) if kind > 0 else mpmath.erfi(x)


def _integral(kind: Any, integrand: Any, rate: Any) -> Any:
    """Integrate over (0, 1); rate is that at which a wave's integrand grows with the square of the variable."""
    if kind > 0:
        return mpmath.quad(integrand, list(PANELS))
    far = mpmath.mpf(3) * mpmath.mp.dps
    length = 1 - mpmath.sqrt(1 - far / rate) if rate > far else mpmath.mpf(1)
    return mpmath.quad(integrand, [1 - length * t for t in reversed(PANELS)])


def _slope(c: Any, v: Any) -> Any:
    return c / mpmath.sqrt(v) if v > 0 else _ZERO


def _given(kind: Any, angle: Any, slopes: Any) -> Any:
    total = 2 / mpmath.pi * angle
    for a, b in slopes:

        def integrand(t: Any, a: Any = a, b: Any = b) -> Any:
            return a * mpmath.exp(-kind * (a * t) ** 2) * _error(kind, b * t)

        total += kind * 2 / mpmath.sqrt(mpmath.pi) * _integral(kind, integrand, a * a + b * b)
    return total


def _onesign(kind: Any, E: Any, c: Any, v: Any) -> Any:
    return mpmath.exp(E) * _error(kind, _slope(c, 2 * v))


def _twosigns(kind: Any, E: Any, c1: Any, c2: Any, v1: Any, v2: Any, c12: Any) -> Any:
    if v1 <= 0 or v2 <= 0:
        return _ZERO
    a1, a2 = _slope(c1, 2 * v1), _slope(c2, 2 * v2)
    r = max(min(_slope(c12, v1 * v2), mpmath.mpf(1)), mpmath.mpf(-1))
    rest = 1 - r * r
    slopes = [(a1, _slope(a2 - a1 * r, rest)), (a2, _slope(a1 - a2 * r, rest))]
    return mpmath.exp(E) * _given(kind, mpmath.asin(r), slopes)


def _threesigns(kind: Any, E: Any, *entries: Any) -> Any:
    """The one-dimensional integrals by mpmath's adaptive quadrature, with conditional covariances."""
    c, v, off = entries[:3], entries[3:6], entries[6:]
    if min(v) <= 0:
        return _ZERO
    cov = {(0, 1): off[0], (0, 2): off[1], (1, 2): off[2]}
    floor = mpmath.mpf(10) ** (4 - mpmath.mp.dps)
    for (i, j), entry in cov.items():
        if v[i] * v[j] - entry**2 < floor * v[i] * v[j]:  # coincident signs leave the third
            return mpmath.sign(entry) * _onesign(kind, E, c[3 - i - j], v[3 - i - j])
    total = _ZERO
    for i in range(3):
        j, k = (n for n in range(3) if n != i)
        a = _slope(c[i], 2 * v[i])
        with_j, with_k = cov[min(i, j), max(i, j)], cov[min(i, k), max(i, k)]
        vj, vk = v[j] - with_j**2 / v[i], v[k] - with_k**2 / v[i]
        cj, ck, cjk = c[j] - with_j * c[i] / v[i], c[k] - with_k * c[i] / v[i], cov[j, k] - with_j * with_k / v[i]
        volume = max(vj * vk - cjk**2, _ZERO)
        flat = volume < floor * vj * vk
        last_k = _ZERO if flat else _slope(ck * vj - cj * cjk, 2 * vj * volume)
        last_j = _ZERO if flat else _slope(cj * vk - ck * cjk, 2 * vk * volume)
        slopes = [(_slope(cj, 2 * vj), last_k), (_slope(ck, 2 * vk), last_j)]
        total += _error(kind, a) * _given(kind, mpmath.atan2(cjk, mpmath.sqrt(volume)), slopes)
        for b, last in slopes:

            def integrand(w: Any, a: Any = a, b: Any = b, last: Any = last) -> Any:
                both = _error(kind, last * w) * _error(kind, a * w)
                return b * mpmath.exp(-kind * (b * w) ** 2) * both

            rate = a * a + b * b + last * last
            total -= kind * 2 / mpmath.sqrt(mpmath.pi) * _integral(kind, integrand, rate)
    return mpmath.exp(E) * total


MPMATH: dict[str, Any] = {
    "positive": lambda v: max(v, _ZERO),
    "clean": _clean,
    "share": lambda c, v: c / v if v > 0 else _ZERO,
    "density": lambda v: 1 / mpmath.sqrt(2 * mpmath.pi * v) if v > 0 else _ZERO,
    "signsign": _signsign,
    "foursigns": _foursigns,
    "scaled": lambda h, s: s * mpmath.exp(h),
    "onesign": _onesign,
    "twosigns": _twosigns,
    "threesigns": _threesigns,
}
