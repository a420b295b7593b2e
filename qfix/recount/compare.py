"""Stored against counted refcounts: leaks, refcounts too low, blocks that are missing."""

from dataclasses import dataclass

import numpy as np

from qfix.arrays import AnyArray, IntArray, last_nonzero, run_starts, runs
from qfix.image import Image
from qfix.problems import header as header_problems
from qfix.problems import refcounts as problems
from qfix.recount.stored import Chunk, Stored
from qfix.recount.tally import COPIED_CLEAR, COPIED_SET, Tally


@dataclass(slots=True)
class Comparison:
    """What a comparison has seen so far."""

    image: Image
    tally: Tally
    stored: Stored
    copied_wrong: bool = False
    last_stored: int = -1
    unreached: int = 0


def compare(image: Image, tally: Tally, stored: Stored) -> bool:
    """Compare stored with counted refcounts; return whether some COPIED flag disagrees."""
    seen = Comparison(image, tally, stored)
    for chunk in stored.chunks(tally):
        values = chunk.counted if chunk.stored is None else chunk.stored
        seen.copied_wrong |= _copied_disagrees(tally, chunk, values)
        if chunk.stored is not None:
            _find_differences(seen, chunk, chunk.stored)
    tally.end_cluster = max(seen.last_stored, _last_counted(tally, stored), 0) + 1
    _report_rest(seen)
    return seen.copied_wrong


def _copied_disagrees(tally: Tally, chunk: Chunk, values: AnyArray) -> bool:
    one = (values == 1).view(np.uint8)
    wrong = one * np.uint8(COPIED_CLEAR - COPIED_SET) + np.uint8(COPIED_SET)
    wrong &= tally.owners[chunk.start : chunk.end]
    return bool(wrong.any())


def _find_differences(seen: Comparison, chunk: Chunk, stored: AnyArray) -> None:
    wrong = stored != chunk.counted
    if chunk.readable is not None:
        wrong &= chunk.readable
        seen.tally.check_errors += int((~chunk.readable).sum())
    at = np.flatnonzero(wrong)
    if not at.size:
        return
    have = stored[at].astype(np.uint64)
    want = chunk.counted[at].astype(np.uint64)
    if have.any():
        seen.last_stored = chunk.start + int(at[have > 0][-1])
    leaks = int((have > want).sum())
    seen.tally.leaks += leaks
    seen.tally.corruptions += at.size - leaks
    cluster = at + chunk.start
    missing = seen.stored.missing(cluster // seen.tally.geometry.refcounts_per_block)
    _report_missing(seen, cluster[missing])
    present = ~missing
    _report_runs(seen, cluster[present], have[present], want[present])


def _report_missing(seen: Comparison, cluster: IntArray) -> None:
    """Say of clusters in use that no block describes, block by block."""
    per = seen.tally.geometry.refcounts_per_block
    seen.unreached += int((cluster >= seen.stored.reach).sum())
    block = cluster[cluster < seen.stored.reach] // per
    blocks, used = np.unique(block, return_counts=True)
    host = seen.stored.places(blocks)
    seen.tally.found.add(problems.BLOCK_MISSING, first=blocks, used=used, host=host, fold=blocks)


def _report_runs(seen: Comparison, cluster: IntArray, stored: AnyArray, counted: AnyArray) -> None:
    first, count, starts = runs(cluster, stored, counted)
    stored, counted = stored[starts], counted[starts]
    size = seen.tally.geometry.cluster_size
    for problem, chosen in (
        (problems.LEAKED, counted == 0),
        (problems.TOO_HIGH, (stored > counted) & (counted > 0)),
        (problems.TOO_LOW, (stored < counted) & (stored > 0)),
        (problems.USED_BUT_FREE, (stored < counted) & (stored == 0)),
    ):
        seen.tally.found.add(
            problem,
            first=first[chosen],
            count=count[chosen],
            stored=stored[chosen],
            counted=counted[chosen],
            host=first[chosen] * size,
            fold=(stored[chosen] << np.uint64(32)) ^ counted[chosen],
        )


def _last_counted(tally: Tally, stored: Stored) -> int:
    """Return the last cluster with references whose refcount can be read, -1 if there is none."""
    last = last_nonzero(tally.counted[: tally.size])
    per = tally.geometry.refcounts_per_block
    while last >= 0 and stored.block_offset(last // per) is None:
        last = last_nonzero(tally.counted[: last // per * per])
    return last


def _report_rest(seen: Comparison) -> None:
    tally, stored = seen.tally, seen.stored
    if seen.unreached:
        tally.found.add(
            problems.TABLE_TOO_SMALL,
            first=[stored.reach],
            used=seen.unreached,
            host=[stored.position or None],
        )
    first, last, used = stored.behind(tally.size)
    if used:
        tally.stored_end = last + 1
        host = first * tally.geometry.cluster_size
        tally.found.add(problems.BEHIND_END, first=[first], used=used, host=host)
    blocks, offsets = stored.unread()
    tally.found.add(
        header_problems.UNREADABLE,
        first=blocks,
        host=offsets,
        length=tally.geometry.cluster_size,
        what="a refcount block",
    )


def find_overflows(tally: Tally) -> None:
    """Find clusters with more references than can be stored; qemu-img counts each reference."""
    most = tally.geometry.refcount_max
    if most >= np.iinfo(tally.counted.dtype).max:
        return
    at = np.flatnonzero(tally.counted[: tally.size] > most)
    counted = tally.counted[at].astype(np.int64)
    tally.corruptions += int((counted - most).sum())
    starts = run_starts(at, counted)
    tally.found.add(
        problems.OVERFLOW,
        first=at[starts],
        count=np.diff(np.append(starts, at.size)),
        counted=counted[starts],
        most=most,
        host=at[starts] * tally.geometry.cluster_size,
    )
