"""Catalogue, pass B: persistent bitmaps."""

from qfix.errors import Status
from qfix.problems.model import Safety, Severity, error, remark

SAFE, LOSSY, MANUAL = Safety.SAFE, Safety.LOSSY, Safety.MANUAL
METADATA = Status.METADATA
WARNING = Severity.WARNING
BACKUP = "The guest's data is not affected. Make the next backup a full one."

EXTENSION = error(
    "B601",
    "bitmaps-extension",
    "header extension",
    METADATA,
    LOSSY,
    "the bitmaps extension is damaged: {what}",
    "QEMU does not open the image as long as the extension counts as valid.",
    BACKUP,
    fix="all",
)
COUNT = error(
    "B602",
    "bitmap-count",
    "header extension",
    METADATA,
    LOSSY,
    "the bitmaps extension names {bitmaps} bitmaps; 1 to 65535 are allowed",
    "QEMU does not open the image.",
    BACKUP,
    fix="all",
)
DIRECTORY_RANGE = error(
    "B603",
    "bitmap-directory-out-of-range",
    "bitmap directory",
    METADATA,
    LOSSY,
    "the bitmap directory ({offset:#x}, {size} bytes) is unaligned, too large or not inside the"
    " file",
    "The bitmaps can't be found.",
    BACKUP,
    fix="all",
)
DIRECTORY_BROKEN = error(
    "B604",
    "bitmap-directory-broken",
    "bitmap directory",
    METADATA,
    LOSSY,
    "Broken bitmap directory: the entry at {host:#x} does not fit, or is all zeros",
    "QEMU does not open the image; bitmaps from this entry on can't be found.",
    BACKUP,
    fix="all",
)
DIRECTORY_COUNT = error(
    "B605",
    "bitmap-count-differs",
    "bitmap directory",
    METADATA,
    LOSSY,
    "the header names {expected} bitmaps, the directory holds {found}",
    "QEMU does not open the image.",
    BACKUP,
    fix="all",
)
TABLE = error(
    "B606",
    "bitmap-table-out-of-range",
    "bitmap",
    METADATA,
    LOSSY,
    "bitmap {text}: its table ({offset:#x}, {entries} entries) is unaligned, too large or not"
    " inside the file",
    "The bitmap can't be read. QEMU refuses the image, or silently empties the bitmap, so that"
    " the next incremental backup would miss data.",
    BACKUP,
    fix="all",
)
TABLE_ENTRY = error(
    "B607",
    "bitmap-table-entry",
    "bitmap",
    METADATA,
    LOSSY,
    "bitmap {text}: table entry {index} is damaged: {entry:#x}",
    "A part of the bitmap can't be read, so that the next incremental backup would miss data.",
    BACKUP,
    fix="all",
)
NAME_DOUBLE = error(
    "B608",
    "bitmap-name-double",
    "bitmap",
    METADATA,
    LOSSY,
    "bitmap {first} has the same name as bitmap {other}: {text}",
    "QEMU refuses to load them.",
    BACKUP,
    fix="all",
)
FLAGS = error(
    "B609",
    "bitmap-flags-unknown",
    "bitmap",
    METADATA,
    LOSSY,
    "bitmap {text} has unknown flags: {flags:#x}",
    "QEMU does not open the image.",
    BACKUP,
    fix="all",
)
GRANULARITY = error(
    "B610",
    "bitmap-granularity",
    "bitmap",
    METADATA,
    LOSSY,
    "bitmap {text} has a granularity of 2^{bits} bytes; 2^9 to 2^31 are allowed",
    "QEMU does not open the image.",
    BACKUP,
    fix="all",
)
IN_USE = remark(
    "B611",
    "bitmap-in-use",
    "bitmap",
    WARNING,
    MANUAL,
    "bitmap {text} is marked as in use: it was not stored when the image was last closed",
    "It misses writes and must not be trusted. That is usual after a crash.",
    BACKUP,
)
AUTOCLEAR_CLEAR = remark(
    "B612",
    "bitmaps-inconsistent",
    "header",
    WARNING,
    LOSSY,
    "a program lacking bitmap support modified this file, so all bitmaps are now considered"
    " inconsistent",
    "The bitmaps must not be trusted, and their clusters count as leaked. `qemu-img check -r` of"
    " some versions deletes all internal snapshots of such an image.",
    BACKUP + " Do not run `qemu-img check -r` while there are internal snapshots.",
    fix="all",
)
AUTOCLEAR_ALONE = error(
    "B613",
    "bitmaps-bit-without-extension",
    "header",
    METADATA,
    SAFE,
    "the bitmaps bit is set, but there is no bitmaps extension",
    "The next write by QEMU marks the image corrupt and fails.",
    "Do not start the machine before bit 0 of the autoclear features (offset 88) is cleared. No"
    " data is lost.",
    fix="all",
)
TABLE_SIZE = error(
    "B614",
    "bitmap-table-size",
    "bitmap",
    METADATA,
    LOSSY,
    "bitmap {text} does not fit the virtual disk: {entries} table entries, {needed} needed",
    "QEMU does not open the image.",
    BACKUP,
    fix="all",
)
TYPE = error(
    "B615",
    "bitmap-type-unknown",
    "bitmap",
    METADATA,
    LOSSY,
    "bitmap {text} is of the unknown type {type}",
    "QEMU does not open the image.",
    BACKUP,
    fix="all",
)
EXTRA = error(
    "B616",
    "bitmap-extra-data",
    "bitmap",
    METADATA,
    LOSSY,
    "bitmap {text} has {size} bytes of extra data, which QEMU does not support",
    "QEMU does not open the image.",
    BACKUP,
    fix="all",
)
NAME = error(
    "B617",
    "bitmap-name",
    "bitmap",
    METADATA,
    LOSSY,
    "the name of bitmap {first} has {length} bytes; 1 to 1023 are allowed",
    "QEMU does not open the image.",
    BACKUP,
    fix="all",
)
