"""Problem, one kind of thing that can be wrong, and Findings, its places held as columns."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from qfix.errors import Status

Column = Any
"""A list, or a one-dimensional numpy array; this module must not import numpy."""


class Severity(Enum):
    """How grave a problem is; notes and warnings leave the image good."""

    NOTE = "note"
    WARNING = "warning"
    LEAK = "leak"
    ERROR = "error"


class Safety(Enum):
    """What a repair costs: nothing, something that is listed, or it needs a person."""

    SAFE = "safe"
    LOSSY = "lossy"
    MANUAL = "manual"


class Problem(NamedTuple):
    """One row of the catalogue.

    `message` is a format string over the facts of a finding, `structure` the thing it is about;
    `fix` is the level of --fix that answers it, empty where none does.
    """

    code: str
    name: str
    structure: str
    severity: Severity
    safety: Safety
    status: Status
    message: str
    meaning: str
    advice: str
    fix: str = ""

    def at(self, first: Column, count: Column = None, **facts: Column) -> "Findings":
        """Return findings of this problem; scalars stand for columns of one row."""
        columns = {name: _column(values) for name, values in facts.items()}
        start = _column(first)
        return Findings(self, start, [1] * len(start) if count is None else _column(count), columns)


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """Findings of one problem, held as columns: a run of units a row.

    `facts` may hold, beside what the message names: `host` (byte offset in the file), `layer`
    (0 the active one, n snapshot n-1 of the table, -1 none), `guest` and `guest_length` (bytes),
    or `guests` (a list of (layer, start, length) a row). `dropped` counts rows not kept.
    """

    problem: Problem
    first: Column
    count: Column
    facts: Mapping[str, Column] = field(default_factory=dict)
    dropped: int = 0

    def __len__(self) -> int:
        """Return the number of rows kept."""
        return len(self.first)

    @property
    def units(self) -> int:
        """The number of clusters, entries or things that the rows stand for."""
        return int(sum(self.count) if isinstance(self.count, list) else self.count.sum())

    def keep(self, kept: Sequence[bool]) -> "Findings":
        """Return the rows for which *kept* is true, as plain lists."""
        columns = {"first": self.first, "count": self.count, **self.facts}
        chosen = {
            name: [value for value, keep in zip(_plain(column), kept, strict=True) if keep]
            for name, column in columns.items()
        }
        return Findings(self.problem, chosen.pop("first"), chosen.pop("count"), chosen)

    def rows(self, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """Yield up to *limit* findings as plain dictionaries, in order."""
        columns = {"first": self.first, "count": self.count, **self.facts}
        cells = [_plain(column[:limit]) for column in columns.values()]
        for row in zip(*cells, strict=True):
            yield dict(zip(columns, row, strict=True))


def _column(values: Column) -> Column:
    return [values] if isinstance(values, int | str | bytes) else values


def _plain(column: Column) -> Sequence[Any]:
    plain: Sequence[Any] = column.tolist() if hasattr(column, "tolist") else column
    return plain


def joined(findings: Sequence[Findings]) -> list[Findings]:
    """Return *findings* sorted by code, those of one problem as one."""
    parts: dict[str, list[Findings]] = {}
    for found in findings:
        if len(found):
            parts.setdefault(found.problem.code, []).append(found)
    return [_join(parts[code]) for code in sorted(parts)]


def _join(parts: list[Findings]) -> Findings:
    if len(parts) == 1:
        return parts[0]
    columns: dict[str, list[Any]] = {}
    for part in parts:
        for name, column in {"first": part.first, "count": part.count, **part.facts}.items():
            columns.setdefault(name, []).extend(_plain(column))
    dropped = sum(part.dropped for part in parts)
    return Findings(parts[0].problem, columns.pop("first"), columns.pop("count"), columns, dropped)


CATALOGUE: dict[str, Problem] = {}


def error(
    code: str,
    name: str,
    structure: str,
    status: Status,
    safety: Safety,
    *texts: str,
    fix: str = "",
) -> Problem:
    """Add a problem that makes the image's status *status*; texts: message, meaning, advice."""
    severity = Severity.LEAK if status is Status.LEAKS else Severity.ERROR
    message, meaning, advice = texts
    made = Problem(code, name, structure, severity, safety, status, message, meaning, advice, fix)
    CATALOGUE[code] = made
    return made


def remark(
    code: str,
    name: str,
    structure: str,
    severity: Severity,
    safety: Safety,
    *texts: str,
    fix: str = "",
) -> Problem:
    """Add a problem that leaves the image good; texts: message, meaning, advice."""
    message, meaning, advice = texts
    made = Problem(
        code, name, structure, severity, safety, Status.GOOD, message, meaning, advice, fix
    )
    CATALOGUE[code] = made
    return made
