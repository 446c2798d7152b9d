"""Order parameters (Q, M, P) and explicit weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._checks import array, boolean, fits, frozen, index, integer, restore, same_fields
from ._cone import TOLERANCE, checked, omega, symmetric
from ._random import OVERLAPS, RNG, TEACHER, generators, master_seed

__all__ = ["Overlaps", "Weights"]

Array = NDArray[np.float64]

PIECE = 2**20  # entries of weights that are worked on at once
GENERATOR = 1024  # bytes of a replica's random number generator


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
    Omega : ndarray, shape (..., p + k, p + k)
        Covariance of the local fields of student and teacher.
    v : ndarray, shape (..., p + k)
        Output weights (-a/p, a_star/k) of all units in the error.

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

    Source: Saad & Solla 1995; Goldt et al. 2019 (arXiv 1906.08632); Veiga et al. 2022 (arXiv 2202.00293).

    Examples
    --------
    >>> Overlaps(Q=[[1.0]], M=[[0.1]], P=[[1.0]])
    Overlaps(p=1, k=1)
    >>> starts = Overlaps.random(p=4, k=2, d=1000, rng=0, replicas=10)
    >>> starts.M.shape, starts.replica(3).M.shape
    ((10, 4, 2), (4, 2))
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
        r = array("P", P, ndim=(2,), shape="(k, k) without a replica axis (all replicas share the teacher)")
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
        q, m, r = checked(symmetric(q), m, symmetric(r), TOLERANCE)
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
        return omega(self.Q, self.M, self.P)

    @property
    def v(self) -> Array:
        """Output weights (-a/p, a_star/k) of all units in the error, shape (..., p + k)."""
        teacher = np.broadcast_to(self.a_star / self.k, (*self.a.shape[:-1], self.k))
        return np.concatenate((-self.a / self.p, teacher), axis=-1)

    def replica(self, i: int) -> Overlaps:
        """The overlaps of one replica, without a replica axis; an IndexError if there is no such replica."""
        if self.replicas is None:
            raise ValueError("these overlaps have no replica axis; use them as they are.")
        i = index("replica", i, self.replicas, "replicas")
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
        return Weights(W, W_star, a, a_star).overlaps()

    @classmethod
    def mixed(cls, A: ArrayLike, P: ArrayLike | None = None, **second_layers: ArrayLike | None) -> Overlaps:
        """Overlaps of students that are mixtures of teachers, W = A W_star: M = A P and Q = A P A^T.

        Parameters
        ----------
        A : array_like, shape (p, k) or (replicas, p, k)
            With uniform rows on the sphere this is the start of Veiga et al. 2022 (arXiv 2202.00293).
        P : array_like, shape (k, k), optional
            The identity by default.
        **second_layers
            a and a_star, as in `Overlaps`; so are the errors.

        Examples
        --------
        >>> float(Overlaps.mixed([[1.0, 0.0], [0.6, 0.8]]).Q[0, 1])
        0.6
        """
        A = array("A", A, ndim=(2, 3), shape="(p, k) or (replicas, p, k)")
        P = array("P", np.eye(A.shape[-1]) if P is None else P, ndim=(2,), shape="(k, k)")
        if P.shape != (A.shape[-1],) * 2:
            raise ValueError(f"P must be (k, k) = {(A.shape[-1],) * 2} to go with A of shape {A.shape}, got {P.shape}.")
        M = A @ P
        return cls(symmetric(M @ np.swapaxes(A, -1, -2)), M, P, **second_layers)

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
            A width, dimension or number of replicas that is not a positive integer, d < k, or more replicas than fit
            into memory.

        Examples
        --------
        >>> start = Overlaps.random(2, 1, d=10**9, rng=0)
        >>> bool(abs(start.M).max() < 1e-3)
        True
        """
        p, k = integer("p", p), integer("k", k)
        d = integer("d", d, low=k, hint="the input dimension d must be at least the teacher width k")
        count = 1 if replicas is None else integer("replicas", replicas)
        spherical = boolean("spherical", spherical)
        fits(count * (24.0 * p * (p + k) + GENERATOR), f"the overlaps of {count} replicas", "draw fewer at a time")
        seed = master_seed(rng)
        if boolean("orthogonal_teacher", orthogonal_teacher) or k == 1:
            P = L = np.eye(k)
        else:
            (teacher,) = generators(seed, TEACHER, 0, 1)
            L = _bartlett([teacher], k, d)[0]
            L /= np.linalg.norm(L, axis=1, keepdims=True)
            P = symmetric(L @ L.T)
            np.fill_diagonal(P, 1.0)
        # W = B E + C F with E the teachers' orthonormal frame and F any frame of its complement.
        streams = generators(seed, OVERLAPS, 0, count)
        B = np.empty((count, p, k))
        for own, g in zip(B, streams, strict=True):
            g.standard_normal(out=own)
        C = _bartlett(streams, p, d - k)
        scale = np.linalg.norm(np.concatenate((B, C), axis=-1), axis=-1, keepdims=True) if spherical else np.sqrt(d)
        B, C = B / scale, C / scale
        Q = symmetric(B @ np.swapaxes(B, -1, -2) + C @ np.swapaxes(C, -1, -2))
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

    Attributes
    ----------
    p, k, d : int
        Widths of student and teacher, and input dimension.
    replicas : int or None
        Length of the leading axis of W and a; None without one.

    Raises
    ------
    ValueError
        Shapes that do not fit together, or entries that are not finite.
    TypeError
        Arrays that are not real.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> weights = Weights(rng.standard_normal((3, 500)), rng.standard_normal((1, 500)))
    >>> weights
    Weights(p=3, k=1, d=500)
    >>> weights.overlaps()
    Overlaps(p=3, k=1)
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
        p, k, d, W, W_star = self.p, self.k, self.d, self.W, self.W_star
        Q, M, P = np.zeros((*W.shape[:-1], p)), np.zeros((*W.shape[:-1], k)), np.zeros((k, k))
        columns = max(1, PIECE * d // (W.size + W_star.size))
        for at in range(0, d, columns):  # a signal is seen between two of them
            w, w_star = W[..., at : at + columns], W_star[:, at : at + columns]
            Q += w @ np.swapaxes(w, -1, -2)
            M += w @ w_star.T
            P += w_star @ w_star.T
        return trusted(symmetric(Q / d), M / d, symmetric(P / d), self.a, self.a_star)

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
    q, m, r = checked(symmetric(Q), M, P, np.inf)
    return trusted(np.array(q), np.array(m), r, np.array(a), a_star)


def ensemble(state: Overlaps, replicas: int | None) -> tuple[Overlaps, bool]:
    """Starts with a replica axis, and whether the result should drop it (a single start, ``replicas=None``)."""
    if replicas is None:
        return _repeated(state, 1) if state.replicas is None else state, state.replicas is None
    count = integer("replicas", replicas)
    if state.replicas is None:
        fits(count * (8.0 * state.p * (state.p + state.k + 1) + GENERATOR), f"{count} replicas", "run fewer at a time")
        return _repeated(state, count), False
    if state.replicas != count:
        raise ValueError(
            f"state has {state.replicas} replicas, not {count}; pass replicas=None for one path from each start."
        )
    return state, False


def _repeated(state: Overlaps, count: int) -> Overlaps:
    Q, M, a = (np.repeat(x[None], count, axis=0) for x in (state.Q, state.M, state.a))
    return trusted(Q, M, state.P, a, state.a_star)


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


def _bartlett(streams: list[np.random.Generator], rows: int, columns: int) -> Array:
    """For each stream a factor C with C C^T ~ Wishart(I_rows, columns): the QR factor of a Gaussian matrix."""
    width = min(rows, columns)
    out = np.zeros((len(streams), rows, width))
    if width == 0:
        return out
    below = np.tril_indices(rows, -1, width)
    freedom = range(columns, columns - width, -1)
    normals, squares = np.empty((len(streams), below[0].size)), np.empty((len(streams), width))
    for i, g in enumerate(streams):
        g.standard_normal(out=normals[i])
        squares[i] = [g.chisquare(n) for n in freedom]  # the same numbers as of an array, which numpy checks at length
    out[:, *below] = normals
    out[:, np.arange(width), np.arange(width)] = np.sqrt(squares)
    return out
