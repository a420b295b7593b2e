"""The dirty and the corrupt mark: cleared when nothing is left that they stand for (format 2.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qfix.errors import Status
from qfix.layout.header import CORRUPT, DIRTY
from qfix.problems import header
from qfix.repair.headers import set_field

if TYPE_CHECKING:
    from qfix.change.draft import Draft
    from qfix.examine import Diagnosis
    from qfix.repair.wanted import Wanted

TEXTS = {DIRTY: "the dirty mark", CORRUPT: "the corrupt mark"}
CODES = {DIRTY: header.DIRTY_MARK.code, CORRUPT: header.CORRUPT_MARK.code}


def clear_marks(draft: Draft, wanted: Wanted) -> bool:
    """Clear the dirty mark once refcounts are right, the corrupt mark once nothing is left."""
    if not wanted.all:
        return False
    marks = 0
    if draft.found(header.DIRTY_MARK) and not refcount_errors(draft.now):
        marks |= DIRTY
    if draft.found(header.CORRUPT_MARK) and not damage(draft.now):
        marks |= CORRUPT
    return set_marks(draft, clear=marks)


def set_marks(draft: Draft, *, clear: int = 0, mark: int = 0, forced: bool = False) -> bool:
    """Clear or set marks; return whether that changes anything."""
    old = draft.image.header.incompatible_features
    new = (old & ~clear) | mark
    done = [
        f"{TEXTS[bit]} is {'set' if new & bit else 'cleared'}" for bit in TEXTS if (old ^ new) & bit
    ]
    if not done:
        return False
    bits = next(bit for bit in (CORRUPT, DIRTY) if (old ^ new) & bit)
    why = ", ".join(done) + (" although damage is left" if forced else "")
    set_field(draft, "incompatible_features", new, CODES[bits], why)
    return True


def refcount_errors(diagnosis: Diagnosis) -> list[str]:
    """Return the codes of what stands against clearing the dirty mark."""
    against = (Status.REFCOUNTS, Status.IO_ERROR, Status.UNSUPPORTED)
    return [
        found.problem.code
        for found in diagnosis.findings
        if found.problem.status in against
        or (found.problem.code.startswith("R") and found.problem.status is Status.METADATA)
    ]


def damage(diagnosis: Diagnosis) -> list[str]:
    """Return the codes of what stands against clearing the corrupt mark; leaks do not."""
    harmless = (Status.GOOD, Status.CORRUPT_MARK, Status.LEAKS)
    return [
        found.problem.code for found in diagnosis.findings if found.problem.status not in harmless
    ]
