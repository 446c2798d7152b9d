"""Problem: defaults, validation, equality, independence of names."""

import dataclasses
import pickle

import numpy as np
import pytest

import hdsgd
from hdsgd import Problem


def test_defaults():
    problem = Problem()
    assert problem.student.name == "erf"
    assert problem.teacher == problem.student
    assert (problem.gamma, problem.Delta, problem.spherical) == (1.0, 0.0, False)
    assert (problem.batch_size, problem.weight_decay, problem.second_layer_ratio) == (1, 0.0, 0.0)


def test_activations_may_be_names_formulas_or_objects():
    by_name = Problem("he3", "erf")
    assert by_name == Problem("x**3 - 3*x", hdsgd.activation("erf"))
    assert by_name.teacher.name == "erf"
    assert by_name != Problem("erf", "he3")
    assert {by_name, Problem("he3", "erf")} == {by_name}


def test_the_teacher_follows_the_student_unless_given():
    assert dataclasses.replace(Problem("erf"), activation="he2").teacher.name == "he2"
    assert dataclasses.replace(Problem("erf", "erf"), activation="he2").teacher.name == "erf"


def test_numbers_become_plain_floats():
    problem = Problem(gamma=np.float32(0.5), Delta=np.array(1), spherical=np.bool_(True))
    assert type(problem.gamma) is float
    assert type(problem.Delta) is float
    assert problem.spherical is True
    assert problem == Problem(gamma=0.5, Delta=1.0, spherical=True)


def test_frozen_hashable_and_picklable():
    problem = Problem("quadratic", gamma=0.1)
    assert pickle.loads(pickle.dumps(problem)) == problem
    assert hash(problem) == hash(Problem("quadratic", gamma=0.1))
    with pytest.raises(dataclasses.FrozenInstanceError):
        problem.gamma = 1.0


@pytest.mark.parametrize(("formula", "reason"), [("sign", "jumps"), ("3", "is constant"), ("pi/2", "is constant")])
def test_what_only_a_teacher_can_have_is_refused_for_a_student(formula, reason):
    with pytest.raises(ValueError, match=f"{reason}: .*it can be a teacher"):
        Problem(formula)
    assert Problem("erf", formula).student.name == "erf"


def test_step_time():
    assert Problem(gamma=0.5).step_time(4, 100) == pytest.approx(0.5 / 400)


def test_batches_decay_and_second_layer():
    problem = Problem(batch_size=np.float64(4), weight_decay=1, second_layer_ratio=np.float32(0.5))
    assert (problem.batch_size, problem.weight_decay, problem.second_layer_ratio) == (4, 1.0, 0.5)
    assert type(problem.batch_size) is int
    assert type(problem.weight_decay) is type(problem.second_layer_ratio) is float
    assert problem != dataclasses.replace(problem, batch_size=5)
    assert pickle.loads(pickle.dumps(problem)) == problem


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"batch_size": 0}, "at least 1"),
        ({"batch_size": 1.5}, "must be an integer"),
        ({"weight_decay": -0.1}, "weight_decay must be finite and >= 0"),
        ({"weight_decay": 0.1, "spherical": True}, "has no effect with spherical=True"),
        ({"second_layer_ratio": -1.0}, "gamma_a/gamma"),
        ({"second_layer_ratio": np.inf}, "finite"),
    ],
)
def test_values_out_of_range_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        Problem(**kwargs)
