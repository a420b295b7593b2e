"""Section guest: where each guest cluster of a layer is, in guest order (format 5, 6)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from qfix.arrays import NO_INTS
from qfix.dump.lines import BLOCK, Form, filled, heading, remark
from qfix.dump.runs import Runs, blocks_of, fold, joined
from qfix.dump.tables import DATA, NOTHING, PACKED, SUBCLUSTERS, ZERO_ALLOCATED, ZEROS, kinds_of
from qfix.layout.header import MAX_FILE_OFFSET
from qfix.problems import tables as problems
from qfix.recount.batches import Batch, read_batches
from qfix.recount.entries import decode
from qfix.recount.faults import find_faults
from qfix.report.rows import layer_name, layer_title

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.arrays import AnyArray, IntArray
    from qfix.dump.lines import Wanted
    from qfix.recount.l2 import L2Tables

U = np.uint64
GUEST = Form.of(
    "guest",
    "guest %#14x to %#14x  %14d bytes  %s%s",
    (
        ("layer", '"%s"'),
        ("start", "%d"),
        ("length", "%d"),
        ("kind", '"%s"'),
        ("host-offset", "%s"),
    ),
)
DAMAGED = 5
MOST_UNITS = 1 << 19
"""Clusters, or subclusters, that are looked at together, if no table has more."""
KINDS = ("unallocated", "zero", "zero-allocated", "data", "compressed", "damaged")
HARMLESS = (
    problems.L2_RESERVED_BITS,
    problems.COMPRESSED_COPIED,
    problems.BIT_0_RESERVED,
    problems.COPIED_WITHOUT_OFFSET,
)
"""What is wrong with an entry without leading the guest astray."""


def guest_lines(wanted: Wanted) -> Iterator[str]:
    """Yield where the guest's disk is, of the active layer unless others are asked for."""
    image = wanted.image
    where = "where it is in the data file" if image.geometry.data_file else "where it is"
    columns = f"guest offsets, first and last byte, length, {where}"
    yield from heading(wanted, "guest", "where the guest's data is", columns)
    layers = wanted.chosen(1 + len(image.snapshots)) if wanted.named else [0]
    for layer in layers:
        yield from remark(wanted, layer_title(image, layer))
        for block in joined(_whole_disk(wanted, layer)):
            for part in blocks_of(block, BLOCK):
                yield _block(wanted, layer, part)


def _disk_size(wanted: Wanted, layer: int) -> int:
    """Return where the disk of a layer ends, in whole sectors that can be counted."""
    return min(_stated_size(wanted, layer), MAX_FILE_OFFSET) // 512 * 512


def _stated_size(wanted: Wanted, layer: int) -> int:
    size = wanted.image.geometry.sectors_size
    if layer == 0 or layer > len(wanted.image.snapshots):
        return size
    told = wanted.image.snapshots[layer - 1].disk_size
    return size if told is None else told


def _whole_disk(wanted: Wanted, layer: int) -> Iterator[Runs]:
    """Yield the runs of a layer from 0 to the end of its disk; what no table maps included."""
    end, at = _disk_size(wanted, layer), 0
    for block in _mapped(wanted, layer, end):
        runs = block.part((block.same[0] != NOTHING) & (block.start < end))
        if not runs.start.size:
            continue
        runs = runs._replace(end=np.minimum(runs.end, end))
        yield _filled_up(runs, at)
        at = int(runs.end[-1])
    if at < end:
        yield _nothing(np.array([at]), np.array([end]))


def _filled_up(runs: Runs, start: int) -> Runs:
    """Return runs with what is unallocated between them, from *start* on."""
    before = np.concatenate(([start], runs.end[:-1]))
    gap = np.flatnonzero(before < runs.start)
    gaps = _nothing(before[gap], runs.start[gap])
    order = np.argsort(np.concatenate((runs.start, gaps.start)), kind="stable")
    whole = Runs(
        np.concatenate((runs.start, gaps.start)),
        np.concatenate((runs.end, gaps.end)),
        (np.concatenate((runs.same[0], gaps.same[0])),),
        np.concatenate((runs.step, gaps.step)),
    )
    return whole.part(order)


def _nothing(start: IntArray, end: IntArray) -> Runs:
    return Runs(start, end, (np.full(start.size, NOTHING, np.int8),), np.full(start.size, -1))


def _mapped(wanted: Wanted, layer: int, end: int) -> Iterator[Runs]:
    """Yield the runs of bytes that the L1 entries of a layer lead to before *end*, in order."""
    entries, geometry = wanted.made.entries, wanted.image.geometry
    first = {one: owner for owner, all_ in entries.sharers.items() for one in all_}
    rows = np.flatnonzero(entries.layer == first.get(layer, layer))
    index, target = entries.index[rows].astype(np.int64), entries.target[rows]
    inside = index < -(-end // geometry.bytes_per_l1_entry)
    index, target = index[inside], target[inside]
    known = wanted.made.tables
    order = np.argsort(known.offset, kind="stable")
    sound = (target > 0) & (target % geometry.cluster_size == 0) & (target < geometry.file_length)
    sound &= np.isin(target, known.offset)
    reach = geometry.bytes_per_l1_entry
    edges = (np.flatnonzero(np.diff(sound)) + 1).tolist()
    for low, high in pairwise((0, *edges, index.size)):
        part = index[low:high]
        if low < high and sound[low]:
            at = order[np.searchsorted(known.offset, target[low:high], sorter=order)]
            yield from _tables(wanted, known.part(at), part)
            continue
        part = part[target[low:high] > 0]
        kind = np.full(part.size, DAMAGED, np.int8)
        yield Runs(part * reach, (part + 1) * reach, (kind,), np.full(part.size, -1))


def _tables(wanted: Wanted, tables: L2Tables, index: IntArray) -> Iterator[Runs]:
    """Yield the runs of the tables that L1 entries of some indexes lead to.

    One that many entries lead to, as only damage makes it, is looked at once for neighbours, and
    not at all if it maps nothing.
    """
    kept = ~tables.hole
    if np.unique(tables.offset).size < tables.offset.size:
        kept &= ~np.isin(tables.offset, _empty(wanted, tables))
    tables, index = tables.part(kept), index[kept]
    heads = np.flatnonzero(np.diff(tables.offset, prepend=-1))
    ends, done = np.append(heads[1:], index.size), 0
    for batch in read_batches(wanted.image, tables.part(heads)):
        count = batch.tables.offset.size
        first, last = heads[done : done + count], ends[done : done + count]
        done += count
        units = batch.entries.shape[1] * (1 if batch.bitmaps is None else SUBCLUSTERS)
        step = max(1, MOST_UNITS // units)
        step = step if (last == first + 1).all() else 1
        for at in range(0, count, step):
            few = slice(at, at + step)
            bitmaps = None if batch.bitmaps is None else batch.bitmaps[few]
            part = Batch(batch.tables.part(few), batch.entries[few], bitmaps, [])
            runs = _batch_runs(wanted, part, index[first[few]])
            yield runs
            again = index[int(first[at]) + 1 : int(last[at])]
            if again.size:
                yield from _repeated(wanted, runs, int(index[first[at]]), again)


def _empty(wanted: Wanted, tables: L2Tables) -> IntArray:
    """Return the offsets of the tables that map nothing."""
    distinct = np.unique(tables.offset, return_index=True)[1]
    found = []
    for batch in read_batches(wanted.image, tables.part(distinct)):
        used = batch.entries.any(axis=1)
        if batch.bitmaps is not None:
            used |= batch.bitmaps.any(axis=1)
        found.append(batch.tables.offset[~used])
    return np.concatenate([NO_INTS, *found])


def _repeated(wanted: Wanted, runs: Runs, of: int, index: IntArray) -> Iterator[Runs]:
    """Yield the runs of a table of L1 index *of* as those of other indexes that lead there too."""
    reach = wanted.image.geometry.bytes_per_l1_entry
    runs = runs.part(runs.same[0] != NOTHING)
    step = max(1, MOST_UNITS // max(1, runs.start.size))
    for at in range(0, index.size if runs.start.size else 0, step):
        shift = ((index[at : at + step] - of) * reach)[:, None]
        many = shift.size
        yield Runs(
            (runs.start[None, :] + shift).ravel(),
            (runs.end[None, :] + shift).ravel(),
            (np.tile(runs.same[0], many),),
            np.tile(runs.step, many),
        )


def _batch_runs(wanted: Wanted, batch: Batch, index: IntArray) -> Runs:
    """Return the runs of some tables; units are clusters, or subclusters where there are such.

    A compressed cluster has no step, for its data stands anywhere.
    """
    geometry = wanted.image.geometry
    kind, host = _columns(wanted, batch)
    unit = geometry.cluster_size
    if batch.bitmaps is not None:
        kind, host = _subclusters(batch, kind, host, unit // SUBCLUSTERS)
        unit //= SUBCLUSTERS
    per = geometry.bytes_per_l1_entry // unit
    row = np.repeat(np.arange(index.size), per)
    runs = fold(0, (kind, row), np.where(host >= 0, host // unit, -1)).scaled(1)
    shift = (index[runs.same[1]] - runs.same[1]) * per
    placed = runs._replace(start=runs.start + shift, end=runs.end + shift, same=runs.same[:1])
    return placed.scaled(unit)


def _columns(wanted: Wanted, batch: Batch) -> tuple[AnyArray, IntArray]:
    """Return kind and host offset of each entry of some tables, -1 for none."""
    entries = decode(wanted.image, batch)
    kind = np.full(batch.entries.size, NOTHING, np.int8)
    host = np.full(batch.entries.size, -1)
    told = kinds_of(wanted.image, entries)
    wrong = np.zeros(told.size, np.bool_)
    for problem, faulty, _ in find_faults(wanted.image, entries):
        if problem not in HARMLESS:
            wrong |= faulty
    told[wrong] = DAMAGED
    at = entries.row * batch.entries.shape[1] + entries.index
    placed = entries.standard & ~wrong
    kind[at] = told
    host[at[placed]] = entries.offset[placed]
    return kind, host


def _subclusters(
    batch: Batch, kind: AnyArray, host: IntArray, unit: int
) -> tuple[AnyArray, IntArray]:
    """Return the columns of entries spread over their subclusters."""
    assert batch.bitmaps is not None  # noqa: S101  (the caller has looked)
    bitmap = batch.bitmaps.reshape(-1)
    bit = np.arange(SUBCLUSTERS, dtype=np.uint64)
    alloc = ((bitmap[:, None] >> bit) & U(1)) != 0
    zeros = ((bitmap[:, None] >> (bit + U(SUBCLUSTERS))) & U(1)) != 0
    whole = np.isin(kind, (PACKED, DAMAGED))[:, None]
    placed = (host >= 0)[:, None]
    spread = np.select(
        [whole, alloc, zeros & placed, zeros],
        [kind[:, None], DATA, ZERO_ALLOCATED, ZEROS],
        NOTHING,
    )
    held = placed & ~whole & (alloc | zeros)
    place = np.where(held, host[:, None] + np.arange(SUBCLUSTERS) * unit, -1)
    return spread.astype(np.int8).ravel(), place.ravel()


def _block(wanted: Wanted, layer: int, runs: Runs) -> str:
    kind, host = runs.same[0].tolist(), runs.step.tolist()
    start, length = runs.start.tolist(), (runs.end - runs.start).tolist()
    words = [KINDS[at] for at in kind]
    if wanted.json:
        place = ["null" if at < 0 else at for at in host]
        return filled(GUEST.json, ([layer_name(layer)] * len(kind), start, length, words, place))
    backing = wanted.image.head.backing_name is not None
    none = " (the backing file shows)" if backing else " (reads as zeros)"
    where = [
        none if what == NOTHING else f" at {at:#x}" if at >= 0 else ""
        for what, at in zip(kind, host, strict=True)
    ]
    return filled(GUEST.text, (start, (runs.end - 1).tolist(), length, words, where))
