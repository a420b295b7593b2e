"""Disk: what a change needs of the file that it is made to; the real one is in `apply`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.change.records import Identity


class Disk(Protocol):
    """What a change is written to; every call may raise OSError, reads ReadError."""

    @property
    def path(self) -> str:
        """The path as given."""

    @property
    def is_device(self) -> bool:
        """Whether it is a block device, which has one size."""

    def identity(self) -> Identity:
        """Return which file it is."""

    def size(self) -> int:
        """Return the size in bytes, as it now is."""

    def mtime_ns(self) -> int:
        """Return when it was last written, 0 for a device."""

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes there, fewer where the file ends."""

    def extents(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the (start, end) of what is not a hole between *start* and *end*."""

    def pwrite(self, offset: int, data: bytes) -> None:
        """Write all of *data*."""

    def truncate(self, size: int) -> None:
        """Cut the file, or let it end further on, behind a hole."""

    def fallocate(self, offset: int, length: int) -> None:
        """Take room for a hole."""

    def sync(self) -> None:
        """Wait until everything is on the disk."""
