"""The fast way through L2 tables that are sound: whole batches in a few array operations."""

from dataclasses import dataclass

import numpy as np

from qfix.arrays import AnyArray, IntArray, Words
from qfix.image import Image
from qfix.layout.tables import COPIED, OFFSET_MASK
from qfix.recount.batches import Batch, by_row
from qfix.recount.l2 import L2Tables
from qfix.recount.tally import ACTIVE, COPIED_CLEAR, COPIED_SET, DATA, INACTIVE, Tally

U = np.uint64
MOST_RUNS = 256


@dataclass(frozen=True, slots=True)
class Plain:
    """The nonzero entries of a batch, in order.

    `used` counts those of each table; `breaks` are where an entry is not one cluster behind the
    one before it, `borders` where a table ends.
    """

    tables: L2Tables
    flat: Words
    used: IntArray
    breaks: IntArray
    borders: IntArray


def count_plain(image: Image, tally: Tally, batch: Batch) -> bool:
    """Count a batch of sound tables of standard entries.

    Returns False, nothing counted, where it is not such a batch.
    """
    tables, geometry = batch.tables, image.geometry
    if geometry.data_file or tables.follows.any() or tables.several.any():
        return False
    if not _plain_bitmaps(batch):
        return False
    flat = batch.entries.reshape(-1)
    used = np.full(tables.offset.size, geometry.l2_entries)
    if not flat.all():
        used = np.count_nonzero(batch.entries, axis=1)
        flat = flat[flat != 0]
    if flat.size:
        breaks = np.flatnonzero(flat[1:] - flat[:-1] != U(geometry.cluster_size)) + 1
        plain = Plain(tables, flat, used, breaks, np.cumsum(used))
        claim = _claim_runs if breaks.size <= MOST_RUNS else _claim_all
        if not claim(image, tally, plain):
            return False
        offset = flat & U(OFFSET_MASK)
        breaks = breaks[offset[breaks] - offset[breaks - 1] != U(geometry.cluster_size)]
        rows = np.searchsorted(plain.borders, breaks, "right")
        jumps = by_row(rows[~np.isin(breaks, plain.borders)], used.size)
        _add_statistics(tally, tables, used, jumps, geometry.l2_entries)
    else:
        _add_statistics(tally, tables, used, used, geometry.l2_entries)
    note_empty(image, tally, batch, used)
    return True


def note_empty(image: Image, tally: Tally, batch: Batch, used: IntArray) -> None:
    """Note active tables of the disk (not of VM state) that hold nothing at all."""
    if used.all():
        return
    tables = batch.tables
    suspects = (tables.active_visits > 0) & (tables.index < image.geometry.needed_l1_entries)
    suspects &= (used == 0) & (tables.offset % image.geometry.cluster_size == 0)
    if batch.bitmaps is not None:
        suspects &= ~batch.bitmaps.any(axis=1)
    suspects[batch.failed] = False
    tally.empty_tables.extend(tables.offset[suspects].tolist())


def owner_bits(tables: L2Tables) -> IntArray:
    """Return the layers bits (active, inactive) of the owners of each table's clusters."""
    active = (tables.active_visits > 0).astype(np.int64) * ACTIVE
    inactive = (tables.snapshot_visits > 0).astype(np.int64) * INACTIVE
    return active | inactive


def _plain_bitmaps(batch: Batch) -> bool:
    """Tell whether no subcluster bitmap contradicts itself or its entry."""
    if batch.bitmaps is None:
        return True
    contradict = batch.bitmaps & (batch.bitmaps >> U(32)) & U(0xFFFFFFFF)
    homeless = (batch.entries == 0) & ((batch.bitmaps & U(0xFFFFFFFF)) != 0)
    return not contradict.any() and not homeless.any()


def _uniform(tables: L2Tables) -> bool:
    """Tell whether all tables are visited equally often by the same layers."""
    active, inactive = tables.active_visits, tables.snapshot_visits
    return bool((active == active[0]).all() and (inactive == inactive[0]).all())


def _odd_bits(image: Image) -> np.uint64:
    """Return the bits that no sound standard entry has set."""
    aligned = OFFSET_MASK & ~(image.geometry.cluster_size - 1)
    return U(~(aligned | COPIED) & (1 << 64) - 1)


def _claim_runs(image: Image, tally: Tally, plain: Plain) -> bool:
    """Claim few contiguous runs, a slice each."""
    size, breaks, borders = image.geometry.cluster_size, plain.breaks, plain.borders
    if not _uniform(plain.tables):
        breaks = np.union1d(breaks, borders[(borders > 0) & (borders < plain.flat.size)])
    starts = np.concatenate(([0], breaks))
    counts = np.diff(np.append(starts, plain.flat.size))
    heads = plain.flat[starts]
    offsets = (heads & U(OFFSET_MASK)).astype(np.int64)
    last = offsets + (counts - 1) * size
    sound = ((heads & _odd_bits(image)) == 0) & (offsets > 0)
    if not (sound & (last < image.geometry.file_length)).all():
        return False
    row = np.searchsorted(borders, starts, "right")
    for first, count, times, owners, copied in zip(
        (offsets >> image.geometry.cluster_bits).tolist(),
        counts.tolist(),
        plain.tables.visits[row].tolist(),
        owner_bits(plain.tables)[row].tolist(),
        (heads >> U(63)).tolist(),
        strict=True,
    ):
        tally.claim_run(first, count, times, _bits(owners, copied=bool(copied)))
    return True


def _claim_all(image: Image, tally: Tally, plain: Plain) -> bool:
    """Claim entries in any order, all at once."""
    if not _uniform(plain.tables) or np.bitwise_or.reduce(plain.flat) & _odd_bits(image):
        return False
    copied = (plain.flat >> U(63)).astype(np.bool_)
    cluster: AnyArray = (plain.flat & U(OFFSET_MASK)) >> U(image.geometry.cluster_bits)
    if not cluster.all() or int(cluster.max()) >= image.geometry.host_clusters:
        return False
    owners, times = int(owner_bits(plain.tables)[0]), int(plain.tables.visits[0])
    if copied.all() or not copied.any():
        tally.claim_each(cluster, times, _bits(owners, copied=bool(copied[0])))
    else:
        tally.claim_each(cluster[copied], times, _bits(owners, copied=True))
        tally.claim_each(cluster[~copied], times, _bits(owners, copied=False))
    return True


def _bits(owners: int, *, copied: bool) -> int:
    if not owners & ACTIVE:
        return DATA | owners
    return DATA | owners | (COPIED_SET if copied else COPIED_CLEAR)


def _add_statistics(
    tally: Tally, tables: L2Tables, used: IntArray, fragmented: IntArray, width: int
) -> None:
    active = tables.active_visits
    tally.statistics.allocated += int((used * active).sum())
    tally.statistics.fragmented += int((fragmented * active).sum())
    for visits, counts in zip((active, tables.snapshot_visits), tally.statistics.l2, strict=True):
        counts.used += int((used * visits).sum())
        counts.unused += int(((width - used) * visits).sum())
