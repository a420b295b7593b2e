"""Changes of real files: made, taken back, and on disks that are full or read-only."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from qfix.change.apply import FileDisk, carry_out
from qfix.change.journal import open_journal
from qfix.change.pieces import Amendment, Piece
from qfix.change.recover import redo, resume, undo
from qfix.file import open_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from amendments import Case
    from qfix.change.journal import Record
    from qfix.change.records import Journal

SUFFIX = ".qfix-journal"


@contextmanager
def opened(
    path: Path, option: Path | None = None, *, create: bool = True
) -> Iterator[tuple[FileDisk, Journal]]:
    """Open an image and its journal for a change."""
    place = None if option is None else str(option)
    with open_file(path, write=True) as file, open_journal(file, place, create=create) as journal:
        yield FileDisk(file), journal


def made(path: Path, case: Case, option: Path | None = None) -> int:
    """Write the image of a case and make its change."""
    path.write_bytes(case.old)
    return changed(path, case.amendment, option)


def changed(path: Path, amendment: Amendment, option: Path | None = None) -> int:
    """Make a change."""
    with opened(path, option) as (disk, journal):
        return carry_out(disk, journal, amendment)


def _recovery(act: Callable[..., Record]) -> Callable[..., Record]:
    def run(path: Path, option: Path | None = None, *, force: bool = False) -> Record:
        with opened(path, option, create=False) as (disk, journal):
            return act(disk, journal, force=force)

    return run


undone, redone, resumed = map(_recovery, (undo, redo, resume))


def simple(path: Path, *places: tuple[int, bytes], asked: str = "a change") -> Amendment:
    """Return a change of some bytes of a file, without a mark."""
    old = path.read_bytes()
    pieces = [Piece(at, old[at : at + len(new)], new) for at, new in places]
    return Amendment(len(old), len(old), pieces, asked, {"asked": asked}, marked=False)


class PowerCutError(Exception):
    """The process is gone."""


def cut_off(path: Path, amendment: Amendment, writes: int, option: Path | None = None) -> None:
    """Begin a change that is cut off after so many writes, and half of the next one."""

    class Cut(FileDisk):
        left = writes

        def pwrite(self, offset: int, data: bytes) -> None:
            """Write what there is time for."""
            type(self).left -= 1
            if self.left < -1:
                raise PowerCutError
            super().pwrite(offset, data[: len(data) // 2] if self.left < 0 else data)
            if self.left < 0:
                raise PowerCutError

        def truncate(self, size: int) -> None:
            """Do what there is time for."""
            if self.left < 0:
                raise PowerCutError
            super().truncate(size)

    with opened(path, option) as (disk, journal), pytest.raises(PowerCutError):
        carry_out(Cut(disk.file), journal, amendment)


@contextmanager
def mounted(folder: Path, kib: int) -> Iterator[Callable[[], None]]:
    """Mount a small file system on a folder; gives a function that makes it read-only."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("file systems can't be mounted here")

    def make_read_only() -> None:
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)

    try:
        yield make_read_only
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, leave_kib: int = 0) -> None:
    """Fill a file system, but for some KiB."""
    with (folder / "filler").open("wb", buffering=0) as file:
        with suppress(OSError):
            while True:
                file.write(bytes(4096))
        size = file.tell()
        file.truncate(max(0, size - leave_kib * 1024))
