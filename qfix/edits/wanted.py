"""What an edit asks for, read from the words of the command line before any image is opened."""

from __future__ import annotations

from typing import NamedTuple

from qfix.edits.names import Name, parse_name
from qfix.errors import QfixError, ReadError, UsageError
from qfix.file import open_file
from qfix.layout import extensions
from qfix.layout.header import FEATURE_WORDS, MAX_BACKING_NAME, MAX_CLUSTER_BITS
from qfix.numbers import number

WIDTHS = (1, 2, 4, 8)
FORMATS = (
    *("raw", "qcow2", "qcow", "qed", "vmdk", "vdi", "vpc", "vhdx"),
    *("parallels", "luks", "bochs", "cloop", "dmg"),
)
"""The formats that QEMU knows; what stands behind the last colon of --backing is one of them, or it
belongs to the name."""
KINDS = {name.replace(" ", "-"): magic for magic, name in extensions.NAMES.items()}
INDEXES = 1 << 16
"""Smaller numbers are the index of an extension, larger ones its magic."""
MOST_DATA = 1 << MAX_CLUSTER_BITS


class Poke(NamedTuple):
    """A number to store at an offset."""

    offset: int
    value: int
    width: int
    expect: str | None = None


class Setting(NamedTuple):
    """A value for something by its name."""

    name: Name
    value: str
    expect: str | None = None


class Feature(NamedTuple):
    """A bit of a feature word to set or to clear."""

    word: int
    bit: int
    on: bool

    @property
    def field(self) -> str:
        """The field of the header."""
        return f"{FEATURE_WORDS[self.word]}_features"


class Backing(NamedTuple):
    """A backing file: no name for none, and no format to keep the one that is named."""

    name: bytes
    format: bytes = b""


class Wanted(NamedTuple):
    """All that one edit changes, in the order in which it is done."""

    poke: Poke | None = None
    settings: tuple[Setting, ...] = ()
    features: tuple[Feature, ...] = ()
    removed: tuple[int, ...] = ()
    added: tuple[tuple[int, bytes], ...] = ()
    backing: Backing | None = None

    @property
    def lays_out(self) -> bool:
        """Whether the header's cluster has to be laid out anew."""
        return bool(self.removed or self.added or self.backing)


def poke_of(
    offset: int | None, value: int | None, width: int | None, expect: tuple[str, ...]
) -> Poke | None:
    """Return the edit by offset, None if there is none; raises UsageError."""
    if offset is None:
        for option, given in (("-V", value), ("-w", width)):
            if given is not None:
                raise UsageError(f"{option} belongs to -O OFFSET; a name takes --set NAME=VALUE")
        return None
    if value is None:
        raise UsageError("-O says where to write, -V VALUE what; that is missing")
    width = 8 if width is None else width
    if width not in WIDTHS:
        raise UsageError(f"-w {width}: a number to edit has 1, 2, 4 or 8 bytes")
    if value >> 8 * width:
        raise UsageError(f"-V {value:#x} does not fit into what -w {width} takes")
    if len(expect) > 1:
        raise UsageError(f"--expect is given {len(expect)} times for one edit")
    if expect:
        number(expect[0])
    return Poke(offset, value, width, *expect)


def settings_of(sets: tuple[str, ...], expect: tuple[str, ...]) -> tuple[Setting, ...]:
    """Return the edits by name; raises UsageError where one can't be read, or --expect is short."""
    if expect and len(expect) != len(sets):
        raise UsageError(
            f"--expect is given {len(expect)} times, --set {len(sets)} times: it takes one for each"
            " --set, in the same order"
        )
    found: list[Setting] = []
    for at, text in enumerate(sets):
        name, sign, value = text.partition("=")
        if not sign:
            raise UsageError(f"--set {text!r}: it takes NAME=VALUE, such as 'l1[3]=0x50000'")
        found.append(Setting(parse_name(name.strip()), value, *expect[at : at + 1]))
    return tuple(found)


def feature_of(text: str, *, on: bool) -> Feature:
    """Return the feature bit that WORD:BIT names; raises UsageError."""
    word, _, bit = text.partition(":")
    if word not in FEATURE_WORDS or not bit:
        raise UsageError(f"{text!r} is no WORD:BIT; the words are {', '.join(FEATURE_WORDS)}")
    if number(bit) > 63:
        raise UsageError(f"{text!r}: the bits of a word are 0 to 63")
    return Feature(FEATURE_WORDS.index(word), number(bit), on)


def magic_of(text: str) -> int:
    """Return the magic, or the index, that *text* gives; raises UsageError."""
    if text in KINDS:
        return KINDS[text]
    if not text[:1].isdigit():
        raise UsageError(f"{text!r} is no magic number; words for some: {', '.join(KINDS)}")
    value = number(text)
    if value >> 32:
        raise UsageError(f"{text!r}: a magic number has 32 bits")
    return value


def extension_of(text: str) -> tuple[int, bytes]:
    """Return the magic and the data that MAGIC=TEXT or MAGIC=@FILE names; raises a QfixError."""
    word, sign, data = text.partition("=")
    if not sign:
        raise UsageError(f"--add-extension {text!r}: it takes MAGIC=TEXT or MAGIC=@FILE")
    magic = magic_of(word)
    if magic < INDEXES:
        raise UsageError(f"{word!r} is no magic number; 0 would end the header extensions")
    if data.startswith("@@"):
        return magic, data[1:].encode("utf-8", "surrogateescape")
    if data.startswith("@"):
        return magic, _content(data[1:])
    return magic, data.encode("utf-8", "surrogateescape")


def _content(path: str) -> bytes:
    """Return the bytes of a file, which has to fit into a header's cluster."""
    try:
        with open_file(path) as file:
            if file.size > MOST_DATA:
                raise ReadError(f"{path}: has {file.size} bytes, too many for a header extension")
            return file.read(0, file.size)
    except QfixError as error:
        raise type(error)(f"--add-extension: {error}") from error


def backing_of(text: str | None, *, none: bool) -> Backing | None:
    """Return the backing file that FILE[:FORMAT] names, None if it stays; raises UsageError."""
    if text is None:
        return Backing(b"") if none else None
    if none:
        raise UsageError("--backing and --no-backing exclude each other")
    name, colon, word = text.rpartition(":")
    if not colon or word not in FORMATS:
        name, word = text, ""
    raw = name.encode("utf-8", "surrogateescape")
    if not raw:
        raise UsageError("--backing takes the name of a file; --no-backing names none any more")
    if len(raw) > MAX_BACKING_NAME:
        raise UsageError(
            f"--backing: the name has {len(raw)} bytes; a header takes {MAX_BACKING_NAME}"
        )
    return Backing(raw, word.encode())
