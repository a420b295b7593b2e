"""The header's cluster laid out anew: extensions added and removed, another backing file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qfix.change.draft import Change, Left
from qfix.edits.errors import EditError
from qfix.edits.wanted import INDEXES
from qfix.image import printable
from qfix.layout import extensions
from qfix.layout.extensions import HEAD, Extension, encode_extension
from qfix.layout.header import MAX_BACKING_FORMAT, V2_LENGTH, V3_LENGTH, Header

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qfix.change.draft import Draft
    from qfix.edits.places import View
    from qfix.edits.wanted import Backing, Wanted

CODE = "edit"
MOST_SHOWN = 60
FIELDS = {field.name: field for field in Header.fields()}
BEHIND = "backing_file_offset", "backing_file_size"


def lay_out(draft: Draft, view: View, wanted: Wanted) -> None:
    """Plan a header cluster as *wanted*: extensions, their end marker, the backing file's name.

    The header itself stays, also what is not known of it, and so do the other extensions, byte for
    byte and in their order (format 3). Raises EditError where that does not go or does not fit.
    """
    start = _start(view)
    old = view.tables.area.extensions
    was = _name(view, wanted.backing)
    kept = _without(old, wanted.removed)
    items = [(item.magic, item.data) for item in kept]
    name = was if wanted.backing is None else wanted.backing.name
    if wanted.backing is not None:
        items = _with_format(items, wanted.backing)
    items += wanted.added
    _refuse_doubled(items, [magic for magic, _ in wanted.added])
    body = b"".join(encode_extension(*item) for item in items) + bytes(HEAD)
    _refuse_too_long(view, start + len(body) + len(name))
    _write(draft, view, start, body + name)
    offset = start + len(body) if name else 0
    for field, value in zip(BEHIND, (offset, len(name)), strict=True):
        if name or view.header.backing_file_offset:
            place = FIELDS[field]
            draft.write(place.offset, value.to_bytes(place.width, "big"))
    for change in _changes(old, items, (was, name), start):
        draft.note(change)
    if wanted.backing and was == name and _format(old) == _format_of(items):
        draft.leave("backing", Left((), f"the backing file is {_shown(name) or 'none'} already"))


def _start(view: View) -> int:
    """Return where the extensions begin; raises EditError where what is there can't be read."""
    image, head = view.tables, view.header
    size = image.geometry.cluster_size
    start = V2_LENGTH if head.version < 3 else head.header_length
    if head.version >= 3 and not V3_LENGTH <= start <= size:
        raise EditError(f"header.header_length is {start}; set it first (112, in older images 104)")
    if head.backing_file_offset and head.backing_file_offset < start:
        raise EditError(
            f"header.backing_file_offset is {head.backing_file_offset:#x}, inside the header, so"
            " the extensions can't be read; set it first"
        )
    if image.area.overrun is not None:
        raise EditError(
            f"the header extensions can't be read from {image.area.overrun:#x} on, and would be"
            " lost; mend that first (qfix -m error says what is wrong there)"
        )
    return start


def _name(view: View, wanted: Backing | None) -> bytes:
    """Return the present name of the backing file, b"" if there is none."""
    if not view.header.backing_file_offset:
        return b""
    name = view.head.backing_name
    if name is None and view.header.backing_file_size and wanted is None:
        raise EditError(
            "the name of the backing file is not inside the header's cluster, and would be lost;"
            " give it with --backing, or say --no-backing"
        )
    return name or b""


def _without(items: Sequence[Extension], removed: Sequence[int]) -> list[Extension]:
    """Return the extensions that stay; indexes are those before anything is removed."""
    gone: set[int] = set()
    for which in removed:
        if which < INDEXES:
            if which >= len(items):
                known = f"0 to {len(items) - 1}" if items else "none at all"
                raise EditError(f"there is no header extension {which}; there are {known}")
            gone.add(which)
            continue
        found = [index for index, item in enumerate(items) if item.magic == which]
        if not found:
            listed = ", ".join(f"{i} {item.magic:#010x}" for i, item in enumerate(items))
            raise EditError(
                f"there is no header extension {which:#010x}; there are {listed or 'none'}"
            )
        if len(found) > 1:
            several = ", ".join(map(str, found))
            raise EditError(f"{which:#010x} is there several times: give its index ({several})")
        gone.update(found)
    return [item for index, item in enumerate(items) if index not in gone]


def _with_format(items: list[tuple[int, bytes]], backing: Backing) -> list[tuple[int, bytes]]:
    """Return the extensions with the format of a backing file; without one it stays."""
    present = [data for magic, data in items if magic == extensions.BACKING_FORMAT]
    if backing.name and not backing.format:
        if not present:
            raise EditError(
                "the image names no backing format that could stay, and QEMU would have to guess:"
                " say it, as in --backing FILE:raw or FILE:qcow2"
            )
        return items
    others = [item for item in items if item[0] != extensions.BACKING_FORMAT]
    if not backing.name:
        return others
    return [(extensions.BACKING_FORMAT, backing.format), *others]


def _refuse_doubled(items: list[tuple[int, bytes]], added: list[int]) -> None:
    magics = [magic for magic, _ in items]
    for magic in added:
        if magic in extensions.NAMES and magics.count(magic) > 1:
            name = extensions.NAMES[magic]
            raise EditError(
                f"there is a header extension {magic:#010x} ({name}) already; remove it in the same"
                f" change (--remove-extension {magic:#010x})"
            )
    for magic, data in items:
        if magic == extensions.BACKING_FORMAT and magic in added and len(data) > MAX_BACKING_FORMAT:
            raise EditError(f"a backing format has at most {MAX_BACKING_FORMAT} bytes")


def _refuse_too_long(view: View, length: int) -> None:
    size = view.tables.geometry.cluster_size
    if length > size:
        raise EditError(
            f"that does not fit: header, extensions and backing file name would take {length}"
            f" bytes, {length - size} more than the header's cluster has"
        )


def _write(draft: Draft, view: View, start: int, content: bytes) -> None:
    """Plan the bytes behind the header; what stood behind them before is cleared."""
    head = view.header
    end = view.tables.area.end
    if head.backing_file_offset:
        end = max(end, head.backing_file_offset + min(head.backing_file_size, 1 << 10))
    end = min(end, view.tables.geometry.cluster_size)
    content = content.ljust(max(0, end - start), b"\0")
    if draft.overlay.fixed and start + len(content) > view.source.size:
        raise EditError("that does not fit on the device")
    draft.overlay.grow(start + len(content))
    draft.write(start, content)


def _changes(
    old: Sequence[Extension],
    new: list[tuple[int, bytes]],
    names: tuple[bytes, bytes],
    start: int,
) -> Iterator[Change]:
    """Yield what is another, in words."""
    left = list(old)
    position = start
    fresh: list[tuple[int, int, bytes]] = []
    moved: list[tuple[int, int]] = []
    for magic, data in new:
        same = next((item for item in left if (item.magic, item.data) == (magic, data)), None)
        if same is None:
            fresh.append((position, magic, data))
        else:
            left.remove(same)
            moved += [(same.offset, position)] if same.offset != position else []
        position += len(encode_extension(magic, data))
    for at, magic, data in fresh:
        former = next((item for item in left if item.magic == magic), None)
        if former is None:
            yield Change(CODE, f"{_title(magic)} added", at, 1, "", _shown(data))
        else:
            left.remove(former)
            yield Change(CODE, _title(magic), at, 1, _shown(former.data), _shown(data))
    for item in left:
        text = f"{_title(item.magic)} removed"
        yield Change(CODE, text, item.offset, 1, _shown(item.data), "")
    if moved:
        text = "1 other header extension moves"
        if len(moved) > 1:
            text = f"{len(moved)} other header extensions move"
        before, after = moved[0]
        yield Change(CODE, text, after, 1, f"from {before:#x} on", f"from {after:#x} on")
    if names[0] != names[1]:
        shown = [_shown(name) or "none" for name in names]
        yield Change(CODE, "name of the backing file", position + HEAD, 1, shown[0], shown[1])


def _title(magic: int) -> str:
    return f"header extension {magic:#010x} ({extensions.NAMES.get(magic, 'unknown')})"


def _shown(data: bytes) -> str:
    """Return data as text where it is that, otherwise its length."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "\0"
    if len(data) > MOST_SHOWN and not text.isprintable():
        return f"{len(data)} bytes"
    return printable(data, 1024) if text.isprintable() else f"{len(data)} bytes: {data.hex()}"


def _format(items: Sequence[Extension]) -> list[bytes]:
    return [item.data for item in items if item.magic == extensions.BACKING_FORMAT]


def _format_of(items: list[tuple[int, bytes]]) -> list[bytes]:
    return [data for magic, data in items if magic == extensions.BACKING_FORMAT]
