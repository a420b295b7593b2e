"""The facts that info shows, as plain values."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from qfix.errors import ReadError
from qfix.image import printable
from qfix.layout import bitmaps, extensions, header
from qfix.layout.tables import REFTABLE_OFFSET_MASK

if TYPE_CHECKING:
    from qfix.examine import Diagnosis
    from qfix.image import Head, Image
    from qfix.snapshots.space import Space

MOST_BLOCKS = 64
MOUNTS = "/proc/self/mountinfo"


def facts(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return what there is to say of an image; values are None where that can't be read."""
    head, image = diagnosis.head, diagnosis.image
    told: dict[str, Any] = {
        "looks-like": head.guess or None,
        "file-size": head.file.size,
        "disk-size": head.file.allocated(),
        "file-system": file_system(head),
    }
    return _header_facts(image) | told | _extension_facts(image) if image else told


def _header_facts(image: Image) -> dict[str, Any]:
    decoded, geometry = image.header, image.geometry
    words = zip(header.FEATURE_WORDS, decoded.words, strict=True)
    named = [
        f"{name}: {image.feature_text(word, bits)}"
        for word, (name, bits) in enumerate(words)
        if bits
    ]
    method = decoded.crypt_method
    kinds = header.COMPRESSION_NAMES
    kind = image.head.compression_type
    return {
        "version": decoded.version,
        "virtual-size": geometry.virtual_size,
        "cluster-size": geometry.cluster_size,
        "refcount-bits": 1 << decoded.refcount_order if decoded.refcount_order <= 6 else None,
        "compression-type": kinds[kind] if kind < len(kinds) else None,
        "encryption": header.CRYPT_NAMES[method] if 0 < method <= 2 else None,
        "features": named,
        "l1-table": f"{decoded.l1_size} entries at {decoded.l1_table_offset:#x}",
        "refcount-table": (
            f"{decoded.refcount_table_clusters} clusters at {decoded.refcount_table_offset:#x}"
        ),
        "snapshot-count": decoded.nb_snapshots,
        "image-end-offset": image_end(image),
    }


def _extension_facts(image: Image) -> dict[str, Any]:
    found = image.area.find(extensions.BACKING_FORMAT)
    name, data = image.head.backing_name, image.data_file_name
    pointer = image.encryption
    known = [f"{item.name} ({len(item.data)} bytes)" for item in image.area.extensions]
    return {
        "backing-file": printable(name) if name is not None else None,
        "backing-format": printable(found.data) if found else None,
        "data-file": printable(data) if data is not None else None,
        "encryption-header": f"{pointer.length} bytes at {pointer.offset:#x}" if pointer else None,
        "extensions": known,
    }


def image_end(image: Image) -> int | None:
    """Return the end of the last cluster that has a refcount, None if that is not soon found."""
    decoded, geometry = image.header, image.geometry
    size = geometry.cluster_size
    length = min(decoded.refcount_table_clusters * size, header.MAX_REFCOUNT_TABLE_BYTES)
    inside = max(0, geometry.file_length - decoded.refcount_table_offset)
    try:
        table = image.file.read(decoded.refcount_table_offset, min(length, inside)).rstrip(b"\0")
        index = -(-len(table) // 8) - 1
        for block in range(index, max(-1, index - MOST_BLOCKS), -1):
            entry = int.from_bytes(table[block * 8 : block * 8 + 8].ljust(8, b"\0"), "big")
            offset = entry & REFTABLE_OFFSET_MASK
            if not 0 < offset < geometry.file_length:
                continue
            used = image.file.read(offset, size).rstrip(b"\0")
            if used:
                return _last(
                    used, decoded.refcount_order, block, geometry.refcounts_per_block, size
                )
    except ReadError:
        return None
    return None


def _last(used: bytes, order: int, block: int, per: int, size: int) -> int:
    """Return the end of the last cluster with a refcount in a block that ends in *used*."""
    if order >= 3:
        index = (len(used) - 1) >> (order - 3)
    else:
        index = (len(used) - 1) * (8 >> order) + (used[-1].bit_length() - 1 >> order)
    return (block * per + index + 1) * size


def file_system(head: Head) -> str | None:
    """Return the type of the file system that the file is on, None where that is not told."""
    if head.file.is_device:
        return "block device"
    device = os.fstat(head.file.fd).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open(MOUNTS, encoding="utf-8", errors="replace") as mounts:
            rows = [line.split() for line in mounts]
    except OSError:
        return None
    for row in rows:
        if len(row) > 2 and row[2] == wanted and "-" in row:
            return row[row.index("-") + 1]
    return None


def snapshot_rows(diagnosis: Diagnosis) -> list[dict[str, Any]]:
    """Return a row a snapshot; the room that it takes is None where that was not counted."""
    found = diagnosis.image.snapshots if diagnosis.image else []
    room = _spaces(diagnosis) if found else []
    return [
        {
            "index": item.index,
            "id": printable(item.id_str),
            "name": printable(item.name),
            "date": _date(item.entry.date_sec),
            "vm-state-size": item.vm_state_size,
            "vm-clock": _clock(item.entry.vm_clock_nsec),
            "disk-size": item.disk_size,
            "icount": item.icount,
            "held-bytes": room[item.index].held if room else None,
            "shared-bytes": room[item.index].shared if room else None,
            "written-since-bytes": room[item.index].written_since if room else None,
        }
        for item in found
    ]


def _spaces(diagnosis: Diagnosis) -> list[Space]:
    if diagnosis.image is None or diagnosis.recount is None:
        return []
    from qfix.snapshots.space import spaces

    return spaces(diagnosis.image, diagnosis.recount)


def bitmap_rows(diagnosis: Diagnosis) -> list[dict[str, Any]]:
    """Return a row a bitmap."""
    directory = diagnosis.image.directory if diagnosis.image else None
    return [
        {
            "name": printable(item.name),
            "granularity": 1 << item.entry.granularity_bits,
            "in-use": bool(item.entry.flags & bitmaps.IN_USE),
            "auto": bool(item.entry.flags & bitmaps.AUTO),
            "table-entries": item.entry.bitmap_table_size,
        }
        for item in (directory.bitmaps if directory else ())
    ]


def _date(seconds: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _clock(nanoseconds: int) -> str:
    milliseconds = nanoseconds // 1_000_000
    seconds, milliseconds = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}.{milliseconds:03d}"
