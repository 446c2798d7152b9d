"""The dynamics of the overlaps: risk, drift, noise and diffusion of one problem."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ._checks import choice
from ._kernel import BACKENDS, Array, Kernel, load
from ._overlaps import Overlaps, trusted
from ._problem import Problem, check_start


class Drift(NamedTuple):
    """Time derivatives of the overlaps in t = νγ/(pd).

    Attributes
    ----------
    dQ : (..., p, p) array
    dM : (..., p, k) array
    da : (..., p) array
    """

    dQ: Array
    dM: Array
    da: Array


class Dynamics:
    """Right-hand sides of the limiting equations of one-pass SGD.

    Parameters
    ----------
    problem : Problem
        Activations, learning rate, label noise and constraint.
    backend : {"auto", "c", "numpy"}
        Compiled kernels, or numpy; ``"auto"`` takes C where a compiler works.

    Raises
    ------
    ValueError
        If the backend is unknown, or the pair of activations has no closed form.

    Notes
    -----
    With u = (λ, λ*), v = (−a/p, a*/k) and the error e = Σ_a v_a φ_a(u_a) + √Δ z, and in the time t = νγ/(pd),

        dM_jr/dt = a_j E[σ'(u_j) λ*_r e],
        dQ_jl/dt = a_j G_jl + a_l G_lj + (γ/p) a_j a_l N_jl,  G_jb = E[σ'(u_j) u_b e],  N_jl = E[σ'(u_j) σ'(u_l) e²]

    (Saad & Solla 1995; Veiga et al. 2022, arXiv:2202.00293).  Stein's lemma reduces G to two-point functions.

    Examples
    --------
    >>> import hdsgd
    >>> state = hdsgd.Overlaps(Q=[[1.0]], M=[[0.1]], P=[[1.0]])
    >>> dyn = hdsgd.Dynamics(hdsgd.Problem("quadratic", gamma=0.1, spherical=True))
    >>> round(dyn.risk(state), 12)
    1.98
    """

    def __init__(self, problem: Problem, backend: str = "auto") -> None:
        if not isinstance(problem, Problem):
            raise TypeError(f"problem must be an hdsgd.Problem, not {type(problem).__name__}")
        choice("backend", backend, BACKENDS)
        self.problem = problem
        self.kernel: Kernel = load(problem.student, problem.teacher, backend)

    @property
    def backend(self) -> str:
        """The backend in use: ``"c"`` or ``"numpy"``."""
        return self.kernel.backend

    def __reduce__(self) -> tuple[type[Dynamics], tuple[Problem, str]]:
        return Dynamics, (self.problem, "auto" if self.backend == "c" else "numpy")

    def __repr__(self) -> str:
        return f"Dynamics({self.problem!r}, backend={self.backend!r})"

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
        dQ, dM = self._drift(*_batch(state))
        return Drift(_unbatch(state, dQ), _unbatch(state, dM), np.zeros_like(state.a))

    def _drift(self, Q: Array, M: Array, P: Array, a: Array, a_star: Array) -> tuple[Array, Array]:
        p, gamma = Q.shape[-1], self.problem.gamma
        G = a[:, :, None] * self.kernel.gradients(Q, M, P, a, a_star)
        dQ, dM = G[:, :, :p] + G[:, :, :p].swapaxes(1, 2), G[:, :, p:]
        if gamma > 0:
            noise = self.kernel.noise(Q, M, P, a, a_star, self.problem.Delta)
            dQ = dQ + (gamma / p) * a[:, :, None] * a[:, None, :] * noise
        if self.problem.spherical:
            # per Q_jj, which is 1 up to rounding: otherwise the norms would leave the sphere exponentially
            half = 0.5 * np.diagonal(dQ, axis1=1, axis2=2) / np.diagonal(Q, axis1=1, axis2=2)
            dQ, dM = dQ - Q * (half[:, :, None] + half[:, None, :]), dM - M * half[:, :, None]
        return dQ, dM

    def diffusion(self, state: Overlaps) -> tuple[Array, tuple[str, ...]]:
        """Return the covariance per step of the increments of (Q, M): dX = drift dt + √(γ/(pd)) cov^½ dB.

        Parameters
        ----------
        state : Overlaps
            One student and one teacher unit (p = k = 1), with or without a replica axis.

        Returns
        -------
        cov : (..., 2, 2) array
            Covariance of (Q, M), projected on the sphere when the problem is spherical.
        labels : tuple of str
            Names of the components in order.

        Raises
        ------
        ValueError
            If p or k exceeds 1, or an activation is not a polynomial of degree at most 4.
        """
        _, state = check_start(self.problem, state)
        if (state.p, state.k) != (1, 1):
            raise ValueError(
                f"the diffusion is available for p = k = 1 in this version, not ({state.p}, {state.k}): "
                "use hdsgd.simulate, which is exact at any p and k"
            )
        module = self.kernel.module
        if not hasattr(module, "cov_QQ"):
            raise ValueError(
                "the diffusion is available for polynomial activations of degree at most 4 in this version: "
                "use hdsgd.simulate, which is exact for every activation"
            )
        Q, M, P, a, a_star = _batch(state)
        arguments = (Q[:, 0, 0], M[:, 0, 0], P[0, 0], self.problem.gamma, self.problem.Delta, a[:, 0], a_star[0])
        cov = np.empty((len(Q), 2, 2))
        cov[:, 0, 0] = module.cov_QQ(*arguments)
        cov[:, 0, 1] = cov[:, 1, 0] = module.cov_QM(*arguments)
        cov[:, 1, 1] = module.cov_MM(*arguments)
        if self.problem.spherical:  # the drift's projection: φ − Qφ and ψ − Mφ/2
            projection = np.tile(np.eye(2), (len(Q), 1, 1))
            projection[:, 0, 0] -= Q[:, 0, 0]
            projection[:, 1, 0] -= 0.5 * M[:, 0, 0]
            cov = projection @ cov @ projection.swapaxes(1, 2)
        return _unbatch(state, cov), ("Q[0,0]", "M[0,0]")

    def system(self, state: Overlaps) -> System:
        """Return the equations as a function of one flat vector, for ODE solvers, with the teacher of ``state``."""
        _, state = check_start(self.problem, state)
        return System(self, state)


class System:
    """The overlaps' equations as dy/dt = rhs(t, y), at fixed teacher and second layers.

    y holds the upper triangle of Q by rows and M by rows.  On the sphere it leaves out the diagonal, which is exactly 1
    there: the norms, like an antisymmetric part of Q, are unstable directions of the projected equations.
    """

    def __init__(self, dynamics: Dynamics, state: Overlaps) -> None:
        self.p, self.k = state.p, state.k
        self._upper = np.triu_indices(state.p, 1 if dynamics.problem.spherical else 0)
        self._dynamics, self._state = dynamics, state
        self._fixed = tuple(np.array(x, dtype=float) for x in (state.P, state.a, state.a_star))
        if dynamics.backend == "c":
            library, problem = dynamics.kernel.library, dynamics.problem
            self._work = dynamics.kernel.scratch(self.p, self.k)
            addresses = tuple(x.ctypes.data for x in self._fixed)
            size, work = len(self._upper[0]) + self.p * self.k, self._work.ctypes.data
            p, k, gamma, Delta, spherical = self.p, self.k, problem.gamma, problem.Delta, int(problem.spherical)
            compiled_rhs, compiled_risk = library.hdsgd_rhs, library.hdsgd_risk

            def rhs(t: float, y: Array) -> Array:
                y = np.ascontiguousarray(y, dtype=float)
                dy = np.empty(size)
                compiled_rhs(p, k, gamma, Delta, spherical, y.ctypes.data, *addresses, dy.ctypes.data, work)
                return dy

            def risk(y: Array) -> float:
                y = np.ascontiguousarray(y, dtype=float)
                return max(float(compiled_risk(p, k, spherical, y.ctypes.data, *addresses, work)), 0.0)

            self.rhs, self.risk = rhs, risk
        else:
            self.rhs, self.risk = self._rhs, self._risk

    def pack(self, state: Overlaps) -> Array:
        """Return (Q, M) of a state without replica axis as one vector."""
        return self.packed(state.Q, state.M)

    def packed(self, Q: Array, M: Array) -> Array:
        """Return full Q (p, p) and M (p, k) as one vector."""
        return np.concatenate((Q[self._upper], M.ravel()))

    def unpack(self, y: Array) -> tuple[Array, Array]:
        """Return Q (p, p) and M (p, k) of a vector."""
        split = len(self._upper[0])
        Q = np.eye(self.p)
        Q[self._upper] = y[:split]
        return Q + np.triu(Q, 1).T, y[split:].reshape(self.p, self.k)

    def _arguments(self, y: Array) -> tuple[Array, Array, Array, Array, Array]:
        Q, M = self.unpack(y)
        return _batch(trusted(Q, M, *self._fixed))

    def _rhs(self, t: float, y: Array) -> Array:
        dQ, dM = self._dynamics._drift(*self._arguments(y))
        return self.packed(dQ[0], dM[0])

    def _risk(self, y: Array) -> float:
        return max(float(self._dynamics.kernel.risk(*self._arguments(y))[0]), 0.0)


def _batch(state: Overlaps) -> tuple[Array, Array, Array, Array, Array]:
    """Return Q, M, P, a, a_star with a replica axis on Q, M and a."""
    if state.replicas is None:
        return state.Q[None], state.M[None], state.P, state.a[None], state.a_star
    return state.Q, state.M, state.P, state.a, state.a_star


def _unbatch(state: Overlaps, value: Array) -> Array:
    return value[0] if state.replicas is None else value
