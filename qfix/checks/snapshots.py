"""Pass S: the snapshot table, and each of its entries by itself and among the others."""

from collections.abc import Iterator

from qfix.image import Image, printable
from qfix.layout import header, snapshots
from qfix.layout.snapshots import Snapshot
from qfix.problems import Findings
from qfix.problems import snapshots as problems


def table_is_inside(image: Image) -> Iterator[Findings]:
    """The snapshot table is aligned, inside the file, and can be read to its end (format 7)."""
    head, geometry = image.header, image.geometry
    offset, count = head.snapshots_offset, head.nb_snapshots
    if offset % geometry.cluster_size or offset > header.MAX_FILE_OFFSET:
        yield problems.TABLE_UNALIGNED.at(0, offset=offset, snapshots=count, host=64)
        return
    if count > header.MAX_SNAPSHOTS:
        plausible = sum(bool(item.id_str) for item in image.snapshots)
        yield problems.TOO_MANY.at(0, snapshots=count, plausible=plausible, host=60)
    if not count:
        return
    found, end = image.snapshot_table
    if not offset or offset >= geometry.file_length:
        yield problems.TABLE_OUTSIDE.at(0, offset=offset, host=64)
    elif end.reason:
        lost = min(count, header.MAX_SNAPSHOTS) - len(found)
        yield problems.OVERRUN.at(len(found), [lost], reason=[end.reason], host=offset + end.size)
    elif count <= header.MAX_SNAPSHOTS and offset + end.size > geometry.file_length:
        lost = max(1, end.behind)
        first = min(len(found), count - lost)
        yield problems.OVERRUN.at(
            first, [lost], reason=["the file ends there"], host=geometry.file_length
        )
    if geometry.data_file:
        yield problems.WITH_DATA_FILE.at(0, snapshots=count, host=60)


def entries_are_whole(image: Image) -> Iterator[Findings]:
    """Each entry has the extra data that it must have, and not more than it may have."""
    for item in _real(image):
        extra = item.entry.extra_data_size
        if extra > snapshots.MAX_EXTRA:
            yield problems.EXTRA_TOO_LARGE.at(item.index, size=extra, host=item.offset)
        elif extra < snapshots.MIN_EXTRA_V3 and image.header.version >= 3:
            yield problems.EXTRA_TOO_SMALL.at(item.index, host=item.offset)


def entries_are_not_zero(image: Image) -> Iterator[Findings]:
    """No entry is made of nothing but zeros."""
    first: list[int] = []
    count: list[int] = []
    host: list[int] = []
    for item in image.snapshots:
        if not _is_phantom(item):
            continue
        if first and item.index == first[-1] + count[-1]:
            count[-1] += 1
        else:
            first, count, host = [*first, item.index], [*count, 1], [*host, item.offset]
    if first:
        yield problems.PHANTOM.at(first, count, host=host)


def names_are_unique(image: Image) -> Iterator[Findings]:
    """Ids and names are there, and no two snapshots share one."""
    seen: tuple[dict[bytes, int], dict[bytes, int]] = {}, {}
    doubles = (problems.ID_DOUBLE, problems.NAME_DOUBLE)
    empties = (problems.ID_EMPTY, problems.NAME_EMPTY)
    for item in _real(image):
        for word, known, double, empty in zip(
            (item.id_str, item.name), seen, doubles, empties, strict=True
        ):
            if not word:
                yield empty.at(item.index, host=item.offset)
            elif word in known:
                yield double.at(
                    item.index, other=known[word], text=[printable(word)], host=item.offset
                )
            known.setdefault(word, item.index)


def l1_tables_are_inside(image: Image) -> Iterator[Findings]:
    """Each snapshot's L1 table is aligned, not too large, and inside the file."""
    geometry = image.geometry
    for item in _real(image):
        offset, entries = item.entry.l1_table_offset, item.entry.l1_size
        text = [title(item)]
        place = {"offset": [offset], "host": [item.offset], "text": text, "layer": [item.index + 1]}
        if offset % geometry.cluster_size:
            yield problems.L1_UNALIGNED.at(item.index, **place)
        elif entries > header.MAX_L1_ENTRIES:
            yield problems.L1_TOO_LARGE.at(item.index, entries=entries, **place)
        elif not offset or not entries:
            if entries or _needs_l1(image, item):
                yield problems.L1_EMPTY.at(item.index, entries=entries, **place)
        elif offset + entries * 8 > geometry.file_length:
            yield problems.L1_OUTSIDE.at(item.index, entries=entries, **place)


def disk_sizes_fit(image: Image) -> Iterator[Findings]:
    """Each snapshot's disk size is one that its L1 table can hold."""
    reach = image.geometry.bytes_per_l1_entry
    for item in _real(image):
        size, entries = item.disk_size, item.entry.l1_size
        if size is None or entries > header.MAX_L1_ENTRIES or not item.entry.l1_table_offset:
            continue
        vanished = not size and entries and image.header.size
        if entries and (vanished or -(-size // reach) > entries):
            yield problems.DISK_SIZE.at(
                item.index, size=size, entries=entries, text=[title(item)], host=item.offset
            )


def title(item: Snapshot) -> str:
    """Return id and name of a snapshot for people, as qemu-img words them."""
    return f"{printable(item.id_str)} ({printable(item.name)})"


def _needs_l1(image: Image, item: Snapshot) -> bool:
    size = image.header.size if item.disk_size is None else item.disk_size
    return size > 0


def _is_phantom(item: Snapshot) -> bool:
    entry = item.entry
    return not any((entry.l1_table_offset, entry.l1_size, item.id_str, item.name, entry.date_sec))


def _real(image: Image) -> list[Snapshot]:
    return [item for item in image.snapshots if not _is_phantom(item)]


CHECKS = (
    table_is_inside,
    entries_are_whole,
    entries_are_not_zero,
    names_are_unique,
    l1_tables_are_inside,
    disk_sizes_fit,
)
