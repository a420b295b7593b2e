"""Options: what the command line asks for, as the modes read it."""

from __future__ import annotations

from typing import NamedTuple


class Options(NamedTuple):
    """One command line; names as in `qfix --help`."""

    mode: str = "check"
    only: str = "all"
    snapshot: str = "all"
    base: bool = False
    flags: bool = False
    lock: bool = False
    force_share: bool = False
    prealloc: bool = False
    header: bool = False
    output: str = "text"
    verbosity: int = 0
    exit_codes: str = "qfix"
    several: bool = False

    @property
    def json(self) -> bool:
        """Whether JSON was asked for."""
        return self.output == "json"
