"""The bitmaps extension and the bitmap directory: read as they are, and written anew (format 8)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qfix.change.draft import Change
from qfix.image import printable
from qfix.layout import bitmaps as layout
from qfix.layout import extensions, header
from qfix.layout.bitmaps import Bitmap, BitmapEntry, Directory, parse_directory
from qfix.layout.extensions import BitmapsExtension
from qfix.recount.others import table_fits
from qfix.recount.tally import Kind
from qfix.repair.area import is_text, padded, remove_extensions
from qfix.repair.fields import make_room, note, put, reveal, set_field
from qfix.repair.owners import may_write

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qfix.change.draft import Draft
    from qfix.layout.record import Record
    from qfix.problems import Problem

BODY = 8
"""The data of a header extension begins so many bytes behind its start."""


def with_values(record: Record, **values: int) -> bytes:
    """Return the bytes of a record with other values in some fields."""
    pairs = zip(record.names, record, strict=True)
    return type(record)(values.get(name, old) for name, old in pairs).encode()


def read_directory(
    draft: Draft, size: int, limit: int = layout.MAX_BITMAPS + 1, offset: int | None = None
) -> Directory:
    """Parse *size* bytes of the directory, as far as they are in the file, *limit* entries.

    It is looked for at *offset* instead of where the extension says.
    """
    extension, geometry = draft.image.bitmaps_extension, draft.image.geometry
    if offset is None:
        offset = extension.bitmap_directory_offset if extension else geometry.file_size
    if offset >= geometry.file_size:
        return Directory((), 0, None)
    size = min(size, layout.MAX_DIRECTORY_BYTES, geometry.file_length - offset)
    return parse_directory(draft.overlay.read(offset, size), offset, limit)


def is_placed(draft: Draft) -> bool:
    """Tell whether the directory's offset is one where it can be."""
    extension, geometry = draft.image.bitmaps_extension, draft.image.geometry
    offset = extension.bitmap_directory_offset if extension else 0
    return 0 < offset < geometry.file_length and offset % geometry.cluster_size == 0


def told_size(draft: Draft) -> int | None:
    """Return the size of the directory by its number of bitmaps, None if they do not tell it.

    All of them have to be sound, and zeros follow to the end of the cluster.
    """
    extension, size = draft.image.bitmaps_extension, draft.image.geometry.cluster_size
    if extension is None or not 1 <= extension.nb_bitmaps <= layout.MAX_BITMAPS:
        return None
    count = extension.nb_bitmaps
    longest = BitmapEntry.codec.size + layout.MAX_NAME + 1
    found = read_directory(draft, count * longest, count)
    base = extension.bitmap_directory_offset
    rest = draft.overlay.read(base + found.end, -found.end % size)
    whole = len(found.bitmaps) == count and all(is_sound(draft, item) for item in found.bitmaps)
    return found.end if whole and not any(rest) else None


def is_sound(draft: Draft, item: Bitmap) -> bool:
    """Tell whether a directory entry can be that of a bitmap."""
    entry, geometry = item.entry, draft.image.geometry
    named = 1 <= entry.name_size <= layout.MAX_NAME and is_text(item.name)
    return (
        named
        and table_fits(draft.image, item)
        and entry.bitmap_table_offset < geometry.file_length
        and entry.type == layout.DIRTY_TRACKING
        and not entry.flags & ~layout.KNOWN_FLAGS
        and layout.MIN_GRANULARITY_BITS <= entry.granularity_bits <= layout.MAX_GRANULARITY_BITS
    )


def raw_bitmap(draft: Draft, item: Bitmap, **values: int) -> bytes:
    """Return the bytes of a directory entry, padded, with other *values* in some fields."""
    fixed = BitmapEntry.codec.size
    rest = draft.overlay.read(
        item.offset + fixed, item.entry.extra_data_size + item.entry.name_size
    )
    return padded(with_values(item.entry, **values) + rest)


def set_extension(draft: Draft, code: str, why: str, *, lossy: bool = False, **values: int) -> bool:
    """Plan values for fields of the bitmaps extension; return whether any is another one."""
    found = draft.image.area.find(extensions.BITMAPS)
    if found is None:
        return False
    changed = False
    old = BitmapsExtension.decode(found.data)
    draft.write(found.offset + BODY, with_values(old, **values))
    for field in BitmapsExtension.fields():
        new = values.get(field.name, getattr(old, field.name))
        was = getattr(old, field.name)
        if new != was:
            text = f"bitmaps extension, {field.name}: {why}"
            shown = format(was, field.display), format(new, field.display)
            note(draft, Change(code, text, found.offset + BODY + field.offset, 1, *shown, lossy))
            changed = True
    return changed


BITMAP_KINDS = (Kind.BITMAP_DIRECTORY, Kind.BITMAP_TABLE, Kind.BITMAP_DATA)


def write_directory(
    draft: Draft,
    raws: list[bytes],
    code: str,
    why: str,
    *mended: Problem,
    lossy: bool = False,
) -> None:
    """Plan a directory of the entries *raws*, padded ones; raises NoRoomError.

    It keeps its place where it fits and where no other structure is. What is found of *mended*
    does not lead behind the end of the file after this round.
    """
    extension, geometry = draft.image.bitmaps_extension, draft.image.geometry
    if extension is None:
        return
    table = b"".join(raws)
    offset, old = extension.bitmap_directory_offset, extension.bitmap_directory_size
    room = geometry.clusters(old) << geometry.cluster_bits
    if is_placed(draft) and len(table) <= room and is_alone(draft, offset, len(table)):
        tail = geometry.clusters(len(table)) << geometry.cluster_bits
        put(draft, offset, table.ljust(min(old, tail, geometry.file_length - offset), b"\0"))
    else:
        count = geometry.clusters(len(table))
        offset = make_room(draft, count, *mended) << geometry.cluster_bits
        draft.write(offset, table.ljust(count << geometry.cluster_bits, b"\0"))
    reveal(draft, "B6")
    values = {"bitmap_directory_size": len(table), "bitmap_directory_offset": offset}
    set_extension(draft, code, why, lossy=lossy, nb_bitmaps=len(raws), **values)


def is_alone(draft: Draft, offset: int, length: int) -> bool:
    """Tell whether nothing but bitmap metadata, once, is in the clusters of a structure."""
    bits = draft.image.geometry.cluster_bits
    first, last = offset >> bits, (offset + length - 1) >> bits
    start, count, kind, _ = draft.made.tally.extents()
    others = (start <= last) & (start + count > first) & ~np.isin(kind, BITMAP_KINDS)
    return not others.any() and bool(may_write(draft, np.arange(first, last + 1)).all())


def drop_all(draft: Draft, code: str, why: str) -> bool:
    """Plan the image without bitmaps."""
    directory = draft.image.directory
    items: Iterable[Bitmap] = directory.bitmaps if directory else ()
    names = [printable(item.name) for item in items if item.name and is_text(item.name)]
    if directory is None or directory.broken_at is not None or not names:
        names.append("bitmaps whose names can't be read")
    draft.bitmaps += [name for name in names if name not in draft.bitmaps]
    for item in remove_extensions(draft, extensions.BITMAPS):
        text = f"all bitmaps are given up: {why}"
        note(draft, Change(code, text, item.offset, 1, item.data.hex(), "removed", lossy=True))
    bits = draft.image.header.autoclear_features & ~header.BITMAPS
    set_field(draft, "autoclear_features", bits, code, "there are no bitmaps", lossy=True)
    return True
