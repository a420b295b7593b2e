"""What can be done to an image at once, over many entries or a whole table: steps of damage.

Every step takes the bytes so far, the anatomy of the sound image and a seeded generator.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

import qemu_anatomy as find
from qemu_anatomy import OFFSET_MASK, Anatomy, Site
from qemu_faults import COPIED, LENGTHS, PLACES, TABLES, Spot

if TYPE_CHECKING:
    import random

Step = Callable[["bytearray", "Anatomy", "random.Random"], None]
SECTOR = 512


def put_fault(fault: str, raw: bytearray, image: Anatomy, dice: random.Random) -> None:
    """Put a single fault into bytes that may be damaged already; an image without a place stays."""
    place, _, change = fault.partition("=")
    if place == "length":
        resize(raw, LENGTHS[change](image, len(raw)))
        return
    finder, changes = PLACES[place]
    sites = [site for site in finder(image) if site.offset + site.size <= len(raw)]
    if sites:
        site = dice.choice(sites)
        others = [other.read(raw) for other in sites if other != site] or [site.read(raw)]
        site.write(raw, changes[change](Spot(site.read(raw), site, others, image, dice)))


def resize(raw: bytearray, length: int) -> None:
    """Cut bytes, or let zeros follow."""
    del raw[length:]
    raw.extend(bytes(length - len(raw)))


def clusters_of(image: Anatomy, sites: list[Site]) -> list[int]:
    """Return the offsets of the clusters that sites lie in."""
    return sorted({site.offset // image.cluster_size * image.cluster_size for site in sites})


def active_l2(image: Anatomy) -> list[Site]:
    """Return the used entries of the active L2 tables."""
    return image.used(image.l2_below(find.active_l1(image)))


def blocks(image: Anatomy) -> list[int]:
    """Return the offsets of the refcount blocks."""
    return [site.read(image.raw) for site in image.used(find.refcount_table(image))]


def metadata(image: Anatomy) -> list[int]:
    """Return the offsets of the clusters that hold tables of any kind, the header left out."""
    tables = [*find.active_l1(image), *find.snapshot_l1(image), *find.refcount_table(image)]
    tables += [*image.l2_below(find.active_l1(image)), *image.l2_below(find.snapshot_l1(image))]
    tables += [Site(start, 8) for start in (*image.snapshots, *image.bitmaps)]
    tables += find.bitmap_tables(image)
    return sorted({*clusters_of(image, tables), *blocks(image)} - {0})


def fill(raw: bytearray, offset: int, data: bytes) -> None:
    """Overwrite bytes as far as they are there."""
    data = data[: max(0, len(raw) - offset)]
    raw[offset : offset + len(data)] = data


def zero_block(raw: bytearray, image: Anatomy, dice: random.Random) -> None:
    """Wipe one refcount block."""
    fill(raw, dice.choice(blocks(image)), bytes(image.cluster_size))


def random_block(raw: bytearray, image: Anatomy, dice: random.Random) -> None:
    """Write noise over one refcount block."""
    fill(raw, dice.choice(blocks(image)), dice.randbytes(image.cluster_size))


def zero_reftable(raw: bytearray, image: Anatomy, _dice: random.Random) -> None:
    """Wipe the refcount table."""
    fill(raw, image.table_offset, bytes(image.table_clusters * image.cluster_size))


def random_reftable(raw: bytearray, image: Anatomy, dice: random.Random) -> None:
    """Write noise over the start of the refcount table."""
    fill(raw, image.table_offset, dice.randbytes(min(image.cluster_size, 2048)))


def stale_refcounts(raw: bytearray, image: Anatomy, dice: random.Random) -> None:
    """Let a quarter of the refcounts be what they may have been at another time."""
    for site in image.refcounts:
        if dice.random() < 0.25:
            site.write(raw, max(0, site.read(raw) + dice.choice((-1, 1, 2))))


def low_refcounts(raw: bytearray, image: Anatomy, _dice: random.Random) -> None:
    """Let every refcount but the first be one at most: all sharing is forgotten."""
    for site in image.refcounts[1:]:
        site.write(raw, min(1, site.read(raw)))


def shifted_refcounts(raw: bytearray, image: Anatomy, _dice: random.Random) -> None:
    """Let each refcount be its neighbour's."""
    values = [site.read(raw) for site in image.refcounts]
    for site, value in zip(image.refcounts[1:], values, strict=False):
        site.write(raw, value)


def _run(sites: list[Site], dice: random.Random, most: int) -> list[Site]:
    count = min(len(sites), dice.randint(2, most))
    start = dice.randrange(len(sites) - count + 1)
    return sites[start : start + count]


def random_l2_run(raw: bytearray, image: Anatomy, dice: random.Random) -> None:
    """Write noise over a run of L2 entries."""
    for site in _run(active_l2(image), dice, 12):
        site.write(raw, dice.getrandbits(64))


def garbled_l2_run(raw: bytearray, image: Anatomy, dice: random.Random) -> None:
    """Let a run of L2 entries be unaligned or lead far away."""
    for site in _run(active_l2(image), dice, 6):
        site.write(raw, site.read(raw) ^ dice.choice((0x200, 1 << 50, 0x38000 << 20 | 0x200)))


def zero_l2_run(raw: bytearray, image: Anatomy, dice: random.Random) -> None:
    """Forget a run of L2 entries."""
    for site in _run(active_l2(image), dice, 12):
        site.write(raw, 0)


def moved_l2_run(raw: bytearray, image: Anatomy, dice: random.Random) -> None:
    """Let each of a run of L2 entries lead where its neighbour does."""
    run = _run(active_l2(image), dice, 8)
    for site, other in itertools.pairwise(run):
        site.write(raw, other.read(image.raw))


def crossed_l2(raw: bytearray, image: Anatomy, dice: random.Random) -> None:
    """Let several L2 entries lead to the cluster of one other."""
    sites = active_l2(image)
    target = dice.choice(sites).read(image.raw)
    for site in dice.sample(sites, min(len(sites), 4)):
        site.write(raw, target)


def l2_on_metadata(raw: bytearray, image: Anatomy, dice: random.Random) -> None:
    """Let an L2 entry lead to each of several tables."""
    places = [offset for offset in metadata(image) if offset]
    sites = active_l2(image)
    for site in dice.sample(sites, min(len(sites), 3)):
        site.write(raw, COPIED | dice.choice(places))


def zero_l2_table(raw: bytearray, image: Anatomy, dice: random.Random) -> None:
    """Wipe one L2 table."""
    fill(raw, dice.choice(clusters_of(image, active_l2(image))), bytes(image.cluster_size))


def random_l2_table(raw: bytearray, image: Anatomy, dice: random.Random) -> None:
    """Write noise over one L2 table."""
    offset = dice.choice(clusters_of(image, active_l2(image)))
    fill(raw, offset, dice.randbytes(min(image.cluster_size, 4096)))


def torn_l2_table(raw: bytearray, image: Anatomy, dice: random.Random) -> None:
    """Wipe one sector of an L2 table."""
    offset = dice.choice(clusters_of(image, active_l2(image)))
    fill(raw, offset + dice.randrange(image.cluster_size // SECTOR) * SECTOR, bytes(SECTOR))


def zero_l1(raw: bytearray, image: Anatomy, _dice: random.Random) -> None:
    """Wipe the active L1 table."""
    fill(raw, image.l1_offset, bytes(8 * image.l1_size))


def double_l1(raw: bytearray, image: Anatomy, dice: random.Random) -> None:
    """Let an L1 entry lead to the L2 table of another."""
    used = image.used(find.active_l1(image))
    one = dice.choice(used)
    rest = [site for site in find.active_l1(image) if site != one]
    if rest:
        dice.choice(rest).write(raw, one.read(raw))


def clear_copied(raw: bytearray, image: Anatomy, _dice: random.Random) -> None:
    """Clear the COPIED flag of all active entries."""
    for site in (*active_l2(image), *image.used(find.active_l1(image))):
        if not site.read(raw) & find.COMPRESSED:
            site.write(raw, site.read(raw) & ~COPIED)


def set_copied(raw: bytearray, image: Anatomy, _dice: random.Random) -> None:
    """Set the COPIED flag of all active entries, those that a snapshot shares too."""
    for site in (*active_l2(image), *image.used(find.active_l1(image))):
        if not site.read(raw) & find.COMPRESSED and site.read(raw) & OFFSET_MASK:
            site.write(raw, site.read(raw) | COPIED)


def snapshot_noise(raw: bytearray, image: Anatomy, dice: random.Random) -> None:
    """Write noise over the fixed part of a snapshot's entry, all of it or its sizes."""
    start = dice.choice(image.snapshots)
    first, last = dice.choice(((0, 40), (12, 16), (36, 40), (0, 12)))
    fill(raw, start + first, dice.randbytes(last - first))


def zero_snapshot_table(raw: bytearray, image: Anatomy, _dice: random.Random) -> None:
    """Wipe the snapshot table."""
    fill(raw, image.snapshots_offset, bytes(60))


def zero_snapshot_l1(raw: bytearray, image: Anatomy, dice: random.Random) -> None:
    """Wipe the L1 table of one snapshot."""
    offset = int.from_bytes(raw[(start := dice.choice(image.snapshots)) : start + 8])
    fill(raw, offset, bytes(8 * image.l1_size))


def bitmap_noise(raw: bytearray, image: Anatomy, dice: random.Random) -> None:
    """Write noise into an entry of the bitmap directory."""
    start = dice.choice(image.bitmaps)
    fill(raw, start + dice.choice((0, 8, 16)), dice.randbytes(8))


def bit_flips(raw: bytearray, image: Anatomy, dice: random.Random) -> None:
    """Turn three bits anywhere in the tables."""
    for offset in dice.choices(metadata(image), k=3):
        at = offset + dice.randrange(min(image.cluster_size, 1024))
        if at < len(raw):
            raw[at] ^= 1 << dice.randrange(8)


def random_pokes(raw: bytearray, image: Anatomy, dice: random.Random) -> None:
    """Put two to four faults of any kind into any tables."""
    choices = [f"{place}={change}" for place in sorted(TABLE_PLACES) for change in PLACES[place][1]]
    for fault in dice.sample(choices, dice.randint(2, 4)):
        put_fault(fault, raw, image, dice)


def table_over_table(raw: bytearray, image: Anatomy, dice: random.Random) -> None:
    """Let a write of one table have gone over another."""
    source, target = dice.sample(metadata(image), 2)
    fill(raw, target, image.raw[source : source + image.cluster_size])


def data_over_table(raw: bytearray, image: Anatomy, dice: random.Random) -> None:
    """Let a write of the guest have gone over a table."""
    fill(raw, dice.choice(metadata(image)), dice.randbytes(1) * image.cluster_size)


def torn_metadata(raw: bytearray, image: Anatomy, dice: random.Random) -> None:
    """Wipe a sector in each of two tables."""
    for offset in dice.choices(metadata(image), k=2):
        sector = dice.randrange(max(1, image.cluster_size // SECTOR))
        fill(raw, offset + sector * SECTOR, bytes(SECTOR))


TABLE_PLACES = TABLES - {"bitmap-table-any"}
STEPS: dict[str, Step] = {
    step.__name__: step
    for step in (
        *(zero_block, random_block, zero_reftable, random_reftable, stale_refcounts),
        *(low_refcounts, shifted_refcounts, random_l2_run, garbled_l2_run, zero_l2_run),
        *(moved_l2_run, crossed_l2, l2_on_metadata, zero_l2_table, random_l2_table),
        *(torn_l2_table, zero_l1, double_l1, clear_copied, set_copied, snapshot_noise),
        *(zero_snapshot_table, zero_snapshot_l1, bitmap_noise, bit_flips, random_pokes),
        *(table_over_table, data_over_table, torn_metadata),
    )
}
