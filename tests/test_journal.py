"""The journal: its place, its durability, what can be told of it, and files that are no journal."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest

from amendments import CASES, change, image, many
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
from qfix import __version__
from qfix.change import database, journal
from qfix.change.journal import Kind, State, locate, pending, reports
from qfix.change.pieces import Amendment, Piece
from qfix.change.prepare import prepare
from qfix.errors import (
    InUseError,
    JournalError,
    MissingError,
    NoPermissionError,
    QfixError,
    RefusedError,
    Status,
    UsageError,
    WriteError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(journal.__file__).parents[2]
SMALL = CASES["one small"]
LOOKS = (pending, journal.records, reports)
ODD = ("a b?c#d%41&e", "%2e", "ümläut", os.fsdecode(b"\xff\xfe"), "'\"", "file:x", "..x")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the image is to be."""
    return tmp_path / "image"


def beside(path: Path) -> Path:
    """Return the journal's default place."""
    return path.with_name(path.name + SUFFIX)


def seen(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return all files of a folder, with what they hold and when they were written."""
    return {
        name.name: (name.read_bytes(), name.stat().st_mtime_ns)
        for name in folder.iterdir()
        if name.is_file()
    }


def sql(path: Path, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """Run a statement on a journal, past qfix."""
    with closing(sqlite3.connect(beside(path), isolation_level=None)) as connection:
        return connection.execute(statement, values).fetchall()


def failing(code: int) -> Mock:
    """Return a function that fails as the host does."""
    return Mock(side_effect=OSError(code, os.strerror(code)))


# -- its place


def test_the_place_is_beside_the_real_image(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "folder" / "disk.img")

    assert locate(str(link)) == str(tmp_path / "folder" / "disk.img") + SUFFIX
    assert locate(str(link), str(tmp_path)) == str(tmp_path / "link") + SUFFIX
    assert locate(str(link), "elsewhere") == "elsewhere"


def test_a_device_has_no_default_place(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.touch()
    monkeypatch.setattr(stat, "S_ISBLK", lambda _mode: True)
    with pytest.raises(UsageError, match="--journal PATH"):
        locate(str(path))
    assert locate(str(path), "place") == "place"
    assert pending(str(path)) is None


@pytest.mark.parametrize("name", ODD)
def test_names_of_every_kind(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    made(path, SMALL)
    assert os.path.lexists(os.fspath(path) + SUFFIX)
    assert len(list(tmp_path.iterdir())) == 2
    undone(path)
    cut_off(path, SMALL.amendment, 1)
    assert pending(str(path)) is not None
    resumed(path)
    assert path.read_bytes() == SMALL.new


def test_a_path_that_starts_with_two_slashes(path: Path) -> None:
    made(path, SMALL)
    assert len(reports(f"/{path}")) == 1


@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_a_place_elsewhere(tmp_path: Path, path: Path, folder: bool) -> None:
    other = tmp_path / "other"
    if folder:
        other.mkdir()
    made(path, SMALL, other)

    assert not beside(path).exists()
    assert (other / f"image{SUFFIX}" if folder else other).is_file()
    assert len(reports(str(path), str(other))) == 1
    assert reports(str(path)) == []
    undone(path, other)
    assert path.read_bytes() == SMALL.old


def test_a_journal_of_another_image_is_left_alone(tmp_path: Path, path: Path) -> None:
    (tmp_path / "journals").mkdir()
    (tmp_path / "sub").mkdir()
    made(path, SMALL, tmp_path / "journals")
    before = seen(tmp_path / "journals")
    with pytest.raises(RefusedError, match=f"is the journal of {path}; .*--journal PATH"):
        made(tmp_path / "sub" / "image", SMALL, tmp_path / "journals")
    assert (tmp_path / "sub" / "image").read_bytes() == SMALL.old
    assert len(seen(tmp_path / "journals")) == len(before)


def test_the_journal_moves_with_its_image(tmp_path: Path, path: Path) -> None:
    made(path, SMALL)
    (tmp_path / "new").mkdir()
    for name in (path, beside(path)):
        shutil.copy2(name, tmp_path / "new" / name.name)
    moved = tmp_path / "new" / "image"
    changed(moved, simple(moved, (5000, b"more")))
    undone(moved)
    undone(moved)
    assert moved.read_bytes() == SMALL.old


# -- the file


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o444, 0o755])
def test_no_more_people_read_it_than_the_image(path: Path, mode: int) -> None:
    path.write_bytes(SMALL.old)
    path.chmod(mode)
    before = os.umask(0o027)
    try:
        changed(path, SMALL.amendment)
    finally:
        os.umask(before)
    assert stat.S_IMODE(beside(path).stat().st_mode) == mode & 0o666


def test_another_group_reads_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(SMALL.old)
    path.chmod(0o664)
    monkeypatch.setattr(os, "fchown", failing(errno.EPERM))
    changed(path, SMALL.amendment)
    assert stat.S_IMODE(beside(path).stat().st_mode) == 0o604


def test_it_is_as_durable_as_sqlite_can_make_it(path: Path) -> None:
    path.write_bytes(SMALL.old)
    with opened(path) as (_, book):
        asked = ("journal_mode", "synchronous", "application_id", "user_version")
        told = [book.connection.execute(f"PRAGMA {name}").fetchone()[0] for name in asked]
    assert told == ["persist", 3, 0x71666978, 1]


def test_its_folder_is_synced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    made(path, SMALL)
    assert synced[0] == str(path.parent)
    assert set(synced[1:]) == {str(path)}


def test_nothing_else_is_left(tmp_path: Path, path: Path) -> None:
    made(path, SMALL)
    undone(path)
    redone(path)
    assert set(seen(tmp_path)) == {"image", f"image{SUFFIX}"}


def test_nothing_is_left_of_a_run_that_changed_nothing(tmp_path: Path, path: Path) -> None:
    path.write_bytes(SMALL.old)
    with opened(path):
        pass
    assert set(seen(tmp_path)) == {"image"}


# -- what is told


def test_what_a_record_holds(path: Path) -> None:
    made(path, SMALL)
    (record,) = journal.records(str(path))
    assert record[:4] == (1, Kind.CHANGE, None, "a change")
    assert (record.version, record.state, record.marked) == (__version__, State.APPLIED, True)
    assert record.time.endswith("+00:00")
    assert (record.old_size, record.new_size) == (len(SMALL.old), len(SMALL.new))
    assert (record.pieces, record.bytes) == (2, 2 * 120)
    assert record.mtime_before < record.mtime_after == path.stat().st_mtime_ns
    assert record.described() == json.loads(json.dumps(record.described()))
    assert record.described()["state"] == "applied"
    with opened(path) as (disk, book):
        assert book.image() == disk.identity()
        assert list(book.pieces(record)) == SMALL.amendment.pieces


def test_reports_of_what_stands_newest_first(path: Path) -> None:
    path.write_bytes(SMALL.old)
    for number in range(4):
        changed(path, simple(path, (number * 600, b"new"), asked=f"change {number}"))
    undone(path)
    undone(path)
    redone(path)
    told = ["change 2", "change 1", "change 0"]
    assert [report["asked"] for report in reports(str(path))] == told


def test_words_that_are_no_text(path: Path) -> None:
    path.write_bytes(SMALL.old)
    odd = os.fsdecode(b"\xff\x00\n")
    changed(path, simple(path, (0, b"new"), asked=odd))
    assert journal.records(str(path))[0].asked == "\\udcff\x00\n"
    assert reports(str(path)) == [{"asked": odd}]


def test_looking_without_a_journal_does_not_import_sqlite3(path: Path) -> None:
    path.touch()
    script = (
        "import sys; from qfix.change import journal; assert journal.pending(sys.argv[1]) is None\n"
        "assert journal.records(sys.argv[1]) == journal.reports(sys.argv[1]) == []\n"
        "assert not journal.exists(sys.argv[1]); sys.exit('sqlite3' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=True, cwd=SOURCE)


def test_looking_leaves_no_trace(tmp_path: Path, path: Path) -> None:
    for stage in ("changed", "undone", "cut off"):
        if stage == "changed":
            made(path, SMALL)
        elif stage == "undone":
            undone(path)
        else:
            cut_off(path, SMALL.amendment, 2)
        before, folder = seen(tmp_path), tmp_path.stat().st_mtime_ns
        for look in LOOKS:
            look(str(path))
        assert (seen(tmp_path), tmp_path.stat().st_mtime_ns) == (before, folder)


def test_looking_on_a_read_only_file_system(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", 1024) as make_read_only:
        path = tmp_path / "disk" / "image"
        path.write_bytes(SMALL.old)
        cut_off(path, SMALL.amendment, 2)
        make_read_only()
        found = pending(str(path))
        with pytest.raises(NoPermissionError), opened(path):
            pass
    assert found is not None
    assert found.record is not None
    assert found.record.state is State.APPLYING


def test_a_hot_journal_is_told_and_left(tmp_path: Path, path: Path) -> None:
    made(path, SMALL)
    (tmp_path / f"image{SUFFIX}-journal").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7")
    before = seen(tmp_path)
    assert pending(str(path)) == journal.Pending(str(beside(path)), None)
    for look in (journal.records, reports):
        with pytest.raises(JournalError, match="--resume"):
            look(str(path))
    assert seen(tmp_path) == before


def test_what_was_prepared_and_never_begun_is_dropped(path: Path) -> None:
    path.write_bytes(SMALL.old)
    with opened(path) as (disk, book):
        prepare(disk, book, SMALL.amendment, Kind.CHANGE)
    assert pending(str(path)) is None
    assert [record.state for record in journal.records(str(path))] == [State.PREPARED]
    with pytest.raises(RefusedError, match="had not touched the image"):
        undone(path)
    assert journal.records(str(path)) == []
    with pytest.raises(RefusedError, match="no change to take back"):
        undone(path)
    changed(path, SMALL.amendment)
    assert sql(path, "SELECT count(*) FROM pieces") == [(2,)]


# -- no journal


def other_database(path: Path) -> None:
    """Make a database that is somebody else's."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE records (number)")
        connection.commit()


def patched(at: int, data: bytes) -> Any:
    """Return a way to make a journal with other bytes in it."""

    def make(path: Path) -> None:
        image_path = path.with_name("first")
        made(image_path, SMALL)
        stored = bytearray(beside(image_path).read_bytes())
        stored[at : at + len(data)] = data
        path.write_bytes(stored)
        image_path.unlink()
        beside(image_path).unlink()

    return make


FOREIGN = {
    "text": (lambda path: path.write_text("not a database" * 20), "is no journal of qfix"),
    "short": (lambda path: path.write_text("x"), "is no journal of qfix"),
    "zeros": (lambda path: path.write_bytes(bytes(9000)), "is no journal of qfix"),
    "qcow2": (lambda path: path.write_bytes(SMALL.old), "is no journal of qfix"),
    "other database": (other_database, "is no journal of qfix"),
    "folder": (Path.mkdir, "is no file"),
    "pipe": (os.mkfifo, "is no file"),
    "newer": (patched(60, b"\0\0\0\2"), "is the journal of a newer qfix"),
    "older": (patched(60, b"\0\0\0\0"), "is a damaged journal"),
    "write-ahead": (patched(18, b"\2\2"), "is a damaged journal"),
    "damaged schema": (patched(100, bytes(300)), "is a damaged journal"),
    "damaged pages": (patched(4096, b"\xff" * 9000), "is a damaged journal"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_that_is_no_journal(tmp_path: Path, path: Path, kind: str) -> None:
    make, words = FOREIGN[kind]
    path.write_bytes(SMALL.old)
    make(beside(path))
    before = seen(tmp_path)
    for act in (*LOOKS, lambda _: undone(path), lambda _: changed(path, SMALL.amendment)):
        with pytest.raises(JournalError, match=words) as refused:
            act(str(path))
        assert refused.value.status is Status.IO_ERROR
        assert str(beside(path)) in str(refused.value)
    assert seen(tmp_path) == before


def test_the_image_is_no_journal(path: Path) -> None:
    path.write_bytes(SMALL.old)
    with pytest.raises(JournalError, match="is no journal"):
        changed(path, SMALL.amendment, path)
    assert path.read_bytes() == SMALL.old


def test_an_empty_file_becomes_the_journal(path: Path) -> None:
    path.write_bytes(SMALL.old)
    beside(path).touch()
    assert pending(str(path)) is None
    assert reports(str(path)) == []
    with pytest.raises(RefusedError, match="no change to take back"):
        undone(path)
    changed(path, SMALL.amendment)
    assert len(reports(str(path))) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE records SET state = 'odd'",
        "UPDATE records SET kind = 'odd'",
        "UPDATE records SET asked = x'00'",
        "UPDATE records SET takes_back = 'odd'",
        "UPDATE records SET mtime_after = 'odd'",
        "UPDATE records SET old_size = old_size - 1",
        "UPDATE records SET old_size = 'odd'",
        "UPDATE records SET new_size = -1",
        "UPDATE records SET pieces = 1",
        "UPDATE records SET asked = CAST(x'ff' AS TEXT)",
        "UPDATE pieces SET old = x'00'",
        "UPDATE pieces SET new = 'text'",
        "UPDATE pieces SET start = start + 1",
        "UPDATE pieces SET start = -5",
        "UPDATE pieces SET start = 'odd'",
        "UPDATE pieces SET start = 1 << 62",
        "UPDATE pieces SET new = zeroblob(2000000)",
        "DELETE FROM pieces WHERE start > 0",
        "DROP TABLE pieces",
        "DROP TABLE records",
    ],
)
def test_a_damaged_journal_does_no_harm(path: Path, statement: str) -> None:
    made(path, SMALL)
    sql(path, statement)
    with pytest.raises(JournalError, match="is a damaged journal"):
        undone(path)
    assert path.read_bytes() == SMALL.new


@pytest.mark.parametrize("report", ["[]", "{", "[" * 100000, "7"])
def test_a_damaged_report(path: Path, report: str) -> None:
    made(path, SMALL)
    sql(path, "UPDATE reports SET report = ?", report)
    with pytest.raises(JournalError, match="is a damaged journal"):
        reports(str(path))


def flipped(stored: bytes) -> Iterator[bytes]:
    """Yield a journal with some bytes changed, many times."""
    chance = random.Random(5)  # noqa: S311  (a repeatable choice of cases)
    for _ in range(150):
        changed_bytes = bytearray(stored)
        for _ in range(chance.choice((1, 3, 20))):
            changed_bytes[chance.randrange(len(stored))] = chance.randrange(256)
        yield bytes(changed_bytes)


def test_a_journal_with_any_bytes_changed(path: Path) -> None:
    """Looks and undo give what is right, or say that it is damaged; none raises anything else."""
    made(path, CASES["growing"])
    stored, after = beside(path).read_bytes(), path.read_bytes()
    stamp = path.stat().st_mtime_ns
    for data in flipped(stored):
        beside(path).write_bytes(data)
        path.write_bytes(after)
        os.utime(path, ns=(stamp, stamp))
        for act in (*LOOKS, lambda name: undone(Path(name))):
            with suppress(QfixError):
                act(str(path))
        assert path.read_bytes() in {after, CASES["growing"].old}


# -- the host fails


def test_a_full_disk(tmp_path: Path) -> None:
    case = change(image(400 * 1024), *many(50, 5000, 8000))
    with mounted(tmp_path / "disk", 1024) as _:
        path = tmp_path / "disk" / "image"
        path.write_bytes(case.old)
        fill(tmp_path / "disk", leave_kib=120)
        with pytest.raises(WriteError, match=r"no room for the journal: (\d+) bytes") as refused:
            changed(path, case.amendment)
        assert path.read_bytes() == case.old
        assert {name.name for name in path.parent.iterdir()} == {"image", "filler"}
        for words in ("nothing was changed", "--journal PATH", str(path.parent)):
            assert words in str(refused.value)
        needed = int(str(refused.value).split(" bytes")[0].split()[-1])
        assert 500_000 < needed < 520_000

        changed(path, simple(path, (5, b"a small one")))
        with pytest.raises(WriteError, match="no room for the journal"):
            changed(path, CASES["many small"].amendment._replace(
                old_size=len(case.old), new_size=len(case.old), marked=False,
                pieces=[Piece(at, case.old[at : at + 5000], b"\7" * 5000)
                        for at in range(8000, 400_000, 8000)],
            ))  # fmt: skip
        assert len(reports(str(path))) == 1
        undone(path)
        assert path.read_bytes() == case.old


def test_no_byte_of_room(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", 256) as _:
        path = tmp_path / "disk" / "image"
        path.write_bytes(SMALL.old)
        fill(tmp_path / "disk")
        with pytest.raises(WriteError, match=r"no room for the journal.*--journal PATH"):
            changed(path, SMALL.amendment)
        assert not beside(path).exists()
        changed(path, SMALL.amendment, tmp_path)
        assert path.read_bytes() == SMALL.new


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (errno.EACCES, NoPermissionError),
        (errno.EPERM, NoPermissionError),
        (errno.EROFS, NoPermissionError),
        (errno.ENOSPC, WriteError),
        (errno.EDQUOT, WriteError),
    ],
)
def test_a_folder_that_takes_no_file(
    path: Path, code: int, error: type[QfixError], monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(SMALL.old)
    real = os.open

    def refuse(name: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            raise OSError(code, os.strerror(code))
        return real(name, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(error, match="--journal PATH"):
        changed(path, SMALL.amendment)
    assert path.read_bytes() == SMALL.old


def test_a_read_only_folder(tmp_path: Path, path: Path) -> None:
    path.write_bytes(SMALL.old)
    with mounted(tmp_path / "journals", 64) as make_read_only:
        make_read_only()
        with pytest.raises(NoPermissionError, match="--journal PATH") as refused:
            changed(path, SMALL.amendment, tmp_path / "journals")
    assert refused.value.status is Status.NO_PERMISSION
    assert path.read_bytes() == SMALL.old


def test_a_folder_that_was_made_read_only_later(tmp_path: Path, path: Path) -> None:
    with mounted(tmp_path / "journals", 256) as make_read_only:
        made(path, SMALL, tmp_path / "journals")
        make_read_only()
        with pytest.raises(NoPermissionError, match="--journal PATH"):
            undone(path, tmp_path / "journals")
    assert path.read_bytes() == SMALL.new


def test_a_folder_that_is_not_there(tmp_path: Path, path: Path) -> None:
    path.write_bytes(SMALL.old)
    with pytest.raises(MissingError, match="journal"):
        changed(path, SMALL.amendment, tmp_path / "none" / "journal")
    assert path.read_bytes() == SMALL.old


def test_a_folder_that_can_not_be_synced(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(SMALL.old)
    with monkeypatch.context() as patched_os:
        patched_os.setattr(os, "fsync", failing(errno.EIO))
        with pytest.raises(QfixError, match="Input/output error"):
            changed(path, SMALL.amendment)
    assert set(seen(tmp_path)) == {"image"}
    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL))
    with opened(path):
        pass


def test_another_process_holds_the_journal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "WAIT_SECONDS", 0.01)
    made(path, SMALL)
    with closing(sqlite3.connect(beside(path), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for act in (lambda: undone(path), lambda: pending(str(path))):
            with pytest.raises(InUseError, match="another process holds the journal"):
                act()
    assert path.read_bytes() == SMALL.new


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (sqlite3.SQLITE_IOERR_WRITE, WriteError),
        (sqlite3.SQLITE_CANTOPEN, WriteError),
        (sqlite3.SQLITE_READONLY_DIRECTORY, NoPermissionError),
        (sqlite3.SQLITE_PERM, NoPermissionError),
        (sqlite3.SQLITE_CORRUPT_INDEX, JournalError),
        (sqlite3.SQLITE_NOTADB, JournalError),
        (sqlite3.SQLITE_LOCKED, InUseError),
        (0, JournalError),
    ],
)
def test_what_sqlite_says(path: Path, code: int, error: type[QfixError]) -> None:
    raised = sqlite3.OperationalError("words")
    raised.sqlite_errorcode = code
    told = database.explanation(raised, str(path))
    assert type(told) is error
    assert str(path) in str(told)


def test_an_error_in_the_plan_leaves_nothing(tmp_path: Path, path: Path) -> None:
    path.write_bytes(SMALL.old)

    def pieces() -> Iterator[Piece]:
        yield Piece(0, SMALL.old[:512], b"x" * 512)
        raise WriteError("a defect")

    with pytest.raises(WriteError, match="a defect"):
        changed(path, Amendment(len(SMALL.old), len(SMALL.old), pieces(), "", {}, marked=False))
    assert set(seen(tmp_path)) == {"image"}


def test_memory_does_not_grow_with_the_change(path: Path) -> None:
    script = """
import resource, sys
from pathlib import Path
from change_run import changed, undone
from qfix.change.pieces import Amendment, Piece
path, mib = Path(sys.argv[1]), 1 << 20
pieces = (Piece(at * mib, bytes(mib), bytes([at + 1]) * mib) for at in range(48))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
changed(path, Amendment(48 * mib, 48 * mib, pieces, "much", {}, marked=False))
undone(path)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    path.touch()
    os.truncate(path, 48 << 20)
    run = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        env={**os.environ, "PYTHONPATH": f"{SOURCE}:{Path(__file__).parent}"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(run.stdout) < 24
