"""Repair from the command line: options, refusals, locks, journal and what is said."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import qemu
from change_run import fill, mounted
from command import CLEAN, case, codes, copy, held, on_a_terminal, qfix, record
from qfix.change.road import Request, change
from qfix.layout.header import CORRUPT
from qfix.repair.passes import plan_repair
from qfix.repair.wanted import Wanted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.change.draft import Draft

MARKS_AT = 79
USAGE = [
    (["--lossy"], "--lossy belongs to --fix"),
    (["-n"], "--dry-run belongs to"),
    (["--yes"], "--yes belongs to"),
    (["--force"], "--force belongs to"),
    (["--fix", "leaks", "--undo"], "--fix and --undo exclude each other"),
    (["--fix", "all", "-M", "dirty"], "--fix and --mark exclude each other"),
    (["--undo", "--resume"], "--undo and --resume exclude each other"),
    (["-m", "info", "--fix", "all"], "--fix belongs to -m check"),
    (["--fix", "all", "-U"], "--force-share can't be used to change an image"),
    (["--fix", "most"], "most"),
    (["--fix", "all", "-s", "active"], "--snapshot does not go with --fix"),
    (["--undo", "-o", "refcount"], "--only does not go with --undo"),
]


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names(folder: Path) -> list[str]:
    """Return the names of the files in a folder."""
    return sorted(item.name for item in folder.iterdir())


@pytest.mark.parametrize(("options", "said"), USAGE)
def test_options_that_do_not_go_together(options: list[str], said: str, tmp_path: Path) -> None:
    path = copy("leak", tmp_path)
    done = qfix(*options, path)
    assert done.status == 64
    assert said in done.stderr
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize(
    ("word", "level"), [("leak", "leaks"), ("error", "errors"), ("check", "none")]
)
def test_words_of_qcow2_dump(word: str, level: str, tmp_path: Path) -> None:
    told = record("-R", word, copy("leak", tmp_path))["qfix"]
    assert told.get("change", {}).get("asked", "--fix none") == f"--fix {level}"


def test_a_page_says_what_was_done_and_the_way_back(tmp_path: Path) -> None:
    path = copy("leak", tmp_path)
    done = qfix("--fix", "leaks", path)
    assert done.status == 0
    assert done.stderr == ""
    for words in ("R301", "refcount of host cluster 9", CLEAN, f"qfix --undo {path}"):
        assert words in done.stdout
    assert names(tmp_path) == [path.name, f"{path.name}.qfix-journal"]


def test_lost_tables_are_not_freed(tmp_path: Path) -> None:
    path = copy("l1-lost", tmp_path)
    before = digest(path)
    for level in ("leaks", "all"):
        done = qfix("--fix", level, path)
        assert done.status == 6
        assert "may be the guest's only copy" in done.stdout
        assert f"qfix --fix {level} --lossy" in done.stdout
    left = record("--fix", "leaks", path)["qfix"]["change"]
    assert [item["codes"] for item in left["left"]] == [["T232"]]
    assert "2048 bytes" in left["left"][0]["why"]
    assert digest(path) == before
    assert names(tmp_path) == [path.name]


def test_leaks_behind_a_reused_cluster_stay_until_they_are_given_up(tmp_path: Path) -> None:
    path = copy("data-on-snapshot-l1", tmp_path)
    assert record("--fix", "all", path)["qfix"]["status"] == 1
    again = record("--fix", "leaks", path)["qfix"]
    assert (again["status"], again["change"]["applied"]) == (1, False)
    assert record("--fix", "leaks", "--lossy", path)["qfix"]["status"] == 0


def test_numbers_of_what_was_fixed(tmp_path: Path) -> None:
    path = copy("leak", tmp_path)
    before = record(path)
    after = record("--fix", "leaks", path)
    assert (before["leaks"], after["leaks"], after["leaks-fixed"]) == (1, 0, 1)
    assert after["qfix"]["change"]["verdict-before"] == "leaks"
    assert after["qfix"]["verdict"] == "good"


def test_several_images_get_a_line_each(tmp_path: Path) -> None:
    paths = [copy("leak", tmp_path), copy("ok-v3", tmp_path), copy("l2-unaligned", tmp_path)]
    done = qfix("--fix", "all", *paths)
    assert done.status == 6
    lines = done.stdout.splitlines()
    assert [line.split(": ")[1].split(" (")[0] for line in lines[:3]] == [
        "leaks -> good",
        "good -> good",
        "metadata-damage -> metadata-damage",
    ]


@pytest.mark.usefixtures("need_qemu")
def test_an_image_that_qemu_holds_is_refused(tmp_path: Path) -> None:
    path = copy("leak", tmp_path)
    before = digest(path)
    with subprocess.Popen(
        ["qemu-io", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("length\n")
        process.stdin.flush()
        process.stdout.readline()
        done = qfix("--fix", "leaks", path)
        process.stdin.close()
    assert done.status == 75
    assert f"process {process.pid} (qemu-io" in done.stderr
    assert digest(path) == before


def test_an_image_that_another_run_holds_is_refused(tmp_path: Path) -> None:
    path = copy("leak", tmp_path)
    with held(path) as pid:
        done = qfix("--fix", "leaks", path)
    assert done.status == 75
    assert f"process {pid} " in done.stderr


@pytest.mark.usefixtures("need_qemu")
def test_qemu_is_kept_away_while_an_image_is_changed(tmp_path: Path) -> None:
    path = copy("leak", tmp_path)
    wanted = Wanted("leaks")

    def plan(draft: Draft) -> None:
        for command in (("check", path), ("resize", path, "+1M")):
            done = qemu.img(*command, check=False)
            assert done.returncode == 1
            assert "lock" in done.stderr
        plan_repair(draft, wanted, [])

    with change(str(path), Request(wanted.words), plan) as outcome:
        assert outcome.number == 1
        assert qemu.img("check", path, check=False).returncode == 1
    assert qemu.img("check", path, check=False).returncode == 0


def test_the_journal_goes_where_it_is_told(tmp_path: Path) -> None:
    path, folder = copy("leak", tmp_path), tmp_path / "journals"
    folder.mkdir()
    before = digest(path)
    assert qfix("--fix", "leaks", "--journal", folder, path).status == 0
    assert names(folder) == [f"{path.name}.qfix-journal"]
    assert f"{path.name}.qfix-journal" not in names(tmp_path)
    assert qfix("--undo", path).status == 64
    assert qfix("--undo", "--journal", folder, path).status == 1
    assert digest(path) == before
    assert qfix("--redo", "--journal", folder / f"{path.name}.qfix-journal", path).status == 0


@pytest.mark.usefixtures("need_qemu")
def test_an_undo_is_refused_when_a_guest_has_written(tmp_path: Path) -> None:
    path = copy("leak", tmp_path)
    assert record("--fix", "all", path)["qfix"]["change"]["applied"]
    qemu.io(path, "write -P 7 0 4k")
    after = digest(path)
    done = qfix("--undo", path)
    assert done.status == 64
    assert "--force" in done.stderr
    assert digest(path) == after
    assert qfix("--undo", "--force", path).status in {1, 4, 6}
    assert digest(path) != after


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """Make an image whose repair looks interrupted: all bytes are new, the journal is not done."""
    path = copy("leak", tmp_path)
    assert qfix("--fix", "leaks", path).status == 0
    with closing(sqlite3.connect(f"{path}.qfix-journal")) as journal, journal:
        journal.execute("UPDATE records SET state = 'applying'")
    return path


def test_every_mode_says_that_a_change_was_interrupted(interrupted: Path) -> None:
    before = digest(interrupted), names(interrupted.parent)
    for mode in ("check", "error", "info"):
        done = qfix("-m", mode, interrupted)
        assert "was interrupted" in done.stderr
        assert f"--resume {interrupted}" in done.stderr
        assert f"--undo {interrupted}" in done.stderr
    assert record(interrupted)["qfix"]["interrupted"] is True
    assert (digest(interrupted), names(interrupted.parent)) == before
    assert qfix("--fix", "all", interrupted).status == 64
    assert qfix("--fix", "all", "-n", interrupted).status == 64


@pytest.mark.parametrize(("option", "status"), [("--resume", 0), ("--undo", 1)])
def test_an_interrupted_change_goes_one_way_or_the_other(
    option: str, status: int, interrupted: Path
) -> None:
    after, before = digest(interrupted), digest(case("leak"))
    done = qfix(option, interrupted)
    assert done.status == status
    assert digest(interrupted) == (after if option == "--resume" else before)
    assert "was interrupted" not in qfix(interrupted).stderr


def test_nothing_to_take_back(tmp_path: Path) -> None:
    path = copy("ok-v3", tmp_path)
    for option in ("--undo", "--redo", "--resume"):
        assert qfix(option, path).status == 64
    assert names(tmp_path) == [path.name]


def test_a_foreign_journal_is_not_touched(tmp_path: Path) -> None:
    path = copy("leak", tmp_path)
    journal = Path(f"{path}.qfix-journal")
    journal.write_text("somebody's notes")
    assert qfix("--fix", "leaks", path).status == 74
    assert qfix(path).status == 1
    assert journal.read_text() == "somebody's notes"


def test_marks(tmp_path: Path) -> None:
    path = copy("ok-v3", tmp_path)
    before = digest(path)
    assert qfix("-M", "corrupt", path).status == 3
    assert path.read_bytes()[MARKS_AT] & CORRUPT
    assert codes(path) == {"H122"}
    assert qfix("-C", "corrupt", path).status == 0
    assert digest(path) == before
    assert qfix("-M", "dirty", path).status == 0
    assert codes(path) == {"H121"}
    assert qfix("--fix", "all", path).status == 0
    assert digest(path) == before


def test_a_mark_that_is_right_stays(tmp_path: Path) -> None:
    path = copy("used-but-free", tmp_path)
    for mark in ("corrupt", "dirty"):
        assert qfix("-M", mark, path).status == 4
        done = qfix("-C", mark, path)
        assert done.status == 64
        assert "R304" in done.stderr
        assert "--fix all" in done.stderr
        assert qfix("-C", mark, "--force", path).status == 4
        assert qfix("-M", mark, path).status == 4
    assert qfix("--fix", "all", path).status == 0
    assert codes(path) == set()


def test_version_2_has_no_marks(tmp_path: Path) -> None:
    path = copy("ok-v2", tmp_path)
    before = digest(path)
    for option in ("-M", "-C"):
        done = qfix(option, "corrupt", path)
        assert done.status == 64
        assert "version 2" in done.stderr
    assert digest(path) == before


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """Put an image without refcounts on a loop device that has a few free clusters."""
    if not shutil.which("losetup"):
        pytest.skip("losetup is not installed")
    image = copy("refblock-missing", tmp_path)
    with image.open("r+b") as file:
        file.truncate(-(-image.stat().st_size // 4096) * 4096 + 16384)
    made = subprocess.run(
        ["losetup", "--find", "--show", image], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no loop device can be made here: {made.stderr.strip()}")
    path = Path(made.stdout.strip())
    try:
        yield path
    finally:
        subprocess.run(["losetup", "--detach", path], check=True)


def test_a_device_is_repaired_in_its_free_clusters(device: Path, tmp_path: Path) -> None:
    size = os.stat(tmp_path / "refblock-missing.qcow2").st_size
    done = qfix("--fix", "errors", device)
    assert done.status == 64
    assert "--journal PATH" in done.stderr
    told = record("--fix", "errors", "--journal", tmp_path, device)["qfix"]
    assert (told["status"], told["change"]["applied"]) == (0, True)
    assert os.stat(tmp_path / "refblock-missing.qcow2").st_size == size
    assert qfix("--undo", "--journal", tmp_path, device).status == 4


def test_a_read_only_place_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "mount"
    with mounted(folder, 256) as make_read_only:
        path = copy("leak", folder)
        make_read_only()
        done = qfix("--fix", "leaks", path)
        assert done.status == 77
        assert "Read-only" in done.stderr
        assert qfix("--fix", "leaks", "-n", path).status == 0


def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "mount"
    with mounted(folder, 128):
        path = copy("leak", folder)
        fill(folder)
        before = digest(path)
        done = qfix("--fix", "leaks", path)
        assert done.status == 74
        assert "--journal PATH" in done.stderr
        assert digest(path) == before
        assert names(folder) == sorted(["filler", path.name])
        assert qfix("--fix", "leaks", "--journal", tmp_path, path).status == 0


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    assert qfix("--fix", "all", tmp_path / "gone.qcow2").status == 66
    assert names(tmp_path) == []


def test_a_loss_is_asked_abouton_a_terminal(tmp_path: Path) -> None:
    path = copy("l2-unaligned", tmp_path)
    before = digest(path)
    status, said = on_a_terminal(b"n\n", "--fix", "all", "--lossy", path)
    assert status == 64
    assert "Give this up?" in said
    assert "guest 0x" in said
    assert digest(path) == before
    assert names(tmp_path) == [path.name]
    assert on_a_terminal(b"", "--fix", "all", "--lossy", "--yes", path)[0] == 0


def test_a_lossless_repair_asks_nothing(tmp_path: Path) -> None:
    status, said = on_a_terminal(b"", "--fix", "all", copy("leak", tmp_path))
    assert status == 0
    assert "?" not in said


def test_json_of_a_change_has_fixed_keys(tmp_path: Path) -> None:
    done = qfix("--fix", "all", "--lossy", "--output", "json", copy("l2-unaligned", tmp_path))
    told = json.loads(done.stdout)["qfix"]["change"]
    assert set(told) == {
        *("asked", "dry-run", "applied", "journal", "record", "status-before", "verdict-before"),
        *("changes", "changes-omitted", "lost", "restored", "suspect", "snapshots-dropped"),
        *("bitmaps-dropped", "left", "findings-made", "guest-changes", "bytes-freed"),
    }
    assert set(told["changes"][0]) == {
        *("code", "message", "host-offset", "count", "old", "new", "lossy"),
    }
