"""Kinds: the types that a field of a model can have, as the constants of a migration name them.

A kind knows its number in protobuf's descriptors, the Python type of its values, and, where a
field of it can be part of a key or an index, the codec of its values.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from google.protobuf.descriptor import FieldDescriptor as FD
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from everlog.store import codec

T = TypeVar("T")


def described(name: str) -> str:
    """The name of a type with its article, for a sentence."""
    return f"{'an' if name[:1] in 'aeio' else 'a'} {name}"


class Kind(Generic[T]):
    """The type of a field: `name` as a `.proto` file says it, and the codec of its values."""

    def __init__(  # noqa: PLR0917  the table below is read by columns
        self,
        name: str,
        number: int,
        types: tuple[type, ...],
        encode: codec.Encode | None = None,
        decode: codec.Decode | None = None,
        skip: codec.Skip | None = None,
    ) -> None:
        self.name = name
        self.number = number  # FieldDescriptorProto.Type
        self.types = types  # what isinstance() of a value must hold for
        self.encode = encode
        self.decode = decode
        self.skip = skip  # past a value, without decoding it

    def __repr__(self) -> str:
        return self.name.upper()

    @property
    def described(self) -> str:
        """The name with its article, for a sentence: `an int64`, `a string`."""
        return described(self.name)


_SKIP_8 = codec.skip_fixed(8)
_INT = ((int,), codec.encode_int, codec.decode_int, _SKIP_8)
_UINT = ((int,), codec.encode_uint, codec.decode_uint, _SKIP_8)
_FLOAT = ((float, int), codec.encode_float32, codec.decode_float, _SKIP_8)
_DOUBLE = ((float, int), codec.encode_float, codec.decode_float, _SKIP_8)

BOOL = Kind[bool]("bool", FD.TYPE_BOOL, (bool,), codec.encode_bool, codec.decode_bool, codec.skip_fixed(1))
INT32 = Kind[int]("int32", FD.TYPE_INT32, *_INT)
INT64 = Kind[int]("int64", FD.TYPE_INT64, *_INT)
SINT32 = Kind[int]("sint32", FD.TYPE_SINT32, *_INT)
SINT64 = Kind[int]("sint64", FD.TYPE_SINT64, *_INT)
SFIXED32 = Kind[int]("sfixed32", FD.TYPE_SFIXED32, *_INT)
SFIXED64 = Kind[int]("sfixed64", FD.TYPE_SFIXED64, *_INT)
UINT32 = Kind[int]("uint32", FD.TYPE_UINT32, *_UINT)
UINT64 = Kind[int]("uint64", FD.TYPE_UINT64, *_UINT)
FIXED32 = Kind[int]("fixed32", FD.TYPE_FIXED32, *_UINT)
FIXED64 = Kind[int]("fixed64", FD.TYPE_FIXED64, *_UINT)
FLOAT = Kind[float]("float", FD.TYPE_FLOAT, *_FLOAT)
DOUBLE = Kind[float]("double", FD.TYPE_DOUBLE, *_DOUBLE)
STRING = Kind[str](
    "string", FD.TYPE_STRING, (str,), codec.encode_string, codec.decode_string, codec.skip_text
)
BYTES = Kind[bytes]("bytes", FD.TYPE_BYTES, (bytes,), codec.encode_bytes, codec.decode_bytes, codec.skip_text)
ENUM = Kind[int]("enum", FD.TYPE_ENUM, *_INT)
MESSAGE = Kind[Message]("message", FD.TYPE_MESSAGE, (Message,))
TIMESTAMP = Kind[Timestamp](
    "google.protobuf.Timestamp",
    FD.TYPE_MESSAGE,
    (Timestamp,),
    codec.encode_timestamp,
    codec.decode_timestamp,
    codec.skip_fixed(12),
)

_BY_NUMBER: dict[int, Kind[Any]] = {
    kind.number: kind for kind in list(globals().values()) if isinstance(kind, Kind) and kind is not TIMESTAMP
}
_BY_NUMBER[FD.TYPE_GROUP] = MESSAGE  # another way of writing one: of proto2, or `DELIMITED` in an edition


def kind_of(field: FD) -> Kind[Any]:
    """The kind of a field of a model."""
    if field.message_type is not None and field.message_type.full_name == TIMESTAMP.name:
        return TIMESTAMP
    return _BY_NUMBER[field.type]
