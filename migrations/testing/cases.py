"""Derived tests: properties of every migration's folder that are tested without any code by its author.

    constants_match_the_model    the folders load: models are built, constants match them, each
                                 can follow the previous one
    upgrades_with_data           it applies to the previous version with that version's test data
    testdata_loads               at its version, with the same rows for the same seed and valid references
    rebuild_equals_live          all tables rebuilt from the log equal the live ones
    down_leaves_no_trace         after a rollback, the rows are those of before
    up_down_up_equals_up         rolled back and applied again, the rows are those of applying once
    lint_is_clean                with the test data of the previous version

A test is a function of a `Subject` that returns, or raises `UntrueError` with a sentence (or the error of the
operation). `everlog.migrations.testing.collect` makes pytest items of them.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf import text_format
from google.protobuf.message import Message

from everlog.migrations import testdata
from everlog.migrations.bootstrap import bootstrap
from everlog.migrations.folder import Folder
from everlog.migrations.lint.lint import lint
from everlog.migrations.lint.rules import Severity
from everlog.migrations.migration import Key, Migration, Row, Transform
from everlog.migrations.rollback import plan_rollback, rollback
from everlog.migrations.runner import apply
from everlog.migrations.testing.template import Templates
from everlog.store.database import Database
from everlog.store.errors import MigrationError, SchemaError, quantity
from everlog.store.rocks.files import in_memory
from everlog.store.schema.reflect import table_of
from everlog.store.tables.hashing import TableHash


class UntrueError(AssertionError):
    """Raised when a property of a folder does not hold."""


class Skipped(Exception):  # noqa: N818  not an error
    """Raised when there is nothing to test, with the reason."""


class Subject(NamedTuple):
    """A migration's folder to test, and how much test data to use."""

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
        """The loaded migration. Raises Skipped if the folders do not load, because another test reports
        that.
        """
        try:
            migrations = self.templates.migrations
        except SchemaError as error:
            raise Skipped(f"the folders do not load: {error}") from error
        return next(one for one in migrations if one.version == self.version)

    @contextmanager
    def database(self, version: int) -> Iterator[Database]:
        """Open a database at a version, with its test data if it has some. It is checked at the end."""
        made = in_memory("everlog-derived-")
        scale = self.scale if self.templates.has_testdata(version) else 0
        try:
            self.templates.clone(made.path, version, scale=scale, seed=self.seed)
            with Database(made.path, durability="os") as db:
                yield db
                problems = list(db.admin.check())
        finally:
            made.remove()
        if problems:
            raise UntrueError(f"{self.folder.title}: " + "; ".join(problems))


def constants_match_the_model(subject: Subject) -> None:
    """The folders load. An error is raised for the folder that it belongs to, or for all if it belongs to
    none.
    """
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
    """The migration applies to the rows of the previous version."""
    migration = subject.migration
    with subject.database(subject.before) as db:
        apply(db, subject.templates.source, to=migration.version)
        if db.schema.version != migration.version:
            raise UntrueError(f"expected schema version {migration.version}, found {db.schema.version}")


def testdata_loads(subject: Subject) -> None:
    """Test data loads at its version, and depends on the seed alone."""
    migration = subject.migration
    if not subject.templates.has_testdata(migration.version):
        raise Skipped("it has no testdata.py")
    with subject.database(migration.version):
        pass  # loads and checks it
    first, again = _made(subject, migration), _made(subject, migration)
    if first == again:
        return
    at = next((at for at, (one, other) in enumerate(zip(first, again, strict=False)) if one != other), None)
    what = f"their numbers of rows, {len(first):,} and {len(again):,}"
    if at is not None:
        what = f"row {at + 1:,}, of {first[at][0]}"
    raise UntrueError(
        f"{migration.folder.path / 'testdata.py'}: two runs with seed {subject.seed} differ in {what}; use"
        " `random` for everything random, and no clock, set order or state of an earlier run"
    )


def rebuild_equals_live(subject: Subject) -> None:
    """A rebuild from the log alone gives the same tables."""
    migration = subject.migration
    with subject.database(subject.before) as db:
        apply(db, subject.templates.source, to=migration.version)
        if subject.templates.has_testdata(migration.version):
            testdata.load_testdata(db, subject.templates.source, scale=subject.scale, seed=subject.seed)
        db.admin.rebuild()


def down_leaves_no_trace(subject: Subject) -> None:
    """A rollback restores the previous rows.

    Bootstrap rows stay with their tables, and a dropped table returns empty: those are not compared.
    Rewritten rows are converted back by `down`, while both versions are served if that is possible.
    """
    migration = subject.migration
    left_out = {*migration.drop, *(table.name for table, _ in _bootstrap(migration))}
    left_out -= {*(migration.down.names if migration.down else ())}
    with subject.database(subject.before) as db:
        was = db.admin.hashes()
        _up(subject, db, hold=True)
        _down(subject, db)
        now = db.admin.hashes()
    _same(subject, was, now, "after it was rolled back", left_out)


def up_down_up_equals_up(subject: Subject) -> None:
    """The migration can be applied again after a rollback, with the same result.

    A row that goes up, down and up again equals one that went up once.
    """
    migration = subject.migration
    with subject.database(subject.before) as db:
        for name, transform in migration.transforms.items():
            _there_and_back(migration, name, transform, db)
        _up(subject, db, hold=False)
        once = db.admin.hashes()
        _down(subject, db)
        _up(subject, db, hold=False)
        again = db.admin.hashes()
    _same(subject, once, again, "applied again after it was rolled back")


def lint_is_clean(subject: Subject) -> None:
    """Lint finds no error in the folder. In the newest, which may still be changed, it finds no warning
    either.
    """
    newest = subject.migration.version == subject.templates.versions[-1]
    fails = {Severity.ERROR, Severity.WARNING} if newest else {Severity.ERROR}
    with subject.database(subject.before) as db:
        found = [
            f"{finding.file}:{finding.line}: {finding.severity}: {finding.text} [{finding.id}]"
            for finding in lint(subject.templates.source, db)
            if finding.severity in fails and Path(finding.file).is_relative_to(subject.folder.path.resolve())
        ]
    if found:
        raise UntrueError("\n".join(found))


DERIVED: dict[str, Callable[[Subject], None]] = {
    test.__name__: test
    for test in (
        constants_match_the_model,
        upgrades_with_data,
        testdata_loads,
        rebuild_equals_live,
        down_leaves_no_trace,
        up_down_up_equals_up,
        lint_is_clean,
    )
}


def _up(subject: Subject, db: Database, *, hold: bool) -> None:
    migration = subject.migration
    if hold and any(one.down is None for one in migration.transforms.values()):
        raise Skipped("a transform has no `down`, so it cannot be rolled back")
    hold = hold and bool(migration.transforms) and migration.up is None
    apply(db, subject.templates.source, to=migration.version, hold=hold)


def _there_and_back(migration: Migration, name: str, transform: Transform[Any, Any], db: Database) -> None:
    up, down = transform.up, transform.down
    if down is None:
        raise Skipped(f"the transform of {name} has no `down`, so it cannot be rolled back")
    was = {new: old for old, new in migration.rename.items()}.get(name, name)
    for row in db.scan(table_of(db.schema.table(was))):
        once = up(transform.old.FromString(row.SerializePartialToString()))
        again = up(down(once))
        if once != again:
            raise UntrueError(
                f"{transform.where}: a row of {name} differs after up, down and up: expected"
                f" {_shown(once)}, found {_shown(again)}"
            )


def _shown(row: Message) -> str:
    return f"{text_format.MessageToString(row, as_one_line=True):.200}"


def _down(subject: Subject, db: Database) -> None:
    try:
        plan_rollback(db, source=subject.templates.source)
    except MigrationError as error:
        raise Skipped(str(error)) from error
    rollback(db, source=subject.templates.source)


def _bootstrap(migration: Migration) -> list[Row | Key]:
    rows = bootstrap(migration)
    return [*rows, *rows.deleted]


def _same(
    subject: Subject,
    expected: dict[str, TableHash],
    found: dict[str, TableHash],
    when: str,
    left_out: Container[str] = (),
) -> None:
    for name in sorted(expected.keys() | found.keys()):
        one, other = expected.get(name), found.get(name)
        if one != other and name not in left_out:
            rows = [quantity(side.rows, "row") if side else "no table" for side in (one, other)]
            raise UntrueError(
                f"{subject.folder.title}: table {name} differs {when}: expected {rows[0]}, found {rows[1]}"
                f"{', with other values' if rows[0] == rows[1] else ''}"
            )


def _made(subject: Subject, migration: Migration) -> list[tuple[str, int]]:
    """Return the rows of one run: the table of each, and a hash of its bytes."""
    made = testdata.rows(migration, scale=subject.scale, seed=subject.seed)
    return [(table.name, hash(row.SerializeToString(deterministic=True))) for table, row in made]
