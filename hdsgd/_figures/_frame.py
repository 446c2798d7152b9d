"""What a figure consists of: jobs, results, claims; and the look that all drawings share."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .._plots import COLOURS, new_figure

if TYPE_CHECKING:
    import matplotlib.figure

__all__ = ["COLOURS", "SIZES", "Claim", "Figure", "Job", "Results", "canvas", "seeds", "style"]

Values: TypeAlias = Mapping[str, NDArray[Any]]

#: a test of a second or two; half a minute of one core; the published setting
SIZES = ("tiny", "quick", "full")


@dataclass(frozen=True)
class Job:
    """A piece of a figure's work, independent of the others: they run in parallel, and are recorded one by one.

    Attributes
    ----------
    name : str
        Of the job, unique in its figure and without "/".
    function : callable
        Defined at the top of a module. Returns a dict of numbers and arrays (of real numbers or texts).
    arguments : mapping
        Its keyword arguments, all that the values depend on: numbers, texts, and lists of these.
    """

    name: str
    function: Callable[..., Mapping[str, Any]]
    arguments: Mapping[str, Any]

    def point(self) -> dict[str, Any]:
        """The job in what JSON knows; equal for equal jobs."""
        function = f"{self.function.__module__}:{self.function.__qualname__}"
        point: dict[str, Any] = json.loads(json.dumps({"function": function, "arguments": dict(self.arguments)}))
        return point


@dataclass(frozen=True)
class Results(Mapping[str, Values]):
    """What the jobs of a figure returned: ``results[job][name]`` is an array.

    Attributes
    ----------
    size : str
    arguments : dict
        The arguments of each job.
    data : dict
    """

    size: str
    arguments: Mapping[str, Mapping[str, Any]]
    data: Mapping[str, Values]

    def __getitem__(self, job: str) -> Values:
        return self.data[job]

    def __iter__(self) -> Iterator[str]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A number to be checked.

    Attributes
    ----------
    what : str
        In words, with the setting.
    ours : float
        What was computed.
    error : float, optional
        Its standard error.
    expected : float, optional
        The derived or otherwise known value.
    paper : float or str, optional
        What is in print.
    within : float, optional
        The largest |ours - expected| (where there is no expected value, |ours - paper|) that counts as agreement; None:
        the number is only reported.
    rule : str
        Where `within` comes from; by default three standard errors, or a fixed bound for a number without error.
    wrong : bool
        The printed value contradicts the derivation: of that, `note` names the line.
    note : str
        What else a reader must know.
    """

    what: str
    ours: float
    error: float | None = None
    expected: float | None = None
    paper: float | str | None = None
    within: float | None = None
    rule: str = ""
    wrong: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        if self.within is not None and self._target() is None:
            raise ValueError(f"the claim {self.what!r} has nothing to compare with; give an expected value.")
        if self.wrong and not (self.note and self.paper is not None and self.expected is not None):
            raise ValueError(f"the claim {self.what!r} says that the paper is wrong; give both values and a note.")

    def _target(self) -> float | None:
        if self.expected is not None:
            return self.expected
        return None if isinstance(self.paper, str) else self.paper

    @property
    def verdict(self) -> str:
        """One of "agrees", "differs", "paper is wrong" and "reported"."""
        target = self._target()
        if self.within is None or target is None:
            return "reported"
        if not math.fabs(self.ours - target) <= self.within:  # nan differs, too
            return "differs"
        return "paper is wrong" if self.wrong else "agrees"

    @property
    def off_paper(self) -> bool:
        """Agrees with an expected value, but is not what the paper prints, beyond rounding and what is allowed."""
        if self.verdict != "agrees" or self.expected is None or self.paper is None or self.within is None:
            return False
        low, high, slack = _printed(self.paper)
        slack = max(slack, 3.0 * (self.error or 0.0) if low < high else self.within)
        return not low - slack <= self.ours <= high + slack


def _printed(paper: float | str) -> tuple[float, float, float]:
    """Both ends of what is in print, and half a unit of its last digit or, for a ± b, three b."""
    number = r"-?\d+(?:\.\d*)?(?:e[-+]?\d+)?"
    text = paper if isinstance(paper, str) else repr(float(paper))
    found = re.fullmatch(rf"\s*({number})\s*(?:([–±])\s*({number}))?\s*", text)
    if found is None:
        return -math.inf, math.inf, 0.0  # words: nothing to compare with
    first, sign, second = found.groups()
    if sign == "–":
        return float(first), float(second), 0.0
    if sign == "±":
        return float(first), float(first), 3.0 * float(second)
    digits = Decimal(first).normalize().as_tuple().exponent
    return float(first), float(first), 0.5 * 10.0 ** int(digits)


@dataclass(frozen=True)
class Figure:
    """A figure of a paper.

    Attributes
    ----------
    title, source : str
        What it shows; paper and figure.
    jobs : callable
        ``jobs(size, seed)``: the work for a size ("tiny", "quick" or "full"), longest jobs first.
    draw : callable
        ``draw(results)``: the picture, made with `canvas`.
    claims : callable
        ``claims(results)``: what is checked.
    """

    title: str
    source: str
    jobs: Callable[[str, int], Sequence[Job]]
    draw: Callable[[Results], matplotlib.figure.Figure]
    claims: Callable[[Results], Sequence[Claim]]


def seeds(seed: int, count: int) -> list[int]:
    """Seeds for independent jobs."""
    return [int(word) for word in np.random.SeedSequence(seed).generate_state(count, np.uint32)]


def canvas(rows: int = 1, columns: int = 1, *, width: float = 6.0, height: float = 4.0, **options: Any) -> Any:
    """A matplotlib Figure and its axes (as of ``subplots``); width and height in inches, of each panel."""
    figure = new_figure()(figsize=(columns * width, rows * height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


@contextmanager
def style() -> Iterator[None]:
    """One look for all figures: the colours of Okabe and Ito, mathematics as in the papers, no frame."""
    new_figure()  # says how to install matplotlib
    import matplotlib as mpl
    from cycler import cycler

    look = {
        "axes.prop_cycle": cycler(color=COLOURS),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": "medium",
        "figure.titlesize": "medium",
        "font.size": 10.0,
        "image.cmap": "viridis",
        "legend.fontsize": "small",
        "legend.title_fontsize": "small",
        "legend.frameon": False,
        "lines.linewidth": 1.6,
        "mathtext.fontset": "cm",
        "savefig.dpi": 150.0,
        "svg.fonttype": "none",
    }
    with mpl.rc_context(look):
        yield
