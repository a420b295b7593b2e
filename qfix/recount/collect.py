"""Collector: findings gathered in pieces, bounded, folded into runs at the end."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from qfix.arrays import AnyArray
from qfix.problems import Findings, Problem

MOST_ROWS = 1 << 18


class Collector:
    """Findings by problem, one piece a batch; at most MOST_ROWS rows a problem are kept."""

    __slots__ = ("_dropped", "_kept", "_pieces")

    def __init__(self) -> None:
        self._pieces: dict[Problem, list[dict[str, AnyArray]]] = {}
        self._kept: dict[Problem, int] = {}
        self._dropped: dict[Problem, int] = {}

    def add(self, problem: Problem, **columns: Any) -> None:
        """Add rows; `first` (units) is needed, `count` is 1 unless given, scalars are repeated."""
        length = len(columns["first"])
        if not length:
            return
        room = self.room(problem)
        if length > room:
            self._dropped[problem] = self._dropped.get(problem, 0) + length - room
            length = room
        if not length:
            return
        self._kept[problem] = self._kept.get(problem, 0) + length
        columns.setdefault("count", 1)
        piece = {name: _column(values, length) for name, values in columns.items()}
        self._pieces.setdefault(problem, []).append(piece)

    def room(self, problem: Problem) -> int:
        """Return how many rows of a problem will still be kept."""
        return MOST_ROWS - self._kept.get(problem, 0)

    def units(self, problem: Problem) -> int:
        """Return the units of a problem gathered so far."""
        return sum(int(piece["count"].sum()) for piece in self._pieces.get(problem, []))

    def take(self, problem: Problem) -> dict[str, AnyArray]:
        """Return the rows of a problem, not folded, as columns, and forget them; {} if none."""
        pieces = self._pieces.pop(problem, [])
        self._kept.pop(problem, None)
        if not pieces:
            return {}
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}

    def folded(self, problem: Problem) -> Findings:
        """Return the findings of one problem, which may be none."""
        chosen = [found for found in self if found.problem is problem]
        return chosen[0] if chosen else Findings(problem, [], [])

    def __iter__(self) -> Iterator[Findings]:
        """Yield the findings of each problem, sorted by layer and unit, neighbours folded."""
        for problem, pieces in self._pieces.items():
            columns = {
                name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]
            }
            yield _folded(problem, columns, self._dropped.get(problem, 0))


def _column(values: Any, length: int) -> AnyArray:
    if isinstance(values, np.ndarray):
        return values[:length].copy()
    return np.full(length, values)


def _folded(problem: Problem, columns: dict[str, AnyArray], dropped: int) -> Findings:
    layer = columns.get("layer", np.zeros(len(columns["first"]), np.int64))
    order = np.lexsort((columns["first"], layer))
    columns = {name: values[order] for name, values in columns.items()}
    first, count = columns.pop("first"), columns.pop("count")
    breaks = first[1:] != first[:-1] + count[:-1]
    for name in ("layer", "fold"):
        if name in columns:
            breaks |= columns[name][1:] != columns[name][:-1]
    starts = np.concatenate(([0], np.flatnonzero(breaks) + 1))
    count = np.add.reduceat(count, starts)
    first, columns = first[starts], {name: values[starts] for name, values in columns.items()}
    columns.pop("fold", None)
    if "guest_length" in columns:
        columns["guest_length"] = columns["guest_length"] * count
    return Findings(problem, first, count, columns, dropped)
