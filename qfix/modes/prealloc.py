"""How an image was preallocated, told from its tables and the file's holes (format 13)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qfix.recount import recount

if TYPE_CHECKING:
    from qfix.examine import Diagnosis


def preallocation(diagnosis: Diagnosis) -> str | None:
    """Return `off`, `metadata` or `full`, None where the tables can't be read.

    Every cluster of the disk is mapped in a preallocated image; `full` ones have their space
    on disk, `metadata` ones only in the tables. A sparse image is `off` whatever its layout.
    """
    image = diagnosis.image
    if image is None:
        return None
    mapped = recount(image).tally.statistics.allocated
    if not mapped or mapped < image.geometry.guest_clusters:
        return "off"
    allocated = image.file.allocated()
    return (
        "metadata" if allocated is not None and allocated < image.geometry.virtual_size else "full"
    )
