"""What room a snapshot takes: what only it holds, what it shares, what was written since."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qfix.arrays import NO_INTS, spread
from qfix.change.mapping import View, differences
from qfix.recount.batches import by_row, read_batches
from qfix.recount.entries import decode
from qfix.recount.tally import Kind

if TYPE_CHECKING:
    from qfix.arrays import IntArray
    from qfix.image import Image
    from qfix.recount import Recount
    from qfix.recount.batches import Batch

NOBODY, SEVERAL = -1, -2
MOST_COMPARED = 64
"""Snapshots that are compared with the active layer; of more it would take long."""


class Space(NamedTuple):
    """Bytes of host clusters that only a layer refers to, and of those that others do too.

    `written_since` is how much of the guest's disk the active layer reads differently, None where
    that was not compared.
    """

    held: int
    shared: int
    written_since: int | None


def spaces(image: Image, made: Recount) -> list[Space]:
    """Return the room that each snapshot takes, in the order of the table.

    Deleting a snapshot frees what only it holds, its L1 table included.
    """
    count = 1 + len(image.snapshots)
    holders, referred = _holders(image, made, count)
    held = np.bincount(holders[holders >= 0], minlength=count)
    size = image.geometry.cluster_size
    compared = len(image.snapshots) <= MOST_COMPARED
    return [
        Space(
            int(held[layer]) * size,
            max(0, int(referred[layer]) - int(held[layer])) * size,
            _written_since(image, made, layer) if compared else None,
        )
        for layer in range(1, count)
    ]


def _written_since(image: Image, made: Recount, layer: int) -> int | None:
    """Return how many bytes read differently, None where damage makes that beyond all sense."""
    view, total = View(image, made), 0
    most = 2 * image.geometry.host_clusters * image.geometry.l2_entries
    for part in differences(view, view, [layer], (NO_INTS, NO_INTS)):
        total += np.unique(part.start).size * part.length
        if total > most * part.length:  # more than all tables in the file could map
            return None
    return total


def _holders(image: Image, made: Recount, count: int) -> tuple[IntArray, IntArray]:
    """Return the one layer that refers to each cluster, and the clusters of each layer.

    NOBODY stands for no layer, SEVERAL for more than one.
    """
    holder = np.full(made.tally.size, NOBODY)
    referred = np.zeros(count, np.int64)
    entries, tables = made.entries, made.tables
    owners, layers = _owners(made, count)
    _claim_l1(made, holder, referred)
    bits = image.geometry.cluster_bits
    real = (tables.offset > 0) & (tables.offset >> bits < holder.size)
    _claim(holder, tables.offset[real] >> bits, owners[real])
    clusters = np.zeros(tables.offset.size, np.int64)
    clusters[real] = 1
    kept = np.flatnonzero(~tables.hole)
    done = 0
    for batch in read_batches(image, tables):
        rows = kept[done : done + batch.tables.offset.size]
        done += rows.size
        if not image.geometry.data_file:
            clusters[rows] += _claim_batch(image, batch, holder, owners[rows])
    order = np.argsort(tables.offset, kind="stable")
    at = np.searchsorted(tables.offset, entries.target, sorter=order)
    known = at < order.size
    at = order[np.where(known, at, 0)] if order.size else at
    led = known & (tables.offset[at] == entries.target) if order.size else known
    sums = by_row(entries.layer[led].astype(np.int64), count, clusters[at[led]])
    for first, all_ in layers.items():
        referred[all_] += sums[first]
    return holder, referred


def _owners(made: Recount, count: int) -> tuple[IntArray, dict[int, list[int]]]:
    """Return the one layer that leads to each L2 table, and all layers by the first that shares."""
    entries, tables = made.entries, made.tables
    layers = {layer: [layer] for layer in range(count)}
    for first, all_ in entries.sharers.items():
        for one in all_:
            layers.pop(one, None)
        layers[first] = list(all_)
    order = np.argsort(entries.target, kind="stable")
    target, layer = entries.target[order], entries.layer[order].astype(np.int64)
    shared = np.array([first for first, all_ in layers.items() if len(all_) > 1], np.int64)
    layer[np.isin(layer, shared)] = SEVERAL
    low = np.searchsorted(target, tables.offset)
    high = np.searchsorted(target, tables.offset, "right")
    owner = np.full(tables.offset.size, NOBODY)
    used = np.flatnonzero(high > low)
    if used.size:
        starts = np.stack((low[used], high[used]), axis=1).ravel()
        padded = np.append(layer, 0)
        least = np.minimum.reduceat(padded, starts)[::2]
        most = np.maximum.reduceat(padded, starts)[::2]
        owner[used] = np.where(least == most, least, SEVERAL)
    return owner, layers


def _claim_l1(made: Recount, holder: IntArray, referred: IntArray) -> None:
    first, count, kind, which = made.tally.extents()
    tables = kind == Kind.L1_TABLE
    others = (kind != Kind.L1_TABLE) & (kind != Kind.L2_TABLE)
    cluster = spread(first[others], count[others])
    _claim(holder, cluster, np.full(cluster.size, SEVERAL))
    cluster = spread(first[tables], count[tables])
    _claim(holder, cluster, np.repeat(which[tables], count[tables]))
    np.add.at(referred, which[tables], count[tables])


def _claim_batch(image: Image, batch: Batch, holder: IntArray, owners: IntArray) -> IntArray:
    """Claim what some tables lead to; return how many clusters each of them leads to."""
    entries, bits = decode(image, batch), image.geometry.cluster_bits
    led = np.flatnonzero(entries.standard | entries.compressed)
    first = entries.offset[led] >> bits
    last = (entries.offset[led] + entries.length[led] - 1) >> bits
    count = last - first + 1
    row = entries.row[led]
    _claim(holder, spread(first, count), np.repeat(owners[row], count))
    return by_row(row, batch.tables.offset.size, count)


def _claim(holder: IntArray, cluster: IntArray, owner: IntArray) -> None:
    """Let each cluster be its owner's, or that of several if it is another one's too."""
    inside = cluster < holder.size
    if not inside.all():
        cluster, owner = cluster[inside], owner[inside]
    free = holder[cluster] == NOBODY
    holder[cluster[free]] = owner[free]
    holder[cluster[holder[cluster] != owner]] = SEVERAL
