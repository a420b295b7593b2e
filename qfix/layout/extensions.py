"""The header extensions and the area they stand in (format 3)."""

from typing import NamedTuple

from qfix.layout.record import U32, U64, Offset, Record

END = 0x00000000
BACKING_FORMAT = 0xE2792ACA
FEATURE_NAMES = 0x6803F857
BITMAPS = 0x23852875
ENCRYPTION = 0x0537BE77
DATA_FILE_NAME = 0x44415441
NAMES = {
    BACKING_FORMAT: "backing format",
    FEATURE_NAMES: "feature name table",
    BITMAPS: "bitmaps",
    ENCRYPTION: "encryption header pointer",
    DATA_FILE_NAME: "external data file name",
}

HEAD = 8
"""Bytes of magic and length before the data of an extension."""
FEATURE_RECORD = 48
LUKS_MAGIC = b"LUKS\xba\xbe"


class BitmapsExtension(Record):
    """Data of the bitmaps extension."""

    __slots__ = ()
    nb_bitmaps: U32
    reserved: U32
    bitmap_directory_size: U64
    bitmap_directory_offset: Offset


class EncryptionPointer(Record):
    """Data of the encryption header pointer."""

    __slots__ = ()
    offset: Offset
    length: U64


class Extension(NamedTuple):
    """One header extension: where its 8-byte head stands, its magic and data."""

    offset: int
    magic: int
    data: bytes

    @property
    def name(self) -> str:
        """The name of its kind."""
        return NAMES.get(self.magic, "unknown")


class ExtensionArea(NamedTuple):
    """All extensions in file order, where the area ends, and the head that overran it."""

    extensions: tuple[Extension, ...]
    end: int
    overrun: int | None

    def find(self, magic: int) -> Extension | None:
        """Return the last extension of a kind, the one that QEMU goes by; None if absent."""
        found = [extension for extension in self.extensions if extension.magic == magic]
        return found[-1] if found else None


def parse_extensions(cluster: bytes, start: int, limit: int) -> ExtensionArea:
    """Parse the extensions between *start* and *limit* in the header cluster.

    An extension that does not fit ends the area; its offset is kept as `overrun`.
    """
    found: list[Extension] = []
    position = start
    while position < limit:
        if position + 8 > limit:
            return ExtensionArea(tuple(found), position, position)
        magic = int.from_bytes(cluster[position : position + 4], "big")
        length = int.from_bytes(cluster[position + 4 : position + 8], "big")
        if length > limit - position - 8:
            return ExtensionArea(tuple(found), position, position)
        if magic == END:
            return ExtensionArea(tuple(found), position + 8, None)
        found.append(Extension(position, magic, cluster[position + 8 : position + 8 + length]))
        position += 8 + (length + 7) // 8 * 8
    return ExtensionArea(tuple(found), min(position, limit), None)


def encode_extension(magic: int, data: bytes) -> bytes:
    """Return the bytes of an extension, with zeros up to a multiple of 8."""
    head = magic.to_bytes(4, "big") + len(data).to_bytes(4, "big")
    return head + data + bytes(-len(data) % 8)


def feature_names(data: bytes) -> dict[tuple[int, int], str]:
    """Decode a feature name table to names by (type, bit)."""
    names = {}
    for start in range(0, len(data) - FEATURE_RECORD + 1, FEATURE_RECORD):
        record = data[start : start + FEATURE_RECORD]
        names[record[0], record[1]] = record[2:].rstrip(b"\0").decode("utf-8", "replace")
    return names
