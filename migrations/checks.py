"""Checks: what must hold before and after a migration, as sentences of its author.

    checks.py   def checks(db: Reader) -> Iterable[str]:
                    if db.count(AIRPORTS) < 1000: yield "airports are missing"

    before   on the current database, through the tables of the folder. Checks that read a table or an index
             that does not exist yet, or rows that will be rewritten, are skipped here
    after    on the tables as the migration would leave them, while writers wait and before it is in the
             log. If a sentence is yielded, the migration is not applied

`db` has the read methods of a database (get, scan, count) and no others.

A sentence is stored in the log and in plans only as far as its words occur in checks.py: "expected one
airport, found …". Its values may come from rows, so they are in `Error.private` only.

Invariants
  (1) A migration whose checks fail leaves no trace in the tables, and its record is not written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from google.protobuf.message import Message

from everlog.migrations.folder import Source as Folders
from everlog.migrations.folder import find
from everlog.migrations.loader import fault, import_file, load
from everlog.migrations.migration import Migration
from everlog.store.database import Database
from everlog.store.errors import Error, MigrationError, SchemaError
from everlog.store.schema.schema import Binding, Schema
from everlog.store.schema.table import Table
from everlog.store.tx.reader import Reader, Snapshot
from everlog.store.tx.source import Source
from everlog.store.user_code import MisuseError, is_fault, literal

M = TypeVar("M", bound=Message)

SHOWN = 5  # problems in one message


def has_checks(migration: Migration) -> bool:
    """Whether the migration has a checks.py."""
    return _file(migration).exists()


def before(db: Database, migration: Migration) -> None:
    """Raise MigrationError if a check fails on the current database. Read-only."""
    if has_checks(migration):
        found = try_checks(db, migration)
        _refuse(migration, "before", found.problems, found.private)


class CheckTrial(NamedTuple):
    """The problems that checks found on the current database (the first few), and how long they took.

    `private`: the same problems with their values.
    """

    problems: list[str]
    private: str
    seconds: float


def try_checks(db: Database, migration: Migration) -> CheckTrial:
    """Run the checks of the next migration on the current database. Read-only. Raises SchemaError for an
    error in their code.
    """
    began = time.perf_counter()
    with db.snapshot() as now:
        problems, private = _problems(migration, _Before(now, migration), passes=SchemaError)
    return CheckTrial(problems, private, time.perf_counter() - began)


def after(migration: Migration) -> Callable[[Snapshot], None] | None:
    """Return the `check` argument of `Database.apply_migration`, or None if the migration has no checks."""
    if not has_checks(migration):
        return None
    return lambda then: _refuse(migration, "after", *_problems(migration, then))


def recheck(snapshot: Callable[[], Snapshot], source: Folders, version: int) -> None:
    """Raise MigrationError if a check of an applied migration fails on the rows as they are now. Read-only.

    `snapshot`: of the database. Without checks.py nothing is checked. Raises SchemaError for an error in
    their code, and for a migration that the source does not have.
    """
    migration = next((one for one in load(source) if one.version == version), None)
    if migration is None:
        raise SchemaError(f"expected migration {version} in {find(source).path}, found none")
    if has_checks(migration):
        with snapshot() as now:
            _refuse(migration, "after", *_problems(migration, now))


class _Before(Reader):
    """A snapshot before a migration, read through the newer tables of its folder."""

    def __init__(self, now: Snapshot, migration: Migration) -> None:
        self._now, self._rewritten = (
            now,
            {*migration.transforms, *(migration.up.names if migration.up else ())},
        )

    def _schema(self) -> Schema:
        return self._now._schema()

    def _source(self) -> Source:
        return self._now._source()  # noqa: SLF001  the same snapshot

    def _bind(self, table: Table[M, Any]) -> Binding:
        if table.name in self._rewritten:
            raise SchemaError(f"the rows of table {table.name} are not rewritten yet", table=table.name)
        return self._schema().table(table.name).bind(table.model)


def _problems(
    migration: Migration, db: Reader, *, passes: type[Error] | tuple[()] = ()
) -> tuple[list[str], str]:
    """Return the problems as they may be stored, and all of them with their values."""
    path, found = _file(migration), list[str]()
    made = getattr(import_file(migration.folder, "checks"), "checks", None)
    if not callable(made):
        raise migration.folder.error("expected a function `checks(db) -> Iterable[str]`", file=path)
    try:
        for problem in islice(_sentences(made(db)), SHOWN + 1):
            found.append(problem)
    except passes:
        pass
    except BaseException as error:
        if not is_fault(error):
            raise
        raise fault(migration.folder, path, error, of_rows=True) from None
    kept = [literal(one, str(path)) or "a sentence that is not literal text of checks.py" for one in found]
    return kept, "; ".join(found) if kept != found else ""


def _refuse(migration: Migration, when: str, found: list[str], private: str) -> None:
    if found:
        more = "; and more" if len(found) > SHOWN else ""
        raise MigrationError(
            f"{_file(migration)}: a check {when} the migration failed: {'; '.join(found[:SHOWN])}{more}",
            private=private,
            version=migration.version,
            problems=found,
        )


def _sentences(found: Iterable[object]) -> Iterable[str]:
    if isinstance(found, str) or found is None:
        raise MisuseError(f"expected `checks` to yield sentences, found {type(found).__name__}")
    for one in found:
        if not isinstance(one, str):
            raise MisuseError(f"expected `checks` to yield sentences, found {type(one).__name__}")
        yield one


def _file(migration: Migration) -> Path:
    return migration.folder.path / "checks.py"
