"""hdsgd: exact high-dimensional dynamics of one-pass SGD in two-layer networks.

From the formula of an activation hdsgd derives the Gaussian expectations of the theory, compiles them, and solves:
ODEs, SDEs, exit times, and the exact finite-d simulation of the overlaps.

Examples
--------
>>> import hdsgd
>>> problem = hdsgd.Problem("erf", gamma=1.0, Delta=0.01)
>>> start = hdsgd.Overlaps.random(p=4, k=2, d=1000, rng=1, spherical=False)
>>> sol = hdsgd.solve_ode(problem, start, t_max=10.0)
>>> bool(sol.risk[-1] < sol.risk[0])
True
"""

from pathlib import Path as _Path

if not (
    _Path(__file__).parent / "derivations"
).is_dir():  # a bare checkout: derivations/ and generated/ lie beside hdsgd/
    __path__.append(str(_Path(__file__).parent.parent))

__version__ = "0.1.0"

from . import escape
from ._activation import Activation, activation
from ._compiler import CompilerError
from ._dynamics import Drift, Dynamics
from ._errors import BackendWarning
from ._expectations import Report, generate, integral
from ._experiment import EscapeResult, escape_experiment
from ._ode import solve_ode
from ._overlaps import Overlaps, Weights
from ._problem import Problem
from ._sde import solve_sde
from ._simulate import simulate
from ._solution import Exit, Solution, Status, load

__all__ = [
    "Activation",
    "BackendWarning",
    "CompilerError",
    "Drift",
    "Dynamics",
    "EscapeResult",
    "Exit",
    "Overlaps",
    "Problem",
    "Report",
    "Solution",
    "Status",
    "Weights",
    "__version__",
    "activation",
    "escape",
    "escape_experiment",
    "generate",
    "integral",
    "load",
    "simulate",
    "solve_ode",
    "solve_sde",
]
