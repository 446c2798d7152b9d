"""The limits of the machine: random numbers, fused multiply-adds and memory, on one core and on two."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

import hdsgd

from .clock import ROUNDS, Row, build

HERE = Path(__file__).parent
CSRC = Path(hdsgd.__file__).parent / "csrc"
LARGE, SMALL = 64 << 20, 256 << 10  # bytes of the arrays that are swept: beyond the core's own caches, and within


@dataclass(frozen=True)
class Limits:
    """Rates per second on one core, and how much two threads of multiply-adds do, relative to one.

    ``bandwidth`` and ``cache`` are bytes read and written in sweeps over a large and a small array.
    """

    normals: float
    fma_single: float
    fma_double: float
    bandwidth: float
    cache: float
    threads: float


@cache
def library() -> ctypes.CDLL:
    """Compile the clocks of machine.c after the program's random numbers."""
    texts = ["#include <math.h>\n#include <stddef.h>\n#include <stdint.h>\n#include <string.h>\n#define HDSGD_SINGLE\n"]
    texts += [(CSRC / name).read_text(encoding="utf-8") for name in ("random.h", "lanes.h")]
    texts.append((HERE / "machine.c").read_text(encoding="utf-8"))
    flags = ("-O3", "-march=native", "-fno-math-errno", "-fopenmp-simd", "-ffp-contract=fast", "-std=gnu11")
    made = build("\n".join(texts), *flags)
    for name in ("normals_single", "fma_single", "fma_double", "sweep"):
        counts = (ctypes.c_long,) * (2 if name == "sweep" else 1)
        getattr(made, name).restype = ctypes.c_double
        getattr(made, name).argtypes = (*counts, ctypes.c_void_p)
    return made


@cache
def limits(quick: bool = False) -> Limits:
    """Measure the limits of this machine (once)."""
    made = library()
    count = 3_000_000 if quick else 30_000_000
    array = np.ones(LARGE // 4, dtype=np.float32)

    def seconds(function: Callable[..., float], size: int) -> float:
        sink = ctypes.c_double(1e-3)
        return statistics.median(function(size, ctypes.addressof(sink)) for _ in range(ROUNDS))

    def wall(pool: ThreadPoolExecutor, threads: int) -> float:
        sinks = [ctypes.c_double(1e-3) for _ in range(threads)]
        begin = time.perf_counter()
        list(pool.map(lambda sink: made.fma_double(50 * count, ctypes.addressof(sink)), sinks))
        return time.perf_counter() - begin

    with ThreadPoolExecutor(2) as pool:
        turns = [(wall(pool, 1), wall(pool, 2)) for _ in range(ROUNDS)]

    def bandwidth(size: int) -> float:
        sweeps = [made.sweep(size // 4, LARGE // size, array.ctypes.data) for _ in range(ROUNDS)]
        return float(2 * size / statistics.median(sweeps))

    return Limits(
        normals=count / seconds(made.normals_single, count),
        fma_single=50 * count / seconds(made.fma_single, 50 * count),
        fma_double=50 * count / seconds(made.fma_double, 50 * count),
        bandwidth=bandwidth(LARGE),
        cache=bandwidth(SMALL),
        threads=statistics.median(2 * one / two for one, two in turns),
    )


def rows(quick: bool) -> list[Row]:
    """Return the limits as rows of the table."""
    found = limits(quick)
    group = "machine"
    return [
        Row(group, "one f32 normal", 1 / found.normals, than=f"{found.normals / 1e9:.2f}e9 normals/s"),
        Row(group, "one f32 multiply-add", 1 / found.fma_single, than=f"{2 * found.fma_single / 1e9:.0f} GFLOP/s"),
        Row(group, "one f64 multiply-add", 1 / found.fma_double, than=f"{2 * found.fma_double / 1e9:.0f} GFLOP/s"),
        Row(group, "one byte of a 64 MB sweep", 1 / found.bandwidth, than=f"{found.bandwidth / 1e9:.1f} GB/s"),
        Row(group, "one byte of a 256 KB sweep", 1 / found.cache, than=f"{found.cache / 1e9:.1f} GB/s"),
        Row(group, "two threads of f64 multiply-adds", 0.0, found.threads, "one thread, by the wall clock"),
    ]
