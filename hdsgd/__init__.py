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

from . import _signals

if _signals.is_program():
    _signals.guard()

from pathlib import Path as _Path

if not (
    _Path(__file__).parent / "derivations"
).is_dir():  # a bare checkout: derivations/ and generated/ lie beside hdsgd/
    __path__.append(str(_Path(__file__).parent.parent))

__version__ = "0.1.0"

from . import escape
from ._activation import Activation, activation
from ._compiler import CompilerError
from ._deviation import Deviation, deviation
from ._dynamics import Drift, Dynamics
from ._errors import BackendWarning
from ._escape_study import EscapeStudy, escape_study
from ._expectations import Certificate, Report, generate, integral
from ._experiment import EscapeResult, escape_experiment
from ._figures import FigureResult, figure
from ._fixed_points import FixedPoint, fixed_point
from ._floors import floor
from ._hessian import Hessian, hessian
from ._itinerary import Itinerary, Visit, itinerary
from ._mean_field import MeanField, MeanFieldSolution, mean_field
from ._ode import solve_ode
from ._overlaps import Overlaps, Weights
from ._plateau import Plateau, plateau
from ._problem import Problem
from ._quadratic_network import QuadraticNetwork
from ._scaling import Scaling, scaling
from ._schedule import Schedule
from ._sde import solve_sde
from ._simulate import simulate
from ._solution import Exit, Solution, Status, load
from ._sweep import Sweep, sweep

if _signals.is_program():
    _signals.release()

__all__ = [
    "Activation",
    "BackendWarning",
    "Certificate",
    "CompilerError",
    "Deviation",
    "Drift",
    "Dynamics",
    "EscapeResult",
    "EscapeStudy",
    "Exit",
    "FigureResult",
    "FixedPoint",
    "Hessian",
    "Itinerary",
    "MeanField",
    "MeanFieldSolution",
    "Overlaps",
    "Plateau",
    "Problem",
    "QuadraticNetwork",
    "Report",
    "Scaling",
    "Schedule",
    "Solution",
    "Status",
    "Sweep",
    "Visit",
    "Weights",
    "__version__",
    "activation",
    "deviation",
    "escape",
    "escape_experiment",
    "escape_study",
    "figure",
    "fixed_point",
    "floor",
    "generate",
    "hessian",
    "integral",
    "itinerary",
    "load",
    "mean_field",
    "plateau",
    "scaling",
    "simulate",
    "solve_ode",
    "solve_sde",
    "sweep",
]
