"""The overlap chain has the law of SGD on explicit weights, at any finite d, by two-sample Kolmogorov-Smirnov tests.

All seeds are fixed: the tests are deterministic. The smallest of N p-values is about 1/N, hence the level.
"""

import numpy as np
import pytest
from scipy.stats import chi2, ks_1samp, ks_2samp, norm

from hdsgd import _chain_numpy, _compiler, _kernel, _simulate_c
from hdsgd._compiler import CompilerError
from hdsgd._overlaps import Overlaps
from hdsgd._problem import Problem
from hdsgd._simulate import simulate
from hdsgd._solution import Exit, Status

LEVEL = 2e-5
try:
    _compiler.load("int hdsgd_is_there_a_compiler = 1;")
    COMPILED = True
except CompilerError:
    COMPILED = False


def statistics(sol):
    """Numbers whose laws are compared, at the last time: entries, row products and the risk."""
    Q, M = sol.Q[:, -1], sol.M[:, -1]
    out = {"M00": M[:, 0, 0], "M-1-1": M[:, -1, -1], "Msum": M.sum(axis=(1, 2)), "risk": sol.risk[:, -1]}
    if not sol.problem.spherical:
        out["Q00"] = Q[:, 0, 0]
        out["trace"] = np.trace(Q, axis1=1, axis2=2)
    if sol.p > 1:
        out["Q01"] = Q[:, 0, 1]
        out["Qsum"] = Q.sum(axis=(1, 2))
    return out


def worst(one, other):
    """The smallest p-value over the statistics."""
    first, second = statistics(one), statistics(other)
    return min((ks_2samp(first[name], second[name]).pvalue, name) for name in first)


def start(p, k, d, spherical, kind="random"):
    """`span`: students in the teachers' span; `twins`: equal students of different second layers, equal teachers."""
    a = 1.0 - 0.7 * np.arange(p)
    if kind == "span":
        teacher = Overlaps.random(k, k, d, rng=5).P
        W = np.array([[1.0, 0.2], [-0.5, 0.9], [0.3, 0.6]])[:p, :k]
        W /= np.sqrt(np.einsum("ja,ab,jb->j", W, teacher, W))[:, None]
        return Overlaps(W @ teacher @ W.T, W @ teacher, teacher, a)
    if kind == "twins":
        one = Overlaps.random(1, 1, d, rng=5)
        return Overlaps(np.ones((p, p)), np.full((p, k), one.M[0, 0]), np.ones((k, k)), a)
    return Overlaps.random(p, k, d, rng=5, spherical=spherical)


CASES = [
    (activation, p, k, spherical, kind)
    for activation in ("quadratic", "erf")
    for p, k in ((1, 1), (2, 2), (3, 2))
    for spherical in (False, True)
    for kind in ("random", "span", "twins")
    if kind == "random" or p > 1
]


def setting(activation, p, k, spherical, kind, d):
    gamma = {"quadratic": 0.02, "erf": 1.5}[activation] * p
    problem = Problem(activation, gamma=gamma, Delta=0.3, spherical=spherical)
    return problem, start(p, k, d, spherical, kind), 50 * problem.step_time(p, d)


@pytest.mark.needs_cc
@pytest.mark.parametrize(("activation", "p", "k", "spherical", "kind"), CASES)
def test_the_chain_in_c_has_the_law_of_the_weights(activation, p, k, spherical, kind):
    d = 20
    problem, state, t = setting(activation, p, k, spherical, kind, d)
    chain = simulate(problem, state, t, d=d, replicas=4000, rng=1, times=[t], backend="c")
    weights = simulate(problem, state, t, d=d, replicas=4000, rng=2, times=[t], method="weights", backend="c")
    assert worst(chain, weights) > (LEVEL, "")
    assert chain.M[:, -1].std(axis=0).min() > 1e-3  # something has happened


@pytest.mark.parametrize(("activation", "p", "k", "spherical", "kind"), CASES[::2])
def test_the_chain_in_numpy_has_the_law_of_the_weights(activation, p, k, spherical, kind):
    d, count = 20, 2000
    problem, state, t = setting(activation, p, k, spherical, kind, d)
    chain = simulate(problem, state, t, d=d, replicas=count, rng=1, times=[t], backend="numpy")
    if COMPILED:
        other = simulate(problem, state, t, d=d, replicas=10000, rng=3, times=[t], backend="c")
        assert worst(chain, other) > (LEVEL, "")
        other = simulate(problem, state, t, d=d, replicas=4000, rng=2, times=[t], method="weights", backend="c")
    else:
        other = simulate(problem, state, t, d=d, replicas=300, rng=2, times=[t], method="weights", backend="numpy")
    assert worst(chain, other) > (LEVEL, "")


def test_the_weights_in_numpy_have_the_law_of_the_chain():
    problem, state, t = setting("erf", 3, 2, True, "random", 20)
    weights = simulate(problem, state, t, d=20, replicas=400, rng=2, times=[t], method="weights", backend="numpy")
    chain = simulate(problem, state, t, d=20, replicas=4000, rng=1, times=[t], backend="numpy")
    assert worst(chain, weights) > (LEVEL, "")


@pytest.mark.parametrize("extra", [0, 1, 2, 3])
@pytest.mark.parametrize("backend", [pytest.param("c", marks=pytest.mark.needs_cc), "numpy"])
def test_few_dimensions_beyond_the_weights(extra, backend):
    # chi2 with 0, 1, 2 and 3 degrees of freedom: each has its own path in C
    p, k = 2, 1
    d = p + k + extra
    problem, state, t = setting("erf", p, k, False, "random", d)
    chain = simulate(problem, state, t, d=d, replicas=3000, rng=1, times=[t], backend=backend)
    weights = simulate(
        problem,
        state,
        t,
        d=d,
        replicas=4000 if backend == "c" else 300,
        rng=2,
        times=[t],
        method="weights",
        backend=backend,
    )
    assert worst(chain, weights) > (LEVEL, "")


@pytest.mark.needs_cc
@pytest.mark.parametrize(("p", "k"), [(1, 1), (2, 2)])
def test_a_wrong_chi_square_is_rejected(p, k, monkeypatch):
    # |x|^2 = chi2(d) + |g|^2 counts the directions of the weights twice
    d = 20
    problem, state, t = setting("erf", p, k, False, "random", d)
    weights = simulate(problem, state, t, d=d, replicas=4000, rng=2, times=[t], method="weights", backend="c")
    honest = _simulate_c.source

    def wrong(kernel, method):
        text = honest(kernel, method)
        for right in ("hdsgd_chi2_of(run->d - 2)", "hdsgd_chi2_of(run->d - p - r)"):
            assert right in text
            text = text.replace(right, "hdsgd_chi2_of(run->d)")
        return text

    monkeypatch.setattr(_simulate_c, "source", wrong)
    chain = simulate(problem, state, t, d=d, replicas=4000, rng=1, times=[t], backend="c")
    assert worst(chain, weights)[0] < 1e-6


@pytest.mark.needs_cc
@pytest.mark.parametrize(("activation", "p", "k", "spherical"), [("quadratic", 1, 1, True), ("erf", 2, 2, False)])
def test_exit_times_have_one_law(activation, p, k, spherical):
    d = 40
    problem, state, t = setting(activation, p, k, spherical, "random", d)
    options = {"d": d, "times": [0.0], "stop": Exit(T=0.2)}
    runs = [
        simulate(problem, state, 20 * t, replicas=3000, rng=1, backend="c", **options),
        simulate(problem, state, 20 * t, replicas=3000, rng=2, backend="c", method="weights", **options),
        simulate(problem, state, 20 * t, replicas=1000, rng=3, backend="numpy", **options),
    ]
    times = [np.where(sol.status == Status.EXITED, sol.exit_time, 40 * t) for sol in runs]
    assert np.mean(runs[0].status == Status.EXITED) > 0.3
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert ks_2samp(times[i], times[j]).pvalue > LEVEL


DRAWS = r"""
void hdsgd_draws(const uint64_t *words, int64_t n, int64_t nu, double *normals, double *squares)
{
    hdsgd_rng rng = hdsgd_seed(words);
    const hdsgd_chi2_law law = hdsgd_chi2_of(nu);
    for (int64_t i = 0; i < n; i++) {
        normals[i] = hdsgd_normal(&rng);
        squares[i] = hdsgd_chi2(&rng, law);
    }
}
"""


@pytest.mark.needs_cc
@pytest.mark.parametrize("nu", [1, 2, 3, 17, 2998])
def test_normals_and_chi_squares(nu):
    import ctypes

    library = _compiler.load((_simulate_c._CSRC / "random.h").read_text(encoding="utf-8") + DRAWS)
    n = 400_000
    words = np.arange(1, 5, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15 * nu % 2**64)
    normals, squares = np.empty(n), np.empty(n)
    pointers = [ctypes.c_void_p(x.ctypes.data) for x in (words, normals, squares)]
    library.hdsgd_draws(pointers[0], ctypes.c_int64(n), ctypes.c_int64(nu), *pointers[1:])
    assert ks_1samp(normals, norm.cdf).pvalue > LEVEL
    assert ks_1samp(squares, chi2(nu).cdf).pvalue > LEVEL
    assert abs(np.corrcoef(normals, squares)[0, 1]) < 5 / np.sqrt(n)
    assert abs(np.corrcoef(normals[1:], normals[:-1])[0, 1]) < 5 / np.sqrt(n)
    tail = np.abs(normals) > 3.654152885361009  # drawn by a path of their own
    expected = n * 2 * norm.sf(3.654152885361009)
    assert abs(tail.sum() - expected) < 5 * np.sqrt(expected)
    beyond = norm.sf(np.abs(normals[tail])) / norm.sf(3.654152885361009)
    assert ks_1samp(beyond, lambda u: np.clip(u, 0, 1)).pvalue > LEVEL


def test_the_numpy_chain_is_the_recursion_it_claims_to_be():
    # one step with known random numbers, against the weights it stands for
    rng = np.random.default_rng(0)
    p, k, d = 2, 2, 7
    problem = Problem("erf", gamma=1.3, Delta=0.2)
    W, W_star = rng.standard_normal((p, d)), rng.standard_normal((k, d))
    state = Overlaps.from_weights(W, W_star)
    factor = np.linalg.cholesky(state.Omega)
    both = np.concatenate((W, W_star))
    axes = np.linalg.solve(factor, both / np.sqrt(d))  # orthonormal rows spanning all weights
    g, z = rng.standard_normal(p + k), rng.standard_normal()
    outside = rng.standard_normal(d)
    outside -= axes.T @ (axes @ outside)
    x = axes.T @ g + outside

    kernel = _kernel.load(problem.student, problem.teacher, "numpy")
    fields, fields_star = W @ x / np.sqrt(d), W_star @ x / np.sqrt(d)
    error = kernel.sigma_star(fields_star).mean() + np.sqrt(problem.Delta) * z - kernel.sigma(fields).mean()
    W = W + (problem.gamma / p * kernel.dsigma(fields) * error)[:, None] * x / np.sqrt(d)
    expected = Overlaps.from_weights(W, W_star)

    chunk = object.__new__(_chain_numpy._Chunk)
    chunk.setup = type("Setup", (), {"p": p, "k": k, "kernel": kernel, "noise": np.sqrt(problem.Delta)})
    chunk.setup.rate, chunk.setup.a_star, chunk.setup.spherical = problem.step_time(p, d), state.a_star, False
    chunk.who, chunk.a, chunk.Omega = np.arange(1), np.ones((p, 1)), state.Omega[:, :, None].copy()
    chunk._step(np.append(g, z)[:, None], np.array([outside @ outside]))
    np.testing.assert_allclose(chunk.Omega[:, :, 0], expected.Omega, rtol=0, atol=1e-13)
