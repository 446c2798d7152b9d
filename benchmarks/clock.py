"""Timing: competitors in turn, medians, ratios within one run.

Times are the processor's, not the wall's, wherever one thread works: what else the machine does hardly counts.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from ctypes import CDLL
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

#: takes a number of calls, and returns the seconds that one took
Clock: TypeAlias = Callable[[int], float]

ROUNDS = 9


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    group, what : str
        Part of the table, and what was timed.
    seconds : float
        Median time of one unit of work.
    ratio : float or None
        How many times faster than the competitor ``than``.
    than : str
        The competitor, or a remark.
    aim : float or None
        The smallest ratio aimed at.
    """

    group: str
    what: str
    seconds: float
    ratio: float | None = None
    than: str = ""
    aim: float | None = None


def medians(clocks: Mapping[str, Clock], budget: float) -> dict[str, float]:
    """Return the median time per call of each clock, in seconds; they run in turn, for about ``budget`` seconds."""
    share = budget / len(clocks) / ROUNDS
    repeats = {}
    for name, clock in clocks.items():
        clock(1)
        repeats[name] = max(1, min(int(share / max(clock(1), 1e-9)), 10_000_000))
    samples: dict[str, list[float]] = {name: [] for name in clocks}
    for _ in range(ROUNDS):
        for name, clock in clocks.items():
            samples[name].append(clock(repeats[name]))
    return {name: statistics.median(values) for name, values in samples.items()}


def calls(function: Callable[[], object]) -> Clock:
    """Return the clock of a Python function."""

    def clock(repeat: int) -> float:
        begin = time.process_time()
        for _ in range(repeat):
            function()
        return (time.process_time() - begin) / repeat

    return clock


def build(text: str, *flags: str) -> CDLL:
    """Compile C text with gcc, or what stands in for it, and load it."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise RuntimeError("the benchmarks need a C compiler: install gcc")
    with tempfile.TemporaryDirectory(prefix="hdsgd-benchmark-") as name:
        source, target = Path(name) / "source.c", Path(name) / "source.so"
        source.write_text(text, encoding="utf-8")
        subprocess.run([compiler, *flags, "-fPIC", "-shared", str(source), "-o", str(target), "-lm"], check=True)
        return CDLL(str(target))
