"""Explicit weights in C: the random numbers, every sweep against plain SGD on the same inputs, single precision."""

import ctypes
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import special, stats

import hdsgd
from hdsgd import Exit, Overlaps, Problem, Status, Weights, _compiler, _kernel, _simulate_c, simulate
from hdsgd._random import WEIGHTS, words

pytestmark = pytest.mark.needs_cc

CSRC = Path(hdsgd.__file__).parent / "csrc"
REAL = {"single": np.float32, "double": np.float64}

PLACES = ((ctypes.c_int32, "cancel"), (ctypes.c_int64, "queue"))  # in the struct of a run

DRIVER = """
void jumped(const uint64_t *seed, uint64_t *out)
{
    const hdsgd_rng g = hdsgd_jump(hdsgd_seed(seed));
    memcpy(out, g.s, sizeof g.s);
}

void integers(const uint64_t *seed, void *out, int64_t n) /* n words from the lanes */
{
    hdsgd_lanes lanes;
    hdsgd_lanes_from(&lanes, hdsgd_seed(seed));
    hdsgd_words(&lanes, out, n);
}

void normals(const uint64_t *seed, void *out, int64_t chunks, int64_t n) /* chunks of n, in double precision */
{
    hdsgd_lanes lanes;
    hdsgd_real x[HDSGD_CHUNK];
    hdsgd_lanes_from(&lanes, hdsgd_seed(seed));
    for (double *to = out; chunks-- > 0; to += n) {
        hdsgd_normals(&lanes, x, n);
        for (int64_t i = 0; i < n; i++) to[i] = x[i];
    }
}

void inputs(const uint64_t *seed, double *x, int64_t sweeps, int64_t count, int64_t d) /* (sweeps, count, d) */
{
    hdsgd_lanes lanes;
    hdsgd_real row[HDSGD_CHUNK];
    hdsgd_lanes_from(&lanes, hdsgd_seed(seed));
    for (int64_t sweep = 0; sweep < sweeps; sweep++)
        for (int64_t at = 0; at < d; at += HDSGD_CHUNK)
            for (int64_t t = 0; t < count; t++) {
                const int64_t n = d - at < HDSGD_CHUNK ? d - at : HDSGD_CHUNK;
                hdsgd_normals(&lanes, row, (n + HDSGD_MULTIPLE - 1) / HDSGD_MULTIPLE * HDSGD_MULTIPLE);
                for (int64_t i = 0; i < n; i++) x[(sweep * count + t) * d + at + i] = row[i];
            }
}

void labels(const uint64_t *seed, double *z, int64_t n)
{
    hdsgd_rng g = hdsgd_seed(seed);
    for (int64_t i = 0; i < n; i++) z[i] = hdsgd_normal(&g);
}
"""


def driver(precision):
    chosen = "#define HDSGD_SINGLE\n" if precision == "single" else ""
    texts = [(CSRC / name).read_text(encoding="utf-8") for name in ("random.h", "lanes.h")]
    return _compiler.load("\n".join((texts[0], chosen, texts[1], DRIVER)))


def call(function, seed, out, *numbers):
    function.restype = None
    at = [ctypes.c_void_p(np.ascontiguousarray(array).ctypes.data) for array in (seed, out)]
    function(*at, *(ctypes.c_int64(n) for n in numbers))
    return out


SEED = np.array([1, 22, 333, 4444], dtype=np.uint64)


def test_a_jump_is_2_to_the_128_numbers():
    """The generator is linear over GF(2): its matrix, squared 128 times, is the jump."""

    def advance(s):
        s0, s1, s2, s3 = s
        t, s2, s3 = s1 << 17, s2 ^ s0, s3 ^ s1
        s1, s0, s2 = s1 ^ s2, s0 ^ s3, s2 ^ (t & (2**64 - 1))
        return [s0, s1, s2, (s3 << 45 | s3 >> 19) & (2**64 - 1)]

    def bits(s):
        return np.array([s[i // 64] >> (i % 64) & 1 for i in range(256)], dtype=np.float32)

    matrix = np.stack([bits(advance([1 << (i % 64) if i // 64 == j else 0 for j in range(4)])) for i in range(256)], 1)
    for _ in range(128):
        matrix = (matrix @ matrix) % 2
    seen = call(driver("double").jumped, SEED, np.zeros(4, np.uint64))
    np.testing.assert_array_equal(bits([int(x) for x in seen]), (matrix @ bits([int(x) for x in SEED])) % 2)


@pytest.mark.parametrize("precision", REAL)
def test_lanes_are_jumps_of_one_generator(precision):
    library, mask = driver(precision), 2**64 - 1
    width = 8 * 64 // 8 // np.dtype(REAL[precision]).itemsize  # words of eight lanes
    seen = call(library.integers, SEED, np.zeros(40 * 8, np.uint64), 40 * width).reshape(40, 8)
    state = SEED
    for lane in range(8):
        state = call(library.jumped, state, np.zeros(4, np.uint64))
        s0, s1, s2, s3 = (int(x) for x in state)
        for row in range(40):
            total = s0 + s3 & mask
            assert int(seen[row, lane]) == ((total << 23 | total >> 41) + s0) & mask
            t, s2, s3 = s1 << 17 & mask, s2 ^ s0, s3 ^ s1
            s1, s0, s2 = s1 ^ s2, s0 ^ s3, s2 ^ t
            s3 = (s3 << 45 | s3 >> 19) & mask


@pytest.mark.parametrize("precision", REAL)
def test_normals(precision):
    library, chunk = driver(precision), 4096 // np.dtype(REAL[precision]).itemsize
    x = call(library.normals, SEED, np.zeros(2**23), 2**23 // chunk, chunk)
    assert np.isfinite(x).all()
    for order in range(1, 9):
        exact = special.factorial2(order - 1) if order % 2 == 0 else 0.0
        spread = np.sqrt((special.factorial2(2 * order - 1) - exact**2) / x.size)
        assert abs(np.mean(x**order) - exact) < 4.5 * spread, order
    assert stats.kstest(x[::16], "norm").pvalue > 1e-3
    for level in (1.0, 2.0, 3.0, 4.0, 4.5):  # both tails, by their Poisson law
        expected = x.size * special.ndtr(-level)
        for count in (np.sum(x > level), np.sum(x < -level)):
            assert stats.poisson.cdf(count, expected) > 1e-4
            assert stats.poisson.sf(count - 1, expected) > 1e-4
    # pairs of one radius, neighbours of one lane's integers, and one chunk and the next
    rows = x.reshape(-1, chunk)
    pairs = [(rows[:, : chunk // 2], rows[:, chunk // 2 :]), (rows[:, :-1], rows[:, 1:]), (rows[:-1], rows[1:])]
    for one, other in pairs:
        for f in (lambda y: y, np.square, np.abs, np.sign):
            assert abs(np.corrcoef(f(one.ravel()), f(other.ravel()))[0, 1]) < 4.5 / np.sqrt(one.size)


@pytest.mark.slow
@pytest.mark.parametrize("precision", REAL)
def test_tails_beyond_five(precision):
    library, chunk = driver(precision), 4096 // np.dtype(REAL[precision]).itemsize
    levels, counts, total = (5.0, 5.5), np.zeros(2), 0
    for i in range(48):
        seed = np.array([i, 5, 6, 7], dtype=np.uint64)
        x = np.abs(call(library.normals, seed, np.zeros(2**23), 2**23 // chunk, chunk))
        counts += [np.sum(x > level) for level in levels]
        total += x.size
    for level, count in zip(levels, counts, strict=True):
        expected = 2 * total * special.ndtr(-level)
        assert min(stats.poisson.cdf(count, expected), stats.poisson.sf(count - 1, expected)) > 1e-4


def test_seeds_give_independent_normals():
    library = driver("single")
    many = [call(library.normals, seed, np.zeros(1024), 1, 1024) for seed in words(0, WEIGHTS, 0, 400)]
    correlations = np.corrcoef(many)[np.triu_indices(400, 1)] * np.sqrt(1024)
    assert np.abs(correlations).max() < 6.0
    assert stats.kstest(correlations, "norm").pvalue > 1e-3


def plain(problem, weights, n_steps, seed, precision):
    """Plain SGD on the inputs and label noises that the simulator draws: W and a after each step."""
    (p, d), k, batch = weights.W.shape, weights.k, problem.batch_size
    steps = {1: 4, 2: 2}.get(batch, 1)
    library, key = driver(precision), words(seed, WEIGHTS, 0, 1)[0]
    sweeps = -(-n_steps // steps)
    x = call(library.inputs, key, np.zeros((sweeps, steps * batch, d)), sweeps, steps * batch, d).reshape(-1, batch, d)
    z = call(library.labels, key, np.zeros((n_steps, batch)), n_steps * batch)
    kernel = _kernel.load(problem.student, problem.teacher, "numpy")
    W, a, unit, root = weights.W.copy(), weights.a.copy(), problem.step_time(p, d), np.sqrt(d)
    path = [(W.copy(), a.copy())]
    for inputs, noises in zip(x[:n_steps], z, strict=True):
        fields = W @ inputs.T / root
        error = weights.a_star @ kernel.sigma_star(weights.W_star @ inputs.T / root) / k
        error += np.sqrt(problem.Delta) * noises - a @ kernel.sigma(fields) / p
        W = (1.0 - problem.weight_decay * unit) * W + problem.gamma / (p * root * batch) * (
            (a[:, None] * kernel.dsigma(fields) * error) @ inputs
        )
        if problem.spherical:
            W *= root / np.linalg.norm(W, axis=1, keepdims=True)
        a = a + problem.second_layer_ratio * unit / batch * kernel.sigma(fields) @ error
        path.append((W.copy(), a.copy()))
    return path


def started(p, k, d, spherical):
    rng = np.random.default_rng(p + 10 * k + 100 * d)
    W, W_star = rng.standard_normal((p, d)), rng.standard_normal((k, d))
    if spherical:
        W *= np.sqrt(d) / np.linalg.norm(W, axis=1, keepdims=True)
    return Weights(W, W_star, rng.uniform(0.5, 1.5, p), rng.uniform(0.5, 1.5, k))


# p, k, d, steps and the problem: more than one chunk of columns, columns that fill no vector, blocks that are not whole
CASES = {
    "one": (1, 1, 30, 301, {"gamma": 0.5}),
    "sphere": (1, 1, 600, 301, {"gamma": 0.5, "spherical": True}),
    "sphere, many": (5, 3, 1100, 290, {"gamma": 2.0, "spherical": True, "second_layer_ratio": 0.7}),
    "free, many": (3, 4, 1100, 263, {"gamma": 1.0, "weight_decay": 0.5, "second_layer_ratio": 0.5}),
    "two": (2, 2, 50, 300, {"gamma": 1.0, "batch_size": 2, "weight_decay": 0.5}),
    "three, sphere": (2, 1, 50, 300, {"gamma": 1.0, "batch_size": 3, "spherical": True}),
    "four": (3, 1, 70, 300, {"gamma": 1.0, "batch_size": 4, "second_layer_ratio": 1.0}),
    "seven": (1, 2, 40, 270, {"gamma": 1.0, "batch_size": 7, "weight_decay": 1.0}),
    "twenty-one": (2, 2, 40, 270, {"gamma": 2.0, "batch_size": 21, "weight_decay": 1.0, "second_layer_ratio": 0.5}),
    "twenty-one, sphere": (2, 2, 600, 40, {"gamma": 2.0, "batch_size": 21, "spherical": True}),
    "few dimensions": (3, 2, 2, 300, {"gamma": 0.3, "batch_size": 2}),
    "strong decay": (2, 1, 20, 50, {"gamma": 1.0, "weight_decay": 39.99}),
    "strong decay, twenty": (2, 1, 20, 30, {"gamma": 1.0, "weight_decay": 30.0, "batch_size": 20}),
}


@pytest.mark.parametrize("precision", REAL)
@pytest.mark.parametrize("name", CASES)
def test_sweeps_are_plain_sgd(name, precision):
    p, k, d, n_steps, fields = CASES[name]
    problem = Problem("erf", "he3", Delta=0.1, **fields)
    weights = started(p, k, d, problem.spherical)
    path = plain(problem, weights, n_steps, 3, precision)
    unit = problem.step_time(p, d)
    sol = simulate(
        problem, weights, n_steps * unit, rng=3, times=np.arange(n_steps + 1) * unit, precision=precision, backend="c"
    )
    tolerance = 1e-11 if precision == "double" else 2e-5
    scale = max(np.abs(W).max() for W, _ in path)
    np.testing.assert_allclose(sol.weights.W, path[-1][0], atol=tolerance * scale)
    np.testing.assert_allclose(sol.a, [a for _, a in path], atol=tolerance * np.abs(path[-1][1]).max())
    for i in range(n_steps + 1):
        exact = Overlaps.from_weights(path[i][0], weights.W_star)
        size = 1.0 + np.abs(exact.Q).max()
        np.testing.assert_allclose(sol.Q[i], exact.Q, atol=tolerance * size)
        np.testing.assert_allclose(sol.M[i], exact.M, atol=tolerance * size)


@pytest.mark.parametrize("precision", REAL)
@pytest.mark.parametrize("batch", [1, 2, 3, 20])
@pytest.mark.parametrize("spherical", [True, False])
def test_the_exit_is_that_of_the_weights(batch, spherical, precision):
    """The overlaps that follow the steps, against those of the weights: the exit happens at the first step below."""
    decay = 0.0 if spherical else 0.3
    problem = Problem("quadratic", gamma=0.3, Delta=0.01, spherical=spherical, batch_size=batch, weight_decay=decay)
    state = Overlaps.random(2, 2, 60, rng=8, spherical=spherical)
    options = {"d": 60, "rng": 4, "replicas": 8, "method": "weights", "backend": "c", "precision": precision}
    every = np.arange(1501) * problem.step_time(2, 60)
    free = simulate(problem, state, every[-1], times=every, **options)
    level = 0.5 * free.risk[0, 0]
    stopped = simulate(problem, state, every[-1], times=[0.0], stop=Exit(level=level), **options)
    below = free.risk <= level
    assert below.any()
    expected = np.where(below.any(axis=1), every[below.argmax(axis=1)], np.nan)
    np.testing.assert_array_equal(stopped.exit_time, expected)
    exits = np.flatnonzero(stopped.status == Status.EXITED)
    for i in exits:
        reached = Overlaps.from_weights(stopped.weights.W[i], stopped.weights.W_star)
        np.testing.assert_allclose(reached.Q, free.Q[i, below[i].argmax()], atol=1e-12)


def test_single_precision_keeps_the_overlaps():
    """Along 2000 steps, overlaps in single precision are those of its own inputs to 1e-6 of their size."""
    for fields in ({"spherical": True}, {"weight_decay": 1e-3}):
        problem = Problem("erf", gamma=0.2, Delta=0.01, **fields)
        weights = started(2, 2, 500, problem.spherical)
        path, unit = plain(problem, weights, 2000, 1, "single"), problem.step_time(2, 500)
        steps = np.arange(0, 2001, 7)
        sol = simulate(problem, weights, 2000 * unit, rng=1, times=steps * unit, precision="single", backend="c")
        exact = [Overlaps.from_weights(path[i][0], weights.W_star) for i in sol.steps]
        np.testing.assert_allclose(sol.Q, [x.Q for x in exact], atol=2e-6)
        np.testing.assert_allclose(sol.M, [x.M for x in exact], atol=2e-6)
        if problem.spherical:
            np.testing.assert_allclose(np.diagonal(sol.Q, axis1=1, axis2=2), 1.0, atol=1e-12)


@pytest.mark.parametrize("batch", [1, 3])
def test_both_precisions_have_one_law(batch):
    problem = Problem("erf", gamma=1.0, Delta=0.1, batch_size=batch, second_layer_ratio=0.5)
    state = Overlaps.random(2, 2, 60, rng=5, spherical=False)
    one, other = (
        simulate(problem, state, 3.0, d=60, rng=7, replicas=600, times=[3.0], method="weights", precision=precision)
        for precision in REAL
    )
    values = [
        np.concatenate((sol.M[:, 0].reshape(600, -1), sol.Q[:, 0].reshape(600, -1), sol.a[:, 0], sol.risk), axis=1).T
        for sol in (one, other)
    ]
    smallest = min(stats.ks_2samp(x, y).pvalue for x, y in zip(*values, strict=True))
    assert smallest > 1e-3 / len(values[0])


@pytest.mark.parametrize("precision", REAL)
@pytest.mark.parametrize("name", ["free, many", "sphere, many", "two", "twenty-one, sphere"])
def test_a_run_that_is_cut_is_the_whole_run(monkeypatch, name, precision):
    p, k, d, n_steps, fields = CASES[name]
    problem = Problem("erf", Delta=0.1, **fields)
    weights, unit = started(p, k, d, problem.spherical), problem.step_time(p, d)
    options = {"rng": 3, "replicas": 3, "times": np.arange(0, n_steps, 9) * unit, "stop": Exit(level=1e-9)}
    options |= {"precision": precision, "backend": "c"}
    whole = simulate(problem, weights, n_steps * unit, **options)
    load, visits = _simulate_c.load, []

    def in_pieces(*arguments):
        simulator = load(*arguments)

        def advance(run):
            cancel, queue = (at.from_address(getattr(run, name)) for at, name in PLACES)
            cancel.value = 1  # pause before the first step
            assert simulator.advance(run) == 1
            cancel.value = 0
            for run.until in (0, 1, 2, 35, 36, 38, n_steps):
                queue.value = 0
                visits.append(run.until)
                assert simulator.advance(run) == 0
            return 0

        return replace(simulator, advance=advance)

    monkeypatch.setenv("HDSGD_THREADS", "1")
    monkeypatch.setattr(_simulate_c, "load", in_pieces)
    cut = simulate(problem, weights, n_steps * unit, **options)
    assert visits[-1] == n_steps
    for field in ("Q", "M", "a", "risk", "exit_time", "status"):
        np.testing.assert_array_equal(getattr(cut, field), getattr(whole, field))
    np.testing.assert_array_equal(cut.weights.W, whole.weights.W)
    assert len(np.unique(whole.M[:, -1, 0, 0])) == 3


def test_bad_precision():
    state = Overlaps.random(1, 1, 20, rng=0)
    with pytest.raises(ValueError, match="precision"):
        simulate(Problem("erf"), state, 1.0, d=20, method="weights", precision="half")
    with pytest.raises(ValueError, match="leave precision out"):
        simulate(Problem("erf"), state, 1.0, d=20, precision="single")
