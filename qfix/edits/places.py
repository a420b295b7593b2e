"""Places in the file that a name can stand for, and the image as far as it can be decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from qfix.edits.errors import EditError
from qfix.edits.values import Kind
from qfix.image import load, read_head
from qfix.layout.header import MAX_CLUSTER_BITS, MIN_CLUSTER_BITS, Header

if TYPE_CHECKING:
    from qfix.file import Source
    from qfix.image import Head, Image

READ_AS = 3
"""The version by which the tables of an image of an unknown one are looked for."""


class Place(NamedTuple):
    """A number in the file: byte offset, width in bits, shift for less than a byte."""

    offset: int
    bits: int
    shift: int = 0
    kind: Kind = Kind.NUMBER
    display: str = "#x"

    @property
    def width(self) -> int:
        """Bytes that it touches."""
        return max(1, self.bits // 8)

    @property
    def _mask(self) -> int:
        return ((1 << self.bits) - 1) << self.shift

    def number(self, source: Source) -> int:
        """Return the number that stands there."""
        raw = int.from_bytes(source.read(self.offset, self.width), "big")
        return (raw & self._mask) >> self.shift

    def encoded(self, source: Source, value: int) -> bytes:
        """Return the bytes with *value* in its place; raises EditError where it does not fit."""
        if value >> self.bits:
            most = (1 << self.bits) - 1
            unit = "bit" if self.bits == 1 else "bits"
            raise EditError(f"{value:#x} does not fit into {self.bits} {unit} (at most {most:#x})")
        raw = int.from_bytes(source.read(self.offset, self.width), "big")
        raw = raw & ~self._mask | value << self.shift
        return raw.to_bytes(self.width, "big")


class Text(NamedTuple):
    """A string with its 16-bit length elsewhere; *tail* stands behind it, *room* ends at padding.

    `start` is where the string begins, `most` the longest one that the format takes.
    """

    length_at: int
    start: int
    old: bytes
    tail: bytes
    room: int
    most: int


class View(NamedTuple):
    """A file as it is just then: its header, and the image behind it where that can be told."""

    source: Source
    head: Head
    image: Image | None

    @property
    def header(self) -> Header:
        """The header; raises EditError where the file has none."""
        if self.head.header is None:
            raise EditError(
                f"this is no qcow2 image ({self.head.guess or 'wrong magic'}), so it has no names;"
                " -O edits any file, and header.magic can be set"
            )
        return self.head.header

    @property
    def tables(self) -> Image:
        """The image by whose header tables can be found; raises EditError where there is none."""
        bits = self.header.cluster_bits
        if self.image is None:
            raise EditError(
                f"header.cluster_bits is {bits}, so tables can't be found; set it first, between"
                f" {MIN_CLUSTER_BITS} and {MAX_CLUSTER_BITS} (in the same change, if you like)"
            )
        return self.image

    def inside(self, place: Place) -> Place:
        """Return a place that is in the file; raises EditError where it isn't."""
        if place.offset + place.width > self.source.size:
            raise EditError(
                f"it would be at {place.offset:#x}, behind the end of the file"
                f" ({self.source.size:#x})"
            )
        return place


def view_of(source: Source) -> View:
    """Return a file as it is now; an unknown version is read as one that is known."""
    head = read_head(source)
    image = load(head)
    if image is None and head.header is not None and head.header.version not in (2, READ_AS):
        fields = dict(zip(Header.names, head.header, strict=True)) | {"version": READ_AS}
        image = load(head._replace(header=Header(tuple(fields.values()))))
    return View(source, head, image)
