"""Catalogue, pass T: L1 and L2 tables, what they lead to, and tables that were lost."""

from qfix.errors import Status
from qfix.problems.model import Safety, Severity, error, remark

SAFE, LOSSY, MANUAL = Safety.SAFE, Safety.LOSSY, Safety.MANUAL
METADATA = Status.METADATA
LOST = (
    "Do not run `qemu-img check -r` and do not free leaks: that would destroy the data."
    " Copy the file before anything else."
)
RESTORE = "Copy the file first. A backup or a snapshot may hold the same guest range whole."

L1_RESERVED_BITS = error(
    "T201",
    "l1-entry-reserved-bits",
    "L1 entry",
    METADATA,
    SAFE,
    "ERROR found L1 entry with reserved bits set: {entry:x}",
    "The entry leads to its L2 table all the same, but a bit in it was changed.",
    "The guest still reads its data. Other bits nearby may have changed too: check your storage.",
    fix="all",
)
L1_UNALIGNED = error(
    "T202",
    "l1-entry-unaligned",
    "L1 entry",
    METADATA,
    LOSSY,
    "ERROR l2_offset={target:x}: Table is not cluster aligned; L1 entry corrupted",
    "The guest can't read this whole range; QEMU marks the image corrupt when it tries.",
    LOST,
    fix="all",
)
L1_OUTSIDE_FILE = error(
    "T203",
    "l1-entry-outside-file",
    "L1 entry",
    METADATA,
    LOSSY,
    "L1 entry {index} leads behind the end of the file: l2_offset={target:#x}",
    "The guest reads this whole range as if it had never been written.",
    LOST,
    fix="all",
)
L1_FLAGS_ONLY = error(
    "T204",
    "l1-entry-flags-only",
    "L1 entry",
    METADATA,
    SAFE,
    "L1 entry {index} has flags but no offset: {entry:#x}",
    "The range reads as never written; its table may have been lost. QEMU's check parses the"
    " header as a table here, so its counts, and refcount errors found here, may come from that.",
    LOST,
    fix="all",
)
L1_SAME_TABLE = error(
    "T205",
    "l1-entries-share-table",
    "L1 entry",
    METADATA,
    SAFE,
    "{count} L1 entries from {index} on lead to the same L2 table as L1 entry {other}:"
    " l2_offset={target:#x}",
    "Two guest ranges share all their clusters: a write to one changes the other.",
    "Do not start the machine. " + LOST,
    fix="reuse",
)
L2_RESERVED_BITS = error(
    "T211",
    "l2-entry-reserved-bits",
    "L2 entry",
    METADATA,
    SAFE,
    "ERROR found l2 entry with reserved bits set: {entry:x}",
    "The entry leads to its data all the same, but a bit in it was changed.",
    "The guest still reads its data. Other bits nearby may have changed too: check your storage.",
    fix="all",
)
L2_UNALIGNED = error(
    "T212",
    "l2-entry-unaligned",
    "L2 entry",
    METADATA,
    LOSSY,
    "ERROR offset={target:x}: Data cluster is not properly aligned; L2 entry corrupted.",
    "The guest can't read these clusters; QEMU marks the image corrupt when it tries.",
    "If the entries before and after it lead to neighbouring clusters, the right value is in"
    " between. " + RESTORE,
    fix="all",
)
L2_PREALLOCATED_UNALIGNED = error(
    "T213",
    "l2-preallocated-unaligned",
    "L2 entry",
    METADATA,
    SAFE,
    "ERROR offset={target:x}: Preallocated cluster is not properly aligned; L2 entry corrupted.",
    "The clusters read as zeros, so no data is lost; a write to them would fail.",
    "Do not write to the image before the entry is mended. No data is lost.",
    fix="all",
)
L2_OUTSIDE_FILE = error(
    "T214",
    "l2-entry-outside-file",
    "L2 entry",
    METADATA,
    LOSSY,
    "L2 entry {index} leads behind the end of the file: offset={target:#x}",
    "The guest reads these clusters as zeros; what it had written there is not reached.",
    "If the entries before and after it lead to neighbouring clusters, the right value is in"
    " between. " + RESTORE,
    fix="all",
)
COMPRESSED_COPIED = error(
    "T215",
    "compressed-copied",
    "L2 entry",
    METADATA,
    SAFE,
    "ERROR: coffset={target:#x}: copied flag must never be set for compressed clusters",
    "The guest still reads the cluster; one bit too many is set.",
    "No data is lost. Check your storage: bits in tables do not change by themselves.",
    fix="all",
)
COMPRESSED_OUTSIDE = error(
    "T216",
    "compressed-outside-file",
    "L2 entry",
    METADATA,
    LOSSY,
    "the compressed cluster at {target:#x} ({sectors} sectors) ends behind the end of the file",
    "The guest can't read this cluster, or only if its data ends earlier than the entry says.",
    RESTORE,
    fix="all",
)
COMPRESSED_DATA_FILE = error(
    "T217",
    "compressed-with-data-file",
    "L2 entry",
    METADATA,
    LOSSY,
    "ERROR compressed cluster {index} with data file, entry={entry:#x}",
    "Images with an external data file can't hold compressed clusters: the entry is damaged.",
    RESTORE,
    fix="all",
)
COMPRESSED_BITMAP = error(
    "T218",
    "compressed-with-subclusters",
    "L2 entry",
    METADATA,
    LOSSY,
    "ERROR compressed cluster {index} with non-zero subcluster allocation bitmap, entry={entry:#x}",
    "QEMU refuses to read the cluster. Either the compressed flag or the bitmap is wrong.",
    RESTORE,
    fix="all",
)
SUBCLUSTERS_CONTRADICT = error(
    "T219",
    "subclusters-contradict",
    "L2 entry",
    METADATA,
    LOSSY,
    "ERROR offset={target:x}: Allocated cluster has corrupted subcluster allocation bitmap",
    "Subclusters are marked as data and as zeros at once; QEMU refuses to read the cluster.",
    RESTORE,
    fix="all",
)
SUBCLUSTERS_WITHOUT_CLUSTER = error(
    "T220",
    "subclusters-without-cluster",
    "L2 entry",
    METADATA,
    LOSSY,
    "ERROR: Unallocated cluster has non-zero subcluster allocation map",
    "The host cluster of these subclusters is not known; QEMU refuses to read the cluster.",
    "A leaked cluster may be the one that is missing. " + RESTORE,
    fix="all",
)
ZERO_IN_VERSION_2 = error(
    "T221",
    "zero-flag-in-version-2",
    "L2 entry",
    METADATA,
    LOSSY,
    "the zero flag is set in an image of version 2: entry={entry:#x}",
    "QEMU fails to read this cluster; its own check does not see it.",
    "The version field or this bit is damaged. " + RESTORE,
    fix="all",
)
COPIED_WITHOUT_OFFSET = remark(
    "T222",
    "copied-without-offset",
    "L2 entry",
    Severity.WARNING,
    SAFE,
    "L2 entry {index} has the copied flag but no offset: {entry:#x}",
    "The cluster reads as never written. Its offset may have been lost.",
    "If leaked clusters are found too, one of them may be this one. Do not free them.",
    fix="all",
)
BIT_0_RESERVED = remark(
    "T223",
    "extended-entry-bit-0",
    "L2 entry",
    Severity.WARNING,
    SAFE,
    "bit 0 is set in an extended L2 entry: {entry:#x}",
    "QEMU ignores the bit; the format reserves it.",
    "No data is affected.",
    fix="all",
)
DATA_FILE_OFFSET = error(
    "T224",
    "data-file-offset-differs",
    "L2 entry",
    METADATA,
    LOSSY,
    "L2 entry {index} leads to {target:#x} in the data file, not to its own guest offset"
    " {guest:#x}",
    "In the data file every cluster stands at its guest offset: the guest reads foreign data.",
    "The right value is the guest offset itself.",
    fix="all",
)
RAW_UNMAPPED = remark(
    "T225",
    "raw-data-unmapped",
    "L2 table",
    Severity.WARNING,
    MANUAL,
    "{clusters} guest clusters are not mapped although the data file is marked as raw",
    "Read as a raw disk the data file may differ from what the guest sees.",
    "Use the image through its qcow2 file only, or clear the mark with"
    " `qemu-img amend -o data_file_raw=off`.",
)
FILE_CUT = error(
    "T230",
    "file-cut",
    "file",
    METADATA,
    LOSSY,
    "the file is cut short: at least {missing} bytes are missing behind {host:#x}",
    "What the guest had stored there is gone from this file; data reads as zeros, and lost tables"
    " make whole ranges vanish.",
    "Look for the rest: a full disk, a copy that was interrupted, another copy of the file."
    " Do not start the machine.",
    fix="all",
)
FILE_REGROWN = remark(
    "T231",
    "file-cut-and-regrown",
    "file",
    Severity.NOTE,
    MANUAL,
    "{clusters} mapped clusters lie in the hole that ends the file, from {host:#x} on",
    "They read as zeros. That is so when zeros were stored sparsely, and also when the file was"
    " once cut short and has grown again.",
    "If the guest misses data there, look for another copy of the file.",
)
LOST_L2 = error(
    "T232",
    "lost-l2-table",
    "L2 table",
    METADATA,
    LOSSY,
    "leaked cluster {first} looks like an L2 table that nothing leads to any more: {leads} of its"
    " {used} entries lead to clusters with a user that is not found, {bytes} bytes; {where}",
    "Guest data hangs on it that nothing else leads to. qemu-img calls it leaks that do no harm,"
    " and its repair frees it.",
    LOST,
    fix="all",
)
EMPTIED_L2 = error(
    "T233",
    "emptied-l2-table",
    "L2 table",
    METADATA,
    LOSSY,
    "the L2 table at {host:#x} is all zeros, but what it led to is still counted as used: {leaked}"
    " leaked clusters stand right behind it",
    "The table seems to have been overwritten; the leaked clusters are then the guest's data.",
    LOST,
    fix="leaks",
)
UNFILLED_L2 = remark(
    "T236",
    "unfilled-l2-table",
    "L2 table",
    Severity.WARNING,
    LOSSY,
    "the L2 table at {host:#x} is all zeros, and {leaked} leaked clusters behind it end the image",
    "A crash right after they were allocated leaves this: what the guest wrote last, and was never"
    " told to be safe, is gone. An emptied table would look the same.",
    "If the machine did not crash, keep a copy of the file before the leaked clusters are freed.",
    fix="leaks",
)
LACKED_L2 = error(
    "T235",
    "lacked-l2-table",
    "L2 table",
    METADATA,
    LOSSY,
    "the L2 table at {host:#x} has a user that is not found: L1 entry {index} of {place} is the"
    " same in other layers but leads nowhere",
    "The range reads as never written. Nothing of it is lost, for another layer still leads to"
    " the table.",
    "Do not run `qemu-img check -r`: it would make the loss final. Copy the file before anything"
    " else. The same L1 entry of the other layer holds the right value.",
    fix="all",
)
LOST_L1 = error(
    "T234",
    "lost-l1-table",
    "L1 table",
    METADATA,
    LOSSY,
    "leaked cluster {first} looks like an L1 table that nothing leads to any more: {used} entries,"
    " {leads} of them lead to L2 tables that are leaked or of higher refcount than they should be",
    "It is probably that of a snapshot whose entry was lost or damaged, or one that was never"
    " finished; beside H115 or H116 that of the active layer.",
    LOST,
    fix="leaks",
)
REUSED = error(
    "T240",
    "reused-cluster",
    "host cluster",
    Status.REFCOUNTS,
    SAFE,
    "host cluster {first} is used by {users} guest clusters",
    "Two guest ranges share storage: a write to one changes the other, and one of them already"
    " reads what belongs to the other.",
    "Do not start the machine. Raising the refcount, as `qemu-img check -r all` does, hides the"
    " damage for good.",
    fix="reuse",
)
DATA_ON_METADATA = error(
    "T241",
    "data-on-metadata",
    "host cluster",
    METADATA,
    SAFE,
    "host cluster {first} holds {owner}, and guest data leads to it too",
    "The guest reads metadata as its data, and a write by it would destroy the image.",
    "Do not start the machine. " + RESTORE,
    fix="reuse",
)
METADATA_ON_METADATA = error(
    "T242",
    "metadata-on-metadata",
    "host cluster",
    METADATA,
    SAFE,
    "host cluster {first} is claimed by two structures: {owner}",
    "A write to one of them destroys the other.",
    "Do not start the machine. " + RESTORE,
    fix="reuse",
)
L1_OVERLAPPING = error(
    "T250",
    "l1-tables-overlap",
    "L1 table",
    METADATA,
    MANUAL,
    "{what} overlap so much that {skipped} L1 entries were not followed",
    "No sound image has such tables: what leads to them is damaged. Not all of them were looked"
    " at, so counts of references are too low.",
    RESTORE,
)
