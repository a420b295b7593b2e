"""The plain checks of the reference's test vectors: small known images, one poke each."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

import qemu
import qfix_command
from qemu_images import Recipe

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("need_qemu")

CREATE = "create -q -f qcow2 -o {o} image 1M"
WRITE = "io image: write -P 1 0 256k"
BASES = {
    "B": Recipe("B", "compat=1.1", (CREATE, WRITE)),
    "V": Recipe("V", "compat=0.10", (CREATE, WRITE)),
    "O": Recipe("O", "refcount_bits=1", (CREATE, WRITE)),
    "S": Recipe(
        "S",
        "compat=1.1",
        (
            CREATE,
            WRITE,
            "snapshot -c snapA image",
            "io image: write -P 2 64k 64k",
            "snapshot -c snapB image",
            "io image: write -P 3 128k 64k",
        ),
    ),
    "X": Recipe("X", "extended_l2=on,cluster_size=16k", (CREATE, "io image: write -P 1 0 64k")),
    "M": Recipe(
        "M",
        "compat=1.1",
        (CREATE, WRITE, "bitmap --add -g 64k image bm0", "io image: write -P 5 0 128k"),
    ),
    "D": Recipe("D", "data_file=image.data", (CREATE, WRITE)),
}
"""The images of the reference by its letters, and V: image B in version 2."""


class Expected(NamedTuple):
    """The numbers of one check."""

    exit_status: int
    corruptions: int
    leaks: int
    check_errors: int
    allocated: int
    fragmented: int
    compressed: int
    image_end_offset: int

    def counts(self) -> dict[str, int]:
        """Return the numbers under qemu-img's keys."""
        return {
            "corruptions": self.corruptions,
            "leaks": self.leaks,
            "check-errors": self.check_errors,
            "allocated-clusters": self.allocated,
            "fragmented-clusters": self.fragmented,
            "compressed-clusters": self.compressed,
            "image-end-offset": self.image_end_offset,
        }


class Vector(NamedTuple):
    """One row: the base, bytes to write (offset and hexadecimal), what the check says."""

    base: str
    what: str
    pokes: tuple[tuple[int, str], ...]
    expected: Expected | None
    """None where qemu-img refuses the image or gives the check up: then it prints no numbers."""
    length: int | None = None


L1, L2, RB, RT = 0x30000, 0x40000, 0x20000, 0x10000
CLEAN = Expected(0, 0, 0, 0, 4, 0, 0, 589824)
ONE_WRONG = Expected(2, 1, 0, 0, 4, 0, 0, 589824)

VECTORS = (
    Vector("B", "untouched", (), CLEAN),
    Vector("B", "L1[0] = 8100000000040001 reserved bits", ((L1, "8100000000040001"),), ONE_WRONG),
    Vector(
        "B",
        "L1[0] = 0000000000000000",
        ((L1, "0000000000000000"),),
        Expected(3, 0, 5, 0, 0, 0, 0, 589824),
    ),
    Vector(
        "B",
        "L1[0] = 8000000000000000 (offset 0, COPIED)",
        ((L1, "8000000000000000"),),
        Expected(2, 45, 5, 0, 27, 26, 14, 589824),
    ),
    Vector(
        "B",
        "L1[0] = 8000000001000000 past EOF",
        ((L1, "8000000001000000"),),
        Expected(2, 2, 5, 0, 0, 0, 0, 589824),
    ),
    Vector("B", "L1[0] = 0000000000040000 not COPIED", ((L1, "0000000000040000"),), ONE_WRONG),
    Vector("B", "L2[0] = 8100000000050002 reserved bits", ((L2, "8100000000050002"),), ONE_WRONG),
    Vector(
        "B",
        "L2[0] = 8000000000050200 unaligned data",
        ((L2, "8000000000050200"),),
        Expected(2, 2, 0, 0, 4, 1, 0, 589824),
    ),
    Vector(
        "B",
        "L2[0] = 8000000000050201 unaligned, ZERO",
        ((L2, "8000000000050201"),),
        Expected(2, 2, 0, 0, 4, 1, 0, 589824),
    ),
    Vector("B", "L2[0] = 8000000000050001 ZERO_ALLOC", ((L2, "8000000000050001"),), CLEAN),
    Vector(
        "B",
        "L2[1] = 0000000000000001 ZERO_PLAIN",
        ((L2 + 8, "0000000000000001"),),
        Expected(3, 0, 1, 0, 3, 1, 0, 589824),
    ),
    Vector(
        "B",
        "L2[1] = 0000000000000000",
        ((L2 + 8, "0000000000000000"),),
        Expected(3, 0, 1, 0, 3, 1, 0, 589824),
    ),
    Vector(
        "B",
        "L2[0] = 8000000001000000 past EOF",
        ((L2, "8000000001000000"),),
        Expected(2, 2, 1, 0, 4, 1, 0, 589824),
    ),
    Vector(
        "B",
        "L2[0] = 8000000000090000 exactly at EOF",
        ((L2, "8000000000090000"),),
        Expected(2, 2, 1, 0, 4, 1, 0, 589824),
    ),
    Vector("B", "L2[0] = 0000000000050000 not COPIED", ((L2, "0000000000050000"),), ONE_WRONG),
    Vector(
        "B",
        "L2[1] = 8000000000050000 same as L2[0]",
        ((L2 + 8, "8000000000050000"),),
        Expected(2, 1, 1, 0, 4, 2, 0, 589824),
    ),
    Vector(
        "B",
        "L2[1] = 8000000000030000 → L1 table",
        ((L2 + 8, "8000000000030000"),),
        Expected(2, 1, 1, 0, 4, 2, 0, 589824),
    ),
    Vector(
        "B",
        "L2[1] = 8000000000040000 → its own L2 table",
        ((L2 + 8, "8000000000040000"),),
        Expected(2, 1, 1, 0, 4, 2, 0, 589824),
    ),
    Vector(
        "B",
        "L2[1] = 8000000000020000 → refcount block",
        ((L2 + 8, "8000000000020000"),),
        Expected(2, 2, 1, 0, 4, 2, 0, 589824),
    ),
    Vector(
        "B",
        "L2[1] = 8000000000000000 offset 0 COPIED",
        ((L2 + 8, "8000000000000000"),),
        Expected(3, 0, 1, 0, 3, 1, 0, 589824),
    ),
    Vector(
        "B",
        "L2[0] = 4000000000050000 compressed, 1 sector",
        ((L2, "4000000000050000"),),
        Expected(0, 0, 0, 0, 4, 1, 1, 589824),
    ),
    Vector(
        "B",
        "L2[0] = c000000000050000 compressed+COPIED",
        ((L2, "c000000000050000"),),
        Expected(2, 1, 0, 0, 4, 1, 1, 589824),
    ),
    Vector(
        "B",
        "L2[0] = 7fc0000000050001 compressed, 256 sectors from 0x50001",
        ((L2, "7fc0000000050001"),),
        Expected(2, 1, 0, 0, 4, 1, 1, 589824),
    ),
    Vector(
        "B",
        "L2[3] = 7fc0000000088000 compressed, 256 sectors from 0x88000",
        ((L2 + 24, "7fc0000000088000"),),
        Expected(2, 1, 1, 0, 4, 1, 1, 589824),
    ),
    Vector("B", "RB[6] = 2", ((RB + 12, "0002"),), Expected(2, 1, 1, 0, 4, 0, 0, 589824)),
    Vector("B", "RB[6] = 0", ((RB + 12, "0000"),), Expected(2, 2, 0, 0, 4, 0, 0, 589824)),
    Vector("B", "RB[20] = 1 (cluster past EOF)", ((RB + 40, "0001"),), CLEAN),
    Vector(
        "B",
        "RB[6] = 2 and L2[1] = 0000000000060000",
        ((RB + 12, "0002"), (L2 + 8, "0000000000060000")),
        Expected(3, 0, 1, 0, 4, 0, 0, 589824),
    ),
    Vector(
        "B",
        "RT[0] = 0000000000020001 reserved bit",
        ((RT, "0000000000020001"),),
        Expected(2, 1, 1, 0, 4, 0, 0, 589824),
    ),
    Vector(
        "B",
        "RT[0] = 0000000000020200 unaligned",
        ((RT, "0000000000020200"),),
        Expected(1, 1, 0, 9, 4, 0, 0, 65536),
    ),
    Vector(
        "B",
        "RT[0] = 0000000000000000 missing",
        ((RT, "0000000000000000"),),
        Expected(2, 13, 0, 0, 4, 0, 0, 589824),
    ),
    Vector(
        "B",
        "RT[0] = 0000000010000000 past EOF",
        ((RT, "0000000010000000"),),
        Expected(2, 14, 0, 0, 4, 0, 0, 589824),
    ),
    Vector("B", "RT[1] = 0000000001000000 past EOF", ((RT + 8, "0000000001000000"),), ONE_WRONG),
    Vector(
        "B", "RT[1] = 7fffffffffff0000 far past EOF", ((RT + 8, "7fffffffffff0000"),), ONE_WRONG
    ),
    Vector(
        "B",
        "RT[1] = 0000000000020000 duplicate block",
        ((RT + 8, "0000000000020000"),),
        Expected(2, 2, 0, 0, 4, 0, 0, 589824),
    ),
    Vector(
        "B",
        "RT[1] = 0000000000050000 → data cluster",
        ((RT + 8, "0000000000050000"),),
        Expected(2, 2, 0, 0, 4, 0, 0, 589824),
    ),
    Vector(
        "B",
        "refcount_table_clusters = 0",
        ((56, "00000000"),),
        Expected(2, 12, 0, 0, 4, 0, 0, 589824),
    ),
    Vector(
        "B",
        "refcount_table_offset = 0x1000000",
        ((48, "0000000001000000"),),
        Expected(2, 13, 0, 0, 4, 0, 0, 589824),
    ),
    Vector("B", "refcount_order = 6", ((96, "00000006"),), Expected(2, 11, 3, 0, 4, 0, 0, 589824)),
    Vector("B", "refcount_order = 0", ((96, "00000000"),), Expected(2, 12, 0, 0, 4, 0, 0, 589824)),
    Vector(
        "B",
        "l1_table_offset = 0",
        ((40, "0000000000000000"),),
        Expected(2, 3, 6, 0, 0, 0, 0, 589824),
    ),
    Vector("B", "snapshots_offset = 0x1234", ((64, "0000000000001234"),), None),
    Vector("B", "incompatible = 3", ((72, "0000000000000003"),), CLEAN),
    Vector("B", "cut to 0x80001", (), CLEAN, 0x80001),
    Vector("B", "cut to 0x80000", (), Expected(2, 1, 0, 0, 4, 0, 0, 524288), 0x80000),
    Vector("B", "cut to 0x50000", (), Expected(2, 4, 0, 0, 4, 0, 0, 327680), 0x50000),
    Vector(
        "O", "L2[1] = L2[0]", ((L2 + 8, "8000000000050000"),), Expected(2, 1, 1, 0, 4, 2, 0, 589824)
    ),
    Vector("V", "L2[0] = 8000000000050001 (ZERO in v2)", ((L2, "8000000000050001"),), CLEAN),
    Vector("S", "untouched", (), Expected(0, 0, 0, 0, 4, 3, 0, 1048576)),
    Vector("S", "nb_snapshots = 1", ((60, "00000001"),), Expected(3, 0, 6, 0, 4, 3, 0, 1048576)),
    Vector("S", "nb_snapshots = 3", ((60, "00000003"),), Expected(2, 1, 0, 0, 4, 3, 0, 1048576)),
    Vector("S", "nb_snapshots = 65537", ((60, "00010001"),), None),
    Vector(
        "S",
        "snapshots_offset = 0x10000000",
        ((64, "0000000010000000"),),
        Expected(2, 3, 10, 0, 4, 3, 0, 1048576),
    ),
    Vector("S", "entry 0 extra size = 2000", ((0xE0024, "000007d0"),), None),
    Vector("S", "entry 0 extra size = 0x7fffffff", ((0xE0024, "7fffffff"),), None),
    Vector(
        "S",
        "entry 0 L1 offset = 0x90200",
        ((0xE0000, "0000000000090200"),),
        Expected(2, 1, 6, 0, 4, 3, 0, 1048576),
    ),
    Vector(
        "S",
        "entry 0 L1 offset = 0x10000000",
        ((0xE0000, "0000000010000000"),),
        Expected(2, 1, 6, 0, 4, 3, 0, 1048576),
    ),
    Vector(
        "S",
        "entry 0 L1 size = 4194305",
        ((0xE0008, "00400001"),),
        Expected(2, 1, 6, 0, 4, 3, 0, 1048576),
    ),
    Vector(
        "S",
        "entry 0 L1 offset and size = 0",
        ((0xE0000, "000000000000000000000000"),),
        Expected(3, 0, 6, 0, 4, 3, 0, 1048576),
    ),
    Vector("X", "untouched", (), Expected(0, 0, 0, 0, 4, 0, 0, 147456)),
    Vector(
        "X",
        "bitmap[0] = 00000001ffffffff alloc+zero",
        ((0x10008, "00000001ffffffff"),),
        Expected(2, 1, 0, 0, 4, 0, 0, 147456),
    ),
    Vector(
        "X",
        "entry[0] = 8000000000014001 bit 0",
        ((0x10000, "8000000000014001"),),
        Expected(0, 0, 0, 0, 4, 0, 0, 147456),
    ),
    Vector(
        "X",
        "entry[0] = 0, bitmap keeps alloc bits",
        ((0x10000, "0000000000000000"),),
        Expected(2, 1, 1, 0, 3, 0, 0, 147456),
    ),
    Vector(
        "X",
        "entry[0] = 0, bitmap = 000000ff00000000",
        ((0x10000, "0000000000000000"), (0x10008, "000000ff00000000")),
        Expected(3, 0, 1, 0, 3, 0, 0, 147456),
    ),
    Vector(
        "X",
        "entry[0] = 8000000000014200, bitmap = 000000ff00000000",
        ((0x10000, "8000000000014200"), (0x10008, "000000ff00000000")),
        Expected(2, 2, 0, 0, 4, 1, 0, 147456),
    ),
    Vector(
        "X",
        "entry[0] = 8000000000014200",
        ((0x10000, "8000000000014200"),),
        Expected(2, 2, 0, 0, 4, 1, 0, 147456),
    ),
    Vector(
        "X",
        "entry[0] = 4000000000014000, bitmap = 1",
        ((0x10000, "4000000000014000"), (0x10008, "0000000000000001")),
        Expected(2, 1, 1, 0, 3, 0, 0, 147456),
    ),
    Vector("M", "untouched", (), Expected(0, 0, 0, 0, 4, 0, 0, 917504)),
    Vector(
        "M", "autoclear = 0", ((88, "0000000000000000"),), Expected(3, 0, 3, 0, 4, 0, 0, 917504)
    ),
    Vector(
        "M",
        "bitmap table entry = 0000000010000000 past EOF",
        ((0xC0000, "0000000010000000"),),
        Expected(2, 1, 1, 0, 4, 0, 0, 917504),
    ),
    Vector(
        "M",
        "directory entry flags = 3, table entry = 0000000010000000",
        ((0xD000C, "00000003"), (0xC0000, "0000000010000000")),
        Expected(2, 1, 1, 0, 4, 0, 0, 917504),
    ),
    Vector(
        "M",
        "directory entry flags = 3, table entry = 00000000000b0002 reserved bit",
        ((0xD000C, "00000003"), (0xC0000, "00000000000b0002")),
        None,
    ),
    Vector("D", "untouched", (), Expected(0, 0, 0, 0, 4, 0, 0, 327680)),
    Vector(
        "D",
        "L2[1] = 80000000000a0000 wrong offset",
        ((L2 + 8, "80000000000a0000"),),
        Expected(0, 0, 0, 0, 4, 2, 0, 327680),
    ),
    Vector(
        "D",
        "L2[1] = 0000000000010000 not COPIED",
        ((L2 + 8, "0000000000010000"),),
        Expected(2, 1, 0, 0, 4, 0, 0, 327680),
    ),
    Vector(
        "D",
        "L2[1] = 8000000000010200 unaligned",
        ((L2 + 8, "8000000000010200"),),
        Expected(2, 1, 0, 0, 4, 2, 0, 327680),
    ),
    Vector(
        "D",
        "L2[1] = 4000000000010000 compressed",
        ((L2 + 8, "4000000000010000"),),
        Expected(2, 1, 0, 0, 3, 1, 0, 327680),
    ),
    Vector(
        "D", "incompatible = 0", ((72, "0000000000000000"),), Expected(2, 4, 0, 0, 3, 0, 0, 327680)
    ),
)


def _name(vector: Vector) -> str:
    return f"{vector.base} {vector.what}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What both programs said of one vector's image."""

    status: int
    printed: str
    ours: dict[str, Any]


def _poke(vector: Vector, bases: Path, folder: Path) -> Path:
    """Copy the vector's base to *folder* and change it."""
    shutil.copytree(bases / vector.base, folder)
    path = folder / "image"
    with path.open("r+b") as file:
        for offset, value in vector.pokes:
            file.seek(offset)
            file.write(bytes.fromhex(value))
    if vector.length is not None:
        os.truncate(path, vector.length)
    return path


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Make all images once and let both programs check them."""
    qemu.require()
    folder = tmp_path_factory.mktemp("vectors")
    for name, recipe in BASES.items():
        recipe.build(folder / name)
    paths = [_poke(vector, folder, folder / str(i)) for i, vector in enumerate(VECTORS)]
    records = qfix_command.check(*paths)
    outcomes = {}
    for vector, path, ours in zip(VECTORS, paths, records, strict=True):
        theirs = BASES[vector.base].check_with_qemu(path)
        outcomes[_name(vector)] = Outcome(theirs.returncode, theirs.stdout.strip(), ours)
    return outcomes


@pytest.mark.parametrize("vector", VECTORS, ids=_name)
def test_gives_the_numbers_of_the_reference(vector: Vector, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[_name(vector)]
    ours, report = outcome.ours, outcome.ours["qfix"]
    if vector.expected is None:
        assert (outcome.status, outcome.printed) == (1, "")
        assert report["status"] not in {0, qfix_command.DEFECT}
        assert report["findings"]
        return
    theirs = json.loads(outcome.printed)
    expected = vector.expected.counts()
    assert outcome.status == vector.expected.exit_status
    assert {key: theirs.get(key, 0) for key in expected} == expected
    assert {key: ours[key] for key in expected} == expected
    assert not qfix_command.differences(ours, theirs)
    assert report["status"] or not outcome.status
