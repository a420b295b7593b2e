"""Catalogue, pass S: the snapshot table and its entries."""

from qfix.errors import Status
from qfix.problems.model import Safety, Severity, error, remark

SAFE, LOSSY, MANUAL = Safety.SAFE, Safety.LOSSY, Safety.MANUAL
SNAPSHOTS = Status.SNAPSHOTS
KEEP = (
    "Do not run `qemu-img check -r`: it frees what it can't find a snapshot for."
    " This does not affect the active layer; copy the file first."
)

TABLE_UNALIGNED = error(
    "S501",
    "snapshot-table-unaligned",
    "snapshot table",
    SNAPSHOTS,
    LOSSY,
    "ERROR snapshot table offset invalid: {offset:#x}, {snapshots} snapshots",
    "No QEMU program opens the image, although everything else may be sound.",
    "With 0 snapshots the field at offset 64 must be 0. Otherwise: " + KEEP,
    fix="all",
)
TABLE_OUTSIDE = error(
    "S502",
    "snapshot-table-outside-file",
    "snapshot table",
    SNAPSHOTS,
    LOSSY,
    "the snapshot table at {offset:#x} is not inside the file",
    "The snapshots can't be found; their clusters look leaked.",
    KEEP,
    fix="all",
)
TOO_MANY = error(
    "S503",
    "too-many-snapshots",
    "header",
    SNAPSHOTS,
    LOSSY,
    "ERROR snapshot table too large: {snapshots} snapshots, at most 65536 are allowed;"
    " {plausible} entries look like snapshots",
    "The count in the header is damaged.",
    KEEP + " The field stands at offset 60.",
    fix="all",
)
OVERRUN = error(
    "S504",
    "snapshot-table-overrun",
    "snapshot table",
    SNAPSHOTS,
    LOSSY,
    "the snapshot table can't be read from entry {first} on ({count} entries): {reason}",
    "The snapshots from there on are not found; their clusters look leaked.",
    KEEP,
    fix="all",
)
EXTRA_TOO_LARGE = error(
    "S505",
    "snapshot-extra-too-large",
    "snapshot",
    SNAPSHOTS,
    LOSSY,
    "Too much extra metadata in snapshot table entry {first}: {size} bytes, at most 1024",
    "QEMU does not open the image. Either the length is damaged or a newer program wrote it.",
    KEEP,
    fix="all",
)
EXTRA_TOO_SMALL = error(
    "S506",
    "snapshot-extra-too-small",
    "snapshot",
    SNAPSHOTS,
    SAFE,
    "ERROR snapshot table entry {first} is incomplete",
    "The entry does not tell the disk's size or the size of the VM state.",
    "No data is lost. `qemu-img snapshot -l` shows whether the list is right.",
    fix="all",
)
ID_EMPTY = error(
    "S507",
    "snapshot-id-empty",
    "snapshot",
    SNAPSHOTS,
    SAFE,
    "snapshot table entry {first} has no id",
    "Programs can't name this snapshot by id; the entry may be damaged.",
    KEEP,
    fix="all",
)
ID_DOUBLE = error(
    "S508",
    "snapshot-id-double",
    "snapshot",
    SNAPSHOTS,
    SAFE,
    "snapshot table entry {first} has the same id as entry {other}: {text}",
    "Reverting to or deleting one of them may hit the other.",
    "Name them by their position in the table. " + KEEP,
    fix="all",
)
NAME_EMPTY = remark(
    "S509",
    "snapshot-name-empty",
    "snapshot",
    Severity.WARNING,
    MANUAL,
    "snapshot table entry {first} has no name",
    "It can be named by its id only.",
    "Nothing has to be done.",
)
NAME_DOUBLE = remark(
    "S510",
    "snapshot-name-double",
    "snapshot",
    Severity.WARNING,
    MANUAL,
    "snapshot table entry {first} has the same name as entry {other}: {text}",
    "Programs that go by name take one of them.",
    "Name them by id.",
)
L1_UNALIGNED = error(
    "S511",
    "snapshot-l1-unaligned",
    "snapshot",
    SNAPSHOTS,
    LOSSY,
    "ERROR snapshot {text} l1_offset={offset:#x}: L1 table is not cluster aligned; snapshot table"
    " entry corrupted",
    "The snapshot can't be read; its clusters look leaked.",
    KEEP,
    fix="all",
)
L1_TOO_LARGE = error(
    "S512",
    "snapshot-l1-too-large",
    "snapshot",
    SNAPSHOTS,
    LOSSY,
    "ERROR snapshot {text} l1_size={entries:#x}: L1 table is too large; snapshot table entry"
    " corrupted",
    "The snapshot can't be read; its clusters look leaked.",
    KEEP,
    fix="all",
)
L1_OUTSIDE = error(
    "S513",
    "snapshot-l1-outside-file",
    "snapshot",
    SNAPSHOTS,
    LOSSY,
    "the L1 table of snapshot {text} ({offset:#x}, {entries} entries) is not inside the file",
    "The snapshot can't be read; its clusters look leaked.",
    KEEP,
    fix="all",
)
DISK_SIZE = error(
    "S514",
    "snapshot-disk-size",
    "snapshot",
    SNAPSHOTS,
    LOSSY,
    "snapshot {text} says a disk size of {size} bytes, which its L1 table of {entries} entries"
    " does not fit",
    "Reverting to it would make a disk of the wrong size, even of 0 bytes.",
    "Do not revert to it before the size is set right.",
    fix="all",
)
WITH_DATA_FILE = error(
    "S515",
    "snapshots-with-data-file",
    "header",
    SNAPSHOTS,
    LOSSY,
    "ERROR {snapshots} snapshots in image with data file",
    "Data in an external file can't be shared between snapshots: they do not hold what they"
    " claim to.",
    "Do not revert to them.",
    fix="all",
)
PHANTOM = error(
    "S517",
    "snapshot-phantom",
    "snapshot",
    SNAPSHOTS,
    LOSSY,
    "snapshot table entry {first} is all zeros: no id, no name, no L1 table",
    "The count in the header is too high, or the table was overwritten.",
    "If the list before it is complete, the count at offset 60 of the header is too high. " + KEEP,
    fix="all",
)
L1_EMPTY = error(
    "S518",
    "snapshot-l1-missing",
    "snapshot",
    SNAPSHOTS,
    LOSSY,
    "snapshot {text} has no L1 table (offset {offset:#x}, {entries} entries)",
    "The snapshot reads as an empty disk; its clusters look leaked.",
    KEEP,
    fix="all",
)
