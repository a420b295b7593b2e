"""The rehearsal stops every plan that would change more than it says, before a byte is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from command import case, copy
from qfix.change.draft import LOST, SUSPECT, Draft
from qfix.change.overlay import Overlay
from qfix.change.rehearse import RehearsalError, rehearse
from qfix.change.road import Request, change
from qfix.errors import Status
from qfix.examine import examine
from qfix.file import open_file
from qfix.layout.tables import COPIED

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CLUSTER = 512
COPIED_BYTES = COPIED.to_bytes(8, "big")


def places(name: str) -> tuple[int, int, list[int]]:
    """Return the offsets of the active L1 table, its first L2 table, and that one's data."""
    with open_file(case(name)) as file:
        found = examine(file, backing=False)
        assert found.image is not None
        l1 = found.image.header.l1_table_offset
        mask = (1 << 56) - 512
        l2 = int.from_bytes(file.read(l1, 8), "big") & mask
        entries = [int.from_bytes(file.read(l2 + 8 * at, 8), "big") & mask for at in range(64)]
    return l1, l2, [entry for entry in entries if entry]


def rehearsed(name: str, plan: Callable[[Draft], None]) -> str:
    """Return what the rehearsal of *plan* says, nothing where it agrees."""
    with open_file(case(name)) as file:
        draft = Draft.of(Overlay(file), examine(file, backing=False), backing=False)
        plan(draft)
        draft.examine()
        try:
            rehearse(draft)
        except RehearsalError as error:
            return str(error)
    return ""


def test_a_plan_that_changes_nothing_passes() -> None:
    assert rehearsed("ok-v3", lambda _: None) == ""


def test_a_byte_of_guest_data_stops_the_change() -> None:
    _, _, data = places("ok-v3")
    said = rehearsed("ok-v3", lambda draft: draft.write(data[1] + 17, b"\xee"))
    assert f"guest data in host cluster {data[1] // CLUSTER} would be overwritten" in said


def test_an_entry_that_leads_elsewhere_stops_the_change() -> None:
    _, l2, data = places("ok-v3")

    def swap(draft: Draft) -> None:
        first, second = draft.overlay.read(l2, 8), draft.overlay.read(l2 + 8, 8)
        draft.write(l2, second + first)

    assert data[0] != data[1]
    assert "the active layer would read differently at guest offset 0x0" in rehearsed("ok-v3", swap)


def test_a_loss_that_is_told_passes_and_one_beside_it_does_not() -> None:
    _, l2, _ = places("ok-v3")

    def drop(draft: Draft, entries: int, told: int, kind: str = LOST) -> None:
        draft.write(l2, bytes(8 * entries))
        draft.tell(kind, 0, np.array([0]), np.array([told * CLUSTER]))

    assert rehearsed("ok-v3", lambda draft: drop(draft, 1, 1)) == ""
    assert "at guest offset 0x200" in rehearsed("ok-v3", lambda draft: drop(draft, 2, 1))
    assert "at guest offset 0x0" in rehearsed("ok-v3", lambda draft: drop(draft, 1, 1, SUSPECT))


def test_a_copy_in_another_place_reads_the_same() -> None:
    _, l2, data = places("ok-v3")

    def move(draft: Draft, byte: bytes = b"") -> None:
        place = -(-draft.overlay.size // CLUSTER) * CLUSTER
        draft.overlay.grow(place + CLUSTER)
        draft.write(place, draft.overlay.read(data[0], CLUSTER))
        if byte:
            draft.write(place + 99, byte)
        draft.write(l2, (place | COPIED).to_bytes(8, "big"))
        draft.expected |= {"R301", "R304", "C402"}

    assert rehearsed("ok-v3", move) == ""
    assert "would read differently" in rehearsed("ok-v3", lambda draft: move(draft, b"\xee"))


def test_a_new_problem_stops_the_change() -> None:
    _, l2, _ = places("ok-v3")

    def flip(draft: Draft) -> None:
        first = bytearray(draft.overlay.read(l2, 8))
        first[0] ^= 0x80
        draft.write(l2, bytes(first))

    assert "it would bring C402" in rehearsed("ok-v3", flip)


def test_a_snapshot_that_is_lost_stops_the_change() -> None:
    def forget(draft: Draft) -> None:
        draft.write(60, bytes(4))

    assert "snapshots 0 would be left" in rehearsed("ok-snapshots", forget)


def test_a_snapshot_that_reads_differently_stops_the_change() -> None:
    with open_file(case("ok-snapshots")) as file:
        found = examine(file, backing=False)
        assert found.image is not None
        l1 = found.image.snapshots[0].entry.l1_table_offset
    said = rehearsed("ok-snapshots", lambda draft: draft.write(l1, bytes(8)))
    assert "snapshot[0] would read differently" in said


def test_nothing_is_written_when_the_rehearsal_fails(tmp_path: Path) -> None:
    _, _, data = places("ok-v3")
    path = copy("ok-v3", tmp_path)
    before = path.read_bytes(), path.stat().st_mtime_ns

    def plan(draft: Draft) -> None:
        draft.write(data[0], b"\xee")
        draft.examine()

    with pytest.raises(RehearsalError) as raised, change(str(path), Request("a test"), plan):
        pass

    assert raised.value.status is Status.DEFECT
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert [item.name for item in tmp_path.iterdir()] == [path.name]
