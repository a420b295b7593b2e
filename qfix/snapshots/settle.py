"""What follows from new tables: refcounts and COPIED flags, marks, and what becomes free."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from qfix.change.draft import SUSPECT, Change
from qfix.change.plan import run_rounds
from qfix.layout.header import CORRUPT, DIRTY
from qfix.problems import header
from qfix.repair.copied import set_copied_flags
from qfix.repair.marks import damage, refcount_errors, set_marks
from qfix.repair.passes import finish
from qfix.repair.refcounts import store_references
from qfix.repair.reftable import rebuild_refcount_structure
from qfix.repair.wanted import Wanted
from qfix.snapshots.given_up import free_what_it_led_to
from qfix.snapshots.operate import CODE

if TYPE_CHECKING:
    from qfix.change.draft import Draft

REFCOUNTS = Wanted("errors")
WORDS = {
    "R": "refcounts of {units} host clusters follow the references",
    "C": "{units} COPIED flags follow the refcounts",
}


def settle(draft: Draft, *, reverted: bool) -> None:
    """Let refcounts and COPIED flags be right for the tables as planned; tell what becomes free.

    Leaks that were there stay, but for those of an active layer that is *reverted*. The overlay is
    left examined.
    """
    first, left, kept = len(draft.changes), dict(draft.left), list(draft.withheld)
    told = len(draft.ranges)
    planners = (
        rebuild_refcount_structure,
        partial(store_references, withheld=[]),
        set_copied_flags,
    )
    run_rounds(draft, [partial(planner, wanted=REFCOUNTS) for planner in planners])
    if reverted and free_what_it_led_to(draft, CODE):
        draft.examine()
    draft.left, draft.withheld = left, kept
    draft.ranges[told:] = [part for part in draft.ranges[told:] if part.kind != SUSPECT]
    _join_changes(draft, first)
    clear_marks(draft)
    _tell_what_is_free(draft)


def clear_marks(draft: Draft) -> None:
    """Let marks go when nothing is left that they stand for; the overlay is left examined."""
    marks = 0
    if draft.found(header.DIRTY_MARK) and not refcount_errors(draft.now):
        marks |= DIRTY
    if draft.found(header.CORRUPT_MARK) and not damage(draft.now):
        marks |= CORRUPT
    if set_marks(draft, clear=marks) | finish(draft):
        draft.examine()


def _join_changes(draft: Draft, first: int) -> None:
    """Let one change stand for all that follow from new tables and answer nothing found before."""
    found = {one.problem.code for one in draft.before.findings}
    made, units = draft.changes[first:], dict.fromkeys(WORDS, 0)
    del draft.changes[first:]
    for change in made:
        if change.code in found or change.code[0] not in WORDS:
            draft.changes.append(change)
        else:
            units[change.code[0]] += change.units
    for letter, text in WORDS.items():
        if units[letter]:
            words = text.format(units=units[letter])
            draft.note(Change(CODE, words, None, units[letter]))
    for code in list(draft.omitted):
        if code not in found and code[0] in WORDS:
            del draft.omitted[code]


def _tell_what_is_free(draft: Draft) -> None:
    old, new = draft.before.recount, draft.now.recount
    if old is None or new is None:
        return
    size = min(old.tally.size, new.tally.size)
    gone = int(((old.tally.counted[:size] > 0) & (new.tally.counted[:size] == 0)).sum())
    draft.gain += gone * draft.image.geometry.cluster_size
