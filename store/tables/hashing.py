"""Hashing: what it means that two tables are equal.

    content hash := SHA-256 over each row, in key order, of
                    length(key):u32be key length(row):u32be row

    row := the row parsed with the model in force, unknown fields left out, serialised
           deterministically (fields by number, maps by key); of a sealed row that cannot be
           opened here: key_id and sealed row, as they are stored; a row that does not parse: as
           it is stored

Two tables have one hash if they have the same rows, whoever holds them: the tables of the store,
those of a rebuild, a follower that keeps columns. docs/format.md, "Content hash".

Many: the rows of a table, some hundred of them in one message, for what costs more by itself.

    many := (0x0A length:varint row)*          `repeated Row rows = 1`

Parsing and serialising so many at once is done in one call each, in C.

Invariants
  (1) what is said of many is what would be said of each.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple
from weakref import WeakKeyDictionary

from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.message import DecodeError, EncodeError, Message

from everlog.store import keys
from everlog.store.errors import SealedError
from everlog.store.record import varint
from everlog.store.rocks.view import CHUNK_BYTES, Item, View
from everlog.store.schema.fields import descriptor_of
from everlog.store.schema.schema import Schema, TableInfo

_HEADS = [b"\x0a" + varint(size) for size in range(4096)]
_MODELS: WeakKeyDictionary[TableInfo, type[Message]] = WeakKeyDictionary()


def are_canonical(info: TableInfo, rows: Iterable[bytes]) -> bool:
    """Whether each row is what it would be serialised as (`hashing.canonical`). False as well for what is no
    row: whoever looks at them one by one is told which."""
    framed = b"".join([part for row in rows for part in (_head(len(row)), row)])
    try:
        message = _model(info).FromString(framed)
        message.DiscardUnknownFields()
        return message.SerializeToString(deterministic=True) == framed
    except (DecodeError, EncodeError):
        return False


def _head(size: int) -> bytes:
    return _HEADS[size] if size < len(_HEADS) else b"\x0a" + varint(size)


def _model(info: TableInfo) -> type[Message]:
    """The message whose one field is rows of a table. Made once, in the pool of its schema."""
    found = _MODELS.get(info)
    if found is None:
        row, name = descriptor_of(info.model), f"Rows{info.space}"
        file = descriptor_pb2.FileDescriptorProto(
            name=f"everlog/rows/{info.space}.proto",
            package="everlog.rows",
            syntax="proto3",
            dependency=[row.file.name],
        )
        field = file.message_type.add(name=name).field.add(
            name="rows", number=1, type_name=f".{row.full_name}"
        )
        field.type, field.label = field.TYPE_MESSAGE, field.LABEL_REPEATED
        pool = row.file.pool
        pool.Add(file)
        found = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"everlog.rows.{name}"))
        _MODELS[info] = found
    return found


_LENGTH = struct.Struct(">I")
TELL_ROWS = 4096


class TableHash(NamedTuple):
    """A table's number of rows and its content hash."""

    rows: int
    hash: bytes


def content_hash(pairs: Iterable[tuple[bytes, bytes]]) -> TableHash:
    """Of (key, row), rows canonical, in key order."""
    digest, rows, size, length = hashlib.sha256(), 0, 0, _LENGTH.pack
    parts: list[bytes] = []
    for key, row in pairs:
        rows += 1
        size += len(row)
        parts += (length(len(key)), key, length(len(row)), row)
        if not rows % 1024 or size >= CHUNK_BYTES:
            digest.update(b"".join(parts))
            parts.clear()
            size = 0
    digest.update(b"".join(parts))
    return TableHash(rows, digest.digest())


def canonical(info: TableInfo, key: bytes, value: bytes) -> bytes:
    """The row as everybody who has the same row serialises it; as it is sealed, where it cannot be
    opened, and as it is stored, where it cannot be parsed. Raises CorruptionError."""
    try:
        row = info.row_in(key, value)
    except SealedError:
        return keys.key_id_of(value) + keys.row_of(value)
    try:
        message = info.model.FromString(row)
    except DecodeError:
        return row
    message.DiscardUnknownFields()
    return message.SerializeToString(deterministic=True)


def table_hash(view: View, info: TableInfo, progress: Callable[[int], None] | None = None) -> TableHash:
    """Of one table as a view has it. Read-only."""
    digest, rows, told = hashlib.sha256(), 0, 0
    for some in _chunks(view, info):
        digest.update(_joined(info, some))
        rows += len(some)
        if progress is not None and rows - told >= TELL_ROWS:
            told = rows
            progress(rows)
    return TableHash(rows, digest.digest())


def rows_of(view: View, info: TableInfo) -> Iterator[Item]:
    """Yield the stored rows of a table in key order. Read-only."""
    return view.items(info.row_prefix, keys.prefix(info.space, 1))


def _chunks(view: View, info: TableInfo) -> Iterator[list[Item]]:
    return view.chunks(info.row_prefix, keys.prefix(info.space, 1))


def _joined(info: TableInfo, items: list[Item]) -> bytes:
    """What of some rows is hashed. Raises CorruptionError."""
    skip, header_size, row_of = len(info.row_prefix), keys.HEADER_SIZE, keys.row_of
    rows = [] if info.sealed else [row_of(value) if value[0] else value[header_size:] for _, value in items]
    if info.sealed or not are_canonical(info, rows):
        rows = [canonical(info, full[skip:], value) for full, value in items]
    length, parts = _LENGTH.pack, list[bytes]()
    for (full, _), row in zip(items, rows, strict=True):
        parts += (length(len(full) - skip), full[skip:], length(len(row)), row)
    return b"".join(parts)


def same_hash(
    one: View, other: View, info: TableInfo, progress: Callable[[int], None] | None = None
) -> TableHash | None:
    """The content hash that a table has in both views; None if they differ. Read-only.

    Rows that are the same byte for byte are canonical in the same way: only one is looked into.
    """
    digest, rows, told = hashlib.sha256(), 0, 0
    theirs = other.items(info.row_prefix, keys.prefix(info.space, 1))
    for some in _chunks(one, info):
        for full, value in some:
            found = next(theirs, None)
            if found != (full, value) and (
                found is None or found[0] != full or not same_row(info, full, value, found[1])
            ):
                return None
        digest.update(_joined(info, some))
        rows += len(some)
        if progress is not None and rows - told >= TELL_ROWS:
            told = rows
            progress(rows)
    return None if next(theirs, None) else TableHash(rows, digest.digest())


def same_row(info: TableInfo, full: bytes, value: bytes, there: bytes) -> bool:
    """Whether two values say the same of a row, of the same version and life, in other bytes."""
    if keys.version_of(value) != keys.version_of(there) or keys.expires_of(value) != keys.expires_of(there):
        return False
    key = full[len(info.row_prefix) :]
    return canonical(info, key, value) == canonical(info, key, there)


def hashes(
    view: View,
    schema: Schema,
    progress: Callable[[int], None] | None = None,
    *,
    sealed: bool = False,
) -> dict[str, TableHash]:
    """Of every table, by name; `sealed`: with sealed rows as they are stored, as who has no keys hashes
    them. Read-only."""
    schema = Schema(schema.proto) if sealed else schema
    return {name: table_hash(view, info, progress) for name, info in sorted(schema.tables.items())}
