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
from qfix.recount.tally import CLASH

MOST_USERS = 1 << 20
MOST_ROWS = 1 << 14


@dataclass(frozen=True, slots=True)
class Users:
    """Guest clusters that lead to host clusters, sorted by host, guest; each pair once."""

    host: IntArray
    guest: IntArray
    layer: IntArray
    standard: BoolArray

    @property
    def starts(self) -> IntArray:
        """Where each host cluster's users begin."""
        return np.flatnonzero(np.diff(self.host, prepend=-1))


def clusters_have_one_owner(image: Image, made: Recount) -> Iterator[Findings]:
    """No host cluster is used by two guest clusters, or by guest data and metadata."""
    tally = made.tally
    if not tally.clashed:
        return
    clash = np.flatnonzero(tally.owners[: tally.size] & CLASH)
    users = _users(image, made)
    host, kind, which = _metadata_owners(made, clash)
    starts = users.starts
    used, many = users.host[starts], np.diff(np.append(starts, users.host.size)) > 1
    several = many & np.logical_or.reduceat(users.standard, starts) if starts.size else many
    meta = np.isin(used, host)
    yield from _report(image, problems.REUSED, users, used[several & ~meta])
    yield from _report(image, problems.DATA_ON_METADATA, users, used[meta], host, kind, which)
    again = host[1:][host[1:] == host[:-1]]
    yield from _report_metadata(image, np.unique(again), host, kind, which)


def _users(image: Image, made: Recount) -> Users:
    """Return every use of the clusters that have the CLASH bit, up to MOST_USERS of them."""
    bits, width = image.geometry.cluster_bits, image.geometry.l2_entries
    pieces: list[tuple[AnyArray, ...]] = [(NO_INTS, NO_INTS, NO_INTS, NO_INTS)]
    room = MOST_USERS
    for batch in read_batches(image, made.tables):
        entries = decode(image, batch)
        mapped = np.flatnonzero(entries.standard | entries.compressed)
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
        pieces.append((host[hit], guest, batch.tables.layer[row], entries.standard[entry]))
        if room <= 0:
            break
    host, guest, layer, standard = (np.concatenate(column) for column in zip(*pieces, strict=True))
    order = np.lexsort((layer, guest, host))
    host, guest, layer, standard = host[order], guest[order], layer[order], standard[order]
    distinct = np.ones(host.size, np.bool_)
    distinct[1:] = (host[1:] != host[:-1]) | (guest[1:] != guest[:-1])
    return Users(host[distinct], guest[distinct], layer[distinct], standard[distinct].astype(bool))


def _metadata_owners(made: Recount, clash: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Return (host cluster, kind, which) of the metadata in *clash*, sorted by cluster."""
    first, count, kind, which = made.tally.extents()
    low = np.searchsorted(clash, first)
    hits = np.searchsorted(clash, first + count) - low
    reached = np.flatnonzero(np.cumsum(hits) <= MOST_USERS)
    low, hits = low[reached], hits[reached]
    host = clash[spread(low, hits)]
    kind, which = np.repeat(kind[reached], hits), np.repeat(which[reached], hits)
    order = np.lexsort((which, kind, host))
    return host[order], kind[order], which[order]


def _report(
    image: Image,
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
    guests = [
        [
            (int(users.layer[at]), int(users.guest[at]) * size, count * size)
            for at in range(begin, begin + number)
        ]
        for begin, number, count in zip(
            low[starts].tolist(), many[starts].tolist(), counts.tolist(), strict=True
        )
    ]
    facts = {"host": first * size, "users": many[starts], "guests": guests}
    if owned.size:
        at = np.searchsorted(owned, first)
        facts |= {"owner_kind": kind[at], "owner_which": which[at]}
    yield Findings(problem, first, counts, facts, dropped)


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
