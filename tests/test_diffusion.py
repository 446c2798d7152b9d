"""The covariance of the increments: reference values, brute force, Monte Carlo, and what the errors claim."""

import json
from itertools import pairwise, permutations
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import quad

from hdsgd import Dynamics, Overlaps, Problem
from hdsgd._diffusion import ONCE, Effort, Increments, finite_size, step_of
from hdsgd._family import classify
from hdsgd._nodes import lattice

DATA = Path(__file__).parent / "data"
BACKENDS = ["numpy", pytest.param("c", marks=pytest.mark.needs_cc)]
SIZES = [(1, 1), (2, 1), (2, 2), (3, 2)]


def random_state(p, k, seed, *, spherical=False, size=1.0):
    rng = np.random.default_rng(seed)
    W = rng.normal(size=(p + k, 2 * (p + k))) * np.sqrt(size)
    if spherical:
        W[:p] *= np.sqrt(W.shape[1]) / np.linalg.norm(W[:p], axis=1, keepdims=True)
    return Overlaps.from_weights(W[:p], W[p:], a=1.0 + 0.3 * rng.normal(size=p), a_star=1.0 + 0.3 * rng.normal(size=k))


def increments(problem, state, u, z):
    """Increments of one step at fields u (N, n) and label noise z (N,), scaled as the SDE is, and projected."""
    p, kernel = state.p, Dynamics(problem, "numpy").kernel
    g = problem.gamma / (p * problem.batch_size)
    lam, star = u[:, :p], u[:, p:]
    e = kernel.sigma_star(star) @ state.a_star / state.k - kernel.sigma(lam) @ state.a / p + np.sqrt(problem.Delta) * z
    E = state.a * kernel.dsigma(lam) * e[:, None]
    Q = E[:, :, None] * lam[:, None, :] + lam[:, :, None] * E[:, None, :] + g * E[:, :, None] * E[:, None, :]
    M = E[:, :, None] * star[:, None, :]
    if problem.spherical:
        half = 0.5 * np.diagonal(Q, axis1=1, axis2=2)
        M = M - state.M * half[:, :, None]
        Q = Q - state.Q * (half[:, :, None] + half[:, None, :])
    parts = [Q[:, *np.triu_indices(p)], M.reshape(len(u), -1)]
    if problem.second_layer_ratio:
        parts.append(problem.second_layer_ratio * kernel.sigma(lam) * e[:, None])
    return np.concatenate(parts, axis=1)


def tensor(rule, n):
    x, w = rule
    points = np.stack([c.ravel() for c in np.meshgrid(*[x] * n, indexing="ij")], axis=1)
    return points, np.prod(np.meshgrid(*[w / w.sum()] * n, indexing="ij"), axis=0).ravel()


def brute_force(problem, state, rule, root=None):
    """Covariance per step over a tensor rule in the n fields, and three Gauss-Hermite nodes in the label noise."""
    g, w = tensor(rule, state.p + state.k)
    if root is None:
        values, vectors = np.linalg.eigh(state.Omega)  # another root than the library's
        root = vectors * np.sqrt(np.maximum(values, 0.0))
    u = g @ root.T
    second = mean = 0.0
    centre = increments(problem, state, np.zeros((1, len(root))), np.zeros(1))  # no cancellation of a large mean
    for z, share in zip((-np.sqrt(3.0), 0.0, np.sqrt(3.0)), (1 / 6, 2 / 3, 1 / 6), strict=True):
        for rows in np.array_split(np.arange(len(g)), 1 + len(g) // 100_000):
            X = increments(problem, state, u[rows], np.full(rows.size, z)) - centre
            weighted = X * (share * w[rows])[:, None]
            mean, second = mean + weighted.sum(axis=0), second + weighted.T @ X
    return (second - np.outer(mean, mean)) / problem.batch_size


def hermite(q):
    return np.polynomial.hermite_e.hermegauss(q)


def uniform(q, reach=8.0):
    x = np.linspace(-reach, reach, q)
    return x, np.exp(-(x**2) / 2.0)


def gap(cov, exact):
    """Largest difference, relative to sqrt(cov_ii cov_jj); where both are rounding of 0 it is none."""
    own = np.sqrt(np.maximum(np.diag(exact), 1e-12 * np.diag(exact).max()))
    return np.abs((cov - exact) / np.outer(own, own)).max()


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_reference_points(backend):
    points = json.loads((DATA / "diffusion.json").read_text())["points"]
    for point in points:
        dyn = Dynamics(Problem("quadratic", gamma=point["gamma"], Delta=point["Delta"]), backend)
        cov, labels = dyn.diffusion(Overlaps(point["Q"], point["M"], [[1.0]]))
        exact = np.array(point["cov"])
        assert np.abs(cov - exact).max() <= 1e-10 * np.abs(exact).max()
        assert len(labels) == len(exact)
    assert labels == ("Q[0,0]", "Q[0,1]", "Q[1,1]", "M[0,0]", "M[1,0]")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("p", "k"), SIZES)
@pytest.mark.parametrize(("name", "q"), [("quadratic", 7), ("0.3 - 0.7*x**2", 7), ("he3", 11), ("cubic", 11)])
def test_polynomials_against_gauss_hermite(name, q, p, k, backend):
    if (p, k) == (3, 2) and q == 11 and name == "cubic":
        q = 9  # its highest power in one field is 16
    state = random_state(p, k, seed=p + 10 * k)
    problem = Problem(name, gamma=0.4, Delta=0.3)
    dyn = Dynamics(problem, backend)
    assert dyn.diffusion_route(state).route == ("quadratic" if q == 7 else "Gauss-Hermite")
    assert gap(dyn.diffusion(state)[0], brute_force(problem, state, hermite(11 if q == 9 else q))) <= 1e-9


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "options",
    [
        {"second_layer_ratio": 0.7},
        {"second_layer_ratio": 0.7, "spherical": True, "batch_size": 3},
        {"spherical": True},
        {"teacher_activation": "he2", "batch_size": 2, "second_layer_ratio": 0.2},
        {"activation": "he2", "teacher_activation": "linear", "second_layer_ratio": 0.2},
    ],
)
def test_everything_that_a_problem_may_have(options, backend):
    problem = Problem(**{"activation": "quadratic", "gamma": 0.4, "Delta": 0.3, **options})
    state = random_state(2, 1, seed=4, spherical=problem.spherical)
    cov, labels = Dynamics(problem, backend).diffusion(state)
    assert gap(cov, brute_force(problem, state, hermite(7))) <= 1e-9
    assert labels[-1] == ("a[1]" if problem.second_layer_ratio else "M[1,0]")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("student", "teacher", "p", "k"),
    [("erf", "erf", 1, 1), ("erf", "erf", 2, 1), ("normcdf", "2*erf(x/2)", 1, 2), ("erf(2*x)", "normcdf", 1, 1)],
)
def test_error_functions_against_the_trapezoidal_rule(student, teacher, p, k, backend):
    state = random_state(p, k, seed=3, size=0.5)
    problem = Problem(student, teacher, gamma=1.3, Delta=0.2)
    dyn = Dynamics(problem, backend)
    route = dyn.diffusion_route(state)
    assert (route.route, route.nodes) == ("tilts", 0)
    assert route.error <= 1e-10
    exact = brute_force(problem, state, uniform(161 if p + k == 2 else 65))
    assert gap(dyn.diffusion(state)[0], exact) <= 1e-9


def test_the_integral_over_the_scale_holds_for_large_norms():
    for size in (1e-6, 1.0, 1e3):
        state = random_state(2, 2, seed=1, size=size)
        few, many = (
            Increments(Dynamics(Problem("erf")).kernel, step_of(Problem("erf"), 2, 2, "all"), effort).covariance(
                state.Omega[None], state.v[None], state.a[None]
            )[0]
            for effort in (ONCE, Effort(1e9, 40, 0, (), None, (1, 1)))
        )
        assert gap(few, many) <= 1e-10


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["relu", "leaky_relu", "abs"])
def test_kinks_at_two_fields_by_rays(name, backend):
    # Every increment without label noise is homogeneous of degree 2: E r^4 = 8 remains of the radius.
    state = random_state(1, 1, seed=2)
    problem = Problem(name, gamma=0.7)
    L = np.linalg.cholesky(state.Omega)
    breaks = np.sort(np.mod([np.arctan2(r[1], r[0]) + s * np.pi / 2 for r in L for s in (1, -1)], 2 * np.pi))

    def at(angle):
        return increments(problem, state, (L @ [np.cos(angle), np.sin(angle)])[None], np.zeros(1))[0]

    def mean(f):
        edges = [*breaks, breaks[0] + 2 * np.pi]
        return sum(quad(f, a, b, epsabs=1e-13)[0] for a, b in pairwise(edges)) / (2 * np.pi)

    first = np.array([2 * mean(lambda t, i=i: at(t)[i]) for i in range(2)])
    second = np.array([[8 * mean(lambda t, i=i, j=j: at(t)[i] * at(t)[j]) for i in range(2)] for j in range(2)])
    dyn = Dynamics(problem, backend)
    assert dyn.diffusion_route(state).route == "rays"
    assert gap(dyn.diffusion(state)[0], second - np.outer(first, first)) <= 1e-10


@pytest.mark.parametrize(("name", "p", "k"), [("tanh", 1, 1), ("gelu", 1, 1), ("sin", 2, 1), ("exp", 1, 1)])
def test_smooth_functions_by_tensor_rules(name, p, k):
    state = random_state(p, k, seed=5, size=0.3)
    problem = Problem(name, gamma=0.5, Delta=0.1, second_layer_ratio=0.3 if name in ("sin", "exp") else 0.0)
    dyn = Dynamics(problem, "numpy")
    route = dyn.diffusion_route(state)
    assert route.route == "tensor"
    exact = brute_force(problem, state, hermite(140) if name == "exp" else uniform(161 if p + k == 2 else 65))
    assert gap(dyn.diffusion(state)[0], exact) <= max(2 * route.error, 1e-9)
    assert route.error < 1e-5


def test_the_error_of_a_lattice_is_the_one_it_states():
    for p, k in SIZES:
        state, problem = random_state(p, k, seed=6), Problem("erf", gamma=1.0, Delta=0.1)
        kernel, step = Dynamics(problem, "numpy").kernel, step_of(problem, p, k, "all")
        arguments = state.Omega[None], state.v[None], state.a[None]
        exact = Increments(kernel, step).covariance(*arguments)[0]
        rough = Increments(kernel, step, Effort(0, 16, 0, (), None, (4093, 8)))
        report = rough.report(*arguments)
        assert (report.route, report.nodes) == ("lattice", 8 * 4093)
        assert gap(rough.covariance(*arguments)[0], exact) <= 4.5 * report.error
        assert report.error < 0.01


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("name", "factor"),
    [("quadratic", lambda t, u: t + u), ("he3", lambda t, u: t * t + t * u + u * u - 3.0), ("erf", None)],
)
def test_the_error_near_perfect_learning(name, factor, backend):
    # s(t) - s(u) = (t - u) factor(t, u), with t - u from its own small variance: nothing cancels in this reference.
    # For erf the factor is the mean slope between u and t, by Gauss-Legendre.
    dyn = Dynamics(Problem(name, gamma=0.0), backend)
    x, weight = (np.asarray(y, dtype=np.longdouble) for y in hermite(40))
    X, Y = np.meshgrid(x, x, indexing="ij")
    W = np.outer(weight, weight) / (2.0 * np.pi)
    rng, (nodes, shares) = np.random.default_rng(0), np.polynomial.legendre.leggauss(8)

    def slope(y):
        return dyn.kernel.dsigma(y.astype(float))

    for distance in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
        teacher = rng.normal(size=(1, 50)) / 7.0
        state = Overlaps.from_weights(teacher + distance / 7.0 * rng.normal(size=(1, 50)), teacher)
        q, m, r = (np.longdouble(y[0, 0]) for y in (state.Q, state.M, state.P))
        t = np.sqrt(r) * X
        apart = (1.0 - m / r) * t - np.sqrt(q - m * m / r) * Y
        u = t - apart
        if factor is None:
            between = (u + (1.0 + y) / 2.0 * apart for y in nodes)
            mean = sum(share / 2.0 * slope(y) for y, share in zip(between, shares, strict=True))
        else:
            mean = factor(t, u)
        e = apart * mean
        one = np.stack((2.0 * slope(u) * u * e, slope(u) * t * e))
        first = (one * W).sum(axis=(1, 2))
        exact = np.einsum("iab,jab,ab->ij", one, one, W) - np.outer(first, first)
        report = dyn.diffusion_route(state)
        assert report.route == {"quadratic": "quadratic", "he3": "Gauss-Hermite", "erf": "tilts"}[name]
        off = gap(dyn.diffusion(state)[0], exact)
        assert off <= 3.0 * report.error
        assert report.error <= 1e-14 / distance**2


def test_lattices_integrate_gaussian_moments():
    for n in (2, 4, 6):
        points, weights = lattice(n, 16381)
        assert weights.sum() == pytest.approx(1.0, abs=1e-12)
        np.testing.assert_allclose((points * weights[:, None]).T @ points, np.eye(n), atol=5e-3)
        assert weights @ np.cos(points).prod(axis=1) == pytest.approx(np.exp(-n / 2), rel=5e-3)


@pytest.mark.parametrize("name", ["quadratic", "erf", "he3", "relu", "tanh", "sin", "gaussian"])
@pytest.mark.parametrize("order", ["all", "leading"])
@pytest.mark.needs_cc
def test_c_is_numpy(name, order):
    for p, k in ((1, 1), (2, 1), (2, 2)):
        state = random_state(p, k, seed=8, spherical=True)
        problem = Problem(name, gamma=0.5, Delta=0.1, spherical=True)
        both = [Dynamics(problem, backend) for backend in ("c", "numpy")]
        one, other = (dyn.diffusion(state, order=order)[0] for dyn in both)
        reports = [dyn.diffusion_route(state, order=order) for dyn in both]
        same = reports[0].route == reports[1].route  # tanh has derivatives in C only: in numpy they take seconds
        assert same or name == "tanh"
        tolerance = 1e-11 if same else sum(report.error for report in reports)
        assert np.abs(one - other).max() <= tolerance * np.abs(other).max()


@pytest.mark.parametrize("name", ["quadratic", "erf", "cubic"])
def test_leading_order_is_the_limit_of_small_gamma(name):
    state = random_state(2, 1, seed=9)
    leading = Dynamics(Problem(name, gamma=0.7, Delta=0.1)).diffusion(state, order="leading")[0]
    np.testing.assert_allclose(leading, Dynamics(Problem(name, gamma=0.0, Delta=0.1)).diffusion(state)[0], rtol=1e-12)
    with pytest.raises(ValueError, match="order"):
        Dynamics(Problem(name)).diffusion(state, order="first")


@pytest.mark.parametrize(
    ("name", "gamma"), [("quadratic", 0.6), ("erf", 0.6), ("relu", 0.6), ("sin", 0.6), ("gaussian", 0.6), ("relu", 0.0)]
)
def test_replicas_and_permutations(name, gamma):
    states = Overlaps.random(3, 2, 20, rng=0, replicas=4, spherical=False)
    dyn = Dynamics(Problem(name, gamma=gamma, Delta=0.1))
    cov, labels = dyn.diffusion(states)
    np.testing.assert_array_equal(cov[2], dyn.diffusion(states.replica(2))[0])
    assert np.linalg.eigvalsh(cov).min() >= -1e-9 * cov.max()
    exact = name != "relu" or gamma == 0.0  # a lattice is not symmetric, to its error
    tolerance = 1e-10 if exact else 5 * dyn.diffusion_route(states).error
    for order in permutations(range(3)):
        state = states.replica(0)
        i = np.array(order)
        turned = Overlaps(state.Q[i][:, i], state.M[i], state.P, a=state.a[i])
        other, _ = dyn.diffusion(turned)
        place = {label: c for c, label in enumerate(labels)}
        moved = []
        for label in labels:
            x, y = int(label[2]), int(label[4])
            units = sorted((i[x], i[y])) if label[0] == "Q" else (i[x], y)
            moved.append(place[f"{label[0]}[{units[0]},{units[1]}]"])
        assert gap(other, cov[0][np.ix_(moved, moved)]) <= tolerance


def test_a_singular_omega():
    W = np.random.default_rng(0).normal(size=(2, 7))
    state = Overlaps.from_weights(np.vstack((W, W[:1])), W)
    for name in ("quadratic", "erf", "relu", "sin", "gaussian"):
        cov, _ = Dynamics(Problem(name, gamma=0.5, Delta=0.1)).diffusion(state)
        assert np.isfinite(cov).all()
        assert np.linalg.eigvalsh(cov).min() >= -1e-9 * cov.max()


@pytest.mark.parametrize(
    ("function", "square"),
    [(lambda x: 0.5 * x**2 - 2.0, (0.5, -2.0)), (lambda x: x**2 + x, None), (lambda x: np.sqrt(1.0 + x**4), None)],
)
def test_pure_quadratics_are_recognised(function, square):
    assert classify(function).square == square


def test_error_functions_and_kinks_are_recognised():
    from scipy.special import erf

    found = classify(lambda x: 2.0 - 0.3 * erf(1.7 * x)).error_function
    assert found is not None
    np.testing.assert_allclose((found.offset, found.height, found.slope), (2.0, -0.3, 1.7), rtol=1e-13)
    for function in (np.tanh, np.arctan, lambda x: erf(x) + 1e-9 * x, np.exp):
        assert classify(function).error_function is None
        assert not classify(function).kinked
    for function in (np.abs, np.sign, lambda x: np.maximum(x, 0.01 * x)):
        assert classify(function).kinked


# Terms of order 1/d in the drift


def finite(problem, state):
    dyn = Dynamics(problem)
    step = step_of(problem, state.p, state.k, "all")
    cov = Increments(dyn.kernel, step).covariance(state.Omega[None], state.v[None], state.a[None]) / problem.batch_size
    fields = state.Q[None], state.M[None], state.P, state.a[None], state.a_star
    dQ, dM = finite_size(dyn.kernel, problem, cov, *fields)
    return dQ[0], dM[0]


def test_the_growth_rate_at_finite_d():
    for gamma in (0.03, 0.1, 0.15):
        _, dM = finite(Problem("quadratic", gamma=gamma, spherical=True), Overlaps([[1.0]], [[1e-5]], [[1.0]]))
        exact = gamma * (264 - 7200 * gamma + 47520 * gamma**2) - 144 * gamma
        assert dM[0, 0] / 1e-5 == pytest.approx(exact, rel=1e-7, abs=1e-7)


def test_the_noise_of_a_quadratic_at_finite_d():
    problem, state = Problem("quadratic", gamma=0.3, Delta=0.2), random_state(2, 2, seed=1)
    plain = Dynamics(Problem("quadratic", gamma=0.3)).noise(state)
    exact = 0.15 * np.outer(state.a, state.a) * (6 * plain + 8 * 0.2 * state.Q)
    np.testing.assert_allclose(finite(problem, state)[0], exact, rtol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "p", "k"),
    [
        ({"activation": "quadratic", "gamma": 0.3}, 2, 1),
        ({"activation": "relu", "gamma": 1.0}, 2, 1),
        ({"activation": "erf", "gamma": 1.0, "batch_size": 3, "weight_decay": 0.3}, 2, 2),
        ({"activation": "erf", "gamma": 0.4, "spherical": True}, 2, 2),
        ({"activation": "erf", "gamma": 0.4, "spherical": True, "batch_size": 3}, 2, 1),
    ],
)
def test_one_step_of_sgd_in_ten_dimensions(options, p, k):
    # Off the sphere the terms of order 1/d are all there is; on it the next order is within the errors of this sample.
    d, rng, problem = 10, np.random.default_rng(5), Problem(Delta=0.1, **options)
    W, W_star = rng.normal(size=(p, d)), rng.normal(size=(k, d))
    if problem.spherical:
        W *= np.sqrt(d) / np.linalg.norm(W, axis=1, keepdims=True)
    state = Overlaps.from_weights(W, W_star)
    dyn, h, batch = Dynamics(problem, "numpy"), problem.step_time(p, d), problem.batch_size
    total, squares, count, upper = 0.0, 0.0, 0, np.triu_indices(p)
    for _ in range(20):
        x = rng.normal(size=(20_000, batch, d))
        lam, star = x @ W.T / np.sqrt(d), x @ W_star.T / np.sqrt(d)
        error = dyn.kernel.sigma_star(star).mean(-1) - dyn.kernel.sigma(lam).mean(-1)
        error += np.sqrt(problem.Delta) * rng.normal(size=error.shape)
        c = problem.gamma / (p * batch) * dyn.kernel.dsigma(lam) * error[..., None]
        new = W * (1 - problem.weight_decay * h) + np.einsum("sbp,sbd->spd", c, x) / np.sqrt(d)
        if problem.spherical:
            new *= np.sqrt(d) / np.linalg.norm(new, axis=2, keepdims=True)
        Q, M = new @ new.swapaxes(1, 2) / d - state.Q, new @ W_star.T / d - state.M
        X = np.concatenate((Q[:, *upper], M.reshape(len(M), -1)), axis=1) / h
        total, squares, count = total + X.sum(0), squares + (X**2).sum(0), count + len(X)
    mean = total / count
    deviation = np.sqrt((squares / count - mean**2) / count)
    drift, (dQ, dM) = dyn.drift(state), finite(problem, state)
    limit = np.concatenate((drift.dQ[upper], drift.dM.ravel()))
    exact = limit + np.concatenate((dQ[upper], dM.ravel())) / d
    real = deviation > 1e-10  # the norms on the sphere do not change
    assert np.abs((mean - exact)[real] / deviation[real]).max() < 4.5
    assert np.abs((mean - limit)[real] / deviation[real]).max() > 4.5 or problem.spherical


@pytest.mark.slow
@pytest.mark.parametrize("name", ["erf", "relu"])
@pytest.mark.parametrize(("p", "k"), SIZES)
def test_every_entry_against_monte_carlo(name, p, k):
    problem = Problem(name, gamma=1.0, Delta=0.1)
    state = random_state(p, k, seed=21)
    rng, count = np.random.default_rng(1), 4_000_000
    L = np.linalg.cholesky(state.Omega)
    chunks = 40
    moments = []
    centre = None
    for _ in range(chunks):
        u = rng.normal(size=(count // chunks, p + k)) @ L.T
        X = increments(problem, state, u, rng.normal(size=len(u)))
        centre = X.mean(axis=0) if centre is None else centre
        X = X - centre
        pairs = (X[:, :, None] * X[:, None, :]).reshape(len(X), -1)
        moments.append((X.sum(0), pairs.sum(0), (pairs**2).sum(0)))
    first, second, fourth = (sum(m[i] for m in moments) / count for i in range(3))
    sampled = second - np.outer(first, first).ravel()
    deviation = np.sqrt((fourth - second**2) / count)
    dyn = Dynamics(problem)
    cov = dyn.diffusion(state)[0].ravel()
    assert np.abs((cov - sampled) / deviation).max() < 4.5
