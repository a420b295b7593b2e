"""-A, -D and -E on damaged images: what was not hit reads as before, and all can be taken back.

For most kinds qemu-img fails, refuses, or damages what was sound.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING, NamedTuple

import pytest

import qemu
import repair_cases
from repair_combined import RECIPES
from snapshot_damage import KINDS, Trial, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from repair_run import Sound

pytestmark = pytest.mark.usefixtures("need_qemu")

JOBS = 2
LEAST_KINDS = 25
BASES = ("snapshots", "snapshots-4k", "v2-snapshots")
CLEAN_AFTER_REVERT = (
    *("active-l1-wiped", "active-l1-entry-beyond", "active-l1-entry-reserved-bits"),
    *("active-l1-pointer-beyond", "active-l1-size-huge", "disk-size-nonsense", "refblock-wiped"),
    *("refcounts-low", "copied-all-clear", "copied-all-set", "corrupt-mark"),
    *("corrupt-mark-and-l1-wiped", "corrupt-mark-and-refcounts", "snapshot-count-too-large"),
)
"""What a revert leaves nothing of: the marks go too."""
_sounds: dict[str, Sound] = {}


class Pair(NamedTuple):
    """What qfix and qemu-img made of one damaged image by one operation."""

    letter: str
    unhit: set[bytes]
    ours: Verdict
    theirs: Verdict


def _run(name: str) -> list[Pair]:
    """Try all operations on one kind of damage."""
    number = list(KINDS).index(name) if "mark" not in KINDS[name].steps + name else 0
    base = "snapshots" if "everything" in name else BASES[number % len(BASES)]
    found = []
    for letter in KINDS[name].letters:
        trial = Trial(_sounds[base], name, letter)
        path = trial.sound.path.with_name(f"{name}.qcow2")
        ours = trial.by_qfix(path)
        for each in path.parent.glob(f"{path.name}*"):
            each.unlink()
        found.append(Pair(letter, trial.unhit, ours, trial.by_qemu(path)))
        path.unlink()
    return found


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[Pair]]]:
    """Try all kinds of damage; return what came of each."""
    qemu.require()
    recipes = [RECIPES[name] for name in BASES]
    _sounds.update(repair_cases.build_all(recipes, tmp_path_factory.mktemp("damaged")))
    with ProcessPoolExecutor(JOBS, mp_context=get_context("fork")) as pool:
        yield dict(zip(KINDS, pool.map(_run, KINDS), strict=True))
    _sounds.clear()


@pytest.mark.parametrize("name", KINDS)
def test_what_was_not_hit_reads_as_before(name: str, results: dict[str, list[Pair]]) -> None:
    wrong = [
        f"-{pair.letter}: {text} {pair.ours.said}"
        for pair in results[name]
        for text in pair.ours.wrong
    ]
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)


def test_the_snapshot_that_is_reverted_to_was_not_hit(results: dict[str, list[Pair]]) -> None:
    assert all(b"1" in pair.unhit for pairs in results.values() for pair in pairs)


@pytest.mark.parametrize("name", CLEAN_AFTER_REVERT)
def test_a_revert_leaves_a_clean_image(name: str, results: dict[str, list[Pair]]) -> None:
    (verdict,) = (pair.ours for pair in results[name] if pair.letter == "A")
    assert verdict.status == 0
    assert verdict.findings == 0


def test_qemu_img_fails_refuses_or_does_harm(results: dict[str, list[Pair]]) -> None:
    bad = {
        name
        for name, pairs in results.items()
        if any(pair.theirs.status or pair.theirs.wrong for pair in pairs)
    }
    assert len(bad) >= LEAST_KINDS, sorted(bad)


def test_qemu_img_leaves_no_less_damage_after_a_revert(results: dict[str, list[Pair]]) -> None:
    better = {
        name
        for name, pairs in results.items()
        for pair in pairs
        if pair.letter == "A"
        and not pair.theirs.status
        and pair.theirs.findings < pair.ours.findings
    }
    assert better <= {"dirty-mark-and-refcounts"}  # a dirty image it repairs as it opens it
