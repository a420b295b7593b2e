"""Findings as rows for people and programs: words, places, guest ranges, the next command."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from qfix.image import printable
from qfix.layout import tables
from qfix.problems import Safety

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.image import Image
    from qfix.problems import Findings, Problem

L1_FLAGS = ((tables.COPIED, "COPIED"),)
L2_FLAGS = ((tables.COPIED, "COPIED"), (tables.COMPRESSED, "COMPRESSED"))
WHOLE_LAYER = 0


def layer_name(layer: int) -> str:
    """Return how a layer is named in options and output."""
    return "active" if layer == WHOLE_LAYER else f"snapshot[{layer - 1}]"


def layer_title(image: Image | None, layer: int) -> str:
    """Return a layer's name for people, with the snapshot's id and name."""
    if layer == WHOLE_LAYER:
        return "active layer"
    found = image.snapshots[layer - 1] if image else None
    names = f" {printable(found.id_str)} ({printable(found.name)})" if found else ""
    return layer_name(layer) + names


def guest_ranges(row: dict[str, Any]) -> list[tuple[int, int, int]]:
    """Return (layer, start, length) of every guest range that a finding touches, in bytes."""
    if "guests" in row:
        return [(int(layer), int(start), int(length)) for layer, start, length in row["guests"]]
    if "guest" in row and "guest_length" in row:
        if "layers" in row:
            guest, length = row["guest"], row["guest_length"]
            return [(layer, guest + shift, length) for layer, shift in row["layers"]]
        return [(row.get("layer", WHOLE_LAYER), row["guest"], row["guest_length"])]
    return []


def wording(problem: Problem, row: dict[str, Any], image: Image | None) -> str:
    """Return the message of a finding with its facts."""
    facts = dict(row)
    if "owner_kind" in row:
        facts["owner"] = _owner(row["owner_kind"], row["owner_which"], image)
        if "other_kind" in row:
            facts["owner"] += " and " + _owner(row["other_kind"], row["other_which"], image)
    return problem.message.format(**facts)


def _owner(kind: int, which: int, image: Image | None) -> str:
    from qfix.recount.tally import Kind

    owner = Kind(kind)
    if owner is Kind.L1_TABLE:
        return f"the L1 table of the {layer_title(image, which)}"
    if owner is Kind.L2_TABLE:
        return f"the L2 table at {which:#x}"
    if owner is Kind.REFCOUNT_BLOCK:
        return f"refcount block {which}"
    if owner in (Kind.BITMAP_TABLE, Kind.BITMAP_DATA):
        return f"{owner.text} of bitmap {which}"
    return owner.text


def flags(row: dict[str, Any]) -> str:
    """Return the flags of a finding's table entry, spelled out."""
    entry = row.get("entry")
    if entry is None:
        return ""
    spelled = [name for bit, name in L2_FLAGS if entry & bit]
    if entry & tables.ZERO and not entry & tables.COMPRESSED:
        spelled.append("ZERO")
    return f"[{entry:#x}: {' '.join(spelled) or 'no flags'}]"


def command(problem: Problem, path: str) -> str:
    """Return the command to run next about a finding."""
    if not problem.fix:
        return f"qfix --explain {problem.code}"
    lossy = " --lossy" if problem.safety is Safety.LOSSY else ""
    return repair_command(path, f"--fix {problem.fix}{lossy}")


def list_command(path: str) -> str:
    """Return the command that lists every finding of an image."""
    return f"qfix -m error {quoted(path)}"


def repair_command(path: str, asked: str) -> str:
    """Return the command that makes a change, as it is asked for."""
    return f"qfix {asked} {quoted(path)}"


def journal_command(path: str, what: str, journal: str | None) -> str:
    """Return the command that takes a change back, or makes it again."""
    place = f" --journal {quoted(journal)}" if journal else ""
    return f"qfix --{what}{place} {quoted(path)}"


def quoted(path: str) -> str:
    """Return a path as a shell takes it, control characters escaped."""
    return shell_word(f"./{path}" if path.startswith("-") else path)


def shell_word(word: str) -> str:
    """Return a word as a shell takes it, control characters escaped."""
    import shlex

    shown = printable(os.fsencode(word), limit=4096)
    if shown == word:
        return shlex.quote(word)
    escaped = shown.replace("'", "\\'")
    return f"$'{escaped}'"


def as_json(findings: Findings, image: Image | None, path: str) -> Iterator[dict[str, Any]]:
    """Yield the findings of one problem as JSON objects, a run each."""
    problem = findings.problem
    same = {
        "code": problem.code,
        "name": problem.name,
        "severity": problem.severity.value,
        "safety": problem.safety.value,
        "structure": problem.structure,
    }
    next_command = command(problem, path)
    for row in findings.rows():
        yield same | {
            "first": row["first"],
            "count": row["count"],
            "host-offset": row.get("host"),
            "guest-ranges": [
                {"layer": layer_name(layer), "start": start, "length": length}
                for layer, start, length in guest_ranges(row)
            ],
            "message": wording(problem, row, image),
            "command": next_command,
        }
