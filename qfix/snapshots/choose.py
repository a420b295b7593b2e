"""Which snapshot is meant: by its position, its id or its name (format 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qfix.checks.snapshots import title
from qfix.errors import RefusedError, UsageError
from qfix.image import printable
from qfix.problems import snapshots as problems

if TYPE_CHECKING:
    from collections.abc import Sequence

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


def choose(items: Sequence[Snapshot], word: str) -> Snapshot:
    """Return the snapshot that *word* names: snapshot[N], an id or a name; raises UsageError."""
    raw = word.encode("utf-8", "surrogateescape")
    for item in items:
        if f"snapshot[{item.index}]" == word:
            return item
    found = [item for item in items if raw in (item.id_str, item.name)]
    if len(found) == 1:
        return found[0]
    shown = found or list(items)
    names = ", ".join(f"snapshot[{item.index}] {title(item)}" for item in shown[:MOST_NAMED])
    more = f" and {len(shown) - MOST_NAMED} more" if len(shown) > MOST_NAMED else ""
    if found:
        raise UsageError(f"{printable(raw)!r} fits several snapshots: {names}{more}")
    known = names + more if shown else "there are none"
    raise UsageError(f"there is no snapshot {printable(raw)!r}; in this image: {known}")


def refuse_broken(draft: Draft) -> None:
    """Raise RefusedError where the snapshot table can't be read as a whole."""
    if draft.now.image is None or draft.now.recount is None:
        raise RefusedError(f"{draft.overlay.path}: the image can't be checked: see what qfix says")
    codes = [problem.code for problem in BROKEN if draft.found(problem)]
    if codes:
        raise RefusedError(
            f"{draft.overlay.path}: the snapshot table is damaged ({', '.join(codes)}): repair it"
            " first, with --fix all, which may be given together with this"
        )
