"""The passes of a repair, lowest first, and the plan that they make together."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from qfix.change.draft import ALLOWED, Left
from qfix.change.plan import run_rounds
from qfix.change.rehearse import faults
from qfix.errors import Status
from qfix.problems import Safety, Severity
from qfix.problems import refcounts as refcounts_found
from qfix.repair import (
    bitmaps,
    copied,
    distrust,
    extensions,
    extent,
    guesses,
    headers,
    l1,
    l2,
    marks,
    refcounts,
    reftable,
    reuse,
    snapshots,
    split,
    width,
)
from qfix.repair.misread import reason_to_keep_off

if TYPE_CHECKING:
    from collections.abc import Callable

    from qfix.change.draft import Draft
    from qfix.repair.wanted import Wanted

    Planner = Callable[[Draft, Wanted], bool]


def plan_repair(draft: Draft, wanted: Wanted, withheld: list[tuple[int, int]]) -> None:
    """Plan what *wanted* asks for, in rounds; the overlay is examined last.

    *withheld* are the runs of leaked clusters that earlier changes kept. Damaged snapshots come
    before the tables, for what they lead to may be none.
    """
    draft.lossy = wanted.lossy
    if draft.now.image is None or draft.now.recount is None:
        run_rounds(draft, [_asked(_header_alone, wanted)])
    if draft.now.image is not None and draft.now.recount is not None:
        run_rounds(draft, [_asked(planner, wanted) for planner in HEADER])
        _plan_tables(draft, wanted, withheld)
    _settle(draft, wanted)


def _plan_tables(draft: Draft, wanted: Wanted, withheld: list[tuple[int, int]]) -> None:
    """Plan what loses nothing to its end, and then, where that is asked for, what does."""
    why_not = reason_to_keep_off(draft)
    if why_not:
        draft.withdraw()
        draft.leave("kept-off", why_not)
        return
    planners: list[Planner] = [
        *HEADER,
        *snapshots.PLANNERS,
        l1.clear_l1_bits,
        l2.clear_l2_bits,
        distrust.distrust_shared,
        guesses.restore_lost_tables,
        guesses.restore_from_neighbours,
        l2.give_up_l2_entries,
        l1.give_up_bogus_tables,
        reftable.rebuild_refcount_structure,
        l1.give_up_l1_entries,
        split.split_l2_tables,
        split.part_metadata,
        reuse.copy_shared_clusters,
        partial(refcounts.store_references, withheld=withheld),
        copied.set_copied_flags,
        *bitmaps.PLANNERS,
        marks.clear_marks,
    ]
    for part in (wanted._replace(lossy=False), wanted) if wanted.lossy else (wanted,):
        draft.lossy = part.lossy
        draft.bogus = draft.owners = None
        run_rounds(draft, [_asked(planner, part) for planner in planners])
        if wanted.lossy and not part.lossy and faults(draft):
            draft.withdraw()
    if finish(draft):
        draft.examine()


HEADER: tuple[Planner, ...] = (
    width.set_refcount_width,
    *headers.PLANNERS,
    *extensions.PLANNERS,
    extent.trim_l1_size,
)
"""What makes sure that the tables are read by a header that is right."""


def _settle(draft: Draft, wanted: Wanted) -> None:
    """Withdraw a plan that can't be finished without losses; forget reasons that are past."""
    if not draft.changes:
        draft.withdraw()
    worse = [] if wanted.lossy else faults(draft)
    if worse:
        codes = tuple(found.problem.code for found in draft.before.findings)
        draft.withdraw()
        why = f"a repair without losses does not come out even, so it was dropped: {worse[0]}"
        draft.leave("unfinished", Left(codes, why, "--lossy"))
    if not draft.found(refcounts_found.LEAKED, refcounts_found.TOO_HIGH):
        draft.left.pop("leaks", None)
        draft.withheld.clear()
    if not draft.found(refcounts_found.TOO_LOW):
        draft.left.pop("reuse", None)
    if not any(found.problem.severity in GRAVE for found in draft.now.findings):
        draft.left = {key: left for key, left in draft.left.items() if key == "kept-off"}
    _say_what_is_left(draft, wanted)


GRAVE = (Severity.ERROR, Severity.LEAK)


def _say_what_is_left(draft: Draft, wanted: Wanted) -> None:
    """Name what was found, asked for, and is still there."""
    told = {code for left in draft.left.values() for code in left.codes}
    lossy: list[str] = []
    manual: list[str] = []
    for found in draft.now.findings if wanted.all else ():
        problem = found.problem
        if problem.code in told or problem.status is Status.GOOD:
            continue
        if problem.safety is Safety.LOSSY and not wanted.lossy:
            lossy.append(problem.code)
        elif problem.severity is Severity.ERROR:
            manual.append(problem.code)
    if lossy:
        why = f"{', '.join(lossy)} can't be repaired without a loss or a guess"
        draft.leave("lossy", Left(tuple(lossy), why, "--lossy"))
    if manual:
        why = f"{', '.join(manual)} could not be repaired: qfix --explain says what to do"
        draft.leave("manual", Left(tuple(manual), why))
    if draft.found(refcounts_found.OVERFLOW):
        why = "some clusters have more references than refcounts of this width can count"
        draft.leave("width", Left((refcounts_found.OVERFLOW.code,), why))


def _asked(planner: Planner, wanted: Wanted) -> Callable[[Draft], bool]:
    return lambda draft: planner(draft, wanted)


def _header_alone(draft: Draft, wanted: Wanted) -> bool:
    return draft.now.image is not None and headers.set_magic(draft, wanted)


def finish(draft: Draft) -> bool:
    """Do what every writer has to: unknown autoclear bits go, stale bitmaps are marked."""
    if not draft.changes:
        return False
    planned = headers.clear_unknown_autoclear(draft)
    size = draft.image.geometry.virtual_size
    told = (part for part in draft.ranges if part.layer == 0 and part.kind in ALLOWED)
    if draft.shared or any((part.start < size).any() for part in told):
        planned |= bitmaps.mark_in_use(draft)
    return planned
