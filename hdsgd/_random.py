"""Seeds and independent streams of random numbers, one per purpose and replica (SPEC 7).

Replica i always has the same stream for a given seed, so that its path does not depend on how many replicas, threads or
chunks there are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["CHAIN", "OVERLAPS", "RNG", "SDE", "TEACHER", "WEIGHTS", "generators", "master_seed", "stream", "words"]

RNG: TypeAlias = "int | np.integer | np.random.SeedSequence | np.random.BitGenerator | np.random.Generator | None"

# The first entry of a stream's spawn key: calls with the same rng and different purposes stay independent.
OVERLAPS = 0
CHAIN = 1
WEIGHTS = 2
SDE = 3
TEACHER = 4

_LIMBS = 4  # 32-bit words of a drawn master seed


def _join(limbs: Iterable[np.unsignedinteger]) -> int:
    return sum(int(word) << (32 * i) for i, word in enumerate(limbs))


def master_seed(rng: RNG = None) -> int:
    """One integer that reproduces a run.

    Parameters
    ----------
    rng : None, int, numpy.random.SeedSequence, numpy.random.BitGenerator or numpy.random.Generator
        None draws 128 bits of entropy from the system; an integer >= 0 is used as it is; a SeedSequence is reduced to
        128 bits; a Generator (or BitGenerator) is asked for 128 bits, so that repeated calls with the same one differ.

    Returns
    -------
    int
        ``master_seed(master_seed(rng)) == master_seed(rng)``; recorded as ``sol.seed``.

    Raises
    ------
    ValueError
        A negative integer.
    TypeError
        Anything else.
    """
    if rng is None:
        return _join(np.random.SeedSequence().generate_state(_LIMBS, np.uint32))
    if isinstance(rng, (int, np.integer)) and not isinstance(rng, bool):
        if rng < 0:
            raise ValueError(f"rng must be an integer >= 0, got {rng}; pass rng=None to draw a seed.")
        return int(rng)
    if isinstance(rng, np.random.SeedSequence):
        return _join(rng.generate_state(_LIMBS, np.uint32))
    if isinstance(rng, np.random.BitGenerator):
        rng = np.random.Generator(rng)
    if isinstance(rng, np.random.Generator):
        return _join(rng.integers(0, 2**32, size=_LIMBS, dtype=np.uint32))
    raise TypeError(
        "rng must be None, an integer, a numpy.random.SeedSequence or a numpy.random.Generator, "
        f"got {type(rng).__name__}; pass for example numpy.random.default_rng(0)."
    )


def stream(seed: int, purpose: int, replica: int) -> np.random.SeedSequence:
    """The seed sequence of one replica for one purpose."""
    return np.random.SeedSequence(seed, spawn_key=(purpose, replica))


def generators(seed: int, purpose: int, first: int, count: int) -> list[np.random.Generator]:
    """Generators of the replicas first, ..., first + count - 1."""
    return [np.random.Generator(np.random.PCG64DXSM(stream(seed, purpose, first + i))) for i in range(count)]


def words(seed: int, purpose: int, first: int, count: int) -> NDArray[np.uint64]:
    """Four seed words for each of the same replicas for generators written in C, shape (count, 4).

    Consecutive blocks of the counter-based generator Philox: a thousand times faster than a seed sequence each.
    """
    key = np.random.SeedSequence(seed, spawn_key=(purpose,)).generate_state(2, np.uint64)
    return np.random.Philox(key=key, counter=first).random_raw(4 * count).reshape(count, 4)
