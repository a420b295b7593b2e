"""The road that every change takes: lock, plan, rehearsal, journal, apply, verify."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from qfix import locks
from qfix.change import journal
from qfix.change.apply import FileDisk, carry_out, overwrite
from qfix.change.draft import LOST, Draft
from qfix.change.overlay import Overlay
from qfix.change.pieces import Amendment
from qfix.change.rehearse import rehearse, told_changes
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
    for `ask` to show, and stops nothing. Without `undo` no journal is kept.
    """

    asked: str
    dry_run: bool = False
    journal: str | None = None
    backing: bool = True
    force_share: bool = False
    deliberate: bool = False
    undo: bool = True
    ask: Callable[[Draft], bool] | None = None
    warn: Callable[[str], None] | None = None
    tell: Callable[[float], None] | None = None


class Outcome(NamedTuple):
    """What a change came to: `after` is the diagnosis of the image as it now is.

    `applied` tells whether it was written; `number` is that of the journal's record, None where
    there is none.
    """

    draft: Draft
    after: Diagnosis
    number: int | None
    journal: str
    applied: bool = False


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
        kept = request.undo and not request.dry_run
        place = journal.locate(path, request.journal) if kept else ""
        _refuse_interrupted(path, request)
        before = examine(file, backing=request.backing, tell=request.tell)
        draft = Draft.of(Overlay(file), before, backing=request.backing)
        stack.callback(lambda: draft.overlay.close())  # noqa: PLW0108  (a plan may take a new one)
        plan(draft)
        if not draft.overlay.is_changed:
            yield Outcome(draft, before, None, place)
            return
        if request.deliberate:
            told_changes(draft)
        else:
            rehearse(draft)
        if request.dry_run:
            yield Outcome(draft, draft.now, None, place)
            return
        if request.ask and not request.ask(draft):
            raise RefusedError(f"{path}: not confirmed, so nothing was changed")
        number, planned = _write(file, draft, request)
        yield Outcome(draft, _verify(file, draft, request, planned), number, place, applied=True)


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


def _write(
    file: ImageFile, draft: Draft, request: Request
) -> tuple[int | None, list[tuple[int, int, bytes]]]:
    """Write the plan; return the number of its record, and `_digests` of what was planned."""
    image, overlay = draft.before.image, draft.overlay
    marked = image is not None and image.header.version >= MARKED_VERSION
    if marked:
        overlay.touch(0)
    planned = _digests(overlay)
    if not request.undo:
        if overlay.size != file.size:
            raise ValueError("a change that gives the file another size needs a journal")
        pieces = partial(overlay.pieces, header=marked, descending=overlay.moves_up)
        overwrite(FileDisk(file), pieces, marked=marked)
        return None, planned
    amendment = Amendment(
        old_size=file.size,
        new_size=overlay.size,
        pieces=overlay.pieces(header=marked),
        asked=request.asked,
        report=_report(draft),
        marked=marked,
    )
    with journal.open_journal(file, request.journal) as book:
        return carry_out(FileDisk(file), book, amendment), planned


def _digests(overlay: Overlay) -> list[tuple[int, int, bytes]]:
    """Return offset, length and digest of all that is planned, chunk by chunk.

    What an overlay borrows from the file itself can't be read from it any more afterwards.
    """
    return [(at, len(data), _digest(data)) for at, data in overlay.planned()]


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


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


def _verify(
    file: ImageFile, draft: Draft, request: Request, planned: list[tuple[int, int, bytes]]
) -> Diagnosis:
    """Look at the image once more, from disk; raises WriteError where it is not as *planned*."""
    written = file.measured()
    for offset, length, digest in planned:
        file.forget(offset, length)
        if _digest(written.read(offset, length)) != digest:
            raise _not_as_planned(request, file.path, f"the bytes from {offset:#x} on")
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
        raise _not_as_planned(request, file.path, "what a new check finds")
    return after


def _not_as_planned(request: Request, path: str, what: str) -> WriteError:
    kept = "The journal holds the bytes before and after: copy both files before anything else"
    then = kept if request.undo else "There is no journal of it"
    return WriteError(
        f"{path}: {what} is not as planned after writing; the disk may be failing. {then}"
    )
