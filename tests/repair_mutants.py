"""Repairs images that were damaged at random, and tells what is wrong with what came of it.

    python tests/repair_mutants.py --count 1000 --seed 7 --seconds 600

Whatever the damage, a repair ends with a status of the image, what it leaves is left by the next
run too, and an undo brings back every byte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mutant_bases import all_bases
from mutant_run import call
from mutations import build
from qfix.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mutant_sites import Anatomy
    from mutations import Base, Mutant

LEVELS = (("--fix", "all"), ("--fix", "all", "--lossy"))
IMAGE_STATUSES = frozenset({0, 1, 2, 3, 4, 5, 6, 8})
MOST_UNDONE = 4
SMALL = 8 << 20


def repaired(path: Path, *options: str) -> tuple[int | None, dict[str, Any] | None, str]:
    """Run qfix on an image; return status, JSON and what it said on standard error."""
    done = call(main, "--output", "json", *options, str(path))
    text = done.stderr + done.raised
    try:
        return done.status, json.loads(done.stdout), text
    except ValueError:
        return done.status, None, text


def faults(mutant: Mutant, path: Path) -> Iterator[str]:
    """Yield what is wrong with the repairs of a mutant, which is written to *path*."""
    for level in LEVELS:
        for old in path.parent.glob(path.name + "*"):
            old.unlink()
        with path.open("wb") as file:
            file.write(mutant.data)
            file.truncate(mutant.size)
        for fault in _faults_of(path, level):
            yield f"{' '.join(level)}: {fault}"


def _faults_of(path: Path, level: tuple[str, ...]) -> Iterator[str]:
    before = _digest(path)
    status, said, text = repaired(path, *level)
    if said is None or "Traceback" in text or status not in IMAGE_STATUSES:
        yield f"status {status}: {text.strip()[-300:]}"
        return
    if said["qfix"]["error"]:
        yield f"error: {said['qfix']['error']}"
        return
    change = said["qfix"]["change"]
    again = repaired(path, *level)[1]
    if again is None or again["qfix"].get("change", {"applied": True})["applied"]:
        yield "a second run changes something"
    if not change["applied"]:
        if _digest(path) != before:
            yield "the file is another one, but no change is told"
        return
    if not change["changes"]:
        yield "a change without a reason"
    for _ in range(MOST_UNDONE):
        undone = repaired(path, "--undo")[1]
        if undone is None or undone["qfix"]["error"]:
            break
    if _digest(path) != before:
        yield "undo does not bring back every byte"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.stat().st_size < SMALL else ""


def run(seed: int, count: int, seconds: float, bases: list[Base], folder: Path) -> Iterator[str]:
    """Yield a line for each fault of *count* mutants, as far as *seconds* last."""
    anatomies: dict[str, Anatomy] = {}
    end = time.monotonic() + seconds
    for index in range(count):
        if time.monotonic() > end:
            break
        mutant = build(bases, anatomies, seed, index)
        for fault in faults(mutant, folder / "image.qcow2"):
            steps = "; ".join(mutant.steps[:8])
            yield f"{seed}:{index} {mutant.base.name} [{steps}] {fault}"


def command() -> int:
    """Run as a program; return 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60)
    chosen = parser.parse_args()
    found = 0
    with tempfile.TemporaryDirectory() as made, tempfile.TemporaryDirectory() as folder:
        bases = all_bases(Path(made))
        for line in run(chosen.seed, chosen.count, chosen.seconds, bases, Path(folder)):
            found += 1
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(command())
