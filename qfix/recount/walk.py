"""The walk over L2 tables: counts what they lead to and finds damaged entries (format 5, 6)."""

import numpy as np

from qfix.arrays import BoolArray, IntArray
from qfix.image import Image
from qfix.layout.tables import COPIED, OFFSET_MASK
from qfix.problems import header as header_problems
from qfix.problems import tables as problems
from qfix.problems.model import Problem
from qfix.recount.batches import Batch, by_row, read_batches
from qfix.recount.entries import Entries, decode
from qfix.recount.faults import find_faults
from qfix.recount.layers import L2Tables
from qfix.recount.tally import (
    ACTIVE,
    COMPRESSED,
    COPIED_CLEAR,
    COPIED_SET,
    DATA,
    INACTIVE,
    EntryStatistics,
    Tally,
)

U = np.uint64
MOST_RUNS = 256


def walk_l2_tables(image: Image, tally: Tally, tables: L2Tables) -> None:
    """Count every reference of every table, and find damaged entries."""
    for batch in read_batches(image, tables):
        if batch.failed:
            _report_unreadable(image, tally, batch)
        _note_empty(tally, image, batch)
        together = batch.tables.follows.copy()
        together[:-1] |= batch.tables.follows[1:]
        for part in (batch.part(~together), batch.part(together)) if together.any() else (batch,):
            if part.tables.offset.size and not _count_runs(image, tally, part):
                _count_entries(image, tally, part)


def owner_bits(tables: L2Tables) -> IntArray:
    """Return the layers bits (active, inactive) of the owners of each table's clusters."""
    active = np.where(tables.active_visits > 0, ACTIVE, 0)
    return active | np.where(tables.snapshot_visits > 0, INACTIVE, 0)


def _report_unreadable(image: Image, tally: Tally, batch: Batch) -> None:
    offsets = batch.tables.offset[batch.failed]
    tally.check_errors += int(batch.tables.visits[batch.failed].sum())
    tally.found.add(
        header_problems.UNREADABLE,
        first=offsets >> image.geometry.cluster_bits,
        host=offsets,
        length=image.geometry.cluster_size,
        what="an L2 table",
    )


def _note_empty(tally: Tally, image: Image, batch: Batch) -> None:
    """Note active tables of the disk (not of VM state) that hold nothing at all."""
    tables = batch.tables
    suspects = (tables.active_visits > 0) & (tables.index < image.geometry.needed_l1_entries)
    suspects &= ~batch.entries.any(axis=1)
    if batch.bitmaps is not None:
        suspects &= ~batch.bitmaps.any(axis=1)
    suspects[batch.failed] = False
    tally.empty_tables.extend(tables.offset[suspects].tolist())


def _count_runs(image: Image, tally: Tally, batch: Batch) -> bool:
    """Count a batch of sound tables whose clusters lie in few contiguous runs.

    Returns False, nothing counted, where it is not such a batch.
    """
    geometry = image.geometry
    if geometry.data_file or batch.tables.follows.any() or batch.tables.several.any():
        return False
    if batch.bitmaps is not None and not _plain_bitmaps(batch):
        return False
    flat = batch.entries.reshape(-1)
    used = np.full(batch.tables.offset.size, geometry.l2_entries)
    if not flat.all():
        used = np.count_nonzero(batch.entries, axis=1)
        flat = flat[flat != 0]
    if not flat.size:
        _add_statistics(tally, batch.tables, used, np.zeros_like(used), geometry.l2_entries)
        return True
    breaks = np.flatnonzero(flat[1:] - flat[:-1] != U(geometry.cluster_size)) + 1
    if breaks.size > MOST_RUNS:
        return False
    borders = np.cumsum(used)
    rows = np.searchsorted(borders, breaks, "right")
    inner = by_row(rows[~np.isin(breaks, borders)], used.size)
    if not _uniform(batch.tables):
        breaks = np.union1d(breaks, borders[(borders > 0) & (borders < flat.size)])
    starts = np.concatenate(([0], breaks))
    counts = np.diff(np.append(starts, flat.size))
    heads = flat[starts]
    offsets = (heads & U(OFFSET_MASK)).astype(np.int64)
    if not _sound_runs(image, heads, offsets, counts):
        return False
    _claim_runs(image, tally, batch.tables, starts, heads, counts, borders)
    _add_statistics(tally, batch.tables, used, inner, geometry.l2_entries)
    return True


def _plain_bitmaps(batch: Batch) -> bool:
    """Tell whether no subcluster bitmap contradicts itself or its entry."""
    assert batch.bitmaps is not None
    contradict = batch.bitmaps & (batch.bitmaps >> U(32)) & U(0xFFFFFFFF)
    homeless = (batch.entries == 0) & ((batch.bitmaps & U(0xFFFFFFFF)) != 0)
    return not contradict.any() and not homeless.any()


def _uniform(tables: L2Tables) -> bool:
    """Tell whether all tables are visited equally often by the same layers."""
    first = (tables.active_visits[0], tables.snapshot_visits[0])
    return bool(
        (tables.active_visits == first[0]).all() and (tables.snapshot_visits == first[1]).all()
    )


def _sound_runs(image: Image, heads: object, offsets: IntArray, counts: IntArray) -> bool:
    size = image.geometry.cluster_size
    plain = np.asarray(heads, np.uint64) & U(~(OFFSET_MASK | COPIED) & (1 << 64) - 1)
    last = offsets + (counts - 1) * size
    sound = (plain == 0) & (offsets > 0) & (offsets % size == 0)
    return bool((sound & (last < image.geometry.file_length)).all())


def _claim_runs(
    image: Image,
    tally: Tally,
    tables: L2Tables,
    starts: IntArray,
    heads: object,
    counts: IntArray,
    borders: IntArray,
) -> None:
    words = np.asarray(heads, np.uint64)
    first = ((words & U(OFFSET_MASK)) >> U(image.geometry.cluster_bits)).tolist()
    copied = (words >> U(63)).tolist()
    row = np.searchsorted(borders, starts, "right")
    layers = owner_bits(tables)[row].tolist()
    times = tables.visits[row].tolist()
    for at, count in enumerate(counts.tolist()):
        bits = DATA | layers[at]
        if bits & ACTIVE:
            bits |= COPIED_SET if copied[at] else COPIED_CLEAR
        tally.claim_run(first[at], count, times[at], bits)


def _add_statistics(
    tally: Tally, tables: L2Tables, used: IntArray, fragmented: IntArray, width: int
) -> None:
    active = tables.active_visits
    tally.statistics.allocated += int((used * active).sum())
    tally.statistics.fragmented += int((fragmented * active).sum())
    for visits, counts in zip((active, tables.snapshot_visits), tally.statistics.l2, strict=True):
        counts.used += int((used * visits).sum())
        counts.unused += int(((width - used) * visits).sum())


def _count_entries(image: Image, tally: Tally, batch: Batch) -> None:
    """Count any batch, entry by entry, all at once."""
    entries = decode(image, batch)
    visits = batch.tables.visits[entries.row]
    standard = _check_entries(image, tally, batch, entries, visits)
    _count_statistics(image, tally, batch, entries, standard)
    if not image.geometry.data_file:
        _claim_standard(image, tally, batch, entries, standard)
        _claim_compressed(image, tally, batch, entries)


def _claim_standard(
    image: Image, tally: Tally, batch: Batch, entries: Entries, standard: BoolArray
) -> None:
    size, bits = image.geometry.cluster_size, image.geometry.cluster_bits
    inside = standard & (entries.offset < image.geometry.file_length)
    tally.leads_outside |= bool((standard & ~inside).any())
    owners = DATA | owner_bits(batch.tables)[entries.row]
    flags = np.where(entries.copied, COPIED_SET, COPIED_CLEAR)
    owners = np.where(owners & ACTIVE, owners | flags, owners)
    fresh = ~_repeated(batch, entries)
    cluster = entries.offset >> bits
    _claim_alike(tally, batch, entries, inside, cluster, owners, fresh)
    second = inside & (entries.offset % size != 0)
    if second.any():
        reach = (entries.offset + size - 1) >> bits
        owners = owners & ~(COPIED_SET | COPIED_CLEAR)
        _claim_alike(tally, batch, entries, second, reach, owners, fresh)


def _repeated(batch: Batch, entries: Entries) -> BoolArray:
    """Tell which entries lead where the same entry of the table before them, of the same L1
    index, leads too: the same guest cluster in another layer."""
    repeated = np.zeros(batch.entries.shape, np.bool_)
    offsets = batch.entries & U(OFFSET_MASK)
    follows = batch.tables.follows[1:, None]
    repeated[1:] = (offsets[1:] == offsets[:-1]) & follows
    repeated |= batch.tables.several[:, None]
    chosen: BoolArray = repeated[entries.row, entries.index]
    return chosen


def _claim_alike(
    tally: Tally,
    batch: Batch,
    entries: Entries,
    chosen: BoolArray,
    cluster: IntArray,
    owners: IntArray,
    fresh: BoolArray,
) -> None:
    """Claim *cluster* of the *chosen* entries, those with equal owners and visits at once."""
    visits = batch.tables.visits[entries.row]
    key = (visits << 9) | (owners << 1) | ~fresh
    keys = key[chosen]
    clusters = cluster[chosen]
    for value in np.unique(keys).tolist():
        alike = clusters[keys == value]
        tally.claim_each(alike, value >> 9, value >> 1 & 0xFF, fresh=not value & 1)


def _claim_compressed(image: Image, tally: Tally, batch: Batch, entries: Entries) -> None:
    chosen = entries.compressed & (entries.bitmap == 0)
    if not chosen.any():
        return
    size, bits = image.geometry.cluster_size, image.geometry.cluster_bits
    end = entries.offset + entries.length
    chosen &= end - image.geometry.file_length < size
    first = entries.offset >> bits
    count = ((end - 1) >> bits) - first + 1
    owners = COMPRESSED | owner_bits(batch.tables)[entries.row]
    key = ((batch.tables.visits[entries.row] << 8) | owners)[chosen]
    for value in np.unique(key).tolist():
        alike = key == value
        tally.claim_ranges(first[chosen][alike], count[chosen][alike], value >> 8, value & 0xFF)


def _count_statistics(
    image: Image, tally: Tally, batch: Batch, entries: Entries, standard: BoolArray
) -> None:
    rows = batch.tables.offset.size
    active, inactive = batch.tables.active_visits, batch.tables.snapshot_visits
    compressed = entries.compressed & (entries.bitmap == 0)
    if image.geometry.data_file:
        compressed = np.zeros_like(compressed)
    row, offset = entries.row[standard], entries.offset[standard]
    jump = (row[1:] == row[:-1]) & (offset[1:] != offset[:-1] + image.geometry.cluster_size)
    by_table = {
        "standard": by_row(row, rows),
        "compressed": by_row(entries.row[compressed], rows),
        "jumps": by_row(row[1:][jump], rows),
        "zero": by_row(entries.row[entries.zero & ~standard], rows),
        "unaligned": by_row(row[offset % image.geometry.cluster_size != 0], rows),
    }
    packed = by_table["compressed"]
    tally.statistics.allocated += int(((by_table["standard"] + packed) * active).sum())
    tally.statistics.compressed += int((packed * active).sum())
    tally.statistics.fragmented += int(((by_table["jumps"] + packed) * active).sum())
    outside = standard & (entries.offset >= image.geometry.file_length)
    outside &= entries.offset % image.geometry.cluster_size == 0
    invalid = by_row(entries.row[outside], rows) * (not image.geometry.data_file)
    width = image.geometry.l2_entries
    for visits, counts in zip((active, inactive), tally.statistics.l2, strict=True):
        _add_l2_counts(counts, by_table, invalid, visits, width)


def _add_l2_counts(
    counts: EntryStatistics,
    by_table: dict[str, IntArray],
    invalid: IntArray,
    visits: IntArray,
    width: int,
) -> None:
    counts.compressed += int((by_table["compressed"] * visits).sum())
    counts.zero += int((by_table["zero"] * visits).sum())
    counts.unaligned += int((by_table["unaligned"] * visits).sum())
    counts.invalid += int((invalid * visits).sum())
    sound = by_table["standard"] - by_table["unaligned"] - invalid
    counts.used += int((sound * visits).sum())
    taken = by_table["standard"] + by_table["compressed"] + by_table["zero"]
    counts.unused += int(((width - taken) * visits).sum())


def _check_entries(
    image: Image, tally: Tally, batch: Batch, entries: Entries, visits: IntArray
) -> BoolArray:
    """Find damaged entries, count what qemu-img check counts; return what it calls allocated."""
    faults = list(find_faults(image, entries))
    if image.geometry.data_file:
        guest = batch.tables.index[entries.row] * image.geometry.l2_entries + entries.index
        elsewhere = entries.offset != guest * image.geometry.cluster_size
        elsewhere &= entries.offset % image.geometry.cluster_size == 0
        faults.append((problems.DATA_FILE_OFFSET, entries.standard & elsewhere, 0))
    for problem, wrong, counted in faults:
        if not wrong.any():
            continue
        tally.corruptions += counted * int(visits[wrong].sum())
        _report(image, tally, batch, entries, problem, wrong)
    return entries.standard


def _report(
    image: Image, tally: Tally, batch: Batch, entries: Entries, problem: Problem, wrong: BoolArray
) -> None:
    geometry = image.geometry
    row, index = entries.row[wrong], entries.index[wrong]
    guest = batch.tables.index[row] * geometry.l2_entries + index
    tally.found.add(
        problem,
        first=guest,
        index=index,
        l1_index=batch.tables.index[row],
        layer=batch.tables.layer[row],
        table=batch.tables.offset[row],
        host=batch.tables.offset[row] + index * geometry.entry_size,
        entry=entries.entry[wrong],
        target=entries.offset[wrong],
        sectors=(entries.length[wrong] + 511) // 512,
        guest=guest * geometry.cluster_size,
        guest_length=geometry.cluster_size,
    )
