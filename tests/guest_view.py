"""What the layers of an image read to a guest, by a reader of its own that forgives damage.

It knows no refcounts, opens nothing and shares no code with the program under test. Content that is
the same in two views reads the same; zstd payloads and ciphertext are compared as they are stored.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mutant_sites import number
from qemu_anatomy import COMPRESSED, OFFSET_MASK

if TYPE_CHECKING:
    from collections.abc import Iterator

BACKING, DATA_FILE, EXTENDED = 0xE2792ACA, 4, 16
LUKS = 2
ERROR = b"error"
ZEROS = b""
MOST_L1 = 1 << 13
SUBCLUSTERS = 32

Content = bytes | tuple[bytes | None, ...]
View = Mapping[int, Content]
"""Content by guest cluster; one that is not there is unallocated, or zeros without backing."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a header decides how its tables are read."""

    version: int
    cluster_bits: int
    size: int
    crypt_method: int
    incompatible: int
    compression_type: int
    backing: bytes

    @classmethod
    def of(cls, raw: bytes) -> Shape:
        """Read the header of *raw*; missing bytes are zeros."""
        version, offset = number(raw, 4, 4), number(raw, 8, 8)
        third = version > 2
        return cls(
            version=version,
            cluster_bits=number(raw, 20, 4),
            size=number(raw, 24, 8),
            crypt_method=number(raw, 32, 4),
            incompatible=number(raw, 72, 8) & ~0x3 if third else 0,
            compression_type=number(raw, 104, 1) if third and number(raw, 100, 4) > 104 else 0,
            backing=raw[offset : offset + number(raw, 16, 4)] if offset else b"",
        )

    @property
    def cluster_size(self) -> int:
        """Bytes a cluster."""
        return 1 << self.cluster_bits

    @property
    def entries(self) -> int:
        """L2 entries a table."""
        return self.cluster_size // (16 if self.incompatible & EXTENDED else 8)

    def without_size(self) -> Shape:
        """Return the shape of a disk of any size."""
        return replace(self, size=0)


class SnapshotView(NamedTuple):
    """What stands in one entry of the snapshot table."""

    id_str: bytes
    name: bytes
    l1_offset: int
    l1_size: int
    disk_size: int
    raw: bytes


class Reader:
    """Reads layers of *raw* in a given shape; *data* is the content of an external data file."""

    def __init__(self, raw: bytes, shape: Shape, data: bytes = b"") -> None:
        """Take the bytes; nothing is read yet."""
        self.raw, self.shape = raw, shape
        self.payload = data if shape.incompatible & DATA_FILE else raw

    def layer(self, l1_offset: int, l1_size: int) -> dict[int, Content]:
        """Return what the layer of an L1 table reads."""
        view: dict[int, Content] = {}
        shape = self.shape
        count = max(0, min(l1_size, MOST_L1, (len(self.raw) - l1_offset) // 8))
        l1 = np.frombuffer(self.raw, ">u8", count, l1_offset if count else 0)
        for index in np.flatnonzero(l1).tolist():
            table = int(l1[index]) & OFFSET_MASK
            first = index * shape.entries
            if not table:
                continue
            if table % shape.cluster_size:
                view |= dict.fromkeys(range(first, first + shape.entries), ERROR)
                continue
            for at, content in self._table(table):
                view[first + at] = content
        return view

    def _table(self, offset: int) -> Iterator[tuple[int, Content]]:
        piece = self.raw[offset : offset + self.shape.cluster_size]
        words = np.frombuffer(piece[: len(piece) // 8 * 8], ">u8")
        extended = bool(self.shape.incompatible & EXTENDED)
        step = 1 + extended
        found = words[: len(words) // step * step].reshape(-1, step)
        for at in np.flatnonzero(found.any(axis=1)).tolist():
            entry, *bitmap = map(int, found[at])
            content = self._subclusters(entry, bitmap[0]) if bitmap else self._standard(entry)
            if content is not None:
                yield at, content

    def _standard(self, entry: int) -> Content | None:
        if entry & COMPRESSED:
            return self._plain(self._compressed(entry))
        if entry & 1:
            return ERROR if self.shape.version < 3 else ZEROS if self.shape.backing else None
        offset = entry & OFFSET_MASK
        if not offset and not (self.shape.incompatible & DATA_FILE and entry >> 63):
            return None
        return self._plain(self._host(offset, self.shape.cluster_size))

    def _subclusters(self, entry: int, bitmap: int) -> Content | None:
        if entry & COMPRESSED:
            return self._plain(self._compressed(entry))
        size = self.shape.cluster_size // SUBCLUSTERS
        offset = entry & OFFSET_MASK
        placed = bool(offset) or bool(self.shape.incompatible & DATA_FILE and entry >> 63)
        parts: list[bytes | None] = []
        for part in range(SUBCLUSTERS):
            zero, data = bitmap >> 32 + part & 1, bitmap >> part & 1
            if data and (zero or not placed or offset % self.shape.cluster_size):
                parts.append(ERROR)
            elif data:
                parts.append(self._plain(self._host(offset + part * size, size)))
            else:
                parts.append(ZEROS if zero and self.shape.backing else None)
        return tuple(parts) if any(part is not None for part in parts) else None

    def _host(self, offset: int, length: int) -> bytes:
        """Return bytes of the file, zeros behind its end; those of LUKS belong to their place."""
        if offset % self.shape.cluster_size and length == self.shape.cluster_size:
            return ERROR
        found = self.payload[offset : offset + length].ljust(length, b"\0")
        return found + offset.to_bytes(8) if self.shape.crypt_method == LUKS else found

    def _plain(self, content: bytes) -> bytes | None:
        if content.count(0) < len(content):
            return content
        return ZEROS if self.shape.backing else None

    def _compressed(self, entry: int) -> bytes:
        bits = 62 - (self.shape.cluster_bits - 8)
        offset, sectors = entry & (1 << bits) - 1, (entry & COMPRESSED - 1) >> bits
        length = (sectors + 1) * 512 - offset % 512
        packed = self.raw[offset : offset + length].ljust(length, b"\0")
        if self.shape.compression_type:
            return b"zstd" + packed
        try:
            size = self.shape.cluster_size
            content = zlib.decompressobj(-12).decompress(packed, size)
        except zlib.error:
            return ERROR
        return content if len(content) == size else ERROR


def snapshots_of(raw: bytes) -> list[SnapshotView]:
    """Return the entries of the snapshot table as far as they stand inside the file."""
    found: list[SnapshotView] = []
    position = number(raw, 64, 8)
    for _ in range(min(number(raw, 60, 4), 65536)):
        extra, ids, names = (number(raw, position + at, width) for at, width in SIZES)
        start = position + 40 + extra
        end = start + ids + names
        if end > len(raw) or extra > 1024:
            break
        disk = number(raw, position + 48, 8) if extra >= 16 else -1
        found.append(
            SnapshotView(
                raw[start : start + ids],
                raw[start + ids : end],
                number(raw, position, 8),
                number(raw, position + 8, 4),
                disk,
                raw[position:end],
            )
        )
        position = -(-end // 8) * 8
    return found


SIZES = ((36, 4), (12, 2), (14, 2))


def active_l1(raw: bytes) -> tuple[int, int]:
    """Return offset and length of the active L1 table."""
    return number(raw, 40, 8), number(raw, 36, 4)


def differing(one: View, two: View, below: int | None = None) -> set[int]:
    """Return the guest clusters in which two views differ, those *below* a number only."""
    keys = one.keys() | two.keys()
    return {key for key in keys if (below is None or key < below) and one.get(key) != two.get(key)}
