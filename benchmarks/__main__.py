"""The command: ``python -m benchmarks``, see the package's text."""

from __future__ import annotations

import argparse
import json
import math
import platform
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

import hdsgd

from . import __doc__ as description
from . import growth, machine, rhs, simulators
from .clock import Row

PARTS: dict[str, Callable[[bool], list[Row]]] = {
    "machine": machine.rows,
    "rhs": rhs.rows,
    "simulate": simulators.rows,
    "growth": growth.rows,
}


def duration(seconds: float) -> str:
    """Return a time with three digits and a unit."""
    if not seconds > 0:
        return "-"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-12:.3g} ps"


def line(row: Row) -> str:
    """Return one line of the table."""
    ratio = "" if row.ratio is None else f"{row.ratio:.3g} x"
    verdict = "" if row.aim is None or row.ratio is None else f"aim {row.aim:.3g}: {'met' if met(row) else 'MISSED'}"
    return f"  {row.what:<52} {duration(row.seconds):>9}  {ratio:>8}  {row.than:<34} {verdict}".rstrip()


def met(row: Row) -> bool:
    """Return whether a row reaches its aim."""
    return row.aim is None or (row.ratio is not None and row.ratio >= row.aim)


def plain(row: Row) -> dict[str, object]:
    """Return a row for JSON, which has no NaN."""
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value for key, value in asdict(row).items()
    }


def main() -> None:
    """Run the parts asked for and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="a minute instead of several, with more noise")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help="some parts only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to a file")
    parser.add_argument("--roofline", type=Path, metavar="FILE", help="draw the roofline (needs matplotlib)")
    arguments = parser.parse_args()
    cpu = platform.processor() or platform.machine()
    print(f"hdsgd {hdsgd.__version__}, Python {platform.python_version()}, numpy {np.__version__}, {cpu}")
    found: list[Row] = []
    group = ""
    for part in arguments.only:
        for row in PARTS[part](arguments.quick):
            if row.group != group:
                group = row.group
                print(f"\n{group}")
            print(line(row), flush=True)
            found.append(row)
    missed = [f"{row.group}: {row.what}" for row in found if not met(row)]
    print(f"\n{len(missed)} aims missed" + "".join(f"\n  {text}" for text in missed))
    if arguments.json:
        text = json.dumps({"cpu": cpu, "quick": arguments.quick, "rows": [plain(row) for row in found]}, indent=1)
        arguments.json.write_text(text + "\n", encoding="utf-8")
    if arguments.roofline:
        from .roofline import draw

        draw(arguments.roofline, arguments.quick)


if __name__ == "__main__":
    main()
