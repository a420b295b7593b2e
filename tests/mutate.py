"""Damages small images in many ways and runs the program on each: by hand, for as long as wanted.

    python tests/mutate.py --seconds 600 --keep /tmp/mutants
    python tests/mutate.py --count 5000 --seed 7 --against-qemu

A failure is one line with the seed, the number of the mutant, its base and what was done to it.
The same seed and bases give the same mutants, however many jobs there are. The exit status is 1
when there was a failure.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import signal
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING

import mutant_run
from mutant_bases import all_bases, read_bases
from mutations import Base, build

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.context import ForkProcess

    from mutant_sites import Anatomy

RAM_FOLDER = Path("/dev/shm")  # noqa: S108 - only a folder that is fast, never a fixed name in it
DEFAULT_SECONDS = 60.0
MAX_STEPS_SHOWN = 12
START_LIMIT_S = 60.0
FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True, slots=True)
class Work:
    """What all workers are to do."""

    bases: list[Base]
    folder: Path
    seed: int
    jobs: int
    count: int | None
    deadline: float
    against_qemu: bool

    @property
    def patience(self) -> float:
        """How long a worker may say nothing before it counts as stuck, in seconds."""
        qemu = mutant_run.QEMU_TIME_LIMIT_S if self.against_qemu else 0
        return 2 * mutant_run.TIME_LIMIT_S + qemu


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one mutant; the index is -1 for the message that a worker is ready."""

    index: int
    seconds: float = 0.0
    rss_kib: int = 0
    compared: bool = False
    failures: tuple[str, ...] = ()


@dataclass(slots=True)
class Worker:
    """A forked process, its pipe, and the mutant it is working on."""

    process: ForkProcess
    pipe: Connection
    index: int
    heard: float
    ready: bool = False


@dataclass(slots=True)
class Totals:
    """What the last line says."""

    started: float
    mutants: int = 0
    failures: int = 0
    compared: int = 0
    slowest: tuple[float, int] = (0.0, -1)
    rss_kib: int = 0

    def add(self, result: Result) -> None:
        """Take in the result of one mutant."""
        self.mutants += 1
        self.failures += bool(result.failures)
        self.compared += result.compared
        self.slowest = max(self.slowest, (result.seconds, result.index))
        self.rss_kib = max(self.rss_kib, result.rss_kib)

    def __str__(self) -> str:
        """Return all of it in one line."""
        seconds = time.monotonic() - self.started
        compared = f", {self.compared} compared with qemu-img" if self.compared else ""
        return (
            f"{self.mutants} mutants, {self.failures} failures{compared}, {seconds:.0f} s, "
            f"{self.mutants / max(seconds, 0.001):.0f} mutants/s, "
            f"slowest {self.slowest[0]:.2f} s (number {self.slowest[1]}), "
            f"peak RSS {self.rss_kib / 1024:.0f} MiB"
        )


def work_through(work: Work, first: int, pipe: Connection) -> None:
    """Be a worker: every jobs-th mutant from *first* on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    mutant_run.set_limits()
    warnings.simplefilter("error")
    main = mutant_run.load_main()
    pipe.send(Result(-1))
    anatomies: dict[str, Anatomy] = {}
    index = first
    folder = Path(tempfile.mkdtemp(dir=work.folder))
    while (work.count is None or index < work.count) and time.monotonic() < work.deadline:
        mutant = build(work.bases, anatomies, work.seed, index)
        path = mutant_run.place(mutant, folder)
        started = time.perf_counter()
        wrong, record = mutant_run.judge(main, mutant, path)
        seconds = time.perf_counter() - started
        difference = None
        if work.against_qemu and record:
            difference = mutant_run.compare_with_qemu(mutant.base, path, record)
            wrong += [f"qemu-img: {difference}"] if difference else []
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        pipe.send(Result(index, seconds, rss, difference is not None, tuple(wrong)))
        index += work.jobs


@dataclass(slots=True)
class Crew:
    """The workers: starts them, hears them, replaces one that is stuck or dead."""

    work: Work
    workers: list[Worker] = field(default_factory=list)

    def start(self, first: int) -> None:
        """Start a worker with mutant *first*."""
        ours, theirs = FORK.Pipe(duplex=False)
        process = FORK.Process(target=work_through, args=(self.work, first, theirs), daemon=True)
        process.start()
        theirs.close()
        self.workers.append(Worker(process, ours, first, time.monotonic()))

    def results(self) -> Iterator[Result]:
        """Yield every result until the last worker is done."""
        while self.workers:
            ready = wait([worker.pipe for worker in self.workers], timeout=0.5)
            for worker in list(self.workers):
                if worker.pipe in ready:
                    yield from self._hear(worker)
                elif time.monotonic() - worker.heard > self._patience(worker):
                    worker.process.kill()
                    yield self._replace(worker, "hangs and takes no alarm")

    def _patience(self, worker: Worker) -> float:
        return self.work.patience if worker.ready else START_LIMIT_S

    def _hear(self, worker: Worker) -> Iterator[Result]:
        """Take one message from a worker, or its end."""
        try:
            result: Result = worker.pipe.recv()
        except EOFError:
            worker.process.join()
            if worker.process.exitcode:
                yield self._replace(worker, f"worker died, {worker.process.exitcode}")
            else:
                self.workers.remove(worker)
            return
        worker.heard = time.monotonic()
        if result.index < 0:
            worker.ready = True
        else:
            worker.index = result.index + self.work.jobs
            yield result

    def _replace(self, worker: Worker, why: str) -> Result:
        """Start another worker behind the mutant that this one did not survive."""
        worker.process.join()
        worker.pipe.close()
        self.workers.remove(worker)
        if not worker.ready:
            raise SystemExit(f"a worker can't start: {why}")
        self.start(worker.index + self.work.jobs)
        return Result(worker.index, failures=(why,))

    def stop(self) -> None:
        """End what still runs."""
        for worker in self.workers:
            worker.process.kill()
            worker.process.join()


def fast_folder() -> Path | None:
    """Return a folder in memory for temporary files, None for the usual one."""
    return RAM_FOLDER if RAM_FOLDER.is_dir() else None


def report(work: Work, result: Result, folder: Path | None) -> None:
    """Print one line on a failure and save the mutant."""
    mutant = build(work.bases, {}, work.seed, result.index)
    steps = "; ".join(mutant.steps[:MAX_STEPS_SHOWN])
    more = len(mutant.steps) - MAX_STEPS_SHOWN
    steps += f"; and {more} more" if more > 0 else ""
    what = " | ".join(result.failures).replace("\n", "\\n")
    line = (
        f"FAILED seed {work.seed} number {result.index} base {mutant.base.name} ({steps}): {what}"
    )
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
    if folder:
        mutant_run.keep(mutant, folder, f"{work.seed}-{result.index}")


def run(work: Work, folder: Path | None) -> Totals:
    """Run all mutants and return the totals; Ctrl-C and SIGTERM end it early."""
    totals = Totals(time.monotonic())
    crew = Crew(work)
    shown = totals.started
    try:
        for first in range(work.jobs):
            crew.start(first)
        for result in crew.results():
            totals.add(result)
            if result.failures:
                report(work, result, folder)
            if time.monotonic() - shown > 1:
                shown = time.monotonic()
                sys.stderr.write(f"\r{totals}")
    except KeyboardInterrupt:
        pass
    finally:
        crew.stop()
        sys.stderr.write("\n")
    return totals


def options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, help="how long, default 60 if there is no count")
    parser.add_argument("--count", type=int, help="how many mutants")
    parser.add_argument("--seed", type=int, help="default: the time of day")
    parser.add_argument("--jobs", type=int, help="how many workers, default one a processor")
    parser.add_argument("--against-qemu", action="store_true", help="compare qemu-img's counts")
    parser.add_argument("--keep", type=Path, help="save the mutants that fail in this folder")
    parser.add_argument("--base", type=Path, help="mutate the *.qcow2 files of this folder only")
    return parser.parse_args()


def main() -> int:
    """Do what the command line says; return the exit status."""
    chosen = options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    seconds = chosen.seconds
    if seconds is None:
        seconds = DEFAULT_SECONDS if chosen.count is None else float("inf")
    seed = int(time.time()) if chosen.seed is None else chosen.seed
    with tempfile.TemporaryDirectory(dir=fast_folder()) as folder:
        made = Path(folder)
        bases = read_bases(chosen.base) if chosen.base else all_bases(made)
        if not bases:
            raise SystemExit(f"no *.qcow2 file in {chosen.base}")
        jobs = chosen.jobs or multiprocessing.cpu_count()
        deadline = time.monotonic() + seconds
        work = Work(bases, made, seed, jobs, chosen.count, deadline, chosen.against_qemu)
        sys.stderr.write(f"seed {seed}, {len(bases)} bases, {jobs} jobs\n")
        totals = run(work, chosen.keep)
    sys.stdout.write(f"{totals}\n")
    return 1 if totals.failures else 0


if __name__ == "__main__":
    sys.exit(main())
