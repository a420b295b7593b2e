"""The records of a journal: what was changed, the bytes before and after, and how far it got.

Nothing here touches an image.
"""

from __future__ import annotations

import json
import os
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from qfix import __version__
from qfix.change.database import (
    ERRORS,
    connect,
    disconnect,
    explained,
    explanation,
    is_full,
    make_tables,
    transaction,
)
from qfix.change.journal import ELSEWHERE, Kind, Record, State
from qfix.change.pieces import Piece
from qfix.change.rows import (
    Counted,
    add_row,
    all_records,
    checksum,
    damaged,
    delete_record,
    digest,
    patch,
    piece_rows,
    sum_of,
)
from qfix.errors import JournalFullError, QfixError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from qfix.change.pieces import Amendment


class Identity(NamedTuple):
    """Which file an image is: its real path, device and inode."""

    path: bytes
    device: int
    inode: int


class Origin(NamedTuple):
    """Where a record comes from, and the image before it: identity, time stamp, first bytes."""

    kind: Kind
    takes_back: int | None
    image: Identity
    mtime_ns: int
    head: bytes


@contextmanager
def looking(path: str) -> Iterator[Journal]:
    """Open a journal that is not hot to read it; leaves no trace."""
    with closing(connect(path, "ro")) as connection:
        yield Journal(path, connection)


@contextmanager
def writing(path: str, *, hot: bool = False) -> Iterator[Journal]:
    """Open a journal for a change; settles what was interrupted, drops what was never begun."""
    connection = connect(path, "rw")
    try:
        journal = Journal(path, connection, unbegun=hot)
        journal.tidy()
        yield journal
    finally:
        disconnect(connection)


@dataclass(slots=True)
class Journal:
    """An open journal; *kept* says that it holds something that is worth its file.

    *unbegun* says that a run was interrupted before it touched the image, if no record is begun.
    """

    path: str
    connection: sqlite3.Connection
    kept: bool = False
    unbegun: bool = False

    def tidy(self) -> None:
        """Make the tables of an empty file; drop what was prepared and never begun."""
        with explained(self.path), transaction(self.connection):
            make_tables(self.connection)
            found = self.records()
            for record in found:
                if record.state is State.PREPARED:
                    self.unbegun = True
                    delete_record(self.connection, record.number)
            self.kept = any(record.state is not State.PREPARED for record in found)

    def records(self) -> list[Record]:
        """Return all records, oldest first."""
        with explained(self.path):
            return all_records(self.connection, self.path)

    def record(self, number: int) -> Record:
        """Return one record."""
        for record in self.records():
            if record.number == number:
                return record
        raise damaged(self.path, f"record {number} is missing")

    def interrupted(self) -> Record | None:
        """Return the newest record that was begun and not finished."""
        begun = [record for record in self.records() if record.state is State.APPLYING]
        return begun[-1] if begun else None

    def image(self) -> Identity | None:
        """Return which image the newest record was made for."""
        query = "SELECT path, device, inode FROM images ORDER BY record DESC LIMIT 1"
        with explained(self.path):
            row = self.connection.execute(query).fetchone()
        try:
            return row and Identity(bytes(row[0]), int(row[1]), int(row[2]))
        except (TypeError, ValueError):
            raise damaged(self.path, "image") from None

    def report(self, number: int) -> dict[str, Any]:
        """Return what was kept of the plan of a record."""
        query = "SELECT report FROM reports WHERE record = ?"
        with explained(self.path):
            row = self.connection.execute(query, (number,)).fetchone()
        try:
            found = json.loads(row[0]) if row else {}
        except (TypeError, ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise damaged(self.path, f"report of record {number}")
        return found

    def pieces(self, record: Record) -> Iterator[Piece]:
        """Yield the pieces of a record, ascending; raises JournalError where they are damaged."""
        for start, old, new, *sums in piece_rows(
            self.connection, self.path, record, "start, old, new, old_sum, new_sum"
        ):
            if [checksum(start, old), checksum(start, new)] != sums:
                raise damaged(self.path, f"piece at {start:#x} of record {record.number}")
            yield Piece(start, old, new)

    def writes(self, record: Record, *, back: bool) -> Iterator[tuple[int, bytes]]:
        """Yield offsets and bytes to write, the old bytes to take the record *back*."""
        which = "old" if back else "new"
        for start, data, stored in piece_rows(
            self.connection, self.path, record, f"start, {which}, {which}_sum"
        ):
            if checksum(start, data) != stored:
                raise damaged(self.path, f"piece at {start:#x} of record {record.number}")
            yield start, data

    def add(self, amendment: Amendment, origin: Origin) -> Record:
        """Store a change and all its pieces, and return its record, which is `prepared`.

        Pieces are taken one by one. Raises WriteError where there is no room, with nothing kept.
        """
        pieces = Counted(iter(amendment.pieces))
        try:
            with transaction(self.connection):
                number = self._insert(amendment, origin, pieces)
        except ERRORS as error:
            if is_full(error):
                raise self._no_room(pieces.room()) from error
            raise explanation(error, self.path) from error
        self.kept = True
        return self.record(number)

    def start(self, record: Record) -> None:
        """Note that the image is about to be touched."""
        with explained(self.path), transaction(self.connection):
            self._set(record.number, State.APPLYING)

    def finish(self, record: Record, state: State, mtime_ns: int) -> None:
        """Note that a record is `applied`, or `undone`, and what follows for what it takes back."""
        with explained(self.path), transaction(self.connection):
            self._set(record.number, state)
            self.connection.execute(
                "UPDATE records SET mtime_after = ? WHERE number = ?", (mtime_ns, record.number)
            )
            if state is State.APPLIED and record.takes_back is not None:
                self._set(record.takes_back, State.UNDONE)
                self._follow(record, record.takes_back)

    def forget(self, record: Record) -> None:
        """Give back the room of a record that was taken back at once; its row stays.

        Where it is the only one, the journal is not worth its file.
        """
        self._no_longer_kept()
        with suppress(QfixError), explained(self.path), transaction(self.connection):
            self.connection.execute("DELETE FROM pieces WHERE record = ?", (record.number,))

    def drop(self, record: Record) -> None:
        """Remove a record for which the image was not touched."""
        self._no_longer_kept()
        with suppress(QfixError), explained(self.path), transaction(self.connection):
            delete_record(self.connection, record.number)

    def _no_longer_kept(self) -> None:
        with suppress(QfixError):
            self.kept = len(self.records()) > 1

    def _insert(self, amendment: Amendment, origin: Origin, pieces: Counted) -> int:
        rows = self.connection.execute("SELECT ifnull(max(number), 0) + 1 FROM records")
        number = int(rows.fetchone()[0])
        head = bytearray(origin.head)
        for piece in pieces:
            patch(head, piece)
            sums = checksum(piece.offset, piece.old), checksum(piece.offset, piece.new)
            add_row(self.connection, "pieces", (None, number, *piece, *sums))
        record = Record(
            number=number,
            kind=origin.kind,
            takes_back=origin.takes_back,
            asked=amendment.asked.encode(errors="backslashreplace").decode(),
            version=__version__,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            state=State.PREPARED,
            old_size=amendment.old_size,
            new_size=amendment.new_size,
            marked=amendment.marked,
            pieces=pieces.count,
            bytes=pieces.bytes,
            mtime_before=origin.mtime_ns,
            mtime_after=origin.mtime_ns,
        )
        heads = digest(origin.head), digest(head[: amendment.new_size])
        add_row(self.connection, "records", (*record, sum_of(record)))
        add_row(
            self.connection,
            "images",
            (number, origin.image.path, *map(str, origin.image[1:]), *heads),
        )
        add_row(self.connection, "reports", (number, json.dumps(amendment.report)))
        return number

    def _follow(self, record: Record, target: int) -> None:
        """Note what a redo brings back, or which redo an undo takes back along with its change."""
        undone = self.record(target)
        if record.kind is Kind.REDO and undone.takes_back is not None:
            self._set(undone.takes_back, State.APPLIED)
        if record.kind is Kind.UNDO:
            self.connection.execute(
                "UPDATE records SET state = ? WHERE kind = ? AND takes_back IN"
                " (SELECT number FROM records WHERE takes_back = ?)",
                (str(State.UNDONE), str(Kind.REDO), target),
            )

    def _set(self, number: int, state: State) -> None:
        self.connection.execute(
            "UPDATE records SET state = ? WHERE number = ?", (str(state), number)
        )

    def _no_room(self, needed: int) -> JournalFullError:
        folder = os.path.dirname(os.path.abspath(self.path))
        return JournalFullError(
            f"{self.path}: no room for the journal: {needed} bytes are needed in {folder};"
            f" nothing was changed; {ELSEWHERE}"
        )
