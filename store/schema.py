"""Schema: what the log says the tables are, ready for use.

    log record ─▶ Schema (protobuf) ─▶ Schema here ─▶ TableInfo ─▶ Binding to a model
                                                        keys         key_of, entries

A `TableInfo` works on the models that the log itself carries, so that a replay needs no code of
the user. A `Binding` is a `TableInfo` seen through one generated class, which may be of an older
or a newer version: fields are found by number, never by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cached_property
from operator import attrgetter
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from everlog.proto import log_pb2
from everlog.store import codec, keys
from everlog.store.errors import CorruptionError, RowError, SchemaError
from everlog.store.kinds import Kind, kind_of

KeyOf = Callable[[Any], bytes]


class Schema:
    """A schema in force. Immutable."""

    def __init__(self, proto: log_pb2.Schema) -> None:
        self.proto = proto
        self.version = proto.version
        self._pool = descriptor_pool.DescriptorPool()
        for file in _dependencies_first(proto.models.file):
            self._pool.Add(file)  # type: ignore[no-untyped-call]
        # Bindings by the constant that names the table, so that a write looks up one thing.
        self.bound: dict[Any, Binding] = {}
        self.tables = {table.name: TableInfo(self, table) for table in proto.tables}
        self.spaces = {info.space: info for info in self.tables.values()}

    def table(self, name: str) -> TableInfo:
        """Raises SchemaError if there is no such table."""
        try:
            return self.tables[name]
        except KeyError:
            known = ", ".join(sorted(self.tables)) or "none; apply its migration first"
            raise SchemaError(
                f"there is no table {name!r} at schema version {self.version}; the tables are: {known}",
                table=name,
            ) from None

    def model(self, full_name: str) -> type[Message]:
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(full_name))


class TableInfo:
    """One table as the schema says it is."""

    def __init__(self, schema: Schema, proto: log_pb2.TableSchema) -> None:
        self.schema = schema
        self.proto = proto
        self.name = proto.name
        self.space = proto.space
        self.row_prefix = keys.prefix(proto.space)
        self.indexes = {index.name: IndexInfo(self, index) for index in proto.indexes}
        self.unique = [(at, index) for at, index in enumerate(self.indexes.values()) if index.unique]
        self._bindings: dict[type[Message], Binding] = {}

    @cached_property
    def model(self) -> type[Message]:
        return self.schema.model(self.proto.model)

    @cached_property
    def own(self) -> Binding:
        """The binding to the model that the log carries."""
        return self.bind(self.model)

    @cached_property
    def key_fields(self) -> tuple[tuple[FieldDescriptor, ...], ...]:
        return tuple(resolve(self.model.DESCRIPTOR, path.numbers) for path in self.proto.key)

    def bind(self, model: type[Message]) -> Binding:
        """This table seen through `model`. Raises SchemaError if the two do not fit."""
        binding = self._bindings.get(model)
        if binding is None:
            binding = self._bindings[model] = Binding(self, model)
        return binding

    def index(self, name: str) -> IndexInfo:
        """Raises SchemaError if there is no such index."""
        try:
            return self.indexes[name]
        except KeyError:
            known = ", ".join(sorted(self.indexes)) or "none"
            raise SchemaError(
                f"table {self.name} has no index {name!r} at schema version {self.schema.version};"
                f" it has: {known}",
                table=self.name,
                index=name,
            ) from None

    def parse(self, row: bytes) -> Message:
        """A stored row as the log's own model. Raises CorruptionError."""
        try:
            return self.model.FromString(row)
        except DecodeError as error:
            raise CorruptionError(
                f"a row of table {self.name} is not a {self.proto.model}: {error}"
            ) from None

    def encode_key(self, value: Any, *, partial: bool = False) -> bytes:
        """A key given by hand, as `"JFK"` or `("JFK", 3)`. Raises RowError."""
        return encode_values(value, self.key_fields, f"the primary key of {self.name}", partial=partial)

    def decode_key(self, key: bytes) -> tuple[Any, ...]:
        """The values in an encoded key. Raises CorruptionError."""
        values, at = [], 0
        try:
            for path in self.key_fields:
                decode = kind_of(path[-1]).decode
                assert decode is not None
                value, at = decode(key, at)
                values.append(value)
            if at != len(key):
                raise ValueError(f"{len(key) - at} bytes too many")
        except (ValueError, IndexError, codec.struct.error) as error:
            raise CorruptionError(
                f"a key of table {self.name} does not decode: {key.hex()}: {error}"
            ) from None
        return tuple(values)

    def show_key(self, key: bytes) -> str:
        """`airports/JFK`: a key for people."""
        return "/".join((self.name, *(str(value) for value in self.decode_key(key))))


class IndexInfo:
    """One index as the schema says it is."""

    def __init__(self, table: TableInfo, proto: log_pb2.IndexSchema) -> None:
        self.table = table
        self.proto = proto
        self.name = proto.name
        self.id = proto.id
        self.unique = proto.unique
        self.prefix = keys.prefix(table.space, proto.id)

    @cached_property
    def fields(self) -> tuple[tuple[FieldDescriptor, ...], ...]:
        return tuple(resolve(self.table.model.DESCRIPTOR, path.numbers) for path in self.proto.fields)

    def encode(self, value: Any, *, partial: bool = True) -> bytes:
        """Values to look for, given by hand. Raises RowError."""
        role = f"index {self.table.name}.{self.name}"
        return encode_values(value, self.fields, role, partial=partial, optional=True)

    @cached_property
    def nullable(self) -> bool:
        """Whether one of its fields can be absent from a row."""
        return any(step.has_presence for path in self.fields for step in path)

    def has_null(self, values: bytes) -> bool:
        """Whether a field is absent in these values (without prefix): such rows are not unique."""
        at = 0
        for path in self.fields:
            if not values[at]:
                return True
            decode = kind_of(path[-1]).decode
            assert decode is not None
            at = decode(values, at + 1)[1]
        return False

    def show(self, values: bytes) -> str:
        """`("New York", None)`: values (without prefix) for people."""
        shown, at = [], 0
        for path in self.fields:
            at += 1
            if not values[at - 1]:
                shown.append("None")
                continue
            decode = kind_of(path[-1]).decode
            assert decode is not None
            value, at = decode(values, at)
            shown.append(repr(value))
        return ", ".join(shown)

    def key_in(self, entry: bytes) -> bytes:
        """The primary key at the end of an entry (given without its prefix)."""
        at = 0
        for path in self.fields:
            at += 1
            if entry[at - 1]:
                decode = kind_of(path[-1]).decode
                assert decode is not None
                at = decode(entry, at)[1]
        return entry[at:]


class Binding:
    """A table seen through one model class: how its rows become keys and entries."""

    def __init__(self, info: TableInfo, model: type[Message]) -> None:
        self.info = info
        self.model = model
        descriptor = model.DESCRIPTOR
        _check_model(info, descriptor)
        parts = [_key_part(info, resolve(descriptor, path.numbers)) for path in info.proto.key]
        self.key_of: KeyOf = (
            parts[0] if len(parts) == 1 else lambda row: b"".join([part(row) for part in parts])
        )
        # An older model may not have a field that is indexed since: then the row is read again
        # through the log's own model, which has.
        self._entry_ofs: list[KeyOf] | None = None
        if all(
            _has(descriptor, path.numbers) for index in info.indexes.values() for path in index.proto.fields
        ):
            self._entry_ofs = [_entry_of(index, descriptor) for index in info.indexes.values()]

    def values(self, row: Message, raw: bytes) -> list[bytes]:
        """For each index of the table: its prefix and the row's values, without the key."""
        if self._entry_ofs is None:
            return self.info.own.values(self.info.parse(raw), raw)
        return [entry_of(row) for entry_of in self._entry_ofs]


def resolve(descriptor: Descriptor, numbers: Iterable[int]) -> tuple[FieldDescriptor, ...]:
    """The fields on the way from a model to a nested field, by number."""
    fields: list[FieldDescriptor] = []
    message: Descriptor | None = descriptor
    for number in numbers:
        assert message is not None
        field = message.fields_by_number[number]
        fields.append(field)
        message = field.message_type
    return tuple(fields)


def encode_values(
    value: Any,
    fields: tuple[tuple[FieldDescriptor, ...], ...],
    role: str,
    *,
    partial: bool = False,
    optional: bool = False,
) -> bytes:
    """Values given by hand as a key (or, `partial`, as the first of its fields). Raises RowError."""
    values = value if isinstance(value, tuple) else (value,)
    if len(values) > len(fields) or (len(values) < len(fields) and not partial):
        raise RowError(
            f"{role} has {len(fields)} field(s), {', '.join(_dotted(path) for path in fields)};"
            f" found {len(values)} value(s): {values!r}"
        )
    parts = []
    for one, path in zip(values, fields, strict=False):
        kind = kind_of(path[-1])
        if one is None and optional:
            parts.append(b"\x00")
            continue
        if not isinstance(one, kind.types) or (isinstance(one, bool) and bool not in kind.types):
            raise RowError(
                f"expected `{kind.types[0].__name__}` for {_dotted(path)} in {role},"
                f" found `{type(one).__name__}` {one!r}"
            )
        parts.append(b"\x01" + _encode(kind, one, path, role) if optional else _encode(kind, one, path, role))
    return b"".join(parts)


def _encode(kind: Kind[Any], value: Any, path: tuple[FieldDescriptor, ...], role: str) -> bytes:
    assert kind.encode is not None
    try:
        return kind.encode(value)
    except (codec.struct.error, UnicodeEncodeError, OverflowError) as error:
        raise RowError(f"{value!r} does not fit {_dotted(path)} in {role}, a {kind.name}: {error}") from None


def _key_part(info: TableInfo, path: tuple[FieldDescriptor, ...]) -> KeyOf:
    """One field of the primary key: present, and not empty where it cannot tell empty from absent."""
    leaf, get, encode = path[-1], attrgetter(_dotted(path)), kind_of(path[-1]).encode
    assert encode is not None
    checked = [step for step in path if step.has_presence]
    is_float = leaf.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT)
    is_text = not leaf.has_presence and leaf.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
    if not checked and not is_text and not is_float:
        return lambda row: encode(get(row))

    def part(row: Any) -> bytes:
        if not all(_present(row, path)):
            raise RowError(
                f"a row of {info.name} lacks its key field {_dotted(path)}; set it", table=info.name
            )
        value = get(row)
        if is_text and not value:
            raise RowError(
                f"a row of {info.name} lacks its key field {_dotted(path)}; set it, or declare the field"
                " `optional` if an empty key is meant",
                table=info.name,
            )
        if is_float and math.isnan(value):
            raise RowError(f"a row of {info.name} has NaN in its key field {_dotted(path)}", table=info.name)
        return encode(value)

    return part


def _entry_of(index: IndexInfo, descriptor: Descriptor) -> KeyOf:
    """The index's prefix and a row's values in it."""
    paths = [resolve(descriptor, path.numbers) for path in index.proto.fields]
    parts = [_index_part(path) for path in paths]
    if len(parts) == 1 and not any(step.has_presence for step in paths[0]):
        get, encode, prefix = (
            attrgetter(_dotted(paths[0])),
            kind_of(paths[0][-1]).encode,
            index.prefix + b"\x01",
        )
        assert encode is not None
        return lambda row: prefix + encode(get(row))
    return lambda row: index.prefix + b"".join([part(row) for part in parts])


def _index_part(path: tuple[FieldDescriptor, ...]) -> KeyOf:
    get, encode = attrgetter(_dotted(path)), kind_of(path[-1]).encode
    assert encode is not None
    if not any(step.has_presence for step in path):
        return lambda row: b"\x01" + encode(get(row))
    return lambda row: b"\x01" + encode(get(row)) if all(_present(row, path)) else b"\x00"


def _present(row: Any, path: tuple[FieldDescriptor, ...]) -> Iterable[bool]:
    for step in path:
        yield not step.has_presence or row.HasField(step.name)
        if step.message_type is not None:
            row = getattr(row, step.name)


def _has(descriptor: Descriptor | None, numbers: Iterable[int]) -> bool:
    for number in numbers:
        if descriptor is None or number not in descriptor.fields_by_number:
            return False
        descriptor = descriptor.fields_by_number[number].message_type
    return True


def _dotted(path: tuple[FieldDescriptor, ...]) -> str:
    return ".".join(step.name for step in path)


def _check_model(info: TableInfo, descriptor: Descriptor) -> None:
    """Whether rows of the table can be read and written through this model."""
    own = info.model.DESCRIPTOR
    if descriptor is own:
        return
    for path in info.proto.key:
        if not _has(descriptor, path.numbers):
            name = _dotted(resolve(own, path.numbers))
            raise SchemaError(
                f"table {info.name} has {name} in its key at schema version {info.schema.version},"
                f" but the model {descriptor.full_name} has no such field; use the tables of that version",
                table=info.name,
            )
    for field in descriptor.fields:
        mine = own.fields_by_number.get(field.number)
        if mine is not None and (mine.type != field.type or mine.is_repeated != field.is_repeated):
            raise SchemaError(
                f"table {info.name} holds {mine.full_name} = {mine.number} as {kind_of(mine).name} at schema"
                f" version {info.schema.version}, but the model {descriptor.full_name} says"
                f" {kind_of(field).name}; use the tables of that version",
                table=info.name,
            )


def _dependencies_first(files: Iterable[Any]) -> Iterable[Any]:
    by_name = {file.name: file for file in files}
    done: set[str] = set()

    def visit(name: str) -> Iterable[Any]:
        if name in done or name not in by_name:
            return
        done.add(name)
        for dependency in by_name[name].dependency:
            yield from visit(dependency)
        yield by_name[name]

    for name in by_name:
        yield from visit(name)
