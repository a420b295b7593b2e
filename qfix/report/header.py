"""The header's fields with their offsets, for -H."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qfix.layout.header import V2_LENGTH, V3_LENGTH, Header

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.image import Head


MEANINGS = {
    "magic": "QFI and 0xfb: this is a qcow2 image",
    "version": "2 or 3",
    "backing_file_offset": "where the backing file's name stands, 0 for none",
    "backing_file_size": "bytes of that name",
    "cluster_bits": "a cluster is 2 to the power of this",
    "size": "bytes of the guest's disk",
    "crypt_method": "0 none, 1 AES, 2 LUKS",
    "l1_size": "entries of the active L1 table",
    "l1_table_offset": "where the active L1 table is",
    "refcount_table_offset": "where the refcount table is",
    "refcount_table_clusters": "clusters of the refcount table",
    "nb_snapshots": "entries of the snapshot table",
    "snapshots_offset": "where the snapshot table is, 0 for none",
    "incompatible_features": "what a program has to know to open the image",
    "compatible_features": "what a program may ignore",
    "autoclear_features": "what a program that does not know it has to clear",
    "refcount_order": "a refcount has 2 to the power of this bits",
    "header_length": "bytes of the header, extensions follow",
    "compression_type": "0 zlib, 1 zstd",
}


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
