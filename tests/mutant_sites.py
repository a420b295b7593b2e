"""Finds where an image keeps its structures, so that a mutation can aim at them.

It shares no code with the program under test, trusts nothing and looks at a bounded part only: a
place that it misses costs aim, not correctness.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

OFFSET_MASK = 0x00FF_FFFF_FFFF_FE00
MAX_ENTRIES = 4096
MAX_TABLES = 32
MAX_ZERO_SITES = 8

HEADER = (
    ("magic", 0, 4),
    ("version", 4, 4),
    ("backing_file_offset", 8, 8),
    ("backing_file_size", 16, 4),
    ("cluster_bits", 20, 4),
    ("size", 24, 8),
    ("crypt_method", 32, 4),
    ("l1_size", 36, 4),
    ("l1_table_offset", 40, 8),
    ("refcount_table_offset", 48, 8),
    ("refcount_table_clusters", 56, 4),
    ("nb_snapshots", 60, 4),
    ("snapshots_offset", 64, 8),
    ("incompatible_features", 72, 8),
    ("compatible_features", 80, 8),
    ("autoclear_features", 88, 8),
    ("refcount_order", 96, 4),
    ("header_length", 100, 4),
    ("compression_type", 104, 1),
)
SNAPSHOT = (
    ("l1_table_offset", 0, 8),
    ("l1_size", 8, 4),
    ("id_str_size", 12, 2),
    ("name_size", 14, 2),
    ("date_sec", 16, 4),
    ("date_nsec", 20, 4),
    ("vm_state_size", 32, 4),
    ("extra_data_size", 36, 4),
    ("extra.vm_state_size", 40, 8),
    ("extra.disk_size", 48, 8),
)
BITMAP = (
    ("bitmap_table_offset", 0, 8),
    ("bitmap_table_size", 8, 4),
    ("flags", 12, 4),
    ("type", 16, 1),
    ("granularity_bits", 17, 1),
    ("name_size", 18, 2),
    ("extra_data_size", 20, 4),
)
BITMAPS_EXTENSION = 0x23852875
BITMAPS_FIELDS = (("nb_bitmaps", 0, 4), ("reserved", 4, 4), ("dir_size", 8, 8), ("dir", 16, 8))
CRYPTO_EXTENSION = 0x0537BE77
CRYPTO_FIELDS = (("offset", 0, 8), ("length", 8, 8))


@dataclass(frozen=True, slots=True)
class Site:
    """One big-endian number in an image."""

    name: str
    offset: int
    width: int


@dataclass(frozen=True, slots=True)
class Anatomy:
    """What an image has where: sites by structure, extension headers, offsets of structures."""

    cluster_size: int
    groups: dict[str, list[Site]]
    extensions: list[int]
    offsets: list[int]


def number(data: bytes | bytearray, offset: int, width: int) -> int:
    """Return the big-endian number at *offset*; bytes past the end are absent."""
    return int.from_bytes(data[offset : offset + width])


def dissect(data: bytes) -> Anatomy:
    """Locate the structures of an image, damaged or not, within bounds."""
    cluster_size = 1 << min(max(number(data, 20, 4), 9), 21)
    extensions = list(_extensions(data, cluster_size))
    groups = {"header": list(_fields("header", 0, HEADER))}
    groups["extension"] = list(_extension_sites(data, extensions))
    tables = {"l1": (number(data, 40, 8), number(data, 36, 4))}
    tables |= _snapshots(data, groups)
    _bitmaps(data, extensions, groups)
    _refcounts(data, cluster_size, groups)
    for name, (offset, entries) in tables.items():
        groups[name] = list(_entries(data, name, offset, entries))
    for name in tables:
        groups["l2 of " + name] = [
            site
            for table in _targets(data, groups[name])
            for site in _entries(data, "l2 of " + name, table, cluster_size // 8)
        ]
    inside = {
        name: [site for site in sites if site.offset + site.width <= len(data)]
        for name, sites in groups.items()
    }
    found = {name: sites for name, sites in inside.items() if sites}
    offsets = {site.offset & -cluster_size for sites in found.values() for site in sites}
    return Anatomy(cluster_size, found, extensions, sorted(offsets))


def _fields(name: str, base: int, fields: Iterable[tuple[str, int, int]]) -> Iterator[Site]:
    for field, offset, width in fields:
        yield Site(f"{name}.{field}", base + offset, width)


def _entries(data: bytes, name: str, offset: int, entries: int, width: int = 8) -> Iterator[Site]:
    """Yield the entries of a table that are not zero, and a few of the others."""
    zeros = 0
    for index in range(min(entries, MAX_ENTRIES)):
        place = offset + index * width
        if place + width > len(data):
            return
        if not number(data, place, width):
            zeros += 1
            if zeros > MAX_ZERO_SITES:
                continue
        yield Site(f"{name}[{index}]@{offset:#x}", place, width)


def _targets(data: bytes, sites: list[Site]) -> list[int]:
    """Return the distinct offsets that a table's entries hold."""
    found = {number(data, site.offset, site.width) & OFFSET_MASK for site in sites}
    return sorted(found - {0})[:MAX_TABLES]


def _extensions(data: bytes, cluster_size: int) -> Iterator[int]:
    """Yield the offset of each header extension, the end marker included."""
    place = number(data, 100, 4) if number(data, 4, 4) > 2 else 72
    while place + 8 <= min(cluster_size, len(data)):
        yield place
        if not number(data, place, 4):
            return
        place += 8 + (number(data, place + 4, 4) + 7) // 8 * 8


def _extension_sites(data: bytes, extensions: list[int]) -> Iterator[Site]:
    known = {BITMAPS_EXTENSION: BITMAPS_FIELDS, CRYPTO_EXTENSION: CRYPTO_FIELDS}
    for place in extensions:
        kind = number(data, place, 4)
        yield from _fields(f"extension {kind:#x}", place, (("type", 0, 4), ("length", 4, 4)))
        yield from _fields(f"extension {kind:#x}", place + 8, known.get(kind, ()))


def _snapshots(data: bytes, groups: dict[str, list[Site]]) -> dict[str, tuple[int, int]]:
    """Add the snapshot table's fields to *groups*; return offset and length of each L1 table."""
    place = number(data, 64, 8)
    sites: list[Site] = []
    tables: dict[str, tuple[int, int]] = {}
    for index in range(min(number(data, 60, 4), 16)):
        if place + 40 > len(data):
            break
        sites += _fields(f"snapshot[{index}]", place, SNAPSHOT)
        tables[f"snapshot[{index}].l1"] = number(data, place, 8), number(data, place + 8, 4)
        lengths = ((36, 4), (12, 2), (14, 2))
        place += 40 + sum(number(data, place + at, width) for at, width in lengths)
        place = (place + 7) // 8 * 8
    groups["snapshot table"] = sites
    return tables


def _bitmaps(data: bytes, extensions: list[int], groups: dict[str, list[Site]]) -> None:
    """Add the bitmap directory's fields and the bitmap tables to *groups*."""
    directory: list[Site] = []
    tables: list[Site] = []
    for extension in extensions:
        if number(data, extension, 4) != BITMAPS_EXTENSION:
            continue
        place = number(data, extension + 24, 8)
        for index in range(min(number(data, extension + 8, 4), 16)):
            if place + 24 > len(data):
                break
            directory += _fields(f"bitmap[{index}]", place, BITMAP)
            name = f"bitmap[{index}].table"
            tables += _entries(data, name, number(data, place, 8), number(data, place + 8, 4))
            length = 24 + number(data, place + 18, 2) + number(data, place + 20, 4)
            place += (length + 7) // 8 * 8
    groups["bitmap directory"] = directory
    groups["bitmap tables"] = tables


def _refcounts(data: bytes, cluster_size: int, groups: dict[str, list[Site]]) -> None:
    """Add the refcount table and the refcount blocks to *groups*."""
    bits = 1 << min(number(data, 96, 4), 6) if number(data, 4, 4) > 2 else 16
    width = max(bits // 8, 1)
    entries = number(data, 56, 4) * cluster_size // 8
    table = list(_entries(data, "refcount table", number(data, 48, 8), entries))
    groups["refcount table"] = table
    groups["refcount blocks"] = [
        site
        for block in _targets(data, table)
        for site in _entries(data, "refcount block", block, cluster_size // width, width)
    ]
