"""What the bytes at a host offset belong to, where the writer of images has put what it knows."""

from __future__ import annotations

import filecmp
import shutil
from typing import TYPE_CHECKING

import pytest

import qemu
from build import BACKING_FORMAT, Qcow2
from build_write import finish
from command import qfix, record
from corpus_bases import (
    backed,
    compressed,
    extended,
    leaky,
    luks,
    plain,
    vm_state,
    with_bitmap,
    with_snapshots,
)
from qfix.edits.belongs import belongs
from qfix.examine import examine
from qfix.file import open_file
from repair_images import l2_entries, made
from test_edit_cli import written

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from build import Picture

BEHIND_L1 = "the cluster of the L1 table of the active layer, behind its 2 entries"
ONE = "L2 table 0, entry 1, guest 0x200"


def one_bit() -> Picture:
    """Return an image with refcounts of one bit."""
    return plain(refcount_order=0)


def format_only() -> Picture:
    """Return an image with an extension and no backing file."""
    return finish(Qcow2(extensions=[(BACKING_FORMAT, b"raw")]))


WORDS: list[tuple[Callable[[], Picture], int, int, str]] = [
    (plain, 36, 4, "header field l1_size"),
    (plain, 0, 8, "header field magic, header field version"),
    (plain, 104, 1, "header field compression_type"),
    (plain, 100, 8, "header field header_length, header field compression_type"),
    (plain, 106, 2, "padding of the header"),
    (plain, 300, 8, "the header's cluster, where nothing stands"),
    (format_only, 112, 4, "header extension 0, 0xe2792aca (backing format), magic and length"),
    (format_only, 121, 1, "header extension 0, 0xe2792aca (backing format), byte 1"),
    (lambda: backed(b"base"), 137, 1, "name of the backing file"),
    (plain, 0x200, 8, "refcount table, entry 0"),
    (plain, 0x204, 8, "refcount table, entries 0 to 1"),
    (plain, 0x40A, 2, "refcount block 0, refcount of cluster 5"),
    (plain, 0x408, 8, "refcount block 0, refcounts of clusters 4 to 7"),
    (one_bit, 0x401, 1, "refcount block 0, refcounts of clusters 8 to 15"),
    (plain, 0x608, 8, "L1 table of the active layer, entry 1, guest 0x8000 to 0xffff"),
    (plain, 0x610, 8, BEHIND_L1),
    (plain, 0x808, 8, f"{ONE} (active layer)"),
    (plain, 0xA10, 8, "data of guest 0x10 (active layer)"),
    (
        plain,
        0x7FC,
        8,
        f"{BEHIND_L1} and L2 table 0, entry 0, guest 0x0 (active layer)",
    ),
    (leaky, 0x1200, 8, "leaked: nothing leads to host cluster 9, but its refcount is 1"),
    (with_snapshots, 0x808, 8, f"{ONE} (snapshot[0])"),
    (with_snapshots, 0x1408, 8, f"{ONE} (snapshot[1])"),
    (with_snapshots, 0xC00, 1, "data of guest 0x200 (snapshot[0])"),
    (with_snapshots, 0x1808, 8, "L1 table of snapshot[1], entry 1, guest 0x8000 to 0xffff"),
    (with_snapshots, 0x1E00 + 8, 4, "snapshot table, entry 0, field l1_size"),
    (with_snapshots, 0x1E00 + 48, 8, "snapshot table, entry 0, disk_size"),
    (with_snapshots, 0x1E00 + 64, 1, "snapshot table, entry 0, id"),
    (with_snapshots, 0x1E00 + 66, 1, "snapshot table, entry 0, name"),
    (with_snapshots, 0x1E00 + 71, 1, "snapshot table, entry 0, padding"),
    (with_snapshots, 0x1E00 + 72, 8, "snapshot table, entry 1, field l1_table_offset"),
    (with_snapshots, 0x1E00 + 300, 8, "the snapshot table's cluster, where no entry stands"),
    (with_bitmap, 0x1200, 1, "data of bitmap[0]"),
    (with_bitmap, 0x1400, 8, "table of bitmap[0], entry 0"),
    (with_bitmap, 0x1600 + 17, 1, "bitmap directory, entry 0, field granularity_bits"),
    (with_bitmap, 0x1600 + 24, 1, "bitmap directory, entry 0, name"),
    (with_bitmap, 0x1600 + 40, 1, "the bitmap directory's cluster, where no entry stands"),
    (luks, 0x1210, 1, "encryption header (LUKS), byte 16"),
    (extended, (4 << 14) + 24, 8, "L2 table 0, entry 1 (subcluster bitmap), guest 0x4000"),
    (compressed, 0xA00, 1, "compressed data of guest 0x0 (active layer)"),
]


def told(path: Path, offset: int, width: int) -> str:
    """Return what qfix says of bytes of a file."""
    with open_file(path) as file:
        return belongs(examine(file), offset, width)


@pytest.mark.parametrize(("make", "offset", "width", "words"), WORDS)
def test_what_bytes_belong_to(
    make: Callable[[], Picture], offset: int, width: int, words: str, tmp_path: Path
) -> None:
    found = told(written(make(), tmp_path), offset, width)
    assert found == words or found.startswith(f"{words} (")


def test_shared_tables_and_data_name_every_layer(tmp_path: Path) -> None:
    path = written(with_snapshots(), tmp_path)
    found = told(path, 0xA00, 1)
    for words in ("data of guest 0x0 (snapshot[0])", "(snapshot[1])", "(active layer)"):
        assert words in found
    image = Qcow2()
    image.write(0)
    image.snapshot("1", "one")
    path = written(finish(image), tmp_path)
    assert told(path, 0x800, 8) == ("L2 table 0, entry 0, guest 0x0 (active layer, snapshot[0])")


def test_vm_state_is_named(tmp_path: Path) -> None:
    picture = vm_state()
    place = picture.places["snapshot[0].l2[2][0]"].offset
    assert "guest 0x10000, VM state (snapshot[0])" in told(written(picture, tmp_path), place, 8)


def test_free_space_is_named(tmp_path: Path) -> None:
    picture = plain()
    picture.data.extend(bytes(512))
    assert told(written(picture, tmp_path), 0x1200, 8) == (
        "free: nothing leads to host cluster 9, and its refcount is 0"
    )


def test_a_damaged_entry_that_leads_on_a_table_is_told_with_it(tmp_path: Path) -> None:
    """Guest cluster 3 leads to the L1 table, which is both then."""
    path = written(plain().poke({"l2[0][3]": 0x600 | 1 << 63}), tmp_path)
    found = told(path, 0x600, 8)
    assert found.startswith("L1 table of the active layer, entry 0")
    assert found.endswith(" and data of guest 0x600 (active layer)")
    change = record("-m", "edit", "-n", "--set", "l1[0]=0", path)["qfix"]["change"]["changes"]
    assert "data" not in change[0]["message"]


def test_what_can_not_be_checked_is_told_by_the_header_alone(tmp_path: Path) -> None:
    path = written(plain().poke({"incompatible_features": 1 << 40}), tmp_path)
    assert told(path, 36, 4) == "header field l1_size"
    assert told(path, 0x808, 8) == ""
    done = qfix("-m", "edit", "-n", "-O", "0x808", "-V", "0", path)
    assert "the image can't be checked" in done.stdout


@pytest.mark.usefixtures("need_qemu")
def test_a_table_is_mended_by_hand_as_the_readme_has_it(tmp_path: Path) -> None:
    """Three damaged entries among neighbours that are one cluster apart."""
    image = made(tmp_path, "compat=1.1", "1G")
    cluster, start = 1 << 16, 512 << 20
    qemu.io(
        image.path, *(f"write -P {1 + at % 250} {start + at * cluster} 64k" for at in range(681))
    )
    sound = tmp_path / "sound"
    shutil.copyfile(image.path, sound)
    table = image.number(0x30008) & ~(1 << 63)
    for index, entry in ((674, 0x38000), (675, 0x87888AB1C4C600), (676, 0x2000B92110000)):
        image.poke(table + 8 * index, entry)
    found = record("-m", "error", image.path)["qfix"]["findings"]
    leaks = [(row["host-offset"], row["count"]) for row in found if row["code"] == "R301"]
    entries = l2_entries(image, table, 679)
    low, high = ((entries[at] & ~(1 << 63)) for at in (673, 677))
    assert (high - low) // cluster - 1 == 3
    assert leaks == [(low + cluster, 3)]
    sets = [f"--set=l2[1][{673 + at}]={low + at * cluster:#x}:copied" for at in (1, 2, 3)]
    done = qfix("-m", "edit", *sets, image.path)
    assert done.status == 0
    assert qemu.img("compare", image.path, sound).stdout.strip() == "Images are identical."
    assert filecmp.cmp(image.path, sound, shallow=False)
    assert image.is_clean()
    bare = [word.removesuffix(":copied") for word in sets]
    qfix("--undo", image.path)
    assert "C402" in qfix("-m", "edit", *bare, image.path).stderr
