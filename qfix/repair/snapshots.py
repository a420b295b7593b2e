"""Pass S: the snapshot table, and each of its entries; only what is damaged is given up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qfix.change.allocate import NoRoomError
from qfix.change.draft import Change
from qfix.checks.snapshots import title
from qfix.image import printable
from qfix.layout.snapshots import MAX_EXTRA
from qfix.problems import snapshots as problems
from qfix.problems import tables
from qfix.repair import snapshot_entries, snapshot_l1
from qfix.repair.fields import TABLES, is_asked, note, refuse, reveal, set_field
from qfix.repair.owners import may_write
from qfix.repair.salvage import FIXED, Found, is_plausible, salvage
from qfix.repair.search import find_snapshot_table, find_snapshots
from qfix.repair.snapshot_table import DAMAGED, NO_TABLE, UNREADABLE, drop_snapshot, rewrite_table

if TYPE_CHECKING:
    from qfix.change.draft import Draft
    from qfix.repair.wanted import Wanted

EXTRA_AT = FIXED - 4


def find_table(draft: Draft, wanted: Wanted) -> bool:
    """Let the header lead to a lost table of just as many snapshots as it tells of."""
    lost = (problems.TABLE_UNALIGNED, problems.TABLE_OUTSIDE)
    if not is_asked(draft, wanted.all or wanted.lossy, *lost):
        return False
    offset = find_snapshot_table(draft)
    if offset is None:
        return False
    code = next(problem.code for problem in lost if draft.found(problem))
    count = draft.image.header.nb_snapshots
    why = f"the table of {count} snapshots stands there, in a leaked cluster"
    set_field(draft, "snapshots_offset", offset, code, why)
    del draft.layers[1:]
    reveal(draft, "S", *TABLES)
    return True


def find_snapshots_again(draft: Draft, wanted: Wanted) -> bool:
    """Let the header tell of snapshots that lost L1 tables are the tables of."""
    if not is_asked(draft, wanted.all or wanted.lossy, tables.LOST_L1):
        return False
    unsure = draft.found(*NO_TABLE[1:], *UNREADABLE, *DAMAGED, problems.TOO_MANY)
    found = None if unsure or draft.image.geometry.data_file else find_snapshots(draft)
    if found is None:
        return False
    code = tables.LOST_L1.code
    why = "there are entries of the snapshot table for lost L1 tables"
    set_field(draft, "snapshots_offset", found[0], code, why)
    set_field(draft, "nb_snapshots", found[1], code, why)
    reveal(draft, "S", *TABLES)
    return True


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
            drop_snapshot(draft, item.index + 1, title(item))
        draft.layers_dropped()
    else:
        del draft.layers[1:]
        draft.dropped += [f"{count} snapshots that can't be read"] if count else []
    why = "all snapshots are given up" if count else "there are no snapshots"
    rewrite_table(draft, [], code, why, lossy=costs)
    return True


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
        count = max(count, len(salvage(draft, draft.image.header.snapshots_offset)))
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
    found = salvage(draft, draft.image.header.snapshots_offset)
    count = draft.image.header.nb_snapshots
    plain = [entry for entry in found if entry.stated != entry.extra and entry.whole]
    sure = len(found) == count and all(
        entry.whole and is_plausible(draft, *entry.identity) for entry in found
    )
    if plain and (sure or wanted.lossy) and _write_lengths(draft, code, plain, lossy=not sure):
        _keep_layers(draft, found)
        return True
    if not wanted.lossy:
        why = f"{len(found)} of {count} entries can be read; the rest would be given up"
        return refuse(draft, wanted, code, why)
    return _write_found(draft, wanted, code, found)


def _write_lengths(draft: Draft, code: str, entries: list[Found], *, lossy: bool) -> bool:
    """Write lengths of extra data where the entries stand; False where that is not allowed."""
    base, bits = draft.image.header.snapshots_offset, draft.image.geometry.cluster_bits
    places = [base + entry.position + EXTRA_AT for entry in entries]
    clusters = {(place + at) >> bits for place in places for at in (0, 3)}
    if not may_write(draft, np.array(sorted(clusters))).all():
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
    sound = all(is_plausible(draft, *entry.identity) for entry in found)
    mended = (problems.OVERRUN,) if sound else ()
    lost = draft.image.header.nb_snapshots - len(found)
    raws = [entry.raw for entry in found]
    try:
        rewrite_table(draft, raws, code, why, *mended, lossy=True)
    except NoRoomError as error:
        return refuse(draft, wanted, code, str(error))
    for entry in found:
        if not entry.whole:
            name = printable(entry.identity[1])
            text = f"extra data of snapshot {name}: what a newer program put there is cut off"
            note(draft, Change(code, text, None, 1, str(entry.extra), str(MAX_EXTRA), lossy=True))
    _keep_layers(draft, found)
    if lost > 0:
        draft.dropped.append(f"{lost} snapshots that can't be read")
    reveal(draft, "S", *TABLES)
    return True


PLANNERS = (
    find_table,
    find_snapshots_again,
    drop_table,
    trim_count,
    mend_entry_lengths,
    *snapshot_l1.PLANNERS,
    *snapshot_entries.PLANNERS,
)
