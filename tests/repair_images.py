"""The small known images of the reference, poked at, and what a test asks of one after a repair."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import command
import qemu
import qemu_images
from test_vectors import BASES

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

L1, L2, BLOCK, TABLE = 0x30000, 0x40000, 0x20000, 0x10000
CLUSTER = 1 << 16
COPIED = 1 << 63


@dataclass(frozen=True, slots=True)
class Image:
    """One image in a folder of its own."""

    path: Path

    @property
    def raw(self) -> bytes:
        """All bytes of the file."""
        return self.path.read_bytes()

    @property
    def digest(self) -> str:
        """The SHA-256 of the file."""
        return hashlib.sha256(self.raw).hexdigest()

    def number(self, offset: int, width: int = 8) -> int:
        """Return a big-endian number of the file."""
        return int.from_bytes(self.raw[offset : offset + width])

    def poke(self, offset: int, value: int, width: int = 8) -> Image:
        """Store a big-endian number."""
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(value.to_bytes(width))
        return self

    def io(self, *commands: str) -> str:
        """Run qemu-io commands."""
        words = [word for command in commands for word in ("-c", command)]
        return self.qemu("qemu-io", "-f", "qcow2", *words, "image").stdout

    def qemu(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a QEMU program in the image's folder, where its other files are."""
        return qemu_images.run([*words], self.path.parent)

    def guest(self, snapshot: str = "") -> bytes:
        """Return what a guest reads, of a snapshot if its id is given."""
        target = self.path.with_name("guest")
        chosen = ("-l", f"snapshot.id={snapshot}") if snapshot else ()
        self.qemu("qemu-img", "convert", "-f", "qcow2", "-O", "raw", *chosen, "image", "guest")
        return target.read_bytes()

    def snapshots(self) -> list[tuple[str, str]]:
        """Return ids and names of the snapshots that QEMU lists."""
        rows: list[dict[str, Any]] = self._info().get("snapshots", [])
        return [(row["id"], row["name"]) for row in rows]

    def bitmaps(self) -> list[dict[str, Any]]:
        """Return the bitmaps that QEMU lists."""
        rows: list[dict[str, Any]] = self._info()["format-specific"]["data"].get("bitmaps", [])
        return rows

    def _info(self) -> dict[str, Any]:
        said = self.qemu("qemu-img", "info", "--output=json", "-f", "qcow2", "image").stdout
        found: dict[str, Any] = json.loads(said)
        return found

    def leak(self, content: bytes) -> int:
        """Append a cluster with *content* that has a refcount and no user; return its offset."""
        end = -(-len(self.raw) // CLUSTER) * CLUSTER
        with self.path.open("r+b") as file:
            file.seek(end)
            file.write(content.ljust(CLUSTER, b"\0"))
        self.poke(BLOCK + 2 * (end // CLUSTER), 1, 2)
        return end

    def fix(self, *arguments: str) -> Fixed:
        """Run a repair, "--fix all" if nothing else is said."""
        size = len(self.raw)
        done = command.record(*(arguments or ("--fix", "all")), self.path)
        return Fixed(done, len(self.raw) - size)

    def is_clean(self) -> bool:
        """Tell whether both programs find nothing and no mark is set."""
        status = self.qemu("qemu-img", "check", "-f", "qcow2", "image").returncode
        marks = self.number(72) & 3 if self.number(4, 4) > 2 else 0
        return status == 0 and not marks and command.qfix(self.path).status == 0

    def opens_for_writing(self) -> bool:
        """Tell whether a guest can write, all over the disk, and leave the image clean."""
        said = self.io("write -P 9 1000k 24k", "write -P 9 512k 4k", "write -P 9 0 512")
        return "rror" not in said and self.is_clean()


@dataclass(frozen=True, slots=True)
class Fixed:
    """The record of a repair, and by how much the file grew."""

    record: dict[str, Any]
    growth: int

    @property
    def status(self) -> int:
        """The exit status."""
        found: int = self.record["qfix"]["status"]
        return found

    @property
    def change(self) -> dict[str, Any]:
        """What JSON tells of the change."""
        found: dict[str, Any] = self.record["qfix"]["change"]
        return found

    @property
    def codes(self) -> set[str]:
        """The codes of what is left."""
        return {row["code"] for row in self.record["qfix"]["findings"]}

    def ranges(self, kind: str) -> list[tuple[str, int, int]]:
        """Return the guest ranges of one kind: lost, restored, suspect."""
        return [(row["layer"], row["start"], row["length"]) for row in self.change[kind]]


def build_bases(folder: Path) -> None:
    """Make all images of the reference."""
    for name, recipe in BASES.items():
        recipe.build(folder / name)


def copy_of(letter: str, bases: Path, folder: Path) -> Image:
    """Return a copy of an image of the reference, with the files that belong to it."""
    shutil.copytree(bases / letter, folder / letter)
    return Image(folder / letter / "image")


def made(folder: Path, options: str, size: str, *commands: str) -> Image:
    """Make an image of its own."""
    path = folder / "image"
    qemu.img("create", "-q", "-f", "qcow2", "-o", options, path, size)
    if commands:
        qemu.io(path, *commands)
    return Image(path)


def l2_entries(image: Image, table: int, count: int) -> list[int]:
    """Return the first entries of an L2 table."""
    return list(struct.unpack_from(f">{count}Q", image.raw, table))
