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
from qfix.image import load
from qfix.layout.bitmaps import BitmapEntry
from qfix.layout.header import FULL_LENGTH, MAX_FILE_OFFSET
from qfix.layout.snapshots import SnapshotEntry
from qfix.layout.tables import ENTRY_SIZE, L1_RESERVED, OFFSET_MASK, REFTABLE_RESERVED
from qfix.recount import recount
from qfix.recount.batches import by_row
from qfix.recount.nonsense import FAR, faulty_tables
from qfix.recount.tally import COMPRESSED, DATA, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qfix.arrays import BoolArray, IntArray, Words
    from qfix.file import Source
    from qfix.image import Head, Image
    from qfix.recount import Recount

SECTOR = 512
WHOLE = (Kind.L2_TABLE, Kind.REFCOUNT_BLOCK, Kind.BITMAP_DATA)
"""Structures that fill their clusters; of the others only what is used is metadata."""
BLOCK = 4096
FEWEST = 4
"""So many wrong entries, and more, make a table doubtful; fewer are damage in a table."""
MOST_STRAY = 8
"""By how much a refcount may be too high, beside the fourfold, before it is taken for none."""
MOST_HEADER = 256
"""A header of more bytes than this is damaged: its end is not believed."""
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

    def doubtful(self) -> IntArray:
        """Return those clusters, the header's apart, that may hold guest data.

        Guest data is mapped to them as well, or they do not read as what leads to them says.
        """
        if self.made is None or self.image is None:
            return NO_INTS
        clusters, owners = self.clusters(), self.made.tally.owners
        least = 0 if _is_cramped(self.head) else 1
        clusters = clusters[(clusters >= least) & (clusters < owners.size)]
        shared = clusters[(owners[clusters] & (DATA | COMPRESSED)) != 0]
        found = np.union1d(shared, np.intersect1d(clusters, nonsense(self.image, self.made)))
        return found if least else np.union1d(found, 0)

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


def nonsense(image: Image, made: Recount) -> IntArray:
    """Return the clusters that are led to as tables and do not read as such, ascending.

    Tables: half of the entries in use are impossible. Refcount blocks: most refcounts are far
    higher than what was counted.
    """
    bits, size = image.geometry.cluster_bits, image.geometry.cluster_size
    unaligned = made.tables.offset[made.tables.offset % size != 0]
    offset = np.union1d(faulty_tables(image, made.tables, FEWEST), unaligned)
    tables = np.union1d(offset >> bits, (offset + size - 1) >> bits)
    first, count, kind, which = made.tally.extents()
    found = [tables]
    for structure in (Kind.L1_TABLE, Kind.REFCOUNT_TABLE):
        for low, units in zip(
            first[kind == structure].tolist(), count[kind == structure].tolist(), strict=True
        ):
            words = image.table(low << bits, units * size // ENTRY_SIZE, "a table")
            found.append(_nonsense_clusters(image, words, structure) + low)
    blocks = kind == Kind.REFCOUNT_BLOCK
    wild = _disagree(made, which[blocks], image.geometry.refcounts_per_block)
    found.append(np.setdiff1d(first[blocks][wild], first[blocks][~wild]))
    return np.unique(np.concatenate(found))


def _nonsense_clusters(image: Image, words: Words, structure: Kind) -> IntArray:
    """Return the clusters of a table of offsets in which most entries are impossible."""
    reserved = L1_RESERVED if structure is Kind.L1_TABLE else REFTABLE_RESERVED
    offset = (words & np.uint64(OFFSET_MASK)).astype(np.int64)
    wrong = ((words & np.uint64(reserved)) != 0) | (offset % image.geometry.cluster_size != 0)
    wrong |= offset > FAR * image.geometry.file_length
    if structure is Kind.REFCOUNT_TABLE:
        wrong |= (words & ~np.uint64(OFFSET_MASK)) != 0
    cluster = np.arange(words.size) // (image.geometry.cluster_size // ENTRY_SIZE)
    used, bad = by_row(cluster[words != 0], 0), by_row(cluster[wrong], 0)
    bad = np.pad(bad, (0, max(0, used.size - bad.size)))[: used.size]
    clusters: IntArray = np.flatnonzero((bad >= FEWEST) & (2 * bad >= used))
    return clusters


def _disagree(made: Recount, blocks: IntArray, per: int) -> BoolArray:
    """Tell which refcount blocks hold far higher refcounts than were counted, for the most part.

    Nothing was counted for those of clusters behind the end of the file: they may be anything.
    """
    size = int(blocks.max(initial=0)) + 1
    used, wrong = np.zeros(size, np.int64), np.zeros(size, np.int64)
    for chunk in made.stored.chunks(made.tally):
        if chunk.stored is None:
            continue
        at = np.arange(chunk.start, chunk.end) // per
        some = (chunk.stored > 0) & (at < size)
        wild = chunk.stored.astype(np.float64) > 4.0 * chunk.counted + MOST_STRAY
        used += by_row(at[some], size)
        wrong += by_row(at[some & wild], size)
    found: BoolArray = (wrong[blocks] >= FEWEST) & (2 * wrong[blocks] > used[blocks])
    return found | (blocks * per >= made.tally.size)


def _of_header(head: Head) -> Iterator[tuple[int, int]]:
    """Yield the header's cluster, or what tells that it was overwritten."""
    if head.header is not None:
        yield 0, _used_of_header(head)
        return
    size = head.hidden_cluster_size
    block = int.from_bytes(head.file.read(size, 8), "big")
    yield from ((0, 2 * size), (block, block + size))
    yield from ((sector * SECTOR, (sector + 1) * SECTOR) for sector in PROBES)


def _used_of_header(head: Head) -> int:
    """Return the size of the header's cluster, or how much of it is in use, in whole blocks.

    The latter where tables should be in it: then what is taken for a cluster is too large, and
    guest data may be in it.
    """
    found, ends = head.header, [FULL_LENGTH]
    if not _is_cramped(head):
        return len(head.raw)
    image = load(head)
    if found is not None and image is not None:
        ends += [min(found.header_length, MOST_HEADER), image.area.end]
        if head.backing_name is not None:
            ends.append(found.backing_file_offset + found.backing_file_size)
    return min(len(head.raw), -(-max(ends) // BLOCK) * BLOCK)


def _is_cramped(head: Head) -> bool:
    """Tell whether tables are said to be in the header's cluster: it is not that large."""
    found = head.header
    return found is None or min(found.l1_table_offset, found.refcount_table_offset) < len(head.raw)


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
