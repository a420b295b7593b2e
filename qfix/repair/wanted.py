"""Wanted: which repairs a command line asks for."""

from typing import NamedTuple


class Wanted(NamedTuple):
    """The repairs that are asked for.

    `reuse` takes errors in, for a copy needs a refcount; so does lossy, for what is given up may
    leave refcounts too high, and flags wrong.
    """

    level: str
    lossy: bool = False

    @property
    def leaks(self) -> bool:
        """Whether leaked clusters are to be freed."""
        return self.level in ("leaks", "all")

    @property
    def errors(self) -> bool:
        """Whether refcounts and COPIED flags are to be put right."""
        return self.level in ("errors", "reuse", "all") or (self.lossy and self.level != "none")

    @property
    def reuse(self) -> bool:
        """Whether clusters with two users are to be copied."""
        return self.level in ("reuse", "all")

    @property
    def all(self) -> bool:
        """Whether every other lossless repair is asked for."""
        return self.level == "all"

    @property
    def words(self) -> str:
        """The options that ask for this."""
        return f"--fix {self.level}" + (" --lossy" if self.lossy else "")
