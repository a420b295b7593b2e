"""Cases of passes R and C: refcounts, their table and blocks, the COPIED flags."""

from __future__ import annotations

from build import COPIED
from corpus_bases import K, leaky, plain, plain_1k, two_blocks, with_snapshots
from corpus_case import Case

REFCOUNTS = (
    Case("leak", "a cluster that nothing uses has a refcount", leaky, {}, "1 R301@9", "3 0/1"),
    Case("refcount-too-high", "the L1 table's refcount is 2", plain, {"rb[3]": 2}, "1 R303@3",
         "3 0/1"),
    Case("refcount-too-high-data", "a data cluster's refcount is 2", plain, {"rb[6]": 2},
         "2 C402@1 R303@6", "2 1/1"),
    Case("refcount-too-high-agreed", "a data cluster's refcount is 2, its copied flag is clear",
         plain, {"rb[6]": 2, "l2[0][1]": 0xC00}, "1 R303@6", "3 0/1"),
    Case("refcount-too-low", "three users, a refcount of 2", with_snapshots, {"rb[8]": 2},
         "4 R302@8", "2 1/0"),
    Case("refcount-too-low-data", "three users, a refcount of 1", with_snapshots, {"rb[5]": 1},
         "4 C402@0 R302@5", "2 2/0"),
    Case("used-but-free", "the L1 table's refcount is 0", plain, {"rb[3]": 0}, "4 R304@3",
         "2 1/0"),
    Case("used-but-free-data", "a data cluster's refcount is 0", plain, {"rb[6]": 0},
         "4 C402@1 R304@6", "2 2/0"),
    Case("used-but-free-and-leak", "a data cluster's refcount is 0, another cluster is leaked",
         leaky, {"rb[6]": 0}, "4 C402@1 R301@9 R304@6", "2 2/1"),
    Case("used-but-free-run", "four clusters in a row have the refcount 0", plain,
         {f"rb[{cluster}]": 0 for cluster in range(5, 9)}, "4 C402@0x4 R304@5x4", "2 8/0"),
    Case("too-many-references", "two users, but refcounts of one bit",
         lambda: plain(refcount_order=0), {"l2[0][1]": COPIED | 0xA00},
         "4 R301@6 R305@5 T240@5", "2 1/1"),
    Case("refcount-order-wrong", "refcounts of 16 bits are read as single bits", plain,
         {"refcount_order": 0}, "4 C401@0 C402@0x3 R304@0x8 R316@24", "2 12/0"),
    Case("refcount-behind-end", "a refcount is set for a cluster behind the end of the file",
         plain, {"rb[20]": 1}, "0 R316@20"),
    Case("file-larger-than-reftable", "a used cluster lies behind what the refcount table covers",
         lambda: plain(refcount_order=6).resize(8 * 512), {"l2[0][3]": 4097 * 512},
         "4 R315@4097 T231@4097", "2 1/0", length=2049 * K + 512),
)
BLOCKS = (
    Case("reftable-reserved-bits", "a refcount table entry has a reserved bit set", plain,
         {"rt[0]": 0x401}, "6 R301@2 R310@0", "2 1/1"),
    Case("refblock-unaligned", "a refcount block does not start at a cluster", plain_1k,
         {"rt[0]": 0xA00}, "6 R311@0", "1"),
    Case("refblock-outside-file", "a refcount block is said to be behind the end of the file",
         plain, {"rt[0]": 0x10000000}, "6 C401@0 C402@0x4 R312@0 R314@0", "2 14/0"),
    Case("refblock-outside-file-unused", "a refcount block that nothing needs is behind the end",
         plain, {"rt[1]": 0x1000000}, "6 R312@1", "2 1/0"),
    Case("refblock-far-outside-file", "a refcount block is said to be at 8 EiB",
         plain, {"rt[1]": 0x7FFFFFFFFFFFFE00}, "6 R312@1", "2 1/0"),
    Case("refblock-shared", "two refcount table entries lead to one block", plain,
         {"rt[1]": 0x400}, "6 R302@2 R313@1", "2 2/0", at_least=True),
    Case("refblock-on-data", "a refcount table entry leads to a data cluster", plain,
         {"rt[1]": 0xA00}, "6 R302@5 R313@1", "2 2/0", at_least=True),
    Case("refblock-missing", "a refcount table entry is zero", plain, {"rt[0]": 0},
         "4 C401@0 C402@0x4 R314@0", "2 13/0"),
    Case("refblock-missing-second", "the second entry of the refcount table is zero", two_blocks,
         {"rt[1]": 0}, "4 C402@59x5 R314@1", "2 10/0"),
)
FLAGS = (
    Case("l1-not-copied", "an L1 entry lacks the copied flag", plain, {"l1[0]": 0x800},
         "2 C401@0", "2 1/0"),
    Case("l1-copied", "the L1 entry of a shared L2 table has the copied flag",
         one_snapshot, {"l1[0]": COPIED | 0x800}, "2 C401@0", "2 1/0"),
    Case("l2-not-copied", "an L2 entry lacks the copied flag", plain, {"l2[0][0]": 0xA00},
         "2 C402@0", "2 1/0"),
    Case("l2-not-copied-run", "three L2 entries in a row lack the copied flag", plain,
         {f"l2[0][{guest}]": (5 + guest) << 9 for guest in range(3)}, "2 C402@0x3", "2 3/0"),
    Case("l2-copied", "the L2 entry of a shared data cluster has the copied flag", with_snapshots,
         {"l2[0][0]": COPIED | 0xA00}, "2 C402@0", "2 1/0"),
    Case("l2-not-copied-and-leak", "an L2 entry lacks the copied flag, and a cluster is leaked",
         leaky, {"l2[0][0]": 0xA00}, "2 C402@0 R301@9", "2 1/1"),
)
REFCOUNT_CASES = (*REFCOUNTS, *BLOCKS, *FLAGS)
