"""The journal's place and file: found, looked at without a write, made and opened for a change.

One SQLite file an image. What looks imports sqlite3 only where there is a journal; the records
themselves are the business of `records`.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from qfix.errors import (
    JournalError,
    JournalFullError,
    NoPermissionError,
    RefusedError,
    UsageError,
    from_os_error,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.change.records import Journal
    from qfix.file import ImageFile

SUFFIX = ".qfix-journal"
APPLICATION_ID = 0x71666978
FORMAT = 1
ELSEWHERE = "name another place with --journal PATH"

_MAGIC = b"SQLite format 3\0"
_HEADER_SIZE = 100
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Kind(StrEnum):
    """What a record does: change the image, take a change back, take that back."""

    CHANGE = "change"
    UNDO = "undo"
    REDO = "redo"


class State(StrEnum):
    """How far a record got; `undone` ones have been taken back, at once or later."""

    PREPARED = "prepared"
    APPLYING = "applying"
    APPLIED = "applied"
    UNDONE = "undone"


class Record(NamedTuple):
    """One change in a journal; *bytes* is what its pieces hold, old and new together."""

    number: int
    kind: Kind
    takes_back: int | None
    asked: str
    version: str
    time: str
    state: State
    old_size: int
    new_size: int
    marked: bool
    pieces: int
    bytes: int
    mtime_before: int
    mtime_after: int

    def described(self) -> dict[str, Any]:
        """Return what is told of the record, as JSON-ready values."""
        return {
            "number": self.number,
            "kind": str(self.kind),
            "takes-back": self.takes_back,
            "asked": self.asked,
            "time": self.time,
            "state": str(self.state),
            "bytes": self.bytes,
        }


class Pending(NamedTuple):
    """A change that was interrupted; record is None where only a writing run can tell which.

    Then the journal itself was being written: perhaps nothing of the image has changed yet.
    """

    journal: str
    record: Record | None


def locate(image: str, option: str | None = None) -> str:
    """Return the path of an image's journal; *option* is a file or a folder.

    Raises UsageError for a device, which has no place beside it.
    """
    if option is not None:
        if os.path.isdir(option):
            return os.path.join(option, os.path.basename(image) + SUFFIX)
        return option
    with suppress(OSError, ValueError):
        if stat.S_ISBLK(os.stat(image).st_mode):
            raise UsageError(f"{image}: a device has no journal beside it; {ELSEWHERE}")
    return os.path.realpath(image) + SUFFIX


def exists(image: str, option: str | None = None) -> bool:
    """Tell whether the image has a journal."""
    return os.path.lexists(locate(image, option))


def pending(image: str, option: str | None = None) -> Pending | None:
    """Return the change that was interrupted, if one was; nothing is written.

    Raises JournalError where the file is no journal, NoPermissionError where it can't be read.
    """
    if option is None and not os.path.lexists(os.path.realpath(image) + SUFFIX):
        return None
    path = locate(image, option)
    if not os.path.lexists(path):
        return None
    if is_hot(path):
        return Pending(path, None)
    applying = [record for record in _looked_at(path) if record.state is State.APPLYING]
    return Pending(path, applying[-1]) if applying else None


def records(image: str, option: str | None = None) -> list[Record]:
    """Return the records of the image's journal, oldest first; nothing is written.

    Raises JournalError where the journal was being written when that was interrupted.
    """
    return _looked_at(locate(image, option))


def reports(image: str, option: str | None = None) -> list[dict[str, Any]]:
    """Return the reports of the changes that stand in the image, newest first.

    Raises JournalError where the journal was being written when that was interrupted.
    """
    path = locate(image, option)
    standing = [
        record.number
        for record in _looked_at(path)
        if (record.kind, record.state) == (Kind.CHANGE, State.APPLIED)
    ]
    if not standing:
        return []
    from qfix.change.records import looking

    with looking(path) as journal:
        return [journal.report(number) for number in reversed(standing)]


def _looked_at(path: str) -> list[Record]:
    if not os.path.lexists(path):
        return []
    if is_hot(path):
        raise JournalError(f"{path}: writing it was interrupted; --resume puts it in order")
    refuse_foreign(path)
    if not os.path.getsize(path):
        return []
    from qfix.change.records import looking

    with looking(path) as journal:
        return journal.records()


@contextmanager
def open_journal(
    file: ImageFile, option: str | None = None, *, create: bool = True
) -> Iterator[Journal]:
    """Open the journal of an image that is held for writing; make it where there is none.

    What was prepared and never begun is dropped. A file made here that keeps no record is removed.
    Raises WriteError, NoPermissionError or JournalError; RefusedError where there is no journal
    and none is to be made.
    """
    path = locate(file.path, option)
    made = not os.path.lexists(path)
    if made and not create:
        raise RefusedError(f"{path}: there is no journal: nothing to finish or take back")
    hot = False
    try:
        if made:
            _create(path, os.fstat(file.fd))
        else:
            refuse_foreign(path)
            hot = is_hot(path)
    except OSError as error:
        raise refusal(error, path) from error
    from qfix.change.records import writing

    kept = False
    try:
        with writing(path, hot=hot) as journal:
            try:
                yield journal
            finally:
                kept = journal.kept
    finally:
        if made and not kept:
            _remove(path)


def is_hot(path: str) -> bool:
    """Tell whether SQLite was interrupted in a transaction, which only a writer can settle."""
    try:
        with open(os.path.realpath(path) + "-journal", "rb") as file:
            return file.read(1) not in {b"", b"\0"}
    except FileNotFoundError:
        return False
    except OSError as error:
        raise refusal(error, path) from error


def refuse_foreign(path: str) -> None:
    """Raise JournalError for a file that qfix did not make, or a newer one did.

    An empty file is let be, and one whose first transaction was interrupted: SQLite empties it.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise JournalError(f"{path}: is no file, so no journal of qfix; {ELSEWHERE}")
        with open(path, "rb") as file:
            head = file.read(_HEADER_SIZE)
    except OSError as error:
        raise refusal(error, path) from error
    if not head or (not any(head) and is_hot(path)):
        return
    identity = int.from_bytes(head[68:72], "big")
    if len(head) < _HEADER_SIZE or not head.startswith(_MAGIC) or identity != APPLICATION_ID:
        raise JournalError(f"{path}: is no journal of qfix; {ELSEWHERE}")
    version = int.from_bytes(head[60:64], "big")
    if version > FORMAT:
        raise JournalError(f"{path}: is the journal of a newer qfix (format {version})")
    if version != FORMAT or head[18:20] != b"\1\1":
        raise JournalError(f"{path}: is a damaged journal")


def refusal(error: OSError, path: str) -> Exception:
    """Return the error that says why the journal can't be made or read."""
    if error.errno in _NO_ROOM:
        return JournalFullError(f"{path}: no room for the journal; {ELSEWHERE}")
    told = from_os_error(error, path)
    if isinstance(told, NoPermissionError):
        return NoPermissionError(f"{path}: the journal: {error.strerror}; {ELSEWHERE}")
    return type(told)(f"{path}: the journal: {error.strerror or error}")


def _create(path: str, image: os.stat_result) -> None:
    """Make an empty file that no more people can read than the image, and sync its folder."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    fd = os.open(path, flags, 0o600)
    try:
        mode = image.st_mode & 0o666
        try:
            os.fchown(fd, -1, image.st_gid)
        except OSError:
            mode &= 0o606
        with suppress(OSError):
            os.fchown(fd, image.st_uid, -1)
        with suppress(OSError):
            os.fchmod(fd, mode)
    finally:
        os.close(fd)
    try:
        _sync_folder(path)
    except OSError:
        _remove(path)
        raise


def _sync_folder(path: str) -> None:
    fd = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP}:
            raise
    finally:
        os.close(fd)


def _remove(path: str) -> None:
    for name in (path + "-journal", path):
        with suppress(OSError):
            os.unlink(name)
