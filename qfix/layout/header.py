"""The header: its fields, the feature bits and the limits that go with them (format 2)."""

from qfix.layout.record import U32, U64, Bits, Hex32, Offset, Record

MAGIC = 0x514649FB
V2_LENGTH = 72
V3_LENGTH = 104
FULL_LENGTH = 112

MIN_CLUSTER_BITS = 9
MAX_CLUSTER_BITS = 21
MIN_EXTENDED_CLUSTER_BITS = 14
MAX_REFCOUNT_ORDER = 6
MAX_L1_ENTRIES = 4_194_304
MAX_REFCOUNT_TABLE_BYTES = 8 << 20
MAX_BACKING_NAME = 1023
MAX_BACKING_FORMAT = 15
MAX_SNAPSHOTS = 65_536
MAX_CLUSTERS = (1 << 31) - 1
MAX_VIRTUAL_SIZE = (1 << 63) - (1 << 30)
MAX_FILE_OFFSET = (1 << 63) - 1

DIRTY = 1 << 0
CORRUPT = 1 << 1
DATA_FILE = 1 << 2
COMPRESSION_TYPE = 1 << 3
EXTENDED_L2 = 1 << 4
KNOWN_INCOMPATIBLE = 0x1F
LAZY_REFCOUNTS = 1 << 0
KNOWN_COMPATIBLE = 0x1
BITMAPS = 1 << 0
RAW_DATA_FILE = 1 << 1
KNOWN_AUTOCLEAR = 0x3

CRYPT_AES = 1
CRYPT_LUKS = 2
CRYPT_NAMES = ("none", "aes", "luks")
COMPRESSION_NAMES = ("zlib", "zstd")

FEATURE_WORDS = ("incompatible", "compatible", "autoclear")
FEATURE_NAMES = {
    (0, 0): "dirty bit",
    (0, 1): "corrupt bit",
    (0, 2): "external data file",
    (0, 3): "compression type",
    (0, 4): "extended L2 entries",
    (1, 0): "lazy refcounts",
    (2, 0): "bitmaps",
    (2, 1): "raw external data",
}


class Header(Record):
    """The header of version 3; a version 2 one ends before incompatible_features."""

    __slots__ = ()
    magic: Hex32
    version: U32
    backing_file_offset: Offset
    backing_file_size: U32
    cluster_bits: U32
    size: U64
    crypt_method: U32
    l1_size: U32
    l1_table_offset: Offset
    refcount_table_offset: Offset
    refcount_table_clusters: U32
    nb_snapshots: U32
    snapshots_offset: Offset
    incompatible_features: Bits
    compatible_features: Bits
    autoclear_features: Bits
    refcount_order: U32
    header_length: U32

    @property
    def words(self) -> tuple[int, int, int]:
        """The three feature words, in the order of the feature name table's types."""
        return self.incompatible_features, self.compatible_features, self.autoclear_features


def decode_header(raw: bytes) -> Header:
    """Decode the header at the start of *raw*, at least 72 bytes; version 2 gets its defaults."""
    padded = raw[:V3_LENGTH].ljust(V3_LENGTH, b"\0")
    header = Header.decode(padded)
    if header.version >= 3:
        return header
    defaults = b"\0" * 24 + (4).to_bytes(4, "big") + V2_LENGTH.to_bytes(4, "big")
    return Header.decode(padded[:V2_LENGTH] + defaults)
