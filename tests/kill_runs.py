"""Kills real runs of a change at random moments and checks what they leave: a long-run command.

`python tests/kill_runs.py --runs 200` kills 200 runs. Each result is finished in one copy and
taken back in another; both must be exact.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

SOURCE = Path(__file__).parents[1]
sys.path[:0] = [str(SOURCE), str(SOURCE / "tests")]

from amendments import change, image, many  # noqa: E402
from qfix.change import database, records  # noqa: E402
from qfix.change.apply import FileDisk, carry_out  # noqa: E402
from qfix.change.journal import Kind, is_hot, open_journal, pending  # noqa: E402
from qfix.change.recover import resume, undo  # noqa: E402
from qfix.file import open_file  # noqa: E402

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator

    from amendments import Case
    from qfix.change.pieces import Piece
    from qfix.change.records import Journal

SIZE = 2 << 20
WORDS = ("ready", "writing", "done")
SUFFIX = ".qfix-journal"


def large(old: bytes) -> Case:
    """Return the change that is killed: 200 pieces, and the file grows."""
    places = many(200, 6000, 10000)
    return change(old, *places, (SIZE - 5000, SIZE + 40000), size=SIZE + 70000)


def made(path: Path, *, history: bool = False) -> tuple[bytes, bytes]:
    """Make the image to change, perhaps with a change behind it; return it before and after."""
    first = change(image(SIZE), (700, 900), (1 << 20, (1 << 20) + 9000))
    path.write_bytes(first.old)
    if history:
        with open_file(path, write=True) as file, open_journal(file) as journal:
            carry_out(FileDisk(file), journal, first.amendment)
    case = large(path.read_bytes())
    return case.old, case.new


def check(path: Path, old: bytes, new: bytes) -> str:
    """Check that what is left can be finished and taken back; return how far the change got."""
    hot = "hot journal, " if is_hot(str(path) + SUFFIX) else ""
    found = pending(str(path))
    assert bool(hot) == (found is not None and found.record is None)
    words = ""
    for act in (resume, undo):
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            copy = Path(folder, path.name)
            for name in (path.name, path.name + SUFFIX, path.name + SUFFIX + "-journal"):
                if path.with_name(name).exists():
                    shutil.copy2(path.with_name(name), copy.with_name(name))
            with open_file(copy, write=True) as file, open_journal(file) as journal:
                words = how_far(journal)
                if words == "applying":
                    act(FileDisk(file), journal)
            after = words == "applied" or (words == "applying" and act is resume)
            assert copy.read_bytes() == (new if after else old)
            assert pending(str(copy)) is None
            left = {name for name in os.listdir(folder) if "journal" in name}
            assert left <= {path.name + SUFFIX}
    return hot + words


def how_far(journal: Journal) -> str:
    """Tell the state of the large change in the journal."""
    done = [record for record in journal.records() if record.new_size > SIZE]
    assert all(record.kind is Kind.CHANGE for record in done)
    return str(done[-1].state) if done else "nothing"


def kill_all(folder: Path, runs: int, seed: int) -> Counter[str]:
    """Kill that many runs, each at another moment; count how far they got.

    Two of three are killed after their first write to the image, where most can go wrong.
    """
    chance = random.Random(seed)  # noqa: S311  (moments need not be secret)
    result: Counter[str] = Counter()
    longest = [run_and_kill(made_fresh(folder, history=True), word) for word in WORDS[:2]]
    for number in range(runs):
        path = made_fresh(folder, history=bool(number % 2))
        old = path.read_bytes()
        late = number % 3 > 0
        run_and_kill(path, WORDS[late], chance.uniform(0, 1.1 * longest[late]))
        result[check(path, old, large(old).new)] += 1
    return result


def made_fresh(folder: Path, *, history: bool) -> Path:
    """Return a new image in the folder, in the place of the one before."""
    for name in folder.glob("image*"):
        name.unlink()
    made(folder / "image", history=history)
    return folder / "image"


def run_and_kill(path: Path, word: str, after: float | None = None) -> float:
    """Run the change and kill it so many seconds after its word; return how long it ran on."""
    with subprocess.Popen(
        [sys.executable, __file__, "--wait", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        said = process.stdout.readline()
        start = time.perf_counter()
        process.stdin.close()
        while said.decode().strip() != word:
            said = process.stdout.readline()
            start = time.perf_counter()
        if after is None:
            while said.decode().strip() != WORDS[-1]:
                said = process.stdout.readline()
            after = time.perf_counter() - start
        else:
            time.sleep(after)
            process.kill()
        assert process.wait() in {0, -signal.SIGKILL}
        return after


def say(word: str) -> None:
    """Tell the process that waits how far this one is."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def die() -> None:
    """End this process as a power cut does."""
    os.kill(os.getpid(), signal.SIGKILL)


class DyingDisk(FileDisk):
    """A disk whose process dies at one of its writes."""

    writes = 0
    last = 0

    def pwrite(self, offset: int, data: bytes) -> None:
        """Write all of *data*, or half of it and no more."""
        type(self).writes += 1
        if self.writes == 1:
            say(WORDS[1])
        if self.writes == self.last:
            super().pwrite(offset, data[: len(data) // 2])
            die()
        super().pwrite(offset, data)


def traced(commit: int) -> Callable[[str, str], sqlite3.Connection]:
    """Return a way to open journals so that the process dies before that commit."""
    commits = iter(range(1, 100))

    def trace(statement: str) -> None:
        if statement == "COMMIT" and next(commits) == commit:
            die()

    def open_traced(path: str, access: str) -> sqlite3.Connection:
        connection = database.connect(path, access)
        connection.set_trace_callback(trace)
        return connection

    return open_traced


def dying(pieces: Iterable[Piece], last: int) -> Iterator[Piece]:
    """Yield pieces; the process dies at one."""
    for number, piece in enumerate(pieces):
        if number == last:
            die()
        yield piece


def change_one(options: argparse.Namespace) -> None:
    """Make the change, and die at the step that is asked for."""
    amendment = large(Path(options.image).read_bytes()).amendment
    if options.wait:
        say(WORDS[0])
        sys.stdin.read()
    DyingDisk.last = options.at_write
    setattr(records, "connect", traced(options.at_commit))  # noqa: B010  (its type is declared)
    amendment = amendment._replace(pieces=dying(amendment.pieces, options.at_piece))
    with open_file(options.image, write=True) as file, open_journal(file) as journal:
        carry_out(DyingDisk(file), journal, amendment)
    say(WORDS[2])


def main() -> None:
    """Read the command line: kill many runs, or be the one that is killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200, help="how many runs to kill")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("--folder", help="where to work")
    for step in ("piece", "commit", "write"):
        parser.add_argument(f"--at-{step}", type=int, default=-1, help=argparse.SUPPRESS)
    parser.add_argument("--wait", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("image", nargs="?", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.image is not None:
        change_one(options)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        start = time.perf_counter()
        result = kill_all(Path(folder), options.runs, options.seed)
        seconds = time.perf_counter() - start
    told = ", ".join(f"{words}: {count}" for words, count in sorted(result.items()))
    sys.stdout.write(f"{options.runs} runs in {seconds:.0f} s, each exact both ways; {told}\n")


if __name__ == "__main__":
    main()
