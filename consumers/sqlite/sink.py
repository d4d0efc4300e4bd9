"""Sqlite: a sink that mirrors tables into one SQLite file.

    airports, flights, …    one table for each table of the source (sqlite/table.py, sqlite/column.py)
    _everlog                one row: version, database, seq, checksum, schema, tables followed
    _everlog_enums          enum, number, name: the names of the numbers in enum columns

Readers may read at any time (the file is in WAL mode) and see whole commits of the source. They may add
views and indexes. Changes that they make to mirrored rows are found by `verify`.

A transaction is BEGIN IMMEDIATE … COMMIT with synchronous=FULL, and moves `_everlog` only from the position
that this sink last read: rows and position are durable together, exactly once.

Deleted data is overwritten (secure_delete). After a person was forgotten, the write-ahead log is emptied as
soon as readers release it: none of the file's bytes then contain that person's data.

A new schema changes the tables within the current transaction:

    tables before ┐     dropped, renamed, columns altered ┐
                  ├──▶                                    ├──▶ one transaction
    tables after  ┘     or rewritten, created, indexed    ┘

Tables are matched by their space, columns by field numbers, indexes by id, so a rename changes only the
name. Columns are added, dropped and renamed in place. Where stored values would have another meaning under
the new model (a field of another type, a nested field renamed), the table's rows are read with the old
model, parsed with the new one, and written again.

Indexes are created once the sink has caught up: filling a table and sorting it once takes half as long as
keeping its indexes in order meanwhile.

The rows of a new generation (another space) arrive in chunks before the switch, in a shadow table
`_everlog_<space>`. At the switch it gets the table's name, and the previous table becomes a shadow for as
long as it is served, or is dropped.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from everlog.consumers.follower.sink import Pending, State
from everlog.consumers.sqlite.column import enum_values
from everlog.consumers.sqlite.table import SqlTable, quote
from everlog.proto import log_pb2
from everlog.store.errors import ClosedError, DiskError, SinkError
from everlog.store.schema.schema import Schema
from everlog.store.tables.projection import SHREDDED

FORMAT = 1

_SETUP = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA cache_size = -65536;
PRAGMA wal_autocheckpoint = 8192;
PRAGMA secure_delete = ON;
"""
_STATE = """
CREATE TABLE IF NOT EXISTS _everlog (
    one INTEGER PRIMARY KEY CHECK (one = 1), format INTEGER NOT NULL, database BLOB NOT NULL,
    seq INTEGER NOT NULL, checksum INTEGER NOT NULL, schema BLOB NOT NULL, tables TEXT NOT NULL
)"""
_ENUMS = """
CREATE TABLE IF NOT EXISTS _everlog_enums (
    enum TEXT, number INTEGER, name TEXT, PRIMARY KEY (enum, number, name)
) WITHOUT ROWID"""
_READ = "SELECT format, database, seq, checksum, schema, tables FROM _everlog"
_WRITE = "INSERT OR REPLACE INTO _everlog VALUES (1, ?, ?, ?, ?, ?, ?)"
_BUSY_S = 10.0
_READERS_MS = 1000  # how long to wait for readers before the write-ahead log is emptied


class SqliteSink:
    """A sink in the SQLite file `path`, which is created if it does not exist."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = f"sqlite:{path}"
        self._connection: sqlite3.Connection | None = None
        self._state: State | None = None
        self._following: tuple[str, ...] = ()
        self._schema = Schema(log_pb2.Schema())
        self._tables: dict[int, SqlTable] = {}  # by space
        self._pending = Pending()
        self._indexed = False  # whether the indexes are known to exist
        self._forgot = False  # the write-ahead log still has data of a forgotten person

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> State | None:
        if self._connection is None:
            if not self.path.parent.is_dir():
                raise SinkError(f"{self.name}: there is no directory {self.path.parent}; create it")
            with translated(self.name, "open it"):
                # One thread at a time, but not always the same one: a server may follow in a worker.
                connection = sqlite3.connect(
                    self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
                )
                try:
                    connection.executescript(_SETUP)
                    self._state = self._read(connection)
                except BaseException:
                    connection.close()
                    raise
                self._connection = connection
            self._reset()
        return self._state

    def begin(self, tables: tuple[str, ...]) -> None:
        connection = self._open
        with translated(self.name, "begin a transaction"):
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(_STATE)
            connection.execute(_ENUMS)
            found = self._read(connection)
        if (found and found.position) != (self._state and self._state.position):
            self.rollback()
            was, now = (state.position.seq if state else 0 for state in (self._state, found))
            raise SinkError(
                f"{self.name} was at seq {was} when this follower last read it, and now is at {now}:"
                " another follower writes to it; stop one of them",
                expected=was,
                found=now,
            )
        self._following = tables

    def evolve(self, schema: Schema) -> None:
        self._flush()
        tables = self._select(schema)
        with translated(self.name, f"follow it to schema version {schema.version}"):
            evolve(self._open, self._tables.values(), tables.values())
            self._open.execute("DELETE FROM _everlog_enums")
            self._open.executemany(
                "INSERT OR IGNORE INTO _everlog_enums VALUES (?, ?, ?)", enum_values(schema)
            )
        self._schema, self._tables, self._indexed = schema, tables, False

    def apply(self, commits: Sequence[log_pb2.Commit]) -> None:
        self._pending.add(commits, self._schema.spaces)
        self._forgot |= any(commit.notice.kind == SHREDDED for commit in commits if commit.HasField("notice"))

    def commit(self, position: log_pb2.Cursor, *, caught_up: bool) -> None:
        self._flush()
        if caught_up and not self._indexed:
            with translated(self.name, "create indexes"):
                index(self._open, self._tables.values())
            self._indexed = True
        fields = (FORMAT, position.database, position.seq, position.checksum)
        schema = self._schema.proto.SerializeToString(deterministic=True)
        with translated(self.name, "commit"):
            self._open.execute(_WRITE, (*fields, schema, ",".join(self._following)))
            self._open.execute("COMMIT")
            if self._forgot:
                self._forgot = _log_is_held(self._open)
        self._state = State(position, self._schema, self._following)

    def rollback(self) -> None:
        self._reset()
        if self._connection is not None and self._connection.in_transaction:
            with suppress(sqlite3.Error):  # closing, or the next opening, then rolls it back
                self._connection.execute("ROLLBACK")

    def tables(self) -> list[str]:
        return sorted(table.name for table in self._tables.values() if not table.shadow)

    def rows(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        found = next((one for one in self._tables.values() if one.name == table), None)
        if found is None:
            raise SinkError(f"{self.name} does not follow table {table}", table=table)
        with translated(self.name, f"read table {table}"):
            yield from found.rows(self._open)

    def close(self) -> None:
        if self._connection is not None:
            self.rollback()
            self._connection.close()
            self._connection = None

    @property
    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise ClosedError(f"{self.name} is not open; call open()")
        return self._connection

    def _read(self, connection: sqlite3.Connection) -> State | None:
        """Return the state that the file records. Read-only."""
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = '_everlog'").fetchone():
            return None
        row = connection.execute(_READ).fetchone()
        if row is None:
            return None
        version, database, seq, checksum, schema, tables = row
        if version != FORMAT:
            raise SinkError(
                f"{self.name} has format {version}, this version of everlog supports up to {FORMAT};"
                " follow with a newer version, or from the beginning into a new file"
            )
        position = log_pb2.Cursor(database=database, seq=seq, checksum=checksum)
        if self._state and self._state.position == position:
            return self._state
        proto = log_pb2.Schema.FromString(schema)
        return State(position, Schema(proto), tuple(filter(None, tables.split(","))))

    def _reset(self) -> None:
        """Return to the state that the file records."""
        self._pending.clear()
        self._indexed = False
        if self._state:
            self._following = self._state.tables
            if self._schema is not self._state.schema:
                self._schema = self._state.schema
                self._tables = self._select(self._schema)
        elif self._tables:
            self._schema, self._tables = Schema(log_pb2.Schema()), {}

    def _select(self, schema: Schema) -> dict[int, SqlTable]:
        """Return the followed tables by space, with all their generations."""
        live = {info.space for info in schema.tables.values()}
        chosen = {
            info.proto.id
            for info in schema.spaces.values()
            if not self._following or info.name in self._following
        }
        return {
            space: SqlTable(info, shadow=space not in live)
            for space, info in schema.spaces.items()
            if info.proto.id in chosen
        }

    def _flush(self) -> None:
        """Write the gathered changes into SQLite's transaction."""
        connection = self._open
        for space, changes in self._pending.spaces.items():
            table = self._tables.get(space)
            if table is None:
                continue  # of a table that is not followed
            with translated(self.name, f"write to table {table.name}"):
                # In key order: neighbours share a page.
                puts = (row for _, row in sorted(changes.items()) if row is not None)
                connection.executemany(table.upsert(), table.parse(puts))
                gone = [key for key, row in changes.items() if row is None]
                connection.executemany(table.delete(), map(table.key_values, gone))
        self._pending.clear()


def _log_is_held(connection: sqlite3.Connection) -> bool:
    """Empty the write-ahead log; return whether readers prevent it, to try again with the next commit."""
    connection.execute(f"PRAGMA busy_timeout = {_READERS_MS}")
    held = bool(connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
    connection.execute(f"PRAGMA busy_timeout = {int(_BUSY_S * 1000)}")
    return held


def evolve(connection: sqlite3.Connection, before: Iterable[SqlTable], after: Iterable[SqlTable]) -> None:
    """Change the tables `before` to the tables `after`. Writes. Raises sqlite3.Error."""
    olds = {table.info.space: table for table in before}
    news = {table.info.space: table for table in after}
    both = [(old, news[space]) for space, old in olds.items() if space in news]
    for old, name in _gone(olds, news):
        connection.execute(f"DROP INDEX IF EXISTS {quote(f'{old.name}.{name}')}")
    for space, old in olds.items():
        if space not in news:
            connection.execute(f"DROP TABLE {quote(old.name)}")
    _rename(connection, [(old.name, new.name) for old, new in both], "ALTER TABLE {} RENAME TO {}")
    for old, new in both:
        _alter(connection, old, new)
    for space, new in news.items():
        if space not in olds:
            connection.execute(new.create())


def index(connection: sqlite3.Connection, tables: Iterable[SqlTable]) -> None:
    """Create missing indexes. Writes."""
    for table in (table for table in tables if not table.shadow):
        for (_, name, _), columns in table.indexes.items():
            fields = ", ".join(quote(column.name) for column in columns)
            which = quote(f"{table.name}.{name}")
            connection.execute(f"CREATE INDEX IF NOT EXISTS {which} ON {quote(table.name)} ({fields})")


def _gone(olds: dict[int, SqlTable], news: dict[int, SqlTable]) -> Iterable[tuple[SqlTable, str]]:
    """Yield indexes that no longer exist, or have another name."""
    for space, old in olds.items():
        kept = news[space].indexes if space in news else {}
        yield from ((old, index[1]) for index in old.indexes if index not in kept)


def _alter(connection: sqlite3.Connection, old: SqlTable, new: SqlTable) -> None:
    was = {column.path: column for column in old.columns}
    now = {column.path: column for column in new.columns}
    added = [column for path, column in now.items() if path not in was]
    if any(column.derived for column in added) or not all(
        was[path].stays(column) for path, column in now.items() if path in was
    ):
        _rewrite(connection, old, new)
        return
    table = quote(new.name)
    for path, column in was.items():
        if path not in now:
            connection.execute(f"ALTER TABLE {table} DROP COLUMN {quote(column.name)}")
    renames = [(was[path].name, column.name) for path, column in now.items() if path in was]
    _rename(connection, renames, f"ALTER TABLE {table} RENAME COLUMN {{}} TO {{}}")
    for column in added:
        connection.execute(f"ALTER TABLE {table} ADD COLUMN {SqlTable.declare(column)}")


def _rewrite(connection: sqlite3.Connection, old: SqlTable, new: SqlTable) -> None:
    """Read every row with the old model and write it with the new one."""
    shadow = f"_everlog_{new.info.space}_new"
    connection.execute(new.create(shadow))
    # The table already has its new name; its columns still have the old ones.
    select = _named(old, new.name).select()
    rows = (old.row(values)[1] for values in connection.execute(select))
    connection.executemany(new.upsert(shadow), new.parse(rows))
    for _, name, _ in new.indexes:
        connection.execute(f"DROP INDEX IF EXISTS {quote(f'{new.name}.{name}')}")
    connection.execute(f"DROP TABLE {quote(new.name)}")
    connection.execute(f"ALTER TABLE {quote(shadow)} RENAME TO {quote(new.name)}")


def _named(table: SqlTable, name: str) -> SqlTable:
    other = SqlTable(table.info)
    other.name = name
    return other


def _rename(connection: sqlite3.Connection, pairs: list[tuple[str, str]], statement: str) -> None:
    """Rename all at once, through temporary names, because two may swap their names."""
    pairs = [(old, new) for old, new in pairs if old != new]
    for at, (old, _) in enumerate(pairs):
        connection.execute(statement.format(quote(old), quote(f"_everlog_renamed_{at}")))
    for at, (_, new) in enumerate(pairs):
        connection.execute(statement.format(quote(f"_everlog_renamed_{at}"), quote(new)))


@contextmanager
def translated(name: str, doing: str) -> Iterator[None]:
    """Translate SQLite's errors. `doing` completes "SQLite refused to …". Temporary errors, such as a lock of
    another process, have the fact `transient`."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            outcome = "unknown" if doing == "commit" else "nothing written"
            raise DiskError(
                f"{name}: the disk refused to {doing}: {error}; free some space, or remove files if"
                " the disk has no inode left, and follow again: it continues from there",
                outcome=outcome,
                transient=code == sqlite3.SQLITE_FULL and doing != "commit",
            ) from error
        raise SinkError(
            f"{name}: SQLite refused to {doing}: {error}{_remedy(code)}",
            transient=code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED),
        ) from error


def _remedy(code: int) -> str:
    remedies = {
        sqlite3.SQLITE_BUSY: "; another process is writing to it: end that transaction, and follow again",
        sqlite3.SQLITE_NOTADB: "; expected an SQLite file, or none: choose another path",
        sqlite3.SQLITE_CORRUPT: "; follow from the beginning into a new file",
        sqlite3.SQLITE_READONLY: "; a follower needs to write to it and to its directory",
        sqlite3.SQLITE_CANTOPEN: "; a follower needs to write to it and to its directory",
    }
    return remedies.get(code, "")
