"""The names of the figures and where each is described; a module is imported when its figure is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from ._frame import Figure

__all__ = ["FIGURES", "find"]

#: name -> module of this package and the `Figure` in it
FIGURES: Mapping[str, str] = {
    "A1": "_a_escape:A1",
    "A2": "_a_ratio:A2",
    "A3": "_a_layers:A3",
    "A4": "_a_paths:A4",
    "B1": "_b_phase:B1",
    "B2": "_b_regimes:B2",
    "B3": "_b_regimes:B3",
    "B4": "_b_floors:B4",
    "B5": "_b_floors:B5",
    "B6": "_b_rates:B6",
    "B7": "_b_regimes:B7",
    "B8": "_b_wide:B8",
    "B9": "_b_plateau:B9",
    "deviation": "_b_deviation:DEVIATION",
    "floors": "_b_floors:FLOORS",
    "C1": "_c_dynamics:C1",
    "C2": "_c_dynamics:C2",
    "C3": "_c_geometry:C3",
    "C4": "_c_geometry:C4",
    "C5": "_c_geometry:C5",
    "D1": "_d_mean_field:D1",
}


def find(name: Any) -> tuple[str, Figure]:
    """The figure of a name, in capitals or not, and its name as it is listed."""
    known = {entry.lower(): entry for entry in FIGURES}
    if not isinstance(name, str) or name.lower() not in known:
        raise ValueError(f"there is no figure {name!r}; choose from {', '.join(FIGURES)}.")
    name = known[name.lower()]
    module, _, attribute = FIGURES[name].partition(":")
    found: Figure = getattr(importlib.import_module(f".{module}", __package__), attribute)
    return name, found
