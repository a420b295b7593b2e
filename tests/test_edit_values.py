"""Values of an edit: the flags rule, how old values are shown, and what agrees with them."""

from __future__ import annotations

import re

import pytest

from qfix.edits.errors import EditError
from qfix.edits.values import Kind, agrees, meant, spelled
from qfix.errors import UsageError

COPIED, COMPRESSED, ZERO = 1 << 63, 1 << 62, 1


@pytest.mark.parametrize(
    ("kind", "text", "old", "new"),
    [
        # a bare offset keeps the flags, not the reserved bits of a damaged entry
        (Kind.L1, "0x50000", 0x40000, 0x50000),
        (Kind.L1, "0x50000", COPIED | 0x40000, COPIED | 0x50000),
        (Kind.L1, "0x50000", COPIED | 0x4F00000000040001, COPIED | 0x50000),
        (Kind.L2, "0x50000", COPIED | ZERO | 0x40000, COPIED | ZERO | 0x50000),
        (Kind.L2, "64k", 0x3F000000000001FE, 0x10000),
        # no flag of an extended entry is bit 0
        (Kind.EXTENDED_L2, "0x50000", COPIED | 1, COPIED | 0x50000),
        (Kind.EXTENDED_L2, "0x50001", COPIED, COPIED | 0x50001),
        # flag bits in the value replace the whole entry, and so does 0
        (Kind.L2, "0x8000000000050000", ZERO | 0x40000, COPIED | 0x50000),
        (Kind.L2, "1", COPIED | 0x40000, ZERO),
        (Kind.L2, "0", COPIED | ZERO | 0x40000, 0),
        (Kind.L1, "0", COPIED | 0x40000, 0),
        (Kind.L2, "0x4000000000050001", 0x40000, COMPRESSED | 0x50001),
        # flags in words
        (Kind.L2, "0x50000:none", COPIED | 0x40000, 0x50000),
        (Kind.L2, "0x50000:copied+zero", 0, COPIED | ZERO | 0x50000),
        (Kind.L2, "0x50001:compressed", COPIED, COMPRESSED | 0x50001),
        (Kind.L2, "0:zero", COPIED | 0x40000, ZERO),
        (Kind.L2, "0:copied", 0, COPIED),
        (Kind.L2, "0x50000:none", COMPRESSED | 0x40000, 0x50000),
        (Kind.L1, "0x50000:copied", 0, COPIED | 0x50000),
        # others are plain numbers
        (Kind.POINTER, "0x50000", 0x40001, 0x50000),
        (Kind.POINTER, "0x50000:none", 0x40001, 0x50000),
        (Kind.NUMBER, "16", COPIED, 16),
    ],
)
def test_what_a_value_means(kind: Kind, text: str, old: int, new: int) -> None:
    assert meant(kind, text, old) == new


@pytest.mark.parametrize(
    ("kind", "text", "old", "said"),
    [
        (Kind.L2, "0x50000", COMPRESSED | 0x40000, "0x50000:compressed"),
        (Kind.L1, "0x50000:zero", 0, "'zero' is no flag of an L1 entry; known: copied, none"),
        (Kind.EXTENDED_L2, "0:zero", 0, "'zero' is no flag"),
        (Kind.POINTER, "0x50000:copied", 0, "'copied' is no flag"),
        (Kind.L2, "0x50000:", 0, "'' is no flag"),
        (Kind.L2, "0x50000:copied+none", 0, "'none' is no flag"),
        (Kind.L2, "0x50000:compressed+zero", 0, "no zero flag"),
        (Kind.L2, "0x8000000000050000:none", 0, "carries flag bits itself"),
        (Kind.L2, "0x50001:copied", 0, "carries flag bits itself"),
        (Kind.NUMBER, "3:none", 0, "only table entries have flags"),
    ],
)
def test_what_is_not_clear_is_refused(kind: Kind, text: str, old: int, said: str) -> None:
    with pytest.raises(EditError, match=re.escape(said)):
        meant(kind, text, old)


def test_what_is_no_number() -> None:
    for text in ("", "x", "-1", "0x", "1e3", ":copied"):
        with pytest.raises(UsageError):
            meant(Kind.L2, text, 0)


@pytest.mark.parametrize(
    ("kind", "value", "shown"),
    [
        (Kind.L2, COPIED | 0x50000, "0x50000:copied"),
        (Kind.L2, 0x50000, "0x50000:none"),
        (Kind.L2, 0, "0x0"),
        (Kind.L2, ZERO, "0x0:zero"),
        (Kind.L2, COMPRESSED | 0x50001, "0x50001:compressed"),
        (Kind.EXTENDED_L2, COPIED | 1, "0x1:copied"),
        (Kind.L1, COPIED | 0x50001, "0x50001:copied"),
        (Kind.POINTER, 0x20000, "0x20000"),
    ],
)
def test_what_is_shown_can_be_given_again(kind: Kind, value: int, shown: str) -> None:
    assert spelled(kind, value) == shown
    assert meant(kind, shown, COPIED) == value
    assert agrees(kind, shown, value)


def test_a_bare_offset_agrees_with_any_flags() -> None:
    assert agrees(Kind.L2, "0x50000", COPIED | ZERO | 0x50000)
    assert not agrees(Kind.L2, "0x50000", COPIED | 0x60000)
    assert not agrees(Kind.L2, "0", COPIED)
    assert not agrees(Kind.L2, "0x50000:none", COPIED | 0x50000)
    assert not agrees(Kind.L2, "0x8000000000050000", 0x50000)
    assert not agrees(Kind.NUMBER, "0x50000", COPIED | 0x50000)
