"""The papers' figures: independent jobs, a drawing of their results, and claims checked against them."""

from ._make import FigureResult, figure

__all__ = ["FigureResult", "figure"]
