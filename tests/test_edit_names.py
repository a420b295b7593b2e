"""Names of what can be edited lead where the independent writer of images has put it."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

import pytest

from build import Place as Written
from build import Qcow2
from build_write import finish
from corpus_bases import (
    backed,
    compressed,
    data_file,
    described,
    extended,
    four_bit_blocks,
    luks,
    many_kinds,
    plain,
    two_blocks,
    vm_state,
    with_bitmap,
    with_snapshots,
    zstd,
)
from qfix.edits.errors import EditError
from qfix.edits.names import FINDERS, find, parse_name
from qfix.edits.places import Place, Text, view_of
from qfix.errors import UsageError
from qfix.file import open_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from build import Picture

RENAMED = (
    (r"^rb\[", "refcount["),
    (r"^rt\[", "refcount_table["),
    (r"\.subclusters$", ".bitmap"),
    (r"\.extra_disk_size$", ".disk_size"),
    (r"\.extra_vm_state_size$", ".vm_state_size_64"),
    (r"^(bitmap\[\d+\])\.table_(offset|size)$", r"\1.bitmap_table_\2"),
    (r"^bitmaps\.nb$", "bitmaps.nb_bitmaps"),
    (r"^bitmaps\.directory_", "bitmaps.bitmap_directory_"),
)
"""What the writer calls otherwise."""
LATE = {
    *("incompatible_features", "compatible_features", "autoclear_features", "refcount_order"),
    *("header_length", "compression_type", "disk_size", "vm_state_size_64"),
}
"""What version 2 does not have; its snapshots here have no extra data."""
NOT_NAMED = ("padding", "extension[")
MOST_REFCOUNTS = 70


def refcounts_of_width(order: int) -> Picture:
    """Return an image with refcounts of 2**order bits and some free clusters."""
    image = described(refcount_order=order)
    image.skip(3)
    image.write(9)
    return finish(image)


def version_2() -> Picture:
    """Return an image whose header ends behind the snapshots."""
    return with_snapshots(version=2)


PICTURES: dict[str, Callable[[], Picture]] = {
    "plain": plain,
    "v2": version_2,
    "snapshots": with_snapshots,
    "bitmaps": lambda: with_bitmap("daily", "weekly"),
    "luks": luks,
    "extended": extended,
    "compressed": compressed,
    "backed": lambda: backed(b"base"),
    "data-file": data_file,
    "vm-state": vm_state,
    "many-kinds": many_kinds,
    "zstd": zstd,
    "two-blocks": two_blocks,
    "four-bit-blocks": four_bit_blocks,
    **{f"order-{order}": partial(refcounts_of_width, order) for order in range(7)},
}


def named(picture: Picture) -> Iterator[tuple[str, Written]]:
    """Yield the name that qfix has for each place of a picture."""
    counts = 0
    for label, place in picture.places.items():
        if label.startswith(NOT_NAMED):
            continue
        name = label
        for old, new in RENAMED:
            name = re.sub(old, new, name)
        counts += name.startswith("refcount[")
        if name.startswith("refcount[") and counts > MOST_REFCOUNTS:
            continue
        yield (name if "[" in name or "." in name else f"header.{name}"), place


def looked_up(path: Path, name: str) -> Place | Text:
    """Return where a name leads in a file."""
    with open_file(path) as file:
        return find(view_of(file), parse_name(name))


@pytest.mark.parametrize("kind", PICTURES)
def test_names_lead_to_what_the_writer_has_named(kind: str, tmp_path: Path) -> None:
    picture = PICTURES[kind]()
    path = tmp_path / "image"
    path.write_bytes(picture.data)
    wrong = {}
    seen = 0
    for name, place in named(picture):
        if kind == "v2" and name.partition(".")[2] in LATE:
            continue
        found = looked_up(path, name)
        assert isinstance(found, Place)
        seen += 1
        if (found.offset, found.bits, found.shift) != (place.offset, place.bits, place.shift):
            wrong[name] = found, place
    assert wrong == {}
    assert seen > 20


def test_every_name_is_met() -> None:
    """But for those that have tests of their own, and the fields behind the writer's."""
    met = set()
    for make in PICTURES.values():
        met |= {re.sub(r"\[\d+\]", "[]", name) for name, _ in named(make())}
    assert set(FINDERS) - met == {
        *("snapshot[].id", "snapshot[].name", "snapshot[].icount", "bitmap[].name"),
        "snapshot[].l2[][].bitmap",
    }


def test_bitmap_words_of_a_snapshot(tmp_path: Path) -> None:
    image = Qcow2(size=1 << 20, cluster_bits=14, extended=True)
    image.write(0)
    image.snapshot("1", "one")
    image.write(0, "again ")
    path = tmp_path / "image"
    picture = finish(image)
    path.write_bytes(picture.data)
    entry, word = (looked_up(path, f"snapshot[0].l2[0][0]{end}") for end in ("", ".bitmap"))
    assert isinstance(entry, Place)
    assert isinstance(word, Place)
    assert word.offset == entry.offset + 8
    assert entry.offset == picture.places["snapshot[0].l2[0][0]"].offset


def test_strings_end_where_the_padding_does(tmp_path: Path) -> None:
    """The entry of a snapshot: 40 fixed bytes, 24 of extra data, id "1", name "monday"."""
    path = tmp_path / "image"
    path.write_bytes(with_snapshots().data)
    base = 15 * 512
    id_str, name = (looked_up(path, f"snapshot[0].{part}") for part in ("id", "name"))
    assert id_str == Text(base + 12, base + 64, b"1", b"monday", base + 72, 65535)
    assert name == Text(base + 14, base + 65, b"monday", b"", base + 72, 65535)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("l1[2]", "l1[0] to l1[1]"),
        ("l2[0][64]", "l2[0][0] to l2[0][63]"),
        ("l2[1][0]", "l1[1] is 0x0: there is no L2 table"),
        ("l2[0][0].bitmap", "extended L2"),
        ("refcount_table[64]", "refcount_table[0] to refcount_table[63]"),
        ("refcount[16384]", "refcount[0] to refcount[16383]"),
        ("refcount[256]", "refcount_table[1] is 0x0"),
        ("snapshot[0].name", "no snapshot[0]"),
        ("snapshot[0].l1[0]", "no snapshot[0]"),
        ("bitmap[0].flags", "no bitmap directory"),
        ("bitmaps.nb_bitmaps", "0x23852875"),
        ("encryption.offset", "0x0537be77"),
    ],
)
def test_what_is_not_there_is_named(name: str, said: str, tmp_path: Path) -> None:
    """128 guest clusters in two tables of 64 entries, one of them there; 256 refcounts a block."""
    path = tmp_path / "image"
    path.write_bytes(plain().data)
    with pytest.raises(EditError, match=re.escape(said)):
        looked_up(path, name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("header.l1size", "near ones: header.l1_size"),
        ("l2[0]", "l2[i][j]"),
        ("l1[0][1]", "l2[i][j]"),
        ("size", "near ones: header.size"),
        ("nothing of the kind", "known: header.FIELD, l1[i], l2[i][j]"),
        ("encryption.key", "near ones: encryption.offset, encryption.length"),
        ("bitmaps.x", "behind 'bitmaps.' there can be: nb_bitmaps, reserved"),
        ("l1[x]", "'x' is no number"),
        ("", "known: header.FIELD"),
    ],
)
def test_a_name_that_is_none_is_told_what_there_is(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        parse_name(name)


def test_damaged_headers_are_read_as_far_as_they_go(tmp_path: Path) -> None:
    path = tmp_path / "image"
    l1_table = plain().places["l1[0]"].offset
    for poke, name, said in (
        ({"version": 9}, "l1[0]", ""),
        ({"version": 9}, "refcount[3]", ""),
        ({"cluster_bits": 60}, "l1[0]", ""),
        ({"cluster_bits": 60}, "l2[0][0]", "header.cluster_bits is 60"),
        ({"refcount_order": 7}, "refcount[0]", "header.refcount_order is 7"),
        ({"refcount_order": 7}, "refcount_table[0]", ""),
        ({"l1[0]": 0x8000000000000A00 | 1 << 40}, "l2[0][0]", "behind the end of the file"),
        ({"l1_table_offset": 1 << 40}, "l1[0]", "behind the end of the file"),
        ({"rt[0]": 1 << 40}, "refcount[0]", "behind the end of the file"),
        ({"magic": 1, "version": 9}, "header.size", "header.magic can be set"),
        ({"magic": 1, "version": 9}, "header.magic", ""),
        ({"header_length": 104}, "header.compression_type", "104 bytes has no such field"),
        ({"version": 2}, "header.autoclear_features", "version 2 has no such field"),
    ):
        path.write_bytes(plain().poke(poke).data)
        if said:
            with pytest.raises(EditError, match=re.escape(said)):
                looked_up(path, name)
        else:
            found = looked_up(path, name)
            assert isinstance(found, Place)
            assert name != "l1[0]" or found.offset == l1_table
