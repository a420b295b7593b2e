"""What is led to as tables and does not read as such: most entries there are impossible."""

import numpy as np

from qfix.arrays import NO_INTS, BoolArray, IntArray
from qfix.image import Image
from qfix.problems import tables as problems
from qfix.recount.batches import by_row, read_batches
from qfix.recount.entries import Entries, decode
from qfix.recount.faults import find_faults
from qfix.recount.l2 import L2Tables

NOWHERE = (
    problems.L2_RESERVED_BITS,
    problems.L2_UNALIGNED,
    problems.L2_PREALLOCATED_UNALIGNED,
    problems.SUBCLUSTERS_CONTRADICT,
    problems.SUBCLUSTERS_WITHOUT_CLUSTER,
)
"""What entries are that no table would have many of."""
FAR = 16
"""How many times the file's length an offset is that no cut explains."""


def faulty_tables(image: Image, suspects: L2Tables, fewest: int, far: int = FAR) -> IntArray:
    """Return the offsets of tables of whose entries most, and at least *fewest*, are impossible.

    Entries that lead behind the end of the file, but less than *far* times its length away, are
    what a file that was cut has.
    """
    found = [NO_INTS]
    for batch in read_batches(image, suspects):
        entries = decode(image, batch)
        wrong = impossible(image, entries, far)
        rows = batch.tables.offset.size
        faults, used = by_row(entries.row[wrong], rows), by_row(entries.row, rows)
        found.append(batch.tables.offset[(faults >= fewest) & (5 * faults >= 4 * used)])
    return np.concatenate(found)


def impossible(image: Image, entries: Entries, far: int = FAR) -> BoolArray:
    """Tell which entries are such as no table would have many of."""
    behind = entries.offset > far * image.geometry.file_length
    wrong: BoolArray = (entries.standard | entries.compressed) & behind
    for problem, faulty, _ in find_faults(image, entries):
        wrong |= faulty if problem in NOWHERE else False
    return wrong
