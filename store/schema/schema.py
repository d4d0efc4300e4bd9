"""Schema: the tables that the log declares, ready for use.

    log record ─▶ Schema (protobuf) ─▶ Schema here ─▶ TableInfo ─▶ Binding to a model
                                                        keys         key_of, entries

A `TableInfo` uses the models in the log itself, so a replay needs no user code. A `Binding` is a
`TableInfo` seen through one generated class, which may be of an older or newer version: fields are found by
number, never by name. Functions that run for every row are composed once per binding, from the descriptors.

`IndexInfo` encodes values of one index. Where keys and entries lie: keys.py.

    entry := prefix values key

`Sealing` seals the rows of one table, each with the key of its person.

    row ─▶ its person ─▶ key_id ─▶ sealed row        into the log and the tables: header key_id sealed
    value (keys.py) ─▶ key_id ─▶ row                 for local readers

    values of a hashed index := 0x00 | 0x01 HMAC(index key, prefix:6 field:u8 value)[:16]   of each field

Without a vault, in a client of a server, rows are plaintext: the server seals and unseals them.
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
from everlog.store.schema.descriptors import (
    Path,
    dependencies_first,
    descriptor_of,
    dotted,
    encode_values,
    has,
    present,
    resolve,
    version_of,
)

if TYPE_CHECKING:
    from everlog.store.schema.table import Table


class IndexInfo:
    """One index of the schema."""

    def __init__(self, table: TableInfo, proto: log_pb2.IndexSchema) -> None:
        self.table = table
        self.proto = proto
        self.name = proto.name
        self.id = proto.id
        self.unique = proto.unique
        self.building = proto.building
        self.hashed = proto.hashed
        self.hashes = proto.hashed and table.sealing is not None  # by this process, not by a server
        self.prefix = keys.prefix(table.space, proto.id)

    @cached_property
    def fields(self) -> tuple[Path, ...]:
        return tuple(resolve(descriptor_of(self.table.model), path.numbers) for path in self.proto.fields)

    @cached_property
    def _first(self) -> tuple[type, Any]:
        """Type and encoder of the first field, for `encode`."""
        kind = kind_of(self.fields[0][-1])
        return kind.types[0], kind.encode

    def hash(self, at: int, value: bytes) -> bytes:
        """Return what a hashed index stores for the encoded value of its field number `at`."""
        sealing = self.table.sealing
        if value == b"\x00" or sealing is None:
            return value
        sealing.check()
        return b"\x01" + sealing.vault.hash(self.prefix, bytes((at,)), value[1:])

    def hash_plain(self, values: bytes) -> bytes:
        """Hash a sequence of encoded values; bytes after the last field are kept unchanged."""
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
        """Convert a range of plain values, from a client without keys, into a range of hashes. Raises
        RowError for a range that needs an order."""
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
            raise RowError(f"index {self.table.name}.{self.name} stores hashes, which have no order")
        for at in reversed(ends):
            if end == codec.after(start[:at]):
                return self.hash_plain(start), codec.after(self.hash_plain(start[:at]))
        return self.hash_plain(start), self.hash_plain(end)

    def encode(self, value: Any, *, partial: bool = True) -> bytes:
        """Encode a caller's values to look for. Raises RowError and SealedError."""
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
                encoded: bytes = encode(value)
                return b"\x01" + encoded
            except (struct.error, OverflowError, UnicodeEncodeError):
                pass  # reported below, with the field's name
        role = f"index {self.table.name}.{self.name}"
        return encode_values(value, self.fields, role, partial=partial, optional=True)

    @cached_property
    def nullable(self) -> bool:
        """Whether one of its fields can be absent from a row."""
        return any(step.has_presence for path in self.fields for step in path)

    def has_null(self, values: bytes) -> bool:
        """Return whether a field is absent in these values (without prefix): such rows are not subject to
        uniqueness."""
        at = 0
        for skip in self._skips:
            if not values[at]:
                return True
            at = skip(values, at + 1)
        return False

    @property
    def over(self) -> str:
        """The names of its fields, for messages."""
        return ", ".join(dotted(path) for path in self.fields)

    def show(self, values: bytes) -> str:
        """Format values (without prefix) for people: `"New York", None`."""
        if self.hashed:  # even without keys, where the values are plaintext
            return f"the same {self.over}"
        parts, at = [], 0
        for path in self.fields:
            at += 1
            if not values[at - 1]:
                parts.append("None")
                continue
            decode = kind_of(path[-1]).decode
            assert decode is not None
            value, at = decode(values, at)
            parts.append(repr(value))
        return ", ".join(parts)

    def key_in(self, entry: bytes) -> bytes:
        """Return the primary key at the end of an entry (without prefix)."""
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
    """A table seen through one model class: encodes its rows' keys and index values."""

    def __init__(self, info: TableInfo, model: type[Message]) -> None:
        self.info = info
        self.model = model
        descriptor = descriptor_of(model)
        _check_model(info, descriptor)
        self.doubts = doubts(model, info.model)
        # Rows with fewer bytes are written without being parsed again; for most models, all rows.
        self.doubtful_bytes = min((doubt.bytes_min for doubt in self.doubts), default=sys.maxsize)
        parts = [_key_part(info, resolve(descriptor, path.numbers)) for path in info.proto.key]
        self.key_of: KeyOf = (
            parts[0] if len(parts) == 1 else lambda row: b"".join([part(row) for part in parts])
        )
        # An older model may lack a field that was indexed later. The row is then parsed again with the log's
        # own model, which has it.
        self._entry_ofs: list[KeyOf] | None = None  # None: the model lacks an indexed field
        if all(
            has(descriptor, path.numbers) for index in info.indexes.values() for path in index.proto.fields
        ):
            self._entry_ofs = [_entry_of(index, descriptor) for index in info.indexes.values()]

    @property
    def entry_ofs(self) -> list[KeyOf]:
        """For each index, the encoder of its prefix and a row's values. Only for the log's own model."""
        assert self._entry_ofs is not None
        return self._entry_ofs

    def values(self, row: Message, raw: bytes) -> list[bytes]:
        """Return for each index its prefix and the row's values, without the key."""
        if self._entry_ofs is None:
            return self.info.own.values(self.info.parse(raw), raw)
        return [entry_of(row) for entry_of in self._entry_ofs]


def _key_part(info: TableInfo, path: Path) -> KeyOf:
    """Return the encoder of one field of the primary key. It refuses an absent field, an empty one if empty
    and absent are indistinguishable, and NaN."""
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
                " `optional` to allow an empty key",
                table=info.name,
            )
        if is_float and math.isnan(value):
            raise RowError(f"a row of {info.name} has NaN in its key field {dotted(path)}", table=info.name)
        return encode(value)

    return part


def person_part(info: TableInfo, path: Path) -> KeyOf:
    """Return the encoder of the person field. A row without a person cannot be sealed."""
    get, encode, name = attrgetter(dotted(path)), kind_of(path[-1]).encode, dotted(path)
    assert encode is not None

    def part(row: Any) -> bytes:
        value = get(row)
        if not all(present(row, path)) or value in ("", b""):
            raise RowError(
                f"a row of {info.name} has no person: its field {name} is empty; set it", table=info.name
            )
        return encode(value)

    return part


def _entry_of(index: IndexInfo, descriptor: Descriptor) -> KeyOf:
    """Return the encoder of an index's prefix and a row's values in it."""
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
    """Raise SchemaError if rows of the table cannot be read and written through this model."""
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
                f" version {info.schema.version}, but the model {descriptor.full_name} has"
                f" {kind_of(field).name}; use the tables of that version",
                table=info.name,
            )


class Sealing:
    """Seals and unseals the rows of a table."""

    def __init__(self, info: TableInfo, vault: Vault) -> None:
        self._info = info
        self._space = keys.SPACE.pack(info.space)
        self.vault = vault
        self.person_of = person_part(info, resolve(descriptor_of(info.model), info.proto.person.numbers))

    def check(self) -> None:
        """Raise SealedError if rows can be neither sealed nor unsealed."""
        self.vault.check(self._info.name)

    def seal(self, key: bytes, row: bytes) -> tuple[bytes, bytes]:
        """Return the key_id of the row's person, and the sealed row. Raises SealedError and RowError."""
        self.check()
        key_id = self.vault.key_of(self.person_of(self._info.salvage(row)))
        return key_id, self.vault.seal(key_id, self._space + key, row)

    def open(self, key: bytes, key_id: bytes, sealed: bytes) -> bytes:
        """Return the plaintext of a sealed row.

        Raises SealedError, for the row of a forgotten person even without any keys, and CorruptionError.
        """
        if self.vault.locked and not self.vault.is_shredded(key_id):
            self.check()
        try:
            return self.vault.open(key_id, self._space + key, sealed)
        except SealedError as error:
            raise SealedError(f"{self._info.name_key(key)}: {error}", **error.facts) from None

    def value(self, key: bytes, value: bytes) -> bytes:
        """Return a stored value with its row unsealed. Raises SealedError and CorruptionError."""
        key_id = keys.key_id_of(value)
        if not key_id:
            return value
        row = self.open(key, key_id, keys.row_of(value))
        return keys.opened_value(value, row)


SURROGATES = ("id", "uuid", "ulid", "key")  # names of text keys that hold no personal data


def is_surrogate(name: str, kind: Kind[Any]) -> bool:
    """Return whether a key field with this name and kind holds no personal data."""
    return kind is not STRING or name in SURROGATES or name.endswith(tuple(f"_{word}" for word in SURROGATES))


class Schema:
    """A schema in force. Immutable."""

    def __init__(self, proto: log_pb2.Schema, vault: Vault | None = None) -> None:
        """`vault`: the vault of the database; None if rows are neither sealed nor unsealed here."""
        self.proto = proto
        self.vault = vault
        self.version = proto.version
        self.version_field = record.schema_field(proto.version)
        self._pool = descriptor_pool.DescriptorPool()
        for file in dependencies_first(proto.models.file):
            self._pool.Add(file)
        # Bindings by table constant, so that a write needs a single lookup.
        self.bound: dict[Any, Binding] = {}
        self.tables = {table.name: TableInfo(self, table) for table in proto.tables}
        # Second generations of some tables, while a migration rewrites their rows.
        self.building = {table.name: TableInfo(self, table) for table in proto.building}
        self.retiring = {table.name: TableInfo(self, table) for table in proto.retiring}
        everything = (*self.tables.values(), *self.building.values(), *self.retiring.values())
        self.spaces = {info.space: info for info in everything}
        self.paired = bool(proto.building or proto.retiring)
        self.is_online = self.paired or any(info.builds for info in self.tables.values())
        for other in (*self.building.values(), *self.retiring.values()):
            if not other.proto.remade:
                mine = next(info for info in self.tables.values() if info.proto.id == other.proto.id)
                mine.other_generation, other.other_generation = other, mine

    def table(self, name: str) -> TableInfo:
        """Return the table with this name. Raises SchemaError if it does not exist."""
        try:
            return self.tables[name]
        except KeyError:
            known = ", ".join(sorted(self.tables)) or "none; apply its migration first"
            raise SchemaError(
                f"there is no table {name!r} at schema version {self.version}; the tables are: {known}",
                table=name,
            ) from None

    def generation(self, name: str, space: int) -> TableInfo:
        """Return the generation of a table that has this space; 0: the one in force. Raises SchemaError if
        it is gone."""
        info = self.spaces.get(space) if space else self.table(name)
        if info is None or (
            space and name not in {info.name, info.other_generation and info.other_generation.name}
        ):
            raise SchemaError(
                f"the previous version of table {name} is no longer served; use the tables of version"
                f" {self.version}",
                table=name,
                moved=self.version,
            )
        return info

    def bind(self, table: Table[Any, Any]) -> Binding:
        """Return the binding of a table constant, in the generation of its model.

        Raises SchemaError if the table does not exist, or if its rows have another model by now.
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
        """Return the message class with this full name, from the models in the log."""
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(full_name))


class TableInfo:
    """One table of the schema."""

    other_generation: TableInfo | None = None  # while a migration rewrites the table: gets each write too

    def __init__(self, schema: Schema, proto: log_pb2.TableSchema) -> None:
        self.schema = schema
        self.proto = proto
        self.name = proto.name
        self.space = proto.space
        self.ttl_ns = proto.life_ns
        self.row_prefix = keys.prefix(proto.space)
        self.put_header = record.space_and_op(proto.space, log_pb2.PUT)
        self.delete_header = record.space_and_op(proto.space, log_pb2.DELETE)
        # A sealed table has a person field. Without a vault, its rows are plaintext or refused.
        self.sealed = proto.HasField("person")
        self.sealing = Sealing(self, schema.vault) if self.sealed and schema.vault is not None else None
        self.indexes: dict[str, IndexInfo] = {}
        for index in proto.indexes:  # while one replaces another, both have the same name
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
        """The binding to the model in the log."""
        return self.bind(self.model)

    @cached_property
    def key_fields(self) -> tuple[Path, ...]:
        return tuple(resolve(descriptor_of(self.model), path.numbers) for path in self.proto.key)

    def bind(self, model: type[Message]) -> Binding:
        """Return this table seen through `model`. Raises SchemaError if the two do not fit."""
        binding = self._bindings.get(model)
        if binding is None:
            binding = self._bindings[model] = Binding(self, model)
        return binding

    def index(self, name: str) -> IndexInfo:
        """Return the index with this name. Raises SchemaError if it does not exist or is being built."""
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
                f"index {self.name}.{index.name} is being built; wait until its migration has finished",
                table=self.name,
                index=name,
            )
        return index

    def opened(self, key: bytes, value: bytes) -> bytes:
        """Return a stored value with its row unsealed. Raises SealedError."""
        if not value[0] & keys.HAS_KEY_ID:
            return value
        if self.sealing is None:
            raise SealedError(
                f"row {self.show_key(key)} is sealed, and no keys are available here; open its database",
                erased=False,
            )
        return self.sealing.value(key, value)

    def row_in(self, key: bytes, value: bytes) -> bytes:
        """Return the plaintext row of a stored value. Raises SealedError."""
        return keys.row_of(self.opened(key, value) if value[0] & keys.HAS_KEY_ID else value)

    def parse(self, row: bytes, key: bytes | None = None) -> Message:
        """Return a stored row as the log's own model. Raises CorruptionError, which names the row if `key`
        is given."""
        try:
            return self.model.FromString(row)
        except DecodeError as error:
            raise self.unreadable(key, error) from None

    def salvage(self, row: bytes) -> Message:
        """Return a stored row as the log's own model, or the readable fields of a row that does not parse.

        The row's record has a valid checksum, so it is not damaged: it was written before such rows were
        refused.
        """
        try:
            return self.model.FromString(row)
        except DecodeError:
            return salvage(self.model, row)

    def unreadable(self, key: bytes | None, error: Exception) -> CorruptionError:
        """Return the error for a stored row that does not parse. Its fact `row` is the encoded key."""
        name = "" if key is None else f"row {self.show_key(key)} cannot be read: "
        remedy = (
            "delete or replace it"  # `everlog repair` cannot unseal it
            if self.sealed
            else "`everlog repair` sets aside this row only"
        )
        return CorruptionError(
            f"{name}a row of table {self.name} is not a {self.proto.model}: {why(error)}; {remedy}",
            table=self.name,
            row=key,
            place=None if key is None else key.hex(),
        )

    @cached_property
    def _single(self) -> tuple[type, Any]:
        """Type and encoder of a single-field key, for `encode_key`."""
        kind = kind_of(self.key_fields[0][-1])
        return (kind.types[0], kind.encode) if len(self.key_fields) == 1 else (NoneType, None)

    def encode_key(self, value: Any, *, partial: bool = False) -> bytes:
        """Encode a caller's key, such as `"JFK"` or `("JFK", 3)`. Raises RowError."""
        expected, encode = self._single
        if type(value) is expected:
            try:
                encoded: bytes = encode(value)
                return encoded
            except (struct.error, OverflowError, UnicodeEncodeError):
                pass  # reported below, with the field's name
        return encode_values(value, self.key_fields, f"the primary key of {self.name}", partial=partial)

    def decode_key(self, key: bytes) -> tuple[Any, ...]:
        """Return the values of an encoded key. Raises CorruptionError."""
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
                f"key {key.hex()} of table {self.name} cannot be decoded: {error}"
            ) from None
        return tuple(values)

    @cached_property
    def key_is_personal(self) -> bool:
        """Whether the primary key of a sealed table may hold personal data: the person field itself, or
        text whose name is not that of a surrogate."""
        person = list(self.proto.person.numbers)
        return self.sealed and any(
            list(path.numbers) == person or not is_surrogate(fields[-1].name, kind_of(fields[-1]))
            for path, fields in zip(self.proto.key, self.key_fields, strict=True)
        )

    def name_key(self, key: bytes) -> str:
        """Format a key as `show_key` does, for text that is stored or sent: without a key that may be
        personal data."""
        return (
            f"{self.name}/(a key that may be personal data)" if self.key_is_personal else self.show_key(key)
        )

    def show_key(self, key: bytes) -> str:
        """Format a key for people: `airports/JFK`."""
        return "/".join((self.name, *(str(value) for value in self.decode_key(key))))
