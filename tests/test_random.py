"""Streams of random numbers: those of numpy's seed sequences, whatever computes their words."""

import pickle

import numpy as np
import pytest

from hdsgd._random import CHAIN, OVERLAPS, TEACHER, generators, stream


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**64 + 5, 2**128 - 1, 2**128, 2**200 + 7])
@pytest.mark.parametrize("purpose", [OVERLAPS, CHAIN, TEACHER])
def test_generators_are_seeded_by_the_streams(seed, purpose):
    for first in (0, 1, 123456, 2**32 - 3):
        for i, generator in enumerate(generators(seed, purpose, first, 3)):
            own = np.random.Generator(np.random.PCG64DXSM(stream(seed, purpose, first + i)))
            assert generator.bit_generator.state == own.bit_generator.state


def test_generators_do_not_depend_on_how_many_there_are():
    many, few = generators(7, CHAIN, 0, 50), generators(7, CHAIN, 20, 1)
    assert many[20].bit_generator.state == few[0].bit_generator.state
    assert len({generator.bit_generator.state["state"]["state"] for generator in many}) == 50
    assert generators(7, CHAIN, 0, 0) == []


def test_a_generator_can_be_pickled():
    (generator,) = generators(7, CHAIN, 0, 1)
    again = pickle.loads(pickle.dumps(generator))
    assert again.standard_normal() == generator.standard_normal()
