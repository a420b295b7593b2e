"""Pass T: host clusters that two owners claim: who they are, and every guest range involved."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from qfix.arrays import NO_INTS, AnyArray, BoolArray, IntArray, spread
from qfix.image import Image
from qfix.problems import Findings, Problem
from qfix.problems import tables as problems
from qfix.recount import Recount
from qfix.recount.batches import read_batches
from qfix.recount.entries import decode
from qfix.recount.sharing import layers_each, users_of
from qfix.recount.tally import CLASH
from qfix.recount.walk import are_tables, headless_layers

MOST_USERS = 1 << 20
MOST_ROWS = 1 << 14
MIXER = 0x1E3779B97F4A7C15
"""Spreads what is summed up over all bits, so that equal sums are those of equal things."""


@dataclass(frozen=True, slots=True)
class Users:
    """Guest clusters that lead to host clusters, sorted by host, guest; each pair once.

    `begin` and `end` are where the L2 tables that lead there stand in `tables`, of which there may
    be several in different layers; `mark` differs where they are used by different layers.
    """

    host: IntArray
    guest: IntArray
    standard: BoolArray
    mark: IntArray
    begin: IntArray
    end: IntArray
    tables: IntArray
    index: IntArray

    @property
    def starts(self) -> IntArray:
        """Where each host cluster's users begin."""
        return np.flatnonzero(np.diff(self.host, prepend=-1))


def clusters_have_one_owner(image: Image, made: Recount) -> Iterator[Findings]:
    """No host cluster is used by two guest clusters, or by guest data and metadata."""
    tally = made.tally
    if not tally.clashed:
        return
    clash = clashes(made)
    users = _users(image, made)
    host, kind, which = metadata_owners(made, clash)
    starts = users.starts
    used, many = users.host[starts], np.diff(np.append(starts, users.host.size)) > 1
    several = many & np.logical_or.reduceat(users.standard, starts) if starts.size else many
    meta = np.isin(used, host)
    yield from _report(image, made, problems.REUSED, users, used[several & ~meta])
    yield from _report(image, made, problems.DATA_ON_METADATA, users, used[meta], host, kind, which)
    again = host[1:][host[1:] == host[:-1]]
    yield from _report_metadata(image, np.unique(again), host, kind, which)


def clashes(made: Recount) -> IntArray:
    """Return the clusters that have the CLASH bit, up to about MOST_USERS of them."""
    tally, step = made.tally, 1 << 20
    found, room = [NO_INTS], MOST_USERS
    for start in range(0, tally.size, step):
        part = tally.owners[start : min(start + step, tally.size)] & CLASH
        found.append(np.flatnonzero(part)[:room] + start)
        room -= found[-1].size
    return np.concatenate(found)


def _users(image: Image, made: Recount) -> Users:
    """Return every use of the clusters that have the CLASH bit, up to MOST_USERS of them."""
    bits, width = image.geometry.cluster_bits, image.geometry.l2_entries
    pieces: list[tuple[AnyArray, ...]] = [(NO_INTS, NO_INTS, NO_INTS, NO_INTS)]
    room = MOST_USERS
    headless = headless_layers(image)
    for batch in read_batches(image, made.tables):
        entries = decode(image, batch)
        real = are_tables(image, batch.tables, headless)[entries.row]
        aligned = entries.standard & (entries.offset % image.geometry.cluster_size == 0)
        mapped = np.flatnonzero((aligned | entries.compressed) & real)
        first = entries.offset[mapped] >> bits
        last = (entries.offset[mapped] + entries.length[mapped] - 1) >> bits
        count = np.minimum(last - first + 1, 3)
        entry = np.repeat(mapped, count)
        host = spread(first, count)
        inside = np.flatnonzero(host < made.tally.size)
        hit = inside[(made.tally.owners[host[inside]] & CLASH) != 0][:room]
        room -= hit.size
        entry = entry[hit]
        row = entries.row[entry]
        guest = batch.tables.index[row] * width + entries.index[entry]
        pieces.append((host[hit], guest, batch.tables.offset[row], entries.standard[entry]))
        if room <= 0:
            break
    host, guest, table, standard = (np.concatenate(column) for column in zip(*pieces, strict=True))
    order = np.lexsort((table, guest, host))
    host, guest, table, standard = host[order], guest[order], table[order], standard[order]
    distinct = np.ones(host.size, np.bool_)
    distinct[1:] = (host[1:] != host[:-1]) | (guest[1:] != guest[:-1])
    begin = np.flatnonzero(distinct)
    end = np.append(begin[1:], host.size)
    mark = np.add.reduceat(_marks(made, table), begin) if begin.size else NO_INTS
    kept = standard[begin].astype(bool)
    return Users(host[begin], guest[begin], kept, mark, begin, end, table, guest // width)


def _marks(made: Recount, table: IntArray) -> IntArray:
    """Return a number for each *table*, equal for those that the same one layer uses."""
    order = np.argsort(made.tables.offset)
    at = order[np.searchsorted(made.tables.offset, table, sorter=order)]
    shared = made.tables.visits[at] > 1
    marks: IntArray = np.where(shared, ~table, made.tables.layer[at]) * np.int64(MIXER)
    return marks


def metadata_owners(made: Recount, clash: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Return (host cluster, kind, which) of the metadata in *clash*, sorted by cluster."""
    first, count, kind, which = made.tally.extents()
    low = np.searchsorted(clash, first)
    hits = np.searchsorted(clash, first + count) - low
    small = np.argsort(hits, kind="stable")
    reached = np.sort(small[np.cumsum(hits[small]) <= MOST_USERS])
    low, hits = low[reached], hits[reached]
    host = clash[spread(low, hits)]
    kind, which = np.repeat(kind[reached], hits), np.repeat(which[reached], hits)
    order = np.lexsort((which, kind, host))
    return host[order], kind[order], which[order]


def _report(
    image: Image,
    made: Recount,
    problem: Problem,
    users: Users,
    hosts: IntArray,
    owned: IntArray = NO_INTS,
    kind: IntArray = NO_INTS,
    which: IntArray = NO_INTS,
) -> Iterator[Findings]:
    """Yield one row a run of host clusters whose users run alongside."""
    if not hosts.size:
        return
    size = image.geometry.cluster_size
    low = np.searchsorted(users.host, hosts)
    many = np.searchsorted(users.host, hosts, "right") - low
    starts = _alongside(users, hosts, low, many, owned)
    counts = np.diff(np.append(starts, hosts.size))
    dropped = max(0, starts.size - MOST_ROWS)
    starts, counts = starts[:MOST_ROWS], counts[:MOST_ROWS]
    first = hosts[starts]
    low, many = low[starts], many[starts]
    guests, totals = _guests(image, made, users, low, many, counts)
    facts = {"host": first * size, "users": many, "guests": guests, "users_total": totals}
    if owned.size:
        at = np.searchsorted(owned, first)
        facts |= {"owner_kind": kind[at], "owner_which": which[at]}
    yield Findings(problem, first, counts, facts, dropped)


def _guests(
    image: Image, made: Recount, users: Users, low: IntArray, many: IntArray, counts: IntArray
) -> tuple[list[list[tuple[int, int, int]]], list[int]]:
    """Return the guest ranges of each row in every layer, and how many there are in all.

    The row's guest clusters are *many* users from *low* on, each the first of *counts* clusters.
    """
    size, reach = image.geometry.cluster_size, image.geometry.bytes_per_l1_entry
    at = spread(low, many)
    each = spread(users.begin[at], users.end[at] - users.begin[at])
    known = users_of(made.entries, np.unique(users.tables[each]), layers_each(each.size))
    guests: list[list[tuple[int, int, int]]] = []
    totals: list[int] = []
    for begin, number, count in zip(low.tolist(), many.tolist(), counts.tolist(), strict=True):
        ranges: list[tuple[int, int, int]] = []
        total = 0
        for user in range(begin, begin + number):
            start, own = int(users.guest[user]) * size, int(users.index[users.begin[user]])
            tables = users.tables[users.begin[user] : users.end[user]].tolist()
            told = {pair for table in tables for pair in known[table][0]}
            total += sum(known[table][1] for table in tables)
            ranges += [
                (layer, start + (index - own) * reach, count * size)
                for layer, index in sorted(told)
            ]
        guests.append(ranges)
        totals.append(total)
    return guests, totals


def _alongside(
    users: Users, hosts: IntArray, low: IntArray, many: IntArray, owned: IntArray
) -> IntArray:
    """Return where a run begins: hosts not consecutive, or some guest not next to its last."""
    new = np.ones(hosts.size, np.bool_)
    new[1:] = (np.diff(hosts) != 1) | (np.diff(many) != 0) | (many[1:] > 16)
    for rank in range(int(min(many.max(), 16))):
        both = np.flatnonzero(~new[1:] & (many[1:] > rank)) + 1
        step = users.guest[low[both] + rank] - users.guest[low[both - 1] + rank]
        new[both] |= step != 1
        new[both] |= users.mark[low[both] + rank] != users.mark[low[both - 1] + rank]
    if owned.size:
        new[:] = True
    return np.flatnonzero(new)


def _report_metadata(
    image: Image, hosts: IntArray, host: IntArray, kind: IntArray, which: IntArray
) -> Iterator[Findings]:
    if not hosts.size:
        return
    at = np.searchsorted(host, hosts)
    distinct = (kind[at] != kind[at + 1]) | (which[at] != which[at + 1])
    at = at[distinct][:MOST_ROWS]
    if at.size:
        yield problems.METADATA_ON_METADATA.at(
            host[at],
            np.ones_like(at),
            host=host[at] * image.geometry.cluster_size,
            owner_kind=kind[at],
            owner_which=which[at],
            other_kind=kind[at + 1],
            other_which=which[at + 1],
        )
