"""Reference data shared by the tests."""

import json
import os
import signal
from pathlib import Path

# Before numpy: threads that spin beside the tests' other processes only get in their way.
for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np  # noqa: E402
import pytest  # noqa: E402

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started by a shell in the background: Ctrl-C is under test
    signal.signal(signal.SIGINT, signal.default_int_handler)

DATA = Path(__file__).parent / "data"


def _json(name):
    return json.loads((DATA / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def integrals():
    """Twenty-digit values of the Gaussian expectations."""
    return _json("integrals.json")


@pytest.fixture(scope="session")
def risks():
    """Excess risks at random overlaps."""
    return _json("risks.json")


@pytest.fixture(scope="session")
def diffusions():
    """Exact covariances of one-step increments."""
    return _json("diffusion.json")


@pytest.fixture(scope="session")
def published():
    """Starts and exit times published with the escape experiment."""
    return _json("published_exit_times.json")


@pytest.fixture(scope="session")
def trajectories():
    """Settings and arrays of trajectories from published right-hand sides."""
    settings = _json("trajectories.json")
    with np.load(DATA / "trajectories.npz") as arrays:
        values = dict(arrays)
    return {
        name: (entry, {key.split("/")[1]: value for key, value in values.items() if key.startswith(f"{name}/")})
        for name, entry in settings.items()
    }


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache that the tests of a file share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def private(cache, tmp_path, monkeypatch):
    """A working folder and a cache of its own: tests of the command line save names and clear things."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HDSGD_CACHE_DIR", str(cache))
    monkeypatch.delenv("HDSGD_TRACEBACK", raising=False)
    monkeypatch.setattr("hdsgd._errors._warned", True)  # where there is no compiler; the line has a test of its own
