"""Grafted: a file of which some ranges are bytes from elsewhere, read when asked for."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qfix.errors import ReadError
from qfix.file import Around, find_last_data

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qfix.file import Source


class Graft(NamedTuple):
    """The bytes from *start* to *end* of a file are those of *source* from *place* on."""

    start: int
    end: int
    source: Source
    place: int


class Grafted(Around):
    """A file with grafts, which must not overlap each other; it reads as one, see `Source`."""

    __slots__ = ("_ends", "_starts", "grafts")

    def __init__(self, base: Source, grafts: Sequence[Graft]) -> None:
        super().__init__(base)
        self.grafts = sorted(grafts, key=lambda graft: graft.start)
        self._starts = np.array([graft.start for graft in self.grafts], np.int64)
        self._ends = np.array([graft.end for graft in self.grafts], np.int64)
        if (self._starts[1:] < self._ends[:-1]).any() or (self._starts >= self._ends).any():
            raise ValueError("grafts that overlap or are empty")

    @property
    def size(self) -> int:
        """The size in bytes."""
        return self._base.size

    def _parts(self, start: int, end: int) -> Iterator[tuple[int, int, Source, int]]:
        """Yield (start, end, source, shift) of what a range is made of, in order.

        The bytes at an offset are those of the source at the offset and the shift.
        """
        low = int(np.searchsorted(self._ends, start, "right"))
        high = int(np.searchsorted(self._starts, end))
        at = start
        for graft in self.grafts[low:high]:
            if graft.start > at:
                yield at, graft.start, self._base, 0
            first, last = max(at, graft.start), min(graft.end, end)
            yield first, last, graft.source, graft.place - graft.start
            at = last
        if at < end:
            yield at, end, self._base, 0

    def read(self, offset: int, length: int) -> bytes:
        """Return *length* bytes at *offset*; raises ReadError where the host can't read."""
        buffer = bytearray(length)
        self.read_into(memoryview(buffer), offset)
        return bytes(buffer)

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fill *view* from *offset* on; raises ReadError where the host can't read."""
        for start, end, source, shift in self._parts(offset, offset + len(view)):
            source.read_into(view[start - offset : end - offset], start + shift)

    def read_each(self, view: memoryview, offsets: Sequence[int], length: int) -> list[int]:
        """Read *length* bytes at each of *offsets*; return the positions that failed."""
        failed = set(self._base.read_each(view, offsets, length))
        places = np.array(offsets, np.int64)
        low = np.searchsorted(self._ends, places, "right")
        reached = low < np.searchsorted(self._starts, places + length)
        for at in np.flatnonzero(reached).tolist():
            part = view[at * length : (at + 1) * length]
            part[:] = bytes(length)
            failed.add(at)
            with suppress(ReadError):
                self.read_into(part, offsets[at])
                failed.remove(at)
        return sorted(failed)

    def allocated(self) -> int | None:
        """Return the bytes that the file would take on disk at most, None for a device."""
        allocated = self._base.allocated()
        return None if allocated is None else allocated + int((self._ends - self._starts).sum())

    def extents(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the (start, end) of what is not a hole, in order."""
        for first, last, source, shift in self._parts(start, end):
            for low, high in source.extents(first + shift, last + shift):
                yield low - shift, high - shift

    def last_data(self) -> int:
        """Return the end of the last byte that is not in a hole at the end of the file."""
        return find_last_data(self)
