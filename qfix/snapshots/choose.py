"""Which snapshot is meant: by its position, its id or its name (format 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qfix.checks.snapshots import title
from qfix.errors import RefusedError, UsageError
from qfix.image import printable
from qfix.problems import snapshots as problems

if TYPE_CHECKING:
    from qfix.change.draft import Draft
    from qfix.layout.snapshots import Snapshot

BROKEN = (
    problems.TABLE_UNALIGNED,
    problems.TABLE_OUTSIDE,
    problems.WITH_DATA_FILE,
    problems.TOO_MANY,
    problems.OVERRUN,
    problems.EXTRA_TOO_LARGE,
)
"""What keeps the table from being read, and so from being written, as a whole."""
MOST_NAMED = 8


def choose(draft: Draft, word: str) -> Snapshot:
    """Return the snapshot that *word* names: snapshot[N], an id or a name; raises UsageError.

    Its position is that in the file, whatever a repair in the same plan has dropped.
    """
    raw, items = word.encode("utf-8", "surrogateescape"), draft.image.snapshots
    at = {item.index: _position(draft, item) for item in items}
    found = [item for item in items if at[item.index] == word]
    found = found or [item for item in items if raw in (item.id_str, item.name)]
    if len(found) == 1:
        return found[0]
    shown = found or list(items)
    names = ", ".join(f"{at[item.index]} {title(item)}".strip() for item in shown[:MOST_NAMED])
    more = f" and {len(shown) - MOST_NAMED} more" if len(shown) > MOST_NAMED else ""
    if found:
        raise UsageError(f"{printable(raw)!r} fits several snapshots: {names}{more}")
    known = names + more if shown else "there are none"
    raise UsageError(f"there is no snapshot {printable(raw)!r}; in this image: {known}")


def _position(draft: Draft, item: Snapshot) -> str:
    """Return where a snapshot stands in the table of the file, or of the plan if it was lost.

    Once others were dropped, the place of one that was found again is not told: it may be theirs.
    """
    layer = item.index + 1
    if layer < len(draft.layers):
        return f"snapshot[{draft.layers[layer] - 1}]"
    return "" if draft.dropped else f"snapshot[{item.index}]"


def refuse_broken(draft: Draft, tried: str) -> None:
    """Raise RefusedError where the snapshot table can't be read as a whole.

    *tried* are the words of the repair that was made before, if there was one.
    """
    path = draft.overlay.path
    if draft.now.image is None or draft.now.recount is None:
        raise RefusedError(f"{path}: the image can't be checked: see what qfix says of it")
    codes = [problem.code for problem in BROKEN if draft.found(problem)]
    if not codes:
        return
    what = f"{path}: the snapshot table is damaged ({', '.join(codes)})"
    more = "--fix all --lossy" if tried else "--fix all"
    if "--lossy" in tried:
        raise RefusedError(f"{what} and could not be repaired: --explain {codes[0]} says more")
    raise RefusedError(
        f"{what}: repair it first, with {more}, which may be given together with this"
    )
