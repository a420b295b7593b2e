"""--drop-bitmap: what is named goes, the others stay as they are, also where some are damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from command import case, codes, copy, on_a_terminal, qfix, record
from repair_images import Image, made

if TYPE_CHECKING:
    from pathlib import Path

DAMAGED = (
    *("bitmap-directory-broken", "bitmap-directory-outside", "bitmap-table-outside"),
    *("bitmap-entry-outside", "bitmap-in-use", "bitmap-count-differs", "data-on-bitmap"),
)


def several(folder: Path) -> Image:
    """Make an image with three bitmaps that know of a write."""
    image = made(folder, "cluster_size=64k", "8M")
    for name in ("one", "two", "three"):
        image.qemu("qemu-img", "bitmap", "--add", "image", name)
    image.io("write -P 1 0 1M")
    return image


def names(image: Image) -> list[str]:
    """Return the names of the bitmaps that QEMU lists."""
    return [row["name"] for row in image.bitmaps()]


@pytest.mark.usefixtures("need_qemu")
@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["two"], ["one", "three"]),
        (["bitmap[0]"], ["two", "three"]),
        (["one", "three"], ["two"]),
        (["one", "two", "three"], []),
        (["all"], []),
    ],
)
def test_what_is_named_goes(words: list[str], left: list[str], tmp_path: Path) -> None:
    image = several(tmp_path)
    before, guest, bitmaps = image.digest, image.guest(), image.bitmaps()
    options = [word for name in words for word in ("--drop-bitmap", name)]
    done = qfix(*options, image.path)
    assert done.status == 0
    assert "make the next backup a full one" in done.stdout
    assert names(image) == left
    assert image.bitmaps() == [row for row in bitmaps if row["name"] in left]
    assert image.guest() == guest
    assert image.is_clean()
    assert qfix("--undo", image.path).status == 0
    assert image.digest == before


@pytest.mark.usefixtures("need_qemu")
@pytest.mark.parametrize("name", DAMAGED)
def test_all_go_from_damaged_images(name: str, tmp_path: Path) -> None:
    path = copy(name, tmp_path)
    before = path.read_bytes()
    done = record("--drop-bitmap", "all", path)["qfix"]
    assert done["change"]["bitmaps-dropped"]
    assert not {row["code"] for row in done["findings"] if row["code"].startswith("B")}
    assert record("-m", "info", path)["bitmaps"] == []
    assert qfix("--undo", path).status == codes_status(name)
    assert path.read_bytes() == before


def codes_status(name: str) -> int:
    """Return the status of an image of the corpus."""
    return qfix(case(name)).status or 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--drop-bitmap", "nine"], "is no bitmap; there are: bitmap[0]"),
        (["--drop-bitmap", "bitmap[7]"], "is no bitmap"),
        (["--drop-bitmap", "all", "-A", "1"], "exclude each other"),
        (["--drop-bitmap", "all", "--fix", "all"], "exclude each other"),
        (["-m", "info", "--drop-bitmap", "all"], "belongs to -m check"),
    ],
)
def test_what_does_not_go(options: list[str], said: str, tmp_path: Path) -> None:
    path = copy("ok-bitmaps", tmp_path)
    before = path.read_bytes()
    done = qfix(*options, path)
    assert done.status == 64
    assert said in done.stderr
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_an_image_without_bitmaps(tmp_path: Path) -> None:
    done = qfix("--drop-bitmap", "one", copy("ok-v3", tmp_path))
    assert done.status == 64
    assert "there are no bitmaps" in done.stderr


def test_a_damaged_directory_is_dropped_as_a_whole(tmp_path: Path) -> None:
    done = qfix("--drop-bitmap", "one", copy("bitmap-directory-broken", tmp_path))
    assert done.status == 64
    assert "--drop-bitmap all" in done.stderr


def test_all_are_asked_about_on_a_terminal(tmp_path: Path) -> None:
    path = copy("ok-bitmaps", tmp_path)
    before = path.read_bytes()
    status, said = on_a_terminal(b"n\n", "--drop-bitmap", "all", path)
    assert status == 64
    assert "Give this up?" in said
    assert path.read_bytes() == before


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    path = copy("ok-bitmaps", tmp_path)
    before = path.read_bytes()
    done = qfix("--drop-bitmap", "all", "-n", path)
    assert done.status == 0
    assert "Nothing was written" in done.stdout
    assert path.read_bytes() == before
    assert codes(path) == set()
