"""Seeded damage for the images of the tests: where an image can be hit, and with what.

`FAULTS` is the product of places (a structure of the image) and of values to write there.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import qemu_anatomy as find
from qemu_anatomy import (
    BITMAPS_EXTENSION,
    COMPRESSED,
    DATA_FILE_EXTENSION,
    OFFSET_MASK,
    Anatomy,
    Finder,
    Site,
)

COPIED = 1 << 63
FAULTY_COPIES = 3


@dataclass(frozen=True, slots=True)
class Spot:
    """What a change may look at: the number, its neighbours, the image."""

    value: int
    site: Site
    others: list[int]
    image: Anatomy
    dice: random.Random

    def towards(self, offset: int) -> int:
        """Return the entry with its flags kept and its offset replaced."""
        return self.value & ~OFFSET_MASK | offset


Change = Callable[[Spot], int]

POINTER: dict[str, Change] = {
    "zero": lambda _: 0,
    "unaligned": lambda at: at.value ^ 0x200,
    "at-end": lambda at: at.towards(at.image.end),
    "beyond": lambda at: at.towards(at.image.end + 40 * at.image.cluster_size),
    "far": lambda at: at.towards(1 << 54),
    "low-bits": lambda at: at.value | 0x6,
    "high-bits": lambda at: at.value | 1 << 57,
    "copied": lambda at: at.value ^ COPIED,
    "flags-only": lambda _: COPIED,
    "duplicate": lambda at: at.dice.choice(at.others),
    "to-l1": lambda at: at.towards(at.image.l1_offset),
    "to-reftable": lambda at: at.towards(at.image.table_offset),
    "random": lambda at: at.dice.getrandbits(64),
}
L2_ENTRY = POINTER | {
    "zero-flag": lambda at: at.value ^ 1,
    "compressed": lambda at: at.value & ~COPIED | COMPRESSED,
    "compressed-copied": lambda at: at.value | COPIED | COMPRESSED,
}
DESCRIPTOR: dict[str, Change] = {
    "zero": lambda _: 0,
    "copied": lambda at: at.value | COPIED,
    "plain": lambda at: at.value & ~COMPRESSED,
    "longer": lambda at: at.value | 1 << 61,
    "moved": lambda at: at.value + 0x201,
    "beyond": lambda at: COMPRESSED | at.image.end + 3 * at.image.cluster_size,
    "duplicate": lambda at: at.dice.choice(at.others),
}
SUBCLUSTERS: dict[str, Change] = {
    "zero": lambda _: 0,
    "all": lambda at: at.site.top,
    "alloc-and-zero": lambda at: at.value | 0x0000000400000004,
    "alloc": lambda _: 0x00000000FFFFFFFF,
    "zeros": lambda _: 0xFFFFFFFF00000000,
}
TABLE_ENTRY = {name: POINTER[name] for name in ("zero", "unaligned", "beyond", "far", "low-bits")}
BLOCK_ENTRY = TABLE_ENTRY | {
    name: POINTER[name] for name in ("at-end", "duplicate", "to-l1", "high-bits", "random")
}
COUNT: dict[str, Change] = {
    "more": lambda at: at.value + 1,
    "less": lambda at: at.value - 1,
    "zero": lambda _: 0,
    "most": lambda at: at.site.top,
    "random": lambda at: at.dice.getrandbits(64),
}
POSITION: dict[str, Change] = {
    "zero": lambda _: 0,
    "unaligned": lambda at: at.value + 0x108,
    "next": lambda at: at.value + at.image.cluster_size,
    "beyond": lambda at: at.image.end + 16 * at.image.cluster_size,
    "far": lambda at: at.value | 1 << 55,
    "huge": lambda at: at.value | 1 << 63,
}


def _to(*values: int) -> dict[str, Change]:
    """Return changes that store each of *values*."""
    return {f"{value:#x}": lambda _, value=value: value for value in values}  # type: ignore[misc]


def _plus(*values: int) -> dict[str, Change]:
    """Return changes that add each of *values*."""
    return {f"{value:+d}": lambda at, value=value: at.value + value for value in values}  # type: ignore[misc]


PLACES: dict[str, tuple[Finder, Mapping[str, Change]]] = {
    "l1": (lambda image: image.used(find.active_l1(image)), POINTER),
    "l1-free": (
        lambda image: [site for site in find.active_l1(image) if not site.read(image.raw)],
        {name: POINTER[name] for name in ("flags-only", "beyond", "to-l1", "low-bits")},
    ),
    "l2": (lambda image: image.used(image.l2_below(find.active_l1(image))), L2_ENTRY),
    "l2-any": (
        lambda image: image.l2_below(find.active_l1(image)),
        {name: L2_ENTRY[name] for name in ("flags-only", "duplicate", "zero-flag", "random")},
    ),
    "compressed": (find.compressed, DESCRIPTOR),
    "subclusters": (find.subclusters, SUBCLUSTERS),
    "snapshot-l1": (lambda image: image.used(find.snapshot_l1(image)), POINTER),
    "snapshot-l2": (lambda image: image.used(image.l2_below(find.snapshot_l1(image))), L2_ENTRY),
    "reftable": (lambda image: image.used(find.refcount_table(image)), BLOCK_ENTRY),
    "reftable-free": (
        lambda image: [site for site in find.refcount_table(image) if not site.read(image.raw)],
        {name: BLOCK_ENTRY[name] for name in ("beyond", "far", "to-l1", "low-bits", "random")},
    ),
    "refcount": (lambda image: image.used(image.refcounts), COUNT),
    "refcount-free": (
        lambda image: [site for site in image.refcounts if not site.read(image.raw)],
        {name: COUNT[name] for name in ("more", "most")},
    ),
    "bitmap-table": (lambda image: image.used(find.bitmap_tables(image)), TABLE_ENTRY),
    "bitmap-table-any": (find.bitmap_tables, _to(1, 2, 1 << 60)),
    "magic": (find.field(0, 4), _to(0x514649FA)),
    "version": (find.field(4, 4), _to(1, 2, 3, 4)),
    "backing_file_offset": (find.field(8, 8), _to(80, 1 << 40)),
    "backing_file_name": (find.backing_name, _to(0x58)),
    "backing_file_size": (find.field(16, 4), _to(1024)),
    "cluster_bits": (find.field(20, 4), _to(8, 22) | _plus(1, -1)),
    "size": (find.field(24, 8), _to(0, 1 << 50, (1 << 63) - 512, 1 << 63) | _plus(7, 512, -512)),
    "crypt_method": (find.field(32, 4), _to(0, 1, 2, 3)),
    "l1_size": (find.field(36, 4), _to(0, 4194305) | _plus(1, 9, 5000)),
    "l1_table_offset": (find.field(40, 8), POSITION),
    "refcount_table_offset": (find.field(48, 8), POSITION),
    "refcount_table_clusters": (find.field(56, 4), _to(0, 2, 3, 4, 0x80000000)),
    "nb_snapshots": (find.field(60, 4), _to(0, 65537) | _plus(1, 2)),
    "snapshots_offset": (find.field(64, 8), POSITION),
    "incompatible": (find.field(72, 8, 3), _to(0, 1, 2, 4, 8, 16, 32, 1 << 63)),
    "compatible": (find.field(80, 8, 3), _to(1, 0x80)),
    "autoclear": (find.field(88, 8, 3), _to(0, 1, 2, 0x80)),
    "refcount_order": (find.field(96, 4, 3), _to(0, 3, 7) | _plus(1, -1)),
    "header_length": (find.field(100, 4, 3), _to(72, 104, 105, 1 << 28)),
    "compression_type": (find.field(104, 1, 3), _to(0, 1, 2)),
    "header_padding": (find.field(105, 1, 3), _to(255)),
    "extension-type": (
        lambda image: [Site(start, 4) for start, _ in image.extensions],
        _to(0, 0x12345678, BITMAPS_EXTENSION, 0x0537BE77, 0xE2792ACA, DATA_FILE_EXTENSION),
    ),
    "extension-length": (
        lambda image: [Site(start + 4, 4) for start, _ in image.extensions],
        _to(0, 0xFFFFFFFF) | _plus(8, 4096),
    ),
    "snapshot-l1_table_offset": (find.snapshot_field(0, 8), POSITION),
    "snapshot-l1_size": (find.snapshot_field(8, 4), _to(0, 4194304, 4194305) | _plus(1)),
    "snapshot-id_str_size": (find.snapshot_field(12, 2), _to(0, 65535) | _plus(8)),
    "snapshot-name_size": (find.snapshot_field(14, 2), _to(0, 65535) | _plus(16)),
    "snapshot-vm_state_size": (find.snapshot_field(32, 4), _to(0xFFFFFFFF)),
    "snapshot-extra_data_size": (
        find.snapshot_field(36, 4),
        _to(0, 8, 16, 1024, 1025, 2000, 0x7FFFFFFF, 0xFFFFFFFF),
    ),
    "snapshot-disk_size": (find.snapshot_field(48, 8), _to(0, 1 << 62)),
    "data_file_name": (find.extension(DATA_FILE_EXTENSION, 0, 1), _to(0x58)),
    "bitmaps-nb_bitmaps": (find.extension(BITMAPS_EXTENSION, 0, 4), _to(0, 65536) | _plus(1, -1)),
    "bitmaps-reserved": (find.extension(BITMAPS_EXTENSION, 4, 4), _to(1)),
    "bitmaps-directory_size": (
        find.extension(BITMAPS_EXTENSION, 8, 8),
        _to(0, 1 << 30) | _plus(8, 1),
    ),
    "bitmaps-directory_offset": (find.extension(BITMAPS_EXTENSION, 16, 8), POSITION),
    "bitmap-table_offset": (find.bitmap_field(0, 8), POSITION),
    "bitmap-table_size": (find.bitmap_field(8, 4), _to(0, 0x8000001) | _plus(1)),
    "bitmap-flags": (find.bitmap_field(12, 4), _to(0, 1, 3, 4)),
    "bitmap-type": (find.bitmap_field(16, 1), _to(2)),
    "bitmap-granularity_bits": (find.bitmap_field(17, 1), _to(8, 9, 32)),
    "bitmap-name_size": (find.bitmap_field(18, 2), _to(0, 1024) | _plus(8)),
    "bitmap-extra_data_size": (find.bitmap_field(20, 4), _to(8)),
}
"""What can be hit: how to find it, and what can be written there."""

LENGTHS: dict[str, Callable[[Anatomy, int], int]] = {
    "0": lambda _, _length: 0,
    "100": lambda _, _length: 100,
    "1000": lambda _, _length: 1000,
    "header-only": lambda image, _: image.cluster_size,
    "no-l1": lambda image, _: min(image.l1_offset, len(image.raw)),
    "half": lambda _, length: length // 2,
    "odd": lambda _, length: length * 4 // 5 + 77,
    "less-one-cluster": lambda image, _: max(0, image.end - image.cluster_size),
    "less-two-clusters": lambda image, _: max(0, image.end - 2 * image.cluster_size),
    "less-one-byte": lambda _, length: length - 1,
    "more-one-byte": lambda _, length: length + 1,
    "more-five-clusters": lambda image, length: length + 5 * image.cluster_size,
}
"""The lengths that a file is cut or grown to, from the image and its length."""

OFTEN = 4
"""How much more often an entry of a table is hit than a field, which few images survive."""
TABLES = {place for place in PLACES if place.startswith(("l1", "l2", "snapshot-l", "ref"))}
TABLES |= {"compressed", "subclusters", "bitmap-table", "bitmap-table-any"}
TABLES -= {place for place in PLACES if "_" in place}

FAULTS = [f"{place}={change}" for place, (_, changes) in PLACES.items() for change in changes]
FAULTS += ["l2=swap", *(f"length={name}" for name in LENGTHS)]


PINNED: dict[str, tuple[str, ...]] = {
    "v2-c8k-holes~block-in-cut-l1": ("reftable-free=to-l1", "length=no-l1"),
    "v3-c64k-snap~block-in-cut-l1": ("reftable-free=to-l1", "refcount_order=0x0", "length=no-l1"),
}
"""Copies with faults that are not left to chance: what random runs have found."""


def applicable(image: Anatomy) -> list[str]:
    """Return the faults that *image* has a place for."""
    found = [fault for fault in FAULTS if fault.startswith("length=")]
    for place, (finder, changes) in PLACES.items():
        sites = finder(image)
        found += [f"{place}={change}" for change in changes if sites]
        if place == "l2" and len(sites) > 1:
            found.append("l2=swap")
    return found


def _share(fault: str) -> int:
    return OFTEN if fault.partition("=")[0] in TABLES else 1


def assign(images: Mapping[str, list[str]]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the faults of each copy of each image, so that all faults are used about equally.

    *images* maps a name to what is applicable there. The last copy of each gets two faults.
    """
    used: Counter[str] = Counter()
    for name, choices in images.items():
        dice = random.Random(name)  # noqa: S311 - the same faults every time
        order = dice.sample(choices, len(choices))
        for copy in range(1, FAULTY_COPIES + 1):
            faults = []
            for _ in range(1 if copy < FAULTY_COPIES else 2):
                order.sort(key=lambda fault: used[fault] // _share(fault))
                faults.append(order.pop(0))
            used.update(faults)
            yield f"{name}~{copy}", tuple(faults)
    yield from PINNED.items()


def damage(image: Anatomy, faults: tuple[str, ...], seed: str) -> bytes:
    """Return the bytes of *image* with *faults* put in, which *seed* places."""
    dice = random.Random(seed)  # noqa: S311 - the same damage every time
    raw = bytearray(image.raw)
    length = len(raw)
    for fault in faults:
        place, _, change = fault.partition("=")
        if place == "length":
            length = LENGTHS[change](image, length)
            continue
        finder, changes = PLACES[place]
        sites = finder(image)
        if change == "swap":
            one, two = dice.sample(sites, 2)
            first, second = one.read(raw), two.read(raw)
            one.write(raw, second)
            two.write(raw, first)
            continue
        site = dice.choice(sites)
        others = [other.read(raw) for other in sites if other != site] or [site.read(raw)]
        site.write(raw, changes[change](Spot(site.read(raw), site, others, image, dice)))
    return bytes(raw[:length]).ljust(length, b"\0")
