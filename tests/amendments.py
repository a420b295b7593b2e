"""Changes of every shape, for the tests of journal, apply and recovery."""

from __future__ import annotations

import random
from typing import NamedTuple

from qfix.change.pieces import MOST_BYTES, Amendment, Piece

KIB = 1 << 10


class Case(NamedTuple):
    """A file before and after a change, and the change."""

    old: bytes
    new: bytes
    amendment: Amendment
    is_device: bool = False


def image(size: int, version: int = 3, seed: int = 1) -> bytes:
    """Return bytes that start like a header without a mark; some ranges are zero."""
    head = b"QFI\xfb" + version.to_bytes(4, "big")
    body = bytearray(random.Random(seed).randbytes(size))  # noqa: S311  (any bytes do)
    body[: len(head)] = head
    body[72:80] = bytes(8)
    for at in range(2 * KIB, size, 8 * KIB):
        body[at : at + 2 * KIB] = bytes(len(body[at : at + 2 * KIB]))
    return bytes(body)


def change(
    old: bytes,
    *ranges: tuple[int, int],
    size: int | None = None,
    marked: bool = True,
    is_device: bool = False,
    zeros: bool = False,
) -> Case:
    """Return a change of the ranges, and of the size; a mark brings a change of the header."""
    new_size = len(old) if size is None else size
    new = bytearray(old[:new_size].ljust(new_size, b"\0"))
    with_header = marked and all(start for start, _ in ranges)
    places = [(0, 112), *ranges] if with_header else list(ranges)
    for start, end in places:
        length = max(0, min(end, new_size) - start)
        fill = random.Random(start).randbytes(length)  # noqa: S311  (any bytes do)
        new[start : start + length] = bytes(length) if zeros and start else fill
    if marked:
        new[72:80] = bytes(8)
    pieces = [
        Piece(at, old[at : min(at + MOST_BYTES, end)], bytes(new[at : min(at + MOST_BYTES, end)]))
        for start, end in places
        for at in range(start, end, MOST_BYTES)
    ]
    amendment = Amendment(len(old), new_size, pieces, "a change", {"why": "a test"}, marked)
    return Case(old, bytes(new), amendment, is_device)


def many(count: int, length: int, step: int) -> list[tuple[int, int]]:
    """Return ranges that lie apart."""
    return [(at, at + length) for at in range(KIB, KIB + count * step, step)]


CASES = {
    "one small": change(image(8 * KIB), (3000, 3008)),
    "many small": change(image(64 * KIB), *many(200, 250, 310)),
    "header only": change(image(4 * KIB)),
    "bytes": change(image(4 * KIB), *many(12, 1, 200)),
    "growing": change(image(8 * KIB), (8000, 12 * KIB), size=12 * KIB),
    "growing by a hole": change(image(5000), (300 + 5000, 9999), (20000, 20500), size=30000),
    "growing by nothing": change(image(5000), size=9001),
    "shrinking": change(image(20000), (1000, 3000), (9000, 20000), size=9876),
    "shrinking unplanned": change(image(40000), (5000, 5100), size=9876),
    "shrinking unmarked": change(image(20000), (100, 700), (9000, 20000), size=9876, marked=False),
    "version 2": change(image(16 * KIB, version=2), (0, 300), (4000, 9000), marked=False),
    "version 2 growing": change(
        image(5001, version=2), (5, 9), (4990, 7001), size=7003, marked=False
    ),
    "no header": change(image(8 * KIB), *many(3, 900, 2000), marked=False),
    "device": change(image(64 * KIB), *many(5, 3000, 9000), is_device=True),
    "tail": change(image(8 * KIB + 77), (8000, 8 * KIB + 77)),
    "long header": change(image(64 * KIB), (0, 20 * KIB), (30 * KIB, 31 * KIB)),
    "to zeros": change(image(16 * KIB), (1000, 15000), zeros=True),
    "one large": change(image((1 << 20) + 9 * KIB), (4 * KIB, (1 << 20) + 8 * KIB)),
}
