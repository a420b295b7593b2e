"""A sparse copy of some ranges of a file, made as a new file of its own; no image is written to."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import numpy as np

from qfix.change.pieces import MOST_BYTES
from qfix.errors import ReadError, RefusedError, WriteError, from_os_error

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from qfix.arrays import IntArray
    from qfix.file import Source

BLOCK = 4096
SECTOR = 512
PART = ".qfix-part"
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}


def refuse_present(out: str, image: str) -> None:
    """Raise RefusedError where something is in the place of a new file."""
    if os.path.lexists(out):
        is_image = os.path.exists(out) and os.path.samefile(out, image)
        what = "is the image itself" if is_image else "is there already"
        raise RefusedError(f"{out}: {what}; the copy goes to a new file")


@contextmanager
def new_file(out: str) -> Iterator[int]:
    """Give the descriptor of a file that appears as *out* when the block is left without an error.

    Only its owner may read it. Raises RefusedError where *out* has appeared meanwhile, WriteError
    where the host can't write.
    """
    part = out + PART
    try:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise RefusedError(
            f"{part}: is there already, from a copy that was cut off: remove it"
        ) from error
    except OSError as error:
        raise from_os_error(error, out) from error
    try:
        try:
            yield fd
            _appear(part, out)
        except OSError as error:
            raise _failed(out, error) from error
    finally:
        os.close(fd)
        with suppress(OSError):
            os.unlink(part)


def _failed(out: str, error: OSError) -> WriteError:
    return WriteError(f"{out}: {error.strerror or error}; the copy was not made")


def _appear(part: str, out: str) -> None:
    """Give a file its name, which nothing else may have."""
    try:
        os.link(part, out)
    except FileExistsError as error:
        raise RefusedError(f"{out}: is there already; the copy goes to a new file") from error
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        os.rename(part, out)


def fill(
    fd: int,
    file: Source,
    start: IntArray,
    end: IntArray,
    patches: Iterable[tuple[int, bytes]] = (),
) -> tuple[int, int]:
    """Write ranges of a file to a new one as long; return the bytes written and the unreadable.

    Zeros are left as holes, as is all else; but the last block that is none in the file is none in
    the copy, so that it does not look cut. *patches* are written last, over what stands there.
    """
    os.ftruncate(fd, file.size)
    last = min(file.last_data(), file.size)
    if last:
        os.pwrite(fd, b"\0", last - 1)
    written = unreadable = 0
    for low, high in zip(start.tolist(), end.tolist(), strict=True):
        for at in range(low, high, MOST_BYTES):
            data, failed = _read(file, at, min(MOST_BYTES, high - at))
            unreadable += failed
            written += _write_some(fd, at, data)
    for at, data in patches:
        written += _write_some(fd, at, data[: max(0, file.size - at)])
    os.fsync(fd)
    return written, unreadable


def disk_bytes(fd: int) -> int:
    """Return how many bytes a file takes on disk."""
    return os.fstat(fd).st_blocks * 512


def _read(file: Source, offset: int, length: int) -> tuple[bytes, int]:
    """Return bytes, zeros for sectors that the host can't read, and how many those are."""
    try:
        return file.read(offset, length), 0
    except ReadError:
        sectors = range(offset, offset + length, SECTOR)
        view = memoryview(bytearray(len(sectors) * SECTOR))
        failed = file.read_each(view, sectors, SECTOR)
        return bytes(view[:length]), len(failed) * SECTOR


def _write_some(fd: int, offset: int, data: bytes) -> int:
    """Write the blocks of *data* that are not all zeros; return their bytes."""
    if not data:
        return 0
    lead = offset % BLOCK
    padded = np.zeros(-(-(lead + len(data)) // BLOCK) * BLOCK, np.uint8)
    padded[lead : lead + len(data)] = np.frombuffer(data, np.uint8)
    some = padded.reshape(-1, BLOCK).any(axis=1)
    edges = np.flatnonzero(np.diff(some, prepend=False, append=False)) * BLOCK - lead
    written = 0
    for low, high in edges.reshape(-1, 2).tolist():
        part = data[max(0, low) : high]
        os.pwrite(fd, part, offset + max(0, low))
        written += len(part)
    return written
