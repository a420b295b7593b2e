"""The journal as a database: its tables, connections to it, and SQLite's errors in plain words.

The only module that imports sqlite3. Every transaction is durable when it returns: a rollback
journal, synced with its folder entry. That rollback journal keeps its place on disk until the
connection is closed, so that the small step from one state to the next needs no new room.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import quote

from qfix.change.journal import APPLICATION_ID, ELSEWHERE, FORMAT
from qfix.errors import (
    InUseError,
    JournalError,
    JournalFullError,
    NoPermissionError,
    QfixError,
    WriteError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

# the second one is for words of SQLite that quote a damaged file
ERRORS = (sqlite3.Error, UnicodeDecodeError)

CACHE_KIB = 1024
WAIT_SECONDS = 5

SCHEMA = (
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {FORMAT}",
    """CREATE TABLE records (
        number INTEGER PRIMARY KEY, kind TEXT NOT NULL, takes_back INTEGER, asked TEXT NOT NULL,
        version TEXT NOT NULL, time TEXT NOT NULL, state TEXT NOT NULL,
        old_size INTEGER NOT NULL, new_size INTEGER NOT NULL, marked INTEGER NOT NULL,
        pieces INTEGER NOT NULL, bytes INTEGER NOT NULL,
        mtime_before INTEGER NOT NULL, mtime_after INTEGER NOT NULL, sum INTEGER NOT NULL)""",
    """CREATE TABLE images (
        record INTEGER PRIMARY KEY, path BLOB NOT NULL, device TEXT NOT NULL, inode TEXT NOT NULL,
        head_before TEXT NOT NULL, head_after TEXT NOT NULL)""",
    "CREATE TABLE reports (record INTEGER PRIMARY KEY, report TEXT NOT NULL)",
    """CREATE TABLE pieces (
        number INTEGER PRIMARY KEY, record INTEGER NOT NULL, start INTEGER NOT NULL,
        old BLOB NOT NULL, new BLOB NOT NULL,
        old_sum INTEGER NOT NULL, new_sum INTEGER NOT NULL)""",
    "CREATE INDEX pieces_of_record ON pieces (record, start)",
)


def connect(path: str, access: str) -> sqlite3.Connection:
    """Open the file as it is, to look (`ro`) or to write (`rw`), which settles what is hot."""
    uri = f"file://{quote(os.fsencode(os.path.abspath(path)))}?mode={access}"
    pragmas = [f"cache_size = -{CACHE_KIB}", "trusted_schema = OFF"]
    if access == "rw":
        pragmas += ["journal_mode = PERSIST", "synchronous = EXTRA"]
    with explained(path):
        connection = sqlite3.connect(uri, WAIT_SECONDS, isolation_level=None, uri=True)
        try:
            for pragma in pragmas:
                connection.execute(f"PRAGMA {pragma}")
        except BaseException:
            connection.close()
            raise
    return connection


def make_tables(connection: sqlite3.Connection) -> None:
    """Make the tables of a file that is empty."""
    if not connection.execute("PRAGMA schema_version").fetchone()[0]:
        for statement in SCHEMA:
            connection.execute(statement)


def disconnect(connection: sqlite3.Connection) -> None:
    """Close a connection that wrote; nothing stays beside the file."""
    with suppress(*ERRORS):
        connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Do all of it, durably, or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(*ERRORS):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        raise


@contextmanager
def explained(path: str) -> Iterator[None]:
    """Turn SQLite's errors into those of qfix."""
    try:
        yield
    except ERRORS as error:
        raise explanation(error, path) from error


def is_full(error: Exception) -> bool:
    """Tell whether SQLite found no room."""
    return _code(error) == sqlite3.SQLITE_FULL


def explanation(error: Exception, path: str) -> QfixError:
    """Return the error that says what SQLite said about the journal."""
    code = _code(error)
    if code == sqlite3.SQLITE_CANTOPEN and not os.access(os.path.dirname(path) or ".", os.W_OK):
        code = sqlite3.SQLITE_READONLY
    if code in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH}:
        return NoPermissionError(f"{path}: the journal can't be written; {ELSEWHERE}")
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return InUseError(f"{path}: another process holds the journal")
    if code == sqlite3.SQLITE_FULL:
        return JournalFullError(f"{path}: no room for the journal; {ELSEWHERE}")
    if code in {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}:
        return WriteError(f"{path}: the journal: {error}; {ELSEWHERE}")
    return JournalError(f"{path}: is a damaged journal ({error})")


def _code(error: Exception) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
