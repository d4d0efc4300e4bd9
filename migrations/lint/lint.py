"""Lint: errors and risks of migrations that are not applied yet.

    folders, loaded one by one ─┬─ a folder that does not load           load/
                                ├─ history: database, clock              history/
                                └─ step by step from the previous one    wire/ json/ change/ loss/ name/
                                       └─ rows, in memory                data/
    findings ─▶ ignores ─▶ the remaining findings

Invariants
  (1) A package that `load` refuses has a finding of severity error.
  (2) A broken folder hides no finding of the others.

All rules: docs/lint.md.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from everlog.migrations import loader
from everlog.migrations.build import check_built
from everlog.migrations.folder import (
    SOURCE,
    Folder,
    Root,
    Source,
    compared_contents,
    find,
    folder_at,
    line_of,
)
from everlog.migrations.lint.data import Data, Readable, lint_unchecked
from everlog.migrations.lint.rules import Finding, Findings, Severity
from everlog.migrations.lint.source import ProtoText, set_aside_ignored
from everlog.migrations.lint.tables import Names, Step, Tables, after, lint_tables
from everlog.migrations.migration import Migration
from everlog.migrations.status import LoggedMigration, logged_migrations
from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.errors import Error, SchemaError
from everlog.store.progress import OnProgress
from everlog.store.schema.evolve import evolve
from everlog.store.schema.schema import Schema

_AHEAD = timedelta(days=1)  # clocks and time zones differ
_MIGRATION = re.compile(r"^MIGRATION\b", re.MULTILINE)

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
    """Return the findings about a package or directory of migrations, sorted by file and line.

    With a `db`, its rows are examined, and folders that it has applied are skipped. Folders of version
    `since` and older are skipped as well. `applied`: the migrations of a `db` on a server, by version. `now`:
    the time to compare timestamps with. With `ignored`, findings that comments ignore are included, with
    their reasons.

    Runs the folders' code; writes nothing. Raises SchemaError only if there is no package at all, because a
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
    set_aside_ignored(found, [folder.path for folder in folders if folder not in quiet])
    if not any(finding.severity is Severity.ERROR for finding in found.found):
        _lint_load(source, found)  # loading refuses ignored errors nevertheless
    return sorted([*found.found, *found.ignored] if ignored else found.found)


def data_errors(
    migrations: list[Migration],
    db: Readable,
    applied: Container[int],
    progress: OnProgress | None = None,
) -> list[Finding]:
    """Return the errors in data that would stop migrations, except those of `up` for single rows. Read-only.

    They come from the rows of a database and from bootstrap rows. Comments that ignore a rule have no effect.
    """
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
            fix = "give the one that is not applied yet a newer timestamp, in its name and its model.proto"
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
        except Exception as error:  # noqa: BLE001  constants may raise anything
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
    counts = {one.name: one.rows for one in db.admin.status().tables} if db is not None else {}
    names, data, sound = Names(found), Data(db, progress), True
    made: Schema | None = None  # of the previous migration
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
            # Later folders are compared with the schema that this one should have made.
            schema = evolve(log_pb2.Schema(), migration.version, tables.values())
        sound = sound and not found.has_error_in(folder.path)
        if db is None:
            lint_unchecked(step)
        if sound and folder.version not in applied:
            old = made if made is not None and made.proto is before else Schema(before)
            made = Schema(schema)
            data.lint(step, old, made)


def _lint_beside(migration: Migration, found: Findings) -> None:
    """Check that files beside the constants have the function that is called; it is not run."""
    for name, expected in _BESIDE.items():
        file = migration.folder.path / f"{name}.py"
        if not file.exists() or not file.read_bytes().strip():  # an empty placeholder
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
    """Check the newest folder only, because older ones are not what is tested."""
    path = newest.folder.path
    if newest.tables and not (path / "testdata.py").exists():
        found.add("test/no-data", newest.where, f"migration {newest.title} has no testdata.py")
    if (newest.transforms or newest.up) and not (list(path.glob("test_*.py")) or (path / "tests").is_dir()):
        found.add("test/no-tests", newest.where, f"migration {newest.title} transforms rows but has no tests")


def _lint_load(source: Source, found: Findings) -> None:
    """Report whatever only loading the whole package shows."""
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
        version: Applied(logged.title, logged.digest, logged.newest_sources, logged)
        for version, logged in logged_migrations(db.migration_records()).items()
    }


class Applied(NamedTuple):
    """A migration that a database has. `sources` are empty if only a server has them."""

    title: str
    digest: bytes
    sources: Sequence[log_pb2.SourceFile] = ()
    logged: LoggedMigration | None = None  # if known: includes accepted edits of the folder

    def matches(self, folder: Folder) -> bool:
        """Return whether a folder does the same as the one that ran. Read-only."""
        return (
            self.logged.matches(folder)
            if self.logged is not None
            else folder.is_as(self.digest, self.sources)
        )


def lint_applied(
    root: Root, folders: Sequence[Folder], applied: Mapping[int, Applied], found: Findings
) -> None:
    """Compare folders with the applied migrations of a database. Read-only."""
    newest = max(applied, default=0)
    for folder in folders:
        record = applied.get(folder.version)
        if record is None and folder.version < newest:
            text = f"migration {folder.title} is pending, but the newer {newest} is already applied"
            found.add("history/out-of-order", _init(folder), text)
        elif record is not None and not record.matches(folder):
            where, what = _difference(folder, record.sources)
            text = f"migration {folder.title} was edited after it was applied{what}"
            found.add("history/edited", where, text)
    known = {folder.version for folder in folders}
    for version, record in sorted(applied.items()):
        if version not in known and version < max(known, default=0):
            text = f"migration {record.title} is applied, but its folder is missing"
            found.add("history/missing", f"{root.path / '__init__.py'}:1", text)


def lint_times(folders: Iterable[Folder], now: datetime, found: Findings) -> None:
    """Report timestamps more than a day in the future. Read-only."""
    newest_first = int((now.astimezone(UTC) + _AHEAD).strftime("%Y%m%d%H%M%S"))
    for folder in folders:
        if folder.version > newest_first:
            text = (
                f"the timestamp of {folder.title} is in the future: migrations created until then would be"
                " out of order"
            )
            found.add("history/future", _init(folder), text)


def _difference(folder: Folder, sources: Iterable[log_pb2.SourceFile]) -> tuple[str, str]:
    """Return the place of the first line that differs from the log, and the names of the files that
    differ.
    """
    was, now = compared_contents(sources, folder)
    changed = [path for path in sorted(was.keys() | now.keys()) if was.get(path) != now.get(path)]
    if not was or not changed:
        return _init(folder), ""
    there = next((path for path in changed if path in now), None)
    if there is None:
        return _init(folder), f": {', '.join(changed)} is missing"
    before, after = was.get(there, b"").splitlines(), now[there].splitlines()
    same = next((at for at, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), None)
    line = min(len(before), len(after)) if same is None else same
    line = max(1, min(line + 1, len(after)))
    return f"{folder.path / there}:{line}", f": {', '.join(changed)}"


def _init(folder: Folder) -> str:
    """Return the place where the folder declares its migration."""
    file = folder.path / "__init__.py"
    text = file.read_text(encoding="utf-8", errors="replace")
    said = _MIGRATION.search(text)
    return f"{file}:{line_of(text, said.start()) if said else 1}"
