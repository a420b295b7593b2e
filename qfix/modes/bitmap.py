"""--drop-bitmap: bitmaps given up by name; the next incremental backup must be a full one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qfix.modes.carry import carry_out
from qfix.report.rows import shell_word
from qfix.snapshots.bitmaps import EVERY, drop_bitmaps
from qfix.snapshots.settle import settle

if TYPE_CHECKING:
    from qfix.change.draft import Draft
    from qfix.examine import Diagnosis
    from qfix.modes.options import Options


def drop(path: str, options: Options) -> Diagnosis:
    """Drop the bitmaps that are named."""

    def plan(draft: Draft) -> None:
        drop_bitmaps(draft, options.drop_bitmap)
        settle(draft, reverted=False)

    asked = " ".join(f"--drop-bitmap {shell_word(word)}" for word in options.drop_bitmap)
    return carry_out(path, options, asked, plan, asks=EVERY in options.drop_bitmap, did="Done")
