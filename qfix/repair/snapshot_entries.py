"""Pass S: entries of the snapshot table: those that lead nowhere go, short ones are completed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qfix.change.allocate import NoRoomError
from qfix.change.draft import Change
from qfix.checks.snapshots import title
from qfix.image import printable
from qfix.layout.snapshots import NO_ICOUNT, SnapshotEntry
from qfix.problems import snapshots as problems
from qfix.problems import tables
from qfix.repair.directory import with_values
from qfix.repair.fields import is_asked, note, refuse
from qfix.repair.owners import astray_layers
from qfix.repair.salvage import FIXED
from qfix.repair.snapshot_table import (
    DAMAGED,
    NO_TABLE,
    UNREADABLE,
    drop_snapshot,
    raw_entry,
    rewrite_table,
)

if TYPE_CHECKING:
    from qfix.change.draft import Draft
    from qfix.layout.snapshots import Snapshot
    from qfix.problems import Problem
    from qfix.repair.wanted import Wanted

EXTRA_AT = FIXED - 4
DISK_SIZE = slice(8, 16)

MOST_NUMBER = 1 << 31


def drop_damaged_entries(draft: Draft, wanted: Wanted) -> bool:
    """Give up the entries that lead to no L1 table, and those that are nothing but zeros.

    An L2 table that a sound layer leads to is no L1 table either.
    """
    if draft.found(*NO_TABLE, *UNREADABLE, problems.TOO_MANY):
        return False
    if not is_asked(draft, wanted.all or wanted.lossy, *DAMAGED) and not astray_layers(draft):
        return False
    codes = _damaged(draft)
    first = codes[min(codes)]
    if not wanted.lossy:
        why = f"{len(codes)} entries of the snapshot table would be given up"
        return refuse(draft, wanted, first, why)
    items = draft.image.snapshots
    kept = [raw_entry(draft, item) for item in items if item.index not in codes]
    why = f"{len(kept)} of {len(items)} entries are sound"
    try:
        rewrite_table(draft, kept, first, why, problems.L1_OUTSIDE, lossy=True)
    except NoRoomError as error:
        return refuse(draft, wanted, first, str(error))
    for index, code in codes.items():
        _give_up(draft, items[index], code)
    draft.layers_dropped()
    return True


def _damaged(draft: Draft) -> dict[int, str]:
    """Return the indexes of the entries that are damaged, and what says so."""
    codes: dict[int, str] = {}
    for problem in DAMAGED:
        found = draft.now.find(problem)
        for row in found.rows() if found else ():
            for index in range(row["first"], row["first"] + row["count"]):
                codes.setdefault(index, problem.code)
    for layer in astray_layers(draft):
        codes.setdefault(layer - 1, tables.METADATA_ON_METADATA.code)
    return dict(sorted(codes.items()))


def _give_up(draft: Draft, item: Snapshot, code: str) -> None:
    if code == problems.PHANTOM.code:
        if item.index + 1 < len(draft.layers):
            draft.layers[item.index + 1] = -1
        text = f"snapshot table entry {item.index}, all zeros, is left out"
    else:
        drop_snapshot(draft, item.index + 1, title(item))
        text = f"snapshot {title(item)} is given up"
    note(draft, Change(code, text, item.offset, lossy=True))


def complete_entries(draft: Draft, wanted: Wanted) -> bool:
    """Give entries the extra data that they lack, and disk sizes that their L1 tables can hold."""
    short = is_asked(draft, wanted.all, problems.EXTRA_TOO_SMALL)
    sized = is_asked(draft, wanted.all or wanted.lossy, problems.DISK_SIZE)
    if draft.found(*NO_TABLE, *UNREADABLE, problems.TOO_MANY):
        return False
    if sized and not wanted.lossy:
        why = "the right disk size of a snapshot can only be guessed"
        sized = refuse(draft, wanted, problems.DISK_SIZE.code, why)
    lacking = _rows(draft, problems.EXTRA_TOO_SMALL) if short else set()
    misfit = _rows(draft, problems.DISK_SIZE) if sized else set()
    if not lacking and not misfit:
        return False
    code = (problems.EXTRA_TOO_SMALL if lacking else problems.DISK_SIZE).code
    raws = []
    changes = []
    for item in draft.image.snapshots:
        raw = raw_entry(draft, item)
        if item.index in lacking | misfit:
            raw, change = _completed(draft, item, raw, guessed=item.index in misfit)
            changes.append(change)
        raws.append(raw)
    try:
        rewrite_table(draft, raws, code, "a table of whole entries", lossy=not lacking)
    except NoRoomError as error:
        return refuse(draft, wanted, code, str(error))
    for change in changes:
        note(draft, change)
    return True


def give_ids(draft: Draft, wanted: Wanted) -> bool:
    """Give snapshots without an id, or with one that another has, an id of their own.

    The names stay; no other structure refers to an id.
    """
    both = (problems.ID_EMPTY, problems.ID_DOUBLE)
    if not is_asked(draft, wanted.all, *both) or draft.found(*NO_TABLE, *UNREADABLE, *DAMAGED):
        return False
    nameless = _rows(draft, both[0]) | _rows(draft, both[1])
    used = [int(item.id_str) for item in draft.image.snapshots if item.id_str.isdigit()]
    number = max([0, *(one for one in used if one < MOST_NUMBER)])
    raws, changes = [], []
    code = next(problem.code for problem in both if draft.found(problem))
    for item in draft.image.snapshots:
        raw = raw_entry(draft, item)
        if item.index in nameless:
            number += 1
            new = str(number).encode()
            end = FIXED + item.entry.extra_data_size
            fixed = SnapshotEntry.decode(raw)
            head = with_values(fixed, id_str_size=len(new))
            raw = head + raw[FIXED:end] + new + raw[end + fixed.id_str_size :]
            text = f"id of snapshot[{item.index}] ({printable(item.name)})"
            was = printable(item.id_str) or "none"
            changes.append(Change(code, text, item.offset, 1, was, str(number)))
        raws.append(raw)
    try:
        rewrite_table(draft, raws, code, "a table of snapshots with ids of their own")
    except NoRoomError as error:
        return refuse(draft, wanted, code, str(error))
    for change in changes:
        note(draft, change)
    return True


def _rows(draft: Draft, problem: Problem) -> set[int]:
    found = draft.now.find(problem)
    return {row["first"] for row in found.rows()} if found else set()


def _completed(draft: Draft, item: Snapshot, raw: bytes, *, guessed: bool) -> tuple[bytes, Change]:
    """Return an entry with a VM state size, a disk size and an instruction count; and the change.

    The disk size is that of the active layer where the L1 table has room for it.
    """
    reach = draft.image.geometry.bytes_per_l1_entry
    size = draft.image.header.size
    most = item.entry.l1_size * reach
    size = size if 0 < size <= most or not most else most
    end = FIXED + item.entry.extra_data_size
    extra = bytearray(raw[FIXED:end])
    if len(extra) < 8:
        extra[:] = item.entry.vm_state_size.to_bytes(8, "big")
    if len(extra) < DISK_SIZE.stop or guessed:
        extra[DISK_SIZE] = size.to_bytes(8, "big")
    if len(extra) < DISK_SIZE.stop + 8:
        extra[DISK_SIZE.stop :] = NO_ICOUNT.to_bytes(8, "big")
    whole = raw[:EXTRA_AT] + len(extra).to_bytes(4, "big") + extra + raw[end:]
    if guessed:
        text = f"disk size of snapshot {title(item)}, a guess"
        change = (problems.DISK_SIZE.code, text, item.offset, 1, str(item.disk_size), str(size))
        return whole, Change(*change, lossy=True)
    text = f"extra data of snapshot {title(item)}: disk size {size}, no instruction count"
    old, new = f"{item.entry.extra_data_size} bytes", f"{len(extra)} bytes"
    return whole, Change(problems.EXTRA_TOO_SMALL.code, text, item.offset, 1, old, new)


PLANNERS = (drop_damaged_entries, complete_entries, give_ids)
