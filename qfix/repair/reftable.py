"""Pass R: refcount table and blocks in sound places; what can't stay is made anew (format 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qfix.arrays import NO_INTS, IntArray, Words, pack_refcounts, spread, unpack_refcounts
from qfix.change.allocate import NoRoomError, allocate, allocate_each, can_grow, next_cluster
from qfix.change.draft import Change, Left
from qfix.layout.header import CRYPT_LUKS, MAX_REFCOUNT_TABLE_BYTES
from qfix.layout.tables import ENTRY_SIZE
from qfix.problems import header, refcounts, tables
from qfix.recount.tally import CLASH, Kind
from qfix.repair.headers import set_field
from qfix.repair.owners import BELIEVED, is_believed, misled_blocks, real_owners
from qfix.repair.reuse import suspect
from qfix.repair.unknown import that_hold_something

if TYPE_CHECKING:
    from qfix.arrays import BoolArray
    from qfix.change.draft import Draft
    from qfix.repair.wanted import Wanted

TABLE_UNFIT = (
    header.REFTABLE_OFFSET,
    header.REFTABLE_OUTSIDE,
    header.REFTABLE_EMPTY,
    header.REFTABLE_TOO_LARGE,
    refcounts.TABLE_TOO_SMALL,
)
BLOCKS_UNFIT = (
    refcounts.RT_RESERVED_BITS,
    refcounts.RT_UNALIGNED,
    refcounts.RT_OUTSIDE_FILE,
    refcounts.BLOCK_SHARED,
    refcounts.BLOCK_MISSING,
)

MOST_OLD = 256


class Structure(NamedTuple):
    """What of the refcount structure can stay: block offsets by index, 0 for none; the table.

    `believed` are blocks that have to move, but whose refcounts agree with most references.
    """

    blocks: IntArray
    table_stays: bool
    believed: IntArray


def rebuild_refcount_structure(draft: Draft, wanted: Wanted) -> bool:
    """Give every range in use a refcount block of its own, and the table a sound place.

    Blocks that are sound stay; what else there was is left to who shares the clusters, or free.
    """
    if not wanted.errors or draft.found(header.REFCOUNT_ORDER):
        return False
    clashing = _clashes(draft, Kind.REFCOUNT_TABLE) and not _data_moves_instead(draft, wanted)
    unfit = clashing or _clashes(draft, Kind.REFCOUNT_BLOCK)
    if not unfit and not draft.found(*TABLE_UNFIT, *BLOCKS_UNFIT):
        return False
    kept = _what_stays(draft, wanted, table_stays=not clashing and not draft.found(*TABLE_UNFIT))
    if kept is None:
        return False
    try:
        return _place(draft, kept)
    except NoRoomError as error:
        draft.leave("room", Left((refcounts.BLOCK_MISSING.code,), str(error), "--lossy"))
        return False


def _data_moves_instead(draft: Draft, wanted: Wanted) -> bool:
    """Tell whether the table can stay because only guest data leads to it, which moves or is left.

    Were the table to move, nothing would tell any more that the data is not the guest's own.
    """
    counts = draft.made.tally.statistics.reftable
    sound = counts.used > counts.unaligned + counts.invalid
    only_data = draft.found(tables.DATA_ON_METADATA) and not draft.found(
        tables.METADATA_ON_METADATA
    )
    return wanted.reuse and sound and only_data and draft.image.header.crypt_method != CRYPT_LUKS


def _clashes(draft: Draft, wanted: Kind) -> bool:
    """Tell whether the refcount table, or one of its blocks, shares a cluster with something."""
    first, count, kind, _ = draft.made.tally.extents()
    owners = real_owners(draft)
    clusters = spread(first[kind == wanted], count[kind == wanted])
    clusters = clusters[(clusters < owners.size) & ~np.isin(clusters, _under_tables(draft))]
    return bool((owners[clusters] & CLASH).any())


def _under_tables(draft: Draft) -> IntArray:
    """Return the clusters of the refcount structure that an L1 entry takes for an L2 table.

    Without losses they stay, for were they to move, nothing would tell that the entry is wrong;
    unless it is right by all that is in the cluster.
    """
    counts = draft.made.tally.statistics.reftable
    if draft.lossy or draft.literal or counts.used <= counts.unaligned + counts.invalid:
        return NO_INTS
    first, count, kind, _ = draft.made.tally.extents()
    own = np.isin(kind, (Kind.REFCOUNT_TABLE, Kind.REFCOUNT_BLOCK))
    held = spread(first[own], count[own])
    table = spread(first[kind == Kind.L2_TABLE], count[kind == Kind.L2_TABLE])
    return np.setdiff1d(np.intersect1d(held, table), misled_blocks(draft))


def _what_stays(draft: Draft, wanted: Wanted, *, table_stays: bool) -> Structure | None:
    """Return the blocks that are aligned, in the file, and shared with nothing.

    Returns None where all that is wrong is guest data that leads to sound blocks, and is to move.
    """
    geometry, table = draft.image.geometry, draft.made.reftable
    if draft.found(header.REFTABLE_OFFSET, header.REFTABLE_OUTSIDE, header.REFTABLE_TOO_LARGE):
        return Structure(NO_INTS, table_stays=False, believed=NO_INTS)
    offset = table.offset.copy()
    sound = (offset > 0) & (offset % geometry.cluster_size == 0)
    sound &= offset < geometry.file_length
    cluster = np.where(sound, offset >> geometry.cluster_bits, 0)
    reserved = sound & ((table.entry & np.uint64(0x1FF)) != 0)
    owners = real_owners(draft)[cluster]
    alone = np.where(reserved, owners == 0, (owners & CLASH) == 0)
    alone |= sound & np.isin(cluster, _under_tables(draft))
    first_use = ~_repeated(cluster)
    shared = np.flatnonzero(sound & ~alone & first_use)
    believed = np.array([at for at in shared.tolist() if is_believed(draft, at)], np.int64)
    sound &= alone & first_use
    if wanted.reuse and table_stays and shared.size and believed.size == shared.size:
        others = [item for item in BLOCKS_UNFIT if item is not refcounts.BLOCK_SHARED]
        only_data = not draft.found(tables.METADATA_ON_METADATA, *others)
        if only_data and draft.found(tables.DATA_ON_METADATA):
            return None
    return Structure(np.where(sound, offset, 0), table_stays, believed)


def _repeated(cluster: IntArray) -> BoolArray:
    """Tell which clusters stand earlier in the array too."""
    repeated = np.ones(cluster.size, np.bool_)
    repeated[np.unique(cluster, return_index=True)[1]] = False
    return repeated


def _used_blocks(draft: Draft) -> IntArray:
    """Return the indexes of the blocks whose ranges hold clusters that are in use."""
    tally, per = draft.made.tally, draft.image.geometry.refcounts_per_block
    starts = np.arange(0, tally.size, per)
    used = np.logical_or.reduceat(tally.counted[: tally.size] > 0, starts)
    return np.flatnonzero(used)


def _place(draft: Draft, kept: Structure) -> bool:
    """Find a place for new blocks, and for the table where it can't stay; write them."""
    geometry = draft.image.geometry
    per, size = geometry.refcounts_per_block, geometry.cluster_size
    have = np.flatnonzero(kept.blocks)
    new = np.setdiff1d(_used_blocks(draft), have)
    room = draft.made.reftable.entries_total if kept.table_stays else 0
    table = 0
    end = next_cluster(draft)
    growing = can_grow(draft)
    while True:
        highest = max(int(new.max(initial=-1)), int(have.max(initial=-1))) + 1
        if highest > room:
            table = -(-highest * ENTRY_SIZE // size)
        if growing:
            places = np.arange(end, end + table + new.size)
        else:
            draft.taken.clear()
            first = allocate(draft, table) if table else 0
            places = np.arange(first, first + table)
            places = np.concatenate((places, allocate_each(draft, new.size)))
        more = np.setdiff1d(np.unique(places // per), np.union1d(have, new))
        if not more.size:
            break
        new = np.union1d(new, more)
    if growing and places.size:
        allocate(draft, places.size)
    if table * size > MAX_REFCOUNT_TABLE_BYTES:
        raise NoRoomError(
            f"{draft.overlay.path}: a refcount table of {table} clusters is too large"
        )
    _write(draft, kept, new, places, table)
    return True


def _write(draft: Draft, kept: Structure, new: IntArray, places: IntArray, table: int) -> None:
    """Write new blocks, and the table; *places* holds its clusters first, then the blocks'."""
    geometry = draft.image.geometry
    bits = geometry.cluster_bits
    dropped = _dropped_clusters(draft, kept, table > 0)
    for block, place in zip(new.tolist(), places[table:].tolist(), strict=True):
        _write_block(draft, block, place << bits, places, dropped, kept.believed)
    entries = np.zeros(max(kept.blocks.size, int(new.max(initial=-1)) + 1), np.int64)
    entries[: kept.blocks.size] = kept.blocks
    entries[new] = places[table:] << bits
    size = geometry.cluster_size
    total = table * size // ENTRY_SIZE if table else draft.made.reftable.entries_total
    words = np.zeros(total, ">u8")
    words[: entries.size] = entries[:total]
    old = draft.image.header.refcount_table_offset
    offset = int(places[0]) << bits if table else old
    if table:
        draft.write(offset, words.tobytes())
        where = f"{table} clusters at {offset:#x}"
        set_field(draft, "refcount_table_offset", offset, _code(draft), f"refcount table: {where}")
        set_field(draft, "refcount_table_clusters", table, _code(draft), "its clusters")
    else:
        _rewrite_table(draft, offset, words)
    _note_entries(draft, words.astype(np.uint64), new)
    suspect(draft, tables.DATA_ON_METADATA)


def _rewrite_table(
    draft: Draft, offset: int, words: np.ndarray[tuple[int], np.dtype[np.void]]
) -> None:
    """Write those clusters of the table that differ."""
    raw, size = words.tobytes(), draft.image.geometry.cluster_size
    for start in range(0, len(raw), size):
        if draft.overlay.read(offset + start, size) != raw[start : start + size]:
            if offset + start + size > draft.overlay.size:
                draft.overlay.grow(offset + start + size)
            draft.write(offset + start, raw[start : start + size])


def _dropped_clusters(draft: Draft, kept: Structure, table_moves: bool) -> IntArray:
    """Return the clusters that the refcount structure gives up, one for each reference."""
    first, count, kind, which = draft.made.tally.extents()
    blocks = (kind == Kind.REFCOUNT_BLOCK) & (first << draft.image.geometry.cluster_bits > 0)
    stays = np.zeros(first.size, np.bool_)
    known = blocks & (which < kept.blocks.size)
    stays[known] = kept.blocks[which[known]] > 0
    gone = (blocks & ~stays) | (table_moves & (kind == Kind.REFCOUNT_TABLE))
    parts = [
        np.arange(low, low + units)
        for low, units in zip(first[gone].tolist(), count[gone].tolist(), strict=True)
    ]
    return np.concatenate([NO_INTS, *parts])


def _write_block(
    draft: Draft,
    block: int,
    offset: int,
    places: IntArray,
    dropped: IntArray,
    believed: IntArray,
) -> None:
    """Write a block of counted references, as they will be once the plan's blocks are in place.

    The leaks that a *believed* block tells stay such; where nothing is known, what holds something
    counts as leaked: whether to free it is decided elsewhere.
    """
    tally, geometry = draft.made.tally, draft.image.geometry
    per = geometry.refcounts_per_block
    start, end = block * per, min((block + 1) * per, tally.size)
    counts = np.zeros(per, np.int64)
    if start < end:
        counts[: end - start] = tally.counted[start:end]
    for clusters, step in ((places, 1), (dropped, -1)):
        inside = clusters[(clusters >= start) & (clusters < start + per)] - start
        np.add.at(counts, inside, step)
    if block not in believed:
        unknown = np.flatnonzero(counts[: max(0, end - start)] == 0) + start
        unknown = np.setdiff1d(unknown, np.union1d(dropped, places))
        held = that_hold_something(draft, unknown)
        counts[held[~_are_old_blocks(draft, held, counts)] - start] = 1
    else:
        raw = draft.overlay.read(int(draft.made.reftable.offset[block]), geometry.cluster_size)
        stored = unpack_refcounts(np.frombuffer(raw, np.uint8), geometry.refcount_order)
        counts = np.where(counts == 0, stored.astype(np.int64), counts)
    counts = np.clip(counts, 0, min(geometry.refcount_max, np.iinfo(np.int64).max))
    draft.write(offset, pack_refcounts(counts, geometry.refcount_order).tobytes())


def _are_old_blocks(draft: Draft, clusters: IntArray, counts: IntArray) -> BoolArray:
    """Tell which clusters are the block that is made anew, by what it holds, or lead to it."""
    geometry, used = draft.image.geometry, counts > 0
    old = np.zeros(clusters.size, np.bool_)
    raws = [
        np.frombuffer(
            draft.overlay.base.read(at << geometry.cluster_bits, geometry.cluster_size), "u1"
        )
        for at in clusters[:MOST_OLD].tolist()
    ]
    for at, raw in enumerate(raws):
        stored = unpack_refcounts(raw, geometry.refcount_order)
        old[at] = bool((stored[: used.size] == counts)[used].mean() >= BELIEVED)
    blocks = clusters[old] << geometry.cluster_bits
    for at, raw in enumerate(raws):
        entries = raw.view(">u8").astype(np.int64)
        old[at] |= bool(blocks.size) and bool(np.isin(entries[entries != 0], blocks).all())
    return old


def _code(draft: Draft) -> str:
    """Return the code of the finding that makes a new table necessary."""
    found = [problem.code for problem in TABLE_UNFIT if draft.now.find(problem) is not None]
    return found[0] if found else refcounts.TABLE_TOO_SMALL.code


def _note_entries(draft: Draft, words: Words, new: IntArray) -> None:
    """Say which refcount table entries change, and why."""
    old = draft.made.reftable.entry
    was = np.zeros(max(words.size, old.size), np.uint64)
    was[: old.size] = old
    now = np.zeros(was.size, np.uint64)
    now[: words.size] = words
    changed = np.union1d(np.flatnonzero(was != now), new)
    code = _code(draft)
    why = [problem.code for problem in BLOCKS_UNFIT if draft.now.find(problem) is not None]
    code = why[0] if why else code
    room = max(0, draft.room(code))
    made = set(new.tolist())
    for block in changed[:room].tolist():
        what = "is dropped" if not now[block] else "stays; the bits around it are cleared"
        what = "is made anew from the references" if block in made else what
        text = f"refcount block {block} {what}"
        values = f"{int(was[block]):#x}", f"{int(now[block]):#x}"
        draft.note(Change(code, text, int(now[block]) or None, 1, *values))
    draft.omit(code, changed.size - room)
