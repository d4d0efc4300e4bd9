"""Checks: what must hold before and after a migration, in the words of its author.

    checks.py   def checks(db: Reader) -> Iterable[str]:
                    if db.count(AIRPORTS) < 1000: yield "airports are missing"

    before   on the database as it is, through the tables of the folder. What reads a table or an
             index that is not there yet, or rows that will be rewritten, has nothing to say: it
             speaks after
    after    on the tables as the migration would leave them, while nobody writes and before it is
             in the log: if one sentence comes, the migration was not applied

`db` reads as a database does (get, scan, count), and nothing else.

A sentence is kept, in the log, in a plan, as far as it stands in checks.py: "expected one airport, found …".
Its values may be those of rows: they are in `Error.private`.

Invariants
  (1) a migration whose checks do not hold leaves no trace in the tables, and its record is not
      written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from google.protobuf.message import Message

from everlog.migrations.loader import fault, import_file
from everlog.migrations.migration import Migration
from everlog.store.database import Database
from everlog.store.errors import Error, MigrationError, SchemaError
from everlog.store.schema.schema import Binding, Schema
from everlog.store.schema.table import Table
from everlog.store.tx.reader import Reader, Snapshot
from everlog.store.tx.source import Source
from everlog.store.user_code import MisuseError, literal

M = TypeVar("M", bound=Message)

SHOWN = 5  # problems in one sentence


def has_checks(migration: Migration) -> bool:
    return _file(migration).exists()


def before(db: Database, migration: Migration) -> None:
    """Raises MigrationError for what does not hold on the database as it is. Read-only."""
    if has_checks(migration):
        found = tried(db, migration)
        _refuse(migration, "before", found.problems, found.private)


class Tried(NamedTuple):
    """What does not hold on the database as it is, some of it, and how long it took to find out. `private`:
    the same with its values."""

    problems: list[str]
    private: str
    seconds: float


def tried(db: Database, migration: Migration) -> Tried:
    """Holds the checks of a migration that is the next. Read-only. Raises SchemaError for a mistake
    in them."""
    began = time.perf_counter()
    with db.snapshot() as now:
        problems, private = _problems(migration, _Before(now, migration), passes=SchemaError)
    return Tried(problems, private, time.perf_counter() - began)


def after(migration: Migration) -> Callable[[Snapshot], None] | None:
    """What `Database.apply_migration` takes as `check`; None where there is nothing to check."""
    if not has_checks(migration):
        return None
    return lambda then: _refuse(migration, "after", *_problems(migration, then))


class _Before(Reader):
    """A moment before a migration, read through the tables of its folder, which are newer."""

    def __init__(self, now: Snapshot, migration: Migration) -> None:
        self._now, self._rewritten = (
            now,
            {*migration.transforms, *(migration.up.names if migration.up else ())},
        )

    def _schema(self) -> Schema:
        return self._now._schema()

    def _source(self) -> Source:
        return self._now._source()  # noqa: SLF001  the same moment

    def _bind(self, table: Table[M, Any]) -> Binding:
        if table.name in self._rewritten:
            raise SchemaError(f"the rows of table {table.name} are yet to be rewritten", table=table.name)
        return self._schema().table(table.name).bind(table.model)


def _problems(
    migration: Migration, db: Reader, *, passes: type[Error] | tuple[()] = ()
) -> tuple[list[str], str]:
    """What does not hold, as it may be kept, and all of it, as it was said."""
    path, found = _file(migration), list[str]()
    made = getattr(import_file(migration.folder, "checks"), "checks", None)
    if not callable(made):
        raise migration.folder.error("expected a function `checks(db) -> Iterable[str]`", file=path)
    try:
        for problem in islice(_sentences(made(db)), SHOWN + 1):
            found.append(problem)
    except passes:
        pass
    except Error:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001  user code raises anything; its traceback has the row
        raise fault(migration.folder, path, error, of_rows=True) from None
    kept = [literal(one, str(path)) or "a sentence that does not stand in checks.py" for one in found]
    return kept, "; ".join(found) if kept != found else ""


def _refuse(migration: Migration, when: str, found: list[str], private: str) -> None:
    if found:
        more = "; and more" if len(found) > SHOWN else ""
        raise MigrationError(
            f"{_file(migration)}: what must hold {when} the migration does not:"
            f" {'; '.join(found[:SHOWN])}{more}",
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
