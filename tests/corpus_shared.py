"""Cases of pass T: tables that were lost, files that were cut, clusters with two owners."""

from __future__ import annotations

from typing import TYPE_CHECKING

from build import COPIED
from build_write import finish
from corpus_bases import described, luks, plain, with_bitmap, with_snapshots
from corpus_case import Case

if TYPE_CHECKING:
    from build import Picture


def _emptied() -> Picture:
    picture = plain()
    return picture.put(4 * 512, bytes(512))


def _in_order(count: int) -> Picture:
    image = described()
    for guest in range(4, count):
        image.write(guest)
    return finish(image).resize(8 * 512)


LOST = (
    Case(
        "file-cut",
        "the last two clusters of the file are gone",
        lambda: plain().resize(7 * 512),
        {},
        "6 T230@7x2",
        "2 2/0",
    ),
    Case(
        "file-cut-before-tables",
        "only the header and the refcount table are left",
        lambda: plain().resize(1024),
        {},
        "6 H116@0 R312@0 R314@0 T230@2",
        "-",
    ),
    Case(
        "file-cut-in-snapshots",
        "the active L2 table and the snapshot table are gone",
        lambda: with_snapshots().resize(13 * 512),
        {},
        "5 S502@0 T230@13x2",
        "-",
        at_least=True,
    ),
    Case(
        "file-regrown",
        "mapped clusters lie in the hole that ends the file",
        lambda: _in_order(16),
        {},
        "0 T231@8",
        length=21 * 512,
    ),
    Case(
        "l2-emptied",
        "an L2 table is all zeros, its data is leaked",
        _emptied,
        {},
        "6 R301@5x4 T233@4",
        "3 0/4",
    ),
    Case(
        "snapshot-lost",
        "the header says one snapshot, there were two",
        with_snapshots,
        {"nb_snapshots": 1},
        "6 R301@10 R301@12 R303@5 R303@7 R303@8 R303@11 T234@12",
        "3 0/6",
        at_least=True,
    ),
)
SHARED = (
    Case(
        "reused-cluster",
        "two guest clusters lead to one host cluster",
        plain,
        {"l2[0][1]": COPIED | 0xA00},
        "4 R301@6 R302@5 T240@5",
        "2 1/1",
    ),
    Case(
        "data-on-l1",
        "guest data leads to the L1 table",
        plain,
        {"l2[0][1]": COPIED | 0x600},
        "6 R301@6 R302@3 T241@3",
        "2 1/1",
    ),
    Case(
        "data-on-l2",
        "guest data leads to its own L2 table",
        plain,
        {"l2[0][1]": COPIED | 0x800},
        "6 R301@6 R302@4 T241@4",
        "2 1/1",
    ),
    Case(
        "data-on-reftable",
        "guest data leads to the refcount table",
        plain,
        {"l2[0][1]": COPIED | 0x200},
        "6 R301@6 R302@1 T241@1",
        "2 1/1",
    ),
    Case(
        "data-on-refblock",
        "guest data leads to a refcount block",
        plain,
        {"l2[0][1]": COPIED | 0x400},
        "6 R301@6 R302@2 R313@0 T241@2",
        "2 2/1",
    ),
    Case(
        "data-on-snapshot-table",
        "guest data leads to the snapshot table",
        with_snapshots,
        {"l2[0][2]": COPIED | 0x1E00},
        "6 R301@14 R302@15 T241@15",
        "2 1/1",
    ),
    Case(
        "data-on-snapshot-l1",
        "guest data leads to the L1 table of a snapshot",
        with_snapshots,
        {"l2[0][2]": COPIED | 0x1200},
        "6 R301@14 R302@9 T241@9",
        "2 1/1",
    ),
    Case(
        "data-on-bitmap",
        "guest data leads to a bitmap",
        with_bitmap,
        {"l2[0][1]": COPIED | 0x1200},
        "6 R301@6 R302@9 T241@9",
        "2 1/1",
    ),
    Case(
        "data-on-bitmap-directory",
        "guest data leads to the bitmap directory",
        with_bitmap,
        {"l2[0][1]": COPIED | 0x1600},
        "6 R301@6 R302@11 T241@11",
        "2 1/1",
    ),
    Case(
        "data-on-encryption-header",
        "guest data leads to the LUKS header",
        luks,
        {"l2[0][1]": COPIED | 0x1200},
        "6 R301@6 R302@9 T241@9",
        "1",
    ),
)
MANY_UNALIGNED = {f"l1[{index}]": COPIED | 512 * (index + index // 7 + 1) for index in range(32)}
LIMITS = (
    Case(
        "l2-tables-overlap",
        "unaligned L2 tables overlap so much that together they are larger than the file",
        lambda: plain(cluster_bits=12, size=64 << 20),
        MANY_UNALIGNED,
        "6 T202@0x32 T250@0",
        "-",
        at_least=True,
    ),
)
SHARED_CASES = (*LOST, *SHARED, *LIMITS)
