"""Times whole qfix processes against qemu-img and qcow2-dump on large and many images.

    python tests/bench/run.py [--images DIR] [--only NAME] [--runs N] [--markdown] ...

A peer and qfix run in turn after a warm-up, so the page cache is warm and a ratio is that of
neighbours. Exit status 1 means that a target was missed or a run failed. This process stays small
(builders run on their own): Linux hands its peak memory on to each child as a floor, about 20 MiB.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from tabulate import tabulate

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SMALL = "small-300"
SMALL_COUNT = 300
START_UP = "start-up"
START_UP_RUNS = 20
START_UP_TARGET = 5.0
EACH = 'for image in "$@"; do qemu-img check -f qcow2 "$image" || exit; done'
COLUMNS = ("image", "peer", "pairs", "peer s", "qfix s", "faster", "target", "peer MiB", "qfix MiB")


@dataclass(frozen=True, slots=True)
class Case:
    """An image, how many times faster than each peer qfix must be on it, and its peak memory."""

    name: str
    title: str
    targets: dict[str, float]
    peak_mib: float | None = None
    slow: frozenset[str] = frozenset()  # peers that run once, with no warm-up of their own
    misjudged: frozenset[str] = frozenset()  # peers known to give a false verdict


@dataclass(frozen=True, slots=True)
class Sample:
    """One finished process."""

    seconds: float
    peak_mib: float


@dataclass(frozen=True, slots=True)
class Pairs:
    """What the runs of one peer and of qfix came to."""

    count: int
    peer: Sample
    qfix: Sample
    ratio: float


QEMU, DUMP = "qemu-img", "qcow2-dump"
CASES = (
    Case("full-2t", "2 TiB, all mapped, in order", {QEMU: 8, DUMP: 3}, peak_mib=136),
    Case("snap-512g", "512 GiB, 7 snapshots that share all tables", {QEMU: 8, DUMP: 3.5}),
    Case(
        "random-512g",
        "512 GiB, clusters in random order",
        {QEMU: 100, DUMP: 1.5},
        slow=frozenset({QEMU}),
        misjudged=frozenset({DUMP}),
    ),
    Case("copied-64g", "64 GiB, 5 snapshots, few copied tables", {QEMU: 1}),
    Case(SMALL, "300 small images, one command", {QEMU: 1}),
)


def main() -> int:
    """Build what is missing, time what was asked for, print the table."""
    options = _options()
    qfix = shlex.split(options.qfix) if options.qfix else [sys.executable, "-m", "qfix"]
    wanted = options.only or [*(case.name for case in CASES), START_UP]
    judged = [
        judge(case, peer, pairs)
        for case in CASES
        if case.name in wanted
        for peer, pairs in timed(case, qfix, options)
    ]
    if judged:
        print(table([row for row, _ in judged], markdown=options.markdown), end="\n\n")
    met = all(reached for _, reached in judged)
    if START_UP in wanted:
        small = images(options.images, CASES[-1], rebuild=False)[1]
        line, reached = start_up([*qfix, "-m", "info", small])
        print(line, end="\n\n")
        met &= reached
    print(machine())
    return 0 if met else 1


def timed(case: Case, qfix: list[str], options: argparse.Namespace) -> Iterator[tuple[str, Pairs]]:
    """Yield each peer of a case with its and qfix's times."""
    paths = images(options.images, case, rebuild=options.rebuild)
    for peer, command in peers(case, paths, options.qcow2_dump).items():
        slow = peer in case.slow
        runs = options.slow_runs if slow else options.runs
        misjudged = peer in case.misjudged
        yield peer, compare(command, [*qfix, *paths], runs, warm=not slow, misjudged=misjudged)


def images(folder: Path, case: Case, *, rebuild: bool) -> list[str]:
    """Return the paths of a case's images; build them, and have QEMU verify them, if missing."""
    if case.name == SMALL:
        place = folder / "small"
        builder = ["small.py", str(place), str(SMALL_COUNT)]
    else:
        place = folder / f"{case.name}.qcow2"
        builder = ["build.py", str(folder), case.name]
    made = rebuild or not place.exists()
    if made:
        say(f"building {case.name}")
        subprocess.run([sys.executable, str(HERE / builder[0]), *builder[1:]], check=True)
    paths = sorted(place.iterdir()) if case.name == SMALL else [place]
    if made and QEMU not in case.slow and not all(map(good, paths)):  # else the timed run tells
        place.rename(place.with_suffix(".bad"))
        raise SystemExit(f"{place} was not built right")
    return [str(path) for path in paths]


def good(path: Path) -> bool:
    """Tell whether qemu-img finds nothing wrong with an image."""
    command = ["qemu-img", "check", "-f", "qcow2", "--output=json", str(path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        return False
    found = json.loads(done.stdout)
    return not any(found.get(key) for key in ("check-errors", "corruptions", "leaks"))


def peers(case: Case, paths: list[str], qcow2_dump: str | None) -> dict[str, list[str]]:
    """Return the commands that do the same work as qfix, by the peer's name."""
    if case.name == SMALL:
        return {QEMU: ["sh", "-c", EACH, "sh", *paths]}
    commands = {QEMU: ["qemu-img", "check", "-f", "qcow2", *paths]}
    if qcow2_dump:
        commands[DUMP] = [qcow2_dump, "-m", "check", *paths]
    return commands


def compare(
    peer: list[str], qfix: list[str], runs: int, *, warm: bool = True, misjudged: bool = False
) -> Pairs:
    """Run a peer and qfix in turn; medians of each, and of the pairs' ratios."""
    if warm:
        run(peer, any_status=misjudged)
    run(qfix)
    pairs = [(run(peer, any_status=misjudged), run(qfix)) for _ in range(runs)]
    ours, theirs = [own for _, own in pairs], [other for other, _ in pairs]
    ratio = median(other.seconds / own.seconds for other, own in pairs)
    return Pairs(runs, middle(theirs), middle(ours), ratio)


def run(command: list[str], *, any_status: bool = False) -> Sample:
    """Run one process to its end; fail if its exit status is not 0."""
    say(shlex.join(command[:6]))
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, cwd=ROOT
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode and not any_status:
            errors.seek(0)
            tail = errors.read()[-1000:].decode(errors="replace")
            raise SystemExit(f"{shlex.join(command[:6])}: status {process.returncode}\n{tail}")
    return Sample(seconds, usage.ru_maxrss / 1024)


def middle(samples: list[Sample]) -> Sample:
    """Return the median time and the highest peak."""
    seconds = median(sample.seconds for sample in samples)
    return Sample(seconds, max(sample.peak_mib for sample in samples))


def judge(case: Case, peer: str, pairs: Pairs) -> tuple[list[str], bool]:
    """Return a row of the table, and whether its targets were reached."""
    target = case.targets.get(peer)
    fast = target is None or pairs.ratio >= target
    small = case.peak_mib is None or pairs.qfix.peak_mib < case.peak_mib
    peak = f"{pairs.qfix.peak_mib:.0f}"
    if case.peak_mib is not None:
        peak += f" (< {case.peak_mib:g}: {verdict(reached=small)})"
    row = [
        case.title,
        peer + (" (false verdict)" if peer in case.misjudged else ""),
        str(pairs.count),
        f"{pairs.peer.seconds:.2f}",
        f"{pairs.qfix.seconds:.2f}",
        f"{pairs.ratio:.2f}x",
        "" if target is None else f"{target:g}x: {verdict(reached=fast)}",
        f"{pairs.peer.peak_mib:.0f}",
        peak,
    ]
    return row, fast and small


def start_up(info: list[str]) -> tuple[str, bool]:
    """Compare info on a small image with an interpreter that does nothing."""
    pairs = compare([sys.executable, "-c", "pass"], info, START_UP_RUNS)
    slower = 1 / pairs.ratio
    reached = slower <= START_UP_TARGET
    line = (
        f"Start-up: info on a small image {pairs.qfix.seconds * 1000:.0f} ms, `python -c pass` "
        f"{pairs.peer.seconds * 1000:.0f} ms: {slower:.1f}x "
        f"(at most {START_UP_TARGET:g}x: {verdict(reached=reached)}; {pairs.count} pairs)."
    )
    return line, reached


def verdict(*, reached: bool) -> str:
    """Say whether a target was reached."""
    return "met" if reached else "MISSED"


def table(rows: list[list[str]], *, markdown: bool) -> str:
    """Lay out the rows, for a terminal or for the README."""
    align = ("left", "left", *("right",) * (len(COLUMNS) - 2))
    style = "pipe" if markdown else "simple"
    text: str = tabulate(rows, COLUMNS, style, disable_numparse=True, colalign=align)
    return text


def machine() -> str:
    """Describe what the numbers were taken on."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    qemu = subprocess.check_output(["qemu-img", "--version"], text=True).split()[2]
    return (
        f"Medians, warm page cache, on {cpu}, {os.cpu_count()} cores, Linux {platform.release()}, "
        f"Python {platform.python_version()}, numpy {metadata.version('numpy')}, QEMU {qemu}."
    )


def say(text: str) -> None:
    """Tell on a terminal what is going on."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    add = parser.add_argument
    folder = Path(tempfile.gettempdir()) / "qfix-bench"
    names = [*(case.name for case in CASES), START_UP]
    add("--images", type=Path, default=folder, help="where images are kept (%(default)s)")
    add("--rebuild", action="store_true", help="build them anew")
    add("--only", action="append", choices=names, help="may be given more than once")
    add("--runs", type=int, default=5, help="pairs a row (%(default)s)")
    add("--slow-runs", type=int, default=1, help="pairs with a peer that takes minutes")
    add("--qfix", metavar="CMD", help="the qfix to time (this interpreter's -m qfix)")
    add("--qcow2-dump", metavar="PATH", help="compare with this binary too")
    add("--markdown", action="store_true", help="print the table for the README")
    options = parser.parse_args()
    options.images = options.images.resolve()
    return options


if __name__ == "__main__":
    raise SystemExit(main())
