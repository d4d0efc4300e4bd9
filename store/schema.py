"""Schema: what the log says the tables are, ready for use.

    log record ─▶ Schema (protobuf) ─▶ Schema here ─▶ TableInfo ─▶ Binding to a model
                                                        keys         key_of, entries

A `TableInfo` works on the models that the log itself carries, so that a replay needs no code of
the user. A `Binding` is a `TableInfo` seen through one generated class, which may be of an older
or a newer version: fields are found by number, never by name.
"""

from __future__ import annotations

import struct
from functools import cached_property
from types import NoneType
from typing import TYPE_CHECKING, Any, cast

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from everlog.proto import log_pb2
from everlog.store import keys, record
from everlog.store.admission import salvage, why
from everlog.store.binding import Binding
from everlog.store.errors import CorruptionError, SchemaError, SealedError
from everlog.store.fields import Path, descriptor_of, encode_values, resolve
from everlog.store.index_info import IndexInfo
from everlog.store.kinds import STRING, Kind, kind_of
from everlog.store.models import dependencies_first, version_of
from everlog.store.sealing import Sealing
from everlog.store.vault import Vault

if TYPE_CHECKING:
    from everlog.store.table import Table


SURROGATES = ("id", "uuid", "ulid", "key")  # what a key of text is named that tells nothing of anybody


def is_surrogate(name: str, kind: Kind[Any]) -> bool:
    """Whether a key field of this name and kind tells nothing of anybody."""
    return kind is not STRING or name in SURROGATES or name.endswith(tuple(f"_{word}" for word in SURROGATES))


class Schema:
    """A schema in force. Immutable."""

    def __init__(self, proto: log_pb2.Schema, vault: Vault | None = None) -> None:
        """`vault`: of the database that it is in force in; None where rows are not sealed or opened."""
        self.proto = proto
        self.vault = vault
        self.version = proto.version
        self.head = record.schema_head(proto.version)
        self._pool = descriptor_pool.DescriptorPool()
        for file in dependencies_first(proto.models.file):
            self._pool.Add(file)
        # Bindings by the constant that names the table, so that a write looks up one thing.
        self.bound: dict[Any, Binding] = {}
        self.tables = {table.name: TableInfo(self, table) for table in proto.tables}
        # Other generations of some tables, while a migration rewrites their rows.
        self.building = {table.name: TableInfo(self, table) for table in proto.building}
        self.retiring = {table.name: TableInfo(self, table) for table in proto.retiring}
        everything = (*self.tables.values(), *self.building.values(), *self.retiring.values())
        self.spaces = {info.space: info for info in everything}
        self.paired = bool(proto.building or proto.retiring)
        self.is_online = self.paired or any(info.builds for info in self.tables.values())
        for other in (*self.building.values(), *self.retiring.values()):
            if not other.proto.remade:
                mine = next(info for info in self.tables.values() if info.proto.id == other.proto.id)
                mine.twin, other.twin = other, mine

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

    def generation(self, name: str, space: int) -> TableInfo:
        """The table of this name, in the generation that has this space; 0: the one in force.
        Raises SchemaError if it is gone."""
        info = self.spaces.get(space) if space else self.table(name)
        if info is None or (space and name not in {info.name, info.twin and info.twin.name}):
            raise SchemaError(
                f"the rows of table {name} are no longer served as they were; use the tables of version"
                f" {self.version}",
                table=name,
                moved=self.version,
            )
        return info

    def bind(self, table: Table[Any, Any]) -> Binding:
        """A table as a constant of the code has it, in the generation that its model is of.

        Raises SchemaError if there is no such table, or if its rows are of another model by now.
        """
        binding = self.bound.get(table)
        if binding is None:
            info, version = self.table(table.name), version_of(table.model)
            if version and version < info.proto.since:
                older = self.retiring.get(info.name)
                if older is None or version < older.proto.since:
                    raise SchemaError(
                        f"the rows of table {info.name} were rewritten by migration {info.proto.since}, but"
                        f" the model {descriptor_of(table.model).full_name} is older; use the tables of that"
                        " migration, or of a newer one",
                        table=info.name,
                    )
                info = older
            elif version > self.version and descriptor_of(table.model).full_name != info.proto.model:
                what = "; its migration is being applied" if self.is_online else "; apply its migration first"
                raise SchemaError(
                    f"the database is at version {self.version}, but the model"
                    f" {descriptor_of(table.model).full_name} of table {info.name} is newer{what}",
                    table=info.name,
                )
            binding = self.bound[table] = info.bind(table.model)
        return binding

    def model(self, full_name: str) -> type[Message]:
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(full_name))


class TableInfo:
    """One table as the schema says it is."""

    twin: TableInfo | None = None  # another generation of it, which gets every write as well

    def __init__(self, schema: Schema, proto: log_pb2.TableSchema) -> None:
        self.schema = schema
        self.proto = proto
        self.name = proto.name
        self.space = proto.space
        self.life_ns = proto.life_ns
        self.row_prefix = keys.prefix(proto.space)
        self.put_head = record.space_and_op(proto.space, log_pb2.PUT)
        self.delete_head = record.space_and_op(proto.space, log_pb2.DELETE)
        # A table whose rows are sealed has a person. Where there are no keys, they are open, or refused.
        self.sealed = proto.HasField("person")
        self.sealing = Sealing(self, schema.vault) if self.sealed and schema.vault is not None else None
        self.indexes: dict[str, IndexInfo] = {}
        for index in proto.indexes:  # while one takes another's place, both have the name
            name = f"{index.name} (new)" if index.name in self.indexes else index.name
            self.indexes[name] = IndexInfo(self, index)
        self.builds = any(index.building for index in self.indexes.values())
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
            index = self.indexes[name]
        except KeyError:
            known = (
                ", ".join(sorted(key for key, index in self.indexes.items() if not index.building)) or "none"
            )
            raise SchemaError(
                f"table {self.name} has no index {name!r} at schema version {self.schema.version};"
                f" it has: {known}",
                table=self.name,
                index=name,
            ) from None
        if index.building:
            raise SchemaError(
                f"index {self.name}.{index.name} is being built; wait until its migration is finished",
                table=self.name,
                index=name,
            )
        return index

    def opened(self, key: bytes, value: bytes) -> bytes:
        """A stored value, with its row open. Raises SealedError."""
        if not value[0] & keys.HAS_KEY_ID:
            return value
        if self.sealing is None:
            raise SealedError(
                f"row {self.show_key(key)} is sealed, and there are no keys here; open its database",
                erased=False,
            )
        return self.sealing.value(key, value)

    def row_in(self, key: bytes, value: bytes) -> bytes:
        """The row in a stored value, open. Raises SealedError."""
        return keys.row_of(self.opened(key, value) if value[0] & keys.HAS_KEY_ID else value)

    def parse(self, row: bytes, key: bytes | None = None) -> Message:
        """A stored row as the log's own model. Raises CorruptionError, which names the row where its `key`
        is given."""
        try:
            return self.model.FromString(row)
        except DecodeError as error:
            raise self.unreadable(key, error) from None

    def salvage(self, row: bytes) -> Message:
        """A stored row as the log's own model, or what can be read of one that does not parse. Its record
        was checked, so nothing was damaged: it was written so, before such rows were refused."""
        try:
            return self.model.FromString(row)
        except DecodeError:
            return salvage(self.model, row)

    def unreadable(self, key: bytes | None, error: Exception) -> CorruptionError:
        """The error for a stored row that does not parse. Its fact `row` is the encoded key."""
        name = "" if key is None else f"row {self.show_key(key)} cannot be read: "
        remedy = (
            "delete it, or put another row in its place"  # to repair it, it would have to be opened
            if self.sealed
            else "`everlog repair` sets it aside, and nothing else"
        )
        return CorruptionError(
            f"{name}a row of table {self.name} is not a {self.proto.model}: {why(error)}; {remedy}",
            table=self.name,
            row=key,
            place=None if key is None else key.hex(),
        )

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

    @cached_property
    def key_is_personal(self) -> bool:
        """Whether the primary key of a sealed table may tell of somebody: a text that is not named as a
        surrogate is, or the person itself."""
        person = list(self.proto.person.numbers)
        return self.sealed and any(
            list(path.numbers) == person or not is_surrogate(fields[-1].name, kind_of(fields[-1]))
            for path, fields in zip(self.proto.key, self.key_fields, strict=True)
        )

    def name_key(self, key: bytes) -> str:
        """As `show_key`, for texts that are kept or sent: without a key that may tell of somebody."""
        return (
            f"{self.name}/(a key that may tell of somebody)" if self.key_is_personal else self.show_key(key)
        )

    def show_key(self, key: bytes) -> str:
        """`airports/JFK`: a key for people."""
        return "/".join((self.name, *(str(value) for value in self.decode_key(key))))
