"""Exit times from the initial plateau ("escaping mediocrity"), by every route.

The exit time is the first t = nu*gamma/(p*d) at which the excess risk is at most (1 - T) times that of the start.
`first_passage` and `by_ode` serve any problem; the formulas are those of phase retrieval: student and teacher x**2,
weights on the sphere, one teacher unit of norm sqrt(d), second layers of ones. For other activations and widths the
linear theory of the exit is `hdsgd.plateau`.

Source: Arnaboldi, Krzakala, Loureiro, Stephan 2023, "Escaping mediocrity" (arXiv 2305.18502), for the
implicit, annealed and quenched times; the corrected times, of finite d, are not in the paper.
"""

from ._corrected import corrected, from_zero
from ._formulas import annealed, implicit, quenched
from ._learning_rate import LearningRate, gain, learning_rate, samples
from ._passage import by_ode, first_passage
from ._retrieval import decay_rate, growth_rate, max_gamma, optimal_gamma

__all__ = [
    "LearningRate",
    "annealed",
    "by_ode",
    "corrected",
    "decay_rate",
    "first_passage",
    "from_zero",
    "gain",
    "growth_rate",
    "implicit",
    "learning_rate",
    "max_gamma",
    "optimal_gamma",
    "quenched",
    "samples",
]
