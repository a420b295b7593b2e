"""The L1 tables of the active layer and of every snapshot, and the L2 tables they lead to."""

from dataclasses import dataclass

import numpy as np

from qfix.arrays import BoolArray, IntArray, Words
from qfix.image import Image
from qfix.layout import header
from qfix.layout.tables import COPIED, ENTRY_SIZE, L1_RESERVED, OFFSET_MASK
from qfix.problems import tables as problems
from qfix.problems.model import Problem
from qfix.recount.tally import (
    ACTIVE,
    COPIED_CLEAR,
    COPIED_SET,
    INACTIVE,
    METADATA,
    Kind,
    Tally,
)

ENTRY_BUDGET = 16 << 20
ACTIVE_LAYER = 0


@dataclass(frozen=True, slots=True)
class L1Entries:
    """The nonzero L1 entries of all layers, as columns of equal length.

    `layer` is 0 for the active layer, n for snapshot n-1; `weight` how many snapshots share
    exactly this table; `position` the entry's byte offset in the file.
    """

    entry: Words
    index: IntArray
    layer: IntArray
    weight: IntArray
    position: IntArray

    @property
    def target(self) -> IntArray:
        """The L2 table offsets."""
        return (self.entry & np.uint64(OFFSET_MASK)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class L2Tables:
    """Each distinct L2 table once, in the order to read them, as columns of equal length.

    `visits` counts the L1 entries that lead to it, `active_visits` those of the active layer,
    `snapshot_visits` the others; `index` and `layer` are those of its first user. Tables of one
    L1 index stand together; `follows` marks one that has the same index as its predecessor.
    `several` marks one that L1 entries of different index lead to.
    """

    offset: IntArray
    index: IntArray
    layer: IntArray
    visits: IntArray
    active_visits: IntArray
    snapshot_visits: IntArray
    follows: BoolArray
    several: BoolArray

    def part(self, chosen: BoolArray | IntArray | slice) -> "L2Tables":
        """Return some of the tables."""
        return L2Tables(*(getattr(self, name)[chosen] for name in L2Tables.__slots__))


def read_l1_entries(image: Image, tally: Tally) -> L1Entries:
    """Claim every L1 table and return the nonzero entries of all of them."""
    head = image.header
    size = min(head.l1_size, header.MAX_L1_ENTRIES)
    tables = {(head.l1_table_offset, size, True): (ACTIVE_LAYER, 1)}
    tally.claim(head.l1_table_offset, size * ENTRY_SIZE, Kind.L1_TABLE, ACTIVE_LAYER)
    for snapshot in image.snapshots:
        entry = snapshot.entry
        misplaced = entry.l1_table_offset % image.geometry.cluster_size
        if misplaced or entry.l1_size > header.MAX_L1_ENTRIES:
            tally.corruptions += 1
            continue
        layer = snapshot.index + 1
        tally.claim(entry.l1_table_offset, entry.l1_size * ENTRY_SIZE, Kind.L1_TABLE, layer)
        key = (entry.l1_table_offset, entry.l1_size, False)
        first, weight = tables.get(key, (layer, 0))
        tables[key] = (first, weight + 1)
    return _nonzero_entries(image, tally, tables)


def _nonzero_entries(
    image: Image, tally: Tally, tables: dict[tuple[int, int, bool], tuple[int, int]]
) -> L1Entries:
    budget = ENTRY_BUDGET + image.geometry.file_length // ENTRY_SIZE
    columns: list[tuple[Words, IntArray, IntArray, IntArray, IntArray]] = []
    skipped = 0
    for (offset, size, active), (layer, weight) in tables.items():
        if size > budget:
            skipped += size
            continue
        words = image.table(offset, size, "an L1 table")
        budget -= words.size
        used = np.flatnonzero(words)
        statistics = tally.statistics.l1[0 if active else 1]
        statistics.unused += weight * (size - used.size)
        full = np.full_like(used, 1)
        place = used * ENTRY_SIZE + (offset if words.size else 0)
        columns.append((words[used], used, full * layer, full * weight, place))
    if skipped:
        tally.found.add(problems.L1_OVERLAPPING, first=[0], skipped=skipped)
    return L1Entries(*(np.concatenate(parts) for parts in zip(*columns, strict=True)))


def check_l1_entries(image: Image, tally: Tally, entries: L1Entries) -> None:
    """Find damaged L1 entries and count as qemu-img does what it counts of them."""
    size = image.geometry.cluster_size
    target = entries.target
    reserved = (entries.entry & np.uint64(L1_RESERVED)) != 0
    unaligned = target % size != 0
    outside = (target + size - image.geometry.file_length >= size) & (target > 0)
    empty = target == 0
    for wrong in (reserved, unaligned, target + size - image.geometry.file_length >= size):
        tally.corruptions += int(entries.weight[wrong].sum())
    found = (
        (problems.L1_RESERVED_BITS, reserved & ~empty),
        (problems.L1_UNALIGNED, unaligned),
        (problems.L1_OUTSIDE_FILE, outside & ~unaligned),
        (problems.L1_FLAGS_ONLY, empty),
    )
    for problem, wrong in found:
        _report(image, tally, problem, entries, wrong)
    _count_entries(tally, entries, unaligned, outside, empty)


def _report(
    image: Image, tally: Tally, problem: Problem, entries: L1Entries, wrong: BoolArray
) -> None:
    reach = image.geometry.bytes_per_l1_entry
    index = entries.index[wrong]
    tally.found.add(
        problem,
        first=index,
        index=index,
        layer=entries.layer[wrong],
        host=entries.position[wrong],
        entry=entries.entry[wrong],
        target=entries.target[wrong],
        guest=index * reach,
        guest_length=reach,
    )


def _count_entries(
    tally: Tally, entries: L1Entries, unaligned: BoolArray, outside: BoolArray, empty: BoolArray
) -> None:
    invalid = outside & ~unaligned
    for active, statistics in enumerate(reversed(tally.statistics.l1)):
        layer = (entries.layer == ACTIVE_LAYER) == bool(active)
        weight = entries.weight
        statistics.unaligned += int(weight[layer & unaligned].sum())
        statistics.invalid += int(weight[layer & invalid].sum())
        statistics.unused += int(weight[layer & empty].sum())
        sound = layer & ~unaligned & ~invalid & ~empty
        statistics.used += int(weight[sound].sum())


def collect_l2_tables(image: Image, tally: Tally, entries: L1Entries) -> L2Tables:
    """Claim every L2 table and return each once, with how often it is visited."""
    target = entries.target
    order = np.lexsort((entries.layer, target))
    target, layer = target[order], entries.layer[order]
    index, weight = entries.index[order], entries.weight[order]
    starts = np.flatnonzero(np.diff(target, prepend=-1))
    if not starts.size:
        nothing = np.zeros(0, np.int64)
        none = np.zeros(0, np.bool_)
        return L2Tables(nothing, nothing, nothing, nothing, nothing, nothing, none, none)
    visits = np.add.reduceat(weight, starts)
    active = np.add.reduceat(np.where(layer == ACTIVE_LAYER, weight, 0), starts)
    several = np.minimum.reduceat(index, starts) != np.maximum.reduceat(index, starts)
    tables = L2Tables(
        target[starts],
        index[starts],
        layer[starts],
        visits,
        active,
        visits - active,
        np.zeros(starts.size, np.bool_),
        several,
    )
    _claim_tables(image, tally, tables)
    _claim_copied(image, tally, entries)
    _report_shared(image, tally, entries)
    readable = (tables.offset >= 0) & (tables.offset < image.geometry.file_length)
    return _in_reading_order(tables.part(readable))


def _claim_tables(image: Image, tally: Tally, tables: L2Tables) -> None:
    bits = image.geometry.cluster_bits
    inside = tables.offset + image.geometry.cluster_size - image.geometry.file_length
    counted = inside < image.geometry.cluster_size
    offset = tables.offset[counted]
    first = offset >> bits
    count = ((offset + image.geometry.cluster_size - 1) >> bits) - first + 1
    visits = tables.visits[counted]
    users = (tables.active_visits > 0).astype(np.int64) + 2 * (tables.snapshot_visits > 0)
    key = visits * 4 + users[counted]
    for value in np.unique(key).tolist():
        chosen = key == value
        owners = METADATA | (ACTIVE if value & 1 else 0) | (INACTIVE if value & 2 else 0)
        tally.claim_ranges(first[chosen], count[chosen], value // 4, owners)
    real = offset > 0
    tally.add_extents(first[real], count[real], Kind.L2_TABLE, offset[real])


def _claim_copied(image: Image, tally: Tally, entries: L1Entries) -> None:
    """Note at the clusters of active L2 tables what the COPIED flags of L1 entries say."""
    active = (entries.layer == ACTIVE_LAYER) & (entries.target > 0)
    cluster = entries.target >> image.geometry.cluster_bits
    active &= cluster < tally.size
    flagged = (entries.entry & np.uint64(COPIED)) != 0
    for chosen, bit in ((active & flagged, COPIED_SET), (active & ~flagged, COPIED_CLEAR)):
        at = cluster[chosen]
        tally.owners[at] |= np.uint8(bit)


def _report_shared(image: Image, tally: Tally, entries: L1Entries) -> None:
    """Find L1 entries of one layer that lead to the same L2 table as an earlier one."""
    target = entries.target
    order = np.lexsort((entries.index, target, entries.layer))
    layer, place = entries.layer[order], target[order]
    again = np.zeros(order.size, np.bool_)
    again[1:] = (layer[1:] == layer[:-1]) & (place[1:] == place[:-1]) & (place[1:] > 0)
    heads = np.maximum.accumulate(np.where(again, 0, np.arange(order.size)))
    later = order[again]
    reach = image.geometry.bytes_per_l1_entry
    tally.found.add(
        problems.L1_SAME_TABLE,
        first=entries.index[later],
        index=entries.index[later],
        layer=entries.layer[later],
        host=entries.position[later],
        target=target[later],
        other=entries.index[order][heads[again]],
        guest=entries.index[later] * reach,
        guest_length=reach,
        fold=target[later],
    )


def _in_reading_order(tables: L2Tables) -> L2Tables:
    """Sort tables by host offset, those of one L1 index together, the active one last."""
    by_index = np.argsort(tables.index, kind="stable")
    index = tables.index[by_index]
    starts = np.flatnonzero(np.diff(index, prepend=-1))
    if not starts.size:
        return tables
    lowest = np.minimum.reduceat(tables.offset[by_index], starts)
    group = np.empty(index.size, np.int64)
    group[by_index] = np.repeat(lowest, np.diff(np.append(starts, index.size)))
    rank = np.where(tables.layer == ACTIVE_LAYER, np.iinfo(np.int64).max, tables.layer)
    ordered = tables.part(np.lexsort((rank, group)))
    follows = np.zeros(index.size, np.bool_)
    follows[1:] = ordered.index[1:] == ordered.index[:-1]
    names = L2Tables.__slots__
    columns = {name: getattr(ordered, name) for name in names} | {"follows": follows}
    return L2Tables(**columns)
