"""Hashing: content hashes, by which tables are compared.

    content hash := SHA-256 over each row, in key order, of
                    length(key):u32be key length(row):u32be row

    row := the row parsed with the model in force, without unknown fields, serialized
           deterministically (fields by number, maps by key);
           for a sealed row that cannot be unsealed here: key_id and sealed row, as stored;
           for a row that does not parse: the row as stored

Tables with the same rows have the same hash, wherever they are held: in the store, in a rebuild, or in a
follower that keeps columns. docs/format.md, "Content hash".

For speed, some hundred rows are parsed and serialized as one message, with one call each, in C:

    batch := (0x0A length:varint row)*          `repeated Row rows = 1`

Invariants
  (1) the result for a batch is the result for each of its rows.
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
from everlog.store.schema.descriptors import descriptor_of
from everlog.store.schema.schema import Schema, TableInfo

_PREFIXES = [b"\x0a" + varint(size) for size in range(4096)]
_MODELS: WeakKeyDictionary[TableInfo, type[Message]] = WeakKeyDictionary()


def are_canonical(info: TableInfo, rows: Iterable[bytes]) -> bool:
    """Return whether each row equals its canonical serialization (`canonical`).

    False as well for bytes that are no row: the caller then finds out which, one by one.
    """
    framed = b"".join([part for row in rows for part in (_prefix(len(row)), row)])
    try:
        message = _model(info).FromString(framed)
        message.DiscardUnknownFields()
        return message.SerializePartialToString(deterministic=True) == framed
    except (DecodeError, EncodeError):
        return False


def _prefix(size: int) -> bytes:
    return _PREFIXES[size] if size < len(_PREFIXES) else b"\x0a" + varint(size)


def _model(info: TableInfo) -> type[Message]:
    """Return the message whose only field is the table's rows. Created once, in the pool of its schema."""
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
REPORT_ROWS = 4096


class TableHash(NamedTuple):
    """A table's number of rows and its content hash."""

    rows: int
    hash: bytes


def content_hash(pairs: Iterable[tuple[bytes, bytes]]) -> TableHash:
    """Return the hash of (key, canonical row) pairs in key order."""
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
    """Return the row in canonical form: the same bytes for equal rows, wherever they are held.

    A row that cannot be unsealed is returned sealed, one that cannot be parsed as stored. Raises
    CorruptionError.
    """
    try:
        row = info.row_in(key, value)
    except SealedError:
        return keys.key_id_of(value) + keys.row_of(value)
    try:
        message = info.model.FromString(row)
    except DecodeError:
        return row
    message.DiscardUnknownFields()
    return message.SerializePartialToString(deterministic=True)


def table_hash(view: View, info: TableInfo, progress: Callable[[int], None] | None = None) -> TableHash:
    """Return the hash of one table in a view. Read-only. `progress` is called with the number of rows so
    far."""
    digest, rows, reported = hashlib.sha256(), 0, 0
    for some in _chunks(view, info):
        digest.update(_joined(info, some))
        rows += len(some)
        if progress is not None and rows - reported >= REPORT_ROWS:
            reported = rows
            progress(rows)
    return TableHash(rows, digest.digest())


def rows_of(view: View, info: TableInfo) -> Iterator[Item]:
    """Yield the stored rows of a table in key order. Read-only."""
    return view.items(info.row_prefix, keys.prefix(info.space, 1))


def _chunks(view: View, info: TableInfo) -> Iterator[list[Item]]:
    return view.chunks(info.row_prefix, keys.prefix(info.space, 1))


def _joined(info: TableInfo, items: list[Item]) -> bytes:
    """Return the bytes to hash of some rows. Raises CorruptionError."""
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
    """Return the hash of a table if it is equal in both views, else None. Read-only.

    Rows with equal bytes are canonical in the same way, so only one of the two is examined.
    """
    digest, rows, reported = hashlib.sha256(), 0, 0
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
        if progress is not None and rows - reported >= REPORT_ROWS:
            reported = rows
            progress(rows)
    return None if next(theirs, None) else TableHash(rows, digest.digest())


def same_row(info: TableInfo, full: bytes, value: bytes, there: bytes) -> bool:
    """Return whether two values hold the same row, version and expiry in different bytes."""
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
    """Return the hash of every table, by name. Read-only.

    `sealed`: hash sealed rows as stored, as a holder without keys does.
    """
    schema = Schema(schema.proto) if sealed else schema
    return {name: table_hash(view, info, progress) for name, info in sorted(schema.tables.items())}
