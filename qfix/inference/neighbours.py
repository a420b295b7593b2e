"""Damaged L2 entries worked out from their neighbours and from clusters that are leaked.

A run of damaged entries between two sound ones that lead to neighbouring places, with exactly as
many clusters in between as there are damaged entries, each of them with a refcount of 1 and no
user, has led to these clusters as far as anything can tell. It is a guess all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qfix.checks.excess import Excess
from qfix.problems import refcounts

if TYPE_CHECKING:
    from qfix.arrays import BoolArray, IntArray
    from qfix.recount import Recount
    from qfix.recount.entries import Entries


class Guess(NamedTuple):
    """Positions of entries in a batch, and the host clusters that they led to."""

    at: IntArray
    cluster: IntArray


def single_leaks(made: Recount) -> Excess:
    """Return the leaked clusters whose refcount is 1."""
    found = made.tally.found.folded(refcounts.LEAKED)
    first, count = np.asarray(found.first, np.int64), np.asarray(found.count, np.int64)
    if not first.size:
        return Excess(first, first)
    one = np.asarray(found.facts["stored"]) == 1
    order = np.argsort(first[one])
    return Excess(first[one][order], (first + count)[one][order])


def from_neighbours(
    entries: Entries, damaged: BoolArray, doubtful: BoolArray, leaked: Excess, bits: int, size: int
) -> Guess:
    """Return guesses for *damaged* entries, and for *doubtful* ones that share their cluster.

    *bits* is log2 of the cluster size, *size* the number of L2 entries in a table.
    """
    sound = entries.standard & ~damaged & (entries.offset % (1 << bits) == 0)
    at, cluster = _between(entries, np.flatnonzero(sound & ~doubtful), damaged, bits, size)
    kept = _all_leaked(at, cluster, entries, leaked)
    lone, guess = _single(entries, np.flatnonzero(sound), doubtful, bits, size)
    right = leaked.holds(guess)
    return Guess(
        np.concatenate((at[kept], lone[right])), np.concatenate((cluster[kept], guess[right]))
    )


def _between(
    entries: Entries, sound: IntArray, damaged: BoolArray, bits: int, size: int
) -> tuple[IntArray, IntArray]:
    """Return the damaged entries between fitting neighbours, and the clusters that they fit."""
    unit = entries.row * size + entries.index
    wrong = np.flatnonzero(damaged)
    if sound.size < 2 or not wrong.size:
        return wrong[:0], wrong[:0]
    place = np.searchsorted(unit[sound], unit[wrong])
    inner = (place > 0) & (place < sound.size)
    wrong, place = wrong[inner], place[inner]
    left, right = sound[place - 1], sound[place]
    gap = unit[right] - unit[left]
    low, high = entries.offset[left] >> bits, entries.offset[right] >> bits
    fits = (entries.row[left] == entries.row[right]) & (high - low == gap)
    fits &= _whole_runs(unit[left], gap)
    wrong, left = wrong[fits], left[fits]
    return wrong, (entries.offset[left] >> bits) + (unit[wrong] - unit[left])


def _whole_runs(left: IntArray, gap: IntArray) -> BoolArray:
    """Tell which damaged entries fill their gap together: each place in it holds one."""
    if not left.size:
        return np.zeros(0, np.bool_)
    starts = np.flatnonzero(np.diff(left, prepend=left[0] - 1))
    count = np.diff(np.append(starts, left.size))
    return np.repeat(count == gap[starts] - 1, count)


def _all_leaked(at: IntArray, cluster: IntArray, entries: Entries, leaked: Excess) -> BoolArray:
    """Tell which guesses belong to a run all of whose clusters are leaked."""
    held = leaked.holds(cluster)
    if not at.size:
        return held
    new = np.ones(at.size, np.bool_)
    new[1:] = (np.diff(cluster) != 1) | (np.diff(entries.row[at]) != 0)
    starts = np.flatnonzero(new)
    whole = np.logical_and.reduceat(held, starts)
    return np.repeat(whole, np.diff(np.append(starts, at.size)))


def _single(
    entries: Entries, sound: IntArray, doubtful: BoolArray, bits: int, size: int
) -> tuple[IntArray, IntArray]:
    """Return doubtful entries whose neighbours on both sides leave one cluster between them."""
    unit = entries.row[sound] * size + entries.index[sound]
    cluster = entries.offset[sound] >> bits
    if sound.size < 3:
        return sound[:0], sound[:0]
    middle = np.arange(1, sound.size - 1)
    fits = (unit[middle + 1] - unit[middle - 1] == 2) & (
        entries.row[sound[middle - 1]] == entries.row[sound[middle + 1]]
    )
    fits &= (cluster[middle + 1] - cluster[middle - 1] == 2) & doubtful[sound[middle]]
    chosen = middle[fits]
    return sound[chosen], cluster[chosen - 1] + 1
