"""The plan of an edit: each part of it laid over the image in its order, and noted."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from qfix.change.draft import Change, Left
from qfix.edits.area import CODE, lay_out
from qfix.edits.belongs import belongs
from qfix.edits.errors import EditError
from qfix.edits.names import ENTRIES, find, parse_name
from qfix.edits.places import Place, Text, view_of
from qfix.edits.values import agrees, meant, spelled
from qfix.errors import RefusedError, UsageError
from qfix.image import printable
from qfix.layout.header import FEATURE_NAMES, FEATURE_WORDS
from qfix.numbers import number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.change.draft import Draft
    from qfix.edits.wanted import Feature, Poke, Setting, Wanted

UNKNOWN = "the image can't be checked, so nobody knows what they belong to"


def plan_edit(draft: Draft, wanted: Wanted) -> None:
    """Lay an edit over the image, and look at it; raises RefusedError where a part can't be made.

    A name means what it does after the parts before it.
    """
    if wanted.poke is not None:
        with _told(draft, f"-O {wanted.poke.offset:#x}"):
            _poke(draft, wanted.poke)
    for setting in wanted.settings:
        with _told(draft, setting.name.text):
            _set(draft, setting)
    for feature in wanted.features:
        with _told(draft, _bit(feature)):
            _feature(draft, feature)
    if wanted.lays_out:
        with _told(draft, "the header's cluster"):
            lay_out(draft, view_of(draft.overlay), wanted)
    if draft.overlay.is_changed:
        draft.examine()
    else:
        draft.changes.clear()  # something was set and set back


@contextmanager
def _told(draft: Draft, what: str) -> Iterator[None]:
    """Add to what is wrong with a part of the edit which one it is, and of which image."""
    try:
        yield
    except (EditError, UsageError) as error:
        message = f"{draft.overlay.path}: {what}: {error}; nothing was changed"
        raise RefusedError(message) from error


def _poke(draft: Draft, poke: Poke) -> None:
    source = draft.overlay
    if poke.offset + poke.width > source.size:
        raise EditError(
            f"that reaches behind the end of the file ({source.size:#x}); an edit makes no file"
            " longer"
        )
    place = Place(poke.offset, 8 * poke.width)
    text = f"{poke.width} byte{'s' if poke.width > 1 else ''}: "
    text += belongs(draft.before, poke.offset, poke.width) or UNKNOWN
    old = place.number(source)
    if poke.expect is not None and number(poke.expect) != old:
        raise EditError(f"it is {old:#x} now, not {poke.expect}")
    _store(draft, place, poke.value, text, f"-O {poke.offset:#x}")


def _set(draft: Draft, setting: Setting) -> None:
    view = view_of(draft.overlay)
    place = find(view, setting.name)
    if isinstance(place, Text):
        _set_text(draft, setting, place)
        return
    old = place.number(draft.overlay)
    shown = spelled(place.kind, old, place.display)
    if setting.expect is not None and not agrees(place.kind, setting.expect, old):
        raise EditError(f"it is {shown} now, not {setting.expect}")
    text = setting.name.text
    owner = ""
    if setting.name.shape.startswith(ENTRIES):
        owner = belongs(draft.before, place.offset, place.width, tables_only=True)
    text += f": {owner}" if owner else ""
    _store(draft, place, meant(place.kind, setting.value, old), text, setting.name.text)


def _store(draft: Draft, place: Place, value: int, text: str, what: str) -> None:
    """Plan *value* in a place, and note it; where it is there already, say so."""
    old = place.number(draft.overlay)
    raw = place.encoded(draft.overlay, value)
    was, new = (spelled(place.kind, one, place.display) for one in (old, value))
    if value == old:
        draft.leave(what, Left((), f"{what} is {was} already"))
        return
    draft.write(place.offset, raw)
    draft.note(Change(CODE, text, place.offset, 1, was, new))


def _set_text(draft: Draft, setting: Setting, place: Text) -> None:
    new = _encoded(setting.value)
    what, old = setting.name.text, printable(place.old)
    if setting.expect is not None and _encoded(setting.expect) != place.old:
        raise EditError(f"it is {old!r} now, not {setting.expect!r}")
    room = min(place.room - place.start - len(place.tail), place.most)
    if len(new) > room:
        raise EditError(
            f"{printable(new)!r} has {len(new)} bytes, and there is room for {room} where the"
            f" {len(place.old)} of {old!r} are"
        )
    if new == place.old:
        draft.leave(what, Left((), f"{what} is {old} already"))
        return
    draft.write(place.length_at, len(new).to_bytes(2, "big"))
    draft.write(place.start, (new + place.tail).ljust(place.room - place.start, b"\0"))
    draft.note(Change(CODE, what, place.start, 1, old, printable(new)))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _bit(feature: Feature) -> str:
    return f"{FEATURE_WORDS[feature.word]}:{feature.bit}"


def _feature(draft: Draft, feature: Feature) -> None:
    view = view_of(draft.overlay)
    place = find(view, parse_name(f"header.{feature.field}"))
    assert isinstance(place, Place)  # noqa: S101  (no field of the header is a string)
    old, bit = place.number(draft.overlay), 1 << feature.bit
    did = "set" if feature.on else "cleared"
    name = FEATURE_NAMES.get((feature.word, feature.bit), "unknown")
    text = f"feature bit {_bit(feature)} ({name}) is {did}"
    if bool(old & bit) is feature.on:
        draft.leave(text, Left((), f"{text} already"))
        return
    _store(draft, place, old ^ bit, text, text)
