"""Where the metadata of a sound image lies: a few lines of struct, on purpose not qfix's own."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

OFFSET_MASK = 0x00FFFFFFFFFFFE00
COMPRESSED = 1 << 62
BITMAPS_EXTENSION = 0x23852875
DATA_FILE_EXTENSION = 0x44415441
LONGEST_TABLE = 1024


@dataclass(frozen=True, slots=True)
class Site:
    """One number in the file: *bits* wide from bit *shift* of *size* big-endian bytes."""

    offset: int
    size: int
    shift: int = 0
    bits: int = 0

    @property
    def top(self) -> int:
        """The largest number that fits."""
        return (1 << (self.bits or 8 * self.size)) - 1

    def read(self, raw: bytes | bytearray) -> int:
        """Return the number that is stored."""
        word = int.from_bytes(raw[self.offset : self.offset + self.size], "big")
        return word >> self.shift & self.top

    def write(self, raw: bytearray, value: int) -> None:
        """Store *value*, cut to the width."""
        end = self.offset + self.size
        word = int.from_bytes(raw[self.offset : end], "big")
        word = word & ~(self.top << self.shift) | (value & self.top) << self.shift
        raw[self.offset : end] = word.to_bytes(self.size, "big")


class Anatomy:
    """Where the metadata of one sound image lies."""

    def __init__(self, raw: bytes) -> None:
        """Read the header of the image *raw*."""
        self.raw = raw
        self.version, cluster_bits = struct.unpack_from(">4xI12xI", raw)
        self.l1_size, self.l1_offset = struct.unpack_from(">IQ", raw, 36)
        self.table_offset, self.table_clusters = struct.unpack_from(">QI", raw, 48)
        self.nb_snapshots, self.snapshots_offset = struct.unpack_from(">IQ", raw, 60)
        self.incompatible, self.refcount_order, self.header_length = 0, 4, 72
        if self.version == 3:
            (self.incompatible,) = struct.unpack_from(">Q", raw, 72)
            self.refcount_order, self.header_length = struct.unpack_from(">II", raw, 96)
        self.cluster_size = 1 << cluster_bits
        self.end = -(-len(raw) // self.cluster_size) * self.cluster_size
        self.extended = bool(self.incompatible & 16)

    def entries(self, offset: int, count: int, step: int = 8) -> list[Site]:
        """Return the 64-bit sites of a table that lie inside the file, not all of a long one."""
        count = min(count, LONGEST_TABLE, (len(self.raw) - offset) // step)
        return [Site(offset + step * i, 8) for i in range(count)]

    def used(self, sites: list[Site]) -> list[Site]:
        """Return the sites that hold something other than zero."""
        return [site for site in sites if site.read(self.raw)]

    def l2_below(self, l1: list[Site]) -> list[Site]:
        """Return the entries of all L2 tables that the entries of an L1 table lead to."""
        step = 16 if self.extended else 8
        return [
            site
            for entry in self.used(l1)
            for site in self.entries(
                entry.read(self.raw) & OFFSET_MASK, self.cluster_size // step, step
            )
        ]

    @cached_property
    def snapshots(self) -> list[int]:
        """The offsets of the snapshot table's entries."""
        starts, position = [], self.snapshots_offset
        for _ in range(self.nb_snapshots):
            starts.append(position)
            id_size, name_size = struct.unpack_from(">HH", self.raw, position + 12)
            (extra,) = struct.unpack_from(">I", self.raw, position + 36)
            position += -(-(40 + extra + id_size + name_size) // 8) * 8
        return starts

    @cached_property
    def extensions(self) -> list[tuple[int, int]]:
        """The offset and the type of each header extension, the end marker included."""
        found, position = [], self.header_length
        while position + 8 <= self.cluster_size:
            kind, length = struct.unpack_from(">II", self.raw, position)
            found.append((position, kind))
            if kind == 0:
                break
            position += 8 + -(-length // 8) * 8
        return found

    @cached_property
    def bitmaps(self) -> list[int]:
        """The offsets of the bitmap directory's entries."""
        starts = []
        for at, kind in self.extensions:
            if kind == BITMAPS_EXTENSION:
                count, _, _, position = struct.unpack_from(">IIQQ", self.raw, at + 8)
                for _ in range(count):
                    starts.append(position)
                    (name_size,) = struct.unpack_from(">H", self.raw, position + 18)
                    position += -(-(24 + name_size) // 8) * 8
        return starts

    @cached_property
    def refcounts(self) -> list[Site]:
        """The refcounts of the clusters up to a little behind the end of the file."""
        bits, found = 1 << self.refcount_order, []
        per_block = self.cluster_size * 8 // bits
        table = self.entries(self.table_offset, self.table_clusters * self.cluster_size // 8)
        for cluster in range(self.end // self.cluster_size + 8):
            block, index = divmod(cluster, per_block)
            start = table[block].read(self.raw) if block < len(table) else 0
            if start and bits < 8:
                byte, part = divmod(index * bits, 8)
                found.append(Site(start + byte, 1, part, bits))
            elif start:
                found.append(Site(start + index * bits // 8, bits // 8))
        return [site for site in found if site.offset + site.size <= len(self.raw)]


Finder = Callable[[Anatomy], list[Site]]


def active_l1(image: Anatomy) -> list[Site]:
    """Return the entries of the active L1 table."""
    return image.entries(image.l1_offset, image.l1_size)


def snapshot_l1(image: Anatomy) -> list[Site]:
    """Return the entries of all snapshots' L1 tables."""
    found = []
    for start in image.snapshots:
        offset, size = struct.unpack_from(">QI", image.raw, start)
        found += image.entries(offset, size)
    return found


def refcount_table(image: Anatomy) -> list[Site]:
    """Return the entries of the refcount table."""
    return image.entries(image.table_offset, image.table_clusters * image.cluster_size // 8)


def bitmap_tables(image: Anatomy) -> list[Site]:
    """Return the entries of all bitmap tables."""
    found = []
    for start in image.bitmaps:
        offset, size = struct.unpack_from(">QI", image.raw, start)
        found += image.entries(offset, size)
    return found


def subclusters(image: Anatomy) -> list[Site]:
    """Return the subcluster bitmaps of the active L2 entries."""
    if not image.extended:
        return []
    return [Site(site.offset + 8, 8) for site in image.l2_below(active_l1(image))]


def compressed(image: Anatomy) -> list[Site]:
    """Return the compressed entries of the active L2 tables."""
    return [s for s in image.l2_below(active_l1(image)) if s.read(image.raw) & COMPRESSED]


def backing_name(image: Anatomy) -> list[Site]:
    """Return the first byte of the backing file's name."""
    (offset,) = struct.unpack_from(">Q", image.raw, 8)
    return [Site(offset, 1)] if offset else []


def field(offset: int, size: int, version: int = 2) -> Finder:
    """Return the finder of a header field that exists from *version* on."""
    return lambda image: [Site(offset, size)] if image.version >= version else []


def snapshot_field(offset: int, size: int) -> Finder:
    """Return the finder of a field of the snapshot table's entries."""
    return lambda image: [Site(start + offset, size) for start in image.snapshots]


def bitmap_field(offset: int, size: int) -> Finder:
    """Return the finder of a field of the bitmap directory's entries."""
    return lambda image: [Site(start + offset, size) for start in image.bitmaps]


def extension(wanted: int, offset: int, size: int) -> Finder:
    """Return the finder of a field in the data of a header extension."""
    return lambda image: [
        Site(at + 8 + offset, size) for at, kind in image.extensions if kind == wanted
    ]
