"""Squash: replace the folders of all migrations by one, after proving that it makes the same database.

    folders 1 … n ─▶ a new database ─┬─ schema, rows ─▶ folder n+1, a copy of n with all bootstrap rows
                                     └─ equal? ◀─────── a new database from that folder alone

The proof comes before anything is removed. A database that has migrations 1 … n records the new one with
`baseline`, which compares the schema again. A database that lacks some of them needs the old folders first,
from version control.

`.squash-…` beside the folders holds them while it runs. After a kill, the next squash reverts or ends it:

    .squash-…/started   names the directory of the folders, and the new folder
    .squash-…/folders   the old folders, until the proof   ─▶ they are moved back, the new folder is removed
    .squash-…/proven    the old folders, after it          ─▶ removed

Invariants
  (1) Schema and rows are equal, or no folder has changed.
  (2) One row of each database is in memory at a time.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import chain, zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from everlog.migrations.baseline import difference_of
from everlog.migrations.build import SUMS_FILE, build, write_sums
from everlog.migrations.folder import SOURCE, Root, Source, find, folders
from everlog.migrations.loader import load
from everlog.migrations.migration import Migration
from everlog.migrations.runner import apply
from everlog.migrations.scaffold import new
from everlog.migrations.status import MigrationInfo, State
from everlog.migrations.values import as_json
from everlog.store.database import Database
from everlog.store.errors import Error, MigrationError, quantity
from everlog.store.rocks.files import lock_directory
from everlog.store.schema.reflect import table_of

PREFIX, STARTED, ASIDE = ".squash-", "started", "folders"


class _Started(msgspec.Struct, frozen=True):
    """The directory of the folders, the new folder, and whether there was a file of sums."""

    root: str
    new: str
    summed: bool


class Squashed(msgspec.Struct, frozen=True):
    """The new folder, its version, and the names of the folders that it replaces."""

    path: Path
    version: int
    folded: list[str]


def squash(name: str, source: Source = SOURCE, *, now: datetime | None = None) -> Squashed:
    """Replace all migrations by a new one named `name`, and remove their folders.

    Runs their code, in temporary databases. Raises MigrationError if the newest does not declare every table,
    or if the new folder would not make the same database; then all folders are unchanged.
    """
    root = find(source)
    recover(source)
    old = load(source)
    if len(old) < 2:
        raise MigrationError(
            f"{root.path} has {quantity(len(old), 'migration')}, so there is nothing to squash"
        )
    with _scratch(root.path.parent) as scratch:
        aside = scratch / ASIDE
        aside.mkdir()
        with Database(scratch / "before") as before:
            apply(before, source)
            _check_whole(before, old[-1])
            summed = (root.path / SUMS_FILE).exists()
            path = new(name, source, now=now)
            try:
                note = _Started(root.path.name, path.name, summed)
                (scratch / STARTED).write_bytes(msgspec.json.encode(note))
                _write_rows(before, path)
                for migration in old:
                    shutil.move(migration.folder.path, aside / migration.folder.path.name)
                build(source)
                _prove(before, source, scratch / "after")
            except BaseException:
                shutil.rmtree(path)
                _revert(root, aside, summed=summed)
                raise
            aside.rename(scratch / "proven")  # from now on, a kill loses nothing but old folders
    version = folders(root)[-1].version
    return Squashed(path, version, [migration.folder.path.name for migration in old])


def recover(source: Source = SOURCE) -> None:
    """Complete or revert a squash of these folders that was killed. Writes to their directory.

    A squash that was killed before its proof is reverted. Raises MigrationError if one is running.
    """
    root = find(source)
    for scratch in sorted(root.path.parent.glob(f"{PREFIX}*")):
        try:
            note = msgspec.json.decode((scratch / STARTED).read_bytes(), type=_Started)
        except (OSError, msgspec.DecodeError):  # it had not touched any folder
            note = None
        if note is not None and note.root != root.path.name:
            continue
        try:
            descriptor = lock_directory(scratch)
        except BlockingIOError:
            if note is None:  # perhaps of other folders
                continue
            raise MigrationError(
                f"another squash of {root.path} is running; wait until it has ended"
            ) from None
        try:
            if note is not None and (scratch / ASIDE).exists():
                shutil.rmtree(root.path / note.new, ignore_errors=True)
                _revert(root, scratch / ASIDE, summed=note.summed)
            shutil.rmtree(scratch, ignore_errors=True)
        finally:
            os.close(descriptor)


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """Make a locked directory for the block."""
    with TemporaryDirectory(dir=parent, prefix=PREFIX) as path:
        descriptor = lock_directory(Path(path))
        try:
            yield Path(path)
        finally:
            os.close(descriptor)


def _revert(root: Root, aside: Path, *, summed: bool) -> None:
    """Move the old folders back."""
    for kept in aside.iterdir():
        shutil.move(kept, root.path / kept.name)
    if summed:
        write_sums(root, folders(root))
    else:
        (root.path / SUMS_FILE).unlink(missing_ok=True)


def check_applied(infos: Iterable[MigrationInfo], source: Source = SOURCE, *, where: str) -> None:
    """Raise MigrationError unless a database has applied all folders as they are now. Read-only.

    `infos` are its migrations, `where` its name. After a squash, it could not get the folders that it lacks.
    """
    known = {info.version: info for info in infos}
    lacks = []
    for folder in folders(find(source)):
        info = known.get(folder.version)
        if info is None or info.state is State.PENDING:
            lacks.append(f"{folder.title} is not applied")
        elif info.state is State.BUILDING:
            lacks.append(f"{folder.title} is in progress")
        elif info.state is State.EDITED or not folder.digests & {info.digest, info.folder_digest}:
            lacks.append(f"{folder.title} was edited after it was applied")
    if lacks:
        raise MigrationError(
            f"{where} could not continue from the squashed folder: {'; '.join(lacks)}. Bring it up to date"
            " with these folders first (`everlog up`); no folder was changed"
        )


def _check_whole(db: Database, newest: Migration) -> None:
    declared = {table.name for table in newest.tables}
    others = sorted(db.schema.tables.keys() - declared)
    if others:
        raise MigrationError(
            f"the newest migration, {newest.title}, does not declare {', '.join(others)}, which older ones"
            " do; create a new migration that declares every table (`everlog new`), then squash",
            version=newest.version,
        )


def _write_rows(db: Database, path: Path) -> None:
    """Write the rows of a new database: those of all bootstrap data, after all transforms."""
    for name in db.schema.tables:
        rows = _rows(db, name)
        first = next(rows, None)
        if first is not None:
            with (path / f"bootstrap_{name}.jsonl").open("wb") as file:
                for row in chain([first], rows):
                    file.write(msgspec.json.encode(row) + b"\n")


def _prove(before: Database, source: Source, path: Path) -> None:
    with Database(path) as after:
        try:
            apply(after, source)
        except Error as error:
            raise MigrationError(
                f"the squashed folder cannot be applied, so no folder was changed: {error}"
            ) from error
        diff = difference_of(before.schema, after.schema, "all folders", "the squashed folder")
        names = [] if diff else before.schema.tables
        unequal = [name for name in names if not _same_rows(before, after, name)]
        if diff or unequal:
            tables = "the schemas differ" if diff else f"the bootstrap rows of {', '.join(unequal)} differ"
            raise MigrationError(
                f"the squashed folder makes a different database: {tables}; no folder was changed\n{diff}"
            )


def _same_rows(one: Database, other: Database, name: str) -> bool:
    return all(row == its for row, its in zip_longest(_rows(one, name), _rows(other, name)))


def _rows(db: Database, name: str) -> Iterator[dict[str, Any]]:
    for row in db.scan(table_of(db.schema.table(name))):
        yield as_json(row, defaults=False)
