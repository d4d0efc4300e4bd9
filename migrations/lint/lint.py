"""Lint: what is wrong, or will be, with migrations that are not applied yet.

    folders, loaded one by one ─┬─ a folder that does not load          load/
                                ├─ history: database, clock             history/
                                └─ step by step from the one before     wire/ json/ change/ loss/ name/
                                       └─ rows, in memory               data/
    findings ─▶ ignores ─▶ what is left

Invariants
  (1) a package that `load` refuses has a finding of severity error;
  (2) a folder that is broken hides nothing of the others.

All rules: docs/lint.md.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from everlog.migrations import loader
from everlog.migrations.build import check_built
from everlog.migrations.folder import SOURCE, Folder, Root, Source, find, folder_at
from everlog.migrations.lint.data import Data, Readable, lint_unchecked
from everlog.migrations.lint.history import Applied, lint_applied, lint_times
from everlog.migrations.lint.rules import Finding, Findings, Severity
from everlog.migrations.lint.source import ProtoText, apply
from everlog.migrations.lint.tables import Names, Step, Tables, after, lint_tables
from everlog.migrations.migration import Migration
from everlog.migrations.status import lives
from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.errors import Error, SchemaError
from everlog.store.progress import OnProgress
from everlog.store.schema.evolve import evolve
from everlog.store.schema.schema import Schema

_BESIDE = {
    "checks": "checks(db) -> Iterable[str]",
    "testdata": "rows(random: Random, scale: int) -> Iterator[Row]",
}


def lint(
    source: Source = SOURCE,
    db: Readable | None = None,
    *,
    applied: Mapping[int, Applied] | None = None,
    since: int = 0,
    now: datetime | None = None,
    ignored: bool = False,
    progress: OnProgress | None = None,
) -> list[Finding]:
    """What is found in a package or directory of migrations, sorted by file and line.

    With a `db`, its rows are looked at, and folders that it has applied are not; folders of the
    version `since` and older are not, either. `applied` are the migrations that a `db` on a
    server has, by version. With `ignored`, what comments ignore is there as well, with the reason.
    Runs the folders' code; writes nothing. Raises SchemaError if there is no package at all: a
    folder that does not load is a finding.
    """
    root, found = find(source), Findings()
    folders = list(_folders(root, found))
    if applied is None:
        applied = _applied(db) if isinstance(db, Database) else {}
    quiet = [folder for folder in folders if folder.version <= since or folder.version in applied]
    found.quiet = {str(folder.path.resolve()) for folder in quiet}
    lint_applied(root, folders, applied, found)
    lint_times((folder for folder in folders if folder not in quiet), now or datetime.now(UTC), found)
    migrations = list(_load(root, folders, found))
    _lint_steps(migrations, db, applied, found, progress)
    if migrations and migrations[-1].folder not in quiet:
        _lint_tests(migrations[-1], found)
    apply(found, [folder.path for folder in folders if folder not in quiet])
    if not any(finding.severity is Severity.ERROR for finding in found.found):
        _lint_load(source, found)  # an error that is ignored is refused nevertheless
    return sorted([*found.found, *found.ignored] if ignored else found.found)


def data_errors(
    migrations: list[Migration],
    db: Readable,
    applied: Container[int],
    progress: OnProgress | None = None,
) -> list[Finding]:
    """What the rows of a database and bootstrap rows would stop migrations with, all but what `up` does
    with single rows. Read-only. Comments that ignore a rule change nothing of it."""
    found = Findings()
    _lint_steps(migrations, db, applied, found, progress)
    return [
        one
        for one in found.found
        if one.id.startswith("data/") and one.id != "data/transform" and one.severity is Severity.ERROR
    ]


def _folders(root: Root, found: Findings) -> Iterator[Folder]:
    folders = []
    for path in sorted(root.path.iterdir()):
        try:
            folder = folder_at(root, path)
        except SchemaError as error:
            _refused(error, found, f"{path}:1")
            continue
        if folder is not None:
            folders.append(folder)
    before: Folder | None = None
    for folder in sorted(folders, key=lambda one: (one.version, one.name)):
        if before is not None and before.version == folder.version:
            text = f"{folder.path.name} has the timestamp of {before.path.name}"
            fix = "give the one that is not applied yet a newer one, in its name and its model.proto"
            found.add("load/refused", f"{folder.path / '__init__.py'}:1", text, fix)
            continue
        before = folder
        yield folder


def _load(root: Root, folders: list[Folder], found: Findings) -> Iterator[Migration]:
    loader.make_importable(root)
    for folder in folders:
        try:
            _ = folder.proto_package
        except (SchemaError, UnicodeDecodeError) as error:
            _refused(error, found, f"{folder.model}:1")
            continue
        try:
            check_built(folder)
        except SchemaError as error:
            text = str(error).removeprefix(f"{error.where}: ").removesuffix("; run `everlog build`")
            found.add("load/not-built", error.where, text)
            continue
        try:
            yield loader.load_folder(folder)
        except Error as error:
            _refused(error, found, f"{folder.path / '__init__.py'}:1")
        except Exception as error:  # noqa: BLE001  constants of types that nobody thought of
            init = folder.path / "__init__.py"
            _refused(loader.fault(folder, init, error), found, f"{init}:1")


def _lint_steps(
    migrations: list[Migration],
    db: Readable | None,
    applied: Container[int],
    found: Findings,
    progress: OnProgress | None,
) -> None:
    schema, tables = log_pb2.Schema(), Tables()
    counts = {one.name: one.rows for one in db.status().tables} if db is not None else {}
    names, data, sound = Names(found), Data(db, progress), True
    made: Schema | None = None  # of the migration before
    for migration in migrations:
        folder = migration.folder
        before, text = schema, ProtoText(folder.model.read_text(encoding="utf-8"))
        step = Step(migration, text, tables, counts, found)
        lint_tables(step)
        _lint_beside(migration, found)
        names.lint(migration, text)
        tables = after(step)
        try:
            schema = loader.after(schema, migration)
        except SchemaError as error:
            if not found.has_error_in(folder.path):
                _refused(error, found, migration.where)
            # What follows is compared with what this one should have made.
            schema = evolve(log_pb2.Schema(), migration.version, tables.values())
        sound = sound and not found.has_error_in(folder.path)
        if db is None:
            lint_unchecked(step)
        if sound and folder.version not in applied:
            old = made if made is not None and made.proto is before else Schema(before)
            made = Schema(schema)
            data.lint(step, old, made)


def _lint_beside(migration: Migration, found: Findings) -> None:
    """That the files beside the constants have what is called in them; not what it does."""
    for name, expected in _BESIDE.items():
        file = migration.folder.path / f"{name}.py"
        if not file.exists() or not file.read_bytes().strip():  # a place for what is yet to come
            continue
        try:
            if not callable(
                getattr(loader.import_file(migration.folder, name), expected.split("(")[0], None)
            ):
                raise migration.folder.error(f"expected a function `{expected}`", file=file)
        except Error as error:
            where = error.facts.get("where") or f"{file}:1"
            found.add("load/beside", where, str(error).removeprefix(f"{where}: "))


def _lint_tests(newest: Migration, found: Findings) -> None:
    """Of the newest folder only: the older ones are not what is tested."""
    path = newest.folder.path
    if newest.tables and not (path / "testdata.py").exists():
        found.add("test/no-data", newest.where, f"migration {newest.title} has no testdata.py")
    if (newest.transforms or newest.up) and not (list(path.glob("test_*.py")) or (path / "tests").is_dir()):
        found.add("test/no-tests", newest.where, f"migration {newest.title} transforms rows, untested")


def _lint_load(source: Source, found: Findings) -> None:
    """What only loading everything shows, whatever it is."""
    try:
        loader.load(source)
    except SchemaError as error:
        _refused(error, found, "migrations:1")


def _refused(error: Exception, found: Findings, where: str) -> None:
    where = (error.facts.get("where") if isinstance(error, Error) else None) or where
    text = str(error).removeprefix(f"{where}: ")
    if Path(where).is_dir():
        where = f"{where}/__init__.py:1"
    found.add("load/refused", where, text)


def _applied(db: Database) -> dict[int, Applied]:
    return {
        version: Applied(life.title, life.digest, life.newest_sources, life)
        for version, life in lives(db.migration_records()).items()
    }
