"""Dual write: repeat every write to one generation of a table on the other, through the migration's
transform.

    old row ─▶ up ─▶ new row          new row ─▶ down ─▶ old row

    Write to airports (space 3) ──▶ up ──▶ Write to airports (space 9)      in the same transaction

While a migration rewrites a table, the record holds the rows of both generations, so a replay runs no
user code.

Invariants
  (1) a transform is a pure function of one row, and does not change the primary key;
  (2) its errors stop the write, or the migration, that called it, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError, EncodeError, Message

from everlog.proto import log_pb2
from everlog.store.errors import MigrationError
from everlog.store.schema.schema import Schema, TableInfo
from everlog.store.tx import write
from everlog.store.tx.write import Write
from everlog.store.user_code import is_interrupt, place, private, type_name, words

TEXT_MAX = 400  # characters of a row, in `Error.private`

# A row, and for each index of its table, the prefix and the row's encoded values.
Converted = tuple[bytes, list[bytes]]


class Direction(NamedTuple):
    """One direction: rows of the model `source` to rows of the model `target`."""

    source: type[Message]
    target: type[Message]
    function: Callable[[Any], Any]
    name: str = "up"  # for messages


class Transform(NamedTuple):
    """Both directions. Without `down`, clients of the previous version cannot be served beside the new
    one."""

    up: Direction
    down: Direction | None = None


Transforms = Mapping[str, Transform]  # by the table's current name
Code = Mapping[int, Transforms]  # by the version of the migration; also used to roll it back


class DualWrite:
    """Converts writes to one generation of a table into writes to the other."""

    def __init__(self, schema: Schema, code: Code) -> None:
        self.schema = schema
        self._code = code

    def add(self, writes: dict[bytes, Write]) -> None:
        """Add the corresponding writes to the writes of a transaction. Raises MigrationError."""
        for one in list(writes.values()):
            other = one.info.other_generation
            if other is None or one.info.schema is not self.schema:
                continue
            full = other.row_prefix + one.key
            if full not in writes:
                made = writes[full] = self._write(one, other)
                if other.proto.seeded:  # bootstrap data replaces existing rows
                    made.with_precondition(write.Expect.SPARING, other.proto.seeded)

    def _write(self, one: Write, other: TableInfo) -> Write:
        if one.op == log_pb2.DELETE:
            return Write(other, one.op, one.key, b"", [])
        made = self.maker(one.info, other)(one.key, one.row)
        made.expires_ns, made.ttl_ns, made.has_expiry = (
            one.expires_ns,
            one.ttl_ns,
            one.has_expiry,
        )  # expire together
        return made

    def maker(self, info: TableInfo, other: TableInfo) -> Callable[[bytes, bytes], Write]:
        """Return a function that makes, from key and row of one generation, the write to the other.

        The function raises MigrationError for a row that does not fit.
        """
        convert = self.converter(info, other)
        return lambda key, raw: Write(other, write.PUT, key, *convert(key, raw))

    def converter(self, info: TableInfo, other: TableInfo) -> Callable[[bytes, bytes], Converted]:
        """As `maker`, but the function returns only the row and its index values, for many rows."""
        if other.proto.seeded and other.proto.since == info.proto.since:
            return _copier(other)
        way = self._way(info, other)
        function, target, parse = way.function, way.target, way.source.FromString
        binding = other.bind(target)
        key_of, values_of, put = binding.key_of, binding.values, write.put
        doubtful, large = binding.doubtful_bytes, write.LARGE

        def convert(key: bytes, raw: bytes) -> Converted:
            try:
                row = parse(raw)
            except DecodeError as error:
                raise MigrationError(
                    f"`{way.name}` of table {info.name} cannot read a row: {info.unreadable(key, error)}",
                    table=info.name,
                    key=info.decode_key(key),
                ) from None
            try:
                made = function(row)
            except BaseException as error:
                if is_interrupt(error):
                    raise
                code = getattr(function, "__code__", None)
                what = words(error, code.co_filename) if code is not None else type_name(error)
                what += place(function, error)
                # Without its cause: a traceback logged by an application would contain data of the row.
                raise _failed(way, info, key, row, what, private(error)) from None
            if type(made) is not target:
                found = getattr(getattr(made, "DESCRIPTOR", None), "full_name", type(made).__name__)
                what = f"expected a {target.DESCRIPTOR.full_name}, found {found}{place(function)}"
                raise _failed(way, info, key, row, what)
            if (made_key := key_of(made)) != key:
                what = f"it changes the primary key, which must stay the same{place(function)}"
                raise _failed(way, info, key, row, what, f"the key becomes {other.show_key(made_key)}")
            try:
                fresh = made.SerializeToString()
            except EncodeError:
                fresh = put(binding, made).row  # raises an error that names the reason
            if len(fresh) >= doubtful:
                write.check_readable(binding, made, fresh)
            values = values_of(made, fresh)
            if len(fresh) > large:
                write.check_sizes(other, key, fresh)
                write.check_values(other, key, values)
            return fresh, values

        return convert

    def _way(self, info: TableInfo, other: TableInfo) -> Direction:
        upwards = other.proto.generation > info.proto.generation
        newer, older = (other, info) if upwards else (info, other)
        back = newer.proto.since < older.proto.since
        since = older.proto.since if back else newer.proto.since
        transforms = self._code.get(since, {})
        transform = transforms.get(info.name) or transforms.get(other.name)
        way = transform and (transform.up if upwards != back else transform.down)
        if way is None:
            text = (
                f"migration {since} is being rolled back, including the rows of table {info.name}, but this"
                " program lacks the code that converts new rows to old ones; open the database with its"
                " migrations and resume with `everlog rollback`, or abort it with `everlog up`"
                if back
                else f"table {info.name} is being rewritten by migration {since}, but this program lacks the"
                f" code that converts {'old rows to new' if upwards else 'new rows to old'} ones; open the"
                " database with its migrations, or abort the migration with `everlog rollback` (if it is"
                " prepared: `everlog abort-prepared`)"
            )
            raise MigrationError(text, table=info.name, version=since)
        return way


def _copier(other: TableInfo) -> Callable[[bytes, bytes], Converted]:
    """As `DualWrite.converter`, if both generations have the same rows; runs no user code."""
    entry_ofs = other.own.entry_ofs

    def copy(key: bytes, raw: bytes) -> Converted:
        if not entry_ofs:
            return raw, []
        row = other.salvage(raw)
        values = [entry_of(row) for entry_of in entry_ofs]
        if len(raw) > write.LARGE:
            write.check_values(other, key, values)
        return raw, values

    return copy


def _failed(  # noqa: PLR0917  all are given at each call
    way: Direction, info: TableInfo, key: bytes, row: Message, what: str, more: str = ""
) -> MigrationError:
    text = " ".join(str(row).split())
    if len(text) > TEXT_MAX:
        text = f"{text[:TEXT_MAX]}…"
    return MigrationError(
        f"`{way.name}` of table {info.name} fails for row {info.name_key(key)}: {what}",
        private=f"{info.show_key(key)} {{{text}}}{f': {more}' if more else ''}",
        table=info.name,
        key=info.decode_key(key),
    )
