"""Sections host and ranges: what the clusters of the file hold, in host order, in ranges."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from qfix.arrays import NO_INTS
from qfix.dump.lines import BLOCK, Form, filled, heading
from qfix.dump.owners import HOLE, TITLES, Owners
from qfix.dump.runs import Runs, blocks_of, fold, joined
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
BOOLEAN = {False: "false", True: "true"}
WHERE = ("", ", a hole", ", behind the end of the file")
IN_HOLE, BEHIND = 1, 2
MOST_WORDS = 1 << 10
SHARED = 1
LOST = (LOST_L2, LOST_L1)
"""Leaked clusters that are tables; in a run they are marked by their position here, from 2 on."""


def host_lines(wanted: Wanted) -> Iterator[str]:
    """Yield every host cluster once, in ranges."""
    columns = "host offsets, first and last byte, clusters, what is there"
    yield from heading(wanted, "host", "what the clusters of the file hold", columns)
    owners = Owners(wanted)
    for block in joined(_host_runs(wanted, owners, window) for window in windows(wanted)):
        for part in blocks_of(block, BLOCK):
            yield _host_block(wanted, owners, part)


def _host_runs(wanted: Wanted, owners: Owners, window: Window) -> Runs:
    """Return runs with use, value of metadata, layer, hole, users, mark; and guest cluster."""
    part, use = window.counts, window.use
    guest = np.isin(use, (Use.DATA, Use.ZERO))
    layer = np.full(use.size, -1, np.int32)
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
        first = np.array(lost.first, np.int64) if lost else NO_INTS
        at = first[(first >= part.start) & (first < part.end)]
        told[at - part.start] = number
    return fold(part.start, (use, which, layer, hole, users, told), cluster)


def _host_block(wanted: Wanted, owners: Owners, runs: Runs) -> str:
    size = wanted.image.geometry.cluster_size
    use, which, layer, hole, _, mark = runs.same
    count = (runs.end - runs.start).tolist()
    start, last = (runs.start * size).tolist(), (runs.end * size - 1).tolist()
    kind = [TITLES[at] for at in np.where((use == Use.FREE) & hole, HOLE, use).tolist()]
    what = list(kind)
    for at in np.flatnonzero(use >= Use.METADATA).tolist():
        what[at] = owners.title(int(use[at]), int(which[at]))
    guest = (runs.step * size).tolist()
    if wanted.json:
        columns = (
            *(start, last, count, kind, [_escaped(text) for text in what]),
            runs.same[4].tolist(),
            ["null" if at < 0 else f'"{layer_name(at)}"' for at in layer.tolist()],
            ["null" if at < 0 else at for at in guest],
            [BOOLEAN[flag] for flag in hole.tolist()],
            [BOOLEAN[flag == SHARED] for flag in mark.tolist()],
            [_codes(*pair) for pair in zip(use.tolist(), mark.tolist(), strict=True)],
        )
        return filled(HOST.json, columns)
    titles = {at: layer_title(wanted.image, at) for at in np.unique(layer).tolist() if at >= 0}
    where = [
        text if at < 0 else f"{text}, guest {at:#x}, {titles[owner]}"
        for text, at, owner in zip(what, guest, layer.tolist(), strict=True)
    ]
    more, told = _remarks(wanted, runs)
    return filled(HOST.text, (start, last, count, where, more, told))


def _remarks(wanted: Wanted, runs: Runs) -> tuple[list[str], list[str]]:
    """Return what else there is to say of each range, and what is wrong with it, as text."""
    use, _, _, hole, users, mark = runs.same
    behind = runs.start * wanted.image.geometry.cluster_size >= wanted.image.geometry.file_length
    where = np.where(behind, BEHIND, np.where(hole & (use != Use.FREE), IN_HOLE, 0))
    more = [_more(*row) for row in zip(users.tolist(), where.tolist(), strict=True)]
    told = [_told(*row) for row in zip(use.tolist(), mark.tolist(), strict=True)]
    return more, told


@lru_cache(maxsize=MOST_WORDS)
def _more(users: int, where: int) -> str:
    """Return what else there is to say of a range, as text."""
    return (f", {users} users" if users > 1 else "") + WHERE[where]


@lru_cache(maxsize=MOST_WORDS)
def _told(use: int, mark: int) -> str:
    """Return what is wrong with a range, as text."""
    if mark > SHARED:
        return f"  <- {LOST[mark - 2].code} {LOST[mark - 2].name}"
    if mark == SHARED:
        return "  <- shared with something else: qfix -m error tells"
    return f"  <- {LEAKED.code} {LEAKED.name}" if use == Use.LEAKED else ""


@lru_cache(maxsize=MOST_WORDS)
def _codes(use: int, mark: int) -> str:
    """Return what is wrong with a range, as JSON."""
    if mark > SHARED:
        return f'["{LOST[mark - 2].code}"]'
    return f'["{LEAKED.code}"]' if use == Use.LEAKED else "[]"


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
        for block in joined(_typed(wanted, kind)):
            total += int((block.end - block.start).sum())
            ranges += block.start.size
            for part in blocks_of(block, BLOCK):
                words = [TYPES[at] if kind == "all" else kind for at in part.same[0].tolist()]
                columns = (
                    words,
                    (part.start * size).tolist(),
                    (part.end * size - 1).tolist(),
                    (part.end - part.start).tolist(),
                )
                yield filled(RANGE.json if wanted.json else RANGE.text, columns)
        yield _total(wanted, kind, ranges, total, size)


def _total(wanted: Wanted, kind: str, ranges: int, total: int, size: int) -> str:
    if wanted.json:
        return (
            f'{{"section": "total", "set": "{kind}", "ranges": {ranges}, "clusters": {total},'
            f' "bytes": {total * size}}}\n'
        )
    return f"total {kind}: {total} clusters, {total * size} bytes, in {ranges} ranges\n"


def _typed(wanted: Wanted, kind: str) -> Iterator[Runs]:
    """Yield the runs of a set of clusters; with `all` each type by itself."""
    types = [TYPES.index(name) for name in SETS.get(kind, TYPES)]
    for part in counts(wanted):
        found = _types(wanted, part)
        if kind != "all":
            found = np.isin(found, types)
        runs = fold(part.start, (found,), np.full(found.size, -1))
        yield runs if kind == "all" else runs.part(runs.same[0])


def _types(wanted: Wanted, part: Counts) -> AnyArray:
    """Return the type of each cluster, as a position in TYPES."""
    owners = wanted.made.tally.owners[part.start : part.end]
    data = (owners & (DATA | COMPRESSED)) != 0
    metadata = (owners & METADATA) != 0
    leaked = (part.stored > 0) & (part.counted == 0)
    data |= (part.counted > 0) & ~metadata
    return np.select([metadata, data, leaked], [0, 1, 3], 2)
