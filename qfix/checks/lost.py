"""Pass T: leaked clusters that are tables nothing leads to any more, told from plain leaks."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from qfix.arrays import NO_INTS, AnyArray, BoolArray, IntArray, Words, spread
from qfix.checks.excess import Excess, excess, targets
from qfix.image import Image
from qfix.layout.header import BITMAPS
from qfix.layout.tables import COPIED, OFFSET_MASK
from qfix.problems import Findings
from qfix.problems import refcounts as refcount_problems
from qfix.problems import tables as problems
from qfix.recount import Recount
from qfix.recount.tally import METADATA, Kind

HEAD_BYTES = 4096
BATCH_BYTES = 4 << 20
MOST_LEAKS = 1 << 22
MOST_EMPTY_HEADS = 1 << 29
LONG_RUN = 64
MANY_LEAKED = 4


@dataclass(frozen=True, slots=True)
class Suspects:
    """Leaked clusters that read as tables, as columns of equal length.

    Of the `used` entries that lead somewhere `leaked` lead to clusters without any reference,
    `higher` to such or to ones with a refcount that is too high, `tables` to tables in use.
    `flagged` ones have an entry with the COPIED or compressed flag, which no other kind of table
    has.
    """

    cluster: IntArray
    used: IntArray
    leaked: IntArray
    higher: IntArray
    tables: IntArray
    flagged: BoolArray


def leaks_are_not_lost_tables(image: Image, made: Recount) -> Iterator[Findings]:
    """No leaked cluster is an L1 or L2 table by its content (promise 7 of the design).

    A plain leak, and a table that was freed and whose clusters are all in use elsewhere, lead to
    no cluster that has a user who is not found.
    """
    leaked = excess(made, refcount_problems.LEAKED)
    if not leaked.first.size:
        return
    if image.geometry.data_file:
        yield from _of_data_file(image, leaked)
        return
    suspects = _suspects(image, made, leaked)
    like_l2 = (2 * suspects.higher >= suspects.used) | (suspects.leaked >= MANY_LEAKED)
    l2 = like_l2 & ((suspects.leaked > 0) | (suspects.higher == suspects.used))
    stale = image.bitmaps_extension and not image.header.autoclear_features & BITMAPS
    if stale or not (image.header.nb_snapshots or image.header.snapshots_offset):
        l2 &= suspects.flagged
    parents = _parents(image, suspects, suspects.cluster[like_l2])
    l1 = np.array([cluster in parents for cluster in suspects.cluster.tolist()], np.bool_)
    yield from _report_l1(image, suspects, l1)
    yield from _report_l2(image, made, suspects, l2 & ~l1, parents)


def possible_tables(image: Image, made: Recount) -> IntArray:
    """Return the leaked clusters that read as tables: those told of, and those told from them."""
    leaked = excess(made, refcount_problems.LEAKED)
    if not leaked.first.size:
        return NO_INTS
    if image.geometry.data_file:
        found = [np.asarray(item.first, np.int64) for item in _of_data_file(image, leaked)]
        return np.concatenate((NO_INTS, *found))
    return _suspects(image, made, leaked).cluster


def _of_data_file(image: Image, leaked: Excess) -> Iterator[Findings]:
    """Find leaked tables of an image with a data file: entries lead to their own guest offsets."""
    geometry = image.geometry
    size, width, reach = geometry.cluster_size, geometry.l2_entries, geometry.bytes_per_l1_entry
    for cluster, words in _read(image, _not_holes(image, leaked), size):
        entry = words[:, :: words.shape[1] // width]
        guest = (entry & np.uint64(OFFSET_MASK)).astype(np.int64) // size - np.arange(width)
        used = (entry & np.uint64(COPIED)) != 0
        index = np.where(used, guest, -1).max(axis=1)
        same = np.where(used, guest == index[:, None], True).all(axis=1)
        sound = same & used.any(axis=1) & (index >= 0) & (index % width == 0)
        sound &= index // width < geometry.needed_l1_entries
        at = np.flatnonzero(sound)
        if not at.size:
            continue
        first = (index[at] // width).tolist()
        counts = used[at].sum(axis=1)
        yield problems.LOST_L2.at(
            cluster[at],
            np.ones_like(at),
            host=cluster[at] << geometry.cluster_bits,
            used=counts,
            leads=counts,
            bytes=counts << geometry.cluster_bits,
            where=[f"it is that of L1 entry {number}" for number in first],
            guests=[[(0, number * reach, reach)] for number in first],
        )


def _suspects(image: Image, made: Recount, leaked: Excess) -> Suspects:
    higher = excess(made, refcount_problems.LEAKED, refcount_problems.TOO_HIGH)
    size, bits = image.geometry.cluster_size, image.geometry.cluster_bits
    pieces: list[tuple[AnyArray, ...]] = []
    for cluster, words in _read(image, _candidates(image, leaked), size):
        place, possible, flagged = targets(image, words)
        to = np.where(place >= 0, place >> bits, -1)
        to[to == cluster[:, None]] = -1
        there = to >= 0
        inside = there & (to < made.tally.size)
        owners = made.tally.owners[np.where(inside, to, 0)]
        row = (
            cluster,
            there.sum(axis=1),
            (leaked.holds(to) & there).sum(axis=1),
            (higher.holds(to) & there).sum(axis=1),
            (inside & ((owners & METADATA) != 0)).sum(axis=1),
            flagged,
        )
        kept = possible & (row[1] > 0) & _differ(words, there)
        pieces.append(tuple(column[kept] for column in row))
    if not pieces:
        return Suspects(NO_INTS, NO_INTS, NO_INTS, NO_INTS, NO_INTS, np.zeros(0, np.bool_))
    return Suspects(*(np.concatenate(column) for column in zip(*pieces, strict=True)))


def _candidates(image: Image, leaked: Excess) -> IntArray:
    """Return the leaked clusters whose first bytes are possible as a table.

    Those that begin with zeros are kept up to a number: in a table too, they can.
    """
    clusters = _not_holes(image, leaked)
    head = min(image.geometry.cluster_size, HEAD_BYTES)
    full: list[IntArray] = [NO_INTS]
    empty: list[IntArray] = [NO_INTS]
    for cluster, words in _read(image, clusters, head):
        _, possible, _ = targets(image, words)
        some = words.any(axis=1)
        full.append(cluster[possible & some])
        empty.append(cluster[possible & ~some])
    most = MOST_EMPTY_HEADS // image.geometry.cluster_size
    if head == image.geometry.cluster_size:
        most = 0
    return np.sort(np.concatenate((*full, np.concatenate(empty)[:most])))


def _not_holes(image: Image, leaked: Excess) -> IntArray:
    """Return the leaked clusters, up to MOST_LEAKS, without the holes of long runs."""
    count = leaked.end - leaked.first
    long = count >= LONG_RUN
    parts = [spread(leaked.first[~long], count[~long])]
    bits = image.geometry.cluster_bits
    for first, end in zip(leaked.first[long].tolist(), leaked.end[long].tolist(), strict=True):
        for start, stop in image.file.extents(first << bits, end << bits):
            parts.append(np.arange(start >> bits, -(-stop >> bits)))
    return np.unique(np.concatenate(parts))[:MOST_LEAKS]


def _read(image: Image, clusters: IntArray, length: int) -> Iterator[tuple[IntArray, Words]]:
    """Yield clusters and the first *length* bytes of each, as native words."""
    step = max(1, BATCH_BYTES // length)
    for start in range(0, clusters.size, step):
        part = clusters[start : start + step]
        words = np.empty((part.size, length // 8), np.uint64)
        offsets = (part << image.geometry.cluster_bits).tolist()
        image.file.read_each(words.data.cast("B"), offsets, length)
        words.byteswap(inplace=True)
        yield part, words


def _differ(words: Words, there: BoolArray) -> BoolArray:
    """Tell in which rows the entries that lead somewhere differ from each other."""
    entry = words[:, :: words.shape[1] // there.shape[1]]
    ordered = np.sort(np.where(there, entry, 0), axis=1)
    same = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != 0)).sum(axis=1)
    differ: BoolArray = 10 * same <= there.sum(axis=1)
    return differ


def _parents(image: Image, suspects: Suspects, l2: IntArray) -> dict[int, dict[int, int]]:
    """Return the suspects that lead to tables: which lost L2 table stands at which entry.

    By cluster of the L1 table, then by cluster of the L2 table. They lead to a lost table, or to
    tables in use each of which has a user that is not found.
    """
    found: dict[int, dict[int, int]] = {}
    bits = image.geometry.cluster_bits
    for cluster, words in _read(image, suspects.cluster, image.geometry.cluster_size):
        place, _, _ = targets(image, words)
        to = np.where(place >= 0, place >> bits, -1)
        lost = np.isin(to, l2) & (to != cluster[:, None])
        at = np.searchsorted(suspects.cluster, cluster)
        mostly = 2 * (lost.sum(axis=1) + suspects.tables[at]) > suspects.used[at]
        counted = suspects.higher[at] == suspects.used[at]
        for row in np.flatnonzero(mostly & (lost.any(axis=1) | counted)).tolist():
            index = np.flatnonzero(lost[row])
            pairs = zip(to[row, index].tolist(), index.tolist(), strict=True)
            found[int(cluster[row])] = dict(pairs)
    return found


def _report_l1(image: Image, suspects: Suspects, l1: BoolArray) -> Iterator[Findings]:
    if l1.any():
        yield problems.LOST_L1.at(
            suspects.cluster[l1],
            np.ones(int(l1.sum()), np.int64),
            host=suspects.cluster[l1] << image.geometry.cluster_bits,
            used=suspects.used[l1],
            leads=suspects.higher[l1],
        )


def _report_l2(
    image: Image,
    made: Recount,
    suspects: Suspects,
    l2: BoolArray,
    parents: dict[int, dict[int, int]],
) -> Iterator[Findings]:
    if not l2.any():
        return
    clusters = suspects.cluster[l2].tolist()
    homes = {table: (l1, index) for l1, held in parents.items() for table, index in held.items()}
    orphans = [cluster for cluster in clusters if cluster not in homes]
    where, guests = _likely_place(image, made, suspects, l2, len(orphans))
    told = {
        table: f"it is entry {index} of the lost L1 table in cluster {l1}"
        for table, (l1, index) in homes.items()
    }
    yield problems.LOST_L2.at(
        suspects.cluster[l2],
        np.ones(len(clusters), np.int64),
        host=suspects.cluster[l2] << image.geometry.cluster_bits,
        used=suspects.used[l2],
        leads=suspects.higher[l2],
        bytes=suspects.higher[l2] << image.geometry.cluster_bits,
        where=[told.get(cluster, where) for cluster in clusters],
        guests=[[] if cluster in homes else guests for cluster in clusters],
    )


def _likely_place(
    image: Image, made: Recount, suspects: Suspects, l2: BoolArray, orphans: int
) -> tuple[str, list[tuple[int, int, int]]]:
    """Return where lost tables without a lost L1 table belong: words, and a guest range if sure."""
    slots, witnessed = _empty_slots(image, made)
    astray = _astray(image, made)
    if 0 < astray.size <= orphans:
        slots, witnessed = astray, True
    reach = image.geometry.bytes_per_l1_entry
    shares = bool((suspects.higher[l2] > suspects.leaked[l2]).any())
    if shares and not witnessed:
        return "it shares clusters with tables in use, so it may be a snapshot's", []
    if slots.size == orphans == 1:
        index = int(slots[0])
        guests = [(0, index * reach, reach)]
        why = "leads astray" if astray.size else "is without a table"
        return f"probably that of L1 entry {index}, the only one that {why}", guests
    if slots.size and slots.size >= orphans:
        return f"{slots.size} L1 entries have no table, {int(slots[0])} and on", []
    return "more tables than the active layer lacks, so some may be a snapshot's", []


def _astray(image: Image, made: Recount) -> IntArray:
    """Return the active L1 entries that once led to a table and now lead to none.

    They lead behind the end, between clusters, or to metadata of another kind. If a snapshot has
    such entries too, nothing is returned: whose a lost table was is open then.
    """
    geometry, entries = image.geometry, made.entries
    first, count, kind, _ = made.tally.extents()
    others = np.flatnonzero((kind != Kind.L2_TABLE) & (count > 0))
    others = others[np.argsort(first[others], kind="stable")]
    end = np.maximum.accumulate((first + count)[others])
    cluster = entries.target >> geometry.cluster_bits
    at = np.searchsorted(first[others], cluster, "right") - 1
    wrong = (entries.target % geometry.cluster_size != 0) | (entries.target >= geometry.file_length)
    wrong |= (at >= 0) & (cluster < end[at])
    wrong &= entries.target > 0
    if (wrong & (entries.layer > 0)).any():
        return NO_INTS
    index: IntArray = entries.index[wrong].astype(np.int64)
    return index


def _empty_slots(image: Image, made: Recount) -> tuple[IntArray, bool]:
    """Return the active L1 entries that lead nowhere, and whether snapshots have tables there.

    Where they have for some, only those are returned: the active layer had one there too.
    """
    geometry, entries = image.geometry, made.entries
    taken = (entries.layer == 0) & (entries.target > 0)
    taken &= entries.target < geometry.file_length
    taken &= entries.target % geometry.cluster_size == 0
    total = min(geometry.needed_l1_entries, image.header.l1_size, geometry.file_length)
    free = np.setdiff1d(np.arange(total), entries.index[taken])
    witness = np.intersect1d(free, entries.index[(entries.layer > 0) & (entries.target > 0)])
    return (witness, True) if witness.size else (free, False)
