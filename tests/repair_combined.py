"""Combined damage: two to four things at once, or one that covers many entries, placed by a seed.

A `Combined` names the sound images that it fits and what damages a copy: steps of `repair_steps`
and single faults of `qemu_faults`, one after the other.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mutant_bases import BACKING, NEW, REWRITE, SNAPSHOTS, WRITE
from mutant_bases import RECIPES as SMALL
from qemu_images import Recipe
from repair_steps import STEPS, put_fault

if TYPE_CHECKING:
    from qemu_anatomy import Anatomy

OVER_BASE = "create -q -f qcow2 -o {o} -F qcow2 -b base image 256k"
FILLED = "io base: write -P 9 0 64k"
NOISE = tuple(f"file noise{number} 16k" for number in range(16))


def _compressed(cluster: int, second: int) -> str:
    """Return a step that writes compressed clusters one by one: several at once come in any order.

    It begins at 0 and at *second*, and writes to one of the clusters again.
    """
    writes = [
        f"write -c -s noise{at // cluster % len(NOISE)} {at} {cluster}"
        for at in range(0, 64 << 10, cluster)
    ]
    writes += [
        f"write -c -P 6 {at} {cluster}" for at in range(second, second + (16 << 10), cluster)
    ]
    return "io image: " + "; ".join((*writes, "write -P 7 8k 4k"))


MORE = (
    Recipe("zlib", "cluster_size=4k", (NEW + "256k", *NOISE, _compressed(4096, 100 << 10))),
    Recipe(
        "zlib-512",
        "cluster_size=512",
        (NEW + "256k", *NOISE, _compressed(512, 100 << 10), *SNAPSHOTS),
    ),
    Recipe(
        "zstd",
        "cluster_size=4k,compression_type=zstd",
        (NEW + "256k", *NOISE, _compressed(4096, 100 << 10)),
    ),
    Recipe(
        "extended-zlib",
        "cluster_size=16k,extended_l2=on",
        (NEW + "1M", *NOISE, _compressed(16384, 128 << 10)),
    ),
    Recipe("blocks", "cluster_size=512,refcount_bits=64", (NEW + "512k", WRITE, *SNAPSHOTS)),
    Recipe("blocks-plain", "cluster_size=512", (NEW + "1M", "io image: write -P 1 0 400k")),
    Recipe(
        "zstd-snap",
        "cluster_size=4k,compression_type=zstd",
        (NEW + "1M", *NOISE, _compressed(4096, 100 << 10), *SNAPSHOTS),
    ),
    Recipe("backed-v2", "compat=0.10,cluster_size=1k", (BACKING, FILLED, OVER_BASE, WRITE)),
    Recipe(
        "backed-snap",
        "cluster_size=4k",
        (BACKING, FILLED, OVER_BASE, *SNAPSHOTS),
    ),
    Recipe(
        "backed-extended",
        "cluster_size=16k,extended_l2=on",
        (BACKING, FILLED, OVER_BASE, WRITE, REWRITE),
    ),
    Recipe("data-snapless", "cluster_size=4k,data_file=image.data", (NEW + "1M", WRITE, REWRITE)),
)
RECIPES = {recipe.name: recipe for recipe in (*SMALL, *MORE) if recipe.sound}
"""The small images that damage is put into, by name."""
RECIPES.pop("empty")

PLAIN = ("v3", "v3-4k", "blocks-plain", "v2")
SHARED = ("snapshots", "snapshots-4k", "v2-snapshots", "blocks", "v3-64k")
WIDTHS = tuple(f"refcount-{bits}" for bits in (1, 2, 4, 8, 32, 64))
PACKED = ("zlib", "zlib-512", "zstd", "zstd-snap", "extended-zlib")
BITMAPS = ("bitmaps", "bitmaps-snapshots")
EXTENDED = ("extended", "backed-extended")
BACKED = ("backed", "backed-v2", "backed-snap", "backed-extended")
DATA = ("data-file", "data-snapless")
ANY = (*PLAIN, *SHARED, *PACKED, *WIDTHS, *EXTENDED)


@dataclass(frozen=True, slots=True)
class Combined:
    """One kind of combined damage: its name and group, the images it is for, its steps."""

    name: str
    group: str
    bases: tuple[str, ...]
    steps: tuple[str, ...]

    def damage(self, image: Anatomy, seed: str) -> bytes:
        """Return the damaged bytes of an image."""
        dice = random.Random(seed)  # noqa: S311 - the same damage every time
        raw = bytearray(image.raw)
        for step in self.steps:
            if step in STEPS:
                STEPS[step](raw, image, dice)
            else:
                put_fault(step, raw, image, dice)
        return bytes(raw)


REFCOUNTS, TABLES, SHARING = "refcounts and more", "L1 and L2 and more", "clusters shared wrongly"
SNAPS, CUT, RANDOM = "snapshots and more", "cut short and more", "random damage"
OTHER = "bitmaps, header, data file"

_ROWS: tuple[tuple[str, str, tuple[str, ...], str], ...] = (
    ("refcount-l2-snapshot-header", SNAPS, SHARED,
     "refcount=zero l2=unaligned snapshot-l2=low-bits nb_snapshots=+1"),
    ("refcounts-and-copied", REFCOUNTS, SHARED, "stale_refcounts set_copied"),
    ("refcounts-and-no-copied", REFCOUNTS, ANY, "stale_refcounts clear_copied"),
    ("sharing-forgotten", REFCOUNTS, (*SHARED, "refcount-4"), "low_refcounts set_copied"),
    ("refcounts-shifted", REFCOUNTS, (*PLAIN, *WIDTHS), "shifted_refcounts"),
    ("refcounts-shifted-l2", REFCOUNTS, ANY, "shifted_refcounts l2=unaligned"),
    ("block-wiped", REFCOUNTS, ANY, "zero_block"),
    ("block-wiped-cross-link", SHARING, (*PLAIN, *SHARED), "zero_block crossed_l2"),
    ("block-noise", REFCOUNTS, ANY, "random_block"),
    ("block-noise-leaks", REFCOUNTS, ANY, "random_block zero_l2_run"),
    ("reftable-wiped", REFCOUNTS, ANY, "zero_reftable"),
    ("reftable-wiped-l2-noise", REFCOUNTS, ANY, "zero_reftable random_l2_run"),
    ("reftable-noise", REFCOUNTS, ANY, "random_reftable"),
    ("reftable-noise-copied", REFCOUNTS, (*WIDTHS, *SHARED), "random_reftable set_copied"),
    ("reftable-pointer-and-size", REFCOUNTS, (*PLAIN, *SHARED),
     "refcount_table_clusters=0x80000000 reftable=to-l1"),
    ("reftable-far-and-low-counts", REFCOUNTS, (*PLAIN, *SHARED, *PACKED),
     "reftable-free=far refcount=zero refcount=zero"),
    ("reftable-double-block", REFCOUNTS, ("blocks", "blocks-plain"),
     "reftable=duplicate refcount=less"),
    ("order-and-refcounts", REFCOUNTS, (*PLAIN, "v3-64k"), "refcount_order=+1 refcount=more"),
    ("width-1-l2-noise", TABLES, ("refcount-1",), "random_l2_run clear_copied"),
    ("width-2-cross", SHARING, ("refcount-2",), "crossed_l2 stale_refcounts"),
    ("l2-noise", TABLES, ANY, "random_l2_run"),
    ("l2-noise-and-leaks", TABLES, ANY, "random_l2_run refcount-free=more refcount-free=more"),
    ("l2-garbled-run", TABLES, (*PLAIN, *WIDTHS), "garbled_l2_run"),
    ("l2-garbled-low-counts", TABLES, (*PLAIN, *SHARED), "garbled_l2_run refcount=zero"),
    ("l2-forgotten-run", TABLES, ANY, "zero_l2_run zero_l2_run"),
    ("l2-table-wiped", TABLES, (*PLAIN, *SHARED, *WIDTHS, *EXTENDED), "zero_l2_table"),
    ("l2-table-noise", TABLES, (*PLAIN, *SHARED, *WIDTHS), "random_l2_table"),
    ("l2-torn-block-wiped", TABLES, ANY, "torn_l2_table zero_block"),
    ("l1-wiped", TABLES, (*PLAIN, *SHARED), "zero_l1"),
    ("l1-and-l2-bits", TABLES, ANY, "l1=high-bits l2=low-bits l2=high-bits l1=copied"),
    ("l1-beyond-l2-beyond", TABLES, ANY, "l1=beyond l2=beyond refcount=less"),
    ("l1-far-block-wiped", TABLES, (*PLAIN, *SHARED), "l1=far zero_block"),
    ("l1-double-copied", SHARING, (*PLAIN, *SHARED), "double_l1 clear_copied"),
    ("l1-double-refcounts", SHARING, (*PLAIN, *SHARED, *WIDTHS), "double_l1 stale_refcounts"),
    ("l2-crossed", SHARING, (*PLAIN, *SHARED), "crossed_l2"),
    ("l2-crossed-snapshot", SHARING, SHARED, "crossed_l2 snapshot-l2=duplicate"),
    ("l2-shifted-run", SHARING, (*PLAIN, *SHARED), "moved_l2_run"),
    ("data-on-metadata", SHARING, (*PLAIN, *SHARED), "l2_on_metadata"),
    ("data-on-metadata-and-low", SHARING, (*PLAIN, *SHARED), "l2_on_metadata low_refcounts"),
    ("data-over-table", SHARING, (*PLAIN, *SHARED), "data_over_table"),
    ("table-over-table", SHARING, (*PLAIN, *SHARED), "table_over_table"),
    ("compressed-moved-leak", TABLES, PACKED, "compressed=moved compressed=longer refcount=more"),
    ("compressed-copied-beyond", TABLES, PACKED, "compressed=copied compressed=beyond"),
    ("compressed-plain-refcounts", TABLES, PACKED, "compressed=plain stale_refcounts"),
    ("subclusters", TABLES, EXTENDED, "subclusters=alloc-and-zero subclusters=alloc l2=low-bits"),
    ("subclusters-block", TABLES, EXTENDED, "subclusters=all zero_block l2=unaligned"),
    ("snapshot-entry-noise", SNAPS, SHARED, "snapshot_noise"),
    ("snapshot-entry-noise-leaks", SNAPS, SHARED, "snapshot_noise zero_l2_run"),
    ("snapshot-table-wiped", SNAPS, SHARED, "zero_snapshot_table refcount=less"),
    ("snapshot-l1-wiped", SNAPS, SHARED, "zero_snapshot_l1"),
    ("snapshot-l1-low-counts", SNAPS, SHARED, "snapshot-l1=unaligned low_refcounts"),
    ("snapshots-and-reftable", SNAPS, SHARED, "snapshot-l1_size=+1 zero_reftable"),
    ("cut-stale", CUT, (*PLAIN, *SHARED, *PACKED), "length=less-two-clusters stale_refcounts"),
    ("cut-half", CUT, (*PLAIN, *SHARED), "length=half"),
    ("cut-half-l2", CUT, (*PLAIN, *SHARED), "length=half l2=duplicate"),
    ("cut-odd-block", CUT, (*PLAIN, *PACKED, *WIDTHS), "length=odd zero_block"),
    ("cut-and-grown", CUT, (*PLAIN, *SHARED), "length=half length=more-five-clusters"),
    ("bitmaps-and-refcounts", OTHER, BITMAPS, "bitmap-table=beyond refcount=zero refcount=more"),
    ("bitmap-noise-l2", OTHER, BITMAPS, "bitmap_noise l2=unaligned"),
    ("bitmap-directory-block", OTHER, BITMAPS, "bitmap-name_size=0x400 zero_block"),
    ("bitmaps-stale-header", OTHER, BITMAPS, "autoclear=0x0 refcount=less"),
    ("backing-l2-noise", TABLES, BACKED, "random_l2_run l1=beyond"),
    ("backing-l2-garbled-block", TABLES, BACKED, "garbled_l2_run zero_block"),
    ("data-file-offsets", OTHER, DATA, "l2=duplicate l2=low-bits refcount=zero"),
    ("data-file-blocks", OTHER, DATA, "zero_block l2=copied l2=unaligned"),
    ("dirty-refcounts", OTHER, ("v3", "v3-4k", "snapshots"), "incompatible=0x1 stale_refcounts"),
    ("corrupt-mark-l2", OTHER, ("v3", "v3-4k", "snapshots"), "incompatible=0x2 l2=beyond"),
    ("header-and-refcounts", OTHER, ("v3", "snapshots", "bitmaps"),
     "autoclear=0x80 snapshots_offset=next header_padding=0xff refcount=less"),
    ("bit-flips", RANDOM, ANY, "bit_flips"),
    ("torn-sectors", RANDOM, (*PLAIN, *SHARED, *WIDTHS), "torn_metadata"),
    ("pokes", RANDOM, (*ANY, *BITMAPS, *BACKED, *DATA), "random_pokes"),
    ("pokes-and-block", RANDOM, ANY, "random_pokes zero_block"),
)  # fmt: skip
KINDS = {
    name: Combined(name, group, bases, tuple(steps.split())) for name, group, bases, steps in _ROWS
}
