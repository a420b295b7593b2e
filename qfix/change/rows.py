"""The rows of a journal: written, and read back without trust in what stands there."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from zlib import crc32

from qfix.change.database import explained
from qfix.change.journal import Kind, Record, State
from qfix.change.pieces import MOST_BYTES
from qfix.errors import JournalError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from qfix.change.pieces import Piece

HEAD = 1 << 16
"""So many bytes at the start of the image are part of its identity."""

_ROOM_EACH = 128


@dataclass(slots=True)
class Counted:
    """Pieces that are counted as they pass."""

    pieces: Iterator[Piece]
    count: int = field(default=0, init=False)
    bytes: int = field(default=0, init=False)

    def __iter__(self) -> Iterator[Piece]:
        """Yield the pieces that have not passed yet."""
        for piece in self.pieces:
            self.count += 1
            self.bytes += len(piece.old) + len(piece.new)
            yield piece

    def room(self) -> int:
        """Return about how many bytes all of them take in a journal, those to come included."""
        for _ in self:
            pass
        return self.bytes + self.count * _ROOM_EACH


def all_records(connection: sqlite3.Connection, path: str) -> list[Record]:
    """Return all records, oldest first; raises JournalError where a value can't be one."""
    columns = ", ".join((*Record._fields, "sum"))
    query = f"SELECT {columns} FROM records ORDER BY number"  # noqa: S608  (names of our own)
    with explained(path):
        return [_as_record(row, path) for row in connection.execute(query)]


def piece_rows(
    connection: sqlite3.Connection, path: str, record: Record, columns: str
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a record's pieces: start, blobs, and as many checksums.

    Raises JournalError where one can't be right, or is missing.
    """
    query = f"SELECT {columns} FROM pieces WHERE record = ? ORDER BY start"  # noqa: S608  (ours)
    limit = max(record.old_size, record.new_size)
    what = f"pieces of record {record.number}"
    end = seen = 0
    with explained(path):
        for row in connection.execute(query, (record.number,)):
            start, *blobs = row[: 1 + len(row) // 2]
            sound = isinstance(start, int) and all(isinstance(blob, bytes) for blob in blobs)
            length = max(map(len, blobs)) if sound else 0
            if not sound or start < end or length > MOST_BYTES or start + length > limit:
                raise damaged(path, what)
            end, seen = start + length, seen + 1
            yield row
    if seen != record.pieces:
        raise damaged(path, what)


def add_row(connection: sqlite3.Connection, table: str, values: tuple[Any, ...]) -> None:
    """Add a row to a table."""
    places = ", ".join("?" * len(values))
    connection.execute(f"INSERT INTO {table} VALUES ({places})", values)  # noqa: S608  (ours)


def delete_record(connection: sqlite3.Connection, number: int) -> None:
    """Remove a record and all that belongs to it."""
    connection.execute("DELETE FROM pieces WHERE record = ?", (number,))
    connection.execute("DELETE FROM reports WHERE record = ?", (number,))
    connection.execute("DELETE FROM images WHERE record = ?", (number,))
    connection.execute("DELETE FROM records WHERE number = ?", (number,))


def patch(head: bytearray, piece: Piece) -> None:
    """Lay the new bytes of a piece over the first bytes of the image."""
    end = min(piece.offset + len(piece.new), HEAD)
    if piece.offset < end:
        head.extend(bytes(max(0, end - len(head))))
        head[piece.offset : end] = piece.new[: end - piece.offset]


def digest(head: bytes | bytearray) -> str:
    """Return what tells one image's first bytes from another's."""
    return hashlib.sha256(head).hexdigest()


def checksum(start: int, data: bytes) -> int:
    """Return a checksum of bytes and their place."""
    return crc32(data, crc32(start.to_bytes(8, "big")))


def sum_of(record: Record) -> int:
    """Return a checksum of what stays of a record as it was made."""
    kept = record._replace(state=State.PREPARED, mtime_after=0, marked=bool(record.marked))
    return crc32(json.dumps(kept).encode())


def damaged(path: str, what: str) -> JournalError:
    """Return the error that says what of a journal can't be right."""
    return JournalError(f"{path}: is a damaged journal ({what})")


def _as_record(row: tuple[Any, ...], path: str) -> Record:
    *values, stored = row
    try:
        record = Record(*values)
        record = record._replace(
            kind=Kind(record.kind), state=State(record.state), marked=bool(record.marked)
        )
        sound = sum_of(record) == stored and isinstance(record.mtime_after, int)
    except (TypeError, ValueError):
        sound = False
    if not sound:
        raise damaged(path, "records")
    return record
