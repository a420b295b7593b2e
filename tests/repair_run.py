"""Sound images with what their layers read, and the programs that a repair is judged by."""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import guest_view
import qemu_images
from guest_view import Reader, Shape
from mutant_run import Output, call
from mutant_sites import number
from qemu_anatomy import COMPRESSED, OFFSET_MASK, Anatomy, Site, active_l1, snapshot_l1
from qfix.cli import main

if TYPE_CHECKING:
    from pathlib import Path

    from guest_view import View
    from qemu_images import Recipe

ACTIVE = b"active layer"
"""The key of the active layer; a snapshot's is its id."""
PIECE = 1 << 16
SECTOR = 512
MARKS = 3

Disk = dict[int, bytes]
"""What qemu-img reads of a layer: pieces of 64 KiB that are not all zeros, by their number."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a sound image: as the forgiving reader has it, and as qemu-img has it."""

    index: int
    view: View
    disk: Disk | None


@dataclass(frozen=True, slots=True)
class Sound:
    """A sound image, what its layers read, and its snapshots."""

    name: str
    recipe: Recipe
    path: Path
    raw: bytes
    data: bytes
    shape: Shape
    layers: dict[bytes, Layer]
    places: dict[bytes, tuple[int, int]]
    snapshots: list[guest_view.SnapshotView]

    @classmethod
    def build(cls, recipe: Recipe, folder: Path) -> Sound:
        """Make the image of a recipe in a new folder and read all of it."""
        path = recipe.build(folder)
        if not recipe.encrypted:
            stamp(path)
        return cls.read(recipe, path)

    @classmethod
    def read(cls, recipe: Recipe, path: Path) -> Sound:
        """Read an image that was made already."""
        raw, beside = path.read_bytes(), path.with_name("image.data")
        data = beside.read_bytes() if beside.exists() else b""
        shape, snapshots = Shape.of(raw), guest_view.snapshots_of(raw)
        views = layer_views(raw, data, shape)
        disks = {key: read_disk(recipe, path, key) for key in views}
        layers = {key: Layer(i, views[key], disks[key]) for i, key in enumerate(views)}
        return cls(recipe.name, recipe, path, raw, data, shape, layers, l1_tables(raw), snapshots)


def stamp(path: Path) -> None:
    """Make each data cluster differ from all others, so that a wrong one is seen."""
    image, beside = Anatomy(path.read_bytes()), path.with_name("image.data")
    target = beside if image.incompatible & guest_view.DATA_FILE else path
    raw = bytearray(target.read_bytes())
    l1 = [*active_l1(image), *snapshot_l1(image)]
    for site in image.used(image.l2_below(l1)):
        entry = site.read(image.raw)
        if entry & COMPRESSED or not (entry & OFFSET_MASK or target is beside):
            continue
        for offset in _parts(image, site, entry & OFFSET_MASK):
            if offset + SECTOR <= len(raw):
                raw[offset : offset + 8] = (offset + 1).to_bytes(8, "little")
    with target.open("r+b") as file:
        file.write(raw)


def _parts(image: Anatomy, site: Site, offset: int) -> list[int]:
    """Return the host offsets that an L2 entry has data at."""
    if not image.extended:
        return [offset]
    bitmap = Site(site.offset + 8, 8).read(image.raw)
    size = image.cluster_size // guest_view.SUBCLUSTERS
    return [offset + size * i for i in range(guest_view.SUBCLUSTERS) if bitmap >> i & 1]


def l1_tables(raw: bytes) -> dict[bytes, tuple[int, int]]:
    """Return offset and length of each layer's L1 table, the active one first."""
    places = {ACTIVE: guest_view.active_l1(raw)}
    for found in guest_view.snapshots_of(raw):
        places[found.id_str] = found.l1_offset, found.l1_size
    return places


def layer_views(raw: bytes, data: bytes, shape: Shape) -> dict[bytes, View]:
    """Return what each layer of an image reads."""
    reader = Reader(raw, shape, data)
    return {key: reader.layer(*place) for key, place in l1_tables(raw).items()}


def read_disk(recipe: Recipe, path: Path, layer: bytes, *options: str) -> Disk | None:
    """Return what ``qemu-img convert`` reads of a layer, None where it fails."""
    target = path.with_name(path.name + ".raw")
    chosen = () if layer == ACTIVE else ("-l", f"snapshot.id={layer.decode()}")
    words = ["qemu-img", "convert", "-O", "raw", *options, *chosen]
    done = qemu_images.run([*words, *image_arguments(recipe, path), str(target)], path.parent)
    try:
        return _pieces(target) if done.returncode == 0 else None
    finally:
        target.unlink(missing_ok=True)


def _pieces(path: Path) -> Disk:
    """Return the pieces of a sparse file that hold something."""
    found: Disk = {}
    with path.open("rb") as file:
        size, at = os.fstat(file.fileno()).st_size, 0
        while at < size:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA) // PIECE * PIECE
            except OSError:
                break
            piece = os.pread(file.fileno(), PIECE, at)
            if piece.count(0) < len(piece):
                found[at // PIECE] = piece.ljust(PIECE, b"\0")
            at += PIECE
    return found


def differing_bytes(one: Disk, two: Disk) -> list[int]:
    """Return the offsets of the sectors in which two disks differ."""
    found = []
    for piece in sorted(one.keys() | two.keys()):
        first, second = one.get(piece, bytes(PIECE)), two.get(piece, bytes(PIECE))
        if first != second:
            found += [
                piece * PIECE + at
                for at in range(0, PIECE, SECTOR)
                if first[at : at + SECTOR] != second[at : at + SECTOR]
            ]
    return found


@dataclass(frozen=True, slots=True)
class Check:
    """What ``qemu-img check`` says: None where it can't open the image or gives up."""

    status: int
    counts: dict[str, Any] | None
    message: str
    is_marked: bool = False
    """Whether the header carries the dirty or the corrupt mark."""

    @property
    def grave(self) -> tuple[int, int]:
        """Return check errors and corruptions."""
        counts = self.counts or {}
        return counts.get("check-errors", 0), counts.get("corruptions", 0)

    @property
    def leaks(self) -> int:
        """Return the number of leaks."""
        found: int = (self.counts or {}).get("leaks", 0)
        return found

    @property
    def opens(self) -> bool:
        """Tell whether the image could be opened."""
        return "Could not open" not in self.message


def image_arguments(recipe: Recipe, path: Path) -> tuple[str, ...]:
    """Return how a QEMU program is told the image, with its key where it has one."""
    if recipe.encrypted:
        return (*recipe.key_arguments(), "--image-opts", recipe.image_options(path))
    return ("-f", "qcow2", str(path))


def check_with_qemu(recipe: Recipe, path: Path, *options: str) -> Check:
    """Let qemu-img check an image."""
    words = ["qemu-img", "check", "--output=json", *options, *image_arguments(recipe, path)]
    done = qemu_images.run(words, path.parent)
    counts = json.loads(done.stdout) if done.stdout.strip() else None
    return Check(done.returncode, counts, done.stderr.strip(), _is_marked(path))


def _is_marked(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(80)
    return number(head, 4, 4) > 2 and bool(number(head, 72, 8) & MARKS)


@dataclass(slots=True)
class Run:
    """One repair: what was asked, what came of it, and how long it took."""

    arguments: tuple[str, ...]
    output: Output
    record: dict[str, Any]
    seconds: float

    @property
    def status(self) -> int | None:
        """The exit status."""
        return self.output.status

    @property
    def change(self) -> dict[str, Any]:
        """What JSON tells of the change."""
        found: dict[str, Any] = self.record.get("qfix", {}).get("change", {})
        return found

    def loud(self, quiet: set[str]) -> set[str]:
        """Return the codes of the findings that are graver than *quiet*."""
        rows = self.record["qfix"]["findings"]
        return {row["code"] for row in rows if row["severity"] not in quiet}

    @property
    def promise(self) -> list[Any]:
        """What a dry run and the real one must have in common."""
        same = ("changes", "lost", "restored", "suspect", "snapshots-dropped", "left")
        return [self.change.get(name) for name in same]


def run_qfix(path: Path, *arguments: str) -> Run:
    """Run qfix with JSON on an image."""
    started = time.perf_counter()
    output = call(main, *arguments, "--output", "json", str(path))
    elapsed = time.perf_counter() - started
    record = json.loads(output.stdout) if output.stdout.startswith("{") else {}
    return Run(arguments, output, record, elapsed)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
