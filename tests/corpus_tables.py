"""Cases of pass T: L1 and L2 tables and their entries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from build import COMPRESSED, COPIED, ZERO
from build_write import finish
from corpus_bases import (
    compressed,
    data_file,
    described,
    extended,
    one_snapshot,
    plain,
    plain_1k,
    shared_table,
    with_snapshots,
)
from corpus_case import Case

if TYPE_CHECKING:
    from build import Picture

FAR = 0x100000
SECTOR_MORE = 1 << 61


def _two_tables() -> Picture:
    """With a second L2 table in 9, its data in 10 to 13."""
    image = described()
    for guest in range(64, 68):
        image.write(guest)
    return finish(image)


def _blank_first() -> Picture:
    image = described(cluster_bits=10)
    image.contents[5] = b""
    return finish(image)


L1 = (
    Case(
        "l1-reserved-bits",
        "an L1 entry has reserved bits set",
        plain,
        {"l1[0]": COPIED | 1 << 56 | 0x801},
        "6 T201@0",
        "2 1/0",
    ),
    Case(
        "l1-unaligned",
        "an L1 entry does not lead to the start of a cluster",
        _blank_first,
        {"l1[0]": COPIED | 0x1200},
        "6 R301@6x3 T202@0",
        "2 1/3",
    ),
    Case(
        "l1-entry-outside-file",
        "an L1 entry leads behind the end of the file",
        plain,
        {"l1[0]": COPIED | FAR},
        "6 C401@0 R301@4x5 T203@0 T232@4",
        "2 2/5",
    ),
    Case(
        "l1-flags-only",
        "an L1 entry lost its offset but not its flag",
        plain,
        {"l1[0]": COPIED},
        "6 R301@4x5 T204@0 T232@4",
        "-",
        at_least=True,
    ),
    Case(
        "l1-same-table",
        "two L1 entries lead to the same L2 table",
        plain,
        {"l1[1]": COPIED | 0x800},
        "6 R302@4x5 T205@1",
        "2 5/0",
    ),
    Case(
        "l1-same-table-4096",
        "4096 L1 entries lead to the same L2 table",
        lambda: shared_table(4096),
        {},
        "6 R302@67x5 T205@1x4095",
        "2 5/0",
    ),
    Case(
        "l1-lost",
        "an L1 entry is zero: a whole L2 table is lost",
        plain,
        {"l1[0]": 0},
        "6 R301@4x5 T232@4",
        "3 0/5",
    ),
    Case(
        "snapshot-l1-lost",
        "an L1 entry of a snapshot is zero",
        with_snapshots,
        {"snapshot[0].l1[0]": 0},
        "6 R301@4 R301@6 R303@5 R303@7 R303@8 T232@4",
        "3 0/5",
    ),
    Case(
        "l1-lacked",
        "an active L1 entry is zero, a snapshot still leads to its table",
        one_snapshot,
        {"l1[0]": 0},
        "6 R303@4x5 T235@4",
        "3 0/5",
    ),
    Case(
        "snapshot-l1-lacked",
        "an L1 entry of a snapshot is zero, the active layer still leads to its table",
        one_snapshot,
        {"snapshot[0].l1[0]": 0},
        "6 R303@4x5 T235@4",
        "3 0/5",
    ),
    Case(
        "l2-emptied-shared",
        "the active L2 table is all zeros, a snapshot shares most of its clusters",
        with_snapshots,
        {"l2[0][0]": 0, "l2[0][1]": 0, "l2[0][2]": 0, "l2[0][3]": 0},
        "6 R301@14 R303@5 R303@8 R303@11 T233@13",
        "3 0/4",
    ),
    Case(
        "l2-unfilled",
        "the newest of two L2 tables is all zeros, its clusters end the image",
        _two_tables,
        {f"l2[1][{index}]": 0 for index in range(4)},
        "1 R301@10x4 T236@9",
        "3 0/4",
    ),
    Case(
        "snapshot-l1-reserved-bits",
        "an L1 entry of a snapshot has reserved bits set",
        with_snapshots,
        {"snapshot[0].l1[0]": 1 << 60 | 0x800},
        "6 T201@0",
        "2 1/0",
    ),
)
L2 = (
    Case(
        "l2-reserved-bits",
        "an L2 entry has reserved bits set",
        plain,
        {"l2[0][0]": COPIED | 1 << 56 | 0xA02},
        "6 T211@0",
        "2 1/0",
    ),
    Case(
        "l2-reserved-bits-run",
        "three L2 entries in a row have a reserved bit set",
        plain,
        {f"l2[0][{guest}]": COPIED | 4 | (5 + guest) << 9 for guest in range(3)},
        "6 T211@0x3",
        "2 3/0",
    ),
    Case(
        "l2-unaligned",
        "an L2 entry does not lead to the start of a cluster",
        plain_1k,
        {"l2[0][3]": COPIED | 0x2200},
        "6 R304@9 T212@3",
        "2 2/0",
    ),
    Case(
        "l2-unaligned-zero",
        "an unaligned L2 entry, whose cluster reads as zeros",
        plain_1k,
        {"l2[0][3]": COPIED | 0x2200 | ZERO},
        "6 R304@9 T213@3",
        "2 2/0",
    ),
    Case(
        "l2-outside-file",
        "an L2 entry leads behind the end of the file",
        plain,
        {"l2[0][1]": COPIED | FAR},
        "6 C402@1 R301@6 T214@1",
        "2 2/1",
    ),
    Case(
        "l2-at-end-of-file",
        "an L2 entry leads to just behind the end of the file",
        plain,
        {"l2[0][1]": COPIED | 0x1200},
        "6 C402@1 R301@6 T214@1",
        "2 2/1",
    ),
    Case("l2-lost", "an L2 entry is zero", plain, {"l2[0][1]": 0}, "1 R301@6", "3 0/1"),
    Case(
        "l2-flag-only",
        "an L2 entry lost its offset but not its flag",
        plain,
        {"l2[0][1]": COPIED},
        "1 R301@6 T222@1",
        "3 0/1",
    ),
    Case(
        "l2-zeroed",
        "an L2 entry became a zero cluster, its host cluster was not freed",
        plain,
        {"l2[0][1]": ZERO},
        "1 R301@6",
        "3 0/1",
    ),
    Case(
        "zero-in-version-2",
        "the zero flag is set in a version 2 image",
        lambda: plain(version=2),
        {"l2[0][0]": COPIED | 0xA00 | ZERO},
        "6 T221@0",
    ),
    Case(
        "snapshot-l2-outside-file",
        "an L2 entry of a snapshot leads behind the end of the file",
        with_snapshots,
        {"snapshot[0].l2[0][1]": FAR},
        "6 R301@6 T214@1",
        "2 1/1",
    ),
    Case(
        "compressed-copied",
        "a compressed cluster has the copied flag",
        compressed,
        {"l2[0][0]": COPIED | COMPRESSED | 0xA00},
        "6 T215@0",
        "2 1/0",
    ),
    Case(
        "compressed-outside-file",
        "a compressed cluster ends behind the end of the file",
        compressed,
        {"l2[0][3]": COMPRESSED | SECTOR_MORE | 0xC4C},
        "6 R303@6 T216@3",
        "2 1/1",
    ),
    Case(
        "compressed-longer",
        "a compressed cluster says one sector too much",
        compressed,
        {"l2[0][0]": COMPRESSED | SECTOR_MORE | 0xA00},
        "4 R302@6",
        "2 1/0",
    ),
)
SPECIAL = (
    Case(
        "compressed-with-data-file",
        "a compressed entry, but the data is in another file",
        data_file,
        {"l2[0][1]": COMPRESSED | 0x200},
        "6 H137@0 T217@1",
        "2 1/0",
    ),
    Case(
        "data-file-offset",
        "an entry leads to a foreign place in the data file",
        data_file,
        {"l2[0][1]": COPIED | 0xA00},
        "6 H137@0 T224@1",
    ),
    Case(
        "data-file-not-copied",
        "an entry of an image with a data file lacks the copied flag",
        data_file,
        {"l2[0][1]": 0x200},
        "2 C402@1 H137@0",
        "2 1/0",
    ),
    Case(
        "compressed-with-subclusters",
        "a compressed entry has a subcluster bitmap",
        extended,
        {"l2[0][0]": COMPRESSED | 0x14000, "l2[0][0].subclusters": 1},
        "6 R301@5 T218@0",
        "2 1/1",
    ),
    Case(
        "subclusters-contradict",
        "a subcluster is marked as data and as zeros",
        extended,
        {"l2[0][0].subclusters": 1 << 32 | 0xFFFFFFFF},
        "6 T219@0",
        "2 1/0",
    ),
    Case(
        "subclusters-without-cluster",
        "subclusters are in use, but the host cluster is not known",
        extended,
        {"l2[0][0]": 0},
        "6 R301@5 T220@0",
        "2 1/1",
    ),
    Case(
        "extended-bit-0",
        "the reserved bit 0 of an extended entry is set",
        extended,
        {"l2[0][0]": COPIED | 0x14001},
        "0 T223@0",
    ),
)
TABLE_CASES = (*L1, *L2, *SPECIAL)
