"""The snapshot table written anew: at a new place, its entries as they are (format 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qfix.layout.header import MAX_FILE_OFFSET
from qfix.layout.snapshots import SnapshotEntry
from qfix.problems import snapshots as problems
from qfix.repair.fields import make_room, set_field

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qfix.change.draft import Draft
    from qfix.layout.snapshots import Snapshot
    from qfix.problems import Problem

NO_TABLE = (problems.TABLE_UNALIGNED, problems.TABLE_OUTSIDE, problems.WITH_DATA_FILE)
UNREADABLE = (problems.OVERRUN, problems.EXTRA_TOO_LARGE)
DAMAGED = (
    problems.L1_UNALIGNED,
    problems.L1_TOO_LARGE,
    problems.L1_OUTSIDE,
    problems.L1_EMPTY,
    problems.PHANTOM,
)


def raw_entry(draft: Draft, item: Snapshot) -> bytes:
    """Return the bytes of a snapshot table entry, without padding."""
    entry = item.entry
    length = SnapshotEntry.codec.size + entry.extra_data_size + entry.id_str_size + entry.name_size
    return draft.overlay.read(item.offset, length)


def encode_table(entries: Iterable[bytes]) -> bytes:
    """Return a snapshot table of *entries*, each on an 8-byte boundary."""
    parts: list[bytes] = []
    length = 0
    for entry in entries:
        parts.append(bytes(-length % 8) + entry)
        length += len(parts[-1])
    return b"".join(parts)


def rewrite_table(
    draft: Draft,
    entries: list[bytes],
    code: str,
    why: str,
    *mended: Problem,
    lossy: bool = False,
) -> None:
    """Plan a snapshot table of *entries*, and let the header lead there; raises NoRoomError.

    It gets a new place, unless it is the beginning of the present table. Once it is in place what
    is found of *mended* does not lead behind the end of the file any more.
    """
    table = encode_table(entries)
    bits = draft.image.geometry.cluster_bits
    offset = draft.image.header.snapshots_offset if table else 0
    if table and not _begins(draft, offset, table):
        count = draft.image.geometry.clusters(len(table))
        offset = make_room(draft, count, *mended) << bits
        draft.write(offset, table.ljust(count << bits, b"\0"))
    set_field(draft, "nb_snapshots", len(entries), code, why, lossy=lossy)
    set_field(draft, "snapshots_offset", offset, code, why, lossy=lossy)


def _begins(draft: Draft, offset: int, table: bytes) -> bool:
    """Tell whether the snapshot table at *offset* begins as *table*."""
    end = offset + len(table)
    if offset % draft.image.geometry.cluster_size or end > min(draft.overlay.size, MAX_FILE_OFFSET):
        return False
    return draft.overlay.read(offset, len(table)) == table


def drop_snapshot(draft: Draft, layer: int, name: str) -> None:
    """Say that a snapshot is given up, also one that was not seen in the file."""
    if layer < len(draft.layers):
        draft.drop_layer(layer, name)
    else:
        draft.dropped.append(name)
