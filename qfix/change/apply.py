"""Putting a change into the image: the only module that writes to one.

The order makes a crash at any point harmless. First the journal holds all bytes, old and new, and
says so; then room is taken, the corrupt mark is set, everything but the first sector is written,
then that sector, then the mark is taken away, each step synced before the next. Whatever was lost
or torn in between, writing all of it once more, new or old, gives either image exactly.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NamedTuple

from qfix.change.journal import Kind, State
from qfix.change.prepare import prepare, refuse_unready
from qfix.change.records import Identity
from qfix.errors import QfixError, RefusedError, WriteError, from_os_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from qfix.change.disk import Disk
    from qfix.change.journal import Record
    from qfix.change.pieces import Amendment, Piece
    from qfix.change.records import Journal
    from qfix.file import ImageFile

SECTOR = 512
FLAGS_BYTE = 79
CORRUPT_BIT = 2
UNHARMED = "nothing was changed"
HALF_MADE = "the change is half made: --resume finishes it, --undo takes it back"
HALF_WRITTEN = "the image is half written, and there is no journal to take that back with"

_NO_FALLOCATE = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENODEV}


class FileDisk(NamedTuple):
    """The real disk: an image that was opened for writing."""

    file: ImageFile

    @property
    def path(self) -> str:
        """The path as given."""
        return self.file.path

    @property
    def is_device(self) -> bool:
        """Whether it is a block device, which has one size."""
        return self.file.is_device

    def identity(self) -> Identity:
        """Return which file it is; raises MissingError if it is no longer at its path."""
        try:
            here, opened = os.stat(self.path), os.fstat(self.file.fd)
        except OSError as error:
            raise from_os_error(error, self.path) from error
        if not os.path.samestat(here, opened):
            raise RefusedError(f"{self.path}: another file was put in its place just now")
        path = os.fsencode(os.path.realpath(self.path))
        return Identity(path, opened.st_dev, opened.st_ino)

    def size(self) -> int:
        """Return the size in bytes, as it now is."""
        return self.file.size if self.is_device else os.fstat(self.file.fd).st_size

    def mtime_ns(self) -> int:
        """Return when it was last written, 0 for a device."""
        return 0 if self.is_device else os.fstat(self.file.fd).st_mtime_ns

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes there, fewer where the file ends."""
        wanted = max(0, min(length, self.size() - offset))
        return self.file._replace(size=offset + wanted).read(offset, wanted)

    def extents(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the (start, end) of what is not a hole between *start* and *end*."""
        return self.file.extents(start, end)

    def pwrite(self, offset: int, data: bytes) -> None:
        """Write all of *data*."""
        view = memoryview(data)
        while view:
            done = os.pwrite(self.file.fd, view, offset)
            if not done:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            offset, view = offset + done, view[done:]

    def truncate(self, size: int) -> None:
        """Cut the file, or let it end further on, behind a hole."""
        os.ftruncate(self.file.fd, size)

    def fallocate(self, offset: int, length: int) -> None:
        """Take room for a hole."""
        os.posix_fallocate(self.file.fd, offset, length)

    def sync(self) -> None:
        """Wait until everything is on the disk."""
        os.fsync(self.file.fd)


def carry_out(disk: Disk, journal: Journal, amendment: Amendment) -> int:
    """Journal a change and make it; return the number of its record.

    Raises RefusedError while another change is interrupted, or where the image is not what the
    change was planned for; WriteError where the host can't write: then nothing was changed, or
    the message says how to go on.
    """
    refuse_unready(disk, journal)
    record = prepare(disk, journal, amendment, Kind.CHANGE)
    make(disk, journal, record)
    return record.number


def make(disk: Disk, journal: Journal, record: Record) -> None:
    """Make a change that is prepared; if the host fails, take it back at once.

    Raises WriteError; the message says whether the image is as it was, or how to go on.
    """
    try:
        journal.start(record)
    except QfixError:
        journal.drop(record)
        raise
    begun = False
    try:
        reserve(disk, journal, record, back=False)
        begun = True
        write(disk, journal, record, back=False)
    except BaseException as error:
        restored = _restore(disk, journal, record, begun=begun)
        if not isinstance(error, (OSError, QfixError)):
            raise
        raise _failed(disk, error, UNHARMED if restored else HALF_MADE) from error
    close(disk, journal, record, State.APPLIED)


def finish(disk: Disk, journal: Journal, record: Record, *, back: bool) -> None:
    """Bring an interrupted change to its end, or *back* to its start; both can be repeated.

    The journal is told first, for where that fails nothing more should be written.
    """
    journal.start(record)
    try:
        reserve(disk, journal, record, back=back)
        write(disk, journal, record, back=back)
    except OSError as error:
        raise _failed(disk, error, HALF_MADE) from error
    close(disk, journal, record, State.UNDONE if back else State.APPLIED)
    if back:
        journal.forget(record)


def close(disk: Disk, journal: Journal, record: Record, state: State) -> None:
    """Note in the journal that the image is whole."""
    try:
        journal.finish(record, state, disk.mtime_ns())
    except (OSError, QfixError) as error:
        way = "--undo" if state is State.UNDONE else "--resume"
        then = f"every byte is in its place, but the journal does not know: {way} tells it"
        raise _failed(disk, error, then) from error


def reserve(disk: Disk, journal: Journal, record: Record, *, back: bool) -> None:
    """Take room for what will be written into holes and behind the end of the file.

    No content changes. Raises WriteError, with the bytes needed, where there is no room.
    """
    if disk.is_device:
        return
    end = record.old_size if back else record.new_size
    if disk.size() < end:
        disk.truncate(end)
    _take_room(disk, journal.writes(record, back=back))


def _take_room(disk: Disk, writes: Iterable[tuple[int, bytes]]) -> None:
    needed, refusal = 0, None
    for start, length in _gaps(disk, writes):
        needed += length
        if refusal is None:
            try:
                disk.fallocate(start, length)
            except OSError as error:
                if error.errno in _NO_FALLOCATE:
                    return
                refusal = error
    if refusal is not None:
        raise OSError(refusal.errno, f"{refusal.strerror} ({needed} bytes are needed)")


def write(disk: Disk, journal: Journal, record: Record, *, back: bool) -> None:
    """Write all new bytes of a record, or all old ones; the first sector last, then the mark.

    The file is cut when nothing leads behind its end any more.
    """
    end = record.old_size if back else record.new_size
    if record.marked:
        _set_mark(disk)
    if disk.size() < end:
        disk.truncate(end)
    first = _write_behind(disk, journal.writes(record, back=back))
    _write_first(disk, first, marked=record.marked)
    _cut(disk, end)
    if record.marked:
        _write_flags(disk, first[0][1][FLAGS_BYTE])


def overwrite(disk: Disk, pieces: Callable[[], Iterator[Piece]], *, marked: bool) -> None:
    """Make a change without a journal, inside the file: nothing can take it back.

    *pieces* gives them each time anew, in an order in which none changes what a later one is read
    from; what is *marked* has a piece at offset 0 that holds the header. A crash before the end
    leaves the mark. Raises WriteError; the message says whether the image is as it was.
    """
    begun = False
    try:
        if not disk.is_device:
            _take_room(disk, ((piece.offset, piece.new) for piece in pieces()))
        begun = True
        if marked:
            _set_mark(disk)
        first = _write_behind(disk, ((piece.offset, piece.new) for piece in pieces()))
        _write_first(disk, first, marked=marked)
        if marked:
            _write_flags(disk, dict(first)[0][FLAGS_BYTE])
    except (OSError, QfixError) as error:
        raise _failed(disk, error, HALF_WRITTEN if begun else UNHARMED) from error


def _set_mark(disk: Disk) -> None:
    _write_flags(disk, (disk.read(FLAGS_BYTE, 1) or b"\0")[0] | CORRUPT_BIT)


def _write_behind(disk: Disk, writes: Iterable[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Write all but the first sector, and return what is to stand there."""
    first: list[tuple[int, bytes]] = []
    for start, data in writes:
        split = max(0, SECTOR - start)
        if data[:split]:
            first.append((start, data[:split]))
        _write_solid(disk, start + split, data[split:])
    disk.sync()
    return first


def _write_first(disk: Disk, first: list[tuple[int, bytes]], *, marked: bool) -> None:
    for start, data in first:
        disk.pwrite(start, _with_mark(data) if marked and not start else data)
    disk.sync()


def _restore(disk: Disk, journal: Journal, record: Record, *, begun: bool) -> bool:
    """Take back what was just tried; return whether the image is as it was."""
    try:
        if begun:
            write(disk, journal, record, back=True)
        else:
            _cut(disk, record.old_size)
        journal.finish(record, State.UNDONE, disk.mtime_ns())
    except (OSError, QfixError):
        return False
    journal.forget(record)
    return True


def _with_mark(head: bytes) -> bytes:
    marked = bytearray(head)
    marked[FLAGS_BYTE] |= CORRUPT_BIT
    return bytes(marked)


def _write_flags(disk: Disk, flags: int) -> None:
    disk.pwrite(FLAGS_BYTE, bytes([flags]))
    disk.sync()


def _cut(disk: Disk, end: int) -> None:
    if disk.size() > end:
        disk.truncate(end)
        disk.sync()


def _write_solid(disk: Disk, start: int, data: bytes) -> None:
    """Write bytes; zeros where there is a hole stay a hole, which may be all the room there is."""
    if data.count(0) < len(data):
        disk.pwrite(start, data)
        return
    for first, last in disk.extents(start, start + len(data)):
        disk.pwrite(first, data[first - start : last - start])


def _gaps(disk: Disk, writes: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, int]]:
    """Yield the start and length of the holes that will be filled."""
    for start, data in writes:
        if data.count(0) == len(data):
            continue
        at, end = start, start + len(data)
        for first, last in disk.extents(start, end):
            if first > at:
                yield at, first - at
            at = last
        if at < end:
            yield at, end - at


def _failed(disk: Disk, error: Exception, then: str) -> WriteError:
    said = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    return WriteError(f"{disk.path}: {said}; {then}")
