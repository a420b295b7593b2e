"""Pass T: entries that get back what they must have led to, and tables that L1 entries lack."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qfix.change.draft import LOST, RESTORED, Change
from qfix.inference.neighbours import from_neighbours, single_leaks
from qfix.layout.tables import COPIED, ENTRY_SIZE, ZERO
from qfix.problems import refcounts, tables
from qfix.recount.batches import by_row
from qfix.recount.faults import find_faults
from qfix.recount.tally import CLASH
from qfix.repair.owners import (
    bogus_tables,
    may_write,
    mostly_faulty,
    sound_entries,
    sound_tables,
)
from qfix.repair.rewrite import Edit, rewrite_l1, rewrite_l2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.arrays import BoolArray, IntArray, Words
    from qfix.change.draft import Draft
    from qfix.layout.geometry import Geometry
    from qfix.problems import Problem
    from qfix.recount.batches import Batch
    from qfix.recount.entries import Entries
    from qfix.repair.wanted import Wanted

U = np.uint64
ASTRAY = (
    tables.L2_UNALIGNED,
    tables.L2_OUTSIDE_FILE,
    tables.SUBCLUSTERS_WITHOUT_CLUSTER,
    tables.COPIED_WITHOUT_OFFSET,
    tables.COMPRESSED_OUTSIDE,
    tables.COMPRESSED_BITMAP,
)
MOST_LOOKED_AT = 1 << 14
TEXT = "the neighbours and a leaked cluster tell where it led; it gets that back (a guess)"


def restore_from_neighbours(draft: Draft, wanted: Wanted) -> bool:
    """Let damaged L2 entries lead to the leaked clusters that fill the gap between neighbours."""
    astray = draft.found(*ASTRAY, tables.FILE_CUT, tables.REUSED, tables.DATA_ON_METADATA)
    if not wanted.lossy or not astray or not draft.found(refcounts.LEAKED):
        return False
    image, made = draft.image, draft.made
    geometry = image.geometry
    leaked = single_leaks(made)

    def mend(batch: Batch, entries: Entries, fit: BoolArray) -> Iterator[Edit]:
        damaged = np.zeros(entries.entry.size, np.bool_)
        problem = tables.REUSED if draft.found(tables.REUSED) else tables.DATA_ON_METADATA
        for kind, wrong, _ in find_faults(image, entries):
            if kind in ASTRAY:
                damaged |= wrong
                problem = kind if wrong.any() else problem
        cluster = np.where(entries.standard, entries.offset >> geometry.cluster_bits, 0)
        inside = cluster < made.tally.size
        owners = made.tally.owners[np.where(inside, cluster, 0)]
        doubtful = entries.standard & inside & ((owners & CLASH) != 0) & ~damaged
        found = from_neighbours(
            entries, damaged, doubtful, leaked, geometry.cluster_bits, geometry.l2_entries
        )
        fit |= _on_their_own_table(draft, batch, entries, found.at)
        at, cluster = found.at[fit[found.at]], found.cluster[fit[found.at]]
        order = np.argsort(at)
        at, cluster = at[order], cluster[order]
        entry = (
            _zero_flags(entries, at, geometry)
            | (cluster.astype(np.uint64) << U(geometry.cluster_bits))
            | U(COPIED)
        )
        yield Edit(problem, at, entry, None, TEXT, RESTORED)

    return rewrite_l2(draft, sound_tables(draft), mend)


def _on_their_own_table(draft: Draft, batch: Batch, entries: Entries, at: IntArray) -> BoolArray:
    """Tell which entries are the only data on the table that they stand in: it may be written."""
    tables_, bits = batch.tables, draft.image.geometry.cluster_bits
    own = np.zeros(entries.entry.size, np.bool_)
    chosen = at[entries.standard[at] & (entries.offset[at] == tables_.offset[entries.row[at]])]
    rows = by_row(entries.row[chosen], tables_.offset.size)
    visits = tables_.visits.astype(np.int64)
    cluster = np.minimum(tables_.offset >> bits, draft.made.tally.size - 1)
    alone = draft.made.tally.counted[cluster] == visits * (1 + rows)
    own[chosen] = alone[entries.row[chosen]]
    return own


def _zero_flags(entries: Entries, at: IntArray, geometry: Geometry) -> Words:
    """Return the zero flags of damaged entries: what reads as zeros goes on to do so."""
    plain = ~entries.compressed[at] & (not geometry.extended)
    flags: Words = entries.entry[at] & np.where(plain, U(ZERO), U(0))
    return flags


def restore_lost_tables(draft: Draft, wanted: Wanted) -> bool:
    """Let an L1 entry that lacks its table lead to the one that is lost, where only one fits."""
    if not wanted.lossy:
        return False
    return _replace(draft) or _restore(draft, tables.LOST_L2) or _restore(draft, tables.LACKED_L2)


def _replace(draft: Draft) -> bool:
    """Let the one L1 entry that leads to what is no table lead to the one table that is lost."""
    found = draft.now.find(tables.LOST_L2)
    made = draft.made
    if found is None or len(found) != 1 or made.tables.offset.size > MOST_LOOKED_AT:
        return False
    faulty = np.concatenate((mostly_faulty(draft, made.tables, 1), bogus_tables(draft)))
    at = np.flatnonzero(np.isin(made.entries.target, faulty) & sound_entries(draft))
    if at.size != 1:
        return False
    row = next(found.rows())
    flag = 0 if made.entries.layer[at[0]] else COPIED
    entry = np.array([int(row["host"]) | flag], np.uint64)
    text = "leads to what is no table; it gets the lost one (a guess)"
    return rewrite_l1(draft, tables.LOST_L2, at, entry, text, RESTORED)


def _restore(draft: Draft, problem: Problem) -> bool:
    found = draft.now.find(problem)
    if found is None or _has_given_up_tables(draft):
        return False
    geometry, entries = draft.image.geometry, draft.made.entries
    leads = (entries.target > 0) & (entries.target < geometry.file_length)
    leads &= entries.target % geometry.cluster_size == 0
    leads &= ~np.isin(entries.target, bogus_tables(draft))
    taken = set(zip(entries.layer[leads].tolist(), entries.index[leads].tolist(), strict=True))
    planned = False
    for row in found.rows():
        guests: list[tuple[int, int, int]] = row.get("guests") or []
        if len(guests) != 1:
            continue
        (layer, start, length), *_ = guests
        index = start // geometry.bytes_per_l1_entry
        offset = int(entries.places[layer]) if layer < entries.places.size else 0
        place = offset + index * ENTRY_SIZE
        clear = offset and (layer, index) not in taken and place + 8 <= draft.overlay.size
        if not clear or not may_write(draft, np.array([place >> geometry.cluster_bits]))[0]:
            continue
        taken.add((layer, index))
        entry = int(row["host"]) | (COPIED if problem is tables.LOST_L2 else 0)
        old = draft.overlay.read(place, 8)
        draft.write(place, entry.to_bytes(8, "big"))
        whose = "the active layer" if layer == 0 else f"snapshot[{layer - 1}]"
        why = row.get("where", "another layer has it")
        text = f"L1 entry {index} of {whose} gets its lost table back (a guess: {why})"
        draft.note(
            Change(problem.code, text, place, 1, f"{int.from_bytes(old, 'big'):#x}", f"{entry:#x}")
        )
        draft.tell(RESTORED, layer, np.array([start]), np.array([length]))
        planned = True
    return planned


def _has_given_up_tables(draft: Draft) -> bool:
    """Tell whether the plan gives up all that an L1 entry leads to: lost tables may be those."""
    reach = draft.image.geometry.bytes_per_l1_entry
    parts = (part for part in draft.ranges if part.kind == LOST)
    return any((part.length >= reach).any() for part in parts)
