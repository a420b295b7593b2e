"""-M and -C: the dirty and the corrupt mark, set and cleared by the one road."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qfix.errors import RefusedError
from qfix.layout.header import CORRUPT, DIRTY
from qfix.modes.carry import carry_out
from qfix.problems import header
from qfix.repair.marks import damage, refcount_errors, set_marks

if TYPE_CHECKING:
    from qfix.change.draft import Draft
    from qfix.examine import Diagnosis
    from qfix.modes.options import Options

BITS = {"dirty": DIRTY, "corrupt": CORRUPT}


def mark(path: str, options: Options) -> Diagnosis:
    """Set or clear a mark; refuse to clear one that is right."""
    word = options.mark or options.clean or ""
    asked = f"-{'M' if options.mark else 'C'} {word}"

    def plan(draft: Draft) -> None:
        if draft.now.image is None or draft.now.recount is None:
            raise RefusedError(f"{path}: the image can't be checked, so its marks stay")
        if draft.image.header.version < 3:
            raise RefusedError(f"{path}: an image of version 2 has no marks")
        if options.mark:
            draft.expected.add(header.CORRUPT_MARK.code)
            planned = set_marks(draft, mark=BITS[word])
        else:
            against = _against(draft, word)
            if against and not options.force:
                raise RefusedError(
                    f"{path}: the {word} mark stays, for there is damage left"
                    f" ({', '.join(against[:8])}): repair it first with --fix all; --force clears"
                    " the mark all the same"
                )
            planned = set_marks(draft, clear=BITS[word], forced=bool(against))
        if planned:
            draft.examine()

    return carry_out(path, options, asked, plan)


def _against(draft: Draft, clean: str) -> list[str]:
    return damage(draft.now) if clean == "corrupt" else refcount_errors(draft.now)
