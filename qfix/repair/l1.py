"""Pass T: L1 entries (format 5.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qfix.change.allocate import NoRoomError, allocate_each
from qfix.change.draft import LOST, Left
from qfix.layout.tables import COPIED, L1_RESERVED, ZERO
from qfix.problems import tables
from qfix.repair.owners import bogus_tables, sound_entries
from qfix.repair.rewrite import rewrite_l1

if TYPE_CHECKING:
    from qfix.arrays import IntArray, Words
    from qfix.change.draft import Draft
    from qfix.problems import Problem
    from qfix.repair.wanted import Wanted

U = np.uint64
LEADS_OUT = (tables.L2_OUTSIDE_FILE, tables.COMPRESSED_OUTSIDE)
MOST_ZERO_TABLES = 1 << 12


def clear_l1_bits(draft: Draft, wanted: Wanted) -> bool:
    """Clear the reserved bits of L1 entries, and the flags of those that lead nowhere."""
    if not wanted.all:
        return False
    entries, planned = draft.made.entries, False
    if draft.found(tables.L1_RESERVED_BITS):
        wrong = ((entries.entry & U(L1_RESERVED)) != 0) & (entries.target > 0)
        at = np.flatnonzero(wrong)
        cleared = entries.entry[at] & ~U(L1_RESERVED)
        text = "reserved bits are cleared"
        planned |= rewrite_l1(draft, tables.L1_RESERVED_BITS, at, cleared, text)
    if draft.found(tables.L1_FLAGS_ONLY):
        at = np.flatnonzero(entries.target == 0)
        nothing = np.zeros(at.size, np.uint64)
        text = "flags without an offset are cleared"
        planned |= rewrite_l1(draft, tables.L1_FLAGS_ONLY, at, nothing, text)
    return planned


def give_up_l1_entries(draft: Draft, wanted: Wanted) -> bool:
    """Let L1 entries that lead nowhere be unallocated, or zeros where a backing file shows."""
    if not wanted.lossy:
        return False
    if not draft.found(tables.L1_UNALIGNED, tables.L1_OUTSIDE_FILE, tables.FILE_CUT):
        return False
    entries, geometry = draft.made.entries, draft.image.geometry
    unaligned = entries.target % geometry.cluster_size != 0
    outside = ~unaligned & (entries.target >= geometry.file_length)
    planned = False
    for problem, wrong in ((tables.L1_UNALIGNED, unaligned), (tables.L1_OUTSIDE_FILE, outside)):
        planned |= _give_up(
            draft, problem, np.flatnonzero(wrong & (entries.places[entries.layer] > 0))
        )
    return planned


def give_up_bogus_tables(draft: Draft, wanted: Wanted) -> bool:
    """Let L1 entries go that lead to what is no table: to data, or to other metadata."""
    if not wanted.lossy:
        return False
    bogus = np.isin(draft.made.entries.target, bogus_tables(draft))
    at = np.flatnonzero(bogus & sound_entries(draft))
    kinds = (tables.METADATA_ON_METADATA, tables.DATA_ON_METADATA, tables.L2_UNALIGNED)
    problem = next((kind for kind in kinds if draft.found(kind)), tables.L2_RESERVED_BITS)
    return _give_up(draft, problem, at, anyway=True) if at.size else False


def _give_up(draft: Draft, problem: Problem, at: IntArray, *, anyway: bool = False) -> bool:
    text = "leads nowhere; the range is given up"
    nothing = np.zeros(at.size, np.uint64)
    if draft.image.head.backing_name is None or draft.image.header.version < 3:
        return rewrite_l1(draft, problem, at, nothing, text, LOST)
    if at.size > MOST_ZERO_TABLES:
        draft.leave("zeros", Left((problem.code,), f"{at.size} tables of zeros would be needed"))
        return False
    try:
        new = allocate_each(draft, at.size, anyway=anyway or not draft.found(*LEADS_OUT))
    except NoRoomError as error:
        draft.leave("room", Left((problem.code,), str(error)))
        return False
    geometry = draft.image.geometry
    words = np.zeros(geometry.cluster_size // 8, ">u8")
    words[geometry.extended :: 1 + geometry.extended] = (
        (0xFFFFFFFF << 32) if geometry.extended else ZERO
    )
    for cluster in new.tolist():
        draft.write(cluster << geometry.cluster_bits, words.tobytes())
    entry: Words = (new.astype(np.uint64) << U(geometry.cluster_bits)) | U(COPIED)
    return rewrite_l1(draft, problem, at, entry, text + " and reads as zeros", LOST)
