"""Pass T: tables with two users, or on other metadata, get places of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qfix.change.allocate import NoRoomError, allocate, allocate_each
from qfix.change.draft import Change, Left
from qfix.checks.overlaps import clashes, metadata_owners
from qfix.layout.tables import ENTRY_SIZE, OFFSET_MASK
from qfix.problems import tables
from qfix.recount.tally import Kind
from qfix.repair.headers import set_field
from qfix.repair.owners import astray_layers, damaged_layers, sound_entries
from qfix.repair.reuse import copy_clusters, fits, suspect
from qfix.repair.rewrite import rewrite_l1

if TYPE_CHECKING:
    from qfix.arrays import IntArray
    from qfix.change.draft import Draft
    from qfix.problems import Problem
    from qfix.repair.wanted import Wanted

U = np.uint64
MOST_MOVED = 1 << 12
STAYS_BEFORE = (
    Kind.HEADER,
    Kind.ENCRYPTION_HEADER,
    Kind.L1_TABLE,
    Kind.SNAPSHOT_TABLE,
    Kind.REFCOUNT_TABLE,
    Kind.REFCOUNT_BLOCK,
    Kind.BITMAP_DIRECTORY,
    Kind.BITMAP_TABLE,
    Kind.BITMAP_DATA,
    Kind.L2_TABLE,
)
"""Which of two structures in one cluster keeps it: the earlier one."""


def split_l2_tables(draft: Draft, wanted: Wanted) -> bool:
    """Give each L1 index that shares an L2 table with another one a copy of the table."""
    if not wanted.reuse or not draft.found(tables.L1_SAME_TABLE):
        return False
    entries, geometry = draft.made.entries, draft.image.geometry
    sound = sound_entries(draft) & (entries.target > 0)
    sound &= entries.target % geometry.cluster_size == 0
    sound &= entries.target < geometry.file_length
    rows = np.flatnonzero(sound)
    order = np.lexsort((entries.index[rows], entries.layer[rows], entries.target[rows]))
    rows = rows[order]
    target, index = entries.target[rows], entries.index[rows].astype(np.int64)
    heads = np.flatnonzero(np.diff(target, prepend=-1))
    keeper = np.repeat(index[heads], np.diff(np.append(heads, rows.size)))
    moving = index != keeper
    return _move_tables(draft, rows[moving], tables.L1_SAME_TABLE)


def _move_tables(draft: Draft, rows: IntArray, problem: Problem) -> bool:
    """Give the L1 entries in *rows* copies of their tables, one for each table and L1 index."""
    if not rows.size:
        return False
    entries, geometry = draft.made.entries, draft.image.geometry
    pairs = np.stack((entries.target[rows], entries.index[rows].astype(np.int64)), axis=1)
    distinct, which = np.unique(pairs, axis=0, return_inverse=True)
    if not fits(draft, len(distinct) * geometry.cluster_size, problem):
        return False
    try:
        places = allocate_each(draft, len(distinct))
    except NoRoomError as error:
        draft.leave("room", Left((problem.code,), str(error)))
        return False
    copy_clusters(draft, distinct[:, 0] >> geometry.cluster_bits, places)
    place = places[which.ravel()].astype(np.uint64) << U(geometry.cluster_bits)
    new = (entries.entry[rows] & ~U(OFFSET_MASK)) | place
    suspect(draft, problem)
    return rewrite_l1(draft, problem, rows, new, "gets an L2 table of its own, a copy")


def part_metadata(draft: Draft, wanted: Wanted) -> bool:
    """Move L1 and snapshot tables off the clusters of other metadata; what they hold stays.

    What is said to be on the header is nowhere, and is not moved.
    """
    if not wanted.reuse or not draft.found(tables.METADATA_ON_METADATA):
        return False
    host, kind, which = metadata_owners(draft.made, clashes(draft.made))
    moved: set[tuple[int, int]] = set()
    starts = np.flatnonzero(np.diff(host, prepend=-1))
    ends = np.append(starts[1:], host.size)
    for start, end in zip(starts[:MOST_MOVED].tolist(), ends[:MOST_MOVED].tolist(), strict=True):
        owners = [(Kind(int(kind[at])), int(which[at])) for at in range(start, end)]
        owners.sort(key=lambda owner: (STAYS_BEFORE.index(owner[0]), owner[1]))
        moved.update(owner for owner in owners[1:] if owners[0][0] is not Kind.HEADER)
    planned = False
    if any(of is Kind.L2_TABLE for of, _ in moved):
        why = "L1 entries lead to other metadata: a copy of that would be no L2 table"
        draft.leave("metadata", Left((tables.METADATA_ON_METADATA.code,), why, "--lossy"))
    astray = astray_layers(draft)
    if any(of is Kind.L1_TABLE and number in astray for of, number in moved):
        titles = ", ".join(f"snapshot[{number - 1}]" for number in astray)
        why = f"other metadata is where the L1 table of {titles} should be: a copy would be none"
        draft.leave("astray", Left((tables.METADATA_ON_METADATA.code,), why, "--lossy"))
    damaged = {*damaged_layers(draft), *astray}
    for of, number in sorted(moved):
        if of is Kind.SNAPSHOT_TABLE or (of is Kind.L1_TABLE and number not in damaged):
            planned |= _move_whole(draft, Kind(of), number)
    return planned


def _move_whole(draft: Draft, kind: Kind, number: int) -> bool:
    """Move an L1 table or the snapshot table, and let its pointer lead there."""
    image, head = draft.image, draft.image.header
    if kind is Kind.SNAPSHOT_TABLE:
        offset, length = head.snapshots_offset, image.snapshot_table[1].size
        pointer, what = 64, "the snapshot table"
    elif number == 0:
        offset, length = head.l1_table_offset, head.l1_size * ENTRY_SIZE
        pointer, what = 40, "the active L1 table"
    else:
        item = image.snapshots[number - 1]
        offset, length = item.entry.l1_table_offset, item.entry.l1_size * ENTRY_SIZE
        pointer, what = item.offset, f"the L1 table of snapshot[{number - 1}]"
    count = image.geometry.clusters(length)
    try:
        first = allocate(draft, count)
    except NoRoomError as error:
        draft.leave("room", Left((tables.METADATA_ON_METADATA.code,), str(error)))
        return False
    bits = image.geometry.cluster_bits
    old = np.arange(offset >> bits, (offset >> bits) + count)
    copy_clusters(draft, old, np.arange(first, first + count))
    code = tables.METADATA_ON_METADATA.code
    if kind is Kind.SNAPSHOT_TABLE or number == 0:
        name = "snapshots_offset" if pointer == 64 else "l1_table_offset"
        set_field(draft, name, first << bits, code, f"{what} gets a place of its own")
    else:
        draft.write(pointer, (first << bits).to_bytes(8, "big"))
        text = f"{what} gets a place of its own"
        draft.note(Change(code, text, pointer, 1, f"{offset:#x}", f"{first << bits:#x}"))
    return True
