"""Pass T: a file that was cut short, and one that was cut and has grown again."""

from collections.abc import Iterator

import numpy as np

from qfix.arrays import AnyArray, BoolArray, IntArray, runs
from qfix.image import Image
from qfix.layout.tables import ENTRY_SIZE, SECTOR
from qfix.problems import Findings
from qfix.problems import refcounts as refcount_problems
from qfix.problems import tables as problems
from qfix.recount import Recount
from qfix.recount.stored import Stored
from qfix.recount.tally import COMPRESSED, DATA

OUTSIDE = (problems.L1_OUTSIDE_FILE, problems.L2_OUTSIDE_FILE, problems.COMPRESSED_OUTSIDE)
MOST_RANGES = 1 << 14
MAX_END = 1 << 56
"""No table of the format stands behind this offset."""


def file_holds_what_is_mapped(image: Image, made: Recount) -> Iterator[Findings]:
    """Nothing that has a refcount lies behind the end of the file.

    Entries that lead there by a damaged offset alone stay findings of their own.
    """
    found, bits = made.tally.found, image.geometry.cluster_bits
    ends = [made.tally.stored_end, *_structures_behind(image, made.stored)]
    guests: list[tuple[int, int, int]] = []
    units = len(ends) - 1
    for problem in OUTSIDE:
        columns = found.take(problem)
        if not columns:
            continue
        length = columns["sectors"] * SECTOR if problem is problems.COMPRESSED_OUTSIDE else 1
        cluster = (columns["target"] + length - 1) >> bits
        cut = _was_there(made.stored, cluster)
        found.add(problem, **{name: values[~cut] for name, values in columns.items()})
        if cut.any():
            units += int(cut.sum())
            ends.append(int(cluster[cut].max()) + 1)
            guests += _ranges({name: values[cut] for name, values in columns.items()})
    if not units:
        return
    found.take(refcount_problems.BEHIND_END)
    size = image.geometry.file_size
    missing = (max(ends) << bits) - size
    yield problems.FILE_CUT.at(
        image.geometry.host_clusters, [units], missing=missing, host=size, guests=[guests]
    )


def _structures_behind(image: Image, stored: Stored) -> Iterator[int]:
    """Yield the end, in clusters, of each structure of the header that was cut off.

    One that no refcount speaks for may have a damaged offset instead.
    """
    head, geometry = image.header, image.geometry
    extension = image.bitmaps_extension
    regions = [
        (head.l1_table_offset, head.l1_size * ENTRY_SIZE),
        (head.snapshots_offset, 1 if head.nb_snapshots else 0),
    ]
    if extension is not None:
        regions.append((extension.bitmap_directory_offset, extension.bitmap_directory_size))
    for offset, length in regions:
        end = offset + length
        if length and geometry.file_length < end <= MAX_END:
            last = np.array([(end - 1) >> geometry.cluster_bits])
            if _was_there(stored, last).all():
                yield int(last[0]) + 1


def _was_there(stored: Stored, cluster: IntArray) -> BoolArray:
    """Tell which clusters the refcounts say to be in use, or whose refcounts were cut off too."""
    refcount, _ = stored.lookup(cluster)
    return (refcount > 0) | stored.behind_file(cluster)


def _ranges(columns: dict[str, AnyArray]) -> list[tuple[int, int, int]]:
    """Return (layer, start, length) of the guest ranges of some entries, neighbours joined."""
    order = np.lexsort((columns["first"], columns["layer"]))
    layer, unit = columns["layer"][order], columns["first"][order]
    first, count, starts = runs(unit, layer)
    length = columns["guest_length"][0]
    kept = slice(None, MOST_RANGES)
    return list(
        zip(
            layer[starts][kept].tolist(),
            (first * length)[kept].tolist(),
            (count * length)[kept].tolist(),
            strict=True,
        )
    )


def mapped_clusters_hold_data(image: Image, made: Recount) -> Iterator[Findings]:
    """The hole that may end the file holds no mapped cluster, preallocated images apart."""
    tally = made.tally
    if image.file.is_device or tally.statistics.allocated >= image.geometry.guest_clusters:
        return
    start = image.geometry.clusters(image.file.last_data())
    if start << image.geometry.cluster_bits >= image.file.size:
        return
    lost = np.count_nonzero(tally.owners[start : tally.size] & (DATA | COMPRESSED))
    if lost:
        host = start * image.geometry.cluster_size
        yield problems.FILE_REGROWN.at(start, clusters=int(lost), host=host)


CHECKS = (file_holds_what_is_mapped, mapped_clusters_hold_data)
