"""The order of a recount: claims of all structures, the walk, and the comparison."""

from dataclasses import dataclass

import numpy as np

from qfix.arrays import last_nonzero
from qfix.image import Image
from qfix.layout import header
from qfix.recount import others
from qfix.recount.compare import compare, find_overflows
from qfix.recount.copied import find_copied_mismatches
from qfix.recount.l1 import L1Entries, check_l1_entries, read_l1_entries
from qfix.recount.l2 import L2Tables, collect_l2_tables
from qfix.recount.refblocks import Reftable, claim_blocks, read_reftable
from qfix.recount.stored import Stored
from qfix.recount.tally import Kind, Tally
from qfix.recount.walk import Progress, walk_l2_tables


@dataclass(frozen=True, slots=True)
class Recount:
    """A finished recount: the tally and the tables that it was made from."""

    tally: Tally
    entries: L1Entries
    tables: L2Tables
    reftable: Reftable
    stored: Stored


def recount(image: Image, tell: Progress | None = None) -> Recount:
    """Count every reference to every host cluster and compare with the stored refcounts.

    *tell* is called now and then with the share of the work that is done, 0 to 1.
    """
    geometry = image.geometry
    tally = Tally.of(geometry)
    tally.claim(0, geometry.cluster_size, Kind.HEADER)
    entries = read_l1_entries(image, tally)
    others.claim_snapshot_table(image, tally)
    head = image.header
    reftable = read_reftable(image)
    length = head.refcount_table_clusters * geometry.cluster_size
    tally.claim(head.refcount_table_offset, length, Kind.REFCOUNT_TABLE)
    others.claim_encryption_header(image, tally)
    others.claim_bitmaps(image, tally)
    check_l1_entries(image, tally, entries)
    tables = collect_l2_tables(image, tally, entries)
    walk_l2_tables(image, tally, tables, tell)
    claim_blocks(image, tally, reftable)
    find_overflows(tally)
    stored = Stored(image, reftable)
    if head.refcount_order > header.MAX_REFCOUNT_ORDER:
        tally.end_cluster = last_nonzero(tally.counted[: tally.size]) + 1
        return Recount(tally, entries, tables, reftable, stored)
    disagrees = compare(image, tally, stored)
    if disagrees or geometry.data_file or _leads_outside(image, tally, entries):
        find_copied_mismatches(image, tally, stored, entries, tables)
    return Recount(tally, entries, tables, reftable, stored)


def _leads_outside(image: Image, tally: Tally, entries: L1Entries) -> bool:
    """Tell whether an active entry leads to a cluster behind those of the tally."""
    if tally.leads_outside:
        return True
    cluster = entries.target >> image.geometry.cluster_bits
    return bool(((entries.layer == 0) & (cluster >= tally.size)).any()) or bool(
        np.any(entries.target % image.geometry.cluster_size)
    )
