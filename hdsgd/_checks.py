"""Checks of arguments shared by all public functions, and values made of read-only arrays.

Every refusal is a ValueError or TypeError whose one sentence names the argument, what was given and the remedy.
"""

from __future__ import annotations

import difflib
import math
import numbers
import operator
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "array",
    "boolean",
    "callback",
    "choice",
    "file_path",
    "fits",
    "frozen",
    "index",
    "integer",
    "real",
    "restore",
    "same",
    "time_grid",
]

Array = NDArray[np.float64]

LARGEST = 2**53  # integers above are not exact as floating-point numbers
ROUNDING = 8 * np.finfo(np.float64).eps  # that times may lie beyond t_max: np.arange(0, .35, .1)[-1] > .3


def real(
    name: str, value: object, *, low: float = -math.inf, high: float = math.inf, strict: bool = False, hint: str = ""
) -> float:
    """A finite float with low <= value <= high (both excluded when ``strict``)."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a real number, got {_shown(value)}{_tail(hint)}")
    try:
        number = float(value)
    except OverflowError:  # an integer beyond 1e308
        number = math.inf
    inside = (low < number < high) if strict else (low <= number <= high)
    if not (math.isfinite(number) and inside):
        raise ValueError(f"{name} must be {_interval(low, high, strict)}, got {number:g}{_tail(hint)}")
    return number


def integer(name: str, value: object, *, low: int = 1, hint: str = "") -> int:
    """An integer in [low, 2**53]; floats with an integral value are accepted (d=1e4)."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be an integer, got {_shown(value)}{_tail(hint)}")
    number = int(value) if isinstance(value, numbers.Integral) else _whole(name, float(value), hint)
    if number < low:
        raise ValueError(f"{name} must be at least {low}, got {number}{_tail(hint)}")
    if number > LARGEST:
        about = f"1e{math.log10(number):.0f}"  # it may have thousands of digits, or be too large for a float
        raise ValueError(f"{name} must be at most 2**53 = {LARGEST}, got about {about}; decrease {name}.")
    return number


def index(name: str, value: object, size: int, what: str) -> int:
    """A position among ``size`` things, counted from 0 or, if negative, from the end; ``what`` says what they are."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {_shown(value)}; pass for example {name}=0.") from None
    if not -size <= number < size:
        raise IndexError(f"{name}={number} does not exist; there are {size} {what}, counted from 0.")
    return number


def callback(name: str, value: object) -> Callable[[float], None] | None:
    """None or something to call with a fraction."""
    if value is None or callable(value):
        return value
    raise TypeError(
        f"{name} must be None or a function of the fraction that is done, got {_shown(value)}; leave {name} out."
    )


def file_path(value: object, example: str) -> Path:
    """The path of a file."""
    if not isinstance(value, (str, os.PathLike)) or isinstance(os.fspath(value), bytes):
        raise TypeError(f"path must be the name of a file, got {_shown(value)}; pass for example {example!r}.")
    if not os.fspath(value):
        raise ValueError(f"path must be the name of a file, got an empty one; pass for example {example!r}.")
    return Path(value)


def fits(needed: float, what: str, remedy: str) -> None:
    """Refuse arrays larger than the machine's memory: the system might end the process instead of saying so."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return
    if needed > memory:
        raise ValueError(f"{what} need {needed / 2**30:.3g} GiB and this machine has {memory / 2**30:.3g}; {remedy}.")


def boolean(name: str, value: object) -> bool:
    """True or False; a string such as "False" is refused rather than taken as true."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise TypeError(f"{name} must be True or False, got {_shown(value)}.")


def choice(name: str, value: object, options: Iterable[str]) -> str:
    """One of the options, with a near miss suggested."""
    options = list(options)
    if isinstance(value, str) and value in options:
        return value
    listed = ", ".join(repr(option) for option in options)
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {listed}, got {_shown(value)}.")
    near = difflib.get_close_matches(value.lower(), [option.lower() for option in options], n=1)
    guess = next((f" Did you mean {option!r}?" for option in options if near and option.lower() == near[0]), "")
    raise ValueError(f"{name} must be one of {listed}, got {value!r}.{guess}")


def array(name: str, value: ArrayLike, *, ndim: tuple[int, ...], shape: str) -> Array:
    """A finite float64 copy with an allowed number of axes; ``shape`` describes it in the messages."""
    if isinstance(value, np.ma.MaskedArray) and np.any(np.ma.getmaskarray(value)):
        raise ValueError(f"{name} has masked entries; fill them first, for example with .filled().")
    try:
        raw = np.asarray(value)
    except ValueError:
        raise ValueError(f"{name} must be a rectangular array of shape {shape}; its rows differ in length.") from None
    if raw.dtype.kind not in "biufO":
        raise TypeError(f"{name} must be a real array of shape {shape}, got dtype {raw.dtype}.")
    try:
        out = np.array(raw, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a real array of shape {shape}, got {_shown(value)}.") from None
    if out.ndim not in ndim or 0 in out.shape:
        raise ValueError(f"{name} must have shape {shape}, got {out.shape}.")
    if not np.all(np.isfinite(out)):
        raise ValueError(f"{name} has entries that are not finite (NaN or infinity); check how it was computed.")
    return out


def time_grid(t_max: object, times: ArrayLike | None, *, count: int | None = 201) -> tuple[float, Array | None]:
    """Check the final time and the output times.

    Parameters
    ----------
    t_max : float
        Final time t = nu*gamma/(p*d), finite and >= 0.
    times : array_like or None
        Increasing times in [0, t_max], where rounding may exceed t_max (it is clipped); None stands for ``count``
        equal ones.
    count : int or None
        None leaves ``times=None`` to the solver's own steps.

    Returns
    -------
    t_max : float
    times : ndarray or None
    """
    last = real("t_max", t_max, low=0.0, hint="time t = nu*gamma/(p*d) runs forward, pass a t_max >= 0")
    if times is None:
        if count is None:
            return last, None
        return last, np.linspace(0.0, last, count) if last > 0.0 else np.zeros(1)
    grid = array("times", times, ndim=(1,), shape="(n,)")
    grid[(grid > last) & (grid <= last * (1.0 + ROUNDING))] = last
    if np.any(np.diff(grid) <= 0.0):
        raise ValueError("times must be strictly increasing; sort them first, for example with numpy.unique(times).")
    if grid[0] < 0.0 or grid[-1] > last:
        raise ValueError(
            f"times must lie in [0, t_max] = [0, {last:g}], got [{grid[0]:g}, {grid[-1]:g}]; "
            "increase t_max or drop the times outside."
        )
    return last, grid


def frozen(value: NDArray[Any]) -> NDArray[Any]:
    """A read-only view."""
    view = value.view()
    view.flags.writeable = False
    return view


def same(first: Any, second: Any) -> bool:
    """Equality by value of two instances of one dataclass (or of arrays, numbers, containers); NaN equals NaN."""
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        one, other = np.asarray(first), np.asarray(second)
        if one.shape != other.shape or one.dtype.kind != other.dtype.kind:
            return False
        return bool(np.array_equal(one, other, equal_nan=one.dtype.kind in "fc"))
    if isinstance(first, float) and isinstance(second, float):
        return first == second or (math.isnan(first) and math.isnan(second))
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(same(a, b) for a, b in zip(first, second, strict=True))
    return bool(first == second)


def same_fields(first: Any, second: Any) -> bool:
    """Equality by value, field by field, of two instances of one dataclass."""
    return all(same(getattr(first, f.name), getattr(second, f.name)) for f in fields(first))


def restore(instance: object, state: Mapping[str, Any]) -> None:
    """``__setstate__`` of a frozen dataclass with arrays: pickling drops the read-only flag, this puts it back."""
    for name, value in state.items():
        object.__setattr__(instance, name, frozen(value) if isinstance(value, np.ndarray) else value)


def _whole(name: str, value: float, hint: str) -> int:
    if not value.is_integer():  # infinity and NaN included
        raise ValueError(f"{name} must be an integer, got {value:g}{_tail(hint)}")
    return int(value)


def _shown(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"


def _tail(hint: str) -> str:
    """The rest of a sentence; a hint keeps its case, since gamma is not Gamma."""
    return f"; {hint.rstrip('.')}." if hint else "."


def _interval(low: float, high: float, strict: bool) -> str:
    if low == -math.inf and high == math.inf:
        return "finite"
    if high == math.inf:
        return f"finite and {'>' if strict else '>='} {low:g}"
    left, right = ("(", ")") if strict else ("[", "]")
    return f"in {left}{low:g}, {high:g}{right}"
