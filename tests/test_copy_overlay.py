"""Borrowed ranges read as what they hold and may overlap; a change without a journal is safe."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from random import Random
from typing import TYPE_CHECKING, ClassVar

import pytest

from crash_disk import Operation, Sync, Write, crashes
from qfix.change import overlay as overlays
from qfix.change.apply import FileDisk, overwrite
from qfix.change.grafted import Graft, Grafted
from qfix.change.overlay import PAGE, SECTOR, Overlay
from qfix.errors import ReadError, WriteError
from qfix.file import ImageFile, open_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MOST_BYTES = 80_000
MARK = 2


def moved(data: bytes, target: int, source: int, length: int, other: bytes = b"") -> bytes:
    """Return bytes after a copy inside them, or from other ones."""
    made = bytearray(data)
    made[target : target + length] = (other or data)[source : source + length]
    return bytes(made)


def places(random: Random, size: int, other: int = 0) -> tuple[int, int, int]:
    """Return a target, a source and a length that fit."""
    length = random.randrange(1, min(size, other or size))
    source = random.randrange((other or size) - length + 1)
    return random.randrange(size - length + 1), source, length


@pytest.mark.parametrize("seed", range(40))
def test_reads_as_a_file_that_was_copied_into(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlays, "MOST_BYTES", 2 * PAGE)
    random = Random(seed)  # noqa: S311  (no secret)
    old, new = (random.randbytes(random.randrange(2000, MOST_BYTES)) for _ in range(2))
    (tmp_path / "old").write_bytes(old)
    (tmp_path / "new").write_bytes(new)
    target, source, length = places(random, len(old), len(new))
    with (
        open_file(tmp_path / "old") as file,
        open_file(tmp_path / "new") as other,
        closing(Overlay(file)) as overlay,
    ):
        overlay.borrow([Graft(target, target + length, other, source)])
        wanted = bytearray(moved(old, target, source, length, new))
        for _ in range(3):
            at = random.randrange(len(old))
            data = random.randbytes(min(random.randrange(1, 5000), len(old) - at))
            overlay.write(at, data)
            wanted[at : at + len(data)] = data
        for _ in range(20):
            at, many = random.randrange(len(old) + PAGE), random.randrange(3 * PAGE)
            assert overlay.read(at, many) == bytes(wanted[at : at + many]).ljust(many, b"\0")
        offsets = [random.randrange(len(old) // SECTOR + 2) * SECTOR for _ in range(9)]
        view = bytearray(9 * SECTOR)
        assert overlay.read_each(memoryview(view), offsets, SECTOR) == []
        for at, offset in enumerate(offsets):
            expected = bytes(wanted[offset : offset + SECTOR]).ljust(SECTOR, b"\0")
            assert view[at * SECTOR : (at + 1) * SECTOR] == expected
        made, last = bytearray(old), 0
        for piece in overlay.pieces():
            assert piece.offset >= last
            assert old[piece.offset : piece.offset + len(piece.old)] == piece.old
            made[piece.offset : piece.offset + len(piece.new)] = piece.new
            last = piece.offset + len(piece.new)
        assert made == wanted
        assert sorted(overlay.pieces(descending=True)) == list(overlay.pieces())
        sectors = [at // SECTOR for at in range(0, len(old), SECTOR)]
        parts = [(old[at * SECTOR :][:SECTOR], wanted[at * SECTOR :][:SECTOR]) for at in sectors]
        differ = [at for at, (was, now) in zip(sectors, parts, strict=True) if was != now]
        assert overlay.sectors().tolist() == differ


@pytest.mark.parametrize("seed", range(60))
def test_overlapping_ranges_without_a_journal(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlays, "MOST_BYTES", 2 * PAGE)
    random = Random(seed)  # noqa: S311  (no secret)
    path = tmp_path / "file"
    old = random.randbytes(random.randrange(2, MOST_BYTES))
    path.write_bytes(old)
    target, source, length = places(random, len(old))
    with open_file(path, write=True) as file, closing(Overlay(file)) as overlay:
        overlay.borrow([Graft(target, target + length, file, source)])
        pieces = partial(overlay.pieces, descending=overlay.moves_up)
        overwrite(FileDisk(file), pieces, marked=False)
    assert path.read_bytes() == moved(old, target, source, length)


class Logged(FileDisk):
    """A real file whose writes and syncs are kept."""

    log: ClassVar[list[Operation]] = []

    def pwrite(self, offset: int, data: bytes) -> None:
        """Write all of *data*."""
        self.log.append(Write(offset, bytes(data)))
        super().pwrite(offset, data)

    def sync(self) -> None:
        """Note that all before is on the disk."""
        self.log.append(Sync())


def states(path: Path, target: int, source: int, length: int) -> Iterator[bytes]:
    """Yield all that a crash can leave of a marked image in which something is copied."""
    old = path.read_bytes()
    Logged.log.clear()
    with open_file(path, write=True) as file, closing(Overlay(file)) as overlay:
        overlay.borrow([Graft(target, target + length, file, source)])
        overlay.touch(0)
        pieces = partial(overlay.pieces, header=True, descending=overlay.moves_up)
        overwrite(Logged(file), pieces, marked=True)
    for crash in crashes(old, b"", Logged.log, 7):
        yield bytes(crash.data)


@pytest.mark.parametrize(
    ("target", "source", "length"),
    [(1000, 3000, 9000), (9000, 600, 9000), (0, 8192, 4096), (20, 5000, 200), (16384, 512, 16)],
)
def test_a_crash_without_a_journal_leaves_the_mark(
    target: int, source: int, length: int, tmp_path: Path
) -> None:
    random = Random(target)  # noqa: S311  (no secret)
    path = tmp_path / "image"
    old = bytearray(random.randbytes(20_000))
    old[79] &= ~MARK
    path.write_bytes(old)
    new = moved(bytes(old), target, source, length)
    found = set(states(path, target, source, length))
    assert path.read_bytes() == new
    assert {bytes(old), new} <= found
    assert len(found) >= 3
    for data in found - {bytes(old), new}:
        assert data[79] & MARK


def test_a_disk_that_fails_is_told_with_what_it_left(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes(64 * SECTOR))

    class Full(FileDisk):
        def fallocate(self, offset: int, length: int) -> None:
            """Find no room."""
            raise OSError(28, f"No space left on device: {offset}, {length}")

    class Broken(FileDisk):
        def pwrite(self, offset: int, data: bytes) -> None:
            """Write the mark and nothing else."""
            if len(data) > 1:
                raise OSError(5, "Input/output error")
            super().pwrite(offset, data)

    with path.open("r+b") as made:
        made.truncate(0)
        made.truncate(64 * SECTOR)
    with open_file(path, write=True) as file:
        overlay = Overlay(file)
        overlay.write(40 * SECTOR, b"\1" * SECTOR)
        overlay.touch(0)
        pieces = partial(overlay.pieces, header=True)
        with pytest.raises(WriteError, match="nothing was changed"):
            overwrite(Full(file), pieces, marked=True)
        assert not any(path.read_bytes())
        with pytest.raises(WriteError, match="half written"):
            overwrite(Broken(file), pieces, marked=True)
        assert path.read_bytes()[79] == MARK


def test_holes_are_those_of_the_source(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for path, at in ((one, 20), (other, 4)):
        with path.open("wb") as made:
            made.truncate(64 * PAGE)
            made.seek(at * PAGE)
            made.write(b"\1" * PAGE)
    with open_file(one) as file, open_file(other) as source:
        if list(file.extents(0, file.size)) != [(20 * PAGE, 21 * PAGE)]:
            pytest.skip("no holes on this file system")
        overlay = Overlay(file)
        overlay.borrow([Graft(16 * PAGE, 40 * PAGE, source, 0)])
        assert list(overlay.extents(0, file.size)) == [(20 * PAGE, 21 * PAGE)]
        assert overlay.last_data() == 21 * PAGE
        assert not overlay.is_changed
        overlay = Overlay(file)
        overlay.borrow([Graft(16 * PAGE, 40 * PAGE, source, 1 * PAGE)])
        assert list(overlay.extents(0, file.size)) == [(19 * PAGE, 20 * PAGE)]
        assert [piece.offset for piece in overlay.pieces()] == [19 * PAGE]
        overlay.write(50 * PAGE, b"\1")
        assert list(overlay.extents(17 * PAGE, 60 * PAGE)) == [
            (19 * PAGE, 20 * PAGE),
            (50 * PAGE, 51 * PAGE),
        ]
        assert overlay.last_data() == 51 * PAGE


def test_what_is_borrowed_comes_first_and_once(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(8 * PAGE))
    with open_file(path) as file:
        for grafts in ([Graft(0, 8, file, 16), Graft(7, 9, file, 16)], [Graft(8, 8, file, 0)]):
            with pytest.raises(ValueError, match="grafts"):
                Grafted(file, grafts)
        overlay = Overlay(file)
        with pytest.raises(ValueError, match="outside"):
            overlay.borrow([Graft(0, 8 * PAGE + 1, file, 0)])
        overlay.borrow([Graft(0, PAGE, file, PAGE)])
        with pytest.raises(ValueError, match="already"):
            overlay.borrow([Graft(2 * PAGE, 3 * PAGE, file, 0)])
        overlay = Overlay(file)
        overlay.write(0, b"\1")
        with pytest.raises(ValueError, match="already"):
            overlay.borrow([Graft(0, PAGE, file, PAGE)])


def test_a_source_that_can_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("file", "other"):
        (tmp_path / name).write_bytes(b"\1" * 4 * PAGE)
    with open_file(tmp_path / "file") as file, open_file(tmp_path / "other") as other:
        overlay = Overlay(file)
        overlay.borrow([Graft(PAGE, 2 * PAGE, other, 0)])
        read = ImageFile.read_into

        def fail(self: ImageFile, view: memoryview, offset: int) -> None:
            if self.fd == other.fd:
                raise ReadError("no")
            read(self, view, offset)

        monkeypatch.setattr(ImageFile, "read_into", fail)
        with pytest.raises(ReadError):
            overlay.read(PAGE, 1)
        view = bytearray(b"\2" * 2 * PAGE)
        assert overlay.read_each(memoryview(view), [0, PAGE], PAGE) == [1]
        assert view == b"\1" * PAGE + bytes(PAGE)
