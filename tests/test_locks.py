"""Locks, in both directions: against the real QEMU, and between processes of our own."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import Mock

import portalocker
import pytest

import qemu
from qfix import locks
from qfix.errors import InUseError, ReadError
from qfix.locks import Hold, Holder, Use, hold_for_reading, hold_for_writing, holders

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    Holding = Callable[[int, str], AbstractContextManager[Hold]]

FREE = Use(known=True)
BOTH = pytest.mark.parametrize("hold", [hold_for_reading, hold_for_writing])
SOURCE = Path(locks.__file__).parents[1]

HOLDER = """
import fcntl, struct, sys
from qfix import locks
file = open(sys.argv[1], "r+b")
{}
print("ready", flush=True)
sys.stdin.read()
"""
FLOCK = "fcntl.flock(file, fcntl.{})"
BYTE = "fcntl.fcntl(file, fcntl.{}, struct.pack('@hhqqi4x', fcntl.{}, 0, {}, 1, 0))"
READING = "hold = locks.hold_for_reading(file.fileno(), ''); hold.__enter__()"
WRITING = "hold = locks.hold_for_writing(file.fileno(), ''); hold.__enter__()"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Make a file to lock: what is in it does not matter, nor that it ends before byte 100."""
    path = tmp_path / "image"
    path.write_bytes(b"QFI\xfb")
    return path


@pytest.fixture
def fd(image: Path) -> Iterator[int]:
    """Open the file to lock for writing."""
    with image.open("r+b") as file:
        yield file.fileno()


@pytest.fixture
def disk(image: Path, need_qemu: None) -> Path:
    """Make the same file an image that QEMU opens."""
    _ = need_qemu
    qemu.img("create", "-f", "qcow2", image, "1M")
    return image


@contextmanager
def running(*command: str | Path, says: str = "") -> Iterator[int]:
    """Run a process, tell it *says*, and give its pid once it answers; it ends with the block."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=SOURCE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(says)
        process.stdin.flush()
        assert process.stdout.readline()
        yield process.pid


def qemu_io(*arguments: str | Path) -> AbstractContextManager[int]:
    """Hold an image in qemu-io."""
    return running("qemu-io", *arguments, says="length\n")


def python(path: Path, taking: str, *words: str | int) -> AbstractContextManager[int]:
    """Hold a file in another Python, by one of the statements above."""
    return running(sys.executable, "-c", HOLDER.format(taking.format(*words)), path)


def use_of(path: Path) -> Use:
    """Look at a file through a read-only descriptor of its own."""
    with path.open("rb") as file:
        return holders(file.fileno())


def refusal(hold: Holding, descriptor: int) -> str:
    """Return what is said when *hold* is refused."""
    with pytest.raises(InUseError) as refused, hold(descriptor, "disk.img"):
        pass
    return str(refused.value)


def failing(code: int) -> Mock:
    """Return a function that fails as the host does."""
    return Mock(side_effect=OSError(code, os.strerror(code)))


def test_no_process_is_asked_when_free(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_rows_of_processes", None)
    assert use_of(image) == FREE


def test_looking_does_not_import_portalocker(image: Path) -> None:
    script = (
        "import os, sys; from qfix.locks import refuse_if_written as look\n"
        "look(os.open(sys.argv[1], os.O_RDONLY), ''); sys.exit('portalocker' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, str(image)], check=True, cwd=SOURCE)


@pytest.mark.parametrize(
    ("options", "writes", "forbids_writers"),
    [((), True, True), (("-r",), False, True), (("-U", "-r"), False, False)],
    ids=["read-write", "read-only", "force-share"],
)
def test_qemu_is_seen(
    disk: Path, fd: int, options: tuple[str, ...], writes: bool, forbids_writers: bool
) -> None:
    with qemu_io(*options, disk) as pid:
        use = use_of(disk)
        refused = refusal(hold_for_writing, fd)
    (holder,) = use.holders
    assert (holder.pid, holder.writes, holder.forbids_writers) == (pid, writes, forbids_writers)
    assert (use.known, use.writes, use.forbids_writers) == (True, writes, forbids_writers)
    assert holder.command.startswith(" ".join(["qemu-io", *options, "/"]))
    does = "writes to it" if writes else "reads it"
    step = "stop the virtual machine or program, or look with -U"
    assert refused == f"disk.img: in use: process {pid} ({holder.command}) {does}; {step}"
    assert use_of(disk) == FREE
    qemu.io(disk, "write 0 512")


def test_reading_is_refused_while_qemu_writes(disk: Path, fd: int) -> None:
    with qemu_io(disk) as pid:
        said = refusal(hold_for_reading, fd)
        with pytest.raises(InUseError, match=f"process {pid} .* writes to it") as refused:
            locks.refuse_if_written(fd, "disk.img")
    assert said == str(refused.value)
    with hold_for_reading(fd, "disk.img") as hold:
        assert hold.supported


def test_reading_goes_beside_a_reading_qemu(disk: Path, fd: int) -> None:
    with qemu_io("-r", disk):
        assert locks.refuse_if_written(fd, "disk.img").forbids_writers
        with hold_for_reading(fd, "disk.img") as hold:
            assert hold.supported
    with hold_for_reading(fd, "disk.img"), qemu_io("-r", disk):
        pass


def test_qemu_neither_reads_nor_writes_while_we_write(disk: Path, fd: int) -> None:
    with hold_for_writing(fd, "disk.img"):
        checked = qemu.img("check", disk, check=False)
        with pytest.raises(RuntimeError, match='Failed to get "write" lock'):
            qemu.io(disk, "write 0 512")
        assert qemu.img("check", "-U", disk).returncode == 0
    assert checked.returncode == 1
    assert 'Failed to get shared "write" lock' in checked.stderr
    assert "Is another process using the image" in checked.stderr
    qemu.io(disk, "write 0 512")


def test_qemu_reads_but_does_not_write_while_we_read(disk: Path, fd: int) -> None:
    with hold_for_reading(fd, "disk.img"):
        assert qemu.img("check", disk).returncode == 0
        with pytest.raises(RuntimeError, match='Failed to get "write" lock'):
            qemu.io(disk, "write 0 512")
    qemu.io(disk, "write 0 512")


def test_readers_hold_together_and_keep_a_writer_away(image: Path, fd: int) -> None:
    with python(image, READING) as pid:
        with hold_for_reading(fd, "disk.img"):
            assert locks.refuse_if_written(fd, "disk.img").forbids_writers
        said = refusal(hold_for_writing, fd)
    assert f"process {pid} " in said
    assert " reads it;" in said
    with hold_for_writing(fd, "disk.img"):
        pass


def test_a_writer_keeps_all_away(image: Path, fd: int) -> None:
    with python(image, WRITING) as pid:
        said = {refusal(hold, fd) for hold in (hold_for_reading, hold_for_writing)}
        with pytest.raises(InUseError, match=f"process {pid} .* writes to it") as refused:
            locks.refuse_if_written(fd, "disk.img")
    assert said == {str(refused.value)}
    assert holders(fd) == FREE


@pytest.mark.parametrize("kind", ["LOCK_SH", "LOCK_EX"])
def test_flock_alone_is_seen(image: Path, fd: int, kind: str) -> None:
    with python(image, FLOCK, kind) as pid:
        (holder,) = use_of(image).holders
        assert f"process {pid} " in refusal(hold_for_writing, fd)
    assert holder == Holder(pid, holder.command, writes=kind == "LOCK_EX", forbids_writers=True)
    assert len(holder.command) <= 110
    assert holder.command.endswith("...")


def test_own_locks_are_no_other_use_and_outlive_a_look(image: Path, fd: int) -> None:
    command = [sys.executable, "-c", HOLDER.format(READING), str(image)]
    with hold_for_writing(fd, "disk.img"):
        assert holders(fd) == use_of(image) == FREE
        other = subprocess.run(command, check=False, capture_output=True, text=True, cwd=SOURCE)
    assert f"in use: process {os.getpid()} " in other.stderr


def test_all_holders_are_found_and_the_writer_is_named(image: Path) -> None:
    with (
        python(image, BYTE, "F_OFD_SETLK", "F_RDLCK", 100) as reader,
        python(image, BYTE, "F_SETLK", "F_RDLCK", 101) as writer,
    ):
        use = use_of(image)
    assert {holder.pid for holder in use.holders} == {reader, writer}
    assert str(use).startswith(f"process {writer} ")
    assert str(use).endswith(" writes to it, and 1 more")


@BOTH
def test_a_foreign_write_lock_refuses(image: Path, fd: int, hold: Holding) -> None:
    with python(image, BYTE, "F_OFD_SETLK", "F_WRLCK", 201) as pid:
        assert f"process {pid} " in refusal(hold, fd)


def test_a_lock_elsewhere_in_the_file_is_none_of_ours(image: Path, fd: int) -> None:
    with python(image, BYTE, "F_SETLK", "F_WRLCK", 5):
        assert use_of(image) == FREE
        with hold_for_writing(fd, "disk.img") as hold:
            assert hold.supported


def test_a_command_is_shown_printable(tmp_path: Path) -> None:
    (tmp_path / "cmdline").write_bytes(b"qemu\0\x1b[31m\n\xff\0\xe2\x80\xae\xc3\xa9\0")
    assert locks._command(str(tmp_path)) == r"qemu \x1b[31m\n\xff \u202eé"


@BOTH
def test_without_proc_holders_are_nameless(
    image: Path, fd: int, hold: Holding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "PROC", tmp_path / "proc")
    with python(image, BYTE, "F_OFD_SETLK", "F_RDLCK", 101):
        assert use_of(image).holders == (Holder(None, "", writes=True, forbids_writers=False),)
        assert "in use: another process writes to it; stop" in refusal(hold, fd)
    with python(image, FLOCK, "LOCK_EX"):
        assert use_of(image) == FREE
        assert "in use: another process held it just now; stop" in refusal(hold, fd)


@BOTH
@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_byte_locks(
    image: Path, fd: int, hold: Holding, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "fcntl", failing(code))
    assert locks.refuse_if_written(fd, "disk.img") == Use(known=False)
    with hold(fd, "disk.img") as held:
        assert held == Hold(seen_by_qfix=True, seen_by_qemu=False)
        assert not held.supported
    with python(image, FLOCK, "LOCK_EX") as pid:
        assert f"process {pid} " in refusal(hold, fd)


def test_another_system_has_no_byte_locks(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert holders(fd) == Use(known=False)


def test_a_file_system_without_flock(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(errno.ENOLCK))
    monkeypatch.setattr(portalocker.portalocker, "LOCKER", fcntl.flock, raising=False)
    with hold_for_reading(fd, "disk.img") as hold:
        assert hold == Hold(seen_by_qfix=False, seen_by_qemu=True)


def test_an_error_of_the_host_is_told_and_leaves_no_lock(
    image: Path, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "fcntl", failing(errno.EIO))
        with pytest.raises(ReadError, match=r"disk\.img: "), hold_for_writing(fd, "disk.img"):
            pass
    with python(image, WRITING):
        pass
