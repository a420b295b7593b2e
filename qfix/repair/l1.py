"""Pass T: L1 entries (format 5.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qfix.change.allocate import NoRoomError, allocate_each
from qfix.change.draft import LOST, Left
from qfix.layout.tables import ALLOC_BITS, COPIED, ENTRY_SIZE, L1_RESERVED, ZERO
from qfix.problems import tables
from qfix.recount.batches import read_batches
from qfix.recount.entries import decode
from qfix.recount.nonsense import FAR, impossible
from qfix.recount.tally import CLASH, DATA
from qfix.repair.owners import FEWEST_FAULTS, bogus_tables, mostly_faulty, sound_entries
from qfix.repair.rewrite import encoded, rewrite_l1

if TYPE_CHECKING:
    from qfix.arrays import BoolArray, IntArray
    from qfix.change.draft import Draft
    from qfix.layout.geometry import Geometry
    from qfix.problems import Problem
    from qfix.repair.wanted import Wanted

U = np.uint64
LEADS_OUT = (tables.L2_OUTSIDE_FILE, tables.COMPRESSED_OUTSIDE)
MOST_NEW_TABLES = 1 << 12
MOST_READ = 1 << 30


def clear_l1_bits(draft: Draft, wanted: Wanted) -> bool:
    """Clear the reserved bits of L1 entries, and the flags of those that lead nowhere."""
    if not wanted.all:
        return False
    entries, planned = draft.made.entries, False
    if draft.found(tables.L1_RESERVED_BITS):
        wrong = ((entries.entry & U(L1_RESERVED)) != 0) & (entries.target > 0)
        wrong &= draft.lossy | ~_of_no_table(draft)
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


def _of_no_table(draft: Draft) -> BoolArray:
    """Tell which L1 entries are of tables that hardly are any: most entries there are impossible.

    What is there instead may be a guest's data, so nothing is written without need.
    """
    entries, geometry = draft.made.entries, draft.image.geometry
    wrong = (entries.entry & U(L1_RESERVED)) != 0
    wrong |= entries.target % geometry.cluster_size != 0
    wrong |= entries.target > FAR * geometry.file_length
    used, faulty = np.bincount(entries.layer), np.bincount(entries.layer, wrong)
    none = (faulty >= FEWEST_FAULTS) & (5 * faulty >= 4 * used)
    if none.any():
        layers = np.flatnonzero(none).tolist()
        whose = ", ".join(
            "the active layer" if n == 0 else f"snapshot[{n - 1}]" for n in layers[:3]
        )
        why = f"most entries of the L1 table of {whose} make no sense: it is probably no table"
        codes = (tables.L1_RESERVED_BITS.code, tables.L1_UNALIGNED.code)
        draft.leave("no-table", Left(codes, why, "--lossy"))
    found: BoolArray = none[entries.layer]
    return found


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
    """Let L1 entries go that lead to what is no table: to data, or to other metadata.

    Where nothing else is known to be at that place, it may be a table after all most of whose
    entries are damaged: it stays as it is, and a new one gets its other entries.
    """
    if not wanted.lossy:
        return False
    target = draft.made.entries.target
    at = np.flatnonzero(np.isin(target, bogus_tables(draft)) & sound_entries(draft))
    if not at.size:
        return False
    kinds = (tables.METADATA_ON_METADATA, tables.DATA_ON_METADATA, tables.L2_UNALIGNED)
    problem = next((kind for kind in kinds if draft.found(kind)), tables.L2_RESERVED_BITS)
    own = mostly_faulty(draft, draft.made.tables, FEWEST_FAULTS)
    cluster = own >> draft.image.geometry.cluster_bits
    owners = draft.made.tally.owners
    own = own[(owners[np.minimum(cluster, owners.size - 1)] & (CLASH | DATA)) == 0]
    own = own[: MOST_READ >> draft.image.geometry.cluster_bits]
    chosen = np.isin(target[at], own)
    planned = bool(chosen.any()) and _give_up_faulty(draft, problem, at[chosen])
    rest = at[~chosen]
    return (bool(rest.size) and _give_up(draft, problem, rest, anyway=True)) or planned


def _give_up(draft: Draft, problem: Problem, at: IntArray, *, anyway: bool = False) -> bool:
    text = "leads nowhere; the range is given up"
    if not _shows_through(draft):
        nothing = np.zeros(at.size, np.uint64)
        return rewrite_l1(draft, problem, at, nothing, text, LOST)
    new = _new_tables(draft, problem, at.size, anyway=anyway)
    if new is None:
        return False
    bits = draft.image.geometry.cluster_bits
    zeros = zero_table(draft.image.geometry)
    for cluster in new.tolist():
        draft.write(cluster << bits, zeros)
    entry = (new.astype(np.uint64) << U(bits)) | U(COPIED)
    return rewrite_l1(draft, problem, at, entry, text + " and reads as zeros", LOST)


def _give_up_faulty(draft: Draft, problem: Problem, at: IntArray) -> bool:
    """Give up the impossible entries of the tables of L1 entries; new tables get the others."""
    image, made = draft.image, draft.made
    old = made.tables.part(np.isin(made.tables.offset, made.entries.target[at]))
    new = _new_tables(draft, problem, old.offset.size, anyway=True)
    if new is None:
        return False
    instead: dict[int, int] = {}
    for batch in read_batches(image, old):
        entries = decode(image, batch)
        wrong = np.flatnonzero(impossible(image, entries))
        row, index = entries.row[wrong], entries.index[wrong]
        zeros = _shows_through(draft)
        batch.entries[row, index] = ZERO if zeros and batch.bitmaps is None else 0
        if batch.bitmaps is not None:
            batch.bitmaps[row, index] = ALLOC_BITS << 32 if zeros else 0
        for number, offset in enumerate(batch.tables.offset.tolist()):
            place = int(new[len(instead)]) << image.geometry.cluster_bits
            draft.write(place, encoded(batch, number))
            instead[offset] = place | COPIED
        draft.tell_entries(LOST, batch.tables.offset[row], index)
    words = [instead.get(target, 0) for target in made.entries.target[at].tolist()]
    text = "most entries of its table make no sense; they are given up, a new table gets the others"
    return rewrite_l1(draft, problem, at, np.array(words, np.uint64), text, LOST, ranges=False)


def _shows_through(draft: Draft) -> bool:
    """Tell whether a backing file shows where nothing is allocated, and zeros can hide it."""
    return draft.image.head.backing_name is not None and draft.image.header.version >= 3


def _new_tables(draft: Draft, problem: Problem, count: int, *, anyway: bool) -> IntArray | None:
    """Return clusters for new L2 tables, None where there can't be so many."""
    if count > MOST_NEW_TABLES:
        draft.leave("zeros", Left((problem.code,), f"{count} new tables would be needed"))
        return None
    try:
        return allocate_each(draft, count, anyway=anyway or not draft.found(*LEADS_OUT))
    except NoRoomError as error:
        draft.leave("room", Left((problem.code,), str(error)))
        return None


def zero_table(geometry: Geometry) -> bytes:
    """Return the bytes of an L2 table that reads as zeros throughout."""
    words = np.zeros(geometry.cluster_size // ENTRY_SIZE, ">u8")
    step = 1 + geometry.extended
    words[geometry.extended :: step] = (ALLOC_BITS << 32) if geometry.extended else ZERO
    raw: bytes = words.tobytes()
    return raw
