"""Snapshot operations from the command line: what is told, asked and refused; damaged images."""

from __future__ import annotations

import hashlib
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import qemu
from command import copy, on_a_terminal, qfix, record
from qemu_images import RECIPES
from repair_images import Image

if TYPE_CHECKING:
    from pathlib import Path

WORKERS = 3
NAMES = ["v3-c512-r16-snaps", "v2-c64k-snaps", "v3-c512-bitmap-snap", "v3-c64k-bitmap-snap"]
BITMAPS = {"v3-c512-bitmap-snap", "v3-c64k-bitmap-snap"}
"""Images that qemu-img does not revert, for their bitmaps; qfix marks these as in use."""


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the images with snapshots of the check suite."""
    qemu.require()
    folder = tmp_path_factory.mktemp("snapshots")
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(lambda name: RECIPES[name].build(folder / name), NAMES))
    return folder


def copied(folder: Path, to: Path) -> Image:
    """Return a copy of an image with what belongs to it."""
    shutil.copytree(folder, to)
    return Image(to / "image")


def views(image: Image) -> dict[str, str]:
    """Return a digest of what each layer reads, by the snapshot's id."""
    ids = ["", *(each for each, _ in image.snapshots())]
    return {each: hashlib.sha256(image.guest(each)).hexdigest() for each in ids}


@pytest.mark.usefixtures("need_qemu")
@pytest.mark.parametrize("name", sorted(BITMAPS))
def test_a_revert_distrusts_bitmaps(name: str, suite: Path, tmp_path: Path) -> None:
    image = copied(suite / name, tmp_path / "image")
    snapshots = image.snapshots()
    wanted = image.guest(snapshots[0][0])
    assert qfix("-A", "snapshot[0]", image.path).status == 0
    assert image.guest() == wanted
    assert all(row["in-use"] for row in record("-m", "info", image.path)["bitmaps"])


@pytest.mark.usefixtures("need_qemu")
def test_all_are_deleted(suite: Path, tmp_path: Path) -> None:
    for name in ("v3-c512-r16-snaps", "v2-c64k-snaps"):
        image = copied(suite / name, tmp_path / name)
        guest = image.guest()
        done = qfix("-D", "all", image.path)
        assert done.status == 0
        assert "Becomes free" in done.stdout
        assert image.snapshots() == []
        assert image.guest() == guest
        assert image.is_clean()


DAMAGED: dict[str, dict[str, Any]] = {
    "corrupt mark": {"poke": (79, 2, 1)},
    "dirty mark": {"poke": (79, 1, 1)},
    "active L1 wiped": {"wipe": 40},
    "refcount block wiped": {"block": True},
    "refcount table elsewhere": {"poke": (48, 1 << 40, 8)},
}


@pytest.mark.usefixtures("need_qemu")
@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_image_is_reverted_to_its_snapshot(
    kind: str, suite: Path, tmp_path: Path
) -> None:
    image = copied(suite / "v3-c512-r16-snaps", tmp_path / "damaged")
    sound = views(image)
    how = DAMAGED[kind]
    if "poke" in how:
        image.poke(*how["poke"])
    if "wipe" in how:
        image.poke(image.number(how["wipe"]), 0)
    if "block" in how:
        image.poke(image.number(image.number(48)), 0, 64)
    before = image.digest
    first = next(iter(sorted(each for each in sound if each)))
    done = qfix("--fix", "all", "-A", "snapshot[0]", image.path)
    assert done.status == 0, done.stdout + done.stderr
    now = views(image)
    assert now[""] == sound[first]
    assert {each: now[each] for each in sound if each} == {
        each: digest for each, digest in sound.items() if each
    }
    assert image.is_clean()
    assert qfix("--undo", image.path).status not in {0, 70} or "mark" in kind
    assert image.digest == before


def test_what_a_revert_costs_is_told_first(tmp_path: Path) -> None:
    path = copy("ok-snapshots", tmp_path)
    before = path.read_bytes()
    done = qfix("-A", "1", "-n", path)
    assert done.status == 0
    assert "of the guest's disk is given up" in done.stdout
    assert "active layer" in done.stdout
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "asks"),
    [(["-A", "1"], True), (["-E", "1"], True), (["-D", "all"], True), (["-D", "1"], False)],
)
def test_what_is_asked_on_a_terminal(options: list[str], asks: bool, tmp_path: Path) -> None:
    path = copy("ok-snapshots", tmp_path)
    before = path.read_bytes()
    status, said = on_a_terminal(b"n\n", *options, path)
    assert ("Give this up?" in said) == asks
    assert (path.read_bytes() == before) == asks
    assert status == (64 if asks else 0)


@pytest.mark.parametrize(
    ("options", "name", "said"),
    [
        (["-A", "nine"], "ok-snapshots", "there is no snapshot 'nine'; in this image: snapshot[0]"),
        (["-D", "snapshot[9]"], "ok-snapshots", "there is no snapshot"),
        (["-A", "1"], "ok-v3", "there are none"),
        (["-A", "one"], "snapshot-name-double", "fits several snapshots: snapshot[0]"),
        (["-A", "1", "-D", "2"], "ok-snapshots", "exclude each other"),
        (["-A", "1", "--undo"], "ok-snapshots", "exclude each other"),
        (["-D", "1"], "snapshot-table-outside-file", "--fix all"),
        (["-A", "1"], "not-qcow2", "can't be checked"),
        (["-m", "info", "-A", "1"], "ok-snapshots", "belongs to -m check"),
    ],
)
def test_what_is_refused(options: list[str], name: str, said: str, tmp_path: Path) -> None:
    path = copy(name, tmp_path)
    before = path.read_bytes()
    done = qfix(*options, path)
    assert done.status == 64
    assert said in done.stderr
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_repair_and_a_revert_are_one_change(tmp_path: Path) -> None:
    path = copy("snapshot-table-outside-file", tmp_path)
    before = path.read_bytes()
    told = record("--fix", "all", "-A", "1", path)["qfix"]
    assert told["status"] in {0, 1}
    assert told["change"]["record"] == 1
    assert told["change"]["asked"] == "--fix all -A 1"
    qfix("--undo", path)
    assert path.read_bytes() == before
