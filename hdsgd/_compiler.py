"""C at run time: one complete source text in, one loaded shared object out.

Objects are content-addressed: the name of a cached file is a hash of everything that could change it (source, flags,
compiler, CPU, C library), so a cached kernel is loaded without calling a compiler and files are never changed once they
are there. Each build happens in a temporary folder inside the cache and is moved into place by ``os.replace``: any
number of processes may build the same source at once, without a lock.

Environment: ``HDSGD_CC`` names the compiler (otherwise ``cc``, ``gcc`` or ``clang`` on the PATH), ``HDSGD_CACHE_DIR``
the cache folder (otherwise the platform's). Where the cache cannot be written or run from, a private temporary folder
takes its place for the life of the process.
"""

import atexit
import contextlib
import ctypes
import hashlib
import math
import os
import platform
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from ._errors import BackendWarning

_COMMON = ("-std=gnu11", "-fPIC", "-shared", "-ffp-contract=off")
_FAST = ("-O3", "-march=native", "-fno-math-errno", "-fopenmp-simd")
_BUILD_SECONDS = 300.0
_HUGE = 300_000  # characters: beyond them -O3 takes a compiler five times as long as -O1, for a code as fast
_RETRY_SECONDS = 86400.0  # a flag set that failed is tried again after a day: the failure may have been a full disk


class CompilerError(RuntimeError):
    """No C compiler here can build the source; the message says why and what to do."""


class _BuildError(Exception):
    """One flag set in one folder did not work; the next is tried."""


@dataclass(frozen=True)
class _FlagSet:
    name: str
    compile: tuple[str, ...]
    link: tuple[str, ...]


# In order of speed. The first is for glibc >= 2.35 with its vector library; "-z defs" makes a missing vector function
# an error of the build.
_FLAG_SETS = (
    _FlagSet("full", (*_COMMON, *_FAST, "-DHDSGD_VECTOR_MATH"), ("-Wl,-z,defs", "-lmvec", "-lm")),
    _FlagSet("native", (*_COMMON, *_FAST), ("-lm",)),
    _FlagSet("plain", (*_COMMON, "-O2"), ("-lm",)),
)

# The self-test of a flag set: vector functions agree with the C library's scalar ones, products are not contracted, NaN
# and infinity survive.
_PROBE = r"""
#include <math.h>
#ifdef HDSGD_VECTOR_MATH
__attribute__((simd("notinbranch"), const)) double asin(double);
__attribute__((simd("notinbranch"), const)) double erf(double);
__attribute__((simd("notinbranch"), const)) double exp(double);
#endif
#define N 32
void hdsgd_probe(const double *x, const double *y, double *out)
{
    for (long i = 0; i < N; i++) out[i] = asin(x[i]);
    for (long i = 0; i < N; i++) out[N + i] = erf(3.0 * x[i]);
    for (long i = 0; i < N; i++) out[2 * N + i] = exp(9.0 * x[i]);
    for (long i = 0; i < N; i++) out[3 * N + i] = x[i] * x[i] - y[i] * y[i];
    out[4 * N] = isnan(log(x[0] - 1.0 - y[0])) ? 1.0 : 0.0;
    out[4 * N + 1] = isinf(1.0 / (x[0] - y[0])) ? 1.0 : 0.0;
}
"""


@dataclass(frozen=True)
class _Toolchain:
    command: tuple[str, ...]
    identity: str


@cache
def _platform_identity() -> str:
    """CPU features and C library: what -march=native and dlopen depend on."""
    features = ""
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open() as lines:
        features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    if not features:  # no list of features: a cache shared between machines must not mix their objects
        features = f"{platform.processor()} {platform.node()}"
    with contextlib.suppress(ValueError, OSError, AttributeError):
        features += os.confstr("CS_GNU_LIBC_VERSION") or ""
    return f"{sys.platform} {platform.machine()} {features}"


def _toolchain() -> _Toolchain:
    """The compiler to use; raises CompilerError when there is none."""
    if os.name != "posix":
        raise CompilerError("compiled kernels need a POSIX system: use backend='numpy' (or 'auto') here.")
    chosen = os.environ.get("HDSGD_CC", "").strip()
    if chosen:
        command = (chosen,) if shutil.which(chosen) else tuple(shlex.split(chosen))
        path = shutil.which(command[0])
        if path is None:
            raise CompilerError(f"HDSGD_CC={chosen!r} is not an executable: name a C compiler there or unset it.")
    else:
        path = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
        if path is None:
            raise CompilerError("no C compiler (cc, gcc, clang) on the PATH: install one or name it in HDSGD_CC.")
        command = (path,)
    path = str(Path(path).absolute())  # builds run in another folder
    try:
        resolved = Path(path).resolve()
        info = resolved.stat()
    except OSError as error:
        raise CompilerError(f"the C compiler {path} cannot be read ({error}): name another in HDSGD_CC.") from None
    identity = f"{command[1:]} {resolved} {info.st_size} {info.st_mtime_ns} {_platform_identity()}"
    return _Toolchain((path, *command[1:]), identity)


def cache_dir() -> Path:
    """Folder of what hdsgd keeps between runs (it may not exist yet): ``HDSGD_CACHE_DIR`` or the platform's."""
    chosen = os.environ.get("HDSGD_CACHE_DIR")
    if chosen:
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "hdsgd"
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "hdsgd"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hdsgd"


def _objects() -> Path:
    """Folder of the compiled objects: a subfolder, since its mode is made 0700 and the cache may have other uses."""
    return cache_dir() / "objects"


def _private(folder: Path) -> bool:
    """Whether `folder` is there (made if it can be), the user's and closed to others, so that code may come from it."""
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        info = folder.stat()
        if os.name != "posix":  # a user's own folders are private there
            return True
        if info.st_uid != os.geteuid():
            return False
        if stat.S_IMODE(info.st_mode) & 0o077:
            folder.chmod(0o700)
    except (OSError, RuntimeError):
        return False
    return True


_lock = threading.RLock()
_loaded: dict[tuple[str, str], ctypes.CDLL] = {}
_broken: dict[str, str] = {}  # compilers that built nothing in this process, and why: not probed at every call
_temporary: dict[int, Path] = {}  # by process id: a forked child makes its own
_unusable: set[Path] = set()  # caches that a warning has named


def _temporary_folder() -> Path:
    pid = os.getpid()
    if pid not in _temporary:
        folder = Path(tempfile.mkdtemp(prefix="hdsgd-"))  # mode 0700

        def remove() -> None:
            if os.getpid() == pid:
                shutil.rmtree(folder, ignore_errors=True)

        atexit.register(remove)
        _temporary[pid] = folder
    return _temporary[pid]


def private_folder(name: str) -> Path:
    """Subfolder of the cache that only the user can write to, or of a temporary folder if the cache cannot be that."""
    folder = cache_dir() / name
    return folder if _usable(folder) else _temporary_folder() / name


def _usable(folder: Path) -> bool:
    """As `_private`; warns once that nothing is kept."""
    cache = cache_dir()
    if _private(folder):
        return True
    if cache not in _unusable:
        _unusable.add(cache)
        warnings.warn(
            f"the cache {str(cache)!r} cannot be written, so that every process derives and compiles anew; "
            "set HDSGD_CACHE_DIR to a folder of yours.",
            BackendWarning,
            stacklevel=3,
        )
    return False


def _key(source: str, toolchain: _Toolchain, flags: _FlagSet) -> str:
    parts = (source, toolchain.identity, " ".join(toolchain.command), " ".join(flags.compile), " ".join(flags.link))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:40]


def _open(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise _BuildError(f"the compiled object does not load: {error}") from None


def _run(command: list[str], folder: Path) -> tuple[int, str]:
    """Run a command to its end, and return its exit code and what it said.

    Not by ``subprocess.run``, which answers Ctrl-C only after waiting for the command a while.
    """
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its children end with it
        )
        end = time.monotonic() + _BUILD_SECONDS
        try:
            while process.poll() is None:
                if time.monotonic() > end:
                    raise TimeoutError
                time.sleep(0.002)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return process.returncode, (folder / "log").read_text(encoding="utf-8", errors="replace")


def _build(source: str, toolchain: _Toolchain, flags: _FlagSet, target: Path) -> None:
    """Compile `source` to `target`, in a temporary folder beside it."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=".build-", dir=target.parent))
    except OSError as error:
        raise _BuildError(f"{target.parent} cannot be written: {error.strerror}") from None
    try:
        (folder / "kernel.c").write_text(source, encoding="utf-8")
        code, said = _run([*toolchain.command, *flags.compile, "-o", "kernel.so", "kernel.c", *flags.link], folder)
        if code != 0:
            lines = [line.strip() for line in said.splitlines() if line.strip()]
            reason = next((line for line in lines if "error" in line), lines[-1] if lines else f"exit {code}")
            raise _BuildError(f"{toolchain.command[0]} says: {reason[:300]}")
        (folder / "kernel.so").replace(target)
    except TimeoutError:
        raise _BuildError(f"{toolchain.command[0]} took more than {_BUILD_SECONDS:.0f} s") from None
    except OSError as error:
        raise _BuildError(f"building in {target.parent} failed: {error}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _obtain(source: str, toolchain: _Toolchain, flags: _FlagSet) -> ctypes.CDLL:
    """The loaded object: from this process, the cache or a build, in a temporary folder if the cache is of no use."""
    key = _key(source, toolchain, flags)
    objects = _objects()
    held = _loaded.get((str(objects), key))
    if held is not None:
        return held
    library: ctypes.CDLL | None = None
    reason = _BuildError(f"{objects} is not a folder that only its user can write")
    folders = [objects] if _usable(objects) else []
    for folder in (*folders, None):
        target = (folder or _temporary_folder()) / f"{key}.so"
        try:
            if target.exists():
                try:
                    library = _open(target)
                    break
                except _BuildError:
                    pass  # a truncated file (disk was full, machine went down): build it again
            _build(source, toolchain, flags, target)
            library = _open(target)
            break
        except _BuildError as error:
            reason = error
    if library is None:
        raise reason
    _loaded[str(objects), key] = library
    return library


def _passes(library: ctypes.CDLL) -> bool:
    """The self-test: see the comment at the probe's source."""
    n = 32
    points = [(2 * i - n + 1) / (n - 1) for i in range(n)]
    x, y, out = (ctypes.c_double * n)(*points), (ctypes.c_double * n)(*points), (ctypes.c_double * (4 * n + 2))()
    library.hdsgd_probe.restype = None
    library.hdsgd_probe(x, y, out)
    expected = (
        [math.asin(s) for s in points] + [math.erf(3.0 * s) for s in points] + [math.exp(9.0 * s) for s in points]
    )
    expected += [0.0] * n + [1.0, 1.0]
    return all(abs(value - exact) <= 4e-15 * max(1.0, abs(exact)) for value, exact in zip(out, expected, strict=True))


def _working(toolchain: _Toolchain, reasons: list[str]) -> Iterator[_FlagSet]:
    """The flag sets that pass the self-test, best first; why others do not is appended to `reasons`.

    Failures are remembered once a slower set works: if none does, what is missing may be installed at any moment.
    """
    failures: dict[Path, str] = {}
    for flags in _FLAG_SETS:
        marker = _objects() / f"{_key(_PROBE, toolchain, flags)}.failed"
        with contextlib.suppress(OSError):
            if time.time() - marker.stat().st_mtime < _RETRY_SECONDS:
                reasons.append(marker.read_text(encoding="utf-8"))
                continue
        try:
            works = _passes(_obtain(_PROBE, toolchain, flags))
            failure = f"{toolchain.command[0]} with the flag set {flags.name!r} fails the self-test"
        except _BuildError as error:
            works, failure = False, str(error)
        if not works:
            reasons.append(failure)
            failures[marker] = failure
            continue
        for path, text in failures.items():
            with contextlib.suppress(OSError):
                path.write_text(text, encoding="utf-8")
        failures.clear()
        yield flags


def load(source: str) -> ctypes.CDLL:
    """Compile a complete C translation unit and load it.

    Parameters
    ----------
    source : str
        C text. ``HDSGD_VECTOR_MATH`` is defined when glibc's vector library is there: the source may then declare
        ``__attribute__((simd("notinbranch"), const)) double asin(double);`` (also ``erf``, ``exp``).

    Returns
    -------
    ctypes.CDLL
        The same object for the same source within one process.

    Raises
    ------
    CompilerError
        If there is no compiler, or none of the flag sets compiles, loads and passes its self-test.
    """
    toolchain = _toolchain()
    reasons: list[str] = []
    with _lock:
        if toolchain.identity in _broken:
            raise CompilerError(_broken[toolchain.identity])
        works = False
        for flags in _working(toolchain, reasons):
            works = True
            try:
                lighter = replace(flags, compile=(*flags.compile, "-O1")) if len(source) > _HUGE else flags
                return _obtain(source, toolchain, lighter)
            except _BuildError as error:
                reasons.append(str(error))
        message = (
            f"no C kernel could be built ({reasons[-1]}): name another compiler in HDSGD_CC or use backend='numpy'."
        )
        if not works:
            _broken[toolchain.identity] = message
    raise CompilerError(message)


def describe() -> dict[str, Any]:
    """What ``hdsgd doctor`` shows: compiler, flag set, cache; ``error`` is None when kernels can be built."""
    objects = _objects()
    report: dict[str, Any] = {
        "compiler": None,
        "version": None,
        "flag_set": None,
        "flags": None,
        "cache": str(cache_dir()),
        "writable": _private(objects) and os.access(objects, os.W_OK | os.X_OK),
        "error": None,
    }
    try:
        toolchain = _toolchain()
    except CompilerError as error:
        report["error"] = str(error)
    else:
        report["compiler"] = " ".join(toolchain.command)
        with contextlib.suppress(OSError, subprocess.SubprocessError, IndexError):
            asked = subprocess.run(
                [*toolchain.command, "--version"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=20,
                check=False,
            )
            report["version"] = asked.stdout.decode(errors="replace").splitlines()[0].strip()
        reasons: list[str] = []
        with _lock:
            flags = next(_working(toolchain, reasons), None)
        if flags is None:
            report["error"] = f"no flag set works: {reasons[-1]}"
        else:
            report["flag_set"], report["flags"] = flags.name, " ".join((*flags.compile, *flags.link))
    files = _files()
    report["objects"] = sum(path.suffix == ".so" for path in files)
    report["bytes"] = sum(_size(path) for path in files)
    return report


def _files() -> list[Path]:
    with contextlib.suppress(OSError):
        return [path for path in _objects().iterdir() if path.suffix in (".so", ".failed")]
    return []


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0


def clear_cache() -> int:
    """Remove the compiled objects (loaded ones stay usable in their process) and return how many there were."""
    removed = 0
    for path in _files():
        with contextlib.suppress(OSError):
            path.unlink()
            removed += path.suffix == ".so"
    with contextlib.suppress(OSError):
        for folder in _objects().glob(".build-*"):
            shutil.rmtree(folder, ignore_errors=True)
    return removed
