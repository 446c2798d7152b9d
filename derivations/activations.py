"""The built-in activations: name, formula and where each is used.  Plain data: importing this module costs nothing."""

import re
from dataclasses import dataclass

#: why a formula cannot be a student's
JUMPS = "the student {} jumps: the gradient of its risk is infinite (it can be a teacher)"
CONSTANT = "the student {} is constant: the gradient of its risk is zero, and it learns nothing (it can be a teacher)"


@dataclass(frozen=True)
class Builtin:
    """A named activation: its formula in the canonical spelling of :mod:`.parse`, and the papers that study it."""

    name: str
    formula: str
    source: str
    student: bool = True  # False: it jumps, and can only be a teacher


BUILTINS: dict[str, Builtin] = {
    entry.name: entry
    for entry in (
        Builtin("erf", "erf(x / sqrt(2))", "Saad & Solla 1995; Veiga et al. 2022, arXiv:2202.00293"),
        Builtin("quadratic", "x ** 2", "phase retrieval: Arnaboldi et al. 2023, arXiv:2305.18502"),
        Builtin("he2", "x ** 2 - 1", "second Hermite polynomial: information exponent 2"),
        Builtin("he3", "x ** 3 - 3 * x", "third Hermite polynomial: information exponent 3"),
        Builtin("cubic", "x ** 3", "the monomial of degree 3"),
        Builtin("linear", "x", "linear regression"),
        Builtin("relu", "relu(x)", "rectifier; its kernel is the arc-cosine kernel of order 1"),
        Builtin("leaky_relu", "leaky_relu(x, 0.01)", "rectifier with slope 0.01 on the left"),
        Builtin("abs", "abs(x)", "phase retrieval from moduli"),
        Builtin("gelu", "gelu(x)", "x Φ(x), Φ the normal distribution function"),
        Builtin("normcdf", "normcdf(x)", "Φ(x), a sigmoid"),
        Builtin("sign", "sign(x)", "the perceptron", student=False),
        Builtin("tanh", "tanh(x)", "no closed expectations: a certified mixture of error functions"),
        Builtin("sin", "sin(x)", "a wave"),
        Builtin("cos", "cos(x)", "a wave, even"),
        Builtin("exp", "exp(x)", "exponential growth"),
        Builtin("gaussian", "exp(-x ** 2 / 2)", "a bump"),
    )
}


def refusal(formula: str) -> str | None:
    """Return why a formula cannot be a student's, where that is known without derivation; otherwise None."""
    if not re.search(r"\bx\b", formula):
        return CONSTANT.format(formula)
    jumps = any(entry.formula == formula and not entry.student for entry in BUILTINS.values())
    return JUMPS.format(formula) if jumps else None
