"""-A, -D and -E from the command line: which snapshot, what is asked, shown and refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

import qemu
from build import Qcow2
from build_write import finish
from command import CLEAN, copy, held, on_a_terminal, qfix, record
from corpus import IMAGES
from qfix.layout.header import CORRUPT

if TYPE_CHECKING:
    from pathlib import Path

FLAGS_AT = 79
ODD = ("two words", "it's", "-n", "äöü", "tab\there", "all", "snapshot[0]", "a\x1b[31m", "17")
"""Names that a shell, a terminal or qfix itself could take for something else."""
ANSWERS = ("-A", "one"), ("-E", "one"), ("-D", "all")
USAGE = (
    (("-A", "one", "-D", "two"), "exclude each other"),
    (("-A", "one", "-E", "two"), "exclude each other"),
    (("-D", "one", "-M", "dirty"), "exclude each other"),
    (("-A", "one", "--undo"), "exclude each other"),
    (("-A", "one", "-m", "info"), "belongs to -m check"),
    (("-A", "one", "--lossy"), "--lossy belongs to --fix"),
    (("-A", "one", "-s", "active"), "does not go with"),
)


def names(path: Path) -> list[tuple[str, str]]:
    """Return ids and names of the snapshots of an image."""
    return [(row["id"], row["name"]) for row in record("-m", "info", path)["snapshots"]]


def with_names(folder: Path, *given: tuple[str, str]) -> Path:
    """Make an image with a snapshot for each (id, name), and something written after each."""
    image = Qcow2()
    for number, (id_str, name) in enumerate(given):
        image.write(number)
        image.snapshot(id_str, name)
    image.write(len(given))
    path = folder / "image.qcow2"
    path.write_bytes(bytes(finish(image).data))
    return path


def journal_of(path: Path) -> Path:
    """Return where the journal of an image is."""
    return path.with_name(path.name + ".qfix-journal")


def status(*words: str | Path) -> int:
    """Run qfix and return its exit status."""
    found = qfix(*words).status
    assert found is not None
    return found


# which one is meant


@pytest.mark.parametrize("word", ["snapshot[1]", "2", "tuesday"])
def test_a_snapshot_is_chosen_by_position_id_and_name(word: str, tmp_path: Path) -> None:
    path = copy("ok-snapshots", tmp_path)
    assert qfix("-D", word, path).status == 0
    assert names(path) == [("1", "monday")]


@pytest.mark.parametrize("option", ["-A", "-D", "-E"])
def test_an_unknown_name_is_refused_with_those_that_there_are(option: str, tmp_path: Path) -> None:
    path = copy("ok-snapshots", tmp_path)
    for word in ("wednesday", "snapshot[2]", "mon", ""):
        done = qfix(option, word, path)
        assert done.status == 64
        assert "snapshot[0] 1 (monday), snapshot[1] 2 (tuesday)" in done.stderr
    assert not journal_of(path).exists()


@pytest.mark.parametrize("option", ["-A", "-D", "-E"])
def test_an_ambiguous_name_is_refused_with_the_candidates(option: str, tmp_path: Path) -> None:
    path = copy("snapshot-name-double", tmp_path)
    done = qfix(option, "one", path)
    assert done.status == 64
    assert "'one' fits several snapshots: snapshot[0] 1 (one), snapshot[1] 2 (one)" in done.stderr
    assert qfix(option, "2", path).status == 0


def test_a_name_that_is_the_id_of_another_is_ambiguous(tmp_path: Path) -> None:
    path = with_names(tmp_path, ("1", "2"), ("2", "two"))
    assert "fits several" in qfix("-D", "2", path).stderr
    assert qfix("-D", "snapshot[0]", path).status == 0
    assert names(path) == [("2", "two")]


def test_of_many_snapshots_a_few_are_named(tmp_path: Path) -> None:
    path = with_names(tmp_path, *((str(n), f"at-{n}") for n in range(12)))
    assert "snapshot[7] 7 (at-7) and 4 more" in qfix("-D", "no such", path).stderr


@pytest.mark.parametrize("name", ODD)
def test_names_with_odd_characters(name: str, tmp_path: Path) -> None:
    path = with_names(tmp_path, ("41", "first"), ("42", name))
    if name in ("all", "snapshot[0]"):  # these words are taken: the id is a way
        assert qfix("-D", "42", path).status == 0
        assert names(path) == [("41", "first")]
        return
    done = qfix(f"-E{name}" if name == "-n" else "-E", *(() if name == "-n" else (name,)), path)
    assert done.status == 0
    assert "\x1b" not in done.stdout
    assert [id_str for id_str, _ in names(path)] == ["42"]


def test_the_command_that_is_named_next_is_quoted(tmp_path: Path) -> None:
    path = with_names(tmp_path, ("1", "two words"))
    assert "qfix -D 'two words'" in qfix("-n", "-D", "two words", path).stdout


def test_a_position_is_that_in_the_file_when_a_repair_has_dropped_one_before(
    tmp_path: Path,
) -> None:
    path = copy("snapshot-l1-outside-file", tmp_path)
    (kept,) = [row for row in names(path) if row[0] == "2"]
    done = record("--fix", "all", "--lossy", "-E", "snapshot[1]", path)
    assert done["qfix"]["change"]["applied"]
    assert names(path) == [kept]


# what is asked


@pytest.mark.parametrize(("option", "word"), ANSWERS)
def test_it_asks_on_a_terminal(option: str, word: str, tmp_path: Path) -> None:
    path = with_names(tmp_path, ("1", "one"), ("2", "two"))
    before = path.read_bytes()
    status, said = on_a_terminal(b"n\n", option, word, path)
    assert status == 64
    assert "Give this up?" in said
    assert "Lost: " in said
    assert path.read_bytes() == before
    assert not journal_of(path).exists()
    assert on_a_terminal(b"y\n", option, word, path)[0] == 0
    assert path.read_bytes() != before


def test_it_does_not_ask_before_one_is_deleted(tmp_path: Path) -> None:
    path = with_names(tmp_path, ("1", "one"), ("2", "two"))
    status, said = on_a_terminal(b"", "-D", "one", path)
    assert (status, "?" in said) == (0, False)
    assert names(path) == [("2", "two")]


@pytest.mark.parametrize(("option", "word"), ANSWERS)
def test_yes_answers_and_without_a_terminal_it_goes_ahead(
    option: str, word: str, tmp_path: Path
) -> None:
    path = with_names(tmp_path, ("1", "one"), ("2", "two"))
    before = path.read_bytes()
    status, said = on_a_terminal(b"", "--yes", option, word, path)
    assert (status, "?" in said) == (0, False)
    assert qfix("--undo", path).status == 0
    assert path.read_bytes() == before
    assert qfix(option, word, path).status == 0


# what is shown


@pytest.mark.parametrize("option", ["-A", "-D", "-E"])
def test_a_dry_run_shows_all_and_writes_nothing(option: str, tmp_path: Path) -> None:
    path = copy("ok-snapshots", tmp_path)
    before, stamp = path.read_bytes(), path.stat().st_mtime_ns
    done = qfix("-n", option, "monday", path)
    assert done.status == 0
    assert "Nothing was written" in done.stdout
    assert "Becomes free: " in done.stdout
    assert f"qfix {option} monday {path}   makes this change" in done.stdout
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (before, stamp)
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_a_revert_shows_what_was_written_since(tmp_path: Path) -> None:
    path = copy("ok-snapshots", tmp_path)
    said = qfix("-n", "-A", "monday", path).stdout
    assert "Lost: 1 KiB of the guest's disk" in said
    assert "guest 0x200 to 0x5ff (1 KiB), active layer" in said
    told = record("-A", "monday", path)["qfix"]["change"]
    assert told["lost"] == [{"layer": "active", "start": 0x200, "length": 0x400}]
    assert told["bytes-freed"] > 0
    assert told["snapshots-dropped"] == []


def test_a_deletion_costs_the_active_layer_nothing(tmp_path: Path) -> None:
    told = record("-D", "all", copy("ok-snapshots", tmp_path))["qfix"]["change"]
    assert told["lost"] == []
    assert told["snapshots-dropped"] == ["1 (monday)", "2 (tuesday)"]
    assert told["left"] == []
    assert {row["code"] for row in told["changes"]} == {"snapshot"}


def test_damage_that_a_revert_carries_over_is_named(tmp_path: Path) -> None:
    path = copy("snapshot-l2-outside-file", tmp_path)
    done = qfix("-A", "snapshot[0]", path)
    assert done.status == 6
    assert "the snapshot is damaged, and the active layer is so too then: T2" in done.stdout
    assert f"qfix --fix all {path}" in done.stdout


def test_the_corrupt_mark_goes_when_nothing_is_left(tmp_path: Path) -> None:
    for option in ("-A", "-D", "-E"):
        path = copy("ok-snapshots", tmp_path)
        raw = bytearray(path.read_bytes())
        raw[FLAGS_AT] |= CORRUPT
        path.write_bytes(raw)
        done = qfix(option, "tuesday", path)
        assert done.status == 0
        assert CLEAN in done.stdout
        assert not path.read_bytes()[FLAGS_AT] & CORRUPT
        journal_of(path).unlink()


def test_the_corrupt_mark_stays_while_damage_is_left(tmp_path: Path) -> None:
    path = copy("snapshot-l2-outside-file", tmp_path)
    raw = bytearray(path.read_bytes())
    raw[FLAGS_AT] |= CORRUPT
    path.write_bytes(raw)
    assert qfix("-D", "snapshot[1]", path).status == 6
    assert path.read_bytes()[FLAGS_AT] & CORRUPT


# together with a repair, and refusals


def test_a_repair_and_an_operation_are_one_change(tmp_path: Path) -> None:
    path = copy("snapshot-table-overrun-second", tmp_path)
    before = path.read_bytes()
    refused = qfix("-D", "snapshot[0]", path)
    assert refused.status == 64
    assert "repair it first, with --fix all, which may be given together" in refused.stderr
    done = record("--fix", "all", "--lossy", "-D", "snapshot[0]", path)["qfix"]["change"]
    assert (done["applied"], done["record"]) == (True, 1)
    assert done["asked"] == "--fix all --lossy -D 'snapshot[0]'"
    assert qfix("--undo", path).status == 5
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "name",
    [
        *("snapshot-table-overrun", "snapshot-table-unaligned", "snapshot-table-outside-file"),
        *("snapshots-too-many", "snapshot-extra-long", "snapshots-with-data-file"),
    ],
)
def test_a_damaged_table_is_refused_with_the_next_step(name: str, tmp_path: Path) -> None:
    path = copy(name, tmp_path)
    before = path.read_bytes()
    for words in (("-A", "snapshot[0]"), ("-D", "all"), ("-E", "snapshot[0]")):
        done = qfix(*words, path)
        assert done.status == 64
        assert "the snapshot table is damaged (S5" in done.stderr
        assert "--fix all" in done.stderr
    assert path.read_bytes() == before


def test_a_snapshot_without_a_table_is_refused_but_others_are_not(tmp_path: Path) -> None:
    path = copy("snapshot-l1-unaligned", tmp_path)
    done = qfix("-A", "snapshot[0]", path)
    assert done.status == 64
    assert "leads to no L1 table (S5" in done.stderr
    assert status("-D", "snapshot[0]", path) < 64


@pytest.mark.parametrize(("options", "said"), USAGE)
def test_options_that_do_not_go_together(
    options: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    done = qfix(*options, copy("ok-snapshots", tmp_path))
    assert done.status == 64
    assert said in done.stderr


def test_an_image_that_is_held_is_refused(tmp_path: Path) -> None:
    path = copy("ok-snapshots", tmp_path)
    before = path.read_bytes()
    with held(path) as pid:
        done = qfix("-D", "all", path)
        assert done.status == 75
        assert str(pid) in done.stderr
    assert path.read_bytes() == before


def test_an_image_without_snapshots(tmp_path: Path) -> None:
    path = copy("ok-v3", tmp_path)
    before = path.read_bytes()
    for option in ("-A", "-D", "-E"):
        done = qfix(option, "one", path)
        assert (done.status, "there are none" in done.stderr) == (64, True)
    done = qfix("-D", "all", path)
    assert done.status == 0
    assert "Nothing was changed: it is so already." in done.stdout
    assert path.read_bytes() == before
    assert not journal_of(path).exists()


def test_the_only_snapshot_is_all_that_is_kept(tmp_path: Path) -> None:
    path = with_names(tmp_path, ("1", "one"))
    before = path.read_bytes()
    done = qfix("-E", "one", path)
    assert "it is so already" in done.stdout
    assert path.read_bytes() == before


def test_a_version_2_image(tmp_path: Path) -> None:
    path = copy("ok-snapshots-v2", tmp_path)
    before = path.read_bytes()
    for option, left in (("-A", 2), ("-D", 1), ("-E", 1)):
        assert qfix(option, "snapshot[0]", path).status == 0
        assert len(names(path)) == left
        assert qfix("--undo", path).status == 0
        assert path.read_bytes() == before


def test_several_images_are_changed_one_by_one(tmp_path: Path) -> None:
    paths = [copy("ok-snapshots", tmp_path), copy("ok-snapshots-v2", tmp_path)]
    done = qfix("-D", "1", *paths)
    assert done.status == 0
    assert [len(names(path)) for path in paths] == [1, 1]
    assert len(done.stdout.splitlines()) >= 2


def test_a_quiet_run_and_json(tmp_path: Path) -> None:
    path = copy("ok-snapshots", tmp_path)
    done = qfix("--output", "json", "-n", "-A", "1", path)
    told = json.loads(done.stdout)["qfix"]["change"]
    assert (told["dry-run"], told["applied"], told["record"]) == (True, False, None)
    assert len(qfix("-q", "-A", "1", path).stdout.splitlines()) < 6


def test_vm_state_goes_and_stays(tmp_path: Path) -> None:
    path = copy("ok-vm-state", tmp_path)
    done = qfix("-A", "running", path)
    assert done.status == 0
    assert names(path) == [("1", "running")]
    if qemu.img("--version", check=False).returncode == 0:
        assert qemu.check(path)[0] == 0


@pytest.mark.parametrize("name", sorted(item.name for item in IMAGES.iterdir() if item.is_dir()))
def test_no_case_of_the_corpus_makes_an_operation_fail(name: str, tmp_path: Path) -> None:
    """Each is done, changes nothing or is refused; the rehearsal never fails."""
    for words in (
        ("-A", "snapshot[0]"),
        ("-D", "all"),
        ("-D", "snapshot[1]"),
        ("-E", "snapshot[0]"),
    ):
        path = copy(name, tmp_path)
        before = path.read_bytes()
        found = status(*words, path)
        assert found <= 64, words
        if found < 64 and journal_of(path).exists():
            assert status("--undo", path) < 64
            journal_of(path).unlink()
        assert path.read_bytes() == before
