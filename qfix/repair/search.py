"""Structures that a damaged pointer has lost, looked for among the leaked clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qfix.arrays import NO_INTS, spread
from qfix.layout.extensions import LUKS_MAGIC
from qfix.problems import refcounts, tables
from qfix.recount.tally import CLAIMED
from qfix.repair.directory import is_sound, read_directory
from qfix.repair.salvage import is_plausible, salvage

if TYPE_CHECKING:
    from collections.abc import Callable

    from qfix.arrays import IntArray
    from qfix.change.draft import Draft

MOST_SOUGHT = 1 << 16
"""Leaked clusters that are looked at."""


def leaked_clusters(draft: Draft) -> IntArray:
    """Return the clusters that have refcounts but no references, no more than MOST_SOUGHT."""
    found = draft.now.find(refcounts.LEAKED)
    if found is None:
        return NO_INTS
    first, count = np.asarray(found.first, np.int64), np.asarray(found.count, np.int64)
    kept = int(np.searchsorted(np.cumsum(count), MOST_SOUGHT)) + 1
    return spread(first[:kept], count[:kept])[:MOST_SOUGHT]


def find_snapshot_table(draft: Draft) -> int | None:
    """Return the offset of the one lost table of as many snapshots as the header tells of."""
    count = draft.image.header.nb_snapshots

    def is_table(offset: int) -> bool:
        found = salvage(draft, offset, gaps=0)
        return len(found) == count and all(
            entry.is_untouched and is_plausible(draft, *entry.identity) for entry in found
        )

    return _only(draft, is_table, draft.image.header.snapshots_offset) if count else None


def find_snapshots(draft: Draft) -> tuple[int, int] | None:
    """Return offset and number of the snapshots that there are if lost L1 tables are theirs.

    They stand behind those that the header tells of; where it tells of none, in a leaked cluster.
    """
    head, geometry = draft.image.header, draft.image.geometry
    found = draft.now.find(tables.LOST_L1)
    lost = {int(first) for first in found.first} if found else set()
    offset, told = head.snapshots_offset, head.nb_snapshots
    placed = 0 < offset < geometry.file_length and not offset % geometry.cluster_size
    if placed:
        more = _lost_entries(draft, offset, told, lost)
        return (offset, told + more) if more else None
    if told:
        return None
    place = _only(draft, lambda place: _lost_entries(draft, place, 0, lost) > 0)
    return (place, _lost_entries(draft, place, 0, lost)) if place else None


def _lost_entries(draft: Draft, offset: int, told: int, lost: set[int]) -> int:
    """Return how many entries behind the first *told* ones of a table lead to *lost* L1 tables."""
    bits, count = draft.image.geometry.cluster_bits, 0
    for entry in salvage(draft, offset, gaps=0, count=told + len(lost))[told:]:
        fixed, id_str = entry.identity
        real = entry.is_untouched and is_plausible(draft, fixed, id_str)
        if not real or fixed.l1_table_offset >> bits not in lost:
            break
        count += 1
    return count


def find_bitmap_directory(draft: Draft) -> int | None:
    """Return the offset of the one lost directory that is what the extension tells of."""
    extension = draft.image.bitmaps_extension
    if extension is None or not extension.nb_bitmaps:
        return None

    def is_directory(offset: int) -> bool:
        found = read_directory(draft, extension.bitmap_directory_size, offset=offset)
        whole = found.broken_at is None and len(found.bitmaps) == extension.nb_bitmaps
        return whole and all(is_sound(draft, item) for item in found.bitmaps)

    return _only(draft, is_directory, extension.bitmap_directory_offset)


def find_luks_header(draft: Draft) -> int | None:
    """Return the offset of the one lost LUKS header."""
    magic, pointer = LUKS_MAGIC, draft.image.encryption
    stated = pointer.offset if pointer else 0
    return _only(draft, lambda offset: draft.overlay.read(offset, len(magic)) == magic, stated)


def _only(draft: Draft, is_it: Callable[[int], bool], stated: int = 0) -> int | None:
    """Return the offset of the one leaked cluster that *is_it*, None where none or several are.

    The cluster that the *stated* offset is in is asked too: a structure that seems to stand there
    has claimed it.
    """
    geometry, owners = draft.image.geometry, draft.made.tally.owners
    clusters = leaked_clusters(draft)
    places = set(clusters[(owners[clusters] & CLAIMED) == 0].tolist())
    if geometry.cluster_size <= stated < geometry.file_length:
        places.add(stated >> geometry.cluster_bits)
    offsets = [cluster << geometry.cluster_bits for cluster in sorted(places)]
    found = [offset for offset in offsets if is_it(offset)]
    return found[0] if len(found) == 1 else None
