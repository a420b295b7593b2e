"""A change by the one road: asked about, told before and after."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from qfix.change.draft import LOST, SUSPECT
from qfix.change.rehearse import news, told_changes
from qfix.change.road import Request, change
from qfix.errors import RefusedError
from qfix.modes.look import confirmed, emit, is_terminal, note, say, shown, shown_path
from qfix.report import text
from qfix.report.changes import change_record, left_lines, plan_lines, stay_lines
from qfix.report.jsonout import record
from qfix.report.page import closing_lines, left_over, repair_level
from qfix.report.progress import progress
from qfix.report.rows import journal_command, repair_command
from qfix.report.summary import qemu_counts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qfix.change.draft import Draft
    from qfix.change.road import Outcome
    from qfix.examine import Diagnosis
    from qfix.modes.options import Options
    from qfix.problems import Findings

NO_WAY_BACK = (
    "no journal is kept (--no-undo): this can't be taken back, and a crash meanwhile leaves the"
    " image half written, with the corrupt mark where it has one"
)


def carry_out(
    path: str,
    options: Options,
    asked: str,
    plan: Callable[[Draft], None],
    *,
    deliberate: bool = False,
    careful: bool = False,
    asks: bool = True,
    did: str = "",
) -> Diagnosis:
    """Take a plan down the road and print what came of it.

    A *deliberate* change is made although the image gets worse by it, or the guest reads something
    else, once that was shown: see `_ask_deliberate`. A *careful* one asks about the latter too.
    One that *asks* nothing is made without a question; *did* is the word for having made it.
    """
    question = partial(_ask_deliberate, careful=careful) if deliberate else _ask
    if options.no_undo and not options.dry_run:
        note(NO_WAY_BACK)
    with progress() as tell:
        request = Request(
            asked=asked,
            dry_run=options.dry_run,
            journal=options.journal,
            backing=not options.base,
            force_share=options.force_share,
            deliberate=deliberate,
            undo=not options.no_undo,
            ask=None if options.yes or not asks else question(path, options),
            warn=note,
            tell=tell,
        )
        with change(path, request, plan) as outcome:
            if options.json:
                emit(_record(path, outcome, asked, options, deliberate=deliberate), options)
            elif options.several:
                click.echo(_one_line(path, outcome, options))
            else:
                say(_page(path, outcome, asked, options, deliberate=deliberate, did=did))
            return outcome.after


def _ask(path: str, options: Options) -> Callable[[Draft], bool]:
    """Return what asks on a terminal before something is given up."""

    def ask(draft: Draft) -> bool:
        if not draft.is_lossy:
            return True
        lines = [*plan_lines(draft), *left_lines(draft), *stay_lines(draft)]
        return confirmed(path, lines, "Give this up?", options)

    return ask


def _ask_deliberate(
    path: str, options: Options, *, careful: bool = False
) -> Callable[[Draft], bool]:
    """Return what asks on a terminal before harm is done, and refuses where there is none.

    Harm is findings that are made, a change that can't be taken back and, where it is *careful*,
    guest data that reads differently.
    """

    def ask(draft: Draft) -> bool:
        against = list(_against(draft, options, careful=careful))
        if not against:
            return True
        if not is_terminal():
            raise RefusedError(
                f"{path}: {'; '.join(against)}; nothing was changed."
                " -n shows more; --yes makes the change all the same"
            )
        lines = [*plan_lines(draft), *_news_lines(draft, whole=True)]
        return confirmed(path, lines, "Make this change all the same?", options)

    return ask


def _made(draft: Draft, found: list[Findings]) -> str:
    """Say which kinds of findings a change brings; those of an image not checked were there."""
    count = f"{len(found)} finding" if len(found) == 1 else f"{len(found)} kinds of findings"
    does = "makes" if draft.before.recount or not draft.now.recount else "brings to light"
    return f"{does} {count}: " + ", ".join(
        f"{one.problem.code} {one.problem.name}" for one in found
    )


def _against(draft: Draft, options: Options, *, careful: bool) -> Iterator[str]:
    """Yield what a deliberate change should not be made for without a question."""
    found = news(draft)
    if found:
        yield f"this {_made(draft, found)}"
    reads = told_changes(draft) if careful else []
    if reads:
        yield f"what the guest reads changes: {reads[0]}" + (", ..." if reads[1:] else "")
    if options.no_undo:
        yield "with --no-undo this can't be taken back"


def _news_lines(draft: Draft, *, whole: bool = False) -> Iterator[str]:
    """Yield what a deliberate change makes worse, and what the guest will read differently.

    The findings themselves are told only if the *whole* of them is asked for.
    """
    found = news(draft)
    if found:
        yield click.style(f"This {_made(draft, found)}", fg="red")
    for item in found if whole else ():
        yield from text.kind_lines(item, draft.now.image, text.FEW)
    told = told_changes(draft)
    if told:
        yield click.style("What the guest reads changes:", fg="yellow")
    for line in told:
        yield f"  {line}"


def _record(
    path: str, outcome: Outcome, asked: str, options: Options, *, deliberate: bool
) -> dict[str, Any]:
    made = record(path, outcome.after, shown(outcome.after, options), in_use=False)
    before, after = qemu_counts(outcome.draft.before), qemu_counts(outcome.after)
    for name in ("corruptions", "leaks"):
        made[f"{name}-fixed"] = max(0, before[name] - after[name])
    made["qfix"]["change"] = change_record(
        outcome, asked, dry_run=options.dry_run, deliberate=deliberate
    )
    return made


def _one_line(path: str, outcome: Outcome, options: Options) -> str:
    before, after = outcome.draft.before.status, outcome.after.status
    count = len(outcome.draft.changes) + sum(outcome.draft.omitted.values())
    did = "would change" if options.dry_run else "changed"
    what = f"{did} {count} things" if count else "nothing to change"
    return f"{shown_path(path)}: {before.verdict} -> {after.verdict} ({what})"


def _page(
    path: str, outcome: Outcome, asked: str, options: Options, *, deliberate: bool, did: str
) -> Iterator[str]:
    draft = outcome.draft
    limit = None if options.verbosity > 0 else text.FEW * 7
    if options.verbosity >= 0:
        yield f"image: {shown_path(path)}"
        yield from text.pairs(_before(draft, asked))
        yield ""
        yield from plan_lines(draft, limit=limit)
        yield from left_lines(draft)
        if deliberate:
            yield from _news_lines(draft)
        yield ""
    yield _done(outcome, options, deliberate=deliberate, did=did)
    planned = options.dry_run and bool(draft.changes)
    yield from left_over(outcome.after, options.verbosity, planned=planned)
    yield from closing_lines(outcome.after, kept_back=bool(draft.withheld))
    steps = list(_next_steps(path, outcome, asked, options, deliberate=deliberate, did=did))
    if steps and options.verbosity >= 0:
        yield "What to do next:"
        yield from steps


def _next_steps(
    path: str, outcome: Outcome, asked: str, options: Options, *, deliberate: bool, did: str
) -> Iterator[str]:
    draft = outcome.draft
    if options.dry_run and draft.changes:
        asks = ", after a question (--yes answers it)" if deliberate and news(draft) else ""
        yield f"  {repair_command(path, asked)}   makes this change{asks}"
    elif outcome.number:
        yield f"  {journal_command(path, 'undo', options.journal)}   takes it back, byte for byte"
    for left in draft.left.values():
        if left.option.startswith("--") and left.option not in asked:
            yield f"  {repair_command(path, _with(asked, left.option))}   goes on with what is left"
            break
    else:
        level = repair_level(outcome.after) if did and "--fix" not in asked else ""
        if level:
            command = repair_command(path, f"--fix {level}")
            yield f"  {command} -n   shows what a repair would change of what is left"
    yield from _steps(outcome)


def _with(asked: str, option: str) -> str:
    return option if option.startswith("--fix") else f"{asked} {option}"


def _before(draft: Draft, asked: str) -> Iterator[tuple[str, object]]:
    found = [f"{item.problem.code} {item.problem.name}" for item in draft.before.findings]
    more = f", and {len(found) - 6} more kinds" if len(found) > 6 else ""
    status = draft.before.status
    yield "asked for", asked
    yield "before", f"{status.verdict} (status {int(status)})"
    yield "found", (", ".join(found[:6]) + more) or "nothing"


def _done(outcome: Outcome, options: Options, *, deliberate: bool, did: str) -> str:
    count = len(outcome.draft.changes) + sum(outcome.draft.omitted.values())
    if not count:
        why = "it is so already" if deliberate or did else "there is nothing that this could repair"
        return f"Nothing was changed: {why}."
    changes = "1 change" if count == 1 else f"{count} changes"
    if options.dry_run:
        agrees = "" if deliberate else ", and the rehearsal agrees"
        return f"Nothing was written: {changes} would be made{agrees}."
    journal = (
        f"journal {shown_path(outcome.journal)}, record {outcome.number}"
        if outcome.number
        else "no journal was kept (--no-undo), so this can't be taken back"
    )
    did = did or ("Done" if deliberate else "Repaired")
    return f"{did}: {changes} written and checked from disk; {journal}."


def _steps(outcome: Outcome) -> Iterator[str]:
    draft = outcome.draft
    if any(part.kind in (SUSPECT, LOST) for part in draft.ranges):
        yield "  check the file systems inside the guest before you rely on them"
    if draft.bitmaps:
        yield "  make the next backup a full one"
