"""The corpus: every case, and the command that writes the folders under ``images/``.

``python tests/corpus.py`` writes images/<case>/{image.qcow2,about,expect.json} anew, with an
expect.fixed.json where a repair leaves something, removes folders of cases that are gone, and asks
qemu-img, where it is installed, whether it agrees.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from corpus_bases import BESIDE, DATA_FILE
from corpus_bitmaps import BITMAP_CASES
from corpus_header import HEADER_CASES
from corpus_left import left
from corpus_names import NAME_CASES
from corpus_ok import OK_CASES
from corpus_refcounts import REFCOUNT_CASES
from corpus_shared import SHARED_CASES
from corpus_snapshots import SNAPSHOT_CASES
from corpus_tables import TABLE_CASES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from corpus_case import Case

TIMEOUT_S = 30
IMAGES = Path(__file__).resolve().parents[1] / "images"
CASES = (
    *HEADER_CASES,
    *NAME_CASES,
    *TABLE_CASES,
    *SHARED_CASES,
    *REFCOUNT_CASES,
    *SNAPSHOT_CASES,
    *BITMAP_CASES,
    *OK_CASES,
)
EXCEPT = {"H149": "a file that the host can't read can't be kept in a folder"}
"""Codes without a case, and why."""


def files(case: Case) -> dict[str, bytes]:
    """Return the files of a case's folder by name."""
    expected = case.expected()
    rows = ",\n".join("  " + json.dumps(row) for row in expected.pop("findings"))
    head = "".join(f' "{key}": {json.dumps(value)},\n' for key, value in expected.items())
    body = f' "findings": [\n{rows}\n ]\n' if rows else ' "findings": []\n'
    made = {
        "image.qcow2": case.image(),
        "about": f"{case.about}\n".encode(),
        "expect.json": f"{{\n{head}{body}}}\n".encode(),
    }
    after = left(case.name)
    if after is not None:
        made["expect.fixed.json"] = f"{json.dumps(after, indent=1)}\n".encode()
    return made


def write(folder: Path) -> None:
    """Write every case to a folder of its own in *folder*; remove what is no case."""
    for old in set(folder.iterdir()) - {folder / case.name for case in CASES}:
        shutil.rmtree(old)
    for case in CASES:
        (folder / case.name).mkdir(exist_ok=True)
        for stale in set(os.listdir(folder / case.name)) - set(files(case)):
            (folder / case.name / stale).unlink()
        for name, content in files(case).items():
            (folder / case.name / name).write_bytes(content)


def lay_out(case: Case, folder: Path) -> Path:
    """Write the image of a case to *folder*, with its hole and its neighbours; return its path."""
    path = folder / "image.qcow2"
    path.write_bytes(case.image())
    (folder / BESIDE.decode()).write_bytes(bytes(512))
    (folder / DATA_FILE.decode()).write_bytes(bytes(64 << 10))
    if case.length is not None:
        with path.open("r+b") as file:
            file.truncate(case.length)
    return path


def ask_qemu(path: Path) -> str:
    """Return what ``qemu-img check`` says, in the form of `Case.qemu`."""
    command = ("qemu-img", "check", "-f", "qcow2", "--output=json", path.name)
    try:
        done = subprocess.run(
            command, cwd=path.parent, capture_output=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return "no answer"
    if done.returncode in {0, 2, 3}:
        said = json.loads(done.stdout)
        return f"{done.returncode} {said.get('corruptions', 0)}/{said.get('leaks', 0)}"
    return str(done.returncode)


def disagreements() -> Iterator[str]:
    """Yield a line for every case of which qemu-img says something else than the table."""
    for case in CASES:
        if case.qemu == "-":
            continue
        with tempfile.TemporaryDirectory() as folder:
            said = ask_qemu(lay_out(case, Path(folder)))
        if said != case.qemu:
            yield f"{case.name}: qemu-img says {said}, the table {case.qemu}"


def main() -> int:
    """Write the folders; return 1 if qemu-img disagrees with the table."""
    IMAGES.mkdir(exist_ok=True)
    write(IMAGES)
    lines = list(disagreements()) if shutil.which("qemu-img") else []
    sys.stderr.writelines(f"{line}\n" for line in lines)
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
