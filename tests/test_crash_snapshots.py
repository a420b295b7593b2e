"""Snapshot operations that crash: stopped after and inside every write, finished and taken back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import corpus
from amendments import Case
from qfix.change.apply import carry_out
from qfix.change.draft import Draft
from qfix.change.overlay import Overlay
from qfix.change.pieces import Amendment
from qfix.change.recover import undo
from qfix.examine import examine
from qfix.file import open_file
from qfix.snapshots.attempts import attempt
from qfix.snapshots.choose import choose
from qfix.snapshots.operate import delete, revert
from test_crash import Stage, check_all

if TYPE_CHECKING:
    from collections.abc import Callable

REVERT: Callable[[Draft], bool] = lambda draft: revert(draft, choose(draft, "snapshot[0]"))  # noqa: E731
DELETE: Callable[[Draft], bool] = lambda draft: delete(draft, [choose(draft, "snapshot[0]")])  # noqa: E731
OTHERS: Callable[[Draft], bool] = lambda draft: delete(draft, draft.image.snapshots[1:])  # noqa: E731
EVERY: Callable[[Draft], bool] = lambda draft: delete(draft, draft.image.snapshots)  # noqa: E731
ACTS = {"-A": REVERT, "-D": DELETE, "-E": OTHERS, "-D all": EVERY}
IMAGES = (
    *("ok-snapshots", "ok-snapshots-v2", "ok-snapshots-eight", "ok-compressed-snapshot"),
    *("data-on-snapshot-l1", "snapshot-l2-outside-file", "snapshot-l1-unaligned"),
)
"""Cases of the corpus: sound ones, and damaged ones that an operation gets past."""
NOTHING_TO_DO = {
    *(("ok-snapshots-eight", "-A"), ("ok-compressed-snapshot", "-E")),
    ("snapshot-l1-unaligned", "-A"),
}
"""What changes nothing, and what is refused."""
PLANS = [(name, act) for name in IMAGES for act in ACTS if (name, act) not in NOTHING_TO_DO]


def planned(name: str, act: str) -> Case:
    """Return the file before and after an operation, and the change."""
    with open_file(corpus.IMAGES / name / "image.qcow2") as file:
        draft = Draft.of(Overlay(file), examine(file, backing=False), backing=False)
        attempt(draft, None, ACTS[act], reverts=act == "-A")
        marked = draft.image.header.version >= 3
        if marked:
            draft.overlay.touch(0)
        pieces = list(draft.overlay.pieces(header=marked))
        sizes = file.size, draft.overlay.size
        old, new = file.read(0, file.size), draft.overlay.read(0, draft.overlay.size)
    return Case(old, new, Amendment(*sizes, pieces, act, {}, marked))


@pytest.mark.parametrize(("name", "act"), PLANS)
def test_an_operation_that_crashes(name: str, act: str) -> None:
    case = planned(name, act)
    assert case.old != case.new
    stage = Stage(case)
    carry_out(stage.disk, stage.journal, case.amendment)
    check_all(stage, case.new)
    stage.begin()
    undo(stage.disk, stage.journal)
    check_all(stage, case.old)


def test_plans_grow_and_do_not() -> None:
    grown = {len(case.new) > len(case.old) for case in (planned(*plan) for plan in PLANS)}
    assert grown == {True, False}
