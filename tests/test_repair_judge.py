"""What judges the repairs sees damage that a bad repair would do."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

import guest_view
import qemu
from guest_view import Shape
from qemu_anatomy import Anatomy, active_l1
from qemu_faults import damage
from repair_combined import KINDS, RECIPES
from repair_compare import gone_snapshots
from repair_excuses import excuse
from repair_judge import Trial, Verdict
from repair_run import ACTIVE, Sound, layer_views
from repair_steps import STEPS
from repair_trials import Case, repair_with_qemu, write_to_it

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.usefixtures("need_qemu")

COPIED = 1 << 63
SOUND = ("snapshots", "extended", "zlib", "zstd-snap", "backed-snap", "data-file", "v2", "bitmaps")


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sound]:
    """Make a few sound images."""
    qemu.require()
    folder = tmp_path_factory.mktemp("judge")
    return {name: Sound.build(RECIPES[name], folder / name) for name in SOUND}


@pytest.fixture
def trial(sounds: dict[str, Sound]) -> Iterator[Trial]:
    """A trial of a copy that nothing is wrong with."""
    with Case(sounds["snapshots"], lambda image, _: image.raw, "copy", "", "").copy() as trial:
        yield trial


def judged(trial: Trial, change: Callable[[bytearray, Anatomy], None]) -> list[str]:
    """Return what the judge says of an image that a repair left like this."""
    raw = bytearray(trial.sound.raw)
    change(raw, Anatomy(trial.sound.raw))
    trial.path.write_bytes(raw)
    verdict = Verdict()
    trial.judge(verdict, trial.check())
    gone = [f"{each.id_str!r} gone" for each in gone_snapshots(trial.sound, bytes(raw))]
    return verdict.complaints + gone


def test_nothing_is_wrong_with_a_sound_image(trial: Trial) -> None:
    assert judged(trial, lambda _raw, _image: None) == []


def test_changed_data_is_seen(trial: Trial) -> None:
    def spoil(raw: bytearray, image: Anatomy) -> None:
        table = image.l2_below(active_l1(image))
        at = next(site.read(image.raw) & ~COPIED & ~511 for site in table if site.read(image.raw))
        raw[at] ^= 1

    assert any("reads otherwise" in text for text in judged(trial, spoil))
    assert any("qemu-img reads layer" in text for text in judged(trial, spoil))


def test_a_forgotten_entry_is_seen(trial: Trial) -> None:
    def spoil(raw: bytearray, image: Anatomy) -> None:
        image.used(image.l2_below(active_l1(image)))[3].write(raw, 0)

    assert any("reads otherwise" in text for text in judged(trial, spoil))


def test_forgotten_snapshots_are_seen(trial: Trial) -> None:
    def spoil(raw: bytearray, _image: Anatomy) -> None:
        raw[60:72] = bytes(12)

    assert judged(trial, spoil)[-2:] == ["b'1' gone", "b'2' gone"]


def test_new_errors_and_a_closed_image_are_seen(trial: Trial) -> None:
    def spoil(raw: bytearray, image: Anatomy) -> None:
        image.refcounts[5].write(raw, 0)

    def close(raw: bytearray, _image: Anatomy) -> None:
        raw[72] = 0x80

    assert any("errors after" in text for text in judged(trial, spoil))
    assert any("open it any more" in text for text in judged(trial, close))


def test_shared_clusters_are_seen_by_writing(trial: Trial) -> None:
    def share(raw: bytearray, image: Anatomy) -> None:
        sites = image.used(image.l2_below(active_l1(image)))
        sites[1].write(raw, sites[0].read(raw))

    judged(trial, share)
    assert list(write_to_it(trial))


def test_what_qemu_repairs_is_judged_alike(sounds: dict[str, Sound]) -> None:
    def lose(image: Anatomy, _seed: str) -> bytes:
        raw = bytearray(image.raw)
        raw[88:96] = (0x20).to_bytes(8)
        STEPS["set_copied"](raw, image, random.Random(1))  # noqa: S311
        return bytes(raw)

    with Case(sounds["snapshots"], lose, "by-qemu", "", "").copy() as trial:
        verdict = repair_with_qemu(trial)
    assert verdict.snapshots_lost == 2


@pytest.mark.parametrize("name", SOUND)
def test_the_forgiving_reader_reads_what_qemu_reads(name: str, sounds: dict[str, Sound]) -> None:
    sound = sounds[name]
    size = sound.shape.cluster_size
    for key, layer in sound.layers.items():
        assert layer.disk is not None
        for cluster, content in layer.view.items():
            if isinstance(content, tuple) or content.startswith(b"zstd"):
                continue
            piece, at = divmod(cluster * size, 1 << 16)
            if key == ACTIVE and cluster * size < sound.shape.size:
                there = layer.disk.get(piece, bytes(1 << 16))[at : at + size]
                assert there == (content or bytes(size))


@pytest.mark.parametrize("fault", ["l2=copied", "refcount=zero", "reftable=zero"])
def test_damage_that_no_guest_reads_hits_nothing(fault: str, sounds: dict[str, Sound]) -> None:
    sound = sounds["snapshots"]
    raw = damage(Anatomy(sound.raw), (fault,), "seed")
    with Case(sound, lambda _image, _seed: raw, "unhit", "", "").copy() as trial:
        assert set().union(*trial.hits.clusters.values()) == set()
        assert trial.hits.snapshots == set()


def test_a_hit_entry_hits_its_cluster_alone(sounds: dict[str, Sound]) -> None:
    sound = sounds["snapshots"]
    raw = damage(Anatomy(sound.raw), ("l2=beyond",), "seeds")
    views = layer_views(raw, b"", Shape.of(raw))
    assert len(guest_view.differing(sound.layers[ACTIVE].view, views[ACTIVE])) == 1


def test_a_sound_image_has_no_excuse(sounds: dict[str, Sound]) -> None:
    for sound in sounds.values():
        assert excuse(sound, sound.raw) == ""
        assert excuse(sound, sound.raw[:40])
        assert excuse(sound, sound.raw[:20] + b"\0\0\0\1" + sound.raw[24:])


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_damage_is_some(name: str, sounds: dict[str, Sound]) -> None:
    fitting = [base for base in KINDS[name].bases if base in sounds]
    for base in fitting[:1]:
        image = Anatomy(sounds[base].raw)
        assert KINDS[name].damage(image, "seed") != image.raw
        assert KINDS[name].damage(image, "seed") == KINDS[name].damage(image, "seed")
