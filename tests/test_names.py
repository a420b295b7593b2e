"""Names that an image tells: which backing files are looked for, and how long lists are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from build import BITMAPS, Qcow2
from build_write import finish
from command import codes, qfix, record
from corpus_bases import backed

if TYPE_CHECKING:
    from pathlib import Path

ELSEWHERE = (
    *(b"nbd:localhost:10809", b"rbd:pool/image", b"fat:/nowhere", b"host_device:/dev/nowhere"),
    *(b"blkdebug::base", b'json:{"driver":"null-co"}', b"https://host/base", b"nbd+unix:///x"),
    *(b"vvfat:rw:base", b":base", b"file:base", b"FILE:/nowhere"),
)
NOT_THERE = (b"base", b"/nowhere/base", b"./a:b", b"folder/a:b", b"file:/nowhere", b"file:///no")


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_name_with_a_protocol_is_not_looked_up(name: bytes, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(backed(name).data)
    assert "H138" not in codes(path)


@pytest.mark.parametrize("name", NOT_THERE)
def test_a_path_is_looked_up(name: bytes, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(backed(name).data)
    assert "H138" in codes(path)


def test_a_path_behind_file_is_found(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.write_bytes(bytes(512))
    path = tmp_path / "image"
    path.write_bytes(backed(b"file:" + str(base).encode()).data)
    assert "H138" not in codes(path)


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """An image whose header cluster is full of empty extensions of one kind."""
    picture = finish(Qcow2(size=1 << 20, cluster_bits=18))
    room = picture.places["rt[0]"].offset - 112
    extension = BITMAPS.to_bytes(4, "big") + bytes(4)
    picture.put(112, extension * (room // 8 - 1))
    path = tmp_path / "image"
    path.write_bytes(picture.data)
    return path


def test_long_lists_are_cut(crowded: Path) -> None:
    page = qfix("-m", "info", crowded).stdout
    assert max(map(len, page.splitlines())) < 1000
    told = next(line for line in page.splitlines() if line.startswith("extensions:"))
    assert told.endswith(", ... and 32733 more")
    assert told.count("bytes)") == 20
    assert "... and 32749 more like this" in page


def test_very_long_lists_are_cut_in_json(crowded: Path) -> None:
    said = record("-m", "info", crowded)
    assert len(said["extensions"]) == 10_001
    assert said["extensions"][-1] == "... and 22753 more"
    doubles = [row for row in said["qfix"]["findings"] if row["code"] == "H131"]
    assert len(doubles) == 10_000
