"""The array helpers against plain Python, and refcounts against the layouts of the format."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfix.arrays import (
    AnyArray,
    IntArray,
    grouped,
    last_nonzero,
    pack_refcounts,
    run_starts,
    runs,
    spread,
    unpack_refcounts,
    words,
)

LARGEST = (1 << 63) - 1
UNITS = st.lists(st.integers(0, 60) | st.integers(0, LARGEST), unique=True).map(sorted)
LABELS = st.lists(st.integers(0, 2), min_size=200, max_size=200)
RUNS = st.lists(st.tuples(st.integers(0, LARGEST - 100), st.integers(0, 9)))
ORDERS = range(7)
NUMBERS = b"\x12\x34\x56\x78\x9a\xbc\xde\xf0"

# Byte layouts of format 4: least significant bits first below a byte, big-endian above.
VECTORS = [
    (0, "01", [1, 0, 0, 0, 0, 0, 0, 0]),
    (0, "80", [0, 0, 0, 0, 0, 0, 0, 1]),
    (0, "a501", [1, 0, 1, 0, 0, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0]),
    (1, "03", [3, 0, 0, 0]),
    (1, "e4", [0, 1, 2, 3]),
    (1, "1b80", [3, 2, 1, 0, 0, 0, 0, 2]),
    (2, "0f", [15, 0]),
    (2, "21", [1, 2]),
    (2, "f0a5", [0, 15, 5, 10]),
    (3, "00ff07", [0, 255, 7]),
    (4, "0001", [1]),
    (4, "0100ffff1234", [256, 65535, 0x1234]),
    (5, "0000000180000000", [1, 1 << 31]),
    (5, "12345678", [0x12345678]),
    (6, "0000000000000001", [1]),
    (6, "123456789abcdef0ffffffffffffffff", [0x123456789ABCDEF0, (1 << 64) - 1]),
]


def ints(values: list[int]) -> IntArray:
    """Return an array of int64."""
    return np.array(values, np.int64)


def unit_runs(units: list[int], labels: list[int]) -> list[tuple[int, int, int]]:
    """Fold units that follow each other with one label: the plain form of `runs`."""
    rows = list(enumerate(zip(units, labels, strict=False)))
    folded = []
    for _, part in groupby(rows, key=lambda row: (row[1][0] - row[0], row[1][1])):
        whole = list(part)
        folded.append((whole[0][1][0], len(whole), whole[0][0]))
    return folded


@given(units=UNITS, labels=LABELS)
def test_runs(units: list[int], labels: list[int]) -> None:
    column = ints(labels)[: len(units)]
    first, count, position = runs(ints(units), column)

    found = list(zip(first.tolist(), count.tolist(), position.tolist(), strict=True))
    assert found == unit_runs(units, labels)
    assert run_starts(ints(units), column).tolist() == position.tolist()


@given(units=UNITS)
def test_runs_without_a_column(units: list[int]) -> None:
    first, count, _ = runs(ints(units))

    wanted = [row[:2] for row in unit_runs(units, [0] * len(units))]
    assert list(zip(first.tolist(), count.tolist(), strict=True)) == wanted
    assert spread(first, count).tolist() == units


def test_a_run_ends_where_any_column_changes() -> None:
    units = ints([4, 5, 6, 7, 9])
    first, count, position = runs(units, ints([1, 1, 2, 2, 2]), ints([0, 0, 0, 8, 8]))

    assert first.tolist() == [4, 6, 7, 9]
    assert count.tolist() == [2, 1, 1, 1]
    assert position.tolist() == [0, 2, 3, 4]


@given(pairs=RUNS)
def test_spread(pairs: list[tuple[int, int]]) -> None:
    found = spread(ints([first for first, _ in pairs]), ints([count for _, count in pairs]))

    assert found.dtype == np.int64
    assert found.tolist() == [
        unit for first, count in pairs for unit in range(first, first + count)
    ]


@given(keys=st.lists(st.integers(-3, 5) | st.integers(-LARGEST, LARGEST)))
def test_grouped(keys: list[int]) -> None:
    wanted = [
        (key, [at for at, other in enumerate(keys) if other == key]) for key in sorted(set(keys))
    ]

    assert [(key, at.tolist()) for key, at in grouped(ints(keys))] == wanted


@given(raw=st.binary(max_size=70))
def test_words(raw: bytes) -> None:
    wanted = [int.from_bytes(raw[at : at + 8], "big") for at in range(0, len(raw) - 7, 8)]

    found = words(raw)
    assert found.dtype == np.uint64
    assert found.tolist() == wanted
    assert words(memoryview(raw)).tolist() == wanted


def test_words_are_a_copy() -> None:
    raw = bytearray(NUMBERS)
    found = words(memoryview(raw))
    raw[:] = bytes(8)
    assert found.tolist() == [0x123456789ABCDEF0]


@pytest.mark.parametrize(("order", "text", "counts"), VECTORS)
def test_refcounts_have_the_documented_layout(order: int, text: str, counts: list[int]) -> None:
    raw = bytes.fromhex(text)

    assert unpack_refcounts(np.frombuffer(raw, np.uint8), order).tolist() == counts
    assert pack_refcounts(np.array(counts, np.uint64), order).tobytes() == raw


@pytest.mark.parametrize("order", ORDERS)
@given(raw=st.binary(min_size=1, max_size=9).map(lambda part: part * 8))
def test_refcounts_by_the_formula(order: int, raw: bytes) -> None:
    bits = 1 << order
    wanted = []
    for index in range(len(raw) * 8 // bits):
        if bits < 8:
            wanted.append(raw[index * bits // 8] >> index * bits % 8 & ((1 << bits) - 1))
        else:
            width = bits // 8
            wanted.append(int.from_bytes(raw[index * width : index * width + width], "big"))

    found = unpack_refcounts(np.frombuffer(raw, np.uint8), order)
    assert found.tolist() == wanted
    assert found.dtype.kind == "u"
    assert found.dtype.isnative
    assert pack_refcounts(found, order).tobytes() == raw


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32, np.int64])
def test_refcounts_are_packed_from_any_width(order: int, kind: type[np.generic]) -> None:
    counts: AnyArray = np.array([1, 0, 1, 1, 0, 0, 0, 1], kind)

    raw = pack_refcounts(counts, order)
    assert raw.dtype == np.uint8
    assert raw.size == 1 << order
    assert unpack_refcounts(raw, order).tolist() == counts.tolist()


@given(values=st.lists(st.integers(0, 1)))
def test_last_nonzero(values: list[int]) -> None:
    wanted = max((at for at, value in enumerate(values) if value), default=-1)
    assert last_nonzero(ints(values)) == wanted


@pytest.mark.parametrize("size", [(1 << 20) - 1, 1 << 20, (1 << 20) + 1, (2 << 20) + 3])
def test_last_nonzero_of_a_long_array(size: int) -> None:
    array = np.zeros(size, np.uint8)
    assert last_nonzero(array) == -1
    for at in (0, size // 2, size - (1 << 20), size - (1 << 20) - 1, size - 1):
        if at >= 0:
            array[:] = 0
            array[0] = array[at] = 7
            assert last_nonzero(array) == at
