"""What a case of the corpus is: an image, and by hand what a look at it must say."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from build import Picture

ROW = re.compile(r"([A-Z]\d{3})@(\d+)(?:x(\d+))?")


@dataclass(frozen=True, slots=True)
class Case:
    """One tiny image, sound or with one thing wrong.

    `expect` is the status and the findings, ``code@first`` or ``code@firstxcount``; `at_least`
    says that the damage has a flood of consequences, of which these are the essential ones. `qemu`
    is what ``qemu-img check`` says: its exit status, then corruptions/leaks if it got that far;
    ``-`` where its answer does not matter or differs between machines. `length` makes the file
    longer by a hole.
    """

    name: str
    about: str
    make: Callable[[], Picture]
    pokes: dict[str, int] = field(default_factory=dict)
    expect: str = "0"
    qemu: str = "0 0/0"
    at_least: bool = False
    length: int | None = None

    def image(self) -> bytes:
        """Return the bytes of the image, without the hole at its end."""
        return bytes(self.make().poke(self.pokes).data)

    def expected(self) -> dict[str, Any]:
        """Return what ``expect.json`` holds."""
        status, *rows = self.expect.split()
        expected: dict[str, Any] = {"status": int(status)}
        if self.at_least:
            expected["at-least"] = True
        if self.length is not None:
            expected["length"] = self.length
        findings = [_finding(row) for row in rows]
        expected["findings"] = sorted(findings, key=lambda row: (row["code"], row["first"]))
        return expected


def _finding(text: str) -> dict[str, Any]:
    match = ROW.fullmatch(text)
    if match is None:
        raise ValueError(f"not a finding: {text}")
    code, first, count = match.groups()
    return {"code": code, "first": int(first), "count": int(count or 1)}
