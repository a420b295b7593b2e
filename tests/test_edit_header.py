"""The header's cluster laid out anew: extensions, features, backing file, as QEMU reads it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

import qemu
from build import BACKING_FORMAT, BITMAPS, FEATURE_NAMES, Qcow2
from build_write import finish
from command import qfix, record
from corpus_bases import FEATURE, backed, described, plain, with_bitmap
from repair_images import Image, made
from test_edit_cli import written

if TYPE_CHECKING:
    from pathlib import Path

UNKNOWN = 0x12345678
END = bytes(8)


def extension(magic: int, data: bytes) -> bytes:
    """Return the bytes of an extension, as the format has them."""
    return magic.to_bytes(4) + len(data).to_bytes(4) + data + bytes(-len(data) % 8)


def edited(path: Path, *options: str) -> dict[str, Any]:
    """Edit an image; return what JSON tells of the change, which was made."""
    told: dict[str, Any] = record("-m", "edit", *options, path)["qfix"]["change"]
    assert told["applied"]
    return told


def info(path: Path) -> dict[str, Any]:
    """Return what qemu-img says of an image, without its backing file."""
    found: dict[str, Any] = json.loads(qemu.img("info", "--output=json", path).stdout)
    return found


def area(path: Path, start: int = 112) -> bytes:
    """Return the header's cluster behind the header, without the zeros at its end."""
    return path.read_bytes()[start:512].rstrip(b"\0")


def test_an_extension_is_added_and_removed(tmp_path: Path) -> None:
    path = written(plain(), tmp_path)
    before = path.read_bytes()
    told = edited(path, "--add-extension", "0x12345678=nine char")
    assert path.read_bytes()[112:144] == extension(UNKNOWN, b"nine char") + END
    assert path.read_bytes()[144:] == before[144:]
    assert told["changes"] == [
        {
            "code": "edit",
            "message": "header extension 0x12345678 (unknown) added",
            "host-offset": 112,
            "count": 1,
            "old": "",
            "new": "nine char",
            "lossy": False,
        }
    ]
    assert record("-m", "edit", "--remove-extension", "0x12345678", path)["qfix"]["status"] == 0
    assert path.read_bytes() == before
    assert qfix("--undo", path).status == 0
    assert qfix("--undo", path).status == 0
    assert path.read_bytes() == before


def test_the_data_may_come_from_a_file(tmp_path: Path) -> None:
    path, data = written(plain(), tmp_path), tmp_path / "data"
    content = bytes(range(256))
    data.write_bytes(content)
    edited(path, "--add-extension", f"0x12345678=@{data}")
    assert area(path) == extension(UNKNOWN, content)
    edited(path, "--remove-extension", "0", "--add-extension", "0x12345678=@@data")
    assert area(path) == extension(UNKNOWN, b"@data").rstrip(b"\0")
    assert qfix("-m", "edit", "--add-extension", f"0x12345678=@{tmp_path}", path).status == 74


def test_others_stay_byte_for_byte(tmp_path: Path) -> None:
    """Also what stands in the header behind the fields that are known, and the order."""
    image = described(header_length=128)
    image.extensions = [(UNKNOWN, b"\1\2\3"), (FEATURE_NAMES, FEATURE), (0x11111111, b"")]
    image.backing = b"base"
    path = written(finish(image), tmp_path)
    whole = bytearray(path.read_bytes())
    whole[112:128] = b"not known to me!"
    path.write_bytes(whole)
    told = edited(path, "--remove-extension", "feature-name-table")
    kept = extension(UNKNOWN, b"\1\2\3") + extension(0x11111111, b"") + END
    assert path.read_bytes()[112:128] == b"not known to me!"
    assert area(path, 128) == kept + b"base"
    assert int.from_bytes(path.read_bytes()[8:16]) == 128 + len(kept)
    assert [item["message"] for item in told["changes"]] == [
        "header extension 0x6803f857 (feature name table) removed",
        "1 other header extension moves",
    ]


def test_indexes_are_those_before_the_edit(tmp_path: Path) -> None:
    image = Qcow2(extensions=[(UNKNOWN, b"a"), (UNKNOWN, b"b"), (UNKNOWN + 1, b"c")])
    path = written(finish(image), tmp_path)
    done = qfix("-m", "edit", "--remove-extension", hex(UNKNOWN), path)
    assert (done.status, "give its index (0, 1)" in done.stderr) == (64, True)
    edited(path, "--remove-extension", "0", "--remove-extension", "2")
    assert area(path) == extension(UNKNOWN, b"b").rstrip(b"\0")
    done = qfix("-m", "edit", "--remove-extension", "1", path)
    assert (done.status, "there are 0 to 0" in done.stderr) == (64, True)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    """512 bytes of cluster less 112 of header, 8 of the end marker and 8 of the head are 384."""
    path = written(plain(), tmp_path)
    before = path.read_bytes()
    done = qfix("-m", "edit", "--add-extension", f"0x12345678={'x' * 385}", path)
    assert done.status == 64
    assert "would take 520 bytes, 8 more than the header's cluster has" in done.stderr
    assert path.read_bytes() == before
    edited(path, "--add-extension", f"0x12345678={'x' * 384}")
    done = qfix("-m", "edit", "--add-extension", "backing-format=raw", "--backing", "b", path)
    assert done.status == 64
    done = qfix("-m", "edit", "--backing", f"{'x' * 1024}:raw", path)
    assert (done.status, "1024 bytes; a header takes 1023" in done.stderr) == (64, True)


def test_a_kind_that_is_there_once_is_not_added_twice(tmp_path: Path) -> None:
    path = written(backed(b"base"), tmp_path)
    done = qfix("-m", "edit", "--add-extension", "backing-format=qcow2", path)
    assert done.status == 64
    assert "--remove-extension 0xe2792aca" in done.stderr
    told = edited(
        *(path, "--add-extension", "backing-format=qcow2"),
        *("--remove-extension", "backing-format"),
    )
    assert area(path) == extension(BACKING_FORMAT, b"qcow2") + END + b"base"
    assert [(item["old"], item["new"]) for item in told["changes"]] == [("raw", "qcow2")]


@pytest.mark.parametrize(
    ("poke", "said"),
    [
        ({"header_length": 96}, "header.header_length is 96"),
        ({"header_length": 600}, "header.header_length is 600"),
        ({"backing_file_offset": 80}, "inside the header"),
        ({"backing_file_size": 500}, "not inside the header's cluster"),
        ({"extension[0].length": 5000}, "would be lost"),
        ({"cluster_bits": 60}, "header.cluster_bits is 60"),
        ({"magic": 1, "version": 9}, "no qcow2 image"),
    ],
)
def test_an_area_that_can_not_be_read_is_not_lost(
    poke: dict[str, int], said: str, tmp_path: Path
) -> None:
    path = written(backed(b"base").poke(poke), tmp_path)
    before = path.read_bytes()
    done = qfix("-m", "edit", "--yes", "--add-extension", "0x12345678=x", path)
    assert done.status == 64
    assert said in done.stderr
    assert path.read_bytes() == before


def test_features(tmp_path: Path) -> None:
    path = written(plain(), tmp_path)
    before = path.read_bytes()
    told = edited(path, "--set-feature", "compatible:0", "--set-feature", "compatible:9")
    assert path.read_bytes()[80:88] == bytes((0, 0, 0, 0, 0, 0, 2, 1))
    assert told["changes"][0]["message"] == "feature bit compatible:0 (lazy refcounts) is set"
    edited(path, "--clear-feature", "compatible:9", "--clear-feature", "compatible:0")
    assert path.read_bytes() == before
    refused = qfix("-m", "edit", "--set-feature", "incompatible:4", path)
    assert refused.status == 64
    assert "this makes" in refused.stderr
    forced = qfix("-m", "edit", "--yes", "--set-feature", "incompatible:4", path)
    assert forced.status == 6
    assert "the size of L2 entries would change" in forced.stdout
    assert path.read_bytes()[79] == 0x10
    assert qfix("-m", "edit", "--yes", "--set-feature", "incompatible:63", path).status == 8
    assert path.read_bytes()[72:80] == bytes((0x80, 0, 0, 0, 0, 0, 0, 0x10))
    old = written(plain(version=2), tmp_path)
    done = qfix("-m", "edit", "--set-feature", "compatible:0", old)
    assert (done.status, "version 2" in done.stderr) == (64, True)


def test_another_disk_and_another_backing_file_are_told(tmp_path: Path) -> None:
    path = written(backed(b"base"), tmp_path)
    told = edited(path, "--set", "header.size=32k", "--backing", "other")
    assert told["guest-changes"] == [
        "the disk would have 32768 bytes instead of 65536",
        "what is not allocated would be read from other",
    ]
    told = edited(path, "--no-backing")
    assert told["guest-changes"] == [
        "what is not allocated would be read from no backing file: as zeros"
    ]


def test_bitmaps_are_given_up_by_hand(tmp_path: Path) -> None:
    """What was of the bitmap leaks then: directory, table and data, which is said before."""
    path = written(with_bitmap(), tmp_path)
    edit = ("-m", "edit", "--remove-extension", hex(BITMAPS), "--clear-feature", "autoclear:0")
    assert "R301" in qfix(*edit, path).stderr
    told = record(*edit, "--yes", path)
    assert (told["qfix"]["status"], told["leaks"]) == (1, 3)


@pytest.mark.usefixtures("need_qemu")
@pytest.mark.parametrize("compat", ["0.10", "1.1"])
@pytest.mark.parametrize(
    ("given", "name", "image_format"),
    [
        ("new.img:raw", "new.img", "raw"),
        ("a:b/new.q:qcow2", "a:b/new.q", "qcow2"),
        ("nbd://host:10809/disk:raw", "nbd://host:10809/disk", "raw"),
        ("nbd://host:10809/disk", "nbd://host:10809/disk", "qcow2"),
        ("odd:raw:raw", "odd:raw", "raw"),
        ("new:qcow3", "new:qcow3", "qcow2"),
        ("x" * 1023, "x" * 1023, "qcow2"),
        ("dïsk", "dïsk", "qcow2"),
    ],
)
def test_qemu_sees_the_backing_file(
    given: str, name: str, image_format: str, compat: str, tmp_path: Path
) -> None:
    """As qemu-img rebase -u does it; without a format the one that was named stays."""
    qemu.img("create", "-q", "-f", "qcow2", tmp_path / "base", "1M")
    image = made(tmp_path, f"compat={compat},backing_file=base,backing_fmt=qcow2", "1M")
    before = image.raw
    edited(image.path, "--backing", given)
    found = info(image.path)
    assert found["backing-filename"] == name
    assert found["backing-filename-format"] == image_format
    rebased = tmp_path / "rebased"
    rebased.write_bytes(before)
    qemu.img("rebase", "-u", "-b", name, "-F", image_format, rebased)
    assert image.raw[:0x10000] == rebased.read_bytes()[:0x10000]
    told = edited(image.path, "--no-backing")
    assert "backing-filename" not in info(image.path)
    assert told["changes"][-1]["new"] == "none"
    qemu.img("rebase", "-u", "-b", "", rebased)
    assert image.raw[:0x10000] == rebased.read_bytes()[:0x10000]
    for _ in range(2):
        qfix("--undo", image.path)
    assert image.raw == before


@pytest.mark.usefixtures("need_qemu")
def test_qemu_sees_features_and_other_edits(tmp_path: Path) -> None:
    image = made(tmp_path, "compat=1.1", "1M", "write -P 1 0 64k")
    qemu.img("snapshot", "-c", "before", image.path)
    guest = image.guest()
    edited(
        image.path,
        *("--set", "snapshot[0].name=after", "--set", "snapshot[0].date_sec=86400"),
        *("--set", "header.size=524288", "--set-feature", "compatible:0"),
        *("--add-extension", "0x12345678=not for QEMU", "--backing", "other:raw", "--yes"),
    )
    found = info(image.path)
    assert found["virtual-size"] == 524288
    assert found["format-specific"]["data"]["lazy-refcounts"] is True
    rows = [(row["name"], row["date-sec"]) for row in found["snapshots"]]
    assert rows == [("after", 86400)]
    assert found["backing-filename"] == "other"
    edited(image.path, "--no-backing", "--set", "header.size=1M")
    assert image.guest() == guest
    assert image.is_clean()
    assert b"not for QEMU" in image.raw[:0x10000]


@pytest.mark.usefixtures("need_qemu")
def test_a_backing_file_without_a_format_is_refused_as_qemu_does(tmp_path: Path) -> None:
    image = made(tmp_path, "compat=1.1", "1M")
    refused = qemu.img("rebase", "-u", "-b", "other", image.path, check=False)
    assert "backing format must be specified" in refused.stderr
    done = qfix("-m", "edit", "--backing", "other", image.path)
    assert (done.status, "--backing FILE:raw" in done.stderr) == (64, True)


@pytest.mark.usefixtures("need_qemu")
def test_nothing_is_opened(tmp_path: Path) -> None:
    """A pipe would block whoever opens it."""
    image: Image = made(tmp_path, "compat=1.1", "1M")
    os.mkfifo(tmp_path / "pipe")
    edited(image.path, "--backing", f"{tmp_path}/pipe:raw")
    assert info_name(image) == f"{tmp_path}/pipe"


def info_name(image: Image) -> str:
    """Return the name of the backing file as the header has it."""
    return image.raw[image.number(8) :][: image.number(16, 4)].decode()
