"""Pass D: what the mapping promises about the guest's data."""

from collections.abc import Iterator

from qfix.image import Image
from qfix.layout import header
from qfix.problems import Findings
from qfix.problems import tables as problems
from qfix.recount import Recount


def raw_data_is_mapped(image: Image, made: Recount) -> Iterator[Findings]:
    """Every guest cluster of an image with a raw data file is mapped (format 12)."""
    if not image.geometry.data_file or not image.header.autoclear_features & header.RAW_DATA_FILE:
        return
    unmapped = image.geometry.guest_clusters - made.tally.statistics.allocated
    if unmapped > 0:
        yield problems.RAW_UNMAPPED.at(0, clusters=unmapped)
