"""What a layer that is given up has left behind: leaks that nothing else can have led to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qfix.arrays import NO_INTS
from qfix.change.draft import Change
from qfix.layout.tables import COPIED, OFFSET_MASK
from qfix.problems import Severity, header, refcounts, tables
from qfix.recount.l1 import ACTIVE_LAYER
from qfix.repair.refcounts import free_leaks

if TYPE_CHECKING:
    from qfix.arrays import IntArray, Words
    from qfix.change.draft import Draft

LEFT_BEHIND = {
    problem.code
    for problem in (
        refcounts.LEAKED,
        refcounts.TOO_HIGH,
        tables.LOST_L1,
        tables.LOST_L2,
        tables.LACKED_L2,
        header.CORRUPT_MARK,
        header.DIRTY_MARK,
    )
}
MOST_LOOKED_AT = 4096
U = np.uint64


def free_what_it_led_to(draft: Draft, code: str) -> bool:
    """Free the leaks of an active layer that was damaged and has been reverted.

    Only where nothing that stays leads astray, and the lost tables were those of an active layer:
    entries in no other's L2 tables have COPIED flags (format 5). Were they left, a repair would
    take them for tables of the layer as it is now.
    """
    l1, l2, lacked = (
        NO_INTS if found is None else np.asarray(found.first, np.int64)
        for found in map(draft.now.find, (tables.LOST_L1, tables.LOST_L2, tables.LACKED_L2))
    )
    if not l1.size + l2.size + lacked.size or not _is_all_that_is_left(draft):
        return False
    if not set(lacked.tolist()) <= _lacked_before(draft):
        return False
    if not all(_has_flags(draft, np.array([at])) for at in l2.tolist()):
        return False
    if not all(_has_flags(draft, _led_to(draft, at)) for at in l1.tolist()):
        return False
    clusters = sum(found.units for found in draft.now.findings if found.problem is refcounts.LEAKED)
    before = len(draft.changes)
    if not free_leaks(draft):
        return False
    del draft.changes[before:]
    what = f"{clusters} leaked clusters are freed" if clusters else "refcounts are lowered"
    text = f"{what}: tables of the active layer as it was had led there"
    draft.note(Change(code, text, None, max(1, clusters), lossy=True))
    draft.gain += clusters * draft.image.geometry.cluster_size
    return True


def _lacked_before(draft: Draft) -> set[int]:
    """Return the L2 tables that the active layer of the file lacks, as their refcounts tell."""
    found = draft.before.find(tables.LACKED_L2)
    rows = [] if found is None else found.rows()
    return {row["first"] for row in rows if row["guests"][0][0] == ACTIVE_LAYER}


def _is_all_that_is_left(draft: Draft) -> bool:
    grave = (Severity.ERROR, Severity.LEAK)
    left = {one.problem.code for one in draft.now.findings if one.problem.severity in grave}
    return left <= LEFT_BEHIND


def _led_to(draft: Draft, cluster: int) -> IntArray:
    """Return the clusters of the tables that a lost L1 table, its first cluster, leads to."""
    geometry = draft.image.geometry
    offset = (_words(draft, cluster) & U(OFFSET_MASK)).astype(np.int64)
    inside = (offset > 0) & (offset < geometry.file_length)
    clusters: IntArray = offset[inside] >> geometry.cluster_bits
    return clusters


def _has_flags(draft: Draft, clusters: IntArray) -> bool:
    """Tell whether an entry of some L2 tables has a COPIED flag."""
    step = 2 if draft.image.geometry.extended else 1
    return any(
        bool((_words(draft, at)[::step] & U(COPIED)).any())
        for at in clusters[:MOST_LOOKED_AT].tolist()
    )


def _words(draft: Draft, cluster: int) -> Words:
    geometry = draft.image.geometry
    raw = draft.overlay.read(cluster << geometry.cluster_bits, geometry.cluster_size)
    return np.frombuffer(raw.ljust(geometry.cluster_size, b"\0"), ">u8").astype(np.uint64)
