"""Seeds and independent streams of random numbers, one per purpose and replica (SPEC 7).

Replica i always has the same stream for a given seed, so that its path does not depend on how many replicas, threads or
chunks there are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
from numpy.random.bit_generator import ISeedSequence
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
    """Generators of the replicas first, ..., first + count - 1, each seeded by its `stream`."""
    states = _stream_words(seed, purpose, np.arange(first, first + count).astype(np.uint32))
    return [np.random.Generator(np.random.PCG64DXSM(_Seeded(state))) for state in states]  # type: ignore[arg-type]


class _Seeded(ISeedSequence):
    """A seed sequence whose words have been computed."""

    def __init__(self, state: NDArray[np.uint64]) -> None:
        self.state = state

    def generate_state(self, n_words: int, dtype: object = np.uint32) -> NDArray[np.uint64]:
        """The words, as PCG64DXSM asks for them."""
        return self.state


def _stream_words(seed: int, purpose: int, replicas: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """``stream(seed, purpose, replica).generate_state(4, np.uint64)`` of many replicas at once, shape (count, 4).

    numpy's documented and stable hash (M. E. O'Neill's seed_seq_fe): all words but the last, which is the replica, are
    mixed by numpy; one object per replica would cost more than all its random numbers.
    """
    pool = np.random.SeedSequence(seed, spawn_key=(purpose,)).pool
    length = max(pool.size, -(-seed.bit_length() // 32)) + 1  # words mixed so far: seed and purpose
    calls = pool.size**2 + pool.size * (length - pool.size)
    constant = 0x43B0D7E5 * pow(0x931E8875, calls, 2**32) % 2**32
    mixed = []
    for word in pool:
        hashed, constant = _hashed(replicas, constant, 0x931E8875)
        word = np.uint32(0xCA01F9DD * int(word) % 2**32) - np.uint32(0x4973F715) * hashed
        mixed.append(word ^ (word >> np.uint32(16)))
    constant, out = 0x8B51F9DD, []
    for i in range(8):
        hashed, constant = _hashed(mixed[i % 4], constant, 0x58F38DED)
        out.append(hashed.astype(np.uint64))
    return np.stack([low | high << np.uint64(32) for low, high in zip(out[::2], out[1::2], strict=True)], axis=1)


def _hashed(words: NDArray[np.uint32], constant: int, factor: int) -> tuple[NDArray[np.uint32], int]:
    """One call of the hash, and the constant for the next."""
    following = constant * factor % 2**32
    value = (words ^ np.uint32(constant)) * np.uint32(following)
    return value ^ (value >> np.uint32(16)), following


def words(seed: int, purpose: int, first: int, count: int) -> NDArray[np.uint64]:
    """Four seed words for each of the same replicas for generators written in C, shape (count, 4).

    Consecutive blocks of the counter-based generator Philox: a thousand times faster than a seed sequence each.
    """
    key = np.random.SeedSequence(seed, spawn_key=(purpose,)).generate_state(2, np.uint64)
    return np.random.Philox(key=key, counter=first).random_raw(4 * count).reshape(count, 4)
