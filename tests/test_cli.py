"""The command line: exit statuses, several images in one call, and the shape of JSON."""

from __future__ import annotations

import errno
import itertools
import json
import os
from typing import TYPE_CHECKING

import pytest

import corpus
from command import CLEAN, case, copy, held, qfix, record, records
from mutant_run import COUNTS, FINDING_KEYS, RECORD_KEYS
from qfix.checks import header

if TYPE_CHECKING:
    from pathlib import Path

# The cases' names say what is wrong with them; the statuses are those that the manual gives.
STATUSES = [
    (0, "good", "ok-v3"),
    (0, "good", "dirty"),
    (1, "leaks", "leak"),
    (2, "copied-mismatch", "l2-not-copied"),
    (3, "corrupt-mark", "corrupt-mark"),
    (4, "wrong-refcounts", "refcount-too-low"),
    (4, "wrong-refcounts", "reused-cluster"),
    (5, "snapshot-damage", "snapshot-table-overrun"),
    (6, "metadata-damage", "l1-outside-file"),
    (6, "metadata-damage", "file-cut"),
    (8, "unsupported", "not-qcow2"),
    (8, "unsupported", "incompatible-unknown"),
]
GRAVEST_FIRST = (
    "snapshot-table-overrun",
    "l1-outside-file",
    "refcount-too-low",
    "l2-not-copied",
    "leak",
    "corrupt-mark",
    "ok-v3",
)
STATUS_OF = {name: status for status, _, name in STATUSES}
QEMU_SAYS = {
    each.name: each.qemu
    for each in corpus.CASES
    if each.length is None and (each.qemu == "1" or "/" in each.qemu)
}
NEEDS_MORE = {
    *("backing-control-characters", "backing-remote", "backing-missing", "data-file-unnamed"),
    *("ok-encrypted", "ok-encrypted-aes"),
}
"""Sound images that qemu-img refuses for want of another file or a key; a check needs neither."""
MORE_KEYS = {"findings-omitted", "statistics", "error", "interrupted"}
"""Keys of the object `qfix` beyond those of the first description."""

USAGE = [
    (("--no-such-option", "IMAGE"), "no-such-option"),
    (("-Z", "IMAGE"), "-Z"),
    (("-m", "chekc", "IMAGE"), "chekc"),
    (("-m", "check", "-p", "IMAGE"), "info"),
    (("-m", "error", "--prealloc", "IMAGE"), "info"),
    (("-m", "info", "-o", "refcount", "IMAGE"), "check"),
    (("-m", "info", "-s", "active", "IMAGE"), "check"),
    (("-m", "info", "-f", "IMAGE"), "check"),
    (("-m", "info", "--exit-codes", "qemu-img", "IMAGE"), "check"),
    (("-o", "bogus", "IMAGE"), "bogus"),
    (("-o", "refcount,bogus", "IMAGE"), "bogus"),
    (("-o", "", "IMAGE"), "section"),
    (("-s", "no such snapshot", "IMAGE"), "no such snapshot"),
    (("-s", "snapshot[7]", "IMAGE"), "snapshot[7]"),
    (("--output", "yaml", "IMAGE"), "yaml"),
    (("--color", "mauve", "IMAGE"), "mauve"),
    (("-d", "mauve", "IMAGE"), "mauve"),
    (("--exit-codes", "fsck", "IMAGE"), "fsck"),
    (("-l", "-U", "IMAGE"), "force-share"),
    (("--explain", "Z999"), "Z999"),
    (("-m",), "-m"),
    ((), "image"),
]


@pytest.mark.parametrize(("status", "verdict", "name"), STATUSES)
def test_status_of_an_image(status: int, verdict: str, name: str) -> None:
    assert qfix(case(name)).status == status
    assert qfix("-m", "error", case(name)).status == status
    said = record(case(name))["qfix"]
    assert (said["status"], said["verdict"]) == (status, verdict)


def test_check_is_the_default() -> None:
    assert qfix(case("leak")) == qfix("--mode", "check", case("leak"))


@pytest.mark.parametrize(("arguments", "named"), USAGE, ids=str)
def test_wrong_usage(arguments: tuple[str, ...], named: str) -> None:
    path = str(case("ok-snapshots"))
    output = qfix(*(path if word == "IMAGE" else word for word in arguments))

    assert output.status == 64
    assert output.stdout == ""
    assert named in output.stderr
    assert output.stderr.startswith("qfix: ")


def test_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.qcow2", case("ok-v3") / "below a file"):
        output = qfix(path)
        assert (output.status, output.stdout) == (66, "")
        assert str(path) in output.stderr


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        output = qfix(path)
        assert (output.status, output.stdout) == (74, "")
        assert str(path) in output.stderr


def test_no_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host says no; root may read all, so that a file's mode would not do here."""

    def refuse(path: str, *_: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(os, "open", refuse)
    output = qfix(case("ok-v3"))

    assert (output.status, output.stdout) == (77, "")
    assert "Permission denied" in output.stderr


@pytest.mark.parametrize("mode", ["check", "error", "info"])
def test_held_by_another_process(mode: str, tmp_path: Path) -> None:
    path = copy("ok-v3", tmp_path)
    with held(path) as pid:
        output = qfix("-m", mode, path)
        locked = qfix("-m", mode, "-l", path)
        failed = record("-m", mode, path)
    free = qfix("-m", mode, path)

    assert (output.status, output.stdout) == (75, "")
    assert f"process {pid}" in output.stderr
    assert locked.status == 75
    assert (failed["qfix"]["status"], failed["qfix"]["in-use"]) == (75, True)
    assert (free.status, free.stderr) == (0, "")


def test_a_defect_gives_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("made for this test")

    monkeypatch.setattr(header, "CHECKS", (fail,))
    output = qfix(case("ok-v3"))

    assert output.status == 70
    assert "made for this test" in output.stderr


@pytest.mark.parametrize(("graver", "lesser"), [*itertools.combinations(GRAVEST_FIRST, 2)])
def test_the_gravest_status_of_several(graver: str, lesser: str) -> None:
    for pair in ((graver, lesser), (lesser, graver)):
        assert qfix(*map(case, pair)).status == STATUS_OF[graver]


def test_all_images_are_looked_at() -> None:
    assert qfix(*map(case, GRAVEST_FIRST)).status == 5
    assert qfix(case("ok-v3"), case("ok-v2")).status == 0


@pytest.mark.parametrize("name", sorted(QEMU_SAYS))
def test_exit_codes_of_qemu_img(name: str) -> None:
    """Its statuses: 0 good, 1 not checked, 2 corruptions, 3 leaks only.

    Where qfix finds damage that qemu-img takes for leaks or for nothing, it may say 2.
    """
    refused, *counts = QEMU_SAYS[name].split()
    status = qfix("--exit-codes", "qemu-img", case(name)).status
    damaged = qfix(case(name)).status in {2, 5, 6}

    if refused == "1":
        assert (status in {1, 2, 63}) != (name in NEEDS_MORE)
        return
    corruptions, leaks = map(int, counts[0].split("/"))
    own = 2 if corruptions else 3 if leaks else 0
    assert status in ({own, 2} if damaged else {own})


def test_exit_codes_of_qemu_img_by_meaning(tmp_path: Path) -> None:
    wanted = {
        "ok-v3": 0,
        "corrupt-mark": 0,
        "leak": 3,
        "refcount-too-low": 2,
        "not-qcow2": 63,
        "l1-not-copied": 2,
    }
    found = {name: qfix("--exit-codes", "qemu-img", case(name)).status for name in wanted}
    assert found == wanted
    assert qfix("--exit-codes", "qemu-img", tmp_path / "missing").status == 1
    assert qfix("--exit-codes", "qfix", case("leak")).status == 1


@pytest.mark.parametrize("mode", ["check", "error"])
@pytest.mark.parametrize("name", [name for _, _, name in STATUSES])
def test_json_of_one_image(mode: str, name: str) -> None:
    output = qfix("-m", mode, "--output", "json", case(name))
    found = json.loads(output.stdout)

    assert output.stderr == ""
    assert set(found) == {"filename", "format", *COUNTS, "qfix"}
    assert found["filename"] == str(case(name))
    assert found["format"] == ("raw" if name == "not-qcow2" else "qcow2")
    assert all(type(found[key]) is int for key in COUNTS)
    told = found["qfix"]
    assert set(told) - MORE_KEYS == RECORD_KEYS
    assert (told["schema"], told["status"]) == (1, output.status)
    assert told["in-use"] is False
    assert bool(told["findings"]) == (not name.startswith("ok-"))
    for row in told["findings"]:
        assert set(row) == FINDING_KEYS
        assert row["severity"] in {"note", "warning", "leak", "error"}
        assert row["safety"] in {"safe", "lossy", "manual"}
        for place in row["guest-ranges"]:
            assert set(place) == {"layer", "start", "length"}


def test_json_counts_of_a_known_image() -> None:
    found = record(case("leak"))

    # nine clusters of 512 bytes in use, four of them guest data, and one leaked behind them
    assert {key: found[key] for key in COUNTS} == {
        "check-errors": 0,
        "image-end-offset": 10 * 512,
        "corruptions": 0,
        "leaks": 1,
        "corruptions-fixed": 0,
        "leaks-fixed": 0,
        "total-clusters": 128,
        "allocated-clusters": 4,
        "fragmented-clusters": 0,
        "compressed-clusters": 0,
    }
    (row,) = found["qfix"]["findings"]
    assert (row["code"], row["severity"], row["first"], row["count"]) == ("R301", "leak", 9, 1)


def test_json_lines_of_several(tmp_path: Path) -> None:
    """Every file has its record, in the order given: also those that can't be read."""
    paths = [case("leak"), tmp_path / "missing", case("not-qcow2"), tmp_path, case("ok-v3")]
    found = records(*paths)

    assert [row["filename"] for row in found] == [str(path) for path in paths]
    assert [row["qfix"]["status"] for row in found] == [1, 66, 8, 74, 0]
    assert [row["qfix"]["verdict"] for row in found] == [
        *("leaks", "missing", "unsupported", "io-error", "good"),
    ]
    for row in found:
        assert set(row) == set(found[0])
        assert set(row["qfix"]) == set(found[0]["qfix"])
        assert all(type(row[key]) is int for key in COUNTS)
    assert [row["check-errors"] for row in found] == [0, 1, 1, 1, 0]


def test_json_of_one_missing_file(tmp_path: Path) -> None:
    assert record(tmp_path / "missing")["qfix"]["status"] == 66


def test_text_of_several() -> None:
    names = ("ok-v3", "leak", "not-qcow2", "ok-v2")
    output = qfix(*map(case, names))
    lines = output.stdout.splitlines()

    assert len(lines) == len(names) + 1
    for name, line in zip(names, lines, strict=False):
        assert line.startswith(f"{case(name)}: ")
    assert "good" in lines[0]
    assert "leaks" in lines[1]
    assert "unsupported" in lines[2]
    for word in ("4 images", "2 good", "1 leaks", "1 unsupported"):
        assert word in lines[-1]


def test_a_clean_image_says_so() -> None:
    assert CLEAN in qfix(case("ok-v3")).stdout.splitlines()
    for name, status in STATUS_OF.items():
        if status:
            assert CLEAN not in qfix(case(name)).stdout
