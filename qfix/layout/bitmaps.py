"""The bitmap directory and its entries (format 8)."""

from dataclasses import dataclass
from typing import NamedTuple

from qfix.layout.record import U8, U16, U32, Hex32, Offset, Record

MAX_BITMAPS = 65_535
MAX_DIRECTORY_BYTES = 67_107_840
MAX_TABLE_ENTRIES = 0x8000000
MAX_STORED_BYTES = 0x20000000
MAX_NAME = 1023
MIN_GRANULARITY_BITS = 9
MAX_GRANULARITY_BITS = 31
DIRTY_TRACKING = 1

IN_USE = 1 << 0
AUTO = 1 << 1
EXTRA_DATA_COMPATIBLE = 1 << 2
KNOWN_FLAGS = 0x3

TABLE_RESERVED = 0xFF000000000001FE
TABLE_OFFSET = 0x00FFFFFFFFFFFE00


class BitmapEntry(Record):
    """Fixed 24-byte start of one bitmap directory entry."""

    __slots__ = ()
    bitmap_table_offset: Offset
    bitmap_table_size: U32
    flags: Hex32
    type: U8
    granularity_bits: U8
    name_size: U16
    extra_data_size: U32


@dataclass(frozen=True, slots=True, eq=False)
class Bitmap:
    """One bitmap: its place in the directory, its entry and name."""

    index: int
    offset: int
    entry: BitmapEntry
    name: bytes

    def needed_entries(self, virtual_size: int, cluster_size: int) -> int:
        """Return how many table entries cover *virtual_size* bytes."""
        bits = -(-virtual_size >> self.entry.granularity_bits)
        return -(-bits // (8 * cluster_size))


class Directory(NamedTuple):
    """The bitmaps that could be read, and where an entry no longer fitted (None: all did)."""

    bitmaps: tuple[Bitmap, ...]
    end: int
    broken_at: int | None


def parse_directory(raw: bytes, base: int, limit: int) -> Directory:
    """Parse a bitmap directory that stands at *base*, at most *limit* entries of it.

    It ends early at an entry that does not fit, or that is all zeros.
    """
    found: list[Bitmap] = []
    fixed = BitmapEntry.codec.size
    position = 0
    while position < len(raw) and len(found) < limit:
        if position + fixed > len(raw):
            return Directory(tuple(found), position, base + position)
        entry = BitmapEntry.decode(raw, position)
        if not any(entry):
            return Directory(tuple(found), position, base + position)
        names = position + fixed + entry.extra_data_size
        end = (names + entry.name_size + 7) // 8 * 8
        if end > len(raw):
            return Directory(tuple(found), position, base + position)
        name = raw[names : names + entry.name_size]
        found.append(Bitmap(len(found), base + position, entry, name))
        position = end
    return Directory(tuple(found), position, None)
