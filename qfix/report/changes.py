"""What a change does, or has done, as text and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from qfix.change.draft import LOST, RESTORED, SUSPECT
from qfix.change.rehearse import news, told_changes
from qfix.problems import Severity
from qfix.report.rows import layer_name, layer_title
from qfix.report.text import FEW_RANGES, human

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.change.draft import Draft
    from qfix.change.road import Outcome

FEW_CHANGES = 20
WIDEST = 72
KINDS = (
    (LOST, "Lost", "is given up"),
    (RESTORED, "Changed", "reads what its tables, found again, lead to"),
    (SUSPECT, "Suspect", "may hold what belongs elsewhere: check the file systems in the guest"),
)


def plan_lines(draft: Draft, *, limit: int | None = FEW_CHANGES) -> Iterator[str]:
    """Yield the plan as a table, what it costs, and what is left undone."""
    total = len(draft.changes) + sum(draft.omitted.values())
    if total:
        import tabulate

        answers = any(change.code[-1:].isdigit() for change in draft.changes)
        rows = [
            {
                **({"finding": change.code} if answers else {}),
                "what": change.text + (" (lossy)" if change.lossy else ""),
                "file offset": "" if change.host is None else f"{change.host:#x}",
                "old": change.old,
                "new": change.new,
            }
            for change in draft.changes[:limit]
        ]
        widths = [*([None] if answers else []), WIDEST, None, 24, 24]
        yield tabulate.tabulate(rows, headers="keys", disable_numparse=True, maxcolwidths=widths)
        if total > len(rows):
            yield f"... and {total - len(rows)} more (-v and --output json list more)"
    for kind, title, words in KINDS:
        yield from _range_lines(draft, kind, title, words, limit)
    for title in draft.dropped:
        yield click.style(f"Lost: snapshot {title} is dropped", fg="red")
    for name in draft.bitmaps:
        yield click.style(f"Lost: bitmap {name}; make the next backup a full one", fg="red")
    if draft.gain:
        yield f"Becomes free: {human(draft.gain)} ({draft.gain} bytes) inside the file"


def _range_lines(
    draft: Draft, kind: str, title: str, words: str, limit: int | None
) -> Iterator[str]:
    ranges = draft.guest_ranges(kind)
    if not ranges:
        return
    size = sum(length for _, _, length in ranges)
    color = "red" if kind == LOST else "yellow"
    yield click.style(f"{title}: {human(size)} of the guest's disk {words}", fg=color)
    shown = ranges if limit is None else ranges[:FEW_RANGES]
    for layer, start, length in shown:
        whose = layer_title(draft.before.image, layer)
        yield f"  guest {start:#x} to {start + length - 1:#x} ({human(length)}), {whose}"
    if len(ranges) > len(shown):
        yield f"  ... and {len(ranges) - len(shown)} more guest ranges"


def left_lines(draft: Draft) -> Iterator[str]:
    """Yield what was asked for and is left as it is, and what would help."""
    for left in draft.left.values():
        option = f" ({left.option} would go on)" if left.option.startswith("--") else ""
        yield click.style("Left as it is: ", fg="yellow") + left.why + option


def stay_lines(draft: Draft) -> Iterator[str]:
    """Yield what is found of the image as it would be."""
    grave = (Severity.ERROR, Severity.LEAK)
    codes = [
        f"{one.problem.code} {one.problem.name}"
        for one in draft.now.findings
        if one.problem.severity in grave
    ]
    more = f" and {len(codes) - FEW_RANGES} more kinds" if len(codes) > FEW_RANGES else ""
    if codes:
        yield click.style("Stays damaged: ", fg="yellow") + ", ".join(codes[:FEW_RANGES]) + more


def change_record(
    outcome: Outcome, asked: str, *, dry_run: bool, deliberate: bool = False
) -> dict[str, Any]:
    """Return what JSON tells of a change."""
    draft = outcome.draft
    return {
        "asked": asked,
        "dry-run": dry_run,
        "applied": outcome.applied,
        "journal": outcome.journal if outcome.number is not None else None,
        "record": outcome.number,
        "status-before": int(draft.before.status),
        "verdict-before": draft.before.status.verdict,
        "changes": [
            {
                "code": change.code,
                "message": change.text,
                "host-offset": change.host,
                "count": change.units,
                "old": change.old,
                "new": change.new,
                "lossy": change.lossy,
            }
            for change in draft.changes
        ],
        "changes-omitted": sum(draft.omitted.values()),
        **{kind: _ranges(draft, kind) for kind, _, _ in KINDS},
        "findings-made": [found.problem.code for found in news(draft)] if deliberate else [],
        "guest-changes": told_changes(draft) if deliberate else [],
        "bytes-freed": draft.gain,
        "snapshots-dropped": list(draft.dropped),
        "bitmaps-dropped": list(draft.bitmaps),
        "left": [
            {"codes": list(left.codes), "why": left.why, "option": left.option}
            for left in draft.left.values()
        ],
    }


def _ranges(draft: Draft, kind: str) -> list[dict[str, Any]]:
    return [
        {"layer": layer_name(layer), "start": start, "length": length}
        for layer, start, length in draft.guest_ranges(kind)
    ]
