"""The page that check prints around its findings: what was looked at, verdict, next steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from qfix.errors import Status
from qfix.problems import Severity, refcounts, tables
from qfix.problems import header as header_problems
from qfix.report.rows import list_command, repair_command
from qfix.report.summary import qemu_counts, space
from qfix.report.text import FEW, human, kind_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.examine import Diagnosis
    from qfix.image import Image
    from qfix.problems import Findings, Problem

LOST = (
    tables.LOST_L1.code,
    tables.LOST_L2.code,
    tables.LACKED_L2.code,
    tables.EMPTIED_L2.code,
)
KEPT_BACK = "Leaks that may be data were kept; what led to them was damaged."
MEANINGS = {
    Status.GOOD: "The image is good.",
    Status.LEAKS: "Some space is wasted; see above whether anything else was found.",
    Status.COPIED: "COPIED flags are wrong: with snapshots, a write could change them.",
    Status.CORRUPT_MARK: "No damage was found, but QEMU will not write to it: it is marked.",
    Status.REFCOUNTS: (
        "Do not start the machine: a write could destroy data. See if clusters are shared."
    ),
    Status.SNAPSHOTS: "The snapshot table is damaged. See above whether the active layer is.",
    Status.METADATA: "Metadata is damaged; each finding says what the guest loses, if anything.",
    Status.UNSUPPORTED: "The image could not be checked.",
    Status.IO_ERROR: "The host can't read parts of the file. Copy it to a good disk first.",
}


def looked_at(diagnosis: Diagnosis) -> Iterator[tuple[str, object]]:
    """Yield what a check has looked at, and what it counted."""
    image, made = diagnosis.image, diagnosis.recount
    if image is None or made is None:
        return
    from qfix.recount import Kind
    from qfix.recount.written import written_since_snapshot

    geometry, tally = image.geometry, made.tally
    size = geometry.cluster_size
    width = 1 << geometry.refcount_order
    yield (
        "format",
        f"qcow2 version {image.header.version}, {human(size)} clusters, {width}-bit refcounts",
    )
    yield "virtual size", f"{human(geometry.virtual_size)} ({geometry.virtual_size} bytes)"
    yield "file size", f"{human(geometry.file_size)} ({geometry.file_size} bytes)"
    tables = int(made.tables.offset.size)
    blocks = tally.clusters_of(Kind.REFCOUNT_BLOCK)
    looked = (
        f"{tally.size} host clusters, {tables} L2 tables, {blocks} refcount blocks,"
        f" {len(image.snapshots)} snapshots, {_bitmaps(image)} bitmaps"
    )
    yield "looked at", looked
    held = space(tally)
    since = written_since_snapshot(image, made)
    written = "" if since is None else f"; {since} written since the last snapshot"
    data = (
        f"{held.active_only} only of the active layer,"
        f" {held.shared} shared with snapshots,"
        f" {held.snapshots_only} only of snapshots{written}"
    )
    yield "data clusters", data
    other = (
        f"{held.metadata} metadata, {held.free} free or leaked inside the file"
        f" ({human(held.free * size)} to gain by defragmentation)"
    )
    yield "other clusters", other


def entry_lines(diagnosis: Diagnosis) -> Iterator[tuple[str, object]]:
    """Yield the entries of each kind of table by what they are."""
    if diagnosis.recount is None:
        return
    from qfix.recount import Kind

    tally = diagnosis.recount.tally
    held = ((kind, tally.clusters_of(kind)) for kind in Kind)
    kinds = ", ".join(f"{count} {kind.text.removeprefix('the ')}" for kind, count in held if count)
    yield "metadata clusters", kinds
    counts = tally.statistics
    named = (
        ("L1 active", counts.l1[0]),
        ("L1 inactive", counts.l1[1]),
        ("L2 active", counts.l2[0]),
        ("L2 inactive", counts.l2[1]),
        ("refcount table", counts.reftable),
    )
    for name, kind in named:
        cells = [f"{kind.used} used", f"{kind.unused} unused"]
        cells += [f"{kind.unaligned} unaligned", f"{kind.invalid} invalid"]
        if name.startswith("L2"):
            cells += [f"{kind.compressed} compressed", f"{kind.zero} zero"]
        yield name, ", ".join(cells)


def _bitmaps(image: Image) -> int:
    return len(image.directory.bitmaps) if image.directory else 0


def qemu_summary(diagnosis: Diagnosis, *, kept_back: bool = False) -> Iterator[str]:
    """Yield the sentences that qemu-img check closes with.

    *kept_back* says that a repair did not free leaks, for they may be somebody's data.
    """
    counts = qemu_counts(diagnosis)
    status = diagnosis.status
    if status is Status.GOOD:
        yield "No errors were found on the image."
    if counts["corruptions"]:
        yield f"{counts['corruptions']} errors were found on the image."
        yield "Data may be corrupted, or further writes to the image may corrupt it."
    if counts["leaks"]:
        yield f"{counts['leaks']} leaked clusters were found on the image."
        if kept_back:
            yield "A repair has kept them on purpose: they may be the guest's only copy."
        elif status is Status.LEAKS and diagnosis.find(tables.UNFILLED_L2) is None:
            yield "This means waste of disk space, but no harm to data."
    if counts["check-errors"] and diagnosis.recount:
        yield f"{counts['check-errors']} internal errors have occurred during the check."
    allocated, total = counts["allocated-clusters"], counts["total-clusters"]
    if allocated and total:
        yield (
            f"{allocated}/{total} = {100 * allocated / total:.2f}% allocated,"
            f" {100 * counts['fragmented-clusters'] / allocated:.2f}% fragmented,"
            f" {100 * counts['compressed-clusters'] / allocated:.2f}% compressed clusters"
        )
    if counts["image-end-offset"]:
        yield f"Image end offset: {counts['image-end-offset']}"


def overlaps(diagnosis: Diagnosis) -> bool:
    """Tell whether clusters have several owners: their refcounts are then not to be trusted."""
    kinds = (tables.REUSED, tables.DATA_ON_METADATA, tables.METADATA_ON_METADATA)
    return any(found.problem in kinds for found in diagnosis.findings)


def meaning(problem: Problem, diagnosis: Diagnosis) -> str:
    """Return what a finding means beside the others of the same image."""
    if problem not in (refcounts.LEAKED, refcounts.TOO_HIGH):
        return problem.meaning
    damage = [
        found.problem.code
        for found in diagnosis.findings
        if found.problem.status in (Status.METADATA, Status.SNAPSHOTS)
    ]
    lost = [code for code in damage if code in LOST]
    if lost:
        return f"Not waste: some or all of it is what a lost table led to, see {lost[0]}."
    if damage:
        return f"Perhaps not waste: what the damage led to may be among it, see {damage[0]}."
    return problem.meaning


def gravest_first(findings: list[Findings]) -> list[Findings]:
    """Return findings for people: errors, leaks, warnings, notes; tables before refcounts."""
    ranks = {Severity.ERROR: 0, Severity.LEAK: 1, Severity.WARNING: 2, Severity.NOTE: 3}
    passes = "HTSBDRC"
    return sorted(
        findings,
        key=lambda item: (
            ranks[item.problem.severity],
            passes.index(item.problem.code[0]),
            item.problem.code,
        ),
    )


def verdict(status: Status, *, kept_back: bool = False) -> str:
    """Return the line that says what the image is, and what that means."""
    color = "green" if status is Status.GOOD else "red"
    word = click.style(status.verdict, fg=color, bold=True)
    meaning = KEPT_BACK if kept_back and status is Status.LEAKS else MEANINGS.get(status, "")
    return f"Verdict: {word} (status {int(status)}). {meaning}".rstrip()


def closing_lines(
    diagnosis: Diagnosis, warning: str = "", *, kept_back: bool = False
) -> Iterator[str]:
    """Yield the sentences of qemu-img check, a warning if there is one, and the verdict."""
    yield from qemu_summary(diagnosis, kept_back=kept_back)
    if warning:
        yield warning
    yield verdict(diagnosis.status, kept_back=kept_back)


def left_over(diagnosis: Diagnosis, verbosity: int, *, planned: bool = False) -> Iterator[str]:
    """Yield what is found in an image after a change, or a *planned* one, few lines a kind."""
    if verbosity < 0 or not diagnosis.findings:
        return
    yield ""
    yield f"Found in the image as it {'would be' if planned else 'is now'}:"
    limit = None if verbosity > 1 else FEW
    for found in gravest_first(list(diagnosis.findings)):
        yield from kind_lines(found, diagnosis.image, limit)
    yield ""


def repair_level(diagnosis: Diagnosis) -> str:
    """Return the level of repair to begin with, empty where none would do anything."""
    levels = {found.problem.fix for found in diagnosis.findings if found.problem.fix}
    return next(iter(levels)) if levels in ({"leaks"}, {"errors"}) else "all" if levels else ""


def next_steps(path: str, diagnosis: Diagnosis) -> Iterator[str]:
    """Yield what to do next."""
    if not diagnosis.findings:
        return
    grave = [item for item in diagnosis.findings if item.problem.status is diagnosis.status]
    if overlaps(diagnosis):
        grave = [item for item in grave if item.problem.code[0] not in "RC"]
    for found in grave[:FEW] if diagnosis.status is not Status.GOOD else ():
        yield f"  {found.problem.code}: {found.problem.advice}"
    level = repair_level(diagnosis)
    if level:
        asked = repair_command(path, f"--fix {level}")
        yield f"  {asked} -n   shows what a repair would change; without -n it makes it"
    if diagnosis.find(header_problems.NOT_QCOW2) is None:
        yield f"  {list_command(path)}   lists everything with its place"
    codes = ", ".join(found.problem.code for found in diagnosis.findings[:FEW])
    yield f"  qfix --explain CODE   says more of one kind ({codes})"
