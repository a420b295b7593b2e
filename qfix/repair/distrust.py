"""Pass B: bitmaps whose content is damaged or stale are kept by name, and marked as in use."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qfix.change.allocate import NoRoomError
from qfix.change.draft import Change
from qfix.image import printable
from qfix.layout import bitmaps as layout
from qfix.layout import header
from qfix.layout.tables import ENTRY_SIZE
from qfix.problems import bitmaps as problems
from qfix.problems import tables
from qfix.recount.others import table_fits
from qfix.recount.tally import CLASH, Kind
from qfix.repair.area import is_misread
from qfix.repair.directory import (
    drop_all,
    is_alone,
    is_placed,
    raw_bitmap,
    write_directory,
)
from qfix.repair.fields import is_asked, make_room, note, put, refuse
from qfix.repair.owners import real_owners

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from qfix.arrays import BoolArray, Words
    from qfix.change.draft import Draft
    from qfix.layout.bitmaps import Bitmap
    from qfix.problems import Problem
    from qfix.repair.wanted import Wanted

U = np.uint64
UNREADABLE = (
    problems.EXTENSION,
    problems.COUNT,
    problems.DIRECTORY_RANGE,
    problems.DIRECTORY_BROKEN,
    problems.DIRECTORY_COUNT,
)
DAMAGED = (problems.TABLE, problems.TABLE_ENTRY, problems.TABLE_SIZE)
SHARED = (tables.DATA_ON_METADATA, tables.METADATA_ON_METADATA)
OUTSIDE = (problems.TABLE, problems.TABLE_ENTRY)


def mark_in_use(draft: Draft) -> bool:
    """Mark every bitmap as in use: the guest's data changes in a way that they do not tell.

    The overlay has to be as it was examined last. Returns whether anything was planned.
    """
    items = _bitmaps(draft)
    trusted = {item.index for item in items if not item.entry.flags & layout.IN_USE}
    why = "the plan changes what the guest reads"
    return bool(trusted) and _flag(draft, items, dict.fromkeys(trusted, why))


def distrust_shared(draft: Draft, wanted: Wanted) -> bool:
    """Mark bitmaps as in use that share clusters with something else, so may be overwritten.

    With lossy repairs they get off these clusters as well, and the directory in any case.
    """
    if not is_asked(draft, wanted.errors, *SHARED) or not _bitmaps(draft):
        return False
    if wanted.reuse or wanted.lossy:
        extension = draft.image.bitmaps_extension
        assert extension is not None  # noqa: S101  (there are bitmaps)
        place = extension.bitmap_directory_offset, extension.bitmap_directory_size
        if not is_alone(draft, *place) and _move_directory(draft, wanted):
            return True
    shared = _sharing(draft)
    items = _bitmaps(draft)
    if wanted.lossy and shared:
        code = next(problem.code for problem in SHARED if draft.found(problem))
        why = "it shares clusters with something else"
        return _renew(draft, wanted, dict.fromkeys(shared, (code, why)))
    trusted = {item.index for item in items if not item.entry.flags & layout.IN_USE}
    chosen = dict.fromkeys(shared & trusted, "it shares clusters with something else")
    return bool(chosen) and _flag(draft, items, chosen)


def distrust_damaged(draft: Draft, wanted: Wanted) -> bool:
    """Give bitmaps whose tables are damaged sound ones, and mark them as in use."""
    asked = is_asked(draft, wanted.all or wanted.lossy, *DAMAGED)
    if not asked or not _bitmaps(draft):
        return False
    chosen: dict[int, tuple[str, str]] = {}
    for problem in DAMAGED:
        found = draft.now.find(problem)
        for row in found.rows() if found else ():
            chosen.setdefault(row["first"], (problem.code, "a part of it can't be read"))
    if not wanted.lossy:
        code = chosen[min(chosen)][0]
        return refuse(draft, wanted, code, f"{len(chosen)} bitmaps would be given up")
    return _renew(draft, wanted, chosen, *OUTSIDE)


def _bitmaps(draft: Draft) -> tuple[Bitmap, ...]:
    """Return the bitmaps, none where the directory is not sound enough to be written."""
    if draft.now.recount is None or draft.found(*UNREADABLE) or is_misread(draft):
        return ()
    directory, valid = draft.image.directory, draft.image.header.autoclear_features
    if directory is None or not valid & header.BITMAPS or not is_placed(draft):
        return ()
    return directory.bitmaps


def _flag(draft: Draft, items: Iterable[Bitmap], chosen: Mapping[int, str]) -> bool:
    """Plan the in_use flag for some bitmaps, with the reason of each."""
    code = problems.IN_USE.code
    raws = [
        raw_bitmap(draft, item, flags=item.entry.flags | layout.IN_USE * (item.index in chosen))
        for item in items
    ]
    try:
        write_directory(draft, raws, code, "the directory gets a new place")
    except NoRoomError:
        return False
    for item in items:
        if item.index in chosen:
            text = f"bitmap {printable(item.name)} is marked as in use: {chosen[item.index]}"
            note(draft, Change(code, text, item.offset, 1, "", "in use"))
    return True


def _move_directory(draft: Draft, wanted: Wanted) -> bool:
    """Give the directory clusters of its own."""
    code = next(problem.code for problem in SHARED if draft.found(problem))
    raws = [raw_bitmap(draft, item) for item in _bitmaps(draft)]
    try:
        write_directory(draft, raws, code, "the directory gets clusters of its own")
    except NoRoomError as error:
        return refuse(draft, wanted, code, str(error))
    return True


def _sharing(draft: Draft) -> set[int]:
    """Return the bitmaps whose table or data is in a cluster with several owners."""
    first, count, kind, which = draft.made.tally.extents()
    mine = (kind == Kind.BITMAP_TABLE) | (kind == Kind.BITMAP_DATA)
    owners = real_owners(draft)
    rows = zip(first[mine].tolist(), count[mine].tolist(), which[mine].tolist(), strict=True)
    return {index for low, units, index in rows if (owners[low : low + units] & CLASH).any()}


def _renew(
    draft: Draft, wanted: Wanted, chosen: Mapping[int, tuple[str, str]], *mended: Problem
) -> bool:
    """Make the tables of bitmaps sound and mark them as in use; those that can't be are dropped.

    *chosen* gives the finding and the reason for each by its index.
    """
    items = _bitmaps(draft)
    code, why = next(iter(chosen.values()))
    try:
        renewed = {
            item.index: _renewed(draft, item, mended) for item in items if item.index in chosen
        }
        raws = [
            renewed[item.index].raw if item.index in renewed else raw_bitmap(draft, item)
            for item in items
        ]
        kept = [raw for raw in raws if raw]
        if not kept:
            return drop_all(draft, code, why)
        write_directory(draft, kept, code, f"{len(kept)} bitmaps are left", *mended, lossy=True)
    except NoRoomError as error:
        return refuse(draft, wanted, code, str(error))
    for item in items:
        if item.index in renewed:
            new = renewed[item.index]
            if new.table:
                put(draft, new.offset, new.table)
            _say(draft, item, *chosen[item.index], kept=bool(new.raw))
    return True


def _say(draft: Draft, item: Bitmap, code: str, why: str, *, kept: bool) -> None:
    """Note that the content of a bitmap is given up."""
    name = printable(item.name)
    text = f"bitmap {name}, {why}: its content is given up"
    new = "in use" if kept else "removed"
    note(draft, Change(code, f"{text}, it is {new}", item.offset, 1, "", new, lossy=True))
    draft.bitmaps += [name] if name not in draft.bitmaps else []


class Renewed(NamedTuple):
    """A bitmap's new directory entry, empty if there can be none, and its table to be written."""

    raw: bytes
    offset: int
    table: bytes


def _renewed(draft: Draft, item: Bitmap, mended: tuple[Problem, ...]) -> Renewed:
    """Find a place for a sound table of a bitmap.

    Entries that lead to sound clusters of the bitmap's own are kept. Nothing is written yet.
    """
    flags = item.entry.flags | layout.IN_USE
    geometry, entry = draft.image.geometry, item.entry
    length = entry.bitmap_table_size * ENTRY_SIZE
    offset = entry.bitmap_table_offset
    fits = table_fits(draft.image, item) and offset + length <= geometry.file_length
    if fits and is_alone(draft, offset, length):
        words = draft.image.table(offset, entry.bitmap_table_size, "a bitmap table")
        sound = np.where(_is_damaged(draft, words), U(0), words)
        return Renewed(raw_bitmap(draft, item, flags=flags), offset, sound.astype(">u8").tobytes())
    needed = max(1, item.needed_entries(geometry.virtual_size, geometry.cluster_size))
    most = layout.MAX_STORED_BYTES // geometry.cluster_size
    if entry.granularity_bits < layout.MIN_GRANULARITY_BITS or needed > most:
        return Renewed(b"", offset, b"")
    count = geometry.clusters(needed * ENTRY_SIZE)
    place = make_room(draft, count, *mended) << geometry.cluster_bits
    values = {"bitmap_table_offset": place, "bitmap_table_size": needed}
    raw = raw_bitmap(draft, item, flags=flags, **values)
    return Renewed(raw, place, bytes(count << geometry.cluster_bits))


def _is_damaged(draft: Draft, words: Words) -> BoolArray:
    """Tell which entries of a bitmap table lead nowhere, or to a cluster with several owners."""
    geometry, owners = draft.image.geometry, real_owners(draft)
    offset = (words & U(layout.TABLE_OFFSET)).astype(np.int64)
    wrong = (words & U(layout.TABLE_RESERVED)) != 0
    wrong |= (offset > 0) & ((words & U(1)) != 0)
    wrong |= (offset % geometry.cluster_size != 0) | (offset >= geometry.file_length)
    cluster = np.where(wrong, 0, offset >> geometry.cluster_bits)
    shared = (owners[cluster] & CLASH) != 0
    damaged: BoolArray = wrong | ((cluster > 0) & shared)
    return damaged


PLANNERS = (distrust_shared, distrust_damaged)
