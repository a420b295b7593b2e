"""The header's fields with their offsets, for -H."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qfix.layout.header import V2_LENGTH, V3_LENGTH, Header

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.image import Head


def header_rows(head: Head) -> list[dict[str, Any]]:
    """Return each field of the header that the file has: name, offset, width, value."""
    decoded = head.header
    if decoded is None:
        return []
    rows = [
        {
            "name": field.name,
            "offset": field.offset,
            "width": field.width,
            "value": getattr(decoded, field.name),
            "text": format(getattr(decoded, field.name), field.display),
        }
        for field in Header.fields()
        if decoded.version >= 3 or field.offset < V2_LENGTH
    ]
    if decoded.version >= 3 and decoded.header_length > V3_LENGTH:
        kind = head.compression_type
        row = {"name": "compression_type", "offset": V3_LENGTH, "width": 1, "value": kind}
        rows.append(row | {"text": str(kind)})
    return rows


def header_lines(head: Head) -> Iterator[str]:
    """Yield the header's fields, a line each: offset, width in bytes, name, value."""
    rows = header_rows(head)
    if not rows:
        yield "There is no qcow2 header to show."
    else:
        yield f"{'offset':>6}  {'width':>5}  {'field':<24} value"
    for row in rows:
        yield f"{row['offset']:>6}  {row['width']:>5}  {row['name']:<24} {row['text']}"
