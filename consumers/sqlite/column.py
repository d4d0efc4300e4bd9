"""Column: one field of a model as one column of an SQLite table, lossless in both directions.

    field                                  column
    bool, intN, sintN, sfixedN, uint32,    INTEGER
      fixed32, enum (its number)
    uint64, fixed64                        BIGINT; from 2^63 up, 8 bytes big-endian
    float, double                          REAL; NaN and -0.0, the 8 bytes of the IEEE double
    string, bytes                          TEXT, BLOB
    google.protobuf.Timestamp              TEXT 2026-01-05T09:30:00.000000000Z; outside of the years
                                           1 to 9999, 8 bytes of seconds and 4 of nanos
    nested message, repeated field, map    TEXT, ProtoJSON (protojson.py)

One rule: a value that the column's type cannot hold is stored exactly, as a BLOB. BLOBs sort after numbers
and texts, so `ORDER BY` of integers is right over the whole range.

A field with presence is NULL when it is unset; any other is NOT NULL DEFAULT its default, so adding a column
writes no row. Keys and indexes over fields of nested messages ("position.lat") get a column of their own
beside the ProtoJSON, derived from it: their `path` has more than one number.

A float in the key has no declared type: there -0.0 stays a REAL, equal to 0.0, as in the store. (The store
accepts no NaN in a key.)

Enum columns hold numbers: renaming a value changes no row, and a value that the model does not know has no
name. `enum_values` gives the names, for `_everlog_enums`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from keyword import iskeyword
from typing import Any

from google.protobuf.descriptor import FieldDescriptor as FD
from google.protobuf.descriptor_pb2 import EnumDescriptorProto
from google.protobuf.message import Message

from everlog.consumers.protojson import JsonField, means_the_same
from everlog.store.schema.codec import TIMESTAMP, kind_of
from everlog.store.schema.descriptors import dotted
from everlog.store.schema.schema import Schema

Convert = Callable[..., Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST, _LAST = -62_135_596_800, 253_402_300_799  # seconds of the years 1 to 9999
_F64 = struct.Struct(">d")
_SECONDS_NANOS = struct.Struct(">qi")
_SIGN = 1 << 63


class Column:
    """One column of the table of `model`: the field at the end of `path`.

    `code` is a Python expression for its value (sqlite/table.py); `back` converts to the field's value.
    """

    def __init__(self, model: type[Message], path: tuple[FD, ...], *, in_key: bool) -> None:
        leaf = path[-1]
        self.path = tuple(step.number for step in path)
        self.name = dotted(path)
        self.derived = len(path) > 1
        self.json = JsonField(model, leaf) if _is_json(leaf) else None
        self.type, default, self.into, self.back = _shape(leaf, in_key=in_key)
        optional = any(step.has_presence for step in path)
        if self.json:
            default = f"'{self.json.empty}'"
            optional = self.json.empty is None
        self.rule = " NOT NULL" if in_key else "" if optional else f" NOT NULL DEFAULT {default}"
        self.code, self.convert = _of(self, path)
        self._fields = path

    def stays(self, new: Column) -> bool:
        """Return whether stored values can stay as they are when the column becomes `new`."""
        return (self.type, self.rule) == (new.type, new.rule) and all(
            map(means_the_same, self._fields, new._fields)
        )


def _of(column: Column, path: tuple[FD, ...]) -> tuple[str, Convert | None]:
    """Return a Python expression for SQLite's value of `row`, and the function that it calls as `convert`.

    In the expression, `has` is the row's HasField.
    """
    leaf = path[-1]
    if column.json:
        return "convert(row)", column.json.text
    if column.derived:
        return "convert(row)", _nested(path, column.into)
    # A name can be a Python keyword, such as `from`: repr() makes a literal of any name.
    plain = leaf.name.isidentifier() and not iskeyword(leaf.name)
    get = f"row.{leaf.name}" if plain else f"getattr(row, {leaf.name!r})"
    value = f"convert({get})" if column.into else get
    if not leaf.has_presence:
        return value, column.into
    if_set = f"({value} if has({leaf.name!r}) else None)"
    # A value other than the default is set, without a call of HasField.
    quick = not column.into and leaf.message_type is None and not leaf.default_value
    return f"({get} or {if_set})" if quick else if_set, column.into


def _nested(path: tuple[FD, ...], into: Convert | None) -> Convert:
    steps = [(step.name, step.has_presence) for step in path]

    def value(row: Any) -> Any:
        for step, may_be_unset in steps:
            if may_be_unset and not row.HasField(step):
                return None
            row = getattr(row, step)
        return into(row) if into else row

    return value


def _is_json(field: FD) -> bool:
    return field.is_repeated or (field.message_type is not None and kind_of(field) is not TIMESTAMP)


def _shape(field: FD, *, in_key: bool) -> tuple[str, str, Convert | None, Convert | None]:
    """Return declared type, default as SQL, and the two conversions (None: no conversion)."""
    if _is_json(field):
        return " TEXT", "", None, None
    if field.message_type is not None:
        return " TEXT", "", timestamp_into, timestamp_back
    shape = _SHAPES.get(field.type, (" INTEGER", None, None))
    if in_key and shape[0] == " REAL":
        shape = ("", None, None)
    return shape[0], _literal(field.default_value), *shape[1:]


def _literal(value: Any) -> str:
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    into = _float_into(value) if isinstance(value, float) else _uint64_into(int(value))
    return _literal(into) if isinstance(into, bytes) else repr(into).replace("inf", "9e999")


def _uint64_into(value: int) -> int | bytes:
    return value if value < _SIGN else value.to_bytes(8, "big")


def _uint64_back(value: Any) -> Any:
    return int.from_bytes(value, "big") if isinstance(value, bytes) else value


def _float_into(value: float) -> float | bytes:
    if value and not math.isnan(value):
        return value
    data = _F64.pack(value)
    return data if any(data) else value


def _float_back(value: Any) -> Any:
    return _F64.unpack(value)[0] if isinstance(value, bytes) else value


@lru_cache(maxsize=4096)
def _clock(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()[:19]


def timestamp_into(value: Any) -> str | bytes:
    """Convert a Timestamp of any descriptor pool to SQLite's value."""
    seconds, nanos = value.seconds, value.nanos
    if _FIRST <= seconds <= _LAST and 0 <= nanos < 1_000_000_000:
        return f"{_clock(seconds)}.{nanos:09d}Z"
    return _SECONDS_NANOS.pack(seconds, nanos)


def timestamp_back(into: Any, value: Any) -> None:
    """Set a Timestamp to SQLite's value. Raises ValueError."""
    if isinstance(value, bytes):
        into.seconds, into.nanos = _SECONDS_NANOS.unpack(value)
    else:
        into.seconds, into.nanos = _seconds(value[:19]), int(value[20:29])


@lru_cache(maxsize=4096)
def _seconds(clock: str) -> int:
    since = datetime.fromisoformat(clock).replace(tzinfo=UTC) - _EPOCH
    return since.days * 86_400 + since.seconds


_SHAPES: dict[int, tuple[str, Convert | None, Convert | None]] = {
    FD.TYPE_UINT64: (" BIGINT", _uint64_into, _uint64_back),
    FD.TYPE_FIXED64: (" BIGINT", _uint64_into, _uint64_back),
    FD.TYPE_FLOAT: (" REAL", _float_into, _float_back),
    FD.TYPE_DOUBLE: (" REAL", _float_into, _float_back),
    FD.TYPE_STRING: (" TEXT", None, None),
    FD.TYPE_BYTES: (" BLOB", None, None),
}


def enum_values(schema: Schema) -> Iterator[tuple[str, int, str]]:
    """Yield full name, number and name of every value of every enum in the models."""
    for file in schema.proto.models.file:
        package = f"{file.package}." if file.package else ""
        yield from _values(package, file.enum_type)
        scopes = [(package, message) for message in file.message_type]
        while scopes:
            outer, message = scopes.pop()
            inner = f"{outer}{message.name}."
            yield from _values(inner, message.enum_type)
            scopes += [(inner, nested) for nested in message.nested_type]


def _values(scope: str, enums: Iterable[EnumDescriptorProto]) -> Iterator[tuple[str, int, str]]:
    for enum in enums:
        yield from ((scope + enum.name, value.number, value.name) for value in enum.value)
