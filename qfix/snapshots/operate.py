"""Revert to a snapshot, delete snapshots: tables are rewritten, references counted anew."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from qfix.arrays import NO_INTS
from qfix.change.allocate import allocate
from qfix.change.draft import LOST, Change, joined_ranges
from qfix.change.mapping import View, differences
from qfix.change.plan import run_rounds
from qfix.checks.snapshots import title
from qfix.errors import RefusedError
from qfix.layout.header import CORRUPT, DIRTY, MAX_FILE_OFFSET, MAX_L1_ENTRIES
from qfix.layout.tables import COPIED, ENTRY_SIZE
from qfix.problems import header, refcounts
from qfix.problems import snapshots as problems
from qfix.repair.copied import set_copied_flags
from qfix.repair.fields import set_field
from qfix.repair.marks import damage, refcount_errors, set_marks
from qfix.repair.owners import may_write
from qfix.repair.passes import finish
from qfix.repair.refcounts import store_references
from qfix.repair.reftable import rebuild_refcount_structure
from qfix.repair.snapshot_table import drop_snapshot, raw_entry, rewrite_table
from qfix.repair.wanted import Wanted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qfix.arrays import Words
    from qfix.change.draft import Draft
    from qfix.layout.snapshots import Snapshot

CODE = "snapshot"
U = np.uint64
MISLED = (problems.L1_UNALIGNED, problems.L1_TOO_LARGE, problems.L1_OUTSIDE, problems.L1_EMPTY)
REFCOUNTS = Wanted("errors")


def revert(draft: Draft, item: Snapshot) -> None:
    """Plan that the active layer is what a snapshot is: its table copied, its disk size taken.

    The overlay is left examined. Raises RefusedError where the snapshot leads to no L1 table.
    """
    _refuse_misled(draft, item)
    _tell_what_is_lost(draft, item.index + 1)
    image, entry = draft.image, item.entry
    size = image.header.size if item.disk_size is None else item.disk_size
    words = image.table(entry.l1_table_offset, entry.l1_size, "an L1 table") & ~U(COPIED)
    words = np.concatenate((words, np.zeros(entry.l1_size - words.size, np.uint64)))
    why = f"reverted to snapshot {title(item)}"
    if not _fits_in_place(draft, entry.l1_size):
        clusters = image.geometry.clusters(max(1, entry.l1_size) * ENTRY_SIZE)
        offset = allocate(draft, clusters, anyway=True) << image.geometry.cluster_bits
        room = clusters << image.geometry.cluster_bits
        set_field(draft, "l1_size", entry.l1_size, CODE, why)
        set_field(draft, "l1_table_offset", offset, CODE, why)
    else:
        offset, room = image.header.l1_table_offset, image.header.l1_size * ENTRY_SIZE
    _write_table(draft, offset, room, words)
    text = f"L1 table of the active layer, {entry.l1_size} entries: {why}"
    draft.note(Change(CODE, text, offset))
    set_field(draft, "size", size, CODE, why)
    if item.index + 1 < len(draft.layers):  # else it was not seen in the file
        draft.layers[0] = draft.layers[item.index + 1]
    draft.examine()


def _refuse_misled(draft: Draft, item: Snapshot) -> None:
    for problem in MISLED:
        found = draft.now.find(problem)
        if found is not None and any(row["first"] == item.index for row in found.rows()):
            raise RefusedError(
                f"{draft.overlay.path}: snapshot {title(item)} leads to no L1 table"
                f" ({problem.code}): --fix all may find it again"
            )


def _tell_what_is_lost(draft: Draft, layer: int) -> None:
    """Say which guest ranges the active layer reads differently from a snapshot's."""
    view, geometry = View(draft.image, draft.made), draft.image.geometry
    most, total = 2 * geometry.host_clusters * geometry.l2_entries, 0
    for found in differences(view, view, [layer], (NO_INTS, NO_INTS)):
        start = np.unique(found.start)
        draft.tell(LOST, 0, *joined_ranges(start, np.full(start.size, found.length)))
        total += start.size
        if total > most:  # more than all tables of the file could map: it is all nonsense
            draft.tell(LOST, 0, np.array([0]), np.array([MAX_FILE_OFFSET]))
            return


def _fits_in_place(draft: Draft, entries: int) -> bool:
    """Tell whether the active L1 table is where it can be written, and long enough."""
    head, geometry = draft.image.header, draft.image.geometry
    offset, count = head.l1_table_offset, geometry.clusters(head.l1_size * ENTRY_SIZE)
    if not 0 < entries <= head.l1_size <= MAX_L1_ENTRIES or offset % geometry.cluster_size:
        return False
    first = offset >> geometry.cluster_bits
    inside = 0 < offset < offset + head.l1_size * ENTRY_SIZE <= draft.overlay.size
    return inside and bool(may_write(draft, np.arange(first, first + count)).all())


def _write_table(draft: Draft, offset: int, room: int, words: Words) -> None:
    raw = words.astype(">u8").tobytes()
    draft.write(offset, raw.ljust(room, b"\0"))


def delete(draft: Draft, items: Sequence[Snapshot]) -> None:
    """Plan a snapshot table without some snapshots; the overlay is left examined."""
    gone = {item.index for item in items}
    kept = [raw_entry(draft, item) for item in draft.image.snapshots if item.index not in gone]
    count = len(draft.image.snapshots)
    why = f"{len(kept)} of {count} snapshots are left"
    rewrite_table(draft, kept, CODE, why)
    for item in items:
        drop_snapshot(draft, item.index + 1, title(item))
    draft.layers_dropped()
    draft.examine()


def settle(draft: Draft) -> None:
    """Let refcounts and COPIED flags be right for the tables as planned; tell what becomes free.

    Marks go when nothing is left that they stand for. The overlay is left examined.
    """
    planners = (
        rebuild_refcount_structure,
        partial(store_references, withheld=[]),
        set_copied_flags,
    )
    run_rounds(draft, [partial(planner, wanted=REFCOUNTS) for planner in planners])
    if not draft.found(refcounts.LEAKED, refcounts.TOO_HIGH):
        draft.left.pop("leaks", None)  # said in a round before the last one
    marks = 0
    if draft.found(header.DIRTY_MARK) and not refcount_errors(draft.now):
        marks |= DIRTY
    if draft.found(header.CORRUPT_MARK) and not damage(draft.now):
        marks |= CORRUPT
    if set_marks(draft, clear=marks) | finish(draft):
        draft.examine()
    _tell_what_is_free(draft)


def _tell_what_is_free(draft: Draft) -> None:
    old, new = draft.before.recount, draft.now.recount
    if old is None or new is None:
        return
    size = min(old.tally.size, new.tally.size)
    gone = int(((old.tally.counted[:size] > 0) & (new.tally.counted[:size] == 0)).sum())
    if gone:
        length = gone * draft.image.geometry.cluster_size
        text = f"{gone} clusters ({length} bytes) become free"
        draft.changes.insert(0, Change(CODE, text, None, gone))
