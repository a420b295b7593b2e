"""Options: what the command line asks for, as the modes read it."""

from __future__ import annotations

from typing import NamedTuple

LEVELS = ("none", "leaks", "errors", "reuse", "all")
ALIASES = {"leak": "leaks", "error": "errors", "check": "none"}
"""Levels of repair, and the words that qcow2-dump has for some of them."""


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
    fix: str = "none"
    lossy: bool = False
    apply: str | None = None
    delete: str | None = None
    exclude: str | None = None
    drop_bitmap: tuple[str, ...] = ()
    mark: str | None = None
    clean: str | None = None
    dry_run: bool = False
    journal: str | None = None
    history: str = ""
    yes: bool = False
    force: bool = False
    offset: int | None = None
    value: int | None = None
    width: int | None = None
    expect: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    add_extension: tuple[str, ...] = ()
    remove_extension: tuple[str, ...] = ()
    set_feature: tuple[str, ...] = ()
    clear_feature: tuple[str, ...] = ()
    new_backing: str | None = None
    no_backing: bool = False
    source: int | None = None
    file: str | None = None
    no_undo: bool = False
    metadata: str | None = None
    anonymize: bool = False
    restore_metadata: str | None = None

    @property
    def json(self) -> bool:
        """Whether JSON was asked for."""
        return self.output == "json"
