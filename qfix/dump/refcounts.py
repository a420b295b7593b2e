"""Section refcount: the table, each refcount, what was counted, and who refers (format 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qfix.dump.lines import BLOCK, NAME, Form, filled, heading
from qfix.dump.owners import Owners
from qfix.dump.windows import windows
from qfix.problems import refcounts as problems

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.arrays import IntArray
    from qfix.dump.lines import Wanted
    from qfix.dump.marks import Marks
    from qfix.dump.windows import Window
    from qfix.problems import Problem

TABLE = Form.of(
    "refcount",
    f"%-{NAME}s %#14x  %#18x  refcount block at %#x, clusters %d to %d%s",
    (
        ("name", '"%s"'),
        ("file-offset", "%d"),
        ("entry", "%d"),
        ("host-offset", "%d"),
        ("first-cluster", "%d"),
        ("last-cluster", "%d"),
        ("findings", "%s"),
    ),
)
COUNT = Form.of(
    "refcount",
    f"%-{NAME}s %#14x  refcount %-3s counted %-3s %s%s",
    (
        ("name", '"%s"'),
        ("host-offset", "%d"),
        ("refcount", "%s"),
        ("counted", "%s"),
        ("user", '"%s"'),
        ("findings", "%s"),
    ),
)
UNREAD = {True: "null", False: "?"}


def refcount_lines(wanted: Wanted, marks: Marks) -> Iterator[str]:
    """Yield the used entries of the refcount table, then the refcounts that are not 0.

    With -v those that are 0 too.
    """
    yield from heading(
        wanted, "refcount", "the refcount table", "name, file offset, entry, where to"
    )
    table = wanted.made.reftable
    used = np.flatnonzero(table.entry)
    per = wanted.image.geometry.refcounts_per_block
    for start in range(0, used.size, BLOCK):
        rows = used[start : start + BLOCK]
        position = table.position + rows * 8
        columns = (
            [f"refcount_table[{at}]" for at in rows.tolist()],
            position.tolist(),
            table.entry[rows].tolist(),
            (table.entry[rows] & np.uint64(0xFFFFFFFFFFFFFE00)).tolist(),
            (rows * per).tolist(),
            (rows * per + per - 1).tolist(),
            marks.words("refcount table entry", position, None, json=wanted.json),
        )
        yield filled(TABLE.json if wanted.json else TABLE.text, columns)
    what = "all refcounts" if wanted.verbose else "refcounts that are, or should be, above 0"
    columns_ = "name, host offset, refcount in the block, references counted, first user"
    yield from heading(wanted, "refcount", what, columns_)
    owners = Owners(wanted)
    for window in windows(wanted):
        yield from _window_lines(wanted, owners, window)


def _window_lines(wanted: Wanted, owners: Owners, window: Window) -> Iterator[str]:
    part = window.counts
    shown = (part.counted > 0) | (part.stored > 0)
    if part.readable is not None:
        shown |= ~part.readable
    every = np.arange(shown.size) if wanted.verbose else np.flatnonzero(shown)
    for start in range(0, every.size, BLOCK):
        yield _block(wanted, owners, window, every[start : start + BLOCK])


def _block(wanted: Wanted, owners: Owners, window: Window, at: IntArray) -> str:
    part, bits = window.counts, wanted.image.geometry.cluster_bits
    counted, stored = part.counted[at].tolist(), part.stored[at].tolist()
    readable = np.ones(at.size, np.bool_) if part.readable is None else part.readable[at]
    cluster = (at + part.start).tolist()
    told = ["[]" if wanted.json else ""] * at.size
    most = wanted.image.geometry.refcount_max
    block = (at + part.start) // wanted.image.geometry.refcounts_per_block
    missing = wanted.made.stored.missing(block)
    for row in np.flatnonzero(readable & (part.counted[at] != part.stored[at])).tolist():
        problem = _problem(stored[row], counted[row], most)
        if missing[row] and problem is problems.USED_BUT_FREE:
            behind = cluster[row] >= wanted.made.stored.reach
            problem = problems.TABLE_TOO_SMALL if behind else problems.BLOCK_MISSING
        code = f'["{problem.code}"]'
        told[row] = code if wanted.json else f"  <- {problem.code} {problem.name}"
    none = UNREAD[wanted.json]
    columns = (
        [f"refcount[{number}]" for number in cluster],
        [number << bits for number in cluster],
        stored
        if readable.all()
        else [value if known else none for value, known in zip(stored, readable, strict=True)],
        counted,
        _users(owners, window, at, counted),
        told,
    )
    return filled(COUNT.json if wanted.json else COUNT.text, columns)


def _users(owners: Owners, window: Window, at: IntArray, counted: list[int]) -> list[str]:
    names = owners.names(window.use[at], window.value[at])
    if max(counted) < 2:
        return list(names)
    return [
        name if count < 2 else f"{name} and {count - 1} more"
        for name, count in zip(names, counted, strict=True)
    ]


def _problem(stored: int, counted: int, most: int) -> Problem:
    """Return what is wrong with a refcount that differs from the references."""
    if counted > most:
        return problems.OVERFLOW
    if counted > stored:
        return problems.TOO_LOW if stored else problems.USED_BUT_FREE
    return problems.TOO_HIGH if counted else problems.LEAKED
