"""Catalogue, pass H: header extensions, and names that lead out of the image."""

from qfix.errors import Status
from qfix.problems.header import HEX_EDIT
from qfix.problems.model import Safety, Severity, error, remark

SAFE, LOSSY, MANUAL = Safety.SAFE, Safety.LOSSY, Safety.MANUAL
NOTE, WARNING = Severity.NOTE, Severity.WARNING
METADATA, UNSUPPORTED = Status.METADATA, Status.UNSUPPORTED

EXTENSION_OVERRUN = error(
    "H130",
    "extension-overrun",
    "header extension",
    METADATA,
    LOSSY,
    "Header extension too large: the one at {host:#x} does not fit",
    "QEMU does not open the image; extensions behind this one can't be read.",
    HEX_EDIT,
    fix="all",
)
EXTENSION_DOUBLE = error(
    "H131",
    "extension-double",
    "header extension",
    METADATA,
    MANUAL,
    "a second header extension of the kind {magic:#010x} ({kind})",
    "Programs may go by the first or by the last one.",
    "Find out which one is right.",
)
BACKING_OFFSET = error(
    "H132",
    "backing-name-outside",
    "header",
    METADATA,
    LOSSY,
    "Invalid backing file offset: {offset:#x} with {length} bytes is not inside the first cluster",
    "QEMU does not open the image; the name of the backing file can't be read.",
    HEX_EDIT + " The field stands at offset 8.",
    fix="all",
)
BACKING_LENGTH = error(
    "H133",
    "backing-name-too-long",
    "header",
    METADATA,
    LOSSY,
    "Backing file name too long: {length} bytes, at most 1023 are allowed",
    "QEMU does not open the image; the name of the backing file can't be read.",
    HEX_EDIT + " The field stands at offset 16.",
    fix="all",
)
BACKING_OVERLAP = error(
    "H134",
    "backing-name-overlaps-header",
    "header",
    METADATA,
    LOSSY,
    "the backing file name at {offset:#x} lies over the header or its extensions (to {end:#x})",
    "The name, and with it all data that comes from the backing file, is probably wrong.",
    HEX_EDIT + " The field stands at offset 8.",
    fix="all",
)
CONTROL_CHARACTERS = remark(
    "H135",
    "name-control-characters",
    "name",
    WARNING,
    MANUAL,
    "the {what} holds control characters: {text}",
    "It can deceive people and programs that show or parse it.",
    "Do not use the image if you do not know where it comes from.",
)
EXTERNAL_BACKING = remark(
    "H136",
    "external-backing-file",
    "header",
    NOTE,
    MANUAL,
    "refers to another file as its backing file: {text}",
    "The guest reads that file wherever this image has nothing of its own. It was not opened.",
    "Refuse such an image if it comes from somebody you do not trust.",
)
EXTERNAL_DATA = remark(
    "H137",
    "external-data-file",
    "header",
    NOTE,
    MANUAL,
    "keeps the guest's data in another file: {text}",
    "This file holds tables only. The data file was not opened.",
    "Refuse such an image if it comes from somebody you do not trust.",
)
BACKING_MISSING = remark(
    "H138",
    "backing-file-missing",
    "header",
    WARNING,
    MANUAL,
    "the backing file is not there: {text}",
    "The image itself may be sound, but nothing can open it without that file.",
    "Bring the file back, or correct its name with `qemu-img rebase -u`. -b leaves this look out.",
)
BACKING_SELF = error(
    "H139",
    "backing-file-is-itself",
    "header",
    METADATA,
    MANUAL,
    "the backing file is the image itself: {text}",
    "A program that follows the chain never ends.",
    "Correct the name with `qemu-img rebase -u`.",
)
BACKING_FORMAT = error(
    "H140",
    "backing-format-too-long",
    "header extension",
    METADATA,
    LOSSY,
    "ERROR: ext_backing_format: len={length} too large (>=16)",
    "QEMU does not open the image.",
    HEX_EDIT,
    fix="all",
)
CRYPT_POINTER_MISSING = error(
    "H141",
    "encryption-pointer-missing",
    "header extension",
    METADATA,
    MANUAL,
    "Missing CRYPTO header for crypt method 2",
    "Without the pointer the key slots, and so the guest's data, can't be read.",
    "Do not write to the image: the encryption header looks unused. " + HEX_EDIT,
)
CRYPT_POINTER_NEEDLESS = error(
    "H142",
    "encryption-pointer-needless",
    "header extension",
    METADATA,
    SAFE,
    "CRYPTO header extension only expected with LUKS encryption method",
    "QEMU does not open the image. crypt_method is probably damaged.",
    HEX_EDIT + " crypt_method stands at offset 32: 2 is LUKS.",
    fix="all",
)
CRYPT_POINTER_RANGE = error(
    "H143",
    "encryption-header-out-of-range",
    "header extension",
    METADATA,
    SAFE,
    "the encryption header ({offset:#x}, {length} bytes) is unaligned or not inside the file",
    "Without the key slots the guest's data can't be read.",
    "Do not write to the image: the encryption header looks unused. " + HEX_EDIT,
    fix="all",
)
CRYPT_HEADER = error(
    "H144",
    "encryption-header-damaged",
    "encryption header",
    METADATA,
    MANUAL,
    "the encryption header at {host:#x} does not start with the LUKS magic",
    "Without the key slots the guest's data can't be read.",
    "Do not write to the image. Restore the area from a backup of the LUKS header.",
)
RAW_WITHOUT_DATA_FILE = error(
    "H145",
    "raw-data-without-data-file",
    "header",
    METADATA,
    SAFE,
    "data-file-raw requires a data file, but the data file bit is clear",
    "QEMU does not open the image. One of the two bits is damaged.",
    HEX_EDIT + " The bits are 2 at offset 72 and 1 at offset 88.",
    fix="all",
)
RAW_WITH_BACKING = error(
    "H148",
    "raw-data-with-backing-file",
    "header",
    METADATA,
    MANUAL,
    "the data file is marked as raw, but there is a backing file",
    "Read as a raw disk, the data file would lack what the backing file holds.",
    "Flatten the image, or clear the mark with `qemu-img amend -o data_file_raw=off`.",
)
EXTENSIONS_IGNORED = error(
    "H150",
    "extensions-ignored",
    "header",
    METADATA,
    SAFE,
    "header_length {header_length} reaches behind the start of the backing file name {offset:#x},"
    " so all header extensions are ignored",
    "Backing format, bitmaps, encryption and data file are not found.",
    HEX_EDIT,
    fix="all",
)
