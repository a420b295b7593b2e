"""L1, L2 and refcount table entries: masks and flags (format 4, 5 and 6)."""

ENTRY_SIZE = 8
COPIED = 1 << 63
COMPRESSED = 1 << 62
ZERO = 1 << 0
OFFSET_MASK = 0x00FFFFFFFFFFFE00
L1_RESERVED = 0x7F000000000001FF
L2_RESERVED = 0x3F000000000001FE
REFTABLE_OFFSET_MASK = 0xFFFFFFFFFFFFFE00
REFTABLE_RESERVED = 0x1FF
SECTOR = 512
ALLOC_BITS = 0xFFFFFFFF


def descriptor_bits(cluster_bits: int) -> int:
    """Return x, the number of offset bits in a compressed cluster descriptor (format 5.3)."""
    return 70 - cluster_bits
