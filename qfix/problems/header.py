"""Catalogue, pass H: the header, its extensions, and names that lead out of the image."""

from qfix.errors import Status
from qfix.problems.model import Safety, Severity, error, remark

SAFE, LOSSY, MANUAL = Safety.SAFE, Safety.LOSSY, Safety.MANUAL
NOTE, WARNING = Severity.NOTE, Severity.WARNING
METADATA, UNSUPPORTED = Status.METADATA, Status.UNSUPPORTED
KEEP = "Work on a copy of the file. "
HEX_EDIT = KEEP + "The right value can often be taken from a sibling image made in the same way."

NOT_QCOW2 = error(
    "H101",
    "not-qcow2",
    "header",
    UNSUPPORTED,
    MANUAL,
    "this is not a qcow2 image; it looks like {guess}",
    "The file does not start as a qcow2 image does, and nothing behind its start looks like one.",
    "Make sure that this is the right file, and that the machine uses it with the right format.",
)
HEADER_OVERWRITTEN = error(
    "H102",
    "header-overwritten",
    "header",
    METADATA,
    MANUAL,
    "the header was overwritten ({guess}); tables for {cluster_size}-byte clusters are behind it",
    "Nothing can open the image, but its tables, and with them the guest's data, are still there.",
    "Do not write to the file. " + KEEP + "A header made from a new image of the same virtual size,"
    " made with the same options, opens it again, once its table offsets are set right.",
)
MAGIC_DAMAGED = error(
    "H103",
    "magic-damaged",
    "header",
    METADATA,
    SAFE,
    "the magic number is {magic:#010x} instead of 0x514649fb; the header behind it is sound",
    "QEMU takes the file for a raw disk; a guest started so would write over it. The data is not"
    " touched so far.",
    "Do not start the machine. " + KEEP + "Set the first four bytes to 51 46 49 fb.",
    fix="all",
)
HEADER_CUT = error(
    "H104",
    "header-cut",
    "header",
    METADATA,
    MANUAL,
    "the file has {size} bytes, less than its header needs ({needed})",
    "The file was cut so short that no table is left in it.",
    "Restore the file from a backup.",
)
VERSION_UNKNOWN = error(
    "H105",
    "version-unknown",
    "header",
    UNSUPPORTED,
    MANUAL,
    "Unsupported qcow2 version {version}",
    "The image was made by a program newer or older than qcow2 version 2 and 3, or the version"
    " field is damaged.",
    "If the image worked before, the field at offset 4 is damaged: it must be 2 or 3.",
)
CLUSTER_BITS = error(
    "H106",
    "cluster-bits-out-of-range",
    "header",
    METADATA,
    MANUAL,
    "Unsupported cluster size: 2^{cluster_bits}",
    "Every offset in the image depends on the cluster size, so no table can be read.",
    HEX_EDIT + " The field stands at offset 20; 16 (64 KiB clusters) is the usual value.",
)
REFCOUNT_ORDER = error(
    "H107",
    "refcount-order-out-of-range",
    "header",
    METADATA,
    SAFE,
    "refcount_order is {refcount_order}, more than 6: refcounts can't be read",
    "QEMU does not open the image. The guest's data is not touched.",
    HEX_EDIT + " The field stands at offset 96; 4 (16 bits) is the usual value.",
    fix="errors",
)
HEADER_LENGTH = error(
    "H108",
    "header-length-out-of-range",
    "header",
    METADATA,
    SAFE,
    "header_length is {header_length}; it must be 104 to {cluster_size}",
    "QEMU does not open the image. The guest's data is not touched.",
    HEX_EDIT + " The field stands at offset 100; 112 or 104 are the usual values.",
    fix="all",
)
HEADER_LENGTH_ODD = remark(
    "H109",
    "header-length-odd",
    "header",
    WARNING,
    SAFE,
    "header_length is {header_length}, not a multiple of 8",
    "QEMU opens the image, other programs may not.",
    "Nothing is urgent; check the header extensions, which begin there.",
    fix="all",
)
CRYPT_METHOD = error(
    "H110",
    "crypt-method-unknown",
    "header",
    METADATA,
    LOSSY,
    "Unsupported encryption method {crypt_method}",
    "QEMU does not open the image. Its tables are not encrypted and were checked.",
    HEX_EDIT + " The field stands at offset 32: 0 none, 1 AES, 2 LUKS.",
    fix="all",
)
VIRTUAL_SIZE = error(
    "H111",
    "virtual-size-too-large",
    "header",
    METADATA,
    LOSSY,
    "Image is too big: a virtual size of {size} bytes needs more L1 entries than there can be",
    "QEMU does not open the image. The guest's data is not touched.",
    HEX_EDIT + " The field stands at offset 24.",
    fix="all",
)
VIRTUAL_SIZE_ODD = remark(
    "H112",
    "virtual-size-odd",
    "header",
    WARNING,
    SAFE,
    "the virtual size {size} is not a multiple of 512: its last {tail} bytes are out of reach",
    "QEMU leaves the tail out; the guest sees a disk that ends at the last whole sector.",
    "Nothing is urgent.",
    fix="all",
)
L1_TOO_LARGE = error(
    "H113",
    "l1-size-too-large",
    "header",
    METADATA,
    LOSSY,
    "Active L1 table too large: {l1_size} entries, at most 4194304 are allowed",
    "QEMU does not open the image.",
    HEX_EDIT + " The field stands at offset 36.",
    fix="all",
)
L1_TOO_SMALL = error(
    "H114",
    "l1-size-too-small",
    "header",
    METADATA,
    LOSSY,
    "L1 table is too small: {l1_size} entries, the virtual size needs {needed}",
    "QEMU does not open the image. Either this field or the virtual size is damaged; guest data"
    " behind the last entry would be out of reach.",
    HEX_EDIT + " l1_size stands at offset 36, the virtual size at offset 24.",
    fix="all",
)
L1_OFFSET = error(
    "H115",
    "l1-offset-unaligned",
    "header",
    METADATA,
    MANUAL,
    "Active L1 table offset invalid: {offset:#x} is not a multiple of the cluster size",
    "QEMU does not open the image, and no guest data can be found through this table.",
    HEX_EDIT + " The field stands at offset 40.",
)
L1_OUTSIDE = error(
    "H116",
    "l1-outside-file",
    "header",
    METADATA,
    MANUAL,
    "the active L1 table ({offset:#x}, {length} bytes) lies on the header or not inside the file",
    "The guest sees an empty disk, or one that ends early; its data is not reached through this"
    " table.",
    "Do not let a repair free leaked clusters: they are the guest's data. " + HEX_EDIT,
)
REFTABLE_OFFSET = error(
    "H117",
    "reftable-offset-unaligned",
    "header",
    METADATA,
    SAFE,
    "Reference count table offset invalid: {offset:#x} is not a multiple of the cluster size",
    "QEMU does not open the image. Refcounts can be made anew from the tables; no data is lost.",
    HEX_EDIT + " The field stands at offset 48.",
    fix="errors",
)
REFTABLE_OUTSIDE = error(
    "H118",
    "reftable-outside-file",
    "header",
    METADATA,
    SAFE,
    "the refcount table ({offset:#x}, {length} bytes) lies on the header or not inside the file",
    "Refcounts read as 0, so a write would overwrite clusters that are in use.",
    "Do not start the machine. Refcounts can be made anew from the tables; no data is lost.",
    fix="errors",
)
REFTABLE_EMPTY = error(
    "H119",
    "reftable-empty",
    "header",
    METADATA,
    SAFE,
    "the refcount table has 0 clusters",
    "There are no refcounts; QEMU does not open the image.",
    "Do not start the machine. Refcounts can be made anew from the tables; no data is lost.",
    fix="errors",
)
REFTABLE_TOO_LARGE = error(
    "H120",
    "reftable-too-large",
    "header",
    METADATA,
    SAFE,
    "Reference count table too large: {clusters} clusters, at most {most} are allowed",
    "QEMU does not open the image. Refcounts can be made anew from the tables; no data is lost.",
    HEX_EDIT + " The field stands at offset 56.",
    fix="errors",
)
DIRTY_MARK = remark(
    "H121",
    "dirty-mark",
    "header",
    WARNING,
    SAFE,
    "the dirty mark is set: the image was not closed cleanly",
    "Refcounts may be stale. QEMU repairs the image by itself when it opens it for writing.",
    "If this check finds nothing else, nothing has to be done. Otherwise do not start the machine:"
    " QEMU's own repair frees leaks and hides reused clusters.",
    fix="all",
)
CORRUPT_MARK = error(
    "H122",
    "corrupt-mark",
    "header",
    Status.CORRUPT_MARK,
    SAFE,
    "the corrupt mark is set: QEMU opens the image for reading only",
    "QEMU met damaged metadata and stopped writing, so that it would not get worse. While qfix"
    " changes an image it is marked too: see whether a change was interrupted whose journal was put"
    " elsewhere with --journal.",
    "Look at what else this check finds. If that is nothing, `-C corrupt` clears the mark.",
    fix="all",
)
FEATURE_UNKNOWN = error(
    "H123",
    "feature-unknown",
    "header",
    UNSUPPORTED,
    MANUAL,
    "Unsupported qcow2 feature(s): {names}",
    "The image may mean something else than what this program would read, so it was not checked.",
    "Use a newer version of the program that made it. If it worked before, the field at offset 72"
    " is damaged.",
)
COMPATIBLE_UNKNOWN = remark(
    "H124",
    "compatible-feature-unknown",
    "header",
    NOTE,
    MANUAL,
    "unknown compatible feature(s): {names}",
    "A program that does not know them may ignore them.",
    "Nothing has to be done.",
)
AUTOCLEAR_UNKNOWN = remark(
    "H125",
    "autoclear-feature-unknown",
    "header",
    WARNING,
    SAFE,
    "unknown autoclear feature(s): {names}",
    "The next program that writes and does not know them clears them. `qemu-img check -r` of some"
    " versions deletes all internal snapshots of such an image.",
    "Do not run `qemu-img check -r` on it while it has internal snapshots.",
    fix="all",
)
VERSION_2_FIELDS = error(
    "H126",
    "version-contradicts-fields",
    "header",
    METADATA,
    MANUAL,
    "version is 2, but fields of version 3 follow (refcount_order {refcount_order},"
    " header_length {header_length})",
    "The version field seems to be damaged; features of version 3 would be misread.",
    KEEP + "Compare offset 4 with a sibling image; it should probably be 3.",
)
COMPRESSION_UNKNOWN = error(
    "H127",
    "compression-type-unknown",
    "header",
    UNSUPPORTED,
    SAFE,
    "qcow2: unknown compression type: {compression_type}",
    "QEMU does not open the image; compressed clusters can't be read.",
    HEX_EDIT + " The field stands at offset 104: 0 zlib, 1 zstd.",
    fix="all",
)
COMPRESSION_BIT = error(
    "H128",
    "compression-type-contradicts-bit",
    "header",
    METADATA,
    SAFE,
    "qcow2: Compression type incompatible feature bit {must} be set",
    "QEMU does not open the image. Either the byte at offset 104 or the feature bit is wrong.",
    HEX_EDIT,
    fix="all",
)
PADDING = remark(
    "H129",
    "header-padding",
    "header",
    WARNING,
    SAFE,
    "the header's padding (offset 105 to 111) is not zero",
    "A later version of the format could give these bytes a meaning.",
    "Nothing is urgent.",
    fix="all",
)
UNREADABLE = error(
    "H149",
    "read-error",
    "file",
    Status.IO_ERROR,
    MANUAL,
    "the host can't read {length} bytes at {host:#x} ({what})",
    "The disk or the network under the file fails. What stands there was taken as zeros.",
    "Copy the file with ddrescue to a good disk first, then check the copy.",
)
SUBCLUSTER_SIZE = error(
    "H146",
    "subclusters-too-small",
    "header",
    METADATA,
    MANUAL,
    "Unsupported subcluster size: {subcluster_size}",
    "QEMU does not open the image. The cluster size or the extended L2 bit is wrong.",
    HEX_EDIT,
)
TOO_MANY_CLUSTERS = error(
    "H147",
    "too-many-clusters",
    "file",
    UNSUPPORTED,
    MANUAL,
    "the file has {clusters} clusters, more than the 2147483647 that can be checked",
    "qemu-img can't check it either.",
    "Convert the image to a larger cluster size.",
)
