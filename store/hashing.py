"""Hashing: what it means that two tables are equal.

    content hash := SHA-256 over each row, in key order, of
                    length(key):u32be key length(row):u32be row

    row := the row parsed with the model in force, unknown fields left out, serialised
           deterministically (fields by number, maps by key)

Two tables have one hash if they have the same rows, whoever holds them: the tables of the store,
those of a rebuild, a follower that keeps columns. docs/format.md, "Content hash".
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from typing import NamedTuple

from everlog.store import keys
from everlog.store.schema import Schema, TableInfo
from everlog.store.view import View

_LENGTH = struct.Struct(">I")


class TableHash(NamedTuple):
    """A table's number of rows and its content hash."""

    rows: int
    hash: bytes


def content_hash(pairs: Iterable[tuple[bytes, bytes]]) -> TableHash:
    """Of (key, row), rows canonical, in key order."""
    digest, rows, length = hashlib.sha256(), 0, _LENGTH.pack
    parts: list[bytes] = []
    for key, row in pairs:
        rows += 1
        parts += (length(len(key)), key, length(len(row)), row)
        if not rows % 1024:
            digest.update(b"".join(parts))
            parts.clear()
    digest.update(b"".join(parts))
    return TableHash(rows, digest.digest())


def canonical(info: TableInfo, row: bytes) -> bytes:
    """The row as everybody who has the same row serialises it. Raises CorruptionError."""
    message = info.parse(row)
    message.DiscardUnknownFields()
    return message.SerializeToString(deterministic=True)


def table_hash(view: View, info: TableInfo, progress: Callable[[int], None] | None = None) -> TableHash:
    """Of one table as a view has it. Read-only."""
    skip = len(info.row_prefix)

    def pairs() -> Iterable[tuple[bytes, bytes]]:
        for done, (full, value) in enumerate(_rows(view, info), 1):
            yield full[skip:], canonical(info, keys.row_of(value))
            if progress is not None and not done % 4096:
                progress(done)

    return content_hash(pairs())


def _rows(view: View, info: TableInfo) -> Iterator[tuple[bytes, bytes]]:
    return view.items(info.row_prefix, keys.prefix(info.space, 1))


def same_hash(
    one: View, other: View, info: TableInfo, progress: Callable[[int], None] | None = None
) -> TableHash | None:
    """The content hash that a table has in both views; None if they differ. Read-only.

    Rows that are the same byte for byte are canonical in the same way: only one is looked into.
    """
    skip, equal = len(info.row_prefix), True

    def pairs() -> Iterable[tuple[bytes, bytes]]:
        nonlocal equal
        both = zip_longest(_rows(one, info), _rows(other, info), fillvalue=(b"", b""))
        for done, ((full, value), (found, there)) in enumerate(both, 1):
            row = canonical(info, keys.row_of(value)) if full else b""
            if full != found or (value != there and not _same(info, value, there, row)):
                equal = False
                return
            yield full[skip:], row
            if progress is not None and not done % 4096:
                progress(done)

    result = content_hash(pairs())
    return result if equal else None


def _same(info: TableInfo, value: bytes, there: bytes, row: bytes) -> bool:
    """Whether two values say the same of a row, of the same version and life, in other bytes."""
    if keys.version_of(value) != keys.version_of(there) or keys.expires_of(value) != keys.expires_of(there):
        return False
    return row == canonical(info, keys.row_of(there))


def hashes(view: View, schema: Schema, progress: Callable[[int], None] | None = None) -> dict[str, TableHash]:
    """Of every table, by name. Read-only."""
    return {name: table_hash(view, info, progress) for name, info in sorted(schema.tables.items())}
