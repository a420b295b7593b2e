"""Progress: on a terminal only, after a second, in the form that programs parse, and wiped."""

from __future__ import annotations

import io
import sys

import pytest

from qfix.report import progress as module


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Make standard error a terminal; not a fixture, for capturing sets it anew after those."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_shows_the_share_after_a_second_and_wipes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = terminal(monkeypatch)
    clock = iter([0.0, 0.5, 1.1, 1.2, 1.4])
    monkeypatch.setattr(module, "monotonic", lambda: next(clock))
    with module.progress() as tell:
        assert tell is not None
        for share in (0.05, 0.1234, 0.2, 1.0):
            tell(share)
    shown, wiped = "    (12.34/100%)\r", " " * module.WIDTH + "\r"
    assert stream.getvalue() == shown + "    (100.00/100%)\r" + wiped


def test_short_work_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = terminal(monkeypatch)
    with module.progress() as tell:
        assert tell is not None
        tell(0.5)
    assert stream.getvalue() == ""


def test_without_a_terminal_nothing_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with module.progress() as tell:
        assert tell is None


def test_is_wiped_when_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = terminal(monkeypatch)
    clock = iter([0.0, 2.0])
    monkeypatch.setattr(module, "monotonic", lambda: next(clock))
    with pytest.raises(KeyboardInterrupt), module.progress() as tell:  # noqa: PT012
        assert tell is not None
        tell(0.5)
        raise KeyboardInterrupt
    assert stream.getvalue().endswith("%)\r" + " " * module.WIDTH + "\r")
