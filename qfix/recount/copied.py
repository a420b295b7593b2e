"""The COPIED flags of active L1 and L2 entries against the stored refcounts, entry by entry.

Run only where the comparison of refcounts has shown that some flag disagrees, or might. Entries of
what is no table, because it is unaligned or the header was read as L1 table, count as QEMU counts
them, but are not reported.
"""

import numpy as np

from qfix.arrays import BoolArray, IntArray, Words
from qfix.image import Image
from qfix.layout.tables import COPIED
from qfix.problems import refcounts as problems
from qfix.recount.batches import Batch, read_batches
from qfix.recount.entries import Entries, decode
from qfix.recount.l1 import ACTIVE_LAYER, L1Entries
from qfix.recount.l2 import L2Tables
from qfix.recount.stored import Stored
from qfix.recount.tally import Tally

U = np.uint64
NO, YES, UNREADABLE = 0, 1, 2


def find_copied_mismatches(
    image: Image, tally: Tally, stored: Stored, entries: L1Entries, tables: L2Tables
) -> None:
    """Find every active entry whose COPIED flag does not say whether the refcount is 1."""
    unreadable = _check_l1(image, tally, stored, entries)
    active = (tables.active_visits > 0) & (tables.offset > 0)
    active &= ~np.isin(tables.offset, unreadable)
    ones = ones_of(tally, stored)
    for batch in read_batches(image, tables.part(active)):
        _check_l2(image, tally, stored, batch, ones)


def _check_l1(image: Image, tally: Tally, stored: Stored, entries: L1Entries) -> IntArray:
    """Check the L1 entries; return the tables that QEMU does not look into."""
    active = np.flatnonzero((entries.layer == ACTIVE_LAYER) & (entries.target > 0))
    target = entries.target[active]
    refcount, readable = stored.lookup(target >> image.geometry.cluster_bits)
    flagged = (entries.entry[active] & U(COPIED)) != 0
    wrong = readable & ((refcount == 1) != flagged)
    tally.corruptions += int(wrong.sum())
    if not image.header.l1_table_offset:
        wrong[:] = False
    at = active[wrong]
    index = entries.index[at].astype(np.int64)
    reach = image.geometry.bytes_per_l1_entry
    tally.found.add(
        problems.L1_COPIED,
        first=index,
        index=index,
        layer=ACTIVE_LAYER,
        host=entries.position(at),
        entry=entries.entry[at],
        refcount=refcount[wrong],
        guest=index * reach,
        guest_length=reach,
        fold=flagged[wrong],
    )
    return target[~readable]


def ones_of(tally: Tally, stored: Stored) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """Return for each cluster whether its stored refcount is 1, or can't be read."""
    ones = np.zeros(tally.size, np.uint8)
    for chunk in stored.chunks(tally):
        part = ones[chunk.start : chunk.end]
        part[:] = (chunk.counted if chunk.stored is None else chunk.stored) == 1
        if chunk.readable is not None:
            part[~chunk.readable] = UNREADABLE
    return ones


def _check_l2(
    image: Image,
    tally: Tally,
    stored: Stored,
    batch: Batch,
    ones: np.ndarray[tuple[int], np.dtype[np.uint8]],
) -> None:
    entries = decode(image, batch)
    at = np.flatnonzero(entries.standard)
    cluster = entries.offset[at] >> image.geometry.cluster_bits
    state = np.full(at.size, YES, np.uint8)
    if not image.geometry.data_file:
        inside = cluster < tally.size
        state[inside] = ones[cluster[inside]]
        refcount, readable = stored.lookup(cluster[~inside])
        state[~inside] = np.where(readable, refcount == 1, UNREADABLE)
    wrong = (state != UNREADABLE) & ((state == YES) != entries.copied[at])
    if wrong.any():
        _report(image, tally, stored, batch, entries, at[wrong])


def _report(
    image: Image, tally: Tally, stored: Stored, batch: Batch, entries: Entries, at: IntArray
) -> None:
    geometry = image.geometry
    tally.corruptions += int(batch.tables.active_visits[entries.row[at]].sum())
    if not image.header.l1_table_offset:
        return
    at = at[batch.tables.offset[entries.row[at]] % geometry.cluster_size == 0]
    row, index = entries.row[at], entries.index[at]
    guest = batch.tables.index[row] * geometry.l2_entries + index
    refcount: Words = np.ones(at.size, np.uint64)
    if not geometry.data_file:
        refcount, _ = stored.lookup(entries.offset[at] >> geometry.cluster_bits)
    flagged: BoolArray = entries.copied[at]
    tally.found.add(
        problems.L2_COPIED,
        first=guest,
        index=index,
        l1_index=batch.tables.index[row],
        layer=ACTIVE_LAYER,
        table=batch.tables.offset[row],
        host=batch.tables.offset[row] + index * geometry.entry_size,
        entry=entries.entry[at],
        refcount=refcount,
        guest=guest * geometry.cluster_size,
        guest_length=geometry.cluster_size,
        fold=flagged,
    )
