"""info: what an image is, readable at a glance, also where it is damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qfix.examine import examine, inspect
from qfix.modes.facts import bitmap_rows, facts, snapshot_rows
from qfix.modes.look import emit, opened, say, shown_path
from qfix.report import text
from qfix.report.header import header_lines, header_rows
from qfix.report.progress import progress
from qfix.report.rows import as_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.examine import Diagnosis
    from qfix.file import ImageFile
    from qfix.modes.options import Options


MOST_ROWS = 200
MOST_WORDS = 20
MOST_WORDS_IN_JSON = 10_000


def info(path: str, options: Options) -> Diagnosis:
    """Print what the header cluster, the snapshot table and the bitmap directory say."""
    with opened(path, options) as looked:
        diagnosis = inspect(looked.file, backing=not options.base)
        rows = _snapshots(diagnosis, looked.file)
        told = facts(diagnosis)
        told["in-use"] = looked.in_use
        told["interrupted"] = looked.interrupted
        if options.prealloc:
            from qfix.modes.prealloc import preallocation

            told["preallocation"] = preallocation(diagnosis)
        if options.json:
            emit(_record(path, diagnosis, told, rows, options), options)
        else:
            say(lines(path, diagnosis, told, rows, options))
    return diagnosis


def _snapshots(diagnosis: Diagnosis, file: ImageFile) -> list[dict[str, Any]]:
    """Return a row a snapshot, with the room that it takes, for which all tables are read."""
    if diagnosis.image is None or not diagnosis.image.snapshots:
        return []
    with progress() as tell:
        return snapshot_rows(examine(file, backing=False, tell=tell))


def _record(
    path: str,
    diagnosis: Diagnosis,
    told: dict[str, Any],
    rows: list[dict[str, Any]],
    options: Options,
) -> dict[str, Any]:
    findings = [
        row for found in diagnosis.findings for row in as_json(found, diagnosis.image, path)
    ]
    extra = {"header": header_rows(diagnosis.head)} if options.header else {}
    return {
        "filename": path,
        "format": "qcow2" if diagnosis.head.header else "raw",
        **{name: _capped(value, MOST_WORDS_IN_JSON) for name, value in told.items()},
        "snapshots": rows,
        "bitmaps": bitmap_rows(diagnosis),
        **extra,
        "qfix": {"schema": 1, "findings": findings},
    }


def lines(
    path: str,
    diagnosis: Diagnosis,
    told: dict[str, Any],
    snapshots: list[dict[str, Any]],
    options: Options,
) -> Iterator[str]:
    """Yield the page."""
    yield from text.pairs([("image", shown_path(path)), *_shown(told)])
    for title, rows in (
        ("snapshots", [_in_words(row) for row in snapshots[:MOST_ROWS]]),
        ("bitmaps", bitmap_rows(diagnosis)),
    ):
        if rows:
            import tabulate

            yield ""
            yield f"{title}:"
            yield tabulate.tabulate(rows[:MOST_ROWS], headers="keys", disable_numparse=True)
            if len(rows) > MOST_ROWS:
                yield f"... and {len(rows) - MOST_ROWS} more (--output json lists all)"
    if options.header:
        yield ""
        yield from header_lines(diagnosis.head)
    findings = [found for found in diagnosis.findings if options.verbosity >= 0]
    if findings:
        yield ""
        yield "found while reading (a check looks further):"
    for found in findings:
        yield from text.kind_lines(found, diagnosis.image, text.FEW)
    if findings:
        yield f"qfix --explain {findings[0].problem.code}   says what a kind means"


def _in_words(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row of a snapshot with the room that it takes in words."""
    return {
        name.removesuffix("-bytes"): text.human(value)
        if name.endswith("-bytes") and value is not None
        else value
        for name, value in row.items()
    }


def _capped(value: Any, most: int) -> Any:
    """Return a value; of a list the first *most* words, and how many more there are."""
    if not isinstance(value, list) or len(value) <= most:
        return value
    return [*value[:most], f"... and {len(value) - most} more"]


def _shown(told: dict[str, Any]) -> Iterator[tuple[str, object]]:
    sizes = ("virtual-size", "file-size", "disk-size", "cluster-size", "image-end-offset")
    for name, value in told.items():
        if value is None or value == [] or value is False:
            continue
        if name in sizes:
            yield name.replace("-", " "), f"{text.human(value)} ({value} bytes)"
        elif isinstance(value, list):
            yield name.replace("-", " "), ", ".join(_capped(value, MOST_WORDS))
        else:
            yield name.replace("-", " "), "yes" if value is True else value
