"""Write: one row that a transaction puts or deletes, encoded and checked, not yet committed.

All that can be computed without knowing the row that it replaces is computed here, by the thread
that writes, before it waits for its turn to commit.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Self

from google.protobuf.message import EncodeError, Message

from everlog.proto import log_pb2
from everlog.store import keys, record
from everlog.store.binding import Binding
from everlog.store.errors import RowError
from everlog.store.schema import TableInfo
from everlog.store.table import Table


class Expect(IntEnum):
    """What must hold of the row when the write is committed; numbers are on the wire."""

    ANYTHING = 0
    ABSENT = 1
    PRESENT = 2
    VERSION = 3


PUT = log_pb2.PUT


class Write:
    """Invariant: `full` is the row's key in the tables, `row` is empty for a delete."""

    expect: int = 0  # an Expect
    version = 0

    def __init__(
        self, info: TableInfo, op: log_pb2.Op.ValueType, key: bytes, row: bytes, values: list[bytes]
    ) -> None:
        self.info = info
        self.op = op
        self.key = key
        self.full: bytes = info.row_prefix + key
        self.row = row
        self.values = values  # for each index: its prefix and the row's values
        # The change, as the log says it, but for what it replaces.
        self.body = record.change_body(info.delete_head if op else info.put_head, key, row)

    def expecting(self, expect: int, version: int = 0) -> Self:
        """The same write, if that holds of the row."""
        self.expect, self.version = expect, version
        return self

    def value(self) -> bytes | None:
        """As the transaction itself reads it back: a row of version 0."""
        return None if self.op == log_pb2.DELETE else keys.pack_value(0, self.row)


def put(binding: Binding, row: Message) -> Write:
    """A write of `row`, which may change afterwards without harm. Raises RowError."""
    info = binding.info
    key = binding.key_of(row)
    try:
        raw = row.SerializeToString()
    except EncodeError as error:
        raise RowError(f"a row of {info.name} cannot be serialised: {error}", table=info.name) from None
    if len(raw) > keys.ROW_BYTES_MAX or len(key) > keys.KEY_BYTES_MAX:
        check_sizes(info, key, raw)
    return Write(info, PUT, key, raw, binding.values(row, raw))


def delete(info: TableInfo, key: bytes) -> Write:
    """A write that deletes the row with this key. Raises RowError."""
    check_sizes(info, key, b"")
    return Write(info, log_pb2.DELETE, key, b"", [])


def check_sizes(info: TableInfo, key: bytes, raw: bytes) -> None:
    """Raises RowError over a limit."""
    if len(key) > keys.KEY_BYTES_MAX:
        raise RowError(
            f"a key of {info.name} is at most {keys.KEY_BYTES_MAX:,} bytes, this one is {len(key):,}",
            table=info.name,
        )
    if len(raw) > keys.ROW_BYTES_MAX:
        raise RowError(
            f"a row is at most {keys.ROW_BYTES_MAX:,} bytes, {info.show_key(key)} has {len(raw):,};"
            " keep large things outside, or split them",
            table=info.name,
        )


def check_row(table: Table[Any, Any], row: object) -> None:
    """Raises RowError if `row` is not of the table's model."""
    if not isinstance(row, table.model):
        name = getattr(getattr(row, "DESCRIPTOR", None), "full_name", type(row).__name__)
        raise RowError(
            f"expected a row of {table.name} to be a {table.model.DESCRIPTOR.full_name}, found {name}",
            table=table.name,
        )
