"""-m copy --metadata and --restore-metadata: all but the guest's data copied out, and put back."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from qfix.edits.anatomy import Anatomy, anatomy
from qfix.edits.bytes_copy import counted, size_text
from qfix.edits.neutral import neutral
from qfix.edits.restore import metadata_copy, plan_restore
from qfix.edits.sparse_file import disk_bytes, fill, new_file, refuse_present
from qfix.examine import Diagnosis
from qfix.layout.header import CRYPT_LUKS
from qfix.modes.carry import carry_out
from qfix.modes.look import emit, note, opened, say, shown_path
from qfix.report import text
from qfix.report.progress import progress
from qfix.report.rows import quoted, repair_command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.file import ImageFile
    from qfix.modes.options import Options


class Copied(NamedTuple):
    """What a metadata copy holds; with a dry run what it would hold.

    `on_disk` is None for a dry run, `doubtful` counts the clusters that may hold guest data,
    `left_out` those of them that are not in the copy.
    """

    found: Anatomy
    metadata: int
    clusters: int
    written: int
    unreadable: int
    on_disk: int | None
    doubtful: int
    left_out: int


def metadata(path: str, options: Options) -> Diagnosis:
    """Copy the metadata of an image to a new file; the image is only read."""
    out = options.metadata or ""
    refuse_present(out, path)
    with opened(path, options) as looked:
        with progress() as tell:
            found = anatomy(looked.file, tell)
        copied = _copied(looked.file, found, out, options)
        if options.json:
            emit(_record(path, out, looked.file, copied, options), options)
        else:
            say(_page(path, out, looked.file, copied, options))
    return Diagnosis(found.head, found.image, (), None)


def _copied(file: ImageFile, found: Anatomy, out: str, options: Options) -> Copied:
    chosen, patches = neutral(found) if options.anonymize else (found, [])
    clusters = found.clusters().size
    copied = Copied(
        found=found,
        metadata=chosen.length + sum(len(data) for _, data in patches),
        clusters=clusters,
        written=0,
        unreadable=0,
        on_disk=None,
        doubtful=found.doubtful().size,
        left_out=0,
    )
    if options.anonymize:
        kept = chosen._replace(lost=found.lost)
        copied = copied._replace(left_out=found.doubtful().size - kept.doubtful().size)
    if options.dry_run:
        return copied
    with new_file(out) as fd:
        written, unreadable = fill(fd, file, chosen.start, chosen.end, patches)
        return copied._replace(written=written, unreadable=unreadable, on_disk=disk_bytes(fd))


def _record(
    path: str, out: str, file: ImageFile, copied: Copied, options: Options
) -> dict[str, Any]:
    image = copied.found.image
    return {
        "filename": path,
        "out": out,
        "dry-run": options.dry_run,
        "anonymized": options.anonymize,
        "file-size": file.size,
        "cluster-size": image.geometry.cluster_size if image else None,
        "tables-read": copied.found.made is not None,
        "clusters": copied.clusters,
        "metadata-bytes": copied.metadata,
        "bytes-written": copied.written,
        "bytes-on-disk": copied.on_disk,
        "bytes-unreadable": copied.unreadable,
        "clusters-of-lost-tables": int(copied.found.lost.size),
        "clusters-also-guest-data": copied.doubtful,
        "clusters-left-out": copied.left_out,
        "key-slots": _has_key_slots(copied) and not options.anonymize,
    }


def _has_key_slots(copied: Copied) -> bool:
    image = copied.found.image
    luks = image is not None and image.header.crypt_method == CRYPT_LUKS
    return luks and image is not None and image.encryption is not None


def _page(path: str, out: str, file: ImageFile, copied: Copied, options: Options) -> Iterator[str]:
    taken = "" if copied.on_disk is None else f", {text.human(copied.on_disk)} on disk"
    yield f"image: {shown_path(path)}"
    yield from text.pairs(
        (
            ("metadata", f"{text.human(copied.metadata)} in {counted(copied.clusters, 'cluster')}"),
            ("copy", f"{shown_path(out)}: {text.human(file.size)} long{taken}"),
            ("names", "replaced" if options.anonymize else "as in the image"),
        )
    )
    yield from (f"note: {line}" for line in _notes(copied, options))
    yield ""
    if options.dry_run:
        yield "Nothing was written."
        return
    yield "Done; all else, and with it the guest's data, is a hole in the copy."
    yield "What to do next:"
    yield f"  qfix {quoted(out)}   finds in the copy what it finds in the image"
    if not options.anonymize and copied.found.made is not None:
        back = f"-m copy --restore-metadata {quoted(out)}"
        yield f"  {repair_command(path, back)}   puts the metadata back"


def _notes(copied: Copied, options: Options) -> Iterator[str]:
    """Yield what whoever gives the copy away, or relies on it, must know."""
    if copied.found.made is None:
        yield (
            "the tables can't be read by this header, so they are not in the copy: it can't be put"
            " back as a whole"
        )
    if _has_key_slots(copied):
        kept = "are left out" if options.anonymize else "are in the copy: do not give it away"
        yield f"the image is encrypted; its key slots {kept}"
    if copied.left_out:
        yield (
            f"{counted(copied.left_out, 'cluster')} that may be guest data"
            " are left out, though pointers lead there as tables: a check of the copy may find"
            " something else"
        )
    elif copied.doubtful and not options.anonymize:
        yield (
            f"{counted(copied.doubtful, 'cluster')} that pointers lead to as tables may hold guest"
            " data: it is mapped there too, or they do not read as tables (--anonymize leaves them"
            " out)"
        )
    lost = copied.found.lost.size
    if lost and not options.anonymize:
        yield f"{counted(lost, 'leaked cluster')} in it read as tables, and may be guest data"
    if copied.unreadable:
        yield f"{size_text(copied.unreadable)} of it can't be read from the disk and are zeros"


def restore(path: str, options: Options) -> Diagnosis:
    """Put the metadata of a copy back into the image, by the one road."""
    name = options.restore_metadata or ""
    with metadata_copy(name, path, note) as (file, found):
        plan = partial(plan_restore, file=file, found=found, warn=note)
        asked = f"-m copy --restore-metadata {quoted(name)}"
        asked += " --no-undo" if options.no_undo else ""
        return carry_out(path, options, asked, plan, deliberate=True, careful=True)
