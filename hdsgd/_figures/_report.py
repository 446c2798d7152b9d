"""The report of a figure: what was run, and what was found against what is known, for people."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._frame import Claim
    from ._make import FigureResult

__all__ = ["markdown", "summary", "table"]

HEAD = ("claim", "paper", "expected", "ours", "± s.e.", "allowed", "verdict")
VERDICTS = ("agrees", "paper is wrong", "differs", "reported")
LONGEST = 60  # characters of an argument that is shown


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
        claims += [_row(_cells(claim)) for claim in result.claims]
        claims += [
            "",
            "A number agrees where it is within what is allowed of the expected value or, without one, of the paper's.",
            "",
        ]
    notes: dict[str, list[str]] = {}  # claims that share one
    for claim in result.claims:
        if claim.note:
            notes.setdefault(claim.note, []).append(claim.what)
    claims += [f"- {'; '.join(whats)}: {note}" for note, whats in notes.items()]
    ran = ["", "## What was run", "", _row(("job", "arguments")), _row(("---", "---"))]
    ran += [_row((name, _arguments(arguments))) for name, arguments in result.settings.items()]
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    command = f"hdsgd figure {result.name}{' --quick' if result.size == 'quick' else ''} --seed {result.seed}"
    ran += ["", f"Command: `{command}`. Seconds: {result.seconds:.1f}. Versions: {versions}.", ""]
    return "\n".join([*head, *claims, *ran])


def _cells(claim: Claim) -> tuple[str, ...]:
    paper = claim.paper if isinstance(claim.paper, str) else _number(claim.paper)
    return (
        claim.what,
        paper,
        _number(claim.expected),
        _number(claim.ours),
        _number(claim.error, 2),
        _number(claim.within, 2),
        claim.verdict,
    )


def _number(value: float | None, digits: int = 5) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.{digits}g}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _arguments(arguments: Any) -> str:
    shown = []
    for name, value in arguments.items():
        text = value if isinstance(value, str) else json.dumps(value)
        shown.append(f"{name} = {text if len(text) <= LONGEST else text[: LONGEST - 3] + '...'}")
    return ", ".join(shown)
