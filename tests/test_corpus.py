"""The corpus: a look at each tiny image under ``images/`` says what was written down by hand."""

from __future__ import annotations

import json
import re
import shutil
from string import Formatter
from typing import TYPE_CHECKING, Any

import pytest

import corpus
from qfix.cli import main
from qfix.problems.catalogue import CATALOGUE

if TYPE_CHECKING:
    from pathlib import Path

    from corpus_case import Case

FOLDERS = sorted(path for path in corpus.IMAGES.iterdir() if path.is_dir())
CASES = {case.name: case for case in corpus.CASES}
Row = tuple[str, int, int]


def look(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    """Return the exit status of a check, and the JSON that it printed."""
    status = main(["-m", "check", "--output", "json", str(path)])
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    return status, said


def as_rows(findings: list[dict[str, Any]]) -> list[Row]:
    """Return findings as expect.json orders them."""
    return sorted((row["code"], row["first"], row["count"]) for row in findings)


def lay_out(folder: Path, expected: dict[str, Any], place: Path) -> Path:
    """Return the image of a case; if a hole belongs to its end, a copy in *place* that has it."""
    image = folder / "image.qcow2"
    if "length" not in expected:
        return image
    copy = place / image.name
    shutil.copyfile(image, copy)
    with copy.open("r+b") as file:
        try:
            file.truncate(expected["length"])
        except OSError as error:
            pytest.skip(f"no file of this size here: {error.strerror}")
    return copy


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_says_what_is_wrong(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = json.loads((folder / "expect.json").read_text())
    image = lay_out(folder, expected, tmp_path)
    if image.parent == tmp_path and image.stat().st_blocks * 512 >= expected["length"]:
        pytest.skip("no holes on this file system")

    status, said = look(image, capsys)

    found = said["qfix"]["findings"]
    rows, wanted = as_rows(found), as_rows(expected["findings"])
    if expected.get("at-least"):
        rows = [row for row in rows if row in wanted]
    assert (rows, status) == (wanted, expected["status"])
    assert status == said["qfix"]["status"]
    for finding in found:
        pattern = _as_pattern(CATALOGUE[finding["code"]].message)
        assert re.fullmatch(pattern, finding["message"], re.DOTALL), finding["message"]


@pytest.mark.parametrize(
    "case", [case for case in CASES.values() if "/" in case.qemu], ids=lambda case: case.name
)
def test_counts_as_qemu_img_does(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = corpus.IMAGES / case.name
    _, said = look(lay_out(folder, case.expected(), tmp_path), capsys)

    counts = case.qemu.split()[1]
    assert f"{said['corruptions']}/{said['leaks']}" == counts
    assert said["check-errors"] == 0


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_looking_changes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = folder / "image.qcow2"
    before = image.read_bytes(), image.stat().st_mtime_ns, sorted(folder.iterdir())
    look(image, capsys)
    assert (image.read_bytes(), image.stat().st_mtime_ns, sorted(folder.iterdir())) == before


def test_sound_images_give_no_finding() -> None:
    sound = [case for name, case in CASES.items() if name.startswith("ok-")]
    assert len(sound) >= 14
    assert all(case.expect == "0" and not case.at_least for case in sound)


def test_every_problem_has_a_case() -> None:
    shown = {row["code"] for case in CASES.values() for row in case.expected()["findings"]}
    assert set(CATALOGUE) - shown == set(corpus.EXCEPT)


def test_folders_are_what_the_table_builds() -> None:
    assert [folder.name for folder in FOLDERS] == sorted(CASES)
    for folder in FOLDERS:
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert files == corpus.files(CASES[folder.name]), folder.name


@pytest.mark.parametrize("code", sorted(CATALOGUE))
def test_every_problem_is_explained(code: str) -> None:
    problem = CATALOGUE[code]
    assert problem.code == code
    assert all((problem.name, problem.structure, problem.message, problem.meaning, problem.advice))


def _as_pattern(message: str) -> str:
    parts = Formatter().parse(message)
    return "".join(re.escape(text) + (".*" if name is not None else "") for text, name, *_ in parts)


def test_meanings_and_advice_name_no_facts() -> None:
    """They are shown as they stand, by --explain too."""
    for problem in CATALOGUE.values():
        assert "{" not in problem.meaning + problem.advice, problem.code
