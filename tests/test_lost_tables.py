"""Lost tables, cut files and plain leaks, told apart on images that the real QEMU made."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

import command
import qemu

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("need_qemu")

CLUSTER = 1 << 16
L1, L2, BLOCK = 0x30000, 0x40000, 0x20000


def made(path: Path, *commands: str, options: str = "cluster_size=64k", size: str = "1M") -> Path:
    """Make an image: header, refcount table and block, L1 in clusters 0 to 3, L2 in 4."""
    qemu.img("create", "-q", "-f", "qcow2", "-o", options, path, size)
    qemu.io(path, *commands)
    return path


def poke(path: Path, offset: int, value: bytes) -> None:
    """Put bytes into a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(value)


def codes(path: Path) -> tuple[int, set[str]]:
    """Return the status, and the codes of all findings."""
    report = command.record(path)["qfix"]
    return report["status"], {row["code"] for row in report["findings"]}


def leak(path: Path, content: bytes) -> None:
    """Append clusters with *content* that have a refcount and no reference."""
    end = -(-path.stat().st_size // CLUSTER)
    count = -(-len(content) // CLUSTER)
    poke(path, end * CLUSTER, content.ljust(count * CLUSTER, b"\0"))
    poke(path, BLOCK + 2 * end, b"\0\1" * count)


def test_l1_entry_that_a_snapshot_still_has(tmp_path: Path) -> None:
    path = made(tmp_path / "image", "write -P 1 0 256k", size="2G")
    qemu.img("snapshot", "-c", "one", path)
    poke(path, L1, bytes(8))
    row = next(row for row in command.record(path)["qfix"]["findings"] if row["code"] == "T235")
    reach = CLUSTER * CLUSTER // 8
    assert row["guest-ranges"] == [{"layer": "active", "start": 0, "length": reach}]
    assert codes(path)[0] == 6


def test_entry_that_leads_astray_rather_than_one_that_never_led_anywhere(tmp_path: Path) -> None:
    path = made(tmp_path / "image", size="2G")
    qemu.img("snapshot", "-c", "before", path)
    qemu.io(path, "write -P 1 0 256k")
    qemu.img("snapshot", "-c", "after", path)
    poke(path, L1, (1 << 40).to_bytes(8))
    row = next(row for row in command.record(path)["qfix"]["findings"] if row["code"] == "T235")
    assert [part["layer"] for part in row["guest-ranges"]] == ["active"]
    fixed = command.record("--fix", "all", "--lossy", path)["qfix"]["change"]
    assert [part["layer"] for part in fixed["restored"]] == ["active"]
    assert fixed["lost"] == []
    assert codes(path) == (0, set())


def test_whole_l1_that_a_snapshot_still_has(tmp_path: Path) -> None:
    path = made(tmp_path / "image", "write -P 1 0 256k", "write -P 1 600M 64k", size="2G")
    qemu.img("snapshot", "-c", "one", path)
    poke(path, L1, bytes(32))
    assert codes(path) == (6, {"R303", "T235"})


def test_preallocated_image_without_its_l1(tmp_path: Path) -> None:
    path = tmp_path / "image"
    qemu.img("create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", path, "4G")
    poke(path, L1, bytes(64))
    status, found = codes(path)
    assert (status, found) == (6, {"R301", "T232"})


@pytest.mark.parametrize("cluster_size", ["4k", "64k"])
def test_cut_compressed_image(tmp_path: Path, cluster_size: str) -> None:
    source = made(tmp_path / "source", "write -P 7 0 4M", size="4M")
    path = tmp_path / "image"
    options = f"cluster_size={cluster_size}"
    qemu.img("convert", "-c", "-O", "qcow2", "-o", options, source, path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    status, found = codes(path)
    assert status == 6
    assert "T230" in found
    assert "T216" not in found


def test_leaked_guest_data_that_holds_a_qcow2_image(tmp_path: Path) -> None:
    path = made(tmp_path / "image", "write -P 1 0 256k")
    inner = made(tmp_path / "inner", "write -P 1 0 512k")
    leak(path, inner.read_bytes()[L1 : L2 + CLUSTER])
    assert codes(path) == (1, {"R301"})


def test_leaked_table_whose_clusters_are_all_in_use(tmp_path: Path) -> None:
    path = made(tmp_path / "image", "write -P 1 0 256k")
    leak(path, path.read_bytes()[L2 : L2 + CLUSTER])
    assert codes(path) == (1, {"R301"})


@pytest.mark.parametrize(
    "content",
    [
        bytes(CLUSTER),
        b"text " * 13000,
        struct.pack(">8192Q", *range(8192)),
        struct.pack(">8192Q", *range(0, 8192 * CLUSTER, CLUSTER)),
        struct.pack(">8192Q", *[9 * CLUSTER] * 8192),
        struct.pack(">Q", 9 * CLUSTER).ljust(CLUSTER, b"\0"),
        struct.pack("<8192d", *range(8192)),
    ],
    ids=["zeros", "text", "integers", "offsets", "one-offset", "itself", "doubles"],
)
def test_leaked_guest_data(tmp_path: Path, content: bytes) -> None:
    path = made(tmp_path / "image", "write -P 1 0 256k")
    assert path.stat().st_size == 9 * CLUSTER
    leak(path, content)
    assert codes(path) == (1, {"R301"})


def test_lost_table_that_begins_with_zeros(tmp_path: Path) -> None:
    path = made(tmp_path / "image", "write -P 1 300M 256k", size="512M")
    poke(path, L1, bytes(8))
    assert codes(path) == (6, {"R301", "T232"})
