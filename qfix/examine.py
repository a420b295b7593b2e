"""examine: recount once, run the passes in order, and say what the image's status is."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from qfix.checks import bitmaps, extensions, header, snapshots
from qfix.errors import Status
from qfix.image import Head, Image, load, read_head
from qfix.problems import Findings, Problem
from qfix.problems import header as header_problems
from qfix.problems.model import joined

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qfix.file import Source
    from qfix.recount import Recount

STOPS = (
    header_problems.HEADER_CUT,
    header_problems.FEATURE_UNKNOWN,
    header_problems.TOO_MANY_CLUSTERS,
)


class Diagnosis(NamedTuple):
    """What an examination found; `recount` is None where the tables could not be looked at."""

    head: Head
    image: Image | None
    findings: tuple[Findings, ...]
    recount: Recount | None

    @property
    def status(self) -> Status:
        """The gravest status that a finding gives."""
        return gravest(found.problem.status for found in self.findings)

    def find(self, problem: Problem) -> Findings | None:
        """Return the findings of one problem."""
        return next((found for found in self.findings if found.problem is problem), None)


def gravest(statuses: Iterator[Status]) -> Status:
    """Return the one of *statuses* that is reported where several hold."""
    return max(statuses, key=lambda status: status.gravity, default=Status.GOOD)


def inspect(file: Source, *, backing: bool = True) -> Diagnosis:
    """Examine header, extensions, snapshot table and bitmap directory only; needs no numpy."""
    head = read_head(file)
    findings = list(header.head_is_readable(head))
    image = load(head)
    if image is None or any(found.problem in STOPS for found in findings):
        return Diagnosis(head, None, tuple(joined(findings)), None)
    for passes in (header, extensions, snapshots, bitmaps):
        for check in passes.CHECKS:
            findings += check(image)
    if backing:
        findings += extensions.backing_file_is_there(image)
    return Diagnosis(head, image, tuple(joined(findings)), None)


def can_be_counted(first: Diagnosis) -> bool:
    """Tell, after `inspect`, whether the tables can be looked at."""
    stops = any(found.problem in STOPS for found in first.findings)
    return first.image is not None and not stops


def examine(
    file: Source, *, backing: bool = True, tell: Callable[[float], None] | None = None
) -> Diagnosis:
    """Examine the whole image: all of `inspect`, then every table and refcount.

    *tell* is called now and then with the share of the work that is done, 0 to 1.
    """
    first = inspect(file, backing=backing)
    image = first.image
    if image is None or not can_be_counted(first):
        return first
    from qfix.checks import cut, data, lost, missing, overlaps
    from qfix.recount import recount
    from qfix.recount.sharing import told_of_all_layers

    made = recount(image, tell)
    findings = list(first.findings)
    for check in (
        *cut.CHECKS,
        overlaps.clusters_have_one_owner,
        lost.leaks_are_not_lost_tables,
        *missing.CHECKS,
        data.raw_data_is_mapped,
    ):
        findings += check(image, made)
    findings += told_of_all_layers(image, made.entries, made.tally.found)
    findings += header.tables_can_be_read(image)
    return Diagnosis(first.head, image, tuple(joined(findings)), made)
