"""Gaussian expectations one by one: evaluate them, and derive, certify and store the kernel of a new activation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from . import _activation, _bridge
from ._activation import Activation
from ._checks import array, choice
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
class Report:
    """What :func:`generate` did.

    Attributes
    ----------
    student, teacher : Activation
        The pair.
    folder : Path
        Where the files are.
    route : str
        ``closed form``, or the mixture that stands in for the activation, with its error.
    errors : dict
        Worst error of each expectation against independent quadrature at random covariances, relative to
        max(\\|reference\\|, product of the factors' r.m.s.).
    operations : dict
        Arithmetic operations of each program.
    seconds : float
        Time that derivation, verification and writing took.
    """

    student: Activation
    teacher: Activation
    folder: Path
    route: str
    errors: dict[str, float]
    operations: dict[str, int]
    seconds: float

    def __str__(self) -> str:
        lines = [f"student {self.student}", f"teacher {self.teacher}", ""]
        lines.append(f"{'expectation':<12} {'operations':>10} {'worst error':>12}")
        for name, error in self.errors.items():
            lines.append(f"{name:<12} {self.operations[name]:>10} {error:>12.1e}")
        lines += [
            "",
            f"route: {self.route}",
            f"verified against independent quadrature; written to {self.folder} in {self.seconds:.2f} s",
        ]
        return "\n".join(lines)


def generate(
    activation: str | Activation,
    teacher_activation: str | Activation | None = None,
    *,
    name: str | None = None,
    out: str | Path | None = None,
) -> Report:
    """Derive, verify and write the kernel of an activation, or of a student-teacher pair.

    Parameters
    ----------
    activation : str or Activation
        A built-in name or a formula in ``x``.
    teacher_activation : str or Activation, optional
        The teacher's, where it differs.
    name : str, optional
        A name under which the activation is known from then on, as in ``Problem(activation=name)``.
    out : path, optional
        Folder for the generated files; by default the user cache, where every solver finds them.

    Returns
    -------
    Report
        Errors against independent quadrature, operation counts and the time taken; ``print`` it.

    Raises
    ------
    ValueError
        If the formula cannot be read or an expectation has no closed form (nothing is written then), or the name is
        taken.

    Examples
    --------
    >>> import hdsgd
    >>> report = hdsgd.generate("erf(x) + 0.1*x")
    >>> max(report.errors.values()) < 1e-9
    True
    """
    start = time.perf_counter()
    student = _activation.activation(activation)
    teacher = student if teacher_activation is None else _activation.activation(teacher_activation)
    if name is not None:
        _bridge.check_name(name, student.formula)
        student_named = Activation(student.formula, name)
    rendered, folder = _bridge.generate(student.formula, teacher.formula, None if out is None else Path(out))
    if name is not None:
        _bridge.save_name(name, student.formula)
        student, teacher = student_named, student_named if teacher == student else teacher
    return Report(
        student,
        teacher,
        folder,
        rendered.route,
        {certificate.name: certificate.error for certificate in rendered.certificates},
        {certificate.name: certificate.operations for certificate in rendered.certificates},
        time.perf_counter() - start,
    )
