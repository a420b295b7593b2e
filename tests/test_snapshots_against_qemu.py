"""-A, -D and -E on sound images give what qemu-img's own operations give, and can be undone."""

from __future__ import annotations

import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING, NamedTuple

import pytest

import qemu
import qemu_images
import snapshot_cases
from command import qfix
from snapshot_cases import SOUND, copied, guests, operate, operate_with_qemu

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("need_qemu")

JOBS = 2
MANY = 10
LEAST = 100
_folder: list[Path] = []


class Result(NamedTuple):
    """How many combinations were tried on an image, and what was wrong with them."""

    tried: int
    snapshots: int
    wrong: list[str]


def _combinations(count: int) -> Iterator[tuple[str, int]]:
    """Yield operations and snapshots: the first, the last and one between; of many one."""
    for letter, some in (("A", {0, count - 1}), ("D", {0, count // 2})):
        for number in sorted(some if count < MANY else {count // 3}):
            yield letter, number
    if count > 1:
        yield "E", count // 2


def _compared(source: Path, letter: str, number: int, folder: Path) -> Iterator[str]:
    """Yield where qfix and qemu-img, each on a copy, do not come to the same."""
    items = snapshot_cases.snapshots(source)
    ours, theirs = copied(source, folder / "ours"), copied(source, folder / "theirs")
    before = ours.read_bytes()
    done = operate(letter, f"snapshot[{number}]", ours)
    for each in operate_with_qemu(letter, number, items, theirs):
        if each.returncode:
            yield f"qemu-img: {each.stderr}"
    if done.status:
        yield f"status {done.status}: {done.stderr}{done.stdout[-500:]}"
    one, other = guests(ours), guests(theirs)
    if one != other:
        layers = {
            key for key in one.layers | other.layers if one.layers.get(key) != other.layers.get(key)
        }
        yield f"sizes {one.size} and {other.size}, layers that differ: {layers}"
    check = qemu_images.run(["qemu-img", "check", "-f", "qcow2", "image"], ours.parent)
    if check.returncode:
        yield f"qemu-img check: {check.stdout}{check.stderr}"
    if qfix("-q", ours).status:
        yield "qfix finds something"
    if ours.read_bytes() == before:
        return
    taken_back = qfix("--undo", ours)
    if taken_back.status or ours.read_bytes() != before:
        yield f"the undo: {taken_back.stderr}"


def _run(name: str) -> Result:
    """Try an image that is made in this process."""
    folder = _folder[0] / name
    source = SOUND[name].build(folder)
    count = len(snapshot_cases.snapshots(source))
    wrong, tried = [], 0
    for letter, number in _combinations(count) if count else ():
        place = _folder[0] / f"{name}-{letter}{number}"
        place.mkdir()
        found = _compared(source, letter, number, place)
        wrong += [f"-{letter} snapshot[{number}]: {text}" for text in found]
        tried += 1
        shutil.rmtree(place)
    shutil.rmtree(folder)
    return Result(tried, count, wrong)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Result]]:
    """Try all images; return what came of it by their names."""
    qemu.require()
    _folder[:] = [tmp_path_factory.mktemp("snapshots")]
    with ProcessPoolExecutor(JOBS, mp_context=get_context("fork")) as pool:
        yield dict(zip(SOUND, pool.map(_run, SOUND), strict=True))
    _folder.clear()


@pytest.mark.parametrize("name", SOUND)
def test_guests_read_what_they_read_after_qemu_img(name: str, results: dict[str, Result]) -> None:
    if results[name].wrong:
        pytest.fail("\n".join(results[name].wrong), pytrace=False)


def test_there_are_combinations_enough(results: dict[str, Result]) -> None:
    assert sum(result.tried for result in results.values()) >= LEAST
    counts = {result.snapshots for result in results.values()}
    assert {1, 2, 3, 8, 20} <= counts


def test_there_are_images_of_all_sorts() -> None:
    names = " ".join(SOUND)
    for word in ("v2", "v3", "r4", "r8", "r32", "r64", "extended", "compressed", "backed", "zstd"):
        assert word in names
    assert any("resize" in name for name in SOUND)
    assert any("vmstate" in name for name in SOUND)
