"""The Hessian of the population risk in the space of the weights, from two-point functions: exact at any dimension d.

With e = Σ_a v_a φ_a(u_a), u_a = w_a·x, the block of students i and j is

    v_i v_j E[φ_i'φ_j' xxᵀ] + δ_ij v_i E[e φ_i'' xxᵀ],   E[g xxᵀ] = E[g] I + Σ_ab w_a E[∂_a∂_b g] w_bᵀ  (Stein's lemma),

and the expectations are two-point functions c_mn = E[φ_a^(m) φ_b^(n)]: c11, c20 and, by Price's theorem, their
derivatives c_{m+1,n+1} = ∂c_mn/∂Ω_ab and c_{m+2,n} = 2 ∂c_mn/∂Ω_aa.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from ._activation import Activation
from ._checks import integer, real, restore
from ._kernel import load
from ._overlaps import Overlaps, Weights
from ._problem import Problem, check_start

__all__ = ["Hessian", "hessian"]

Array = NDArray[np.float64]

STEP = 1e-30  # of complex steps: derivatives of analytic functions without cancellation
FLAT = 1e-12  # eigenvalues of Omega below this fraction of the largest one are no direction of the weights
KINKED = {"signsign", "density", "share", "clean"}  # what the generated functions of activations with kinks are made of


@dataclass(frozen=True, eq=False)
class Hessian:
    """Spectrum of the Hessian of the excess risk with respect to the pd entries of w = W/√d.

    Attributes
    ----------
    d : int
        Input dimension.
    rank : int
        Dimension of the span of all weights, students' and teachers'.
    inside : (p*rank,) array
        Eigenvalues, ascending, for changes of the weights inside this span.
    outside : (p,) array
        Eigenvalues, ascending, for changes orthogonal to it, each d - rank times.
    values : (m,) array
        All distinct eigenvalues, ascending.
    multiplicities : (m,) array of int
        How often each occurs; the sum is p*d.
    """

    d: int
    rank: int
    inside: Array
    outside: Array
    values: Array
    multiplicities: NDArray[np.int64]

    def __setstate__(self, state: dict[str, object]) -> None:
        restore(self, state)

    @property
    def negative(self) -> int:
        """Number of descending directions, the index of a saddle."""
        return int(self.multiplicities[self.values < 0.0].sum())

    @property
    def nullity(self) -> int:
        """Number of flat directions."""
        return int(self.multiplicities[self.values == 0.0].sum())

    def __str__(self) -> str:
        listed = ", ".join(f"{v:.6g} [{n}]" for v, n in zip(self.values, self.multiplicities, strict=True))
        return f"Hessian of the risk, eigenvalue [multiplicity]: {listed}"


def hessian(problem: Problem, state: Overlaps | Weights, d: int | None = None, *, tol: float = 1e-8) -> Hessian:
    """Spectrum of the Hessian of the excess population risk in weight space.

    It splits into the span of the student's and teacher's weights, and the directions orthogonal to it, which are all
    alike: the cost does not depend on d.

    Parameters
    ----------
    problem : Problem
        With smooth activations; only these matter here. The weights are free: no constraint, no weight decay.
    state : Overlaps or Weights
        The point, without a replica axis; its second layer is fixed.
    d : int, optional
        Input dimension; with Weights it is theirs.
    tol : float
        Eigenvalues are taken as equal, or as zero, below this fraction of the largest one.

    Returns
    -------
    Hessian
        With respect to w = W/√d, rows of norm √Q_jj: divide by d for derivatives with respect to W. In the time t,
        gradient flow is dw/dt = −p ∂risk/∂w, so a rate per t is −p times an eigenvalue.

    Raises
    ------
    ValueError, TypeError
        Activations with a kink, a spherical problem, a missing d or one below the number of independent weights, or
        replicas.

    Notes
    -----
    The two-point functions are differentiated by complex steps, to rounding (of tanh: of the certified mixture).
    Multiplicities of quadratic networks: Bocchi et al. 2026 (arXiv 2604.03068).

    Examples
    --------
    >>> import hdsgd
    >>> network = hdsgd.QuadraticNetwork(p=3, k=2)
    >>> plateau = hdsgd.Overlaps(0.6 * np.eye(3), np.zeros((3, 2)), np.eye(2))
    >>> print(hessian(network.problem, plateau, d=10**6))
    Hessian of the risk, eigenvalue [multiplicity]: -0.666667 [6], 0 [2999988], 0.533333 [5], 1.33333 [1]
    """
    if isinstance(state, Weights):
        if d not in (None, state.d):
            raise ValueError(f"the weights are of dimension {state.d}, not {d}; leave d out.")
        d, state = state.d, state.overlaps()
    problem, state = check_start(problem, state)
    if state.replicas is not None:
        raise ValueError("hessian takes one state; pass state.replica(i).")
    if problem.spherical:
        raise ValueError("this is the Hessian of free weights; pass a problem with spherical=False.")
    if d is None:
        raise ValueError("the number of directions needs the input dimension; pass for example d=1000.")
    tol = real("tol", tol, low=0.0, strict=True)
    p, Omega, v = state.p, state.Omega, state.v
    size, frame = np.linalg.eigh(Omega)
    kept = size > FLAT * size[-1]
    w = frame[:, kept] * np.sqrt(size[kept])  # coordinates of all weights in an orthonormal basis of their span
    rank = w.shape[1]
    d = integer("d", d, low=rank, hint=f"these weights span {rank} dimensions")
    pair = (problem.student, problem.teacher)
    c11, c31, c22, c13 = _price(pair, "J2", Omega, p, p)
    c20, c40, c31_own, c22_own = _price(pair, "K2", Omega, p, len(Omega))
    one = np.eye(rank)
    own = (c20 * v).sum(axis=1)  # E[e φ_i''], the same in all directions
    weak = v[:p, None] * v[:p] * c11 + np.diag(v[:p] * own)
    blocks = np.empty((p, rank, p, rank))
    for i in range(p):
        for j in range(p):
            across = np.outer(w[i], w[j])
            curved = (
                c31[i, j] * np.outer(w[i], w[i]) + c22[i, j] * (across + across.T) + c13[i, j] * np.outer(w[j], w[j])
            )
            blocks[i, :, j] = weak[i, j] * one + v[i] * v[j] * curved
        mixed = np.outer(w[i], (v * c31_own[i]) @ w)
        blocks[i, :, i] += v[i] * (
            (v @ c40[i]) * np.outer(w[i], w[i]) + mixed + mixed.T + (w * (v * c22_own[i])[:, None]).T @ w
        )
    matrix = blocks.reshape(p * rank, p * rank)
    if not np.all(np.isfinite(matrix)):
        raise ValueError("the risk has no finite second derivatives here; take other activations or smaller weights.")
    inside, outside = (np.asarray(np.linalg.eigvalsh(part), dtype=float) for part in (matrix, weak))
    values, multiplicities = _grouped(inside, outside, d - rank, tol)
    return Hessian(d, rank, inside, outside, values, multiplicities)


def _grouped(inside: Array, outside: Array, times: int, tol: float) -> tuple[Array, NDArray[np.int64]]:
    """Distinct eigenvalues, and how often they occur in all."""
    every = np.concatenate((inside, outside if times else outside[:0]))
    counts = np.concatenate((np.ones(inside.size, dtype=np.int64), np.full(every.size - inside.size, times)))
    order = np.argsort(every)
    every, counts = every[order], counts[order]
    least = tol * np.abs(every).max()
    starts = np.flatnonzero(np.concatenate(([True], np.diff(every) > least)))
    total = np.add.reduceat(counts, starts)
    means = np.add.reduceat(every * counts, starts) / total
    return np.where(np.abs(means) <= least, 0.0, means), total


def _price(pair: tuple[Activation, Activation], name: str, Omega: Array, p: int, n: int) -> tuple[Array, ...]:
    """A two-point function c_mn of students and n units, and c_{m+2,n}, c_{m+1,n+1}, c_{m,n+2}, all (p, n)."""
    module = _analytic(*pair)
    ends = [("", slice(0, n))]
    if pair[0].formula != pair[1].formula:
        ends = [("_ss", slice(0, p)), ("_st", slice(p, n))][: 1 if n == p else 2]
    norms = np.diagonal(Omega)

    def at(*steps: complex) -> NDArray[np.complex128]:
        out = np.empty((p, n), dtype=complex)
        for end, units in ends:
            place = (norms[:p, None], Omega[:p, units], norms[None, units])
            with np.errstate(all="ignore"):  # what is not finite is reported by the caller
                out[:, units] = getattr(module, name + end)(*(x + h for x, h in zip(place, steps, strict=True)))
        return out

    slopes = (at(*step).imag / STEP for step in STEP * 1j * np.eye(3))
    return at(0.0, 0.0, 0.0).real, *(scale * slope for scale, slope in zip((2.0, 1.0, 2.0), slopes, strict=True))


@cache
def _analytic(student: Activation, teacher: Activation) -> ModuleType:
    """The generated functions without the clamps that hold real arguments on the cone."""
    generated = load(student, teacher, "numpy").module
    spec = importlib.util.spec_from_file_location("hdsgd_analytic", str(generated.__file__))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    used = ("J2", "J2_ss", "K2", "K2_ss", "K2_st")  # E[σ'σ*'] is not: a smooth student may have a teacher with a kink
    functions = [value for name, value in vars(module).items() if name.lstrip("_") in used]
    if any(KINKED & set(function.__code__.co_names) for function in functions):
        names = " and ".join(sorted({student.name, teacher.name}))
        raise ValueError(f"the Hessian needs smooth activations, and {names} have kinks; take for example gelu.")
    vars(module).update(positive=lambda x: x, maximum=lambda x, low: x, minimum=lambda x, high: x)
    return module
