"""Bootstrap: the rows that every database needs, which a migration brings along, and those that
no database needs any more.

    bootstrap.py                      def rows() -> Iterator[Row]: yield AIRPORTS, Airport(…)
                                      def deleted() -> Iterator[Key]: yield AIRPORTS, "JFK"
    bootstrap_<table>.csv, .jsonl     rows of that table, in order of the files' names

A file is parsed from the bytes that the folder's digest covers, so one digest has one set of rows.

They are written in the migration's own record, so they are there exactly if it is. A row whose
key is in the database already replaces the one that is there, and a row that is deleted need not be
there: whatever the database has, it comes to the same.

A record is limited. More rows of a table that is new are loaded before it, in records of their own, and
can be read from the migration's record on (`loaded`); more of a table that is there are a load, or
several migrations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import Message

from everlog.migrations import withheld
from everlog.migrations.loader import after, fault, import_file
from everlog.migrations.migration import Key, Migration, Row
from everlog.migrations.rows import SUFFIXES, read_bytes
from everlog.proto import log_pb2
from everlog.store import write
from everlog.store.errors import Error, MigrationError, RowError
from everlog.store.evolve import evolve, online
from everlog.store.held import words_of
from everlog.store.record import RECORD_BYTES_MAX
from everlog.store.schema import Schema
from everlog.store.table import Table
from everlog.store.user_code import MisuseError

T = TypeVar("T")

WORD_MIN, WORDS_MAX = 6, 1000  # texts in rows of people that other files of a folder may have as well
_ROW_OVERHEAD = 128  # bytes of a record in addition to the row: its key and its seal, mostly


class Bootstrap(list[Row]):
    """The rows that a migration puts; `deleted` are the keys of those that it deletes, `withheld` the files
    whose content the log does not keep, as they have rows of sealed tables."""

    def __init__(self, rows: Iterable[Row] = (), deleted: Iterable[Key] = ()) -> None:
        super().__init__(rows)
        self.deleted = list(deleted)
        self.withheld = set[str]()
        self.sizes = Counter[str]()  # bytes in a record, by the table's name

    def without(self, names: Collection[str]) -> Bootstrap:
        """The same without the rows of some tables."""
        rest = Bootstrap((one for one in self if one[0].name not in names), self.deleted)
        rest.withheld = self.withheld
        return rest


def bootstrap(migration: Migration, *, twice: bool = False) -> Bootstrap:
    """The rows of a migration, checked for their tables; `twice`: two may have one key. Runs the
    folder's code; writes nothing.

    Raises SchemaError with the line of `bootstrap.py`, LoadError with line and column of a file.
    """
    rows = Bootstrap()
    schema = Schema(evolve(log_pb2.Schema(), migration.version, migration.tables))
    seen: dict[bytes, Path] = {}
    sealed, words = set[Path](), set[str]()
    for number, (path, table, row) in enumerate(_rows(migration), 1):
        _check_row(migration, schema, seen, path, table, row, number)
        if twice:
            seen.clear()
        rows.sizes[table.name] += row.ByteSize() + _ROW_OVERHEAD
        rows.append((table, row))
        if table.person is not None:
            sealed.add(path)
            if len(words) < WORDS_MAX:
                words.update(word for word in words_of([row]) if len(word) >= WORD_MIN)
    rows.deleted += _deleted(migration)
    rows.withheld = withheld.paths(migration, sealed, words)
    return rows


def loaded(migration: Migration, rows: Bootstrap, before: log_pb2.Schema) -> set[str]:
    """The tables whose rows are too many for the migration's record: they are loaded before it, in
    records of their own, into tables that nobody can read yet. Read-only. `before` is the schema before.

    Raises MigrationError where that cannot be: a table that is there already, and a migration that has
    something else to build.
    """
    following = after(before, migration)
    kept = withheld.kept(migration.folder.sources, rows.withheld, None)
    room = RECORD_BYTES_MAX // 4 * 3 - following.ByteSize() - sum(len(file.content) for file in kept)
    if rows.sizes.total() <= room:
        return set()
    there = {table.name for table in before.tables} | {*migration.rename.values()}
    found, left = set[str](), rows.sizes.total()
    for name, size in rows.sizes.most_common():
        if left > room and name not in there:
            found.add(name)
            left -= size
    what = f"{rows.sizes.total():,} bytes of bootstrap rows"
    text = f"migration {migration.title} has {what}, more than one record holds"
    remedy = "load them with `everlog import`, or split them over several migrations"
    if left > room:
        large = next(name for name, _ in rows.sizes.most_common() if name in there)
        raise MigrationError(
            f"{text}, and table {large} is there already; only a table that is new in the migration can take"
            f" so many: {remedy}",
            version=migration.version,
            table=large,
        )
    building = online(before, following, remade=found)
    others = building is not None and (
        any(not table.remade for table in building.building)
        or any(index.building for table in building.tables for index in table.indexes)
    )
    if others or migration.up is not None:
        raise MigrationError(
            f"{text}, and it rewrites rows or builds indexes as well; make that a migration of its own, or"
            f" {remedy}",
            version=migration.version,
        )
    return found


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
