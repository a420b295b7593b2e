"""Makes the bytes of an image described in `build`: refcounts, COPIED flags, tables, header."""

from __future__ import annotations

from typing import TYPE_CHECKING

from build import (
    BITMAP,
    BITMAPS,
    COPIED,
    ENCRYPTION,
    HEADER,
    SNAPSHOT,
    Dirty,
    Entry,
    Frozen,
    Picture,
    Place,
    Qcow2,
    Table,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

REFTABLE, FIRST_BLOCK, ACTIVE_L1 = 1, 2, 3
V2_LENGTH = 72


def finish(image: Qcow2) -> Picture:
    """Return the image that was described; it can't be described further."""
    picture = Picture(bytearray())
    snapshots_offset = _write_snapshots(image, picture) if image.snapshots else 0
    extensions = list(image.extensions)
    if image.bitmaps:
        extensions.append((BITMAPS, _write_bitmaps(image, picture)))
    if image.encryption:
        extensions.append((ENCRYPTION, _numbers(image.encryption)))
    for layer in (image.l1, *(frozen.l1 for frozen in image.snapshots)):
        _count(image, layer)
    _write_refcounts(image, picture)
    for first, content in image.contents.items():
        _put(picture, first * image.cluster_size, content)
    _write_layer(image, picture, image.l1, ACTIVE_L1, "")
    for index, frozen in enumerate(image.snapshots):
        _write_layer(image, picture, frozen.l1, frozen.l1_cluster, f"snapshot[{index}].")
    _write_header(image, picture, extensions, snapshots_offset)
    return picture.resize(image.next * image.cluster_size)


def _count(image: Qcow2, layer: dict[int, Table]) -> None:
    for table in layer.values():
        image.counts[table.cluster] += 1
        for entry in table.entries.values():
            image.counts.update(entry.hosts)


def _write_refcounts(image: Qcow2, picture: Picture) -> None:
    blocks = [FIRST_BLOCK]
    while len(blocks) * image.per_block < image.next:
        blocks.append(image.take())
    bits = 1 << image.refcount_order
    table = REFTABLE * image.cluster_size
    _put(picture, table, _numbers(block * image.cluster_size for block in blocks))
    for index in range(image.cluster_size // 8):
        picture.places[f"rt[{index}]"] = Place(table + index * 8, 64)
    for index, block in enumerate(blocks):
        _put(picture, block * image.cluster_size, bytes(image.cluster_size))
        for at in range(image.per_block):
            start = block * image.cluster_size + at * bits // 8
            shift = at * bits % 8 if bits < 8 else 0
            picture.places[f"rb[{index * image.per_block + at}]"] = Place(start, bits, shift)
    picture.poke({f"rb[{at}]": count for at, count in image.counts.items() if at >= 0 and count})


def _write_layer(
    image: Qcow2, picture: Picture, layer: dict[int, Table], cluster: int, prefix: str
) -> None:
    assert image.l1_size is not None
    offset = cluster * image.cluster_size
    _put(picture, offset, bytes(image.clusters(image.l1_size * 8) * image.cluster_size))
    for index in range(image.l1_size):
        picture.places[f"{prefix}l1[{index}]"] = Place(offset + index * 8, 64)
    for index, table in layer.items():
        only = not prefix and image.counts[table.cluster] == 1
        value = table.cluster << image.cluster_bits | COPIED * only
        picture.poke({f"{prefix}l1[{index}]": value})
        _write_table(image, picture, table, f"{prefix}l2[{index}]")


def _write_table(image: Qcow2, picture: Picture, table: Table, name: str) -> None:
    offset, width = table.cluster * image.cluster_size, 16 if image.extended else 8
    _put(picture, offset, bytes(image.cluster_size))
    active = any(table is other for other in image.l1.values())
    for index in range(image.per_l2):
        at = offset + index * width
        entry = table.entries.get(index, Entry(0))
        picture.places[f"{name}[{index}]"] = Place(at, 64)
        flag = active and entry.takes_flag and all(_alone(image, host) for host in entry.hosts)
        picture.poke({f"{name}[{index}]": entry.value | COPIED * flag})
        if image.extended:
            picture.places[f"{name}[{index}].subclusters"] = Place(at + 8, 64)
            picture.poke({f"{name}[{index}].subclusters": entry.subclusters})


def _alone(image: Qcow2, host: int) -> bool:
    return host < 0 or image.counts[host] == 1


def _write_snapshots(image: Qcow2, picture: Picture) -> int:
    start = image.next * image.cluster_size
    table = b""
    for index, frozen in enumerate(image.snapshots):
        table = _padded(table)
        picture.name(f"snapshot[{index}].", start + len(table), SNAPSHOT)
        table += _snapshot_entry(image, frozen)
    image.store(table)
    return start


def _snapshot_entry(image: Qcow2, frozen: Frozen) -> bytes:
    names = frozen.id_str, frozen.name
    parts = (
        _numbers((frozen.l1_cluster * image.cluster_size,)),
        _numbers((frozen.l1_size,), 4),
        _numbers((len(name) for name in names), 2),
        _numbers((1_600_000_000, 0), 4),
        _numbers((0,)),
        _numbers((frozen.vm_state_size, len(frozen.extra)), 4),
    )
    return b"".join((*parts, frozen.extra, *names))


def _write_bitmaps(image: Qcow2, picture: Picture) -> bytes:
    start = image.next * image.cluster_size
    directory = b""
    for index, dirty in enumerate(image.bitmaps):
        picture.name(f"bitmap[{index}].", start + len(directory), BITMAP)
        table = dirty.table_cluster * image.cluster_size
        for at in range(len(dirty.table)):
            picture.places[f"bitmap[{index}].table[{at}]"] = Place(table + at * 8, 64)
        directory += _padded(_bitmap_entry(image, dirty))
    image.store(directory)
    return _numbers((len(image.bitmaps), 0), 4) + _numbers((len(directory), start))


def _bitmap_entry(image: Qcow2, dirty: Dirty) -> bytes:
    parts = (
        _numbers((dirty.table_cluster * image.cluster_size,)),
        _numbers((len(dirty.table), dirty.flags), 4),
        bytes((1, dirty.granularity_bits)),
        _numbers((len(dirty.name),), 2),
        _numbers((len(dirty.extra),), 4),
    )
    return b"".join((*parts, dirty.extra, dirty.name))


def _write_header(
    image: Qcow2, picture: Picture, extensions: list[tuple[int, bytes]], snapshots_offset: int
) -> None:
    length = image.header_length if image.version >= 3 else V2_LENGTH
    area = b""
    for number, (magic, data) in enumerate(extensions):
        _name_extension(picture, length + len(area), magic, number)
        area += _numbers((magic, len(data)), 4) + _padded(data)
    area += bytes(8)
    _put(picture, 0, bytes(length) + area + image.backing)
    fields = HEADER if image.version >= 3 else HEADER[:13]
    picture.name("", 0, fields)
    values = {
        "magic": 0x514649FB,
        "version": image.version,
        "backing_file_offset": length + len(area) if image.backing else 0,
        "backing_file_size": len(image.backing),
        "cluster_bits": image.cluster_bits,
        "size": image.size,
        "crypt_method": image.crypt_method,
        "l1_size": image.l1_size or 0,
        "l1_table_offset": ACTIVE_L1 * image.cluster_size,
        "refcount_table_offset": REFTABLE * image.cluster_size,
        "refcount_table_clusters": 1,
        "nb_snapshots": len(image.snapshots),
        "snapshots_offset": snapshots_offset,
        "incompatible_features": image.incompatible,
        "compatible_features": image.compatible,
        "autoclear_features": image.autoclear,
        "refcount_order": image.refcount_order,
        "header_length": length,
        "compression_type": image.compression_type,
    }
    known = {name for name, _ in fields if length > 104 or name != "compression_type"}
    picture.poke({name: value for name, value in values.items() if name in known})


def _name_extension(picture: Picture, offset: int, magic: int, number: int) -> None:
    picture.name(f"extension[{number}].", offset, (("magic", 4), ("length", 4)))
    if magic == BITMAPS:
        fields = (("nb", 4), ("reserved", 4), ("directory_size", 8), ("directory_offset", 8))
        picture.name("bitmaps.", offset + 8, fields)
    if magic == ENCRYPTION:
        picture.name("encryption.", offset + 8, (("offset", 8), ("length", 8)))


def _put(picture: Picture, offset: int, content: bytes) -> None:
    picture.resize(max(len(picture.data), offset + len(content))).put(offset, content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def _numbers(values: Iterable[int], width: int = 8) -> bytes:
    return b"".join(value.to_bytes(width, "big") for value in values)


def deflate(head: bytes, length: int) -> bytes:
    """Return a raw deflate stream of *head* and its last byte repeated, *length* bytes in all.

    It is put together here because compressors differ from each other in what they write.
    """
    stream = b"\0" + len(head).to_bytes(2, "little") + (len(head) ^ 0xFFFF).to_bytes(2, "little")
    left = length - len(head)
    bits = "1" + "10"
    while left >= 258:
        bits, left = bits + "11000101" + "00000", left - 258
    while left:
        step = left if left <= 10 else min(10, left - 3)
        bits, left = bits + f"{step - 2:07b}" + "00000", left - step
    bits += "0000000"
    packed = int(bits[::-1], 2)
    return stream + head + packed.to_bytes(-(-len(bits) // 8), "little")
