"""Copies of metadata: small, without guest data, checked alike; and put back byte for byte."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

import corpus
from change_run import fill, mounted
from command import copy, held, on_a_terminal, qfix, record
from mutant_run import IMAGE_STATUSES, place
from mutations import Base, build
from qemu_anatomy import OFFSET_MASK
from repair_images import Image, made

if TYPE_CHECKING:
    from mutant_sites import Anatomy

CASES = sorted(path.name for path in corpus.IMAGES.iterdir())
NO_IMAGE = {"not-qcow2", "not-qcow2-empty"}
ON_DATA = {
    *("data-file-bit-lost", "data-on-encryption-header", "data-on-l1", "data-on-l2"),
    *("data-on-refblock", "data-on-reftable", "data-on-snapshot-l1", "l1-flags-only"),
    *("l1-size-huge", "l2-tables-overlap", "refblock-on-data", "reftable-huge"),
    "reftable-partly-outside",
}
"""Cases in which tables and guest data share clusters: without names these are left out."""
MUTANTS = 120


def image(name: str, folder: Path) -> Path:
    """Return a copy of the image of a case, as long as it is to be."""
    path = copy(name, folder)
    length = json.loads((corpus.IMAGES / name / "expect.json").read_text()).get("length")
    if length is not None:
        os.truncate(path, length)
    return path


def found(path: Path) -> tuple[Any, ...]:
    """Return all that a check says of an image but its names; it does not look for other files."""
    told = record("-b", path)
    columns = ("code", "count", "first", "host-offset", "guest-ranges", "severity")
    rows = [tuple(str(row[name]) for name in columns) for row in told["qfix"]["findings"]]
    counts = {name: value for name, value in told.items() if name not in {"filename", "qfix"}}
    return rows, counts, told["qfix"]["statistics"], told["qfix"]["status"]


def copied(path: Path, *options: str, name: str = "copy") -> Path:
    """Return a metadata copy of an image."""
    out = path.with_name(name)
    done = qfix("-m", "copy", "--metadata", out, *options, path)
    assert (done.status, done.stderr) == (0, "")
    return out


@pytest.mark.parametrize("name", CASES)
def test_a_check_of_the_copy_finds_the_same(name: str, tmp_path: Path) -> None:
    path = image(name, tmp_path)
    before = path.read_bytes() if path.stat().st_size < 1 << 24 else b""
    if name in NO_IMAGE:
        assert qfix("-m", "copy", "--metadata", tmp_path / "copy", path).status == 64
        assert os.listdir(tmp_path) == [path.name]
        return
    out = copied(path)
    assert out.stat().st_size == path.stat().st_size
    assert found(out) == found(path)
    neutral = copied(path, "--anonymize", name="neutral")
    assert (found(neutral) == found(path)) is (name not in ON_DATA)
    assert not before or path.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == sorted(["copy", "neutral", path.name])


def test_a_check_of_the_copy_of_a_mutant_finds_the_same(tmp_path: Path) -> None:
    listed = [
        Base(name, (corpus.IMAGES / name / "image.qcow2").read_bytes())
        for name in ("ok-many-kinds", "ok-bitmap-and-snapshot", "ok-snapshots", "leak", "l1-lost")
    ]
    anatomies: dict[str, Anatomy] = {}
    looked = 0
    for index in range(MUTANTS):
        path = Path(place(build(listed, anatomies, 5, index), tmp_path))
        out = tmp_path / "copy"
        out.unlink(missing_ok=True)
        done = qfix("-m", "copy", "--metadata", out, path)
        if "no qcow2 image" in done.stderr:
            continue
        assert done.status == 0, done.stderr
        assert found(out) == found(path), f"mutant {index}"
        looked += 1
    assert looked > MUTANTS // 2


@pytest.mark.usefixtures("need_qemu")
def test_no_guest_data_and_little_room(tmp_path: Path) -> None:
    one = made(tmp_path, "compat=1.1", "4G", "write -P 0x5a 0 32M", "write -P 0x5b 3G 1M")
    one.qemu("qemu-img", "snapshot", "-c", "one", "image")
    one.io("write -P 0x5c 1M 3M", "write -c -P 0x5d 2G 1M")
    out = copied(one.path)
    held_bytes = out.read_bytes()
    for pattern in b"\x5a\x5b\x5c\x5d":
        assert bytes([pattern]) * 16 in one.raw or pattern == 0x5D
        assert bytes([pattern]) * 16 not in held_bytes
    assert out.stat().st_size == one.path.stat().st_size
    assert out.stat().st_blocks * 512 < 200_000
    assert out.stat().st_mode & 0o777 == 0o600
    assert found(out) == found(one.path)
    assert one.qemu("qemu-img", "check", "copy").returncode == 0
    listed = record("-m", "copy", "--metadata", tmp_path / "again", one.path)
    assert set(listed) == {
        *("filename", "out", "dry-run", "anonymized", "file-size", "cluster-size", "tables-read"),
        *("clusters", "metadata-bytes", "bytes-written", "bytes-on-disk", "bytes-unreadable"),
        *("clusters-of-lost-tables", "clusters-also-guest-data", "clusters-left-out", "key-slots"),
    }


def test_vm_state_and_what_tables_leave_of_their_clusters_stay_behind(tmp_path: Path) -> None:
    path = image("ok-vm-state", tmp_path)
    raw = bytearray(path.read_bytes())
    raw[0x600 + 64 : 0x800] = b"SLACK..." * 56  # behind the entries of the active L1 table
    path.write_bytes(raw)
    whole = path.read_bytes()
    out = copied(path).read_bytes()
    assert found(tmp_path / "copy") == found(path)
    assert b"SLACK" in whole
    assert b"SLACK" not in out


@pytest.mark.usefixtures("need_qemu")
def test_names_are_kept_or_become_others(tmp_path: Path) -> None:
    backing = made(tmp_path, "compat=1.1", "64M")
    backing.path.rename(tmp_path / "secret-base.qcow2")
    qemu = Image(tmp_path / "image").qemu
    options = ("-F", "qcow2", "-b", "secret-base.qcow2")
    qemu("qemu-img", "create", "-q", "-f", "qcow2", *options, "image")
    for name in ("secret-one", "secret-two"):
        qemu("qemu-img", "snapshot", "-c", name, "image")
        qemu("qemu-img", "bitmap", "--add", "image", f"{name}-bitmap")
    path = tmp_path / "image"
    plain, neutral = copied(path), copied(path, "--anonymize", name="neutral")
    assert plain.read_bytes().count(b"secret") == 5 <= path.read_bytes().count(b"secret")
    assert b"secret" not in neutral.read_bytes()
    told = qfix("-m", "info", neutral).stdout
    assert "qcow2" in told
    assert "xxxx" in told
    assert found(neutral) == found(path)


def test_equal_names_stay_equal(tmp_path: Path) -> None:
    for name in ("snapshot-name-double", "bitmap-name-double"):
        assert name in CASES
        path = image(name, tmp_path)
        assert found(copied(path, "--anonymize", name=f"{name}.copy")) == found(path)


def test_key_slots_are_told_of_or_left_out(tmp_path: Path) -> None:
    path = image("ok-encrypted", tmp_path)
    raw = path.read_bytes()
    place_ = raw.index(b"LUKS\xba\xbe")
    slots = raw[place_ + 6 : place_ + 500]
    done = qfix("-m", "copy", "--metadata", tmp_path / "copy", path)
    assert "do not give it away" in done.stdout
    assert slots in (tmp_path / "copy").read_bytes()
    done = qfix("-m", "copy", "--metadata", tmp_path / "neutral", "--anonymize", path)
    assert "are left out" in done.stdout
    left = (tmp_path / "neutral").read_bytes()
    assert left[place_ : place_ + 6] == raw[place_ : place_ + 6]
    assert not any(left[place_ + 6 : place_ + 500])


def test_clusters_that_may_hold_guest_data_are_told_of(tmp_path: Path) -> None:
    path = image("data-on-l2", tmp_path)
    told = record("-m", "copy", "--metadata", tmp_path / "copy", path)
    assert (told["clusters-also-guest-data"], told["clusters-left-out"]) == (1, 0)
    said = qfix("-m", "copy", "--metadata", tmp_path / "more", path).stdout
    assert "may hold guest data" in said
    told = record("-m", "copy", "--metadata", tmp_path / "neutral", "--anonymize", path)
    assert (told["clusters-also-guest-data"], told["clusters-left-out"]) == (1, 1)
    assert not any((tmp_path / "neutral").read_bytes()[4 * 512 : 5 * 512])


@pytest.mark.parametrize("name", ["cluster-bits-large", "header-overwritten"])
def test_an_image_whose_tables_can_not_be_read(name: str, tmp_path: Path) -> None:
    path = image(name, tmp_path)
    done = qfix("-m", "copy", "--metadata", tmp_path / "copy", path)
    assert done.status == 0
    assert "the tables can't be read" in done.stdout
    back = qfix("-m", "copy", "--restore-metadata", tmp_path / "copy", path)
    assert back.status == 64
    assert "can't be read" in back.stderr


BIG = 1 << 63


@pytest.mark.parametrize("value", [BIG - 512, BIG - 1, BIG, 2 * BIG - 512])
@pytest.mark.parametrize("name", ["ok-snapshots", "ok-encrypted", "ok-bitmaps"])
def test_numbers_that_no_file_reaches(name: str, value: int, tmp_path: Path) -> None:
    path = image(name, tmp_path)
    raw = path.read_bytes()
    places = [40, 48, 64]
    places += [raw.index(magic) + 8 for magic in (b"\x05\x37\xbe\x77",) if magic in raw]
    places += [raw.index(magic) + 24 for magic in (b"\x23\x85\x28\x75",) if magic in raw]
    for at in places:
        for width in (8, 16):
            damaged = bytearray(raw)
            damaged[at : at + width] = value.to_bytes(8) * (width // 8)
            damaged[60:64] = max(1, int.from_bytes(damaged[60:64])).to_bytes(4)
            path.write_bytes(damaged)
            for options in ([], ["--anonymize"]):
                out = copied(path, *options)
                assert options or found(out) == found(path)
                out.unlink()


def test_a_dry_run_makes_no_file(tmp_path: Path) -> None:
    path = image("ok-v3", tmp_path)
    done = qfix("-m", "copy", "--metadata", tmp_path / "copy", "-n", path)
    assert done.status == 0
    assert "Nothing was written" in done.stdout
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    ("out", "status", "said"),
    [
        ("{image}", 64, "is the image itself"),
        ("{link}", 64, "is the image itself"),
        ("{hard}", 64, "is the image itself"),
        ("{dangling}", 64, "is there already"),
        ("{there}", 64, "is there already"),
        ("{folder}", 64, "is there already"),
        ("{folder}/none/copy", 66, "No such file"),
        ("/proc/none", 66, "No such file"),
    ],
)
def test_where_a_copy_is_not_put(out: str, status: int, said: str, tmp_path: Path) -> None:
    path = image("ok-v3", tmp_path)
    kinds = {name: tmp_path / name for name in ("link", "hard", "dangling", "there", "folder")}
    kinds["link"].symlink_to(path)
    kinds["hard"].hardlink_to(path)
    kinds["dangling"].symlink_to(tmp_path / "nowhere")
    kinds["there"].write_bytes(b"mine")
    kinds["folder"].mkdir()
    before, names = path.read_bytes(), sorted(os.listdir(tmp_path))
    done = qfix("-m", "copy", "--metadata", out.format(image=path, **kinds), path)
    assert (done.status, done.stdout) == (status, "")
    assert said in done.stderr
    assert path.read_bytes() == before
    assert kinds["there"].read_bytes() == b"mine"
    assert sorted(os.listdir(tmp_path)) == names


def test_an_image_that_is_written_to_is_not_copied(tmp_path: Path) -> None:
    path = image("ok-v3", tmp_path)
    with held(path):
        assert qfix("-m", "copy", "--metadata", tmp_path / "copy", path).status == 75
    assert os.listdir(tmp_path) == [path.name]


def test_what_fails_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = image("ok-v3", tmp_path)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("os.pwrite", fail)
        done = qfix("-m", "copy", "--metadata", tmp_path / "copy", path)
    assert done.status == 74
    assert "No space left" in done.stderr
    assert os.listdir(tmp_path) == [path.name]

    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    with monkeypatch.context() as patch:
        patch.setattr("os.link", no_links)
        assert found(copied(path)) == found(path)
    assert sorted(os.listdir(tmp_path)) == ["copy", path.name]


def test_a_full_disk_under_the_copy(tmp_path: Path) -> None:
    path = image("ok-width-64", tmp_path)
    with mounted(tmp_path / "small", 64) as _:
        fill(tmp_path / "small", 4)
        done = qfix("-m", "copy", "--metadata", tmp_path / "small" / "copy", path)
        assert done.status == 74
        assert os.listdir(tmp_path / "small") == ["filler"]


def test_a_copy_that_was_cut_off_is_in_the_way(tmp_path: Path) -> None:
    path = image("ok-v3", tmp_path)
    (tmp_path / "copy.qfix-part").write_bytes(b"half")
    done = qfix("-m", "copy", "--metadata", tmp_path / "copy", path)
    assert done.status == 64
    assert "remove it" in done.stderr
    assert (tmp_path / "copy.qfix-part").read_bytes() == b"half"


RESTORED = [
    "ok-v3",
    "ok-snapshots",
    "ok-bitmap-and-snapshot",
    "ok-encrypted",
    "ok-zstd",
    "l1-lost",
    "ok-extended-compressed",
    "ok-width-1",
    "leak",
]


@pytest.mark.parametrize("name", RESTORED)
@pytest.mark.parametrize("way", [[], ["--no-undo"]])
def test_metadata_is_put_back_and_taken_back(name: str, way: list[str], tmp_path: Path) -> None:
    path = image(name, tmp_path)
    sound, told = path.read_bytes(), found(path)
    out = copied(path)
    random = Random(name)  # noqa: S311  (no secret)
    clusters = [at for at in range(0, len(sound), 512) if any(out.read_bytes()[at : at + 512])]
    damaged = bytearray(sound)
    for at in random.sample(clusters, min(3, len(clusters))):
        damaged[at : at + 8] = random.randbytes(8)
    path.write_bytes(damaged)
    done = qfix("-m", "copy", "--restore-metadata", out, "--yes", *way, path)
    assert done.status == told[3], done.stderr
    assert path.read_bytes() == sound
    assert found(path) == told
    if not way:
        assert qfix("--undo", path).status in IMAGE_STATUSES
        assert path.read_bytes() == damaged
        assert qfix("--redo", path).status == told[3]
        assert path.read_bytes() == sound


@pytest.mark.parametrize("name", sorted(set(CASES) - NO_IMAGE))
def test_a_repair_is_taken_back_by_a_copy_of_before(name: str, tmp_path: Path) -> None:
    path = image(name, tmp_path)
    if path.stat().st_size > 1 << 24:
        pytest.skip("a long hole")
    before, told = path.read_bytes(), found(path)
    out = copied(path)
    qfix("--fix", "all", "--lossy", path)
    repaired = path.read_bytes()
    done = qfix("-m", "copy", "--restore-metadata", out, "--yes", "-b", path)
    if done.status == 64:
        assert "can't be read" in done.stderr or "another image" in done.stderr
        assert path.read_bytes() == repaired
        return
    assert done.status in IMAGE_STATUSES
    back = path.read_bytes()
    held_bytes = out.read_bytes()
    for at in range(0, min(len(before), len(back)), 512):
        part = slice(at, at + 512)
        if any(held_bytes[part]):
            assert back[part] == before[part]
    if len(back) == len(before):
        assert found(path)[3] == told[3]
    if back != repaired:
        qfix("--undo", path)
        assert path.read_bytes() == repaired


@pytest.mark.usefixtures("need_qemu")
def test_what_the_guest_wrote_since_is_told_before(tmp_path: Path) -> None:
    one = made(tmp_path, "compat=1.1", "64M", "write -P 1 0 1M")
    out, before = copied(one.path), one.raw
    one.io("write -P 2 8M 1M")
    now = one.raw
    done = qfix("-m", "copy", "--restore-metadata", out, one.path)
    assert done.status == 64
    assert "what the guest reads changes" in done.stderr
    assert one.raw == now
    status, said = on_a_terminal(b"n\n", "-m", "copy", "--restore-metadata", out, one.path)
    assert status == 64
    assert "not led to any more" in said
    assert "guest offset 0x800000" in said
    assert one.raw == now
    shown = qfix("-m", "copy", "--restore-metadata", out, "-n", one.path)
    assert "guest offset 0x800000" in shown.stdout
    assert qfix("-m", "copy", "--restore-metadata", out, "--yes", one.path).status == 0
    assert one.guest()[: 9 << 20] == b"\1" * (1 << 20) + bytes(8 << 20)
    assert one.qemu("qemu-img", "check", "image").returncode == 0
    assert len(before) < len(one.raw)
    assert qfix("--undo", one.path).status == 0
    assert one.raw == now


@pytest.mark.usefixtures("need_qemu")
def test_a_wrecked_header_needs_none(tmp_path: Path) -> None:
    one = made(tmp_path, "compat=1.1", "64M", "write -P 1 0 1M")
    out, before = copied(one.path), one.digest
    with one.path.open("r+b") as file:
        file.write(b"\xff" * 65536)
    assert qfix("-m", "copy", "--restore-metadata", out, one.path).status == 0
    assert one.digest == before


def wrong_copy(kind: str, path: Path) -> Path:
    """Return a file that is no metadata copy of an image."""
    out = path.with_name(kind)
    if kind == "itself":
        out.symlink_to(path)
    elif kind == "raw":
        out.write_bytes(b"raw " * 4096)
    elif kind == "empty":
        out.write_bytes(b"")
    elif kind == "whole":
        shutil.copyfile(path, out)
    elif kind == "folder":
        out.mkdir()
    elif kind == "fifo":
        os.mkfifo(out)
    elif kind == "anonymized":
        copied(path, "--anonymize", name=kind)
    elif kind == "larger":
        shutil.move(copied(image("ok-snapshots-eight", path.parent)), out)
    elif kind == "clusters":
        other = path.with_name("ok-4k.qcow2")
        shutil.move(copied(image(other.stem, path.parent)), out)
        os.truncate(path, 1 << 20)
    return out


@pytest.mark.parametrize(
    ("kind", "status", "said"),
    [
        ("itself", 64, "is the image itself"),
        ("raw", 64, "no qcow2 image"),
        ("empty", 64, "no qcow2 image"),
        ("whole", 64, "holds guest data"),
        ("folder", 74, "is a folder"),
        ("fifo", 74, "neither a file"),
        ("gone", 66, "No such file"),
        ("anonymized", 64, "--anonymize"),
        ("larger", 64, "it is another image, or was cut"),
        ("clusters", 64, "another image: it has clusters of 4096 bytes"),
    ],
)
def test_what_is_not_put_back(kind: str, status: int, said: str, tmp_path: Path) -> None:
    path = image("ok-v3", tmp_path)
    out = wrong_copy(kind, path)
    before, names = path.read_bytes(), sorted(os.listdir(tmp_path))
    done = qfix("-m", "copy", "--restore-metadata", out, "--yes", path)
    assert (done.status, done.stdout) == (status, "")
    assert said in done.stderr
    assert path.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == names


def test_nothing_is_put_back_into_an_image_that_is_held(tmp_path: Path) -> None:
    path = image("ok-v3", tmp_path)
    out = copied(path)
    for taken in (path, out):
        with held(taken):
            done = qfix("-m", "copy", "--restore-metadata", out, "--yes", path)
        assert done.status == 75


SECRET = b"SECRETDATA"


def secretive(folder: Path) -> Image:
    """Make an image whose guest data is a word again and again, with a stale cluster of it."""
    (folder / "pattern").write_bytes(SECRET * 100)
    one = made(folder, "cluster_size=4k", "1M", f"write -s {folder / 'pattern'} 0 64k")
    one.path.write_bytes(one.raw.ljust(-(-len(one.raw) // 4096) * 4096, b"\0") + SECRET * 409)
    return one


@pytest.mark.usefixtures("need_qemu")
@pytest.mark.parametrize("which", ["l1 to data", "l1 to stale", "block", "table", "header", "cut"])
def test_wrong_pointers_take_no_guest_data_along(which: str, tmp_path: Path) -> None:
    one = secretive(tmp_path)
    stale = len(one.raw) // 4096 * 4096
    l1, reftable = one.number(40), one.number(48)
    table = one.number(l1) & OFFSET_MASK
    data = one.number(table) & OFFSET_MASK
    places = {
        "l1 to data": (l1, data),
        "l1 to stale": (l1, stale),
        "block": (reftable + 8, stale),
        "table": (48, data),
    }
    if which in places:
        one.poke(*places[which])
    elif which == "header":
        one.poke(100, 0x800, 4).poke(0x300, int.from_bytes(SECRET), len(SECRET))
    else:
        one.poke(20, 21, 4)
    done = qfix("-m", "copy", "--metadata", tmp_path / "plain", one.path)
    taken = SECRET in (tmp_path / "plain").read_bytes()
    assert taken == ("may hold guest data" in done.stdout) or which == "header"
    qfix("-m", "copy", "--metadata", tmp_path / "neutral", "--anonymize", one.path)
    assert SECRET not in (tmp_path / "neutral").read_bytes()
