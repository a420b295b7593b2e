"""What planners of all passes share: header fields, reasons, and room for what they add."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qfix.change.allocate import DANGLING, allocate
from qfix.change.draft import Change, Left
from qfix.layout.header import Header
from qfix.problems.model import CATALOGUE

if TYPE_CHECKING:
    from qfix.change.draft import Draft
    from qfix.problems import Problem
    from qfix.repair.wanted import Wanted

EXTENSIONS = ("B", "H13", "H14", "T24")
"""How the codes begin of what can be found of header extensions and what they lead to."""
TABLES = ("T", "R", "C")
"""How the codes begin of what can be found of L1 entries, and of all that hangs on them."""
FIELDS = {field.name: field for field in Header.fields()}


def set_field(
    draft: Draft, name: str, value: int, code: str, why: str, *, lossy: bool = False
) -> None:
    """Plan *value* for a field of the header."""
    field = FIELDS[name]
    old = int.from_bytes(draft.overlay.read(field.offset, field.width), "big")
    if old == value:
        return
    draft.write(field.offset, value.to_bytes(field.width, "big"))
    shown = format(old, field.display), format(value, field.display)
    note(draft, Change(code, f"header field {name}: {why}", field.offset, 1, *shown, lossy))


def note(draft: Draft, change: Change) -> None:
    """Keep a change and why; what it answers was not left as it is after all."""
    draft.left.pop(change.code, None)
    draft.note(change)


def is_asked(draft: Draft, wanted: bool, *found: Problem) -> bool:
    """Tell whether repairs are *wanted*, and the image was found to have one of the problems."""
    return wanted and draft.now.recount is not None and draft.found(*found)


def refuse(draft: Draft, wanted: Wanted, code: str, why: str, option: str = "--lossy") -> bool:
    """Say why a finding stays, if its repair was asked for; return False: nothing is planned.

    *option* is what would help, and is left out where it was given.
    """
    if wanted.all or wanted.lossy:
        draft.leave(code, Left((code,), why, "" if wanted.lossy else option))
    return False


def make_room(draft: Draft, count: int, *mended: Problem) -> int:
    """Return the first of *count* unused clusters in a row; raises NoRoomError.

    What is found of *mended* does not lead behind the end of the file any more after this round.
    """
    others = [problem for problem in DANGLING if problem not in mended]
    return allocate(draft, count, anyway=not draft.found(*others))


def put(draft: Draft, offset: int, data: bytes) -> None:
    """Plan *data* at *offset*, in the last cluster of the file behind its end too."""
    draft.overlay.grow(offset + len(data))
    draft.write(offset, data)


def reveal(draft: Draft, *begins: str) -> None:
    """Say that structures come in sight that were not checked before: they may be damaged too.

    Findings whose code *begins* so are then not new ones.
    """
    draft.expected.update(code for code in CATALOGUE if code.startswith(begins))
