"""Table: one table of the source as one table of SQLite; its rows in both directions.

    stored row ─▶ message ─▶ values ─▶ INSERT … ON CONFLICT DO UPDATE
    SELECT ─▶ values ─▶ message ─▶ (key, row) for the content hash

Rows are computed from the columns alone: the stored row is not kept beside them, so equal hashes prove the
columns right. A computed row is also converted to values again, and those must equal the values that were
read: no value in a column can escape the hash.

The primary key is that of the source. Its indexes are mirrored, but none as UNIQUE: the source enforces
uniqueness, and rows of many commits in one statement would violate it on the way.

Each table has one compiled function that reads a row, and one that makes a row:

    def made(row):                                   def made(values):
     has = row.HasField                               v0, v1, v2, = values
     return (row.faa, convert_1(row.lat),             row = model()
             row.note or (row.note if                 setattr(row, 'faa', v0)
             has('note') else None),)                 …

They are compiled, as a namedtuple's are, because they run once for each row: a call for each field takes
twice as long. Generated code never contains a value of the source; field names are literals made by repr(),
or identifiers.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from google.protobuf.message import DecodeError, Message

from everlog.consumers.sqlite.column import Column, timestamp_back
from everlog.store.errors import CorruptionError, RowError, SinkError
from everlog.store.schema.admission import is_whole
from everlog.store.schema.descriptors import resolve
from everlog.store.schema.schema import TableInfo

_COLUMNS_MAX = 2000  # SQLITE_MAX_COLUMN in default builds of SQLite


class SqlTable:
    """One table in SQLite. Raises SinkError if SQLite cannot have such a table.

    A generation that is not in force is a `shadow`, under a name that readers do not use.
    """

    def __init__(self, info: TableInfo, *, shadow: bool = False) -> None:
        self.info = info
        self.shadow = shadow
        self.name = f"_everlog_{info.space}" if shadow else info.name
        self.key_paths = [tuple(path.numbers) for path in info.proto.key]
        self.columns = self._columns()
        self._check_names()
        by_path = {column.path: column for column in self.columns}
        self.key = [by_path[path] for path in self.key_paths]
        self.values = row_reader(self.columns)
        self._made = row_writer(self.columns, info.model)
        self.indexes = {
            (index.id, index.name, self.name): [by_path[tuple(path.numbers)] for path in index.proto.fields]
            for index in info.indexes.values()
            if not index.building
        }

    def _columns(self) -> list[Column]:
        descriptor: Any = self.info.model.DESCRIPTOR
        paths: list[tuple[int, ...]] = [(field.number,) for field in descriptor.fields]
        for named in (*self.info.proto.key, *(p for i in self.info.proto.indexes for p in i.fields)):
            if tuple(named.numbers) not in paths:
                paths.append(tuple(named.numbers))
        model = self.info.model
        return [Column(model, resolve(descriptor, path), in_key=path in self.key_paths) for path in paths]

    def _check_names(self) -> None:
        names = [column.name.lower() for column in self.columns]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SinkError(
                f"table {self.name} cannot be mirrored: its fields {', '.join(twice)} differ only in case,"
                " which SQLite ignores; leave the table out",
                table=self.name,
            )
        if len(names) > _COLUMNS_MAX or self.name.lower().startswith("sqlite_"):
            raise SinkError(
                f"table {self.name} cannot be mirrored: SQLite allows at most {_COLUMNS_MAX} columns and no"
                " table name that starts with sqlite_; leave the table out",
                table=self.name,
            )

    # ── rows ──────────────────────────────────────────────────────────────────────────────────

    def parse(self, rows: Iterable[bytes]) -> Iterator[tuple[Any, ...]]:
        """Yield stored rows as SQLite's values. A row that an older version accepted, though protobuf cannot
        parse it, has the columns that are readable, until the source sets it aside. Raises
        CorruptionError."""
        parse, values = self.info.model.FromString, self.values
        for row in rows:
            try:
                message = parse(row)
            except DecodeError as error:
                if not is_whole(row):
                    raise self.info.unreadable(None, error) from None
                message = self.info.salvage(row)
            yield values(message)

    def key_values(self, key: bytes) -> tuple[Any, ...]:
        """Return an encoded key as the values of the primary key's columns."""
        return tuple(
            column.into(value) if column.into else value
            for column, value in zip(self.key, self.info.decode_key(key), strict=True)
        )

    def row(self, values: tuple[Any, ...]) -> tuple[bytes, bytes]:
        """Return encoded key and row, computed from the columns alone. Raises SinkError."""
        key = self.info.own.key_of
        try:
            message = self._made(values)
            again = self.values(message)
            if again != values:
                found = next(at for at, value in enumerate(again) if value != values[at])
                raise ValueError(f"column {self.columns[found].name} holds another value")
            return key(message), message.SerializePartialToString(deterministic=True)
        except (ValueError, TypeError, struct.error, RowError, CorruptionError) as error:
            place = tuple(v for v, column in zip(values, self.columns, strict=True) if column in self.key)
            raise SinkError(
                f"the row of table {self.name} with the key {place} is not what this follower wrote:"
                f" {error}; follow from the beginning into a new file",
                table=self.name,
                key=place,
            ) from None

    # ── SQL ───────────────────────────────────────────────────────────────────────────────────

    def create(self, name: str | None = None) -> str:
        columns = ", ".join(self.declare(column) for column in self.columns)
        key = ", ".join(quote(column.name) for column in self.key)
        return f"CREATE TABLE {quote(name or self.name)} ({columns}, PRIMARY KEY ({key}))"

    @staticmethod
    def declare(column: Column) -> str:
        return f"{quote(column.name)}{column.type}{column.rule}"

    def upsert(self, name: str | None = None) -> str:
        columns = ", ".join(quote(column.name) for column in self.columns)
        key = ", ".join(quote(column.name) for column in self.key)
        # A key's float may change from -0.0 to 0.0 and remain the same key.
        changing = [column for column in self.columns if column not in self.key or not column.type]
        update = ", ".join(f"{quote(column.name)} = excluded.{quote(column.name)}" for column in changing)
        values = ", ".join("?" * len(self.columns))
        return (
            f"INSERT INTO {quote(name or self.name)} ({columns}) VALUES ({values})"
            f" ON CONFLICT ({key}) DO {f'UPDATE SET {update}' if update else 'NOTHING'}"
        )

    def delete(self) -> str:
        key = " AND ".join(f"{quote(column.name)} = ?" for column in self.key)
        return f"DELETE FROM {quote(self.name)} WHERE {key}"

    def select(self) -> str:
        columns = ", ".join(quote(column.name) for column in self.columns)
        key = ", ".join(quote(column.name) for column in self.key)
        return f"SELECT {columns} FROM {quote(self.name)} ORDER BY {key}"

    def rows(self, connection: sqlite3.Connection) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, row) of every row, in key order. Read-only. Raises SinkError."""
        rows = map(self.row, connection.execute(self.select()))
        yield from sorted(rows) if self._has_odd_key(connection) else rows

    def _has_odd_key(self, connection: sqlite3.Connection) -> bool:
        """Return whether a key has a timestamp stored as a BLOB, which SQLite sorts differently."""
        times = [quote(column.name) for column in self.key if column.back is timestamp_back]
        odd = " OR ".join(f"typeof({time}) = 'blob'" for time in times)
        return bool(odd and connection.execute(f"SELECT 1 FROM {quote(self.name)} WHERE {odd}").fetchone())


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def row_reader(columns: Sequence[Column]) -> Callable[[Any], tuple[Any, ...]]:
    """Return a function from a row to SQLite's values, one for each column.

    In its code `row` is the row, `has` its HasField, and `convert` the column's own function.
    """
    names: dict[str, Any] = {f"convert_{at}": column.convert for at, column in enumerate(columns)}
    values = [column.code.replace("convert(", f"convert_{at}(", 1) for at, column in enumerate(columns)]
    return _compiled(f"def made(row):\n has = row.HasField\n return ({', '.join(values)},)", names)


def row_writer(columns: Sequence[Column], model: type[Message]) -> Callable[[tuple[Any, ...]], Any]:
    """Return a function from SQLite's values to a row. It raises ValueError, TypeError or struct.error for
    values that `row_reader` never returns."""
    names: dict[str, Any] = {"model": model}
    values = "".join(f"v{at}, " for at in range(len(columns)))
    lines = ["def made(values):", f" {values} = values", " row = model()"]
    for at, column in enumerate(columns):
        names[f"back_{at}"] = column.json.merge if column.json else column.back
        field, value = repr(column.name), f"v{at}"
        if column.derived:
            continue
        if column.json:
            put = f"back_{at}(row, {value})"
        elif column.back is timestamp_back:
            put = f"back_{at}(getattr(row, {field}), {value})"
        else:
            put = f"setattr(row, {field}, {f'back_{at}({value})' if column.back else value})"
        lines.append(f" {put}" if column.rule else f" if {value} is not None: {put}")
    lines.append(" return row")
    return _compiled("\n".join(lines), names)


def _compiled(source: str, names: dict[str, Any]) -> Callable[[Any], Any]:
    exec(source, names)  # noqa: S102  see the header
    made: Callable[[Any], Any] = names["made"]
    return made
