"""Planners of pass B: a bitmap that is damaged is never trusted; the others stay as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import qemu
from build import Entry, Picture, Qcow2
from build_write import finish
from corpus_bases import described, with_bitmap
from planning import drafted, found, grave, is_clean_for_qemu, planned, written
from qfix.change.draft import RESTORED
from qfix.layout.bitmaps import IN_USE
from qfix.repair import bitmaps
from qfix.repair.bitmaps import mark_in_use
from qfix.repair.directory import raw_bitmap
from qfix.repair.wanted import Wanted

if TYPE_CHECKING:
    from pathlib import Path

    from qfix.change.draft import Draft

SAFE = (
    "bitmaps-bit-alone",
    "bitmaps-reserved-field",
    "bitmaps-none",
    "bitmaps-too-many",
    "bitmap-directory-outside",
    "bitmap-count-differs",
)
DISTRUSTED = (
    "bitmap-table-outside",
    "bitmap-entry-outside",
    "bitmap-entry-reserved-bits",
    "bitmap-too-small",
)
DROPPED = (
    "bitmap-directory-broken",
    "bitmaps-bit-clear",
    "bitmap-name-double",
    "bitmap-flags-unknown",
    "bitmap-granularity",
    "bitmap-type-unknown",
    "bitmap-extra-data",
    "bitmap-name-empty",
)
NAMES = ("daily", "weekly", "monthly")
STORED = b"\x0f" * 16 + bytes(496)


def three() -> Picture:
    """Return an image: bitmap data in 10, 12, 14, tables in 11, 13, 15, directory in 16."""
    image = described(size=3 << 20)
    for name in NAMES:
        image.bitmap(name, STORED, 0)
    return finish(image)


def names(draft: Draft) -> list[str]:
    """Return the names of the bitmaps that there would be."""
    directory = draft.image.directory
    return [item.name.decode() for item in directory.bitmaps] if directory else []


def in_use(draft: Draft) -> list[str]:
    """Return the names of those that are marked as in use."""
    directory = draft.image.directory
    items = directory.bitmaps if directory else ()
    return [item.name.decode() for item in items if item.entry.flags & IN_USE]


def sound_entries(folder: Path) -> list[bytes]:
    """Return the directory entries of a sound image."""
    with drafted(three(), folder) as draft:
        assert draft.image.directory
        return [raw_bitmap(draft, item) for item in draft.image.directory.bitmaps]


@pytest.mark.parametrize("name", SAFE)
def test_what_can_be_told_is_put_right(name: str, tmp_path: Path) -> None:
    with planned(name, tmp_path) as draft:
        assert found(draft) == []
        assert draft.changes
        assert not draft.left


@pytest.mark.parametrize("name", [*DISTRUSTED, *DROPPED])
def test_what_is_given_up_needs_lossy(name: str, tmp_path: Path) -> None:
    with planned(name, tmp_path, planners=bitmaps.PLANNERS) as draft:
        assert not any(change.code[0] == "B" for change in draft.changes)
        assert any(key[0] == "B" and left.option == "--lossy" for key, left in draft.left.items())
    with planned(name, tmp_path, lossy=True) as draft:
        assert grave(draft) == []
        assert draft.bitmaps
        assert in_use(draft) == (["daily"] if name in DISTRUSTED else [])
        assert names(draft) == (["daily"] if name in (*DISTRUSTED, "bitmap-name-double") else [])


@pytest.mark.parametrize("name", [*SAFE, *DISTRUSTED, *DROPPED])
def test_lower_levels_leave_bitmaps(name: str, tmp_path: Path) -> None:
    for level in ("leaks", "errors", "reuse"):
        with drafted(name, tmp_path) as draft:
            assert not any(planner(draft, Wanted(level)) for planner in bitmaps.PLANNERS)
            assert not draft.left


@pytest.mark.usefixtures("need_qemu")
@pytest.mark.parametrize("name", [*SAFE, *DISTRUSTED, *DROPPED])
def test_qemu_finds_the_repaired_image_clean(name: str, tmp_path: Path) -> None:
    with planned(name, tmp_path, lossy=True) as draft:
        assert is_clean_for_qemu(draft, tmp_path)
        info = qemu.img("info", str(written(draft, tmp_path))).stdout
        assert ("in-use" in info) == (name in DISTRUSTED)


# the directory


@pytest.mark.parametrize(
    "values",
    [
        {"bitmaps.nb": 0},
        {"bitmaps.nb": 2},
        {"bitmaps.nb": 1 << 31},
        {"bitmaps.directory_size": 0},
        {"bitmaps.directory_size": 24},
        {"bitmaps.directory_size": 40},
        {"bitmaps.directory_size": 512},
        {"bitmaps.directory_size": 1 << 40},
        {"bitmaps.directory_size": (1 << 64) - 1},
        {"bitmaps.directory_offset": 0},
        {"bitmaps.directory_offset": 16 * 512 + 8},
        {"bitmaps.directory_offset": 1 << 40},
        {"bitmaps.directory_offset": (1 << 64) - 512},
        {"bitmaps.reserved": 1 << 31},
        {"extension[0].length": 16},
        {"extension[0].length": 0},
    ],
)
def test_the_extension_is_told_by_the_directory(values: dict[str, int], tmp_path: Path) -> None:
    with planned(three().poke(values), tmp_path) as draft:
        assert found(draft) == []
        assert names(draft) == list(NAMES)
        assert not in_use(draft)


def test_bitmaps_before_a_break_stay(tmp_path: Path) -> None:
    sound = sound_entries(tmp_path)
    for number in range(3):
        picture = three().poke({f"bitmap[{number}].name_size": 60_000})
        with planned(picture, tmp_path, lossy=True) as draft:
            directory = draft.image.directory
            kept = [raw_bitmap(draft, item) for item in directory.bitmaps] if directory else []
            assert kept == sound[:number]
            assert draft.bitmaps
            assert grave(draft) == []
            assert (draft.image.header.autoclear_features == 1) == bool(number)


@pytest.mark.parametrize(
    ("values", "gone"),
    [
        ({"bitmap[0].flags": 0x80}, ["daily"]),
        ({"bitmap[1].type": 9, "bitmap[2].granularity_bits": 40}, ["weekly", "monthly"]),
        ({"bitmap[1].granularity_bits": 3}, ["weekly"]),
        ({f"bitmap[{at}].type": 0 for at in range(3)}, list(NAMES)),
    ],
)
def test_exactly_the_unfit_ones_go(values: dict[str, int], gone: list[str], tmp_path: Path) -> None:
    with planned(three().poke(values), tmp_path, lossy=True) as draft:
        assert names(draft) == [name for name in NAMES if name not in gone]
        assert draft.bitmaps == gone
        assert grave(draft) == []
        assert not in_use(draft)


def test_a_second_bitmap_of_a_name_goes(tmp_path: Path) -> None:
    with planned(with_bitmap("a", "b", "a", "b"), tmp_path, lossy=True) as draft:
        assert names(draft) == ["a", "b"]
        assert draft.bitmaps == ["a", "b"]
        assert found(draft) == []


# tables


@pytest.mark.parametrize(
    "values",
    [
        {"bitmap[1].table_offset": 0},
        {"bitmap[1].table_offset": 0x1234},
        {"bitmap[1].table_offset": 1 << 40},
        {"bitmap[1].table_size": 0},
        {"bitmap[1].table_size": 1 << 31},
        {"bitmap[1].table[0]": 1 << 40},
        {"bitmap[1].table[0]": 0x1602},
        {"bitmap[1].table[0]": 0x1801},
        {"bitmap[1].table[1]": 0x8000000000000000},
    ],
)
def test_a_bitmap_that_can_not_be_read_is_kept_by_name(
    values: dict[str, int], tmp_path: Path
) -> None:
    sound = sound_entries(tmp_path)
    with planned(three().poke(values), tmp_path, lossy=True) as draft:
        assert names(draft) == list(NAMES)
        assert in_use(draft) == ["weekly"]
        assert draft.bitmaps == ["weekly"]
        assert grave(draft) == []
        assert draft.image.directory
        kept = [raw_bitmap(draft, item) for item in draft.image.directory.bitmaps]
        assert (kept[0], kept[2]) == (sound[0], sound[2])


def test_sound_parts_of_a_damaged_table_stay(tmp_path: Path) -> None:
    picture = three().poke({"bitmap[1].table[1]": 1 << 63})
    with planned(picture, tmp_path, lossy=True) as draft:
        table = draft.overlay.read(13 * 512, 16)
        assert table == (12 * 512).to_bytes(8, "big") + bytes(8)


def test_a_table_of_impossible_length_is_made_for_the_disk(tmp_path: Path) -> None:
    picture = three().poke({"bitmap[0].table_size": 1 << 30, "bitmap[2].table_offset": 8})
    with planned(picture, tmp_path, lossy=True) as draft:
        assert draft.image.directory
        sizes = [item.entry.bitmap_table_size for item in draft.image.directory.bitmaps]
        assert sizes == [2, 2, 2]
        assert in_use(draft) == ["daily", "monthly"]


def test_a_bitmap_whose_table_would_be_too_large_goes(tmp_path: Path) -> None:
    image = Qcow2(size=4 << 40, cluster_bits=16)
    image.bitmap("too fine", 0)
    image.bitmap("coarse", 0, granularity_bits=20)
    picture = finish(image).poke({f"bitmap[{at}].table_offset": 77 for at in range(2)})
    with planned(picture, tmp_path, lossy=True) as draft:
        assert names(draft) == in_use(draft) == ["coarse"]
        assert draft.bitmaps == ["too fine", "coarse"]
        assert grave(draft) == []


# clusters with two owners


@pytest.mark.parametrize("cluster", [10, 11])
def test_a_bitmap_under_guest_data_is_not_trusted(cluster: int, tmp_path: Path) -> None:
    picture = _with_data_on(cluster)
    with drafted(picture, tmp_path) as draft:
        assert any(planner(draft, Wanted("errors")) for planner in bitmaps.PLANNERS)
        draft.examine()
        assert in_use(draft) == ["daily"]
        assert not any(planner(draft, Wanted("errors")) for planner in bitmaps.PLANNERS)
        assert not draft.is_lossy
    with planned(picture, tmp_path, lossy=True) as draft:
        assert grave(draft) == []
        assert in_use(draft) == ["daily"]
        assert names(draft) == list(NAMES)


def test_a_directory_under_guest_data_moves(tmp_path: Path) -> None:
    sound = sound_entries(tmp_path)
    with planned(_with_data_on(16), tmp_path, lossy=True) as draft:
        assert grave(draft) == []
        assert not in_use(draft)
        assert draft.image.directory
        assert [raw_bitmap(draft, item) for item in draft.image.directory.bitmaps] == sound
        assert draft.image.directory.bitmaps[0].offset > 16 * 512


def test_bitmaps_that_share_a_table_are_parted(tmp_path: Path) -> None:
    picture = three().poke({"bitmap[1].table_offset": 11 * 512})
    with planned(picture, tmp_path, lossy=True) as draft:
        assert grave(draft) == []
        assert in_use(draft) == ["daily", "weekly"]


def _with_data_on(cluster: int) -> Picture:
    image = described(size=3 << 20)
    for name in NAMES:
        image.bitmap(name, STORED, 0)
    image.map(9, Entry(cluster << 9, (cluster,)))
    return finish(image)


# what other planners call


def test_all_bitmaps_are_marked_when_the_guest_reads_something_else(tmp_path: Path) -> None:
    with drafted(three(), tmp_path) as draft:
        draft.tell(RESTORED, 0, np.array([0]), np.array([512]))
        assert mark_in_use(draft)
        draft.examine()
        assert found(draft) == ["B611"]
        assert in_use(draft) == list(NAMES)
        assert not mark_in_use(draft)
        assert not draft.is_lossy


@pytest.mark.parametrize("values", [{"autoclear_features": 0}, {"bitmaps.nb": 9}])
def test_bitmaps_that_are_not_valid_are_not_marked(values: dict[str, int], tmp_path: Path) -> None:
    with drafted(three().poke(values), tmp_path) as draft:
        assert not mark_in_use(draft)
        assert not draft.overlay.is_changed


def test_an_image_without_bitmaps_is_left_alone(tmp_path: Path) -> None:
    with drafted(finish(described()), tmp_path) as draft:
        assert not mark_in_use(draft)
        assert not any(planner(draft, Wanted("all", lossy=True)) for planner in bitmaps.PLANNERS)
