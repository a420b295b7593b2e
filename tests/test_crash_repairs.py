"""Repairs that crash: the changes that planners make, stopped after and inside every write."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

import corpus
import kill_repairs
from amendments import Case
from qfix.change.apply import carry_out
from qfix.change.draft import Draft
from qfix.change.overlay import Overlay
from qfix.change.pieces import Amendment
from qfix.change.recover import undo
from qfix.examine import examine
from qfix.file import open_file
from qfix.repair.passes import plan_repair
from qfix.repair.wanted import Wanted
from test_crash import Stage, check_all

if TYPE_CHECKING:
    from pathlib import Path

KILLS = 5
PLANS = {
    "leak": "leaks",
    "refblock-missing": "errors",
    "reftable-outside-file": "errors",
    "reftable-empty": "errors",
    "used-but-free-run": "errors",
    "l2-not-copied-run": "errors",
    "data-on-snapshot-l1": "reuse",
    "l1-same-table": "reuse",
    "data-on-bitmap-directory": "all",
    "snapshot-extra-short": "all",
    "magic-damaged": "all",
    "dirty": "all",
    "reused-cluster": "lossy",
    "data-on-refblock": "lossy",
    "l1-unaligned": "lossy",
    "file-cut": "lossy",
    "snapshot-phantom": "lossy",
    "bitmap-directory-broken": "lossy",
}
"""Cases of the corpus by the repair that is made: small and large, growing and not, rebuilt."""


def planned(name: str, level: str) -> Case:
    """Return the file before and after a repair, and the change."""
    path = corpus.IMAGES / name / "image.qcow2"
    wanted = Wanted("all" if level == "lossy" else level, lossy=level == "lossy")
    with open_file(path) as file:
        draft = Draft.of(Overlay(file), examine(file, backing=False), backing=False)
        plan_repair(draft, wanted, [])
        image = draft.before.image
        marked = image is not None and image.header.version >= 3
        if marked:
            draft.overlay.touch(0)
        pieces = list(draft.overlay.pieces(header=marked))
        sizes = file.size, draft.overlay.size
        old, new = file.read(0, file.size), draft.overlay.read(0, draft.overlay.size)
    return Case(old, new, Amendment(*sizes, pieces, wanted.words, {}, marked))


@pytest.mark.parametrize("name", PLANS)
def test_a_repair_that_crashes(name: str) -> None:
    case = planned(name, PLANS[name])
    assert case.old != case.new
    stage = Stage(case)
    carry_out(stage.disk, stage.journal, case.amendment)
    check_all(stage, case.new)
    stage.begin()
    undo(stage.disk, stage.journal)
    check_all(stage, case.old)


def test_plans_grow_and_do_not() -> None:
    cases = [planned(name, level) for name, level in PLANS.items()]
    grown = [len(case.new) > len(case.old) for case in cases]
    assert len(cases) >= 10
    assert any(grown)
    assert not all(grown)


@pytest.mark.skipif(not shutil.which("qemu-img"), reason="qemu-img is not installed")
def test_repairs_killed_at_random_moments(tmp_path: Path) -> None:
    result = kill_repairs.kill_all(tmp_path, KILLS, seed=3)
    assert sum(result.values()) == KILLS
