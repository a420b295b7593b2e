"""Claims of the snapshot table, the encryption header and the bitmaps."""

import numpy as np

from qfix.image import Image, printable
from qfix.layout import bitmaps, header, snapshots
from qfix.layout.tables import ENTRY_SIZE
from qfix.problems import bitmaps as problems
from qfix.recount.tally import METADATA, Kind, Tally

BITMAP_BUDGET = 1 << 20


def claim_snapshot_table(image: Image, tally: Tally) -> None:
    """Claim the snapshot table, and count what qemu-img check counts of its entries."""
    found, end = image.snapshot_table
    tally.claim(image.header.snapshots_offset, end.size, Kind.SNAPSHOT_TABLE)
    if image.geometry.data_file and image.header.nb_snapshots:
        tally.corruptions += 1
    if image.header.version >= 3:
        small = snapshots.MIN_EXTRA_V3
        tally.corruptions += sum(item.entry.extra_data_size < small for item in found)
        tally.corruptions += end.behind


def claim_encryption_header(image: Image, tally: Tally) -> None:
    """Claim the encryption header (format 9), whatever the header says of the method."""
    pointer = image.encryption
    if pointer is not None and pointer.length <= header.MAX_FILE_OFFSET:
        tally.claim(pointer.offset, pointer.length, Kind.ENCRYPTION_HEADER)


def claim_bitmaps(image: Image, tally: Tally) -> None:
    """Claim bitmap directory, tables and data, where the autoclear bit says they are valid."""
    extension = image.bitmaps_extension
    if extension is None or not image.header.autoclear_features & header.BITMAPS:
        return
    size = extension.bitmap_directory_size
    tally.claim(extension.bitmap_directory_offset, size, Kind.BITMAP_DIRECTORY)
    directory = image.directory
    budget = BITMAP_BUDGET + image.geometry.file_length // ENTRY_SIZE
    for bitmap in directory.bitmaps if directory else ():
        if table_fits(image, bitmap) and bitmap.entry.bitmap_table_size <= budget:
            budget -= bitmap.entry.bitmap_table_size
            _claim_bitmap(image, tally, bitmap)


def table_fits(image: Image, bitmap: bitmaps.Bitmap) -> bool:
    """Tell whether a bitmap's table is where one could be, if the file were long enough."""
    entry = bitmap.entry
    size = image.geometry.cluster_size
    most = min(bitmaps.MAX_TABLE_ENTRIES, bitmaps.MAX_STORED_BYTES // size)
    aligned = entry.bitmap_table_offset % size == 0 and entry.bitmap_table_offset > 0
    return aligned and 0 < entry.bitmap_table_size <= most


def _claim_bitmap(image: Image, tally: Tally, bitmap: bitmaps.Bitmap) -> None:
    entry = bitmap.entry
    size, bits = image.geometry.cluster_size, image.geometry.cluster_bits
    place = entry.bitmap_table_offset
    length = entry.bitmap_table_size * ENTRY_SIZE
    if not tally.claim(place, length, Kind.BITMAP_TABLE, bitmap.index):
        return
    words = image.table(place, entry.bitmap_table_size, "a bitmap table")
    offset = (words & np.uint64(bitmaps.TABLE_OFFSET)).astype(np.int64)
    reserved = (words & np.uint64(bitmaps.TABLE_RESERVED)) != 0
    reserved |= (offset > 0) & ((words & np.uint64(1)) != 0)
    unaligned = offset % size != 0
    outside = ~unaligned & (offset >= image.geometry.file_length)
    tally.corruptions += int(outside.sum())
    sound = (offset > 0) & ~unaligned & ~outside
    cluster = offset[sound] >> bits
    tally.claim_each(cluster, 1, METADATA)
    each = np.ones_like(cluster)
    tally.add_extents(cluster, each, Kind.BITMAP_DATA, each * bitmap.index)
    wrong = np.flatnonzero(reserved | unaligned | outside)
    tally.found.add(
        problems.TABLE_ENTRY,
        first=np.full(wrong.size, bitmap.index),
        text=printable(bitmap.name),
        index=wrong,
        entry=words[wrong],
        host=place + wrong * ENTRY_SIZE,
        fold=wrong,
    )
