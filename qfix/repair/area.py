"""The area of header extensions: whether a reading of it is sound, and an area laid out anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qfix.layout import extensions
from qfix.layout.extensions import HEAD, Extension, encode_extension, parse_extensions
from qfix.problems import extensions as problems
from qfix.problems import header

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.change.draft import Draft
    from qfix.image import Image

MOST_TEXT = 1023
FORMAT_TEXT = 15
TABLE_LENGTHS = tuple(range(8 * extensions.FEATURE_RECORD, 0, -extensions.FEATURE_RECORD))
FEATURE_TYPES = range(3)
FEATURE_BITS = range(64)
MISREAD = (
    header.HEADER_LENGTH,
    header.VERSION_2_FIELDS,
    problems.EXTENSION_OVERRUN,
    problems.EXTENSIONS_IGNORED,
)
"""With one of them extensions may be there that are not seen."""


def is_misread(draft: Draft) -> bool:
    """Tell whether the extensions that are seen may not be those that are there."""
    return draft.found(*MISREAD)


def limit_of(image: Image) -> int:
    """Return where the area of extensions must end, as `Image.area` takes it."""
    size, offset = image.geometry.cluster_size, image.header.backing_file_offset
    return offset if 0 < offset <= size else size


def padded(data: bytes) -> bytes:
    """Return *data* with zeros up to a multiple of 8 bytes."""
    return data + bytes(-len(data) % 8)


def end_of_area(raw: bytes, start: int, limit: int) -> int | None:
    """Return the end of an area that is sound: its end marker is there, every kind is known.

    None where it isn't.
    """
    area = parse_extensions(raw, start, limit)
    known = all(extension.magic in extensions.NAMES for extension in area.extensions)
    behind = start
    for extension in area.extensions:
        behind = extension.offset + len(encode_extension(extension.magic, extension.data))
    marked = area.overrun is None and area.end == behind + HEAD
    return area.end if known and marked else None


def is_area(raw: bytes, start: int, limit: int) -> bool:
    """Tell whether a sound area begins at *start*; an empty one has nothing behind it either."""
    end = end_of_area(raw, start, limit)
    return end is not None and (end > start + HEAD or not any(raw[end:limit]))


def text_at(raw: bytes, start: int) -> bytes:
    """Return the printable text that begins at *start* and ends with a zero, b"" if none does."""
    text = raw[start:].partition(b"\0")[0]
    return text if len(text) <= MOST_TEXT and is_text(text) else b""


def is_text(data: bytes) -> bool:
    """Tell whether *data* is UTF-8 without control characters."""
    try:
        return data.decode().isprintable()
    except UnicodeDecodeError:
        return False


def likely_length(image: Image, position: int) -> int | None:
    """Return the length of the extension at *position* with which all behind it can be read.

    None where the kind is not known or no length does it.
    """
    raw, limit = image.head.raw, limit_of(image)
    if position + HEAD > limit:
        return None
    magic = int.from_bytes(raw[position : position + 4], "big")
    if magic == extensions.END:
        return 0
    body = position + HEAD
    for length in _possible(magic, raw, body):
        end = body + (length + 7) // 8 * 8
        if end <= limit and not any(raw[body + length : end]) and is_area(raw, end, limit):
            return length
    return None


def _possible(magic: int, raw: bytes, body: int) -> Iterator[int]:
    """Yield the lengths that an extension of a kind may have, by what stands at *body*."""
    if magic == extensions.ENCRYPTION:
        yield extensions.EncryptionPointer.codec.size
    elif magic == extensions.BITMAPS:
        yield extensions.BitmapsExtension.codec.size
    elif magic == extensions.FEATURE_NAMES:
        yield from (size for size in TABLE_LENGTHS if _are_names(raw[body : body + size]))
    elif magic in (extensions.BACKING_FORMAT, extensions.DATA_FILE_NAME):
        most = FORMAT_TEXT if magic == extensions.BACKING_FORMAT else MOST_TEXT
        text = text_at(raw, body)
        whole = [len(text)] if 0 < len(text) <= most else []
        # without a zero between them the head of the next extension looks like more text
        yield from whole
        yield from (size for size in range(8, most + 1, 8) if is_text(raw[body : body + size]))


def _are_names(table: bytes) -> bool:
    """Tell whether *table* is a feature name table: known types and bits, padded names."""
    step = extensions.FEATURE_RECORD
    for start in range(0, len(table), step):
        kind, bit, name = table[start], table[start + 1], table[start + 2 : start + step]
        text = name.rstrip(b"\0")
        if kind not in FEATURE_TYPES or bit not in FEATURE_BITS or not text or not is_text(text):
            return False
    return True


def remove_extensions(draft: Draft, magic: int) -> list[Extension]:
    """Plan an area without the extensions of a kind, all others verbatim; return those removed.

    The backing file's name stays where it is.
    """
    area, start = draft.image.area, draft.image.header.header_length
    kept = b"".join(
        encode_extension(item.magic, item.data) for item in area.extensions if item.magic != magic
    )
    draft.write(start, kept.ljust(area.end - start, b"\0"))
    return [item for item in area.extensions if item.magic == magic]
