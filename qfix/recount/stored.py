"""The refcounts that the blocks hold: compared with the counted ones, and looked up (format 4)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from qfix.arrays import (
    AnyArray,
    BoolArray,
    IntArray,
    Words,
    grouped,
    pack_refcounts,
    unpack_refcounts,
)
from qfix.image import Image
from qfix.layout.tables import ENTRY_SIZE
from qfix.recount.refblocks import Reftable
from qfix.recount.tally import Tally

CHUNK_BYTES = 1 << 18
MAX_READ = (1 << 63) - (1 << 30)
"""QEMU does not read behind this offset; what would stand there counts as unreadable."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Clusters *start* to *end*: refcounts stored, None where all equal the counted ones."""

    start: int
    end: int
    counted: AnyArray
    stored: AnyArray | None
    readable: BoolArray | None


class Stored:
    """The refcounts that the blocks hold, compared and looked up."""

    __slots__ = ("_image", "_offsets", "_total", "position", "unreadable_blocks")

    def __init__(self, image: Image, table: Reftable) -> None:
        self._image = image
        self._offsets = table.offset
        self.position = table.position
        self._total = table.entries_total
        self.unreadable_blocks: set[int] = set()

    @property
    def reach(self) -> int:
        """The first cluster behind what the refcount table can describe."""
        return self._total * self._image.geometry.refcounts_per_block

    def missing(self, blocks: IntArray) -> BoolArray:
        """Tell which of *blocks* have no place in the file."""
        offsets = np.zeros(blocks.size, np.int64)
        known = blocks < self._offsets.size
        offsets[known] = self._offsets[blocks[known]]
        absent: BoolArray = (offsets == 0) | (offsets >= self._image.geometry.file_length)
        return absent | (offsets < 0)

    def places(self, blocks: IntArray) -> AnyArray:
        """Return where the table's entries for *blocks* stand, None where not in the file."""
        place: AnyArray = self.position + blocks * ENTRY_SIZE
        absent = (place >= self._image.geometry.file_length) | (not self.position)
        if absent.any():
            place = place.astype(object)
            place[absent] = None
        return place

    def behind_file(self, clusters: IntArray) -> BoolArray:
        """Tell which of *clusters* have a refcount block that is aligned but not in the file."""
        block = clusters // self._image.geometry.refcounts_per_block
        offsets = np.zeros(clusters.size, np.int64)
        known = (block >= 0) & (block < self._offsets.size)
        offsets[known] = self._offsets[block[known]]
        behind = offsets >= self._image.geometry.file_length
        cut: BoolArray = behind & (offsets % self._image.geometry.cluster_size == 0)
        return cut

    def unread(self) -> tuple[IntArray, IntArray]:
        """Return the blocks that the host could not read, and their offsets."""
        blocks = np.array(sorted(self.unreadable_blocks), np.int64)
        return blocks, self._offsets[blocks]

    def block_offset(self, block: int) -> int | None:
        """Return where a block is, 0 if there is none, None if that can't be read."""
        offset = int(self._offsets[block]) if block < self._offsets.size else 0
        placed = offset % self._image.geometry.cluster_size == 0 and 0 <= offset < MAX_READ
        return offset if placed and block not in self.unreadable_blocks else None

    def chunks(self, tally: Tally) -> Iterator[Chunk]:
        """Yield all clusters of *tally*, a chunk of blocks at a time."""
        geometry = self._image.geometry
        per = geometry.refcounts_per_block
        step = max(1, CHUNK_BYTES // geometry.cluster_size)
        buffer = np.empty(step * geometry.cluster_size, np.uint8)
        for block in range(0, -(-tally.size // per), step):
            start, end = block * per, min((block + step) * per, tally.size)
            readable = self._fill(buffer, block, -(-(end - start) // per))
            counted = tally.saturated(start, end)
            yield self._compared(buffer, start, end, counted, readable)

    def _fill(self, buffer: AnyArray, block: int, blocks: int) -> BoolArray | None:
        """Read blocks into *buffer*, zeros where there is none; return which are readable."""
        size = self._image.geometry.cluster_size
        offsets = self._offsets[block : block + blocks]
        bad = (offsets % size != 0) | (offsets < 0) | (offsets >= MAX_READ)
        if offsets.size == blocks and not bad.any() and (offsets > 0).all():
            wanted = np.arange(blocks)
        else:
            buffer[: blocks * size] = 0
            wanted = np.flatnonzero((offsets > 0) & ~bad)
        self._read(buffer, offsets, wanted, block)
        unreadable = [at for at in range(blocks) if block + at in self.unreadable_blocks]
        if not bad.any() and not unreadable:
            return None
        readable = np.ones(blocks, np.bool_)
        readable[np.flatnonzero(bad)] = False
        readable[unreadable] = False
        return readable

    def _read(self, buffer: AnyArray, offsets: IntArray, wanted: IntArray, block: int) -> None:
        """Read the *wanted* blocks; neighbours both in the table and in the file at once."""
        size = self._image.geometry.cluster_size
        places = offsets[wanted].tolist()
        if wanted.size == len(offsets):
            view = buffer.data[: len(places) * size]
            failed = self._image.file.read_each(view, places, size)
            self.unreadable_blocks.update(block + at for at in failed)
            return
        for at, place in zip(wanted.tolist(), places, strict=True):
            view = buffer.data[at * size : (at + 1) * size]
            if self._image.file.read_each(view, [place], size):
                self.unreadable_blocks.add(block + at)

    def _compared(
        self, buffer: AnyArray, start: int, end: int, counted: AnyArray, readable: BoolArray | None
    ) -> Chunk:
        geometry = self._image.geometry
        order = geometry.refcount_order
        per_byte = max(1, 8 >> order)
        whole = (end - start) // per_byte * per_byte
        used = (whole << order) // 8
        if whole == end - start and readable is None:
            packed = pack_refcounts(counted, order)
            if np.array_equal(packed, buffer[:used]):
                return Chunk(start, end, counted, None, None)
        length = ((end - start + per_byte - 1) // per_byte * per_byte << order) // 8
        stored = unpack_refcounts(buffer[:length], order)[: end - start]
        if readable is not None:
            per = geometry.refcounts_per_block
            spread = np.repeat(readable, per)[: end - start]
            return Chunk(start, end, counted, stored, spread)
        same = np.array_equal(stored, counted)
        return Chunk(start, end, counted, None if same else stored, None)

    def lookup(self, clusters: IntArray) -> tuple[Words, BoolArray]:
        """Return the stored refcount of each of *clusters*, and whether it could be read."""
        per = self._image.geometry.refcounts_per_block
        values = np.zeros(clusters.size, np.uint64)
        readable = np.ones(clusters.size, np.bool_)
        block = clusters // per
        known = np.flatnonzero((block >= 0) & (block < self._offsets.size))
        known = known[self._offsets[block[known]] != 0]
        for number, group in grouped(block[known]):
            at = known[group]
            offset = self.block_offset(number)
            if offset is None:
                readable[at] = False
            elif 0 < offset < self._image.geometry.file_length:
                block_values = self._block(number, offset)
                values[at] = block_values[clusters[at] % per]
                readable[at] = number not in self.unreadable_blocks
        return values, readable

    def _block(self, number: int, offset: int) -> AnyArray:
        """Return the refcounts of a block, zeros where the host can't read it."""
        geometry = self._image.geometry
        raw = np.empty(geometry.cluster_size, np.uint8)
        if self._image.file.read_each(raw.data, [offset], geometry.cluster_size):
            self.unreadable_blocks.add(number)
        return unpack_refcounts(raw, geometry.refcount_order)

    def behind(self, size: int) -> tuple[int, int, int]:
        """Return (first, last, count) of the clusters from *size* on that have refcounts."""
        per = self._image.geometry.refcounts_per_block
        place, block = np.unique(self._offsets, return_index=True)
        known = (place > 0) & (place % self._image.geometry.cluster_size == 0)
        known &= (place < self._image.geometry.file_length) & ((block + 1) * per > size)
        first, last, count = -1, -1, 0
        for number in np.sort(block[known]).tolist():
            offset = int(self._offsets[number])
            used = np.flatnonzero(self._block(number, offset)) + number * per
            used = used[used >= size]
            if used.size:
                first = int(used[0]) if first < 0 else first
                last, count = int(used[-1]), count + used.size
        return first, last, count
