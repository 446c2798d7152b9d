"""The roofline: how far each kernel is from what the machine's arithmetic and memory allow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .clock import medians
from .machine import limits
from .rhs import in_c
from .simulators import per_step

#: operations of erf's innermost loop: two multiply-adds, two products, the series of asin, one multiply-add
ERF_INNER = 4 + 2 + 29 + 2
NORMAL = 24  # operations of one normal number by the method of Box and Muller: polynomials of degree 6, 5 and 4, a root


@dataclass(frozen=True)
class Point:
    """One kernel: operations per second at operations per byte that must move between memory and core."""

    label: str
    intensity: float
    rate: float
    single: bool


def points(quick: bool) -> list[Point]:
    """Measure the kernels."""
    found = []
    budget = 0.05 if quick else 0.5
    for p, k in ((1, 1), (2, 2), (8, 4), (32, 4)):
        n = p + k
        operations = ERF_INNER * (p * (p + 1) // 2) * (n * (n + 1) // 2) + 2 * p * n * n
        moved = 8 * (2 * (p * (p + 1) // 2 + p * k) + k * k)
        seconds = medians(in_c("erf", p, k, baseline=False), budget)["compiled"]
        found.append(Point(f"erf rhs ({p},{k})", operations / moved, operations / seconds, False))
    for d, p, k in ((1000, 1, 1), (1000, 8, 4), (10000, 6, 3), (1_000_000, 1, 1), (1_000_000, 6, 3)):
        operations = d * (2 * (2 * p + k + 1) + NORMAL)
        moved = 4 * d * (2 * p + k)
        steps = max(20, int(budget / (operations / 1e11)))
        name = "quadratic" if p == 1 else "erf"
        seconds = per_step(name, p, k, d, steps=steps, method="weights", precision="single")
        found.append(Point(f"weights ({p},{k}), d = {d}", operations / moved, operations / seconds, True))
    return found


def draw(path: Path, quick: bool) -> None:
    """Draw the picture into a file."""
    from matplotlib.figure import Figure

    machine, found = limits(quick), points(quick)
    figure = Figure(figsize=(9.5, 5.5), layout="constrained")
    axes = figure.subplots()
    x = np.geomspace(0.4, 2 * max(point.intensity for point in found), 200)
    for rate, colour, kind in ((machine.fma_double, "tab:blue", "f64"), (machine.fma_single, "tab:red", "f32")):
        text = f"{kind} multiply-adds: {2 * rate / 1e9:.0f} GFLOP/s"
        axes.loglog(x, np.minimum(2 * rate, machine.cache * x) / 1e9, color=colour, label=text)
    for rate, style, kind in ((machine.cache, ":", "256 KB"), (machine.bandwidth, "--", "64 MB")):
        text = f"{kind} sweep: {rate / 1e9:.0f} GB/s"
        axes.loglog(x, np.minimum(2 * machine.fma_single, rate * x) / 1e9, style, color="0.4", label=text)
    text = f"f32 normals alone: {machine.normals / 1e9:.1f}e9 per second"
    axes.axhline(machine.normals * NORMAL / 1e9, color="tab:red", ls="-.", lw=1, label=text)
    for point, marker in zip(found, "ovs^Dph*Xd", strict=False):
        colour = "tab:red" if point.single else "tab:blue"
        axes.loglog(point.intensity, point.rate / 1e9, marker, color=colour, ms=7, mec="k", mew=0.5, label=point.label)
    axes.set_xlabel("operations per byte moved between memory and core")
    axes.set_ylabel("GFLOP/s, one core")
    axes.set_title("Roofline: red in single, blue in double precision")
    figure.legend(loc="outside right upper", fontsize=8)
    axes.grid(True, which="major", alpha=0.3)
    axes.set_ylim(bottom=min(point.rate for point in found) / 2e9)
    figure.savefig(path, dpi=130)
