"""Run the simulators in C on all cores, staying interruptible."""

from __future__ import annotations

import ctypes
import os
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _compiler
from ._kernel import Kernel
from ._paths import BLOW_UP, Paths, Setup, frame
from ._random import CHAIN, WEIGHTS, words

__all__ = ["load", "run", "threads"]

_CSRC = Path(__file__).parent / "csrc"
_POLL = 0.05  # seconds between looks at signals and progress while C runs
_SOURCES = {"overlaps": "chain.c", "weights": "weights.c"}
_PURPOSES = {"overlaps": CHAIN, "weights": WEIGHTS}

_int, _double, _pointer = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p


class _Run(ctypes.Structure):
    """The struct hdsgd_run of csrc/run.h, field by field."""

    _fields_ = (
        *((name, _int) for name in ("p", "k", "r", "d", "n_steps", "n_store", "start_stride", "a_stride")),
        *((name, _double) for name in ("rate", "noise", "huge", "stop")),
        *((name, ctypes.c_int32) for name in ("stop_kind", "spherical")),
        *((name, _pointer) for name in ("store", "P", "L", "a_star", "a", "B", "C", "W_star", "W", "words")),
        *((name, _pointer) for name in ("Q", "M", "risk", "last_Q", "last_M", "last_risk")),
        *((name, _pointer) for name in ("exit_step", "status", "cancel", "progress")),
    )


def source(kernel: Kernel, method: str) -> str:
    """The C text of one simulator for one pair of activations."""
    parts = [(_CSRC / name).read_text(encoding="utf-8") for name in ("random.h", "run.h", _SOURCES[method])]
    return "\n".join((kernel.pointwise_c, *parts[:2], kernel.risk_c, parts[2]))


def load(kernel: Kernel, method: str) -> Any:
    """The C function that simulates; raises `CompilerError` when it cannot be built."""
    library = _compiler.load(source(kernel, method))
    function = library.hdsgd_chain if method == "overlaps" else library.hdsgd_weights
    function.argtypes, function.restype = (ctypes.POINTER(_Run), _int, _int), ctypes.c_int
    return function


def threads() -> int:
    """Threads to use: ``HDSGD_THREADS``, or the cores this process may run on."""
    asked = os.environ.get("HDSGD_THREADS", "").strip()
    if asked:
        if not asked.isdecimal() or int(asked) < 1:
            raise ValueError(f"HDSGD_THREADS must be a positive integer, got {asked!r}; unset it to use all cores.")
        return int(asked)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run(setup: Setup, method: str, function: Any) -> Paths:
    """Simulate all replicas; `function` is from `load`."""
    paths = Paths(setup)
    held: list[NDArray[Any]] = []  # arrays that C points into

    def at(array: NDArray[Any], dtype: Any = np.float64) -> int:
        held.append(np.ascontiguousarray(array, dtype=dtype))
        return int(held[-1].ctypes.data)

    L, B, C = frame(setup.Q, setup.M, setup.P)
    if setup.spherical:  # on the sphere exactly, not up to the rounding of the start
        norms = np.sqrt((B**2).sum(axis=-1, keepdims=True) + (C**2).sum(axis=-1, keepdims=True))
        B, C = B / norms, C / norms
    if method == "weights":
        assert setup.W is not None
        paths.W = np.array(np.broadcast_to(setup.W, (setup.replicas, setup.p, setup.d)), order="C")
    cancel, progress = np.zeros(1, dtype=np.int32), np.zeros(1, dtype=np.int64)
    stop = setup.stop
    arguments = _Run(
        p=setup.p,
        k=setup.k,
        r=L.shape[1],
        d=setup.d,
        n_steps=setup.n_steps,
        n_store=setup.store.size,
        start_stride=int(setup.Q.shape[0] > 1),
        a_stride=int(setup.a.shape[0] > 1),
        rate=setup.rate,
        noise=setup.noise,
        huge=BLOW_UP,
        stop=0.0 if stop is None else 1.0 - stop.T if stop.T is not None else stop.level,
        stop_kind=0 if stop is None else 1 if stop.T is not None else 2,
        spherical=int(setup.spherical),
        store=at(setup.store, np.int64),
        P=at(setup.P),
        L=at(L),
        a_star=at(setup.a_star),
        a=at(setup.a),
        B=at(B),
        C=at(C),
        W_star=None if setup.W_star is None else at(setup.W_star),
        W=None if paths.W is None else paths.W.ctypes.data,
        words=at(words(setup.seed, _PURPOSES[method], 0, setup.replicas), np.uint64),
        **{name: getattr(paths, name).ctypes.data for name in ("Q", "M", "risk", "last_Q", "last_M", "last_risk")},
        **{name: getattr(paths, name).ctypes.data for name in ("exit_step", "status")},
        cancel=cancel.ctypes.data,
        progress=progress.ctypes.data,
    )
    _share(setup, function, arguments, cancel, progress)
    return paths


def _share(setup: Setup, function: Any, arguments: _Run, cancel: NDArray[Any], progress: NDArray[Any]) -> None:
    """Give the replicas to threads in small portions: C releases the interpreter lock, this one waits for signals."""
    workers = min(threads(), setup.replicas)
    portion = max(1, min(64, setup.replicas // (8 * workers)))
    portions = iter(range(0, setup.replicas, portion))
    guard = threading.Lock()

    def work() -> None:
        while not cancel[0]:
            with guard:
                first = next(portions, None)
            if first is None:
                return
            if function(arguments, first, min(portion, setup.replicas - first)) == 2:
                raise MemoryError("no memory for the work space of one replica")

    total = max(1, setup.replicas * setup.n_steps)
    with ThreadPoolExecutor(workers, thread_name_prefix="hdsgd") as pool:
        try:
            pending: set[Future[None]] = {pool.submit(work) for _ in range(workers)}
            while pending:
                done, pending = wait(pending, timeout=_POLL, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                if setup.progress is not None:
                    setup.progress(min(1.0, int(progress[0]) / total))
        finally:
            cancel[0] = 1  # an interrupt or error here stops the threads within one block of steps
