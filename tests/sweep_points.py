"""Functions for the tests of sweeps, importable by the worker processes."""

import os
import signal
import time
from pathlib import Path


def product(x, y):
    if x == 2 and y == 10:
        raise ValueError("two times\nten")
    return {"value": x * y, "both": [x, y]}


def deadly(x, marker):
    """Kill the worker the first time that x is 3."""
    if x == 3 and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return x**2


def always_deadly(x):
    if x == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def counted(x, log):
    with Path(log).open("a") as file:
        file.write(f"{x}\n")
    time.sleep(0.01)
    return x / 3.0


def rooted(x):
    return x**0.5


def overlap(x):
    return float(x.M[0, 0])


def threads(x):
    return {"blas": os.environ.get("OPENBLAS_NUM_THREADS", ""), "own": os.environ.get("HDSGD_THREADS", "")}


def slow(x, log):
    Path(log).touch()
    time.sleep(60.0)
