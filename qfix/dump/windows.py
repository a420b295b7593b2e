"""The host file a window of clusters at a time: refcounts, and what each cluster is used for."""

from __future__ import annotations

from enum import IntEnum
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qfix.arrays import spread
from qfix.recount.batches import by_row, read_batches
from qfix.recount.entries import decode
from qfix.recount.tally import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.arrays import AnyArray, BoolArray, IntArray
    from qfix.dump.lines import Wanted
    from qfix.recount.batches import Batch
    from qfix.recount.entries import Entries
    from qfix.recount.l2 import L2Tables
    from qfix.recount.stored import Chunk

WINDOW = 1 << 20
"""Clusters that are looked at together; what refers to them takes 10 bytes each."""
MOST_EXTENTS = 1 << 20


class Use(IntEnum):
    """What a host cluster is used for; metadata kinds are those of `Kind`, raised by METADATA."""

    FREE = 0
    LEAKED = 1
    DATA = 2
    ZERO = 3
    COMPRESSED = 4
    OTHER = 5
    METADATA = 16


class Counts(NamedTuple):
    """Refcounts of the clusters *start* to *end*: counted, and stored in the blocks.

    `readable` tells which stored ones could be read, None if all could.
    """

    start: int
    end: int
    counted: AnyArray
    stored: AnyArray
    readable: BoolArray | None


class Window(NamedTuple):
    """Counts and uses of some clusters; `value` tells which of its kind.

    That is the row of a table in the recount times the entries of a table plus the entry for
    guest data, and what an extent of metadata says for metadata.
    """

    counts: Counts
    use: AnyArray
    value: IntArray


def counts(wanted: Wanted) -> Iterator[Counts]:
    """Yield the refcounts of all clusters of the file, at least one chunk of blocks at a time."""
    made = wanted.made
    held: list[Chunk] = []
    for chunk in made.stored.chunks(made.tally):
        held.append(chunk)
        if chunk.end - held[0].start >= WINDOW:
            yield _joined(wanted, held)
            held = []
    if held:
        yield _joined(wanted, held)


def _joined(wanted: Wanted, chunks: list[Chunk]) -> Counts:
    stored = [chunk.counted if chunk.stored is None else chunk.stored for chunk in chunks]
    readable = None
    if any(chunk.readable is not None for chunk in chunks):
        readable = np.concatenate(
            [
                np.ones(chunk.end - chunk.start, np.bool_)
                if chunk.readable is None
                else chunk.readable
                for chunk in chunks
            ]
        )
    start, end = chunks[0].start, chunks[-1].end
    counted = wanted.made.tally.counted[start:end]
    return Counts(start, end, counted, np.concatenate(stored), readable)


def windows(wanted: Wanted) -> Iterator[Window]:
    """Yield all clusters of the file with what they are used for."""
    made = wanted.made
    places = made.tables.part(made.tables.offset >= 0)
    reach = _reach(wanted, places) if made.tally.size > WINDOW else None
    extents = made.tally.extents()
    for part in counts(wanted):
        use = np.full(part.end - part.start, Use.FREE, np.int8)
        value = np.zeros(use.size, np.int64)
        chosen = np.arange(places.offset.size)
        if reach is not None:
            chosen = np.flatnonzero((reach[0] < part.end) & (reach[1] >= part.start))
        if not wanted.image.geometry.data_file:
            _paint_data(wanted, places, chosen, part, use, value)
        _paint_metadata(extents, part, use, value)
        use[part.counted == 0] = Use.FREE
        use[(use == Use.FREE) & (part.counted > 0)] = Use.OTHER
        use[(use == Use.FREE) & (part.stored > 0)] = Use.LEAKED
        yield Window(part, use, value)


def _reach(wanted: Wanted, places: L2Tables) -> tuple[IntArray, IntArray]:
    """Return the lowest and the highest cluster that each L2 table leads to."""
    low = np.full(places.offset.size, np.iinfo(np.int64).max)
    high = np.full(places.offset.size, -1)
    done = 0
    kept = np.flatnonzero(~places.hole)
    bits = wanted.image.geometry.cluster_bits
    for batch in read_batches(wanted.image, places):
        entries = decode(wanted.image, batch)
        rows = kept[done : done + batch.tables.offset.size]
        done += rows.size
        led = entries.standard | entries.compressed
        row, first = entries.row[led], entries.offset[led] >> bits
        last = (entries.offset[led] + entries.length[led] - 1) >> bits
        starts = np.flatnonzero(np.diff(row, prepend=-1))
        if starts.size:
            low[rows[row[starts]]] = np.minimum.reduceat(first, starts)
            high[rows[row[starts]]] = np.maximum.reduceat(last, starts)
    return low, high


def _paint_data(
    wanted: Wanted,
    places: L2Tables,
    chosen: IntArray,
    part: Counts,
    use: AnyArray,
    value: IntArray,
) -> None:
    """Note which guest cluster is in each host cluster; of several the active layer's."""
    order = chosen[np.argsort(places.active_visits[chosen] > 0, kind="stable")]
    tables = places.part(order)
    kept, done = order[~tables.hole], 0
    for batch in read_batches(wanted.image, tables):
        rows = kept[done : done + batch.tables.offset.size]
        done += rows.size
        _paint_batch(wanted, batch, rows, part, use, value)


def _paint_batch(
    wanted: Wanted, batch: Batch, rows: IntArray, part: Counts, use: AnyArray, value: IntArray
) -> None:
    entries = decode(wanted.image, batch)
    geometry = wanted.image.geometry
    key = rows[entries.row] * geometry.l2_entries + entries.index
    aligned = entries.standard & (entries.offset % geometry.cluster_size == 0)
    several = (entries.standard | entries.compressed) & ~aligned
    kind = np.full(entries.entry.size, Use.DATA, np.int8)
    kind[entries.compressed] = Use.COMPRESSED
    zeros = entries.alloc == 0 if geometry.extended else entries.zero
    kind[entries.standard & zeros] = Use.ZERO
    if several.any():
        at = np.flatnonzero(several)
        first, last = _clusters(entries, at, geometry.cluster_bits)
        again = np.repeat(at, last - first + 1)
        _paint(spread(first, last - first + 1), key[again], kind[again], part, use, value)
    at = np.flatnonzero(aligned)
    _paint(entries.offset[at] >> geometry.cluster_bits, key[at], kind[at], part, use, value)


def _clusters(entries: Entries, at: IntArray, bits: int) -> tuple[IntArray, IntArray]:
    """Return the first and the last cluster of the entries in the rows *at*."""
    end = entries.offset[at] + entries.length[at] - 1
    return entries.offset[at] >> bits, end >> bits


def _paint(
    cluster: IntArray, key: IntArray, kind: AnyArray, part: Counts, use: AnyArray, value: IntArray
) -> None:
    inside = (cluster >= part.start) & (cluster < part.end)
    if not inside.all():
        cluster, key, kind = cluster[inside], key[inside], kind[inside]
    use[cluster - part.start] = kind
    value[cluster - part.start] = key


def _paint_metadata(
    extents: tuple[IntArray, IntArray, IntArray, IntArray],
    part: Counts,
    use: AnyArray,
    value: IntArray,
) -> None:
    """Note which metadata is in each host cluster; of several kinds the first of `Kind`."""
    first, count, kind, which = extents
    inside = (first < part.end) & (first + count > part.start) & (count > 0)
    inside &= ~((kind == Kind.L2_TABLE) & (which == 0))
    at = np.flatnonzero(inside)
    at = at[np.argsort(-kind[at], kind="stable")]
    low = np.maximum(first[at], part.start)
    units = np.minimum(first[at] + count[at], part.end) - low
    cluster = spread(low, units) - part.start
    use[cluster] = np.repeat(Use.METADATA + kind[at], units)
    value[cluster] = np.repeat(which[at], units)


def holes(wanted: Wanted, start: int, end: int) -> BoolArray:
    """Tell which of the clusters *start* to *end* are holes of the file, or behind its end."""
    geometry = wanted.image.geometry
    size = geometry.cluster_size
    low, high = start * size, min(end * size, geometry.file_size)
    held = list(islice(wanted.image.file.extents(low, high), MOST_EXTENTS)) if low < high else []
    if len(held) == MOST_EXTENTS:
        held.append((held[-1][1], high))
    rows = np.array(held, np.int64).reshape(-1, 2)
    steps = by_row(rows[:, 0] // size - start, end - start + 1)
    steps -= by_row(-(-rows[:, 1] // size) - start, end - start + 1)
    empty: BoolArray = np.cumsum(steps)[:-1] == 0
    return empty
