"""Gradient flow of very wide students: p(k + 1) equations instead of p(p + 1)/2 + pk, each step in O(p) operations."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _storage
from ._checks import array, callback, fits, frozen, integer, real, restore, same_fields, time_grid
from ._overlaps import Overlaps
from ._plots import mean_field_figure
from ._problem import Problem
from ._random import OVERLAPS, RNG, generators, master_seed
from ._reduced_risk import RISKS, Slope
from ._solution import versions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MeanField", "MeanFieldSolution", "mean_field"]

Array = NDArray[np.float64]

KEPT = 1e-10  # eigenvalues of P below this fraction of the largest one are zero
STORED = 51  # times by default
VECTORS = 40  # of the size of the state that the solver holds


@dataclass(frozen=True, eq=False, init=False, repr=False)
class MeanField:
    """Overlaps of a wide student without those between its units: M, and of each unit the squared norm of the rest.

    Parameters
    ----------
    M : array_like, shape (p, k)
        Overlaps with the teacher.
    q : array_like, shape (p,)
        Diagonal of Q − MP⁻¹Mᵀ, not negative: Q_jj without the part in the teacher's span.
    P : array_like, shape (k, k)
    a, a_star : array_like, shapes (p,) and (k,), optional
        Second layers, ones by default.

    Raises
    ------
    ValueError, TypeError
        Shapes that do not fit, entries that are not finite, or a negative q.

    Examples
    --------
    >>> MeanField.random(p=10**5, k=2, d=1000, rng=0)
    MeanField(p=100000, k=2)
    """

    M: Array
    q: Array
    P: Array
    a: Array
    a_star: Array

    def __init__(
        self, M: ArrayLike, q: ArrayLike, P: ArrayLike, a: ArrayLike | None = None, a_star: ArrayLike | None = None
    ) -> None:
        m = array("M", M, ndim=(2,), shape="(p, k)")
        p, k = m.shape
        teacher = Overlaps(np.zeros((1, 1)), np.zeros((1, k)), P, None, a_star)
        rest = array("q", q, ndim=(1,), shape="(p,)")
        second = np.ones(p) if a is None else array("a", a, ndim=(1,), shape="(p,)")
        for name, value in (("q", rest), ("a", second)):
            if value.shape != (p,):
                raise ValueError(f"{name} must have shape {(p,)} to go with M of shape {m.shape}, got {value.shape}.")
        if rest.min() < 0.0:
            raise ValueError(f"q must not be negative, got {rest.min():.3g}; it is the diagonal of Q - M P^-1 M^T.")
        if not np.any(teacher.P):
            raise ValueError("P is zero: there is no teacher to learn from; pass one with weights.")
        values = {"M": m, "q": rest, "P": teacher.P, "a": second, "a_star": teacher.a_star}
        for name, value in values.items():
            object.__setattr__(self, name, frozen(value))

    @property
    def p(self) -> int:
        """Width of the student."""
        return int(self.M.shape[0])

    @property
    def k(self) -> int:
        """Width of the teacher."""
        return int(self.M.shape[1])

    @classmethod
    def of(cls, state: Overlaps) -> MeanField:
        """What remains of full overlaps (without replicas) when those between different units are left out."""
        if not isinstance(state, Overlaps):
            raise TypeError(f"state must be an hdsgd.Overlaps, got {type(state).__name__}; pass Overlaps(Q, M, P).")
        if state.replicas is not None:
            raise ValueError("mean field takes one start; pass state.replica(i).")
        B = state.M @ _frame(state.P)[1]
        q = np.maximum(np.diagonal(state.Q) - (B * B).sum(axis=1), 0.0)
        return cls(state.M, q, state.P, state.a, state.a_star)

    @classmethod
    def random(cls, p: int, k: int, d: int, *, rng: RNG = None, orthogonal_teacher: bool = False) -> MeanField:
        """Overlaps of weights with N(0, 1) entries in dimension d, with a teacher as of `Overlaps.random`."""
        p, k = integer("p", p), integer("k", k)
        d = integer("d", d, low=k + 1, hint="students are not confined to the teacher's span")
        seed = master_seed(rng)
        P = Overlaps.random(1, k, d, rng=seed, orthogonal_teacher=orthogonal_teacher).P
        (stream,) = generators(seed, OVERLAPS, 0, 1)
        B = stream.standard_normal((p, k)) / np.sqrt(d)
        return cls(B @ _frame(P)[0].T, stream.chisquare(d - k, p) / d, P)

    def __eq__(self, other: object) -> bool:
        return same_fields(self, other) if isinstance(other, MeanField) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __setstate__(self, state: dict[str, Any]) -> None:
        restore(self, state)

    def __repr__(self) -> str:
        return f"MeanField(p={self.p}, k={self.k})"


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class MeanFieldSolution:
    """A trajectory of the reduced equations.

    Attributes
    ----------
    problem : Problem
    d : int or None
        Input dimension of the corrections; None: d → ∞.
    t : (n_t,) array
        Times t = νγ/(pd).
    M : (n_t, p, k) array
    q : (n_t, p) array
    P, a, a_star : arrays of shapes (k, k), (p,), (k,)
    risk : (n_t,) array
        Excess population risk.
    stats : mapping
        Evaluations of the equations, tolerances and seconds.
    versions : mapping
        Of hdsgd, numpy, scipy and Python.
    """

    problem: Problem
    d: int | None
    t: Array
    M: Array
    q: Array
    P: Array
    a: Array
    a_star: Array
    risk: Array
    stats: Mapping[str, Any]
    versions: Mapping[str, str]

    def state(self, i: int = -1) -> MeanField:
        """The overlaps at one stored time, to go on from."""
        return MeanField(self.M[i], self.q[i], self.P, self.a, self.a_star)

    @property
    def norms(self) -> Array:
        """Squared norms Q_jj of the students, shape (n_t, p)."""
        B = self.M @ _frame(self.P)[1]
        return np.asarray(self.q + (B * B).sum(axis=-1))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write arrays and settings to a .npz file (or .nc with the extra ``data``), atomically and without pickle."""
        names = {"t": ("t",), "M": ("t", "j", "r"), "q": ("t", "j"), "P": ("r", "s"), "a": ("j",), "a_star": ("r",)}
        variables = {name: (dims, getattr(self, name)) for name, dims in names.items()}
        metadata = {
            "problem": asdict(self.problem),
            "method": "mean field",
            "d": self.d,
            "stats": dict(self.stats),
            "versions": dict(self.versions),
        }
        _storage.write(path, {**variables, "risk": (("t",), self.risk)}, metadata)

    def plot(self) -> Figure:
        """Draw the risk, and median and central 80 % of overlaps and norms (needs the extra ``plot``)."""
        return mean_field_figure(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        restore(self, {**state, **{name: MappingProxyType(state[name]) for name in ("stats", "versions")}})

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "stats": dict(self.stats), "versions": dict(self.versions)}

    def __repr__(self) -> str:
        p, k = self.M.shape[1:]
        return f"MeanFieldSolution(p={p}, k={k}, d={self.d}, t={self.t[0]:g}..{self.t[-1]:g} ({self.t.size} stored))"


def mean_field(
    problem: Problem,
    state: MeanField | Overlaps,
    t_max: float,
    *,
    d: int | None = None,
    times: ArrayLike | None = None,
    rtol: float = 1e-6,
    atol: float = 1e-9,
    progress: Callable[[float], None] | None = None,
) -> MeanFieldSolution:
    """Gradient flow of a wide student, tracking M and the diagonal of Q − MP⁻¹Mᵀ only.

    The off-diagonal of Q − MP⁻¹Mᵀ is left out, or with ``d`` taken as that of random directions, to first order in
    1/(d − k). Against the full equations of `solve_ode` from a start without that off-diagonal this is off by O(1/p);
    what random directions add at finite d are fluctuations around the corrections.

    Parameters
    ----------
    problem : Problem
        With ``gamma=0`` and the activation ``"erf"`` or ``"quadratic"`` for student and teacher; norms are free.
    state : MeanField or Overlaps
        The start; of full overlaps those between different units are left out.
    t_max : float
        Final time t = νγ/(pd).
    d : int, optional
        Input dimension, for the corrections; None: d → ∞.
    times : array_like, shape (n_t,), optional
        Increasing output times in [0, t_max]; 51 equal ones by default.
    rtol, atol : float
        Local accuracy (DOP853).
    progress : callable, optional
        Called with the fraction of t_max that is done.

    Returns
    -------
    MeanFieldSolution

    Raises
    ------
    ValueError, TypeError
        Another activation, γ > 0, a constraint or a second layer that is trained, arguments out of range, or more than
        fits into memory. For erf also too many teacher units for the powers that sums over pairs are made of (k ≤ 3
        always works at norms Q_jj ≤ 2).

    Notes
    -----
    The flow is dB/dt = −p ∂R/∂B and dq/dt = −4pq ∂R/∂q of the reduced risk R, with the teacher's span spanned by
    orthonormal directions in which the students have the coordinates B. The terms of a unit with itself are kept, so
    that plateaus come out right at any p.

    Source: Arnaboldi, Stephan, Krzakala, Loureiro 2023 (arXiv 2302.05882); the corrections and the sums over pairs in
    O(p) are derived here.

    Examples
    --------
    >>> from hdsgd import Problem
    >>> start = MeanField.random(p=2000, k=1, d=1000, rng=0)
    >>> sol = mean_field(Problem("erf", gamma=0.0), start, t_max=4.0, d=1000)
    >>> bool(sol.risk[-1] < 0.2 * sol.risk[0])
    True
    """
    from scipy.integrate import solve_ivp

    if not isinstance(problem, Problem):
        raise TypeError(
            f"problem must be an hdsgd.Problem, got {type(problem).__name__}; pass Problem('erf', gamma=0)."
        )
    risk = RISKS.get(problem.student.formula)
    if risk is None or problem.teacher.formula != problem.student.formula:
        raise ValueError("mean field is for student and teacher both 'erf' or both 'quadratic'; solve others in full.")
    if problem.gamma != 0.0:
        raise ValueError(
            "mean field is gradient flow; pass a problem with gamma=0 (the noise of wide students vanishes)."
        )
    if problem.spherical or problem.second_layer_ratio:
        raise ValueError("mean field is for free norms and a fixed second layer; leave out what changes that.")
    start = MeanField.of(state) if isinstance(state, Overlaps) else state
    if not isinstance(start, MeanField):
        raise TypeError(f"state must be a MeanField or Overlaps, got {type(state).__name__}; pass MeanField(M, q, P).")
    p, k = start.p, start.k
    t_max, grid = time_grid(t_max, times, count=STORED)
    assert grid is not None
    fits(8.0 * p * (k + 1) * (VECTORS + grid.size), f"{grid.size} times of p = {p} units", "store fewer times")
    c = 0.0 if d is None else 1.0 / (integer("d", d, low=k + 1, hint="students are not confined to the teacher") - k)
    rtol, atol = real("rtol", rtol, low=0.0, strict=True), real("atol", atol, low=0.0)
    report = callback("progress", progress)
    frame, inverse = _frame(start.P)
    r, v, v_star = frame.shape[1], -start.a / p, start.a_star / k

    def slope(y: Array) -> Slope:
        return risk(y[: p * r].reshape(p, r), y[p * r :], v, frame, v_star, c)

    def rate(t: float, y: Array) -> Array:
        if report is not None and t_max > 0.0:
            report(min(t / t_max, 1.0))
        by, decay = slope(y), problem.weight_decay
        B, q = y[: p * r].reshape(p, r), y[p * r :]
        return np.concatenate(((-p * by.B - decay * B).ravel(), -4.0 * p * q * by.q - 2.0 * decay * q))

    began = time.perf_counter()
    y0 = np.concatenate(((start.M @ inverse).ravel(), start.q))
    rows, nfev = y0[None], 0
    if t_max > 0.0:
        found = solve_ivp(rate, (0.0, t_max), y0, "DOP853", t_eval=grid, rtol=rtol, atol=atol)
        if found.status < 0:
            raise ValueError("the solver gave up; loosen rtol and atol.")
        rows, nfev = found.y.T, int(found.nfev)
    stats = {"nfev": nfev, "rtol": rtol, "atol": atol, "wall_time": time.perf_counter() - began}
    return MeanFieldSolution(
        problem=problem,
        d=d,
        t=frozen(grid),
        M=frozen(rows[:, : p * r].reshape(-1, p, r) @ frame.T),
        q=frozen(np.maximum(rows[:, p * r :], 0.0)),
        P=start.P,
        a=start.a,
        a_star=start.a_star,
        risk=frozen(np.array([max(slope(y).risk, 0.0) for y in rows])),
        stats=MappingProxyType(stats),
        versions=MappingProxyType(dict(versions())),
    )


def _frame(P: Array) -> tuple[Array, Array]:
    """The teachers' coordinates L (k, r) in an orthonormal frame of their span, P = LLᵀ, and what takes M to B."""
    values, vectors = np.linalg.eigh(P)
    kept = values > KEPT * values[-1]
    root = np.sqrt(values[kept])
    return vectors[:, kept] * root, vectors[:, kept] / root
