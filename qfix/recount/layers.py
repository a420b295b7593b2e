"""The L1 tables of the active layer and of every snapshot, and the L2 tables they lead to."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np

from qfix.arrays import AnyArray, BoolArray, IntArray, Words, grouped, runs
from qfix.image import Image
from qfix.layout import header
from qfix.layout.tables import COPIED, ENTRY_SIZE, L1_RESERVED, OFFSET_MASK
from qfix.problems import tables as problems
from qfix.problems.model import Problem
from qfix.recount.collect import MOST_ROWS
from qfix.recount.tally import (
    ACTIVE,
    COPIED_CLEAR,
    COPIED_SET,
    INACTIVE,
    METADATA,
    Kind,
    Tally,
)

ENTRY_BUDGET = 6 << 20
"""Entries of snapshots' L1 tables that are read in any case: what memory allows."""
CLUSTERS_PER_ENTRY = 32
UNALIGNED_ANYWAY, UNALIGNED_TABLES = 16, 4096
UNALIGNED_BYTES = 16 << 20
"""How many unaligned L2 tables are read: they may overlap, so the file does not bound them."""
MOST_EXTENTS = 1 << 20
ACTIVE_LAYER = 0


@dataclass(frozen=True, slots=True)
class L1Entries:
    """The nonzero L1 entries of all layers, sorted by layer and index, as columns of equal length.

    `index`, `layer` and `weight` are int32, as there may be millions: widen before multiplying.
    `layer` is 0 for the active layer, n for snapshot n-1; `weight` how many snapshots share
    exactly this table, and `sharers` which layers they are, by the first one. `places` is the
    offset of the L1 table of each layer.
    """

    entry: Words
    index: AnyArray
    layer: AnyArray
    weight: AnyArray
    places: IntArray
    sharers: Mapping[int, list[int]]

    @property
    def target(self) -> IntArray:
        """The L2 table offsets."""
        return (self.entry & np.uint64(OFFSET_MASK)).astype(np.int64)

    def position(self, at: IntArray) -> IntArray:
        """Return the byte offset in the file of the entries in the rows *at*."""
        place: IntArray = self.places[self.layer[at]] + self.index[at].astype(np.int64) * ENTRY_SIZE
        return place


@dataclass(frozen=True, slots=True)
class L2Tables:
    """Each distinct L2 table once, in the order to read them, as columns of equal length.

    `visits` counts the L1 entries that lead to it, `active_visits` those of the active layer,
    `snapshot_visits` the others; `index` and `layer` are those of its first user. Tables of one
    L1 index stand together; `follows` marks one that has the same index as its predecessor.
    `several` marks one that L1 entries of different index lead to, `hole` one that lies in a hole
    of the file: it reads as zeros, is counted already, and need not be read.
    """

    offset: IntArray
    index: IntArray
    layer: AnyArray
    visits: AnyArray
    active_visits: AnyArray
    snapshot_visits: AnyArray
    follows: BoolArray
    several: BoolArray
    hole: BoolArray

    def part(self, chosen: BoolArray | IntArray | slice) -> "L2Tables":
        """Return some of the tables."""
        return L2Tables(*(getattr(self, name)[chosen] for name in L2Tables.__slots__))


def read_l1_entries(image: Image, tally: Tally) -> L1Entries:
    """Claim every L1 table and return the nonzero entries of all of them."""
    head = image.header
    size = min(head.l1_size, header.MAX_L1_ENTRIES)
    active = (head.l1_table_offset, size, ACTIVE_LAYER)
    tally.claim(head.l1_table_offset, size * ENTRY_SIZE, Kind.L1_TABLE, ACTIVE_LAYER)
    users: dict[tuple[int, int], list[int]] = {}
    for snapshot in image.snapshots:
        entry = snapshot.entry
        misplaced = entry.l1_table_offset % image.geometry.cluster_size
        if misplaced or entry.l1_size > header.MAX_L1_ENTRIES:
            tally.corruptions += 1
            continue
        users.setdefault((entry.l1_table_offset, entry.l1_size), []).append(snapshot.index + 1)
    claims = [
        (at, size * ENTRY_SIZE, layer) for (at, size), all_ in users.items() for layer in all_
    ]
    tally.claim_overlapping(claims, Kind.L1_TABLE)
    tables = [active, *((*key, layers[0]) for key, layers in users.items())]
    return _nonzero_entries(image, tally, tables, {item[0]: item for item in users.values()})


def _nonzero_entries(
    image: Image,
    tally: Tally,
    tables: list[tuple[int, int, int]],
    sharers: Mapping[int, list[int]],
) -> L1Entries:
    """Return the nonzero entries of *tables* (offset, entries, layer), as far as memory allows."""
    budget = header.MAX_L1_ENTRIES + ENTRY_BUDGET
    budget += image.geometry.host_clusters // CLUSTERS_PER_ENTRY
    low = min(offset for offset, *_ in tables)
    high = max(offset + size * ENTRY_SIZE for offset, size, _ in tables)
    held = _held(image, low, high, sum(size for _, size, _ in tables) * ENTRY_SIZE)
    columns: list[tuple[AnyArray, ...]] = []
    places = np.zeros(max(layer for *_, layer in tables) + 1, np.int64)
    skipped = 0
    for offset, size, layer in tables:
        weight = len(sharers.get(layer, "1"))
        places[layer] = min(offset, image.geometry.file_length)
        pieces = [(0, size)] if held is None else _pieces(held, offset, size)
        if sum(count for _, count in pieces) > budget:
            skipped += size
            continue
        statistics = tally.statistics.l1[1 if layer else 0]
        statistics.unused += weight * size
        for start, count in pieces:
            entry = image.table(offset + start * ENTRY_SIZE, count, "an L1 table")
            used = np.flatnonzero(entry)
            budget -= used.size if layer == ACTIVE_LAYER else entry.size
            statistics.unused -= weight * used.size
            full = np.ones(used.size, np.int32)
            index = (used + start).astype(np.int32)
            columns.append((entry[used], index, full * np.int32(layer), full * np.int32(weight)))
    if skipped:
        what = "the L1 tables of snapshots"
        tally.found.add(problems.L1_OVERLAPPING, first=[0], skipped=skipped, what=what)
    if not columns:
        columns.append((np.zeros(0, np.uint64), *[np.zeros(0, np.int32)] * 3))
    joined = [np.concatenate(parts) for parts in zip(*columns, strict=True)]
    return L1Entries(joined[0], joined[1], joined[2], joined[3], places, sharers)


def _held(image: Image, low: int, high: int, length: int) -> IntArray | None:
    """Return what is no hole of the file between *low* and *high*, as sorted (start, end) rows.

    Returns None, not looked for, where the file takes no less on disk than the *length* of the
    structures to read: then holes would gain little.
    """
    allocated = image.file.allocated()
    if allocated is None or length <= allocated:
        return None
    high = min(high, image.geometry.file_length)
    extents = image.file.extents(low, high)
    held = list(islice(extents, MOST_EXTENTS))
    if len(held) == MOST_EXTENTS:
        held.append((held[-1][1], high))
    return np.array(held, np.int64).reshape(-1, 2)


def _pieces(held: IntArray, offset: int, size: int) -> list[tuple[int, int]]:
    """Return the (first, count) of the entries of an L1 table that are not in a hole."""
    if offset > header.MAX_FILE_OFFSET:
        return []
    low = np.searchsorted(held[:, 1], offset, "right")
    high = np.searchsorted(held[:, 0], offset + size * ENTRY_SIZE)
    first = np.maximum(held[low:high, 0] - offset, 0) // ENTRY_SIZE
    last = np.minimum(-(-(held[low:high, 1] - offset) // ENTRY_SIZE), size)
    return list(zip(first.tolist(), (last - first).tolist(), strict=True))


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
    real = entries.places[entries.layer] != 0  # the header is no L1 table
    every = np.flatnonzero(wrong & real)
    at = every[:MOST_ROWS]
    index = entries.index[at].astype(np.int64)
    tally.found.add(
        problem,
        first=entries.index[every].astype(np.int64),
        index=index,
        layer=entries.layer[at],
        host=entries.position(at),
        entry=entries.entry[at],
        target=(entries.entry[at] & np.uint64(OFFSET_MASK)).astype(np.int64),
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
    order = np.argsort(target, kind="stable")
    target = target[order]
    starts = np.flatnonzero(np.diff(target, prepend=-1))
    tables = _distinct(entries, order, target[starts], starts)
    _report_shared(image, tally, entries, order, target)
    del order, target
    _claim_tables(image, tally, tables)
    _claim_copied(image, tally, entries)
    readable = tables.offset < image.geometry.file_length
    tables = tables if readable.all() else tables.part(readable)
    tables = _without_holes(image, tally, tables)
    return _in_reading_order(_bounded(image, tally, tables))


def _distinct(entries: L1Entries, order: IntArray, target: IntArray, starts: IntArray) -> L2Tables:
    """Return the tables at the offsets *target*; *starts* is where their entries are in *order*."""
    none = np.zeros(starts.size, np.bool_)
    if not starts.size:
        nothing = np.zeros(0, np.int64)
        return L2Tables(nothing, nothing, nothing, nothing, nothing, nothing, none, none, none)
    index, weight = entries.index[order], entries.weight[order]
    several = np.minimum.reduceat(index, starts) != np.maximum.reduceat(index, starts)
    first = index[starts].astype(np.int64)
    visits = np.add.reduceat(weight, starts, dtype=np.int64)
    layer = entries.layer[order]
    weight[layer != ACTIVE_LAYER] = 0
    active = np.add.reduceat(weight, starts, dtype=np.int64)
    if visits.max() < 1 << 20:
        visits, active = visits.astype(np.int32), active.astype(np.int32)
    return L2Tables(
        target, first, layer[starts], visits, active, visits - active, none, several, none
    )


def _claim_tables(image: Image, tally: Tally, tables: L2Tables) -> None:
    bits, size = image.geometry.cluster_bits, image.geometry.cluster_size
    counted = tables.offset - image.geometry.file_length < 0
    if not counted.all():
        tables = tables.part(counted)
    first = (tables.offset >> bits).astype(np.int32)
    count = (((tables.offset + size - 1) >> bits) + 1 - first).astype(np.int32)
    key: IntArray = tables.visits * 4 + (tables.active_visits > 0)
    key += 2 * (tables.snapshot_visits > 0).astype(key.dtype)
    for value, chosen in grouped(key):
        owners = METADATA | (ACTIVE if value & 1 else 0) | (INACTIVE if value & 2 else 0)
        tally.claim_ranges(first[chosen], count[chosen], value // 4, owners)
    real = slice(int(np.searchsorted(tables.offset, 1)), None)
    tally.add_extents(first[real], count[real], Kind.L2_TABLE, tables.offset[real])


def _claim_copied(image: Image, tally: Tally, entries: L1Entries) -> None:
    """Note at the clusters of active L2 tables what the COPIED flags of L1 entries say."""
    entry = entries.entry[: np.searchsorted(entries.layer, ACTIVE_LAYER, "right")]
    target = (entry & np.uint64(OFFSET_MASK)).astype(np.int64)
    cluster = target >> image.geometry.cluster_bits
    active = (target > 0) & (cluster < tally.size)
    flagged = (entry & np.uint64(COPIED)) != 0
    for chosen, bit in ((active & flagged, COPIED_SET), (active & ~flagged, COPIED_CLEAR)):
        at = cluster[chosen]
        tally.owners[at] |= np.uint8(bit)


def _report_shared(
    image: Image, tally: Tally, entries: L1Entries, order: IntArray, target: IntArray
) -> None:
    """Find L1 entries of one layer that lead to the same L2 table as an earlier one.

    *order* sorts the entries by their *target*, layer and index.
    """
    again = np.zeros(order.size, np.bool_)
    again[1:] = (target[1:] == target[:-1]) & (target[1:] > 0)
    layer = entries.layer[order]
    again[1:] &= layer[1:] == layer[:-1]
    at = np.flatnonzero(again & (entries.places[layer] != 0))
    if not at.size:
        return
    index = entries.index[order].astype(np.int64)
    alone = np.flatnonzero(~again)
    head = alone[np.searchsorted(alone, at) - 1]
    first, count, starts = runs(index[at], head)
    starts = starts[:MOST_ROWS]
    at, head, low = at[starts], head[starts], first[:MOST_ROWS]
    reach = image.geometry.bytes_per_l1_entry
    tally.found.add(
        problems.L1_SAME_TABLE,
        first=first,
        count=count,
        index=low,
        layer=layer[at],
        host=entries.position(order[at]),
        target=target[at],
        other=index[head],
        guest=low * reach,
        guest_length=reach,
        fold=target[at],
    )


def _without_holes(image: Image, tally: Tally, tables: L2Tables) -> L2Tables:
    """Mark the tables that lie in holes of the file, and count them as the empty ones they are.

    Looked for only where there must be some: a file that is all there has no need of it.
    """
    size = image.geometry.cluster_size
    if not tables.offset.size:
        return tables
    low, high = int(tables.offset[0]), int(tables.offset[-1]) + size
    held = _held(image, low, high, tables.offset.size * size)
    if held is None:
        return tables
    behind = np.searchsorted(held[:, 1], tables.offset, "right")
    hole = np.append(held[:, 0], high)[behind] >= tables.offset + size
    width = image.geometry.l2_entries
    visited = tables.active_visits[hole], tables.snapshot_visits[hole]
    for visits, counts in zip(visited, tally.statistics.l2, strict=True):
        counts.unused += int(visits.sum()) * width
    empty = hole & (tables.active_visits > 0) & (tables.offset % size == 0)
    empty &= tables.index < image.geometry.needed_l1_entries
    tally.empty_tables.extend(tables.offset[empty][:MOST_ROWS].tolist())
    columns = {name: getattr(tables, name) for name in L2Tables.__slots__} | {"hole": hole}
    return L2Tables(**columns)


def _bounded(image: Image, tally: Tally, tables: L2Tables) -> L2Tables:
    """Leave out unaligned tables beyond what may be read of them."""
    size = image.geometry.cluster_size
    fits = max(UNALIGNED_ANYWAY, image.geometry.host_clusters)
    most = min(UNALIGNED_TABLES, UNALIGNED_BYTES // size, fits)
    extra = np.flatnonzero((tables.offset % size != 0) & ~tables.hole)[most:]
    if not extra.size:
        return tables
    skipped = int(tables.visits[extra].sum())
    what = "unaligned L2 tables"
    tally.found.add(problems.L1_OVERLAPPING, first=[0], skipped=skipped, what=what)
    return tables.part(np.setdiff1d(np.arange(tables.offset.size), extra, assume_unique=True))


def _in_reading_order(tables: L2Tables) -> L2Tables:
    """Sort tables by host offset, those of one L1 index together, the active one last.

    Those in holes come first, as they were met.
    """
    by_index = np.argsort(tables.index, kind="stable")
    index = tables.index[by_index]
    starts = np.flatnonzero(np.diff(index, prepend=-1))
    if not starts.size:
        return tables
    lowest = np.minimum.reduceat(tables.offset[by_index], starts)
    group = np.empty(index.size, np.int64)
    group[by_index] = np.repeat(lowest, np.diff(np.append(starts, index.size)))
    group[tables.hole] = -1
    del index, by_index
    rank = np.where(tables.layer == ACTIVE_LAYER, np.iinfo(np.int32).max, tables.layer)
    rank[tables.hole] = 0
    ordered = tables.part(np.lexsort((rank, group)))
    del group, rank
    follows = np.zeros(tables.offset.size, np.bool_)
    follows[1:] = (ordered.index[1:] == ordered.index[:-1]) & ~ordered.hole[:-1]
    names = L2Tables.__slots__
    columns = {name: getattr(ordered, name) for name in names} | {"follows": follows}
    return L2Tables(**columns)
