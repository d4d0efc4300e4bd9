"""Subject: one migration's folder as derived tests see it, with databases around its version."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from everlog.migrations import testdata
from everlog.migrations.folder import Folder
from everlog.migrations.migration import Migration
from everlog.migrations.testing_template import Templates
from everlog.store.database import Database
from everlog.store.errors import SchemaError
from everlog.store.temporary import in_memory


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
        made = in_memory("everlog-derived-")
        scale = self.scale if self.templates.has_testdata(version) else 0
        try:
            self.templates.clone(made.path, version, scale=scale, seed=self.seed)
            with Database(made.path, durability="os") as db:
                yield db
                problems = list(db.check())
        finally:
            made.remove()
        if problems:
            raise UntrueError(f"{self.folder.title}: " + "; ".join(problems))
