"""The overlay reads as the file would after the change, and says exactly what that changes."""

from __future__ import annotations

from contextlib import closing
from random import Random
from typing import TYPE_CHECKING

import pytest

from qfix.change import overlay as overlays
from qfix.change.overlay import PAGE, SECTOR, Overlay
from qfix.errors import ReadError
from qfix.file import open_file

if TYPE_CHECKING:
    from pathlib import Path

MOST_BYTES = 60_000


def patched(overlay: Overlay, old: bytes) -> bytes:
    """Return what a file becomes when the pieces of its overlay are written to it."""
    data = bytearray(old)
    data += bytes(overlay.size - len(data))
    last = 0
    for piece in overlay.pieces():
        assert piece.offset >= last
        assert old[piece.offset : piece.offset + len(piece.old)] == piece.old
        assert piece.old != piece.new
        data[piece.offset : piece.offset + len(piece.new)] = piece.new
        last = piece.offset + len(piece.new)
    return bytes(data)


@pytest.mark.parametrize("seed", range(30))
def test_reads_as_a_file_that_was_written(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlays, "MOST_PAGES", 5)  # so that pages go to the file without a name
    random = Random(seed)  # noqa: S311  (no secret)
    path = tmp_path / "file"
    old = random.randbytes(random.randrange(1, MOST_BYTES))
    path.write_bytes(old)
    wanted = bytearray(old)
    with open_file(path) as file, closing(Overlay(file)) as overlay:
        for _ in range(20):
            if random.random() < 0.3:
                size = len(wanted) + random.randrange(2 * PAGE)
                overlay.grow(size)
                wanted += bytes(size - len(wanted))
            offset = random.randrange(len(wanted))
            data = random.randbytes(min(random.randrange(1, 20_000), len(wanted) - offset))
            overlay.write(offset, data)
            wanted[offset : offset + len(data)] = data
        for _ in range(20):
            offset, length = random.randrange(len(wanted) + PAGE), random.randrange(3 * PAGE)
            expected = bytes(wanted[offset : offset + length]).ljust(length, b"\0")
            assert overlay.read(offset, length) == expected
        places = [random.randrange(len(wanted) // SECTOR + 2) * SECTOR for _ in range(9)]
        view = bytearray(9 * SECTOR)
        assert overlay.read_each(memoryview(view), places, SECTOR) == []
        for at, place in enumerate(places):
            expected = bytes(wanted[place : place + SECTOR]).ljust(SECTOR, b"\0")
            assert view[at * SECTOR : (at + 1) * SECTOR] == expected
        assert patched(overlay, old) == wanted
        assert path.read_bytes() == old


def test_sectors_name_every_difference_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(8 * PAGE))
    with open_file(path) as file:
        overlay = Overlay(file)
        overlay.write(3 * SECTOR + 7, b"\1")
        overlay.write(2 * PAGE, bytes(PAGE))  # what stands there anyway
        overlay.write(5 * PAGE - 1, b"\2\2")
        assert overlay.sectors().tolist() == [3, 39, 40]
        pieces = [(piece.offset, len(piece.new)) for piece in overlay.pieces()]
        assert pieces == [(3 * SECTOR, SECTOR), (39 * SECTOR, 2 * SECTOR)]


def test_writing_what_stands_there_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"qcow" * 3000)
    with open_file(path) as file:
        overlay = Overlay(file)
        overlay.write(4, b"qcow")
        assert not overlay.is_changed
        overlay.grow(12001)
        assert overlay.is_changed


def test_the_header_is_a_piece_where_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(4 * PAGE))
    with open_file(path) as file:
        overlay = Overlay(file)
        overlay.write(2 * PAGE, b"\1")
        overlay.touch(0)
        first, second = overlay.pieces(header=True)
        assert (first.offset, len(first.old), first.old == first.new) == (0, SECTOR, True)
        assert second.offset == 2 * PAGE


def test_a_fixed_size_does_not_grow(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(PAGE))
    with open_file(path) as file:
        overlay = Overlay(file, fixed=True)
        with pytest.raises(ValueError, match="can't grow"):
            overlay.grow(PAGE + 1)
        with pytest.raises(ValueError, match="outside"):
            overlay.write(PAGE - 1, b"\1\1")


def test_what_is_planned_whole_is_not_read_from_a_bad_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(4 * PAGE))
    with open_file(path) as file:
        overlay = Overlay(file)
        overlay.write(PAGE, b"\1" * PAGE)

        def fail(*_: object) -> int:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr("os.preadv", fail)
        assert overlay.read(PAGE, PAGE) == b"\1" * PAGE
        with pytest.raises(ReadError):
            overlay.read(0, PAGE)
        view = memoryview(bytearray(2 * PAGE))
        assert overlay.read_each(view, [0, PAGE], PAGE) == [0]
        assert bytes(view[PAGE:]) == b"\1" * PAGE


def test_extents_name_planned_pages_in_holes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as made:
        made.truncate(64 * PAGE)
        made.seek(16 * PAGE)
        made.write(b"\1" * PAGE)
    with open_file(path) as file:
        overlay = Overlay(file)
        if list(file.extents(0, file.size)) != [(16 * PAGE, 17 * PAGE)]:
            pytest.skip("no holes on this file system")
        overlay.write(3 * PAGE + 5, b"\1")
        overlay.write(16 * PAGE, b"\2")
        overlay.grow(80 * PAGE)
        overlay.write(70 * PAGE, b"\3")
        assert list(overlay.extents(0, overlay.size)) == [
            (3 * PAGE, 4 * PAGE),
            (16 * PAGE, 17 * PAGE),
            (70 * PAGE, 71 * PAGE),
        ]
        assert overlay.last_data() == 71 * PAGE
