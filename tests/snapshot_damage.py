"""Damage that snapshot operations have to get past, and what qfix and qemu-img make of it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import guest_view
import qemu
import qemu_anatomy
import qemu_images
from command import qfix
from guest_view import Shape
from qemu_anatomy import OFFSET_MASK, Anatomy, Site
from repair_hits import find_hits
from repair_run import ACTIVE, layer_views
from repair_steps import STEPS, fill, put_fault
from snapshot_cases import operate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mutant_run import Output
    from repair_run import Sound

    Step = Callable[[bytearray, Anatomy, random.Random], None]

TARGET, OTHER = 0, 1
"""The snapshot that is reverted to, deleted or kept, and the one that stands beside it."""
QEMU_TIME_LIMIT_S = "20"
CHECKED = ("corruptions", "leaks", "check-errors")


def _snapshot_l1(image: Anatomy, number: int) -> list[Site]:
    start = image.snapshots[number]
    offset, size = Site(start, 8).read(image.raw), Site(start + 8, 4).read(image.raw)
    return image.entries(offset, size)


def _own_l2(image: Anatomy, l1: list[Site], others: list[list[Site]]) -> list[int]:
    """Return the L2 tables that an L1 table leads to and others do not."""
    shared = {site.read(image.raw) & OFFSET_MASK for other in others for site in other}
    tables = {site.read(image.raw) & OFFSET_MASK for site in l1} - {0}
    return sorted(tables - shared)


def _active_own(image: Anatomy) -> list[int]:
    others = [_snapshot_l1(image, at) for at in (TARGET, OTHER)]
    return _own_l2(image, qemu_anatomy.active_l1(image), others)


def _other_own(image: Anatomy) -> list[int]:
    others = [qemu_anatomy.active_l1(image), _snapshot_l1(image, TARGET)]
    return _own_l2(image, _snapshot_l1(image, OTHER), others)


def noise_l1(raw: bytearray, image: Anatomy, dice: random.Random) -> None:
    """Write noise over the active L1 table."""
    fill(raw, image.l1_offset, dice.randbytes(8 * image.l1_size))


def wipe_active_l2(raw: bytearray, image: Anatomy, _dice: random.Random) -> None:
    """Wipe the L2 tables that only the active layer has."""
    for offset in _active_own(image):
        fill(raw, offset, bytes(image.cluster_size))


def noise_active_l2(raw: bytearray, image: Anatomy, dice: random.Random) -> None:
    """Write noise over the L2 tables that only the active layer has."""
    for offset in _active_own(image):
        fill(raw, offset, dice.randbytes(min(image.cluster_size, 1024)))


def text_on_active_l2(raw: bytearray, image: Anatomy, _dice: random.Random) -> None:
    """Let text stand where the active layer's first L2 table was."""
    fill(raw, _active_own(image)[0], b"Nothing is where it was. " * (image.cluster_size // 25))


def wipe_other_l1(raw: bytearray, image: Anatomy, _dice: random.Random) -> None:
    """Wipe the L1 table of the other snapshot."""
    sites = _snapshot_l1(image, OTHER)
    fill(raw, sites[0].offset, bytes(8 * len(sites)))


def noise_other_l1(raw: bytearray, image: Anatomy, dice: random.Random) -> None:
    """Write noise over the L1 table of the other snapshot."""
    sites = _snapshot_l1(image, OTHER)
    fill(raw, sites[0].offset, dice.randbytes(8 * len(sites)))


def wipe_other_l2(raw: bytearray, image: Anatomy, _dice: random.Random) -> None:
    """Wipe the L2 tables that only the other snapshot has."""
    for offset in _other_own(image):
        fill(raw, offset, bytes(image.cluster_size))


def noise_other_l2(raw: bytearray, image: Anatomy, dice: random.Random) -> None:
    """Write noise over the L2 tables that only the other snapshot has."""
    for offset in _other_own(image):
        fill(raw, offset, dice.randbytes(min(image.cluster_size, 1024)))


def _other_entry(at: int, size: int, value: Callable[[Anatomy], int]) -> Step:
    def step(raw: bytearray, image: Anatomy, _dice: random.Random) -> None:
        Site(image.snapshots[OTHER] + at, size).write(raw, value(image))

    return step


def leak(raw: bytearray, image: Anatomy, _dice: random.Random) -> None:
    """Let every refcount that is not 0 be one too high."""
    for site in image.used(image.refcounts):
        site.write(raw, min(site.top, site.read(raw) + 1))


OWN: dict[str, Step] = {
    **{
        step.__name__: step
        for step in (
            *(noise_l1, wipe_active_l2, noise_active_l2, text_on_active_l2, wipe_other_l1),
            *(noise_other_l1, wipe_other_l2, noise_other_l2, leak),
        )
    },
    "other_l1_beyond": _other_entry(0, 8, lambda image: image.end + 16 * image.cluster_size),
    "other_l1_unaligned": _other_entry(0, 8, lambda image: image.l1_offset + 0x108),
    "other_l1_too_long": _other_entry(8, 4, lambda _: 0x400001),
    "other_id_long": _other_entry(12, 2, lambda _: 0xFFFF),
    "other_extra_long": _other_entry(36, 4, lambda _: 0x7FFFFFFF),
}


class Kind(NamedTuple):
    """One kind of damage: its steps, what is done then, and the repair asked for beside it."""

    steps: str
    letters: str = "ADE"
    options: tuple[str, ...] = ()


FIX, LOSSY = ("--fix", "all"), ("--fix", "all", "--lossy")
KINDS: dict[str, Kind] = {
    "active-l1-wiped": Kind("zero_l1"),
    "active-l1-noise": Kind("noise_l1"),
    "active-l1-entry-unaligned": Kind("l1=unaligned"),
    "active-l1-entry-beyond": Kind("l1=beyond"),
    "active-l1-entry-far": Kind("l1=far"),
    "active-l1-entry-reserved-bits": Kind("l1=low-bits l1=high-bits"),
    "active-l1-entry-to-reftable": Kind("l1=to-reftable"),
    "active-l1-double": Kind("double_l1"),
    "active-l1-pointer-unaligned": Kind("l1_table_offset=unaligned"),
    "active-l1-pointer-beyond": Kind("l1_table_offset=beyond"),
    "active-l1-pointer-huge": Kind("l1_table_offset=huge"),
    "active-l1-pointer-zero": Kind("l1_table_offset=zero", "AE"),
    "active-l1-size-zero": Kind("l1_size=0x0"),
    "active-l1-size-huge": Kind("l1_size=0x400001"),
    "active-l2-wiped": Kind("wipe_active_l2"),
    "active-l2-noise": Kind("noise_active_l2"),
    "active-l2-text": Kind("text_on_active_l2"),
    "active-l2-entry-unaligned": Kind("l2=unaligned"),
    "active-l2-entry-beyond": Kind("l2=beyond"),
    "active-l2-entry-on-metadata": Kind("l2_on_metadata"),
    "active-l2-crossed": Kind("crossed_l2"),
    "disk-size-nonsense": Kind("size=0x8000000000000000"),
    "other-l1-wiped": Kind("wipe_other_l1"),
    "other-l1-noise": Kind("noise_other_l1"),
    "other-l2-wiped": Kind("wipe_other_l2"),
    "other-l2-noise": Kind("noise_other_l2"),
    "other-l1-beyond": Kind("other_l1_beyond"),
    "other-l1-unaligned": Kind("other_l1_unaligned"),
    "other-l1-too-long": Kind("other_l1_too_long"),
    "other-id-too-long": Kind("other_id_long", "AE", LOSSY),
    "other-extra-too-long": Kind("other_extra_long", "AE", FIX),
    "snapshot-count-too-large": Kind("nb_snapshots=+2", options=LOSSY),
    "refblock-wiped": Kind("zero_block"),
    "refblock-noise": Kind("random_block"),
    "refblock-unaligned": Kind("reftable=unaligned"),
    "refblock-beyond": Kind("reftable=beyond"),
    "reftable-wiped": Kind("zero_reftable"),
    "reftable-noise": Kind("random_reftable"),
    "reftable-beyond": Kind("refcount_table_offset=beyond"),
    "reftable-empty": Kind("refcount_table_clusters=0x0"),
    "refcounts-stale": Kind("stale_refcounts"),
    "refcounts-low": Kind("low_refcounts"),
    "refcounts-shifted": Kind("shifted_refcounts"),
    "copied-all-clear": Kind("clear_copied"),
    "copied-all-set": Kind("set_copied"),
    "leaks": Kind("leak"),
    "corrupt-mark": Kind("incompatible=0x2"),
    "corrupt-mark-and-l1-wiped": Kind("incompatible=0x2 zero_l1"),
    "corrupt-mark-and-refcounts": Kind("incompatible=0x2 low_refcounts"),
    "dirty-mark-and-refcounts": Kind("incompatible=0x1 stale_refcounts"),
    "everything-at-once": Kind("incompatible=0x2 noise_l1 noise_other_l2 zero_block"),
}


class Verdict(NamedTuple):
    """What an operation came to: its status, what is wrong, and what qemu-img check counts then."""

    status: int | None
    wrong: list[str]
    findings: int
    said: str


@dataclass(frozen=True)
class Trial:
    """One kind of damage put into one sound image, for one operation."""

    sound: Sound
    name: str
    letter: str

    @property
    def kind(self) -> Kind:
        """What is done."""
        return KINDS[self.name]

    @cached_property
    def raw(self) -> bytes:
        """The damaged bytes."""
        image, dice = Anatomy(self.sound.raw), random.Random(self.name)  # noqa: S311
        raw = bytearray(image.raw)
        for step in self.kind.steps.split():
            known = OWN.get(step) or STEPS.get(step)
            if known:
                known(raw, image, dice)
            else:
                put_fault(step, raw, image, dice)
        return bytes(raw)

    @cached_property
    def unhit(self) -> set[bytes]:
        """The layers that the damage has not touched: the active one, and snapshots by id."""
        hits = find_hits(self.sound, self.raw)
        return {key for key, clusters in hits.clusters.items() if not clusters} - hits.snapshots

    @cached_property
    def ids(self) -> list[bytes]:
        """The ids of the sound image's snapshots."""
        return [item.id_str for item in self.sound.snapshots]

    def kept(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield layers that must be there afterwards, and what each was before."""
        target = self.ids[TARGET]
        if self.letter == "A":
            yield ACTIVE, target
        elif self.raw[36:48] == self.sound.raw[36:48]:
            yield ACTIVE, ACTIVE
        for key in self.ids:
            if self.letter == "A" or (key == target) == (self.letter == "E"):
                yield key, key

    def judge(self, path: Path, status: int | None, said: str) -> Verdict:
        """Compare what layers read with what they read before; check with qemu-img."""
        raw = path.read_bytes()
        views = layer_views(raw, b"", Shape.of(raw))
        wrong = []
        for key, before in self.kept():
            if before not in self.unhit:
                continue
            view = views.get(key)
            if view is None:
                wrong.append(f"{key!r} is not there any more")
            elif guest_view.differing(self.sound.layers[before].view, view):
                wrong.append(f"{key!r} reads differently from {before!r}")
        code, counts = qemu.check(path)
        found = sum(counts.get(each, 0) for each in CHECKED) if counts else 1 << 30
        return Verdict(status, wrong, found if code or found else 0, said)

    def by_qfix(self, path: Path) -> Verdict:
        """Let qfix do it, and take it back; it is done when this returns."""
        path.write_bytes(self.raw)
        done = operate(self.letter, f"snapshot[{TARGET}]", path, *self.kind.options)
        verdict = self.judge(path, done.status, done.stderr)
        verdict.wrong.extend(self._complaints(done, path))
        return verdict

    def _complaints(self, done: Output, path: Path) -> Iterator[str]:
        if done.status is None or done.status >= 64:
            yield f"status {done.status}"
            return
        back = qfix("--undo", path)
        if back.status is None or back.status >= 64 or path.read_bytes() != self.raw:
            yield f"it can't be taken back: {back.stderr}"

    def by_qemu(self, path: Path) -> Verdict:
        """Let qemu-img do it."""
        path.write_bytes(self.raw)
        names = [item.name.decode() for item in self.sound.snapshots]
        words = {"A": ["-a", names[TARGET]], "D": ["-d", names[TARGET]], "E": ["-d", names[OTHER]]}
        command = ["timeout", QEMU_TIME_LIMIT_S, "qemu-img", "snapshot", *words[self.letter]]
        done = qemu_images.run([*command, str(path)], path.parent)
        return self.judge(path, done.returncode, done.stderr)
