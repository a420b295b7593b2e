"""A disk that fails under the image: what can't be read is said, and the rest is still checked."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from build_write import finish
from command import CLEAN, codes, qfix, record, records
from corpus_bases import described, with_snapshots

if TYPE_CHECKING:
    from pathlib import Path

    from build import Picture

SECTOR = 512
LARGE = 1 << 16
READ_ERROR = "H149"
HEADER, REFTABLE, REFBLOCK, ACTIVE_L1, ACTIVE_L2, DATA = range(6)
MODES = ("check", "error", "info")
Breaker = Callable[..., None]


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Breaker:
    """Return a function that makes clusters unreadable for this process."""
    real = os.preadv

    def break_clusters(*clusters: int, code: int = errno.EIO, size: int = SECTOR) -> None:
        def fail(fd: int, buffers: list[memoryview], offset: int, *rest: Any) -> int:
            """Read up to the first bad byte, as a disk does; raise where that is the first one."""
            (buffer,) = buffers
            bad = [at * size for at in clusters if (at + 1) * size > offset]
            whole = max(0, min(bad, default=offset + len(buffer)) - offset)
            if not whole and buffer:
                raise OSError(code, os.strerror(code))
            return real(fd, [buffer[:whole]], offset, *rest)

        monkeypatch.setattr(os, "preadv", fail)

    return break_clusters


def stored(picture: Picture, folder: Path) -> Path:
    """Write an image to a folder."""
    path = folder / "image.qcow2"
    path.write_bytes(picture.data)
    return path


def said_clearly(path: Path) -> None:
    """Check that a read error is a finding, or at least ends the run with a clear word."""
    for mode in ("check", "error"):
        output = qfix("-m", mode, path)
        assert output.status == 74
        assert CLEAN not in output.stdout
        if READ_ERROR not in output.stdout:
            assert str(path) in output.stderr
            assert os.strerror(errno.EIO) in output.stderr
    found = record(path)["qfix"]
    assert (found["status"], found["verdict"]) == (74, "io-error")


@pytest.mark.parametrize("mode", MODES)
def test_unreadable_header(broken: Breaker, mode: str, tmp_path: Path) -> None:
    path = stored(finish(described()), tmp_path)
    broken(HEADER)
    output = qfix("-m", mode, path)

    assert (output.status, output.stdout) == (74, "")
    assert str(path) in output.stderr
    assert os.strerror(errno.EIO) in output.stderr
    failed = record("-m", mode, path)["qfix"]
    assert (failed["status"], failed["verdict"]) == (74, "io-error")


@pytest.mark.parametrize("bits", [9, 16])
@pytest.mark.parametrize("cluster", [REFBLOCK, ACTIVE_L2], ids=["refcount block", "L2 table"])
def test_unreadable_block_or_table(
    broken: Breaker, cluster: int, bits: int, tmp_path: Path
) -> None:
    """Also where it stands in the first 64 KiB, not far behind a header that is sound."""
    path = stored(finish(described(cluster_bits=bits)), tmp_path)
    broken(cluster, size=1 << bits)

    for mode in ("check", "error"):
        output = qfix("-m", mode, path)
        assert output.status == 74
        assert READ_ERROR in output.stdout
        assert f"{cluster << bits:#x}" in output.stdout
        assert CLEAN not in output.stdout
    found = record(path)
    (row,) = [row for row in found["qfix"]["findings"] if row["code"] == READ_ERROR]
    assert row["host-offset"] == cluster << bits
    assert found["qfix"]["verdict"] == "io-error"


@pytest.mark.parametrize("bits", [9, 16])
@pytest.mark.parametrize("cluster", [REFTABLE, ACTIVE_L1], ids=["refcount table", "L1 table"])
def test_unreadable_root(broken: Breaker, cluster: int, bits: int, tmp_path: Path) -> None:
    path = stored(finish(described(cluster_bits=bits)), tmp_path)
    broken(cluster, size=1 << bits)
    said_clearly(path)


@pytest.mark.parametrize("bits", [9, 16])
def test_guest_data_is_not_read(broken: Breaker, bits: int, tmp_path: Path) -> None:
    path = stored(finish(described(cluster_bits=bits)), tmp_path)
    broken(*range(DATA, DATA + 4), size=1 << bits)
    assert qfix(path).status == 0


# with_snapshots: 9 and 12 L1 tables of the snapshots, 10 an L2 table, 15 the snapshot table
@pytest.mark.parametrize("cluster", [9, 12, 10, 15], ids=["L1", "second L1", "L2", "table"])
def test_unreadable_snapshot(broken: Breaker, cluster: int, tmp_path: Path) -> None:
    path = stored(with_snapshots(cluster_bits=16), tmp_path)
    broken(cluster, size=LARGE)

    said_clearly(path)


# 9 the bits, 10 the table of the bitmap, 11 the directory
@pytest.mark.parametrize("cluster", [10, 11], ids=["table", "directory"])
def test_unreadable_bitmap(broken: Breaker, cluster: int, tmp_path: Path) -> None:
    image = described(cluster_bits=16)
    image.bitmap("daily", b"\x0f" * 16)
    path = stored(finish(image), tmp_path)
    broken(cluster, size=LARGE)

    said_clearly(path)


def test_one_table_does_not_hide_what_is_wrong_elsewhere(broken: Breaker, tmp_path: Path) -> None:
    picture = with_snapshots(cluster_bits=16)
    picture.poke({"snapshot[0].l2[0][0]": 5 * LARGE | 1 << 1})
    path = stored(picture, tmp_path)
    without = codes(path)
    broken(13, size=LARGE)  # the active L2 table

    assert without
    assert without | {READ_ERROR} <= codes(path)
    assert qfix(path).status == 74


@pytest.mark.parametrize("cluster", [9, 10, 11, 15])
def test_info_of_unreadable_tables(broken: Breaker, cluster: int, tmp_path: Path) -> None:
    """The header could be read, so there is something to show, or a clear word."""
    path = stored(with_snapshots(cluster_bits=16), tmp_path)
    broken(cluster, size=LARGE)
    output = qfix("-m", "info", path)

    assert output.status in {0, 74}
    assert output.stdout or "reading at" in output.stderr


@pytest.mark.parametrize("code", [errno.EIO, errno.ENODATA, errno.ESTALE, errno.EREMOTEIO])
def test_any_error_of_the_host(broken: Breaker, code: int, tmp_path: Path) -> None:
    path = stored(finish(described(cluster_bits=16)), tmp_path)
    broken(ACTIVE_L2, code=code, size=LARGE)
    assert qfix(path).status == 74


def test_others_of_several_are_checked(
    broken: Breaker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = stored(finish(described()), tmp_path)
    whole = tmp_path / "two.qcow2"
    whole.write_bytes(path.read_bytes())
    real = os.preadv
    broken(HEADER)
    failing, inode = os.preadv, path.stat().st_ino

    def fail_first(fd: int, *rest: Any) -> int:
        return failing(fd, *rest) if os.fstat(fd).st_ino == inode else real(fd, *rest)

    monkeypatch.setattr(os, "preadv", fail_first)
    assert [row["qfix"]["status"] for row in records(path, whole)] == [74, 0]


def test_a_file_that_shrinks_reads_as_zeros(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = stored(finish(described()), tmp_path)
    real = os.preadv

    def short(fd: int, buffers: list[memoryview], offset: int, *rest: Any) -> int:
        return real(fd, buffers, offset, *rest) if offset < ACTIVE_L1 * SECTOR else 0

    monkeypatch.setattr(os, "preadv", short)
    assert qfix(path).status in {1, 6}


def test_short_reads_are_continued(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = stored(with_snapshots(), tmp_path)
    real, calls = os.preadv, []

    def sip(fd: int, buffers: list[memoryview], offset: int, *rest: Any) -> int:
        calls.append(offset)
        return real(fd, [buffers[0][:100]], offset, *rest)

    monkeypatch.setattr(os, "preadv", sip)
    assert qfix(path).status == 0
    tables = 6  # header, L1, L2, refcount table and block, snapshot table: a cluster each
    assert len(calls) >= tables * SECTOR // 100


def test_no_memory_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = stored(finish(described()), tmp_path)

    def fail(*_: object) -> int:
        raise MemoryError

    monkeypatch.setattr(os, "preadv", fail)
    output = qfix(path)
    assert output.status == 74
    assert "memory" in output.stderr
