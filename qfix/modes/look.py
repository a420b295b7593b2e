"""What check, error and info share: opening under the rules of locks, and choosing findings."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from qfix import locks
from qfix.errors import QfixError, Status, UsageError
from qfix.file import open_file
from qfix.image import printable
from qfix.report.rows import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from qfix.examine import Diagnosis
    from qfix.file import ImageFile
    from qfix.image import Image
    from qfix.modes.options import Options
    from qfix.problems import Findings

SECTIONS = {"snapshot": "TCSD", "refcount": "R"}
ALWAYS = "HB"
LINES_AT_ONCE = 500
MOST_PATH = 4096
IN_USE = "Another process writes to this image: the result can't be relied on."


class Looked(NamedTuple):
    """An open image, whether another process writes to it, and whether a change was cut off."""

    file: ImageFile
    in_use: bool
    interrupted: bool


@contextmanager
def opened(path: str, options: Options) -> Iterator[Looked]:
    """Open an image to look at it; say so first if a change of it was interrupted.

    Raises InUseError if another process writes to it and -U was not given.
    """
    with ExitStack() as stack:
        file = stack.enter_context(open_file(path))
        interrupted = tell_of_interrupted(path, options.journal)
        if options.force_share:
            yield Looked(file, locks.holders(file.fd).writes, interrupted)
            return
        if options.lock:
            hold = stack.enter_context(locks.hold_for_reading(file.fd, path))
            if not hold.supported:
                note("warning: this file system does not take locks, so none are held")
        else:
            locks.refuse_if_written(file.fd, path)
        yield Looked(file, in_use=False, interrupted=interrupted)


def tell_of_interrupted(path: str, place: str | None = None) -> bool:
    """Tell, and say on standard error, whether a change of the image was interrupted."""
    from qfix.change import journal

    try:
        found = journal.pending(path, place) or journal.pending(path)
    except QfixError as error:
        note(f"warning: {printable(os.fsencode(str(error)), limit=MOST_PATH)}")
        return False
    if found is None:
        return False
    image = quoted(path)
    if found.record is None:
        note(
            "the journal of this image was being written when that was interrupted: do not start"
            f" the machine before `qfix --resume {image}` has settled it"
        )
        return True
    note(
        f"a change of this image was interrupted ({found.record.asked}): do not start the machine;"
        f" `qfix --resume {image}` finishes it, `qfix --undo {image}` takes it back"
    )
    return True


def note(text: str) -> None:
    """Say something beside the results, on standard error."""
    click.echo(f"qfix: {text}", err=True)


def were_kept_back(path: str, place: str | None, diagnosis: Diagnosis) -> bool:
    """Tell whether a repair has left leaks of this image in place on purpose, by its journal."""
    from qfix.change import journal

    if diagnosis.status is not Status.LEAKS or not os.path.lexists(_journal(path, place)):
        return False
    try:
        return any(report.get("withheld") for report in journal.reports(path, place))
    except QfixError:
        return False


def _journal(path: str, place: str | None) -> str:
    from qfix.change import journal

    try:
        return journal.locate(path, place)
    except UsageError:
        return ""


def is_terminal() -> bool:
    """Tell whether there is somebody to ask."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirmed(path: str, lines: Iterable[str], question: str, options: Options) -> bool:
    """Ask on a terminal whether to go on, after showing what it costs; elsewhere the answer is yes.

    A change can be taken back, so a script that asked for it is not held up.
    """
    if options.yes or not is_terminal():
        return True
    click.echo(f"image: {shown_path(path)}", err=True)
    for line in lines:
        click.echo(line, err=True)
    return click.confirm(question, err=True)


def shown_path(path: str) -> str:
    """Return a path of the command line with control characters escaped."""
    return printable(os.fsencode(path), limit=MOST_PATH)


def say(lines: Iterable[str]) -> None:
    """Print lines on standard output, many at a time."""
    listed = iter(lines)
    while block := list(islice(listed, LINES_AT_ONCE)):
        click.echo("\n".join(block))


def emit(record: dict[str, Any], options: Options) -> None:
    """Print one JSON object: on a line of its own where there are several images."""
    import json

    indent = None if options.several else 4
    click.echo(json.dumps(record, indent=indent))


def chosen_layers(image: Image | None, wanted: str) -> set[int] | None:
    """Return the layers that -s names, None for all; raises UsageError if there is none such."""
    if wanted == "all" or image is None:
        return None
    if wanted == "active":
        return {0}
    if wanted == "inactive":
        return {item.index + 1 for item in image.snapshots}
    word = wanted.encode("utf-8", "surrogateescape")
    for pick in (
        [item for item in image.snapshots if f"snapshot[{item.index}]" == wanted],
        [item for item in image.snapshots if item.id_str == word],
        [item for item in image.snapshots if item.name == word],
    ):
        if len(pick) > 1:
            places = ", ".join(f"snapshot[{item.index}]" for item in pick)
            raise UsageError(f"-s {wanted} fits several snapshots: {places}")
        if pick:
            return {pick[0].index + 1}
    known = ", ".join(printable(item.id_str) for item in image.snapshots) or "none"
    raise UsageError(f"there is no snapshot {wanted!r}; ids in this image: {known}")


def shown(diagnosis: Diagnosis, options: Options) -> list[Findings]:
    """Return the findings that -o and -s ask for."""
    letters = ALWAYS
    for section in options.only.split(","):
        letters += SECTIONS.get(section, "TCSDR")
    layers = chosen_layers(diagnosis.image, options.snapshot)
    found = [item for item in diagnosis.findings if item.problem.code[0] in letters]
    return found if layers is None else [part for item in found if len(part := of(item, layers))]


def of(findings: Findings, layers: set[int]) -> Findings:
    """Return those of *findings* that touch one of *layers*, or no layer at all.

    One whose list of layers was cut short may touch any.
    """
    facts = findings.facts
    if "guests" in facts:
        kept = [bool(layers & {part[0] for part in row}) for row in facts["guests"]]
        if "users_total" in facts:
            cut = [len(row) < total for row, total in _pairs(facts, "guests", "users_total")]
            kept = [keep or more for keep, more in zip(kept, cut, strict=True)]
    elif "layers" in facts:
        kept = [
            len(row) < total or bool(layers & {layer for layer, _ in row})
            for row, total in _pairs(facts, "layers", "layers_total")
        ]
    elif "layer" in facts:
        column = facts["layer"]
        listed = column.tolist() if hasattr(column, "tolist") else column
        kept = [layer in layers for layer in listed]
    else:
        return findings
    return findings.keep(kept)


def _pairs(facts: Mapping[str, Any], *names: str) -> Iterator[tuple[Any, ...]]:
    return zip(*(facts[name] for name in names), strict=True)


def hidden_line(diagnosis: Diagnosis, findings: list[Findings]) -> Iterator[str]:
    """Say how many findings -o and -s leave out."""
    hidden = sum(map(len, diagnosis.findings)) - sum(map(len, findings))
    if hidden:
        yield f"{hidden} findings of other sections or layers are not shown (-o all -s all)."
