"""dump: everything that is in an image, a line each, streamed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from qfix.dump.lines import Wanted, objects
from qfix.dump.lists import bitmap_lines, header_lines, snapshot_lines
from qfix.errors import UsageError
from qfix.examine import examine, inspect
from qfix.modes.look import IN_USE, chosen_layers, note, opened, shown_path
from qfix.report.progress import progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.examine import Diagnosis
    from qfix.modes.options import Options

FRUGAL = ("header", "bitmaps")
"""Sections that need no recount; the room that snapshots take does."""
EVERY = "all"
LAYERED = ("l1", "l2", "guest", "snapshots")
LISTS = ("header", "snapshots", "bitmaps")
TABLES = ("l1", "l2", "refcount", "host", "guest", "ranges")
ORDER = ("header", "snapshots", "bitmaps", "l1", "l2", "refcount", "host", "guest", "ranges")
ALIASES = {EVERY: ORDER, "snapshot": ("l1", "l2")}
RANGES = ("metadata", "data", "vacant", "leaked", "allocated", "unallocated", "all")


def dump(path: str, options: Options) -> Diagnosis:
    """Print the sections that are asked for, as they are read."""
    only = options.only
    if options.header:
        only = "header" if only == EVERY else f"header,{only}"
    sections = _sections(only)
    names = {name for name, _ in sections}
    if options.snapshot and not names & {*LAYERED}:
        raise UsageError(f"-s chooses tables of layers: it goes with -o {', '.join(LAYERED)}")
    with opened(path, options) as looked:
        if names <= {*FRUGAL}:
            diagnosis = inspect(looked.file, backing=not options.base)
        else:
            with progress() as tell:
                diagnosis = examine(looked.file, backing=not options.base, tell=tell)
        wanted = Wanted(
            diagnosis,
            chosen_layers(diagnosis.image, options.snapshot or "all"),
            json=options.json,
            flags=options.flags,
            verbose=options.verbosity > 0,
            quiet=options.verbosity < 0,
            named=bool(options.snapshot),
        )
        for block in _blocks(path, wanted, sections):
            click.echo(block, nl=False)
        if looked.in_use:
            note(IN_USE)
        return diagnosis


def _sections(only: str) -> list[tuple[str, str]]:
    """Return the sections of -o, each with the kind behind its colon; raises UsageError."""
    chosen: list[tuple[str, str]] = []
    for word in only.split(","):
        name, colon, kind = word.partition(":")
        if name not in (*ORDER, *ALIASES):
            known = ", ".join((*ORDER, *ALIASES))
            raise UsageError(f"unknown section {word!r}; known: {known}, ranges:KIND")
        if colon and (name != "ranges" or kind not in RANGES):
            raise UsageError(f"unknown section {word!r}; known: ranges:{', ranges:'.join(RANGES)}")
        chosen += [(each, kind) for each in ALIASES.get(name, (name,))]
    return sorted(dict.fromkeys(chosen), key=lambda item: ORDER.index(item[0]))


def _blocks(path: str, wanted: Wanted, sections: list[tuple[str, str]]) -> Iterator[str]:
    """Yield the blocks of lines of each section."""
    diagnosis = wanted.diagnosis
    yield from objects(wanted, [_title(wanted, path)] if wanted.json or not wanted.quiet else [])
    for name, kind in sections:
        if name == "header":
            yield from header_lines(wanted)
        elif diagnosis.image is None or (name in TABLES and diagnosis.recount is None):
            yield from _unreadable(wanted, name)
        elif name in LISTS:
            yield from (snapshot_lines if name == "snapshots" else bitmap_lines)(wanted)
        else:
            kinds = tuple(each for section, each in sections if section == name and each)
            if kind == (kinds[0] if kinds else ""):
                yield from _tables(name, wanted._replace(kinds=kinds))


def _title(wanted: Wanted, path: str) -> tuple[str, dict[str, object]]:
    """Return the first line: what the ones behind it are about."""
    status = wanted.diagnosis.status
    told = {"section": "image", "filename": path, "status": int(status), "verdict": status.verdict}
    return f"# image: {shown_path(path)}", told


def _unreadable(wanted: Wanted, name: str) -> Iterator[str]:
    found = [item for item in wanted.diagnosis.findings if item.problem.status]
    codes = ", ".join(f"{item.problem.code} {item.problem.name}" for item in found)
    yield from objects(
        wanted,
        [
            (
                f"\n# {name}: can't be read by this header ({codes or 'it is none'})",
                {
                    "section": name,
                    "error": "can't be read",
                    "findings": [item.problem.code for item in found],
                },
            )
        ],
    )


def _tables(name: str, wanted: Wanted) -> Iterator[str]:
    """Yield the lines of a section that is made from the recount."""
    from qfix.dump import guest, host, refcounts, tables
    from qfix.dump.marks import Marks

    if name in ("l1", "l2"):
        lines = tables.l1_lines if name == "l1" else tables.l2_lines
        return lines(wanted, Marks(wanted.diagnosis))
    if name == "refcount":
        return refcounts.refcount_lines(wanted, Marks(wanted.diagnosis))
    return {"host": host.host_lines, "guest": guest.guest_lines, "ranges": host.range_lines}[name](
        wanted
    )
