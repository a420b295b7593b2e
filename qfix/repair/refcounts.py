"""Pass R: refcounts are put to the counted references, block by block (format 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qfix.arrays import AnyArray, BoolArray, IntArray, pack_refcounts, runs, unpack_refcounts
from qfix.change.draft import LOST, SUSPECT, Change, Left
from qfix.problems import header, refcounts
from qfix.recount.tally import CLASH
from qfix.repair.doubt import is_hopeless, leads_astray, led_astray, lost_tables
from qfix.repair.owners import may_write
from qfix.repair.unknown import that_hold_something

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.change.draft import Draft
    from qfix.problems import Findings, Problem
    from qfix.recount.stored import Chunk
    from qfix.repair.wanted import Wanted

WRONG = (
    refcounts.LEAKED,
    refcounts.TOO_HIGH,
    refcounts.TOO_LOW,
    refcounts.USED_BUT_FREE,
    refcounts.BEHIND_END,
)
UNTRUSTED = (
    header.REFCOUNT_ORDER,
    header.REFTABLE_OFFSET,
    header.REFTABLE_OUTSIDE,
    header.REFTABLE_TOO_LARGE,
)
"""What is taken for refcount blocks may be something else."""
MOST_NAMED = 3
MOST_WITHHELD = 10_000


def store_references(draft: Draft, wanted: Wanted, withheld: list[tuple[int, int]]) -> bool:
    """Set each refcount to the counted references, as far as that is asked for and safe.

    *withheld* are the runs of clusters (first, count) that earlier changes did not free.
    """
    if not (wanted.leaks or wanted.errors) or not draft.found(*WRONG):
        return False
    if draft.found(*UNTRUSTED):
        return False
    high = draft.found(refcounts.TOO_HIGH) or (wanted.leaks and draft.found(refcounts.LEAKED))
    free = high and _may_free(draft, wanted, withheld)
    planned = False
    for chunk in draft.made.stored.chunks(draft.made.tally):
        if chunk.stored is not None:
            wrong = _to_change(draft, wanted, chunk, chunk.stored, free=free)
            planned |= _store(draft, chunk, chunk.stored, wrong)
    if wanted.errors and draft.found(refcounts.BEHIND_END):
        planned |= _clear_behind(draft)
    return planned


def free_leaks(draft: Draft) -> bool:
    """Set each refcount that is too high to the counted references, whoever used the cluster."""
    planned = False
    for chunk in draft.made.stored.chunks(draft.made.tally):
        if chunk.stored is not None:
            wrong = chunk.stored > chunk.counted
            wrong &= True if chunk.readable is None else chunk.readable
            planned |= _store(draft, chunk, chunk.stored, wrong)
    return planned


def _may_free(draft: Draft, wanted: Wanted, withheld: list[tuple[int, int]]) -> bool:
    """Tell whether leaked clusters are surely waste, or may be given up; keep why not."""
    lost, astray = lost_tables(draft), led_astray(draft)
    kept = _were_withheld(draft, withheld)
    if not lost and not astray and not kept:
        return True
    if wanted.lossy and not is_hopeless(draft) and not leads_astray(draft):
        for found in lost:
            _give_up(draft, found)
        leaks = draft.now.find(refcounts.LEAKED)
        if leaks is not None and wanted.leaks and not lost:
            count = leaks.units
            text = f"{count} leaked clusters, perhaps a guest's only copy, are given up"
            draft.note(Change(refcounts.LEAKED.code, text, None, count, lossy=True))
        return True
    codes = tuple(found.problem.code for found in (*lost, *astray))
    _withhold(draft)
    if lost:
        what = f"{sum(found.units for found in lost)} lost tables may have led to them{_held(lost)}"
    elif astray:
        what = f"what {', '.join(codes[:3])} led to may be among them"
    else:
        what = "an earlier repair kept them: entries that it mended may have led to them"
    units = draft.now.find(refcounts.LEAKED)
    count = draft.made.tally.leaks if units is None else units.units
    why = f"{count} leaked clusters are not freed: {what}, so they may be the guest's only copy"
    for found in lost:
        for row in found.rows():
            for layer, start, length in row.get("guests", ()):
                draft.tell(SUSPECT, layer, np.array([start]), np.array([length]))
    draft.leave("leaks", Left(codes, why, "" if wanted.lossy else "--lossy"))
    return False


def _held(lost: list[Findings]) -> str:
    """Return what lost tables seem to hold, and for which guest range, as far as that is told."""
    rows = [row for found in lost for row in found.rows(MOST_NAMED) if row.get("where")]
    told = [f"{row['bytes']} bytes, {row['where']}" for row in rows[:MOST_NAMED]]
    return f" ({'; '.join(told)})" if told else ""


def _give_up(draft: Draft, found: Findings) -> None:
    for row in found.rows():
        guests = row.get("guests", ())
        for layer, start, length in guests:
            draft.tell(LOST, layer, np.array([start]), np.array([length]))
        where = "" if guests else f" (guest range not known: {row.get('where', 'no place fits')})"
        what = f"what the lost table in host cluster {row['first']} leads to is given up{where}"
        draft.note(Change(found.problem.code, what, row.get("host"), lossy=True))


def _withhold(draft: Draft) -> None:
    draft.withheld = [
        (row["first"], row["count"])
        for found in _too_high(draft)
        for row in found.rows(MOST_WITHHELD)
    ]


def _too_high(draft: Draft) -> list[Findings]:
    kinds = (refcounts.LEAKED, refcounts.TOO_HIGH)
    return [found for kind in kinds if (found := draft.now.find(kind)) is not None]


def _were_withheld(draft: Draft, withheld: list[tuple[int, int]]) -> bool:
    """Tell whether some of the refcounts that are too high were kept by an earlier repair."""
    if not withheld:
        return False
    first, count = np.array(sorted(withheld)).T
    for found in _too_high(draft):
        starts = np.asarray(found.first)
        at = np.searchsorted(first, starts + np.asarray(found.count) - 1, "right") - 1
        if ((at >= 0) & ((first + count)[at] > starts)).any():
            return True
    return False


def _to_change(
    draft: Draft, wanted: Wanted, chunk: Chunk, stored: AnyArray, *, free: bool
) -> BoolArray:
    counted = chunk.counted
    wrong = np.zeros(counted.size, np.bool_)
    if wanted.errors:
        twice = (draft.made.tally.owners[chunk.start : chunk.end] & CLASH) != 0
        blessed = twice & (stored > 0)
        low = stored < counted
        if draft.literal:
            low[max(0, draft.image.geometry.clusters(draft.overlay.size) - chunk.start) :] = False
        if (low & blessed).any():
            why = (
                f"the refcounts of {int((low & blessed).sum())} clusters with two users are not"
                " raised: that would hide the damage"
            )
            option = "--lossy" if wanted.reuse else "--fix reuse"
            draft.leave("reuse", Left((refcounts.TOO_LOW.code,), why, option))
        wrong |= low & ~blessed
    high = stored > counted
    if free:
        wrong |= high if wanted.leaks else high & (counted > 0)
    if wanted.errors and high.any():
        wrong |= high & _lost_by_plan(draft, chunk, stored)
    if chunk.readable is not None:
        wrong &= chunk.readable
    return wrong


def _lost_by_plan(draft: Draft, chunk: Chunk, stored: AnyArray) -> BoolArray:
    """Tell which clusters had all the users that are stored before the plan took some away.

    Or whose refcounts the plan itself has raised, for users that it then moved.
    """
    before = draft.before.recount
    own = np.zeros(stored.size, np.bool_)
    if before is not None and draft.now is not draft.before:
        counted = before.tally.counted[chunk.start : min(chunk.end, before.tally.size)]
        own[: counted.size] = counted >= stored[: counted.size]
        for clusters in draft.raised:
            inside = clusters[(clusters >= chunk.start) & (clusters < chunk.end)]
            own[inside - chunk.start] = True
    return own


def _store(draft: Draft, chunk: Chunk, stored: AnyArray, wrong: BoolArray) -> bool:
    """Write the counted references of the *wrong* clusters of a chunk; return if any could be."""
    per = draft.image.geometry.refcounts_per_block
    planned = False
    for block in np.unique(np.flatnonzero(wrong) // per).tolist():
        part = slice(block * per, (block + 1) * per)
        at = np.flatnonzero(wrong[part]) + block * per
        values = chunk.counted
        if not stored[part].any():
            at, values = _with_unknown(draft, chunk, at, part)
        if write_refcounts(draft, chunk.start + at, values[at]):
            _note(draft, chunk.start + at, stored[at], values[at])
            draft.raised.append(chunk.start + at[stored[at] < chunk.counted[at]])
            planned = True
    return planned


def _with_unknown(
    draft: Draft, chunk: Chunk, at: IntArray, part: slice
) -> tuple[IntArray, AnyArray]:
    """Return what to write to a block that was all zeros: clusters that hold something count 1."""
    free = np.flatnonzero(chunk.counted[part] == 0) + part.start
    held = that_hold_something(draft, chunk.start + free) - chunk.start
    values = chunk.counted.copy()
    values[held] = 1
    return np.union1d(at, held), values


def write_refcounts(draft: Draft, clusters: IntArray, values: AnyArray) -> bool:
    """Plan refcounts of *clusters*, all of one block; False where it must not be written."""
    geometry = draft.image.geometry
    block = int(clusters[0]) // geometry.refcounts_per_block
    offset = draft.made.stored.block_offset(block)
    if not offset or offset + geometry.cluster_size > draft.overlay.size + geometry.cluster_size:
        return False
    cluster = offset >> geometry.cluster_bits
    tally = draft.made.tally
    shared = cluster < tally.size and int(tally.counted[cluster]) != 1
    if shared or not may_write(draft, np.array([cluster]))[0]:
        return False
    raw = np.frombuffer(draft.overlay.read(offset, geometry.cluster_size), np.uint8)
    counts = unpack_refcounts(raw, geometry.refcount_order).copy()
    counts[clusters % geometry.refcounts_per_block] = values
    if offset + geometry.cluster_size > draft.overlay.size:
        draft.overlay.grow(offset + geometry.cluster_size)
    draft.write(offset, pack_refcounts(counts, geometry.refcount_order).tobytes())
    return True


def _note(draft: Draft, clusters: IntArray, stored: AnyArray, counted: AnyArray) -> None:
    first, count, starts = runs(clusters, stored, counted)
    size = draft.image.geometry.cluster_size
    rows = zip(
        first.tolist(),
        count.tolist(),
        stored[starts].tolist(),
        counted[starts].tolist(),
        strict=True,
    )
    for low, units, old, new in rows:
        problem = _kind(old, new)
        last = draft.changes[-1] if draft.changes else None
        values = problem.code, str(old), str(new)
        if last and (last.code, last.old, last.new) == values and _goes_on(last, low, size):
            both = last.units + units
            draft.changes[-1] = last._replace(text=_words(low - last.units, both), units=both)
            continue
        change = Change(problem.code, _words(low, units), low * size, units, str(old), str(new))
        draft.note(change)


def _goes_on(last: Change, low: int, size: int) -> bool:
    return last.host == (low - last.units) * size


def _kind(old: int, new: int) -> Problem:
    if old > new:
        return refcounts.TOO_HIGH if new else refcounts.LEAKED
    return refcounts.TOO_LOW if old else refcounts.USED_BUT_FREE


def _words(first: int, count: int) -> str:
    if count == 1:
        return f"refcount of host cluster {first}"
    return f"refcounts of host clusters {first} to {first + count - 1}"


def _clear_behind(draft: Draft) -> bool:
    """Clear the refcounts of clusters behind the end of the file."""
    planned = False
    size = draft.made.tally.size
    for block, counts in _blocks_behind(draft):
        start = block * draft.image.geometry.refcounts_per_block
        at = np.flatnonzero(counts) + start
        at = at[at >= size]
        if at.size and write_refcounts(draft, at, np.zeros(at.size, np.int64)):
            text = f"refcounts of {at.size} clusters behind the end of the file"
            draft.note(Change(refcounts.BEHIND_END.code, text, None, at.size, "set", "0"))
            planned = True
    return planned


def _blocks_behind(draft: Draft) -> Iterator[tuple[int, AnyArray]]:
    geometry, stored = draft.image.geometry, draft.made.stored
    first = draft.made.tally.size // geometry.refcounts_per_block
    for block in np.flatnonzero(draft.made.reftable.offset > 0).tolist():
        offset = stored.block_offset(block) if block >= first else None
        if offset and offset < geometry.file_length:
            raw = np.frombuffer(draft.overlay.read(offset, geometry.cluster_size), np.uint8)
            yield block, unpack_refcounts(raw, geometry.refcount_order)
