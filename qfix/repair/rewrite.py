"""L1 and L2 tables rewritten whole: entries are changed as arrays, and told with their reasons."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qfix.arrays import run_starts
from qfix.change.draft import LOST, Change
from qfix.layout.tables import ENTRY_SIZE
from qfix.recount.batches import read_batches
from qfix.recount.entries import decode
from qfix.recount.walk import are_tables, headless_layers
from qfix.repair.owners import may_write, sound_entries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from qfix.arrays import BoolArray, IntArray, Words
    from qfix.change.draft import Draft
    from qfix.problems import Problem
    from qfix.recount.batches import Batch
    from qfix.recount.entries import Entries
    from qfix.recount.l2 import L2Tables

    Mend = Callable[[Batch, Entries, BoolArray], Iterable["Edit"]]
    """Gives the edits of a batch; the third argument tells which entries may be written."""


class Edit(NamedTuple):
    """New values for entries of a batch: positions in it, entries, and bitmaps where they change.

    `kind` says what happens to the guest clusters, empty where nothing does.
    """

    problem: Problem
    at: IntArray
    entry: Words
    bitmap: Words | None
    text: str
    kind: str = ""


def rewrite_l2(draft: Draft, tables: L2Tables, mend: Mend) -> bool:
    """Plan what *mend* makes of each batch of *tables*; return whether that was anything.

    Tables whose clusters hold something else too are not written.
    """
    image = draft.image
    bits = image.geometry.cluster_bits
    headless = headless_layers(image)
    planned = False
    for batch in read_batches(image, tables):
        fit = are_tables(image, batch.tables, headless)
        fit &= may_write(draft, batch.tables.offset >> bits)
        fit[batch.failed] = False
        entries = decode(image, batch)
        changed = np.zeros(batch.tables.offset.size, np.bool_)
        for edit in mend(batch, entries, fit[entries.row]):
            if edit.at.size:
                _carry_out(draft, batch, entries, edit)
                changed[entries.row[edit.at]] = True
        for row in np.flatnonzero(changed).tolist():
            draft.write(int(batch.tables.offset[row]), encoded(batch, row))
        planned |= bool(changed.any())
    return planned


def _carry_out(draft: Draft, batch: Batch, entries: Entries, edit: Edit) -> None:
    """Put an edit into the batch's arrays, and say so."""
    row, index = entries.row[edit.at], entries.index[edit.at]
    old = batch.entries[row, index]
    old_map = None if batch.bitmaps is None else batch.bitmaps[row, index]
    batch.entries[row, index] = edit.entry
    entries.entry[edit.at] = edit.entry
    if batch.bitmaps is not None and edit.bitmap is not None:
        batch.bitmaps[row, index] = edit.bitmap
    if edit.kind:
        draft.tell_entries(edit.kind, batch.tables.offset[row], index)
    _note(draft, batch, edit, row, index, old, old_map)


def _note(
    draft: Draft,
    batch: Batch,
    edit: Edit,
    row: IntArray,
    index: IntArray,
    old: Words,
    old_map: Words | None,
) -> None:
    geometry = draft.image.geometry
    starts = run_starts(row * geometry.l2_entries + index, row)
    counts = np.diff(np.append(starts, index.size))
    code = edit.problem.code
    room = max(0, draft.room(code))
    for at, count in zip(starts[:room].tolist(), counts[:room].tolist(), strict=True):
        table = int(batch.tables.offset[row[at]])
        guest = int(batch.tables.index[row[at]]) * geometry.l2_entries + int(index[at])
        which = (
            f"entry {index[at]}"
            if count == 1
            else f"entries {index[at]} to {index[at + count - 1]}"
        )
        text = (
            f"L2 {which} of the table at {table:#x}, guest {guest * geometry.cluster_size:#x}:"
            f" {edit.text}"
        )
        was, new = f"{int(old[at]):#x}", f"{int(edit.entry[at]):#x}"
        if old_map is not None and edit.bitmap is not None:
            was += f" {int(old_map[at]):#x}"
            new += f" {int(edit.bitmap[at]):#x}"
        host = table + int(index[at]) * geometry.entry_size
        draft.note(Change(code, text, host, count, was, new, edit.kind == LOST))
    draft.omit(code, starts.size - room)


def encoded(batch: Batch, row: int) -> bytes:
    """Return the bytes of a table of a batch."""
    words = batch.entries[row]
    if batch.bitmaps is not None:
        words = np.stack((words, batch.bitmaps[row]), axis=1).ravel()
    encoded: bytes = words.astype(">u8").tobytes()
    return encoded


def rewrite_l1(
    draft: Draft,
    problem: Problem,
    at: IntArray,
    entry: Words,
    text: str,
    kind: str = "",
    *,
    ranges: bool = True,
) -> bool:
    """Plan new values for the L1 entries in the rows *at* of the recount's; True if any could be.

    Entries whose L1 table shares its clusters with something else are not written, nor are those
    of a damaged snapshot. *kind* is what happens to the guest ranges below them; without *ranges*
    the caller tells which those are.
    """
    entries, geometry = draft.made.entries, draft.image.geometry
    place = entries.position(at)
    fit = may_write(draft, place >> geometry.cluster_bits) & (entries.places[entries.layer[at]] > 0)
    fit &= sound_entries(draft)[at]
    at, entry, place = at[fit], entry[fit], place[fit]
    if not at.size:
        return False
    if kind and ranges:
        draft.tell_l1(kind, at)
    _write_words(draft, place, entry)
    room = max(0, draft.room(problem.code))
    for row, value, host in zip(
        at[:room].tolist(), entry[:room].tolist(), place[:room].tolist(), strict=True
    ):
        index, layer = int(entries.index[row]), int(entries.layer[row])
        whose = "the active layer" if layer == 0 else f"snapshot[{layer - 1}]"
        text_ = f"L1 entry {index} of {whose}: {text}"
        was, new = f"{int(entries.entry[row]):#x}", f"{value:#x}"
        draft.note(Change(problem.code, text_, host, 1, was, new, kind == LOST))
    draft.omit(problem.code, at.size - room)
    return True


def _write_words(draft: Draft, place: IntArray, words: Words) -> None:
    """Plan 64-bit *words* at byte offsets *place*, a cluster at a time."""
    size = draft.image.geometry.cluster_size
    order = np.argsort(place, kind="stable")
    place, words = place[order], words[order]
    cluster = place // size
    starts = np.flatnonzero(np.diff(cluster, prepend=-1))
    ends = np.append(starts[1:], place.size)
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        offset = int(cluster[start]) * size
        raw = np.frombuffer(draft.overlay.read(offset, size), ">u8").copy()
        raw[(place[start:end] - offset) // ENTRY_SIZE] = words[start:end]
        draft.write(offset, raw.tobytes())
