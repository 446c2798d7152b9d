"""The overlap chain has the law of SGD on explicit weights, at any finite d, by two-sample Kolmogorov-Smirnov tests.

All seeds are fixed: the tests are deterministic. LEVEL is 1e-3 divided by more than the number of comparisons
(Bonferroni), which were all chosen beforehand.
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

LEVEL = 1e-6
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
    if sol.problem.second_layer_ratio > 0.0:
        out["a0"], out["asum"] = sol.a[:, -1, 0], sol.a[:, -1].sum(axis=1)
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


def trained(activation, p, k, d, spherical, batch):
    """Everything at once: mini-batches, a trained second layer, weight decay; d may be below p + k."""
    gamma = {"quadratic": 0.02 * min(1.0, (d / 20) ** 2), "erf": 1.5}[activation] * p
    problem = Problem(
        activation,
        gamma=gamma,
        Delta=0.3,
        spherical=spherical,
        batch_size=batch,
        weight_decay=0.0 if spherical else 0.5,
        second_layer_ratio=0.7,
    )
    rng = np.random.default_rng(3)
    W, W_star = rng.standard_normal((p, d)), rng.standard_normal((k, d))
    if spherical:
        W *= np.sqrt(d) / np.linalg.norm(W, axis=1, keepdims=True)
    return problem, Overlaps.from_weights(W, W_star, a=1.0 - 0.4 * np.arange(p)), 40 * problem.step_time(p, d)


# One student; eight replicas abreast; one at a time (p > 4); d < p + k; and d of different sizes.
SIZES = [
    (1, 1, 20),
    (2, 2, 20),
    (3, 2, 20),
    (6, 2, 20),
    (3, 2, 1000),
    (1, 1, 2),
    (2, 1, 3),
    (2, 2, 3),
    (3, 2, 4),
    (6, 1, 4),
]


@pytest.mark.needs_cc
@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize(("p", "k", "d"), SIZES)
@pytest.mark.parametrize("activation", ["erf", "quadratic"])
def test_batches_second_layer_and_few_dimensions(activation, p, k, d, batch, spherical):
    problem, state, t = trained(activation, p, k, d, spherical, batch)
    options = {"d": d, "times": [t], "backend": "c"}
    chain = simulate(problem, state, t, replicas=3000, rng=1, **options)
    weights = simulate(problem, state, t, replicas=3000, rng=2, method="weights", **options)
    assert worst(chain, weights) > (LEVEL, "")


@pytest.mark.needs_cc
@pytest.mark.parametrize(("p", "k", "d", "batch"), [(2, 2, 20, 3), (6, 2, 20, 1), (3, 2, 4, 2)])
def test_the_chain_in_numpy_agrees(p, k, d, batch):
    problem, state, t = trained("erf", p, k, d, False, batch)
    chain = simulate(problem, state, t, d=d, replicas=3000, rng=1, times=[t], backend="c")
    reference = simulate(problem, state, t, d=d, replicas=1500, rng=2, times=[t], backend="numpy")
    assert worst(chain, reference) > (LEVEL, "")


@pytest.mark.needs_cc
@pytest.mark.slow
@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("activation", ["erf", "quadratic"])
@pytest.mark.parametrize(("p", "k", "d"), [(1, 1, 100), (1, 1, 1000), (2, 2, 300), (6, 2, 300), (8, 4, 1000)])
def test_the_law_after_many_steps(activation, p, k, d, spherical):
    problem, state, _ = setting(activation, p, k, spherical, "random", d)
    t = d * problem.step_time(p, d)
    chain = simulate(problem, state, t, d=d, replicas=2000, rng=1, times=[t], backend="c")
    weights = simulate(problem, state, t, d=d, replicas=2000, rng=2, times=[t], method="weights", backend="c")
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
@pytest.mark.parametrize(("p", "k", "batch"), [(1, 1, 1), (2, 2, 1), (6, 2, 1), (2, 2, 2)])
def test_a_wrong_chi_square_is_rejected(p, k, batch, monkeypatch):
    # |x|^2 = chi2(d) + |g|^2 counts the directions of the weights twice
    d = 20
    problem, state, t = setting("erf", p, k, False, "random", d)
    problem = Problem("erf", gamma=problem.gamma, Delta=0.3, batch_size=batch)
    weights = simulate(problem, state, t, d=d, replicas=4000, rng=2, times=[t], method="weights", backend="c")
    honest = _simulate_c.source

    def wrong(*given):
        text, right = honest(*given), "run->d - run->r - run->columns - i"
        assert right in text
        return text.replace(right, "run->d - i")

    monkeypatch.setattr(_simulate_c, "source", wrong)
    chain = simulate(problem, state, t, d=d, replicas=4000, rng=1, times=[t], backend="c")
    assert worst(chain, weights)[0] < LEVEL


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
    const hdsgd_chi2_law law = hdsgd_chi2_of(nu);
    hdsgd_stream stream;
    for (int w = 0; w < HDSGD_WIDTH; w++) hdsgd_set_rng(&stream, w, hdsgd_seed(words + 4 * w));
    for (int64_t i = 0; i < n; i += HDSGD_WIDTH) {
        V z[5], square;
        v_draw(&stream, z, 5, &law, &square);
        for (int c = 0; c < 5; c++) memcpy(normals + c * n + i, z + c, sizeof(V));
        memcpy(squares + i, &square, sizeof(V));
    }
}
"""


@pytest.mark.needs_cc
@pytest.mark.parametrize("form", ["alone.h", "abreast.h"])
@pytest.mark.parametrize("nu", [1, 2, 3, 17, 40, 2998])
def test_normals_and_chi_squares(nu, form):
    import ctypes

    parts = [(_simulate_c._CSRC / name).read_text(encoding="utf-8") for name in ("random.h", form)]
    kernel = _kernel.load(Problem("erf").student, Problem("erf").teacher, "numpy")
    library = _compiler.load("\n".join((kernel.pointwise_c, *parts, DRAWS)))
    n, rng = 400_000, np.random.default_rng(nu)
    words = rng.integers(0, 2**64, size=(8, 4), dtype=np.uint64)
    normals, squares = np.empty((5, n)), np.empty(n)
    pointers = [ctypes.c_void_p(x.ctypes.data) for x in (words, normals, squares)]
    library.hdsgd_draws(pointers[0], ctypes.c_int64(n), ctypes.c_int64(nu), *pointers[1:])
    assert ks_1samp(squares, chi2(nu).cdf).pvalue > LEVEL
    assert ks_1samp(normals.ravel(), norm.cdf).pvalue > LEVEL
    for x in normals:
        assert ks_1samp(x, norm.cdf).pvalue > LEVEL
        assert abs(np.corrcoef(x, squares)[0, 1]) < 5 / np.sqrt(n)
        assert abs(np.corrcoef(x[1:], x[:-1])[0, 1]) < 5 / np.sqrt(n)
        assert abs(np.corrcoef(x**2, squares)[0, 1]) < 5 / np.sqrt(n)
    for c in range(4):
        assert abs(np.corrcoef(normals[c], normals[c + 1])[0, 1]) < 5 / np.sqrt(n)
        assert abs(np.corrcoef(normals[c] ** 2, normals[c + 1] ** 2)[0, 1]) < 5 / np.sqrt(n)
    for power, moment in ((2, 1.0), (4, 3.0), (6, 15.0), (8, 105.0)):
        spread = np.sqrt(np.prod(np.arange(1.0, 2 * power, 2.0)) - moment**2)
        assert abs((normals**power).mean() - moment) < 5 * spread / np.sqrt(5 * n)
    edge = 3.654152885361009  # where the ziggurat's tail begins, drawn by a path of its own
    tail = np.abs(normals[np.abs(normals) > edge])
    expected = 5 * n * 2 * norm.sf(edge)
    assert abs(tail.size - expected) < 5 * np.sqrt(expected)
    assert ks_1samp(norm.sf(tail) / norm.sf(edge), lambda u: np.clip(u, 0, 1)).pvalue > LEVEL


def test_a_sum_below_the_limit_of_the_rejection():
    # the quick acceptance of chi-squares abreast: 1 - (c x^2)^2 / 4 is below exp of the exact limit, for c x > -0.6
    w = np.linspace(-0.6, 8.0, 200001)
    exact = w**2 / 2 + (1.0 - (1.0 + w) ** 3 + 3.0 * np.log1p(w)) / 9.0  # times c^2, as is the other
    assert (exact >= -(w**4) / 4 - 1e-15).all()


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
    fixed = {"p": p, "k": k, "d": d, "kernel": kernel, "noise": np.sqrt(problem.Delta), "a_star": state.a_star}
    fixed |= {"spherical": False, "batch": 1, "decay": 0.0, "ratio": 0.0}
    chunk.setup = type("Setup", (), fixed)
    chunk.who, chunk.a, chunk.Omega = np.arange(1), np.ones((p, 1)), state.Omega[:, :, None].copy()
    last = np.array([[[np.sqrt(outside @ outside)]]])
    chunk._step(np.append(g, z)[None, :, None], last, problem.step_time(p, d))
    np.testing.assert_allclose(chunk.Omega[:, :, 0], expected.Omega, rtol=0, atol=1e-13)
