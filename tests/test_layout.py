"""The bytes of the format: records, header, extensions, snapshot table, bitmap directory."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfix.layout.bitmaps import BitmapEntry, parse_directory
from qfix.layout.extensions import (
    BACKING_FORMAT,
    BITMAPS,
    DATA_FILE_NAME,
    ENCRYPTION,
    FEATURE_NAMES,
    BitmapsExtension,
    EncryptionPointer,
    feature_names,
    parse_extensions,
)
from qfix.layout.header import FEATURE_NAMES as FEATURES
from qfix.layout.header import Header, decode_header
from qfix.layout.snapshots import SnapshotEntry

if TYPE_CHECKING:
    from qfix.layout.record import Record

SIZES = {
    Header: 104,
    SnapshotEntry: 40,
    BitmapEntry: 24,
    BitmapsExtension: 24,
    EncryptionPointer: 16,
}
RECORDS = pytest.mark.parametrize("kind", SIZES, ids=lambda kind: kind.__name__)

# Offset and length of each field, as the tables of the format have them.
HEADER = {
    "magic": (0, 4),
    "version": (4, 4),
    "backing_file_offset": (8, 8),
    "backing_file_size": (16, 4),
    "cluster_bits": (20, 4),
    "size": (24, 8),
    "crypt_method": (32, 4),
    "l1_size": (36, 4),
    "l1_table_offset": (40, 8),
    "refcount_table_offset": (48, 8),
    "refcount_table_clusters": (56, 4),
    "nb_snapshots": (60, 4),
    "snapshots_offset": (64, 8),
    "incompatible_features": (72, 8),
    "compatible_features": (80, 8),
    "autoclear_features": (88, 8),
    "refcount_order": (96, 4),
    "header_length": (100, 4),
}
SNAPSHOT = {
    "l1_table_offset": (0, 8),
    "l1_size": (8, 4),
    "id_str_size": (12, 2),
    "name_size": (14, 2),
    "date_sec": (16, 4),
    "date_nsec": (20, 4),
    "vm_clock_nsec": (24, 8),
    "vm_state_size": (32, 4),
    "extra_data_size": (36, 4),
}
BITMAP = {
    "bitmap_table_offset": (0, 8),
    "bitmap_table_size": (8, 4),
    "flags": (12, 4),
    "type": (16, 1),
    "granularity_bits": (17, 1),
    "name_size": (18, 2),
    "extra_data_size": (20, 4),
}
PLACES = [
    *((Header, name, *place) for name, place in HEADER.items()),
    *((SnapshotEntry, name, *place) for name, place in SNAPSHOT.items()),
    *((BitmapEntry, name, *place) for name, place in BITMAP.items()),
    (BitmapsExtension, "nb_bitmaps", 0, 4),
    (BitmapsExtension, "reserved", 4, 4),
    (BitmapsExtension, "bitmap_directory_size", 8, 8),
    (BitmapsExtension, "bitmap_directory_offset", 16, 8),
    (EncryptionPointer, "offset", 0, 8),
    (EncryptionPointer, "length", 8, 8),
]


def extension(magic: int, data: bytes) -> bytes:
    """Return an extension, padded with bytes that are not zero."""
    return struct.pack(">II", magic, len(data)) + data + b"\xee" * (-len(data) % 8)


def directory_entry(name: bytes, *, extra: int = 0) -> bytes:
    """Return a bitmap directory entry with its padding."""
    raw = struct.pack(">QIIBBHI", 0x5000, 1, 2, 1, 16, len(name), extra) + bytes(extra) + name
    return raw + bytes(-len(raw) % 8)


@RECORDS
def test_size(kind: type[Record]) -> None:
    assert kind.codec.size == SIZES[kind]
    assert sum(field.width for field in kind.fields()) == SIZES[kind]


@RECORDS
@given(data=st.data())
def test_round_trip(kind: type[Record], data: st.DataObject) -> None:
    size = SIZES[kind]
    raw = data.draw(st.binary(min_size=size, max_size=size))

    assert kind.decode(raw).encode() == raw
    assert kind.decode(b"before" + raw + b"after", 6).encode() == raw


@pytest.mark.parametrize(("kind", "name", "offset", "width"), PLACES)
def test_field_is_in_its_place(kind: type[Record], name: str, offset: int, width: int) -> None:
    value = int.from_bytes(bytes(range(0xA1, 0xA1 + width)), "big")
    raw = bytearray(SIZES[kind])
    raw[offset : offset + width] = value.to_bytes(width, "big")

    decoded = kind.decode(bytes(raw))
    assert {each: getattr(decoded, each) for each in kind.names if getattr(decoded, each)} == {
        name: value
    }
    (field,) = [field for field in kind.fields() if field.name == name]
    assert (field.offset, field.width) == (offset, width)


def test_all_fields_are_known() -> None:
    assert sorted((kind.__name__, name) for kind, name, *_ in PLACES) == sorted(
        (kind.__name__, name) for kind in SIZES for name in kind.names
    )


def test_header_of_version_3() -> None:
    raw = bytes(range(104))
    header = decode_header(raw[:4] + b"\0\0\0\3" + raw[8:] + b"behind the header")

    assert header.version == 3
    assert header.incompatible_features == 0x48494A4B4C4D4E4F
    assert header.words == (
        header.incompatible_features,
        header.compatible_features,
        header.autoclear_features,
    )
    assert (header.refcount_order, header.header_length) == (0x60616263, 0x64656667)


def test_header_of_version_2_ends_at_72() -> None:
    header = decode_header(b"QFI\xfb\0\0\0\2" + b"\xff" * 96)

    assert header.snapshots_offset == (1 << 64) - 1
    assert header.words == (0, 0, 0)
    assert header.refcount_order == 4
    assert header.header_length == 72


def test_header_of_a_short_version_2_file() -> None:
    raw = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 0, 0, 16, 1 << 30, 0, 2, 3, 4, 5, 6, 7)
    header = decode_header(raw)

    assert len(raw) == 72
    assert (header.magic, header.size, header.snapshots_offset) == (0x514649FB, 1 << 30, 7)
    assert header.refcount_order == 4


def test_extension_types_are_those_of_the_format() -> None:
    types = (BACKING_FORMAT, FEATURE_NAMES, BITMAPS, ENCRYPTION, DATA_FILE_NAME)
    assert types == (0xE2792ACA, 0x6803F857, 0x23852875, 0x0537BE77, 0x44415441)


def test_extensions_are_padded_and_end() -> None:
    head = bytes(112)
    area = extension(BACKING_FORMAT, b"qcow2") + extension(0x11111111, b"") + bytes(8)
    parsed = parse_extensions(head + area + extension(0x22222222, b"behind the end"), 112, 512)

    assert [(item.offset, item.magic, item.data) for item in parsed.extensions] == [
        (112, BACKING_FORMAT, b"qcow2"),
        (128, 0x11111111, b""),
    ]
    assert (parsed.end, parsed.overrun) == (144, None)


def test_the_last_extension_of_a_kind_counts() -> None:
    area = extension(BACKING_FORMAT, b"raw") + extension(BACKING_FORMAT, b"vmdk") + bytes(8)
    parsed = parse_extensions(area, 0, len(area))

    found = parsed.find(BACKING_FORMAT)
    assert found is not None
    assert found.data == b"vmdk"
    assert parsed.find(BITMAPS) is None


@pytest.mark.parametrize(
    ("length", "room", "overruns"),
    [(8, 16, False), (9, 16, True), (5, 13, False), (6, 13, True), (0xFFFFFFFF, 512, True)],
)
def test_extension_must_fit(length: int, room: int, overruns: bool) -> None:
    cluster = bytes(104) + struct.pack(">II", 0x33333333, length) + b"d" * 600
    parsed = parse_extensions(cluster[: 104 + room], 104, 104 + room)

    assert parsed.overrun == (104 if overruns else None)
    assert len(parsed.extensions) == (0 if overruns else 1)


def test_the_end_marker_must_fit_too() -> None:
    cluster = bytes(104) + struct.pack(">II", 0, 9) + bytes(8)
    assert parse_extensions(cluster, 104, 120).overrun == 104
    assert parse_extensions(cluster, 104, 121).overrun is None


@pytest.mark.parametrize("limit", [104, 100])
def test_no_extensions_where_the_area_is_empty(limit: int) -> None:
    cluster = bytes(104) + extension(0x33333333, b"not looked at") + bytes(8)
    parsed = parse_extensions(cluster, 104, limit)
    assert parsed.extensions == ()
    assert parsed.overrun is None


def test_area_may_end_without_a_marker() -> None:
    area = extension(0x33333333, b"12345678")
    parsed = parse_extensions(area, 0, len(area))
    assert len(parsed.extensions) == 1
    assert parsed.overrun is None


@given(raw=st.binary(max_size=200), start=st.integers(0, 210), limit=st.integers(0, 200))
def test_extensions_of_any_bytes_stay_inside(raw: bytes, start: int, limit: int) -> None:
    limit = min(limit, len(raw))
    parsed = parse_extensions(raw, start, limit)
    for item in parsed.extensions:
        assert start <= item.offset
        assert item.offset + 8 + len(item.data) <= limit


def test_feature_name_table() -> None:
    full = b"n" * 46
    table = b"\0\0dirty bit".ljust(48, b"\0") + b"\1\x07" + full + b"\2\x3f\xff\0".ljust(48, b"\0")
    assert feature_names(table + b"cut record") == {
        (0, 0): "dirty bit",
        (1, 7): full.decode(),
        (2, 63): "\ufffd",
    }


def test_own_feature_names_are_those_qemu_writes() -> None:
    assert FEATURES == {
        (0, 0): "dirty bit",
        (0, 1): "corrupt bit",
        (0, 2): "external data file",
        (0, 3): "compression type",
        (0, 4): "extended L2 entries",
        (1, 0): "lazy refcounts",
        (2, 0): "bitmaps",
        (2, 1): "raw external data",
    }


def test_bitmap_directory() -> None:
    first, second = directory_entry(b"one"), directory_entry(b"the second", extra=5)
    directory = parse_directory(first + second, 0x4000, 100)

    assert [(item.index, item.offset, item.name) for item in directory.bitmaps] == [
        (0, 0x4000, b"one"),
        (1, 0x4000 + 32, b"the second"),
    ]
    assert (directory.end, directory.broken_at) == (len(first + second), None)
    entry = directory.bitmaps[1].entry
    assert (entry.bitmap_table_offset, entry.granularity_bits, entry.flags) == (0x5000, 16, 2)


@pytest.mark.parametrize("cut", [1, 8, 16, 31])
def test_bitmap_directory_that_is_cut(cut: int) -> None:
    raw = directory_entry(b"one") + directory_entry(b"two")
    directory = parse_directory(raw[:-cut], 0x4000, 100)
    assert [item.name for item in directory.bitmaps] == [b"one"]
    assert directory.broken_at == 0x4000 + 32


def test_bitmap_directory_is_read_up_to_a_limit() -> None:
    directory = parse_directory(directory_entry(b"x") * 5, 0, 3)
    assert len(directory.bitmaps) == 3
    assert parse_directory(b"", 0, 3).bitmaps == ()


@pytest.mark.parametrize(
    ("size", "entries"), [(0, 0), (1, 1), (1 << 37, 4), ((1 << 37) + 1, 5), ((1 << 35), 1)]
)
def test_bitmap_table_entries(size: int, entries: int) -> None:
    # 2**16 bytes a bit, 8 bits a byte, 2**16 bytes a cluster: one entry covers 2**35 bytes
    (bitmap,) = parse_directory(directory_entry(b"x"), 0, 1).bitmaps
    assert bitmap.needed_entries(size, 1 << 16) == entries
