"""Going on from a journal: finish what was interrupted, take a change back, take that back.

Decides and proves; the writing is left to `apply`.
"""

from __future__ import annotations

from itertools import islice, pairwise
from typing import TYPE_CHECKING

from qfix.change.apply import CORRUPT_BIT, FLAGS_BYTE, SECTOR, finish, make
from qfix.change.journal import Kind, Record, State
from qfix.change.pieces import Amendment, Piece
from qfix.change.prepare import prepare
from qfix.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.change.disk import Disk
    from qfix.change.records import Journal

NAMED_RANGES = 8
ALL_THE_SAME = "--force does it all the same"


def resume(disk: Disk, journal: Journal, *, force: bool = False) -> Record:
    """Finish the change that was interrupted; return its record.

    Raises RefusedError where there is none, or where somebody else wrote to the image since.
    """
    begun = journal.interrupted()
    if begun is None:
        raise RefusedError(f"{disk.path}: no change was interrupted, so there is none to finish")
    if not force:
        _refuse_foreign_bytes(disk, journal, begun)
    finish(disk, journal, begun, back=False)
    return journal.record(begun.number)


def undo(disk: Disk, journal: Journal, *, force: bool = False) -> Record:
    """Take back the change that was interrupted, else the newest that stands in the image.

    Returns the interrupted one's record, or the new one of kind `undo`. Raises RefusedError where
    there is none, or where the image was written to since.
    """
    begun = journal.interrupted()
    if begun is not None:
        if not force:
            _refuse_foreign_bytes(disk, journal, begun)
        finish(disk, journal, begun, back=True)
        return journal.record(begun.number)
    standing = _newest(journal, Kind.CHANGE)
    if journal.unbegun:
        raise RefusedError(
            f"{disk.path}: the change that was interrupted had not touched the image, so there is"
            " nothing of it to take back; --undo once more takes back the one before"
        )
    if standing is None:
        raise RefusedError(f"{disk.path}: the journal holds no change to take back")
    return _take_back(disk, journal, standing, Kind.UNDO, force=force)


def redo(disk: Disk, journal: Journal, *, force: bool = False) -> Record:
    """Take back the newest undo; return the new record of kind `redo`.

    Raises RefusedError where there is none, where a change was made since, or the image was
    written to by others.
    """
    if journal.interrupted() is not None:
        raise RefusedError(
            f"{disk.path}: an interrupted change comes first:"
            " --resume finishes it, --undo takes it back"
        )
    undone, change = _newest(journal, Kind.UNDO), _newest(journal, Kind.CHANGE)
    if undone is None:
        raise RefusedError(f"{disk.path}: the journal holds no undo to take back")
    if change is not None and change.number > undone.number:
        raise RefusedError(f"{disk.path}: was changed ({change.asked}) after the last undo")
    return _take_back(disk, journal, undone, Kind.REDO, force=force)


def _newest(journal: Journal, kind: Kind) -> Record | None:
    found = (kind, State.APPLIED)
    standing = [record for record in journal.records() if (record.kind, record.state) == found]
    return standing[-1] if standing else None


def _take_back(disk: Disk, journal: Journal, target: Record, kind: Kind, *, force: bool) -> Record:
    """Journal and make the change that is the reverse of *target*."""
    if not force:
        _refuse_changed(disk, journal, target)
    size = disk.size()
    # bytes that others put behind the end are not cut off, whatever was asked for
    end = target.old_size if size == target.new_size else max(size, target.old_size)
    amendment = Amendment(
        old_size=size,
        new_size=end,
        pieces=_reverse(disk, journal, target),
        asked=f"{kind} of {target.number}: {target.asked}",
        report={},
        marked=target.marked,
    )
    record = prepare(disk, journal, amendment, kind, target.number)
    make(disk, journal, record)
    return journal.record(record.number)


def _reverse(disk: Disk, journal: Journal, target: Record) -> Iterator[Piece]:
    """Yield the pieces that bring the old bytes back; what grew is cut off without them."""
    for offset, old in journal.writes(target, back=True):
        if old:
            yield Piece(offset, disk.read(offset, len(old)), old)


def _refuse_changed(disk: Disk, journal: Journal, target: Record) -> None:
    """Raise RefusedError unless the image is as qfix left it."""
    if disk.size() != target.new_size:
        raise RefusedError(
            f"{disk.path}: was {target.new_size} bytes long after the change and has"
            f" {disk.size()} now; {ALL_THE_SAME}"
        )
    _refuse_ranges(
        disk, _differing(disk, journal, target), "hold other bytes than after the change"
    )
    since = [record for record in journal.records() if record.number >= target.number]
    stamps = [(before.mtime_after, after.mtime_before) for before, after in pairwise(since)]
    stamps.append((since[-1].mtime_after, disk.mtime_ns()))
    if any(left != found for left, found in stamps):
        raise RefusedError(
            f"{disk.path}: its time stamp is another one: the file was written to since, or"
            f" copied; the changed ranges are as qfix left them; {ALL_THE_SAME}"
        )


def _refuse_foreign_bytes(disk: Disk, journal: Journal, begun: Record) -> None:
    """Raise RefusedError where bytes are neither those before nor after an interrupted change."""
    sizes = sorted((begun.old_size, begun.new_size))
    if not sizes[0] <= disk.size() <= sizes[1]:
        raise RefusedError(
            f"{disk.path}: has {disk.size()} bytes, which the interrupted change does not give it;"
            f" {ALL_THE_SAME}"
        )
    found = _foreign(disk, journal, begun)
    _refuse_ranges(disk, found, "hold bytes from neither before nor after the interrupted change")


def _refuse_ranges(disk: Disk, found: Iterator[tuple[int, int]], words: str) -> None:
    ranges = _joined(found)
    named = ", ".join(f"{start:#x}-{end - 1:#x}" for start, end in islice(ranges, NAMED_RANGES))
    if named:
        more = sum(1 for _ in ranges)
        rest = f" and {more} more" if more else ""
        raise RefusedError(f"{disk.path}: {named}{rest} {words}; {ALL_THE_SAME}")


def _joined(ranges: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield ranges with those that touch made one."""
    start = end = -1
    for first, last in ranges:
        if first == end:
            end = last
            continue
        if start < end:
            yield start, end
        start, end = first, last
    if start < end:
        yield start, end


def _differing(disk: Disk, journal: Journal, target: Record) -> Iterator[tuple[int, int]]:
    """Yield what differs in the image from the bytes after a change, by sectors."""
    for start, new in journal.writes(target, back=False):
        now = disk.read(start, len(new))
        if now != new:
            for at, end in _sectors(start, start + len(new)):
                part = slice(at - start, end - start)
                if now[part] != new[part]:
                    yield at, end


def _foreign(disk: Disk, journal: Journal, begun: Record) -> Iterator[tuple[int, int]]:
    """Yield the sectors with a byte that is neither old nor new; behind an end all are zero.

    Byte by byte, for a write that stopped early need not stop between two sectors.
    """
    for start, old, new in journal.pieces(begun):
        length = max(len(old), len(new))
        now = disk.read(start, length)
        if now in {old, new}:
            continue
        sides = [_even(data, length, start, begun) for data in (now, old, new)]
        for at, end in _sectors(start, start + length):
            is_now, *known = (side[at - start : end - start] for side in sides)
            if is_now not in known and not all(
                byte in choice for byte, *choice in zip(is_now, *known, strict=True)
            ):
                yield at, end


def _even(data: bytes, length: int, start: int, begun: Record) -> bytes:
    """Return bytes as long as their piece, with the corrupt mark where it may come and go."""
    flags = FLAGS_BYTE - start
    if not begun.marked or not 0 <= flags < length:
        return data.ljust(length, b"\0")
    padded = bytearray(data.ljust(length, b"\0"))
    padded[flags] |= CORRUPT_BIT
    return bytes(padded)


def _sectors(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield a range sector by sector."""
    yield from pairwise((start, *range(start - start % SECTOR + SECTOR, end, SECTOR), end))
