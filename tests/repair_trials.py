"""One damaged copy by every way of repair: without --lossy, with it, and by qemu-img."""

from __future__ import annotations

import hashlib
import shutil
import signal
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import guest_view
import qemu_images
from mutant_run import HangError
from qemu_anatomy import Anatomy
from repair_judge import LOSSLESS, LOSSY, Trial, Verdict
from repair_measure import Measure, measure
from repair_run import ACTIVE, Sound, check_with_qemu, image_arguments, layer_views

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LEVELS = tuple(
    ("--fix", level, *lossy)
    for level in ("leaks", "errors", "reuse")
    for lossy in ((), ("--lossy",))
)
TIME_LIMIT_S = 60.0
QEMU_TIME_LIMIT_S = 25
LONGEST = 1 << 28
"""A repair that makes the file longer than this has gone astray."""


@dataclass(slots=True)
class Result:
    """The verdicts on one damaged copy; `after_lossless` goes on where `lossless` ended."""

    name: str
    group: str
    before: Measure | None = None
    lossless: Verdict = field(default_factory=Verdict)
    after_lossless: Verdict = field(default_factory=Verdict)
    lossy: Verdict | None = None
    levels: dict[str, Verdict] = field(default_factory=dict)
    qemu: Verdict | None = None

    def verdicts(self) -> Iterator[tuple[str, Verdict]]:
        """Yield the verdicts on qfix with the words for each way."""
        yield "--fix all", self.lossless
        yield "--fix all, then --lossy", self.after_lossless
        if self.lossy is not None:
            yield "--fix all --lossy", self.lossy
        yield from self.levels.items()


@dataclass(frozen=True)
class Case:
    """A damaged copy to be: its sound image, what damages it, its name and row of the table."""

    sound: Sound
    damage: Callable[[Anatomy, str], bytes]
    name: str
    group: str
    seed: str

    @cached_property
    def raw(self) -> bytes:
        """The damaged bytes."""
        return self.damage(Anatomy(self.sound.raw), self.seed)

    @property
    def path(self) -> Path:
        """Where copies are put: beside the sound image, where its other files are."""
        return self.sound.path.with_name(f"{self.name.replace('/', '_')}.qcow2")

    @contextmanager
    def copy(self, *, thorough: bool = False) -> Iterator[Trial]:
        """Write a copy, look at it, and remove it and its journal in the end."""
        self.path.write_bytes(self.raw)
        try:
            trial = Trial.of(self.sound, self.path)
            trial.thorough = thorough
            yield trial
        finally:
            for beside in self.path.parent.glob(self.path.name + "*"):
                beside.unlink()


def run_case(case: Case, *, direct: bool = True, with_qemu: bool = False) -> Result:
    """Repair copies of a case: continuing with --lossy, with it at once, and by qemu-img."""
    result = Result(case.name, case.group)
    start = hashlib.sha256(case.raw).hexdigest()
    with case.copy() as trial, _limit(result.lossless):
        result.before = measure(case.sound, case.raw)
        result.lossless = trial.repair(*LOSSLESS)
        if result.lossless.is_silent:
            result.after_lossless = trial.repair_again(result.lossless, *LOSSY)
        else:
            result.after_lossless = trial.repair(*LOSSY)
        finish(trial, result.after_lossless, start)
    if direct:
        result.lossy = Verdict()
        with case.copy(thorough=True) as trial, _limit(result.lossy):
            result.lossy = trial.repair(*LOSSY)
            finish(trial, result.lossy, start)
    if with_qemu:
        with case.copy() as trial:
            result.qemu = repair_with_qemu(trial)
    return result


def run_levels(case: Case) -> Result:
    """Repair copies of a case with each level alone."""
    result = Result(case.name, case.group)
    start = hashlib.sha256(case.raw).hexdigest()
    for words in LEVELS:
        verdict = Verdict()
        with case.copy(thorough=True) as trial, _limit(verdict):
            verdict = trial.repair(*words)
            verdict.complaints += trial.take_back(start)
        result.levels[" ".join(words)] = verdict
    return result


def finish(trial: Trial, verdict: Verdict, start: str) -> None:
    """Let a guest write to a copy of a clean image, and take the repair back."""
    if verdict.is_clean:
        verdict.complaints += write_to_it(trial)
    verdict.complaints += trial.take_back(start)


@contextmanager
def _limit(verdict: Verdict) -> Iterator[None]:
    """Complain instead of waiting for ever."""
    signal.signal(signal.SIGALRM, _on_alarm)
    signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT_S, 1)
    try:
        yield
    except HangError:
        verdict.complaints.append(f"over {TIME_LIMIT_S:g} s")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _on_alarm(_number: int, _frame: object) -> None:
    raise HangError


def repair_with_qemu(trial: Trial) -> Verdict:
    """Let ``qemu-img check -r all`` repair an image and judge it as qfix is judged."""
    verdict = Verdict()
    command = ["timeout", str(QEMU_TIME_LIMIT_S), "qemu-img", "check", "-q", "-r", "all"]
    recipe = trial.sound.recipe
    qemu_images.run([*command, *image_arguments(recipe, trial.path)], trial.path.parent)
    if trial.path.stat().st_size > LONGEST:
        verdict.is_worse = True
        verdict.complaints.append("it made the file grow beyond measure")
        return verdict
    after = trial.check()
    verdict.is_clean = after.status == 0 and not after.is_marked
    trial.judge(verdict, after)
    return verdict


def write_to_it(trial: Trial) -> Iterator[str]:
    """Write to a copy of a repaired image; nothing else may change, and it must stay clean."""
    sound, raw = trial.sound, trial.path.read_bytes()
    shape = guest_view.Shape.of(raw)
    last = shape.size // shape.cluster_size - 1
    if sound.data or last < 0:
        return
    places = sorted({0, last // 2, last})
    path = trial.path.with_name(trial.path.name + ".written")
    shutil.copyfile(trial.path, path)
    size = shape.cluster_size
    writes = [word for at in places for word in ("-c", f"write -P 171 {at * size} {size}")]
    try:
        words = ["qemu-io", *writes, *image_arguments(sound.recipe, path)]
        done = qemu_images.run(words, path.parent)
        check = check_with_qemu(sound.recipe, path)
        if done.returncode or "error" in done.stdout + done.stderr:
            yield f"QEMU can't write to it: {done.stderr[-300:] or done.stdout[-100:]}"
        elif check.status:
            yield f"after a guest has written, qemu-img gives {check.status}: {check.message[:200]}"
        else:
            yield from _spread(trial, raw, path.read_bytes(), places)
    finally:
        path.unlink()


def _spread(trial: Trial, before: bytes, after: bytes, written: list[int]) -> Iterator[str]:
    """Yield where guest clusters changed that were not written to."""
    shape = guest_view.Shape.of(before)
    views = [layer_views(raw, trial.sound.data, shape) for raw in (before, after)]
    for key, view in views[0].items():
        changed = guest_view.differing(view, views[1].get(key, {}))
        if key == ACTIVE:
            changed -= set(written)
        if changed:
            where = min(changed) * shape.cluster_size
            yield f"writing changed layer {key!r} at guest {where:#x} too"
