"""The guest's disk is dumped as `qemu-img map` tells it, and each host cluster just once."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

import dump_oracle
import qemu
import qemu_images
from command import case, records
from corpus import CASES
from dump_oracle import Part, joined
from qemu_images import RECIPES, Recipe

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("need_qemu")

WORKERS = 3
ENDLESS = {"backing-itself", "virtual-size-huge"}
"""Images of which `qemu-img map` does not end soon."""
PLAIN = Recipe("plain", "", ())
HELD = ("free", "hole", "leaked")
LEAST = 100


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the images of the check suite."""
    qemu.require()
    folder = tmp_path_factory.mktemp("dumps")
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(lambda recipe: recipe.build(folder / recipe.name), RECIPES.values()))
    return folder


def guest(recipe: Recipe, path: Path, *options: str) -> list[Part]:
    """Return what dump tells of the guest's disk."""
    rows = records("-m", "dump", "-o", "guest", *options, path)
    return dump_oracle.of_dump(recipe, [row for row in rows if "start" in row])


def without(parts: list[Part], kind: str, *others: Part) -> list[Part]:
    """Return ranges cut at those of *kind* in *others*, and without what is in these."""
    holes = [part for part in others if part.kind == kind]
    cut: list[Part] = []
    for part in parts:
        pieces = [part]
        for hole in holes:
            pieces = [piece for each in pieces for piece in _around(each, hole)]
        cut += pieces
    return joined(cut)


def _around(part: Part, hole: Part) -> list[Part]:
    found = []
    for start, end in (
        (part.start, min(part.end, hole.start)),
        (max(part.start, hole.end), part.end),
    ):
        if start < end:
            host = part.host + start - part.start if part.host >= 0 else -1
            found.append(Part(start, end, part.kind, host))
    return found


@pytest.mark.parametrize("name", RECIPES)
def test_guest_ranges_are_those_of_qemu(name: str, suite: Path) -> None:
    path = suite / name / "image"
    assert guest(RECIPES[name], path) == dump_oracle.of_qemu(RECIPES[name], path)


def test_what_is_not_damaged_is_as_qemu_maps_it() -> None:
    compared = 0
    for each in CASES:
        path = case(each.name)
        if each.name in ENDLESS or not path.exists():
            continue
        theirs, ours = dump_oracle.of_qemu(PLAIN, path), guest(PLAIN, path)
        if theirs is None or not ours:
            continue
        compared += 1
        assert without(ours, "damaged", *ours) == without(theirs, "damaged", *ours), each.name
    assert compared > LEAST


SNAPPED = [name for name in RECIPES if name.endswith(("-snaps", "-snap", "snap-resize"))]


@pytest.mark.parametrize("name", [name for name in SNAPPED if not RECIPES[name].encrypted])
def test_a_snapshot_is_mapped_as_it_is_once_it_is_applied(
    name: str, suite: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(suite / name, folder)
    path = folder / "image"
    rows = records("-m", "dump", "-o", "snapshots", path)[1:]
    ids = [row["value"] for row in rows if row["name"].endswith(".id")]
    for number, each in enumerate(ids):
        ours = guest(PLAIN, path, "-s", f"snapshot[{number}]")
        words = ["qemu-img", "snapshot", "-a", each, "image"]
        if qemu_images.run(words, folder).returncode == 0:
            assert ours == dump_oracle.of_qemu(PLAIN, path)
    assert ids


def host(path: Path) -> list[dict[str, Any]]:
    """Return the ranges of the host file."""
    return records("-m", "dump", "-o", "host,refcount,ranges", path)


def check_host(path: Path, rows: list[dict[str, Any]]) -> None:
    """Each cluster is in one range, and is used where something was counted that refers to it."""
    ranges = [row for row in rows if row["section"] == "host" and "start" in row]
    counts = [row for row in rows if row["section"] == "refcount" and "refcount" in row]
    totals = {row["set"]: row["clusters"] for row in rows if row["section"] == "total"}
    if not ranges:
        assert not counts, path
        return
    assert ranges[0]["start"] == 0
    assert [row["start"] for row in ranges[1:]] == [row["end"] + 1 for row in ranges[:-1]]
    clusters: dict[str, int] = {}
    for row in ranges:
        clusters[row["kind"]] = clusters.get(row["kind"], 0) + row["clusters"]
    used = sum(number for kind, number in clusters.items() if kind not in HELD)
    assert used == sum(row["counted"] > 0 for row in counts)
    leaked = sum(bool(row["refcount"]) and not row["counted"] for row in counts)
    assert clusters.get("leaked", 0) == leaked == totals["leaked"]
    assert totals["all"] == sum(clusters.values())
    assert totals["allocated"] == totals["metadata"] + totals["data"] == used
    assert totals["unallocated"] == totals["vacant"] + totals["leaked"]
    assert "referenced" not in clusters


def test_each_host_cluster_is_there_once_in_sound_images(suite: Path) -> None:
    for name in RECIPES:
        path = suite / name / "image"
        rows = host(path)
        check_host(path, rows)
        size = path.stat().st_size
        ranges = [row for row in rows if row["section"] == "host"]
        assert ranges[-1]["end"] + 1 >= size


def test_each_host_cluster_is_there_once_in_damaged_images() -> None:
    for each in CASES:
        if case(each.name).exists():
            check_host(case(each.name), host(case(each.name)))


def test_guest_ranges_that_go_on_are_one(suite: Path) -> None:
    for name in RECIPES:
        rows = records("-m", "dump", "-o", "guest", suite / name / "image")[1:]
        pairs = pairwise(rows)
        for one, two in pairs:
            host = one["host-offset"]
            goes_on = host if host is None else host + one["length"]
            assert (one["kind"], goes_on) != (two["kind"], two["host-offset"]), name
