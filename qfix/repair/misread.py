"""Whether the header lets the tables be read for what they are; if not, nothing is changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qfix.change.draft import Left
from qfix.layout.header import MIN_EXTENDED_CLUSTER_BITS
from qfix.layout.tables import COMPRESSED, L2_RESERVED, OFFSET_MASK
from qfix.problems import header, refcounts, tables
from qfix.recount.batches import read_batches

if TYPE_CHECKING:
    from qfix.arrays import IntArray, Words
    from qfix.change.draft import Draft
    from qfix.image import Image

U = np.uint64
CONTRADICTORY = (
    header.VERSION_2_FIELDS,
    header.SUBCLUSTER_SIZE,
    header.VIRTUAL_SIZE,
    header.L1_TOO_LARGE,
)
ODD = (
    tables.L1_RESERVED_BITS,
    tables.L1_UNALIGNED,
    tables.L2_RESERVED_BITS,
    tables.L2_UNALIGNED,
    tables.SUBCLUSTERS_CONTRADICT,
    tables.SUBCLUSTERS_WITHOUT_CLUSTER,
    tables.DATA_FILE_OFFSET,
    tables.COMPRESSED_DATA_FILE,
)
"""What entries have where tables are read by a wrong cluster size or a wrong feature bit."""
FEWEST_ODD = 4
FEWEST_OFFSETS = 8
MOST_TABLES = 64


def reason_to_keep_off(draft: Draft) -> Left | None:
    """Return why no table of the image may be changed, None where nothing speaks against it."""
    codes = tuple(problem.code for problem in CONTRADICTORY if draft.found(problem))
    if codes:
        why = "the header contradicts itself, so the tables may be misread: nothing is changed"
        return Left(codes, why)
    head, geometry = draft.image.header, draft.image.geometry
    offset = head.l1_table_offset
    if offset % geometry.cluster_size or not 0 < offset < geometry.file_length:
        codes = tuple(
            problem.code
            for problem in (header.L1_OFFSET, header.L1_OUTSIDE)
            if draft.found(problem)
        )
        if codes:
            why = (
                "the active L1 table can't be found, and with it all of the guest's data: nothing"
                " is changed before the header leads to it again"
            )
            return Left(codes, why)
    why = _contradiction(draft)
    return (
        Left(tuple(problem.code for problem in ODD if draft.found(problem)), why) if why else None
    )


def _contradiction(draft: Draft) -> str:
    """Return what speaks against a feature bit or the cluster size, empty if nothing does."""
    image = draft.image
    if image.geometry.extended and _bitmaps_are_entries(image, draft):
        return "the extended L2 bit is set, but the tables are made of plain entries"
    if not image.geometry.extended and _entries_are_bitmaps(draft):
        return "the extended L2 bit is clear, but every other entry is a subcluster bitmap"
    strange = draft.found(tables.DATA_ON_METADATA, tables.L2_OUTSIDE_FILE, tables.REUSED)
    if image.data_file_name is not None and not image.geometry.data_file and strange:
        return "the header names a data file, but the data file bit is clear: one of them is wrong"
    elsewhere = draft.now.find(tables.DATA_FILE_OFFSET)
    used = draft.made.tally.statistics.l2[0].used
    if elsewhere and 2 * elsewhere.units > used and draft.found(refcounts.LEAKED):
        return "the data file bit is set, but the tables lead to clusters of this file"
    return _wrong_cluster_size(draft)


def _wrong_cluster_size(draft: Draft) -> str:
    """Return what speaks for another cluster size: how all offsets are aligned."""
    size = draft.image.geometry.cluster_size
    offset = _offsets(draft)
    if offset.size < FEWEST_OFFSETS:
        return ""
    unaligned = offset % size != 0
    halves = not (offset % (size // 2)).any() or not (offset % max(512, size // 4)).any()
    if 4 * int(unaligned.sum()) > offset.size and halves:
        return "so many offsets are multiples of half a cluster that clusters are probably smaller"
    if not (offset % (2 * size)).any():
        return "all offsets are multiples of two clusters, so clusters are probably larger"
    return ""


def _offsets(draft: Draft) -> IntArray:
    """Return host offsets: of header, refcount table, L1 tables, and some active L2 tables."""
    made, size = draft.made, draft.image.geometry.cluster_size
    head = draft.image.header
    pointers = (head.l1_table_offset, head.refcount_table_offset, head.snapshots_offset)
    known = [at for at in pointers if 0 < at < draft.image.geometry.file_length]
    parts = [np.array(known, np.int64), made.entries.target[made.entries.target > 0]]
    parts.append(made.reftable.offset)
    some = made.tables.part(np.flatnonzero(made.tables.active_visits > 0)[:MOST_TABLES])
    for batch in read_batches(draft.image, some):
        words = batch.entries[(batch.entries & U(COMPRESSED)) == 0]
        parts.append((words & U(OFFSET_MASK)).astype(np.int64))
    offset = np.concatenate(parts)
    return offset[(offset > 0) & (offset < draft.image.geometry.file_length + size)]


def _entries_are_bitmaps(draft: Draft) -> bool:
    """Tell whether every second entry of the L2 tables makes no sense as one, and no other."""
    image = draft.image
    if image.header.version < 3 or image.header.cluster_bits < MIN_EXTENDED_CLUSTER_BITS:
        return False
    if not draft.found(tables.L2_UNALIGNED):
        return False
    odd = odd_sound = even = even_sound = 0
    for batch in read_batches(image, draft.made.tables):
        second, first = batch.entries[:, 1::2], batch.entries[:, 0::2]
        odd, odd_sound = odd + int(np.count_nonzero(second)), odd_sound + _sound(image, second)
        even, even_sound = even + int(np.count_nonzero(first)), even_sound + _sound(image, first)
    return (
        odd >= FEWEST_ODD and 4 * odd_sound <= odd and 2 * even_sound > even and 4 * even >= 3 * odd
    )


def _sound(image: Image, words: Words) -> int:
    """Return how many words are entries that lead to a cluster of the file, or compressed."""
    offset = (words & U(OFFSET_MASK)).astype(np.int64)
    sound = ((words & U(L2_RESERVED | 1)) == 0) & (offset > 0)
    sound &= (offset % image.geometry.cluster_size == 0) & (offset < image.geometry.file_length)
    return int((sound | ((words & U(COMPRESSED)) != 0)).sum())


def _bitmaps_are_entries(image: Image, draft: Draft) -> bool:
    """Tell whether what would be subcluster bitmaps are entries that lead to clusters."""
    like = total = 0
    for batch in read_batches(image, draft.made.tables):
        if batch.bitmaps is None:
            return False
        words = batch.bitmaps[batch.bitmaps != 0]
        like, total = like + _sound(image, words & U(COMPRESSED - 1)), total + words.size
    return total > 0 and 2 * like > total
