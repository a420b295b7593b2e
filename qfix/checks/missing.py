"""Pass T: tables in use that a layer has lost: its L1 entry, or their content, is all zeros."""

from collections.abc import Iterator

import numpy as np

from qfix.arrays import BoolArray, IntArray
from qfix.checks.excess import Excess, excess, targets
from qfix.image import Image
from qfix.problems import Findings, Problem
from qfix.problems import refcounts as refcount_problems
from qfix.problems import tables as problems
from qfix.recount import Recount

FEWEST_LEAKS = 2
MOST_TABLES = 1 << 12


def shared_tables_are_not_lost(image: Image, made: Recount) -> Iterator[Findings]:
    """No layer lacks a table that others have and whose refcount counts one user more.

    A snapshot that was never finished leaves such refcounts too, but at tables that no layer
    lacks.
    """
    higher = excess(made, refcount_problems.TOO_HIGH)
    tables, bits = made.tables, image.geometry.cluster_bits
    suspects = higher.holds(tables.offset >> bits) if higher.first.size else np.zeros(0, bool)
    if not suspects.any():
        return
    index, offset = tables.index[suspects], tables.offset[suspects]
    reach = image.geometry.bytes_per_l1_entry
    leads = _leads_into_file(image, made)
    astray = made.entries.layer[~leads & np.isin(made.entries.index, index)]
    first = set(astray.tolist())
    for layer, entries in sorted(_lengths(image), key=lambda item: item[0] not in first):
        known = made.entries.index[(made.entries.layer == layer) & leads]
        if np.isin(index, known).any() or not (index < entries).all():
            continue
        kept = slice(None, MOST_TABLES)
        place = "the active layer" if layer == 0 else f"snapshot[{layer - 1}]"
        yield problems.LACKED_L2.at(
            (offset >> bits)[kept],
            np.ones_like(offset[kept]),
            host=offset[kept],
            index=index[kept],
            place=[place] * len(offset[kept]),
            guests=[[(layer, at * reach, reach)] for at in index[kept].tolist()],
        )
        return


def _leads_into_file(image: Image, made: Recount) -> BoolArray:
    """Tell which L1 entries lead to a place where a table can be."""
    target, geometry = made.entries.target, image.geometry
    leads: BoolArray = (target > 0) & (target % geometry.cluster_size == 0)
    return leads & (target < geometry.file_length)


def _lengths(image: Image) -> Iterator[tuple[int, int]]:
    """Yield each layer with the L1 entries that its disk needs."""
    yield 0, min(image.geometry.needed_l1_entries, image.header.l1_size)
    reach = image.geometry.bytes_per_l1_entry
    for item in image.snapshots:
        size = image.geometry.virtual_size if item.disk_size is None else item.disk_size
        yield item.index + 1, min(-(-size // reach), item.entry.l1_size)


def tables_in_use_are_not_emptied(image: Image, made: Recount) -> Iterator[Findings]:
    """No active L2 table is all zeros while what it led to is still counted.

    Told by leaked clusters right behind the table, as they were allocated, or by a snapshot's
    table of the same L1 index that leads to clusters with one user too many. The newest table of
    several, with the leaked clusters at the very end, is what a crash leaves that comes before the
    table's entries are written.
    """
    if not made.tally.empty_tables:
        return
    bits = image.geometry.cluster_bits
    leaked = excess(made, refcount_problems.LEAKED)
    tables = np.unique(np.array(made.tally.empty_tables, np.int64))
    index = made.tables.index[np.searchsorted(made.tables.offset, tables, sorter=_order(made))]
    behind = _run_behind(leaked, (tables >> bits) + 1)
    witness = np.zeros(tables.size, np.bool_)
    higher = excess(made, refcount_problems.TOO_HIGH)
    if higher.first.size:
        shadows = _shadowed(image, made, index[:MOST_TABLES], higher)
        witness = np.isin(index, shadows)
    newest = (tables >> bits) + 1 + behind >= made.tally.end_cluster
    only = tables.size == int((made.tables.active_visits > 0).sum())
    strong = (behind >= FEWEST_LEAKS) & (only | ~newest) | witness
    yield from _report_emptied(image, problems.EMPTIED_L2, tables, index, behind, strong)
    weak = (behind >= FEWEST_LEAKS) & ~strong
    yield from _report_emptied(image, problems.UNFILLED_L2, tables, index, behind, weak)


def _report_emptied(
    image: Image,
    problem: Problem,
    tables: IntArray,
    index: IntArray,
    behind: IntArray,
    chosen: BoolArray,
) -> Iterator[Findings]:
    if not chosen.any():
        return
    reach = image.geometry.bytes_per_l1_entry
    yield problem.at(
        tables[chosen] >> image.geometry.cluster_bits,
        np.ones_like(tables[chosen]),
        host=tables[chosen],
        leaked=behind[chosen],
        guests=[[(0, at * reach, reach)] for at in index[chosen].tolist()],
    )


def _order(made: Recount) -> IntArray:
    return np.argsort(made.tables.offset, kind="stable")


def _run_behind(leaked: Excess, clusters: IntArray) -> IntArray:
    """Return how many leaked clusters stand in a row from each of *clusters* on."""
    if not leaked.first.size:
        return np.zeros(clusters.size, np.int64)
    at = np.searchsorted(leaked.first, clusters, "right") - 1
    return np.where(leaked.holds(clusters), leaked.end[at] - clusters, 0)


def _shadowed(image: Image, made: Recount, index: IntArray, higher: Excess) -> IntArray:
    """Return those of *index* where a snapshot's table leads mostly to clusters in *higher*."""
    tables = made.tables
    size, bits = image.geometry.cluster_size, image.geometry.cluster_bits
    at = np.flatnonzero(np.isin(tables.index, index) & (tables.snapshot_visits > 0))
    found = []
    for number in at[:MOST_TABLES].tolist():
        words = np.empty((1, size // 8), np.uint64)
        image.file.read_each(words.data.cast("B"), [int(tables.offset[number])], size)
        words.byteswap(inplace=True)
        place, _, _ = targets(image, words)
        to = place[place >= 0] >> bits
        if to.size and 2 * int(higher.holds(to).sum()) >= to.size:
            found.append(int(tables.index[number]))
    return np.array(found, np.int64)


CHECKS = (shared_tables_are_not_lost, tables_in_use_are_not_emptied)
