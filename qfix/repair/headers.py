"""Pass H: header fields that can be derived from the rest of the image (format 2)."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

from qfix.change.draft import Change
from qfix.layout import header as layout
from qfix.problems import header as problems
from qfix.recount.batches import read_batches
from qfix.recount.entries import decode
from qfix.recount.tally import COMPRESSED
from qfix.repair import sizes
from qfix.repair.area import is_area, limit_of
from qfix.repair.fields import EXTENSIONS, FIELDS, is_asked, note, refuse, reveal, set_field

if TYPE_CHECKING:
    from qfix.change.draft import Draft
    from qfix.image import Image
    from qfix.repair.wanted import Wanted


__all__ = ["PLANNERS", "clear_unknown_autoclear", "set_field", "set_magic"]

COMPRESSION_AT = layout.V3_LENGTH
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
MOST_PAYLOADS = 16
FIELDS_BEHIND = ("H127", "H128", "H129")
"""What can be found of the fields that only the longer header has."""


def set_magic(draft: Draft, wanted: Wanted) -> bool:
    """Set the magic number of a header that is sound but for it."""
    if not wanted.all or not draft.found(problems.MAGIC_DAMAGED):
        return False
    set_field(draft, "magic", layout.MAGIC, problems.MAGIC_DAMAGED.code, "it is always the same")
    return True


def derive_header_length(draft: Draft, wanted: Wanted) -> bool:
    """Set the header length with which the header extensions can be read."""
    both = (problems.HEADER_LENGTH, problems.HEADER_LENGTH_ODD)
    if not is_asked(draft, wanted.all or wanted.lossy, *both):
        return False
    code = next(problem.code for problem in both if draft.found(problem))
    length = likely_header_length(draft.image)
    lossy = length is None
    if length is None:
        if draft.found(problems.HEADER_LENGTH_ODD) or draft.image.header.crypt_method:
            return False
        if not wanted.lossy:
            why = "the header extensions can be read neither from offset 112 nor from 104 on"
            return refuse(draft, wanted, code, why)
        length = layout.FULL_LENGTH
    why = "a guess, extensions may be lost" if lossy else "the extensions, or their end, are there"
    set_field(draft, "header_length", length, code, why, lossy=lossy)
    reveal(draft, *EXTENSIONS, *FIELDS_BEHIND)
    return True


def likely_header_length(image: Image, *, zstd: bool = False) -> int | None:
    """Return 112 or 104, whichever the header extensions begin at; None where neither fits."""
    head, raw = image.header, image.head.raw
    zstd |= bool(head.incompatible_features & layout.COMPRESSION_TYPE) or raw[COMPRESSION_AT] == 1
    lengths = (layout.FULL_LENGTH,) if zstd else (layout.FULL_LENGTH, layout.V3_LENGTH)
    limit = limit_of(image)
    return next((at for at in lengths if at < limit and is_area(raw, at, limit)), None)


def clear_unknown_autoclear(draft: Draft) -> bool:
    """Clear the autoclear bits that nobody here knows, as every writer must (format 2.2)."""
    if int.from_bytes(draft.overlay.read(4, 4), "big") < 3:
        return False
    field = FIELDS["autoclear_features"]
    old = int.from_bytes(draft.overlay.read(field.offset, field.width), "big")
    new = old & layout.KNOWN_AUTOCLEAR
    why = "whoever writes clears the bits that it does not know"
    set_field(draft, field.name, new, problems.AUTOCLEAR_UNKNOWN.code, why)
    return new != old


def clear_autoclear(draft: Draft, wanted: Wanted) -> bool:
    """Clear unknown autoclear bits where that was asked for."""
    asked = is_asked(draft, wanted.all, problems.AUTOCLEAR_UNKNOWN)
    return asked and clear_unknown_autoclear(draft)


def clear_padding(draft: Draft, wanted: Wanted) -> bool:
    """Zero the padding behind the compression type."""
    if not is_asked(draft, wanted.all, problems.PADDING):
        return False
    start = COMPRESSION_AT + 1
    old = draft.image.head.raw[start : min(draft.image.header.header_length, layout.FULL_LENGTH)]
    new = bytes(len(old))
    draft.write(start, new)
    text = "the header's padding is cleared"
    note(draft, Change(problems.PADDING.code, text, start, 1, old.hex(), new.hex()))
    return True


def settle_compression_type(draft: Draft, wanted: Wanted) -> bool:
    """Set compression type and feature bit to what the compressed clusters are."""
    both = (problems.COMPRESSION_BIT, problems.COMPRESSION_UNKNOWN)
    if not is_asked(draft, wanted.all, *both):
        return False
    problem = next(problem for problem in both if draft.found(problem))
    payloads = _payloads(draft)
    zstd = [payload.startswith(ZSTD_MAGIC) for payload in payloads]
    unknown = problem is problems.COMPRESSION_UNKNOWN and not any(zstd)
    zlib_ = not unknown or all(_inflates(draft, payload) for payload in payloads)
    if (any(zstd) and not all(zstd)) or not zlib_:
        why = "the compressed clusters do not tell what they are compressed with"
        return refuse(draft, wanted, problem.code, why, "")
    length = draft.image.header.header_length
    if any(zstd) and length <= COMPRESSION_AT:
        longer = likely_header_length(draft.image, zstd=True)
        if longer is None:
            why = "the compressed clusters are zstd, but the header has no field that says so"
            return refuse(draft, wanted, problem.code, why, "")
        set_field(draft, "header_length", longer, problem.code, "zstd needs the longer header")
        length = longer
    _set_compression(draft, problem.code, length, zstd)
    return True


def _set_compression(draft: Draft, code: str, length: int, zstd: list[bool]) -> None:
    kind = any(zstd)
    name = layout.COMPRESSION_NAMES[kind]
    why = f"the compressed clusters are {name}" if zstd else "no cluster is compressed"
    old = draft.image.head.raw[COMPRESSION_AT]
    if length > COMPRESSION_AT and old != kind:
        draft.write(COMPRESSION_AT, bytes([kind]))
        text = f"header field compression_type: {why}"
        note(draft, Change(code, text, COMPRESSION_AT, 1, str(old), str(int(kind))))
    bits = draft.image.header.incompatible_features & ~layout.COMPRESSION_TYPE
    bits |= layout.COMPRESSION_TYPE if kind else 0
    set_field(draft, "incompatible_features", bits, code, why)


def _inflates(draft: Draft, payload: bytes) -> bool:
    """Tell whether a payload is a raw deflate stream of a cluster (format 10)."""
    size = draft.image.geometry.cluster_size
    try:
        return len(zlib.decompressobj(-zlib.MAX_WBITS).decompress(payload, size)) == size
    except zlib.error:
        return False


def _payloads(draft: Draft) -> list[bytes]:
    """Return the payloads of some compressed clusters."""
    image, made = draft.image, draft.made
    found: list[bytes] = []
    if not (made.tally.owners[: made.tally.size] & COMPRESSED).any():
        return found
    for batch in read_batches(image, made.tables):
        entries = decode(image, batch)
        inside = entries.compressed & (entries.offset < image.geometry.file_size)
        at = np.flatnonzero(inside)[: MOST_PAYLOADS - len(found)]
        places = zip(entries.offset[at].tolist(), entries.length[at].tolist(), strict=True)
        found += [draft.overlay.read(offset, length) for offset, length in places]
        if len(found) == MOST_PAYLOADS:
            break
    return found


PLANNERS = (
    set_magic,
    derive_header_length,
    clear_padding,
    settle_compression_type,
    clear_autoclear,
    *sizes.PLANNERS,
)
