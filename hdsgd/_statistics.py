"""Mean, standard error and median over replicas, some of which may be missing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["averaged", "median", "summary"]

Array = NDArray[np.float64]


def averaged(values: Array) -> tuple[float, float]:
    """Mean and its standard error; NaN where there are too few values, or one is missing."""
    mean = float(values.mean()) if values.size else np.nan
    error = float(values.std(ddof=1) / np.sqrt(values.size)) if values.size > 1 else np.nan
    return mean, error


def median(times: Array) -> float:
    """With what is missing later than all others; NaN where that is half or more."""
    middle = float(np.median(np.where(np.isfinite(times), times, np.inf))) if times.size else np.inf
    return middle if middle < np.inf else np.nan


def summary(times: Array) -> dict[str, float]:
    """Of exit times the ``mean`` and its ``error``, the ``median``, and how many are ``censored``."""
    mean, error = averaged(times)
    return {"mean": mean, "error": error, "median": median(times), "censored": int(np.isnan(times).sum())}
