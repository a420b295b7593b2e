"""Kills real runs of a repair at random moments and checks what they leave: a long-run command.

`python tests/kill_repairs.py --runs 200` kills 200 runs that make the refcounts of an image anew.
Each result is finished in one copy and taken back in another; both must be exact.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

SOURCE = Path(__file__).parents[1]
QFIX = (sys.executable, "-m", "qfix")
REPAIR = (*QFIX, "-q", "--fix", "errors")
SUFFIX = ".qfix-journal"
REFTABLE_OFFSET_AT = 48
LIMIT_S = 60


def damaged(folder: Path) -> Path:
    """Make an image of many refcount blocks whose refcount table is not where the header says."""
    path = folder / "damaged.qcow2"
    size, options = "24M", "cluster_size=512,refcount_bits=64"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path, size], check=True
    )
    write = ("qemu-io", "-c", f"write -q -P 7 0 {size}", str(path))
    subprocess.run(write, check=True, stdout=subprocess.DEVNULL)
    with path.open("r+b") as file:
        file.seek(REFTABLE_OFFSET_AT)
        file.write((1 << 40).to_bytes(8, "big"))
    return path


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fresh(folder: Path, source: Path, name: str) -> Path:
    """Return a copy of an image, with its journal if it has one."""
    place = folder / name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for path in source.parent.glob(source.name + "*"):
        shutil.copy2(path, place / path.name)
    return place / source.name


def kill_all(folder: Path, runs: int, seed: int) -> Counter[str]:
    """Kill that many runs, each at another moment; count what they left."""
    chance = random.Random(seed)  # noqa: S311  (moments need not be secret)
    made = folder / "made"
    made.mkdir()
    source = damaged(made)
    whole = fresh(folder, source, "whole")
    span = _run(whole)
    old, new = digest(source), digest(whole)
    result: Counter[str] = Counter()
    for _ in range(runs):
        path = fresh(folder, source, "killed")
        _run(path, chance.uniform(0, 0.4 * span))
        result[_check(folder, path, old, new)] += 1
    return result


def _run(path: Path, kill_after: float | None = None) -> float:
    """Run a repair; kill it so long after its journal has appeared. Return how long it ran on."""
    journal = Path(f"{path}{SUFFIX}")
    with subprocess.Popen([*REPAIR, path], cwd=SOURCE, stdout=subprocess.DEVNULL) as process:
        while not journal.exists() and process.poll() is None:
            time.sleep(0.001)
        start = time.perf_counter()
        if kill_after is None:
            process.wait(LIMIT_S)
        else:
            time.sleep(kill_after)
            process.kill()
    return time.perf_counter() - start


def _check(folder: Path, path: Path, old: str, new: str) -> str:
    """Check that what is left can be finished and taken back; return how far the repair got."""
    ends = {}
    for option in ("--resume", "--undo"):
        copy = fresh(folder, path, option.strip("-"))
        before = digest(copy)
        done = subprocess.run(
            [*QFIX, "-q", option, copy], cwd=SOURCE, capture_output=True, text=True, check=False
        )
        ends[option] = digest(copy)
        if done.returncode == 64:  # nothing to finish, or to take back
            assert before in {old, new}, done.stderr
            assert ends[option] == before
        else:
            assert ends[option] == (new if option == "--resume" else old), done.stderr
    if ends["--resume"] == old:
        return "not begun"
    return "done" if digest(path) == new else "in the midst"


def main() -> None:
    """Kill as many runs as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        result = kill_all(Path(folder), chosen.runs, chosen.seed)
        seconds = time.perf_counter() - start
    told = ", ".join(f"{words}: {count}" for words, count in sorted(result.items()))
    sys.stdout.write(f"{chosen.runs} runs in {seconds:.0f} s, each exact both ways; {told}\n")


if __name__ == "__main__":
    main()
