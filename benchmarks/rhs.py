"""Right-hand sides: the compiled kernels against textbook loops in C, numpy, and scipy with a Python function."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

import hdsgd
from hdsgd._kernel import CSystem
from hdsgd.derivations.emit import c_source
from hdsgd.derivations.kernels import KernelPrograms

from .clock import Clock, Row, build, calls, medians

Array: TypeAlias = NDArray[np.float64]
HERE = Path(__file__).parent
GROUP = "right-hand side"
SIZES = ((1, 1), (2, 2), (4, 2), (8, 4), (32, 4))
GAMMA, DELTA = 0.5, 0.01
#: factors aimed at
TEXTBOOK = {("erf", 8, 4): 10.0, ("erf", 32, 4): 16.0, ("he3", 8, 4): 5.0, ("he3", 32, 4): 5.0}
NUMPY = {(1, 1): 12.0, (2, 2): 12.0, (4, 2): 12.0, (8, 4): 12.0, (32, 4): 3.0}


@cache
def textbook(name: str) -> ctypes.CDLL:
    """Compile the textbook loops of one activation: erf as the papers print it, others as straight-line programs."""
    if name == "erf":
        integrals = (HERE / "textbook_erf.h").read_text(encoding="utf-8")
    else:
        formula = hdsgd.activation(name).formula
        programs = KernelPrograms(formula, formula)
        integrals = "#include <math.h>\n#define FMA(a, b, c) ((a)*(b) + (c))\n" + c_source.helpers(programs)
        integrals += "".join(c_source.inline_function(key, programs.expectations[key]) for key in ("J2", "I3", "I4"))
    library = build(integrals + (HERE / "textbook.c").read_text(encoding="utf-8"), "-O2")
    library.time_rhs.restype = ctypes.c_double
    library.time_rhs.argtypes = (ctypes.c_void_p, ctypes.c_long, ctypes.c_void_p)
    return library


def start(name: str, p: int, k: int, backend: str = "c") -> tuple[hdsgd.Dynamics, hdsgd.Overlaps]:
    """Return the dynamics of a free problem and a random state."""
    dynamics = hdsgd.Dynamics(hdsgd.Problem(name, gamma=GAMMA, Delta=DELTA), backend=backend)
    return dynamics, hdsgd.Overlaps.random(p, k, 1000, rng=1)


def in_c(name: str, p: int, k: int, *, baseline: bool = True) -> dict[str, Clock]:
    """Return the clocks of the compiled right-hand side and of the textbook's, both called from C."""
    dynamics, state = start(name, p, k)
    y = dynamics.system(state).pack(state)
    book = textbook(name if baseline else "erf")  # the clock is in it
    library, dy = dynamics.kernel.library, np.empty_like(y)
    arrays = (y, state.P, state.a, state.a_star, dy, dynamics.kernel.scratch(p, k))
    system = CSystem(p, k, 0, GAMMA, DELTA, 0.0, 0.0, *(x.ctypes.data for x in arrays))

    system.arrays = arrays  # alive as long as what points at them

    def clock(function: Callable[..., None]) -> Clock:
        address = ctypes.cast(function, ctypes.c_void_p)  # type: ignore[arg-type]

        return lambda repeat: float(book.time_rhs(address, repeat, ctypes.byref(system)))

    clocks = {"compiled": clock(library.hdsgd_rhs)}
    if baseline:
        clocks["textbook"] = clock(book.textbook_rhs)
        clocks["compiled"](1)
        ours = dy.copy()
        clocks["textbook"](1)
        if not np.allclose(ours, dy, rtol=1e-9, atol=1e-12):
            raise RuntimeError(f"{name} at ({p}, {k}): the textbook loops and the compiled kernel disagree")
    return clocks


def quadratic_in_numpy(state: hdsgd.Overlaps) -> Callable[[float, Array], Array]:
    """Return the quadratic right-hand side in numpy, by the matrix formulas in traces and Ω(AΩ)ⁿ, A = diag(v)."""
    p, k, P = state.p, state.k, state.P
    v = np.concatenate((-state.a / p, state.a_star / k))
    upper = np.triu_indices(p)
    split = len(upper[0])
    Omega = np.empty((p + k, p + k))
    Omega[p:, p:] = P

    def rhs(t: float, y: Array) -> Array:
        Q = np.empty((p, p))
        Q[upper] = Q.T[upper] = y[:split]
        Omega[:p, :p], Omega[:p, p:] = Q, y[split:].reshape(p, k)
        Omega[p:, :p] = Omega[:p, p:].T
        weighted = Omega * v
        first, second = weighted.trace(), np.vdot(weighted, weighted.T)
        once = weighted[:p] @ Omega
        twice = (once * v) @ Omega[:, :p]
        G = 2 * (first * Omega[:p] + 2 * once)
        N = 4 * ((first**2 + 2 * second + DELTA) * Q + 4 * first * once[:, :p] + 8 * twice)
        dQ = G[:, :p] + G[:, :p].T + GAMMA / p * N
        return np.concatenate((dQ[upper], G[:, p:].ravel()))

    return rhs


def rows(quick: bool) -> list[Row]:
    """Return the comparisons of right-hand sides and of whole solutions."""
    budget = 0.2 if quick else 1.5
    found = []
    for name in ("erf", "he3"):
        for p, k in SIZES:
            seconds = medians(in_c(name, p, k), budget)
            ratio = seconds["textbook"] / seconds["compiled"]
            aim = TEXTBOOK.get((name, p, k))
            found.append(Row(GROUP, f"{name} ({p},{k})", seconds["compiled"], ratio, "textbook C, gcc -O2", aim))
    found += [_against_numpy(p, k, budget) for p, k in SIZES]
    for name in ("relu", "gelu", "tanh"):
        p, k = 8, 4
        seconds = medians(in_c(name, p, k, baseline=False), budget)
        integrals = p * (p + 1) // 2 * (p + k) * (p + k + 1) // 2
        remark = f"{1e9 * seconds['compiled'] / integrals:.0f} ns per I4"
        found.append(Row(GROUP, f"{name} ({p},{k})", seconds["compiled"], than=remark))
    found.append(_generated_numpy(8, 4, budget))
    return [*found, _solver(8, 4, budget)]


def _against_numpy(p: int, k: int, budget: float) -> Row:
    """Both called from Python, as a solver does."""
    dynamics, state = start("quadratic", p, k)
    system = dynamics.system(state)
    y, reference = system.pack(state), quadratic_in_numpy(state)
    if not np.allclose(system.rhs(0.0, y), reference(0.0, y), rtol=1e-9, atol=1e-12):
        raise RuntimeError(f"quadratic at ({p}, {k}): numpy and the compiled kernel disagree")
    seconds = medians(
        {"compiled": calls(lambda: system.rhs(0.0, y)), "numpy": calls(lambda: reference(0.0, y))}, budget
    )
    ratio = seconds["numpy"] / seconds["compiled"]
    return Row(GROUP, f"quadratic ({p},{k}), from Python", seconds["compiled"], ratio, "numpy matrices", NUMPY[p, k])


def _generated_numpy(p: int, k: int, budget: float) -> Row:
    clocks = {}
    for backend in ("c", "numpy"):
        dynamics, state = start("erf", p, k, backend)
        system = dynamics.system(state)
        clocks[backend] = calls(partial(system.rhs, 0.0, system.pack(state)))
    seconds = medians(clocks, budget)
    return Row(GROUP, f"erf ({p},{k}), from Python", seconds["c"], seconds["numpy"] / seconds["c"], "numpy backend")


def _solver(p: int, k: int, budget: float) -> Row:
    """A whole solution by the program, and by scipy's solver with the numpy function."""
    dynamics, state = start("quadratic", p, k)
    y, reference = dynamics.system(state).pack(state), quadratic_in_numpy(state)
    seconds = medians(
        {
            "program": calls(lambda: hdsgd.solve_ode(dynamics.problem, state, 1.0, method="RK45")),
            "scipy": calls(lambda: solve_ivp(reference, (0.0, 1.0), y, method="RK45", rtol=1e-8, atol=1e-10)),
        },
        budget,
    )
    ratio = seconds["scipy"] / seconds["program"]
    return Row("ODE", f"quadratic ({p},{k}), t = 1", seconds["program"], ratio, "solve_ivp, numpy function")
