"""File locks: QEMU's byte ranges and flock, taken and looked at; nothing here reads an image.

QEMU marks what it does by read locks on single bytes that belong to the open file description:
byte 100 + permission says "I use it", byte 200 + permission "I do not let others have it". Looking
places no lock. Where the host has no such locks, looking and holding say so; neither fails.
"""

import errno
import fcntl
import io
import os
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from itertools import chain
from typing import NamedTuple

from qfix.errors import InUseError, from_os_error

CONSISTENT_READ, WRITE, WRITE_UNCHANGED, RESIZE, GRAPH_MOD = range(5)
USES = 100
FORBIDS = 200
LOCK_BYTES = tuple(base + bit for base in (USES, FORBIDS) for bit in range(GRAPH_MOD + 1))

# Linux; the structure holds l_type, l_whence, l_start, l_len, l_pid, with a 64-bit off_t
F_OFD_GETLK, F_OFD_SETLK = 36, 37
FLOCK = struct.Struct("@hhqqi4x")

PROC = "/proc"
COMMAND_LENGTH = 100
NEXT_STEP = "stop the virtual machine or program, or look with -U"

_CONFLICT = {errno.EAGAIN, errno.EACCES}
_UNSUPPORTED = {errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY}


class Holder(NamedTuple):
    """A process that holds an image; pid is None and command empty where it can't be seen."""

    pid: int | None
    command: str
    writes: bool
    forbids_writers: bool

    def __str__(self) -> str:
        """Say who it is and what it does with the image."""
        who = "another process" if self.pid is None else f"process {self.pid}"
        name = f" ({self.command})" if self.command else ""
        does = "writes to it" if self.writes else "reads it"
        return f"{who}{name} {does}"


class Use(NamedTuple):
    """What other processes do with an image; *known* is False where QEMU's locks can't be seen."""

    known: bool
    holders: tuple[Holder, ...] = ()

    @property
    def writes(self) -> bool:
        """Whether somebody may be writing to the image."""
        return any(holder.writes for holder in self.holders)

    @property
    def forbids_writers(self) -> bool:
        """Whether somebody relies on the image not to change."""
        return any(holder.forbids_writers for holder in self.holders)

    def __str__(self) -> str:
        """Name the gravest holder, and how many more there are."""
        if not self.holders:
            return "another process held it just now"
        gravest = max(self.holders, key=lambda holder: (holder.writes, holder.forbids_writers))
        more = len(self.holders) - 1
        return f"{gravest}, and {more} more" if more else str(gravest)


class Hold(NamedTuple):
    """Locks held on an image: which kinds the host could give."""

    seen_by_qfix: bool
    seen_by_qemu: bool

    @property
    def supported(self) -> bool:
        """Whether both other qfix runs and QEMU see that the image is held."""
        return self.seen_by_qfix and self.seen_by_qemu


class _Claim(NamedTuple):
    places: tuple[int, ...]
    conflicts: tuple[int, ...]
    exclusive: bool


_READING = _Claim(
    places=(USES + CONSISTENT_READ, FORBIDS + WRITE, FORBIDS + RESIZE),
    conflicts=(FORBIDS + CONSISTENT_READ, USES + WRITE, USES + RESIZE),
    exclusive=False,
)

# Stricter than QEMU, which lets readers of byte 100 be: a backing file's user may hold no other.
_WRITING = _Claim((*_READING.places, USES + WRITE, USES + RESIZE), LOCK_BYTES, exclusive=True)


def holders(fd: int) -> Use:
    """Return which other processes hold the image open as *fd*, and how.

    *fd* may be read-only. Locks held through *fd* itself do not count, so it has to be the
    descriptor that any lock of our own was taken on. Processes are looked for only where
    something is held.
    """
    held = _held_bytes(fd)
    table = _text(f"{PROC}/locks")
    inode, mount = _inode_and_mount(fd)
    if not held and f":{inode} " not in table:
        return Use(known=held is not None)
    file = f"{_device(fd, mount)}:{inode}"
    found: dict[int, set[int]] = {}
    rows = _rows(table.splitlines(), file)
    for pid, covered in chain(rows, _rows_of_processes(file) if held else ()):
        if pid > 0:
            found.setdefault(pid, set()).update(covered)
    hidden = (held or set()).difference(*found.values())
    found.pop(os.getpid(), None)
    everyone = [*sorted(found.items()), (None, hidden)]
    seen = tuple(_holder(pid, covered) for pid, covered in everyone if covered)
    return Use(held is not None, seen)


def refuse_if_written(fd: int, path: str) -> Use:
    """Return what others do with the image; raise InUseError if one of them writes to it.

    No lock of our own may be held on *fd*. The kernel takes some milliseconds to list all locks,
    so that is asked for only where one stands in the way.
    """
    if _held_bytes(fd) == set() and not _is_flocked(fd):
        return Use(known=True)
    use = holders(fd)
    if use.writes:
        raise _refusal(path, use)
    return use


def hold_for_reading(fd: int, path: str) -> AbstractContextManager[Hold]:
    """Keep writers away while the block runs; other readers, QEMU's too, may come and go.

    Only one hold at a time on one open file description: the first to end would end both.
    Raises InUseError where somebody writes, another QfixError where locking itself fails.
    """
    return _hold(fd, path, _READING)


def hold_for_writing(fd: int, path: str) -> AbstractContextManager[Hold]:
    """Keep all others away while the block runs; as hold_for_reading, on a writable *fd*.

    Raises InUseError where anybody uses the image, be it as the backing file of another.
    """
    return _hold(fd, path, _WRITING)


@contextmanager
def _hold(fd: int, path: str, claim: _Claim) -> Iterator[Hold]:
    with ExitStack() as releases:
        try:
            flocked = _supported(_take_flock, fd, claim, releases)
            hold = Hold(flocked, _supported(_take_bytes, fd, claim, releases))
        except OSError as error:
            releases.close()
            if error.errno in _CONFLICT:
                raise _refusal(path, holders(fd)) from error
            raise from_os_error(error, path) from error
        yield hold


def _refusal(path: str, use: Use) -> InUseError:
    return InUseError(f"{path}: in use: {use}; {NEXT_STEP}")


def _supported(
    take: Callable[[int, _Claim, ExitStack], None], fd: int, claim: _Claim, releases: ExitStack
) -> bool:
    """Take a kind of lock; return whether the host has it. Raises OSError for all else."""
    try:
        take(fd, claim, releases)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return False
    return True


def _take_flock(fd: int, claim: _Claim, releases: ExitStack) -> None:
    import portalocker

    whole = io.FileIO(fd, closefd=False)  # portalocker 2 unlocks no bare descriptor
    kind = portalocker.LockFlags.EXCLUSIVE if claim.exclusive else portalocker.LockFlags.SHARED
    try:
        portalocker.lock(whole, kind | portalocker.LockFlags.NON_BLOCKING)
    except portalocker.LockException as error:
        raise (error.__cause__ or error) from None
    releases.callback(_quietly, portalocker.unlock, whole)


def _take_bytes(fd: int, claim: _Claim, releases: ExitStack) -> None:
    for byte in claim.places:
        _ofd(fd, F_OFD_SETLK, fcntl.F_RDLCK, byte)
        releases.callback(_quietly, _ofd, fd, F_OFD_SETLK, fcntl.F_UNLCK, byte)
    if any(_is_held(fd, byte) for byte in claim.conflicts):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def _quietly(release: Callable[..., object], *arguments: object) -> None:
    """Give a lock back; where that fails, the end of the process does it."""
    with suppress(Exception):
        release(*arguments)


def _is_held(fd: int, byte: int) -> bool:
    """Return whether another open file description holds *byte*; asks as a writer, as QEMU does."""
    return _ofd(fd, F_OFD_GETLK, fcntl.F_WRLCK, byte) != fcntl.F_UNLCK


def _ofd(fd: int, command: int, kind: int, byte: int) -> int:
    """Run a lock command on one byte and return the lock type it answers with."""
    if not sys.platform.startswith("linux"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    answer = fcntl.fcntl(fd, command, FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0))
    return int(FLOCK.unpack(answer)[0])


def _is_flocked(fd: int) -> bool:
    """Return whether another process holds an exclusive flock; holds a shared one to find out."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno == errno.EWOULDBLOCK
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


def _held_bytes(fd: int) -> set[int] | None:
    try:
        return {byte for byte in LOCK_BYTES if _is_held(fd, byte)}
    except OSError:
        return None


def _inode_and_mount(fd: int) -> tuple[str, str]:
    """Return the inode number of the lock tables, and the mount; stat may differ on an overlay."""
    lines = _text(f"{PROC}/self/fdinfo/{fd}").splitlines()
    fields = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return fields.get("ino") or str(os.fstat(fd).st_ino), fields.get("mnt_id", "")


def _device(fd: int, mount: str) -> str:
    """Return the device as lock tables write it: the mount's, which on btrfs is not stat's."""
    device = os.fstat(fd).st_dev
    numbers = [os.major(device), os.minor(device)]
    for line in _text(f"{PROC}/self/mountinfo").splitlines():
        if line.startswith(f"{mount} "):
            numbers = [int(number) for number in line.split()[2].split(":")]
    return ":".join(f"{number:02x}" for number in numbers)


def _rows(lines: Iterable[str], file: str) -> Iterator[tuple[int, set[int]]]:
    """Yield (pid, lock bytes covered) of each held lock on *file*; the pid of an OFD lock is -1.

    A flock is put in the same terms: an exclusive one writes, a shared one forbids writers.
    """
    for line in lines:
        match line.removeprefix("lock:").split():
            case [_, "FLOCK", _, mode, pid, key, _, _] if key == file:
                writer = {USES + WRITE} if mode == "WRITE" else set()
                yield int(pid), {FORBIDS + WRITE} | writer
            case [_, "OFDLCK" | "POSIX", _, _, pid, key, start, end] if key == file:
                last = LOCK_BYTES[-1] if end == "EOF" else int(end)
                yield int(pid), {byte for byte in LOCK_BYTES if int(start) <= byte <= last}


def _rows_of_processes(file: str) -> Iterator[tuple[int, set[int]]]:
    """Yield (pid, lock bytes covered) of what each process that we may look at holds on *file*."""
    processes: list[str] = []
    with suppress(OSError):
        processes = [name for name in os.listdir(PROC) if name.isdecimal()]
    for process in processes:
        with suppress(OSError):
            for info in os.listdir(f"{PROC}/{process}/fdinfo"):
                lines = _text(f"{PROC}/{process}/fdinfo/{info}").splitlines()
                for _, covered in _rows(lines, file):
                    yield int(process), covered


def _holder(pid: int | None, covered: set[int]) -> Holder:
    command = "" if pid is None else _command(f"{PROC}/{pid}")
    return Holder(pid, command, USES + WRITE in covered, FORBIDS + WRITE in covered)


def _command(process: str) -> str:
    """Return a process's command line on one printable line, cut where it is long."""
    words = _text(f"{process}/cmdline").rstrip("\0") or _text(f"{process}/comm").strip()
    if len(words) > COMMAND_LENGTH:
        words = words[: COMMAND_LENGTH - 3] + "..."
    shown = words.replace("\0", " ")
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in shown)


def _text(path: str) -> str:
    """Return what a file of the kernel says, nothing where it can't be read."""
    with suppress(OSError), open(path, "rb") as file:
        return file.read().decode(errors="backslashreplace")
    return ""
