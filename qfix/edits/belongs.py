"""What the bytes at a host offset belong to, in words: structure, entry, guest range, layer."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from qfix.layout import bitmaps, extensions, header, snapshots
from qfix.layout.tables import ENTRY_SIZE
from qfix.recount.batches import read_batches
from qfix.recount.entries import decode
from qfix.recount.sharing import users_of
from qfix.recount.tally import COMPRESSED, DATA, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qfix.examine import Diagnosis
    from qfix.image import Image
    from qfix.layout.record import Field, Record
    from qfix.recount import Recount

MOST_OWNERS = 4
MOST_LAYERS = 8


def belongs(diagnosis: Diagnosis, offset: int, width: int, *, tables_only: bool = False) -> str:
    """Return what *width* bytes at *offset* belong to; all owners where there are several.

    With *tables_only* guest data that damaged entries lead to the same bytes is left out.
    Returns "" where that can't be told: then the image can't be checked.
    """
    image, made = diagnosis.image, diagnosis.recount
    head = diagnosis.head.header
    if image is None or made is None:
        if head is not None and offset + width <= header.FULL_LENGTH:
            return ", ".join(_fields("header field", header.Header, offset, width))
        return ""
    size = image.geometry.cluster_size
    told: list[str] = []
    while width > 0:
        inside = min(width, size - offset % size)
        owners = _owners(image, made, offset, inside, tables_only=tables_only)
        told += islice(owners, MOST_OWNERS)
        offset, width = offset + inside, width - inside
    return " and ".join(dict.fromkeys(told))


def _owners(
    image: Image, made: Recount, offset: int, width: int, *, tables_only: bool
) -> Iterator[str]:
    """Yield the owners of bytes of one host cluster; what is nobody's as that."""
    first, count, kind, which = made.tally.extents()
    cluster = offset >> image.geometry.cluster_bits
    rows = np.flatnonzero((first <= cluster) & (cluster < first + count))
    for row in rows.tolist():
        yield WORDS[Kind(int(kind[row]))](image, made, offset, width, int(which[row]))
    owners = int(made.tally.owners[cluster]) if cluster < made.tally.owners.size else 0
    if owners & (DATA | COMPRESSED) and not (tables_only and rows.size):
        yield from _data(image, made, offset, width)
    elif not rows.size:
        yield _nobody(made, cluster)


def _nobody(made: Recount, cluster: int) -> str:
    value, readable = made.stored.lookup(np.array([cluster]))
    if not readable[0]:
        return f"nothing leads to host cluster {cluster}, and its refcount can't be read"
    refcount = int(value[0])
    if not refcount:
        return f"free: nothing leads to host cluster {cluster}, and its refcount is 0"
    return f"leaked: nothing leads to host cluster {cluster}, but its refcount is {refcount}"


def layer_words(layer: int) -> str:
    """Return a layer as it is told: the active layer, or a snapshot by its index."""
    return f"snapshot[{layer - 1}]" if layer else "active layer"


def _units(offset: int, width: int, base: int, unit: int) -> tuple[int, int]:
    return (offset - base) // unit, (offset + width - 1 - base) // unit


def _numbered(name: str, names: str, first: int, last: int) -> str:
    return f"{name} {first}" if first == last else f"{names} {first} to {last}"


def _entries(offset: int, width: int, base: int, unit: int = ENTRY_SIZE) -> str:
    return _numbered("entry", "entries", *_units(offset, width, base, unit))


def _fields(what: str, record: type[Record], offset: int, width: int) -> Iterator[str]:
    """Yield the fields of a record at 0 that the bytes reach into."""
    fields: Iterator[Field] = record.fields()
    for field in fields:
        if field.offset < offset + width and offset < field.offset + field.width:
            yield f"{what} {field.name}"


def _header(image: Image, _made: Recount, offset: int, width: int, _which: int) -> str:
    head, area = image.header, image.area
    length = header.V2_LENGTH if head.version < 3 else head.header_length
    told: list[str] = []
    if offset < length:
        told += _fields("header field", header.Header, offset, min(width, length - offset))
        if offset <= header.V3_LENGTH < min(offset + width, length):
            told.append("header field compression_type")
        if not told:
            told.append("padding of the header")
    for index, item in enumerate(area.extensions):
        end = item.offset + len(extensions.encode_extension(item.magic, item.data))
        if item.offset < offset + width and offset < end:
            at = max(0, offset - item.offset - extensions.HEAD)
            part = "magic and length" if offset < item.offset + extensions.HEAD else f"byte {at}"
            told.append(f"header extension {index}, {item.magic:#010x} ({item.name}), {part}")
            known = EXTENSIONS.get(item.magic)
            if known and offset >= item.offset + extensions.HEAD:
                told += _fields("field", known, at, width)
    begin, end = head.backing_file_offset, head.backing_file_offset + head.backing_file_size
    if begin and begin < offset + width and offset < end:
        told.append("name of the backing file")
    return ", ".join(told) or "the header's cluster, where nothing stands"


EXTENSIONS: dict[int, type[Record]] = {
    extensions.BITMAPS: extensions.BitmapsExtension,
    extensions.ENCRYPTION: extensions.EncryptionPointer,
}


def _l1_table(image: Image, _made: Recount, offset: int, width: int, layer: int) -> str:
    head = image.header
    base, size = head.l1_table_offset, head.l1_size
    if layer:
        entry = image.snapshots[layer - 1].entry
        base, size = entry.l1_table_offset, entry.l1_size
    whose = f"L1 table of {layer_words(layer) if layer else 'the active layer'}"
    first, last = _units(offset, width, base, ENTRY_SIZE)
    if first >= size:
        return f"the cluster of the {whose}, behind its {size} entries"
    reach = image.geometry.bytes_per_l1_entry
    entries = _numbered("entry", "entries", first, last)
    return f"{whose}, {entries}, guest {first * reach:#x} to {(last + 1) * reach - 1:#x}"


def _l2_table(image: Image, made: Recount, offset: int, width: int, table: int) -> str:
    geometry = image.geometry
    first, last = _units(offset, width, table, geometry.entry_size)
    users, total = users_of(made.entries, np.array([table]), MOST_LAYERS).get(table, ((), 0))
    entry = _numbered("entry", "entries", first, last)
    if geometry.extended and (offset - table) % geometry.entry_size >= ENTRY_SIZE:
        entry += " (subcluster bitmap)"
    places: dict[int, list[str]] = {}
    for layer, index in users:
        places.setdefault(index, []).append(layer_words(layer))
    told = [
        f"L2 table {index}, {entry}, guest"
        f" {_guest(image, index * geometry.bytes_per_l1_entry + first * geometry.cluster_size)}"
        f" ({', '.join(layers)}{', and more' if total > len(users) else ''})"
        for index, layers in places.items()
    ]
    return " and ".join(told) or f"the L2 table at {table:#x}, {entry}"


def _guest(image: Image, offset: int) -> str:
    behind = offset >= image.geometry.needed_l1_entries * image.geometry.bytes_per_l1_entry
    return f"{offset:#x}{', VM state' if behind else ''}"


def _refcount_table(image: Image, _made: Recount, offset: int, width: int, _which: int) -> str:
    return f"refcount table, {_entries(offset, width, image.header.refcount_table_offset)}"


def _refcount_block(image: Image, made: Recount, offset: int, width: int, block: int) -> str:
    geometry = image.geometry
    base = int(made.reftable.offset[block])
    bits = 1 << geometry.refcount_order
    first = (offset - base) * 8 // bits + block * geometry.refcounts_per_block
    last = ((offset + width - base) * 8 - 1) // bits + block * geometry.refcounts_per_block
    of = _numbered("refcount of cluster", "refcounts of clusters", first, last)
    return f"refcount block {block}, {of}"


def _snapshot_table(image: Image, _made: Recount, offset: int, width: int, _which: int) -> str:
    fixed = snapshots.SnapshotEntry.codec.size
    for item in image.snapshots:
        begin, entry = item.offset, item.entry
        extra = begin + fixed
        id_str = extra + entry.extra_data_size
        name = id_str + entry.id_str_size
        end = name + entry.name_size
        if begin <= offset < end + -(end - begin) % 8:
            where = f"snapshot table, entry {item.index}"
            if offset < extra:
                names = ", ".join(_fields("field", snapshots.SnapshotEntry, offset - begin, width))
                return f"{where}, {names}"
            parts = ((id_str, "extra data"), (name, "id"), (end, "name"))
            part = next((words for at, words in parts if offset < at), "padding")
            if part == "extra data" and offset - extra < 24:
                part = ("vm_state_size_64", "disk_size", "icount")[(offset - extra) // 8]
            return f"{where}, {part}"
    return "the snapshot table's cluster, where no entry stands"


def _encryption(image: Image, _made: Recount, offset: int, _width: int, _which: int) -> str:
    pointer = image.encryption
    at = offset - pointer.offset if pointer else offset
    return f"encryption header (LUKS), byte {at}"


def _directory(image: Image, _made: Recount, offset: int, width: int, _which: int) -> str:
    directory = image.directory
    for item in directory.bitmaps if directory else ():
        name = item.offset + bitmaps.BitmapEntry.codec.size + item.entry.extra_data_size
        end = name + len(item.name)
        if item.offset <= offset < end + -(end - item.offset) % 8:
            where = f"bitmap directory, entry {item.index}"
            fields = list(_fields("field", bitmaps.BitmapEntry, offset - item.offset, width))
            return f"{where}, {', '.join(fields) or ('name' if offset >= name else 'extra data')}"
    return "the bitmap directory's cluster, where no entry stands"


def _bitmap_table(image: Image, _made: Recount, offset: int, width: int, which: int) -> str:
    directory = image.directory
    if directory is None:
        return f"table of bitmap[{which}]"
    base = directory.bitmaps[which].entry.bitmap_table_offset
    return f"table of bitmap[{which}], {_entries(offset, width, base)}"


def _bitmap_data(_image: Image, _made: Recount, _offset: int, _width: int, which: int) -> str:
    return f"data of bitmap[{which}]"


WORDS: dict[Kind, Callable[[Image, Recount, int, int, int], str]] = {
    Kind.HEADER: _header,
    Kind.L1_TABLE: _l1_table,
    Kind.L2_TABLE: _l2_table,
    Kind.REFCOUNT_TABLE: _refcount_table,
    Kind.REFCOUNT_BLOCK: _refcount_block,
    Kind.SNAPSHOT_TABLE: _snapshot_table,
    Kind.ENCRYPTION_HEADER: _encryption,
    Kind.BITMAP_DIRECTORY: _directory,
    Kind.BITMAP_TABLE: _bitmap_table,
    Kind.BITMAP_DATA: _bitmap_data,
}


def _data(image: Image, made: Recount, offset: int, width: int) -> Iterator[str]:
    """Yield the guest ranges whose entries lead to the bytes; reads every L2 table once more."""
    geometry = image.geometry
    size, reach = geometry.cluster_size, geometry.bytes_per_l1_entry
    for batch in read_batches(image, made.tables):
        found = decode(image, batch)
        if geometry.data_file:
            return
        meets = (found.offset < offset + width) & (offset < found.offset + found.length)
        for at in np.flatnonzero(meets & (found.compressed | found.standard)).tolist():
            table = int(batch.tables.offset[found.row[at]])
            users, _ = users_of(made.entries, np.array([table]), MOST_LAYERS)[table]
            places: dict[int, list[str]] = {}
            for layer, index in users:
                places.setdefault(index, []).append(layer_words(layer))
            packed = bool(found.compressed[at])
            inside = 0 if packed else offset - int(found.offset[at])
            for index, layers in places.items():
                guest = index * reach + int(found.index[at]) * size + inside
                what = "compressed data" if packed else "data"
                yield f"{what} of guest {_guest(image, guest)} ({', '.join(layers)})"
