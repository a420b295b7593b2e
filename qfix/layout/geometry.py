"""Geometry: the quantities that follow from the header and the file's size (format 1)."""

from typing import NamedTuple


class Geometry(NamedTuple):
    """Sizes and counts of one image; `file_size` and `virtual_size` in bytes."""

    cluster_bits: int
    refcount_order: int
    extended: bool
    data_file: bool
    virtual_size: int
    file_size: int

    @property
    def cluster_size(self) -> int:
        """Bytes of a cluster."""
        return 1 << self.cluster_bits

    @property
    def entry_size(self) -> int:
        """Bytes of an L2 entry."""
        return 16 if self.extended else 8

    @property
    def l2_entries(self) -> int:
        """Entries of an L2 table."""
        return self.cluster_size // self.entry_size

    @property
    def refcounts_per_block(self) -> int:
        """Refcounts that a refcount block holds."""
        return (self.cluster_size * 8) >> self.refcount_order

    @property
    def refcount_max(self) -> int:
        """The largest refcount that can be stored."""
        return int((1 << (1 << self.refcount_order)) - 1)

    @property
    def bytes_per_l1_entry(self) -> int:
        """Guest bytes that one L1 entry maps."""
        return self.cluster_size * self.l2_entries

    @property
    def sectors_size(self) -> int:
        """The virtual size rounded down to whole sectors, as QEMU sees it."""
        return self.virtual_size // 512 * 512

    @property
    def guest_clusters(self) -> int:
        """Clusters of the virtual disk."""
        return -(-self.sectors_size >> self.cluster_bits)

    @property
    def needed_l1_entries(self) -> int:
        """L1 entries that the virtual disk needs; VM state begins behind them."""
        return -(-self.virtual_size // self.bytes_per_l1_entry)

    @property
    def file_length(self) -> int:
        """The file's length as a checker sees it: rounded up to whole sectors."""
        return -(-self.file_size // 512) * 512

    @property
    def host_clusters(self) -> int:
        """Clusters of the file, the last of which may be cut."""
        return -(-self.file_length // self.cluster_size)

    def clusters(self, length: int) -> int:
        """Return how many clusters *length* bytes take."""
        return -(-length // self.cluster_size)
