"""Pass T: L2 entries by themselves: bits that must not be set, and entries that lead nowhere."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

from qfix.change.allocate import NoRoomError, allocate_each
from qfix.change.draft import LOST, RESTORED, Left
from qfix.layout.tables import ALLOC_BITS, COMPRESSED, COPIED, L2_RESERVED, ZERO
from qfix.problems import refcounts, tables
from qfix.recount.faults import find_faults
from qfix.repair.owners import sound_tables
from qfix.repair.rewrite import Edit, rewrite_l2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.arrays import BoolArray, IntArray, Words
    from qfix.change.draft import Draft
    from qfix.image import Image
    from qfix.problems import Problem
    from qfix.recount.batches import Batch
    from qfix.recount.entries import Entries
    from qfix.repair.wanted import Wanted

U = np.uint64
ALL_ZERO = U(ALLOC_BITS << 32)
BITS = (
    tables.L2_RESERVED_BITS,
    tables.L2_PREALLOCATED_UNALIGNED,
    tables.COMPRESSED_COPIED,
    tables.COPIED_WITHOUT_OFFSET,
    tables.BIT_0_RESERVED,
    tables.COMPRESSED_BITMAP,
    tables.SUBCLUSTERS_CONTRADICT,
    tables.COMPRESSED_DATA_FILE,
)
NOWHERE = (
    tables.L2_UNALIGNED,
    tables.L2_OUTSIDE_FILE,
    tables.COMPRESSED_OUTSIDE,
    tables.COMPRESSED_BITMAP,
    tables.SUBCLUSTERS_WITHOUT_CLUSTER,
    tables.ZERO_IN_VERSION_2,
)
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def clear_l2_bits(draft: Draft, wanted: Wanted) -> bool:
    """Clear bits of L2 entries that mean nothing, or that contradict what is certain."""
    if not wanted.all or not draft.found(*BITS):
        return False
    image = draft.image
    keep_lone = draft.found(refcounts.LEAKED) and not wanted.lossy

    def mend(batch: Batch, entries: Entries, fit: BoolArray) -> Iterator[Edit]:
        faults = {
            problem: np.flatnonzero(wrong & fit)
            for problem, wrong, _ in find_faults(image, entries)
        }
        for problem, mask in (
            (tables.L2_RESERVED_BITS, L2_RESERVED),
            (tables.COMPRESSED_COPIED, COPIED),
            (tables.BIT_0_RESERVED, ZERO),
            (tables.COPIED_WITHOUT_OFFSET, COPIED),
        ):
            if problem is tables.COPIED_WITHOUT_OFFSET and keep_lone:
                continue
            at = faults.get(problem, np.zeros(0, np.int64))
            yield Edit(problem, at, entries.entry[at] & ~U(mask), None, "the bits are cleared")
        yield from _unaligned_zeros(image, entries, faults)
        yield from _proven(image, batch, entries, faults)

    return rewrite_l2(draft, sound_tables(draft), mend)


def _unaligned_zeros(
    image: Image, entries: Entries, faults: dict[Problem, IntArray]
) -> Iterator[Edit]:
    problem = tables.L2_PREALLOCATED_UNALIGNED
    at = faults[problem]
    text = "preallocated space at an impossible place is let go; the clusters read as zeros"
    if image.geometry.extended:
        zeros = (entries.zeros[at] | entries.alloc[at]) << U(32)
        yield Edit(problem, at, np.zeros(at.size, np.uint64), zeros, text)
    elif image.header.version >= 3:
        yield Edit(problem, at, np.full(at.size, ZERO, np.uint64), None, text)


def _proven(
    image: Image, batch: Batch, entries: Entries, faults: dict[Problem, IntArray]
) -> Iterator[Edit]:
    """Yield what the content proves: compressed payloads, subclusters of zeros, guest offsets."""
    if image.geometry.data_file:
        at = faults.get(tables.COMPRESSED_DATA_FILE, np.zeros(0, np.int64))
        guest = batch.tables.index[entries.row[at]] * image.geometry.l2_entries + entries.index[at]
        place = guest.astype(np.uint64) << U(image.geometry.cluster_bits)
        plain = entries.entry[at] & ~U(COMPRESSED | COPIED)
        right = plain == place
        text = "it leads to its own guest offset, so only the compressed flag is wrong"
        yield Edit(
            tables.COMPRESSED_DATA_FILE, at[right], place[right] | U(COPIED), None, text, RESTORED
        )
    if not image.geometry.extended:
        return
    at = faults.get(tables.COMPRESSED_BITMAP, np.zeros(0, np.int64))
    sound = np.array([_unpacks(image, entries, row) for row in at.tolist()], np.bool_)
    at = at[sound] if at.size else at
    text = "the payload is whole, so the subcluster bitmap is wrong"
    none = np.zeros(at.size, np.uint64)
    yield Edit(tables.COMPRESSED_BITMAP, at, entries.entry[at], none, text, RESTORED)
    at = faults.get(tables.SUBCLUSTERS_CONTRADICT, np.zeros(0, np.int64))
    sound = np.array([_are_zeros(image, entries, row) for row in at.tolist()], np.bool_)
    at = at[sound] if at.size else at
    both = entries.alloc[at] & entries.zeros[at]
    text = "the subclusters hold zeros, so both marks say the same"
    yield Edit(
        tables.SUBCLUSTERS_CONTRADICT,
        at,
        entries.entry[at],
        entries.bitmap[at] & ~(both << U(32)),
        text,
        RESTORED,
    )


def _unpacks(image: Image, entries: Entries, row: int) -> bool:
    """Tell whether a compressed payload gives exactly one cluster, as far as that can be told."""
    payload = image.file.read(int(entries.offset[row]), int(entries.length[row]))
    if image.head.compression_type:
        return payload.startswith(ZSTD_MAGIC)
    try:
        size = image.geometry.cluster_size
        return len(zlib.decompressobj(-15).decompress(payload, size + 1)) == size
    except zlib.error:
        return False


def _are_zeros(image: Image, entries: Entries, row: int) -> bool:
    size = image.geometry.cluster_size // 32
    both = int(entries.alloc[row] & entries.zeros[row])
    if int(entries.offset[row]) % image.geometry.cluster_size:
        return False
    data = image.file.read(int(entries.offset[row]), 32 * size)
    return not any(data[k * size : (k + 1) * size].strip(b"\0") for k in range(32) if both >> k & 1)


def give_up_l2_entries(draft: Draft, wanted: Wanted) -> bool:
    """Let L2 entries that lead nowhere be unallocated, or zeros where a backing file shows."""
    if not wanted.lossy:
        return False
    if not draft.found(
        *NOWHERE,
        tables.FILE_CUT,
        tables.SUBCLUSTERS_CONTRADICT,
        tables.COMPRESSED_DATA_FILE,
        tables.DATA_FILE_OFFSET,
    ):
        return False
    image = draft.image

    def mend(batch: Batch, entries: Entries, fit: BoolArray) -> Iterator[Edit]:
        done = np.zeros(entries.entry.size, np.bool_)
        for problem, wrong, _ in find_faults(image, entries):
            if problem not in NOWHERE:
                continue
            at = np.flatnonzero(wrong & fit & ~done)
            done[at] = True
            yield _nowhere(draft, problem, entries, at)
        yield from _decided(image, entries, fit & ~done)
        if image.geometry.data_file:
            yield from _own_offsets(image, batch, entries, fit)

    noted = len(draft.changes)
    try:
        return rewrite_l2(draft, sound_tables(draft), mend)
    except NoRoomError as error:
        draft.leave("room", Left((tables.L2_OUTSIDE_FILE.code,), str(error)))
        return len(draft.changes) > noted


def _nowhere(draft: Draft, problem: Problem, entries: Entries, at: IntArray) -> Edit:
    """Return what is left of entries that lead nowhere."""
    image = draft.image
    text = "leads nowhere; given up"
    entry = np.zeros(at.size, np.uint64)
    bitmap: Words | None = np.zeros(at.size, np.uint64) if image.geometry.extended else None
    backing = image.head.backing_name is not None
    if problem is tables.ZERO_IN_VERSION_2:
        sound = entries.offset[at] % image.geometry.cluster_size == 0
        kept = np.where(sound, entries.entry[at] & ~U(ZERO), U(0))
        return Edit(
            problem, at, kept, None, "version 2 has no zero flag; what is there stays", LOST
        )
    if problem is tables.SUBCLUSTERS_WITHOUT_CLUSTER:
        zeros = entries.zeros[at] | (entries.alloc[at] if backing else U(0))
        entry = entries.entry[at] & U(0)
        return Edit(problem, at, entry, zeros << U(32), text, LOST)
    if backing and image.geometry.extended:
        bitmap = np.full(at.size, ALL_ZERO)
        text += " and reads as zeros"
    elif backing and image.header.version >= 3:
        entry = np.full(at.size, ZERO, np.uint64)
        text += " and reads as zeros"
    elif backing and at.size:
        places = allocate_each(draft, at.size, anyway=True).astype(np.uint64)
        entry = (places << U(image.geometry.cluster_bits)) | U(COPIED)
        text += " and gets a cluster of zeros"
    return Edit(problem, at, entry, bitmap, text, LOST)


def _decided(image: Image, entries: Entries, fit: BoolArray) -> Iterator[Edit]:
    """Yield entries whose data and zero marks contradict: the data is kept."""
    if not image.geometry.extended:
        return
    both = entries.alloc & entries.zeros
    at = np.flatnonzero(entries.standard & (both != 0) & fit)
    at = at[entries.offset[at] % image.geometry.cluster_size == 0]
    text = "subclusters marked as data and as zeros are taken for data"
    cleared = entries.bitmap[at] & ~(both[at] << U(32))
    yield Edit(tables.SUBCLUSTERS_CONTRADICT, at, entries.entry[at], cleared, text, LOST)


def _own_offsets(image: Image, batch: Batch, entries: Entries, fit: BoolArray) -> Iterator[Edit]:
    """Yield entries that do not lead to their own guest offset in the data file (format 12)."""
    guest = batch.tables.index[entries.row] * image.geometry.l2_entries + entries.index
    place = guest.astype(np.uint64) << U(image.geometry.cluster_bits)
    text = "a cluster of the data file stands at its guest offset"
    aligned = entries.offset % image.geometry.cluster_size == 0
    wrong = entries.standard & aligned & (entries.offset != place.astype(np.int64))
    for problem, chosen in (
        (tables.COMPRESSED_DATA_FILE, entries.compressed),
        (tables.DATA_FILE_OFFSET, wrong),
    ):
        at = np.flatnonzero(chosen & fit)
        flags = entries.entry[at] & U(ZERO)
        yield Edit(problem, at, place[at] | U(COPIED) | flags, None, text, LOST)
