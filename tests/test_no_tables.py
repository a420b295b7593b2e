"""What is parsed as a table but is none is counted as by QEMU, but its entries are not reported."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from build import COPIED, Picture
from build_write import finish
from command import qfix, record
from corpus_bases import described, plain, with_snapshots
from repair_images import made

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OF_ENTRIES = re.compile(r"T21\d|T22[0-4]|C402")


def unaligned() -> Picture:
    """The L1 entry leads into a data cluster that is full of wild entries."""
    image = described(cluster_bits=10)
    image.contents[5] = b"\xff" * 1024
    return finish(image)


CASES: dict[str, tuple[Callable[[], Picture], dict[str, int], str, int]] = {
    "flags only": (plain, {"l1[0]": COPIED}, "T204", 10),
    "unaligned": (unaligned, {"l1[0]": COPIED | 0x1600}, "T202", 211),
    "active L1 at the header": (plain, {"l1_table_offset": 0}, "H116", 3),
    "snapshot's L1 at the header": (
        with_snapshots,
        {"snapshot[0].l1_table_offset": 0, "snapshot[0].l1_size": 2},
        "S518",
        3,
    ),
    "snapshot's L1 of an empty disk at the header": (
        with_snapshots,
        {"snapshot[0].l1_table_offset": 0, "snapshot[0].extra_disk_size": 0},
        "S518",
        3,
    ),
}


def looked(path: Path, picture: Picture) -> dict[str, Any]:
    path.write_bytes(picture.data)
    return record(path)


@pytest.mark.parametrize("name", CASES)
def test_only_what_leads_there_is_reported(name: str, tmp_path: Path) -> None:
    make, pokes, code, corruptions = CASES[name]
    said = looked(tmp_path / "image", make().poke(pokes))

    found = {row["code"] for row in said["qfix"]["findings"]}
    assert code in found
    assert not any(map(OF_ENTRIES.fullmatch, found))
    assert (said["corruptions"], said["check-errors"]) == (corruptions, 0)


@pytest.mark.parametrize("name", [name for name in CASES if "header" in name])
def test_the_header_has_no_l1_entries(name: str, tmp_path: Path) -> None:
    make, pokes, *_ = CASES[name]
    said = looked(tmp_path / "image", make().poke(pokes))
    found = {row["code"] for row in said["qfix"]["findings"]}
    assert not found & {"T201", "T202", "T203", "T204", "T205", "T230", "C401"}


def test_a_missing_block_stands_nowhere_without_its_table(tmp_path: Path) -> None:
    picture = plain().poke({"refcount_table_offset": 0x100000})
    said = looked(tmp_path / "image", picture)
    row = next(row for row in said["qfix"]["findings"] if row["code"] == "R314")
    assert row["host-offset"] is None
    page = qfix("-m", "error", tmp_path / "image").stdout
    assert "file offset 0x0" not in page.partition("R314")[2].partition("\n\n")[0]


def test_a_missing_block_stands_in_its_table(tmp_path: Path) -> None:
    said = looked(tmp_path / "image", plain().poke({"rt[0]": 0}))
    row = next(row for row in said["qfix"]["findings"] if row["code"] == "R314")
    assert row["host-offset"] == 0x200


@pytest.mark.usefixtures("need_qemu")
def test_an_l2_table_is_no_refcount_block(tmp_path: Path) -> None:
    image = made(tmp_path, "cluster_size=512", "1M", "write -P 1 0 400k")
    guest = image.guest()
    table = image.number(image.number(40) + 8 * 12) & ~COPIED
    entry = image.number(48) + 8 * 3
    assert image.number(entry)
    image.poke(entry, table)
    fixed = image.fix()
    assert (fixed.status, fixed.codes, fixed.ranges("lost")) == (0, set(), [])
    assert image.is_clean()
    assert image.guest() == guest
