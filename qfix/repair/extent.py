"""Pass H: an l1_size that runs over other structures is cut to what the disk needs (format 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qfix.change.draft import RESTORED
from qfix.layout.header import MAX_L1_ENTRIES
from qfix.layout.tables import ENTRY_SIZE
from qfix.problems import header, tables
from qfix.recount.tally import CLASH
from qfix.repair.fields import set_field

if TYPE_CHECKING:
    from qfix.change.draft import Draft
    from qfix.repair.wanted import Wanted


def trim_l1_size(draft: Draft, wanted: Wanted) -> bool:
    """Let the active L1 table end before the first cluster behind the disk's that is not its own.

    What is behind the entries that the disk needs is VM state at most; where the table runs over
    other structures, or out of the file, it is not even that.
    """
    head, geometry = draft.image.header, draft.image.geometry
    needed = geometry.needed_l1_entries
    if not wanted.all or not needed < head.l1_size <= MAX_L1_ENTRIES or not head.l1_table_offset:
        return False
    if head.l1_table_offset % geometry.cluster_size:
        return False
    first = head.l1_table_offset >> geometry.cluster_bits
    count = geometry.clusters(head.l1_size * ENTRY_SIZE)
    own = geometry.clusters(needed * ENTRY_SIZE)
    clusters = np.arange(first + own, first + count)
    owners = draft.made.tally.owners
    taken = (clusters << geometry.cluster_bits) >= geometry.file_length
    inside = clusters < draft.made.tally.size
    taken |= (owners[np.where(inside, clusters, 0)] & CLASH).astype(np.bool_) & inside
    if not taken.any():
        return False
    entries = (own + int(np.argmax(taken))) * geometry.cluster_size // ENTRY_SIZE
    found = (header.L1_OUTSIDE, tables.METADATA_ON_METADATA, tables.DATA_ON_METADATA)
    code = next((problem.code for problem in found if draft.found(problem)), found[0].code)
    why = f"the disk needs {needed} entries, and other structures follow"
    set_field(draft, "l1_size", entries, code, why)
    reach = geometry.bytes_per_l1_entry
    start, end = entries * reach, head.l1_size * reach
    draft.tell(RESTORED, 0, np.array([start]), np.array([end - start]))
    return True
