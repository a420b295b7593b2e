"""Pass H: the width of refcounts, told by the blocks themselves (format 4)."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from qfix.problems import header, refcounts
from qfix.recount.stored import Stored
from qfix.repair.fields import set_field

if TYPE_CHECKING:
    from qfix.change.draft import Draft
    from qfix.repair.wanted import Wanted

USUAL_ORDER = 4
ORDERS = (USUAL_ORDER, *(order for order in range(7) if order != USUAL_ORDER))
MOST_WRONG, LEAST_RIGHT = 0.5, 0.9
WRONG = (refcounts.OVERFLOW, refcounts.USED_BUT_FREE, refcounts.TOO_LOW, refcounts.LEAKED)


def set_refcount_width(draft: Draft, wanted: Wanted) -> bool:
    """Set the width with which most refcounts equal the references, if the header's is not it."""
    if not wanted.errors or draft.image.header.version < 3:
        return False
    if draft.found(header.REFCOUNT_ORDER):
        order = _best(draft)
        return _set(draft, order if order is not None else USUAL_ORDER, header.REFCOUNT_ORDER.code)
    if not draft.found(*WRONG):
        return False
    now = draft.image.header.refcount_order
    if _agreeing(draft, now) > MOST_WRONG:
        return False
    order = _best(draft)
    if order is None or order == now:
        return False
    code = next(problem.code for problem in WRONG if draft.found(problem))
    return _set(draft, order, code)


def _best(draft: Draft) -> int | None:
    """Return the width that most refcounts speak for, None where none fits."""
    highest = int(draft.made.tally.counted.max())
    wide = [order for order in ORDERS if highest < 1 << (1 << order)]
    order = max(wide, key=lambda order: _agreeing(draft, order))
    return order if _agreeing(draft, order) >= LEAST_RIGHT else None


def _set(draft: Draft, order: int, code: str) -> bool:
    why = f"refcounts of {1 << order} bits fit what the blocks hold, or are the usual ones"
    set_field(draft, "refcount_order", order, code, why)
    return True


def _agreeing(draft: Draft, order: int) -> float:
    """Return the share of the first refcounts in use that are right with 2**order bits each."""
    geometry = draft.image.geometry._replace(refcount_order=order)
    tally = replace(draft.made.tally, geometry=geometry)
    stored = Stored(replace(draft.image, geometry=geometry), draft.made.reftable)
    for chunk in islice(stored.chunks(tally), 1):
        if chunk.stored is None:
            return 1.0
        used = (chunk.counted > 0) | (chunk.stored > 0)
        return float(np.mean((chunk.stored == chunk.counted)[used])) if used.any() else 1.0
    return 0.0
