"""The room a snapshot takes: what qemu-img frees by deleting it, and what was written since."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

import qemu
import qemu_images
from command import case, qfix, record, records
from qemu_images import RECIPES

if TYPE_CHECKING:
    from pathlib import Path

WORKERS = 3
NAMES = [
    name
    for name, recipe in RECIPES.items()
    if recipe.sound and not recipe.encrypted and ("snap" in name or "vmstate" in name)
]
PIECE = 512


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the images with snapshots of the check suite."""
    qemu.require()
    folder = tmp_path_factory.mktemp("space")
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(lambda name: RECIPES[name].build(folder / name), NAMES))
    return folder


def used(path: Path) -> tuple[int, int]:
    """Return how many clusters are in use by the refcounts, and how many of them hold the table."""
    rows = [row for row in records("-m", "dump", "-o", "refcount", path) if "refcount" in row]
    held = [row for row in rows if row["refcount"]]
    return len(held), sum(row["user"].startswith("snapshot table") for row in held)


def guest(path: Path, snapshot: str = "") -> bytes:
    """Return what a guest reads of the active layer, or of the snapshot of an id."""
    chosen = ("-l", f"snapshot.id={snapshot}") if snapshot else ()
    words = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", *chosen, path.name, "guest"]
    assert qemu_images.run(words, path.parent).returncode == 0
    return (path.parent / "guest").read_bytes()


@pytest.mark.usefixtures("need_qemu")
@pytest.mark.parametrize("name", NAMES)
def test_what_only_a_snapshot_holds_is_what_deleting_it_frees(
    name: str, suite: Path, tmp_path: Path
) -> None:
    rows = record("-m", "info", suite / name / "image")["snapshots"]
    size = record("-m", "info", suite / name / "image")["cluster-size"]
    names = [row["name"] for row in rows]
    for row in rows:
        if names.count(row["name"]) > 1:
            continue
        folder = tmp_path / row["id"]
        shutil.copytree(suite / name, folder)
        path = folder / "image"
        before, table = used(path)
        words = ["qemu-img", "snapshot", "-d", row["name"], "image"]
        assert qemu_images.run(words, folder).returncode == 0
        after, rest = used(path)
        assert row["held-bytes"] == (before - table - (after - rest)) * size


@pytest.mark.usefixtures("need_qemu")
@pytest.mark.parametrize("name", [name for name in NAMES if "snaps" in name])
def test_what_was_written_since_is_what_reads_differently(name: str, suite: Path) -> None:
    path = suite / name / "image"
    found = record("-m", "info", path)
    size, now = found["cluster-size"], guest(path)
    for row in found["snapshots"]:
        then = guest(path, row["id"])
        differ = sum(
            now[at : at + size] != then[at : at + size]
            for at in range(0, max(len(now), len(then)), size)
        )
        assert row["written-since-bytes"] >= differ * size
        assert row["shared-bytes"] >= 0


def test_snapshots_that_are_the_same_hold_nothing_alone() -> None:
    rows = record("-m", "info", case("ok-snapshots-same"))["snapshots"]
    assert [row["written-since-bytes"] for row in rows] == [0] * len(rows)
    l1_clusters = record("-m", "info", case("ok-snapshots-same"))["cluster-size"]
    assert all(row["held-bytes"] <= l1_clusters for row in rows)


def test_dump_and_info_say_the_same() -> None:
    keys = ("held-bytes", "shared-bytes", "written-since-bytes")
    path = case("ok-snapshots-eight")
    told = record("-m", "info", path)["snapshots"]
    rows = [row for row in records("-m", "dump", "-o", "snapshots", path) if keys[0] in row]
    assert [[row[key] for key in keys] for row in rows] == [
        [row[key] for key in keys] for row in told
    ]
    page = qfix("-m", "info", path).stdout
    assert "held" in page
    assert "written-since" in page


def test_nothing_is_told_where_the_tables_can_not_be_counted(tmp_path: Path) -> None:
    path = tmp_path / "image"
    raw = bytearray(case("ok-snapshots").read_bytes())
    raw[72:80] = (1 << 62).to_bytes(8)
    path.write_bytes(raw)
    assert all(row["held-bytes"] is None for row in record("-m", "info", path).get("snapshots", []))
