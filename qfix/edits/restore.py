"""Metadata put back from a copy of it: what may serve as one, and the plan."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from qfix.change.draft import Change
from qfix.change.grafted import Graft
from qfix.change.pieces import MOST_BYTES
from qfix.change.rehearse import told_changes
from qfix.edits.anatomy import Anatomy, anatomy
from qfix.edits.bytes_copy import counted, size_text, source_file
from qfix.edits.neutral import MARK
from qfix.errors import RefusedError, Status
from qfix.recount.tally import COMPRESSED, DATA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qfix.arrays import BoolArray
    from qfix.change.draft import Draft
    from qfix.file import ImageFile
    from qfix.image import Image

DAMAGED = (Status.METADATA, Status.SNAPSHOTS, Status.UNSUPPORTED)
"""An image of such a status may have a header that tells wrong."""


@contextmanager
def metadata_copy(
    name: str,
    image: str,
    warn: Callable[[str], None],
    tell: Callable[[float], None] | None = None,
) -> Iterator[tuple[ImageFile, Anatomy]]:
    """Open a metadata copy, held against writers; raises RefusedError for any other file."""
    with source_file(name, image, warn) as file:
        if file is None:
            raise RefusedError(f"{name}: is the image itself, no copy of its metadata")
        found = anatomy(file, tell)
        if found.made is None:
            raise RefusedError(
                f"{name}: its tables can't be read, so it is no metadata copy to put back; single"
                " parts of it can be copied with -O, -w and -F"
            )
        if found.head.raw.endswith(MARK):
            raise RefusedError(
                f"{name}: was made with --anonymize: the names in it are not those of the image"
            )
        if _holds_data(file, found):
            raise RefusedError(
                f"{name}: holds guest data, so it is a whole image and no metadata copy; a metadata"
                " copy of it (--metadata) can be put back"
            )
        yield file, found


def _holds_data(file: ImageFile, found: Anatomy) -> bool:
    """Tell whether a cluster that guest data alone is mapped to holds anything."""
    made, image = found.made, found.image
    if made is None or image is None:
        return False
    size, owners = image.geometry.cluster_size, made.tally.owners
    data: BoolArray = (owners & np.uint8(DATA | COMPRESSED)) != 0
    clusters = found.clusters()
    data[clusters[clusters < data.size]] = False
    step = max(size, MOST_BYTES)
    for low, high in file.extents(0, file.size):
        for at in range(low // size * size, high, step):
            first, last = at // size, -(-min(at + step, high) // size)
            chosen = data[first:last]
            if not chosen.any():
                continue
            raw = np.frombuffer(file.read(at, chosen.size * size), np.uint8).reshape(-1, size)
            if raw[chosen].any():
                return True
    return False


def plan_restore(
    draft: Draft, file: ImageFile, found: Anatomy, warn: Callable[[str], None]
) -> None:
    """Plan the metadata of a copy into the image; raises RefusedError where it does not fit."""
    overlay = draft.overlay
    if found.image is not None:
        _refuse_other(draft, file, found.image)
    end = int(found.end[-1])
    if end > overlay.base.size:
        raise RefusedError(
            f"{overlay.path}: has {overlay.base.size:#x} bytes, but the metadata of {file.path}"
            f" ends at {end:#x}: it is another image, or was cut"
        )
    if file.size != overlay.base.size:
        warn(
            f"warning: {overlay.path} has {overlay.base.size} bytes and {file.path} {file.size}:"
            " the image was written to since, or is another one"
        )
    overlay.borrow(
        [
            Graft(start, stop, file, start)
            for start, stop in zip(found.start.tolist(), found.end.tolist(), strict=True)
        ]
    )
    first, last = overlay.changed()
    if not first.size:
        return
    draft.note(
        Change(
            "copy",
            f"metadata put back from {os.path.basename(file.path)}: {size_text(found.length)};"
            f" {counted(int((last - first).sum()), 'sector')} of the image become others",
            host=int(first[0]) * 512,
            units=int((last - first).sum()),
        )
    )
    draft.examine()
    if told_changes(draft):
        warn(
            "with this metadata the guest reads something else than now: what it wrote to new"
            " places after the copy was made is not led to any more"
        )


def _refuse_other(draft: Draft, file: ImageFile, copied: Image) -> None:
    """Raise RefusedError where an image whose header can be believed has another geometry."""
    image, path = draft.before.image, draft.overlay.path
    if image is None or draft.before.status in DAMAGED:
        return
    for what, old, new in (
        ("clusters of {} bytes", image.geometry.cluster_size, copied.geometry.cluster_size),
        ("encryption method {}", image.header.crypt_method, copied.header.crypt_method),
        ("data file: {}", image.geometry.data_file, copied.geometry.data_file),
        ("16-byte L2 entries: {}", image.geometry.extended, copied.geometry.extended),
    ):
        if old != new:
            raise RefusedError(
                f"{file.path}: is the metadata of another image: it has {what.format(new)},"
                f" {path} has {what.format(old)}"
            )
