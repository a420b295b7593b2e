"""Pass C: the COPIED flags of the active layer say whether the refcount is 1 (format 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qfix.layout.tables import COPIED
from qfix.problems import refcounts
from qfix.recount.copied import UNREADABLE, YES, ones_of
from qfix.recount.l1 import ACTIVE_LAYER
from qfix.repair.owners import sound_tables
from qfix.repair.rewrite import Edit, rewrite_l1, rewrite_l2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.arrays import BoolArray
    from qfix.change.draft import Draft
    from qfix.recount.batches import Batch
    from qfix.recount.entries import Entries
    from qfix.repair.wanted import Wanted

U = np.uint64
TEXT = "the copied flag says whether the refcount is 1"


def set_copied_flags(draft: Draft, wanted: Wanted) -> bool:
    """Put the COPIED flags of active L1 and L2 entries to what the stored refcounts say."""
    if not wanted.errors or not draft.found(refcounts.L1_COPIED, refcounts.L2_COPIED):
        return False
    planned = _of_l1(draft)
    tables = sound_tables(draft)
    active = tables.part((tables.active_visits > 0) & (tables.offset > 0))
    ones = ones_of(draft.made.tally, draft.made.stored)
    data_file = draft.image.geometry.data_file
    bits = draft.image.geometry.cluster_bits

    def mend(_batch: Batch, entries: Entries, fit: BoolArray) -> Iterator[Edit]:
        at = np.flatnonzero(entries.standard & fit)
        state = np.full(at.size, YES, np.uint8)
        if not data_file:
            cluster = entries.offset[at] >> bits
            inside = cluster < ones.size
            state[inside] = ones[cluster[inside]]
            refcount, readable = draft.made.stored.lookup(cluster[~inside])
            state[~inside] = np.where(readable, refcount == 1, UNREADABLE)
        wrong = at[(state != UNREADABLE) & ((state == YES) != entries.copied[at])]
        yield Edit(refcounts.L2_COPIED, wrong, entries.entry[wrong] ^ U(COPIED), None, TEXT)

    return rewrite_l2(draft, active, mend) or planned


def _of_l1(draft: Draft) -> bool:
    entries, geometry = draft.made.entries, draft.image.geometry
    at = np.flatnonzero((entries.layer == ACTIVE_LAYER) & (entries.target > 0))
    refcount, readable = draft.made.stored.lookup(entries.target[at] >> geometry.cluster_bits)
    flagged = (entries.entry[at] & U(COPIED)) != 0
    wrong = at[readable & ((refcount == 1) != flagged)]
    return rewrite_l1(draft, refcounts.L1_COPIED, wrong, entries.entry[wrong] ^ U(COPIED), TEXT)
