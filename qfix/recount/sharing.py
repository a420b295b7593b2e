"""Who else uses a table: findings of entries told for every layer that leads to them."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from qfix.arrays import IntArray
from qfix.image import Image
from qfix.problems import Findings
from qfix.problems import refcounts as problems
from qfix.recount.l1 import L1Entries

Users = tuple[tuple[int, int], ...]
"""(layer, L1 index) of each L1 entry that leads to a table, sorted."""

MOST_LAYERS = 64
MOST_LISTED = 1 << 18
ACTIVE_ONLY = (problems.L1_COPIED, problems.L2_COPIED)
"""Flags that have a meaning in the active layer only."""


def layers_each(rows: int) -> int:
    """Return how many users are listed a row, so that the list of all *rows* stays bounded."""
    return max(1, min(MOST_LAYERS, MOST_LISTED // max(1, rows)))


def users_of(entries: L1Entries, offsets: IntArray, most: int) -> dict[int, tuple[Users, int]]:
    """Return up to *most* users of the L2 tables at *offsets*, and how many there are."""
    at = np.flatnonzero(np.isin(entries.target, offsets))
    target = (entries.target[at]).astype(np.int64)
    at = at[np.argsort(target, kind="stable")]
    target = np.sort(target)
    starts = np.flatnonzero(np.diff(target, prepend=-1))
    ends = np.append(starts[1:], target.size)
    weights = np.add.reduceat(entries.weight[at], starts, dtype=np.int64) if at.size else starts
    found: dict[int, tuple[Users, int]] = {}
    for place, start, end, total in zip(
        target[starts].tolist(), starts.tolist(), ends.tolist(), weights.tolist(), strict=True
    ):
        some = at[start : min(end, start + most)]
        pairs = [
            (layer, index)
            for first, index in zip(
                entries.layer[some].tolist(), entries.index[some].tolist(), strict=True
            )
            for layer in entries.sharers.get(first, [first])[:most]
        ]
        found[place] = tuple(sorted(pairs)[:most]), total
    return found


def told_of_all_layers(
    image: Image, entries: L1Entries, found: Iterable[Findings]
) -> Iterator[Findings]:
    """Yield *found*; those of entries get the facts `layers` and `layers_total`.

    `layers` is a list of (layer, byte offset of its guest range from that of the row),
    `layers_total` how many there are.
    """
    for findings in found:
        facts = findings.facts
        if findings.problem in ACTIVE_ONLY or "layer" not in facts or "guest" not in facts:
            yield findings
        elif "table" in facts:
            yield _of_l2_entries(image, entries, findings)
        else:
            yield _of_l1_entries(entries, findings)


def _of_l2_entries(image: Image, entries: L1Entries, findings: Findings) -> Findings:
    facts, reach = findings.facts, image.geometry.bytes_per_l1_entry
    known = users_of(entries, np.unique(facts["table"]), layers_each(len(findings)))
    made: dict[tuple[int, int], list[tuple[int, int]]] = {}
    totals: list[int] = []
    layers: list[list[tuple[int, int]]] = []
    for table, index in zip(facts["table"].tolist(), facts["l1_index"].tolist(), strict=True):
        users, total = known[table]
        if (table, index) not in made:
            made[table, index] = [(layer, (at - index) * reach) for layer, at in users]
        layers.append(made[table, index])
        totals.append(total)
    return replace(findings, facts={**facts, "layers": layers, "layers_total": totals})


def _of_l1_entries(entries: L1Entries, findings: Findings) -> Findings:
    most = layers_each(len(findings))
    listed = [entries.sharers.get(layer, [layer]) for layer in findings.facts["layer"].tolist()]
    known = {each[0]: [(layer, 0) for layer in each[:most]] for each in listed}
    layers = [known[each[0]] for each in listed]
    totals = [len(each) for each in listed]
    return replace(findings, facts={**findings.facts, "layers": layers, "layers_total": totals})
