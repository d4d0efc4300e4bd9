"""Codec: the kinds of fields, and their encoding as bytes whose order is the order of the values.

    value     := bool | int | uint | float | text | timestamp
    bool      := 0x00 | 0x01
    int       := (value + 2^63):u64be         int32 int64 sint sfixed, and enums by number
    uint      := value:u64be                  uint32 uint64 fixed
    float     := u64be of the IEEE double, all bits flipped if negative, else the sign bit
    text      := byte* 0x00 0x01              each 0x00 in it as 0x00 0xFF; strings as UTF-8
    timestamp := seconds:int nanos:i32be            invalid negative nanos sort last
    optional  := 0x00 | 0x01 value            in an index, for a field that may be absent

A `Kind` is the type of a field as migrations name it: its number in protobuf's descriptors, the Python type
of its values and, if it can be part of a key or an index, its codec.

Invariants
  (1) encode(a) < encode(b) as bytes exactly if a < b; no encoding is a prefix of another;
  (2) decode(encode(a)) == a, except that -0.0 becomes 0.0 and every NaN becomes one (the greatest);
  (3) all integers take eight bytes, so widening a field rewrites no key.

Order-preserving, self-delimiting values follow FoundationDB's tuple layer. The numbers here are on disk:
docs/format.md, "Keys".
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from google.protobuf.descriptor import FieldDescriptor as FD
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

Encode = Callable[[Any], bytes]
Decode = Callable[[bytes, int], tuple[Any, int]]
Skip = Callable[[bytes, int], int]

_U64 = struct.Struct(">Q")
_U64_PACK = _U64.pack
_F32 = struct.Struct(">f")
_F64 = struct.Struct(">d")
_SECONDS_NANOS = struct.Struct(">Qi")
_SIGN = 1 << 63
_MASK = (1 << 64) - 1
_NAN = b"\xff\xf8" + bytes(6)

encode_uint: Encode = _U64_PACK


def size_of(row: Message) -> int:
    """Return the serialized size of a row in bytes, also of one without its required fields: it may have been
    written before they were required, and one that is to be written is refused with a reason later."""
    return len(row.SerializePartialToString())


def encode_bool(value: bool) -> bytes:
    return b"\x01" if value else b"\x00"


def encode_int(value: int) -> bytes:
    return _U64_PACK(value + _SIGN)


def encode_float(value: float) -> bytes:
    if math.isnan(value):
        return _NAN
    bits: int = _U64.unpack(_F64.pack(value + 0.0))[0]  # adding 0.0 makes -0.0 0.0
    return _U64_PACK(bits ^ (_MASK if bits & _SIGN else _SIGN))


def encode_float32(value: float) -> bytes:
    """Encode a caller's value as the nearest `float`. Raises OverflowError."""
    return encode_float(_F32.unpack(_F32.pack(value))[0])


def encode_bytes(value: bytes) -> bytes:
    if b"\x00" in value:
        value = value.replace(b"\x00", b"\x00\xff")
    return value + b"\x00\x01"


def encode_string(value: str) -> bytes:
    try:
        raw = value.encode()
    except AttributeError:  # proto2 text that is not UTF-8, which protobuf returns as bytes
        raw = bytes(value)  # type: ignore[arg-type]
    if b"\x00" in raw:
        raw = raw.replace(b"\x00", b"\x00\xff")
    return raw + b"\x00\x01"


def encode_timestamp(value: Timestamp) -> bytes:
    return _SECONDS_NANOS.pack(value.seconds + _SIGN, value.nanos)


def decode_bool(data: bytes, at: int) -> tuple[bool, int]:
    if data[at] > 1:
        raise ValueError(f"expected 0x00 or 0x01 for a bool, found 0x{data[at]:02x}")
    return data[at] == 1, at + 1


def decode_uint(data: bytes, at: int) -> tuple[int, int]:
    return _U64.unpack_from(data, at)[0], at + 8


def decode_int(data: bytes, at: int) -> tuple[int, int]:
    return _U64.unpack_from(data, at)[0] - _SIGN, at + 8


def decode_float(data: bytes, at: int) -> tuple[float, int]:
    bits: int = _U64.unpack_from(data, at)[0]
    bits ^= _SIGN if bits & _SIGN else _MASK
    value: float = _F64.unpack(_U64_PACK(bits))[0]
    return value, at + 8


def decode_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    end = at
    while True:
        end = data.find(b"\x00", end)
        if end < 0 or end + 1 >= len(data):
            raise ValueError("expected text to end in 0x00 0x01, found the end of the key")
        mark = data[end + 1]
        if mark == 0x01:
            return data[at:end].replace(b"\x00\xff", b"\x00"), end + 2
        if mark != 0xFF:
            raise ValueError(f"expected 0x01 or 0xff after 0x00 in text, found 0x{mark:02x}")
        end += 2


def decode_string(data: bytes, at: int) -> tuple[str, int]:
    text, end = decode_bytes(data, at)
    return text.decode(), end


def decode_timestamp(data: bytes, at: int) -> tuple[Timestamp, int]:
    seconds, nanos = _SECONDS_NANOS.unpack_from(data, at)
    return Timestamp(seconds=seconds - _SIGN, nanos=nanos), at + 12


def skip_text(data: bytes, at: int) -> int:
    """Return where the text that starts at `at` ends: inside it, 0x00 is followed by 0xFF, never by 0x01."""
    return data.index(b"\x00\x01", at) + 2


def skip_fixed(size: int) -> Skip:
    """Return a `Skip` for values of a fixed size."""
    return lambda _, at: at + size


def after(prefix: bytes) -> bytes:
    """Return the least bytes greater than everything that starts with `prefix`; b"" if there are none."""
    if prefix and prefix[-1] != 0xFF:
        return prefix[:-1] + bytes((prefix[-1] + 1,))
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes((stripped[-1] + 1,)) if stripped else b""


T = TypeVar("T")


def described(name: str) -> str:
    """Return a type name with its article, for messages."""
    return f"{'an' if name[:1] in 'aeio' else 'a'} {name}"


class Kind(Generic[T]):
    """The type of a field: its `name` in a `.proto` file, and the codec of its values."""

    def __init__(  # noqa: PLR0917  positional, for the table below
        self,
        name: str,
        number: int,
        types: tuple[type, ...],
        encode: Encode | None = None,
        decode: Decode | None = None,
        skip: Skip | None = None,
    ) -> None:
        self.name = name
        self.number = number  # FieldDescriptorProto.Type
        self.types = types  # accepted Python types, for isinstance()
        self.encode = encode
        self.decode = decode
        self.skip = skip  # finds the end of a value without decoding it

    def __repr__(self) -> str:
        return self.name.upper()

    @property
    def described(self) -> str:
        """The name with its article, for messages: `an int64`, `a string`."""
        return described(self.name)


_SKIP_8 = skip_fixed(8)
_INT = ((int,), encode_int, decode_int, _SKIP_8)
_UINT = ((int,), encode_uint, decode_uint, _SKIP_8)
_FLOAT = ((float, int), encode_float32, decode_float, _SKIP_8)
_DOUBLE = ((float, int), encode_float, decode_float, _SKIP_8)

BOOL = Kind[bool]("bool", FD.TYPE_BOOL, (bool,), encode_bool, decode_bool, skip_fixed(1))
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
STRING = Kind[str]("string", FD.TYPE_STRING, (str,), encode_string, decode_string, skip_text)
BYTES = Kind[bytes]("bytes", FD.TYPE_BYTES, (bytes,), encode_bytes, decode_bytes, skip_text)
ENUM = Kind[int]("enum", FD.TYPE_ENUM, *_INT)
MESSAGE = Kind[Message]("message", FD.TYPE_MESSAGE, (Message,))
TIMESTAMP = Kind[Timestamp](
    "google.protobuf.Timestamp",
    FD.TYPE_MESSAGE,
    (Timestamp,),
    encode_timestamp,
    decode_timestamp,
    skip_fixed(12),
)

_BY_NUMBER: dict[int, Kind[Any]] = {
    kind.number: kind for kind in list(globals().values()) if isinstance(kind, Kind) and kind is not TIMESTAMP
}
_BY_NUMBER[FD.TYPE_GROUP] = MESSAGE  # another encoding of messages: groups of proto2, `DELIMITED` in editions


def kind_of(field: FD) -> Kind[Any]:
    """Return the kind of a model's field."""
    if field.message_type is not None and field.message_type.full_name == TIMESTAMP.name:
        return TIMESTAMP
    return _BY_NUMBER[field.type]
