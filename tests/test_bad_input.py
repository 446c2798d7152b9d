"""Bad input: a ValueError or TypeError whose one sentence names what is wrong and the remedy."""

import numpy as np
import pytest

import hdsgd
from hdsgd import Dynamics, Exit, Overlaps, Problem, Weights

I2 = np.eye(2)


def start():
    return Overlaps.random(2, 1, 50, rng=0)


def problem(**kwargs):
    return Problem("quadratic", gamma=0.1, **kwargs)


def one():
    return Overlaps([[1.0]], [[0.1]], [[1.0]])


def path():
    return hdsgd.solve_ode(problem(), start(), 0.1)


BAD = {
    # the state
    "indefinite Q": (lambda: Overlaps([[1.0, 2.0], [2.0, 1.0]], [[0.0], [0.0]], [[1.0]]), "positive semidefinite"),
    "asymmetric Q": (lambda: Overlaps([[1.0, 0.2], [0.1, 1.0]], [[0.0], [0.0]], [[1.0]]), r"symmetric.*Q\.T"),
    "asymmetric P": (lambda: Overlaps([[1.0]], [[0.0, 0.0]], [[1.0, 0.2], [0.1, 1.0]]), r"symmetric.*P\.T"),
    "M too large": (lambda: Overlaps([[1.0]], [[1.1]], [[1.0]]), "positive semidefinite.*from_weights"),
    "indefinite P": (lambda: Overlaps([[1.0]], [[0.0]], [[-1.0]]), "positive semidefinite"),
    "one indefinite replica": (
        lambda: Overlaps(np.ones((2, 1, 1)), [[[0.5]], [[1.5]]], [[1]]),
        "positive semidefinite",
    ),
    "NaN in M": (lambda: Overlaps(I2, [[np.nan], [0.0]], [[1.0]]), "M has entries that are not finite"),
    "infinity in Q": (lambda: Overlaps([[np.inf]], [[0.0]], [[1.0]]), "Q has entries that are not finite"),
    "Q of another width": (lambda: Overlaps(I2, [[0.0]], [[1.0]]), r"Q must be \(p, p\) = \(1, 1\)"),
    "P of another width": (lambda: Overlaps(I2, np.zeros((2, 3)), I2), r"P must be \(k, k\) = \(3, 3\)"),
    "M as a vector": (lambda: Overlaps([[1.0]], [0.1], [[1.0]]), r"M must have shape \(p, k\)"),
    "Q as a number": (lambda: Overlaps(1.0, 0.1, 1.0), r"Q must have shape \(p, p\)"),
    "P per replica": (lambda: Overlaps(I2, np.zeros((2, 1)), np.ones((3, 1, 1))), "all replicas share the teacher"),
    "complex P": (lambda: Overlaps([[1.0]], [[0.0]], [[1j]]), r"share the teacher\), got dtype complex128"),
    "P that is no covariance": (lambda: Overlaps(I2, np.zeros((2, 2)), [[1, 2], [2, 1]]), "check P, or use"),
    "Q that is no covariance": (lambda: Overlaps([[1, 2], [2, 1]], np.zeros((2, 2)), I2), "check Q, or use"),
    "M that is too large": (lambda: Overlaps([[1.0]], [[2.0]], [[1.0]]), "check M, or use"),
    "replica axes differ": (lambda: Overlaps(np.ones((2, 1, 1)), np.zeros((3, 1, 1)), [[1.0]]), "leading replica axes"),
    "no replicas": (lambda: Overlaps(np.ones((0, 1, 1)), np.zeros((0, 1, 1)), [[1.0]]), "Q must have shape"),
    "a of another width": (lambda: Overlaps(I2, np.zeros((2, 1)), [[1.0]], a=[1, 1, 1]), "one entry per student unit"),
    "a_star of another width": (lambda: Overlaps(I2, np.zeros((2, 1)), [[1.0]], a_star=[1, 1]), "per teacher unit"),
    "complex Q": (lambda: Overlaps([[1j]], [[0.0]], [[1.0]]), "Q must be a real array"),
    "text as Q": (lambda: Overlaps("Q", [[0.0]], [[1.0]]), "Q must be a real array"),
    "a ragged list": (lambda: Overlaps([[1.0, 0.0], [0.0]], [[0.0]], [[1.0]]), "rectangular"),
    "a masked array": (lambda: Overlaps(np.ma.array([[1.0]], mask=True), [[0.0]], [[1.0]]), "masked"),
    "None as M": (lambda: Overlaps([[1.0]], None, [[1.0]]), "M (must be a real array|must have shape)"),
    "weights of different d": (lambda: Weights(np.ones((2, 5)), np.ones((1, 4))), "same number of columns"),
    "W_star per replica": (lambda: Weights(np.ones((2, 5)), np.ones((3, 1, 5))), r"W_star must have shape \(k, d\)"),
    "random with d < k": (lambda: Overlaps.random(1, 5, 4), "d must be at least 5"),
    "random with p = 0": (lambda: Overlaps.random(0, 1, 4), "p must be at least 1"),
    "random with p = 1.5": (lambda: Overlaps.random(1.5, 1, 4), "p must be an integer"),
    "random with replicas = 0": (lambda: Overlaps.random(1, 1, 4, replicas=0), "replicas must be at least 1"),
    "negative rng": (lambda: Overlaps.random(1, 1, 4, rng=-1), "rng must be an integer >= 0"),
    "rng as text": (lambda: Overlaps.random(1, 1, 4, rng="seed"), "default_rng"),
    "RandomState as rng": (lambda: Overlaps.random(1, 1, 4, rng=np.random.RandomState(0)), "default_rng"),
    # the problem
    "negative Delta": (lambda: Problem(Delta=-0.1), "Delta must be finite and >= 0"),
    "negative gamma": (lambda: Problem(gamma=-1.0), "gamma must be finite and >= 0"),
    "NaN gamma": (lambda: Problem(gamma=np.nan), "gamma must be finite"),
    "gamma as text": (lambda: Problem(gamma="0.1"), "gamma must be a real number"),
    "gamma as a list": (lambda: Problem(gamma=[0.1, 0.2]), "gamma must be a real number"),
    "spherical as text": (lambda: Problem(spherical="False"), "spherical must be True or False"),
    "a misspelt activation": (lambda: Problem("quadratik"), "quadratic"),
    "code as an activation": (
        lambda: Problem("__import__('os').system('true')"),
        "is not part of a formula|unknown function",
    ),
    "an activation that is no text": (lambda: Problem(np.tanh), "a name or a formula such as"),
    "an empty batch": (lambda: Problem(batch_size=0), "batch_size must be at least 1"),
    "weight decay on the sphere": (lambda: Problem(weight_decay=0.1, spherical=True), "has no effect with spherical"),
    "a negative second layer rate": (lambda: Problem(second_layer_ratio=-1), "it is gamma_a/gamma"),
    # the solvers
    "negative t_max": (lambda: hdsgd.solve_ode(problem(), start(), -1.0), "t_max must be finite and >= 0"),
    "infinite t_max": (lambda: hdsgd.solve_ode(problem(), start(), np.inf), "t_max must be finite"),
    "times beyond t_max": (lambda: hdsgd.solve_ode(problem(), start(), 1.0, times=[0, 2]), "increase t_max"),
    "negative times": (lambda: hdsgd.solve_ode(problem(), start(), 1.0, times=[-1, 0]), r"must lie in \[0, t_max\]"),
    "unsorted times": (lambda: hdsgd.solve_ode(problem(), start(), 1.0, times=[0.5, 0.2]), "strictly increasing"),
    "NaN in times": (lambda: hdsgd.solve_ode(problem(), start(), 1.0, times=[0.5, np.nan]), "times has entries"),
    "no times": (lambda: hdsgd.solve_ode(problem(), start(), 1.0, times=[]), r"times must have shape \(n,\)"),
    "an unknown backend": (lambda: hdsgd.solve_ode(problem(), start(), 1.0, backend="cuda"), "'auto', 'c', 'numpy'"),
    "a misspelt method": (lambda: hdsgd.solve_ode(problem(), start(), 1.0, method="dop835"), "Did you mean 'DOP853'"),
    "rtol of 0": (lambda: hdsgd.solve_ode(problem(), start(), 1.0, rtol=0), "rtol must be at least 1e-13"),
    "rtol of 2": (lambda: hdsgd.solve_ode(problem(), start(), 1.0, rtol=2.0), "below 1, got 2"),
    "rtol below rounding": (lambda: hdsgd.solve_ode(problem(), start(), 1.0, rtol=1e-300), "rounding errors"),
    "negative atol": (lambda: hdsgd.solve_ode(problem(), start(), 1.0, atol=-1e-9), "atol must be finite and >= 0"),
    "a number as stop": (lambda: hdsgd.solve_ode(problem(), start(), 1.0, stop=0.01), r"stop=hdsgd\.Exit\(T=0\.01\)"),
    "an ensemble for the ODE": (
        lambda: hdsgd.solve_ode(problem(), Overlaps.random(2, 1, 50, rng=0, replicas=3), 1.0),
        r"state\.replica\(i\)",
    ),
    "weights for the ODE": (
        lambda: hdsgd.solve_ode(problem(), Weights(np.ones((1, 3)), np.ones((1, 3))), 1.0),
        r"weights\.overlaps\(\)",
    ),
    "an array as state": (lambda: hdsgd.solve_ode(problem(), I2, 1.0), r"Overlaps\(Q, M, P\)"),
    "a name as problem": (lambda: hdsgd.solve_ode("erf", start(), 1.0), r"Problem\('erf'\)"),
    "a start off the sphere": (
        lambda: hdsgd.solve_ode(problem(spherical=True), Overlaps([[1.1]], [[0.1]], [[1.0]]), 1.0),
        "rescale the rows of W",
    ),
    "the SDE off the sphere": (
        lambda: hdsgd.solve_sde(problem(spherical=True), Overlaps([[1.1]], [[0.1]], [[1.0]]), 1.0, d=100),
        "rescale the rows of W",
    ),
    "the SDE without d": (lambda: hdsgd.solve_sde(problem(), start(), 1.0), "'d'"),
    "dt of 0": (lambda: hdsgd.solve_sde(problem(), start(), 1.0, d=100, dt=0.0), "dt must be finite and > 0"),
    "d of 0": (lambda: hdsgd.solve_sde(problem(), start(), 1.0, d=0), "d must be at least 1"),
    "simulation without d": (lambda: hdsgd.simulate(problem(), start(), 1.0), r"\bd\b"),
    "simulation with d < p + k": (lambda: hdsgd.simulate(problem(), start(), 1.0, d=2), r"\bd\b"),
    "simulation by an unknown method": (lambda: hdsgd.simulate(problem(), start(), 1.0, d=50, method="w"), "'weights'"),
    "dynamics of another type": (lambda: Dynamics("erf"), "Problem"),
    "risk of an array": (lambda: Dynamics(problem()).risk(I2), "Overlaps"),
    "a number as progress, ODE": (lambda: hdsgd.solve_ode(problem(), start(), 1.0, progress=3), "progress must be"),
    "a number as progress, SDE": (lambda: hdsgd.solve_sde(problem(), one(), 1.0, d=50, progress=3), "progress must be"),
    "a number as progress": (lambda: hdsgd.simulate(problem(), one(), 1.0, d=50, progress=3), "progress must be"),
    "a huge d": (lambda: hdsgd.simulate(problem(), one(), 1.0, d=1e30), r"d must be at most 2\*\*53"),
    "a huge d of random overlaps": (lambda: Overlaps.random(2, 1, 10**30), r"d must be at most 2\*\*53"),
    "an integer beyond floats": (lambda: Overlaps.random(2, 1, 10**400), "1e400"),
    "a number beyond floats": (lambda: Problem(gamma=10**400), "gamma must be finite"),
    "more random overlaps than memory": (lambda: Overlaps.random(2, 1, 50, replicas=10**12), "GiB.*fewer at a time"),
    "more paths than memory": (lambda: hdsgd.solve_sde(problem(), one(), 1.0, d=50, replicas=10**12), "GiB.*fewer"),
    "more output than memory": (lambda: hdsgd.simulate(problem(), one(), 1.0, d=50, replicas=10**12), "GiB.*fewer"),
    "a dt of 1e-300": (lambda: hdsgd.solve_sde(problem(), one(), 1.0, d=50, dt=1e-300), "1e.300 steps.*increase dt"),
    "less than one step": (lambda: hdsgd.simulate(problem(), one(), 1e-9, d=50), "less than one SGD step.*increase"),
    "a word as an index": (lambda: path().overlaps("a"), "i must be an integer"),
    "a fraction as an index": (lambda: path().overlaps(1.5), "i must be an integer"),
    "a word as a replica": (lambda: Overlaps.random(1, 1, 9, replicas=2).replica("a"), "replica must be an integer"),
    "None as a start": (lambda: hdsgd.escape_experiment(start=None), "start must be 'published', 'random'"),
    "an experiment of one run": (lambda: hdsgd.escape_experiment(replicas=1), "replicas must be at least 2"),
    "an experiment of another width": (lambda: hdsgd.escape_experiment(p=3), "use start='random' for p=3"),
    "an experiment off the sphere": (
        lambda: hdsgd.escape_experiment(Overlaps([[2.0]], [[0.1]], [[1.0]])),
        "rescale the rows of W",
    ),
    "an experiment beyond stability": (lambda: hdsgd.escape_experiment(gamma=0.2), "choose gamma < 0.16666"),
    # exits and files
    "an exit without a level": (lambda: Exit(), "exactly one of T"),
    "an exit with two levels": (lambda: Exit(T=0.1, level=0.1), "exactly one of T"),
    "T of 1": (lambda: Exit(T=1.0), "0 < T < 1"),
    "a level of 0": (lambda: Exit(level=0.0), "level must be finite and > 0"),
    "loading a text file": (lambda: hdsgd.load(__file__), "not a solution saved by hdsgd"),
    "loading None": (lambda: hdsgd.load(None), "path must be the name of a file, got None"),
    "saving to None": (lambda: path().save(None), "path must be the name of a file, got None"),
    "saving to nothing": (lambda: path().save(""), "an empty one"),
    "loading what is not there": (lambda: hdsgd.load("nowhere.npz"), "no file"),
    "saving where no file can be": (lambda: path().save("/dev/null/a.npz"), "create it first"),
    "saving as .csv": (lambda: path().save("path.csv"), r"\.npz or \.nc"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_names_the_remedy(case):
    call, message = BAD[case]
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 400
    assert "object at 0x" not in text


def test_no_hint_changes_the_case_of_a_symbol():
    calls = {
        "gamma=0 is": lambda: Problem(gamma=-1),
        "; it is the input dimension": lambda: hdsgd.simulate(problem(), one(), 1.0, d=-1),
        "; the exit is": lambda: Exit(T=3),
    }
    for text, call in calls.items():
        with pytest.raises(ValueError) as caught:
            call()
        assert text in str(caught.value)
        assert not any(word in str(caught.value) for word in ("Gamma", "D is", "T is"))


def test_threads_are_named_before_the_work(monkeypatch):
    monkeypatch.setenv("HDSGD_THREADS", "abc")
    monkeypatch.setattr("hdsgd._experiment.solve_sde", None)  # not reached
    for call in (
        lambda: hdsgd.escape_experiment(replicas=2),
        lambda: hdsgd._simulate_c.threads(),
    ):
        with pytest.raises(ValueError, match="HDSGD_THREADS must be a positive integer, got 'abc'"):
            call()


def test_code_is_never_run(tmp_path):
    target = tmp_path / "touched"
    for text in (f"open({str(target)!r}, 'w')", f"__import__('pathlib').Path({str(target)!r}).touch()"):
        with pytest.raises((ValueError, TypeError)):
            Problem(text)
    assert not target.exists()
