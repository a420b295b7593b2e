"""Writes tiny qcow2 images from a description: the independent side of the corpus.

It shares no code with the program under test. An image is laid out in the order of the calls:
header, refcount table, first refcount block, active L1 table, then whatever is asked for. Refcounts
and COPIED flags follow from the description; `Picture` names every field, so that a case can poke.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

COPIED = 1 << 63
COMPRESSED = 1 << 62
ZERO = 1
BACKING_FORMAT = 0xE2792ACA
BITMAPS = 0x23852875
ENCRYPTION = 0x0537BE77
DATA_FILE_NAME = 0x44415441
FEATURE_NAMES = 0x6803F857
LUKS_HEADER = b"LUKS\xba\xbe\0\1".ljust(592, b"\xaa")

HEADER = (
    *(("magic", 4), ("version", 4), ("backing_file_offset", 8), ("backing_file_size", 4)),
    *(("cluster_bits", 4), ("size", 8), ("crypt_method", 4), ("l1_size", 4)),
    *(("l1_table_offset", 8), ("refcount_table_offset", 8), ("refcount_table_clusters", 4)),
    *(("nb_snapshots", 4), ("snapshots_offset", 8), ("incompatible_features", 8)),
    *(("compatible_features", 8), ("autoclear_features", 8), ("refcount_order", 4)),
    *(("header_length", 4), ("compression_type", 1), ("padding", 7)),
)
SNAPSHOT = (
    *(("l1_table_offset", 8), ("l1_size", 4), ("id_str_size", 2), ("name_size", 2)),
    *(("date_sec", 4), ("date_nsec", 4), ("vm_clock_nsec", 8), ("vm_state_size", 4)),
    *(("extra_data_size", 4), ("extra_vm_state_size", 8), ("extra_disk_size", 8)),
)
BITMAP = (
    *(("table_offset", 8), ("table_size", 4), ("flags", 4), ("type", 1)),
    *(("granularity_bits", 1), ("name_size", 2), ("extra_data_size", 4)),
)


@dataclass(frozen=True, slots=True)
class Place:
    """A big-endian number in the file: byte offset, width in bits, shift for less than a byte."""

    offset: int
    bits: int
    shift: int = 0


@dataclass(slots=True)
class Picture:
    """The bytes of an image, and where each field of it stands."""

    data: bytearray
    places: dict[str, Place] = field(default_factory=dict)

    def name(self, prefix: str, offset: int, fields: tuple[tuple[str, int], ...]) -> None:
        """Name the fields of a structure at *offset*."""
        for label, width in fields:
            self.places[prefix + label] = Place(offset, width * 8)
            offset += width

    def poke(self, values: dict[str, int]) -> Picture:
        """Overwrite the named numbers; return the picture itself."""
        for name, value in values.items():
            place = self.places[name]
            size = max(1, place.bits // 8)
            mask = ((1 << place.bits) - 1) << place.shift
            span = slice(place.offset, place.offset + size)
            old = int.from_bytes(self.data[span], "big")
            self.data[span] = (old & ~mask | value << place.shift).to_bytes(size, "big")
        return self

    def put(self, offset: int, content: bytes) -> Picture:
        """Overwrite bytes; return the picture itself."""
        self.data[offset : offset + len(content)] = content
        return self

    def resize(self, length: int) -> Picture:
        """Cut the file, or add zeros to its end; return the picture itself."""
        self.data[:] = self.data[:length].ljust(length, b"\0")
        return self


@dataclass(frozen=True, slots=True)
class Entry:
    """One L2 entry without its COPIED flag, and the host clusters that it uses."""

    value: int
    hosts: tuple[int, ...] = ()
    subclusters: int = 0

    @property
    def takes_flag(self) -> bool:
        """Whether COPIED has a meaning for it."""
        return not self.value & COMPRESSED and bool(self.hosts)


@dataclass(slots=True)
class Table:
    """An L2 table: its host cluster, its entries by index."""

    cluster: int
    entries: dict[int, Entry] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Frozen:
    """A snapshot: its L1 table as it was, where that stands, and what its entry says."""

    l1_cluster: int
    l1: dict[int, Table]
    l1_size: int
    id_str: bytes
    name: bytes
    extra: bytes
    vm_state_size: int


@dataclass(frozen=True, slots=True)
class Dirty:
    """A bitmap: where its table stands, the table's entries, and the rest of its entry."""

    table_cluster: int
    table: tuple[int, ...]
    name: bytes
    flags: int
    granularity_bits: int
    extra: bytes


@dataclass(slots=True)
class Qcow2:
    """An image in the making; `build_write.finish` makes its bytes."""

    size: int = 64 << 10
    version: int = 3
    cluster_bits: int = 9
    refcount_order: int = 4
    header_length: int = 112
    incompatible: int = 0
    compatible: int = 0
    autoclear: int = 0
    crypt_method: int = 0
    compression_type: int = 0
    backing: bytes = b""
    extensions: list[tuple[int, bytes]] = field(default_factory=list)
    extended: bool = False
    data_file: bool = False
    l1_size: int | None = None
    counts: Counter[int] = field(default_factory=Counter)
    contents: dict[int, bytes] = field(default_factory=dict)
    l1: dict[int, Table] = field(default_factory=dict)
    snapshots: list[Frozen] = field(default_factory=list)
    bitmaps: list[Dirty] = field(default_factory=list)
    encryption: tuple[int, int] | None = None
    next: int = 0
    packed: int = 0

    def __post_init__(self) -> None:
        """Take the header, the refcount table, its first block and the L1 table."""
        self.incompatible |= self.extended << 4 | self.data_file << 2
        self.incompatible |= (self.compression_type != 0) << 3
        per_table = self.cluster_size * self.per_l2
        self.l1_size = -(-self.size // per_table) if self.l1_size is None else self.l1_size
        self.take(3)
        self.take(self.clusters(self.l1_size * 8))

    @property
    def cluster_size(self) -> int:
        """Bytes of a cluster."""
        return 1 << self.cluster_bits

    @property
    def per_l2(self) -> int:
        """Entries of an L2 table."""
        return self.cluster_size // (16 if self.extended else 8)

    @property
    def per_block(self) -> int:
        """Refcounts of a refcount block."""
        return self.cluster_size * 8 >> self.refcount_order

    def clusters(self, length: int) -> int:
        """Return how many clusters *length* bytes take."""
        return -(-length // self.cluster_size)

    def take(self, count: int = 1) -> int:
        """Take clusters at the end of the file, each used once; return the first."""
        first = self.next
        self.next += count
        self.counts.update(range(first, self.next))
        return first

    def skip(self, count: int = 1) -> None:
        """Leave clusters free."""
        self.next += count

    def store(self, content: bytes) -> int:
        """Store bytes in clusters of their own, used once; return the first."""
        first = self.take(self.clusters(len(content)))
        self.contents[first] = content
        return first

    # guest data

    def map(self, guest: int, entry: Entry) -> None:
        """Set the L2 entry of a guest cluster; a table that a snapshot uses is copied first."""
        index = guest // self.per_l2
        table = self.l1.get(index)
        if table is None or any(table is frozen.l1.get(index) for frozen in self.snapshots):
            table = self.l1[index] = Table(self.next, dict(table.entries) if table else {})
            self.next += 1
        table.entries[guest % self.per_l2] = entry

    def write(self, guest: int, text: str = "", *, flags: int = 0) -> None:
        """Map a guest cluster to a new data cluster that starts with *text*, repeated."""
        self.map(guest, Entry(0))
        if self.data_file:
            self.map(guest, Entry(guest << self.cluster_bits, (-1,)))
            return
        host, self.next = self.next, self.next + 1
        text = text or f"what guest cluster {guest} holds, "
        self.contents[host] = (text * 512)[:512].encode()
        value = host << self.cluster_bits | flags
        self.map(guest, Entry(value, (host,), 0xFFFFFFFF if self.extended else 0))

    def zero(self, guest: int) -> None:
        """Make a guest cluster read as zeros, without a host cluster."""
        self.map(guest, Entry(0, (), 0xFFFFFFFF << 32) if self.extended else Entry(ZERO))

    def pack(self, guest: int, payload: bytes) -> None:
        """Map a guest cluster to compressed bytes, right behind those before where that goes."""
        self.map(guest, Entry(0))
        start = self.packed
        room = -start % self.cluster_size
        if not room or (len(payload) > room and self.next * self.cluster_size != start + room):
            start, room = self.next * self.cluster_size, 0
        end = start + len(payload)
        self.next = max(self.next, self.clusters(end))
        first = start // self.cluster_size
        old = self.contents.get(first, b"").ljust(start % self.cluster_size, b"\0")
        whole = old + payload
        for at in range(0, len(whole), self.cluster_size):
            cluster = first + at // self.cluster_size
            self.contents[cluster] = whole[at : at + self.cluster_size]
        self.packed = end
        sectors = (end - 1) // 512 - start // 512
        value = COMPRESSED | sectors << (70 - self.cluster_bits) | start
        self.map(guest, Entry(value, tuple(range(first, self.clusters(end)))))

    # what else an image can hold

    def snapshot(
        self,
        id_str: str,
        name: str,
        *,
        extra: bytes | None = None,
        vm_state_size: int = 0,
        disk_size: int | None = None,
    ) -> None:
        """Take a snapshot of the active tables."""
        assert self.l1_size is not None
        if extra is None:
            disk = self.size if disk_size is None else disk_size
            extra = vm_state_size.to_bytes(8, "big") + disk.to_bytes(8, "big") + b"\0" * 8
        first = self.take(self.clusters(self.l1_size * 8))
        names = id_str.encode(), name.encode()
        frozen = Frozen(first, dict(self.l1), self.l1_size, *names, extra, vm_state_size)
        self.snapshots.append(frozen)

    def bitmap(
        self,
        name: str,
        *stored: bytes | int,
        flags: int = 2,
        granularity_bits: int = 9,
        extra: bytes = b"",
    ) -> None:
        """Add a persistent bitmap; its table entries are numbers, or bytes to store."""
        table = tuple(
            part if isinstance(part, int) else self.store(part) << self.cluster_bits
            for part in stored
        )
        content = b"".join(entry.to_bytes(8, "big") for entry in table)
        dirty = Dirty(self.store(content), table, name.encode(), flags, granularity_bits, extra)
        self.bitmaps.append(dirty)
        self.autoclear |= 1

    def encrypt(self, area: bytes) -> None:
        """Put a LUKS header area in."""
        self.crypt_method = 2
        self.encryption = self.store(area) << self.cluster_bits, len(area)
