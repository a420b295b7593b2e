"""The rehearsal: a plan is checked whole before anything is written (promise 2 of the design)."""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING

import numpy as np

from qfix.arrays import NO_INTS, spread
from qfix.change.draft import ALLOWED, joined_ranges
from qfix.change.mapping import View, differences
from qfix.errors import QfixError
from qfix.image import printable
from qfix.problems import Severity, header, refcounts, tables
from qfix.recount.tally import COMPRESSED, DATA

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.arrays import BoolArray, IntArray
    from qfix.change.draft import Draft
    from qfix.examine import Diagnosis
    from qfix.problems import Findings

FREED = {
    problem.code
    for problem in (
        refcounts.LEAKED,
        refcounts.TOO_HIGH,
        tables.LOST_L1,
        tables.LOST_L2,
        tables.EMPTIED_L2,
        tables.UNFILLED_L2,
        tables.LACKED_L2,
    )
}
"""What giving something up leaves behind until the space is freed too, and what comes to light when
refcounts can be read at last."""
CUT_OFF = {
    problem.code
    for problem in (tables.L1_OUTSIDE_FILE, tables.L2_OUTSIDE_FILE, tables.COMPRESSED_OUTSIDE)
}
"""What a file that was cut short is seen as where no refcount speaks of the cut any more."""
NOTHING = (NO_INTS, NO_INTS)
MOST_TOLD = 8
MOST_FAULTS = 100


class RehearsalError(QfixError):
    """A plan would change more than it says; a defect of qfix, found before it did harm."""


def rehearse(draft: Draft) -> None:
    """Check a finished draft, whose overlay was examined last; raises RehearsalError.

    No problem may appear that was not there, and the active layer and every snapshot has to read
    as before, but for the guest ranges that the draft says are lost or restored.
    """
    told = faults(draft)
    if told:
        more = len(told) - MOST_TOLD
        words = "; ".join(told[:MOST_TOLD]) + (f"; and {more} more" if more > 0 else "")
        raise RehearsalError(
            f"{draft.overlay.path}: the rehearsal failed, so nothing was changed: {words}."
            " This is a defect of qfix: please report it with the image's metadata"
        )


def faults(draft: Draft) -> list[str]:
    """Return, in words, what a draft would bring about and does not tell."""
    if draft.faults is None:
        draft.faults = list(islice(chain(_new_problems(draft), guest_changes(draft)), MOST_FAULTS))
    return draft.faults


def _new_problems(draft: Draft) -> Iterator[str]:
    before = _units(draft.before)
    for found in draft.now.findings:
        problem = found.problem
        if problem.severity in (Severity.NOTE, Severity.WARNING) or problem.code in before:
            continue
        blind = draft.before.find(header.REFCOUNT_ORDER) is not None
        allowed = draft.expected | (FREED if draft.is_lossy or blind else set())
        if tables.FILE_CUT.code in before:
            allowed = allowed | CUT_OFF
        if problem.code not in allowed:
            yield f"it would bring {problem.code} {problem.name}"


def news(draft: Draft) -> list[Findings]:
    """Return the kinds of errors and leaks of which a draft brings some, or more than there were.

    The findings are those of the overlay, as it was examined last.
    """
    before = _units(draft.before)
    return [
        found
        for found in draft.now.findings
        if found.problem.severity not in (Severity.NOTE, Severity.WARNING)
        and found.problem.code not in draft.expected
        and found.units > before.get(found.problem.code, 0)
    ]


def _units(diagnosis: Diagnosis) -> dict[str, int]:
    return {found.problem.code: found.units for found in diagnosis.findings}


def told_changes(draft: Draft) -> list[str]:
    """Return the first of `deliberate_changes`, as they were before anything was written."""
    if draft.reads is None:
        draft.reads = list(islice(deliberate_changes(draft), MOST_TOLD))
    return draft.reads


def guest_changes(draft: Draft) -> Iterator[str]:
    """Yield, in words, what the guest would read differently and the draft does not tell."""
    old, new = draft.before, draft.now
    if old.image is None or old.recount is None:
        return
    if new.image is None or new.recount is None:
        yield "the image could not be checked any more"
        return
    if new.image.geometry.cluster_bits != old.image.geometry.cluster_bits:
        yield "the cluster size would change"
        return
    if new.image.geometry.extended != old.image.geometry.extended:
        yield "the size of L2 entries would change"
        return
    left = len(new.image.snapshots)
    if left < len(draft.layers) - 1:
        yield f"of {len(draft.layers) - 1} snapshots {left} would be left"
        return
    changed = draft.overlay.changed()
    yield from _overwritten(draft, *changed)
    views = View(old.image, old.recount), View(new.image, new.recount)
    told = {layer: _told(draft, layer) for layer in {part.layer for part in draft.ranges}}
    for found in differences(*views, draft.layers, changed):
        for layer in np.unique(found.layer).tolist():
            start = found.start[found.layer == layer]
            wrong = start[~_allowed(*told.get(layer, NOTHING), start, found.length)]
            if wrong.size:
                where = "the active layer" if layer == 0 else f"snapshot[{layer - 1}]"
                more = "1 more cluster" if wrong.size == 2 else f"{wrong.size - 1} more clusters"
                rest = f" and in {more}" if wrong.size > 1 else ""
                yield f"{where} would read differently at guest offset {int(wrong[0]):#x}{rest}"


def deliberate_changes(draft: Draft) -> Iterator[str]:
    """Yield, in words, what a deliberate change makes the guest read differently.

    Beside `guest_changes` that is what no repair ever touches.
    """
    old, new = draft.before, draft.now
    if old.image is not None and new.image is not None:
        sizes = old.image.geometry.virtual_size, new.image.geometry.virtual_size
        if sizes[0] != sizes[1]:
            yield f"the disk would have {sizes[1]} bytes instead of {sizes[0]}"
        if old.head.backing_name != new.head.backing_name:
            name = printable(new.head.backing_name or b"") or "no backing file: as zeros"
            yield f"what is not allocated would be read from {name}"
    yield from guest_changes(draft)


def _overwritten(draft: Draft, first: IntArray, end: IntArray) -> Iterator[str]:
    """Yield the clusters that hold guest data in both views and whose bytes change.

    The sectors that change are the runs (first, end).

    The header's cluster never does, whatever a damaged table says.
    """
    old, new = draft.before.recount, draft.now.recount
    assert old is not None  # noqa: S101  (the caller has looked)
    assert new is not None  # noqa: S101
    shift = old.tally.geometry.cluster_bits - 9
    low, high = first >> shift, ((end - 1) >> shift) + 1
    clusters = np.unique(spread(low, high - low))
    clusters = clusters[(clusters > 0) & (clusters < min(old.tally.size, new.tally.size))]
    both = old.tally.owners[clusters] & new.tally.owners[clusters] & (DATA | COMPRESSED)
    for cluster in clusters[both != 0][:MOST_TOLD].tolist():
        yield f"guest data in host cluster {cluster} would be overwritten"


def _told(draft: Draft, layer: int) -> tuple[IntArray, IntArray]:
    """Return the guest ranges of a layer that the draft says are lost or restored, joined."""
    parts = [part for part in draft.ranges if part.kind in ALLOWED and part.layer == layer]
    if not parts:
        return NOTHING
    return joined_ranges(
        np.concatenate([part.start for part in parts]),
        np.concatenate([part.length for part in parts]),
    )


def _allowed(low: IntArray, length: IntArray, start: IntArray, size: int) -> BoolArray:
    """Tell which of the guest clusters at *start* are in the ranges (low, length)."""
    if not low.size:
        return np.zeros(start.size, np.bool_)
    at = np.searchsorted(low, start, "right") - 1
    told: BoolArray = (at >= 0) & (start + size <= (low + length)[at])
    return told
