"""Names of what can be edited, as dump prints them: each one led to its place in the file."""

from __future__ import annotations

import re
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from qfix.edits.errors import EditError
from qfix.edits.places import Place, Text
from qfix.edits.values import Kind
from qfix.errors import UsageError
from qfix.layout import bitmaps, extensions, header, snapshots, tables
from qfix.layout.header import FEATURE_WORDS
from qfix.numbers import number

if TYPE_CHECKING:
    from collections.abc import Callable

    from qfix.edits.places import View
    from qfix.layout.bitmaps import Bitmap
    from qfix.layout.record import Field, Record
    from qfix.layout.snapshots import Snapshot

    Finder = Callable[..., Place | Text]
    """Is given a view and the indexes of a name; raises EditError where there is no such thing."""

INDEX = re.compile(r"\[([^\[\]]*)\]")
MOST_NAME = 100
MAX_STRING = (1 << 16) - 1


class Name(NamedTuple):
    """A name as given, its shape with empty brackets, and the numbers that stood in them."""

    text: str
    shape: str
    numbers: tuple[int, ...]


class L1(NamedTuple):
    """An L1 table: how entries of it and of the L2 tables behind it are named, and its place."""

    name: str
    offset: int
    entries: int


BY_OPTION = {
    "backing": "--backing or --no-backing",
    "extension": "--add-extension or --remove-extension",
    **dict.fromkeys(FEATURE_WORDS, "--set-feature or --clear-feature"),
}
"""What dump has a line for, and has an option of its own."""


def parse_name(text: str) -> Name:
    """Return the name that *text* is; raises UsageError where there is none of its shape."""
    shape = INDEX.sub("[]", text)
    if shape not in FINDERS:
        option = BY_OPTION.get(re.split(r"[\[:]", text)[0])
        how = f"{option} edits it" if option else _known(shape)
        raise UsageError(f"unknown name {text[:MOST_NAME]!r}; {how}")
    return Name(text, shape, tuple(number(part) for part in INDEX.findall(text)))


def find(view: View, name: Name) -> Place | Text:
    """Return the place of what a name stands for; raises EditError where there is none."""
    place = FINDERS[name.shape](view, *name.numbers)
    if isinstance(place, Place):
        return view.inside(place)
    if place.start >= view.source.size:
        raise EditError(f"it would be at {place.start:#x}, behind the end of the file")
    return place


def is_text(name: Name) -> bool:
    """Tell whether a name stands for a string."""
    return name.shape in TEXTS


def _known(shape: str) -> str:
    ends = [one for one in FINDERS if one.endswith(f".{shape}")]
    near = ends or get_close_matches(shape, FINDERS, n=4, cutoff=0.7)
    begin = shape.partition(".")[0] + "."
    begins = [one for one in FINDERS if one.startswith(begin)]
    if begins and not near:
        fields = ", ".join(one.removeprefix(begin) for one in begins)
        return f"behind {_pattern(begin)!r} there can be: {fields}"
    listed = near or list(dict.fromkeys(_group(one) for one in FINDERS))
    return f"{'near ones' if near else 'known'}: {', '.join(map(_pattern, listed))}"


def _group(shape: str) -> str:
    first, _, rest = shape.partition(".")
    plain = rest and "[" not in rest and not first.startswith("l2")
    return f"{first}.FIELD" if plain else shape


def _pattern(shape: str) -> str:
    """Return a shape with letters in its brackets."""
    letters = iter("nijk" if shape.startswith(("snapshot", "bitmap[")) else "ijk")
    return re.sub(r"\[\]", lambda _: f"[{next(letters)}]", shape)


def _refuse_beyond(name: str, index: int, count: int) -> None:
    """Raise EditError where there is no entry of that *index*."""
    if index >= count:
        known = f"{name}[0] to {name}[{count - 1}]" if count > 1 else f"only {name}[0]"
        raise EditError(
            f"this image has {known if count else f'no {name}[{index}], and none else'}"
        )


def _header(field: Field, view: View) -> Place:
    if field.name != "magic":
        version = view.header.version
        if field.offset >= header.V2_LENGTH and version < 3:
            raise EditError(f"a header of version {version} has no such field")
    return Place(field.offset, field.width * 8, display=field.display)


def _compression_type(view: View) -> Place:
    head = view.header
    if head.version < 3 or head.header_length <= header.V3_LENGTH:
        raise EditError(f"a header of {head.header_length} bytes has no such field")
    return Place(header.V3_LENGTH, 8, display="d")


def _active(view: View) -> L1:
    return L1("", view.header.l1_table_offset, view.header.l1_size)


def _snapshot_tables(view: View, which: int) -> L1:
    entry = _snapshot(view, which).entry
    return L1(f"snapshot[{which}].", entry.l1_table_offset, entry.l1_size)


def _l1(view: View, table: L1, index: int) -> Place:
    _refuse_beyond(f"{table.name}l1", index, table.entries)
    return view.inside(Place(table.offset + index * tables.ENTRY_SIZE, 64, kind=Kind.L1))


def _l2(view: View, table: L1, index: int, entry: int, *, bitmap: bool = False) -> Place:
    geometry = view.tables.geometry
    leads = f"{table.name}l1[{index}]"
    value = _l1(view, table, index).number(view.source)
    target = value & tables.OFFSET_MASK
    if not target:
        raise EditError(
            f"{leads} is {value:#x}: there is no L2 table, so it has no entries; to map a guest"
            f" range there set {leads} to a cluster that holds a table"
        )
    if target % geometry.cluster_size:
        raise EditError(
            f"{leads} leads to {target:#x}, where no L2 table can be (unaligned); set {leads} first"
        )
    _refuse_beyond(f"{table.name}l2[{index}]", entry, geometry.l2_entries)
    place = Place(target + entry * geometry.entry_size, 64)
    if bitmap and not geometry.extended:
        raise EditError("only images with extended L2 entries have subcluster bitmaps")
    if bitmap:
        return place._replace(offset=place.offset + tables.ENTRY_SIZE)
    return place._replace(kind=Kind.EXTENDED_L2 if geometry.extended else Kind.L2)


def _refcount_table(view: View, index: int) -> Place:
    head, size = view.header, view.tables.geometry.cluster_size
    _refuse_beyond("refcount_table", index, head.refcount_table_clusters * size // 8)
    return Place(head.refcount_table_offset + index * tables.ENTRY_SIZE, 64, kind=Kind.POINTER)


def _refcount(view: View, cluster: int) -> Place:
    geometry, head = view.tables.geometry, view.header
    if head.refcount_order > header.MAX_REFCOUNT_ORDER:
        raise EditError(f"header.refcount_order is {head.refcount_order}; set it first (0 to 6)")
    size, per = geometry.cluster_size, geometry.refcounts_per_block
    _refuse_beyond("refcount", cluster, head.refcount_table_clusters * size // 8 * per)
    block, index = divmod(cluster, per)
    leads = f"refcount_table[{block}]"
    value = view.inside(_refcount_table(view, block)).number(view.source)
    target = value & tables.REFTABLE_OFFSET_MASK
    if not target:
        raise EditError(f"{leads} is {value:#x}: there is no block that could hold this refcount")
    if target % size:
        raise EditError(f"{leads} leads to {target:#x}, where no block can be; set {leads} first")
    bits = 1 << geometry.refcount_order
    at, shift = divmod(index * bits, 8)
    return Place(target + at, bits, shift, display="d")


def _snapshot(view: View, which: int) -> Snapshot:
    found = view.tables.snapshots
    _refuse_beyond("snapshot", which, len(found))
    return found[which]


def _snapshot_field(field: Field, view: View, which: int) -> Place:
    offset = _snapshot(view, which).offset + field.offset
    return Place(offset, field.width * 8, display=field.display)


def _snapshot_extra(at: int, view: View, which: int) -> Place:
    item = _snapshot(view, which)
    if item.entry.extra_data_size < at + 8:
        raise EditError(f"its extra data ends before that ({item.entry.extra_data_size} bytes)")
    return Place(item.offset + snapshots.SnapshotEntry.codec.size + at, 64, display="d")


def _snapshot_text(field: str, view: View, which: int) -> Text:
    item = _snapshot(view, which)
    begin = item.offset + snapshots.SnapshotEntry.codec.size + item.entry.extra_data_size
    length = len(item.id_str) + len(item.name)
    room = begin - item.offset + length
    room = begin + length + -room % 8
    fields = {one.name: one.offset for one in snapshots.SnapshotEntry.fields()}
    if field == "id":
        at = item.offset + fields["id_str_size"]
        return Text(at, begin, item.id_str, item.name, room, MAX_STRING)
    begin += len(item.id_str)
    return Text(item.offset + fields["name_size"], begin, item.name, b"", room, MAX_STRING)


def _bitmap(view: View, which: int) -> Bitmap:
    directory = view.tables.directory
    if directory is None:
        raise EditError("there is no bitmap directory")
    _refuse_beyond("bitmap", which, len(directory.bitmaps))
    return directory.bitmaps[which]


def _bitmap_field(field: Field, view: View, which: int) -> Place:
    offset = _bitmap(view, which).offset + field.offset
    return Place(offset, field.width * 8, display=field.display)


def _bitmap_name(view: View, which: int) -> Text:
    item = _bitmap(view, which)
    fixed = bitmaps.BitmapEntry.codec.size + item.entry.extra_data_size
    room = fixed + len(item.name)
    at = {one.name: one.offset for one in bitmaps.BitmapEntry.fields()}["name_size"]
    start = item.offset + fixed
    end = item.offset + room + -room % 8
    return Text(item.offset + at, start, item.name, b"", end, bitmaps.MAX_NAME)


def _bitmap_table(view: View, which: int, index: int) -> Place:
    entry = _bitmap(view, which).entry
    _refuse_beyond(f"bitmap[{which}].table", index, entry.bitmap_table_size)
    return Place(entry.bitmap_table_offset + index * tables.ENTRY_SIZE, 64)


def _extension(magic: int, size: int, field: Field, view: View) -> Place:
    found = view.tables.area.find(magic)
    if found is None:
        raise EditError(f"there is no header extension {magic:#010x} ({extensions.NAMES[magic]})")
    if len(found.data) != size:
        raise EditError(f"the extension has {len(found.data)} bytes instead of {size}")
    offset = found.offset + extensions.HEAD + field.offset
    return Place(offset, field.width * 8, display=field.display)


def _of_record(
    prefix: str, record: type[Record], finder: Callable[..., Place]
) -> dict[str, Finder]:
    return {f"{prefix}.{field.name}": partial(finder, field) for field in record.fields()}


def _of_extension(prefix: str, magic: int, record: type[Record]) -> dict[str, Finder]:
    return _of_record(prefix, record, partial(_extension, magic, record.codec.size))


FINDERS: dict[str, Finder] = {
    **_of_record("header", header.Header, _header),
    "header.compression_type": _compression_type,
    "l1[]": lambda view, i: _l1(view, _active(view), i),
    "l2[][]": lambda view, i, j: _l2(view, _active(view), i, j),
    "l2[][].bitmap": lambda view, i, j: _l2(view, _active(view), i, j, bitmap=True),
    "refcount_table[]": _refcount_table,
    "refcount[]": _refcount,
    **_of_record("snapshot[]", snapshots.SnapshotEntry, _snapshot_field),
    "snapshot[].vm_state_size_64": partial(_snapshot_extra, 0),
    "snapshot[].disk_size": partial(_snapshot_extra, 8),
    "snapshot[].icount": partial(_snapshot_extra, 16),
    "snapshot[].id": partial(_snapshot_text, "id"),
    "snapshot[].name": partial(_snapshot_text, "name"),
    "snapshot[].l1[]": lambda view, n, i: _l1(view, _snapshot_tables(view, n), i),
    "snapshot[].l2[][]": lambda view, n, i, j: _l2(view, _snapshot_tables(view, n), i, j),
    "snapshot[].l2[][].bitmap": lambda view, n, i, j: _l2(
        view, _snapshot_tables(view, n), i, j, bitmap=True
    ),
    **_of_extension("bitmaps", extensions.BITMAPS, extensions.BitmapsExtension),
    **_of_record("bitmap[]", bitmaps.BitmapEntry, _bitmap_field),
    "bitmap[].name": _bitmap_name,
    "bitmap[].table[]": _bitmap_table,
    **_of_extension("encryption", extensions.ENCRYPTION, extensions.EncryptionPointer),
}
"""What can be edited by name: how each shape of a name is found."""
TEXTS = ("snapshot[].id", "snapshot[].name", "bitmap[].name")
ENTRIES = ("l1[", "l2[", "snapshot[].l1[", "snapshot[].l2[")
"""How the shapes begin of entries that a guest range and layers go with."""
