"""Planners of pass H: what can be derived is, anything else is left, or given up if asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from build import (
    BACKING_FORMAT,
    DATA_FILE_NAME,
    ENCRYPTION,
    FEATURE_NAMES,
    LUKS_HEADER,
    Picture,
    Qcow2,
)
from build_write import finish
from corpus_bases import FEATURE, K, compressed, described, luks, plain, text, zstd
from planning import drafted, found, grave, is_clean_for_qemu, planned
from qfix.repair import headers
from qfix.repair.headers import clear_unknown_autoclear
from qfix.repair.wanted import Wanted

if TYPE_CHECKING:
    from pathlib import Path

SAFE = (
    "magic-damaged",
    "header-length-small",
    "header-length-large",
    "header-length-odd",
    "virtual-size-odd",
    "l1-size-huge",
    "l1-size-small",
    "autoclear-unknown",
    "compression-bit-missing",
    "compression-bit-needless",
    "compression-unknown",
    "header-padding",
    "raw-without-data-file",
    "extensions-ignored",
)
LOSSY = (
    "crypt-method-unknown",
    "virtual-size-huge",
    "extension-overrun",
    "backing-format-long",
    "backing-offset-outside",
    "backing-name-across",
    "backing-name-long",
    "backing-name-in-header",
)
UNKNOWN = 0x12345678
NAMES = b"".join(
    bytes((kind, bit)) + name.ljust(46, b"\0")
    for kind, bit, name in (
        (0, 0, b"dirty bit"),
        (0, 1, b"corrupt bit"),
        (1, 0, b"lazy"),
        (2, 0, b"b"),
    )
)
assert len(NAMES) == 192


def poked(picture: Picture, **values: int) -> Picture:
    """Return the picture with other values in some fields."""
    return picture.poke(values)


@pytest.mark.parametrize("name", SAFE)
def test_what_can_be_derived_is_set(name: str, tmp_path: Path) -> None:
    with planned(name, tmp_path) as draft:
        assert found(draft) == []
        assert draft.changes
        assert not draft.left


@pytest.mark.parametrize("level", ["leaks", "errors", "reuse"])
@pytest.mark.parametrize("name", SAFE)
def test_lower_levels_leave_the_header(name: str, level: str, tmp_path: Path) -> None:
    with planned(name, tmp_path, level=level, planners=headers.PLANNERS) as draft:
        assert not any(change.code.startswith("H") for change in draft.changes)


@pytest.mark.parametrize("name", LOSSY)
def test_what_is_a_guess_or_a_loss_needs_lossy(name: str, tmp_path: Path) -> None:
    with planned(name, tmp_path) as draft:
        assert not draft.changes
        assert [left.option for left in draft.left.values()] == ["--lossy"]
    with planned(name, tmp_path, lossy=True) as draft:
        assert grave(draft) == []
        assert all(change.lossy for change in draft.changes)
        assert not draft.left


@pytest.mark.usefixtures("need_qemu")
@pytest.mark.parametrize("name", [*SAFE, *LOSSY])
def test_qemu_finds_the_repaired_image_clean(name: str, tmp_path: Path) -> None:
    with planned(name, tmp_path, lossy=True) as draft:
        assert is_clean_for_qemu(draft, tmp_path)


@pytest.mark.parametrize("name", ["encryption-pointer-missing", "encryption-header-damaged"])
def test_lost_keys_are_left_to_a_person(name: str, tmp_path: Path) -> None:
    with planned(name, tmp_path, lossy=True) as draft:
        assert not draft.overlay.is_changed


@pytest.mark.parametrize("length", [104, 112])
@pytest.mark.parametrize("wrong", [96, 105, 520])
@pytest.mark.parametrize(
    "extensions", [(), ((BACKING_FORMAT, b"raw"),), ((FEATURE_NAMES, FEATURE),)]
)
def test_the_header_ends_where_extensions_begin(
    length: int, wrong: int, extensions: tuple[tuple[int, bytes], ...], tmp_path: Path
) -> None:
    options = {"header_length": length, "extensions": list(extensions)}
    if extensions and extensions[0][0] == BACKING_FORMAT:
        options["backing"] = b"base.img"
    picture = poked(plain(**options), header_length=wrong)
    with planned(picture, tmp_path) as draft:
        assert grave(draft) == []
        kept = [(item.magic, item.data) for item in draft.image.area.extensions]
        assert kept == list(extensions)
        assert draft.image.head.backing_name == (b"base.img" if "backing" in options else None)


def test_a_header_length_that_nothing_tells_is_left(tmp_path: Path) -> None:
    picture = poked(plain(extensions=[(UNKNOWN, b"whatever")]), header_length=96)
    with planned(picture, tmp_path) as draft:
        assert list(draft.left) == ["H108"]
        assert not draft.overlay.is_changed
    with planned(picture, tmp_path, lossy=True) as draft:
        assert draft.image.header.header_length == 112
        assert grave(draft) == []
    with planned(poked(picture, crypt_method=2), tmp_path, lossy=True) as draft:
        assert "H108" in found(draft)


def test_bitmaps_behind_a_wrong_header_length_stay(tmp_path: Path) -> None:
    image = described()
    image.bitmap("daily", b"\x0f" * 16)
    with planned(poked(finish(image), header_length=96), tmp_path, lossy=True) as draft:
        assert found(draft) == []
        assert draft.image.header.autoclear_features == 1
        assert not draft.is_lossy


# the size of the disk and of its table


def long_table(*, holes: int = 0) -> Picture:
    """An L1 table of 80 entries, in two clusters; those at both ends and in the middle lead on."""
    image = Qcow2(size=80 * 32 * K)
    image.skip(holes)
    for index in (0, 1, 70, 79):
        image.write(index * 64)
    return finish(image)


@pytest.mark.parametrize("entries", [1, 2, 63, 64, 71, 79])
def test_a_table_that_goes_on_is_used_whole(entries: int, tmp_path: Path) -> None:
    with planned(poked(long_table(), l1_size=entries), tmp_path) as draft:
        assert found(draft) == []
        assert draft.image.header.l1_size == 80
        missing = [index * 32 * K for index in (0, 1, 70, 79) if index >= entries]
        assert [start for _, start, _ in draft.guest_ranges("restored")] == missing
        assert not draft.guest_ranges("lost")


def test_a_table_with_something_else_behind_it_is_copied(tmp_path: Path) -> None:
    image = Qcow2(size=60 * 32 * K)
    image.write(0)
    image.write(59 * 64)
    picture = poked(finish(image), size=100 * 32 * K)
    with planned(picture, tmp_path) as draft:
        assert not draft.changes
        assert draft.left["H114"].option == "--lossy"
    with planned(picture, tmp_path, lossy=True) as draft:
        assert found(draft) == []
        head = draft.image.header
        assert (head.l1_size, head.l1_table_offset) == (100, draft.before.head.file.size)
        assert draft.guest_ranges("lost") == [(0, 60 * 32 * K, 40 * 32 * K)]


def test_free_clusters_with_old_bytes_are_no_part_of_a_table(tmp_path: Path) -> None:
    image = Qcow2(size=60 * 32 * K)
    image.skip()
    image.write(0)
    picture = poked(finish(image), size=100 * 32 * K)
    table = picture.places["l2[0][0]"].offset
    picture.put(4 * 512, table.to_bytes(8, "big"))
    with planned(picture, tmp_path) as draft:
        assert not draft.changes
    picture.put(4 * 512, bytes(8))
    with planned(picture, tmp_path) as draft:
        assert found(draft) == []
        assert draft.image.header.l1_size == 100


@pytest.mark.parametrize("size", [4194305, 1 << 31, (1 << 32) - 1])
def test_an_impossible_table_is_cut_to_the_disk(size: int, tmp_path: Path) -> None:
    with planned(poked(long_table(), l1_size=size), tmp_path) as draft:
        assert found(draft) == []
        assert draft.image.header.l1_size == 80


def test_an_impossible_table_with_damaged_entries_needs_lossy(tmp_path: Path) -> None:
    picture = poked(long_table(), l1_size=1 << 30)
    picture.poke({"l1[70]": 0x1234})
    with planned(picture, tmp_path, planners=headers.PLANNERS) as draft:
        assert draft.left["H113"].option == "--lossy"
    with drafted(picture, tmp_path) as draft:
        assert any(planner(draft, Wanted("all", lossy=True)) for planner in headers.PLANNERS)
        draft.examine()
        assert draft.image.header.l1_size == 80
        assert "T201" in found(draft)


def test_a_size_and_a_table_that_are_both_impossible_are_left(tmp_path: Path) -> None:
    picture = poked(plain(), size=1 << 60, l1_size=1 << 30)
    with planned(picture, tmp_path, lossy=True, planners=headers.PLANNERS) as draft:
        assert {"H111", "H113"} <= set(draft.left)


def test_entries_behind_those_of_the_disk_that_are_none_are_left_out(tmp_path: Path) -> None:
    picture = poked(long_table(), l1_size=300)
    with planned(picture, tmp_path) as draft:
        assert "T242" in [item.problem.code for item in draft.before.findings]
        assert found(draft) == []
        assert draft.image.header.l1_size == 80


# compression


@pytest.mark.parametrize(
    "values", [{"compression_type": 0}, {"incompatible_features": 0}, {"compression_type": 7}]
)
def test_clusters_tell_what_they_are_compressed_with(
    values: dict[str, int], tmp_path: Path
) -> None:
    with planned(zstd().poke(values), tmp_path) as draft:
        assert found(draft) == []
        assert draft.image.head.compression_type == 1
        assert draft.image.header.incompatible_features == 8


def test_clusters_that_inflate_are_zlib(tmp_path: Path) -> None:
    picture = poked(compressed(), compression_type=9, incompatible_features=8)
    with planned(picture, tmp_path) as draft:
        assert found(draft) == []
        assert draft.image.head.compression_type == 0


def test_an_unknown_compression_of_unknown_clusters_is_left(tmp_path: Path) -> None:
    image = Qcow2()
    image.pack(0, b"payload of another kind")
    picture = poked(finish(image), compression_type=3)
    with planned(picture, tmp_path, lossy=True) as draft:
        assert list(draft.left) == ["H127"]


# header extensions


@pytest.mark.parametrize(
    ("extensions", "number"),
    [
        ([(FEATURE_NAMES, NAMES), (BACKING_FORMAT, b"raw")], 0),
        ([(BACKING_FORMAT, b"qcow2"), (FEATURE_NAMES, NAMES)], 0),
        ([(BACKING_FORMAT, b"longform"), (FEATURE_NAMES, NAMES)], 0),
        ([(FEATURE_NAMES, NAMES), (BACKING_FORMAT, b"raw")], 1),
    ],
)
@pytest.mark.parametrize("wrong", [17, 300, 1 << 20, (1 << 32) - 1])
@pytest.mark.parametrize("backing", [b"", b"base.img"])
def test_lengths_of_extensions_are_told_by_what_follows(
    extensions: list[tuple[int, bytes]], number: int, wrong: int, backing: bytes, tmp_path: Path
) -> None:
    picture = plain(extensions=extensions, backing=backing)
    picture.poke({f"extension[{number}].length": wrong})
    with planned(picture, tmp_path) as draft:
        kinds = {"H136", "H138"} if backing else set()
        assert set(found(draft)) <= kinds
        if "H130" in [item.problem.code for item in draft.before.findings]:
            kept = [(item.magic, item.data) for item in draft.image.area.extensions]
            assert kept == extensions


def test_an_end_marker_with_a_length_loses_it(tmp_path: Path) -> None:
    picture = plain(extensions=[(BACKING_FORMAT, b"raw")])
    with planned(picture.put(128 + 4, b"\0\1\0\0"), tmp_path) as draft:
        assert found(draft) == []
        assert draft.changes[0].text.endswith("(the end marker)")


def test_a_bitmaps_extension_gets_its_length_back(tmp_path: Path) -> None:
    for wrong in (0, 16, 25, 1 << 30):
        image = described()
        image.bitmap("daily", b"\x0f" * 16)
        picture = finish(image).poke({"extension[0].length": wrong})
        with planned(picture, tmp_path) as draft:
            assert found(draft) == []
            assert draft.image.bitmaps_extension


def test_keys_are_not_given_up_with_an_extension(tmp_path: Path) -> None:
    picture = luks().poke({"extension[0].length": 5000, "extension[0].magic": ENCRYPTION})
    with planned(picture, tmp_path) as draft:
        assert grave(draft) == []
    picture = luks().put(112 + 24, UNKNOWN.to_bytes(4, "big"))
    picture.poke({"extension[0].length": 5000})
    with planned(picture, tmp_path, lossy=True) as draft:
        assert "H130" in draft.left
        assert not draft.overlay.is_changed


def test_an_extension_that_does_not_fit_ends_the_area(tmp_path: Path) -> None:
    kept = [(FEATURE_NAMES, FEATURE), (UNKNOWN, b"whatever"), (UNKNOWN + 1, b"more")]
    picture = plain(extensions=kept).poke({"extension[2].length": 1 << 20})
    with planned(picture, tmp_path, lossy=True) as draft:
        assert [(item.magic, item.data) for item in draft.image.area.extensions] == kept[:2]
        assert found(draft) == []


def test_a_long_format_is_cut_out_of_the_area(tmp_path: Path) -> None:
    other = [(UNKNOWN, b"whatever it is"), (FEATURE_NAMES, FEATURE)]
    extensions = [other[0], (BACKING_FORMAT, b"\1" * 30), other[1]]
    with planned(plain(extensions=extensions, backing=b"base.img"), tmp_path, lossy=True) as draft:
        assert [(item.magic, item.data) for item in draft.image.area.extensions] == other
        assert draft.image.head.backing_name == b"base.img"
        assert grave(draft) == []


# encryption


def test_a_luks_header_tells_the_method(tmp_path: Path) -> None:
    for method in (0, 1, 3, 77):
        with planned(poked(luks(), crypt_method=method), tmp_path) as draft:
            assert found(draft) == []
            assert draft.image.header.crypt_method == 2


def test_a_pointer_to_something_else_is_given_up(tmp_path: Path) -> None:
    picture = poked(luks(text(b"not a key ")), crypt_method=0)
    with planned(picture, tmp_path) as draft:
        assert not draft.changes
    with planned(picture, tmp_path, lossy=True) as draft:
        assert draft.image.encryption is None
        assert found(draft) == []
    with planned(poked(picture, crypt_method=9), tmp_path, lossy=True) as draft:
        assert list(draft.left) == ["H110"]


def test_lost_key_slots_are_found_again(tmp_path: Path) -> None:
    for offset in (0, 0x100000, 0x1201, 1 << 62):
        picture = luks().poke({"encryption.offset": offset})
        with planned(picture, tmp_path) as draft:
            assert found(draft) == []
            assert draft.image.encryption
            assert draft.image.encryption.offset == 9 * 512
    for length in (0, 4, 5000, 1 << 40, (1 << 64) - 1):
        picture = luks().poke({"encryption.length": length})
        with planned(picture, tmp_path) as draft:
            assert found(draft) == []
    two = described()
    two.encrypt(LUKS_HEADER.ljust(1000, b"\0"))
    two.store(LUKS_HEADER)
    with planned(finish(two).poke({"encryption.offset": 0}), tmp_path, lossy=True) as draft:
        assert "H143" in found(draft)


@pytest.mark.parametrize(
    "values",
    [
        {"extension[0].magic": 0},
        {"extension[0].magic": UNKNOWN},
        {"extension[0].length": 17},
        {"extension[0].length": 17, "crypt_method": 0},
        {"extension[0].magic": 0, "extension[0].length": 0, "encryption.offset": 0},
    ],
)
def test_a_lost_pointer_is_made_again(values: dict[str, int], tmp_path: Path) -> None:
    with planned(luks().poke(values), tmp_path) as draft:
        assert found(draft) == []
        assert draft.image.encryption
        assert draft.image.encryption.offset == 9 * 512


def test_a_pointer_without_key_slots_is_left(tmp_path: Path) -> None:
    with planned(poked(plain(), crypt_method=2), tmp_path, lossy=True) as draft:
        assert found(draft) == ["H141"]
        assert not draft.overlay.is_changed


def test_a_named_data_file_keeps_the_raw_mark(tmp_path: Path) -> None:
    picture = plain(autoclear=2, extensions=[(DATA_FILE_NAME, b"guest.raw")])
    with planned(picture, tmp_path, lossy=True) as draft:
        assert list(draft.left) == ["H145"]


# the backing file's name


BACKED = {"backing": b"base.img", "extensions": [(BACKING_FORMAT, b"raw")]}


@pytest.mark.parametrize(
    "values",
    [
        {"backing_file_offset": 0x400},
        {"backing_file_offset": 1 << 40},
        {"backing_file_offset": 510},
        {"backing_file_offset": 64},
        {"backing_file_offset": 112},
        {"backing_file_offset": 115},
        {"backing_file_size": 1500},
        {"backing_file_size": 1 << 31},
        {"backing_file_size": 500},
    ],
)
def test_the_name_is_found_behind_the_extensions(values: dict[str, int], tmp_path: Path) -> None:
    with planned(plain(**BACKED).poke(values), tmp_path) as draft:
        assert found(draft) == ["H136"]
        assert draft.image.head.backing_name == b"base.img"
        assert len(draft.image.area.extensions) == 1


def test_a_name_that_nothing_agrees_with_is_given_up(tmp_path: Path) -> None:
    picture = plain(**BACKED).poke({"backing_file_offset": 500, "backing_file_size": 40})
    with planned(picture, tmp_path, lossy=True) as draft:
        assert draft.image.header.backing_file_offset == 0
        assert draft.changes[0].lossy
        assert found(draft) == []


# what every writer has to do


def test_unknown_autoclear_bits_are_cleared_without_a_finding(tmp_path: Path) -> None:
    with drafted(plain(autoclear=1 << 40), tmp_path) as draft:
        assert clear_unknown_autoclear(draft)
        assert not clear_unknown_autoclear(draft)
    with drafted(plain(version=2, extensions=[(BACKING_FORMAT, b"raw")] * 2), tmp_path) as draft:
        assert not clear_unknown_autoclear(draft)
        assert not draft.overlay.is_changed


def test_nothing_is_changed_where_tables_can_not_be_read(tmp_path: Path) -> None:
    picture = plain(autoclear=1 << 40).poke({"incompatible_features": 1 << 20, "padding": 1})
    with drafted(picture, tmp_path) as draft:
        assert draft.now.recount is None
        for planner in headers.PLANNERS:
            assert not planner(draft, Wanted("all", lossy=True))
