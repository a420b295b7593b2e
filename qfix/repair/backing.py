"""Pass H: where the backing file's name stands, and how long it is (format 11)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qfix.image import printable
from qfix.layout.header import V2_LENGTH
from qfix.problems import extensions as problems
from qfix.repair.area import end_of_area, text_at
from qfix.repair.fields import EXTENSIONS, is_asked, refuse, reveal, set_field

if TYPE_CHECKING:
    from qfix.change.draft import Draft
    from qfix.image import Image
    from qfix.repair.wanted import Wanted

ASTRAY = (
    problems.BACKING_OFFSET,
    problems.BACKING_LENGTH,
    problems.BACKING_OVERLAP,
    problems.EXTENSIONS_IGNORED,
)


def derive_backing_name(draft: Draft, wanted: Wanted) -> bool:
    """Let the header lead to the name behind the extensions, if one of the two fields agrees.

    An offset that cuts the extensions off makes one of them seem too long.
    """
    found = (*ASTRAY, problems.EXTENSION_OVERRUN)
    if not is_asked(draft, wanted.all or wanted.lossy, *found):
        return False
    image = draft.image
    code = next(problem.code for problem in found if draft.found(problem))
    place = _place(image) if image.header.backing_file_offset else None
    if place is None:
        return draft.found(*ASTRAY) and _give_up(draft, wanted, code)
    offset, length = place
    name = printable(image.head.raw[offset : offset + length])
    why = f"the name behind the extensions, {name}" if length else "there is no name"
    set_field(draft, "backing_file_offset", offset, code, why)
    set_field(draft, "backing_file_size", length, code, why)
    reveal(draft, *EXTENSIONS)
    return True


def _place(image: Image) -> tuple[int, int] | None:
    """Return offset and length of the name that must be meant, None where that is not clear."""
    head, raw, size = image.header, image.head.raw, image.geometry.cluster_size
    end = None
    if V2_LENGTH <= head.header_length <= size:
        end = end_of_area(raw, head.header_length, size)
    if end is None:
        return None
    offset, length = head.backing_file_offset, head.backing_file_size
    if not length:
        return 0, 0
    text = text_at(raw, end)
    if text and (offset == end or length == len(text)):
        return end, len(text)
    if end <= offset < size and not raw[offset - 1] and (text := text_at(raw, offset)):
        return offset, len(text)
    return None


def _give_up(draft: Draft, wanted: Wanted, code: str) -> bool:
    """Clear the reference to a backing file whose name can't be found."""
    if not wanted.lossy:
        return refuse(draft, wanted, code, "the name of the backing file can't be found")
    why = (
        "the name of the backing file can't be found; whatever the guest reads from that file is"
        " given up (`qemu-img rebase -u` names it again)"
    )
    set_field(draft, "backing_file_offset", 0, code, why, lossy=True)
    set_field(draft, "backing_file_size", 0, code, why, lossy=True)
    reveal(draft, *EXTENSIONS)
    return True


PLANNERS = (derive_backing_name,)
