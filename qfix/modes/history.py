"""--undo, --redo and --resume: changes taken back, made again, or brought to their end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from qfix import locks
from qfix.change import journal
from qfix.examine import examine
from qfix.file import open_file
from qfix.modes.look import emit, note, say, shown, shown_path
from qfix.report.jsonout import record
from qfix.report.page import closing_lines, left_over
from qfix.report.progress import progress
from qfix.report.rows import journal_command, list_command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.change.journal import Record
    from qfix.examine import Diagnosis
    from qfix.modes.options import Options

DONE = {"undo": "Taken back", "redo": "Made again", "resume": "Finished"}


def history(path: str, options: Options) -> Diagnosis:
    """Carry out --undo, --redo or --resume under the lock, and check the image from disk."""
    from qfix.change import recover
    from qfix.change.apply import FileDisk

    act = {"undo": recover.undo, "redo": recover.redo, "resume": recover.resume}[options.history]
    with open_file(path, write=True) as file, locks.hold_for_writing(file.fd, path) as hold:
        if not hold.supported:
            note("warning: this file system does not take locks")
        with journal.open_journal(file, options.journal, create=False) as book:
            done = act(FileDisk(file), book, force=options.force)
        with progress() as tell:
            diagnosis = examine(file.measured(), backing=not options.base, tell=tell)
        place = journal.locate(path, options.journal)
        if options.json:
            made = record(path, diagnosis, shown(diagnosis, options), in_use=False)
            made["qfix"]["change"] = _described(done, options, place)
            emit(made, options)
        else:
            say(_page(path, diagnosis, done, options))
    return diagnosis


def _described(done: Record, options: Options, place: str) -> dict[str, Any]:
    return {"asked": f"--{options.history}", "journal": place, **done.described()}


def _page(path: str, diagnosis: Diagnosis, done: Record, options: Options) -> Iterator[str]:
    if options.verbosity >= 0:
        yield f"image: {shown_path(path)}"
        yield ""
    what = f"record {done.number} ({done.asked}, {done.time})"
    yield click.style(f"{DONE[options.history]}: {what}, byte for byte.", bold=True)
    if options.force:
        yield "It was forced: what was written to the image since may be lost, so check it."
    yield from left_over(diagnosis, options.verbosity)
    yield from closing_lines(diagnosis)
    if options.verbosity >= 0:
        yield "What to do next:"
        back = "undo" if done.state == "applied" and options.history != "undo" else "redo"
        if back == "undo" or done.kind == "undo":
            yield f"  {journal_command(path, back, options.journal)}   takes this step back"
        yield f"  {list_command(path)}   lists everything with its place"
