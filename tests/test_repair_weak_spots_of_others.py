"""What qcow2-dump's repairs do badly, as the reference shows it, and what qfix does instead.

The last tests are the repair by hand that its author describes (b.8): a run of damaged L2 entries.
"""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING

import pytest

import command
import qemu
from qemu_images import RECIPES
from repair_images import (
    BLOCK,
    CLUSTER,
    COPIED,
    L1,
    L2,
    Image,
    build_bases,
    copy_of,
    l2_entries,
    made,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Copy = Callable[[str], Image]

pytestmark = pytest.mark.usefixtures("need_qemu")

LEAKS, ALL, LOSSY = ("--fix", "leaks"), ("--fix", "all"), ("--fix", "all", "--lossy")
EACH_REPAIR = pytest.mark.parametrize("repair", [LEAKS, ALL, LOSSY], ids=" ".join)
HEALTHY = {"d4": "M", "d6": "D", "d7": "X", "b": "B", "s": "S", "v2": "V"}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the images of the reference once."""
    qemu.require()
    folder = tmp_path_factory.mktemp("weak-spots-of-others")
    build_bases(folder)
    return folder


@pytest.fixture
def copy(bases: Path, tmp_path: Path) -> Copy:
    """Return what copies an image of the reference by its letter."""
    return lambda letter: copy_of(letter, bases, tmp_path)


@EACH_REPAIR
@pytest.mark.parametrize("letter", HEALTHY.values(), ids=HEALTHY)
def test_a_healthy_image_is_left_alone(copy: Copy, letter: str, repair: tuple[str, ...]) -> None:
    image = copy(letter)
    before = image.digest
    fixed = image.fix(*repair)
    assert (fixed.status, image.digest) == (0, before)
    assert not fixed.change["applied"]
    assert [path.name for path in image.path.parent.glob("*journal*")] == []


@EACH_REPAIR
def test_d10_narrow_refcounts_in_several_blocks(repair: tuple[str, ...], tmp_path: Path) -> None:
    image = made(tmp_path, "cluster_size=512,refcount_bits=2", "16M", "write -P 1 0 1800k")
    before = image.digest
    assert image.fix(*repair).status == 0
    assert image.digest == before
    image.poke(image.number(image.number(48) + 8) + 5, 0, 1)
    assert image.fix().status == 0
    assert image.digest == before


def test_d3_copied_flags_alone_change(copy: Copy) -> None:
    image = copy("B")
    image.io("write -z -u 64k 64k")
    sound = image.raw
    assert image.number(L2 + 8) & 1
    image.poke(L2, image.number(L2) & ~COPIED)
    assert image.fix().status == 0
    assert image.raw[L2 : L2 + CLUSTER] == sound[L2 : L2 + CLUSTER]
    assert image.is_clean()


def test_d3_compressed_entries_stay_beside_copied_flags(tmp_path: Path) -> None:
    image = made(
        tmp_path, "cluster_size=64k", "4M", "write -c -P 1 0 64k", "write -P 2 64k 64k",
        "write -c -P 3 128k 64k",
    )  # fmt: skip
    page, sound = image.guest(), l2_entries(image, L2, 3)
    image.poke(L2 + 8, sound[1] & ~COPIED)
    assert image.fix().status == 0
    assert l2_entries(image, L2, 3) == sound
    assert image.guest() == page


def test_d4_bitmaps_survive_a_repair(copy: Copy) -> None:
    image = copy("M")
    page, bitmaps = image.guest(), image.bitmaps()
    leak = image.leak(b"x")
    assert image.fix(*LEAKS).status == 0
    assert image.number(BLOCK + 2 * (leak // CLUSTER), 2) == 0
    assert image.bitmaps() == bitmaps
    assert image.guest() == page
    assert "rror" not in image.io("write -P 6 512k 256k")
    assert image.is_clean()
    assert [row["name"] for row in image.bitmaps()] == ["bm0"]


def test_d5_luks_header_is_not_touched(tmp_path: Path) -> None:
    recipe = RECIPES["v3-c512-luks-plain"]
    image = Image(recipe.build(tmp_path / "luks"))
    sound = image.raw
    assert image.fix().status == 0
    assert image.raw == sound

    table = image.number(image.number(40)) & (COPIED - 1)
    image.poke(table + 8, image.number(table))
    image.fix()
    image.fix(*LOSSY)
    start = sound.find(b"LUKS\xba\xbe")
    assert start > 0
    assert image.raw[start : start + (1 << 16)] == sound[start : start + (1 << 16)]
    status = recipe.check_with_qemu(image.path)
    assert status.returncode == 0, status.stderr


def test_d6_data_file_tables_are_repaired_in_place(copy: Copy) -> None:
    image = copy("D")
    sound = image.raw
    image.poke(BLOCK + 8, 0, 2).poke(L2 + 8, 0x10000)
    assert image.fix().status == 0
    assert image.raw == sound


def test_d7_subcluster_bitmaps_are_no_entries(copy: Copy) -> None:
    image = copy("X")
    sound, block = image.raw, image.number(image.number(48))
    image.poke(block + 2 * 6, 7, 2)
    assert image.fix().status == 0
    assert image.raw == sound


@pytest.mark.parametrize(
    ("options", "field"),
    [("cluster_size=4k", 48), ("cluster_size=512", 40), ("cluster_size=64k", 48)],
)
def test_d8_the_header_is_not_overwritten(options: str, field: int, tmp_path: Path) -> None:
    image = made(tmp_path, options, "1M", "write -P 1 0 100k")
    page, head = image.guest(), image.raw[:36]
    image.poke(field, 0)
    image.fix()
    fixed = image.fix(*LOSSY)
    assert image.raw[:36] == head
    if field == 48:
        assert fixed.status == 0
        assert image.guest() == page
        assert image.is_clean()


def test_d9_two_users_where_only_one_can_be_counted(copy: Copy) -> None:
    image = copy("O")
    image.poke(L2 + 8 * 5, image.number(L2))
    page = image.guest()
    image.fix()
    assert image.number(L2 + 8 * 5) != image.number(L2)
    assert image.guest() == page
    assert image.is_clean()
    assert image.opens_for_writing()


@pytest.mark.parametrize("index", [1, 5])
def test_d16_zero_flags_stay_where_clusters_are_parted(copy: Copy, index: int) -> None:
    image = copy("B")
    image.poke(L2 + 8 * index, image.number(L2) | 1)
    page = image.guest()
    assert page[index * CLUSTER :][:CLUSTER] == bytes(CLUSTER)
    image.fix()
    image.fix(*LOSSY)
    assert image.guest() == page
    assert image.number(L2 + 8 * index) & ~COPIED & -512 != image.number(L2) & ~COPIED & -512
    assert image.is_clean()


@pytest.mark.parametrize("users", [6, 16])
def test_d16_many_users_are_all_parted(copy: Copy, users: int) -> None:
    image = copy("B")
    for index in range(1, users):
        image.poke(L2 + 8 * index, image.number(L2))
    page = image.guest()
    image.fix()
    assert len(set(l2_entries(image, L2, users))) == users
    assert image.guest() == page
    image.fix(*LOSSY)
    assert image.is_clean()
    image.io("write -P 7 64k 64k")
    assert image.guest() == page[:CLUSTER] + bytes([7]) * CLUSTER + page[2 * CLUSTER :]


@pytest.mark.parametrize(
    ("offset", "value", "width"),
    [(BLOCK + 12, 2, 2), (BLOCK + 12, 0, 2), (L2, 0x50000, 8), (L2, 0x8100000000050002, 8)],
    ids=["leak", "refcount", "COPIED", "reserved bits"],
)
def test_d17_the_status_is_that_of_the_repaired_image(
    copy: Copy, offset: int, value: int, width: int
) -> None:
    image = copy("B")
    image.poke(offset, value, width)
    assert command.qfix(image.path).status != 0
    dry = command.qfix("-n", *ALL, image.path)
    done = command.qfix(*ALL, image.path)
    assert (dry.status, done.status) == (0, 0)
    assert command.qfix(image.path).status == 0


def test_d18_a_sparse_image_is_not_called_preallocated(copy: Copy) -> None:
    image = copy("B")
    said = command.qfix("-m", "info", "-p", image.path).stdout
    assert "preallocation: off" in " ".join(said.split())


@pytest.mark.parametrize("kind", ["zlib", "zstd"])
def test_d19_compressed_images_are_repaired(kind: str, tmp_path: Path) -> None:
    image = made(
        tmp_path, f"cluster_size=4k,compression_type={kind}", "1M", "write -c -P 1 0 64k",
        "write -P 2 64k 64k",
    )  # fmt: skip
    sound, block = image.raw, image.number(image.number(48))
    assert command.qfix(image.path).status == 0
    for cluster in (5, 6, 8):
        image.poke(block + 2 * cluster, 0, 2)
    assert image.fix().status == 0
    assert image.raw == sound


def test_d20_a_bad_snapshot_does_not_stop_other_repairs(copy: Copy) -> None:
    image = copy("S")
    page, kept = image.guest(), image.guest("2")
    table = 0x40000
    image.poke(table + 24, 0x8000000000050200)
    image.poke(BLOCK + 2 * 15, 0, 2).poke(0xA0000, image.number(0xA0000) ^ COPIED)
    image.fix()
    assert image.number(BLOCK + 2 * 15, 2) == 1
    assert image.guest() == page
    assert image.guest("2") == kept
    image.fix(*LOSSY)
    assert image.is_clean()
    assert len(image.snapshots()) == 2


def garble(image: Image, first: int, values: tuple[int, ...]) -> None:
    """Store damaged L2 entries from index *first* on."""
    for index, value in enumerate(values, first):
        image.poke(L2 + 8 * index, value)


B8 = (0x80000E00038200, 0x87888AB1C4C600, 0xD2000B92110000)
"""Entries like those of the author's example: two unaligned, one far outside."""


def test_b8_a_run_gets_back_what_fills_the_gap(tmp_path: Path) -> None:
    dice = random.Random(8)  # noqa: S311
    image = made(tmp_path, "cluster_size=64k", "4M")
    noise = tmp_path / "noise"
    noise.write_bytes(dice.randbytes(1 << 20))
    image.io(f"write -s {noise} 0 1M")
    page, entries = image.guest(), l2_entries(image, L2, 16)
    garble(image, 6, B8)

    lossless = image.fix()
    assert l2_entries(image, L2, 16)[6:9] == list(B8)
    assert {"T212", "T214"} & lossless.codes

    dry = command.record("-n", *LOSSY, image.path)["qfix"]["change"]
    assert [(row["start"], row["length"]) for row in dry["restored"]] == [(6 << 16, 3 << 16)]
    fixed = image.fix(*LOSSY)
    assert l2_entries(image, L2, 16) == entries
    assert image.guest() == page
    assert fixed.ranges("lost") == []
    assert fixed.ranges("restored") == [("active", 6 << 16, 3 << 16)]
    assert "guess" in " ".join(row["message"] for row in fixed.change["changes"])
    assert image.is_clean()


def test_b8_not_where_the_gap_is_used_by_others(tmp_path: Path) -> None:
    image = made(tmp_path, "cluster_size=64k", "4M", "write -P 1 0 1M")
    entries = l2_entries(image, L2, 16)
    garble(image, 6, B8)
    image.poke(L2 + 8 * 40, entries[7])
    fixed = image.fix(*LOSSY)
    now = l2_entries(image, L2, 41)
    assert now[7] != entries[7] or now[40] != entries[7]
    assert fixed.ranges("lost") or fixed.ranges("restored")
    assert image.is_clean()


def test_b8_not_where_the_gap_is_longer_than_the_run(tmp_path: Path) -> None:
    image = made(tmp_path, "cluster_size=64k", "4M", "write -P 1 0 1M")
    entries = l2_entries(image, L2, 16)
    struct_of = struct.Struct(">4Q")
    with image.path.open("r+b") as file:
        file.seek(L2 + 8 * 6)
        file.write(struct_of.pack(*B8, 0))
    image.fix(*LOSSY)
    restored = l2_entries(image, L2, 16)
    assert restored[9] in {0, entries[9]}
    assert image.is_clean()


def test_b8_with_several_runs_in_one_table(tmp_path: Path) -> None:
    image = made(tmp_path, "cluster_size=64k", "8M", "write -P 1 0 4M")
    page, entries = image.guest(), l2_entries(image, L2, 64)
    garble(image, 3, B8)
    garble(image, 20, B8[:1])
    garble(image, 40, (*B8, *B8))
    assert image.fix(*LOSSY).status == 0
    assert l2_entries(image, L2, 64) == entries
    assert image.guest() == page


def test_the_l1_table_is_where_the_tests_think(copy: Copy) -> None:
    image = copy("B")
    assert (image.number(40), image.number(L1)) == (L1, COPIED | L2)
