"""Edits of every image of the corpus, sound or damaged: done or refused, and undone to the byte."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from command import copy, qfix
from corpus import CASES

if TYPE_CHECKING:
    from pathlib import Path

EDITS = (
    ("--set", "header.size=1M", "--set", "header.nb_snapshots=3"),
    ("--set", "l1[0]=0x800:copied"),
    ("--set", "l2[0][1]=0x1000:none"),
    ("--set", "refcount[7]=0"),
    ("--set", "snapshot[0].name=x", "--set", "snapshot[0].l2[0][0]=0"),
    ("--set", "bitmap[0].table[0]=1", "--set", "bitmap[0].name=x"),
    ("--set-feature", "incompatible:4", "--add-extension", "0x12345678=x"),
    ("--no-backing", "--remove-extension", "0"),
    ("--backing", "elsewhere:raw"),
    ("-O", "0x60c", "-V", "0xffffffffffffffff"),
)
EACH = 3
"""How many of the edits each image gets, in turn."""
ENDS = {0, 1, 2, 3, 4, 5, 6, 8}


@pytest.mark.parametrize("at", range(len(CASES)), ids=[case.name for case in CASES])
def test_edits_of_a_damaged_image(at: int, tmp_path: Path) -> None:
    path = copy(CASES[at].name, tmp_path)
    before = path.read_bytes()
    for step in range(EACH):
        done = qfix("-m", "edit", "--yes", *EDITS[(at + 3 * step) % len(EDITS)], path)
        if done.status == 64:
            assert "nothing was changed" in done.stderr
        else:
            assert done.status in ENDS
            kept = "Nothing was changed" in done.stdout
            assert (path.read_bytes() == before) is kept
            assert kept or qfix("--undo", path).status in ENDS
        assert path.read_bytes() == before
