"""A few images damaged at random are repaired; `tests/repair_mutants.py` does many more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import repair_mutants
from mutant_bases import CORPUS, read_bases

if TYPE_CHECKING:
    from pathlib import Path

COUNT = 30
SEED = 2


def test_mutants_are_repaired_or_named(tmp_path: Path) -> None:
    bases = read_bases(CORPUS)
    assert list(repair_mutants.run(SEED, COUNT, 60, bases, tmp_path)) == []
