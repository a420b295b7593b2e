"""Who holds each host cluster, without the claims of what is no table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qfix.arrays import NO_INTS, spread, unpack_refcounts
from qfix.layout.tables import L1_RESERVED
from qfix.problems import header, snapshots
from qfix.problems import tables as problems
from qfix.recount.batches import by_row, read_batches
from qfix.recount.entries import decode
from qfix.recount.nonsense import FAR, NOWHERE, faulty_tables, impossible
from qfix.recount.tally import CLASH, COMPRESSED, DATA, METADATA, Kind
from qfix.recount.walk import are_tables, headless_layers

if TYPE_CHECKING:
    from qfix.arrays import BoolArray, ByteArray, IntArray
    from qfix.change.draft import Draft
    from qfix.recount.entries import Entries
    from qfix.recount.l2 import L2Tables

REFTABLE = (header.REFTABLE_OFFSET, header.REFTABLE_OUTSIDE, header.REFTABLE_TOO_LARGE)
BOGUS = (
    problems.L1_UNALIGNED,
    problems.L1_FLAGS_ONLY,
    header.L1_OUTSIDE,
    header.L1_OFFSET,
    *REFTABLE,
)
"""Where QEMU reads as an L2 table what is none; its entries count, but nobody relies on them."""

DAMAGED = (
    snapshots.L1_UNALIGNED,
    snapshots.L1_TOO_LARGE,
    snapshots.L1_OUTSIDE,
    snapshots.L1_EMPTY,
    snapshots.PHANTOM,
)

SNAPSHOT_TABLE = (snapshots.TABLE_OUTSIDE, snapshots.OVERRUN, snapshots.TOO_MANY)
FEWEST_FAULTS = 4
FIXED = (Kind.HEADER, Kind.SNAPSHOT_TABLE, Kind.REFCOUNT_TABLE, Kind.ENCRYPTION_HEADER)
MOST_ASTRAY = 64
BELIEVED = 0.75


def real_owners(draft: Draft) -> ByteArray:
    """Return the owner bits of each cluster of the tally, those of real tables and entries only.

    METADATA, DATA, COMPRESSED and CLASH are set; where all tables are real, other bits too. In a
    literal plan all tables are.
    """
    tally = draft.made.tally
    if draft.literal:
        return tally.owners[: tally.size]
    bogus = draft.found(*BOGUS) or damaged_layers(draft) or headless_layers(draft.image).size
    if not bogus and not (draft.lossy and bogus_tables(draft).size):
        return tally.owners[: tally.size]
    if draft.owners is None or draft.owners.size != tally.size:
        draft.owners = _recounted(draft)
    return draft.owners


def damaged_layers(draft: Draft) -> list[int]:
    """Return the snapshots' layers whose L1 tables are not where, or as long as, they are said."""
    layers: set[int] = set()
    for problem in DAMAGED:
        found = draft.now.find(problem)
        if found is not None:
            layers.update(row["first"] + 1 for row in found.rows())
    return sorted(layers.union(astray_layers(draft) if draft.lossy else ()))


def astray_layers(draft: Draft) -> list[int]:
    """Return the snapshots' layers that are said to have their L1 tables where something else is.

    That is an L2 table, or metadata that the header leads to, and half of the entries there or more
    lead to what is no table.
    """
    if draft.astray is None:
        clash = draft.found(problems.METADATA_ON_METADATA)
        draft.astray = _on_other_metadata(draft) if clash else []
    return draft.astray


def _on_other_metadata(draft: Draft) -> list[int]:
    first, count, kind, layer = draft.made.tally.extents()
    l1 = (kind == Kind.L1_TABLE) & (first > 0) & (layer > 0)
    found, bits, entries = draft.made.tables, draft.image.geometry.cluster_bits, draft.made.entries
    shared = np.isin(found.offset >> bits, spread(first[l1], count[l1])) & (found.offset > 0)
    sound = np.setdiff1d(found.offset[shared], mostly_faulty(draft, found.part(shared), 1)) >> bits
    fixed = np.isin(kind, FIXED) | ((kind == Kind.L1_TABLE) & (layer == 0))
    taken = np.unique(spread(first[fixed], count[fixed]))
    first, end, layer = first[l1], (first + count)[l1], layer[l1]
    on_l2 = np.searchsorted(sound, first) < np.searchsorted(sound, end)
    on_fixed = np.searchsorted(taken, first) < np.searchsorted(taken, end)
    layers: list[int] = []
    for at in np.flatnonzero(on_l2 | on_fixed)[:MOST_ASTRAY].tolist():
        target, mine = entries.target, entries.layer == layer[at]
        on = (target >> bits >= first[at]) & (target >> bits < end[at]) & ~mine
        if (on_fixed[at] or on.any()) and _leads_to_no_tables(draft, mine):
            layers += entries.sharers.get(int(layer[at]), [int(layer[at])])
    return layers


def _leads_to_no_tables(draft: Draft, mine: BoolArray) -> bool:
    """Tell whether half of some L1 entries or more make no sense, or lead to what is no table."""
    geometry, found = draft.image.geometry, draft.made.tables
    target = draft.made.entries.target[mine]
    none = mostly_faulty(draft, found.part(np.isin(found.offset, target)), 1)
    wrong = (draft.made.entries.entry[mine] & np.uint64(L1_RESERVED)) != 0
    wrong |= (target % geometry.cluster_size != 0) | (target > FAR * geometry.file_length)
    wrong |= np.isin(target, none)
    return 2 * int(wrong.sum()) >= target.size > 0


def sound_entries(draft: Draft) -> BoolArray:
    """Tell which L1 entries of the recount are of layers that are not damaged."""
    entries = draft.made.entries
    sound: BoolArray = ~np.isin(entries.layer, damaged_layers(draft))
    return sound


def bogus_tables(draft: Draft) -> IntArray:
    """Return the offsets of what is led to as L2 tables and is none.

    Most entries there make no sense, or other metadata is there. The second reason, and one bad
    entry that shares its cluster, count only in a plan that may give something up.
    """
    if draft.bogus is None:
        draft.bogus = _no_tables(draft)
    return draft.bogus


def _no_tables(draft: Draft) -> IntArray:
    found = NO_INTS
    if draft.found(*NOWHERE):
        found = mostly_faulty(draft, draft.made.tables, FEWEST_FAULTS)
    clash = draft.found(problems.METADATA_ON_METADATA, problems.DATA_ON_METADATA)
    if not draft.lossy or not clash:
        return found
    cluster = draft.made.tables.offset >> draft.image.geometry.cluster_bits
    owners = draft.made.tally.owners
    shared = (owners[np.minimum(cluster, owners.size - 1)] & CLASH) != 0
    faulty = mostly_faulty(draft, draft.made.tables.part(shared), 1, far=1)
    held = np.isin(cluster, _trusted(draft)) & (draft.made.tables.offset > 0)
    return np.unique(np.concatenate((found, faulty, draft.made.tables.offset[held])))


def _trusted(draft: Draft) -> IntArray:
    """Return the clusters of metadata that can be nothing else: where the header leads, and so on.

    Refcount structures are such as long as most of their entries make sense.
    """
    first, count, kind, which = draft.made.tally.extents()
    sound = np.isin(kind, (Kind.HEADER, Kind.ENCRYPTION_HEADER)) & (count > 0)
    sound |= (kind == Kind.L1_TABLE) & (first > 0) & ~np.isin(which, damaged_layers(draft))
    if not draft.found(*SNAPSHOT_TABLE):
        sound |= kind == Kind.SNAPSHOT_TABLE
    reftable = draft.made.tally.statistics.reftable
    if reftable.used > reftable.unaligned + reftable.invalid:
        sound |= (kind == Kind.REFCOUNT_TABLE) | (kind == Kind.REFCOUNT_BLOCK)
    return np.setdiff1d(spread(first[sound], count[sound]), misled_blocks(draft))


def is_believed(draft: Draft, block: int) -> bool:
    """Tell whether a block's refcounts equal most references: then it was not overwritten."""
    tally, geometry = draft.made.tally, draft.image.geometry
    raw = draft.overlay.read(int(draft.made.reftable.offset[block]), geometry.cluster_size)
    stored = unpack_refcounts(np.frombuffer(raw, np.uint8), geometry.refcount_order)
    start = block * geometry.refcounts_per_block
    counted = tally.counted[start : min(start + stored.size, tally.size)]
    used = counted > 0
    return bool(used.any()) and bool((stored[: counted.size] == counted)[used].mean() >= BELIEVED)


def misled_blocks(draft: Draft) -> IntArray:
    """Return the clusters that are said to be refcount blocks, and are L2 tables by what they hold.

    Most of the entries there lead into the file, and the refcounts would not agree with what was
    counted.
    """
    if not draft.found(problems.METADATA_ON_METADATA):
        return NO_INTS
    image, made, bits = draft.image, draft.made, draft.image.geometry.cluster_bits
    first, _, kind, which = made.tally.extents()
    block = (kind == Kind.REFCOUNT_BLOCK) & (first > 0)
    block &= np.isin(first, made.tables.offset[made.tables.offset % (1 << bits) == 0] >> bits)
    doubtful = [
        cluster
        for cluster, number in zip(first[block].tolist(), which[block].tolist(), strict=True)
        if not is_believed(draft, number)
    ]
    found = [NO_INTS]
    suspects = made.tables.part(np.isin(made.tables.offset >> bits, doubtful))
    for batch in read_batches(image, suspects):
        entries, rows = decode(image, batch), batch.tables.offset.size
        inside = (entries.offset > 0) & (entries.offset < image.geometry.file_length)
        inside &= (entries.standard | entries.compressed) & ~impossible(image, entries)
        sound, used = by_row(entries.row[inside], rows), by_row(entries.row, rows)
        found.append(batch.tables.offset[(sound > 0) & (5 * sound >= 4 * used)] >> bits)
    return np.unique(np.concatenate(found))


def mostly_faulty(draft: Draft, suspects: L2Tables, fewest: int, far: int = FAR) -> IntArray:
    """Return the offsets of tables of whose entries most are impossible, see `nonsense`."""
    return faulty_tables(draft.image, suspects, fewest, far)


def sound_tables(draft: Draft) -> L2Tables:
    """Return the L2 tables that a sound layer leads to, without those that are none."""
    made, bogus = draft.made, bogus_tables(draft)
    if not damaged_layers(draft) and not bogus.size:
        return made.tables
    led_to = made.entries.target[sound_entries(draft)]
    sound = np.isin(made.tables.offset, led_to) & ~np.isin(made.tables.offset, bogus)
    return made.tables.part(sound)


def _recounted(draft: Draft) -> ByteArray:
    tally, image = draft.made.tally, draft.image
    geometry = image.geometry
    owners = np.zeros(tally.size, np.uint8)
    first, count, kind, which = tally.extents()
    bogus = (kind == Kind.L2_TABLE) & (which % geometry.cluster_size != 0)
    bogus |= (kind == Kind.L1_TABLE) & ((first == 0) | np.isin(which, damaged_layers(draft)))
    if draft.found(*REFTABLE):
        bogus |= (kind == Kind.REFCOUNT_TABLE) | (kind == Kind.REFCOUNT_BLOCK)
    tables = sound_tables(draft)
    bogus |= (kind == Kind.L2_TABLE) & ~np.isin(which, tables.offset)
    for low, units in zip(first[~bogus].tolist(), count[~bogus].tolist(), strict=True):
        part = owners[low : low + units]
        part |= np.where(part & METADATA, np.uint8(CLASH), np.uint8(METADATA))
    headless = headless_layers(image)
    if geometry.data_file:
        return owners
    for batch in read_batches(image, tables):
        entries = decode(image, batch)
        real = are_tables(image, batch.tables, headless)[entries.row]
        aligned = entries.standard & (entries.offset % geometry.cluster_size == 0)
        for chosen, bit in ((aligned, DATA), (entries.compressed, COMPRESSED)):
            held = _clusters(entries, chosen & real, geometry.cluster_bits, tally.size)
            clash = held[(owners[held] & METADATA) != 0]
            owners[held] |= np.uint8(bit)
            owners[clash] |= np.uint8(CLASH)
    return owners


def _clusters(entries: Entries, chosen: BoolArray, bits: int, size: int) -> IntArray:
    """Return the first and the last cluster of the *chosen* entries, as far as there are such."""
    first = entries.offset[chosen] >> bits
    last = (entries.offset[chosen] + entries.length[chosen] - 1) >> bits
    both = np.union1d(first, last)
    return both[both < size]


def may_write(draft: Draft, clusters: IntArray) -> BoolArray:
    """Tell which *clusters* hold metadata alone: no guest data, and nothing else of another kind.

    Those that the plan has added are such.
    """
    owners = real_owners(draft)
    inside = clusters < owners.size
    taken = owners[np.where(inside, clusters, 0)] & (DATA | COMPRESSED | CLASH)
    alone: BoolArray = ~inside | (taken == 0)
    return alone
