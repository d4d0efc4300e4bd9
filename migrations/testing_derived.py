"""Derived tests: what must be true of every migration's folder, with no line written by its author.

    constants_match_the_model    the folders load: models are built, constants are theirs, each
                                 can follow the one before
    upgrades_with_data           it is applied to the version before with that one's test data
    testdata_loads               at its version, the same rows for the same seed, references kept
    rebuild_equals_live          all tables made again from the log are those that are live

A test is a function that returns, or raises `UntrueError` with a sentence (or the error of what it
did). `everlog.migrations.testing_collect` makes them items of pytest.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from everlog.migrations import testdata
from everlog.migrations.folder import Folder
from everlog.migrations.migration import Migration
from everlog.migrations.runner import apply
from everlog.migrations.testing_template import Templates, scratch
from everlog.store.database import Database
from everlog.store.errors import SchemaError


class UntrueError(AssertionError):
    """Raised when what must be true of a folder is not."""


class Skipped(Exception):  # noqa: N818  it is no error
    """Raised when there is nothing to be tested, with the reason."""


class Subject(NamedTuple):
    """A migration's folder, and how much test data it is tested with."""

    templates: Templates
    folder: Folder
    scale: int = testdata.SCALE
    seed: int = testdata.SEED

    @property
    def version(self) -> int:
        return self.folder.version

    @property
    def before(self) -> int:
        versions = self.templates.versions
        return versions[versions.index(self.version) - 1]

    @property
    def migration(self) -> Migration:
        """Raises Skipped if the folders do not load, which is another test's failure."""
        try:
            migrations = self.templates.migrations
        except SchemaError as error:
            raise Skipped(f"the folders do not load: {error}") from error
        return next(one for one in migrations if one.version == self.version)

    @contextmanager
    def database(self, version: int) -> Iterator[Database]:
        """A database at a version, with its test data if it has some. At the end it is checked."""
        directory = scratch("everlog-derived-")
        scale = self.scale if self.templates.has_testdata(version) else 0
        try:
            self.templates.clone(directory, version, scale=scale, seed=self.seed)
            with Database(directory, durability="os") as db:
                yield db
                problems = list(db.check())
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        if problems:
            raise UntrueError(f"{self.folder.title}: " + "; ".join(problems))


def constants_match_the_model(subject: Subject) -> None:
    """Raises the SchemaError of loading, in the folder that it is of; in all, if it is of none."""
    try:
        _ = subject.templates.migrations
    except SchemaError as error:
        where = Path(str(error.facts.get("where", "")).rpartition(":")[0])
        root = subject.folder.path.parent
        elsewhere = where.is_relative_to(root) and not where.is_relative_to(subject.folder.path)
        if elsewhere and where.parent != root:
            raise Skipped(f"another folder does not load: {error}") from error
        raise


def upgrades_with_data(subject: Subject) -> None:
    """That the migration goes over the rows of the version before it."""
    migration = subject.migration
    with subject.database(subject.before) as db:
        apply(db, subject.templates.source, to=migration.version)
        if db.schema.version != migration.version:
            raise UntrueError(f"expected schema version {migration.version}, found {db.schema.version}")


def testdata_loads(subject: Subject) -> None:
    """That test data loads at its version, and is made of the seed alone."""
    migration = subject.migration
    if not subject.templates.has_testdata(migration.version):
        raise Skipped("it has no testdata.py")
    with subject.database(migration.version):
        pass  # loaded, and checked
    first, again = _made(subject, migration), _made(subject, migration)
    if first == again:
        return
    at = next((at for at, (one, other) in enumerate(zip(first, again, strict=False)) if one != other), None)
    what = f"their numbers of rows, {len(first):,} and {len(again):,}"
    if at is not None:
        what = f"row {at + 1:,}, of {first[at][0]}"
    raise UntrueError(
        f"{migration.folder.path / 'testdata.py'}: two runs with seed {subject.seed} differ in {what}; take"
        " all chance from `random`, and nothing from a clock, a set or what an earlier run left"
    )


def rebuild_equals_live(subject: Subject) -> None:
    """That the log alone makes the same tables, of a database that came all the way to here."""
    migration = subject.migration
    with subject.database(subject.before) as db:
        apply(db, subject.templates.source, to=migration.version)
        if subject.templates.has_testdata(migration.version):
            testdata.load_testdata(db, subject.templates.source, scale=subject.scale, seed=subject.seed)
        db.rebuild()


DERIVED: dict[str, Callable[[Subject], None]] = {
    test.__name__: test
    for test in (constants_match_the_model, upgrades_with_data, testdata_loads, rebuild_equals_live)
}


def _made(subject: Subject, migration: Migration) -> list[tuple[str, int]]:
    """The rows of one run: the table of each, and what its bytes come to."""
    made = testdata.rows(migration, scale=subject.scale, seed=subject.seed)
    return [(table.name, hash(row.SerializeToString(deterministic=True))) for table, row in made]
