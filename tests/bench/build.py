"""Builds the large sparse qcow2 images that the bench times; it writes metadata, never guest data.

    python build.py FOLDER [NAME ...]

Refcounts and copied flags are counted from the finished tables, not assumed, so that an image is
right by construction. Host clusters are handed out the way QEMU's metadata preallocation does.
Cluster size is 64 KiB, refcounts have 16 bits.
"""

from __future__ import annotations

import struct
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

CLUSTER_BITS = 16
CLUSTER_SIZE = 1 << CLUSTER_BITS
L2_ENTRIES = CLUSTER_SIZE // 8
REFCOUNTS_PER_BLOCK = CLUSTER_SIZE // 2
COPIED = np.uint64(1 << 63)
GIB = 1 << 30
SEED = 20110

HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQIIB7x")
SNAPSHOT = struct.Struct(">QIHHIIQIIQQQ")

Clusters = npt.NDArray[np.int64]
Refcounts = npt.NDArray[np.uint16]


@dataclass(slots=True)
class Space:
    """Host clusters handed out in order; a refcount block follows what first reaches into it."""

    end: int = 0
    refcount_blocks: list[int] = field(default_factory=list)

    def take(self, count: int) -> int:
        """Return the first of *count* new clusters in a row."""
        first = self.end
        self.end += count
        while self.end > len(self.refcount_blocks) * REFCOUNTS_PER_BLOCK:
            self.refcount_blocks.append(self.end)
            self.end += 1
        return first


@dataclass(slots=True)
class Layout:
    """The tables of one image in memory: an L1 table lists indexes into *l2_tables*.

    *l2_tables* and *data* share their index: where an L2 table is, and the host clusters that its
    entries lead to. The active L1 table is the first, those of the snapshots follow.
    """

    space: Space = field(default_factory=Space)
    l1_clusters: list[int] = field(default_factory=list)
    l1_tables: list[Clusters] = field(default_factory=list)
    l2_tables: list[int] = field(default_factory=list)
    data: list[Clusters] = field(default_factory=list)

    @classmethod
    def full(cls, size: int) -> Layout:
        """Return a layout in which every guest cluster is mapped, in order."""
        layout = cls()
        layout.space.take(2)  # the header and the refcount table
        count = size // (L2_ENTRIES * CLUSTER_SIZE)
        layout.l1_clusters.append(layout.space.take(1))
        for _ in range(count):
            table = layout.space.take(1 + L2_ENTRIES)
            layout.l2_tables.append(table)
            layout.data.append(np.arange(table + 1, table + 1 + L2_ENTRIES))
        layout.l1_tables.append(np.arange(count))
        return layout

    def take_snapshot(self) -> None:
        """Copy the active L1 table, as a snapshot does."""
        self.l1_clusters.append(self.space.take(1))
        self.l1_tables.append(self.l1_tables[0].copy())

    def rewrite(self, l1_index: int, entries: Clusters) -> None:
        """Give guest clusters new places in a new copy of their L2 table, as a write does."""
        data = self.data[self.l1_tables[0][l1_index]].copy()
        self.l1_tables[0][l1_index] = len(self.l2_tables)
        self.l2_tables.append(self.space.take(1))
        first = self.space.take(len(entries))
        data[entries] = np.arange(first, first + len(entries))
        self.data.append(data)

    def count(self, snapshot_table: int | None) -> Refcounts:
        """Return the number of references to each host cluster."""
        refcounts = np.zeros(self.space.end, np.uint16)
        refcounts[:2] = 1
        refcounts[self.space.refcount_blocks] = 1
        refcounts[self.l1_clusters] = 1
        if snapshot_table is not None:
            refcounts[snapshot_table] = 1
        users = np.zeros(len(self.l2_tables), np.uint16)
        for l1_table in self.l1_tables:
            users[l1_table] += 1
        for table, data, used in zip(self.l2_tables, self.data, users, strict=True):
            refcounts[table] += used
            refcounts[data] += used  # no cluster occurs twice in one table
        return refcounts

    def write(self, path: Path) -> None:
        """Write the image, complete or not at all."""
        snapshot_table = self.space.take(1) if len(self.l1_tables) > 1 else None
        refcounts = self.count(snapshot_table)
        unfinished = path.with_suffix(".part")
        with unfinished.open("wb") as file:
            file.truncate(self.space.end * CLUSTER_SIZE)
            self._write_refcounts(file, refcounts)
            self._write_mapping(file, refcounts)
            if snapshot_table is not None:
                _put(file, snapshot_table, self._snapshot_table())
            _put(file, 0, self._header(snapshot_table or 0))
        unfinished.replace(path)

    @property
    def size(self) -> int:
        """The virtual size in bytes."""
        return len(self.l1_tables[0]) * L2_ENTRIES * CLUSTER_SIZE

    def _write_refcounts(self, file: BinaryIO, refcounts: Refcounts) -> None:
        blocks = np.array(self.space.refcount_blocks)
        _put(file, 1, (blocks << CLUSTER_BITS).astype(">u8").tobytes())
        for index, block in enumerate(self.space.refcount_blocks):
            first = index * REFCOUNTS_PER_BLOCK
            part = refcounts[first : first + REFCOUNTS_PER_BLOCK]
            _put(file, block, part.astype(">u2").tobytes())

    def _write_mapping(self, file: BinaryIO, refcounts: Refcounts) -> None:
        tables = np.array(self.l2_tables)
        for cluster, l1_table in zip(self.l1_clusters, self.l1_tables, strict=True):
            active = cluster == self.l1_clusters[0]
            _put(file, cluster, _entries(tables[l1_table], refcounts, copied=active))
        active_tables = set(self.l1_tables[0].tolist())
        for index, (table, data) in enumerate(zip(self.l2_tables, self.data, strict=True)):
            _put(file, table, _entries(data, refcounts, copied=index in active_tables))

    def _snapshot_table(self) -> bytes:
        table = b""
        for number, cluster in enumerate(self.l1_clusters[1:], 1):
            name = str(number).encode()
            entry = SNAPSHOT.pack(
                cluster << CLUSTER_BITS,
                len(self.l1_tables[0]),
                *(len(name), len(name)),  # id and name
                *(1_700_000_000 + number, 0, 0, 0),  # date, its nanoseconds, clock, VM state size
                *(24, 0, self.size, 0),  # extra data: VM state size, disk size, icount
            )
            entry += name + name
            table += entry + bytes(-len(entry) % 8)
        return table

    def _header(self, snapshot_table: int) -> bytes:
        return HEADER.pack(
            *(b"QFI\xfb", 3),
            *(0, 0),  # no backing file
            *(CLUSTER_BITS, self.size, 0),
            *(len(self.l1_tables[0]), self.l1_clusters[0] << CLUSTER_BITS),
            *(CLUSTER_SIZE, 1),  # refcount table
            *(len(self.l1_tables) - 1, snapshot_table << CLUSTER_BITS),
            *(0, 0, 0),  # features
            *(4, HEADER.size, 0),  # refcount order, header length, compression type
        )


def _entries(clusters: Clusters, refcounts: Refcounts, *, copied: bool) -> bytes:
    """Return an L1 or L2 table that leads to *clusters*, with exact copied flags if *copied*."""
    entries = clusters.astype(np.uint64) << np.uint64(CLUSTER_BITS)
    if copied:
        entries |= np.where(refcounts[clusters] == 1, COPIED, np.uint64(0))
    return entries.astype(">u8").tobytes()


def _put(file: BinaryIO, cluster: int, content: bytes) -> None:
    file.seek(cluster << CLUSTER_BITS)
    file.write(content)


def full_2t() -> Layout:
    """2 TiB, all mapped, in order."""
    return Layout.full(2048 * GIB)


def snap_512g() -> Layout:
    """512 GiB with 7 snapshots that share all L2 tables."""
    layout = Layout.full(512 * GIB)
    for _ in range(7):
        layout.take_snapshot()
    return layout


def random_512g() -> Layout:
    """512 GiB whose data clusters lie in random order over the whole file."""
    layout = Layout.full(512 * GIB)
    data = np.random.default_rng(SEED).permutation(np.concatenate(layout.data))
    layout.data = list(data.reshape(-1, L2_ENTRIES))
    return layout


def copied_64g() -> Layout:
    """64 GiB with 5 snapshots, and a few small writes after each of them."""
    random = np.random.default_rng(SEED)
    layout = Layout.full(64 * GIB)
    for _ in range(5):
        layout.take_snapshot()
        for l1_index in random.choice(128, 6, replace=False).tolist():
            layout.rewrite(l1_index, np.sort(random.choice(L2_ENTRIES, 24, replace=False)))
    return layout


LAYOUTS: dict[str, Callable[[], Layout]] = {
    "full-2t": full_2t,
    "snap-512g": snap_512g,
    "random-512g": random_512g,
    "copied-64g": copied_64g,
}


def main(folder: Path, *names: str) -> None:
    """Build the images *names*, all of them by default."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or LAYOUTS:
        start = time.monotonic()
        path = folder / f"{name}.qcow2"
        LAYOUTS[name]().write(path)
        print(f"built {path} in {time.monotonic() - start:.1f} s", file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
