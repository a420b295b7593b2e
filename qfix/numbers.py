"""Numbers of the command line: decimal, 0x hex, or with a binary suffix."""

from __future__ import annotations

import re

from qfix.errors import UsageError

SUFFIXES = "kMGTPE"
NUMBER = re.compile(rf"(0[xX][0-9a-fA-F]+|[0-9]+)([{SUFFIXES}{SUFFIXES.lower()}]?)")
MOST_DIGITS = 40


def number(text: str) -> int:
    """Return the value of a number such as 512, 0x200 or 64k; raises UsageError.

    Hexadecimal digits take no suffix: 0xE is fourteen.
    """
    found = NUMBER.fullmatch(text) if len(text) <= MOST_DIGITS else None
    if found is None:
        raise UsageError(f"{text[:MOST_DIGITS]!r} is no number; known forms: 512, 0x200, 64k, 1M")
    digits, suffix = found.groups()
    if not suffix:
        return int(digits, 16) if digits[:2] in {"0x", "0X"} else int(digits)
    return int(digits, 0) << 10 * (1 + SUFFIXES.lower().index(suffix.lower()))
