"""Pass S: L1 tables of snapshots: where they must be, and how long, told by size and by leaks."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qfix.change.draft import RESTORED, Change
from qfix.checks.snapshots import title
from qfix.layout.header import MAX_L1_ENTRIES
from qfix.layout.tables import ENTRY_SIZE
from qfix.problems import snapshots as problems
from qfix.problems import tables
from qfix.recount.batches import read_batches
from qfix.recount.entries import decode
from qfix.recount.tally import CLAIMED, CLASH
from qfix.repair.fields import TABLES, is_asked, note, reveal
from qfix.repair.owners import may_write, real_owners
from qfix.repair.sizes import CLASHING, is_l1_table, is_too_long, tell_beyond
from qfix.repair.snapshot_table import NO_TABLE, UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.arrays import IntArray
    from qfix.change.draft import Draft
    from qfix.layout.snapshots import Snapshot
    from qfix.repair.wanted import Wanted

MISLED = (problems.L1_UNALIGNED, problems.L1_TOO_LARGE, problems.L1_OUTSIDE, problems.L1_EMPTY)
FIELDS = 12
"""Bytes of an entry that tell where the L1 table is, and how many entries it has."""


class Place(NamedTuple):
    """Where an L1 table is, and its entries."""

    offset: int
    entries: int


def mend_l1_pointers(draft: Draft, wanted: Wanted) -> bool:
    """Let snapshots lead to their L1 tables again, where it can be told which those are."""
    if not is_asked(draft, wanted.all or wanted.lossy, *MISLED, *CLASHING):
        return False
    if draft.found(*NO_TABLE, *UNREADABLE, problems.TOO_MANY):
        return False
    misled = _misled(draft)
    if misled:
        places = {index: _place(draft, index, alone=len(misled) == 1) for index in misled}
    else:
        misled, places = _clashing(draft)
    planned = False
    for index, place in places.items():
        if place is not None:
            planned |= _write(draft, draft.image.snapshots[index], misled[index], place)
    return planned


def _misled(draft: Draft) -> dict[int, str]:
    """Return the snapshots that lead to no L1 table, and what says so."""
    codes: dict[int, str] = {}
    for problem in MISLED:
        found = draft.now.find(problem)
        codes |= {row["first"]: problem.code for row in found.rows()} if found else {}
    return codes


def _clashing(draft: Draft) -> tuple[dict[int, str], dict[int, Place | None]]:
    """Return the snapshots whose L1 tables are where something else is: what says so, and places.

    A table that begins there and is too long is cut; for another one there is the lost one.
    """
    items = draft.image.snapshots
    code = next(problem.code for problem in CLASHING if draft.found(problem))
    places: dict[int, Place | None] = {}
    for item in items:
        needed = _needed(draft, item)
        if is_too_long(draft, *_stated(item), needed):
            places[item.index] = Place(item.entry.l1_table_offset, needed)
    bits, tally = draft.image.geometry.cluster_bits, draft.made.tally
    if not places and draft.found(tables.LOST_L1):
        first = {item.index: item.entry.l1_table_offset >> bits for item in items}
        doubtful = [index for index, at in first.items() if tally.owners[at] & CLASH]
        places = {index: _place(draft, index, alone=len(doubtful) == 1) for index in doubtful}
    return dict.fromkeys(places, code), places


def _stated(item: Snapshot) -> Place:
    return Place(item.entry.l1_table_offset, item.entry.l1_size)


def _needed(draft: Draft, item: Snapshot) -> int:
    """Return how many L1 entries the disk and the VM state of a snapshot need."""
    reach = draft.image.geometry.bytes_per_l1_entry
    size = draft.image.header.size if item.disk_size is None else item.disk_size
    return -(-size // reach) + -(-item.vm_state_size // reach)


def _place(draft: Draft, index: int, *, alone: bool) -> Place | None:
    """Return where the L1 table of a snapshot must be, None where that can't be told."""
    item = draft.image.snapshots[index]
    needed, (offset, entries) = _needed(draft, item), _stated(item)
    if not 0 < needed <= MAX_L1_ENTRIES:
        return None
    for place in _candidates(draft, offset, alone=alone):
        if place == offset and not draft.found(*MISLED):
            continue
        for size in (entries, needed) if needed <= entries <= MAX_L1_ENTRIES else (needed,):
            if is_l1_table(draft, place, size) and _is_free(draft, place, size):
                return Place(place, size)
    return None


def _candidates(draft: Draft, offset: int, *, alone: bool) -> Iterator[int]:
    """Yield where an L1 table may be: near where it is said to be, or the one that is lost."""
    geometry, found = draft.image.geometry, draft.now.find(tables.LOST_L1)
    lost = [int(first) << geometry.cluster_bits for first in found.first] if found else []
    if offset % geometry.cluster_size == 0:
        yield offset
    elif offset // geometry.cluster_size * geometry.cluster_size in lost:
        yield offset // geometry.cluster_size * geometry.cluster_size
    if alone and len(lost) == 1:
        yield lost[0]


def _is_free(draft: Draft, place: int, entries: int) -> bool:
    """Tell whether nothing that is sound claims the clusters of a table."""
    bits, end = draft.image.geometry.cluster_bits, place + entries * ENTRY_SIZE
    held = real_owners(draft)[place >> bits : ((end - 1) >> bits) + 1]
    return not (held & CLAIMED).any()


def _holds_data(draft: Draft, clusters: IntArray) -> bool:
    """Tell whether guest data is in *clusters* by what the needed entries of L1 tables lead to.

    What is taken for entries behind them may seem to lead anywhere.
    """
    image, entries = draft.image, draft.made.entries
    needed = np.array(
        [image.geometry.needed_l1_entries, *(_needed(draft, item) for item in image.snapshots)]
    )
    real = entries.index < needed[entries.layer]
    led_to = np.isin(draft.made.tables.offset, entries.target[real])
    for batch in read_batches(image, draft.made.tables.part(led_to)):
        found = decode(image, batch)
        first = found.offset >> image.geometry.cluster_bits
        last = (found.offset + found.length - 1) >> image.geometry.cluster_bits
        mapped = found.standard | found.compressed
        if any((mapped & (first <= at) & (at <= last)).any() for at in clusters.tolist()):
            return True
    return False


def _write(draft: Draft, item: Snapshot, code: str, place: Place) -> bool:
    """Plan place and size of the L1 table in the snapshot's entry, where that may be written."""
    bits, reach = draft.image.geometry.cluster_bits, draft.image.geometry.bytes_per_l1_entry
    clusters = np.unique(np.array([item.offset, item.offset + FIELDS - 1]) >> bits)
    free = may_write(draft, clusters).all() or not _holds_data(draft, clusters)
    if not free or place == _stated(item):
        return False
    draft.write(item.offset, place.offset.to_bytes(8, "big") + place.entries.to_bytes(4, "big"))
    old, new = (f"{offset:#x}, {entries} entries" for offset, entries in (_stated(item), place))
    note(draft, Change(code, f"L1 table of snapshot {title(item)}", item.offset, 1, old, new))
    if place.offset != item.entry.l1_table_offset or code in {found.code for found in MISLED}:
        draft.tell(RESTORED, item.index + 1, np.array([0]), np.array([place.entries * reach]))
    tell_beyond(draft, item.index + 1, place.entries)
    reveal(draft, "S", *TABLES)
    return True


PLANNERS = (mend_l1_pointers,)
