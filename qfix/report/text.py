"""The text forms: pages for people, in the words that they will search for."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from qfix.problems import Severity
from qfix.report.rows import flags, guest_ranges, layer_title, wording

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from qfix.image import Image
    from qfix.problems import Findings

FEW = 3
FEW_RANGES = 8
FEW_LAYERS = 4
COUNTED = (
    "host cluster",
    "L1 entry",
    "L2 entry",
    "L2 table",
    "L1 table",
    "refcount block",
    "refcount table entry",
    "snapshot",
)
"""What `first` and `count` of a finding number; of other structures there is one a row."""
COLORS = {
    Severity.NOTE: "blue",
    Severity.WARNING: "yellow",
    Severity.LEAK: "yellow",
    Severity.ERROR: "red",
}


def human(size: int) -> str:
    """Return a size in bytes with a binary unit, as `64 KiB`."""
    value, units = float(size), ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.2f}".rstrip("0").rstrip(".") + f" {units[0]}"


def pairs(rows: Iterable[tuple[str, object]]) -> Iterator[str]:
    """Yield `name: value` lines, values aligned."""
    listed = [(name, str(value)) for name, value in rows]
    width = max((len(name) for name, _ in listed), default=0) + 1
    for name, value in listed:
        yield f"{name + ':':<{width}} {value}"


def kind_lines(
    findings: Findings, image: Image | None, limit: int | None, *, show_flags: bool = False
) -> Iterator[str]:
    """Yield a heading and the findings of one kind, at most *limit* of them."""
    problem = findings.problem
    total = len(findings) + findings.dropped
    units = findings.units if problem.structure in COUNTED else total
    noun = problem.structure if units == 1 else _plural(problem.structure)
    head = f"{problem.code} {problem.name} ({problem.severity.value}): {units} {noun}"
    yield click.style(head, fg=COLORS[problem.severity], bold=True)
    for row in findings.rows(limit):
        spelled = f"  {flags(row)}" if show_flags and flags(row) else ""
        run = _run(row) if problem.structure in COUNTED else ""
        yield f"  {wording(problem, row, image)}{run}{spelled}"
        yield from _places(row, image, limit)
    rest = total - min(len(findings), total if limit is None else limit)
    if rest:
        yield f"  ... and {rest} more like this"


def _plural(noun: str) -> str:
    return noun[:-1] + "ies" if noun.endswith("y") else noun + "s"


def _run(row: dict[str, Any]) -> str:
    return f" (and the next {row['count'] - 1})" if row["count"] > 1 else ""


def _places(row: dict[str, Any], image: Image | None, limit: int | None) -> Iterator[str]:
    cells = []
    if row.get("host") is not None:
        cells.append(f"file offset {row['host']:#x}")
    if "l1_index" in row:
        cells.append(f"L1 entry {row['l1_index']}, L2 entry {row['index']}")
    if cells:
        yield f"      at {', '.join(cells)}"
    layers: dict[tuple[int, int], list[int]] = {}
    for layer, start, length in guest_ranges(row):
        layers.setdefault((start, length), []).append(layer)
    most = FEW_RANGES if limit is not None else len(layers)
    for (start, length), users in islice(layers.items(), most):
        titles = ", ".join(layer_title(image, layer) for layer in users[:FEW_LAYERS])
        more = f" and {len(users) - FEW_LAYERS} more" if len(users) > FEW_LAYERS else ""
        yield (
            f"      guest {start:#x} to {start + length - 1:#x} ({human(length)}), {titles}{more}"
        )
    if len(layers) > most:
        yield f"      ... and {len(layers) - most} more guest ranges"
