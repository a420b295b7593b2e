"""Clusters of which no refcount is known: those that hold something are not taken for free."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qfix.arrays import NO_INTS
from qfix.problems import refcounts, tables

if TYPE_CHECKING:
    from qfix.arrays import BoolArray, IntArray
    from qfix.change.draft import Draft

BATCH_BYTES = 4 << 20
MOST_READ = 1 << 30
REVEALED = (
    refcounts.LEAKED,
    tables.LOST_L1,
    tables.LOST_L2,
    tables.EMPTIED_L2,
    tables.UNFILLED_L2,
)


def that_hold_something(draft: Draft, clusters: IntArray) -> IntArray:
    """Return those of *clusters* that are neither holes nor all zeros, as far as that is looked at.

    A reference that was lost leaves no other trace where the refcounts are gone too. What comes to
    light when such clusters are counted as leaked is expected.
    """
    geometry = draft.image.geometry
    clusters = clusters[(clusters << geometry.cluster_bits) < draft.overlay.base.size]
    held = clusters[_are_no_holes(draft, clusters)]
    most = MOST_READ // geometry.cluster_size
    kept = [NO_INTS, held[most:]]
    step = max(1, BATCH_BYTES // geometry.cluster_size)
    for start in range(0, min(held.size, most), step):
        part = held[start : min(start + step, most)]
        buffer = np.zeros((part.size, geometry.cluster_size), np.uint8)
        offsets = (part << geometry.cluster_bits).tolist()
        draft.overlay.base.read_each(buffer.data.cast("B"), offsets, geometry.cluster_size)
        kept.append(part[buffer.any(axis=1)])
    found = np.sort(np.concatenate(kept))
    if found.size:
        draft.expected.update(problem.code for problem in REVEALED)
    return found


def _are_no_holes(draft: Draft, clusters: IntArray) -> BoolArray:
    """Tell which *clusters*, ascending, have a byte that is not in a hole of the file."""
    held = np.zeros(clusters.size, np.bool_)
    if not clusters.size:
        return held
    bits = draft.image.geometry.cluster_bits
    end = int(clusters[-1] + 1) << bits
    for start, stop in draft.overlay.base.extents(int(clusters[0]) << bits, end):
        low = np.searchsorted(clusters, start >> bits)
        held[low : np.searchsorted(clusters, -(-stop >> bits))] = True
    return held
