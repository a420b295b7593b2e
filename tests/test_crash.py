"""Crashes: whatever is lost or torn, resume gives the new bytes exactly, and undo the old ones."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

import kill_runs
from amendments import CASES, Case
from crash_disk import Crash, FailingDisk, MemoryDisk, Operation, crashes, memory_journal
from qfix.change.apply import FileDisk, carry_out
from qfix.change.journal import State, is_hot, open_journal, pending, records
from qfix.change.recover import redo, resume, undo
from qfix.errors import QfixError, RefusedError
from qfix.file import open_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from qfix.change.journal import Record
    from qfix.change.records import Journal

    Recovery = Callable[[MemoryDisk, Journal], Record]

EACH = pytest.mark.parametrize("name", CASES)
SEED = 20
LARGE = 1 << 20
KILLS = 15
MOST_CRASHES = int(os.environ.get("QFIX_CRASHES", "60"))
"""So many crashes of each change, or more for a long run."""


@dataclass
class Stage:
    """A disk and its journal, and how both were when the log began."""

    case: Case
    log: list[Operation] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Put the file on the disk."""
        self.disk = MemoryDisk(bytearray(self.case.old), self.log, self.case.is_device)
        self.journal = memory_journal(log=self.log)
        self.begin()

    def begin(self) -> None:
        """Take what was done so far for history, in which nothing crashes."""
        self.log.clear()
        self.before = bytes(self.disk.data)
        self.stored = self.journal.connection.serialize()
        self.known = len(self.journal.records())

    def crashes(self, most: int = MOST_CRASHES) -> list[Crash]:
        """Return the crashes that can fall into what was done since, or a choice of them."""
        most = most if len(self.before) < LARGE else most // 4
        found = list(crashes(self.before, self.stored, self.log, SEED))
        chance = random.Random(SEED)  # noqa: S311  (a repeatable choice of cases)
        return found if len(found) <= most else chance.sample(found, most)

    def reopened(self, crash: Crash) -> tuple[MemoryDisk, Journal]:
        """Return what the next run finds."""
        log: list[Operation] = []
        disk = MemoryDisk(bytearray(crash.data), log, self.case.is_device)
        return disk, memory_journal(crash.journal, log)


def settled(stage: Stage, crash: Crash, after: bytes) -> bool:
    """Check that a crash can be finished and taken back; tell whether there was need to."""
    assert is_guarded(stage, bytes(crash.data), after)
    disk, journal = stage.reopened(crash)
    if journal.interrupted() is None:
        made = [record.state for record in journal.records()[stage.known :]]
        assert disk.data == (after if made == [State.APPLIED] else stage.before)
        with pytest.raises(RefusedError):
            resume(disk, journal)
        return False
    assert resume(disk, journal).state is State.APPLIED
    assert disk.data == after
    disk, journal = stage.reopened(crash)
    assert undo(disk, journal).state is State.UNDONE
    assert disk.data == stage.before
    return True


def is_guarded(stage: Stage, data: bytes, after: bytes) -> bool:
    """Tell whether QEMU refuses an image that is half changed, where that can be had."""
    wholes = {stage.before, after, stage.before.ljust(len(data), b"\0")}
    return not stage.case.amendment.marked or data in wholes or bool(data[79] & 2)


def check_all(stage: Stage, after: bytes) -> None:
    """Check every crash into what was done since the stage began."""
    assert stage.disk.data == after
    assert any([settled(stage, crash, after) for crash in stage.crashes()])  # noqa: C419


@EACH
def test_a_change_that_crashes(name: str) -> None:
    stage = Stage(CASES[name])
    carry_out(stage.disk, stage.journal, stage.case.amendment)

    check_all(stage, stage.case.new)


@EACH
def test_an_undo_and_a_redo_that_crash(name: str) -> None:
    stage = Stage(CASES[name])
    carry_out(stage.disk, stage.journal, stage.case.amendment)
    for act, after in ((undo, stage.case.old), (redo, stage.case.new)):
        stage.begin()
        act(stage.disk, stage.journal)
        check_all(stage, after)


@EACH
def test_an_undo_after_a_crash(name: str) -> None:
    """What was finished later is a change like any other."""
    stage = Stage(CASES[name])
    carry_out(stage.disk, stage.journal, stage.case.amendment)
    for crash in stage.crashes(most=15):
        disk, journal = stage.reopened(crash)
        if journal.interrupted() is not None:
            resume(disk, journal)
            undo(disk, journal)
            assert disk.data == stage.case.old
            redo(disk, journal)
            assert disk.data == stage.case.new


@EACH
@pytest.mark.parametrize("recovery", [resume, undo])
def test_a_recovery_that_crashes(name: str, recovery: Recovery) -> None:
    first = Stage(CASES[name])
    carry_out(first.disk, first.journal, first.case.amendment)
    for crash in first.crashes(most=12):
        disk, journal = first.reopened(crash)
        if journal.interrupted() is None:
            continue
        recovery(disk, journal)
        second = Stage(first.case, disk.log)
        second.before, second.stored = bytes(crash.data), crash.journal
        for again in second.crashes(most=25):
            left, its_journal = second.reopened(again)
            if its_journal.interrupted() is None:
                assert left.data == (first.case.new if recovery is resume else first.case.old)
                continue
            resume(left, its_journal)
            assert left.data == first.case.new
            left, its_journal = second.reopened(again)
            undo(left, its_journal)
            assert left.data == first.case.old


def fails(case: Case, number: int, code: int, *, forever: bool) -> tuple[Stage, bool]:
    """Make a change on a disk whose call of that number fails; tell whether one did."""
    stage = Stage(case)
    stage.disk = FailingDisk(
        bytearray(case.old), stage.log, case.is_device, failing=number, code=code, forever=forever
    )
    said = ""
    try:
        carry_out(stage.disk, stage.journal, case.amendment)
    except QfixError as error:
        said = str(error)
    if stage.journal.interrupted() is not None:
        assert "--resume" in said
    elif said:
        assert stage.disk.data == case.old
    return stage, bool(said)


@EACH
@pytest.mark.parametrize("forever", [False, True], ids=["once", "from then on"])
def test_every_call_that_fails(name: str, forever: bool) -> None:
    """The image is as it was, or the journal brings it to either side."""
    number = 0
    while True:
        code = (errno.EIO, errno.ENOSPC)[number % 2]
        stage, failed = fails(CASES[name], number, code, forever=forever)
        if not failed:
            break
        now = Crash(stage.disk.data, stage.journal.connection.serialize())
        settled(stage, now, stage.case.new)
        number += 1 if number < 40 else 29
    assert number > 10
    assert stage.disk.data == stage.case.new


@pytest.mark.parametrize("name", ["one small", "growing", "shrinking", "version 2 growing"])
def test_a_crash_while_a_failed_change_is_taken_back(name: str) -> None:
    calls = 0
    while fails(CASES[name], calls, errno.EIO, forever=False)[1]:
        calls += 1
    for number in range(calls):
        stage, _ = fails(CASES[name], number, errno.EIO, forever=False)
        for crash in stage.crashes(most=MOST_CRASHES // 3):
            settled(stage, crash, stage.case.new)


def killed(image: Path, *words: str) -> None:
    """Run a change in a process that kills itself at a given step."""
    run = subprocess.run([sys.executable, kill_runs.__file__, *words, str(image)], check=False)
    assert run.returncode == -signal.SIGKILL


@pytest.mark.parametrize("history", [False, True], ids=["first", "later"])
@pytest.mark.parametrize("piece", [0, 1, 150])
def test_killed_while_the_journal_is_written(tmp_path: Path, history: bool, piece: int) -> None:
    """SQLite's own journal is hot, then settled; nothing of the image was touched."""
    old, _ = kill_runs.made(tmp_path / "image", history=history)
    killed(tmp_path / "image", "--at-piece", str(piece))

    hot = is_hot(str(tmp_path / "image.qfix-journal"))
    assert hot == (piece == 150)
    for act in (resume, undo):
        folder = shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name}-{act.__name__}"))
        path = str(folder / "image")
        found = pending(path)
        assert (found is not None and found.record is None) if hot else found is None
        with open_file(path, write=True) as file, open_journal(file) as journal:
            assert (len(journal.records()), journal.interrupted()) == (int(history), None)
            if act is resume or hot or not history:
                with pytest.raises(RefusedError):
                    act(FileDisk(file), journal)
        assert (folder / "image").read_bytes() == old
        assert not is_hot(path + ".qfix-journal")
        assert pending(path) is None


@pytest.mark.parametrize("history", [False, True], ids=["first", "later"])
@pytest.mark.parametrize("commit", [1, 2, 3, 4])
def test_killed_before_a_commit(tmp_path: Path, history: bool, commit: int) -> None:
    """Its tables or what was left, the pieces, `applying`, `applied`: the one before holds."""
    path = tmp_path / "image"
    old, new = kill_runs.made(path, history=history)
    killed(path, "--at-commit", str(commit))

    assert path.read_bytes() == (new if commit == 4 else old)
    kill_runs.check(path, old, new)


def test_killed_at_random_moments(tmp_path: Path) -> None:
    result = kill_runs.kill_all(tmp_path, KILLS, SEED)
    assert sum(result.values()) == KILLS


def test_long_runs_are_a_command(tmp_path: Path) -> None:
    command = [sys.executable, kill_runs.__file__, "--runs", "1", "--folder", str(tmp_path)]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    assert run.stdout.startswith("1 runs")


def test_records_of_a_killed_run_are_told(tmp_path: Path) -> None:
    path = tmp_path / "image"
    kill_runs.made(path)
    killed(path, "--at-write", "20")

    found = pending(str(path))
    assert found is not None
    assert found.record == records(str(path))[-1]
    assert found.record.state is State.APPLYING
