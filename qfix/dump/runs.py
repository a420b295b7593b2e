"""Ranges as columns, which go on from one block of rows to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qfix.arrays import NO_INTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from qfix.arrays import AnyArray, IntArray


class Runs(NamedTuple):
    """Runs of units from `start` to `end`, as columns of equal length.

    The units of a run have the same values of `same`, and `step` goes up by one with each of them;
    a step of -1 stands for none, and stays.
    """

    start: IntArray
    end: IntArray
    same: tuple[AnyArray, ...]
    step: IntArray

    def part(self, chosen: slice | AnyArray) -> Runs:
        """Return some of the runs."""
        same = tuple(column[chosen] for column in self.same)
        return Runs(self.start[chosen], self.end[chosen], same, self.step[chosen])

    def scaled(self, unit: int) -> Runs:
        """Return runs of bytes for runs of units of *unit* bytes."""
        step = np.where(self.step >= 0, self.step * unit, -1)
        return Runs(self.start * unit, self.end * unit, self.same, step)


def fold(start: int, same: tuple[AnyArray, ...], step: IntArray) -> Runs:
    """Return the runs of units from *start* on; the columns have an element a unit."""
    if not step.size:
        return Runs(NO_INTS, NO_INTS, same, step)
    new = np.zeros(step.size, np.bool_)
    new[0] = True
    for column in same:
        new[1:] |= column[1:] != column[:-1]
    new[1:] |= (step[1:] != step[:-1] + 1) & ((step[1:] >= 0) | (step[:-1] >= 0))
    heads = np.flatnonzero(new)
    ends = np.append(heads[1:], step.size)
    return Runs(heads + start, ends + start, tuple(column[heads] for column in same), step[heads])


def joined(blocks: Iterable[Runs]) -> Iterator[Runs]:
    """Yield blocks of runs, those that go on in the next one as one, also over two blocks."""
    last: Runs | None = None
    for block in blocks:
        if not block.start.size:
            continue
        whole = _merged(block if last is None else _after(last, block))
        if whole.start.size > 1:
            yield whole.part(slice(None, -1))
        last = whole.part(slice(-1, None))
    if last is not None:
        yield last


def _after(last: Runs, block: Runs) -> Runs:
    """Return a block behind the *last* run."""
    return Runs(
        np.concatenate((last.start, block.start)),
        np.concatenate((last.end, block.end)),
        tuple(np.concatenate(pair) for pair in zip(last.same, block.same, strict=True)),
        np.concatenate((last.step, block.step)),
    )


def _merged(runs: Runs) -> Runs:
    """Return runs with those that go on in the next one joined to it."""
    length = runs.end - runs.start
    step = np.where(runs.step < 0, runs.step, runs.step + length)
    new = np.ones(runs.start.size, np.bool_)
    new[1:] = (runs.start[1:] != runs.end[:-1]) | (runs.step[1:] != step[:-1])
    for column in runs.same:
        new[1:] |= column[1:] != column[:-1]
    if new.all():
        return runs
    heads = np.flatnonzero(new)
    ends = runs.end[np.append(heads[1:], new.size) - 1]
    return runs.part(heads)._replace(end=ends)


def blocks_of(runs: Runs, most: int) -> Iterator[Runs]:
    """Yield runs at most *most* at a time."""
    for at in range(0, runs.start.size, most):
        yield runs.part(slice(at, at + most))
