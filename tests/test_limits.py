"""Images made to be slow or large stay cheap, and findings name every layer they touch."""

from __future__ import annotations

import json
import resource
import struct
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import command
from build import COPIED
from build_write import finish
from corpus_bases import described

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SECONDS = 20
"""Far more than it takes here (under 4), far less than it took."""
GIB = 1 << 30


def write(
    path: Path, cluster_bits: int, l1: Any, length: int, snapshots: Sequence[tuple[int, int]] = ()
) -> None:
    """Write a sparse image with an L1 table and snapshots (l1_table_offset, l1_size)."""
    size = 1 << cluster_bits
    table = np.asarray(l1, np.uint64).astype(">u8").tobytes()
    place = -(-(3 * size + len(table)) // size) * size if snapshots else 0
    numbers = (cluster_bits, len(l1) * size * size // 8, 0, len(l1), 3 * size, size, 1)
    head = struct.pack(">4sIQIIQIIQQI", b"QFI\xfb", 3, 0, 0, *numbers)
    head += struct.pack(">IQQQQIIQ", len(snapshots), place, 0, 0, 0, 4, 112, 0)
    with path.open("wb") as file:
        file.write(head)
        file.seek(size)
        file.write(struct.pack(">Q", 2 * size))
        file.seek(3 * size)
        file.write(table)
        file.seek(place or file.tell())
        for number, (offset, entries) in enumerate(snapshots):
            word = str(number + 1).encode()
            fixed = struct.pack(">QIHH", offset, entries, len(word), len(word)) + bytes(20)
            entry = fixed + struct.pack(">IQQ", 16, 0, GIB) + 2 * word
            file.write(entry + bytes(-len(entry) % 8))
        file.truncate(length)


def look(path: Path, *options: str) -> tuple[dict[str, Any], float]:
    """Check an image in 1 GiB of address space; return what was said, and the seconds it took."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "qfix", "--output", "json", *options, str(path)],
        capture_output=True,
        timeout=6 * SECONDS,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (GIB, GIB)),
        env={"OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode < 64, done.stderr
    return json.loads(done.stdout), time.monotonic() - began


SHAPES = {
    "unaligned": (16, (1 << 23) + np.arange(1 << 19) * 512, 512 << 20, ()),
    "one-table": (21, np.full(1 << 22, 1 << 27), 1 << 28, ()),
    "in-a-hole": (16, (1 << 24) + np.arange((1 << 20) - 256) * 65536, 64 << 30, ()),
    "snapshots": (9, np.zeros(0), 1 << 26, [((1 << 24) + at * 512, 1 << 22) for at in range(9999)]),
}


@pytest.mark.parametrize("name", SHAPES)
def test_hostile_shapes_cost_little(name: str, tmp_path: Path) -> None:
    path = tmp_path / "image.qcow2"
    cluster_bits, l1, length, snapshots = SHAPES[name]
    write(path, cluster_bits, l1, length, snapshots)
    if path.stat().st_blocks * 512 > 1 << 28:
        pytest.skip("no holes on this file system")
    _, seconds = look(
        path, "-m", "check", "-o", "snapshot", "-s", "snapshot[0]" if snapshots else "active"
    )
    assert seconds < SECONDS


def shared(path: Path, **pokes: int) -> None:
    """Write an image whose only L2 table the active layer shares with two snapshots."""
    image = described()
    image.snapshot("1", "one")
    image.snapshot("2", "two")
    path.write_bytes(finish(image).poke(dict(pokes)).data)


@pytest.mark.parametrize("value", [0xA00, 0xB00, 0x800], ids=["T240", "T212", "T241"])
@pytest.mark.parametrize("layer", ["active", "snapshot[0]", "snapshot[1]", "inactive"])
def test_every_layer_of_a_shared_table_is_told(value: int, layer: str, tmp_path: Path) -> None:
    path = tmp_path / "image.qcow2"
    shared(path, **{"l2[0][1]": value})
    said, _ = look(path, "-s", layer)
    rows = [row for row in said["qfix"]["findings"] if row["code"] in {"T240", "T212", "T241"}]
    assert rows
    layers = [place["layer"] for place in rows[0]["guest-ranges"]]
    assert set(layers) == {"active", "snapshot[0]", "snapshot[1]"}
    assert len(layers) in {3, 6}


def test_snapshots_of_one_l1_table_are_all_told(tmp_path: Path) -> None:
    path = tmp_path / "image.qcow2"
    image = described()
    image.snapshot("1", "one")
    image.snapshot("2", "two")
    picture = finish(image)
    place = picture.places["snapshot[0].l1_table_offset"].offset
    first = int.from_bytes(picture.data[place : place + 8], "big")
    picture.put(first, (COPIED | 1 << 9 << 20).to_bytes(8, "big"))
    path.write_bytes(picture.poke({"snapshot[1].l1_table_offset": first}).data)
    said, _ = look(path, "-s", "snapshot[1]")
    (row,) = [row for row in said["qfix"]["findings"] if row["code"] == "T203"]
    assert [place["layer"] for place in row["guest-ranges"]] == ["snapshot[0]", "snapshot[1]"]


@pytest.mark.parametrize("offset", [1 << 63, 0xC000000000000000, (1 << 64) - 512])
def test_l1_table_behind_what_a_file_can_have(tmp_path: Path, offset: int) -> None:
    """Also where holes are looked for, because a table is larger than the file."""
    raw = bytearray(command.case("ok-v3").read_bytes())
    raw[36:48] = (0x400000).to_bytes(4, "big") + offset.to_bytes(8, "big")
    path = tmp_path / "image.qcow2"
    path.write_bytes(raw)
    assert command.qfix(path).status == 6
