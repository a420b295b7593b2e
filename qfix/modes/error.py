"""error: every finding of an image with its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qfix.examine import examine
from qfix.modes.look import (
    IN_USE,
    emit,
    hidden_line,
    opened,
    say,
    shown,
    shown_path,
    were_kept_back,
)
from qfix.report import text
from qfix.report.header import header_lines
from qfix.report.jsonout import record
from qfix.report.page import closing_lines, meaning
from qfix.report.progress import progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.examine import Diagnosis
    from qfix.modes.options import Options


def error(path: str, options: Options) -> Diagnosis:
    """Examine an image and list everything that was found."""
    with opened(path, options) as looked:
        with progress() as tell:
            diagnosis = examine(looked.file, backing=not options.base, tell=tell)
        if options.json:
            emit(
                record(
                    path,
                    diagnosis,
                    shown(diagnosis, options),
                    in_use=looked.in_use,
                    interrupted=looked.interrupted,
                ),
                options,
            )
        else:
            say(listing(path, diagnosis, options, in_use=looked.in_use))
    return diagnosis


def listing(path: str, diagnosis: Diagnosis, options: Options, *, in_use: bool) -> Iterator[str]:
    """Yield the lines of the list."""
    yield f"image: {shown_path(path)}"
    if options.header:
        yield from header_lines(diagnosis.head)
    findings = shown(diagnosis, options)
    for found in findings:
        yield ""
        yield from text.kind_lines(found, diagnosis.image, None, show_flags=options.flags)
        if options.verbosity > 0:
            yield f"  means: {meaning(found.problem, diagnosis)}"
            yield f"  to do: {found.problem.advice}"
    yield ""
    yield from hidden_line(diagnosis, findings)
    kept_back = were_kept_back(path, options.journal, diagnosis)
    yield from closing_lines(diagnosis, IN_USE if in_use else "", kept_back=kept_back)
    if findings and options.verbosity >= 0:
        yield f"qfix --explain {findings[0].problem.code}   says what a kind means, and what to do"
