"""The L2 tables that the L1 entries of all layers lead to, each once, in the order to read them."""

from dataclasses import dataclass

import numpy as np

from qfix.arrays import AnyArray, BoolArray, IntArray, grouped, runs
from qfix.image import Image
from qfix.layout.tables import COPIED, OFFSET_MASK
from qfix.problems import tables as problems
from qfix.recount.collect import MOST_ROWS
from qfix.recount.l1 import ACTIVE_LAYER, L1Entries, held_ranges
from qfix.recount.tally import (
    ACTIVE,
    COPIED_CLEAR,
    COPIED_SET,
    INACTIVE,
    METADATA,
    Kind,
    Tally,
)

UNALIGNED_ANYWAY, UNALIGNED_TABLES = 16, 4096
UNALIGNED_BYTES = 16 << 20
"""How many unaligned L2 tables are read: they may overlap, so the file does not bound them."""


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
    held = held_ranges(image, low, high, tables.offset.size * size)
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
