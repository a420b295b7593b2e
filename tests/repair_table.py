"""Repair many damaged images with qfix and copies of them with qemu-img; print what came of it.

python tests/repair_table.py            all of it: some minutes
python tests/repair_table.py --only RE  cases whose name matches, with every complaint
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import repair_cases  # noqa: E402
from repair_combined import RECIPES  # noqa: E402
from repair_trials import Case, Result, run_case, run_levels  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from repair_judge import Verdict
    from repair_measure import Measure

JOBS = 2
SHOWN = 3
TOLD = 200
NUMBERS = re.compile(r"0x[0-9a-f]+|(?<=[ :(])\d+")


def all_cases(folder: Path, sets: str, seeds: int) -> Iterator[Case]:
    """Yield the cases of the sets that are asked for."""
    small = repair_cases.build_all(RECIPES.values(), folder / "small")
    if "combined" in sets:
        yield from repair_cases.each_kind_on_all(small, seeds)
    if "every" in sets:
        yield from repair_cases.each_fault_on_all(small)
    if "suite" in sets:
        yield from repair_cases.each_fault_once(small)
        yield from repair_cases.each_kind_once(small)
    if "assigned" in sets:
        yield from repair_cases.assigned_faults(repair_cases.build_large(folder / "large"))


_cases: list[Case] = []
"""What the processes work on: they have it from this one."""


def run_one(number: int, way: str) -> Result:
    """Run a case in one of the ways."""
    case = _cases[number]
    return run_levels(case) if way == "levels" else run_case(case, with_qemu=way == "all")


def run_all(cases: Iterable[Case], way: str) -> Iterator[Result]:
    """Run cases in a few processes that share what this one has built."""
    _cases[:] = cases
    with ProcessPoolExecutor(JOBS, mp_context=get_context("fork")) as pool:
        work = partial(run_one, way=way)
        for count, result in enumerate(pool.map(work, range(len(_cases)), chunksize=4), 1):
            if count % TOLD == 0:
                sys.stderr.write(f"{count}/{len(_cases)}\n")
            yield result


HEADS = (
    *("damage", "images", "clean after `--fix all`", "clean after `--fix all --lossy`"),
    *("can't be clean", "clean after `qemu-img check -r all`"),
    "good data changed unsaid: qfix / qemu-img",
    "guest clusters that read right: damaged / `--fix all` / `--lossy` / qemu-img",
    "data clusters wiped from the file: qfix / qemu-img",
    "clean with clusters shared wrongly: qfix / qemu-img",
    "snapshots lost: qfix / qemu-img",
    "worse than before: qfix / qemu-img",
)


def table(results: list[Result]) -> Iterator[str]:
    """Yield the lines of the table for the issue."""
    groups: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        groups[result.group].append(result)
    yield f"| {' | '.join(HEADS)} |"
    yield "|---|" + "---:|" * (len(HEADS) - 1)
    for group, found in groups.items():
        yield _row(group, found)
    yield _row("**all**", results)


def _row(group: str, found: list[Result]) -> str:
    qfix = [result.lossy or result.after_lossless for result in found]
    lossless = [result.lossless for result in found]
    qemu = [result.qemu for result in found if result.qemu is not None]
    changed = sum(any(not each.keeps_data for _, each in result.verdicts()) for result in found)
    worse = sum(any(each.is_worse for _, each in result.verdicts()) for result in found)
    right = [_percent([result.before for result in found])]
    right += [_percent([each.measure for each in some]) for some in (lossless, qfix, qemu)]
    wiped = [max(0, _sum(some, "wiped") - _wiped_before(found)) for some in (qfix, qemu)]
    cells = (
        *(group, len(found), _clean(lossless), _clean(qfix)),
        *(sum(bool(each.excuse) for each in qfix), _clean(qemu)),
        f"{changed} / {sum(not each.keeps_data for each in qemu)}",
        " / ".join(right),
        f"{wiped[0]} / {wiped[1]}",
        f"{_hidden(qfix)} / {_hidden(qemu)}",
        f"{_lost(qfix)} / {_lost(qemu)}",
        f"{worse} / {sum(each.is_worse for each in qemu)}",
    )
    return f"| {' | '.join(map(str, cells))} |"


def _percent(measures: list[Measure | None]) -> str:
    known = [each for each in measures if each is not None]
    every = sum(each.all for each in known)
    return f"{100 * sum(each.right for each in known) / every:.1f} %" if every else "-"


def _sum(verdicts: Iterable[Verdict], what: str) -> int:
    return sum(getattr(each.measure, what) for each in verdicts if each.measure is not None)


def _wiped_before(found: list[Result]) -> int:
    return sum(result.before.wiped for result in found if result.before is not None)


def _clean(verdicts: Iterable[Verdict]) -> int:
    return sum(each.is_clean for each in verdicts)


def _hidden(verdicts: Iterable[Verdict]) -> int:
    clean = [each for each in verdicts if each.is_clean and each.measure is not None]
    return sum(each.measure.hidden > 0 for each in clean if each.measure is not None)


def _lost(verdicts: Iterable[Verdict]) -> int:
    return sum(each.snapshots_lost for each in verdicts)


def complaints(results: Iterable[Result], *, whole: bool) -> Iterator[str]:
    """Yield what is wrong, alike complaints together."""
    alike: dict[str, list[str]] = defaultdict(list)
    for result in results:
        for way, verdict in result.verdicts():
            for text in verdict.complaints:
                short = NUMBERS.sub("N", re.sub(r"/\S*/", "", text))
                alike[text if whole else short[:300]].append(f"{result.name} [{way}]")
    for text, names in sorted(alike.items(), key=lambda item: (item[0][:9], -len(item[1]))):
        cases = Counter(name.partition(" [")[0] for name in names)
        yield f"{len(cases)} x {text}"
        yield from (f"      {name}" for name in names[: SHOWN if not whole else None])


def main() -> int:
    """Run from the command line; the exit status tells whether anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", metavar="RE", help="cases whose name matches")
    parser.add_argument("--sets", default="combined,assigned", help="combined assigned every suite")
    parser.add_argument("--seeds", type=int, default=1, help="copies of each combined kind")
    parser.add_argument("--no-qemu", action="store_true", help="do not let qemu-img repair")
    parser.add_argument("--levels", action="store_true", help="leaks, errors, reuse instead")
    parser.add_argument("--whole", action="store_true", help="list every complaint as it is")
    options = parser.parse_args()
    way = "levels" if options.levels else "qfix" if options.no_qemu else "all"
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="repair-table-") as folder:
        (Path(folder) / "small").mkdir()
        (Path(folder) / "large").mkdir()
        cases = [
            case
            for case in all_cases(Path(folder), options.sets, options.seeds)
            if re.search(options.only or "", case.name)
        ]
        results = list(run_all(cases, way))
    lines = [*complaints(results, whole=options.whole)]
    sys.stdout.write("\n".join(chain(lines, ("",), table(results))) + "\n")
    seconds = time.monotonic() - started
    sys.stdout.write(f"{len(results)} images in {seconds:.0f} s, {os.cpu_count()} cores\n")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
