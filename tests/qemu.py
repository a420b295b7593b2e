"""Runs the real qemu-img and qemu-io: what the tests compare qfix with.

Where they are missing the tests that need them skip, unless QFIX_REQUIRE_QEMU is set: then they
fail, so that a continuous integration run can't pass without them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT_S = 60


def require() -> None:
    """Skip the calling test, or fail it where QEMU is required, if qemu-img is missing."""
    if shutil.which("qemu-img") and shutil.which("qemu-io"):
        return
    reason = "qemu-img and qemu-io are not installed (Debian: apt-get install qemu-utils)"
    if os.environ.get("QFIX_REQUIRE_QEMU"):
        pytest.fail(reason)
    pytest.skip(reason)


def img(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run qemu-img with *arguments*; raise if it fails and *check* is set."""
    return _run("qemu-img", *arguments, check=check)


def io(path: Path, *commands: str, image_format: str = "qcow2") -> str:
    """Run qemu-io *commands* on an image and return what it printed; raise if it fails."""
    arguments = [word for command in commands for word in ("-c", command)]
    return _run("qemu-io", "-f", image_format, *arguments, path).stdout


def check(path: Path, *options: str) -> tuple[int, dict[str, Any] | None]:
    """Return the exit status of ``qemu-img check`` and its JSON, None where it printed none."""
    command = ("check", "-f", "qcow2", "--output=json", *options, str(path))
    done = img(*command, check=False)
    return done.returncode, json.loads(done.stdout) if done.stdout.strip() else None


def _run(
    program: str, *arguments: str | Path, check: bool = True
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [program, *map(str, arguments)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=TIMEOUT_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if check and done.returncode:
        raise RuntimeError(f"{program} {arguments} gave {done.returncode}: {done.stderr}")
    return done
