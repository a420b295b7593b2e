"""Cases of pass H: the header, its extensions, names that lead out of the image."""

from __future__ import annotations

from build import BACKING_FORMAT, COPIED, FEATURE_NAMES
from build_write import finish
from corpus_bases import (
    BESIDE,
    REMOTE,
    backed,
    data_file,
    described,
    fresh,
    leaky,
    luks,
    plain,
    text,
    with_snapshots,
)
from corpus_case import Case

BOOT_SECTOR = text(b"not a disk ")[:510] + b"\x55\xaa"
FEATURE = b"\0\0dirty bit".ljust(48, b"\0")

NOT_AN_IMAGE = (
    Case(
        "not-qcow2", "the file is a text, not an image",
        lambda: plain().put(0, b"once upon a time ".ljust(17) * 400).resize(4096), {},
        "8 H101@0", "1"
    ),
    Case("not-qcow2-empty", "the file is empty", lambda: plain().resize(0), {}, "8 H101@0", "1"),
    Case(
        "header-overwritten", "a boot sector was written over the header",
        lambda: plain().put(0, BOOT_SECTOR), {}, "6 H102@0", "1"
    ),
    Case(
        "header-overwritten-with-zeros", "the header is all zeros",
        lambda: plain().put(0, bytes(512)), {}, "6 H102@0", "1"
    ),
    Case(
        "magic-damaged", "one byte of the magic number changed",
        plain, {"magic": 0x514649BB}, "6 H103@0", "1"
    ),
    Case(
        "header-cut", "the file was cut inside the header",
        lambda: plain().resize(60), {}, "6 H104@0", "-"
    ),
    Case("version-unknown", "the version is 4", plain, {"version": 4}, "8 H105@0", "1"),
    Case("version-1", "the version is 1", plain, {"version": 1}, "8 H105@0", "1"),
    Case(
        "file-too-long", "the file has 2^31 clusters, one more than can be counted",
        plain, {}, "8 H147@0", "-", length=1 << 40
    ),
)
FIELDS = (
    Case("cluster-bits-small", "clusters of 256 bytes", plain, {"cluster_bits": 8},
         "6 H106@0", "1"),
    Case("cluster-bits-large", "clusters of 4 MiB", plain, {"cluster_bits": 22}, "6 H106@0", "1"),
    Case("refcount-order-7", "refcounts would be 128 bits wide", plain, {"refcount_order": 7},
         "6 H107@0", "1"),
    Case("header-length-small", "header_length is 96", plain, {"header_length": 96},
         "6 H108@0", "1"),
    Case("header-length-large", "header_length is larger than a cluster", plain,
         {"header_length": 520}, "6 H108@0", "1"),
    Case("header-length-odd", "header_length is not a multiple of 8", plain,
         {"header_length": 105}, "0 H109@0"),
    Case("crypt-method-unknown", "the encryption method is 3", plain, {"crypt_method": 3},
         "6 H110@0", "1"),
    Case("virtual-size-huge", "the disk is so large that no L1 table could map it", plain,
         {"size": 1 << 50}, "6 H111@0", "1"),
    Case("virtual-size-odd", "the disk's size is not a multiple of 512", plain,
         {"size": 65124}, "0 H112@0"),
    Case("l1-size-huge", "the L1 table has one entry more than is allowed", plain,
         {"l1_size": 4194305}, "6 H113@0", "1", at_least=True),
    Case("l1-size-small", "the L1 table has one entry, the disk needs two", plain,
         {"l1_size": 1}, "6 H114@0", "1"),
    Case("l1-offset-unaligned", "the L1 table does not start at a cluster", plain,
         {"l1_table_offset": 0x640}, "6 H115@0", "1", at_least=True),
    Case("l1-outside-file", "the L1 table is said to be behind the end of the file", plain,
         {"l1_table_offset": 0x100000}, "6 H116@0 R301@3x6 T232@4 T234@3", "2 1/6"),
    Case("l1-at-header", "the L1 table is said to be where the header is", plain,
         {"l1_table_offset": 0}, "6 R301@3x6 R302@0 T232@4 T242@0", "2 3/6", at_least=True),
    Case("reftable-unaligned", "the refcount table does not start at a cluster", plain,
         {"refcount_table_offset": 0x210}, "6 H117@0", "1", at_least=True),
    Case("reftable-outside-file", "the refcount table is said to be behind the end of the file",
         plain, {"refcount_table_offset": 0x100000}, "6 C401@0 C402@0x4 H118@0 R314@0", "2 13/0"),
    Case("reftable-partly-outside", "the refcount table is said to have 128 clusters", plain,
         {"refcount_table_clusters": 128}, "6 H118@0", "-", at_least=True),
    Case("reftable-empty", "the refcount table has no clusters", plain,
         {"refcount_table_clusters": 0}, "6 C401@0 C402@0x4 H119@0 R315@0", "2 12/0"),
    Case("reftable-huge", "the refcount table is larger than 8 MiB", plain,
         {"refcount_table_clusters": 16385}, "6 H120@0", "1", at_least=True),
)
FEATURES = (
    Case("dirty", "the dirty mark is set, nothing else is wrong", plain,
         {"incompatible_features": 1}, "0 H121@0"),
    Case("dirty-and-reserved-bits", "the dirty mark is set, and an L2 entry has a reserved bit",
         plain, {"incompatible_features": 1, "l2[0][1]": COPIED | 1 << 56 | 0xC00},
         "6 H121@0 T211@1", "2 1/0"),
    Case("corrupt-mark", "the corrupt mark is set, nothing else is wrong", plain,
         {"incompatible_features": 2}, "3 H122@0"),
    Case("corrupt-mark-and-leak", "the corrupt mark is set, and a cluster is leaked", leaky,
         {"incompatible_features": 2}, "1 H122@0 R301@9", "3 0/1"),
    Case("dirty-and-corrupt", "the dirty and the corrupt mark are set", plain,
         {"incompatible_features": 3}, "3 H121@0 H122@0"),
    Case("incompatible-unknown", "a feature is set that nobody knows", plain,
         {"incompatible_features": 1 << 20}, "8 H123@0", "1"),
    Case("compatible-unknown", "an unknown feature is set that may be ignored", plain,
         {"compatible_features": 1 << 5}, "0 H124@0"),
    Case("autoclear-unknown", "an unknown autoclear bit is set, and there are snapshots",
         with_snapshots, {"autoclear_features": 0x20}, "0 H125@0"),
    Case("version-2-with-fields", "the version changed from 3 to 2", plain, {"version": 2},
         "6 H126@0"),
    Case("compression-unknown", "the compression type is 2", plain,
         {"incompatible_features": 8, "compression_type": 2}, "8 H127@0", "1"),
    Case("compression-bit-missing", "the compression type is zstd without its feature bit", plain,
         {"compression_type": 1}, "6 H128@0", "1"),
    Case("compression-bit-needless", "the compression type bit is set, the type is zlib", plain,
         {"incompatible_features": 8}, "6 H128@0", "1"),
    Case("header-padding", "the header's padding is not zero", plain, {"padding": 1},
         "0 H129@0"),
    Case("raw-without-data-file", "the raw bit is set, but there is no data file", plain,
         {"autoclear_features": 2}, "6 H145@0", "1"),
    Case("subclusters-too-small", "extended L2 entries with clusters of 512 bytes", plain,
         {"incompatible_features": 16}, "6 H146@0", "1", at_least=True),
)
EXTENSIONS = (
    Case("extension-overrun", "a header extension is longer than its cluster",
         lambda: plain(extensions=[(0x12345678, b"whatever")]), {"extension[0].length": 10000},
         "6 H130@0", "1"),
    Case("extension-double", "there are two feature name tables",
         lambda: plain(extensions=[(FEATURE_NAMES, FEATURE)] * 2), {}, "0 H131@0"),
    Case("backing-format-long", "the backing format has 20 letters",
         lambda: plain(extensions=[(BACKING_FORMAT, b"f" * 20)]), {}, "6 H140@0", "1"),
    Case("encryption-pointer-missing", "LUKS without a pointer to its header", plain,
         {"crypt_method": 2}, "6 H141@0", "1"),
    Case("encryption-pointer-needless", "a pointer to a LUKS header, but no encryption", luks,
         {"crypt_method": 0}, "6 H142@0", "1"),
    Case("encryption-header-outside", "the LUKS header is said to be behind the end of the file",
         luks, {"encryption.offset": 0x100000}, "6 H143@0 R301@9x2", "1"),
    Case("encryption-header-damaged", "the LUKS header is all zeros", lambda: luks(bytes(1000)),
         {}, "6 H144@0", "1"),
)
NAMES = (
    Case("backing-offset-outside", "the backing file name is said to be in the second cluster",
         plain, {"backing_file_offset": 0x400, "backing_file_size": 5}, "6 H132@0", "1"),
    Case("backing-name-across", "the backing file name does not end in the first cluster",
         plain, {"backing_file_offset": 500, "backing_file_size": 40}, "6 H132@0", "1"),
    Case("backing-name-long", "the backing file name has 1500 bytes",
         lambda: finish(described(cluster_bits=11)),
         {"backing_file_offset": 200, "backing_file_size": 1500}, "6 H133@0", "1"),
    Case("backing-name-in-header", "the backing file name lies over the end of the header",
         lambda: plain(header_length=120).put(112, b"base.img"),
         {"backing_file_offset": 112, "backing_file_size": 8},
         "6 H134@0 H136@0 H138@0 H150@0", "1"),
    Case("extensions-ignored", "an empty backing file name begins before the header's end",
         plain, {"backing_file_offset": 104}, "6 H150@0"),
    Case("backing-control-characters", "the backing file name holds an escape sequence",
         lambda: backed(b"ba\x1b[31mse.img"), {}, "0 H135@0 H136@0 H138@0", "1"),
    Case("backing-remote", "an overlay of a disk on a server",
         lambda: backed(REMOTE), {}, "0 H136@0", "1"),
    Case("backing-relative", "an overlay of a file in its own folder",
         lambda: backed(BESIDE), {}, "0 H136@0"),
    Case("backing-missing", "an overlay of a file that is not there",
         lambda: backed(b"missing.img"), {}, "0 H136@0 H138@0", "1"),
    Case("backing-itself", "an overlay of itself",
         lambda: backed(b"image.qcow2", b"qcow2"), {}, "6 H136@0 H139@0", "1"),
    Case("data-file", "a sound image with an external data file", data_file, {}, "0 H137@0"),
    Case("data-file-unnamed", "an external data file without a name",
         lambda: data_file(extensions=[]), {}, "0 H137@0", "1"),
    Case("data-file-raw-backed", "a raw data file and a backing file",
         lambda: data_file(size=2048, autoclear=2, backing=REMOTE), {},
         "6 H136@0 H137@0 H148@0", "1"),
    Case("data-file-raw-unmapped", "a raw data file, but not every cluster is mapped",
         lambda: data_file(autoclear=2), {}, "0 H137@0 T225@0"),
    Case("data-file-raw", "a sound image with a raw external data file",
         lambda: data_file(size=2048, autoclear=2), {}, "0 H137@0"),
    Case("data-file-bit-lost", "the data file bit was cleared",
         data_file, {"incompatible_features": 0},
         "6 R302@1x3 R313@0 T222@0 T241@1 T241@2 T241@3", "2 4/0"),
)
EMPTY = (
    Case("bitmaps-bit-alone", "the bitmaps bit is set, but there are no bitmaps", plain,
         {"autoclear_features": 1}, "6 B613@0"),
    Case("snapshots-offset-garbage", "the offset of the snapshot table is garbage, but there are"
         " no snapshots", fresh, {"snapshots_offset": 0x1234}, "5 S501@0", "1"),
)
HEADER_CASES = (*NOT_AN_IMAGE, *FIELDS, *FEATURES, *EXTENSIONS, *NAMES, *EMPTY)
