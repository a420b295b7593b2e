"""Changes of real files, taken back and made again, and what is refused; a host that fails."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from amendments import CASES, KIB, change, image
from change_run import (
    SUFFIX,
    changed,
    cut_off,
    fill,
    made,
    mounted,
    opened,
    redone,
    resumed,
    simple,
    undone,
)
from crash_disk import MemoryDisk, Resize, Sync, Write, memory_journal
from qfix.change import journal, records
from qfix.change.apply import FileDisk, carry_out
from qfix.change.journal import Kind, State, open_journal, pending
from qfix.change.pieces import MOST_BYTES, Amendment, Piece
from qfix.change.recover import resume, undo
from qfix.errors import (
    MissingError,
    NoPermissionError,
    QfixError,
    RefusedError,
    Status,
    WriteError,
)
from qfix.file import open_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


SMALL = CASES["one small"]
GROWING = CASES["growing"]
SHRINKING = CASES["shrinking"]
EACH = pytest.mark.parametrize("name", CASES)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the image is to be."""
    return tmp_path / "image"


def states(path: Path) -> list[tuple[str, str]]:
    """Return kind and state of all records of an image."""
    return [(record.kind, record.state) for record in journal.records(str(path))]


def poke(path: Path, at: int, data: bytes, *, quietly: bool = False) -> None:
    """Write to an image past qfix; *quietly* keeps its time stamp."""
    stamp = path.stat().st_mtime_ns
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)
    os.utime(path, ns=(stamp, stamp) if quietly else (stamp, stamp + 10**9))


# -- changes, undo, redo


@EACH
def test_a_change_and_the_way_back(path: Path, name: str) -> None:
    case = CASES[name]
    made(path, case)
    assert path.read_bytes() == case.new
    for _ in range(2):
        assert undone(path).kind is Kind.UNDO
        assert path.read_bytes() == case.old
        assert redone(path).kind is Kind.REDO
        assert path.read_bytes() == case.new
    assert pending(str(path)) is None


def test_undo_goes_back_step_by_step(path: Path) -> None:
    path.write_bytes(image(8 * KIB))
    contents = [path.read_bytes()]
    for number in range(3):
        changed(path, simple(path, (number * 700, b"new bytes")))
        contents.append(path.read_bytes())

    for expected in reversed(contents[:-1]):
        undone(path)
        assert path.read_bytes() == expected
    with pytest.raises(RefusedError, match="no change to take back"):
        undone(path)
    for expected in contents[1:]:
        redone(path)
        assert path.read_bytes() == expected
    with pytest.raises(RefusedError, match="no undo to take back"):
        redone(path)
    assert set(states(path)) == {("change", "applied"), ("undo", "undone"), ("redo", "applied")}


def test_an_undo_after_a_redo_takes_the_redo_along(path: Path) -> None:
    made(path, SMALL)
    undone(path)
    redone(path)
    undone(path)
    assert states(path) == [
        ("change", "undone"), ("undo", "undone"), ("redo", "undone"), ("undo", "applied"),
    ]  # fmt: skip
    assert redone(path).takes_back == 4


def test_a_new_change_ends_the_way_forward(path: Path) -> None:
    made(path, SMALL)
    undone(path)
    changed(path, simple(path, (5, b"another")))
    with pytest.raises(RefusedError, match=r"was changed \(a change\) after the last undo"):
        redone(path)
    undone(path)
    assert path.read_bytes() == SMALL.old
    redone(path)
    with pytest.raises(RefusedError, match="after the last undo"):
        redone(path)


def test_nothing_to_do(path: Path) -> None:
    path.write_bytes(SMALL.old)
    for act in (undone, redone, resumed):
        with pytest.raises(RefusedError, match="there is no journal"):
            act(path)
    made(path, SMALL)
    with pytest.raises(RefusedError, match="no change was interrupted") as refused:
        resumed(path)
    assert refused.value.status is Status.USAGE


def test_what_is_cut_off_comes_back(path: Path) -> None:
    """Whether the plan has it or not, and only what is no hole is stored."""
    path.write_bytes(image(8 * KIB))
    with path.open("r+b") as file:
        file.truncate(1 << 40)
        file.seek(1 << 39)
        file.write(b"far away")
    before = path.stat()
    changed(path, Amendment(1 << 40, 8 * KIB, [], "cut", {}, marked=False))
    assert path.read_bytes() == image(8 * KIB)
    assert path.with_name(path.name + SUFFIX).stat().st_size < 1 << 20
    undone(path)
    assert path.stat().st_size == 1 << 40
    assert path.stat().st_blocks <= before.st_blocks + 16
    with path.open("rb") as file:
        assert file.read(8 * KIB) == image(8 * KIB)
        file.seek((1 << 39) - 3)
        assert file.read(15) == b"\0\0\0far away\0\0\0\0"


def test_holes_stay_holes_where_zeros_are_written(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 24)
    pieces = [
        Piece(at, bytes(MOST_BYTES), bytes(MOST_BYTES)) for at in range(1 << 20, 1 << 24, 1 << 20)
    ]
    changed(path, Amendment(1 << 24, 1 << 24, pieces, "zeros", {}, marked=False))
    assert path.stat().st_blocks == 0


def test_pieces_are_taken_one_by_one(path: Path) -> None:
    path.write_bytes(SMALL.old)

    def once() -> Iterator[Piece]:
        yield from SMALL.amendment.pieces

    changed(path, SMALL.amendment._replace(pieces=once()))
    assert path.read_bytes() == SMALL.new


# -- the order


def test_the_mark_stands_while_the_image_is_changed() -> None:
    case = GROWING
    disk = MemoryDisk(bytearray(case.old))
    carry_out(disk, memory_journal(), case.amendment)
    log = disk.log
    assert log[0] == Resize(case.amendment.new_size)
    assert log[1:3] == [Write(79, b"\2"), Sync()]
    first = next(at for at, done in enumerate(log) if isinstance(done, Write) and not done.offset)
    assert log[first - 1] == log[first + 1] == Sync()
    assert log[first] == Write(0, case.new[:79] + b"\2" + case.new[80:112])
    assert log[-2:] == [Write(79, b"\0"), Sync()]


def test_a_file_is_cut_when_nothing_leads_there_any_more() -> None:
    for name in ("shrinking", "shrinking unmarked"):
        case = CASES[name]
        disk = MemoryDisk(bytearray(case.old))
        carry_out(disk, memory_journal(), case.amendment)
        cut = disk.log.index(Resize(len(case.new)))
        head = max(at for at, done in enumerate(disk.log) if isinstance(done, Write) and at < cut)
        assert disk.log[head].offset < 512  # type: ignore[union-attr]
        assert disk.log[cut - 1] == disk.log[cut + 1] == Sync()


def test_no_mark_where_none_is_asked_for() -> None:
    case = CASES["version 2"]
    disk = MemoryDisk(bytearray(case.old))
    carry_out(disk, memory_journal(), case.amendment)
    assert not any(isinstance(done, Write) and done.offset == 79 for done in disk.log)


# -- refusals


@pytest.mark.parametrize("act", [undone, resumed])
def test_an_interrupted_change_comes_first(path: Path, act: Any) -> None:
    path.write_bytes(SMALL.old)
    cut_off(path, SMALL.amendment, 1)
    half = path.read_bytes()
    for refused in (lambda: changed(path, simple(path, (9, b"x"))), lambda: redone(path)):
        with pytest.raises(RefusedError, match=r"interrupted change.* comes first.*--resume"):
            refused()
    assert path.read_bytes() == half
    record = act(path)
    assert (record.number, record.state) == (1, "undone" if act is undone else "applied")
    assert path.read_bytes() == (SMALL.old if act is undone else SMALL.new)
    changed(path, simple(path, (9, b"x")))


def test_an_undo_that_was_interrupted(path: Path) -> None:
    for act, expected, state in (
        (undone, SHRINKING.new, "undone"),
        (resumed, SHRINKING.old, "applied"),
    ):
        target = made(path, SHRINKING)
        fails_half_way(path, undo)
        found = pending(str(path))
        assert found is not None
        assert found.record is not None
        assert (found.record.kind, found.record.takes_back) == (Kind.UNDO, target)
        assert act(path).state == state
        assert path.read_bytes() == expected
        path.with_name(path.name + SUFFIX).unlink()


def test_other_bytes_are_named(path: Path) -> None:
    path.write_bytes(bytes(64 * KIB))
    changed(path, simple(path, *((at, b"x" * 600) for at in range(0, 60 * KIB, 2 * KIB))))
    poke(path, 2 * KIB + 5, b"guest", quietly=True)
    with pytest.raises(RefusedError, match=r": 0x800-0x9ff hold other bytes .*--force"):
        undone(path)
    poke(path, 4 * KIB + 510, b"guest", quietly=True)
    with pytest.raises(RefusedError, match=r": 0x800-0x9ff, 0x1000-0x1257 hold other bytes"):
        undone(path)
    for at in range(0, 60 * KIB, 2 * KIB):
        poke(path, at, b"guest", quietly=True)
    with pytest.raises(RefusedError) as refused:
        undone(path)
    assert len(re.findall(r"0x\w+-0x\w+", str(refused.value))) == 8
    assert " and 22 more hold other bytes" in str(refused.value)
    undone(path, force=True)
    assert path.read_bytes() == bytes(64 * KIB)
    redone(path)
    assert path.read_bytes()[:8] == b"guestxxx"


def test_a_later_time_stamp_alone(path: Path) -> None:
    made(path, SMALL)
    poke(path, 6000, b"guest")
    before = path.read_bytes()
    with pytest.raises(RefusedError, match="changed ranges are as qfix left them; --force"):
        undone(path)
    assert path.read_bytes() == before
    undone(path, force=True)
    assert path.read_bytes() == SMALL.old[:6000] + b"guest" + SMALL.old[6005:]
    redone(path)
    assert path.read_bytes() == before


def test_a_write_between_two_changes_is_seen(path: Path) -> None:
    made(path, SMALL)
    poke(path, 6000, b"guest")
    changed(path, simple(path, (7000, b"second")))
    undone(path)
    with pytest.raises(RefusedError, match="written to since"):
        undone(path)


def test_a_change_that_failed_does_not_look_like_a_write(path: Path) -> None:
    made(path, SMALL)
    with pytest.raises(WriteError, match="nothing was changed"):
        fail_at_write(path, simple(path, (5000, b"x"), (7000, b"y")), OSError(errno.EIO, "broken"))
    undone(path)
    assert path.read_bytes() == SMALL.old


def test_another_size(path: Path) -> None:
    made(path, GROWING)
    size = len(GROWING.new)
    poke(path, size, b"behind the end", quietly=True)
    with pytest.raises(RefusedError, match=rf"was {size} bytes long .* has {size + 14} now"):
        undone(path)
    undone(path, force=True)
    assert path.read_bytes()[:8000] == GROWING.old[:8000]
    assert path.read_bytes().endswith(b"behind the end")  # what others wrote is not cut off
    redone(path)
    assert path.read_bytes() == GROWING.new + b"behind the end"


@pytest.mark.parametrize("name", ["growing", "shrinking", "one small"])
def test_a_file_that_was_cut(path: Path, name: str) -> None:
    case = CASES[name]
    made(path, case)
    os.truncate(path, 7000)
    cut = path.read_bytes()
    with pytest.raises(RefusedError, match="has 7000 now"):
        undone(path)
    undone(path, force=True)
    assert path.stat().st_size == len(case.old)
    assert path.read_bytes()[:7000] == case.old[:7000]
    redone(path)
    assert path.read_bytes() == cut


def test_a_copy_is_as_good(tmp_path: Path, path: Path) -> None:
    made(path, GROWING)
    for name in ("image", "image" + SUFFIX):
        shutil.copy2(tmp_path / name, tmp_path / f"new{name.removeprefix('image')}")
    undone(tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == GROWING.old


@pytest.mark.parametrize("act", [resumed, undone])
def test_other_bytes_in_an_interrupted_change(path: Path, act: Any) -> None:
    """An older copy was put in the image's place, say: neither way would be right."""
    path.write_bytes(SMALL.old)
    cut_off(path, SMALL.amendment, 1)
    poke(path, 3002, b"\1\2\3\4")
    other = path.read_bytes()
    with pytest.raises(RefusedError, match=r"0xbb8-0xbbf hold bytes from neither .*--force"):
        act(path)
    assert path.read_bytes() == other
    act(path, force=True)
    assert path.read_bytes() == (SMALL.new if act is resumed else SMALL.old)


@pytest.mark.parametrize("size", [100, 60 * KIB])
def test_another_size_in_an_interrupted_change(path: Path, size: int) -> None:
    path.write_bytes(GROWING.old)
    cut_off(path, GROWING.amendment, 1)
    os.truncate(path, size)
    with pytest.raises(RefusedError, match=rf"has {size} bytes"):
        resumed(path)
    undone(path, force=True)
    assert path.read_bytes()[:100] == GROWING.old[:100]


def test_an_image_that_changed_while_it_was_looked_at(path: Path) -> None:
    path.write_bytes(SMALL.old)
    poke(path, 3003, b"guest")
    with pytest.raises(RefusedError, match=r"what stands at 0xbb8 changed while"):
        changed(path, SMALL.amendment)
    os.truncate(path, 9000)
    with pytest.raises(RefusedError, match="its size changed while"):
        changed(path, SMALL.amendment)
    assert not path.with_name(path.name + SUFFIX).exists()


HEAD = Piece(0, SMALL.old[:112], SMALL.old[:112])


@pytest.mark.parametrize(
    ("pieces", "new_size", "marked"),
    [
        ([Piece(9, b"", b"")._replace(old=SMALL.old[9:12], new=b"x")], 8192, False),
        ([Piece(8190, SMALL.old[8190:], b"four")], 8192, False),
        (
            [Piece(50, SMALL.old[50:60], bytes(10)), Piece(55, SMALL.old[55:60], bytes(5))],
            8192,
            False,
        ),
        ([Piece(50, SMALL.old[50:60], bytes(10)), Piece(5, SMALL.old[5:9], bytes(4))], 8192, False),
        ([Piece(8192, b"", bytes(MOST_BYTES + 1))], 4 * MOST_BYTES, False),
        ([], 8192, True),
        ([Piece(0, SMALL.old[:100], SMALL.old[:100])], 8192, True),
        ([Piece(200, SMALL.old[200:400], bytes(200))], 8192, True),
    ],
)
def test_a_change_that_makes_no_sense(
    path: Path, pieces: list[Piece], new_size: int, marked: bool
) -> None:
    path.write_bytes(SMALL.old)
    with pytest.raises(QfixError) as refused:
        changed(path, Amendment(8192, new_size, pieces, "", {}, marked))
    assert refused.value.status is Status.DEFECT
    assert path.read_bytes() == SMALL.old
    assert not path.with_name(path.name + SUFFIX).exists()


def test_a_device_keeps_its_size() -> None:
    disk = MemoryDisk(bytearray(GROWING.old), is_device=True)
    with pytest.raises(QfixError, match="can't take another size"):
        carry_out(disk, memory_journal(), GROWING.amendment)


def test_a_real_device(tmp_path: Path, path: Path) -> None:
    case = CASES["device"]
    path.write_bytes(case.old)
    made_loop = subprocess.run(
        ["losetup", "--find", "--show", path], check=False, capture_output=True, text=True
    )
    if made_loop.returncode:
        pytest.skip("there are no loop devices here")
    device = path.joinpath(made_loop.stdout.strip())
    try:
        for act, expected in ((None, case.new), (undone, case.old), (redone, case.new)):
            if act is None:
                changed(device, case.amendment, tmp_path)
            else:
                act(device, tmp_path)
            assert device.read_bytes() == expected
        assert (tmp_path / f"{device.name}{SUFFIX}").is_file()
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


# -- a host that fails


class Broken(FileDisk):
    """A disk that gives up for good at its second write."""

    def pwrite(self, offset: int, data: bytes) -> None:
        """Write the mark, and nothing more."""
        if offset != 79:
            raise OSError(errno.EIO, "cut off")
        super().pwrite(offset, data)


def fails_half_way(path: Path, act: Callable[..., Any]) -> None:
    """Take a change back or finish it on a disk that is broken."""
    with opened(path, create=False) as (disk, book):
        broken = Broken(disk.file)
        with pytest.raises(WriteError, match=r"cut off; .*--resume finishes it"):
            act(broken, book)


def fail_at_write(path: Path, amendment: Amendment, error: BaseException, last: int = 2) -> None:
    """Make a change whose write of that number fails once."""

    class Failing(FileDisk):
        calls = 0

        def pwrite(self, offset: int, data: bytes) -> None:
            """Write, or fail in the middle."""
            type(self).calls += 1
            if self.calls == last:
                super().pwrite(offset, data[: len(data) // 2])
                raise error
            super().pwrite(offset, data)

    with opened(path) as (disk, book):
        carry_out(Failing(disk.file), book, amendment)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()])
def test_what_is_no_error_of_the_host_is_taken_back_too(path: Path, error: BaseException) -> None:
    path.write_bytes(GROWING.old)
    with pytest.raises(type(error)):
        fail_at_write(path, GROWING.amendment, error)
    assert path.read_bytes() == GROWING.old
    assert not path.with_name(path.name + SUFFIX).exists()


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_write_that_fails(path: Path, code: int) -> None:
    path.write_bytes(SHRINKING.old)
    with pytest.raises(WriteError, match="nothing was changed") as told:
        fail_at_write(path, SHRINKING.amendment, OSError(code, os.strerror(code)))
    assert told.value.status is Status.IO_ERROR
    assert os.strerror(code) in str(told.value)
    assert path.read_bytes() == SHRINKING.old


def test_a_disk_that_stays_broken(path: Path) -> None:
    path.write_bytes(GROWING.old)
    with opened(path) as (disk, book), pytest.raises(WriteError) as told:
        carry_out(Broken(disk.file), book, GROWING.amendment)
    assert "the change is half made: --resume finishes it, --undo takes it back" in str(told.value)
    assert path.read_bytes()[79] & 2
    for act in (resume, undo):
        fails_half_way(path, act)
    for end in ("", SUFFIX):
        shutil.copy2(f"{path}{end}", f"{path}2{end}")
    assert resumed(path.with_name("image2")).state is State.APPLIED
    assert path.with_name("image2").read_bytes() == GROWING.new
    undone(path)
    assert path.read_bytes() == GROWING.old


def test_a_journal_that_fails_at_the_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(SMALL.old)
    with monkeypatch.context() as patched:
        broken = WriteError("the journal's disk broke")
        patched.setattr(records.Journal, "finish", lambda *_: (_ for _ in ()).throw(broken))
        with pytest.raises(WriteError, match=r"every byte is in its place.*--resume"):
            changed(path, SMALL.amendment)
    assert path.read_bytes() == SMALL.new
    resumed(path)
    assert states(path) == [("change", "applied")]
    assert path.read_bytes() == SMALL.new


def test_a_journal_that_fails_at_the_start(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(SMALL.old)
    broken = WriteError("the journal's disk broke")
    monkeypatch.setattr(records.Journal, "start", lambda *_: (_ for _ in ()).throw(broken))
    with pytest.raises(WriteError, match="broke"):
        changed(path, SMALL.amendment)
    assert path.read_bytes() == SMALL.old
    assert not path.with_name(path.name + SUFFIX).exists()


def grown(old: bytes, by: int) -> Amendment:
    """Return a change that lets a file grow and fills what is new."""
    pieces = [
        Piece(at, b"", b"\7" * min(MOST_BYTES, len(old) + by - at))
        for at in range(len(old), len(old) + by, MOST_BYTES)
    ]
    return Amendment(len(old), len(old) + by, pieces, "grow", {}, marked=False)


@pytest.mark.parametrize("fallocate", [True, False], ids=["room taken first", "no fallocate"])
def test_no_room_to_grow(tmp_path: Path, fallocate: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not fallocate:
        code = errno.EOPNOTSUPP
        monkeypatch.setattr(os, "posix_fallocate", lambda *_: raising(code))
    with mounted(tmp_path / "disk", 1024):
        path = tmp_path / "disk" / "image"
        path.write_bytes(image(100 * KIB))
        before = path.stat()
        with pytest.raises(WriteError, match="nothing was changed") as told:
            changed(path, grown(image(100 * KIB), 3 << 20), tmp_path)
        assert path.read_bytes() == image(100 * KIB)
        assert path.stat().st_blocks == before.st_blocks
        assert ("3145728 bytes are needed" in str(told.value)) == fallocate
        assert os.strerror(errno.ENOSPC) in str(told.value)
        assert {name.name for name in tmp_path.iterdir()} == {"disk"}


def raising(code: int) -> None:
    """Fail as the host does."""
    raise OSError(code, os.strerror(code))


def test_no_room_for_what_was_a_hole(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", 1024):
        path = tmp_path / "disk" / "image"
        path.write_bytes(b"head")
        os.truncate(path, 8 << 20)
        pieces = [Piece(at << 20, bytes(1 << 20), b"\7" * (1 << 20)) for at in range(2, 5)]
        amendment = Amendment(8 << 20, 8 << 20, pieces, "fill", {}, marked=False)
        with pytest.raises(WriteError, match=r"\(3145728 bytes are needed\); nothing was changed"):
            changed(path, amendment, tmp_path)
        assert path.read_bytes() == b"head".ljust(8 << 20, b"\0")


def test_no_room_to_finish_or_to_go_back(tmp_path: Path) -> None:
    """An undo of a cut, on a disk that is full by now: nothing is lost, and later it works."""
    case = change(image(600 * KIB), (9000, 9500), size=100 * KIB, marked=False)
    with mounted(tmp_path / "disk", 1024):
        path = tmp_path / "disk" / "image"
        made(path, case, tmp_path)
        fill(tmp_path / "disk")
        with pytest.raises(WriteError, match=r"bytes are needed.*nothing was changed"):
            undone(path, tmp_path)
        assert path.read_bytes() == case.new
        (tmp_path / "disk" / "filler").unlink()
        undone(path, tmp_path)
        assert path.read_bytes() == case.old


def test_a_full_disk_keeps_the_last_word(tmp_path: Path) -> None:
    """Journal and image share a disk that is filled to the last byte while the change is made."""
    with mounted(tmp_path / "disk", 1024):
        path = tmp_path / "disk" / "image"
        path.write_bytes(SMALL.old)

        class Filling(FileDisk):
            def fallocate(self, offset: int, length: int) -> None:
                super().fallocate(offset, length)
                if not (tmp_path / "disk" / "filler").exists():
                    fill(tmp_path / "disk")

            def sync(self) -> None:
                self.fallocate(0, 1)

        with opened(path) as (disk, book):
            carry_out(Filling(disk.file), book, SMALL.amendment)
        assert path.read_bytes() == SMALL.new
        assert states(path) == [("change", "applied")]


def test_a_read_only_image(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", 64) as make_read_only:
        path = tmp_path / "disk" / "image"
        path.write_bytes(SMALL.old)
        make_read_only()
        with pytest.raises(NoPermissionError) as refused, open_file(path, write=True):
            pass
    assert refused.value.status is Status.NO_PERMISSION


@pytest.mark.parametrize("act", [undone, resumed])
def test_a_journal_that_can_not_be_written_any_more(tmp_path: Path, path: Path, act: Any) -> None:
    """Nothing more is written to the image, whose end could not be noted."""
    with mounted(tmp_path / "journals", 256) as make_read_only:
        path.write_bytes(SMALL.old)
        place = tmp_path / "journals" / "journal"
        cut_off(path, SMALL.amendment, 1, place)
        half = path.read_bytes()
        make_read_only()
        with pytest.raises(NoPermissionError, match="--journal PATH"):
            act(path, place)
        assert path.read_bytes() == half


def test_an_image_that_vanished(path: Path) -> None:
    path.write_bytes(SMALL.old)
    with open_file(path, write=True) as file:
        path.unlink()
        with open_journal(file) as book, pytest.raises(MissingError):
            carry_out(FileDisk(file), book, SMALL.amendment)
        path.write_bytes(SMALL.old)
        with open_journal(file) as book, pytest.raises(RefusedError, match="another file"):
            carry_out(FileDisk(file), book, SMALL.amendment)
    assert path.read_bytes() == SMALL.old
    assert not path.with_name(path.name + SUFFIX).exists()


def test_short_writes_are_continued(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:100], at))
    made(path, CASES["many small"])
    assert path.read_bytes() == CASES["many small"].new


def test_a_write_of_nothing_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(SMALL.old)
    monkeypatch.setattr(os, "pwrite", lambda *_: 0)
    with pytest.raises(WriteError):
        changed(path, SMALL.amendment)
    assert path.read_bytes() == SMALL.old
