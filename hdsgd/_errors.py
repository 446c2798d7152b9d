"""The one kind of warning of hdsgd, and how it is given once."""

from __future__ import annotations

import threading
import warnings

__all__ = ["BackendWarning", "warn_backend"]

_lock = threading.Lock()
_warned = False


class BackendWarning(UserWarning):
    """The C backend or the cache cannot be used here: the results are the same, and take longer."""


def warn_backend(reason: str) -> None:
    """Warn once per process that numpy replaces the C backend.

    Parameters
    ----------
    reason : str
        One sentence: why C cannot be used, and the remedy.

    Warns
    -----
    BackendWarning
        At the first call of the process; later calls do nothing, so that a sweep says it once.
    """
    global _warned
    with _lock:
        if _warned:
            return
        _warned = True
    warnings.warn(
        f"{reason.rstrip()} The numpy backend is used instead: the same results, more slowly.",
        BackendWarning,
        stacklevel=3,
    )
