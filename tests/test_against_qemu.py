"""qfix says what ``qemu-img check`` says, on sound images of all kinds and on damaged copies."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

import qemu
import qemu_faults
import qfix_command
from qemu_anatomy import Anatomy
from qemu_images import RECIPES, Recipe

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("need_qemu")

WORKERS = 3
CALLS = 2
PIECE = 1 << 16
QUIET = {"note", "warning"}
STATUSES = {0, 1, 2, 3, 4, 5, 6, 8}

SOUND = [name for name, recipe in RECIPES.items() if recipe.sound]
DAMAGED = [f"{name}~{n}" for name in RECIPES for n in range(1, qemu_faults.FAULTY_COPIES + 1)]
EVERY = [*RECIPES, *DAMAGED, *qemu_faults.PINNED]

KNOWN = {
    "No such file or directory": "qfix opens no backing file and no data file",
    "'data-file' is required": "the name of a data file may be given at run time",
    "encrypt.key-secret' is required": "a key is not needed to look at the metadata",
}
"""Why qemu-img refuses to look at an image that need not be damaged: a part of its message."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What both programs said of one image."""

    path: Path
    faults: tuple[str, ...]
    status: int
    theirs: dict[str, Any] | None
    message: str
    ours: dict[str, Any]

    @property
    def excused(self) -> bool:
        """Whether qemu-img refused the image for a reason that is not damage."""
        return self.theirs is None and any(part in self.message for part in KNOWN)

    def __str__(self) -> str:
        """Name the image, its damage and qemu-img's words, for a failing assertion."""
        findings = [
            f"{finding['code']} {finding['severity']}: {finding['message']}"
            for finding in self.ours["qfix"]["findings"][:5]
        ]
        return (
            f"{self.path} with {self.faults or 'no fault'}; qemu-img gave {self.status}: "
            f"{self.message[:600]}; qfix gave {self.ours['qfix']['status']}: {findings}"
        )


@dataclass(frozen=True, slots=True)
class Case:
    """One image to check: a recipe's own, or a damaged copy of it."""

    name: str
    recipe: Recipe
    path: Path
    faults: tuple[str, ...] = ()


def _write_sparse(path: Path, raw: bytes) -> None:
    """Write *raw* with holes for the zeros: all copies together are large."""
    with path.open("wb") as file:
        for start in range(0, len(raw), PIECE):
            piece = raw[start : start + PIECE]
            if piece.count(0) < len(piece):
                file.seek(start)
                file.write(piece)
        file.truncate(len(raw))


def _build(folder: Path) -> list[Case]:
    """Make every image and every damaged copy; return them in the order of `EVERY`."""

    def build(recipe: Recipe) -> Case:
        return Case(recipe.name, recipe, recipe.build(folder / recipe.name))

    def anatomy(case: Case) -> Anatomy:
        return Anatomy(case.path.read_bytes())

    slowest_first = sorted(RECIPES.values(), key=lambda recipe: not recipe.encrypted)
    with ThreadPoolExecutor(WORKERS) as pool:
        cases = {case.name: case for case in pool.map(build, slowest_first)}
    choices = {name: qemu_faults.applicable(anatomy(cases[name])) for name in RECIPES}
    for name, faults in qemu_faults.assign(choices):
        sound = cases[name.partition("~")[0]]
        path = sound.path.with_name("image~" + name.partition("~")[2])
        _write_sparse(path, qemu_faults.damage(anatomy(sound), faults, name))
        cases[name] = Case(name, sound.recipe, path, faults)
    return [cases[name] for name in EVERY]


def _disagreements(outcome: Outcome) -> list[str]:
    """Say in what qfix's record of an image is not what it should be."""
    ours, report, theirs = outcome.ours, outcome.ours["qfix"], outcome.theirs
    wrong = []
    if report["status"] not in STATUSES:
        wrong.append(f"status {report['status']}")
    if ours["filename"] != str(outcome.path):
        wrong.append(f"filename {ours['filename']}")
    if theirs is not None:
        wrong += qfix_command.differences(ours, theirs)
        wrong += [] if ours["format"] == theirs["format"] else [f"format {ours['format']}"]
    if outcome.status and not outcome.excused and not (report["status"] and report["findings"]):
        wrong.append(f"qemu-img gave {outcome.status}, qfix {report['status']} and no finding")
    return wrong


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Build all images and let both programs check each; keep sound and disputed ones."""
    qemu.require()
    cases = _build(tmp_path_factory.mktemp("against-qemu"))
    with ThreadPoolExecutor(WORKERS) as pool:
        answers = pool.map(lambda case: case.recipe.check_with_qemu(case.path), cases)
        checked = list(zip(cases, answers, strict=True))
    records = qfix_command.check_in_parts([case.path for case in cases], CALLS)
    outcomes = {
        case.name: Outcome(
            path=case.path,
            faults=case.faults,
            status=answer.returncode,
            theirs=json.loads(answer.stdout) if answer.stdout.strip() else None,
            message=answer.stderr.strip(),
            ours=records[case.path],
        )
        for case, answer in checked
    }
    for outcome in outcomes.values():
        if outcome.faults and not _disagreements(outcome):
            outcome.path.unlink()
    return outcomes


@pytest.mark.parametrize("name", EVERY)
def test_says_what_qemu_img_says(name: str, outcomes: dict[str, Outcome]) -> None:
    if wrong := _disagreements(outcomes[name]):
        pytest.fail(f"{wrong}: {outcomes[name]}", pytrace=False)


@pytest.mark.parametrize("name", SOUND)
def test_finds_nothing_wrong_with_a_sound_image(name: str, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[name]
    report = outcome.ours["qfix"]
    loud = [finding for finding in report["findings"] if finding["severity"] not in QUIET]
    if outcome.status or report["status"] or loud:
        pytest.fail(f"{loud}: {outcome}", pytrace=False)


def test_every_kind_of_fault_is_used(outcomes: dict[str, Outcome]) -> None:
    used = Counter(fault for outcome in outcomes.values() for fault in outcome.faults)
    assert [fault for fault in qemu_faults.FAULTS if not used[fault]] == []


def test_every_known_refusal_is_met(outcomes: dict[str, Outcome]) -> None:
    messages = "\n".join(outcome.message for outcome in outcomes.values())
    assert [part for part in KNOWN if part not in messages] == []
