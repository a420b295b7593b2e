"""The refcount table and its blocks: read, claimed, and their damaged entries found (format 4)."""

from dataclasses import dataclass

import numpy as np

from qfix.arrays import BoolArray, IntArray, Words
from qfix.image import Image
from qfix.layout import header
from qfix.layout.tables import ENTRY_SIZE, REFTABLE_OFFSET_MASK, REFTABLE_RESERVED
from qfix.problems import refcounts as problems
from qfix.recount.tally import METADATA, Kind, Tally


@dataclass(frozen=True, slots=True)
class Reftable:
    """The refcount table: entries as read, as far as they are in the file (format 4).

    `entries_total` counts those behind the file's end too, which read as zeros; `position` is the
    table's offset, 0 where it is not in the file.
    """

    entry: Words
    entries_total: int
    position: int

    @property
    def offset(self) -> IntArray:
        """The refcount block offsets; those of 2**63 and more come out negative."""
        return (self.entry & np.uint64(REFTABLE_OFFSET_MASK)).astype(np.int64)


def read_reftable(image: Image) -> Reftable:
    """Read the refcount table; at most what QEMU accepts and the file holds."""
    head = image.header
    length = head.refcount_table_clusters * image.geometry.cluster_size
    total = min(length, header.MAX_REFCOUNT_TABLE_BYTES) // ENTRY_SIZE
    offset = head.refcount_table_offset
    if offset >= image.geometry.file_length:
        return Reftable(np.zeros(0, np.uint64), total, 0)
    return Reftable(image.table(offset, total, "the refcount table"), total, offset)


def claim_blocks(image: Image, tally: Tally, table: Reftable) -> None:
    """Count every refcount block, and find damaged refcount table entries."""
    size, bits = image.geometry.cluster_size, image.geometry.cluster_bits
    offset = table.offset
    reserved = (table.entry & np.uint64(REFTABLE_RESERVED)) != 0
    unaligned = ~reserved & (offset % size != 0)
    cluster = (offset.astype(np.uint64) >> np.uint64(bits)).astype(np.int64)
    outside = ~reserved & ~unaligned & (cluster >= tally.size)
    used = ~reserved & ~unaligned & ~outside & (offset != 0)
    behind = used & (offset >= image.geometry.file_length)
    index = np.flatnonzero(used & ~behind)
    references = _claim_in_order(tally, cluster, index)
    shared = references != 1
    tally.corruptions += int(reserved.sum() + unaligned.sum() + outside.sum() + shared.sum())
    tally.corruptions += int(behind.sum() + (tally.counted[cluster[behind]] != 1).sum())
    outside |= behind
    _count_entries(tally, table, reserved, unaligned, outside)
    place = table.position
    covered = image.geometry.refcounts_per_block
    for problem, wrong in (
        (problems.RT_RESERVED_BITS, np.flatnonzero(reserved)),
        (problems.RT_UNALIGNED, np.flatnonzero(unaligned)),
        (problems.RT_OUTSIDE_FILE, np.flatnonzero(outside)),
    ):
        entry = table.entry[wrong]
        host = place + wrong * ENTRY_SIZE
        tally.found.add(problem, first=wrong, entry=entry, host=host, covered=covered)
    wrong = index[shared]
    tally.found.add(
        problems.BLOCK_SHARED,
        first=wrong,
        entry=table.entry[wrong],
        host=offset[wrong],
        references=references[shared],
        fold=references[shared],
    )


def _claim_in_order(tally: Tally, cluster: IntArray, index: IntArray) -> IntArray:
    """Claim the blocks at *index* of the table; return what each one's count is just then."""
    at = cluster[index]
    before = tally.counted[at].astype(np.int64)
    order = np.argsort(at, kind="stable")
    again = np.zeros(order.size, np.int64)
    ordered = at[order]
    heads = np.maximum.accumulate(
        np.where(np.diff(ordered, prepend=-1) != 0, np.arange(order.size), 0)
    )
    again[order] = np.arange(order.size) - heads
    tally.claim_each(at, 1, METADATA)
    tally.add_extents(at, np.ones_like(at), Kind.REFCOUNT_BLOCK, index)
    now: IntArray = np.minimum(before + again + 1, min(tally.geometry.refcount_max, 1 << 62))
    return now


def _count_entries(
    tally: Tally, table: Reftable, reserved: BoolArray, unaligned: BoolArray, outside: BoolArray
) -> None:
    counts = tally.statistics.reftable
    counts.unaligned = int((unaligned | reserved).sum())
    counts.invalid = int(outside.sum())
    nonzero = int(np.count_nonzero(table.entry))
    counts.used = nonzero - counts.unaligned - counts.invalid
    counts.unused = table.entries_total - nonzero
