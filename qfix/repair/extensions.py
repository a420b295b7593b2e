"""Pass H: header extensions whose lengths are damaged, or that contradict the header (format 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qfix.change.draft import Change
from qfix.layout import extensions as layout
from qfix.layout import header
from qfix.layout.extensions import HEAD
from qfix.problems import bitmaps as bitmap_problems
from qfix.problems import extensions as problems
from qfix.repair import backing, encryption
from qfix.repair.area import is_misread, likely_length, limit_of, remove_extensions
from qfix.repair.fields import EXTENSIONS, is_asked, note, refuse, reveal, set_field

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.change.draft import Draft
    from qfix.problems import Problem
    from qfix.repair.wanted import Wanted

ENCRYPTION = layout.NAMES[layout.ENCRYPTION]


def mend_lengths(draft: Draft, wanted: Wanted) -> bool:
    """Set the lengths of extensions with which all that stands behind them can be read."""
    found = (
        problems.EXTENSION_OVERRUN,
        problems.BACKING_FORMAT,
        problems.CRYPT_POINTER_MISSING,
        problems.CRYPT_POINTER_NEEDLESS,
        bitmap_problems.EXTENSION,
    )
    if not is_asked(draft, wanted.all or wanted.lossy, *found):
        return False
    for problem, position in _misfits(draft):
        length = likely_length(draft.image, position)
        old = int.from_bytes(draft.image.head.raw[position + 4 : position + HEAD], "big")
        if length is not None and length != old:
            draft.write(position + 4, length.to_bytes(4, "big"))
            text = f"length of the header extension at {position:#x} ({_kind(draft, position)})"
            note(draft, Change(problem.code, text, position + 4, 1, str(old), str(length)))
            reveal(draft, *EXTENSIONS)
            return True
    return False


def _misfits(draft: Draft) -> Iterator[tuple[Problem, int]]:
    """Yield the extensions whose length may be wrong: what says so, and their offset."""
    image, area = draft.image, draft.image.area
    if area.overrun is not None:
        yield problems.EXTENSION_OVERRUN, area.overrun
        for item in reversed(area.extensions):
            yield problems.EXTENSION_OVERRUN, item.offset
    for problem, magic, damaged in (
        (problems.BACKING_FORMAT, layout.BACKING_FORMAT, True),
        (problems.CRYPT_POINTER_MISSING, layout.ENCRYPTION, image.encryption is None),
        (problems.CRYPT_POINTER_NEEDLESS, layout.ENCRYPTION, image.encryption is None),
        (bitmap_problems.EXTENSION, layout.BITMAPS, image.bitmaps_extension is None),
    ):
        found = area.find(magic)
        if found is not None and damaged and draft.found(problem):
            yield problem, found.offset


def _kind(draft: Draft, position: int) -> str:
    magic = int.from_bytes(draft.image.head.raw[position : position + 4], "big")
    return "the end marker" if magic == layout.END else layout.NAMES.get(magic, f"{magic:#010x}")


def cut_area(draft: Draft, wanted: Wanted) -> bool:
    """End the area before an extension that does not fit and can't be mended."""
    if not is_asked(draft, wanted.all or wanted.lossy, problems.EXTENSION_OVERRUN):
        return False
    image, code = draft.image, problems.EXTENSION_OVERRUN.code
    position = image.area.overrun
    if position is None:
        return False
    kind = _kind(draft, position)
    if position + HEAD > limit_of(image):
        return refuse(draft, wanted, code, "there is no room for an end marker", "")
    luks = image.header.crypt_method == header.CRYPT_LUKS
    if image.area.find(layout.ENCRYPTION) is None and (luks or kind == ENCRYPTION):
        why = f"the key slots would be lost with the extensions from {position:#x} ({kind}) on"
        return refuse(draft, wanted, code, why, "")
    if not wanted.lossy:
        why = f"its right length can't be told; extensions from it ({kind}) on would be given up"
        return refuse(draft, wanted, code, why)
    old = image.head.raw[position : position + HEAD]
    draft.write(position, bytes(HEAD))
    text = f"the header extension at {position:#x} ({kind}), and any behind it, is given up"
    note(draft, Change(code, text, position, 1, old.hex(), "end marker", lossy=True))
    return True


def drop_backing_format(draft: Draft, wanted: Wanted) -> bool:
    """Remove a backing format that QEMU takes for too long."""
    if not is_asked(draft, wanted.all or wanted.lossy, problems.BACKING_FORMAT):
        return False
    if is_misread(draft):
        return False
    code = problems.BACKING_FORMAT.code
    if not wanted.lossy:
        return refuse(draft, wanted, code, "the backing format would be given up")
    for item in remove_extensions(draft, layout.BACKING_FORMAT):
        text = "the backing format is given up: QEMU looks at the backing file to tell it"
        old = f"{len(item.data)} bytes"
        note(draft, Change(code, text, item.offset, 1, old, "removed", lossy=True))
    return True


def clear_raw_mark(draft: Draft, wanted: Wanted) -> bool:
    """Clear the mark of a raw data file where nothing speaks for a data file."""
    problem = problems.RAW_WITHOUT_DATA_FILE
    if not is_asked(draft, wanted.all, problem) or is_misread(draft):
        return False
    if draft.image.data_file_name is not None:
        why = "a data file is named: the data file bit may be the wrong one of the two"
        return refuse(draft, wanted, problem.code, why, "")
    new = draft.image.header.autoclear_features & ~header.RAW_DATA_FILE
    set_field(draft, "autoclear_features", new, problem.code, "there is no data file")
    return True


PLANNERS = (
    *backing.PLANNERS,
    mend_lengths,
    cut_area,
    drop_backing_format,
    *encryption.PLANNERS,
    clear_raw_mark,
)
