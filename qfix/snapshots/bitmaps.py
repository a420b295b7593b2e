"""Bitmaps dropped: the directory without them, or the image without a directory (format 8)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qfix.change.draft import Change
from qfix.errors import RefusedError, UsageError
from qfix.image import printable
from qfix.problems import bitmaps as problems
from qfix.repair.directory import drop_all, raw_bitmap, write_directory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qfix.change.draft import Draft
    from qfix.layout.bitmaps import Bitmap

CODE = "bitmap"
EVERY = "all"
WHY = "asked for"
BROKEN = (problems.DIRECTORY_RANGE, problems.DIRECTORY_BROKEN, problems.DIRECTORY_COUNT)
MOST_NAMED = 8


def drop_bitmaps(draft: Draft, words: Sequence[str]) -> None:
    """Plan the image without the bitmaps that *words* name, or without any; leave it examined.

    Raises UsageError for a name that there is not, RefusedError where single ones can't be dropped.
    """
    if draft.now.image is None or draft.now.recount is None:
        raise RefusedError(f"{draft.overlay.path}: the image can't be checked: see what qfix says")
    if draft.image.bitmaps_extension is None:
        raise UsageError("there are no bitmaps in this image")
    directory = draft.image.directory
    items = directory.bitmaps if directory else ()
    if EVERY in words and not any(item.name == EVERY.encode() for item in items):
        drop_all(draft, CODE, WHY)
        draft.examine()
        return
    codes = [problem.code for problem in BROKEN if draft.found(problem)]
    if codes:
        raise RefusedError(
            f"{draft.overlay.path}: the bitmap directory is damaged ({', '.join(codes)}): only"
            " --drop-bitmap all is possible, or --fix all first"
        )
    gone = {_choose(items, word).index for word in words}
    kept = [item for item in items if item.index not in gone]
    if not kept:
        drop_all(draft, CODE, WHY)
    else:
        raws = [raw_bitmap(draft, item) for item in kept]
        write_directory(draft, raws, CODE, f"{len(kept)} bitmaps are left")
        for item in items:
            if item.index in gone:
                name = printable(item.name)
                draft.bitmaps.append(name)
                text = f"bitmap {name} is dropped"
                draft.note(Change(CODE, text, item.offset, lossy=True))
    draft.examine()


def _choose(items: Sequence[Bitmap], word: str) -> Bitmap:
    """Return the bitmap of a name, or bitmap[N]; raises UsageError with the candidates."""
    raw = word.encode("utf-8", "surrogateescape")
    placed = [item for item in items if f"bitmap[{item.index}]" == word]
    found = placed or [item for item in items if item.name == raw]
    if len(found) == 1:
        return found[0]
    shown = found or list(items)
    names = ", ".join(f"bitmap[{item.index}] {printable(item.name)}" for item in shown[:MOST_NAMED])
    what = "fits several bitmaps" if found else "is no bitmap"
    raise UsageError(f"{printable(raw)!r} {what}; there are: {names or 'none'}")
