"""Bootstrap: the rows that every database needs, which a migration brings along, and those that
no database needs any more.

    bootstrap.py                      def rows() -> Iterator[Row]: yield AIRPORTS, Airport(…)
                                      def deleted() -> Iterator[Key]: yield AIRPORTS, "JFK"
    bootstrap_<table>.csv, .jsonl     rows of that table, in order of the files' names

A file is parsed from the bytes that the folder's digest covers, so one digest has one set of rows.

They are written in the migration's own record, so they are there exactly if it is. A row whose
key is in the database already replaces the one that is there, and a row that is deleted need not be
there: whatever the database has, it comes to the same.

A record is limited, and so are the rows of one migration; more of them is a load, or several
migrations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import Message

from everlog.migrations import withheld
from everlog.migrations.loader import fault, import_file
from everlog.migrations.migration import Key, Migration, Row
from everlog.migrations.rows import SUFFIXES, read_bytes
from everlog.proto import log_pb2
from everlog.store import write
from everlog.store.errors import Error, MigrationError, RowError
from everlog.store.evolve import evolve
from everlog.store.held import words_of
from everlog.store.record import RECORD_BYTES_MAX
from everlog.store.schema import Schema
from everlog.store.table import Table
from everlog.store.user_code import MisuseError

T = TypeVar("T")

WORD_MIN, WORDS_MAX = 6, 1000  # texts in rows of people that other files of a folder may have as well
_ROW_OVERHEAD = 32  # bytes in a record beside the row itself and its key, at most


class Bootstrap(list[Row]):
    """The rows that a migration puts; `deleted` are the keys of those that it deletes, `withheld` the files
    whose content the log does not keep, as they have rows of sealed tables."""

    def __init__(self, rows: Iterable[Row] = (), deleted: Iterable[Key] = ()) -> None:
        super().__init__(rows)
        self.deleted = list(deleted)
        self.withheld = set[str]()


def bootstrap(migration: Migration, *, twice: bool = False) -> Bootstrap:
    """The rows of a migration, checked for their tables; `twice`: two may have one key. Runs the
    folder's code; writes nothing.

    Raises SchemaError with the line of `bootstrap.py`, LoadError with line and column of a file,
    MigrationError if they are too many for one record.
    """
    rows = Bootstrap()
    size = sum(len(file.content) for file in migration.folder.sources)
    schema = Schema(evolve(log_pb2.Schema(), migration.version, migration.tables))
    seen: dict[bytes, Path] = {}
    sealed, words = set[Path](), set[str]()
    for number, (path, table, row) in enumerate(_rows(migration), 1):
        _check_row(migration, schema, seen, path, table, row, number)
        if twice:
            seen.clear()
        size += row.ByteSize() + _ROW_OVERHEAD
        if size > RECORD_BYTES_MAX:
            raise MigrationError(
                f"migration {migration.title} has more bootstrap rows than one record can hold: after"
                f" {len(rows):,} rows and its own source it is over {RECORD_BYTES_MAX:,} bytes; load them"
                " with `everlog import`, or split them over several migrations",
                version=migration.version,
            )
        rows.append((table, row))
        if table.person is not None:
            sealed.add(path)
            if len(words) < WORDS_MAX:
                words.update(word for word in words_of([row]) if len(word) >= WORD_MIN)
    rows.deleted += _deleted(migration)
    rows.withheld = withheld.paths(migration, sealed, words)
    return rows


def _check_row(  # noqa: PLR0917  each is said at the call
    migration: Migration,
    schema: Schema,
    seen: dict[bytes, Path],
    path: Path,
    table: Table[Any, Any],
    row: Message,
    number: int,
) -> None:
    """That a row can be written: before anything is. `number`: the how manyth of the migration. Raises
    SchemaError with its file."""
    try:
        one = write.put(schema.bind(table), row)
    except RowError as error:
        shown = " ".join(str(row).split())
        raise migration.folder.error(
            f"row {number:,} of {table.name}: {error}", file=path, private=f"{{{shown:.200}}} {error.private}"
        ) from error
    if one.full in seen:
        raise migration.folder.error(
            f"row {one.info.name_key(one.key)} is there twice, first in {seen[one.full].name}; take one away",
            file=path,
            private=one.info.show_key(one.key),
        )
    seen[one.full] = path


def _rows(migration: Migration) -> Iterator[tuple[Path, Table[Any, Any], Message]]:
    folder = migration.folder
    digested = {file.path: file.content for file in folder.sources}
    names = {name.partition("/")[0] for name in digested if name.startswith("bootstrap_")}
    files = [folder.path / name for name in sorted(names)]
    if (folder.path / "bootstrap.py").exists():
        file = folder.path / "bootstrap.py"
        yield from ((file, table, row) for table, row in _of_code(migration, file))
    for path in files:
        if path.suffix not in SUFFIXES:
            raise folder.error(f"expected {path.name} to end in {' or '.join(SUFFIXES)}", file=path)
        name = path.stem.removeprefix("bootstrap_")
        table = migration.table(name)
        if table is None:
            raise folder.error(
                f"the migration declares no table {name!r}; it has: {_names(migration)}", file=path
            )
        if path.name not in digested:
            raise folder.error(f"expected {path.name} to be a file", file=path)
        for row in read_bytes(path, digested[path.name], table.model):
            yield path, table, row


def _of_code(migration: Migration, path: Path) -> Iterator[Row]:
    module = import_file(migration.folder, "bootstrap")
    made = getattr(module, "rows", None)
    if not callable(made) and not (made is None and callable(getattr(module, "deleted", None))):
        raise migration.folder.error("expected a function `rows() -> Iterator[Row]`", file=path)
    if made is not None:
        yield from _called(migration, path, made, _checked)


def _deleted(migration: Migration) -> Iterator[Key]:
    path = migration.folder.path / "bootstrap.py"
    if path.exists():
        made = getattr(import_file(migration.folder, "bootstrap"), "deleted", None)
        if made is not None:
            yield from _called(migration, path, made, _checked_key)


def _called(
    migration: Migration,
    path: Path,
    made: Callable[[], Iterable[object]],
    check: Callable[[Migration, object], T],
) -> Iterator[T]:
    try:
        for one in made():
            yield check(migration, one)
    except Error:
        raise
    except Exception as error:  # noqa: BLE001  user code raises anything; its traceback has the row
        raise fault(migration.folder, path, error, of_rows=True) from None


def _checked(migration: Migration, row: object) -> Row:
    match row:
        case (Table() as table, message) if isinstance(message, table.model):
            if table is migration.table(table.name):
                return table, message
            raise MisuseError(f"table {table.name} is not one of this migration: {_names(migration)}")
        case (Table() as table, other):
            raise MisuseError(
                f"expected a {table.model.DESCRIPTOR.full_name} for {table.name}, found {_name(other)}"
            )
        case _:
            raise MisuseError(f"expected `rows` to yield a table and a row of it, found {_name(row)}")


def _checked_key(migration: Migration, key: object) -> Key:
    match key:
        case (Table() as table, found) if not isinstance(found, Message):
            if table is migration.table(table.name):
                return table, found
            raise MisuseError(f"table {table.name} is not one of this migration: {_names(migration)}")
        case _:
            raise MisuseError(f"expected `deleted` to yield a table and the key of a row, found {_name(key)}")


def _name(found: object) -> str:
    """The type of a thing, for people."""
    return getattr(getattr(found, "DESCRIPTOR", None), "full_name", type(found).__name__)


def _names(migration: Migration) -> str:
    return ", ".join(table.name for table in migration.tables) or "none"
