"""Lines of a dump: columns to text or to JSON, a block of lines in one formatting operation."""

from __future__ import annotations

import json
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from qfix.examine import Diagnosis
    from qfix.image import Image
    from qfix.recount import Recount

BLOCK = 4096
NAME = 30
"""Width of the first column: what a line is about, by the name that an edit takes."""


class Wanted(NamedTuple):
    """What is dumped, and how: of which layers (None: all), as JSON, with flags spelled out.

    A quiet dump has no headings; `named` says that the layers were asked for.
    """

    diagnosis: Diagnosis
    layers: set[int] | None = None
    kinds: tuple[str, ...] = ()
    json: bool = False
    flags: bool = False
    verbose: bool = False
    quiet: bool = False
    named: bool = False

    @property
    def image(self) -> Image:
        """The image; only where its tables can be read."""
        assert self.diagnosis.image is not None  # noqa: S101  (the mode has looked)
        return self.diagnosis.image

    @property
    def made(self) -> Recount:
        """The recount; only where the tables can be read."""
        assert self.diagnosis.recount is not None  # noqa: S101  (the mode has looked)
        return self.diagnosis.recount

    def chosen(self, count: int) -> list[int]:
        """Return the layers that are dumped, of *count* layers, in order."""
        return [layer for layer in range(count) if self.layers is None or layer in self.layers]


class Form(NamedTuple):
    """How the lines of a section look: % templates of the same columns, for text and for JSON."""

    text: str
    json: str

    @classmethod
    def of(cls, section: str, text: str, keys: Sequence[tuple[str, str]]) -> Form:
        """Return the form with JSON keys, each with its % conversion: %d, %s (ready JSON), "%s"."""
        pairs = ", ".join(f'"{key}": {conversion}' for key, conversion in keys)
        return cls(text + "\n", f'{{"section": "{section}", {pairs}}}\n')


def filled(template: str, columns: Sequence[Sequence[Any]]) -> str:
    """Return a template filled once for each row of *columns*."""
    count = len(columns[0])
    return (template * count) % tuple(chain.from_iterable(zip(*columns, strict=True)))


def heading(wanted: Wanted, section: str, what: str, columns: str = "") -> Iterator[str]:
    """Yield the lines that begin a section, of text only."""
    if not wanted.json and not wanted.quiet:
        yield f"\n# {section}: {what}\n"
        if columns:
            yield f"# {columns}\n"


def remark(wanted: Wanted, text: str) -> Iterator[str]:
    """Yield a remark between the lines, of text only."""
    if not wanted.json and not wanted.quiet:
        yield f"# {text}\n"


def objects(wanted: Wanted, rows: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[str]:
    """Yield the lines of a short section: of each row its text, or its JSON object."""
    listed = iter(rows)
    while block := list(islice(listed, BLOCK)):
        if wanted.json:
            yield "".join(json.dumps(row) + "\n" for _, row in block)
        else:
            yield "".join(line + "\n" for line, _ in block)
