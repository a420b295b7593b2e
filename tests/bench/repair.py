"""Times the repair of a large image whose refcounts are partly gone, against qemu-img.

    python tests/bench/repair.py [--images DIR] [--runs N] [--peer-runs N]

The 2 TiB image of the bench with one refcount block wiped is repaired on copies: rehearsal,
journal and verification are in qfix's time. qemu-img makes all refcounts anew and takes minutes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from run import CASES, images, middle, run, say  # type: ignore[import-not-found]  # beside it
from tabulate import tabulate

CLUSTER_SIZE = 1 << 16
WIPED = 3
QEMU = ["qemu-img", "check", "-q", "-f", "qcow2", "-r", "all"]
QFIX = [sys.executable, "-m", "qfix", "-q", "--fix", "errors"]


def wiped(source: str, folder: Path) -> Path:
    """Return a copy of an image in which one refcount block is all zeros."""
    path = folder / "image.qcow2"
    for old in folder.iterdir():
        old.unlink()
    subprocess.run(["cp", "--sparse=always", source, path], check=True)
    with path.open("r+b") as file:
        file.seek(CLUSTER_SIZE + 8 * WIPED)
        block = int.from_bytes(file.read(8), "big")
        file.seek(block)
        file.write(bytes(CLUSTER_SIZE))
    return path


def main() -> None:
    """Run both in turn, each on a copy of its own, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, default=Path(tempfile.gettempdir(), "bench-images"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--peer-runs", type=int, default=1)
    chosen = parser.parse_args()
    chosen.images.mkdir(parents=True, exist_ok=True)
    (source,) = images(chosen.images, CASES[0], rebuild=False)
    rows = []
    with tempfile.TemporaryDirectory(dir=chosen.images) as name:
        for title, command, runs in (
            ("qfix --fix errors", QFIX, chosen.runs),
            ("qemu-img check -r all", QEMU, chosen.peer_runs),
        ):
            samples = []
            for _ in range(runs):
                path = wiped(source, Path(name))
                samples.append(run([*command, str(path)]))
            found = middle(samples)
            rows.append([title, runs, f"{found.seconds:.2f}", f"{found.peak_mib:.0f}"])
            say(f"{title}: {found.seconds:.2f} s")
    print(tabulate(rows, headers=["2 TiB, one refcount block wiped", "runs", "s", "MiB"]))


if __name__ == "__main__":
    main()
