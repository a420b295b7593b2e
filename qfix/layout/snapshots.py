"""The snapshot table: entries one after the other, each on an 8-byte boundary (format 7)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from qfix.layout.record import U16, U32, U64, Offset, Record

MAX_EXTRA = 1024
MIN_EXTRA_V3 = 16
MAX_TABLE_BYTES = 64 << 20
MAX_SPAN = (1 << 31) - 1
NO_ICOUNT = (1 << 64) - 1

Reader = Callable[[int, int], bytes]


class SnapshotEntry(Record):
    """Fixed 40-byte start of one snapshot table entry."""

    __slots__ = ()
    l1_table_offset: Offset
    l1_size: U32
    id_str_size: U16
    name_size: U16
    date_sec: U32
    date_nsec: U32
    vm_clock_nsec: U64
    vm_state_size: U32
    extra_data_size: U32


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """One snapshot: its entry and what stands behind it.

    `index` is the place in the table, `offset` that of the entry in the file. `extra` holds at
    most MAX_EXTRA bytes. `disk_size` is None where the entry does not tell it.
    """

    index: int
    offset: int
    entry: SnapshotEntry
    extra: bytes
    id_str: bytes
    name: bytes

    @property
    def vm_state_size(self) -> int:
        """Size of the VM state in bytes."""
        if len(self.extra) >= 8:
            return int.from_bytes(self.extra[:8], "big")
        return self.entry.vm_state_size

    @property
    def disk_size(self) -> int | None:
        """Virtual disk size when the snapshot was taken, in bytes."""
        return int.from_bytes(self.extra[8:16], "big") if len(self.extra) >= 16 else None

    @property
    def icount(self) -> int | None:
        """Instruction count, None where it was not recorded."""
        value = int.from_bytes(self.extra[16:24], "big") if len(self.extra) >= 24 else NO_ICOUNT
        return None if value == NO_ICOUNT else value


class TableEnd(NamedTuple):
    """Where and why reading a snapshot table ended; `reason` is empty for a whole table.

    `behind` counts the entries that begin behind the file's end: they read as zeros.
    """

    size: int
    reason: str = ""
    behind: int = 0


class Window:
    """Bytes of a file from *base* on, fetched a piece at a time; zeros behind the end."""

    __slots__ = ("_base", "_buffer", "_read", "_start")
    STEP = 1 << 16

    def __init__(self, read: Reader, base: int) -> None:
        self._read, self._base = read, base
        self._start, self._buffer = 0, b""

    def take(self, position: int, length: int) -> bytes:
        """Return *length* bytes at *position* from the base."""
        if not self._start <= position <= position + length <= self._start + len(self._buffer):
            self._start = position
            self._buffer = self._read(self._base + position, max(length, self.STEP))
        at = position - self._start
        return self._buffer[at : at + length]


def walk_snapshots(
    read: Reader, base: int, count: int, inside: int
) -> Iterator[Snapshot | TableEnd]:
    """Yield each entry of the table at *base*, then the TableEnd.

    *read* gives zeros behind the end of the file, which is *inside* bytes from *base*. Reading
    ends there, and also, with a reason, where the table grows beyond what QEMU accepts.
    """
    window = Window(read, base)
    position = end = 0
    for index in range(count):
        if position >= inside:
            end = position + (count - index) * SnapshotEntry.codec.size
            yield TableEnd(end, behind=count - index)
            return
        entry = SnapshotEntry.decode(window.take(position, SnapshotEntry.codec.size))
        body = position + SnapshotEntry.codec.size
        names = body + entry.extra_data_size
        end = names + entry.id_str_size + entry.name_size
        if end > MAX_TABLE_BYTES:
            yield TableEnd(position, f"entry {index} ends beyond {MAX_TABLE_BYTES} bytes")
            return
        id_str = window.take(names, entry.id_str_size)
        name = window.take(names + entry.id_str_size, entry.name_size)
        extra = window.take(body, min(entry.extra_data_size, MAX_EXTRA))
        yield Snapshot(index, base + position, entry, extra, id_str, name)
        position = (end + 7) // 8 * 8
    yield TableEnd(end)
