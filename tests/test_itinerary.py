"""The fixed points a trajectory visits: height, length and index of its plateaus, and their pictures."""

import json
from itertools import pairwise

import numpy as np
import pytest

from hdsgd import Overlaps, Problem, QuadraticNetwork, Schedule, fixed_point, itinerary, plateau, simulate, solve_ode
from hdsgd.cli import main

ERF = Problem("erf", gamma=0.5, Delta=1e-3)


@pytest.fixture(scope="module")
def specialization():
    """Plateau and specialization of Saad and Solla, p = k = 3."""
    return itinerary(solve_ode(ERF, Overlaps.random(3, 3, 10**6, rng=0, orthogonal_teacher=True), 2000.0))


def test_the_way_of_a_soft_committee_machine(specialization):
    saddle, floor = specialization
    assert (saddle.point.kind, saddle.point.unstable) == ("saddle", 4)  # (p - 1)(k - 1) ways to tell students apart
    assert np.ptp(saddle.point.state.M) < 1e-6  # they are all alike
    assert floor.point.kind == "stable"
    assert saddle.begin < saddle.end < floor.begin < floor.end == np.inf
    sol = specialization.solution
    inside = (sol.t > saddle.begin) & (sol.t < saddle.end)
    assert inside.sum() > 5
    np.testing.assert_allclose(sol.risk[inside], saddle.height, rtol=0.05)
    assert not specialization.unresolved
    assert "saddle" in str(specialization)
    assert len(specialization) == 2


def test_height_index_and_length_of_the_plateau_of_quadratic_networks():
    """Height 1/k + 1/(p + 2), index pk, and a length that grows as k log(d)/8 (Bocchi et al. 2026)."""
    network, found = QuadraticNetwork(6, 3), []
    for d in (10**6, 10**9, 10**12):
        start = Overlaps.random(6, 3, d, rng=0, spherical=False, orthogonal_teacher=True)
        (visit,) = itinerary(solve_ode(network.problem, start, 40.0))
        assert visit.height == pytest.approx(network.plateau_risk, abs=1e-9)
        assert visit.point.unstable == 18
        found.append(visit.length)
    for one, other in pairwise(found):
        assert other - one == pytest.approx(3.0 * np.log(1000.0) / 8.0, rel=0.02)


def test_a_start_on_the_plateau_counts_from_zero():
    problem = Problem("quadratic", gamma=0.1, Delta=1e-4, spherical=True)
    found = itinerary(solve_ode(problem, Overlaps([[1.0]], [[-0.018]], [[1.0]]), 12.0))
    assert [visit.point.kind for visit in found] == ["saddle", "stable"]
    assert found[0].begin == 0.0
    assert found[0].height == pytest.approx(plateau(problem, 1).point.risk)
    assert found[1].height == pytest.approx(0.1 * 1e-4 / (1.0 - 0.6))


def test_a_longer_look_does_not_move_the_plateaus():
    start = Overlaps([[1.0]], [[1e-3]], [[1.0]])
    problem = Problem("quadratic", gamma=0.1, Delta=0.01)
    short, long = (itinerary(solve_ode(problem, start, t)) for t in (10.0, 100.0))
    assert len(short) == len(long) == 2
    assert long[0].length == pytest.approx(short[0].length, rel=1e-6)
    wider = itinerary(solve_ode(problem, start, 10.0), within=0.2)
    assert wider[0].length > 1.2 * short[0].length


@pytest.mark.needs_cc
def test_a_path_that_has_not_arrived_says_so():
    start = Overlaps.random(8, 4, 1000, rng=0, orthogonal_teacher=True)
    found = itinerary(solve_ode(Problem("erf", gamma=8.0, Delta=1e-3), start, 1000.0))
    assert [visit.point.unstable for visit in found] == [21]
    assert found.unresolved == (1000.0,)
    assert "no fixed point was found nearby" in str(found)


def test_a_run_cut_on_a_saddle_has_left_nothing_yet(specialization):
    (saddle, _), start = specialization, specialization.solution.overlaps(0)
    middle = 0.5 * (saddle.begin + saddle.end)
    (cut,) = itinerary(solve_ode(ERF, start, middle))
    assert cut.end == middle
    assert cut.point.unstable == 4


def test_what_is_near_but_not_within_is_said(specialization):
    (floor,) = narrow = itinerary(specialization.solution, within=1e-7)
    assert floor.point.kind == "stable"
    (at,) = narrow.unresolved
    assert specialization[0].begin < at < specialization[0].end


def test_refusals():
    start = Overlaps([[1.0]], [[0.1]], [[1.0]])
    with pytest.raises(TypeError, match="pass that of solve_ode"):
        itinerary(start)
    with pytest.raises(ValueError, match="ensemble"):
        itinerary(simulate(ERF, start, 0.1, d=100, replicas=2, rng=0))
    with pytest.raises(ValueError, match="without noise"):
        itinerary(simulate(ERF, start, 0.1, d=100, rng=0))
    with pytest.raises(TypeError, match="one learning rate"):
        itinerary(solve_ode(Problem(gamma=Schedule([0.0, 1.0], [1.0, 0.5])), start, 2.0))
    with pytest.raises(ValueError, match="within"):
        itinerary(solve_ode(ERF, start, 1.0), within=1.0)


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_pictures(specialization):
    pytest.importorskip("matplotlib")
    path, spectra = specialization.plot().axes
    labels = [text.get_text() for text in path.get_legend().get_texts()]
    assert labels[0].startswith("1: saddle of index 4")
    assert rf"\Delta t={specialization[0].length:.3g}" in labels[0]
    assert labels[1].endswith("to the end")
    assert r"$\times4$" in texts(spectra)
    point = specialization[0].point
    drawn = np.concatenate([line.get_ydata() for line in spectra.lines if set(line.get_xdata()) == {1}])
    np.testing.assert_array_equal(np.sort(drawn), np.sort(point.eigenvalues.real))
    rates, overlaps, _ = point.plot().axes
    np.testing.assert_array_equal(overlaps.images[0].get_array(), np.hstack((point.state.Q, point.state.M)))
    assert rates.get_ylabel().startswith("rates")


def test_pictures_of_marginal_points_and_of_none():
    pytest.importorskip("matplotlib")
    network = QuadraticNetwork(3, 2)
    end = network.end_point(network.orthogonal_start(50, rng=0))
    axes = fixed_point(network.problem, end).plot().axes[0]
    assert rf"$\times{network.nullity}$" in texts(axes)[0]
    assert len(itinerary(solve_ode(network.problem, end, 1.0)).plot().axes) == 2  # no plateau: no risk


def test_command(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    arguments = "fixed-point --gamma 0.5 --Delta 1e-3 -p 2 -k 2 -d 10000 --orthogonal-teacher --seed 0 --along 600"
    picture = tmp_path / "path.png"
    assert main([*arguments.split(), "--plot", str(picture), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(visit["kind"], visit["growing"]) for visit in found["visits"]] == [("saddle", 1), ("stable", 0)]
    assert found["visits"][0]["length"] == pytest.approx(found["visits"][0]["end"] - found["visits"][0]["begin"])
    assert found["visits"][1]["end"] is None
    assert found["seed"] == 0
    assert picture.stat().st_size > 10000
    assert main(arguments.split()) == 0
    assert "2 fixed points visited up to t = 600" in capsys.readouterr().out
    assert main([*arguments.split(), "--floor"]) == 2
    assert "leave --orthogonal-teacher out" in capsys.readouterr().err
