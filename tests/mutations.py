"""The kinds of damage that a mutant can have, each chosen by a seeded generator.

`build` is the whole interface: the same seed, index and base image give the same mutant.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mutant_sites import Anatomy, Site, dissect, number

if TYPE_CHECKING:
    from pathlib import Path

MAX_HOLE_CLUSTERS = 1 << 18
MAX_MUTATIONS = 4
FLAGS = (0, 0, 1, 1 << 62, 1 << 63, 1 << 63, (1 << 63) | 1, 3 << 62)
EXTREMES = (
    *(0, 1, 2, 3, 7, 8, 9, 16, 21, 22, 31, 32, 63, 64, 72, 104, 105, 112, 255, 256, 1023, 1024),
    *(511, 512, 513, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x10001, 1 << 22, (1 << 22) + 1, 1 << 27),
    *((1 << 31) - 1, 1 << 31, (1 << 32) - 512, (1 << 32) - 1, 1 << 32, 1 << 38, 1 << 42),
    *((1 << 55) - 512, 1 << 55, (1 << 56) - 512, (1 << 56) - 1, 1 << 56, 1 << 62),
    *((1 << 63) - (1 << 30), (1 << 63) - 512, (1 << 63) - 1, 1 << 63, (1 << 64) - 512, -1, -8),
    *((1 << 64) - (1 << 16), -1 << 21, 0x40000000),
)
EXTENSION_TYPES = (0, 0xE2792ACA, 0x6803F857, 0x23852875, 0x0537BE77, 0x44415441, 0x12345678)
COUNTS = (
    *("header.l1_size", "header.nb_snapshots", "header.refcount_table_clusters", "header.size"),
    *("snapshot[0].l1_size", "snapshot[0].extra_data_size", "snapshot[0].name_size"),
    *("extension 0x23852875.nb_bitmaps", "extension 0x23852875.dir_size"),
    *("bitmap[0].bitmap_table_size", "extension 0x537be77.length"),
)


@dataclass(frozen=True, slots=True)
class Base:
    """An image to make mutants of, the files beside it, how often it is taken."""

    name: str
    data: bytes
    encrypted: bool = False
    companions: tuple[Path, ...] = ()
    weight: float = 1


@dataclass(slots=True)
class Mutant:
    """The bytes of a damaged image, the length of its file (the rest is a hole), what was done."""

    base: Base
    index: int
    data: bytearray
    size: int
    steps: list[str] = field(default_factory=list)

    def put(self, site: Site, value: int) -> None:
        """Store *value*, cut to the site's width, and note it."""
        value %= 1 << 8 * site.width
        place = f"{site.name}: u{8 * site.width} at {site.offset:#x}"
        self.poke(site.offset, value.to_bytes(site.width), f"{place} = {value:#x}")

    def poke(self, offset: int, raw: bytes, step: str) -> None:
        """Overwrite bytes that are still there, and note it."""
        raw = raw[: max(len(self.data) - offset, 0)]
        self.data[offset : offset + len(raw)] = raw
        self.steps.append(step)

    def append(self, raw: bytes, cluster_size: int) -> int:
        """Add whole clusters at the end of the data and return their offset."""
        offset = -(-len(self.data) // cluster_size) * cluster_size
        self.data += bytes(offset - len(self.data)) + raw + bytes(-len(raw) % cluster_size)
        self.size = max(self.size, len(self.data))
        return offset


Mutation = Callable[[random.Random, Anatomy, Mutant], None]


def build(bases: list[Base], anatomies: dict[str, Anatomy], seed: int, index: int) -> Mutant:
    """Return mutant number *index*; *anatomies* is a cache that starts empty."""
    rng = random.Random(f"{seed}:{index}")  # noqa: S311 - has to be reproducible, not secret
    base = rng.choices(bases, [base.weight for base in bases])[0]
    if base.name not in anatomies:
        anatomies[base.name] = dissect(base.data)
    mutant = Mutant(base, index, bytearray(base.data), len(base.data))
    for _ in range(rng.randint(1, MAX_MUTATIONS)):
        mutation = rng.choices(KINDS, WEIGHTS)[0]
        mutation(rng, anatomies[base.name], mutant)
    return mutant


def _site(rng: random.Random, anatomy: Anatomy) -> Site:
    return rng.choice(anatomy.groups[rng.choice(list(anatomy.groups))])


def _cluster(rng: random.Random, anatomy: Anatomy, mutant: Mutant) -> int:
    """Return the offset of a cluster, more often one that holds metadata."""
    if rng.random() < 0.7:
        return rng.choice(anatomy.offsets)
    return rng.randrange(len(mutant.data) // anatomy.cluster_size + 1) * anatomy.cluster_size


def _value(rng: random.Random, anatomy: Anatomy, mutant: Mutant, site: Site) -> int:
    """Return a value for a site that some reader may not expect."""
    size = anatomy.cluster_size
    now = number(mutant.data, site.offset, site.width)
    end = -(-mutant.size // size) * size
    choices: tuple[Callable[[], int], ...] = (
        lambda: rng.choice(EXTREMES),
        lambda: rng.choice(EXTREMES) | rng.choice(FLAGS),
        lambda: now + rng.choice((-1, 1, -size, size, 512, -512, now)),
        lambda: now ^ 1 << rng.randrange(8 * site.width),
        lambda: now | 1 << rng.randrange(8 * site.width),
        lambda: rng.choice(anatomy.offsets) | rng.choice(FLAGS),
        lambda: rng.choice(anatomy.offsets) | (now & 0xFF << 56),
        lambda: rng.randrange(end // size + 3) * size | rng.choice(FLAGS),
        lambda: end + rng.choice((-size, -1, 0, 1, 512, size)) | rng.choice(FLAGS),
        lambda: rng.getrandbits(8 * site.width),
    )
    return rng.choice(choices)()


def flip_bytes(rng: random.Random, anatomy: Anatomy, mutant: Mutant) -> None:
    """Overwrite one to eight bytes anywhere, or all in one cluster."""
    start, end = 0, len(mutant.data)
    if rng.random() < 0.7:
        start = min(_cluster(rng, anatomy, mutant), max(end - 1, 0))
        end = min(end, start + anatomy.cluster_size)
    for _ in range(rng.randint(1, 8) if end > start else 0):
        offset, value = rng.randrange(start, end), rng.randrange(256)
        mutant.poke(offset, bytes([value]), f"byte at {offset:#x} = {value:#x}")


def flip_bit(rng: random.Random, anatomy: Anatomy, mutant: Mutant) -> None:
    """Turn one bit of a known field."""
    site = _site(rng, anatomy)
    mutant.put(site, number(mutant.data, site.offset, site.width) ^ 1 << rng.randrange(64))


def set_field(rng: random.Random, anatomy: Anatomy, mutant: Mutant) -> None:
    """Give a known field an interesting value."""
    site = _site(rng, anatomy)
    mutant.put(site, _value(rng, anatomy, mutant, site))


def copy_cluster(rng: random.Random, anatomy: Anatomy, mutant: Mutant) -> None:
    """Copy one cluster over another."""
    source, target = _cluster(rng, anatomy, mutant), _cluster(rng, anatomy, mutant)
    raw = bytes(mutant.data[source : source + anatomy.cluster_size])
    mutant.poke(target, raw, f"cluster {source:#x} copied over {target:#x}")


def fill_cluster(rng: random.Random, anatomy: Anatomy, mutant: Mutant) -> None:
    """Fill a cluster with zeros, now and then with ones or noise."""
    target = _cluster(rng, anatomy, mutant)
    fill = rng.choice((b"\0", b"\0", b"\0", b"\xff", b"\x01", rng.randbytes(8)))
    raw = (fill * anatomy.cluster_size)[: anatomy.cluster_size]
    mutant.poke(target, raw, f"cluster {target:#x} filled with {fill.hex()}")


def truncate(rng: random.Random, anatomy: Anatomy, mutant: Mutant) -> None:
    """Cut the file short, at a cluster's edge or near it or anywhere."""
    size = rng.randrange(len(mutant.data) + 1)
    if rng.random() < 0.6:
        size = max(size - size % anatomy.cluster_size + rng.choice((-1, 0, 0, 1)), 0)
    del mutant.data[size:]
    mutant.size = len(mutant.data)
    mutant.steps.append(f"truncated to {mutant.size}")


def grow(rng: random.Random, anatomy: Anatomy, mutant: Mutant) -> None:
    """Let the file end in a hole."""
    clusters = rng.choice((1, 2, 64, 5000, MAX_HOLE_CLUSTERS))
    mutant.size += min(clusters * anatomy.cluster_size, 1 << 30) + rng.choice((-1, 0, 0, 1))
    mutant.steps.append(f"grown to {mutant.size}")


def swap(rng: random.Random, anatomy: Anatomy, mutant: Mutant) -> None:
    """Exchange two fields, mostly of one structure."""
    one = _site(rng, anatomy)
    group = next(sites for sites in anatomy.groups.values() if one in sites)
    other = rng.choice(group) if rng.random() < 0.7 else _site(rng, anatomy)
    values = [number(mutant.data, site.offset, site.width) for site in (one, other)]
    mutant.put(one, values[1])
    mutant.put(other, values[0])


def change_extension(rng: random.Random, anatomy: Anatomy, mutant: Mutant) -> None:
    """Change the type or the length of a header extension."""
    if not anatomy.extensions:
        return
    place = rng.choice(anatomy.extensions)
    if rng.random() < 0.5:
        mutant.put(Site("extension.type", place, 4), rng.choice(EXTENSION_TYPES))
    if rng.random() < 0.7:
        site = Site("extension.length", place + 4, 4)
        near = number(mutant.data, site.offset, 4) + rng.randint(-24, 24)
        mutant.put(site, rng.choice((near, rng.choice(EXTREMES))))


def repeat_pointer(rng: random.Random, anatomy: Anatomy, mutant: Mutant) -> None:
    """Let every entry of a table, or many, be the same as one of them."""
    sites = anatomy.groups[rng.choice(list(anatomy.groups))]
    source = rng.choice(sites)
    value = number(mutant.data, source.offset, source.width)
    if source.name.startswith(("header", "extension")):
        return
    start = rng.randrange(len(sites))
    for site in sites[start : start + 256]:
        mutant.put(site, value)


def raise_count(rng: random.Random, anatomy: Anatomy, mutant: Mutant) -> None:
    """Give a field that says how many there are a huge value."""
    sites = [site for group in anatomy.groups.values() for site in group if site.name in COUNTS]
    value = rng.choice((1 << 16, 65537, 1 << 20, 1 << 22, 1 << 27, 1 << 31, (1 << 32) - 1, 1 << 60))
    if sites:
        mutant.put(rng.choice(sites), value - rng.choice((0, 0, 1)))


def long_l1_table(rng: random.Random, anatomy: Anatomy, mutant: Mutant) -> None:
    """Give the image a new, long active L1 table whose entries are all the same."""
    count = rng.choice((100, 3000, 65536))
    pointer = rng.choice(anatomy.offsets) | rng.choice((0, 1 << 63))
    place = mutant.append(pointer.to_bytes(8) * count, anatomy.cluster_size)
    mutant.put(Site("header.l1_size", 36, 4), count)
    mutant.put(Site("header.l1_table_offset", 40, 8), place)
    mutant.steps.append(f"{count} L1 entries of {pointer:#x} appended")


def many_snapshots(rng: random.Random, anatomy: Anatomy, mutant: Mutant) -> None:
    """Give the image a new snapshot table with many entries that share one L1 table."""
    count = rng.choice((3, 300, 5000))
    table, entries = number(mutant.data, 40, 8), number(mutant.data, 36, 4)
    fixed = table.to_bytes(8) + entries.to_bytes(4) + bytes(24) + (16).to_bytes(4)
    entry = fixed + bytes(8) + mutant.data[24:32]
    place = mutant.append(entry * count, anatomy.cluster_size)
    mutant.put(Site("header.nb_snapshots", 60, 4), count)
    mutant.put(Site("header.snapshots_offset", 64, 8), place)
    mutant.steps.append(f"{count} snapshots of the active L1 table appended")


KINDS: tuple[Mutation, ...] = (
    *(set_field, flip_bit, flip_bytes, swap, change_extension, copy_cluster, fill_cluster),
    *(truncate, grow, repeat_pointer, raise_count, long_l1_table, many_snapshots),
)
WEIGHTS = (40, 10, 8, 6, 5, 5, 5, 4, 2, 4, 4, 0.5, 0.5)
