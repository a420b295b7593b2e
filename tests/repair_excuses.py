"""Why an image can't be made clean, not even with --lossy: its header, or its L1 table, is gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import guest_view
from guest_view import DATA_FILE, EXTENDED, Shape
from mutant_sites import number

if TYPE_CHECKING:
    from repair_run import Sound

KNOWN_BITS = 0x1F
NEEDED_V3 = 104

FIELDS = {
    "version": (4, 4, "another version gives the header another layout"),
    "backing_file_offset": (8, 8, "the name of the backing file is lost"),
    "backing_file_size": (16, 4, "the name of the backing file is lost"),
    "cluster_bits": (20, 4, "without the cluster size no table can be read"),
    "crypt_method": (32, 4, "nothing tells whether the clusters are encrypted"),
    "l1_table_offset": (40, 8, "nothing leads to the active L1 table any more"),
}
"""Header fields that nothing else tells: where they are, and what their loss means."""


def excuse(sound: Sound, raw: bytes) -> str:
    """Return why nobody can make the damaged bytes *raw* clean, "" where there is no excuse."""
    if len(raw) < (NEEDED_V3 if sound.shape.version > 2 else 72):
        return "the file ends inside its header"
    for offset, width, why in FIELDS.values():
        if number(raw, offset, width) != number(sound.raw, offset, width):
            return why
    if guest_view.active_l1(raw)[0] >= len(raw):
        return "the file ends before its active L1 table"
    return _feature_excuse(sound, raw) or _name_excuse(sound, raw)


def _feature_excuse(sound: Sound, raw: bytes) -> str:
    old, new = sound.shape.incompatible, Shape.of(raw).incompatible
    if new & ~KNOWN_BITS:
        return "it asks for features that nobody knows"
    if (old ^ new) & EXTENDED:
        return "nothing tells what the entries of its L2 tables are like"
    if (old ^ new) & DATA_FILE:
        return "nothing tells whether the data is in this file"
    return ""


def _name_excuse(sound: Sound, raw: bytes) -> str:
    """Return an excuse where the name of another file was hit."""
    if Shape.of(raw).backing != sound.shape.backing:
        return "the backing file's name was hit"
    name = b"image.data"
    if sound.data and (name not in raw[:1024] or raw[:1024].find(name) != sound.raw.find(name)):
        return "the data file's name was hit"
    return ""
