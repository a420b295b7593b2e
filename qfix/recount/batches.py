"""L2 tables read a batch at a time, in host order, with read-ahead, into one buffer."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from qfix.arrays import AnyArray, BoolArray, IntArray, Words
from qfix.image import Image
from qfix.recount.ahead import ahead
from qfix.recount.layers import L2Tables

BATCH_BYTES = 1 << 20
AHEAD_BYTES = 8 << 20


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
    """Yield all *tables* in batches that keep those of one L1 index together where they fit.

    The next batch is read while one is worked on; a batch is valid until the next but one.
    """
    if tables.offset.size <= max(1, BATCH_BYTES // image.geometry.cluster_size):
        return _read(image, tables)
    return ahead(_read(image, tables))


def _read(image: Image, tables: L2Tables) -> Iterator[Batch]:
    size = image.geometry.cluster_size
    total = tables.offset.size
    most = max(1, min(total, BATCH_BYTES // size))
    offsets = tables.offset.tolist()
    room = min(total, 4 * most) * size // 8
    buffers = [np.empty(room, np.uint64) for _ in range(4 if total > most else 1)]
    ahead_tables = max(1, AHEAD_BYTES // size)
    _advise(image, offsets[:ahead_tables])
    start = turn = 0
    while start < total:
        end = _batch_end(tables.follows, start, most, total)
        _advise(image, offsets[start + ahead_tables : end + ahead_tables])
        words = buffers[turn % len(buffers)][: (end - start) * size // 8]
        view = words.data.cast("B")
        failed = image.file.read_each(view, offsets[start:end], size)
        words.byteswap(inplace=True)
        yield _shaped(image, tables.part(slice(start, end)), words, failed)
        start, turn = end, turn + 1


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
