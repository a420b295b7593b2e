"""Sections header, snapshots, bitmaps: fields by the names that edits take (format 2, 3, 7, 8)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qfix.dump.lines import NAME, heading, objects, remark
from qfix.image import printable
from qfix.layout import bitmaps as layout
from qfix.layout import extensions, header
from qfix.layout.bitmaps import BitmapEntry
from qfix.layout.extensions import BitmapsExtension, EncryptionPointer
from qfix.layout.snapshots import MAX_EXTRA, SnapshotEntry
from qfix.problems import bitmaps as problems
from qfix.report.header import MEANINGS, header_rows
from qfix.snapshots.space import spaces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.dump.lines import Wanted
    from qfix.image import Image
    from qfix.layout.bitmaps import Bitmap
    from qfix.layout.extensions import Extension
    from qfix.layout.record import Record
    from qfix.layout.snapshots import Snapshot
    from qfix.snapshots.space import Space

Row = tuple[str, dict[str, Any]]
DECODED = {extensions.BITMAPS: BitmapsExtension, extensions.ENCRYPTION: EncryptionPointer}
PREFIXES = {extensions.BITMAPS: "bitmaps", extensions.ENCRYPTION: "encryption"}
MOST_TEXT = 64
EXTRA = (("vm_state_size_64", 0, 8), ("disk_size", 8, 8), ("icount", 16, 8))
"""Fields of a snapshot's extra data: name, offset and width in bytes."""


def header_lines(wanted: Wanted) -> Iterator[str]:
    """Yield the fields of the header, the feature bits by name, and the extensions."""
    head, image = wanted.diagnosis.head, wanted.diagnosis.image
    columns = "name, file offset, bytes, value, meaning"
    yield from heading(wanted, "header", "the header's fields", columns)
    if head.header is None:
        yield from remark(wanted, f"there is no qcow2 header: this looks like {head.guess}")
        return
    rows = (
        _field("header", f"header.{row['name']}", row, MEANINGS.get(row["name"], ""))
        for row in header_rows(head)
    )
    yield from objects(wanted, rows)
    if image is None:
        yield from remark(wanted, "the rest can't be read by this header: qfix tells why")
        return
    yield from objects(wanted, _features(image))
    columns = "name, file offset, bytes of data, kind, content"
    yield from heading(wanted, "header", "header extensions", columns)
    yield from objects(wanted, _extensions(image))
    name = head.backing_name
    if name is not None:
        place = head.header.backing_file_offset
        row = {"name": "backing", "offset": place, "width": len(name), "text": printable(name)}
        meaning = "the name of the backing file"
        yield from objects(wanted, [_field("header", "backing", row, meaning)])


def _field(section: str, name: str, row: dict[str, Any], meaning: str = "") -> Row:
    """Return the line of a field: name, place, width, value, meaning."""
    text = f"{row['text']}  ({meaning})" if meaning else row["text"]
    line = f"{name:<{NAME}} {row['offset']:#14x}  {row['width']:>3}  {text}"
    told = {
        "section": section,
        "name": name,
        "file-offset": row["offset"],
        "width": row["width"],
        "value": row.get("value", row["text"]),
        "meaning": meaning,
    }
    return line, told


def _features(image: Image) -> Iterator[Row]:
    """Yield the feature bits that are set, by name."""
    for word, kind in enumerate(header.FEATURE_WORDS):
        bits = image.header.words[word]
        for bit in (number for number in range(64) if bits >> number & 1):
            name, text = f"{kind}:{bit}", image.feature_text(word, 1 << bit)
            told = {"section": "header", "name": name, "word": kind, "bit": bit, "meaning": text}
            yield f"{name:<{NAME}} {'set':>14}       {text}", told


def _extensions(image: Image) -> Iterator[Row]:
    for number, found in enumerate(image.area.extensions):
        name = f"extension[{number}]"
        content = _content(found)
        told = {
            "section": "header",
            "name": name,
            "file-offset": found.offset,
            "magic": found.magic,
            "length": len(found.data),
            "kind": found.name,
            "content": content,
        }
        line = f"{name:<{NAME}} {found.offset:#14x}  {len(found.data):>3}"
        yield f"{line}  {found.magic:#010x} {found.name}: {content}", told
        record = DECODED.get(found.magic)
        if record is not None and len(found.data) == record.codec.size:
            prefix, decoded = PREFIXES[found.magic], record.decode(found.data)
            yield from _record("header", prefix, decoded, found.offset + 8)
    if image.area.overrun is not None:
        place = image.area.overrun
        told = {"section": "header", "name": "extension", "file-offset": place, "kind": "overrun"}
        yield f"{'extension':<{NAME}} {place:#14x}    ?  <- does not fit into the header", told


def _content(found: Extension) -> str:
    """Return what an extension holds: its text, its names, or its first bytes in hex."""
    if found.magic == extensions.FEATURE_NAMES:
        names = extensions.feature_names(found.data)
        return ", ".join(
            f"{header.FEATURE_WORDS[word] if word < 3 else word}:{bit} {printable(text.encode())}"
            for (word, bit), text in names.items()
        )
    shown = printable(found.data[:MOST_TEXT], limit=4 * MOST_TEXT)
    if shown.isprintable() and "\\" not in shown:
        return shown + ("..." if len(found.data) > MOST_TEXT else "")
    return found.data[:MOST_TEXT].hex(" ", 4) + ("..." if len(found.data) > MOST_TEXT else "")


def _record(section: str, prefix: str, record: Record, offset: int) -> Iterator[Row]:
    """Yield the fields of a structure that stands at *offset*."""
    for place, value in zip(type(record).fields(), record, strict=True):
        row = {
            "offset": offset + place.offset,
            "width": place.width,
            "value": value,
            "text": format(value, place.display),
        }
        yield _field(section, f"{prefix}.{place.name}", row)


def snapshot_lines(wanted: Wanted) -> Iterator[str]:
    """Yield the fields of the entries of the snapshot table."""
    image = wanted.image
    found, end = image.snapshot_table
    place = image.header.snapshots_offset
    what = f"{len(found)} of {image.header.nb_snapshots} entries of the table at {place:#x}"
    yield from heading(wanted, "snapshots", what, "name, file offset, bytes, value")
    room = spaces(image, wanted.made) if wanted.diagnosis.recount and found else []
    for item in found:
        if wanted.layers is None or item.index + 1 in wanted.layers:
            yield from objects(wanted, _snapshot(item))
            yield from objects(wanted, [_room(item, room[item.index])] if room else [])
    if end.reason:
        yield from remark(wanted, f"the table can't be read further: {end.reason}")


def _snapshot(item: Snapshot) -> Iterator[Row]:
    name, size = f"snapshot[{item.index}]", SnapshotEntry.codec.size
    yield from _record("snapshots", name, item.entry, item.offset)
    start = item.offset + size
    for field, at, width in EXTRA:
        if len(item.extra) >= at + width:
            value = int.from_bytes(item.extra[at : at + width], "big")
            row = {"offset": start + at, "width": width, "value": value, "text": str(value)}
            yield _field("snapshots", f"{name}.{field}", row)
    start += item.entry.extra_data_size
    texts = (("id", item.id_str), ("name", item.name))
    for field, raw in texts:
        row = {"offset": start, "width": len(raw), "text": printable(raw, limit=MAX_EXTRA)}
        row["value"] = raw.decode("utf-8", "backslashreplace")
        yield _field("snapshots", f"{name}.{field}", row)
        start += len(raw)


def _room(item: Snapshot, room: Space) -> Row:
    """Return the line of the room that a snapshot takes."""
    name = f"snapshot[{item.index}]"
    told = {
        "section": "snapshots",
        "name": name,
        "held-bytes": room.held,
        "shared-bytes": room.shared,
        "written-since-bytes": room.written_since,
    }
    since = "" if room.written_since is None else f", {room.written_since} written since"
    line = f"{name:<{NAME}} {room.held} bytes only it holds, {room.shared} shared{since}"
    return line, told


def bitmap_lines(wanted: Wanted) -> Iterator[str]:
    """Yield the bitmap directory, and the used entries of each bitmap's table."""
    image = wanted.image
    extension, directory = image.bitmaps_extension, image.directory
    if extension is None or directory is None:
        yield from heading(wanted, "bitmaps", "there are none")
        return
    place = extension.bitmap_directory_offset
    what = f"{len(directory.bitmaps)} of {extension.nb_bitmaps} in the directory at {place:#x}"
    yield from heading(wanted, "bitmaps", what, "name, file offset, bytes, value")
    for item in directory.bitmaps:
        yield from objects(wanted, _bitmap(item))
        yield from objects(wanted, _bitmap_table(image, item))
    if directory.broken_at is not None:
        yield from remark(wanted, f"the directory can't be read from {directory.broken_at:#x} on")


def _bitmap(item: Bitmap) -> Iterator[Row]:
    name, entry = f"bitmap[{item.index}]", item.entry
    yield from _record("bitmaps", name, entry, item.offset)
    words = [
        word
        for bit, word in ((layout.IN_USE, "in use"), (layout.AUTO, "auto"))
        if entry.flags & bit
    ]
    start = item.offset + BitmapEntry.codec.size + entry.extra_data_size
    row = {"offset": start, "width": len(item.name), "text": printable(item.name)}
    row["value"] = item.name.decode("utf-8", "backslashreplace")
    yield _field("bitmaps", f"{name}.name", row, ", ".join(words))


def _bitmap_table(image: Image, item: Bitmap) -> Iterator[Row]:
    """Yield the entries of a bitmap's table that are not 0, each with what it leads to."""
    entry, problem = item.entry, problems.TABLE_ENTRY
    if not 0 < entry.bitmap_table_offset < image.geometry.file_length:
        return
    most = min(entry.bitmap_table_size, layout.MAX_TABLE_ENTRIES)
    words = image.table(entry.bitmap_table_offset, most, "a bitmap table")
    for at in words.nonzero()[0].tolist():
        value, place = int(words[at]), entry.bitmap_table_offset + 8 * at
        offset = value & layout.TABLE_OFFSET
        what = f"data at {offset:#x}" if offset else "all ones" if value & 1 else "nothing"
        wrong = value & layout.TABLE_RESERVED or (offset and value & 1)
        wrong = wrong or offset % image.geometry.cluster_size
        wrong = bool(wrong or offset >= image.geometry.file_length)
        name = f"bitmap[{item.index}].table[{at}]"
        told = {
            "section": "bitmaps",
            "name": name,
            "file-offset": place,
            "entry": value,
            "kind": what.split(" at ", maxsplit=1)[0],
            "host-offset": offset or None,
            "findings": [problem.code] if wrong else [],
        }
        mark = f"  <- {problem.code} {problem.name}" if wrong else ""
        yield f"{name:<{NAME}} {place:#14x}  {value:#18x}  {what}{mark}", told
