"""The options: what each shows or hides, names that are hostile, and that looking only looks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from build import Qcow2
from build_write import finish
from command import CLEAN, case, codes, copy, held, is_locked, qfix, record
from corpus_bases import with_bitmap, with_snapshots
from qfix.examine import examine
from qfix.problems.catalogue import CATALOGUE

if TYPE_CHECKING:
    from build import Picture

RESERVED = 1 << 1
ESCAPE = "\x1b["
EVIL = "evil\x1b[2J\r\n\x07name"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
MODES = ("check", "error", "info")


def stored(picture: Picture, folder: Path) -> Path:
    """Write an image to a folder."""
    path = folder / "image.qcow2"
    path.write_bytes(picture.data)
    return path


def spoil(picture: Picture, place: str) -> None:
    """Set a reserved bit in an L2 entry."""
    at = picture.places[place].offset
    old = int.from_bytes(picture.data[at : at + 8], "big")
    assert old
    picture.poke({place: old | RESERVED})


def without_color(said: str) -> str:
    """Take the colours away that qfix itself puts in."""
    return re.sub(r"\x1b\[[0-9;]*m", "", said)


@pytest.fixture
def layered(tmp_path: Path) -> Path:
    """Make an image with a wrong L2 entry in the active layer and in each of two snapshots."""
    picture = with_snapshots()
    for place in ("l2[0][2]", "snapshot[0].l2[0][1]", "snapshot[1].l2[0][2]"):
        spoil(picture, place)
    return stored(picture, tmp_path)


def layers(path: Path, *options: str) -> set[str]:
    """Return the layers that findings with a guest range are about."""
    found = record("-m", "error", *options, path)["qfix"]["findings"]
    return {place["layer"] for row in found for place in row["guest-ranges"]}


def test_all_layers_are_shown(layered: Path) -> None:
    every = {"active", "snapshot[0]", "snapshot[1]"}
    assert layers(layered) == layers(layered, "-s", "all") == every


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        ("active", {"active"}),
        ("inactive", {"snapshot[0]", "snapshot[1]"}),
        ("1", {"snapshot[0]"}),
        ("2", {"snapshot[1]"}),
        ("monday", {"snapshot[0]"}),
        ("tuesday", {"snapshot[1]"}),
        ("snapshot[0]", {"snapshot[0]"}),
        ("snapshot[1]", {"snapshot[1]"}),
    ],
)
def test_layers_by_name(layered: Path, wanted: str, shown: set[str]) -> None:
    found = record("-m", "error", "-s", wanted, layered)["qfix"]["findings"]
    for row in found:
        touched = {place["layer"] for place in row["guest-ranges"]}
        assert not touched or touched & shown
    assert shown <= layers(layered, "-s", wanted)


def test_a_name_that_two_snapshots_have_is_refused() -> None:
    output = qfix("-s", "same", case("ok-snapshots-same"))
    named = record("-m", "info", case("ok-snapshots-same"))["snapshots"]
    double = qfix("-s", "twice", case("snapshot-name-double"))
    assert named
    assert output.status == double.status == 64


def test_choosing_hides_findings_but_no_status() -> None:
    both = case("l2-not-copied-and-leak")
    whole = codes(both)
    status = qfix(both).status

    assert {code[0] for code in whole} == {"C", "R"}
    assert {code[0] for code in codes("-o", "refcount", both)} == {"R"}
    assert {code[0] for code in codes("-o", "snapshot", both)} == {"C"}
    for only in ("all", "snapshot,refcount", "refcount,all"):
        assert codes("-o", only, both) == whole
    for only in ("all", "snapshot", "refcount"):
        assert qfix("-o", only, both).status == status
        assert CLEAN not in qfix("-o", only, both).stdout


def test_base() -> None:
    missing = codes(case("backing-missing")) - codes("-b", case("backing-missing"))
    (code,) = missing
    assert "missing" in CATALOGUE[code].name


def test_flags() -> None:
    plain = qfix("-m", "error", case("l2-not-copied")).stdout
    spelled = qfix("-m", "error", "-f", case("l2-not-copied")).stdout
    copied = qfix("-m", "error", "--flags", case("l2-copied")).stdout

    assert re.search(r"no flags", spelled)
    assert not re.search(r"no flags", plain)
    assert re.search(r"\[0x[0-9a-f]{16}: .*COPIED", copied)


@pytest.mark.parametrize("mode", MODES)
def test_header_fields_with_their_offsets(mode: str) -> None:
    said = qfix("-m", mode, "-H", case("ok-v3")).stdout
    rows = dict(re.findall(r"^ +(\d+) +\d+ +(\w+) ", said, re.MULTILINE))

    assert len(rows) == 19
    wanted = {
        *(("0", "magic"), ("20", "cluster_bits"), ("24", "size"), ("40", "l1_table_offset")),
        *(("64", "snapshots_offset"), ("72", "incompatible_features"), ("100", "header_length")),
        ("104", "compression_type"),
    }
    assert wanted <= set(rows.items())
    assert re.search(r"^ +20 +4 +cluster_bits +9$", said, re.MULTILINE)
    assert "cluster_bits" not in qfix("-m", mode, case("ok-v3")).stdout


def test_header_of_version_2_has_13_fields() -> None:
    said = qfix("-m", "info", "--header", case("ok-v2")).stdout
    rows = re.findall(r"^ +(\d+) +\d+ +(\w+) ", said, re.MULTILINE)
    assert len(rows) == 13
    assert rows[-1] == ("64", "snapshots_offset")


def test_preallocation() -> None:
    for name, wanted in (("ok-preallocated", {"metadata", "full"}), ("ok-v3", {"off"})):
        assert record("-m", "info", "-p", case(name))["preallocation"] in wanted
        assert "preallocation" not in record("-m", "info", case(name))


def test_less_and_more() -> None:
    name = case("l2-not-copied-run")
    quiet, usual, more, most = (
        qfix(*options, name).stdout.splitlines() for options in (("-q",), (), ("-v",), ("-vv",))
    )
    assert len(quiet) < len(usual) < len(more) <= len(most)
    assert set(quiet) <= set(usual)
    assert CLEAN in qfix("-q", case("ok-v3")).stdout


def test_lock_is_held_while_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copy("ok-v3", tmp_path)
    seen = []

    def watch(*arguments: object, **options: object) -> object:
        seen.append(is_locked(path))
        return examine(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("qfix.modes.check.examine", watch)
    assert qfix(path).status == 0
    assert qfix("-l", path).status == 0
    assert seen == [False, True]
    assert not is_locked(path)


@pytest.mark.parametrize("mode", MODES)
def test_force_share(mode: str, tmp_path: Path) -> None:
    path = copy("leak", tmp_path)
    with held(path):
        output = qfix("-m", mode, "-U", path)
        told = record("-m", mode, "-U", path)
    free = record("-m", mode, "-U", path)

    assert output.status == (0 if mode == "info" else 1)
    in_use = told if mode == "info" else told["qfix"]
    assert in_use["in-use"] is True
    assert (free if mode == "info" else free["qfix"])["in-use"] is False
    if mode != "info":
        said = output.stdout + output.stderr
        assert re.search(r"unreliable|relied", said)


def test_color() -> None:
    path = case("leak")
    for options in (("--color", "always"), ("-d", "color")):
        assert ESCAPE in qfix(*options, path).stdout
        assert ESCAPE not in qfix(*options, "--output", "json", path).stdout
    for words in ("", "--color auto", "--color never", "-d none", "-d off"):
        assert ESCAPE not in qfix(*words.split(), path).stdout


def test_color_changes_no_word() -> None:
    colored = qfix("--color", "always", case("leak")).stdout
    assert without_color(colored) == qfix(case("leak")).stdout


@pytest.mark.parametrize("code", ["R301", "H149", "T232"])
def test_explain(code: str) -> None:
    output = qfix("--explain", code)
    problem = CATALOGUE[code]
    assert output.status == 0
    for part in (code, problem.name, problem.meaning, problem.advice, problem.severity.value):
        assert part in output.stdout


def test_explain_of_an_unknown_code_names_the_known() -> None:
    output = qfix("--explain", "R999")
    assert (output.status, output.stdout) == (64, "")
    assert "R999" in output.stderr
    assert "R301" in output.stderr


def test_help_lists_every_option() -> None:
    said = qfix("--help").stdout
    for option in (
        *("--mode", "--only", "--snapshot", "--base", "--flags", "--header", "--prealloc"),
        *("--lock", "--force-share", "--explain", "--output", "--color", "-d", "--quiet"),
        *("--verbose", "--exit-codes", "--version", "--help"),
    ):
        assert re.search(rf"(^|[ ,]){option}\b", said, re.MULTILINE), option
    assert "Safe options" in said


def said_of(mode: str, options: tuple[str, ...], path: Path) -> str:
    """Return what is printed in both ways of colour; it must have no control characters."""
    said = ""
    for color in ("never", "always"):
        output = qfix("-m", mode, "--color", color, *options, path)
        assert output.status in {0, 5, 6}
        said += without_color(output.stdout + output.stderr)
    assert not CONTROL.search(said)
    return said


@pytest.mark.parametrize("options", [(), ("-v",), ("-v", "-v"), ("-H",), ("-q",)])
@pytest.mark.parametrize("mode", MODES)
def test_hostile_names_in_an_image(mode: str, options: tuple[str, ...], tmp_path: Path) -> None:
    """Snapshot id and name, bitmap name, backing file and its format, data file."""
    image = Qcow2(
        cluster_bits=12,
        backing=EVIL.encode(),
        extensions=[(0xE2792ACA, b"raw\x1b[2K\x9b"), (0x44415441, EVIL.encode())],
    )
    image.write(0)
    image.snapshot(EVIL, EVIL)
    image.write(0)
    image.bitmap(EVIL, 0, granularity_bits=16)
    picture = finish(image)
    spoil(picture, "snapshot[0].l2[0][0]")

    said = said_of(mode, options, stored(picture, tmp_path))
    if mode == "info":
        assert "evil\\x1b[2J" in said


@pytest.mark.parametrize("word", [0, 1, 2])
@pytest.mark.parametrize("mode", MODES)
def test_hostile_feature_names(mode: str, word: int, tmp_path: Path) -> None:
    """The image itself names its features; the first bit here is a known one."""
    table = b"".join(bytes((word, bit)) + EVIL.encode().ljust(46, b"\0") for bit in (0, 9))
    image = Qcow2(cluster_bits=12, extensions=[(0x6803F857, table)])
    image.write(0)
    picture = finish(image)
    words = ("incompatible_features", "compatible_features", "autoclear_features")
    picture.poke({words[word]: 1 << 9})

    path = stored(picture, tmp_path)
    for color in ("never", "always"):
        output = qfix("-m", mode, "--color", color, path)
        said = without_color(output.stdout + output.stderr)
        assert not CONTROL.search(said)
        assert "evil" in said


@pytest.mark.parametrize("mode", MODES)
def test_hostile_name_of_a_file(mode: str, tmp_path: Path) -> None:
    path = copy("leak", tmp_path).rename(tmp_path / "image\x1b[2J\r\x07.qcow2")

    for arguments in ([path], [path, path], [tmp_path / "missing\x1b[2J\r"]):
        output = qfix("-m", mode, "--color", "always", *arguments)
        assert output.status in {0, 1, 66}
        assert not CONTROL.search(without_color(output.stdout + output.stderr))
    assert record("-m", mode, path)["filename"] == str(path)


@pytest.mark.parametrize("mode", MODES)
def test_name_of_a_file_that_is_no_utf_8(mode: str, tmp_path: Path) -> None:
    path = Path(str(tmp_path / "image") + "\udcff\udcfe.qcow2")
    copy("leak", tmp_path).rename(path)

    assert qfix("-m", mode, path).status == (0 if mode == "info" else 1)
    assert qfix("-m", mode, path, path).status == (0 if mode == "info" else 1)
    assert record("-m", mode, path)["filename"] == str(path)
    assert qfix(f"{path}.missing").status == 66


@pytest.mark.parametrize(
    "options",
    [
        *(("-m", mode, *more) for mode in MODES for more in ((), ("-l",), ("-U",), ("-H", "-v"))),
        ("-m", "info", "-p"),
        ("-m", "check", "--output", "json"),
        ("-m", "error", "-f", "-s", "active", "-o", "refcount"),
    ],
    ids=" ".join,
)
def test_looking_leaves_everything_as_it_is(options: tuple[str, ...], tmp_path: Path) -> None:
    path = stored(with_bitmap(), tmp_path)
    before = path.read_bytes(), path.stat().st_mtime_ns, sorted(tmp_path.iterdir())

    assert qfix(*options, path).status == 0
    assert (path.read_bytes(), path.stat().st_mtime_ns, sorted(tmp_path.iterdir())) == before
