"""Test data: rows of any number, made by a folder from a seed, loaded into a database.

    testdata.py   def rows(random: Random, scale: int) -> Iterator[Row]: yield AIRPORTS, Airport(…)

The same seed and scale give the same rows, so a load that was interrupted goes on where it
stopped, and one that was finished does nothing. The folder used is that of the version that the
database has: its models are the ones in force.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from random import Random
from typing import Any

from google.protobuf.message import Message

from everlog.migrations.folder import SOURCE, Source
from everlog.migrations.loader import fault, import_file, load
from everlog.migrations.migration import Migration, Row
from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.errors import Error, MigrationError
from everlog.store.progress import OnProgress
from everlog.store.schema import arguments
from everlog.store.schema.table import Table

SCALE = 1
SEED = 0

# Held in memory, so that rows of one table come together.
_ROWS_AT_ONCE, _BYTES_AT_ONCE = 50_000, 16 << 20


def load_testdata(
    db: Database,
    source: Source = SOURCE,
    *,
    scale: int = SCALE,
    seed: int = SEED,
    actor: str = "",
    reason: str = "test data",
    progress: OnProgress | None = None,
) -> dict[str, int]:
    """Loads the test data of the database's version; returns the rows of each table.

    Raises MigrationError if there is none, and what the folder's code raises as SchemaError.
    """
    arguments.counted(scale, "a scale", error=MigrationError)
    arguments.whole(seed, "a seed", error=MigrationError)
    migration = _at(load(source), db.schema.version)
    counts: dict[str, int] = {}
    made = rows(migration, scale=scale, seed=seed)
    part = 0
    while by_table := _batch(made):
        for table, its in by_table.items():
            db.load(
                table,
                its,
                id=f"test/{migration.version}/seed {seed}/scale {scale}/{part}/{table.name}",
                source=f"testdata of {migration.title}, seed {seed}, scale {scale}",
                kind=log_pb2.Load.TEST,
                total=len(its),
                progress=progress,
                actor=actor,
                reason=reason,
            )
            counts[table.name] = counts.get(table.name, 0) + len(its)
        part += 1
    return counts


def testdata_at(source: Source, version: int, scale: int, seed: int) -> Iterator[Row]:
    """The test data for a database at a version. Read-only. Raises as `load_testdata` does."""
    return rows(_at(load(source), version), scale=scale, seed=seed)


def _batch(made: Iterator[Row]) -> dict[Table[Any, Any], list[Message]]:
    """The next rows, by their tables: as many as are held at once."""
    found: dict[Table[Any, Any], list[Message]] = {}
    size = 0
    for table, row in islice(made, _ROWS_AT_ONCE):
        found.setdefault(table, []).append(row)
        size += row.ByteSize()
        if size >= _BYTES_AT_ONCE:
            break
    return found


def rows(migration: Migration, *, scale: int = SCALE, seed: int = SEED) -> Iterator[Row]:
    """The test data of one migration. Read-only. Raises as `load_testdata` does."""
    folder = migration.folder
    path = folder.path / "testdata.py"
    if not path.exists():
        raise MigrationError(
            f"migration {folder.title} has no test data; write {path} with"
            " `def rows(random: Random, scale: int) -> Iterator[Row]`",
            version=migration.version,
        )
    made = getattr(import_file(folder, "testdata"), "rows", None)
    if not callable(made):
        raise folder.error(
            "expected a function `rows(random: Random, scale: int) -> Iterator[Row]`", file=path
        )
    try:
        yield from made(Random(seed), scale)  # noqa: S311  data, no secrets
    except Error:
        raise
    except (Exception, SystemExit) as error:
        raise fault(folder, path, error) from error


def _at(migrations: list[Migration], version: int) -> Migration:
    for migration in migrations:
        if migration.version == version:
            return migration
    known = ", ".join(str(migration.version) for migration in migrations) or "none"
    raise MigrationError(
        f"the database is at version {version}, expected one that there is a folder of: {known}",
        version=version,
    )
