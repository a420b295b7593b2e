"""Pass T: leaked clusters that are tables nothing leads to any more, told from plain leaks."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from qfix.arrays import NO_INTS, BoolArray, IntArray, Words, spread
from qfix.image import Image
from qfix.layout.tables import (
    ALLOC_BITS,
    COMPRESSED,
    COPIED,
    L2_RESERVED,
    OFFSET_MASK,
    descriptor_bits,
)
from qfix.problems import Findings
from qfix.problems import refcounts as refcount_problems
from qfix.problems import tables as problems
from qfix.recount import Recount
from qfix.recount.tally import METADATA

HEAD_BYTES = 4096
BATCH_BYTES = 4 << 20
MOST_LEAKS = 1 << 22
U = np.uint64


@dataclass(frozen=True, slots=True)
class Excess:
    """Clusters whose refcount is higher than their references, as sorted runs."""

    first: IntArray
    end: IntArray

    def holds(self, clusters: IntArray) -> BoolArray:
        """Tell which of *clusters* are among them."""
        if not self.first.size:
            return np.zeros(clusters.shape, np.bool_)
        at = np.searchsorted(self.first, clusters, "right") - 1
        held: BoolArray = (at >= 0) & (clusters < self.end[at])
        return held


@dataclass(frozen=True, slots=True)
class Suspects:
    """Leaked clusters that read as tables: their entries' targets, tables by entries.

    `target` is the host cluster that an entry leads to, -1 where it leads nowhere. `flagged` ones
    have an entry with the COPIED or compressed flag, which no other kind of table has.
    """

    cluster: IntArray
    target: IntArray
    used: IntArray
    leads: IntArray
    flagged: BoolArray


def leaks_are_not_lost_tables(image: Image, made: Recount) -> Iterator[Findings]:
    """No leaked cluster is a table by its content, and no table in use was emptied."""
    leaked = _excess(made, refcount_problems.LEAKED)
    if not leaked.first.size:
        return
    higher = _excess(made, refcount_problems.LEAKED, refcount_problems.TOO_HIGH)
    clusters = spread(leaked.first, leaked.end - leaked.first)[:MOST_LEAKS]
    suspects = _suspects(image, clusters, higher)
    found = (suspects.leads > 0) & (2 * suspects.leads >= suspects.used)
    l1 = found & _look_like_l1(made, suspects, found)
    if image.bitmaps_extension or not image.header.nb_snapshots:
        found &= suspects.flagged | l1
    explained = suspects.target[found]
    explained = np.concatenate((suspects.cluster[found], explained[explained >= 0]))
    yield from _report_l1(image, suspects, l1)
    yield from _report_l2(image, made, suspects, found & ~l1, suspects.target[l1])
    plain = int((~np.isin(clusters, explained)).sum())
    yield from _report_emptied(image, made, plain)


def _excess(made: Recount, *kinds: object) -> Excess:
    parts = [found for found in made.tally.found if found.problem in kinds]
    if not parts:
        return Excess(NO_INTS, NO_INTS)
    first = np.concatenate([part.first for part in parts])
    count = np.concatenate([part.count for part in parts])
    order = np.argsort(first)
    return Excess(first[order], (first + count)[order])


def _suspects(image: Image, clusters: IntArray, higher: Excess) -> Suspects:
    size, bits = image.geometry.cluster_size, image.geometry.cluster_bits
    head = min(size, HEAD_BYTES)
    survivors = [cluster[good] for cluster, _, good, _ in _read(image, clusters, head)]
    pieces: list[tuple[IntArray, ...]] = []
    for cluster, target, good, flagged in _read(image, np.concatenate(survivors), size):
        to = np.where(target >= 0, target >> bits, -1)
        used = (to >= 0).sum(axis=1)
        leads = (higher.holds(to) & (to >= 0)).sum(axis=1)
        kept = good & (leads > 0)
        if kept.any():
            pieces.append((cluster[kept], to[kept], used[kept], leads[kept], flagged[kept]))
    if not pieces:
        return Suspects(NO_INTS, np.zeros((0, 0), np.int64), NO_INTS, NO_INTS, np.zeros(0, bool))
    return Suspects(*(np.concatenate(column) for column in zip(*pieces, strict=True)))


def _read(
    image: Image, clusters: IntArray, length: int
) -> Iterator[tuple[IntArray, IntArray, BoolArray, BoolArray]]:
    """Yield clusters, where their entries lead, whether they are possible, whether flagged.

    The second is byte offsets, a row a cluster; the third whether all entries can be such; the
    fourth whether one has a flag that only L1 and L2 entries have. Only the first *length* bytes
    of each cluster are read.
    """
    step = max(1, BATCH_BYTES // length)
    for start in range(0, clusters.size, step):
        part = clusters[start : start + step]
        words = np.empty((part.size, length // 8), np.uint64)
        offsets = (part << image.geometry.cluster_bits).tolist()
        image.file.read_each(words.data.cast("B"), offsets, length)
        words.byteswap(inplace=True)
        yield part, *_targets(image, words)


def _targets(image: Image, words: Words) -> tuple[IntArray, BoolArray, BoolArray]:
    geometry = image.geometry
    possible = np.ones(words.shape[0], np.bool_)
    entry = words
    if geometry.extended:
        entry, bitmap = words[:, 0::2], words[:, 1::2]
        possible &= ~((bitmap & (bitmap >> U(32)) & U(ALLOC_BITS)) != 0).any(axis=1)
    packed = (entry & U(COMPRESSED)) != 0
    offset = (entry & U(OFFSET_MASK)).astype(np.int64)
    start = (entry & U((1 << descriptor_bits(geometry.cluster_bits)) - 1)).astype(np.int64)
    place = np.where(packed, start, offset)
    sound = packed | ((entry & U(L2_RESERVED)) == 0) & (offset % geometry.cluster_size == 0)
    sound &= place < geometry.file_length
    possible &= sound.all(axis=1)
    flagged = ((entry & U(COPIED | COMPRESSED)) != 0).any(axis=1)
    return np.where(place > 0, place, -1), possible, flagged


def _look_like_l1(made: Recount, suspects: Suspects, found: BoolArray) -> BoolArray:
    """Tell which suspects lead to tables rather than to data."""
    target = suspects.target
    if not target.size:
        return np.zeros(suspects.cluster.size, np.bool_)
    inside = (target >= 0) & (target < made.tally.size)
    owners = made.tally.owners[np.where(inside, target, 0)]
    tables = inside & ((owners & METADATA) != 0)
    tables |= inside & np.isin(target, suspects.cluster[found])
    mostly: BoolArray = 2 * tables.sum(axis=1) > suspects.used
    return mostly


def _report_l1(image: Image, suspects: Suspects, l1: BoolArray) -> Iterator[Findings]:
    if l1.any():
        yield problems.LOST_L1.at(
            suspects.cluster[l1],
            np.ones(int(l1.sum()), np.int64),
            host=suspects.cluster[l1] << image.geometry.cluster_bits,
            used=suspects.used[l1],
            leads=suspects.leads[l1],
        )


def _report_l2(
    image: Image, made: Recount, suspects: Suspects, l2: BoolArray, l1_targets: IntArray
) -> Iterator[Findings]:
    if not l2.any():
        return
    slots, witnessed = _empty_slots(image, made)
    reach = image.geometry.bytes_per_l1_entry
    guests: list[tuple[int, int, int]] = []
    target = suspects.target[l2]
    inside = (target >= 0) & (target < made.tally.size)
    shared = bool((made.tally.counted[np.where(inside, target, 0)][inside] > 0).any())
    if shared and not witnessed:
        where = "it shares clusters with tables in use, so it may be a snapshot's"
    elif slots.size == 1:
        where = f"probably that of L1 entry {int(slots[0])}, the only one without a table"
        guests = [(0, int(slots[0]) * reach, reach)]
    elif slots.size:
        where = f"that of one of {slots.size} L1 entries without a table, {int(slots[0])} and on"
    else:
        where = "no active L1 entry lacks a table, so it may be a snapshot's"
    number = int(l2.sum())
    yield problems.LOST_L2.at(
        suspects.cluster[l2],
        np.ones(number, np.int64),
        host=suspects.cluster[l2] << image.geometry.cluster_bits,
        used=suspects.used[l2],
        leads=suspects.leads[l2],
        bytes=suspects.leads[l2] << image.geometry.cluster_bits,
        where=[
            "the lost L1 table leads to it" if known else where
            for known in np.isin(suspects.cluster[l2], l1_targets).tolist()
        ],
        guests=[guests] * number,
    )


def _empty_slots(image: Image, made: Recount) -> tuple[IntArray, bool]:
    """Return the active L1 entries that lead nowhere, and whether snapshots have tables there.

    Where they have for some, only those are returned: the active layer had one there too.
    """
    geometry, entries = image.geometry, made.entries
    taken = (entries.layer == 0) & (entries.target > 0)
    taken &= entries.target < geometry.file_length
    taken &= entries.target % geometry.cluster_size == 0
    total = min(geometry.needed_l1_entries, image.header.l1_size, geometry.file_length)
    free = np.setdiff1d(np.arange(total), entries.index[taken])
    witness = np.intersect1d(free, entries.index[(entries.layer > 0) & (entries.target > 0)])
    return (witness, True) if witness.size else (free, False)


def _report_emptied(image: Image, made: Recount, plain: int) -> Iterator[Findings]:
    """Report emptied tables where leaked clusters remain that nothing else explains."""
    if not plain or not made.tally.empty_tables:
        return
    tables = np.array(made.tally.empty_tables, np.int64)
    index = made.tables.index[np.isin(made.tables.offset, tables)]
    reach = image.geometry.bytes_per_l1_entry
    guests = [[(0, at * reach, reach)] for at in index.tolist()]
    yield problems.EMPTIED_L2.at(
        tables >> image.geometry.cluster_bits,
        np.ones_like(tables),
        host=tables,
        leaked=np.full_like(tables, plain),
        guests=guests,
    )
