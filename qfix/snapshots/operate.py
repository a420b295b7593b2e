"""Revert to a snapshot, delete snapshots: tables are rewritten, references counted anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qfix.arrays import NO_INTS
from qfix.change.allocate import DANGLING, allocate
from qfix.change.draft import LOST, NOWHERE, Change, Left, joined_ranges
from qfix.change.mapping import View, differences
from qfix.checks.snapshots import title
from qfix.errors import RefusedError
from qfix.layout.header import MAX_FILE_OFFSET, MAX_L1_ENTRIES, MAX_VIRTUAL_SIZE
from qfix.layout.tables import COPIED, ENTRY_SIZE
from qfix.problems import snapshots as problems
from qfix.repair.fields import set_field
from qfix.repair.owners import may_write
from qfix.repair.snapshot_table import drop_snapshot, raw_entry, rewrite_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qfix.arrays import Words
    from qfix.change.draft import Draft
    from qfix.layout.snapshots import Snapshot

CODE = "snapshot"
U = np.uint64
MISLED = (problems.L1_UNALIGNED, problems.L1_TOO_LARGE, problems.L1_OUTSIDE, problems.L1_EMPTY)


def revert(draft: Draft, item: Snapshot) -> bool:
    """Plan that the active layer is what a snapshot is: its table copied, its disk size taken.

    The overlay is left examined. Raises RefusedError where the snapshot leads to no L1 table.
    """
    _refuse_misled(draft, item)
    _tell_what_is_lost(draft, item.index + 1)
    image, entry = draft.image, item.entry
    why = f"reverted to snapshot {title(item)}"
    words = image.table(entry.l1_table_offset, entry.l1_size, "an L1 table") & ~U(COPIED)
    size = _disk_size(draft, item, words)
    entries = max(entry.l1_size, -(-size // image.geometry.bytes_per_l1_entry))
    words = np.concatenate((words, np.zeros(entries - words.size, np.uint64)))
    if not _fits_in_place(draft, entries):
        clusters = image.geometry.clusters(max(1, entries) * ENTRY_SIZE)
        offset = allocate(draft, clusters, anyway=True) << image.geometry.cluster_bits
        room = clusters << image.geometry.cluster_bits
        set_field(draft, "l1_size", entries, CODE, why)
        set_field(draft, "l1_table_offset", offset, CODE, why)
    else:
        offset, room = image.header.l1_table_offset, image.header.l1_size * ENTRY_SIZE
    raw = words.astype(">u8").tobytes().ljust(room, b"\0")
    if draft.overlay.read(offset, room) != raw:
        draft.write(offset, raw)
        text = f"L1 table of the active layer, {entries} entries: {why}"
        draft.note(Change(CODE, text, offset))
    set_field(draft, "size", size, CODE, why)
    layer = item.index + 1
    draft.layers[0] = draft.layers[layer] if layer < len(draft.layers) else NOWHERE
    draft.examine()
    return True


def _disk_size(draft: Draft, item: Snapshot, words: Words) -> int:
    """Return the disk size of a snapshot, or what it may be where the entry says nonsense.

    A snapshot's L1 table maps all of its disk; one that does not tell the size has the image's.
    """
    size, reach = draft.image.header.size, draft.image.geometry.bytes_per_l1_entry
    mapped = item.entry.l1_size * reach
    if size > MAX_VIRTUAL_SIZE or -(-size // reach) > MAX_L1_ENTRIES:
        size = mapped
    told = item.disk_size
    if told is None or (told <= mapped and (told or not words.any())):
        return size if told is None else told
    why = f"snapshot {title(item)} says that its disk has {told} bytes, which"
    why += " its L1 table can't map" if told else " it has not, for it maps some"
    draft.leave("disk-size", Left((), f"{why}: the disk has {size} bytes"))
    return size


def _refuse_misled(draft: Draft, item: Snapshot) -> None:
    for problem in MISLED:
        found = draft.now.find(problem)
        if found is not None and any(row["first"] == item.index for row in found.rows()):
            raise RefusedError(
                f"{draft.overlay.path}: snapshot {title(item)} leads to no L1 table"
                f" ({problem.code}): --fix all may find it again, and may be given together with"
                " this"
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


def delete(draft: Draft, items: Sequence[Snapshot]) -> bool:
    """Plan a snapshot table without some snapshots, and tell if there are any of these.

    The overlay is left examined.
    """
    if not items:
        return False
    gone = {item.index for item in items}
    kept = [raw_entry(draft, item) for item in draft.image.snapshots if item.index not in gone]
    count = len(draft.image.snapshots)
    why = "1 snapshot is left" if len(kept) == 1 else f"{len(kept)} of {count} snapshots are left"
    mended = (
        DANGLING if draft.literal else (problems.L1_OUTSIDE,) if _are_outside(draft, gone) else ()
    )
    rewrite_table(draft, kept, CODE, why, *mended)
    for item in items:
        drop_snapshot(draft, item.index + 1, title(item))
    draft.layers_dropped()
    draft.examine()
    return True


def _are_outside(draft: Draft, gone: set[int]) -> bool:
    """Tell whether all L1 tables that are not inside the file are those of snapshots that go."""
    found = draft.now.find(problems.L1_OUTSIDE)
    return found is not None and {row["first"] for row in found.rows()} <= gone
