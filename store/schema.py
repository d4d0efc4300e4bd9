"""Schema: what the log says the tables are, ready for use.

    log record ─▶ Schema (protobuf) ─▶ Schema here ─▶ TableInfo ─▶ Binding to a model
                                                        keys         key_of, entries

A `TableInfo` works on the models that the log itself carries, so that a replay needs no code of
the user. A `Binding` is a `TableInfo` seen through one generated class, which may be of an older
or a newer version: fields are found by number, never by name.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import cached_property
from types import NoneType
from typing import Any, cast

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from everlog.proto import log_pb2
from everlog.store import codec, keys, record
from everlog.store.binding import Binding
from everlog.store.errors import CorruptionError, SchemaError
from everlog.store.fields import Path, descriptor_of, encode_values, resolve
from everlog.store.kinds import kind_of


class Schema:
    """A schema in force. Immutable."""

    def __init__(self, proto: log_pb2.Schema) -> None:
        self.proto = proto
        self.version = proto.version
        self.head = record.schema_head(proto.version)
        self._pool = descriptor_pool.DescriptorPool()
        for file in _dependencies_first(proto.models.file):
            self._pool.Add(file)
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
        self.put_head = record.space_and_op(proto.space, log_pb2.PUT)
        self.delete_head = record.space_and_op(proto.space, log_pb2.DELETE)
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
    def key_fields(self) -> tuple[Path, ...]:
        return tuple(resolve(descriptor_of(self.model), path.numbers) for path in self.proto.key)

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

    @cached_property
    def _single(self) -> tuple[type, Any]:
        """The type and the encoder of a key of one field, for `encode_key`."""
        kind = kind_of(self.key_fields[0][-1])
        return (kind.types[0], kind.encode) if len(self.key_fields) == 1 else (NoneType, None)

    def encode_key(self, value: Any, *, partial: bool = False) -> bytes:
        """A key given by hand, as `"JFK"` or `("JFK", 3)`. Raises RowError."""
        expected, encode = self._single
        if type(value) is expected:
            try:
                return cast(bytes, encode(value))
            except (struct.error, OverflowError, UnicodeEncodeError):
                pass  # said below, with the field's name
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
        except (ValueError, IndexError, struct.error) as error:
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
    def fields(self) -> tuple[Path, ...]:
        return tuple(resolve(descriptor_of(self.table.model), path.numbers) for path in self.proto.fields)

    @cached_property
    def _first(self) -> tuple[type, Any]:
        """The type and the encoder of the first field, for `encode`."""
        kind = kind_of(self.fields[0][-1])
        return kind.types[0], kind.encode

    def encode(self, value: Any, *, partial: bool = True) -> bytes:
        """Values to look for, given by hand. Raises RowError."""
        expected, encode = self._first
        if type(value) is expected and (partial or len(self.fields) == 1):
            try:
                return b"\x01" + cast(bytes, encode(value))
            except (struct.error, OverflowError, UnicodeEncodeError):
                pass  # said below, with the field's name
        role = f"index {self.table.name}.{self.name}"
        return encode_values(value, self.fields, role, partial=partial, optional=True)

    @cached_property
    def nullable(self) -> bool:
        """Whether one of its fields can be absent from a row."""
        return any(step.has_presence for path in self.fields for step in path)

    def has_null(self, values: bytes) -> bool:
        """Whether a field is absent in these values (without prefix): such rows are not unique."""
        at = 0
        for skip in self._skips:
            if not values[at]:
                return True
            at = skip(values, at + 1)
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
        for skip in self._skips:
            at = skip(entry, at + 1) if entry[at] else at + 1
        return entry[at:]

    @cached_property
    def _skips(self) -> list[codec.Skip]:
        return [cast(codec.Skip, kind_of(path[-1]).skip) for path in self.fields]


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
