"""simulate: its interface, streams, stops and accuracy (its law is tested in test_simulate_law.py)."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

import hdsgd
from hdsgd import Exit, Overlaps, Problem, Status, Weights, _errors, _simulate_c, simulate, solve_ode
from hdsgd._paths import frame, realise

C = pytest.param("c", marks=pytest.mark.needs_cc)
SPHERE = Problem("quadratic", gamma=0.1, Delta=1e-4, spherical=True)
FREE = Problem("erf", gamma=1.0, Delta=0.1)


def start(problem, p, k, d, replicas=None):
    return Overlaps.random(p, k, d, rng=3, spherical=problem.spherical, replicas=replicas)


def same_paths(one, other, rows=slice(None)):
    for name in ("Q", "M", "a", "risk"):
        np.testing.assert_array_equal(getattr(one, name)[rows], getattr(other, name)[: len(getattr(one, name)[rows])])


@pytest.mark.parametrize("backend", [C, "numpy"])
@pytest.mark.parametrize("method", ["overlaps", "weights"])
def test_shapes_and_times(backend, method):
    d, p, k = 30, 2, 1
    state = start(FREE, p, k, d)
    unit = FREE.step_time(p, d)
    one = simulate(FREE, state, 1.0, d=d, rng=0, method=method, backend=backend)
    assert one.replicas is None
    assert one.Q.shape == (61, p, p)  # 60 steps: of the 201 times, those that differ
    np.testing.assert_array_equal(one.steps, np.arange(61))
    np.testing.assert_array_equal(one.t, one.steps * unit)
    np.testing.assert_allclose(one.alpha, one.steps / d)
    assert (one.d, one.seed, one.method, one.status) == (d, 0, method, Status.COMPLETED)
    assert np.isnan(one.exit_time)
    np.testing.assert_allclose(one.overlaps(0).Omega, state.Omega, atol=1e-12)
    many = simulate(FREE, state, 100.0, d=d, rng=0, replicas=3, times=[0.0, 0.51, 99.0], method=method, backend=backend)
    assert many.Q.shape == (3, 3, p, p)
    assert many.M.shape == (3, 3, p, k)
    assert many.a.shape == (3, 3, p)
    assert many.risk.shape == (3, 3)
    assert many.status.shape == many.exit_time.shape == (3,)
    np.testing.assert_array_equal(many.steps, [0, 31, 5940])
    assert many.stats["steps"] == 3 * 6000
    dynamics = hdsgd.Dynamics(FREE, "numpy")
    for i in range(3):
        np.testing.assert_allclose(many.risk[:, i], dynamics.risk(many.overlaps(i)), atol=1e-12)
    close = simulate(FREE, state, 1.0, d=d, rng=0, times=[0.001, 0.002, 0.2], method=method, backend=backend)
    np.testing.assert_array_equal(close.steps, [0, 0, 12])  # of times at the same step, each keeps its row
    np.testing.assert_array_equal(close.Q[0], close.Q[1])


@pytest.mark.parametrize("backend", [C, "numpy"])
@pytest.mark.parametrize("method", ["overlaps", "weights"])
@pytest.mark.parametrize(("problem", "p", "k"), [(SPHERE, 1, 1), (FREE, 1, 1), (SPHERE, 2, 2), (FREE, 3, 2)])
def test_a_replica_does_not_depend_on_the_others(monkeypatch, backend, method, problem, p, k):
    d = 25
    state = start(problem, p, k, d, replicas=5)
    t = 300 * problem.step_time(p, d)
    options = {"d": d, "rng": 11, "method": method, "backend": backend, "stop": Exit(T=0.3)}
    monkeypatch.setenv("HDSGD_THREADS", "1")
    alone = simulate(problem, state, t, **options)
    monkeypatch.setenv("HDSGD_THREADS", "3")
    together = simulate(problem, state, t, **options)
    same_paths(alone, together)
    np.testing.assert_array_equal(alone.exit_time, together.exit_time)
    for count in (1, 2, 4):
        few = Overlaps(state.Q[:count], state.M[:count], state.P)
        fewer = simulate(problem, few, t, **options)
        same_paths(alone, fewer, slice(count))
        np.testing.assert_array_equal(alone.exit_time[:count], fewer.exit_time)
    # a path does not depend on what is stored of it, nor on how long it goes on
    sparse = simulate(problem, state, 2 * t, times=alone.t[::50], **options)
    for name in ("Q", "M"):
        np.testing.assert_array_equal(getattr(sparse, name), getattr(alone, name)[:, ::50])
    reached = alone.exit_time[np.isfinite(alone.exit_time)]
    assert reached.size
    np.testing.assert_array_equal(sparse.exit_time[np.isfinite(alone.exit_time)], reached)


@pytest.mark.parametrize("backend", [C, "numpy"])
def test_seeds(backend):
    state, options = start(SPHERE, 1, 1, 50), {"d": 50, "backend": backend, "times": [0.5]}

    def path(rng):
        return simulate(SPHERE, state, 0.5, rng=rng, **options)

    assert path(5).M[0, 0, 0] == path(np.int64(5)).M[0, 0, 0]
    assert path(5).M[0, 0, 0] != path(6).M[0, 0, 0]
    drawn = path(None)
    assert drawn.M[0, 0, 0] == path(drawn.seed).M[0, 0, 0]
    generator = np.random.default_rng(0)
    first = path(generator)
    assert first.M[0, 0, 0] != path(generator).M[0, 0, 0]
    assert first.M[0, 0, 0] == path(first.seed).M[0, 0, 0]


@pytest.mark.parametrize("backend", [C, "numpy"])
@pytest.mark.parametrize(
    ("problem", "t"),
    [(Problem("quadratic", gamma=0.3, Delta=0.1, spherical=True), 0.05), (FREE, 0.3)],
    ids=["x2", "erf"],
)
def test_large_d_is_the_ode(backend, problem, t):
    d, count = 10**4, 200
    state = Overlaps([[1.0, 0.2], [0.2, 1.0]], [[0.5, 0.1], [-0.3, 0.4]], np.eye(2))
    times = [0.0, t / 2, t]
    ode = solve_ode(problem, state, t, times=times, backend=backend)
    sol = simulate(problem, state, t, d=d, replicas=count, rng=0, times=times, backend=backend)
    for name in ("M", "Q"):
        path, limit = getattr(sol, name), getattr(ode, name)
        error = path.std(axis=0) / np.sqrt(count)
        assert (np.abs(path.mean(axis=0) - limit) <= 5 * error + 5 * t / d).all()
        assert error.max() < 0.02 * np.abs(limit[-1] - limit[0]).max()


@pytest.mark.needs_cc
@pytest.mark.parametrize(("p", "k"), [(1, 1), (3, 2)])
def test_the_chain_in_c_stays_feasible_and_on_the_sphere(p, k):
    problem = Problem("erf", gamma=0.5, spherical=True)
    state = Overlaps.random(p, k, 50, rng=0, replicas=4)
    sol = simulate(problem, state, 1000.0, d=50, rng=0, times=[0.0, 10.0, 1000.0], backend="c")
    np.testing.assert_allclose(np.diagonal(sol.Q, axis1=2, axis2=3), 1.0, atol=1e-13)
    np.testing.assert_array_equal(sol.Q, np.swapaxes(sol.Q, -1, -2))
    smallest = min(np.linalg.eigvalsh(sol.overlaps(i).Omega).min() for i in range(3))
    assert smallest > -1e-13


@pytest.mark.parametrize("backend", [C, "numpy"])
def test_perfect_students_stay_perfect(backend):
    for problem in (SPHERE, FREE):
        still = Problem(problem.student, gamma=problem.gamma, spherical=problem.spherical)  # no label noise
        perfect = Overlaps(np.eye(2), np.eye(2), np.eye(2))
        sol = simulate(still, perfect, 5.0, d=20, rng=0, times=[5.0], backend=backend)
        np.testing.assert_allclose(sol.M[-1], np.eye(2), atol=1e-6 if backend == "numpy" else 1e-13)


@pytest.mark.parametrize("backend", [C, "numpy"])
def test_weights_go_in_and_come_out(backend):
    rng = np.random.default_rng(0)
    p, k, d = 3, 2, 4  # p + k > d: for weights only
    given = Weights(rng.standard_normal((p, d)), rng.standard_normal((k, d)), a=[1.0, -0.5, 2.0], a_star=[1.0, 0.5])
    problem = Problem("erf", gamma=0.3, Delta=0.1)
    sol = simulate(problem, given, 5.0, method="weights", rng=0, backend=backend)
    assert sol.d == d
    np.testing.assert_array_equal(sol.weights.W_star, given.W_star)
    np.testing.assert_array_equal(sol.weights.a, given.a)
    np.testing.assert_allclose(sol.weights.overlaps().Omega, sol.overlaps().Omega, atol=1e-12)
    assert not np.allclose(sol.weights.W, given.W)
    many = simulate(problem, given, 5.0, method="weights", rng=0, replicas=2, backend=backend)
    assert many.weights.W.shape == (2, p, d)
    np.testing.assert_array_equal(many.weights.W[0], sol.weights.W)
    chain = simulate(
        problem, Weights(np.ones((1, 30)), np.ones((1, 30))), 0.1, rng=0, method="overlaps", backend=backend
    )
    assert chain.weights is None
    # Weights are simulated as weights, overlaps as overlaps, unless told otherwise.
    explicit = simulate(problem, given, 5.0, rng=0, backend=backend)
    assert explicit.method == "weights"
    np.testing.assert_array_equal(explicit.weights.W, sol.weights.W)
    assert simulate(problem, given.overlaps(), 0.1, d=50, rng=0, backend=backend).method == "overlaps"
    stopped = simulate(problem, given, 50.0, method="weights", rng=0, stop=Exit(T=0.2), backend=backend)
    assert stopped.status is Status.EXITED
    np.testing.assert_allclose(stopped.weights.overlaps().Omega, stopped.overlaps().Omega, atol=1e-12)


@pytest.mark.parametrize("backend", [C, "numpy"])
def test_weights_that_realise_overlaps(backend):
    state = Overlaps.random(3, 2, 5, rng=1, spherical=False, replicas=2)
    sol = simulate(FREE, state, 0.0, d=5, rng=0, method="weights", backend=backend)
    np.testing.assert_allclose(sol.weights.overlaps().Omega, state.Omega, atol=1e-12)
    np.testing.assert_allclose(sol.overlaps(0).Omega, state.Omega, atol=1e-12)
    with pytest.raises(ValueError, match="no weights in d = 4 dimensions"):
        simulate(FREE, state, 0.0, d=4, rng=0, method="weights", backend=backend)


@pytest.mark.parametrize("kind", ["generic", "span", "twin teachers", "zero students"])
def test_frames(kind):
    rng = np.random.default_rng(2)
    W_star = rng.standard_normal((2, 9))
    if kind == "twin teachers":
        W_star[1] = -W_star[0]
    W = {
        "generic": rng.standard_normal((4, 3, 9)),
        "span": rng.standard_normal((4, 3, 2)) @ W_star,
        "twin teachers": rng.standard_normal((4, 3, 9)),
        "zero students": np.zeros((4, 3, 9)),
    }[kind]
    state = Overlaps.from_weights(W, W_star)
    L, B, C = frame(state.Q, state.M, state.P, 9)
    assert L.shape == (2, 1 if kind == "twin teachers" else 2)
    np.testing.assert_allclose(L @ L.T, state.P, atol=1e-13)
    np.testing.assert_allclose(B @ L.T, state.M, atol=1e-13)
    np.testing.assert_allclose(B @ B.swapaxes(1, 2) + C @ C.swapaxes(1, 2), state.Q, atol=1e-13)
    np.testing.assert_array_equal(C, np.tril(C))
    W, W_star = realise(state.Q, state.M, state.P, 5, rng, spherical=False)
    np.testing.assert_allclose(Overlaps.from_weights(W, W_star).Omega, state.Omega, atol=1e-12)


@pytest.mark.parametrize("backend", [C, "numpy"])
@pytest.mark.parametrize("method", ["overlaps", "weights"])
def test_progress(backend, method):
    seen = []
    state = start(SPHERE, 1, 1, 40, replicas=3)
    simulate(SPHERE, state, 1.0, d=40, rng=0, method=method, backend=backend, progress=seen.append)
    assert seen
    assert seen[-1] == 1.0
    assert all(0.0 <= x <= 1.0 for x in seen)
    assert seen == sorted(seen)


BAD = [
    ({"d": None}, "pass d=1000"),
    ({"d": 2}, "no weights in d = 2 dimensions"),
    ({"d": 10.5}, "d must be an integer"),
    ({"d": -3}, "d must be at least 1"),
    ({"replicas": 0}, "replicas must be at least 1"),
    ({"replicas": 10**9}, "store fewer times"),
    ({"t_max": -1.0}, "t_max must be"),
    ({"t_max": 1e300}, "decrease t_max"),
    ({"times": [0.0, 2.0]}, "times must lie in"),
    ({"times": [0.5, 0.1]}, "strictly increasing"),
    ({"method": "overlap"}, "Did you mean 'overlaps'"),
    ({"problem": Problem("erf", weight_decay=100.0)}, "decrease weight_decay or gamma"),
    ({"backend": "cuda"}, "backend must be one of"),
    ({"rng": -1}, "rng must be an integer >= 0"),
    ({"problem": Problem("erf", gamma=0.0)}, "use solve_ode"),
    ({"problem": Problem("erf", spherical=True)}, "rescale the rows of W"),
    ({"state": Weights(np.ones((1, 9)), np.ones((1, 9))), "d": 8}, "leave d out"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_arguments(change, message):
    arguments = {"problem": FREE, "state": Overlaps([[0.5, 0], [0, 1]], [[0.1], [0]], [[1]]), "t_max": 1.0, "d": 20}
    arguments |= change
    with pytest.raises(ValueError, match=message):
        simulate(arguments.pop("problem"), arguments.pop("state"), arguments.pop("t_max"), **arguments)


def test_bad_types():
    state = start(FREE, 2, 1, 20)
    with pytest.raises(TypeError, match=r"stop=hdsgd.Exit"):
        simulate(FREE, state, 1.0, d=20, stop=0.01)
    with pytest.raises(TypeError, match="state must be"):
        simulate(FREE, np.eye(2), 1.0, d=20)
    with pytest.raises(TypeError, match="problem must be"):
        simulate("erf", state, 1.0, d=20)
    with pytest.raises(ValueError, match="5 replicas, not replicas=3"):
        simulate(FREE, start(FREE, 2, 1, 20, replicas=5), 1.0, d=20, replicas=3)


@pytest.mark.parametrize("method", ["overlaps", "weights"])
def test_without_a_compiler(monkeypatch, method):
    monkeypatch.setenv("HDSGD_CC", "/nonexistent")
    monkeypatch.setattr(_errors, "_warned", False)
    state = start(SPHERE, 1, 1, 30)
    with pytest.raises(hdsgd.CompilerError, match="HDSGD_CC='/nonexistent'"):
        simulate(SPHERE, state, 0.1, d=30, method=method, backend="c")
    with pytest.warns(hdsgd.BackendWarning, match="numpy backend is used instead"):
        sol = simulate(SPHERE, state, 0.1, d=30, method=method, rng=0)
    assert sol.stats["backend"] == "numpy"
    again = simulate(SPHERE, state, 0.1, d=30, method=method, rng=0)  # warned once
    np.testing.assert_array_equal(sol.M, again.M)
    silent = simulate(SPHERE, state, 0.1, d=30, method=method, rng=0, backend="numpy")
    np.testing.assert_array_equal(sol.M, silent.M)


@pytest.mark.needs_cc
def test_bad_number_of_threads(monkeypatch):
    monkeypatch.setenv("HDSGD_THREADS", "many")
    with pytest.raises(ValueError, match="HDSGD_THREADS must be a positive integer"):
        simulate(SPHERE, start(SPHERE, 1, 1, 30), 0.1, d=30, backend="c")


INTERRUPTED = """
import sys, time
import hdsgd
p, k, d, method, backend = int(sys.argv[1]), 1, int(sys.argv[2]), sys.argv[3], sys.argv[4]
problem = hdsgd.Problem("erf", gamma=0.1, spherical=True)
state = hdsgd.Overlaps.random(p, k, d, rng=0)
hdsgd.simulate(problem, state, 1e-4, d=d, rng=0, method=method, backend=backend)  # compiled and loaded
print("ready", flush=True)
try:
    hdsgd.simulate(problem, state, 1e9, d=d, rng=0, replicas=7, method=method, backend=backend, times=[1e9])
except KeyboardInterrupt:
    print(time.monotonic(), flush=True)
"""


@pytest.mark.parametrize(
    ("p", "d", "method", "backend"),
    [
        pytest.param(1, 1000, "overlaps", "c", marks=pytest.mark.needs_cc),
        pytest.param(60, 1000, "overlaps", "c", marks=pytest.mark.needs_cc),
        pytest.param(8, 20000, "weights", "c", marks=pytest.mark.needs_cc),
        (1, 1000, "overlaps", "numpy"),
        (2, 1000, "weights", "numpy"),
    ],
)
def test_an_interrupt_is_raised_at_once(p, d, method, backend):
    # the best of three: a loaded machine may be late by itself
    assert any(interruption(p, d, method, backend) < 0.1 for _ in range(3))


def interruption(p, d, method, backend):
    """Seconds from a signal to the KeyboardInterrupt in another process that simulates."""
    command = [sys.executable, "-c", textwrap.dedent(INTERRUPTED), str(p), str(d), method, backend]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        guard = threading.Timer(60.0, process.kill)
        guard.start()
        try:
            assert process.stdout.readline().strip() == "ready"
            time.sleep(0.4)
            sent = time.monotonic()
            os.kill(process.pid, signal.SIGINT)
            caught = float(process.stdout.readline())
            assert process.wait() == 0
        finally:
            guard.cancel()
    return caught - sent


@pytest.mark.needs_cc
def test_memory_is_bounded_by_what_is_stored():
    import tracemalloc

    state = start(SPHERE, 1, 1, 100)
    simulate(SPHERE, state, 0.1, d=100, rng=0, times=[0.1], backend="c")
    for backend, most in (("c", 1e6), ("numpy", 6e6)):
        tracemalloc.start()
        simulate(
            SPHERE, state, 20.0 if backend == "c" else 2.0, d=100, replicas=50, rng=0, times=[0.1], backend=backend
        )
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < most


@pytest.mark.needs_cc
def test_the_struct_in_python_is_the_one_in_c():
    from hdsgd import _compiler, _kernel

    kernel = _kernel.load(FREE.student, FREE.teacher, "numpy")
    names = [name for name, _ in _simulate_c._Run._fields_]
    text = "\n".join(f"    out[{i}] = offsetof(hdsgd_run, {name});" for i, name in enumerate(names))
    source = _simulate_c.source(kernel, "overlaps")
    source += f"\n#include <stddef.h>\nlong hdsgd_offsets(long *out)\n{{\n{text}\n    return sizeof(hdsgd_run);\n}}\n"
    library = _compiler.load(source)
    out = np.zeros(len(names), dtype=np.int64)
    import ctypes

    assert library.hdsgd_offsets(ctypes.c_void_p(out.ctypes.data)) == ctypes.sizeof(_simulate_c._Run)
    assert out.tolist() == [getattr(_simulate_c._Run, name).offset for name in names]
