"""Draft: a change in the making: planned bytes, the reason of each, and what it costs the guest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qfix.arrays import NO_INTS
from qfix.examine import Diagnosis, examine

if TYPE_CHECKING:
    from qfix.arrays import ByteArray, IntArray
    from qfix.change.overlay import Overlay
    from qfix.image import Image
    from qfix.problems import Problem
    from qfix.recount import Recount

MOST_NOTES = 1000
"""Changes of one kind that are listed; the others are counted."""

FARTHEST = (1 << 63) - 1
NOWHERE = -1
"""The layer of the file of one that was found again, and had none there."""
LOST, RESTORED, SUSPECT = "lost", "restored", "suspect"
ALLOWED = (LOST, RESTORED)
"""What a guest range may be in a plan; only in these kinds may its content differ afterwards."""


class Change(NamedTuple):
    """One thing that a plan changes: the finding that it answers, and both values in words."""

    code: str
    text: str
    host: int | None = None
    units: int = 1
    old: str = ""
    new: str = ""
    lossy: bool = False


class Left(NamedTuple):
    """Something that was asked for and is left as it is: findings, why, and what would help."""

    codes: tuple[str, ...]
    why: str
    option: str = ""


class Ranges(NamedTuple):
    """Guest ranges of one layer as columns, in bytes; `kind` says what happens to them."""

    kind: str
    layer: int
    start: IntArray
    length: IntArray


@dataclass(slots=True)
class Draft:
    """A change in the making.

    `before` is the diagnosis of the file, `now` that of the overlay as it was examined last.
    `layers` gives for each layer of the overlay that of the file; `dropped` are the snapshots
    (their titles) that are given up, `withheld` the runs of leaked clusters that are not freed;
    findings of the codes in `expected` are what the user asked for;
    `owners`, `bogus` and `astray` are kept by who needs them until the next examination. `lossy`
    says that something may be given up; `raised` are the clusters whose refcounts the plan has
    raised; `faults` is what the rehearsal of this state says, `reads` what a deliberate change
    makes the guest read differently, told before it is written; `shared` says whether the guest may
    have written to two places at once. A `literal` plan writes to nothing that anything leads to as
    guest data, however little sense that makes. `gain` are the bytes that become free.
    """

    overlay: Overlay
    before: Diagnosis
    now: Diagnosis
    changes: list[Change] = field(default_factory=list)
    noted: dict[str, int] = field(default_factory=dict)
    omitted: dict[str, int] = field(default_factory=dict)
    left: dict[str, Left] = field(default_factory=dict)
    ranges: list[Ranges] = field(default_factory=list)
    layers: list[int] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    bitmaps: list[str] = field(default_factory=list)
    freed: IntArray = field(default_factory=lambda: NO_INTS)
    withheld: list[tuple[int, int]] = field(default_factory=list)
    backing: bool = True
    taken: set[int] = field(default_factory=set)
    expected: set[str] = field(default_factory=set)
    owners: ByteArray | None = None
    bogus: IntArray | None = None
    astray: list[int] | None = None
    lossy: bool = False
    raised: list[IntArray] = field(default_factory=list)
    firsts: dict[int, int] | None = None
    faults: list[str] | None = None
    reads: list[str] | None = None
    shared: bool = False
    literal: bool = False
    gain: int = 0

    @classmethod
    def of(cls, overlay: Overlay, before: Diagnosis, *, backing: bool = True) -> Draft:
        """Return an empty draft over a file that was examined."""
        count = 1 + (len(before.image.snapshots) if before.image else 0)
        return cls(overlay, before, before, layers=list(range(count)), backing=backing)

    @property
    def image(self) -> Image:
        """The image as planned so far; only where its tables can be read."""
        if self.now.image is None:
            raise ValueError("no tables can be read")
        return self.now.image

    @property
    def made(self) -> Recount:
        """The recount of the image as it was examined last."""
        if self.now.recount is None:
            raise ValueError("no tables can be read")
        return self.now.recount

    def withdraw(self) -> None:
        """Forget all that was planned; what is left undone, and why, stays."""
        empty = Draft.of(self.overlay.emptied(), self.before, backing=self.backing)
        for name in Draft.__slots__:
            if name != "left":
                setattr(self, name, getattr(empty, name))

    def found(self, *problems: Problem) -> bool:
        """Tell whether the overlay was found to have one of *problems*."""
        return any(self.now.find(problem) for problem in problems)

    def examine(self) -> None:
        """Look at the overlay as it is now."""
        self.now = examine(self.overlay, backing=self.backing)
        self.taken.clear()
        self.owners = self.bogus = self.astray = self.faults = self.reads = None

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Plan *data* at *offset*; a last cluster that the file cuts is made whole."""
        self.faults = self.reads = None
        end = offset + len(data)
        if end > self.overlay.size and offset < self.overlay.size:
            if self.overlay.fixed:
                data = data[: self.overlay.size - offset]
            else:
                self.overlay.grow(end)
        self.overlay.write(offset, data)

    def room(self, code: str) -> int:
        """Return how many more changes that answer *code* are listed."""
        return MOST_NOTES - self.noted.get(code, 0)

    def note(self, change: Change) -> None:
        """Keep what is changed and why."""
        if self.room(change.code) > 0:
            self.changes.append(change)
            self.noted[change.code] = self.noted.get(change.code, 0) + 1
        else:
            self.omit(change.code, 1)

    def omit(self, code: str, count: int) -> None:
        """Count changes that are not listed."""
        if count > 0:
            self.omitted[code] = self.omitted.get(code, 0) + count

    def leave(self, key: str, left: Left) -> None:
        """Keep what is left undone and why; once for each *key*."""
        self.left[key] = left

    def tell(self, kind: str, layer: int, start: IntArray, length: IntArray) -> None:
        """Say what happens to guest ranges of a layer of the overlay, in bytes."""
        if start.size and 0 <= layer < len(self.layers) and self.layers[layer] != NOWHERE:
            self.ranges.append(Ranges(kind, self.first_layer(self.layers[layer]), start, length))

    def first_layer(self, layer: int) -> int:
        """Return the first of the layers of the file that share the L1 table of *layer*."""
        if self.firsts is None:
            made = self.before.recount
            users = made.entries.sharers.items() if made else ()
            self.firsts = {one: first for first, all_ in users for one in all_}
        return self.firsts.get(layer, layer)

    def tell_entries(self, kind: str, table: IntArray, index: IntArray) -> None:
        """Say what happens to the guest clusters of L2 entries, in every layer that has them."""
        geometry, entries = self.image.geometry, self.made.entries
        wanted = np.unique(table)
        at = np.flatnonzero(np.isin(entries.target, wanted))
        order = np.argsort(entries.target[at], kind="stable")
        users, target = at[order], entries.target[at][order]
        low = np.searchsorted(target, table)
        many = np.searchsorted(target, table, "right") - low
        row = np.repeat(np.arange(table.size), many)
        skip = np.arange(row.size) - np.repeat(np.cumsum(many) - many, many)
        user = users[low[row] + skip]
        reach, size = geometry.bytes_per_l1_entry, geometry.cluster_size
        start = entries.index[user].astype(np.int64) * reach + index[row] * size
        self._tell_layers(kind, entries.layer[user], start, np.full(start.size, size))

    def tell_l1(self, kind: str, at: IntArray) -> None:
        """Say what happens to the guest ranges of L1 entries, rows *at* of the recount's."""
        entries, reach = self.made.entries, self.image.geometry.bytes_per_l1_entry
        start = entries.index[at].astype(np.int64) * reach
        self._tell_layers(kind, entries.layer[at], start, np.full(start.size, reach))

    def _tell_layers(self, kind: str, layer: IntArray, start: IntArray, length: IntArray) -> None:
        for number in np.unique(layer).tolist():
            chosen = layer == number
            first, count = joined_ranges(start[chosen], length[chosen])
            self.tell(kind, number, first, count)

    def drop_layer(self, layer: int, title: str) -> None:
        """Say that a layer of the overlay is given up; those behind it move up."""
        self.dropped.append(title)
        self.layers[layer] = -1

    def layers_dropped(self) -> None:
        """Close the gaps in the list of layers once the snapshot table has been written."""
        self.layers = [layer for layer in self.layers if layer >= 0]

    @property
    def is_lossy(self) -> bool:
        """Whether something is given up."""
        given_up = self.dropped or self.bitmaps or any(change.lossy for change in self.changes)
        return bool(given_up or any(part.kind == LOST for part in self.ranges))

    def _on_disk(self, layer: int, start: IntArray, length: IntArray) -> tuple[IntArray, IntArray]:
        """Cut ranges at the end of a layer's disk and VM state; what is behind is nobody's."""
        image = self.before.image
        if image is None:
            return start, length
        end = image.geometry.virtual_size
        if 0 < layer <= len(image.snapshots):
            item = image.snapshots[layer - 1]
            end = item.disk_size or end
            if item.vm_state_size:
                reach = image.geometry.bytes_per_l1_entry
                end = -(-end // reach) * reach + item.vm_state_size
        end = min(end, FARTHEST)
        inside = start < end
        start, length = start[inside], length[inside]
        return start, np.minimum(length, end - start)

    def guest_ranges(self, kind: str) -> list[tuple[int, int, int]]:
        """Return (layer of the file, start, length) of the guest ranges of one kind, joined."""
        found: list[tuple[int, int, int]] = []
        for layer in sorted({part.layer for part in self.ranges if part.kind == kind}):
            parts = [item for item in self.ranges if item.kind == kind and item.layer == layer]
            start = np.concatenate([part.start for part in parts])
            length = np.concatenate([part.length for part in parts])
            first, count = self._on_disk(layer, *joined_ranges(start, length))
            found += [
                (layer, low, size) for low, size in zip(first.tolist(), count.tolist(), strict=True)
            ]
        return found


def joined_ranges(start: IntArray, length: IntArray) -> tuple[IntArray, IntArray]:
    """Return ranges sorted, those that touch or overlap joined."""
    if not start.size:
        return NO_INTS, NO_INTS
    order = np.argsort(start, kind="stable")
    start, end = start[order], np.maximum.accumulate((start + length)[order])
    new = np.ones(start.size, np.bool_)
    new[1:] = start[1:] > end[:-1]
    heads = np.flatnonzero(new)
    last = np.append(heads[1:], start.size) - 1
    return start[heads], end[last] - start[heads]
