"""What holds a host cluster, in words: the structure, or the guest cluster and its entry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qfix.dump.windows import Use
from qfix.recount.tally import Kind
from qfix.report.rows import layer_title

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.arrays import AnyArray, IntArray
    from qfix.dump.lines import Wanted

GUEST = (Use.DATA, Use.ZERO, Use.COMPRESSED)
HOLE = -1
"""A free cluster that takes no room on the disk."""
TITLES: dict[int, str] = {
    HOLE: "hole",
    Use.FREE: "free",
    Use.LEAKED: "leaked",
    Use.DATA: "data",
    Use.ZERO: "zero-allocated",
    Use.COMPRESSED: "compressed",
    Use.OTHER: "referenced",
    Use.METADATA + Kind.HEADER: "header",
    Use.METADATA + Kind.L1_TABLE: "l1-table",
    Use.METADATA + Kind.L2_TABLE: "l2-table",
    Use.METADATA + Kind.REFCOUNT_TABLE: "refcount-table",
    Use.METADATA + Kind.REFCOUNT_BLOCK: "refcount-block",
    Use.METADATA + Kind.SNAPSHOT_TABLE: "snapshot-table",
    Use.METADATA + Kind.ENCRYPTION_HEADER: "encryption-header",
    Use.METADATA + Kind.BITMAP_DIRECTORY: "bitmap-directory",
    Use.METADATA + Kind.BITMAP_TABLE: "bitmap-table",
    Use.METADATA + Kind.BITMAP_DATA: "bitmap-data",
}
"""The kinds of host clusters, as text and JSON name them."""


class Owners:
    """Names of what the values of a `Window` stand for."""

    __slots__ = ("_offsets", "_order", "_wanted")

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        offset = wanted.made.tables.offset
        self._order = np.argsort(offset, kind="stable")
        self._offsets = offset[self._order]

    def guests(self, value: IntArray) -> tuple[IntArray, IntArray]:
        """Return layer and guest offset of what holds data clusters."""
        tables, geometry = self._wanted.made.tables, self._wanted.image.geometry
        row, index = np.divmod(value, geometry.l2_entries)
        start = tables.index[row] * geometry.bytes_per_l1_entry + index * geometry.cluster_size
        return tables.layer[row].astype(np.int64), start

    def names(self, use: AnyArray, value: IntArray) -> Iterator[str]:
        """Yield for each cluster the name of what leads to it, as an edit takes it."""
        guest = np.isin(use, GUEST)
        tables, per = self._wanted.made.tables, self._wanted.image.geometry.l2_entries
        row, index = np.divmod(np.where(guest, value, 0), per)
        if not tables.offset.size:
            row[:] = 0
            layer = first = np.zeros(row.size, np.int64)
        else:
            layer, first = tables.layer[row], tables.index[row]
        heads = {at: _prefix(at) for at in np.unique(layer).tolist()}
        columns = (guest, use, value, layer, first, index)
        for led, kind, which, owner, at, entry in zip(
            *(column.tolist() for column in columns), strict=True
        ):
            yield f"{heads[owner]}l2[{at}][{entry}]" if led else self.title(kind, which, alone=True)

    def title(self, use: int, value: int, *, alone: bool = False) -> str:
        """Return what a cluster of metadata, or one that nothing leads to, is.

        Of a table that several L1 entries lead to the others are counted, unless it stands *alone*.
        """
        image = self._wanted.image
        if use < Use.METADATA:
            return TITLES[Use(use)]
        kind = Kind(use - Use.METADATA)
        if kind is Kind.L1_TABLE:
            return f"L1 table, {layer_title(image, value)}"
        if kind is Kind.L2_TABLE:
            return self._l2_title(value, alone=alone)
        number = kind in (Kind.REFCOUNT_BLOCK, Kind.BITMAP_TABLE, Kind.BITMAP_DATA)
        words = kind.text.replace("the ", "")
        return f"{words} {value}" if number else words

    def _l2_title(self, offset: int, *, alone: bool) -> str:
        at = int(np.searchsorted(self._offsets, offset))
        if at >= self._offsets.size or self._offsets[at] != offset:
            return f"L2 table at {offset:#x}"
        tables, row = self._wanted.made.tables, int(self._order[at])
        others = int(tables.visits[row]) - 1
        more = f" and {others} more" if others and not alone else ""
        title = layer_title(self._wanted.image, int(tables.layer[row]))
        return f"L2 table {int(tables.index[row])}, {title}{more}"


def _prefix(layer: int) -> str:
    return f"snapshot[{layer - 1}]." if layer else ""
