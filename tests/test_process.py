"""qfix as a process: pipes, signals, terminals, limits of memory, full disks, block devices."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from command import case
from corpus import IMAGES
from mutant_run import COUNTS

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
QFIX = (sys.executable, "-m", "qfix")
TIMEOUT_S = 120
GIB = 1 << 30
SOUND = sorted(path / "image.qcow2" for path in IMAGES.glob("ok-*"))
HUGE = (
    *("l1-size-huge", "reftable-huge", "virtual-size-huge", "snapshot-l1-huge"),
    *("snapshots-too-many", "snapshot-size-huge", "bitmaps-too-many", "cluster-bits-large"),
    *("refblock-far-outside-file", "snapshot-l1-at-2-63", "header-length-large"),
)


def run(
    *arguments: str | Path, limit: int | None = None, stdout: int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    """Run qfix, below *limit* bytes of address space."""
    command = [*QFIX, *map(str, arguments)]
    if limit:
        command = ["sh", "-c", f'ulimit -v {limit // 1024} && exec "$@"', "sh", *command]
    return subprocess.run(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def large_image(path: Path, tables: int = 1 << 21) -> Path:
    """Write a sparse image with an L2 table of zeros for each L1 entry, 512 bytes a cluster."""
    l1 = 3 * 512
    first = l1 + tables * 8
    header = struct.pack(
        *(">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 0, 0, 9, tables * 64 * 512, 0, tables, l1, 512),
        *(1, 0, 0),
    )
    entries = range(first, first + tables * 512, 512)
    with path.open("wb") as file:
        file.write(header)
        file.seek(512)
        file.write(struct.pack(">Q", 1024))
        file.seek(l1)
        file.write(struct.pack(f">{tables}Q", *entries))
        file.truncate(first + tables * 512)
    return path


def wait_until_open(process: subprocess.Popen[str], path: Path) -> None:
    """Wait until a process has opened a file."""
    folder = Path(f"/proc/{process.pid}/fd")
    until = time.monotonic() + TIMEOUT_S
    while process.poll() is None and time.monotonic() < until:
        for entry in folder.iterdir():
            with contextlib.suppress(OSError):
                if entry.readlink() == path:
                    return
        time.sleep(0.001)
    pytest.fail("the image was not opened")


def on_terminal(*arguments: str | Path, **environment: str) -> str:
    """Return what qfix writes to a terminal."""
    leader, follower = pty.openpty()
    kept = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    try:
        subprocess.run(
            [*QFIX, *map(str, arguments)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=follower,
            stderr=follower,
            env={**kept, "TERM": "xterm", **environment},
            timeout=TIMEOUT_S,
            check=False,
        )
    finally:
        os.close(follower)
    said = b""
    with os.fdopen(leader, "rb", buffering=0) as terminal, contextlib.suppress(OSError):
        while part := terminal.read(1 << 16):
            said += part
    return said.decode()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """Put an image with a leak on a loop device."""
    if not shutil.which("losetup"):
        pytest.skip("losetup is not installed")
    copy = Path(shutil.copyfile(case("leak"), tmp_path / "image"))
    made = subprocess.run(
        ["losetup", "--find", "--show", copy], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no loop device can be made here: {made.stderr.strip()}")
    path = Path(made.stdout.strip())
    try:
        yield path
    finally:
        subprocess.run(["losetup", "--detach", path], check=True)


@pytest.mark.parametrize("mode", ["check", "error", "info"])
def test_closed_pipe_is_silent(mode: str) -> None:
    script = '"$@" | head -n 1; echo "${PIPESTATUS[0]}"'
    images = [str(path) for path in SOUND] * (40 if mode == "check" else 8)
    done = subprocess.run(
        ["bash", "-c", script, "bash", *QFIX, "-m", mode, *images],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    first, status = done.stdout.splitlines()

    assert done.stderr == ""
    assert first
    assert status == "141"


def test_pipe_that_is_closed_before_the_first_word() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = run(case("leak"), stdout=writer)
    os.close(writer)

    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("options", [(), ("--output", "json")], ids=["text", "json"])
def test_interrupt_ends_at_once(tmp_path: Path, options: tuple[str, ...]) -> None:
    path = large_image(tmp_path / "image")
    with subprocess.Popen(
        [*QFIX, *options, path],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        wait_until_open(process, path)
        time.sleep(0.3)
        assert process.poll() is None, "the check was over before it could be interrupted"
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=TIMEOUT_S)

    assert time.monotonic() - sent < 2
    assert process.returncode == 130
    assert out == ""
    assert err.strip() == ""


@pytest.mark.parametrize("mode", ["check", "error", "info"])
def test_interrupt_while_reading(mode: str) -> None:
    script = (
        "import os, signal, sys; from qfix import cli\n"
        "os.preadv = lambda *_: signal.raise_signal(signal.SIGINT)\n"
        "sys.exit(cli.main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "-m", mode, case("leak")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 130
    assert done.stdout == ""
    assert done.stderr.strip() == ""


@pytest.mark.parametrize("mode", ["check", "error", "info"])
def test_sound_images_in_a_gibibyte(mode: str) -> None:
    done = run("-m", mode, *SOUND, limit=GIB)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(SOUND) >= 12


@pytest.mark.parametrize("name", HUGE)
def test_huge_numbers_in_a_header(name: str) -> None:
    """Memory is bounded by the file's size; these files have some kilobytes."""
    expected = json.loads((IMAGES / name / "expect.json").read_text())
    if "length" in expected:
        pytest.skip("needs a hole at its end")
    for mode in ("check", "info"):
        done = run("-m", mode, "--output", "json", case(name), limit=GIB // 2)
        assert done.stderr == ""
        assert done.returncode in ({expected["status"]} | ({0} if mode == "info" else set()))


def test_memory_of_a_small_check() -> None:
    """What the largest child so far took is far below the limit, in kilobytes."""
    run(case("l1-size-huge"))
    run(case("reftable-huge"))
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < GIB // 1024


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    "options",
    [("-m", "check"), ("-m", "error"), ("-m", "info"), ("--output", "json"), ("--explain", "R301")],
    ids=" ".join,
)
def test_full_disk_under_the_output(options: tuple[str, ...]) -> None:
    images = () if "--explain" in options else (case("leak"),)
    full = os.open("/dev/full", os.O_WRONLY)
    done = run(*options, *images, stdout=full)
    os.close(full)

    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert "defect" not in done.stderr
    assert done.returncode == 74
    assert "No space left on device" in done.stderr


def test_closed_standard_output() -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *QFIX, case("leak")],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "defect" not in done.stderr
    assert done.returncode in {1, 74}


def test_colors_on_a_terminal() -> None:
    path = case("leak")
    assert "\x1b[" in on_terminal(path)
    assert "\x1b[" in on_terminal(path, NO_COLOR="")
    assert "\x1b[" not in on_terminal(path, NO_COLOR="1")
    assert "\x1b[" not in on_terminal("--color", "never", path)
    assert "\x1b[" in on_terminal("--color", "always", path, NO_COLOR="1")
    assert "\x1b[" not in on_terminal("--output", "json", path)


def test_output_in_another_encoding(tmp_path: Path) -> None:
    copy = Path(shutil.copyfile(case("leak"), tmp_path / "bild-ä-日本.qcow2"))
    for variables in ({"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C"}, {"PYTHONUTF8": "0"}):
        for mode in ("check", "error", "info"):
            done = subprocess.run(
                [*QFIX, "-m", mode, copy],
                cwd=ROOT,
                env={**os.environ, **variables},
                capture_output=True,
                check=False,
            )
            assert done.returncode == (0 if mode == "info" else 1), done.stderr


def test_block_device(device: Path) -> None:
    of_device, of_file = (
        json.loads(run("--output", "json", path).stdout) for path in (device, case("leak"))
    )
    assert {key: of_device[key] for key in COUNTS} == {key: of_file[key] for key in COUNTS}
    findings = of_device["qfix"]["findings"], of_file["qfix"]["findings"]
    assert [{**row, "command": ""} for row in findings[0]] == [
        {**row, "command": ""} for row in findings[1]
    ]
    told = json.loads(run("-m", "info", "--output", "json", device).stdout)
    assert told["file-size"] == case("leak").stat().st_size
    assert told["file-system"] == "block device"
