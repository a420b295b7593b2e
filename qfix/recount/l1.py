"""The L1 tables of all layers: claimed, read and checked (format 5.1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np

from qfix.arrays import AnyArray, BoolArray, IntArray, Words
from qfix.image import Image
from qfix.layout import header
from qfix.layout.tables import ENTRY_SIZE, L1_RESERVED, OFFSET_MASK
from qfix.problems import tables as problems
from qfix.problems.model import Problem
from qfix.recount.collect import MOST_ROWS
from qfix.recount.tally import (
    Kind,
    Tally,
)

ENTRY_BUDGET = 6 << 20
"""Entries of snapshots' L1 tables that are read in any case: what memory allows."""
CLUSTERS_PER_ENTRY = 32
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
    held = held_ranges(image, low, high, sum(size for _, size, _ in tables) * ENTRY_SIZE)
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


def held_ranges(image: Image, low: int, high: int, length: int) -> IntArray | None:
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
