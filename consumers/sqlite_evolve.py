"""Evolve: SQLite's tables from one schema of the source to the next.

    tables before ┐     dropped, renamed, columns altered ┐
                  ├──▶                                    ├──▶ all in the transaction at hand
    tables after  ┘     or rewritten, created, indexed    ┘

Tables are matched by their space, columns by field numbers, indexes by id: a new name is a new name and
nothing else. Columns are added, dropped and renamed in place. Where stored values would mean
something else under the new model (a field of another type, a nested field renamed), the table's
rows are read with the old model, parsed with the new one, and written again.

Indexes are created when there is nothing left to catch up with: to fill a table and then sort it
once takes half as long as to keep its indexes in order meanwhile.

The rows of a new generation (another space) arrive in chunks before it is switched to, into a shadow
table `_everlog_<space>`. With the switch it gets the table's name, and the one before becomes a
shadow for as long as it is served, or goes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from everlog.consumers.sqlite_table import SqlTable, quote


def evolve(connection: sqlite3.Connection, before: Iterable[SqlTable], after: Iterable[SqlTable]) -> None:
    """Writes. Raises sqlite3.Error."""
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
    """Creates the indexes that are missing. Writes."""
    for table in (table for table in tables if not table.shadow):
        for (_, name, _), columns in table.indexes.items():
            fields = ", ".join(quote(column.name) for column in columns)
            which = quote(f"{table.name}.{name}")
            connection.execute(f"CREATE INDEX IF NOT EXISTS {which} ON {quote(table.name)} ({fields})")


def _gone(olds: dict[int, SqlTable], news: dict[int, SqlTable]) -> Iterable[tuple[SqlTable, str]]:
    """Indexes that are not there any more, or not under that name."""
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
    """Reads every row with the old model and writes it with the new one."""
    shadow = f"_everlog_{new.info.space}_new"
    connection.execute(new.create(shadow))
    # The table has its new name already, its columns still the old ones.
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
    """Renames all at once: two that swap their names pass through a third."""
    pairs = [(old, new) for old, new in pairs if old != new]
    for at, (old, _) in enumerate(pairs):
        connection.execute(statement.format(quote(old), quote(f"_everlog_renamed_{at}")))
    for at, (_, new) in enumerate(pairs):
        connection.execute(statement.format(quote(f"_everlog_renamed_{at}"), quote(new)))
