"""Values: convert fields to and from cells of text and JSON values, without loss.

    kind        text                         JSON
    bool        true false 1 0               true false
    integers    -17                          -17 or "-17"; 64-bit integers are written as text
    floats      1.5 NaN Infinity -Infinity   1.5 or "NaN" "Infinity" "-Infinity"
    string      as it is                     "as it is"
    bytes       base64                       "base64"
    enum        name or number               "name" or number
    Timestamp   2013-01-01T10:00:00Z         the same (RFC 3339), to the nanosecond
    message, repeated, map: JSON as protobuf writes it (ProtoJSON), also in a cell of text

ProtoJSON cannot express some values that a message can hold. Those are written as they are stored, field by
field, and read back in the same way:

    Timestamp outside the years 1 to 9999         {"seconds": "253402300800", "nanos": 0}, Duration likewise
    FieldMask with paths not in lower_case        {"paths": ["FooBar"]}
    Any of a type that is unknown here            {"type_url": "…", "value": "base64"}
    Value: NaN, infinities, without a kind        {"@stored": {"number_value": "NaN"}}, {"@stored": {}}

Invariants
  (1) The output of `as_json` and `to_text` is read back as the same value. All NaNs are equal, and unknown
      fields are omitted.
  (2) `as_json` raises for no message that protobuf parses.
  (3) Nothing is guessed: text that is not exactly of the kind is refused, and so is a repeated key.

A converter raises ValueError saying what it expected; the reader adds the place.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import struct
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache, partial
from typing import Any

import msgspec
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from everlog.store.schema.admission import why
from everlog.store.schema.codec import (
    BOOL,
    BYTES,
    DOUBLE,
    ENUM,
    FLOAT,
    MESSAGE,
    STRING,
    TIMESTAMP,
    Kind,
    kind_of,
)
from everlog.store.schema.descriptors import is_map

Convert = Callable[[Any], Any]

STORED = "@stored"
_WELL_KNOWN = "google.protobuf."
_NULL = _WELL_KNOWN + "NullValue"
_BOOLS = {"true": True, "false": False, "1": True, "0": False}
_ODD_FLOATS = {text: float(text) for text in ("NaN", "Infinity", "-Infinity", "inf", "-inf")}
_FLOAT_MAX = 3.4028235677973366e38  # from this value on, a `float` becomes infinity
_INT = re.compile(r"-?[0-9]+")
_FLOAT_CHARACTERS = "0123456789.eE+-"
_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_DURATION = re.compile(r"-?[0-9]{1,12}(?:\.[0-9]{1,9})?s")
_SECONDS_MIN, _SECONDS_MAX = -62_135_596_800, 253_402_300_799  # years 1 to 9999
_DURATION_MAX = 315_576_000_000
_F32 = struct.Struct("<f")

# ── from text and JSON ────────────────────────────────────────────────────────────────────────────


def from_text(field: FieldDescriptor) -> Convert:
    """Return the converter from a cell of text."""
    kind = kind_of(field)
    if field.is_repeated or kind is MESSAGE:
        return _from_json_text(from_json(field))
    return one_from_text(field)


def one_from_text(field: FieldDescriptor) -> Convert:
    """Return the converter from the text of one value, which is no message: of a field, or in its list."""
    if (enum := field.enum_type) is not None:
        return lambda text: _enum(enum, int(text) if _INT.fullmatch(text) else text)
    return _TEXT.get(kind_of(field), _int)


def from_json(field: FieldDescriptor) -> Convert:
    """Return the converter from a decoded JSON value. It takes None only if `takes_null`."""
    if not field.is_repeated:
        return one_from_json(field)
    if is_map(field):
        assert field.message_type is not None
        return _map_from_json(field.message_type)
    convert, null = one_from_json(field), takes_null(field)

    def items(value: Any) -> Any:
        found = []
        for at, item in enumerate(_of(list, value)):
            if item is None and not null:
                raise ValueError(f"[{at}]: null in a list")
            found.append(_placed(f"[{at}]", convert, item))
        return found

    return items


def takes_null(field: FieldDescriptor) -> bool:
    """Whether JSON's null is a value of the field instead of meaning "unset"."""
    if field.enum_type is not None:
        return bool(field.enum_type.full_name == _NULL)
    return field.message_type is not None and field.message_type.full_name == _WELL_KNOWN + "Value"


def expected(field: FieldDescriptor) -> str:
    """Return what a field takes, for messages."""
    kind = kind_of(field)
    words = {ENUM: "a name or number of its enum", TIMESTAMP: "a time as 2013-01-01T10:00:00Z"}
    one = words.get(kind, kind.described)
    return f"a JSON list or object of {kind.name}" if field.is_repeated else one


def _same(text: str) -> str:
    return text


def _bool(text: str) -> bool:
    try:
        return _BOOLS[text]
    except KeyError:
        raise ValueError("not true, false, 1 or 0") from None


def _int(text: str) -> int:
    if not (text.isdecimal() and text.isascii()) and not _INT.fullmatch(text):
        raise ValueError("not a whole number in decimal digits")
    return int(text)


def _double(text: str) -> float:
    if (odd := _ODD_FLOATS.get(text)) is not None:
        return odd
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    # float() also takes +1, 1_0, spaces, nan, and digits of all scripts.
    if math.isnan(value) or text.strip(_FLOAT_CHARACTERS) or text[0] == "+":
        raise ValueError("not a number in decimal digits, nor NaN, Infinity or -Infinity")
    return _finite(value, math.inf)


def _float(text: str) -> float:
    value = _double(text)
    return value if math.isinf(value) else _finite(value, _FLOAT_MAX)


def _finite(value: float, end: float) -> float:
    if abs(value) >= end:
        raise ValueError("out of range")
    return value


def fits_float(value: float) -> float:
    """Return a number for a field of type float. Raises ValueError if it would become infinite."""
    return value if math.isinf(value) else _finite(value, _FLOAT_MAX)


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"not base64: {error}") from None


@lru_cache(maxsize=4096)  # times repeat in tables of events
def _timestamp(text: str) -> dict[str, int]:
    """Return the fields of a Timestamp, because models in the log have their own class for it."""
    found = _TIME.fullmatch(text)
    if found is None:
        if text.startswith("{"):
            return _stored_time(text)
        raise ValueError("not an RFC 3339 time with a zone")
    whole, fraction, zone = found.groups()
    time = datetime.fromisoformat(whole.upper() + ("+00:00" if zone in "Zz" else zone))
    seconds = (time.toordinal() - 719_163) * 86_400 + time.hour * 3600 + time.minute * 60 + time.second
    offset = time.utcoffset()
    seconds -= 0 if offset is None else int(offset.total_seconds())
    if not _SECONDS_MIN <= seconds <= _SECONDS_MAX:
        raise ValueError("outside the years 1 to 9999")
    nanos = int(fraction.ljust(9, "0")) if fraction else 0
    return {"seconds": seconds, "nanos": nanos} if nanos else {"seconds": seconds}


def _stored_time(text: str) -> dict[str, int]:
    try:
        value = msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from None
    return _time_fields(value)


def _time_fields(value: dict[str, Any]) -> dict[str, int]:
    if not value.keys() <= {"seconds", "nanos"}:
        raise ValueError("a Timestamp has seconds and nanos")
    return {name: _json_int(one) for name, one in value.items()}


def _json_timestamp(value: Any) -> dict[str, int]:
    return _time_fields(value) if isinstance(value, dict) else _timestamp(_of(str, value))


def _enum(enum: EnumDescriptor, value: str | int | None) -> int:
    if value is None and enum.full_name == _NULL:
        return 0
    if isinstance(value, str):
        if value not in enum.values_by_name:
            raise ValueError(f"{enum.name} has {', '.join(enum.values_by_name)}")
        return int(enum.values_by_name[value].number)
    return int(_of(int, value))


def _of(kind: type, value: Any) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"a JSON {type(value).__name__}")
    return value


def _json_int(value: Any) -> int:
    return _int(value) if isinstance(value, str) else int(_of(int, value))


def _json_double(value: Any) -> float:
    if isinstance(value, str):
        return _double(value)
    try:
        return float(value if isinstance(value, float) else _of(int, value))
    except OverflowError:
        raise ValueError("out of range") from None


def _json_float(value: Any) -> float:
    return fits_float(_json_double(value))


def _from_json_text(convert: Convert) -> Convert:
    return lambda text: convert(decoded_json(text))


def decoded_json(text: str) -> Any:
    """Return the JSON value of a text. Raises ValueError, also for an object with a repeated key."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(str(error)) from None
    if path := repeated_key(text.encode(), value):
        raise ValueError(f".{'.'.join(path)}: the key occurs twice")
    return value


_KEY_END = re.compile(rb'"[ \t\r\n]*:')


class _Pairs(list[tuple[str, Any]]):
    """The keys and values of an object, as written."""


def repeated_key(text: bytes, value: Any) -> list[str]:
    """Return the keys that lead to the first repeated key of an object in a JSON text, or an empty list.

    `value`: the decoded text, for which a decoder keeps the last of equal keys. If it has as many keys as the
    text seems to have, none is repeated; otherwise the text is decoded again.
    """
    if len(_KEY_END.findall(text)) <= _count_keys(value):
        return []
    try:
        pairs = json.loads(text.decode(), object_pairs_hook=_Pairs, parse_int=str, parse_float=str)
        return _path_to_repeated(pairs) or []
    except RecursionError:
        return []  # no message has such a depth: the caller refuses the value


def _count_keys(value: Any) -> int:
    """Return the number of keys of all objects. Without recursion: a decoder may accept a deeper value."""
    count, rest = 0, [value]
    while rest:
        one = rest.pop()
        if isinstance(one, dict):
            count += len(one)
            rest += [inner for inner in one.values() if isinstance(inner, dict | list)]
        elif isinstance(one, list):
            rest += [inner for inner in one if isinstance(inner, dict | list)]
    return count


def _path_to_repeated(value: Any) -> list[str] | None:
    if isinstance(value, _Pairs):
        seen = set()
        for key, one in value:
            if key in seen:
                return [key]
            seen.add(key)
            if (path := _path_to_repeated(one)) is not None:
                return [key, *path]
    elif isinstance(value, list):
        for one in value:
            if (path := _path_to_repeated(one)) is not None:
                return path
    return None


_TEXT: dict[Kind[Any], Convert] = {
    STRING: _same,
    BYTES: _base64,
    BOOL: _bool,
    DOUBLE: _double,
    FLOAT: _float,
    TIMESTAMP: _timestamp,
}
_JSON: dict[Kind[Any], Convert] = {
    STRING: lambda value: _of(str, value),
    BYTES: lambda value: _base64(_of(str, value)),
    BOOL: lambda value: _of(bool, value),
    DOUBLE: _json_double,
    FLOAT: _json_float,
    TIMESTAMP: _json_timestamp,
}


def _placed(place: str, convert: Convert, value: Any) -> Any:
    """Convert a nested value; the error says where it is."""
    try:
        return convert(value)
    except ValueError as error:
        text = str(error)
        raise ValueError(f"{place}{'' if text.startswith(('.', '[')) else ': '}{text}") from None


def one_from_json(field: FieldDescriptor) -> Convert:
    """Return the converter of one value: of a field, a list item or a map value."""
    if (enum := field.enum_type) is not None:
        return lambda value: _enum(enum, value)
    kind = kind_of(field)
    if kind is MESSAGE and field.message_type is not None:
        descriptor = field.message_type

        def convert(value: Any) -> Any:
            return message_from_json(descriptor)(value)  # lazily, because a model may contain itself

        return convert
    return _JSON.get(kind, _json_int)


def _map_from_json(entry: Descriptor) -> Convert:
    key, value = entry.fields_by_name["key"], entry.fields_by_name["value"]
    kind, convert, null = kind_of(key), one_from_json(value), takes_null(value)
    read_key = _same if kind is STRING else _bool if kind is BOOL else _int

    def items(given: Any) -> Any:
        found = {}
        for name, one in _of(dict, given).items():
            if one is None and not null:
                raise ValueError(f"[{name!r}]: null in a map")
            found[_placed(f"[{name!r}]", read_key, name)] = _placed(f"[{name!r}]", convert, one)
        return found

    return items


@lru_cache(maxsize=1024)
def message_from_json(descriptor: Descriptor) -> Convert:
    """Return the converter of a whole message."""
    name = descriptor.full_name
    special = _SPECIAL_FROM.get(name.removeprefix(_WELL_KNOWN)) if name.startswith(_WELL_KNOWN) else None
    make: Any = message_factory.GetMessageClass(descriptor)
    fields: dict[str, tuple[FieldDescriptor, Convert]] = {}
    for field in descriptor.fields:
        fields[field.name] = fields[field.json_name] = (field, from_json(field))

    def fielded(value: Any) -> Any:
        words: dict[str, Any] = {}
        choices: dict[str, str] = {}
        for key, one in _of(dict, value).items():
            if key not in fields:
                raise ValueError(f".{key}: {name} has no such field")
            field, convert = fields[key]
            if one is None and (field.is_repeated or not takes_null(field)):
                continue
            oneof = field.containing_oneof
            if field.name in words or (oneof is not None and oneof.name in choices):
                raise ValueError(f".{key}: {choices.get(oneof.name) if oneof else key} is set already")
            if oneof is not None:
                choices[oneof.name] = field.name
            words[field.name] = _placed(f".{key}", convert, one)
        try:
            return make(**words)
        except TypeError as error:
            raise ValueError(str(error)) from None

    convert_it = fielded if special is None else special(make, fielded)

    def guarded(value: Any) -> Any:
        try:
            return convert_it(value)
        except DecodeError as error:  # a nested message is parsed again
            raise ValueError(why(error)) from None

    return guarded


def _of_text(make: Any, fielded: Convert) -> Convert:
    """Return the converter of Duration and FieldMask: from text, or from their stored fields."""
    is_duration = make.DESCRIPTOR.full_name.endswith("Duration")

    def convert(value: Any) -> Any:
        if isinstance(value, dict):
            return fielded(value)
        message, text = make(), _of(str, value)
        if is_duration and not _DURATION.fullmatch(text):
            raise ValueError("not a duration as 1.5s")
        try:
            message.FromJsonString(text)
        except (json_format.Error, ValueError) as error:
            raise ValueError(str(error)) from None
        return message

    return convert


def _wrapped(make: Any, _: Convert) -> Convert:
    convert = one_from_json(make.DESCRIPTOR.fields_by_name["value"])
    return lambda value: make(value=convert(value))


def _value_from_json(make: Any, fielded: Convert) -> Convert:
    fields = make.DESCRIPTOR.fields_by_name
    struct_type, list_type = fields["struct_value"].message_type, fields["list_value"].message_type

    def convert(value: Any) -> Any:  # noqa: PLR0911  one return for each kind
        match value:
            case None:
                return make(null_value=0)
            case bool():
                return make(bool_value=value)
            case str():
                return make(string_value=value)
            case int() | float():
                return make(number_value=_json_double(value))
            case list():
                return make(list_value=message_from_json(list_type)(value))
            case dict() if value.keys() == {STORED}:
                return fielded(value[STORED])
            case _:
                return make(struct_value=message_from_json(struct_type)(value))

    return convert


def _struct_from_json(make: Any, _: Convert) -> Convert:
    convert = from_json(make.DESCRIPTOR.fields_by_name["fields"])
    return lambda value: make(fields=convert(value))


def _list_from_json(make: Any, _: Convert) -> Convert:
    convert = from_json(make.DESCRIPTOR.fields_by_name["values"])
    return lambda value: make(values=convert(value))


def _any_from_json(make: Any, fielded: Convert) -> Convert:
    pool = make.DESCRIPTOR.file.pool

    def convert(value: Any) -> Any:
        if not isinstance(value, dict) or "@type" not in value:
            return fielded(value)
        try:
            return json_format.ParseDict(value, make(), descriptor_pool=pool)
        except (json_format.Error, DecodeError, LookupError, ValueError, TypeError, RecursionError) as error:
            raise ValueError(str(error)) from None

    return convert


_WRAPPERS = ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
_SPECIAL_FROM: dict[str, Callable[[Any, Convert], Convert]] = {
    "Duration": _of_text,
    "FieldMask": _of_text,
    "Struct": _struct_from_json,
    "Value": _value_from_json,
    "ListValue": _list_from_json,
    "Any": _any_from_json,
    **{f"{name}Value": _wrapped for name in _WRAPPERS},
}

# ── to text and JSON ──────────────────────────────────────────────────────────────────────────────


def as_json(message: Message, *, defaults: bool = True) -> Any:
    """Return a message as JSON values; a row is a dict. Read-only; raises nothing.

    Unset fields are omitted. With `defaults`, fields without presence are included even if they are empty.
    """
    descriptor: Any = message.DESCRIPTOR
    if (special := _SPECIAL_TO.get(descriptor.full_name)) is not None:
        return special(message)
    return _stored(message, descriptor, defaults=defaults)


def to_text(field: FieldDescriptor) -> Callable[[Any], str]:
    """Return the function from a row, in which the field is set, to a cell of text. Read-only."""
    name, one = field.name, _encoder(field)
    kind = kind_of(field)
    if field.is_repeated or field.message_type is not None:

        def cell(row: Any) -> str:
            value = one(getattr(row, name))
            return value if kind is TIMESTAMP and isinstance(value, str) else dump(value)

        return cell
    if (enum := field.enum_type) is not None:
        names = {number: value.name for number, value in enum.values_by_number.items()}
        return lambda row: str(names.get(number := getattr(row, name), number))
    if kind is BOOL:
        return lambda row: "true" if getattr(row, name) else "false"
    return lambda row: str(one(getattr(row, name)))


def dump(value: Any, *, indent: bool = False) -> str:
    """Return JSON on one line, or with `indent` on several lines for people."""
    if indent:
        return json.dumps(value, ensure_ascii=False, indent=2)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def plain(value: Any) -> Any:
    """Return one value of a key in JSON."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Message):
        return as_json(value)
    return _float_json(value) if isinstance(value, float) else value


def _stored(message: Message, descriptor: Descriptor, *, defaults: bool) -> dict[str, Any]:
    """Return the stored fields of a message."""
    encoders, found = _encoders(descriptor, defaults), {}
    for field, value in message.ListFields():
        if field.is_extension:
            found[f"[{field.full_name}]"] = _encoder(field, defaults)(value)
            continue
        name, encode = encoders[field.number]
        found[name] = encode(value)
    if defaults:
        for name, empty in _defaults(descriptor):
            if name not in found:
                found[name] = empty
    return found


@lru_cache(maxsize=1024)
def _encoders(descriptor: Descriptor, defaults: bool) -> dict[int, tuple[str, Convert]]:
    return {field.number: (field.name, _encoder(field, defaults)) for field in descriptor.fields}


@lru_cache(maxsize=1024)
def _defaults(descriptor: Descriptor) -> list[tuple[str, Any]]:
    """Return the fields without presence: their name, and the JSON of their empty value."""
    found: list[tuple[str, Any]] = []
    for field in descriptor.fields:
        if field.is_repeated:
            found.append((field.name, {} if is_map(field) else []))
        elif not field.has_presence:
            found.append((field.name, _encoder(field)(field.default_value)))
    return found


def _encoder(field: FieldDescriptor, defaults: bool = True) -> Convert:
    """Return the function from a field's value to a JSON value."""
    if not field.is_repeated:
        return one_to_json(field, defaults)
    if is_map(field):
        assert field.message_type is not None
        encode = one_to_json(field.message_type.fields_by_name["value"], defaults)
        return lambda value: {_key_text(key): encode(one) for key, one in value.items()}
    encode = one_to_json(field, defaults)
    return lambda value: [encode(one) for one in value]


def one_to_json(field: FieldDescriptor, defaults: bool = False) -> Convert:
    """Return the function from one value, of a field or in its list, to a JSON value."""
    if (enum := field.enum_type) is not None:
        if enum.full_name == _NULL:
            return lambda number: None if number == 0 else number
        names = {number: value.name for number, value in enum.values_by_number.items()}
        return lambda number: names.get(number, number)
    if field.message_type is not None:
        return as_json if defaults else partial(as_json, defaults=False)
    return _ENCODE.get(field.type, _text)


def _key_text(key: Any) -> str:
    return ("true" if key else "false") if isinstance(key, bool) else str(key)


def _text(value: Any) -> str:
    if isinstance(value, bytes):  # proto2 text that is not UTF-8
        return value.decode("utf-8", "backslashreplace")
    return str(value)


def _float_json(value: float) -> Any:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _float32_json(value: float) -> Any:
    """Return the shortest number that is read back as the same `float`."""
    if not math.isfinite(value):
        return _float_json(value)
    for digits in range(6, 9):
        short = float(f"{value:.{digits}g}")
        if abs(short) < _FLOAT_MAX and _F32.pack(short) == _F32.pack(value):
            return short
    return float(f"{value:.9g}")


_SMALL = ("INT32", "SINT32", "SFIXED32", "UINT32", "FIXED32", "BOOL")
_ENCODE: dict[int, Convert] = {
    **{getattr(FieldDescriptor, f"TYPE_{name}"): lambda value: value for name in _SMALL},
    FieldDescriptor.TYPE_BYTES: lambda value: base64.b64encode(value).decode(),
    FieldDescriptor.TYPE_DOUBLE: _float_json,
    FieldDescriptor.TYPE_FLOAT: _float32_json,
}


def _timestamp_json(message: Any) -> Any:
    if 0 <= message.nanos < 10**9 and _SECONDS_MIN <= message.seconds <= _SECONDS_MAX:
        return message.ToJsonString()
    return _stored(message, message.DESCRIPTOR, defaults=True)


def _duration_json(message: Any) -> Any:
    seconds, nanos = message.seconds, message.nanos
    if abs(seconds) <= _DURATION_MAX and abs(nanos) < 10**9 and seconds * nanos >= 0:
        return message.ToJsonString()
    return _stored(message, message.DESCRIPTOR, defaults=True)


def _mask_json(message: Any) -> Any:
    try:
        text, again = message.ToJsonString(), type(message)()
        again.FromJsonString(text)
        if again.paths == message.paths:
            return text
    except (json_format.Error, ValueError):
        pass
    return _stored(message, message.DESCRIPTOR, defaults=True)


def _any_json(message: Any) -> Any:
    """Return the contained message if its type is known and JSON expresses all of it."""
    pool = message.DESCRIPTOR.file.pool
    try:
        found = json_format.MessageToDict(message, preserving_proto_field_name=True, descriptor_pool=pool)
        again = json_format.ParseDict(json.loads(json.dumps(found)), type(message)(), descriptor_pool=pool)
        if found and (again.type_url, again.value) == (message.type_url, message.value):
            return found
    except (json_format.Error, DecodeError, LookupError, ValueError, TypeError, RecursionError):
        pass
    return _stored(message, message.DESCRIPTOR, defaults=True)


def _value_json(message: Any) -> Any:  # noqa: PLR0911  one return for each kind
    match message.WhichOneof("kind"):
        case "null_value" if message.null_value == 0:
            return None
        case "number_value" if math.isfinite(message.number_value):
            return message.number_value
        case "string_value":
            return _text(message.string_value)
        case "bool_value":
            return message.bool_value
        case "struct_value" if message.struct_value.fields.keys() != {STORED}:
            return _struct_json(message.struct_value)
        case "list_value":
            return _list_json(message.list_value)
        case _:
            return {STORED: _stored(message, message.DESCRIPTOR, defaults=False)}


def _struct_json(message: Any) -> Any:
    return {key: _value_json(value) for key, value in message.fields.items()}


def _list_json(message: Any) -> Any:
    return [_value_json(value) for value in message.values]


def _wrapper_json(message: Any) -> Any:
    return _encoders(message.DESCRIPTOR, True)[1][1](message.value)


_SPECIAL_TO: dict[str, Convert] = {
    _WELL_KNOWN + name: encode
    for name, encode in {
        "Timestamp": _timestamp_json,
        "Duration": _duration_json,
        "FieldMask": _mask_json,
        "Any": _any_json,
        "Value": _value_json,
        "Struct": _struct_json,
        "ListValue": _list_json,
        **{f"{name}Value": _wrapper_json for name in _WRAPPERS},
    }.items()
}
