"""Pass H: encryption method and header pointer, told by the LUKS header itself (format 9)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qfix.change.draft import Change
from qfix.layout import extensions as layout
from qfix.layout import header
from qfix.layout.extensions import HEAD, EncryptionPointer
from qfix.problems import extensions as problems
from qfix.problems import header as header_problems
from qfix.recount.tally import CLAIMED
from qfix.repair.area import end_of_area, is_misread, limit_of, remove_extensions
from qfix.repair.fields import is_asked, note, refuse, set_field
from qfix.repair.owners import real_owners
from qfix.repair.search import find_luks_header, leaked_clusters

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qfix.change.draft import Draft
    from qfix.repair.wanted import Wanted

AES_TOLD = "if the data was encrypted with AES it now reads as ciphertext"
PAYLOAD_AT = 104
"""Where a LUKS header tells the sector that its key slots end before."""
SHORTEST = 592
POINTER = EncryptionPointer.codec.size


def settle_encryption(draft: Draft, wanted: Wanted) -> bool:
    """Let the encryption method agree with whether there is a LUKS header."""
    found = (header_problems.CRYPT_METHOD, problems.CRYPT_POINTER_NEEDLESS)
    if not is_asked(draft, wanted.all or wanted.lossy, *found) or is_misread(draft):
        return False
    code = next(problem.code for problem in found if draft.found(problem))
    if _leads_to_luks(draft):
        why = "the encryption header pointer leads to a LUKS header"
        set_field(draft, "crypt_method", header.CRYPT_LUKS, code, why)
        return True
    unknown = draft.found(header_problems.CRYPT_METHOD)
    if unknown and draft.found(problems.CRYPT_POINTER_NEEDLESS):
        why = "there is an encryption header pointer, but what it leads to is no LUKS header"
        return refuse(draft, wanted, code, why, "")
    if not wanted.lossy:
        why = "nothing tells whether the guest's data is encrypted"
        return refuse(draft, wanted, code, why)
    if unknown:
        set_field(draft, "crypt_method", 0, code, f"no LUKS header; {AES_TOLD}", lossy=True)
        return True
    for item in remove_extensions(draft, layout.ENCRYPTION):
        text = "the encryption header pointer, which leads to no LUKS header, is given up"
        old = item.data.hex()
        note(draft, Change(code, text, item.offset, 1, old, "removed", lossy=True))
    return True


def find_key_slots(draft: Draft, wanted: Wanted) -> bool:
    """Let the encryption header pointer lead to a LUKS header, by its place or its length."""
    problem = problems.CRYPT_POINTER_RANGE
    if not is_asked(draft, wanted.all or wanted.lossy, problem) or is_misread(draft):
        return False
    found, pointer = draft.image.area.find(layout.ENCRYPTION), draft.image.encryption
    offset = find_luks_header(draft)
    if found is None or pointer is None or offset is None:
        return False
    length = pointer.length
    if not SHORTEST <= length <= draft.image.geometry.file_length - offset:
        length = _length_of(draft, offset)
    return _write_pointer(draft, problem.code, found.offset, EncryptionPointer((offset, length)))


def restore_pointer(draft: Draft, wanted: Wanted) -> bool:
    """Give the image an encryption header pointer: one of another kind, or a new one.

    An extension that leads to a LUKS header can't be of another kind.
    """
    problem = problems.CRYPT_POINTER_MISSING
    if not is_asked(draft, wanted.all or wanted.lossy, problem) or is_misread(draft):
        return False
    for position in _heads(draft):
        raw = draft.image.head.raw[position + 4 : position + HEAD + POINTER]
        pointer = EncryptionPointer.decode(raw, 4)
        if int.from_bytes(raw[:4], "big") == POINTER and _is_luks(draft, pointer):
            return _write_pointer(draft, problem.code, position, pointer)
    offset = find_luks_header(draft)
    start = draft.image.header.header_length
    limit = limit_of(draft.image)
    end = end_of_area(draft.image.head.raw, start, limit)
    if offset is None or end is None or end + HEAD + POINTER > limit:
        return False
    draft.write(end, bytes(HEAD))
    pointer = EncryptionPointer((offset, _length_of(draft, offset)))
    draft.write(end + POINTER, bytes(HEAD))
    return _write_pointer(draft, problem.code, end - HEAD, pointer)


def _heads(draft: Draft) -> Iterator[int]:
    """Yield where extensions begin, and the end marker, as far as one can be a pointer."""
    area, most = draft.image.area, len(draft.image.head.raw) - HEAD - POINTER
    places = [*(item.offset for item in area.extensions), area.end - HEAD]
    yield from (place for place in places if 0 < place <= most)


def _write_pointer(draft: Draft, code: str, position: int, pointer: EncryptionPointer) -> bool:
    """Plan an encryption header pointer at *position*; return whether it is another one."""
    old = draft.overlay.read(position, HEAD + POINTER)
    new = b"".join(value.to_bytes(4, "big") for value in (layout.ENCRYPTION, POINTER))
    new += pointer.encode()
    if new == old:
        return False
    draft.write(position, new)
    text = f"encryption header pointer: a LUKS header stands at {pointer.offset:#x}"
    note(draft, Change(code, text, position, 1, old.hex(), new.hex()))
    return True


def _length_of(draft: Draft, offset: int) -> int:
    """Return the length of the LUKS header at *offset*, by itself or by the leaked clusters."""
    geometry = draft.image.geometry
    told = int.from_bytes(draft.overlay.read(offset + PAYLOAD_AT, 4), "big") * 512
    if SHORTEST <= told <= geometry.file_length - offset:
        return told
    clusters = leaked_clusters(draft)
    clusters = clusters[(real_owners(draft)[clusters] & CLAIMED) == 0]
    run = np.arange(offset >> geometry.cluster_bits, geometry.host_clusters)
    used = np.isin(run, clusters)
    count = run.size if used.all() else int(np.argmin(used))
    length = max(1, count) << geometry.cluster_bits
    return min(length, geometry.file_length - offset)


def _leads_to_luks(draft: Draft) -> bool:
    """Tell whether the encryption header pointer is sound, and a LUKS header is there."""
    pointer = draft.image.encryption
    return pointer is not None and _is_luks(draft, pointer)


def _is_luks(draft: Draft, pointer: EncryptionPointer) -> bool:
    geometry, magic = draft.image.geometry, layout.LUKS_MAGIC
    inside = 0 < pointer.offset <= geometry.file_length - pointer.length
    if not inside or pointer.offset % geometry.cluster_size:
        return False
    return draft.overlay.read(pointer.offset, len(magic)) == magic


PLANNERS = (settle_encryption, find_key_slots, restore_pointer)
