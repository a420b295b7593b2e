"""check: one page on an image, or a line each for several."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

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
from qfix.report.page import (
    closing_lines,
    entry_lines,
    gravest_first,
    looked_at,
    meaning,
    next_steps,
)
from qfix.report.progress import progress
from qfix.report.summary import qemu_counts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.examine import Diagnosis
    from qfix.modes.options import Options
    from qfix.problems import Findings


def check(path: str, options: Options) -> Diagnosis:
    """Examine an image and print what matters of it."""
    with opened(path, options) as looked:
        with progress() as tell:
            diagnosis = examine(looked.file, backing=not options.base, tell=tell)
        findings = shown(diagnosis, options)
        if options.json:
            emit(
                record(
                    path, diagnosis, findings, in_use=looked.in_use, interrupted=looked.interrupted
                ),
                options,
            )
        elif options.several:
            click.echo(one_line(path, diagnosis))
        else:
            say(page(path, diagnosis, findings, options, in_use=looked.in_use))
    return diagnosis


def one_line(path: str, diagnosis: Diagnosis) -> str:
    """Return what a check of one among several images says."""
    counts = qemu_counts(diagnosis)
    cells = [f"{found.problem.code} {found.problem.name}" for found in diagnosis.findings]
    if counts["leaks"]:
        cells.append(f"{counts['leaks']} leaked clusters")
    rest = f" ({', '.join(cells[:4])}{', ...' if len(cells) > 4 else ''})" if cells else ""
    return f"{shown_path(path)}: {diagnosis.status.verdict}{rest}"


def page(
    path: str,
    diagnosis: Diagnosis,
    findings: list[Findings],
    options: Options,
    *,
    in_use: bool,
) -> Iterator[str]:
    """Yield the lines of the page."""
    if options.verbosity >= 0:
        yield f"image: {shown_path(path)}"
        yield from text.pairs(looked_at(diagnosis))
        if options.verbosity > 0:
            yield from text.pairs(entry_lines(diagnosis))
        yield ""
        if options.header:
            yield from header_lines(diagnosis.head)
            yield ""
        limit = None if options.verbosity > 1 else text.FEW
        for found in gravest_first(findings):
            yield from text.kind_lines(found, diagnosis.image, limit, show_flags=options.flags)
            yield f"  means: {meaning(found.problem, diagnosis)}"
            yield ""
        yield from hidden_line(diagnosis, findings)
    kept_back = were_kept_back(path, options.journal, diagnosis)
    yield from closing_lines(diagnosis, IN_USE if in_use else "", kept_back=kept_back)
    if options.verbosity >= 0:
        steps = list(next_steps(path, diagnosis))
        if steps:
            yield "What to do next:"
            yield from steps
