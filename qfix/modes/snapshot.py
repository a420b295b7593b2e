"""-A, -D, -E: revert to a snapshot, delete one or all, delete all others; by the one road."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qfix.change.road import withheld
from qfix.modes.carry import carry_out
from qfix.repair.passes import plan_repair
from qfix.repair.wanted import Wanted
from qfix.report.rows import shell_word
from qfix.snapshots.attempts import attempt
from qfix.snapshots.choose import choose, refuse_broken
from qfix.snapshots.operate import delete, revert

if TYPE_CHECKING:
    from qfix.change.draft import Draft
    from qfix.examine import Diagnosis
    from qfix.modes.options import Options

EVERY = "all"


def snapshot(path: str, options: Options) -> Diagnosis:
    """Do what is asked with snapshots, after a repair if that is asked for too."""
    wanted = Wanted(options.fix, options.lossy)
    repairs = options.fix != "none"
    earlier = withheld(path, options.journal) if repairs else []

    def repair(draft: Draft) -> None:
        plan_repair(draft, wanted, earlier)

    def act(draft: Draft) -> bool:
        refuse_broken(draft, wanted.words if repairs else "")
        return _operate(draft, options)

    def plan(draft: Draft) -> None:
        attempt(draft, repair if repairs else None, act, reverts=options.apply is not None)

    asks = options.delete in (None, EVERY) or options.lossy
    asked = (f"{wanted.words} " if repairs else "") + _words(options)
    return carry_out(path, options, asked, plan, asks=asks, did="Done")


def _words(options: Options) -> str:
    for letter, word in (("A", options.apply), ("D", options.delete), ("E", options.exclude)):
        if word is not None:
            return f"-{letter} {shell_word(word)}"
    raise ValueError("no snapshot is asked for")


def _operate(draft: Draft, options: Options) -> bool:
    items = draft.image.snapshots
    if options.apply is not None:
        return revert(draft, choose(draft, options.apply))
    if options.delete == EVERY:
        return delete(draft, items)
    if options.delete is not None:
        return delete(draft, [choose(draft, options.delete)])
    if options.exclude is not None:
        kept = choose(draft, options.exclude)
        return delete(draft, [item for item in items if item.index != kept.index])
    raise ValueError("no snapshot is asked for")
