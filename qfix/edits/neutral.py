"""Names taken out of a metadata copy: each becomes another text of its length, equal ones equal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qfix.arrays import NO_INTS
from qfix.checks.extensions import has_controls
from qfix.checks.lost import leaks_are_not_lost_tables
from qfix.edits.anatomy import LUKS_MAGIC_BYTES, MOST_HEADER, PROBES, SECTOR, Anatomy
from qfix.layout import extensions, header
from qfix.layout.snapshots import SnapshotEntry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.arrays import IntArray
    from qfix.image import Image
    from qfix.layout.extensions import Extension

Patch = tuple[int, bytes]

MARK = b"qfix: metadata copy without names"
"""Stands at the very end of the header's cluster, where QEMU does not look."""
KNOWN_EXTRA = 24
MOST_TRIED = 100_000
CONTROL = b"\x01"


class Names:
    """Neutral texts by kind of name and name; distinct names of a kind get distinct ones."""

    __slots__ = ("_given", "_known")

    def __init__(self) -> None:
        self._known: dict[tuple[str, bytes], bytes] = {}
        self._given: set[tuple[str, bytes]] = set()

    def of(self, kind: str, name: bytes) -> bytes:
        """Return the text for a name: as long, with a control character where it has one."""
        if (kind, name) not in self._known:
            text = self._new(kind, name) if name else b""
            self._known[kind, name] = text
            self._given.add((kind, text))
        return self._known[kind, name]

    def _new(self, kind: str, name: bytes) -> bytes:
        length = len(name)
        lead = CONTROL if has_controls(name) and length > 1 else b""
        for number in range(len(self._known) + 1, len(self._known) + MOST_TRIED):
            digits = str(number).encode()[-length:]
            text = lead + digits[len(lead) :].rjust(length - len(lead), b"x")
            if (kind, text) not in self._given:
                return text
        return name


def neutral(found: Anatomy) -> tuple[Anatomy, list[Patch]]:
    """Return what is left without names and what may be guest data, and what stands for them."""
    image = found.image
    kept, patches = found.without(*_left_out(found)), list[Patch]()
    if image is None:
        size = header.FULL_LENGTH if found.head.header else 0
        return kept, [(0, found.head.raw[:size])]
    names = Names()
    low, high = [0], [len(found.head.raw)]
    table = image.snapshot_table[1]
    if table.size:
        low.append(image.header.snapshots_offset)
        high.append(image.header.snapshots_offset + table.size)
        patches += _snapshots(image, names)
    extension, directory = image.bitmaps_extension, image.directory
    if extension is not None and directory is not None:
        low.append(extension.bitmap_directory_offset)
        high.append(extension.bitmap_directory_offset + directory.end)
        patches += _bitmaps(image, names)
    patches.append((0, _header(image, names)))
    size = found.head.file.size
    ranges = np.minimum(low, size), np.minimum(high, size)
    return kept.without(*ranges), patches


def _left_out(found: Anatomy) -> tuple[IntArray, IntArray]:
    """Return the ranges (start, end) that may hold guest data, and that of the key slots."""
    image, made = found.image, found.made
    if found.head.header is None:
        size = found.head.hidden_cluster_size
        probes = np.array([at for at in PROBES if at * SECTOR >= 3 * size], np.int64) * SECTOR
        return np.append(probes, 0), np.append(probes + SECTOR, size)
    if image is None or made is None:
        return np.array([0]), np.array([len(found.head.raw)])
    told = [item.first for item in leaks_are_not_lost_tables(image, made)]
    astray = np.setdiff1d(found.lost, np.concatenate((NO_INTS, *told)))
    clusters = np.concatenate((found.doubtful(), astray))
    bits = image.geometry.cluster_bits
    start, end = clusters << bits, (clusters + 1) << bits
    pointer = image.encryption
    if pointer is not None and max(pointer) <= header.MAX_FILE_OFFSET:
        size = found.head.file.size
        last = pointer.offset + max(pointer.length, LUKS_MAGIC_BYTES)
        start = np.append(start, min(pointer.offset + LUKS_MAGIC_BYTES, size))
        end = np.append(end, min(last, size))
    return start, end


def _snapshots(image: Image, names: Names) -> Iterator[Patch]:
    """Yield the entries of the snapshot table; ids that are numbers stay."""
    for item in image.snapshots:
        body = item.offset + SnapshotEntry.codec.size
        word = item.id_str if item.id_str.isdigit() else names.of("id", item.id_str)
        yield item.offset, item.entry.encode() + item.extra[:KNOWN_EXTRA]
        yield body + item.entry.extra_data_size, word + names.of("snapshot", item.name)


def _bitmaps(image: Image, names: Names) -> Iterator[Patch]:
    for item in image.directory.bitmaps if image.directory else ():
        entry = item.entry
        yield item.offset, entry.encode()
        yield (
            item.offset + entry.codec.size + entry.extra_data_size,
            names.of("bitmap", item.name),
        )


def _header(image: Image, names: Names) -> bytes:
    """Return the header's cluster: fields and extensions, names replaced, zeros behind."""
    raw, head, area = image.head.raw, image.header, image.area
    made = bytearray(len(raw))
    length = header.V2_LENGTH
    if head.version >= 3:
        told = head.header_length if head.header_length <= MOST_HEADER else 0
        length = max(told, header.FULL_LENGTH)
    for start, end in ((0, length), (96, 104)):  # the latter tell that the version was changed
        made[start:end] = raw[start:end]
    for item in area.extensions:
        made[item.offset : item.offset + 8] = raw[item.offset : item.offset + 8]
        made[item.offset + 8 : item.offset + 8 + len(item.data)] = _data(item, names)
    if area.overrun is not None:
        made[area.overrun : area.overrun + 8] = raw[area.overrun : area.overrun + 8]
    start = max(head.backing_file_offset, length)
    name = image.head.backing_name or b""
    if name:
        text = names.of("file", name)[max(0, start - head.backing_file_offset) :]
        made[start : start + len(text)] = text
    if not any(made[-len(MARK) :]) and area.overrun is None and area.end <= len(raw) - len(MARK):
        made[-len(MARK) :] = MARK
    return bytes(made)


def _data(item: Extension, names: Names) -> bytes:
    if item.magic == extensions.DATA_FILE_NAME:
        return names.of("file", item.data)
    return item.data if item.magic in extensions.NAMES else b"x" * len(item.data)
