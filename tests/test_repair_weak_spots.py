"""What ``qemu-img check -r`` does badly, as the reference shows it, and what qfix does instead."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

import qemu
from repair_images import (
    BLOCK,
    CLUSTER,
    COPIED,
    L1,
    L2,
    TABLE,
    Image,
    build_bases,
    copy_of,
    made,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Copy = Callable[[str], Image]

pytestmark = pytest.mark.usefixtures("need_qemu")

LEAKS, ALL, LOSSY = ("--fix", "leaks"), ("--fix", "all"), ("--fix", "all", "--lossy")
EACH_REPAIR = pytest.mark.parametrize("repair", [LEAKS, ALL, LOSSY], ids=" ".join)
CORRUPT, DIRTY = 2, 1


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the images of the reference once."""
    qemu.require()
    folder = tmp_path_factory.mktemp("weak-spots")
    build_bases(folder)
    return folder


@pytest.fixture
def copy(bases: Path, tmp_path: Path) -> Copy:
    """Return what copies an image of the reference by its letter."""
    return lambda letter: copy_of(letter, bases, tmp_path)


@EACH_REPAIR
@pytest.mark.parametrize("how", ["sound", "unknown autoclear bit", "bitmaps are stale"])
def test_q1_snapshots_are_never_forgotten(
    how: str, repair: tuple[str, ...], tmp_path: Path
) -> None:
    image = made(tmp_path, "compat=1.1", "1M", "write -P 1 0 256k")
    qemu.img("snapshot", "-c", "s1", image.path)
    image.io("write -P 2 0 64k")
    if how != "unknown autoclear bit":
        qemu.img("bitmap", "--add", "-g", "64k", image.path, "b")
    pages = image.guest(), image.guest("1")
    if how != "sound":
        image.poke(88, 0x20 if how.startswith("unknown") else 0)
    before = image.digest

    fixed = image.fix(*repair)
    assert image.snapshots() == [("1", "s1")]
    assert (image.guest(), image.guest("1")) == pages
    assert fixed.change["snapshots-dropped"] == []
    if how == "sound":
        assert (image.digest, fixed.status) == (before, 0)


@pytest.mark.parametrize("repair", [LEAKS, ALL], ids=" ".join)
def test_q2_what_a_lost_pointer_led_to_is_not_freed(copy: Copy, repair: tuple[str, ...]) -> None:
    image = copy("B")
    image.poke(L1, 0)
    before = image.raw

    fixed = image.fix(*repair)
    assert image.raw == before
    assert fixed.status == 6
    assert "T232" in fixed.codes
    (left,) = (left for left in fixed.change["left"] if "T232" in left["codes"])
    assert "5 leaked clusters are not freed" in left["why"]
    assert left["option"] == "--lossy"


def test_q2_what_a_lost_pointer_led_to_comes_back(copy: Copy) -> None:
    image = copy("B")
    page = image.guest()
    image.poke(L1, 0)

    fixed = image.fix(*LOSSY)
    assert image.guest() == page
    assert fixed.ranges("lost") == []
    assert len(fixed.ranges("restored")) == 1
    assert image.is_clean()


@pytest.mark.parametrize(
    ("letter", "offset", "value", "width"),
    [
        ("B", 40, 0, 8),
        ("B", 40, 0x80000, 8),
        ("S", 0xE0000, 0x90200, 8),
        ("S", 0xE0000, 0x10000000, 8),
        ("S", 0xE0008, 4194305, 4),
        ("S", 60, 1, 4),
    ],
    ids=lambda value: f"{value:#x}" if isinstance(value, int) else value,
)
@pytest.mark.parametrize("repair", [LEAKS, ALL], ids=" ".join)
def test_q2_nothing_below_a_lost_table_is_freed(
    copy: Copy, letter: str, offset: int, value: int, width: int, repair: tuple[str, ...]
) -> None:
    image = copy(letter)
    refcounts = image.raw[BLOCK : BLOCK + 64]
    image.poke(offset, value, width)
    image.fix(*repair)
    now = image.raw[BLOCK : BLOCK + 64]
    assert all(new >= old for new, old in zip(now, refcounts, strict=True))


@pytest.mark.parametrize("value", [0x20001, 0x20200], ids=["q3", "q4"])
def test_q3_q4_a_bad_refcount_table_entry(copy: Copy, value: int) -> None:
    image = copy("B")
    page = image.guest()
    image.poke(TABLE, value)
    assert image.fix().status == 0
    assert image.guest() == page
    assert image.is_clean()
    assert image.opens_for_writing()


def test_q5_the_file_is_not_extended_to_where_a_block_would_be(copy: Copy) -> None:
    image = copy("B")
    image.poke(TABLE + 8, 0x40000000000)
    fixed = image.fix()
    assert fixed.growth <= 4 * CLUSTER
    assert image.is_clean()


@pytest.mark.parametrize("exponent", [38, 54])
def test_q5_with_small_clusters(exponent: int, tmp_path: Path) -> None:
    image = made(tmp_path, "cluster_size=512", "1M", "write -P 1 0 100k")
    page = image.guest()
    image.poke(image.number(48) + 8 * 40, 1 << exponent)
    started = time.monotonic()
    fixed = image.fix()
    assert time.monotonic() - started < 5
    assert fixed.growth <= 1 << 16
    assert image.guest() == page
    assert image.is_clean()


def test_q6_bitmaps_bit_without_bitmaps(copy: Copy) -> None:
    image = copy("B")
    image.poke(88, 1)
    image.leak(b"")
    assert image.fix().status == 0
    assert image.number(88) == 0
    assert image.is_clean()
    assert image.opens_for_writing()


def test_q7_snapshot_pointer_without_snapshots(copy: Copy) -> None:
    image = copy("B")
    page = image.guest()
    image.poke(64, 0x1234)
    assert image.fix().status == 0
    assert image.number(64) == 0
    assert image.guest() == page
    assert image.opens_for_writing()


@pytest.mark.parametrize(
    ("cluster_size", "value"),
    [("512", -512), ("64k", -CLUSTER), ("64k", COPIED)],
    ids=["abort", "no memory", "I/O error"],
)
def test_q8_a_snapshot_table_far_away(cluster_size: str, value: int, tmp_path: Path) -> None:
    image = made(tmp_path, f"cluster_size={cluster_size}", "1M", "write -P 1 0 128k")
    for name in ("bad", "good"):
        qemu.img("snapshot", "-c", name, image.path)
        image.io("write -P 2 0 4k")
    page, kept = image.guest(), image.guest("2")
    image.poke(image.number(64), value % (1 << 64))

    assert image.fix().change["snapshots-dropped"] == []
    dropped = image.fix(*LOSSY).change["snapshots-dropped"]
    assert image.snapshots()[-1:] == [("2", "good")]
    assert len(image.snapshots()) + len(dropped) == 2
    assert (image.guest(), image.guest("2")) == (page, kept)
    assert image.is_clean()


def test_q9_a_snapshot_table_that_is_not_there(copy: Copy) -> None:
    image = copy("S")
    pages, before = [image.guest(), image.guest("1"), image.guest("2")], image.raw
    image.poke(64, 0x10000000)
    assert image.fix(*LEAKS).status == 5
    assert image.raw[72:] == before[72:]

    assert image.fix().status == 0
    assert image.snapshots() == [("1", "snapA"), ("2", "snapB")]
    assert [image.guest(), image.guest("1"), image.guest("2")] == pages
    assert image.is_clean()


def test_q9_a_snapshot_table_that_is_gone(copy: Copy) -> None:
    image = copy("S")
    page, blocks = image.guest(), image.raw[BLOCK : BLOCK + 64]
    image.poke(64, 0x10000000)
    for at in range(0xE0000, 0xE0100, 8):
        image.poke(at, 0)
    for repair in (LEAKS, ALL):
        assert image.fix(*repair).status == 5
        assert image.raw[BLOCK : BLOCK + 64] == blocks

    assert len(image.fix(*LOSSY).change["snapshots-dropped"]) in {1, 2}
    assert image.snapshots() == []
    assert image.guest() == page
    assert image.is_clean()


EACH_TARGET = pytest.mark.parametrize(
    "target", [L1, L2, TABLE, BLOCK, 0x50000], ids=["L1", "own L2", "RT", "RB", "L2[0]"]
)


@EACH_TARGET
def test_q11_cross_links_are_parted_not_blessed(copy: Copy, target: int) -> None:
    image = copy("B")
    image.poke(BLOCK + 12, 0, 2).poke(L2 + 8, COPIED | target)
    page = image.guest()

    fixed = image.fix("--fix", "reuse")
    assert image.guest() == page
    suspect = [(first, first + size) for _, first, size in fixed.ranges("suspect")]
    assert any(first <= CLUSTER < end for first, end in suspect)
    users = {image.number(at) & (COPIED - 1) for at in (40, 48, image.number(48), L1, L2, L2 + 16)}
    assert image.number(L2 + 8) & (COPIED - 1) not in users
    assert fixed.status == 0
    assert image.is_clean()
    image.io("write -P 7 64k 64k")
    assert image.guest()[:CLUSTER] == page[:CLUSTER]
    assert image.is_clean()


@EACH_TARGET
def test_q11_the_leaked_cluster_is_found_again(copy: Copy, target: int) -> None:
    image = copy("B")
    image.poke(0x60000, 6)
    page, count = image.guest(), image.number(BLOCK + 2 * (target // CLUSTER), 2)
    image.poke(L2 + 8, COPIED | target)

    lossless = image.fix()
    assert image.number(BLOCK + 12, 2) == 1
    assert image.number(BLOCK + 2 * (target // CLUSTER), 2) == count
    assert lossless.status != 0
    assert lossless.change["left"]
    fixed = image.fix(*LOSSY)
    assert image.guest() == page
    assert fixed.ranges("restored") == [("active", CLUSTER, CLUSTER)]
    assert image.is_clean()


def test_q11_two_l1_entries_with_one_table(tmp_path: Path) -> None:
    image = made(tmp_path, "compat=1.1", "1G", "write -P 1 0 64k", "write -P 2 512M 64k")
    table = image.number(40)
    one, two = image.number(table), image.number(table + 8)
    image.poke(table + 8, one)

    image.fix()
    assert image.number(table) != image.number(table + 8)
    assert {r[1] for r in image.fix().ranges("suspect")} <= {0, 1 << 29}
    # the table that nothing leads to any more, and its data, are not freed
    assert image.number(BLOCK + 2 * ((two & ~COPIED) // CLUSTER), 2) == 1
    image.io("write -P 7 512M 64k")
    assert "verification failed" not in image.io("read -P 1 0 64k")


@pytest.mark.parametrize("offset", [0xC0000, 0xD0000], ids=["table entry", "table offset"])
def test_q13_a_bitmap_is_never_silently_empty(copy: Copy, offset: int) -> None:
    image = copy("M")
    image.poke(offset, 0x10000000)
    lossless = image.fix()
    assert lossless.change["bitmaps-dropped"] == []
    lossy = image.fix(*LOSSY)
    assert image.is_clean()
    flags = [flag for row in image.bitmaps() for flag in row["flags"]]
    assert "in-use" in flags or len(lossy.change["bitmaps-dropped"]) == 1


def test_q14_the_dirty_mark_stays_while_something_is_wrong(copy: Copy) -> None:
    image = copy("B")
    image.poke(72, DIRTY).poke(L2 + 8, 0x8100000000060000)
    image.fix(*LEAKS)
    assert image.number(72) & DIRTY
    assert image.fix().status == 0
    assert image.number(72) == 0
    assert image.number(L2 + 8) == 0x8000000000060000


def test_q15_leaks_are_freed_beside_a_refcount_of_zero(copy: Copy) -> None:
    image = copy("B")
    image.poke(BLOCK + 12, 0, 2)
    leak = image.leak(b"")
    fixed = image.fix(*LEAKS)
    assert image.number(BLOCK + 2 * (leak // CLUSTER), 2) == 0
    assert fixed.status == 4
    assert image.number(BLOCK + 12, 2) == 0


@pytest.mark.parametrize(
    ("letter", "pokes"),
    [
        ("B", {L1: 0x8100000000040001}),
        ("B", {L2: 0x8100000000050002}),
        ("B", {L2 + 8: 0xC000000000060000}),
        ("X", {0x10000: COPIED | 0x14000, 0x10008: 0x00000001FFFFFFFF}),
        ("X", {0x10000: 0, 0x10008: 0x00000000FFFFFFFF}),
        ("X", {0x10000: 0x4000000000014000, 0x10008: 1}),
        ("D", {L2 + 8: 0x4000000000010000}),
        ("B", {L2: 0x8000000000050200}),
        ("B", {L2: 0x8000000001000000}),
        ("B", {L2 + 24: 0x7FC0000000088000}),
        ("S", {0xE0000: 0x90200}),
        ("S", {0xE0000: 0x10000000}),
        ("O", {L2 + 8: COPIED | 0x50000}),
    ],
    ids=[
        *("L1 reserved bits", "L2 reserved bits", "COPIED on compressed", "alloc and zero"),
        *("alloc without cluster", "bitmap on compressed", "compressed in data file image"),
        *("unaligned", "beyond the end", "compressed beyond the end", "snapshot L1 unaligned"),
        *("snapshot L1 beyond the end", "counter overflow"),
    ],
)
def test_q16_everything_has_a_repair(copy: Copy, letter: str, pokes: dict[int, int]) -> None:
    image = copy(letter)
    for offset, value in pokes.items():
        image.poke(offset, value)
    lossless = image.fix()
    assert lossless.status == 0 or lossless.change["left"]
    image.fix(*LOSSY)
    assert image.is_clean()


@pytest.mark.parametrize("letter", ["B", "S"])
def test_q16_safe_repairs_need_no_lossy(copy: Copy, letter: str) -> None:
    image = copy(letter)
    page = image.guest()
    table = image.number(L1) & (COPIED - 1)
    image.poke(L1, image.number(L1) | 0x0100000000000001)
    image.poke(table + 16, image.number(table + 16) | 1 << 57 | 2)
    assert image.fix().status == 0
    assert image.guest() == page
    assert image.is_clean()


def test_q16_a_snapshot_l1_that_is_too_large(copy: Copy) -> None:
    image = copy("S")
    image.poke(0xE0008, 4194305, 4)
    image.fix(*LOSSY)
    assert image.is_clean()
    assert ("2", "snapB") in image.snapshots()


def test_q19_an_l1_entry_of_flags_only(copy: Copy) -> None:
    image = copy("B")
    page, blocks = image.guest(), image.raw[BLOCK : BLOCK + 64]
    image.poke(L1, COPIED)
    for repair in (LEAKS, ALL):
        image.fix(*repair)
        assert image.raw[BLOCK : BLOCK + 64] == blocks
        assert image.number(72) == 0
    image.fix(*LOSSY)
    assert image.guest() == page
    assert image.is_clean()


def test_q22_cut_before_the_l1_table(copy: Copy) -> None:
    image = copy("B")
    os.truncate(image.path, 0x20000)
    before = image.digest
    for repair in (LEAKS, ALL):
        assert image.fix(*repair).status == 6
        assert image.digest == before
    fixed = image.fix(*LOSSY)
    assert fixed.growth <= 4 * CLUSTER
    assert image.number(72) & CORRUPT == 0


def test_q23_a_refcount_table_that_goes_on_and_on(copy: Copy) -> None:
    image = copy("B")
    page = image.guest()
    image.poke(56, 128, 4)
    fixed = image.fix()
    assert fixed.growth <= 4 * CLUSTER
    assert image.guest() == page
    assert image.is_clean()
    assert image.opens_for_writing()
