"""Where a plan puts what it adds: behind the end of the file, or in free clusters inside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qfix.arrays import NO_INTS
from qfix.errors import QfixError, Status
from qfix.problems import bitmaps, extensions, header, snapshots, tables
from qfix.recount.batches import read_batches
from qfix.recount.entries import decode

if TYPE_CHECKING:
    from qfix.arrays import AnyArray, BoolArray, IntArray
    from qfix.change.draft import Draft

DANGLING = (
    header.L1_OUTSIDE,
    extensions.CRYPT_POINTER_RANGE,
    tables.L1_OUTSIDE_FILE,
    tables.L2_OUTSIDE_FILE,
    tables.COMPRESSED_OUTSIDE,
    tables.FILE_CUT,
    snapshots.TABLE_OUTSIDE,
    snapshots.L1_OUTSIDE,
    snapshots.OVERRUN,
    bitmaps.DIRECTORY_RANGE,
    bitmaps.TABLE,
    bitmaps.TABLE_ENTRY,
)
"""Something leads behind the end of the file: were the file to grow, it would lead into it."""


MOST_LOOKED_AT = 64 << 20
MOST_SKIPPED = 1 << 30


class NoRoomError(QfixError):
    """There is no place in the image for what a plan needs."""

    status = Status.IO_ERROR


def can_grow(draft: Draft) -> bool:
    """Tell whether clusters may be added behind the end of the file."""
    return not draft.overlay.fixed and not draft.found(*DANGLING)


def next_cluster(draft: Draft) -> int:
    """Return the first cluster behind the end of the file that nothing reaches into."""
    return max(draft.image.geometry.clusters(draft.overlay.size), draft.made.tally.size)


def allocate(draft: Draft, count: int, *, anyway: bool = False) -> int:
    """Return the first of *count* clusters in a row that nothing uses; raises NoRoomError.

    They are behind the end of the file where it can grow, for nothing that may be somebody's data
    is there; *anyway* says that whatever leads behind the end is mended in the same round, and
    that they are to be behind that.
    Otherwise they are free ones, by refcount and by references.
    """
    geometry = draft.image.geometry
    if not draft.overlay.fixed and (anyway or can_grow(draft)):
        first = next_cluster(draft)
        if not can_grow(draft):
            first = max(first, _behind_dangling(draft))
        draft.overlay.grow((first + count) << geometry.cluster_bits)
        return first
    free = free_clusters(draft)
    if free.size >= count:
        starts = free[: free.size - count + 1]
        rows = np.flatnonzero(free[count - 1 :] - starts == count - 1)
        if rows.size:
            first = int(starts[rows[0]])
            draft.taken.update(range(first, first + count))
            return first
    raise _no_room(draft, count, " in a row")


def _behind_dangling(draft: Draft) -> int:
    """Return the cluster behind all that entries lead to not far behind the end of the file."""
    image, made = draft.image, draft.made
    geometry = image.geometry
    ends = [0]
    limit = geometry.file_length + MOST_SKIPPED
    target = made.entries.target
    outside = target[(target >= geometry.file_length) & (target < limit)]
    ends.append(int(outside.max(initial=0)) + geometry.cluster_size - 1)
    for batch in read_batches(image, made.tables):
        entries = decode(image, batch)
        last = entries.offset + entries.length - 1
        far = last[(last >= geometry.file_length) & (last < limit)]
        ends.append(int(far.max(initial=0)))
    return (max(ends) >> geometry.cluster_bits) + 1


def _no_room(draft: Draft, count: int, how: str = "") -> NoRoomError:
    why = (
        "a block device does not grow" if draft.overlay.fixed else "something leads behind its end"
    )
    return NoRoomError(
        f"{draft.overlay.path}: {count} free cluster{'s' if count > 1 else ''}{how} would be"
        f" needed inside the file, for it can't grow: {why}"
    )


def allocate_each(draft: Draft, count: int, *, anyway: bool = False) -> IntArray:
    """Return *count* clusters that nothing uses, in any order; raises NoRoomError."""
    if not draft.overlay.fixed and (anyway or can_grow(draft)):
        first = allocate(draft, count, anyway=anyway)
        return np.arange(first, first + count)
    free = free_clusters(draft)[:count]
    if free.size < count:
        raise _no_room(draft, count)
    draft.taken.update(free.tolist())
    return free


def free_clusters(draft: Draft) -> IntArray:
    """Return the clusters inside the file that have neither references nor refcounts.

    Those behind the image's end come first: nothing was ever there. Where a refcount block is
    missing or wiped nothing is known to be free; only clusters that are all zeros are taken there.
    """
    made, geometry = draft.made, draft.image.geometry
    whole = geometry.file_size >> geometry.cluster_bits
    size = max(made.tally.size, whole)
    parts, unknown = [NO_INTS], [NO_INTS]
    for chunk in made.stored.chunks(made.tally):
        values = chunk.counted if chunk.stored is None else chunk.stored
        free = (values == 0) & (chunk.counted == 0)
        if chunk.readable is not None:
            free &= chunk.readable
        wiped = _are_wiped(values, chunk.counted, geometry.refcounts_per_block)
        unknown.append(np.flatnonzero(free & wiped) + chunk.start)
        free &= ~wiped
        parts.append(np.flatnonzero(free) + chunk.start)
    inside = np.concatenate(parts)
    blocks = inside // geometry.refcounts_per_block
    numbers, place = np.unique(blocks, return_inverse=True)
    missing = made.stored.missing(numbers)[place]
    doubtful = np.concatenate((inside[missing], *unknown))
    inside = np.concatenate((inside[~missing], _zeros(draft, doubtful)))
    if draft.taken:
        inside = inside[~np.isin(inside, np.array(sorted(draft.taken)))]
    inside = inside[inside < min(size, whole)]
    inside = inside[_were_free(draft, inside)]
    behind = inside >= made.tally.end_cluster
    return np.concatenate((inside[behind], inside[~behind]))


def _are_wiped(stored: AnyArray, counted: AnyArray, per: int) -> BoolArray:
    """Tell which clusters have a refcount block that is all zeros although it should not be."""
    starts = np.arange(0, stored.size, per)
    wiped = ~np.logical_or.reduceat(stored > 0, starts)
    wiped &= np.logical_or.reduceat(counted > 0, starts)
    return np.repeat(wiped, per)[: stored.size]


def _were_free(draft: Draft, clusters: IntArray) -> BoolArray:
    """Tell which clusters were free in the file too: what the plan has freed is not written to."""
    before = draft.before.recount
    if before is None or draft.now is draft.before:
        return np.ones(clusters.size, np.bool_)
    counted = before.tally.counted
    free = counted[np.minimum(clusters, counted.size - 1)] == 0
    stored, _ = before.stored.lookup(clusters)
    were: BoolArray = (free | (clusters >= before.tally.size)) & (stored == 0)
    return were


def _zeros(draft: Draft, clusters: IntArray) -> IntArray:
    """Return those of *clusters*, of which MOST_LOOKED_AT are looked at, that are all zeros."""
    bits, size = draft.image.geometry.cluster_bits, draft.image.geometry.cluster_size
    buffer = bytearray(size)
    kept = []
    for cluster in clusters[: MOST_LOOKED_AT // size].tolist():
        if not draft.overlay.read_each(memoryview(buffer), [cluster << bits], size):
            kept += [] if any(buffer.rstrip(b"\0")) else [cluster]
    return np.array(kept, np.int64)
