"""Pass B: persistent bitmaps: what can be told is put right, the rest is not trusted any more.

A bitmap that is damaged must not read as "nothing changed": the next incremental backup would
miss data. It is marked as in use, which QEMU takes for inconsistent, or given up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qfix.change.allocate import NoRoomError
from qfix.change.draft import Change
from qfix.image import printable
from qfix.layout import bitmaps as layout
from qfix.layout import header
from qfix.problems import bitmaps as problems
from qfix.repair import distrust
from qfix.repair.area import is_misread
from qfix.repair.directory import (
    drop_all,
    is_placed,
    raw_bitmap,
    read_directory,
    set_extension,
    told_size,
    write_directory,
)
from qfix.repair.distrust import mark_in_use
from qfix.repair.fields import EXTENSIONS, is_asked, note, refuse, reveal, set_field
from qfix.repair.search import find_bitmap_directory

if TYPE_CHECKING:
    from qfix.change.draft import Draft
    from qfix.repair.wanted import Wanted

__all__ = ["PLANNERS", "mark_in_use"]

DIRECTORY = (
    problems.DIRECTORY_RANGE,
    problems.DIRECTORY_BROKEN,
    problems.COUNT,
    problems.DIRECTORY_COUNT,
)
UNFIT = (
    problems.NAME_DOUBLE,
    problems.FLAGS,
    problems.GRANULARITY,
    problems.TYPE,
    problems.EXTRA,
    problems.NAME,
)


def clear_lone_bit(draft: Draft, wanted: Wanted) -> bool:
    """Clear the bitmaps bit of an image that has no bitmaps extension."""
    asked = is_asked(draft, wanted.all, problems.AUTOCLEAR_ALONE)
    if not asked or is_misread(draft):
        return False
    bits = draft.image.header.autoclear_features & ~header.BITMAPS
    code = problems.AUTOCLEAR_ALONE.code
    set_field(draft, "autoclear_features", bits, code, "there are no bitmaps")
    return True


def drop_inconsistent(draft: Draft, wanted: Wanted) -> bool:
    """Remove the bitmaps of an image that was changed by a program without bitmaps."""
    asked = is_asked(draft, wanted.all or wanted.lossy, problems.AUTOCLEAR_CLEAR)
    if not asked or is_misread(draft):
        return False
    code = problems.AUTOCLEAR_CLEAR.code
    if not wanted.lossy:
        return refuse(draft, wanted, code, "the bitmaps, which are stale, would be removed")
    return drop_all(draft, code, "they are stale")


def mend_extension(draft: Draft, wanted: Wanted) -> bool:
    """Zero the reserved field of the extension; give up the bitmaps if its length is wrong."""
    asked = is_asked(draft, wanted.all or wanted.lossy, problems.EXTENSION)
    if not asked or is_misread(draft):
        return False
    code = problems.EXTENSION.code
    if draft.image.bitmaps_extension is not None:
        set_extension(draft, code, "it must be zero", reserved=0)
        return True
    if not wanted.lossy:
        return refuse(draft, wanted, code, "all bitmaps would be given up")
    return drop_all(draft, code, "the extension that leads to them is damaged")


def mend_directory(draft: Draft, wanted: Wanted) -> bool:
    """Put number and size of the directory right, by the one that agrees with what stands there.

    Where neither does, the bitmaps are kept that can be read.
    """
    asked = is_asked(draft, wanted.all or wanted.lossy, *DIRECTORY)
    extension = draft.image.bitmaps_extension if asked else None
    if extension is None or is_misread(draft):
        return False
    code = next(problem.code for problem in DIRECTORY if draft.found(problem))
    if is_placed(draft) and _agree(draft, code):
        return True
    if not wanted.lossy:
        return refuse(draft, wanted, code, "the bitmaps that can't be read would be given up")
    found = read_directory(draft, extension.bitmap_directory_size) if is_placed(draft) else None
    if found is None or not 0 < len(found.bitmaps) <= layout.MAX_BITMAPS:
        return drop_all(draft, code, "their directory can't be read")
    lost = min(extension.nb_bitmaps, layout.MAX_BITMAPS) - len(found.bitmaps)
    raws = [raw_bitmap(draft, item) for item in found.bitmaps]
    why = f"{len(raws)} bitmaps can be read"
    try:
        write_directory(draft, raws, code, why, problems.DIRECTORY_RANGE, lossy=True)
    except NoRoomError as error:
        return refuse(draft, wanted, code, str(error))
    draft.bitmaps += [f"{lost} bitmaps that can't be read"] if lost > 0 else []
    return True


def find_directory(draft: Draft, wanted: Wanted) -> bool:
    """Let the extension lead to a lost directory that is what it tells of."""
    asked = is_asked(draft, wanted.all or wanted.lossy, problems.DIRECTORY_RANGE)
    if not asked or is_misread(draft) or is_placed(draft):
        return False
    offset = find_bitmap_directory(draft)
    why = "the directory stands there, in a leaked cluster"
    code = problems.DIRECTORY_RANGE.code
    if offset is None:
        return False
    reveal(draft, *EXTENSIONS)
    return set_extension(draft, code, why, bitmap_directory_offset=offset)


def _agree(draft: Draft, code: str) -> bool:
    """Set the number, or the size, that the other one and the directory tell."""
    extension, geometry = draft.image.bitmaps_extension, draft.image.geometry
    assert extension is not None  # noqa: S101  (the caller has looked)
    size, offset = extension.bitmap_directory_size, extension.bitmap_directory_offset
    if 0 < size <= min(layout.MAX_DIRECTORY_BYTES, geometry.file_length - offset):
        found = read_directory(draft, size)
        if found.broken_at is None and 1 <= len(found.bitmaps) <= layout.MAX_BITMAPS:
            why = "the directory holds so many"
            return set_extension(draft, code, why, nb_bitmaps=len(found.bitmaps))
    told = told_size(draft)
    why = "the bitmaps end there"
    return told is not None and set_extension(draft, code, why, bitmap_directory_size=told)


def drop_unfit(draft: Draft, wanted: Wanted) -> bool:
    """Give up the bitmaps that QEMU would not load, one by one."""
    asked = is_asked(draft, wanted.all or wanted.lossy, *UNFIT)
    if not asked or draft.found(problems.EXTENSION, *DIRECTORY) or is_misread(draft):
        return False
    codes: dict[int, str] = {}
    for problem in UNFIT:
        found = draft.now.find(problem)
        for row in found.rows() if found else ():
            codes.setdefault(row["first"], problem.code)
    code = codes[min(codes)]
    if not wanted.lossy:
        return refuse(draft, wanted, code, f"{len(codes)} bitmaps would be given up")
    directory = draft.image.directory
    items = directory.bitmaps if directory else ()
    kept = [raw_bitmap(draft, item) for item in items if item.index not in codes]
    if not kept:
        return drop_all(draft, code, "QEMU would load none of them")
    try:
        write_directory(draft, kept, code, f"{len(kept)} bitmaps are left", lossy=True)
    except NoRoomError as error:
        return refuse(draft, wanted, code, str(error))
    for item in items:
        if item.index in codes:
            name = printable(item.name)
            text = f"bitmap {item.index} ({name}) is given up"
            note(draft, Change(codes[item.index], text, item.offset, lossy=True))
            draft.bitmaps.append(name)
    return True


PLANNERS = (
    clear_lone_bit,
    drop_inconsistent,
    mend_extension,
    find_directory,
    mend_directory,
    drop_unfit,
    *distrust.PLANNERS,
)
