"""Anatomy: which bytes of a file are metadata, all that a check looks at and no guest data."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qfix.arrays import NO_INTS, spread
from qfix.change.draft import joined_ranges
from qfix.checks.lost import possible_tables
from qfix.edits.traced import Traced
from qfix.errors import RefusedError
from qfix.examine import can_be_counted, inspect
from qfix.layout.bitmaps import BitmapEntry
from qfix.layout.header import MAX_FILE_OFFSET
from qfix.layout.snapshots import SnapshotEntry
from qfix.recount import recount
from qfix.recount.tally import COMPRESSED, DATA, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qfix.arrays import IntArray
    from qfix.file import Source
    from qfix.image import Head, Image
    from qfix.recount import Recount

SECTOR = 512
WHOLE = (Kind.L2_TABLE, Kind.REFCOUNT_BLOCK, Kind.BITMAP_DATA)
"""Structures that fill their clusters; of the others only what is used is metadata."""
PROBES = (0, 1, 2, 64, 128)
"""The sectors that tell what a header was overwritten with."""
LUKS_MAGIC_BYTES = 6


class Anatomy(NamedTuple):
    """What of a file is metadata: byte ranges (start, end), sorted, none touching another.

    `made` is None where the tables can't be read: then the ranges are those of the header, and of
    what it leads to, alone. `lost` are the leaked clusters among them that read as tables.
    """

    head: Head
    image: Image | None
    made: Recount | None
    start: IntArray
    end: IntArray
    lost: IntArray

    @property
    def length(self) -> int:
        """How many bytes are metadata."""
        return int((self.end - self.start).sum())

    def clusters(self) -> IntArray:
        """Return the host clusters that hold metadata, ascending."""
        bits = self.image.geometry.cluster_bits if self.image else 16
        first = self.start >> bits
        return np.unique(spread(first, ((self.end - 1) >> bits) - first + 1))

    def shared(self) -> IntArray:
        """Return those clusters, the header apart, that guest data is mapped to as well."""
        if self.made is None:
            return NO_INTS
        clusters, owners = self.clusters(), self.made.tally.owners
        clusters = clusters[(clusters > 0) & (clusters < owners.size)]
        found: IntArray = clusters[(owners[clusters] & (DATA | COMPRESSED)) != 0]
        return found

    def without(self, start: IntArray, end: IntArray) -> Anatomy:
        """Return what is left of the ranges when others are taken out."""
        edges = np.concatenate((self.start, self.end, start, end))
        steps = np.repeat((1, -1, -2, 2), (*[self.start.size] * 2, *[start.size] * 2))
        order = np.argsort(edges, kind="stable")
        depth = np.cumsum(steps[order])
        edges = edges[order]
        kept = (depth[:-1] == 1) & (edges[:-1] < edges[1:])
        first, length = joined_ranges(edges[:-1][kept], np.diff(edges)[kept])
        return self._replace(start=first, end=first + length)


def anatomy(file: Source, tell: Callable[[float], None] | None = None) -> Anatomy:
    """Return the metadata of a file, after a recount where its tables can be read.

    Raises RefusedError where there is nothing of a qcow2 image.
    """
    traced = Traced(file)
    first = inspect(traced, backing=False)
    head, image = first.head, first.image
    if head.header is None and not head.hidden_cluster_size:
        raise RefusedError(f"{file.path}: no qcow2 image ({head.guess}): it has no metadata")
    ranges = [*_of_header(head), *(_of_image(image) if image else ())]
    size = file.size
    parts = [(np.array([min(low, size)]), np.array([min(high, size)])) for low, high in ranges]
    made, lost = None, NO_INTS
    if image is not None and can_be_counted(first):
        traced.tracing = True
        made = recount(image, tell)
        traced.tracing = False
        lost = possible_tables(image, made)
        parts += [*traced.seen(), *_of_tables(image, made, lost)]
    start, end = (np.concatenate(column).astype(np.int64) for column in zip(*parts, strict=True))
    start, end = np.maximum(start, 0), np.minimum(end, file.size)
    some = start < end
    start, length = joined_ranges(start[some], (end - start)[some])
    return Anatomy(head, image, made, start, start + length, lost)


def _of_header(head: Head) -> Iterator[tuple[int, int]]:
    """Yield the header's cluster, or what tells that it was overwritten."""
    if head.header is not None:
        yield 0, len(head.raw)
        return
    size = head.hidden_cluster_size
    block = int.from_bytes(head.file.read(size, 8), "big")
    yield from ((0, 2 * size), (block, block + size))
    yield from ((sector * SECTOR, (sector + 1) * SECTOR) for sector in PROBES)


def _of_image(image: Image) -> Iterator[tuple[int, int]]:
    """Yield what of the structures that are no tables was looked at."""
    head = image.header
    if head.nb_snapshots and head.snapshots_offset <= MAX_FILE_OFFSET:
        table = image.snapshot_table[1]
        broken = SnapshotEntry.codec.size if table.reason else 0
        yield head.snapshots_offset, head.snapshots_offset + table.size + broken
    extension, directory = image.bitmaps_extension, image.directory
    if extension is not None and directory is not None:
        offset = extension.bitmap_directory_offset
        broken = 0 if directory.broken_at is None else BitmapEntry.codec.size
        yield offset, offset + directory.end + broken
    pointer = image.encryption
    if pointer is not None and max(pointer) <= MAX_FILE_OFFSET:
        yield pointer.offset, pointer.offset + LUKS_MAGIC_BYTES


def _of_tables(image: Image, made: Recount, lost: IntArray) -> Iterator[tuple[IntArray, IntArray]]:
    """Yield the clusters of tables, and the structures that nobody has read yet."""
    bits = image.geometry.cluster_bits
    first, count, kind, _ = made.tally.extents()
    whole = np.isin(kind, WHOLE)
    yield first[whole] << bits, (first + count)[whole] << bits
    yield lost << bits, (lost + 1) << bits
    pointer = image.encryption
    if pointer is not None and (kind == Kind.ENCRYPTION_HEADER).any():
        yield np.array([pointer.offset]), np.array([pointer.offset + pointer.length])
