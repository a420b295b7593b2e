"""Pass T: clusters with two users: each further reader gets a copy of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qfix.arrays import NO_INTS, AnyArray, BoolArray, IntArray, grouped, runs, spread
from qfix.change.allocate import NoRoomError, allocate, allocate_each
from qfix.change.draft import LOST, SUSPECT, Change, Left
from qfix.inference.neighbours import from_neighbours, single_leaks
from qfix.layout.header import CRYPT_LUKS
from qfix.layout.tables import ALLOC_BITS, OFFSET_MASK, ZERO, descriptor_bits
from qfix.problems import refcounts, tables
from qfix.recount.batches import read_batches
from qfix.recount.entries import decode
from qfix.recount.tally import CLASH, METADATA
from qfix.recount.walk import are_tables, headless_layers
from qfix.repair.owners import real_owners, sound_tables

if TYPE_CHECKING:
    from qfix.change.draft import Draft
    from qfix.problems import Problem
    from qfix.repair.wanted import Wanted

U = np.uint64
MOST_USERS = 1 << 22
MOST_COPIED = 1 << 30
MOST_COPIES = 1 << 15
COPY_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class Uses:
    """L2 entries that lead to clusters with several owners, as columns of equal length.

    `host` and `guest` are cluster numbers, `table` the byte offset of the L2 table, `index` the
    entry in it. Compressed entries have a row for each host cluster that they touch; `first` is
    the first of these, `span` how many there are.
    """

    host: IntArray
    guest: IntArray
    table: IntArray
    index: IntArray
    compressed: BoolArray
    first: IntArray
    span: IntArray

    def part(self, chosen: BoolArray | IntArray) -> Uses:
        """Return some of the rows."""
        return Uses(*(getattr(self, name)[chosen] for name in Uses.__slots__))


def copy_shared_clusters(draft: Draft, wanted: Wanted) -> bool:
    """Give every guest cluster but one that leads to a host cluster a copy of its own.

    Metadata keeps its cluster, the guest data on it moves. Both readers stay suspect: one of them
    has been reading, and perhaps writing, what belongs to the other.
    """
    asked = wanted.reuse and draft.found(tables.REUSED, tables.DATA_ON_METADATA)
    if not asked or draft.image.geometry.data_file:
        return False
    if draft.image.header.crypt_method == CRYPT_LUKS and not wanted.lossy:
        why = "with LUKS a copy reads as something else, so clusters with two users can't be copied"
        draft.leave("luks", Left((tables.REUSED.code,), why, "--lossy"))
        return False
    uses = _uses(draft)
    return _move_compressed(draft, uses) or _move_standard(draft, uses)


def _move_standard(draft: Draft, uses: Uses) -> bool:
    """Give standard entries that have to move copies of their clusters.

    Without losses those stay for which a leaked cluster fits between their neighbours: it is
    probably their own, and a copy of the other one would hide that.
    """
    moving = _movers(draft, uses)
    if not draft.lossy and draft.found(refcounts.LEAKED):
        moving = _without_fitting(draft, moving)
    if not moving.host.size:
        return False
    pairs, which = np.unique(
        np.stack((moving.host, moving.guest), axis=1), axis=0, return_inverse=True
    )
    size = draft.image.geometry.cluster_size
    if not fits(draft, len(pairs) * size, tables.REUSED):
        return False
    try:
        places = allocate_each(draft, len(pairs))
    except NoRoomError as error:
        return _let_go(draft, moving, error)
    copy_clusters(draft, pairs[:, 0], places, as_it_was=True)
    if draft.image.header.crypt_method == CRYPT_LUKS:
        draft.tell_entries(LOST, moving.table, moving.index)
    _lead_there(draft, moving, places[which.ravel()])
    _say(draft, pairs, places)
    for problem in (tables.REUSED, tables.DATA_ON_METADATA):
        suspect(draft, problem)
    return True


def _uses(draft: Draft) -> Uses:
    """Return every use of the clusters that have the CLASH bit."""
    image, tally = draft.image, draft.made.tally
    geometry = image.geometry
    headless = headless_layers(image)
    none = np.zeros(0, np.bool_)
    pieces: list[tuple[AnyArray, ...]] = [(*(NO_INTS,) * 4, none, NO_INTS, NO_INTS)]
    room = MOST_USERS
    for batch in read_batches(image, sound_tables(draft)):
        entries = decode(image, batch)
        real = are_tables(image, batch.tables, headless)[entries.row]
        aligned = entries.standard & (entries.offset % geometry.cluster_size == 0)
        at = np.flatnonzero((aligned | (entries.compressed & (entries.bitmap == 0))) & real)
        first = entries.offset[at] >> geometry.cluster_bits
        last = (entries.offset[at] + entries.length[at] - 1) >> geometry.cluster_bits
        count = np.clip(last - first + 1, 0, 3)
        at, host = np.repeat(at, count), spread(first, count)
        first, count = np.repeat(first, count), np.repeat(count, count)
        inside = np.flatnonzero(host < tally.size)
        hit = inside[(tally.owners[host[inside]] & CLASH) != 0][:room]
        room -= hit.size
        at = at[hit]
        row = entries.row[at]
        guest = batch.tables.index[row] * geometry.l2_entries + entries.index[at]
        table = batch.tables.offset[row]
        index, packed = entries.index[at], entries.compressed[at]
        pieces.append((host[hit], guest, table, index, packed, first[hit], count[hit]))
    return Uses(*(np.concatenate(column) for column in zip(*pieces, strict=True)))


def _movers(draft: Draft, uses: Uses) -> Uses:
    """Return the uses by standard entries that get copies."""
    metadata = np.isin(uses.host, _real_metadata(draft))
    packed = np.isin(uses.host, uses.host[uses.compressed])
    order = np.lexsort((uses.guest, uses.host))
    host, guest = uses.host[order], uses.guest[order]
    heads = np.flatnonzero(np.diff(host, prepend=-1))
    keeper = np.repeat(guest[heads], np.diff(np.append(heads, host.size)))
    keeps = np.zeros(uses.host.size, np.bool_)
    keeps[order] = guest == keeper
    return uses.part(~uses.compressed & (metadata | packed | ~keeps))


def _move_compressed(draft: Draft, uses: Uses) -> bool:
    """Give compressed clusters that lie on metadata copies of the clusters that they touch."""
    at = np.flatnonzero(uses.compressed & np.isin(uses.host, _real_metadata(draft)))
    if not at.size:
        return False
    keys = np.stack((uses.first[at], uses.span[at], uses.guest[at]), axis=1)
    distinct, which = np.unique(keys, axis=0, return_inverse=True)
    span = distinct[:, 1]
    size = draft.image.geometry.cluster_size
    if not fits(draft, int(span.sum()) * size, tables.DATA_ON_METADATA):
        return False
    try:
        start = allocate(draft, int(span.sum()))
    except NoRoomError as error:
        return _let_go(draft, uses.part(at), error)
    places = start + np.cumsum(span) - span
    copy_clusters(
        draft, spread(distinct[:, 0], span), np.arange(start, start + span.sum()), as_it_was=True
    )
    moving = uses.part(at)
    _shift_compressed(draft, moving, (places[which.ravel()] - moving.first) * size)
    _say(draft, distinct[:, [0, 2]], places)
    suspect(draft, tables.DATA_ON_METADATA)
    return True


def _let_go(draft: Draft, moving: Uses, error: NoRoomError) -> bool:
    """Give up entries for which there is no room to copy; a plan without losses says so instead."""
    if not draft.lossy:
        draft.leave("room", Left((tables.REUSED.code, tables.DATA_ON_METADATA.code), str(error)))
        return False
    image = draft.image
    zeros = image.head.backing_name is not None and image.header.version >= 3
    step = image.geometry.entry_size // 8
    for table, at in grouped(moving.table):
        words = np.frombuffer(draft.overlay.read(table, image.geometry.cluster_size), ">u8").copy()
        index = moving.index[at] * step
        words[index] = ZERO if zeros and not image.geometry.extended else 0
        if image.geometry.extended:
            words[index + 1] = ALLOC_BITS << 32 if zeros else 0
        draft.write(table, words.tobytes())
        text = f"{at.size} L2 entries of the table at {table:#x} lead to what others use; given up"
        draft.note(Change(tables.DATA_ON_METADATA.code, text, table, at.size, lossy=True))
    draft.tell_entries(LOST, moving.table, moving.index)
    return True


def _shift_compressed(draft: Draft, moving: Uses, shift: IntArray) -> None:
    """Move where compressed entries lead by *shift* bytes; their sectors stay as many."""
    geometry = draft.image.geometry
    mask = U((1 << descriptor_bits(geometry.cluster_bits)) - 1)
    step = geometry.entry_size // 8
    for table, at in grouped(moving.table):
        words = np.frombuffer(draft.overlay.read(table, geometry.cluster_size), ">u8").copy()
        index, first = np.unique(moving.index[at], return_index=True)
        entry = words[index * step].astype(np.uint64)
        place = ((entry & mask).astype(np.int64) + shift[at][first]).astype(np.uint64)
        words[index * step] = (entry & ~mask) | place
        draft.write(table, words.tobytes())


def _without_fitting(draft: Draft, moving: Uses) -> Uses:
    """Leave out the entries for which a leaked cluster fits; say so."""
    geometry = draft.image.geometry
    leaked = single_leaks(draft.made)
    fits_at: list[IntArray] = [NO_INTS]
    tables_ = draft.made.tables
    some = tables_.part(np.isin(tables_.offset, moving.table))
    for batch in read_batches(draft.image, some):
        entries = decode(draft.image, batch)
        table = batch.tables.offset[entries.row]
        key = table + entries.index * geometry.entry_size
        doubtful = np.isin(key, moving.table + moving.index * geometry.entry_size)
        none = np.zeros(doubtful.size, np.bool_)
        bits, width = geometry.cluster_bits, geometry.l2_entries
        fits_at.append(key[from_neighbours(entries, none, doubtful, leaked, bits, width).at])
    held = np.isin(moving.table + moving.index * geometry.entry_size, np.concatenate(fits_at))
    if held.any():
        why = (
            f"{int(held.sum())} entries share a cluster, and a leaked one fits exactly between"
            " their neighbours: it is probably theirs"
        )
        problems = (tables.REUSED, tables.DATA_ON_METADATA, refcounts.BLOCK_SHARED)
        codes = tuple(problem.code for problem in problems if draft.found(problem))
        draft.leave("fits", Left(codes, why, "--lossy"))
    return moving.part(~held)


def _real_metadata(draft: Draft) -> IntArray:
    """Return the clusters that hold metadata, those of unaligned L2 tables left out."""
    owners = real_owners(draft)
    return np.flatnonzero((owners & CLASH != 0) & (owners & METADATA != 0))


def fits(draft: Draft, size: int, problem: Problem) -> bool:
    """Tell whether copies of *size* bytes are within what a plan may add; say so if they aren't."""
    copies = size >> draft.image.geometry.cluster_bits
    if size <= MOST_COPIED + draft.overlay.size and copies <= MOST_COPIES:
        return True
    why = f"{copies} copies of clusters ({size >> 20} MiB) would be needed: that many are not made"
    draft.leave("copies", Left((problem.code,), why, "qemu-img convert"))
    return False


def copy_clusters(
    draft: Draft, source: IntArray, target: IntArray, *, as_it_was: bool = False
) -> None:
    """Plan copies of the clusters *source* at *target*.

    With *as_it_was* they hold what the file has there, for the plan may have changed it since.
    """
    bits, size = draft.image.geometry.cluster_bits, draft.image.geometry.cluster_size
    step = max(1, COPY_BYTES // size)
    buffer = memoryview(bytearray(step * size))
    for start in range(0, source.size, step):
        part = source[start : start + step]
        view = buffer[: part.size * size]
        draft.overlay.read_each(view, (part << bits).tolist(), size)
        if as_it_was:
            _read_as_it_was(draft, view, part)
        first, count, at = runs(target[start : start + step])
        for low, units, place in zip(first.tolist(), count.tolist(), at.tolist(), strict=True):
            draft.write(low << bits, view[place * size : (place + units) * size])


def _read_as_it_was(draft: Draft, view: memoryview, clusters: IntArray) -> None:
    """Read the clusters that had an owner in the file from the file itself."""
    before = draft.before.recount
    if before is None:
        return
    bits, size = draft.image.geometry.cluster_bits, draft.image.geometry.cluster_size
    inside = clusters < before.tally.size
    owned = inside & (before.tally.owners[np.where(inside, clusters, 0)] != 0)
    for at in np.flatnonzero(owned).tolist():
        part = view[at * size : (at + 1) * size]
        draft.overlay.base.read_each(part, [int(clusters[at]) << bits], size)


def _lead_there(draft: Draft, moving: Uses, places: IntArray) -> None:
    """Let the moving entries lead to their copies; all other bits stay."""
    geometry = draft.image.geometry
    step = geometry.entry_size // 8
    for table, at in grouped(moving.table):
        words = np.frombuffer(draft.overlay.read(table, geometry.cluster_size), ">u8").copy()
        index = moving.index[at] * step
        flags = words[index].astype(np.uint64) & ~U(OFFSET_MASK)
        words[index] = flags | (places[at].astype(np.uint64) << U(geometry.cluster_bits))
        draft.write(table, words.tobytes())


def _say(draft: Draft, pairs: IntArray, places: IntArray) -> None:
    size = draft.image.geometry.cluster_size
    host, guest = pairs[:, 0], pairs[:, 1]
    _, counts, starts = runs(places, host - places, guest - places)
    metadata = _real_metadata(draft)
    room = max(0, draft.room(tables.REUSED.code))
    for at, count in zip(starts[:room].tolist(), counts[:room].tolist(), strict=True):
        problem = tables.DATA_ON_METADATA if host[at] in metadata else tables.REUSED
        text = (
            f"guest {int(guest[at]) * size:#x} ({count} clusters) gets a copy of host cluster"
            f" {int(host[at])}{' and the next' if count > 1 else ''}"
        )
        old, new = f"{int(host[at]) * size:#x}", f"{int(places[at]) * size:#x}"
        draft.note(Change(problem.code, text, int(places[at]) * size, count, old, new))
    draft.omit(tables.REUSED.code, starts.size - room)


def suspect(draft: Draft, problem: Problem) -> None:
    """Say that the content of every guest range of a finding is to be doubted."""
    found = draft.now.find(problem)
    draft.shared |= found is not None
    for row in found.rows() if found else ():
        ranges = row.get("guests") or [
            (layer, row["guest"] + shift, row["guest_length"])
            for layer, shift in row.get("layers", ())
        ]
        for layer, start, length in ranges:
            draft.tell(SUSPECT, layer, np.array([start]), np.array([length]))
