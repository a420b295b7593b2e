"""Pass S: the snapshot table, and each of its entries; only what is damaged is given up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qfix.change.allocate import NoRoomError
from qfix.change.draft import Change
from qfix.checks.snapshots import title
from qfix.image import printable
from qfix.layout.snapshots import MAX_EXTRA, NO_ICOUNT, SnapshotEntry
from qfix.problems import snapshots as problems
from qfix.problems import tables
from qfix.recount.tally import CLASH, COMPRESSED, DATA
from qfix.repair.fields import TABLES, is_asked, note, refuse, reveal, set_field
from qfix.repair.salvage import FIXED, Found, is_plausible, salvage
from qfix.repair.snapshot_table import raw_entry, rewrite_table

if TYPE_CHECKING:
    from qfix.change.draft import Draft
    from qfix.layout.snapshots import Snapshot
    from qfix.problems import Problem
    from qfix.repair.wanted import Wanted

NO_TABLE = (problems.TABLE_UNALIGNED, problems.TABLE_OUTSIDE, problems.WITH_DATA_FILE)
UNREADABLE = (problems.OVERRUN, problems.EXTRA_TOO_LARGE)
DAMAGED = (
    problems.L1_UNALIGNED,
    problems.L1_TOO_LARGE,
    problems.L1_OUTSIDE,
    problems.L1_EMPTY,
    problems.PHANTOM,
)
EXTRA_AT = FIXED - 4
DISK_SIZE = slice(8, 16)


def drop_table(draft: Draft, wanted: Wanted) -> bool:
    """Give up a snapshot table that is nowhere, or whose snapshots can't hold what they claim.

    A place that is nonsense without any snapshots costs nothing, unless one was lost.
    """
    if not is_asked(draft, wanted.all or wanted.lossy, *NO_TABLE):
        return False
    code = next(problem.code for problem in NO_TABLE if draft.found(problem))
    count = draft.image.header.nb_snapshots
    lost = draft.found(tables.LOST_L1)
    costs = bool(count or lost)
    if costs and not wanted.lossy:
        why = f"{count} snapshots would be given up"
        why = why if count else "an L1 table that nothing leads to may be that of a snapshot"
        return refuse(draft, wanted, code, why)
    if count and draft.found(problems.WITH_DATA_FILE) and not draft.found(*NO_TABLE[:2]):
        for item in draft.image.snapshots:
            _drop(draft, item.index + 1, title(item))
        draft.layers_dropped()
    else:
        del draft.layers[1:]
        draft.dropped += [f"{count} snapshots that can't be read"] if count else []
    why = "all snapshots are given up" if count else "there are no snapshots"
    rewrite_table(draft, [], code, why, lossy=costs)
    return True


def _drop(draft: Draft, layer: int, name: str) -> None:
    """Say that a snapshot is given up, also one that was not seen in the file."""
    if layer < len(draft.layers):
        draft.drop_layer(layer, name)
    else:
        draft.dropped.append(name)


def trim_count(draft: Draft, wanted: Wanted) -> bool:
    """Set an impossible number of snapshots to where the last one stands that can be one."""
    if not is_asked(draft, wanted.all or wanted.lossy, problems.TOO_MANY):
        return False
    code, items = problems.TOO_MANY.code, draft.image.snapshots
    if draft.found(*NO_TABLE):
        return False
    sound = [item.index for item in items if is_plausible(draft, item.entry, item.id_str)]
    count = sound[-1] + 1 if sound else 0
    if draft.found(*UNREADABLE):
        count = max(count, len(salvage(draft)))
    if not wanted.lossy:
        why = f"{count} entries look like snapshots; any behind them would be given up"
        return refuse(draft, wanted, code, why)
    why = f"{count} entries look like snapshots"
    set_field(draft, "nb_snapshots", count, code, why, lossy=True)
    if not count:
        set_field(draft, "snapshots_offset", 0, code, why, lossy=True)
    del draft.layers[1 + count :]
    return True


def mend_entry_lengths(draft: Draft, wanted: Wanted) -> bool:
    """Make a table readable to its end: lengths of extra data that can be told are put right.

    What can't be read even so is given up, where that was asked for.
    """
    if not is_asked(draft, wanted.all or wanted.lossy, *UNREADABLE):
        return False
    if draft.found(*NO_TABLE, problems.TOO_MANY):
        return False
    code = next(problem.code for problem in UNREADABLE if draft.found(problem))
    found = salvage(draft)
    count = draft.image.header.nb_snapshots
    plain = [entry for entry in found if entry.stated != entry.extra and entry.whole]
    sure = len(found) == count and all(
        entry.whole and is_plausible(draft, *_id_of(entry)) for entry in found
    )
    if plain and (sure or wanted.lossy) and _write_lengths(draft, code, plain, lossy=not sure):
        _keep_layers(draft, found)
        return True
    if not wanted.lossy:
        why = f"{len(found)} of {count} entries can be read; the rest would be given up"
        return refuse(draft, wanted, code, why)
    return _write_found(draft, wanted, code, found)


def _id_of(entry: Found) -> tuple[SnapshotEntry, bytes]:
    """Return the fixed part of an entry that was salvaged, and its id."""
    fixed = SnapshotEntry.decode(entry.raw)
    start = FIXED + fixed.extra_data_size
    return fixed, entry.raw[start : start + fixed.id_str_size]


def _write_lengths(draft: Draft, code: str, entries: list[Found], *, lossy: bool) -> bool:
    """Write lengths of extra data where the entries stand; False where that is not allowed."""
    base, bits = draft.image.header.snapshots_offset, draft.image.geometry.cluster_bits
    places = [base + entry.position + EXTRA_AT for entry in entries]
    clusters = {(place + at) >> bits for place in places for at in (0, 3)}
    owners = draft.made.tally.owners
    if any(owners[cluster] & (DATA | COMPRESSED | CLASH) for cluster in clusters):
        return False
    for entry, place in zip(entries, places, strict=True):
        draft.write(place, entry.extra.to_bytes(4, "big"))
        text = f"length of the extra data of the snapshot table entry at {place - EXTRA_AT:#x}"
        old, new = str(entry.stated), str(entry.extra)
        note(draft, Change(code, text, place, 1, old, new, lossy))
    reveal(draft, "S", *TABLES)
    return True


def _keep_layers(draft: Draft, found: list[Found]) -> None:
    """Let the layers be the entries of *found*, as far as they were seen before."""
    base = draft.image.header.snapshots_offset
    known = {item.offset - base: item.index + 1 for item in draft.image.snapshots}
    layers = draft.layers[:1]
    for entry in found:
        layer = known.get(entry.position, len(draft.layers))
        if layer >= len(draft.layers):
            break
        layers.append(draft.layers[layer])
    draft.layers[:] = layers


def _write_found(draft: Draft, wanted: Wanted, code: str, found: list[Found]) -> bool:
    """Plan a table of the entries that could be read."""
    why = f"a table of the {len(found)} entries that can be read"
    sound = all(is_plausible(draft, *_id_of(entry)) for entry in found)
    mended = (problems.OVERRUN,) if sound else ()
    lost = draft.image.header.nb_snapshots - len(found)
    raws = [entry.raw for entry in found]
    try:
        rewrite_table(draft, raws, code, why, *mended, lossy=True)
    except NoRoomError as error:
        return refuse(draft, wanted, code, str(error))
    for entry in found:
        if not entry.whole:
            name = printable(_id_of(entry)[1])
            text = f"extra data of snapshot {name}: what a newer program put there is cut off"
            note(draft, Change(code, text, None, 1, str(entry.extra), str(MAX_EXTRA), lossy=True))
    _keep_layers(draft, found)
    if lost > 0:
        draft.dropped.append(f"{lost} snapshots that can't be read")
    reveal(draft, "S", *TABLES)
    return True


def drop_damaged_entries(draft: Draft, wanted: Wanted) -> bool:
    """Give up the entries that lead to no L1 table, and those that are nothing but zeros."""
    if not is_asked(draft, wanted.all or wanted.lossy, *DAMAGED):
        return False
    if draft.found(*NO_TABLE, *UNREADABLE, problems.TOO_MANY):
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
    return dict(sorted(codes.items()))


def _give_up(draft: Draft, item: Snapshot, code: str) -> None:
    if code == problems.PHANTOM.code:
        if item.index + 1 < len(draft.layers):
            draft.layers[item.index + 1] = -1
        text = f"snapshot table entry {item.index}, all zeros, is left out"
    else:
        _drop(draft, item.index + 1, title(item))
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


PLANNERS = (drop_table, trim_count, mend_entry_lengths, drop_damaged_entries, complete_entries)
