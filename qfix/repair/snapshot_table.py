"""The snapshot table written anew: at a new place, its entries as they are (format 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qfix.change.allocate import NoRoomError
from qfix.layout.header import MAX_FILE_OFFSET
from qfix.layout.snapshots import SnapshotEntry
from qfix.problems import snapshots as problems
from qfix.repair.fields import make_room, put, set_field
from qfix.repair.owners import may_write

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

    It gets a new place, unless it is the beginning of the present table, or there is none and the
    present one has room. Once it is in place what is found of *mended* does not lead behind the
    end of the file any more.
    """
    table = encode_table(entries)
    offset = draft.image.header.snapshots_offset if table else 0
    if table and not _begins(draft, offset, table):
        offset = _place(draft, len(table), mended)
        count = draft.image.geometry.clusters(len(table))
        put(draft, offset, table.ljust(count << draft.image.geometry.cluster_bits, b"\0"))
    set_field(draft, "nb_snapshots", len(entries), code, why, lossy=lossy)
    set_field(draft, "snapshots_offset", offset, code, why, lossy=lossy)


def _place(draft: Draft, length: int, mended: tuple[Problem, ...]) -> int:
    """Return where a table of *length* bytes can be written; raises NoRoomError."""
    geometry, offset = draft.image.geometry, draft.image.header.snapshots_offset
    count = geometry.clusters(length)
    try:
        return make_room(draft, count, *mended) << geometry.cluster_bits
    except NoRoomError:
        end = offset + (count << geometry.cluster_bits)
        held = geometry.clusters(draft.image.snapshot_table[1].size)
        clusters = np.arange(count) + (offset >> geometry.cluster_bits)
        if count > max(1, held) or end > draft.overlay.size or offset % geometry.cluster_size:
            raise
        if not offset or not may_write(draft, clusters).all():
            raise
        return offset


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
