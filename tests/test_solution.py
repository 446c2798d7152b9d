"""Solution: shapes, continuing, files, status sentences, figures."""

import copy
import dataclasses
import io
import json
import multiprocessing
import os
import pickle
import zipfile

import numpy as np
import pytest

import hdsgd
from hdsgd import Exit, Overlaps, Problem, Status


@pytest.fixture(scope="module")
def problem():
    return Problem("quadratic", gamma=0.1, Delta=1e-4, spherical=True)


@pytest.fixture(scope="module")
def path(problem):
    start = Overlaps.random(2, 1, 3000, rng=1)
    return hdsgd.solve_ode(problem, start, 2.0, times=np.linspace(0, 2, 5))


@pytest.fixture(scope="module")
def ensemble(problem):
    start = Overlaps([[1.0]], [[0.1]], [[1.0]])
    return hdsgd.solve_sde(
        problem, start, 1.0, d=300, dt=0.01, replicas=6, rng=2**100, stop=Exit(T=0.2), times=[0, 0.5, 1]
    )


def test_shapes_of_one_trajectory(path):
    assert (path.p, path.k, path.replicas, path.d, path.seed, path.steps) == (2, 1, None, None, None, None)
    assert path.Q.shape == (5, 2, 2)
    assert path.M.shape == (5, 2, 1)
    assert path.a.shape == (5, 2)
    assert path.risk.shape == path.t.shape == path.alpha.shape == (5,)
    assert path.status is Status.COMPLETED
    assert np.isnan(path.exit_time)
    np.testing.assert_allclose(path.alpha, path.t * 2 / 0.1)
    assert all(not getattr(path, name).flags.writeable for name in ("t", "Q", "M", "P", "a", "a_star", "risk"))


def test_shapes_of_an_ensemble(ensemble):
    assert (ensemble.replicas, ensemble.d, ensemble.seed) == (6, 300, 2**100)
    assert ensemble.Q.shape == (6, 3, 1, 1)
    assert ensemble.risk.shape == (6, 3)
    assert ensemble.exit_time.shape == ensemble.status.shape == (6,)
    np.testing.assert_array_equal(ensemble.steps, [0, 1500, 3000])
    np.testing.assert_allclose(ensemble.alpha, ensemble.steps / 300)
    exited = ensemble.status == Status.EXITED
    assert 0 < exited.sum() < 6
    np.testing.assert_array_equal(np.isnan(ensemble.exit_time), ~exited)
    np.testing.assert_array_equal(np.isnan(ensemble.risk[:, -1]), exited)


def test_going_on_from_a_solution_equals_not_stopping(problem, path):
    rest = hdsgd.solve_ode(problem, path.overlaps(2), 1.0, times=[1.0])
    np.testing.assert_allclose(rest.M[-1], path.M[-1], rtol=1e-6)
    assert path.overlaps(0) == Overlaps(path.Q[0], path.M[0], path.P)


def test_every_stored_row_is_accepted_as_overlaps():
    # Learning to zero loss ends on the boundary of the cone, which the steps of the solver overshoot.
    for gamma, p, k in ((0.0, 5, 1), (0.3, 3, 3), (0.0, 4, 2)):
        start = Overlaps.random(p, k, 500, rng=p, spherical=False, orthogonal_teacher=True)
        for tolerance in (1e-3, 1e-8):
            sol = hdsgd.solve_ode(Problem("quadratic", gamma=gamma), start, 60.0, rtol=tolerance)
            for i in range(sol.t.size):
                assert Overlaps(sol.Q[i], sol.M[i], sol.P) == sol.overlaps(i)
            assert np.all(sol.risk >= 0.0)


def test_overlaps_of_an_ensemble(ensemble):
    state = ensemble.overlaps(0)
    assert state.replicas == 6
    running = int(np.flatnonzero(ensemble.status == Status.COMPLETED)[0])
    gone = int(np.flatnonzero(ensemble.status == Status.EXITED)[0])
    assert ensemble.overlaps(replica=running).replicas is None
    with pytest.raises(ValueError, match="had exited or diverged"):
        ensemble.overlaps(replica=gone)
    with pytest.raises(ValueError, match="replicas had exited or diverged"):
        ensemble.overlaps()
    with pytest.raises(IndexError):
        ensemble.overlaps(replica=6)


def test_indices_that_do_not_exist(path):
    with pytest.raises(IndexError):
        path.overlaps(5)
    with pytest.raises(ValueError, match="single trajectory"):
        path.overlaps(replica=0)


@pytest.mark.parametrize("suffix", [".npz", ".nc"])
def test_what_is_saved_comes_back(tmp_path, path, ensemble, suffix):
    for sol in (path, ensemble):
        file = tmp_path / f"run{suffix}"
        sol.save(file)
        again = hdsgd.load(str(file))
        assert again == sol
        assert again.problem == sol.problem
        assert again.message == sol.message
        assert [f.name for f in tmp_path.iterdir()] == [file.name]  # nothing temporary is left
        again.overlaps(0)


def test_weights_and_formulas_travel_with_the_file(tmp_path, path):
    w = hdsgd.Weights(np.arange(8.0).reshape(2, 4), np.ones((1, 4)), a=[1, 2])
    problem = Problem("x**2 - x/3", "erf(x/2)", gamma=0.2)
    sol = dataclasses.replace(path, problem=problem, weights=w, stop=Exit(level=0.1), seed=2**128 - 1, d=4)
    sol.save(tmp_path / "a.npz")
    again = hdsgd.load(tmp_path / "a.npz")
    assert again == sol
    assert again.weights == w
    assert again.seed == 2**128 - 1
    assert again.problem.teacher.formula == problem.teacher.formula


@pytest.fixture(scope="module")
def trained():
    """A trajectory with a second layer that moves."""
    problem = Problem("erf", gamma=0.5, batch_size=2, weight_decay=0.1, second_layer_ratio=0.5)
    return hdsgd.solve_ode(problem, Overlaps.random(2, 1, 50, rng=0), 2.0, times=[0.0, 1.0, 2.0])


@pytest.mark.parametrize("suffix", [".npz", ".nc"])
def test_a_trained_second_layer_is_kept(tmp_path, trained, suffix):
    assert np.ptp(trained.a, axis=0).min() > 0.01
    trained.save(tmp_path / f"a{suffix}")
    again = hdsgd.load(tmp_path / f"a{suffix}")
    assert again == trained
    assert again.problem == trained.problem
    np.testing.assert_array_equal(again.overlaps(1).a, trained.a[1])
    data = trained.to_xarray()
    assert data["a"].dims == ("t", "j")
    np.testing.assert_array_equal(data["alpha"], trained.alpha)
    np.testing.assert_allclose(trained.alpha, 2 * trained.t * 2 / 0.5)
    assert trained.plot().axes[3].get_ylabel() == "second layer $a$"


def test_counts_cannot_be_changed(path):
    for sol in (path, pickle.loads(pickle.dumps(path)), copy.copy(path)):
        assert sol.stats == path.stats
        for mapping in (sol.stats, sol.versions):
            with pytest.raises(TypeError):
                mapping["steps"] = 0


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_saved_files_have_ordinary_permissions(tmp_path, path):
    before = os.umask(0o027)
    try:
        path.save(tmp_path / "a.npz")
    finally:
        os.umask(before)
    assert (tmp_path / "a.npz").stat().st_mode & 0o777 == 0o640


def test_files_hold_no_pickle(tmp_path, path):
    path.save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        document = json.loads(str(file["hdsgd"]))
        assert {name for name in file.files if file[name].dtype.hasobject} == set()
    assert set(document["versions"]) == {"hdsgd", "numpy", "scipy", "python"}
    assert document["problem"]["activation"]["name"] == "quadratic"


def test_an_interrupted_save_leaves_the_old_file(tmp_path, path, monkeypatch):
    file = tmp_path / "a.npz"
    path.save(file)
    before = file.read_bytes()

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        path.save(file)
    assert file.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_that_cannot_be_written_is_named_without_temporary_names(tmp_path, path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device", str(tmp_path / ".a-1234.npz"))

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(ValueError, match=r"a.npz' cannot be written \(No space left on device\); choose") as caught:
        path.save(tmp_path / "a.npz")
    assert "1234" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_solutions_do_not_differ_by_the_time_they_took(path):
    other = dataclasses.replace(path, stats={**path.stats, "wall_time": 1e6})
    assert other == path
    assert dataclasses.replace(path, stats={**path.stats, "nfev": -1}) != path


def test_foreign_and_damaged_files_are_refused(tmp_path, path):
    text = tmp_path / "notes.npz"
    text.write_text("these are notes")
    np.savez(tmp_path / "other.npz", x=np.ones(3))
    np.savez(tmp_path / "pickled.npz", hdsgd=np.array({"a": 1}, dtype=object))
    (tmp_path / "text.nc").write_text("these are notes")
    path.save(tmp_path / "cut.npz")
    whole = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    for file in sorted(tmp_path.iterdir()):
        with pytest.raises(ValueError, match="is not a solution saved by hdsgd"):
            hdsgd.load(file)
    with pytest.raises(ValueError, match="no file"):
        hdsgd.load(tmp_path / "missing.npz")
    with pytest.raises(ValueError, match="is a folder"):
        hdsgd.load(tmp_path)


def test_a_damaged_or_newer_document_is_refused(tmp_path, path):
    file = tmp_path / "a.npz"
    path.save(file)
    with np.load(file) as content:
        arrays = dict(content)
    document = json.loads(str(arrays["hdsgd"]))
    for change, message in (
        ({"format": 99}, "newer format"),
        ({"problem": {}}, "damaged"),
        ({"problem": None}, "damaged"),
        ({"stop": {"U": 1}}, "damaged"),
        ({"problem": {**document["problem"], "gamma": -1}}, "gamma"),
    ):
        arrays["hdsgd"] = np.array(json.dumps({**document, **change}))
        np.savez(file, **arrays)
        with pytest.raises(ValueError, match=message):
            hdsgd.load(file)
    arrays["hdsgd"], arrays["Q"] = np.array(json.dumps(document)), np.ones((2, 2))
    np.savez(file, **arrays)
    with pytest.raises(ValueError, match="Q must have shape"):
        hdsgd.load(file)


def test_save_names_what_is_wrong_with_the_path(tmp_path, path):
    with pytest.raises(ValueError, match=r"\.npz or \.nc"):
        path.save(tmp_path / "a.csv")
    with pytest.raises(ValueError, match="does not exist"):
        path.save(tmp_path / "nowhere" / "a.npz")


def test_pickling_keeps_values_and_protection(path, ensemble):
    for sol in (path, ensemble):
        again = pickle.loads(pickle.dumps(sol))
        assert again == sol
        assert not again.M.flags.writeable
    assert path != ensemble


def test_to_xarray(path, ensemble):
    data = path.to_xarray()
    assert data["M"].dims == ("t", "j", "r")
    np.testing.assert_array_equal(data["M"].sel(t=1.0).values, path.M[2])
    data = ensemble.to_xarray()
    assert data["Q"].dims == ("replica", "t", "j", "l")
    assert data["exit_time"].dims == ("replica",)
    assert json.loads(data.attrs["hdsgd"])["d"] == 300


def test_messages_say_what_to_do(problem, path, ensemble):
    assert path.message == "The run reached t_max."
    assert "replicas" in ensemble.message
    assert "sol.exit_time" in ensemble.message
    short = hdsgd.solve_ode(problem, path.overlaps(0), 0.01, stop=Exit(T=0.5))
    assert "increase t_max" in short.message
    diverged = hdsgd.solve_ode(Problem("quadratic", gamma=5.0), Overlaps.random(2, 1, 50, rng=0), 10.0)
    assert diverged.status is Status.DIVERGED
    assert "decrease gamma" in diverged.message
    assert "DOP853" in repr(path)


def test_advice_belongs_to_the_solver(problem, path, ensemble):
    failed = dataclasses.replace(path, status=Status.FAILED)
    assert "rtol" in failed.message
    assert "dt" not in failed.message
    failed = dataclasses.replace(ensemble, status=np.full(6, Status.FAILED))
    assert "decrease dt" in failed.message
    assert "rtol" not in failed.message
    assert "spherical" not in dataclasses.replace(path, status=Status.DIVERGED).message  # it is, already


def test_exit_levels():
    np.testing.assert_allclose(Exit(T=0.25).threshold([2.0, 4.0]), [1.5, 3.0])
    np.testing.assert_allclose(Exit(level=0.5).threshold([2.0, 4.0]), [0.5, 0.5])
    assert Exit(T=0.1) == Exit(T=np.float64(0.1))
    assert pickle.loads(pickle.dumps(Exit(level=1.0))) == Exit(level=1.0)


def test_gradient_flow_needs_infinitely_many_samples():
    sol = hdsgd.solve_ode(Problem("erf", gamma=0.0), Overlaps.random(2, 1, 50, rng=0), 1.0, times=[0.0, 1.0])
    np.testing.assert_array_equal(sol.alpha, [0.0, np.inf])


def test_figures(tmp_path, path, ensemble):
    for sol in (path, ensemble):
        figure = sol.plot()
        assert [axes.get_ylabel() != "" for axes in figure.axes] == [True] * 3
        figure.savefig(tmp_path / "figure.png")
    wide = hdsgd.solve_ode(Problem("erf", gamma=1.0), Overlaps.random(6, 2, 50, rng=0), 1.0)
    wide.plot().savefig(tmp_path / "wide.png")
    assert not zipfile.is_zipfile(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"


def test_times_spaced_geometrically_are_drawn_so():
    problem, start = Problem("erf"), Overlaps([[1.0]], [[0.1]], [[1.0]])
    for times, scale in (
        (np.concatenate(([0.0], np.geomspace(1e-3, 10.0, 30))), "log"),
        (np.geomspace(0.5, 10.0, 30), "linear"),  # less than two decades
        (np.linspace(0.0, 10.0, 2001), "linear"),
        (None, "linear"),
    ):
        sol = hdsgd.solve_ode(problem, start, 10.0, times=times)
        assert {axes.get_xscale() for axes in sol.plot().axes} == {scale}


def lines(figure):
    """The times and values of the first curve of each panel."""
    return [axes.lines[0].get_xydata().T for axes in figure.axes]


def test_an_ensemble_is_drawn_over_all_its_replicas(problem):
    risk = np.array([[2.0, 1.8, np.nan, np.nan], [2.0, 1.9, 1.6, np.nan], [2.0, 2.0, 2.0, 2.0]])
    M = np.where(np.isnan(risk), np.nan, 0.1)[..., None, None]
    base = hdsgd.Solution(
        problem=problem, t=np.arange(4.0), Q=10 * M, M=M, P=np.eye(1), a=10 * M[..., 0], a_star=np.ones(1), risk=risk,
        status=np.array([1, 1, 0]), stop=Exit(level=1.5), method="overlaps",
    )  # fmt: skip
    # Held after the exit: the median is not that of the last one running.
    figure = base.plot()
    t, median = lines(figure)[0]
    np.testing.assert_array_equal(t, base.t)
    np.testing.assert_allclose(median, [2.0, 1.9, 1.8, 1.8])
    assert "held" in figure.get_suptitle()
    # Nothing to hold after a divergence.
    figure = dataclasses.replace(base, status=np.array([1, 2, 0])).plot()
    np.testing.assert_array_equal(lines(figure)[0][0], [0.0, 1.0, 2.0])
    assert "up to the first" in figure.get_suptitle()
    # A replica without any rows is left out, and the title says so.
    gone = dataclasses.replace(base, risk=np.where(np.arange(3)[:, None] == 0, np.nan, risk))
    assert "without 1" in gone.plot().get_suptitle()
    nobody = dataclasses.replace(base, risk=np.full((3, 4), np.nan), status=np.ones(3))
    nobody.plot().savefig(io.BytesIO())


def test_every_object_survives_a_spawned_process(path, ensemble):
    values = [
        path,
        ensemble,
        path.problem,
        Problem("x**3 - x/7", "erf"),
        Exit(T=0.1),
        Status.EXITED,
        Overlaps.random(2, 1, 9, rng=0, replicas=2),
        hdsgd.Weights(np.ones((2, 4)), np.ones((1, 4))),
        hdsgd.activation("he3"),
        hdsgd.Dynamics(path.problem),
        hdsgd.Dynamics(path.problem).drift(path.overlaps()),
    ]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(copy.copy, values) == values
