"""The covariance of the increments in compiled C: the struct of a step, and the texts of the routes."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _compiler
from ._increments import Step

__all__ = ["CStep", "covariance", "load", "text"]

Array = NDArray[np.float64]

_CSRC = Path(__file__).parent / "csrc"
_int, _double, _pointer = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p


class CStep(ctypes.Structure):
    """The struct hdsgd_step of csrc/step.h, field by field."""

    _fields_ = (
        *((name, _int) for name in ("p", "k", "m", "trained")),
        *((name, _double) for name in ("g", "Delta", "ratio")),
        ("count", _int),
        *((name, _pointer) for name in ("law", "points", "weights")),
    )

    @classmethod
    def of(cls, step: Step, law: Array, points: Array, weights: Array) -> CStep:
        """Fill it; the arrays are kept alive with it."""
        parts = step.components
        held = [np.ascontiguousarray(x, dtype=float) for x in (law, points, weights)]
        new = cls(
            p=step.p,
            k=step.k,
            m=parts.size,
            trained=int(parts.trained),
            g=step.g,
            Delta=step.Delta,
            ratio=step.ratio,
            count=held[2].size,
            **{name: x.ctypes.data for name, x in zip(("law", "points", "weights"), held, strict=True)},
        )
        new.held = held
        return new


@cache
def text(name: str) -> str:
    """One of the hand-written C files."""
    return (_CSRC / name).read_text(encoding="utf-8") + "\n"


def load(head: str, route: str) -> Any:
    """The library of one route; `head` is common.h, with a kernel's pointwise functions where the route needs them."""
    library = _compiler.load("\n".join((head, text("step.h"), text(route), text("diffusion.c"))))
    library.hdsgd_diffusion_work.restype = _int
    library.hdsgd_diffusion_work.argtypes = (ctypes.POINTER(CStep),)
    library.hdsgd_diffusion.restype = None
    library.hdsgd_diffusion.argtypes = (ctypes.POINTER(CStep), _int, *(_pointer,) * 5)
    return library


def covariance(library: Any, step: CStep, Omega: Array, v: Array, a: Array) -> Array:
    """Covariance (R, m, m) per sample of states Omega (R, n, n), v (R, n), a (R, p)."""
    inputs = [np.ascontiguousarray(x, dtype=float) for x in (Omega, v, a)]
    cov = np.empty((len(Omega), step.m, step.m))
    work = np.empty(library.hdsgd_diffusion_work(step))
    library.hdsgd_diffusion(step, len(Omega), *(x.ctypes.data for x in (*inputs, cov, work)))
    return cov
