"""The only tricky numpy: runs, grouping, big-endian words, sub-byte refcounts."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
BoolArray = npt.NDArray[np.bool_]
ByteArray = npt.NDArray[np.uint8]
AnyArray = npt.NDArray[Any]

NO_INTS: IntArray = np.zeros(0, np.int64)


def words(raw: bytes | memoryview) -> Words:
    """Return big-endian 64-bit *raw* as native uint64, a new array; odd bytes at the end go."""
    whole = len(raw) // 8 * 8
    return np.frombuffer(raw[:whole], ">u8").astype(np.uint64)


def run_starts(units: IntArray, *same: AnyArray) -> IntArray:
    """Return the positions where a run starts: units not consecutive, or a *same* column differs.

    *units* must be sorted; all arrays have its length.
    """
    if not units.size:
        return NO_INTS
    breaks = np.diff(units) != 1
    for column in same:
        breaks |= column[1:] != column[:-1]
    return np.concatenate(([0], np.flatnonzero(breaks) + 1))


def runs(units: IntArray, *same: AnyArray) -> tuple[IntArray, IntArray, IntArray]:
    """Fold sorted *units* into runs: (first unit, count, position of the first in *units*)."""
    starts = run_starts(units, *same)
    counts = np.diff(np.append(starts, units.size))
    return units[starts], counts, starts


def spread(first: IntArray, count: IntArray) -> IntArray:
    """Return every unit of the runs (first, count), in order."""
    total = int(count.sum())
    if not total:
        return NO_INTS
    skips = np.ones(total, np.int64)
    nonempty = count > 0
    first, count = first[nonempty], count[nonempty]
    starts = np.concatenate(([0], np.cumsum(count)[:-1]))
    skips[starts] = first - np.concatenate(([0], first[:-1] + count[:-1] - 1))
    return np.cumsum(skips)


def grouped(keys: IntArray) -> Iterator[tuple[int, IntArray]]:
    """Yield each distinct key, ascending, with the positions where it stands."""
    if not keys.size:
        return
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.concatenate(([0], np.flatnonzero(np.diff(ordered)) + 1))
    ends = np.append(starts[1:], keys.size)
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        yield int(ordered[start]), order[start:end]


def unpack_refcounts(raw: ByteArray, order: int) -> AnyArray:
    """Decode refcount block bytes of width 2**order bits to native unsigned integers (format 4)."""
    if order >= 3:
        width = 1 << (order - 3)
        return raw.view(f">u{width}").astype(f"u{width}")
    bits = 1 << order
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return ((raw[:, None] >> shifts) & np.uint8((1 << bits) - 1)).ravel()


def pack_refcounts(counts: AnyArray, order: int) -> ByteArray:
    """Encode *counts*, a multiple of a byte's worth, as refcount block bytes (format 4)."""
    if order >= 3:
        return counts.astype(f">u{1 << (order - 3)}").view(np.uint8)
    bits = 1 << order
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    parts = counts.astype(np.uint8).reshape(-1, 8 // bits) << shifts
    packed: ByteArray = np.bitwise_or.reduce(parts, axis=1).astype(np.uint8)
    return packed


def last_nonzero(array: AnyArray) -> int:
    """Return the index of the last nonzero element, -1 if there is none, looking from the end."""
    step = 1 << 20
    for end in range(array.size, 0, -step):
        start = max(0, end - step)
        found = np.flatnonzero(array[start:end])
        if found.size:
            return start + int(found[-1])
    return -1
