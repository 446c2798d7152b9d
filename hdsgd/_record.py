"""The file in which finished points of a long computation are kept, so that it goes on after a crash or Ctrl-C."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

__all__ = ["FRESH", "OtherRecordError", "Record", "Values"]

#: what a point gives: a number or array of each name; "value" where the function returns a bare number or array
Values: TypeAlias = dict[str, Any]

FRESH = "pass fresh=True to compute everything again, or write elsewhere"  # the remedy where there is this option


class OtherRecordError(ValueError):
    """A record of something else than what is to be computed, which is kept."""


class Record:
    """The file of finished points: a head that says what is computed, then one line of JSON for each point."""

    def __init__(self, path: Path, head: Mapping[str, Any], remedy: str = "choose another file, or delete it") -> None:
        if path.suffix != ".jsonl":
            raise ValueError(f"a sweep is recorded in a .jsonl file, got {path.name!r}; add this ending.")
        if not path.parent.is_dir():
            raise ValueError(f"the folder {str(path.parent)!r} does not exist; create it first.")
        self.path, self.head, self.remedy = path, head, remedy
        self._file: Any = None

    def read(self, count: int) -> dict[int, Values]:
        """The points that are there; opens the file to add more. A line cut off by a crash is dropped."""
        done: dict[int, Values] = {}
        kept = b""
        if self.path.exists():
            lines = self.path.read_bytes().splitlines(keepends=True)
            for number, line in enumerate(lines):
                try:
                    entry = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    entry = None
                cut_off = entry is None and json.dumps(self.head).encode().startswith(line)
                if number == 0 and entry != json.loads(json.dumps(self.head)) and not cut_off:
                    raise OtherRecordError(
                        f"{str(self.path)!r} is the record of another sweep, figure or study, of other settings or of "
                        f"another version; {self.remedy}."
                    )
                if not isinstance(entry, dict):
                    break
                kept += line
                if number and 0 <= entry.get("point", -1) < count and "values" in entry:
                    done[entry["point"]] = entry["values"]
        self._file = self.path.open("r+b" if self.path.exists() else "w+b")
        self._file.truncate(len(kept))
        self._file.seek(len(kept))
        if not kept:
            self._write(self.head)
        return done

    def add(self, point: int, outcome: Values | str) -> None:
        key = "failure" if isinstance(outcome, str) else "values"
        self._write({"point": point, key: outcome})

    def _write(self, entry: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
