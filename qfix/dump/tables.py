"""Sections l1 and l2: every used entry of the mapping tables and what it says (format 5, 6)."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from qfix.dump.lines import BLOCK, NAME, Form, filled, heading, remark
from qfix.layout.tables import COMPRESSED, COPIED, SECTOR, ZERO
from qfix.recount.batches import read_batches
from qfix.recount.entries import decode
from qfix.recount.walk import are_tables, headless_layers
from qfix.report.rows import layer_title

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.arrays import AnyArray, BoolArray, IntArray, Words
    from qfix.dump.lines import Wanted
    from qfix.dump.marks import Marks
    from qfix.image import Image
    from qfix.recount.batches import Batch
    from qfix.recount.entries import Entries
    from qfix.recount.l2 import L2Tables

U = np.uint64
L1 = Form.of(
    "l1",
    f"%-{NAME}s %#14x  %#18x  L2 table at %#x, guest %#x%s%s",
    (
        ("name", '"%s"'),
        ("file-offset", "%d"),
        ("entry", "%d"),
        ("host-offset", "%d"),
        ("guest-offset", "%d"),
        ("flags", "%s"),
        ("findings", "%s"),
    ),
)
L2 = Form.of(
    "l2",
    f"%-{NAME}s %#14x  %#18x  %-14s %s, guest %#x%s%s%s",
    (
        ("name", '"%s"'),
        ("file-offset", "%d"),
        ("entry", "%d"),
        ("kind", '"%s"'),
        ("host-offset", "%s"),
        ("guest-offset", "%d"),
        ("detail", "%s"),
        ("flags", "%s"),
        ("findings", "%s"),
    ),
)
WORDS = ("unallocated", "zero", "zero-allocated", "data", "compressed")
"""What an entry can be; with extended L2 `data` has a cluster whose subclusters the map tells."""
NOTHING, ZEROS, ZERO_ALLOCATED, DATA, PACKED = range(5)
FLAGS = ((COPIED, "COPIED"), (COMPRESSED, "COMPRESSED"), (ZERO, "ZERO"))
SUBCLUSTERS = 32


def l1_lines(wanted: Wanted, marks: Marks) -> Iterator[str]:
    """Yield the used entries of the L1 tables of the chosen layers."""
    image, entries = wanted.image, wanted.made.entries
    yield from heading(wanted, "l1", "L1 entries in use", "name, file offset, entry, where to")
    first = {one: owner for owner, all_ in entries.sharers.items() for one in all_}
    for layer in wanted.chosen(1 + len(image.snapshots)):
        owner = first.get(layer, layer)
        title = layer_title(image, layer)
        if owner != layer and wanted.layers is None:
            same = layer_title(image, owner)
            yield from remark(wanted, f"L1 table of {title}: the same table as that of {same}")
            continue
        place = int(entries.places[owner]) if owner < entries.places.size else 0
        rows = np.flatnonzero(entries.layer == owner)
        yield from remark(wanted, f"L1 table of {title} at {place:#x}, {rows.size} entries in use")
        for start in range(0, rows.size, BLOCK):
            yield _l1_block(wanted, marks, rows[start : start + BLOCK], layer)


def _l1_block(wanted: Wanted, marks: Marks, rows: IntArray, layer: int) -> str:
    image, entries = wanted.image, wanted.made.entries
    name = _prefix(layer) + "l1[{}]"
    index, position = entries.index[rows].astype(np.int64), entries.position(rows)
    columns = (
        [name.format(at) for at in index.tolist()],
        position.tolist(),
        entries.entry[rows].tolist(),
        entries.target[rows].tolist(),
        (index * image.geometry.bytes_per_l1_entry).tolist(),
        _flag_words(wanted, entries.entry[rows]),
        marks.words("L1 entry", position, None, json=wanted.json),
    )
    return filled(L1.json if wanted.json else L1.text, columns)


def _prefix(layer: int) -> str:
    return f"snapshot[{layer - 1}]." if layer else ""


def _flag_words(wanted: Wanted, entry: Words) -> list[str]:
    """Return the flags of entries: a JSON list, or text where they are asked for."""
    if not wanted.json and not wanted.flags:
        return [""] * entry.size
    known = {}
    which = np.zeros(entry.size, np.int64)
    for bit, (mask, _) in enumerate(FLAGS):
        which |= ((entry & U(mask)) != 0).astype(np.int64) << bit
    for number in range(1 << len(FLAGS)):
        words = [name for bit, (_, name) in enumerate(FLAGS) if number >> bit & 1]
        quoted = ", ".join(f'"{word}"' for word in words)
        known[number] = f"[{quoted}]" if wanted.json else f"  [{' '.join(words)}]"
    return [known[number] for number in which.tolist()]


def l2_lines(wanted: Wanted, marks: Marks) -> Iterator[str]:
    """Yield the used entries of the L2 tables of the chosen layers, each table once."""
    image = wanted.image
    where = "where in the data file" if image.geometry.data_file else "where"
    columns = f"name, file offset, entry, kind, {where}, guest offset"
    yield from heading(wanted, "l2", "L2 entries in use", columns)
    tables, hidden = tables_in_order(wanted)
    last = -1
    for batch in read_batches(image, tables):
        entries = decode(image, batch)
        layers = batch.tables.layer[entries.row]
        cuts = (np.flatnonzero(np.diff(layers)) + 1).tolist()
        for low, high in pairwise((0, *cuts, layers.size)):
            if low == high:
                continue
            layer = int(layers[low])
            if layer != last:
                yield from remark(wanted, f"L2 tables of {layer_title(image, layer)}")
            last = layer
            for start in range(low, high, BLOCK):
                rows = slice(start, min(start + BLOCK, high))
                yield _l2_block(wanted, marks, batch, entries, rows)
    if hidden:
        yield from remark(wanted, f"{hidden} L2 tables of other layers are the same tables")
    if marks.dropped:
        yield from remark(wanted, f"{marks.dropped} more findings are not marked on the lines")


def tables_in_order(wanted: Wanted) -> tuple[L2Tables, int]:
    """Return the L2 tables of the chosen layers in the order of layers and L1 indexes.

    Each is there once, with the layer and index of its first user; also returned is how many L1
    entries lead to a table that another one has led to before.
    """
    entries, known = wanted.made.entries, wanted.made.tables
    rows = np.arange(entries.entry.size)
    layer = entries.layer.astype(np.int64)
    if wanted.layers is not None:
        rows, layer = _rows_of_layers(wanted, rows)
    target = entries.target[rows]
    order = np.argsort(known.offset, kind="stable")
    at = np.searchsorted(known.offset, target, sorter=order)
    at = order[np.minimum(at, max(0, order.size - 1))] if order.size else at
    there = np.zeros(rows.size, np.bool_) if not order.size else known.offset[at] == target
    there &= target > 0
    rows, layer, at = rows[there], layer[there], at[there]
    key = at if wanted.layers is None else at + layer * known.offset.size
    first = np.sort(np.unique(key, return_index=True)[1])
    part = known.part(at[first])
    index = entries.index[rows[first]].astype(np.int64)
    return replace(part, index=index, layer=layer[first]), rows.size - first.size


def _rows_of_layers(wanted: Wanted, rows: IntArray) -> tuple[IntArray, IntArray]:
    """Return the rows of the L1 entries of the chosen layers, and the layer of each."""
    entries = wanted.made.entries
    first = {one: owner for owner, all_ in entries.sharers.items() for one in all_}
    layers = wanted.chosen(1 + len(wanted.image.snapshots))
    parts = [rows[entries.layer == first.get(layer, layer)] for layer in layers]
    each = [np.full(part.size, layer) for part, layer in zip(parts, layers, strict=True)]
    nothing = np.zeros(0, np.int64)
    return np.concatenate([nothing, *parts]), np.concatenate([nothing, *each])


def kinds_of(image: Image, entries: Entries) -> AnyArray:
    """Return what each entry is, as a position in WORDS."""
    kind = np.full(entries.entry.shape, NOTHING, np.int8)
    kind[entries.standard] = DATA
    kind[entries.compressed] = PACKED
    if image.geometry.extended:
        kind[entries.standard & (entries.alloc == 0)] = NOTHING
        zero = (entries.alloc == 0) & (entries.zeros != 0) & ~entries.compressed
        kind[zero] = ZEROS
        kind[zero & entries.standard] = ZERO_ALLOCATED
    else:
        kind[entries.zero] = ZEROS
        kind[entries.zero & entries.standard] = ZERO_ALLOCATED
    return kind


def _l2_block(wanted: Wanted, marks: Marks, batch: Batch, entries: Entries, rows: slice) -> str:
    image, tables = wanted.image, batch.tables
    part = _slice(entries, rows)
    row, index = part.row, part.index
    geometry = image.geometry
    heads = [
        f"{_prefix(layer)}l2[{at}]"
        for layer, at in zip(tables.layer.tolist(), tables.index.tolist(), strict=True)
    ]
    position = tables.offset[row] + index * geometry.entry_size
    guest = tables.index[row] * geometry.bytes_per_l1_entry + index * geometry.cluster_size
    led = part.standard | part.compressed
    real = are_tables(image, tables, headless_layers(image))[row]
    here = led & real & (not geometry.data_file)
    target = np.where(here, part.offset >> geometry.cluster_bits, -1)
    columns = (
        [f"{heads[at]}[{number}]" for at, number in zip(row.tolist(), index.tolist(), strict=True)],
        position.tolist(),
        part.entry.tolist(),
        [WORDS[number] for number in kinds_of(image, part).tolist()],
        _places(part.offset, led, json=wanted.json),
        guest.tolist(),
        _details(wanted, part),
        _flag_words(wanted, part.entry),
        marks.words("L2 entry", position, target, json=wanted.json),
    )
    return filled(L2.json if wanted.json else L2.text, columns)


def _slice(entries: Entries, rows: slice) -> Entries:
    return type(entries)(*(getattr(entries, name)[rows] for name in type(entries).__slots__))


def _places(offset: IntArray, led: BoolArray, *, json: bool) -> list[str]:
    """Return where entries lead: the host offset in text or JSON."""
    form, none = ("%d", "null") if json else ("at %#x", "nowhere")
    if led.all():
        return [form % at for at in offset.tolist()]
    return [
        form % at if leads else none
        for at, leads in zip(offset.tolist(), led.tolist(), strict=True)
    ]


def _details(wanted: Wanted, part: Entries) -> list[str]:
    """Return what there is to say of compressed clusters and of subclusters."""
    none = "null" if wanted.json else ""
    told = [none] * part.entry.size
    bits = wanted.image.geometry.cluster_bits
    packed = np.flatnonzero(part.compressed)
    start, length = part.offset[packed], part.length[packed]
    sectors = (start + length - start // SECTOR * SECTOR) // SECTOR
    first, last = start >> bits, (start + length - 1) >> bits
    form = (
        '{"sectors": %d, "first-cluster": %d, "last-cluster": %d}'
        if wanted.json
        else ", %d sectors in clusters %d to %d"
    )
    columns = (packed.tolist(), sectors.tolist(), first.tolist(), last.tolist())
    for at, *values in zip(*columns, strict=True):
        told[at] = form % tuple(values)
    if wanted.image.geometry.extended:
        form = '{"subclusters": "%s"}' if wanted.json else ", subclusters %s"
        plain = np.flatnonzero(~part.compressed)
        for at, text in zip(plain.tolist(), maps(part.bitmap[plain]), strict=True):
            told[at] = form % text
    return told


def maps(bitmap: Words) -> list[str]:
    """Return subcluster bitmaps as 32 letters each: D data, z zeros, x both (damage), - none."""
    bit = np.arange(SUBCLUSTERS, dtype=np.uint64)
    alloc = ((bitmap[:, None] >> bit) & U(1)).astype(np.uint8)
    zeros = ((bitmap[:, None] >> (bit + U(SUBCLUSTERS))) & U(1)).astype(np.uint8)
    letters = np.frombuffer(b"-Dzx", np.uint8)[alloc + 2 * zeros]
    return [raw.decode() for raw in np.ascontiguousarray(letters).view("S32").ravel().tolist()]
