"""Clusters whose refcounts count users that are not found, and where words lead as entries."""

from dataclasses import dataclass

import numpy as np

from qfix.arrays import NO_INTS, BoolArray, IntArray, Words
from qfix.image import Image
from qfix.layout.tables import (
    ALLOC_BITS,
    COMPRESSED,
    COPIED,
    L2_RESERVED,
    OFFSET_MASK,
    descriptor_bits,
)
from qfix.problems import Problem
from qfix.recount import Recount

U = np.uint64
MOST_DAMAGED = 6
"""A table has so many entries for each one that is damaged, or more."""


@dataclass(frozen=True, slots=True)
class Excess:
    """Clusters whose refcount is higher than their references, as sorted runs."""

    first: IntArray
    end: IntArray

    def holds(self, clusters: IntArray) -> BoolArray:
        """Tell which of *clusters* are among them."""
        if not self.first.size:
            return np.zeros(clusters.shape, np.bool_)
        at = np.searchsorted(self.first, clusters, "right") - 1
        held: BoolArray = (at >= 0) & (clusters < self.end[at])
        return held


def excess(made: Recount, *kinds: Problem) -> Excess:
    """Return the clusters of the findings of some *kinds*."""
    parts = [found for found in made.tally.found if found.problem in kinds]
    if not parts:
        return Excess(NO_INTS, NO_INTS)
    first = np.concatenate([part.first for part in parts])
    count = np.concatenate([part.count for part in parts])
    order = np.argsort(first)
    return Excess(first[order], (first + count)[order])


def targets(image: Image, words: Words) -> tuple[IntArray, BoolArray, BoolArray]:
    """Read rows of *words* as L2 tables (format 5, 6).

    Returns the byte offset that each entry leads to, -1 for none; whether the words of a row are
    possible as entries, but for a few that may be damaged; whether some entry of a row has a flag
    that only L1 and L2 entries have.
    """
    geometry = image.geometry
    possible = np.ones(words.shape[0], np.bool_)
    entry = words
    if geometry.extended:
        entry, bitmap = words[:, 0::2], words[:, 1::2]
        possible &= ~((bitmap & (bitmap >> U(32)) & U(ALLOC_BITS)) != 0).any(axis=1)
    packed = (entry & U(COMPRESSED)) != 0
    offset = (entry & U(OFFSET_MASK)).astype(np.int64)
    start = (entry & U((1 << descriptor_bits(geometry.cluster_bits)) - 1)).astype(np.int64)
    place = np.where(packed, start, offset)
    sound = packed | ((entry & U(L2_RESERVED)) == 0) & (offset % geometry.cluster_size == 0)
    sound &= place < geometry.file_length
    possible &= MOST_DAMAGED * (~sound).sum(axis=1) <= (entry != 0).sum(axis=1)
    place = np.where(sound, place, 0)
    flagged = ((entry & U(COPIED | COMPRESSED)) != 0).any(axis=1)
    return np.where(place > 0, place, -1), possible, flagged
