"""Ranges that go on from one block of rows to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.arrays import AnyArray, IntArray


class Run(NamedTuple):
    """Units *start* to *end* that are alike: `same` has to be equal, and `steps` to go on.

    A step of -1 stands for none, and goes on as -1.
    """

    start: int
    end: int
    same: tuple[int, ...]
    steps: tuple[int, ...]

    def goes_on(self, other: Run) -> bool:
        """Tell whether another run continues this one."""
        length = self.end - self.start
        expected = tuple(step if step < 0 else step + length for step in self.steps)
        return (self.end, self.same, expected) == (other.start, other.same, other.steps)


def fold(start: int, same: list[AnyArray], steps: list[IntArray]) -> Iterator[Run]:
    """Yield the runs of units from *start* on; the arrays have an element a unit."""
    size = (same or steps)[0].size
    if not size:
        return
    new = np.zeros(size, np.bool_)
    new[0] = True
    for column in same:
        new[1:] |= column[1:] != column[:-1]
    for step in steps:
        new[1:] |= (step[1:] != step[:-1] + 1) & ((step[1:] >= 0) | (step[:-1] >= 0))
    heads = np.flatnonzero(new)
    ends = np.append(heads[1:], size)
    kept = [column[heads].tolist() for column in same]
    led = [step[heads].tolist() for step in steps]
    alike = zip(*kept, strict=True) if kept else ((),) * heads.size
    going = zip(*led, strict=True) if led else ((),) * heads.size
    for low, high, each, to in zip(heads.tolist(), ends.tolist(), alike, going, strict=True):
        yield Run(start + low, start + high, tuple(each), tuple(to))


def merged(runs: Iterator[Run]) -> Iterator[Run]:
    """Yield runs, those that go on joined."""
    last: Run | None = None
    for run in runs:
        if last is not None and last.goes_on(run):
            last = last._replace(end=run.end)
            continue
        if last is not None:
            yield last
        last = run
    if last is not None:
        yield last
