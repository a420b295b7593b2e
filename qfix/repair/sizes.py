"""Pass H: the virtual size and the size of the active L1 table, each told by the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qfix.arrays import NO_INTS, IntArray, Words, words
from qfix.change.allocate import NoRoomError
from qfix.change.draft import LOST, RESTORED
from qfix.layout.header import MAX_L1_ENTRIES
from qfix.layout.tables import ENTRY_SIZE, L1_RESERVED, OFFSET_MASK
from qfix.problems import header as problems
from qfix.problems import tables
from qfix.recount.tally import CLASH, COMPRESSED, DATA, Kind
from qfix.repair.fields import TABLES, is_asked, make_room, refuse, reveal, set_field

if TYPE_CHECKING:
    from qfix.change.draft import Draft
    from qfix.repair.wanted import Wanted

ASTRAY = (problems.L1_OFFSET, problems.L1_OUTSIDE)
CLASHING = (tables.METADATA_ON_METADATA, tables.DATA_ON_METADATA)


def round_virtual_size(draft: Draft, wanted: Wanted) -> bool:
    """Round the virtual size down to whole sectors, as QEMU does."""
    if not is_asked(draft, wanted.all, problems.VIRTUAL_SIZE_ODD):
        return False
    size = draft.image.geometry.sectors_size
    why = "rounded down to whole sectors: the guest sees no more of it"
    set_field(draft, "size", size, problems.VIRTUAL_SIZE_ODD.code, why)
    return True


def guess_virtual_size(draft: Draft, wanted: Wanted) -> bool:
    """Set a virtual size that can't be to what the active L1 table can map."""
    if not is_asked(draft, wanted.all or wanted.lossy, problems.VIRTUAL_SIZE):
        return False
    code, entries = problems.VIRTUAL_SIZE.code, draft.image.header.l1_size
    if draft.found(*ASTRAY, problems.L1_TOO_LARGE) or not entries:
        return refuse(draft, wanted, code, "the L1 table, which could tell it, is damaged too", "")
    if not wanted.lossy:
        why = "the size can only be guessed, as what the L1 table can map"
        return refuse(draft, wanted, code, why)
    size = entries * draft.image.geometry.bytes_per_l1_entry
    why = (
        f"a guess, what the {entries} entries of the L1 table can map; the partition table inside"
        " tells the right size"
    )
    set_field(draft, "size", size, code, why, lossy=True)
    return True


def shrink_l1_table(draft: Draft, wanted: Wanted) -> bool:
    """Set an impossible number of L1 entries to what the virtual size needs."""
    if not is_asked(draft, wanted.all or wanted.lossy, problems.L1_TOO_LARGE):
        return False
    head, geometry = draft.image.header, draft.image.geometry
    code, needed = problems.L1_TOO_LARGE.code, geometry.needed_l1_entries
    offset, length = head.l1_table_offset, needed * ENTRY_SIZE
    inside = 0 < offset <= geometry.file_length - length and not offset % geometry.cluster_size
    if not inside or needed > MAX_L1_ENTRIES:
        why = "its place, or the virtual size, is damaged too"
        return refuse(draft, wanted, code, why, "")
    clusters = np.arange(offset, offset + length, geometry.cluster_size) >> geometry.cluster_bits
    taken = np.isin(clusters, _metadata(draft, but_active_l1=True))
    sound = is_l1_table(draft, offset, needed) and not taken.any()
    if not sound and not wanted.lossy:
        why = f"the {needed} entries that the virtual size needs are not all sound"
        return refuse(draft, wanted, code, why)
    why = "what the virtual size needs"
    set_field(draft, "l1_size", needed, code, why, lossy=not sound)
    tell_beyond(draft, 0, needed)
    return True


def trim_l1_table(draft: Draft, wanted: Wanted) -> bool:
    """Leave out what is behind the entries that the virtual size needs if it is no table."""
    if not is_asked(draft, wanted.all or wanted.lossy, *CLASHING) or draft.found(*ASTRAY):
        return False
    head, needed = draft.image.header, draft.image.geometry.needed_l1_entries
    if not is_too_long(draft, head.l1_table_offset, head.l1_size, needed):
        return False
    code = next(problem.code for problem in CLASHING if draft.found(problem))
    why = "behind what the virtual size needs stand other structures"
    set_field(draft, "l1_size", needed, code, why)
    tell_beyond(draft, 0, needed)
    return True


def is_too_long(draft: Draft, offset: int, entries: int, needed: int) -> bool:
    """Tell whether other structures stand in an L1 table behind its *needed* entries."""
    geometry, owners = draft.image.geometry, draft.made.tally.owners
    if entries <= needed or not is_l1_table(draft, offset, needed):
        return False
    start, end = offset + needed * ENTRY_SIZE, offset + entries * ENTRY_SIZE
    held = owners[geometry.clusters(start) : geometry.clusters(end)]
    clash = (held & (DATA | COMPRESSED | CLASH)).any()
    tail = draft.image.table(start, entries - needed, "an L1 table") if clash else NO_INTS
    return bool(tail.any())


def is_l1_table(draft: Draft, offset: int, entries: int) -> bool:
    """Tell whether *entries* at *offset* can be an L1 table: in the file, each leading to a place.

    Whether something else is there, too, is not looked at.
    """
    geometry, length = draft.image.geometry, entries * ENTRY_SIZE
    if not 0 < offset <= geometry.file_length - length or offset % geometry.cluster_size:
        return False
    return _lead_to_tables(draft, words(draft.overlay.read(offset, length)), NO_INTS)


def tell_beyond(draft: Draft, layer: int, entries: int) -> None:
    """Say that what was read behind the first *entries* of an L1 table was none of it."""
    reach = draft.image.geometry.bytes_per_l1_entry
    start, length = entries * reach, (MAX_L1_ENTRIES - entries) * reach
    draft.tell(RESTORED, layer, np.array([start]), np.array([length]))


def extend_l1_table(draft: Draft, wanted: Wanted) -> bool:
    """Give the L1 table as many entries as the virtual size needs.

    They are those behind it where the table goes on there; else empty ones of a new table.
    """
    if not is_asked(draft, wanted.all or wanted.lossy, problems.L1_TOO_SMALL):
        return False
    code = problems.L1_TOO_SMALL.code
    if draft.found(*ASTRAY):
        return refuse(draft, wanted, code, "the place of the L1 table is damaged too", "")
    needed = draft.image.geometry.needed_l1_entries
    more = _continuation(draft, needed)
    if more is not None:
        why = "the table goes on as far as the virtual size needs"
        set_field(draft, "l1_size", needed, code, why)
        reach = draft.image.geometry.bytes_per_l1_entry
        start = (np.flatnonzero(more) + draft.image.header.l1_size) * reach
        draft.tell(RESTORED, 0, start, np.full(start.size, reach))
        reveal(draft, *TABLES)
        return True
    if not wanted.lossy:
        why = "what follows the L1 table does not look like a part of it"
        return refuse(draft, wanted, code, why)
    return _copy_l1_table(draft, wanted, needed)


def _copy_l1_table(draft: Draft, wanted: Wanted, needed: int) -> bool:
    """Plan a new table of the present entries and empty ones behind them."""
    head, geometry = draft.image.header, draft.image.geometry
    code = problems.L1_TOO_SMALL.code
    count = geometry.clusters(needed * ENTRY_SIZE)
    try:
        offset = make_room(draft, count) << geometry.cluster_bits
    except NoRoomError as error:
        return refuse(draft, wanted, code, str(error))
    old = draft.overlay.read(head.l1_table_offset, head.l1_size * ENTRY_SIZE)
    draft.write(offset, old.ljust(count * geometry.cluster_size, b"\0"))
    why = f"a new table; guest data behind its first {head.l1_size} entries is given up"
    set_field(draft, "l1_size", needed, code, why, lossy=True)
    set_field(draft, "l1_table_offset", offset, code, "the new table", lossy=True)
    start = head.l1_size * geometry.bytes_per_l1_entry
    draft.tell(LOST, 0, np.array([start]), np.array([geometry.virtual_size - start]))
    return True


def _continuation(draft: Draft, needed: int) -> Words | None:
    """Return the entries behind the L1 table up to *needed*, None if they are none."""
    head, geometry, made = draft.image.header, draft.image.geometry, draft.made
    start = head.l1_table_offset + head.l1_size * ENTRY_SIZE
    end = head.l1_table_offset + needed * ENTRY_SIZE
    if not head.l1_table_offset or end > geometry.file_length:
        return None
    more = words(draft.overlay.read(start, end - start))
    present = made.entries.target[made.entries.layer == 0]
    if not _lead_to_tables(draft, more, present):
        return None
    size = geometry.cluster_size
    behind = np.arange(-(-start // size), -(-end // size))
    if made.tally.owners[behind].any():
        return None
    used = np.flatnonzero(more) * ENTRY_SIZE + start
    used = np.unique(used[used >= -(-start // size) * size] >> geometry.cluster_bits)
    refcounts, _ = made.stored.lookup(used)
    metadata = _metadata(draft)
    target = (more & np.uint64(OFFSET_MASK)).astype(np.int64) >> geometry.cluster_bits
    owned = (made.tally.owners[target[more != 0]] & (DATA | COMPRESSED)) != 0
    clear = not owned.any() and not np.isin(target[more != 0], metadata).any()
    return more if clear and (refcounts > 0).all() else None


def _lead_to_tables(draft: Draft, entries: Words, others: IntArray) -> bool:
    """Tell whether L1 entries are such: 0, or each to an aligned place of its own in the file."""
    geometry = draft.image.geometry
    used = entries[entries != 0]
    target = (used & np.uint64(OFFSET_MASK)).astype(np.int64)
    wrong = (used & np.uint64(L1_RESERVED)) != 0
    wrong |= (target == 0) | (target % geometry.cluster_size != 0)
    wrong |= target >= geometry.file_length
    distinct = np.unique(target).size == target.size and not np.isin(target, others).any()
    return bool(distinct and not wrong.any())


def _metadata(draft: Draft, *, but_active_l1: bool = False) -> IntArray:
    """Return the clusters of all metadata structures but L2 tables."""
    first, count, kind, which = draft.made.tally.extents()
    chosen = kind != Kind.L2_TABLE
    if but_active_l1:
        chosen &= (kind != Kind.L1_TABLE) | (which != 0)
    parts = [
        np.arange(low, low + units)
        for low, units in zip(first[chosen].tolist(), count[chosen].tolist(), strict=True)
    ]
    return np.unique(np.concatenate((NO_INTS, *parts)))


PLANNERS = (
    round_virtual_size,
    guess_virtual_size,
    shrink_l1_table,
    trim_l1_table,
    extend_l1_table,
)
