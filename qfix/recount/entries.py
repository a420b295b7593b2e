"""L2 entries decoded: what each one of a batch is, and where it leads (format 5 and 6)."""

from dataclasses import dataclass

import numpy as np

from qfix.arrays import BoolArray, IntArray, Words
from qfix.image import Image
from qfix.layout.tables import (
    ALLOC_BITS,
    COMPRESSED,
    COPIED,
    L2_RESERVED,
    OFFSET_MASK,
    SECTOR,
    ZERO,
    descriptor_bits,
)
from qfix.recount.batches import Batch

U = np.uint64


@dataclass(frozen=True, slots=True)
class Entries:
    """The L2 entries of a batch that are not all zero, as columns of equal length.

    `row` is the table in the batch, `index` the entry in the table. `compressed` and `standard`
    (a host cluster is allocated) exclude each other; `offset` is the host offset of both. `length`
    is the byte length of a compressed payload, a cluster otherwise. `bitmap` is 0 without
    subclusters.
    """

    row: IntArray
    index: IntArray
    entry: Words
    bitmap: Words
    compressed: BoolArray
    standard: BoolArray
    zero: BoolArray
    offset: IntArray
    length: IntArray

    @property
    def copied(self) -> BoolArray:
        """Whether the COPIED flag is set."""
        flagged: BoolArray = (self.entry & U(COPIED)) != 0
        return flagged

    @property
    def reserved(self) -> BoolArray:
        """Whether an entry that is not compressed has reserved bits set."""
        wrong: BoolArray = ~self.compressed & ((self.entry & U(L2_RESERVED)) != 0)
        return wrong

    @property
    def alloc(self) -> Words:
        """The subclusters that hold data, one bit each."""
        return self.bitmap & U(ALLOC_BITS)

    @property
    def zeros(self) -> Words:
        """The subclusters that read as zeros, one bit each."""
        return self.bitmap >> U(32)


def decode(image: Image, batch: Batch) -> Entries:
    """Decode all entries of *batch* that are not zero."""
    geometry = image.geometry
    shift = geometry.l2_entries.bit_length() - 1
    flat = batch.entries.reshape(-1)
    if batch.bitmaps is None:
        used = np.flatnonzero(flat)
        bitmap = np.broadcast_to(U(0), used.shape)
    else:
        maps = batch.bitmaps.reshape(-1)
        used = np.flatnonzero((flat != 0) | (maps != 0))
        bitmap = maps[used]
    entry = flat[used]
    compressed = (entry & U(COMPRESSED)) != 0
    offset = (entry & U(OFFSET_MASK)).astype(np.int64)
    zero = ~compressed & ((entry & U(ZERO)) != 0)
    if geometry.extended:
        zero[:] = False
    standard = ~compressed & (offset != 0)
    if geometry.data_file:
        standard |= ~compressed & ~zero & ((entry & U(COPIED)) != 0)
    length = np.full(entry.shape, geometry.cluster_size, np.int64)
    if compressed.any():
        offset, length = _descriptors(geometry.cluster_bits, entry, compressed, offset, length)
    return Entries(
        used >> shift,
        used & (geometry.l2_entries - 1),
        entry,
        bitmap,
        compressed,
        standard,
        zero,
        offset,
        length,
    )


def _descriptors(
    cluster_bits: int, entry: Words, compressed: BoolArray, offset: IntArray, length: IntArray
) -> tuple[IntArray, IntArray]:
    """Put in place what compressed cluster descriptors say (format 5.3)."""
    bits = descriptor_bits(cluster_bits)
    start = entry & U((1 << bits) - 1)
    sectors = ((entry & U(COMPRESSED - 1)) >> U(bits)) + U(1)
    end = sectors * U(SECTOR) - (start & U(SECTOR - 1))
    return (
        np.where(compressed, start.astype(np.int64), offset),
        np.where(compressed, end.astype(np.int64), length),
    )
