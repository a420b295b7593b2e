"""Sections host and ranges: what the clusters of the file hold, in host order, in ranges."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from qfix.arrays import NO_INTS
from qfix.dump.lines import BLOCK, Form, filled, heading
from qfix.dump.owners import TITLES, Owners
from qfix.dump.runs import Run, fold, merged
from qfix.dump.windows import Use, counts, holes, windows
from qfix.problems.refcounts import LEAKED
from qfix.problems.tables import LOST_L1, LOST_L2
from qfix.recount.tally import CLASH, COMPRESSED, DATA, METADATA
from qfix.report.rows import layer_name, layer_title

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.arrays import AnyArray
    from qfix.dump.lines import Wanted
    from qfix.dump.windows import Counts, Window

HOST = Form.of(
    "host",
    "host %#14x to %#14x  %9d clusters  %s%s%s",
    (
        ("start", "%d"),
        ("end", "%d"),
        ("clusters", "%d"),
        ("kind", '"%s"'),
        ("what", '"%s"'),
        ("users", "%d"),
        ("layer", "%s"),
        ("guest-offset", "%s"),
        ("hole", "%s"),
        ("shared", "%s"),
        ("findings", "%s"),
    ),
)
RANGE = Form.of(
    "ranges",
    "%-12s %#14x to %#14x  %9d clusters",
    (("set", '"%s"'), ("start", "%d"), ("end", "%d"), ("clusters", "%d")),
)
TYPES = ("metadata", "data", "vacant", "leaked")
SETS: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in TYPES},
    "allocated": ("metadata", "data"),
    "unallocated": ("vacant", "leaked"),
}
"""The sets of qcheck: the types, and which of them together are allocated or not."""
SHARED = 1
LOST = (LOST_L2, LOST_L1)
"""Leaked clusters that are tables; in a run they are marked by their position here, from 2 on."""


def host_lines(wanted: Wanted) -> Iterator[str]:
    """Yield every host cluster once, in ranges."""
    columns = "host offsets, first and last byte, clusters, what is there"
    yield from heading(wanted, "host", "what the clusters of the file hold", columns)
    owners = Owners(wanted)
    runs = merged(run for window in windows(wanted) for run in _host_runs(wanted, owners, window))
    while block := list(islice(runs, BLOCK)):
        yield _host_block(wanted, owners, block)


def _host_runs(wanted: Wanted, owners: Owners, window: Window) -> Iterator[Run]:
    """Yield runs with: use, value of metadata, layer, hole, references, shared; guest cluster."""
    part, use = window.counts, window.use
    guest = np.isin(use, (Use.DATA, Use.ZERO))
    layer = np.full(use.size, -1)
    cluster = np.full(use.size, -1)
    if guest.any():
        layer[guest], start = owners.guests(window.value[guest])
        cluster[guest] = start >> wanted.image.geometry.cluster_bits
    which = np.where(use >= Use.METADATA, window.value, 0)
    hole = holes(wanted, part.start, part.end)
    users = np.where(np.isin(use, (Use.FREE, Use.LEAKED, Use.COMPRESSED)), 0, part.counted)
    told = ((wanted.made.tally.owners[part.start : part.end] & CLASH) != 0).astype(np.int8)
    for number, problem in enumerate(LOST, 2):
        lost = wanted.diagnosis.find(problem)
        at = lost.first[(lost.first >= part.start) & (lost.first < part.end)] if lost else NO_INTS
        told[at - part.start] = number
    return fold(part.start, [use, which, layer, hole, users, told], [cluster])


def _host_block(wanted: Wanted, owners: Owners, runs: list[Run]) -> str:
    size = wanted.image.geometry.cluster_size
    rows = [_host_row(wanted, owners, run, size) for run in runs]
    return filled(HOST.json if wanted.json else HOST.text, list(zip(*rows, strict=True)))


def _host_row(wanted: Wanted, owners: Owners, run: Run, size: int) -> tuple[object, ...]:
    use, which, layer, hole, users, mark = run.same
    start, end, count = run.start * size, run.end * size - 1, run.end - run.start
    behind = start >= wanted.image.geometry.file_length
    what = owners.title(use, which)
    kind = TITLES[use]
    if use == Use.FREE and hole:
        kind = what = "hole"
    guest = run.steps[0] * size if run.steps[0] >= 0 else None
    if wanted.json:
        words = [str(bool(flag)).lower() for flag in (hole and not behind, mark == SHARED)]
        name = f'"{layer_name(layer)}"' if layer >= 0 else "null"
        place = "null" if guest is None else str(guest)
        codes = f'["{LOST[mark - 2].code}"]' if mark > SHARED else "[]"
        codes = f'["{LEAKED.code}"]' if use == Use.LEAKED and mark <= SHARED else codes
        return (start, end, count, kind, _escaped(what), users, name, place, *words, codes)
    where = "" if guest is None else f", guest {guest:#x}, {layer_title(wanted.image, layer)}"
    more = f", {users} users" if users > 1 else ""
    more += ", behind the end of the file" if behind else ", a hole" if hole else ""
    told = ""
    if mark > SHARED:
        told = f"  <- {LOST[mark - 2].code} {LOST[mark - 2].name}"
    elif use == Use.LEAKED:
        told = f"  <- {LEAKED.code} {LEAKED.name}"
    elif mark == SHARED:
        told = "  <- shared with something else: qfix -m error tells"
    more = "" if kind == "hole" else more
    return (start, end, count, what + where, more, told)


def _escaped(text: str) -> str:
    """Return text inside the quotes of a JSON string."""
    import json

    return json.dumps(text)[1:-1]


def range_lines(wanted: Wanted) -> Iterator[str]:
    """Yield the sets of clusters that were asked for, as merged ranges, and their totals."""
    size = wanted.image.geometry.cluster_size
    for kind in wanted.kinds or (*SETS, "all"):
        types = SETS.get(kind, TYPES)
        yield from heading(wanted, f"ranges:{kind}", f"{', '.join(types)}, merged")
        total = ranges = 0
        for block in _blocks(_typed(wanted, kind)):
            total += sum(run.end - run.start for run in block)
            ranges += len(block)
            rows = [
                (
                    TYPES[run.same[0]] if kind == "all" else kind,
                    run.start * size,
                    run.end * size - 1,
                    run.end - run.start,
                )
                for run in block
            ]
            yield filled(RANGE.json if wanted.json else RANGE.text, list(zip(*rows, strict=True)))
        yield _total(wanted, kind, ranges, total, size)


def _total(wanted: Wanted, kind: str, ranges: int, total: int, size: int) -> str:
    if wanted.json:
        return (
            f'{{"section": "total", "set": "{kind}", "ranges": {ranges}, "clusters": {total},'
            f' "bytes": {total * size}}}\n'
        )
    return f"# total {kind}: {total} clusters, {total * size} bytes, in {ranges} ranges\n"


def _blocks(runs: Iterator[Run]) -> Iterator[list[Run]]:
    while block := list(islice(runs, BLOCK)):
        yield block


def _typed(wanted: Wanted, kind: str) -> Iterator[Run]:
    """Yield the runs of a set of clusters; with `all` each type by itself."""
    types = [TYPES.index(name) for name in SETS.get(kind, TYPES)]

    def runs() -> Iterator[Run]:
        for part in counts(wanted):
            found = _types(wanted, part)
            if kind == "all":
                yield from fold(part.start, [found], [])
                continue
            member = np.isin(found, types)
            yield from (run for run in fold(part.start, [member], []) if run.same[0])

    return merged(runs())


def _types(wanted: Wanted, part: Counts) -> AnyArray:
    """Return the type of each cluster, as a position in TYPES."""
    owners = wanted.made.tally.owners[part.start : part.end]
    data = (owners & (DATA | COMPRESSED)) != 0
    metadata = (owners & METADATA) != 0
    leaked = (part.stored > 0) & (part.counted == 0)
    data |= (part.counted > 0) & ~metadata
    return np.select([metadata, data, leaked], [0, 1, 3], 2)
