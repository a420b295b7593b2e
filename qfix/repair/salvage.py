"""A snapshot table that can't be read to its end: the entries that can be told all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from qfix.layout.header import MAX_L1_ENTRIES, MAX_SNAPSHOTS
from qfix.layout.snapshots import MAX_EXTRA, SnapshotEntry
from qfix.layout.tables import ENTRY_SIZE
from qfix.repair.area import is_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.change.draft import Draft

FIXED = SnapshotEntry.codec.size
LIKELY_EXTRA = (24, 16)
"""Lengths of extra data that are written by the programs there are."""
MOST_SOUGHT = 1 << 16
MOST_GAPS = 16
STEP = 8


class Found(NamedTuple):
    """An entry of the table: its bytes without padding, at most MAX_EXTRA of extra data.

    `position` is that in the table, `stated` the length of the extra data that stands there,
    `extra` the one that is right; `whole` says that the entry is as it was, but for that length.
    """

    position: int
    raw: bytes
    stated: int
    extra: int
    whole: bool = True

    @property
    def is_untouched(self) -> bool:
        """Whether it is as it was."""
        return self.whole and self.stated == self.extra

    @property
    def identity(self) -> tuple[SnapshotEntry, bytes]:
        """The fixed part of the entry, and the id."""
        fixed = SnapshotEntry.decode(self.raw)
        start = FIXED + fixed.extra_data_size
        return fixed, self.raw[start : start + fixed.id_str_size]


def salvage(
    draft: Draft, base: int, gaps: int = MOST_GAPS, count: int | None = None
) -> list[Found]:
    """Return the entries that can be read of the table at *base*, as many as the header says.

    Or *count* of them; up to *gaps* times what can't be read is left out.
    """
    count = min(draft.image.header.nb_snapshots if count is None else count, MAX_SNAPSHOTS)
    inside = draft.image.geometry.file_length - base
    found: list[Found] = []
    position: int | None = 0
    while len(found) < count and position is not None:
        entry = _entry(draft, base, position, inside)
        if entry is None:
            gaps -= 1
            position = _next_entry(draft, base, position + STEP, inside) if gaps >= 0 else None
            continue
        found.append(entry)
        behind = position + len(entry.raw)
        if not entry.whole:
            behind += entry.extra - MAX_EXTRA
        position = -(-behind // STEP) * STEP
    return found


def is_plausible(draft: Draft, entry: SnapshotEntry, id_str: bytes) -> bool:
    """Tell whether a snapshot table entry has an id, and an L1 table that can be one."""
    geometry = draft.image.geometry
    offset, length = entry.l1_table_offset, entry.l1_size * ENTRY_SIZE
    aligned = offset > 0 and offset % geometry.cluster_size == 0
    inside = 0 < entry.l1_size <= MAX_L1_ENTRIES and offset + length <= geometry.file_length
    return bool(id_str) and is_text(id_str) and aligned and inside


def _entry(draft: Draft, table: int, position: int, inside: int) -> Found | None:
    """Return the entry at *position*, with the length of extra data that makes it one."""
    base = table + position
    raw = draft.overlay.read(base, FIXED)
    if not any(raw) or position + FIXED > inside:
        return None
    entry = SnapshotEntry.decode(raw)
    stated = entry.extra_data_size
    if stated <= MAX_EXTRA:
        length = FIXED + stated + entry.id_str_size + entry.name_size
        whole = draft.overlay.read(base, length)
        return Found(position, whole, stated, stated) if position + length <= inside else None
    for extra in (*LIKELY_EXTRA, stated):
        length = FIXED + extra + entry.id_str_size + entry.name_size
        if position + length <= inside and _has_names(draft, base, entry, extra):
            break
    else:
        return None
    kept = min(extra, MAX_EXTRA)
    raw = raw[: FIXED - 4] + kept.to_bytes(4, "big") + draft.overlay.read(base + FIXED, kept)
    names = draft.overlay.read(base + FIXED + extra, entry.id_str_size + entry.name_size)
    return Found(position, raw + names, stated, extra, whole=extra == kept)


def _has_names(draft: Draft, base: int, entry: SnapshotEntry, extra: int) -> bool:
    """Tell whether an id and a name stand behind *extra* bytes."""
    names = draft.overlay.read(base + FIXED + extra, entry.id_str_size + entry.name_size)
    id_str, name = names[: entry.id_str_size], names[entry.id_str_size :]
    return bool(id_str) and is_text(id_str) and is_text(name)


def _next_entry(draft: Draft, base: int, start: int, inside: int) -> int | None:
    """Return where an entry stands behind one that can't be read, None where none does."""
    for position in _places(start, inside):
        entry = SnapshotEntry.decode(draft.overlay.read(base + position, FIXED))
        if entry.extra_data_size <= MAX_EXTRA:
            at = base + position + FIXED + entry.extra_data_size
            if entry.id_str_size and is_plausible(
                draft, entry, draft.overlay.read(at, entry.id_str_size)
            ):
                return position
    return None


def _places(start: int, inside: int) -> Iterator[int]:
    yield from range(start, min(start + MOST_SOUGHT, inside - FIXED + 1), STEP)
