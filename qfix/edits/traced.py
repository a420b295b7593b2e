"""Traced: a file that keeps which of its bytes were read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qfix.file import Around

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qfix.arrays import IntArray
    from qfix.file import Source


class Traced(Around):
    """A file that reads as it is, see `Source`; while it is *tracing* it keeps what was read."""

    __slots__ = ("_read", "tracing")

    def __init__(self, base: Source) -> None:
        super().__init__(base)
        self._read: list[tuple[IntArray, int]] = []
        self.tracing = False

    @property
    def size(self) -> int:
        """The size in bytes."""
        return self._base.size

    def read(self, offset: int, length: int) -> bytes:
        """Return *length* bytes at *offset*; raises ReadError where the host can't read."""
        self._note([offset], length)
        return self._base.read(offset, length)

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fill *view* from *offset* on; raises ReadError where the host can't read."""
        self._note([offset], len(view))
        self._base.read_into(view, offset)

    def read_each(self, view: memoryview, offsets: Sequence[int], length: int) -> list[int]:
        """Read *length* bytes at each of *offsets*; return the positions that failed."""
        self._note(offsets, length)
        return self._base.read_each(view, offsets, length)

    def _note(self, offsets: Sequence[int], length: int) -> None:
        if not self.tracing or not length:
            return
        behind = max(offsets, default=0) >= self.size  # perhaps too far behind for an int64
        inside = [at for at in offsets if at < self.size] if behind else offsets
        self._read.append((np.array(inside, np.int64), length))

    def allocated(self) -> int | None:
        """Return the bytes that it takes on disk, None for a device."""
        return self._base.allocated()

    def extents(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the (start, end) of what is not a hole between *start* and *end*."""
        return self._base.extents(start, end)

    def last_data(self) -> int:
        """Return the end of the last byte that is not in a hole at the end."""
        return self._base.last_data()

    def seen(self) -> Iterator[tuple[IntArray, IntArray]]:
        """Yield what was read, as columns (start, end)."""
        for offsets, length in self._read:
            yield offsets, offsets + length
