"""What of a sound image a fault can have hit, and what a repair says that it gives up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

import guest_view
from guest_view import EXTENDED, Reader, Shape, SnapshotView
from mutant_sites import number
from qemu_anatomy import COMPRESSED, OFFSET_MASK
from repair_run import ACTIVE

if TYPE_CHECKING:
    import numpy.typing as npt

    from repair_run import Run, Sound

LISTED = ("lost", "restored")
"""Where a repair may change what the guest reads, if it says so."""


@dataclass(frozen=True, slots=True)
class Hits:
    """What of a sound image a fault can have hit.

    `clusters` are guest clusters by layer; `snapshots` are the ids of those whose entry, or the
    way to it, is no longer what it was.
    """

    clusters: dict[bytes, set[int]]
    snapshots: set[bytes]


def find_hits(sound: Sound, raw: bytes) -> Hits:
    """Compare what the layers of a sound image read with what they read in its damaged bytes.

    A layer is looked up by the sound image's header and snapshot table: what those lead to may be
    sound although they are not.
    """
    reader, clusters = Reader(raw, sound.shape, sound.data), {}
    for key, layer in sound.layers.items():
        now = reader.layer(*sound.places[key])
        clusters[key] = guest_view.differing(layer.view, now)
        clusters[key] |= _below_hit_entries(sound, raw, key)
    return Hits(clusters, _changed_snapshots(sound, raw))


def _below_hit_entries(sound: Sound, raw: bytes, key: bytes) -> set[int]:
    """Return the guest clusters whose L1 or L2 entry no longer leads where it did."""
    (offset, count), per = sound.places[key], sound.shape.entries
    found: set[int] = set()
    for i in range(min(count, guest_view.MOST_L1)):
        table = _target(sound.raw, offset + 8 * i)
        if _target(raw, offset + 8 * i) != table:
            found |= set(range(i * per, (i + 1) * per))
        elif table:
            old, new = (_meaning(each, table, sound.shape) for each in (sound.raw, raw))
            found |= set((np.flatnonzero(old != new) + i * per).tolist())
    return found


def _meaning(raw: bytes, table: int, shape: Shape) -> npt.NDArray[np.uint64]:
    """Return the entries of an L2 table without the bits that no reader looks at."""
    words = raw[table : table + shape.cluster_size].ljust(shape.cluster_size, b"\0")
    entries = np.frombuffer(words, ">u8")[:: shape.cluster_size // 8 // shape.entries]
    mask = OFFSET_MASK | COMPRESSED | (0 if shape.incompatible & EXTENDED else 1)
    return entries.astype(np.uint64) & np.uint64(mask)


def _target(raw: bytes, place: int) -> int:
    return number(raw, place, 8) & OFFSET_MASK


def _changed_snapshots(sound: Sound, raw: bytes) -> set[bytes]:
    """Return the snapshots whose entries are not where they were, or not what they were."""
    now = [found.raw for found in guest_view.snapshots_of(raw)]
    same = raw[64:72] == sound.raw[64:72]
    return {
        found.id_str
        for i, found in enumerate(sound.snapshots)
        if not same or i >= len(now) or now[i] != found.raw
    }


@dataclass(slots=True)
class Told:
    """What the repairs of one copy have listed: guest ranges by layer, ids of snapshots."""

    ranges: dict[bytes, list[tuple[int, int]]] = field(default_factory=dict)
    dropped: set[bytes] = field(default_factory=set)

    def note(self, run: Run, before: bytes) -> None:
        """Keep what a change of the bytes *before* lists."""
        found = guest_view.snapshots_of(before)
        names = {"active": ACTIVE}
        names |= {f"snapshot[{i}]": each.id_str for i, each in enumerate(found)}
        for kind in LISTED:
            for part in run.change.get(kind, ()):
                key = names.get(part["layer"], part["layer"].encode())
                where = part["start"], part["start"] + part["length"]
                self.ranges.setdefault(key, []).append(where)
        for title in run.change.get("snapshots-dropped", ()):
            self.dropped |= {each.id_str for each in found if _is_title(title, each)}

    def covers(self, key: bytes, start: int, length: int) -> bool:
        """Tell whether a guest range lies in one that was listed."""
        ranges = self.ranges.get(key, ())
        return any(low <= start and start + length <= high for low, high in ranges)


def _is_title(title: str, found: SnapshotView) -> bool:
    """Tell whether a title, as the change lists dropped snapshots, is that of a snapshot."""
    id_str, name = (each.decode(errors="replace") for each in (found.id_str, found.name))
    return f"{id_str} ({name})" in title
