"""Write: a row that a transaction puts or deletes, from its encoding to the edits of the tables.

    row ─▶ put, delete ─▶ Write ─▶ Transaction ─▶ Validator ─▶ Valid ─┬─▶ encode  ─▶ the changes of a record
                                                                      └─▶ project ─▶ Staged: edits of rows,
                                                                                     index entries and counts

Everything that does not depend on the replaced row is computed by `put` and `delete`, in the writer's own
thread, before the transaction enters the commit queue. Nothing here reads the database or writes to it.
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
from everlog.store.keys import HEADER, seq_of
from everlog.store.record import (
    CHANGE_STARTS,
    REQUIRES_EXPIRY,
    REQUIRES_REWRITTEN,
    REQUIRES_SEALED,
    change,
    with_expiry,
    with_version,
)
from everlog.store.schema.schema import Binding, Sealing, TableInfo
from everlog.store.schema.table import Table
from everlog.store.tables.projection import Edits, Staged, edit_row


class Expect(IntEnum):
    """The precondition of a write, checked at commit. The numbers are on the wire, except SPARING."""

    ANYTHING = 0
    ABSENT = 1
    PRESENT = 2
    VERSION = 3
    SPARING = 4  # skip the write if the row has this version


PUT = log_pb2.PUT
# Bytes. No key or index value of a smaller row can exceed its limit.
LARGE = keys.KEY_BYTES_MAX // 4
NEVER = (1 << 64) - 1  # "no expiry" on the wire, where 0 means the table's default

# When a row expires: a datetime with a time zone, or nanoseconds since the Unix epoch (0: never).
Expires = datetime | int

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Write:
    """One write of one row.

    Invariant: `full` is the row's key in the tables; `row` is empty for a delete.

    In a sealed table `row` is the plaintext; `stored` is `row` sealed with `key_id`.
    """

    expect: int = 0  # an Expect
    version = 0
    expires_ns = 0  # expiry, nanoseconds since the Unix epoch, or
    ttl_ns = 0  # the time to live, counted from the commit; both 0: the row does not expire
    has_expiry = False  # whether either is set
    key_id = b""
    as_of = 0  # the row's version; 0: the seq of its commit
    stored: bytes  # the row as stored in the log and the tables

    def __init__(
        self, info: TableInfo, op: log_pb2.Op.ValueType, key: bytes, row: bytes, values: list[bytes]
    ) -> None:
        self.info = info
        self.op = op
        self.key = key
        self.full: bytes = info.row_prefix + key
        self.row = row
        self.values = values  # for each index: its prefix and the row's encoded values
        self.stored = row
        if info.sealing is not None:
            self._seal(info.sealing)
        # The encoded change of the log record, without the seq of the row it replaces.
        self.body = record.change_body(info.delete_header if op else info.put_header, key, self.stored)
        if self.key_id:
            self.body = record.with_key(self.body, self.key_id)

    def _seal(self, sealing: Sealing) -> None:
        """Seal the row. Raises SealedError, for a delete as well: without keys, its index entries cannot be
        computed."""
        sealing.check()
        if self.op == PUT:
            self.key_id, self.stored = sealing.seal(self.key, self.row)

    def with_precondition(self, expect: int, version: int = 0) -> Self:
        """Set the precondition and return self."""
        self.expect, self.version = expect, version
        return self

    def with_expiry(self, expires: Expires) -> Self:
        """Set the expiry and return self. Raises RowError."""
        self.expires_ns, self.ttl_ns = expires_ns_of(expires, self.info.name), 0
        self.has_expiry = self.expires_ns > 0
        return self

    def with_version(self, version: int) -> Self:
        """Set the version that the row gets and return self."""
        self.as_of = version
        return self

    def value(self) -> bytes | None:
        """Return the table value that the transaction itself reads back (version 0); None for a delete."""
        if self.op == log_pb2.DELETE:
            return None
        return keys.pack_value(0, self.row, expires_ns=self.expires_ns)


def put(binding: Binding, row: Message, expires: Expires | None = None) -> Write:
    """Return a write of `row`. Later changes to `row` have no effect on it.

    `expires`: a datetime with a time zone, or nanoseconds since the Unix epoch (0: never); None: the
    table's time to live. Raises RowError.
    """
    info = binding.info
    try:
        raw = row.SerializeToString()
    except EncodeError as error:
        raise incomplete(info.name, error) from None
    if len(raw) >= binding.doubtful_bytes:
        check_readable(binding, row, raw)
    key = binding.key_of(row)
    values = binding.values(row, raw)
    if len(raw) > LARGE:
        check_sizes(info, key, raw)
        check_values(info, key, values)
    write = Write(info, PUT, key, raw, values)
    if info.ttl_ns:
        write.ttl_ns, write.has_expiry = info.ttl_ns, True
    return write if expires is None else write.with_expiry(expires)


def incomplete(table: str, error: EncodeError) -> RowError:
    """Return the error for a row that lacks required fields."""
    return RowError(f"a row of {table} cannot be serialized: {error}", table=table)


def delete(info: TableInfo, key: bytes) -> Write:
    """Return a write that deletes the row with the encoded `key`. Raises RowError."""
    check_sizes(info, key, b"")
    return Write(info, log_pb2.DELETE, key, b"", [])


def expires_ns_of(expires: Expires, table: str) -> int:
    """Return `expires` as nanoseconds since the Unix epoch.

    Raises RowError if it is not a time, or is a datetime without a time zone.
    """
    given: object = expires  # callers may have no type checker
    if isinstance(given, bool) or not isinstance(given, (datetime, int)):
        raise RowError(
            f"expiry {expires!r} of a row of {table}: expected a datetime with a time zone, or nanoseconds"
            f" since 1970, found {type(expires).__name__}; for one hour from now, use"
            " `datetime.now(UTC) + timedelta(hours=1)`",
            table=table,
        )
    if isinstance(expires, datetime):
        if expires.tzinfo is None:
            raise RowError(
                f"expiry {expires} of a row of {table}: expected a datetime with a time zone, found none; use"
                " `datetime.now(UTC) + timedelta(…)`",
                table=table,
            )
        since = expires - _EPOCH
        expires = (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000
    if not 0 <= expires < NEVER:
        raise RowError(
            f"expiry {expires} of a row of {table}: expected nanoseconds since 1970, or 0 for never",
            table=table,
        )
    return expires


def decode_expiry(expires_ns: int) -> int | None:
    """Decode an expiry from the wire into the argument of `with_expiry`; None: the table's default."""
    return None if not expires_ns else 0 if expires_ns == NEVER else expires_ns


def check_sizes(info: TableInfo, key: bytes, raw: bytes) -> None:
    """Raise RowError if the key or the row exceeds its size limit."""
    if len(key) > keys.KEY_BYTES_MAX:
        raise RowError(
            f"a key of {info.name} has {len(key):,} bytes; the limit is {keys.KEY_BYTES_MAX:,}",
            table=info.name,
        )
    if len(raw) > keys.ROW_BYTES_MAX:
        raise RowError(
            f"row {info.name_key(key)} has {len(raw):,} bytes; the limit is {keys.ROW_BYTES_MAX:,}; store"
            " large values elsewhere, or split them over several rows",
            table=info.name,
        )


def check_values(info: TableInfo, key: bytes, values: list[bytes]) -> None:
    """Raise RowError if the row's values in an index exceed the size limit."""
    for index, one in zip(info.indexes.values(), values, strict=False):
        size = len(one) - len(index.prefix)
        if size > keys.INDEX_BYTES_MAX:
            raise RowError(
                f"row {info.name_key(key)} has {size:,} bytes of values in index {index.name}; the limit is"
                f" {keys.INDEX_BYTES_MAX:,}; index a shorter field",
                table=info.name,
                index=index.name,
            )


def check_readable(binding: Binding, row: Message, raw: bytes) -> None:
    """Raise RowError if readers of the table could not parse the row."""
    for doubt in binding.doubts:
        if reason := doubt.why_not(raw):
            info, name = binding.info, f"a row of {binding.info.name}"
            with contextlib.suppress(Exception):  # the key itself may be unreadable
                name = f"row {info.name_key(binding.key_of(row))}"
            raise RowError(f"{name} cannot be written: {reason}", table=info.name)


def check_row(table: Table[Any, Any], row: object) -> None:
    """Raise RowError if `row` is not a message of the table's model."""
    if not isinstance(row, table.model):
        name = getattr(getattr(row, "DESCRIPTOR", None), "full_name", type(row).__name__)
        raise RowError(
            f"expected a row of {table.name} to be a {table.model.DESCRIPTOR.full_name}, found {name}",
            table=table.name,
        )


def check_repeated(earlier: Write, later: Write) -> None:
    """Check two writes of one row in a transaction. Raises PreconditionError if the later one contradicts
    the earlier."""
    there = earlier.op == log_pb2.PUT
    if (later.expect == Expect.ABSENT and there) or (later.expect == Expect.PRESENT and not there):
        word = "written" if there else "deleted"
        raise PreconditionError(
            f"row {later.info.name_key(later.key)} was {word} earlier in this transaction",
            table=later.info.name,
            key=later.info.decode_key(later.key),
        )


# A write, the value that it replaces (None: no row), and the row's expiry in nanoseconds since the Unix epoch
# (0: never; None: the row has neither an expiry nor a key nor a version of its own).
Row = tuple[Write, bytes | None, int | None]


# The effect of a valid transaction: its rows, its edits of unique indexes (values -> key of their row; None:
# free), and the number of rows that it deletes and that do not exist. A tuple: a class costs 1 % of a commit.
Valid = tuple[list[Row], Edits, int]


def encode(header: bytes, rows: list[Row]) -> list[bytes]:
    """Return the parts of a record: its header, its changes, and the features they require of readers."""
    parts = [header]
    requires: set[bytes] | None = None
    starts = CHANGE_STARTS
    for write, old, ends_ns in rows:
        body = write.body
        if ends_ns is not None:
            requires = set() if requires is None else requires
            body = _with_extras(write, ends_ns, requires)
        if old is None and len(body) < len(starts):  # `change`, inlined for speed
            parts += (starts[len(body)], body)
        else:
            parts += change(body, 0 if old is None else seq_of(old))
    if requires:
        parts += sorted(requires)
    return parts


def project(rows: list[Row], uniques: Edits, seq: int) -> Staged:
    """Return the edits of the tables by the commit at `seq`."""
    edits: Edits = {}
    deltas: dict[int, int] = {}
    header = HEADER.pack(0, seq)
    for write, old, ends_ns in rows:
        if write.op:
            value = None
        elif ends_ns is None:
            value = header + write.row
        else:
            value = keys.pack_value(
                seq, write.stored, version=write.as_of, expires_ns=ends_ns, key_id=write.key_id
            )
        edit_row(edits, deltas, write.info, write.full, value, old, write.values)
    return Staged(edits, uniques, deltas)


def _with_extras(write: Write, ends_ns: int, requires: set[bytes]) -> bytes:
    """Return the change of a row with an expiry, a key or a version of its own."""
    body = write.body
    if write.key_id:
        requires.add(REQUIRES_SEALED)
    if write.as_of:
        requires.add(REQUIRES_REWRITTEN)
        body = with_version(body, write.as_of)
    if ends_ns:
        requires.add(REQUIRES_EXPIRY)
        body = with_expiry(body, ends_ns)
    return body
