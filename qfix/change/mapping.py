"""The guest mapping of two views of an image compared: what reads differently afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qfix.arrays import NO_INTS, BoolArray, IntArray, Words, spread
from qfix.layout.header import CRYPT_LUKS
from qfix.layout.tables import (
    ALLOC_BITS,
    COMPRESSED,
    COPIED,
    OFFSET_MASK,
    ZERO,
    descriptor_bits,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.image import Image
    from qfix.recount import Recount
    from qfix.recount.l1 import L1Entries

U = np.uint64
NOTHING, ZEROS, DATA, PACKED, DAMAGED = range(5)
ALL_ZERO = ALLOC_BITS << 32
COMPARE_BYTES = 1 << 22
MOST_USERS = 1 << 20
"""Guest clusters that are told of at once, if not more lead to one entry of a damaged image."""


class View(NamedTuple):
    """One view of an image: as it is, or as it would be."""

    image: Image
    made: Recount


class Mapped(NamedTuple):
    """Where guest clusters are: a kind each, and what has to be equal for them to read the same.

    `value` is the host offset of data, the descriptor of compressed clusters, the entry of damaged
    ones; `bitmap` tells the subclusters that hold data and those that are zeros.
    """

    kind: IntArray
    value: IntArray
    bitmap: Words


class Difference(NamedTuple):
    """Guest clusters that read differently: layer of the file and byte offset of each, and size."""

    layer: IntArray
    start: IntArray
    length: int


def differences(
    before: View, after: View, layers: list[int], changed: tuple[IntArray, IntArray]
) -> Iterator[Difference]:
    """Yield what reads differently; of layers that share an L1 table the first.

    *layers* gives for each layer of *after* that of *before*, negative where there was none;
    *changed* are the runs (first, end) of sectors that differ. L2 tables that both views share are
    looked at where one is in them.
    """
    layer, index, old, new = _pairs_of_tables(before, after, layers, changed)
    if not old.size:
        return
    pairs = np.stack((old, new), axis=1)
    both, which = np.unique(pairs, axis=0, return_inverse=True)
    users = np.argsort(which.ravel(), kind="stable")
    ends = np.searchsorted(which.ravel()[users], np.arange(len(both)), "right")
    many = np.diff(ends, prepend=0)
    size, width = before.image.geometry.cluster_size, before.image.geometry.l2_entries
    step = max(1, COMPARE_BYTES // size)
    for start in range(0, len(both), step):
        part = both[start : start + step]
        row, entry = np.nonzero(_differing(before, after, part[:, 0], part[:, 1]))
        for few in _bounded(many[start + row]):
            count = many[start + row[few]]
            user = users[spread((ends - many)[start + row[few]], count)]
            guest = index[user] * width + np.repeat(entry[few], count)
            yield Difference(layer[user], guest * size, size)


def _bounded(count: IntArray) -> Iterator[slice]:
    """Yield slices of rows whose counts add up to no more than MOST_USERS, or of one row."""
    total = np.cumsum(count)
    start = 0
    while start < count.size:
        done = int(total[start - 1]) if start else 0
        end = max(start + 1, int(np.searchsorted(total, done + MOST_USERS, "right")))
        yield slice(start, end)
        start = end


def _pairs_of_tables(
    before: View, after: View, layers: list[int], changed: tuple[IntArray, IntArray]
) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Return (layer of before, L1 index, table before, table after) of what may differ."""
    size = before.image.geometry.cluster_size
    columns: list[tuple[IntArray, ...]] = [(NO_INTS, NO_INTS, NO_INTS, NO_INTS)]
    owners = _first_layers(before.made.entries), _first_layers(after.made.entries)
    seen: set[tuple[int, int]] = set()
    for now, layer in enumerate(layers):
        if layer < 0:
            continue
        pair = owners[0].get(layer, layer), owners[1].get(now, now)
        if pair in seen:
            continue
        seen.add(pair)
        index, old, new = _side_by_side(before.made.entries, after.made.entries, *pair)
        maybe = (old != new) | _touched(changed, old, size) | _touched(changed, new, size)
        at = np.flatnonzero(maybe)
        columns.append((np.full(at.size, pair[0]), index[at], old[at], new[at]))
    layer_, index, old, new = (np.concatenate(each) for each in zip(*columns, strict=True))
    return layer_, index, old, new


def _first_layers(entries: L1Entries) -> dict[int, int]:
    """Return for layers that share one L1 table the first of them."""
    return {layer: first for first, all_ in entries.sharers.items() for layer in all_}


def _side_by_side(
    old: L1Entries, new: L1Entries, old_layer: int, new_layer: int
) -> tuple[IntArray, IntArray, IntArray]:
    """Return the L1 indexes that lead somewhere in one of two layers, and the tables there."""
    here, there = old.layer == old_layer, new.layer == new_layer
    index = np.union1d(old.index[here], new.index[there]).astype(np.int64)
    tables = []
    for entries, chosen in ((old, here), (new, there)):
        target = np.zeros(index.size, np.int64)
        target[np.searchsorted(index, entries.index[chosen])] = entries.target[chosen]
        tables.append(target)
    return index, tables[0], tables[1]


def _touched(changed: tuple[IntArray, IntArray], offset: IntArray, size: int) -> BoolArray:
    """Tell which clusters at byte *offset* hold a sector of the runs *changed*."""
    first, end = changed
    low = np.searchsorted(end, offset >> 9, "right")
    touched: BoolArray = (offset > 0) & (np.searchsorted(first, (offset + size) >> 9) > low)
    return touched


def _differing(before: View, after: View, old: IntArray, new: IntArray) -> BoolArray:
    """Return which entries of pairs of L2 tables read differently, tables by entries.

    With LUKS the same bytes mean something else in another place (format 9).
    """
    one, other = _mapped(before.image, old), _mapped(after.image, new)
    same = one.kind == other.kind
    value = one.value == other.value
    valued = (one.kind != NOTHING) & (one.kind != ZEROS)
    differ: BoolArray = ~same | (valued & ~value) | (one.bitmap != other.bitmap)
    moved = same & (one.kind == DATA) & ~value & (one.bitmap == other.bitmap)
    fixed = before.image.header.crypt_method == CRYPT_LUKS
    if moved.any() and not before.image.geometry.data_file and not fixed:
        differ[moved] = ~_equal(before.image, one.value[moved], after.image, other.value[moved])
    packed = same & (one.kind == PACKED) & ~value
    if packed.any():
        differ[packed] = ~_equal_packed(before.image, after.image, one, other, packed)
    return differ


def _mapped(image: Image, offset: IntArray) -> Mapped:
    """Return what L2 tables at *offset* map, tables by entries; no table where it is nowhere."""
    geometry = image.geometry
    size = geometry.cluster_size
    words = np.zeros((offset.size, size // 8), np.uint64)
    placed = (offset > 0) & (offset % size == 0) & (offset < geometry.file_length)
    at = np.flatnonzero(placed)
    if at.size:
        buffer = np.empty((at.size, size // 8), np.uint64)
        image.file.read_each(buffer.data.cast("B"), offset[at].tolist(), size)
        words[at] = buffer.byteswap()
    entry = words[:, 0::2] if geometry.extended else words
    bitmap = words[:, 1::2] if geometry.extended else np.zeros_like(entry)
    found = _decoded(image, entry, bitmap)
    lost = (offset > 0) & ~placed & (offset % size != 0)
    found.kind[lost] = DAMAGED
    found.value[lost] = offset[lost][:, None]
    return found


def _decoded(image: Image, entry: Words, bitmap: Words) -> Mapped:
    geometry = image.geometry
    offset = (entry & U(OFFSET_MASK)).astype(np.int64)
    packed = (entry & U(COMPRESSED)) != 0
    zero = ~packed & ((entry & U(ZERO)) != 0) & (not geometry.extended)
    data = ~packed & ~zero & (offset != 0)
    if geometry.data_file:
        data |= ~packed & ~zero & ((entry & U(COPIED)) != 0)
    kind = np.full(entry.shape, NOTHING)
    value = np.zeros(entry.shape, np.int64)
    for number, chosen, values in (
        (ZEROS, zero, 0),
        (DATA, data, offset),
        (PACKED, packed, (entry & U(COMPRESSED - 1)).astype(np.int64)),
    ):
        kind[chosen] = number
        value[chosen] = values if isinstance(values, int) else values[chosen]
    known = bitmap.copy()
    if geometry.extended:
        known[packed] = 0
        alloc, zeros = known & U(ALLOC_BITS), known >> U(32)
        wrong = ((alloc & zeros) != 0) | ((kind == NOTHING) & (alloc != 0))
        wrong |= packed & (bitmap != 0)
        empty = data & (alloc == 0)
        kind[empty], value[empty] = NOTHING, 0
        data &= ~empty
    else:
        wrong = np.zeros(entry.shape, np.bool_)
    misplaced = data & (offset % geometry.cluster_size != 0)
    if not geometry.data_file:
        misplaced |= data & (offset >= geometry.file_length)
        start = (entry & U((1 << descriptor_bits(geometry.cluster_bits)) - 1)).astype(np.int64)
        misplaced |= packed & (start >= geometry.file_length)
    if image.header.version < 3:
        misplaced |= zero
    wrong |= misplaced
    kind[wrong] = DAMAGED
    read = OFFSET_MASK if geometry.extended else OFFSET_MASK | ZERO
    told = np.where(packed, entry & U(COPIED - 1), entry & U(read))
    value[wrong] = told.astype(np.int64)[wrong]
    return Mapped(kind, value, known)


def _equal(one: Image, old: IntArray, other: Image, new: IntArray) -> BoolArray:
    """Tell which clusters at byte offsets *old* of one view hold what those at *new* do."""
    size = one.geometry.cluster_size
    equal = np.ones(old.size, np.bool_)
    step = max(1, COMPARE_BYTES // size)
    for start in range(0, old.size, step):
        part = slice(start, start + step)
        count = old[part].size
        views = []
        for image, offset in ((one, old), (other, new)):
            buffer = np.empty((count, size), np.uint8)
            image.file.read_each(buffer.data.cast("B"), offset[part].tolist(), size)
            views.append(buffer)
        equal[part] = (views[0] == views[1]).all(axis=1)
    return equal


def _equal_packed(
    before: Image, after: Image, one: Mapped, other: Mapped, chosen: BoolArray
) -> BoolArray:
    """Tell which compressed clusters have the same payload in another place."""
    bits = descriptor_bits(before.geometry.cluster_bits)
    equal = []
    for old, new in zip(one.value[chosen].tolist(), other.value[chosen].tolist(), strict=True):
        payloads = []
        for image, descriptor in ((before, old), (after, new)):
            start = descriptor & ((1 << bits) - 1)
            length = ((descriptor >> bits) + 1) * 512 - start % 512
            payloads.append(image.file.read(start, length))
        equal.append(payloads[0] == payloads[1])
    return np.array(equal, np.bool_)
