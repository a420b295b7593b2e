"""Whether leaked clusters may be a guest's only copy, so that they must not be freed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qfix.problems import bitmaps, extensions, header, snapshots, tables

if TYPE_CHECKING:
    from qfix.change.draft import Draft
    from qfix.problems import Findings

LOST_TABLES = (
    tables.LOST_L2,
    tables.EMPTIED_L2,
    tables.LOST_L1,
    tables.LACKED_L2,
    tables.UNFILLED_L2,
)
"""Leaks, or refcounts that are too high, because a table that led there is lost."""
NEVER = (
    header.L1_OFFSET,
    header.L1_OUTSIDE,
    header.UNREADABLE,
    extensions.CRYPT_POINTER_MISSING,
    extensions.CRYPT_POINTER_RANGE,
    extensions.EXTENSIONS_IGNORED,
)
"""As long as these are found all data, or the keys to it, may be among the leaks: not even a lossy
repair frees them."""
ASTRAY = (
    *NEVER,
    header.HEADER_LENGTH,
    extensions.EXTENSION_OVERRUN,
    extensions.EXTENSION_DOUBLE,
    header.L1_TOO_SMALL,
    header.L1_TOO_LARGE,
    tables.L1_UNALIGNED,
    tables.L1_OUTSIDE_FILE,
    tables.L1_FLAGS_ONLY,
    tables.L1_SAME_TABLE,
    tables.L1_OVERLAPPING,
    tables.L2_UNALIGNED,
    tables.L2_OUTSIDE_FILE,
    tables.COMPRESSED_OUTSIDE,
    tables.COMPRESSED_BITMAP,
    tables.COMPRESSED_DATA_FILE,
    tables.SUBCLUSTERS_WITHOUT_CLUSTER,
    tables.COPIED_WITHOUT_OFFSET,
    tables.FILE_CUT,
    tables.REUSED,
    tables.DATA_ON_METADATA,
    tables.METADATA_ON_METADATA,
    snapshots.TABLE_UNALIGNED,
    snapshots.TABLE_OUTSIDE,
    snapshots.TOO_MANY,
    snapshots.OVERRUN,
    snapshots.EXTRA_TOO_LARGE,
    snapshots.L1_UNALIGNED,
    snapshots.L1_TOO_LARGE,
    snapshots.L1_OUTSIDE,
    snapshots.L1_EMPTY,
    snapshots.PHANTOM,
    bitmaps.DIRECTORY_RANGE,
    bitmaps.DIRECTORY_BROKEN,
    bitmaps.TABLE,
    bitmaps.TABLE_ENTRY,
)
"""Something leads astray: what it led to may be among the leaked clusters."""


def lost_tables(draft: Draft) -> list[Findings]:
    """Return what was found of lost tables, in the overlay as it is now."""
    return [found for problem in LOST_TABLES if (found := draft.now.find(problem)) is not None]


def led_astray(draft: Draft) -> list[Findings]:
    """Return what leads astray, in the overlay as it is now and in the file as it was.

    A pointer that was mended by a copy, or given up, has left what it led to among the leaks.
    """
    found: dict[str, Findings] = {}
    for diagnosis in (draft.before, draft.now):
        for problem in ASTRAY:
            item = diagnosis.find(problem)
            if item is not None:
                found.setdefault(problem.code, item)
    return list(found.values())


def is_hopeless(draft: Draft) -> bool:
    """Tell whether something is lost that all of the data may hang on."""
    return draft.found(*NEVER)


def leads_astray(draft: Draft) -> bool:
    """Tell whether something still leads astray, so that a lost table may find its place."""
    return draft.found(*ASTRAY)
