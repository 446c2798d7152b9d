"""What is learned and how: activations, learning rate, label noise, constraint."""

from __future__ import annotations

import numbers
from dataclasses import dataclass, replace

import numpy as np

from . import _bridge
from ._activation import Activation, activation
from ._checks import boolean, integer, real
from ._overlaps import Overlaps, Weights
from ._schedule import Clock, Schedule

__all__ = ["Problem", "check_start", "learning_rate"]

# How far a start on the sphere may be from it: weights kept in single precision come back with 1e-7.
UNIT_NORM = 1e-6


@dataclass(frozen=True)
class Problem:
    """One-pass SGD of a two-layer student on a two-layer teacher with Gaussian inputs.

    The student f = (1/p) sum_j a_j s(lambda_j) is trained on y = f_star + sqrt(Delta) z by
    W_j <- W_j + (gamma/p) a_j s'(lambda_j) (y - f) x/sqrt(d), each sample used once; time is t = nu*gamma/(p*d) after
    nu steps.

    Parameters
    ----------
    activation : str or Activation
        Of the student: a built-in or saved name, a formula in x such as ``"x*erf(x/sqrt(2))"``, or an Activation.
    teacher_activation : str, Activation or None
        Of the teacher; None: the same as the student's.
    gamma : float or Schedule
        Learning rate, >= 0; 0 is gradient flow in the same time t. A `Schedule` changes it with t; with a single piece
        it is stored as a number.
    Delta : float
        Variance of the label noise, >= 0.
    spherical : bool
        Whether each row of W is rescaled to norm sqrt(d) after every step.
    batch_size : int
        Number n_b >= 1 of fresh samples whose mean gradient makes one step.
    weight_decay : float
        Strength eta >= 0 of the penalty eta/(2 p d) |W|^2: each step also multiplies W by 1 - eta*gamma/(p*d), so that
        M decays at rate eta and Q at 2 eta in t. Refused with ``spherical=True``, where it has no effect.
    second_layer_ratio : float
        gamma_a/gamma >= 0: each step moves a_j by gamma_a/(p*d) times the mean of s(lambda_j) (y - f), at the lambda
        and f from before the step. 0: a is fixed.

    Raises
    ------
    ValueError, TypeError
        A value outside its range, weight decay on the sphere, or an activation that is not known, or that no student
        can have: ``"sign"`` jumps, a constant has no gradient (other such formulas are refused when they are derived).

    Notes
    -----
    Both activations are stored as `Activation` objects, that is with their formulas: a Problem that is saved or sent to
    another machine does not depend on names known there.

    Source: Arnaboldi, Krzakala, Loureiro, Stephan 2023 (arXiv 2305.18502); Veiga et al. 2022
    (arXiv 2202.00293).

    Examples
    --------
    >>> problem = Problem("quadratic", gamma=0.1, Delta=1e-4, spherical=True)
    >>> problem.student == problem.teacher
    True
    >>> from hdsgd import Schedule
    >>> slower = Problem("quadratic", gamma=Schedule([0.0, 2.0], [0.1, 0.05]), spherical=True)
    >>> slower.at(3.0).gamma, slower.after(1.5).gamma.times
    (0.05, (0.0, 0.5))
    >>> print(problem)
    quadratic: x ** 2; gamma = 0.1, Delta = 0.0001, on the sphere
    """

    activation: str | Activation = "erf"
    teacher_activation: str | Activation | None = None
    gamma: float | Schedule = 1.0
    Delta: float = 0.0
    spherical: bool = False
    batch_size: int = 1
    weight_decay: float = 0.0
    second_layer_ratio: float = 0.0

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "activation", activation(self.activation))
        _bridge.check_student(self.student.formula)
        if self.teacher_activation is not None:
            put(self, "teacher_activation", activation(self.teacher_activation))
        given: object = self.gamma
        if not isinstance(given, Schedule):
            change = "for a rate that changes with t pass hdsgd.Schedule, such as Schedule([0, 5], [1, 0.1])"
            hint = "gamma=0 is gradient flow" if isinstance(given, numbers.Real) else change
            put(self, "gamma", real("gamma", given, low=0.0, hint=hint))
        elif len(given.values) == 1:
            put(self, "gamma", given.values[0])
        put(self, "Delta", real("Delta", self.Delta, low=0.0, hint="Delta is the variance of the label noise"))
        put(self, "spherical", boolean("spherical", self.spherical))
        put(self, "batch_size", integer("batch_size", self.batch_size, hint="it is the number of samples per step"))
        put(self, "weight_decay", real("weight_decay", self.weight_decay, low=0.0, hint="0 leaves it out"))
        ratio = real("second_layer_ratio", self.second_layer_ratio, low=0.0, hint="it is gamma_a/gamma, 0 fixes a")
        put(self, "second_layer_ratio", ratio)
        if self.spherical and self.weight_decay > 0.0:
            raise ValueError(
                f"weight_decay={self.weight_decay:g} has no effect with spherical=True, which rescales the weights "
                "after every step; leave one of them out."
            )

    @property
    def student(self) -> Activation:
        """Activation of the student."""
        assert isinstance(self.activation, Activation)
        return self.activation

    @property
    def teacher(self) -> Activation:
        """Activation of the teacher."""
        if self.teacher_activation is None:
            return self.student
        assert isinstance(self.teacher_activation, Activation)
        return self.teacher_activation

    def __str__(self) -> str:
        pair = str(self.student)
        if self.teacher.formula != self.student.formula:
            pair = f"student {pair}, teacher {self.teacher}"
        extra = {
            "batches of {}": self.batch_size if self.batch_size > 1 else None,
            "weight decay {:g}": self.weight_decay or None,
            "gamma_a/gamma = {:g}": self.second_layer_ratio or None,
        }
        more = "".join(f", {text.format(value)}" for text, value in extra.items() if value is not None)
        shape = "on the sphere" if self.spherical else "weights free"
        return f"{pair}; gamma = {self.gamma:g}, Delta = {self.Delta:g}{more}, {shape}"

    @property
    def schedule(self) -> Schedule:
        """The learning rate as a schedule, of one piece where it is constant."""
        return self.gamma if isinstance(self.gamma, Schedule) else Schedule((0.0,), (self.gamma,))

    def at(self, t: float) -> Problem:
        """The problem at the constant learning rate of time t; itself, unless gamma is a schedule."""
        return replace(self, gamma=self.schedule(real("t", t, low=0.0)))

    def after(self, t: float) -> Problem:
        """The problem from time t on, to go on from there: a schedule is moved, so that t becomes its time 0."""
        return replace(self, gamma=self.schedule.after(real("t", t, low=0.0)))

    def step_time(self, p: int, d: int) -> float:
        """Time t of one SGD step, gamma/(p*d); refuses a schedule, whose steps differ (TypeError)."""
        return self.gamma / (p * d)

    def clock(self, p: int, d: int, t_max: float) -> Clock:
        """Step numbers and their times up to t_max; gamma > 0."""
        return Clock.of(self.schedule, p * d, t_max)


def learning_rate(text: str) -> float | Schedule:
    """A learning rate from its text, as it is printed: a number, or times and rates such as 0:0.1,2:0.05.

    Raises
    ------
    ValueError
        Anything else.
    """
    pairs = [pair.partition(":") for pair in text.split(",")]
    try:
        if ":" not in text:
            return float(text)
        return Schedule([float(t) for t, _, _ in pairs], [float(value) for _, _, value in pairs])
    except ValueError:
        if ":" not in text:
            raise ValueError(f"{text!r} is not a number") from None
        raise ValueError(
            f"{text!r} is no schedule such as 0:0.1,2:0.05, with times that begin at 0 and increase, and rates >= 0"
        ) from None


def check_start(problem: object, state: object) -> tuple[Problem, Overlaps]:
    """Refuse what is not a problem and overlaps to start it from.

    Raises
    ------
    TypeError
        Other types, with the way to convert weights.
    ValueError
        Rows of W that are not of norm sqrt(d) although the problem is spherical.
    """
    if not isinstance(problem, Problem):
        raise TypeError(
            f"problem must be an hdsgd.Problem, got {type(problem).__name__}; pass for example Problem('erf')."
        )
    if isinstance(state, Weights):
        raise TypeError("state must be overlaps here, not weights; pass weights.overlaps().")
    if not isinstance(state, Overlaps):
        raise TypeError(f"state must be an hdsgd.Overlaps, got {type(state).__name__}; pass Overlaps(Q, M, P).")
    if problem.spherical:
        gap = np.abs(np.diagonal(state.Q, axis1=-2, axis2=-1) - 1.0).max()
        if gap > UNIT_NORM:
            raise ValueError(
                f"spherical=True needs a start with Q_jj = 1, but one differs by {gap:.3g}; rescale the rows of W to "
                "norm sqrt(d), or use Overlaps.random(..., spherical=True)."
            )
    return problem, state
