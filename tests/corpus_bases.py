"""The sound images that the cases of the corpus start from, and where their clusters are.

All of them begin with 0 header, 1 refcount table, 2 refcount block, 3 active L1 table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from build import BACKING_FORMAT, COPIED, DATA_FILE_NAME, LUKS_HEADER, Qcow2
from build_write import deflate, finish

if TYPE_CHECKING:
    from build import Picture

K = 1 << 10
FEATURE = b"\0\0dirty bit".ljust(48, b"\0")
DATA_FILE = b"guest.raw"
REMOTE = b"nbd+unix:///disk?socket=/nonexistent"
BESIDE = b"about"
"""A name that every folder of the corpus has a file of."""


def text(content: bytes) -> bytes:
    """Return bytes that can't be taken for a table."""
    return (content * 512)[:512]


def described(**options: Any) -> Qcow2:
    """4 L2 table, 5 to 8 data of guest clusters 0 to 3."""
    image = Qcow2(**options)
    for guest in range(4):
        image.write(guest)
    return image


def plain(**options: Any) -> Picture:
    """Nine clusters: what `described` says."""
    return finish(described(**options))


def plain_1k(**options: Any) -> Picture:
    """As `plain`, with clusters of 1 KiB: offsets can be unaligned. 9 is free."""
    image = described(cluster_bits=10, **options)
    image.skip()
    return finish(image)


def leaky() -> Picture:
    """9 is a leaked cluster."""
    image = described()
    image.store(text(b"left over "))
    return finish(image)


def with_snapshots(**options: Any) -> Picture:
    """Two snapshots, guest cluster 1 written after the first, 2 after the second.

    First: 4 L2 table, 5 to 8 data, 9 L1 table. Second: 10 L2 table, 5 11 7 8 data, 12 L1 table.
    Active: 13 L2 table, 5 11 14 8 data. 15 is the snapshot table.
    """
    image = described(**options)
    extra = b"" if image.version < 3 else None
    image.snapshot("1", "monday", extra=extra)
    image.write(1, "tuesday's ")
    image.snapshot("2", "tuesday", extra=extra)
    image.write(2, "wednesday's ")
    return finish(image)


def one_snapshot(id_str: str = "1", name: str = "one", **options: Any) -> Picture:
    """With a snapshot that shares everything: 9 its L1 table, 10 the snapshot table."""
    image = described()
    image.snapshot(id_str, name, **options)
    return finish(image)


def two_snapshots(first: tuple[str, str], second: tuple[str, str]) -> Picture:
    """With two snapshots (id, name) that share all: 9 and 10 L1 tables, 11 snapshot table."""
    image = described()
    image.snapshot(*first)
    image.snapshot(*second)
    return finish(image)


def compressed(**options: Any) -> Picture:
    """4 L2 table; guest clusters 0 to 3 compressed in 5 and 6, the third one in both."""
    image = Qcow2(**options)
    for guest in range(4):
        image.pack(guest, deflate(text(b"%d compressed " % guest)[:150], image.cluster_size))
    return finish(image)


def extended(*, packed: bool = False, **options: Any) -> Picture:
    """With extended L2 entries, 16 KiB clusters: 4 L2 table, 5 data, cut behind a sector."""
    image = Qcow2(size=1 << 20, cluster_bits=14, extended=True, **options)
    image.write(0)
    image.zero(1)
    if packed:
        image.pack(2, deflate(text(b"compressed ")[:150], image.cluster_size))
    return finish(image).resize(((6 if packed else 5) << 14) + 512)


def with_bitmap(*names: str, **options: Any) -> Picture:
    """With one bitmap: 9 its data, 10 its table, 11 the directory."""
    image = described()
    for name in names or ("daily",):
        image.bitmap(name, b"\x0f" * 16 + bytes(496), **options)
    return finish(image)


def luks(area: bytes = LUKS_HEADER.ljust(1000, b"\0")) -> Picture:
    """4 L2 table, 5 to 8 data, 9 and 10 the encryption header."""
    image = described()
    image.encrypt(area)
    return finish(image)


def data_file(*, snapshot: bool = False, **options: Any) -> Picture:
    """Guest data in another file: 4 L2 table, which maps guest clusters 0 to 3."""
    options = {"extensions": [(DATA_FILE_NAME, DATA_FILE)], **options}
    image = described(data_file=True, **options)
    if snapshot:
        image.snapshot("1", "one")
    return finish(image)


def backed(name: bytes, image_format: bytes = b"raw", **options: Any) -> Picture:
    """With a backing file."""
    return plain(backing=name, extensions=[(BACKING_FORMAT, image_format)], **options)


def two_blocks() -> Picture:
    """64-bit refcounts: 4 L2 table, 5 to 68 data of guest clusters 0 to 63, 69 second block."""
    image = Qcow2(refcount_order=6)
    for guest in range(64):
        image.write(guest)
    return finish(image)


def four_bit_blocks() -> Picture:
    """4-bit refcounts, and mapped clusters that the second block counts."""
    image = Qcow2(refcount_order=2)
    image.write(0)
    image.skip(1020)
    for guest in range(4):
        image.write(guest + 8)
    return finish(image)


def vm_state() -> Picture:
    """With a snapshot that has a VM state, which is no longer in the active tables."""
    image = described(l1_size=3)
    image.write(128, "registers ")
    image.snapshot("1", "running", vm_state_size=512)
    del image.l1[2]
    return finish(image)


def many_kinds() -> Picture:
    """With data, zero clusters with and without a host cluster, a free cluster, two L2 tables."""
    image = described()
    image.zero(4)
    image.write(6, flags=1)
    image.write(70)
    image.write(3)
    return finish(image)


def zstd() -> Picture:
    """One cluster compressed as a zstd frame that holds one run of 512 letters."""
    image = Qcow2(compression_type=1)
    image.pack(0, bytes.fromhex("28b52ffd60000103100041"))
    return finish(image)


def shared_table(entries: int) -> Picture:
    """L1 entries that all lead to one L2 table: 3 to 66 L1 table, 67 L2 table, 68 to 71 data."""
    picture = plain(size=entries * 32 * K)
    value = picture.places["l2[0][0]"].offset | COPIED
    return picture.poke({f"l1[{index}]": value for index in range(entries)})


def fresh(**options: Any) -> Picture:
    """As QEMU makes it: the file ends with the last L1 entry."""
    image = Qcow2(**options)
    assert image.l1_size is not None
    return finish(image).resize((3 << image.cluster_bits) + 8 * image.l1_size)
