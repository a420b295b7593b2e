"""Record: one declaration of a big-endian structure decodes, encodes and names its fields."""

import struct
from collections.abc import Iterator
from operator import itemgetter
from typing import Annotated, ClassVar, NamedTuple, Self, get_args

U8 = Annotated[int, "B", "d"]
U16 = Annotated[int, "H", "d"]
U32 = Annotated[int, "I", "d"]
U64 = Annotated[int, "Q", "d"]
Hex32 = Annotated[int, "I", "#x"]
Offset = Annotated[int, "Q", "#x"]
Bits = Annotated[int, "Q", "#x"]


class Field(NamedTuple):
    """One field of a record: name, offset in the record and width in bytes, display format."""

    name: str
    offset: int
    width: int
    display: str


class Record(tuple[int, ...]):
    """Base of all on-disk structures: fields are `Annotated[int, struct code, display format]`.

    A tuple of the fields' values, each also an attribute; no code is generated for a class, so
    that declaring one costs next to nothing at start-up.
    """

    __slots__ = ()
    codec: ClassVar[struct.Struct]
    names: ClassVar[tuple[str, ...]]
    displays: ClassVar[tuple[str, ...]]

    def __init_subclass__(cls) -> None:
        """Join the struct codes of the annotated fields into one big-endian codec."""
        annotated = {
            name: get_args(hint)[1:]
            for name, hint in cls.__annotations__.items()
            if len(get_args(hint)) == 3
        }
        cls.names = tuple(annotated)
        cls.displays = tuple(display for _, display in annotated.values())
        cls.codec = struct.Struct(">" + "".join(code for code, _ in annotated.values()))
        for index, name in enumerate(annotated):
            setattr(cls, name, property(itemgetter(index)))

    @classmethod
    def decode(cls, raw: bytes, offset: int = 0) -> Self:
        """Return the record at *offset* in *raw*, which must hold all of it."""
        return cls(cls.codec.unpack_from(raw, offset))

    def encode(self) -> bytes:
        """Return the bytes of this record."""
        return self.codec.pack(*self)

    @classmethod
    def fields(cls) -> Iterator[Field]:
        """Yield each field with its place."""
        offset = 0
        for name, code, display in zip(cls.names, cls.codec.format[1:], cls.displays, strict=True):
            width = struct.calcsize(">" + code)
            yield Field(name, offset, width, display)
            offset += width
