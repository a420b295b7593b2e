"""Who holds each host cluster, without the claims of what is no table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qfix.problems import header, tables
from qfix.recount.batches import read_batches
from qfix.recount.entries import decode
from qfix.recount.tally import CLASH, COMPRESSED, DATA, METADATA, Kind
from qfix.recount.walk import are_tables, headless_layers

if TYPE_CHECKING:
    from qfix.arrays import BoolArray, ByteArray, IntArray
    from qfix.change.draft import Draft
    from qfix.recount.entries import Entries

BOGUS = (tables.L1_UNALIGNED, tables.L1_FLAGS_ONLY, header.L1_OUTSIDE, header.L1_OFFSET)
"""Where QEMU reads as an L2 table what is none; its entries count, but nobody relies on them."""


def real_owners(draft: Draft) -> ByteArray:
    """Return the owner bits of each cluster of the tally, those of real tables and entries only.

    METADATA, DATA, COMPRESSED and CLASH are set; where all tables are real, other bits too.
    """
    tally = draft.made.tally
    if not draft.found(*BOGUS) and not _has_headless_snapshots(draft):
        return tally.owners[: tally.size]
    if draft.owners is None or draft.owners.size != tally.size:
        draft.owners = _recounted(draft)
    return draft.owners


def _has_headless_snapshots(draft: Draft) -> bool:
    return bool(headless_layers(draft.image).size)


def _recounted(draft: Draft) -> ByteArray:
    tally, image = draft.made.tally, draft.image
    geometry = image.geometry
    owners = np.zeros(tally.size, np.uint8)
    first, count, kind, which = tally.extents()
    bogus = (kind == Kind.L2_TABLE) & (which % geometry.cluster_size != 0)
    bogus |= (kind == Kind.L1_TABLE) & (first == 0)
    for low, units in zip(first[~bogus].tolist(), count[~bogus].tolist(), strict=True):
        part = owners[low : low + units]
        part |= np.where(part & METADATA, np.uint8(CLASH), np.uint8(METADATA))
    headless = headless_layers(image)
    for batch in read_batches(image, draft.made.tables):
        entries = decode(image, batch)
        real = are_tables(image, batch.tables, headless)[entries.row]
        aligned = entries.standard & (entries.offset % geometry.cluster_size == 0)
        for chosen, bit in ((aligned, DATA), (entries.compressed, COMPRESSED)):
            held = _clusters(entries, chosen & real, geometry.cluster_bits, tally.size)
            clash = held[(owners[held] & METADATA) != 0]
            owners[held] |= np.uint8(bit)
            owners[clash] |= np.uint8(CLASH)
    return owners


def _clusters(entries: Entries, chosen: BoolArray, bits: int, size: int) -> IntArray:
    """Return the first and the last cluster of the *chosen* entries, as far as there are such."""
    first = entries.offset[chosen] >> bits
    last = (entries.offset[chosen] + entries.length[chosen] - 1) >> bits
    both = np.union1d(first, last)
    return both[both < size]


def may_write(draft: Draft, clusters: IntArray) -> BoolArray:
    """Tell which *clusters* hold metadata alone: no guest data, and nothing else of another kind.

    Those that the plan has added are such.
    """
    owners = real_owners(draft)
    inside = clusters < owners.size
    taken = owners[np.where(inside, clusters, 0)] & (DATA | COMPRESSED | CLASH)
    alone: BoolArray = ~inside | (taken == 0)
    return alone
