"""Kernels: the generated code of one student-teacher pair, in numpy or compiled, behind one interface."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import _bridge, _compiler
from ._activation import Activation
from ._errors import warn_backend

Array: TypeAlias = NDArray[np.float64]

BACKENDS = ("auto", "c", "numpy")
_CSRC = Path(__file__).parent / "csrc"
_CHUNK = 2_000_000  # numbers in the largest temporary of the numpy backend


class CSystem(ctypes.Structure):
    """The struct hdsgd_system of csrc/fields.c, field by field, and the arrays that it points at."""

    arrays: tuple[Array, ...]
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("p", "k", "spherical")),
        *((name, ctypes.c_double) for name in ("gamma", "Delta", "decay", "ratio")),
        *((name, ctypes.c_void_p) for name in ("y", "P", "a", "a_star", "dy", "work")),
    )


class Kernel:
    """The fields of the dynamics for one pair of activations.

    Use :func:`load`; kernels are shared and hold no state.

    Attributes
    ----------
    student, teacher : Activation
        The pair.
    backend : str
        ``"c"`` or ``"numpy"``.
    """

    def __init__(self, student: Activation, teacher: Activation, backend: str) -> None:
        self.student, self.teacher, self.backend = student, teacher, backend
        self._folder = _bridge.kernel_folder(student.formula, teacher.formula)
        self._matched = student.formula == teacher.formula

    def _text(self, name: str) -> str:
        return (self._folder / name).read_text(encoding="utf-8")

    @cached_property
    def module(self) -> ModuleType:
        """The generated numpy module."""
        spec = importlib.util.spec_from_file_location("hdsgd_kernel", self._folder / "kernel.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    @cached_property
    def operations(self) -> int:
        """Operations of one four-point function in numpy; compiled loops share most of them."""
        counts = json.loads(self._text("manifest.json"))["operations"]
        return max(int(count) for name, count in counts.items() if name.startswith("I4"))

    def sigma(self, x: Array) -> Array:
        """Student activation σ(x)."""
        return self._pointwise("student", x)

    def dsigma(self, x: Array) -> Array:
        """Its derivative σ'(x)."""
        return self._pointwise("student_prime", x)

    def sigma_star(self, x: Array) -> Array:
        """Teacher activation σ*(x)."""
        return self._pointwise("teacher", x)

    def _pointwise(self, name: str, x: Array) -> Array:
        values = np.asarray(getattr(self.module, name)(x), dtype=float)
        return values if values.shape == x.shape else np.broadcast_to(values, x.shape)

    @property
    def pointwise_c(self) -> str:
        """C text of the pointwise functions, with the common header."""
        return _source("common.h") + self._text("pointwise.h")

    @property
    def risk_c(self) -> str:
        """C text of the risk from overlaps; goes after :attr:`pointwise_c`."""
        return self._text("pairs.h") + _source("risk.h")

    @property
    def fields_c(self) -> str:
        """C text of risk, drift and noise; goes after common.h."""
        return "\n".join((self.risk_c, _source("layout.h"), self._text("noise.c"), _source("fields.c")))

    @cached_property
    def library(self) -> ctypes.CDLL:
        """The compiled fields; raises CompilerError where no compiler works."""
        library = _compiler.load("\n".join((_source("common.h"), self.fields_c)))
        long, real, pointer = ctypes.c_long, ctypes.c_double, ctypes.c_void_p
        library.hdsgd_work.restype, library.hdsgd_work.argtypes = long, (long, long)
        library.hdsgd_fields.restype = None
        library.hdsgd_fields.argtypes = (long, long, long, real, *(pointer,) * 10)
        library.hdsgd_rhs.restype, library.hdsgd_rhs.argtypes = None, (pointer,)
        library.hdsgd_risk.restype, library.hdsgd_risk.argtypes = real, (pointer,)
        self._check(library)
        return library

    def _check(self, library: ctypes.CDLL) -> None:
        """Compare a kernel of the user's with numpy when it is first compiled; built-in ones are tested beforehand."""
        marker = self._folder / "compiled-kernel-agrees"
        if self._folder.parent == _bridge.generated_dir() or marker.exists():
            return
        reference = load(self.student, self.teacher, "numpy")
        rng = np.random.default_rng(1)
        for p, k in ((1, 1), (2, 3), (3, 2)):
            W = rng.normal(size=(p + k, 9)) / 3.0
            Omega, a, a_star = W @ W.T, rng.normal(size=(1, p)), rng.normal(size=k)
            state = (Omega[None, :p, :p], Omega[None, :p, p:], Omega[p:, p:], a, a_star)
            # A steep activation's gradients are what is left of large terms: their rounding is no disagreement.
            slopes = np.abs(reference.two_point("J2", Omega[None], p)).max() * np.abs(Omega).max()
            for wanted, name, exact, size in (
                ("risk", "risk", reference.risk(*state), 1.0),
                ("G", "drift of the overlaps", reference.gradients(*state), max(1.0, slopes)),
                ("N", "noise", reference.noise(*state, 0.3), 1.0),
                ("S", "drift of the second layer", reference.output_gradients(*state), 1.0),
            ):
                value = self._compiled(*state, 0.3, wanted, library)
                if not np.abs(value - exact).max() <= 1e-9 * np.abs(exact).max() + 1e-13 * size:
                    raise _compiler.CompilerError(
                        f"the compiled kernel of {self.student.formula} disagrees with its derivation in the {name}; "
                        "use backend='numpy', and report this formula."
                    )
        with contextlib.suppress(OSError):
            marker.touch()

    def scratch(self, p: int, k: int) -> Array:
        """Return scratch memory for the compiled functions."""
        return np.empty(self.library.hdsgd_work(p, k))

    def risk(self, Q: Array, M: Array, P: Array, a: Array, a_star: Array) -> Array:
        """Excess risk ½E[(f* − f)²] of states with a leading axis, shape (R,); rounding may make it negative."""
        if self.backend == "c":
            return self._compiled(Q, M, P, a, a_star, 0.0, "risk")
        Omega, v = _omega(Q, M, P), _weights(a, a_star)
        weighted = self.two_point("I2", Omega, Q.shape[-1]) @ v[:, :, None]
        return np.asarray(0.5 * (v[:, None, :] @ weighted)[:, 0, 0])

    def gradients(self, Q: Array, M: Array, P: Array, a: Array, a_star: Array) -> Array:
        """G_jb = E[σ'(u_j) u_b e], shape (R, p, n)."""
        if self.backend == "c":
            return self._compiled(Q, M, P, a, a_star, 0.0, "G")
        p = Q.shape[-1]
        Omega, v = _omega(Q, M, P), _weights(a, a_star)
        first, second = self.two_point("J2", Omega, p), self.two_point("K2", Omega, p)
        return np.asarray((second @ v[:, :, None]) * Omega[:, :p] + (first * v[:, None, :]) @ Omega)

    def noise(self, Q: Array, M: Array, P: Array, a: Array, a_star: Array, Delta: float) -> Array:
        """N_jl = E[σ'(u_j) σ'(u_l) e²], shape (R, p, p); P may have a leading axis here, too."""
        if self.backend == "c" and P.ndim == 3:
            states = zip(Q[:, None], M[:, None], P, a[:, None], strict=True)
            return np.concatenate([self.noise(*state, a_star, Delta) for state in states])
        if self.backend == "c":
            return self._compiled(Q, M, P, a, a_star, Delta, "N")
        p = Q.shape[-1]
        Omega, v = _omega(Q, M, P), _weights(a, a_star)
        J, L = np.tril_indices(p)
        sums = Delta * self.two_point("J2", Omega, p)[:, J, L]
        step = max(1, _CHUNK // (len(J) * Omega.shape[-1] ** 2))
        for start in range(0, len(Omega), step):
            rows = slice(start, start + step)
            sums[rows] += self._four_point(Omega[rows], v[rows], J, L, p)
        N = np.empty_like(Q)
        N[:, J, L] = N[:, L, J] = sums
        return N

    def output_gradients(self, Q: Array, M: Array, P: Array, a: Array, a_star: Array) -> Array:
        """S_j = E[σ(u_j) e], shape (R, p)."""
        if self.backend == "c":
            return self._compiled(Q, M, P, a, a_star, 0.0, "S")
        products = self.two_point("I2", _omega(Q, M, P), Q.shape[-1])[:, : Q.shape[-1]]
        return np.asarray((products @ _weights(a, a_star)[:, :, None])[:, :, 0])

    def two_point(self, name: str, Omega: Array, p: int) -> Array:
        """Apply a two-point function to units a (all for I2, students for J2 and K2) and b, shape (R, rows, n)."""
        n = Omega.shape[-1]
        rows = n if name == "I2" else p
        out = np.empty((len(Omega), rows, n))
        own = np.diagonal(Omega, axis1=1, axis2=2)

        def fill(function: str, a: slice, b: slice) -> None:
            out[:, a, b] = getattr(self.module, function)(own[:, a, None], Omega[:, a, b], own[:, None, b])

        if self._matched:
            fill(name, slice(0, rows), slice(0, n))
            return out
        students, teachers = slice(0, p), slice(p, n)
        fill(f"{name}_ss", students, students)
        fill(f"{name}_st", students, teachers)
        if name == "I2":
            out[:, teachers, students] = out[:, students, teachers].swapaxes(1, 2)
            fill("I2_tt", teachers, teachers)
        return out

    def _four_point(self, Omega: Array, v: Array, J: NDArray[np.intp], L: NDArray[np.intp], p: int) -> Array:
        """Σ_ab v_a v_b I4(j, l, a, b) for the pairs (J, L), shape (R, pairs)."""
        n = Omega.shape[-1]
        students, teachers, everyone = slice(0, p), slice(p, n), slice(0, n)
        if self._matched:
            blocks = [("I4", everyone, everyone, 1.0)]
        else:
            blocks = [
                ("I4_ss", students, students, 1.0),
                ("I4_st", students, teachers, 2.0),
                ("I4_tt", teachers, teachers, 1.0),
            ]
        own = np.diagonal(Omega, axis1=1, axis2=2)
        jj, ll = own[:, J, None, None], own[:, L, None, None]
        jl = Omega[:, J, L][:, :, None, None]
        total = np.zeros((len(Omega), len(J)))
        for name, a, b, weight in blocks:
            ja, la = Omega[:, J, a][..., None], Omega[:, L, a][..., None]
            jb, lb = Omega[:, J, b][:, :, None], Omega[:, L, b][:, :, None]
            aa, ab, bb = own[:, None, a, None], Omega[:, None, a, b], own[:, None, None, b]
            values = np.asarray(getattr(self.module, name)(jj, jl, ja, jb, ll, la, lb, aa, ab, bb))
            shape = (len(Omega), len(J), a.stop - a.start, b.stop - b.start)
            total += weight * np.einsum(
                "ra,rqab,rb->rq", v[:, a], np.broadcast_to(values, shape), v[:, b], optimize=True
            )
        return total

    def _compiled(
        self,
        Q: Array,
        M: Array,
        P: Array,
        a: Array,
        a_star: Array,
        Delta: float,
        wanted: str,
        library: ctypes.CDLL | None = None,
    ) -> Array:
        count, p, k = M.shape
        shape = {"risk": (count,), "G": (count, p, p + k), "N": (count, p, p), "S": (count, p)}[wanted]
        inputs = [np.ascontiguousarray(x, dtype=float) for x in (Q, M, P, a, a_star)]
        out = np.empty(shape)
        library = self.library if library is None else library
        work = np.empty(library.hdsgd_work(p, k))
        targets = (out.ctypes.data if name == wanted else None for name in ("risk", "G", "N", "S"))
        library.hdsgd_fields(count, p, k, Delta, *(x.ctypes.data for x in inputs), *targets, work.ctypes.data)
        return out


def _omega(Q: Array, M: Array, P: Array) -> Array:
    teachers = np.concatenate((M.swapaxes(1, 2), np.broadcast_to(P, (len(M), *P.shape[-2:]))), axis=2)
    return np.concatenate((np.concatenate((Q, M), axis=2), teachers), axis=1)


def _weights(a: Array, a_star: Array) -> Array:
    teachers = np.broadcast_to(a_star / len(a_star), (len(a), len(a_star)))
    return np.concatenate((-a / a.shape[1], teachers), axis=1)


@cache
def _source(name: str) -> str:
    return (_CSRC / name).read_text(encoding="utf-8") + "\n"


@cache
def _load(student: Activation, teacher: Activation, backend: str) -> Kernel:
    return Kernel(student, teacher, backend)


def load(student: Activation, teacher: Activation, backend: str = "auto") -> Kernel:
    """Return the kernel of a pair of activations.

    Parameters
    ----------
    student, teacher : Activation
        The pair; it is derived on first use where it is not built in.
    backend : {"auto", "c", "numpy"}
        ``"auto"`` takes C where a compiler works and otherwise numpy, with one :class:`BackendWarning`.

    Raises
    ------
    ValueError
        If the backend is unknown, or an expectation of the pair has no closed form.
    CompilerError
        If ``backend="c"`` and no compiler works.
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}: choose one of {', '.join(BACKENDS)}")
    if backend == "numpy":
        return _load(student, teacher, "numpy")
    kernel = _load(student, teacher, "c")
    try:
        _ = kernel.library
    except _compiler.CompilerError as reason:
        if backend == "c":
            raise
        warn_backend(str(reason))
        return _load(student, teacher, "numpy")
    return kernel


def evaluate(name: str, activations: tuple[Activation, ...], covariance: Any) -> Array:
    """Evaluate one expectation of a matched kernel at covariances with leading axes."""
    module = _load(activations[0], activations[0], "numpy").module
    size = covariance.shape[-1]
    entries = [covariance[..., i, j] for i in range(size) for j in range(i, size)]
    values = np.asarray(getattr(module, name)(*entries), dtype=float)
    return np.broadcast_to(values, covariance.shape[:-2]).copy()
