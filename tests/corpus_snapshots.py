"""Cases of pass S: the snapshot table, its entries, tables that they lead to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from build_write import finish
from corpus_bases import K, data_file, described, one_snapshot, plain, two_snapshots, with_snapshots
from corpus_case import Case

if TYPE_CHECKING:
    from build import Picture

FIRST_LOST = "R301@4 R301@6 R301@9 R303@5 R303@7 R303@8"
"""What leaks when the first of `with_snapshots` is not found."""
BOTH_LOST = "R301@4 R301@6 R301@7 R301@9x2 R301@12 R303@5 R303@8 R303@11"
LARGEST_L1 = 4194304
MANY = 8
LONG_EXTRA = (0).to_bytes(8, "big") + (64 * K).to_bytes(8, "big") + bytes(1984)


def _eight() -> Picture:
    image = described()
    for number in range(1, MANY + 1):
        image.snapshot(str(number), f"snapshot {number}")
    return finish(image)


def _overlapping() -> dict[str, int]:
    """Make each snapshot's L1 table as large as can be, all in one hole, a cluster apart."""
    names = [f"snapshot[{index}]." for index in range(MANY)]
    sizes = {f"{name}l1_size": LARGEST_L1 for name in names}
    places = {f"{name}l1_table_offset": 16 * K + at * 512 for at, name in enumerate(names)}
    return sizes | places


TABLE = (
    Case(
        "snapshots-offset-without-snapshots",
        "the offset of the snapshot table is garbage, but there are no snapshots",
        plain,
        {"snapshots_offset": 0x1234},
        "5 S501@0",
        "1",
    ),
    Case(
        "snapshot-table-unaligned",
        "the snapshot table does not start at a cluster",
        with_snapshots,
        {"snapshots_offset": 0x1E10},
        "5 S501@0 T234@9 T234@12",
        "1",
        at_least=True,
    ),
    Case(
        "snapshot-table-outside-file",
        "the snapshot table is said to be behind the end",
        with_snapshots,
        {"snapshots_offset": 0x10000000},
        f"5 S502@0 {BOTH_LOST} R301@15 T234@9 T234@12",
        "2 3/10",
        at_least=True,
    ),
    Case(
        "snapshots-too-many",
        "the header says 65537 snapshots",
        with_snapshots,
        {"nb_snapshots": 65537},
        "5 S503@0",
        "1",
        at_least=True,
    ),
    Case(
        "snapshot-table-overrun",
        "the extra data of the first snapshot is said to have 2 GiB",
        with_snapshots,
        {"snapshot[0].extra_data_size": 0x7FFFFFFF},
        "5 S504@0x2",
        "1",
        at_least=True,
    ),
    Case(
        "snapshot-table-overrun-second",
        "the extra data of the second snapshot is said to have 2 GiB",
        with_snapshots,
        {"snapshot[1].extra_data_size": 0x7FFFFFFF},
        "5 S504@1 T234@12",
        "1",
        at_least=True,
    ),
    Case(
        "snapshot-phantom",
        "the header says three snapshots, there are two",
        with_snapshots,
        {"nb_snapshots": 3},
        "5 S517@2",
        "2 1/0",
    ),
    Case(
        "snapshots-with-data-file",
        "a snapshot, but the data is in another file",
        lambda: data_file(snapshot=True),
        {},
        "5 H137@0 S515@0",
        "2 1/0",
    ),
)
ENTRIES = (
    Case(
        "snapshot-extra-long",
        "a snapshot has 2000 bytes of extra data",
        lambda: one_snapshot(extra=LONG_EXTRA),
        {},
        "5 S505@0",
        "1",
    ),
    Case(
        "snapshot-extra-short",
        "a snapshot has 8 bytes of extra data, 16 are needed",
        lambda: one_snapshot(extra=bytes(8)),
        {},
        "5 S506@0",
        "2 1/0",
    ),
    Case("snapshot-id-empty", "a snapshot has no id", lambda: one_snapshot(""), {}, "5 S507@0"),
    Case(
        "snapshot-id-double",
        "two snapshots have the same id",
        lambda: two_snapshots(("1", "one"), ("1", "two")),
        {},
        "5 S508@1",
    ),
    Case(
        "snapshot-name-empty",
        "a snapshot has no name",
        lambda: one_snapshot("1", ""),
        {},
        "0 S509@0",
    ),
    Case(
        "snapshot-name-double",
        "two snapshots have the same name",
        lambda: two_snapshots(("1", "one"), ("2", "one")),
        {},
        "0 S510@1",
    ),
    Case(
        "snapshot-size-zero",
        "a snapshot says that the disk had 0 bytes",
        lambda: one_snapshot(disk_size=0),
        {},
        "5 S514@0",
    ),
    Case(
        "snapshot-size-huge",
        "a snapshot says that the disk had 1 TiB, its table is too small",
        lambda: one_snapshot(disk_size=1 << 40),
        {},
        "5 S514@0",
    ),
)
TABLES = (
    Case(
        "snapshot-l1-unaligned",
        "the L1 table of a snapshot does not start at a cluster",
        with_snapshots,
        {"snapshot[0].l1_table_offset": 0x1210},
        f"5 S511@0 {FIRST_LOST} T234@9",
        "2 1/6",
        at_least=True,
    ),
    Case(
        "snapshot-l1-huge",
        "the L1 table of a snapshot has one entry more than is allowed",
        with_snapshots,
        {"snapshot[0].l1_size": 4194305},
        f"5 S512@0 {FIRST_LOST} T234@9",
        "2 1/6",
        at_least=True,
    ),
    Case(
        "snapshot-l1-outside-file",
        "the L1 table of a snapshot is said to be behind the end",
        with_snapshots,
        {"snapshot[0].l1_table_offset": 0x10000000},
        f"5 S513@0 {FIRST_LOST} T234@9",
        "2 1/6",
        at_least=True,
    ),
    Case(
        "snapshot-l1-at-2-63",
        "the L1 table of a snapshot is said to be at 16 EiB",
        with_snapshots,
        {"snapshot[0].l1_table_offset": 0xFFFFFFFFFFFFFE00},
        f"5 S513@0 {FIRST_LOST} T234@9",
        "-",
        at_least=True,
    ),
    Case(
        "snapshot-l1-missing",
        "a snapshot has no L1 table",
        with_snapshots,
        {"snapshot[0].l1_table_offset": 0, "snapshot[0].l1_size": 0},
        f"5 S518@0 {FIRST_LOST} T234@9",
        "3 0/6",
        at_least=True,
    ),
    Case(
        "snapshot-l1-is-active-l1",
        "the L1 table of a snapshot is that of the active layer",
        one_snapshot,
        {"snapshot[0].l1_table_offset": 0x600},
        "6 R301@9 R302@3 T242@3",
        "2 1/1",
    ),
)
OVERLAP = (
    Case(
        "snapshot-l1-overlap",
        "the L1 tables of eight snapshots overlap in a large hole",
        _eight,
        _overlapping(),
        "6 T242@33",
        "-",
        at_least=True,
        length=33 << 20,
    ),
)
SNAPSHOT_CASES = (*TABLE, *ENTRIES, *TABLES, *OVERLAP)
