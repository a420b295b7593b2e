"""L2 tables read a batch at a time, in host order, with read-ahead, into one buffer."""

from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from qfix.arrays import AnyArray, BoolArray, IntArray, Words
from qfix.image import Image
from qfix.recount.l2 import L2Tables

BATCH_BYTES = 1 << 21
AHEAD_BYTES = 8 << 20
CACHED_BYTES_PER_SECOND = 1 << 29
"""Slower reads come from a disk; only then is it worth asking the kernel to read ahead."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Some L2 tables: `entries` and, with extended L2, `bitmaps` are tables by entries, native."""

    tables: L2Tables
    entries: Words
    bitmaps: Words | None
    failed: list[int]

    def part(self, chosen: BoolArray) -> "Batch":
        """Return the batch of some of the tables; what could not be read stays with the whole."""
        bitmaps = None if self.bitmaps is None else self.bitmaps[chosen]
        return Batch(self.tables.part(chosen), self.entries[chosen], bitmaps, [])


def read_batches(image: Image, tables: L2Tables) -> Iterator[Batch]:
    """Yield *tables* in batches that keep those of one L1 index together where they fit.

    Tables in holes of the file are left out: they hold nothing.
    A batch is valid until the next one. From a disk the kernel is asked to read ahead; a thread of
    our own that did so has been measured to gain nothing.
    """
    if tables.hole.any():
        tables = tables.part(~tables.hole)
    size = image.geometry.cluster_size
    total = tables.offset.size
    most = max(1, min(total, BATCH_BYTES // size))
    offsets = tables.offset.tolist()
    room = min(total, 4 * most) * size // 8
    buffer = np.empty(room, np.uint64)
    window = max(1, AHEAD_BYTES // size)
    start = advised = 0
    while start < total:
        end = _batch_end(tables.follows, start, most, total)
        words = buffer[: (end - start) * size // 8]
        began = perf_counter()
        failed = image.file.read_each(words.data.cast("B"), offsets[start:end], size)
        if (perf_counter() - began) * CACHED_BYTES_PER_SECOND > words.nbytes:
            advised = max(advised, end)
            _advise(image, offsets[advised : end + window])
            advised = end + window
        words.byteswap(inplace=True)
        yield _shaped(image, tables.part(slice(start, end)), words, failed)
        start = end


def _batch_end(follows: BoolArray, start: int, most: int, total: int) -> int:
    end = min(start + most, total)
    while end < total and follows[end] and end - start < 4 * most:
        end += 1
    return end


def _shaped(image: Image, tables: L2Tables, words: Words, failed: list[int]) -> Batch:
    table = words.reshape(tables.offset.size, -1)
    if not image.geometry.extended:
        return Batch(tables, table, None, failed)
    return Batch(
        tables, np.ascontiguousarray(table[:, 0::2]), np.ascontiguousarray(table[:, 1::2]), failed
    )


def _advise(image: Image, offsets: list[int]) -> None:
    size = image.geometry.cluster_size
    if offsets and offsets[-1] - offsets[0] == (len(offsets) - 1) * size:
        image.file.advise(offsets[0], len(offsets) * size)
        return
    for offset in offsets:
        image.file.advise(offset, size)


def by_row(rows: IntArray, length: int, weights: AnyArray | None = None) -> IntArray:
    """Return how many (or what weight of) *rows* are of each table."""
    return np.bincount(rows, weights, minlength=length).astype(np.int64)
