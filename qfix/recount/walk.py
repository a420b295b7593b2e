"""The walk over L2 tables: counts what they lead to and finds damaged entries (format 5, 6)."""

from collections.abc import Callable

import numpy as np

from qfix.arrays import BoolArray, IntArray
from qfix.image import Image
from qfix.layout.tables import OFFSET_MASK
from qfix.problems import header as header_problems
from qfix.problems import tables as problems
from qfix.problems.model import Problem
from qfix.recount.batches import Batch, by_row, read_batches
from qfix.recount.entries import Entries, decode
from qfix.recount.faults import find_faults
from qfix.recount.l1 import ACTIVE_LAYER
from qfix.recount.l2 import L2Tables
from qfix.recount.plain import count_plain, note_empty, owner_bits
from qfix.recount.tally import (
    ACTIVE,
    COMPRESSED,
    COPIED_CLEAR,
    COPIED_SET,
    DATA,
    EntryStatistics,
    Tally,
)

U = np.uint64
MOST_LAGS = 16
LATER = 1 << 62
"""Set in the key of claims by known owners: they come after those of new ones."""


Progress = Callable[[float], None]


def walk_l2_tables(
    image: Image, tally: Tally, tables: L2Tables, tell: Progress | None = None
) -> None:
    """Count every reference of every table, and find damaged entries."""
    done = 0
    headless = headless_layers(image)
    for batch in read_batches(image, tables):
        done += batch.tables.offset.size
        if tell:
            tell(done / tables.offset.size)
        if batch.failed:
            _report_unreadable(image, tally, batch)
        together = batch.tables.follows.copy()
        together[:-1] |= batch.tables.follows[1:]
        for part in (batch.part(~together), batch.part(together)) if together.any() else (batch,):
            if part.tables.offset.size and not count_plain(image, tally, part):
                _count_entries(image, tally, part, headless)


def headless_layers(image: Image) -> IntArray:
    """Return the layers whose L1 table is said to be at offset 0: the header is read as one."""
    offsets = [(item.index + 1, item.entry.l1_table_offset) for item in image.snapshots]
    places = [(ACTIVE_LAYER, image.header.l1_table_offset), *offsets]
    return np.array([layer for layer, offset in places if not offset], np.int64)


def are_tables(image: Image, tables: L2Tables, headless: IntArray) -> BoolArray:
    """Tell which *tables* are such: neither unaligned nor the header, and an L1 table led there.

    QEMU reads the others as tables too, so they are counted; but findings of their entries would
    be of what are no entries. The L1 entry that leads there has a finding of its own.
    """
    placed = (tables.offset > 0) & (tables.offset % image.geometry.cluster_size == 0)
    told: BoolArray = placed & ~np.isin(tables.layer, headless)
    return told


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


def _count_entries(image: Image, tally: Tally, batch: Batch, headless: IntArray) -> None:
    """Count any batch, entry by entry, all at once."""
    note_empty(image, tally, batch, np.count_nonzero(batch.entries, axis=1))
    entries = decode(image, batch)
    standard = _check_entries(image, tally, batch, entries, headless)
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
    """Tell which entries are the same guest cluster in another layer.

    They lead where the same entry of one of the MOST_LAGS tables before them, of the same L1
    index, leads too. Beyond that a needless clash may be noted, which a closer look then clears.
    """
    repeated = np.zeros(batch.entries.shape, np.bool_)
    offsets = batch.entries & U(OFFSET_MASK)
    index = batch.tables.index
    for lag in range(1, min(MOST_LAGS + 1, index.size)):
        rows = np.flatnonzero(index[lag:] == index[:-lag]) + lag
        if not rows.size:
            break
        repeated[rows] |= offsets[rows] == offsets[rows - lag]
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
    key = (visits << 8) | owners | np.where(fresh, 0, LATER)
    keys = key[chosen]
    clusters = cluster[chosen]
    for value in np.unique(keys).tolist():
        alike = clusters[keys == value]
        times = (value & ~LATER) >> 8
        tally.claim_each(alike, times, value & 0xFF, fresh=not value & LATER)


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
    image: Image, tally: Tally, batch: Batch, entries: Entries, headless: IntArray
) -> BoolArray:
    """Find damaged entries, count what qemu-img check counts; return what it calls allocated."""
    faults = list(find_faults(image, entries))
    if image.geometry.data_file:
        guest = batch.tables.index[entries.row] * image.geometry.l2_entries + entries.index
        elsewhere = entries.offset != guest * image.geometry.cluster_size
        elsewhere &= entries.offset % image.geometry.cluster_size == 0
        faults.append((problems.DATA_FILE_OFFSET, entries.standard & elsewhere, 0))
    visits = batch.tables.visits[entries.row]
    told = are_tables(image, batch.tables, headless)[entries.row]
    for problem, wrong, counted in faults:
        if not wrong.any():
            continue
        tally.corruptions += int((visits * counted)[wrong].sum())
        _report(image, tally, batch, entries, problem, wrong & told)
    return entries.standard


def _report(
    image: Image, tally: Tally, batch: Batch, entries: Entries, problem: Problem, wrong: BoolArray
) -> None:
    geometry = image.geometry
    if not tally.found.room(problem):
        tally.found.add(problem, first=np.flatnonzero(wrong))
        return
    row, index = entries.row[wrong], entries.index[wrong]
    shared = batch.tables.visits[row] > 1
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
        fold=np.where(shared, batch.tables.offset[row], -1),
    )
