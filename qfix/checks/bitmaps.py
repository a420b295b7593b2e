"""Pass B: the bitmaps extension, the directory, and each bitmap."""

from collections.abc import Iterator

from qfix.image import Image, printable
from qfix.layout import bitmaps, extensions, header
from qfix.layout.bitmaps import Bitmap
from qfix.layout.tables import ENTRY_SIZE
from qfix.problems import Findings
from qfix.problems import bitmaps as problems


def extension_agrees(image: Image) -> Iterator[Findings]:
    """The bitmaps extension and its autoclear bit are there together (format 2.2)."""
    found = image.area.find(extensions.BITMAPS)
    flagged = bool(image.header.autoclear_features & header.BITMAPS)
    if flagged and not found:
        yield problems.AUTOCLEAR_ALONE.at(0, host=88)
    if found and not flagged:
        yield problems.AUTOCLEAR_CLEAR.at(0, host=88)


def extension_is_sound(image: Image) -> Iterator[Findings]:
    """The extension's fields are possible, and the directory is where it says (format 8)."""
    found = image.area.find(extensions.BITMAPS)
    if not found or not image.header.autoclear_features & header.BITMAPS:
        return
    extension = image.bitmaps_extension
    if extension is None:
        what = [f"its length is {len(found.data)} instead of 24"]
        yield problems.EXTENSION.at(0, what=what, host=found.offset)
        return
    if extension.reserved:
        yield problems.EXTENSION.at(0, what=["Reserved field is not zero"], host=found.offset)
    if not 1 <= extension.nb_bitmaps <= bitmaps.MAX_BITMAPS:
        yield problems.COUNT.at(0, bitmaps=extension.nb_bitmaps, host=found.offset)
    offset, size = extension.bitmap_directory_offset, extension.bitmap_directory_size
    misplaced = offset % image.geometry.cluster_size or not offset or not size
    too_long = size > bitmaps.MAX_DIRECTORY_BYTES or offset + size > image.geometry.file_length
    if misplaced or too_long:
        yield problems.DIRECTORY_RANGE.at(0, offset=offset, size=size, host=found.offset)


def directory_is_whole(image: Image) -> Iterator[Findings]:
    """Every directory entry fits, and there are as many as the extension says."""
    extension, directory = image.bitmaps_extension, _directory(image)
    if extension is None or directory is None:
        return
    host = extension.bitmap_directory_offset
    if directory.broken_at is not None:
        yield problems.DIRECTORY_BROKEN.at(len(directory.bitmaps), host=directory.broken_at)
    elif len(directory.bitmaps) != extension.nb_bitmaps:
        yield problems.DIRECTORY_COUNT.at(
            0, expected=extension.nb_bitmaps, found=len(directory.bitmaps), host=host
        )


def bitmaps_are_sound(image: Image) -> Iterator[Findings]:
    """Each bitmap's entry is one that QEMU would load."""
    directory = _directory(image)
    names: dict[bytes, int] = {}
    for item in directory.bitmaps if directory else ():
        yield from _entry(item)
        yield from _table(image, item)
        if item.name in names:
            other = names[item.name]
            text = [printable(item.name)]
            yield problems.NAME_DOUBLE.at(item.index, other=other, text=text, host=item.offset)
        names.setdefault(item.name, item.index)


def _entry(item: Bitmap) -> Iterator[Findings]:
    entry, text, host = item.entry, [printable(item.name)], item.offset
    if not 1 <= entry.name_size <= bitmaps.MAX_NAME:
        yield problems.NAME.at(item.index, length=entry.name_size, host=host)
    if entry.flags & ~bitmaps.KNOWN_FLAGS:
        yield problems.FLAGS.at(item.index, text=text, flags=entry.flags, host=host)
    if entry.flags & bitmaps.IN_USE:
        yield problems.IN_USE.at(item.index, text=text, host=host)
    if entry.type != bitmaps.DIRTY_TRACKING:
        yield problems.TYPE.at(item.index, text=text, type=entry.type, host=host)
    bits = entry.granularity_bits
    if not bitmaps.MIN_GRANULARITY_BITS <= bits <= bitmaps.MAX_GRANULARITY_BITS:
        yield problems.GRANULARITY.at(item.index, text=text, bits=bits, host=host)
    if entry.extra_data_size:
        yield problems.EXTRA.at(item.index, text=text, size=entry.extra_data_size, host=host)


def _table(image: Image, item: Bitmap) -> Iterator[Findings]:
    entry, geometry = item.entry, image.geometry
    offset, entries, size = (
        entry.bitmap_table_offset,
        entry.bitmap_table_size,
        geometry.cluster_size,
    )
    text, host = [printable(item.name)], item.offset
    most = min(bitmaps.MAX_TABLE_ENTRIES, bitmaps.MAX_STORED_BYTES // size)
    misplaced = offset % size or not offset or not 1 <= entries <= most
    if misplaced or offset + entries * ENTRY_SIZE > geometry.file_length:
        yield problems.TABLE.at(item.index, text=text, offset=offset, entries=entries, host=host)
        return
    needed = item.needed_entries(geometry.virtual_size, size)
    if entries != needed and not entry.flags & bitmaps.IN_USE:
        yield problems.TABLE_SIZE.at(
            item.index, text=text, entries=entries, needed=needed, host=host
        )


def _directory(image: Image) -> bitmaps.Directory | None:
    if not image.header.autoclear_features & header.BITMAPS:
        return None
    return image.directory


CHECKS = (extension_agrees, extension_is_sound, directory_is_whole, bitmaps_are_sound)
