"""Pass H: the header's fields, by themselves and against each other and the file's size."""

from collections.abc import Iterator

from qfix.image import Head, Image
from qfix.layout import header
from qfix.problems import Findings
from qfix.problems import header as problems


def head_is_readable(head: Head) -> Iterator[Findings]:
    """The file begins with a header by which its tables can be found."""
    decoded = head.header
    if decoded is None:
        if head.hidden_cluster_size:
            yield problems.HEADER_OVERWRITTEN.at(
                0, guess=head.guess, cluster_size=head.hidden_cluster_size, host=0
            )
        else:
            yield problems.NOT_QCOW2.at(0, guess=head.guess, host=0)
        return
    needed = header.V2_LENGTH if decoded.version < 3 else header.V3_LENGTH
    if head.magic_damaged:
        yield problems.MAGIC_DAMAGED.at(0, magic=decoded.magic, host=0)
    if head.file.size < needed:
        yield problems.HEADER_CUT.at(0, size=head.file.size, needed=needed, host=0)
        return
    if decoded.version not in (2, 3):
        yield problems.VERSION_UNKNOWN.at(0, version=decoded.version, host=4)
        return
    bits = decoded.cluster_bits
    if not header.MIN_CLUSTER_BITS <= bits <= header.MAX_CLUSTER_BITS:
        yield problems.CLUSTER_BITS.at(0, cluster_bits=bits, host=20)


def geometry_is_possible(image: Image) -> Iterator[Findings]:
    """Widths, lengths and the virtual size are within their limits (format 2.1, 14)."""
    head, geometry = image.header, image.geometry
    if head.refcount_order > header.MAX_REFCOUNT_ORDER:
        yield problems.REFCOUNT_ORDER.at(0, refcount_order=head.refcount_order, host=96)
    if geometry.extended and head.cluster_bits < header.MIN_EXTENDED_CLUSTER_BITS:
        yield problems.SUBCLUSTER_SIZE.at(0, subcluster_size=geometry.cluster_size // 32, host=20)
    length = head.header_length
    if head.version >= 3 and not header.V3_LENGTH <= length <= geometry.cluster_size:
        yield problems.HEADER_LENGTH.at(
            0, header_length=length, cluster_size=geometry.cluster_size, host=100
        )
    elif length % 8:
        yield problems.HEADER_LENGTH_ODD.at(0, header_length=length, host=100)
    if head.crypt_method > header.CRYPT_LUKS:
        yield problems.CRYPT_METHOD.at(0, crypt_method=head.crypt_method, host=32)
    too_large = geometry.needed_l1_entries > header.MAX_L1_ENTRIES
    if too_large or head.size > header.MAX_VIRTUAL_SIZE:
        yield problems.VIRTUAL_SIZE.at(0, size=head.size, host=24)
    if head.size % 512:
        yield problems.VIRTUAL_SIZE_ODD.at(0, size=head.size, tail=head.size % 512, host=24)
    if geometry.host_clusters > header.MAX_CLUSTERS:
        yield problems.TOO_MANY_CLUSTERS.at(0, clusters=geometry.host_clusters)


def version_fits_fields(image: Image) -> Iterator[Findings]:
    """A version 2 header is not one of version 3 whose version field was changed."""
    if image.header.version != 2:
        return
    order, length = (int.from_bytes(image.head.raw[at : at + 4], "big") for at in (96, 100))
    lengths = (header.V3_LENGTH, header.FULL_LENGTH)
    if 0 < order <= header.MAX_REFCOUNT_ORDER and length in lengths:
        yield problems.VERSION_2_FIELDS.at(0, refcount_order=order, header_length=length, host=4)


def active_l1_is_inside(image: Image) -> Iterator[Findings]:
    """The active L1 table is aligned, inside the file, and as large as the disk needs."""
    head, geometry = image.header, image.geometry
    offset, length = head.l1_table_offset, head.l1_size * 8
    if head.l1_size > header.MAX_L1_ENTRIES:
        yield problems.L1_TOO_LARGE.at(0, l1_size=head.l1_size, host=36)
    needed = geometry.needed_l1_entries
    if head.l1_size < needed <= header.MAX_L1_ENTRIES:
        yield problems.L1_TOO_SMALL.at(0, l1_size=head.l1_size, needed=needed, host=36)
    if offset % geometry.cluster_size:
        yield problems.L1_OFFSET.at(0, offset=offset, host=40)
    if length and (not offset or offset + length > geometry.file_length):
        yield problems.L1_OUTSIDE.at(0, offset=offset, length=length, host=40)


def reftable_is_inside(image: Image) -> Iterator[Findings]:
    """The refcount table is aligned, inside the file, and not too large."""
    head, geometry = image.header, image.geometry
    offset, clusters = head.refcount_table_offset, head.refcount_table_clusters
    most = header.MAX_REFCOUNT_TABLE_BYTES // geometry.cluster_size
    if not clusters:
        yield problems.REFTABLE_EMPTY.at(0, host=56)
    if clusters > most:
        yield problems.REFTABLE_TOO_LARGE.at(0, clusters=clusters, most=most, host=56)
    if offset % geometry.cluster_size:
        yield problems.REFTABLE_OFFSET.at(0, offset=offset, host=48)
    length = clusters * geometry.cluster_size
    end = offset + length - geometry.cluster_size
    if clusters and (not offset or end >= geometry.file_length):
        yield problems.REFTABLE_OUTSIDE.at(0, offset=offset, length=length, host=48)


def marks_are_clear(image: Image) -> Iterator[Findings]:
    """Neither the dirty nor the corrupt mark is set, and every feature bit is known."""
    head = image.header
    incompatible, compatible, autoclear = head.words
    if incompatible & header.DIRTY:
        yield problems.DIRTY_MARK.at(0, host=72)
    if incompatible & header.CORRUPT:
        yield problems.CORRUPT_MARK.at(0, host=72)
    for word, bits, problem in (
        (0, incompatible & ~header.KNOWN_INCOMPATIBLE, problems.FEATURE_UNKNOWN),
        (1, compatible & ~header.KNOWN_COMPATIBLE, problems.COMPATIBLE_UNKNOWN),
        (2, autoclear & ~header.KNOWN_AUTOCLEAR, problems.AUTOCLEAR_UNKNOWN),
    ):
        if bits:
            names = [image.feature_text(word, bits)]
            yield problem.at(0, names=names, host=72 + 8 * word)


def compression_agrees(image: Image) -> Iterator[Findings]:
    """The compression type is known and agrees with its feature bit; padding is zero."""
    head = image.header
    if head.version < 3:
        return
    kind = image.head.compression_type
    flagged = bool(head.incompatible_features & header.COMPRESSION_TYPE)
    if kind >= len(header.COMPRESSION_NAMES):
        yield problems.COMPRESSION_UNKNOWN.at(0, compression_type=kind, host=104)
    elif flagged != bool(kind):
        yield problems.COMPRESSION_BIT.at(0, must=["must not" if flagged else "must"], host=72)
    end = min(head.header_length, header.FULL_LENGTH)
    if image.head.raw[105:end].strip(b"\0"):
        yield problems.PADDING.at(0, host=105)


def tables_can_be_read(image: Image) -> Iterator[Findings]:
    """The host could read every table that was asked for so far."""
    if image.unreadable:
        offsets, lengths, whats = zip(*sorted(set(image.unreadable)), strict=True)
        yield problems.UNREADABLE.at(
            [offset >> image.geometry.cluster_bits for offset in offsets],
            host=list(offsets),
            length=list(lengths),
            what=list(whats),
        )


CHECKS = (
    geometry_is_possible,
    version_fits_fields,
    active_l1_is_inside,
    reftable_is_inside,
    marks_are_clear,
    compression_agrees,
)
