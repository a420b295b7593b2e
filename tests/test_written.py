"""Clusters written since the last snapshot, against what the images were described with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import corpus_bases
from build import Picture, Qcow2, Table
from build_write import deflate, finish
from qfix.examine import examine
from qfix.file import open_file
from qfix.recount.written import written_since_snapshot
from qfix.report.summary import space

if TYPE_CHECKING:
    from pathlib import Path

GUESTS = st.integers(0, 11)
FAR = st.sampled_from([0, 1, 5, 64, 65, 130, 200])
STEPS = st.one_of(
    st.tuples(st.just("write"), FAR),
    st.tuples(st.just("zero"), FAR),
    st.tuples(st.just("snapshot"), st.just(0)),
    st.tuples(st.just("revert"), st.integers(0, 3)),
    st.tuples(st.just("delete"), st.integers(0, 3)),
)
PACKED_STEPS = st.one_of(
    STEPS.filter(lambda step: step[1] < 64), st.tuples(st.just("pack"), GUESTS)
)


def hosts(layer: dict[int, Table]) -> set[int]:
    """Return the host clusters that hold data of a layer."""
    entries = (entry for table in layer.values() for entry in table.entries.values())
    return {host for entry in entries for host in entry.hosts}


def made(steps: list[tuple[str, int]]) -> Qcow2:
    """Return an image that went through *steps*."""
    image = Qcow2(size=256 << 9)
    for number, (step, which) in enumerate(steps):
        known = image.snapshots
        match step:
            case "write":
                image.write(which)
            case "zero":
                image.zero(which)
            case "pack":
                payload = deflate(b"%d " % number * 20, image.cluster_size)
                image.pack(which, payload)
            case "snapshot" if len(known) < 6:
                image.snapshot(str(number), f"after {number}")
            case "revert" if known:
                image.l1 = dict(known[which % len(known)].l1)
            case "delete" if known:
                known.pop(which % len(known))
    return image


def counted(path: Path, picture: Picture) -> tuple[int | None, int]:
    """Return what the function says of an image, and the clusters of the active layer alone."""
    path.write_bytes(picture.data)
    with open_file(path) as file:
        found = examine(file)
        assert found.image is not None
        assert found.recount is not None
        held = space(found.recount.tally)
        return written_since_snapshot(found.image, found.recount), held.active_only


ONE_PATH = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@ONE_PATH
@given(steps=st.lists(STEPS | PACKED_STEPS, max_size=14))
def test_is_what_was_written(tmp_path: Path, steps: list[tuple[str, int]]) -> None:
    if any(step == "pack" for step, _ in steps):
        steps = [(step, which % 64) for step, which in steps]
    image = made(steps)
    wanted = None
    if image.snapshots:
        wanted = len(hosts(image.l1) - hosts(image.snapshots[-1].l1))
    several = len(image.snapshots) > 1

    said, alone = counted(tmp_path / "image", finish(image))

    assert said == wanted
    if said is not None:
        assert said >= alone
        assert several or said == alone


def test_counts_subclusters_tables(tmp_path: Path) -> None:
    image = Qcow2(size=4 << 20, cluster_bits=14, extended=True)
    image.write(0)
    image.snapshot("1", "one")
    image.write(1)
    image.snapshot("2", "two")
    image.write(2)
    image.write(0)
    assert counted(tmp_path / "image", finish(image)) == (2, 2)


def test_after_a_revert_older_data_counts_too(tmp_path: Path) -> None:
    steps = [("write", 0), ("snapshot", 0), ("write", 0), ("snapshot", 0), ("revert", 0)]
    assert counted(tmp_path / "image", finish(made(steps))) == (1, 0)


@pytest.mark.parametrize(
    "pokes",
    [
        {"snapshot[1].l1_table_offset": 0x101},
        {"snapshot[1].l1_table_offset": 0},
        {"snapshot[1].l1_table_offset": 1 << 40},
        {"snapshot[1].l1_size": 0},
        {"snapshot[1].l1_size": (4 << 20) + 1},
        {"l1_table_offset": 0},
        {"nb_snapshots": 70_000},
    ],
    ids=str,
)
def test_is_not_told_where_it_is_not_known(tmp_path: Path, pokes: dict[str, int]) -> None:
    picture = corpus_bases.with_snapshots().poke(pokes)
    assert counted(tmp_path / "image", picture)[0] is None


def test_wild_entries_do_no_harm(tmp_path: Path) -> None:
    wild = {"l2[0][2]": (1 << 62) - 1, "l2[0][3]": (1 << 64) - 1, "l2[0][4]": 1 << 55}
    picture = corpus_bases.with_snapshots().poke(wild)
    assert counted(tmp_path / "image", picture)[0] is not None
