"""Write: one row that a transaction puts or deletes, encoded and checked, not yet committed.

All that can be computed without knowing the row that it replaces is computed here, by the thread
that writes, before it waits for its turn to commit.
"""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, Self

from google.protobuf.message import EncodeError, Message

from everlog.proto import log_pb2
from everlog.store import keys, record
from everlog.store.errors import PreconditionError, RowError
from everlog.store.schema.schema import Binding, Sealing, TableInfo
from everlog.store.schema.table import Table


class Expect(IntEnum):
    """What must hold of the row when the write is committed; numbers are on the wire, all but SPARING."""

    ANYTHING = 0
    ABSENT = 1
    PRESENT = 2
    VERSION = 3
    SPARING = 4  # a row of this version stays as it is: the write is left out


PUT = log_pb2.PUT
LARGE = (
    keys.KEY_BYTES_MAX // 4
)  # bytes of a row; in a smaller one no key and no index value is over its limit
NEVER = (1 << 64) - 1  # on the wire, where 0 is as the table has it

# When a row's life ends: a time with its zone, or nanoseconds since the Unix epoch; 0: never.
Expires = datetime | int

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Write:
    """Invariant: `full` is the row's key in the tables, `row` is empty for a delete.

    Where rows are sealed, `row` is open, and what is stored of it is sealed with `key_id`.
    """

    expect: int = 0  # an Expect
    version = 0
    expires_ns = 0  # end of the row's life, or
    life_ns = 0  # how long it lives from the commit on; both 0: for ever
    mortal = False  # whether one of both is not
    key_id = b""
    as_of = 0  # the version that the row gets; 0: that of its commit
    stored: bytes  # the row, as log and tables have it

    def __init__(
        self, info: TableInfo, op: log_pb2.Op.ValueType, key: bytes, row: bytes, values: list[bytes]
    ) -> None:
        self.info = info
        self.op = op
        self.key = key
        self.full: bytes = info.row_prefix + key
        self.row = row
        self.values = values  # for each index: its prefix and the row's values
        self.stored = row
        if info.sealing is not None:
            self._seal(info.sealing)
        # The change, as the log says it, but for what it replaces.
        self.body = record.change_body(info.delete_head if op else info.put_head, key, self.stored)
        if self.key_id:
            self.body = record.with_key(self.body, self.key_id)

    def _seal(self, sealing: Sealing) -> None:
        """Raises SealedError, also for a delete: what is in indexes cannot be told without keys."""
        sealing.check()
        if self.op == PUT:
            self.key_id, self.stored = sealing.seal(self.key, self.row)

    def expecting(self, expect: int, version: int = 0) -> Self:
        """The same write, if that holds of the row."""
        self.expect, self.version = expect, version
        return self

    def ending(self, expires: Expires) -> Self:
        """The same write of a row whose life ends then. Raises RowError."""
        self.expires_ns, self.life_ns = expires_ns_of(expires, self.info.name), 0
        self.mortal = self.expires_ns > 0
        return self

    def being(self, version: int) -> Self:
        """The same write of a row that gets this version."""
        self.as_of = version
        return self

    def value(self) -> bytes | None:
        """As the transaction itself reads it back: a row of version 0."""
        if self.op == log_pb2.DELETE:
            return None
        return keys.pack_value(0, self.row, expires_ns=self.expires_ns)


def put(binding: Binding, row: Message, expires: Expires | None = None) -> Write:
    """A write of `row`, which may change afterwards without harm. `expires`: when its life ends; None: as its
    table has it. Raises RowError."""
    info = binding.info
    try:
        raw = row.SerializeToString()
    except EncodeError as error:
        raise RowError(f"a row of {info.name} cannot be serialised: {error}", table=info.name) from None
    if len(raw) >= binding.doubtful_bytes:
        check_readable(binding, row, raw)
    key = binding.key_of(row)
    values = binding.values(row, raw)
    if len(raw) > LARGE:
        check_sizes(info, key, raw)
        check_values(info, key, values)
    write = Write(info, PUT, key, raw, values)
    if info.life_ns:
        write.life_ns, write.mortal = info.life_ns, True
    return write if expires is None else write.ending(expires)


def delete(info: TableInfo, key: bytes) -> Write:
    """A write that deletes the row with this key. Raises RowError."""
    check_sizes(info, key, b"")
    return Write(info, log_pb2.DELETE, key, b"", [])


def expires_ns_of(expires: Expires, table: str) -> int:
    """Nanoseconds since the Unix epoch. Raises RowError for what is no time, and for a datetime that does not
    say which it is."""
    given: object = expires  # callers may have no type checker
    if isinstance(given, bool) or not isinstance(given, (datetime, int)):
        raise RowError(
            f"a row of {table} is to expire at {expires!r}: expected a datetime with its zone, or nanoseconds"
            f" since 1970, found {type(expires).__name__}; in an hour is"
            " `datetime.now(UTC) + timedelta(hours=1)`",
            table=table,
        )
    if isinstance(expires, datetime):
        if expires.tzinfo is None:
            raise RowError(
                f"a row of {table} is to expire at {expires}: expected a time with its zone, found none; say"
                " `datetime.now(UTC) + timedelta(…)`",
                table=table,
            )
        since = expires - _EPOCH
        expires = (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000
    if not 0 <= expires < NEVER:
        raise RowError(
            f"a row of {table} is to expire at {expires}: expected nanoseconds since 1970, or 0 for never",
            table=table,
        )
    return expires


def sent(expires_ns: int) -> int | None:
    """What `ending` takes, of what was sent."""
    return None if not expires_ns else 0 if expires_ns == NEVER else expires_ns


def check_sizes(info: TableInfo, key: bytes, raw: bytes) -> None:
    """Raises RowError over a limit."""
    if len(key) > keys.KEY_BYTES_MAX:
        raise RowError(
            f"a key of {info.name} is at most {keys.KEY_BYTES_MAX:,} bytes, this one is {len(key):,}",
            table=info.name,
        )
    if len(raw) > keys.ROW_BYTES_MAX:
        raise RowError(
            f"a row is at most {keys.ROW_BYTES_MAX:,} bytes, {info.name_key(key)} has {len(raw):,};"
            " keep large things outside, or split them",
            table=info.name,
        )


def check_values(info: TableInfo, key: bytes, values: list[bytes]) -> None:
    """Raises RowError where the row's values in an index are over the limit."""
    for index, one in zip(info.indexes.values(), values, strict=False):
        size = len(one) - len(index.prefix)
        if size > keys.INDEX_BYTES_MAX:
            raise RowError(
                f"the values of a row in an index are at most {keys.INDEX_BYTES_MAX:,} bytes,"
                f" {info.name_key(key)} has {size:,} in {index.name}; index a shorter field",
                table=info.name,
                index=index.name,
            )


def check_readable(binding: Binding, row: Message, raw: bytes) -> None:
    """Raises RowError if a reader of the table could not read what is written here."""
    for doubt in binding.doubts:
        if reason := doubt.why_not(raw):
            info, name = binding.info, f"a row of {binding.info.name}"
            with contextlib.suppress(Exception):  # the key may be what cannot be read
                name = f"row {info.name_key(binding.key_of(row))}"
            raise RowError(f"{name} cannot be written: {reason}", table=info.name)


def check_row(table: Table[Any, Any], row: object) -> None:
    """Raises RowError if `row` is not of the table's model."""
    if not isinstance(row, table.model):
        name = getattr(getattr(row, "DESCRIPTOR", None), "full_name", type(row).__name__)
        raise RowError(
            f"expected a row of {table.name} to be a {table.model.DESCRIPTOR.full_name}, found {name}",
            table=table.name,
        )


def check_repeated(earlier: Write, later: Write) -> None:
    """Of two writes of one row in a transaction. Raises PreconditionError."""
    there = earlier.op == log_pb2.PUT
    if (later.expect == Expect.ABSENT and there) or (later.expect == Expect.PRESENT and not there):
        word = "written" if there else "deleted"
        raise PreconditionError(
            f"row {later.info.name_key(later.key)} was {word} earlier in this transaction",
            table=later.info.name,
            key=later.info.decode_key(later.key),
        )
