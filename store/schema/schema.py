"""Schema: what the log says the tables are, ready for use.

    log record ─▶ Schema (protobuf) ─▶ Schema here ─▶ TableInfo ─▶ Binding to a model
                                                        keys         key_of, entries

A `TableInfo` works on the models that the log itself carries, so that a replay needs no code of
the user. A `Binding` is a `TableInfo` seen through one generated class, which may be of an older
or a newer version: fields are found by number, never by name.

Index info: one index as the schema says it is: its prefix, and values of it by hand.

entry := prefix values key        what lies where: keys.py

Binding: a table seen through one model class: how its rows become keys and index values.

The class may be the log's own, or generated from an older or a newer version of the model. What
is called for every row is composed here once, from the descriptors.

Sealing: one table whose rows are sealed, each under the key of its person.

    row ─▶ its person ─▶ key_id ─▶ sealed row       to the log, and to the tables: header key_id sealed
    value (keys.py) ─▶ key_id ─▶ row                 for whoever reads it here

    values of a hashed index := 0x00 | 0x01 HMAC(index key, prefix:6 field:u8 value)[:16]   of each field

Where there is no vault, in a client of a server, rows are open: the server seals and opens.
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Callable
from functools import cached_property
from operator import attrgetter
from types import NoneType
from typing import TYPE_CHECKING, Any, cast

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from everlog.proto import log_pb2
from everlog.store import keys, record
from everlog.store.crypto.vault import HASH_SIZE, Vault
from everlog.store.errors import CorruptionError, RowError, SchemaError, SealedError
from everlog.store.schema import codec
from everlog.store.schema.admission import doubts, salvage, why
from everlog.store.schema.codec import STRING, Kind, kind_of
from everlog.store.schema.descriptors import dependencies_first, version_of
from everlog.store.schema.fields import Path, descriptor_of, dotted, encode_values, has, present, resolve

if TYPE_CHECKING:
    from everlog.store.schema.table import Table


class IndexInfo:
    """One index as the schema says it is."""

    def __init__(self, table: TableInfo, proto: log_pb2.IndexSchema) -> None:
        self.table = table
        self.proto = proto
        self.name = proto.name
        self.id = proto.id
        self.unique = proto.unique
        self.building = proto.building
        self.hashed = proto.hashed
        self.hashes = proto.hashed and table.sealing is not None  # here, and not at a server
        self.prefix = keys.prefix(table.space, proto.id)

    @cached_property
    def fields(self) -> tuple[Path, ...]:
        return tuple(resolve(descriptor_of(self.table.model), path.numbers) for path in self.proto.fields)

    @cached_property
    def _first(self) -> tuple[type, Any]:
        """The type and the encoder of the first field, for `encode`."""
        kind = kind_of(self.fields[0][-1])
        return kind.types[0], kind.encode

    def hash(self, at: int, value: bytes) -> bytes:
        """What stands in a hashed index for the encoded value of its field number `at`."""
        sealing = self.table.sealing
        if value == b"\x00" or sealing is None:
            return value
        sealing.check()
        return b"\x01" + sealing.vault.hash(self.prefix, bytes((at,)), value[1:])

    def hash_plain(self, values: bytes) -> bytes:
        """The same of whole values, one behind the other; what follows them stays as it is."""
        parts, at = [], 0
        for number, path in enumerate(self.fields):
            if at >= len(values):
                break
            skip = cast(codec.Skip, kind_of(path[-1]).skip)
            end = skip(values, at + 1) if values[at] else at + 1
            parts.append(self.hash(number, values[at:end]))
            at = end
        return b"".join((*parts, values[at:]))

    def hash_span(self, start: bytes, end: bytes) -> tuple[bytes, bytes]:
        """A range of plain values, as who has no keys says it, over the hashes. Raises RowError where it
        would be one of an order."""
        ends, at = list[int](), 0
        try:
            for path in self.fields:
                if at >= len(start):
                    break
                at = cast(codec.Skip, kind_of(path[-1]).skip)(start, at + 1) if start[at] else at + 1
                ends.append(at)
        except (ValueError, IndexError):
            ends = []
        if not ends:
            raise RowError(f"index {self.table.name}.{self.name} holds hashes, which have no order")
        for at in reversed(ends):
            if end == codec.after(start[:at]):
                return self.hash_plain(start), codec.after(self.hash_plain(start[:at]))
        return self.hash_plain(start), self.hash_plain(end)

    def encode(self, value: Any, *, partial: bool = True) -> bytes:
        """Values to look for, given by hand. Raises RowError and SealedError."""
        plain = self._encode(value, partial=partial)
        if not self.hashes:
            return plain
        assert self.table.sealing is not None
        self.table.sealing.check()
        return self.hash_plain(plain)

    def _encode(self, value: Any, *, partial: bool) -> bytes:
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

    @property
    def over(self) -> str:
        """The names of its fields, for people."""
        return ", ".join(dotted(path) for path in self.fields)

    def show(self, values: bytes) -> str:
        """`("New York", None)`: values (without prefix) for people."""
        if self.hashed:  # also where there are no keys, and the values are those of rows
            return f"the same {self.over}"
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
        if self.hashes:
            return [codec.skip_fixed(HASH_SIZE)] * len(self.fields)
        return [cast(codec.Skip, kind_of(path[-1]).skip) for path in self.fields]


KeyOf = Callable[[Any], bytes]


class Binding:
    """A table seen through one model class: how its rows become keys and entries."""

    def __init__(self, info: TableInfo, model: type[Message]) -> None:
        self.info = info
        self.model = model
        descriptor = descriptor_of(model)
        _check_model(info, descriptor)
        self.doubts = doubts(model, info.model)
        # Rows with fewer bytes are written without being parsed again; with most models all of them.
        self.doubtful_bytes = min((doubt.bytes_min for doubt in self.doubts), default=sys.maxsize)
        parts = [_key_part(info, resolve(descriptor, path.numbers)) for path in info.proto.key]
        self.key_of: KeyOf = (
            parts[0] if len(parts) == 1 else lambda row: b"".join([part(row) for part in parts])
        )
        # An older model may not have a field that is indexed since: then the row is read again
        # through the log's own model, which has.
        self._entry_ofs: list[KeyOf] | None = None  # None: an index is over a field it does not have
        if all(
            has(descriptor, path.numbers) for index in info.indexes.values() for path in index.proto.fields
        ):
            self._entry_ofs = [_entry_of(index, descriptor) for index in info.indexes.values()]

    @property
    def entry_ofs(self) -> list[KeyOf]:
        """For each index: what makes its prefix and values of a row. Of the log's own model."""
        assert self._entry_ofs is not None
        return self._entry_ofs

    def values(self, row: Message, raw: bytes) -> list[bytes]:
        """For each index of the table: its prefix and the row's values, without the key."""
        if self._entry_ofs is None:
            return self.info.own.values(self.info.parse(raw), raw)
        return [entry_of(row) for entry_of in self._entry_ofs]


def _key_part(info: TableInfo, path: Path) -> KeyOf:
    """One field of the primary key: present, and not empty where it cannot tell empty from absent."""
    leaf, get, encode = path[-1], attrgetter(dotted(path)), kind_of(path[-1]).encode
    assert encode is not None
    checked = [step for step in path if step.has_presence]
    is_float = leaf.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT)
    is_text = not leaf.has_presence and leaf.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
    if not checked and not is_text and not is_float:
        return lambda row: encode(get(row))

    def part(row: Any) -> bytes:
        if not all(present(row, path)):
            raise RowError(
                f"a row of {info.name} lacks its key field {dotted(path)}; set it", table=info.name
            )
        value = get(row)
        if is_text and not value:
            raise RowError(
                f"a row of {info.name} lacks its key field {dotted(path)}; set it, or declare the field"
                " `optional` if an empty key is meant",
                table=info.name,
            )
        if is_float and math.isnan(value):
            raise RowError(f"a row of {info.name} has NaN in its key field {dotted(path)}", table=info.name)
        return encode(value)

    return part


def person_part(info: TableInfo, path: Path) -> KeyOf:
    """The field that says whose a row is: a row of nobody cannot be sealed."""
    get, encode, name = attrgetter(dotted(path)), kind_of(path[-1]).encode, dotted(path)
    assert encode is not None

    def part(row: Any) -> bytes:
        value = get(row)
        if not all(present(row, path)) or value in ("", b""):
            raise RowError(
                f"a row of {info.name} does not say whose it is: it lacks {name}; set it", table=info.name
            )
        return encode(value)

    return part


def _entry_of(index: IndexInfo, descriptor: Descriptor) -> KeyOf:
    """The index's prefix and a row's values in it."""
    paths = [resolve(descriptor, path.numbers) for path in index.proto.fields]
    parts = [_index_part(path) for path in paths]
    if index.hashes:
        hashes = index.hash
        return lambda row: index.prefix + b"".join([hashes(at, part(row)) for at, part in enumerate(parts)])
    if len(parts) == 1 and not any(step.has_presence for step in paths[0]):
        get, encode, prefix = (
            attrgetter(dotted(paths[0])),
            kind_of(paths[0][-1]).encode,
            index.prefix + b"\x01",
        )
        assert encode is not None
        return lambda row: prefix + encode(get(row))
    return lambda row: index.prefix + b"".join([part(row) for part in parts])


def _index_part(path: Path) -> KeyOf:
    get, encode = attrgetter(dotted(path)), kind_of(path[-1]).encode
    assert encode is not None
    if not any(step.has_presence for step in path):
        return lambda row: b"\x01" + encode(get(row))
    return lambda row: b"\x01" + encode(get(row)) if all(present(row, path)) else b"\x00"


def _check_model(info: TableInfo, descriptor: Descriptor) -> None:
    """Whether rows of the table can be read and written through this model."""
    own = descriptor_of(info.model)
    if descriptor is own:
        return
    for path in info.proto.key:
        if not has(descriptor, path.numbers):
            name = dotted(resolve(own, path.numbers))
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


class Sealing:
    """Seals and opens the rows of a table."""

    def __init__(self, info: TableInfo, vault: Vault) -> None:
        self._info = info
        self._space = keys.SPACE.pack(info.space)
        self.vault = vault
        self.person_of = person_part(info, resolve(descriptor_of(info.model), info.proto.person.numbers))

    def check(self) -> None:
        """Raises SealedError if rows can be neither sealed nor opened."""
        self.vault.check(self._info.name)

    def seal(self, key: bytes, row: bytes) -> tuple[bytes, bytes]:
        """The key_id of the row's person, and the row sealed. Raises SealedError and RowError."""
        self.check()
        key_id = self.vault.key_of(self.person_of(self._info.salvage(row)))
        return key_id, self.vault.seal(key_id, self._space + key, row)

    def open(self, key: bytes, key_id: bytes, sealed: bytes) -> bytes:
        """Raises SealedError, of which those who were forgotten are told without any keys, and
        CorruptionError."""
        if self.vault.locked and not self.vault.is_shredded(key_id):
            self.check()
        try:
            return self.vault.open(key_id, self._space + key, sealed)
        except SealedError as error:
            raise SealedError(f"{self._info.name_key(key)}: {error}", **error.facts) from None

    def value(self, key: bytes, value: bytes) -> bytes:
        """A stored value with its row open. Raises SealedError and CorruptionError."""
        key_id = keys.key_id_of(value)
        if not key_id:
            return value
        row = self.open(key, key_id, keys.row_of(value))
        return keys.opened_value(value, row)


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
