"""Tally: references and owners a host cluster, and how claims on clusters are entered."""

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from qfix.arrays import NO_INTS, AnyArray, ByteArray, IntArray, spread
from qfix.layout.geometry import Geometry
from qfix.recount.collect import Collector

DATA = 1
COMPRESSED = 2
METADATA = 4
CLASH = 8
ACTIVE = 16
INACTIVE = 32
COPIED_SET = 64
COPIED_CLEAR = 128
CLAIMED = DATA | COMPRESSED | METADATA


class Kind(IntEnum):
    """What a metadata cluster holds."""

    HEADER = 0
    L1_TABLE = 1
    L2_TABLE = 2
    REFCOUNT_TABLE = 3
    REFCOUNT_BLOCK = 4
    SNAPSHOT_TABLE = 5
    ENCRYPTION_HEADER = 6
    BITMAP_DIRECTORY = 7
    BITMAP_TABLE = 8
    BITMAP_DATA = 9

    @property
    def text(self) -> str:
        """The kind in words."""
        return "the header" if self is Kind.HEADER else self.name.lower().replace("_", " ")


@dataclass(slots=True)
class EntryStatistics:
    """Entries of the tables of one kind by what they are; each visit of a table counts."""

    used: int = 0
    unused: int = 0
    unaligned: int = 0
    invalid: int = 0
    compressed: int = 0
    zero: int = 0


@dataclass(slots=True)
class Statistics:
    """Counts that QEMU's check gives too, and qcow2-dump's entries a kind of table."""

    allocated: int = 0
    compressed: int = 0
    fragmented: int = 0
    l1: tuple[EntryStatistics, EntryStatistics] = field(
        default_factory=lambda: (EntryStatistics(), EntryStatistics())
    )
    l2: tuple[EntryStatistics, EntryStatistics] = field(
        default_factory=lambda: (EntryStatistics(), EntryStatistics())
    )
    reftable: EntryStatistics = field(default_factory=EntryStatistics)


@dataclass(slots=True)
class Tally:
    """What refers to each host cluster of one image.

    `counted` (unsigned, widened as needed) holds references, `owners` (uint8) the bits above, both
    one element a cluster; `size` clusters of them are in play. `extents` are the metadata
    structures: first cluster, count, kind, and which one of its kind. `corruptions`, `leaks` and
    `check_errors` are counted as qemu-img check counts them.
    """

    geometry: Geometry
    size: int
    counted: AnyArray
    owners: ByteArray
    statistics: Statistics = field(default_factory=Statistics)
    found: Collector = field(default_factory=Collector)
    corruptions: int = 0
    leaks: int = 0
    check_errors: int = 0
    end_cluster: int = 0
    stored_end: int = 0
    leads_outside: bool = False
    clashed: bool = False
    empty_tables: list[int] = field(default_factory=list)
    _extents: list[tuple[AnyArray, AnyArray, Kind, IntArray]] = field(default_factory=list)

    @classmethod
    def of(cls, geometry: Geometry) -> "Tally":
        """Return an empty tally; one cluster more than the file has may be referred to."""
        size = geometry.host_clusters
        return cls(geometry, size, np.zeros(size + 1, np.uint8), np.zeros(size + 1, np.uint8))

    def inside(self, offset: int, length: int) -> bool:
        """Tell whether a region reaches less than a cluster behind the end of the file."""
        return offset + length - self.geometry.file_length < self.geometry.cluster_size

    def claim(self, offset: int, length: int, kind: Kind, which: int = 0, times: int = 1) -> bool:
        """Count a metadata region *times* times; False, and a corruption each, if it is outside."""
        if length <= 0:
            return True
        if not self.inside(offset, length):
            self.corruptions += times
            return False
        first = offset >> self.geometry.cluster_bits
        last = (offset + length - 1) >> self.geometry.cluster_bits
        self.claim_run(first, last + 1 - first, times, METADATA)
        self.add_extents(np.array([first]), np.array([last + 1 - first]), kind, np.array([which]))
        return True

    def claim_overlapping(self, regions: list[tuple[int, int, int]], kind: Kind) -> None:
        """Count metadata regions (offset, length, which), each one once, as `claim` does.

        The cost is that of the clusters they cover, however often they overlap.
        """
        inside = [item for item in regions if item[1] > 0 and self.inside(*item[:2])]
        self.corruptions += sum(length > 0 for _, length, _ in regions) - len(inside)
        if not inside:
            return
        offset, length, which = np.array(inside, np.int64).T
        first = offset >> self.geometry.cluster_bits
        end = ((offset + length - 1) >> self.geometry.cluster_bits) + 1
        edges, place = np.unique(np.concatenate((first, end)), return_inverse=True)
        steps = np.repeat((1, -1), first.size)
        times = np.cumsum(np.bincount(place.ravel(), steps).astype(np.int64))
        for low, high, count in zip(
            edges[:-1].tolist(), edges[1:].tolist(), times[:-1].tolist(), strict=True
        ):
            if count:
                self.claim_run(low, high - low, count, METADATA | (CLASH if count > 1 else 0))
        self.clashed |= bool((times > 1).any())
        self.add_extents(first, end - first, kind, which)

    def add_extents(self, first: AnyArray, count: AnyArray, kind: Kind, which: IntArray) -> None:
        """Note which metadata structures stand in which clusters."""
        self._extents.append((first, count, kind, which))

    def extents(self) -> tuple[IntArray, IntArray, IntArray, IntArray]:
        """Return all metadata structures as columns: first cluster, count, kind, which one."""
        if not self._extents:
            return NO_INTS, NO_INTS, NO_INTS, NO_INTS
        firsts, counts, kinds, which = zip(*self._extents, strict=True)
        kind = np.concatenate([np.full(len(f), k) for f, k in zip(firsts, kinds, strict=True)])
        return np.concatenate(firsts), np.concatenate(counts), kind, np.concatenate(which)

    def clusters_of(self, kind: Kind) -> int:
        """Return how many clusters structures of *kind* take, each structure for itself."""
        return sum(int(count.sum()) for _, count, of, _ in self._extents if of is kind)

    def claim_run(self, first: int, count: int, times: int, bits: int) -> None:
        """Count *times* references to each of *count* clusters from *first* on, by a new owner."""
        end = first + count
        self.size = max(self.size, end)
        owners = self.owners[first:end]
        if not owners.any():
            owners[:] = bits
            self._make_room(times)
            self.counted[first:end] = times
            return
        clash = (owners & _rivals(bits)) != 0
        self.clashed |= bool(clash.any())
        owners[clash] |= CLASH
        owners |= np.uint8(bits)
        self._make_room(int(self.counted[first:end].max()) + times)
        self.counted[first:end] += self.counted.dtype.type(times)

    def claim_each(self, clusters: AnyArray, times: int, bits: int, *, fresh: bool = True) -> None:
        """Count *times* references to each of *clusters*, which may repeat and have any order.

        *fresh* ones are by an owner that was not met before: such a claim on a cluster that
        already has an owner, or twice on the same, is noted as a clash; one on metadata always is.
        """
        if not clusters.size:
            return
        ordered = np.sort(clusters.astype(np.int32, copy=False))
        self.size = max(self.size, int(ordered[-1]) + 1)
        repeated = ordered[1:] == ordered[:-1]
        if repeated.any():
            starts = np.concatenate(([0], np.flatnonzero(~repeated) + 1))
            self._claim_distinct(
                ordered[starts], np.diff(np.append(starts, ordered.size)), times, bits, fresh=fresh
            )
        elif self.owners[ordered].any():
            self._claim_distinct(ordered, np.ones(1, np.int64), times, bits, fresh=fresh)
        else:
            self._make_room(times)
            self.owners[ordered] = bits
            self.counted[ordered] = times

    def _claim_distinct(
        self, distinct: AnyArray, repeats: IntArray, times: int, bits: int, *, fresh: bool
    ) -> None:
        before = self.owners[distinct]
        after = before | np.uint8(bits)
        if fresh:
            clash = (before & _rivals(bits)) != 0
            if not bits & COMPRESSED:
                clash |= repeats > 1
        else:
            clash = (before & METADATA) != 0
        self.clashed |= bool(clash.any())
        after[clash] |= CLASH
        self.owners[distinct] = after
        counts = self.counted[distinct].astype(np.int64) + repeats * times
        self._make_room(int(counts.max()))
        self.counted[distinct] = counts

    def claim_ranges(self, first: AnyArray, count: AnyArray, times: int, bits: int) -> None:
        """Count references to every cluster of the runs (first, count), by new owners."""
        single = count.size > 0 and int(count.max()) == 1
        self.claim_each(first if single else spread(first, count), times, bits)

    def saturated(self, start: int, end: int) -> AnyArray:
        """Return the references of clusters *start* to *end*, no more than can be stored."""
        counted = self.counted[start:end]
        most = self.geometry.refcount_max
        return np.minimum(counted, most) if most < np.iinfo(counted.dtype).max else counted

    def _make_room(self, largest: int) -> None:
        while largest > np.iinfo(self.counted.dtype).max:
            self.counted = self.counted.astype(f"u{self.counted.dtype.itemsize * 2}")


def _rivals(bits: int) -> np.uint8:
    """Return the owner bits that a new owner of *bits* can't share a cluster with."""
    return np.uint8(CLAIMED & ~COMPRESSED if bits & COMPRESSED else CLAIMED)
