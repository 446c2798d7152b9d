"""Run the simulators in C on all cores, staying interruptible."""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _compiler
from ._checkpoint import Checkpoint, fingerprint
from ._kernel import Kernel
from ._paths import BLOW_UP, Paths, Setup, copies, frame
from ._random import CHAIN, WEIGHTS, words

__all__ = ["Simulator", "load", "run", "threads"]

_CSRC = Path(__file__).parent / "csrc"
_POLL = 0.05  # seconds between looks at signals and progress while C runs
_PATIENCE = 0.04  # seconds that an interrupt waits for the end of the current steps
_SOURCES = {
    "overlaps": ("chain_step.h", "chain_exit.h", "chain_one.h", "chain.c"),
    "weights": ("lanes.h", "sweep.h", "weights.c"),
}
_PURPOSES = {"overlaps": CHAIN, "weights": WEIGHTS}

# As in csrc/run.h: what *cancel asks for, and what a simulator returns.
_PAUSE, _ABANDON = 1, 2
_PAUSED, _NO_MEMORY, _ABANDONED = 1, 2, 3
_LOST = (_NO_MEMORY, _ABANDONED)

_LAST = ("last_Q", "last_M", "last_a", "last_risk")

_int, _double, _pointer = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p


class _Run(ctypes.Structure):
    """The struct hdsgd_run of csrc/run.h, field by field."""

    _fields_ = (
        *((name, _int) for name in ("p", "k", "r", "d", "columns", "batch", "replicas", "n_steps", "n_store")),
        *((name, _int) for name in ("pieces", "until", "start_stride", "a_stride", "state_size")),
        *((name, _double) for name in ("noise", "decay", "ratio", "huge", "stop")),
        *((name, ctypes.c_int32) for name in ("stop_kind", "spherical")),
        *((name, _pointer) for name in ("store", "piece_end", "rates")),
        *((name, _pointer) for name in ("P", "L", "a_star", "a", "B", "C", "W_star", "W", "parabolas")),
        *((name, _pointer) for name in ("words", "state")),
        *((name, _pointer) for name in ("Q", "M", "a_out", "risk", "last_Q", "last_M", "last_a", "last_risk")),
        *((name, _pointer) for name in ("exit_step", "status", "queue", "cancel", "progress")),
    )


@dataclass(frozen=True)
class Simulator:
    """A compiled simulator: `advance` takes replicas until none is left, `state_size` is in bytes per replica."""

    method: str
    text: str
    advance: Any
    state_size: Any


def abreast(p: int, k: int) -> bool:
    """Whether the chain runs replicas abreast: by the size only, so that a path is always the same."""
    return p <= 4 and p + k <= 12


def source(kernel: Kernel, method: str, precision: str = "double", together: bool = False) -> str:
    """The C text of one simulator for one pair of activations."""
    names = ("random.h", "run.h", *_SOURCES[method])
    if method == "overlaps":
        names = ("random.h", "run.h", "abreast.h" if together else "alone.h", *_SOURCES[method])
    random, run, *own = [(_CSRC / name).read_text(encoding="utf-8") for name in names]
    chosen = "#define HDSGD_SINGLE\n" if precision == "single" else ""
    return "\n".join((kernel.pointwise_c, random, run, kernel.risk_c, chosen, *own))


def load(kernel: Kernel, method: str, precision: str, p: int, k: int) -> Simulator:
    """Build the simulator of p students and k teachers; raises `CompilerError` when that fails."""
    text = source(kernel, method, precision, abreast(p, k))
    library = _compiler.load(text)
    advance = library.hdsgd_chain if method == "overlaps" else library.hdsgd_weights
    advance.argtypes, advance.restype = (ctypes.POINTER(_Run),), ctypes.c_int
    library.hdsgd_state_size.argtypes, library.hdsgd_state_size.restype = (ctypes.POINTER(_Run),), _int
    return Simulator(method, text, advance, library.hdsgd_state_size)


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


def run(setup: Setup, simulator: Simulator, checkpoint: Checkpoint | None = None, until: int | None = None) -> Paths:
    """Simulate all replicas, from where `checkpoint` left them; only up to step `until`, if it is given."""
    paths = Paths(setup)
    held: list[NDArray[Any]] = []  # arrays that C points into

    def at(array: ArrayLike, dtype: Any = np.float64) -> int:
        held.append(np.ascontiguousarray(array, dtype=dtype))
        return int(held[-1].ctypes.data)

    L, B, C = frame(setup.Q, setup.M, setup.P, setup.d)
    if setup.spherical:  # on the sphere exactly, not up to the rounding of the start
        norms = np.sqrt((B**2).sum(axis=-1, keepdims=True) + (C**2).sum(axis=-1, keepdims=True))
        B, C = B / norms, C / norms
    polynomials = parabolas(setup.kernel)
    if simulator.method == "weights":
        assert setup.W is not None
        paths.W = copies(setup.W, setup.replicas)
    flags = _Flags()
    stop = setup.stop
    arguments = _Run(
        p=setup.p,
        k=setup.k,
        r=L.shape[1],
        d=setup.d,
        columns=C.shape[-1],
        batch=setup.batch,
        replicas=setup.replicas,
        n_steps=setup.n_steps,
        n_store=setup.store.size,
        until=setup.n_steps if until is None else until,
        start_stride=int(setup.Q.shape[0] > 1),
        a_stride=int(setup.a.shape[0] > 1),
        pieces=len(setup.clock.unit),
        noise=setup.noise,
        decay=setup.decay,
        ratio=setup.ratio,
        huge=BLOW_UP,
        stop=0.0 if stop is None else 1.0 - stop.T if stop.T is not None else stop.level,
        stop_kind=0 if stop is None else 1 if stop.T is not None else 2,
        spherical=int(setup.spherical),
        store=at(setup.store, np.int64),
        piece_end=at((*setup.clock.first[1:], np.iinfo(np.int64).max), np.int64),
        rates=at(setup.clock.unit),
        P=at(setup.P),
        L=at(L),
        a_star=at(setup.a_star),
        a=at(setup.a),
        B=at(B),
        C=at(C),
        W_star=None if setup.W_star is None else at(setup.W_star),
        W=None if paths.W is None else paths.W.ctypes.data,
        parabolas=None if polynomials is None else at(polynomials),
        words=at(words(setup.seed, _PURPOSES[simulator.method], 0, setup.replicas), np.uint64),
        **{name: getattr(paths, name).ctypes.data for name in ("Q", "M", "risk", *_LAST, "exit_step", "status")},
        a_out=paths.a.ctypes.data,
        **{name: getattr(flags, name).ctypes.data for name in ("queue", "cancel", "progress")},
    )
    size = int(simulator.state_size(arguments))
    memory = np.zeros(setup.replicas * size + 64, dtype=np.uint8)
    states = memory[-memory.ctypes.data % 64 :][: setup.replicas * size].reshape(setup.replicas, size)
    arguments.state_size, arguments.state = size, states.ctypes.data
    save = None
    if checkpoint is not None:
        kept = {name: getattr(paths, name) for name in ("Q", "M", "a", "risk", *_LAST, "exit_step", "status")}
        kept |= {"states": states} | ({} if paths.W is None else {"W": paths.W})
        saved = checkpoint.begin(setup.seed, _identity(setup, simulator))
        for name, array in (saved or {}).items():
            kept[name][...] = array
        flags.progress[0] = states[:, 8:16].copy().view(np.int64).sum()  # the member `step` of a hdsgd_replica
        save = _Saving(checkpoint, kept)
    _share(setup, simulator, arguments, flags, save)
    return paths


class _Flags:
    """What threads in C and the one in Python share."""

    def __init__(self) -> None:
        self.queue, self.cancel, self.progress = np.zeros(1, np.int64), np.zeros(1, np.int32), np.zeros(1, np.int64)


@dataclass(frozen=True)
class _Saving:
    checkpoint: Checkpoint
    arrays: dict[str, NDArray[Any]]

    def __call__(self) -> None:
        self.checkpoint.save(self.arrays)


def _identity(setup: Setup, simulator: Simulator) -> str:
    """A hash of all that decides what a run is, and of what its states mean."""
    parts = [getattr(setup, field.name) for field in fields(setup) if field.name not in ("kernel", "progress")]
    return fingerprint(simulator.text, *parts)


def parabolas(kernel: Kernel) -> NDArray[np.float64] | None:
    """Coefficients (2, 3) of 1, x and x^2 if that is all there is to student and teacher, else None.

    The risk of such a pair is followed down to the square of the rounding error.
    """
    found = []
    for function in (kernel.sigma, kernel.sigma_star):
        below, at, above = function(np.array([-1.0, 0.0, 1.0]))
        found.append([at, 0.5 * (above - below), 0.5 * (above + below) - at])
        x = np.linspace(-9.0, 9.0, 60)
        values = function(x)
        gap = np.abs(values - np.polynomial.polynomial.polyval(x, found[-1]))
        if not (gap <= 1e-13 * np.abs(values).max()).all():
            return None
    return np.array(found)


def _share(setup: Setup, simulator: Simulator, arguments: _Run, flags: _Flags, save: _Saving | None) -> None:
    """Let threads take the replicas: C releases the interpreter lock, this one waits for signals.

    To save, the threads write their replicas' states back and begin anew.
    """
    total = max(1, setup.replicas * setup.n_steps)
    kept = 0.0 if save is None or not save.checkpoint.path.exists() else int(flags.progress[0]) / total
    with ThreadPoolExecutor(threads(), thread_name_prefix="hdsgd") as pool:
        while True:
            flags.queue[0] = flags.cancel[0] = 0
            workers: set[Future[int]] = {
                pool.submit(simulator.advance, arguments) for _ in range(min(threads(), setup.replicas))
            }
            try:
                while wait(workers, timeout=_POLL).not_done:
                    if setup.progress is not None:
                        setup.progress(min(1.0, int(flags.progress[0]) / total))
                    if save is not None and save.checkpoint.due():
                        flags.cancel[0] = _PAUSE
            except BaseException as error:
                flags.cancel[0] = _PAUSE
                if wait(workers, timeout=_PATIENCE).not_done:
                    flags.cancel[0] = _ABANDON
                elif save is not None and not any(worker.result() in _LOST for worker in workers):
                    save()
                    kept = int(flags.progress[0]) / total
                if save is not None and kept:
                    path = save.checkpoint.path
                    error.add_note(f"{path} keeps the run, {kept:.1%} done: the same call goes on with it")
                raise
            results = {worker.result() for worker in workers}
            if _NO_MEMORY in results:
                raise MemoryError("no memory for the work space of one replica")
            if save is not None:
                save()
                kept = int(flags.progress[0]) / total
            if _PAUSED not in results or not flags.cancel[0]:
                return
