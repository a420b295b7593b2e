"""The numbers of a diagnosis: what qemu-img check counts, and what qfix counts beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qfix.examine import Diagnosis
    from qfix.recount.tally import EntryStatistics, Tally

SPACE_STEP = 1 << 18


def qemu_counts(diagnosis: Diagnosis) -> dict[str, int]:
    """Return every number that qemu-img check gives, by its JSON key."""
    made, image = diagnosis.recount, diagnosis.image
    tally = made.tally if made else None
    size = image.geometry.cluster_size if image else 0
    return {
        "check-errors": tally.check_errors if tally else 1,
        "image-end-offset": tally.end_cluster * size if tally else 0,
        "corruptions": tally.corruptions if tally else 0,
        "leaks": tally.leaks if tally else 0,
        "corruptions-fixed": 0,
        "leaks-fixed": 0,
        "total-clusters": image.geometry.guest_clusters if image else 0,
        "allocated-clusters": tally.statistics.allocated if tally else 0,
        "fragmented-clusters": tally.statistics.fragmented if tally else 0,
        "compressed-clusters": tally.statistics.compressed if tally else 0,
    }


@dataclass(frozen=True, slots=True)
class Space:
    """Host clusters by use: data held by one side only or both, metadata, and free ones inside."""

    active_only: int
    snapshots_only: int
    shared: int
    metadata: int
    free: int


def space(tally: Tally) -> Space:
    """Count host clusters by who holds them, up to the image's end."""
    import numpy as np

    from qfix.recount.tally import ACTIVE, COMPRESSED, DATA, INACTIVE, METADATA

    active_only = snapshots_only = shared = metadata = used = 0
    for start in range(0, tally.size, SPACE_STEP):
        owners = tally.owners[start : min(start + SPACE_STEP, tally.size)]
        data = (owners & (DATA | COMPRESSED)) != 0
        taken = int(np.count_nonzero(data))
        inactive = int(np.count_nonzero(data & ((owners & INACTIVE) != 0)))
        both = owners & (ACTIVE | INACTIVE) == ACTIVE | INACTIVE if inactive else None
        common = 0 if both is None else int(np.count_nonzero(data & both))
        claimed = int(np.count_nonzero(owners & (DATA | COMPRESSED | METADATA)))
        active_only += taken - inactive
        snapshots_only += inactive - common
        shared += common
        metadata += claimed - taken
        used += claimed
    free = max(0, tally.end_cluster - used)
    return Space(active_only, snapshots_only, shared, metadata, free)


def entry_counts(counts: EntryStatistics) -> dict[str, int]:
    """Return the entries of one kind of table by what they are."""
    names = ("used", "unused", "unaligned", "invalid", "compressed", "zero")
    return {name: getattr(counts, name) for name in names}


def statistics(diagnosis: Diagnosis) -> dict[str, Any] | None:
    """Return what qcow2-dump counts, by kind of table, and space by who holds it, in clusters."""
    image = diagnosis.image
    if diagnosis.recount is None or image is None:
        return None
    from qfix.recount.written import written_since_snapshot

    tally = diagnosis.recount.tally
    counts = tally.statistics
    held = space(tally)
    return {
        "l1-active": entry_counts(counts.l1[0]),
        "l1-inactive": entry_counts(counts.l1[1]),
        "l2-active": entry_counts(counts.l2[0]),
        "l2-inactive": entry_counts(counts.l2[1]),
        "refcount-table": entry_counts(counts.reftable),
        "written-since-snapshot-clusters": written_since_snapshot(image, diagnosis.recount),
        "active-only-clusters": held.active_only,
        "snapshots-only-clusters": held.snapshots_only,
        "shared-clusters": held.shared,
        "metadata-clusters": held.metadata,
        "free-clusters": held.free,
    }
