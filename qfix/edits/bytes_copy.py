"""Copies of bytes inside an image, or into it from another file: planned, never read whole."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from qfix import locks
from qfix.change.draft import Change
from qfix.change.grafted import Graft
from qfix.errors import RefusedError, UsageError
from qfix.file import open_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qfix.change.draft import Draft
    from qfix.file import ImageFile, Source

SECTOR = 512
SIZES = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


class Wanted(NamedTuple):
    """What is asked for: bytes from *source* of *file*, of the image if it is None, to *target*."""

    target: int
    source: int
    length: int
    file: ImageFile | None = None


@contextmanager
def source_file(name: str, image: str, warn: Callable[[str], None]) -> Iterator[ImageFile | None]:
    """Open the file to copy from, held against writers; None if it is the image itself.

    Raises a QfixError where it can't be read, or is neither a file nor a block device.
    """
    with open_file(name) as file:
        if _is_same(file.fd, image):
            yield None
            return
        with locks.hold_for_reading(file.fd, name) as hold:
            if not hold.supported:
                warn(f"warning: {name} can't be locked; make sure that nothing writes to it")
            yield file


def _is_same(fd: int, path: str) -> bool:
    try:
        one, other = os.fstat(fd), os.stat(path)
    except OSError:
        return False  # the image's own opening says what is wrong
    devices = stat.S_ISBLK(one.st_mode) and stat.S_ISBLK(other.st_mode)
    return os.path.samestat(one, other) or (devices and one.st_rdev == other.st_rdev)


def plan_copy(draft: Draft, wanted: Wanted) -> None:
    """Plan a copy of bytes; raises UsageError or RefusedError where it does not fit."""
    overlay = draft.overlay
    source = overlay.base if wanted.file is None else wanted.file
    _refuse_misfit(wanted, overlay.base, source)
    target, length = wanted.target, wanted.length
    if source is overlay.base and target == wanted.source:
        return
    overlay.borrow([Graft(target, target + length, source, wanted.source)])
    if source is overlay.base and wanted.source < SECTOR:
        # the mark comes and goes there while the change is made
        head = min(length, SECTOR - wanted.source)
        overlay.write(target, source.read(wanted.source, head))
    first, end = overlay.changed()
    if not first.size:
        return
    draft.note(
        Change(
            "copy",
            f"{size_text(length)} from {place_text(wanted)} copied;"
            f" {counted(int((end - first).sum()), 'sector')} of the image become others",
            host=target,
        )
    )
    draft.examine()


def _refuse_misfit(wanted: Wanted, image: Source, source: Source) -> None:
    target, start, length = wanted.target, wanted.source, wanted.length
    if not length:
        raise UsageError("-w 0 copies nothing")
    if target + length > image.size:
        raise RefusedError(
            f"{image.path}: {size_text(length)} at {target:#x} end at {target + length:#x}, but the"
            f" image has {image.size:#x} bytes: a copy does not make it longer"
        )
    if start + length > source.size:
        raise RefusedError(
            f"{source.path}: {size_text(length)} at {start:#x} end at {start + length:#x}, but it"
            f" has {source.size:#x} bytes: what is not there can't be copied"
        )


def place_text(wanted: Wanted) -> str:
    """Return in words where the bytes come from."""
    inside = "the image itself" if wanted.file is None else os.path.basename(wanted.file.path)
    return f"{wanted.source:#x} of {inside}"


def size_text(length: int) -> str:
    """Return a number of bytes in words; in larger units only where that is exact."""
    for unit, name in SIZES:
        if length >= unit and length % unit == 0:
            return f"{length // unit} {name}"
    return counted(length, "byte")


def counted(number: int, word: str) -> str:
    """Return a number and a word, which gets its plural."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
