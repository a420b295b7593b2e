"""Calls the command line in this process, and images of the corpus by name."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corpus import IMAGES
from mutant_run import Output, call
from qfix.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

CLEAN = "No errors were found on the image."
HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
fcntl.flock(file, fcntl.LOCK_EX)
print("ready", flush=True)
sys.stdin.read()
"""


def qfix(*arguments: str | Path) -> Output:
    """Run qfix; it must not raise, nor print a traceback."""
    output = call(main, *map(str, arguments))
    assert output.raised == ""
    assert "Traceback" not in output.stdout + output.stderr
    return output


def case(name: str) -> Path:
    """Return the image of a case of the corpus."""
    return IMAGES / name / "image.qcow2"


def copy(name: str, folder: Path) -> Path:
    """Return a copy of the image of a case."""
    return Path(shutil.copyfile(case(name), folder / f"{name}.qcow2"))


def record(*arguments: str | Path) -> dict[str, Any]:
    """Return the JSON object that a run on one image prints."""
    found = json.loads(qfix("--output", "json", *arguments).stdout)
    assert isinstance(found, dict)
    return found


def records(*arguments: str | Path) -> list[dict[str, Any]]:
    """Return the JSON lines that a run on several images prints."""
    lines = qfix("--output", "json", *arguments).stdout.splitlines()
    return [json.loads(line) for line in lines]


def codes(*arguments: str | Path) -> set[str]:
    """Return the codes of the findings that a run on one image gives."""
    return {found["code"] for found in record(*arguments)["qfix"]["findings"]}


@contextmanager
def held(path: Path) -> Iterator[int]:
    """Let another process hold an image exclusively; give its pid."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process.pid
        process.stdin.close()


def is_locked(path: Path) -> bool:
    """Tell whether a writer would be kept away."""
    with path.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def on_a_terminal(answer: bytes, *arguments: str | Path) -> tuple[int, str]:
    """Run qfix on a pseudo-terminal, give an answer; return the status and what was shown."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "qfix", *map(str, arguments)],
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=slave,
        cwd=Path(__file__).parents[1],
    ) as process:
        os.close(slave)
        os.write(master, answer)
        assert process.stdout is not None
        process.stdout.read()
        status = process.wait()
    said = b""
    try:
        while part := os.read(master, 1 << 16):
            said += part
    except OSError:
        pass
    os.close(master)
    return status, said.decode()
