"""Each image of the corpus is repaired: what is left then is what was written down by hand."""

from __future__ import annotations

import hashlib
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

import corpus
from command import qfix, record
from qfix.problems.catalogue import CATALOGUE
from qfix.problems.model import Safety

if TYPE_CHECKING:
    from pathlib import Path

NAMES = sorted(case.name for case in corpus.CASES)
HOLES = {case.name for case in corpus.CASES if case.length is not None}
SMALL = [name for name in NAMES if name not in HOLES]
KINDS = {"all": ("--fix", "all"), "lossy": ("--fix", "all", "--lossy")}
GOOD = {"status": 0, "codes": []}
MOST_STEPS = 9


def laid_out(name: str, folder: Path) -> Path:
    """Return a copy of the image of a case, alone in a folder."""
    return shutil.copyfile(corpus.IMAGES / name / "image.qcow2", folder / "image.qcow2")


def expected(name: str, kind: str) -> dict[str, Any]:
    """Return status and codes that a repair leaves."""
    path = corpus.IMAGES / name / "expect.fixed.json"
    found = json.loads(path.read_text())[kind] if path.exists() else GOOD
    assert isinstance(found, dict)
    return found


def grave(said: dict[str, Any]) -> list[str]:
    """Return the codes of findings that do not leave an image good."""
    found = said["qfix"]["findings"]
    return sorted({row["code"] for row in found if row["severity"] in ("error", "leak")})


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SMALL)
def test_leaves_what_was_written_down(name: str, kind: str, tmp_path: Path) -> None:
    path = laid_out(name, tmp_path)
    before = digest(path)

    said = record(*KINDS[kind], path)

    assert {"status": said["qfix"]["status"], "codes": grave(said)} == expected(name, kind)
    change = said["qfix"]["change"]
    again = record(*KINDS[kind], path)
    assert again["qfix"]["change"]["applied"] is False
    assert grave(again) == grave(said)
    if not change["applied"]:
        assert digest(path) == before
        assert [item.name for item in tmp_path.iterdir()] == [path.name]
        return
    assert change["changes"]
    after = digest(path)
    assert record("--undo", path)["qfix"]["change"]["state"] == "applied"
    assert digest(path) == before
    record("--redo", path)
    assert digest(path) == after
    record("--undo", path)
    assert digest(path) == before


@pytest.mark.parametrize("name", SMALL)
def test_a_dry_run_says_the_same_and_writes_nothing(name: str, tmp_path: Path) -> None:
    path = laid_out(name, tmp_path)
    before = path.read_bytes(), path.stat().st_mtime_ns

    dry = record(*KINDS["lossy"], "-n", path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert [item.name for item in tmp_path.iterdir()] == [path.name]

    real = record(*KINDS["lossy"], path)
    differ = {"applied", "journal", "record", "dry-run"}
    plans = [
        {key: value for key, value in said["qfix"]["change"].items() if key not in differ}
        for said in (dry, real)
    ]
    assert plans[0] == plans[1]
    assert grave(dry) == grave(real)


@pytest.mark.parametrize("name", [name for name in SMALL if name.startswith("ok-")])
def test_a_sound_image_is_not_touched(name: str, tmp_path: Path) -> None:
    path = laid_out(name, tmp_path)
    before = path.read_bytes(), path.stat().st_mtime_ns
    for kind in KINDS.values():
        change = record(*kind, path)["qfix"]["change"]
        assert (change["applied"], change["changes"], change["left"]) == (False, [], [])
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", SMALL)
def test_losses_are_told_and_only_with_lossy(name: str, tmp_path: Path) -> None:
    path = laid_out(name, tmp_path)
    change = record("--fix", "all", "-n", path)["qfix"]["change"]
    assert not any(row["lossy"] for row in change["changes"])
    assert (change["lost"], change["snapshots-dropped"], change["bitmaps-dropped"]) == ([], [], [])
    lossy = record("--fix", "all", "--lossy", "-n", path)["qfix"]["change"]
    given_up = any(row["lossy"] for row in lossy["changes"])
    told = lossy["lost"] or lossy["snapshots-dropped"] or lossy["bitmaps-dropped"]
    assert given_up or not told


def test_every_kind_that_can_be_repaired_is_in_some_case(tmp_path: Path) -> None:
    repaired: set[str] = set()
    for name in SMALL:
        path = laid_out(name, tmp_path)
        found = {row["code"] for row in record(path)["qfix"]["findings"]}
        said = record(*KINDS["lossy"], "-n", path)["qfix"]
        repaired |= found - {row["code"] for row in said["findings"]}
    can = {code for code, problem in CATALOGUE.items() if problem.fix}
    assert can - repaired == set()


def test_what_loses_nothing_has_a_repair() -> None:
    for code, problem in CATALOGUE.items():
        assert (problem.safety is Safety.MANUAL) == (problem.fix == ""), code


@pytest.mark.parametrize("code", ["T240", "T212", "R301"])
def test_commands_of_findings_name_the_repair(code: str) -> None:
    names = {"T240": "reused-cluster", "T212": "l2-unaligned", "R301": "leak"}
    options = {"T240": "--fix reuse", "T212": "--fix all --lossy", "R301": "--fix leaks"}
    path = corpus.IMAGES / names[code] / "image.qcow2"
    rows = record(path)["qfix"]["findings"]
    commands = {row["command"] for row in rows if row["code"] == code}
    assert commands == {f"qfix {options[code]} {path}"}
    assert options[code] in qfix("--explain", code).stdout
