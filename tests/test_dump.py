"""dump: lines of each section against the bytes, fixed keys, marks of damage, wrong sections."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import pytest

from build_write import finish
from command import case, qfix, record, records
from corpus import CASES
from corpus_bases import described, extended, plain, with_bitmap, with_snapshots
from qemu_anatomy import OFFSET_MASK, Anatomy

if TYPE_CHECKING:
    from pathlib import Path

    from build import Picture

SECTIONS = ("header", "snapshots", "bitmaps", "l1", "l2", "refcount", "host", "guest", "ranges")
KEYS = {
    "l1": "name file-offset entry host-offset guest-offset flags findings",
    "l2": "name file-offset entry kind host-offset guest-offset detail flags findings",
    "host": "start end clusters kind what users layer guest-offset hole shared findings",
    "guest": "layer start length kind host-offset",
    "ranges": "set start end clusters",
    "total": "set ranges clusters bytes",
}
REFCOUNTS = (
    "name file-offset entry host-offset first-cluster last-cluster findings",
    "name host-offset refcount counted user findings",
)
ENTRIES = ("L1 entry", "L2 entry", "refcount table entry")
PREFIX = "# "


def stored(picture: Picture, folder: Path) -> Path:
    """Write an image to a file."""
    path = folder / "image.qcow2"
    path.write_bytes(bytes(picture.data))
    return path


def dumped(section: str, path: Path, *options: str) -> list[dict[str, Any]]:
    """Return the JSON lines of one section."""
    rows = records("-m", "dump", "-o", section, *options, path)
    assert rows[0]["section"] == "image"
    assert rows[0]["filename"] == str(path)
    return rows[1:]


def text(section: str, path: Path, *options: str) -> list[str]:
    """Return the lines of one section that are no headings."""
    lines = qfix("-m", "dump", "-o", section, *options, path).stdout.splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("name", ["l2-unaligned", "ok-snapshots", "leak", "ok-compressed"])
@pytest.mark.parametrize("section", KEYS)
def test_keys_of_each_section_are_fixed(section: str, name: str) -> None:
    wanted = "ranges" if section == "total" else section
    if not case(name).exists():
        pytest.fail(f"no such case: {name}")
    for row in dumped(wanted, case(name)):
        if row["section"] == section:
            assert set(row) == {"section", *KEYS[section].split()}


def test_keys_of_refcounts_are_fixed() -> None:
    rows = dumped("refcount", case("leak"))
    assert {frozenset(row) for row in rows} == {
        frozenset({"section", *keys.split()}) for keys in REFCOUNTS
    }


@pytest.mark.parametrize("section", SECTIONS)
def test_text_and_json_have_the_same_lines(section: str, tmp_path: Path) -> None:
    for picture in (plain(), with_snapshots(), with_bitmap("one", "two"), extended()):
        path = stored(picture, tmp_path)
        rows = dumped(section, path)
        lines = text(section, path)
        assert len(lines) == len(rows)
        for line, row in zip(lines, rows, strict=True):
            assert line.split()[0] == row.get("name", line.split()[0])
            assert line.startswith("total") == (row["section"] == "total")


@pytest.mark.parametrize("make", [plain, with_snapshots, extended])
def test_l2_entries_are_those_of_the_tables(make: Any, tmp_path: Path) -> None:
    picture: Picture = make()
    path, anatomy = stored(picture, tmp_path), Anatomy(bytes(picture.data))
    step = 16 if anatomy.extended else 8
    expected = {}
    for i, entry in enumerate(anatomy.entries(anatomy.l1_offset, anatomy.l1_size)):
        table = entry.read(anatomy.raw) & OFFSET_MASK
        for j in range(anatomy.cluster_size // step if table else 0):
            place = table + j * step
            words = struct.unpack_from(f">{step // 8}Q", anatomy.raw, place)
            if any(words):
                expected[f"l2[{i}][{j}]"] = (place, words[0])
    rows = dumped("l2", path, "-s", "active")
    assert {row["name"]: (row["file-offset"], row["entry"]) for row in rows} == expected


def test_l1_entries_are_those_of_the_tables_of_every_layer(tmp_path: Path) -> None:
    picture = with_snapshots()
    path = stored(picture, tmp_path)
    names = {row["name"]: row["file-offset"] for row in dumped("l1", path)}
    for prefix in ("", "snapshot[0].", "snapshot[1]."):
        assert names[f"{prefix}l1[0]"] == picture.places[f"{prefix}l1[0]"].offset


def test_a_table_that_layers_share_is_there_once_and_for_each_one_asked_for(
    tmp_path: Path,
) -> None:
    image = described(size=64 << 10)
    image.snapshot("1", "one")
    path = stored(finish(image), tmp_path)
    rows = dumped("l2", path)
    assert rows
    assert not any(row["name"].startswith("snapshot") for row in rows)
    mine = dumped("l2", path, "-s", "one")
    assert [row["file-offset"] for row in mine] == [row["file-offset"] for row in rows]
    assert all(row["name"].startswith("snapshot[0].l2[") for row in mine)


def test_header_lines_are_the_bytes_of_the_file(tmp_path: Path) -> None:
    picture = with_bitmap("one", "two")
    path, raw = stored(picture, tmp_path), bytes(picture.data)
    rows = [row for row in dumped("header", path) if "width" in row and "value" in row]
    numbers = [row for row in rows if isinstance(row["value"], int)]
    assert len(numbers) > 18
    for row in numbers:
        place = slice(row["file-offset"], row["file-offset"] + row["width"])
        assert int.from_bytes(raw[place]) == row["value"], row["name"]


def test_snapshot_and_bitmap_fields_are_the_bytes_of_the_file(tmp_path: Path) -> None:
    for section, picture in (
        ("snapshots", with_snapshots()),
        ("bitmaps", with_bitmap("one", "two")),
    ):
        path, raw = stored(picture, tmp_path), bytes(picture.data)
        rows = [row for row in dumped(section, path) if "width" in row]
        assert rows
        for row in rows:
            part = raw[row["file-offset"] : row["file-offset"] + row["width"]]
            value = row["value"]
            assert (
                part == value.encode() if isinstance(value, str) else int.from_bytes(part) == value
            )


def test_the_header_alone_needs_no_body(tmp_path: Path) -> None:
    path = tmp_path / "image.qcow2"
    path.write_bytes(bytes(plain().data)[:512])
    rows = records("-m", "dump", "-H", path)
    assert {row["section"] for row in rows} == {"image", "header"}
    assert "header.l1_table_offset" in {row.get("name") for row in rows}


def test_what_is_no_image_is_said_to_be_none(tmp_path: Path) -> None:
    path = tmp_path / "image.qcow2"
    path.write_bytes(b"nothing" * 500)
    done = qfix("-m", "dump", path)
    assert done.status == 8
    assert "there is no qcow2 header" in done.stdout
    assert "# l2: can't be read" in done.stdout


@pytest.mark.parametrize("name", [each.name for each in CASES])
def test_what_is_wrong_with_an_entry_stands_on_its_line(name: str) -> None:
    if not case(name).exists():
        pytest.skip("a case without an image of its own")
    found = record(case(name))["qfix"]["findings"]
    entries = {row["code"] for row in found if row["structure"] in ENTRIES}
    lines = dumped("l1,l2,refcount", case(name))
    marked = {code for row in lines for code in row.get("findings", ())}
    counted = {row["code"] for row in found}
    assert entries <= marked
    assert marked <= counted


def test_marks_are_words_in_text() -> None:
    lines = text("l2", case("l2-unaligned"))
    marked = [line for line in lines if "<-" in line]
    assert marked
    assert all("T212 l2-entry-unaligned" in line for line in marked)


def test_lost_tables_are_marked_among_the_leaks() -> None:
    rows = dumped("host", case("l1-lost"))
    assert [row["findings"] for row in rows if row["kind"] == "leaked"] == [["T232"], ["R301"]]


@pytest.mark.parametrize("word", ["l3", "ranges:lost", "l1:data", "", "l1,,l2"])
def test_an_unknown_section_names_the_known_ones(word: str) -> None:
    done = qfix("-m", "dump", "-o", word, case("leak"))
    assert done.status == 64
    assert "ranges:leaked" in done.stderr if ":" in word else "snapshots" in done.stderr
    assert not done.stdout


def test_one_set_of_ranges() -> None:
    rows = dumped("ranges:leaked", case("leak"))
    assert {row["set"] for row in rows} == {"leaked"}
    leaks = sum(
        row["count"] for row in record(case("leak"))["qfix"]["findings"] if row["code"] == "R301"
    )
    assert rows[-1]["clusters"] == leaks > 0


def test_flags_are_spelled_out_where_they_are_asked_for() -> None:
    for name, flag in (("ok-compressed", "[COMPRESSED]"), ("ok-v3", "[COPIED]")):
        assert not any(flag in line for line in text("l2", case(name)))
        assert any(flag in line for line in text("l2", case(name), "-f"))


def test_a_quiet_dump_has_no_headings() -> None:
    done = qfix("-m", "dump", "-q", case("ok-snapshots"))
    assert done.stdout.splitlines() == [
        line
        for line in qfix("-m", "dump", case("ok-snapshots")).stdout.splitlines()
        if line and not line.startswith("#")
    ]


def test_status_is_that_of_the_image() -> None:
    assert qfix("-m", "dump", case("leak")).status == 1
    assert qfix("-m", "dump", case("l2-unaligned")).status == 6


def test_refcounts_that_are_zero_are_there_with_v(tmp_path: Path) -> None:
    path = stored(plain(), tmp_path)
    rows = [row for row in dumped("refcount", path, "-v") if "counted" in row]
    size = Anatomy(path.read_bytes()).cluster_size
    assert [row["host-offset"] for row in rows] == [
        number * size for number in range(len(path.read_bytes()) // size)
    ]


def test_a_dump_changes_nothing(tmp_path: Path) -> None:
    path = stored(with_snapshots(), tmp_path)
    before = path.read_bytes(), path.stat().st_mtime_ns
    qfix("-m", "dump", path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_json_lines_are_json() -> None:
    for each in CASES:
        if case(each.name).exists():
            done = qfix("-m", "dump", "--output", "json", case(each.name))
            for line in done.stdout.splitlines():
                json.loads(line)


def test_guest_ranges_of_each_layer_that_is_asked_for() -> None:
    path = case("ok-snapshots")

    def layers(*options: str) -> list[str]:
        found = [row["layer"] for row in dumped("guest", path, *options)]
        return list(dict.fromkeys(found))

    assert layers() == ["active"]
    assert layers("-s", "all") == ["active", "snapshot[0]", "snapshot[1]"]
    assert layers("-s", "inactive") == ["snapshot[0]", "snapshot[1]"]


def test_many_entries_that_lead_to_one_table(tmp_path: Path) -> None:
    path = tmp_path / "image.qcow2"
    raw = bytearray(case("ok-l1-large").read_bytes())
    start, count = int.from_bytes(raw[40:48]), int.from_bytes(raw[36:40])
    used = next(
        raw[at : at + 8]
        for at in range(start, start + 8 * count, 8)
        if raw[at + 7] or any(raw[at : at + 8])
    )
    for at in range(start, start + 8 * min(count, 16), 8):
        raw[at : at + 8] = used
    path.write_bytes(raw)
    rows = dumped("guest", path)
    data = [row for row in rows if row["kind"] == "data"]
    places = {row["host-offset"] for row in data}
    assert len(data) >= 2 * len(places) > 0
    users = [row["user"] for row in dumped("refcount", path) if "user" in row]
    assert not any(user.count("more") > 1 for user in users)


def test_the_header_beside_another_section() -> None:
    rows = records("-m", "dump", "-H", "-o", "l1", case("ok-v3"))
    assert {row["section"] for row in rows} == {"image", "header", "l1"}


@pytest.mark.parametrize("section", ["host", "ranges", "refcount", "header,bitmaps"])
def test_layers_go_with_sections_that_have_them(section: str) -> None:
    done = qfix("-m", "dump", "-o", section, "-s", "active", case("ok-v3"))
    assert done.status == 64
    assert "it goes with -o l1, l2, guest, snapshots" in done.stderr


def test_names_are_as_they_are_in_json(tmp_path: Path) -> None:
    image = described(size=64 << 10)
    image.snapshot("1", "a\x1b[31m\nb")
    path = stored(finish(image), tmp_path)
    names = [row["value"] for row in dumped("snapshots", path) if row["name"].endswith(".name")]
    assert names == ["a\x1b[31m\nb"]
    assert "\x1b" not in qfix("-m", "dump", path).stdout
