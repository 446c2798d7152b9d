"""The report of a figure: what was run, and what was found against what is known, for people."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._frame import Claim
    from ._make import FigureResult

__all__ = ["markdown", "summary", "table"]

HEAD = ("claim", "paper", "expected", "ours", "± s.e.", "allowed", "verdict")
READING = (
    "A number agrees where it is within what is allowed of the expected value or, without one, of the paper's. "
    "In brackets: the rule behind what is allowed; s.e. are standard errors."
)
VERDICTS = ("agrees", "paper is wrong", "differs", "reported")
LONGEST = 60  # characters of an argument that is shown
NUMBER = re.compile(r"-?\d+(?:[.:]\d+)?(?:e[-+]?\d+)?")


def summary(claims: Sequence[Claim]) -> str:
    """The verdicts in one line."""
    counts = {verdict: sum(claim.verdict == verdict for claim in claims) for verdict in VERDICTS}
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count) or "no claims"


def table(claims: Sequence[Claim]) -> str:
    """The claims, for a terminal."""
    rows = [HEAD, *(_cells(claim) for claim in claims)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    lines = []
    for row in rows:
        cells = (
            cell.ljust(width) if i in (0, len(HEAD) - 1) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(lines)


def markdown(result: FigureResult) -> str:
    """The report as Markdown."""
    head = [f"# {result.name}: {result.title}", "", f"Source: {result.source}.", ""]
    if result.size != "full":
        head += [f"Made in its {result.size} version; the published setting is that of the full one.", ""]
    picture = next((path.name for path in result.paths if path.suffix in (".png", ".svg")), None)
    if picture is not None:
        head += [f"![{result.name}]({picture})", ""]
    claims = [f"## Claims: {summary(result.claims)}", ""]
    if result.claims:
        claims += [_row(HEAD), _row(["---"] * len(HEAD))]
        claims += [_row(_cells(claim, rules=True)) for claim in result.claims]
        claims += ["", READING, ""]
    notes: dict[str, list[str]] = {}  # claims that share one
    for claim in result.claims:
        if claim.note:
            notes.setdefault(claim.note, []).append(claim.what)
    claims += [f"- {'; '.join(whats)}: {note}" for note, whats in notes.items()]
    ran = ["", "## What was run", "", _row(("job", "arguments")), _row(("---", "---"))]
    ran += [_row(row) for row in _kinds(result.settings)]
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    command = f"hdsgd figure {result.name}{' --quick' if result.size == 'quick' else ''} --seed {result.seed}"
    if result.size == "tiny":  # which the command line does not make
        command = f'hdsgd.figure("{result.name}", size="tiny", seed={result.seed})'
    ran += ["", f"Made by `{command}`. {_duration(result)}. Versions: {versions}.", ""]
    return "\n".join([*head, *claims, *ran])


def _duration(result: FigureResult) -> str:
    if not result.resumed:
        return f"Seconds: {result.seconds:.1f}"
    return (
        f"Resumed: {result.resumed} of {len(result.settings)} jobs were in the record of an earlier run; the others "
        f"and the drawing took {result.seconds:.1f} seconds"
    )


def _cells(claim: Claim, *, rules: bool = False) -> tuple[str, ...]:
    allowed = _number(claim.within, 2)
    if rules and claim.within is not None:
        allowed += f" ({claim.rule or ('fixed' if claim.error is None else '3 s.e.')})"
    paper = claim.paper if isinstance(claim.paper, str) else _number(claim.paper)
    return (
        claim.what,
        paper,
        _number(claim.expected),
        _number(claim.ours),
        _number(claim.error, 2),
        allowed,
        f"{claim.verdict} (differs from the paper)" if claim.off_paper else claim.verdict,
    )


def _number(value: float | None, digits: int = 5) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{value + 0.0:.{digits}g}"  # no negative zero


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _kinds(settings: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """One line for the jobs whose names differ in numbers only: how many, and their arguments."""
    kinds: dict[tuple[str, ...], list[str]] = {}
    for name, arguments in settings.items():
        kinds.setdefault((NUMBER.sub("…", name), *arguments), []).append(name)
    lines = []
    for (kind, *_), names in kinds.items():
        shown = [f"{it} = {_values([settings[job][it] for job in names])}" for it in settings[names[0]]]
        lines.append((names[0] if len(names) == 1 else f"{kind} ({len(names)} jobs)", ", ".join(shown)))
    return lines


def _values(values: Sequence[Any]) -> str:
    """A value that is common, all where they are few, else the range of numbers or the first text and how many."""
    texts = list(dict.fromkeys(value if isinstance(value, str) else json.dumps(value) for value in values))
    if len(texts) == 1:
        return texts[0] if len(texts[0]) <= LONGEST else texts[0][: LONGEST - 3] + "..."
    several = "{" + ", ".join(texts) + "}"
    if len(several) <= LONGEST:
        return several
    if all(isinstance(value, (int, float)) for value in values):
        return f"{min(values)} to {max(values)} ({len(texts)} values)"
    return f"{texts[0][: LONGEST - 20]}... and {len(texts) - 1} more"
