"""Catalogue, passes R and C: refcounts, their table and blocks, and the COPIED flags."""

from qfix.errors import Status
from qfix.problems.model import Safety, Severity, error, remark

SAFE, LOSSY, MANUAL = Safety.SAFE, Safety.LOSSY, Safety.MANUAL
METADATA, REFCOUNTS = Status.METADATA, Status.REFCOUNTS
RECOUNT = (
    "Do not start the machine before repair. Refcounts can be recounted; no data is lost unless a"
    " cluster is used twice (T205, T240 to T242)."
)
COPIED_ADVICE = (
    "Do not start the machine before repair if there are snapshots or a refcount is 0. The flag"
    " itself has cost no data."
)

LEAKED = error(
    "R301",
    "leaked-cluster",
    "host cluster",
    Status.LEAKS,
    SAFE,
    "Leaked cluster {first} refcount={stored} reference={counted}",
    "Space in the file that nothing uses. The guest's data is not affected.",
    "Nothing is urgent. If this check finds nothing else, the space can be freed.",
    fix="leaks",
)
TOO_LOW = error(
    "R302",
    "refcount-too-low",
    "host cluster",
    REFCOUNTS,
    SAFE,
    "ERROR cluster {first} refcount={stored} reference={counted}",
    "A cluster with several users looks as if it had fewer: a write for one of them would change"
    " what the others read, and deleting a snapshot would free it too early. Beside T240 the"
    " second user is"
    " the damage, and a higher refcount would hide it.",
    RECOUNT,
    fix="errors",
)
TOO_HIGH = error(
    "R303",
    "refcount-too-high",
    "host cluster",
    Status.LEAKS,
    SAFE,
    "Leaked cluster {first} refcount={stored} reference={counted}",
    "The cluster will not be freed when its last user goes. The guest's data is not affected,"
    " unless a table that also led to it was lost.",
    "Nothing is urgent. If this check finds nothing else, the refcount can be lowered.",
    fix="errors",
)
USED_BUT_FREE = error(
    "R304",
    "used-but-free",
    "host cluster",
    REFCOUNTS,
    SAFE,
    "ERROR cluster {first} refcount={stored} reference={counted}",
    "A cluster in use looks free: the next write may put something else there and destroy it."
    " That may have happened already if the image was used since.",
    RECOUNT,
    fix="errors",
)
OVERFLOW = error(
    "R305",
    "too-many-references",
    "host cluster",
    REFCOUNTS,
    MANUAL,
    "ERROR overflow cluster {first}: {counted} references, but refcounts of this image end at"
    " {most}",
    "The refcount can't be right as long as the cluster has that many users.",
    "Do not start the machine. If the users are snapshots, widen the refcounts of a copy with"
    " `qemu-img amend -o refcount_bits=64`; otherwise entries are damaged.",
)
RT_RESERVED_BITS = error(
    "R310",
    "reftable-entry-reserved-bits",
    "refcount table entry",
    METADATA,
    SAFE,
    "ERROR refcount table entry {first} has reserved bits set",
    "QEMU's check does not count the block itself, and its repair marks the image corrupt.",
    RECOUNT,
    fix="errors",
)
RT_UNALIGNED = error(
    "R311",
    "reftable-entry-unaligned",
    "refcount table entry",
    METADATA,
    SAFE,
    "ERROR refcount block {first} is not cluster aligned; refcount table entry corrupted",
    "The refcounts of all clusters that it describes can't be read; a write there fails.",
    RECOUNT,
    fix="errors",
)
RT_OUTSIDE_FILE = error(
    "R312",
    "refblock-outside-file",
    "refcount table entry",
    METADATA,
    SAFE,
    "ERROR refcount block {first} is outside image",
    "The clusters it describes look free. QEMU's repair would let the file grow to that offset.",
    RECOUNT,
    fix="errors",
)
BLOCK_SHARED = error(
    "R313",
    "refblock-shared",
    "refcount block",
    METADATA,
    SAFE,
    "ERROR refcount block {first} refcount={references}",
    "The block stands in a cluster that something else uses too; a write to one destroys the"
    " other.",
    "Do not start the machine before repair. Refcounts can be recounted, but what shares the"
    " cluster may be overwritten already.",
    fix="errors",
)
BLOCK_MISSING = error(
    "R314",
    "refblock-missing",
    "refcount block",
    REFCOUNTS,
    SAFE,
    "refcount block {first} is missing: {used} clusters that are in use have no refcount",
    "They look free: the next write may put something else there and destroy them.",
    RECOUNT,
    fix="errors",
)
TABLE_TOO_SMALL = error(
    "R315",
    "reftable-too-small",
    "refcount table",
    REFCOUNTS,
    SAFE,
    "the refcount table ends before host cluster {first}: {used} clusters that are in use have no"
    " refcount",
    "They look free: the next write may put something else there and destroy them.",
    RECOUNT,
    fix="errors",
)
BEHIND_END = remark(
    "R316",
    "refcount-behind-end",
    "refcount block",
    Severity.WARNING,
    SAFE,
    "refcounts are set for {used} clusters behind the end of the file, from cluster {first} on",
    "Harmless as such. It happens when a file was cut short, so see what else is found.",
    "If the file was cut, look for another copy of it.",
    fix="errors",
)
L1_COPIED = error(
    "C401",
    "l1-copied-flag",
    "L1 entry",
    Status.COPIED,
    SAFE,
    "ERROR OFLAG_COPIED L2 cluster: l1_index={index} l1_entry={entry:x} refcount={refcount}",
    "With the flag wrongly set a write changes a table that a snapshot uses; wrongly clear, it"
    " only makes a needless copy. With refcount=0 it is the refcount that is wrong.",
    COPIED_ADVICE,
    fix="errors",
)
L2_COPIED = error(
    "C402",
    "l2-copied-flag",
    "L2 entry",
    Status.COPIED,
    SAFE,
    "ERROR OFLAG_COPIED data cluster: l2_entry={entry:x} refcount={refcount}",
    "With the flag wrongly set a write changes data that a snapshot uses; wrongly clear, it only"
    " makes a needless copy. With refcount=0 it is the refcount that is wrong.",
    COPIED_ADVICE,
    fix="errors",
)
