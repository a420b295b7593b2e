"""The damaged copies that repairs are tried on: every single fault, and every combined kind."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import qemu_faults
import qemu_images
from qemu_anatomy import Anatomy
from repair_combined import KINDS, RECIPES
from repair_run import Sound
from repair_trials import Case

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from qemu_images import Recipe

BUILDERS = 3
SLOW = ("luks",)
"""Small images that take long to make: the suite does without them."""
GROUPS = {
    "length": "file cut short or grown",
    "l1": "L1 entries",
    "l1-free": "L1 entries",
    "l2": "L2 entries",
    "l2-any": "L2 entries",
    "compressed": "L2 entries",
    "subclusters": "L2 entries",
    "snapshot-l1": "L1 and L2 entries of snapshots",
    "snapshot-l2": "L1 and L2 entries of snapshots",
    "reftable": "refcount table",
    "reftable-free": "refcount table",
    "refcount": "refcounts",
    "refcount-free": "refcounts",
    "refcount_table_offset": "refcount table",
    "refcount_table_clusters": "refcount table",
    "refcount_order": "refcount table",
    "nb_snapshots": "snapshot table",
    "snapshots_offset": "snapshot table",
    "l1_size": "header: L1 table, disk size",
    "l1_table_offset": "header: L1 table, disk size",
    "size": "header: L1 table, disk size",
}


def group_of(faults: tuple[str, ...]) -> str:
    """Return the row of the table that faults belong to."""
    if len(faults) > 1:
        return "two faults at once"
    place = faults[0].partition("=")[0]
    if place in GROUPS:
        return GROUPS[place]
    if place.startswith("snapshot-"):
        return "snapshot table"
    if place.startswith(("bitmap", "extension")):
        return "bitmaps, header extensions"
    return "header: other fields"


def build_all(recipes: Iterable[Recipe], folder: Path) -> dict[str, Sound]:
    """Make sound images, a few at a time, the slow ones first."""
    slowest_first = sorted(recipes, key=lambda recipe: not recipe.encrypted)
    with ThreadPoolExecutor(BUILDERS) as pool:
        made = pool.map(lambda recipe: Sound.build(recipe, folder / recipe.name), slowest_first)
        return {sound.name: sound for sound in made}


def build_small(folder: Path) -> dict[str, Sound]:
    """Make the small sound images that the suite damages."""
    return build_all((recipe for name, recipe in RECIPES.items() if name not in SLOW), folder)


def build_large(folder: Path) -> dict[str, Sound]:
    """Make the images of the check suite."""
    return build_all(qemu_images.RECIPES.values(), folder)


def each_fault_once(sounds: dict[str, Sound]) -> Iterator[Case]:
    """Yield a case for every single fault, on an image that has a place for it."""
    fitting: dict[str, list[str]] = {fault: [] for fault in qemu_faults.FAULTS}
    for name, sound in sounds.items():
        for fault in qemu_faults.applicable(Anatomy(sound.raw)):
            fitting[fault].append(name)
    for fault, names in fitting.items():
        if names:
            name = random.Random(fault).choice(names)  # noqa: S311 - the same each time
            yield fault_case(sounds[name], (fault,), f"{name}~{fault}")


def each_kind_once(sounds: dict[str, Sound]) -> Iterator[Case]:
    """Yield a case for every kind of combined damage."""
    for name, kind in KINDS.items():
        base = random.Random(name).choice([each for each in kind.bases if each in sounds])  # noqa: S311
        yield Case(sounds[base], kind.damage, f"{base}~{name}", kind.group, name)


def each_kind_on_all(sounds: dict[str, Sound], seeds: int) -> Iterator[Case]:
    """Yield cases for every kind of combined damage on every image that it is for."""
    for kind in KINDS.values():
        for base in kind.bases:
            for seed in range(seeds):
                name = f"{base}~{kind.name}~{seed}"
                yield Case(sounds[base], kind.damage, name, kind.group, name)


def each_fault_on_all(sounds: dict[str, Sound]) -> Iterator[Case]:
    """Yield cases for every single fault on every image that has a place for it."""
    for name, sound in sounds.items():
        for fault in qemu_faults.applicable(Anatomy(sound.raw)):
            yield fault_case(sound, (fault,), f"{name}~{fault}")


def assigned_faults(sounds: dict[str, Sound]) -> Iterator[Case]:
    """Yield the damaged copies that the check suite looks at."""
    choices = {
        name: qemu_faults.applicable(Anatomy(sounds[name].raw)) for name in qemu_images.RECIPES
    }
    for name, faults in qemu_faults.assign(choices):
        yield fault_case(sounds[name.partition("~")[0]], faults, name)


def fault_case(sound: Sound, faults: tuple[str, ...], name: str) -> Case:
    """Return the case of single faults put into an image."""

    def damage(image: Anatomy, seed: str) -> bytes:
        return qemu_faults.damage(image, faults, seed)

    return Case(sound, damage, name, group_of(faults), name)
