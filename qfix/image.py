"""Head and Image: what the header cluster says, and the tables it leads to; tolerant of damage."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from qfix.errors import ReadError
from qfix.layout import bitmaps, extensions, header, snapshots, tables
from qfix.layout.geometry import Geometry

if TYPE_CHECKING:
    from collections.abc import Callable

    from qfix.arrays import Words
    from qfix.file import Source
    from qfix.layout.snapshots import Reader

GUESSES = (
    (b"VMDK", 0, "a VMDK disk"),
    (b"KDMV", 0, "a VMDK disk"),
    (b"# Disk DescriptorFile", 0, "a VMDK descriptor"),
    (b"vhdxfile", 0, "a VHDX disk"),
    (b"conectix", 0, "a VHD disk"),
    (b"<<< ", 0, "a VDI disk"),
    (b"QED\0", 0, "a QED disk"),
    (b"LUKS\xba\xbe", 0, "a raw LUKS volume"),
    (b"\x1f\x8b", 0, "a gzip file"),
    (b"\xfd7zXZ\0", 0, "an xz file"),
    (b"\x28\xb5\x2f\xfd", 0, "a zstd file"),
    (b"BZh", 0, "a bzip2 file"),
    (b"PK\x03\x04", 0, "a zip archive"),
    (b"\x7fELF", 0, "an ELF program"),
    (b"ustar", 257, "a tar archive"),
    (b"CD001", 0x8001, "an ISO 9660 image"),
    (b"EFI PART", 512, "a raw disk with a GPT"),
    (b"\x53\xef", 0x438, "a raw ext2/3/4 file system"),
    (b"XFSB", 0, "a raw XFS file system"),
    (b"_BHRfS_M", 0x10040, "a raw btrfs file system"),
    (b"\x55\xaa", 510, "a raw disk with a boot sector"),
)
PROBE_BYTES = 0x10200
SECTOR = 512


class Head(NamedTuple):
    """The header cluster of a file, decoded as far as it goes.

    `raw` is the header cluster, zeros behind the end of the file. `header` is None where the
    file does not begin as a qcow2 image does; `guess` then says what it looks like, and
    `hidden_cluster_size` is that of tables found behind an overwritten header, 0 if none are.
    """

    file: Source
    raw: bytes
    header: header.Header | None
    magic_damaged: bool = False
    guess: str = ""
    hidden_cluster_size: int = 0

    @property
    def backing_name(self) -> bytes | None:
        """The backing file name, None if there is none or it is not inside the header cluster."""
        head = self.header
        if head is None or not head.backing_file_offset or not head.backing_file_size:
            return None
        end = head.backing_file_offset + head.backing_file_size
        return self.raw[head.backing_file_offset : end] if end <= len(self.raw) else None

    @property
    def compression_type(self) -> int:
        """The compression type field, 0 where the header ends before it."""
        head = self.header
        return self.raw[104] if head and head.header_length > header.V3_LENGTH else 0


@dataclass(frozen=True, eq=False)
class Image:
    """A qcow2 image whose header is sound enough to read tables by it."""

    head: Head
    header: header.Header
    geometry: Geometry
    unreadable: list[tuple[int, int, str]] = field(default_factory=list)

    @property
    def file(self) -> Source:
        """The open file."""
        return self.head.file

    @cached_property
    def area(self) -> extensions.ExtensionArea:
        """The header extensions (format 3)."""
        head = self.header
        length = head.header_length
        if not header.V2_LENGTH <= length <= self.geometry.cluster_size:
            length = header.V3_LENGTH
        limit = self.geometry.cluster_size
        if 0 < head.backing_file_offset <= limit:
            limit = head.backing_file_offset
        return extensions.parse_extensions(self.head.raw, length, limit)

    @property
    def encryption(self) -> extensions.EncryptionPointer | None:
        """The encryption header pointer, None if there is none of the right length."""
        found = self.area.find(extensions.ENCRYPTION)
        if found is None or len(found.data) != extensions.EncryptionPointer.codec.size:
            return None
        return extensions.EncryptionPointer.decode(found.data)

    @property
    def data_file_name(self) -> bytes | None:
        """The name of the external data file, None if the image does not tell it."""
        found = self.area.find(extensions.DATA_FILE_NAME)
        return found.data if found else None

    @property
    def bitmaps_extension(self) -> extensions.BitmapsExtension | None:
        """The bitmaps extension, None if there is none of the right length."""
        found = self.area.find(extensions.BITMAPS)
        if found is None or len(found.data) != extensions.BitmapsExtension.codec.size:
            return None
        return extensions.BitmapsExtension.decode(found.data)

    def feature_text(self, word: int, bits: int) -> str:
        """Return the names of the set *bits* of a feature word, by the image's own table."""
        names = dict(header.FEATURE_NAMES)
        found = self.area.find(extensions.FEATURE_NAMES)
        if found is not None:
            names |= extensions.feature_names(found.data)
        known = [bit for bit in range(64) if bits >> bit & 1]
        told = (names.get((word, bit)) or f"bit {bit}" for bit in known)
        return ", ".join(printable(name.encode()) for name in told)

    @cached_property
    def snapshot_table(self) -> tuple[list[snapshots.Snapshot], snapshots.TableEnd]:
        """The snapshots of the table (format 7), and where and why reading it ended."""
        head = self.header
        count = min(head.nb_snapshots, header.MAX_SNAPSHOTS)
        offset = head.snapshots_offset
        if not count or offset % self.geometry.cluster_size or offset > header.MAX_FILE_OFFSET:
            return [], snapshots.TableEnd(0)
        inside = self.geometry.file_length - offset
        read = self.reader("the snapshot table")
        items = list(snapshots.walk_snapshots(read, offset, count, inside))
        found = [item for item in items if isinstance(item, snapshots.Snapshot)]
        ends = [item for item in items if isinstance(item, snapshots.TableEnd)]
        return found, ends[-1]

    @property
    def snapshots(self) -> list[snapshots.Snapshot]:
        """The snapshots that could be read, in the order of the table."""
        return self.snapshot_table[0]

    @cached_property
    def directory(self) -> bitmaps.Directory | None:
        """Return the bitmap directory (format 8), None where there is none to read."""
        extension = self.bitmaps_extension
        if extension is None or extension.bitmap_directory_offset >= self.geometry.file_size:
            return None
        inside = self.geometry.file_length - extension.bitmap_directory_offset
        size = min(extension.bitmap_directory_size, bitmaps.MAX_DIRECTORY_BYTES, inside)
        raw = self.reader("the bitmap directory")(extension.bitmap_directory_offset, size)
        limit = min(extension.nb_bitmaps, bitmaps.MAX_BITMAPS) + 1
        return bitmaps.parse_directory(raw, extension.bitmap_directory_offset, limit)

    def table(self, offset: int, entries: int, what: str) -> Words:
        """Return up to *entries* 64-bit words at *offset*; what is behind the file is left out."""
        from qfix.arrays import words

        inside = max(0, self.geometry.file_length - offset)
        return words(self.reader(what)(offset, min(entries * tables.ENTRY_SIZE, inside)))

    def reader(self, what: str) -> Reader:
        """Return a read that gives zeros for sectors the host can't read, and notes them.

        They are noted in `unreadable` as (offset, length, *what*).
        """

        def read(offset: int, length: int) -> bytes:
            try:
                return self.file.read(offset, length)
            except ReadError:
                sectors = range(offset, offset + length, SECTOR)
                view = memoryview(bytearray(len(sectors) * SECTOR))
                failed = self.file.read_each(view, sectors, SECTOR)
                self.unreadable.extend((sectors[at], SECTOR, what) for at in failed)
                return bytes(view[:length])

        return read


def read_head(file: Source) -> Head:
    """Read and decode the header cluster of *file*; never fails on what the bytes are."""
    raw = file.read(0, header.FULL_LENGTH)
    decoded = header.decode_header(raw)
    damaged = decoded.magic != header.MAGIC and _plausible(decoded, file.size)
    if decoded.magic == header.MAGIC or damaged:
        bits = decoded.cluster_bits
        if header.MIN_CLUSTER_BITS <= bits <= header.MAX_CLUSTER_BITS:
            raw = file.read(0, 1 << bits)
        return Head(file, raw, decoded, magic_damaged=damaged)
    probe = bytearray(PROBE_BYTES)
    file.read_each(memoryview(probe), range(0, PROBE_BYTES, SECTOR), SECTOR)
    raw = bytes(probe)
    return Head(file, raw, None, False, _guess(raw, file.size), _hidden_cluster_size(file))


def load(head: Head) -> Image | None:
    """Return the image behind *head*, None where nothing behind its header can be read by it."""
    decoded = head.header
    if decoded is None or decoded.version not in (2, 3):
        return None
    if not header.MIN_CLUSTER_BITS <= decoded.cluster_bits <= header.MAX_CLUSTER_BITS:
        return None
    order = decoded.refcount_order
    geometry = Geometry(
        cluster_bits=decoded.cluster_bits,
        refcount_order=order if order <= header.MAX_REFCOUNT_ORDER else 4,
        extended=bool(decoded.incompatible_features & header.EXTENDED_L2),
        data_file=bool(decoded.incompatible_features & header.DATA_FILE),
        virtual_size=decoded.size,
        file_size=head.file.size,
    )
    return Image(head, decoded, geometry)


def _plausible(head: header.Header, size: int) -> bool:
    """Tell whether a header with a wrong magic number is one all the same."""
    if head.version not in (2, 3) or head.refcount_order > header.MAX_REFCOUNT_ORDER:
        return False
    if not header.MIN_CLUSTER_BITS <= head.cluster_bits <= header.MAX_CLUSTER_BITS:
        return False
    offsets = (head.l1_table_offset, head.refcount_table_offset)
    aligned = all(offset % (1 << head.cluster_bits) == 0 for offset in offsets)
    return aligned and all(0 < offset < size for offset in offsets)


def _guess(raw: bytes, size: int) -> str:
    if not size:
        return "an empty file"
    for magic, offset, name in GUESSES:
        if raw[offset : offset + len(magic)] == magic:
            return name
    if raw.strip(b"\0"):
        return "a raw disk or something else"
    return "zeros at its start"


def _hidden_cluster_size(file: Source) -> int:
    """Return the cluster size of tables laid out as in a new image (format 13), 0 if none are.

    The refcount table is then in cluster 1, its first block in cluster 2, and the first clusters
    are in use.
    """
    read: Callable[[int, int], bytes] = file.read
    for bits in range(header.MIN_CLUSTER_BITS, header.MAX_CLUSTER_BITS + 1):
        size = 1 << bits
        if 3 * size >= file.size:
            break
        block = int.from_bytes(read(size, 8), "big")
        if block == 2 * size and read(block, 8) == b"\0\1" * 4:
            return size
    return 0


def printable(text: bytes, limit: int = 200) -> str:
    """Return *text* for people, control characters escaped, at most *limit* characters."""
    shown = text[: 4 * limit + 4].decode("utf-8", "backslashreplace")
    escaped = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)
    return escaped if len(escaped) <= limit else escaped[:limit] + "..."
