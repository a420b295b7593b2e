"""The snapshot table as it is walked, the quantities of an image, and L2 entries decoded."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfix.layout import tables
from qfix.layout.geometry import Geometry
from qfix.layout.snapshots import Snapshot, TableEnd, walk_snapshots
from qfix.recount.entries import Entries, decode

if TYPE_CHECKING:
    from qfix.image import Image
    from qfix.recount.batches import Batch

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
BASE = 0x10000
COPIED, COMPRESSED = 1 << 63, 1 << 62


def geometry(
    bits: int = 16,
    size: int = GIB,
    *,
    order: int = 4,
    extended: bool = False,
    data_file: bool = False,
    file_size: int = MIB,
) -> Geometry:
    """Return a geometry by what a case is about."""
    return Geometry(bits, order, extended, data_file, size, file_size)


def entry(
    id_str: bytes, name: bytes, extra: bytes = bytes(24), *, vm_state: int = 0, l1: int = 0x50000
) -> bytes:
    """Return a snapshot table entry without padding."""
    fixed = struct.pack(
        *(">QIHHIIQII", l1, 3, len(id_str), len(name)),
        *(1_600_000_000, 5, 7, vm_state, len(extra)),
    )
    return fixed + extra + id_str + name


def table_of(*entries: bytes) -> bytes:
    """Join entries, each on an 8-byte boundary; the last one has no padding."""
    padded = [raw + b"\0" * (-len(raw) % 8) for raw in entries[:-1]]
    return b"".join([*padded, *entries[-1:]])


def walk(raw: bytes, count: int, inside: int | None = None) -> tuple[list[Snapshot], TableEnd]:
    """Walk a table that stands at BASE in a file that ends with it, or after *inside* bytes."""

    def read(offset: int, length: int) -> bytes:
        at = offset - BASE
        assert at >= 0
        return raw[at : at + length].ljust(length, b"\0")

    *found, end = walk_snapshots(read, BASE, count, len(raw) if inside is None else inside)
    assert isinstance(end, TableEnd)
    snapshots = [item for item in found if isinstance(item, Snapshot)]
    assert len(snapshots) == len(found)
    return snapshots, end


def l2(geometry_: Geometry, *values: int, bitmaps: tuple[int, ...] = ()) -> Entries:
    """Decode one L2 table that begins with these entries."""
    row = np.zeros((1, geometry_.l2_entries), np.uint64)
    row[0, : len(values)] = values
    maps = None
    if geometry_.extended:
        maps = np.zeros_like(row)
        maps[0, : len(bitmaps)] = bitmaps

    class OnlyGeometry:
        geometry = geometry_

    class OnlyEntries:
        entries = row
        bitmaps = maps

    return decode(cast("Image", OnlyGeometry()), cast("Batch", OnlyEntries()))


def test_snapshots_stand_on_8_byte_boundaries() -> None:
    first, second = entry(b"1", b"before"), entry(b"22", b"after", vm_state=9, l1=0x70000)
    snapshots, end = walk(table_of(first, second), 2)

    assert len(first) % 8
    assert [(item.index, item.offset) for item in snapshots] == [
        (0, BASE),
        (1, BASE + (len(first) + 7) // 8 * 8),
    ]
    assert [(item.id_str, item.name) for item in snapshots] == [
        (b"1", b"before"),
        (b"22", b"after"),
    ]
    assert snapshots[1].entry.l1_table_offset == 0x70000
    assert (end.size, end.reason, end.behind) == (len(table_of(first, second)), "", 0)


def test_extra_data_of_a_snapshot() -> None:
    extra = struct.pack(">QQQ", 5 << 32, 3 * GIB, 77)
    (whole,), _ = walk(entry(b"1", b"n", extra + b"unknown", vm_state=1), 1)
    (short,), _ = walk(entry(b"1", b"n", b"", vm_state=1), 1)
    (sized,), _ = walk(entry(b"1", b"n", extra[:16]), 1)
    (plain,), _ = walk(entry(b"1", b"n", struct.pack(">QQQ", 0, 0, (1 << 64) - 1)), 1)

    assert (whole.vm_state_size, whole.disk_size, whole.icount) == (5 << 32, 3 * GIB, 77)
    assert whole.extra == extra + b"unknown"
    assert (short.vm_state_size, short.disk_size, short.icount) == (1, None, None)
    assert (sized.vm_state_size, sized.disk_size, sized.icount) == (5 << 32, 3 * GIB, None)
    assert (plain.vm_state_size, plain.disk_size, plain.icount) == (0, 0, None)


def test_too_much_extra_data_does_not_hide_what_follows() -> None:
    first, second = entry(b"1", b"long", b"x" * 5000), entry(b"2", b"next")
    snapshots, _ = walk(table_of(first, second), 2)

    assert [item.name for item in snapshots] == [b"long", b"next"]
    assert snapshots[0].entry.extra_data_size == 5000
    assert len(snapshots[0].extra) == 1024


def test_entries_behind_the_file_are_counted_not_read() -> None:
    raw = table_of(entry(b"1", b"only"), b"")
    snapshots, end = walk(raw, 60_000)

    assert [item.name for item in snapshots] == [b"only"]
    assert end.behind == 59_999
    assert end.size == len(raw) + 59_999 * 40


def test_a_table_that_grows_beyond_64_mib_ends() -> None:
    huge = struct.pack(">QIHHIIQII", 0, 0, 1, 1, 0, 0, 0, 0, 64 * MIB)
    snapshots, end = walk(table_of(entry(b"1", b"a"), huge), 2)

    assert [item.name for item in snapshots] == [b"a"]
    assert end.reason
    assert end.size == (len(entry(b"1", b"a")) + 7) // 8 * 8


def test_no_snapshots() -> None:
    assert walk(b"", 0) == ([], TableEnd(0))


@given(
    names=st.lists(
        st.tuples(st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=99)),
        max_size=8,
    )
)
def test_walk_finds_what_was_written(names: list[tuple[bytes, bytes, bytes]]) -> None:
    raw = table_of(*(entry(*parts) for parts in names))
    snapshots, end = walk(raw, len(names))

    assert [(item.id_str, item.name, item.extra) for item in snapshots] == names
    assert end.size == len(raw)


@given(raw=st.binary(max_size=400), count=st.integers(0, 12))
def test_any_bytes_can_be_walked(raw: bytes, count: int) -> None:
    snapshots, end = walk(raw, count)
    assert len(snapshots) + end.behind <= count


# cluster bits, size, extended -> entries a table, guest bytes an L1 entry, L1 entries needed
GEOMETRIES = [
    (16, GIB, False, 8192, 512 * MIB, 2),
    (16, GIB + 1, False, 8192, 512 * MIB, 3),
    (16, 0, False, 8192, 512 * MIB, 0),
    (16, GIB, True, 4096, 256 * MIB, 4),
    (9, 64 * KIB, False, 64, 32 * KIB, 2),
    (21, TIB, False, 262144, 512 * GIB, 2),
    (14, MIB, True, 1024, 16 * MIB, 1),
]


@pytest.mark.parametrize(("bits", "size", "extended", "per_table", "mapped", "needed"), GEOMETRIES)
def test_tables_of_an_image(
    bits: int,
    size: int,
    extended: bool,
    per_table: int,
    mapped: int,
    needed: int,
) -> None:
    made = geometry(bits, size, extended=extended)
    assert made.cluster_size == 1 << bits
    assert made.entry_size == (16 if extended else 8)
    assert made.l2_entries == per_table
    assert made.bytes_per_l1_entry == mapped
    assert made.needed_l1_entries == needed


@pytest.mark.parametrize(
    ("order", "per_block", "most"),
    [
        (0, 524288, 1),
        (1, 262144, 3),
        (2, 131072, 15),
        (3, 65536, 255),
        (4, 32768, 65535),
        (5, 16384, 4294967295),
        (6, 8192, 18446744073709551615),
    ],
)
def test_refcounts_of_a_block_of_64_kib(order: int, per_block: int, most: int) -> None:
    assert geometry(order=order).refcounts_per_block == per_block
    assert geometry(order=order).refcount_max == most


@pytest.mark.parametrize(
    ("size", "sectors", "clusters"),
    [
        (0, 0, 0),
        (511, 0, 0),
        (512, 512, 1),
        (65536, 65536, 1),
        (66047, 65536, 1),
        (66048, 66048, 2),
    ],
)
def test_the_disk_is_whole_sectors_rounded_down(size: int, sectors: int, clusters: int) -> None:
    assert geometry(size=size).sectors_size == sectors
    assert geometry(size=size).guest_clusters == clusters


@pytest.mark.parametrize(
    ("size", "length", "clusters"),
    [(0, 0, 0), (1, 512, 1), (196616, 197120, 4), (196608, 196608, 3), (65537, 66048, 2)],
)
def test_the_file_is_whole_sectors_rounded_up(size: int, length: int, clusters: int) -> None:
    assert geometry(file_size=size).file_length == length
    assert geometry(file_size=size).host_clusters == clusters


def test_clusters_of_a_length() -> None:
    assert [geometry().clusters(length) for length in (0, 1, 65536, 65537)] == [0, 1, 1, 2]


def test_masks_are_those_of_the_format() -> None:
    assert tables.OFFSET_MASK == 0x00FFFFFFFFFFFE00
    assert tables.L1_RESERVED == 0x7F000000000001FF
    assert tables.L2_RESERVED == 0x3F000000000001FE
    assert tables.REFTABLE_OFFSET_MASK == 0xFFFFFFFFFFFFFE00
    assert tables.REFTABLE_RESERVED == 0x1FF


@pytest.mark.parametrize("bits", range(9, 22))
def test_descriptor_split(bits: int) -> None:
    # x of the format's table: 61 for 512 B, 54 for 64 KiB, 49 for 2 MiB
    x = {9: 61, 14: 56, 16: 54, 21: 49}.get(bits, 70 - bits)
    assert tables.descriptor_bits(bits) == x
    most = (1 << 62 - x) - 1
    start = 0x1234 if bits > 9 else 0x200
    found = l2(geometry(bits), COMPRESSED | most << x | start, COMPRESSED | start)

    assert found.compressed.tolist() == [True, True]
    assert found.offset.tolist() == [start, start]
    assert found.length.tolist() == [(most + 1) * 512 - start % 512, 512 - start % 512]
    assert (most + 1) * 512 == 2 << bits


def test_literal_descriptors_of_64_kib_clusters() -> None:
    # bits 0 to 53 the offset, 54 to 61 the sectors that follow the first
    found = l2(geometry(16), 0x4000000000050000, 0x40C0000000050123, 0x7FC00000000501FF)

    assert found.offset.tolist() == [0x50000, 0x50123, 0x501FF]
    assert found.length.tolist() == [512, 4 * 512 - 0x123, 256 * 512 - 0x1FF]
    assert not found.reserved.any()
    assert not found.standard.any()


def test_literal_entries() -> None:
    found = l2(
        *(geometry(16), 0x8000000000050000, 0, 1, 0x8000000000060001, 0x50000, COPIED),
        *(0x8100000000070002, COMPRESSED | 1),
    )

    assert found.index.tolist() == [0, 2, 3, 4, 5, 6, 7]
    assert found.standard.tolist() == [True, False, True, True, False, True, False]
    assert found.zero.tolist() == [False, True, True, False, False, False, False]
    assert found.copied.tolist() == [True, False, True, False, True, True, False]
    assert found.reserved.tolist() == [False, False, False, False, False, True, False]
    assert found.offset.tolist() == [0x50000, 0, 0x60000, 0x50000, 0, 0x70000, 1]
    assert found.length.tolist()[0] == 65536


def test_offset_0_of_a_data_file_is_a_cluster() -> None:
    found = l2(geometry(16, data_file=True), COPIED, 1, COPIED | 1, 0x10000)
    assert found.standard.tolist() == [True, False, False, True]


def test_subcluster_entries() -> None:
    maps = (0xFFFFFFFF, 0xFFFFFFFE00000001, 0x100000000, 0)
    found = l2(geometry(16, extended=True), 0x50000, 0x60001, 0, 0x70000, bitmaps=maps)

    assert found.index.tolist() == [0, 1, 2, 3]
    assert found.standard.tolist() == [True, True, False, True]
    assert not found.zero.any()
    assert found.alloc.tolist() == [0xFFFFFFFF, 1, 0, 0]
    assert found.zeros.tolist() == [0, 0xFFFFFFFE, 1, 0]
