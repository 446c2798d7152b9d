"""hdsgd: exact high-dimensional dynamics of one-pass SGD in two-layer networks."""

from pathlib import Path as _Path

if not (
    _Path(__file__).parent / "derivations"
).is_dir():  # a bare checkout: derivations/ and generated/ lie beside hdsgd/
    __path__.append(str(_Path(__file__).parent.parent))

__version__ = "0.1.0"
