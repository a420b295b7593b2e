"""The exit statuses, and the errors that end a run with one of them."""

import errno
from enum import IntEnum


class Status(IntEnum):
    """What the exit status says: 0 to 8 of the image, 64 and up of the run."""

    GOOD = 0
    LEAKS = 1
    COPIED = 2
    CORRUPT_MARK = 3
    REFCOUNTS = 4
    SNAPSHOTS = 5
    METADATA = 6
    UNSUPPORTED = 8
    USAGE = 64
    MISSING = 66
    DEFECT = 70
    IO_ERROR = 74
    IN_USE = 75
    NO_PERMISSION = 77
    INTERRUPTED = 130

    @property
    def verdict(self) -> str:
        """The word that stands for the status in JSON."""
        return _VERDICTS[self]

    @property
    def gravity(self) -> int:
        """Rank among statuses that hold at once: the greatest one is reported."""
        return _GRAVITY.index(self)


_VERDICTS = {
    Status.GOOD: "good",
    Status.LEAKS: "leaks",
    Status.COPIED: "copied-mismatch",
    Status.CORRUPT_MARK: "corrupt-mark",
    Status.REFCOUNTS: "wrong-refcounts",
    Status.SNAPSHOTS: "snapshot-damage",
    Status.METADATA: "metadata-damage",
    Status.UNSUPPORTED: "unsupported",
    Status.USAGE: "usage",
    Status.MISSING: "missing",
    Status.DEFECT: "defect",
    Status.IO_ERROR: "io-error",
    Status.IN_USE: "in-use",
    Status.NO_PERMISSION: "no-permission",
    Status.INTERRUPTED: "interrupted",
}

_GRAVITY = (
    Status.GOOD,
    Status.CORRUPT_MARK,
    Status.LEAKS,
    Status.COPIED,
    Status.REFCOUNTS,
    Status.METADATA,
    Status.SNAPSHOTS,
    Status.UNSUPPORTED,
    Status.IN_USE,
    Status.MISSING,
    Status.NO_PERMISSION,
    Status.IO_ERROR,
    Status.USAGE,
    Status.DEFECT,
    Status.INTERRUPTED,
)


class QfixError(Exception):
    """Something that ends the work on one image; the message is for the user."""

    status = Status.DEFECT


class UsageError(QfixError):
    """The command line asks for something that does not go."""

    status = Status.USAGE


class MissingError(QfixError):
    """The image file is not there."""

    status = Status.MISSING


class NoPermissionError(QfixError):
    """The image file, or its journal, may not be read or written."""

    status = Status.NO_PERMISSION


class InUseError(QfixError):
    """Another process holds the image."""

    status = Status.IN_USE


class ReadError(QfixError):
    """The host could not read the file."""

    status = Status.IO_ERROR


class WriteError(QfixError):
    """The host could not write the file or its journal."""

    status = Status.IO_ERROR


class JournalFullError(WriteError):
    """There is no room for the journal; nothing was changed."""


class JournalError(QfixError):
    """What stands in the journal's place is no journal, or a damaged one."""

    status = Status.IO_ERROR


class RefusedError(QfixError):
    """What is asked for could do harm, or there is nothing that it could be done to."""

    status = Status.USAGE


def from_os_error(error: OSError, path: str) -> QfixError:
    """Return the QfixError that says what the host said about *path*."""
    kinds: dict[type[OSError], type[QfixError]] = {
        FileNotFoundError: MissingError,
        NotADirectoryError: MissingError,
        PermissionError: NoPermissionError,
    }
    kind = next((made for raised, made in kinds.items() if isinstance(error, raised)), ReadError)
    if error.errno == errno.EROFS:
        kind = NoPermissionError
    return kind(f"{path}: {error.strerror or error}")
