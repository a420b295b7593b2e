"""Pass H: header extensions, names, and the files they lead to."""

import os
from collections.abc import Iterator

from qfix.image import Image, printable
from qfix.layout import extensions, header
from qfix.problems import Findings
from qfix.problems import extensions as problems

MOST_DOUBLES = 10_000


def extensions_fit(image: Image) -> Iterator[Findings]:
    """Every extension fits its area and stands there once (format 3)."""
    area, head = image.area, image.header
    if area.overrun is not None:
        yield problems.EXTENSION_OVERRUN.at(0, host=area.overrun)
    offset = head.backing_file_offset
    if 0 < offset <= head.header_length and head.version >= 3:
        yield problems.EXTENSIONS_IGNORED.at(0, header_length=head.header_length, offset=offset)
    seen: set[int] = set()
    doubles: list[tuple[int, extensions.Extension]] = []
    for index, extension in enumerate(area.extensions):
        if extension.magic in seen and extension.magic in extensions.NAMES:
            doubles.append((index, extension))
        seen.add(extension.magic)
    if doubles:
        yield _doubles(doubles)


def _doubles(doubles: list[tuple[int, extensions.Extension]]) -> Findings:
    kept = doubles[:MOST_DOUBLES]
    facts = {
        "magic": [extension.magic for _, extension in kept],
        "kind": [extension.name for _, extension in kept],
        "host": [extension.offset for _, extension in kept],
    }
    first = [index for index, _ in kept]
    dropped = len(doubles) - len(kept)
    return Findings(problems.EXTENSION_DOUBLE, first, [1] * len(kept), facts, dropped)


def backing_name_fits(image: Image) -> Iterator[Findings]:
    """The backing file's name is in the first cluster, behind the extensions (format 11)."""
    head = image.header
    offset, length = head.backing_file_offset, head.backing_file_size
    size = image.geometry.cluster_size
    if offset > size and not length:
        yield problems.BACKING_OFFSET.at(0, offset=offset, length=length, host=8)
    if offset and length:
        if length > header.MAX_BACKING_NAME:
            yield problems.BACKING_LENGTH.at(0, length=length, host=16)
        elif offset + length > size:
            yield problems.BACKING_OFFSET.at(0, offset=offset, length=length, host=8)
        elif offset < head.header_length:
            yield problems.BACKING_OVERLAP.at(0, offset=offset, end=head.header_length, host=8)
    found = image.area.find(extensions.BACKING_FORMAT)
    if found and len(found.data) > header.MAX_BACKING_FORMAT:
        yield problems.BACKING_FORMAT.at(0, length=len(found.data), host=found.offset)


def encryption_agrees(image: Image) -> Iterator[Findings]:
    """The encryption header pointer is there when it should be, and leads to a LUKS header."""
    found = image.area.find(extensions.ENCRYPTION)
    if image.header.crypt_method != header.CRYPT_LUKS:
        if found:
            yield problems.CRYPT_POINTER_NEEDLESS.at(0, host=found.offset)
        return
    pointer = image.encryption
    if pointer is None:
        yield problems.CRYPT_POINTER_MISSING.at(0, host=image.area.end)
        return
    end = pointer.offset + pointer.length
    unaligned = pointer.offset % image.geometry.cluster_size or not pointer.offset
    if unaligned or end > image.geometry.file_length:
        host = found.offset if found else 0
        yield problems.CRYPT_POINTER_RANGE.at(
            0, offset=pointer.offset, length=pointer.length, host=host
        )
    elif image.file.read(pointer.offset, 6) != extensions.LUKS_MAGIC:
        yield problems.CRYPT_HEADER.at(0, host=pointer.offset)


def data_file_agrees(image: Image) -> Iterator[Findings]:
    """An external data file is told as such; the raw mark has what it needs (format 12)."""
    raw = image.header.autoclear_features & header.RAW_DATA_FILE
    if image.geometry.data_file:
        name = image.data_file_name
        text = printable(name) if name is not None else "(its name is given at run time)"
        yield problems.EXTERNAL_DATA.at(0, text=[text])
        if raw and image.header.backing_file_offset:
            yield problems.RAW_WITH_BACKING.at(0, host=88)
    elif raw:
        yield problems.RAW_WITHOUT_DATA_FILE.at(0, host=88)


def names_are_printable(image: Image) -> Iterator[Findings]:
    """No name holds control characters."""
    names = [
        ("backing file name", image.head.backing_name),
        ("data file name", image.data_file_name),
    ]
    found = image.area.find(extensions.BACKING_FORMAT)
    names.append(("backing format", found.data if found else None))
    for item in image.snapshots:
        names.append((f"id of snapshot {item.index}", item.id_str))
        names.append((f"name of snapshot {item.index}", item.name))
    directory = image.directory
    listed = directory.bitmaps if directory else ()
    names += [(f"name of bitmap {item.index}", item.name) for item in listed]
    odd = [(what, printable(name)) for what, name in names if name and has_controls(name)]
    if odd:
        whats, texts = zip(*odd, strict=True)
        yield problems.CONTROL_CHARACTERS.at(
            list(range(len(odd))), what=list(whats), text=list(texts)
        )


def backing_file_is_told(image: Image) -> Iterator[Findings]:
    """A backing file is named; the name is not followed."""
    name = image.head.backing_name
    if name is not None:
        yield problems.EXTERNAL_BACKING.at(0, text=[printable(name)])


def backing_file_is_there(image: Image) -> Iterator[Findings]:
    """One look with stat: the backing file exists and is not the image itself."""
    plain = _local(image.head.backing_name or b"")
    if not plain:
        return
    folder = os.path.dirname(os.path.realpath(os.fsencode(image.file.path)))
    text = [printable(image.head.backing_name or b"")]
    try:
        there = os.stat(os.path.join(folder, plain))
    except OSError:
        yield problems.BACKING_MISSING.at(0, text=text)
        return
    here = os.fstat(image.file.fd)
    if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino):
        yield problems.BACKING_SELF.at(0, text=text)


def _local(name: bytes) -> bytes:
    """Return the path that a backing file name is, b"" where it leads elsewhere.

    As in QEMU a word and a colon before the first slash name a protocol. Behind `file:` a relative
    path starts at the folder that QEMU runs in, which is not known here.
    """
    plain = name.removeprefix(b"file:")
    protocol = b":" in name.partition(b"/")[0]
    if b"\0" in name or (protocol and (plain == name or not plain.startswith(b"/"))):
        return b""
    return plain


def has_controls(name: bytes) -> bool:
    """Tell whether a name holds characters that a terminal may act upon."""
    return any(not c.isprintable() for c in name.decode("utf-8", "replace"))


CHECKS = (
    extensions_fit,
    backing_name_fits,
    encryption_agrees,
    data_file_agrees,
    names_are_printable,
    backing_file_is_told,
)
