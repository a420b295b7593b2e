"""Builds the folder of small images that the bench checks in one command, with QEMU's own tools.

python small.py FOLDER COUNT

Every image is a good one; between them they use most features of the format.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

# One kind of image a row: options of qemu-img create, then qemu-io commands before and after a
# snapshot; where no command comes after, none is taken.
KINDS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("", (), ()),
    ("", ("write -P 1 0 64k",), ()),
    ("", ("write -P 2 0 64k", "write -P 3 1M 128k"), ()),
    ("", ("write -P 4 3M 192k",), ("write -P 5 3M 64k",)),
    ("", ("write -c -P 6 0 64k", "write -c -P 7 64k 64k"), ()),
    ("compat=0.10", ("write -P 8 2M 64k",), ()),
    ("cluster_size=4k", ("write -P 9 0 200k",), ()),
    ("cluster_size=512", ("write -P 10 0 20k",), ("write -P 11 4k 4k",)),
    ("extended_l2=on", ("write -P 12 1M 32k",), ()),
    ("lazy_refcounts=on", ("write -P 13 0 64k", "write -z 128k 64k"), ()),
)


def main(folder: Path, count: int) -> None:
    """Build *count* images, complete or none: the kinds once each, the rest copies of them."""
    unfinished = folder.with_suffix(".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for number in range(count):
        path = unfinished / f"{number:03}.qcow2"
        if number < len(KINDS):
            _make(path, *KINDS[number])
        else:
            shutil.copyfile(unfinished / f"{number % len(KINDS):03}.qcow2", path)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def _make(path: Path, options: str, before: tuple[str, ...], after: tuple[str, ...]) -> None:
    chosen = ["-o", options] if options else []
    _run("qemu-img", "create", "-q", "-f", "qcow2", *chosen, str(path), "8M")
    _write(path, before)
    if after:
        _run("qemu-img", "snapshot", "-c", "one", str(path))
        _write(path, after)


def _write(path: Path, commands: tuple[str, ...]) -> None:
    for command in commands:
        _run("qemu-io", "-f", "qcow2", "-c", command, str(path))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
