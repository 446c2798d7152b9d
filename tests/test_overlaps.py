"""Overlaps and Weights: shapes, validation, equality by value, the laws of random starts."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

import hdsgd
from hdsgd import Overlaps, Weights


@st.composite
def weights(draw):
    p, k, d = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 9))
    replicas = draw(st.sampled_from([None, 1, 3]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    lead = () if replicas is None else (replicas,)
    scale = 10.0 ** draw(st.integers(-4, 4))
    W = scale * rng.standard_normal((*lead, p, d))
    return Weights(W, scale * rng.standard_normal((k, d)), rng.standard_normal((*lead, p)), rng.standard_normal(k))


@given(weights())
@settings(max_examples=60, deadline=None)
def test_overlaps_of_any_weights_are_accepted_and_come_back_bit_for_bit(w):
    state = w.overlaps()
    np.testing.assert_allclose(state.M, w.W @ w.W_star.T / w.d, rtol=1e-12)
    again = Overlaps(state.Q, state.M, state.P, state.a, state.a_star)
    assert again == state
    assert Overlaps(again.Q, again.M, again.P, again.a, again.a_star) == again


@given(weights(), st.floats(-11, -10.5))
@settings(max_examples=60, deadline=None)
def test_slightly_indefinite_input_is_moved_onto_the_cone(w, exponent):
    state = w.overlaps()
    scale = np.asarray(state.Omega.diagonal(0, -2, -1).max(axis=-1))[..., None, None]
    singular = np.linalg.eigvalsh(state.Omega)[..., :1, None] < 1e-9 * scale
    Q = state.Q - 10.0**exponent * scale * np.eye(state.p) * singular
    moved = Overlaps(Q, state.M, state.P)
    assert np.all(np.linalg.eigvalsh(moved.Omega)[..., :1, None] >= -3e-14 * scale)
    # Where P is nearly singular, M has to shrink with its root.
    assert np.all(np.abs(moved.Q - Q) <= 1e-4 * scale)
    diagonal = np.diagonal(moved.Q - Q, axis1=-2, axis2=-1)[..., None]
    assert np.all(np.abs(diagonal) <= 1e-9 * scale)
    np.testing.assert_array_equal(moved.P, state.P)
    assert Overlaps(moved.Q, moved.M, moved.P) == moved


def test_clipping_keeps_P_and_the_norms_of_the_students():
    over = 1.0 + 4e-11
    moved = Overlaps([[1.0]], [[over]], [[1.0]])
    assert moved.Q == 1.0
    assert moved.P == 1.0
    assert pytest.approx(1.0, abs=1e-15) == moved.M


def test_clipping_leaves_the_other_replicas_bit_for_bit():
    good = Overlaps.random(3, 2, 50, rng=0, replicas=4, orthogonal_teacher=True)
    Q, M = good.Q.copy(), good.M.copy()
    M[2] = 0.0
    M[2, 0, 0] = 1.0 + 2e-11
    Q[2] = np.eye(3)
    state = Overlaps(Q, M, np.eye(2))
    kept = [0, 1, 3]
    np.testing.assert_array_equal(state.Q[kept], Q[kept])
    np.testing.assert_array_equal(state.M[kept], M[kept])
    assert state.M[2, 0, 0] < M[2, 0, 0]


def test_singular_overlaps_are_fine():
    W = np.ones((4, 3))
    state = Overlaps.from_weights(W, np.ones((2, 3)))
    assert Overlaps(state.Q, state.M, state.P) == state
    Overlaps(np.zeros((2, 2)), np.zeros((2, 1)), [[0.0]])


def test_arrays_are_copied_float64_and_read_only():
    Q = np.eye(2, dtype=np.float32)
    state = Overlaps(Q, [[0], [0]], [[1]])
    Q[0, 0] = 7.0
    assert state.Q[0, 0] == 1.0
    for name in ("Q", "M", "P", "a", "a_star"):
        value = getattr(state, name)
        assert value.dtype == np.float64
        with pytest.raises(ValueError, match="read-only"):
            value[...] = 0.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.Q = Q


@pytest.mark.parametrize("copied", [lambda x: pickle.loads(pickle.dumps(x)), copy.copy, copy.deepcopy])
def test_copies_are_equal_and_still_read_only(copied):
    for value in (Overlaps.random(2, 1, 9, rng=0, replicas=3), Weights(np.ones((2, 4)), np.ones((1, 4)))):
        again = copied(value)
        assert again == value
        assert not any(getattr(again, f.name).flags.writeable for f in dataclasses.fields(again))


def test_equality_is_by_value():
    state = Overlaps(np.eye(2), [[0.1], [0.2]], [[1.0]])
    assert state == Overlaps(np.eye(2), [[0.1], [0.2]], [[1.0]], a=[1, 1], a_star=[1])
    assert state != Overlaps(np.eye(2), [[0.1], [0.3]], [[1.0]])
    assert state != Overlaps(np.eye(2)[None], [[0.1], [0.2]], [[1.0]])
    assert state != "state"
    assert dataclasses.replace(state, a=[1, 2]) != state


def test_the_replica_axis():
    many = Overlaps.random(3, 2, 40, rng=1, replicas=5)
    assert many.replicas == 5
    assert many.Omega.shape == (5, 5, 5)
    assert many.v.shape == (5, 5)
    np.testing.assert_allclose(many.v[0], [-1 / 3] * 3 + [1 / 2] * 2)
    one = many.replica(-1)
    assert one.replicas is None
    np.testing.assert_array_equal(one.Omega, many.Omega[4])
    assert one.v.shape == (5,)
    with pytest.raises(IndexError):
        many.replica(5)
    with pytest.raises(ValueError, match="no replica axis"):
        one.replica(0)
    shared = Overlaps(one.Q, many.M * 0.1, one.P, a=[1, 2, 3])
    assert shared.Q.shape == (5, 3, 3)
    assert shared.a.shape == (5, 3)


@pytest.mark.parametrize(("p", "k", "d"), [(1, 1, 1), (1, 1, 30), (2, 3, 30), (6, 2, 5), (3, 3, 3)])
@pytest.mark.parametrize("spherical", [True, False])
def test_random_overlaps_follow_the_law_of_random_weights(p, k, d, spherical):
    replicas = 3000
    state = Overlaps.random(p, k, d, rng=3, spherical=spherical, orthogonal_teacher=True, replicas=replicas)
    Overlaps(state.Q, state.M, state.P)  # valid
    rng = np.random.default_rng(4)
    W = rng.standard_normal((replicas, p, d))
    if spherical:
        W *= np.sqrt(d) / np.linalg.norm(W, axis=-1, keepdims=True)
        np.testing.assert_allclose(np.diagonal(state.Q, axis1=1, axis2=2), 1.0, rtol=1e-15)
    direct = Overlaps.from_weights(W, np.sqrt(d) * np.eye(k, d))
    np.testing.assert_array_equal(state.P, np.eye(k))
    # Every first moment, and every product of two entries of (Q, M), within 5 standard errors.
    ours, theirs = (
        np.concatenate((s.Q.reshape(replicas, -1), s.M.reshape(replicas, -1)), axis=1) for s in (state, direct)
    )
    for f in (lambda x: x, lambda x: (x[:, :, None] * x[:, None, :]).reshape(replicas, -1), lambda x: x**4):
        one, other = f(ours), f(theirs)
        error = np.sqrt((one.var(0) + other.var(0)) / replicas)
        assert np.all(np.abs(one.mean(0) - other.mean(0)) <= 5.0 * error + 1e-12)


def test_random_teachers_are_uniform_on_the_sphere():
    d = 12
    draws = [Overlaps.random(1, 3, d, rng=i).P for i in range(400)]
    assert all(np.array_equal(np.diag(P), np.ones(3)) for P in draws)
    # The squared cosine of two uniform directions is Beta(1/2, (d-1)/2).
    for r, s in ((0, 1), (0, 2), (1, 2)):
        assert kstest([P[r, s] ** 2 for P in draws], "beta", args=(0.5, (d - 1) / 2)).pvalue > 1e-4


def test_a_replica_does_not_depend_on_how_many_there_are():
    for kwargs in ({}, {"spherical": False}, {"orthogonal_teacher": True}):
        many = Overlaps.random(3, 2, 100, rng=5, replicas=7, **kwargs)
        few = Overlaps.random(3, 2, 100, rng=5, replicas=2, **kwargs)
        single = Overlaps.random(3, 2, 100, rng=5, **kwargs)
        assert many.replica(1) == few.replica(1)
        assert many.replica(0) == few.replica(0) == single
        assert many.replica(1) != many.replica(2)


def test_rng_follows_spec_7():
    make = lambda rng: Overlaps.random(2, 1, 50, rng=rng)  # noqa: E731
    assert make(1) == make(np.int64(1))
    assert make(1) != make(2)
    assert make(None) != make(None)
    assert make(np.random.SeedSequence(3)) == make(np.random.SeedSequence(3))
    generator = np.random.default_rng(0)
    assert make(generator) != make(generator)
    assert make(np.random.default_rng(0)) == make(np.random.default_rng(0))


def test_random_overlaps_cost_nothing_in_d():
    assert Overlaps.random(2, 2, 10**12, rng=0).p == 2
    assert Overlaps.random(1, 1, 1e4, rng=0) == Overlaps.random(1, 1, 10_000, rng=0)


def test_weights_know_their_shape():
    w = Weights(np.ones((5, 2, 7)), np.ones((1, 7)), a=[1, 2])
    assert (w.p, w.k, w.d, w.replicas) == (2, 1, 7, 5)
    assert w.a.shape == (5, 2)
    assert w.overlaps() == Overlaps.from_weights(w.W, w.W_star, w.a, w.a_star)
    assert hdsgd.Weights is Weights
