"""The dynamics of the overlaps: risk, drift, noise and diffusion of one problem."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ._checks import choice, frozen, same
from ._diffusion import Diffusion, Increments, project, step_of
from ._kernel import BACKENDS, Array, CSystem, Kernel, load
from ._overlaps import Overlaps, trusted
from ._problem import Problem, check_start


class Drift(NamedTuple):
    """Time derivatives of the overlaps in t = νγ/(pd); equal by value.

    Attributes
    ----------
    dQ : (..., p, p) array
    dM : (..., p, k) array
    da : (..., p) array
    """

    dQ: Array
    dM: Array
    da: Array

    def __eq__(self, other: object) -> bool:
        return same(tuple(self), tuple(other)) if isinstance(other, Drift) else NotImplemented

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __reduce__(self) -> tuple[Any, ...]:
        return _read_only, tuple(self)


def _read_only(dQ: Array, dM: Array, da: Array) -> Drift:
    return Drift(frozen(dQ), frozen(dM), frozen(da))


@dataclass(frozen=True)
class Dynamics:
    """Right-hand sides of the limiting equations of one-pass SGD.

    Parameters
    ----------
    problem : Problem
        Activations, learning rates, batches, label noise, weight decay and constraint.
    backend : {"auto", "c", "numpy"}
        Compiled kernels, or numpy; ``"auto"`` takes C where a compiler works.

    Attributes
    ----------
    backend : str
        The one in use, ``"c"`` or ``"numpy"``. Two Dynamics are equal when problem and backend are.

    Raises
    ------
    ValueError
        If the backend is unknown, or the pair of activations has no closed form.

    Notes
    -----
    With u = (λ, λ*), v = (−a/p, a*/k) and the error e = Σ_a v_a φ_a(u_a) + √Δ z, and in the time t = νγ/(pd),

        dM_jr/dt = a_j G_{j,p+r} − η M_jr,
        dQ_jl/dt = a_j G_jl + a_l G_lj + (γ/(p n_b)) a_j a_l N_jl − 2η Q_jl,
        da_j/dt = (γ_a/γ) E[σ(u_j) e],
        G_jb = E[σ'(u_j) u_b e],  N_jl = E[σ'(u_j) σ'(u_l) e²]

    for batches of n_b samples, weight decay η and the second layer's rate γ_a (Saad & Solla 1995; Veiga et al. 2022,
    arXiv:2202.00293; batches: Arnaboldi et al. 2024, arXiv:2406.02157).  Stein's lemma reduces G to two-point
    functions.

    This is the limit d → ∞.  At finite d, a batch adds (γ/p) a_j a_l (1 − 1/n_b) (G Ω⁺ Gᵀ)_jl/d to dQ_jl/dt.  It is
    left out: as N − G Ω⁺ Gᵀ is positive semidefinite (Bessel's inequality), it is at most (n_b − 1)/d of the noise.

    Examples
    --------
    >>> import hdsgd
    >>> state = hdsgd.Overlaps(Q=[[1.0]], M=[[0.1]], P=[[1.0]])
    >>> dyn = hdsgd.Dynamics(hdsgd.Problem("quadratic", gamma=0.1, spherical=True))
    >>> round(dyn.risk(state), 12)
    1.98
    """

    problem: Problem
    backend: str = "auto"
    kernel: Kernel = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.problem, Problem):
            raise TypeError(
                f"problem must be an hdsgd.Problem, got {type(self.problem).__name__}; pass for example Problem('erf')."
            )
        kernel = load(self.problem.student, self.problem.teacher, choice("backend", self.backend, BACKENDS))
        object.__setattr__(self, "kernel", kernel)
        object.__setattr__(self, "backend", kernel.backend)

    def __reduce__(self) -> tuple[type[Dynamics], tuple[Problem, str]]:
        return Dynamics, (self.problem, "auto" if self.backend == "c" else "numpy")  # C only where there is a compiler

    def risk(self, state: Overlaps) -> float | Array:
        """Return the excess population risk ½E[(f* − f)²].

        Parameters
        ----------
        state : Overlaps
            With or without a replica axis.

        Returns
        -------
        float or (replicas,) array
            Never negative: cancellation near perfect learning leaves an error of about 1e-16 times the risk at M = 0.
        """
        _, state = check_start(self.problem, state)
        values = np.maximum(self.kernel.risk(*_batch(state)), 0.0)
        return float(values[0]) if state.replicas is None else values

    def noise(self, state: Overlaps) -> Array:
        """Return N_jl = E[σ'(λ_j) σ'(λ_l) e²], label noise included, shape (..., p, p)."""
        _, state = check_start(self.problem, state)
        return _unbatch(state, self.kernel.noise(*_batch(state), self.problem.Delta))

    def drift(self, state: Overlaps) -> Drift:
        """Return d/dt of (Q, M, a) in t = νγ/(pd), noise term and spherical projection included.

        Returns
        -------
        Drift
            ``dQ`` (..., p, p), ``dM`` (..., p, k) and ``da`` (..., p), which is zero while the second layer is fixed.
        """
        _, state = check_start(self.problem, state)
        rates = self._drift(*_batch(state))
        return _read_only(*(_unbatch(state, rate) for rate in rates))

    def _drift(self, Q: Array, M: Array, P: Array, a: Array, a_star: Array) -> tuple[Array, Array, Array]:
        p, problem = Q.shape[-1], self.problem
        G = a[:, :, None] * self.kernel.gradients(Q, M, P, a, a_star)
        dQ, dM = G[:, :, :p] + G[:, :, :p].swapaxes(1, 2), G[:, :, p:]
        if problem.gamma > 0:
            noise = self.kernel.noise(Q, M, P, a, a_star, problem.Delta)
            dQ = dQ + (self._noise_rate / p) * a[:, :, None] * a[:, None, :] * noise
        if problem.spherical or problem.weight_decay > 0:  # both shrink the rows
            half = np.full_like(a, problem.weight_decay)
            if problem.spherical:
                # per Q_jj, which is 1 up to rounding: otherwise the norms would leave the sphere exponentially
                half = 0.5 * np.diagonal(dQ, axis1=1, axis2=2) / np.diagonal(Q, axis1=1, axis2=2)
            dQ, dM = dQ - Q * (half[:, :, None] + half[:, None, :]), dM - M * half[:, :, None]
        if problem.second_layer_ratio > 0:
            return dQ, dM, problem.second_layer_ratio * self.kernel.output_gradients(Q, M, P, a, a_star)
        return dQ, dM, np.zeros_like(a)

    @property
    def _noise_rate(self) -> float:
        """γ/n_b: to leading order in 1/d, a batch acts in the time t as this learning rate does."""
        return self.problem.gamma / self.problem.batch_size

    def diffusion(self, state: Overlaps, *, order: str = "all") -> tuple[Array, tuple[str, ...]]:
        """Return the covariance per step of the increments of (Q, M[, a]): dX = drift dt + √(γ/(pd)) cov^½ dB.

        A step's mean over a batch of n_b samples has 1/n_b of the covariance at the learning rate γ/n_b.

        Parameters
        ----------
        state : Overlaps
            Any p and k, with or without a replica axis.
        order : {"all", "leading"}
            ``"leading"``: without the terms in γ/p, those of e³ and e⁴.

        Returns
        -------
        cov : (..., m, m) array
            Covariance of the upper triangle of Q by rows, M by rows, and a if it is trained; projected on the sphere
            when the problem is spherical. How it is computed, and its error, is in :meth:`diffusion_route`.
        labels : tuple of str
            Names of the components in order, such as ``Q[0,1]``, ``M[0,0]``, ``a[0]``.

        Raises
        ------
        ValueError
            If ``order`` is another.

        Examples
        --------
        >>> import hdsgd
        >>> dyn = hdsgd.Dynamics(hdsgd.Problem("quadratic", gamma=0.0))
        >>> cov, labels = dyn.diffusion(hdsgd.Overlaps(Q=[[1.0]], M=[[0.0]], P=[[1.0]]))
        >>> labels, round(float(cov[1, 1]), 9)  # 48 + 4 Δ at m = 0
        (('Q[0,0]', 'M[0,0]'), 48.0)
        """
        _, state = check_start(self.problem, state)
        increments = self._increments(state, order)
        parts = increments.step.components
        Omega, v, a = _covariances(state)
        cov = increments.covariance(Omega, v, a) / self.problem.batch_size
        if self.problem.spherical:
            cov = project(parts, *_batch(state)[:2], cov)
        return _unbatch(state, cov), parts.labels()

    def diffusion_route(self, state: Overlaps, *, order: str = "all") -> Diffusion:
        """Return how :meth:`diffusion` computes the covariance of a state, with its number of nodes and its error.

        Examples
        --------
        >>> import hdsgd
        >>> state = hdsgd.Overlaps(Q=[[1.0]], M=[[0.1]], P=[[1.0]])
        >>> hdsgd.Dynamics(hdsgd.Problem("quadratic")).diffusion_route(state).route
        'quadratic'
        """
        _, state = check_start(self.problem, state)
        return self._increments(state, order).report(*_covariances(state))

    def _increments(self, state: Overlaps, order: str) -> Increments:
        return Increments(self.kernel, step_of(self.problem, state.p, state.k, order))

    def system(self, state: Overlaps) -> System:
        """Return the equations as a function of one flat vector, for ODE solvers, with the teacher of ``state``."""
        _, state = check_start(self.problem, state)
        return System(self, state)


class System:
    """The overlaps' equations as dy/dt = rhs(t, y), at a fixed teacher.

    y holds the upper triangle of Q by rows, M by rows, and a if it is trained.  On the sphere it leaves out the
    diagonal of Q, which is exactly 1 there: the norms, like an antisymmetric part of Q, are unstable directions of the
    projected equations.
    """

    def __init__(self, dynamics: Dynamics, state: Overlaps) -> None:
        problem = dynamics.problem
        self.p, self.k = state.p, state.k
        self._upper = np.triu_indices(state.p, 1 if problem.spherical else 0)
        self._dynamics, self._trained = dynamics, problem.second_layer_ratio > 0
        self._fixed = tuple(np.array(x, dtype=float) for x in (state.P, state.a, state.a_star))
        if dynamics.backend == "c":
            library = dynamics.kernel.library
            inside = np.empty(self.pack(state).size)  # fixed places, for calls that pass one pointer
            outside, work = np.empty_like(inside), dynamics.kernel.scratch(self.p, self.k)
            arrays = (inside, *self._fixed, outside, work)
            system = CSystem(
                *(self.p, self.k, int(problem.spherical), dynamics._noise_rate),
                *(problem.Delta, problem.weight_decay, problem.second_layer_ratio),
                *(x.ctypes.data for x in arrays),
            )
            system.arrays = arrays  # alive as long as what points at them
            pointer = ctypes.byref(system)
            compiled_rhs, compiled_risk = library.hdsgd_rhs, library.hdsgd_risk

            def rhs(t: float, y: Array) -> Array:
                inside[:] = y
                compiled_rhs(pointer)
                return outside.copy()

            def risk(y: Array) -> float:
                inside[:] = y
                return max(float(compiled_risk(pointer)), 0.0)

            self.rhs, self.risk = rhs, risk
        else:
            self.rhs, self.risk = self._rhs, self._risk

    def pack(self, state: Overlaps) -> Array:
        """Return (Q, M, a) of a state without replica axis as one vector."""
        return self.packed(state.Q, state.M, state.a)

    def packed(self, Q: Array, M: Array, a: Array) -> Array:
        """Return full Q (p, p), M (p, k) and, if it is trained, a (p,) as one vector."""
        return np.concatenate((Q[self._upper], M.ravel(), a if self._trained else ()))

    def unpack(self, y: Array) -> tuple[Array, Array, Array]:
        """Return Q (p, p), M (p, k) and a (p,) of a vector."""
        upper, M, a = np.split(y, (len(self._upper[0]), len(self._upper[0]) + self.p * self.k))
        Q = np.eye(self.p)
        Q[self._upper] = upper
        return Q + np.triu(Q, 1).T, M.reshape(self.p, self.k), a if self._trained else self._fixed[1]

    def _arguments(self, y: Array) -> tuple[Array, Array, Array, Array, Array]:
        Q, M, a = self.unpack(y)
        P, _, a_star = self._fixed
        return _batch(trusted(Q, M, P, a, a_star))

    def _rhs(self, t: float, y: Array) -> Array:
        return self.packed(*(rate[0] for rate in self._dynamics._drift(*self._arguments(y))))

    def _risk(self, y: Array) -> float:
        return max(float(self._dynamics.kernel.risk(*self._arguments(y))[0]), 0.0)


def _batch(state: Overlaps) -> tuple[Array, Array, Array, Array, Array]:
    """Return Q, M, P, a, a_star with a replica axis on Q, M and a."""
    if state.replicas is None:
        return state.Q[None], state.M[None], state.P, state.a[None], state.a_star
    return state.Q, state.M, state.P, state.a, state.a_star


def _covariances(state: Overlaps) -> tuple[Array, Array, Array]:
    """Return Omega, v and a with a replica axis."""
    if state.replicas is None:
        return state.Omega[None], state.v[None], state.a[None]
    return state.Omega, state.v, state.a


def _unbatch(state: Overlaps, value: Array) -> Array:
    return value[0] if state.replicas is None else value
