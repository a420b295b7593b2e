"""Compares what the layers of an image read with what they read in the sound image, and before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import guest_view
from guest_view import Reader, Shape, SnapshotView
from repair_run import ACTIVE, Disk, Sound, differing_bytes, l1_tables, layer_views

if TYPE_CHECKING:
    from collections.abc import Iterator

    from guest_view import View
    from repair_hits import Hits, Told

CLUSTER_BITS = range(9, 22)
SHORTEST = 72


class Comparison:
    """A damaged copy *damaged* of a sound image against what it is now."""

    def __init__(self, sound: Sound, damaged: bytes, hits: Hits, told: Told) -> None:
        """Take what was hit, and what the repairs listed so far."""
        self.sound, self.damaged, self.hits, self.told = sound, damaged, hits, told

    def layers(self, raw: bytes) -> dict[bytes, set[int]]:
        """Return the guest clusters by layer that read otherwise and that nothing had hit."""
        shape, places = Shape.of(raw), l1_tables(raw)
        if shape.without_size() != self.sound.shape.without_size():
            return {}
        reader = Reader(raw, shape, self.sound.data)
        return {
            key: self._seen(key, layer.view, reader.layer(*places[key])) - self.hits.clusters[key]
            for key, layer in self.sound.layers.items()
            if key not in self.told.dropped and self._is_reachable(key, places)
        }

    def unsaid(self, key: bytes, clusters: set[int]) -> set[int]:
        """Return the clusters that are not listed."""
        size, end = self.sound.shape.cluster_size, self.sound.shape.size
        parts = {at: min(size, end - at * size) for at in clusters}
        return {
            at
            for at, length in parts.items()
            if not self.told.covers(key, at * size, length if length > 0 else size)
        }

    def _seen(self, key: bytes, one: View, two: View) -> set[int]:
        """Return where two views differ within the disk, or where the VM's state was."""
        layer, size = self.sound.layers.get(key), self.sound.shape.size
        state = layer.view if layer else {}
        if layer and layer.index and self.sound.snapshots[layer.index - 1].disk_size >= 0:
            size = self.sound.snapshots[layer.index - 1].disk_size
        end = -(-size // self.sound.shape.cluster_size)
        return {at for at in guest_view.differing(one, two) if at < end or at in state}

    def _is_reachable(self, key: bytes, places: dict[bytes, tuple[int, int]]) -> bool:
        """Tell whether what leads to a layer was not damaged, or is as it was before."""
        if key not in places:
            return False
        (offset, count), (old, needed) = places[key], self.sound.places[key]
        if key == ACTIVE:
            was_sound = guest_view.active_l1(self.damaged) == (old, needed)
            return was_sound or (offset == old and count >= needed)
        return key not in self.hits.snapshots or (offset, count) == (old, needed)

    def disk(self, key: bytes, now: Disk | None, size: int) -> Iterator[str]:
        """Yield where qemu-img reads other bytes than from the sound image, without cause."""
        sound, cluster_size = self.sound.layers[key].disk, self.sound.shape.cluster_size
        if sound is None or now is None:
            return
        end, hit = min(size, self.sound.shape.size), self.hits.clusters[key]
        wrong = [at for at in differing_bytes(sound, now) if at < end]
        wrong = [at for at in wrong if at // cluster_size not in hit]
        if wrong := [at for at in wrong if not self.told.covers(key, at, 1)]:
            yield f"qemu-img reads layer {key!r} otherwise at {wrong[0]:#x}"

    def unlisted(self, before: bytes, after: bytes) -> Iterator[str]:
        """Yield where a layer reads otherwise than before the repair and nothing says so."""
        shapes = Shape.of(before), Shape.of(after)
        bits, size = shapes[0].cluster_bits, shapes[0].cluster_size
        if shapes[0] != shapes[1] or bits not in CLUSTER_BITS or len(before) < SHORTEST:
            return
        old, new = (layer_views(raw, self.sound.data, shapes[0]) for raw in (before, after))
        for key in old.keys() & new.keys():
            if wrong := self.unsaid(key, self._seen(key, old[key], new[key])):
                yield f"layer {key!r} was changed at guest {min(wrong) * size:#x}, not listed"


def gone_snapshots(sound: Sound, raw: bytes) -> list[SnapshotView]:
    """Return the snapshots of the sound image that are gone, or have another name or size."""
    found = {each.id_str: (each.name, each.disk_size) for each in guest_view.snapshots_of(raw)}
    return [
        each for each in sound.snapshots if found.get(each.id_str) != (each.name, each.disk_size)
    ]
