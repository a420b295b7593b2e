"""How an operation is planned on an image that may be damaged: the first way that proves right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from qfix.change.allocate import NoRoomError
from qfix.change.draft import Left
from qfix.change.rehearse import faults
from qfix.errors import RefusedError
from qfix.problems import Severity, refcounts
from qfix.recount.l1 import ACTIVE_LAYER
from qfix.repair.passes import plan_repair
from qfix.repair.wanted import Wanted
from qfix.snapshots.settle import clear_marks, settle

if TYPE_CHECKING:
    from collections.abc import Callable

    from qfix.change.draft import Draft

LOSSLESS = Wanted("all")
CARRIED = (refcounts.TOO_LOW, refcounts.USED_BUT_FREE, refcounts.L1_COPIED, refcounts.L2_COPIED)
"""What damage brings that one layer had, and two have then."""

MOST_ROWS = 1000


class Way(NamedTuple):
    """One way of planning.

    A `literal` one writes to nothing that damaged tables lead to as guest data. `bare`: refcounts
    stay as they are. `repairs`: what can be repaired without a loss is repaired first. `carries`:
    damage that the active layer takes over from a snapshot may make more findings.
    """

    literal: bool = False
    bare: bool = False
    repairs: bool = False
    carries: bool = False


REVERTING = (
    Way(),
    Way(literal=True),
    Way(carries=True),
    Way(literal=True, carries=True),
    Way(repairs=True),
    Way(repairs=True, literal=True, carries=True),
)
DELETING = (
    Way(),
    Way(literal=True),
    Way(bare=True),
    Way(bare=True, literal=True),
    Way(repairs=True),
)


def attempt(
    draft: Draft,
    repair: Callable[[Draft], None] | None,
    act: Callable[[Draft], bool],
    *,
    reverts: bool,
) -> None:
    """Plan *act*, after *repair*, in the first way that the rehearsal agrees to.

    Raises RefusedError where it agrees to none.
    """
    why = ""
    for way in REVERTING if reverts else DELETING:
        if way.repairs and repair is not None:
            continue
        if why:
            draft.left.clear()
            draft.withdraw()
        try:
            found = _plan(draft, repair, act, way, reverts=reverts)
        except NoRoomError as error:
            found = [str(error)]
        if not found:
            return
        why = why or found[0]
    option = "" if repair else ", which may be given together with this"
    raise RefusedError(
        f"{draft.overlay.path}: damage elsewhere in the image is in the way ({why}), so nothing was"
        f" changed: repair it first, with --fix all, or else --fix all --lossy{option}"
    )


def _plan(
    draft: Draft,
    repair: Callable[[Draft], None] | None,
    act: Callable[[Draft], bool],
    way: Way,
    *,
    reverts: bool,
) -> list[str]:
    if repair is not None:
        repair(draft)
    elif way.repairs:
        plan_repair(draft, LOSSLESS, [])
    draft.literal = way.literal
    if not act(draft):
        return faults(draft)
    if way.bare:
        why = "refcounts stay as they are, for damaged tables lead to where they are stored"
        draft.leave("refcounts", Left((), why, "--fix all"))
        clear_marks(draft)
    else:
        settle(draft, reverted=reverts)
    if reverts:
        _tell_what_is_carried_over(draft)
    if way.carries:
        draft.expected.update(problem.code for problem in CARRIED)
    return faults(draft)


def _tell_what_is_carried_over(draft: Draft) -> None:
    """Name the damage that the active layer has taken over from a snapshot."""
    names = [
        f"{found.problem.code} {found.problem.name}"
        for found in draft.now.findings
        if found.problem.severity is Severity.ERROR
        and any(_is_in_active(row) for row in found.rows(MOST_ROWS))
    ]
    if names:
        why = f"the snapshot is damaged, and the active layer is so too then: {', '.join(names)}"
        draft.leave("carried", Left((), why, "--fix all"))


def _is_in_active(row: dict[str, Any]) -> bool:
    """Tell whether a finding touches guest data of the active layer."""
    if "guests" in row:
        return any(guest[0] == ACTIVE_LAYER for guest in row["guests"])
    if "layers" in row:
        return any(layer == ACTIVE_LAYER for layer, _ in row["layers"])
    return "guest" in row and row.get("layer") == ACTIVE_LAYER
