"""Repairs of damaged images, judged by what qemu-img checks and reads before and after.

Every kind of single fault and of combined damage is put into a small image once; the full matrix is
``python tests/repair_table.py``.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING

import pytest

import qemu
import qemu_faults
import repair_cases
from repair_combined import KINDS
from repair_excuses import FIELDS
from repair_trials import Case, Result, run_case

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("need_qemu")

JOBS = 2
LEAST_KINDS = 40
HOPELESS = {*FIELDS, "length", "incompatible", "backing_file_name", "data_file_name"}
HOPELESS |= {"extension-type", "extension-length", "header_length"}
"""Places whose damage may leave an image that nobody can make clean; `repair_excuses` says when."""

_cases: list[Case] = []


def _run(number: int) -> Result:
    """Run a case that this process has from the one that it was forked from."""
    case = _cases[number]
    return run_case(case, direct=case.name.partition("~")[2] in KINDS)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Result]]:
    """Repair all damaged copies; return what became of them by fault and by kind."""
    qemu.require()
    sounds = repair_cases.build_small(tmp_path_factory.mktemp("repairs"))
    _cases[:] = [*repair_cases.each_kind_once(sounds), *repair_cases.each_fault_once(sounds)]
    with ProcessPoolExecutor(JOBS, mp_context=get_context("fork")) as pool:
        done = pool.map(_run, range(len(_cases)), chunksize=4)
        yield {result.name.partition("~")[2]: result for result in done}
    _cases.clear()


def _complain(result: Result) -> None:
    """Fail if anything is wrong with any of the ways of repair."""
    wrong = [f"{way}: {text}" for way, each in result.verdicts() for text in each.complaints]
    if wrong:
        pytest.fail(f"{result.name}: " + "\n".join(wrong), pytrace=False)


@pytest.mark.parametrize("fault", qemu_faults.FAULTS)
def test_repairs_every_kind_of_fault(fault: str, results: dict[str, Result]) -> None:
    _complain(results[fault])


@pytest.mark.parametrize("kind", KINDS)
def test_repairs_combined_damage(kind: str, results: dict[str, Result]) -> None:
    _complain(results[kind])
    assert all(verdict.is_clean for way, verdict in results[kind].verdicts() if "lossy" in way)


def test_only_lost_headers_and_l1_tables_are_excused(results: dict[str, Result]) -> None:
    excused = {name for name, each in results.items() if each.after_lossless.excuse}
    assert {name for name in excused if name.partition("=")[0] not in HOPELESS} == set()
    assert len(excused) < len(results) / 10


def test_most_damage_is_repaired_without_a_loss(results: dict[str, Result]) -> None:
    clean = [name for name, each in results.items() if each.lossless.is_clean]
    assert len(clean) > len(results) * 2 / 5


def test_lossless_repairs_give_up_nothing(results: dict[str, Result]) -> None:
    assert {name: each.lossless.given_up for name, each in results.items()} == dict.fromkeys(
        results, 0
    )


def test_there_are_kinds_enough() -> None:
    assert len(KINDS) >= LEAST_KINDS
