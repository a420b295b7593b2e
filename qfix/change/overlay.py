"""Overlay: an image as it would be: reads see the planned bytes, the file does not."""

from __future__ import annotations

import tempfile
from array import array
from bisect import bisect_left
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from qfix.arrays import spread
from qfix.change.draft import joined_ranges
from qfix.change.grafted import Graft, Grafted
from qfix.change.pieces import MOST_BYTES, Piece
from qfix.errors import ReadError
from qfix.file import Around

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from qfix.arrays import IntArray
    from qfix.file import Source

PAGE = 4096
SECTOR = 512
MOST_PAGES = (64 << 20) // PAGE
"""Pages held in memory; those planned beyond go to a file without a name."""


class Overlay(Around):
    """A file under planned changes; it reads as one, see `Source`.

    `size` grows in the plan only. `fixed` says that it can't: a block device, or where the user
    does not want it to. Long ranges that are to hold bytes from elsewhere are borrowed: read from
    there whenever they are asked for, and not kept.
    """

    __slots__ = (
        *("_changed", "_order", "_pages", "_spill", "_spilled", "_under"),
        *("fixed", "size"),
    )

    def __init__(self, base: Source, *, fixed: bool = False) -> None:
        super().__init__(base)
        self._under: Source = base
        self._changed: tuple[IntArray, IntArray] | None = None
        self._pages: dict[int, bytes | int] = {}
        self._order: list[int] = []
        self._spill: BinaryIO | None = None
        self._spilled = 0
        self.size = base.size
        self.fixed = fixed or base.is_device

    @property
    def base(self) -> Source:
        """The file as it is."""
        return self._base

    def emptied(self) -> Overlay:
        """Return an overlay over the same file in which nothing is planned; this one is done."""
        self.close()
        return Overlay(self._base, fixed=self.fixed)

    def close(self) -> None:
        """Give back what the plan holds outside of memory."""
        if self._spill is not None:
            self._spill.close()

    def grow(self, size: int) -> None:
        """Plan a file of at least *size* bytes; what is added reads as zeros."""
        if size > self.size and self.fixed:
            raise ValueError(f"{self.path} can't grow")
        self.size = max(self.size, size)
        self._changed = None

    def borrow(self, grafts: Sequence[Graft]) -> None:
        """Plan ranges that hold what stands elsewhere, in the file as it is or in another one.

        They have to be inside the file. Comes before all writes, which win where they overlap.
        """
        if self._pages or self._under is not self._base:
            raise ValueError("something is planned already")
        if any(graft.start < 0 or graft.end > self._base.size for graft in grafts):
            raise ValueError("a borrowed range outside of the file")
        self._under = Grafted(self._base, grafts)
        self._changed = None

    @property
    def _grafts(self) -> Sequence[Graft]:
        return self._under.grafts if isinstance(self._under, Grafted) else ()

    @property
    def moves_up(self) -> bool:
        """Whether a range holds what stands before it in the file, so that its end goes first."""
        return any(
            graft.source is self._base and graft.place < graft.start for graft in self._grafts
        )

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Plan *data* at *offset*, which has to be inside the planned size."""
        view = memoryview(data)
        self._changed = None
        if offset < 0 or offset + len(view) > self.size:
            raise ValueError(f"a write at {offset:#x} outside of the planned file")
        done = 0
        while done < len(view):
            page, at = divmod(offset + done, PAGE)
            part = view[done : done + PAGE - at]
            if len(part) < PAGE:
                whole = bytearray(self.read(page * PAGE, PAGE))
                whole[at : at + len(part)] = part
                part = memoryview(whole)
                done += min(PAGE - at, len(view) - done)
            else:
                done += PAGE
            self._keep(page, bytes(part))

    def _keep(self, page: int, data: bytes) -> None:
        if page not in self._pages:
            self._order = []
        held = self._pages.get(page)
        if len(self._pages) - self._spilled < MOST_PAGES or isinstance(held, bytes):
            self._pages[page] = data
            return
        if self._spill is None:
            self._spill = tempfile.TemporaryFile(prefix="qfix-")  # noqa: SIM115  (lives as long)
        slot = held if isinstance(held, int) else self._spilled
        self._spilled = max(self._spilled, slot + 1)
        self._spill.seek(slot * PAGE)
        self._spill.write(data)
        self._pages[page] = slot

    def _page(self, page: int) -> bytes:
        held = self._pages[page]
        if isinstance(held, bytes):
            return held
        assert self._spill is not None  # noqa: S101  (a slot is given only with it)
        self._spill.seek(held * PAGE)
        return self._spill.read(PAGE)

    def _touched(self, start: int, end: int) -> list[int]:
        """Return the planned pages between two byte offsets, in order."""
        if not self._pages:
            return []
        if not self._order:
            self._order = sorted(self._pages)
        low = bisect_left(self._order, start // PAGE)
        return self._order[low : bisect_left(self._order, -(-end // PAGE))]

    def read(self, offset: int, length: int) -> bytes:
        """Return *length* bytes at *offset*, zeros for what is behind the planned end."""
        buffer = bytearray(length)
        self.read_into(memoryview(buffer), offset)
        return bytes(buffer)

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fill *view* from *offset* on; raises ReadError where the host can't read.

        What is planned as a whole is not read from the host.
        """
        end = offset + len(view)
        touched = self._touched(offset, end)
        try:
            self._under.read_into(view, offset)
        except ReadError:
            if len(touched) * PAGE < -(-end // PAGE) * PAGE - offset // PAGE * PAGE:
                raise
        self._patch(view, offset, touched)

    def _patch(self, view: memoryview, offset: int, pages: Sequence[int]) -> None:
        """Put the planned bytes of *pages* into what was read at *offset*."""
        end = offset + len(view)
        for page in pages:
            start, stop = max(offset, page * PAGE), min(end, (page + 1) * PAGE)
            data = self._page(page)
            view[start - offset : stop - offset] = data[start - page * PAGE : stop - page * PAGE]

    def read_each(self, view: memoryview, offsets: Sequence[int], length: int) -> list[int]:
        """Read *length* bytes at each of *offsets*; return the positions that failed."""
        failed = self._under.read_each(view, offsets, length)
        if not self._pages:
            return failed
        if not self._order:
            self._order = sorted(self._pages)
        pages = np.array(self._order, np.int64)
        places = np.array(offsets, np.int64)
        low = np.searchsorted(pages, places // PAGE)
        high = np.searchsorted(pages, -(-(places + length) // PAGE))
        bad = set(failed)
        for at in np.flatnonzero(high > low).tolist():
            part = view[at * length : (at + 1) * length]
            if at not in bad:
                self._patch(part, offsets[at], self._order[low[at] : high[at]])
                continue
            with suppress(ReadError):
                self.read_into(part, offsets[at])
                bad.remove(at)
        return sorted(bad)

    def allocated(self) -> int | None:
        """Return the bytes that the file would take on disk at most, None for a device."""
        allocated = self._under.allocated()
        return None if allocated is None else allocated + len(self._pages) * PAGE

    def extents(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the (start, end) of what is not a hole, in order, planned pages included."""
        pages = iter(self._touched(start, end))
        page = next(pages, None)
        last = start
        for low, high in self._under.extents(start, min(end, self._base.size)):
            while page is not None and page * PAGE < low:
                if page * PAGE + PAGE > last:
                    yield max(last, page * PAGE), min(page * PAGE + PAGE, low)
                page = next(pages, None)
            yield low, high
            last = high
        while page is not None:
            if page * PAGE + PAGE > last:
                yield max(last, page * PAGE), min(page * PAGE + PAGE, end)
            page = next(pages, None)

    def last_data(self) -> int:
        """Return the end of the last byte that is not in a hole at the end of the file."""
        pages = self._touched(0, self.size)
        planned = min((pages[-1] + 1) * PAGE, self.size) if pages else 0
        return max(self._under.last_data(), planned)

    @property
    def is_changed(self) -> bool:
        """Whether any byte, or the size, differs from the file."""
        if self.size != self._base.size:
            return True
        if self._changed is not None:
            return self._changed[0].size > 0
        return next(self.pieces(), None) is not None

    def pieces(self, *, header: bool = False, descending: bool = False) -> Iterator[Piece]:
        """Yield what differs from the file, in sectors; with *header* its first sector anyway.

        They come in ascending order, or *descending*.
        """
        if header and not self._touched(0, SECTOR):
            raise ValueError("the header's page is not in the plan")
        for start, end in self._page_runs(descending=descending):
            found = self._differing(start, end, header=header and start == 0)
            yield from reversed(list(found)) if descending else found

    def touch(self, offset: int) -> None:
        """Take the page at *offset* into the plan as it is."""
        self.write(offset, self.read(offset, 1))

    def planned(self) -> Iterator[tuple[int, bytes]]:
        """Yield the offset and the bytes of all that was planned, also where it is no change."""
        for start, end in self._page_runs():
            yield start, self.read(start, min(end, self.size) - start)

    def _page_runs(self, *, descending: bool = False) -> Iterator[tuple[int, int]]:
        """Yield the byte ranges of planned pages, no longer than a piece may be."""
        pages = np.array(self._touched(0, self.size), np.int64) * PAGE
        start = np.array([graft.start for graft in self._grafts], np.int64) // PAGE * PAGE
        end = -(-np.array([graft.end for graft in self._grafts], np.int64) // PAGE) * PAGE
        length = np.concatenate((np.full(pages.size, PAGE), end - start))
        starts, lengths = joined_ranges(np.concatenate((pages, start)), length)
        step = -1 if descending else 1
        for first, size in zip(starts[::step].tolist(), lengths[::step].tolist(), strict=True):
            for at in range(first, first + size, MOST_BYTES)[::step]:
                yield at, min(at + MOST_BYTES, first + size)

    def _differing(self, start: int, end: int, *, header: bool) -> Iterable[Piece]:
        old, new = self._base.read(start, end - start), self.read(start, end - start)
        differ = np.frombuffer(old, np.uint8) != np.frombuffer(new, np.uint8)
        sectors = differ.reshape(-1, SECTOR).any(axis=1)
        sectors[0] |= header
        edges = np.flatnonzero(np.diff(sectors, prepend=False, append=False)) * SECTOR
        for low, high in edges.reshape(-1, 2).tolist():
            was = old[low : max(low, min(high, self._base.size - start))]
            yield Piece(start + low, was, new[low : max(low, min(high, self.size - start))])

    def changed(self) -> tuple[IntArray, IntArray]:
        """Return the runs (first, end) of 512-byte sectors that differ from the file, ascending.

        They are looked for once after each change of the plan: not when it has been applied.
        """
        if self._changed is None:
            runs = array("q")
            for piece in self.pieces():
                end = piece.offset + max(len(piece.old), len(piece.new))
                runs.extend((piece.offset // SECTOR, -(-end // SECTOR)))
            found = np.array(runs, np.int64)
            self._changed = found[::2], found[1::2]
        return self._changed

    def sectors(self) -> IntArray:
        """Return the numbers of all 512-byte sectors that differ from the file, ascending."""
        first, end = self.changed()
        return spread(first, end - first)
