"""Sound images: a look at them must find nothing at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from build import FEATURE_NAMES, Qcow2
from build_write import deflate, finish
from corpus_bases import (
    FEATURE,
    K,
    compressed,
    described,
    extended,
    four_bit_blocks,
    fresh,
    luks,
    many_kinds,
    plain,
    text,
    two_blocks,
    two_snapshots,
    vm_state,
    with_bitmap,
    with_snapshots,
    zstd,
)
from corpus_case import Case

if TYPE_CHECKING:
    from build import Picture


def _tail() -> Picture:
    return finish(described(size=3584, cluster_bits=10)).resize(8 * K + 512)


def _packed_tail() -> Picture:
    image = Qcow2(cluster_bits=10)
    image.pack(0, deflate(text(b"noise ")[:440], K))
    image.pack(1, deflate(text(b"noise ")[:440], K))
    return finish(image).resize(image.packed)


def _preallocated() -> Picture:
    image = Qcow2(size=4 * K)
    for guest in range(8):
        image.write(guest, "\0")
    return finish(image)


def _emptied() -> Picture:
    image = Qcow2()
    for guest in range(4):
        image.zero(guest)
        del image.l1[0].entries[guest]
    return finish(image)


def _bitmaps() -> Picture:
    image = described(size=4096 * K)
    image.bitmap("all ones", 1, 0, flags=0)
    image.bitmap("stored", 0, b"\x55" * 512)
    image.bitmap("coarse", 0, granularity_bits=31)
    return finish(image)


def _bitmap_and_snapshot() -> Picture:
    image = described()
    image.snapshot("1", "one")
    image.bitmap("daily", b"\x0f" * 16)
    image.write(0)
    return finish(image)


def _many_snapshots() -> Picture:
    image = described(refcount_order=3)
    for number in range(1, 9):
        image.snapshot(str(number), f"snapshot number {number} with quite a long name")
    return finish(image)


def _compressed_snapshot() -> Picture:
    image = Qcow2()
    for guest in range(3):
        image.pack(guest, deflate(text(b"%d compressed " % guest)[:150], 512))
    image.snapshot("1", "one")
    image.write(1)
    return finish(image)


PLAIN = (
    Case("ok-v3", "version 3, some data", plain),
    Case("ok-v2", "version 2, some data", lambda: plain(version=2)),
    Case("ok-fresh", "just created, ends with its last L1 entry", fresh),
    Case("ok-empty-disk", "a disk of 0 bytes", lambda: fresh(size=0, l1_size=1)),
    Case("ok-4k", "clusters of 4 KiB", lambda: plain(cluster_bits=12).resize(8 * 4096 + 512)),
    Case("ok-many-kinds", "data, zero clusters, free clusters", many_kinds),
    Case("ok-emptied", "the guest discarded everything, an empty L2 table is left", _emptied),
    Case("ok-preallocated", "preallocated clusters that were never written", _preallocated),
    Case("ok-tail", "the disk ends inside its last cluster, and so does the file", _tail),
    Case("ok-l1-large", "the L1 table is larger than the disk needs", lambda: plain(l1_size=200)),
    Case(
        "ok-header-104", "a header without the compression type", lambda: plain(header_length=104)
    ),
    Case(
        "ok-header-120",
        "a header with a field that is not known yet",
        lambda: plain(header_length=120),
    ),
    Case("ok-lazy-refcounts", "lazy refcounts are on", lambda: plain(compatible=1)),
    Case(
        "ok-feature-names",
        "a feature name table and an extension that is not known",
        lambda: plain(extensions=[(FEATURE_NAMES, FEATURE), (0x12345678, b"whatever")]),
    ),
    Case("ok-encrypted", "LUKS: an encryption header and data", luks, {}, "0", "1"),
    Case("ok-encrypted-aes", "the old AES encryption", lambda: plain(crypt_method=1), {}, "0", "1"),
)
WIDTHS = (
    Case("ok-width-1", "refcounts of 1 bit", lambda: plain(refcount_order=0)),
    Case(
        "ok-width-2", "refcounts of 2 bits, three users", lambda: with_snapshots(refcount_order=1)
    ),
    Case("ok-width-4", "refcounts of 4 bits", lambda: with_snapshots(refcount_order=2)),
    Case("ok-width-8", "refcounts of 8 bits", lambda: with_snapshots(refcount_order=3)),
    Case("ok-width-32", "refcounts of 32 bits", lambda: with_snapshots(refcount_order=5)),
    Case("ok-width-64", "refcounts of 64 bits, two blocks", two_blocks),
    Case("ok-width-4-two-blocks", "refcounts of 4 bits, two blocks", four_bit_blocks),
)
OTHERS = (
    Case("ok-snapshots", "two snapshots that share clusters", with_snapshots),
    Case(
        "ok-snapshots-v2", "two snapshots in a version 2 image", lambda: with_snapshots(version=2)
    ),
    Case("ok-snapshots-eight", "a snapshot table of two clusters", _many_snapshots),
    Case(
        "ok-snapshots-same",
        "two snapshots of the same state",
        lambda: two_snapshots(("1", "one"), ("2", "two")),
    ),
    Case("ok-vm-state", "a snapshot with a VM state", vm_state),
    Case("ok-compressed", "compressed clusters that share host clusters", compressed),
    Case(
        "ok-compressed-4k",
        "compressed clusters in clusters of 4 KiB",
        lambda: compressed(cluster_bits=12),
    ),
    Case(
        "ok-compressed-tail",
        "the file ends inside the last sector of a compressed cluster",
        _packed_tail,
    ),
    Case(
        "ok-compressed-snapshot", "compressed clusters that a snapshot shares", _compressed_snapshot
    ),
    Case("ok-zstd", "a cluster compressed with zstd", zstd),
    Case("ok-extended", "extended L2 entries", extended),
    Case(
        "ok-extended-compressed",
        "extended L2 entries and a compressed cluster",
        lambda: extended(packed=True),
    ),
    Case(
        "ok-extended-preallocated",
        "extended L2 entries, a cluster without subclusters in use",
        extended,
        {"l2[0][0].subclusters": 0},
    ),
    Case("ok-bitmap", "a bitmap", with_bitmap),
    Case("ok-bitmaps", "bitmaps with stored and unstored parts", _bitmaps),
    Case("ok-bitmap-and-snapshot", "a bitmap and a snapshot", _bitmap_and_snapshot),
)
OK_CASES = (*PLAIN, *WIDTHS, *OTHERS)
