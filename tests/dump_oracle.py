"""An independent reading of images for the tests of dump: what `qemu-img map` tells."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

import qemu_images

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from qemu_images import Recipe


class Part(NamedTuple):
    """A guest range: first and last byte behind it, what it is, its host offset or -1."""

    start: int
    end: int
    kind: str
    host: int

    def goes_on(self, other: Part) -> bool:
        """Tell whether another range continues this one."""
        host = -1 if self.host < 0 else self.host + self.end - self.start
        return (self.end, self.kind, host) == (other.start, other.kind, other.host)


def joined(parts: Iterable[Part]) -> list[Part]:
    """Return ranges in order, those that go on joined."""
    found: list[Part] = []
    for part in parts:
        if found and found[-1].goes_on(part):
            found[-1] = found[-1]._replace(end=part.end)
        else:
            found.append(part)
    return found


def of_qemu(recipe: Recipe, path: Path) -> list[Part] | None:
    """Return what `qemu-img map` tells of an image, None where it can't read it."""
    words = ["qemu-img", "map", "--output=json", *file_words(recipe, path)]
    done = qemu_images.run(words, path.parent)
    if done.returncode:
        return None
    return joined(
        Part(row["start"], row["start"] + row["length"], _kind(row), _host(recipe, row))
        for row in json.loads(done.stdout)
    )


def file_words(recipe: Recipe, path: Path) -> tuple[str, ...]:
    """Return how a QEMU program is told to open an image."""
    if recipe.encrypted:
        return (*recipe.key_arguments(), "--image-opts", recipe.image_options(path.name))
    return ("-f", "qcow2", path.name)


def _kind(row: dict[str, object]) -> str:
    """Return a kind as dump names it; zeros that are data too are a hole of the file."""
    if row["depth"] or not row["present"]:
        return "unallocated"
    if row["zero"] and not row["data"]:
        return "zero-allocated" if "offset" in row else "zero"
    return "data"


def _host(recipe: Recipe, row: dict[str, object]) -> int:
    told = row.get("offset", -1)
    known = _kind(row) in {"data", "zero-allocated"} and not recipe.encrypted
    return told if known and isinstance(told, int) else -1


def of_dump(recipe: Recipe, rows: Iterable[dict[str, object]]) -> list[Part]:
    """Return the same of the lines of section guest: compressed data has no offset of its own."""
    parts: list[Part] = []
    for row in rows:
        start, length, host = row["start"], row["length"], row["host-offset"]
        assert isinstance(start, int)
        assert isinstance(length, int)
        kind = str(row["kind"]).replace("compressed", "data")
        if recipe.encrypted and kind == "zero-allocated":
            kind = "zero"
        known = isinstance(host, int) and kind in {"data", "zero-allocated"}
        place = host if known and isinstance(host, int) and not recipe.encrypted else -1
        parts.append(Part(start, start + length, kind, place))
    return joined(parts)
