"""The mean exit from a plateau at finite d, for any activation of information exponent 2: noise in its linear SDE."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ._dynamics import Dynamics
from ._laws import mean_log_form
from ._overlaps import Overlaps
from ._passage import exit_of_ode
from ._solution import Exit

if TYPE_CHECKING:
    from ._plateau import Plateau

__all__ = ["corrected_time"]

Array = NDArray[np.float64]

SEED, STARTS = 20230518, 32  # of the starts that the ODE is solved from
CLEAR = 5.0  # smallest fall of the risk in units of what the noise alone takes away while M is small


def corrected_time(flat: Plateau, d: int, T: float) -> float:
    """`Plateau.corrected_time`."""
    typical = flat.exit_time(d, T)  # refuses what does not apply
    assert flat.point is not None
    state, target = flat.point.state, T * flat.point.risk * d
    # the falls by amplitudes at t = 0, as if all grew at the largest rate: exact at the typical exit
    falls = flat.falls * np.exp((flat.rates - 2.0 * flat.growth) * typical)

    def spread(Q: Array) -> Array:
        """Covariance of the amplitudes of a random start of norm one at d = 1."""
        return np.asarray(flat.modes @ np.kron(Q, state.P) @ flat.modes.T)

    noise = _noise(flat)
    if target < CLEAR * float(np.sum(noise * falls)):
        raise ValueError(
            f"at d = {d} a fall of the risk by {T:g} is not clear of the noise; increase d or T, or decrease gamma"
        )
    excess, stop = [], Exit(level=(1.0 - T) * flat.point.risk)
    missed = f"the ODE does not fall by {T:g} below the plateau; decrease T or gamma"
    for start in _starts(flat, d):
        amplitudes = flat.modes @ start.M.ravel() * np.sqrt(d)
        linear = float(np.log(target / (amplitudes @ falls @ amplitudes))) / (2.0 * flat.growth)
        exits = exit_of_ode(flat.problem, start, 3.0 * typical + 20.0 / flat.growth, stop, missed)
        excess.append(exits - linear)
    from_start = (np.log(target) - _mean_log(falls, spread(np.eye(flat.p)))) / (2.0 * flat.growth)
    sown = spread(state.Q)
    saved = (_mean_log(falls, sown + noise) - _mean_log(falls, sown)) / (2.0 * flat.growth)
    return float(from_start + np.mean(excess) - saved)


def _noise(flat: Plateau) -> Array:
    """What the noise adds to the covariance of the amplitudes, as they were at t = 0, until they are large."""
    if flat.problem.gamma == 0.0:
        return np.zeros_like(flat.falls)
    assert flat.point is not None
    cov, _ = Dynamics(flat.problem).diffusion(flat.point.state, order="leading")  # all there is of M-M
    of_M = cov[-flat.p * flat.k :, -flat.p * flat.k :]
    return np.asarray(flat.problem.gamma / flat.p * (flat.modes @ of_M @ flat.modes.T) / flat.rates)


def _mean_log(falls: Array, covariance: Array) -> float:
    """E log of the fall of the risk by amplitudes that are normal with this covariance."""
    weights = np.linalg.eigvals(falls @ covariance).real
    if weights.min() < -1e-6 * weights.max():
        raise ValueError("the risk rises along some of the growing modes; simulate instead")
    return mean_log_form(np.maximum(weights, 0.0))


def _starts(flat: Plateau, d: int) -> list[Overlaps]:
    assert flat.point is not None
    P = flat.point.state.P
    spherical = flat.problem.spherical
    drawn = Overlaps.random(flat.p, flat.k, d, rng=SEED, spherical=spherical, orthogonal_teacher=True, replicas=STARTS)
    return [Overlaps(one.Q, one.M @ np.linalg.cholesky(P).T, P) for one in map(drawn.replica, range(STARTS))]
