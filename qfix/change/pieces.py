"""Piece and Amendment: what a change does to the bytes of a file, as journal and apply see it."""

from collections.abc import Iterable
from typing import NamedTuple

MOST_BYTES = 1 << 20
"""No piece is longer."""


class Piece(NamedTuple):
    """Bytes of the file from *offset* on: what stands there, and what is to stand there.

    Both end at the same offset, but where the file ends: `old` is shorter, or empty, where the
    file grows, `new` where it shrinks.
    """

    offset: int
    old: bytes
    new: bytes


class Amendment(NamedTuple):
    """A change of a file: pieces in ascending order that do not overlap, and both sizes.

    `asked` is what the user asked for, in words; `report` what is to be kept of the plan, as
    JSON-ready values. `marked` says that the image takes the corrupt mark while it is changed:
    then the first piece starts at offset 0 and holds at least the first 112 bytes.
    """

    old_size: int
    new_size: int
    pieces: Iterable[Piece]
    asked: str
    report: dict[str, object]
    marked: bool
