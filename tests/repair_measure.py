"""How much of a sound image's data a repair left: what reads right, what is wiped from the file."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import guest_view
from guest_view import DATA_FILE, Reader, Shape
from qemu_anatomy import COMPRESSED, OFFSET_MASK, Anatomy, Site, active_l1, snapshot_l1
from repair_run import l1_tables

if TYPE_CHECKING:
    from repair_run import Sound

CLUSTER_BITS = range(9, 22)
SHORTEST = 104


class Measure(NamedTuple):
    """Counts over one file, in clusters.

    `all` and `right` are guest clusters of every layer that hold something, and those of them that
    read as in the sound image; `wiped` are host clusters whose content is nowhere in the file any
    more; `hidden` are host clusters that two users share although the refcounts say nothing of it.
    """

    all: int
    right: int
    wiped: int
    hidden: int


def measure(sound: Sound, raw: bytes) -> Measure:
    """Compare the bytes of a file with the sound image that it was."""
    shape = Shape.of(raw)
    every = sum(len(layer.view) for layer in sound.layers.values())
    if len(raw) < SHORTEST or shape.cluster_bits not in CLUSTER_BITS:
        return Measure(every, 0, _wiped(sound, raw), 0)
    reader, places, right = Reader(raw, shape, sound.data), l1_tables(raw), 0
    if shape.without_size() == sound.shape.without_size():
        for key in sound.layers.keys() & places.keys():
            view = sound.layers[key].view
            now = reader.layer(*places[key])
            right += len(view) - len(guest_view.differing(view, now) & view.keys())
    return Measure(every, right, _wiped(sound, raw), _hidden(raw, shape))


def _wiped(sound: Sound, raw: bytes) -> int:
    """Return how many data clusters of the sound image have no copy of their content left."""
    if sound.shape.incompatible & DATA_FILE:
        return 0
    image = Anatomy(sound.raw)
    l1 = [*active_l1(image), *snapshot_l1(image)]
    sites = image.used(image.l2_below(l1))
    hosts = {entry & OFFSET_MASK for entry in _plain(sites, sound.raw)} - {0}
    size, count = image.cluster_size, 0
    for offset in hosts:
        content = sound.raw[offset : offset + size]
        if any(content) and raw[offset : offset + size] != content:
            count += content not in raw
    return count


def _plain(sites: list[Site], raw: bytes) -> list[int]:
    """Return the entries that lead to clusters that are not compressed, nor zeros."""
    entries = [site.read(raw) for site in sites]
    return [entry for entry in entries if not entry & COMPRESSED and not entry & 1]


def _hidden(raw: bytes, shape: Shape) -> int:
    """Return how many host clusters have two users of which at most one can be right."""
    if shape.incompatible & DATA_FILE:
        return 0
    image, size = Anatomy(raw), shape.cluster_size
    l1 = [entry & OFFSET_MASK for entry in _plain(image.used(active_l1(image)), raw)]
    tables = [offset for offset in l1 if 0 < offset < len(raw)]
    step = 16 if image.extended else 8
    data = [
        entry & OFFSET_MASK
        for table in tables
        for entry in _plain(image.used(image.entries(table, size // step, step)), raw)
    ]
    users = [*tables, *(offset for offset in data if offset), 0, image.l1_offset]
    users += [image.table_offset, *(image.snapshots_offset,) * (image.nb_snapshots > 0)]
    return len(users) - len({offset // size for offset in users})
