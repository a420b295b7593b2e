"""Operations on snapshots, by qfix and by qemu-img, and the sound images that they are tried on."""

from __future__ import annotations

import hashlib
import json
import shutil
from typing import TYPE_CHECKING, NamedTuple

import qemu_images
from command import qfix
from qemu_images import RECIPES, Recipe

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from mutant_run import Output

NEW = "create -q -f qcow2 -o {o} image "


def _many(count: int, size_k: int) -> tuple[str, ...]:
    """Return steps that take *count* snapshots and write, overwrite and discard between them."""
    steps = []
    for n in range(count):
        first, second = n * 7 % size_k // 4 * 4, (n * 13 + 40) % size_k // 4 * 4
        steps += [
            f"io image: write -P {n + 1} {first}k 12k; write -P {n + 101} {second}k 4k",
            f"snapshot -c at-{n} image",
        ]
        if n % 5 == 3:
            steps.append("io image: discard 16k 8k; write -z 40k 8k")
    return (*steps, "io image: write -P 77 0 20k")


MORE = (
    Recipe("eight", "cluster_size=4k", (NEW + "1M", *_many(8, 1000))),
    Recipe("eight-r4", "cluster_size=512,refcount_bits=4", (NEW + "256k", *_many(8, 240))),
    Recipe("eight-v2", "compat=0.10,cluster_size=1k", (NEW + "256k", *_many(8, 240))),
    Recipe("eight-extended", "extended_l2=on,cluster_size=16k", (NEW + "2M", *_many(8, 2000))),
    Recipe("twenty", "cluster_size=512", (NEW + "256k", *_many(20, 240))),
    Recipe("twenty-r8", "cluster_size=4k,refcount_bits=8", (NEW + "1M", *_many(20, 1000))),
    Recipe("twenty-64k", "cluster_size=64k,refcount_bits=64", (NEW + "4M", *_many(20, 4000))),
)
"""Images with more snapshots than those of the check suite have."""
LEFT_OUT = (
    *("bitmap", "delete-all", "apply-last", "c512-zlib-", "c64k-zlib-", "c4k-zstd-", "c2M-"),
    *("c512-random", "c4k-r4-", "c4k-r32-", "c4k-r64-", "c512-r8-", "c512-r16-", "v2-c64k-snap-"),
    *("c64k-snap-empty", "v3-c512-snap-empty", "c64k-snap-resize", "c64k-snap-delete", "amend"),
)
"""Images of the check suite without snapshots, with what qemu-img refuses, or much like others."""
SOUND = {
    recipe.name: recipe
    for recipe in (*RECIPES.values(), *MORE)
    if recipe.sound
    and not recipe.encrypted
    and not any(word in recipe.name for word in LEFT_OUT)
    and any(step.startswith("snapshot -c") for step in recipe.steps)
}


class Done(NamedTuple):
    """What guests read: the disk size, and digests of the active layer ("") and snapshots by id."""

    size: int
    layers: dict[str, str]


def snapshots(path: Path) -> list[tuple[str, str]]:
    """Return ids and names of the snapshots that qemu-img lists."""
    said = qemu_images.run(
        ["qemu-img", "info", "--output=json", "-f", "qcow2", path.name], path.parent
    )
    rows = json.loads(said.stdout).get("snapshots", [])
    return [(row["id"], row["name"]) for row in rows]


def guests(path: Path) -> Done:
    """Return what qemu-img reads of all layers; the error where it fails."""
    words = ["qemu-img", "info", "--output=json", "-f", "qcow2", path.name]
    info = json.loads(qemu_images.run(words, path.parent).stdout)
    found, target = {}, path.with_name("guest.raw")
    for chosen in ("", *(row["id"] for row in info.get("snapshots", []))):
        options = ["-l", f"snapshot.id={chosen}"] if chosen else []
        words = [
            "qemu-img",
            "convert",
            "-f",
            "qcow2",
            "-O",
            "raw",
            *options,
            path.name,
            "guest.raw",
        ]
        done = qemu_images.run(words, path.parent)
        with_error = done.stderr.encode() if done.returncode else b""
        found[chosen] = hashlib.sha256(with_error or target.read_bytes()).hexdigest()
        target.unlink(missing_ok=True)
    return Done(info["virtual-size"], found)


def operate(letter: str, word: str, path: Path, *options: str) -> Output:
    """Let qfix do one of A, D and E."""
    return qfix(*options, f"-{letter}", word, path)


def operate_with_qemu(
    letter: str, number: int, items: list[tuple[str, str]], path: Path
) -> list[subprocess.CompletedProcess[str]]:
    """Let qemu-img do the same: it deletes one at a time, and finds by name what it deletes."""
    if letter == "A":
        commands = [["-a", items[number][0]]]
    elif letter == "D":
        commands = [["-d", items[number][1]]]
    else:
        commands = [["-d", name] for at, (_, name) in enumerate(items) if at != number]
    return [
        qemu_images.run(["timeout", "20", "qemu-img", "snapshot", *each, path.name], path.parent)
        for each in commands
    ]


def copied(source: Path, folder: Path) -> Path:
    """Return a copy of an image in a new folder, with the files that belong to it."""
    shutil.copytree(source.parent, folder)
    return folder / source.name
