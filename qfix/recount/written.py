"""How many data clusters the active layer holds that the newest snapshot does not hold."""

import numpy as np

from qfix.arrays import ByteArray, IntArray, Words, spread
from qfix.image import Image
from qfix.layout import header
from qfix.layout.snapshots import Snapshot
from qfix.layout.tables import COMPRESSED, COPIED, OFFSET_MASK, SECTOR, descriptor_bits
from qfix.problems import tables as problems
from qfix.recount.engine import Recount
from qfix.recount.l1 import ACTIVE_LAYER, L1Entries
from qfix.recount.tally import ACTIVE, DATA, INACTIVE, Tally
from qfix.recount.tally import COMPRESSED as PACKED

BATCH_BYTES = 1 << 20
STEP = 1 << 18
WRITTEN, KEPT = 1, 2
U = np.uint64


def written_since_snapshot(image: Image, made: Recount) -> int | None:
    """Return how many data clusters the active layer holds that the last snapshot does not.

    The last snapshot is the last of the table. None where there is none, or where its tables or
    the active ones can't be followed. Only L2 tables that the two do not share are read. A cluster
    with compressed data of both counts as written if only shared tables lead to the older data.
    """
    snapshots = image.snapshots
    if not snapshots or len(snapshots) != image.header.nb_snapshots or image.geometry.data_file:
        return None
    last = snapshots[-1]
    if not _can_be_followed(image, made, last):
        return None
    if len(snapshots) == 1:
        return _held_by_active_only(made.tally)
    index, active = _tables(image, made.entries, ACTIVE_LAYER)
    other_index, other = _tables(image, made.entries, _layer_of(snapshots, last))
    frozen = np.zeros(active.size, np.int64)
    _, here, there = np.intersect1d(index, other_index, return_indices=True)
    frozen[here] = other[there]
    differ = active != frozen
    pairs = np.unique(np.stack((active[differ], frozen[differ])), axis=1)
    if pairs.shape[1] > image.geometry.host_clusters:
        return None
    return _count(image, made.tally, pairs[0], pairs[1])


def _can_be_followed(image: Image, made: Recount, last: Snapshot) -> bool:
    offset, size = last.entry.l1_table_offset, last.entry.l1_size
    placed = 0 < offset < image.geometry.file_length and offset % image.geometry.cluster_size == 0
    sound = placed and 0 < size <= header.MAX_L1_ENTRIES and image.header.l1_table_offset > 0
    return sound and not made.tally.found.units(problems.L1_OVERLAPPING)


def _layer_of(snapshots: list[Snapshot], last: Snapshot) -> int:
    """Return the layer of the first snapshot that has the very L1 table of *last*."""
    key = (last.entry.l1_table_offset, last.entry.l1_size)
    same = (item for item in snapshots if (item.entry.l1_table_offset, item.entry.l1_size) == key)
    return next(same).index + 1


def _held_by_active_only(tally: Tally) -> int:
    count = 0
    for start in range(0, tally.size, STEP):
        owners = tally.owners[start : min(start + STEP, tally.size)]
        held = ((owners & (DATA | PACKED)) != 0) & ((owners & (ACTIVE | INACTIVE)) == ACTIVE)
        count += int(np.count_nonzero(held))
    return count


def _tables(image: Image, entries: L1Entries, layer: int) -> tuple[IntArray, IntArray]:
    """Return the L1 indices of a layer that lead to an L2 table in the file, and its offset."""
    target = entries.target
    chosen = (entries.layer == layer) & (target > 0) & (target < image.geometry.file_length)
    chosen &= target % image.geometry.cluster_size == 0
    return entries.index[chosen], target[chosen]


def _count(image: Image, tally: Tally, active: IntArray, frozen: IntArray) -> int:
    """Count the clusters that *active* tables lead to and the *frozen* ones beside them do not."""
    marks = np.zeros(tally.size, np.uint8)
    step = max(1, BATCH_BYTES // image.geometry.cluster_size)
    for start in range(0, active.size, step):
        now = _read(image, active[start : start + step])
        before = _read(image, frozen[start : start + step])
        fresh = np.where(_place(now) == _place(before), U(0), now)
        _mark(image, marks, fresh[(fresh != 0) & ((fresh & U(COMPRESSED)) == 0)], WRITTEN)
        _mark_packed(image, marks, fresh, WRITTEN)
        _mark_packed(image, marks, before, KEPT)
    return int(np.count_nonzero(marks == WRITTEN))


def _read(image: Image, offsets: IntArray) -> Words:
    """Return the entries of L2 tables, without bitmaps; zeros at offset 0."""
    size = image.geometry.cluster_size
    words = np.zeros((offsets.size, size // 8), np.uint64)
    known = np.flatnonzero(offsets)
    if known.size:
        part = np.empty((known.size, size // 8), np.uint64)
        image.file.read_each(part.data.cast("B"), offsets[known].tolist(), size)
        words[known] = part.byteswap()
    return words[:, 0::2] if image.geometry.extended else words


def _place(entries: Words) -> Words:
    """Return what of each entry says where its data is."""
    packed = (entries & U(COMPRESSED)) != 0
    place: Words = np.where(packed, entries & U(~COPIED & (1 << 64) - 1), entries & U(OFFSET_MASK))
    return place


def _mark(image: Image, marks: ByteArray, entries: Words, bit: int) -> None:
    """Mark the clusters that standard entries lead to."""
    cluster = (entries & U(OFFSET_MASK)) >> U(image.geometry.cluster_bits)
    cluster = cluster[(cluster > 0) & (cluster < U(marks.size))]
    marks[cluster] |= np.uint8(bit)


def _mark_packed(image: Image, marks: ByteArray, entries: Words, bit: int) -> None:
    """Mark the clusters that the compressed ones of *entries* reach into."""
    packed = entries[(entries & U(COMPRESSED)) != 0]
    bits = descriptor_bits(image.geometry.cluster_bits)
    start = packed & U((1 << bits) - 1)
    sectors = ((packed & U(COMPRESSED - 1)) >> U(bits)) + U(1)
    first = (start >> U(image.geometry.cluster_bits)).astype(np.int64)
    end = start // U(SECTOR) * U(SECTOR) + sectors * U(SECTOR) - U(1)
    last = (end >> U(image.geometry.cluster_bits)).astype(np.int64)
    cluster = spread(first, last - first + 1)
    marks[cluster[cluster < marks.size]] |= np.uint8(bit)
