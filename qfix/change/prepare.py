"""What is made sure of before a change is begun: that it fits the image, and can be taken back.

Reads the image and writes the journal.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from qfix.change.journal import ELSEWHERE, Kind, Record, locate
from qfix.change.pieces import MOST_BYTES, Amendment, Piece
from qfix.change.records import Origin
from qfix.change.rows import HEAD
from qfix.errors import QfixError, RefusedError, from_os_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.change.disk import Disk
    from qfix.change.records import Journal

MARKED_BYTES = 112


def refuse_unready(disk: Disk, journal: Journal) -> None:
    """Raise RefusedError where the journal holds an interrupted change, or another image's."""
    begun = journal.interrupted()
    if begun:
        raise RefusedError(
            f"{disk.path}: an interrupted change ({begun.asked}) comes first:"
            " --resume finishes it, --undo takes it back"
        )
    before, here = journal.image(), disk.identity()
    if before is None or before == here or _is_beside(journal.path, here.path):
        return
    try:
        found = os.stat(before.path)
    except OSError:
        return
    if (found.st_dev, found.st_ino) == (before.device, before.inode):
        other = os.fsdecode(before.path)
        raise RefusedError(f"{journal.path}: is the journal of {other}; {ELSEWHERE}")


def prepare(
    disk: Disk, journal: Journal, amendment: Amendment, kind: Kind, takes_back: int | None = None
) -> Record:
    """Store a change in the journal; the image is only read."""
    try:
        return _stored(disk, journal, amendment, kind, takes_back)
    except OSError as error:
        raise from_os_error(error, disk.path) from error


def _stored(
    disk: Disk, journal: Journal, amendment: Amendment, kind: Kind, takes_back: int | None
) -> Record:
    if disk.size() != amendment.old_size:
        raise _changed(disk, "its size")
    if disk.is_device and amendment.new_size != amendment.old_size:
        raise QfixError(f"{disk.path}: a device can't take another size")
    origin = Origin(kind, takes_back, disk.identity(), disk.mtime_ns(), disk.read(0, HEAD))
    return journal.add(amendment._replace(pieces=_complete(disk, amendment)), origin)


def _complete(disk: Disk, amendment: Amendment) -> Iterator[Piece]:
    """Yield the pieces, proven against the disk, then all that is cut off, whoever planned it."""
    end, cut = 0, amendment.new_size
    marked = amendment.marked
    for piece in amendment.pieces:
        if marked and (piece.offset or min(len(piece.old), len(piece.new)) < MARKED_BYTES):
            break
        marked = False
        if not _is_sound(piece, amendment, end):
            raise QfixError(f"{disk.path}: a piece at {piece.offset:#x} that can't be applied")
        end = piece.offset + max(len(piece.old), len(piece.new))
        if disk.read(piece.offset, len(piece.old)) != piece.old:
            raise _changed(disk, f"what stands at {piece.offset:#x}")
        if piece.offset < cut:
            yield piece._replace(old=piece.old[: cut - piece.offset])
    if marked:
        raise QfixError(f"{disk.path}: a change that sets the corrupt mark and leaves it")
    for start, last in disk.extents(cut, amendment.old_size):
        for at in range(start, last, MOST_BYTES):
            yield Piece(at, disk.read(at, min(MOST_BYTES, last - at)), b"")


def _is_sound(piece: Piece, amendment: Amendment, after: int) -> bool:
    """Tell whether a piece starts behind the one before and is cut only where the file ends."""
    start, length = piece.offset, max(len(piece.old), len(piece.new))
    lengths = (
        max(0, min(start + length, size) - start)
        for size in (amendment.old_size, amendment.new_size)
    )
    return after <= start and length <= MOST_BYTES and (*lengths,) == (*map(len, piece[1:]),)


def _is_beside(journal: str, image: bytes) -> bool:
    return os.path.realpath(journal) == locate(os.fsdecode(image))


def _changed(disk: Disk, what: str) -> RefusedError:
    return RefusedError(
        f"{disk.path}: {what} changed while the change was planned; nothing is written"
    )
