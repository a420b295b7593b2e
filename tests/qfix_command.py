"""Runs qfix as a user does, and compares its JSON with that of ``qemu-img check``."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-m", "qfix"]
REPOSITORY = Path(__file__).parents[1]
TIMEOUT_S = 120
DEFECT = 70

QEMU_COUNTS = (
    "check-errors",
    "image-end-offset",
    "corruptions",
    "leaks",
    "corruptions-fixed",
    "leaks-fixed",
    "total-clusters",
    "allocated-clusters",
    "fragmented-clusters",
    "compressed-clusters",
)
"""The integers in qemu-img's JSON; qemu-img leaves out those that are zero."""


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run qfix with *arguments*, whatever its exit status."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def check(*images: Path) -> list[dict[str, Any]]:
    """Check *images* in one call and return a record for each, in order.

    An image that qfix breaks off at gets a record with status DEFECT, and a call more is made for
    those behind it, so that one defect does not hide what is to be said of the others.
    """
    done = run("-m", "check", "--output", "json", *images)
    text = done.stdout.strip()
    lines = [text] if len(images) == 1 and text else text.splitlines()
    records = [json.loads(line) for line in lines]
    if len(records) > len(images):
        raise AssertionError(f"{len(records)} records for {len(images)} images")
    if len(records) < len(images):
        image, *rest = images[len(records) :]
        finding = {"code": "none", "severity": "defect", "message": done.stderr[-500:]}
        report = {"status": DEFECT, "findings": [finding]}
        records.append({"filename": str(image), "format": "qcow2", "qfix": report})
        records += check(*rest) if rest else []
    return records


def check_in_parts(images: list[Path], parts: int) -> dict[Path, dict[str, Any]]:
    """Check many *images* in a few calls that run at the same time."""
    calls = [images[part::parts] for part in range(parts)]
    with ThreadPoolExecutor(parts) as pool:
        answers = pool.map(lambda call: check(*call), calls)
        return {
            image: record
            for call, records in zip(calls, answers, strict=True)
            for image, record in zip(call, records, strict=True)
        }


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Name each key in which qfix's record is not what qemu-img printed."""
    return [
        f"{key}: qemu-img {theirs.get(key, 0)}, qfix {ours.get(key, 'nothing')}"
        for key in QEMU_COUNTS
        if type(ours.get(key)) is not int or ours[key] != theirs.get(key, 0)
    ]
