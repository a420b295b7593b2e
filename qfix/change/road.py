"""The road that every change takes: lock, plan, rehearsal, journal, apply, verify."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from qfix import locks
from qfix.change import journal
from qfix.change.apply import FileDisk, carry_out
from qfix.change.draft import LOST, Draft
from qfix.change.overlay import Overlay
from qfix.change.pieces import Amendment
from qfix.change.rehearse import MOST_TOLD, deliberate_changes, rehearse
from qfix.errors import JournalError, RefusedError, WriteError
from qfix.examine import Diagnosis, examine
from qfix.file import ImageFile, open_file
from qfix.problems import Severity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MARKED_VERSION = 3


class Request(NamedTuple):
    """What a change needs to know of the command line.

    `ask` is given the draft before anything is written and tells whether to go on; `warn` says
    something beside the results. A `deliberate` change may make the image worse: its rehearsal is
    for `ask` to show, and stops nothing.
    """

    asked: str
    dry_run: bool = False
    journal: str | None = None
    backing: bool = True
    force_share: bool = False
    deliberate: bool = False
    ask: Callable[[Draft], bool] | None = None
    warn: Callable[[str], None] | None = None
    tell: Callable[[float], None] | None = None


class Outcome(NamedTuple):
    """What a change came to: `after` is the diagnosis of the image as it now is.

    `number` is that of the journal's record, None where nothing was written.
    """

    draft: Draft
    after: Diagnosis
    number: int | None
    journal: str


@contextmanager
def change(path: str, request: Request, plan: Callable[[Draft], None]) -> Iterator[Outcome]:
    """Take a change down the road; the image stays open, and held, while the block runs.

    *plan* writes into the draft, whose overlay it leaves examined. With a dry run the file is
    opened for reading only and nothing is written anywhere. Raises a QfixError that says why it
    could not be done; nothing was changed then, or the message says how to go on.
    """
    with ExitStack() as stack:
        file = stack.enter_context(open_file(path, write=not request.dry_run))
        _take_locks(stack, file, request)
        place = journal.locate(path, request.journal) if not request.dry_run else ""
        _refuse_interrupted(path, request)
        before = examine(file, backing=request.backing, tell=request.tell)
        draft = Draft.of(Overlay(file), before, backing=request.backing)
        stack.callback(lambda: draft.overlay.close())  # noqa: PLW0108  (a plan may take a new one)
        plan(draft)
        if not draft.overlay.is_changed:
            yield Outcome(draft, before, None, place)
            return
        if request.deliberate:
            draft.differs = list(islice(deliberate_changes(draft), MOST_TOLD))
        else:
            rehearse(draft)
        if request.dry_run:
            yield Outcome(draft, draft.now, None, place)
            return
        if request.ask and not request.ask(draft):
            raise RefusedError(f"{path}: not confirmed, so nothing was changed")
        number = _write(file, draft, request)
        yield Outcome(draft, _verify(file, draft, request), number, place)


def _take_locks(stack: ExitStack, file: ImageFile, request: Request) -> None:
    if request.dry_run:
        if not request.force_share:
            locks.refuse_if_written(file.fd, file.path)
        return
    hold = stack.enter_context(locks.hold_for_writing(file.fd, file.path))
    if not hold.supported and request.warn:
        request.warn(
            "warning: this file system does not take locks; make sure that nothing else uses the"
            " image while it is changed"
        )


def _refuse_interrupted(path: str, request: Request) -> None:
    """Raise RefusedError where a change of the image is interrupted.

    What only a writing run can settle is left to the opening of the journal.
    """
    pending = journal.pending(path, request.journal) or journal.pending(path)
    if pending and (pending.record or request.dry_run):
        raise RefusedError(
            f"{path}: a change of this image was interrupted (journal {pending.journal});"
            " finish it with --resume or take it back with --undo first"
        )


def withheld(path: str, option: str | None) -> list[tuple[int, int]]:
    """Return the runs of leaked clusters (first, count) that earlier changes kept on purpose."""
    try:
        reports = journal.reports(path, option)
    except JournalError:
        return []  # the journal is refused, or settled, when it is opened
    return [
        (int(first), int(count))
        for report in reports
        for first, count in report.get("withheld", ())
    ]


def _write(file: ImageFile, draft: Draft, request: Request) -> int:
    image = draft.before.image
    marked = image is not None and image.header.version >= MARKED_VERSION
    if marked:
        draft.overlay.touch(0)
    amendment = Amendment(
        old_size=file.size,
        new_size=draft.overlay.size,
        pieces=draft.overlay.pieces(header=marked),
        asked=request.asked,
        report=_report(draft),
        marked=marked,
    )
    with journal.open_journal(file, request.journal) as book:
        return carry_out(FileDisk(file), book, amendment)


def _report(draft: Draft) -> dict[str, Any]:
    """Return what the journal keeps of a plan."""
    return {
        "before": draft.before.status.verdict,
        "after": draft.now.status.verdict,
        "changes": len(draft.changes) + sum(draft.omitted.values()),
        "lost": draft.guest_ranges(LOST)[:1000],
        "snapshots-dropped": draft.dropped,
        "bitmaps-dropped": draft.bitmaps,
        "withheld": draft.withheld,
    }


def _verify(file: ImageFile, draft: Draft, request: Request) -> Diagnosis:
    """Look at the image once more, from disk; raises WriteError where it is not as planned."""
    written = file.measured()
    for offset, data in draft.overlay.planned():
        file.forget(offset, len(data))
        if written.read(offset, len(data)) != data:
            raise _not_as_planned(file.path, f"the bytes from {offset:#x} on")
    after = examine(written, backing=request.backing, tell=request.tell)
    expected, found = (
        [
            (item.problem.code, item.units)
            for item in diagnosis.findings
            if item.problem.severity in (Severity.ERROR, Severity.LEAK)
        ]
        for diagnosis in (draft.now, after)
    )
    if expected != found:
        raise _not_as_planned(file.path, "what a new check finds")
    return after


def _not_as_planned(path: str, what: str) -> WriteError:
    return WriteError(
        f"{path}: {what} is not as planned after writing; the disk may be failing."
        " The journal holds the bytes before and after: copy both files before anything else"
    )
