"""A damaged image is input, not an error: a short share of `mutate.py`, and any flipped bytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mutant_bases import tiny_image
from mutant_run import IMAGE_STATUSES, call, load_main

MUTANTS = 1000
SEED = 1
TINY = tiny_image()
FLIPS = st.lists(
    st.tuples(st.integers(0, len(TINY) - 1) | st.integers(0, 111), st.integers(0, 255)),
    min_size=1,
    max_size=16,
)


def test_mutants_do_no_harm(tmp_path: Path) -> None:
    script = Path(__file__).with_name("mutate.py")
    command = [sys.executable, script, "--count", MUTANTS, "--seed", SEED, "--keep", tmp_path]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"{MUTANTS} mutants, 0 failures")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of an image that each example writes anew."""
    return tmp_path_factory.mktemp("flips") / "image.qcow2"


@pytest.mark.parametrize("mode", ["check", "error", "info"])
@settings(max_examples=100, deadline=None)
@given(flips=FLIPS)
def test_any_flipped_bytes_give_a_documented_status(
    scratch: Path, mode: str, flips: list[tuple[int, int]]
) -> None:
    raw = bytearray(TINY)
    for offset, value in flips:
        raw[offset] = value
    scratch.write_bytes(raw)

    output = call(load_main(), "-m", mode, str(scratch))

    assert list(output.complaints()) == []
    assert output.status in IMAGE_STATUSES
    assert scratch.read_bytes() == raw


def test_the_tiny_image_is_sound(scratch: Path) -> None:
    scratch.write_bytes(TINY)

    assert call(load_main(), "-m", "check", str(scratch)).status == 0
