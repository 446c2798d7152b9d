"""The stochastic Heun scheme in C on all cores, staying interruptible."""

from __future__ import annotations

import ctypes
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _compiler
from ._increments_c import CStep, text
from ._paths import BLOW_UP
from ._random import SDE, words
from ._sde_plan import GREW, Paths, Plan
from ._simulate_c import threads

__all__ = ["load", "run"]

_POLL = 0.05  # seconds between looks at signals and progress while C runs
_RANK = 1e-10  # eigenvalues of P below this times the largest are rounding
_NO_MEMORY = 2  # as hdsgd_paths returns it

_int, _double, _pointer = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p


class _Run(ctypes.Structure):
    """The struct hdsgd_sde of csrc/sde.c, field by field."""

    _fields_ = (
        ("step", ctypes.POINTER(CStep)),
        *((name, _int) for name in ("replicas", "r", "rows", "spans")),
        *((name, _double) for name in ("d", "batch", "decay", "huge", "grew", "stop", "full", "gamma")),
        *((name, _int) for name in ("stop_kind", "spherical")),
        *((name, _pointer) for name in ("row", "steps", "begin", "length", "gammas")),
        *((name, _pointer) for name in ("P", "a_star", "into", "back", "Q0", "M0", "a0")),
        *((name, _pointer) for name in ("words", "Q", "M", "a", "risk", "exit_time", "status")),
        *((name, _pointer) for name in ("queue", "cancel", "progress")),
    )


def _source(plan: Plan) -> str:
    kernel, (_, route) = plan.dyn.kernel, plan.increments.source
    written = (text(name) for name in ("random.h", "step.h", route, "diffusion.c", "cone.h", "sde.c"))
    return "\n".join((kernel.pointwise_c, kernel.fields_c, *written))


def load(plan: Plan) -> Any:
    """The compiled loop of this kernel and route."""
    library = _compiler.load(_source(plan))
    library.hdsgd_paths.argtypes, library.hdsgd_paths.restype = (ctypes.POINTER(_Run),), ctypes.c_int
    return library


def run(plan: Plan, library: Any) -> Paths:
    """Run all replicas."""
    paths, problem, start, stop = Paths(plan), plan.problem, plan.start, plan.stop
    held: list[NDArray[Any]] = []  # arrays that C points into

    def at(array: NDArray[Any], dtype: Any = np.float64) -> int:
        held.append(np.ascontiguousarray(array, dtype=dtype))
        return int(held[-1].ctypes.data)

    values, vectors = np.linalg.eigh(start.P)
    kept = values > _RANK * max(values[-1], 0.0)
    lengths = np.sqrt(values[kept])
    queue, cancel, progress = (np.zeros(1, dtype=np.int64) for _ in range(3))
    step = plan.increments.c_step
    arguments = _Run(
        step=ctypes.pointer(step),
        replicas=plan.replicas,
        r=int(kept.sum()),
        rows=plan.grid.size,
        spans=plan.steps.size,
        full=float(plan.order == "all"),
        d=float(plan.d),
        batch=float(problem.batch_size),
        decay=problem.weight_decay,
        huge=BLOW_UP,
        grew=GREW,
        stop=0.0 if stop is None else 1.0 - stop.T if stop.T is not None else stop.level,
        stop_kind=0 if stop is None else 1 if stop.T is not None else 2,
        spherical=int(problem.spherical),
        steps=at(plan.steps, np.int64),
        begin=at(plan.begin),
        length=at(plan.length),
        row=at(plan.row, np.int64),
        gammas=at(plan.gamma),
        P=at(start.P),
        a_star=at(start.a_star),
        into=at(vectors[:, kept] / lengths),
        back=at((vectors[:, kept] * lengths).T),
        Q0=at(start.Q),
        M0=at(start.M),
        a0=at(start.a),
        words=at(words(plan.seed, SDE, 0, plan.replicas), np.uint64),
        **{name: getattr(paths, name).ctypes.data for name in ("Q", "M", "a", "risk", "exit_time", "status")},
        queue=queue.ctypes.data,
        cancel=cancel.ctypes.data,
        progress=progress.ctypes.data,
    )
    workers = min(threads(), plan.replicas)
    total = max(1, plan.replicas * int(plan.steps.sum()))
    with ThreadPoolExecutor(workers, thread_name_prefix="hdsgd") as pool:
        running: set[Future[int]] = {pool.submit(library.hdsgd_paths, arguments) for _ in range(workers)}
        try:
            pending = running
            while pending:
                _, pending = wait(pending, timeout=_POLL)
                if plan.progress is not None:
                    plan.progress(min(1.0, int(progress[0]) / total))
        finally:
            cancel[0] = 1  # an interrupt or error here stops the threads within one step
    if any(worker.result() == _NO_MEMORY for worker in running):
        raise MemoryError("no memory for the work space of one replica")
    return paths
