"""What is wrong with the lines of a dump: findings by the file offset of the entry."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qfix.problems import tables
from qfix.recount.tally import CLASH, METADATA

if TYPE_CHECKING:
    from qfix.arrays import AnyArray, BoolArray, IntArray
    from qfix.examine import Diagnosis
    from qfix.problems import Problem
    from qfix.recount import Tally

ENTRIES = ("L1 entry", "L2 entry", "refcount table entry")


class Mark(NamedTuple):
    """The entries that have one problem, as sorted runs of bytes of the file."""

    problem: Problem
    first: IntArray
    end: IntArray

    def holds(self, positions: IntArray) -> BoolArray:
        """Tell which entries at byte *positions* have the problem."""
        at = np.searchsorted(self.first, positions, "right") - 1
        held: BoolArray = (at >= 0) & (positions < self.end[at])
        return held


class Marks:
    """Findings of entries of tables, looked up a block of lines at a time.

    `dropped` counts the findings that are not kept, so that no line can tell them.
    """

    __slots__ = ("_marks", "_tally", "dropped")

    def __init__(self, diagnosis: Diagnosis) -> None:
        self._marks: list[Mark] = []
        self._tally = diagnosis.recount.tally if diagnosis.recount else None
        self.dropped = 0
        step = diagnosis.image.geometry.entry_size if diagnosis.image else 8
        for found in diagnosis.findings:
            if found.problem.structure not in ENTRIES or "host" not in found.facts:
                continue
            self.dropped += found.dropped
            width = step if found.problem.structure == "L2 entry" else 8
            host = np.array([-1 if at is None else at for at in found.facts["host"]], np.int64)
            order = np.argsort(host, kind="stable")
            first, count = host[order], np.array(found.count, np.int64)[order]
            known = first >= 0
            end = first[known] + count[known] * width
            self._marks.append(Mark(found.problem, first[known], end))

    def of(
        self, structure: str, positions: IntArray, targets: IntArray | None = None
    ) -> list[list[Problem]]:
        """Return the problems of each entry at byte *positions*; *structure* says what they are.

        *targets* are the host clusters that they lead to, -1 for none; see `shared`.
        """
        told: list[list[Problem]] = [[] for _ in range(positions.size)] if self._any else []
        for mark in self._marks:
            if mark.problem.structure != structure:
                continue
            for at in np.flatnonzero(mark.holds(positions)).tolist():
                told[at].append(mark.problem)
        if targets is not None and self._tally is not None and self._tally.clashed:
            for problem, wrong in shared(self._tally, targets):
                for at in np.flatnonzero(wrong).tolist():
                    told[at].append(problem)
        return told

    @property
    def _any(self) -> bool:
        return bool(self._marks) or (self._tally is not None and self._tally.clashed)

    def words(
        self, structure: str, positions: IntArray, targets: IntArray | None, *, json: bool
    ) -> list[str]:
        """Return what stands at the end of each line: as text, or as a JSON list of codes."""
        told = self.of(structure, positions, targets)
        none = "[]" if json else ""
        if not told:
            return [none] * positions.size
        return [_spelled(each, json=json) if each else none for each in told]


def shared(tally: Tally, targets: AnyArray) -> list[tuple[Problem, BoolArray]]:
    """Tell which entries lead to a cluster that metadata, or other guest data, is in too."""
    inside = (targets >= 0) & (targets < tally.size)
    owners = tally.owners[np.where(inside, targets, 0)]
    clash = inside & ((owners & CLASH) != 0)
    metadata = (owners & METADATA) != 0
    return [(tables.DATA_ON_METADATA, clash & metadata), (tables.REUSED, clash & ~metadata)]


def _spelled(problems: list[Problem], *, json: bool) -> str:
    if json:
        return "[" + ", ".join(f'"{each.code}"' for each in problems) + "]"
    return "  <- " + ", ".join(f"{each.code} {each.name}" for each in problems)
