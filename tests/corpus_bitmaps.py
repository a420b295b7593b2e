"""Cases of pass B: persistent bitmaps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from build_write import finish
from corpus_bases import K, described, with_bitmap
from corpus_case import Case

if TYPE_CHECKING:
    from build import Picture

FAR = 0x100000


def _on_a_large_disk() -> Picture:
    image = described(size=4096 * K)
    image.bitmap("daily", 1)
    return finish(image)


EXTENSION = (
    Case(
        "bitmaps-reserved-field",
        "the reserved field of the bitmaps extension is set",
        with_bitmap,
        {"bitmaps.reserved": 1},
        "6 B601@0",
        "1",
    ),
    Case(
        "bitmaps-none",
        "the bitmaps extension names 0 bitmaps",
        with_bitmap,
        {"bitmaps.nb": 0},
        "6 B602@0 B605@0",
        "1",
    ),
    Case(
        "bitmaps-too-many",
        "the bitmaps extension names 70000 bitmaps",
        with_bitmap,
        {"bitmaps.nb": 70000},
        "6 B602@0 B605@0",
        "1",
    ),
    Case(
        "bitmap-directory-outside",
        "the bitmap directory is said to be behind the end",
        with_bitmap,
        {"bitmaps.directory_offset": FAR},
        "6 B603@0 R301@9x3",
        "1",
    ),
    Case(
        "bitmap-directory-broken",
        "a bitmap's name does not fit in the directory",
        with_bitmap,
        {"bitmap[0].name_size": 0xFFFF},
        "6 B604@0 R301@9x2",
        "1",
    ),
    Case(
        "bitmap-count-differs",
        "the header names two bitmaps, the directory holds one",
        with_bitmap,
        {"bitmaps.nb": 2},
        "6 B605@0",
        "1",
    ),
    Case(
        "bitmaps-bit-clear",
        "a program without bitmaps wrote to the image",
        with_bitmap,
        {"autoclear_features": 0},
        "1 B612@0 R301@9x3",
        "3 0/3",
    ),
)
ENTRIES = (
    Case(
        "bitmap-table-outside",
        "a bitmap's table is said to be behind the end of the file",
        with_bitmap,
        {"bitmap[0].table_offset": FAR},
        "6 B606@0 R301@9x2",
        "2 1/2",
    ),
    Case(
        "bitmap-entry-outside",
        "an entry of a bitmap's table leads behind the end of the file",
        with_bitmap,
        {"bitmap[0].table[0]": FAR},
        "6 B607@0 R301@9",
        "2 1/1",
    ),
    Case(
        "bitmap-entry-reserved-bits",
        "an entry of a bitmap's table has a reserved bit set",
        with_bitmap,
        {"bitmap[0].table[0]": 0x1202},
        "6 B607@0",
        "1",
    ),
    Case(
        "bitmap-name-double",
        "two bitmaps have the same name",
        lambda: with_bitmap("daily", "daily"),
        {},
        "6 B608@1",
        "-",
    ),
    Case(
        "bitmap-flags-unknown",
        "a bitmap has an unknown flag",
        with_bitmap,
        {"bitmap[0].flags": 0x82},
        "6 B609@0",
        "1",
    ),
    Case(
        "bitmap-granularity",
        "a bitmap has a granularity of 256 bytes",
        with_bitmap,
        {"bitmap[0].granularity_bits": 8},
        "6 B610@0",
        "1",
    ),
    Case(
        "bitmap-in-use",
        "a bitmap was not stored when the image was closed",
        with_bitmap,
        {"bitmap[0].flags": 3},
        "0 B611@0",
    ),
    Case(
        "bitmap-too-small",
        "a bitmap covers half of the disk",
        _on_a_large_disk,
        {},
        "6 B614@0",
        "1",
    ),
    Case(
        "bitmap-type-unknown",
        "a bitmap is of an unknown type",
        with_bitmap,
        {"bitmap[0].type": 2},
        "6 B615@0",
        "1",
    ),
    Case(
        "bitmap-extra-data",
        "a bitmap has extra data",
        lambda: with_bitmap(extra=b"whatever"),
        {},
        "6 B616@0",
        "1",
    ),
    Case(
        "bitmap-name-empty",
        "a bitmap has no name",
        lambda: with_bitmap(""),
        {},
        "6 B617@0",
        "0 0/0",
    ),
)
BITMAP_CASES = (*EXTENSION, *ENTRIES)
