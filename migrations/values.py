"""Values: what a cell of text or a JSON value becomes in a field of a model.

    kind        text                         JSON
    bool        true false 1 0               true false
    integers    -17                          -17 or "-17"
    floats      1.5 nan inf                  1.5 or "NaN" "Infinity" "-Infinity"
    string      as it is                     "as it is"
    bytes       base64                       "base64"
    enum        its name or number           "name" or number
    Timestamp   2013-01-01T10:00:00Z         the same (RFC 3339)
    message, repeated, map: JSON as protobuf writes it, in a cell of text too

A converter raises ValueError saying what it expected; where it stood is known to the reader.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any

import msgspec
from google.protobuf import json_format
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.timestamp_pb2 import Timestamp

from everlog.store.kinds import BOOL, BYTES, DOUBLE, ENUM, FLOAT, MESSAGE, STRING, TIMESTAMP, Kind, kind_of

Convert = Callable[[Any], Any]

_BOOLS = {"true": True, "false": False, "1": True, "0": False}


def from_text(field: FieldDescriptor, make: Callable[[], Any]) -> Convert:
    """The converter from a cell of text. `make` makes an empty message of the field's model."""
    kind = kind_of(field)
    if field.is_repeated or kind is MESSAGE:
        return _from_json_text(field, make)
    if (enum := field.enum_type) is not None:
        return lambda text: _enum(enum, int(text) if text.lstrip("-").isdigit() else text)
    return _TEXT.get(kind, int)


def from_json(field: FieldDescriptor, make: Callable[[], Any]) -> Convert:
    """The converter from a decoded JSON value that is not null."""
    kind = kind_of(field)
    if field.is_repeated or kind is MESSAGE:
        return _nested(field, make)
    if (enum := field.enum_type) is not None:
        return lambda value: _enum(enum, value)
    return _JSON.get(kind, _json_int)


def expected(field: FieldDescriptor) -> str:
    """What a field takes, for people."""
    kind = kind_of(field)
    words = {ENUM: "a name or number of its enum", TIMESTAMP: "a time as 2013-01-01T10:00:00Z"}
    one = words.get(kind, f"a {kind.name}")
    return f"a JSON list or object of {kind.name}" if field.is_repeated else one


def _same(text: str) -> str:
    return text


def _bool(text: str) -> bool:
    try:
        return _BOOLS[text.lower()]
    except KeyError:
        raise ValueError("not true, false, 1 or 0") from None


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from None


@lru_cache(maxsize=4096)  # tables of events repeat their times
def _timestamp(text: str) -> dict[str, int]:
    """The fields of a Timestamp: models that the log carries have a class of their own for it."""
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is not None and not time.microsecond:
            return {"seconds": int(time.timestamp())}
    except ValueError:
        pass
    stamp = Timestamp()
    stamp.FromJsonString(text)  # with fractions, down to nanoseconds
    return {"seconds": stamp.seconds, "nanos": stamp.nanos}


def _enum(enum: EnumDescriptor, value: str | int) -> int:
    if isinstance(value, str):
        if value not in enum.values_by_name:
            raise ValueError(f"{enum.name} has {', '.join(enum.values_by_name)}")
        return enum.values_by_name[value].number
    return int(_of(int, value))


def _of(kind: type, value: Any) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"a JSON {type(value).__name__}")
    return value


def _json_int(value: Any) -> int:
    if isinstance(value, str):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return int(_of(int, value))


def _json_float(value: Any) -> float:
    if isinstance(value, str):
        return {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}.get(
            value
        ) or float(value)
    return float(value if isinstance(value, float) else _of(int, value))


def _nested(field: FieldDescriptor, make: Callable[[], Any]) -> Convert:
    def convert(value: Any) -> Any:
        message = make()
        try:
            json_format.ParseDict({field.name: value}, message)
        except json_format.ParseError as error:
            raise ValueError(str(error)) from None
        return getattr(message, field.name)

    return convert


def _from_json_text(field: FieldDescriptor, make: Callable[[], Any]) -> Convert:
    convert = _nested(field, make)

    def parse(text: str) -> Any:
        try:
            return convert(msgspec.json.decode(text))
        except msgspec.DecodeError as error:
            raise ValueError(str(error)) from None

    return parse


_TEXT: dict[Kind[Any], Convert] = {
    STRING: _same,
    BYTES: _base64,
    BOOL: _bool,
    DOUBLE: float,
    FLOAT: float,
    TIMESTAMP: _timestamp,
}
_JSON: dict[Kind[Any], Convert] = {
    STRING: lambda value: _of(str, value),
    BYTES: lambda value: _base64(_of(str, value)),
    BOOL: lambda value: _of(bool, value),
    DOUBLE: _json_float,
    FLOAT: _json_float,
    TIMESTAMP: lambda value: _timestamp(_of(str, value)),
}
