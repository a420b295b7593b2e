"""Start-up counts: what a mode does not need is not imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"numpy", "sqlite3", "tabulate", "portalocker"}
SCRIPT = """
import sys
from qfix.cli import main
status = main(sys.argv[1:])
sys.stdout.flush()
print(status, *sorted(sys.modules), file=sys.stderr)
"""
BLOCKED = "import sys; sys.modules['numpy'] = None\n"
FRUGAL = (
    "ok-fresh",
    "ok-v2",
    "ok-v3",
    "ok-4k",
    "ok-compressed",
    "ok-extended",
    "ok-encrypted",
    "ok-width-1",
    "ok-width-64",
    "backing-control-characters",
    "corrupt-mark",
    "dirty",
    "l1-size-huge",
    "not-qcow2",
)
"""Sound and damaged images without a table of snapshots or bitmaps to print."""


def image(case: str) -> str:
    """Return the path of a case of the corpus."""
    return str(ROOT / "images" / case / "image.qcow2")


def started(*arguments: str, before: str = "") -> tuple[int, set[str], str]:
    """Run the program in a new interpreter: its status, the modules it had, what it printed."""
    command = [sys.executable, "-c", before + SCRIPT, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    status, *modules = done.stderr.splitlines()[-1].split()
    return int(status), set(modules), done.stdout


@pytest.mark.parametrize("case", FRUGAL)
def test_info_imports_little(case: str) -> None:
    status, modules, said = started("-m", "info", image(case))

    assert "click" in modules
    assert modules & (HEAVY | {"json"}) == set()
    assert status == (8 if case == "not-qcow2" else 0)
    assert image(case) in said


def test_info_of_bitmaps_imports_no_numpy() -> None:
    _, modules, _ = started("-m", "info", image("ok-bitmaps"))
    assert modules & (HEAVY - {"tabulate"}) == set()


def test_info_as_json_imports_no_numpy() -> None:
    _, modules, said = started("-m", "info", "--output", "json", image("ok-bitmaps"))

    assert modules & HEAVY == set()
    assert json.loads(said)["bitmaps"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("-h",),
        ("--version",),
        ("--explain", "R301"),
        ("-m", "info", image("ok-v3")),
        ("-m", "info", "-H", "-v", image("ok-bitmaps")),
        ("-m", "check", image("not-qcow2")),
    ],
    ids=" ".join,
)
def test_works_without_numpy(arguments: tuple[str, ...]) -> None:
    status, _, said = started(*arguments, before=BLOCKED)
    assert status == (8 if "not-qcow2" in arguments[-1] else 0)
    assert said


def test_check_needs_numpy() -> None:
    """So that the tests above would notice a numpy that is not blocked."""
    _, modules, _ = started("-m", "check", image("ok-v3"))
    assert "numpy" in modules
    status, _, _ = started("-m", "check", image("ok-v3"), before=BLOCKED)
    assert status == 70


def test_a_usage_error_imports_no_numpy() -> None:
    status, modules, _ = started("--no-such-option")
    assert status == 64
    assert modules & HEAVY == set()
