"""Fixtures shared by all tests."""

from __future__ import annotations

import pytest

import qemu


@pytest.fixture
def need_qemu() -> None:
    """Skip (or, where it is required, fail) a test that needs the real qemu-img."""
    qemu.require()
