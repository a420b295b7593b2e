"""ImageFile: a file or block device, opened, measured and read; nothing here knows qcow2."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol

from qfix.errors import ReadError, from_os_error

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

MAX_READ_END = (1 << 63) - 1


LAST_STEP = 1 << 20


class Source(Protocol):
    """What can be read as an image: a file, or a file under the changes that are planned for it.

    Reads give zeros behind the end, `size` is in bytes, `fd` that of the file itself.
    """

    @property
    def path(self) -> str:
        """The path as given."""

    @property
    def fd(self) -> int:
        """The descriptor of the file."""

    @property
    def size(self) -> int:
        """The size in bytes."""

    @property
    def is_device(self) -> bool:
        """Whether it is a block device."""

    def read(self, offset: int, length: int) -> bytes:
        """Return *length* bytes at *offset*; raises ReadError where the host can't read."""

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fill *view* from *offset* on; raises ReadError where the host can't read."""

    def read_each(self, view: memoryview, offsets: Sequence[int], length: int) -> list[int]:
        """Read *length* bytes at each of *offsets*; return the positions that failed."""

    def advise(self, offset: int, length: int) -> None:
        """Ask the kernel to read ahead."""

    def allocated(self) -> int | None:
        """Return the bytes that it takes on disk, None for a device."""

    def extents(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the (start, end) of what is not a hole between *start* and *end*."""

    def last_data(self) -> int:
        """Return the end of the last byte that is not in a hole at the end."""


class ImageFile(NamedTuple):
    """An open image: path as given, descriptor, size in bytes; reads give zeros behind the end."""

    path: str
    fd: int
    size: int
    is_device: bool

    def read(self, offset: int, length: int) -> bytes:
        """Return *length* bytes at *offset*, zeros for what is behind the end of the file.

        Raises ReadError where the host can't read.
        """
        buffer = bytearray(length)
        self.read_into(memoryview(buffer), offset)
        return bytes(buffer)

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fill *view* from *offset* on; bytes behind the end of the file become zero.

        Raises ReadError where the host can't read.
        """
        wanted = max(0, min(len(view), self.size - offset))
        done = 0
        try:
            while done < wanted:
                got = os.preadv(self.fd, [view[done:wanted]], offset + done)
                if not got:
                    break
                done += got
        except OSError as error:
            raise ReadError(
                f"{self.path}: reading at {offset + done:#x}: {error.strerror}"
            ) from error
        if done < len(view):
            view[done:] = bytes(len(view) - done)

    def read_each(self, view: memoryview, offsets: Sequence[int], length: int) -> list[int]:
        """Read *length* bytes at each of *offsets* into *view*, one after the other.

        Neighbours in the file are read at once. Pieces that the host can't read become zeros;
        their positions in *offsets* are returned.
        """
        failed: list[int] = []
        start = 0
        for end in range(1, len(offsets) + 1):
            if end < len(offsets) and offsets[end] == offsets[end - 1] + length:
                continue
            failed += self._read_run(view[start * length : end * length], offsets, start, length)
            start = end
        return failed

    def _read_run(
        self, view: memoryview, offsets: Sequence[int], start: int, length: int
    ) -> Iterable[int]:
        try:
            self.read_into(view, offsets[start])
        except ReadError:
            for at in range(0, len(view), length):
                try:
                    self.read_into(view[at : at + length], offsets[start] + at)
                except ReadError:
                    view[at : at + length] = bytes(length)
                    yield start + at // length

    def advise(self, offset: int, length: int) -> None:
        """Ask the kernel to read ahead."""
        if hasattr(os, "posix_fadvise") and 0 <= offset < self.size:
            os.posix_fadvise(self.fd, offset, length, os.POSIX_FADV_WILLNEED)

    def forget(self, offset: int, length: int) -> None:
        """Ask the kernel to read these bytes from the disk the next time."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.fd, offset, length, os.POSIX_FADV_DONTNEED)

    def measured(self) -> ImageFile:
        """Return the same open file with the size that it has now."""
        return _measure(self.path, self.fd)

    def allocated(self) -> int | None:
        """Return the bytes that the file takes on disk, None for a device."""
        return None if self.is_device else os.fstat(self.fd).st_blocks * 512

    def extents(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the (start, end) of what is not a hole between *start* and *end*."""
        position = start
        while position < end:
            try:
                data = os.lseek(self.fd, position, os.SEEK_DATA)
                hole = os.lseek(self.fd, data, os.SEEK_HOLE)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    yield position, end
                return
            if data >= end:
                return
            yield data, min(hole, end)
            position = hole

    def last_data(self) -> int:
        """Return the end of the last byte that is not in a hole at the end of the file."""
        return find_last_data(self)


class Around:
    """What stands around a file and reads as one, see `Source`; what it leaves alone is here."""

    __slots__ = ("_base",)

    def __init__(self, base: Source) -> None:
        self._base = base

    @property
    def path(self) -> str:
        """The path as given."""
        return self._base.path

    @property
    def fd(self) -> int:
        """The descriptor of the file itself."""
        return self._base.fd

    @property
    def is_device(self) -> bool:
        """Whether the file is a block device."""
        return self._base.is_device

    def advise(self, offset: int, length: int) -> None:
        """Ask the kernel to read ahead."""
        self._base.advise(offset, length)


def find_last_data(source: Source) -> int:
    """Return the end of the last byte that is not in a hole at the end of a file."""
    step = LAST_STEP
    while True:
        start = max(0, source.size - step)
        ends = [end for _, end in source.extents(start, source.size)]
        if ends or not start:
            return ends[-1] if ends else 0
        step *= 16


@contextmanager
def open_file(path: str | Path, *, write: bool = False) -> Iterator[ImageFile]:
    """Open an image for reading, without changing its time stamps where the host lets us.

    With *write* the descriptor can be written to as well: that is for the road of a change alone.
    Raises a QfixError that says why it can't be opened.
    """
    name = os.fspath(path)
    try:
        fd = _open_quietly(name, os.O_RDWR if write else os.O_RDONLY)
    except (OSError, ValueError) as error:
        raise from_os_error(_as_os_error(error), name) from error
    try:
        try:
            opened = _measure(name, fd)
        except OSError as error:
            raise from_os_error(error, name) from error
        yield opened
    finally:
        os.close(fd)


def _open_quietly(name: str, access: int) -> int:
    flags = access | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        return os.open(name, flags | getattr(os, "O_NOATIME", 0))
    except PermissionError:
        return os.open(name, flags)


def _as_os_error(error: OSError | ValueError) -> OSError:
    return error if isinstance(error, OSError) else OSError(errno.EINVAL, str(error))


def _measure(name: str, fd: int) -> ImageFile:
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return ImageFile(name, fd, os.fstat(fd).st_size, is_device=False)
    if stat.S_ISBLK(mode):
        return ImageFile(name, fd, os.lseek(fd, 0, os.SEEK_END), is_device=True)
    kind = "a folder" if stat.S_ISDIR(mode) else "neither a file nor a block device"
    raise ReadError(f"{name}: is {kind}")
