"""Gaussian expectations one by one: evaluate them, and derive, certify and store the kernel of a new activation."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from . import _activation, _bridge, _kernel
from ._activation import Activation
from ._checks import array, boolean, callback, choice
from ._kernel import Array, evaluate

#: number of Gaussian variables of each expectation
SLOTS = {"I2": 2, "J2": 2, "I3": 3, "I4": 4}
#: which variables of an expectation carry an activation (the second factor of I3 is the bare variable)
_FACTORS = {"I2": 2, "J2": 2, "I3": 2, "I4": 4}


def integral(name: str, activations: str | Activation | Sequence[str | Activation], C: ArrayLike) -> float | Array:
    """Evaluate one Gaussian expectation by its derived formula.

    Parameters
    ----------
    name : {"I2", "J2", "I3", "I4"}
        I2 = E[σ(x1) σ(x2)], J2 = E[σ'(x1) σ'(x2)], I3 = E[σ'(x1) x2 σ(x3)], I4 = E[σ'(x1) σ'(x2) σ(x3) σ(x4)].
    activations : str, Activation or sequence of them
        One activation for all factors, or one for each (for I3, two: of x1 and of x3).
    C : (..., n, n) array_like
        Covariance of (x1, …, xn), symmetric positive semidefinite; leading axes are allowed.

    Returns
    -------
    float or array of the leading shape

    Raises
    ------
    ValueError
        If the name is unknown, C is not a covariance of the right size, or the expectation has no closed form.

    Notes
    -----
    The averages of Saad & Solla 1995; the names of Goldt et al. 2019 (arXiv:1906.08632).

    Examples
    --------
    >>> import hdsgd
    >>> hdsgd.integral("I2", "quadratic", [[1.0, 0.5], [0.5, 1.0]])
    1.5
    """
    choice("name", name, SLOTS)
    size = SLOTS[name]
    covariance = _covariance(C, size)
    if isinstance(activations, str | Activation):
        activations = (activations,) * _FACTORS[name]
    if len(activations) != _FACTORS[name]:
        raise ValueError(f"{name} has {_FACTORS[name]} activations: pass one for all, or {_FACTORS[name]} of them")
    resolved = tuple(_activation.activation(spec) for spec in activations)
    entries = [covariance[..., i, j] for i in range(size) for j in range(i, size)]
    if all(other.formula == resolved[0].formula for other in resolved):
        value = evaluate(name, resolved, covariance)
    else:
        function = _bridge.expectation(name, tuple(one.formula for one in resolved))
        value = np.array(np.broadcast_to(function(*entries), covariance.shape[:-2]), dtype=float)
    return float(value) if value.ndim == 0 else value


def _covariance(C: ArrayLike, size: int) -> Array:
    try:
        covariance = np.asarray(C)
        covariance = covariance.astype(float) if covariance.dtype.kind in "biuf" else np.empty(())
    except ValueError:
        covariance = np.empty(())
    if covariance.ndim < 2 or covariance.shape[-2:] != (size, size):
        raise ValueError(f"C must be real and of shape (..., {size}, {size}): the covariance of {size} variables")
    covariance = array("C", covariance.reshape(-1, size, size), ndim=(3,), shape="(..., n, n)").reshape(
        covariance.shape
    )
    scale = np.abs(covariance).max(axis=(-2, -1), initial=0.0)
    if np.any(np.abs(covariance - covariance.swapaxes(-1, -2)).max(axis=(-2, -1), initial=0.0) > 1e-10 * scale):
        raise ValueError("C must be symmetric: pass (C + C.T)/2 if that is meant")
    if np.any(np.linalg.eigvalsh(covariance).min(axis=-1, initial=0.0) < -1e-10 * scale):
        raise ValueError("C must be positive semidefinite: it is the covariance of the Gaussian variables")
    return covariance


@dataclass(frozen=True)
class Certificate:
    """How one expectation was derived and verified.

    Attributes
    ----------
    name : str
        Such as ``I4``, or ``I4_st`` with the student (s) and the teacher (t) in the last factors.
    route : str
        ``closed form``, ``one-dimensional integral``, ``Plackett integral`` (of four signs), or the mixture that stands
        in for the activation, with its error.
    operations : int
        Arithmetic operations and function calls of its program.
    error : float
        Worst error against independent quadrature, relative to max(\\|reference\\|, product of the factors' r.m.s.).
    covariances : int
        Number of random covariances at which it was compared.
    """

    name: str
    route: str
    operations: int
    error: float
    covariances: int


@dataclass(frozen=True, repr=False)
class Report:
    """What :func:`generate` did; it prints itself.

    Attributes
    ----------
    student, teacher : Activation
        The pair.
    folder : Path
        Where the files are.
    route : str
        Those of all expectations, or the mixture that stands in for the activation, with its error.
    certificates : tuple of Certificate
        Route, operations and worst error of each expectation.
    backend : str
        ``c`` where the kernel was compiled and agrees with its numpy form, otherwise ``numpy``.
    seconds : float
        Time that all of it took, from the formula to the compiled kernel.
    certification : object or None
        With ``certify=True``: 20-digit quadrature and adversarial covariances; ``print`` it.
    """

    student: Activation
    teacher: Activation
    folder: Path
    route: str
    certificates: tuple[Certificate, ...]
    backend: str
    seconds: float
    certification: Any = None

    @property
    def errors(self) -> dict[str, float]:
        """Worst error of each expectation."""
        return {one.name: one.error for one in self.certificates}

    @property
    def operations(self) -> dict[str, int]:
        """Operations of each program."""
        return {one.name: one.operations for one in self.certificates}

    @property
    def routes(self) -> dict[str, str]:
        """Route of each expectation."""
        return {one.name: one.route for one in self.certificates}

    def __str__(self) -> str:
        width = max(len("route"), *(len(one.route) for one in self.certificates))
        lines = [f"student      {self.student}", f"teacher      {self.teacher}", f"route        {self.route}", ""]
        lines.append(f"{'expectation':<12} {'route':<{width}} {'operations':>10} {'worst error':>12}")
        for one in self.certificates:
            lines.append(f"{one.name:<12} {one.route:<{width}} {one.operations:>10} {one.error:>12.1e}")
        count = min(one.covariances for one in self.certificates)
        lines += [
            "",
            f"verified against independent quadrature at {count} random covariances or more",
            f"written to {self.folder}; {_BACKENDS[self.backend]}; {self.seconds:.2f} s",
        ]
        if self.certification is not None:
            lines += ["", str(self.certification)]
        return "\n".join(lines)

    __repr__ = __str__


_BACKENDS = {"c": "compiled, and the same as numpy", "numpy": "not compiled: the numpy backend serves it"}


def generate(
    activation: str | Activation,
    teacher_activation: str | Activation | None = None,
    *,
    name: str | None = None,
    out: str | Path | None = None,
    certify: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Report:
    """Derive, verify, write and compile the kernel of an activation, or of a student-teacher pair.

    Parameters
    ----------
    activation : str, Activation or SymPy expression
        A built-in or saved name, or a formula in ``x``.
    teacher_activation : str, Activation or SymPy expression, optional
        The teacher's, where it differs.
    name : str, optional
        A name under which the activation is known from then on, as in ``Problem(activation=name)``.
    out : path, optional
        Folder for a numpy module and a C file with its header that work without hdsgd, called ``hdsgd_<name>`` or
        ``hdsgd_kernel``; their first lines tell how to use them.
    certify : bool
        Also compare with quadrature in 20 digits and at adversarial covariances (nearly singular, large norms), which
        can take minutes.
    progress : callable, optional
        Called with the fraction done, from time to time.

    Returns
    -------
    Report
        Route, operations and errors of each expectation, and the time taken; ``print`` it.

    Raises
    ------
    ValueError
        If the formula cannot be read or an expectation has no closed form (nothing is written then), or the name is
        taken.

    Notes
    -----
    The kernel goes to the user cache, where every solver finds it.

    Examples
    --------
    >>> import hdsgd
    >>> report = hdsgd.generate("erf(x) + 0.1*x")
    >>> max(report.errors.values()) < 1e-9
    True
    """
    start = time.perf_counter()
    boolean("certify", certify)
    callback("progress", progress)
    student = _activation.activation(activation)
    teacher = student if teacher_activation is None else _activation.activation(teacher_activation)
    if name is not None:
        named = Activation(student.formula, name)
        _bridge.check_name(name, student.formula)
        student, teacher = named, named if teacher.formula == named.formula else teacher
    rendered, certification, folder = _bridge.generate(
        student.formula,
        teacher.formula,
        out=None if out is None else Path(out),
        stem=f"hdsgd_{name or 'kernel'}",
        common=_kernel._source("common.h"),
        certify=certify,
        progress=progress,
    )
    backend = _kernel.load(student, teacher, "auto").backend
    if name is not None:
        _bridge.save_name(name, student.formula)
    certificates = (
        Certificate(one.name, one.route, one.operations, one.error, one.covariances) for one in rendered.certificates
    )
    return Report(
        student,
        teacher,
        folder,
        rendered.route,
        tuple(certificates),
        backend,
        time.perf_counter() - start,
        certification,
    )
