"""Requests: messages of any method from text and JSON, and responses as JSON.

    --table books --key 978-0 ─ Texts ─┐
                                       ├─▶ a tree of values ─ message ─▶ the request, sent as it is
    {"table": "books", …} ─ JSON ──────┘
    response ─ shown ─▶ JSON values

    field              as text                                  as JSON
    time (`_ns`)       2026-01-05T09:30Z, 1h ago, nanoseconds   the same; without a zone it is UTC
    duration           1h30m, 500ms, 90d, a number in its unit  the same, a number
    row                {"isbn": "978-0", …}                     the same: protobuf's JSON of the table's model
    key, bound         978-0, ["978-0", 1]                      the same, a number
    bytes              base64, hex:00ff                         the same
    message            its JSON                                 its JSON
    map                key=value, once for each                 an object

Bytes of rows and keys may be given as `hex:…` and `base64:…`, too. Everything else is protobuf's JSON
(everlog.migrations.values).

Invariants
  (1) nothing is guessed: an unknown field, a wrong type and a second field of a group are refused;
  (2) a call is never repeated: only its caller knows whether that is safe;
  (3) a stream holds one message in memory, not all.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC
from functools import lru_cache
from typing import Any

import msgspec
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import EncodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp

from everlog.migrations import values
from everlog.proto import log_pb2
from everlog.rpc.client import methods
from everlog.rpc.client.channel import MESSAGE_BYTES_MAX
from everlog.rpc.client.methods import BOUND, KEY, ROW, Field, Method, is_time, near, unit_ns
from everlog.store.errors import CorruptionError, Error, RowError
from everlog.store.schema.arguments import time_text
from everlog.store.schema.codec import TIMESTAMP, kind_of
from everlog.store.schema.descriptors import is_map
from everlog.store.schema.schema import Schema, TableInfo
from everlog.store.schema.times import duration_s, time_ns_of

UNTIL_MAX = (1 << 64) - 1  # of a time: never
FUTURE = ("in ", "tomorrow")  # how times begin that are still to come
SHOWN = 80  # characters of what was found, in an error

_INT = re.compile(r"-?[0-9]{1,30}")
_SCHEMA = log_pb2.Schema.DESCRIPTOR.full_name


class Text(str):
    """A value as people write it, which is not JSON."""

    __slots__ = ()


class Tables:
    """The tables by which rows and keys of requests and responses are encoded.

    `fetch` returns the schema in force; it is called at the first need. Spaces of schemas in responses are
    known from then on.
    """

    def __init__(self, fetch: Callable[[], Schema]) -> None:
        self._fetch = fetch
        self._schema: Schema | None = None
        self._spaces: dict[int, TableInfo] = {}

    def named(self, name: str) -> TableInfo:
        """Return the table with this name. Raises SchemaError."""
        return self._current.table(name)

    @property
    def _current(self) -> Schema:
        if self._schema is None:
            self._schema = self._fetch()
        return self._schema

    def of(self, space: int, name: str) -> TableInfo | None:
        """Return the table of a space or of a name; None if neither is known."""
        if space in self._spaces:
            return self._spaces[space]
        try:
            return self._current.spaces.get(space) if space else self.named(name) if name else None
        except Error:
            return None

    def learn(self, message: Message) -> None:
        """Keep the tables of all schemas in a response."""
        if message.DESCRIPTOR.full_name == _SCHEMA:
            with suppress(Error, KeyError, TypeError, ValueError):  # it is incomplete
                schema = Schema(log_pb2.Schema.FromString(message.SerializeToString()))
                self._spaces.update(schema.spaces)
            return
        descriptor: Any = message.DESCRIPTOR
        for field in _with_schemas(descriptor):
            found = getattr(message, field.name)
            for one in found if field.is_repeated else [found] if message.HasField(field.name) else ():
                self.learn(one)


@lru_cache(maxsize=1024)
def _with_schemas(descriptor: Descriptor) -> tuple[FieldDescriptor, ...]:
    """Return the fields of a message that can contain a schema."""
    return tuple(
        field
        for field in descriptor.fields
        if field.message_type is not None and not is_map(field) and _has_schema(field.message_type, set())
    )


def _has_schema(descriptor: Descriptor, seen: set[str]) -> bool:
    if descriptor.full_name in seen:
        return False
    seen.add(descriptor.full_name)
    return descriptor.full_name == _SCHEMA or any(
        field.message_type is not None and _has_schema(field.message_type, seen)
        for field in descriptor.fields
    )


# ── from text and JSON ────────────────────────────────────────────────────────────────────────────


def tree(method: Method, texts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return texts by the names of fields as a tree of values for `message`. Raises RowError.

    tree(method, {"table": ["books"], "grant.tables": ["a", "b"]})
        {"table": Text("books"), "grant": {"tables": [Text("a"), Text("b")]}}
    """
    found: dict[str, Any] = {}
    for name, given in texts.items():
        field = method.fields.get(name)
        if field is None:
            raise RowError(
                f"{method.name} has no field {name[:SHOWN]!r}{near(name, method.fields)}", field=name[:SHOWN]
            )
        inner, steps = found, name.split(".")
        for at, step in enumerate(steps[:-1]):
            inner = inner.setdefault(step, {})
            if not isinstance(inner, dict):
                outer = ".".join(steps[: at + 1])
                raise RowError(f"expected {outer} or the fields of it, found {outer} and {name}")
        if steps[-1] in inner:
            raise RowError(f"expected {name} or the fields of it, found both")
        inner[steps[-1]] = _leaf(field, given)
    return found


def _leaf(field: Field, given: Sequence[str]) -> Any:
    if is_map(field.descriptor):
        pairs = [one.partition("=") for one in given]
        for key, equals, _ in pairs:
            if not equals:
                raise RowError(f"expected KEY=VALUE for {field.name}, found {key[:SHOWN]!r}")
        keys = [key for key, _, _ in pairs]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise RowError(f"expected each key of {field.name} once, found {twice[:SHOWN]!r} again")
        return {key: Text(value) for key, _, value in pairs}
    if field.repeated:
        return [Text(one) for one in given]
    if len(given) > 1:
        raise RowError(f"expected one {field.name}, found {len(given)}")
    return Text(given[0])


def merged(given: Mapping[str, Any], more: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """Return a tree of values with those of another one. Raises RowError for a field that is in both."""
    found = dict(given)
    for name, value in more.items():
        where = f"{place}{name}"
        if name not in found:
            found[name] = value
        elif isinstance(found[name], dict) and isinstance(value, dict):
            found[name] = merged(found[name], value, f"{where}.")
        else:
            raise RowError(f"expected {where} once, found it in the JSON and as an option", field=where)
    return found


def decoded(text: str | bytes, where: str) -> dict[str, Any]:
    """Return the JSON object of a text. Raises RowError."""
    raw = text.encode(errors="surrogateescape") if isinstance(text, str) else text
    try:
        found = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RowError(f"expected a JSON object in {where}, found {error}") from None
    if not isinstance(found, dict):
        raise RowError(f"expected a JSON object in {where}, found {_json_name(found)}")
    if path := values.repeated_key(raw, found):
        raise RowError(f"expected each field once in {where}, found .{'.'.join(path)} twice")
    return found


def message(descriptor: Descriptor, given: Mapping[str, Any], tables: Tables, *, table: str = "") -> Message:
    """Return the message of a tree of values. `table`: of rows and keys where the tree names none.

    Raises RowError, and SchemaError for a table that does not exist.
    """
    try:
        found = _message(descriptor, given, ({"table": table},), tables, "")
    except RecursionError:
        raise RowError("expected a request of at most a few hundred levels, found more") from None
    if (size := found.ByteSize()) > MESSAGE_BYTES_MAX:
        raise RowError(
            f"expected a request of at most {MESSAGE_BYTES_MAX >> 20} MiB, found {size / (1 << 20):.0f} MiB"
        )
    return found


Around = tuple[Mapping[str, Any], ...]  # the objects around a value, innermost first


def _message(descriptor: Descriptor, given: Any, around: Around, tables: Tables, place: str) -> Message:
    if not isinstance(given, dict):
        raise RowError(f"expected a JSON object for {place or descriptor.name}, found {_json_name(given)}")
    names = {name: field for field in descriptor.fields for name in (field.json_name, field.name)}
    words: dict[str, Any] = {}
    chosen: dict[str, str] = {}
    for name, value in given.items():
        where = f"{place}.{name}" if place else name
        field = names.get(name)
        if field is None:
            raise RowError(
                f"{where[:SHOWN]}: {descriptor.name} has no such field"
                f"{near(name, (field.name for field in descriptor.fields))}",
                field=where[:SHOWN],
            )
        if value is None and (field.is_repeated or not values.takes_null(field)):
            continue
        group = field.containing_oneof
        if group is not None and group.name in chosen:
            raise RowError(f"expected one of {chosen[group.name]} and {field.name}, found both", field=where)
        if field.name in words:
            raise RowError(f"expected {where} once, found it by both of its names", field=where)
        if group is not None:
            chosen[group.name] = field.name
        words[field.name] = _field(field, value, (given, *around), tables, where)
    try:
        made: Message = GetMessageClass(descriptor)(**words)
    except (TypeError, ValueError) as error:
        raise RowError(f"{place or descriptor.name}: {error}") from None
    return made


def _field(field: FieldDescriptor, value: Any, around: Around, tables: Tables, where: str) -> Any:
    if is_map(field):
        if not isinstance(value, dict):
            raise _unlike(field, value, where)
        entry: Any = field.message_type and field.message_type.fields_by_name
        key_of = values.from_text(entry["key"])
        made = {}
        for key, one in value.items():
            made[_converted(entry["key"], key, where, key_of)] = _one(
                entry["value"], one, around, tables, f"{where}[{key!r}]"
            )
        return made
    if not field.is_repeated:
        return _one(field, value, around, tables, where)
    if not isinstance(value, list):
        raise _unlike(field, value, where)
    return [_one(field, one, around, tables, f"{where}[{at}]") for at, one in enumerate(value)]


def _one(field: FieldDescriptor, value: Any, around: Around, tables: Tables, where: str) -> Any:
    inner, kind = field.message_type, kind_of(field)
    if inner is not None and kind is not TIMESTAMP:
        if inner.full_name == "google.protobuf.Duration" and isinstance(value, str):
            seconds, nanos = divmod(_converted(field, value, where, _duration_ns), 10**9)
            return {"seconds": seconds, "nanos": nanos}
        if inner.full_name.startswith("google.protobuf."):
            value = json_or_text(value) if isinstance(value, Text) else value
            return _converted(field, value, where, values.message_from_json(inner))
        given = decoded(value, where) if isinstance(value, Text) else value
        return _message(inner, given, around, tables, where)
    if kind is TIMESTAMP and isinstance(value, str) and not value.startswith("{"):
        seconds, nanos = divmod(_converted(field, value, where, _time_ns), 10**9)
        return {"seconds": seconds, "nanos": nanos}
    if methods.holds(field):
        return _converted(field, value, where, lambda one: _encoded(field, one, around, tables))
    return _converted(field, value, where, _convert(field, isinstance(value, Text)))


def json_or_text(text: str) -> Any:
    """Return the JSON value of a text; a text that is not JSON stands for itself."""
    try:
        return msgspec.json.decode(text.encode(errors="surrogateescape"))
    except (msgspec.MsgspecError, RecursionError):
        return str(text)


def _convert(field: FieldDescriptor, is_text: bool) -> Callable[[Any], Any]:
    """Return the converter of one value of a scalar field."""
    if is_time(field):
        return _time_ns
    if unit := unit_ns(field):
        return lambda value: _duration(field, value, unit)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return bytes_of
    return values.one_from_text(field) if is_text else values.one_from_json(field)


def _converted(field: FieldDescriptor, value: Any, where: str, convert: Callable[[Any], Any]) -> Any:
    """Convert one value. Raises RowError with what was expected and found, and where."""
    try:
        return convert(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise _unlike(field, value, where, str(error)) from None
    except (RowError, CorruptionError) as error:
        raise RowError(f"{where}: {error}", field=where) from None


def _unlike(field: FieldDescriptor, value: Any, where: str, why: str = "") -> RowError:
    found = repr(str(value)[:SHOWN]) if isinstance(value, str) else _json_name(value)
    return RowError(
        f"expected {described(field)} for {where[:SHOWN]}, found {found}{f' ({why})' if why else ''}",
        field=where[:SHOWN],
    )


def described(field: FieldDescriptor) -> str:
    """Return what a field takes, for messages: `a time like 2026-01-05T09:30Z`."""
    if field.enum_type is not None:
        named = [one.name for one in field.enum_type.values]
        one = f"one of {', '.join(named)}"
    else:
        word = methods.type_of(field)
        one = {
            "time": "a time like 2026-01-05T09:30Z",
            "duration": "a duration like 90d, 1h30m or 500ms",
            "row": "a row as a JSON object",
            "key": "a key: a value, or the JSON list of its values",
            "bound": "the first values of an index or key: a value, or a JSON list",
            "bytes": "base64, or hex:",
            "bool": "true or false",
        }.get(
            word,
            f"{'an' if word[0] in 'aeio' else 'a'} {word}" if word.islower() else f"the JSON of a {word}",
        )
    if is_map(field):
        return "a JSON object"
    return f"a list, each {one}" if field.is_repeated else one


def _json_name(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return f"{kinds.get(type(value), 'a number')}{f' ({value})' if isinstance(value, int | float) else ''}"


def _time_ns(value: Any) -> int:
    if isinstance(value, str) and _INT.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(_json_name(value))  # noqa: TRY004  all converters raise it
    if isinstance(value, str):
        zone = None if isinstance(value, Text) else UTC
        found = time_ns_of(value, zone=zone, future=value.strip().lower().startswith(FUTURE))
    else:
        found = value
    if not 0 <= found <= UNTIL_MAX:
        raise ValueError("before 1970, or too late")
    return found


def _duration_ns(value: str) -> int:
    return round(duration_s(value) * 1e9)


def _duration(field: FieldDescriptor, value: Any, unit: int) -> Any:
    is_whole = field.cpp_type not in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT)
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(_json_name(value))  # noqa: TRY004  all converters raise it
    if isinstance(value, str):
        try:
            value = int(value) if is_whole else float(value)
        except ValueError:
            found = _duration_ns(value)
            if is_whole and found % unit:
                raise ValueError("finer than its unit") from None
            value = found // unit if is_whole else found / unit
    if is_whole and not isinstance(value, int):
        raise ValueError("not a whole number")
    return value


def bytes_of(value: Any) -> bytes:
    """Return the bytes of a text: base64, or `hex:` and hexadecimal digits. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError(_json_name(value))  # noqa: TRY004  all converters raise it
    try:
        if value.startswith("hex:"):
            return bytes.fromhex(value[4:])
        return base64.b64decode(value.removeprefix("base64:"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(str(error)) from None


def _encoded(field: FieldDescriptor, value: Any, around: Around, tables: Tables) -> bytes:
    """Return a row, a key or a bound as bytes."""
    if isinstance(value, str) and value.startswith(("hex:", "base64:")):
        return bytes_of(value)
    table = _nearest("table", around)
    if not table:
        raise ValueError("no table is named beside it; as bytes: base64:…")
    info = tables.named(table)
    is_text = isinstance(value, Text)
    if methods.holds(field) == ROW:
        given = decoded(value, "it") if is_text else value
        row = values.message_from_json(info.model.DESCRIPTOR)(given)
        try:
            raw: bytes = row.SerializeToString(deterministic=True)
        except EncodeError as error:
            raise ValueError(f"it cannot be serialized: {error}") from None
        return raw
    if is_text:
        words = json_or_text(value) if value.startswith("[") else None
        found: list[Any] = words if isinstance(words, list) else [value]
    else:
        found = value if isinstance(value, list) else [value]
    index = _nearest("index", around[:1]) if methods.holds(field) == BOUND else ""
    if index:
        chosen = info.index(index)
        return chosen.encode(_values(chosen.fields, found))
    return info.encode_key(_values(info.key_fields, found), partial=methods.holds(field) == BOUND)


def _nearest(name: str, around: Around) -> str:
    return next((str(one[name]) for one in around if isinstance(one.get(name), str) and one[name]), "")


def _values(fields: Sequence[tuple[FieldDescriptor, ...]], found: list[Any]) -> Any:
    """Return JSON values, or texts, as the values of these fields: one alone, or a tuple."""
    if len(found) > len(fields):
        raise ValueError(f"{len(found)} values for {len(fields)} fields")
    made = []
    for path, value in zip(fields, found, strict=False):
        field = path[-1]
        convert = values.from_text(field) if isinstance(value, str) else values.from_json(field)
        one = convert(value)
        made.append(Timestamp(**one) if kind_of(field) is TIMESTAMP else one)
    return made[0] if len(made) == 1 else tuple(made)


# ── to JSON ───────────────────────────────────────────────────────────────────────────────────────


def shown(found: Message, tables: Tables, *, table: str = "") -> dict[str, Any]:
    """Return a response as JSON values: all fields of the message itself, and those of nested messages that
    are set. Rows and keys of known tables are decoded; times are text. Raises nothing."""
    tables.learn(found)
    return _shown(found, ((found, table),), tables, whole=True)


Outside = tuple[tuple[Message, str], ...]


def _shown(found: Message, around: Outside, tables: Tables, *, whole: bool = False) -> dict[str, Any]:
    descriptor: Any = found.DESCRIPTOR
    made: dict[str, Any] = {}
    for field in descriptor.fields:
        value = getattr(found, field.name)
        if field.is_repeated:
            if is_map(field):
                if value or whole:
                    entry = field.message_type.fields_by_name["value"]
                    made[field.name] = {
                        str(key): _told(entry, one, around, tables) for key, one in value.items()
                    }
            elif value or whole:
                made[field.name] = [_told(field, one, around, tables) for one in value]
        elif found.HasField(field.name) if field.has_presence else (whole or value or _says(field)):
            made[field.name] = _told(field, value, around, tables)
    return made


def _says(field: FieldDescriptor) -> bool:
    """Return whether 0 says something: an enum whose first value is not called unspecified."""
    return field.enum_type is not None and not field.enum_type.values[0].name.endswith("UNSPECIFIED")


def _told(field: FieldDescriptor, value: Any, around: Outside, tables: Tables) -> Any:
    inner = field.message_type
    if inner is not None:
        if inner.full_name.startswith("google.protobuf."):
            return values.as_json(value, defaults=False)
        return _shown(value, ((value, ""), *around), tables)
    if is_time(field):
        return _time(value)
    if field.type == FieldDescriptor.TYPE_BYTES:
        known = methods.holds(field) and _decoded(field, value, around, tables)
        return known or base64.b64encode(value).decode()
    return values.one_to_json(field)(value)


def _time(time_ns: int) -> Any:
    """Return a time as text; 0, and one after the year 9999, as the number."""
    text = time_text(time_ns)
    if not time_ns or not text.endswith("Z"):
        return str(time_ns)
    below = time_ns % 10**9
    return text if not below else f"{text[:-1]}.{below:09d}".rstrip("0") + "Z"


def _decoded(field: FieldDescriptor, value: bytes, around: Outside, tables: Tables) -> Any:
    """Return a row as a JSON object, or a key as the list of its values; None if it cannot be decoded."""
    beside: Any = around[0][0]
    if not value or getattr(beside, "key_id", None):  # sealed
        return None
    name = next((found for one, given in around if (found := given or _text(one, "table"))), "")
    space = getattr(beside, "space", 0)
    info = tables.of(space if isinstance(space, int) else 0, name)
    if info is None:
        return None
    try:
        if methods.holds(field) == ROW:
            return values.as_json(info.parse(value))
        if methods.holds(field) == KEY:
            return [values.plain(one) for one in info.decode_key(value)]
    except (Error, KeyError):
        return None
    return None


def _text(found: Message, name: str) -> str:
    value = getattr(found, name, "")
    return value if isinstance(value, str) else ""
