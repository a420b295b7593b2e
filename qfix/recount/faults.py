"""What can be wrong with an L2 entry by itself, and whether qemu-img check counts it."""

from collections.abc import Iterator

import numpy as np

from qfix.arrays import BoolArray, IntArray
from qfix.image import Image
from qfix.problems import tables as problems
from qfix.problems.model import Problem
from qfix.recount.entries import Entries

Fault = tuple[Problem, BoolArray, IntArray | int]


def find_faults(image: Image, entries: Entries) -> Iterator[Fault]:
    """Yield (problem, which entries have it, corruptions that qemu-img check counts)."""
    yield problems.L2_RESERVED_BITS, entries.reserved, 1
    if entries.compressed.any():
        yield from _compressed_faults(image, entries)
    yield from _standard_faults(image, entries)
    if image.geometry.extended:
        yield from _subcluster_faults(entries)
    yield from _flag_faults(image, entries)


def _compressed_faults(image: Image, entries: Entries) -> Iterator[Fault]:
    compressed = entries.compressed
    yield problems.COMPRESSED_COPIED, compressed & entries.copied, 1
    if image.geometry.data_file:
        yield problems.COMPRESSED_DATA_FILE, compressed, 1
        return
    mapped = compressed & (entries.bitmap != 0)
    yield problems.COMPRESSED_BITMAP, mapped, 1
    end = entries.offset + entries.length
    outside = end - image.geometry.file_length >= image.geometry.cluster_size
    yield problems.COMPRESSED_OUTSIDE, compressed & ~mapped & outside, 1


def _standard_faults(image: Image, entries: Entries) -> Iterator[Fault]:
    size = image.geometry.cluster_size
    unaligned = entries.standard & (entries.offset % size != 0)
    holds_data = (entries.alloc != 0) if image.geometry.extended else ~entries.zero
    outside = entries.standard & (entries.offset >= image.geometry.file_length)
    if image.geometry.data_file:
        outside[:] = False
    counted = 1 + outside.astype(np.int64)
    yield problems.L2_UNALIGNED, unaligned & holds_data, counted
    yield problems.L2_PREALLOCATED_UNALIGNED, unaligned & ~holds_data, counted
    yield problems.L2_OUTSIDE_FILE, outside & ~unaligned, 1


def _subcluster_faults(entries: Entries) -> Iterator[Fault]:
    plain = ~entries.compressed
    contradict = (entries.alloc & entries.zeros) != 0
    yield problems.SUBCLUSTERS_CONTRADICT, entries.standard & contradict, 1
    homeless = plain & ~entries.standard & (entries.alloc != 0)
    yield problems.SUBCLUSTERS_WITHOUT_CLUSTER, homeless, 1
    bit_0 = plain & ((entries.entry & np.uint64(1)) != 0)
    yield problems.BIT_0_RESERVED, bit_0, 0


def _flag_faults(image: Image, entries: Entries) -> Iterator[Fault]:
    if image.header.version < 3:
        yield problems.ZERO_IN_VERSION_2, entries.zero, 0
    lone = ~entries.compressed & ~entries.standard & entries.copied
    yield problems.COPIED_WITHOUT_OFFSET, lone, 0
