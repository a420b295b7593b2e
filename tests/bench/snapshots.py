"""Times snapshot operations on a large image whose snapshots share all tables, against qemu-img.

    python tests/bench/snapshots.py [--images DIR] [--runs N]

One of the seven snapshots of the 512 GiB image of the bench is deleted, and the active layer, which
was written to since, is reverted to one: on copies, in turn. Rehearsal, journal and verification
are in qfix's time.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from run import CASES, Sample, images, middle, run, say  # type: ignore[import-not-found]  # beside it
from tabulate import tabulate

SNAPSHOT = "4"
WRITES = 64
STEP_GIB = 8
OPERATIONS = {"delete": ("-D", "-d"), "revert": ("-A", "-a")}


def written(source: str, folder: Path) -> Path:
    """Return a copy of an image whose active layer differs from its snapshots in many tables."""
    path = folder / "written.qcow2"
    subprocess.run(["cp", "--sparse=always", source, path], check=True)
    writes = [f"write -q -P 5 {number * STEP_GIB}G 64k" for number in range(WRITES)]
    words = [word for write in writes for word in ("-c", write)]
    subprocess.run(["qemu-io", "-f", "qcow2", *words, path], check=True)
    return path


def fresh(source: Path, folder: Path) -> Path:
    """Return a new copy of an image in an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    subprocess.run(["cp", "--sparse=always", source, folder], check=True)
    return folder / source.name


def main() -> None:
    """Run both in turn, each on a copy of its own, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, default=Path(tempfile.gettempdir(), "bench-images"))
    parser.add_argument("--runs", type=int, default=5)
    chosen = parser.parse_args()
    chosen.images.mkdir(parents=True, exist_ok=True)
    case = next(case for case in CASES if case.name == "snap-512g")
    (source,) = images(chosen.images, case, rebuild=False)
    rows = []
    with tempfile.TemporaryDirectory(dir=chosen.images) as name:
        image = written(source, Path(name))
        for title, (ours, theirs) in OPERATIONS.items():
            commands = {
                "qfix": [sys.executable, "-m", "qfix", "-q", ours, SNAPSHOT],
                "qemu-img": ["qemu-img", "snapshot", theirs, SNAPSHOT],
            }
            samples: dict[str, list[Sample]] = {program: [] for program in commands}
            for _ in range(chosen.runs):
                for program, command in commands.items():
                    path = fresh(image, Path(name, "copy"))
                    samples[program].append(run([*command, str(path)]))
            found = {program: middle(runs) for program, runs in samples.items()}
            cells = [f"{found[p].seconds:.2f} s, {found[p].peak_mib:.0f} MiB" for p in commands]
            ratio = found["qemu-img"].seconds / found["qfix"].seconds
            rows.append([title, chosen.runs, *cells, f"{ratio:.1f}x"])
            say(f"{title}: {cells}")
    headers = ["512 GiB, 7 snapshots", "runs", "qfix", "qemu-img", "faster"]
    print(tabulate(rows, headers=headers))


if __name__ == "__main__":
    main()
