"""Values of an edit: how they are written on the command line, and shown beside the old ones."""

from __future__ import annotations

from enum import Enum

from qfix.edits.errors import EditError
from qfix.layout.tables import COMPRESSED, COPIED, ZERO
from qfix.numbers import number

NO_FLAGS = "none"
WORDS = {"copied": COPIED, "compressed": COMPRESSED, "zero": ZERO}


class Kind(Enum):
    """What a number is; the value names the flags that a table entry of its kind may have."""

    NUMBER = ()
    POINTER = ("refcount table",)
    L1 = ("L1", "copied")
    L2 = ("L2", "copied", "compressed", "zero")
    EXTENDED_L2 = ("extended L2", "copied", "compressed")

    @property
    def is_entry(self) -> bool:
        """Whether it is a table entry, which flags can be said of."""
        return self is not Kind.NUMBER

    @property
    def words(self) -> tuple[str, ...]:
        """The words for its flags."""
        words: tuple[str, ...] = self.value[1:]
        return words

    def flags(self, entry: int) -> int:
        """Return the flag bits that an entry of this kind may have set.

        Bit 0 of a compressed entry belongs to its descriptor (format 5.3).
        """
        mask = sum(WORDS[word] for word in self.words)
        packed = COMPRESSED & mask and entry & COMPRESSED
        return mask & ~ZERO if packed else mask


def spelled(kind: Kind, value: int, display: str = "#x") -> str:
    """Return a value as it can be written again: a table entry as VALUE:FLAGS."""
    if not kind.words or not value:
        return format(value, display)
    flags = kind.flags(value)
    words = [word for word in kind.words if WORDS[word] & flags & value]
    return f"{value & ~flags:#x}:{'+'.join(words) or NO_FLAGS}"


def meant(kind: Kind, text: str, old: int) -> int:
    """Return the value that *text* gives to something that is *old* now.

    Raises UsageError where it is no number, EditError where it does not say what is meant.
    """
    digits, colon, words = text.partition(":")
    if colon and not kind.is_entry:
        raise EditError(f"{text!r}: only table entries have flags")
    value = number(digits)
    if colon:
        return _with_flags(kind, value, words)
    if not value or value & kind.flags(value):
        return value
    if kind.words and old & kind.flags(old) & COMPRESSED:
        raise EditError(
            f"the entry is compressed ({spelled(kind, old)}), so that a bare offset may mean two"
            f" things: say the flags too, as {text}:none, {text}:copied or {text}:compressed"
        )
    return value | old & kind.flags(old)


def _with_flags(kind: Kind, value: int, words: str) -> int:
    chosen = [] if words == NO_FLAGS else words.split("+")
    unknown = [word for word in chosen if word not in kind.words]
    if unknown:
        known = ", ".join((*kind.words, NO_FLAGS))
        raise EditError(f"{unknown[0]!r} is no flag of an {kind.value[0]} entry; known: {known}")
    mask = sum({WORDS[word] for word in chosen})
    if mask & COMPRESSED and mask & ZERO:
        raise EditError("a compressed entry has no zero flag")
    carried = value & kind.flags(mask) & ~mask
    if carried:
        raise EditError(f"{value:#x} carries flag bits itself that {words!r} leaves out")
    return value | mask


def agrees(kind: Kind, text: str, old: int) -> bool:
    """Tell whether *old* is what *text* says; an offset without flags says nothing of flags."""
    if ":" in text:
        return meant(kind, text, 0) == old
    value = number(text)
    if value == old:
        return True
    bare = value and not value & kind.flags(value)
    return bool(bare and value == old & ~kind.flags(old))
