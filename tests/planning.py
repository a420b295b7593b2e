"""Runs the planners of the header, snapshot and bitmap passes over a draft of an image."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import corpus
import qemu
from qfix.change.draft import Draft
from qfix.change.overlay import Overlay
from qfix.change.plan import run_rounds
from qfix.change.rehearse import rehearse
from qfix.examine import examine
from qfix.file import open_file
from qfix.problems import Severity
from qfix.repair import bitmaps, copied, extensions, headers, refcounts, reftable, snapshots
from qfix.repair.wanted import Wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from build import Picture

    Planner = Callable[[Draft, Wanted], bool]

CASES = {case.name: case for case in corpus.CASES}
PASSES: tuple[Planner, ...] = (
    *headers.PLANNERS,
    *extensions.PLANNERS,
    *snapshots.PLANNERS,
    *bitmaps.PLANNERS,
)
AFTERWARDS: tuple[Planner, ...] = (
    reftable.rebuild_refcount_structure,
    partial(refcounts.store_references, withheld=[]),
    copied.set_copied_flags,
)
"""What makes up for clusters that the passes added, moved or gave up."""


@contextmanager
def drafted(picture: Picture | str, folder: Path) -> Iterator[Draft]:
    """Give an empty draft over an image, or over that of a case of the corpus."""
    path = folder / "image.qcow2"
    path.write_bytes(CASES[picture].image() if isinstance(picture, str) else bytes(picture.data))
    (folder / "base.img").write_bytes(bytes(512))
    with open_file(path) as file:
        yield Draft.of(Overlay(file), examine(file))


@contextmanager
def planned(
    picture: Picture | str,
    folder: Path,
    *,
    lossy: bool = False,
    level: str = "all",
    planners: tuple[Planner, ...] = PASSES,
) -> Iterator[Draft]:
    """Give the draft of a repair that was rehearsed."""
    with drafted(picture, folder) as draft:
        wanted = Wanted(level, lossy=lossy)
        passes = [_asked(planner, wanted) for planner in (*planners, *AFTERWARDS)]
        assert run_rounds(draft, passes) < 10
        rehearse(draft)
        if not lossy:
            assert not draft.is_lossy
        yield draft


def _asked(planner: Planner, wanted: Wanted) -> Callable[[Draft], bool]:
    return lambda draft: planner(draft, wanted)


def grave(draft: Draft) -> list[str]:
    """Return the codes of what is found that does not leave an image good."""
    quiet = (Severity.NOTE, Severity.WARNING)
    return [
        found.problem.code for found in draft.now.findings if found.problem.severity not in quiet
    ]


def found(draft: Draft) -> list[str]:
    """Return the codes of all that is found."""
    return [found.problem.code for found in draft.now.findings]


def written(draft: Draft, folder: Path) -> Path:
    """Write what is planned to a file and return its path."""
    path = folder / "planned.qcow2"
    path.write_bytes(draft.overlay.read(0, draft.overlay.size))
    return path


def is_clean_for_qemu(draft: Draft, folder: Path) -> bool:
    """Tell whether qemu-img opens the planned image, and finds nothing in it."""
    path = written(draft, folder)
    return all(qemu.check(path, *options)[0] == 0 for options in ((), ("-r", "all"), ()))
