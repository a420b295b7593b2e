"""The table of sound images that qemu-img and qemu-io make for the tests, and how to make one.

A row of `TABLE` is a set of formats (words with alternatives) and a set of workloads; every
combination is one `Recipe`. A recipe's steps run in a folder of its own; the result is `image`.
"""

from __future__ import annotations

import itertools
import random
import re
import shlex
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qemu_workloads import WORKLOADS

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT_S = 60
TRIES = 20
BUSY = "Unable to get accurate CPU usage"
"""What making a LUKS header fails with now and then on a busy machine."""
SECRET = ("--object", "secret,id=key,data=secret")

FORMAT_WORDS = {
    "v2": "compat=0.10",
    "v3": "compat=1.1",
    "metadata": "preallocation=metadata",
    "falloc": "preallocation=falloc",
    "full": "preallocation=full",
    "zlib": "compression_type=zlib",
    "zstd": "compression_type=zstd",
    "extended": "extended_l2=on",
    "data": "data_file=image.data",
    "rawdata": "data_file=image.data,data_file_raw=on",
    "lazy": "lazy_refcounts=on",
    "luks": "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10",
    "aes": "encrypt.format=aes,encrypt.key-secret=key",
}
"""What a word of a format means to ``qemu-img create -o``; cN and rN are cluster size and width."""

ALL_SIZES = "c512|c1k|c2k|c4k|c8k|c16k|c32k|c64k|c128k|c256k|c512k|c1M|c2M"
TABLE: tuple[tuple[str, str], ...] = (
    (f"v2|v3 {ALL_SIZES}", "holes"),
    ("v3 c512|c64k r1|r2|r4|r8|r16|r32|r64", "random-a"),
    ("v3 c512|c4k r4|r8|r16|r32|r64", "snaps"),
    ("v3 c512|c4k r2", "snap|snap-apply-last"),
    ("v3 c512|c4k|c64k|c1M metadata|falloc|full", "plain"),
    ("v3 c64k extended metadata|falloc", "plain|empty"),
    ("v3 c64k|c2M zlib|zstd", "compressed-big"),
    ("v3 c512|c4k|c64k zlib|zstd", "compressed|compressed-snap|converted"),
    ("v2 c4k", "compressed|compressed-snap|converted"),
    ("v3 c1k|c8k|c32k|c2M zstd", "converted"),
    ("v2|v3 c512|c64k", "snap|snap-delete|snap-delete-all|snap-apply|snap-apply-last|snap-empty"),
    ("v2 c512|c64k", "snaps"),
    ("v3 c512|c64k", "snap-resize|snap-resize-apply|vmstate|vmstate-snap|random-snap"),
    ("v3 c16k|c64k|c2M extended", "holes|snaps|backed"),
    ("v3 c64k extended", "random-b|discard|compressed|zeros|vmstate-snap"),
    ("v3 c512|c64k|c1M data|rawdata", "plain"),
    ("v3 c64k data", "discard|random-a|grown"),
    ("v3 c64k extended data", "holes"),
    ("v3 c512|c64k", "bitmap|bitmaps|bitmap-removed|bitmap-merged|bitmap-snap|bitmap-resized"),
    ("v3 c64k", "bitmap-empty|bitmap-gone|bitmap-backed|bitmap-killed"),
    ("v3 c2k lazy", "bitmap-killed"),
    ("v3 c512 luks", "plain"),
    ("v3 c64k luks", "bitmap-snap"),
    ("v2 c4k|c64k aes", "plain|snap"),
    ("v2|v3 c64k", "backed|backed-absolute|committed|rebased"),
    ("v3 c4k", "backed-larger|backed-snap|backed-compressed|commit-target|rebased-flat"),
    ("v3 c64k", "rebased-unsafe"),
    ("v3 c512|c64k lazy", "plain|killed|killed-snap"),
    ("v3 c64k", "killed-snap"),
    ("v3 c512|c4k|c64k", "grown|shrunk|shrunk-odd"),
    ("v3 c4k|c64k", "grown-prealloc|grown-falloc"),
    ("v3 c512|c64k", "backwards|discard|emptied|zeros|oddsize|sector|empty"),
    ("v3 c64k|c2M", "huge|random-b"),
    ("v2 c512", "sector|empty|oddsize|amend-version"),
    ("v3 c64k", "amend-back|amend-wider"),
    ("v3 c512", "amend-wider|amend-narrower"),
    ("v3 c64k", "converted-plain"),
)
"""Formats and workloads, alternatives divided by a bar; a row is the product of all of them."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one image is made: its name and the qemu-img and qemu-io calls."""

    name: str
    options: str
    steps: tuple[str, ...]

    @property
    def encrypted(self) -> bool:
        """Whether QEMU needs the key to open the image."""
        return "encrypt" in self.options

    @property
    def sound(self) -> bool:
        """Whether every program that wrote the image came to its end."""
        return not any(step.startswith("crash") for step in self.steps)

    def build(self, folder: Path) -> Path:
        """Run the steps in a new *folder*; return the path of the image."""
        folder.mkdir()
        for step in self.steps:
            self._run_step(step.format(o=self.options, dir=folder), folder)
        return folder / "image"

    def _run_step(self, step: str, folder: Path) -> None:
        verb, _, rest = step.partition(" ")
        if verb == "file":
            name, size = rest.split()
            _write_noise(folder / name, size)
            return
        if verb in {"io", "crash"}:
            file, _, commands = rest.partition(": ")
            options = [word for command in commands.split("; ") for word in ("-c", command)]
            words = ["qemu-io", *options, *self._names(file)]
        else:
            words = ["qemu-img", verb, *(self.key_arguments() if verb == "create" else ())]
            for word in shlex.split(rest):
                words += self._names(word) if verb != "create" else (word,)
        for _ in range(TRIES):
            done = run(words, folder)
            if BUSY not in done.stderr:
                break
        if (done.returncode < 0) != (verb == "crash") or done.returncode > 0:
            raise RuntimeError(f"{self.name}: {words} gave {done.returncode}: {done.stderr}")

    def _names(self, word: str) -> tuple[str, ...]:
        if self.encrypted and word == "image":
            return (*self.key_arguments(), "--image-opts", self.image_options(word))
        return (word,)

    def key_arguments(self) -> tuple[str, ...]:
        """Return the options that hand the key to a QEMU program."""
        return SECRET if self.encrypted else ()

    def image_options(self, file: str | Path) -> str:
        """Return what --image-opts takes to open an encrypted image."""
        return f"driver=qcow2,file.filename={file},encrypt.key-secret=key"

    def check_with_qemu(self, path: Path) -> subprocess.CompletedProcess[str]:
        """Run ``qemu-img check`` on *path*, this recipe's image or a changed copy of it."""
        file = (
            (*SECRET, "--image-opts", self.image_options(path))
            if self.encrypted
            else ("-f", "qcow2", str(path))
        )
        return run(["qemu-img", "check", "--output=json", *file], path.parent)


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in *folder* and return what it said, whatever its exit status."""
    return subprocess.run(
        words,
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=TIMEOUT_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def _write_noise(path: Path, size: str) -> None:
    """Write seeded data, half of which compresses well and half of it hardly at all."""
    total = int(size[:-1]) * {"k": 1 << 10, "M": 1 << 20}[size[-1]]
    dice = random.Random(path.name + size)  # noqa: S311 - the same images every time
    piece = b"".join(dice.randbytes(900) + bytes(dice.randrange(1500)) for _ in range(64))
    start = dice.randrange(len(piece))
    piece = piece[start:] + piece[:start]
    path.write_bytes((piece * (total // len(piece) + 1))[:total])


def _options(words: tuple[str, ...]) -> str:
    """Return the -o value for the words of a format."""
    prefixes = {"c": "cluster_size=", "r": "refcount_bits="}
    return ",".join(
        prefixes[word[0]] + word[1:] if re.fullmatch(r"[cr]\d+[kM]?", word) else FORMAT_WORDS[word]
        for word in words
    )


def _expand(formats: str, workloads: str) -> list[Recipe]:
    """Return the recipes of one row of the table."""
    axes = [alternatives.split("|") for alternatives in formats.split()]
    return [
        Recipe("-".join((*words, workload)), _options(words), WORKLOADS[workload])
        for words in itertools.product(*axes)
        for workload in workloads.split("|")
    ]


RECIPES = {recipe.name: recipe for row in TABLE for recipe in _expand(*row)}
