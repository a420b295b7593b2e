"""A disk in memory that logs what is done to it, and every state that a crash can leave behind."""

from __future__ import annotations

import errno
import os
import random
import sqlite3
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from qfix.change.records import Identity, Journal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.change.journal import Record, State
    from qfix.change.pieces import Amendment
    from qfix.change.records import Origin

SECTOR = 512
MOST_TEARS = 64


class Write(NamedTuple):
    """Bytes that were written."""

    offset: int
    data: bytes


class Resize(NamedTuple):
    """A cut, or an end further on."""

    size: int


class Sync(NamedTuple):
    """All before is on the disk."""


class Commit(NamedTuple):
    """What the journal's file holds from now on."""

    journal: bytes


Operation = Write | Resize | Sync | Commit


@dataclass
class MemoryDisk:
    """A file in memory, with all that was done to it; zero sectors are holes."""

    data: bytearray
    log: list[Operation] = field(default_factory=list)
    is_device: bool = False
    path: str = "disk.img"
    stamp: int = 0

    def identity(self) -> Identity:
        """Return which file it is."""
        return Identity(b"/disk.img", 1, 1)

    def size(self) -> int:
        """Return the size in bytes."""
        return len(self.data)

    def mtime_ns(self) -> int:
        """Return how often it was changed, 0 for a device."""
        return 0 if self.is_device else self.stamp

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes there, fewer where the file ends."""
        return bytes(self.data[offset : offset + length])

    def extents(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield sectors that are not zero."""
        end = min(end, len(self.data))
        for at, last in pairwise(bounds(start, end)):
            if any(self.data[at:last]):
                yield at, last

    def pwrite(self, offset: int, data: bytes) -> None:
        """Write all of *data*."""
        self._do(Write(offset, bytes(data)))

    def truncate(self, size: int) -> None:
        """Cut the file, or let it end further on."""
        assert not self.is_device
        self._do(Resize(size))

    def fallocate(self, offset: int, length: int) -> None:
        """Check that a hole is inside the file."""
        assert not self.is_device
        assert offset + length <= len(self.data)

    def sync(self) -> None:
        """Note that all before is on the disk."""
        self._do(Sync())

    def _do(self, operation: Operation) -> None:
        self.stamp += 1
        self.log.append(operation)
        perform(self.data, operation)


@dataclass
class FailingDisk(MemoryDisk):
    """A disk whose call number *failing* fails, or every call from that one on."""

    failing: int = -1
    code: int = errno.EIO
    forever: bool = False
    calls: int = 0

    def _count(self) -> None:
        self.calls += 1
        if self.calls - 1 == self.failing or (self.forever and 0 <= self.failing < self.calls):
            raise OSError(self.code, os.strerror(self.code))

    def size(self) -> int:
        """Return the size in bytes."""
        self._count()
        return super().size()

    def mtime_ns(self) -> int:
        """Return how often it was changed, 0 for a device."""
        self._count()
        return super().mtime_ns()

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes there, fewer where the file ends."""
        self._count()
        return super().read(offset, length)

    def fallocate(self, offset: int, length: int) -> None:
        """Check that a hole is inside the file."""
        self._count()
        super().fallocate(offset, length)

    def _do(self, operation: Operation) -> None:
        """Fail in the middle of a write, as a real disk does."""
        try:
            self._count()
        except OSError:
            if isinstance(operation, Write):
                half = operation._replace(data=operation.data[: len(operation.data) // 2])
                super()._do(half)
            raise
        super()._do(operation)


@dataclass(slots=True)
class LoggedJournal(Journal):
    """A journal in memory whose commits are logged beside the disk's operations."""

    log: list[Operation] = field(default_factory=list)

    def add(self, amendment: Amendment, origin: Origin) -> Record:
        """Store a change."""
        record = Journal.add(self, amendment, origin)
        self._commit()
        return record

    def start(self, record: Record) -> None:
        """Note that the image is about to be touched."""
        Journal.start(self, record)
        self._commit()

    def finish(self, record: Record, state: State, mtime_ns: int) -> None:
        """Note how a change ended."""
        Journal.finish(self, record, state, mtime_ns)
        self._commit()

    def forget(self, record: Record) -> None:
        """Give back the room of a record."""
        Journal.forget(self, record)
        self._commit()

    def _commit(self) -> None:
        self.log.append(Commit(self.connection.serialize()))


def memory_journal(stored: bytes = b"", log: list[Operation] | None = None) -> LoggedJournal:
    """Return a journal in memory, as the next run would find it after a crash."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    if stored:
        connection.deserialize(stored)
    journal = LoggedJournal("memory", connection, log=[] if log is None else log)
    journal.tidy()
    return journal


def perform(data: bytearray, operation: Operation) -> None:
    """Do an operation to the bytes of a file."""
    if isinstance(operation, Write):
        end = operation.offset + len(operation.data)
        data.extend(bytes(max(0, end - len(data))))
        data[operation.offset : end] = operation.data
    elif isinstance(operation, Resize):
        del data[operation.size :]
        data.extend(bytes(operation.size - len(data)))


def bounds(start: int, end: int) -> list[int]:
    """Return the ends of a range and all sector bounds in it."""
    inner = range(start - start % SECTOR + SECTOR, end, SECTOR)
    return sorted({start, end, *inner}) if start < end else []


class Crash(NamedTuple):
    """What a crash leaves behind: the file, and the journal's file."""

    data: bytearray
    journal: bytes


def crashes(data: bytes, journal: bytes, log: list[Operation], seed: int) -> Iterator[Crash]:
    """Yield what a crash after each operation of a log, and inside each, can leave behind.

    Nothing is lost; all since the last sync is; the last write is torn; some sectors are lost.
    """
    chance = random.Random(seed)  # noqa: S311  (a repeatable choice of cases)
    durable, volatile = bytearray(data), list[Write | Resize]()
    yield Crash(bytearray(durable), journal)
    for operation in log:
        if isinstance(operation, Commit):
            journal = operation.journal
        elif isinstance(operation, Sync):
            for done in volatile:
                perform(durable, done)
            volatile.clear()
        else:
            volatile.append(operation)
        for kept in _outcomes(volatile, chance):
            left = bytearray(durable)
            for done in kept:
                perform(left, done)
            yield Crash(left, journal)


def _outcomes(
    volatile: list[Write | Resize], chance: random.Random
) -> Iterator[list[Write | Resize]]:
    yield volatile
    if not volatile:
        return
    yield []
    *before, last = volatile
    if isinstance(last, Write):
        places = bounds(last.offset, last.offset + len(last.data))[1:-1]
        for at in sorted(chance.sample(places, min(len(places), MOST_TEARS))):
            yield [*before, last._replace(data=last.data[: at - last.offset])]
    for share in (0.1, 0.5, 0.9):
        yield [part for part in _sectors(volatile) if chance.random() < share]


def _sectors(operations: list[Write | Resize]) -> Iterator[Write | Resize]:
    for operation in operations:
        if isinstance(operation, Resize):
            yield operation
            continue
        start, data = operation
        for at, end in pairwise(bounds(start, start + len(data))):
            yield Write(at, data[at - start : end - start])
