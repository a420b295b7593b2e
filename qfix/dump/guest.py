"""Section guest: where each guest cluster of a layer is, in guest order (format 5, 6)."""

from __future__ import annotations

from itertools import islice, pairwise
from typing import TYPE_CHECKING

import numpy as np

from qfix.dump.lines import BLOCK, Form, filled, heading, remark
from qfix.dump.runs import Run, fold, merged
from qfix.dump.tables import DATA, NOTHING, PACKED, SUBCLUSTERS, ZERO_ALLOCATED, ZEROS, kinds_of
from qfix.problems import tables as problems
from qfix.recount.batches import read_batches
from qfix.recount.entries import decode
from qfix.recount.faults import find_faults
from qfix.report.rows import layer_name, layer_title

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.arrays import AnyArray, IntArray
    from qfix.dump.lines import Wanted
    from qfix.recount.batches import Batch
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
RESERVED = 6
"""Subclusters that hold nothing, of a cluster that has its place in the file."""
KINDS = ("unallocated", "zero", "zero-allocated", "data", "compressed", "damaged", "unallocated")
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
    columns = "guest offsets, first and last byte, length, where it is"
    yield from heading(wanted, "guest", "where the guest's data is", columns)
    layers = [0] if wanted.layers is None else wanted.chosen(1 + len(image.snapshots))
    for layer in layers:
        yield from remark(wanted, layer_title(image, layer))
        runs = merged(_whole_disk(wanted, layer))
        while block := list(islice(runs, BLOCK)):
            yield _block(wanted, layer, block)


def _disk_size(wanted: Wanted, layer: int) -> int:
    size = wanted.image.geometry.sectors_size
    if layer == 0 or layer > len(wanted.image.snapshots):
        return size
    told = wanted.image.snapshots[layer - 1].disk_size
    return size if told is None else told // 512 * 512


def _whole_disk(wanted: Wanted, layer: int) -> Iterator[Run]:
    """Yield the runs of a layer from 0 to the end of its disk; what no table maps included."""
    end = _disk_size(wanted, layer)
    at = 0
    for run in _mapped(wanted, layer):
        if run.start >= end:
            break
        if run.start > at:
            yield Run(at, run.start, (NOTHING,), (-1,))
        yield run._replace(end=min(run.end, end))
        at = min(run.end, end)
    if at < end:
        yield Run(at, end, (NOTHING,), (-1,))


def _mapped(wanted: Wanted, layer: int) -> Iterator[Run]:
    """Yield the runs of bytes that the L1 entries of a layer lead to, in guest order."""
    entries, geometry = wanted.made.entries, wanted.image.geometry
    first = {one: owner for owner, all_ in entries.sharers.items() for one in all_}
    rows = np.flatnonzero(entries.layer == first.get(layer, layer))
    index, target = entries.index[rows].astype(np.int64), entries.target[rows]
    sound = (target > 0) & (target % geometry.cluster_size == 0) & (target < geometry.file_length)
    known = wanted.made.tables
    order = np.argsort(known.offset, kind="stable")
    reach = geometry.bytes_per_l1_entry
    edges = np.flatnonzero(np.diff(sound, prepend=~sound[:1])) if rows.size else rows
    for low, high in pairwise([*edges.tolist(), rows.size]):
        if not sound[low]:
            damaged = (at for at, to in zip(index[low:high], target[low:high], strict=False) if to)
            for at in damaged:
                yield Run(int(at) * reach, (int(at) + 1) * reach, (DAMAGED,), (-1,))
            continue
        at = order[np.searchsorted(known.offset, target[low:high], sorter=order)]
        yield from _tables(wanted, known.part(at), index[low:high])


def _tables(wanted: Wanted, tables: L2Tables, index: IntArray) -> Iterator[Run]:
    kept, done = index[~tables.hole], 0
    for batch in read_batches(wanted.image, tables):
        count = batch.tables.offset.size
        yield from _batch_runs(wanted, batch, kept[done : done + count])
        done += count


def _batch_runs(wanted: Wanted, batch: Batch, index: IntArray) -> Iterator[Run]:
    """Yield the runs of some tables; units are clusters, or subclusters where there are such."""
    geometry = wanted.image.geometry
    kind, host = _columns(wanted, batch)
    unit = geometry.cluster_size
    if batch.bitmaps is not None:
        kind, host = _subclusters(batch, kind, host, unit // SUBCLUSTERS)
        unit //= SUBCLUSTERS
    per = geometry.bytes_per_l1_entry // unit
    steps = np.where(host >= 0, host // unit, -1)
    odd = np.where(host >= 0, host % unit, 0)
    for row, at in enumerate(index.tolist()):
        part = slice(row * per, (row + 1) * per)
        start = at * per
        for run in fold(start, [kind[part], odd[part]], [steps[part]]):
            offset = run.steps[0] * unit + run.same[1] if run.steps[0] >= 0 else -1
            yield Run(run.start * unit, run.end * unit, run.same[:1], (offset,))


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
        [whole, alloc, zeros & placed, zeros, placed],
        [kind[:, None], DATA, ZERO_ALLOCATED, ZEROS, RESERVED],
        NOTHING,
    )
    place = np.where(placed & ~whole, host[:, None] + np.arange(SUBCLUSTERS) * unit, -1)
    return spread.astype(np.int8).ravel(), place.ravel()


def _block(wanted: Wanted, layer: int, runs: list[Run]) -> str:
    backing = wanted.image.head.backing_name is not None
    rows: list[tuple[object, ...]] = []
    for start, end, (kind,), (host,) in runs:
        if wanted.json:
            place = "null" if host < 0 else str(host)
            rows.append((layer_name(layer), start, end - start, KINDS[kind], place))
            continue
        where = f" at {host:#x}" if host >= 0 and kind != RESERVED else ""
        if kind in (NOTHING, RESERVED):
            where = " (the backing file shows)" if backing else " (reads as zeros)"
        rows.append((start, end - 1, end - start, KINDS[kind], where))
    return filled(GUEST.json if wanted.json else GUEST.text, list(zip(*rows, strict=True)))
