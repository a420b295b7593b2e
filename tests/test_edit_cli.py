"""-m edit from the command line: results, undo, refusals, the question, and what is said."""

from __future__ import annotations

import os
import shlex
import subprocess
from typing import TYPE_CHECKING

import pytest

from change_run import mounted
from command import CLEAN, codes, copy, held, on_a_terminal, qfix, record
from corpus_bases import extended, plain, with_bitmap, with_snapshots

if TYPE_CHECKING:
    from pathlib import Path

    from build import Picture

COPIED = 1 << 63
NOTHING = "nothing was changed"


def written(picture: Picture, folder: Path) -> Path:
    """Write an image into a folder."""
    path = folder / "image.qcow2"
    path.write_bytes(picture.data)
    return path


def number(path: Path, offset: int, width: int = 8) -> int:
    """Return a big-endian number of a file."""
    return int.from_bytes(path.read_bytes()[offset : offset + width])


def changed(before: bytes, after: bytes) -> list[int]:
    """Return the offsets of the bytes that differ."""
    assert len(before) == len(after)
    return [at for at in range(len(before)) if before[at] != after[at]]


def with_value(data: bytes, offset: int, width: int, value: int) -> bytes:
    """Return bytes with a big-endian number in its place."""
    return data[:offset] + value.to_bytes(width) + data[offset + width :]


@pytest.mark.parametrize(("width", "value"), [(1, 0xAB), (2, 0xABCD), (4, 7), (8, 1 << 60), (0, 5)])
def test_an_offset_is_edited_and_taken_back(width: int, value: int, tmp_path: Path) -> None:
    """Cluster 5 holds guest data, so that no finding is made and nothing is asked."""
    path = written(plain(), tmp_path)
    before = path.read_bytes()
    given = ["-w", str(width)] if width else []
    done = qfix("-m", "edit", "-O", "0xa10", "-V", hex(value), *given, path)
    assert done.status == 0
    assert path.read_bytes() == with_value(before, 0xA10, width or 8, value)
    assert "data of guest 0x10 (active layer)" in done.stdout
    assert "guest data in host cluster 5 would be overwritten" in done.stdout
    assert f"qfix --undo {path}" in done.stdout
    assert qfix("--undo", path).status == 0
    assert path.read_bytes() == before


NAMED = [
    ("header.compatible_features", "0x100", 80, 8, 0x100),
    ("header.compression_type", "1", 104, 1, 1),
    ("l1[1]", "0xa00:copied", 0x608, 8, COPIED | 0xA00),
    ("l2[0][1]", "0xa00", 0x1A08, 8, 0xA00),
    ("l2[0][2]", "0xa00", 0x1A10, 8, COPIED | 0xA00),
    ("l2[0][9]", "1", 0x1A48, 8, 1),
    ("snapshot[1].l1[0]", "0x800", 0x1800, 8, 0x800),
    ("snapshot[0].l2[0][3]", "0", 0x818, 8, 0),
    ("refcount_table[0]", "0x600", 0x200, 8, 0x600),
    ("refcount[20]", "3", 0x428, 2, 3),
    ("snapshot[1].date_sec", "1000", 0x1E00 + 72 + 16, 4, 1000),
    ("snapshot[0].disk_size", "32k", 0x1E00 + 48, 8, 32768),
    ("snapshot[0].vm_state_size_64", "0", 0x1E00 + 40, 8, 0),
]
"""Names of the image with two snapshots: value, then offset, width and number in the file.

The second snapshot shares guest cluster 1, so that the active entry has no flag to keep.
"""


@pytest.mark.parametrize(("name", "value", "offset", "width", "wanted"), NAMED)
def test_a_name_is_edited_and_taken_back(
    name: str, value: str, offset: int, width: int, wanted: int, tmp_path: Path
) -> None:
    path = written(with_snapshots(), tmp_path)
    before = path.read_bytes()
    told = record("-m", "edit", "--yes", "--set", f"{name}={value}", path)["qfix"]["change"]
    assert path.read_bytes() == with_value(before, offset, width, wanted)
    same = path.read_bytes() == before
    assert told["applied"] is not same
    assert [item["host-offset"] for item in told["changes"]] == ([] if same else [offset])
    if not same:
        qfix("--undo", path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("order", range(7))
def test_refcounts_of_all_widths(order: int, tmp_path: Path) -> None:
    """The refcount of cluster 11, which is behind the file, is one bit of a byte with others."""
    path = written(plain(refcount_order=order), tmp_path)
    before = path.read_bytes()
    assert record("-m", "edit", "--yes", "--set", "refcount[11]=1", path)["qfix"]["change"]
    at, shift = divmod(11 << order, 8)
    place = 0x400 + at
    if order < 3:
        assert path.read_bytes() == with_value(before, place, 1, before[place] | 1 << shift)
    else:
        assert path.read_bytes() == with_value(before, place, 1 << (order - 3), 1)
    over = qfix("-m", "edit", "--set", f"refcount[11]={1 << (1 << order)}", path)
    assert over.status == 64
    assert "does not fit" in over.stderr


def test_a_subcluster_bitmap(tmp_path: Path) -> None:
    path = written(extended(), tmp_path)
    before = path.read_bytes()
    told = record("-m", "edit", "--set", "l2[0][0].bitmap=0xfffe00000001", path)["qfix"]["change"]
    assert [item["message"] for item in told["changes"]] == [
        "l2[0][0].bitmap: L2 table 0, entry 0 (subcluster bitmap), guest 0x0 (active layer)"
    ]
    assert path.read_bytes() == with_value(before, (4 << 14) + 8, 8, 0xFFFE00000001)


def test_a_list_is_one_change(tmp_path: Path) -> None:
    path = written(with_snapshots(), tmp_path)
    before = path.read_bytes()
    sets = ["snapshot[0].name=mondays", "snapshot[1].date_nsec=5", "header.compatible_features=2"]
    words = [word for one in sets for word in ("--set", one)]
    told = record("-m", "edit", *words, path)["qfix"]["change"]
    assert told["record"] == 1
    assert [item["message"] for item in told["changes"]] == [one.split("=")[0] for one in sets]
    assert [(item["old"], item["new"]) for item in told["changes"]] == [
        ("monday", "mondays"),
        ("0", "5"),
        ("0x0", "0x2"),
    ]
    assert {item["code"] for item in told["changes"]} == {"edit"}
    assert told["findings-made"] == []
    assert qfix("--undo", path).status == 0
    assert path.read_bytes() == before


def test_names_mean_what_they_do_after_the_edits_before(tmp_path: Path) -> None:
    path = written(plain().poke({"cluster_bits": 60}), tmp_path)
    sets = ("--set", "header.cluster_bits=9", "--set", "l2[0][3]=0")
    assert qfix("-m", "edit", "-n", *sets[2:], path).status == 64
    done = qfix("-m", "edit", "--yes", *sets, path)
    assert done.status == 1
    assert number(path, 0x818) == 0
    assert "brings to light" in done.stdout


@pytest.mark.parametrize("part", ["id", "name"])
def test_strings_that_fit(part: str, tmp_path: Path) -> None:
    """Snapshot 0: 1 byte of id and 6 of name, and 1 of padding."""
    path = written(with_snapshots(), tmp_path)
    before = path.read_bytes()
    old = {"id": "1", "name": "monday"}
    for new in (old[part] + "x", old[part][:-1]):
        told = record("-m", "edit", "--yes", "--set", f"snapshot[0].{part}={new}", path)["qfix"]
        assert told["change"]["applied"]
        text = "".join((old | {part: new}).values()).encode().ljust(8, b"\0")
        assert path.read_bytes()[0x1E40:0x1E48] == text
        assert number(path, 0x1E0C + 2 * (part == "name"), 2) == len(new)
        assert path.read_bytes()[0x1E48:] == before[0x1E48:]
        qfix("--undo", path)
        assert path.read_bytes() == before
    done = qfix("-m", "edit", "--yes", "--set", f"snapshot[0].{part}={old[part]}xy", path)
    assert done.status == 64
    assert f"there is room for {len(old[part]) + 1}" in done.stderr
    assert path.read_bytes() == before


def test_the_name_of_a_bitmap(tmp_path: Path) -> None:
    path = written(with_bitmap(), tmp_path)
    before = path.read_bytes()
    assert qfix("-m", "edit", "--set", "bitmap[0].name=nightly!", path).status == 0
    base = 11 * 512
    assert path.read_bytes()[base + 18 : base + 32] == b"\0\x08\0\0\0\0nightly!"
    assert changed(before, path.read_bytes())[0] == base + 19
    done = qfix("-m", "edit", "--set", "bitmap[0].name=every night", path)
    assert (done.status, "there is room for 8" in done.stderr) == (64, True)


USAGE = [
    ("", "nothing to edit was given; there is -O OFFSET -V VALUE, --set NAME=VALUE"),
    ("-O 8", "-V VALUE what; that is missing"),
    ("-V 8", "-V belongs to -O"),
    ("-w 4 --set header.size=1", "-w belongs to -O"),
    ("-O 8 -V 1 -w 3", "1, 2, 4 or 8 bytes"),
    ("-O 8 -V 256 -w 1", "does not fit"),
    ("-O 8 -V 0x10000000000000000", "does not fit"),
    ("-O 8 -V 1 --set header.size=1", "-O stands alone"),
    ("-O 8 -V 1 --expect 1 --expect 2", "--expect is given 2 times"),
    ("-O -1 -V 1", "'-1' is no number"),
    ("--expect 1 --no-backing", "--expect belongs to --set or -O"),
    ("--set header.size=1 --set header.size=2 --expect 1", "one for each"),
    ("--set header.size", "it takes NAME=VALUE"),
    ("--set header.siez=1", "near ones: header.size"),
    ("--set-feature incompatible", "is no WORD:BIT"),
    ("--set-feature other:1", "incompatible, compatible, autoclear"),
    ("--set-feature autoclear:64", "0 to 63"),
    ("--set-feature autoclear:1 --clear-feature autoclear:1", "both set and cleared"),
    ("--add-extension 0x12345678", "MAGIC=TEXT"),
    ("--add-extension 0=x", "no magic number"),
    ("--add-extension other=x", "backing-format, feature-name-table"),
    ("--add-extension 0x123456789=x", "32 bits"),
    ("--backing x:raw --no-backing", "exclude each other"),
    ("--backing ''", "--no-backing names none"),
    ("--set header.size=1 --fix all", "-m check"),
    ("--set header.size=1 -s active", "--snapshot belongs to"),
    ("--set header.size=1 -U", "--force-share can't be used"),
]


@pytest.mark.parametrize(("options", "said"), USAGE)
def test_usage(options: str, said: str, tmp_path: Path) -> None:
    path = written(plain(), tmp_path)
    before = path.read_bytes()
    done = qfix("-m", "edit", *shlex.split(options), path)
    assert done.status == 64
    assert said in done.stderr
    assert done.stdout == ""
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_one_image_at_a_time(tmp_path: Path) -> None:
    paths = copy("leak", tmp_path), copy("ok-v3", tmp_path)
    done = qfix("-m", "edit", "--set", "refcount[9]=0", *paths)
    assert (done.status, "one image at a time" in done.stderr) == (64, True)


REFUSED = [
    ("--set l1[7]=0", "l1[7]: this image has l1[0] to l1[1]"),
    ("--set l2[1][0]=0xa00", "l1[1] is 0x0: there is no L2 table"),
    ("--set header.l1_size=0x100000000", "does not fit into 32 bits"),
    ("--set refcount[1]=65536", "does not fit into 16 bits"),
    ("--set l1[0]=x", "l1[0]: 'x' is no number"),
    ("--set l1[0]=0x600 --expect 0x800:none", "it is 0x800:copied now, not 0x800:none"),
    ("--set l1[0]=0x600 --set l1[1]=0 --expect 0x800 --expect 1", "l1[1]: it is 0x0 now, not 1"),
    ("-O 24 -V 1 --expect 5", "it is 0x10000 now, not 5"),
    ("-O 0x1200 -V 1", "reaches behind the end of the file (0x1200)"),
    ("-O 0x11f9 -V 1", "reaches behind the end of the file (0x1200)"),
    ("-O 0xffffffffffffffff -V 1 -w 1", "reaches behind the end of the file"),
    ("--remove-extension 0", "no header extension 0; there are none at all"),
    ("--remove-extension bitmaps", "no header extension 0x23852875"),
    ("--add-extension 0x12345678=@/nowhere/at/all", "/nowhere/at/all: No such file"),
    ("--backing other", "the image names no backing format"),
]


@pytest.mark.parametrize(("options", "said"), REFUSED)
def test_refusals_change_nothing(options: str, said: str, tmp_path: Path) -> None:
    path = written(plain(), tmp_path)
    before = path.read_bytes()
    done = qfix("-m", "edit", "--yes", *shlex.split(options), path)
    assert done.status in {64, 66}
    assert said in done.stderr
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_expected_values_that_are_there(tmp_path: Path) -> None:
    path = written(with_snapshots(), tmp_path)
    sets = ("--set", "snapshot[0].name=sun", "--set", "refcount[20]=0")
    assert qfix("-m", "edit", *sets, "--expect", "tuesday", "--expect", "0", path).status == 64
    assert qfix("-m", "edit", *sets, "--expect", "monday", "--expect", "0", path).status == 0
    offset = ("-m", "edit", "-O", "0xa10", "-V", "7", "-w", "2", "--expect")
    old = number(path, 0xA10, 2)
    assert qfix(*offset, str(old + 1), path).status == 64
    assert qfix(*offset, str(old), path).status == 0


def test_what_is_so_already_is_said(tmp_path: Path) -> None:
    path = written(plain(), tmp_path)
    sets = ("--set", "refcount[1]=1", "--set-feature", "compatible:0", "--set", "l1[0]=0x800")
    done = qfix("-m", "edit", *sets, path)
    assert "Left as it is: refcount[1] is 1 already" in done.stdout
    assert "Left as it is: l1[0] is 0x800:copied already" in done.stdout
    assert "feature bit compatible:0 (lazy refcounts) is set" in done.stdout
    again = qfix("-m", "edit", *sets, path)
    assert "Nothing was changed: it is so already." in again.stdout
    there_and_back = ("--set", "refcount[30]=1", "--set", "refcount[30]=0")
    assert "Nothing was changed" in qfix("-m", "edit", *there_and_back, path).stdout


def test_an_edit_that_does_harm_needs_a_word(tmp_path: Path) -> None:
    path = written(plain(), tmp_path)
    before = path.read_bytes()
    edit = ("-m", "edit", "--set", "refcount[3]=2")
    refused = qfix(*edit, path)
    assert refused.status == 64
    assert "makes 1 finding: R303 refcount-too-high; nothing was changed" in refused.stderr
    assert "--yes" in refused.stderr
    shown = qfix(*edit, "-n", path)
    assert shown.status == 1
    assert "This makes 1 finding: R303 refcount-too-high" in shown.stdout
    assert "refcount=2 reference=1" in shown.stdout
    assert "Found in the image as it would be" in shown.stdout
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]
    assert qfix(*edit, "--yes", path).status == 1
    assert number(path, 0x406, 2) == 2
    assert codes(path) == {"R303"}


def test_harm_is_asked_about_on_a_terminal(tmp_path: Path) -> None:
    path = written(plain(), tmp_path)
    before = path.read_bytes()
    edit = ("-m", "edit", "--set", "l2[0][1]=0xa00", path)
    status, said = on_a_terminal(b"n\n", *edit)
    assert status == 64
    for words in ("Make this change all the same?", "R302", "guest 0x200", "reference=2"):
        assert words in said
    assert "active layer would read differently at guest offset 0x200" in said
    assert path.read_bytes() == before
    status, said = on_a_terminal(b"y\n", *edit)
    assert status == 4
    assert number(path, 0x808) == COPIED | 0xA00


def test_an_edit_without_harm_asks_nothing(tmp_path: Path) -> None:
    path = written(plain(), tmp_path)
    status, said = on_a_terminal(b"", "-m", "edit", "-O", "0xa00", "-V", "1", path)
    assert (status, said) == (0, "")


def test_an_image_that_is_held_is_refused(tmp_path: Path) -> None:
    path = written(plain(), tmp_path)
    before = path.read_bytes()
    with held(path) as pid:
        done = qfix("-m", "edit", "-O", "0xa00", "-V", "1", path)
    assert done.status == 75
    assert f"process {pid} " in done.stderr
    assert path.read_bytes() == before


def test_a_read_only_place_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "mount"
    with mounted(folder, 256) as make_read_only:
        path = copy("leak", folder)
        make_read_only()
        edit = ("-m", "edit", "--set", "refcount[9]=0")
        assert qfix(*edit, path).status == 77
        assert qfix(*edit, "-n", path).status == 0


def test_the_command_of_a_dry_run_can_be_pasted(tmp_path: Path) -> None:
    path = written(with_snapshots(), tmp_path)
    given = [
        "--set",
        "snapshot[0].name=a b",
        "--expect",
        "monday",
        "--clear-feature",
        "autoclear:3",
    ]
    given += ["--add-extension", "0x12345678=it's\n@"]
    shown = qfix("-m", "edit", "-n", *given, path).stdout
    line = next(line for line in shown.splitlines() if "makes this change" in line)
    words = ["bash", "-c", f"printf '%s\\0' {line.rpartition('makes this change')[0]}"]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split("\0")
    assert sorted(said[:-1]) == sorted(["qfix", "-m", "edit", *given, str(path)])


def test_an_edit_that_mends(tmp_path: Path) -> None:
    path = copy("leak", tmp_path)
    done = qfix("-m", "edit", "--set", "refcount[9]=0", "--expect", "1", path)
    assert done.status == 0
    assert CLEAN in done.stdout
    assert "finding" not in done.stdout.splitlines()[5]


@pytest.mark.parametrize("content", [b"abc", b"\0" * 5000, b"PK\3\4" + b"x" * 70000])
def test_any_file_is_edited_by_offset(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    done = qfix("-m", "edit", "-O", "1", "-V", "0xabcd", "-w", "2", path)
    assert done.status == 8
    assert "the image can't be checked" in done.stdout
    assert path.read_bytes() == with_value(content, 1, 2, 0xABCD)
    name = qfix("-m", "edit", "--set", "l1[0]=0", path)
    assert (name.status, "no qcow2 image" in name.stderr) == (64, True)
    assert qfix("--undo", path).status == 8
    assert path.read_bytes() == content


def test_a_version_that_is_not_known_is_edited_by_name(tmp_path: Path) -> None:
    path = written(plain(), tmp_path)
    before = path.read_bytes()
    assert qfix("-m", "edit", "--yes", "--set", "header.version=7", path).status == 8
    assert qfix("-m", "edit", "--set", "refcount[20]=1", path).status == 8
    assert number(path, 0x428, 2) == 1
    both = ("--set", "header.version=3", "--set", "refcount[20]=0")
    assert qfix("-m", "edit", *both, path).status == 0
    assert path.read_bytes() == before
    for _ in range(3):
        qfix("--undo", path)
    assert path.read_bytes() == before


def test_an_l1_table_of_nonsense_length_takes_no_memory(tmp_path: Path) -> None:
    path = copy("ok-l1-large", tmp_path)
    done = qfix("-m", "edit", "-n", "--set", "header.l1_size=0xffffffff", path)
    assert done.status == 6
    assert "What the guest reads changes" in done.stdout or "H1" in done.stdout
