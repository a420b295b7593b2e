"""Repairs damaged copies of sound images and says what a repair must not have done.

A damaged copy is repaired twice alike, taken back and made again; qemu-img checks and reads the
result, and so does a reader that needs no openable image (`guest_view`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from guest_view import Shape
from qfix_command import QEMU_COUNTS
from repair_compare import Comparison, gone_snapshots
from repair_excuses import excuse
from repair_hits import Hits, Told, find_hits
from repair_measure import Measure, measure
from repair_run import Check, Disk, Run, Sound, check_with_qemu, digest, read_disk, run_qfix

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOSSLESS = ("--fix", "all")
LOSSY = ("--fix", "all", "--lossy")
STATUSES = {0, 1, 2, 3, 4, 5, 6, 8}
MOST_STEPS = 4
QUIET = {"note", "warning"}
MARKS = 3


@dataclass(slots=True)
class Verdict:
    """What became of one damaged copy by one way of repair.

    It is silent if not even a warning is left. `excuse` says why it can't be clean, `left` what is
    left of the damage. `given_up` counts guest clusters that no fault had hit and that read
    otherwise now, though it is said so.
    """

    complaints: list[str] = field(default_factory=list)
    is_clean: bool = False
    is_silent: bool = False
    excuse: str = ""
    left: str = ""
    keeps_data: bool = True
    given_up: int = 0
    snapshots_lost: int = 0
    is_worse: bool = False
    seconds: float = 0
    measure: Measure | None = None


@dataclass(slots=True)
class Trial:
    """A damaged copy of a sound image in the course of its repairs.

    `wiped` is how many clusters the damage has wiped already; with `thorough` a dry run goes before
    each repair; `known` is what QEMU said of each state of the file, by its digest and the layer.
    """

    sound: Sound
    path: Path
    damaged: bytes
    before: Check
    hits: Hits
    wiped: int
    told: Told = field(default_factory=Told)
    thorough: bool = False
    known: dict[tuple[str, bytes], Any] = field(default_factory=dict)

    @classmethod
    def of(cls, sound: Sound, path: Path) -> Trial:
        """Look at a damaged copy before anything is done to it."""
        before, damaged = check_with_qemu(sound.recipe, path), path.read_bytes()
        hits, wiped = find_hits(sound, damaged), measure(sound, damaged).wiped
        return cls(sound, path, damaged, before, hits, wiped, known={(digest(path), b""): before})

    def check(self) -> Check:
        """Let qemu-img check the file, if it has not seen it like this."""
        key = digest(self.path), b""
        if key not in self.known:
            self.known[key] = check_with_qemu(self.sound.recipe, self.path)
        found: Check = self.known[key]
        return found

    def disk(self, layer: bytes) -> Disk | None:
        """Return what qemu-img reads of a layer of the file."""
        key = digest(self.path), layer
        if key not in self.known:
            self.known[key] = read_disk(self.sound.recipe, self.path, layer)
        found: Disk | None = self.known[key]
        return found

    def repair(self, *arguments: str) -> Verdict:
        """Repair as *arguments* say, twice, and judge what came of it."""
        verdict = Verdict()
        before = self.path.read_bytes()
        run = self._run(verdict, arguments, before)
        if verdict.complaints:
            return verdict
        self.told.note(run, before)
        after = self.check()
        verdict.is_clean = not (run.status or after.status or after.is_marked)
        verdict.is_silent = verdict.is_clean and not run.loud({"note"})
        verdict.left = _left(run, after)
        if arguments == LOSSY and not verdict.is_clean:
            verdict.excuse = excuse(self.sound, self.damaged)
            if not verdict.excuse:
                verdict.complaints.append(f"not clean: {verdict.left}")
        verdict.complaints += _disagreements(run, after)
        self.judge(verdict, after)
        comparison = Comparison(self.sound, self.damaged, self.hits, self.told)
        verdict.complaints += comparison.unlisted(before, self.path.read_bytes())
        verdict.complaints += self._snapshot_losses(run)
        verdict.complaints += self._second_run(arguments, run)
        return verdict

    def repair_again(self, clean: Verdict, *arguments: str) -> Verdict:
        """Repair what is clean already: nothing may happen, whatever is asked for."""
        now = digest(self.path)
        run = run_qfix(self.path, *arguments)
        wrong = complaints(run)
        if run.change.get("applied") or digest(self.path) != now:
            wrong.append("a clean image was changed")
        return replace(clean, complaints=wrong)

    def _run(self, verdict: Verdict, arguments: tuple[str, ...], before: bytes) -> Run:
        """Run qfix, after a dry run if it is to be thorough; complain of the run by itself."""
        dry = run_qfix(self.path, "-n", *arguments) if self.thorough else None
        if dry is not None:
            verdict.complaints += complaints(dry)
            if dry.change.get("applied") or self.path.read_bytes() != before:
                verdict.complaints.append("a dry run wrote to the image")
        run = run_qfix(self.path, *arguments)
        verdict.seconds = run.seconds
        verdict.complaints += complaints(run)
        if dry is not None and (dry.status, dry.promise) != (run.status, run.promise):
            verdict.complaints.append(f"the dry run gave {dry.status}, the real one {run.status}")
        return run

    def judge(self, verdict: Verdict, after: Check) -> None:
        """Compare the image as it now is with what it was, whoever repaired it."""
        raw = self.path.read_bytes()
        comparison = Comparison(self.sound, self.damaged, self.hits, self.told)
        changed = comparison.layers(raw)
        unsaid = {key: comparison.unsaid(key, found) for key, found in changed.items()}
        size = self.sound.shape.cluster_size
        told = [
            f"layer {key!r} reads otherwise at guest {min(found) * size:#x}"
            for key, found in unsaid.items()
            if found
        ]
        for key in changed:
            told += comparison.disk(key, self.disk(key), Shape.of(raw).size)
        worse = [*self._worse(after)]
        verdict.is_worse, verdict.keeps_data = bool(worse), not told
        verdict.given_up = sum(map(len, changed.values())) - sum(map(len, unsaid.values()))
        verdict.snapshots_lost = len(gone_snapshots(self.sound, raw))
        verdict.measure = measure(self.sound, raw)
        verdict.complaints += worse + told
        if verdict.given_up:
            verdict.complaints.append(f"{verdict.given_up} guest clusters not hit are given up")
        if verdict.measure.wiped > self.wiped:
            verdict.complaints.append(f"{verdict.measure.wiped - self.wiped} clusters are wiped")

    def _worse(self, after: Check) -> Iterator[str]:
        """Yield in what qemu-img finds the image worse than before."""
        before = self.before
        if before.opens and not after.opens:
            yield f"qemu-img can't open it any more: {after.message[:300]}"
        elif before.counts is not None and after.counts is None:
            yield f"qemu-img can't check it any more: {after.message[:300]}"
        elif before.counts is not None:
            if any(new > old for new, old in zip(after.grave, before.grave, strict=True)):
                yield f"qemu-img finds {after.grave} errors after {before.grave}"
            if after.leaks > before.leaks and before.grave == (0, 0):
                yield f"qemu-img finds {after.leaks} leaks after {before.leaks}"

    def _snapshot_losses(self, run: Run) -> Iterator[str]:
        """Yield the snapshots that are gone without being listed, or without need."""
        dropped = self.told.dropped
        for each in gone_snapshots(self.sound, self.path.read_bytes()):
            hit = each.id_str in self.hits.snapshots
            if not hit and each.id_str not in dropped:
                yield f"snapshot {each.id_str!r} is no longer listed as it was"
            if each.id_str in dropped and not hit and not self.hits.clusters[each.id_str]:
                yield f"snapshot {each.id_str!r} was dropped, but nothing of it was hit"
        if dropped and "--lossy" not in run.arguments:
            yield "snapshots were dropped without --lossy"

    def _second_run(self, arguments: tuple[str, ...], first: Run) -> Iterator[str]:
        """Run the same once more: there must be nothing left for it to do."""
        now = digest(self.path)
        again = run_qfix(self.path, *arguments)
        yield from complaints(again)
        if again.change.get("applied") or digest(self.path) != now:
            texts = [change["message"] for change in again.change.get("changes", ())[:3]]
            yield f"a second run changes something: {texts}"
        elif again.status != first.status:
            yield f"a second run gives {again.status} after {first.status}"

    def take_back(self, damaged: str) -> Iterator[str]:
        """Undo until nothing is left, then make all of it again; both must be byte for byte."""
        repaired = digest(self.path)
        steps = self._steps("--undo")
        if digest(self.path) != damaged:
            yield f"{steps} undone, but the file is not what it was"
        if self._steps("--redo") != steps or digest(self.path) != repaired:
            yield "made again, the file is not what the repair had left"

    def _steps(self, option: str) -> int:
        for count in range(MOST_STEPS):
            if run_qfix(self.path, option).status not in STATUSES:
                return count
        return MOST_STEPS


def complaints(run: Run) -> list[str]:
    """Say what is wrong with a run by itself, whatever the image was."""
    name = " ".join(run.arguments)
    wrong = [f"{name}: {complaint}" for complaint in run.output.complaints()]
    if not wrong and not run.change:
        wrong.append(f"{name}: status {run.status}, no change in JSON: {run.output.stderr[:300]}")
    return wrong


def _left(run: Run, after: Check) -> str:
    """Say what is left, in the words of both programs."""
    codes = sorted(run.loud(QUIET))
    why = [left["why"] for left in run.change["left"]]
    return f"{codes} {why} {after.message[:300]}"


def _disagreements(run: Run, theirs: Check) -> Iterator[str]:
    """Yield where qfix's record after a repair is not what qemu-img counts, or explains nothing."""
    report = run.record["qfix"]
    if theirs.counts is not None:
        for key in QEMU_COUNTS:
            ours, counted = run.record[key], theirs.counts.get(key, 0)
            if not key.endswith("-fixed") and ours != counted:
                yield f"{key}: qemu-img {counted}, qfix {ours}"
    if report["status"] and not run.loud(QUIET) and report["status"] != MARKS:
        yield f"status {report['status']} without a finding"
    if report["status"] == 0 and theirs.counts is not None and theirs.status:
        yield f"good for qfix, but qemu-img gives {theirs.status}: {theirs.message[:200]}"
