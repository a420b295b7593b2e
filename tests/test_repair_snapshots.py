"""Planners of pass S: the good snapshots stay, as they are; only what is damaged is given up."""

from __future__ import annotations

import struct
from copy import deepcopy
from typing import TYPE_CHECKING

import pytest

from build import Picture, Qcow2
from build_write import finish
from command import codes, record
from corpus_bases import K, data_file, described, plain, with_snapshots
from planning import drafted, found, grave, is_clean_for_qemu, planned
from qfix.checks.snapshots import title
from qfix.layout.tables import OFFSET_MASK
from qfix.repair import snapshots
from qfix.repair.snapshot_table import encode_table, raw_entry
from qfix.repair.wanted import Wanted

if TYPE_CHECKING:
    from pathlib import Path

    from qfix.change.draft import Draft

SAFE = (
    "snapshots-offset-without-snapshots",
    "snapshot-table-unaligned",
    "snapshot-table-outside-file",
    "snapshot-table-overrun",
    "snapshot-table-overrun-second",
    "snapshot-extra-short",
    "snapshot-lost",
    "snapshot-l1-unaligned",
    "snapshot-l1-huge",
    "snapshot-l1-outside-file",
    "snapshot-l1-at-2-63",
    "snapshot-l1-missing",
)
LOSSY = (
    "snapshots-too-many",
    "snapshot-phantom",
    "snapshots-with-data-file",
    "snapshot-extra-long",
    "snapshot-size-zero",
    "snapshot-size-huge",
)
NO_DATA_FILE = [name for name in (*SAFE, *LOSSY) if "data-file" not in name]
TOO_LONG = (1025, 70_000, 1 << 20, 64 << 20, 0x7FFFFFFF, 0xFFFFFFFF)


def several(count: int = 5) -> Picture:
    """Return an image with snapshots between writes."""
    image = described(size=128 * K)
    for number in range(1, count + 1):
        image.snapshot(str(number), f"snapshot {number}")
        image.write(number % 4, f"after snapshot {number}, ")
    return finish(image)


def ids(draft: Draft) -> list[str]:
    """Return the ids of the snapshots that there would be."""
    return [item.id_str.decode() for item in draft.image.snapshots]


def entries(draft: Draft) -> list[bytes]:
    """Return the entries of the table as planned."""
    return [raw_entry(draft, item) for item in draft.image.snapshots]


def sound_entries(picture: Picture, folder: Path) -> list[bytes]:
    """Return the entries of a sound image."""
    with drafted(picture, folder) as draft:
        assert grave(draft) == []
        return entries(draft)


@pytest.mark.parametrize("name", SAFE)
def test_what_can_be_told_is_put_right(name: str, tmp_path: Path) -> None:
    with planned(name, tmp_path) as draft:
        assert found(draft) == []
        assert draft.changes
        assert not draft.left
        assert not draft.dropped


@pytest.mark.parametrize("name", [*SAFE, *LOSSY])
def test_lower_levels_leave_the_table(name: str, tmp_path: Path) -> None:
    for level in ("leaks", "errors", "reuse"):
        with planned(name, tmp_path, level=level, planners=snapshots.PLANNERS) as draft:
            assert not any(change.code[0] == "S" for change in draft.changes)


@pytest.mark.parametrize("name", LOSSY)
def test_what_is_given_up_is_named(name: str, tmp_path: Path) -> None:
    with planned(name, tmp_path) as draft:
        assert not draft.changes
        codes = {code for code in found(draft) if code[0] == "S"}
        assert codes & set(draft.left)
    with planned(name, tmp_path, lossy=True) as draft:
        assert grave(draft) == []
        assert draft.is_lossy


@pytest.mark.usefixtures("need_qemu")
@pytest.mark.parametrize("name", NO_DATA_FILE)
def test_qemu_finds_the_repaired_image_clean(name: str, tmp_path: Path) -> None:
    with planned(name, tmp_path, lossy=True) as draft:
        assert is_clean_for_qemu(draft, tmp_path)


@pytest.mark.parametrize(
    ("values", "gone"),
    [
        ({"snapshot[0].l1_table_offset": 0x1210}, [1]),
        ({"snapshot[2].l1_table_offset": 1 << 40}, [3]),
        ({"snapshot[4].l1_size": 4194305}, [5]),
        ({"snapshot[1].l1_table_offset": 0, "snapshot[3].l1_size": 0}, [2, 4]),
        ({f"snapshot[{at}].l1_table_offset": 77 for at in range(5)}, [1, 2, 3, 4, 5]),
    ],
)
def test_exactly_the_damaged_ones_go(
    values: dict[str, int], gone: list[int], tmp_path: Path
) -> None:
    sound = sound_entries(several(), tmp_path)
    picture = several()
    for number in gone:
        picture.poke({f"snapshot[{number - 1}].l1[{at}]": 0x1234 for at in range(4)})
    with planned(picture.poke(values), tmp_path, lossy=True) as draft:
        assert entries(draft) == [raw for at, raw in enumerate(sound, 1) if at not in gone]
        assert draft.dropped == [f"{at} (snapshot {at})" for at in gone]
        assert draft.layers == [0, *(at for at in range(1, 6) if at not in gone)]
        if len(gone) == 5:
            head = draft.image.header
            assert (head.nb_snapshots, head.snapshots_offset) == (0, 0)


def test_entries_of_zeros_are_left_out_wherever_they_are(tmp_path: Path) -> None:
    sound = sound_entries(several(3), tmp_path)
    picture = several(3)
    start = picture.places["snapshot[0].l1_table_offset"].offset
    picture.put(start, encode_table([sound[0], bytes(40), bytes(40), *sound[1:]]))
    picture.poke({"nb_snapshots": 5})
    with planned(picture, tmp_path, lossy=True) as draft:
        assert entries(draft) == sound
        assert not draft.dropped
        assert grave(draft) == []


@pytest.mark.parametrize("count", [65537, 1 << 24, (1 << 32) - 1])
def test_an_impossible_number_is_trimmed(count: int, tmp_path: Path) -> None:
    picture = with_snapshots().poke({"nb_snapshots": count})
    with planned(picture, tmp_path, lossy=True) as draft:
        assert ids(draft) == ["1", "2"]
        assert draft.layers == [0, 1, 2]
        assert found(draft) == []


def test_a_damaged_entry_before_good_ones_does_not_end_the_table(tmp_path: Path) -> None:
    picture = several().poke({"nb_snapshots": 1 << 20, "snapshot[1].l1_table_offset": 5})
    picture.poke({f"snapshot[1].l1[{at}]": 0x1234 for at in range(4)})
    with planned(picture, tmp_path, lossy=True) as draft:
        assert ids(draft) == ["1", "3", "4", "5"]
        assert found(draft) == []


# extra data


@pytest.mark.parametrize("length", TOO_LONG)
@pytest.mark.parametrize("which", [0, 2, 4])
def test_lengths_of_extra_data_are_told_by_the_names(
    which: int, length: int, tmp_path: Path
) -> None:
    sound = sound_entries(several(), tmp_path)
    picture = several().poke({f"snapshot[{which}].extra_data_size": length})
    with planned(picture, tmp_path) as draft:
        assert entries(draft) == sound
        assert found(draft) == []


def test_two_lengths_are_told_at_once(tmp_path: Path) -> None:
    sound = sound_entries(several(), tmp_path)
    values = {"snapshot[0].extra_data_size": 5000, "snapshot[3].extra_data_size": 1 << 31}
    with planned(several().poke(values), tmp_path) as draft:
        assert entries(draft) == sound


def test_good_entries_behind_one_that_can_not_be_read_stay(tmp_path: Path) -> None:
    sound = sound_entries(several(), tmp_path)
    values = {"snapshot[1].extra_data_size": 1 << 31, "snapshot[1].id_str_size": 60_000}
    picture = several().poke(values)
    with planned(picture, tmp_path) as draft:
        assert draft.left["S504"].option == "--lossy"
        assert not draft.changes
    with planned(picture, tmp_path, lossy=True) as draft:
        assert entries(draft) == [sound[0], *sound[2:]]
        assert draft.dropped == ["1 snapshots that can't be read"]
        assert grave(draft) == []


def test_what_a_newer_program_wrote_is_cut_not_dropped(tmp_path: Path) -> None:
    image = described()
    extra = struct.pack(">QQQ", 0, 64 * K, 0).ljust(2000, b"\7")
    image.snapshot("1", "long", extra=extra)
    image.write(1, "later ")
    image.snapshot("2", "short")
    with planned(finish(image), tmp_path, lossy=True) as draft:
        assert ids(draft) == ["1", "2"]
        assert draft.image.snapshots[0].extra == extra[:1024]
        assert not draft.dropped
        assert found(draft) == []


def test_short_entries_are_completed(tmp_path: Path) -> None:
    image = described()
    image.snapshot("1", "none", extra=b"", vm_state_size=512)
    image.snapshot("2", "half", extra=(1 << 33).to_bytes(8, "big"))
    image.snapshot("3", "whole")
    with planned(finish(image), tmp_path) as draft:
        assert [item.vm_state_size for item in draft.image.snapshots] == [512, 1 << 33, 0]
        assert [item.disk_size for item in draft.image.snapshots] == [64 * K] * 3
        assert [item.icount for item in draft.image.snapshots] == [None, None, 0]
        assert [title(item) for item in draft.image.snapshots] == [
            "1 (none)",
            "2 (half)",
            "3 (whole)",
        ]
        assert found(draft) == []


def test_a_short_entry_of_a_smaller_disk_gets_a_size_that_fits(tmp_path: Path) -> None:
    image = described()
    image.snapshot("1", "one", extra=bytes(8))
    picture = finish(image).poke({"l1_size": 1, "size": 32 * K, "snapshot[0].l1_size": 1})
    picture.poke({"size": 64 * K, "l1_size": 2})
    with planned(picture, tmp_path) as draft:
        assert draft.image.snapshots[0].disk_size == 32 * K
        assert found(draft) == []


def test_version_2_needs_no_extra_data(tmp_path: Path) -> None:
    with planned(with_snapshots(version=2), tmp_path, lossy=True) as draft:
        assert not draft.overlay.is_changed


@pytest.mark.parametrize("size", [0, 1 << 40, (1 << 64) - 1])
def test_a_disk_size_is_guessed(size: int, tmp_path: Path) -> None:
    picture = several().poke({"snapshot[1].extra_disk_size": size})
    with planned(picture, tmp_path, lossy=True) as draft:
        assert [item.disk_size for item in draft.image.snapshots] == [128 * K] * 5
        assert ids(draft) == ["1", "2", "3", "4", "5"]
        assert found(draft) == []


# tables that are lost


@pytest.mark.parametrize(
    "values",
    [
        {"nb_snapshots": 4},
        {"nb_snapshots": 1},
        {"nb_snapshots": 0},
        {"nb_snapshots": 0, "snapshots_offset": 0},
        {"nb_snapshots": 0, "snapshots_offset": 0x1234},
        {"snapshots_offset": 0},
        {"snapshots_offset": 0x1234},
        {"snapshots_offset": 1 << 40},
        {"snapshots_offset": (1 << 64) - 512},
    ],
)
def test_a_pointer_that_was_lost_is_found(values: dict[str, int], tmp_path: Path) -> None:
    sound = sound_entries(several(), tmp_path)
    with planned(several().poke(values), tmp_path) as draft:
        assert entries(draft) == sound
        assert found(draft) == []


def test_a_table_that_is_nowhere_is_given_up(tmp_path: Path) -> None:
    picture = several()
    start = picture.places["snapshot[0].l1_table_offset"].offset
    picture.put(start, bytes(512)).poke({"snapshots_offset": 1 << 40})
    with planned(picture, tmp_path) as draft:
        assert draft.left["S502"].why == "5 snapshots would be given up"
        assert "leaks" in draft.left
    with planned(picture, tmp_path, lossy=True) as draft:
        assert draft.dropped == ["5 snapshots that can't be read"]
        assert found(draft) == []


def test_a_nonsense_pointer_beside_a_lost_table_needs_lossy(tmp_path: Path) -> None:
    picture = several(1)
    start = picture.places["snapshot[0].l1_table_offset"].offset
    picture.put(start, bytes(512)).poke({"nb_snapshots": 0, "snapshots_offset": 0x77})
    with planned(picture, tmp_path) as draft:
        assert "S501" in draft.left
        assert not draft.changes
    with planned(picture, tmp_path, lossy=True) as draft:
        assert found(draft) == []


def test_snapshots_of_an_image_with_a_data_file_are_named(tmp_path: Path) -> None:
    with planned(data_file(snapshot=True), tmp_path, lossy=True) as draft:
        assert draft.dropped == ["1 (one)"]
        assert grave(draft) == []


@pytest.mark.parametrize(
    "values",
    [
        {"snapshot[2].l1_table_offset": 0},
        {"snapshot[2].l1_table_offset": 1 << 40},
        {"snapshot[2].l1_table_offset": (1 << 64) - 512},
        {"snapshot[2].l1_table_offset": 3},
        {"snapshot[2].l1_table_offset": 512},
        {"snapshot[2].l1_table_offset": 3 * 512},
        {"snapshot[2].l1_table_offset": 5 * 512},
        {"snapshot[2].l1_size": 0},
        {"snapshot[2].l1_size": 200},
        {"snapshot[2].l1_size": 1 << 20},
        {"snapshot[2].l1_size": (1 << 32) - 1},
        {"snapshot[1].l1_size": 0, "snapshot[4].l1_size": 1 << 22},
        {"snapshot[2].l1_size": 1 << 31, "snapshot[2].l1_table_offset": 1 << 31},
    ],
)
def test_an_l1_table_that_was_lost_is_found(values: dict[str, int], tmp_path: Path) -> None:
    sound = sound_entries(several(), tmp_path)
    with planned(several().poke(values), tmp_path) as draft:
        assert entries(draft) == sound
        assert found(draft) == []


@pytest.mark.parametrize("size", [600, 1023, 1024, 1025, 1914, 2000, 8000])
def test_entries_behind_those_of_the_disk_that_are_none_are_left_out(
    size: int, tmp_path: Path
) -> None:
    for number in range(2):
        picture = with_snapshots(cluster_bits=12).poke({f"snapshot[{number}].l1_size": size})
        with planned(picture, tmp_path) as draft:
            assert found(draft) == []
            kept = draft.image.snapshots[number].entry.l1_size
            assert kept == (1 if kept < size else size)


# room


def blocked() -> Picture:
    """Return an image without a free cluster, whose end something leads behind."""
    image = described()
    image.snapshot("1", "one")
    image.snapshot("2", "two")
    picture = finish(image)
    end = len(picture.data)
    picture.poke({"snapshot[0].l1_table_offset": 1 << 40, "l2[0][9]": end})
    return picture.poke({"snapshot[0].l1[0]": 0x1234})


def test_a_table_is_written_in_its_place_where_the_file_can_not_grow(tmp_path: Path) -> None:
    with drafted(blocked(), tmp_path) as draft:
        before = draft.image.header.snapshots_offset
        wanted = Wanted("all", lossy=True)
        assert any(planner(draft, wanted) for planner in snapshots.PLANNERS)
        draft.examine()
        assert (draft.image.header.snapshots_offset, ids(draft)) == (before, ["2"])
        assert draft.overlay.size == draft.before.head.file.size


def test_a_table_for_which_there_is_no_room_is_left(tmp_path: Path) -> None:
    picture = blocked()
    table = picture.places["snapshot[0].l1_table_offset"].offset
    picture.poke({"l2[0][8]": table})
    with drafted(picture, tmp_path) as draft:
        wanted = Wanted("all", lossy=True)
        assert not any(planner(draft, wanted) for planner in snapshots.PLANNERS)
        assert "S513" in draft.left
        assert not draft.overlay.is_changed


def test_the_first_ones_stay_where_they_are(tmp_path: Path) -> None:
    picture = several().poke({"snapshot[4].l1_table_offset": 1 << 40, "snapshot[4].l1[0]": 0x77})
    with drafted(picture, tmp_path) as draft:
        before = draft.image.header.snapshots_offset
        wanted = Wanted("all", lossy=True)
        assert any(planner(draft, wanted) for planner in snapshots.PLANNERS)
        draft.examine()
        assert draft.image.header.snapshots_offset == before
        assert draft.overlay.size == len(picture.data)


def test_nothing_is_done_without_snapshots(tmp_path: Path) -> None:
    with planned(plain(), tmp_path, lossy=True) as draft:
        assert not draft.overlay.is_changed


def test_a_table_is_encoded_as_it_was(tmp_path: Path) -> None:
    with drafted(several(), tmp_path) as draft:
        table = encode_table(entries(draft))
        assert len(table) == draft.image.snapshot_table[1].size
        offset = draft.image.header.snapshots_offset
        assert table == draft.overlay.read(offset, len(table))


def test_a_snapshot_with_a_vm_state_keeps_it(tmp_path: Path) -> None:
    image = Qcow2(l1_size=3)
    image.write(128, "registers ")
    image.snapshot("1", "running", vm_state_size=512)
    for size in (0, 4, 1 << 20, 1 << 30):
        picture = finish(deepcopy(image)).poke({"snapshot[0].l1_size": size})
        with planned(picture, tmp_path) as draft:
            assert draft.image.snapshots[0].entry.l1_size == (4 if size == 4 else 3)
            assert found(draft) == []


# L1 tables


def led_to(raw: bytes, table: int) -> list[int]:
    """Return the host offsets in an L2 table."""
    return [entry & OFFSET_MASK for (entry,) in struct.iter_unpack(">Q", raw[table : table + K])]


@pytest.mark.parametrize("which", [0, 1])
def test_a_snapshot_that_leads_to_an_l2_table_does_not_cost_the_active_layer(
    which: int, tmp_path: Path
) -> None:
    picture = several(2)
    raw, start = bytes(picture.data), picture.places["l1[0]"].offset
    table = int.from_bytes(raw[start : start + 8]) & OFFSET_MASK
    picture.poke({f"snapshot[{which}].l1[{at}]": 0x1234 for at in range(4)})
    path = tmp_path / "image.qcow2"
    path.write_bytes(picture.poke({f"snapshot[{which}].l1_table_offset": table}).data)
    change = record("--fix", "all", "--lossy", path)["qfix"]["change"]
    assert not {row["layer"] for row in change["lost"]} - {f"snapshot[{which}]"}
    assert change["snapshots-dropped"] == [f"{which + 1} (snapshot {which + 1})"]
    assert codes(path) == set()
    assert led_to(path.read_bytes(), table) == led_to(raw, table)
