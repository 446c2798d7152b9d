"""Order parameters (Q, M, P) and explicit weights (THEORY section 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._checks import array, boolean, frozen, integer, restore, same_fields
from ._random import OVERLAPS, RNG, TEACHER, generators, master_seed

__all__ = ["Overlaps", "Weights"]

Array = NDArray[np.float64]

# Omega may be indefinite by this much, times its largest diagonal entry: what rounding and solvers leave behind.
TOLERANCE = 1e-10
# Below this it is rounding, which every user of Omega has to survive anyway, and values are kept bit for bit.
ROUNDING = 1e-14


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Overlaps:
    """Overlaps of student and teacher weights: Q = W W^T/d, M = W W_star^T/d, P = W_star W_star^T/d.

    Parameters
    ----------
    Q : array_like, shape (p, p) or (replicas, p, p)
    M : array_like, shape (p, k) or (replicas, p, k)
    P : array_like, shape (k, k)
        The same teacher for all replicas.
    a : array_like, shape (p,) or (replicas, p), optional
        Second layer of the student, ones by default.
    a_star : array_like, shape (k,), optional
        Second layer of the teacher, ones by default.

    Attributes
    ----------
    p, k : int
        Widths of student and teacher.
    replicas : int or None
        Length of the leading axis of Q, M and a; None without one. An argument without the axis is shared by all.

    Raises
    ------
    ValueError
        Wrong shapes, entries that are not finite, Q or P not symmetric, or Omega = [[Q, M], [M^T, P]] with an
        eigenvalue below -1e-10 times its largest diagonal entry. Anything closer to the boundary is moved onto it,
        keeping P and the diagonal of Q.
    TypeError
        Arrays that are not real.

    Notes
    -----
    All arrays are read-only float64 copies; two Overlaps are equal when all their values are.

    Source: Saad & Solla 1995; Veiga et al. 2022 (arXiv 2202.00293), equation 8.
    """

    Q: Array
    M: Array
    P: Array
    a: Array
    a_star: Array

    def __init__(
        self, Q: ArrayLike, M: ArrayLike, P: ArrayLike, a: ArrayLike | None = None, a_star: ArrayLike | None = None
    ) -> None:
        q = array("Q", Q, ndim=(2, 3), shape="(p, p) or (replicas, p, p)")
        m = array("M", M, ndim=(2, 3), shape="(p, k) or (replicas, p, k)")
        r = array("P", P, ndim=(2,), shape="(k, k), without a replica axis: the teacher is shared,")
        p, k = m.shape[-2:]
        if q.shape[-2:] != (p, p):
            raise ValueError(f"Q must be (p, p) = ({p}, {p}) to go with M of shape {m.shape}, got {q.shape}.")
        if r.shape != (k, k):
            raise ValueError(f"P must be (k, k) = ({k}, {k}) to go with M of shape {m.shape}, got {r.shape}.")
        second, teacher = _second_layers(p, k, a, a_star)
        q, m, second = _aligned({"Q": (q, 2), "M": (m, 2), "a": (second, 1)})
        scale = max(np.abs(q).max(), np.abs(r).max())
        for name, square in (("Q", q), ("P", r)):
            gap = np.abs(square - np.swapaxes(square, -1, -2)).max()
            if gap > TOLERANCE * scale:
                raise ValueError(
                    f"{name} must be symmetric, but entries differ by {gap:.3g} from their transpose; "
                    f"pass ({name} + {name}.T)/2 if that is meant."
                )
        q, m, r = _feasible(_symmetric(q), m, _symmetric(r), TOLERANCE)
        self._set(q, m, r, second, teacher)

    def _set(self, Q: Array, M: Array, P: Array, a: Array, a_star: Array) -> None:
        for name, value in (("Q", Q), ("M", M), ("P", P), ("a", a), ("a_star", a_star)):
            object.__setattr__(self, name, frozen(value))

    @property
    def p(self) -> int:
        """Width of the student."""
        return int(self.M.shape[-2])

    @property
    def k(self) -> int:
        """Width of the teacher."""
        return int(self.M.shape[-1])

    @property
    def replicas(self) -> int | None:
        """Number of replicas, None without a replica axis."""
        return int(self.M.shape[0]) if self.M.ndim == 3 else None

    @property
    def Omega(self) -> Array:
        """Covariance of the local fields (lambda, lambda_star), shape (..., p + k, p + k)."""
        return _omega(self.Q, self.M, self.P)

    @property
    def v(self) -> Array:
        """Output weights (-a/p, a_star/k) of all units in the error, shape (..., p + k)."""
        teacher = np.broadcast_to(self.a_star / self.k, (*self.a.shape[:-1], self.k))
        return np.concatenate((-self.a / self.p, teacher), axis=-1)

    def replica(self, i: int) -> Overlaps:
        """The overlaps of one replica, without a replica axis."""
        if self.replicas is None:
            raise ValueError("these overlaps have no replica axis; use them as they are.")
        if not -self.replicas <= i < self.replicas:
            raise IndexError(f"replica {i} does not exist; there are {self.replicas}, counted from 0.")
        return trusted(self.Q[i].copy(), self.M[i].copy(), self.P, self.a[i].copy(), self.a_star)

    @classmethod
    def from_weights(
        cls, W: ArrayLike, W_star: ArrayLike, a: ArrayLike | None = None, a_star: ArrayLike | None = None
    ) -> Overlaps:
        """Overlaps of explicit weights.

        Parameters
        ----------
        W : array_like, shape (p, d) or (replicas, p, d)
            Student weights, rows of norm about sqrt(d).
        W_star : array_like, shape (k, d)
            Teacher weights.
        a, a_star : array_like, optional
            Second layers, as in `Overlaps`.

        Returns
        -------
        Overlaps

        Raises
        ------
        ValueError, TypeError
            As `Weights`.
        """
        w = Weights(W, W_star, a, a_star)
        Q = w.W @ np.swapaxes(w.W, -1, -2) / w.d
        M = w.W @ w.W_star.T / w.d
        P = w.W_star @ w.W_star.T / w.d
        return trusted(_symmetric(Q), M, _symmetric(P), w.a, w.a_star)

    @classmethod
    def random(
        cls,
        p: int,
        k: int,
        d: int,
        *,
        rng: RNG = None,
        spherical: bool = True,
        orthogonal_teacher: bool = False,
        replicas: int | None = None,
    ) -> Overlaps:
        """Overlaps of random weights in dimension d, drawn in law at a cost that does not depend on d.

        Parameters
        ----------
        p, k, d : int
            Widths and input dimension, d >= k.
        rng : None, int, SeedSequence or Generator
            Replica i has its own stream: its values do not depend on ``replicas``.
        spherical : bool
            True: student rows uniform on the sphere of radius sqrt(d) (Q_jj = 1); False: entries of W are N(0, 1).
        orthogonal_teacher : bool
            True: P = I; False: teacher rows are independent, uniform on the sphere of radius sqrt(d), and the same for
            all replicas. (With k = 1 both mean P = 1.)
        replicas : int or None
            None: no replica axis.

        Returns
        -------
        Overlaps

        Raises
        ------
        ValueError, TypeError
            A width, dimension or number of replicas that is not a positive integer, or d < k.
        """
        p, k = integer("p", p), integer("k", k)
        d = integer("d", d, low=k, hint="the input dimension d must be at least the teacher width k")
        count = 1 if replicas is None else integer("replicas", replicas)
        spherical = boolean("spherical", spherical)
        seed = master_seed(rng)
        if boolean("orthogonal_teacher", orthogonal_teacher) or k == 1:
            P = L = np.eye(k)
        else:
            (teacher,) = generators(seed, TEACHER, 0, 1)
            L = _bartlett([teacher], k, d)[0]
            L /= np.linalg.norm(L, axis=1, keepdims=True)
            P = _symmetric(L @ L.T)
            np.fill_diagonal(P, 1.0)
        # W = B E + C F with E the teachers' orthonormal frame and F any frame of its complement.
        streams = generators(seed, OVERLAPS, 0, count)
        B = np.stack([g.standard_normal((p, k)) for g in streams])
        C = _bartlett(streams, p, d - k)
        scale = np.linalg.norm(np.concatenate((B, C), axis=-1), axis=-1, keepdims=True) if spherical else np.sqrt(d)
        B, C = B / scale, C / scale
        Q = _symmetric(B @ np.swapaxes(B, -1, -2) + C @ np.swapaxes(C, -1, -2))
        if spherical:
            Q[:, np.arange(p), np.arange(p)] = 1.0
        every = trusted(Q, B @ L.T, P, np.ones((count, p)), np.ones(k))
        return every.replica(0) if replicas is None else every

    def __eq__(self, other: object) -> bool:
        return same_fields(self, other) if isinstance(other, Overlaps) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __setstate__(self, state: dict[str, Any]) -> None:
        restore(self, state)

    def __repr__(self) -> str:
        axis = "" if self.replicas is None else f", replicas={self.replicas}"
        return f"Overlaps(p={self.p}, k={self.k}{axis})"


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Weights:
    """Explicit first-layer weights and second layers.

    Parameters
    ----------
    W : array_like, shape (p, d) or (replicas, p, d)
        Student, rows of norm about sqrt(d).
    W_star : array_like, shape (k, d)
        Teacher, shared by all replicas.
    a : array_like, shape (p,) or (replicas, p), optional
        Ones by default.
    a_star : array_like, shape (k,), optional
        Ones by default.

    Raises
    ------
    ValueError
        Shapes that do not fit together, or entries that are not finite.
    TypeError
        Arrays that are not real.
    """

    W: Array
    W_star: Array
    a: Array
    a_star: Array

    def __init__(
        self, W: ArrayLike, W_star: ArrayLike, a: ArrayLike | None = None, a_star: ArrayLike | None = None
    ) -> None:
        w = array("W", W, ndim=(2, 3), shape="(p, d) or (replicas, p, d)")
        w_star = array("W_star", W_star, ndim=(2,), shape="(k, d)")
        if w.shape[-1] != w_star.shape[-1]:
            raise ValueError(
                f"W and W_star must have the same number of columns d, got {w.shape[-1]} and {w_star.shape[-1]}; "
                "rows are hidden units."
            )
        second, teacher = _second_layers(w.shape[-2], w_star.shape[-2], a, a_star)
        w, second = _aligned({"W": (w, 2), "a": (second, 1)})
        for name, value in (("W", w), ("W_star", w_star), ("a", second), ("a_star", teacher)):
            object.__setattr__(self, name, frozen(value))

    @property
    def p(self) -> int:
        """Width of the student."""
        return int(self.W.shape[-2])

    @property
    def k(self) -> int:
        """Width of the teacher."""
        return int(self.W_star.shape[-2])

    @property
    def d(self) -> int:
        """Input dimension."""
        return int(self.W.shape[-1])

    @property
    def replicas(self) -> int | None:
        """Number of replicas, None without a replica axis."""
        return int(self.W.shape[0]) if self.W.ndim == 3 else None

    def overlaps(self) -> Overlaps:
        """The order parameters of these weights."""
        return Overlaps.from_weights(self.W, self.W_star, self.a, self.a_star)

    def __eq__(self, other: object) -> bool:
        return same_fields(self, other) if isinstance(other, Weights) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __setstate__(self, state: dict[str, Any]) -> None:
        restore(self, state)

    def __repr__(self) -> str:
        axis = "" if self.replicas is None else f", replicas={self.replicas}"
        return f"Weights(p={self.p}, k={self.k}, d={self.d}{axis})"


def trusted(Q: Array, M: Array, P: Array, a: Array, a_star: Array) -> Overlaps:
    """Overlaps from arrays that are valid by construction: neither checked nor copied."""
    out = object.__new__(Overlaps)
    out._set(Q, M, P, a, a_star)
    return out


def nearest(Q: Array, M: Array, P: Array, a: Array, a_star: Array) -> Overlaps:
    """Overlaps from a solver's numbers: moved onto the boundary however far rounding or step errors went beyond."""
    q, m, r = _feasible(_symmetric(Q), M, P, np.inf)
    return trusted(np.array(q), np.array(m), r, np.array(a), a_star)


def ensemble(state: Overlaps, replicas: int | None) -> tuple[Overlaps, bool]:
    """Starts with a replica axis, and whether the result should drop it (a single start, ``replicas=None``)."""
    if replicas is None:
        return _repeated(state, 1) if state.replicas is None else state, state.replicas is None
    count = integer("replicas", replicas)
    if state.replicas is None:
        return _repeated(state, count), False
    if state.replicas != count:
        raise ValueError(
            f"state has {state.replicas} replicas, not {count}; pass replicas=None for one path from each start."
        )
    return state, False


def _repeated(state: Overlaps, count: int) -> Overlaps:
    Q, M, a = (np.repeat(x[None], count, axis=0) for x in (state.Q, state.M, state.a))
    return trusted(Q, M, state.P, a, state.a_star)


def feasible(Q: Array, M: Array, P: Array) -> tuple[Array, Array]:
    """Q and M with every Omega positive semidefinite, keeping P and the diagonal of Q: for whole trajectories."""
    q, m, _ = _feasible(Q, M, P, np.inf)
    return q, m


def _second_layers(p: int, k: int, a: ArrayLike | None, a_star: ArrayLike | None) -> tuple[Array, Array]:
    second = np.ones(p) if a is None else array("a", a, ndim=(1, 2), shape="(p,) or (replicas, p)")
    teacher = np.ones(k) if a_star is None else array("a_star", a_star, ndim=(1,), shape="(k,)")
    if second.shape[-1] != p:
        raise ValueError(f"a must have one entry per student unit, p = {p}, got shape {second.shape}.")
    if teacher.shape[-1] != k:
        raise ValueError(f"a_star must have one entry per teacher unit, k = {k}, got shape {teacher.shape}.")
    return second, teacher


def _aligned(arrays: dict[str, tuple[Array, int]]) -> list[Array]:
    """Give every array the replica axis if one has it; the number is each array's own number of axes."""
    counts = {name: x.shape[0] for name, (x, own) in arrays.items() if x.ndim > own}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{count} in {name}" for name, count in counts.items())
        raise ValueError(f"the leading replica axes differ ({listed}); give all the same length or leave it out.")
    if not counts:
        return [x for x, _ in arrays.values()]
    count = next(iter(counts.values()))
    return [x if x.ndim > own else np.repeat(x[None], count, axis=0) for x, own in arrays.values()]


def _symmetric(x: Array) -> Array:
    return (x + np.swapaxes(x, -1, -2)) / 2


def _omega(Q: Array, M: Array, P: Array) -> Array:
    teacher = np.broadcast_to(P, (*M.shape[:-2], *P.shape))
    top = np.concatenate((Q, M), axis=-1)
    return np.concatenate((top, np.concatenate((np.swapaxes(M, -1, -2), teacher), axis=-1)), axis=-2)


def _definite(Omega: Array, shift: Array) -> bool:
    """Whether Omega + shift*I is positive definite: Cholesky is ten times cheaper than eigenvalues."""
    try:
        np.linalg.cholesky(Omega + shift[..., None, None] * np.eye(Omega.shape[-1]))
    except np.linalg.LinAlgError:
        return False
    return True


def _feasible(Q: Array, M: Array, P: Array, tolerance: float) -> tuple[Array, Array, Array]:
    """Check that Omega is positive semidefinite up to the tolerance, and move it onto the cone if it is not quite."""
    Omega = _omega(Q, M, P)
    scale = np.diagonal(Omega, axis1=-2, axis2=-1).max(axis=-1)
    scale = np.maximum(scale, np.finfo(np.float64).tiny)
    if _definite(Omega, ROUNDING * scale):
        return Q, M, P
    worst = np.linalg.eigvalsh(Omega)[..., 0] / scale
    if np.any(worst < -tolerance):
        raise ValueError(
            "Omega = [[Q, M], [M.T, P]] must be positive semidefinite, but its smallest eigenvalue is "
            f"{worst.min():.3g} times its largest diagonal entry; these are not the overlaps of any weights: check M, "
            "or use Overlaps.from_weights, which computes them in double precision."
        )
    q, m, r = _projected(Q, M, P)
    outside = worst < -ROUNDING  # the others keep their values bit for bit
    if np.ndim(outside) == 0:
        return (q, m, r) if outside else (Q, M, P)
    return np.where(outside[..., None, None], q, Q), np.where(outside[..., None, None], m, M), r


def _projected(Q: Array, M: Array, P: Array) -> tuple[Array, Array, Array]:
    """Clip the part of Q outside the teachers' span to positive semidefinite, then restore the diagonal of Q.

    Eigenvalue clipping of Omega would change P (one for all replicas) and the norms (exactly 1 on the sphere).
    """
    values, vectors = np.linalg.eigh(P)
    kept = values > TOLERANCE * max(values[-1], 0.0)
    if values[0] < -ROUNDING * values[-1]:
        P = _symmetric((vectors * np.maximum(values, 0.0)) @ vectors.T)
    basis = vectors[:, kept]
    B = M @ basis / np.sqrt(values[kept])  # coordinates of the students in the teachers' frame
    inside = B @ np.swapaxes(B, -1, -2)
    rest, frame = np.linalg.eigh(_symmetric(Q - inside))
    C = frame * np.sqrt(np.maximum(rest, 0.0))[..., None, :]
    rows = np.concatenate((B, C), axis=-1)
    norms = np.linalg.norm(rows, axis=-1)
    wanted = np.sqrt(np.maximum(np.diagonal(Q, axis1=-2, axis2=-1), 0.0))
    ratio = np.divide(wanted, norms, out=np.zeros_like(norms), where=norms > 0.0)
    rows *= ratio[..., None]
    q = _symmetric(rows @ np.swapaxes(rows, -1, -2))
    m = rows[..., : B.shape[-1]] @ (basis * np.sqrt(values[kept])).T
    return q, m, P


def _bartlett(streams: list[np.random.Generator], rows: int, columns: int) -> Array:
    """For each stream a factor C with C C^T ~ Wishart(I_rows, columns): the QR factor of a Gaussian matrix."""
    width = min(rows, columns)
    out = np.zeros((len(streams), rows, width))
    if width == 0:
        return out
    below = np.tril_indices(rows, -1, width)
    diagonal = np.arange(width)
    for C, g in zip(out, streams, strict=True):
        C[below] = g.standard_normal(below[0].size)
        C[diagonal, diagonal] = np.sqrt(g.chisquare(columns - diagonal))
    return out
